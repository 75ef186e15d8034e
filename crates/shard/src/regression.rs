//! Bugs that were found, each with a test named for it. Most were found by the simulator: `docs/simulator.md` lists seed
//! and step.

use std::sync::Arc;

use midge_codec::{
    Connect, Disconnect, Framed, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    Subscribe, SubscribeFilter, Will, decode, frame,
};
use midge_mesh::{InterestMap, ShardId};
use midge_session::Time;

use crate::{
    Action, ConnectionId, ListenerId, OutboxLimits, RetainedCounts, Settings, Shard, Shared,
    home_shard,
};

const V311: ProtocolVersion = ProtocolVersion::V311;

/// Shards with rings that hold whatever they are given, when they are told to move it.
pub(crate) struct Broker {
    pub(crate) shards: Vec<Shard>,
    pub(crate) now: Time,
}

impl Broker {
    pub(crate) fn new(shards: u16, settings: Settings) -> Self {
        let shared = Shared {
            interest: (shards > 1).then(|| Arc::new(InterestMap::new(shards, 64))),
            retained_counts: Arc::new(RetainedCounts::new(shards)),
        };
        let settings = Arc::new(settings);
        let now = Time::from_seconds(1000);
        let shard = |id| {
            let id = ShardId::new(id);
            Shard::new(id, shards, Arc::clone(&settings), shared.clone(), [1, 2, 3, 4], now)
        };
        Self { shards: (0..shards).map(shard).collect(), now }
    }

    /// A client id whose home is a shard.
    pub(crate) fn client_of(&self, shard: usize) -> String {
        let homes = (0..).map(|n| format!("client-{n}"));
        let count = self.shards.len() as u16;
        homes.into_iter().find(|id| home_shard(id, count).index() == shard).expect("one of many")
    }

    pub(crate) fn connect(&mut self, shard: usize, id: u32, connect: &Connect<'_>) {
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let listener = ListenerId(0);
        self.shards[shard].handle_accepted(ConnectionId(id), peer, listener, self.now);
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        self.receive(shard, id, &bytes);
        self.sent(shard, id);
    }

    pub(crate) fn receive(&mut self, shard: usize, id: u32, bytes: &[u8]) {
        self.shards[shard].handle_received(ConnectionId(id), bytes, self.now);
    }

    /// What a connection is sent now, all of it taken.
    pub(crate) fn sent(&mut self, shard: usize, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some((to, output)) = self.shards[shard].next_flush() {
            if to == ConnectionId(id) {
                bytes.extend(output.segments().flatten());
            }
            self.shards[shard].handle_sent(to, output, self.now);
        }
        bytes
    }

