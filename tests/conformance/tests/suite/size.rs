//! Maximum Packet Size, in both directions.

use midge_conformance::prelude::*;

/// A subscriber that takes packets of at most this many bytes; the client checks each one.
fn small(maximum: u32) -> Connect {
    hello(Version::V5).with(Property::MaximumPacketSize(maximum))
}

/// The size of a PUBLISH to a 5.0 subscriber.
fn size(topic: &str, payload: usize) -> usize {
    publish(topic).qos(1, 1).payload(vec![0; payload]).encode(Version::V5).len()
}

/// A message too large for a subscriber is dropped, as if delivered: the session, its window and the other
/// subscribers go on.
///
/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn message_too_large_for_a_subscriber() {
    let topic = topic("t");
    for qos in each(0..=2) {
        let mut small = connect(small(200).with(Property::ReceiveMaximum(1)));
        let (mut large, mut publisher) = (client(Version::V5), client(Version::V5));
        small.subscribe(&topic, qos);
        large.subscribe(&topic, qos);
        let fits = (0..200).rev().find(|fits| size(&topic, *fits) <= 200).expect("some");
        let fits = if qos == 0 { fits + 2 } else { fits };
        for length in [fits, fits + 1, 5000, fits, 0] {
            let message = publish(&*topic).payload(vec![b'x'; length]);
            publisher.deliver(if qos == 0 { message } else { message.qos(qos, 1) });
            assert_eq!(large.take().payload.len(), length);
            if length <= fits {
                assert_eq!(small.take().payload.len(), length);
            }
        }
        small.nothing_from(&mut publisher);
    }
}

/// The same for retained messages and for what waited for a client.
///
/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn waiting_messages_too_large() {
    let base = topic("base");
    let mut publisher = client(Version::V5);
    for (part, length) in [("a", 1000), ("b", 10)] {
        publisher
            .deliver(publish(format!("{base}/{part}")).qos(1, 1).payload(vec![0; length]).retain());
    }
    let hello = small(300).clean(false).with(Property::SessionExpiry(60));
    let mut first = connect(hello.clone());
    first.subscribe(&format!("{base}/+"), 1);
    assert_eq!(first.take().payload.len(), 10);
    first.leave();
    for length in [1000, 20, 1000, 30] {
        publisher.deliver(publish(format!("{base}/live")).qos(1, 1).payload(vec![0; length]));
    }
    let mut second = connect(hello);
    assert_eq!(second.take().payload.len(), 20);
    assert_eq!(second.take().payload.len(), 30);
    second.nothing_from(&mut publisher);
}

/// Answers with something to explain stay within the client's limit, too: what would not fit is left out.
///
/// [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3]
/// [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2]
/// [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.1.2-24]
#[test]
fn answers_stay_small() {
    // Room for CONNACK and for nothing that explains at length.
    let connack = connect(hello(Version::V5).with(Property::MaximumPacketSize(1000)));
    let size = connack_size(connack.connack());
    let mut client = connect(small(size));
    client.send(publish(topic("none")).qos(1, 1));
    client.expect_success(Kind::PubAck, 1);
    client.send(publish(topic("none")).qos(2, 2));
    client.expect_success(Kind::PubRec, 2);
    client.send(pubrel(99));
    assert_eq!(client.expect_ack(Kind::PubComp, 99).code, 0x92);
    client.send(pubrec(99));
    assert_eq!(client.expect_ack(Kind::PubRel, 99).code, 0x92);
    assert_eq!(client.unsubscribe_with(unsubscribe(3).filter("none")).codes, [0x11]);
    client.subscribe(&topic("t"), 0);
    client.send(publish("a/+"));
    client.expect_error(&[0x81, 0x82, 0x90]);
    // A refusal explains in at most as many bytes.
    let mut refused = open(Version::V5);
    refused.send(small(8).with(Property::AuthenticationMethod("none".into())));
    assert!(refused.drain().len() <= 8);
}

fn connack_size(connack: &ConnAck) -> u32 {
    let body = [vec![0, 0], encode_properties(&connack.properties)].concat();
    u32::try_from(frame(0x20, &body).len()).expect("small")
}

/// Even a client with no room for anything gets no packet that is larger.
///
/// [MQTT-3.1.2-24] [MQTT-3.2.2-19] [MQTT-3.2.2-20]
#[test]
fn no_room_at_all() {
    for maximum in each([1, 2, 4, 5, 8]) {
        let mut client = open(Version::V5);
        client.send(small(maximum));
        client.send(disconnect());
        assert!(client.drain().len() <= maximum as usize);
    }
}

/// A packet above the broker's limit ends the connection, before it has all arrived.
///
/// [MQTT-3.2.2-15] [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn packet_too_large_for_the_broker() {
    let Some(broker) = Broker::start("limits: { maximum_packet_size_bytes: 4KiB }") else { return };
    for version in each(Version::ALL) {
        let mut client = Client::connect(broker.address(), hello(version));
        if version.is_v5() {
            assert_eq!(property!(client.connack().properties, MaximumPacketSize), Some(4096));
        }
        let overhead = publish("t").payload(vec![0; 4000]).encode(version).len() - 4000;
        client.send(publish("t").payload(vec![0; 4096 - overhead]));
        client.ping();
        // The fixed header alone says how large it will be.
        let whole = publish("t").payload(vec![0; 4097 - overhead]).encode(version);
        client.send(whole[..3].to_vec());
        client.expect_error(&[0x95]);
    }
    // A CONNECT is a packet like any other.
    let mut client = Client::open(broker.address(), Version::V5);
    let large = hello(Version::V5).will(will("t", vec![0; 5000])).encode(Version::V5);
    client.send_regardless(&large);
    let answer = client.drain();
    assert!(
        answer.is_empty() || answer[0] == 0x20 && [0x95, 0x81].contains(&answer[3]),
        "{answer:02x?}"
    );
}
