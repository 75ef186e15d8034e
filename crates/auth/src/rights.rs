//! What one client may do.
//!
//! The rules that came with its login are asked first (from a token, or from a service), in their order; then those of the
//! file: the client's own (those of its user name, or those for clients without one), those of its roles, the patterns.
//! In each of those three, denials come before grants. The first rule that matches decides:
//!
//! | matching rule | to publish | to receive |
//! |---|---|---|
//! | `deny` | denied | denied |
//! | `readwrite` | granted | granted |
//! | `write` | granted | goes on |
//! | `read` | goes on | granted |
//! | none | denied | denied |
//!
//! So a grant among the own rules stands against a denial among the roles and the patterns; that is how mosquitto reads these files.
//!
//! # Names are not trusted
//! A client whose id or user name contains `+` or `#` matches no pattern: with such a name it would fill in a wildcard.
//! A name that begins with `$` does not open the topics of the broker either: what a pattern grants below `$` it must
//! say itself.
//!
//! # Subscriptions
//! A subscription is granted when any message that it asks for might be received, and refused when none can. What is
//! then delivered is asked for each message ([`Rights::may_read`]): a filter that is wider than the right receives what
//! is allowed.

use std::fmt;
use std::sync::Arc;

use midge_topic::{TopicFilter, TopicLimits, TopicName, matches};

/// What a rule says about topics that match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Neither publish nor receive.
    Deny,
    /// Receive.
    Read,
    /// Publish.
    Write,
    /// Both.
    ReadWrite,
}

/// One rule: a line of the file, or a part of what a token or a service said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it says.
    pub access: Access,
    /// About which topics; a pattern's `%c` and `%u` are still in it.
    pub filter: Box<str>,
    /// Whether `%c` and `%u` stand for the client's names.
    pub pattern: bool,
    /// Where it stands: the line of the file, or the place among the rules that came with a login; counted from 1.
    pub line: usize,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.pattern { "pattern" } else { "topic" };
        let access = match self.access {
            Access::Deny => "deny",
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "readwrite",
        };
        write!(formatter, "{word} {access} {}", self.filter)
    }
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// No rule matched.
    NoRule,
    /// This line of the file.
    File(usize),
    /// This one of the rules that came with the login.
    Login(usize),
    /// The client may do everything.
    Superuser,
}

/// An answer, and what gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub allowed: bool,
    /// What decided.
    pub source: Source,
}

impl Decision {
    const NO_RULE: Self = Self { allowed: false, source: Source::NoRule };
    const SUPERUSER: Self = Self { allowed: true, source: Source::Superuser };

    /// The deciding line of the file, if one decided.
    #[must_use]
    pub fn line(self) -> Option<usize> {
        match self.source {
            Source::File(line) => Some(line),
            _ => None,
        }
    }
}

/// What came with a login: from the token, or from the service that was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantedRights {
    /// Asked before the file's, in this order.
    pub rules: Arc<[Rule]>,
    /// Roles of the file. One that the file has not gives nothing.
    pub roles: Box<[Box<str>]>,
    /// It may do everything that clients may.
    pub superuser: bool,
    /// It may do what `rules` and `roles` say and nothing more, also where there is no file.
    pub limited: bool,
}

/// The rules for one client.
#[derive(Debug, Clone)]
pub struct Rights {
    granted: Option<Arc<GrantedRights>>,
    own: Arc<[Rule]>,
    roles: Arc<[Rule]>,
    patterns: Arc<[Rule]>,
    user: Option<Box<str>>,
    client_id: Box<str>,
    /// Its names would fill in wildcards.
    dangerous: bool,
}

/// Those of the file that are for one client.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileRules {
    pub(crate) own: Arc<[Rule]>,
    pub(crate) roles: Arc<[Rule]>,
    pub(crate) patterns: Arc<[Rule]>,
}

/// Bounds of what is compared here: the packet's own are tighter.
const LIMITS: TopicLimits = TopicLimits { levels_max: u16::MAX, size_max: u16::MAX };

