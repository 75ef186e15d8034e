//! Queues of which a part is in the log alone.
//!
//! What waits for sessions may take [`Settings::queued_memory_max`](crate::Settings::queued_memory_max) bytes of this shard's
//! memory. Beyond it, whatever comes for a session that is kept is left to the log as soon as it is synced there, with all that
//! waits before it: its line keeps twenty bytes a message (`midge_session::Stubs`). When the client is there and its line
//! comes to such a message, the log is read from that place on, [`READ_SIZE`] bytes at a time, of which most are
//! usually the messages that follow; the next read is under way before the last one's messages have been sent.
//!
//! A line that goes beyond goes on so as long as its client is away, though there may be room again: its messages leave while
//! they are warm in the processor's caches. Kept until the budget is used up again, each would be cold by then, and the wait for
//! it was a twelfth of all that is done for a message.
//!
//! # Nothing leaves memory before the disk has it
//! [`Log::is_synced`](midge_store::Log::is_synced) is asked for each message. Should a disk fail later, what was synced is still
//! there and is not written again; copies that cleaning had made and that were not synced are undone
//! ([`Shard::move_back`]).
//!
//! # Damage
//! A record that is not as it was written costs its message and no other: it is taken out of the line, counted
//! (`messages_dropped{reason="damaged"}`) and told ([`Action::Lost`]). A read that fails is tried again, later and later; after
//! [`FAILURES_MAX`] failures, more than a minute, the one message in question is given up likewise.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | lines to spill | messages beyond the budget | commits | sessions, each once | – |
//! | reads | lines that wait | the disk | [`READS_MAX`] | the next line waits |
//! | lines that wait for a read | clients that are there | reads | sessions, each once | – |

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use midge_metrics::Counters;
use midge_session::{Delivery, Fetched, Keep, Outbound, Publication, Spilled, Time};
use midge_store::{Chunk, ChunkError, DiskError, Failure, Position, ReadId, SegmentId};

use super::record::Record;
use super::restore::extra;
use super::write::place_of;
use super::{Durable, WallTime};
use crate::action::Action;
use crate::ids::{SessionId, SessionRef};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::tally::{InLog, Load};

/// Bytes read at a time: two hundred messages of 256 bytes, about a tenth of a millisecond of a disk's time and of the shard's.
const READ_SIZE: u32 = 64 << 10;

/// Reads under way, at most: a mebibyte, and what their answers take of one turn.
const READS_MAX: usize = 16;

/// What a record takes beside its message when that has one recipient, generously.
const RECORD_SLACK: u32 = 512;

/// Messages that one turn leaves to the log, at most: a third of a millisecond.
const SPILLED_PER_TURN: usize = 4096;

/// Sessions that one turn looks at for that.
const SESSIONS_PER_TURN: usize = 256;

/// Messages that stay in memory although there are too many: the next ones of a client that is there.
const AHEAD_MESSAGES: usize = 128;

/// Before a read that has failed is tried again, in milliseconds; twice as long after each failure.
const RETRY_MS: u64 = 250;

/// Failures one after the other before a message is given up.
pub(super) const FAILURES_MAX: u8 = 8;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Backlogs {
    /// Sessions of whose lines a part is to be left to the log.
    line: VecDeque<SessionRef>,
    /// More could have been left to the log in the last turn.
    more: bool,
    reads: Vec<Reading>,
    /// Sessions that wait for a read, and how many bytes it must have.
    waiting: VecDeque<(SessionRef, u32)>,
    /// Sessions whose reads have failed, by when to try again.
    retries: BTreeSet<(Time, u32, u32)>,
}

#[derive(Debug)]
struct Reading {
    read: ReadId,
    session: SessionRef,
    position: Position,
    size: u32,
}

impl Backlogs {
    /// Whether another turn should follow at once.
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.retries.first().map(|retry| retry.0)
    }
}

/// Whether the queues of this shard take more memory than they may.
#[inline]
fn is_beyond(counters: &Counters, settings: &Settings) -> bool {
    let in_memory = counters.queued_bytes_now.saturating_sub(counters.queued_bytes_in_log_now);
    in_memory > settings.queued_memory_max as u64
}

