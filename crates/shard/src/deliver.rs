//! One message for one session: send it, queue it, or say why not.

use std::sync::Arc;

use midge_codec::{PacketId, PubRel, QoS, ReasonCode};
use midge_mesh::ShardId;
use midge_metrics::Counters;
use midge_session::outbound::Resend;
use midge_session::{
    Delivery, DeliveryExtra, Offer, Outbound, Publication, QueueLimits, SubscriptionOptions,
};
use midge_topic::SubscriberId;

use crate::action::Event;
use crate::connection::State;
use crate::durable::{Durable, Kept, Recipient};
use crate::ending::WillCase;
use crate::envelope::{Envelope, ShareMember, ShareReturn, ShareState, chooser};
use crate::ids::{SessionId, SessionRef};
use crate::retained::{note_overtaken, was_sent_as_retained};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::tally::Load;
use crate::wire::{Appended, Shape, append_publish};

/// Between two looks at a member of a shared subscription that was full, in milliseconds.
const FULL_MS: u64 = 100;

/// How a message comes to a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Occasion<'a> {
    /// It was just published.
    Live,
    /// It was just published, and a shared subscription chose this session.
    Shared(&'a Arc<str>),
    /// It was retained, and the session has just subscribed [MQTT-3.3.1-8].
    Retained,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// In the output, or in flight.
    Sent,
    /// In the session's queue.
    Queued,
    /// QoS 0 for a session that is away, or beyond the output's bound; or too large for the client; or no such session.
    Dropped,
    /// Nowhere: the member of a shared subscription may not receive it, but another one may.
    Denied,
    /// QoS 1 or 2 and the queue is full.
    Full,
    /// QoS 1 or 2 for a session that is kept, and the log does not take it.
    Unkept,
}

