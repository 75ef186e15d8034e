//! Bytes on their way to or from the disk, at an address that direct I/O takes.

use std::fmt;

/// Every buffer begins at a multiple of this: the largest alignment that file systems ask of direct I/O.
pub const BUFFER_ALIGNMENT: usize = 4096;

/// Growable bytes whose first byte stands at a multiple of [`BUFFER_ALIGNMENT`].
///
/// A plain vector with a few bytes skipped in front, so that it needs no `unsafe`: the vector is never resized in
/// place, growing copies into a new one.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Buffer {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let bytes = vec![0; capacity + BUFFER_ALIGNMENT];
        let start = bytes.as_ptr().align_offset(BUFFER_ALIGNMENT);
        // `align_offset` may refuse, in theory; a buffer that is not aligned then costs a failed direct write.
        let start = if start > BUFFER_ALIGNMENT { 0 } else { start };
        Self { bytes, start, size: 0 }
    }

    /// `size` zero bytes.
    #[must_use]
    pub fn zeroed(size: usize) -> Self {
        let mut buffer = Self::with_capacity(size);
        buffer.size = size;
        buffer
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }

    /// The bytes, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// How many bytes fit without growing.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len() - BUFFER_ALIGNMENT
    }

    /// Adds bytes at the end.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.size + bytes.len();
        self.grow(end);
        self.bytes[self.start + self.size..self.start + end].copy_from_slice(bytes);
        self.size = end;
    }

    /// Adds `size` bytes at the end, for the caller to write all of them: they may be left over from earlier.
    #[inline]
    pub(crate) fn add(&mut self, size: usize) -> &mut [u8] {
        let begin = self.size;
        self.grow(begin + size);
        self.size = begin + size;
        &mut self.as_mut_slice()[begin..]
    }

    /// Adds zero bytes until there are `size`.
    pub fn pad_to(&mut self, size: usize) {
        self.grow(size);
        if size > self.size {
            self.bytes[self.start + self.size..self.start + size].fill(0);
            self.size = size;
        }
    }

    /// Forgets the bytes after the first `size`, and keeps the memory.
    pub fn truncate(&mut self, size: usize) {
        self.size = self.size.min(size);
    }

    #[inline]
    fn grow(&mut self, size: usize) {
        if size > self.capacity() {
            let mut larger = Self::with_capacity(size.max(self.capacity() * 2));
            larger.bytes[larger.start..larger.start + self.size].copy_from_slice(self.as_slice());
            larger.size = self.size;
            *self = larger;
        }
    }

    /// The vector, where the bytes begin in it, and how many they are: for whoever hands memory to the kernel.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, usize, usize) {
        (self.bytes, self.start, self.size)
    }

    /// The buffer whose parts these are, with its first `size` bytes.
    ///
    /// # Panics
    /// When they are not the parts of one buffer.
    #[must_use]
    pub fn from_parts(bytes: Vec<u8>, start: usize, size: usize) -> Self {
        assert!(start <= BUFFER_ALIGNMENT, "parts of a buffer");
        assert!(start + size <= bytes.len(), "a size within the buffer");
        Self { bytes, start, size }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_aligned_while_they_grow() {
        let mut buffer = Buffer::with_capacity(10);
        let mut expected = Vec::new();
        for round in 0..2000_u32 {
            let bytes = round.to_le_bytes();
            buffer.extend(&bytes[..(round % 5).min(4) as usize]);
            expected.extend_from_slice(&bytes[..(round % 5).min(4) as usize]);
            if round % 100 == 0 {
                buffer.pad_to(buffer.len().next_multiple_of(64));
                expected.resize(expected.len().next_multiple_of(64), 0);
            }
            assert_eq!(buffer.as_slice().as_ptr() as usize % BUFFER_ALIGNMENT, 0);
        }
        assert_eq!(buffer.as_slice(), expected);
        let (bytes, start, size) = buffer.into_parts();
        let mut buffer = Buffer::from_parts(bytes, start, size);
        assert_eq!(buffer.as_slice(), expected);
        buffer.truncate(3);
        buffer.pad_to(6);
        assert_eq!(buffer.as_slice()[3..], [0, 0, 0]);
    }
}
