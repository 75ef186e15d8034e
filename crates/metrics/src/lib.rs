//! Counters of one shard.
