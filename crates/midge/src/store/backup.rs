//! `midge store backup`: a copy of a running broker's data directory, as a crash at one moment would have left it.
//!
//! The broker names the cut (the last record of each log that belongs to it) and keeps its files for a few seconds; this
//! process opens them in that time, and then reads and writes at its own pace, record by record. What comes out is a data
//! directory like any other.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use midge_reactor::disk::{DataDirectory, FrozenLog, Layout, LogWriter};
use midge_store::{Cause, Item, LogId, Recovery, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::{
    commands::list::unwritten,
    control::{
        client,
        protocol::{BackupRequest, Cut, Line, Request},
    },
    failure::Failure,
    instance::InstanceArguments,
};

/// Options of `midge store backup`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct BackupArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// The new data directory; missing or empty.
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// The outcome as a JSON object.
    #[arg(long)]
    json: bool,
}

/// What one log gave.
#[derive(Debug, Default)]
struct Copied {
    records: u64,
    bytes: u64,
    damage: Vec<String>,
}

/// # Errors
/// When there is no such broker, it has no data directory, or the copy cannot be written. Exit code 1 also when something
/// could not be copied because it is damaged.
pub(crate) fn run(arguments: &BackupArguments) -> Result<(), Failure> {
    let began = Instant::now();
    let mut cut = None;
    client::ask(&arguments.instance, &Request::Backup(BackupRequest {}), |line| {
        if let Line::Cut(answer) = line {
            cut = Some(answer);
        }
        Ok(())
    })?;
    let cut = cut.ok_or_else(|| Failure::Other("the broker did not say what to copy".into()))?;
    let logs = open(&cut)?;
    if began.elapsed() >= Duration::from_millis(cut.hold_ms) {
        let sentence = "opening the logs took too long: their files may be gone; try again";
        return Err(Failure::Other(sentence.into()));
    }
    let target = Target::new(&arguments.directory)?;
    let mut total = Copied::default();
    for ((number, log), last) in logs.into_iter().zip(&cut.last) {
        let one = target.copy(number, log, *last).map_err(|error| {
            Failure::Other(format!("cannot copy to {}: {error}", target.partial.display()))
        })?;
        total.records += one.records;
        total.bytes += one.bytes;
        total.damage.extend(one.damage);
    }
    let shards = u16::try_from(cut.last.len()).unwrap_or(u16::MAX);
    target.finish(Layout { first: 0, count: shards })?;
    tell(arguments, &total).map_err(|error| unwritten(&error))?;
    if total.damage.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

fn tell(arguments: &BackupArguments, total: &Copied) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Copied { records, bytes, damage } = total;
    if arguments.json {
        let object = json!({
            "directory": arguments.directory, "records": records, "bytes": bytes, "damage": damage,
        });
        return writeln!(out, "{object}");
    }
    for place in damage {
        writeln!(out, "left out, it is damaged: {place}")?;
    }
    let directory = arguments.directory.display();
    writeln!(out, "{records} records, {:.1} MB, are copied to {directory}", *bytes as f64 / 1e6)
}

/// Opens all files that belong to the cut, by their number in the new directory.
fn open(cut: &Cut) -> Result<Vec<(u16, FrozenLog)>, Failure> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // As many as may be; where it may not be raised, what there is has to do.
    _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let layout = DataDirectory::view_layout(&cut.directory)
        .map_err(|error| Failure::Other(error.to_string()))?;
    if usize::from(layout.count) != cut.last.len() {
        let directory = cut.directory.display();
        return Err(Failure::Other(format!("{directory} is not that broker's any more")));
    }
    let open = |number| {
        let log = DataDirectory::view_one(&cut.directory, number);
        let path = log.path().to_path_buf();
        FrozenLog::open(log)
            .map_err(|error| Failure::Other(format!("cannot read {}: {error}", path.display())))
    };
    let logs = layout.logs().map(|number| Ok((number - layout.first, open(number)?)));
    logs.collect()
}

/// A data directory that is being made under another name.
pub(super) struct Target {
    directory: PathBuf,
    pub(super) partial: PathBuf,
    data: DataDirectory,
    seeds: RandomState,
}

impl Target {
    /// # Errors
    /// When something is there already, or nothing can be made there.
    pub(super) fn new(directory: &Path) -> Result<Self, Failure> {
        let other = |sentence: String| Failure::Other(sentence);
        let empty = fs::read_dir(directory).map(|mut entries| entries.next().is_none());
        match empty {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(false) | Err(_) => {
                let directory = directory.display();
                return Err(other(format!("{directory} is there already: choose a new directory")));
            }
        }
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = directory.with_file_name(name);
        let data = DataDirectory::create(&partial).map_err(|error| other(error.to_string()))?;
        let directory = directory.to_path_buf();
        Ok(Self { directory, partial, data, seeds: RandomState::new() })
    }

    /// A new log in it.
    pub(super) fn log(&self, number: u16) -> io::Result<LogWriter> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.seeds.hash_one((number, 0)).to_le_bytes());
        id[8..].copy_from_slice(&self.seeds.hash_one((number, 1)).to_le_bytes());
        Ok(LogWriter::new(self.data.log(number)?, Settings::default(), LogId(id), number))
    }

    /// Copies what of a log belongs to the cut.
    fn copy(&self, number: u16, log: FrozenLog, last: u64) -> io::Result<Copied> {
        let other = |error: midge_store::RecoveryError| io::Error::other(error.to_string());
        let mut writer = self.log(number)?;
        let mut copied = Copied::default();
        let mut recovery = Recovery::open(log, number, LogId([0; 16])).map_err(other)?;
        while let Some(item) = recovery.next_item().map_err(other)? {
            match item {
                // What follows came later, and may be half written.
                Item::Record(_, record) if record.sequence.0 > last => break,
                Item::Record(_, record) => {
                    writer.append(record.kind, record.payload)?;
                    copied.records += 1;
                    copied.bytes += record.payload.len() as u64;
                }
                Item::Damage(damage) if damage.cause == Cause::Torn => {}
                Item::Damage(damage) => copied.damage.push(format!("log {number}, {damage}")),
            }
        }
        writer.finish()?;
        Ok(copied)
    }

    /// All of it is there: it gets its name.
    pub(super) fn finish(self, layout: Layout) -> Result<(), Failure> {
        let Self { directory, partial, data, .. } = self;
        let failed = |error: io::Error| {
            Failure::Other(format!("cannot name {}: {error}", directory.display()))
        };
        data.set_layout(layout).map_err(failed)?;
        drop(data);
        // An empty directory gives way.
        fs::rename(&partial, &directory).map_err(failed)?;
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
    }
}
