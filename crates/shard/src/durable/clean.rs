//! Cleaning, and what a failed disk takes.
//!
//! The log says when its oldest segment is worth giving back. It is read a piece at a time; what still counts of it is
//! appended again, as it is now; then the segment goes. A piece is as much as may be done in one turn.
//!
//! After a failed write or sync the records that it took are written again from memory (`rewrite.rs`): nobody was told that they
//! are kept, and whoever waited for that is closed, to send again.

use std::num::NonZeroU64;

use midge_codec::PacketId;
use midge_mesh::ShardId;
use midge_session::{Keep, Time};
use midge_store::{
    Chunk, Condition, DiskError, Failure, Level, Position, ReadId, Refused, Rest, SegmentId,
};

use super::backlog::FAILURES_MAX;
use super::record::{DeliveryRecord, MessageRecord, Record};
use super::write::{keep, place_of, session_record, share_of};
use super::{Durable, Place};
use crate::action::Event;
use crate::ending::WillCase;
use crate::ids::ConnectionId;
use crate::sessions::SessionEntry;
use crate::shard::Shard;

/// Bytes of a segment that are looked through in one turn: about a thousand small records, a third of a millisecond.
const PIECE_SIZE: u32 = 64 << 10;

/// How often the log is asked whether a segment is worth cleaning, in milliseconds.
const LOOK_MS: u64 = 100;

/// Things that are written again in one turn after a failure.
const REWRITTEN_PER_TURN: usize = 1024;

/// Before a piece that could not be read is tried again, in milliseconds; twice as long after each failure.
const READ_AGAIN_MS: u64 = 250;

/// A segment on its way out.
#[derive(Debug)]
pub(crate) struct Cleaning {
    segment: SegmentId,
    /// Where to go on.
    at: Position,
    size: u32,
    read: Option<ReadId>,
    /// Failures to read this piece, one after the other, and when to try again.
    failures: u8,
    read_at: Time,
    /// Parts of it could not be read: what stands there is written again from memory before it goes, and what the log alone has
    /// of it is lost.
    damaged: bool,
}

impl Shard {
    /// Once per turn: begins to clean, or goes on.
    pub(crate) fn clean(&mut self) {
        let now = self.now;
        let Some(durable) = &mut self.durable else { return };
        if durable.lost.is_some() || durable.cut.holds(now) {
            return;
        }
        if durable.cleaning.is_none() {
            if durable.look_at > now {
                return;
            }
            durable.look_at = now.plus_millis(LOOK_MS);
            let Some(segment) = durable.log.cleaning() else { return };
            let at = durable.log.first_position(segment);
            durable.cleaning = Some(Cleaning {
                segment,
                at,
                size: PIECE_SIZE,
                read: None,
                failures: 0,
                read_at: now,
                damaged: false,
            });
        }
        let Durable { cleaning: Some(cleaning), log, .. } = &mut **durable else { return };
        if cleaning.read.is_none() && cleaning.read_at <= now {
            match log.read(cleaning.at, cleaning.size) {
                Ok(read) => cleaning.read = Some(read),
                Err(Refused::Busy) => {}
                Err(Refused::Full | Refused::Failed | Refused::TooLarge) => {
                    cleaning.damaged = true;
                    self.end_cleaning();
                }
            }
        }
    }

