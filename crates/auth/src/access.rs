//! The rules of an ACL file, in mosquitto's syntax.
//!
//! ```text
//! # Before the first `user` line: clients without a user name.
//! topic read news/#
//!
//! user anna
//! topic readwrite anna/#
//! topic deny anna/secret
//!
//! # For everybody, wherever it stands (but for roles): %c is the client id, %u the user name.
//! pattern readwrite devices/%c/#
//!
//! # Beyond mosquitto: rules with a name, and who has them. Patterns of a role are for those alone.
//! role operator
//! topic read #
//! user ben
//! roles operator
//! ```
//!
//! The access word is `read`, `write`, `readwrite` or `deny`; without one it is `readwrite`, and then the filter has no
//! spaces. How the rules decide is told in [`crate::rights`].

use std::collections::HashMap;
use std::sync::Arc;

use midge_topic::{TopicFilter, TopicLimits};

use crate::error::FileError;
use crate::rights::{Access, FileRules, GrantedRights, Rights, Rule};

/// Who may do what, before it is known who asks.
#[derive(Debug, Clone, Default)]
pub struct AccessRules {
    anonymous: Owner,
    users: HashMap<Box<str>, Owner>,
    roles: HashMap<Box<str>, Arc<[Rule]>>,
    patterns: Arc<[Rule]>,
    /// What the file is called.
    file: Option<Arc<str>>,
}

/// What one user has, or those without a name.
#[derive(Debug, Clone, Default)]
struct Owner {
    rules: Arc<[Rule]>,
    roles: Box<[Box<str>]>,
}

/// The same while it is read; where each role was named.
#[derive(Default)]
struct Draft {
    rules: Vec<Rule>,
    roles: Vec<(Box<str>, usize)>,
}

impl Draft {
    fn finish(self, known: &HashMap<Box<str>, Vec<Rule>>) -> Result<Owner, FileError> {
        for (role, line) in &self.roles {
            if !known.contains_key(role) {
                return Err(FileError { line: *line, message: "there is no role of this name" });
            }
        }
        let roles = self.roles.into_iter().map(|(role, _)| role).collect();
        Ok(Owner { rules: denials_first(self.rules), roles })
    }
}

/// Whose lines are read.
enum Section {
    Anonymous,
    User(Box<str>),
    Role(Box<str>),
}

impl AccessRules {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The first line that cannot be used; nothing of the file is then.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let mut anonymous = Draft::default();
        let mut users: HashMap<Box<str>, Draft> = HashMap::new();
        let mut roles: HashMap<Box<str>, Vec<Rule>> = HashMap::new();
        let mut patterns = Vec::new();
        let mut section = Section::Anonymous;
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            let error = |message| FileError { line, message };
            if content.starts_with('#') {
                continue;
            }
            let content = content.trim_end().trim_start_matches(' ');
            let Some((word, rest)) = split_word(content) else { continue };
            match (word, &section) {
                ("user", _) => {
                    let name = rest.trim();
                    if name.is_empty() {
                        return Err(error("there is no name behind `user`"));
                    }
                    section = Section::User(name.into());
                    users.entry(name.into()).or_default();
                }
                ("role", _) => {
                    let name = rest.trim();
                    if name.is_empty() || name.contains(' ') {
                        return Err(error("there is not one word behind `role`"));
                    }
                    if roles.insert(name.into(), Vec::new()).is_some() {
                        return Err(error("this role stands in an earlier line already"));
                    }
                    section = Section::Role(name.into());
                }
                ("roles", Section::Role(_)) => {
                    return Err(error("a role has no roles; name them below a user"));
                }
                ("roles", owner) => {
                    let owner = match owner {
                        Section::User(name) => users.entry(name.clone()).or_default(),
                        _ => &mut anonymous,
                    };
                    let names = rest.split(' ').filter(|name| !name.is_empty());
                    owner.roles.extend(names.map(|name| (name.into(), line)));
                    if rest.trim().is_empty() {
                        return Err(error("there is no name behind `roles`"));
                    }
                }
                ("topic" | "pattern", owner) => {
                    let rule = parse_rule(rest, word == "pattern", line).map_err(error)?;
                    match owner {
                        Section::Role(name) => roles.entry(name.clone()).or_default().push(rule),
                        _ if rule.pattern => patterns.push(rule),
                        Section::User(name) => {
                            users.entry(name.clone()).or_default().rules.push(rule);
                        }
                        Section::Anonymous => anonymous.rules.push(rule),
                    }
                }
                _ => {
                    let message =
                        "a line begins with `topic`, `pattern`, `user`, `role`, `roles` or #";
                    return Err(error(message));
                }
            }
        }
        let anonymous = anonymous.finish(&roles)?;
        let finished = users.into_iter().map(|(name, draft)| Ok((name, draft.finish(&roles)?)));
        Ok(Self {
            anonymous,
            users: finished.collect::<Result<_, FileError>>()?,
            roles: roles.into_iter().map(|(name, rules)| (name, denials_first(rules))).collect(),
            patterns: denials_first(patterns),
            file: None,
        })
    }

    /// The same, of a file with this name.
    #[must_use]
    pub fn named(self, file: &str) -> Self {
        Self { file: Some(file.into()), ..self }
    }

    /// What the file is called, if that is known.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<str>> {
        self.file.as_ref()
    }

    /// What a client may do that says it is `user` (and has proved it) and has this id; `granted` came with its login.
    #[must_use]
    pub fn rights(
        &self,
        user: Option<&str>,
        client_id: &str,
        granted: Option<&Arc<GrantedRights>>,
    ) -> Rights {
        let owner = match user {
            None => Some(&self.anonymous),
            Some(name) => self.users.get(name),
        };
        let named = owner.into_iter().flat_map(|owner| owner.roles.iter());
        let granted_roles = granted.into_iter().flat_map(|granted| granted.roles.iter());
        let mut roles = named.chain(granted_roles).filter_map(|role| self.roles.get(role));
        let roles = match (roles.next(), roles.next()) {
            (None, _) => Arc::default(),
            (Some(only), None) => Arc::clone(only),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(roles);
                denials_first(all.flat_map(|rules| rules.iter().cloned()).collect())
            }
        };
        let own = owner.map(|owner| Arc::clone(&owner.rules)).unwrap_or_default();
        let file = FileRules { own, roles, patterns: Arc::clone(&self.patterns) };
        Rights::new(granted.cloned(), file, user, client_id)
    }
}

