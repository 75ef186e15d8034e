//! After a crash: what the log holds, record by record, and what is missing from it.
//!
//! All headers are read first, then the last segment that holds anything is looked through for what its batch headers say
//! about the rest (what was synced, which segments are done with), then everything is walked in order through one window
//! of memory. Bytes that are not what was written there are stepped over to the next record that is, and reported, with
//! the sequences that are missing for it.
//!
//! # Torn or rotten
//! A crash may tear the batch that was being written; nobody was told that it is kept. Each batch header says what was
//! synced when it was written, so what is missing below the highest such mark was kept once and is [`Cause::Rotten`].
//! Above it, it may have been torn, or be the last batch of all and have rotted after its sync: [`Cause::Torn`] says that
//! no more is known. A log that was closed in good order has a mark behind its last record.
//!
//! The log goes on in a new segment, whose header names the torn places, so that they are told once. Behind the last
//! record that counts, a segment that was left because of a crash or a failure may hold anything.

use std::{collections::HashMap, fmt, io, mem};

use crate::{
    LogId, Position, Record, SegmentId, Sequence,
    format::{
        HeaderFound, KNOWN_MAX, KnownDamage, RECORD_ALIGNMENT, SEGMENT_HEADER_SIZE, Seal,
        SegmentHeader, Step, is_zero, step,
    },
    settings::SEGMENT_SIZE_LEAST,
};

mod window;

use window::Window;

/// Sequences left out after a crash: what a torn tail may have used is not used again.
const SEQUENCES_SKIPPED: u64 = 1 << 20;

/// Reports kept; more are counted.
const DAMAGE_MAX: usize = 1000;

/// The smallest block.
const BLOCK_SIZE_MIN: u32 = 512;

/// The largest block, and so where a second header copy may stand.
const BLOCK_SIZE_MAX: usize = 4096;

/// The files of one log, to be read.
pub trait Segments {
    /// All segments that there are, in any order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&mut self) -> io::Result<Vec<SegmentId>>;

    /// The size of a segment's file in bytes.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn size(&mut self, segment: SegmentId) -> io::Result<u64>;

    /// Reads from there until the buffer is full or the file ends; how many bytes.
    ///
    /// # Errors
    /// When the disk cannot. Recovery ends with it.
    fn read(&mut self, segment: SegmentId, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl<S: Segments> Segments for &mut S {
    fn list(&mut self) -> io::Result<Vec<SegmentId>> {
        (**self).list()
    }

    fn size(&mut self, segment: SegmentId) -> io::Result<u64> {
        (**self).size(segment)
    }

    fn read(&mut self, segment: SegmentId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read(segment, offset, buffer)
    }
}

/// Why a log cannot be recovered at all.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The disk could not be read.
    Io {
        /// The segment, if it was one.
        segment: Option<SegmentId>,
        /// Why.
        error: io::Error,
    },
    /// A later version of this program has written it.
    NewerFormat {
        /// The segment.
        segment: SegmentId,
        /// Its version.
        version: u16,
    },
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { segment: Some(segment), error } => {
                write!(formatter, "segment {segment} cannot be read: {error}")
            }
            Self::Io { segment: None, error } => {
                write!(formatter, "the segments cannot be listed: {error}")
            }
            Self::NewerFormat { segment, version } => write!(
                formatter,
                "segment {segment} has format version {version}, which is newer than this program"
            ),
        }
    }
}

impl std::error::Error for RecoveryError {}

/// What recovery comes upon.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A sound record.
    Record(Position, Record<'a>),
    /// Something that is not as it was written.
    Damage(Damage),
}

/// One place that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub segment: SegmentId,
    /// Where in it.
    pub offset: u32,
    /// How many bytes were stepped over; 0 when it is not bytes but records that are missing.
    pub size: u32,
    /// The first and last sequence that are missing for it; `None` when no record is known to be.
    pub missing: Option<(Sequence, Sequence)>,
    /// What it looks like.
    pub cause: Cause,
}

