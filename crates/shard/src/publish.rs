//! PUBLISH from a client, and its acknowledgement.

use std::sync::Arc;

use midge_codec::{
    Framed, PacketId, ProtocolVersion, PubAck, PubComp, PubRec, Publish, QoS, RawPacket,
    ReasonCode, frame,
};
use midge_mesh::ShardId;
use midge_metrics::PacketType;
use midge_session::inbound::Received;
use midge_session::{Keeping, Publication};
use midge_store::Sequence;
use midge_topic::TopicName;

use crate::action::{Event, PeerError, Violation};
use crate::connection::{Answer, Flags, PendingAck};
use crate::ending::WillCase;
use crate::envelope::{Accepted, RunPlace};
use crate::explain;
use crate::ids::{ConnectionId, SessionId};
use crate::own;
use crate::receive::Handled;
use crate::route::{RUN_FRAME_SIZE_MAX, Routed, Run};
use crate::shard::{Shard, Waiter, WaitingAck};

/// PUBLISH, QoS 0, not retained: the first byte of a packet that may travel in a run.
const PLAIN: u8 = 0x30;

/// Whether a packet was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Now,
    /// The log had no room: nothing has happened, and the connection is held until it has.
    Later,
}

impl Shard {
    /// One PUBLISH, or as many as stand behind it in `rest` and go the same way; returns the bytes used.
    #[inline]
    pub(crate) fn handle_publish(
        &mut self,
        id: ConnectionId,
        version: ProtocolVersion,
        raw: RawPacket<'_>,
        rest: &[u8],
    ) -> Result<usize, PeerError> {
        let publish = Publish::decode(raw, version)?;
        let session = self.connections.get(id.0).and_then(|connection| connection.session);
        let Some(session) = session else { return Ok(raw.size) };
        if raw.first_byte == PLAIN && publish.properties.is_empty() && is_plain_size(raw) {
            if TopicName::parse(publish.topic, &self.topic_limits(id)).is_err() {
                return Err(Violation::TopicNameInvalid.into());
            }
            let run = collect_run(publish.topic, version, raw, rest);
            self.count_run(raw, run.place);
            self.sample(session, run.topic, run.place.count);
            if may_publish(run.topic) && self.may_write(session, run.topic) {
                self.route_run(run, Some(session));
                self.park_if_full(id);
            } else if self.security.deny_disconnects {
                return Err(Violation::NotAuthorized.into());
            }
            return Ok(run.frames.len());
        }
        match self.handle_single_publish(id, session, version, &publish)? {
            Taken::Now => {
                self.counters.publishes_received[publish.qos as usize] += 1;
                Ok(raw.size)
            }
            // It will be counted, and looked at, again.
            Taken::Later => Ok(0),
        }
    }

    /// Counts the packets of a run; the first, `raw`, has been counted as a packet.
    #[inline]
    fn count_run(&mut self, raw: RawPacket<'_>, place: RunPlace) {
        let kind = PacketType::Publish as usize;
        self.counters.publishes_received[QoS::AtMostOnce as usize] += u64::from(place.count);
        self.counters.packets_received[kind] += u64::from(place.count - 1);
        self.counters.packet_bytes_received[kind] += u64::from(place.size) - raw.size as u64;
    }

