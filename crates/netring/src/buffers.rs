//! The buffers that receives land in, shared with the kernel through a buffer ring.
//!
//! A connection takes a buffer only when bytes arrive for it, so idle connections hold none. We publish free buffers
//! at the ring's tail; the kernel takes them from its head and names the one it took in the completion.
//!
//! The kernel goes round all buffers that it has, so each of them is soon touched and stays in memory. Therefore it gets
//! few at first ([`PUBLISHED_MIN`]), twice as many each time they run out, and fewer again when they have not run out
//! for a while ([`Buffers::trim`]): a ring whose connections mostly sleep keeps a few pages, a busy one what it needs.
//! Buffers that are not published are used last in, first out, and their memory goes back to the system.
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

/// Buffers that the kernel has at the least: 64 KiB at the usual size.
const PUBLISHED_MIN: u32 = 16;

#[derive(Debug)]
pub(crate) struct Buffers {
    /// The ring's entries; the first also holds the tail.
    entries: Mapping,
    memory: Mapping,
    size: u32,
    count: u32,
    tail: u16,
    /// How many the kernel has.
    published: u32,
    /// How many it should have.
    wanted: u32,
    /// They have run out since the last trim.
    ran_out: bool,
    /// Neither the kernel's nor in use.
    spare: Vec<u16>,
    /// How many of `spare`, from the front, hold no memory.
    spare_empty: usize,
}

impl Buffers {
    /// Makes the buffers and registers them. `count` is a power of two.
    pub(crate) fn new(uring: &Uring, count: u32, size: u32) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two());
        let entries = Mapping::new(count as usize * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(count as usize * size as usize)?;
        let mut buffers = Self {
            entries,
            memory,
            size,
            count,
            tail: 0,
            published: 0,
            wanted: PUBLISHED_MIN.min(count),
            ran_out: false,
            spare: (0..count).rev().map(|id| id as u16).collect(),
            spare_empty: count as usize,
        };
        // SAFETY: the mapping holds `count` entries, is page-aligned, and outlives the registration: see `release`.
        unsafe {
            uring.inner().submitter().register_buf_ring_with_flags(
                buffers.entries.start().as_ptr() as u64,
                count as u16,
                BUFFER_GROUP,
                0,
            )?;
        }
        buffers.publish();
        Ok(buffers)
    }

    /// They ran out during the last turn: gives the kernel twice as many, if there are so many. Once a turn, however many
    /// receives found none, and whatever has come back since: what counts is how many the kernel had then.
    #[cold]
    pub(crate) fn grow(&mut self) {
        self.ran_out = true;
        self.wanted = (self.wanted * 2).min(self.count);
        self.publish();
    }

    /// To be called now and then, every few seconds: takes back half of what the kernel has if that was enough since the
    /// last call, and gives the memory of unused buffers back to the system.
    pub(crate) fn trim(&mut self) {
        if !std::mem::take(&mut self.ran_out) {
            self.wanted = (self.wanted / 2).max(PUBLISHED_MIN.min(self.count));
        }
        for id in &self.spare[self.spare_empty.min(self.spare.len())..] {
            self.memory.discard(usize::from(*id) * self.size as usize, self.size as usize);
        }
        self.spare_empty = self.spare.len();
    }

    fn publish(&mut self) {
        while self.published < self.wanted {
            let Some(id) = self.spare.pop() else { return };
            self.put(id);
        }
        self.spare_empty = self.spare_empty.min(self.spare.len());
    }

    /// Bytes of one buffer.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// How many the kernel may take.
    #[inline]
    pub(crate) fn available(&self) -> u32 {
        self.published
    }

    /// How many nobody holds, published or not.
    pub(crate) fn free(&self) -> u32 {
        self.published + self.spare.len() as u32
    }

    /// Notes that a completion named the buffer: it is ours now.
    #[inline]
    pub(crate) fn take(&mut self, id: u16) {
        debug_assert!(u32::from(id) < self.count);
        debug_assert!(self.published > 0);
        self.published -= 1;
    }

    /// Gives back a buffer that is ours: it is the kernel's from here on, or spare.
    #[inline]
    pub(crate) fn give(&mut self, id: u16) {
        if self.published < self.wanted {
            self.put(id);
        } else {
            self.spare.push(id);
        }
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
        self.published += 1;
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

    /// Takes all that the kernel has, and gives them back.
    fn cycle(buffers: &mut Buffers) -> Vec<u16> {
        let ids: Vec<u16> =
            (0..buffers.count as u16).filter(|id| !buffers.spare.contains(id)).collect();
        for id in &ids {
            buffers.take(*id);
        }
        for id in &ids {
            buffers.bytes_mut(*id, 100).fill(1);
            buffers.give(*id);
        }
        ids
    }

    #[test]
    fn more_are_published_when_they_run_out_and_fewer_later() {
        let uring = Uring::new(2, 4).unwrap();
        let mut buffers = Buffers::new(&uring, 64, 4096).unwrap();
        assert_eq!(buffers.available(), PUBLISHED_MIN);
        for expected in [32, 64, 64] {
            let ids: Vec<u16> = (0..64).filter(|id| !buffers.spare.contains(id)).collect();
            for id in &ids {
                buffers.take(*id);
            }
            buffers.grow();
            for id in ids {
                buffers.give(id);
            }
            assert_eq!(buffers.available(), expected);
            assert_eq!(buffers.free(), 64);
        }
        // They ran out since the last trim, so the first one leaves them.
        for expected in [64, 32, 16, 16] {
            buffers.trim();
            cycle(&mut buffers);
            assert_eq!(buffers.available(), expected);
            assert_eq!(buffers.free(), 64);
        }
        buffers.trim();
        assert!(buffers.spare.iter().all(|id| buffers.bytes(*id, 4096) == [0; 4096]));
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
