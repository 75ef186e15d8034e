//! The three delivery protocols, in both directions.

use std::collections::BTreeSet;

use midge_conformance::prelude::*;

/// A subscriber of a topic of its own, and the topic.
fn subscriber(version: Version, qos: u8) -> (Client, String) {
    let (mut client, topic) = (client(version), topic("t"));
    client.subscribe(&topic, qos);
    (client, topic)
}

/// QoS 0: no answer, and no packet identifier on the way out (the decoder reads none).
///
/// [MQTT-3.3.4-1] [MQTT-2.2.1-2] [MQTT-4.3.1-1] [MQTT-3.3.1-2]
/// [MQTT-3.3.4-1 @3.1.1] [MQTT-2.3.1-5 @3.1.1] [MQTT-4.3.1-1 @3.1.1] [MQTT-3.3.1-2 @3.1.1]
#[test]
fn qos_0() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 2);
        let mut publisher = client(version);
        publisher.send(publish(&*topic).payload("zero"));
        publisher.ping();
        subscriber.expect(publish(&*topic).payload("zero"));
        subscriber.nothing_from(&mut publisher);
    }
}

/// QoS 1: one PUBACK with the publisher's identifier, whatever identifier it is.
///
/// [MQTT-3.3.4-1] [MQTT-2.2.1-5] [MQTT-4.3.2-4] [MQTT-3.4.2-1]
/// [MQTT-3.3.4-1 @3.1.1] [MQTT-2.3.1-6 @3.1.1] [MQTT-4.3.2-2 @3.1.1]
#[test]
fn qos_1_from_a_client() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 1);
        let mut publisher = client(version);
        for id in [1, 2, 0x0100, 0x7fff, u16::MAX] {
            publisher.send(publish(&*topic).qos(1, id).payload("one"));
            let puback = publisher.expect_success(Kind::PubAck, id);
            assert!([0x00, 0x10].contains(&puback.code));
            assert_eq!(subscriber.take().text(), "one");
        }
        publisher.ping();
        subscriber.nothing_from(&mut publisher);
    }
}

/// QoS 2: PUBREC, PUBCOMP with the publisher's identifier, and one message onward.
///
/// [MQTT-3.3.4-1] [MQTT-2.2.1-5] [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT-3.5.2-1] [MQTT-3.7.2-1]
/// [MQTT-3.3.4-1 @3.1.1] [MQTT-2.3.1-6 @3.1.1] [MQTT-4.3.3-2 @3.1.1]
#[test]
fn qos_2_from_a_client() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 2);
        let mut publisher = client(version);
        for id in [1, 2, 0x0100, 0x7fff, u16::MAX] {
            publisher.send(publish(&*topic).qos(2, id).payload("two"));
            publisher.expect_success(Kind::PubRec, id);
            publisher.ping();
            publisher.send(pubrel(id));
            publisher.expect(pubcomp(id));
            assert_eq!(subscriber.take().text(), "two");
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// After PUBACK the same identifier means a new message, DUP or not.
///
/// [MQTT-4.3.2-5] [MQTT-4.3.2-2 @3.1.1]
#[test]
fn qos_1_identifier_is_free_after_puback() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 1);
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 5).payload("first"));
        publisher.deliver(publish(&*topic).qos(1, 5).payload("second").dup());
        assert_eq!(subscriber.take().text(), "first");
        let second = subscriber.take();
        assert_eq!((second.text(), second.dup), ("second", false));
    }
}

/// Until PUBREL the same identifier means the same message; after PUBCOMP a new one.
///
/// [MQTT-4.3.3-10] [MQTT-4.3.3-12] [MQTT-4.3.3-2 @3.1.1]
#[test]
fn qos_2_is_exactly_once() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 2);
        let mut publisher = client(version);
        let message = publish(&*topic).qos(2, 5).payload("first");
        publisher.send(&message);
        publisher.expect_success(Kind::PubRec, 5);
        for again in [message.clone().dup(), message.clone(), message.clone().dup()] {
            publisher.send(again);
            publisher.expect_success(Kind::PubRec, 5);
        }
        publisher.send(pubrel(5));
        publisher.expect(pubcomp(5));
        assert_eq!(subscriber.take().text(), "first");
        subscriber.nothing_from(&mut publisher);

        publisher.deliver(publish(&*topic).qos(2, 5).payload("second").dup());
        assert_eq!(subscriber.take().text(), "second");
        subscriber.nothing_from(&mut publisher);
    }
}

