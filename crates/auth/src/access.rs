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
//! # For everybody, wherever it stands: %c is the client id, %u the user name.
//! pattern readwrite devices/%c/#
//! ```
//!
//! The access word is `read`, `write`, `readwrite` or `deny`; without one it is `readwrite`, and then the filter has no
//! spaces. How the rules decide is told in [`crate::rights`].

use std::collections::HashMap;
use std::sync::Arc;

use midge_topic::{TopicFilter, TopicLimits};

use crate::error::FileError;
use crate::rights::{Access, Rights, Rule};

/// Who may do what, before it is known who asks.
#[derive(Debug, Clone, Default)]
pub struct AccessRules {
    anonymous: Arc<[Rule]>,
    users: HashMap<Box<str>, Arc<[Rule]>>,
    patterns: Arc<[Rule]>,
}

impl AccessRules {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The first line that cannot be used; nothing of the file is then.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let mut anonymous = Vec::new();
        let mut users: HashMap<Box<str>, Vec<Rule>> = HashMap::new();
        let mut patterns = Vec::new();
        let mut user: Option<Box<str>> = None;
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            let error = |message| FileError { line, message };
            if content.starts_with('#') {
                continue;
            }
            let content = content.trim_end().trim_start_matches(' ');
            let Some((word, rest)) = split_word(content) else { continue };
            match word {
                "user" => {
                    let name = rest.trim();
                    if name.is_empty() {
                        return Err(error("there is no name behind `user`"));
                    }
                    user = Some(name.into());
                    users.entry(name.into()).or_default();
                }
                "topic" | "pattern" => {
                    let rule = parse_rule(rest, line).map_err(error)?;
                    match (&user, word) {
                        (_, "pattern") => patterns.push(rule),
                        (Some(name), _) => users.entry(name.clone()).or_default().push(rule),
                        (None, _) => anonymous.push(rule),
                    }
                }
                _ => return Err(error("a line begins with `topic`, `pattern`, `user` or #")),
            }
        }
        Ok(Self {
            anonymous: denials_first(anonymous),
            users: users.into_iter().map(|(name, rules)| (name, denials_first(rules))).collect(),
            patterns: denials_first(patterns),
        })
    }

    /// What a client may do that says it is `user` (and has proved it) and has this id.
    #[must_use]
    pub fn rights(&self, user: Option<&str>, client_id: &str) -> Rights {
        let own = match user {
            None => Some(&self.anonymous),
            Some(name) => self.users.get(name),
        };
        Rights::new(own.cloned().unwrap_or_default(), Arc::clone(&self.patterns), user, client_id)
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

fn parse_rule(text: &str, line: usize) -> Result<Rule, &'static str> {
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
    Ok(Rule { access, filter: filter.into(), line })
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
        let nobody = rules.rights(None, "x");
        assert!(nobody.may_read("a b/c").allowed);
        assert!(!nobody.may_write("a b/c").allowed);
        // `topic read` alone is the topic named read.
        assert!(rules.rights(Some("anna  b"), "x").may_write("read").allowed);
    }
}
