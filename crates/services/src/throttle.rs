//! So many a second, and a burst of as many; who comes beyond that waits for its turn.

use std::sync::Mutex;
use std::time::Duration;

/// Spreads turns in time.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    burst: Duration,
    /// When the turn after all given ones is due, in time since any fixed moment.
    next: Mutex<Duration>,
}

impl Throttle {
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self { interval, burst: interval * per_second, next: Mutex::new(Duration::ZERO) }
    }

    /// Takes a turn: how long to wait for it.
    pub(crate) fn turn(&self, now: Duration) -> Duration {
        // Nothing panics while it is held.
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = (*next).max(now);
        *next = due + self.interval;
        (due - now).saturating_sub(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_waits() {
        let throttle = Throttle::new(10);
        let now = Duration::from_secs(5);
        let waits: Vec<u128> = (0..14).map(|_| throttle.turn(now).as_millis()).collect();
        assert_eq!(waits[..11], [0; 11]);
        assert_eq!(waits[11..], [100, 200, 300]);
        // Two seconds later everything is free again, but no more than a burst.
        let later = Duration::from_secs(8);
        let waits: Vec<u128> = (0..12).map(|_| throttle.turn(later).as_millis()).collect();
        assert_eq!(waits[..11], [0; 11]);
        assert_eq!(waits[11], 100);
    }
}
