//! From the data directory to shards that keep their promises, at the start.
//!
//! Each shard recovers its own log on its own thread. Only when the number of shards has changed is everything read
//! first, split among the new shards and written into new logs; a small file, replaced in one step, says which logs are in
//! force, and the old ones go after that.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use midge_netring::{Event, NetRing, Wait};
use midge_session::Time;
use midge_shard::record::Record;
use midge_shard::{Counts, DamageCounts, Image, Shard, WallTime, split};
use midge_store::{
    Cause, Condition, Item, Level, Log, LogId, RecordReader, Recovered, Recovery, RecoveryError,
};

use crate::damage::{DamageReport, report};
use crate::disk::layout::{LAYOUT_STEP, Layout, Said};
use crate::disk::{
    DataDirectory, Disk, DiskHelper, FORMAT_VERSION, LogDirectory, LogWriter, OpenError,
};
use crate::progress::Progress;

#[cfg(test)]
mod tests;

/// How often a long recovery says how far it has come.
const PROGRESS: Duration = Duration::from_secs(5);

/// So many of the smallest segments must have room for each log, or the smallest becomes smaller: one is open, two are made
/// ahead, and they double as the log grows.
const SEGMENTS_IN_ROOM: u64 = 16;

/// The smallest segment that many logs on a small disk begin with: a few hundred small records.
const SMALL_SEGMENT_SIZE: u32 = 64 << 10;

/// Records between two looks at the clock.
const RECORDS_PER_LOOK: u64 = 4096;

/// How the broker keeps what must outlive it.
#[derive(Debug, Clone)]
pub struct Durability {
    /// The data directory.
    pub directory: PathBuf,
    /// What acknowledgements wait for.
    pub level: Level,
    /// Sizes of each shard's log.
    pub log: midge_store::Settings,
    /// Makes new logs different from all others.
    pub seed: u64,
    /// Whether a start is refused when something is damaged that an ordinary crash does not explain.
    pub strict: bool,
    /// Told how far the logs have been read.
    pub progress: Progress,
}

/// Why the data directory cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum DurabilityError {
    /// It cannot be opened.
    Open(OpenError),
    /// A log cannot be recovered.
    Recovery {
        /// Which.
        log: PathBuf,
        /// Why.
        error: RecoveryError,
    },
    /// A log holds what this version does not know.
    Record {
        /// Which.
        log: PathBuf,
        /// What.
        error: midge_shard::record::RecordError,
    },
    /// The disk refuses.
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something is damaged, and [`Durability::strict`] wants it so.
    Damaged {
        /// The data directory.
        directory: PathBuf,
        /// How many places.
        places: u64,
        /// The first: its file and what it looks like.
        first: String,
    },
}

impl fmt::Display for DurabilityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error @ OpenError::Io { .. }) => write!(
                formatter,
                "{error}; choose another place with --data-dir, or keep everything in memory with \
                 --ephemeral"
            ),
            Self::Open(error) => error.fmt(formatter),
            Self::Recovery { log, error } => {
                write!(formatter, "cannot recover {}: {error}", log.display())
            }
            Self::Record { log, error } => write!(formatter, "{} holds {error}", log.display()),
            Self::Io { step, path, error } => {
                write!(formatter, "cannot {step} {}: {error}", path.display())
            }
            Self::Damaged { directory, places, first } => {
                let directory = directory.display();
                let places = match places {
                    1 => "one place,".to_owned(),
                    places => format!("{places} places, first of all"),
                };
                write!(
                    formatter,
                    "{directory} is damaged in {places} {first}: midge store verify {directory} tells \
                     all; durability.recovery: serve starts without what is lost"
                )
            }
        }
    }
}

impl std::error::Error for DurabilityError {}

/// The data directory of a running broker.
#[derive(Debug)]
pub(crate) struct Store {
    directory: DataDirectory,
    first: u16,
    /// Creates and removes segments.
    pub(crate) helper: DiskHelper,
    settings: Durability,
    /// What was found damaged, by all shards.
    reports: Mutex<Vec<DamageReport>>,
    /// What was found in logs that are not in force any more.
    earlier: DamageCounts,
}

