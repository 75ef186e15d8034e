//! Letting a client in: its listener's chain is asked, link by link.
//!
//! What a link can say at once is said here. Whoever else is to be asked needs milliseconds, so this shard does not do it:
//! it asks with [`Action::Authenticate`], holds the connection, and goes on when [`Shard::handle_authenticated`] brings the
//! verdict. Nothing about sessions is looked at before: a failed login changes nothing and learns nothing.

use std::net::SocketAddr;

use midge_auth::{Chain, Exchange, Grant, Link, Login, Next, Secret, Shown, Step, Verdict};
use midge_codec::{Connect, Framed, ReasonCode, frame};
use midge_session::{Refusal, Terms};
use midge_topic::TopicName;

use crate::action::Action;
use crate::connection::State;
use crate::ids::ConnectionId;
use crate::own;
use crate::shard::Shard;
use crate::tally::set_state;

/// A client about whom somebody is asked.
#[derive(Debug)]
pub(crate) struct PendingLogin {
    /// Its CONNECT. It was agreed to when it came.
    pub(crate) connect: Box<[u8]>,
    /// The link of the chain that is next, should the one that was asked not know the client.
    pub(crate) next: usize,
    /// Enhanced authentication between its two steps.
    pub(crate) exchange: Option<Box<Exchange>>,
}

/// What is to be done about a client: [`Next`], free of what it was read from.
enum Move {
    LetIn(Grant),
    Ask(Box<Login>, usize),
    Nobody(Refusal),
}

impl Shard {
    /// A CONNECT with agreed terms, at its client's home: lets it in, asks about it, or refuses it. `packet` is the CONNECT
    /// as it came.
    pub(crate) fn identify(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        terms: &Terms,
        packet: &[u8],
    ) {
        self.ask_from(0, id, connect, terms, packet);
    }

    /// Asks from link `at` of the chain on.
    fn ask_from(
        &mut self,
        at: usize,
        id: ConnectionId,
        connect: &Connect<'_>,
        terms: &Terms,
        packet: &[u8],
    ) {
        match self.step(at, id, connect) {
            Move::LetIn(grant) => self.let_in(id, connect, terms, &grant),
            Move::Nobody(refusal) => self.refuse(id, connect, refusal),
            Move::Ask(login, next) => {
                let Some(connection) = self.connections.get_mut(id.0) else { return };
                set_state(connection, State::Authenticating, &mut self.counters);
                let serial = connection.serial;
                let pending = PendingLogin { connect: packet.into(), next, exchange: None };
                self.keep_login(id, Box::new(pending));
                self.actions.push_back(Action::Pause(id));
                self.actions.push_back(Action::Authenticate { connection: id, serial, login });
            }
        }
    }

