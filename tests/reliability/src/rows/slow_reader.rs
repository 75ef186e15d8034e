//! Row 8: readers that stop reading, and publishers that do not read their acknowledgements, cost nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use midge_codec::QoS;

use super::MIB;
use crate::client::{Ack, PATIENCE};
use crate::{Broker, Client, Figure, Hello, Incoming, Kind, Message, Probe, Size};

/// Messages that the publisher may be ahead of the reader that keeps up: what one session's window takes.
const AHEAD_MAX: usize = 100;

/// One reader keeps up, two have stopped (QoS 0 and QoS 1); far more is published than may wait for them.
pub(super) fn run(shards: u16, size: Size) -> Vec<Figure> {
    let broker = Broker::start(shards, "");
    let mut lost = 0;
    let mut disordered = 0;
    let mut revived = true;
    let mut growth: f64 = 0.0;
    let probe = Probe::start(broker.address(), 2);
    // Small messages are copied into outputs, large ones are shared: both ways of waiting.
    for payload_size in [1000, 65_536] {
        let count = size.pick(4 << 20, 200 << 20) / payload_size;
        let mut stopped: Vec<_> = [QoS::AtMostOnce, QoS::AtLeastOnce]
            .map(|qos| {
                let name = format!("stopped-{payload_size}-{}", qos as u8);
                let mut client = Client::connect(broker.address(), &Hello::new(name));
                client.subscribe("news", qos);
                client
            })
            .into();
        let name = format!("reader-{payload_size}");
        let mut reader = Client::connect(broker.address(), &Hello::new(name));
        reader.subscribe("news", QoS::AtLeastOnce);
        let mut publisher =
            Client::connect(broker.address(), &Hello::new(format!("publisher-{payload_size}")));
        let before = broker.memory();
        broker.forget_peak();

        let read = Arc::new(AtomicUsize::new(0));
        let progress = Arc::clone(&read);
        let reading = thread::spawn(move || {
            let outcome = read_all(&mut reader, count, &progress);
            (outcome, reader)
        });
        let payload = vec![b'x'; payload_size];
        publish_paced(&mut publisher, &payload, 0..count, &read);
        let ((came, in_order), _reader) = reading.join().expect("the reader reads");
        lost += count - came;
        disordered += usize::from(!in_order);
        growth = growth.max(broker.memory_peak() - before);

        // They read again: what was kept comes in order, and then what is published now.
        for (number, client) in (count..).zip(&mut stopped) {
            let (last, in_order) = read_until_quiet(client);
            let unpaced = AtomicUsize::new(usize::MAX / 2);
            publish_paced(&mut publisher, b"now", number..number + 1, &unpaced);
            let (newest, newest_in_order) = read_until_quiet(client);
            disordered += usize::from(!in_order || !newest_in_order || newest <= last);
            revived &= last.is_some() && newest == Some(number as u64);
        }
    }
    let latencies = probe.stop();
    vec![
        Figure::exactly(8, "messages lost by the reader that keeps up", lost, 0),
        Figure::exactly(8, "readers that saw another order", disordered, 0),
        Figure::exactly(8, "readers that came back to life", usize::from(revived), 1),
        Figure::at_most(
            8,
            Kind::Memory,
            "growth for two stopped readers, 200 MiB past each",
            growth / MIB,
            16.0,
            "MiB",
        ),
        Figure::at_most(8, Kind::Speed, "others, p99", latencies.p99(), 10.0, "ms"),
    ]
}

