//! What a configuration switches off is announced, and refused with the code MQTT names for it.

use midge_conformance::prelude::*;

fn start(limits: &str) -> Option<Broker> {
    Broker::start(&format!("limits: {{ {limits} }}"))
}

fn join(broker: &Broker, version: Version) -> Client {
    Client::connect(broker.address(), hello(version))
}

/// By default everything is available, and nothing is said about it.
///
/// [MQTT-3.2.2-9]
#[test]
fn everything_by_default() {
    let client = client(Version::V5);
    let properties = &client.connack().properties;
    assert_eq!(property!(properties, MaximumQoS), None);
    assert_ne!(property!(properties, RetainAvailable), Some(0));
    assert_ne!(property!(properties, WildcardAvailable), Some(0));
    assert_ne!(property!(properties, SubscriptionIdsAvailable), Some(0));
    assert_ne!(property!(properties, SharedAvailable), Some(0));
}

/// [MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-12] [MQTT-3.2.2-11] [MQTT-3.8.4-8] [MQTT-4.13.1-1]
#[test]
fn maximum_qos() {
    for maximum in each([0, 1]) {
        let Some(broker) = start(&format!("maximum_qos: {maximum}")) else { return };
        let mut client = join(&broker, Version::V5);
        assert_eq!(property!(client.connack().properties, MaximumQoS), Some(maximum));
        // Subscriptions may ask for more and are granted what there is.
        let packet = (0..=2).fold(subscribe(1), |packet, qos| packet.filter(format!("{qos}"), qos));
        let granted: Vec<u8> = (0..=2).map(|qos| qos.min(maximum)).collect();
        assert_eq!(client.subscribe_with(packet).codes, granted);
        client.send(publish("1"));
        client.expect(publish("1"));
        client.send(publish("a").qos(maximum + 1, 7));
        client.expect_error(&[0x9b]);

        let mut refused = Client::open(broker.address(), Version::V5);
        refused.send(hello(Version::V5).will(will("w", "w").qos(maximum + 1)));
        refused.expect_refusal(&[0x9b]);
        let _accepted =
            Client::connect(broker.address(), hello(Version::V5).will(will("w", "w").qos(maximum)));
    }
}

/// [MQTT-3.2.2-13] [MQTT-3.2.2-14] [MQTT-4.13.1-1]
#[test]
fn retain() {
    let Some(broker) = start("retain_available: false") else { return };
    let mut client = join(&broker, Version::V5);
    assert_eq!(property!(client.connack().properties, RetainAvailable), Some(0));
    client.send(publish("a").retain());
    client.expect_error(&[0x9a]);

    let mut refused = Client::open(broker.address(), Version::V5);
    refused.send(hello(Version::V5).will(will("w", "w").retain()));
    refused.expect_refusal(&[0x9a]);
}

/// Older clients cannot be told: their SUBACK says 0x80.
///
/// [MQTT-3.8.4-7] [MQTT-3.9.3-2] [MQTT-3.8.3-2 @3.1.1] [MQTT-3.9.3-2 @3.1.1]
#[test]
fn wildcards() {
    let Some(broker) = start("wildcard_subscription_available: false") else { return };
    for version in each(Version::NUMBERED) {
        let mut client = join(&broker, version);
        if version.is_v5() {
            assert_eq!(property!(client.connack().properties, WildcardAvailable), Some(0));
        }
        client.send(subscribe(1).filter("a", 0).filter("a/+", 1).filter("#", 0));
        let refused = if version.is_v5() { 0xa2 } else { 0x80 };
        match client.receive() {
            Packet::SubAck(suback) => {
                assert_eq!(suback.codes, [0, refused, refused]);
                client.ping();
            }
            Packet::Disconnect(disconnect) => assert_eq!(disconnect.code, Some(0xa2)),
            other => panic!("{other:?}"),
        }
    }
}

/// [MQTT-3.8.4-7] [MQTT-3.9.3-2] [MQTT-4.13.1-1] [MQTT-3.9.3-2 @3.1.1]
#[test]
fn shared_subscriptions() {
    let Some(broker) = start("shared_subscription_available: false") else { return };
    for version in each(Version::NUMBERED) {
        let mut client = join(&broker, version);
        if version.is_v5() {
            assert_eq!(property!(client.connack().properties, SharedAvailable), Some(0));
        }
        client.send(subscribe(1).filter("$share/g/a", 0));
        let refused = if version.is_v5() { 0x9e } else { 0x80 };
        match client.receive() {
            Packet::SubAck(suback) => {
                assert_eq!(suback.codes, [refused]);
                client.ping();
            }
            Packet::Disconnect(disconnect) => assert_eq!(disconnect.code, Some(0x9e)),
            other => panic!("{other:?}"),
        }
    }
}

