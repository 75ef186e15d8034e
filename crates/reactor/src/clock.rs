//! Monotonic time as the pure rooms want it.

use std::time::Instant;

use midge_session::Time;

/// Counts from the moment at which the process started its shards; the same for all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now. Read once per loop turn, not per message.
    pub(crate) fn now(self) -> Time {
        // Never zero: a wheel that starts at zero has nothing behind it.
        let nanoseconds = self.origin.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}
