//! Sockets over one io_uring per shard: accept, receive, send, hand over, close.
//!
//! A [`NetRing`] belongs to one thread and is polled by it: [`NetRing::turn`] submits what was asked for and reaps what
//! is done with one system call, [`NetRing::next_event`] tells it. Connections are direct descriptors ([`Slot`]): they
//! do not use the process's descriptor table, so each ring has the whole descriptor limit for itself. An idle
//! connection holds no receive buffer and 32 bytes of state.
//!
//! What it does not know: bytes have no meaning here, there is no time (no timeout ends a connection), and nothing is
//! written to a log. It counts ([`Counters`]); the owner decides.
//!
//! # Invariants worth naming
//! - Every slot that was `Accepted`, returned by `connect` or given to `adopt` ends in exactly one `Closed`, and no event
//!   for it comes after.
//! - Memory given to the kernel (outputs, buffers, addresses) is neither moved, changed nor freed before the kernel has
//!   said that it is done with it. If the end of a ring cannot make it say so, the memory is leaked.
//! - Per message (one receive, one send) nothing is allocated, hashed or searched.
//!
//! # Limits
//! Linux 6.1 or newer ([`check_kernel`]). Slots per ring: the process's limit of open descriptors, at most 2^20. One send
//! in flight per slot.
//!
//! The files of a durable log are read, written and synced through the same ring ([`NetRing::write_file`]), so that one
//! system call serves both.
//!
//! This is the one room with `unsafe` code. It is in `sys` (system calls), `uring` (the queues), `buffers` (receive
//! buffers), and at the few places that queue an operation with an address in it: `message`, `accept`, `standing`,
//! `connection` and `file`.

mod accept;
mod buffers;
mod config;
mod connection;
mod counters;
mod error;
mod event;
mod file;
mod handle;
mod listen;
mod message;
mod ring;
mod slice;
mod slot;
mod standing;
mod sys;
mod token;
mod uring;

pub use config::{RECEIVE_BUFFER_COUNT_MAX, RingConfig, SLOTS_MAX};
pub use counters::Counters;
pub use error::NetRingError;
pub use event::{Event, ListenerId, Receive, Received, Wait};
pub use file::FileDone;
pub use handle::{Notifier, RingHandle, Waker};
pub use listen::{ListenOptions, defer_accept, listen_tcp, raise_descriptor_limit};
pub use ring::NetRing;
pub use slice::{TIME_SLICE_MAX, TIME_SLICE_MIN, set_time_slice};
pub use slot::Slot;
pub use uring::{KERNEL_VERSION_MIN, check_kernel};
