//! Cleaning: segments go, strictly the oldest first, when what still counts of them has been copied forward.
//!
//! The log does not know what counts; its owner does. [`Log::cleaning`] names the oldest segment when copying is worth
//! while; the owner reads it, appends again what still counts ([`Log::append_copy`]), a slice at a time, and says
//! [`Log::retire`]. The file goes when the copies are synced and a later batch header, also synced, says that the
//! segment is done with: so neither a crash in between nor a file that comes back after a power cut does harm.

use super::{Closing, Log, Segment};
use crate::{
    Appended, Completion, Condition, Event, Level, Operation, OperationId, Position, Refused, Room,
    SegmentId, Sequence,
    format::{SegmentHeader, record_size},
};

/// A copy that is not synced yet.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) sequence: Sequence,
    pub(super) from: Position,
    pub(super) to: Position,
}

/// A segment on its way out.
#[derive(Debug)]
pub(super) enum Retiring {
    /// Until the copies, in batches up to this one, are synced.
    Copying { segment: Segment, batch: u64 },
    /// Until the batch is synced that says that the segment is done with.
    Stating { segment: SegmentId, batch: u64 },
    /// Until its file is gone.
    Removing { segment: SegmentId, operation: OperationId },
}

impl Retiring {
    pub(super) fn id(&self) -> SegmentId {
        match self {
            Self::Copying { segment, .. } => segment.id,
            Self::Stating { segment, .. } | Self::Removing { segment, .. } => *segment,
        }
    }
}

impl Log {
    /// A record counts no more: its queue gave it up, something newer replaced it. `payload_size` as it was appended.
    /// Records that say nothing but that something older is dead should be released as soon as they are appended.
    ///
    /// What is live only decides when cleaning is worth while; a record released by mistake is not lost.
    #[inline]
    pub fn release(&mut self, position: Position, payload_size: usize) {
        if let Some(segment) = self.segment(position.segment) {
            segment.live = segment.live.saturating_sub(record_size(payload_size) as u64);
        }
    }

    /// The oldest segment, when it pays to copy what counts of it and give it back: nothing of it counts, or the log is
    /// more than twice as large as what counts of it, or the disk is full and there is something to be gained; and there
    /// is room for the copies. One at a time: `None` while one is on its way out.
    #[must_use]
    pub fn cleaning(&self) -> Option<SegmentId> {
        if self.retiring.is_some()
            || self.condition == Condition::Failed
            || self.closing != Closing::No
        {
            return None;
        }
        let oldest = self.segments.front()?;
        if self.open && self.segments.len() == 1 {
            return None;
        }
        if oldest.live == 0 {
            return Some(oldest.id);
        }
        let total: u64 = self.segments.iter().map(|segment| u64::from(segment.end)).sum();
        let live = self.live();
        let open_size = self.segments.back().map_or(0, |open| u64::from(open.size));
        let worth_while = total > 2 * live + 2 * open_size
            || (self.condition == Condition::Full
                && total - live.min(total) > u64::from(oldest.end));
        // Copies are packed into batches of their own: allow for the headers and the padding.
        let needed = oldest.live + oldest.live / 8 + 4 * u64::from(self.settings.block_size);
        (worth_while && self.room_left() > needed).then_some(oldest.id)
    }

    /// Bytes of records that count.
    pub(super) fn live(&self) -> u64 {
        self.segments.iter().map(|segment| segment.live).sum()
    }

    /// Bytes that can be appended without a new segment, the reserve included.
    fn room_left(&self) -> u64 {
        let open = match self.segments.back() {
            Some(open) if self.open => u64::from(open.size - open.end),
            _ => 0,
        };
        open + self.prepare.ready_size()
    }

    /// Where the first batch of a segment is: where to begin to read it.
    #[must_use]
    pub fn first_position(&self, segment: SegmentId) -> Position {
        // An earlier life may have had blocks of another size.
        let found = self.segments.binary_search_by_key(&segment, |found| found.id);
        let block_size = found.map_or(self.settings.block_size, |at| self.segments[at].block_size);
        let offset = SegmentHeader::batches_start(block_size);
        Position { segment, offset }
    }

    /// Appends again what stands at `from`, in the segment that is being cleaned. Should the disk fail before the copy is
    /// synced, [`Failure::moved_back`](crate::Failure::moved_back) names both positions.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_copy(
        &mut self,
        kind: u8,
        parts: &[&[u8]],
        from: Position,
    ) -> Result<Appended, Refused> {
        let appended = self.append(kind, parts, Level::Memory, Room::Reserve)?;
        let Appended { position: to, sequence } = appended;
        self.moves.push_back(Move { sequence, from, to });
        Ok(appended)
    }

    /// All that counts of this segment has been copied: it may go.
    ///
    /// # Panics
    /// When it is not the one that [`Log::cleaning`] named.
    pub fn retire(&mut self, segment: SegmentId) {
        assert!(self.retiring.is_none(), "one segment at a time");
        assert!(
            self.segments.front().is_some_and(|oldest| oldest.id == segment),
            "the oldest segment goes first"
        );
        assert!(!self.open || self.segments.len() > 1, "the open segment stays");
        let segment = self.segments.pop_front().expect("checked above");
        let gathers = self.gather.header_at.is_some();
        let batch = self.gather.number - u64::from(!gathers);
        self.retiring = Some(Retiring::Copying { segment, batch });
        self.flush();
        self.advance();
    }

    pub(super) fn advance_retiring(&mut self) {
        let stays = self.condition == Condition::Failed;
        match &mut self.retiring {
            Some(Retiring::Copying { segment, batch })
                if !stays && (self.synced_batch >= *batch || self.synced == self.appended) =>
            {
                let segment = segment.id;
                let next = self.segments.front().map(|oldest| oldest.id);
                self.oldest_stated = next.unwrap_or(SegmentId(segment.0 + 1));
                let batch = self.gather.number;
                self.retiring = Some(Retiring::Stating { segment, batch });
                self.batch_wanted = true;
            }
            Some(Retiring::Stating { segment, batch }) if !stays && self.synced_batch >= *batch => {
                let segment = *segment;
                let operation = self.push_operation(Operation::Remove { segment });
                self.retiring = Some(Retiring::Removing { segment, operation });
            }
            _ => {}
        }
    }

    /// After a failure: copies that were not synced are none. What was synced stays so.
    pub(super) fn undo_retiring(&mut self) {
        match self.retiring.take() {
            Some(Retiring::Copying { segment, .. }) => self.segments.push_front(segment),
            Some(Retiring::Stating { segment, .. }) => {
                self.retiring = Some(Retiring::Stating { segment, batch: self.gather.number });
            }
            other => self.retiring = other,
        }
    }

    /// A removal has come back.
    pub(super) fn removed(&mut self, id: OperationId, completion: Completion) {
        match completion {
            Completion::Written(buffer) | Completion::Read(buffer) => self.give_buffer(buffer),
            Completion::Removed => self.prepare.forget_refusals(),
            Completion::Failed(_) | Completion::Created | Completion::Synced => {}
        }
        if let Some(Retiring::Removing { segment, operation }) = self.retiring
            && operation == id
        {
            // A file that could not be removed is ignored from now on, by the next start too.
            self.retiring = None;
            self.statistics.segments_retired += 1;
            self.events.push_back(Event::Retired(segment));
        }
    }
}
