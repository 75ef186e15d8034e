//! CONNECT: who gets in, and what happens to the others.

use midge_conformance::prelude::*;

/// Anything else first is refused without a word: neither a CONNACK nor a DISCONNECT may come
/// before a successful CONNACK.
///
/// [MQTT-3.1.0-1] [MQTT-3.2.0-1] [MQTT-3.14.0-1] [MQTT-3.1.0-1 @3.1.1] [MQTT-3.2.0-1 @3.1.1]
#[test]
fn first_packet_must_be_connect() {
    let v5 = Version::V5;
    let packets: [Vec<u8>; 10] = [
        pingreq().to_vec(),
        publish("a").encode(v5),
        puback(1).encode(v5),
        pubrel(1).encode(v5),
        subscribe(1).filter("a", 0).encode(v5),
        unsubscribe(1).filter("a").encode(v5),
        disconnect().encode(v5),
        auth(0x18).encode(v5),
        vec![0x20, 2, 0, 0],
        vec![0x00, 0],
    ];
    for packet in each(packets) {
        let mut client = open(v5);
        client.send(packet);
        client.expect_closed();
    }
}

/// [MQTT-3.1.0-2] [MQTT-3.1.0-2 @3.1.1] [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn second_connect_is_a_protocol_error() {
    for version in each(Version::ALL) {
        let hello = hello(version);
        let mut client = connect(hello.clone());
        client.send(hello);
        client.expect_error(&[0x82]);
    }
}

/// A wrong protocol name is closed, with or without a CONNACK that names the version.
///
/// [MQTT-3.1.2-1] [MQTT-3.1.2-1 @3.1.1]
#[test]
fn protocol_name_must_be_right() {
    for version in each(Version::ALL) {
        for name in each(["", "mqtt", "MQTTX", "MQIsd", "HTTP", "MQTT\0", "M\u{202e}TT"]) {
            let mut client = open(version);
            client.send(hello(version).protocol_name(name));
            let answer = client.drain();
            assert!(answer.is_empty() || is_unsupported_version(&answer), "{answer:02x?}");
        }
    }
}

/// Return code 1 of the older versions or reason code 0x84, and never a session.
fn is_unsupported_version(answer: &[u8]) -> bool {
    answer.len() >= 4 && answer[0] == 0x20 && answer[2] == 0 && [0x01, 0x84].contains(&answer[3])
}

/// [MQTT-3.1.2-2] [MQTT-3.1.2-2 @3.1.1] [MQTT-3.2.2-5 @3.1.1] [MQTT-3.2.2-7]
#[test]
fn protocol_level_must_be_right() {
    let wrong = [
        (Version::V311, 0),
        (Version::V311, 1),
        (Version::V311, 2),
        (Version::V311, 3),
        (Version::V5, 6),
        (Version::V5, 127),
        (Version::V31, 2),
        (Version::V31, 4),
        (Version::V31, 5),
    ];
    for (version, level) in each(wrong) {
        let mut client = open(version);
        client.send(hello(version).protocol_level(level));
        let answer = client.drain();
        assert!(is_unsupported_version(&answer), "{answer:02x?}");
    }
}

/// [MQTT-3.1.2-3] [MQTT-3.1.2-3 @3.1.1] [MQTT-3.2.2-6 @3.1.1]
#[test]
fn reserved_connect_flag_must_be_zero() {
    for version in each(Version::NUMBERED) {
        let mut client = open(version);
        client.send(hello(version).flags(0b0000_0011));
        client.expect_malformed_connect();
    }
}

/// [MQTT-3.1.2-11] [MQTT-3.1.2-13]
/// [MQTT-3.1.2-11 @3.1.1] [MQTT-3.1.2-13 @3.1.1] [MQTT-3.1.2-15 @3.1.1]
#[test]
fn will_bits_need_the_will_flag() {
    for version in each(Version::NUMBERED) {
        for flags in each([0b0000_1010, 0b0001_0010, 0b0010_0010, 0b0011_1010]) {
            let mut client = open(version);
            client.send(hello(version).flags(flags));
            client.expect_malformed_connect();
        }
    }
}

/// [MQTT-3.1.2-12] [MQTT-3.1.2-14 @3.1.1]
#[test]
fn will_qos_is_zero_one_or_two() {
    for version in each(Version::NUMBERED) {
        for qos in 0..3 {
            let _accepted = connect(hello(version).will(will(topic("will"), "w").qos(qos)));
        }
        let mut client = open(version);
        client.send(hello(version).will(will("will", "w").qos(3)));
        client.expect_malformed_connect();
    }
}