impl Store {
    /// Opens the directory, and sees to it that it has one log for each shard.
    pub(crate) fn open(settings: &Durability, shards: u16) -> Result<Self, DurabilityError> {
        let directory = DataDirectory::open(&settings.directory).map_err(DurabilityError::Open)?;
        let io = |step, path: &Path| {
            let path = path.to_path_buf();
            move |error| DurabilityError::Io { step, path, error }
        };
        let path = directory.path().to_path_buf();
        let logs = directory.logs().map_err(io("list the logs in", &path))?;
        let mut reports: Vec<DamageReport> = directory
            .damaged_format()
            .map(|file| DamageReport::of_file(file, "damaged; it is written anew"))
            .into_iter()
            .collect();
        let said = directory.layout().map_err(io("read", &path))?;
        let (layout, known) = find_layout(&path, said, &logs, shards, &mut reports)?;
        for number in layout.logs().filter(|number| logs.contains(number)) {
            // Before anything is changed in any of them.
            let mut log = directory.view_log(number);
            midge_store::check_format(&mut log).map_err(|error| DurabilityError::Recovery {
                log: log.path().to_path_buf(),
                error,
            })?;
        }
        for number in layout.logs().filter(|number| known && !logs.contains(number)) {
            let log = directory.view_log(number).path().to_path_buf();
            reports.push(DamageReport::of_file(log, "missing, with all that was in it"));
        }
        if settings.strict {
            check(&directory, layout.logs(), &reports)?;
        }
        for report in &reports {
            tracing::error!("{report}");
        }
        if directory.damaged_format().is_some() {
            directory.repair_format().map_err(io("write to", &path))?;
        }
        for number in layout.logs() {
            directory.log(number).map_err(io("make a log in", &path))?;
        }
        if said != (Said::Layout { format: FORMAT_VERSION, layout, checked: true }) {
            layout.write(&path).map_err(io("write to", &path))?;
        }
        for stray in logs.iter().filter(|log| !layout.logs().contains(*log)) {
            // A move that was cut off left it: before its end it is not in force, after it no more.
            directory.remove_log(*stray).map_err(io("remove an old log in", &path))?;
        }
        let threads = usize::from(shards.div_ceil(8)).min(8);
        let helper = DiskHelper::start(threads).map_err(io("start threads for", &path))?;
        let mut settings = settings.clone();
        settings.log.segment_size_min =
            smallest(settings.log.segment_size_min, directory.room(), shards);
        let mut store = Self {
            directory,
            first: layout.first,
            helper,
            settings,
            earlier: DamageCounts { places: reports.len() as u64, records: 0 },
            reports: Mutex::new(reports),
        };
        if layout.count != shards {
            store.change(layout.count, shards)?;
        }
        Ok(store)
    }

