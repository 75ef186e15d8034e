//! From a CONNECT to a session: refusal, hand-over to the client's home, take-over, CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use midge_auth::Grant;
use midge_codec::{
    ConnAck, ConnAckProperties, Connect, DecodeError, Disconnect, ErrorKind, Framed,
    ProtocolVersion, QoS, RawPacket, ReasonCode, UserProperties, frame,
};
use midge_metrics::{ConnectRefusal, PacketType};
use midge_session::alias::OutboundAliases;
use midge_session::{Keeping, Refusal, Session, Terms, Will};

use crate::action::{Action, Event, PeerError};
use crate::audit::AuditEvent;
use crate::connection::{Flags, State};
use crate::ending::WillCase;
use crate::enhanced::Enhanced;
use crate::envelope::Luggage;
use crate::ids::{ConnectionId, SessionId, home_shard};
use crate::shard::Shard;
use crate::tally::set_state;
use crate::wheel::{Entry, Subject};

impl Shard {
    /// `received` is everything from the CONNECT on.
    pub(crate) fn handle_connect(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        received: &[u8],
    ) {
        if let Some(connection) = self.connections.get_mut(id.0) {
            // A refusal is an answer, too.
            connection.maximum_packet_size =
                connect.properties.maximum_packet_size.map_or(u32::MAX, Into::into);
        }
        let terms = match Terms::negotiate(connect, &self.settings.limits) {
            Ok(terms) => terms,
            Err(refusal) => return self.refuse(id, connect, refusal),
        };
        if let Some(refusal) = self.look_at_names(connect) {
            return self.refuse(id, connect, refusal);
        }
        // A client without an id gets one of which this shard is the home.
        let home = match connect.client_id {
            "" => self.id,
            client_id => home_shard(client_id, self.shards),
        };
        if home == self.id {
            let packet = match frame(received, u32::MAX) {
                Ok(Framed::Packet(raw)) => &received[..raw.size],
                _ => received,
            };
            return self.identify(id, connect, &terms, packet);
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        set_state(connection, State::HandingOver, &mut self.counters);
        let luggage = Box::new(Luggage {
            peer: connection.peer,
            listener: connection.listener,
            identity: connection.extra.as_mut().and_then(|extra| extra.identity.take()),
            carried: None,
            received: if mutant!("luggage-lost") {
                match frame(received, u32::MAX) {
                    Ok(Framed::Packet(raw)) => received[..raw.size].to_vec(),
                    _ => Vec::new(),
                }
            } else {
                received.to_vec()
            },
        });
        self.counters.connections_handed_over += 1;
        // The home shard will read the CONNECT once more, and count it.
        if let Ok(Framed::Packet(raw)) = frame(received, u32::MAX) {
            let kind = PacketType::Connect as usize;
            self.counters.packets_received[kind] -= 1;
            self.counters.packet_bytes_received[kind] -= raw.size as u64;
        }
        self.actions.push_back(Action::HandOver { connection: id, target: home, luggage });
    }

    /// An id that no other client has: the process's seed, this shard, a count; chosen so that this shard is its home.
    pub(crate) fn assign_client_id(&mut self) -> String {
        loop {
            self.assigned_client_ids += 1;
            let seed = self.settings.client_id_seed;
            let client_id =
                format!("midge-{seed:x}-{:x}-{:x}", self.id.get(), self.assigned_client_ids);
            if home_shard(&client_id, self.shards) == self.id
                && self.sessions.find(&client_id).is_none()
            {
                return client_id;
            }
        }
    }

    pub(crate) fn open_session(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        terms: &Terms,
        client_id: &str,
        assigned: bool,
        grant: &Grant,
    ) {
        // A client that cannot be sent its CONNACK [MQTT-3.1.2-24] can be told nothing else either.
        let connack = self.connack(connect, terms, client_id, false, assigned, grant);
        if connack.size(connect.version) > terms.maximum_packet_size as usize {
            let reason_code = ReasonCode::ImplementationSpecificError;
            let reason = "the client's maximum packet size leaves no room for the CONNACK";
            return self.refuse(id, connect, Refusal { reason_code, reason });
        }
        if !self.has_memory() && self.sessions.find(client_id).is_none() {
            let reason = "memory is short; try again later";
            let refusal = Refusal { reason_code: ReasonCode::ServerBusy, reason };
            return self.refuse(id, connect, refusal);
        }
        if self.is_flapping(client_id) {
            let reason = "this client connected too often, and may not for a while";
            let refusal = Refusal { reason_code: ReasonCode::Banned, reason };
            return self.refuse(id, connect, refusal);
        }
        let resumed = self.settle_earlier_session(client_id, connect.clean_start);
        let session_present = resumed.is_some();
        let session = match resumed {
            Some(session) => session,
            None if self.sessions.len() >= self.settings.sessions_max => {
                let reason = "the broker keeps as many sessions as it may";
                let refusal = Refusal { reason_code: ReasonCode::QuotaExceeded, reason };
                return self.refuse(id, connect, refusal);
            }
            None => {
                let expiry = terms.session_expiry_interval_seconds;
                if expiry > 0
                    && let Some(reason_code) = self.log_refusal()
                {
                    let reason = "the disk that would keep the session takes nothing";
                    return self.refuse(id, connect, Refusal { reason_code, reason });
                }
                let serial = self.next_serial();
                self.sessions.insert(Session::new(client_id, expiry), serial)
            }
        };
        self.guards.log_in(session, grant);
        let will = connect.will.as_ref().map(|will| {
            let mut properties = Vec::new();
            will.properties.encode_forwarded(&mut properties);
            Box::new(Will {
                topic: will.topic.into(),
                properties: properties.into(),
                payload: will.payload.into(),
                qos: will.qos,
                retain: will.retain,
                delay_interval_seconds: will.properties.delay_interval_seconds.unwrap_or(0),
                message_expiry_interval_seconds: will.properties.message_expiry_interval_seconds,
            })
        });
        let serial = self.next_serial();
        if let Some(entry) = self.sessions.get_mut(session) {
            entry.connection = Some(id);
            entry.since_seconds = self.now.as_seconds() as u32;
            entry.away = None;
            entry.session.will = will;
            entry.session.expiry_interval_seconds = terms.session_expiry_interval_seconds;
        }
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        set_state(connection, State::Connected, &mut self.counters);
        connection.session = Some(session);
        connection.serial = serial;
        connection.version = connect.version;
        connection.keep_alive_seconds = terms.keep_alive_seconds;
        connection.window = terms.window;
        connection.maximum_packet_size = terms.maximum_packet_size;
        // It may have been in the line of those with an unfinished CONNECT, whose entry the new serial makes stale.
        connection.flags.set(Flags::RUNNABLE, false);
        connection.flags.set(Flags::PROBLEM_INFORMATION, terms.request_problem_information);
        if let Some(method) = connect.properties.authentication_method {
            connection.extra().enhanced = Some(Box::new(Enhanced::new(method, connect.username)));
        }
        let no_expiry = connect.properties.session_expiry_interval_seconds.unwrap_or(0) == 0;
        connection.flags.set(Flags::NO_EXPIRY_AT_CONNECT, no_expiry);
        if terms.topic_alias_maximum > 0 {
            let aliases = OutboundAliases::new(terms.topic_alias_maximum);
            connection.extra().outbound_aliases = Some(aliases);
        }
        connection.hear(self.now);
        connection.set_valid_for(grant.valid_for_seconds, self.now);
        if let Some(deadline) = connection.next_deadline(self.now)
            && !mutant!("silence-allowed")
        {
            connection.note_timer(Some(deadline));
            self.wheel.insert(deadline, Entry::new(Subject::Connection, id.0, serial));
        }
        self.note_author_of_will(session);
        self.counters.connects_accepted += 1;
        self.audit_session(session, || AuditEvent::Connected { version: connect.version });
        self.actions.push_back(Action::Receive(id));
        self.keep_terms(id, session);
        let mut connack = self.connack(connect, terms, client_id, session_present, assigned, grant);
        if let Some(connection) = self.connections.get(id.0)
            && connect.version.is_v5()
        {
            connack.properties.maximum_packet_size =
                NonZeroU32::new(self.packet_size_max(connection.listener));
        }
        if let Some(connection) = self.connections.get_mut(id.0) {
            let said = match &self.durable {
                Some(_) => said_level(self.settings.levels.of_listener(connection.listener)),
                None => &[],
            };
            let mut told = false;
            if !said.is_empty() && connection.version.is_v5() {
                let mut connack = connack;
                connack.properties.user_properties = UserProperties::from_pairs(said);
                told =
                    self.wire.answer(id, connection, |version, out| connack.encode(version, out));
            }
            // [MQTT-3.2.2-20]: what a client has no room for is left out.
            if !told {
                self.wire.answer(id, connection, |version, out| connack.encode(version, out));
            }
        }
        if session_present {
            self.tell_choosers(session);
            self.pump(session);
        }
    }

    /// What becomes of a session that this client id already has; the session to go on with, if there is one.
    fn settle_earlier_session(&mut self, client_id: &str, clean_start: bool) -> Option<SessionId> {
        let earlier = self.sessions.find(client_id)?;
        let serving = self.sessions.get(earlier).and_then(|entry| entry.connection);
        if let Some(old) = serving.filter(|_| !mutant!("old-connection-stays")) {
            // [MQTT-3.1.4-3]: the older connection is told, then closed.
            self.counters.take_overs += 1;
            self.note(old, Event::TakenOver);
            self.disconnect(old, ReasonCode::SessionTakenOver, "another client has this client id");
            // A session with an expiry interval of zero ended with its connection, just now.
            let case =
                if clean_start { WillCase::SessionEnds } else { WillCase::ConnectionResumed };
            self.leave(old, case);
        }
        let entry = self.sessions.get_mut(earlier)?;
        debug_assert!(entry.connection.is_none());
        if clean_start && !mutant!("clean-start-resumes") {
            // [MQTT-3.1.2-4]; a will that still waits for its delay goes out with the session [MQTT-3.1.3-9].
            self.end_session(earlier);
            return None;
        }
        // [MQTT-3.1.3-9]: back before the delay has passed, so the waiting will is not published.
        entry.session.will = None;
        Some(earlier)
    }

    /// The answer to a CONNECT that is accepted.
    fn connack<'c>(
        &self,
        connect: &Connect<'c>,
        terms: &Terms,
        client_id: &'c str,
        session_present: bool,
        assigned: bool,
        grant: &'c Grant,
    ) -> ConnAck<'c> {
        let version = connect.version;
        // MQTT 3.1 has no session-present flag: the byte is reserved.
        let session_present =
            session_present && version != ProtocolVersion::V31 && !mutant!("session-not-told");
        let mut connack = ConnAck::new(session_present, ReasonCode::Success);
        if version.is_v5() {
            let limits = &self.settings.limits;
            connack.properties = ConnAckProperties {
                session_expiry_interval_seconds: terms.announced_session_expiry_seconds,
                receive_maximum: NonZeroU16::new(limits.receive_maximum)
                    .filter(|maximum| maximum.get() != u16::MAX),
                maximum_qos: (limits.maximum_qos != QoS::ExactlyOnce).then_some(limits.maximum_qos),
                retain_available: (!limits.retain_available).then_some(false),
                maximum_packet_size: NonZeroU32::new(limits.maximum_packet_size),
                // [MQTT-3.2.2-16]
                assigned_client_id: assigned.then_some(client_id),
                topic_alias_maximum: (limits.topic_alias_maximum > 0)
                    .then_some(limits.topic_alias_maximum),
                wildcard_subscription_available: (!limits.wildcard_subscription_available)
                    .then_some(false),
                subscription_identifiers_available: (!limits.subscription_identifiers_available)
                    .then_some(false),
                shared_subscription_available: (!limits.shared_subscription_available)
                    .then_some(false),
                // [MQTT-3.2.2-21]
                server_keep_alive_seconds: terms.server_keep_alive_seconds,
                // [MQTT-4.12.0-5]
                authentication_method: connect.properties.authentication_method,
                authentication_data: grant.data.as_deref(),
                ..ConnAckProperties::default()
            };
        }
        connack
    }

    /// CONNACK with a refusal, then close [MQTT-3.1.4-2].
    pub(crate) fn refuse(&mut self, id: ConnectionId, connect: &Connect<'_>, refusal: Refusal) {
        let (client_id, user) = (Some(connect.client_id), connect.username);
        self.audit_connection(id, client_id, user, AuditEvent::Refused(refusal));
        self.refuse_unnamed(id, connect.version, refusal);
    }

    /// The same for whoever has not said a name, or not for the first time.
    pub(crate) fn refuse_unnamed(
        &mut self,
        id: ConnectionId,
        version: ProtocolVersion,
        refusal: Refusal,
    ) {
        self.counters.connects_refused[refusal_of(refusal.reason_code) as usize] += 1;
        self.note_refused_connect(id);
        self.counters.closed_refused += 1;
        self.note(id, Event::Refused(refusal));
        if refusal.reason_code == ReasonCode::BadUserNameOrPassword {
            self.note_failed_login(id);
        }
        self.write_refusal(id, version, refusal.reason_code, refusal.reason);
        self.close(id);
    }

    fn write_refusal(
        &mut self,
        id: ConnectionId,
        version: ProtocolVersion,
        reason_code: ReasonCode,
        reason: &str,
    ) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        // [MQTT-3.2.2-6]
        let mut connack = ConnAck::new(false, reason_code);
        connection.version = version;
        if version.is_v5() {
            connack.properties.reason_string = Some(reason);
            if self.wire.answer(id, connection, |version, out| connack.encode(version, out)) {
                return;
            }
            // [MQTT-3.2.2-19]: what explains is left out when it does not fit.
            connack.properties.reason_string = None;
        }
        self.wire.answer(id, connection, |version, out| connack.encode(version, out));
    }

    /// A first packet that is no acceptable CONNECT.
    pub(crate) fn refuse_malformed_connect(
        &mut self,
        id: ConnectionId,
        raw: RawPacket<'_>,
        error: DecodeError,
    ) {
        self.note(id, Event::PeerError(PeerError::Decode(error)));
        self.counters.malformed_packets += 1;
        self.note_failed_login(id);
        let claimed = Connect::claimed_version(raw);
        if error.kind() == ErrorKind::UnsupportedProtocolVersion {
            // [MQTT-3.1.2-2 @3.1.1] [MQTT-3.1.2-2]: in the form that every older client knows.
            if error == DecodeError::ProtocolVersionUnsupported {
                let version = claimed.unwrap_or(ProtocolVersion::V311);
                let reason = "this protocol version is not supported";
                self.write_refusal(id, version, ReasonCode::UnsupportedProtocolVersion, reason);
            }
        } else if claimed == Some(ProtocolVersion::V5) {
            // A CONNACK may say why [MQTT-4.13.1-1]; older clients are just closed [MQTT-3.1.4-1 @3.1.1].
            let reason = error.sentence();
            self.write_refusal(id, ProtocolVersion::V5, error.reason_code(), reason);
        }
        self.close(id);
    }

    /// Says DISCONNECT with a reason to a 5.0 client; an older one can only be closed.
    pub(crate) fn disconnect(&mut self, id: ConnectionId, reason_code: ReasonCode, why: &str) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.state != State::Connected || !connection.version.is_v5() {
            return;
        }
        let mut disconnect = Disconnect::new(reason_code);
        disconnect.reason_string = Some(why);
        if self.wire.answer(id, connection, |version, out| disconnect.encode(version, out)) {
            return;
        }
        // [MQTT-3.14.2-3]: what explains is left out when it does not fit.
        disconnect.reason_string = None;
        self.wire.answer(id, connection, |version, out| disconnect.encode(version, out));
    }
}

/// Under which reason a refusal is counted.
fn refusal_of(reason_code: ReasonCode) -> ConnectRefusal {
    match reason_code {
        ReasonCode::UnsupportedProtocolVersion => ConnectRefusal::ProtocolVersion,
        ReasonCode::ClientIdentifierNotValid => ConnectRefusal::ClientId,
        ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => {
            ConnectRefusal::Credentials
        }
        ReasonCode::NotAuthorized | ReasonCode::Banned => ConnectRefusal::NotAuthorized,
        ReasonCode::QuotaExceeded | ReasonCode::ConnectionRateExceeded => ConnectRefusal::Quota,
        ReasonCode::ServerUnavailable | ReasonCode::ServerBusy => ConnectRefusal::Unavailable,
        _ => ConnectRefusal::Other,
    }
}

/// What a 5.0 client is told its publications' acknowledgements wait for.
fn said_level(keeping: Keeping) -> &'static [(&'static str, &'static str)] {
    match keeping {
        Keeping::Memory => &[("acknowledge-after", "memory")],
        Keeping::Written => &[("acknowledge-after", "written")],
        Keeping::Fsync => &[("acknowledge-after", "fsync")],
    }
}
