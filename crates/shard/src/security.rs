//! What clients may do, and whose sessions are whose.
//!
//! What a client may do is kept beside its session, in [`Guards`], and only where there are users or rules: a broker without
//! either pays nothing. It can come with the login, too (from a token, or from a service). It is asked for each publication in (write), each filter (read, as far as anything could come)
//! and each delivery (read), also for what waited in a queue, so that a right that was taken back counts at once.
//!
//! # Sessions belong to whoever made them
//! Another user with the same client id is refused; an anonymous client is a user of its own kind.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use midge_auth::{AccessRules, Chain, Decision, Grant, GrantedRights, Link, Rights, Source};
use midge_session::{Author, Writer};

use crate::audit::AuditEvent;
use crate::ids::{ListenerId, SessionId};
use crate::shard::Shard;

/// What is asked of clients; the same for all shards. Default: everybody may do everything.
#[derive(Debug, Clone)]
pub struct Security {
    /// Who is asked about a client, by listener. A listener that has none of its own has the first.
    pub chains: Arc<[Chain]>,
    /// What each may do; `None`: everything.
    pub access: Option<Arc<AccessRules>>,
    /// Whether a client that publishes where it must not is disconnected (0x87), rather than told so where its packet has
    /// an answer, and ignored.
    pub deny_disconnects: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self { chains: Arc::new([Chain::open()]), access: None, deny_disconnects: false }
    }
}

impl Security {
    /// Whether what a client may do can come with its login.
    pub(crate) fn grants(&self) -> bool {
        let mut links = self.chains.iter().flat_map(|chain| chain.links());
        links.any(|link| matches!(link, Link::Ask(asked) if asked.grants()))
    }

    pub(crate) fn chain(&self, listener: ListenerId) -> Option<&Chain> {
        self.chains.get(usize::from(listener.0)).or_else(|| self.chains.first())
    }
}

/// What a session's client may do, and whose it is.
#[derive(Debug, Default)]
struct Guard {
    user: Option<Box<str>>,
    /// What came with its login.
    granted: Option<Arc<GrantedRights>>,
    /// Read from a log, and what came with its login does not stand there: it counts again when the client is back.
    awaits_login: bool,
    rights: Option<Rights>,
    /// What its retained messages carry; made with the first.
    author: Option<Arc<Author>>,
    /// Of the rules that `rights` were made from.
    generation: u32,
}

/// The guards of this shard's sessions. Empty where there are neither users nor rules.
#[derive(Debug)]
pub(crate) struct Guards {
    rules: Option<Arc<AccessRules>>,
    generation: u32,
    by_session: HashMap<SessionId, Guard, RandomState>,
    /// Guards with something that came with a login, or that is missed.
    granted: usize,
}

impl Guard {
    fn is_granted(&self) -> bool {
        self.granted.is_some() || self.awaits_login
    }
}

impl Guards {
    pub(crate) fn new(rules: Option<Arc<AccessRules>>, hasher: RandomState) -> Self {
        Self { rules, generation: 0, by_session: HashMap::with_hasher(hasher), granted: 0 }
    }

