//! The shared side of the interest map: the bits, and the look-up.

use std::fmt;

use super::key::{SHAPES, Shape, walk};
use crate::shard_id::{SHARDS_MAX, ShardId};
use crate::shard_set::ShardSet;

// Not through `sync.rs`: the argument of `mod.rs` needs coherence of single bits only, and a
// quarter of a million modelled atomics are beyond any model checker.
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets unless the configuration says otherwise: good for some thousands of distinct filters on
/// each shard.
///
/// 2 MiB at 64 shards and 256 KiB at 8: within the second-level cache of one core and of the
/// smallest server.
pub const BUCKETS_DEFAULT: usize = 1 << 18;

/// The smallest number of buckets.
pub const BUCKETS_MIN: usize = 1 << 6;

/// The largest number of buckets: 512 MiB at 64 shards.
pub const BUCKETS_MAX: usize = 1 << 26;

/// The number of buckets that keeps one look-up wrong less than about six times in a hundred, for a
/// number of distinct filters (and prefixes of wildcard filters) on each shard: the next power of
/// two of 16 times as many, within [`BUCKETS_DEFAULT`] and [`BUCKETS_MAX`].
#[must_use]
pub fn buckets_recommended(filters_per_shard: usize) -> usize {
    let buckets = filters_per_shard.saturating_mul(16).min(BUCKETS_MAX);
    buckets.next_power_of_two().max(BUCKETS_DEFAULT)
}

/// Which shards may hold a subscription that matches a topic: shared by all shards, read on every
/// publication.
///
/// See the head of the room's `interest` module for what is hashed and why no match is missed.
pub struct InterestMap {
    /// Bit *s* of bucket *h* is bit `h × stride + s` of this array.
    buckets: Box<[AtomicU64]>,
    /// Bit *s* of shape *f* is bit *s* of the words from `f × words_per_mask`.
    shapes: Box<[AtomicU64]>,
    /// Which shards have a writer, 64 a word.
    writers: Box<[AtomicU64]>,
    /// The lower bits of a hash are its bucket: one less than the number of buckets.
    bucket_mask: u64,
    /// Bits a bucket takes, as a power of two: shards rounded up.
    stride_log2: u32,
    shards: u16,
}

impl InterestMap {
    /// An empty map. `buckets` is a power of two from [`BUCKETS_MIN`] to [`BUCKETS_MAX`]; the map
    /// takes `buckets × shards / 8` bytes with `shards` rounded up to a power of two and is laid
    /// out at once.
    ///
    /// # Panics
    /// When `shards` is zero or above [`SHARDS_MAX`], or `buckets` is not as said.
    #[must_use]
    pub fn new(shards: u16, buckets: usize) -> Self {
        assert!(shards > 0, "an interest map without shards");
        assert!(shards <= SHARDS_MAX, "an interest map with too many shards");
        assert!(buckets.is_power_of_two(), "a number of buckets that is no power of two");
        assert!((BUCKETS_MIN..=BUCKETS_MAX).contains(&buckets), "a number of buckets out of range");
        let stride = usize::from(shards).next_power_of_two();
        let words_per_mask = usize::from(shards).div_ceil(64);
        Self {
            buckets: zeroed((buckets * stride).div_ceil(64)),
            shapes: zeroed(SHAPES * words_per_mask),
            writers: zeroed(words_per_mask),
            bucket_mask: buckets as u64 - 1,
            stride_log2: stride.trailing_zeros(),
            shards,
        }
    }