impl Durable {
    /// A message for a session that is kept waits in its queue.
    #[inline]
    pub(crate) fn note_queued(
        &mut self,
        session: SessionRef,
        is_away: bool,
        outbound: &mut Outbound,
        counters: &Counters,
        settings: &Settings,
    ) {
        let is_spilling = outbound.is_spilling_mut();
        *is_spilling = is_beyond(counters, settings) || (is_away && *is_spilling);
        if *is_spilling && !std::mem::replace(outbound.is_listed_mut(), true) {
            self.backlogs.line.push_back(session);
        }
    }
}

impl Shard {
    /// Leaves to the log what takes too much memory, as far as the log has it: after each commit, and once per turn.
    pub(crate) fn spill_backlogs(&mut self) {
        let Self { durable: Some(durable), sessions, counters, settings, spares, .. } = self else {
            return;
        };
        let Durable { backlogs, log, .. } = &mut **durable;
        let mut left = SPILLED_PER_TURN;
        let mut gone = Vec::new();
        for _ in 0..backlogs.line.len().min(SESSIONS_PER_TURN) {
            if left == 0 {
                break;
            }
            let Some(session) = backlogs.line.pop_front() else { break };
            let Some(entry) = sessions.current(session) else { continue };
            let Some(outbound) = entry.session.outbound.as_deref_mut() else { continue };
            *outbound.is_listed_mut() = false;
            let is_away = entry.connection.is_none();
            let goes_on = is_away && *outbound.is_spilling_mut();
            if !is_beyond(counters, settings) && !goes_on {
                continue;
            }
            let ahead = if is_away { 0 } else { AHEAD_MESSAGES };
            let before = (Load::of(outbound), InLog::of(outbound));
            let is_kept = |keep: &Keep| log.is_synced(place_of(keep).position);
            let spilled = outbound.spill(ahead, left, is_kept, spares);
            before.0.has_become(Load::of(outbound), counters);
            before.1.has_become(InLog::of(outbound), counters);
            counters.backlog_spilled += spilled.messages as u64;
            counters.dropped_log_full += spilled.lost as u64;
            left = left.saturating_sub(spilled.messages + spilled.lost);
            if spilled.more {
                *outbound.is_listed_mut() = true;
                backlogs.line.push_back(session);
            }
            if outbound.has_gone() {
                gone.push(session.id);
            }
        }
        backlogs.more = left == 0;
        for id in gone {
            self.note_gone(id);
        }
    }

    /// A client is gone: what was read ahead for it is left to the log again.
    pub(crate) fn unload_backlog(&mut self, id: SessionId) {
        let Self { durable: Some(durable), sessions, counters, .. } = self else { return };
        let Some(entry) = sessions.get_mut(id) else { return };
        let Some(outbound) = entry.session.outbound.as_deref_mut() else { return };
        *outbound.is_spilling_mut() = false;
        let before = InLog::of(outbound);
        outbound.unload(|keep| durable.log.is_synced(place_of(keep).position));
        before.has_become(InLog::of(outbound), counters);
    }

    /// Reads ahead for a client that is there, when its line comes to what the log alone has.
    #[inline]
    pub(crate) fn read_backlog(&mut self, id: SessionId) {
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let Some(session) = sessions.reference(id) else { return };
        let Some(entry) = sessions.get_mut(id) else { return };
        let Some(outbound) = entry.session.outbound.as_deref_mut() else { return };
        if entry.connection.is_none() || !outbound.wants_load() {
            return;
        }
        *outbound.is_loading_mut() = true;
        durable.backlogs.waiting.push_back((session, 0));
        self.start_reads();
    }

    /// Once per turn: reads that are to be tried again.
    pub(crate) fn turn_backlogs(&mut self) {
        let now = self.now;
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let Backlogs { retries, waiting, .. } = &mut durable.backlogs;
        while retries.first().is_some_and(|retry| retry.0 <= now) {
            let Some((_, id, serial)) = retries.pop_first() else { break };
            let session = SessionRef { id: SessionId(id), serial };
            if sessions.current(session).is_some() {
                waiting.push_back((session, 0));
            }
        }
        self.start_reads();
        self.spill_backlogs();
    }