    /// Everybody may do everything.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.rules.is_none() && self.granted == 0
    }

    pub(crate) fn user(&self, session: SessionId) -> Option<&str> {
        self.by_session.get(&session)?.user.as_deref()
    }

    /// A client has logged in: what came with an earlier login is forgotten.
    pub(crate) fn log_in(&mut self, session: SessionId, grant: &Grant) {
        if grant.user.is_none() && grant.rights.is_none() && self.by_session.is_empty() {
            return;
        }
        let guard =
            Guard { user: grant.user.clone(), granted: grant.rights.clone(), ..Guard::default() };
        self.put(session, guard);
    }

    /// A session that was read from a log. `grants`: what its client may do can come with a login.
    pub(crate) fn restore(&mut self, session: SessionId, user: Option<&str>, grants: bool) {
        if user.is_some() || grants {
            let user = user.map(Into::into);
            self.put(session, Guard { user, awaits_login: grants, ..Guard::default() });
        }
    }

    fn put(&mut self, session: SessionId, guard: Guard) {
        self.granted += usize::from(guard.is_granted());
        let earlier = self.by_session.insert(session, guard);
        self.granted -= usize::from(earlier.is_some_and(|earlier| earlier.is_granted()));
    }

    pub(crate) fn remove(&mut self, session: SessionId) {
        if !self.by_session.is_empty()
            && let Some(guard) = self.by_session.remove(&session)
        {
            self.granted -= usize::from(guard.is_granted());
        }
    }

    /// What a retained message of a session carries; `None`: nobody asks. `named`: its writer may be asked about later, unless
    /// what they may do comes with their login. Without a connection `listener` is that of the last one.
    fn author(
        &mut self,
        session: SessionId,
        client_id: &str,
        named: bool,
        listener: Option<Option<&Arc<str>>>,
    ) -> Option<Arc<Author>> {
        let guard = self.by_session.entry(session).or_default();
        let named = named && !guard.is_granted();
        let Guard { user, author, .. } = guard;
        let known = author.as_ref().and_then(|author| author.listener.as_ref());
        let listener = listener.unwrap_or(known);
        if !named && listener.is_none() {
            return None;
        }
        let current = author.as_ref().filter(|author| {
            author.writer.is_some() == named && author.listener.as_ref() == listener
        });
        if let Some(current) = current {
            return Some(Arc::clone(current));
        }
        let client_id = client_id.into();
        let writer = named.then(|| Writer { user: user.clone(), client_id });
        let new = Arc::new(Author { writer, listener: listener.cloned() });
        Some(Arc::clone(author.insert(new)))
    }

    /// The rules that all have, and of which generation they are.
    pub(crate) fn rules(&self) -> Option<(Arc<AccessRules>, u32)> {
        Some((Arc::clone(self.rules.as_ref()?), self.generation))
    }

    /// New rules hold from the next question on.
    fn set_rules(&mut self, rules: Option<Arc<AccessRules>>) {
        self.rules = rules;
        self.generation = self.generation.wrapping_add(1);
    }

    #[inline]
    pub(crate) fn may_write(&mut self, session: SessionId, client_id: &str, topic: &str) -> bool {
        self.is_open() || self.ask(session, client_id, |r| r.may_write(topic)).allowed
    }

    #[inline]
    pub(crate) fn may_read(&mut self, session: SessionId, client_id: &str, topic: &str) -> bool {
        self.is_open()
            || self.ask(session, client_id, |r| r.may_read(topic)).allowed
            // It is asked again when the client is back, with what came with its login then.
            || self.by_session.get(&session).is_some_and(|guard| guard.awaits_login)
    }

    pub(crate) fn may_subscribe(
        &mut self,
        session: SessionId,
        client_id: &str,
        filter: &str,
    ) -> bool {
        self.is_open() || self.ask(session, client_id, |r| r.may_subscribe(filter)).allowed
    }

    /// Whether a client that has no session yet may write.
    pub(crate) fn may_write_at_login(&self, grant: &Grant, client_id: &str, topic: &str) -> bool {
        rights_of(self.rules.as_ref(), grant.rights.as_ref(), grant.user.as_deref(), client_id)
            .is_none_or(|rights| rights.may_write(topic).allowed)
    }

    /// Why a session's client may not receive a topic; `None`: it may.
    pub(crate) fn why_not(
        &self,
        session: SessionId,
        client_id: &str,
        topic: &str,
    ) -> Option<Explanation> {
        if self.is_open() {
            return None;
        }
        let rights = self.rights(session, client_id);
        let why = explained(self.rules.as_ref(), rights.as_ref(), |one| one.may_read(topic));
        (!why.allowed).then_some(why)
    }

    /// The rights of a session's client, without keeping them.
    fn rights(&self, session: SessionId, client_id: &str) -> Option<Rights> {
        let guard = self.by_session.get(&session);
        let granted = guard.and_then(|guard| guard.granted.as_ref());
        rights_of(self.rules.as_ref(), granted, self.user(session), client_id)
    }

    fn ask(
        &mut self,
        session: SessionId,
        client_id: &str,
        question: impl FnOnce(&Rights) -> Decision,
    ) -> Decision {
        let Self { rules, generation, by_session, .. } = self;
        let guard = by_session.entry(session).or_default();
        if guard.rights.is_none() || guard.generation != *generation {
            let (user, granted) = (guard.user.as_deref(), guard.granted.as_ref());
            guard.rights = rights_of(rules.as_ref(), granted, user, client_id);
            guard.generation = *generation;
        }
        let everything = Decision { allowed: true, source: Source::NoRule };
        guard.rights.as_ref().map_or(everything, question)
    }
}

/// An answer about rights, for whoever asks why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Yes or no.
    pub allowed: bool,
    /// What decided; `None`: there are no rules for this client, so that it may do everything.
    pub source: Option<Source>,
    /// The rule that decided, as it stands in the file.
    pub rule: Option<Box<str>>,
    /// The file's name.
    pub file: Option<Arc<str>>,
}

/// What one client may do with one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRights {
    /// Whether it has a session; otherwise it is what a client with such names would be allowed by the file.
    pub known: bool,
    /// Its user name.
    pub user: Option<Box<str>>,
    /// To publish to the topic.
    pub publish: Explanation,
    /// To subscribe to it.
    pub subscribe: Explanation,
    /// To receive it.
    pub receive: Explanation,
}

