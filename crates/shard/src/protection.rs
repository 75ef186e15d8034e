//! What keeps one client, one address or one listener from taking what belongs to all.
//!
//! | file | what |
//! |---|---|
//! | `meter` | how much in how long: quotas of connects, rates of publications |
//! | `stock` | what the clients of a listener may have retained together |
//! | `together` | what all clients of a listener may publish together |
//! | `by_listener` | what came by each listener, for whoever looks |
//! | `crowd` | connections by address and listener, for all shards together |
//! | `bans` | who may not connect for now |
//! | `names` | which client identifiers and user names are let in |
//!
//! # What happens at each limit
//! | limit | beyond it |
//! |---|---|
//! | a ban, connections and connects of an address or a listener | closed at once, before anybody reads what it sends |
//! | connections before their CONNECT | the oldest of them goes, if it had a second; else the new one |
//! | publications and bytes of a client | it is not read from until it may publish again: nothing is dropped |
//! | publications and bytes of all clients of a listener | the same, one after the other |
//! | retained messages and bytes of a listener | delivered, not retained (0x97) |
//! | names | the CONNECT is refused |
//! | failed logins of an address, connects of a client | a ban |
//! | memory | no new session (0x89), nothing more is queued, retained or subscribed to (0x97); what flows, flows |
//!
//! # Cost
//! Where nothing is configured: one comparison at an accept and one for each packet, and no byte for a connection. What is
//! needed per client lies beside it, in [`Watch`], and only where it is configured.

mod bans;
mod by_listener;
mod crowd;
mod meter;
mod names;
mod stock;
#[cfg(test)]
mod tests;
mod together;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::RandomState;
use midge_codec::{Connect, ReasonCode};
use midge_metrics::{ConnectionRefusal, ConnectionState};
use midge_session::{Refusal, Time};
use midge_topic::TopicLimits;

use crate::action::Action;
use crate::connection::{Connection, Flags, State};
use crate::ids::{ConnectionId, ListenerId};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::tally::count_gone;

pub use bans::{Ban, BanSubject, Bans};
pub(crate) use by_listener::Happening;
pub use by_listener::{ListenerCounts, ListenerNumbers};
use crowd::Origin;
pub use crowd::{Crowd, LISTENERS_MAX};
use meter::Pace;
pub use meter::{Quota, Rates};
pub use names::NamePatterns;
pub use stock::RetainedQuota;
pub(crate) use stock::{Accounts, Counted};
pub use together::ListenerMeters;
use together::Share;

/// How long a connection may take to its CONNECT before it has to make room for another.
const HANDSHAKE_GRACE_NS: u64 = 1_000_000_000;

/// Clients whose connects are counted, in one shard: 1 MiB or so. Beyond it those that are quiet are forgotten, then no more
/// are counted.
const COUNTED_CLIENTS_MAX: usize = 32_768;

/// Held connections that may go on in one turn.
const RELEASED_PER_TURN: usize = 256;

/// Limits that protect all from one; the same for all shards. The default protects from nothing.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// What each client may publish.
    pub rates: Rates,
    /// Connections of one address; 0: any number.
    pub connections_per_address_max: u32,
    /// Connects of one address.
    pub connects_per_address: Option<Quota>,
    /// Failed logins of one address, and what becomes of it then.
    pub failed_logins: Option<Penalty>,
    /// Connects of one client, and what becomes of it then.
    pub flapping: Option<Penalty>,
    /// Connections of this shard before their CONNECT; 0: any number.
    pub handshakes_max: usize,
    /// By number; those beyond the end have no limits of their own.
    pub listeners: Vec<ListenerProtection>,
    /// Client identifiers that are let in.
    pub client_ids: NamePatterns,
    /// User names that are let in.
    pub user_names: NamePatterns,
    /// Needed where connections or connects of addresses or listeners have a bound, or failed logins.
    pub crowd: Option<Arc<Crowd>>,
    /// Needed where all clients of a listener together have a limit.
    pub meters: Option<Arc<ListenerMeters>>,
    /// Where somebody looks at what comes by each listener.
    pub listener_counts: Option<Arc<ListenerCounts>>,
}

