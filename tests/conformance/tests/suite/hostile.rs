//! The ways other brokers fell: each class of known failure has a test here.
//!
//! After each attack a client that was there before still has its answers: the process neither ended
//! nor started anew.

use std::io::Write;
use std::time::{Duration, Instant};

use midge_conformance::prelude::*;

/// Sends these bytes as one client after its CONNECT; the broker may close the connection or not.
fn attack(version: Version, bytes: &[u8]) {
    let mut attacker = client(version);
    attacker.send_regardless(bytes);
    attacker.vanish();
}

/// Topics and filters of as many levels as fit: refused or served, and soon.
///
/// [MQTT-4.7.3-3] [MQTT-4.7.3-3 @3.1.1] [MQTT-4.13.1-1]
#[test]
fn deep_topics() {
    for version in each(Version::NUMBERED) {
        let mut witness = client(version);
        let since = Instant::now();
        for deep in [
            "/".repeat(65_400),
            "a/".repeat(32_000),
            "+/".repeat(32_000) + "#",
            "$share/g/".to_owned() + &"/".repeat(65_000),
        ] {
            attack(version, &subscribe(1).filter(&deep, 0).encode(version));
            attack(version, &unsubscribe(1).filter(&deep).encode(version));
            let name = deep.replace(['+', '#'], "x");
            attack(version, &publish(&*name).encode(version));
            attack(version, &publish(&*name).qos(1, 1).payload("x").retain().encode(version));
            let mut willing = open(version);
            willing.send(hello(version).will(will(&name, "x").retain()));
            willing.vanish();
            witness.ping();
        }
        assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    }
}

/// Filters that all match, with wildcards at every level: matching stays quick.
///
/// [MQTT-4.7.1-2] [MQTT-4.7.1-3 @3.1.1] [MQTT-3.3.4-2]
#[test]
fn filters_built_to_explode() {
    let base = topic("base");
    let (mut subscriber, mut publisher) = (client(Version::V5), client(Version::V5));
    // Every way to put `a` or `+` into ten levels.
    let packet = (0..1024_u32).fold(subscribe(1), |packet, bits| {
        let levels: Vec<_> =
            (0..10).map(|bit| if bits >> bit & 1 == 1 { "+" } else { "a" }).collect();
        packet.filter(format!("{base}/{}", levels.join("/")), 0)
    });
    assert_eq!(subscriber.subscribe_with(packet).codes.len(), 1024);
    let since = Instant::now();
    publisher.deliver(publish(format!("{base}/a/a/a/a/a/a/a/a/a/a")));
    publisher.deliver(publish(format!("{base}/a/a/a/a/a/a/a/a/a/a")));
    subscriber.take();
    publisher.ping();
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

/// Lengths of five bytes and more, before and after CONNECT, and lengths that are never filled.
///
/// [MQTT-1.5.5-1] [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn lengths_that_lie() {
    let mut witness = client(Version::V5);
    for version in each(Version::NUMBERED) {
        for first_byte in [0x10, 0x30, 0x32, 0x62, 0x82, 0xa2, 0xc0, 0xe0, 0xf0] {
            attack(version, &[first_byte, 0xff, 0xff, 0xff, 0xff, 0x01]);
            attack(version, &[first_byte, 0xff, 0xff, 0xff, 0x7f]);
            attack(version, &[first_byte, 0x80]);
            let mut early = open(version);
            early.send_regardless(&[first_byte, 0xff, 0xff, 0xff, 0x7f, 0, 0]);
            early.vanish();
        }
        // Lengths inside the packet that point beyond its end.
        attack(version, &frame(0x30, b"\xff\xffab"));
        attack(version, &frame(0x82, b"\0\x01\xff\xff\xff\x7f"));
        attack(version, &frame(0x10, b"\0\x04MQTT\x05\xc2\0\0\xff\xff\xff\x7f"));
    }
    witness.ping();
}

