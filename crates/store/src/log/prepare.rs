//! Segments made ahead, so that a full disk is known before a record is taken.
//!
//! Two are kept ready beside the open one; the last of them is for [`Room::Reserve`]. Sizes begin small and double as the
//! log is written, up to a quarter of the bound, and further with what counts in it: what is reserved, and what has ended and is not
//! cleaned yet, stays little in a log that holds little, whatever went through it. On a full disk they halve again before giving up.

use std::collections::VecDeque;

use super::{Admitted, Log};
use crate::{
    Completion, Condition, DiskError, Operation, OperationId, Refused, Room, SegmentId, Settings,
    format::{BATCH_HEADER_SIZE, SegmentHeader},
};

/// Segments kept ready.
const READY: usize = 2;

/// A segment is at most this part of what counts in the log, and of the largest segment, whichever is more. Of the
/// default's 64 MiB that is 16 MiB: a log of which little counts is read in a fraction of a second.
const PART: u32 = 4;

#[derive(Debug)]
pub(super) struct Prepare {
    ready: VecDeque<(SegmentId, u32)>,
    creating: Option<(OperationId, SegmentId, u32)>,
    next_segment: SegmentId,
    /// The size to ask for, as long as larger records do not need more.
    size: u32,
    /// The least size that the records that came lately need.
    floor: u32,
    /// The smallest size above the least that the disk refused, until something changes.
    refused_size: Option<u32>,
    /// Why even the smallest segment could not be made, until something changes.
    error: Option<DiskError>,
}

impl Prepare {
    pub(super) fn new(next_segment: SegmentId, settings: &Settings) -> Self {
        Self {
            ready: VecDeque::new(),
            creating: None,
            next_segment,
            size: settings.segment_size_min,
            floor: 0,
            refused_size: None,
            error: None,
        }
    }

    pub(super) fn next_segment(&self) -> SegmentId {
        self.next_segment
    }

    /// Chooses sizes for a log that holds that much already: what is reserved stays a fraction of it.
    pub(super) fn grow_with(&mut self, total: u64, settings: &Settings) {
        let wanted = u32::try_from(total / 8).unwrap_or(u32::MAX);
        self.size = wanted
            .clamp(settings.segment_size_min, settings.segment_size_max)
            .next_multiple_of(settings.block_size);
    }

    /// Chooses the next size after a segment was opened; `live` bytes of the log count.
    pub(super) fn grow_after(&mut self, opened: u32, live: u64, settings: &Settings) {
        let Settings { block_size, segment_size_min, segment_size_max, .. } = *settings;
        let live_part = u32::try_from(live / u64::from(PART)).unwrap_or(u32::MAX);
        let most = live_part.max(segment_size_max / PART).clamp(segment_size_min, segment_size_max);
        let wanted = opened.saturating_mul(2).max(self.size).min(most);
        self.size = wanted.next_multiple_of(block_size);
    }

    pub(super) fn is_creating(&self, id: OperationId) -> bool {
        self.creating.is_some_and(|(creating, ..)| creating == id)
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn ready_size(&self) -> u64 {
        self.ready.iter().map(|(_, size)| u64::from(*size)).sum()
    }

    pub(super) fn is_full(&self) -> bool {
        self.ready.iter().filter(|(_, size)| *size >= self.floor).count() >= READY
    }

    pub(super) fn first_of_size(&self, size: u32) -> Option<usize> {
        self.ready.iter().position(|(_, ready)| *ready >= size)
    }

    /// Segments that the last run prepared and did not use.
    pub(super) fn adopt(&mut self, ready: &[(SegmentId, u32)], settings: &Settings) {
        self.creating = None;
        let whole = |size: u32| size / settings.block_size * settings.block_size;
        self.ready = ready.iter().map(|(segment, size)| (*segment, whole(*size))).collect();
    }

    /// Takes the next ready segment, of which there is one.
    pub(super) fn take(&mut self) -> (SegmentId, u32) {
        // A large record is the exception: the next segments need not be as large.
        self.floor = 0;
        self.ready.pop_front().expect("a segment is ready")
    }

    /// Whether not even the smallest segment could be made.
    pub(super) fn is_refused(&self) -> bool {
        self.error.is_some()
    }

    /// Whether a segment of some size could not be made.
    pub(super) fn has_refusals(&self) -> bool {
        self.error.is_some() || self.refused_size.is_some()
    }

    /// Something has changed: what was refused may work now.
    pub(super) fn forget_refusals(&mut self) {
        self.error = None;
        self.refused_size = None;
    }
}

impl Log {
    /// Where a record goes that the open segment has no room for.
    #[cold]
    pub(super) fn admit_to_next(&mut self, size: usize, room: Room) -> Result<Admitted, Refused> {
        let start = SegmentHeader::batches_start(self.settings.block_size) as usize;
        let needed =
            (start + BATCH_HEADER_SIZE + size).next_multiple_of(self.settings.block_size as usize);
        if needed > self.settings.segment_size_max as usize {
            return Err(Refused::TooLarge);
        }
        let needed = needed as u32;
        if let Some(index) = self.prepare.first_of_size(needed) {
            // Those before it are too small and stay empty.
            let left = self.prepare.ready.len() - index - 1;
            if left > 0 || room == Room::Reserve {
                return Ok(Admitted::Next(index));
            }
        }
        if self.prepare.error.is_some()
            || self.prepare.refused_size.is_some_and(|refused| needed >= refused)
        {
            return Err(Refused::Full);
        }
        self.prepare.floor = self.prepare.floor.max(needed);
        self.prepare_segments();
        Err(Refused::Busy)
    }

    /// Asks for a segment if one is missing.
    pub(super) fn prepare_segments(&mut self) {
        let prepare = &mut self.prepare;
        if prepare.creating.is_some() || prepare.error.is_some() || prepare.is_full() {
            return;
        }
        if self.condition == Condition::Failed && !prepare.ready.is_empty() {
            // One is enough to find out whether the disk works again.
            return;
        }
        let size = prepare.size.max(prepare.floor);
        let segment = prepare.next_segment;
        let id = self.push_operation(Operation::Create { segment, size });
        self.prepare.creating = Some((id, segment, size));
    }

    pub(super) fn created(&mut self, completion: Completion) {
        let (_, segment, size) = self.prepare.creating.take().expect("asked by its id");
        let prepare = &mut self.prepare;
        let error = match completion {
            Completion::Created => {
                prepare.next_segment = SegmentId(segment.0 + 1);
                prepare.ready.push_back((segment, size));
                if self.condition == Condition::Full && self.prepare.is_full() {
                    self.set_condition(Condition::Healthy);
                }
                return;
            }
            Completion::Failed(error) => error,
            _ => DiskError::IO,
        };
        let least = self.settings.segment_size_min;
        if error.is_full() && size > least {
            prepare.refused_size = Some(size);
            prepare.size = (size / 2).max(least).next_multiple_of(self.settings.block_size);
            if prepare.floor > prepare.size {
                // A record that needs this much is told that the disk is full; smaller ones may still find room.
                prepare.floor = 0;
            }
            return;
        }
        prepare.error = Some(error);
        self.last_error = Some(error);
        self.statistics.refusals += 1;
        if self.condition == Condition::Healthy {
            self.set_condition(Condition::Full);
        }
    }
}
