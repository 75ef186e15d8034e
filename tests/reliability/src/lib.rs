//! The promises about failure, kept against a real broker process.
//!
//! Each row of the table in `docs/reliability.md` is one file in [`rows`]: it attacks a broker (slow readers, silent
//! connections, floods, take-overs, cuts, hostile bytes), watches an uninvolved client meanwhile ([`Probe`]) and gives
//! back what it measured as [`Figure`]s. The same code runs twice:
//!
//! - `cargo test -p midge-reliability`: modest sizes; what must be exact must be exact, what is a speed may be many times
//!   the promise, because the machine is busy with other tests;
//! - `cargo run --release -p midge-reliability -- figures`: full sizes; every figure is held against its promise.
//!
//! # Limits
//! Client sockets are blocking and served by a few threads. A process may hold as many descriptors as `ulimit -n` says:
//! the row about half-open connections spreads its sockets over helper processes (the same program, `hold`).
//! Memory is the broker's resident size (`VmRSS`), so a figure per item is the growth divided by the items.
#![forbid(unsafe_code)]

mod broker;
mod client;
mod figure;
mod probe;
mod random;
pub mod rows;

pub use broker::{Broker, Midge};
pub use client::{Ack, Client, Hello, Incoming, Message};
pub use figure::{Figure, Held, Kind, Size};
pub use probe::{Latencies, Probe};
pub use random::Random;