impl Shard {
    /// Delivers one publication. `matched` are the session's subscriptions that it matches, at least one.
    pub(crate) fn deliver(
        &mut self,
        session: SessionId,
        matched: &[(SubscriberId, SubscriptionOptions)],
        publication: &Arc<Publication>,
        occasion: Occasion<'_>,
    ) -> Delivered {
        let origin = self.origin();
        let Some(entry) = self.sessions.get_mut(session) else { return Delivered::Dropped };
        let reference = SessionRef { id: session, serial: entry.serial };
        let Some((first, others)) = matched.split_first() else { return Delivered::Dropped };
        // The first is asked apart: the publication's topic is not had for nothing.
        if !self.guards.is_open()
            && !self.guards.may_read(session, &entry.session.client_id, publication.topic())
        {
            if matches!(occasion, Occasion::Shared(_)) {
                return Delivered::Denied;
            }
            self.counters.dropped_denied += 1;
            return Delivered::Dropped;
        }
        // [MQTT-3.3.2-5]: it has waited for a disk on its way here. One that expires as it arrives has not waited.
        if publication.expires_at().is_some_and(|at| at < self.now) {
            self.counters.dropped_expired += 1;
            return Delivered::Dropped;
        }
        let mut options = first.1;
        for other in others {
            options = options.merge(other.1);
        }
        self.identifiers.clear();
        self.identifiers.extend(matched.iter().filter_map(|one| one.1.identifier()));
        let qos = if mutant!("qos-raised") {
            options.qos()
        } else {
            publication.qos().min(options.qos())
        };
        if mutant!("identifier-lost") {
            self.identifiers.clear();
        }
        // [MQTT-3.3.1-12] [MQTT-3.3.1-13], and for retained messages [MQTT-3.3.1-8]
        let retain = match occasion {
            Occasion::Live | Occasion::Shared(_) => {
                publication.retain()
                    && (options.retain_as_published() || mutant!("retain-flag-kept"))
            }
            Occasion::Retained => true,
        };
        let origin = match occasion {
            Occasion::Live | Occasion::Shared(_) => Some(origin),
            Occasion::Retained => None,
        };
        let settings = &*self.settings;
        let is_away = entry.connection.is_none();
        let mut connection = entry
            .connection
            .and_then(|id| Some((id, self.connections.get_mut(id.0)?)))
            .filter(|(_, connection)| connection.state == State::Connected);
        if let (Some((_, connection)), Occasion::Live, true) =
            (&mut connection, occasion, publication.retain())
            && let Some(extra) = connection.extra.as_mut()
        {
            if was_sent_as_retained(&extra.young_sent, matched, publication) {
                return Delivered::Sent;
            }
            note_overtaken(&mut extra.pumps, publication.topic());
        }

        if qos == QoS::AtMostOnce {
            // What was queued while the client was away may still be on its way out, and goes first [MQTT-4.6.0-6].
            let queued = entry.session.outbound.as_ref().is_some_and(|o| o.has_queued_once());
            let Some((id, connection)) = connection.filter(|_| !queued) else {
                if !settings.queue_qos0 || entry.session.expiry_interval_seconds == 0 {
                    return Delivered::Dropped;
                }
                let delivery = delivery(publication, qos, retain, &self.identifiers, occasion);
                let recipient = recipient(&self.durable, session, &entry.kept, &delivery);
                let outbound = entry.session.outbound.get_or_insert_default();
                return match outbound
                    .enqueue(delivery, &queue_limits(settings, &self.counters, outbound))
                {
                    Offer::Queued | Offer::Send(..) => {
                        self.counters.messages_queued += 1;
                        self.counters.messages_queued_now += 1;
                        self.counters.queued_bytes_now += publication.memory_size() as u64;
                        if let (Some(durable), Some(_)) = (&mut self.durable, &recipient) {
                            let counters = &self.counters;
                            durable.note_queued(reference, is_away, outbound, counters, settings);
                        }
                        note_recipient(&mut self.durable, recipient, None);
                        Delivered::Queued
                    }
                    Offer::Full(_) => {
                        self.counters.dropped_queue_full += 1;
                        Delivered::Dropped
                    }
                };
            };
            let waiting = connection.output_size();
            if waiting > 0 && waiting + publication.memory_size() > settings.output_bytes_max {
                self.counters.dropped_output_full += 1;
                return Delivered::Dropped;
            }
            let shape = Shape {
                qos,
                retain,
                duplicate: false,
                packet_id: None,
                identifiers: &self.identifiers,
                origin,
            };
            let cache = Some(&mut self.headers);
            return match append_publish(
                &mut self.wire,
                cache,
                id,
                connection,
                publication,
                shape,
                self.now,
            ) {
                Appended::Yes => {
                    self.counters.publishes_sent[qos as usize] += 1;
                    if let (QoS::ExactlyOnce, Some(_), Some(durable)) =
                        (publication.qos(), &entry.kept, &mut self.durable)
                    {
                        durable.opening.gated.push(id);
                    }
                    Delivered::Sent
                }
                Appended::TooLarge => {
                    self.counters.dropped_too_large += 1;
                    Delivered::Dropped
                }
            };
        }

        let window = match &connection {
            Some((_, connection)) if connection.output_size() < settings.output_bytes_max => {
                connection.window
            }
            _ => 0,
        };
        if entry.kept.is_some() && self.durable.as_ref().is_some_and(|d| !d.opening.ready) {
            self.counters.dropped_log_full += 1;
            return Delivered::Unkept;
        }
        let message = delivery(publication, qos, retain, &self.identifiers, occasion);
        let recipient = recipient(&self.durable, session, &entry.kept, &message);
        let outbound = entry.session.outbound.get_or_insert_default();
        match outbound.offer(message, window, &queue_limits(settings, &self.counters, outbound)) {
            Offer::Queued => {
                self.counters.messages_queued += 1;
                self.counters.messages_queued_now += 1;
                self.counters.queued_bytes_now += publication.memory_size() as u64;
                if let (Some(durable), Some(_)) = (&mut self.durable, &recipient) {
                    let counters = &self.counters;
                    durable.note_queued(reference, is_away, outbound, counters, settings);
                }
                note_recipient(&mut self.durable, recipient, None);
                Delivered::Queued
            }
            Offer::Full(_) => {
                if !matches!(occasion, Occasion::Shared(_)) {
                    self.counters.dropped_queue_full += 1;
                }
                Delivered::Full
            }
            Offer::Send(packet_id, _) => {
                let Some((id, connection)) = connection else {
                    unreachable!("the window of an absent client is zero");
                };
                let shape = Shape {
                    qos,
                    retain,
                    duplicate: false,
                    packet_id: Some(packet_id),
                    identifiers: &self.identifiers,
                    origin,
                };
                let cache = Some(&mut self.headers);
                match append_publish(
                    &mut self.wire,
                    cache,
                    id,
                    connection,
                    publication,
                    shape,
                    self.now,
                ) {
                    Appended::Yes => {
                        note_recipient(&mut self.durable, recipient, Some(packet_id));
                        self.counters.publishes_sent[qos as usize] += 1;
                        self.counters.messages_in_flight_now += 1;
                        Delivered::Sent
                    }
                    Appended::TooLarge => {
                        outbound.discard(packet_id);
                        self.counters.dropped_too_large += 1;
                        Delivered::Dropped
                    }
                }
            }
        }
    }

