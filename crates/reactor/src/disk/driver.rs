//! One log's operations on the shard's own net ring.
//!
//! ```text
//!  log.poll_operation ──> submit ──> Write, Sync, Read: the net ring     ──> handle ──> log.handle_completion
//!                                └─> Create, Remove: the helper threads  ──> poll ───┘
//! ```
//! A write is held back until the next operation is known, so that the sync behind it can be linked to it: one system
//! call for both, the one that the loop makes anyway.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use midge_netring::{FileDone, NetRing, Waker};
use midge_store::{Buffer, Completion, Condition, DiskError, Operation, OperationId, SegmentId};

use super::helper::{Job, Task, offer};
use super::{DiskHelper, LogDirectory, files::disk_error};

/// Files kept open beside those in use. Older segments are only read, now and then.
const OPEN_FILES_MAX: usize = 32;

/// What a helper has done.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: OperationId,
    pub(super) segment: SegmentId,
    pub(super) completion: Completion,
    pub(super) file: Option<Arc<File>>,
}

/// The disk under one log.
#[derive(Debug)]
pub struct Disk {
    directory: LogDirectory,
    jobs: Sender<Job>,
    /// Jobs that the helpers had no room for.
    waiting: VecDeque<Job>,
    answers: Sender<Prepared>,
    /// As many as there are jobs of this log: one creation and a few removals.
    prepared: Receiver<Prepared>,
    waker: Waker,
    /// Most recently used last.
    files: Vec<(SegmentId, Arc<File>)>,
    held: Option<(OperationId, SegmentId, u32, Buffer)>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    done: VecDeque<(OperationId, Completion)>,
    /// What the log was last said to be able to do.
    pub(crate) told: Condition,
}

/// An operation that the ring has.
#[derive(Debug)]
struct Flight {
    id: OperationId,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `start` and `size` say what part of the memory it is.
    Write {
        start: usize,
        size: usize,
        sync: Option<usize>,
    },
    /// The write that it must not complete before.
    Sync {
        segment: SegmentId,
        after: Option<usize>,
    },
    Read {
        start: usize,
        size: usize,
    },
}

impl Disk {
    /// The disk of the log in this directory; `waker` wakes the shard that owns it.
    #[must_use]
    pub fn new(directory: LogDirectory, helper: &DiskHelper, waker: Waker) -> Self {
        let (answers, prepared) = unbounded();
        Self {
            directory,
            jobs: helper.jobs(),
            waiting: VecDeque::new(),
            answers,
            prepared,
            waker,
            files: Vec::new(),
            held: None,
            flights: Vec::new(),
            free: Vec::new(),
            done: VecDeque::new(),
            told: Condition::Healthy,
        }
    }

    /// Where the log is.
    #[must_use]
    pub fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// Starts an operation, or holds it until [`Disk::finish`].
    pub fn submit(&mut self, ring: &mut NetRing, id: OperationId, operation: Operation) {
        match operation {
            Operation::Sync { segment } => {
                match self.held.take() {
                    Some((write, written, offset, buffer)) if written == segment => {
                        self.start_write(ring, write, segment, offset, buffer, Some(id));
                        return;
                    }
                    other => self.held = other,
                }
                self.finish(ring);
                self.start_sync(ring, id, segment, None);
            }
            Operation::Write { segment, offset, buffer } => {
                self.finish(ring);
                self.held = Some((id, segment, offset, buffer));
            }
            Operation::Read { segment, offset, size } => {
                self.finish(ring);
                self.start_read(ring, id, segment, offset, size);
            }
            Operation::Create { segment, size } => self.ask(id, segment, Task::Create { size }),
            Operation::Remove { segment } => {
                self.files.retain(|(open, _)| *open != segment);
                self.ask(id, segment, Task::Remove);
            }
        }
    }

    /// Starts what is held: to be called when the log has no more operations for now.
    pub fn finish(&mut self, ring: &mut NetRing) {
        if let Some((id, segment, offset, buffer)) = self.held.take() {
            self.start_write(ring, id, segment, offset, buffer, None);
        }
        while let Some(job) = self.waiting.pop_front() {
            if let Some(job) = offer(&self.jobs, job) {
                self.waiting.push_front(job);
                break;
            }
        }
    }

