//! What this shard has to say to each other shard.
//!
//! Filled by routing, drained by the reactor at the end of each loop turn into the mesh's ring towards that shard. One
//! line per target, so the order in which things were said is the order in which they arrive.
//!
//! # What happens when it is full
//! Publications: when a target's outbox holds more than `bytes_max` bytes or `envelopes_max` envelopes (its ring is
//! full and that shard is behind), the connections that publish to it are parked: their receive is not re-armed until
//! the outbox has drained to half. Everything else (acknowledgements, hand-overs, chooser's answers, retained
//! answers) is always taken: each is caused by one thing that is itself bounded (a parked connection, a window,
//! a retained query of which a subscription has one at a time), so that two full shards cannot wait for each other.

use std::collections::VecDeque;
use std::sync::Arc;

use midge_mesh::{ShardId, ShardSet};
use midge_session::{Publication, Time};

use crate::envelope::{Batch, Crossing, Envelope, Item, RunPlace};
use crate::ids::ConnectionId;

/// A batch is closed at this many bytes: more than a turn's usual share for one shard, little enough to stay in the cache.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Batches that came in and are kept to go out again: as many as there are targets, up to this number.
const SPARE_MAX: usize = 64;

/// Larger ones are given back: 64 spare batches hold 1 MiB at most.
const SPARE_FRAMES_MAX: usize = 12 * 1024;
const SPARE_ITEMS_MAX: usize = 4 * 1024 / size_of::<Item>();

/// Bounds of one target's outbox.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// Bytes of publications.
    pub bytes_max: usize,
    /// Envelopes.
    pub envelopes_max: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 20, envelopes_max: 4096 }
    }
}

#[derive(Debug, Default)]
struct Outbox {
    line: VecDeque<Envelope>,
    bytes: usize,
    /// The ticket given last; tickets of one direction grow by one.
    ticket: u64,
    /// In `Outboxes::waiting_targets`.
    noted: bool,
    /// Publishers that wait for room here.
    parked: Vec<(ConnectionId, u32)>,
}

impl Outbox {
    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }
}

/// Boxed as they travel, so that nothing is moved when they come and go.
type Spare = Vec<Box<Batch>>;

/// One outbox per shard; the own one stays empty.
#[derive(Debug)]
pub(crate) struct Outboxes {
    boxes: Vec<Outbox>,
    /// Targets with something in the line.
    waiting_targets: Vec<ShardId>,
    /// Batches with room in them, which came from other shards and have been opened.
    spare: Spare,
    /// Shards whose runs go into `crossing` while nothing else waits for them.
    mates: ShardSet,
    pub(crate) crossing: Crossing,
    limits: OutboxLimits,
}

impl Outboxes {
    pub(crate) fn new(shards: u16, limits: OutboxLimits) -> Self {
        let boxes = (0..shards).map(|_| Outbox::default()).collect();
        Self {
            boxes,
            waiting_targets: Vec::new(),
            spare: Vec::new(),
            mates: ShardSet::new(),
            crossing: Crossing::default(),
            limits,
        }
    }

    /// Who takes runs at once.
    pub(crate) fn set_mates(&mut self, mates: ShardSet) {
        self.mates = mates;
    }

    /// Whether a run for the target may go into `crossing`: it must not overtake what waits in line.
    #[inline]
    pub(crate) fn crosses(&self, target: ShardId) -> bool {
        self.mates.contains(target)
            && (self.boxes[target.index()].line.is_empty() || mutant!("crossing-overtakes"))
    }

    /// Anything but publications.
    pub(crate) fn push(&mut self, target: ShardId, envelope: Envelope) {
        debug_assert!(!matches!(envelope, Envelope::Publications(_)));
        self.note(target).line.push_back(envelope);
    }

    /// A ticket for something else that is answered like a publication; to be pushed before another is asked for.
    pub(crate) fn next_ticket(&mut self, target: ShardId) -> u64 {
        self.boxes[target.index()].next_ticket()
    }

    /// Frames of one run. `place.at` is set here.
    pub(crate) fn push_run(
        &mut self,
        target: ShardId,
        frames: &[u8],
        mut place: RunPlace,
        received: Time,
    ) {
        self.note(target);
        let outbox = &mut self.boxes[target.index()];
        outbox.bytes += frames.len();
        let batch = open_batch(&mut outbox.line, &mut self.spare, received);
        place.at = u32::try_from(batch.frames.len()).expect("a batch is closed far below 4 GiB");
        batch.frames.extend_from_slice(frames);
        batch.items.push(Item::Run(place));
        batch.size += frames.len();
    }