    fn handle_single_publish(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        version: ProtocolVersion,
        publish: &Publish<'_>,
    ) -> Result<Taken, PeerError> {
        let limits = &self.settings.limits;
        let properties = &publish.properties;
        // [MQTT-3.3.4-6]
        if !properties.subscription_identifiers.is_empty() {
            return Err(Violation::SubscriptionIdentifierInPublish.into());
        }
        // [MQTT-3.2.2-11]
        if publish.qos > limits.maximum_qos {
            return Err(Violation::QosNotSupported.into());
        }
        // [MQTT-3.2.2-14]
        if publish.retain && !limits.retain_available {
            return Err(Violation::RetainNotSupported.into());
        }
        let aliased;
        let topic = match properties.topic_alias {
            None => publish.topic,
            Some(alias) => {
                aliased = self.resolve_alias(id, alias.get(), publish.topic)?;
                &aliased
            }
        };
        self.sample(session, topic, 1);
        let Some(packet_id) = publish.packet_id else {
            if let Err(reason_code) = self.check_content(id, session, topic, publish) {
                return match reason_code {
                    ReasonCode::TopicNameInvalid => Err(Violation::TopicNameInvalid.into()),
                    ReasonCode::PayloadFormatInvalid => Err(Violation::PayloadFormatInvalid.into()),
                    _ if self.security.deny_disconnects => Err(Violation::NotAuthorized.into()),
                    // Not allowed to publish there: there is no packet to say so with.
                    _ => Ok(Taken::Now),
                };
            }
            let publication = self.publication(id, topic, publish);
            if self.route(&publication, Some(session), false, false).busy {
                self.park_for_log(id);
                return Ok(Taken::Later);
            }
            self.park_if_full(id);
            return Ok(Taken::Now);
        };

        if publish.qos == QoS::ExactlyOnce {
            let Some(entry) = self.sessions.get_mut(session) else { return Ok(Taken::Now) };
            let inbound = entry.session.inbound.get_or_insert_default();
            if inbound.receive(packet_id) == Received::Again {
                // [MQTT-4.3.3-10]: acknowledge again, deliver once.
                self.counters.duplicates_received += 1;
                let mut ack = PendingAck::at_once(packet_id, publish.qos, ReasonCode::Success);
                if let Some(durable) = &mut self.durable {
                    // What was received first may still wait for its commit.
                    ack.after = durable.said();
                }
                if self.wait_for_unanswered(id, session, ack) {
                    return Ok(Taken::Now);
                }
                self.acknowledge(id, ack, &[], None);
                return Ok(Taken::Now);
            }
        }
        // Whoever is closed for it sends it again, and it has not been received: its id stays free.
        let exceeds = self.check_receive_maximum(id, session, version);
        if exceeds.is_err() {
            self.forget_refused(session, packet_id, publish.qos);
            exceeds?;
        }
        if let Err(reason_code) = self.check_content(id, session, topic, publish) {
            self.forget_refused(session, packet_id, publish.qos);
            if !version.is_v5() && reason_code == ReasonCode::TopicNameInvalid {
                return Err(Violation::TopicNameInvalid.into());
            }
            if self.security.deny_disconnects && reason_code == ReasonCode::NotAuthorized {
                return Err(Violation::NotAuthorized.into());
            }
            // A 3.1 or 3.1.1 client can only be told "received" [MQTT-3.3.5-2 @3.1.1].
            let ack = PendingAck::at_once(packet_id, publish.qos, reason_code);
            self.acknowledge(id, ack, &[], None);
            return Ok(Taken::Now);
        }
        let publication = self.publication(id, topic, publish);
        if let Some(durable) = &mut self.durable {
            durable.opening.origin =
                (publish.qos == QoS::ExactlyOnce).then_some((session, packet_id));
        }
        // An older client cannot be told that there is no room, so it has to wait for some.
        let routed = self.route(&publication, Some(session), true, !version.is_v5());
        if routed.busy {
            self.forget_refused(session, packet_id, publish.qos);
            self.park_for_log(id);
            return Ok(Taken::Later);
        }
        let reason_code = reason_of(routed, version);
        let tickets = std::mem::take(&mut self.tickets);
        // With tickets it is not known yet whether somebody else keeps it.
        if reason_code.is_error() && tickets.is_empty() {
            self.forget_refused(session, packet_id, publish.qos);
        }
        let waiting_for = tickets.len() + usize::from(routed.handing_on.is_some());
        let ack = PendingAck {
            packet_id,
            qos: publish.qos,
            reason_code,
            waiting_for: u16::try_from(waiting_for).unwrap_or(u16::MAX),
            kept: routed.kept,
            refused: routed.refused,
            unkept: routed.unkept,
            after: routed.after,
        };
        self.acknowledge(id, ack, &tickets, routed.handing_on);
        self.tickets = tickets;
        self.park_if_full(id);
        Ok(Taken::Now)
    }

