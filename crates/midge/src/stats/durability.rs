//! How what is kept is: in words and as an object.

use std::fmt::Write;

use midge_metrics::Reading;
use midge_services::Ailments;
use serde_json::{Value, json};

/// Damaged places that the table names; the object names all.
const PLACES_MAX: usize = 10;

/// Lines for the head of the table; nothing when nothing is kept. `kept` is what the broker says about its data
/// directory.
pub(super) fn words(kept: &Value, reading: &Reading) -> String {
    let mut text = String::new();
    if let (Some(directory), Some(level)) =
        (kept["directory"].as_str(), kept["acknowledge_after"].as_str())
    {
        _ = writeln!(text, "kept in {directory}, acknowledged after {level}");
        for (list, word, key) in
            [("listeners", "listener", "listener"), ("topics", "topics", "prefix")]
        {
            for one in kept[list].as_array().into_iter().flatten() {
                let (what, level) = (one[key].as_str(), one["acknowledge_after"].as_str());
                let (what, level) = (what.unwrap_or_default(), level.unwrap_or_default());
                _ = writeln!(text, "  {word} {what}: after {level}");
            }
        }
    }
    let ailments = Ailments::of(reading);
    for sentence in ailments.iter() {
        _ = writeln!(text, "degraded: {sentence}");
    }
    let places = kept["damage"].as_array().map_or(&[][..], Vec::as_slice);
    for place in places.iter().take(PLACES_MAX) {
        _ = writeln!(text, "  {}", place["sentence"].as_str().unwrap_or_default());
    }
    if let more @ 1.. = places.len().saturating_sub(PLACES_MAX) {
        _ = writeln!(text, "  and {more} more (--json)");
    }
    text
}

/// The same as an object; `null` when nothing is kept.
pub(super) fn object(kept: &Value, reading: &Reading) -> Value {
    let Value::Object(mut object) = kept.clone() else { return Value::Null };
    let ailments = Ailments::of(reading);
    let state = if ailments.is_empty() { "healthy" } else { "degraded" };
    object.insert("state".to_owned(), state.into());
    object.insert("problems".to_owned(), json!(ailments.iter().collect::<Vec<_>>()));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use midge_metrics::{LogCondition, ShardReading};

    use super::*;

    #[test]
    fn words_and_object_say_the_same() {
        let mut shard = ShardReading::default();
        shard.counters.logs_by_condition_now[LogCondition::Healthy as usize] = 1;
        let mut reading = Reading { shards: vec![shard] };
        assert_eq!(words(&Value::Null, &reading), "");
        assert_eq!(object(&Value::Null, &reading), Value::Null);
        let mut kept = json!({"directory": "/d", "acknowledge_after": "fsync", "damage": []});
        assert_eq!(words(&kept, &reading), "kept in /d, acknowledged after fsync\n");
        assert_eq!(object(&kept, &reading)["state"], "healthy");
        kept["listeners"] = json!([{"listener": "tls", "acknowledge_after": "memory"}]);
        kept["topics"] = json!([{"prefix": "site/", "acknowledge_after": "written"}]);
        let text = words(&kept, &reading);
        assert!(
            text.ends_with("  listener tls: after memory\n  topics site/: after written\n"),
            "{text}"
        );

        reading.shards[0].counters.logs_by_condition_now = [0, 1, 0];
        reading.shards[0].counters.log_damage_now = 12;
        kept["damage"] =
            json!((0..12).map(|n| json!({"sentence": format!("place {n}")})).collect::<Vec<_>>());
        let text = words(&kept, &reading);
        assert!(text.contains("\ndegraded: shard 0: the disk has no room"), "{text}");
        assert!(text.contains("\ndegraded: shard 0: 12 places of its log"), "{text}");
        assert!(text.ends_with("  place 9\n  and 2 more (--json)\n"), "{text}");
        let object = object(&kept, &reading);
        assert_eq!(object["state"], "degraded");
        assert_eq!(object["problems"].as_array().map(Vec::len), Some(2));
        assert_eq!(object["damage"].as_array().map(Vec::len), Some(12));
    }
}
