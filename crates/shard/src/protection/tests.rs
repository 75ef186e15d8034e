//! Each limit by itself, at a shard.

use std::net::SocketAddr;

use midge_codec::{ConnAck, Framed, Packet, ProtocolVersion, QoS, Will, decode, frame};
use midge_session::QueueLimits;

use super::*;
use crate::regression::{Broker, publish, subscribe};

const V5: ProtocolVersion = ProtocolVersion::V5;
const V311: ProtocolVersion = ProtocolVersion::V311;

fn broker(protection: Protection) -> Broker {
    Broker::new(1, Settings { protection, ..Settings::default() })
}

fn crowd() -> Option<Arc<Crowd>> {
    Some(Arc::new(Crowd::new([1, 2, 3, 4])))
}

impl Broker {
    fn accept(&mut self, id: u32, address: &str, listener: u16) -> bool {
        let peer = SocketAddr::new(address.parse().unwrap(), 1);
        self.shards[0].handle_accepted(ConnectionId(id), peer, ListenerId(listener), self.now);
        !self.closes(id)
    }

    /// Whether a connection is closed by what the shard wants now.
    fn closes(&mut self, id: u32) -> bool {
        let closed = |action: &Action| matches!(action, Action::Close(closed) if closed.0 == id);
        self.actions(0).iter().any(closed)
    }

    fn hang_up(&mut self, id: u32) {
        self.shards[0].handle_lost(ConnectionId(id), self.now);
        self.shards[0].handle_closed(ConnectionId(id), self.now);
        self.actions(0);
        self.shards[0].check_integrity();
    }

    fn refused(&self, refusal: ConnectionRefusal) -> u64 {
        self.shards[0].counters().connections_refused[refusal as usize]
    }

    /// What a client's CONNECT is answered with.
    fn connack(&mut self, id: u32, connect: &Connect<'_>) -> ReasonCode {
        assert!(self.accept(id, "192.0.2.1", 0));
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        self.receive(0, id, &bytes);
        let bytes = self.sent(0, id);
        let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no CONNACK") };
        ConnAck::decode(raw, connect.version).unwrap().reason_code
    }
}

#[test]
fn an_address_has_so_many_connections() {
    let mut broker = broker(Protection {
        connections_per_address_max: 2,
        crowd: crowd(),
        ..Protection::default()
    });
    assert!(broker.accept(0, "192.0.2.1", 0) && broker.accept(1, "192.0.2.1", 0));
    assert!(!broker.accept(2, "192.0.2.1", 0));
    assert!(broker.accept(3, "192.0.2.2", 0));
    // Nobody knows where those come from.
    assert!((4..9).all(|id| broker.accept(id, "0.0.0.0", 0)));
    broker.hang_up(1);
    assert!(broker.accept(1, "192.0.2.1", 0));
    assert!(!broker.accept(9, "192.0.2.1", 0));
    assert_eq!(broker.refused(ConnectionRefusal::AddressLimit), 2);
}

#[test]
fn a_listener_has_so_many_connections_and_connects() {
    let own = ListenerProtection { connections_max: 2, ..ListenerProtection::default() };
    let rate = Some(Quota { count: 3, period_ms: 1000 });
    let slow = ListenerProtection { connects: rate, ..ListenerProtection::default() };
    let listeners = vec![ListenerProtection::default(), own, slow];
    let mut broker = broker(Protection { listeners, crowd: crowd(), ..Protection::default() });
    assert!((0..5).all(|id| broker.accept(id, "192.0.2.1", 0)));
    assert!(broker.accept(5, "192.0.2.1", 1) && broker.accept(6, "192.0.2.2", 1));
    assert!(!broker.accept(7, "192.0.2.3", 1));
    assert_eq!(broker.refused(ConnectionRefusal::ListenerLimit), 1);
    assert_eq!((10..20).filter(|id| broker.accept(*id, "192.0.2.1", 2)).count(), 3);
    assert_eq!(broker.refused(ConnectionRefusal::ListenerRate), 7);
    broker.later(1000, 0);
    assert!(broker.accept(20, "192.0.2.1", 2));
}

/// A listener that is limited, and an address that is not let in, leave no count behind.
#[test]
fn whoever_is_refused_counts_nowhere() {
    let own = ListenerProtection { connections_max: 5, ..ListenerProtection::default() };
    let mut broker = broker(Protection {
        connections_per_address_max: 1,
        listeners: vec![own],
        crowd: crowd(),
        ..Protection::default()
    });
    assert!(broker.accept(0, "192.0.2.1", 0));
    assert!((1..100).all(|id| !broker.accept(id, "192.0.2.1", 0)));
    assert_eq!(broker.refused(ConnectionRefusal::AddressLimit), 99);
    assert!((1..5).all(|id| broker.accept(id, &format!("192.0.2.{}", 10 + id), 0)));
}

