//! Which shards care about a topic?
//!
//! Broadcasting every publication to every shard would make N cores no faster than one. So all
//! shards share one array of atomic masks, indexed by a hash: bit *s* of bucket *h* says "shard *s*
//! may hold a subscription that hashes to *h*".
//!
//! - A Topic Filter without wildcards hashes whole. A filter with wildcards hashes its *literal
//!   prefix*, the levels before the first wildcard, as another kind: `a/b/+/c` and `a/b/#` both
//!   hash the prefix `a/b`, `#` the empty one.
//! - A publication to `a/b/c` looks up the whole name, and as prefixes nothing, `a`, `a/b` and
//!   `a/b/c` (since `a/b/c/#` matches `a/b/c` too), and goes to the shards in any of these buckets.
//! - A Topic Name that starts with `$` is not matched by a filter that starts with a wildcard
//!   [MQTT-4.7.2-1]: it does not look up the empty prefix.
//!
//! # Shapes
//! Beside the buckets stands a small table by *shape*: "shard *s* holds a filter of this many
//! levels without wildcards", "… with a prefix of this many levels". It fits the first-level cache,
//! and a look-up counts only for shards with a filter of its shape. So a broker whose wildcard
//! filters all begin `site/+` does one prefix look-up a publication, not one a level; without any
//! wildcard filter it does none. It bounds the work too: names deeper than [`LEVELS_HASHED_MAX`]
//! look up no more than that many prefixes, and deeper filters hash their first levels only.
//!
//! # Who writes, who reads, and why a message is not missed
//! Only the owner of bit *s* changes it: [`InterestWriter`] holds the counts and is the one writer
//! of its shard. The bits are set before the SUBACK leaves. A client that knows of the SUBACK, and
//! any client that learns of it from there, publishes after it, through another shard's socket:
//! setting the bit happens before handing the SUBACK to the kernel (a release of the submission
//! queue), that before its receipt, that before the publication's completion is taken from the
//! kernel (an acquire) and that before the look-up. A chain of happens-before ends in the look-up,
//! so even a relaxed load must see the bit. For a publication concurrent with the SUBSCRIBE either
//! answer is right.
//!
//! # How often it is wrong, and how large it must be
//! Never a false negative. For a shard with *m* distinct keys (filters, or prefixes shared by
//! filters) in *B* buckets, one look-up finds its bit by accident with probability 1 − e^(−m/B) ≈
//! m/B, and *k* look-ups (1 and the prefix shapes in use) k·m/B. The array takes B × shards / 8
//! bytes, shards rounded up to a power of two:
//!
//! | distinct keys on each shard | buckets | bytes at 8 shards | bytes at 64 shards | false, one look-up | false, three |
//! |---|---|---|---|---|---|
//! | 1,000 | 2^18 (default) | 256 KiB | 2 MiB | 0.4 % | 1.1 % |
//! | 10,000 | 2^18 | 256 KiB | 2 MiB | 3.7 % | 11 % |
//! | 156,250 (10 million on 64) | 2^18 | 256 KiB | 2 MiB | 45 % | 83 % |
//! | 156,250 | 2^22 | 4 MiB | 32 MiB | 3.7 % | 11 % |
//! | 156,250 | 2^24 | 16 MiB | 128 MiB | 0.9 % | 2.8 % |
//!
//! [`buckets_recommended`] is that arithmetic. The false hops are counted by the shards they reach,
//! see [`InterestWriter::record_hop`].
//!
//! # Cost of a look-up
//! One pass over the name, eight bytes a step; a multiplication for each look-up; one load from the
//! shape table (first level) and one from the buckets (at the default size in the second) for each.
//! No allocation, no write.

mod key;
mod map;
mod writer;

pub use key::LEVELS_HASHED_MAX;
pub use map::{BUCKETS_DEFAULT, BUCKETS_MAX, BUCKETS_MIN, InterestMap, buckets_recommended};
pub use writer::{InterestStatistics, InterestWriter};

#[cfg(test)]
mod tests;