/// What damage looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// At the end of what was written, and never known to be synced: an ordinary crash.
    Torn,
    /// It was on the disk once, and is not any more.
    Rotten,
    /// The file is shorter than its header says.
    Truncated,
    /// The file is not there.
    MissingSegment,
    /// The file belongs to another log, or another place in this one. Nothing of it is used.
    Foreign,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Torn => "torn by a crash",
            Self::Rotten => "damaged",
            Self::Truncated => "cut short",
            Self::MissingSegment => "missing",
            Self::Foreign => "not of this log",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, size, missing, cause } = self;
        match size {
            0 => write!(formatter, "segment {segment}, offset {offset}: {cause}")?,
            _ => write!(formatter, "segment {segment}, offset {offset}, {size} bytes: {cause}")?,
        }
        match missing {
            None => Ok(()),
            Some((first, last)) if first == last => {
                write!(formatter, "; record {first} is missing")
            }
            Some((first, last)) => write!(formatter, "; records {first} to {last} are missing"),
        }
    }
}

/// What a recovery has found: where [`Log::resume`](crate::Log::resume) goes on.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The log's identity.
    pub id: LogId,
    /// Whose it is.
    pub shard: u16,
    /// The segments that hold something, oldest first.
    pub segments: Vec<RecoveredSegment>,
    /// Files to be removed: done with, or without content.
    pub unused: Vec<SegmentId>,
    /// Segments that were prepared and hold nothing yet, with their sizes.
    pub ready: Vec<(SegmentId, u32)>,
    /// The last record that was found.
    pub last: Sequence,
    /// The last sequence that may have been used: the next record has the one after it.
    pub appended: Sequence,
    /// The next segment's number.
    pub next_segment: SegmentId,
    /// How many records were found.
    pub records: u64,
    /// Whether the log was closed in good order.
    pub closed: bool,
    /// Everything up to here was known to be synced by what was found.
    pub synced: Sequence,
    /// The places that were torn, for the next segment's header.
    pub torn: Vec<KnownDamage>,
    /// What was damaged, the first thousand.
    pub damage: Vec<Damage>,
    /// How much was damaged.
    pub damage_count: u64,
}

/// One segment of a recovered log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Its number.
    pub segment: SegmentId,
    /// Its size in bytes.
    pub size: u32,
    /// Its block size in bytes.
    pub block_size: u32,
    /// Where its last record ends.
    pub end: u32,
    /// Bytes of its records.
    pub live: u64,
    /// Whether something in it was damaged other than torn.
    pub damaged: bool,
}

/// Walks through the log of one shard.
#[derive(Debug)]
pub struct Recovery<S> {
    segments: S,
    window: Window,
    plan: Vec<Planned>,
    /// The next of the plan.
    turn: usize,
    current: Option<Current>,
    /// The next record's sequence, if none is missing; `None` before anything is known.
    expected: Option<Sequence>,
    /// Damage that is found and not yielded.
    found: Vec<Damage>,
    recovered: Recovered,
}

/// A file, as far as its header tells.
#[derive(Clone, Copy, Debug)]
struct Planned {
    segment: SegmentId,
    file_size: u64,
    header: Option<SegmentHeader>,
    /// Which copies of the header are not as they were written.
    spoiled: [bool; 2],
    block_size: u32,
}

/// The segment that is being walked.
#[derive(Clone, Copy, Debug)]
struct Current {
    planned: Planned,
    seal: Seal,
    offset: u32,
    /// Where the file ends.
    end: u32,
    /// Where the last sound thing ends.
    records_end: u32,
    live: u64,
    /// Behind this record, what stands here does not count, whatever it is.
    void_after: Option<Sequence>,
    /// Damage that is being stepped over: where it begins and ends so far.
    damage: Option<(u32, u32)>,
    damaged: bool,
    /// Nothing but zeroes so far.
    is_zero: bool,
}

