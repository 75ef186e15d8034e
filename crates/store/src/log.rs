//! The log itself: what is appended, gathered, written, synced; which segments there are.
//!
//! ```text
//!  append ──> gather ──cut──> commit (one write, one sync, in flight) ──> written(), synced()
//!                │               one at a time: while the disk works, the next one gathers
//!                └── segment full ──> sealed ──> commit, before anything of the next segment
//! ```
//!
//! That is the whole of group commit: there is no timer. A lone record leaves at once; under load a commit takes what has
//! come together while the one before it was under way.
//!
//! # Invariants
//! - A position, once told, is where the record will be written. Committed bytes are never written again: each commit
//!   begins at a block of its own.
//! - `synced ≤ written ≤ appended`, and segments are synced in their order.
//! - What a failed write or sync leaves unsynced is given up: no mark passes it before
//!   [`Log::take_failure`] has told, and the next segment's header says that it does not count.
//! - Records go only into segments that the disk has prepared. One more than that is kept ready for
//!   [`Room::Reserve`].

use std::collections::VecDeque;

use crate::{
    Appended, Buffer, Completion, Condition, DiskError, Event, Failure, Level, LogId, Operation,
    OperationId, Position, Refused, Room, SegmentId, Sequence, Settings,
    format::{
        BATCH_HEADER_SIZE, KIND_MAX, KNOWN_MAX, KnownDamage, RECORD_ALIGNMENT, Seal, SegmentHeader,
        record_header, record_size,
    },
    recovery::Recovered,
};

mod cleaning;
mod commit;
mod prepare;
mod reading;
mod statistics;

use cleaning::{Move, Retiring};
use commit::{Batch, Commit};
pub use reading::ReadId;
use reading::Reads;
pub use statistics::Statistics;

/// Buffers kept for their next use.
const SPARE_BUFFERS_MAX: usize = 4;

/// Larger buffers than this are given back to the allocator.
const SPARE_BUFFER_SIZE_MAX: usize = 1 << 20;

/// One shard's log: a plain value that knows neither clock nor files.
///
/// Whoever drives it performs what [`Log::poll_operation`] yields and tells the outcome to
/// [`Log::handle_completion`], in any order.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
    id: LogId,
    shard: u16,
    appended: Sequence,
    written: Sequence,
    synced: Sequence,
    /// Sequences after this one and up to `appended` mean nothing, which the next segment's header has to say.
    gap: Option<Sequence>,
    /// The segment whose header says so, until that is synced.
    gap_stated: Option<(SegmentId, Sequence)>,
    /// What the last crash has torn, for the headers of this life.
    known: [KnownDamage; KNOWN_MAX],
    /// Oldest first. The last one takes records if `open`.
    segments: VecDeque<Segment>,
    open: bool,
    gather: Gather,
    /// Batches of segments that are full, before that of the segment that is open.
    sealed: VecDeque<Batch>,
    commit: Option<Commit>,
    /// Bytes in `gather`, `sealed` and `commit`.
    unwritten_size: usize,
    /// The last batch that is synced.
    synced_batch: u64,
    /// Everything appended is to be written and synced although nobody waits.
    flush_wanted: bool,
    /// A batch header is to be written although there is no record.
    batch_wanted: bool,
    closing: Closing,
    prepare: prepare::Prepare,
    condition: Condition,
    /// Why it is not healthy, or was not the last time.
    last_error: Option<DiskError>,
    failure: Option<Failure>,
    /// The open segment is on trial after a failure.
    probing: bool,
    /// The first segment whose trial failed. Its file stays until one succeeds: as long as it is there, nobody takes it
    /// for one that was lost.
    failed_probe: Option<SegmentId>,
    retiring: Option<Retiring>,
    /// What the next batch says about which segments are done with.
    oldest_stated: SegmentId,
    /// Copies that cleaning made and that are not synced yet, in order.
    moves: VecDeque<Move>,
    reads: Reads,
    next_operation: u64,
    operations: VecDeque<(OperationId, Operation)>,
    events: VecDeque<Event>,
    spare: Vec<Buffer>,
    statistics: Statistics,
}