    /// Starts what reads there is room for.
    fn start_reads(&mut self) {
        loop {
            let Self { durable: Some(durable), sessions, counters, .. } = self else { return };
            let Durable { backlogs, log, .. } = &mut **durable;
            if backlogs.reads.len() >= READS_MAX {
                return;
            }
            let Some((session, size)) = backlogs.waiting.pop_front() else { return };
            let Some(entry) = sessions.current(session) else { continue };
            let Some(outbound) = entry.session.outbound.as_deref_mut() else { continue };
            let first = outbound.first_to_load().filter(|_| entry.connection.is_some());
            let Some((keep, least)) = first else {
                *outbound.is_loading_mut() = false;
                // What was to be read was given up meanwhile, and something else is next.
                self.pump(session.id);
                continue;
            };
            let size = size.max(least.saturating_add(RECORD_SLACK)).max(READ_SIZE);
            let position = place_of(&keep).position;
            match log.read(position, size) {
                Ok(read) => {
                    counters.backlog_reads += 1;
                    backlogs.reads.push(Reading { read, session, position, size });
                }
                Err(midge_store::Refused::Busy) => {
                    backlogs.waiting.push_front((session, size));
                    return;
                }
                Err(_) => self.backlog_read_failed(session),
            }
        }
    }

    /// A piece of the log, if it was read for a session.
    pub(crate) fn handle_backlog_read(
        &mut self,
        read: ReadId,
        result: Result<Chunk, DiskError>,
    ) -> Option<Result<Chunk, DiskError>> {
        let Some(durable) = &mut self.durable else { return Some(result) };
        let reads = &mut durable.backlogs.reads;
        let Some(at) = reads.iter().position(|reading| reading.read == read) else {
            return Some(result);
        };
        let reading = reads.swap_remove(at);
        match result {
            Ok(chunk) => self.load_backlog(&reading, &chunk),
            Err(_) => self.backlog_read_failed(reading.session),
        }
        self.start_reads();
        None
    }

    fn load_backlog(&mut self, reading: &Reading, chunk: &Chunk) {
        let Self { durable: Some(durable), sessions, counters, .. } = self else { return };
        let session = reading.session;
        let Some(entry) = sessions.current(session) else { return };
        let Some(outbound) = entry.session.outbound.as_deref_mut() else { return };
        *outbound.is_loading_mut() = false;
        let (true, Some(kept)) = (entry.connection.is_some(), &entry.kept) else { return };
        let (key, wall) = (kept.key, durable.wall);
        let first = outbound.first_to_load();
        let before = (Load::of(outbound), InLog::of(outbound));
        let mut larger = 0;
        let loaded = outbound.load(|keep| fetch(chunk, keep, key, wall, &mut larger));
        before.0.has_become(Load::of(outbound), counters);
        before.1.has_become(InLog::of(outbound), counters);
        counters.backlog_loaded += loaded.messages as u64;
        if loaded.messages + loaded.lost > 0 {
            *outbound.read_failures_mut() = 0;
        } else if first.is_some_and(|(keep, _)| place_of(&keep).position == reading.position) {
            if larger <= reading.size {
                // The bytes should have been among those that were read.
                return self.backlog_read_failed(session);
            }
            *outbound.is_loading_mut() = true;
            durable.backlogs.waiting.push_front((session, larger));
            return;
        }
        self.tell_lost(session.id, loaded);
        self.pump(session.id);
    }

    /// What a session's line comes to next could not be read.
    fn backlog_read_failed(&mut self, session: SessionRef) {
        let now = self.now;
        let Self { durable: Some(durable), sessions, counters, .. } = self else { return };
        let Some(entry) = sessions.current(session) else { return };
        let Some(outbound) = entry.session.outbound.as_deref_mut() else { return };
        if entry.connection.is_none() {
            *outbound.is_loading_mut() = false;
            return;
        }
        let failures = outbound.read_failures_mut();
        *failures += 1;
        if *failures < FAILURES_MAX {
            let at = now.plus_millis(RETRY_MS << (*failures - 1));
            *outbound.is_loading_mut() = true;
            durable.backlogs.retries.insert((at, session.id.0, session.serial));
            return;
        }
        *failures = 0;
        *outbound.is_loading_mut() = false;
        let before = (Load::of(outbound), InLog::of(outbound));
        let lost = outbound.give_up_first();
        before.0.has_become(Load::of(outbound), counters);
        before.1.has_become(InLog::of(outbound), counters);
        self.tell_lost(session.id, lost);
        self.pump(session.id);
    }

