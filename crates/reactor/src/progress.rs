//! How far the logs have been read at the start, all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read of how many. Clones see the same; whoever wants to know looks at it from any thread.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    read: AtomicU64,
    total: AtomicU64,
}

/// What one log adds to it.
#[derive(Debug)]
pub(crate) struct Part {
    progress: Progress,
    read: u64,
    total: u64,
}

impl Progress {
    /// Bytes read so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        // Relaxed, here and below: numbers to look at, with which nothing else is published.
        self.0.read.load(Ordering::Relaxed)
    }

    /// Bytes that are known to be there. Logs that nobody has opened yet are not among them. `0`: there is nothing to read.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// A log of that many bytes is to be read.
    pub(crate) fn begin(&self, total: u64) -> Part {
        self.0.total.fetch_add(total, Ordering::Relaxed);
        Part { progress: self.clone(), read: 0, total }
    }
}

impl Part {
    /// So many bytes of it have been read by now.
    pub(crate) fn reach(&mut self, read: u64) {
        let read = read.min(self.total);
        self.progress.0.read.fetch_add(read.saturating_sub(self.read), Ordering::Relaxed);
        self.read = self.read.max(read);
    }

    /// All of it.
    pub(crate) fn end(mut self) {
        self.reach(self.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let progress = Progress::default();
        assert_eq!((progress.read_bytes(), progress.total_bytes()), (0, 0));
        let (mut one, mut other) = (progress.begin(100), progress.begin(1000));
        one.reach(40);
        one.reach(30);
        other.reach(500);
        assert_eq!((progress.read_bytes(), progress.total_bytes()), (540, 1100));
        // What a file turns out to hold beside what it said is not counted.
        one.reach(1000);
        one.end();
        other.end();
        assert_eq!((progress.read_bytes(), progress.total_bytes()), (1100, 1100));
    }
}
