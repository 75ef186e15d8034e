//! Which event writes which record.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;

use midge_codec::{PacketId, QoS};
use midge_mesh::ShardId;
use midge_session::{Delivery, Keep, Keeping, Outbound, Publication, Session, SubscriptionOptions};
use midge_store::{
    Level, Log, Position, RECORD_HEADER_SIZE, Refused, Room, SegmentId, Sequence, record_size,
};
use midge_topic::{FilterId, SubscriberId};

use super::record::{
    AuthorRecord, DeliveryRecord, HandOn, MessageRecord, Record, SessionRecord, WillRecord,
    WriterRecord,
};
use super::wait::{LATE, NEVER};
use super::{Durable, Kept, Opening, Place, Recipient, WallTime};
use crate::connection::Connection;
use crate::groups;
use crate::ids::{ConnectionId, SessionId, keeper_shard};
use crate::own;
use crate::sessions::{SessionEntry, Sessions};
use crate::shard::Shard;

/// What one more recipient may add to a record, beside its Subscription Identifiers and the name of its group.
const RECIPIENT_SIZE_MAX: usize = 24;

/// What a Subscription Identifier may add, or the size of a name.
const NUMBER_SIZE_MAX: usize = 5;

/// What a record of a publication may take beside the publication and its recipients.
const MESSAGE_SIZE_MAX: usize = 128;

pub(crate) fn keep(message: NonZeroU64, place: Place) -> Keep {
    Keep {
        message,
        segment: place.position.segment.0,
        offset: place.position.offset,
        share: place.size,
    }
}

pub(crate) fn place_of(keep: &Keep) -> Place {
    let position = Position { segment: SegmentId(keep.segment), offset: keep.offset };
    Place { position, size: keep.share }
}

/// The part of a record's payload that is there for each of its `owners`.
pub(crate) fn share_of(size: u32, owners: usize) -> u32 {
    let whole = size as usize + RECORD_HEADER_SIZE;
    (whole / owners.max(1)).saturating_sub(RECORD_HEADER_SIZE) as u32
}

/// A session's terms as they are now.
pub(crate) fn session_record<'a>(
    session: &'a Session,
    key: u64,
    away_since_ms: Option<u64>,
    user: Option<&'a str>,
) -> SessionRecord<'a> {
    SessionRecord {
        session: key,
        client_id: &session.client_id,
        user,
        expiry_interval_seconds: session.expiry_interval_seconds,
        away_since_ms,
        will: session.will.as_ref().map(|will| WillRecord {
            topic: &will.topic,
            properties: &will.properties,
            payload: &will.payload,
            qos: will.qos,
            retain: will.retain,
            delay_interval_seconds: will.delay_interval_seconds,
            message_expiry_interval_seconds: will.message_expiry_interval_seconds,
        }),
    }
}

/// A publication without anybody who gets it. `topic` is its topic.
#[inline]
pub(crate) fn message_record<'a>(
    publication: &'a Publication,
    topic: &'a str,
    message: NonZeroU64,
    wall: WallTime,
) -> MessageRecord<'a> {
    MessageRecord {
        message: message.get(),
        topic,
        properties: publication.properties(),
        payload: publication.payload(),
        qos: publication.qos(),
        retain: publication.retain(),
        expires_at_ms: publication.expires_at().map(|at| wall.ms(at)),
        retained: false,
        origin: None,
        hand_on: None,
        came_from: None,
        deliveries: Vec::new(),
        groups: Vec::new(),
        author: publication.author().map(|author| AuthorRecord {
            writer: author.writer.as_ref().map(|writer| WriterRecord {
                user: writer.user.as_deref(),
                client_id: &writer.client_id,
            }),
            listener: author.listener.as_deref(),
        }),
    }
}

/// Writes the record of one publication; `message` has everything but the deliveries. `encoded` is room to write in.
#[inline]
fn put_message<'d>(
    log: &mut Log,
    encoded: &mut Vec<u8>,
    message: &MessageRecord<'_>,
    deliveries: impl ExactSizeIterator<Item = DeliveryRecord<'d>>,
    level: Level,
) -> Result<(Sequence, Place), Refused> {
    encoded.clear();
    let kind = message.encode_head(deliveries, encoded);
    let parts = [&encoded[..], message.payload];
    let appended = log.append(kind, &parts, level, Room::Normal)?;
    let size = (encoded.len() + message.payload.len()) as u32;
    Ok((appended.sequence, Place { position: appended.position, size }))
}

