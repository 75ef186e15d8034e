//! Which shards have stopped saying anything.
//!
//! A shard publishes its page at least every eleven seconds, however little it has to do. One whose page does not change
//! for longer than [`SILENCE_MAX`] is stuck: in a loop, in a system call, or on a core that it never gets. No clock is read
//! here; the time is an argument.

use std::time::Duration;

use midge_metrics::{Instance, PageError, Reading};

/// How long a page may stay as it is.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What was last heard of each shard.
#[derive(Debug, Default)]
pub struct Pulse {
    /// By shard: its last publication, and when it was first seen.
    heard: Vec<(u64, Duration)>,
}

impl Pulse {
    /// Looks at a reading. `now` is any time that only grows.
    ///
    /// Gives the shards that have been silent for longer than [`SILENCE_MAX`] between earlier looks and this one.
    pub fn silent_shards(&mut self, reading: &Reading, now: Duration) -> Vec<usize> {
        self.silent(reading.shards.iter().map(|shard| shard.published_at_ns), now)
    }

    /// The same for open pages.
    ///
    /// # Errors
    /// When a shard has stopped in the middle of writing.
    pub fn silent_pages(
        &mut self,
        instance: &Instance,
        now: Duration,
    ) -> Result<Vec<usize>, PageError> {
        Ok(self.silent_shards(&instance.read()?, now))
    }

    fn silent(&mut self, published: impl Iterator<Item = u64>, now: Duration) -> Vec<usize> {
        let mut silent = Vec::new();
        for (shard, published) in published.enumerate() {
            match self.heard.get_mut(shard) {
                None => self.heard.push((published, now)),
                Some(heard) if heard.0 != published => *heard = (published, now),
                Some((_, since)) if now.saturating_sub(*since) > SILENCE_MAX => silent.push(shard),
                Some(_) => {}
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_says_nothing_is_found() {
        let mut pulse = Pulse::default();
        let at = Duration::from_secs;
        for (now, published, silent) in [
            (0, [5, 5], &[][..]),
            // Nobody has looked for a while, but both have said something since.
            (100, [90, 95], &[]),
            (110, [109, 95], &[]),
            (130, [129, 95], &[]),
            (131, [130, 95], &[1]),
            (200, [130, 95], &[0, 1]),
            (201, [130, 200], &[0]),
            (202, [201, 200], &[]),
        ] {
            assert_eq!(pulse.silent(published.into_iter(), at(now)), silent, "at {now}");
        }
    }
}
