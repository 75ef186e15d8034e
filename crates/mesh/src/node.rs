//! One shard's end of the mesh: its outboxes, its inboxes, and when it may sleep.
//!
//! # Batches
//! Pushing writes into the ring at once (no second copy in a staging buffer), but nobody is told
//! before [`Node::flush`]: one locked instruction per target and turn, whatever the number of
//! envelopes. Draining takes an inbox in chunks: one look at the producer's index and one
//! publication of our own per [`VISIT_ENVELOPES_MAX`].
//!
//! # Fairness
//! [`Node::drain`] goes round the inboxes that have something, at most [`VISIT_ENVELOPES_MAX`]
//! envelopes a visit, and goes on next time where its budget ended. So a shard that floods us
//! delays another's envelope by at most one visit. Inboxes with nothing in them are not looked at:
//! their bits in the bell are not set (`bell.rs`).
//!
//! # Full
//! Each ring is filled by one shard, drained by another, and holds `ring_capacity` envelopes. A
//! push into a full ring gives the value back: the pusher holds it (and stops reading from whoever
//! sent it), or sheds it and counts. The last `reserve` places are for [`Node::push_reserved`]:
//! answers that must not wait behind the traffic that they answer.

use std::sync::Arc;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::bell::{Bell, GROUPS_MAX};
use crate::shard_id::{SHARDS_MAX, ShardId};
use crate::shard_set::ShardSet;

/// At most this many envelopes are taken from one inbox before the next one gets its turn.
///
/// Enough to spread the cost of two cross-core cache misses over many envelopes, little enough that
/// a round over 63 busy inboxes (2,016 envelopes at about 0.2 µs) stays well below a millisecond.
pub const VISIT_ENVELOPES_MAX: usize = 32;

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

    let bells: Arc<[Bell]> = (0..shards).map(|_| Bell::new()).collect();
    let mut nodes: Vec<Node<T>> = (0..shards)
        .map(|number| Node::unconnected(ShardId::new(number), reserve, &bells))
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
    fn unconnected(id: ShardId, reserve: usize, bells: &Arc<[Bell]>) -> Self {
        let producers = Vec::with_capacity(bells.len());
        let consumers = Vec::with_capacity(bells.len());
        let (outbox_bells, inbox_bells) = (Arc::clone(bells), Arc::clone(bells));
        let unflushed = ShardSet::new();
        let pending = ShardSet::new();
        Self {
            outboxes: Outboxes { id, producers, reserve, unflushed, bells: outbox_bells },
            inboxes: Inboxes { id, consumers, pending, next: ShardId::new(0), bells: inbox_bells },
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
        self.outboxes.bells.len() as u16 // At most `SHARDS_MAX`.
    }

    /// Both halves at once, so that the closure of [`Inboxes::drain`] can push.
    #[inline]
    pub fn split(&mut self) -> (&mut Outboxes<T>, &mut Inboxes<T>) {
        (&mut self.outboxes, &mut self.inboxes)
    }

    /// See [`Outboxes::push`].
    ///
    /// # Errors
    /// The value itself, when the ring has no room.
    ///
    /// # Panics
    /// When `target` is this shard or not of this mesh.
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
    /// When `target` is this shard or not of this mesh.
    #[inline]
    pub fn push_reserved(&mut self, target: ShardId, envelope: T) -> Result<(), T> {
        self.outboxes.push_reserved(target, envelope)
    }

    /// See [`Outboxes::room`].
    ///
    /// # Panics
    /// When `target` is this shard or not of this mesh.
    #[inline]
    #[must_use]
    pub fn room(&self, target: ShardId) -> usize {
        self.outboxes.room(target)
    }

    /// See [`Outboxes::flush`].
    #[inline]
    pub fn flush(&mut self, ring_doorbell: impl FnMut(ShardId)) {
        self.outboxes.flush(ring_doorbell);
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

    /// Announces that this shard will sleep. False: something arrived, drain it instead.
    ///
    /// After true, a flush to this shard rings its doorbell: sleep until then, and call
    /// [`Node::unpark`] before anything else.
    ///
    /// # Panics
    /// When something was pushed and not flushed: its target might never learn of it.
    #[inline]
    #[must_use]
    pub fn announce_park(&self) -> bool {
        assert!(self.outboxes.unflushed.is_empty(), "a shard parks on pushes it has not flushed");
        self.inboxes.pending.is_empty() && self.inboxes.bell().announce_park()
    }

    /// Takes the announcement back: awake, no doorbells needed. Harmless without an announcement.
    ///
    /// A doorbell that was on its way may still arrive; it means nothing then.
    #[inline]
    pub fn unpark(&self) {
        self.inboxes.bell().unpark();
    }
}

/// The producer ends of the rings to all other shards.
#[derive(Debug)]
pub struct Outboxes<T> {
    id: ShardId,
    /// By target; `None` for ourselves.
    producers: Vec<Option<Producer<T>>>,
    /// Places of each ring that `push` leaves free.
    reserve: usize,
    /// Targets pushed to since the last flush.
    unflushed: ShardSet,
    bells: Arc<[Bell]>,
}

impl<T: Send> Outboxes<T> {
    /// Puts an envelope into the ring to `target`, which learns of it at the next
    /// [`Outboxes::flush`].
    ///
    /// # Errors
    /// The value itself, when the ring has no room beside its reserve.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    pub fn push(&mut self, target: ShardId, envelope: T) -> Result<(), T> {
        let reserve = self.reserve;
        let producer = self.producer(target);
        // The copy of the consumer's index is enough until it looks full; only then its cache line
        // is fetched.
        if producer.cached_slots() <= reserve && producer.slots() <= reserve {
            return Err(envelope);
        }
        self.push_reserved(target, envelope)
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
        match self.producer(target).push(envelope) {
            Ok(()) => {
                self.unflushed.insert(target);
                Ok(())
            }
            Err(PushError::Full(envelope)) => Err(envelope),
        }
    }

    /// How many envelopes [`Outboxes::push`] would take for `target` now; the target may make more
    /// room at any time.
    ///
    /// # Panics
    /// When `target` is this shard (it has no ring to itself) or not of this mesh.
    #[inline]
    #[must_use]
    pub fn room(&self, target: ShardId) -> usize {
        let producer = self.producers[target.index()].as_ref().expect(NO_RING_TO_ITSELF);
        producer.slots().saturating_sub(self.reserve)
    }

    /// Tells every shard pushed to since the last flush, and has the doorbells rung of those that
    /// sleep.
    ///
    /// Call it once at the end of a turn. Costs one locked instruction for each such shard, nothing
    /// for the others.
    #[inline]
    pub fn flush(&mut self, mut ring_doorbell: impl FnMut(ShardId)) {
        let shards = self.bells.len();
        while let Some(target) = self.unflushed.pop_first() {
            let group = group_of(self.id, target, shards);
            if self.bells[target.index()].notify(1 << group) {
                ring_doorbell(target);
            }
        }
    }

    #[inline]
    fn producer(&mut self, target: ShardId) -> &mut Producer<T> {
        self.producers[target.index()].as_mut().expect(NO_RING_TO_ITSELF)
    }
}

