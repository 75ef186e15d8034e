//! What one client may do.
//!
//! The client's own rules are asked first (those of its user name, or those for clients without one), then the patterns.
//! In each of the two, denials come before grants, and the first rule that matches decides:
//!
//! | matching rule | to publish | to receive |
//! |---|---|---|
//! | `deny` | denied | denied |
//! | `readwrite` | granted | granted |
//! | `write` | granted | goes on |
//! | `read` | goes on | granted |
//! | none | denied | denied |
//!
//! So a grant among the own rules stands against a denial among the patterns; that is how mosquitto reads these files.
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

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it says.
    pub access: Access,
    /// About which topics; a pattern's `%c` and `%u` are still in it.
    pub filter: Box<str>,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// An answer, and the line that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub allowed: bool,
    /// The deciding line; `None` when no rule matched.
    pub line: Option<usize>,
}

impl Decision {
    const NO_RULE: Self = Self { allowed: false, line: None };
}

/// The rules for one client.
#[derive(Debug, Clone)]
pub struct Rights {
    own: Arc<[Rule]>,
    patterns: Arc<[Rule]>,
    user: Option<Box<str>>,
    client_id: Box<str>,
    /// Its names would fill in wildcards.
    dangerous: bool,
}

/// Bounds of what is compared here: the packet's own are tighter.
const LIMITS: TopicLimits = TopicLimits { levels_max: u16::MAX, size_max: u16::MAX };

impl Rights {
    pub(crate) fn new(
        own: Arc<[Rule]>,
        patterns: Arc<[Rule]>,
        user: Option<&str>,
        client_id: &str,
    ) -> Self {
        let wild = |name: &str| name.contains(['+', '#']);
        let dangerous = wild(client_id) || user.is_some_and(wild);
        Self { own, patterns, user: user.map(Into::into), client_id: client_id.into(), dangerous }
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
        let own = self.own.iter().map(|rule| (rule, None));
        let mut filled = String::new();
        for (rule, pattern) in own.chain(self.usable_patterns().map(|rule| (rule, Some(())))) {
            if topic.is_dollar() && !rule.filter.starts_with('$') {
                continue;
            }
            let filter = match pattern {
                None => &*rule.filter,
                Some(()) => match self.fill_in(&rule.filter, &mut filled) {
                    Some(()) => filled.as_str(),
                    None => continue,
                },
            };
            let Ok(filter) = TopicFilter::parse(filter, &LIMITS) else { continue };
            if !matches(filter, topic) {
                continue;
            }
            match rule.access {
                Access::Deny => return Decision { allowed: false, line: Some(rule.line) },
                access if access == wanted || access == Access::ReadWrite => {
                    return Decision { allowed: true, line: Some(rule.line) };
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
        let mut filled = String::new();
        let own = self.own.iter().map(|rule| (rule, None));
        for (rule, pattern) in own.chain(self.usable_patterns().map(|rule| (rule, Some(())))) {
            let said = match pattern {
                None => &*rule.filter,
                Some(()) => match self.fill_in(&rule.filter, &mut filled) {
                    Some(()) => filled.as_str(),
                    None => continue,
                },
            };
            if filter.starts_with('$') && !rule.filter.starts_with('$') {
                continue;
            }
            match rule.access {
                Access::Deny if covers(said, filter) => {
                    return Decision { allowed: false, line: Some(rule.line) };
                }
                Access::Read | Access::ReadWrite if overlap(said, filter) => {
                    return Decision { allowed: true, line: Some(rule.line) };
                }
                _ => {}
            }
        }
        Decision::NO_RULE
    }

    fn usable_patterns(&self) -> impl Iterator<Item = &Rule> {
        self.patterns.iter().filter(|_| !self.dangerous)
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
        let rights = AccessRules::parse(FILE).unwrap().rights(user, client_id);
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
        assert!(!rules.rights(None, "$SYS").may_read("$SYS/broker/uptime").allowed);
    }

    /// A client id that is a wildcard opens nothing (as in CVE-2017-7650).
    #[test]
    fn names_that_are_wildcards_match_no_pattern() {
        for (user, client_id) in [(None, "#"), (None, "+"), (Some("+"), "c"), (Some("a#"), "c")] {
            let rights = AccessRules::parse(FILE).unwrap().rights(user, client_id);
            for topic in ["devices/other/x", "devices/#/x", "users/ben/inbox", "mixed-c/x"] {
                assert!(!rights.may_read(topic).allowed, "{user:?} {client_id} {topic}");
                assert!(!rights.may_write(topic).allowed, "{user:?} {client_id} {topic}");
            }
            assert!(!rights.may_subscribe("devices/+/x").allowed);
        }
    }

    #[test]
    fn an_empty_file_grants_nothing() {
        let rights = AccessRules::parse("").unwrap().rights(Some("anna"), "c");
        assert_eq!(rights.may_read("a"), Decision::NO_RULE);
        assert!(!rights.may_subscribe("#").allowed);
    }

    #[test]
    fn subscriptions_are_granted_where_something_may_come() {
        let rules = AccessRules::parse(FILE).unwrap();
        let anna = rules.rights(Some("anna"), "c");
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
        let rights = AccessRules::parse(FILE).unwrap().rights(Some("anna"), "c");
        for (topic, line) in
            [("anna/secret", Some(6)), ("anna/x", Some(5)), ("devices/c/x", Some(10)), ("x", None)]
        {
            assert_eq!(rights.may_read(topic).line, line, "{topic}");
        }
    }
}
