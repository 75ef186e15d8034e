//! Clients that behave: their state, and what they do on their own account. What they do with what they receive is in
//! `receive.rs`.
//!
//! A client keeps what the specification asks a client to keep (packet ids in use, QoS 2 ids received, its subscriptions) and, for
//! the oracle, everything that it was told. To add a behaviour: a new arm in [`Client::act_connected`], its effect on
//! the state, and what it promises in `oracle.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};

use midge_codec::{
    Connect, ConnectProperties, Disconnect, PacketId, PingReq, ProtocolVersion, PubRel, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFilter, Unsubscribe,
    UserProperties, Will, WillProperties,
};

use crate::coverage::Situation;
use crate::net::{End, Event, MS, NEVER, Net, PipeId, SECOND};
use crate::oracle::{Oracle, Pub, PubId, SIZE_ALWAYS_TAKEN, WillLog, covers};
use crate::prng::Prng;

/// Members of these groups never ask for QoS 0, so that nothing may get lost there.
pub const RELIABLE_GROUP: &str = "$share/g0/";

/// Session Expiry Interval: never.
const EXPIRY_NEVER: u32 = u32::MAX;

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Publishes and subscribes.
    Plain,
    /// Subscribes to one shared subscription, and publishes.
    Sharer,
    /// Never faulty: receives wills.
    Watcher,
}

/// One SUBSCRIBE's filter, from the question to its end.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The filter.
    pub filter: String,
    /// Asked for.
    pub qos: QoS,
    /// No own messages.
    pub no_local: bool,
    /// RETAIN as published.
    pub retain_as_published: bool,
    /// Subscription Identifier.
    pub identifier: Option<u32>,
    /// SUBSCRIBE written.
    pub asked: u64,
    /// SUBACK came.
    pub active: Option<u64>,
    /// UNSUBSCRIBE or a SUBSCRIBE that replaces it was written.
    pub ending: Option<u64>,
    /// That was answered.
    pub ended: Option<u64>,
    /// Since when there was one for this filter without a gap, the lowest QoS on the way, and whether one was No Local.
    pub chain: Option<(u64, QoS, bool)>,
}

/// What a request was, until it is answered.
#[derive(Debug, Clone)]
pub enum Request {
    /// These subscriptions, by place, and those that they replace.
    Subscribe(Vec<(usize, Option<usize>)>),
    /// These filters.
    Unsubscribe(Vec<Option<usize>>),
}

/// A publication under way to the broker.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    /// Its packet id.
    pub packet_id: u16,
    /// Which.
    pub publication: PubId,
    /// Its QoS.
    pub qos: QoS,
    /// PUBREC came: PUBREL is what is repeated.
    pub released: bool,
}

/// Whether the broker has a session of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Certainly not.
    None,
    /// Perhaps.
    Maybe,
    /// It did when the connection ended, with this expiry in seconds.
    Exists(u32),
}

/// One connection, as the client sees it.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub pipe: PipeId,
    /// CONNECT written.
    pub since: u64,
    /// CONNACK came.
    pub answered: Option<u64>,
    /// What CONNECT said.
    pub clean_start: bool,
    /// What CONNECT said; for older versions what it means.
    pub expiry: u32,
    /// CONNECT had no expiry, so DISCONNECT must not have one.
    pub no_expiry: bool,
    /// Bytes of an incomplete packet.
    pub input: Vec<u8>,
    /// The broker's aliases.
    pub aliases_in: BTreeMap<u16, String>,
    /// Our aliases.
    pub aliases_out: BTreeMap<String, u16>,
    /// What the broker allows.
    pub alias_maximum: u16,
    /// What the broker allows.
    pub receive_maximum: u16,
    /// What we allow.
    pub own_receive_maximum: u16,
    /// What we allow.
    pub own_alias_maximum: u16,
    /// What we allow.
    pub maximum_packet_size: u32,
    /// In force, seconds.
    pub keep_alive: u64,
    /// When we last wrote a packet.
    pub written_at: u64,
    /// PINGREQ under way: QoS 0 publications before each.
    pub pings: VecDeque<usize>,
    /// QoS 0 publications on this connection.
    pub plain: Vec<PubId>,
    /// Received and not yet acknowledged to the end.
    pub unacknowledged: BTreeSet<u16>,
    /// Acknowledgements that we have not written yet.
    pub held: VecDeque<(u16, bool, Vec<u8>)>,
    /// PUBACKs that we wait for, in order; PUBRECs likewise.
    pub expected: [VecDeque<u16>; 2],
    /// We have said goodbye.
    pub goodbye: bool,
    /// Not reading until then.
    pub deaf_until: u64,
}