/// How often, and for how long banned beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    /// How often.
    pub quota: Quota,
    /// How long, in milliseconds.
    pub ban_ms: u64,
}

/// The limits of one listener; zero: that of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerProtection {
    /// A proxy in front says who the client is: the peer's own address counts for nothing.
    pub is_behind_proxy: bool,
    /// Connections.
    pub connections_max: u32,
    /// Connects.
    pub connects: Option<Quota>,
    /// What each of its clients may publish; where it has a bound, instead of [`Protection::rates`].
    pub rates: Rates,
    /// What all of its clients may publish together.
    pub rates_together: Rates,
    /// The largest packet, in bytes, if that is smaller.
    pub maximum_packet_size: u32,
    /// Subscriptions of a session, if those are fewer.
    pub subscriptions_per_client_max: usize,
    /// Levels of a topic or filter, if those are fewer.
    pub topic_levels_max: u16,
    /// What its clients may have retained together.
    pub retained: Option<Arc<RetainedQuota>>,
}

impl ListenerProtection {
    fn limits_connects(&self) -> bool {
        self.connections_max > 0 || self.connects.is_some()
    }
}

impl Protection {
    fn of(&self, listener: ListenerId) -> Option<&ListenerProtection> {
        self.listeners.get(usize::from(listener.0))
    }

    fn rates_of(&self, listener: ListenerId) -> Rates {
        let own = self.of(listener).map(|listener| listener.rates);
        own.filter(|rates| rates.is_bounded()).unwrap_or(self.rates)
    }

    fn rates_together(&self, listener: ListenerId) -> Rates {
        self.of(listener).map(|listener| listener.rates_together).unwrap_or_default()
    }

    /// Whether somebody asks by which listener a retained message came.
    pub(crate) fn counts_retained(&self) -> bool {
        self.listeners.iter().any(|one| one.retained.is_some())
    }

    /// What a retained message is to be counted under.
    pub(crate) fn retained_label(&self, listener: ListenerId) -> Option<&Arc<str>> {
        Some(&self.of(listener)?.retained.as_ref()?.label)
    }

    fn paces(&self) -> bool {
        let mut listeners = self.listeners.iter();
        self.rates.is_bounded()
            || listeners.any(|one| one.rates.is_bounded() || one.rates_together.is_bounded())
    }

    fn counts_addresses(&self) -> bool {
        self.connections_per_address_max > 0 || self.connects_per_address.is_some()
    }

    fn guards_accepts(&self) -> bool {
        self.handshakes_max > 0
            || self.counts_addresses()
            || self.listeners.iter().any(ListenerProtection::limits_connects)
    }
}

/// What one shard remembers of those who are limited. Empty where nobody is.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Somebody looks at accepts.
    guards: bool,
    /// Somebody looks at publications.
    pub(crate) paces: bool,
    bans: Option<Arc<Bans>>,
    by_connection: HashMap<ConnectionId, Pace, RandomState>,
    /// Connections that are not read from, by when they are again. One entry for each that has [`Flags::PACED`], and stale
    /// ones of those that are gone: drained by time.
    held: BinaryHeap<Reverse<(Time, ConnectionId, u32)>>,
    /// Of listeners whose clients have a rate together: one for each at most.
    shares: Vec<Share>,
    /// What a connection that is gone has said is taken whatever its pace.
    pub(crate) hurries: bool,
    /// Connections before their CONNECT, the oldest first, with stale entries; bounded by what comes in a connect timeout,
    /// and swept.
    handshaking: VecDeque<(Time, ConnectionId, u32)>,
    /// Meters of clients' connects, by a hash of their identifiers.
    flapping: HashMap<u64, u64, RandomState>,
    hasher: RandomState,
}

