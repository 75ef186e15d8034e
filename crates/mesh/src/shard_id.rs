//! Which shard: a number from 0, dense.

use std::fmt;

/// The largest number of shards in one process.
///
/// Twice the hardware threads of the largest two-socket machines on sale; the number of rings grows
/// with its square.
pub const SHARDS_MAX: u16 = 1024;

/// One shard of this process, numbered from 0; always below [`SHARDS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard with this number.
    ///
    /// # Panics
    /// When `number` is not below [`SHARDS_MAX`]: shard numbers come from our own counting, never
    /// from a peer.
    #[inline]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        assert!(number < SHARDS_MAX, "a shard number beyond the largest number of shards");
        Self(number)
    }

    /// The number, from 0.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index into a table with one entry a shard.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ShardId({})", self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
