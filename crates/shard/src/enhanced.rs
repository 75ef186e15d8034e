//! Enhanced authentication (5.0 §4.12): AUTH packets, before CONNACK and on a connection that is there.
//!
//! ```text
//!  CONNECT method, data  ──> asked ──> AUTH 0x18 ──> Exchanging ──> AUTH 0x18 ──> asked ──> CONNACK method, data
//!  AUTH 0x19             ──> asked ──> AUTH 0x18 ──>  (as ever)  ──> AUTH 0x18 ──> asked ──> AUTH 0x00
//! ```
//!
//! A token says everything at once: there the AUTH 0x18 in the middle are left out. What comes with the later login takes the
//! place of what came with the earlier: what the client may do, and for how long.
//!
//! Before CONNACK nothing else is read meanwhile; on a connection that is there everything goes on. A client that fails to
//! authenticate again is disconnected [MQTT-4.12.1-2], and so is one that turns out to be another user.

use std::net::SocketAddr;

use midge_auth::{Challenge, Exchange, Login, Next, Shown, Step, Verdict};
use midge_codec::{
    Auth, Connect, Framed, Packet, ProtocolVersion, RawPacket, ReasonCode, decode, frame,
};
use midge_session::{Refusal, Time};

use crate::action::{Action, Event, PeerError, Violation};
use crate::audit::AuditEvent;
use crate::connection::{Connection, State};
use crate::ending::WillCase;
use crate::explain;
use crate::ids::ConnectionId;
use crate::login::PendingLogin;
use crate::receive::Handled;
use crate::shard::Shard;
use crate::tally::set_state;
use crate::wheel::{Entry, Subject};

/// What a connected client that named a method may do again.
#[derive(Debug)]
pub(crate) struct Enhanced {
    method: Box<str>,
    /// The user name of the CONNECT.
    user: Option<Box<str>>,
    stage: Stage,
    /// When the one timer fires that counts. A login that ends sooner than the one before brings a timer of its own; the other
    /// one is dropped when it fires.
    timer_at: Option<Time>,
}

impl Enhanced {
    pub(crate) fn new(method: &str, user: Option<&str>) -> Self {
        Self {
            method: method.into(),
            user: user.map(Into::into),
            stage: Stage::Idle,
            timer_at: None,
        }
    }
}

/// How far it is with that.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Somebody is asked.
    Asked,
    /// The client has to say more.
    Challenged(Box<Exchange>),
}