#[test]
fn behind_a_proxy_the_client_counts_and_not_the_proxy() {
    let own = ListenerProtection { is_behind_proxy: true, ..ListenerProtection::default() };
    let counts = Arc::new(ListenerCounts::new());
    let mut broker = broker(Protection {
        connections_per_address_max: 1,
        listeners: vec![own],
        listener_counts: Some(Arc::clone(&counts)),
        crowd: crowd(),
        ..Protection::default()
    });
    let mut is_let_in = |id: u32, client: &str| {
        assert!(broker.accept(id, "10.0.0.1", 0));
        let client = SocketAddr::new(client.parse().unwrap(), 7);
        broker.shards[0].handle_identified(ConnectionId(id), client, None, broker.now);
        !broker.closes(id)
    };
    assert!(is_let_in(0, "192.0.2.1"));
    assert!(!is_let_in(1, "192.0.2.1"));
    assert!(is_let_in(2, "192.0.2.2"));
    broker.hang_up(0);
    assert!(broker.accept(3, "10.0.0.1", 0));
    assert_eq!(broker.refused(ConnectionRefusal::AddressLimit), 1);
    assert_eq!(counts.of(ListenerId(0)).refused, 1);
}

#[test]
fn the_oldest_without_a_connect_makes_room() {
    let mut broker = broker(Protection { handshakes_max: 3, ..Protection::default() });
    assert!((0..3).all(|id| broker.accept(id, "192.0.2.1", 0)));
    // All of them are young, as in a storm of good clients.
    assert!(!broker.accept(3, "192.0.2.1", 0));
    broker.later(1000, 0);
    broker.actions(0);
    let peer = SocketAddr::from(([192, 0, 2, 9], 1));
    broker.shards[0].handle_accepted(ConnectionId(4), peer, ListenerId(0), broker.now);
    let actions = broker.actions(0);
    assert!(
        matches!(actions[..], [Action::Close(ConnectionId(0)), Action::Receive(ConnectionId(4))]),
        "{actions:?}"
    );
    // A client makes room by its CONNECT.
    let mut bytes = Vec::new();
    Connect::new(V311, "c").encode(&mut bytes);
    broker.receive(0, 4, &bytes);
    assert!(broker.accept(5, "192.0.2.1", 0));
    assert_eq!(broker.refused(ConnectionRefusal::Handshakes), 2);
}

