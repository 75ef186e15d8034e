//! A read that is always in flight, of a descriptor that says "wake up" with whatever bytes it gives.

use std::{
    cell::UnsafeCell,
    mem,
    os::fd::{AsRawFd, OwnedFd},
};

use io_uring::{opcode, types};

use crate::{
    token::{Operation, Token},
    uring::Uring,
};

/// How much one read takes: as many wakes of one byte each, or one count of an event counter.
const BYTES_MAX: usize = 256;

/// What must hold: from [`arm`](Self::arm) until its completion the kernel may write the bytes, so whoever drops this
/// while [`is_armed`](Self::is_armed) calls [`leak`](Self::leak) before.
#[derive(Debug)]
pub(crate) struct StandingRead {
    /// One that blocks: a ring does not wait for a descriptor that does not.
    source: OwnedFd,
    operation: Operation,
    /// Where the kernel writes what nobody reads. In a box so that it stays where it is.
    bytes: Box<UnsafeCell<[u8; BYTES_MAX]>>,
    armed: bool,
    retired: bool,
}

impl StandingRead {
    /// Completions carry `operation`.
    pub(crate) fn new(source: OwnedFd, operation: Operation) -> Self {
        let bytes = Box::new(UnsafeCell::new([0; BYTES_MAX]));
        Self { source, operation, bytes, armed: false, retired: false }
    }

    pub(crate) fn arm(&mut self, uring: &mut Uring) {
        debug_assert!(!self.armed);
        self.armed = true;
        let token = Token::new(self.operation, 0, 0);
        let source = types::Fd(self.source.as_raw_fd());
        let entry = opcode::Read::new(source, self.bytes.get().cast(), BYTES_MAX as u32).build();
        // SAFETY: the kernel writes into the boxed cell, which nobody else touches and which lives until the read has
        // completed: the ring's end waits for `armed` to clear or leaks the box.
        unsafe { uring.push(entry.user_data(token.bits())) }
    }

    /// A read has come back; the next one starts unless this is the end.
    pub(crate) fn completed(&mut self, uring: &mut Uring) {
        self.armed = false;
        if !self.retired {
            self.arm(uring);
        }
    }

    /// Makes the read in flight the last one. To end it is the owner's, who knows what stirs the source.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Gives up the bytes to a read that never came back.
    pub(crate) fn leak(&mut self) {
        let nothing = Box::new(UnsafeCell::new([0; BYTES_MAX]));
        mem::forget(mem::replace(&mut self.bytes, nothing));
    }
}