/// The session that has published at QoS 2 what is being routed, if it is kept: with its key, and the packet id.
fn origin_of(opening: &Opening, sessions: &Sessions) -> Option<(SessionId, u64, PacketId)> {
    let (session, packet_id) = opening.origin?;
    let key = sessions.get(session)?.kept.as_ref()?.key;
    Some((session, key, packet_id))
}

/// Whether a publication may be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Now; whoever must keep it takes it if the log does.
    Yes,
    /// When the log has room.
    Later,
    /// Not at all: the disk is full, and nobody may get it.
    No,
}

impl Durable {
    pub(crate) fn next_message_id(&mut self) -> NonZeroU64 {
        let id = NonZeroU64::new(self.next_message).expect("message ids start at one");
        self.next_message += 1;
        id
    }
}

impl Shard {
    // Sessions.

    /// A client is connected: when its session outlives the connection its terms are written. The CONNACK waits for those of a
    /// new one, and for the end of an earlier one.
    pub(crate) fn keep_terms(&mut self, connection: ConnectionId, id: SessionId) {
        let Some(durable) = &mut self.durable else { return };
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let new = entry.kept.is_none();
        // It need not be this connection that began it: the one before may have been lost before its CONNACK could leave.
        let lasts = entry.kept.as_mut().is_some_and(|kept| {
            kept.lasts |= kept.head.is_some_and(|head| durable.log.is_synced(head.position));
            kept.lasts
        });
        let expiry = entry.session.expiry_interval_seconds;
        let lasting = expiry > 0;
        // After a crash the session would end too late, or too early.
        let changed = entry.kept.as_ref().is_some_and(|kept| {
            kept.said.is_none_or(|(said, away)| said != expiry || (away && said != u32::MAX))
        });
        if lasting || !new {
            self.keep_session(id);
        }
        let Some(durable) = &mut self.durable else { return };
        let Some(entry) = self.sessions.get(id) else { return };
        let after = if (lasting && !lasts) || changed {
            let kept = entry.kept.as_ref();
            let written = kept.is_none_or(|kept| kept.head.is_some() && !(changed && kept.dirty));
            if written { durable.said() } else { NEVER }
        } else {
            durable.after_end(&entry.session.client_id)
        };
        if let Some(connection) = self.connections.get_mut(connection.0) {
            connection.close_gate(after);
        }
    }

    /// A session outlives its connection from now on: its terms are to be written.
    pub(crate) fn keep_session(&mut self, id: SessionId) {
        let Some(durable) = &mut self.durable else { return };
        let Some(entry) = self.sessions.get_mut(id) else { return };
        if entry.kept.is_none() {
            let key = durable.new_session_key();
            durable.sessions.insert(key, id);
            entry.kept = Some(Box::new(Kept::new(key)));
        }
        self.note_terms(id);
    }

    /// A session's terms have changed: they are written now, or as soon as there is room.
    pub(crate) fn note_terms(&mut self, id: SessionId) {
        let Some(durable) = &mut self.durable else { return };
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let Some(kept) = entry.kept.as_deref_mut() else { return };
        if !kept.dirty {
            kept.dirty = true;
            durable.dirty.push_back(id);
        }
        self.write_terms();
    }

