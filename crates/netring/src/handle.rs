//! What other threads hold of a ring: its address for messages, and a way to wake it.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use crate::{standing::StandingRead, sys, token::Operation, uring::Uring};

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
    bell: Arc<UnixStream>,
}

impl Waker {
    /// Makes the ring report `Woken`, and ends its wait if it waits. One system call, and never blocks.
    pub fn wake(&self) {
        // Fails only when the ring is gone, or when so many wakes are pending that one more says nothing new.
        let _ = sys::send_byte(&*self.bell);
    }
}

/// A descriptor that becomes readable when the ring has something, for an executor that can wait for descriptors but not
/// for a ring. See [`NetRing::notifier`](crate::NetRing::notifier).
#[derive(Debug)]
pub struct Notifier {
    counter: File,
}

impl Notifier {
    pub(crate) fn new(uring: &Uring) -> io::Result<Self> {
        let counter = sys::event_counter(false)?;
        uring.inner().submitter().register_eventfd(counter.as_raw_fd())?;
        Ok(Self { counter })
    }

    /// Takes what was signalled, so that the descriptor becomes readable only for what is new. Does not block.
    pub fn drain(&self) {
        // An error means that there was nothing to take.
        let _ = (&self.counter).read(&mut [0; 8]);
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

/// The ring's end of its wakers: a read that is always in flight.
///
/// A pair of sockets rather than an event counter, because of the notifier: the kernel does not signal one event
/// counter from inside a write to another. It defers that, and kernels of today (6.18, seen here) then lose every
/// signal but the first.
#[derive(Debug)]
pub(crate) struct WakeSource {
    bell: Arc<UnixStream>,
    pub(crate) read: StandingRead,
}

impl WakeSource {
    pub(crate) fn new() -> io::Result<Self> {
        // Blocking both: a ring does not wait for a descriptor that is not, and wakers ask not to wait each time.
        let (socket, bell) = UnixStream::pair()?;
        let read = StandingRead::new(socket.into(), Operation::Wake);
        Ok(Self { bell: Arc::new(bell), read })
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker { bell: Arc::clone(&self.bell) }
    }

    /// Makes the read in flight the last one, and ends it.
    pub(crate) fn retire(&mut self) {
        self.read.retire();
        self.waker().wake();
    }
}

/// A leader's end of the rings that follow it: a read, always in flight, of the event counter that they all signal.
#[derive(Debug)]
pub(crate) struct Followers {
    counter: File,
    pub(crate) read: StandingRead,
}

impl Followers {
    pub(crate) fn new() -> io::Result<Self> {
        // One whose reads wait: a ring does not wait for a descriptor that does not.
        let counter = sys::event_counter(true)?;
        let read = StandingRead::new(counter.try_clone()?.into(), Operation::Followers);
        Ok(Self { counter, read })
    }

    /// Has another ring signal the counter.
    pub(crate) fn register(&self, uring: &Uring) -> io::Result<()> {
        uring.inner().submitter().register_eventfd(self.counter.as_raw_fd())
    }

    /// Makes the read in flight the last one, and ends it.
    pub(crate) fn retire(&mut self) {
        self.read.retire();
        // Fails only beyond 2^64 signals.
        let _ = (&self.counter).write(&1_u64.to_ne_bytes());
    }
}