/// A flag that is set promises its field.
///
/// [MQTT-3.1.2-9] [MQTT-3.1.2-17] [MQTT-3.1.2-19]
/// [MQTT-3.1.2-9 @3.1.1] [MQTT-3.1.2-19 @3.1.1] [MQTT-3.1.2-21 @3.1.1]
#[test]
fn promised_fields_must_be_there() {
    for version in each(Version::NUMBERED) {
        for flags in each([0b0000_0110, 0b1000_0010, 0b1100_0010]) {
            let mut client = open(version);
            client.send(hello(version).flags(flags));
            client.expect_malformed_connect();
        }
        // The user name alone where a password was promised too.
        let mut client = open(version);
        client.send(hello(version).username("u").flags(0b1100_0010));
        client.expect_malformed_connect();
    }
}

/// A field whose flag is clear is left over at the end, and nothing may be left over.
///
/// [MQTT-3.1.2-16] [MQTT-3.1.2-18] [MQTT-3.1.4-1]
/// [MQTT-3.1.2-18 @3.1.1] [MQTT-3.1.2-20 @3.1.1] [MQTT-3.1.4-1 @3.1.1]
#[test]
fn fields_that_were_not_promised_must_not_be_there() {
    for version in each(Version::NUMBERED) {
        let too_much = [
            hello(version).username("u").flags(0b0000_0010),
            hello(version).username("u").password("p").flags(0b1000_0010),
            hello(version).will(will("t", "w")).flags(0b0000_0010),
            hello(version).trailing([0]),
        ];
        for connect in each(too_much) {
            let mut client = open(version);
            client.send(connect);
            client.expect_malformed_connect();
        }
    }
}

/// A password alone is new in 5.0.
///
/// [MQTT-3.1.2-22 @3.1.1] [MQTT-3.1.2-19]
#[test]
fn password_without_user_name() {
    let _accepted = connect(hello(Version::V5).password("p"));
    let mut client = open(Version::V311);
    client.send(hello(Version::V311).password("p"));
    client.expect_malformed_connect();
}

/// All fields at once, in their order, and the will is what was asked for.
///
/// [MQTT-3.1.3-1] [MQTT-3.1.3-1 @3.1.1] [MQTT-3.1.2-9] [MQTT-3.1.2-9 @3.1.1]
#[test]
fn all_fields_in_order() {
    for version in each(Version::ALL) {
        let topic = topic("will");
        let mut watcher = client(version);
        watcher.subscribe(&topic, 1);
        let all = hello(version).will(will(&topic, "gone").qos(1)).username("u").password("p");
        connect(all).vanish();
        let will = watcher.take();
        assert_eq!((will.topic.as_str(), will.text(), will.qos), (&*topic, "gone", 1));
    }
}

/// [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12] [MQTT-1.5.4-1] [MQTT-1.5.4-2]
/// [MQTT-3.1.3-4 @3.1.1] [MQTT-3.1.3-10 @3.1.1] [MQTT-3.1.3-11 @3.1.1]
/// [MQTT-1.5.3-1 @3.1.1] [MQTT-1.5.3-2 @3.1.1]
#[test]
fn strings_are_utf8_without_nul() {
    // A continuation byte alone, a surrogate, an overlong slash, past U+10FFFF, cut short, U+0000.
    let ill_formed: [&[u8]; 6] =
        [b"a\x80", b"a\xed\xa0\x80", b"a\xc0\xaf", b"\xf4\x90\x80\x80", b"a\xe2\x82", b"a\0b"];
    for version in each(Version::NUMBERED) {
        for bytes in each(ill_formed) {
            let connects = [
                hello(version).client_id(bytes),
                hello(version).will(will(bytes, "w")),
                hello(version).username(bytes),
            ];
            for connect in each(connects) {
                let mut client = open(version);
                client.send(connect);
                client.expect_malformed_connect();
            }
        }
    }
}

/// A Will Topic is a topic name: no wildcards, not empty.
///
/// [MQTT-4.7.0-1] [MQTT-4.7.3-1] [MQTT-4.7.1-1 @3.1.1] [MQTT-4.7.3-1 @3.1.1]
#[test]
fn will_topic_is_a_topic_name() {
    for version in each(Version::NUMBERED) {
        for topic in each(["a/#", "a/+/b", "#", ""]) {
            let mut client = open(version);
            client.send(hello(version).will(will(topic, "w")));
            if version.is_v5() {
                client.expect_refusal(&[0x81, 0x82, 0x90]);
            } else {
                client.expect_closed();
            }
        }
    }
}

