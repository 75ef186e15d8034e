//! Row 12: very many retained messages, all for one new subscriber.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::QoS;

use super::MIB;
use crate::client::Ack;
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Probe, Size};

/// PUBLISH packets that wait for their acknowledgements at a time.
const WINDOW: usize = 500;

/// Kept, delivered to a subscriber of everything, replaced while another subscribes, removed, kept again.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let count = size.pick(2000, 100_000);
    let broker = Broker::start(shards, "");
    let mut publisher = Client::connect(broker.address(), &Hello::new("publisher"));
    let before = broker.memory();
    retain_all(&mut publisher, count, &[b'x'; 100]);
    let kept = broker.memory() - before;

    let probe = Probe::start(broker.address(), 2);
    let since = Instant::now();
    let at_most_once = subscribe_all(&broker, "all-0", count, QoS::AtMostOnce);
    let seconds = since.elapsed().as_secs_f64();
    let at_least_once = subscribe_all(&broker, "all-1", count, QoS::AtLeastOnce);
    // More of both, for a percentile worth the name.
    for round in 0..size.pick(0, 5) {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            subscribe_all(&broker, &format!("more-{round}-{}", qos as u8), count, qos);
        }
    }
    let quiet = probe.stop();

    // The same while every retained message is replaced, again and again.
    let probe = Probe::start(broker.address(), 2);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let replacing = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            retain_all(&mut publisher, count, &[b'y'; 100]);
        }
        publisher
    });
    let amid = subscribe_all(&broker, "all-2", count, QoS::AtMostOnce);
    stop.store(true, Ordering::Relaxed);
    let mut publisher = replacing.join().expect("the publisher publishes");
    let busy = probe.stop();

    retain_all(&mut publisher, count, b"");
    let left = subscribe_all(&broker, "all-3", 0, QoS::AtMostOnce);
    let emptied = broker.memory();
    retain_all(&mut publisher, count, &[b'z'; 100]);
    let again = broker.memory() - before - kept;
    // What is not given to the system is used again; the buffers of subscribers come on top of the first filling.
    let leaked = again.min(broker.memory() - emptied.max(before + kept));
    vec![
        Figure::exactly(12, "delivered with QoS 0", at_most_once, count),
        Figure::exactly(12, "delivered with QoS 1", at_least_once, count),
        Figure::exactly(12, "topics delivered while all were replaced", amid, count),
        Figure::exactly(12, "left after all were removed", left, 0),
        Figure::at_most(
            12,
            Kind::Memory,
            "each, with 100 B of payload",
            kept / count as f64,
            350.0,
            "B",
        ),
        Figure::at_most(12, Kind::Memory, "not given back", leaked / MIB, 4.0, "MiB"),
        Figure::at_most(12, Kind::Speed, "all to a new subscriber (QoS 0)", seconds, 2.0, "s"),
        Figure::at_most(12, Kind::Speed, "others meanwhile, p99", quiet.p99(), 10.0, "ms"),
        Figure::at_most(
            12,
            Kind::Speed,
            "others while all are replaced, p99",
            busy.p99(),
            10.0,
            "ms",
        ),
        Figure::at_most(
            12,
            Kind::Speed,
            "others while all are replaced, longest",
            busy.longest(),
            100.0,
            "ms",
        ),
    ]
}

/// Publishes one retained message to each topic, and waits for the acknowledgements.
fn retain_all(publisher: &mut Client, count: usize, payload: &[u8]) {
    let mut bytes = Vec::new();
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < count {
        bytes.clear();
        while sent < count && sent - acknowledged < WINDOW {
            let id = (sent % 60_000) as u16 + 1;
            let topic = topic(sent);
            publisher.write_publish(&mut bytes, &topic, payload, QoS::AtLeastOnce, id, true);
            sent += 1;
        }
        publisher.send(&bytes);
        while acknowledged < sent {
            match publisher.expect() {
                Incoming::Ack(Ack::PubAck, _, code) => assert!(!code.is_error(), "{code:?}"),
                other => panic!("expected PUBACK, received {other:?}"),
            }
            acknowledged += 1;
        }
    }
}

fn topic(number: usize) -> String {
    format!("building/{}/sensor/{}", number / 100, number % 100)
}

/// Subscribes to everything; how many different topics came. Stops when `expected` have, or nothing more comes.
fn subscribe_all(broker: &Broker, name: &str, expected: usize, qos: QoS) -> usize {
    let mut client = Client::connect(broker.address(), &Hello::new(name));
    let subscribe = client.subscribe_packet(1, &["building/#"], qos);
    client.send(&subscribe);
    let mut topics = HashSet::new();
    let mut bytes = Vec::new();
    let mut quiet = Duration::from_secs(3);
    while topics.len() < expected || expected == 0 {
        match client.next(quiet) {
            Some(Incoming::Message(message)) => {
                if message.qos == QoS::AtLeastOnce {
                    bytes.clear();
                    client.write_ack(&mut bytes, Ack::PubAck, message.id);
                    client.send(&bytes);
                }
                topics.insert(message.topic);
            }
            Some(Incoming::Subscribed(1, 0)) if expected == 0 => {
                quiet = Duration::from_millis(500);
            }
            Some(Incoming::Subscribed(1, 0)) => {}
            None => break,
            other => panic!("expected a message, received {other:?}"),
        }
    }
    topics.len()
}