fn explained(
    rules: Option<&Arc<AccessRules>>,
    rights: Option<&Rights>,
    ask: impl Fn(&Rights) -> Decision,
) -> Explanation {
    let Some(rights) = rights else {
        return Explanation { allowed: true, source: None, rule: None, file: None };
    };
    let decision = ask(rights);
    let rule = rights.rule(decision).map(|rule| rule.to_string().into());
    let file = rules.and_then(|rules| rules.file()).cloned();
    Explanation { allowed: decision.allowed, source: Some(decision.source), rule, file }
}

/// What a client may do; `None`: everything.
fn rights_of(
    rules: Option<&Arc<AccessRules>>,
    granted: Option<&Arc<GrantedRights>>,
    user: Option<&str>,
    client_id: &str,
) -> Option<Rights> {
    match (rules, granted) {
        (Some(rules), granted) => Some(rules.rights(user, client_id, granted)),
        (None, Some(granted)) if granted.limited || granted.superuser => {
            Some(Rights::of_login(granted, user, client_id))
        }
        (None, _) => None,
    }
}

impl Shard {
    /// What a client may do with a topic, and why. `user` counts where it has no session.
    pub(crate) fn explain_rights(
        &self,
        client_id: &str,
        user: Option<&str>,
        topic: &str,
    ) -> ClientRights {
        let session = self.sessions.find(client_id);
        let (user, rights) = match session {
            Some(session) => (self.guards.user(session), self.guards.rights(session, client_id)),
            None => (user, rights_of(self.guards.rules.as_ref(), None, user, client_id)),
        };
        let rules = self.guards.rules.as_ref();
        ClientRights {
            known: session.is_some(),
            user: user.map(Into::into),
            publish: explained(rules, rights.as_ref(), |one| one.may_write(topic)),
            subscribe: explained(rules, rights.as_ref(), |one| one.may_subscribe(topic)),
            receive: explained(rules, rights.as_ref(), |one| one.may_read(topic)),
        }
    }

    /// New users and rules: who is connected stays, and may do from now on what the new rules say.
    pub fn handle_security(&mut self, security: Security) {
        self.guards.set_rules(security.access.clone());
        self.security = security;
    }

    /// Whether a session's client may publish to a topic.
    #[inline]
    pub(crate) fn may_write(&mut self, session: SessionId, topic: &str) -> bool {
        if self.guards.is_open() {
            return true;
        }
        let Some(entry) = self.sessions.get(session) else { return false };
        let allowed = self.guards.may_write(session, &entry.session.client_id, topic);
        self.counters.publishes_denied += u64::from(!allowed);
        if !allowed {
            self.audit_session(session, || AuditEvent::PublishDenied(topic.into()));
        }
        allowed
    }

    /// Where a message comes from that is to be retained, if anybody will ask.
    pub(crate) fn author(&mut self, session: SessionId, retain: bool) -> Option<Arc<Author>> {
        let named = self.settings.recheck_retained;
        if !retain || !(named || self.settings.protection.counts_retained()) {
            return None;
        }
        let entry = self.sessions.get(session)?;
        let connection = entry.connection.and_then(|id| self.connections.get(id.0));
        let listener = connection.map(|one| self.settings.protection.retained_label(one.listener));
        self.guards.author(session, &entry.session.client_id, named, listener)
    }

    /// A will that is retained counts for the listener by which its client came, also when the client is gone.
    pub(crate) fn note_author_of_will(&mut self, session: SessionId) {
        let retain = |session: &midge_session::Session| {
            session.will.as_ref().is_some_and(|will| will.retain)
        };
        if self.sessions.get(session).is_some_and(|entry| retain(&entry.session)) {
            self.author(session, true);
        }
    }

