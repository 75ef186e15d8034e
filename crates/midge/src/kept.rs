//! What a running broker says about its data directory, in a file beside its statistics: numbers have no words.
//!
//! `durability.json` is written when the shards have started and after each reload, and read by `midge stats`.

use std::{fs, io, path::Path};

use midge_config::{Config, DurabilityLevel};
use midge_reactor::DamageReport;
use serde_json::{Value, json};

use crate::settings::Settings;

const FILE: &str = "durability.json";

/// Writes it into a broker's directory. Without a data directory there is none.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(
    instance: &Path,
    settings: &Settings,
    damage: &[DamageReport],
) -> io::Result<()> {
    let config = settings.config();
    let Some(directory) = &settings.data_directory else { return Ok(()) };
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.clone());
    let damage: Vec<Value> = damage.iter().map(damage_json).collect();
    let mut object = json!({"directory": directory, "damage": damage});
    say_levels(&mut object, config);
    fs::write(instance.join(FILE), format!("{object}\n"))
}

/// The same with the levels of another configuration, where there is a data directory.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn rewrite(instance: &Path, config: &Config) -> io::Result<()> {
    let mut object = read(instance);
    if object.is_null() {
        return Ok(());
    }
    say_levels(&mut object, config);
    // Whoever reads it at this moment reads one of the two.
    let new = instance.join("durability.new");
    fs::write(&new, format!("{object}\n"))?;
    fs::rename(new, instance.join(FILE))
}

fn say_levels(object: &mut Value, config: &Config) {
    let durability = &config.durability;
    let listeners: Vec<Value> = config
        .listeners
        .iter()
        .filter_map(|one| {
            let level = name(one.acknowledge_after?);
            Some(json!({"listener": one.label(), "acknowledge_after": level}))
        })
        .collect();
    let topics: Vec<Value> = durability
        .topics
        .iter()
        .map(|one| json!({"prefix": one.prefix, "acknowledge_after": name(one.acknowledge_after)}))
        .collect();
    object["acknowledge_after"] = name(durability.acknowledge_after).into();
    object["listeners"] = listeners.into();
    object["topics"] = topics.into();
}

/// What it says; `null` when nothing is kept.
pub(crate) fn read(instance: &Path) -> Value {
    let text = fs::read(instance.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn damage_json(report: &DamageReport) -> Value {
    json!({
        "file": report.file, "offset": report.offset, "size": report.size, "cause": report.cause,
        "first_missing": report.missing.map(|(first, _)| first),
        "last_missing": report.missing.map(|(_, last)| last),
        "affected": report.affected, "copy": report.copy, "sentence": report.to_string(),
    })
}

/// A level as the configuration calls it.
pub(crate) fn name(level: DurabilityLevel) -> &'static str {
    match level {
        DurabilityLevel::Fsync => "fsync",
        DurabilityLevel::Written => "written",
        DurabilityLevel::Memory => "memory",
    }
}
