//! SUBSCRIBE, UNSUBSCRIBE and what they answer.

use midge_conformance::prelude::*;

/// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.2.1-6] [MQTT-3.8.4-1 @3.1.1] [MQTT-3.8.4-2 @3.1.1]
/// [MQTT-2.3.1-7 @3.1.1]
#[test]
fn suback_has_the_identifier() {
    for version in each(Version::ALL) {
        let mut client = client(version);
        for id in each([1, 0x00ff, 0x0100, u16::MAX]) {
            let suback = client.subscribe_with(subscribe(id).filter(topic("t"), 0));
            assert_eq!(suback.id, id);
        }
    }
}

/// One code for each filter, in their order, for a packet of many.
///
/// [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2]
/// [MQTT-3.8.4-4 @3.1.1] [MQTT-3.8.4-5 @3.1.1] [MQTT-3.9.3-1 @3.1.1] [MQTT-3.9.3-2 @3.1.1]
#[test]
fn one_code_for_each_filter_in_order() {
    for version in each(Version::ALL) {
        let base = topic("base");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        let qos: Vec<u8> = (0..50).map(|index| [2, 0, 1][index % 3]).collect();
        let packet = qos.iter().enumerate().fold(subscribe(9), |packet, (index, qos)| {
            packet.filter(format!("{base}/{index}"), *qos)
        });
        assert_eq!(subscriber.subscribe_with(packet).codes, qos);
        for index in [0, 1, 2, 49] {
            publisher.deliver(publish(format!("{base}/{index}")).qos(2, 1));
            assert_eq!(subscriber.take().qos, qos[index]);
        }
    }
}

/// The same filter again replaces the subscription: one copy, with the new QoS.
///
/// [MQTT-3.8.4-3] [MQTT-3.8.4-3 @3.1.1]
#[test]
fn same_filter_replaces() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        for filter in each([topic.clone(), format!("{topic}/#")]) {
            for qos in [0, 2, 1, 0] {
                subscriber.subscribe(&filter, qos);
                publisher.deliver(publish(&*topic).qos(2, 1));
                assert_eq!(subscriber.take().qos, qos);
                subscriber.nothing_from(&mut publisher);
            }
            subscriber.unsubscribe(&filter);
        }
    }
}

/// Within one packet as in several.
///
/// [MQTT-3.8.4-5] [MQTT-3.8.4-3] [MQTT-3.8.4-4 @3.1.1] [MQTT-3.8.4-3 @3.1.1]
#[test]
fn same_filter_twice_in_one_packet() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        let suback = subscriber.subscribe_with(subscribe(1).filter(&topic, 2).filter(&topic, 1));
        assert_eq!(suback.codes, [2, 1]);
        publisher.deliver(publish(&*topic).qos(2, 1));
        assert_eq!(subscriber.take().qos, 1);
        subscriber.nothing_from(&mut publisher);
    }
}