    /// What was found damaged so far.
    pub(crate) fn take_reports(&self) -> Vec<DamageReport> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A shard's log, and everything that it says.
    fn recover(&self, number: u16, wall: WallTime) -> Result<Found, DurabilityError> {
        let io = |step, path: &Path| {
            let path = path.to_path_buf();
            move |error| DurabilityError::Io { step, path, error }
        };
        let mut log =
            self.directory.log(number).map_err(io("open a log in", self.directory.path()))?;
        let path = log.path().to_path_buf();
        let failed = |error| DurabilityError::Recovery { log: path.clone(), error };
        let mut image = Image::new(wall);
        let mut recovery = Recovery::open(&mut log, number, self.new_id(number)).map_err(failed)?;
        let mut part = self.settings.progress.begin(recovery.progress().1);
        let (mut told, mut records) = (Instant::now(), 0_u64);
        while let Some(item) = recovery.next_item().map_err(failed)? {
            // Damage is told when all is known that there is.
            let Item::Record(position, record) = item else { continue };
            image
                .apply(position, record.kind, record.payload)
                .map_err(|error| DurabilityError::Record { log: path.clone(), error })?;
            records += 1;
            if !records.is_multiple_of(RECORDS_PER_LOOK) {
                continue;
            }
            let (done, total) = recovery.progress();
            part.reach(done);
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let percent = done * 100 / total.max(1);
                tracing::info!(log = %path.display(), percent, "recovering");
            }
        }
        part.end();
        let (recovered, _) = recovery.finish().map_err(failed)?;
        let (reports, damage) = report(&self.directory, number, &mut log, &image, &recovered);
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).extend(reports);
        log.settle(&recovered).map_err(io("sync", &path))?;
        Ok(Found { log, image, recovered, damage })
    }

    fn new_id(&self, number: u16) -> LogId {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(self.settings.seed ^ u64::from(number)).to_le_bytes());
        id[8..].copy_from_slice(&(since.as_nanos() as u64).to_le_bytes());
        LogId(id)
    }

    /// Moves everything from as many logs as there were into as many as there are shards.
    fn change(&mut self, before: u16, shards: u16) -> Result<(), DurabilityError> {
        let began = Instant::now();
        let wall = wall_time(Time::ZERO);
        let mut images = Vec::new();
        let mut readers = Vec::new();
        for number in self.first..self.first + before {
            let Found { log, image, recovered, damage } = self.recover(number, wall)?;
            self.earlier += damage;
            images.push(image);
            readers.push(RecordReader::new(log, recovered.id));
        }
        let first = if self.first == 0 { LAYOUT_STEP } else { 0 };
        for (image, number) in split(images, shards, wall).iter().zip(first..) {
            self.write_new(number, image, &mut readers)?;
        }
        let path = self.directory.path().to_path_buf();
        let io =
            |error| DurabilityError::Io { step: "change the logs in", path: path.clone(), error };
        Layout { first, count: shards }.write(&path).map_err(io)?;
        for number in self.first..self.first + before {
            self.directory.remove_log(number).map_err(io)?;
        }
        self.first = first;
        tracing::info!(
            before,
            shards,
            milliseconds = began.elapsed().as_millis(),
            "what is kept was moved to another number of shards"
        );
        Ok(())
    }

    fn write_new(
        &self,
        number: u16,
        image: &Image,
        readers: &mut [RecordReader<LogDirectory>],
    ) -> Result<(), DurabilityError> {
        let path = self.directory.path();
        let io = |error| DurabilityError::Io { step: "make a log in", path: path.into(), error };
        let directory = self.directory.log(number).map_err(io)?;
        let settings = self.settings.log.clone();
        let mut writer = LogWriter::new(directory, settings, self.new_id(number), number);
        let mut payload = Vec::new();
        let fetch = |log: u16, position, bytes: &mut Vec<u8>| {
            let Some(reader) = readers.get_mut(usize::from(log)) else { return Ok(None) };
            let record = reader.record(position)?;
            Ok(record.map(|record| {
                bytes.extend_from_slice(record.payload);
                record.kind
            }))
        };
        let emit = |record: &Record<'_>| {
            payload.clear();
            let kind = record.encode(&mut payload);
            writer.append(kind, &payload)
        };
        let lost = image.records(fetch, emit).map_err(io)?;
        if lost > 0 {
            let log = path.display();
            tracing::error!(%log, messages = lost, "queued messages are lost: they are damaged");
        }
        writer.finish().map_err(io)
    }

    /// Gives a shard its log and what it says, and waits until the log takes records.
    pub(crate) fn furnish(
        &self,
        shard: &mut Shard,
        ring: &mut NetRing,
        now: Time,
    ) -> Result<Disk, DurabilityError> {
        let began = Instant::now();
        let number = self.first + shard.id().get();
        let wall = wall_time(now);
        let Found { log: directory, image, recovered, mut damage } = self.recover(number, wall)?;
        if shard.id().get() == 0 {
            damage += self.earlier;
        }
        let counts = image.counts();
        let log = Log::resume(self.settings.log.clone(), &recovered);
        shard.keep_in(log, self.settings.level, wall);
        shard.note_damage(damage);
        shard.restore(image, &recovered);
        let mut disk = Disk::new(directory, &self.helper, ring.waker());
        while !shard.is_log_ready() {
            drive(shard, &mut disk, ring, now);
            if ring.turn(Wait::For(Duration::from_millis(10))).is_err() {
                break;
            }
            while let Some(event) = ring.next_event() {
                if let Event::File(done) = event {
                    disk.handle(ring, done);
                }
            }
        }
        let Counts { records, sessions, subscriptions, queued, retained, .. } = counts;
        if records > 0 {
            tracing::info!(
                shard = shard.id().get(),
                sessions,
                subscriptions,
                queued,
                retained,
                records,
                milliseconds = began.elapsed().as_millis(),
                "recovered"
            );
        }
        Ok(disk)
    }
}