/// The consumer ends of the rings from all other shards.
#[derive(Debug)]
pub struct Inboxes<T> {
    id: ShardId,
    /// By source; `None` for ourselves.
    consumers: Vec<Option<Consumer<T>>>,
    /// Sources whose inbox may have something: the bell said so, and it has not been seen empty
    /// since.
    pending: ShardSet,
    /// Where the round goes on.
    next: ShardId,
    bells: Arc<[Bell]>,
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
        }
        budget - left
    }

    /// Whether everything flushed to this shard so far has been drained. A flush of this moment may
    /// not count yet.
    #[inline]
    #[must_use]
    pub fn are_empty(&self) -> bool {
        self.pending.is_empty() && self.bell().is_quiet()
    }

    /// Moves what the bell says into the set of inboxes to visit.
    #[inline]
    fn listen(&mut self) {
        let mut groups = self.bell().take();
        while groups != 0 {
            let group = groups.trailing_zeros() as usize;
            groups &= groups - 1;
            self.pending.extend(sources_of(group, self.id, self.bells.len()));
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
        ShardId::new(if usize::from(next) < self.bells.len() { next } else { 0 })
    }

    #[inline]
    fn bell(&self) -> &Bell {
        &self.bells[self.id.index()]
    }
}

const NO_RING_TO_ITSELF: &str = "a shard has no ring to itself";

/// How many inboxes share one bit of a bell: 1 up to 64 shards, 17 for 1,024.
#[inline]
fn group_size(shards: usize) -> usize {
    (shards - 1).div_ceil(GROUPS_MAX).max(1)
}

/// Which bit of `target`'s bell stands for the ring from `source`.
///
/// A target's peers are counted without the target itself, so that the 63 peers of 64 shards have a
/// bit each.
#[inline]
fn group_of(source: ShardId, target: ShardId, shards: usize) -> usize {
    debug_assert!(source != target);
    let peer = source.index() - usize::from(source > target);
    if shards <= GROUPS_MAX + 1 { peer } else { peer / group_size(shards) }
}

/// The shards whose rings to `target` share the bit `group` of its bell.
#[inline]
fn sources_of(group: usize, target: ShardId, shards: usize) -> impl Iterator<Item = ShardId> {
    let size = if shards <= GROUPS_MAX + 1 { 1 } else { group_size(shards) };
    let peers = group * size..((group + 1) * size).min(shards - 1);
    // Below the number of shards, which fits.
    peers.map(move |peer| ShardId::new((peer + usize::from(peer >= target.index())) as u16))
}
