//! Whether the generator was there while a message was on its way.
//!
//! A generator that never sleeps looks at the clock every few microseconds. Where it finds that much more time has passed, the
//! machine had taken its processor away: what was due or arrived meanwhile is late by its fault and by nobody else's. In an
//! open loop such messages still count in the latency that is reported; beside it stands that of all the others.

use crate::statistics::Latencies;

/// Between two looks at the clock, at most, of a generator that is there. A turn that handles hundreds of messages stays below.
const LOOK_NS_MAX: u64 = 100_000;

/// When the generator was away, and the latency of messages that this did not touch.
#[derive(Debug)]
pub(crate) struct Presence {
    /// The last look at the clock; 0 while nobody watches.
    looked_ns: u64,
    /// When it came back the last time.
    back_ns: u64,
    /// How often it was away, and how long altogether.
    pub(crate) count: u64,
    pub(crate) away_ns: u64,
    pub(crate) latency: Latencies,
}

impl Default for Presence {
    fn default() -> Self {
        Self { looked_ns: 0, back_ns: 0, count: 0, away_ns: 0, latency: Latencies::new() }
    }
}

impl Presence {
    /// Watches from now on. What was seen before is forgotten.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.latency.reset();
        (self.looked_ns, self.back_ns, self.count, self.away_ns) = (now_ns, now_ns, 0, 0);
    }

    /// Watches no longer: from now on the generator may sleep.
    pub(crate) fn end(&mut self) {
        self.looked_ns = 0;
    }

    /// The generator looks at the clock.
    #[inline]
    pub(crate) fn look(&mut self, now_ns: u64) {
        if self.looked_ns == 0 {
            return;
        }
        let passed = now_ns.saturating_sub(self.looked_ns);
        if passed > LOOK_NS_MAX {
            self.back_ns = now_ns;
            self.count += 1;
            self.away_ns += passed;
        }
        self.looked_ns = now_ns;
    }

    /// A message has arrived that was to be sent at `due_ns`.
    #[inline]
    pub(crate) fn record(&mut self, now_ns: u64, due_ns: u64) {
        if self.looked_ns != 0 && due_ns >= self.back_ns {
            self.latency.record(now_ns.saturating_sub(due_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_on_their_way_while_it_was_away_do_not_count() {
        let mut presence = Presence::default();
        presence.look(1);
        presence.record(10, 5);
        assert_eq!(presence.latency.count(), 0, "nobody watches");
        presence.begin(1_000);
        for now_ns in (11_000..=501_000).step_by(10_000) {
            presence.look(now_ns);
            presence.record(now_ns, now_ns - 9_000);
        }
        assert_eq!((presence.count, presence.latency.count()), (0, 50));
        let back_ns = 501_000 + LOOK_NS_MAX + 1;
        presence.look(back_ns);
        // Sent before it went away, due while it was away, and after it was back.
        presence.record(back_ns, 490_000);
        presence.record(back_ns + 5_000, 550_000);
        presence.record(back_ns + 9_000, back_ns);
        assert_eq!((presence.count, presence.away_ns), (1, LOOK_NS_MAX + 1));
        // The histogram keeps three digits.
        assert_eq!((presence.latency.count(), presence.latency.max() / 100), (51, 90));
        presence.end();
        presence.record(back_ns + 20_000, back_ns + 10_000);
        assert_eq!(presence.latency.count(), 51);
    }
}