    /// Writes the terms that are to be written, as far as there is room.
    pub(crate) fn write_terms(&mut self) {
        let Self { durable: Some(durable), sessions, connections, guards, .. } = self else {
            return;
        };
        while let Some(id) = durable.dirty.front().copied() {
            let Some(entry) = sessions.get_mut(id) else {
                durable.dirty.pop_front();
                continue;
            };
            let SessionEntry { kept: Some(kept), session, away, connection, .. } = entry else {
                durable.dirty.pop_front();
                continue;
            };
            let since_ms = away.as_ref().map(|away| durable.wall.ms(away.since));
            let record = session_record(session, kept.key, since_ms, guards.user(id));
            // What a new session promises is waited for; what an older one changes is on the disk soon enough.
            let level = if kept.head.is_none() { durable.level } else { Level::Memory };
            let Ok((appended, place)) = durable.put(&Record::Session(record), level, Room::Reserve)
            else {
                return;
            };
            kept.dirty = false;
            kept.said = Some((session.expiry_interval_seconds, away.is_some()));
            durable.dirty.pop_front();
            if let Some(earlier) = kept.head.replace(place) {
                kept.lasts |= durable.log.is_synced(earlier.position);
                durable.release(earlier);
            }
            let Some(id) = *connection else { continue };
            let Some(connection) = connections.get_mut(id.0) else { continue };
            if connection.waits_for_terms() {
                // The end of an earlier session may still have no room.
                let after = durable.said();
                debug_assert!(after >= appended.sequence);
                if connection.reopen_gate(after) && after < LATE {
                    durable.gates.push_back((after, id, connection.serial));
                }
            }
        }
    }

    /// A session is no more.
    pub(crate) fn forget_session(&mut self, entry: &SessionEntry) {
        let Some(durable) = &mut self.durable else { return };
        let Some(kept) = entry.kept.as_deref() else { return };
        durable.sessions.remove(&kept.key);
        if let Some(head) = kept.head {
            let after = durable.end_soon(&Record::SessionEnd { session: kept.key });
            durable.ended_sessions.push(&entry.session.client_id, after);
            durable.release(head);
        }
        for (filter, position) in &kept.filters {
            let size = subscribe_size(kept.key, self.table.filter(*filter));
            durable.log.release(*position, size);
        }
        for (group, position) in &kept.groups {
            durable.log.release(*position, subscribe_size(kept.key, group));
        }
        for (_, place) in &kept.inbound {
            durable.release(*place);
        }
        let Some(outbound) = &entry.session.outbound else { return };
        for keep in outbound.keeps_in_memory() {
            durable.release(place_of(&keep));
        }
        durable.release_all(outbound.keeps_in_log());
    }

    // Subscriptions.

    /// A session subscribes. `false`: the log does not take it, so it must not be granted.
    pub(crate) fn keep_subscription(
        &mut self,
        id: SessionId,
        filter: FilterId,
        options: SubscriptionOptions,
    ) -> bool {
        let Self { durable: Some(durable), sessions, table, .. } = self else { return true };
        let Some(entry) = sessions.get_mut(id) else { return true };
        let Some(kept) = entry.kept.as_deref_mut() else { return true };
        let text = table.filter(filter);
        let record =
            Record::Subscribe { session: kept.key, options: options.to_bits(), filter: text };
        let Ok((_, place)) = durable.put_again(&record) else {
            return false;
        };
        if let Some(earlier) = kept.set_filter(filter, place.position) {
            durable.log.release(earlier, place.size as usize);
        }
        true
    }

    /// A session joins a shared subscription.
    pub(crate) fn keep_share(
        &mut self,
        id: SessionId,
        group: &Arc<str>,
        options: SubscriptionOptions,
    ) -> bool {
        let Self { durable: Some(durable), sessions, .. } = self else { return true };
        let Some(entry) = sessions.get_mut(id) else { return true };
        let Some(kept) = entry.kept.as_deref_mut() else { return true };
        let record =
            Record::Subscribe { session: kept.key, options: options.to_bits(), filter: group };
        let Ok((_, place)) = durable.put_again(&record) else {
            return false;
        };
        if let Some(earlier) = kept.groups.insert(Arc::clone(group), place.position) {
            durable.log.release(earlier, place.size as usize);
        }
        true
    }

    /// A subscription is no more.
    pub(crate) fn forget_subscription(&mut self, id: SessionId, filter: FilterId) {
        let Self { durable: Some(durable), sessions, table, .. } = self else { return };
        let text = table.filter(filter);
        let Some(entry) = sessions.get_mut(id) else { return };
        let Some(kept) = entry.kept.as_deref_mut() else { return };
        if let Some(position) = kept.remove_filter(filter) {
            durable.log.release(position, subscribe_size(kept.key, text));
            durable.end_soon(&Record::Unsubscribe { session: kept.key, filter: text });
        }
    }

