//! A shard's producer ends: one ring to each peer, and who has not been told yet.
//!
//! A push writes into the ring at once, without a second copy in a staging buffer, but the target
//! is told once a turn, in [`Outboxes::notify`]: one locked instruction per target whatever the
//! number of envelopes.

use std::sync::Arc;

use rtrb::{Producer, PushError};

use crate::door::{Door, group_bit};
use crate::node::NO_RING_TO_ITSELF;
use crate::shard_id::ShardId;
use crate::shard_set::ShardSet;

/// The producer ends of the rings to all other shards.
#[derive(Debug)]
pub struct Outboxes<T> {
    pub(crate) id: ShardId,
    /// By target; `None` for ourselves.
    pub(crate) producers: Vec<Option<Producer<T>>>,
    /// Places of each ring that `push` leaves free.
    pub(crate) reserve: usize,
    /// Targets that must be told at the next flush.
    pub(crate) unflushed: ShardSet,
    pub(crate) doors: Arc<[Door]>,
    pub(crate) statistics: OutboxStatistics,
}

/// What went out of one shard's outboxes. Plain counters from the start of the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OutboxStatistics {
    /// Envelopes pushed.
    pub pushed: u64,
    /// Pushes that found no room. One envelope may count many times, once for each try.
    pub refused: u64,
    /// Targets told at flushes: `pushed` divided by this is the batch.
    pub notified: u64,
    /// Doorbells rung, of those.
    pub doorbells: u64,
}

impl<T: Send> Outboxes<T> {
    /// Puts an envelope into the ring to `target`, which learns of it at the next flush of the
    /// [`Node`](crate::Node).
    ///
    /// Refused, the value comes back and the target is asked to wake this shard once half of the
    /// ring is free: hold the value, try again each turn, and parking is safe meanwhile. Later
    /// values for the same target wait behind it, or order is lost.
    ///
    /// # Errors
    /// The value itself, when the ring has no room beside its reserve.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    pub fn push(&mut self, target: ShardId, envelope: T) -> Result<(), T> {
        self.push_leaving(self.reserve, target, envelope)
    }

    /// As [`Outboxes::push`], but may use the reserve too.
    ///
    /// For what must not wait behind the traffic it answers: acknowledgements, hand-overs, answers
    /// of a chooser. Whoever uses it bounds how many of them are under way for one ring.
    ///
    /// # Errors
    /// The value itself, when the ring is full to the last place.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    pub fn push_reserved(&mut self, target: ShardId, envelope: T) -> Result<(), T> {
        self.push_leaving(0, target, envelope)
    }

    /// How many envelopes [`Outboxes::push`] would take for `target` now; the target may make more
    /// room at any time.
    ///
    /// Zero asks the target to wake this shard, as a refused push does: parking is safe then. Any
    /// other answer asks for nothing.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    #[must_use]
    pub fn room(&self, target: ShardId) -> usize {
        let producer = self.producers[target.index()].as_ref().expect(NO_RING_TO_ITSELF);
        let room = producer.slots().saturating_sub(self.reserve);
        if room > 0 {
            return room;
        }
        self.request_room(target);
        producer.slots().saturating_sub(self.reserve)
    }

    /// Tells the targets, and says through the closure which of them sleep.
    #[inline]
    pub(crate) fn notify(&mut self, mut ring_doorbell: impl FnMut(ShardId)) {
        let shards = self.doors.len();
        while let Some(target) = self.unflushed.pop_first() {
            self.statistics.notified += 1;
            let group = group_bit(self.id, target, shards);
            if self.doors[target.index()].bell.notify(group) && !mutant!("no-doorbell") {
                self.statistics.doorbells += 1;
                ring_doorbell(target);
            }
        }
    }

    #[inline]
    fn push_leaving(&mut self, reserve: usize, target: ShardId, envelope: T) -> Result<(), T> {
        let producer = self.producers[target.index()].as_mut().expect(NO_RING_TO_ITSELF);
        // The copy of the consumer's index will do until the ring looks full; only then its cache
        // line is fetched.
        if reserve > 0 && producer.cached_slots() <= reserve && producer.slots() <= reserve {
            return self.push_again(reserve, target, envelope);
        }
        match producer.push(envelope) {
            Ok(()) => {
                self.unflushed.insert(target);
                self.statistics.pushed += 1;
                Ok(())
            }
            Err(PushError::Full(envelope)) => self.push_again(reserve, target, envelope),
        }
    }

    /// The second try, after the request for room that makes it safe to sleep on its failure.
    #[cold]
    fn push_again(&mut self, reserve: usize, target: ShardId, envelope: T) -> Result<(), T> {
        self.request_room(target);
        let producer = self.producers[target.index()].as_mut().expect(NO_RING_TO_ITSELF);
        if producer.slots() > reserve {
            producer.push(envelope).map_err(|PushError::Full(envelope)| envelope)?;
            self.unflushed.insert(target);
            self.statistics.pushed += 1;
            Ok(())
        } else {
            self.statistics.refused += 1;
            Err(envelope)
        }
    }

    /// Between a look at a full ring and a second one: has the target wake us when there is room.
    #[cold]
    fn request_room(&self, target: ShardId) {
        let group = group_bit(self.id, target, self.doors.len());
        self.doors[target.index()].room_requests.request(group);
    }
}