/// [MQTT-3.1.3-5] [MQTT-3.1.3-5 @3.1.1]
#[test]
fn client_ids_that_every_server_allows() {
    let ids =
        ["7", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ0123456"];
    for version in each(Version::ALL) {
        for id in each(ids) {
            let _accepted = connect(hello(version).client_id(id));
        }
    }
}

/// [MQTT-3.1.3-3] [MQTT-3.1.3-3 @3.1.1]
#[test]
fn client_id_must_be_present() {
    for (version, body) in each([
        (Version::V311, &b"\0\x04MQTT\x04\x02\0\0"[..]),
        (Version::V5, &b"\0\x04MQTT\x05\x02\0\0\0"[..]),
    ]) {
        let mut client = open(version);
        client.send(frame(0x10, body));
        client.expect_malformed_connect();
    }
}

/// The broker makes an identifier up, tells it, and it works like any other.
///
/// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn empty_client_id_is_assigned_one() {
    let nameless = || hello(Version::V5).client_id("").with(Property::SessionExpiry(60));
    let assigned = |client: &Client| property!(client.connack().properties, AssignedClientId);

    let (mut one, other) = (connect(nameless()), connect(nameless().clean(false)));
    let name = assigned(&one).expect("an identifier");
    assert!(!name.is_empty());
    assert_ne!(Some(&name), assigned(&other).as_ref());
    one.ping();

    one.leave();
    let again = connect(hello(Version::V5).client_id(&name).clean(false));
    assert!(again.connack().session_present);
    assert_eq!(assigned(&again), None);
}

/// [MQTT-3.1.3-6 @3.1.1]
#[test]
fn empty_client_ids_are_different_clients() {
    let nameless = || connect(hello(Version::V311).client_id(""));
    let (mut one, mut other) = (nameless(), nameless());
    one.ping();
    other.ping();
}

/// [MQTT-3.1.3-7 @3.1.1] [MQTT-3.1.3-8 @3.1.1] [MQTT-3.1.3-9 @3.1.1] [MQTT-3.2.2-4 @3.1.1]
/// [MQTT-3.2.2-5 @3.1.1]
#[test]
fn empty_client_id_needs_a_clean_session() {
    let mut client = open(Version::V311);
    client.send(hello(Version::V311).client_id("").clean(false));
    client.expect_refusal(&[2]);
}

/// Exactly one CONNACK, before everything else, although the client did not wait for it.
///
/// [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT-3.2.2-1] [MQTT-3.1.4-4 @3.1.1]
/// [MQTT-3.2.0-1 @3.1.1]
#[test]
fn connack_comes_first_and_once() {
    for version in each(Version::ALL) {
        let mut client = open(version);
        let ahead = [
            hello(version).encode(version),
            pingreq().to_vec(),
            publish(topic("q1")).qos(1, 9).encode(version),
        ];
        client.send(ahead.concat());
        assert_eq!(client.expect_connack().code, 0);
        client.expect(Packet::PingResp);
        client.expect_success(Kind::PubAck, 9);
        client.ping();
    }
}

/// What follows a refused CONNECT is not looked at.
///
/// [MQTT-3.1.4-6] [MQTT-3.1.4-5 @3.1.1] [MQTT-3.2.2-5 @3.1.1] [MQTT-3.2.2-7]
#[test]
fn nothing_after_a_refused_connect_is_processed() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut watcher = client(version);
        watcher.subscribe(&topic, 0);

        let mut refused = open(version);
        let refusable = hello(version).protocol_level(99).encode(version);
        let message = publish(&*topic).payload("refused").retain().encode(version);
        refused.send([refusable, message].concat());
        refused.drain();

        watcher.nothing_from(&mut client(version));
        watcher.subscribe(&topic, 0);
        watcher.nothing_from(&mut client(version));
    }
}