impl Rights {
    pub(crate) fn new(
        granted: Option<Arc<GrantedRights>>,
        file: FileRules,
        user: Option<&str>,
        client_id: &str,
    ) -> Self {
        let wild = |name: &str| name.contains(['+', '#']);
        let dangerous = wild(client_id) || user.is_some_and(wild);
        let FileRules { own, roles, patterns } = file;
        let (user, client_id) = (user.map(Into::into), client_id.into());
        Self { granted, own, roles, patterns, user, client_id, dangerous }
    }

    /// Where there is no file: what came with the login is all there is.
    #[must_use]
    pub fn of_login(granted: &Arc<GrantedRights>, user: Option<&str>, client_id: &str) -> Self {
        Self::new(Some(Arc::clone(granted)), FileRules::default(), user, client_id)
    }

    /// The rules in the order in which they are asked, and whether each came with the login.
    fn rules(&self) -> impl Iterator<Item = (&Rule, bool)> {
        let granted = self.granted.iter().flat_map(|granted| granted.rules.iter());
        let file = self.own.iter().chain(self.roles.iter()).chain(self.patterns.iter());
        let rules = granted.map(|rule| (rule, true)).chain(file.map(|rule| (rule, false)));
        rules.filter(|(rule, _)| !(rule.pattern && self.dangerous))
    }

    fn is_superuser(&self) -> bool {
        self.granted.as_ref().is_some_and(|granted| granted.superuser)
    }

    /// The text of the rule that decided.
    #[must_use]
    pub fn rule(&self, decision: Decision) -> Option<&Rule> {
        let (line, login) = match decision.source {
            Source::File(line) => (line, false),
            Source::Login(line) => (line, true),
            Source::NoRule | Source::Superuser => return None,
        };
        let mut rules = self.rules();
        rules.find(|(rule, came)| rule.line == line && *came == login).map(|(rule, _)| rule)
    }

    /// Whether it may publish to this topic. Allocates when there are patterns.
    #[must_use]
    pub fn may_write(&self, topic: &str) -> Decision {
        self.decide(topic, Access::Write)
    }

    /// Whether it may receive a message of this topic.
    #[must_use]
    pub fn may_read(&self, topic: &str) -> Decision {
        self.decide(topic, Access::Read)
    }

    fn decide(&self, topic: &str, wanted: Access) -> Decision {
        let Ok(topic) = TopicName::parse(topic, &LIMITS) else { return Decision::NO_RULE };
        if self.is_superuser() {
            return Decision::SUPERUSER;
        }
        let mut filled = String::new();
        for (rule, login) in self.rules() {
            if topic.is_dollar() && !rule.filter.starts_with('$') {
                continue;
            }
            let filter = match rule.pattern {
                false => &*rule.filter,
                true => match self.fill_in(&rule.filter, &mut filled) {
                    Some(()) => filled.as_str(),
                    None => continue,
                },
            };
            let Ok(filter) = TopicFilter::parse(filter, &LIMITS) else { continue };
            if !matches(filter, topic) {
                continue;
            }
            match rule.access {
                Access::Deny => return decided(false, rule, login),
                access if access == wanted || access == Access::ReadWrite => {
                    return decided(true, rule, login);
                }
                _ => {}
            }
        }
        Decision::NO_RULE
    }

