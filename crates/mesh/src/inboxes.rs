//! A shard's consumer ends: one ring from each peer, and the round in which they are visited.
//!
//! # Fairness
//! [`Inboxes::drain`] goes round the inboxes that have something, at most [`VISIT_ENVELOPES_MAX`]
//! envelopes a visit, and goes on next time where its budget ended. So a shard that floods us
//! delays another's envelope by one visit a round. Inboxes with nothing in them are not looked at:
//! their bits in the bell are not set (`bell.rs`).

use std::sync::Arc;

use rtrb::Consumer;

use crate::bell::Bell;
use crate::door::{Door, add_sources};
use crate::node::NO_RING_TO_ITSELF;
use crate::shard_id::ShardId;
use crate::shard_set::ShardSet;

/// At most this many envelopes are taken from one inbox before the next one gets its turn.
///
/// Enough to spread the cost of two cross-core cache misses over many envelopes, little enough that
/// a round over 63 busy inboxes (2,016 envelopes at about 0.2 µs) stays well below a millisecond.
pub const VISIT_ENVELOPES_MAX: usize = 32;

/// The consumer ends of the rings from all other shards.
#[derive(Debug)]
pub struct Inboxes<T> {
    pub(crate) id: ShardId,
    /// By source; `None` for ourselves.
    pub(crate) consumers: Vec<Option<Consumer<T>>>,
    /// A source that waits for room is woken when its ring holds no more than this.
    pub(crate) wake_at_most: usize,
    /// Sources whose inbox may have something: the bell said so, and it has not been seen empty
    /// since.
    pub(crate) pending: ShardSet,
    /// Where the round goes on.
    pub(crate) next: ShardId,
    /// Whether room was made since the last look at the room requests.
    pub(crate) made_room: bool,
    pub(crate) doors: Arc<[Door]>,
    pub(crate) statistics: InboxStatistics,
}

/// What came into one shard's inboxes. Plain counters from the start of the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InboxStatistics {
    /// Envelopes drained.
    pub drained: u64,
    /// Visits of an inbox: `drained` divided by this is the batch.
    pub visits: u64,
    /// Sources told that there is room again.
    pub room_notices: u64,
}

impl<T: Send> Inboxes<T> {
    /// Hands over at most `budget` envelopes, with the shard each comes from, and says how many it
    /// was.
    ///
    /// Those of one source come in the order they were pushed. Less than `budget` means: all that
    /// had been flushed to this shard when the call began is handled. Exactly `budget` may mean
    /// that there is more.
    #[inline]
    pub fn drain(&mut self, budget: usize, mut handle: impl FnMut(ShardId, T)) -> usize {
        debug_assert!(!self.bell().is_parked(), "a shard drains before it has unparked");
        self.listen();
        let mut left = budget;
        while left > 0 {
            let Some(source) = self.next_pending() else { break };
            let inbox = self.consumers[source.index()].as_mut().expect(NO_RING_TO_ITSELF);
            let present = inbox.slots();
            let taken = present.min(left).min(VISIT_ENVELOPES_MAX);
            let chunk = inbox.read_chunk(taken).expect("no more than are there");
            for envelope in chunk {
                handle(source, envelope);
            }
            left -= taken;
            if taken == present {
                // Seen empty; what has been pushed since will set the bell again.
                self.pending.remove(source);
            }
            self.next = self.after(source);
            self.statistics.visits += 1;
        }
        let drained = budget - left;
        self.statistics.drained += drained as u64;
        self.made_room |= drained > 0;
        drained
    }

    /// Whether everything flushed to this shard so far has been drained. A flush of this moment may
    /// not count yet.
    #[inline]
    #[must_use]
    pub fn are_empty(&self) -> bool {
        self.pending.is_empty() && self.bell().is_quiet()
    }

    /// After draining: names the sources that wait for room and have it now, and forgets that they
    /// waited. Whoever calls it notifies them.
    #[inline]
    pub(crate) fn announce_room(&mut self, notify: impl FnMut(ShardId)) {
        if self.made_room {
            self.made_room = false;
            let groups = self.doors[self.id.index()].room_requests.requested();
            if groups != 0 && !mutant!("no-room-notice") {
                self.answer_room_requests(groups, notify);
            }
        }
    }

    #[cold]
    fn answer_room_requests(&mut self, mut groups: u64, mut notify: impl FnMut(ShardId)) {
        let shards = self.doors.len();
        while groups != 0 {
            let group = groups & groups.wrapping_neg(); // The lowest.
            groups ^= group;
            let mut sources = ShardSet::new();
            add_sources(group, self.id, shards, &mut sources);
            let has_room = |source: &ShardId| {
                let inbox = self.consumers[source.index()].as_ref().expect(NO_RING_TO_ITSELF);
                inbox.slots() <= self.wake_at_most
            };
            // Which of a group asked is not known. Those still without room keep the request alive.
            if sources.iter().all(|source| has_room(&source)) {
                self.doors[self.id.index()].room_requests.clear(group);
            }
            for source in sources.iter().filter(has_room) {
                self.statistics.room_notices += 1;
                notify(source);
            }
        }
    }

    /// Moves what the bell says into the set of inboxes to visit.
    #[inline]
    fn listen(&mut self) {
        let groups = self.bell().take();
        if groups != 0 {
            add_sources(groups, self.id, self.doors.len(), &mut self.pending);
        }
    }

    /// The next inbox of the round that may have something.
    #[inline]
    fn next_pending(&self) -> Option<ShardId> {
        self.pending.next_from(self.next).or_else(|| self.pending.next_from(ShardId::new(0)))
    }

    /// The shard whose turn comes after `source`'s.
    #[inline]
    fn after(&self, source: ShardId) -> ShardId {
        let next = source.get() + 1;
        ShardId::new(if usize::from(next) < self.doors.len() { next } else { 0 })
    }

    #[inline]
    pub(crate) fn bell(&self) -> &Bell {
        &self.doors[self.id.index()].bell
    }
}