/// A PUBREL is answered however often it comes; 5.0 says when the identifier is unknown.
///
/// [MQTT-4.3.3-11] [MQTT-3.7.2-1] [MQTT-4.3.3-2 @3.1.1]
#[test]
fn pubrel_of_an_unknown_identifier() {
    for version in each(Version::ALL) {
        let mut client = client(version);
        client.deliver(publish(topic("t")).qos(2, 3));
        for id in [3, 4] {
            client.send(pubrel(id));
            let pubcomp = client.expect_ack(Kind::PubComp, id);
            assert_eq!(pubcomp.code, if version.is_v5() { 0x92 } else { 0 });
        }
        client.ping();
    }
}

/// [MQTT-3.6.2-1]
#[test]
fn pubrec_of_an_unknown_identifier() {
    let mut client = client(Version::V5);
    client.send(pubrec(77));
    assert_eq!(client.expect_ack(Kind::PubRel, 77).code, 0x92);
    client.ping();
}

/// An acknowledgement nobody waits for changes nothing.
///
/// [MQTT-4.3.2-3] [MQTT-4.3.3-5] [MQTT-4.3.2-1 @3.1.1] [MQTT-4.3.3-1 @3.1.1]
#[test]
fn acknowledgements_nobody_waits_for() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 1);
        subscriber.send(puback(1));
        subscriber.send(pubcomp(2));
        subscriber.ping();
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 1).payload("x"));
        assert_eq!(subscriber.take().text(), "x");
        subscriber.ping();
    }
}

/// Messages under way have different identifiers, not zero, and DUP is clear the first time.
///
/// [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.2-3]
/// [MQTT-2.3.1-1 @3.1.1] [MQTT-2.3.1-4 @3.1.1] [MQTT-4.3.2-1 @3.1.1] [MQTT-4.3.3-1 @3.1.1]
#[test]
fn messages_under_way_have_their_own_identifiers() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 2);
        let mut publisher = client(version);
        let messages: Vec<_> = (0..10)
            .map(|index| {
                publisher.deliver(publish(&*topic).qos(1 + index % 2, 1).payload([index]));
                subscriber.expect_publish()
            })
            .collect();
        let ids: BTreeSet<_> = messages.iter().map(|message| message.id).collect();
        assert_eq!(ids.len(), messages.len(), "an identifier was used twice");
        for (index, message) in messages.iter().enumerate() {
            assert!(!message.dup);
            assert_eq!(usize::from(message.qos), 1 + index % 2);
            subscriber.acknowledge(message);
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// PUBREC is followed by PUBREL with the same identifier, before and after others.
///
/// [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-2.2.1-5] [MQTT-4.3.3-1 @3.1.1] [MQTT-2.3.1-6 @3.1.1]
#[test]
fn qos_2_to_a_client() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 2);
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(2, 1));
        publisher.deliver(publish(&*topic).qos(2, 1));
        let (one, two) = (subscriber.expect_publish(), subscriber.expect_publish());
        for message in [&two, &one] {
            let id = message.id.expect("QoS 2");
            subscriber.send(pubrec(id));
            subscriber.expect_success(Kind::PubRel, id);
            subscriber.ping();
        }
        for message in [&one, &two] {
            subscriber.send(pubcomp(message.id.expect("QoS 2")));
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// A client may refuse a message: that ends its delivery.
///
/// [MQTT-4.4.0-2] [MQTT-4.3.3-4]
#[test]
fn refused_message_is_finished() {
    let (mut subscriber, topic) = subscriber(Version::V5, 2);
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(1, 1));
    publisher.deliver(publish(&*topic).qos(2, 1));
    let one = subscriber.expect_publish().id.expect("QoS 1");
    let two = subscriber.expect_publish().id.expect("QoS 2");
    subscriber.send(puback(one).code(0x80));
    subscriber.send(pubrec(two).code(0x83));
    // No PUBREL: a PUBCOMP would be waited for in vain.
    subscriber.ping();
    subscriber.nothing_from(&mut publisher);
}

