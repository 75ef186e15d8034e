//! The hands of the conformance suite; the tests themselves are in `tests/suite`.
//!
//! - [`wire`]: MQTT to and from bytes, independent of the broker's codec;
//! - [`client`]: one blocking client that says what it expects next;
//! - [`broker`]: the broker under test, a real process on a free port;
//! - [`names`]: topics and client identifiers that no other test uses;
//! - [`statements`]: the table of normative statements and the check that it is true.
//!
//! Deliberately absent: any crate of the broker, threads inside the client, and waiting for nothing
//! to happen. "Nothing arrives" is shown by something that must arrive next.

#![forbid(unsafe_code)]

pub mod broker;
pub mod client;
pub mod names;
pub mod prelude;
pub mod statements;
pub mod wire;