    /// A piece of the segment that is being cleaned.
    pub(crate) fn handle_log_read(&mut self, read: ReadId, result: Result<Chunk, DiskError>) {
        let Some(durable) = &mut self.durable else { return };
        let Some(mut cleaning) = durable.cleaning.take_if(|c| c.read == Some(read)) else { return };
        cleaning.read = None;
        let Ok(chunk) = result else {
            cleaning.failures += 1;
            if cleaning.failures < FAILURES_MAX {
                let pause_ms = READ_AGAIN_MS << (cleaning.failures - 1);
                cleaning.read_at = self.now.plus_millis(pause_ms);
            } else {
                // Behind it there may be what is good.
                cleaning.at.offset = cleaning.at.offset.saturating_add(PIECE_SIZE);
                cleaning.failures = 0;
                cleaning.damaged = true;
            }
            durable.cleaning = Some(cleaning);
            return;
        };
        cleaning.failures = 0;
        let mut records = chunk.records();
        for (position, record) in records.by_ref() {
            if self.copy_record(position, record.kind, record.payload).is_err() {
                // No room just now: from here, next time.
                cleaning.at = position;
                cleaning.size = PIECE_SIZE;
                if let Some(durable) = &mut self.durable {
                    durable.cleaning = Some(cleaning);
                }
                return;
            }
        }
        cleaning.damaged |= records.damaged();
        let rest = records.rest();
        let Some(durable) = &mut self.durable else { return };
        match rest {
            Rest::From { position, size } => {
                cleaning.at = position;
                cleaning.size = size.max(PIECE_SIZE);
                durable.cleaning = Some(cleaning);
                self.clean();
            }
            Rest::Nothing | Rest::Unknown => {
                durable.cleaning = Some(cleaning);
                self.end_cleaning();
            }
        }
    }

    /// Everything of the segment has been looked at.
    fn end_cleaning(&mut self) {
        let now = self.now;
        let Some(durable) = &mut self.durable else { return };
        let Some(cleaning) = durable.cleaning.take() else { return };
        if durable.cut.holds(now) {
            // Somebody copies it: the whole segment again, later.
            return;
        }
        if cleaning.damaged {
            let mut budget = usize::MAX;
            if !self.rewrite(cleaning.segment, cleaning.segment, &mut budget) {
                // No room for all of it: the whole segment again, later.
                return;
            }
            self.lose_backlogs(cleaning.segment);
        }
        let Some(durable) = &mut self.durable else { return };
        // The highest numbers stand in records that go.
        durable.note_marks(self.id);
        if durable.late_records.is_empty() {
            durable.log.retire(cleaning.segment);
        }
    }

    /// Appends again what still counts of one record.
    fn copy_record(&mut self, position: Position, kind: u8, payload: &[u8]) -> Result<(), Refused> {
        let Ok(record) = Record::decode(kind, payload) else { return Ok(()) };
        if mutant!("cleaning-copies-nothing") {
            return Ok(());
        }
        match record {
            Record::Session(record) => self.copy_session(position, record.session),
            Record::Subscribe { session, filter, .. } => {
                let Self { durable: Some(durable), sessions, table, .. } = self else {
                    return Ok(());
                };
                let Some(entry) = durable.entry(sessions, session) else { return Ok(()) };
                let Some(kept) = entry.kept.as_deref_mut() else { return Ok(()) };
                let place = if filter.starts_with("$share/") {
                    kept.groups.get_mut(filter)
                } else {
                    table.find(filter).and_then(|id| kept.filter_mut(id))
                };
                let Some(place) = place.filter(|place| **place == position) else { return Ok(()) };
                *place = durable.log.append_copy(kind, &[payload], position)?.position;
                Ok(())
            }
            Record::Message(record) => self.copy_message(position, kind, record),
            Record::Received { session, message, .. } => {
                let Self { durable: Some(durable), sessions, .. } = self else { return Ok(()) };
                let Some(entry) = durable.entry(sessions, session) else { return Ok(()) };
                let Some((kept, _)) = kept_at(entry, message, position) else { return Ok(()) };
                let copy = durable.log.append_copy(kind, &[payload], position)?.position;
                move_kept(entry, Keep { segment: copy.segment.0, offset: copy.offset, ..kept });
                Ok(())
            }
            Record::Inbound { session, packet_id } => {
                let Self { durable: Some(durable), sessions, .. } = self else { return Ok(()) };
                let Some(entry) = durable.entry(sessions, session) else { return Ok(()) };
                let Some(place) = find_inbound(entry, packet_id, position) else { return Ok(()) };
                place.position = durable.log.append_copy(kind, &[payload], position)?.position;
                Ok(())
            }
            // What only says that something is no more goes with the segment: whatever it names was older.
            Record::SessionEnd { .. }
            | Record::Unsubscribe { .. }
            | Record::Assigned { .. }
            | Record::Done { .. }
            | Record::InboundReleased { .. }
            | Record::HandedOn { .. }
            | Record::Mark { .. }
            | Record::Came { .. }
            | Record::RetainedGone { .. }
            | Record::Taken { .. } => Ok(()),
        }
    }

