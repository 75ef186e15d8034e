//! Rows 5 and 16: QoS 2 over cut connections on both sides, nothing doubled, nothing lost; and the order kept by every
//! quality of service.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::{QoS, ReasonCode};

use crate::{Ack, Broker, Client, Figure, Hello, Incoming, Message, Random, Size};

/// Messages that a publisher has under way.
const WINDOW: usize = 50;
/// Each side is cut off after one in so many reads: ten thousand cuts and more for a million messages.
const READS_PER_CUT: usize = 6;

/// A publisher and a subscriber with sessions, both cut off at random moments.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let pairs = size.pick(2, 4);
    let count = size.pick(1000, 250_000);
    let broker = Broker::start(shards, "");
    let outcomes: Vec<_> = (0..pairs)
        .map(|pair| {
            let address = broker.address();
            thread::spawn(move || run_pair(address, pair, count))
        })
        .collect();
    let mut sum = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome.join().expect("both sides go on");
        sum.accepted += outcome.accepted;
        sum.lost += outcome.lost;
        sum.doubled += outcome.doubled;
        sum.unasked += outcome.unasked;
        sum.disordered += outcome.disordered;
        sum.cuts += outcome.cuts;
    }
    let all = count * pairs;
    vec![
        Figure::at_least(
            5,
            crate::Kind::Exact,
            "QoS 2 messages accepted, in memory",
            sum.accepted as f64,
            all as f64 * 0.9,
            "",
        ),
        Figure::at_least(
            5,
            crate::Kind::Exact,
            "cuts of either side meanwhile",
            sum.cuts as f64,
            all as f64 / 100.0,
            "",
        ),
        Figure::exactly(5, "of those lost", sum.lost, 0),
        Figure::exactly(5, "of those doubled", sum.doubled, 0),
        Figure::exactly(5, "delivered although refused", sum.unasked, 0),
        Figure::exactly(16, "out of order, QoS 2 over cuts", sum.disordered, 0),
    ]
}

#[derive(Debug, Default)]
struct Outcome {
    accepted: usize,
    lost: usize,
    doubled: usize,
    unasked: usize,
    disordered: usize,
    cuts: usize,
}

fn run_pair(address: SocketAddr, pair: usize, count: usize) -> Outcome {
    let topic = format!("exactly/{pair}");
    let mut hello = Hello::new(format!("subscriber-{pair}")).persistent();
    hello.receive_maximum = 100;
    hello.source = 20 + pair as u8;
    let mut first = Client::connect(address, &hello);
    first.subscribe(&topic, QoS::ExactlyOnce);
    let done = Arc::new(AtomicBool::new(false));
    let published = Arc::clone(&done);
    let subscriber = thread::spawn(move || subscribe(address, &hello, first, &published));
    let (refused, publisher_cuts) = publish(address, pair, &topic, count);
    done.store(true, Ordering::Release);
    let (received, subscriber_cuts) = subscriber.join().expect("the subscriber goes on");

    let mut times = HashMap::<u32, usize>::new();
    let mut disordered = 0;
    let mut newest = None;
    for &number in &received {
        *times.entry(number).or_default() += 1;
        disordered += usize::from(Some(number) < newest);
        newest = newest.max(Some(number));
    }
    let numbers = 0..u32::try_from(count).expect("a number fits four bytes");
    let accepted = numbers.filter(|number| !refused.contains(number));
    Outcome {
        accepted: count - refused.len(),
        lost: accepted.filter(|number| !times.contains_key(number)).count(),
        doubled: times.values().filter(|times| **times > 1).count(),
        unasked: times.keys().filter(|number| refused.contains(number)).count(),
        disordered,
        cuts: publisher_cuts + subscriber_cuts,
    }
}

/// Where a message under way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Published,
    Released,
}