    /// How many shards the map tells apart.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// How many buckets the map has.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.bucket_mask as usize + 1
    }

    /// Puts into `out`, in place of what it held, every shard that may hold a matching
    /// subscription.
    ///
    /// The asking shard may be among them: it matches for itself anyway, and takes itself out
    /// before it pushes. Does not allocate, but once in the life of `out` when there are more than
    /// 64 shards. `topic` is a Topic Name as a publication has it, without wildcards.
    #[inline]
    pub fn interested(&self, topic: &str, out: &mut ShardSet) {
        if self.shards <= 64 {
            out.assign(self.interested_of_64(topic));
        } else {
            self.interested_of_many(topic, out);
        }
    }

    #[inline]
    fn interested_of_64(&self, topic: &str) -> u64 {
        let mut interested = 0;
        walk(topic.as_bytes(), |shape, key| {
            // Relaxed, both loads: see the head of `mod.rs`. No data hangs on the bits.
            let holders = self.shapes[shape.index()].load(Ordering::Relaxed);
            if holders != 0 {
                let bit = self.bucket_of(key.hash()) << self.stride_log2;
                let bits = self.buckets[bit / 64].load(Ordering::Relaxed) >> (bit % 64);
                // Bits above our bucket belong to the next; no shard has them among its holders.
                interested |= holders & bits;
            }
        });
        interested
    }

    fn interested_of_many(&self, topic: &str, out: &mut ShardSet) {
        out.clear();
        let words_per_mask = self.words_per_mask();
        let words_per_bucket = 1 << (self.stride_log2 - 6);
        walk(topic.as_bytes(), |shape, key| {
            let holders = &self.shapes[shape.index() * words_per_mask..][..words_per_mask];
            let bucket = self.bucket_of(key.hash()) * words_per_bucket;
            let bucket = &self.buckets[bucket..][..words_per_mask];
            for (word, (holders, bits)) in holders.iter().zip(bucket).enumerate() {
                // Relaxed, both loads: see the head of `mod.rs`.
                let holders = holders.load(Ordering::Relaxed);
                if holders != 0 {
                    out.insert_word(word, holders & bits.load(Ordering::Relaxed));
                }
            }
        });
    }

    /// The bucket of a hash, below `self.buckets()`.
    ///
    /// The lower bits, because those of a folded product are mixed best: the upper ones of short
    /// numbers collide some hundredths more often than chance.
    #[inline]
    pub(super) fn bucket_of(&self, hash: u64) -> usize {
        (hash & self.bucket_mask) as usize
    }

    /// Whether the shard's bit in a bucket is set. Exact for the shard itself.
    pub(super) fn bucket_bit(&self, shard: ShardId, bucket: usize) -> bool {
        let (word, bit) = self.bucket_place(shard, bucket);
        self.buckets[word].load(Ordering::Relaxed) & bit != 0
    }

    /// Sets or clears the shard's bit in a bucket. Only by the shard's writer.
    pub(super) fn set_bucket_bit(&self, shard: ShardId, bucket: usize, set: bool) {
        let (word, bit) = self.bucket_place(shard, bucket);
        set_bit(&self.buckets[word], bit, set);
    }

    /// Sets or clears the shard's bit of a shape. Only by the shard's writer.
    pub(super) fn set_shape_bit(&self, shard: ShardId, shape: Shape, set: bool) {
        let word = shape.index() * self.words_per_mask() + shard.index() / 64;
        set_bit(&self.shapes[word], 1 << (shard.index() % 64), set);
    }

    /// Marks the shard as having a writer. False: it had one.
    pub(super) fn claim_writer(&self, shard: ShardId) -> bool {
        let bit = 1 << (shard.index() % 64);
        // Relaxed: says who may write, carries no data.
        self.writers[shard.index() / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Whether no shard has any bit set.
    #[cfg(test)]
    pub(super) fn is_blank(&self) -> bool {
        let words = self.buckets.iter().chain(&self.shapes);
        words.into_iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    fn bucket_place(&self, shard: ShardId, bucket: usize) -> (usize, u64) {
        let bit = (bucket << self.stride_log2) + shard.index();
        (bit / 64, 1 << (bit % 64))
    }

    fn words_per_mask(&self) -> usize {
        self.writers.len()
    }
}

impl fmt::Debug for InterestMap {
    /// Its sizes; the bits would be megabytes.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("InterestMap")
            .field("shards", &self.shards)
            .field("buckets", &self.buckets())
            .finish_non_exhaustive()
    }
}

/// Changes one bit and leaves the others, which other shards may change at this moment.
///
/// Sequentially consistent, though the argument of `mod.rs` needs no more than "before the SUBACK's
/// submission in program order": on x86 it is the same locked instruction, it happens once in a
/// subscription, and it keeps the argument independent of how the SUBACK leaves.
fn set_bit(word: &AtomicU64, bit: u64, set: bool) {
    if set {
        word.fetch_or(bit, Ordering::SeqCst);
    } else {
        word.fetch_and(!bit, Ordering::SeqCst);
    }
}

fn zeroed(words: usize) -> Box<[AtomicU64]> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}
