//! The control socket: what a running broker can be asked from the same machine.
//!
//! ```text
//!  midge clients ──┐                       ┌─ serve: one alien thread for each connection, a few at most
//!  midge kick    ──┼─ client ── JSON lines ┤
//!  a script      ──┘   over control.sock   └─ answer: request → questions to shards → lines
//! ```
//!
//! | file | what |
//! |---|---|
//! | `protocol` | the words: requests, rows, errors, versions |
//! | `server` | the socket, who is let in, what is too much |
//! | `answer` | what a request asks of which shards, and the lines that come of it |
//! | `cursor` | where a list goes on, across shards |
//! | `client` | the other end, for the commands |
//!
//! `docs/operating.md` describes the protocol for those who write a client of their own.
//!
//! # Invariants
//! - Nothing here runs on a shard. A shard is asked through [`midge_reactor::Asker`], which sets the pace.
//! - Memory is bounded: requests by size, connections by number, rows are written as they come.
//! - Who may ask is who may open the socket: the user that runs the broker, and root.

mod answer;
pub(crate) mod client;
mod cursor;
pub(crate) mod protocol;
mod server;

pub(crate) use answer::Answering;
pub(crate) use server::serve;
