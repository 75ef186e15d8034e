//! Flow control: Receive Maximum, in both directions.

use midge_conformance::prelude::*;

/// A subscriber with this Receive Maximum, and a topic with this many messages waiting for it.
fn subscriber(receive_maximum: u16, qos: u8, messages: u8) -> (Client, String, Client) {
    let topic = topic("t");
    let hello = hello(Version::V5).with(Property::ReceiveMaximum(receive_maximum));
    let (mut subscriber, mut publisher) = (connect(hello), client(Version::V5));
    subscriber.subscribe(&topic, qos);
    for index in 0..messages {
        publisher.deliver(publish(&*topic).qos(qos, 1).payload([index]));
    }
    (subscriber, topic, publisher)
}

/// No more than Receive Maximum under way; each PUBACK lets one more go.
///
/// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2]
#[test]
fn window_of_qos_1() {
    for window in each([1, 2, 7]) {
        let (mut subscriber, _, mut publisher) = subscriber(window, 1, 20);
        let mut under_way: std::collections::VecDeque<_> =
            (0..window).map(|_| subscriber.expect_publish()).collect();
        subscriber.nothing_from(&mut publisher);
        for index in u8::try_from(window).expect("small")..20 {
            let first = under_way.pop_front().expect("a full window");
            subscriber.acknowledge(&first);
            let next = subscriber.expect_publish();
            assert_eq!(next.payload, [index]);
            under_way.push_back(next);
            subscriber.ping();
        }
    }
}

/// With QoS 2 it is PUBCOMP that makes room, or a PUBREC that refuses.
///
/// [MQTT-3.3.4-9] [MQTT-4.9.0-2] [MQTT-4.4.0-2]
#[test]
fn window_of_qos_2() {
    let (mut subscriber, _, mut publisher) = subscriber(1, 2, 3);
    let first = subscriber.expect_publish().id.expect("QoS 2");
    subscriber.ping();
    subscriber.send(pubrec(first));
    subscriber.expect_success(Kind::PubRel, first);
    subscriber.nothing_from(&mut publisher);
    subscriber.send(pubcomp(first));
    let second = subscriber.expect_publish();
    assert_eq!(second.payload, [1]);
    subscriber.send(pubrec(second.id.expect("QoS 2")).code(0x83));
    assert_eq!(subscriber.take().payload, [2]);
    subscriber.nothing_from(&mut publisher);
}

/// A full window holds back nothing else: QoS 0, answers to SUBSCRIBE and to PINGREQ, acknowledgements.
///
/// [MQTT-3.3.4-10] [MQTT-4.9.0-3]
#[test]
fn full_window_stops_only_qos_1_and_2() {
    let (mut subscriber, topic, mut publisher) = subscriber(1, 1, 3);
    let first = subscriber.expect_publish();
    publisher.deliver(publish(&*topic).payload("zero"));
    assert_eq!(subscriber.expect_publish().text(), "zero");
    subscriber.ping();
    subscriber.subscribe(&self::topic("another"), 0);
    subscriber.deliver(publish(self::topic("own")).qos(1, 100));
    subscriber.deliver(publish(self::topic("own")).qos(2, 100));
    subscriber.acknowledge(&first);
    assert_eq!(subscriber.take().payload, [1]);
    assert_eq!(subscriber.take().payload, [2]);
}

/// The quota is full again after a reconnect, and what is resent counts.
///
/// [MQTT-4.9.0-1] [MQTT-3.3.4-9] [MQTT-4.4.0-1]
#[test]
fn window_after_resumption() {
    let topic = topic("t");
    let hello = hello(Version::V5).persistent();
    let mut subscriber = connect(hello.clone().with(Property::ReceiveMaximum(3)));
    subscriber.subscribe(&topic, 1);
    let mut publisher = client(Version::V5);
    for index in 0..6 {
        publisher.deliver(publish(&*topic).qos(1, 1).payload([index]));
    }
    let under_way: Vec<_> = (0..3).map(|_| subscriber.expect_publish()).collect();
    subscriber.ping();
    subscriber.vanish();
    let mut again = connect(hello.with(Property::ReceiveMaximum(3)));
    for message in &under_way {
        again.expect(message.clone().dup());
    }
    again.ping();
    for message in &under_way {
        again.acknowledge(message);
    }
    for index in 3..6 {
        assert_eq!(again.take().payload, [index]);
    }
    again.nothing_from(&mut publisher);
}

/// A client that publishes more than the broker's Receive Maximum is told 0x93.
///
/// [MQTT-3.3.4-7] [MQTT-4.13.1-1]
#[test]
fn client_exceeds_the_receive_maximum() {
    let Some(broker) = Broker::start("limits: { receive_maximum: 4 }") else { return };
    let mut client = Client::connect(broker.address(), hello(Version::V5));
    assert_eq!(property!(client.connack().properties, ReceiveMaximum), Some(4));
    // As many as allowed, again and again.
    for _ in 0..3 {
        for id in 1..=4 {
            client.send(publish("t").qos(2, id));
            client.expect_success(Kind::PubRec, id);
        }
        // One that is under way already is not one more.
        client.send(publish("t").qos(2, 4).dup());
        client.expect_success(Kind::PubRec, 4);
        for id in 1..=4 {
            client.send(pubrel(id));
            client.expect(pubcomp(id));
        }
    }
    for id in 1..=4 {
        client.send(publish("t").qos(2, id));
        client.expect_success(Kind::PubRec, id);
    }
    client.send(publish("t").qos(2, 5));
    client.expect_error(&[0x93]);
}

/// QoS 1 as fast as the socket takes it, within the window or not, is never lost: acknowledged each, or the
/// connection ends.
///
/// [MQTT-3.3.4-7] [MQTT-4.3.2-4] [MQTT-4.3.2-2 @3.1.1]
#[test]
fn pipelined_qos_1() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        subscriber.subscribe(&topic, 1);
        let all: Vec<u8> = (1..=100)
            .flat_map(|id| publish(&*topic).qos(1, id).payload([id as u8]).encode(version))
            .collect();
        publisher.send(all);
        for id in 1..=100 {
            publisher.expect_success(Kind::PubAck, id);
            assert_eq!(subscriber.take().payload, [id as u8]);
        }
    }
}

/// Zero is not a Receive Maximum.
///
/// [MQTT-4.9.0-1] [MQTT-3.1.4-1]
#[test]
fn receive_maximum_is_not_zero() {
    let mut client = open(Version::V5);
    client.send(hello(Version::V5).with(Property::ReceiveMaximum(0)));
    client.expect_refusal(&[0x82]);
}