    /// Whether a session's client may subscribe to a filter.
    pub(crate) fn may_subscribe(&mut self, session: SessionId, filter: &str) -> bool {
        if self.guards.is_open() {
            return true;
        }
        let Some(entry) = self.sessions.get(session) else { return false };
        let allowed = self.guards.may_subscribe(session, &entry.session.client_id, filter);
        self.counters.subscriptions_denied += u64::from(!allowed);
        if !allowed {
            self.audit_session(session, || AuditEvent::SubscribeDenied(filter.into()));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use midge_auth::{Access, Authenticator, CertificateName, Login, Rule, Secret, Verdict};
    use midge_codec::{
        ConnAck, Connect, Framed, Packet, ProtocolVersion, PubAck, QoS, ReasonCode, SubAck, Will,
        decode, frame,
    };

    use super::*;
    use crate::regression::{Broker, publish, subscribe};
    use crate::{Action, CertificateIdentity, ConnectionId, Identity, Settings};

    const V5: ProtocolVersion = ProtocolVersion::V5;
    const V311: ProtocolVersion = ProtocolVersion::V311;

    const RULES: &str = "\
topic readwrite open/#
user anna
topic readwrite anna/#
topic deny anna/secret
topic write log
user ben
topic read anna/#
pattern readwrite own/%c/#
";

    fn rules(text: &str) -> Option<Arc<AccessRules>> {
        Some(Arc::new(AccessRules::parse(text).unwrap().named("rules")))
    }

    fn broker(security: Security) -> Broker {
        Broker::new(1, Settings { security, ..Settings::default() })
    }

    const FILE: Link = Link::Ask(Authenticator::PasswordFile);

    fn chains(links: &[Link]) -> Arc<[Chain]> {
        Arc::new([Chain::new(links)])
    }

    fn secured() -> Broker {
        let chains = chains(&[FILE, Link::Anonymous]);
        broker(Security { chains, access: rules(RULES), ..Security::default() })
    }

    fn granted(user: &str) -> Verdict {
        Verdict::user(user)
    }

    fn as_user<'a>(version: ProtocolVersion, client_id: &'a str, user: &'a str) -> Connect<'a> {
        let clean_start = false;
        let password = Some(&b"pw"[..]);
        Connect { username: Some(user), password, clean_start, ..Connect::new(version, client_id) }
    }

    impl Broker {
        /// The one question about a password that is open.
        fn question(&mut self) -> Option<(ConnectionId, u32, Box<Login>)> {
            self.actions(0).into_iter().find_map(|action| match action {
                Action::Authenticate { connection, serial, login } => {
                    Some((connection, serial, login))
                }
                _ => None,
            })
        }

        /// Connects, answers the question, and says what the CONNACK was.
        fn log_in(&mut self, id: u32, connect: &Connect<'_>, verdict: Verdict) -> ReasonCode {
            let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            self.shards[0].handle_accepted(ConnectionId(id), peer, ListenerId(0), self.now);
            let mut bytes = Vec::new();
            connect.encode(&mut bytes);
            self.receive(0, id, &bytes);
            while let Some((connection, serial, login)) = self.question() {
                assert_eq!(login.user.as_deref(), connect.username);
                assert_eq!(login.password, connect.password.map(Secret::from));
                assert_eq!(login.peer, peer.ip());
                self.shards[0].handle_authenticated(connection, serial, verdict.clone(), self.now);
                self.shards[0].check_integrity();
            }
            let bytes = self.sent(0, id);
            let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no CONNACK") };
            ConnAck::decode(raw, connect.version).unwrap().reason_code
        }

        fn answer(&mut self, id: u32, version: ProtocolVersion, bytes: &[u8]) -> Vec<ReasonCode> {
            self.receive(0, id, bytes);
            let bytes = self.sent(0, id);
            let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { return Vec::new() };
            match decode(raw, version).unwrap() {
                Packet::PubAck(PubAck { reason_code, .. }) => vec![reason_code],
                Packet::SubAck(SubAck { reason_codes, .. }) => reason_codes.iter().collect(),
                other => panic!("{other:?}"),
            }
        }

        /// Payloads of what all connections are sent now.
        fn everybodys_payloads(&mut self) -> Vec<(u32, String)> {
            let mut found = Vec::new();
            while let Some((to, output)) = self.shards[0].next_flush() {
                let bytes: Vec<u8> = output.segments().flatten().copied().collect();
                let mut rest = &bytes[..];
                while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
                    rest = &rest[raw.size..];
                    if let Ok(Packet::Publish(publish)) = decode(raw, V311) {
                        let payload = String::from_utf8_lossy(publish.payload).into_owned();
                        found.push((to.0, payload));
                    }
                }
                self.shards[0].handle_sent(to, output, self.now);
            }
            found
        }

        fn subscribes(&mut self, id: u32, filter: &str) -> Vec<ReasonCode> {
            self.answer(id, V311, &subscribe(filter, QoS::AtLeastOnce))
        }
    }

    /// A login is asked about once, nothing happens before the verdict, and what came behind the CONNECT counts after it.
    #[test]
    fn a_client_waits_for_its_verdict() {
        let mut broker = secured();
        let mut bytes = Vec::new();
        as_user(V311, "c", "anna").encode(&mut bytes);
        bytes.extend(subscribe("anna/#", QoS::AtMostOnce));
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let now = broker.now;
        broker.shards[0].handle_accepted(ConnectionId(1), peer, ListenerId(0), now);
        let (first, second) = bytes.split_at(bytes.len() - 3);
        broker.receive(0, 1, first);
        broker.receive(0, 1, second);
        assert!(broker.sent(0, 1).is_empty());
        assert_eq!(broker.shards[0].counters().sessions_now, 0);
        let (connection, serial, ..) = broker.question().unwrap();
        let verdict = granted("anna");
        broker.shards[0].handle_authenticated(connection, serial + 1, verdict.clone(), now);
        assert!(broker.sent(0, 1).is_empty(), "a verdict for another connection");
        broker.shards[0].handle_authenticated(connection, serial, verdict, now);
        let bytes = broker.sent(0, 1);
        assert_eq!((bytes[0], bytes[4]), (0x20, 0x90), "CONNACK, SUBACK");
        broker.shards[0].check_integrity();
    }

    #[test]
    fn verdicts_become_the_codes_of_the_version() {
        for (version, verdict, code) in [
            (V5, granted("anna"), ReasonCode::Success),
            (V5, Verdict::Refused, ReasonCode::BadUserNameOrPassword),
            (V5, Verdict::Busy, ReasonCode::ServerBusy),
            (V311, Verdict::Refused, ReasonCode::BadUserNameOrPassword),
            // Nobody else is in the chain who could know it, and a wrong name is not nobody's.
            (V5, Verdict::Unknown, ReasonCode::BadUserNameOrPassword),
            (V311, Verdict::Unknown, ReasonCode::BadUserNameOrPassword),
        ] {
            let connect = as_user(version, "c", "anna");
            let found = secured().log_in(1, &connect, verdict.clone());
            assert_eq!(found, code, "{version:?} {verdict:?}");
        }
    }

    #[test]
    fn clients_without_a_name_need_to_be_welcome() {
        for (links, user, code) in [
            (&[Link::Anonymous][..], None, ReasonCode::Success),
            (&[Link::Anonymous], Some("x"), ReasonCode::Success),
            (&[FILE], None, ReasonCode::NotAuthorized),
            (&[], Some("x"), ReasonCode::NotAuthorized),
            (&[], None, ReasonCode::NotAuthorized),
        ] {
            let security = Security { chains: chains(links), ..Security::default() };
            let connect = Connect { username: user, ..Connect::new(V5, "c") };
            assert_eq!(broker(security).log_in(1, &connect, granted("x")), code);
        }
    }

    /// Each listener has its own chain, and a name that a certificate proves needs no password.
    #[test]
    fn a_certificate_names_the_user() {
        let certificate = Link::Certificate(CertificateName::CommonName);
        let chains = Arc::new([Chain::new(&[FILE]), Chain::new(&[certificate])]);
        for (listener, has_certificate, code) in [
            (0, true, ReasonCode::NotAuthorized),
            (1, true, ReasonCode::Success),
            (1, false, ReasonCode::NotAuthorized),
            // One that has no chain of its own.
            (2, true, ReasonCode::NotAuthorized),
        ] {
            let security = Security { chains: chains.clone(), ..Security::default() };
            let mut broker = broker(security);
            let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            let shard = &mut broker.shards[0];
            shard.handle_accepted(ConnectionId(1), peer, ListenerId(listener), broker.now);
            let names = CertificateIdentity {
                common_name: Some("sensor".into()),
                ..CertificateIdentity::default()
            };
            let identity =
                Identity { certificate: has_certificate.then_some(names), ..Identity::default() };
            let identity = Some(Box::new(identity));
            shard.handle_identified(ConnectionId(1), peer, identity, broker.now);
            let mut bytes = Vec::new();
            Connect { username: None, ..Connect::new(V5, "c") }.encode(&mut bytes);
            broker.receive(0, 1, &bytes);
            assert!(broker.question().is_none());
            let bytes = broker.sent(0, 1);
            let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no CONNACK") };
            assert_eq!(ConnAck::decode(raw, V5).unwrap().reason_code, code, "{listener}");
            let shard = &broker.shards[0];
            let session = shard.sessions.find("c");
            let user = session.and_then(|session| shard.guards.user(session));
            assert_eq!(user, (code == ReasonCode::Success).then_some("sensor"));
        }
    }

    /// A failed login leaves the session and its connection alone; another user's is refused, clean start or not.
    #[test]
    fn a_session_belongs_to_its_user() {
        let mut broker = secured();
        let anna = as_user(V5, "c", "anna");
        assert_eq!(broker.log_in(1, &anna, granted("anna")), ReasonCode::Success);
        let code = broker.log_in(2, &anna, Verdict::Refused);
        assert_eq!(code, ReasonCode::BadUserNameOrPassword);
        for (id, clean_start) in [(10, true), (20, false)] {
            let ben = Connect { clean_start, ..as_user(V5, "c", "ben") };
            assert_eq!(broker.log_in(id, &ben, granted("ben")), ReasonCode::NotAuthorized);
            let nobody = Connect { clean_start, ..Connect::new(V5, "c") };
            assert_eq!(
                broker.log_in(id + 1, &nobody, granted("nobody")),
                ReasonCode::NotAuthorized
            );
        }
        assert_eq!(broker.shards[0].counters().take_overs, 0);
        assert_eq!(broker.log_in(5, &anna, granted("anna")), ReasonCode::Success);
        assert_eq!(broker.shards[0].counters().take_overs, 1);
    }

    #[test]
    fn a_will_needs_the_right_too() {
        let mut broker = secured();
        let will = Some(Will { topic: "anna/secret", payload: b"x", ..Will::default() });
        let connect = Connect { will, ..as_user(V5, "c", "anna") };
        assert_eq!(broker.log_in(1, &connect, granted("anna")), ReasonCode::NotAuthorized);
    }

    #[test]
    fn publications_and_subscriptions_follow_the_rules() {
        let mut broker = secured();
        broker.log_in(1, &as_user(V311, "c1", "anna"), granted("anna"));
        broker.log_in(2, &as_user(V311, "c2", "ben"), granted("ben"));
        for (id, filter, code) in [
            (1, "anna/#", ReasonCode::GrantedQoS1),
            (1, "log", ReasonCode::UnspecifiedError),
            (1, "own/c1/x", ReasonCode::GrantedQoS1),
            (1, "own/c2/x", ReasonCode::UnspecifiedError),
            (1, "$share/g/log", ReasonCode::UnspecifiedError),
            (2, "#", ReasonCode::GrantedQoS1),
            (2, "$share/g/anna/x", ReasonCode::GrantedQoS1),
        ] {
            assert_eq!(broker.subscribes(id, filter), [code], "{id} {filter}");
        }
        // Ben asked for everything; he receives what he may read.
        for (topic, reaches) in [
            ("anna/x", true),
            ("anna/secret", false),
            ("log", false),
            ("own/c1/x", false),
            ("open/x", false),
        ] {
            for (qos, packet_id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 7)] {
                broker.receive(0, 1, &publish(topic, topic, qos, packet_id));
                let payloads = broker.payloads(0, 2);
                assert_eq!(payloads.contains(&topic.to_owned()), reaches, "{topic} {qos:?}");
            }
        }
        broker.shards[0].check_integrity();
    }

