//! Group commit: one write and one sync at a time for everything that has gathered.

use super::{Closing, Log};
use crate::{
    Buffer, Completion, Condition, DiskError, Failure, Level, Operation, OperationId, SegmentId,
    Sequence,
    format::{BatchHeader, SegmentHeader},
};

/// A batch that is cut and waits for its turn.
#[derive(Debug)]
pub(super) struct Batch {
    number: u64,
    segment: SegmentId,
    start: u32,
    buffer: Buffer,
    last: Sequence,
    level: Level,
}

/// The batch that the disk has.
#[derive(Debug)]
pub(super) struct Commit {
    number: u64,
    segment: SegmentId,
    /// Where the segment will be readable up to.
    end: u32,
    size: usize,
    last: Sequence,
    write: Option<OperationId>,
    sync: Option<OperationId>,
    /// Whether it ends with a sync.
    syncs: bool,
}

impl Commit {
    pub(super) fn has(&self, id: OperationId) -> bool {
        self.write == Some(id) || self.sync == Some(id)
    }
}

impl Log {
    /// Cuts what has gathered in the segment that is full, to be written and synced before anything of the next one.
    pub(super) fn seal(&mut self) {
        if !self.open {
            return;
        }
        if !self.gather.buffer.is_empty() || self.synced < self.appended {
            let batch = self.cut(Level::Fsync);
            self.sealed.push_back(batch);
        }
        self.open = false;
    }

    /// Ends the batch that gathers and begins another at the next block.
    fn cut(&mut self, level: Level) -> Batch {
        let block_size = self.settings.block_size as usize;
        let next = self.take_buffer();
        let segment = self.segments.back_mut().expect("a segment is open");
        let start = self.gather.start;
        let mut buffer = std::mem::replace(&mut self.gather.buffer, next);
        let gathered = buffer.len();
        if let Some(at) = self.gather.header_at.take() {
            buffer.pad_to(gathered.next_multiple_of(block_size));
            let header = BatchHeader {
                size: (buffer.len() - at) as u32,
                records: self.gather.records,
                first: self.gather.first,
                // Says nothing as long as the header that names what earlier lives lost may be lost itself.
                synced: if self.gap_stated.is_some() { Sequence(0) } else { self.synced },
                oldest: self.oldest_stated,
                closes: self.closing == Closing::Marking,
            };
            let header = header.encode(segment.seal, start + at as u32);
            buffer.as_mut_slice()[at..at + header.len()].copy_from_slice(&header);
        }
        if !buffer.is_empty() {
            segment.end = start + buffer.len() as u32;
        }
        self.unwritten_size += buffer.len() - gathered;
        let batch = Batch {
            number: self.gather.number,
            segment: segment.id,
            start,
            buffer,
            last: self.appended,
            level: level.max(self.gather.level),
        };
        self.gather.number += 1;
        self.gather.start = segment.end;
        self.gather.records = 0;
        self.gather.level = Level::Memory;
        batch
    }

    /// Gives the disk the next batch, when it has none and there is one worth writing.
    pub(super) fn start_commit(&mut self) {
        if self.commit.is_some() || (self.condition == Condition::Failed && !self.probing) {
            return;
        }
        let batch = match self.sealed.pop_front() {
            Some(batch) => batch,
            None => match self.next_batch() {
                Some(batch) => batch,
                None => return,
            },
        };
        let Batch { number, segment, start, buffer, last, level } = batch;
        let (size, end) = (buffer.len(), start + buffer.len() as u32);
        let syncs = level == Level::Fsync;
        let write = (size > 0).then(|| {
            self.statistics.writes += 1;
            self.statistics.bytes_written += size as u64;
            self.push_operation(Operation::Write { segment, offset: start, buffer })
        });
        let sync = syncs.then(|| {
            self.statistics.syncs += 1;
            self.push_operation(Operation::Sync { segment })
        });
        self.commit = Some(Commit { number, segment, end, size, last, write, sync, syncs });
    }

    /// The batch of the open segment, if it is due.
    fn next_batch(&mut self) -> Option<Batch> {
        if self.batch_wanted && self.gather.header_at.is_none() && !self.make_room_for_batch() {
            // Room is being prepared; with it comes the next attempt.
            return None;
        }
        if !self.open {
            return None;
        }
        if let Some(batch) = self.sealed.pop_front() {
            return Some(batch);
        }
        let all = std::mem::take(&mut self.flush_wanted) | std::mem::take(&mut self.batch_wanted);
        let level = if all { Level::Fsync } else { self.gather.level };
        let gathered = self.gather.header_at.is_some();
        let due =
            level > Level::Memory || self.gather.buffer.len() >= self.settings.idle_write_size;
        let due = (gathered && due) || (all && self.has_unsynced());
        due.then(|| self.cut(level))
    }

