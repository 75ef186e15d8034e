//! Slots: where connections live in the kernel's table, and what we remember of each.
//!
//! # Invariants
//! - A slot is open from the moment we know of it (accepted, connecting, adopted) until its owner has taken `Closed`. Only
//!   then is the kernel asked to free it, so the kernel cannot give the number to another connection while the
//!   owner still knows it as this one: not even through a hand-over that arrives unannounced.
//! - `Closed` is told only when none of the slot's operations but a receive is with the kernel
//!   ([`SlotState::HOLDS_SLOT`] is clear). The generation in an operation's token tells such a receive, which ends a little
//!   later, from those of the slot's next life.
//! - `output` is there exactly while [`SlotState::SENDING`] is set, and is not touched meanwhile.

use std::num::NonZeroU32;

use midge_output::Output;

use crate::{Receive, message::Message, token::GENERATION_MASK};

/// A connection's place in the ring's table of direct descriptors.
///
/// Plain number: it may be sent to another shard. It means one connection from `Accepted`, `connect` or `adopt` until
/// `Closed`, and may mean another one after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// The slot with this number.
    #[inline]
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The slot's number, below [`RingConfig::slots`](crate::RingConfig::slots). Low numbers are used first, so it is
    /// fit to index a table.
    #[inline]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// What we remember of one slot: 32 bytes.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// What is being sent.
    pub(crate) output: Option<Box<Output>>,
    /// The vectored form of `output`, or the address of a connect in flight.
    pub(crate) message: Option<Box<Message>>,
    /// Bytes of `output` that the kernel has taken.
    pub(crate) sent: u32,
    /// The hand-over under way, an index into its table.
    pub(crate) hand_over: Option<NonZeroU32>,
    pub(crate) generation: u32,
    pub(crate) flags: u16,
    /// What the owner wants to receive.
    pub(crate) wish: Option<Receive>,
}

const _: () = assert!(size_of::<SlotState>() <= 40);

impl SlotState {
    /// The slot is a connection of ours.
    pub(crate) const OPEN: u16 = 1;
    /// A single receive is with the kernel.
    pub(crate) const RECEIVING_ONCE: u16 = 1 << 1;
    /// A multishot receive is with the kernel.
    pub(crate) const RECEIVING_ON: u16 = 1 << 2;
    /// The receive that is with the kernel has been cancelled.
    pub(crate) const RECEIVE_CANCELLED: u16 = 1 << 3;
    /// A send is with the kernel.
    pub(crate) const SENDING: u16 = 1 << 4;
    /// The send that is with the kernel has been cancelled.
    pub(crate) const SEND_CANCELLED: u16 = 1 << 5;
    /// A connect is with the kernel.
    pub(crate) const CONNECTING: u16 = 1 << 6;
    /// A shutdown is with the kernel.
    pub(crate) const SHUTTING_DOWN: u16 = 1 << 7;
    /// A shutdown waits for the send before it.
    pub(crate) const SHUTDOWN_WANTED: u16 = 1 << 8;
    /// The descriptor is on its way to another ring.
    pub(crate) const HANDING_OVER: u16 = 1 << 9;
    /// The last event of the slot is waiting for its owner.
    pub(crate) const CLOSED: u16 = 1 << 10;
    /// The owner has closed the slot.
    pub(crate) const CLOSING: u16 = 1 << 11;
    /// A failure has been reported.
    pub(crate) const FAILED: u16 = 1 << 12;
    /// The receive found no buffer and waits in the list for one.
    pub(crate) const STARVING: u16 = 1 << 13;
    /// The connect that is with the kernel has been cancelled.
    pub(crate) const CONNECT_CANCELLED: u16 = 1 << 14;

    /// Any receive with the kernel.
    pub(crate) const RECEIVING: u16 = Self::RECEIVING_ONCE | Self::RECEIVING_ON;
    /// Any operation with the kernel that must come back before the slot is freed.
    pub(crate) const HOLDS_SLOT: u16 =
        Self::SENDING | Self::CONNECTING | Self::SHUTTING_DOWN | Self::HANDING_OVER;
    /// Any operation with the kernel.
    pub(crate) const IN_FLIGHT: u16 = Self::RECEIVING | Self::HOLDS_SLOT;

