//! The disk under one shard's log, in virtual time.
//!
//! What a disk does to bytes (tears, loses, reorders until they are synced, fails, fills up) is the store's own
//! [`MemoryDisk`]; here it gets its time, its faults and its crashes from the seed.

use midge_mesh::ShardId;
use midge_session::Time;
use midge_shard::{Image, Shard, WallTime};
use midge_store::memory::{Faults, MemoryDisk};
use midge_store::{Completion, Item, Log, LogId, Operation, OperationId, Recovery, Settings};

use crate::coverage::{Coverage, Situation};
use crate::knobs::DiskKnobs;
use crate::net::{MS, NEVER, START};
use crate::prng::Prng;

/// Wall time at the start of a run, in milliseconds since 1970.
const WALL_START_MS: u64 = 1_790_000_000_000;

/// One shard's disk.
#[derive(Debug)]
pub struct Disk {
    memory: MemoryDisk,
    knobs: DiskKnobs,
    prng: Prng,
    shard: ShardId,
    /// When the next operation is done.
    due: u64,
}

/// How the process ends when it is not asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: what the system has been given stays.
    Kill,
    /// The power goes: what was not synced is kept, lost or torn.
    PowerCut,
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64, shard: ShardId, knobs: DiskKnobs) -> Self {
        let purpose = 0x3000 + u64::from(shard.get());
        let mut prng = Prng::new(seed, purpose);
        let mut memory = MemoryDisk::new(prng.next_u64());
        memory.set_faults(Faults {
            write_per_million: knobs.fault_per_million,
            sync_per_million: knobs.fault_per_million,
            create_per_million: knobs.fault_per_million,
            read_per_million: knobs.fault_per_million,
            remove_per_million: knobs.fault_per_million,
        });
        memory.set_capacity(knobs.capacity);
        Self { memory, knobs, prng, shard, due: NEVER }
    }

    /// Takes an operation.
    pub fn submit(&mut self, now: u64, id: OperationId, operation: Operation) {
        self.memory.submit(id, operation);
        if self.due == NEVER {
            self.due = now + self.latency();
        }
    }

    fn latency(&mut self) -> u64 {
        // Now and then a disk takes its time.
        let longest = if self.prng.permille(5) { 300 * MS } else { self.knobs.latency_us * 1000 };
        self.prng.between(1000, longest)
    }

    /// One operation that is done by now.
    pub fn poll(&mut self, now: u64, coverage: &mut Coverage) -> Option<(OperationId, Completion)> {
        if self.due > now {
            return None;
        }
        let done = self.memory.poll_completion();
        self.due = if self.memory.in_flight() > 0 { now + self.latency() } else { NEVER };
        match &done {
            Some((_, Completion::Failed(error))) if error.is_full() => {
                coverage.hit(Situation::DiskFull);
            }
            Some((_, Completion::Failed(_))) => coverage.hit(Situation::DiskFailed),
            _ => {}
        }
        done
    }

    /// When [`Disk::poll`] has something.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.due
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.memory.set_faults(Faults::default());
        self.memory.set_capacity(u64::MAX);
    }

    /// What is left when everything stops.
    pub fn crash(&mut self, crash: Crash) {
        match crash {
            Crash::Kill => self.memory.kill(),
            Crash::PowerCut => self.memory.power_cut(),
        }
        self.due = NEVER;
    }

    fn settings(&self) -> Settings {
        Settings {
            block_size: 512,
            segment_size_min: 32 << 10,
            segment_size_max: self.knobs.segment_size_max,
            ..Settings::default()
        }
    }

    fn recover(&mut self, now: Time) -> Result<(Image, midge_store::Recovered), String> {
        let shard = self.shard.get();
        let mut image = Image::new(wall(now));
        let id = LogId([shard as u8; 16]);
        let mut recovery =
            Recovery::open(&mut self.memory, shard, id).map_err(|error| error.to_string())?;
        while let Some(item) = recovery.next_item().map_err(|error| error.to_string())? {
            if let Item::Record(position, record) = item {
                image
                    .apply(position, record.kind, record.payload)
                    .map_err(|error| format!("{error:?}"))?;
            }
        }
        let (recovered, _) = recovery.finish().map_err(|error| error.to_string())?;
        Ok((image, recovered))
    }

    /// Gives a shard its log, and what the log says.
    ///
    /// # Errors
    /// When there is something in it that was never written.
    pub fn open(&mut self, shard: &mut Shard, now: Time) -> Result<(), String> {
        let (image, recovered) = self.recover(now)?;
        // As the real hands do: what was read is on the disk from now on, or the next power cut could take what the shard builds on.
        self.memory.settle();
        let log = Log::resume(self.settings(), &recovered);
        shard.keep_in(log, self.knobs.level, wall(now));
        shard.restore(image, &recovered);
        Ok(())
    }

    /// When all clients are gone, the log says so too: nothing is left in it but at least the `retained` messages, and such as
    /// have expired.
    ///
    /// # Errors
    /// What else is.
    pub fn check_empty(&mut self, now: Time, retained: u64) -> Result<(), String> {
        self.crash(Crash::Kill);
        let (image, _) = self.recover(now)?;
        let counts = image.counts();
        let left = counts.sessions + counts.subscriptions + counts.queued;
        if left > 0 || counts.retained < retained {
            return Err(format!(
                "the log of shard {} still says {counts:?}, {retained} messages are retained",
                self.shard
            ));
        }
        Ok(())
    }
}

fn wall(now: Time) -> WallTime {
    WallTime::new(WALL_START_MS + now.as_millis() - START / MS, now)
}
