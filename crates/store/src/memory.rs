//! A disk in memory that fails as disks do: for tests and for the simulator.
//!
//! Everything random comes from one seed, so a run can be repeated. What was not synced is, at a power cut, kept, lost or
//! torn sector by sector and in any order; a failed sync keeps some sectors and forgets the rest while reads still show
//! them, as Linux does; a file that was removed may come back.

use std::{collections::BTreeMap, io};

use crate::{Buffer, Completion, DiskError, Log, Operation, OperationId, SegmentId, Segments};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// How often what goes wrong, each in millionths of the operations of its kind. The default is a disk that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Writes that fail, after some of their sectors were written.
    pub write_per_million: u32,
    /// Syncs that fail. What they covered is then partly on the disk, and will not be tried again.
    pub sync_per_million: u32,
    /// Creations that fail.
    pub create_per_million: u32,
    /// Reads that fail.
    pub read_per_million: u32,
    /// Removals that fail.
    pub remove_per_million: u32,
}

/// A disk with the files of one log.
#[derive(Debug)]
pub struct MemoryDisk {
    random: Random,
    faults: Faults,
    capacity: u64,
    files: BTreeMap<SegmentId, File>,
    /// Removed, but not for certain.
    removed: BTreeMap<SegmentId, File>,
    pending: Vec<Pending>,
    counters: DiskCounters,
}

/// What a [`MemoryDisk`] was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Operations done or failed.
    pub operations: u64,
    /// Those that were made to fail, a full disk included.
    pub failures: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

#[derive(Debug)]
struct Pending {
    id: OperationId,
    operation: Operation,
    /// The write that it belongs to has failed.
    cancelled: bool,
}