    fn publication(
        &mut self,
        id: ConnectionId,
        topic: &str,
        publish: &Publish<'_>,
    ) -> Arc<Publication> {
        let keeping = match (&self.durable, self.connections.get(id.0)) {
            (Some(_), Some(connection)) => self.settings.levels.of(connection.listener, topic),
            _ => Keeping::default(),
        };
        let author = match self.connections.get(id.0) {
            Some(connection) if publish.retain => {
                connection.session.and_then(|session| self.author(session, true))
            }
            _ => None,
        };
        let mut forwarded = std::mem::take(&mut self.forwarded);
        forwarded.clear();
        if publish.properties.has_forwarded() {
            publish.properties.encode_forwarded(&mut forwarded);
        }
        let expires_at = publish
            .properties
            .message_expiry_interval_seconds
            .map(|seconds| self.now.plus_seconds(seconds.into()));
        let publication = self.spares.renew(|block| {
            let Publish { payload, qos, retain, .. } = *publish;
            Publication::new_in(block, topic, &forwarded, payload, qos, retain, expires_at)
                .kept_as(keeping)
                .written_by(author)
        });
        self.forwarded = forwarded;
        publication
    }

    /// The topic that an alias stands for, after setting it when the packet has both.
    fn resolve_alias(
        &mut self,
        id: ConnectionId,
        alias: u16,
        topic: &str,
    ) -> Result<String, PeerError> {
        // [MQTT-3.3.2-9]
        if alias > self.settings.limits.topic_alias_maximum {
            return Err(Violation::TopicAlias.into());
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return Ok(String::new()) };
        let aliases = &mut connection.extra().inbound_aliases;
        if topic.is_empty() {
            return aliases.topic(alias).map(str::to_owned).ok_or(Violation::TopicAlias.into());
        }
        aliases.set(alias, topic);
        Ok(topic.to_owned())
    }

    /// What keeps a well-formed publication from being accepted.
    fn check_content(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        topic: &str,
        publish: &Publish<'_>,
    ) -> Result<(), ReasonCode> {
        if TopicName::parse(topic, &self.topic_limits(id)).is_err() {
            return Err(ReasonCode::TopicNameInvalid);
        }
        if !may_publish(topic) || !self.may_write(session, topic) {
            return Err(ReasonCode::NotAuthorized);
        }
        let text = publish.properties.payload_format_indicator == Some(1);
        if text && std::str::from_utf8(publish.payload).is_err() {
            return Err(ReasonCode::PayloadFormatInvalid);
        }
        Ok(())
    }

    /// [MQTT-3.3.4-7]: a 5.0 client has been told how many it may have unacknowledged.
    fn check_receive_maximum(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        version: ProtocolVersion,
    ) -> Handled {
        if !version.is_v5() {
            return Ok(());
        }
        let unreleased = self
            .sessions
            .get(session)
            .and_then(|entry| entry.session.inbound.as_ref())
            .map_or(0, |inbound| inbound.count());
        let waiting = self
            .connections
            .get(id.0)
            .and_then(|connection| connection.extra.as_ref())
            .map_or(0, |extra| extra.acks.at_least_once_count());
        if unreleased + waiting > usize::from(self.settings.limits.receive_maximum) {
            return Err(Violation::ReceiveMaximumExceeded.into());
        }
        Ok(())
    }

    /// A QoS 2 publication that is refused in its PUBREC needs no PUBREL: its id is free [MQTT-4.3.3-9].
    pub(crate) fn forget_refused(&mut self, session: SessionId, packet_id: PacketId, qos: QoS) {
        if qos == QoS::ExactlyOnce
            && let Some(entry) = self.sessions.get_mut(session)
            && let Some(inbound) = entry.session.inbound.as_mut()
        {
            inbound.release(packet_id);
            let connection = entry.connection;
            let after = self.note_released(session, packet_id);
            if let Some(connection) = connection.and_then(|id| self.connections.get_mut(id.0)) {
                connection.close_gate(after);
            }
        }
    }

