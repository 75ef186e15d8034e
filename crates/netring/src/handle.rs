//! What other threads hold of a ring: its address for messages, and a way to wake it.

use std::{
    cell::UnsafeCell,
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use io_uring::{opcode, types};

use crate::{
    sys,
    token::{Operation, Token},
    uring::Uring,
};

/// Another ring's address: for [`NetRing::hand_over`](crate::NetRing::hand_over) and
/// [`NetRing::ring_doorbell`](crate::NetRing::ring_doorbell). Costs one process descriptor per ring, not per handle.
///
/// Outlives the ring it names; what is sent there then fails, and reaches nobody else.
#[derive(Clone, Debug)]
pub struct RingHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A duplicate, so that the number stays the ring's as long as anybody may send to it.
    descriptor: OwnedFd,
    id: u32,
}

impl RingHandle {
    pub(crate) fn new(ring: BorrowedFd<'_>, id: u32) -> io::Result<Self> {
        let descriptor = ring.try_clone_to_owned()?;
        Ok(Self { shared: Arc::new(Shared { descriptor, id }) })
    }

    /// The ring's number, unique in the process.
    pub(crate) fn id(&self) -> u32 {
        self.shared.id
    }

    pub(crate) fn descriptor(&self) -> i32 {
        self.shared.descriptor.as_raw_fd()
    }
}

/// Wakes a ring from any thread, also one without a ring. For the aliens; shards use the doorbell.
#[derive(Clone, Debug)]
pub struct Waker {
    counter: Arc<File>,
}

impl Waker {
    /// Makes the ring report `Woken`, and ends its wait if it waits. One system call.
    pub fn wake(&self) {
        // Can fail only when 2^64 wakes are pending, and then the ring is about to wake.
        let _ = (&*self.counter).write_all(&1_u64.to_ne_bytes());
    }
}

/// The ring's end of its wakers: a read that is always in flight.
#[derive(Debug)]
pub(crate) struct WakeSource {
    counter: Arc<File>,
    /// Where the kernel writes the count, which nobody reads. In a box so that it stays where it is.
    count: Box<UnsafeCell<u64>>,
    armed: bool,
}

impl WakeSource {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            counter: Arc::new(sys::event_counter()?),
            count: Box::new(UnsafeCell::new(0)),
            armed: false,
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker { counter: Arc::clone(&self.counter) }
    }

    pub(crate) fn arm(&mut self, uring: &mut Uring) {
        debug_assert!(!self.armed);
        self.armed = true;
        let token = Token::new(Operation::Wake, 0, 0);
        let entry = opcode::Read::new(
            types::Fd(self.counter.as_raw_fd()),
            self.count.get().cast(),
            size_of::<u64>() as u32,
        )
        .build();
        // SAFETY: the kernel writes into the boxed cell, which nobody else touches and which lives until the read has
        // completed: the ring's end waits for `armed` to clear or leaks the box.
        unsafe { uring.push(entry.user_data(token.bits())) }
    }

    pub(crate) fn completed(&mut self) {
        self.armed = false;
    }

    /// Gives up the cell to a read that never came back.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.count));
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed
    }
}