    /// Sends what waits for a session, as far as its window and its connection's output have room.
    pub(crate) fn pump(&mut self, session: SessionId) {
        let Some(entry) = self.sessions.get_mut(session) else { return };
        let Some(id) = entry.connection else { return };
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(outbound) = entry.session.outbound.as_deref_mut() else { return };
        if connection.state != State::Connected || !outbound.has_waiting() {
            return;
        }
        let before = Load::of(outbound);
        let kept = entry.kept.as_ref().map(|kept| kept.key);
        let mut stuck = false;
        let mut denied = Vec::new();
        while connection.output_size() < self.settings.output_bytes_max {
            if kept.is_some() && self.durable.as_mut().is_some_and(|durable| !durable.may_pump()) {
                // What gets a packet id now could not be written down.
                if let Some(durable) = &mut self.durable {
                    durable.unpumped.insert(session);
                }
                break;
            }
            let next =
                outbound.next(connection.window, self.now, &mut self.counters.dropped_expired);
            let (packet_id, delivery, duplicate) = match &next {
                None => break,
                Some(Resend::Release(packet_id)) => {
                    let release = PubRel::new(*packet_id, ReasonCode::Success);
                    self.wire.answer(id, connection, |version, out| release.encode(version, out));
                    if let (Some(_), Some(durable)) = (kept, &mut self.durable) {
                        // What an earlier connection waited for may not be committed yet.
                        connection.close_gate(durable.said());
                    }
                    continue;
                }
                Some(Resend::Publish(packet_id, delivery, duplicate)) => {
                    (Some(*packet_id), *delivery, *duplicate)
                }
                Some(Resend::PublishOnce(delivery)) => (None, delivery, false),
            };
            let shape = Shape {
                qos: delivery.qos,
                retain: delivery.retain,
                duplicate,
                packet_id,
                identifiers: delivery.subscription_identifiers(),
                origin: None,
            };
            let (publication, qos) = (Arc::clone(&delivery.publication), delivery.qos);
            let once_kept = delivery.keep.filter(|_| packet_id.is_none());
            let delivery_share = delivery.share().cloned();
            // A right may have been taken back since it was queued. What was sent before is the client's to finish.
            if !duplicate
                && !self.guards.may_read(session, &entry.session.client_id, publication.topic())
            {
                match delivery_share {
                    Some(group) => denied.push((group, publication)),
                    None => self.counters.dropped_denied += 1,
                }
                if let Some(packet_id) = packet_id {
                    outbound.discard(packet_id);
                }
                continue;
            }
            match append_publish(
                &mut self.wire,
                None,
                id,
                connection,
                &publication,
                shape,
                self.now,
            ) {
                Appended::Yes => {
                    self.counters.publishes_sent[qos as usize] += 1;
                    if let (Some(key), Some(packet_id)) = (kept, packet_id)
                        && let Some(durable) = &mut self.durable
                    {
                        if !duplicate {
                            durable.note_assigned(key, outbound, packet_id, qos, connection);
                        } else if qos == QoS::ExactlyOnce {
                            // That it has this packet id may not be committed yet.
                            connection.close_gate(durable.said());
                        }
                    }
                    // At most once: were it forgotten that this one has left, it would come again.
                    if let (Some(key), Some(keep), Some(durable)) =
                        (kept, once_kept, &mut self.durable)
                    {
                        durable.note_left(key, keep, connection);
                    }
                }
                Appended::TooLarge => {
                    self.counters.dropped_too_large += 1;
                    let Some(packet_id) = packet_id else { continue };
                    if qos == QoS::ExactlyOnce && duplicate {
                        if let (Some(_), Some(durable)) = (kept, &mut self.durable)
                            && !durable.has_room()
                        {
                            // Not now: all that is in flight is sent again on the next connection.
                            stuck = true;
                            break;
                        }
                        // The client, whose limit was larger before, may have it and hold the id: release it first.
                        outbound.pubrec(packet_id, false);
                        if let (Some(key), Some(durable)) = (kept, &mut self.durable) {
                            durable.note_received(key, outbound, packet_id, connection);
                        }
                        let release = PubRel::new(packet_id, ReasonCode::Success);
                        self.wire.answer_always(id, connection, |version, out| {
                            release.encode(version, out);
                        });
                    } else {
                        outbound.discard(packet_id);
                    }
                }
            }
        }
        before.has_become(Load::of(outbound), &mut self.counters);
        let half = self.settings.queue.messages_max / 2;
        let room = outbound.queued_count() <= half;
        let gone = outbound.has_gone();
        if room && entry.shares.as_ref().is_some_and(|shares| shares.told_full) {
            self.tell_choosers(session);
        }
        if gone {
            self.note_gone(session);
        }
        for (group, publication) in denied {
            let Some(reference) = self.sessions.reference(session) else { return };
            let member = ShareMember { group, session: reference };
            self.return_shared(member, publication, vec![(self.id, reference)]);
        }
        if stuck {
            self.note(id, Event::NotKept);
            self.leave(id, WillCase::Published);
            return;
        }
        if self.durable.is_some() {
            self.read_backlog(session);
        }
    }