    /// Acknowledges a PUBLISH when all shards that `tickets` name have taken it, and not before those that came
    /// earlier on this connection [MQTT-4.6.0-2].
    fn acknowledge(
        &mut self,
        id: ConnectionId,
        ack: PendingAck,
        tickets: &[(ShardId, u64)],
        handing_on: Option<u64>,
    ) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let in_line = connection.extra.as_ref().is_some_and(|extra| !extra.acks.is_empty());
        let in_line = in_line && !mutant!("ack-out-of-order");
        let tickets = if mutant!("ack-early") { &[] } else { tickets };
        if tickets.is_empty() && handing_on.is_none() && !in_line {
            let after = if mutant!("ack-early") { Sequence(0) } else { ack.after };
            connection.close_gate(after);
            self.write_acknowledgement(id, ack.packet_id, ack.qos, ack.reason_code);
            return;
        }
        let serial = connection.serial;
        let number = connection.extra().acks.push(ack);
        for &(target, ticket) in tickets {
            let waiter = Waiter::Ack { connection: id, serial, number };
            self.waiting_acks[target.index()].push_back(WaitingAck { ticket, waiter });
        }
        if let Some(handing_on) = handing_on
            && let Some(durable) = &mut self.durable
            && let Some(handing_on) = durable.handing_on.get_mut(&handing_on)
        {
            handing_on.waiter = Some(Waiter::Ack { connection: id, serial, number });
        }
    }

    fn write_acknowledgement(
        &mut self,
        id: ConnectionId,
        packet_id: PacketId,
        qos: QoS,
        reason_code: ReasonCode,
    ) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let explained = connection.flags.has(Flags::PROBLEM_INFORMATION);
        let mut reason_string = explain::of_reason_code(reason_code).filter(|_| explained);
        loop {
            let fits = self.wire.answer(id, connection, |version, out| match qos {
                QoS::ExactlyOnce => {
                    let mut ack = PubRec::new(packet_id, reason_code);
                    ack.reason_string = reason_string;
                    ack.encode(version, out);
                }
                QoS::AtLeastOnce | QoS::AtMostOnce => {
                    let mut ack = PubAck::new(packet_id, reason_code);
                    ack.reason_string = reason_string;
                    ack.encode(version, out);
                }
            });
            // [MQTT-3.4.2-2] [MQTT-3.5.2-2]: what explains is left out when it does not fit.
            if fits || reason_string.take().is_none() {
                return;
            }
        }
    }

    /// Another shard has taken what we sent it.
    pub(crate) fn handle_accepted_tickets(&mut self, from: ShardId, accepted: &Accepted) {
        let mut line = std::mem::take(&mut self.waiting_acks[from.index()]);
        while line.front().is_some_and(|waiting| waiting.ticket <= accepted.ticket) {
            let Some(waiting) = line.pop_front() else { break };
            let answer = if accepted.refused.contains(&waiting.ticket) {
                Answer::Refused
            } else {
                Answer::Kept
            };
            self.answer_waiter(waiting.waiter, answer);
        }
        // What the answers caused may wait for the same shard, behind what waited before.
        line.append(&mut self.waiting_acks[from.index()]);
        self.waiting_acks[from.index()] = line;
        for (ticket, answer) in &accepted.done {
            let line = &mut self.waiting_acks[from.index()];
            // Nearly always one of the first.
            let Some(at) = line.iter().position(|waiting| waiting.ticket == *ticket) else {
                continue;
            };
            if let Some(waiting) = line.remove(at) {
                self.answer_waiter(waiting.waiter, *answer);
            }
        }
    }

    /// One of those that somebody waits for has answered.
    pub(crate) fn answer_waiter(&mut self, waiter: Waiter, answer: Answer) {
        match waiter {
            Waiter::Ack { connection: id, serial, number } => {
                let connection = self.connections.get_mut(id.0).filter(|c| c.serial == serial);
                let Some(connection) = connection.filter(|c| c.session.is_some()) else {
                    return self.answer_unanswered((id, serial, number), answer);
                };
                connection.extra().acks.answer(number, answer);
                self.write_ready_acknowledgements(id);
            }
            Waiter::HandingOn { number } => self.answer_handing_on(number, answer),
            Waiter::Ticket { from, ticket } => self.answer_accept(from, ticket, answer),
            Waiter::Backlog { group, keep } => self.backlog_taken(&group, &keep),
        }
    }

    fn write_ready_acknowledgements(&mut self, id: ConnectionId) {
        while let Some(ready) = self
            .connections
            .get_mut(id.0)
            .and_then(|connection| connection.extra.as_mut())
            .and_then(|extra| extra.acks.pop_ready())
        {
            let mut reason_code = ready.reason_code;
            let Some(connection) = self.connections.get_mut(id.0) else { return };
            connection.close_gate(ready.after);
            if ready.unkept && !connection.version.is_v5() {
                // It cannot be told, and must not believe that it is kept: it sends again when it is back.
                if let Some(session) = connection.session {
                    self.forget_refused(session, ready.packet_id, ready.qos);
                }
                self.note(id, Event::NotKept);
                self.leave(id, WillCase::Published);
                return;
            }
            if reason_code.is_error() {
                let v5 = connection.version.is_v5();
                let session = connection.session;
                if !v5 {
                    reason_code = ReasonCode::Success;
                } else if let Some(session) = session {
                    self.forget_refused(session, ready.packet_id, ready.qos);
                }
            }
            self.write_acknowledgement(id, ready.packet_id, ready.qos, reason_code);
        }
    }

    /// PUBREL: the second half of a QoS 2 publication [MQTT-4.3.3-11].
    pub(crate) fn handle_pubrel(&mut self, id: ConnectionId, packet_id: PacketId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(session) = connection.session else { return };
        let known = self
            .sessions
            .get_mut(session)
            .and_then(|entry| entry.session.inbound.as_mut())
            .is_some_and(|inbound| inbound.release(packet_id));
        // A release that a crash forgets would make the next message under this id a duplicate.
        let mut after = self.note_released(session, packet_id);
        if let (false, Some(durable)) = (known, &mut self.durable) {
            // It may have been freed a moment ago, on an earlier connection.
            after = durable.ended();
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.close_gate(after);
        let reason_code =
            if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        let complete = PubComp::new(packet_id, reason_code);
        self.wire.answer(id, connection, |version, out| complete.encode(version, out));
    }
}

