//! What other threads hold of a ring: its address for messages, and a way to wake it.

use std::{
    cell::UnsafeCell,
    fs::File,
    io::{self, Read, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
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

/// How many wakes one read takes together.
const WAKES_PER_READ: usize = 256;

/// The ring's end of its wakers: a read that is always in flight.
///
/// A pair of sockets rather than an event counter, because of the notifier: the kernel does not signal one event
/// counter from inside a write to another. It defers that, and kernels of today (6.18, seen here) then lose every
/// signal but the first.
#[derive(Debug)]
pub(crate) struct WakeSource {
    socket: UnixStream,
    bell: Arc<UnixStream>,
    /// Where the kernel writes what the wakers wrote, which nobody reads. In a box so that it stays where it is.
    bytes: Box<UnsafeCell<[u8; WAKES_PER_READ]>>,
    armed: bool,
    retired: bool,
}

impl WakeSource {
    pub(crate) fn new() -> io::Result<Self> {
        // Blocking both: a ring does not wait for a descriptor that is not, and wakers ask not to wait each time.
        let (socket, bell) = UnixStream::pair()?;
        let bytes = Box::new(UnsafeCell::new([0; WAKES_PER_READ]));
        Ok(Self { socket, bell: Arc::new(bell), bytes, armed: false, retired: false })
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker { bell: Arc::clone(&self.bell) }
    }

    pub(crate) fn arm(&mut self, uring: &mut Uring) {
        debug_assert!(!self.armed);
        self.armed = true;
        let token = Token::new(Operation::Wake, 0, 0);
        let entry = opcode::Recv::new(
            types::Fd(self.socket.as_raw_fd()),
            self.bytes.get().cast(),
            WAKES_PER_READ as u32,
        )
        .build();
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

    /// Makes the read in flight the last one, and ends it.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
        self.waker().wake();
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Gives up the cell to a read that never came back.
    pub(crate) fn leak(&mut self) {
        let nothing = Box::new(UnsafeCell::new([0; WAKES_PER_READ]));
        mem::forget(mem::replace(&mut self.bytes, nothing));
    }
}

/// A leader's end of the rings that follow it: a read, always in flight, of the event counter that they all signal.
#[derive(Debug)]
pub(crate) struct Followers {
    counter: File,
    /// Where the kernel writes the count, which nobody reads. In a box so that it stays where it is.
    count: Box<UnsafeCell<[u8; 8]>>,
    armed: bool,
    retired: bool,
}

impl Followers {
    pub(crate) fn new() -> io::Result<Self> {
        // One whose reads wait: a ring does not wait for a descriptor that does not.
        let counter = sys::event_counter(true)?;
        let count = Box::new(UnsafeCell::new([0; 8]));
        Ok(Self { counter, count, armed: false, retired: false })
    }

    /// Has another ring signal the counter.
    pub(crate) fn register(&self, uring: &Uring) -> io::Result<()> {
        uring.inner().submitter().register_eventfd(self.counter.as_raw_fd())
    }

    pub(crate) fn arm(&mut self, uring: &mut Uring) {
        debug_assert!(!self.armed);
        self.armed = true;
        let token = Token::new(Operation::Followers, 0, 0);
        let counter = types::Fd(self.counter.as_raw_fd());
        let entry = opcode::Read::new(counter, self.count.get().cast(), 8).build();
        // SAFETY: as in `WakeSource::arm`.
        unsafe { uring.push(entry.user_data(token.bits())) }
    }

    /// A read has come back; the next one starts unless this is the end.
    pub(crate) fn completed(&mut self, uring: &mut Uring) {
        self.armed = false;
        if !self.retired {
            self.arm(uring);
        }
    }

    /// Makes the read in flight the last one, and ends it.
    pub(crate) fn retire(&mut self) {
        self.retired = true;
        // Fails only beyond 2^64 signals.
        let _ = (&self.counter).write(&1_u64.to_ne_bytes());
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Gives up the count to a read that never came back.
    pub(crate) fn leak(&mut self) {
        mem::forget(mem::replace(&mut self.count, Box::new(UnsafeCell::new([0; 8]))));
    }
}