    /// Where it is asked for, a retained message goes with its writer's right, and comes back with it. What a login brought
    /// cannot be asked again.
    #[test]
    fn what_was_retained_goes_with_the_right_of_its_writer() {
        let by_file = || granted("anna");
        let by_login = || granted_rules("anna", &[(Access::ReadWrite, "#")]);
        let cases: [(bool, &dyn Fn() -> Verdict, bool); 3] =
            [(false, &by_file, true), (true, &by_file, false), (true, &by_login, true)];
        for (recheck_retained, verdict, stays) in cases {
            let links = chains(&[FILE, Link::Anonymous]);
            let before = Security { chains: links, access: rules(RULES), ..Security::default() };
            let after =
                Security { access: rules("user ben\ntopic read anna/#\n"), ..before.clone() };
            let settings =
                Settings { security: before.clone(), recheck_retained, ..Settings::default() };
            let mut broker = Broker::new(1, settings);
            let will = Some(Will {
                topic: "anna/will",
                payload: b"will",
                retain: true,
                ..Will::default()
            });
            let anna = Connect { will, ..as_user(V311, "c1", "anna") };
            assert_eq!(broker.log_in(1, &anna, verdict()), ReasonCode::Success);
            let mut bytes = publish("anna/x", "kept", QoS::AtMostOnce, 0);
            // RETAIN.
            bytes[0] |= 1;
            broker.receive(0, 1, &bytes);
            broker.shards[0].handle_lost(ConnectionId(1), broker.now);
            broker.log_in(2, &as_user(V311, "c2", "ben"), granted("ben"));
            let arrives = |broker: &mut Broker| {
                // What is fresh is held back for a moment.
                broker.now = broker.now.plus_seconds(10);
                broker.receive(0, 2, &subscribe("anna/#", QoS::AtMostOnce));
                broker.shards[0].check_integrity();
                broker.payloads(0, 2)
            };
            assert_eq!(arrives(&mut broker), ["will", "kept"]);
            broker.shards[0].handle_security(after);
            let left: &[&str] = if stays { &["will", "kept"] } else { &[] };
            assert_eq!(arrives(&mut broker), left, "{recheck_retained}");
            assert_eq!(broker.shards[0].counters().dropped_denied, if stays { 0 } else { 2 });
            broker.shards[0].handle_security(before);
            assert_eq!(arrives(&mut broker), ["will", "kept"]);
        }
    }

