//! AUTH and authentication methods. The broker of most tests has no method; some have one with SCRAM-SHA-256.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use midge_conformance::prelude::*;
use sha2::Sha256;

const METHOD: &str = "SCRAM-SHA-256";

/// The user `user` with the password `pencil`, the salt and the 4096 rounds of RFC 7677's example.
const FILE: &str = "user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=\n";

/// The same user's ClientKey.
const CLIENT_KEY: [u8; 32] = [
    0xa6, 0x0f, 0xc9, 0x23, 0xd6, 0x7e, 0x86, 0x44, 0xa9, 0x2d, 0x16, 0xb9, 0x6e, 0xda, 0x5e, 0xf4,
    0x65, 0x6b, 0x0c, 0x72, 0x5c, 0x48, 0x43, 0x74, 0xbe, 0x25, 0x53, 0x55, 0x76, 0x99, 0x6e, 0x8b,
];

const FIRST: &str = "n,,n=user,r=clientnonce";

/// A broker that knows the method, and where its file is.
fn broker_with_scram() -> Option<Broker> {
    let name =
        format!("midge-conformance-scram-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, FILE).expect("a directory for temporary files can be written");
    let broker = Broker::start(&format!("security: {{ scram_file: '{}' }}", path.display()));
    std::fs::remove_file(&path).expect("it was written");
    broker
}

/// What the client says last, with a right proof or a wrong one.
fn proof(challenge: &Auth, right: bool) -> Vec<u8> {
    let data = property!(challenge.properties, AuthenticationData).expect("a challenge");
    let data = String::from_utf8(data).expect("text");
    let nonce = data.split(',').next().expect("a nonce");
    let without_proof = format!("c=biws,{nonce}");
    let stored_key =
        STANDARD.decode("WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=").expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&stored_key).expect("any length");
    mac.update(format!("{},{data},{without_proof}", &FIRST[3..]).as_bytes());
    let mut proof: Vec<u8> = mac.finalize().into_bytes().to_vec();
    for (byte, key) in proof.iter_mut().zip(CLIENT_KEY) {
        *byte ^= key;
    }
    proof[0] ^= u8::from(!right);
    format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes()
}

fn named(code: u8, data: impl Into<Vec<u8>>) -> Auth {
    auth(code)
        .with(Property::AuthenticationMethod(METHOD.into()))
        .with(Property::AuthenticationData(data.into()))
}

fn first() -> Connect {
    hello(Version::V5)
        .with(Property::AuthenticationMethod(METHOD.into()))
        .with(Property::AuthenticationData(FIRST.into()))
}

fn challenge(client: &mut Client) -> Auth {
    let Packet::Auth(challenge) = client.receive() else { panic!("expected AUTH") };
    assert_eq!(challenge.code, 0x18, "[MQTT-4.12.0-2]");
    assert_eq!(property!(challenge.properties, AuthenticationMethod).as_deref(), Some(METHOD));
    challenge
}

fn authenticated(broker: &Broker) -> Client {
    let mut client = Client::open(broker.address(), Version::V5);
    client.send(first());
    let challenge = challenge(&mut client);
    client.send(named(0x18, proof(&challenge, true)));
    let connack = client.expect_connack();
    assert_eq!(connack.code, 0);
    let method = property!(connack.properties, AuthenticationMethod);
    assert_eq!(method.as_deref(), Some(METHOD));
    let data = property!(connack.properties, AuthenticationData).expect("the broker's own proof");
    assert!(data.starts_with(b"v="));
    client
}

/// [MQTT-4.12.0-2] [MQTT-4.12.0-5]
#[test]
fn a_method_that_is_known() {
    let Some(broker) = broker_with_scram() else { return };
    authenticated(&broker).ping();
}

/// [MQTT-4.12.0-4]
#[test]
fn a_proof_that_is_none() {
    let Some(broker) = broker_with_scram() else { return };
    let mut client = Client::open(broker.address(), Version::V5);
    client.send(first());
    let challenge = challenge(&mut client);
    client.send(named(0x18, proof(&challenge, false)));
    client.expect_refusal(&[0x86, 0x87]);
}

/// [MQTT-3.1.2-30]
#[test]
fn nothing_else_before_connack() {
    let Some(broker) = broker_with_scram() else { return };
    for packet in each([pingreq().to_vec(), publish("t").encode(Version::V5)]) {
        let mut client = Client::open(broker.address(), Version::V5);
        client.send(first());
        challenge(&mut client);
        client.send(packet);
        client.expect_refusal(&[0x82]);
    }
}

/// [MQTT-4.12.1-1] [MQTT-4.12.1-2] [MQTT-4.12.0-5]
#[test]
fn authenticating_again() {
    let Some(broker) = broker_with_scram() else { return };
    let mut client = authenticated(&broker);
    for right in [true, true, false] {
        client.send(named(0x19, FIRST));
        let challenge = challenge(&mut client);
        client.ping();
        client.send(named(0x18, proof(&challenge, right)));
        if right {
            let Packet::Auth(done) = client.receive() else { panic!("expected AUTH") };
            assert_eq!(done.code, 0);
            assert_eq!(property!(done.properties, AuthenticationMethod).as_deref(), Some(METHOD));
            client.ping();
        } else {
            client.expect_error(&[0x87]);
        }
    }
    let mut client = authenticated(&broker);
    client.send(auth(0x19).with(Property::AuthenticationMethod("other".into())));
    client.expect_error(&[0x82, 0x8c]);
}

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
