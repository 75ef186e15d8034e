//! Scenario files: several groups at once, in YAML.
//!
//! ```yaml
//! groups:
//!   - name: telemetry
//!     shape: all            # pairs, all, shared, idle
//!     publishers: 500
//!     subscribers: 2
//!     topic: telemetry
//!     qos: 1
//!     payload_bytes: 200
//!     rate: 2000            # messages per second of the group; without it: closed loop
//!     inflight: 16          # closed loop: messages under way per publisher
//!     retain: false
//! ```
//!
//! What a group leaves out is taken from the flags. `duration` and the like are flags only: one file, many runs.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::arguments::{Field, check_group};
use crate::scenario::{GROUPS_MAX, Group, Shape};

/// The largest scenario file, bytes.
const FILE_SIZE_MAX: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    groups: Vec<GroupEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupEntry {
    name: String,
    shape: ShapeName,
    publishers: Option<u32>,
    subscribers: Option<u32>,
    topic: Option<String>,
    qos: Option<u8>,
    retain: Option<bool>,
    payload_bytes: Option<usize>,
    inflight: Option<u32>,
    rate: Option<f64>,
    subscribe: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ShapeName {
    Idle,
    Pairs,
    All,
    Shared,
}

/// Reads the groups of a scenario file; `defaults` is what they leave out.
///
/// # Errors
/// One sentence with the file, and line and column or group and key.
pub(crate) fn read(file: &Path, defaults: &Group) -> Result<Vec<Group>, String> {
    let name = file.display();
    let size = fs::metadata(file).map_err(|error| format!("{name}: {error}"))?.len();
    if size > FILE_SIZE_MAX {
        return Err(format!("{name}: {size} bytes; a scenario has at most {FILE_SIZE_MAX}"));
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    parse(&text, defaults).map_err(|error| format!("{name}: {error}"))
}

fn parse(text: &str, defaults: &Group) -> Result<Vec<Group>, String> {
    let file: ScenarioFile = serde_saphyr::from_str(text).map_err(|error| {
        // The reader's text may go on with a picture of the place; the first line says it.
        error.to_string().lines().next().unwrap_or_default().to_owned()
    })?;
    if !(1..=GROUPS_MAX).contains(&file.groups.len()) {
        return Err(format!("groups: from 1 to {GROUPS_MAX}"));
    }
    file.groups.into_iter().map(|entry| resolve(entry, defaults)).collect()
}

fn resolve(entry: GroupEntry, defaults: &Group) -> Result<Group, String> {
    let shape = match entry.shape {
        ShapeName::Idle => Shape::Idle,
        ShapeName::Pairs => Shape::Pairs,
        ShapeName::All => Shape::All,
        ShapeName::Shared => Shape::Shared,
    };
    let idle = shape == Shape::Idle;
    let publishers = entry.publishers.unwrap_or(if idle { 0 } else { defaults.publishers });
    let subscribers = match (entry.subscribers, shape) {
        (Some(subscribers), _) => subscribers,
        (None, Shape::Pairs) => publishers,
        (None, _) => defaults.subscribers,
    };
    let group = Group {
        topic: entry.topic.unwrap_or_else(|| format!("{}/{}", defaults.topic, entry.name)),
        shape,
        publishers,
        subscribers,
        qos: entry.qos.unwrap_or(defaults.qos),
        retain: entry.retain.unwrap_or(defaults.retain),
        payload_size: entry.payload_bytes.unwrap_or(defaults.payload_size),
        inflight: entry.inflight.unwrap_or(defaults.inflight),
        rate: entry.rate.or(defaults.rate),
        subscribe: entry.subscribe.unwrap_or(defaults.subscribe),
        name: entry.name,
    };
    if group.qos > 2 {
        return Err(format!("group {}: qos: 0, 1 or 2", group.name));
    }
    check_group(&group).map_err(|(field, reason)| {
        let key = match field {
            Field::Publishers => "publishers",
            Field::Subscribers => "subscribers",
            Field::Topic => "topic",
            Field::PayloadSize => "payload_bytes",
            Field::Inflight => "inflight",
            Field::Rate => "rate",
        };
        format!("group {}: {key}: {reason}", group.name)
    })?;
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::tests::group;

    #[test]
    fn groups_take_the_rest_from_the_flags() {
        let text = "
groups:
  - name: telemetry
    shape: all
    publishers: 500
    subscribers: 2
    qos: 1
    rate: 2000
  - name: commands
    shape: pairs
    publishers: 10
    topic: c/x
  - name: sleepers
    shape: idle
    subscribers: 7
";
        let defaults = Group { payload_size: 99, ..group(Shape::Pairs, 3, 3) };
        let groups = parse(text, &defaults).expect("valid");
        let [telemetry, commands, sleepers] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((telemetry.shape, telemetry.qos, telemetry.rate), (Shape::All, 1, Some(2000.0)));
        assert_eq!((telemetry.topic.as_str(), telemetry.payload_size), ("t/telemetry", 99));
        assert_eq!((commands.publishers, commands.subscribers), (10, 10));
        assert_eq!(commands.topic, "c/x");
        assert_eq!((sleepers.publishers, sleepers.subscribers), (0, 7));
    }

    #[test]
    fn the_example_is_a_scenario() {
        let text = include_str!("../../../bench/scenarios/site.yaml");
        let groups = parse(text, &group(Shape::Pairs, 3, 3)).expect("valid");
        assert_eq!(groups.len(), 5);
    }

    #[test]
    fn mistakes_name_the_place() {
        let cases = [
            ("groups: []", "groups: from 1"),
            ("groups:\n  - name: a\n    shape: pairs\n    qso: 1", "line 4"),
            ("groups:\n  - name: a\n    shape: ring", "line 3"),
            ("groups:\n  - name: a\n    shape: pairs\n    qos: 3", "group a: qos"),
            ("groups:\n  - name: a\n    shape: pairs\n    payload_bytes: 3", "payload_bytes"),
            ("groups:\n  - name: a\n    shape: idle\n    publishers: 3", "publishers"),
            ("groups:\n  - name: a\n    shape: pairs\n    topic: x/+", "topic"),
            ("groups: [", "line"),
        ];
        for (text, place) in cases {
            let error = parse(text, &group(Shape::Pairs, 3, 3)).expect_err(text);
            assert!(error.contains(place), "{text:?}: {error}");
        }
    }
}