/// The smallest segment of a log, of `usual` size where there is room enough for all of them.
fn smallest(usual: u32, room: Option<u64>, shards: u16) -> u32 {
    let Some(room) = room else { return usual };
    let part = room / (u64::from(shards) * SEGMENTS_IN_ROOM);
    usual.min(u32::try_from(part).unwrap_or(u32::MAX).max(SMALL_SEGMENT_SIZE))
}

/// What one log holds.
struct Found {
    log: LogDirectory,
    image: Image,
    recovered: Recovered,
    damage: DamageCounts,
}

/// The layout in force, and whether it has been before.
fn find_layout(
    directory: &Path,
    said: Said,
    logs: &[u16],
    shards: u16,
    reports: &mut Vec<DamageReport>,
) -> Result<(Layout, bool), DurabilityError> {
    match said {
        Said::Layout { layout, checked, .. }
            if checked || layout.logs().eq(logs.iter().copied()) =>
        {
            return Ok((layout, true));
        }
        // A first start that was cut off has perhaps made some logs, and nothing in them.
        Said::Nothing if logs.is_empty() => return Ok((Layout { first: 0, count: shards }, false)),
        _ => {}
    }
    let Some(layout) = Layout::of_logs(logs) else {
        return Err(DurabilityError::Io {
            step: "tell which logs are in force in",
            path: directory.to_path_buf(),
            error: io::Error::new(
                io::ErrorKind::InvalidData,
                "its file `layout` is damaged while it was being changed",
            ),
        });
    };
    if said != Said::Nothing {
        let cause = "damaged; it is written anew from the logs that there are";
        reports.push(DamageReport::of_file(directory.join("layout"), cause));
    }
    Ok((layout, true))
}

/// Reads all logs and changes nothing: an error when anything is damaged.
fn check(
    directory: &DataDirectory,
    logs: Range<u16>,
    reports: &[DamageReport],
) -> Result<(), DurabilityError> {
    let mut places = reports.len() as u64;
    let mut first = reports.first().map(ToString::to_string);
    for number in logs {
        let log = directory.view_log(number);
        let path = log.path().to_path_buf();
        if !path.is_dir() {
            continue;
        }
        let failed = |error| DurabilityError::Recovery { log: path.clone(), error };
        let recovery = Recovery::open(log, number, LogId([0; 16])).map_err(failed)?;
        let (recovered, _) = recovery.finish().map_err(failed)?;
        let torn = recovered.torn.len() as u64;
        places += recovered.damage_count - torn;
        let damage = recovered.damage.iter().find(|damage| damage.cause != Cause::Torn);
        if let (None, Some(damage)) = (&first, damage) {
            first = Some(format!("{}, {damage}", path.display()));
        }
    }
    match first {
        None => Ok(()),
        Some(first) => {
            let directory = directory.path().to_path_buf();
            Err(DurabilityError::Damaged { directory, places, first })
        }
    }
}

/// What the log asks for goes to the disk, and what the disk has done to the log.
pub(crate) fn drive(shard: &mut Shard, disk: &mut Disk, ring: &mut NetRing, now: Time) {
    while let Some((id, completion)) = disk.poll() {
        shard.handle_log_completion(id, completion, now);
    }
    while let Some((id, operation)) = shard.poll_log_operation() {
        disk.submit(ring, id, operation);
    }
    disk.finish(ring);
    if let Some(condition) = shard.log_condition().filter(|condition| *condition != disk.told) {
        disk.told = condition;
        tell(shard, disk, condition);
    }
}

/// The disk lets the log do more or less than before: an operator should know.
#[cold]
fn tell(shard: &Shard, disk: &Disk, condition: Condition) {
    let log = disk.directory().path().display();
    let shard_number = shard.id().get();
    let reason = shard.log_error().map_or_else(String::new, |error| error.to_string());
    match condition {
        Condition::Healthy => tracing::info!(
            shard = shard_number, %log, "the disk takes what must be kept again: all is well"
        ),
        Condition::Full => tracing::error!(
            shard = shard_number, %log, reason,
            "the disk has no room: what must be kept is not acknowledged until there is; \
             everything else goes on"
        ),
        Condition::Failed => tracing::error!(
            shard = shard_number, %log, reason,
            "a write or sync has failed: what must be kept is not acknowledged until the disk works \
             again; what the failure took is written anew then"
        ),
    }
}

fn wall_time(now: Time) -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), now)
}
