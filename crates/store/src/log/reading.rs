//! Records read back from the disk, several at once.

use super::Log;
use crate::{
    Chunk, Completion, DiskError, Event, Operation, OperationId, Position, Refused, SegmentId,
    format::{RECORD_HEADER_SIZE, Seal},
};

/// The number of a read; unique within its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Reads that are not answered. Bounded by [`Settings::reads_max`](crate::Settings::reads_max).
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    /// Not written yet: asked for as soon as they are.
    waiting: Vec<(ReadId, Position, u32)>,
    in_flight: Vec<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    operation: OperationId,
    read: ReadId,
    segment: SegmentId,
    seal: Seal,
    block_size: u32,
    base: u32,
    start: u32,
    end: u32,
    size: u32,
}

impl Reads {
    pub(super) fn has(&self, id: OperationId) -> bool {
        self.in_flight.iter().any(|read| read.operation == id)
    }
}

impl Log {
    /// Reads the record at `position`, and what follows it, `size` bytes or a little more; the answer comes as
    /// [`Event::Read`]. What is not written yet is written first. Reads are answered in any order.
    ///
    /// # Errors
    /// [`Refused::Busy`] when too many are under way; [`Refused::Failed`] when the segment is not there, or what stood at
    /// this position was given up.
    pub fn read(&mut self, position: Position, size: u32) -> Result<ReadId, Refused> {
        if self.reads.waiting.len() + self.reads.in_flight.len() >= self.settings.reads_max {
            return Err(Refused::Busy);
        }
        let Some(segment) = self.segment(position.segment) else { return Err(Refused::Failed) };
        let written = position.offset < segment.written_end;
        if position.offset >= segment.end {
            return Err(Refused::Failed);
        }
        let read = ReadId(self.reads.next);
        self.reads.next += 1;
        self.statistics.reads += 1;
        if written {
            self.issue_read(read, position, size);
        } else {
            self.reads.waiting.push((read, position, size));
            self.flush();
            self.advance();
        }
        Ok(read)
    }

    fn issue_read(&mut self, read: ReadId, position: Position, size: u32) {
        let block_size = self.settings.block_size;
        let Some(segment) = self.segment(position.segment) else {
            self.events.push_back(Event::Read { read, result: Err(DiskError::IO) });
            return;
        };
        let (id, seal, written_end) = (segment.id, segment.seal, segment.written_end);
        let (own_block_size, segment_size) = (segment.block_size, segment.size);
        let base = position.offset / block_size * block_size;
        let wanted = position.offset.saturating_add(size.max(RECORD_HEADER_SIZE as u32));
        let size = wanted.min(written_end).next_multiple_of(block_size).min(segment_size) - base;
        let operation = self.push_operation(Operation::Read { segment: id, offset: base, size });
        self.reads.in_flight.push(InFlight {
            operation,
            read,
            segment: id,
            seal,
            block_size: own_block_size,
            base,
            start: position.offset,
            end: written_end,
            size,
        });
    }

    /// Starts reads that waited for a write.
    pub(super) fn issue_waiting_reads(&mut self) {
        let mut index = 0;
        while index < self.reads.waiting.len() {
            let (read, position, size) = self.reads.waiting[index];
            let end =
                self.segment(position.segment).map_or(u32::MAX, |segment| segment.written_end);
            if position.offset < end {
                self.reads.waiting.swap_remove(index);
                self.issue_read(read, position, size);
            } else {
                index += 1;
            }
        }
    }

    /// What was to be read is given up.
    pub(super) fn fail_waiting_reads(&mut self) {
        for (read, ..) in std::mem::take(&mut self.reads.waiting) {
            self.events.push_back(Event::Read { read, result: Err(DiskError::IO) });
        }
    }

    pub(super) fn read_completed(&mut self, id: OperationId, completion: Completion) {
        let index = self.reads.in_flight.iter().position(|read| read.operation == id);
        let Some(index) = index else { return };
        let InFlight { read, segment, seal, block_size, base, start, end, size: asked, .. } =
            self.reads.in_flight.swap_remove(index);
        let result = match completion {
            Completion::Read(buffer) => {
                self.statistics.bytes_read += buffer.len() as u64;
                // A file may have been cut short: what it has is good, and it has no more.
                let file_end = base.saturating_add(u32::try_from(buffer.len()).unwrap_or(u32::MAX));
                let end = if buffer.len() < asked as usize { end.min(file_end) } else { end };
                Ok(Chunk { seal, block_size, segment, base, end, start, buffer })
            }
            Completion::Failed(error) => Err(error),
            _ => Err(DiskError::IO),
        };
        self.events.push_back(Event::Read { read, result });
    }
}