impl Watch {
    pub(crate) fn new(protection: &Protection, hasher: RandomState) -> Self {
        Self {
            guards: protection.guards_accepts(),
            paces: protection.paces(),
            bans: None,
            by_connection: HashMap::with_hasher(hasher.clone()),
            held: BinaryHeap::new(),
            shares: Vec::new(),
            hurries: false,
            handshaking: VecDeque::new(),
            flapping: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    fn look_at(&mut self, protection: &Protection) {
        self.guards = protection.guards_accepts() || self.bans.is_some();
        self.paces = protection.paces();
    }

    /// When the first of those who are held may go on.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let held = self.held.peek().map(|Reverse((at, ..))| *at);
        self.shares.iter().filter_map(Share::due).chain(held).min()
    }
}

impl Shard {
    /// New limits: what is there stays, also beyond them, and what comes is held to them. What clients were told when they
    /// connected (what is offered, the largest packet, the receive maximum) must not shrink; the outboxes keep their bounds.
    /// Who may do what is for [`Shard::handle_security`].
    pub fn handle_settings(&mut self, settings: Arc<Settings>) {
        self.watch.look_at(&settings.protection);
        self.watch.shares.iter_mut().for_each(Share::begin_anew);
        let earlier = &self.full_settings.protection;
        self.retained.accounts.settle(earlier, &settings.protection, self.shards);
        self.full_settings = settings;
        self.press();
    }

    /// Memory is short, or it is not any more.
    pub fn handle_pressure(&mut self, is_pressed: bool) {
        self.is_pressed = is_pressed;
        self.press();
    }

    fn press(&mut self) {
        self.settings = if self.is_pressed {
            Arc::new(Settings {
                queued_bytes_max: 0,
                retained_bytes_max: 0,
                subscriptions_per_client_max: 0,
                share_backlog_messages_max: 0,
                ..(*self.full_settings).clone()
            })
        } else {
            Arc::clone(&self.full_settings)
        };
    }

    /// Whether there is memory for one more session.
    pub(crate) fn has_memory(&self) -> bool {
        !self.is_pressed
    }

    /// All bans; `None`: nobody is banned. Who is connected stays.
    pub fn handle_bans(&mut self, bans: Option<Arc<Bans>>) {
        self.watch.bans = bans;
        let settings = Arc::clone(&self.settings);
        self.watch.look_at(&settings.protection);
    }

    // Connections

