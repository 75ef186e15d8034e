//! What the log asks of a disk, and what the disk answers: all of it on one screen.
//!
//! # What a disk has to keep
//! - Operations may run at the same time and complete in any order, with one exception: a `Sync` covers every `Write` to
//!   its segment that was asked for before it. A disk that starts it together with such a write must order the two, and
//!   answer the sync with an error when that write fails or is short.
//! - `Created` means that the file, its size and its directory entry are on the disk, and that it reads as zeroes.
//! - A `Write` or `Create` is answered with success only when it was done whole.
//! - A `Removed` file may come back after a power cut. Nothing else that was synced may change.

use std::fmt;

use crate::{Buffer, SegmentId};

/// The number of an operation in flight; unique within its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What to do.
#[derive(Debug)]
pub enum Operation {
    /// Make a file for this segment, of `size` zero bytes, such that later writes and syncs in it change no metadata.
    Create {
        /// Which.
        segment: SegmentId,
        /// Its size in bytes, a multiple of the block size.
        size: u32,
    },
    /// Write the bytes there. Offset and size are multiples of the block size; the range lies in the segment.
    Write {
        /// Which segment.
        segment: SegmentId,
        /// Where in it.
        offset: u32,
        /// What. Comes back with the completion.
        buffer: Buffer,
    },
    /// Bring everything written to this segment to the disk itself.
    Sync {
        /// Which.
        segment: SegmentId,
    },
    /// Read that many bytes. Offset and size are multiples of the block size; the range lies in the segment.
    Read {
        /// Which segment.
        segment: SegmentId,
        /// Where in it.
        offset: u32,
        /// How many bytes.
        size: u32,
    },
    /// Remove the segment's file. Missing already is success.
    Remove {
        /// Which.
        segment: SegmentId,
    },
}

/// How an operation went.
#[derive(Debug)]
pub enum Completion {
    /// A `Create` is done.
    Created,
    /// A `Write` is done; the buffer comes back for its next use.
    Written(Buffer),
    /// A `Sync` is done.
    Synced,
    /// What a `Read` read: all of it, or as much as there is before the end of the file, and at least one byte.
    Read(Buffer),
    /// A `Remove` is done.
    Removed,
    /// The operation failed, or was not done because the one before it failed. A partial `Create` leaves nothing behind.
    Failed(DiskError),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskError {
    /// The system's error number.
    pub errno: i32,
}

impl DiskError {
    /// Input or output failed.
    pub const IO: Self = Self { errno: 5 };
    /// No space left on the device.
    pub const NO_SPACE: Self = Self { errno: 28 };
    /// The quota is used up.
    pub const QUOTA: Self = Self { errno: 122 };
    /// Not done, because the operation before it failed.
    pub const CANCELLED: Self = Self { errno: 125 };

    /// Whether more room would help.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.errno == Self::NO_SPACE.errno || self.errno == Self::QUOTA.errno
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.errno).fmt(formatter)
    }
}

impl std::error::Error for DiskError {}