    /// What waits for a client is asked about again when it leaves: new rules hold at once, for connected clients, too.
    #[test]
    fn a_right_that_was_taken_back_counts_for_what_is_queued() {
        let mut broker = secured();
        let ben = as_user(V311, "c2", "ben");
        broker.log_in(1, &as_user(V311, "c1", "anna"), granted("anna"));
        broker.log_in(2, &ben, granted("ben"));
        broker.subscribes(2, "anna/#");
        broker.shards[0].handle_lost(ConnectionId(2), broker.now);
        broker.receive(0, 1, &publish("anna/a", "first", QoS::AtLeastOnce, 7));
        broker.receive(0, 1, &publish("anna/b", "second", QoS::AtLeastOnce, 8));
        let access = rules("user anna\ntopic anna/#\nuser ben\ntopic read anna/b\n");
        let security = Security { chains: chains(&[FILE]), access, ..Security::default() };
        broker.shards[0].handle_security(security);
        broker.connect(0, 3, &ben);
        let (connection, serial, ..) = broker.question().unwrap();
        broker.shards[0].handle_authenticated(connection, serial, granted("ben"), broker.now);
        assert_eq!(broker.payloads(0, 3), ["second"]);
        broker.receive(0, 1, &publish("anna/a", "third", QoS::AtLeastOnce, 9));
        assert!(broker.payloads(0, 3).is_empty());
    }

