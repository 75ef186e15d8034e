//! Clients that behave: their state, and what they do on their own account. What they do with what they receive is in
//! `receive.rs`.
//!
//! A client keeps what the specification asks a client to keep (packet ids in use, QoS 2 ids received, its subscriptions) and, for
//! the oracle, everything that it was told. To add a behaviour: a new arm in [`Client::act_connected`], its effect on
//! the state, and what it promises in `oracle.rs`.

mod connecting;
mod ending;
mod publishing;
mod requesting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use midge_codec::{ProtocolVersion, QoS};

use crate::coverage::Situation;
use crate::net::{End, Event, MS, NEVER, Net, PipeId, SECOND};
use crate::oracle::{Oracle, Pub, PubId, SIZE_ALWAYS_TAKEN, covers};
use crate::prng::Prng;

/// Members of these groups never ask for QoS 0, so that nothing may get lost there.
pub const RELIABLE_GROUP: &str = "$share/g0/";

/// Session Expiry Interval: never.
const EXPIRY_NEVER: u32 = u32::MAX;

/// How long a session outlives its connection, in nanoseconds.
#[must_use]
pub fn lasting(expiry: u32) -> u64 {
    if expiry == EXPIRY_NEVER { NEVER } else { u64::from(expiry) * SECOND }
}

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
    /// When the first copy at QoS 1 was published to us.
    pub at_least_once: Option<u64>,
}

impl Receipt {
    /// How often the broker may have taken a publication at QoS 2 for a new one although a copy had come. One at QoS 1 does not
    /// wait for the log. A crash may take the record that it did not wait for; the publisher, who was not told that it is kept,
    /// sends the publication again; and it comes at QoS 2 when another subscription stands by then.
    pub fn times_begun_anew(&self, net: &Net, publication: &Pub) -> u32 {
        let Some(came) = self.at_least_once else { return 0 };
        let taken = net
            .crashes
            .iter()
            .filter(|at| came <= **at && publication.accepted.is_none_or(|told| told > **at));
        (taken.count() as u32).min(publication.sends.saturating_sub(1))
    }
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
    /// When a goodbye asked for the end of the session.
    pub end_asked: Option<u64>,
    /// When its session may have expired at the earliest; [`NEVER`] while it is connected.
    pub expires_at: u64,
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
            end_asked: None,
            expires_at: NEVER,
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