    /// What the ring has done, as the log wants to hear it. [`Disk::poll`] has it.
    pub fn handle(&mut self, ring: &mut NetRing, done: FileDone) {
        let FileDone { tag, result, bytes } = done;
        let index = tag as usize;
        let Some(Flight { id, kind }) = self.flights.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        let error = DiskError { errno: -result };
        let completion = match kind {
            Kind::Write { start, size, sync } => {
                if let Some(sync) = sync.and_then(|sync| self.flights[sync].as_mut())
                    && let Kind::Sync { after, .. } = &mut sync.kind
                {
                    *after = None;
                }
                match result {
                    0.. if result as usize == size => {
                        Completion::Written(Buffer::from_parts(bytes, start, size))
                    }
                    // A disk that takes a part has no room for the rest.
                    0.. => Completion::Failed(DiskError::NO_SPACE),
                    _ => Completion::Failed(error),
                }
            }
            Kind::Sync { segment, after: Some(write) } if result == 0 => {
                // The kernel took the two apart, and this sync did not cover the write: once more, behind it.
                let again =
                    self.place(Flight { id, kind: Kind::Sync { segment, after: Some(write) } });
                if let Some(Flight { kind: Kind::Write { sync, .. }, .. }) =
                    &mut self.flights[write]
                {
                    *sync = Some(again);
                }
                self.sync_again(ring, again, segment);
                return;
            }
            Kind::Sync { .. } if result == 0 => Completion::Synced,
            Kind::Sync { .. } => Completion::Failed(error),
            Kind::Read { start, size } => match result {
                // Fewer when the file has been cut short.
                1.. if result as usize <= size => {
                    Completion::Read(Buffer::from_parts(bytes, start, result as usize))
                }
                0.. => Completion::Failed(DiskError::IO),
                _ => Completion::Failed(error),
            },
        };
        self.done.push_back((id, completion));
    }

    /// The next operation that is done.
    pub fn poll(&mut self) -> Option<(OperationId, Completion)> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        let Prepared { id, segment, completion, file } = self.prepared.try_recv().ok()?;
        if let Some(file) = file {
            self.keep(segment, file);
        }
        Some((id, completion))
    }

    fn start_write(
        &mut self,
        ring: &mut NetRing,
        id: OperationId,
        segment: SegmentId,
        offset: u32,
        buffer: Buffer,
        sync: Option<OperationId>,
    ) {
        let file = match self.file(segment) {
            Ok(file) => file,
            Err(error) => {
                self.fail(id, error);
                if let Some(sync) = sync {
                    self.fail(sync, DiskError::CANCELLED);
                }
                return;
            }
        };
        let (bytes, start, size) = buffer.into_parts();
        let write = self.place(Flight { id, kind: Kind::Write { start, size, sync: None } });
        let sync = sync
            .map(|id| self.place(Flight { id, kind: Kind::Sync { segment, after: Some(write) } }));
        if let Some(Flight { kind: Kind::Write { sync: place, .. }, .. }) = &mut self.flights[write]
        {
            *place = sync;
        }
        let sync = sync.map(|index| index as u64);
        ring.write_file(&file, bytes, start..start + size, u64::from(offset), write as u64, sync);
    }

    fn start_sync(
        &mut self,
        ring: &mut NetRing,
        id: OperationId,
        segment: SegmentId,
        after: Option<usize>,
    ) {
        match self.file(segment) {
            Ok(file) => {
                let index = self.place(Flight { id, kind: Kind::Sync { segment, after } });
                ring.sync_file(&file, index as u64);
            }
            Err(error) => self.fail(id, error),
        }
    }

    fn sync_again(&mut self, ring: &mut NetRing, index: usize, segment: SegmentId) {
        match self.file(segment) {
            Ok(file) => ring.sync_file(&file, index as u64),
            Err(error) => {
                if let Some(Flight { id, .. }) = self.flights[index].take() {
                    self.free.push(index);
                    self.fail(id, error);
                }
            }
        }
    }

    fn start_read(
        &mut self,
        ring: &mut NetRing,
        id: OperationId,
        segment: SegmentId,
        offset: u32,
        size: u32,
    ) {
        match self.file(segment) {
            Ok(file) => {
                let (bytes, start, size) = Buffer::zeroed(size as usize).into_parts();
                let index = self.place(Flight { id, kind: Kind::Read { start, size } });
                let range = start..start + size;
                ring.read_file(&file, bytes, range, u64::from(offset), index as u64);
            }
            Err(error) => self.fail(id, error),
        }
    }

    fn place(&mut self, flight: Flight) -> usize {
        if let Some(index) = self.free.pop() {
            self.flights[index] = Some(flight);
            return index;
        }
        self.flights.push(Some(flight));
        self.flights.len() - 1
    }

    fn fail(&mut self, id: OperationId, error: DiskError) {
        self.done.push_back((id, Completion::Failed(error)));
    }

    fn ask(&mut self, id: OperationId, segment: SegmentId, task: Task) {
        let job = Job {
            id,
            segment,
            task,
            directory: self.directory.clone(),
            answers: self.answers.clone(),
            waker: self.waker.clone(),
        };
        if !self.waiting.is_empty() {
            self.waiting.push_back(job);
        } else if let Some(job) = offer(&self.jobs, job) {
            self.waiting.push_back(job);
        }
    }

    fn file(&mut self, segment: SegmentId) -> Result<Arc<File>, DiskError> {
        if let Some(index) = self.files.iter().rposition(|(open, _)| *open == segment) {
            let found = self.files.remove(index);
            let file = Arc::clone(&found.1);
            self.files.push(found);
            return Ok(file);
        }
        let file = self.directory.open_segment(segment).map_err(|error| disk_error(&error))?;
        self.keep(segment, Arc::clone(&file));
        Ok(file)
    }

    fn keep(&mut self, segment: SegmentId, file: Arc<File>) {
        if self.files.len() >= OPEN_FILES_MAX {
            self.files.remove(0);
        }
        self.files.push((segment, file));
    }
}
