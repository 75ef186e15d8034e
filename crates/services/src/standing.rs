//! How far the broker has come, told by the program and read by whoever answers for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How far the broker has come. Only ever goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Shards are being started.
    Starting,
    /// All shards serve.
    Serving,
    /// It was asked to stop: clients are told, new ones are not taken.
    Draining,
}

/// A [`Stage`] that several threads share.
#[derive(Clone, Debug)]
pub struct Standing(Arc<AtomicU8>);

impl Default for Standing {
    /// Starting.
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(Stage::Starting as u8)))
    }
}

impl Standing {
    /// Goes on to a later stage. An earlier one is ignored: a stop that comes during the start stays a stop.
    pub fn reach(&self, stage: Stage) {
        // Nothing else is published with it.
        self.0.fetch_max(stage as u8, Ordering::Relaxed);
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            _ => Stage::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_go_on() {
        let standing = Standing::default();
        assert_eq!(standing.stage(), Stage::Starting);
        let other = standing.clone();
        other.reach(Stage::Serving);
        assert_eq!(standing.stage(), Stage::Serving);
        standing.reach(Stage::Draining);
        other.reach(Stage::Serving);
        assert_eq!(standing.stage(), Stage::Draining);
    }
}