    fn copy_session(&mut self, position: Position, key: u64) -> Result<(), Refused> {
        let Self { durable: Some(durable), sessions, guards, .. } = self else { return Ok(()) };
        let user = durable.sessions.get(&key).and_then(|id| guards.user(*id));
        let Some(SessionEntry { kept: Some(kept), session, away, .. }) =
            durable.entry(sessions, key)
        else {
            return Ok(());
        };
        let Some(head) = kept.head.as_mut().filter(|head| head.position == position) else {
            return Ok(());
        };
        let since_ms = away.as_ref().map(|away| durable.wall.ms(away.since));
        let record = Record::Session(session_record(session, key, since_ms, user));
        *head = durable.copy(&record, position)?;
        Ok(())
    }

    fn copy_message(
        &mut self,
        position: Position,
        kind: u8,
        record: MessageRecord<'_>,
    ) -> Result<(), Refused> {
        let Self { durable: Some(durable), sessions, retained, groups, .. } = self else {
            return Ok(());
        };
        let Some(message) = NonZeroU64::new(record.message) else { return Ok(()) };
        let mut left = MessageRecord { deliveries: Vec::new(), came_from: None, ..record.clone() };
        for delivery in record.deliveries {
            let Some(entry) = durable.entry(sessions, delivery.session) else { continue };
            if let Some((_, packet_id)) = kept_at(entry, record.message, position) {
                let packet_id = packet_id.map(PacketId::get);
                left.deliveries.push(DeliveryRecord { packet_id, ..delivery });
            }
        }
        let stands_here = |keep: &Keep| place_of(keep).position == position;
        left.retained = record.retained
            && retained.kept(record.topic).is_some_and(|(_, keep)| stands_here(&keep));
        left.groups.retain(|group| {
            groups.find_kept(group, message).is_some_and(|(_, keep)| stands_here(keep))
        });
        left.hand_on = record.hand_on.filter(|hand_on| {
            let handing_on = durable.handing_on.get(&hand_on.number);
            handing_on.is_some_and(|handing_on| handing_on.place.position == position)
        });
        let mut inbound_here = false;
        left.origin = record.origin.filter(|(session, packet_id)| {
            let Some(entry) = durable.entry(sessions, *session) else { return false };
            inbound_here = find_inbound(entry, *packet_id, position).is_some();
            // What is handed on says whose it is also when the packet id has a record of its own.
            inbound_here || (left.hand_on.is_some() && has_inbound(entry, *packet_id))
        });
        let owners = left.deliveries.len()
            + left.groups.len()
            + usize::from(left.retained)
            + usize::from(inbound_here)
            + usize::from(left.hand_on.is_some());
        if owners == 0 {
            return Ok(());
        }
        durable.encoded.clear();
        left.encode_head(&left.deliveries, &mut durable.encoded);
        let size = (durable.encoded.len() + left.payload.len()) as u32;
        let parts = [&durable.encoded[..], left.payload];
        let copy = durable.log.append_copy(kind, &parts, position)?;
        let place = Place { position: copy.position, size: share_of(size, owners) };
        self.stands_at(message, &left, position, place);
        Ok(())
    }

