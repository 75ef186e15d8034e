//! When to accept again after a listener was paused.
//!
//! A listener pauses when the table, the system's files or memory are used up. A connection that closes here resumes it at
//! once; but the one that closes may be another process's, and with nobody connected there is none here. So it is also
//! tried again after a while: rarely enough to cost nothing, often enough that nobody waits for a second.

use midge_session::Time;

/// Between two attempts, in milliseconds.
const RETRY_MS: u64 = 250;

/// Between two lines in the log, in milliseconds: a full table pauses its listener after each connection that it lets in.
const TELL_MS: u64 = 10_000;

/// One shard's listeners, all together.
#[derive(Debug, Default)]
pub(crate) struct Accepting {
    retry_at: Option<Time>,
    quiet_until: Option<Time>,
}

impl Accepting {
    /// A listener was paused. Returns whether the log should say so.
    pub(crate) fn paused(&mut self, now: Time) -> bool {
        self.retry_at.get_or_insert(now.plus_millis(RETRY_MS));
        let tell = self.quiet_until.is_none_or(|until| now >= until);
        if tell {
            self.quiet_until = Some(now.plus_millis(TELL_MS));
        }
        tell
    }

    /// Whether it is time to try again; once for each pause.
    pub(crate) fn is_due(&mut self, now: Time) -> bool {
        self.retry_at.take_if(|at| now >= *at).is_some()
    }

    /// When [`Accepting::is_due`] will say so.
    pub(crate) fn next(&self) -> Option<Time> {
        self.retry_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_listener_is_tried_again_within_a_second() {
        let mut accepting = Accepting::default();
        let start = Time::from_seconds(5);
        assert_eq!(accepting.next(), None);
        assert!(accepting.paused(start));
        assert!(!accepting.is_due(start.plus_millis(RETRY_MS - 1)));
        // Another listener a little later does not put it off.
        assert!(!accepting.paused(start.plus_millis(RETRY_MS - 1)));
        let due = accepting.next().unwrap();
        assert!(due <= start.plus_millis(500));
        assert!(accepting.is_due(due));
        assert!(!accepting.is_due(due.plus_seconds(1)), "once for each pause");
        assert_eq!(accepting.next(), None);
        // Still full: again after as long, and without a line for each time.
        assert!(!accepting.paused(due));
        assert!(accepting.next().is_some_and(|at| at > due && at <= due.plus_millis(500)));
        assert!(accepting.paused(start.plus_millis(TELL_MS)));
    }
}