    /// Tells the choosers of a session's shared subscriptions whether it is online and has room.
    pub(crate) fn tell_choosers(&mut self, session: SessionId) {
        let Some(reference) = self.sessions.reference(session) else { return };
        let Some(entry) = self.sessions.get_mut(session) else { return };
        let online = entry.connection.is_some();
        let Some(shares) = entry.shares.as_mut() else { return };
        shares.told_full = false;
        let groups: Vec<Arc<str>> = shares.groups.keys().map(Arc::clone).collect();
        for group in groups {
            let target = chooser(&group, self.shards);
            let member = ShareMember { group, session: reference };
            let state = ShareState { member, online, room: true };
            self.send(target, Envelope::ShareState(Box::new(state)));
        }
    }

    /// The choosers take a session for full: it says when it has room. Usually an acknowledgement makes room; where nothing
    /// is in flight (one message was too much, or all sessions together hold what they may) only time does.
    pub(crate) fn note_told_full(&mut self, session: SessionRef) {
        if let Some(entry) = self.sessions.current(session)
            && let Some(shares) = entry.shares.as_mut()
        {
            shares.told_full = true;
            if !std::mem::replace(&mut shares.is_watched, true) {
                self.full_members.push_back((self.now.plus_millis(FULL_MS), session));
            }
        }
    }

