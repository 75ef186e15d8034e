//! What holds for all packets: flags, lengths, direction, and how the stream is cut.

use midge_conformance::prelude::*;

/// The fixed header's flags have one value for every packet but PUBLISH.
///
/// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
/// [MQTT-2.2.2-1 @3.1.1] [MQTT-2.2.2-2 @3.1.1] [MQTT-3.6.1-1 @3.1.1] [MQTT-3.8.1-1 @3.1.1]
/// [MQTT-3.10.1-1 @3.1.1] [MQTT-3.14.1-1 @3.1.1]
#[test]
fn flags() {
    for version in each(Version::NUMBERED) {
        let right = [
            puback(1).encode(version),
            pubrec(1).encode(version),
            pubrel(1).encode(version),
            pubcomp(1).encode(version),
            subscribe(1).filter("a", 0).encode(version),
            unsubscribe(1).filter("a").encode(version),
            pingreq().to_vec(),
            disconnect().encode(version),
            auth(0x19).encode(version),
        ];
        for packet in each(right) {
            for flags in (0..16).filter(|flags| *flags != packet[0] & 0x0f) {
                let mut wrong = packet.clone();
                wrong[0] = packet[0] & 0xf0 | flags;
                let mut client = client(version);
                client.send(wrong);
                client.expect_error(if packet[0] >> 4 == 15 { &[0x81, 0x82] } else { &[0x81] });
            }
        }
    }
}

/// Packets that only a server sends, and types that do not exist.
///
/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1] [MQTT-2.2.2-2 @3.1.1]
#[test]
fn packets_of_the_other_direction() {
    let packets: [(Version, &[u8]); 14] = [
        (Version::V311, &[0x00, 0]),
        (Version::V311, &[0x20, 2, 0, 0]),
        (Version::V311, &[0x90, 3, 0, 1, 0]),
        (Version::V311, &[0x90, 2, 0, 1]),
        (Version::V311, &[0xb0, 2, 0, 1]),
        (Version::V311, &[0xd0, 0]),
        (Version::V311, &[0xf0, 0]),
        (Version::V5, &[0x00, 0]),
        (Version::V5, &[0x20, 3, 0, 0, 0]),
        (Version::V5, &[0x90, 4, 0, 1, 0, 0]),
        (Version::V5, &[0x90, 3, 0, 1, 0]),
        (Version::V5, &[0xb0, 4, 0, 1, 0, 0]),
        (Version::V5, &[0xb0, 3, 0, 1, 0]),
        (Version::V5, &[0xd0, 0]),
    ];
    for (version, packet) in each(packets) {
        let mut client = client(version);
        client.send(packet.to_vec());
        client.expect_error(&[0x81, 0x82]);
    }
}

/// A remaining length of five bytes, or longer than it needs to be.
///
/// [MQTT-1.5.5-1] [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn remaining_length() {
    for version in each(Version::NUMBERED) {
        for length in each([
            &b"\x80\x80\x80\x80\x01"[..],
            b"\xff\xff\xff\xff\x7f",
            b"\x80\x80\x80\x80\x80\x80",
        ]) {
            let mut client = client(version);
            client.send([&[0x30], length].concat());
            client.expect_error(&[0x81]);
            let mut early = open(version);
            early.send([&[0x10], length].concat());
            early.expect_closed();
        }
    }
    // 5.0 alone says that it must be as short as it can be.
    for packet in each([&b"\xc0\x80\x00"[..], b"\x30\x84\x00\x00\x01a\x00", b"\xe0\x80\x80\x00"]) {
        let mut client = client(Version::V5);
        client.send(packet.to_vec());
        client.expect_error(&[0x81]);
    }
}

/// The length of properties, and a subscription identifier, longer than they need to be.
///
/// [MQTT-1.5.5-1]
#[test]
fn lengths_inside_packets() {
    let bodies = [
        (0x30, &b"\0\x01a\x80\x00"[..]),
        (0x82, b"\0\x01\x80\x00\0\x01a\0"),
        (0x82, b"\0\x01\x03\x0b\x81\x00\0\x01a\0"),
        (0xa2, b"\0\x01\x80\x00\0\x01a"),
        (0xe0, b"\x00\x80\x00"),
    ];
    for (first_byte, body) in each(bodies) {
        let mut client = client(Version::V5);
        client.send(frame(first_byte, body));
        client.expect_error(&[0x81]);
    }
}

/// The stream may be cut anywhere, and several packets may come at once.
///
/// [MQTT-4.2-1] [MQTT-7.1.1-1 @3.1.1]
#[test]
fn stream_cut_anywhere() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut whole = hello(version).encode(version);
        whole.extend(subscribe(1).filter(&topic, 1).encode(version));
        whole.extend(publish(&*topic).qos(1, 2).payload("x".repeat(200)).encode(version));
        whole.extend(pingreq());
        for size in each([1, 2, 3, 7, 64, whole.len()]) {
            let mut client = open(version);
            for part in whole.chunks(size) {
                client.send(part.to_vec());
            }
            assert_eq!(client.expect_connack().code, 0);
            assert_eq!(client.expect_suback().codes, [1]);
            let mut seen = [false; 3];
            while seen != [true; 3] {
                match client.receive() {
                    Packet::Publish(message) => {
                        assert_eq!(message.payload.len(), 200);
                        client.acknowledge(&message);
                        seen[0] = true;
                    }
                    Packet::Ack(ack) => {
                        assert_eq!((ack.kind, ack.id), (Kind::PubAck, 2));
                        seen[1] = true;
                    }
                    Packet::PingResp => seen[2] = true,
                    other => panic!("{other:?}"),
                }
            }
            client.ping();
            client.vanish();
        }
    }
}

/// Nothing but what the specification has is needed to be served: the shortest form of everything.
///
/// [MQTT-7.0.0-2 @3.1.1] [MQTT-2.2.2-1]
#[test]
fn shortest_forms() {
    for version in each(Version::ALL) {
        let mut client = Client::open(midge_conformance::broker::shared().address(), version);
        client.send(Connect::new(version, client_id()));
        assert_eq!(client.expect_connack().code, 0);
        client.send(publish("a"));
        client.ping();
        client.leave();
    }
}