    /// Begins a batch that may stay without records.
    fn make_room_for_batch(&mut self) -> bool {
        let block_size = self.settings.block_size;
        let fits = self.open
            && self.segments.back().is_some_and(|open| open.end + block_size <= open.size);
        if !fits {
            let needed = SegmentHeader::batches_start(block_size) + block_size;
            let Some(index) = self.prepare.first_of_size(needed) else { return false };
            self.open_ready(index);
        }
        self.begin_batch();
        true
    }

    /// The commit's write or sync has come back.
    pub(super) fn committed(&mut self, id: OperationId, completion: Completion) {
        let mut commit = self.commit.take().expect("asked by its id");
        match completion {
            Completion::Written(buffer) if commit.write == Some(id) => {
                self.give_buffer(buffer);
                commit.write = None;
                self.unwritten_size -= commit.size;
                self.written = self.written.max(commit.last);
                if let Some(segment) = self.segment(commit.segment) {
                    segment.written_end = segment.written_end.max(commit.end);
                }
                self.issue_waiting_reads();
            }
            Completion::Synced if commit.sync == Some(id) => commit.sync = None,
            completion => {
                let error = match completion {
                    Completion::Failed(error) => error,
                    _ => DiskError::IO,
                };
                self.fail(commit.segment, error);
                return;
            }
        }
        if commit.write.is_some() || commit.sync.is_some() {
            self.commit = Some(commit);
        } else if commit.syncs {
            self.synced_up_to(&commit);
        }
    }

    fn synced_up_to(&mut self, commit: &Commit) {
        if std::mem::take(&mut self.probing) {
            // Nothing was appended since the failure; what it took has been told.
            self.written = self.appended;
            self.synced = self.appended;
            // While it failed, the disk may have become full.
            let full = self.prepare.is_refused();
            self.set_condition(if full { Condition::Full } else { Condition::Healthy });
            if let Some(segment) = self.failed_probe.take() {
                self.push_operation(Operation::Remove { segment });
            }
        }
        self.synced = self.synced.max(commit.last);
        self.written = self.written.max(commit.last);
        self.synced_batch = commit.number;
        if let Some(segment) = self.segment(commit.segment) {
            segment.synced_end = segment.synced_end.max(commit.end);
        }
        if self.gap_stated.is_some_and(|(segment, _)| segment <= commit.segment) {
            self.gap_stated = None;
        }
        while self.moves.front().is_some_and(|moved| moved.sequence <= self.synced) {
            self.moves.pop_front();
        }
        debug_assert!(self.synced <= self.written && self.written <= self.appended);
    }

    /// A write or a sync has failed: nothing that was not synced counts any more.
    fn fail(&mut self, segment: SegmentId, error: DiskError) {
        self.statistics.failures += 1;
        self.last_error = Some(error);
        let abandoned = self.gap_stated.take().map_or(self.synced, |(_, kept)| kept);
        self.gap = Some(self.gap.unwrap_or(abandoned));
        self.commit = None;
        self.sealed.clear();
        self.gather.buffer.truncate(0);
        self.gather.header_at = None;
        self.gather.records = 0;
        self.gather.level = Level::Memory;
        self.gather.number += 1;
        self.unwritten_size = 0;
        self.flush_wanted = false;
        self.batch_wanted = false;
        self.open = false;
        self.written = self.synced;
        self.fail_waiting_reads();
        for open in self.segments.iter_mut().rev() {
            if open.id < segment {
                break;
            }
            open.end = open.written_end;
            open.live = open.live.min(u64::from(open.end));
        }
        self.set_condition(Condition::Failed);
        if std::mem::take(&mut self.probing) {
            // A segment on trial holds nothing but its header.
            self.segments.pop_back();
            if self.failed_probe.is_none() {
                self.failed_probe = Some(segment);
            } else {
                self.push_operation(Operation::Remove { segment });
            }
            return;
        }
        let moved_back = self.moves.drain(..).map(|moved| (moved.to, moved.from)).collect();
        self.undo_retiring();
        self.failure = Some(Failure {
            segment,
            first: self.synced.next(),
            last: self.appended,
            error,
            moved_back,
        });
        // One is left out, so that the next header shows that something was given up even if no record was.
        self.appended = self.appended.next();
    }

    /// Tries whether the disk takes a new segment.
    pub(super) fn probe(&mut self) {
        let least = SegmentHeader::batches_start(self.settings.block_size);
        if let Some(index) = self.prepare.first_of_size(least + self.settings.block_size) {
            self.open_ready(index);
            self.probing = true;
            self.batch_wanted = true;
        }
    }
}
