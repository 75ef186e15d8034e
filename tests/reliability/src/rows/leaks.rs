//! Row 2, the ways in which brokers leaked: packets that are refused half-way, and clients that leave something pending. Each
//! is done 20,000 times; what stays is measured.

use midge_codec::{Connect, ProtocolVersion, QoS, Will};

use super::MIB;
use crate::{Broker, Client, Figure, Hello, Kind, Size};

/// One way: a name, and the bytes that a peer of this number sends before it is cut off.
type Way = (&'static str, fn(usize) -> Vec<u8>);

const WAYS: [Way; 5] = [
    ("growth over 20,000 malformed wills", malformed_will),
    ("growth over 20,000 malformed SUBSCRIBEs", malformed_subscribe),
    ("growth over 20,000 wills with a delay and no session", delayed_will),
    ("growth over 20,000 unreleased QoS 2 messages", unreleased),
    ("growth over 20,000 clients with aliases, filters and half a packet", half_packet),
];

/// All ways, one after the other.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let broker = Broker::start(shards, "");
    let mut figures = Vec::new();
    for (what, bytes) in WAYS {
        let count = size.pick(200, 20_000);
        repeat(&broker, count / 4, bytes);
        let before = broker.memory();
        repeat(&broker, count, bytes);
        let growth = (broker.memory() - before) / MIB;
        figures.push(Figure::at_most(2, Kind::Memory, what, growth, 4.0, "MiB"));
    }
    figures
}

fn repeat(broker: &Broker, count: usize, bytes: fn(usize) -> Vec<u8>) {
    for number in 0..count {
        let mut peer = Client::open(broker.address(), 1);
        peer.send(&bytes(number));
        // Whatever it says, the broker has read the bytes by then.
        peer.wait_for_bytes();
        peer.reset();
    }
    Client::connect(broker.address(), &Hello::new("afterwards")).ping();
}

fn connect(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Connect::new(ProtocolVersion::V5, &format!("leak-{}", number % 100)).encode(&mut bytes);
    bytes
}

fn malformed_will(number: usize) -> Vec<u8> {
    let user = "u".repeat(1000);
    let client_id = format!("leak-{}", number % 100);
    let mut connect = Connect::new(ProtocolVersion::V5, &client_id);
    connect.will = Some(Will { topic: "will/#", payload: user.as_bytes(), ..Will::default() });
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    bytes
}

fn malformed_subscribe(number: usize) -> Vec<u8> {
    let mut bytes = connect(number);
    let mut body = vec![0, 1, 0];
    for filter in 0..50 {
        let text = format!("leak/{number}/{filter}/+");
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
        // The last one has a QoS that does not exist.
        body.push(if filter == 49 { 3 } else { 1 });
    }
    bytes.push(0x82);
    bytes.push((body.len() % 128) as u8 | 0x80);
    bytes.push((body.len() / 128) as u8);
    bytes.extend(body);
    bytes
}

fn delayed_will(number: usize) -> Vec<u8> {
    let client_id = format!("leak-{number}");
    let mut connect = Connect::new(ProtocolVersion::V5, &client_id);
    let mut will = Will { topic: "will/late", payload: &[b'w'; 1000], ..Will::default() };
    will.properties.delay_interval_seconds = Some(3600);
    connect.will = Some(will);
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    bytes
}

fn unreleased(number: usize) -> Vec<u8> {
    let mut bytes = connect(number);
    for id in 1..=20_u8 {
        bytes.extend([0x34, 8, 0, 1, b't', 0, id, 0, b'x', b'y']);
    }
    bytes
}

fn half_packet(number: usize) -> Vec<u8> {
    let mut bytes = connect(number);
    // An alias for a topic, a subscription, and a PUBLISH of 1,000 bytes that ends early.
    bytes.extend([0x30, 7, 0, 1, b'a', 3, 0x23, 0, 1]);
    bytes.extend([0x82, 7, 0, 1, 0, 0, 1, b'a', QoS::ExactlyOnce as u8]);
    bytes.extend([0x30, 0xe8, 0x07, 0, 1, b'a', 0]);
    bytes.extend([b'x'; 500]);
    bytes
}