/// [MQTT-3.8.4-7] [MQTT-3.9.3-2] [MQTT-4.13.1-1]
#[test]
fn subscription_identifiers() {
    let Some(broker) = start("subscription_identifiers_available: false") else { return };
    let mut client = join(&broker, Version::V5);
    assert_eq!(property!(client.connack().properties, SubscriptionIdsAvailable), Some(0));
    client.send(subscribe(1).filter("a", 0).with(Property::SubscriptionId(1)));
    match client.receive() {
        Packet::SubAck(suback) => assert_eq!(suback.codes, [0xa1]),
        Packet::Disconnect(disconnect) => assert_eq!(disconnect.code, Some(0xa1)),
        other => panic!("{other:?}"),
    }
}

/// A PUBLISH of an older client that asks for what is switched off: acknowledged or closed, never kept.
///
/// [MQTT-3.3.5-2 @3.1.1]
#[test]
fn older_clients_cannot_be_told() {
    let Some(broker) = start("maximum_qos: 1, retain_available: false") else { return };
    for version in each(Version::OLD) {
        let mut subscriber = join(&broker, version);
        for message in each([publish("a").qos(1, 1).retain(), publish("a").qos(2, 1)]) {
            let mut client = join(&broker, version);
            let qos = message.qos;
            client.send(message);
            match client.receive_or_end() {
                None => {}
                Some(Packet::Ack(ack)) => {
                    let expected = if qos == 1 { Kind::PubAck } else { Kind::PubRec };
                    assert_eq!((ack.kind, ack.id), (expected, 1));
                }
                Some(other) => panic!("{other:?}"),
            }
        }
        let packet = subscribe(1).filter("a", 2);
        assert_eq!(subscriber.subscribe_with(packet).codes, [1]);
        subscriber.nothing_from(&mut join(&broker, version));
    }
}

/// A session may not outlive its connection for longer than the broker allows, and the client is told.
///
/// [MQTT-4.1.0-2] [MQTT-3.1.2-23]
#[test]
fn session_expiry() {
    let Some(broker) = start("session_expiry_interval_max: 3s") else { return };
    let hello = hello(Version::V5).clean(false).with(Property::SessionExpiry(1000));
    let first = Client::connect(broker.address(), hello.clone());
    assert_eq!(property!(first.connack().properties, SessionExpiry), Some(3));
    first.vanish();
    let second = Client::connect(broker.address(), hello.clone());
    assert!(second.connack().session_present);
    second.leave_with(disconnect().with(Property::SessionExpiry(1000)));
    let_pass(4.5);
    assert!(!Client::connect(broker.address(), hello).connack().session_present);
}

/// More subscriptions than a client may have: refused one by one, the others stay.
///
/// [MQTT-3.8.4-7] [MQTT-3.8.4-6] [MQTT-3.8.4-5 @3.1.1]
#[test]
fn subscriptions_per_client() {
    let Some(broker) = start("subscriptions_per_client_max: 3") else { return };
    for version in each(Version::NUMBERED) {
        let mut client = join(&broker, version);
        let packet =
            (0..5).fold(subscribe(1), |packet, index| packet.filter(format!("{index}"), 0));
        let refused = if version.is_v5() { 0x97 } else { 0x80 };
        assert_eq!(client.subscribe_with(packet).codes, [0, 0, 0, refused, refused]);
        // One that is there already is no more, and one that is gone makes room.
        client.subscribe("2", 1);
        client.unsubscribe("0");
        client.subscribe("3", 1);
        client.send(publish("2").payload("x"));
        assert_eq!(client.take().text(), "x");
    }
}

/// An identifier longer than allowed is refused.
///
/// [MQTT-3.1.3-8] [MQTT-3.1.3-9 @3.1.1] [MQTT-3.1.3-5] [MQTT-3.1.3-5 @3.1.1] [MQTT-3.1.4-2]
#[test]
fn client_id_size() {
    let Some(broker) = start("client_id_size_max: 23") else { return };
    for version in each(Version::NUMBERED) {
        let _accepted = Client::connect(broker.address(), Connect::new(version, "x".repeat(23)));
        let mut refused = Client::open(broker.address(), version);
        refused.send(Connect::new(version, "x".repeat(24)));
        refused.expect_refusal(if version.is_v5() { &[0x85] } else { &[2] });
    }
}