/// What the publisher is told. 0x97 only when nobody keeps the message: a fan-out in which one of many queues is full
/// is not the publisher's failure, and that queue counts it.
fn reason_of(routed: Routed, version: ProtocolVersion) -> ReasonCode {
    match routed {
        _ if !version.is_v5() => ReasonCode::Success,
        Routed { unkept: true, .. } => ReasonCode::QuotaExceeded,
        Routed { refused: true, kept: false, .. } => ReasonCode::QuotaExceeded,
        Routed { wanted: false, .. } => ReasonCode::NoMatchingSubscribers,
        Routed { .. } => ReasonCode::Success,
    }
}

/// `$SYS` is the broker's own: nobody else publishes there.
fn may_publish(topic: &str) -> bool {
    !own::is_own(topic)
}

/// Whether a packet is small enough for a run, and its length written in the only way that every receiver accepts.
#[inline]
fn is_plain_size(raw: RawPacket<'_>) -> bool {
    let header_size = if raw.body.len() < 128 { 2 } else { 3 };
    raw.size <= RUN_FRAME_SIZE_MAX && raw.size - raw.body.len() == header_size
}

/// The packets from the front of `rest` that say the same as the first but for the payload.
#[inline]
fn collect_run<'a>(
    topic: &'a str,
    version: ProtocolVersion,
    first: RawPacket<'_>,
    rest: &'a [u8],
) -> Run<'a> {
    let v5 = version.is_v5();
    // Topic length, topic and the empty property block: equal bytes need no second validation.
    let prefix = &first.body[..2 + topic.len() + usize::from(v5)];
    let (mut size, mut count, mut frame_size_max) = (first.size, 1, first.size);
    while rest.get(size) == Some(&PLAIN) {
        let Ok(Framed::Packet(raw)) = frame(&rest[size..], RUN_FRAME_SIZE_MAX as u32) else {
            break;
        };
        if !raw.body.starts_with(prefix) || !is_plain_size(raw) {
            break;
        }
        size += raw.size;
        count += 1;
        frame_size_max = frame_size_max.max(raw.size);
    }
    Run {
        frames: &rest[..size],
        topic,
        place: RunPlace {
            at: 0,
            size: size as u32,
            count,
            frame_size_max: frame_size_max as u32,
            topic_at: (first.size - first.body.len() + 2) as u8,
            topic_size: topic.len() as u16,
            v5,
        },
    }
}