    /// All that a record is kept for counts as standing at `place` from now on, and no longer at `position`.
    pub(super) fn stands_at(
        &mut self,
        message: NonZeroU64,
        record: &MessageRecord<'_>,
        position: Position,
        place: Place,
    ) {
        let Self { durable: Some(durable), sessions, retained, groups, .. } = self else { return };
        let keep = keep(message, place);
        for delivery in &record.deliveries {
            if let Some(entry) = durable.entry(sessions, delivery.session) {
                move_kept(entry, keep);
            }
        }
        if record.retained {
            retained.set_keep(record.topic, keep);
        }
        for group in &record.groups {
            if let Some((_, kept)) = groups.find_kept(group, message) {
                *kept = keep;
            }
        }
        if let Some((session, packet_id)) = record.origin
            && let Some(entry) = durable.entry(sessions, session)
            && let Some(inbound) = find_inbound(entry, packet_id, position)
        {
            *inbound = place;
        }
        if let Some(hand_on) = &record.hand_on
            && let Some(handing_on) = durable.handing_on.get_mut(&hand_on.number)
        {
            handing_on.place = place;
        }
    }

    // A disk that has failed.

    /// Now and then while the log is not healthy.
    pub(crate) fn retry_log(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        let failure = durable.log.take_failure();
        if let Some(failure) = failure {
            self.give_up(&failure);
        }
        let Some(durable) = &mut self.durable else { return };
        durable.log.retry();
    }

    /// What waited for records that are not kept must not hear that they are.
    fn give_up(&mut self, failure: &Failure) {
        let Some(durable) = &mut self.durable else { return };
        let lost = failure.first..=failure.last;
        durable.cleaning = None;
        durable.lost = Some(durable.lost.map_or(failure.segment, |l| l.min(failure.segment)));
        durable.lost_until = None;
        durable.end_again();
        self.move_back(failure);
        let Some(durable) = &mut self.durable else { return };
        // Whoever waits for what is written again.
        durable.late();
        for accepts in &mut durable.accepts {
            accepts.give_up(&lost);
        }
        durable.ended_sessions.give_up(failure.first);
        for forward in &mut durable.forwards {
            forward.give_up();
        }
        for (_, connection) in self.connections.iter_mut() {
            if let Some(extra) = &mut connection.extra {
                extra.acks.give_up(&lost);
            }
        }
        let waiting = self.connections.iter().filter(|(_, connection)| {
            connection.gate.as_ref().is_some_and(|gate| gate.waits_for(&lost))
        });
        let waiting: Vec<ConnectionId> = waiting.map(|(id, _)| ConnectionId(id)).collect();
        for id in waiting {
            if let Some(connection) = self.connections.get_mut(id.0) {
                // Not a word of what it was to be told.
                let held = connection.gate.take().and_then(|mut gate| gate.take_held());
                for output in connection.output.take().into_iter().chain(held) {
                    self.wire.recycle(output);
                }
            }
            self.note(id, Event::NotKept);
            self.leave(id, WillCase::Published);
        }
        for from in 0..self.shards {
            self.tell_accepted(ShardId::new(from));
        }
    }

    /// Goes on with writing again what a failure took.
    pub(crate) fn rewrite_lost(&mut self) {
        let own = self.id;
        let Some(durable) = &mut self.durable else { return };
        let Some(first) = durable.lost else { return };
        // What ended is said before what began since: the same topic, filter or packet id may be among both.
        if durable.log.condition() == Condition::Failed || !durable.write_late_records() {
            return;
        }
        let last = durable.lost_until.unwrap_or_else(|| {
            let newest = durable.log.newest().unwrap_or(first);
            SegmentId(newest.0.saturating_sub(1)).max(first)
        });
        durable.lost_until = Some(last);
        let mut budget = REWRITTEN_PER_TURN;
        if self.rewrite(first, last, &mut budget)
            && let Some(durable) = &mut self.durable
        {
            // What was handed on is kept again, and must not be taken a second time.
            durable.note_marks(own);
            durable.sources.forget(last);
            durable.lost = None;
            durable.lost_until = None;
            durable.rewritten = durable.log.appended();
        }
    }
}

impl Durable {
    /// Notes that something has come from another shard under this number, and what is kept of it is written.
    pub(crate) fn note_mark(&mut self, from: ShardId, number: u64) {
        let mark = &mut self.marks[from.index()];
        *mark = number.max(*mark);
        let appended = self.log.appended();
        let mut last = self.unsynced_marks.iter_mut().rev().take_while(|one| one.0 == appended);
        match last.find(|one| one.1 == from) {
            Some(one) => one.2 = number.max(one.2),
            None => self.unsynced_marks.push_back((appended, from, number)),
        }
        self.sync_marks();
    }

