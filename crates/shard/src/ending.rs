//! The ends of things: packets that break a rule, connections, sessions, wills.

use std::sync::Arc;

use midge_codec::{Disconnect, ErrorKind, QoS, ReasonCode};
use midge_session::Refusal;
use midge_session::session::NEVER;

use crate::action::{Action, Event, PeerError, Violation};
use crate::audit::AuditEvent;
use crate::connection::{Flags, State};
use crate::durable::Late;
use crate::envelope::ShareMember;
use crate::explain;
use crate::ids::{ConnectionId, SessionId};
use crate::own;
use crate::receive::Handled;
use crate::sessions::Away;
use crate::shard::Shard;
use crate::tally::{InLog, Load, set_state};
use crate::wheel::{Entry, Subject};

/// How long a closing connection may take to send its last words, in milliseconds.
const LAST_WORDS_MS: u64 = 5_000;

/// How long a client that has said DISCONNECT may take to close, in milliseconds, before we do.
///
/// A client must close after its DISCONNECT [MQTT-3.14.4-1], and nearly always has by the time we read it. Whoever closes
/// first keeps the socket in TIME-WAIT, and a receive that ends by itself need not be cancelled: waiting for
/// the client saves both.
const LINGER_MS: u64 = 100;

/// What a connection's end means for the will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WillCase {
    /// The connection was lost, or closed by us, or the client asked for it (0x04): publish it after its delay.
    Published,
    /// The client said goodbye: forget it [MQTT-3.14.4-3].
    Discarded,
    /// The same client is back and goes on with the session: a will with a delay is forgotten, one without goes out.
    ConnectionResumed,
    /// The session ends now: it goes out [MQTT-3.1.2-8].
    SessionEnds,
}

impl Shard {
    /// The peer broke a rule: say so (5.0), close, count, note.
    pub(crate) fn fail(&mut self, id: ConnectionId, error: PeerError) {
        let reason_code = match error {
            PeerError::Decode(error) => {
                match error.kind() {
                    ErrorKind::MalformedPacket => self.counters.malformed_packets += 1,
                    _ => self.counters.protocol_errors += 1,
                }
                error.reason_code()
            }
            PeerError::Protocol(violation) => {
                self.counters.protocol_errors += 1;
                violation.reason_code()
            }
        };
        self.note(id, Event::PeerError(error));
        self.disconnect(id, reason_code, explain::of_error(error));
        self.leave(id, WillCase::Published);
    }

    /// The socket is gone; whether that is the end of the connection, or came after it.
    pub(crate) fn count_lost(&mut self, id: ConnectionId) {
        if self.connections.get(id.0).is_some_and(|connection| !connection.is_ending()) {
            self.counters.closed_lost += 1;
        }
    }

    /// DISCONNECT from the client.
    pub(crate) fn handle_disconnect(
        &mut self,
        id: ConnectionId,
        disconnect: &Disconnect<'_>,
    ) -> Handled {
        let Some(connection) = self.connections.get(id.0) else { return Ok(()) };
        let Some(session) = connection.session else { return Ok(()) };
        if !client_may_send(disconnect.reason_code) || disconnect.server_reference.is_some() {
            return Err(Violation::ServerDisconnect.into());
        }
        if let Some(expiry) = disconnect.session_expiry_interval_seconds {
            // [MQTT-3.1.2-11]: once zero, it stays zero.
            if connection.flags.has(Flags::NO_EXPIRY_AT_CONNECT) && expiry != 0 {
                return Err(Violation::SessionExpiryRaised.into());
            }
            let maximum = self.settings.limits.session_expiry_interval_seconds_max;
            if let Some(entry) = self.sessions.get_mut(session) {
                entry.session.expiry_interval_seconds = expiry.min(maximum);
            }
        }
        // [MQTT-3.14.4-3]: only a normal disconnection takes the will back.
        let case =
            if disconnect.reason_code == ReasonCode::Success && !mutant!("goodbye-keeps-will") {
                WillCase::Discarded
            } else {
                WillCase::Published
            };
        self.detach(id, case);
        self.linger(id);
        Ok(())
    }

    /// Leaves the closing to the client, for a moment.
    fn linger(&mut self, id: ConnectionId) {
        let serial = self.next_serial();
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        set_state(connection, State::Closing, &mut self.counters);
        self.counters.closed_by_client += 1;
        connection.flags.set(Flags::LINGERING, true);
        connection.serial = serial;
        connection.input = None;
        connection.extra = None;
        let entry = Entry::new(Subject::Connection, id.0, serial);
        self.wheel.insert(now.plus_millis(LINGER_MS), entry);
    }

