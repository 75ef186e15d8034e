//! A cut through all shards' logs at once, for a copy of them that could have been left by a crash.
//!
//! Each shard notes how far its log has come, at a moment of its own. What must not be is an effect without its cause: another
//! shard's log may not say that a message was taken that this one never handed on. So the shard that is asked first tells
//! all others in the lines in which everything else travels, and each notes its own place before it looks at anything that
//! was sent behind that: then whatever is on its way at the cut counts as not yet arrived, as after a crash (Chandy and
//! Lamport).
//!
//! For a while nothing that the cut needs is cleaned away, so that whoever copies can open the files.

use midge_mesh::ShardId;
use midge_session::Time;
use midge_store::Sequence;

use crate::envelope::Envelope;
use crate::shard::Shard;

/// How long files of a cut stay, in milliseconds.
pub const HOLD_MS: u64 = 10_000;

/// The last cut that a shard knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cut {
    id: u64,
    after: Sequence,
    until: Time,
}

/// One shard's part of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutPlace {
    /// Records up to this one belong to it.
    pub sequence: u64,
    /// Whether all of them are on the disk.
    pub synced: bool,
}

impl Cut {
    /// Whether the files of the cut must stay.
    pub(crate) fn holds(&self, now: Time) -> bool {
        now < self.until
    }
}

impl Shard {
    /// This shard's part of the cut with this number, which must be new for each: made when it is heard of for the first time.
    /// `None` when nothing is kept.
    pub(crate) fn cut(&mut self, id: u64) -> Option<CutPlace> {
        let now = self.now;
        let durable = self.durable.as_mut()?;
        if durable.cut.id != id {
            let after = durable.log.appended();
            durable.cut = Cut { id, after, until: now.plus_millis(HOLD_MS) };
            durable.log.flush();
            let own = self.id;
            for shard in (0..self.shards).map(ShardId::new).filter(|shard| *shard != own) {
                self.send(shard, Envelope::Cut(id));
            }
        }
        let durable = self.durable.as_ref()?;
        let Cut { after, .. } = durable.cut;
        Some(CutPlace { sequence: after.0, synced: durable.log.synced() >= after })
    }
}