/// Shared filters with a part missing, which others took apart without looking.
///
/// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn shared_filters_with_a_part_missing() {
    let mut witness = client(Version::V5);
    for filter in
        ["$share/ab", "$share/", "$share", "$share//", "$share/a/", "$SHARE/a/b", "$", "$/"]
    {
        for version in Version::NUMBERED {
            attack(version, &subscribe(1).filter(filter, 0).encode(version));
            attack(version, &unsubscribe(1).filter(filter).encode(version));
            attack(version, &publish(filter).encode(version));
        }
    }
    witness.ping();
}

/// A client that answers as a server would.
///
/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1] [MQTT-3.1.0-1]
#[test]
fn packets_only_a_server_sends() {
    let mut witness = client(Version::V5);
    let packets: [&[u8]; 6] = [
        &[0x20, 2, 0, 0],
        &[0x20, 3, 0, 0, 0],
        &[0x90, 2, 0, 1],
        &[0x90, 3, 0, 1, 0],
        &[0xb0, 3, 0, 1, 0],
        &[0xd0, 0],
    ];
    for packet in each(packets) {
        for version in Version::NUMBERED {
            let mut early = open(version);
            early.send(packet.to_vec());
            early.expect_closed();
            let mut late = client(version);
            late.send(packet.to_vec());
            late.expect_error(&[0x81, 0x82]);
        }
    }
    witness.ping();
}

/// The same QoS 2 identifier again and again without a PUBREL: one message, no growth.
///
/// [MQTT-4.3.3-10] [MQTT-4.3.3-2 @3.1.1]
#[test]
fn same_qos_2_identifier_without_pubrel() {
    for version in each(Version::NUMBERED) {
        let topic = topic("t");
        let mut subscriber = client(version);
        subscriber.subscribe(&topic, 0);
        let mut publisher = client(version);
        let message = publish(&*topic).qos(2, 1).payload(vec![b'x'; 1000]);
        for _ in 0..20 {
            publisher.send(message.encode(version).repeat(50));
            for _ in 0..50 {
                publisher.expect_success(Kind::PubRec, 1);
            }
        }
        publisher.send(pubrel(1));
        publisher.expect(pubcomp(1));
        assert_eq!(subscriber.take().payload.len(), 1000);
        subscriber.nothing_from(&mut publisher);
    }
}

/// Will properties that are malformed, many times.
///
/// [MQTT-3.1.4-1] [MQTT-3.1.3-11]
#[test]
fn malformed_will_properties_many_times() {
    let mut witness = client(Version::V5);
    for _ in 0..100 {
        let broken = will("t", "w").with(Property::user("a", &"b".repeat(1000)));
        let mut client = open(Version::V5);
        client.send(hello(Version::V5).will(broken.with(Property::Raw(vec![0x26, 0, 9]))));
        client.expect_malformed_connect();
    }
    witness.ping();
}

/// As many user properties as fit into a packet are read in no time.
///
/// [MQTT-3.3.2-17] [MQTT-3.3.2-18]
#[test]
fn very_many_user_properties() {
    let topic = topic("t");
    let (mut subscriber, mut publisher) = (client(Version::V5), client(Version::V5));
    subscriber.subscribe(&topic, 1);
    let users = vec![Property::user("k", "v"); 100_000];
    let many = Publish { properties: users.clone(), ..publish(&*topic).qos(1, 1) };
    let since = Instant::now();
    publisher.deliver(many.clone());
    assert!(subscriber.take().properties == users);
    publisher.deliver(Publish { properties: users, ..publish(&*topic).qos(1, 1) });
    subscriber.take();
    // Work that grows with the square of their number would take minutes.
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());

    let connect_many =
        vec![Property::user("k", "v"); 50_000].into_iter().fold(hello(Version::V5), Connect::with);
    let mut client = connect(connect_many);
    client.ping();
}