    /// A session is no member of a shared subscription any more.
    pub(crate) fn forget_share(&mut self, id: SessionId, group: &str) {
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let Some(entry) = sessions.get_mut(id) else { return };
        let Some(kept) = entry.kept.as_deref_mut() else { return };
        if let Some(position) = kept.groups.remove(group) {
            durable.log.release(position, subscribe_size(kept.key, group));
            durable.end_soon(&Record::Unsubscribe { session: kept.key, filter: group });
        }
    }

    // Publications.

    /// Before a publication is routed here: whether the log can take it, if anybody here must keep it. `patient` rather waits
    /// for a disk that is full. `topic` is the publication's.
    pub(crate) fn open_message(
        &mut self,
        publication: &Publication,
        topic: &str,
        matched: &[(SubscriberId, SubscriptionOptions)],
        patient: bool,
    ) -> Opened {
        let Self { durable: Some(durable), sessions, groups, .. } = self else {
            return Opened::Yes;
        };
        let opening = &mut durable.opening;
        opening.ready = false;
        let retain = publication.retain()
            && keeper_shard(topic, self.shards) == self.id
            && !own::is_own(topic)
            && opening.late != Some(true);
        let once = publication.qos() == QoS::AtMostOnce;
        opening.gated.clear();
        let wanted = retain
            || !opening.targets.is_empty()
            || ((!once || self.settings.queue_qos0)
                && matched.iter().any(|(subscriber, _)| {
                    groups::group_of(*subscriber).is_some()
                        || sessions
                            .get(SessionId(subscriber.0))
                            .is_some_and(|entry| entry.kept.is_some())
                }));
        if !wanted {
            return Opened::Yes;
        }
        // A record that does not fit after all would be one that is acknowledged and not kept.
        let shares = matched
            .iter()
            .filter_map(|(subscriber, _)| Some(groups.text_size(groups::group_of(*subscriber)?)));
        let size = publication.memory_size()
            + publication.author().map_or(0, |author| author.memory_size())
            + MESSAGE_SIZE_MAX
            + matched.len() * (RECIPIENT_SIZE_MAX + NUMBER_SIZE_MAX)
            + shares.sum::<usize>()
            + opening.targets.len() * 3;
        let numbers = if durable.opening.targets.is_empty() {
            Ok(())
        } else {
            durable.begin_numbers(self.id)
        };
        let room = numbers.and_then(|()| durable.check_room(size));
        durable.opening.ready = room.is_ok();
        match room {
            Ok(()) | Err(Refused::TooLarge) => Opened::Yes,
            // One that is retained would leave its topic without any, for want of a moment.
            Err(refused) if once && !(retain && refused == Refused::Busy) => Opened::Yes,
            Err(Refused::Busy) => {
                // For want of a moment, whatever the refusal before was for.
                durable.is_short = false;
                Opened::Later
            }
            Err(Refused::Full | Refused::Failed) if patient => {
                durable.is_short = true;
                Opened::Later
            }
            // [MQTT-4.3.3-2]: whoever got it now would get it twice, should its publisher not hear that it is refused.
            Err(Refused::Full | Refused::Failed) if publication.qos() == QoS::ExactlyOnce => {
                Opened::No
            }
            Err(Refused::Full | Refused::Failed) => Opened::Yes,
        }
    }

    /// The same for one session's delivery that does not come by way of routing.
    pub(crate) fn open_delivery(
        &mut self,
        id: SessionId,
        publication: &Publication,
        share_size: usize,
    ) -> bool {
        let Self { durable: Some(durable), sessions, .. } = self else { return true };
        durable.opening.ready = false;
        if sessions.get(id).is_none_or(|entry| entry.kept.is_none()) {
            return true;
        }
        let size = publication.memory_size()
            + publication.author().map_or(0, |author| author.memory_size())
            + MESSAGE_SIZE_MAX
            + RECIPIENT_SIZE_MAX
            + share_size
            + 64;
        let room = durable.check_room(size);
        durable.opening.ready = room.is_ok();
        room != Err(Refused::Busy) || publication.qos() == QoS::AtMostOnce
    }

