//! The buffers that receives land in, shared with the kernel through a buffer ring.
//!
//! A connection takes a buffer only when bytes arrive for it, so idle connections hold none. We publish free buffers
//! at the ring's tail; the kernel takes them from its head and names the one it took in the completion.
//!
//! The kernel goes round all buffers that it has, so each of them is soon touched and stays in memory. Therefore few are
//! published at first ([`PUBLISHED_FIRST`]), and as many again each time they run out, up to the configured number: a
//! ring whose connections mostly sleep keeps a few pages, a busy one all of them.
//!
//! # Invariants
//! - A buffer is either the kernel's (between our publishing it and the completion that names it) or ours (a
//!   [`Received`](crate::Received) stands for it). It is read and written by its owner only.
//! - There are as many ring entries as buffers, so publishing never overtakes the kernel.

use std::{
    io,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::{
    sys::Mapping,
    uring::{BUFFER_GROUP, Uring},
};

/// Buffers that the kernel is given at the start: 64 KiB at the usual size.
const PUBLISHED_FIRST: u32 = 16;

#[derive(Debug)]
pub(crate) struct Buffers {
    /// The ring's entries; the first also holds the tail.
    entries: Mapping,
    memory: Mapping,
    size: u32,
    count: u32,
    tail: u16,
    /// How many have ever been published; those with higher numbers have not.
    published: u32,
    /// How many are ours.
    taken: u32,
}

impl Buffers {
    /// Makes the buffers and registers them. `count` is a power of two.
    pub(crate) fn new(uring: &Uring, count: u32, size: u32) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two());
        let entries = Mapping::new(count as usize * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(count as usize * size as usize)?;
        let mut buffers = Self { entries, memory, size, count, tail: 0, published: 0, taken: 0 };
        // SAFETY: the mapping holds `count` entries, is page-aligned, and outlives the registration: see `release`.
        unsafe {
            uring.inner().submitter().register_buf_ring_with_flags(
                buffers.entries.start().as_ptr() as u64,
                count as u16,
                BUFFER_GROUP,
                0,
            )?;
        }
        buffers.publish(PUBLISHED_FIRST);
        Ok(buffers)
    }

    /// They ran out: gives the kernel as many more as it had, if there are more.
    #[cold]
    pub(crate) fn grow(&mut self) {
        self.publish(self.published);
    }

    fn publish(&mut self, more: u32) {
        let end = (self.published + more).min(self.count);
        for id in self.published..end {
            self.put(id as u16);
        }
        self.published = end;
    }

    /// Bytes of one buffer.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// How many the kernel may take.
    #[inline]
    pub(crate) fn available(&self) -> u32 {
        self.published - self.taken
    }

    /// How many nobody holds, published or not.
    pub(crate) fn free(&self) -> u32 {
        self.count - self.taken
    }

    /// Notes that a completion named the buffer: it is ours now.
    #[inline]
    pub(crate) fn take(&mut self, id: u16) {
        debug_assert!(u32::from(id) < self.count);
        self.taken += 1;
        debug_assert!(self.taken <= self.count);
    }

    /// Publishes a buffer that is ours: it is the kernel's from here on.
    #[inline]
    pub(crate) fn give(&mut self, id: u16) {
        self.put(id);
        self.taken -= 1;
    }

    #[inline]
    fn put(&mut self, id: u16) {
        let index = u32::from(self.tail) & (self.count - 1);
        let address = self.address(id).as_ptr() as u64;
        let first: NonNull<BufRingEntry> = self.entries.start().cast();
        // SAFETY: `index` is below `count`, the number of entries in the mapping. The entry is ours to write: the
        // kernel looks only at entries between its head and the tail, and this one is behind both.
        unsafe {
            let entry = first.add(index as usize).as_mut();
            entry.set_addr(address);
            entry.set_len(self.size);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, is aligned and valid for the life of the mapping, and is touched
        // by atomic accesses only, ours and the kernel's.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(first.as_ptr()).cast_mut()) };
        // Pairs with the kernel's acquiring load of the tail: it sees the entry once it sees the tail.
        tail.store(self.tail, Ordering::Release);
    }

    /// The first `size` bytes of a buffer that is ours.
    #[inline]
    pub(crate) fn bytes(&self, id: u16, size: u32) -> &[u8] {
        assert!(size <= self.size);
        // SAFETY: the range lies in the mapping; whoever calls holds the `Received` that stands for the buffer, so
        // neither the kernel nor anybody else writes it while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.address(id).as_ptr(), size as usize) }
    }

    /// The same, to be changed in place.
    #[inline]
    pub(crate) fn bytes_mut(&mut self, id: u16, size: u32) -> &mut [u8] {
        assert!(size <= self.size);
        // SAFETY: as for `bytes`, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.address(id).as_ptr(), size as usize) }
    }

    #[inline]
    fn address(&self, id: u16) -> NonNull<u8> {
        assert!(u32::from(id) < self.count);
        // SAFETY: the id is below the count, so the offset lies in the mapping.
        unsafe { self.memory.start().add(usize::from(id) * self.size as usize) }
    }

    /// Takes the buffers from the kernel. To be called when no receive is in flight any more, before dropping.
    pub(crate) fn release(&mut self, uring: &Uring) -> io::Result<()> {
        uring.inner().submitter().unregister_buf_ring(BUFFER_GROUP)
    }

    /// Leaves the memory to a kernel that may still write it.
    pub(crate) fn leak(&mut self) {
        self.entries.leak();
        self.memory.leak();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_and_writable() {
        let mut uring = Uring::new(2, 4).unwrap();
        let mut buffers = Buffers::new(&uring, 4, 100).unwrap();
        assert_eq!(buffers.available(), 4);
        for id in 0..4 {
            buffers.take(id);
            buffers.bytes_mut(id, 100).fill(id as u8);
        }
        assert_eq!(buffers.available(), 0);
        for id in 0..4 {
            assert_eq!(buffers.bytes(id, 100), [id as u8; 100]);
            buffers.give(id);
        }
        assert_eq!(buffers.available(), 4);
        buffers.release(&uring).unwrap();
        assert!(!uring.has_completions());
    }

    #[test]
    fn more_are_published_when_they_run_out() {
        let uring = Uring::new(2, 4).unwrap();
        let mut buffers = Buffers::new(&uring, 64, 100).unwrap();
        let mut counts = vec![buffers.available()];
        for _ in 0..3 {
            buffers.grow();
            counts.push(buffers.available());
        }
        assert_eq!(counts, [PUBLISHED_FIRST, 2 * PUBLISHED_FIRST, 64, 64]);
        buffers.release(&uring).unwrap();
    }

    #[test]
    #[should_panic(expected = "size <= self.size")]
    fn reading_beyond_a_buffer_is_refused() {
        let uring = Uring::new(2, 4).unwrap();
        let buffers = Buffers::new(&uring, 4, 100).unwrap();
        let _ = buffers.bytes(0, 101);
    }
}
