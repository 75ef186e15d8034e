//! What the log tells its owner.

use crate::{Chunk, DiskError, Position, ReadId, SegmentId, Sequence};

/// Something that the owner asked for, or should know.
#[derive(Debug)]
pub enum Event {
    /// A [`Log::read`](crate::Log::read) is answered.
    Read {
        /// Which.
        read: ReadId,
        /// What was read.
        result: Result<Chunk, DiskError>,
    },
    /// A retired segment's file is gone.
    Retired(SegmentId),
    /// The disk lets the log do more or less than before.
    Condition(Condition),
}

/// What the disk lets the log do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Everything.
    Healthy,
    /// No segment can be made: records are taken as long as there is prepared room. Call
    /// [`Log::retry`](crate::Log::retry) now and then.
    Full,
    /// A write or a sync has failed: no record is taken. Call [`Log::take_failure`](crate::Log::take_failure), then
    /// [`Log::retry`](crate::Log::retry) now and then.
    Failed,
}

/// What a failed write or sync took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The segment in which it happened. It takes no more records; what was synced in it stays good.
    pub segment: SegmentId,
    /// The first record that is not kept.
    pub first: Sequence,
    /// The last record that is not kept; before `first` when there is none. Their positions mean nothing any more. Append
    /// again what must be kept.
    pub last: Sequence,
    /// Why.
    pub error: DiskError,
    /// Copies among them, as (copy, original): the original counts again.
    pub moved_back: Vec<(Position, Position)>,
}