/// What a walk comes upon, without the payload itself.
enum Found {
    Record { offset: u32, payload: std::ops::Range<usize>, sequence: Sequence, kind: u8 },
    Damage(Damage),
}

impl<S: Segments> Recovery<S> {
    /// Reads the headers of all segments. `new_id` is the identity that the log gets if there is nothing yet.
    ///
    /// # Errors
    /// When the disk cannot be read, or the log is of a newer format.
    pub fn open(mut segments: S, shard: u16, new_id: LogId) -> Result<Self, RecoveryError> {
        let io = |segment| move |error| RecoveryError::Io { segment, error };
        let mut list = segments.list().map_err(io(None))?;
        list.sort_unstable();
        let mut found = Vec::new();
        let mut plan = Vec::new();
        for segment in list {
            let file_size = segments.size(segment).map_err(io(Some(segment)))?;
            let found = read_header(&mut segments, segment)?;
            let (header, spoiled) = found.map_or((None, [false; 2]), |(h, s)| (Some(h), s));
            // What is laid out in larger blocks reads the same in the smallest ones.
            let block_size = header.map_or(BLOCK_SIZE_MIN, |header| header.block_size);
            plan.push(Planned { segment, file_size, header, spoiled, block_size });
        }
        let id = prevailing_id(&plan, shard).unwrap_or(new_id);
        plan.retain(|planned| {
            let foreign = planned.header.is_some_and(|header| {
                header.id != id || header.shard != shard || header.segment != planned.segment
            });
            if foreign {
                found.push(whole(planned, Cause::Foreign));
            }
            !foreign
        });
        let recovered = Recovered {
            id,
            shard,
            segments: Vec::new(),
            unused: Vec::new(),
            ready: Vec::new(),
            last: Sequence(0),
            appended: Sequence(0),
            next_segment: SegmentId(1),
            records: 0,
            closed: false,
            synced: Sequence(0),
            torn: Vec::new(),
            damage: Vec::new(),
            damage_count: 0,
        };
        let mut recovery = Self {
            segments,
            window: Window::default(),
            plan,
            turn: 0,
            current: None,
            expected: None,
            found,
            recovered,
        };
        recovery.look_ahead()?;
        Ok(recovery)
    }