/// Replacing a subscription loses nothing that is published meanwhile.
///
/// [MQTT-3.8.4-4] [MQTT-3.8.4-3 @3.1.1]
#[test]
fn replacing_loses_nothing() {
    for version in each(Version::NUMBERED) {
        let topic = topic("t");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        subscriber.subscribe(&topic, 1);
        for round in 0..20 {
            let burst = (0..10).map(|index| {
                publish(&*topic).qos(1, 1 + index).payload(format!("{}", round * 10 + index))
            });
            let bytes: Vec<u8> = burst.flat_map(|message| message.encode(version)).collect();
            publisher.send(bytes);
            subscriber.subscribe(&topic, 1);
            for index in 0..10 {
                publisher.expect_success(Kind::PubAck, 1 + index);
            }
        }
        for index in 0..200 {
            assert_eq!(subscriber.take().text(), index.to_string());
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// [MQTT-3.8.3-2] [MQTT-3.8.3-3 @3.1.1] [MQTT-3.10.3-2] [MQTT-3.10.3-2 @3.1.1]
#[test]
fn at_least_one_filter() {
    for version in each(Version::ALL) {
        let empty = [subscribe(1).encode(version), unsubscribe(1).encode(version)];
        for packet in each(empty) {
            let mut client = client(version);
            client.send(packet);
            client.expect_error(&[0x81, 0x82]);
        }
    }
}

/// Reserved bits of the option byte, QoS 3 and Retain Handling 3.
///
/// [MQTT-3.8.3-5] [MQTT-3.8.3-4 @3.1.1] [MQTT-4.13.1-1]
#[test]
fn options_that_do_not_exist() {
    let cases: [(Version, &[u8]); 2] = [
        (Version::V311, &[0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80]),
        (Version::V5, &[0x03, 0x30, 0x40, 0x80, 0xc1]),
    ];
    for (version, options) in cases {
        for options in each(options) {
            let mut client = client(version);
            client.send(subscribe(1).filter("a", *options));
            client.expect_error(&[0x81, 0x82]);
        }
    }
}

/// [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT-1.5.4-1] [MQTT-1.5.4-2]
/// [MQTT-3.8.3-1 @3.1.1] [MQTT-3.10.3-1 @3.1.1] [MQTT-1.5.3-1 @3.1.1] [MQTT-1.5.3-2 @3.1.1]
/// [MQTT-4.7.3-2] [MQTT-4.7.3-2 @3.1.1]
#[test]
fn filters_are_utf8_without_nul() {
    let ill_formed: [&[u8]; 5] =
        [b"\xff", b"a/\xed\xbf\xbf/b", b"a/\xc0\x80", b"a/\xf5\x80\x80\x80", b"a\0b"];
    for version in each(Version::NUMBERED) {
        for bytes in each(ill_formed) {
            let packets = [
                subscribe(1).filter(bytes, 0).encode(version),
                subscribe(1).filter("fine", 0).filter(bytes, 0).encode(version),
                unsubscribe(1).filter(bytes).encode(version),
            ];
            for packet in packets {
                let mut client = client(version);
                client.send(packet);
                client.expect_error(&[0x81, 0x82]);
            }
        }
    }
}

/// A client does not hear itself through a No Local subscription, by client identifier.
///
/// [MQTT-3.8.3-3]
#[test]
fn no_local() {
    let topic = topic("t");
    let (mut client, mut other) = (client(Version::V5), client(Version::V5));
    client.subscribe(&topic, NO_LOCAL | 1);
    client.deliver(publish(&*topic).qos(1, 1).payload("own"));
    client.deliver(publish(&*topic).payload("own"));
    other.deliver(publish(&*topic).payload("other's"));
    assert_eq!(client.take().text(), "other's");
    client.nothing_from(&mut other);
}

/// The identifier decides, not the connection: what it queued for itself is not delivered later.
///
/// [MQTT-3.8.3-3]
#[test]
fn no_local_counts_the_client_id() {
    let (topic, hello) = (topic("t"), hello(Version::V5).persistent());
    let mut first = connect(hello.clone());
    first.subscribe(&topic, NO_LOCAL | 1);
    first.deliver(publish(&*topic).qos(1, 1).payload("own"));
    first.leave();
    let mut second = connect(hello);
    second.deliver(publish(&*topic).qos(1, 1).payload("own, later connection"));
    second.nothing_from(&mut client(Version::V5));
}

/// [MQTT-3.8.3-4]
#[test]
fn no_local_is_not_for_shared_subscriptions() {
    let mut client = client(Version::V5);
    client.send(subscribe(1).filter(format!("$share/g/{}", topic("t")), NO_LOCAL));
    client.expect_error(&[0x82]);
}

/// Subscription identifiers are from 1 to 268,435,455 and come back with each message.
///
/// [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-4.13.1-1]
#[test]
fn subscription_identifiers() {
    let mut publisher = client(Version::V5);
    for id in each([1, 127, 128, 16_383, 16_384, 268_435_455]) {
        let (mut subscriber, topic) = (client(Version::V5), topic("t"));
        let packet = subscribe(1).filter(&topic, 1).with(Property::SubscriptionId(id));
        assert_eq!(subscriber.subscribe_with(packet).codes, [1]);
        publisher.deliver(publish(&*topic).qos(1, 1));
        assert_eq!(subscriber.take().properties, [Property::SubscriptionId(id)]);
        // Without one the subscription has none.
        subscriber.subscribe(&topic, 1);
        publisher.deliver(publish(&*topic).qos(1, 1));
        assert_eq!(subscriber.take().properties, []);
    }
    let wrong = [
        vec![Property::SubscriptionId(0)],
        vec![Property::SubscriptionId(1), Property::SubscriptionId(2)],
        vec![Property::Raw(vec![0x0b, 0x80, 0x80, 0x80, 0x80, 0x01])],
    ];
    for properties in each(wrong) {
        let mut client = client(Version::V5);
        client.send(properties.into_iter().fold(subscribe(1).filter("a", 0), Subscribe::with));
        client.expect_error(&[0x81, 0x82]);
    }
}

/// Identifiers also with retained messages, and after the session resumed.
///
/// [MQTT-3.3.4-3] [MQTT-3.1.2-5]
#[test]
fn subscription_identifiers_stay() {
    let (topic, hello) = (topic("t"), hello(Version::V5).persistent());
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(1, 1).payload("kept").retain());
    let mut first = connect(hello.clone());
    first.subscribe_with(subscribe(1).filter(&topic, 1).with(Property::SubscriptionId(42)));
    assert_eq!(first.take().properties, [Property::SubscriptionId(42)]);
    first.leave();
    publisher.deliver(publish(&*topic).qos(1, 1).payload("queued"));
    let mut second = connect(hello);
    assert_eq!(second.take().properties, [Property::SubscriptionId(42)]);
    publisher.deliver(publish(&*topic).qos(1, 1).payload("live"));
    assert_eq!(second.take().properties, [Property::SubscriptionId(42)]);
}

/// User properties in SUBSCRIBE and UNSUBSCRIBE are allowed and mean nothing to the broker.
///
/// [MQTT-3.8.4-1] [MQTT-3.10.4-4] [MQTT-1.5.7-1]
#[test]
fn user_properties_are_accepted() {
    let (mut client, topic) = (client(Version::V5), topic("t"));
    let user = || Property::user("name", "value");
    let suback = client.subscribe_with(subscribe(1).filter(&topic, 0).with(user()).with(user()));
    assert_eq!(suback.codes, [0]);
    let unsuback = client.unsubscribe_with(unsubscribe(2).filter(&topic).with(user()));
    assert_eq!(unsuback.codes, [0]);
}

/// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-2.2.1-6] [MQTT-3.11.3-2]
/// [MQTT-3.10.4-4 @3.1.1] [MQTT-3.10.4-5 @3.1.1] [MQTT-2.3.1-7 @3.1.1]
#[test]
fn unsuback_comes_always() {
    for version in each(Version::ALL) {
        let (mut client, topic) = (client(version), topic("t"));
        for id in each([1, 0x0100, u16::MAX]) {
            let unsuback = client.unsubscribe_with(unsubscribe(id).filter(&topic));
            assert_eq!(unsuback.id, id);
            assert_eq!(unsuback.codes, if version.is_v5() { vec![0x11] } else { vec![] });
        }
        client.subscribe(&topic, 0);
        client.unsubscribe(&topic);
    }
}

/// Several at once, some of them unknown: one answer, in order.
///
/// [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [MQTT-3.10.4-6 @3.1.1]
#[test]
fn unsubscribing_several() {
    for version in each(Version::ALL) {
        let (mut subscriber, base) = (client(version), topic("base"));
        let mut publisher = client(version);
        let name = |part: &str| format!("{base}/{part}");
        for part in ["a", "b", "c"] {
            subscriber.subscribe(&name(part), 0);
        }
        let packet = ["a", "none", "c"]
            .iter()
            .fold(unsubscribe(5), |packet, part| packet.filter(name(part)));
        let codes = subscriber.unsubscribe_with(packet).codes;
        assert_eq!(codes, if version.is_v5() { vec![0, 0x11, 0] } else { vec![] });
        for part in ["a", "c", "b"] {
            publisher.deliver(publish(name(part)));
        }
        assert_eq!(subscriber.take().topic, name("b"));
        subscriber.nothing_from(&mut publisher);
    }
}

/// Filters are compared character by character, not by what they match.
///
/// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-1 @3.1.1] [MQTT-3.10.4-2 @3.1.1]
#[test]
fn unsubscribing_compares_characters() {
    for version in each(Version::ALL) {
        let (mut subscriber, base) = (client(version), topic("base"));
        let mut publisher = client(version);
        let topic = format!("{base}/a");
        subscriber.subscribe(&format!("{base}/+"), 0);
        for other in ["a", "#", "A", "+/", "+/#"] {
            let id = subscriber.next_id();
            let unsuback =
                subscriber.unsubscribe_with(unsubscribe(id).filter(format!("{base}/{other}")));
            assert_eq!(unsuback.codes, if version.is_v5() { vec![0x11] } else { vec![] });
        }
        publisher.deliver(publish(&*topic).payload("still here"));
        assert_eq!(subscriber.take().text(), "still here");
        subscriber.unsubscribe(&format!("{base}/+"));
        publisher.deliver(publish(&*topic));
        subscriber.nothing_from(&mut publisher);
    }
}

/// What was being delivered when the subscription ended is delivered to its end.
///
/// [MQTT-3.10.4-3] [MQTT-3.10.4-3 @3.1.1]
#[test]
fn unsubscribing_does_not_stop_what_is_under_way() {
    for version in each(Version::NUMBERED) {
        let (topic, hello) = (topic("t"), hello(version).persistent());
        let mut publisher = client(version);
        let mut subscriber = connect(hello.clone());
        subscriber.subscribe(&topic, 2);
        publisher.deliver(publish(&*topic).qos(1, 1));
        publisher.deliver(publish(&*topic).qos(2, 1));
        let (one, two) = (subscriber.expect_publish(), subscriber.expect_publish());
        subscriber.unsubscribe(&topic);
        subscriber.send(pubrec(two.id.expect("QoS 2")));
        subscriber.expect_success(Kind::PubRel, two.id.expect("QoS 2"));
        subscriber.send(pubcomp(two.id.expect("QoS 2")));
        subscriber.vanish();
        let mut again = connect(hello);
        again.expect(one.dup());
        again.nothing_from(&mut publisher);
    }
}
