//! The audit log: who came, went and was denied, and what operators changed; one JSON object a line, in a file of its own.
//!
//! ```text
//!  shards ─┐
//!  control ┼─ line (8,192 entries) ─ one thread ─ at most so many lines a second ─ file
//!  reload ─┘  full: counted          reopens the file when asked to (logrotate)
//! ```
//!
//! # Invariants
//! - A shard never waits for it. What finds the line full, or comes beyond the rate, is counted, and the next line but one
//!   says how many (`{"event":"left_out","count":7}`).
//! - The file is appended to and never read; it is made with the rights 0600. If it cannot be written, that is an error in the
//!   log, once until it works again, and those lines count as left out.
//! - No secret is in it: names of users, never passwords.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use midge_codec::ProtocolVersion;
use midge_reactor::Auditor;
use midge_shard::{AuditEvent, AuditNote};
use serde_json::{Map, Value, json};

use crate::reload::{Directory, Outcome};

/// Entries that wait to be written: a second's worth of a storm.
const WAITING_MAX: usize = 8192;

/// From a shard, or about what an operator did.
#[derive(Debug)]
enum Entry {
    Client(Box<AuditNote>),
    Other(Map<String, Value>),
    Reopen,
}

/// Where entries go, from any thread. One without a file throws them away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit(Option<Line>);

#[derive(Clone, Debug)]
struct Line {
    entries: Sender<Entry>,
    left_out: Arc<AtomicU64>,
}

impl Line {
    fn push(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            // Relaxed: a number that stands by itself.
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The file, before there is anything to write.
#[derive(Debug)]
pub(crate) struct AuditFile {
    path: PathBuf,
    file: File,
    lines_per_second_max: u32,
}

impl AuditFile {
    /// # Errors
    /// One sentence: the file and why it cannot be written.
    pub(crate) fn open(path: &Path, lines_per_second_max: u32) -> Result<Self, String> {
        let file = open(path).map_err(|error| {
            format!(
                "audit.file: cannot write {}: {error}; check the path and its rights",
                path.display()
            )
        })?;
        Ok(Self { path: path.to_owned(), file, lines_per_second_max })
    }

    /// Writes from a thread of its own, which lives as long as the process. Listeners are called as `directory` has them.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn start(self, directory: Directory) -> io::Result<Audit> {
        let (entries, line) = bounded(WAITING_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            path: self.path,
            file: Some(self.file),
            budget: Budget::new(self.lines_per_second_max, Instant::now()),
            left_out: Arc::clone(&left_out),
            directory,
            is_failing: false,
        };
        thread::Builder::new().name("audit".into()).spawn(move || writer.run(&line))?;
        Ok(Audit(Some(Line { entries, left_out })))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Audit {
    /// For the shards; `None`: nobody wants to know.
    pub(crate) fn of_clients(&self) -> Option<Auditor> {
        let line = self.0.clone()?;
        Some(Auditor(Arc::new(move |note| line.push(Entry::Client(note)))))
    }

    /// An operator has done something over the control socket.
    pub(crate) fn admin(&self, action: &str, about: Value) {
        let Some(line) = &self.0 else { return };
        let mut entry = Map::new();
        entry.insert("event".into(), "admin".into());
        entry.insert("action".into(), action.into());
        entry.insert("about".into(), about);
        line.push(Entry::Other(entry));
    }

    /// The configuration was read again, or was refused.
    pub(crate) fn configuration(&self, result: Result<&Outcome, &[String]>) {
        let Some(line) = &self.0 else { return };
        let mut entry = Map::new();
        entry.insert("event".into(), "configuration".into());
        match result {
            Ok(outcome) => entry.insert("changes".into(), outcome.lines().into()),
            Err(problems) => entry.insert("refused".into(), problems.into()),
        };
        line.push(Entry::Other(entry));
    }

    /// The file was moved away: write to a new one.
    pub(crate) fn reopen(&self) {
        if let Some(line) = &self.0 {
            line.push(Entry::Reopen);
        }
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    budget: Budget,
    left_out: Arc<AtomicU64>,
    directory: Directory,
    is_failing: bool,
}

impl Writer {
    fn run(mut self, line: &Receiver<Entry>) {
        while let Ok(entry) = line.recv() {
            match entry {
                Entry::Reopen => self.reopen(),
                entry if self.budget.take(Instant::now()) => {
                    let object = match entry {
                        Entry::Client(note) => client(&note, &self.directory),
                        Entry::Other(object) => object,
                        Entry::Reopen => continue,
                    };
                    self.tell_left_out();
                    self.write(object);
                }
                _ => self.leave_out(1),
            }
        }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.fail(&error),
        }
    }

    fn leave_out(&self, count: u64) {
        self.left_out.fetch_add(count, Ordering::Relaxed);
    }

    fn tell_left_out(&mut self) {
        let count = self.left_out.swap(0, Ordering::Relaxed);
        if count > 0 {
            let mut object = Map::new();
            object.insert("event".into(), "left_out".into());
            object.insert("count".into(), count.into());
            if !self.write(object) {
                self.leave_out(count);
            }
        }
    }

    fn write(&mut self, object: Map<String, Value>) -> bool {
        let mut line = format!("{{\"time\":\"{}\"", now());
        for (key, value) in &object {
            line += &format!(",{}:{value}", Value::from(key.as_str()));
        }
        line += "}\n";
        // One write, so that a reader never sees half a line.
        let outcome = match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match outcome {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                self.fail(&error);
                self.leave_out(1);
            }
        }
        !self.is_failing
    }

    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!("the audit log {} cannot be written: {error}", self.path.display());
        }
    }
}