    /// The next record or damage, in the order of the log. `None` at the end.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, RecoveryError> {
        match self.walk()? {
            None => Ok(None),
            Some(Found::Damage(damage)) => {
                self.recovered.damage_count += 1;
                if damage.cause == Cause::Torn {
                    let (first, last) = damage.missing.unwrap_or_default();
                    let Damage { segment, offset, size, .. } = damage;
                    self.recovered.torn.push(KnownDamage { segment, offset, size, first, last });
                }
                if self.recovered.damage.len() < DAMAGE_MAX {
                    self.recovered.damage.push(damage);
                }
                Ok(Some(Item::Damage(damage)))
            }
            Some(Found::Record { offset, payload, sequence, kind }) => {
                let segment =
                    self.current.as_ref().expect("a record is in a segment").planned.segment;
                let payload = &self.window.bytes()[payload];
                let record = Record { sequence, kind, payload };
                Ok(Some(Item::Record(Position { segment, offset }, record)))
            }
        }
    }

    /// The log's identity.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.recovered.id
    }

    /// How far it has come: bytes walked, of how many.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let total = self.plan.iter().map(|planned| planned.file_size).sum();
        let done: u64 = self.plan[..self.turn].iter().map(|planned| planned.file_size).sum();
        let ahead = self.current.map_or(0, |current| u64::from(current.end - current.offset));
        (done.saturating_sub(ahead), total)
    }

    /// Ends the recovery; what is left is walked first.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn finish(mut self) -> Result<(Recovered, S), RecoveryError> {
        while self.next_item()?.is_some() {}
        self.look_for_the_newest();
        let mut recovered = self.recovered;
        recovered.last = self.expected.map_or(Sequence(0), |next| Sequence(next.0 - 1));
        let highest = recovered.last.max(recovered.synced);
        recovered.appended = match recovered.records > 0 || highest.0 > 0 {
            true => Sequence(highest.0 + SEQUENCES_SKIPPED),
            false => highest,
        };
        recovered.last = highest;
        let newest = self.plan.last().map_or(0, |planned| planned.segment.0);
        recovered.next_segment = SegmentId(newest + 1);
        Ok((recovered, self.segments))
    }

    /// Segments are prepared one after the other: if one is there, so was the one before it.
    fn look_for_the_newest(&mut self) {
        let last = self.recovered.segments.last().map_or(0, |last| last.segment.0);
        let next = SegmentId(last + 1);
        let known = self.plan.iter().any(|planned| planned.segment == next);
        let ready = self.recovered.ready.first().map(|(ready, _)| *ready);
        if last > 0 && !known && ready.is_some_and(|ready| ready > next) {
            self.recovered.damage_count += 1;
            self.recovered.damage.push(Damage {
                segment: next,
                offset: 0,
                size: 0,
                missing: None,
                cause: Cause::MissingSegment,
            });
        }
    }

    /// What headers and the newest batches say about the rest.
    fn look_ahead(&mut self) -> Result<(), RecoveryError> {
        let mut oldest = SegmentId(0);
        for header in self.plan.iter().filter_map(|planned| planned.header) {
            oldest = oldest.max(header.oldest);
            self.recovered.synced = self.recovered.synced.max(header.kept);
        }
        let mut used = false;
        for index in (0..self.plan.len()).rev() {
            let mut current = self.begin(self.plan[index]);
            // Records alone, whose batch header is torn, say nothing about the rest.
            let mut says = current.planned.header.is_some();
            let newest = !used;
            used |= says;
            while current.offset < current.end {
                match self.step(&current)? {
                    Walked::Batch { header, next } => {
                        (used, says) = (true, true);
                        oldest = oldest.max(header.oldest);
                        self.recovered.synced = self.recovered.synced.max(header.synced);
                        self.recovered.closed = newest && header.closes;
                        current.offset = next;
                    }
                    Walked::Record { next, .. } => {
                        used = true;
                        self.recovered.closed = false;
                        current.offset = next;
                    }
                    Walked::Padding { next } => current.offset = next,
                    Walked::Damaged => current.offset += RECORD_ALIGNMENT as u32,
                }
            }
            if says {
                break;
            }
        }
        let done: Vec<SegmentId> = self
            .plan
            .iter()
            .map(|planned| planned.segment)
            .filter(|segment| *segment < oldest)
            .collect();
        self.recovered.unused.extend(done);
        self.plan.retain(|planned| planned.segment >= oldest);
        let first = self.plan.first().map(|planned| planned.segment);
        if oldest.0 > 0 && first.is_some_and(|first| first > oldest) {
            self.found.push(Damage {
                segment: oldest,
                offset: 0,
                size: 0,
                missing: None,
                cause: Cause::MissingSegment,
            });
        }
        Ok(())
    }

    fn begin(&mut self, planned: Planned) -> Current {
        let size = planned.header.map_or(u64::from(u32::MAX), |header| u64::from(header.size));
        let align = RECORD_ALIGNMENT as u64;
        let end = (planned.file_size.min(size) / align * align).min(u64::from(u32::MAX) - 7) as u32;
        let offset = match planned.header {
            Some(_) => SegmentHeader::batches_start(planned.block_size).min(end),
            None => 0,
        };
        self.window.begin(planned.segment);
        Current {
            planned,
            seal: Seal::new(self.recovered.id, planned.segment),
            offset,
            end,
            records_end: offset,
            live: 0,
            void_after: None,
            damage: None,
            damaged: false,
            is_zero: true,
        }
    }

    /// What stands at the current place, once enough of it is in the window.
    fn step(&mut self, current: &Current) -> Result<Walked, RecoveryError> {
        let mut needed = 1;
        loop {
            let offset = current.offset;
            let start = self.window.at(&mut self.segments, offset, needed, current.end).map_err(
                |error| RecoveryError::Io { segment: Some(current.planned.segment), error },
            )?;
            let bytes = &self.window.bytes()[start..];
            return Ok(
                match step(current.seal, current.planned.block_size, offset, current.end, bytes) {
                    Step::Record { record, next, padding_sound } => {
                        let from = start + crate::RECORD_HEADER_SIZE;
                        Walked::Record {
                            next,
                            sequence: record.sequence,
                            kind: record.kind,
                            payload: from..from + record.payload.len(),
                            padding_sound,
                        }
                    }
                    Step::Batch { header, next } => Walked::Batch { header, next },
                    Step::Padding { next } => Walked::Padding { next },
                    Step::Damaged => Walked::Damaged,
                    // The file has less than its size said.
                    Step::Incomplete { needed: more } if bytes.len() < needed => {
                        debug_assert!(more > bytes.len());
                        Walked::Damaged
                    }
                    Step::Incomplete { needed: more } => {
                        needed = more;
                        continue;
                    }
                },
            );
        }
    }

    fn walk(&mut self) -> Result<Option<Found>, RecoveryError> {
        loop {
            if !self.found.is_empty() {
                return Ok(Some(Found::Damage(self.found.remove(0))));
            }
            let Some(mut current) = self.current else {
                let Some(planned) = self.plan.get(self.turn).copied() else { return Ok(None) };
                self.turn += 1;
                self.enter(planned);
                continue;
            };
            if current.offset >= current.end {
                self.leave(current);
                self.current = None;
                continue;
            }
            if self.skips(&mut current) {
                self.current = Some(current);
                continue;
            }
            let walked = self.step(&current)?;
            current.is_zero &= matches!(walked, Walked::Padding { .. });
            match walked {
                Walked::Damaged => {
                    let start = current.damage.map_or(current.offset, |(start, _)| start);
                    current.offset += RECORD_ALIGNMENT as u32;
                    current.damage = Some((start, current.offset));
                    self.current = Some(current);
                }
                Walked::Padding { next } => {
                    current.offset = next;
                    self.current = Some(current);
                }
                Walked::Batch { header, next } => {
                    if current.damage.is_none() {
                        current.records_end = next;
                        current.offset = next;
                        self.current = Some(current);
                    } else {
                        // It says which record is its first: so what is missing before it belongs to these bytes.
                        self.close_damage(&mut current, Some(header.first));
                        self.current = Some(current);
                    }
                }
                Walked::Record { next, sequence, kind, payload, padding_sound } => {
                    if let Some(last) = current.void_after.filter(|last| sequence > *last) {
                        // What counts ends before it.
                        current.offset = current.end;
                        if self.expected.is_none_or(|expected| expected > last) {
                            current.damage = None;
                        }
                        self.current = Some(current);
                        continue;
                    }
                    if current.damage.is_some() {
                        self.close_damage(&mut current, Some(sequence));
                        self.current = Some(current);
                        continue;
                    }
                    let offset = current.offset;
                    let expected = self.expected.unwrap_or(sequence);
                    if sequence > expected {
                        self.report_gap(&mut current, offset, expected, sequence);
                        self.current = Some(current);
                        continue;
                    }
                    current.offset = next;
                    current.records_end = next;
                    if !padding_sound {
                        current.damaged = true;
                        self.found.push(Damage {
                            segment: current.planned.segment,
                            offset: next - RECORD_ALIGNMENT as u32,
                            size: RECORD_ALIGNMENT as u32,
                            missing: None,
                            cause: Cause::Rotten,
                        });
                    }
                    // An earlier sequence than expected stands where a later one should: it counts no more.
                    let stale = sequence < expected;
                    if !stale {
                        self.expected = Some(sequence.next());
                    }
                    if !stale {
                        current.live += u64::from(next - offset);
                        self.recovered.records += 1;
                    }
                    self.current = Some(current);
                    if !stale {
                        return Ok(Some(Found::Record { offset, payload, sequence, kind }));
                    }
                }
            }
        }
    }

    /// Begins with a segment: does it follow on what came before?
    fn enter(&mut self, planned: Planned) {
        let mut current = self.begin(planned);
        if let Some(header) = planned.header {
            let before = self.turn.checked_sub(2).map(|index| self.plan[index]);
            let linked = before.is_none_or(|before| header.previous == before.segment)
                || header.previous < self.plan[0].segment;
            if let Some(expected) = self.expected
                && header.kept >= expected
            {
                let segment = if linked {
                    before.map_or(planned.segment, |b| b.segment)
                } else {
                    header.previous
                };
                let cause = if linked { Cause::Rotten } else { Cause::MissingSegment };
                // Not told yet if nothing at the end of the segment before it was damaged.
                self.found.push(Damage {
                    segment,
                    offset: 0,
                    size: 0,
                    missing: Some((expected, header.kept)),
                    cause,
                });
            }
            self.expected = Some(self.expected.map_or(header.first, |e| e.max(header.first)));
            if planned.file_size < u64::from(header.size) {
                current.damaged = true;
                self.found.push(Damage {
                    segment: planned.segment,
                    offset: current.end,
                    size: header.size - current.end,
                    missing: None,
                    cause: Cause::Truncated,
                });
            }
        }
        let later = self.plan[self.turn..].iter().filter_map(|planned| planned.header);
        current.void_after = later
            .filter(|header| header.kept.next() < header.first)
            .map(|header| header.kept)
            .min();
        if let Some(header) = planned.header
            && current.void_after.is_none_or(|last| header.first <= last)
        {
            for copy in 0..2 {
                let offset = copy * planned.block_size;
                if planned.spoiled[copy as usize] && self.known(planned.segment, offset).is_none() {
                    let rotten = header.first <= self.recovered.synced;
                    current.damaged |= rotten;
                    self.found.push(Damage {
                        segment: planned.segment,
                        offset,
                        size: planned.block_size,
                        missing: None,
                        cause: if rotten { Cause::Rotten } else { Cause::Torn },
                    });
                }
            }
        }
        self.current = Some(current);
    }

    /// Steps over what is known not to count. Whether there was any.
    fn skips(&mut self, current: &mut Current) -> bool {
        if current.void_after.zip(self.expected).is_some_and(|(last, next)| next > last) {
            current.offset = current.end;
            current.damage = None;
            return true;
        }
        if current.damage.is_none()
            && let Some(known) = self.known(current.planned.segment, current.offset)
            && known.size > 0
        {
            current.offset = current.offset.saturating_add(known.size).min(current.end);
            if let Some(expected) = &mut self.expected
                && known.first == *expected
            {
                *expected = known.last.next();
            }
            return true;
        }
        false
    }

    /// A torn place that an earlier recovery has told.
    fn known(&self, segment: SegmentId, offset: u32) -> Option<KnownDamage> {
        let headers = self.plan.iter().filter_map(|planned| planned.header);
        headers
            .filter(|header| header.segment > segment)
            .flat_map(|header| header.known)
            .find(|known| known.segment == segment && known.offset == offset)
    }

    /// Ends with a segment.
    fn leave(&mut self, mut current: Current) {
        let planned = current.planned;
        if let Some((start, end)) = current.damage.take() {
            // Nothing sound follows here. What is missing for it, the next segment's header or the marks tell.
            let next = self.plan[self.turn..].iter().find_map(|planned| planned.header);
            let known = next.map_or(self.recovered.synced, |header| header.kept);
            let missing = self.expected.filter(|first| known >= *first).map(|first| (first, known));
            if missing.is_some() {
                self.expected = Some(known.next());
            }
            // Of the oldest segment it is not known where it began if its header is gone; that it held something that
            // counts is, if it was left in good order.
            let rotten = missing.is_some()
                || (self.expected.is_none() && next.is_some() && current.void_after.is_none());
            current.damaged |= rotten;
            self.found.push(Damage {
                segment: planned.segment,
                offset: start,
                size: end - start,
                missing,
                cause: if rotten { Cause::Rotten } else { Cause::Torn },
            });
        } else if self.turn == self.plan.len()
            && let Some(expected) = self.expected
            && self.recovered.synced >= expected
        {
            current.damaged = true;
            let known = self.recovered.synced;
            self.expected = Some(known.next());
            self.found.push(Damage {
                segment: planned.segment,
                offset: current.records_end,
                size: 0,
                missing: Some((expected, known)),
                cause: Cause::Rotten,
            });
        }
        if planned.header.is_none() && current.is_zero {
            let newer = self.plan[self.turn..].iter().all(|planned| planned.header.is_none());
            let size = planned.file_size;
            let least = u64::from(SEGMENT_SIZE_LEAST);
            let usable = (least..=1 << 30).contains(&size) && size.is_multiple_of(512);
            if newer && usable {
                self.recovered.ready.push((planned.segment, size as u32));
            } else {
                self.recovered.unused.push(planned.segment);
            }
            if !usable {
                // Files are made whole or not at all.
                self.found.push(whole(&planned, Cause::Truncated));
            }
            return;
        }
        // Something stands here: what was prepared before it is not the next segment.
        let ready = mem::take(&mut self.recovered.ready);
        self.recovered.unused.extend(ready.into_iter().map(|(segment, _)| segment));
        self.recovered.segments.push(RecoveredSegment {
            segment: planned.segment,
            size: current.end.max(planned.header.map_or(0, |header| header.size)),
            block_size: planned.block_size,
            end: current.records_end.next_multiple_of(planned.block_size).min(current.end),
            live: current.live,
            damaged: current.damaged,
        });
    }

    /// Sound bytes follow damaged ones: with this record, or with a batch header.
    fn close_damage(&mut self, current: &mut Current, sequence: Option<Sequence>) {
        let Some((start, end)) = current.damage.take() else { return };
        // Where it began is not known, and what a failure left in it does not count.
        let unknown = self.expected.is_none() && current.void_after.is_some();
        let expected = self.expected.unwrap_or(sequence.unwrap_or(Sequence(1)));
        let missing = sequence.and_then(|sequence| self.miss(current, expected, sequence));
        let first = missing.map_or(expected, |(first, _)| first);
        let rotten = first <= self.recovered.synced && !unknown;
        current.damaged |= rotten;
        self.found.push(Damage {
            segment: current.planned.segment,
            offset: start,
            size: if rotten { end - start } else { self.cut(current, start, end) },
            missing,
            cause: if rotten { Cause::Rotten } else { Cause::Torn },
        });
    }

    /// The records between the one that was expected and the one that came, as far as they count.
    fn miss(
        &mut self,
        current: &Current,
        expected: Sequence,
        found: Sequence,
    ) -> Option<(Sequence, Sequence)> {
        let end = found.min(current.void_after.map_or(found, Sequence::next));
        if end <= expected {
            return None;
        }
        self.expected = Some(end);
        Some((expected, Sequence(end.0 - 1)))
    }

    /// The size of a torn place. There are few; when there are more than a header can name, the rest of the segment is
    /// given up with the last one: nobody was told that it is kept.
    fn cut(&self, current: &mut Current, start: u32, end: u32) -> u32 {
        if self.recovered.torn.len() + self.found.len() + 1 < KNOWN_MAX {
            return end - start;
        }
        current.offset = current.end;
        current.end - start
    }

    /// Records are missing although no byte looks wrong: a write that never arrived.
    fn report_gap(
        &mut self,
        current: &mut Current,
        offset: u32,
        expected: Sequence,
        sequence: Sequence,
    ) {
        if self.known(current.planned.segment, offset).is_some() {
            self.expected = Some(sequence);
            return;
        }
        let missing = self.miss(current, expected, sequence);
        let rotten = expected <= self.recovered.synced;
        current.damaged |= rotten;
        self.found.push(Damage {
            segment: current.planned.segment,
            offset,
            size: if rotten { 0 } else { self.cut(current, offset, offset) },
            missing,
            cause: if rotten { Cause::Rotten } else { Cause::Torn },
        });
    }
}

