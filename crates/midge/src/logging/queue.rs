//! The queue between whoever logs and the one thread that writes to standard error.
//!
//! Filled by any thread, one finished line at a time; drained by the thread `midge-log`. It holds
//! at most [`LINES_MAX`] lines and [`BYTES_MAX`] bytes. Full: the line is dropped and counted, and
//! a warning tells how many once there is room again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines waiting.
const LINES_MAX: usize = 8192;

/// Bytes waiting. A line may repeat a client identifier of 64 KiB.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes written by one system call, unless a single line is longer.
const BATCH_BYTES: usize = 64 * 1024;

/// The filling end; clones share one queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    items: Sender<Item>,
    counts: Arc<Counts>,
}

/// Plain sums: nothing is published through them, so `Relaxed` is enough everywhere.
#[derive(Debug, Default)]
struct Counts {
    /// Bytes in the queue. May pass the bound by one line of each thread.
    bytes: AtomicUsize,
    /// Lines dropped since the last warning.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Item {
    Line(Box<[u8]>),
    /// Answered when everything queued before it is written.
    Flush(Sender<()>),
}

impl Queue {
    /// Starts the writing thread. It lives as long as the process.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, items) = Self::new();
        let counts = Arc::clone(&queue.counts);
        std::thread::Builder::new()
            .name("midge-log".into())
            .spawn(move || drain(&items, &counts, &mut io::stderr()))?;
        Ok(queue)
    }

    fn new() -> (Self, Receiver<Item>) {
        let (sender, receiver) = bounded(LINES_MAX);
        (Self { items: sender, counts: Arc::default() }, receiver)
    }

    /// Waits at most twice `timeout` until everything queued so far is written.
    pub(crate) fn flush(&self, timeout: Duration) {
        let (sender, written) = bounded(1);
        if self.items.send_timeout(Item::Flush(sender), timeout).is_ok() {
            _ = written.recv_timeout(timeout);
        }
    }

    fn push(&self, line: &[u8]) {
        if self.counts.bytes.load(Ordering::Relaxed) + line.len() > BYTES_MAX {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.counts.bytes.fetch_add(line.len(), Ordering::Relaxed);
        match self.items.try_send(Item::Line(line.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Writes batches until the last filling end is gone.
fn drain(items: &Receiver<Item>, counts: &Counts, output: &mut dyn Write) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    while let Ok(first) = items.recv() {
        let mut flushes = Vec::new();
        let mut item = Some(first);
        while let Some(next) = item {
            match next {
                Item::Line(line) => batch.extend_from_slice(&line),
                Item::Flush(answer) => flushes.push(answer),
            }
            item = if batch.len() < BATCH_BYTES { items.try_recv().ok() } else { None };
        }
        // Standard error that is gone is nobody's fault here: the broker goes on without.
        _ = output.write_all(&batch);
        counts.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        batch.clear();
        for flush in flushes {
            _ = flush.send(());
        }
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(lines = dropped, "log lines dropped: standard error is read too slowly");
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The formatter writes each event in one call, so each call is one line.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_in_order_and_whole() {
        let (queue, items) = Queue::new();
        let counts = Arc::clone(&queue.counts);
        let mut expected = Vec::new();
        for i in 0..LINES_MAX {
            let line = format!("line {i}\n");
            queue.push(line.as_bytes());
            expected.extend_from_slice(line.as_bytes());
        }
        drop(queue);
        let mut written = Vec::new();
        drain(&items, &counts, &mut written);
        assert_eq!(written, expected);
        assert_eq!(counts.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, items) = Queue::new();
        for _ in 0..LINES_MAX + 10 {
            queue.push(b"x\n");
        }
        assert_eq!(items.len(), LINES_MAX);
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), 10);

        let (queue, items) = Queue::new();
        let line = vec![b'x'; BYTES_MAX / 4];
        for _ in 0..6 {
            queue.push(&line);
        }
        assert_eq!(items.len(), 4);
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_flush_waits_for_the_lines_before_it() {
        let (queue, items) = Queue::new();
        let counts = Arc::clone(&queue.counts);
        let writer = std::thread::spawn(move || {
            let mut written = Vec::new();
            drain(&items, &counts, &mut written);
            written
        });
        queue.push(b"before\n");
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.counts.bytes.load(Ordering::Relaxed), 0);
        drop(queue);
        assert_eq!(writer.join().expect("no panic"), b"before\n");
    }

    #[test]
    fn a_flush_of_a_stuck_queue_gives_up() {
        let (queue, _items) = Queue::new();
        queue.push(b"nobody writes this\n");
        queue.flush(Duration::from_millis(1));
    }
}