/// Publishes numbered messages; which ones were refused with a reason code, and how often the connection was cut.
fn publish(address: SocketAddr, pair: usize, topic: &str, count: usize) -> (HashSet<u32>, usize) {
    let mut random = Random::new(1000 + pair as u64);
    let mut hello = Hello::new(format!("publisher-{pair}")).persistent();
    hello.source = 20 + pair as u8;
    let mut client = Client::connect(address, &hello);
    // By number: the packet identifier follows from it, and the order in which to send again.
    let mut under_way = BTreeMap::<u32, Step>::new();
    let mut refused = HashSet::new();
    let mut next = 0_u32;
    let mut cuts = 0;
    let id_of = |number: u32| (number % 60_000) as u16 + 1;
    let mut bytes = Vec::new();
    while (next as usize) < count || !under_way.is_empty() {
        bytes.clear();
        while under_way.len() < WINDOW && (next as usize) < count {
            let payload = next.to_be_bytes();
            client.write_publish(&mut bytes, topic, &payload, QoS::ExactlyOnce, id_of(next), false);
            under_way.insert(next, Step::Published);
            next += 1;
        }
        client.send(&bytes);
        let incoming = client.expect();
        let cut = random.below(READS_PER_CUT) == 0;
        if cut || incoming == Incoming::End {
            cuts += 1;
            client.cut();
            client = Client::connect(address, &hello);
            assert!(client.session_present, "the session outlives the connection");
            bytes.clear();
            for (&number, &step) in &under_way {
                let id = id_of(number);
                if step == Step::Published {
                    let from = bytes.len();
                    let payload = number.to_be_bytes();
                    client.write_publish(&mut bytes, topic, &payload, QoS::ExactlyOnce, id, false);
                    // DUP [MQTT-3.3.1-1].
                    bytes[from] |= 0b1000;
                } else {
                    client.write_ack(&mut bytes, Ack::PubRel, id);
                }
            }
            client.send(&bytes);
            continue;
        }
        let mut incoming = Some(incoming);
        bytes.clear();
        while let Some(one) = incoming {
            let Incoming::Ack(ack, id, code) = one else { panic!("a publisher got {one:?}") };
            let number = under_way.keys().copied().find(|number| id_of(*number) == id);
            match (ack, number) {
                (Ack::PubRec, Some(number)) if code.is_error() => {
                    assert_eq!(code, ReasonCode::QuotaExceeded, "the only reason to refuse");
                    refused.insert(number);
                    under_way.remove(&number);
                }
                (Ack::PubRec, Some(number)) => {
                    under_way.insert(number, Step::Released);
                    client.write_ack(&mut bytes, Ack::PubRel, id);
                }
                (Ack::PubComp, Some(number)) => {
                    assert_eq!(under_way.remove(&number), Some(Step::Released));
                }
                other => panic!("{other:?}: nothing of that identifier is under way"),
            }
            incoming = client.take();
        }
        client.send(&bytes);
    }
    client.leave();
    (refused, cuts)
}

/// Receives until the publisher is done and nothing more comes; the numbers in the order of their first arrival under a
/// packet identifier, and how often the connection was cut.
fn subscribe(
    address: SocketAddr,
    hello: &Hello,
    mut client: Client,
    published: &AtomicBool,
) -> (Vec<u32>, usize) {
    let mut random = Random::new(hello.source.into());
    let mut received = Vec::new();
    // Identifiers between PUBLISH and PUBREL [MQTT-4.3.3-10].
    let mut unreleased = HashSet::new();
    let mut cuts = 0;
    let mut bytes = Vec::new();
    let mut quiet_since = None;
    loop {
        let incoming = client.next(Duration::from_millis(200));
        let done = published.load(Ordering::Acquire);
        if incoming.is_none() {
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if done && since.elapsed() > Duration::from_secs(1) {
                return (received, cuts);
            }
            continue;
        }
        quiet_since = None;
        if incoming == Some(Incoming::End) || random.below(READS_PER_CUT) == 0 {
            cuts += 1;
            client.cut();
            client = Client::connect(address, hello);
            assert!(client.session_present, "the session outlives the connection");
            continue;
        }
        bytes.clear();
        let mut incoming = incoming;
        while let Some(one) = incoming {
            match one {
                Incoming::Message(message) => {
                    if unreleased.insert(message.id) {
                        received.push(number(&message));
                    }
                    client.write_ack(&mut bytes, Ack::PubRec, message.id);
                }
                Incoming::Ack(Ack::PubRel, id, _) => {
                    unreleased.remove(&id);
                    client.write_ack(&mut bytes, Ack::PubComp, id);
                }
                other => panic!("a subscriber got {other:?}"),
            }
            incoming = client.take();
        }
        client.send(&bytes);
    }
}