/// Reads the headers alone: an error when a later version of this program has written one of the segments.
///
/// # Errors
/// That, or when the disk cannot be read.
pub fn check_format(segments: &mut impl Segments) -> Result<(), RecoveryError> {
    let list = segments.list().map_err(|error| RecoveryError::Io { segment: None, error })?;
    list.into_iter().try_for_each(|segment| read_header(segments, segment).map(drop))
}

/// A step without borrowed bytes.
enum Walked {
    Record {
        next: u32,
        sequence: Sequence,
        kind: u8,
        payload: std::ops::Range<usize>,
        padding_sound: bool,
    },
    Batch {
        header: crate::format::BatchHeader,
        next: u32,
    },
    Padding {
        next: u32,
    },
    Damaged,
}

/// The header of a segment, from whichever copy is sound.
fn read_header(
    segments: &mut impl Segments,
    segment: SegmentId,
) -> Result<Option<(SegmentHeader, [bool; 2])>, RecoveryError> {
    let mut bytes = vec![0; 2 * BLOCK_SIZE_MAX];
    let size = segments
        .read(segment, 0, &mut bytes)
        .map_err(|error| RecoveryError::Io { segment: Some(segment), error })?;
    let bytes = &bytes[..size];
    let mut sound = None;
    for at in [0, 512, 1024, 2048, 4096] {
        match SegmentHeader::decode(bytes.get(at..).unwrap_or_default()) {
            HeaderFound::Sound(header) if at == 0 || header.block_size as usize == at => {
                sound = Some(header);
                break;
            }
            HeaderFound::Newer(version) if at == 0 => {
                return Err(RecoveryError::NewerFormat { segment, version });
            }
            _ => {}
        }
    }
    let Some(header) = sound else { return Ok(None) };
    let block_size = header.block_size as usize;
    let encoded = header.encode();
    let mut spoiled = [false; 2];
    for (copy, spoiled) in spoiled.iter_mut().enumerate() {
        let at = copy * block_size;
        let block = bytes.get(at..).unwrap_or_default();
        let block = &block[..block.len().min(block_size)];
        let as_written = block.get(..SEGMENT_HEADER_SIZE) == Some(&encoded[..])
            && is_zero(&block[SEGMENT_HEADER_SIZE..]);
        // One that ends before is cut short, which is told elsewhere.
        *spoiled = !as_written && block.len() == block_size;
    }
    Ok(Some((header, spoiled)))
}

/// The identity that most headers carry; of several, that of the newest.
fn prevailing_id(plan: &[Planned], shard: u16) -> Option<LogId> {
    let mut counts: HashMap<LogId, (u32, SegmentId)> = HashMap::new();
    for planned in plan {
        if let Some(header) = planned.header
            && header.segment == planned.segment
            && header.shard == shard
        {
            let count = counts.entry(header.id).or_default();
            *count = (count.0 + 1, planned.segment);
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| id)
}

fn whole(planned: &Planned, cause: Cause) -> Damage {
    Damage {
        segment: planned.segment,
        offset: 0,
        size: u32::try_from(planned.file_size).unwrap_or(u32::MAX),
        missing: None,
        cause,
    }
}
