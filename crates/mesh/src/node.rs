//! One shard's end of the mesh: its outboxes, its inboxes, and when it may sleep.
//!
//! # Full
//! Each ring is filled by one shard, drained by another, and holds `ring_capacity` envelopes. A
//! push into a full ring gives the value back: the pusher parks it (holds it, and stops reading
//! from whoever sent it), or sheds it and counts. When half of the ring is free again the drainer
//! tells the pusher, with a doorbell if it sleeps (`room.rs`). The last `reserve` places are for
//! [`Node::push_reserved`]: answers that must not wait behind the traffic that they answer.

use std::sync::Arc;

use rtrb::RingBuffer;

use crate::door::Door;
use crate::inboxes::{InboxStatistics, Inboxes};
use crate::outboxes::{OutboxStatistics, Outboxes};
use crate::shard_id::{SHARDS_MAX, ShardId};
use crate::shard_set::ShardSet;

/// All rings between `shards` shards, one [`Node`] for each, in the order of their numbers.
///
/// `ring_capacity` is in envelopes, for each direction between each pair.
///
/// # Panics
/// When `shards` is zero or above [`SHARDS_MAX`], or `ring_capacity` is zero.
#[must_use]
pub fn build<T: Send>(shards: u16, ring_capacity: usize) -> Vec<Node<T>> {
    build_with_reserve(shards, ring_capacity, 0)
}

/// As [`build`], and keeps the last `reserve` places of each ring for [`Node::push_reserved`].
///
/// # Panics
/// When `shards` is zero or above [`SHARDS_MAX`], or `ring_capacity` is not above `reserve`.
#[must_use]
pub fn build_with_reserve<T: Send>(
    shards: u16,
    ring_capacity: usize,
    reserve: usize,
) -> Vec<Node<T>> {
    assert!(shards > 0, "a mesh without shards");
    assert!(shards <= SHARDS_MAX, "a mesh with too many shards");
    assert!(ring_capacity > reserve, "rings without room beside the reserve");

    let doors: Arc<[Door]> = (0..shards).map(|_| Door::new()).collect();
    let wake_at_most = (ring_capacity - reserve) / 2;
    let mut nodes: Vec<Node<T>> = (0..shards)
        .map(|number| Node::unconnected(ShardId::new(number), reserve, wake_at_most, &doors))
        .collect();
    for source in 0..nodes.len() {
        for target in 0..nodes.len() {
            let (producer, consumer) = if source == target {
                (None, None)
            } else {
                let (producer, consumer) = RingBuffer::new(ring_capacity);
                (Some(producer), Some(consumer))
            };
            nodes[source].outboxes.producers.push(producer);
            nodes[target].inboxes.consumers.push(consumer);
        }
    }
    nodes
}

/// One shard's end of the mesh. Owned by that shard's thread; `Send` so that it can get there.
///
/// Most callers use it as one; [`Node::split`] lends its halves apart, to push while draining.
#[derive(Debug)]
pub struct Node<T> {
    outboxes: Outboxes<T>,
    inboxes: Inboxes<T>,
}

impl<T: Send> Node<T> {
    fn unconnected(id: ShardId, reserve: usize, wake_at_most: usize, doors: &Arc<[Door]>) -> Self {
        Self {
            outboxes: Outboxes {
                id,
                producers: Vec::with_capacity(doors.len()),
                reserve,
                unflushed: ShardSet::new(),
                doors: Arc::clone(doors),
                statistics: OutboxStatistics::default(),
            },
            inboxes: Inboxes {
                id,
                consumers: Vec::with_capacity(doors.len()),
                wake_at_most,
                pending: ShardSet::new(),
                next: ShardId::new(0),
                made_room: false,
                doors: Arc::clone(doors),
                statistics: InboxStatistics::default(),
            },
        }
    }

    /// Which shard this is.
    #[inline]
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.outboxes.id
    }

    /// How many shards the mesh has, this one included.
    #[inline]
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.outboxes.doors.len() as u16 // At most `SHARDS_MAX`.
    }

    /// Both halves at once, so that the closure of [`Inboxes::drain`] can push.
    #[inline]
    pub fn split(&mut self) -> (&mut Outboxes<T>, &mut Inboxes<T>) {
        (&mut self.outboxes, &mut self.inboxes)
    }

    /// See [`Outboxes::push`].
    ///
    /// # Errors
    /// The value itself, when the ring has no room beside its reserve.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    pub fn push(&mut self, target: ShardId, envelope: T) -> Result<(), T> {
        self.outboxes.push(target, envelope)
    }

    /// See [`Outboxes::push_reserved`].
    ///
    /// # Errors
    /// The value itself, when the ring is full to the last place.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    pub fn push_reserved(&mut self, target: ShardId, envelope: T) -> Result<(), T> {
        self.outboxes.push_reserved(target, envelope)
    }

    /// See [`Outboxes::room`].
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    #[must_use]
    pub fn room(&self, target: ShardId) -> usize {
        self.outboxes.room(target)
    }

    /// See [`Inboxes::drain`].
    #[inline]
    pub fn drain(&mut self, budget: usize, handle: impl FnMut(ShardId, T)) -> usize {
        self.inboxes.drain(budget, handle)
    }

    /// See [`Inboxes::are_empty`].
    #[inline]
    #[must_use]
    pub fn inboxes_empty(&self) -> bool {
        self.inboxes.are_empty()
    }

    /// Tells every shard that was pushed to since the last flush, and every shard that waits for
    /// room which this one has made; has the doorbells rung of those that sleep.
    ///
    /// Call it once at the end of each turn, of turns that only drained too. Costs one locked
    /// instruction for each shard that is told, a fence if something was drained, and nothing for
    /// the others.
    #[inline]
    pub fn flush(&mut self, ring_doorbell: impl FnMut(ShardId)) {
        let unflushed = &mut self.outboxes.unflushed;
        self.inboxes.announce_room(|source| {
            unflushed.insert(source);
        });
        self.outboxes.notify(ring_doorbell);
    }

    /// Announces that this shard will sleep. False: something arrived, drain it instead.
    ///
    /// After true, a flush to this shard rings its doorbell, once: sleep until then, and call
    /// [`Node::unpark`] before anything else. A doorbell may also mean that a full ring has room
    /// again.
    ///
    /// # Panics
    /// When something was pushed or drained and not flushed: a peer might never learn of it.
    #[inline]
    #[must_use]
    pub fn announce_park(&self) -> bool {
        assert!(self.outboxes.unflushed.is_empty(), "a shard parks on pushes it has not flushed");
        assert!(!self.inboxes.made_room, "a shard parks on room it has not announced by a flush");
        self.inboxes.pending.is_empty() && self.inboxes.bell().announce_park()
    }

    /// Takes the announcement back: awake, no doorbells needed. Harmless without an announcement.
    ///
    /// A doorbell that was on its way may still arrive; it means nothing then.
    #[inline]
    pub fn unpark(&self) {
        self.inboxes.bell().unpark();
    }

    /// What went out so far.
    #[must_use]
    pub fn outbox_statistics(&self) -> OutboxStatistics {
        self.outboxes.statistics
    }

    /// What came in so far.
    #[must_use]
    pub fn inbox_statistics(&self) -> InboxStatistics {
        self.inboxes.statistics
    }
}

/// Why a look-up of a ring by shard cannot fail.
pub(crate) const NO_RING_TO_ITSELF: &str = "a shard has no ring to itself";

// The model checker's atomics live inside its own runs only.
#[cfg(all(test, not(feature = "model-check")))]
mod tests;