    /// One message. With `wants_answer` the ticket returned is answered when the target has taken it.
    pub(crate) fn push_publication(
        &mut self,
        target: ShardId,
        publication: &Arc<Publication>,
        wants_answer: bool,
        received: Time,
        number: u64,
    ) -> u64 {
        let size = publication.memory_size();
        self.note(target);
        let outbox = &mut self.boxes[target.index()];
        outbox.bytes += size;
        let ticket = if wants_answer { outbox.next_ticket() } else { 0 };
        let batch = open_batch(&mut outbox.line, &mut self.spare, received);
        batch.items.push(Item::Publication {
            publication: Arc::clone(publication),
            ticket,
            number,
        });
        batch.size += size;
        ticket
    }

    /// A batch from another shard that has been opened: its memory serves the next one that goes out.
    ///
    /// Traffic in both directions is about the same, so this spares an allocation on one core and a free of it on another
    /// for each batch; where it is not, one side allocates and the other frees.
    pub(crate) fn take_spare(&mut self, mut batch: Box<Batch>) {
        let fits = batch.frames.capacity() <= SPARE_FRAMES_MAX
            && batch.items.capacity() <= SPARE_ITEMS_MAX;
        if fits && self.spare.len() < self.boxes.len().min(SPARE_MAX) {
            batch.items.clear();
            batch.frames.clear();
            batch.size = 0;
            self.spare.push(batch);
        }
    }

    /// Whether publishers to this shard have to wait.
    #[inline]
    pub(crate) fn is_full(&self, target: ShardId) -> bool {
        let outbox = &self.boxes[target.index()];
        outbox.bytes > self.limits.bytes_max || outbox.line.len() > self.limits.envelopes_max
    }

    /// Notes a publisher that waits for room towards `target`.
    pub(crate) fn park(&mut self, target: ShardId, connection: ConnectionId, serial: u32) {
        self.boxes[target.index()].parked.push((connection, serial));
    }

    /// Targets that have something waiting; each once. The reactor visits them at the end of a turn.
    pub(crate) fn take_waiting_targets(&mut self, targets: &mut Vec<ShardId>) {
        targets.append(&mut self.waiting_targets);
        for target in targets {
            self.boxes[target.index()].noted = false;
        }
    }

    /// The oldest envelope for a shard.
    pub(crate) fn pop(&mut self, target: ShardId) -> Option<Envelope> {
        let outbox = &mut self.boxes[target.index()];
        let envelope = outbox.line.pop_front()?;
        if let Envelope::Publications(batch) = &envelope {
            outbox.bytes -= batch.size;
        }
        Some(envelope)
    }

    /// Gives back an envelope for which the ring had no room: it stays the oldest.
    pub(crate) fn put_back(&mut self, target: ShardId, envelope: Envelope) {
        let size = if let Envelope::Publications(batch) = &envelope { batch.size } else { 0 };
        let outbox = self.note(target);
        outbox.bytes += size;
        if mutant!("order-on-ring-full") {
            return outbox.line.push_back(envelope);
        }
        outbox.line.push_front(envelope);
    }

    /// Publishers that may go on, once the outbox has drained to half.
    pub(crate) fn take_unparked(
        &mut self,
        target: ShardId,
        released: &mut Vec<(ConnectionId, u32)>,
    ) {
        let outbox = &mut self.boxes[target.index()];
        if !outbox.parked.is_empty()
            && !mutant!("parked-for-ever")
            && outbox.bytes <= self.limits.bytes_max / 2
            && outbox.line.len() <= self.limits.envelopes_max / 2
        {
            released.append(&mut outbox.parked);
        }
    }

    /// Bytes of publications that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.boxes.iter().map(|outbox| outbox.bytes).sum()
    }

    /// Whether nothing waits for any shard.
    pub(crate) fn is_empty(&self) -> bool {
        self.boxes.iter().all(|outbox| outbox.line.is_empty())
    }

    /// Whether no publisher waits for room.
    pub(crate) fn nobody_waits(&self) -> bool {
        self.boxes.iter().all(|outbox| outbox.parked.is_empty())
    }

    fn note(&mut self, target: ShardId) -> &mut Outbox {
        let outbox = &mut self.boxes[target.index()];
        if !outbox.noted {
            outbox.noted = true;
            self.waiting_targets.push(target);
        }
        outbox
    }
}

