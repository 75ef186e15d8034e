//! What one delivered message costs the shard itself: no socket, no ring, no kernel.
//!
//! ```text
//! cargo bench -p midge-shard --bench publish                      # nanoseconds, noisy on a shared machine
//! valgrind --tool=callgrind --toggle-collect='*measured*' target/release/deps/publish-… SCENARIO
//! ```
//!
//! Scenarios: `pairs-16` (16 QoS 0 packets in one receive, one subscriber), `pairs-1` (one packet in one receive), `qos1-16`
//! (16 QoS 1 packets, acknowledged by the subscriber), `fan-out` (16 QoS 0 packets to 1,000 subscribers), `properties-16` (16 QoS 0
//! packets of MQTT 5.0 with a user property). Sixty-four bytes of payload everywhere, 200 publishers in turn.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use midge_codec::{
    Connect, Framed, Packet, PacketId, ProtocolVersion, PubAck, Publish, PublishProperties, QoS,
    ReasonCode, Subscribe, SubscribeFilter, UserProperties, decode, frame,
};
use midge_mesh::ShardId;
use midge_session::Time;
use midge_shard::{ConnectionId, ListenerId, RetainedCounts, Settings, Shard, Shared};

const PUBLISHERS: u32 = 200;
const NOW: Time = Time::from_seconds(1000);

struct Scenario {
    name: &'static str,
    version: ProtocolVersion,
    qos: QoS,
    messages: u16,
    /// Subscribers of each topic.
    subscribers: u32,
    /// Topics: each publisher its own, or one for all.
    topics: u32,
    with_property: bool,
}

fn main() {
    let pairs = Scenario {
        name: "pairs-16",
        version: ProtocolVersion::V311,
        qos: QoS::AtMostOnce,
        messages: 16,
        subscribers: 1,
        topics: PUBLISHERS,
        with_property: false,
    };
    let scenarios = [
        Scenario { name: "pairs-1", messages: 1, ..pairs },
        Scenario { name: "qos1-16", qos: QoS::AtLeastOnce, ..pairs },
        Scenario { name: "fan-out", subscribers: 1000, topics: 1, ..pairs },
        Scenario {
            name: "properties-16",
            version: ProtocolVersion::V5,
            with_property: true,
            ..pairs
        },
        pairs,
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for scenario in &scenarios {
        if wanted.is_empty() || wanted.iter().any(|name| name == scenario.name) {
            run(scenario);
        }
    }
}

fn run(scenario: &Scenario) {
    let shared = Shared { interest: None, retained_counts: Arc::new(RetainedCounts::new(1)) };
    let settings = Arc::new(Settings::default());
    let mut shard = Shard::new(ShardId::new(0), 1, settings, shared, [1, 2, 3, 4], NOW);
    for id in 0..PUBLISHERS {
        connect(&mut shard, id, scenario.version);
    }
    let mut next = PUBLISHERS;
    for topic in 0..scenario.topics {
        for _ in 0..scenario.subscribers {
            connect(&mut shard, next, scenario.version);
            let filter = topic_name(topic);
            let filter = SubscribeFilter::new(&filter, scenario.qos);
            let mut bytes = Vec::new();
            Subscribe::new(PacketId::MIN, &[filter]).encode(scenario.version, &mut bytes);
            shard.handle_received(ConnectionId(next), &bytes, NOW);
            next += 1;
        }
    }
    drain(&mut shard, scenario);
    let received: Vec<Vec<u8>> =
        (0..PUBLISHERS).map(|publisher| packets(scenario, publisher % scenario.topics)).collect();
    let before = shard.counters().publishes_sent.iter().sum::<u64>();
    let rounds = (2_000_000 / (u64::from(scenario.messages) * u64::from(scenario.subscribers)))
        .clamp(1000, 100_000);
    let started = Instant::now();
    measured(&mut shard, scenario, &received, rounds);
    let elapsed = started.elapsed();
    let delivered = shard.counters().publishes_sent.iter().sum::<u64>() - before;
    println!(
        "{:14} {:>10} messages, {:6.1} ns each",
        scenario.name,
        delivered,
        elapsed.as_nanos() as f64 / delivered as f64
    );
}

/// Everything between "bytes were received" and "this is to be sent", and the way back of the buffers.
#[inline(never)]
fn measured(shard: &mut Shard, scenario: &Scenario, received: &[Vec<u8>], rounds: u64) {
    for round in 0..rounds {
        let publisher = (round % u64::from(PUBLISHERS)) as u32;
        shard.handle_received(ConnectionId(publisher), &received[publisher as usize], NOW);
        drain(shard, scenario);
    }
}

/// Takes what is to be sent; a subscriber of QoS 1 acknowledges it.
fn drain(shard: &mut Shard, scenario: &Scenario) {
    let mut answers: Vec<(ConnectionId, Vec<u8>)> = Vec::new();
    while shard.poll_action().is_some() {}
    while let Some((id, output)) = shard.next_flush() {
        if scenario.qos == QoS::AtLeastOnce {
            let mut answer = Vec::new();
            let bytes = output.as_single().unwrap_or_default();
            let mut rest = bytes;
            while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
                rest = &rest[raw.size..];
                if let Ok(Packet::Publish(publish)) = decode(raw, scenario.version)
                    && let Some(packet_id) = publish.packet_id
                {
                    PubAck::new(packet_id, ReasonCode::Success)
                        .encode(scenario.version, &mut answer);
                }
            }
            if !answer.is_empty() {
                answers.push((id, answer));
            }
        }
        black_box(output.size());
        shard.handle_sent(id, output, NOW);
    }
    for (id, answer) in answers {
        shard.handle_received(id, &answer, NOW);
    }
}

fn connect(shard: &mut Shard, id: u32, version: ProtocolVersion) {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    shard.handle_accepted(ConnectionId(id), peer, ListenerId(0), NOW);
    let client_id = format!("client-{id}");
    let mut bytes = Vec::new();
    Connect::new(version, &client_id).encode(&mut bytes);
    shard.handle_received(ConnectionId(id), &bytes, NOW);
}

fn topic_name(topic: u32) -> String {
    format!("bench/pair/{topic}")
}

fn packets(scenario: &Scenario, topic: u32) -> Vec<u8> {
    let topic = topic_name(topic);
    let pairs = [("key", "value")];
    let mut bytes = Vec::new();
    for id in 1..=scenario.messages {
        let properties = PublishProperties {
            user_properties: if scenario.with_property {
                UserProperties::from_pairs(&pairs)
            } else {
                UserProperties::default()
            },
            ..PublishProperties::default()
        };
        let packet_id = if scenario.qos == QoS::AtMostOnce { None } else { PacketId::new(id) };
        Publish {
            qos: scenario.qos,
            topic: &topic,
            payload: &[b'x'; 64],
            packet_id,
            properties,
            ..Publish::default()
        }
        .encode(scenario.version, &mut bytes);
    }
    bytes
}