/// One segment that holds records.
#[derive(Debug)]
struct Segment {
    id: SegmentId,
    seal: Seal,
    size: u32,
    block_size: u32,
    /// Where the next record goes, or where the records end.
    end: u32,
    /// How far it can be read.
    written_end: u32,
    /// How far the disk surely has it.
    synced_end: u32,
    /// Bytes of records that are not released.
    live: u64,
}

/// The batch that is being filled.
#[derive(Debug)]
struct Gather {
    /// The number of this batch among all batches.
    number: u64,
    /// Where `buffer` goes in the open segment.
    start: u32,
    buffer: Buffer,
    /// Where in the buffer the batch header stands; `None` while there is none.
    header_at: Option<usize>,
    records: u32,
    first: Sequence,
    level: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// Until everything is synced.
    Flushing,
    /// The last batch is being written.
    Marking,
    Done,
}

impl Log {
    /// A new, empty log. Takes records once its first segments are prepared ([`Log::is_ready`]).
    #[must_use]
    pub fn create(settings: Settings, id: LogId, shard: u16) -> Self {
        Self::new(settings, id, shard, Sequence(0), SegmentId(1))
    }

    /// The log that was recovered, to be continued in a new segment.
    ///
    /// Everything in it counts as live: [`Log::release`] what replay has shown to be dead.
    #[must_use]
    pub fn resume(settings: Settings, recovered: &Recovered) -> Self {
        let mut log = Self::new(
            settings,
            recovered.id,
            recovered.shard,
            recovered.appended,
            recovered.next_segment,
        );
        log.gap = Some(recovered.last);
        for (known, torn) in log.known.iter_mut().zip(&recovered.torn) {
            *known = *torn;
        }
        log.segments = recovered
            .segments
            .iter()
            .map(|found| Segment {
                id: found.segment,
                seal: Seal::new(recovered.id, found.segment),
                size: found.size,
                block_size: found.block_size,
                end: found.end,
                written_end: found.end,
                synced_end: found.end,
                live: found.live,
            })
            .collect();
        if let Some(oldest) = log.segments.front() {
            log.oldest_stated = oldest.id;
        }
        let total = log.segments.iter().map(|segment| u64::from(segment.end)).sum::<u64>();
        log.prepare.grow_with(total, &log.settings);
        // The first preparation was asked for before it was known what there is.
        log.operations.clear();
        log.prepare.adopt(&recovered.ready, &log.settings);
        for segment in &recovered.unused {
            log.push_operation(Operation::Remove { segment: *segment });
        }
        log.prepare_segments();
        log
    }

    fn new(
        settings: Settings,
        id: LogId,
        shard: u16,
        synced: Sequence,
        next_segment: SegmentId,
    ) -> Self {
        let settings = settings.checked();
        let mut log = Self {
            id,
            shard,
            appended: synced,
            written: synced,
            synced,
            gap: None,
            gap_stated: None,
            known: [KnownDamage::default(); KNOWN_MAX],
            segments: VecDeque::new(),
            open: false,
            gather: Gather {
                number: 1,
                start: 0,
                buffer: Buffer::with_capacity(0),
                header_at: None,
                records: 0,
                first: synced.next(),
                level: Level::Memory,
            },
            sealed: VecDeque::new(),
            commit: None,
            unwritten_size: 0,
            synced_batch: 0,
            flush_wanted: false,
            batch_wanted: false,
            closing: Closing::No,
            prepare: prepare::Prepare::new(next_segment, &settings),
            condition: Condition::Healthy,
            last_error: None,
            failure: None,
            probing: false,
            failed_probe: None,
            retiring: None,
            oldest_stated: next_segment,
            moves: VecDeque::new(),
            reads: Reads::default(),
            next_operation: 1,
            operations: VecDeque::new(),
            events: VecDeque::new(),
            spare: Vec::new(),
            statistics: Statistics::default(),
            settings,
        };
        log.prepare_segments();
        log
    }

