//! `midge store`: looks into a data directory, and copies it.
//!
//! Reads, and changes nothing; a broker may run on it. What that broker is just writing may then look torn. `backup` and
//! `import` make new directories.

mod backup;
mod export;
mod import;
mod lines;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    time::Instant,
};

use clap::{Args, Subcommand};
use midge_reactor::disk::{DataDirectory, LogDirectory};
use midge_shard::record::Record;
use midge_store::{Cause, Damage, Item, LogId, Recovery};
use serde_json::{Map, Value, json};

use crate::{commands::list::unwritten, failure::Failure};

/// Options of `midge store`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct StoreArguments {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum StoreCommand {
    /// Read everything, check it, and tell how much there is and what is damaged.
    Verify(DirectoryArguments),
    /// List every record, in the order of each log.
    Inspect(DirectoryArguments),
    /// Copy the data directory of a running broker, as it is at one moment.
    Backup(backup::BackupArguments),
    /// Write sessions, subscriptions, queued and retained messages as JSON lines.
    Export(export::ExportArguments),
    /// Make a new data directory from such lines.
    Import(import::ImportArguments),
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
struct DirectoryArguments {
    /// The data directory.
    #[arg(value_name = "DIR", default_value = "midge-data")]
    directory: PathBuf,

    /// Only the log with this number.
    #[arg(long, value_name = "N")]
    log: Option<u16>,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Exit code 1 when something is damaged that was not merely torn by a crash.
pub(crate) fn run(arguments: &StoreArguments) -> Result<(), Failure> {
    let chosen = match &arguments.command {
        StoreCommand::Verify(chosen) | StoreCommand::Inspect(chosen) => chosen,
        StoreCommand::Backup(arguments) => return backup::run(arguments),
        StoreCommand::Export(arguments) => return export::run(arguments),
        StoreCommand::Import(arguments) => return import::run(arguments),
    };
    let logs = DataDirectory::view(&chosen.directory)
        .map_err(|error| Failure::Other(error.to_string()))?;
    let logs: Vec<_> = logs
        .into_iter()
        .filter(|(number, _)| chosen.log.is_none_or(|wanted| wanted == *number))
        .collect();
    if let (Some(wanted), true) = (chosen.log, logs.is_empty()) {
        let directory = chosen.directory.display();
        return Err(Failure::Other(format!("{directory} has no log {wanted}")));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut sound = true;
    for (number, directory) in logs {
        let list = matches!(arguments.command, StoreCommand::Inspect(_));
        let report = read(number, directory, list.then_some(chosen.json), &mut out)?;
        sound &= report.is_sound();
        if !list {
            report.write(chosen.json, &mut out).map_err(|error| unwritten(&error))?;
        }
    }
    out.flush().map_err(|error| unwritten(&error))?;
    if sound { Ok(()) } else { Err(Failure::Told) }
}

/// What one log holds.
struct Report {
    log: u16,
    records: u64,
    payload_bytes: u64,
    file_bytes: u64,
    segments: usize,
    closed: bool,
    kinds: BTreeMap<&'static str, u64>,
    damage: Vec<Damage>,
    damage_count: u64,
    undecodable: u64,
    seconds: f64,
}

/// Walks through a log in bounded memory; `list` says whether to write each record, and whether as JSON.
fn read(
    log: u16,
    directory: LogDirectory,
    list: Option<bool>,
    out: &mut impl Write,
) -> Result<Report, Failure> {
    let path = directory.path().display().to_string();
    let failed = |error| Failure::Other(format!("{path}: {error}"));
    let begun = Instant::now();
    let mut recovery = Recovery::open(directory, log, LogId([0; 16])).map_err(failed)?;
    let mut kinds = BTreeMap::new();
    let (mut payload_bytes, mut undecodable) = (0, 0);
    while let Some(item) = recovery.next_item().map_err(failed)? {
        let written = match item {
            Item::Record(position, record) => {
                payload_bytes += record.payload.len() as u64;
                let (kind, fields) = match Record::decode(record.kind, record.payload) {
                    Ok(known) => describe(&known),
                    Err(error) => {
                        undecodable += 1;
                        ("unknown", json!({"number": record.kind, "reason": error.to_string()}))
                    }
                };
                *kinds.entry(kind).or_default() += 1;
                match list {
                    None => Ok(()),
                    Some(true) => {
                        let mut object = json!({
                            "log": log, "segment": position.segment.0, "offset": position.offset,
                            "sequence": record.sequence.0, "kind": kind,
                        });
                        if let (Value::Object(all), Value::Object(more)) = (&mut object, fields) {
                            all.extend(more);
                        }
                        writeln!(out, "{object}")
                    }
                    Some(false) => {
                        let (sequence, fields) = (record.sequence, in_words(&fields));
                        writeln!(out, "{log} {position} {sequence} {kind} {fields}")
                    }
                }
            }
            Item::Damage(damage) => match list {
                None => Ok(()),
                Some(true) => writeln!(out, "{}", damage_json(log, &damage)),
                Some(false) => writeln!(out, "{log} {damage}"),
            },
        };
        written.map_err(|error| unwritten(&error))?;
    }
    let (_, file_bytes) = recovery.progress();
    let (recovered, _) = recovery.finish().map_err(failed)?;
    Ok(Report {
        log,
        records: recovered.records,
        payload_bytes,
        file_bytes,
        segments: recovered.segments.len(),
        closed: recovered.closed,
        kinds,
        damage: recovered.damage,
        damage_count: recovered.damage_count,
        undecodable,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

impl Report {
    fn is_sound(&self) -> bool {
        self.undecodable == 0 && self.damage.iter().all(|damage| damage.cause == Cause::Torn)
    }

    fn write(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            let damage: Vec<Value> =
                self.damage.iter().map(|damage| damage_json(self.log, damage)).collect();
            let object = json!({
                "log": self.log, "records": self.records, "payload_bytes": self.payload_bytes,
                "file_bytes": self.file_bytes, "segments": self.segments, "closed": self.closed,
                "kinds": self.kinds, "unknown_records": self.undecodable,
                "damage_count": self.damage_count, "damage": damage, "sound": self.is_sound(),
            });
            return writeln!(out, "{object}");
        }
        writeln!(
            out,
            "log {}: {}, {} records in {} segments, {:.1} MB, {}, read in {:.2} s",
            self.log,
            if self.is_sound() { "sound" } else { "damaged" },
            self.records,
            self.segments,
            self.file_bytes as f64 / 1e6,
            if self.closed { "closed in good order" } else { "not closed" },
            self.seconds,
        )?;
        for (kind, count) in &self.kinds {
            writeln!(out, "  {count} {kind}")?;
        }
        for damage in &self.damage {
            writeln!(out, "  {damage}")?;
        }
        match self.damage_count - self.damage.len() as u64 {
            0 => Ok(()),
            more => writeln!(out, "  and {more} more"),
        }
    }
}

fn damage_json(log: u16, damage: &Damage) -> Value {
    json!({
        "log": log, "segment": damage.segment.0, "offset": damage.offset, "size": damage.size,
        "first_missing": damage.missing.map(|(first, _)| first.0),
        "last_missing": damage.missing.map(|(_, last)| last.0),
        "damage": damage.cause.to_string(),
    })
}

/// A record's kind and what it says, without payloads.
fn describe(record: &Record<'_>) -> (&'static str, Value) {
    match record {
        Record::Session(session) => (
            "session",
            json!({
                "session": session.session, "client_id": session.client_id,
                "expiry_interval_seconds": session.expiry_interval_seconds,
                "away_since_ms": session.away_since_ms,
                "will_topic": session.will.as_ref().map(|will| will.topic),
            }),
        ),
        Record::SessionEnd { session } => ("session_end", json!({"session": session})),
        Record::Subscribe { session, options, filter } => {
            ("subscribe", json!({"session": session, "options": options, "filter": filter}))
        }
        Record::Unsubscribe { session, filter } => {
            ("unsubscribe", json!({"session": session, "filter": filter}))
        }
        Record::Message(message) => {
            let sessions: Vec<u64> =
                message.deliveries.iter().map(|delivery| delivery.session).collect();
            (
                "message",
                json!({
                    "message": message.message, "topic": message.topic,
                    "qos": message.qos as u8, "retained": message.retained,
                    "payload_bytes": message.payload.len(),
                    "expires_at_ms": message.expires_at_ms, "sessions": sessions,
                    "groups": message.groups,
                }),
            )
        }
        Record::Assigned { session, message, packet_id } => {
            ("assigned", one(*session, *message, *packet_id))
        }
        Record::Received { session, message, packet_id } => {
            ("received", one(*session, *message, *packet_id))
        }
        Record::Done { session, message } => {
            ("done", json!({"session": session, "message": message}))
        }
        Record::Inbound { session, packet_id } => {
            ("inbound", json!({"session": session, "packet_id": packet_id}))
        }
        Record::InboundReleased { session, packet_id } => {
            ("inbound_released", json!({"session": session, "packet_id": packet_id}))
        }
        Record::HandedOn { number } => ("handed_on", json!({"number": number})),
        Record::Mark { shard, number } => ("mark", json!({"shard": shard, "number": number})),
        Record::Came { shard, first, last } => {
            ("came", json!({"shard": shard, "first": first, "last": last}))
        }
        Record::RetainedGone { topic } => ("retained_gone", json!({"topic": topic})),
        Record::Taken { message, group } => ("taken", json!({"message": message, "group": group})),
    }
}

fn one(session: u64, message: u64, packet_id: u16) -> Value {
    json!({"session": session, "message": message, "packet_id": packet_id})
}

/// `key=value` for people; JSON's quotes keep a client's control characters from the terminal.
fn in_words(fields: &Value) -> String {
    let none = Map::new();
    let fields = fields.as_object().unwrap_or(&none);
    let words = fields.iter().filter(|(_, value)| !value.is_null());
    words.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use midge_store::{Level, Log, Room, SegmentId, Segments, Settings, memory::MemoryDisk};

    use super::*;

    /// A data directory with one log of some records.
    fn directory(path: &Path) -> PathBuf {
        let _ = fs::remove_dir_all(path);
        let data = DataDirectory::open(path).expect("a new directory");
        let log_path = data.log(0).expect("a new log").path().to_path_buf();
        let mut disk = MemoryDisk::new(1);
        let mut log = Log::create(Settings::default(), LogId([7; 16]), 0);
        disk.drive(&mut log);
        let mut payload = Vec::new();
        for session in 0..20 {
            payload.clear();
            let record = Record::Subscribe { session, options: 1, filter: "a/\u{1b}/#" };
            let kind = record.encode(&mut payload);
            log.append(kind, &[&payload], Level::Fsync, Room::Normal).expect("room");
        }
        log.close();
        disk.drive(&mut log);
        for segment in disk.list().expect("memory") {
            let name = format!("{:010}.log", segment.0);
            fs::write(log_path.join(name), disk.file_mut(segment).expect("listed")).expect("room");
        }
        log_path
    }

    fn report(log_path: &Path, list: Option<bool>) -> (Report, String) {
        let mut out = Vec::new();
        let directory = LogDirectory::view(log_path.to_path_buf());
        let report = read(0, directory, list, &mut out).expect("a log");
        (report, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_log_is_counted_listed_and_checked() {
        let path = std::env::temp_dir().join(format!("midge-store-{}", std::process::id()));
        let log_path = directory(&path);
        let (sound, text) = report(&log_path, Some(false));
        assert!(sound.is_sound() && sound.closed);
        assert_eq!(sound.kinds, BTreeMap::from([("subscribe", 20)]));
        assert_eq!(text.lines().count(), 20);
        assert!(text.contains("subscribe filter=\"a/\\u001b/#\" options=1 session=7"), "{text}");
        let (_, text) = report(&log_path, Some(true));
        for line in text.lines() {
            let object: Value = serde_json::from_str(line).expect("an object");
            assert_eq!(object["kind"], "subscribe");
        }

        // One byte of the fourth record or so.
        let file = log_path.join(format!("{:010}.log", SegmentId(1).0));
        let mut bytes = fs::read(&file).expect("the segment");
        bytes[2 * 4096 + 40 + 150] ^= 1;
        fs::write(&file, bytes).expect("the segment");
        let (damaged, _) = report(&log_path, None);
        assert!(!damaged.is_sound());
        assert_eq!((damaged.records, damaged.damage_count), (19, 1));
        let mut out = Vec::new();
        damaged.write(false, &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("log 0: damaged, 19 records in 1 segments"), "{text}");
        assert!(text.contains("is missing"), "{text}");
        let mut out = Vec::new();
        damaged.write(true, &mut out).expect("memory");
        let object: Value = serde_json::from_slice(&out).expect("an object");
        assert_eq!((&object["sound"], &object["damage"][0]["segment"]), (&json!(false), &json!(1)));
        fs::remove_dir_all(&path).expect("our own directory");
    }
}