/// The first word, and what stands behind the spaces that follow it.
fn split_word(text: &str) -> Option<(&str, &str)> {
    if text.is_empty() {
        return None;
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some((word, rest.trim_start_matches(' ')))
}

fn parse_rule(text: &str, pattern: bool, line: usize) -> Result<Rule, &'static str> {
    let (first, rest) = split_word(text).ok_or("there is no topic")?;
    let rest = rest.trim();
    let (access, filter) = if rest.is_empty() {
        (Access::ReadWrite, first)
    } else {
        let access = match first {
            "read" => Access::Read,
            "write" => Access::Write,
            "readwrite" => Access::ReadWrite,
            "deny" => Access::Deny,
            _ => return Err("the access is none of read, write, readwrite and deny"),
        };
        (access, rest)
    };
    if TopicFilter::parse(filter, &TopicLimits { levels_max: u16::MAX, size_max: u16::MAX })
        .is_err()
    {
        return Err(
            "this is no topic filter: # stands alone in the last level, + alone in a level",
        );
    }
    Ok(Rule { access, filter: filter.into(), pattern, line })
}

/// Denials are asked before grants; among themselves each kind keeps its order.
fn denials_first(mut rules: Vec<Rule>) -> Arc<[Rule]> {
    rules.sort_by_key(|rule| rule.access != Access::Deny);
    rules.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named_and_refuses_the_file() {
        for (text, line, reason) in [
            ("topic a\nuser\n", 2, "no name"),
            ("user   \n", 1, "no name"),
            ("topic\n", 1, "no topic"),
            ("\n\npattern \n", 3, "no topic"),
            ("topic foo bar", 1, "none of read"),
            ("topic read a/#/b", 1, "no topic filter"),
            ("topic a+b", 1, "no topic filter"),
            ("tropic a", 1, "begins with"),
            ("  user\n", 1, "no name"),
            ("role\n", 1, "one word"),
            ("role a b\n", 1, "one word"),
            ("role a\nrole a\n", 2, "already"),
            ("role a\nroles b\n", 2, "has no roles"),
            ("role a\nuser anna\nroles a b\n", 3, "no role of this name"),
            ("roles\n", 1, "no name"),
        ] {
            let error = AccessRules::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(error.message.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn spaces_and_comments_are_as_people_write_them() {
        let text = "# a comment\n\n  topic   read   a b/c  \nuser anna  b \ntopic read\n";
        let rules = AccessRules::parse(text).unwrap();
        let nobody = rules.rights(None, "x", None);
        assert!(nobody.may_read("a b/c").allowed);
        assert!(!nobody.may_write("a b/c").allowed);
        // `topic read` alone is the topic named read.
        assert!(rules.rights(Some("anna  b"), "x", None).may_write("read").allowed);
    }
}