/// The batch at the end of the line, or a new one.
fn open_batch<'a>(
    line: &'a mut VecDeque<Envelope>,
    spare: &mut Spare,
    received: Time,
) -> &'a mut Batch {
    let open = matches!(line.back(), Some(Envelope::Publications(b)) if b.size < BATCH_BYTES_MAX);
    if !open {
        let mut batch = spare.pop().unwrap_or_default();
        batch.received = received;
        line.push_back(Envelope::Publications(batch));
    }
    match line.back_mut() {
        Some(Envelope::Publications(batch)) => batch,
        _ => unreachable!("the line ends with a batch"),
    }
}

#[cfg(test)]
mod tests {
    use midge_codec::QoS;

    use super::*;

    const TARGET: ShardId = ShardId::new(1);

    fn publication(size: usize) -> Arc<Publication> {
        Arc::new(Publication::new("t", b"", &vec![0; size], QoS::AtLeastOnce, false, None))
    }

    fn accepted(ticket: u64) -> Envelope {
        Envelope::Accepted(Box::new(crate::envelope::Accepted {
            ticket,
            refused: Vec::new(),
            done: Vec::new(),
        }))
    }

    #[test]
    fn publications_share_a_batch_and_keep_their_place() {
        let mut outboxes = Outboxes::new(2, OutboxLimits::default());
        assert_eq!(outboxes.push_publication(TARGET, &publication(1), true, Time::ZERO, 0), 1);
        assert_eq!(outboxes.push_publication(TARGET, &publication(1), false, Time::ZERO, 0), 0);
        outboxes.push(TARGET, accepted(7));
        assert_eq!(outboxes.push_publication(TARGET, &publication(1), true, Time::ZERO, 0), 2);
        let mut targets = Vec::new();
        outboxes.take_waiting_targets(&mut targets);
        assert_eq!(targets, [TARGET]);
        let sizes: Vec<usize> = std::iter::from_fn(|| outboxes.pop(TARGET))
            .map(|envelope| match envelope {
                Envelope::Publications(batch) => batch.items.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(sizes, [2, 0, 1]);
        assert!(outboxes.is_empty());
    }

    #[test]
    fn a_spare_batch_brings_nothing_along() {
        let mut outboxes = Outboxes::new(2, OutboxLimits::default());
        outboxes.push_publication(TARGET, &publication(1), true, Time::ZERO, 0);
        let Some(Envelope::Publications(batch)) = outboxes.pop(TARGET) else {
            panic!("a batch was pushed")
        };
        let weak = match &batch.items[0] {
            Item::Publication { publication, .. } => Arc::downgrade(publication),
            Item::Run(_) => panic!("a publication was pushed"),
        };
        outboxes.take_spare(batch);
        assert!(weak.upgrade().is_none(), "a spare batch keeps no message");
        let later = Time::from_seconds(1);
        outboxes.push_publication(TARGET, &publication(1), false, later, 0);
        let Some(Envelope::Publications(batch)) = outboxes.pop(TARGET) else {
            panic!("a batch was pushed")
        };
        assert_eq!((batch.items.len(), batch.received), (1, later));
        assert!(outboxes.spare.is_empty(), "it was used again");
        assert_eq!(outboxes.bytes(), 0);
        let large = Batch { frames: Vec::with_capacity(SPARE_FRAMES_MAX + 1), ..Batch::default() };
        outboxes.take_spare(Box::new(large));
        assert!(outboxes.spare.is_empty(), "what a burst took is given back");
    }

    #[test]
    fn full_parks_and_half_empty_releases() {
        let limits = OutboxLimits { bytes_max: 1000, envelopes_max: 10 };
        let mut outboxes = Outboxes::new(2, limits);
        outboxes.push_publication(TARGET, &publication(2000), false, Time::ZERO, 0);
        assert!(outboxes.is_full(TARGET));
        outboxes.park(TARGET, ConnectionId(3), 9);
        let mut released = Vec::new();
        outboxes.take_unparked(TARGET, &mut released);
        assert!(released.is_empty());
        let envelope = outboxes.pop(TARGET).unwrap();
        outboxes.put_back(TARGET, envelope);
        assert!(outboxes.is_full(TARGET));
        outboxes.pop(TARGET).unwrap();
        outboxes.take_unparked(TARGET, &mut released);
        assert_eq!(released, [(ConnectionId(3), 9)]);
    }
}
