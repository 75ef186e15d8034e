//! Histograms in constant memory: which bucket a value belongs to, and what buckets say.
//!
//! Buckets are log-linear: each power of two is cut into [`SUB_BUCKETS`] equal parts, so a bucket is at most 1/32 of its
//! values wide (3.1 %), and its middle at most 1.6 % away from any of them. A value is put into its bucket with one
//! count of leading zeros, a shift and an add.

/// Parts of each power of two.
pub const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;

const SUB_BUCKET_BITS: u32 = 5;

/// Values from here on share the last bucket: 2^36, in nanoseconds 68 seconds.
pub const VALUE_LIMIT: u64 = 1 << 36;

/// Buckets of one histogram: 8 KiB of them.
pub const BUCKETS: usize = ((VALUE_LIMIT.ilog2() - SUB_BUCKET_BITS) as usize + 1) * SUB_BUCKETS;

const _: () = assert!(BUCKETS == 1024);

/// The bucket of a value.
#[inline]
#[must_use]
pub const fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS as u64 {
        return value as usize;
    }
    let value = if value < VALUE_LIMIT { value } else { VALUE_LIMIT - 1 };
    let shift = value.ilog2() - SUB_BUCKET_BITS;
    shift as usize * SUB_BUCKETS + (value >> shift) as usize
}

/// The values of a bucket: from the first to before the second.
///
/// # Panics
/// When there is no such bucket.
#[must_use]
pub const fn bucket_bounds(bucket: usize) -> (u64, u64) {
    assert!(bucket < BUCKETS);
    if bucket < 2 * SUB_BUCKETS {
        return (bucket as u64, bucket as u64 + 1);
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let first = (bucket - shift * SUB_BUCKETS) as u64;
    (first << shift, (first + 1) << shift)
}

/// A copy of one histogram, or of several added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    pub(crate) buckets: Box<[u64]>,
    pub(crate) sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), sum: 0 }
    }
}

impl Histogram {
    /// Adds a value, `count` times.
    pub fn record(&mut self, value: u64, count: u64) {
        self.buckets[bucket_of(value)] += count;
        self.sum = self.sum.wrapping_add(value.wrapping_mul(count));
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All values added up, exactly.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The mean of all values; `None` without any.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The value that the share `quantile` (0 to 1) of all values does not exceed, to 1.6 %: the middle of its bucket.
    /// `None` without any value.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        })?;
        let (from, to) = bucket_bounds(bucket);
        Some(from + (to - 1 - from) / 2)
    }

    /// The largest value, to 3.1 %: its bucket's last. `None` without any value.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        let bucket = self.buckets.iter().rposition(|bucket| *bucket > 0)?;
        Some(bucket_bounds(bucket).1 - 1)
    }

    /// How many values are not larger than `value`, up to the width of its bucket, whose values all count.
    #[must_use]
    pub fn count_up_to(&self, value: u64) -> u64 {
        self.buckets[..=bucket_of(value)].iter().sum()
    }

    /// Buckets with something in them: first value, first value of the next, count.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bucket, count)| {
            let (from, to) = bucket_bounds(bucket);
            (from, to, *count)
        })
    }

    /// Adds another histogram to this one.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += other;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// What was recorded after `earlier`, a copy of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self {
            buckets: pairs.map(|(now, earlier)| now.saturating_sub(*earlier)).collect(),
            sum: self.sum.wrapping_sub(earlier.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values over the whole range, more of them where it is dense. The same each time.
    fn values() -> impl Iterator<Item = u64> {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        std::iter::from_fn(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let exponent = (state >> 58) % 36;
            Some(state & ((1 << (exponent + 1)) - 1))
        })
    }

    #[test]
    fn buckets_leave_no_gap_and_no_value_out() {
        for bucket in 0..BUCKETS {
            let (from, to) = bucket_bounds(bucket);
            assert_eq!(bucket_of(from), bucket);
            assert_eq!(bucket_of(to - 1), bucket);
            if bucket + 1 < BUCKETS {
                assert_eq!(bucket_bounds(bucket + 1).0, to);
            }
            assert!((to - from) as f64 <= (from as f64 / SUB_BUCKETS as f64).max(1.0));
        }
        assert_eq!(bucket_bounds(BUCKETS - 1).1, VALUE_LIMIT);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_agree_with_hdrhistogram() {
        let mut ours = Histogram::default();
        let mut theirs = hdrhistogram::Histogram::<u64>::new_with_max(VALUE_LIMIT, 5).unwrap();
        for value in values().take(200_000) {
            ours.record(value, 1);
            theirs.record(value).unwrap();
        }
        assert_eq!(ours.count(), theirs.len());
        for quantile in [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
            let expected = theirs.value_at_quantile(quantile) as f64;
            let found = ours.quantile(quantile).unwrap() as f64;
            assert!((found - expected).abs() <= 1.0 + expected * 0.016, "{quantile}: {found}");
        }
        let (found, expected) = (ours.mean().unwrap(), theirs.mean());
        assert!((found - expected).abs() <= expected * 0.001, "mean {found}, {expected}");
        let (found, expected) = (ours.max().unwrap() as f64, theirs.max() as f64);
        assert!(found >= expected && found <= expected * 1.032, "max {found}, {expected}");
    }

    #[test]
    fn parts_add_up_and_take_apart() {
        let (mut first, mut second, mut whole) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for (number, value) in values().take(10_000).enumerate() {
            if number % 3 == 0 { &mut first } else { &mut second }.record(value, 2);
            whole.record(value, 2);
        }
        assert_eq!(whole.since(&first), second);
        first.merge(&second);
        assert_eq!(first, whole);
        assert_eq!(whole.count_up_to(u64::MAX), 20_000);
    }

    #[test]
    fn an_empty_histogram_has_no_value() {
        let empty = Histogram::default();
        assert_eq!((empty.quantile(0.5), empty.mean(), empty.max()), (None, None, None));
    }
}