#[derive(Clone, Debug)]
struct File {
    /// What survives a power cut.
    kept: Vec<u8>,
    /// What reads show.
    shown: Vec<u8>,
    /// What is written and not synced.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl MemoryDisk {
    /// An empty disk without a bound that works. The seed decides the order of completions, and what happens to what was
    /// not synced.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random(seed ^ 0x9E37_79B9_7F4A_7C15),
            faults: Faults::default(),
            capacity: u64::MAX,
            files: BTreeMap::new(),
            removed: BTreeMap::new(),
            pending: Vec::new(),
            counters: DiskCounters::default(),
        }
    }

    /// What goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How many bytes fit from now on, over all files.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.files.values().map(|file| file.shown.len() as u64).sum()
    }

    /// What the disk was asked to do.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.counters
    }

    /// Operations that are not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Takes an operation.
    pub fn submit(&mut self, id: OperationId, operation: Operation) {
        self.pending.push(Pending { id, operation, cancelled: false });
    }

    /// Does one of the operations that may be done now, or fails it. `None` when there is none.
    pub fn poll_completion(&mut self) -> Option<(OperationId, Completion)> {
        let eligible: Vec<usize> =
            (0..self.pending.len()).filter(|index| self.is_eligible(*index)).collect();
        let index = *eligible.get(self.random.below(eligible.len().max(1) as u64) as usize)?;
        let Pending { id, operation, cancelled } = self.pending.remove(index);
        self.counters.operations += 1;
        let completion = self.perform(operation, cancelled);
        if matches!(completion, Completion::Failed(_)) {
            self.counters.failures += 1;
        }
        Some((id, completion))
    }

    /// Lets the disk and the log work until neither has anything to do.
    pub fn drive(&mut self, log: &mut Log) {
        loop {
            while let Some((id, operation)) = log.poll_operation() {
                self.submit(id, operation);
            }
            match self.poll_completion() {
                Some((id, completion)) => log.handle_completion(id, completion),
                None => return,
            }
        }
    }

    /// The power goes: what was not synced is kept, lost or torn.
    pub fn power_cut(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            if let Operation::Write { segment, offset, buffer } = pending.operation
                && let Some(file) = self.files.get_mut(&segment)
            {
                file.unsynced.push((offset as usize, buffer.as_slice().to_vec()));
            }
        }
        for file in self.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                keep_some(&mut self.random, &mut file.kept, offset, &bytes);
            }
            file.shown.clone_from(&file.kept);
        }
        for (segment, file) in std::mem::take(&mut self.removed) {
            if self.random.below(2) == 0 {
                self.files.entry(segment).or_insert(File {
                    shown: file.kept.clone(),
                    kept: file.kept,
                    unsynced: Vec::new(),
                });
            }
        }
    }

    /// The process goes: what was under way is done or not, what was written stays.
    pub fn kill(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            if self.random.below(2) == 0 {
                self.perform(pending.operation, pending.cancelled);
            }
        }
    }

    /// Everything that reads show is on the disk from now on: what the hands do once after a recovery.
    pub fn settle(&mut self) {
        for file in self.files.values_mut() {
            file.unsynced.clear();
            file.kept.clone_from(&file.shown);
        }
    }

    /// The bytes of a file, to be spoiled.
    pub fn file_mut(&mut self, segment: SegmentId) -> Option<&mut Vec<u8>> {
        self.files.get_mut(&segment).map(|file| {
            file.unsynced.clear();
            &mut file.shown
        })
    }

    /// Takes a file away.
    pub fn lose(&mut self, segment: SegmentId) {
        self.files.remove(&segment);
    }

    /// A copy of everything that reads show, as after a kill.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let files = self.files.iter().map(|(segment, file)| {
            let bytes = file.shown.clone();
            (*segment, File { kept: bytes.clone(), shown: bytes, unsynced: Vec::new() })
        });
        Self { files: files.collect(), ..Self::new(seed) }
    }

    /// A sync comes after the writes that were asked for before it.
    fn is_eligible(&self, index: usize) -> bool {
        let Operation::Sync { segment } = &self.pending[index].operation else { return true };
        !self.pending[..index].iter().any(|earlier| {
            matches!(&earlier.operation, Operation::Write { segment: written, .. } if written == segment)
        })
    }

    fn perform(&mut self, operation: Operation, cancelled: bool) -> Completion {
        if cancelled {
            return Completion::Failed(DiskError::CANCELLED);
        }
        match operation {
            Operation::Create { segment, size } => {
                if self.random.hits(self.faults.create_per_million) {
                    return Completion::Failed(DiskError::IO);
                }
                if self.used() + u64::from(size) > self.capacity {
                    return Completion::Failed(DiskError::NO_SPACE);
                }
                let bytes = vec![0; size as usize];
                let file = File { kept: bytes.clone(), shown: bytes, unsynced: Vec::new() };
                self.removed.remove(&segment);
                self.files.insert(segment, file);
                Completion::Created
            }
            Operation::Write { segment, offset, buffer } => self.write(segment, offset, buffer),
            Operation::Sync { segment } => {
                let Some(file) = self.files.get_mut(&segment) else {
                    return Completion::Failed(DiskError::IO);
                };
                let unsynced = std::mem::take(&mut file.unsynced);
                if self.random.hits(self.faults.sync_per_million) {
                    for (offset, bytes) in unsynced {
                        keep_some(&mut self.random, &mut file.kept, offset, &bytes);
                    }
                    return Completion::Failed(DiskError::IO);
                }
                for (offset, bytes) in unsynced {
                    file.kept[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
                Completion::Synced
            }
            Operation::Read { segment, offset, size } => {
                let file = self.files.get(&segment);
                let bytes = file.and_then(|file| file.shown.get(offset as usize..));
                let bytes = bytes.filter(|bytes| !bytes.is_empty());
                let bytes = bytes.map(|bytes| &bytes[..bytes.len().min(size as usize)]);
                match bytes {
                    Some(bytes) if !self.random.hits(self.faults.read_per_million) => {
                        let mut buffer = Buffer::with_capacity(bytes.len());
                        buffer.extend(bytes);
                        Completion::Read(buffer)
                    }
                    _ => Completion::Failed(DiskError::IO),
                }
            }
            Operation::Remove { segment } => {
                if self.random.hits(self.faults.remove_per_million) {
                    return Completion::Failed(DiskError::IO);
                }
                if let Some(file) = self.files.remove(&segment) {
                    self.removed.insert(segment, file);
                }
                Completion::Removed
            }
        }
    }

    fn write(&mut self, segment: SegmentId, offset: u32, buffer: Buffer) -> Completion {
        let fails = self.random.hits(self.faults.write_per_million);
        let bytes = buffer.as_slice();
        let at = offset as usize;
        let file = self.files.get_mut(&segment);
        let file = file.filter(|file| at + bytes.len() <= file.shown.len());
        let Some(file) = file else { return Completion::Failed(DiskError::IO) };
        if fails {
            keep_some(&mut self.random, &mut file.shown, at, bytes);
            let mut partial = file.shown[at..at + bytes.len()].to_vec();
            partial.truncate(self.random.below(bytes.len() as u64 + 1) as usize);
            file.unsynced.push((at, partial));
            let sync = self.pending.iter_mut().find(|later| {
                matches!(&later.operation, Operation::Sync { segment: synced } if *synced == segment)
            });
            if let Some(sync) = sync {
                sync.cancelled = true;
            }
            return Completion::Failed(DiskError::IO);
        }
        file.shown[at..at + bytes.len()].copy_from_slice(bytes);
        file.unsynced.push((at, bytes.to_vec()));
        self.counters.bytes_written += bytes.len() as u64;
        Completion::Written(buffer)
    }
}

impl Segments for MemoryDisk {
    fn list(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.files.keys().copied().collect())
    }

    fn size(&mut self, segment: SegmentId) -> io::Result<u64> {
        self.files
            .get(&segment)
            .map(|file| file.shown.len() as u64)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&mut self, segment: SegmentId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.files.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = file.shown.get(from..).unwrap_or_default();
        let size = bytes.len().min(buffer.len());
        buffer[..size].copy_from_slice(&bytes[..size]);
        Ok(size)
    }
}

/// Writes a random choice of sectors, some of them in part.
fn keep_some(random: &mut Random, file: &mut [u8], offset: usize, bytes: &[u8]) {
    // Now and then everything arrives, or nothing.
    let mood = random.below(8);
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        let at = offset + index * SECTOR;
        let size = match (mood, random.below(8)) {
            (0, _) => 0,
            (1, _) | (_, 0..=3) => sector.len(),
            (_, 4) => random.below(sector.len() as u64 + 1) as usize,
            _ => 0,
        };
        file[at..at + size].copy_from_slice(&sector[..size]);
    }
}

/// Repeatable numbers (splitmix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn hits(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }
}