    #[inline]
    pub(crate) fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    #[inline]
    pub(crate) fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }
}

/// All slots that were ever used. Memory for the rest is reserved but never touched.
#[derive(Debug)]
pub(crate) struct SlotTable {
    states: Vec<SlotState>,
    capacity: u32,
    open: u32,
    /// Closed for the owner, but not yet freed by the kernel.
    freeing: u32,
}

impl SlotTable {
    pub(crate) fn new(capacity: u32) -> Self {
        // Reserving costs addresses, not memory: the pages are the allocator's until they are written.
        Self { states: Vec::with_capacity(capacity as usize), capacity, open: 0, freeing: 0 }
    }

    /// Takes a slot that the kernel has filled.
    pub(crate) fn open(&mut self, slot: Slot) -> &mut SlotState {
        assert!(slot.index() < self.capacity, "a slot beyond the table");
        let index = slot.index() as usize;
        if index >= self.states.len() {
            self.states.resize_with(index + 1, SlotState::default);
        }
        let state = &mut self.states[index];
        assert!(!state.has(SlotState::OPEN), "a slot that is in use already");
        state.flags = SlotState::OPEN;
        self.open += 1;
        state
    }

    /// The owner knows that the slot is closed. What is left is the kernel's to do.
    pub(crate) fn close(&mut self, slot: Slot) {
        let state = &mut self.states[slot.index() as usize];
        assert!(state.has(SlotState::CLOSED), "a slot that was not closed");
        debug_assert!(!state.has(SlotState::HOLDS_SLOT));
        *state = SlotState {
            generation: state.generation.wrapping_add(1) & GENERATION_MASK,
            ..SlotState::default()
        };
        self.open -= 1;
        self.freeing += 1;
    }

    /// The kernel has freed a slot.
    pub(crate) fn freed(&mut self) {
        self.freeing -= 1;
    }

    /// The state of an open slot.
    #[inline]
    pub(crate) fn get(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.states.get_mut(slot.index() as usize).filter(|state| state.has(SlotState::OPEN))
    }

    /// The state of the connection that an operation was started for, if it is still that connection.
    #[inline]
    pub(crate) fn current(&mut self, slot: Slot, generation: u32) -> Option<&mut SlotState> {
        self.get(slot).filter(|state| state.generation == generation)
    }

    /// Slots that their owner knows.
    pub(crate) fn in_use(&self) -> u32 {
        self.open
    }

    /// Slots that the kernel can fill, as far as we know.
    pub(crate) fn free(&self) -> u32 {
        // A hand-over may have put a slot to use again before we heard that it was freed.
        self.capacity.saturating_sub(self.open + self.freeing)
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// All open slots.
    pub(crate) fn in_use_slots(&self) -> Vec<Slot> {
        let open = |(index, state): (usize, &SlotState)| {
            state.has(SlotState::OPEN).then_some(Slot::new(index as u32))
        };
        self.states.iter().enumerate().filter_map(open).collect()
    }

    /// Heap memory in use, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.states.len() * size_of::<SlotState>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_lives_one_generation() {
        let mut table = SlotTable::new(4);
        let slot = Slot::new(2);
        assert!(table.get(slot).is_none());
        let generation = table.open(slot).generation;
        assert!(table.current(slot, generation).is_some());
        assert_eq!(table.in_use(), 1);
        table.get(slot).unwrap().set(SlotState::CLOSED);
        table.close(slot);
        assert!(table.get(slot).is_none());
        assert_eq!((table.in_use(), table.free()), (0, 3));
        table.freed();
        assert_eq!((table.in_use(), table.free()), (0, 4));
        let next = table.open(slot).generation;
        assert_ne!(generation, next);
        assert!(table.current(slot, generation).is_none());
    }

    #[test]
    #[should_panic(expected = "in use already")]
    fn a_slot_is_taken_once() {
        let mut table = SlotTable::new(4);
        table.open(Slot::new(0));
        table.open(Slot::new(0));
    }
}