    /// After a publication was routed here: its record is written, and everybody that it names is told where it stands.
    /// Returns what its acknowledgement waits for. `topic` is the publication's.
    pub(crate) fn close_message(
        &mut self,
        publication: &Arc<Publication>,
        topic: &str,
    ) -> Sequence {
        let Some(durable) = &self.durable else { return Sequence(0) };
        let opening = &durable.opening;
        let sequence = if !opening.ready {
            Sequence(0)
        } else if opening.has_owners() {
            self.write_message(publication, topic)
        } else if opening.gated.is_empty() {
            Sequence(0)
        } else {
            self.note_passed_through()
        };
        if let Self { durable: Some(durable), connections, .. } = self {
            for id in durable.opening.gated.drain(..) {
                if let Some(connection) = connections.get_mut(id.0) {
                    connection.close_gate(sequence);
                }
            }
            durable.opening.close();
        }
        sequence
    }

    /// Writes the record of the publication that is being routed.
    #[inline]
    fn write_message(&mut self, publication: &Arc<Publication>, topic: &str) -> Sequence {
        let Self { durable: Some(durable), sessions, connections, .. } = self else {
            return Sequence(0);
        };
        let origin = origin_of(&durable.opening, sessions);
        let level = durable.level;
        let message = durable.next_message_id();
        let Durable { opening, log, encoded, sources, next_number, wall, .. } = &mut **durable;
        let mut record = message_record(publication, topic, message, *wall);
        record.retained = opening.retained;
        record.origin = origin.map(|(_, key, packet_id)| (key, packet_id.get()));
        record.came_from = opening.came_from;
        if !opening.targets.is_empty() {
            record.hand_on =
                Some(HandOn { number: *next_number, targets: opening.targets.clone() });
            *next_number += 1;
        }
        record.groups.extend(opening.groups.iter().map(|group| &**group));
        let once = publication.qos() == QoS::AtMostOnce;
        let unawaited = once || is_unawaited(publication);
        let level = if unawaited { Level::Memory } else { level };
        let recipients = opening.recipients.iter().map(Recipient::record);
        let Ok((sequence, whole)) = put_message(log, encoded, &record, recipients, level) else {
            debug_assert!(false, "room was asked for");
            return Sequence(0);
        };
        if let Some(source) = opening.came_from {
            sources.note(whole.position, source, log);
            opening.came_is_noted = true;
        }
        let owners = opening.recipients.len()
            + opening.groups.len()
            + usize::from(opening.retained)
            + usize::from(origin.is_some())
            + usize::from(record.hand_on.is_some());
        let place = Place { size: share_of(whole.size, owners), ..whole };
        let keep = keep(message, place);
        for recipient in &opening.recipients {
            let Some(entry) = sessions.get_mut(recipient.session) else { continue };
            if let Some(outbound) = entry.session.outbound.as_mut() {
                outbound.keep_last(keep);
            }
            // [MQTT-4.3.3-1]: under a packet id that a crash forgets it would come twice.
            if recipient.qos == QoS::ExactlyOnce
                && recipient.packet_id.is_some()
                && let Some(connection) = entry.connection.and_then(|id| connections.get_mut(id.0))
            {
                connection.close_gate(sequence);
            }
        }
        if let Some((session, _, packet_id)) = origin
            && let Some(kept) = sessions.get_mut(session).and_then(|s| s.kept.as_mut())
        {
            kept.inbound.push((packet_id, place));
        }
        if opening.retained {
            self.retained.set_keep(topic, keep);
        }
        for group in &opening.groups {
            self.groups.keep_last(group, keep);
        }
        let MessageRecord { hand_on, origin, .. } = record;
        if let Some(hand_on) = &hand_on {
            durable.start_handing_on(hand_on, publication, place, origin);
        }
        if unawaited { Sequence(0) } else { sequence }
    }

    /// The publication that is being routed has nobody here for whom it is kept; what left at QoS 0 waits until it is known that
    /// it has come.
    #[cold]
    fn note_passed_through(&mut self) -> Sequence {
        let Self { durable: Some(durable), sessions, .. } = self else { return Sequence(0) };
        let mut sequence = Sequence(0);
        if let Some((session, key, packet_id)) = origin_of(&durable.opening, sessions) {
            let record = Record::Inbound { session: key, packet_id: packet_id.get() };
            if let Ok((appended, place)) = durable.put_again(&record)
                && let Some(kept) = sessions.get_mut(session).and_then(|s| s.kept.as_mut())
            {
                kept.inbound.push((packet_id, place));
                sequence = appended.sequence;
            }
        }
        if let Some((shard, number)) = durable.opening.came_from {
            sequence = sequence.max(durable.note_came(shard, number));
            durable.opening.came_is_noted = true;
        }
        sequence
    }

