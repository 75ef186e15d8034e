//! A bound on how often one place in the program may log: what a million bad clients do a second
//! must not fill a disk.
//!
//! Each thread counts for itself, by callsite, in windows of one second: no lock, and no more
//! memory than there are log statements. What is suppressed is counted, and the next line from
//! that place carries the number as `suppressed`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::{Event, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Layer};

/// One callsite of one thread.
#[derive(Debug)]
struct Window {
    start: Instant,
    /// Lines written since `start`.
    written: u32,
    /// Lines suppressed since the last one written.
    suppressed: u64,
}

thread_local! {
    static WINDOWS: RefCell<HashMap<Identifier, Window>> = RefCell::default();
    /// What the line that is being written now has to tell.
    static SUPPRESSED: Cell<u64> = const { Cell::new(0) };
}

/// Lets pass `per_second_max` lines a second from each place of each thread; all if it is zero.
#[derive(Debug)]
pub(crate) struct Repeats {
    per_second_max: u32,
}

impl Repeats {
    pub(crate) fn new(per_second_max: u32) -> Self {
        Self { per_second_max }
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if self.per_second_max == 0 {
            return true;
        }
        WINDOWS.with_borrow_mut(|windows| {
            let now = Instant::now();
            let fresh = Window { start: now, written: 0, suppressed: 0 };
            let window = windows.entry(event.metadata().callsite()).or_insert(fresh);
            match window.admit(now, self.per_second_max) {
                Some(suppressed) => {
                    SUPPRESSED.set(suppressed);
                    true
                }
                None => false,
            }
        })
    }
}

impl Window {
    /// `Some`: the line passes, with the number of those suppressed before it.
    fn admit(&mut self, now: Instant, per_second_max: u32) -> Option<u64> {
        if now.duration_since(self.start) >= Duration::from_secs(1) {
            self.start = now;
            self.written = 0;
        }
        if self.written >= per_second_max {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// How many lines were suppressed before the one that is being written; asked once for each line.
pub(crate) fn take_suppressed() -> u64 {
    SUPPRESSED.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_admits_its_share_and_tells_the_rest() {
        let start = Instant::now();
        let mut window = Window { start, written: 0, suppressed: 0 };
        let mut admit = |milliseconds| window.admit(start + Duration::from_millis(milliseconds), 2);
        assert_eq!(admit(0), Some(0));
        assert_eq!(admit(0), Some(0));
        assert_eq!(admit(1), None);
        assert_eq!(admit(999), None);
        assert_eq!(admit(1000), Some(2));
        assert_eq!(admit(1001), Some(0));
        assert_eq!(admit(1002), None);
        assert_eq!(admit(60_000), Some(1));
    }
}