    /// Takes a connection from its session and closes it once its output is sent.
    pub(crate) fn leave(&mut self, id: ConnectionId, case: WillCase) {
        self.detach(id, case);
        self.close(id);
    }

    fn detach(&mut self, id: ConnectionId, case: WillCase) {
        if let Some(session) = self.connections.get(id.0).and_then(|c| c.session) {
            let said_goodbye = case == WillCase::Discarded;
            self.audit_session(session, || AuditEvent::Disconnected { said_goodbye });
        }
        let session = self.connections.get_mut(id.0).and_then(|c| c.session.take());
        if let Some(session) = session {
            self.keep_unanswered(id, session);
            self.session_left(session, case);
        }
    }

    /// The connection that served a session is gone.
    fn session_left(&mut self, id: SessionId, case: WillCase) {
        let now = self.now;
        let Some(entry) = self.sessions.get_mut(id) else { return };
        entry.connection = None;
        entry.since_seconds = now.as_seconds() as u32;
        if let Some(outbound) = entry.session.outbound.as_mut() {
            outbound.disconnected();
        }
        entry.session.release_idle();
        self.unload_backlog(id);
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let expiry = entry.session.expiry_interval_seconds;
        let delay = entry.session.will_delay_seconds().unwrap_or(0);
        let delay = if mutant!("will-at-once") { 0 } else { delay };
        match case {
            WillCase::Published if mutant!("will-forgotten") => entry.session.will = None,
            WillCase::Discarded => entry.session.will = None,
            WillCase::ConnectionResumed if delay > 0 => entry.session.will = None,
            WillCase::Published if delay > 0 => {}
            WillCase::Published | WillCase::ConnectionResumed | WillCase::SessionEnds => {
                self.publish_will(id);
            }
        }
        if expiry == 0 || case == WillCase::SessionEnds {
            self.end_session(id);
            return;
        }
        let timer_serial = self.next_serial();
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let away = Away {
            timer_serial,
            since: now,
            expires_at: (expiry != NEVER).then(|| now.plus_seconds(expiry.into())),
            will_at: entry.session.will.is_some().then(|| now.plus_seconds(delay.into())),
        };
        entry.away = Some(Box::new(away));
        if let Some(deadline) = away.next()
            && !mutant!("sessions-stay")
        {
            self.wheel.insert(deadline, Entry::new(Subject::Session, id.0, timer_serial));
        }
        self.note_terms(id);
        self.tell_choosers(id);
    }

    /// Publishes a session's will now, if it has one.
    pub(crate) fn publish_will(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let Some(will) = entry.session.will.take() else { return };
        if mutant!("will-twice") {
            entry.session.will = Some(will.clone());
        }
        // The right may have been taken back since the will was accepted; a log of an earlier version may have one that nobody has.
        if own::is_own(&will.topic) || !self.may_write(id, &will.topic) {
            return;
        }
        let author = self.author(id, will.retain);
        let publication = Arc::new(will.publication(self.now).written_by(author));
        self.counters.wills_published += 1;
        // The will's own session may be subscribed to it: no-local counts for it as for any publication of the client.
        let busy = self.route(&publication, Some(id), false, true).busy;
        if let (true, Some(durable)) = (busy, &mut self.durable) {
            durable.late.push_back(Late::Publication(publication, Some(id)));
        }
        self.note_terms(id);
    }

    /// A session's end: its subscriptions, its queue, its place in shared groups, its waiting will.
    pub(crate) fn end_session(&mut self, id: SessionId) {
        // A will that waits is published when the session ends [MQTT-3.1.2-8].
        self.publish_will(id);
        let Some(reference) = self.sessions.reference(id) else { return };
        let Some(mut entry) = self.sessions.retire(id) else { return };
        if let Some(outbound) = &entry.session.outbound {
            Load::of(outbound).has_become(Load::NOTHING, &mut self.counters);
            InLog::of(outbound).has_become(InLog::NOTHING, &mut self.counters);
        }
        self.guards.remove(id);
        debug_assert!(entry.connection.is_none());
        self.forget_session(&entry);
        let back = entry.session.outbound.take().map(|outbound| outbound.into_undelivered());
        for delivery in back.into_iter().flatten() {
            if mutant!("share-not-returned") {
                continue;
            }
            if let Some(group) = delivery.share().cloned()
                && delivery.qos > QoS::AtMostOnce
            {
                let member = ShareMember { group, session: reference };
                self.return_shared(member, delivery.publication, Vec::new());
            }
        }
        self.leave_subscriptions(reference, &entry);
    }