    /// Appends one record made of `parts`, and returns its place at once. It is kept when the mark of `level` has reached
    /// its sequence. Does not allocate unless the gathering buffer grows.
    ///
    /// # Errors
    /// When there is no room for it; nothing has changed then.
    ///
    /// # Panics
    /// When `kind` is above [`KIND_MAX`].
    #[inline]
    pub fn append(
        &mut self,
        kind: u8,
        parts: &[&[u8]],
        level: Level,
        room: Room,
    ) -> Result<Appended, Refused> {
        assert!(kind <= KIND_MAX, "a kind of the caller's");
        let payload_size: usize = parts.iter().map(|part| part.len()).sum();
        let size = record_size(payload_size);
        match self.admit(size, room)? {
            Admitted::Here => {}
            Admitted::Next(index) => self.open_ready(index),
        }
        if self.gather.header_at.is_none() {
            self.begin_batch();
        }
        let segment = self.segments.back_mut().expect("a segment is open");
        let offset = segment.end;
        let sequence = self.appended.next();
        debug_assert_eq!(self.gather.start + self.gather.buffer.len() as u32, offset);
        let record = self.gather.buffer.add(size);
        // Of these some may be padding; what is not is written below.
        *record.last_chunk_mut().expect("a record is larger") = [0; RECORD_ALIGNMENT];
        let (header, rest) = record.split_first_chunk_mut().expect("a record has a header");
        let mut at = 0;
        for part in parts {
            rest[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        *header = record_header(segment.seal, offset, kind, sequence, &rest[..payload_size]);
        segment.end += size as u32;
        segment.live += size as u64;
        let position = Position { segment: segment.id, offset };
        self.appended = sequence;
        self.unwritten_size += size;
        self.gather.records += 1;
        self.gather.level = self.gather.level.max(level);
        self.statistics.records += 1;
        Ok(Appended { position, sequence })
    }

    /// Whether one record of this payload size would be taken. `Ok` holds until the next call that changes the log, so an
    /// append right after it succeeds.
    ///
    /// # Errors
    /// Why it would not be.
    pub fn check(&mut self, payload_size: usize, room: Room) -> Result<(), Refused> {
        self.admit(record_size(payload_size), room).map(drop)
    }

    /// Where a record of that framed size would go.
    #[inline]
    fn admit(&mut self, size: usize, room: Room) -> Result<Admitted, Refused> {
        if self.condition == Condition::Failed {
            return Err(Refused::Failed);
        }
        if self.closing != Closing::No {
            return Err(Refused::Busy);
        }
        if self.unwritten_size > 0 && self.unwritten_size + size > self.settings.gather_size_max {
            return Err(Refused::Busy);
        }
        if self.open {
            let header = if self.gather.header_at.is_none() { BATCH_HEADER_SIZE } else { 0 };
            let segment = self.segments.back().expect("a segment is open");
            if segment.end as usize + header + size <= segment.size as usize {
                return Ok(Admitted::Here);
            }
        }
        self.admit_to_next(size, room)
    }

    /// The last record appended: the mark of [`Level::Memory`].
    #[must_use]
    pub fn appended(&self) -> Sequence {
        self.appended
    }

    /// The last record that the operating system has: the mark of [`Level::Written`].
    #[must_use]
    pub fn written(&self) -> Sequence {
        self.written
    }

    /// The last record that the disk has: the mark of [`Level::Fsync`].
    #[must_use]
    pub fn synced(&self) -> Sequence {
        self.synced
    }

    /// Whether the disk surely has the record at this position, and still counts it. Unlike what [`Log::synced`] says of a
    /// sequence, this can be asked long after; `false` also when its segment is gone.
    #[must_use]
    pub fn is_synced(&self, position: Position) -> bool {
        let found = self.segments.binary_search_by_key(&position.segment, |segment| segment.id);
        found.is_ok_and(|at| position.offset < self.segments[at].synced_end)
    }

    /// Whether a segment is there, to be read.
    #[must_use]
    pub fn has_segment(&self, segment: SegmentId) -> bool {
        self.segments.binary_search_by_key(&segment, |found| found.id).is_ok()
    }

    /// The mark of a level. Records up to it are kept as the level says.
    #[must_use]
    pub fn reached(&self, level: Level) -> Sequence {
        match level {
            Level::Memory => self.appended,
            Level::Written => self.written,
            Level::Fsync => self.synced,
        }
    }

    /// Writes and syncs everything appended so far although nobody waits for it. To be called now and then, such as every
    /// 100 ms: it bounds the age of what [`Level::Memory`] and [`Level::Written`] may lose.
    pub fn flush(&mut self) {
        if self.has_unsynced() {
            self.flush_wanted = true;
        }
    }

    /// Somebody waits for what was appended last, whatever level it was appended with.
    pub fn hasten(&mut self, level: Level) {
        if self.reached(level) >= self.appended {
            return;
        }
        if self.gather.records > 0 {
            self.gather.level = self.gather.level.max(level);
        } else if level == Level::Fsync {
            self.flush();
        }
    }

    /// Ends the log in good order: everything is written and synced, then a mark is set behind it. Takes no records from
    /// now on. Done when [`Log::is_closed`].
    pub fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Flushing;
            self.flush();
        }
    }