#[test]
fn a_client_that_publishes_too_fast_is_read_later_and_loses_nothing() {
    let rates = Rates { publishes_per_second: 10, bytes_per_second: 0 };
    let mut broker = broker(Protection { rates, ..Protection::default() });
    assert_eq!(broker.connack(0, &Connect::new(V311, "fast")), ReasonCode::Success);
    assert_eq!(broker.connack(1, &Connect::new(V311, "reader")), ReasonCode::Success);
    broker.receive(0, 1, &subscribe("t", QoS::AtMostOnce));
    broker.sent(0, 1);
    broker.actions(0);
    let flood: Vec<u8> =
        (0..25).flat_map(|n| publish("t", &n.to_string(), QoS::AtMostOnce, 0)).collect();
    broker.receive(0, 0, &flood);
    let mut got = broker.payloads(0, 1);
    assert_eq!(got.len(), 10);
    assert!(
        broker.actions(0).iter().any(|action| matches!(action, Action::Pause(ConnectionId(0))))
    );
    let mut woken = 0;
    while got.len() < 25 {
        let due = broker.shards[0].next_timeout().expect("somebody waits");
        broker.now = due.max(broker.now.plus_millis(1));
        broker.shards[0].handle_turn(broker.now);
        got.extend(broker.payloads(0, 1));
        woken += 1;
        assert!(woken < 100);
    }
    assert_eq!(got, (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(broker.now >= Time::from_seconds(1000).plus_millis(1500));
    let counters = broker.shards[0].counters();
    assert!(counters.publishers_paced > 0);
    assert_eq!(counters.publishes_received[0], 25);
    assert!(
        broker.actions(0).iter().any(|action| matches!(action, Action::Receive(ConnectionId(0))))
    );

    // Whoever goes has said what it has said.
    broker.receive(0, 0, &flood);
    broker.payloads(0, 1);
    broker.hang_up(0);
    assert_eq!(broker.shards[0].counters().publishes_received[0], 50);
}

#[test]
fn a_listener_may_have_a_pace_of_its_own() {
    let rates = Rates { publishes_per_second: 0, bytes_per_second: 100 };
    let own = ListenerProtection { rates, ..ListenerProtection::default() };
    let mut broker = broker(Protection { listeners: vec![own], ..Protection::default() });
    assert_eq!(broker.connack(0, &Connect::new(V311, "fast")), ReasonCode::Success);
    let packet = publish("t", "0123456789", QoS::AtMostOnce, 0);
    for _ in 0..100 {
        broker.receive(0, 0, &packet);
    }
    let taken = broker.shards[0].counters().publishes_received[0] as usize;
    assert!((100 / packet.len()..=100 / packet.len() + 1).contains(&taken), "{taken}");
}

#[test]
fn the_largest_packet_of_a_listener_is_told_and_held_to() {
    let own = ListenerProtection { maximum_packet_size: 100, ..ListenerProtection::default() };
    let mut broker = broker(Protection { listeners: vec![own], ..Protection::default() });
    assert!(broker.accept(0, "192.0.2.1", 0));
    let mut bytes = Vec::new();
    Connect::new(V5, "c").encode(&mut bytes);
    broker.receive(0, 0, &bytes);
    let bytes = broker.sent(0, 0);
    let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no CONNACK") };
    let connack = ConnAck::decode(raw, V5).unwrap();
    assert_eq!(connack.properties.maximum_packet_size.map(u32::from), Some(100));
    broker.receive(0, 0, &[0x30, 100]);
    let bytes = broker.sent(0, 0);
    let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no DISCONNECT") };
    let Ok(Packet::Disconnect(disconnect)) = decode(raw, V5) else { panic!("{raw:?}") };
    assert_eq!(disconnect.reason_code, ReasonCode::PacketTooLarge);
}

#[test]
fn a_client_that_comes_too_often_is_banned_for_a_while() {
    let quota = Quota { count: 3, period_ms: 10_000 };
    let flapping = Some(Penalty { quota, ban_ms: 60_000 });
    let mut broker = broker(Protection { flapping, ..Protection::default() });
    for id in 0..3 {
        assert_eq!(broker.connack(id, &Connect::new(V5, "c")), ReasonCode::Success);
    }
    assert!(broker.accept(3, "192.0.2.1", 0));
    let mut bytes = Vec::new();
    Connect::new(V5, "c").encode(&mut bytes);
    broker.receive(0, 3, &bytes);
    let asked = broker.actions(0).into_iter().find_map(|action| match action {
        Action::Ban(ban) => Some(ban),
        _ => None,
    });
    let ban = asked.expect("a ban");
    assert_eq!(ban.subject, BanSubject::Client("c".into()));
    let bans = Bans::new([(ban.subject, ban.until)]);
    broker.shards[0].handle_bans(Some(Arc::new(bans)));
    broker.later(30_000, 0);
    assert_eq!(broker.connack(4, &Connect::new(V5, "c")), ReasonCode::Banned);
    assert_eq!(broker.connack(5, &Connect::new(V5, "d")), ReasonCode::Success);
    broker.later(31_000, 0);
    assert_eq!(broker.connack(6, &Connect::new(V5, "c")), ReasonCode::Success);
}

#[test]
fn an_address_whose_logins_fail_is_banned() {
    let quota = Quota { count: 2, period_ms: 10_000 };
    let mut broker = broker(Protection {
        failed_logins: Some(Penalty { quota, ban_ms: 60_000 }),
        user_names: NamePatterns::new(["known"]),
        crowd: crowd(),
        ..Protection::default()
    });
    let unknown = Connect { username: Some("else"), ..Connect::new(V5, "c") };
    let known = Connect { username: Some("known"), ..Connect::new(V5, "c") };
    for id in 0..2 {
        assert_eq!(broker.connack(id, &unknown), ReasonCode::BadUserNameOrPassword);
    }
    assert_eq!(broker.connack(2, &known), ReasonCode::Success);
    let mut bytes = Vec::new();
    unknown.encode(&mut bytes);
    assert!(broker.accept(3, "192.0.2.1", 0));
    broker.receive(0, 3, &bytes);
    let ban = broker.actions(0).into_iter().find_map(|action| match action {
        Action::Ban(ban) => Some(ban),
        _ => None,
    });
    let ban = ban.expect("a ban");
    broker.shards[0].handle_bans(Some(Arc::new(Bans::new([(ban.subject, ban.until)]))));
    assert!(!broker.accept(4, "192.0.2.1", 0));
    assert!(broker.accept(5, "192.0.2.2", 0));
    assert_eq!(broker.refused(ConnectionRefusal::Banned), 1);
    broker.shards[0].handle_bans(None);
    assert!(broker.accept(6, "192.0.2.1", 0));
}

#[test]
fn names_that_are_not_wanted_are_refused() {
    let mut broker =
        broker(Protection { client_ids: NamePatterns::new(["%u-*"]), ..Protection::default() });
    let as_user = |user, client_id| Connect { username: Some(user), ..Connect::new(V5, client_id) };
    assert_eq!(broker.connack(0, &as_user("anna", "anna-1")), ReasonCode::Success);
    assert_eq!(broker.connack(1, &as_user("anna", "ben-1")), ReasonCode::ClientIdentifierNotValid);
    assert_eq!(
        broker.connack(2, &Connect::new(V5, "anna-1")),
        ReasonCode::ClientIdentifierNotValid
    );
}

/// While memory is short, what flows flows, and nothing more is kept.
#[test]
fn short_memory_refuses_what_would_stay() {
    let queue = QueueLimits { messages_max: 10, bytes_max: 1 << 20 };
    let mut broker = Broker::new(1, Settings { queue, ..Settings::default() });
    let persistent = |client_id| {
        let mut connect = Connect { clean_start: false, ..Connect::new(V5, client_id) };
        connect.properties.session_expiry_interval_seconds = Some(100);
        connect
    };
    assert_eq!(broker.connack(0, &persistent("away")), ReasonCode::Success);
    broker.shards[0].handle_received(ConnectionId(0), &subscribe_v5("q"), broker.now);
    broker.hang_up(0);
    assert_eq!(broker.connack(1, &Connect::new(V5, "here")), ReasonCode::Success);
    broker.shards[0].handle_pressure(true);
    assert_eq!(broker.connack(2, &Connect::new(V5, "new")), ReasonCode::ServerBusy);
    assert_eq!(broker.connack(3, &persistent("away")), ReasonCode::Success, "its memory is there");
    broker.hang_up(3);
    let mut answer = |bytes: &[u8]| {
        broker.receive(0, 1, bytes);
        let bytes = broker.sent(0, 1);
        let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no answer") };
        match decode(raw, V5).unwrap() {
            Packet::PubAck(ack) => ack.reason_code,
            Packet::SubAck(ack) => ack.reason_codes.iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(answer(&publish_v5("q", false)), ReasonCode::QuotaExceeded);
    assert_eq!(answer(&publish_v5("r", true)), ReasonCode::QuotaExceeded);
    assert_eq!(answer(&subscribe_v5("s")), ReasonCode::QuotaExceeded);
    broker.shards[0].handle_pressure(false);
    let mut answer = |bytes: &[u8]| {
        broker.receive(0, 1, bytes);
        let bytes = broker.sent(0, 1);
        let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no answer") };
        decode(raw, V5).map(|packet| format!("{packet:?}")).unwrap()
    };
    for packet in [publish_v5("q", false), publish_v5("r", true), subscribe_v5("s")] {
        let said = answer(&packet);
        assert!(!said.contains("QuotaExceeded"), "{said}");
    }
    broker.shards[0].check_integrity();
}

fn subscribe_v5(filter: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let filter = midge_codec::SubscribeFilter {
        filter,
        qos: QoS::AtLeastOnce,
        ..midge_codec::SubscribeFilter::default()
    };
    midge_codec::Subscribe::new(midge_codec::PacketId::MIN, &[filter]).encode(V5, &mut bytes);
    bytes
}

fn publish_v5(topic: &str, retain: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet_id = midge_codec::PacketId::new(1);
    let qos = QoS::AtLeastOnce;
    let publish = midge_codec::Publish {
        topic,
        payload: b"p",
        qos,
        packet_id,
        retain,
        ..midge_codec::Publish::default()
    };
    publish.encode(V5, &mut bytes);
    bytes
}

/// Where one listener is stricter than all, its clients are held to that, in runs and alone, and others are not.
#[test]
fn topics_are_as_deep_as_the_listener_lets_them() {
    let own = ListenerProtection { topic_levels_max: 2, ..ListenerProtection::default() };
    let mut broker = broker(Protection {
        listeners: vec![ListenerProtection::default(), own],
        ..Protection::default()
    });
    let connect = |broker: &mut Broker, id: u32, listener: u16| {
        assert!(broker.accept(id, "192.0.2.1", listener));
        let mut bytes = Vec::new();
        Connect::new(V5, &format!("c{id}")).encode(&mut bytes);
        broker.receive(0, id, &bytes);
        broker.actions(0);
    };
    // A PUBLISH at QoS 0, one at QoS 1, and a SUBSCRIBE, each for a topic with three levels.
    let plain = b"\x30\x08\0\x05a/b/c\0";
    let acknowledged = b"\x32\x0a\0\x05a/b/c\0\x01\0";
    let subscribe = b"\x82\x0b\0\x02\0\0\x05a/+/c\0";
    for (id, listener, refused, suback) in [(0, 0, false, 0x00), (1, 1, true, 0x8f)] {
        connect(&mut broker, id, listener);
        broker.receive(0, id, subscribe);
        assert_eq!(broker.sent(0, id).last(), Some(&suback), "{listener}");
        broker.receive(0, id, acknowledged);
        assert_eq!(broker.sent(0, id).contains(&0x90), refused, "{listener}");
        // At QoS 0 there is only DISCONNECT to say it.
        broker.receive(0, id, plain);
        assert_eq!(broker.sent(0, id).contains(&0xe0), refused, "{listener}");
    }
    // One that is not too deep.
    connect(&mut broker, 2, 1);
    broker.receive(0, 2, b"\x30\x06\0\x03a/b\0");
    assert!(!broker.sent(0, 2).contains(&0xe0));
    // A will is a publication, too.
    for (id, listener, topic, expected) in
        [(3, 1, "a/b/c", 0x90), (4, 1, "a/b", 0), (5, 0, "a/b/c", 0)]
    {
        assert!(broker.accept(id, "192.0.2.1", listener));
        let name = format!("c{id}");
        let will = Some(Will { topic, payload: b"x", ..Will::default() });
        let mut bytes = Vec::new();
        Connect { will, ..Connect::new(V5, &name) }.encode(&mut bytes);
        broker.receive(0, id, &bytes);
        assert_eq!(broker.sent(0, id)[3], expected, "{topic} by {listener}");
    }
}

#[test]
fn what_comes_by_each_listener_is_counted() {
    let counts = Arc::new(ListenerCounts::new());
    let own = ListenerProtection { connections_max: 1, ..ListenerProtection::default() };
    let mut broker = broker(Protection {
        listeners: vec![ListenerProtection::default(), own],
        user_names: NamePatterns::new(["known"]),
        crowd: crowd(),
        listener_counts: Some(Arc::clone(&counts)),
        ..Protection::default()
    });
    for (id, listener) in [(0, 0), (1, 0), (2, 1)] {
        assert!(broker.accept(id, "192.0.2.1", listener));
    }
    assert!(!broker.accept(3, "192.0.2.1", 1));
    broker.shards[0].handle_closed(ConnectionId(3), broker.now);
    let mut bytes = Vec::new();
    Connect { username: Some("else"), ..Connect::new(V5, "c") }.encode(&mut bytes);
    broker.receive(0, 1, &bytes);
    broker.sent(0, 1);
    broker.hang_up(0);
    let of = |listener| counts.of(ListenerId(listener));
    let zero = ListenerNumbers::default();
    let first = of(0);
    assert_eq!((first.accepted, first.refused, first.connects_refused), (2, 0, 1));
    assert_eq!(of(1), ListenerNumbers { connections: 1, accepted: 2, refused: 1, ..zero });
    assert_eq!(of(2), zero);
    // It had been told why, and then left.
    broker.hang_up(1);
    assert_eq!(of(0).connections, 0);
}

/// A listener whose clients may publish 20 times in a second together, and readers by another one.
fn together(rates: Rates) -> Broker {
    let own = ListenerProtection { rates_together: rates, ..ListenerProtection::default() };
    let mut broker = broker(Protection {
        listeners: vec![ListenerProtection::default(), own],
        meters: Some(Arc::new(ListenerMeters::new())),
        listener_counts: Some(Arc::new(ListenerCounts::new())),
        ..Protection::default()
    });
    assert_eq!(broker.connack(0, &Connect::new(V311, "reader")), ReasonCode::Success);
    broker.receive(0, 0, &subscribe("#", QoS::AtMostOnce));
    broker.sent(0, 0);
    broker
}

impl Broker {
    fn connect_by(&mut self, id: u32, listener: u16) {
        assert!(self.accept(id, "192.0.2.1", listener));
        let mut bytes = Vec::new();
        Connect::new(V311, &format!("c{id}")).encode(&mut bytes);
        self.receive(0, id, &bytes);
        self.actions(0);
    }

    /// Goes on until the shard waits for nobody, or for long; what the reader got, by the millisecond.
    fn run_until_quiet(&mut self, milliseconds: u64) -> Vec<(u64, String)> {
        let start = self.now;
        let mut got = Vec::new();
        while self.now.since(start) < milliseconds * 1_000_000 {
            self.shards[0].handle_turn(self.now);
            let passed = self.now.since(start) / 1_000_000;
            got.extend(self.payloads(0, 0).into_iter().map(|payload| (passed, payload)));
            let due = self.shards[0].next_timeout().unwrap_or(self.now);
            self.now = due.max(self.now.plus_millis(1)).min(self.now.plus_millis(1000));
        }
        got
    }
}

const TWENTY: Rates = Rates { publishes_per_second: 20, bytes_per_second: 0 };

#[test]
fn clients_of_a_listener_publish_so_much_together_and_take_turns() {
    let mut broker = together(TWENTY);
    for id in 1..=4 {
        broker.connect_by(id, 1);
        let flood: Vec<u8> =
            (0..50).flat_map(|n| publish("t", &format!("{id}-{n}"), QoS::AtMostOnce, 0)).collect();
        broker.receive(0, id, &flood);
    }
    let got = broker.run_until_quiet(4_010);
    let within = |until| got.iter().filter(|(at, _)| *at < until).count();
    // A second's worth at once, and one that was booked before anybody waited; then a portion of five ahead.
    assert!((20..=21).contains(&within(1)), "{got:?}");
    assert!((39..=46).contains(&within(1_000)) && (99..=106).contains(&within(4_010)), "{got:?}");
    // The first had what there was at once; from then on it is everybody's turn.
    let of = |id: u32| {
        let start = format!("{id}-");
        got.iter().skip(21).filter(|(_, payload)| payload.starts_with(&start)).count()
    };
    let counts = [1, 2, 3, 4].map(of);
    assert!(
        counts.iter().max() <= counts.iter().min().map(|least| least + 2).as_ref(),
        "{counts:?}"
    );
    // Nothing is lost, and what one says keeps its order.
    let rest = broker.run_until_quiet(6_000);
    assert_eq!(got.len() + rest.len(), 200);
    let second: Vec<_> =
        got.iter().chain(&rest).filter(|(_, payload)| payload.starts_with("2-")).collect();
    assert!(second.iter().enumerate().all(|(n, (_, payload))| *payload == format!("2-{n}")));
    let counters = broker.shards[0].counters();
    assert!(counters.publishers_paced_together > 0 && counters.publishers_paced == 0);
    let counts = broker.shards[0].settings.protection.listener_counts.clone().unwrap();
    assert_eq!(counts.of(ListenerId(1)).publishers_paced, counters.publishers_paced_together);
    assert_eq!(counts.of(ListenerId(0)).publishers_paced, 0);
    broker.shards[0].check_integrity();
}

#[test]
fn another_listener_is_not_held_up() {
    let mut broker = together(TWENTY);
    broker.connect_by(1, 1);
    broker.connect_by(2, 0);
    let flood: Vec<u8> = (0..100).flat_map(|_| publish("t", "x", QoS::AtMostOnce, 0)).collect();
    broker.receive(0, 1, &flood);
    broker.receive(0, 2, &flood);
    let got = broker.run_until_quiet(1).len();
    assert!((120..=121).contains(&got), "{got}");
}

#[test]
fn bytes_of_a_listener_count_and_a_large_packet_is_paid_for_by_all() {
    let mut broker = together(Rates { publishes_per_second: 0, bytes_per_second: 1000 });
    broker.connect_by(1, 1);
    broker.connect_by(2, 1);
    let small = publish("t", "0123456789", QoS::AtMostOnce, 0);
    let large = publish("t", &"l".repeat(990), QoS::AtMostOnce, 0);
    let flood = small.repeat(80);
    broker.receive(0, 1, &flood);
    broker.receive(0, 2, &large.repeat(5));
    let got = broker.run_until_quiet(7_000);
    let bytes: usize = got.iter().map(|(_, payload)| payload.len() + 5).sum();
    assert!((5 * 1000..=9_300).contains(&bytes), "{bytes}");
    let got_large = got.iter().filter(|(_, payload)| payload.len() > 900).count();
    assert_eq!(got_large, 5, "{got:?}");
    assert_eq!(got.len(), 85);
}

/// Who leaves while it waits has said what it has said, and the others pay for it. Its place in line is nobody's.
#[test]
fn whoever_comes_and_goes_takes_from_what_its_listener_has() {
    let mut broker = together(TWENTY);
    let flood: Vec<u8> = (0..60).flat_map(|_| publish("t", "x", QoS::AtMostOnce, 0)).collect();
    broker.connect_by(1, 1);
    broker.receive(0, 1, &flood);
    broker.hang_up(1);
    assert_eq!(broker.run_until_quiet(1).len(), 60);
    broker.connect_by(2, 1);
    broker.receive(0, 2, &publish("t", "y", QoS::AtMostOnce, 0));
    let got = broker.run_until_quiet(4_000);
    assert!(matches!(&got[..], [(1_900..=2_100, _)]), "{got:?}");
}

#[test]
fn a_reload_frees_a_line_or_gives_it_another_rate() {
    let mut broker = together(Rates { publishes_per_second: 1, bytes_per_second: 0 });
    let flood: Vec<u8> = (0..50).flat_map(|_| publish("t", "x", QoS::AtMostOnce, 0)).collect();
    for id in 1..=3 {
        broker.connect_by(id, 1);
        broker.receive(0, id, &flood);
    }
    assert!(broker.run_until_quiet(1).len() <= 2);
    let change = |broker: &mut Broker, rates| {
        let mut settings = (*broker.shards[0].full_settings).clone();
        settings.protection.listeners[1].rates_together = rates;
        broker.shards[0].handle_settings(Arc::new(settings));
    };
    change(&mut broker, Rates { publishes_per_second: 50, bytes_per_second: 0 });
    let got = broker.run_until_quiet(1_500).len();
    assert!((24..=77).contains(&got), "{got}");
    change(&mut broker, Rates::default());
    broker.run_until_quiet(100);
    assert_eq!(broker.shards[0].counters().publishes_received[0], 150);
}

/// The second listener's clients may have two messages retained.
fn retaining(shards: u16, messages_max: u64) -> Broker {
    let quota =
        RetainedQuota { listener: ListenerId(1), label: "in".into(), messages_max, bytes_max: 0 };
    let own =
        ListenerProtection { retained: Some(Arc::new(quota)), ..ListenerProtection::default() };
    let protection = Protection {
        listeners: vec![ListenerProtection::default(), own],
        meters: Some(Arc::new(ListenerMeters::new())),
        listener_counts: Some(Arc::new(ListenerCounts::new())),
        ..Protection::default()
    };
    Broker::new(shards, Settings { protection, ..Settings::default() })
}

impl Broker {
    fn come_by(&mut self, id: u32, listener: u16, will: Option<Will<'_>>) {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        self.shards[0].handle_accepted(ConnectionId(id), peer, ListenerId(listener), self.now);
        let names = (0..).map(|n| format!("c{id}-{n}"));
        let count = self.shards.len() as u16;
        let mut own = names.filter(|name| crate::home_shard(name, count).index() == 0);
        let name = own.next().unwrap();
        let mut bytes = Vec::new();
        Connect { will, ..Connect::new(V5, &name) }.encode(&mut bytes);
        self.receive(0, id, &bytes);
        self.sent(0, id);
    }

    /// What a publisher at QoS 1 is told.
    fn retain_by(&mut self, id: u32, topic: &str, payload: &[u8]) -> ReasonCode {
        let mut bytes = Vec::new();
        let packet_id = midge_codec::PacketId::new(1);
        let (qos, retain) = (QoS::AtLeastOnce, true);
        let publish = midge_codec::Publish {
            topic,
            payload,
            qos,
            packet_id,
            retain,
            ..midge_codec::Publish::default()
        };
        publish.encode(V5, &mut bytes);
        self.receive(0, id, &bytes);
        self.exchange();
        for shard in &self.shards {
            shard.check_integrity();
        }
        let bytes = self.sent(0, id);
        let Ok(Framed::Packet(raw)) = frame(&bytes, u32::MAX) else { panic!("no answer") };
        match decode(raw, V5).unwrap() {
            Packet::PubAck(ack) => ack.reason_code,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_listener_has_so_many_retained_messages() {
    let mut broker = retaining(1, 2);
    broker.come_by(0, 0, None);
    broker.come_by(1, 1, None);
    let full = ReasonCode::QuotaExceeded;
    let good = ReasonCode::Success;
    for (client, topic, payload, expected) in [
        (1, "a", "1", good),
        (1, "b", "1", good),
        (1, "c", "1", full),
        // What is there can be replaced, by whomever: it counts for whoever did that.
        (1, "a", "22", good),
        (0, "c", "1", good),
        (1, "c", "2", full),
        (0, "a", "3", good),
        (1, "d", "1", good),
        (1, "e", "1", full),
        // And removed.
        (0, "b", "", good),
        (1, "e", "1", good),
        (1, "f", "1", full),
    ] {
        assert_eq!(
            broker.retain_by(client, topic, payload.as_bytes()),
            expected,
            "{client} {topic}"
        );
    }
    assert_eq!(broker.shards[0].retained.len(), 4, "a, c, d and e");
    let counts = broker.shards[0].settings.protection.listener_counts.clone().unwrap();
    assert_eq!(
        (counts.of(ListenerId(0)).retained_refused, counts.of(ListenerId(1)).retained_refused),
        (0, 4)
    );
    assert_eq!(broker.shards[0].counters().retained_refused, 4);
    let meters = broker.shards[0].settings.protection.meters.clone().unwrap();
    assert_eq!(meters.retained_of(ListenerId(1))[0], 2);
}

/// One limit for all shards, whichever of them keep the topics.
#[test]
fn retained_messages_of_a_listener_are_counted_over_all_shards() {
    let mut broker = retaining(3, 10);
    broker.come_by(1, 1, None);
    let told: Vec<_> = (0..30).map(|n| broker.retain_by(1, &format!("t/{n}"), b"x")).collect();
    assert!(told[..10].iter().all(|code| *code == ReasonCode::Success), "{told:?}");
    assert!(told[10..].iter().all(|code| *code == ReasonCode::QuotaExceeded), "{told:?}");
    let kept: Vec<_> = broker.shards.iter().map(|shard| shard.retained.len()).collect();
    assert_eq!(kept.iter().sum::<usize>(), 10);
    assert!(kept.iter().all(|count| *count > 0), "{kept:?}");
}

/// A will that is retained is no way around the limit, also when it comes late.
#[test]
fn retained_wills_count_for_their_listener() {
    let mut broker = retaining(1, 1);
    for (id, topic, delay) in [(1, "a", 0), (2, "b", 0), (3, "c", 5)] {
        let mut will = Will { topic, payload: b"w", retain: true, ..Will::default() };
        will.properties.delay_interval_seconds = Some(delay);
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        broker.shards[0].handle_accepted(ConnectionId(id), peer, ListenerId(1), broker.now);
        let name = format!("w{id}");
        let mut connect = Connect { will: Some(will), ..Connect::new(V5, &name) };
        connect.properties.session_expiry_interval_seconds = Some(100);
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        broker.receive(0, id, &bytes);
        broker.sent(0, id);
    }
    for id in 1..=3 {
        broker.hang_up(id);
    }
    broker.later(6_000, 0);
    broker.later(1_000, 0);
    assert_eq!(broker.shards[0].counters().wills_published, 3);
    assert_eq!(broker.shards[0].retained.len(), 1);
    assert_eq!(broker.shards[0].counters().retained_refused, 2);
}

#[test]
fn a_reload_brings_a_limit_of_retained_messages_and_takes_it_back() {
    let mut broker = retaining(1, 3);
    broker.come_by(1, 1, None);
    let change = |broker: &mut Broker, messages_max: u64| {
        let mut settings = (*broker.shards[0].full_settings).clone();
        let quota = RetainedQuota {
            listener: ListenerId(1),
            label: "in".into(),
            messages_max,
            bytes_max: 0,
        };
        settings.protection.listeners[1].retained = (messages_max > 0).then(|| Arc::new(quota));
        broker.shards[0].handle_settings(Arc::new(settings));
    };
    let many = |broker: &mut Broker, prefix: &str| {
        let told = (0..10).map(|n| broker.retain_by(1, &format!("{prefix}/{n}"), b"x"));
        told.filter(|code| *code == ReasonCode::Success).count()
    };
    assert_eq!(many(&mut broker, "a"), 3);
    change(&mut broker, 5);
    assert_eq!(many(&mut broker, "b"), 2);
    change(&mut broker, 0);
    assert_eq!(many(&mut broker, "c"), 10);
    // What came while there was none does not count.
    change(&mut broker, 6);
    assert_eq!(many(&mut broker, "d"), 1);
    change(&mut broker, 2);
    assert_eq!(many(&mut broker, "e"), 0);
}
