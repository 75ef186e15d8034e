//! What MQTT 3.1 does differently from 3.1.1. All else is tested with the other versions.

use midge_conformance::prelude::*;

const V31: Version = Version::V31;

/// [MQTT-31-3.1-1 @3.1] [MQTT-31-3.2-1 @3.1]
#[test]
fn connects_by_its_own_name() {
    let mut client = client(V31);
    assert!(!client.connack().session_present);
    client.ping();
}

/// The byte that says Session Present in 3.1.1 stays zero (the decoder checks it).
///
/// [MQTT-31-3.2-1 @3.1] [MQTT-31-3.1-6 @3.1]
#[test]
fn sessions_without_session_present() {
    let (hello, topic) = (hello(V31).persistent(), topic("t"));
    let mut first = connect(hello.clone());
    first.subscribe(&topic, 1);
    first.leave();
    client(V31).deliver(publish(&*topic).qos(1, 1).payload("kept"));
    let mut second = connect(hello.clone());
    assert_eq!(second.take().text(), "kept");
    second.leave();
    connect(hello.clone().clean(true)).leave();
    client(V31).deliver(publish(&*topic).qos(1, 1).payload("lost"));
    connect(hello).ping();
}

/// [MQTT-31-3.1-2 @3.1]
#[test]
fn other_levels_are_refused() {
    for level in each([1, 2, 4, 5, 99]) {
        let mut client = open(V31);
        client.send(hello(V31).protocol_level(level));
        let answer = client.drain();
        assert_eq!((answer[0], answer[2]), (0x20, 0));
        assert!([1, 0x84].contains(&answer[3]), "{answer:02x?}");
    }
}

/// [MQTT-31-3.1-3 @3.1]
#[test]
fn empty_client_id_is_refused() {
    for clean in each([true, false]) {
        let mut client = open(V31);
        client.send(hello(V31).client_id("").clean(clean));
        client.expect_refusal(&[2]);
    }
}

/// Clients of an older draft set the flags and leave the strings out.
///
/// [MQTT-31-3.1-4 @3.1]
#[test]
fn missing_user_name_is_forgiven() {
    for connect in each([
        hello(V31).flags(0b1000_0010),
        hello(V31).flags(0b1100_0010),
        hello(V31).username("u").flags(0b1100_0010),
    ]) {
        let mut client = open(V31);
        client.send(connect);
        assert_eq!(client.expect_connack().code, 0);
        client.ping();
    }
}

/// [MQTT-31-3.1-5 @3.1]
#[test]
fn older_connection_is_closed() {
    let hello = hello(V31);
    let mut old = connect(hello.clone());
    let mut new = connect(hello);
    old.expect_closed();
    new.ping();
}

/// SUBSCRIBE, UNSUBSCRIBE and PUBREL travel at QoS 1 in 3.1 and may be sent again with DUP.
///
/// [MQTT-31-3.6-1 @3.1] [MQTT-31-3.8-1 @3.1] [MQTT-31-3.10-1 @3.1]
#[test]
fn packets_sent_again_with_dup() {
    let dup = |mut packet: Vec<u8>| {
        packet[0] |= 0b1000;
        packet
    };
    let topic = topic("t");
    let (mut subscriber, mut publisher) = (client(V31), client(V31));
    let subscribe = subscribe(1).filter(&topic, 1).encode(V31);
    for packet in [subscribe.clone(), dup(subscribe)] {
        subscriber.send(packet);
        assert_eq!(subscriber.expect_suback().codes, [1]);
    }
    publisher.send(publish(&*topic).qos(2, 7));
    publisher.expect_success(Kind::PubRec, 7);
    for packet in [pubrel(7).encode(V31), dup(pubrel(7).encode(V31))] {
        publisher.send(packet);
        publisher.expect(pubcomp(7));
    }
    subscriber.take();
    let unsubscribe = unsubscribe(2).filter(&topic).encode(V31);
    for packet in [unsubscribe.clone(), dup(unsubscribe)] {
        subscriber.send(packet);
        assert_eq!(subscriber.expect_unsuback().id, 2);
    }
    subscriber.nothing_from(&mut publisher);
}

/// [MQTT-31-3.9-1 @3.1]
#[test]
fn granted_qos_in_order() {
    let (mut client, base) = (client(V31), topic("base"));
    let packet = [2, 0, 1, 0]
        .iter()
        .enumerate()
        .fold(subscribe(3), |packet, (index, qos)| packet.filter(format!("{base}/{index}"), *qos));
    assert_eq!(client.subscribe_with(packet).codes, [2, 0, 1, 0]);
}

/// [MQTT-31-4.1-1 @3.1] [MQTT-31-3.3-1 @3.1]
#[test]
fn qualities_of_service() {
    let (hello, topic) = (hello(V31).persistent(), topic("t"));
    let mut subscriber = connect(hello.clone());
    subscriber.subscribe(&topic, 2);
    let mut publisher = client(V31);
    publisher.deliver(publish(&*topic).payload("0"));
    publisher.deliver(publish(&*topic).qos(1, 1).payload("1"));
    publisher.deliver(publish(&*topic).qos(2, 2).payload("2"));
    let messages = [0, 1, 2].map(|qos| {
        let message = subscriber.expect_publish();
        assert_eq!((message.qos, message.text()), (qos, &*qos.to_string()));
        message
    });
    subscriber.vanish();
    let mut again = connect(hello);
    for message in &messages[1..] {
        again.expect(message.clone().dup());
    }
    for message in &messages {
        again.acknowledge(message);
    }
    again.nothing_from(&mut publisher);
}
