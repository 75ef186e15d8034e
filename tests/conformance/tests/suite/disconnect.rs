//! DISCONNECT from a client, and the end of a connection.

use midge_conformance::prelude::*;

/// Every reason code a client may give, in every form, just ends the connection.
///
/// [MQTT-3.14.2-1] [MQTT-3.14.4-2] [MQTT-2.2.2-1]
#[test]
fn reasons_of_a_client() {
    let codes =
        [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    for code in each(codes) {
        let packets = [
            disconnect_with(code),
            disconnect_with(code).with(Property::ReasonString("because".into())),
            disconnect_with(code).with(Property::user("a", "b")).with(Property::user("a", "b")),
        ];
        for packet in packets {
            let mut client = client(Version::V5);
            client.send(packet);
            client.expect_closed();
        }
    }
}

/// Reason codes that only a server has a use for end the connection as well, in whatever way.
///
/// [MQTT-3.14.2-1] [MQTT-3.14.4-2]
#[test]
fn reasons_of_a_server() {
    for code in each([0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x9a, 0x9c, 0xa2]) {
        let mut client = client(Version::V5);
        client.send(disconnect_with(code));
        match client.receive_or_end() {
            None => {}
            Some(Packet::Disconnect(answer)) => {
                assert!([Some(0x81), Some(0x82)].contains(&answer.code), "{answer:02x?}");
                client.expect_closed();
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// What follows a DISCONNECT is not processed.
///
/// [MQTT-3.14.4-1] [MQTT-3.14.4-2 @3.1.1]
#[test]
fn nothing_after_disconnect_is_processed() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut watcher = client(version);
        watcher.subscribe(&topic, 0);
        let mut leaving = client(version);
        let last = publish(&*topic).payload("before").encode(version);
        let after = publish(&*topic).payload("after").encode(version);
        leaving.send([last, disconnect().encode(version), after, pingreq().to_vec()].concat());
        leaving.expect_closed();
        assert_eq!(watcher.take().text(), "before");
        watcher.nothing_from(&mut client(version));
    }
}

/// After its own DISCONNECT the broker says nothing more and closes, whatever else was asked at once.
///
/// [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.2-1] [MQTT-3.14.2-1] [MQTT-3.14.2-2]
#[test]
fn the_broker_closes_after_its_disconnect() {
    let mut client = client(Version::V5);
    let wrong = publish("a/+").encode(Version::V5);
    let asked = publish("a").qos(1, 1).encode(Version::V5);
    client.send([pingreq().to_vec(), wrong, asked, pingreq().to_vec()].concat());
    client.expect(Packet::PingResp);
    client.expect_error(&[0x81, 0x82, 0x90]);
}

/// One client's mistake is its own affair.
///
/// [MQTT-4.13.1-1] [MQTT-4.8.0-1 @3.1.1]
#[test]
fn others_notice_nothing() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        subscriber.subscribe(&topic, 1);
        for _ in 0..20 {
            let mut wrong = client(version);
            wrong.subscribe(&topic, 1);
            wrong.send([0x00, 0]);
            publisher.deliver(publish(&*topic).qos(1, 1).payload("x"));
            assert_eq!(subscriber.take().text(), "x");
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// A connection that is closed while the broker still has much to say to it.
///
/// [MQTT-4.2-1] [MQTT-7.1.1-1 @3.1.1]
#[test]
fn closed_amid_deliveries() {
    for version in each(Version::NUMBERED) {
        let topic = topic("t");
        let mut publisher = client(version);
        for _ in 0..10 {
            let mut going = client(version);
            going.subscribe(&topic, 1);
            for _ in 0..20 {
                publisher.send(publish(&*topic).payload(vec![0; 10_000]));
            }
            drop(going);
            publisher.ping();
        }
    }
}