/// The DUP flag of a publisher stays with the publisher.
///
/// [MQTT-3.3.1-3] [MQTT-3.3.1-3 @3.1.1]
#[test]
fn dup_is_not_passed_on() {
    for version in each(Version::ALL) {
        let (mut subscriber, topic) = subscriber(version, 2);
        let mut publisher = client(version);
        for qos in 1..=2 {
            publisher.deliver(publish(&*topic).qos(qos, 1).dup());
            assert!(!subscriber.take().dup);
        }
    }
}

/// The QoS of a delivery is the smaller of what was published and what was granted.
///
/// [MQTT-3.8.4-8] [MQTT-3.8.4-6 @3.1.1]
#[test]
fn qos_is_the_smaller_one() {
    for version in each(Version::ALL) {
        let mut publisher = client(version);
        for granted in 0..=2 {
            let (mut subscriber, topic) = subscriber(version, granted);
            for published in 0..=2 {
                let message = publish(&*topic).payload([published]);
                publisher.deliver(match published {
                    0 => message,
                    qos => message.qos(qos, 1),
                });
                assert_eq!(subscriber.take().qos, granted.min(published));
            }
        }
    }
}

/// [MQTT-3.3.1-2] [MQTT-3.3.1-2 @3.1.1]
#[test]
fn dup_needs_qos() {
    for version in each(Version::NUMBERED) {
        let mut client = client(version);
        client.send(publish("a").dup());
        client.expect_error(&[0x81, 0x82]);
    }
}

/// [MQTT-3.3.1-4] [MQTT-3.3.1-4 @3.1.1]
#[test]
fn qos_3_does_not_exist() {
    for version in each(Version::ALL) {
        for packet in each([publish("a").qos(3, 1), publish("a").qos(3, 1).dup()]) {
            let mut client = client(version);
            client.send(packet);
            client.expect_error(&[0x81]);
        }
    }
}

/// [MQTT-2.2.1-3] [MQTT-2.3.1-1 @3.1.1]
#[test]
fn packet_identifier_zero_does_not_exist() {
    for version in each(Version::NUMBERED) {
        let packets = [
            publish("a").qos(1, 0).encode(version),
            publish("a").qos(2, 0).encode(version),
            subscribe(0).filter("a", 0).encode(version),
            unsubscribe(0).filter("a").encode(version),
        ];
        for packet in each(packets) {
            let mut client = client(version);
            client.send(packet);
            client.expect_error(&[0x81, 0x82]);
        }
    }
}

/// Every pair of versions, on many pairs of clients: with several shards some of them are neighbours and
/// some are not.
///
/// [MQTT-4.5.0-1] [MQTT-4.5.0-1 @3.1.1] [MQTT-3.3.2-3] [MQTT-3.3.2-3 @3.1.1] [MQTT-2.2.2-1]
#[test]
fn every_version_reaches_every_version() {
    for from in each(Version::ALL) {
        for to in each(Version::ALL) {
            for _ in 0..5 {
                let (mut subscriber, topic) = subscriber(to, 2);
                let mut publisher = client(from);
                for qos in 0..=2 {
                    let message = publish(&*topic).payload(format!("at {qos}"));
                    let message = if qos == 0 { message } else { message.qos(qos, 1) };
                    publisher.deliver(message);
                    let arrived = subscriber.take();
                    assert_eq!(arrived.topic, topic);
                    assert_eq!((arrived.text(), arrived.qos), (&*format!("at {qos}"), qos));
                    assert_eq!(arrived.properties, []);
                }
            }
        }
    }
}

/// Payloads of every size class arrive whole.
///
/// [MQTT-4.5.0-1] [MQTT-4.5.0-1 @3.1.1] [MQTT-1.5.5-1]
#[test]
fn payloads_arrive_whole() {
    for version in each(Version::NUMBERED) {
        let (mut subscriber, topic) = subscriber(version, 1);
        let mut publisher = client(version);
        for size in each([0, 1, 100, 127, 128, 4096, 16_383, 16_384, 65_535, 65_536, 900_000]) {
            let payload: Vec<u8> = (0..size).map(|index: u32| (index % 251) as u8).collect();
            publisher.deliver(publish(&*topic).qos(1, 1).payload(payload.clone()));
            assert!(subscriber.take().payload == payload, "{size} bytes arrived altered");
        }
    }
}
