//! Which messages of one stream arrived: new, again, or out of order.
//!
//! A stream is what one publisher sends and one subscriber sees. Sequence numbers begin at 0 and wrap at 2³². The
//! highest one seen and a window of [`WINDOW`] bits below it tell a late message from a repeated one.
//!
//! # Limits
//! - A message more than [`WINDOW`] behind the highest one counts as repeated.
//! - Nothing here knows what was lost: that is sent minus new, known when the run has ended.

/// How many sequence numbers below the highest one are remembered.
pub(crate) const WINDOW: u32 = 64;

/// What one arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one, or one after a gap.
    New,
    /// One from a gap: new, but behind a later one.
    Late,
    /// Seen before.
    Again,
}

/// The state of one stream: 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tracker {
    /// One more than the highest sequence number seen.
    next: u32,
    /// Bit `n` set: `next - 1 - n` was seen.
    seen: u64,
}

impl Tracker {
    /// Records one arrival.
    #[inline]
    pub(crate) fn record(&mut self, sequence: u32) -> Arrival {
        let ahead = sequence.wrapping_sub(self.next);
        if ahead < u32::MAX / 2 {
            // The shift by 64 and more empties the window; `ahead` is 0 when nothing is missing.
            self.seen = self.seen.checked_shl(ahead.saturating_add(1)).unwrap_or(0) | 1;
            self.next = sequence.wrapping_add(1);
            return Arrival::New;
        }
        let behind = self.next.wrapping_sub(1).wrapping_sub(sequence);
        if behind >= WINDOW || self.seen >> behind & 1 == 1 {
            return Arrival::Again;
        }
        self.seen |= 1 << behind;
        Arrival::Late
    }
}

#[cfg(test)]
mod tests {
    use super::Arrival::{Again, Late, New};
    use super::*;

    #[test]
    fn tells_new_from_late_from_again() {
        let cases: &[&[(u32, Arrival)]] = &[
            &[(0, New), (1, New), (2, New)],
            &[(0, New), (0, Again), (1, New), (0, Again)],
            &[(0, New), (2, New), (1, Late), (1, Again), (3, New)],
            &[(5, New), (4, Late), (0, Late), (4, Again)],
            &[(0, New), (100, New), (99, Late), (37, Late), (36, Again)],
            &[(0, New), (63, New), (0, Again), (64, New), (1, Late)],
        ];
        for case in cases {
            let mut tracker = Tracker::default();
            for (sequence, expected) in *case {
                assert_eq!(tracker.record(*sequence), *expected, "{sequence} in {case:?}");
            }
        }
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut tracker = Tracker { next: u32::MAX - 1, seen: 0 };
        for sequence in [u32::MAX - 1, u32::MAX, 0, 1] {
            assert_eq!(tracker.record(sequence), New);
        }
        assert_eq!(tracker.record(u32::MAX), Again);
    }
}
