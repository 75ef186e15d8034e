//! Which messages of one stream arrived: new, again, or out of order.
//!
//! A stream is what one publisher sends and one subscriber sees. Sequence numbers begin at 0 and wrap at 2³². The
//! highest one seen and a window of [`WINDOW`] bits below it tell a late message from a repeated one.
//!
//! The members of a shared subscription see one stream together, in no order between them and at very different times:
//! [`SharedTracker`] has a longer window, and what is out of order is asked of each member by itself ([`Order`]).
//!
//! # Limits
//! - A message further behind the highest one than the window counts as repeated.
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

/// How many sequence numbers a shared stream remembers: two full windows of the largest open-loop publisher.
pub(crate) const SHARED_WINDOW: u32 = 65_536;

/// The state of one stream that several subscribers see together: 8 KiB and a little.
#[derive(Clone, Debug)]
pub(crate) struct SharedTracker {
    /// One more than the highest sequence number seen.
    next: u32,
    /// Bit `n % SHARED_WINDOW` set: `n` was seen, for the numbers of the window below `next`.
    seen: Box<[u64]>,
}

impl Default for SharedTracker {
    fn default() -> Self {
        Self { next: 0, seen: vec![0; (SHARED_WINDOW / 64) as usize].into() }
    }
}

impl SharedTracker {
    /// Records one arrival: whether it is the first of its number.
    #[inline]
    pub(crate) fn record(&mut self, sequence: u32) -> bool {
        let ahead = sequence.wrapping_sub(self.next);
        if ahead < u32::MAX / 2 {
            // What the window moves over is forgotten, bit by bit: seldom more than one.
            for step in 0..=ahead.min(SHARED_WINDOW - 1) {
                let (word, bit) = Self::place(sequence.wrapping_sub(step));
                self.seen[word] &= !bit;
            }
            self.next = sequence.wrapping_add(1);
        } else if self.next.wrapping_sub(1).wrapping_sub(sequence) >= SHARED_WINDOW {
            return false;
        }
        let (word, bit) = Self::place(sequence);
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }

    fn place(sequence: u32) -> (usize, u64) {
        let index = sequence % SHARED_WINDOW;
        ((index / 64) as usize, 1 << (index % 64))
    }
}

/// Whether the messages of one publisher come to one member in the order they were sent, with gaps or without.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    next: u32,
}

impl Order {
    /// Records one arrival: whether it is in order.
    #[inline]
    pub(crate) fn record(&mut self, sequence: u32) -> bool {
        let in_order = sequence.wrapping_sub(self.next) < u32::MAX / 2;
        if in_order {
            self.next = sequence.wrapping_add(1);
        }
        in_order
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
    fn a_shared_stream_knows_what_it_has_seen() {
        let far = SHARED_WINDOW;
        let cases: &[&[(u32, bool)]] = &[
            &[(0, true), (1, true), (0, false), (1, false)],
            &[(9, true), (3, true), (3, false), (4, true), (10, true)],
            &[(0, true), (far - 1, true), (0, false), (1, true)],
            &[(0, true), (far, true), (0, false), (1, true), (1, false)],
            &[(5, true), (3 * far, true), (2 * far + 5, true), (2 * far, false)],
        ];
        for case in cases {
            let mut tracker = SharedTracker::default();
            for (sequence, expected) in *case {
                assert_eq!(tracker.record(*sequence), *expected, "{sequence} in {case:?}");
            }
        }
    }

    #[test]
    fn a_member_may_miss_but_not_turn_back() {
        let mut order = Order::default();
        let answers = [3, 4, 9, 8, 10, 10].map(|sequence| order.record(sequence));
        assert_eq!(answers, [true, true, true, false, true, false]);
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
