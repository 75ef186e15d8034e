//! What a failed disk took is written again, from memory.
//!
//! # All or nothing
//! A record may be needed by many: sessions that must get the message, groups, a topic that retains it, other shards that are to
//! have it, the publisher's packet id. What was one record is one record again, and says too under which number another
//! shard had handed it on: after a crash all of it is there or nothing. Were these records of their own, a message could
//! be there and whoever sent it not be known to have done so, and at QoS 2 it would be delivered twice [MQTT-4.3.3-2].

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::sync::Arc;

use midge_codec::PacketId;
use midge_session::{DeliveryExtra, Keep, Publication};
use midge_store::{Level, Log, Position, Refused, Room, SegmentId};

use super::clean::{find_inbound, has_inbound, move_kept};
use super::record::{DeliveryRecord, HandOn, MessageRecord, Record};
use super::write::{keep, message_record, place_of, session_record, share_of};
use super::{Durable, Place};
use crate::ids::SessionId;
use crate::sessions::SessionEntry;
use crate::shard::Shard;

/// Under which numbers other shards handed on what stands in which records, as long as these are not synced. Bounded by what the
/// log gathers for one sync, and by what a failure took.
#[derive(Debug, Default)]
pub(crate) struct Sources(VecDeque<(Position, (u16, u64))>);

impl Sources {
    /// A record was written for what that shard handed on under that number.
    pub(super) fn note(&mut self, position: Position, source: (u16, u64), log: &Log) {
        let is_done =
            |one: &mut (Position, _)| log.is_synced(one.0) || !log.has_segment(one.0.segment);
        while self.0.pop_front_if(is_done).is_some() {}
        self.0.push_back((position, source));
    }

    fn of(&self, position: Position) -> Option<(u16, u64)> {
        let at = self.0.binary_search_by_key(&position, |one| one.0).ok()?;
        Some(self.0[at].1)
    }

    /// What stood in segments up to this one is written again.
    pub(super) fn forget(&mut self, last: SegmentId) {
        while self.0.pop_front_if(|one| one.0.segment <= last).is_some() {}
    }
}

/// Who needs a record that is lost.
#[derive(Debug, Default)]
struct Needed {
    message: Option<NonZeroU64>,
    publication: Option<Arc<Publication>>,
    deliveries: Vec<DeliveryRecord<'static>>,
    /// Sessions, by key, whose clients have the message, and its packet id.
    received: Vec<(u64, u16)>,
    /// The session that used this packet id.
    inbound: Option<(u64, PacketId)>,
    retained: bool,
    groups: Vec<Arc<str>>,
    /// The shared subscriptions of `deliveries`, in their order.
    shares: Vec<Option<Arc<str>>>,
    /// Under which number other shards are to have it.
    number: Option<u64>,
}

impl Needed {
    fn is_message(&mut self, publication: &Arc<Publication>, keep: &Keep) {
        self.message = Some(keep.message);
        self.publication.get_or_insert_with(|| Arc::clone(publication));
    }
}

impl Shard {
    /// Writes again everything whose record stands in the segments from `first` to `last`, at most `budget` records of messages,
    /// which becomes smaller. `false`: not all of it yet; what was written has another place and is passed over next time.
    pub(super) fn rewrite(
        &mut self,
        first: SegmentId,
        last: SegmentId,
        budget: &mut usize,
    ) -> bool {
        if mutant!("failure-not-rewritten") {
            return true;
        }
        let lost = first..=last;
        if !matches!(self.rewrite_terms(&lost, budget), Ok(true)) {
            return false;
        }
        for (position, needed) in self.needed(&lost) {
            if self.rewrite_record(position, &needed).is_err() {
                return false;
            }
            *budget = budget.saturating_sub(1);
            if *budget == 0 {
                return false;
            }
        }
        true
    }