    /// A segment goes of which not everything could be read: what the log alone had there, and was not copied, is lost.
    pub(super) fn lose_backlogs(&mut self, segment: SegmentId) {
        let Self { durable: Some(durable), sessions, counters, .. } = self else { return };
        let mut losers = Vec::new();
        for id in durable.sessions.values() {
            let Some(entry) = sessions.get_mut(*id) else { continue };
            let Some(outbound) = entry.session.outbound.as_deref_mut() else { continue };
            let before = (Load::of(outbound), InLog::of(outbound));
            let lost = outbound.lose(|keep| keep.segment == segment.0);
            if lost > 0 {
                before.0.has_become(Load::of(outbound), counters);
                before.1.has_become(InLog::of(outbound), counters);
                losers.push((*id, Spilled { lost, ..Spilled::default() }));
            }
        }
        for (id, lost) in losers {
            self.tell_lost(id, lost);
        }
    }

    /// Copies that were not synced when the disk failed are none: what the log alone has counts again where it was copied from.
    pub(super) fn move_back(&mut self, failure: &Failure) {
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let mut moved = failure.moved_back.clone();
        moved.sort_unstable();
        if moved.is_empty() {
            return;
        }
        let earlier = |keep: &Keep| {
            let copy = place_of(keep).position;
            let at = moved.binary_search_by_key(&copy, |one| one.0).ok()?;
            let Position { segment, offset } = moved[at].1;
            Some(Keep { segment: segment.0, offset, ..*keep })
        };
        for id in durable.sessions.values() {
            if let Some(entry) = sessions.get_mut(*id)
                && let Some(outbound) = entry.session.outbound.as_deref_mut()
            {
                outbound.move_in_log(earlier);
            }
        }
    }

    /// What the log alone has is where it can be read. Part of [`Shard::check_integrity`].
    pub(crate) fn check_backlog(&self, outbound: &Outbound) {
        for keep in outbound.keeps_in_log() {
            let segment = SegmentId(keep.segment);
            let there = self.durable.as_ref().is_some_and(|d| d.log.has_segment(segment));
            assert!(there, "the segment of {keep:?} is gone");
        }
    }

    fn tell_lost(&mut self, id: SessionId, lost: Spilled) {
        let Some(entry) = self.sessions.get(id) else { return };
        if lost.lost > 0 {
            self.counters.dropped_damaged += lost.lost as u64;
            let client_id = entry.session.client_id.clone();
            self.actions.push_back(Action::Lost { client_id, messages: lost.lost });
        }
        if entry.session.outbound.as_ref().is_some_and(|outbound| outbound.has_gone()) {
            self.note_gone(id);
        }
    }
}

/// A session's message in a piece of the log. `larger` becomes what a read from its place on must have, when the piece ends
/// before the message does.
fn fetch(chunk: &Chunk, keep: &Keep, session: u64, wall: WallTime, larger: &mut u32) -> Fetched {
    let record = match chunk.record(place_of(keep).position) {
        Ok(record) => record,
        Err(ChunkError::Outside { size }) => {
            *larger = size;
            return Fetched::Elsewhere;
        }
        Err(ChunkError::Damaged) => return Fetched::Lost,
    };
    let Ok(Record::Message(message)) = Record::decode(record.kind, record.payload) else {
        return Fetched::Lost;
    };
    // What a shared subscription gave to the same session is another matter, and stays in memory.
    let mut deliveries = message.deliveries.iter();
    let mine = deliveries.find(|one| one.session == session && one.share.is_none());
    let Some(mine) = mine.filter(|_| message.message == keep.message.get()) else {
        return Fetched::Lost;
    };
    let publication = Publication::new(
        message.topic,
        message.properties,
        message.payload,
        message.qos,
        message.retain,
        message.expires_at_ms.map(|ms| wall.time(ms)),
    );
    Fetched::Message(Delivery {
        publication: Arc::new(publication),
        qos: mine.qos,
        retain: mine.retain,
        extra: extra(mine),
        keep: Some(*keep),
    })
}
