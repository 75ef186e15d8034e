//! A service that does not answer is left alone for a while, so that nobody waits for it in vain.
//!
//! After so many failures in a row nothing is asked of it for a pause; then one question goes out, and its outcome decides
//! whether the next pause begins.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures_max: u32,
    pause: Duration,
    /// In a row.
    failures: u32,
    /// Nothing is asked before.
    closed_until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max: failures_max.max(1), pause, failures: 0, closed_until: None }
    }

    /// Whether a question may go out now. The first after a pause is alone: the others wait for its outcome.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        match self.closed_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.closed_until = Some(now + self.pause);
                true
            }
        }
    }

    /// How a question ended. Says whether that has begun a pause, or ended one.
    pub(crate) fn note(&mut self, answered: bool, now: Instant) -> bool {
        let was_closed = self.closed_until.is_some();
        if answered {
            (self.failures, self.closed_until) = (0, None);
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.failures_max {
                self.closed_until = Some(now + self.pause);
            }
        }
        was_closed != self.closed_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_fails_is_left_alone_and_tried_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(3, Duration::from_secs(10));
        assert!(!breaker.note(false, at(0)) && !breaker.note(false, at(0)));
        // One answer in between, and the count begins anew.
        assert!(!breaker.note(true, at(0)));
        assert!(!breaker.note(false, at(1)) && !breaker.note(false, at(1)));
        assert!(breaker.admits(at(1)));
        assert!(breaker.note(false, at(1)), "the pause begins");
        assert!(!breaker.admits(at(2)) && !breaker.admits(at(10)));
        assert!(breaker.admits(at(11)), "one is tried");
        assert!(!breaker.admits(at(11)), "and no other");
        assert!(!breaker.note(false, at(12)));
        assert!(!breaker.admits(at(21)));
        assert!(breaker.admits(at(22)));
        assert!(breaker.note(true, at(22)), "the pause ends");
        assert!(breaker.admits(at(22)) && breaker.admits(at(22)));
    }
}