/// So many lines a second, after a burst of as many.
#[derive(Debug)]
struct Budget {
    per_second: u32,
    left: u32,
    since: Instant,
}

impl Budget {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: per_second, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.per_second;
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

/// UTC, to the millisecond: `2026-11-28T18:32:19.004Z`.
fn now() -> String {
    timestamp(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    // Days since 0000-03-01, by eras of 400 years (Howard Hinnant's `civil_from_days`).
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let millisecond = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// A note of a shard in words.
fn client(note: &AuditNote, directory: &Directory) -> Map<String, Value> {
    let (event, about) = match &note.event {
        AuditEvent::Connected { version } => {
            let version = match version {
                ProtocolVersion::V31 => "3.1",
                ProtocolVersion::V311 => "3.1.1",
                ProtocolVersion::V5 => "5.0",
            };
            ("connect", json!({"version": version}))
        }
        AuditEvent::Disconnected { said_goodbye } => {
            ("disconnect", json!({"said_goodbye": said_goodbye}))
        }
        AuditEvent::Refused(refusal) => (
            "denied",
            json!({
                "action": "connect",
                "reason_code": refusal.reason_code as u8,
                "reason": refusal.reason,
            }),
        ),
        AuditEvent::PublishDenied(topic) => {
            ("denied", json!({"action": "publish", "topic": topic}))
        }
        AuditEvent::SubscribeDenied(filter) => {
            ("denied", json!({"action": "subscribe", "filter": filter}))
        }
    };
    let mut object = Map::new();
    object.insert("event".into(), event.into());
    let peer = note.peer.map(|peer| std::net::SocketAddr::from(peer).to_string());
    let listener = note.listener.map(|listener| directory.name(listener.0));
    object.insert("client_id".into(), json!(note.client_id));
    object.insert("user".into(), json!(note.user));
    object.insert("address".into(), json!(peer));
    object.insert("listener".into(), json!(listener));
    if let Value::Object(about) = about {
        object.extend(about);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_795_890_739, "2026-11-28T18:32:19.007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(Duration::from_millis(seconds * 1000 + 7)), expected);
        }
    }

    #[test]
    fn a_second_has_so_many_lines() {
        let start = Instant::now();
        let mut budget = Budget::new(3, start);
        let taken = |budget: &mut Budget, now| (0..10).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, start), 3);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(999)), 0);
        assert_eq!(taken(&mut budget, start + Duration::from_secs(1)), 3);
    }

    /// What is left out is counted, the file moves away and comes anew, and every line is an object.
    #[test]
    fn lines_are_written_counted_and_follow_the_file() {
        let directory = std::env::temp_dir().join(format!("midge-audit-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("audit.log");
        let file = AuditFile::open(&path, 2).expect("a file");
        let audit = file.start(Directory::default()).expect("a thread");
        for number in 0..5 {
            audit.admin("kick", json!({"client_id": format!("c\"{number}")}));
        }
        let lines = |path: &Path, count: usize| {
            let since = Instant::now();
            loop {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let lines: Vec<Value> = text
                    .lines()
                    .map(|line| serde_json::from_str(line).expect("an object on a line"))
                    .collect();
                if lines.len() >= count {
                    return lines;
                }
                assert!(since.elapsed() < Duration::from_secs(20), "{text}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        let first = lines(&path, 2);
        assert_eq!(first[1]["about"]["client_id"], "c\"1");
        let moved = directory.join("audit.log.1");
        std::fs::rename(&path, &moved).expect("ours");
        audit.reopen();
        lines(&path, 0);
        thread::sleep(Duration::from_millis(1100));
        audit.configuration(Err(&["wrong".to_owned()]));
        let second = lines(&path, 2);
        assert_eq!(second[0]["event"], "left_out");
        assert_eq!(second[0]["count"], 3);
        assert_eq!(second[1]["refused"][0], "wrong");
        assert_eq!(lines(&moved, 2).len(), 2);
        std::fs::remove_dir_all(&directory).expect("ours");
    }
}