    /// Notes that what has come from another shard under this number has become nothing that is kept.
    pub(crate) fn note_passed(&mut self, from: ShardId, number: u64) {
        self.passed.add(from.get(), number);
    }

    /// Writes what has passed, before anything begins.
    pub(super) fn write_passed(&mut self) -> Result<(), Refused> {
        while let Some((&shard, &(first, last))) = self.passed.rows.first_key_value() {
            self.append_end(&Record::Came { shard, first, last }, Level::Memory)?;
            self.passed.rows.pop_first();
        }
        Ok(())
    }

    fn sync_marks(&mut self) {
        let synced = self.log.synced();
        while let Some((_, from, number)) = self.unsynced_marks.pop_front_if(|one| one.0 <= synced)
        {
            let mark = &mut self.synced_marks[from.index()];
            *mark = number.max(*mark);
        }
    }

    /// Writes the highest numbers that came from other shards, and the highest that was handed on to them: were that forgotten,
    /// they would take what is new for what they have. While the disk works only numbers whose own records are synced: one that
    /// stands in the same batch may be torn where this is not, and is handed on again then.
    pub(super) fn note_marks(&mut self, own: ShardId) {
        self.sync_marks();
        for shard in 0..self.marks.len() {
            let number = match self.lost {
                _ if usize::from(own.get()) == shard => self.next_number - 1,
                Some(_) => self.marks[shard],
                None => self.synced_marks[shard],
            };
            if number > 0 {
                let shard = u16::try_from(shard).unwrap_or(u16::MAX);
                self.note_end(&Record::Mark { shard, number });
            }
        }
    }

    /// The session that a key names.
    pub(super) fn entry<'s>(
        &self,
        sessions: &'s mut crate::sessions::Sessions,
        key: u64,
    ) -> Option<&'s mut SessionEntry> {
        sessions.get_mut(*self.sessions.get(&key)?)
    }

    /// As [`Durable::put`], for what stands in the segment that is being cleaned.
    fn copy(&mut self, record: &Record<'_>, from: Position) -> Result<Place, Refused> {
        self.encoded.clear();
        let kind = record.encode(&mut self.encoded);
        let position = self.log.append_copy(kind, &[&self.encoded], from)?.position;
        Ok(Place { position, size: self.encoded.len() as u32 })
    }
}

/// A delivery of a session whose record stands exactly there, and its packet id.
fn kept_at(
    entry: &SessionEntry,
    message: u64,
    position: Position,
) -> Option<(Keep, Option<PacketId>)> {
    let outbound = entry.session.outbound.as_ref()?;
    let kept = outbound.kept_at(NonZeroU64::new(message)?)?;
    (place_of(&kept.0).position == position).then_some(kept)
}

/// It stands elsewhere now.
pub(super) fn move_kept(entry: &mut SessionEntry, keep: Keep) {
    let moved = entry.session.outbound.as_mut().is_some_and(|outbound| outbound.move_kept(keep));
    debug_assert!(moved, "it was there a moment ago");
}

/// A packet id of a session whose record stands exactly there.
pub(super) fn find_inbound(
    entry: &mut SessionEntry,
    packet_id: u16,
    position: Position,
) -> Option<&mut Place> {
    let kept = entry.kept.as_deref_mut()?;
    let mut found = kept.inbound.iter_mut().filter(|one| one.0.get() == packet_id);
    found.find(|one| one.1.position == position).map(|one| &mut one.1)
}

/// Whether a packet id of a session is taken, wherever that stands.
pub(super) fn has_inbound(entry: &SessionEntry, packet_id: u16) -> bool {
    let kept = entry.kept.as_deref();
    kept.is_some_and(|kept| kept.inbound.iter().any(|one| one.0.get() == packet_id))
}