    /// A session's timer has fired.
    pub(crate) fn session_timer(&mut self, id: SessionId, entry: Entry) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(away) = session.away.as_mut() else { return };
        if !entry.is_for(away.timer_serial) {
            return;
        }
        let expired = away.expires_at.is_some_and(|at| at <= now);
        let will_due = away.will_at.is_some_and(|at| at <= now);
        if will_due {
            away.will_at = None;
        }
        let next = away.next();
        if will_due {
            self.publish_will(id);
        }
        if expired {
            self.counters.sessions_expired += 1;
            self.end_session(id);
        } else if let Some(next) = next {
            self.wheel.insert(next, entry);
        }
    }

    /// A connection's timer has fired.
    pub(crate) fn connection_timer(&mut self, id: ConnectionId, entry: Entry) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if !entry.is_for(connection.serial) {
            return;
        }
        match connection.state {
            State::Handshaking | State::Authenticating | State::Exchanging => {
                self.counters.connect_timeouts += 1;
                self.note(id, Event::ConnectTimeout);
                self.close(id);
            }
            State::Connected if connection.valid_until().is_some_and(|until| until <= now) => {
                let reason = "what the client showed at its login is no longer valid";
                let reason_code = ReasonCode::NotAuthorized;
                self.note(id, Event::Refused(Refusal { reason_code, reason }));
                self.disconnect(id, reason_code, reason);
                self.leave(id, WillCase::Published);
            }
            State::Connected => {
                if connection.has_later_timer(now) {
                    return;
                }
                let silent = connection.keep_alive_deadline(now).is_some_and(|at| at <= now);
                let next = connection.next_deadline(now);
                connection.note_timer(next);
                let Some(deadline) = next else { return };
                let flags = connection.flags;
                // Its output waits for the log, and not for the client.
                let held = flags.has(Flags::CHOKED) && !flags.has(Flags::SENDING);
                if !silent {
                    self.wheel.insert(deadline, entry);
                } else if held || flags.has(Flags::PARKED | Flags::PACED | Flags::RUNNABLE) {
                    // We do not read from it, or have not looked yet at what we kept of it: its silence is ours. (Not so when
                    // it is choked: then it does not read from us, and each send that it takes counts as a sign of life.)
                    connection.hear(now);
                    let deadline = connection.next_deadline(now).unwrap_or(now);
                    connection.note_timer(Some(deadline));
                    self.wheel.insert(deadline, entry);
                } else {
                    // [MQTT-3.1.2-22]
                    self.counters.keep_alive_timeouts += 1;
                    self.note(id, Event::KeepAliveTimeout);
                    self.disconnect(
                        id,
                        ReasonCode::KeepAliveTimeout,
                        "nothing came for one and a half keep alives",
                    );
                    self.leave(id, WillCase::Published);
                }
            }
            State::Closing => self.close_now(id),
            State::HandingOver | State::Closed => {}
        }
    }

    /// Closes a connection when its output has left, or at once when there is none.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if matches!(connection.state, State::Closing | State::Closed) {
            return;
        }
        if connection.is_unproven() {
            self.unproven.bytes -= connection.unproven_size();
        }
        connection.input = None;
        connection.extra = None;
        let quiet = connection.output_size() == 0 && !connection.flags.has(Flags::SENDING);
        set_state(connection, State::Closing, &mut self.counters);
        if quiet {
            self.close_now(id);
        } else {
            let serial = self.next_serial();
            if let Some(connection) = self.connections.get_mut(id.0) {
                connection.serial = serial;
            }
            let entry = Entry::new(Subject::Connection, id.0, serial);
            self.wheel.insert(now.plus_millis(LAST_WORDS_MS), entry);
        }
    }

    pub(crate) fn close_now(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if connection.state != State::Closed {
            set_state(connection, State::Closed, &mut self.counters);
            connection.input = None;
            let held = connection.gate.take().and_then(|mut gate| gate.take_held());
            for output in connection.output.take().into_iter().chain(held) {
                self.wire.recycle(output);
            }
            self.actions.push_back(Action::Close(id));
        }
    }
}

/// Reason codes of a client's DISCONNECT (5.0 §3.14.2.1). Earlier versions have none, which reads as success.
fn client_may_send(reason_code: ReasonCode) -> bool {
    matches!(
        reason_code,
        ReasonCode::Success
            | ReasonCode::DisconnectWithWill
            | ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::TopicNameInvalid
            | ReasonCode::ReceiveMaximumExceeded
            | ReasonCode::TopicAliasInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::QuotaExceeded
            | ReasonCode::AdministrativeAction
            | ReasonCode::PayloadFormatInvalid
    )
}
