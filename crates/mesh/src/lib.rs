//! All rings between all shards, and the map of which shards care about a topic.
//!
//! Shards share nothing; what they have to say to each other goes through this room. For N shards
//! it builds N × (N − 1) bounded single-producer single-consumer rings and gives each shard one
//! [`Node`]: its outboxes (the producer end of one ring to each peer) and its inboxes (the consumer
//! end of one ring from each peer). [`InterestMap`] answers, before anything is pushed, which peers
//! a publication has to be pushed to at all.
//!
//! # One turn of a shard
//! 1. [`Node::drain`]: handle what arrived, fairly over the peers, up to a budget. ([`Node::split`]
//!    where handling must push.)
//! 2. Do the turn's work; [`Node::push`] what other shards must know.
//! 3. [`Node::flush`]: once per turn, tell each peer that was pushed to, or that waits for room.
//!    One that sleeps gets one doorbell.
//! 4. Nothing left to do? [`Node::announce_park`], sleep until the doorbell, [`Node::unpark`].
//!
//! # Invariants worth naming
//! - **Order**: what one shard pushes to another arrives in the order pushed. Nothing is said about
//!   different sources.
//! - **Nothing is lost**: a full ring hands the value back. Whoever pushed must hold it, and stop
//!   taking in more.
//! - **No lost wake-up**: an envelope that was flushed is either seen by the target before it
//!   sleeps, or its doorbell is rung (`bell.rs`). A shard whose push was refused is told when there
//!   is room (`room.rs`). Each protocol is one word per shard, and a model checker walks their
//!   interleavings (`model.rs`).
//! - **No false negative**: while a shard holds a subscription that matches a topic, and its SUBACK
//!   has left, [`InterestMap::interested`] names that shard. A false positive costs one hop.
//!
//! # What is deliberately absent
//! What an envelope is (`T` belongs to the shard room), how a doorbell is rung and how a thread
//! sleeps (the reactor's closure does both), threads, clocks and `unsafe`.
//!
//! # Limits and memory
//! At most [`SHARDS_MAX`] shards. A ring is `ring_capacity × size_of::<T>()` bytes, touched as they
//! are first used, in a circle: a ring that carries anything carries it over all its places sooner
//! or later. Beside them it takes 450 bytes (two indices on cache lines of their own, both ends), a
//! shard 256 for its door. Measured for 64 shards, 4,032 rings of 256 envelopes of 64 bytes, with
//! the system's allocator: 18 MiB when idle (it touches one page each), 65 MiB once every pair has
//! talked. With 1,024 envelopes 18 and 254 MiB.
//!
//! # Cost
//! By instruction count, for an envelope of 64 bytes: 120 for push, flush and drain in batches of
//! 32, 340 when each goes alone to another shard; 100 for a turn that finds nothing, with 64 shards
//! as with two; 190 to 280 for an interest look-up of a topic of three levels, by the number of
//! prefixes that filters use. `benches/mesh.rs` measures them.
#![forbid(unsafe_code)]

#[macro_use]
mod mutant;

mod bell;
mod door;
mod inboxes;
mod interest;
mod node;
mod outboxes;
#[cfg(test)]
mod random;
mod room;
mod shard_id;
mod shard_set;
mod sync;

pub use inboxes::{InboxStatistics, Inboxes, VISIT_ENVELOPES_MAX};
pub use interest::{
    BUCKETS_DEFAULT, BUCKETS_MAX, BUCKETS_MIN, InterestMap, InterestStatistics, InterestWriter,
    LEVELS_HASHED_MAX, buckets_recommended,
};
pub use node::{Node, build, build_with_reserve};
pub use outboxes::{OutboxStatistics, Outboxes};
pub use shard_id::{SHARDS_MAX, ShardId};
pub use shard_set::ShardSet;

#[cfg(all(test, feature = "model-check"))]
mod model;
