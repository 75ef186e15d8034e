//! Time as an argument.
//!
//! A pure room reads no clock: whoever calls it says what time it is. In the broker the reactor reads the monotonic
//! clock once per loop turn; in the simulator time is a number that the driver advances.

/// A moment: nanoseconds since an arbitrary origin that is the same for all shards of one process.
///
/// Sixty-four bits of nanoseconds are 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time(u64);

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);

    /// From nanoseconds since the origin.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// From whole seconds since the origin.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(SECOND_NS))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the origin, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole seconds since the origin, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0 / SECOND_NS
    }

    /// This moment plus a number of seconds; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(SECOND_NS)))
    }

    /// This moment plus a number of milliseconds; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_millis(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to here; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Seconds from here until `later`, rounded up; zero when it has passed.
    ///
    /// Rounded up so that a message received with an interval of one second and passed on at once still says one.
    #[must_use]
    pub const fn seconds_until(self, later: Time) -> u64 {
        later.0.saturating_sub(self.0).div_ceil(SECOND_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_seconds_round_up() {
        let now = Time::from_seconds(10);
        assert_eq!(now.seconds_until(now.plus_seconds(3)), 3);
        assert_eq!(Time::from_nanos(now.as_nanos() + 1).seconds_until(now.plus_seconds(3)), 3);
        assert_eq!(now.seconds_until(now), 0);
        assert_eq!(now.plus_seconds(1).seconds_until(now), 0);
    }

    #[test]
    fn never_wraps() {
        assert_eq!(Time::from_nanos(u64::MAX).plus_seconds(1).as_nanos(), u64::MAX);
        assert_eq!(Time::from_seconds(u64::MAX).as_nanos(), u64::MAX);
    }
}