    /// Whether any message that `filter` asks for might be received. `filter` is what stands behind `$share/NAME/`, if
    /// anything does.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> Decision {
        if self.is_superuser() {
            return Decision::SUPERUSER;
        }
        let mut filled = String::new();
        for (rule, login) in self.rules() {
            let said = match rule.pattern {
                false => &*rule.filter,
                true => match self.fill_in(&rule.filter, &mut filled) {
                    Some(()) => filled.as_str(),
                    None => continue,
                },
            };
            if filter.starts_with('$') && !rule.filter.starts_with('$') {
                continue;
            }
            match rule.access {
                Access::Deny if covers(said, filter) => return decided(false, rule, login),
                Access::Read | Access::ReadWrite if overlap(said, filter) => {
                    return decided(true, rule, login);
                }
                _ => {}
            }
        }
        Decision::NO_RULE
    }

    /// Writes the pattern with this client's names into `filled`; `None` when it asks for a name that there is not.
    fn fill_in(&self, pattern: &str, filled: &mut String) -> Option<()> {
        filled.clear();
        let mut rest = pattern;
        while let Some(at) = rest.find('%') {
            let name = match rest.as_bytes().get(at + 1) {
                Some(b'c') => &*self.client_id,
                Some(b'u') => self.user.as_deref()?,
                _ => {
                    filled.push_str(&rest[..=at]);
                    rest = &rest[at + 1..];
                    continue;
                }
            };
            filled.push_str(&rest[..at]);
            filled.push_str(name);
            rest = &rest[at + 2..];
        }
        filled.push_str(rest);
        Some(())
    }
}

fn decided(allowed: bool, rule: &Rule, login: bool) -> Decision {
    let source = if login { Source::Login(rule.line) } else { Source::File(rule.line) };
    Decision { allowed, source }
}