    /// Tells the choosers of members that have room again and had no occasion to say so.
    pub(crate) fn look_at_full_members(&mut self) {
        let half = self.settings.queue.messages_max / 2;
        while let Some((at, session)) = self.full_members.front().copied() {
            if at > self.now {
                return;
            }
            self.full_members.pop_front();
            let (settings, counters) = (&self.settings, &self.counters);
            let in_memory =
                counters.queued_bytes_now.saturating_sub(counters.queued_bytes_in_log_now);
            let room_for_all = counters.queued_bytes_now < settings.queued_bytes_max as u64
                && in_memory < settings.queued_in_memory_max as u64;
            let Some(entry) = self.sessions.current(session) else { continue };
            let queued = entry.session.outbound.as_ref().map_or(0, |o| o.queued_count());
            let Some(shares) = entry.shares.as_mut() else { continue };
            shares.is_watched = false;
            if !shares.told_full {
                continue;
            }
            if room_for_all && queued <= half {
                self.tell_choosers(session.id);
            } else {
                shares.is_watched = true;
                self.full_members.push_back((self.now.plus_millis(FULL_MS), session));
            }
        }
    }

    /// A message from a shared subscription that this session cannot keep, or may not receive (then it is among `denied`), goes
    /// back to the chooser.
    pub(crate) fn return_shared(
        &mut self,
        member: ShareMember,
        publication: Arc<Publication>,
        denied: Vec<(ShardId, SessionRef)>,
    ) {
        let back = ShareReturn { member, publication, denied, ticket: 0, kept: None };
        self.give_back(back);
    }

    /// The same, for one that somebody waits for, or that the group's backlog keeps.
    pub(crate) fn give_back(&mut self, back: ShareReturn) {
        if back.denied.is_empty() {
            self.note_told_full(back.member.session);
        }
        let target = chooser(&back.member.group, self.shards);
        self.send(target, Envelope::ShareReturn(Box::new(back)));
    }
}

/// Whom the record of a publication will name, when the session is kept.
#[inline]
fn recipient(
    durable: &Option<Box<Durable>>,
    session: SessionId,
    kept: &Option<Box<Kept>>,
    delivery: &Delivery,
) -> Option<Recipient> {
    let kept = kept.as_ref()?;
    durable.as_ref().filter(|durable| durable.opening.ready)?;
    Some(Recipient::new(session, kept.key, delivery))
}

#[inline]
fn note_recipient(
    durable: &mut Option<Box<Durable>>,
    recipient: Option<Recipient>,
    packet_id: Option<PacketId>,
) {
    if let (Some(durable), Some(recipient)) = (durable, recipient) {
        durable.opening.recipients.push(Recipient { packet_id, ..recipient });
    }
}

/// The bounds of one queue now: its own, and what all queues of the shard together leave.
fn queue_limits(settings: &Settings, counters: &Counters, outbound: &Outbound) -> QueueLimits {
    let all = usize::try_from(counters.queued_bytes_now).unwrap_or(usize::MAX);
    let in_log = usize::try_from(counters.queued_bytes_in_log_now).unwrap_or(usize::MAX);
    let left_in_memory = settings.queued_in_memory_max.saturating_sub(all.saturating_sub(in_log));
    let left = settings.queued_bytes_max.saturating_sub(all).min(left_in_memory);
    let bytes_max = settings.queue.bytes_max.min(outbound.queued_bytes().saturating_add(left));
    QueueLimits { bytes_max, ..settings.queue }
}

fn delivery(
    publication: &Arc<Publication>,
    qos: QoS,
    retain: bool,
    identifiers: &[u32],
    occasion: Occasion<'_>,
) -> Delivery {
    let share = match occasion {
        Occasion::Shared(group) => Some(Arc::clone(group)),
        Occasion::Live | Occasion::Retained => None,
    };
    let extra = (share.is_some() || !identifiers.is_empty())
        .then(|| Box::new(DeliveryExtra { subscription_identifiers: identifiers.into(), share }));
    Delivery { publication: Arc::clone(publication), qos, retain, extra, keep: None }
}