/// A publisher that is refused each time and never reads why: the broker stops reading from it.
pub(super) fn run_deaf_publisher(shards: u16, size: Size) -> Vec<Figure> {
    let broker = Broker::start(shards, "");
    let probe = Probe::start(broker.address(), 2);
    let mut growth: f64 = 0.0;
    let mut read_on = 0;
    let mut share: f64 = 0.0;
    for (name, topic, qos) in
        [("deaf-1", "$SYS/none", QoS::AtLeastOnce), ("deaf-2", "$SYS/none", QoS::ExactlyOnce)]
    {
        let mut deaf = Client::connect(broker.address(), &Hello::new(name));
        let before = broker.memory();
        broker.forget_peak();
        // Twelve bytes a packet, and a refusal with a sentence for each.
        let mut bytes = Vec::new();
        for _ in 0..10_000 {
            deaf.write_publish(&mut bytes, topic, b"", qos, 1, false);
        }
        // 64 MB of answers at the least, or until the broker has had enough.
        let all = (0..200).all(|_| deaf.send_within(&bytes, Duration::from_secs(1)));
        read_on += usize::from(all);
        growth = growth.max(broker.memory_peak() - before);
        // A full socket is waited for, not asked again and again.
        let (before, since) = (broker.processor_seconds(), Instant::now());
        thread::sleep(size.pick(Duration::from_millis(200), Duration::from_secs(2)));
        let seconds = broker.processor_seconds() - before;
        share = share.max(seconds / since.elapsed().as_secs_f64());
        deaf.cut();
    }
    let latencies = probe.stop();
    vec![
        Figure::exactly(8, "publishers read from although they read nothing", read_on, 0),
        Figure::at_most(
            8,
            Kind::Memory,
            "growth for a publisher that reads no answers",
            growth / MIB,
            16.0,
            "MiB",
        ),
        // The probes alone take about two of these.
        Figure::at_most(
            8,
            Kind::Speed,
            "processor while it reads nothing",
            share * 100.0,
            10.0,
            "%",
        ),
        Figure::at_most(8, Kind::Speed, "others meanwhile, p99", latencies.p99(), 10.0, "ms"),
    ]
}

/// Publishes messages of these numbers with QoS 1, never far ahead of what `read` says.
fn publish_paced(
    publisher: &mut Client,
    payload: &[u8],
    numbers: Range<usize>,
    read: &AtomicUsize,
) {
    let mut message = payload.to_vec();
    message.resize(payload.len().max(8), 0);
    let (mut sent, mut acknowledged) = (numbers.start, numbers.start);
    let mut bytes = Vec::new();
    while acknowledged < numbers.end {
        bytes.clear();
        while sent < numbers.end
            && sent - acknowledged < AHEAD_MAX
            && sent.saturating_sub(read.load(Ordering::Acquire)) < AHEAD_MAX
            && bytes.len() < 65_536
        {
            message[..8].copy_from_slice(&(sent as u64).to_be_bytes());
            let id = (sent % 60_000) as u16 + 1;
            publisher.write_publish(&mut bytes, "news", &message, QoS::AtLeastOnce, id, false);
            sent += 1;
        }
        publisher.send(&bytes);
        if sent == acknowledged {
            // The reader is behind: it will be heard of soon.
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        match publisher.expect() {
            Incoming::Ack(Ack::PubAck, ..) => acknowledged += 1,
            other => panic!("expected PUBACK, received {other:?}"),
        }
        while let Some(Incoming::Ack(Ack::PubAck, ..)) = publisher.take() {
            acknowledged += 1;
        }
    }
}

/// Reads and acknowledges; how many came, and whether they were numbered 0, 1, 2 ….
fn read_all(reader: &mut Client, count: usize, progress: &AtomicUsize) -> (usize, bool) {
    let mut in_order = true;
    for expected in 0..count {
        let Some(Incoming::Message(message)) = reader.next(PATIENCE) else {
            return (expected, in_order);
        };
        in_order &= number(&message) == expected as u64;
        acknowledge(reader, &message);
        progress.store(expected + 1, Ordering::Release);
    }
    (count, in_order)
}

/// Reads until nothing comes for a while: the last number, and whether numbers only grew.
fn read_until_quiet(client: &mut Client) -> (Option<u64>, bool) {
    let (mut last, mut in_order) = (None, true);
    while let Some(incoming) = client.next(Duration::from_millis(500)) {
        let Incoming::Message(message) = incoming else {
            panic!("expected a message, received {incoming:?}")
        };
        in_order &= last < Some(number(&message));
        last = Some(number(&message));
        acknowledge(client, &message);
    }
    (last, in_order)
}

fn number(message: &Message) -> u64 {
    let digits = message.payload.first_chunk().expect("a numbered message");
    u64::from_be_bytes(*digits)
}

fn acknowledge(client: &mut Client, message: &Message) {
    if message.qos == QoS::AtLeastOnce {
        let mut bytes = Vec::new();
        client.write_ack(&mut bytes, Ack::PubAck, message.id);
        client.send(&bytes);
    }
}
