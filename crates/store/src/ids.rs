//! The small values of this room: sequences, segments, positions, levels and refusals.

use std::fmt;

/// The number of a record: 1 for the first of a log, one more for each that follows.
///
/// As a mark it means "everything up to and including"; 0 is "nothing yet". Numbers may be left out (after a crash, or
/// after a failed disk), but never come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a segment: 1 for the first of a log. Later segments have higher numbers; numbers are not used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where a record stands: what an index keeps of it. Eight bytes; orders as the log does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from the start of the segment to the record's header.
    pub offset: u32,
}

const _: () = assert!(size_of::<Position>() == 8);

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.segment, self.offset)
    }
}

/// What tells one log from every other: random, chosen when the log is made, part of each record's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId(pub [u8; 16]);

impl fmt::Debug for LogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// What somebody waits for with a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nobody waits: the record travels with the next commit that somebody waits for, with
    /// [`Log::flush`](crate::Log::flush), or when enough has gathered.
    Memory,
    /// The operating system has it: it outlives the process, not a power cut.
    Written,
    /// The disk has it.
    #[default]
    Fsync,
}

/// Which room a record may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Room {
    /// Leaves the last prepared segment alone.
    #[default]
    Normal,
    /// May use the last prepared segment as well: for deletions, and for what cleaning copies forward, so that a full
    /// disk can be emptied.
    Reserve,
}

/// Why a record was not taken. Nothing of it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Room is being prepared, or the disk does not keep up: ask again after the next completions.
    Busy,
    /// The disk is full. Heals by itself when there is room again.
    Full,
    /// A write or a sync failed: see [`Log::take_failure`](crate::Log::take_failure).
    Failed,
    /// The record is larger than any segment may be.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Busy => "the log is busy",
            Self::Full => "the disk is full",
            Self::Failed => "the disk has failed",
            Self::TooLarge => "the record is too large for the log",
        })
    }
}

impl std::error::Error for Refused {}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where it can be read, from now on.
    pub position: Position,
    /// Its number: it is kept once the log's mark for the level has reached it.
    pub sequence: Sequence,
}
