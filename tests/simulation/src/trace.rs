//! What happened: a running hash of every line, and the last lines themselves.
//!
//! Two runs of one seed are the same run when their hashes agree. Lines hold no addresses and nothing whose order depends on
//! a hash table.

use std::collections::VecDeque;
use std::fmt::{Arguments, Write};

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    kept: VecDeque<String>,
    /// How many of the last lines are kept.
    kept_max: usize,
    /// Every line goes to standard output as well.
    pub echo: bool,
}

impl Trace {
    /// An empty one that keeps at most so many lines, at least one.
    #[must_use]
    pub fn new(kept_max: usize) -> Self {
        let kept = VecDeque::new();
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, kept, kept_max: kept_max.max(1), echo: false }
    }

    /// One line, at a virtual time in nanoseconds.
    pub fn line(&mut self, now: u64, text: Arguments<'_>) {
        let mut line = if self.kept.len() == self.kept_max {
            self.kept.pop_front().unwrap_or_default()
        } else {
            String::with_capacity(96)
        };
        line.clear();
        let _ = write!(line, "{:>10}.{:06} {text}", now / 1_000_000, now % 1_000_000);
        for bytes in line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let mixed = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash = mixed ^ (mixed >> 29);
        }
        self.lines += 1;
        if self.echo {
            println!("{line}");
        }
        self.kept.push_back(line);
    }

    /// The hash over all lines so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were: the steps of a run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lines
    }

    /// The last lines, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(String::as_str)
    }
}
