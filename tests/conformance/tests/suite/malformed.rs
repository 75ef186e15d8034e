//! Packets that are broken: the reason code in 5.0, and the end of the connection in every version.
//!
//! One table for each packet. CONNECT has its own in `connect.rs`, names and filters in `topics.rs`.

use midge_conformance::prelude::*;

/// Sends each packet on a connection of its own and expects its end.
fn check(version: Version, cases: &[(&str, Vec<u8>, &[u8])]) {
    let mut witness = client(version);
    for (what, packet, codes) in cases {
        eprintln!("{version:?}: {what}");
        let mut client = client(version);
        client.send(packet);
        client.expect_error(codes);
    }
    witness.ping();
}

const MALFORMED: &[u8] = &[0x81];
const PROTOCOL_ERROR: &[u8] = &[0x82];
const EITHER: &[u8] = &[0x81, 0x82];

/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn publishes() {
    check(
        Version::V311,
        &[
            ("no body", frame(0x30, b""), EITHER),
            ("topic cut short", frame(0x30, b"\0\x05ab"), EITHER),
            ("no identifier", frame(0x32, b"\0\x01a"), EITHER),
            ("half an identifier", frame(0x34, b"\0\x01a\0"), EITHER),
        ],
    );
    check(
        Version::V5,
        &[
            ("no body", frame(0x30, b""), MALFORMED),
            ("topic cut short", frame(0x30, b"\0\x05ab"), MALFORMED),
            ("no identifier", frame(0x32, b"\0\x01a"), MALFORMED),
            ("half an identifier", frame(0x34, b"\0\x01a\0"), MALFORMED),
            ("no property length", frame(0x30, b"\0\x01a"), MALFORMED),
            ("properties cut short", frame(0x30, b"\0\x01a\x05\x01\x01"), MALFORMED),
            (
                "property length of five bytes",
                frame(0x30, b"\0\x01a\x80\x80\x80\x80\x01"),
                MALFORMED,
            ),
            ("property value cut short", frame(0x30, b"\0\x01a\x03\x02\0\0"), MALFORMED),
            ("unknown property", frame(0x30, b"\0\x01a\x02\x7f\0"), EITHER),
            ("property of CONNECT", frame(0x30, b"\0\x01a\x05\x11\0\0\0\x01"), EITHER),
            ("reason string", frame(0x30, b"\0\x01a\x04\x1f\0\x01a"), EITHER),
            ("payload format twice", frame(0x30, b"\0\x01a\x04\x01\0\x01\0"), PROTOCOL_ERROR),
            ("payload format two", frame(0x30, b"\0\x01a\x02\x01\x02"), EITHER),
            (
                "expiry twice",
                frame(0x30, b"\0\x01a\x0a\x02\0\0\0\x01\x02\0\0\0\x01"),
                PROTOCOL_ERROR,
            ),
            ("user property without value", frame(0x30, b"\0\x01a\x04\x26\0\x01a"), MALFORMED),
            (
                "user property not UTF-8",
                frame(0x30, b"\0\x01a\x07\x26\0\x01\xff\0\x01a"),
                MALFORMED,
            ),
            ("user property with NUL", frame(0x30, b"\0\x01a\x07\x26\0\x01a\0\x01\0"), MALFORMED),
        ],
    );
}

/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1] [MQTT-2.3.1-6 @3.1.1] [MQTT-3.4.2-1] [MQTT-3.5.2-1]
/// [MQTT-3.6.2-1] [MQTT-3.7.2-1]
#[test]
fn acknowledgements() {
    for first_byte in each([0x40, 0x50, 0x62, 0x70]) {
        for version in [Version::V311, Version::V5] {
            check(
                version,
                &[
                    ("no body", frame(first_byte, b""), EITHER),
                    ("half an identifier", frame(first_byte, b"\0"), EITHER),
                    ("identifier zero", frame(first_byte, b"\0\0"), EITHER),
                ],
            );
        }
        check(Version::V311, &[("too long", frame(first_byte, b"\0\x01\0"), EITHER)]);
        check(
            Version::V5,
            &[
                ("reason code of another packet", frame(first_byte, b"\0\x01\x04"), EITHER),
                ("unknown reason code", frame(first_byte, b"\0\x01\xff"), EITHER),
                ("properties cut short", frame(first_byte, b"\0\x01\0\x04\x1f\0"), MALFORMED),
                ("property of PUBLISH", frame(first_byte, b"\0\x01\0\x02\x01\0"), EITHER),
                (
                    "reason string twice",
                    frame(first_byte, b"\0\x01\0\x08\x1f\0\x01a\x1f\0\x01a"),
                    EITHER,
                ),
                (
                    "reason string not UTF-8",
                    frame(first_byte, b"\0\x01\0\x04\x1f\0\x01\xff"),
                    MALFORMED,
                ),
                ("bytes left over", frame(first_byte, b"\0\x01\0\0\0"), EITHER),
            ],
        );
    }
}

