//! What one publication costs in this room: framing, decoding, and writing a header for a subscriber.
//!
//! `cargo bench -p midge-codec` prints nanoseconds of one operation, the best of several rounds. Instructions, which do
//! not depend on what else the machine does, are counted by `instructions` beside this file: it runs single cases, as
//! `hot_path CASE COUNT`, under callgrind.

use std::hint::black_box;
use std::time::Instant;

use midge_codec::{
    Framed, OutgoingPublish, PACKET_SIZE_MAX, PacketId, ProtocolVersion, PubAck, Publish,
    PublishProperties, QoS, RawPacket, ReasonCode, UserProperties, frame,
};

/// One operation to measure, done `count` times.
type Case = (&'static str, fn(count: u64));

const CASES: [Case; 9] = [
    ("empty_loop", |count| repeat(count, || 0)),
    ("frame_v311_qos0", |count| {
        let bytes = publish(ProtocolVersion::V311, QoS::AtMostOnce, PublishProperties::default());
        repeat(count, || cut(&bytes).size);
    }),
    ("decode_v311_qos0", |count| {
        decode(count, ProtocolVersion::V311, QoS::AtMostOnce, PublishProperties::default());
    }),
    ("decode_v311_qos1", |count| {
        decode(count, ProtocolVersion::V311, QoS::AtLeastOnce, PublishProperties::default());
    }),
    ("decode_v5_qos0", |count| {
        decode(count, ProtocolVersion::V5, QoS::AtMostOnce, PublishProperties::default());
    }),
    ("decode_v5_qos1_properties", |count| {
        let pairs = [("trace", "0123456789abcdef")];
        let properties = PublishProperties {
            message_expiry_interval_seconds: Some(60),
            content_type: Some("application/json"),
            user_properties: UserProperties::from_pairs(&pairs),
            ..PublishProperties::default()
        };
        decode(count, ProtocolVersion::V5, QoS::AtLeastOnce, properties);
    }),
    ("encode_header_v311_qos0", |count| encode(count, ProtocolVersion::V311, QoS::AtMostOnce)),
    ("encode_header_v5_qos1", |count| encode(count, ProtocolVersion::V5, QoS::AtLeastOnce)),
    ("puback_v5_decode_encode", |count| {
        let mut bytes = Vec::new();
        PubAck::new(PacketId::MIN, ReasonCode::Success).encode(ProtocolVersion::V5, &mut bytes);
        let mut out = Vec::with_capacity(64);
        repeat(count, || {
            out.clear();
            let packet = PubAck::decode(cut(black_box(&bytes)), ProtocolVersion::V5);
            packet.expect("is valid").encode(ProtocolVersion::V5, &mut out);
            out.len()
        });
    }),
];

/// Twelve characters, as common as any.
const TOPIC: &str = "room/7/light";
/// With its header of two bytes and the topic of fourteen, a QoS 0 PUBLISH of 64 bytes.
const PAYLOAD: [u8; 48] = [b'x'; 48];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in CASES {
            println!("{name}");
        }
        return;
    }
    if let [_, name, count] = arguments.as_slice()
        && let Some((_, run)) = CASES.iter().find(|(case, _)| case == name)
    {
        run(count.parse().expect("COUNT is a number"));
        return;
    }
    // Run as a test rather than as a benchmark, it only shows that the cases still work.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return CASES.iter().for_each(|(_, run)| run(1));
    }
    const COUNT: u64 = 2_000_000;
    const ROUNDS: usize = 7;
    for (name, run) in CASES {
        let nanoseconds = |_| {
            let start = Instant::now();
            run(COUNT);
            start.elapsed().as_nanos() as f64 / COUNT as f64
        };
        let best = (0..ROUNDS).map(nanoseconds).fold(f64::INFINITY, f64::min);
        println!("{name:28} {best:6.1} ns");
    }
}

fn repeat(count: u64, mut operation: impl FnMut() -> usize) {
    for _ in 0..count {
        black_box(operation());
    }
}

fn publish(version: ProtocolVersion, qos: QoS, properties: PublishProperties<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet_id = (qos > QoS::AtMostOnce).then_some(PacketId::MIN);
    Publish { qos, topic: TOPIC, packet_id, properties, payload: &PAYLOAD, ..Publish::default() }
        .encode(version, &mut bytes);
    bytes
}

fn cut(bytes: &[u8]) -> RawPacket<'_> {
    match frame(bytes, PACKET_SIZE_MAX) {
        Ok(Framed::Packet(raw)) => raw,
        _ => unreachable!("the packet is whole"),
    }
}

fn decode(count: u64, version: ProtocolVersion, qos: QoS, properties: PublishProperties<'_>) {
    let bytes = publish(version, qos, properties);
    repeat(count, || {
        let publish = Publish::decode(cut(black_box(&bytes)), version).expect("is valid");
        let publish = black_box(&publish);
        publish.payload.len() + publish.topic.len()
    });
}

fn encode(count: u64, version: ProtocolVersion, qos: QoS) {
    let packet_id = (qos > QoS::AtMostOnce).then_some(PacketId::MIN);
    let publish = OutgoingPublish {
        qos,
        topic: TOPIC,
        packet_id,
        payload_size: PAYLOAD.len(),
        ..OutgoingPublish::default()
    };
    let mut out = Vec::with_capacity(256);
    repeat(count, || {
        out.clear();
        black_box(black_box(&publish).encode_header(version, &mut out));
        out.len()
    });
}