impl Shard {
    /// Before CONNACK: the client is told to say more, and is read from again.
    pub(crate) fn challenge(
        &mut self,
        id: ConnectionId,
        mut pending: Box<PendingLogin>,
        method: Option<Box<str>>,
        challenge: Challenge,
    ) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.version = ProtocolVersion::V5;
        let auth = saying(method.as_deref(), ReasonCode::ContinueAuthentication, &challenge.data);
        if !self.wire.answer(id, connection, |_, out| auth.encode(out)) {
            let reason = "the client's maximum packet size leaves no room for AUTH";
            let reason_code = ReasonCode::ImplementationSpecificError;
            let refusal = Refusal { reason_code, reason };
            self.audit_connection(id, None, None, AuditEvent::Refused(refusal));
            return self.refuse_unnamed(id, ProtocolVersion::V5, refusal);
        }
        pending.exchange = Some(Box::new(challenge.exchange));
        set_state(connection, State::Exchanging, &mut self.counters);
        self.keep_login(id, pending);
        self.actions.push_back(Action::Receive(id));
    }

    /// Before CONNACK: an AUTH, or a goodbye.
    pub(crate) fn handle_step(&mut self, id: ConnectionId, raw: RawPacket<'_>) {
        let auth = match decode(raw, ProtocolVersion::V5) {
            Ok(Packet::Auth(auth)) => auth,
            Ok(Packet::Disconnect(_)) => return self.close(id),
            Ok(_) => return self.refuse_step(id, Violation::AuthenticationMisplaced),
            Err(error) => {
                self.note(id, Event::PeerError(PeerError::Decode(error)));
                let reason = error.sentence();
                let refusal = Refusal { reason_code: error.reason_code(), reason };
                self.audit_connection(id, None, None, AuditEvent::Refused(refusal));
                return self.refuse_unnamed(id, ProtocolVersion::V5, refusal);
            }
        };
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(pending) = connection.extra.as_mut().and_then(|extra| extra.login.as_mut()) else {
            return self.close(id);
        };
        let Ok(Framed::Packet(raw)) = frame(&pending.connect, u32::MAX) else {
            return self.close(id);
        };
        let Ok(connect) = Connect::decode(raw) else { return self.close(id) };
        // [MQTT-4.12.0-5]
        let fits = auth.reason_code == ReasonCode::ContinueAuthentication
            && auth.authentication_method == connect.properties.authentication_method;
        let (true, Some(exchange), Some(data)) =
            (fits, pending.exchange.as_ref(), auth.authentication_data)
        else {
            return self.refuse_step(id, Violation::AuthenticationMisplaced);
        };
        let step = Step::Final(exchange.clone(), data.into());
        let Some(login) = self.login_again(id, method_of(&auth), None, step) else {
            return self.refuse_step(id, Violation::AuthenticationMisplaced);
        };
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        set_state(connection, State::Authenticating, &mut self.counters);
        let serial = connection.serial;
        self.actions.push_back(Action::Pause(id));
        self.actions.push_back(Action::Authenticate { connection: id, serial, login });
    }

    /// Before CONNACK: what came is not what was to come.
    pub(crate) fn refuse_step(&mut self, id: ConnectionId, violation: Violation) {
        let error = PeerError::Protocol(violation);
        self.counters.protocol_errors += 1;
        self.note(id, Event::PeerError(error));
        let (reason_code, reason) = (violation.reason_code(), explain::of_error(error));
        let refusal = Refusal { reason_code, reason };
        self.audit_connection(id, None, None, AuditEvent::Refused(refusal));
        self.refuse_unnamed(id, ProtocolVersion::V5, refusal);
    }

    /// AUTH on a connection that is there.
    pub(crate) fn handle_auth(&mut self, id: ConnectionId, auth: &Auth<'_>) -> Handled {
        let Some(connection) = self.connections.get_mut(id.0) else { return Ok(()) };
        let Some(enhanced) = connection.extra.as_mut().and_then(|extra| extra.enhanced.as_mut())
        else {
            return Err(Violation::AuthenticationNotStarted.into());
        };
        // [MQTT-4.12.1-1]
        let Some(data) = auth.authentication_data.filter(|_| method_of(auth) == &*enhanced.method)
        else {
            return Err(Violation::AuthenticationMisplaced.into());
        };
        let stage = std::mem::replace(&mut enhanced.stage, Stage::Asked);
        let step = match (auth.reason_code, stage) {
            (ReasonCode::ReAuthenticate, Stage::Idle) => Step::First(data.into()),
            (ReasonCode::ContinueAuthentication, Stage::Challenged(exchange)) => {
                Step::Final(exchange, data.into())
            }
            _ => return Err(Violation::AuthenticationMisplaced.into()),
        };
        let serial = connection.serial;
        let user = enhanced.user.clone();
        match self.login_again(id, method_of(auth), user, step) {
            Some(login) => {
                self.actions.push_back(Action::Authenticate { connection: id, serial, login });
            }
            // The chain has changed since.
            None => self.fail_again(id, ReasonCode::NotAuthorized),
        }
        Ok(())
    }

    /// Who is asked about a further step of a method, and what.
    fn login_again(
        &self,
        id: ConnectionId,
        method: &str,
        user: Option<Box<str>>,
        step: Step,
    ) -> Option<Box<Login>> {
        let connection = self.connections.get(id.0)?;
        let chain = self.security.chain(connection.listener)?;
        let method = Some(method);
        let shown = Shown { user: None, password: false, method, certificate: &|_| None };
        let Next::Ask(asked, _) = chain.next(0, shown) else { return None };
        let entry = connection.session.and_then(|session| self.sessions.get(session));
        Some(Box::new(Login {
            asked,
            listener: connection.listener.0,
            peer: SocketAddr::from(connection.peer).ip(),
            client_id: entry.map(|entry| entry.session.client_id.clone()).unwrap_or_default(),
            user,
            password: None,
            common_name: None,
            step: Some(step),
        }))
    }

    /// The verdict about a connected client that authenticates again.
    pub(crate) fn conclude_again(&mut self, id: ConnectionId, verdict: Verdict) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(session) = connection.session else { return };
        let Some(enhanced) = connection.extra.as_mut().and_then(|extra| extra.enhanced.as_mut())
        else {
            return;
        };
        if !matches!(enhanced.stage, Stage::Asked) {
            return;
        }
        let method = enhanced.method.clone();
        let (reason_code, data) = match verdict {
            Verdict::Continue(challenge) => {
                enhanced.stage = Stage::Challenged(Box::new(challenge.exchange));
                (ReasonCode::ContinueAuthentication, Some(challenge.data))
            }
            // A session stays whose it is.
            Verdict::Granted(grant) if self.guards.user(session) == grant.user.as_deref() => {
                enhanced.stage = Stage::Idle;
                self.guards.log_in(session, &grant);
                self.note_author_of_will(session);
                let Some(connection) = self.connections.get_mut(id.0) else { return };
                connection.set_valid_for(grant.valid_for_seconds, self.now);
                self.hasten_timer(id);
                (ReasonCode::Success, grant.data)
            }
            Verdict::Granted(_) | Verdict::Refused | Verdict::Unknown => {
                return self.fail_again(id, ReasonCode::NotAuthorized);
            }
            Verdict::Busy | Verdict::Unavailable => {
                return self.fail_again(id, ReasonCode::ServerBusy);
            }
        };
        let mut auth = saying(Some(&method), reason_code, data.as_deref().unwrap_or_default());
        auth.authentication_data = auth.authentication_data.filter(|_| data.is_some());
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        // What is left out because the client has no room for it, the client misses.
        if !self.wire.answer(id, connection, |_, out| auth.encode(out)) {
            self.fail_again(id, ReasonCode::PacketTooLarge);
        }
    }

    /// A connection's timer must fire sooner than it would: what its client has shown now ends sooner than what it had.
    fn hasten_timer(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(deadline) = connection.next_deadline(self.now) else { return };
        let serial = connection.serial;
        let Some(enhanced) = connection.enhanced() else { return };
        if enhanced.timer_at.is_none_or(|at| deadline < at) {
            enhanced.timer_at = Some(deadline);
            self.wheel.insert(deadline, Entry::new(Subject::Connection, id.0, serial));
        }
    }

    /// [MQTT-4.12.1-2]
    fn fail_again(&mut self, id: ConnectionId, reason_code: ReasonCode) {
        let reason = "authentication failed";
        self.note(id, Event::Refused(Refusal { reason_code, reason }));
        self.disconnect(id, reason_code, reason);
        self.leave(id, WillCase::Published);
    }
}

