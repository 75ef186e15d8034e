//! The part of a segment that is in memory while it is walked.

use std::io;

use super::Segments;
use crate::SegmentId;

/// Bytes read at a time.
const READ_SIZE: usize = 1 << 20;

/// A window that moves forward through one segment after the other. As large as one read and one record.
#[derive(Debug, Default)]
pub(super) struct Window {
    segment: SegmentId,
    /// Where the window begins in the segment.
    base: u32,
    bytes: Vec<u8>,
}

impl Window {
    /// Goes to the start of a segment.
    pub(super) fn begin(&mut self, segment: SegmentId) {
        self.segment = segment;
        self.base = 0;
        self.bytes.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where `offset` is in the bytes of the window, of which there are at least `needed` from there on; fewer only when
    /// the file ends (`end` at the latest) before.
    pub(super) fn at(
        &mut self,
        segments: &mut impl Segments,
        offset: u32,
        needed: usize,
        end: u32,
    ) -> io::Result<usize> {
        let have = (self.base as usize + self.bytes.len()).saturating_sub(offset as usize);
        let wanted = needed.min((end - offset) as usize);
        if offset < self.base || have < wanted {
            self.load(segments, offset, wanted, end)?;
        }
        Ok(((offset - self.base) as usize).min(self.bytes.len()))
    }

    fn load(
        &mut self,
        segments: &mut impl Segments,
        offset: u32,
        wanted: usize,
        end: u32,
    ) -> io::Result<()> {
        let kept = if offset < self.base {
            0
        } else {
            let behind = ((offset - self.base) as usize).min(self.bytes.len());
            self.bytes.drain(..behind);
            self.bytes.len()
        };
        self.bytes.truncate(kept);
        self.base = offset;
        let size = wanted.max(READ_SIZE).min((end - offset) as usize);
        self.bytes.resize(size.max(kept), 0);
        let read = segments.read(
            self.segment,
            u64::from(offset) + kept as u64,
            &mut self.bytes[kept..],
        )?;
        self.bytes.truncate(kept + read);
        Ok(())
    }
}
