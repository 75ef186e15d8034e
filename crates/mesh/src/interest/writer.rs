//! One shard's own side of the interest map: what it holds, counted exactly.
//!
//! # Counts
//! Several filters of a shard may share a bucket, and the bit must stay until the last of them
//! goes. The bit itself is the count of one; only buckets with more stand in a table. With *m*
//! filters in *B* buckets about m²/2B do: 2,900 for 156,250 filters in 2^22 buckets, some 50 KiB a
//! shard, where an array of a byte a bucket would take 4 MiB (256 MiB for 64 shards) and lose count
//! at 255. In a map far too small the table holds a bucket for each filter at worst, at most 20
//! bytes each, little beside the subscription itself.

use std::collections::HashMap;
use std::sync::Arc;

use super::key::{SHAPES, Shape, key_of_filter};
use super::map::InterestMap;
use crate::shard_id::ShardId;

/// The one writer of one shard's bits in an [`InterestMap`]. Owned by the shard.
#[derive(Debug)]
pub struct InterestWriter {
    map: Arc<InterestMap>,
    shard: ShardId,
    /// Filters beyond the first, for buckets that have more than one.
    extra: HashMap<u32, u32, ahash::RandomState>,
    /// Filters by shape.
    shapes: Box<[u32]>,
    statistics: InterestStatistics,
}

/// How well the map serves one shard. Plain numbers, for the statistics page.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InterestStatistics {
    /// Filters that the shard has announced.
    pub filters: u64,
    /// Buckets in which the shard's bit is set. Divided by `buckets`: how often one look-up is
    /// wrong for this shard.
    pub buckets_used: u64,
    /// Buckets of the map.
    pub buckets: u64,
    /// Publications that reached this shard over the mesh.
    pub hops: u64,
    /// Of these, how many matched no subscription here: false positives, or subscriptions that had
    /// just ended.
    pub hops_without_match: u64,
}

impl InterestWriter {
    /// The writer of `shard`. There is one in the life of a map.
    ///
    /// # Panics
    /// When the map has no such shard, or the shard has had its writer: two of them would clear
    /// each other's bits.
    #[must_use]
    pub fn new(map: Arc<InterestMap>, shard: ShardId) -> Self {
        assert!(shard.get() < map.shards(), "a writer for a shard that the map does not have");
        assert!(map.claim_writer(shard), "a second writer for one shard");
        let statistics =
            InterestStatistics { buckets: map.buckets() as u64, ..InterestStatistics::default() };
        Self {
            map,
            shard,
            // Fixed seeds: the keys are hashes already, and nothing here may depend on chance.
            extra: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            shapes: vec![0; SHAPES].into_boxed_slice(),
            statistics,
        }
    }

    /// The map it writes to.
    #[must_use]
    pub fn map(&self) -> &Arc<InterestMap> {
        &self.map
    }

    /// The shard it writes for.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Announces a Topic Filter that this shard has its first subscription for. From when it
    /// returns, look-ups on all shards name this shard for every topic that the filter matches:
    /// call it before the SUBACK leaves.
    ///
    /// Call it once for each filter, however many subscribers it has; twice is counted, and wants
    /// two removals. For a shared subscription it is the filter behind the share name, announced by
    /// the shard of the group's chooser.
    pub fn add(&mut self, filter: &str) {
        let (shape, bucket) = self.place(filter);
        if self.map.bucket_bit(self.shard, bucket as usize) {
            *self.extra.entry(bucket).or_insert(0) += 1;
        } else {
            self.map.set_bucket_bit(self.shard, bucket as usize, true);
            self.statistics.buckets_used += 1;
        }
        let filters = &mut self.shapes[shape.index()];
        *filters += 1;
        if *filters == 1 {
            self.map.set_shape_bit(self.shard, shape, true);
        }
        self.statistics.filters += 1;
    }

    /// Takes back what [`InterestWriter::add`] announced, once for each time.
    ///
    /// # Panics
    /// When no filter with this hash has been announced: the counts are wrong then, and messages
    /// would be missed.
    pub fn remove(&mut self, filter: &str) {
        let (shape, bucket) = self.place(filter);
        let filters = &mut self.shapes[shape.index()];
        assert!(*filters > 0, "a filter is removed that was not added");
        assert!(
            self.map.bucket_bit(self.shard, bucket as usize),
            "a filter is removed whose bucket is empty"
        );
        *filters -= 1;
        if *filters == 0 {
            self.map.set_shape_bit(self.shard, shape, false);
        }
        match self.extra.get_mut(&bucket) {
            Some(extra) if *extra > 1 => *extra -= 1,
            Some(_) => {
                self.extra.remove(&bucket);
            }
            None => {
                self.map.set_bucket_bit(self.shard, bucket as usize, false);
                self.statistics.buckets_used -= 1;
            }
        }
        self.statistics.filters -= 1;
    }

    /// Counts a publication that reached this shard over the mesh, and whether any subscription
    /// here matched it.
    ///
    /// The share without a match is the map's false-positive rate as this shard feels it: a map
    /// that is too small shows here (see [`InterestStatistics::false_positive_rate`]).
    #[inline]
    pub fn record_hop(&mut self, matched: bool) {
        self.statistics.hops += 1;
        self.statistics.hops_without_match += u64::from(!matched);
    }

    /// The numbers so far.
    #[must_use]
    pub fn statistics(&self) -> InterestStatistics {
        self.statistics
    }

    fn place(&self, filter: &str) -> (Shape, u32) {
        let (shape, key) = key_of_filter(filter);
        (shape, self.map.bucket_of(key.hash()) as u32) // At most 2^26 buckets.
    }
}

impl InterestStatistics {
    /// The share of hops that found no subscription, from 0 to 1; 0 without any hop.
    #[must_use]
    pub fn false_positive_rate(&self) -> f64 {
        if self.hops == 0 { 0.0 } else { self.hops_without_match as f64 / self.hops as f64 }
    }
}