    /// Looks at a connection that was just accepted: what it counts as, or why it must go.
    pub(crate) fn look_at_newcomer(
        &mut self,
        peer: SocketAddr,
        listener: ListenerId,
    ) -> Result<u16, ConnectionRefusal> {
        if !self.watch.guards {
            return Ok(0);
        }
        let settings = Arc::clone(&self.settings);
        let protection = &settings.protection;
        let none = ListenerProtection::default();
        let own = protection.of(listener).unwrap_or(&none);
        self.make_room_before_connect(protection.handshakes_max)?;
        // Before anything is counted.
        if !own.is_behind_proxy && self.is_banned(peer.ip()) {
            return Err(ConnectionRefusal::Banned);
        }
        let mut counted = 0;
        if let Some(crowd) = protection.crowd.as_deref()
            && own.limits_connects()
        {
            if own.connects.is_some_and(|quota| !crowd.connect_by(listener, quota, self.now)) {
                return Err(ConnectionRefusal::ListenerRate);
            }
            let count = crowd.enter_by(listener);
            if own.connections_max > 0 && count > own.connections_max {
                crowd.leave_by(listener);
                return Err(ConnectionRefusal::ListenerLimit);
            }
            counted |= Flags::COUNTED_BY_LISTENER;
        }
        if !own.is_behind_proxy {
            match self.look_at_address(peer.ip()) {
                Ok(address) => counted |= address,
                Err(refusal) => {
                    if counted != 0
                        && let Some(crowd) = protection.crowd.as_deref()
                    {
                        crowd.leave_by(listener);
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(counted)
    }

    fn look_at_address(&self, address: IpAddr) -> Result<u16, ConnectionRefusal> {
        let protection = &self.settings.protection;
        let Some(crowd) = protection.crowd.as_deref().filter(|_| protection.counts_addresses())
        else {
            return Ok(0);
        };
        let Some(origin) = Origin::of(address) else { return Ok(0) };
        let quota = protection.connects_per_address;
        if quota.is_some_and(|quota| !crowd.connect(origin, quota, self.now)) {
            return Err(ConnectionRefusal::AddressRate);
        }
        let count = crowd.enter(origin);
        let most = protection.connections_per_address_max;
        if most > 0 && count > most {
            crowd.leave(origin);
            return Err(ConnectionRefusal::AddressLimit);
        }
        Ok(Flags::COUNTED_BY_ADDRESS)
    }

    fn is_banned(&self, address: IpAddr) -> bool {
        let bans = self.watch.bans.as_ref();
        !address.is_unspecified() && bans.is_some_and(|bans| bans.has_address(address, self.now))
    }

    /// A connection is in the table, and counts as this from now on.
    pub(crate) fn count_newcomer(&mut self, id: ConnectionId, counted: u16) {
        let waits = self.watch.guards && self.settings.protection.handshakes_max > 0;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.flags.set(counted, true);
        if waits {
            self.watch.handshaking.push_back((self.now, id, connection.serial));
        }
    }

    /// A connection that was accepted elsewhere has come home: it was let in already, and counts here from now on.
    pub(crate) fn count_arrival(&mut self, id: ConnectionId) {
        if !self.watch.guards {
            return;
        }
        let settings = Arc::clone(&self.settings);
        let Some(crowd) = settings.protection.crowd.as_deref() else { return };
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let own = settings.protection.of(connection.listener);
        if own.is_some_and(ListenerProtection::limits_connects) {
            crowd.enter_by(connection.listener);
            connection.flags.set(Flags::COUNTED_BY_LISTENER, true);
        }
        let address = SocketAddr::from(connection.peer).ip();
        if settings.protection.counts_addresses()
            && let Some(origin) = Origin::of(address)
        {
            crowd.enter(origin);
            connection.flags.set(Flags::COUNTED_BY_ADDRESS, true);
        }
    }

    /// A trusted proxy has said who a connection's client is. Whether it may stay.
    pub(crate) fn look_at_client_address(&mut self, id: ConnectionId) -> bool {
        if !self.watch.guards {
            return true;
        }
        let Some(connection) = self.connections.get(id.0) else { return false };
        let own = self.settings.protection.of(connection.listener);
        if !own.is_some_and(|own| own.is_behind_proxy) {
            return true;
        }
        let address = SocketAddr::from(connection.peer).ip();
        let verdict = if self.is_banned(address) {
            Err(ConnectionRefusal::Banned)
        } else {
            self.look_at_address(address)
        };
        match verdict {
            Ok(counted) => {
                if let Some(connection) = self.connections.get_mut(id.0) {
                    connection.flags.set(counted, true);
                }
                true
            }
            Err(refusal) => {
                self.note_refused_connection(id, refusal);
                self.close(id);
                false
            }
        }
    }

    /// Takes a connection out of the table.
    pub(crate) fn forget_connection(&mut self, id: ConnectionId) {
        let connection = self.connections.clear(id.0);
        if let Some(connection) = &connection {
            self.uncount(connection);
        }
        if !self.watch.by_connection.is_empty() {
            self.watch.by_connection.remove(&id);
        }
        if let Some(connection) = &connection {
            self.note_by_listener(connection.listener, Happening::Gone);
        }
        count_gone(connection, &mut self.counters);
    }

    fn uncount(&self, connection: &Connection) {
        let Some(crowd) = self.settings.protection.crowd.as_deref() else { return };
        if connection.flags.has(Flags::COUNTED_BY_LISTENER) {
            crowd.leave_by(connection.listener);
        }
        if connection.flags.has(Flags::COUNTED_BY_ADDRESS)
            && let Some(origin) = Origin::of(SocketAddr::from(connection.peer).ip())
        {
            crowd.leave(origin);
        }
    }

    /// Lets the oldest connection without a CONNECT go if there are too many of them.
    fn make_room_before_connect(&mut self, most: usize) -> Result<(), ConnectionRefusal> {
        if most == 0 {
            return Ok(());
        }
        let waiting = self.counters.connections_by_state_now[ConnectionState::Handshaking as usize];
        self.sweep_handshaking(most);
        if waiting < most as u64 {
            return Ok(());
        }
        let oldest = self.watch.handshaking.front().copied();
        match oldest.filter(|(since, ..)| self.now.since(*since) >= HANDSHAKE_GRACE_NS) {
            Some((_, id, _)) => {
                self.watch.handshaking.pop_front();
                self.note_refused_connection(id, ConnectionRefusal::Handshakes);
                self.close(id);
                Ok(())
            }
            None => Err(ConnectionRefusal::Handshakes),
        }
    }

    /// Forgets connections that have sent their CONNECT, or are gone: those in front, and all of them now and then.
    fn sweep_handshaking(&mut self, most: usize) {
        let Self { watch, connections, .. } = self;
        let waits = |id: ConnectionId, serial: u32| {
            connections
                .get(id.0)
                .is_some_and(|one| one.serial == serial && one.state == State::Handshaking)
        };
        let line = &mut watch.handshaking;
        while line.front().is_some_and(|(_, id, serial)| !waits(*id, *serial)) {
            line.pop_front();
        }
        if line.len() > 2 * most + 64 {
            line.retain(|(_, id, serial)| waits(*id, *serial));
        }
    }

    // Clients

    /// Why a client may not even try to connect, by what it calls itself.
    pub(crate) fn look_at_names(&self, connect: &Connect<'_>) -> Option<Refusal> {
        let protection = &self.settings.protection;
        let refuse = |reason_code, reason| Some(Refusal { reason_code, reason });
        if !protection.client_ids.allow(connect.client_id, connect.username) {
            let reason = "such client identifiers are not let in here";
            return refuse(ReasonCode::ClientIdentifierNotValid, reason);
        }
        if let Some(user) = connect.username
            && !protection.user_names.allow(user, Some(user))
        {
            let reason = "the user name or the password is wrong";
            return refuse(ReasonCode::BadUserNameOrPassword, reason);
        }
        let bans = self.watch.bans.as_ref()?;
        if bans.has_client(connect.client_id, self.now) {
            return refuse(ReasonCode::Banned, "this client may not connect for now");
        }
        None
    }

    /// A client that has proved who it is connects: whether it does so too often.
    pub(crate) fn is_flapping(&mut self, client_id: &str) -> bool {
        let Some(penalty) = self.settings.protection.flapping else { return false };
        let now = self.now;
        let meters = &mut self.watch.flapping;
        let client = self.watch.hasher.hash_one(client_id);
        if meters.len() >= COUNTED_CLIENTS_MAX && !meters.contains_key(&client) {
            meters.retain(|_, meter| *meter > now.as_nanos());
            if meters.len() >= COUNTED_CLIENTS_MAX {
                return false;
            }
        }
        let meter = meters.entry(client).or_default();
        if penalty.quota.allows(*meter, now) {
            *meter = penalty.quota.take(*meter, now);
            return false;
        }
        // It begins anew when its ban ends.
        meters.remove(&client);
        let subject = BanSubject::Client(client_id.into());
        self.ban(subject, penalty.ban_ms, "it connected too often");
        true
    }

    /// A login has failed, or what came was no CONNECT.
    pub(crate) fn note_failed_login(&mut self, id: ConnectionId) {
        let settings = Arc::clone(&self.settings);
        let (Some(penalty), Some(crowd)) =
            (settings.protection.failed_logins, settings.protection.crowd.as_deref())
        else {
            return;
        };
        let Some(connection) = self.connections.get(id.0) else { return };
        let address = SocketAddr::from(connection.peer).ip();
        let Some(origin) = Origin::of(address) else { return };
        if !crowd.fail(origin, penalty.quota, self.now) {
            crowd.forgive(origin);
            let subject = BanSubject::Address(address);
            self.ban(subject, penalty.ban_ms, "too many of its logins failed");
        }
    }

    fn ban(&mut self, subject: BanSubject, ban_ms: u64, cause: &'static str) {
        self.counters.bans += 1;
        let until = self.now.plus_millis(ban_ms);
        self.actions.push_back(Action::Ban(Ban { subject: subject.canonical(), until, cause }));
    }

    /// The largest packet that a listener's clients may send.
    #[inline]
    pub(crate) fn packet_size_max(&self, listener: ListenerId) -> u32 {
        let all = self.settings.limits.maximum_packet_size;
        match self.settings.protection.of(listener) {
            Some(own) if own.maximum_packet_size > 0 => own.maximum_packet_size.min(all),
            _ => all,
        }
    }

    /// Subscriptions that a session may have while it is served by a connection of a listener.
    pub(crate) fn subscriptions_max(&self, id: Option<ConnectionId>) -> usize {
        let all = self.settings.subscriptions_per_client_max;
        let connection = id.and_then(|id| self.connections.get(id.0));
        match connection.and_then(|one| self.settings.protection.of(one.listener)) {
            Some(own) if own.subscriptions_per_client_max > 0 => {
                own.subscriptions_per_client_max.min(all)
            }
            _ => all,
        }
    }

    /// How deep topics and filters of a client may be.
    #[inline]
    pub(crate) fn topic_limits(&self, id: ConnectionId) -> TopicLimits {
        if self.settings.protection.listeners.is_empty() {
            return self.settings.topic_limits;
        }
        self.topic_limits_by_listener(id)
    }

    #[cold]
    fn topic_limits_by_listener(&self, id: ConnectionId) -> TopicLimits {
        let all = self.settings.topic_limits;
        let connection = self.connections.get(id.0);
        match connection.and_then(|one| self.settings.protection.of(one.listener)) {
            Some(own) if own.topic_levels_max > 0 => {
                TopicLimits { levels_max: own.topic_levels_max.min(all.levels_max), ..all }
            }
            _ => all,
        }
    }

    // Publications

    /// Whether a client may publish now; if not, it is not read from until it may.
    #[cold]
    pub(crate) fn may_publish_now(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(id.0) else { return true };
        if self.watch.hurries {
            return true;
        }
        let listener = connection.listener;
        let rates = self.settings.protection.rates_of(listener);
        let due = self.watch.by_connection.get(&id).map_or(Time::ZERO, |pace| pace.due(rates));
        if due <= self.now {
            return self.may_publish_together(id, listener);
        }
        connection.flags.set(Flags::PACED, true);
        self.watch.held.push(Reverse((due, id, connection.serial)));
        self.counters.publishers_paced += 1;
        self.note_by_listener(listener, Happening::Paced);
        self.actions.push_back(Action::Pause(id));
        false
    }

    /// A client has published one packet of so many bytes.
    #[cold]
    pub(crate) fn charge_publish(&mut self, id: ConnectionId, size: usize) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let listener = connection.listener;
        let rates = self.settings.protection.rates_of(listener);
        if rates.is_bounded() {
            self.watch.by_connection.entry(id).or_default().charge(rates, size, self.now);
        }
        self.charge_together(id, listener, size);
    }

    /// Goes on with those who may publish again.
    pub(crate) fn run_held(&mut self) {
        if !self.watch.shares.is_empty() {
            self.call_from_lines();
        }
        for _ in 0..RELEASED_PER_TURN {
            let Some(Reverse((at, id, serial))) = self.watch.held.peek().copied() else { return };
            if at > self.now {
                return;
            }
            self.watch.held.pop();
            let current = self.connections.get_mut(id.0).filter(|one| one.serial == serial);
            if let Some(connection) = current {
                // We did not read from it, so its silence was ours.
                connection.hear(self.now);
                self.release(id, Flags::PACED);
            }
        }
    }

    /// Closes a connection that is not let near.
    pub(crate) fn refuse_newcomer(
        &mut self,
        id: ConnectionId,
        listener: ListenerId,
        refusal: ConnectionRefusal,
    ) {
        self.counters.connections_refused[refusal as usize] += 1;
        self.note_by_listener(listener, Happening::Refused);
        self.actions.push_back(Action::Close(id));
    }
}
