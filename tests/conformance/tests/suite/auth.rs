//! AUTH and authentication methods, of which this broker has none yet.

use midge_conformance::prelude::*;

/// [MQTT-4.12.0-1] [MQTT-4.12.0-4] [MQTT-4.13.2-1] [MQTT-3.1.4-2] [MQTT-3.2.2-6] [MQTT-3.2.2-7]
#[test]
fn unknown_method_is_refused() {
    let method = || hello(Version::V5).with(Property::AuthenticationMethod("SCRAM-SHA-1".into()));
    for connect in each([method(), method().with(Property::AuthenticationData(vec![1, 2, 3]))]) {
        let mut client = open(Version::V5);
        client.send(connect);
        client.expect_refusal(&[0x8c]);
    }
}

/// A refusal changes nothing: neither the session nor the connection that is there.
///
/// [MQTT-3.1.4-2] [MQTT-4.12.0-4] [MQTT-3.1.4-6]
#[test]
fn refusal_leaves_the_session_alone() {
    let topic = topic("t");
    let id = client_id();
    let hello = || Connect::new(Version::V5, &id);
    let mut there = connect(hello().persistent());
    there.subscribe(&topic, 1);
    let method = Property::AuthenticationMethod("none".into());
    let mut refused = open(Version::V5);
    refused.send(hello().clean(true).with(method));
    refused.expect_refusal(&[0x8c]);
    there.ping();
    there.leave();
    let mut again = connect(hello().persistent());
    assert!(again.connack().session_present);
    client(Version::V5).deliver(publish(&*topic).qos(1, 1).payload("x"));
    assert_eq!(again.take().text(), "x");
}

/// [MQTT-4.12.0-6]
#[test]
fn no_method_in_a_connack_unasked() {
    let mut client = client(Version::V5);
    assert_eq!(property!(client.connack().properties, AuthenticationMethod), None);
    assert_eq!(property!(client.connack().properties, AuthenticationData), None);
    client.ping();
}

/// [MQTT-4.12.0-7] [MQTT-3.15.2-1] [MQTT-4.13.1-1]
#[test]
fn auth_without_a_method() {
    let method = || Property::AuthenticationMethod("none".into());
    let packets = [
        auth(0x18).with(method()).encode(Version::V5),
        auth(0x19).with(method()).encode(Version::V5),
        auth(0x00).encode(Version::V5),
        vec![0xf0, 0],
    ];
    for packet in each(packets) {
        let mut client = client(Version::V5);
        client.send(packet);
        client.expect_error(&[0x82, 0x81, 0x8c]);
    }
}
