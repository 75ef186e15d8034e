//! Two configurations, key by key.

use std::{collections::BTreeMap, fmt};

use midge_config::Config;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A setting that is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Its key; a listener is called by its name: `listeners[NAME].tls.key`.
    pub(crate) key: String,
    /// What is in force.
    pub(crate) from: String,
    /// What the file says.
    pub(crate) to: String,
    /// A running broker cannot take it over.
    pub(crate) needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.from, self.to)?;
        if self.needs_restart {
            write!(f, " (needs a restart)")?;
        }
        Ok(())
    }
}

/// What stands where a setting is not there.
const NONE: &str = "none";

/// What stands for a value that nobody should read in a log.
const HIDDEN: &str = "(not shown)";

/// What differs between the settings in force and the wanted ones. `next` is in force from now on: where it is not as wanted,
/// a restart is needed.
pub(crate) fn between(current: &Config, wanted: &Config, next: &Config) -> Vec<Change> {
    let (current, wanted, next) = (leaves(current), leaves(wanted), leaves(next));
    let keys = current.keys().chain(wanted.keys().filter(|key| !current.contains_key(*key)));
    let mut changes: Vec<Change> = keys
        .filter(|key| current.get(*key) != wanted.get(*key))
        .map(|key| {
            let show = |value: Option<&String>| match value {
                Some(_) if is_secret(key) => HIDDEN.to_owned(),
                value => value.cloned().unwrap_or_else(|| NONE.into()),
            };
            Change {
                key: key.clone(),
                from: show(current.get(key)),
                to: show(wanted.get(key)),
                needs_restart: next.get(key) != wanted.get(key),
            }
        })
        .collect();
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    collapse(changes)
}

/// A listener that comes or goes is one change, not one for each of its keys.
fn collapse(changes: Vec<Change>) -> Vec<Change> {
    let whole: Vec<String> = changes
        .iter()
        .filter(|change| change.from == NONE || change.to == NONE)
        .filter_map(|change| change.key.strip_suffix("].address").map(|start| format!("{start}]")))
        .filter(|start| start.starts_with("listeners["))
        .collect();
    let of_whole = |key: &str| whole.iter().find(|start| key.starts_with(start.as_str()));
    changes
        .into_iter()
        .filter_map(|change| match of_whole(&change.key) {
            None => Some(change),
            Some(start) if change.key.ends_with("].address") => {
                Some(Change { key: start.clone(), ..change })
            }
            Some(_) => None,
        })
        .collect()
}

/// Every setting by its key, as a person would write it.
fn leaves(config: &Config) -> BTreeMap<String, String> {
    let mut tree = serde_json::to_value(config).unwrap_or_default();
    // A listener is what it is called, not at which place it stands.
    if let Some(listeners) = tree.get_mut("listeners") {
        let named = config.listeners.iter().map(midge_config::Listener::label);
        let values = listeners.as_array().cloned().unwrap_or_default();
        *listeners = Value::Object(
            named.zip(values).map(|(name, value)| (format!("[{name}]"), value)).collect(),
        );
    }
    let mut leaves = BTreeMap::new();
    gather("", &tree, &mut leaves);
    leaves
}

fn gather(key: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if key.is_empty() || name.starts_with('[') { "" } else { "." };
                gather(&format!("{key}{dot}{name}"), value, leaves);
            }
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for (place, value) in values.iter().enumerate() {
                gather(&format!("{key}[{place}]"), value, leaves);
            }
        }
        Value::Null => {}
        Value::String(text) => _ = leaves.insert(key.into(), text.clone()),
        value => _ = leaves.insert(key.into(), value.to_string()),
    }
}

/// Files with secrets are named, secrets are not.
fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["secret", "password", "token"]
        .iter()
        .any(|word| name == *word || name.ends_with(&format!("_{word}")))
}

#[cfg(test)]
mod tests {
    use midge_config::{Auto, Period};

    use super::*;

    fn listener(address: &str) -> midge_config::Listener {
        midge_config::Listener::new(address.parse().expect("an address"))
    }

    fn texts(changes: &[Change]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_differs_is_named_and_what_waits_is_marked() {
        let current = Config::default();
        let mut wanted = current.clone();
        wanted.limits.queued_messages_max = 5;
        wanted.limits.connect_timeout = Period::from_seconds(3);
        wanted.security.acl_file = Some("acl".into());
        wanted.shards = Auto::Value(7);
        let next = Config { shards: Auto::Auto, ..wanted.clone() };
        assert_eq!(
            texts(&between(&current, &wanted, &next)),
            [
                "limits.connect_timeout: 8s → 3s",
                "limits.queued_messages_max: 1000 → 5",
                "security.acl_file: none → acl",
                "shards: auto → 7 (needs a restart)",
            ]
        );
        assert_eq!(between(&current, &current, &current), []);
    }

    #[test]
    fn listeners_come_go_and_change_by_name() {
        let listeners = vec![listener("127.0.0.1:1"), listener("127.0.0.1:2")];
        let current = Config { listeners, ..Config::default() };
        let mut wanted = current.clone();
        wanted.listeners = vec![listener("127.0.0.1:3"), listener("127.0.0.1:2")];
        wanted.listeners[1].backlog = 7;
        assert_eq!(
            texts(&between(&current, &wanted, &wanted)),
            [
                "listeners[127.0.0.1:1]: 127.0.0.1:1 → none",
                "listeners[127.0.0.1:2].backlog: 4096 → 7",
                "listeners[127.0.0.1:3]: none → 127.0.0.1:3",
            ]
        );
        // Another order is no difference.
        wanted.listeners = vec![listener("127.0.0.1:2"), listener("127.0.0.1:1")];
        assert_eq!(between(&current, &wanted, &wanted), []);
    }

    #[test]
    fn secrets_do_not_show() {
        for (key, expected) in [
            ("security.jwt.secret", true),
            ("a.client_secret", true),
            ("security.password_file", false),
            ("security.password_threads", false),
        ] {
            assert_eq!(is_secret(key), expected, "{key}");
        }
    }
}