/// Client identifiers that look like patterns, paths or topics are names like any other.
///
/// [MQTT-3.1.3-2] [MQTT-3.1.3-2 @3.1.1]
#[test]
fn client_ids_that_look_like_patterns() {
    for version in each(Version::NUMBERED) {
        let mut other = client(version);
        for id in
            each(["#", "+", "+/#", "a/#", "../../etc/passwd", ".*", "%s%n", "$SYS", "\u{202e}"])
        {
            let mut strange = connect(hello(version).client_id(id));
            strange.ping();
            let topic = topic("t");
            strange.subscribe(&topic, 0);
            strange.send(publish(&*topic).payload("x"));
            assert_eq!(strange.take().text(), "x");
        }
        other.ping();
    }
}

/// A refused CONNECT does not keep its connection, even if the client would like to.
///
/// [MQTT-3.2.2-7] [MQTT-3.2.2-5 @3.1.1] [MQTT-4.13.2-1]
#[test]
fn refused_connections_are_closed() {
    for version in each(Version::NUMBERED) {
        for _ in 0..50 {
            let mut refused = open(version);
            refused.send(hello(version).protocol_level(77));
            refused.drain();
        }
    }
}

/// Connections that never say CONNECT, or never finish saying it, are closed after the time allowed,
/// counted from the beginning and not from their last byte.
///
/// [MQTT-3.1.0-1] [MQTT-3.1.4-1] [MQTT-3.1.0-1 @3.1.1] [MQTT-3.1.4-1 @3.1.1]
#[test]
fn half_open_connections() {
    let Some(broker) = Broker::start("limits: { connect_timeout: 1s }") else { return };
    let since = Instant::now();
    let mut silent: Vec<_> =
        (0..200).map(|_| Client::open(broker.address(), Version::V311)).collect();
    let mut slow = Client::open(broker.address(), Version::V311);
    let whole = hello(Version::V311).keep_alive(0).encode(Version::V311);
    let mut stream = slow.stream().try_clone().expect("a socket has a second handle");
    // A byte every 200 ms, as long as the broker takes it.
    for byte in &whole {
        let_pass(0.2);
        if stream.write_all(&[*byte]).is_err() || since.elapsed() > Duration::from_secs(8) {
            break;
        }
    }
    slow.expect_closed();
    silent.iter_mut().for_each(Client::expect_closed);
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    Client::connect(broker.address(), hello(Version::V5)).ping();
}

/// Taken over a thousand times, faster than the broker can say so.
///
/// [MQTT-3.1.4-3] [MQTT-3.1.4-2 @3.1.1]
#[test]
fn taken_over_without_end() {
    for version in each(Version::NUMBERED) {
        let hello = hello(version).persistent();
        let mut witness = client(version);
        for _ in 0..20 {
            let mut racing: Vec<_> = (0..25)
                .map(|_| {
                    let mut client = open(version);
                    client.send(hello.clone());
                    client
                })
                .collect();
            // Each was let in once; which one came last is nobody's promise.
            for client in &mut racing {
                assert_eq!(client.expect_connack().code, 0);
            }
            let last = connect(hello.clone());
            for client in &mut racing {
                client.expect_error(&[0x8e]);
            }
            last.leave();
        }
        witness.ping();
    }
}

/// A peer that only sends: rubbish of every first byte, in every version, and bytes drawn by chance.
///
/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn rubbish() {
    let mut witness = client(Version::V5);
    // A fixed sequence (xorshift), so that a failure comes again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for version in each(Version::ALL) {
        for first_byte in 0..=255_u8 {
            let body: Vec<u8> = (0..next() % 40).map(|_| next() as u8).collect();
            attack(version, &frame(first_byte, &body));
        }
    }
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..next() % 300).map(|_| next() as u8).collect();
        let mut early = open(Version::V311);
        early.send_regardless(&bytes);
        let _ = early.stream().shutdown(std::net::Shutdown::Write);
        early.drain();
    }
    witness.ping();
}