/// A CONNECT that is broken in one of many ways.
///
/// [MQTT-3.1.4-1] [MQTT-3.1.4-1 @3.1.1] [MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT-3.2.2-6]
/// [MQTT-3.2.2-8] [MQTT-3.2.2-6 @3.1.1]
#[test]
fn malformed_connects() {
    let v5 = || hello(Version::V5);
    let raw = |bytes: &[u8]| v5().with(Property::Raw(bytes.to_vec()));
    let cases = [
        ("unknown property", raw(&[0x7f, 0])),
        ("property of another packet", v5().with(Property::TopicAlias(1))),
        ("server's property", v5().with(Property::AssignedClientId("x".into()))),
        ("property twice", v5().with(Property::SessionExpiry(1)).with(Property::SessionExpiry(1))),
        ("property cut short", raw(&[0x11, 0, 0])),
        ("receive maximum zero", v5().with(Property::ReceiveMaximum(0))),
        ("maximum packet size zero", v5().with(Property::MaximumPacketSize(0))),
        ("request problem information two", v5().with(Property::RequestProblemInformation(2))),
        ("request response information two", v5().with(Property::RequestResponseInformation(2))),
        ("authentication data alone", v5().with(Property::AuthenticationData(vec![1]))),
        ("user property cut short", raw(&[0x26, 0, 1, b'a'])),
        ("user property not UTF-8", raw(&[0x26, 0, 1, 0xff, 0, 1, b'a'])),
        ("will property in CONNECT", v5().with(Property::WillDelay(1))),
        ("flags in the fixed header", v5().first_byte(0x11)),
    ];
    for (what, connect) in cases {
        eprintln!("{what}");
        let mut client = open(Version::V5);
        client.send(connect);
        client.expect_malformed_connect();
    }
    for version in each(Version::NUMBERED) {
        let whole = hello(version).encode(version);
        for kept in 0..whole.len() - 2 {
            let mut client = open(version);
            client.send(frame(0x10, &whole[2..2 + kept]));
            // With a part of the client identifier it can only be malformed; before the protocol
            // level is known the broker cannot say so in the right form.
            let answer = client.drain();
            assert!(answer.is_empty() || answer[0] == 0x20 && answer[3] != 0, "{kept}: {answer:?}");
        }
    }
}

/// Will properties that are broken in one of many ways.
///
/// [MQTT-3.1.4-1] [MQTT-3.1.3-11]
#[test]
fn malformed_will_properties() {
    let cases = [
        ("twice", vec![Property::WillDelay(1), Property::WillDelay(1)]),
        ("payload format two", vec![Property::PayloadFormat(2)]),
        ("of CONNECT", vec![Property::SessionExpiry(1)]),
        ("subscription identifier", vec![Property::SubscriptionId(1)]),
        ("topic alias", vec![Property::TopicAlias(1)]),
        ("response topic with wildcard", vec![Property::ResponseTopic("a/#".into())]),
        ("response topic not UTF-8", vec![Property::Raw(vec![0x08, 0, 1, 0xff])]),
        ("content type not UTF-8", vec![Property::Raw(vec![0x03, 0, 1, 0xff])]),
        ("cut short", vec![Property::Raw(vec![0x18, 0])]),
        ("unknown", vec![Property::Raw(vec![0x7e, 0])]),
    ];
    for (what, properties) in cases {
        eprintln!("{what}");
        let will = properties.into_iter().fold(will("t", "w"), Will::with);
        let mut client = open(Version::V5);
        client.send(hello(Version::V5).will(will));
        client.expect_malformed_connect();
    }
}

/// The newer connection wins; 5.0 tells the older one why.
///
/// [MQTT-3.1.4-3] [MQTT-3.1.4-2 @3.1.1]
#[test]
fn take_over() {
    for version in each(Version::ALL) {
        let hello = hello(version);
        let mut old = connect(hello.clone());
        let mut new = connect(hello.clone());
        old.expect_error(&[0x8e]);
        new.ping();
        new.leave();
        // And again at once, with many.
        let mut clients: Vec<_> = (0..20).map(|_| connect(hello.clone())).collect();
        clients.pop().expect("twenty").ping();
        clients.iter_mut().for_each(|old| old.expect_error(&[0x8e]));
    }
}

/// One identifier, different versions: still one client.
///
/// [MQTT-3.1.4-3] [MQTT-3.1.4-2 @3.1.1] [MQTT-3.1.3-2]
#[test]
fn take_over_by_another_version() {
    for (old, new) in each([
        (Version::V31, Version::V5),
        (Version::V311, Version::V5),
        (Version::V5, Version::V311),
        (Version::V5, Version::V31),
    ]) {
        let id = client_id();
        let mut old = connect(Connect::new(old, &id));
        let mut new = connect(Connect::new(new, &id));
        old.expect_error(&[0x8e]);
        new.ping();
    }
}

/// Response Information only to those who asked.
///
/// [MQTT-3.1.2-28]
#[test]
fn no_response_information_unasked() {
    for hello in
        each([hello(Version::V5), hello(Version::V5).with(Property::RequestResponseInformation(0))])
    {
        let client = connect(hello);
        assert_eq!(property!(client.connack().properties, ResponseInformation), None);
    }
}