/// What the client knows of one publication.
#[derive(Debug, Clone, Copy, Default)]
pub struct Receipt {
    /// Copies that were published to us.
    pub live: u32,
    /// Copies because it was retained.
    pub retained: u32,
    /// How often it may have been published to us.
    pub sends: u32,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its place.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// What it is for.
    pub kind: Kind,
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Its choices.
    pub prng: Prng,
    /// Its present connection.
    pub link: Option<Link>,
    /// The one before.
    pub last_pipe: Option<PipeId>,
    /// When its last connection ended, as far as it knows.
    pub ended_at: u64,
    /// What the broker may have of it.
    pub belief: Belief,
    /// Everything subscribed in this session.
    pub subscriptions: Vec<Subscription>,
    /// Requests under way.
    pub requests: BTreeMap<u16, Request>,
    /// Publications under way, in order.
    pub outgoing: VecDeque<Outgoing>,
    /// QoS 2 ids received and not released.
    pub unreleased: BTreeMap<u16, PubId>,
    /// The publication that each packet id last carried.
    pub carried: BTreeMap<u16, PubId>,
    /// Receipts of this session, by publication.
    pub receipts: BTreeMap<PubId, Receipt>,
    /// The last number first received, by publisher, topic and QoS at both ends.
    pub orders: BTreeMap<(usize, String, u8), PubId>,
    next_packet_id: u16,
    persistent: bool,
    share: String,
    /// The run is settling: come back, finish, do nothing new.
    pub calm: bool,
    /// The run ends: leave nothing behind.
    pub leaving: bool,
    /// Left nothing behind.
    pub left: bool,
    act_us: u64,
    /// The smallest Maximum Packet Size of this session's connections.
    packet_size_min: u32,
    /// A CONNECT that was not answered may have begun a new session, in place of one that had expired or because it said
    /// Clean Start: begin anew.
    pub must_clean: bool,
}

impl Client {
    /// A client that has never connected.
    #[must_use]
    pub fn new(seed: u64, index: usize, kind: Kind, act_us: u64) -> Self {
        let mut prng = Prng::new(seed, 0x1000 + index as u64);
        let version = match kind {
            Kind::Watcher => ProtocolVersion::V311,
            Kind::Plain | Kind::Sharer => prng.pick(&[
                ProtocolVersion::V31,
                ProtocolVersion::V311,
                ProtocolVersion::V5,
                ProtocolVersion::V5,
            ]),
        };
        let persistent = kind == Kind::Watcher || prng.permille(750);
        let share =
            format!("$share/g{}/{}", prng.below(2), prng.pick(&["s/0", "s/1", "s/+", "s/0"]));
        Self {
            index,
            id: format!("c{index}"),
            kind,
            version,
            prng,
            link: None,
            last_pipe: None,
            ended_at: 0,
            belief: Belief::None,
            subscriptions: Vec::new(),
            requests: BTreeMap::new(),
            outgoing: VecDeque::new(),
            unreleased: BTreeMap::new(),
            carried: BTreeMap::new(),
            receipts: BTreeMap::new(),
            orders: BTreeMap::new(),
            next_packet_id: 0,
            persistent,
            share,
            calm: false,
            leaving: false,
            left: false,
            act_us,
            packet_size_min: u32::MAX,
            must_clean: false,
        }
    }

    /// Makes it a newcomer: a clean session of its own.
    pub fn audit(&mut self) {
        self.persistent = false;
    }

    /// Its session outlives its connections.
    pub fn last(&mut self) {
        self.persistent = true;
    }

    // What the oracle asks.

