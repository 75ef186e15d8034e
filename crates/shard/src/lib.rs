//! One shard's mind: event in, actions out.
//!
//! A shard owns its connections, their sessions, its subscription table, its slice of the retained messages, its timers and
//! its counters. It is a plain value: no socket, no clock, no thread. Whoever drives it says what happened and what time it
//! is, then does what it is asked to:
//!
//! ```text
//!  handle_accepted  handle_received  handle_sent  handle_envelope  handle_turn …      what happened
//!                                  │
//!                                Shard
//!                                  │
//!  poll_action      next_flush       take_waiting_targets + poll_envelope             what to do
//! ```
//!
//! In the broker the reactor drives it, in the simulator a loop with a seed.
//!
//! # A publish
//! `receive` frames and decodes, `publish` checks what the session may say, `route` matches and finds the shards that may
//! care, `deliver` writes into the outputs of connections or the queues of sessions. Nothing on that path allocates
//! for a QoS 0 message to connected clients on this shard.
//!
//! # Invariants worth naming
//! - A client id has one home shard, so a session exists once, and take-over is local ([`home_shard`]).
//! - A connection that serves a session is named by it, and no other is ([`Shard::check_integrity`]).
//! - Messages of one publisher to one topic reach a subscriber in their order: one line per pair of shards, one line per
//!   session.
//! - An acknowledgement leaves when every shard that was sent the message has taken it.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | a connection's output | delivery, answers | the socket | `output_bytes_max` | QoS 0 dropped and counted; QoS 1, 2 to the session's queue; a client that causes answers is not read from |
//! | a session's queue | delivery | acknowledgements | `queue` | dropped and counted; 0x97 to the publisher when nobody keeps the message |
//! | an outbox per shard | routing | the mesh | `outbox` | publishers are parked |
//! | runs for shards of the same thread | routing | those, after each event | what one event brings | — |
//! | a group's backlog | the chooser | members with room | `share_backlog_messages_max` | dropped and counted |
//! | unfinished CONNECTs | receives | turns, at a pace | `unproven` (8 MiB) | closed; not read from meanwhile |
//! | unanswered QoS 2 publications | ends of connections | answers of other shards | what publishers may have unacknowledged | — |
//! | publications handed on to a full disk | the mesh | room | what publishers may have unacknowledged | — |
//! | sessions that leave | ends of sessions | each turn | what clients subscribe to in a few turns | — |
//! | publishers beyond their rate | `protection` | time | one entry for each | not read from |
//! | a connection's input | the socket | this shard | what one receive brought, at most one packet | — |
#![forbid(unsafe_code)]

#[macro_use]
mod mutant;

mod acknowledge;
mod action;
mod audit;
mod authors;
mod connect;
mod connection;
mod deliver;
mod durable;
mod ending;
mod enhanced;
mod envelope;
mod explain;
mod groups;
mod identity;
mod ids;
mod integrity;
mod leaving;
mod levels;
mod login;
mod outbox;
mod own;
mod protection;
mod publish;
mod receive;
#[cfg(test)]
mod regression;
mod retained;
mod route;
mod security;
mod sessions;
mod settings;
mod shard;
mod slab;
mod subscribe;
pub mod survey;
mod tally;
mod unanswered;
mod unproven;
mod wheel;
mod wire;

pub use action::{Action, Event, Note, PeerError, Violation};
pub use audit::{AuditEvent, AuditNote};
pub use durable::restore::{Counts, Image, split};
pub use durable::{DamageCounts, WallTime, record};
pub use envelope::{Arrival, Carried, Crossed, Envelope, Luggage};
pub use identity::{CertificateIdentity, Identity};
pub use ids::{ConnectionId, ListenerId, PeerAddress, home_shard};
pub use levels::Levels;
pub use outbox::OutboxLimits;
pub use protection::{
    Ban, BanSubject, Bans, Crowd, LISTENERS_MAX, ListenerCounts, ListenerMeters, ListenerNumbers,
    ListenerProtection, NamePatterns, Penalty, Protection, Quota, Rates, RetainedQuota,
};
pub use retained::RetainedCounts;
pub use security::{ClientRights, Explanation, Security};
pub use settings::Settings;
pub use shard::{Shard, Shared};
