//! What the ring tells its owner, and the small values that go with it.

use std::{net::SocketAddr, time::Duration};

use midge_output::Output;

use crate::{Slot, file::FileDone};

/// How long [`NetRing::turn`](crate::NetRing::turn) may wait when nothing is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all. Without work for the kernel this costs no system call.
    No,
    /// At most this long.
    For(Duration),
    /// Until something happens.
    Forever,
}

/// How [`NetRing::receive`](crate::NetRing::receive) receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// One `Received`, then nothing until asked again.
    Once,
    /// `Received` after `Received` until [`NetRing::pause`](crate::NetRing::pause).
    Continuous,
}

/// The name its owner gave to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// Bytes that arrived, in a buffer of the ring.
///
/// Read them with [`NetRing::bytes`](crate::NetRing::bytes), then give the buffer back with
/// [`NetRing::recycle`](crate::NetRing::recycle); one that is dropped instead is lost to the ring until its end.
#[derive(Debug)]
#[must_use = "give it back with NetRing::recycle, or the ring runs out of buffers"]
pub struct Received {
    pub(crate) ring: u32,
    pub(crate) size: u32,
    pub(crate) buffer: u16,
}

impl Received {
    /// How many bytes, at least one.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.size as usize
    }
}

/// What happened. For each slot the events are in the order in which things happened to it; the last is always
/// `Closed`, once, after [`NetRing::close`](crate::NetRing::close) or a hand-over.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub enum Event {
    /// A new connection.
    Accepted {
        /// Its place.
        slot: Slot,
        /// The other end. IPv4 peers of a dual-stack listener read as IPv4.
        peer: SocketAddr,
        /// Who accepted it.
        listener: ListenerId,
    },
    /// The listener waits: the table (or the system's) is full, or the listener failed. Goes on by itself when a slot
    /// is closed, or at [`NetRing::resume_accepts`](crate::NetRing::resume_accepts).
    AcceptPaused {
        /// Which one.
        listener: ListenerId,
        /// The error number, `ENFILE` for a full table.
        errno: i32,
    },
    /// Bytes arrived.
    Received {
        /// For whom.
        slot: Slot,
        /// The bytes.
        data: Received,
    },
    /// The peer will send no more. What is given to `send` still leaves; the slot stays until `close`.
    PeerClosed {
        /// Whose peer.
        slot: Slot,
    },
    /// The connection is broken; at most one per slot. An output that was being sent is dropped, nothing more is received;
    /// when it was a send that failed, bytes that had arrived before may still be reported. The slot stays until
    /// `close`.
    Failed {
        /// Which one.
        slot: Slot,
        /// The error number, for instance `ECONNRESET`.
        errno: i32,
    },
    /// The kernel has taken the whole output; here it is back.
    Sent {
        /// From where.
        slot: Slot,
        /// The output as it was given to `send`, for its next use.
        output: Box<Output>,
    },
    /// The connection is over and nothing of it is left with the kernel. The socket closes with the next turn, and the
    /// number may come back as another connection from then on.
    Closed {
        /// Which one.
        slot: Slot,
    },
    /// The connection is in the other ring's table. `Closed` for our slot follows.
    HandedOver {
        /// As given to [`NetRing::hand_over`](crate::NetRing::hand_over).
        token: u64,
        /// Our slot.
        slot: Slot,
        /// The other ring's slot, for its [`NetRing::adopt`](crate::NetRing::adopt).
        target_slot: Slot,
    },
    /// The connection stays here: the other ring's table is full or the ring is gone. The slot is as usable as before,
    /// but receives only when told to again.
    HandOverFailed {
        /// As given to [`NetRing::hand_over`](crate::NetRing::hand_over).
        token: u64,
        /// Our slot.
        slot: Slot,
        /// The error number, `ENFILE` for a full table.
        errno: i32,
    },
    /// A file operation is done.
    File(FileDone),
    /// Another ring rang. Several rings may be one event each.
    Doorbell,
    /// A [`Waker`](crate::Waker) woke us. Many calls may be one event.
    Woken,
    /// An outgoing connection stands.
    Connected {
        /// As returned by [`NetRing::connect`](crate::NetRing::connect).
        slot: Slot,
    },
    /// An outgoing connection failed. The slot stays until `close`.
    ConnectFailed {
        /// As returned by [`NetRing::connect`](crate::NetRing::connect).
        slot: Slot,
        /// The error number, for instance `ECONNREFUSED`.
        errno: i32,
    },
}

// Events go by value, one per message: one cache line holds one.
const _: () = assert!(size_of::<Option<Event>>() <= 64);