    /// Whether its session outlives its connections.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.persistent
    }

    /// Whether this is the group that it joins and leaves.
    #[must_use]
    pub fn shares(&self, group: &str) -> bool {
        self.kind == Kind::Sharer && self.share == group
    }

    /// Whether the broker may have a subscription of its session.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Copies of a publication that this session received.
    #[must_use]
    pub fn received_count(&self, id: PubId) -> u32 {
        self.receipts.get(&id).map_or(0, |receipt| receipt.live + receipt.retained)
    }

    /// The QoS at which this session certainly wants a publication; `None` when that is not certain.
    #[must_use]
    pub fn certain(&self, publication: &Pub) -> Option<QoS> {
        Self::certain_among(&self.chains(&publication.topic), self.index, publication)
    }

    /// Subscriptions to a topic that stand: since when, the lowest QoS since, and whether one was No Local.
    #[must_use]
    pub fn chains(&self, topic: &str) -> Vec<(u64, QoS, bool)> {
        let standing = self.subscriptions.iter().filter(|one| {
            one.ending.is_none() && one.active.is_some() && covers(&one.filter, topic)
        });
        standing.filter_map(|one| one.chain).collect()
    }

    /// As [`Client::certain`], for many publications to one topic.
    #[must_use]
    pub fn certain_among(
        chains: &[(u64, QoS, bool)],
        client: usize,
        publication: &Pub,
    ) -> Option<QoS> {
        let wanted = chains.iter().filter(|(since, _, no_local)| {
            *since < publication.first_sent && !(*no_local && publication.publisher == client)
        });
        wanted.map(|(_, qos, _)| *qos).max()
    }

    /// Since when it is connected without a break.
    #[must_use]
    pub fn connected_since(&self) -> Option<u64> {
        self.link.as_ref().and_then(|link| link.answered)
    }

    /// Whether it may not get a publication because of its size.
    #[must_use]
    pub fn too_large(&self, publication: &Pub) -> bool {
        // Once any connection of the session had a limit, a large message may be gone. Topic, properties and identifiers
        // come to 90 bytes at most.
        publication.size > SIZE_ALWAYS_TAKEN
            && publication.size + 90 > self.packet_size_min as usize
    }

    /// Whether nothing of it is under way.
    #[must_use]
    pub fn unfinished(&self, now: u64) -> Option<&'static str> {
        let Some(link) = &self.link else { return Some("it is not connected") };
        if link.answered.is_none() {
            return Some("no CONNACK came");
        }
        if !self.outgoing.is_empty() {
            return Some("a publication was not acknowledged");
        }
        if !self.requests.is_empty() {
            return Some("a request was not answered");
        }
        if !link.pings.is_empty() && now - link.written_at > 2 * SECOND {
            return Some("a PINGREQ was not answered");
        }
        if !link.held.is_empty() || !link.unacknowledged.is_empty() {
            return Some("the broker does not finish a QoS 2 message");
        }
        None
    }

    // Acting.

    /// Plans the next act.
    pub fn plan(&mut self, net: &mut Net, after: u64) {
        net.at(net.now + after.max(1), Event::Act(self.index));
    }

    fn pause(&mut self) -> u64 {
        let mean = if self.calm { 30_000 } else { self.act_us };
        self.prng.between(mean / 10, mean * 2) * 1_000
    }

    /// Does something.
    pub fn act(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let mut pause = self.pause();
        let state =
            self.link.as_ref().map(|link| (link.answered.is_some(), link.since, link.goodbye));
        match state {
            None if self.left => return,
            None => self.connect(net, oracle),
            Some((false, since, _)) => {
                // The CONNACK may never come: hand-overs fail, connections get lost.
                if net.now - since > 20 * SECOND {
                    self.drop_link(net, oracle, Some(End::Reset));
                }
            }
            Some((true, _, true)) => {
                // Waiting for the broker to close after our goodbye.
            }
            Some((true, _, false)) => {
                self.flush_held(net, usize::MAX);
                if self.leaving {
                    self.leave(net, oracle);
                } else if self.calm {
                    self.keep_alive(net, true);
                } else {
                    self.act_connected(net, oracle);
                }
            }
        }
        if self.link.is_none() && !self.calm && self.kind != Kind::Watcher {
            pause = match self.prng.below(10) {
                0..6 => self.prng.between(MS, 300 * MS),
                6..9 => self.prng.between(MS, 4 * SECOND),
                _ => self.prng.between(SECOND, 25 * SECOND),
            };
        }
        self.plan(net, pause);
    }

    fn act_connected(&mut self, net: &mut Net, oracle: &mut Oracle) {
        self.keep_alive(net, false);
        if self.kind == Kind::Watcher {
            return;
        }
        let knobs = (
            net.knobs.cut,
            net.knobs.vanish,
            net.knobs.take_over,
            net.knobs.goodbye,
            net.knobs.deaf,
        );
        let mut dice = self.prng.below(1000);
        let mut chosen = |permille: u64| {
            let hit = dice < permille;
            dice = if hit { u64::MAX } else { dice.saturating_sub(permille) };
            hit
        };
        if chosen(knobs.0) {
            self.cut(net, oracle);
        } else if chosen(knobs.1) {
            net.hit(Situation::HalfOpen);
            self.log(net, "vanishes");
            self.drop_link(net, oracle, None);
        } else if chosen(knobs.2) {
            self.take_over(net, oracle);
        } else if chosen(knobs.3) {
            self.say_goodbye(net, oracle);
        } else if chosen(knobs.4) {
            let until = net.now + self.prng.between(MS, 3 * SECOND);
            if let Some(link) = self.link.as_mut() {
                net.hit(Situation::Deaf);
                link.deaf_until = until;
                net.pipes[link.pipe].reading = false;
            }
        } else if chosen(60) {
            self.subscribe(net, oracle);
        } else if chosen(25) {
            self.unsubscribe(net, oracle);
        } else if chosen(30) {
            self.ping(net);
        } else {
            let count = if self.prng.permille(150) { self.prng.between(2, 25) } else { 1 };
            let burst = self.prng.permille(600);
            let topic = self.topic();
            for _ in 0..count {
                let topic = if burst { topic.clone() } else { self.topic() };
                self.publish(net, oracle, topic, burst && count > 1);
            }
        }
        if let Some(link) = self.link.as_mut()
            && !net.pipes[link.pipe].reading
            && link.deaf_until <= net.now
        {
            net.pipes[link.pipe].reading = true;
            net.at(net.now, Event::Down(link.pipe));
        }
    }

    fn topic(&mut self) -> String {
        match self.prng.below(10) {
            0..5 => format!("t/{}/{}", self.prng.below(3), self.prng.below(3)),
            5..7 => format!("r/{}/{}", self.index, self.prng.below(3)),
            _ => format!("s/{}", self.prng.below(2)),
        }
    }

    fn filter(&mut self) -> String {
        match self.prng.below(12) {
            0..4 => format!("t/{}/{}", self.prng.below(3), self.prng.below(3)),
            4 => format!("t/+/{}", self.prng.below(3)),
            5 => format!("t/{}/#", self.prng.below(3)),
            6 => format!("+/{}/+", self.prng.below(3)),
            7 => "r/#".to_owned(),
            8 => format!("r/{}/{}", self.prng.below(6), self.prng.below(3)),
            9 => "r/+/1".to_owned(),
            10 => format!("s/{}", self.prng.below(2)),
            _ => "#".to_owned(),
        }
    }

    /// A line in the trace.
    pub fn log(&self, net: &mut Net, what: &str) {
        net.trace.line(net.now, format_args!("{} {what}", self.id));
    }

    // Connecting.

    fn connect(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let v5 = self.version.is_v5();
        let clean_start = match (self.leaving, self.persistent, v5) {
            (true, ..) => true,
            (_, false, _) => true,
            _ if self.must_clean => true,
            // A 3.1 client is not told whether there was a session, so it never asks for another kind.
            (_, true, _) if self.version == ProtocolVersion::V31 || self.calm => false,
            (_, true, _) => self.prng.permille(60) && self.kind == Kind::Plain,
        };
        let expiry = match (v5, self.persistent && !self.leaving) {
            (true, true) => Some(self.prng.pick(&[2, 10, 30, EXPIRY_NEVER, EXPIRY_NEVER])),
            (true, false) => self.prng.pick(&[None, Some(0)]),
            (false, _) => None,
        };
        let effective = match (v5, clean_start) {
            (true, _) => expiry.unwrap_or(0),
            (false, true) => 0,
            (false, false) => EXPIRY_NEVER,
        };
        let keep_alive = match self.kind {
            Kind::Watcher => 0,
            _ => self.prng.pick(&[0, 0, 2, 4, 10]),
        };
        let receive_maximum = self.prng.pick(&[0, 1, 2, 7, 100]) as u16;
        let alias_maximum = self.prng.pick(&[0, 0, 1, 2, 10]) as u16;
        let maximum_packet_size =
            if self.prng.permille(100) { self.prng.pick(&[150, 400]) } else { 0 };
        let has_will = !self.calm && self.kind != Kind::Watcher && self.prng.permille(400);
        let will_qos = self.prng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let delay = if v5 { self.prng.pick(&[0, 0, 1, 4, 20]) } else { 0 };
        let will_expiry = (v5 && self.prng.permille(200)).then_some(1000);
        let will = has_will.then(|| {
            let id = oracle.publish(Pub {
                publisher: self.index,
                topic: format!("w/{}", self.index),
                qos: will_qos,
                retain: false,
                empty: false,
                size: 10,
                expiry: will_expiry,
                first_sent: net.now,
                last_sent: net.now,
                sends: 1,
                accepted: None,
                unmatched: false,
                processed: false,
                will: true,
                version: self.version,
            });
            (id, format!("w/{}", self.index), payload(id, 10))
        });

        let pipe = net.connect(self.index);
        let mut connect = Connect::new(self.version, &self.id);
        connect.clean_start = clean_start;
        connect.keep_alive_seconds = keep_alive as u16;
        if v5 {
            connect.properties = ConnectProperties {
                session_expiry_interval_seconds: expiry,
                receive_maximum: NonZeroU16::new(receive_maximum),
                maximum_packet_size: NonZeroU32::new(maximum_packet_size as u32),
                topic_alias_maximum: (alias_maximum > 0).then_some(alias_maximum),
                ..ConnectProperties::default()
            };
        }
        if let Some((_, topic, payload)) = &will {
            connect.will = Some(Will {
                qos: will_qos,
                retain: false,
                topic,
                payload,
                properties: WillProperties {
                    delay_interval_seconds: (delay > 0).then_some(delay as u32),
                    message_expiry_interval_seconds: will_expiry,
                    ..WillProperties::default()
                },
            });
        }
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        if let Some((publication, ..)) = will {
            oracle.wills.push(WillLog {
                publication,
                pipe,
                registered: false,
                goodbye: None,
                left_at: None,
                delay: delay.min(u64::from(effective)),
                verdict: crate::oracle::Verdict::Open,
            });
        }
        let cap = u64::from(net.knobs.keep_alive_seconds_max);
        let in_force = match keep_alive {
            0 if v5 => cap,
            asked if v5 && cap > 0 => asked.min(cap),
            asked => asked,
        };
        net.pipes[pipe].keep_alive = if in_force == 0 { NEVER } else { in_force * SECOND };
        net.pipes[pipe].packet_at = net.now;
        net.trace.line(
            net.now,
            format_args!(
                "{} connects as pipe {pipe}, {:?}, clean {clean_start}, expiry {effective}, will {:?}",
                self.id,
                self.version,
                will.as_ref().map(|will| will.0)
            ),
        );
        self.link = Some(Link {
            pipe,
            since: net.now,
            answered: None,
            clean_start,
            expiry: effective,
            no_expiry: expiry.unwrap_or(0) == 0,
            input: Vec::new(),
            aliases_in: BTreeMap::new(),
            aliases_out: BTreeMap::new(),
            alias_maximum: 0,
            receive_maximum: u16::MAX,
            own_receive_maximum: if v5 && receive_maximum > 0 { receive_maximum } else { u16::MAX },
            own_alias_maximum: if v5 { alias_maximum } else { 0 },
            maximum_packet_size: if v5 && maximum_packet_size > 0 {
                maximum_packet_size as u32
            } else {
                u32::MAX
            },
            keep_alive: in_force,
            written_at: net.now,
            pings: VecDeque::new(),
            plain: Vec::new(),
            unacknowledged: BTreeSet::new(),
            held: VecDeque::new(),
            expected: [VecDeque::new(), VecDeque::new()],
            goodbye: false,
            deaf_until: 0,
        });
        let limit = self.link.as_ref().map_or(u32::MAX, |link| link.maximum_packet_size);
        self.packet_size_min = self.packet_size_min.min(limit);
        net.write(pipe, bytes);
        // Packets may follow at once; the hand-over has to carry them.
        if self.outgoing.is_empty()
            && !self.calm
            && self.prng.permille(200)
            && self.kind == Kind::Plain
        {
            let topic = self.topic();
            self.publish_plain(net, oracle, topic);
        }
    }

    /// Writes bytes on the present connection.
    pub fn write(&mut self, net: &mut Net, bytes: Vec<u8>) {
        // Nothing follows a DISCONNECT [MQTT-3.14.4-2].
        if let Some(link) = self.link.as_mut().filter(|link| !link.goodbye) {
            link.written_at = net.now;
            net.write(link.pipe, bytes);
        }
    }

    // Ending.

    /// The broker's process is gone: a connection that it knew is reset.
    pub fn lose_broker(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let known = |link: &Link| net.pipes[link.pipe].server_end.is_some();
        if self.link.as_ref().is_some_and(known) {
            self.drop_link(net, oracle, Some(End::Reset));
        }
    }

    /// The present connection is over. `None`: without a word.
    pub fn drop_link(&mut self, net: &mut Net, oracle: &mut Oracle, how: Option<End>) {
        let Some(link) = self.link.take() else { return };
        match how {
            Some(how) => net.end(link.pipe, how),
            None => net.vanish(link.pipe),
        }
        self.ended(net, oracle, &link);
    }

    /// What the end of a connection means for the session.
    pub fn ended(&mut self, net: &mut Net, oracle: &mut Oracle, link: &Link) {
        let pipe = &mut net.pipes[link.pipe];
        pipe.client_end.get_or_insert(net.now);
        let earlier_end = self.ended_at;
        // A goodbye ends the session's connection when it is read, however late the socket is closed.
        self.ended_at = if link.goodbye { link.written_at } else { net.now };
        self.requests.clear();
        self.log(net, "has no connection");
        if link.answered.is_none() {
            // CONNECT may have been accepted, or not.
            if let Some(earlier) = self.last_pipe {
                oracle.judge_will(net, earlier, link.since, NEVER, link.clean_start);
            }
            let expired = match self.belief {
                Belief::None => false,
                Belief::Maybe => true,
                Belief::Exists(expiry) => {
                    expiry != EXPIRY_NEVER
                        && net.now >= earlier_end.saturating_add(u64::from(expiry) * SECOND)
                }
            };
            self.must_clean |=
                (expired || link.clean_start) && self.version != ProtocolVersion::V31;
            self.belief = match self.belief {
                Belief::None if link.expiry == 0 => Belief::None,
                Belief::None | Belief::Maybe | Belief::Exists(_) => Belief::Maybe,
            };
        } else {
            self.last_pipe = Some(link.pipe);
            self.belief = if link.expiry == 0 { Belief::None } else { Belief::Exists(link.expiry) };
        }
        if link.expiry == 0 && link.answered.is_some() {
            self.forget_session(net, oracle, Some(link.pipe));
        }
    }

    /// The broker has no session of ours any more.
    pub fn forget_session(&mut self, net: &mut Net, oracle: &mut Oracle, pipe: Option<PipeId>) {
        self.leave_groups(net, oracle, pipe);
        self.packet_size_min = self.link.as_ref().map_or(u32::MAX, |link| link.maximum_packet_size);
        self.subscriptions.clear();
        self.outgoing.clear();
        self.unreleased.clear();
        self.carried.clear();
        self.receipts.clear();
        self.orders.clear();
    }

    /// From now on it is no certain member of a group.
    fn leave_groups(&mut self, net: &Net, oracle: &mut Oracle, pipe: Option<PipeId>) {
        if self.kind == Kind::Sharer && !self.subscriptions.is_empty() {
            let group = oracle.groups.entry(self.share.clone()).or_default();
            group.departures.push((pipe, net.now));
            group.members.remove(&self.index);
            if group.members.is_empty() {
                group.empty_until = NEVER;
            }
        }
    }

    fn cut(&mut self, net: &mut Net, oracle: &mut Oracle) {
        net.hit(Situation::Cut);
        if self.prng.permille(500) {
            // In the middle of a packet: this publication must never appear.
            net.hit(Situation::CutInPacket);
            let topic = self.topic();
            let id = oracle.publish(self.publication(topic.clone(), QoS::AtMostOnce, false, 200));
            let publish =
                Publish { topic: &topic, payload: &payload(id, 200), ..Publish::default() };
            let mut bytes = Vec::new();
            publish.encode(self.version, &mut bytes);
            bytes.truncate(self.prng.between(1, bytes.len() as u64 - 1) as usize);
            self.write(net, bytes);
        }
        self.log(net, "is cut");
        let how = if self.prng.permille(700) { End::Reset } else { End::Fin };
        self.drop_link(net, oracle, Some(how));
    }

    fn take_over(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let Some(link) = self.link.take() else { return };
        self.log(net, "connects a second time");
        match self.prng.below(3) {
            0 => net.end(link.pipe, End::Fin),
            1 => net.end(link.pipe, End::Reset),
            _ => {}
        }
        self.ended(net, oracle, &link);
        self.connect(net, oracle);
    }

    fn say_goodbye(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let Some(link) = self.link.as_mut() else { return };
        let mut disconnect = Disconnect::default();
        if self.version.is_v5() {
            if self.prng.permille(200) {
                disconnect.reason_code = ReasonCode::DisconnectWithWill;
            }
            if !link.no_expiry && self.prng.permille(300) {
                let expiry = self.prng.pick(&[0, 5, EXPIRY_NEVER]);
                disconnect.session_expiry_interval_seconds = Some(expiry);
                // Whether it is read before the connection ends is not certain.
                if let Some(will) = oracle.will_of(link.pipe)
                    && will.delay != 0
                {
                    will.verdict = crate::oracle::Verdict::May;
                }
            }
        }
        let changed = disconnect.session_expiry_interval_seconds.is_some();
        let mut bytes = Vec::new();
        disconnect.encode(self.version, &mut bytes);
        let pipe = link.pipe;
        if let Some(will) = oracle.will_of(pipe) {
            will.left_at = Some(net.now);
        }
        if disconnect.reason_code == ReasonCode::Success
            && let Some(will) = oracle.will_of(pipe)
        {
            will.goodbye = Some(net.pipes[pipe].written + bytes.len() as u64);
        }
        net.trace.line(net.now, format_args!("{} says goodbye {disconnect:?}", self.id));
        self.write(net, bytes);
        if let Some(link) = self.link.as_mut() {
            link.goodbye = true;
        }
        // Most close at once, some wait for the broker to do it.
        if self.prng.permille(600) || changed {
            self.drop_link(net, oracle, Some(End::Fin));
        }
        if changed {
            // Perhaps it was read, perhaps not.
            self.belief = Belief::Maybe;
            self.leave_groups(net, oracle, Some(pipe));
        }
    }

    /// At the end of the run: leaves nothing behind.
    fn leave(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let Some(link) = self.link.as_ref() else { return };
        if link.clean_start && link.expiry == 0 {
            self.left = true;
        }
        // Otherwise it comes back with a clean start, which ends the session.
        let pipe = link.pipe;
        let mut bytes = Vec::new();
        Disconnect::default().encode(self.version, &mut bytes);
        if let Some(will) = oracle.will_of(pipe) {
            will.goodbye = Some(net.pipes[pipe].written + bytes.len() as u64);
        }
        self.log(net, "leaves");
        self.write(net, bytes);
        self.drop_link(net, oracle, Some(End::Fin));
    }

    // Requests.

    fn packet_id(&mut self) -> Option<u16> {
        for _ in 0..100 {
            self.next_packet_id = self.next_packet_id % u16::MAX + 1;
            let id = self.next_packet_id;
            if !self.requests.contains_key(&id) && self.outgoing.iter().all(|o| o.packet_id != id) {
                return Some(id);
            }
        }
        None
    }

    /// Sends PINGREQ when it is time, or at once.
    fn keep_alive(&mut self, net: &mut Net, always: bool) {
        let Some(link) = &self.link else { return };
        let due = link.keep_alive > 0 && net.now - link.written_at > link.keep_alive * SECOND / 2;
        if due || (always && link.pings.is_empty() && net.now - link.written_at > SECOND) {
            self.ping(net);
        }
    }

    fn ping(&mut self, net: &mut Net) {
        let Some(link) = self.link.as_mut() else { return };
        link.pings.push_back(link.plain.len());
        let mut bytes = Vec::new();
        PingReq.encode(&mut bytes);
        self.write(net, bytes);
    }

    /// Writes acknowledgements that were held back.
    pub fn flush_held(&mut self, net: &mut Net, most: usize) {
        for _ in 0..most {
            let Some(link) = self.link.as_mut() else { return };
            let Some((packet_id, last, bytes)) = link.held.pop_front() else { return };
            if last {
                link.unacknowledged.remove(&packet_id);
            }
            self.write(net, bytes);
        }
    }

    /// The watcher's, and a test's, subscription to one filter.
    pub fn subscribe_to(&mut self, net: &mut Net, oracle: &mut Oracle, filter: &str, qos: QoS) {
        let one = SubscribeFilter { filter, qos, ..SubscribeFilter::default() };
        self.send_subscribe(net, oracle, &[one], None);
    }

    fn subscribe(&mut self, net: &mut Net, oracle: &mut Oracle) {
        let v5 = self.version.is_v5();
        let mut texts = Vec::new();
        if self.kind == Kind::Sharer {
            texts.push(self.share.clone());
        } else {
            for _ in 0..self.prng.pick(&[1, 1, 1, 2, 3]) {
                let text = self.filter();
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        let filters: Vec<SubscribeFilter<'_>> = texts
            .iter()
            .map(|filter| {
                let mut qos =
                    self.prng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
                let shared = filter.starts_with("$share/");
                if filter.starts_with(RELIABLE_GROUP) {
                    qos = qos.max(QoS::AtLeastOnce);
                }
                SubscribeFilter {
                    filter,
                    qos,
                    no_local: v5 && !shared && self.prng.permille(200),
                    retain_as_published: v5 && self.prng.permille(300),
                    retain_handling: if v5 {
                        self.prng.pick(&[
                            RetainHandling::SendAlways,
                            RetainHandling::SendIfNew,
                            RetainHandling::DoNotSend,
                        ])
                    } else {
                        RetainHandling::SendAlways
                    },
                }
            })
            .collect();
        let identifier = (v5 && self.prng.permille(500))
            .then(|| self.prng.pick(&[1, 2, 127, 128, 268_435_455]) as u32);
        self.send_subscribe(net, oracle, &filters, identifier);
    }

    fn send_subscribe(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        filters: &[SubscribeFilter<'_>],
        identifier: Option<u32>,
    ) {
        let Some(number) = self.packet_id() else { return };
        let Some(packet_id) = PacketId::new(number) else { return };
        // One question about a filter at a time: the answers would be hard to tell apart.
        let busy = self
            .requests
            .values()
            .any(|request| matches!(request, Request::Subscribe(_) | Request::Unsubscribe(_)));
        if busy {
            return;
        }
        let mut places = Vec::new();
        for filter in filters {
            let replaced = self.subscriptions.iter().position(|s| {
                s.filter == filter.filter && s.ending.is_none() && s.active.is_some()
            });
            if let Some(replaced) = replaced {
                self.subscriptions[replaced].ending = Some(net.now);
            }
            if self.kind == Kind::Sharer {
                oracle.groups.entry(filter.filter.to_owned()).or_insert_with(|| {
                    crate::oracle::GroupLog { empty_until: NEVER, ..Default::default() }
                });
            }
            places.push((self.subscriptions.len(), replaced));
            self.subscriptions.push(Subscription {
                filter: filter.filter.to_owned(),
                qos: filter.qos,
                no_local: filter.no_local,
                retain_as_published: filter.retain_as_published,
                identifier,
                asked: net.now,
                active: None,
                ending: None,
                ended: None,
                chain: None,
            });
        }
        let subscribe =
            Subscribe { subscription_identifier: identifier, ..Subscribe::new(packet_id, filters) };
        net.trace.line(net.now, format_args!("{} subscribes {number} {filters:?}", self.id));
        let mut bytes = Vec::new();
        subscribe.encode(self.version, &mut bytes);
        self.requests.insert(number, Request::Subscribe(places));
        self.write(net, bytes);
    }

    fn unsubscribe(&mut self, net: &mut Net, oracle: &mut Oracle) {
        if !self.requests.is_empty() {
            return;
        }
        let Some(number) = self.packet_id() else { return };
        let Some(packet_id) = PacketId::new(number) else { return };
        let mut places = Vec::new();
        let mut texts = Vec::new();
        let active: Vec<usize> = (0..self.subscriptions.len())
            .filter(|at| {
                let one = &self.subscriptions[*at];
                one.active.is_some() && one.ending.is_none()
            })
            .collect();
        if let Some(&place) = active.get(self.prng.below(active.len().max(1) as u64) as usize) {
            self.subscriptions[place].ending = Some(net.now);
            texts.push(self.subscriptions[place].filter.clone());
            places.push(Some(place));
            if self.kind == Kind::Sharer {
                let group = oracle.groups.entry(texts[0].clone()).or_default();
                // It may stay a member until the UNSUBACK.
                group.departures.push((None, NEVER));
                group.members.remove(&self.index);
                if group.members.is_empty() {
                    group.empty_until = NEVER;
                }
            }
        } else {
            texts.push("never/subscribed".to_owned());
            places.push(None);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        net.trace.line(net.now, format_args!("{} unsubscribes {number} {texts:?}", self.id));
        let mut bytes = Vec::new();
        Unsubscribe::new(packet_id, &texts).encode(self.version, &mut bytes);
        self.requests.insert(number, Request::Unsubscribe(places));
        self.write(net, bytes);
    }

    // Publishing.

    fn publication(&self, topic: String, qos: QoS, retain: bool, size: usize) -> Pub {
        Pub {
            publisher: self.index,
            topic,
            qos,
            retain,
            empty: false,
            size,
            expiry: None,
            first_sent: NEVER,
            last_sent: NEVER,
            sends: 0,
            accepted: None,
            unmatched: false,
            processed: false,
            will: false,
            version: self.version,
        }
    }

    fn publish_plain(&mut self, net: &mut Net, oracle: &mut Oracle, topic: String) {
        let id = oracle.publish(self.publication(topic, QoS::AtMostOnce, false, 12));
        self.write_publish(net, oracle, id, None, false);
    }

    fn publish(&mut self, net: &mut Net, oracle: &mut Oracle, topic: String, plain: bool) {
        let qos = if plain && self.prng.permille(600) {
            QoS::AtMostOnce
        } else {
            self.prng.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
        };
        let Some(link) = &self.link else { return };
        let window = usize::from(link.receive_maximum.min(20));
        if qos > QoS::AtMostOnce && self.outgoing.len() >= window {
            return;
        }
        let size = match self.prng.below(100) {
            0..90 => self.prng.between(8, 60),
            90..97 => self.prng.between(100, 1500),
            _ => self.prng.between(4000, 9000),
        } as usize;
        let retain = topic.starts_with("r/") && self.prng.permille(500);
        let mut publication = self.publication(topic, qos, retain, size);
        publication.empty = retain && self.prng.permille(150);
        if self.version.is_v5() && self.prng.permille(100) {
            publication.expiry = Some(self.prng.pick(&[1, 3, 10, 60]) as u32);
        }
        let id = oracle.publish(publication);
        if qos == QoS::AtMostOnce {
            self.write_publish(net, oracle, id, None, false);
            return;
        }
        let Some(number) = self.packet_id() else { return };
        self.outgoing.push_back(Outgoing {
            packet_id: number,
            publication: id,
            qos,
            released: false,
        });
        self.write_publish(net, oracle, id, PacketId::new(number), false);
    }

    /// Writes a PUBLISH, for the first time or again.
    fn write_publish(
        &mut self,
        net: &mut Net,
        oracle: &mut Oracle,
        id: PubId,
        packet_id: Option<PacketId>,
        again: bool,
    ) {
        let v5 = self.version.is_v5();
        let alias_dice = self.prng.permille(300);
        let Some(link) = self.link.as_mut() else { return };
        let publication = &mut oracle.pubs[id as usize];
        if publication.sends == 0 {
            publication.first_sent = net.now;
        }
        publication.sends += 1;
        publication.last_sent = net.now;
        let publication = publication.clone();
        let body = if publication.empty { Vec::new() } else { payload(id, publication.size) };
        let number = id.to_string();
        let pairs = [("n", number.as_str())];
        let mut publish = Publish {
            dup: again,
            qos: publication.qos,
            retain: publication.retain,
            topic: &publication.topic,
            packet_id,
            payload: &body,
            ..Publish::default()
        };
        if v5 {
            publish.properties = PublishProperties {
                message_expiry_interval_seconds: publication.expiry,
                ..PublishProperties::default()
            };
            if has_properties(id) {
                publish.properties.content_type = Some("text/x-number");
                publish.properties.user_properties = UserProperties::from_pairs(&pairs);
            }
            if alias_dice && link.alias_maximum > 0 {
                let count = link.aliases_out.len() as u16;
                let known = link.aliases_out.get(&publication.topic).copied();
                let alias = known.or((count < link.alias_maximum).then_some(count + 1));
                if let Some(alias) = alias {
                    net.hit(Situation::AliasToBroker);
                    publish.properties.topic_alias = NonZeroU16::new(alias);
                    link.aliases_out.insert(publication.topic.clone(), alias);
                    if known.is_some() {
                        publish.topic = "";
                    }
                }
            }
        }
        let mut bytes = Vec::new();
        publish.encode(self.version, &mut bytes);
        match publication.qos {
            QoS::AtMostOnce => link.plain.push(id),
            qos => link.expected[qos as usize - 1].push_back(packet_id.map_or(0, PacketId::get)),
        }
        if again {
            net.hit(Situation::PublishAgain);
        }
        net.trace.line(
            net.now,
            format_args!(
                "{} publishes {id} {:?} to {} id {packet_id:?}{}{}",
                self.id,
                publication.qos,
                publication.topic,
                if publication.retain { " retain" } else { "" },
                if again { " again" } else { "" }
            ),
        );
        self.write(net, bytes);
    }

    /// After a CONNACK with a session: everything that was not acknowledged again, in order [MQTT-4.4.0-1].
    pub fn send_again(&mut self, net: &mut Net, oracle: &mut Oracle) {
        for outgoing in self.outgoing.clone() {
            let Some(packet_id) = PacketId::new(outgoing.packet_id) else { continue };
            if outgoing.released {
                let mut bytes = Vec::new();
                PubRel::new(packet_id, ReasonCode::Success).encode(self.version, &mut bytes);
                self.write(net, bytes);
            } else {
                self.write_publish(net, oracle, outgoing.publication, Some(packet_id), true);
            }
        }
    }
}

/// Whether a 5.0 publication carries properties.
#[must_use]
pub fn has_properties(id: PubId) -> bool {
    id.is_multiple_of(5)
}

/// A publication's payload: its number, a dot, filling.
#[must_use]
pub fn payload(id: PubId, size: usize) -> Vec<u8> {
    let mut payload = format!("{id}.").into_bytes();
    let filling = b'a' + (id % 26) as u8;
    payload.resize(size.max(payload.len()), filling);
    payload
}
