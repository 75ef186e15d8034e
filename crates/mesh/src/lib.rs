//! All rings between all shards, and the map of which shards care about a topic.
//!
//! Shards share nothing; what they have to say to each other goes through this room. For N shards
//! it builds N × (N − 1) bounded single-producer single-consumer rings and gives each shard one
//! [`Node`]: its outboxes (the producer end of one ring to each peer) and its inboxes (the consumer
//! end of one ring from each peer). [`InterestMap`] answers, before anything is pushed, which peers
//! a publication has to be pushed to at all.
//!
//! # One turn of a shard
//! 1. [`Node::drain`]: handle what arrived, fairly over the peers, up to a budget.
//! 2. Do the turn's work; [`Node::push`] what other shards must know.
//! 3. [`Node::flush`]: once per turn, tell each peer that was pushed to. A peer that sleeps gets
//!    one doorbell.
//! 4. Nothing left to do? [`Node::announce_park`], sleep until the doorbell, [`Node::unpark`].
//!
//! # Invariants worth naming
//! - **Order**: what one shard pushes to another arrives in the order pushed. Nothing is said about
//!   different sources.
//! - **Nothing is lost**: a full ring hands the value back. Whoever pushed must hold it, and stop
//!   taking in more.
//! - **No lost wake-up**: an envelope that was flushed is either seen by the target before it
//!   sleeps, or its doorbell is rung. The protocol is one word per shard (`bell.rs`) and a model
//!   checker has walked all its interleavings.
//! - **No false negative**: while a shard holds a subscription that matches a topic, and its SUBACK
//!   has left, [`InterestMap::interested`] names that shard. A false positive costs one hop.
//!
//! # What is deliberately absent
//! What an envelope is (`T` belongs to the shard room), how a doorbell is rung and how a thread
//! sleeps (the reactor's closure does both), threads, clocks and `unsafe`.
//!
//! # Limits and memory
//! At most [`SHARDS_MAX`] shards. One ring is `ring_capacity × size_of::<T>()` bytes that are not
//! touched before they are used, plus about 400 bytes for its two indices on cache lines of their
//! own, plus 72 bytes for both ends: 64 shards, 4,032 rings, take 2 MiB when idle, and with 256
//! envelopes of 64 bytes at most 63 MiB more once every pair has talked.
#![forbid(unsafe_code)]

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
