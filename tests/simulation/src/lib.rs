//! The whole broker, many shards, one thread, one seed.
//!
//! Real codec, topics, sessions, shards, rings and interest map; fake hands, fake network, virtual time. Everything that
//! happens is chosen by one seed, so a run that breaks a promise can be run again as often as it takes to understand it.
//!
//! | file | what it holds |
//! |---|---|
//! | [`world`] | one run, from the first event to the last check |
//! | [`net`], [`ring`] | virtual time, TCP connections, the fake net ring |
//! | [`host`] | the fake hands of one shard |
//! | [`disk`] | the fake disk under its log |
//! | [`client`], [`receive`] | clients that behave |
//! | [`misbehave`] | clients that do not |
//! | [`oracle`] | what everybody was promised |
//! | [`knobs`], [`coverage`] | what a run looks like, and what it really met |
//! | [`prng`], [`trace`], [`panics`] | chance, what happened, and what fell over |
//! | [`mutation`] | deliberate bugs, to see that they are found |
//! | [`runner`] | many seeds at once, and a failing one made smaller |
//!
//! `docs/simulator.md` says how to add a fault, an invariant or a behaviour.
//!
//! # Deliberately absent
//! Threads inside a run, clocks, sockets, and any order that comes from a hash table or an address.
#![forbid(unsafe_code)]

pub mod client;
pub mod coverage;
pub mod disk;
pub mod host;
pub mod knobs;
pub mod misbehave;
pub mod mutation;
pub mod net;
pub mod oracle;
pub mod panics;
pub mod prng;
pub mod receive;
pub mod ring;
pub mod runner;
pub mod trace;
pub mod world;