fn number(message: &Message) -> u32 {
    u32::from_be_bytes(*message.payload.first_chunk().expect("a numbered message"))
}

/// Several publishers, each to topics of its own with every quality of service; subscribers on all shards see each
/// publisher's messages of a topic and quality in their order.
pub(super) fn run_order(shards: u16, size: Size) -> Vec<Figure> {
    const PUBLISHERS: usize = 4;
    let count = size.pick(2000, 200_000);
    let broker = Broker::start(shards, "");
    let address = broker.address();
    let subscribers: Vec<_> = (0..4)
        .map(|number| {
            let mut client = Client::connect(address, &Hello::new(format!("reader-{number}")));
            client.subscribe("order/#", QoS::AtLeastOnce);
            thread::spawn(move || watch_order(client))
        })
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| thread::spawn(move || publish_all(address, publisher, count / PUBLISHERS)))
        .collect();
    publishers.into_iter().for_each(|thread| thread.join().expect("a publisher publishes"));
    let (mut seen, mut disordered) = (0, 0);
    for subscriber in subscribers {
        let (one_seen, one_disordered) = subscriber.join().expect("a reader reads");
        seen += one_seen;
        disordered += one_disordered;
    }
    vec![
        Figure::at_least(
            16,
            crate::Kind::Exact,
            "deliveries looked at",
            seen as f64,
            count as f64 * 2.0,
            "",
        ),
        Figure::exactly(16, "out of order per publisher and topic", disordered, 0),
    ]
}

fn publish_all(address: SocketAddr, publisher: usize, count: usize) {
    let mut client = Client::connect(address, &Hello::new(format!("writer-{publisher}")));
    let mut bytes = Vec::new();
    let mut waiting = 0;
    for number in 0..count {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][number % 2];
        let topic = format!("order/{publisher}/{}/{}", qos as u8, number / 2 % 3);
        let payload = (number as u32).to_be_bytes();
        let id = (number % 60_000) as u16 + 1;
        client.write_publish(&mut bytes, &topic, &payload, qos, id, false);
        waiting += usize::from(qos == QoS::AtLeastOnce);
        if bytes.len() > 1000 {
            client.send(&bytes);
            bytes.clear();
            while waiting > WINDOW {
                assert!(matches!(client.expect(), Incoming::Ack(Ack::PubAck, ..)));
                waiting -= 1;
            }
        }
    }
    client.send(&bytes);
    while waiting > 0 {
        assert!(matches!(client.expect(), Incoming::Ack(Ack::PubAck, ..)));
        waiting -= 1;
    }
}

/// How many messages came, and how many of them after a later one of their topic.
fn watch_order(mut client: Client) -> (usize, usize) {
    let mut newest = HashMap::<String, u32>::new();
    let (mut seen, mut disordered) = (0, 0);
    let mut bytes = Vec::new();
    while let Some(incoming) = client.next(Duration::from_secs(2)) {
        let Incoming::Message(message) = incoming else { panic!("a reader got {incoming:?}") };
        seen += 1;
        let number = number(&message);
        match newest.get_mut(&message.topic) {
            Some(newest) => {
                disordered += usize::from(number <= *newest);
                *newest = number.max(*newest);
            }
            None => {
                newest.insert(message.topic, number);
            }
        }
        if message.qos == QoS::AtLeastOnce {
            bytes.clear();
            client.write_ack(&mut bytes, Ack::PubAck, message.id);
            client.send(&bytes);
        }
    }
    (seen, disordered)
}