/// Whether some topic matches both filters.
fn overlap(one: &str, other: &str) -> bool {
    let hidden = |wild: &str, dollar: &str| wild.starts_with(['+', '#']) && dollar.starts_with('$');
    if hidden(one, other) || hidden(other, one) {
        return false;
    }
    let (mut ones, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Whether every topic that matches `inner` matches `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    if outer.starts_with(['+', '#']) && inner.starts_with('$') {
        return false;
    }
    let (mut outers, mut inners) = (outer.split('/'), inner.split('/'));
    loop {
        match (outers.next(), inners.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(inner)) if inner != "#" => {}
            (Some(outer), Some(inner)) if outer == inner => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AccessRules;

    const FILE: &str = "\
topic read news/#
topic write in/anonymous

user anna
topic anna/#
topic deny anna/secret
topic write log
topic read $SYS/broker/#

pattern readwrite devices/%c/#
pattern read users/%u/inbox
pattern deny devices/%c/locked
pattern read mixed-%c/x
";

    fn check(user: Option<&str>, client_id: &str, topic: &str, write: bool, read: bool) {
        let rights = AccessRules::parse(FILE).unwrap().rights(user, client_id, None);
        assert_eq!(rights.may_write(topic).allowed, write, "{user:?} {client_id} writes {topic}");
        assert_eq!(rights.may_read(topic).allowed, read, "{user:?} {client_id} reads {topic}");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        check(None, "c", "news/today", false, true);
        check(None, "c", "in/anonymous", true, false);
        check(None, "c", "anna/x", false, false);
        check(Some("anna"), "c", "anna/x", true, true);
        check(Some("anna"), "c", "anna", true, true);
        check(Some("anna"), "c", "anna/secret", false, false);
        check(Some("anna"), "c", "log", true, false);
        check(Some("anna"), "c", "news/today", false, false);
        check(Some("ben"), "c", "news/today", false, false);
        check(Some("ben"), "c7", "devices/c7/x", true, true);
        check(Some("ben"), "c7", "devices/c7/locked", false, false);
        check(Some("ben"), "c7", "devices/c8/x", false, false);
        check(Some("ben"), "c7", "users/ben/inbox", false, true);
        check(None, "c7", "users//inbox", false, false);
        check(Some("ben"), "c7", "mixed-c7/x", false, true);
    }

    #[test]
    fn topics_of_the_broker_are_granted_by_name_only() {
        check(Some("anna"), "c", "$SYS/broker/uptime", false, true);
        check(Some("ben"), "c", "$SYS/broker/uptime", false, false);
        let rules = AccessRules::parse("topic #\npattern %c/#\n").unwrap();
        assert!(!rules.rights(None, "$SYS", None).may_read("$SYS/broker/uptime").allowed);
    }

    /// A client id that is a wildcard opens nothing (as in CVE-2017-7650).
    #[test]
    fn names_that_are_wildcards_match_no_pattern() {
        for (user, client_id) in [(None, "#"), (None, "+"), (Some("+"), "c"), (Some("a#"), "c")] {
            let rights = AccessRules::parse(FILE).unwrap().rights(user, client_id, None);
            for topic in ["devices/other/x", "devices/#/x", "users/ben/inbox", "mixed-c/x"] {
                assert!(!rights.may_read(topic).allowed, "{user:?} {client_id} {topic}");
                assert!(!rights.may_write(topic).allowed, "{user:?} {client_id} {topic}");
            }
            assert!(!rights.may_subscribe("devices/+/x").allowed);
        }
    }

    #[test]
    fn an_empty_file_grants_nothing() {
        let rights = AccessRules::parse("").unwrap().rights(Some("anna"), "c", None);
        assert_eq!(rights.may_read("a"), Decision::NO_RULE);
        assert!(!rights.may_subscribe("#").allowed);
    }

    #[test]
    fn subscriptions_are_granted_where_something_may_come() {
        let rules = AccessRules::parse(FILE).unwrap();
        let anna = rules.rights(Some("anna"), "c", None);
        for (filter, expected) in [
            ("#", true),
            ("anna/#", true),
            ("anna/+", true),
            ("anna/secret", false),
            ("log", false),
            ("+/secret", true),
            ("devices/c/#", true),
            ("devices/c/locked", false),
            ("devices/+/x", true),
            ("devices/d/#", false),
            ("users/anna/inbox", true),
            ("$SYS/#", true),
            ("$SYS/other", false),
            ("$other/#", false),
        ] {
            assert_eq!(anna.may_subscribe(filter).allowed, expected, "{filter}");
        }
    }

    /// Against the definition: two filters overlap when one of all short topics matches both, and one covers the
    /// other when each topic of the other is one of its own.
    #[test]
    fn overlap_and_cover_are_what_they_say() {
        let levels = ["a", "b", ""];
        let mut topics = Vec::new();
        let mut filters = vec!["#".to_owned()];
        for first in levels {
            topics.push(first.to_owned());
            for second in levels {
                topics.push(format!("{first}/{second}"));
                topics.push(format!("{first}/{second}/a"));
            }
        }
        for first in ["a", "b", "+"] {
            filters.push(first.to_owned());
            for second in ["a", "+", "#"] {
                filters.push(format!("{first}/{second}"));
                if second != "#" {
                    filters.push(format!("{first}/{second}/#"));
                }
            }
        }
        topics.retain(|topic| !topic.is_empty());
        let is_in = |filter: &str, topic: &str| {
            matches(
                TopicFilter::parse(filter, &LIMITS).unwrap(),
                TopicName::parse(topic, &LIMITS).unwrap(),
            )
        };
        for one in &filters {
            for other in &filters {
                let both = topics.iter().any(|topic| is_in(one, topic) && is_in(other, topic));
                assert_eq!(overlap(one, other), both, "{one} {other}");
                let all = topics.iter().all(|topic| !is_in(other, topic) || is_in(one, topic));
                if covers(one, other) {
                    assert!(all, "{one} covers {other}");
                }
            }
        }
    }

    #[test]
    fn the_deciding_line_is_told() {
        let rights = AccessRules::parse(FILE).unwrap().rights(Some("anna"), "c", None);
        for (topic, line) in
            [("anna/secret", Some(6)), ("anna/x", Some(5)), ("devices/c/x", Some(10)), ("x", None)]
        {
            assert_eq!(rights.may_read(topic).line(), line, "{topic}");
        }
    }

    fn login(rules: &[(Access, &str)], more: GrantedRights) -> Option<Arc<GrantedRights>> {
        let rule = |(index, (access, filter)): (usize, &(Access, &str))| Rule {
            access: *access,
            filter: (*filter).into(),
            pattern: true,
            line: index + 1,
        };
        Some(Arc::new(GrantedRights {
            rules: rules.iter().enumerate().map(rule).collect(),
            ..more
        }))
    }

    /// What came with the login goes before the file, in its own order, and with the client's names filled in.
    #[test]
    fn rules_of_the_login_are_asked_first() {
        let granted = login(
            &[(Access::Read, "x/%c/#"), (Access::Deny, "x/#"), (Access::Write, "anna/secret")],
            GrantedRights::default(),
        );
        let rights = AccessRules::parse(FILE).unwrap().rights(Some("anna"), "c", granted.as_ref());
        for (topic, write, read) in [
            ("x/c/1", false, true),
            ("x/d/1", false, false),
            ("anna/secret", true, false),
            ("anna/x", true, true),
        ] {
            assert_eq!(rights.may_write(topic).allowed, write, "writes {topic}");
            assert_eq!(rights.may_read(topic).allowed, read, "reads {topic}");
        }
        let decision = rights.may_read("x/d/1");
        assert_eq!(decision.source, Source::Login(2));
        assert_eq!(rights.rule(decision).unwrap().to_string(), "pattern deny x/#");
        let alone = Rights::of_login(&granted.unwrap(), Some("anna"), "c");
        assert!(alone.may_read("x/c/1").allowed);
        assert_eq!(alone.may_read("anna/x"), Decision::NO_RULE);
        assert!(alone.may_subscribe("x/+/1").allowed);
        assert!(!alone.may_subscribe("y/#").allowed);
    }

    #[test]
    fn a_superuser_may_do_everything() {
        let granted = login(&[], GrantedRights { superuser: true, ..GrantedRights::default() });
        let rights = AccessRules::parse(FILE).unwrap().rights(Some("anna"), "c", granted.as_ref());
        assert!(rights.may_write("anna/secret").allowed);
        assert!(rights.may_subscribe("$SYS/#").allowed);
        assert_eq!(rights.may_read("x").source, Source::Superuser);
    }

    const ROLES: &str = "\
role sensor
topic write telemetry
pattern readwrite devices/%c/#
topic deny devices/c1/secret
role reader
topic read #
user anna
roles sensor reader
topic deny news
user ben
roles reader
topic read a
";

    #[test]
    fn roles_give_their_rules() {
        let rules = AccessRules::parse(ROLES).unwrap();
        let granted = |roles: &[&str]| {
            let roles = roles.iter().map(|role| (*role).into()).collect();
            login(&[], GrantedRights { roles, ..GrantedRights::default() })
        };
        for (user, roles, topic, write, read) in [
            (Some("anna"), &[][..], "telemetry", true, true),
            (Some("anna"), &[], "devices/c1/x", true, true),
            (Some("anna"), &[], "devices/c2/x", false, true),
            // A denial in one role goes before a grant in another; one among the own rules before both.
            (Some("anna"), &[], "devices/c1/secret", false, false),
            (Some("anna"), &[], "news", false, false),
            (Some("ben"), &[], "telemetry", false, true),
            (Some("carl"), &[], "telemetry", false, false),
            (None, &[], "x", false, false),
            (Some("carl"), &["sensor"], "telemetry", true, false),
            (None, &["reader"], "x", false, true),
            // Roles that nobody has written down give nothing.
            (Some("carl"), &["admin"], "telemetry", false, false),
        ] {
            let rights = rules.rights(user, "c1", granted(roles).as_ref());
            assert_eq!(rights.may_write(topic).allowed, write, "{user:?} writes {topic}");
            assert_eq!(rights.may_read(topic).allowed, read, "{user:?} reads {topic}");
        }
        let rights = rules.rights(Some("anna"), "c1", None);
        let decision = rights.may_write("devices/c1/secret");
        assert_eq!(decision.line(), Some(4));
        assert_eq!(rights.rule(decision).unwrap().to_string(), "topic deny devices/c1/secret");
    }
}