impl Connection {
    fn enhanced(&mut self) -> Option<&mut Enhanced> {
        self.extra.as_mut()?.enhanced.as_deref_mut()
    }

    /// Its timer is in the wheel, until then; `None`: it is not.
    pub(crate) fn note_timer(&mut self, at: Option<Time>) {
        if let Some(enhanced) = self.enhanced() {
            enhanced.timer_at = at;
        }
    }

    /// Whether a timer that fires now is one that another has replaced.
    pub(crate) fn has_later_timer(&mut self, now: Time) -> bool {
        self.enhanced().is_some_and(|enhanced| enhanced.timer_at.is_some_and(|at| at > now))
    }
}

fn saying<'a>(method: Option<&'a str>, reason_code: ReasonCode, data: &'a [u8]) -> Auth<'a> {
    Auth {
        reason_code,
        authentication_method: method,
        authentication_data: Some(data),
        ..Auth::default()
    }
}

fn method_of<'a>(auth: &Auth<'a>) -> &'a str {
    auth.authentication_method.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use midge_codec::{ConnAck, ConnectProperties, Disconnect};

    use super::*;
    use crate::regression::Broker;
    use crate::{ListenerId, Security, Settings};

    const METHOD: &str = "SCRAM-SHA-256";
    const V5: ProtocolVersion = ProtocolVersion::V5;

    fn broker() -> Broker {
        let links = [midge_auth::Link::Ask(midge_auth::Authenticator::Scram)];
        let chains = std::sync::Arc::new([midge_auth::Chain::new(&links)]);
        let security = Security { chains, ..Security::default() };
        Broker::new(1, Settings { security, ..Settings::default() })
    }

    /// A verdict that asks for more: what the exchange holds does not matter to the shard.
    fn more() -> Verdict {
        let file = midge_auth::ScramFile::parse("").unwrap();
        let (exchange, data) = Exchange::begin(&file, b"n,,n=anna,r=x", "y").unwrap();
        Verdict::Continue(Box::new(Challenge { data, exchange }))
    }

    fn hello() -> Vec<u8> {
        let mut bytes = Vec::new();
        let properties = ConnectProperties {
            authentication_method: Some(METHOD),
            authentication_data: Some(b"first"),
            ..ConnectProperties::default()
        };
        Connect { properties, ..Connect::new(V5, "c") }.encode(&mut bytes);
        bytes
    }

    fn auth(reason_code: ReasonCode) -> Vec<u8> {
        let mut bytes = Vec::new();
        saying(Some(METHOD), reason_code, b"data").encode(&mut bytes);
        bytes
    }

    impl Broker {
        fn arrives(&mut self, bytes: &[u8]) {
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            self.shards[0].handle_accepted(ConnectionId(1), peer, ListenerId(0), self.now);
            self.says(bytes);
        }

        fn says(&mut self, bytes: &[u8]) {
            self.receive(0, 1, bytes);
            self.shards[0].check_integrity();
        }

        /// Answers the one question that is open; says whether it was one about a first message.
        fn answers(&mut self, verdict: Verdict) -> bool {
            let asked = self.actions(0).into_iter().find_map(|action| match action {
                Action::Authenticate { connection, serial, login } => {
                    Some((connection, serial, login))
                }
                _ => None,
            });
            let (connection, serial, login) = asked.expect("somebody is asked");
            self.shards[0].handle_authenticated(connection, serial, verdict, self.now);
            self.shards[0].check_integrity();
            matches!(login.step, Some(Step::First(_)))
        }

        /// The type, and the reason code, of each packet that was sent.
        fn told(&mut self) -> Vec<(u8, ReasonCode)> {
            let bytes = self.sent(0, 1);
            let mut rest = &bytes[..];
            let mut told = Vec::new();
            while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
                rest = &rest[raw.size..];
                let code = match raw.first_byte >> 4 {
                    2 => ConnAck::decode(raw, V5).unwrap().reason_code,
                    14 => Disconnect::decode(raw, V5).unwrap().reason_code,
                    15 => Auth::decode(raw, V5).unwrap().reason_code,
                    _ => ReasonCode::Success,
                };
                told.push((raw.first_byte >> 4, code));
            }
            told
        }
    }

    /// Each step is asked about once, also when it comes in pieces and together with what follows.
    #[test]
    fn steps_come_in_pieces_and_together() {
        let mut broker = broker();
        let bytes = [hello(), auth(ReasonCode::ContinueAuthentication)].concat();
        let (first, second) = bytes.split_at(bytes.len() - 3);
        broker.arrives(&first[..5]);
        broker.says(&first[5..]);
        assert!(broker.answers(more()));
        assert_eq!(broker.told(), [(15, ReasonCode::ContinueAuthentication)]);
        broker.says(second);
        broker.says(&[0xc0, 0]);
        assert!(!broker.answers(Verdict::user("anna")));
        assert_eq!(broker.told(), [(2, ReasonCode::Success), (13, ReasonCode::Success)]);
    }

    /// [MQTT-3.1.2-30] [MQTT-4.12.0-4]
    #[test]
    fn nothing_else_comes_before_connack() {
        let again = auth(ReasonCode::ReAuthenticate);
        let mut long = Vec::new();
        saying(Some(METHOD), ReasonCode::ContinueAuthentication, &[0; 10_000]).encode(&mut long);
        for bytes in [&[0xc0, 0][..], &again, &long, &hello(), &[0xf0, 0], &[0xff; 9]] {
            let mut broker = broker();
            broker.arrives(&hello());
            broker.answers(more());
            broker.told();
            broker.says(bytes);
            let told = broker.told();
            assert!(matches!(told[..], [(2, code)] if code != ReasonCode::Success), "{told:?}");
            let actions = broker.actions(0);
            assert!(!actions.iter().any(|a| matches!(a, Action::Authenticate { .. })));
        }
    }

    /// [MQTT-4.12.1-2]: failing again, or being somebody else, ends the connection.
    #[test]
    fn again_it_must_be_the_same_user() {
        for (verdict, expected) in [
            (Verdict::user("anna"), (15, ReasonCode::Success)),
            (Verdict::user("ben"), (14, ReasonCode::NotAuthorized)),
            (Verdict::Refused, (14, ReasonCode::NotAuthorized)),
            (Verdict::Unknown, (14, ReasonCode::NotAuthorized)),
            (Verdict::Busy, (14, ReasonCode::ServerBusy)),
        ] {
            let mut broker = broker();
            broker.arrives(&hello());
            broker.answers(Verdict::user("anna"));
            assert_eq!(broker.told(), [(2, ReasonCode::Success)]);
            broker.says(&auth(ReasonCode::ReAuthenticate));
            assert!(broker.answers(more()));
            assert_eq!(broker.told(), [(15, ReasonCode::ContinueAuthentication)]);
            broker.says(&[&[0xc0, 0][..], &auth(ReasonCode::ContinueAuthentication)].concat());
            assert!(!broker.answers(verdict));
            assert_eq!(broker.told()[1..], [expected]);
        }
    }

    fn valid_for(seconds: u64) -> Verdict {
        let user = Some("anna".into());
        let grant = midge_auth::Grant {
            user,
            valid_for_seconds: Some(seconds),
            ..midge_auth::Grant::default()
        };
        Verdict::Granted(Box::new(grant))
    }

    /// A later login says anew how long it is good for: longer, shorter, for ever; and timers do not add up.
    #[test]
    fn a_later_login_counts_from_then_on() {
        let mut broker = broker();
        broker.arrives(&hello());
        broker.answers(valid_for(10));
        assert_eq!(broker.told(), [(2, ReasonCode::Success)]);
        let again = |broker: &mut Broker, verdict| {
            broker.says(&auth(ReasonCode::ReAuthenticate));
            assert!(broker.answers(verdict));
            assert_eq!(broker.told(), [(15, ReasonCode::Success)]);
        };
        let passes = |broker: &mut Broker, seconds: u64| {
            for _ in 0..4 * seconds {
                broker.now = broker.now.plus_millis(250);
                broker.shards[0].handle_turn(broker.now);
            }
            broker.told()
        };
        assert_eq!(passes(&mut broker, 9), []);
        again(&mut broker, valid_for(100));
        assert_eq!(passes(&mut broker, 90), []);
        again(&mut broker, valid_for(5000));
        assert_eq!(passes(&mut broker, 100), []);
        for seconds in (1..100).rev() {
            again(&mut broker, valid_for(4000 + seconds));
        }
        assert!(broker.shards[0].wheel.len() > 90, "each ended sooner than the one before");
        again(&mut broker, valid_for(9000));
        assert_eq!(passes(&mut broker, 5000), []);
        assert!(broker.shards[0].wheel.len() <= 2, "{}", broker.shards[0].wheel.len());
        again(&mut broker, Verdict::user("anna"));
        assert_eq!(passes(&mut broker, 5000), []);
        again(&mut broker, valid_for(20));
        again(&mut broker, valid_for(5));
        assert_eq!(passes(&mut broker, 4), []);
        assert_eq!(passes(&mut broker, 2), [(14, ReasonCode::NotAuthorized)]);
    }

    /// The rights of the earlier token are gone with it.
    #[test]
    fn what_a_later_login_may_do_counts_from_then_on() {
        let may = |topic: &str| {
            let rule = midge_auth::Rule {
                access: midge_auth::Access::Write,
                filter: topic.into(),
                pattern: false,
                line: 1,
            };
            let rights = midge_auth::GrantedRights {
                limited: true,
                rules: [rule].into(),
                ..midge_auth::GrantedRights::default()
            };
            let user = Some("anna".into());
            let rights = Some(std::sync::Arc::new(rights));
            let grant = midge_auth::Grant { user, rights, ..midge_auth::Grant::default() };
            Verdict::Granted(Box::new(grant))
        };
        let mut broker = broker();
        broker.arrives(&hello());
        broker.answers(may("a"));
        broker.told();
        let publish = |broker: &mut Broker, topic: u8| {
            broker.says(&[0x30, 5, 0, 1, topic, 0, b'x']);
            broker.shards[0].counters().publishes_denied
        };
        assert_eq!((publish(&mut broker, b'a'), publish(&mut broker, b'b')), (0, 1));
        broker.says(&auth(ReasonCode::ReAuthenticate));
        assert!(broker.answers(may("b")));
        assert_eq!((publish(&mut broker, b'b'), publish(&mut broker, b'a')), (1, 2));
    }

    /// [MQTT-4.12.1-1]
    #[test]
    fn one_at_a_time() {
        for (first, second) in [
            (ReasonCode::ContinueAuthentication, None),
            (ReasonCode::ReAuthenticate, Some(ReasonCode::ReAuthenticate)),
            (ReasonCode::ReAuthenticate, Some(ReasonCode::ContinueAuthentication)),
        ] {
            let mut broker = broker();
            broker.arrives(&hello());
            broker.answers(Verdict::user("anna"));
            broker.told();
            broker.says(&auth(first));
            if let Some(second) = second {
                broker.says(&auth(second));
            }
            assert_eq!(broker.told(), [(14, ReasonCode::ProtocolError)]);
        }
    }
}