    /// What is kept of a client that somebody is asked about. Its CONNECT counts among the bytes of the unproven for as long.
    pub(crate) fn keep_login(&mut self, id: ConnectionId, pending: Box<PendingLogin>) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        self.unproven.bytes += pending.connect.len();
        connection.extra().login = Some(pending);
    }

    fn step(&self, at: usize, id: ConnectionId, connect: &Connect<'_>) -> Move {
        let nobody = |reason_code, reason| Move::Nobody(Refusal { reason_code, reason });
        let unwelcome = || nobody(ReasonCode::NotAuthorized, "nobody is let in");
        let Some(connection) = self.connections.get(id.0) else { return unwelcome() };
        let Some(chain) = self.security.chain(connection.listener) else { return unwelcome() };
        let certificate = self.identity(id).and_then(|identity| identity.certificate.as_ref());
        let name = |which| certificate?.name(which);
        let method = connect.properties.authentication_method;
        let password = connect.password.is_some();
        let shown = Shown { user: connect.username, password, method, certificate: &name };
        match chain.next(at, shown) {
            Next::LetIn(user) => {
                Move::LetIn(Grant { user: user.map(Into::into), ..Grant::default() })
            }
            Next::Ask(_, _)
                if method.is_some() && connect.properties.authentication_data.is_none() =>
            {
                nobody(ReasonCode::NotAuthorized, "there is no authentication data")
            }
            // [MQTT-4.12.0-1]
            Next::NoMethod => {
                let reason = "this method of enhanced authentication is not supported here";
                nobody(ReasonCode::BadAuthenticationMethod, reason)
            }
            Next::Ask(asked, next) => {
                let data = method.and(connect.properties.authentication_data);
                let common_name = certificate.and_then(|one| one.common_name.clone());
                let login = Login {
                    asked,
                    listener: connection.listener.0,
                    peer: SocketAddr::from(connection.peer).ip(),
                    client_id: connect.client_id.into(),
                    user: connect.username.map(Into::into),
                    password: connect.password.map(Secret::from),
                    common_name,
                    step: data.map(|data| Step::First(data.into())),
                };
                Move::Ask(Box::new(login), next)
            }
            Next::Nobody if !asks(chain) => unwelcome(),
            Next::Nobody if connect.username.is_none() && connect.password.is_none() => {
                nobody(ReasonCode::NotAuthorized, "a user name is needed here")
            }
            // Whether the name or the password is wrong is nobody's business.
            Next::Nobody => nobody(ReasonCode::BadUserNameOrPassword, WRONG),
        }
    }

    /// The verdict about a client that [`Action::Authenticate`] asked about.
    pub fn handle_authenticated(
        &mut self,
        id: ConnectionId,
        serial: u32,
        verdict: Verdict,
        now: midge_session::Time,
    ) {
        self.now = now;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        // It may have given up, or have been given up, and the slot may be another's.
        if connection.serial != serial {
            return;
        }
        match connection.state {
            State::Authenticating => {}
            State::Connected => {
                self.conclude_again(id, verdict);
                return self.settle();
            }
            _ => return,
        }
        self.unproven.bytes -= connection.unproven_size();
        let rest = connection.input.take();
        let pending = connection.extra.as_mut().and_then(|extra| extra.login.take());
        let Some(pending) = pending else { return self.close(id) };
        self.conclude(id, pending, verdict);
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        if !connection.is_ending() {
            // What came behind the CONNECT counts from here on.
            connection.input = rest;
            if matches!(connection.state, State::Connected | State::Exchanging) {
                self.resume_input(id);
            }
            self.bound_unproven(id);
        }
        self.settle();
    }

    fn conclude(&mut self, id: ConnectionId, pending: Box<PendingLogin>, verdict: Verdict) {
        // These bytes were a CONNECT, and were agreed to, when they came.
        let Ok(Framed::Packet(raw)) = frame(&pending.connect, u32::MAX) else {
            return self.close(id);
        };
        let Ok(connect) = Connect::decode(raw) else { return self.close(id) };
        let Ok(terms) = Terms::negotiate(&connect, &self.settings.limits) else {
            return self.close(id);
        };
        let (reason_code, reason) = match verdict {
            Verdict::Granted(grant) => return self.let_in(id, &connect, &terms, &grant),
            Verdict::Unknown if pending.exchange.is_none() => {
                return self.ask_from(pending.next, id, &connect, &terms, &pending.connect);
            }
            Verdict::Continue(challenge) => {
                let method = connect.properties.authentication_method.map(Into::into);
                return self.challenge(id, pending, method, *challenge);
            }
            Verdict::Refused | Verdict::Unknown => (ReasonCode::BadUserNameOrPassword, WRONG),
            Verdict::Busy => (ReasonCode::ServerBusy, "too many clients log in just now"),
            Verdict::Unavailable => {
                (ReasonCode::ServerUnavailable, "whoever knows the users does not answer")
            }
        };
        self.refuse(id, &connect, Refusal { reason_code, reason });
    }

    /// Opens the session of a client whose identity is settled, unless its will or its session say no.
    fn let_in(&mut self, id: ConnectionId, connect: &Connect<'_>, terms: &Terms, grant: &Grant) {
        let user = grant.user.as_deref();
        let assigned = connect.client_id.is_empty();
        let assigned_id = assigned.then(|| self.assign_client_id());
        let client_id = assigned_id.as_deref().unwrap_or(connect.client_id);
        let refused = |reason| Refusal { reason_code: ReasonCode::NotAuthorized, reason };
        if let Some(earlier) = self.sessions.find(client_id)
            && self.guards.user(earlier) != user
        {
            let refusal = refused("another user has a session with this client id");
            return self.refuse(id, connect, refusal);
        }
        if let Some(will) = &connect.will {
            if TopicName::parse(will.topic, &self.topic_limits(id)).is_err() {
                let reason = "the will's topic has more levels than this broker allows";
                let refusal = Refusal { reason_code: ReasonCode::TopicNameInvalid, reason };
                return self.refuse(id, connect, refusal);
            }
            if own::is_own(will.topic)
                || !self.guards.may_write_at_login(grant, client_id, will.topic)
            {
                let refusal = refused("not allowed to publish the will");
                return self.refuse(id, connect, refusal);
            }
        }
        self.open_session(id, connect, terms, client_id, assigned, grant);
    }
}

/// For whoever says a name or a password that is none.
const WRONG: &str = "the user name or the password is wrong";

fn asks(chain: &Chain) -> bool {
    chain.links().iter().any(|link| matches!(link, Link::Ask(_)))
}