    /// Payloads of the publications among what a connection is sent now.
    pub(crate) fn payloads(&mut self, shard: usize, id: u32) -> Vec<String> {
        let bytes = self.sent(shard, id);
        let mut rest = &bytes[..];
        let mut payloads = Vec::new();
        while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
            rest = &rest[raw.size..];
            if let Ok(Packet::Publish(publish)) = decode(raw, V311) {
                payloads.push(String::from_utf8_lossy(publish.payload).into_owned());
            }
        }
        payloads
    }

    /// Moves all envelopes until there are none.
    pub(crate) fn exchange(&mut self) {
        loop {
            let mut moved = false;
            for source in 0..self.shards.len() {
                let mut targets = Vec::new();
                self.shards[source].take_waiting_targets(&mut targets);
                for target in targets {
                    while let Some(envelope) = self.shards[source].poll_envelope(target) {
                        moved = true;
                        let from = ShardId::new(source as u16);
                        self.shards[target.index()].handle_envelope(from, envelope, self.now);
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves what one shard has for another.
    pub(crate) fn pass(&mut self, source: usize, target: usize) {
        while let Some(envelope) = self.shards[source].poll_envelope(ShardId::new(target as u16)) {
            let from = ShardId::new(source as u16);
            self.shards[target].handle_envelope(from, envelope, self.now);
        }
    }

    pub(crate) fn later(&mut self, milliseconds: u64, shard: usize) {
        self.now = self.now.plus_millis(milliseconds);
        self.shards[shard].handle_turn(self.now);
    }

    pub(crate) fn actions(&mut self, shard: usize) -> Vec<Action> {
        std::iter::from_fn(|| self.shards[shard].poll_action()).collect()
    }
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Vec<u8> {
    let mut bytes = Vec::new();
    let filter = SubscribeFilter { filter, qos, ..SubscribeFilter::default() };
    Subscribe::new(PacketId::MIN, &[filter]).encode(V311, &mut bytes);
    bytes
}

pub(crate) fn publish(topic: &str, payload: &str, qos: QoS, id: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet_id = PacketId::new(id);
    let publish =
        Publish { topic, payload: payload.as_bytes(), qos, packet_id, ..Publish::default() };
    publish.encode(V311, &mut bytes);
    bytes
}

pub(crate) fn persistent(id: &str) -> Connect<'_> {
    Connect { clean_start: false, ..Connect::new(V311, id) }
}

/// A client said goodbye and closed while it was parked: its will was published, and what it had said before was lost.
#[test]
fn a_goodbye_that_was_kept_while_parked_takes_the_will_back() {
    let outbox = OutboxLimits { bytes_max: 100, envelopes_max: 100 };
    let mut broker = Broker::new(2, Settings { outbox, ..Settings::default() });
    let (watcher, publisher) = (broker.client_of(0), broker.client_of(1));
    broker.connect(0, 1, &Connect::new(V311, &watcher));
    broker.receive(0, 1, &subscribe("#", QoS::AtMostOnce));
    broker.exchange();
    broker.sent(0, 1);
    let will = Will { topic: "will", payload: b"will", ..Will::default() };
    broker.connect(1, 2, &Connect { will: Some(will), ..Connect::new(V311, &publisher) });
    let mut bytes = publish("t", &"x".repeat(200), QoS::AtMostOnce, 0);
    bytes.extend(publish("u", "after", QoS::AtLeastOnce, 7));
    Disconnect::default().encode(V311, &mut bytes);
    broker.receive(1, 2, &bytes);
    let paused = broker.actions(1);
    assert!(paused.iter().any(|action| matches!(action, Action::Pause(_))), "{paused:?}");
    let now = broker.now;
    broker.shards[1].handle_lost(ConnectionId(2), now);
    broker.exchange();
    let payloads = broker.payloads(0, 1);
    assert_eq!(payloads.last().map(String::as_str), Some("after"), "{payloads:?}");
}

/// QoS 0 messages that were queued while the client was away were overtaken by those that came when it was back.
#[test]
fn queued_qos_0_messages_are_not_overtaken() {
    let settings = Settings { queue_qos0: true, output_bytes_max: 60, ..Settings::default() };
    let mut broker = Broker::new(1, settings);
    broker.connect(0, 1, &persistent("reader"));
    broker.receive(0, 1, &subscribe("t", QoS::AtMostOnce));
    broker.sent(0, 1);
    let now = broker.now;
    broker.shards[0].handle_lost(ConnectionId(1), now);
    broker.shards[0].handle_closed(ConnectionId(1), now);
    broker.connect(0, 2, &Connect::new(V311, "writer"));
    for payload in ["one", "two"] {
        broker.receive(0, 2, &publish("t", &payload.repeat(20), QoS::AtMostOnce, 0));
    }
    // The reader is back; its output has room for the first message only, so the second is still queued.
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    broker.shards[0].handle_accepted(ConnectionId(3), peer, ListenerId(0), now);
    let mut bytes = Vec::new();
    persistent("reader").encode(&mut bytes);
    broker.receive(0, 3, &bytes);
    broker.receive(0, 2, &publish("t", "new", QoS::AtMostOnce, 0));
    let payloads = broker.payloads(0, 3);
    assert_eq!(payloads, ["one".repeat(20), "two".repeat(20), "new".to_owned()]);
}

/// A QoS 2 message that one shard kept and another had no room for was refused with 0x97; the publisher sent it again, and
/// who had it got it twice.
#[test]
fn a_message_that_one_shard_keeps_is_not_refused() {
    let queue = midge_session::QueueLimits { messages_max: 0, bytes_max: 1 << 20 };
    let limits = midge_session::Limits { in_flight_max: 1, ..Default::default() };
    let mut broker = Broker::new(3, Settings { queue, limits, ..Settings::default() });
    let clients: Vec<String> = (0..3).map(|shard| broker.client_of(shard)).collect();
    for (shard, filter) in [(0, "t"), (1, "+")] {
        broker.connect(shard, 1, &Connect::new(V311, &clients[shard]));
        broker.receive(shard, 1, &subscribe(filter, QoS::ExactlyOnce));
    }
    broker.exchange();
    let publisher = Connect::new(ProtocolVersion::V5, &clients[2]);
    broker.connect(2, 2, &publisher);
    // The first takes the only place of the subscriber to `+`; the second is refused there and kept by the one to `t`.
    let mut codes = Vec::new();
    for (topic, id) in [("other", 1), ("t", 2), ("other", 3)] {
        let mut bytes = Vec::new();
        let packet_id = PacketId::new(id);
        Publish { topic, qos: QoS::ExactlyOnce, packet_id, ..Publish::default() }
            .encode(ProtocolVersion::V5, &mut bytes);
        broker.receive(2, 2, &bytes);
        broker.exchange();
        let sent = broker.sent(2, 2);
        let Ok(Framed::Packet(raw)) = frame(&sent, u32::MAX) else { panic!("{sent:?}") };
        let Ok(Packet::PubRec(ack)) = decode(raw, ProtocolVersion::V5) else { panic!("{sent:?}") };
        codes.push(ack.reason_code);
    }
    assert_eq!(codes, [ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded]);
}

/// A retained message that did not fit into the output beside what was there already was dropped, though the output was
/// about to be sent.
#[test]
fn a_large_retained_message_waits_for_the_output() {
    let settings = Settings { output_bytes_max: 1000, ..Settings::default() };
    let mut broker = Broker::new(1, settings);
    broker.connect(0, 1, &Connect::new(V311, "writer"));
    for (topic, size) in [("r/1", 300), ("r/2", 2000)] {
        let payload = "x".repeat(size);
        let mut bytes = Vec::new();
        let publish =
            Publish { topic, payload: payload.as_bytes(), retain: true, ..Publish::default() };
        publish.encode(V311, &mut bytes);
        broker.receive(0, 1, &bytes);
    }
    broker.connect(0, 2, &Connect::new(V311, "reader"));
    broker.receive(0, 2, &subscribe("r/#", QoS::AtMostOnce));
    let sizes: Vec<usize> = broker.payloads(0, 2).iter().map(String::len).collect();
    assert_eq!(sizes, [300, 2000]);
}

/// A client that published with QoS 1 or 2 and never read its acknowledgements was read from all the same: they piled up
/// without bound.
#[test]
fn a_publisher_that_reads_no_acknowledgements_is_not_read_from() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut broker = Broker::new(1, Settings { output_bytes_max: 100, ..Settings::default() });
        broker.connect(0, 1, &Connect::new(V311, "deaf"));
        broker.actions(0);
        let bytes: Vec<u8> = (1..=200).flat_map(|id| publish("t", "", qos, id)).collect();
        broker.receive(0, 1, &bytes);
        broker.shards[0].check_bounds();
        let actions = broker.actions(0);
        assert!(actions.iter().any(|action| matches!(action, Action::Pause(_))), "{actions:?}");
        // Four bytes each: as soon as it reads, all of them come.
        let mut answers = 0;
        for _ in 0..200 {
            answers += broker.sent(0, 1).len() / 4;
            let now = broker.now;
            broker.shards[0].handle_turn(now);
        }
        assert_eq!(answers, 200);
    }
}

/// A subscription to very many retained messages had ten thousand of them in one turn, and each was compared with every
/// topic that had been published meanwhile: other clients waited for a third of a second.
#[test]
fn retained_messages_give_way_to_other_clients() {
    let mut broker = Broker::new(1, Settings::default());
    broker.connect(0, 1, &Connect::new(V311, "writer"));
    let write = |broker: &mut Broker, number: usize, payload: &[u8]| {
        let topic = format!("r/{number:04}");
        let mut bytes = Vec::new();
        let publish = Publish { topic: &topic, payload, retain: true, ..Publish::default() };
        publish.encode(V311, &mut bytes);
        broker.receive(0, 1, &bytes);
    };
    for number in 0..2000 {
        write(&mut broker, number, b"old");
    }
    broker.connect(0, 2, &Connect::new(V311, "reader"));
    broker.receive(0, 2, &subscribe("r/#", QoS::AtMostOnce));
    let first = broker.payloads(0, 2).len();
    assert!((1..=600).contains(&first), "{first} in one turn");
    // The last one is replaced while the pump is under way: the older message must not follow the newer one.
    write(&mut broker, 1999, b"new");
    let mut rest = Vec::new();
    for _ in 0..50 {
        rest.extend(broker.payloads(0, 2));
        let now = broker.now;
        broker.shards[0].handle_turn(now);
    }
    assert_eq!(first + rest.len(), 2000);
    assert_eq!(rest.iter().filter(|payload| *payload == "new").count(), 1);
}

/// Whatever a peer announced was kept for it before it had proved to be a client, up to the largest packet for each
/// connection.
#[test]
fn peers_without_a_connect_are_kept_little_of() {
    let mut broker = Broker::new(1, Settings::default());
    let (peer, now) = (std::net::SocketAddr::from(([127, 0, 0, 1], 1)), broker.now);
    let closes = |broker: &mut Broker| {
        let actions = broker.actions(0).into_iter();
        actions.filter(|action| matches!(action, Action::Close(_))).count()
    };
    // The first bytes of a PUBLISH of 1,000,000 bytes are enough.
    broker.shards[0].handle_accepted(ConnectionId(0), peer, ListenerId(0), now);
    broker.receive(0, 0, &[0x30, 0xc0, 0x84, 0x3d]);
    assert_eq!(closes(&mut broker), 1);
    // A CONNECT of that size is waited for, but not from everybody at once.
    let mut bytes = vec![0x10, 0xc0, 0x84, 0x3d];
    bytes.extend(b"\0\x04MQTT\x05\x02\0\0");
    bytes.resize(900_000, b'x');
    for id in 1..20 {
        broker.shards[0].handle_accepted(ConnectionId(id), peer, ListenerId(0), now);
        for part in bytes.chunks(4096) {
            broker.receive(0, id, part);
        }
        broker.shards[0].check_bounds();
    }
    assert_eq!(closes(&mut broker), 10);
    // Ordinary clients come in, also in pieces, and those that leave make room.
    let mut bytes = Vec::new();
    Connect::new(V311, "piecemeal").encode(&mut bytes);
    broker.shards[0].handle_accepted(ConnectionId(30), peer, ListenerId(0), now);
    bytes.iter().for_each(|byte| broker.receive(0, 30, &[*byte]));
    assert_eq!(broker.sent(0, 30), [0x20, 2, 0, 0]);
    for id in 1..20 {
        broker.shards[0].handle_lost(ConnectionId(id), now);
    }
    broker.shards[0].check_bounds();
    assert_eq!(broker.shards[0].unproven.bytes, 0);
}

/// A connection that never said CONNECT was dropped up to 150 ms after the time allowed.
#[test]
fn silent_connections_are_dropped_in_time() {
    for timeout_ms in [100, 1000, 10_000] {
        let settings = Settings { connect_timeout_ms: timeout_ms, ..Settings::default() };
        let mut broker = Broker::new(1, settings);
        let (peer, start) = (std::net::SocketAddr::from(([127, 0, 0, 1], 1)), broker.now);
        broker.shards[0].handle_accepted(ConnectionId(0), peer, ListenerId(0), start);
        broker.shards[0].handle_turn(start.plus_millis(timeout_ms / 2));
        let closed = |broker: &mut Broker| {
            broker.actions(0).iter().any(|action| matches!(action, Action::Close(_)))
        };
        assert!(!closed(&mut broker), "{timeout_ms}: early");
        broker.shards[0].handle_turn(start.plus_millis(timeout_ms.max(256)));
        assert!(closed(&mut broker), "{timeout_ms}: late");
    }
}

/// Each time that a client with a session left or was taken over, a timer stayed behind until the session's expiry: an hour or
/// a week. A client that came and went without end grew the broker without end.
#[test]
fn a_client_that_comes_and_goes_leaves_no_timers_behind() {
    let mut broker = Broker::new(1, Settings::default());
    let mut hello = Connect { clean_start: false, ..Connect::new(ProtocolVersion::V5, "again") };
    hello.properties.session_expiry_interval_seconds = Some(3600);
    let now = broker.now;
    for number in 0..20_000 {
        let (id, older) = (number % 2, (number + 1) % 2);
        broker.connect(0, id, &hello);
        broker.shards[0].handle_closed(ConnectionId(older), now);
        broker.shards[0].handle_turn(now);
        broker.actions(0);
    }
    let timers = broker.shards[0].wheel.len();
    assert!(timers < 5000, "{timers} timers for one client");
    // The one that counts is still there.
    let last = ConnectionId(19_999 % 2);
    broker.shards[0].handle_lost(last, now);
    broker.shards[0].handle_closed(last, now);
    broker.shards[0].handle_turn(now.plus_seconds(3599));
    assert_eq!(broker.shards[0].counters().sessions_now, 1);
    broker.shards[0].handle_turn(now.plus_seconds(3601));
    assert_eq!(broker.shards[0].counters().sessions_now, 0);
}

/// A message published right after the subscription came twice: as retained, and then directly from its publisher's shard.
#[test]
fn a_young_retained_message_does_not_come_again_directly() {
    for (filter, copies) in [("#", 1), ("+", 1)] {
        let mut broker = Broker::new(3, Settings::default());
        let topics = (0..).map(|n| format!("t{n}"));
        let mut kept = topics.filter(|topic| crate::ids::keeper_shard(topic, 3).get() == 1);
        let (older, topic) = (kept.next().expect("one of many"), kept.next().expect("another"));
        let (reader, writer) = (broker.client_of(0), broker.client_of(2));
        broker.connect(0, 1, &Connect::new(V311, &reader));
        broker.connect(2, 2, &Connect::new(V311, &writer));
        // Something to ask the keeper for.
        broker.receive(2, 2, &publish_retained(&older, 1));
        broker.exchange();
        broker.receive(0, 1, &subscribe(filter, QoS::ExactlyOnce));
        broker.receive(2, 2, &publish_retained(&topic, 2));
        // The keeper has it before it is asked; the subscriber's shard gets it last.
        broker.pass(2, 1);
        broker.pass(0, 1);
        broker.pass(1, 0);
        broker.later(11, 0);
        let as_retained = broker.payloads(0, 1).len();
        broker.pass(2, 0);
        let directly = broker.payloads(0, 1).len();
        assert_eq!((as_retained, directly), (1 + copies, 0), "{filter}");
        // Published again, it is another message.
        broker.receive(2, 2, &publish_retained(&topic, 3));
        broker.pass(2, 0);
        assert_eq!(broker.payloads(0, 1).len(), 1, "{filter}");
    }
}

/// A member that had left, with its UNSUBACK, still got messages that the chooser had given it before it knew.
#[test]
fn a_member_that_left_gets_nothing_more() {
    let mut broker = Broker::new(2, Settings::default());
    let homes = [broker.client_of(0), broker.client_of(1)];
    // The group's chooser is shard 0, its member's home shard 1.
    let group = (0..).map(|n| format!("$share/g{n}/s")).find(|g| home_shard(g, 2).index() == 0);
    let group = group.expect("one of many");
    broker.connect(1, 1, &Connect::new(V311, &homes[1]));
    broker.receive(1, 1, &subscribe(&group, QoS::AtLeastOnce));
    broker.exchange();
    broker.sent(1, 1);
    let mut bytes = Vec::new();
    midge_codec::Unsubscribe::new(PacketId::MIN, &[&group]).encode(V311, &mut bytes);
    broker.receive(1, 1, &bytes);
    assert_eq!(broker.sent(1, 1), [0xB0, 2, 0, 1]);
    broker.connect(0, 2, &Connect::new(V311, &homes[0]));
    broker.receive(0, 2, &publish("s", "zero", QoS::AtMostOnce, 0));
    broker.receive(0, 2, &publish("s", "one", QoS::AtLeastOnce, 1));
    broker.exchange();
    assert_eq!(broker.payloads(1, 1), Vec::<String>::new());
}

/// A client came back with a smaller Maximum Packet Size: a QoS 2 message that it had received, and not released, was
/// dropped and its packet id given to another message while the client still held it.
#[test]
fn a_message_that_became_too_large_is_released() {
    const V5: ProtocolVersion = ProtocolVersion::V5;
    let mut broker = Broker::new(1, Settings::default());
    let properties = midge_codec::ConnectProperties {
        session_expiry_interval_seconds: Some(100),
        ..Default::default()
    };
    let mut connect = Connect { properties, clean_start: false, ..Connect::new(V5, "reader") };
    broker.connect(0, 1, &connect);
    let mut bytes = Vec::new();
    let filter = SubscribeFilter { filter: "t", qos: QoS::ExactlyOnce, ..Default::default() };
    Subscribe::new(PacketId::MIN, &[filter]).encode(V5, &mut bytes);
    broker.receive(0, 1, &bytes);
    broker.connect(0, 2, &Connect::new(V311, "writer"));
    broker.receive(0, 2, &publish("t", &"x".repeat(300), QoS::ExactlyOnce, 1));
    broker.sent(0, 1);
    let now = broker.now;
    broker.shards[0].handle_lost(ConnectionId(1), now);
    connect.properties.maximum_packet_size = std::num::NonZeroU32::new(100);
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    broker.shards[0].handle_accepted(ConnectionId(3), peer, ListenerId(0), now);
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    broker.receive(0, 3, &bytes);
    let sent = broker.sent(0, 3);
    assert!(sent.ends_with(&[0x62, 2, 0, 1]), "PUBREL: {sent:02x?}");
}

/// A client that vanished while its output was full was never closed: its silence was taken for ours.
#[test]
fn a_choked_client_that_takes_nothing_is_closed() {
    let settings = Settings { output_bytes_max: 100, ..Settings::default() };
    let mut broker = Broker::new(1, settings);
    broker.connect(0, 1, &Connect { keep_alive_seconds: 10, ..Connect::new(V311, "deaf") });
    // Answers pile up behind a send that never ends.
    broker.receive(0, 1, &[0xC0, 0]);
    let stuck = broker.shards[0].next_flush();
    broker.receive(0, 1, &[0xC0, 0].repeat(60));
    assert!(broker.actions(0).iter().any(|action| matches!(action, Action::Pause(_))));
    broker.now = broker.now.plus_seconds(16);
    let now = broker.now;
    broker.shards[0].handle_turn(now);
    assert_eq!(broker.shards[0].counters().keep_alive_timeouts, 1);
    drop(stuck);
}

/// A publisher was held back for as long as its Keep Alive allows, and released in the turn in which that ran out: it was closed
/// for silence with its packets in our hands [MQTT-3.1.2-22].
#[test]
fn whoever_is_released_in_this_turn_is_not_silent() {
    let outbox = OutboxLimits { bytes_max: 100, envelopes_max: 100 };
    let mut broker = Broker::new(2, Settings { outbox, ..Settings::default() });
    let (watcher, publisher) = (broker.client_of(0), broker.client_of(1));
    broker.connect(0, 1, &Connect::new(V311, &watcher));
    broker.receive(0, 1, &subscribe("#", QoS::AtMostOnce));
    broker.exchange();
    broker.connect(1, 2, &Connect { keep_alive_seconds: 10, ..Connect::new(V311, &publisher) });
    let mut bytes = publish("t", &"x".repeat(200), QoS::AtMostOnce, 0);
    bytes.extend([0xC0, 0]);
    broker.receive(1, 2, &bytes);
    assert!(broker.actions(1).iter().any(|action| matches!(action, Action::Pause(_))));
    broker.sent(1, 2);
    broker.now = broker.now.plus_seconds(16);
    while broker.shards[1].poll_envelope(ShardId::new(0)).is_some() {}
    let now = broker.now;
    broker.shards[1].handle_turn(now);
    assert_eq!(broker.shards[1].counters().keep_alive_timeouts, 0);
    assert_eq!(broker.sent(1, 2), [0xD0, 0]);
    // And from then on it is its own silence.
    broker.now = broker.now.plus_seconds(16);
    let now = broker.now;
    broker.shards[1].handle_turn(now);
    assert_eq!(broker.shards[1].counters().keep_alive_timeouts, 1);
}

/// A message published right after the SUBACK came with RETAIN set, from its keeper, when that was faster than its
/// publisher's shard.
#[test]
fn a_fresh_retained_message_waits_for_the_one_that_comes_directly() {
    let mut broker = Broker::new(3, Settings::default());
    let topics = (0..).map(|n| format!("t{n}"));
    let mut kept = topics.filter(|topic| crate::ids::keeper_shard(topic, 3).get() == 1);
    let (older, topic) = (kept.next().expect("one of many"), kept.next().expect("another"));
    let (reader, writer) = (broker.client_of(0), broker.client_of(2));
    broker.connect(0, 1, &Connect::new(V311, &reader));
    broker.connect(2, 2, &Connect::new(V311, &writer));
    broker.receive(2, 2, &publish_retained(&older, 1));
    broker.exchange();
    broker.receive(0, 1, &subscribe(&topic, QoS::ExactlyOnce));
    broker.sent(0, 1);
    broker.receive(2, 2, &publish_retained(&topic, 2));
    broker.pass(2, 1);
    broker.pass(0, 1);
    broker.pass(1, 0);
    broker.pass(2, 0);
    let direct = broker.sent(0, 1);
    assert_eq!(direct.first().map(|byte| byte & 0xF1), Some(0x30), "a PUBLISH without RETAIN");
    broker.later(20, 0);
    assert!(broker.sent(0, 1).is_empty());
}

fn publish_retained(topic: &str, id: u16) -> Vec<u8> {
    let mut bytes = publish(topic, "kept", QoS::ExactlyOnce, id);
    bytes[0] |= 1;
    bytes
}

/// A Topic Alias was chosen for a packet that the announcement made too large, so it was sent without; the next packet to
/// that topic had the alias, which the client had never seen, and no topic.
#[test]
fn an_alias_that_does_not_fit_is_not_chosen() {
    const V5: ProtocolVersion = ProtocolVersion::V5;
    let mut broker = Broker::new(1, Settings::default());
    broker.connect(0, 2, &Connect::new(V311, "writer"));
    // Around the maximum, every size of the first packet; the second is small.
    for size in 0..40 {
        let mut connect = Connect::new(V5, "reader");
        connect.properties.topic_alias_maximum = Some(5);
        connect.properties.maximum_packet_size = std::num::NonZeroU32::new(30);
        let id = 100 + size;
        broker.connect(0, id, &connect);
        let mut bytes = Vec::new();
        let filter = SubscribeFilter { filter: "topic", ..Default::default() };
        Subscribe::new(PacketId::MIN, &[filter]).encode(V5, &mut bytes);
        broker.receive(0, id, &bytes);
        broker.sent(0, id);
        let mut known = false;
        for payload in ["x".repeat(size as usize), String::new()] {
            broker.receive(0, 2, &publish("topic", &payload, QoS::AtMostOnce, 0));
            let sent = broker.sent(0, id);
            let Ok(Framed::Packet(raw)) = frame(&sent, 30) else { continue };
            let Ok(Packet::Publish(publish)) = decode(raw, V5) else { panic!("{sent:?}") };
            assert!(known || !publish.topic.is_empty(), "{size}: an alias without a topic");
            known |= publish.properties.topic_alias.is_some();
        }
    }
}

/// A member that had left and joined again with another QoS got a message at the QoS of its earlier membership.
#[test]
fn a_member_that_joined_again_gets_what_it_wants_now() {
    let mut broker = Broker::new(2, Settings::default());
    let homes = [broker.client_of(0), broker.client_of(1)];
    let group = (0..).map(|n| format!("$share/g{n}/s")).find(|g| home_shard(g, 2).index() == 0);
    let group = group.expect("one of many");
    broker.connect(1, 1, &Connect::new(V311, &homes[1]));
    broker.receive(1, 1, &subscribe(&group, QoS::AtLeastOnce));
    broker.exchange();
    broker.sent(1, 1);
    let mut bytes = Vec::new();
    midge_codec::Unsubscribe::new(PacketId::MIN, &[&group]).encode(V311, &mut bytes);
    bytes.extend(subscribe(&group, QoS::AtMostOnce));
    broker.receive(1, 1, &bytes);
    broker.sent(1, 1);
    // The chooser does not know of either yet.
    broker.connect(0, 2, &Connect::new(V311, &homes[0]));
    broker.receive(0, 2, &publish("s", "one", QoS::AtLeastOnce, 1));
    broker.exchange();
    let sent = broker.sent(1, 1);
    assert!(sent.windows(6).any(|packet| packet == [0x30, 6, 0, 1, b's', b'o']), "{sent:02x?}");
}

/// The end of a session with very many subscriptions held up everybody else for tens of milliseconds.
#[test]
fn a_session_with_many_subscriptions_leaves_in_slices() {
    const FILTERS: u64 = 20_000;
    let mut broker = Broker::new(2, Settings::default());
    let (many, other) = (broker.client_of(0), broker.client_of(1));
    broker.connect(0, 1, &Connect::new(V311, &many));
    broker.connect(1, 2, &Connect::new(ProtocolVersion::V5, &other));
    for number in 0..FILTERS {
        let filter =
            if number % 2 == 0 { format!("{number}/#") } else { format!("$share/g/{number}") };
        broker.receive(0, 1, &subscribe(&filter, QoS::AtLeastOnce));
    }
    broker.exchange();
    broker.sent(0, 1);
    let count =
        |broker: &Broker| broker.shards.iter().map(|s| s.counters().subscriptions_now).sum();
    assert_eq!(FILTERS, count(&broker));

    // The client comes back at once: its new session has nothing of the old one.
    broker.shards[0].handle_lost(ConnectionId(1), broker.now);
    broker.shards[0].handle_closed(ConnectionId(1), broker.now);
    broker.connect(0, 1, &Connect::new(V311, &many));
    broker.exchange();
    assert_eq!(FILTERS, count(&broker), "none of them in the turn in which it ended");
    let mut turns = 0;
    loop {
        broker.shards[0].check_integrity();
        broker.receive(0, 1, &publish_once("9998"));
        broker.receive(0, 1, &publish_once("9999"));
        broker.exchange();
        assert!(broker.payloads(0, 1).is_empty(), "a subscription of the session before");
        let before: u64 = count(&broker);
        let more = broker.shards[0].handle_turn(broker.now);
        broker.exchange();
        if !more {
            break;
        }
        assert!(before - count(&broker) <= 1024, "{before} and then {}", count(&broker));
        turns += 1;
    }
    assert!(turns >= FILTERS / 1024);
    assert_eq!(0, count(&broker));
    for (shard, id) in [(0, 1), (1, 2)] {
        broker.shards[shard].handle_lost(ConnectionId(id), broker.now);
        broker.shards[shard].handle_closed(ConnectionId(id), broker.now);
        broker.actions(shard);
    }
    broker.shards.iter().for_each(Shard::check_empty);
}

fn publish_once(topic: &str) -> Vec<u8> {
    publish(topic, "x", QoS::AtMostOnce, 0)
}

/// A subscription was replaced while retained messages were on their way to it: they, and what was retained later, still came
/// at the QoS of the earlier one, and those of the new one after them.
#[test]
fn retained_messages_follow_a_replaced_subscription() {
    let settings = Settings { output_bytes_max: 200, ..Settings::default() };
    let mut broker = Broker::new(1, settings);
    broker.connect(0, 1, &Connect::new(V311, "writer"));
    for number in 0..20 {
        let topic = format!("r/{number:02}");
        let mut bytes = Vec::new();
        let publish = Publish {
            topic: &topic,
            payload: b"0123456789",
            qos: QoS::AtLeastOnce,
            packet_id: Some(PacketId::MIN),
            retain: true,
            ..Publish::default()
        };
        publish.encode(V311, &mut bytes);
        broker.receive(0, 1, &bytes);
        broker.sent(0, 1);
    }
    broker.connect(0, 2, &Connect::new(V311, "reader"));
    broker.receive(0, 2, &subscribe("r/#", QoS::AtLeastOnce));
    broker.receive(0, 2, &subscribe("r/#", QoS::AtMostOnce));
    let mut qos = Vec::new();
    loop {
        let bytes = broker.sent(0, 2);
        let mut rest = &bytes[..];
        while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
            rest = &rest[raw.size..];
            if let Ok(Packet::Publish(publish)) = decode(raw, V311) {
                qos.push(publish.qos);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    let earlier = qos.iter().filter(|qos| **qos == QoS::AtLeastOnce).count();
    assert!((1..10).contains(&earlier), "{earlier} were on their way already");
    assert_eq!(qos.len() - earlier, 20, "the new subscription gets all, once");
}

/// Found by the fuzz target `shard`: a client whose Maximum Packet Size has no room for the CONNACK got none, stayed connected,
/// and was sent whatever was smaller.
#[test]
fn a_client_with_no_room_for_its_connack_is_refused() {
    let mut broker = Broker::new(1, Settings::default());
    for (maximum, expected) in [(4, &[][..]), (8, &[0x20, 3, 0, 0x83, 0])] {
        let mut connect = Connect::new(ProtocolVersion::V5, "c");
        connect.properties.maximum_packet_size = std::num::NonZeroU32::new(maximum);
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        broker.shards[0].handle_accepted(ConnectionId(1), peer, ListenerId(0), broker.now);
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        broker.receive(0, 1, &bytes);
        assert_eq!(broker.sent(0, 1), expected);
        assert_eq!(broker.shards[0].counters().sessions_now, 0);
        let closed = |action: &Action| matches!(action, Action::Close(ConnectionId(1)));
        assert!(broker.actions(0).iter().any(closed));
        broker.shards[0].handle_closed(ConnectionId(1), broker.now);
    }
}

/// Five hundred peers that pushed large CONNECTs filled every turn, and clients waited for tens of milliseconds.
#[test]
fn unfinished_connects_are_read_at_a_pace() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards, Settings::default());
        let mut packet = vec![0x10, 0xc0, 0x84, 0x3d];
        packet.extend(b"\0\x04MQTT\x05\x02\0\0");
        packet.resize(2000, 0);
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let received = |action: &Action| match action {
            Action::Receive(id) | Action::ReceiveOnce(id) => Some(id.0),
            _ => None,
        };
        for id in 0..100 {
            broker.shards[0].handle_accepted(ConnectionId(id), peer, ListenerId(0), broker.now);
            assert_eq!(broker.actions(0).iter().filter_map(received).collect::<Vec<_>>(), [id]);
            broker.receive(0, id, &packet);
            // A piece that was under way already.
            broker.receive(0, id, b"x");
            let actions = broker.actions(0);
            assert_eq!(actions.iter().filter_map(received).next(), None, "not at once");
        }
        // Each gets its turn, once, in order; and nobody has to wake up in vain.
        let mut next = Vec::new();
        for _ in 0..100 {
            let Some(at) = broker.shards[0].next_timeout() else { break };
            broker.now = broker.now.max(at);
            broker.later(0, 0);
            let before = next.len();
            next.extend(broker.actions(0).iter().filter_map(received));
            if next.len() == before {
                break;
            }
            assert!(next.len() - before <= 32);
        }
        assert_eq!(next, (0..100).collect::<Vec<_>>());
        // A client that says its CONNECT at once does not wait for those.
        let id = broker.client_of(0);
        broker.connect(0, 200, &Connect::new(V311, &id));
        assert_eq!(broker.shards[0].counters().connects_accepted, 1);
    }
}

/// Each session's queue had a bound, and all of them together had none.
#[test]
fn all_queues_together_have_a_bound() {
    let settings = Settings { queued_bytes_max: 10_000, ..Settings::default() };
    let mut broker = Broker::new(1, settings);
    for id in 0..20 {
        let client = format!("away-{id}");
        broker.connect(0, id, &persistent(&client));
        broker.receive(0, id, &subscribe(&format!("t/{id}"), QoS::AtLeastOnce));
        broker.sent(0, id);
        broker.shards[0].handle_lost(ConnectionId(id), broker.now);
        broker.shards[0].handle_closed(ConnectionId(id), broker.now);
    }
    broker.connect(0, 99, &Connect::new(ProtocolVersion::V5, "publisher"));
    let mut refused = 0;
    for id in 0..20 {
        let mut bytes = Vec::new();
        let (topic, payload) = (format!("t/{id}"), [b'x'; 1000]);
        let publish = Publish {
            topic: &topic,
            payload: &payload,
            qos: QoS::AtLeastOnce,
            packet_id: PacketId::new(1),
            ..Publish::default()
        };
        publish.encode(ProtocolVersion::V5, &mut bytes);
        broker.receive(0, 99, &bytes);
        let answer = broker.sent(0, 99);
        refused += usize::from(answer.contains(&0x97));
        broker.shards[0].check_integrity();
    }
    let counters = broker.shards[0].counters();
    assert!(counters.queued_bytes_now <= 10_000, "{}", counters.queued_bytes_now);
    assert_eq!(counters.messages_queued_now as usize + refused, 20);
    assert_eq!(counters.dropped_queue_full as usize, refused);
    assert!((10..20).contains(&refused), "{refused}");
}

/// A member of a shared subscription that could not keep a message because all sessions together held what they may was never asked
/// again: nothing of its own was on the way, so no acknowledgement made it say that there is room.
#[test]
fn a_member_that_was_full_through_no_fault_of_its_own_is_asked_again() {
    let settings = Settings { queued_bytes_max: 1_500, ..Settings::default() };
    let mut broker = Broker::new(1, settings);
    for (id, client_id, filter) in [(1, "filler", "fill"), (2, "member", "$share/g/x")] {
        broker.connect(0, id, &persistent(client_id));
        broker.receive(0, id, &subscribe(filter, QoS::AtLeastOnce));
        broker.shards[0].handle_lost(ConnectionId(id), broker.now);
    }
    broker.connect(0, 3, &Connect::new(V311, "publisher"));
    broker.receive(0, 3, &publish("fill", &"x".repeat(1_300), QoS::AtLeastOnce, 1));
    broker.receive(0, 3, &publish("x", &"y".repeat(300), QoS::AtLeastOnce, 2));
    assert_eq!(broker.shards[0].counters().messages_queued_now, 1, "the group keeps the second");
    broker.connect(0, 4, &persistent("filler"));
    broker.receive(0, 4, &[0x40, 2, 0, 1]);
    broker.sent(0, 4);
    assert_eq!(broker.shards[0].counters().messages_queued_now, 0);
    assert!(broker.shards[0].next_timeout().is_some_and(|at| at <= broker.now.plus_millis(100)));
    broker.later(101, 0);
    assert_eq!(broker.shards[0].counters().messages_queued_now, 1, "the member has it");
    broker.shards[0].check_integrity();
}

/// A will was let below `$SYS` where publications were not: anybody could say what the broker says, and what is retained there
/// is under no limit.
#[test]
fn a_will_is_not_the_brokers_own() {
    let v5 = ProtocolVersion::V5;
    let mut broker = Broker::new(1, Settings::default());
    broker.connect(0, 1, &Connect::new(V311, "watcher"));
    broker.receive(0, 1, &subscribe("$SYS/#", QoS::AtMostOnce));
    broker.sent(0, 1);
    for (id, version, topic, accepted) in [
        (2, v5, "$SYS/broker/uptime", 1),
        (3, V311, "$SYS", 1),
        (4, v5, "$SYSTEM/uptime", 2),
        (5, v5, "later", 3),
    ] {
        let name = format!("client-{id}");
        let will = Some(Will { topic, payload: b"x", retain: true, ..Will::default() });
        broker.connect(0, id, &Connect { will, ..Connect::new(version, &name) });
        assert_eq!(broker.shards[0].counters().connects_accepted, accepted, "{topic}");
        if id == 5 {
            // As a log has it that was written before.
            let session = broker.shards[0].sessions.find(&name).expect("it is there");
            let entry = broker.shards[0].sessions.get_mut(session).expect("it is there");
            entry.session.will.as_mut().expect("it has one").topic = "$SYS/later".into();
        }
        broker.shards[0].handle_lost(ConnectionId(id), broker.now);
        broker.actions(0);
    }
    assert_eq!(broker.payloads(0, 1), [""; 0]);
    assert_eq!(broker.shards[0].counters().wills_published, 1);
    assert_eq!(broker.shards[0].own_retained.len(), 0);
}