    /// A message came back to a group's chooser: its backlog keeps it.
    pub(crate) fn keep_backlog(&mut self, group: &str, publication: &Publication) -> Option<Keep> {
        let durable = self.durable.as_mut()?;
        let message = durable.next_message_id();
        let record = MessageRecord {
            groups: vec![group],
            ..message_record(publication, publication.topic(), message, durable.wall)
        };
        let nobody = std::iter::empty::<DeliveryRecord<'_>>();
        let Durable { log, encoded, level, .. } = &mut **durable;
        let (_, place) = put_message(log, encoded, &record, nobody, *level).ok()?;
        Some(keep(message, place))
    }

    /// Writes that deliveries are done.
    pub(crate) fn note_gone(&mut self, id: SessionId) {
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let Some(entry) = sessions.get_mut(id) else { return };
        let Some(outbound) = entry.session.outbound.as_mut() else { return };
        if !outbound.has_gone() {
            return;
        }
        durable.note_done(entry.kept.as_ref().map(|kept| kept.key), outbound);
    }

    /// A QoS 2 packet id from a client is free. Returns what its PUBCOMP waits for.
    pub(crate) fn note_released(&mut self, id: SessionId, packet_id: PacketId) -> Sequence {
        let Self { durable: Some(durable), sessions, .. } = self else { return Sequence(0) };
        let Some(entry) = sessions.get_mut(id) else { return Sequence(0) };
        let Some(kept) = entry.kept.as_deref_mut() else { return Sequence(0) };
        let Some(at) = kept.inbound.iter().position(|one| one.0 == packet_id) else {
            return Sequence(0);
        };
        let (_, place) = kept.inbound.swap_remove(at);
        durable.release(place);
        let packet_id = packet_id.get();
        durable.end_soon(&Record::InboundReleased { session: kept.key, packet_id })
    }

    /// A topic has no retained message any more. Returns what the publisher's acknowledgement waits for.
    pub(crate) fn forget_retained(&mut self, topic: &str, keep: &Keep) -> Sequence {
        let Some(durable) = &mut self.durable else { return Sequence(0) };
        durable.release(place_of(keep));
        durable.end_soon(&Record::RetainedGone { topic })
    }

    /// The session that a publication came from, if it is kept.
    pub(crate) fn is_kept(&self, id: Option<SessionId>) -> bool {
        id.and_then(|id| self.sessions.get(id)).is_some_and(|entry| entry.kept.is_some())
    }
}

impl Durable {
    /// Writes that another shard has handed on something of which nothing else is kept. A mark would say that of all before it,
    /// whose own records a power cut may have taken.
    fn note_came(&mut self, shard: u16, number: u64) -> Sequence {
        let message = self.next_message_id();
        let nothing = Publication::new("", b"", b"", QoS::ExactlyOnce, false, None);
        let record = MessageRecord {
            came_from: Some((shard, number)),
            ..message_record(&nothing, "", message, self.wall)
        };
        self.end_soon(&Record::Message(record))
    }

    /// Writes that deliveries of a session are done, if it is kept.
    fn note_done(&mut self, key: Option<u64>, outbound: &mut Outbound) {
        for keep in outbound.take_gone() {
            if let Some(session) = key {
                self.note_end(&Record::Done { session, message: keep.message.get() });
            }
            self.release(place_of(&keep));
        }
    }

    /// A message got a packet id towards a session that is kept; at QoS 2 it leaves once that is committed.
    ///
    /// What was before it in the line has a packet id, or is done, and the log says so before: a restart relies on it.
    pub(crate) fn note_assigned(
        &mut self,
        session: u64,
        outbound: &mut Outbound,
        packet_id: PacketId,
        qos: QoS,
        connection: &mut Connection,
    ) {
        let Some(keep) = outbound.keep_of(packet_id) else { return };
        if mutant!("packet-id-not-written") {
            return;
        }
        self.note_done(Some(session), outbound);
        let message = keep.message.get();
        let record = Record::Assigned { session, message, packet_id: packet_id.get() };
        if qos == QoS::ExactlyOnce {
            connection.close_gate(self.end_soon(&record));
        } else {
            self.note_end(&record);
        }
    }