    /// Sessions and their subscriptions. `Ok(false)`: not all of them yet.
    fn rewrite_terms(
        &mut self,
        lost: &RangeInclusive<SegmentId>,
        budget: &mut usize,
    ) -> Result<bool, Refused> {
        let Self { durable: Some(durable), sessions, guards, table, .. } = self else {
            return Ok(true);
        };
        let ids: Vec<SessionId> = durable.sessions.values().copied().collect();
        for id in ids {
            let Some(entry) = sessions.get_mut(id) else { continue };
            let SessionEntry { kept: Some(kept), session, away, .. } = entry else { continue };
            let key = kept.key;
            let mut written = 0;
            if kept.head.is_some_and(|head| lost.contains(&head.position.segment)) {
                let since_ms = away.as_ref().map(|away| durable.wall.ms(away.since));
                let record =
                    Record::Session(session_record(session, key, since_ms, guards.user(id)));
                kept.head = Some(durable.put(&record, durable.level, Room::Reserve)?.1);
                written += 1;
            }
            for (filter, position) in &mut kept.filters {
                if lost.contains(&position.segment) {
                    let options = table.value(*filter, midge_topic::SubscriberId(id.0));
                    let Some(options) = options else { continue };
                    let filter = table.filter(*filter);
                    let options = options.to_bits();
                    let record = Record::Subscribe { session: key, options, filter };
                    *position = durable.put(&record, durable.level, Room::Reserve)?.1.position;
                    written += 1;
                }
            }
            for (group, position) in &mut kept.groups {
                let shares = entry.shares.as_ref();
                let options = shares.and_then(|shares| shares.groups.get(group));
                if let Some(options) = options.filter(|_| lost.contains(&position.segment)) {
                    let options = options.to_bits();
                    let record = Record::Subscribe { session: key, options, filter: group };
                    *position = durable.put(&record, durable.level, Room::Reserve)?.1.position;
                    written += 1;
                }
            }
            *budget = budget.saturating_sub(written);
            if *budget == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What else is lost, by where it stood: in the order in which it came.
    fn needed(&mut self, lost: &RangeInclusive<SegmentId>) -> BTreeMap<Position, Needed> {
        let mut found = BTreeMap::<Position, Needed>::new();
        let Self { durable: Some(durable), sessions, retained, groups, .. } = self else {
            return found;
        };
        let is_lost = |position: Position| lost.contains(&position.segment);
        for id in durable.sessions.values() {
            let Some(entry) = sessions.get_mut(*id) else { continue };
            let SessionEntry { kept: Some(kept), session, .. } = entry else { continue };
            for (packet_id, place) in kept.inbound.iter().filter(|one| is_lost(one.1.position)) {
                found.entry(place.position).or_default().inbound = Some((kept.key, *packet_id));
            }
            let Some(outbound) = session.outbound.as_mut() else { continue };
            let mut keeps: Vec<Keep> = outbound.keeps_in_memory().collect();
            keeps.retain(|keep| is_lost(place_of(keep).position));
            for old in keeps {
                let Some(delivery) = outbound.find_kept(old.message) else { continue };
                let needed = found.entry(place_of(&old).position).or_default();
                let packet_id = delivery.packet_id.map(PacketId::get);
                let Some(message) = &delivery.message else {
                    needed.message = Some(old.message);
                    needed.received.push((kept.key, packet_id.unwrap_or(1)));
                    continue;
                };
                needed.is_message(message.publication, &old);
                let extra: Option<&DeliveryExtra> = message.extra.as_deref();
                needed.deliveries.push(DeliveryRecord {
                    session: kept.key,
                    qos: message.qos,
                    retain: message.retain,
                    packet_id,
                    identifiers: extra
                        .map_or_else(Vec::new, |extra| extra.subscription_identifiers.to_vec())
                        .into(),
                    share: None,
                });
                needed.shares.push(extra.and_then(|extra| extra.share.clone()));
            }
        }
        for (publication, old) in retained.kept_messages() {
            if is_lost(place_of(&old).position) {
                let needed = found.entry(place_of(&old).position).or_default();
                needed.is_message(&publication, &old);
                needed.retained = true;
            }
        }
        for (group, publication, old) in groups.kept_messages() {
            if is_lost(place_of(&old).position) {
                let needed = found.entry(place_of(&old).position).or_default();
                needed.is_message(&publication, &old);
                needed.groups.push(group);
            }
        }
        for (number, one) in durable.handing_on.iter().filter(|one| is_lost(one.1.place.position)) {
            let needed = found.entry(one.place.position).or_default();
            needed.publication.get_or_insert_with(|| Arc::clone(&one.publication));
            needed.number = Some(*number);
        }
        found
    }

    /// Writes one record again, that stood at `position`.
    fn rewrite_record(&mut self, position: Position, needed: &Needed) -> Result<(), Refused> {
        let Self { durable: Some(durable), sessions, .. } = self else { return Ok(()) };
        for (session, packet_id) in &needed.received {
            let Some(message) = needed.message else { continue };
            let record = Record::Received {
                session: *session,
                message: message.get(),
                packet_id: *packet_id,
            };
            let (_, place) = durable.put(&record, Level::Fsync, Room::Reserve)?;
            if let Some(entry) = durable.entry(sessions, *session) {
                move_kept(entry, keep(message, place));
            }
        }
        let Some(publication) = &needed.publication else {
            let Some((session, packet_id)) = needed.inbound else { return Ok(()) };
            let record = Record::Inbound { session, packet_id: packet_id.get() };
            let (_, place) = durable.put(&record, Level::Fsync, Room::Reserve)?;
            if let Some(entry) = durable.entry(sessions, session)
                && let Some(inbound) = find_inbound(entry, packet_id.get(), position)
            {
                *inbound = place;
            }
            return Ok(());
        };
        let handing_on = needed.number.and_then(|number| durable.handing_on.get(&number));
        let hand_on = needed.number.zip(handing_on);
        let hand_on = hand_on.map(|(number, one)| HandOn { number, targets: one.targets.clone() });
        let own_origin = needed.inbound.map(|(session, packet_id)| (session, packet_id.get()));
        // What is handed on says whose it is also when the packet id has a record of its own.
        let origin = own_origin.or_else(|| {
            let (session, packet_id) = handing_on?.origin?;
            let entry = durable.entry(sessions, session)?;
            has_inbound(entry, packet_id).then_some((session, packet_id))
        });
        let shares = needed.shares.iter();
        let deliveries = needed.deliveries.iter().zip(shares).map(|(delivery, share)| {
            DeliveryRecord { share: share.as_deref(), ..delivery.clone() }
        });
        let message = needed.message.unwrap_or_else(|| durable.next_message_id());
        let source = durable.sources.of(position);
        let record = MessageRecord {
            retained: needed.retained,
            origin,
            hand_on,
            came_from: source,
            deliveries: deliveries.collect(),
            groups: needed.groups.iter().map(|group| &**group).collect(),
            ..message_record(publication, publication.topic(), message, durable.wall)
        };
        let owners = record.deliveries.len()
            + record.groups.len()
            + usize::from(record.retained)
            + usize::from(own_origin.is_some())
            + usize::from(record.hand_on.is_some());
        let Durable { encoded, log, sources, .. } = &mut **durable;
        encoded.clear();
        let kind = record.encode_head(&record.deliveries, encoded);
        let size = (encoded.len() + record.payload.len()) as u32;
        let parts = [&encoded[..], record.payload];
        let appended = log.append(kind, &parts, Level::Fsync, Room::Reserve)?;
        if let Some(source) = source {
            sources.note(appended.position, source, log);
        }
        let place = Place { position: appended.position, size: share_of(size, owners) };
        self.stands_at(message, &record, position, place);
        Ok(())
    }
}
