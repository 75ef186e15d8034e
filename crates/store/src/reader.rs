//! Single records of a log that nobody writes any more, for whoever moves them elsewhere.

use std::io;

use crate::{
    Buffer, Chunk, ChunkError, LogId, Position, Record, SegmentId, Segments, format::Seal,
};

/// Bytes read at a time: what follows in the log is usually asked for next.
const READ_SIZE: usize = 256 << 10;

/// Reads records by their positions, as recovery has told them.
#[derive(Debug)]
pub struct RecordReader<S> {
    segments: S,
    id: LogId,
    chunk: Option<Chunk>,
}

impl<S: Segments> RecordReader<S> {
    /// Of the log with this identity.
    #[must_use]
    pub fn new(segments: S, id: LogId) -> Self {
        Self { segments, id, chunk: None }
    }

    /// The record at this position; `None` when there is no sound one.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn record(&mut self, position: Position) -> io::Result<Option<Record<'_>>> {
        let mut size = READ_SIZE;
        // Once for what is at hand, once for a piece that begins there, once more for one that is as large as the record.
        for _ in 0..3 {
            match self.chunk.as_ref().map(|chunk| chunk.record(position).map(drop)) {
                Some(Ok(())) => break,
                Some(Err(ChunkError::Damaged)) => return Ok(None),
                Some(Err(ChunkError::Outside { size: needed })) => {
                    size = size.max(needed as usize);
                }
                None => {}
            }
            self.chunk = Some(self.read(position, size)?);
        }
        Ok(self.chunk.as_ref().and_then(|chunk| chunk.record(position).ok()))
    }

    fn read(&mut self, position: Position, size: usize) -> io::Result<Chunk> {
        let Position { segment, offset } = position;
        let mut buffer = Buffer::zeroed(size);
        let read = self.segments.read(segment, offset.into(), buffer.as_mut_slice())?;
        buffer.truncate(read);
        let end = u32::try_from(self.segments.size(segment)?).unwrap_or(u32::MAX);
        Ok(self.chunk_of(segment, offset, end, buffer))
    }

    fn chunk_of(&self, segment: SegmentId, base: u32, end: u32, buffer: Buffer) -> Chunk {
        // The block size only says where batches begin, which nobody asks here.
        let seal = Seal::new(self.id, segment);
        Chunk { seal, block_size: 512, segment, base, end, start: base, buffer }
    }
}
