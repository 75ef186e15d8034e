//! Access rules as tokens and services write them.
//!
//! Either by what they grant, where a denial goes before a grant:
//!
//! ```json
//! {"publish": ["telemetry/%c/#"], "subscribe": ["commands/%c"], "all": ["chat/#"], "deny": ["chat/secret"]}
//! ```
//!
//! or one by one, where the first that matches decides (as EMQX has it):
//!
//! ```json
//! [{"permission": "deny", "action": "all", "topic": "chat/secret"}, {"permission": "allow", "action": "publish", "topic": "chat/#"}]
//! ```
//!
//! `%c` and `%u` (or `${clientid}` and `${username}`) stand for the client's names.

use std::sync::Arc;

use midge_auth::{Access, GrantedRights, Rule};
use midge_topic::{TopicFilter, TopicLimits};
use serde_json::Value;

/// Rules of one client, at most.
const RULES_MAX: usize = 1000;
/// Roles of one client, at most.
const ROLES_MAX: usize = 64;

/// Rules that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadRules;

/// What was said about a client's rights. `None`: nothing.
pub(crate) fn rights(
    acl: Option<&Value>,
    roles: Option<&Value>,
    superuser: bool,
) -> Result<Option<Arc<GrantedRights>>, BadRules> {
    let limited = acl.is_some() || roles.is_some();
    if !limited && !superuser {
        return Ok(None);
    }
    let rules = match acl {
        None => Vec::new(),
        Some(Value::Object(lists)) => {
            let mut rules = Vec::new();
            for (key, list) in lists {
                let access = match key.as_str() {
                    "publish" | "pub" => Access::Write,
                    "subscribe" | "sub" => Access::Read,
                    "all" => Access::ReadWrite,
                    "deny" => Access::Deny,
                    _ => return Err(BadRules),
                };
                for filter in texts(list)? {
                    rules.push((access, filter));
                }
            }
            rules.sort_by_key(|(access, _)| *access != Access::Deny);
            rules
        }
        Some(Value::Array(list)) => {
            let mut rules = Vec::new();
            for rule in list {
                one(rule, &mut rules)?;
            }
            rules
        }
        Some(_) => return Err(BadRules),
    };
    if rules.len() > RULES_MAX {
        return Err(BadRules);
    }
    let rules =
        rules.into_iter().enumerate().map(|(index, (access, text))| rule(access, text, index + 1));
    let roles = roles.map(texts).transpose()?.unwrap_or_default();
    if roles.len() > ROLES_MAX {
        return Err(BadRules);
    }
    Ok(Some(Arc::new(GrantedRights {
        rules: rules.collect::<Result<_, _>>()?,
        roles: roles.into_iter().map(Into::into).collect(),
        superuser,
        limited,
    })))
}

/// `{"permission": "allow", "action": "publish", "topic": "a"}`; more keys would narrow it, and are not understood.
fn one<'v>(value: &'v Value, rules: &mut Vec<(Access, &'v str)>) -> Result<(), BadRules> {
    let Value::Object(fields) = value else { return Err(BadRules) };
    let (mut allow, mut action, mut topics) = (None, "all", None);
    for (key, value) in fields {
        match key.as_str() {
            "permission" => allow = value.as_str(),
            "action" => action = value.as_str().ok_or(BadRules)?,
            "topic" | "topics" => topics = Some(texts(value)?),
            _ => return Err(BadRules),
        }
    }
    let access = match (allow, action) {
        (Some("allow"), "publish") => Access::Write,
        (Some("allow"), "subscribe") => Access::Read,
        (Some("allow"), "all") => Access::ReadWrite,
        (Some("deny"), "all") => Access::Deny,
        // To deny one and not the other is to grant, in this order, what may be: there is no such rule here.
        _ => return Err(BadRules),
    };
    rules.extend(topics.ok_or(BadRules)?.into_iter().map(|topic| (access, topic)));
    Ok(())
}

fn texts(value: &Value) -> Result<Vec<&str>, BadRules> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => list.iter().map(|text| text.as_str().ok_or(BadRules)).collect(),
        _ => Err(BadRules),
    }
}

fn rule(access: Access, filter: &str, line: usize) -> Result<Rule, BadRules> {
    let filter = filter.replace("${clientid}", "%c").replace("${username}", "%u");
    let limits = TopicLimits { levels_max: u16::MAX, size_max: u16::MAX };
    TopicFilter::parse(&filter, &limits).map_err(|_| BadRules)?;
    let pattern = filter.contains("%c") || filter.contains("%u");
    Ok(Rule { access, filter: filter.into(), pattern, line })
}

#[cfg(test)]
mod tests {
    use midge_auth::Rights;
    use serde_json::json;

    use super::*;

    fn of(acl: &Value) -> Rights {
        let granted = rights(Some(acl), None, false).unwrap().unwrap();
        Rights::of_login(&granted, Some("anna"), "c1")
    }

    #[test]
    fn lists_grant_and_deny() {
        let rights = of(&json!({
            "publish": ["telemetry/%c/#", "u/${username}"],
            "sub": "commands/${clientid}",
            "all": ["chat/#"],
            "deny": ["chat/secret"],
        }));
        for (topic, write, read) in [
            ("telemetry/c1/x", true, false),
            ("telemetry/c2/x", false, false),
            ("u/anna", true, false),
            ("commands/c1", false, true),
            ("chat/x", true, true),
            ("chat/secret", false, false),
        ] {
            assert_eq!(rights.may_write(topic).allowed, write, "{topic}");
            assert_eq!(rights.may_read(topic).allowed, read, "{topic}");
        }
    }

    #[test]
    fn rules_one_by_one_keep_their_order() {
        let rights = of(&json!([
            {"permission": "allow", "action": "publish", "topic": "a/b"},
            {"permission": "deny", "action": "all", "topics": ["a/#"]},
            {"permission": "allow", "topic": "#"},
        ]));
        assert!(rights.may_write("a/b").allowed);
        assert!(!rights.may_read("a/b").allowed);
        assert!(rights.may_read("b").allowed);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for acl in [
            json!("a"),
            json!(null),
            json!({"publsh": ["a"]}),
            json!({"publish": [1]}),
            json!({"publish": ["a/#/b"]}),
            json!([{"permission": "allow", "action": "publish"}]),
            json!([{"permission": "perhaps", "topic": "a"}]),
            json!([{"permission": "allow", "topic": "a", "qos": [1]}]),
            json!([{"permission": "deny", "action": "publish", "topic": "a"}]),
            json!({"publish": vec!["a"; RULES_MAX + 1]}),
        ] {
            assert_eq!(rights(Some(&acl), None, false), Err(BadRules), "{acl}");
        }
        assert_eq!(rights(None, Some(&json!(7)), false), Err(BadRules));
        assert_eq!(rights(None, None, false), Ok(None));
    }
}