    /// Whether [`Log::close`] is done, or can never be because the disk has failed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // On a full disk there may be no room for the mark; the next start then has a tail to look at.
        let unmarked = self.closing == Closing::Marking
            && self.condition == Condition::Full
            && self.commit.is_none();
        self.closing == Closing::Done
            || unmarked
            || (self.closing != Closing::No && self.condition == Condition::Failed)
    }

    /// Whether records can be taken, or cannot for a reason that waiting for a preparation does not remove. At the start,
    /// drive the log until it is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.condition != Condition::Healthy || self.open || self.prepare.is_full()
    }

    /// What to do next; call it until `None` after every other call.
    pub fn poll_operation(&mut self) -> Option<(OperationId, Operation)> {
        if self.operations.is_empty() {
            self.advance();
        }
        self.operations.pop_front()
    }

    /// What happened to an operation.
    pub fn handle_completion(&mut self, id: OperationId, completion: Completion) {
        if self.prepare.is_creating(id) {
            self.created(completion);
        } else if self.commit.as_ref().is_some_and(|commit| commit.has(id)) {
            self.committed(id, completion);
        } else if self.reads.has(id) {
            self.read_completed(id, completion);
        } else {
            self.removed(id, completion);
        }
        self.advance();
    }

    /// The next thing to tell the owner.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the disk lets the log do.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// What the disk answered when the log was last kept from being healthy.
    #[must_use]
    pub fn last_error(&self) -> Option<DiskError> {
        self.last_error
    }

    /// What the last failure took, once. Until it is taken the log stands still.
    #[must_use = "the records that it names are not kept"]
    pub fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Whether something was refused that may work by now: the log is not healthy, or the disk had no room for a segment of the
    /// size that larger records need.
    #[must_use]
    pub fn wants_retry(&self) -> bool {
        self.condition != Condition::Healthy || self.prepare.has_refusals()
    }

    /// Tries again what failed: to prepare a segment on a full disk, or to go on in a new one after a failure. To be
    /// called about every 250 ms while [`Log::wants_retry`]; costs nothing otherwise.
    pub fn retry(&mut self) {
        self.prepare.forget_refusals();
        if self.condition == Condition::Full && self.prepare.is_full() {
            // What there is suffices for the records that come now.
            self.set_condition(Condition::Healthy);
        }
        if self.condition == Condition::Failed && self.failure.is_none() && !self.probing {
            self.probe();
        }
        self.advance();
    }

    /// The log's identity.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.id
    }

    /// The oldest segment that may hold records that count. A record that only says that something of an older segment is
    /// dead may be forgotten.
    #[must_use]
    pub fn oldest(&self) -> SegmentId {
        match (&self.retiring, self.segments.front()) {
            (Some(retiring), _) => retiring.id(),
            (None, Some(segment)) => segment.id,
            (None, None) => self.prepare.next_segment(),
        }
    }

    /// The segment that takes records, or `None` before the first one.
    #[must_use]
    pub fn newest(&self) -> Option<SegmentId> {
        self.segments.back().map(|segment| segment.id)
    }

    /// Counters and sizes.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut statistics = self.statistics;
        statistics.segments = self.segments.len() as u32;
        statistics.segments_ready = self.prepare.ready_count() as u32;
        statistics.bytes_total = self.segments.iter().map(|segment| u64::from(segment.end)).sum();
        statistics.bytes_live = self.live();
        statistics.bytes_reserved = self.prepare.ready_size();
        statistics.bytes_unwritten = self.unwritten_size as u64;
        statistics
    }

    /// Everything that can be started is started.
    fn advance(&mut self) {
        self.prepare_segments();
        self.advance_retiring();
        self.advance_closing();
        self.start_commit();
    }

    fn has_unsynced(&self) -> bool {
        self.synced < self.appended || self.gather.header_at.is_some()
    }

    fn advance_closing(&mut self) {
        match self.closing {
            Closing::Flushing if self.commit.is_none() && !self.has_unsynced() => {
                self.closing = Closing::Marking;
                self.batch_wanted = true;
            }
            Closing::Marking if self.commit.is_none() && !self.batch_wanted => {
                self.closing = Closing::Done;
            }
            _ => {}
        }
    }

    /// Goes on in the ready segment at `index`. Those before it are too small for what comes and stay empty, so that
    /// numbers have no holes.
    fn open_ready(&mut self, index: usize) {
        (0..=index).for_each(|_| self.open_next());
    }

    /// Goes on in the next ready segment, after everything of the open one has been sealed.
    fn open_next(&mut self) {
        self.seal();
        let (segment, size) = self.prepare.take();
        if self.segments.is_empty() {
            self.oldest_stated = segment;
        }
        let header = SegmentHeader {
            block_size: self.settings.block_size,
            id: self.id,
            shard: self.shard,
            segment,
            size,
            oldest: self.oldest_stated,
            previous: self.segments.back().map_or(SegmentId(0), |previous| previous.id),
            first: self.appended.next(),
            kept: self.gap.unwrap_or(self.appended),
            known: self.known,
        };
        if let Some(gap) = self.gap.take() {
            self.gap_stated = Some((segment, gap));
        }
        let bytes = header.encode();
        let block_size = self.settings.block_size as usize;
        let batches_start = SegmentHeader::batches_start(self.settings.block_size);
        for copy in 1..=batches_start as usize / block_size {
            self.gather.buffer.extend(&bytes);
            self.gather.buffer.pad_to(copy * block_size);
        }
        self.unwritten_size += self.gather.buffer.len();
        self.gather.start = 0;
        self.segments.push_back(Segment {
            id: segment,
            seal: Seal::new(self.id, segment),
            size,
            block_size: self.settings.block_size,
            end: batches_start,
            written_end: 0,
            synced_end: 0,
            live: 0,
        });
        self.open = true;
        self.prepare.grow_after(size, self.live(), &self.settings);
        self.prepare_segments();
    }

    /// Makes room for the batch header that `cut` will fill in.
    fn begin_batch(&mut self) {
        debug_assert!(self.open);
        let segment = self.segments.back_mut().expect("a segment is open");
        self.gather.header_at = Some(self.gather.buffer.len());
        self.gather.buffer.extend(&[0; BATCH_HEADER_SIZE]);
        self.gather.first = self.appended.next();
        segment.end += BATCH_HEADER_SIZE as u32;
        self.unwritten_size += BATCH_HEADER_SIZE;
    }

    fn push_operation(&mut self, operation: Operation) -> OperationId {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        self.operations.push_back((id, operation));
        id
    }

    fn set_condition(&mut self, condition: Condition) {
        if self.condition != condition {
            self.condition = condition;
            self.events.push_back(Event::Condition(condition));
        }
    }

    fn take_buffer(&mut self) -> Buffer {
        self.spare.pop().unwrap_or_else(|| Buffer::with_capacity(16 << 10))
    }

    fn give_buffer(&mut self, mut buffer: Buffer) {
        if self.spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BUFFER_SIZE_MAX {
            buffer.truncate(0);
            self.spare.push(buffer);
        }
    }

    fn segment(&mut self, id: SegmentId) -> Option<&mut Segment> {
        let index = self.segments.binary_search_by_key(&id, |segment| segment.id).ok()?;
        self.segments.get_mut(index)
    }
}

/// Where a record that is admitted goes.
#[derive(Clone, Copy, Debug)]
enum Admitted {
    Here,
    /// Into the ready segment with this index.
    Next(usize),
}
