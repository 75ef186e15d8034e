//! How much in how long: token buckets that are one number each.
//!
//! A meter is the moment at which everything that was taken would have been paid for at the steady rate (the generic cell
//! rate algorithm). A quota of `count` in a period lets `count` through at once and then one after the other, evenly.

use midge_session::Time;

const SECOND_NS: u64 = 1_000_000_000;

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many; at least one.
    pub count: u32,
    /// In how long, in milliseconds; at least one.
    pub period_ms: u64,
}

impl Quota {
    const fn period_ns(self) -> u64 {
        self.period_ms.saturating_mul(1_000_000)
    }

    fn cost_ns(self) -> u64 {
        self.period_ns() / u64::from(self.count.max(1))
    }

    /// Whether one more may be taken from a meter now.
    pub(crate) fn allows(self, meter: u64, now: Time) -> bool {
        meter.saturating_add(self.cost_ns()) <= now.as_nanos().saturating_add(self.period_ns())
    }

    /// The meter after one was taken. Never further ahead than a whole quota, so that what was refused is not held against
    /// anybody for longer than its period.
    pub(crate) fn take(self, meter: u64, now: Time) -> u64 {
        let after = meter.max(now.as_nanos()).saturating_add(self.cost_ns());
        after.min(now.as_nanos().saturating_add(self.period_ns()))
    }
}

/// What a client, or all of a listener, may publish in one second; zero: as much as it wants. A second's worth may come at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Publications.
    pub publishes_per_second: u32,
    /// Bytes of whole PUBLISH packets.
    pub bytes_per_second: u64,
}

impl Rates {
    /// Whether there is any bound.
    #[must_use]
    pub const fn is_bounded(self) -> bool {
        self.publishes_per_second > 0 || self.bytes_per_second > 0
    }
}

/// What one client has published of late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    publishes: u64,
    bytes: u64,
    /// Publications that it may still make of its listener's portion, since it was called.
    pub(super) turn: u32,
}

impl Pace {
    /// From when on the client may publish again; in the past: at once.
    pub(crate) fn due(&self, rates: Rates) -> Time {
        let publishes = match rates.publishes_per_second {
            0 => 0,
            rate => (self.publishes + SECOND_NS / u64::from(rate)).saturating_sub(SECOND_NS),
        };
        let bytes = match rates.bytes_per_second {
            0 => 0,
            // A packet may be larger than what a second allows: it goes through, and is waited for afterwards.
            _ => self.bytes.saturating_sub(SECOND_NS),
        };
        Time::from_nanos(publishes.max(bytes))
    }

    /// It has published one packet of so many bytes.
    pub(crate) fn charge(&mut self, rates: Rates, size: usize, now: Time) {
        let now = now.as_nanos();
        if rates.publishes_per_second > 0 {
            let cost = SECOND_NS / u64::from(rates.publishes_per_second);
            self.publishes = self.publishes.max(now) + cost;
        }
        if rates.bytes_per_second > 0 {
            let cost = u128::from(SECOND_NS) * size as u128 / u128::from(rates.bytes_per_second);
            let cost = u64::try_from(cost).unwrap_or(u64::MAX);
            self.bytes = self.bytes.max(now).saturating_add(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_lets_a_burst_through_and_then_a_stream() {
        let quota = Quota { count: 5, period_ms: 1000 };
        let mut now = Time::from_seconds(100);
        let mut meter = 0;
        let mut taken = |now: Time, times: usize| {
            let mut count = 0;
            for _ in 0..times {
                if quota.allows(meter, now) {
                    meter = quota.take(meter, now);
                    count += 1;
                }
            }
            count
        };
        assert_eq!(taken(now, 100), 5);
        for _ in 0..10 {
            now = now.plus_millis(200);
            assert_eq!(taken(now, 100), 1);
        }
        now = now.plus_seconds(10);
        assert_eq!(taken(now, 100), 5);
    }

    /// Whatever a client does, in any second behind its first it publishes what it may.
    #[test]
    fn a_pace_holds_to_both_rates() {
        for (rates, size, expected) in [
            (Rates { publishes_per_second: 10, bytes_per_second: 0 }, 100, 10),
            (Rates { publishes_per_second: 0, bytes_per_second: 1000 }, 100, 10),
            (Rates { publishes_per_second: 10, bytes_per_second: 300 }, 100, 3),
            (Rates { publishes_per_second: 1, bytes_per_second: 0 }, 100, 1),
        ] {
            let mut pace = Pace::default();
            let mut now = Time::from_seconds(50);
            let start = now;
            let mut count = 0;
            // Eleven seconds: a burst, and ten at the steady rate.
            while now.since(start) < 10 * SECOND_NS {
                if pace.due(rates) <= now {
                    pace.charge(rates, size, now);
                    count += 1;
                } else {
                    now = pace.due(rates);
                }
            }
            assert!((10 * expected..=11 * expected + 1).contains(&count), "{rates:?}: {count}");
        }
    }

    #[test]
    fn a_packet_beyond_a_seconds_worth_goes_through_and_is_waited_for() {
        let rates = Rates { publishes_per_second: 0, bytes_per_second: 1000 };
        let now = Time::from_seconds(50);
        let mut pace = Pace::default();
        assert!(pace.due(rates) <= now);
        pace.charge(rates, 5000, now);
        assert_eq!(pace.due(rates), now.plus_seconds(4));
        pace.charge(rates, usize::MAX, now);
        assert!(pace.due(rates) > now.plus_seconds(1_000_000));
    }
}