    #[test]
    fn a_denied_publication_may_end_the_connection() {
        for (deny_disconnects, closed) in [(false, false), (true, true)] {
            for (qos, packet_id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 7)] {
                let access = rules("topic open\n");
                let security = Security { access, deny_disconnects, ..Security::default() };
                let mut broker = broker(security);
                broker.connect(0, 1, &Connect::new(V311, "c"));
                broker.receive(0, 1, &publish("shut", "x", qos, packet_id));
                broker.sent(0, 1);
                let found = broker.actions(0).iter().any(|a| matches!(a, Action::Close(_)));
                assert_eq!(found, closed, "{qos:?}");
            }
        }
    }

    fn granted_rules(user: &str, rules: &[(Access, &str)]) -> Verdict {
        let rule = |(access, filter): &(Access, &str)| Rule {
            access: *access,
            filter: (*filter).into(),
            pattern: false,
            line: 1,
        };
        let rules = rules.iter().map(rule).collect();
        let rights = GrantedRights { rules, limited: true, ..GrantedRights::default() };
        let user = Some(user.into());
        let rights = Some(Arc::new(rights));
        Verdict::Granted(Box::new(Grant { user, rights, ..Grant::default() }))
    }

    /// Rules that came with a login hold where there is no file, too, for as long as the session; each login brings its own.
    #[test]
    fn a_login_brings_its_rules() {
        let security = Security { chains: chains(&[FILE]), ..Security::default() };
        let mut broker = broker(security);
        let anna = as_user(V311, "c1", "anna");
        broker.log_in(1, &anna, granted_rules("anna", &[(Access::Read, "a/#")]));
        broker.log_in(2, &as_user(V311, "c2", "ben"), granted("ben"));
        for (id, filter, code) in [
            (1, "a/1", ReasonCode::GrantedQoS1),
            (1, "b/1", ReasonCode::UnspecifiedError),
            (1, "#", ReasonCode::GrantedQoS1),
            // Nothing was said about him, and there is no file.
            (2, "#", ReasonCode::GrantedQoS1),
        ] {
            assert_eq!(broker.subscribes(id, filter), [code], "{id} {filter}");
        }
        broker.receive(0, 2, &publish("a/1", "first", QoS::AtLeastOnce, 7));
        broker.receive(0, 2, &publish("b/1", "second", QoS::AtLeastOnce, 8));
        assert_eq!(broker.payloads(0, 1), ["first"]);
        broker.receive(0, 1, &publish("a/1", "third", QoS::AtLeastOnce, 7));
        assert!(!broker.payloads(0, 2).contains(&"third".to_owned()));
        // Queued under one login, delivered under another.
        broker.shards[0].handle_lost(ConnectionId(1), broker.now);
        broker.receive(0, 2, &publish("a/1", "fourth", QoS::AtLeastOnce, 9));
        broker.receive(0, 2, &publish("a/2", "fifth", QoS::AtLeastOnce, 10));
        let rules = granted_rules("anna", &[(Access::Read, "a/2")]);
        broker.connect(0, 3, &anna);
        let (connection, serial, ..) = broker.question().unwrap();
        broker.shards[0].handle_authenticated(connection, serial, rules, broker.now);
        // What was sent before is the client's to finish.
        assert_eq!(broker.payloads(0, 3), ["first", "fifth"]);
        broker.shards[0].check_integrity();
    }

    /// A client is disconnected when what it showed is no longer valid, will and all; an idle one as well.
    #[test]
    fn a_client_stays_no_longer_than_its_login_is_valid() {
        for keep_alive_seconds in [0, 5, 60] {
            let security = Security { chains: chains(&[FILE]), ..Security::default() };
            let mut broker = broker(security);
            let connect = Connect { keep_alive_seconds, ..as_user(V5, "c", "anna") };
            let grant = Grant {
                user: Some("anna".into()),
                valid_for_seconds: Some(10),
                ..Grant::default()
            };
            broker.log_in(1, &connect, Verdict::Granted(Box::new(grant)));
            for second in 1..=12 {
                broker.now = broker.now.plus_millis(1000);
                broker.shards[0].handle_turn(broker.now);
                if second < 10 {
                    broker.receive(0, 1, &[0xc0, 0]);
                    assert_eq!(broker.sent(0, 1), [0xd0, 0], "{keep_alive_seconds} {second}");
                }
            }
            let bytes = broker.sent(0, 1);
            assert_eq!((bytes[0], bytes[2]), (0xe0, 0x87), "{keep_alive_seconds}");
            broker.shards[0].check_integrity();
        }
    }

    /// In a shared subscription a message goes to a member that may receive it, whoever's turn it is; also when the right was
    /// taken back after the message was queued.
    #[test]
    fn a_shared_message_finds_a_member_that_may_receive_it() {
        let access =
            || rules("user anna\ntopic #\nuser ben\ntopic read a/#\nuser carl\ntopic read #\n");
        let security =
            Security { chains: chains(&[FILE]), access: access(), ..Security::default() };
        let mut broker = broker(security);
        broker.log_in(1, &as_user(V311, "c1", "anna"), granted("anna"));
        broker.log_in(2, &as_user(V311, "c2", "ben"), granted("ben"));
        broker.log_in(3, &as_user(V311, "c3", "carl"), granted("carl"));
        for id in [2, 3] {
            assert_eq!(broker.subscribes(id, "$share/g/#"), [ReasonCode::GrantedQoS1]);
        }
        let mut sent = 0;
        for number in 0..6 {
            for (qos, packet_id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 7)] {
                broker.receive(0, 1, &publish("b/x", &number.to_string(), qos, packet_id));
                sent += 1;
            }
        }
        let received = broker.everybodys_payloads();
        assert_eq!(received.len(), sent);
        assert!(received.iter().all(|(id, _)| *id == 3), "{received:?}");
        assert_eq!(broker.shards[0].counters().dropped_denied, 0);

        // Both are away, and each has some; then Ben may not receive any of it.
        for id in [2, 3] {
            broker.shards[0].handle_lost(ConnectionId(id), broker.now);
        }
        for number in 0..6 {
            broker.receive(0, 1, &publish("a/x", &number.to_string(), QoS::AtLeastOnce, 8));
        }
        let access = rules("user anna\ntopic #\nuser carl\ntopic read #\n");
        let security = Security { chains: chains(&[FILE]), access, ..Security::default() };
        broker.shards[0].handle_security(security);
        let mut received = Vec::new();
        for (id, user, client_id) in [(5, "carl", "c3"), (4, "ben", "c2")] {
            broker.connect(0, id, &as_user(V311, client_id, user));
            let (connection, serial, ..) = broker.question().unwrap();
            broker.shards[0].handle_authenticated(connection, serial, granted(user), broker.now);
            received.extend(broker.everybodys_payloads());
        }
        assert!(received.iter().all(|(id, _)| *id == 5), "{received:?}");
        let mut received: Vec<_> = received.into_iter().map(|(_, payload)| payload).collect();
        received.sort_unstable();
        received.dedup();
        // Those at QoS 1 that Carl had not acknowledged come once more.
        assert_eq!(received, ["0", "1", "2", "3", "4", "5"]);

        // Nobody may.
        broker.shards[0].handle_security(Security {
            chains: chains(&[FILE]),
            access: rules("user anna\ntopic #\n"),
            ..Security::default()
        });
        broker.receive(0, 1, &publish("a/x", "lost", QoS::AtLeastOnce, 9));
        broker.receive(0, 1, &publish("a/x", "lost", QoS::AtMostOnce, 0));
        assert_eq!(broker.everybodys_payloads(), []);
        assert_eq!(broker.shards[0].counters().dropped_denied, 2);
        broker.shards[0].check_integrity();
    }

    #[test]
    fn whoever_asks_is_told_which_line_decided() {
        let mut broker = secured();
        broker.log_in(1, &as_user(V311, "c1", "anna"), granted("anna"));
        broker.log_in(2, &as_user(V311, "c2", "ben"), granted("ben"));
        broker.subscribes(2, "#");
        let shard = &broker.shards[0];
        let why = |line, rule: &str, allowed| Explanation {
            allowed,
            source: Some(Source::File(line)),
            rule: Some(rule.into()),
            file: Some("rules".into()),
        };
        let rights = shard.explain_rights("c1", None, "anna/secret");
        assert_eq!(rights.user.as_deref(), Some("anna"));
        assert_eq!(rights.publish, why(4, "topic deny anna/secret", false));
        assert_eq!(rights.receive, why(4, "topic deny anna/secret", false));
        let rights = shard.explain_rights("c1", None, "own/c1/x");
        assert_eq!(rights.publish, why(8, "pattern readwrite own/%c/#", true));
        // One that is not there, and one that no rule is about.
        let rights = shard.explain_rights("nobody", Some("anna"), "anna/x");
        assert!(!rights.known && rights.publish.allowed);
        let rights = shard.explain_rights("nobody", Some("carl"), "anna/x");
        assert_eq!(rights.publish.source, Some(Source::NoRule));
        let session = shard.sessions.find("c2").unwrap();
        assert_eq!(shard.guards.why_not(session, "c2", "anna/x"), None);
        assert!(shard.guards.why_not(session, "c2", "log").is_some());
    }
}