/// The forms an acknowledgement may have: with and without code, with and without properties.
///
/// [MQTT-2.2.2-1] [MQTT-3.4.2-1]
#[test]
fn acknowledgements_in_all_forms() {
    let forms: [&[u8]; 4] = [b"", b"\0", b"\0\0", b"\0\x0b\x1f\0\x01a\x26\0\x01a\0\x01b"];
    for form in each(forms) {
        let topic = topic("t");
        let (mut subscriber, mut publisher) = (client(Version::V5), client(Version::V5));
        subscriber.subscribe(&topic, 2);
        publisher.deliver(publish(&*topic).qos(1, 1));
        let id = subscriber.expect_publish().id.expect("QoS 1").to_be_bytes();
        subscriber.send(frame(0x40, &[&id, form].concat()));
        publisher.deliver(publish(&*topic).qos(2, 1));
        let id = subscriber.expect_publish().id.expect("QoS 2");
        subscriber.send(frame(0x50, &[&id.to_be_bytes(), form].concat()));
        subscriber.expect_success(Kind::PubRel, id);
        subscriber.send(frame(0x70, &[&id.to_be_bytes(), form].concat()));
        publisher.send(publish(&*topic).qos(2, 7));
        publisher.expect_success(Kind::PubRec, 7);
        publisher.send(frame(0x62, &[&[0, 7], form].concat()));
        publisher.expect(pubcomp(7));
        subscriber.take();
        subscriber.ping();
    }
}

/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1] [MQTT-3.8.3-2] [MQTT-3.8.3-3 @3.1.1]
#[test]
fn subscribes() {
    check(
        Version::V311,
        &[
            ("no body", frame(0x82, b""), EITHER),
            ("half an identifier", frame(0x82, b"\0"), EITHER),
            ("filter cut short", frame(0x82, b"\0\x01\0\x05ab"), EITHER),
            ("no options", frame(0x82, b"\0\x01\0\x01a"), EITHER),
            ("second filter cut short", frame(0x82, b"\0\x01\0\x01a\0\0"), EITHER),
            ("second filter without options", frame(0x82, b"\0\x01\0\x01a\0\0\x01b"), EITHER),
        ],
    );
    check(
        Version::V5,
        &[
            ("no body", frame(0x82, b""), MALFORMED),
            ("no property length", frame(0x82, b"\0\x01"), MALFORMED),
            ("properties cut short", frame(0x82, b"\0\x01\x05\x0b"), MALFORMED),
            ("filter cut short", frame(0x82, b"\0\x01\0\0\x05ab"), MALFORMED),
            ("no options", frame(0x82, b"\0\x01\0\0\x01a"), MALFORMED),
            ("property of PUBLISH", frame(0x82, b"\0\x01\x02\x01\0\0\x01a\0"), EITHER),
            ("reason string", frame(0x82, b"\0\x01\x04\x1f\0\x01a\0\x01a\0"), EITHER),
        ],
    );
}

/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1] [MQTT-3.10.3-2] [MQTT-3.10.3-2 @3.1.1]
#[test]
fn unsubscribes() {
    check(
        Version::V311,
        &[
            ("no body", frame(0xa2, b""), EITHER),
            ("filter cut short", frame(0xa2, b"\0\x01\0\x05ab"), EITHER),
            ("half a length", frame(0xa2, b"\0\x01\0\x01a\0"), EITHER),
        ],
    );
    check(
        Version::V5,
        &[
            ("no body", frame(0xa2, b""), MALFORMED),
            ("no property length", frame(0xa2, b"\0\x01"), MALFORMED),
            ("filter cut short", frame(0xa2, b"\0\x01\0\0\x05ab"), MALFORMED),
            ("subscription identifier", frame(0xa2, b"\0\x01\x02\x0b\x01\0\x01a"), EITHER),
        ],
    );
}

/// [MQTT-4.13.1-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn the_short_packets() {
    check(
        Version::V311,
        &[
            ("PINGREQ with a body", frame(0xc0, b"a"), EITHER),
            ("DISCONNECT with a body", frame(0xe0, b"\0"), EITHER),
        ],
    );
    check(
        Version::V5,
        &[
            ("PINGREQ with a body", frame(0xc0, b"a"), MALFORMED),
            ("DISCONNECT with an unknown code", frame(0xe0, &[0x05]), EITHER),
            ("DISCONNECT with properties cut short", frame(0xe0, b"\0\x05\x11\0"), MALFORMED),
            (
                "DISCONNECT with an interval twice",
                frame(0xe0, b"\0\x0a\x11\0\0\0\0\x11\0\0\0\0"),
                EITHER,
            ),
            ("DISCONNECT with bytes left over", frame(0xe0, b"\0\0\0"), EITHER),
            ("AUTH with an unknown code", frame(0xf0, &[0x01, 0]), EITHER),
            ("AUTH with properties cut short", frame(0xf0, b"\x18\x05\x15"), EITHER),
        ],
    );
}