    /// A QoS 0 message that waited for its client leaves once it is committed that it waits no more.
    pub(crate) fn note_left(&mut self, session: u64, keep: Keep, connection: &mut Connection) {
        let done = Record::Done { session, message: keep.message.get() };
        connection.close_gate(self.end_soon(&done));
    }

    /// A client has a QoS 2 message: its PUBREL leaves once that is committed.
    pub(crate) fn note_received(
        &mut self,
        session: u64,
        outbound: &mut Outbound,
        packet_id: PacketId,
        connection: &mut Connection,
    ) {
        let Some(earlier) = outbound.keep_of(packet_id) else { return };
        let message = earlier.message.get();
        let record = Record::Received { session, message, packet_id: packet_id.get() };
        let Ok((appended, place)) = self.put(&record, self.level, Room::Reserve) else {
            // Whoever handles a PUBREC has asked for room. The client must not be told: its connection ends silent.
            debug_assert!(false, "room was asked for");
            return connection.close_gate(NEVER);
        };
        outbound.replace_keep(packet_id, keep(earlier.message, place));
        self.release(place_of(&earlier));
        connection.close_gate(appended.sequence);
    }

    /// Releases the places of many messages, of which usually many stand in one segment behind each other.
    fn release_all(&mut self, keeps: impl Iterator<Item = Keep>) {
        let mut size = 0;
        let mut segment = SegmentId(0);
        for keep in keeps {
            if keep.segment != segment.0 {
                self.release_size(segment, size);
                (segment, size) = (SegmentId(keep.segment), 0);
            }
            size += record_size(keep.share as usize);
        }
        self.release_size(segment, size);
    }

    fn release_size(&mut self, segment: SegmentId, size: usize) {
        if let Some(payload_size) = size.checked_sub(RECORD_HEADER_SIZE) {
            self.log.release(Position { segment, offset: 0 }, payload_size);
        }
    }

    /// The first number since the start is about to be given. Which one it is stands in the log before anything is handed on: the
    /// next start gives others.
    fn begin_numbers(&mut self, own: ShardId) -> Result<(), Refused> {
        if self.numbers_since.is_some() {
            return Ok(());
        }
        if self.is_late() {
            return Err(self.refusal());
        }
        let first = self.next_number;
        let mark = Record::Mark { shard: own.get(), number: first - 1 };
        self.numbers_since = Some((first, self.append_end(&mark, Level::Memory)?));
        Ok(())
    }

    fn check_room(&mut self, size: usize) -> Result<(), Refused> {
        if self.is_late() {
            return Err(self.refusal());
        }
        self.write_passed()?;
        self.log.check(size, Room::Normal)
    }

    /// As [`Durable::put_end`] when there is room, and as [`Durable::note_end`] otherwise, for whoever waits.
    fn end_soon(&mut self, record: &Record<'_>) -> Sequence {
        self.put_end(record).unwrap_or_else(|_| {
            self.note_end(record);
            self.said()
        })
    }
}

impl Recipient {
    pub(crate) fn new(session: SessionId, key: u64, delivery: &Delivery) -> Self {
        Self {
            session,
            key,
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id: None,
            identifiers: delivery.subscription_identifiers().into(),
            share: delivery.share().cloned(),
        }
    }

    fn record(&self) -> DeliveryRecord<'_> {
        DeliveryRecord {
            session: self.key,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id.map(PacketId::get),
            identifiers: Cow::Borrowed(&self.identifiers),
            share: self.share.as_deref(),
        }
    }
}

/// Whether a publication that is kept is acknowledged without waiting for its record. QoS 2 waits always: a packet id or a
/// number that a crash forgets would mean something else the next time.
fn is_unawaited(publication: &Publication) -> bool {
    publication.qos() == QoS::AtLeastOnce && publication.keeping() == Keeping::Memory
}

/// Bytes of a [`Record::Subscribe`].
pub(crate) fn subscribe_size(session: u64, filter: &str) -> usize {
    let number = |number: u64| (u64::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize;
    number(session) + 4 + number(filter.len() as u64) + filter.len()
}
