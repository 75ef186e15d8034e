//! A piece of a segment that was read back, and the records in it.

use crate::{
    Buffer, Position, Record, SegmentId,
    format::{RECORD_ALIGNMENT, Seal, Step, record_size, step},
};

/// A piece of one segment in memory.
#[derive(Debug)]
pub struct Chunk {
    pub(crate) seal: Seal,
    pub(crate) block_size: u32,
    pub(crate) segment: SegmentId,
    /// Where the piece begins in the segment.
    pub(crate) base: u32,
    /// Where the records of the segment end, as far as they could be read.
    pub(crate) end: u32,
    /// Where the first record of interest is.
    pub(crate) start: u32,
    pub(crate) buffer: Buffer,
}

/// Why a record is not in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// It is, or begins, outside: read from its position with this size.
    Outside {
        /// Bytes to ask for.
        size: u32,
    },
    /// There is no sound record at this position.
    Damaged,
}

impl Chunk {
    /// The record at this position.
    ///
    /// # Errors
    /// When it is not wholly in this chunk, or damaged.
    pub fn record(&self, position: Position) -> Result<Record<'_>, ChunkError> {
        let least = record_size(0) as u32;
        if position.segment != self.segment
            || position.offset < self.base
            || position.offset >= self.end
            || !position.offset.is_multiple_of(RECORD_ALIGNMENT as u32)
        {
            return Err(ChunkError::Outside { size: least });
        }
        match self.step(position.offset) {
            Step::Record { record, .. } => Ok(record),
            Step::Incomplete { needed } => Err(ChunkError::Outside { size: needed as u32 }),
            Step::Batch { .. } | Step::Padding { .. } | Step::Damaged => Err(ChunkError::Damaged),
        }
    }

    /// All whole records from the position that was asked for on, in order, and where to read on.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { chunk: self, offset: self.start, damaged: false, rest: Rest::Unknown }
    }

    fn step(&self, offset: u32) -> Step<'_> {
        let bytes = self.buffer.as_slice();
        let bytes = bytes.get((offset - self.base) as usize..).unwrap_or_default();
        step(self.seal, self.block_size, offset, self.end, bytes)
    }
}

/// What there is to read behind a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The records of the chunk have not been walked to the end.
    Unknown,
    /// The segment has no more.
    Nothing,
    /// Read from here, with at least this size.
    From {
        /// Where.
        position: Position,
        /// How many bytes at least.
        size: u32,
    },
}

/// The records of a [`Chunk`].
#[derive(Debug)]
pub struct Records<'a> {
    chunk: &'a Chunk,
    offset: u32,
    damaged: bool,
    rest: Rest,
}

impl Records<'_> {
    /// What there is behind the chunk; known when the last record has been taken.
    #[must_use]
    pub fn rest(&self) -> Rest {
        self.rest
    }

    /// Whether damaged bytes were stepped over.
    #[must_use]
    pub fn damaged(&self) -> bool {
        self.damaged
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (Position, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let offset = self.offset;
            if offset >= self.chunk.end {
                self.rest = Rest::Nothing;
                return None;
            }
            match self.chunk.step(offset) {
                Step::Record { record, next, .. } => {
                    self.offset = next;
                    return Some((Position { segment: self.chunk.segment, offset }, record));
                }
                Step::Batch { next, .. } | Step::Padding { next } => self.offset = next,
                Step::Incomplete { needed } => {
                    let position = Position { segment: self.chunk.segment, offset };
                    self.rest = Rest::From { position, size: needed as u32 };
                    return None;
                }
                Step::Damaged => {
                    self.damaged = true;
                    self.offset += RECORD_ALIGNMENT as u32;
                }
            }
        }
    }
}
