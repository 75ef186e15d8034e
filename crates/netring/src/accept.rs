//! Listeners and the accepts they keep in flight.
//!
//! A multishot accept cannot tell the peer's address, and a direct descriptor cannot be asked for it later. So each
//! listener keeps a pool of single accepts in flight, each with room for one address of its own.
//!
//! # Invariants
//! - A cell is either armed (with the kernel) or idle (listed in `idle`), never both.
//! - The sum of accepts in flight stays within the free slots, so that connections beyond them wait in the kernel's
//!   backlog instead of being accepted and thrown away. Every listener may have one accept beyond that, or a busy
//!   table would belong to whoever armed first.

use std::{
    cell::UnsafeCell,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
};

use io_uring::types;

use crate::{
    ListenerId,
    sys::RawAddress,
    token::{Operation, Token},
    uring::Uring,
};

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    /// `None` once it is closed.
    socket: Option<TcpListener>,
    /// Where the kernel writes addresses. Boxed as a whole and never resized: the kernel knows where they are.
    cells: Box<[UnsafeCell<RawAddress>]>,
    armed: Vec<bool>,
    idle: Vec<u16>,
    /// Full or failed: nothing is armed until a slot is freed.
    pub(crate) paused: bool,
    stopping: bool,
}

impl Listener {
    pub(crate) fn new(socket: TcpListener, id: ListenerId, accepts_in_flight: u16) -> Self {
        let count = accepts_in_flight.max(1);
        Self {
            id,
            socket: Some(socket),
            cells: (0..count).map(|_| UnsafeCell::new(RawAddress::room())).collect(),
            armed: vec![false; usize::from(count)],
            idle: (0..count).rev().collect(),
            paused: false,
            stopping: false,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.cells.len() - self.idle.len()
    }

    /// Whether it could arm another accept.
    pub(crate) fn wants_accept(&self) -> bool {
        !self.idle.is_empty() && !self.paused && !self.stopping && self.socket.is_some()
    }

    /// The listening socket, while it is open.
    pub(crate) fn socket(&self) -> Option<&TcpListener> {
        self.socket.as_ref()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(crate) fn is_armed(&self, cell: u32) -> bool {
        self.armed.get(cell as usize).is_some_and(|armed| *armed)
    }

    /// Starts one accept. `index` is the listener's place in the ring.
    pub(crate) fn arm(&mut self, uring: &mut Uring, index: u32) {
        let Some(socket) = &self.socket else { return };
        let Some(cell) = self.idle.pop() else { return };
        let number = usize::from(cell);
        debug_assert!(!self.armed[number]);
        self.armed[number] = true;
        *self.cells[number].get_mut() = RawAddress::room();
        let (address, size) = RawAddress::parts(self.cells[number].get());
        let (listener, token) = (types::Fd(socket.as_raw_fd()), accept_token(index, cell.into()));
        // SAFETY: the kernel writes into the cell, which lies in a box that never moves and is touched by nobody until
        // the completion: `completed` reads it after, and the ring's end leaks what is still armed.
        unsafe { uring.accept(listener, address, size, token) }
    }

    /// Takes a cell back. The peer's address, should the accept have succeeded.
    pub(crate) fn completed(&mut self, cell: u32) -> Option<SocketAddr> {
        let number = cell as usize;
        assert!(self.armed[number], "an accept completes once");
        self.armed[number] = false;
        self.idle.push(cell as u16);
        self.cells[number].get_mut().to_socket_addr()
    }

    /// Cancels what is in flight; the socket is closed with the last of it.
    pub(crate) fn stop(&mut self, uring: &mut Uring, index: u32) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        for cell in 0..self.cells.len() as u32 {
            if self.is_armed(cell) {
                cancel_accept(uring, index, cell);
            }
        }
        self.close_when_drained();
    }

    pub(crate) fn close_when_drained(&mut self) {
        if self.stopping && self.in_flight() == 0 {
            self.socket = None;
        }
    }

    /// Whether its place in the ring can be used for another listener.
    pub(crate) fn is_closed(&self) -> bool {
        self.socket.is_none()
    }
}

pub(crate) fn accept_token(listener: u32, cell: u32) -> Token {
    Token::new(Operation::Accept, listener, cell)
}

pub(crate) fn cancel_accept(uring: &mut Uring, listener: u32, cell: u32) {
    uring.cancel(accept_token(listener, cell), Token::new(Operation::CancelAccept, listener, cell));
}
