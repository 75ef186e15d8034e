//! Every byte of every file of two shards' logs, changed, and every file cut there: the broker starts, delivers nothing that
//! was not sent, loses no more than what stood there, and what is lost is reported.
//!
//! Each change is recovered from and its records are compared; clients are asked once for each different outcome.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use midge_store::{Position, Recovered, SegmentId, Segments, Sequence};

use super::super::record::Record;
use super::*;

/// Small enough that every byte can be tried.
fn small() -> midge_store::Settings {
    midge_store::Settings {
        block_size: 512,
        segment_size_min: 8 << 10,
        segment_size_max: 8 << 10,
        ..midge_store::Settings::default()
    }
}

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kept {
    position: Position,
    kind: u8,
    payload: Vec<u8>,
}

type Records = BTreeMap<Sequence, Kept>;

/// What two shards' logs hold, and what clients hear who come back to them.
struct Sample {
    disks: Vec<MemoryDisk>,
    records: Vec<Records>,
    subscribers: Vec<Client>,
    /// What each of them hears, and what the topics retain.
    heard: Vec<BTreeSet<String>>,
    /// Every payload that was ever published.
    sent: HashSet<String>,
}

/// Sessions on both shards with queued and half-done messages, subscriptions, and retained messages.
fn sample() -> Sample {
    let mut broker = Broker::with_log(2, small());
    let subscribers = [0, 1].map(|shard| Client::new(&broker, shard, "away", 1));
    for client in &subscribers {
        broker.connected(client);
        broker.send(client, subscribe("flow/#", QoS::ExactlyOnce, 1));
        broker.settle();
        broker.heard(client);
        broker.lose(client);
    }
    let publisher = broker.newcomer(0, "publisher", 2);
    let mut sent = HashSet::new();
    for number in 1..=12 {
        let payload = format!("payload {number}, {}", "x".repeat(usize::from(number) * 40));
        let qos = if number % 3 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        broker.send(&publisher, |out| {
            let mut publish = message("flow/one", &payload, qos, number);
            if number % 5 == 0 {
                publish.topic = "kept";
                publish.retain = true;
            }
            publish.encode(V5, out);
        });
        sent.insert(payload);
        broker.settle();
        broker.heard(&publisher);
    }
    // One of them has had something already.
    broker.connect(&subscribers[0], |connect| {
        connect.properties.receive_maximum = std::num::NonZeroU16::new(1);
    });
    broker.settle();
    broker.send(&subscribers[0], |out| PubAck::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.settle();
    broker.heard(&subscribers[0]);
    broker.lose(&subscribers[0]);
    broker.lose(&publisher);
    broker.later(1);
    let mut disks: Vec<MemoryDisk> = broker.disks.iter().map(|disk| disk.copy(1)).collect();
    drop(broker);
    let records = disks.iter_mut().enumerate().map(|(n, disk)| recover(n, disk).1).collect();
    let mut sample =
        Sample { disks, records, subscribers: subscribers.into(), heard: Vec::new(), sent };
    sample.heard = sample.ask(&sample.disks.iter().map(|disk| disk.copy(2)).collect::<Vec<_>>());
    sample
}

fn recover(shard: usize, disk: &mut MemoryDisk) -> (Recovered, Records) {
    let id = LogId([shard as u8 + 1; 16]);
    let mut recovery = Recovery::open(disk, shard as u16, id).unwrap();
    let mut records = Records::new();
    while let Some(item) = recovery.next_item().unwrap() {
        if let Item::Record(position, record) = item {
            let kept = Kept { position, kind: record.kind, payload: record.payload.to_vec() };
            records.insert(record.sequence, kept);
        }
    }
    (recovery.finish().unwrap().0, records)
}

impl Sample {
    /// What clients hear who come back to a broker on these disks: each subscriber, then one who asks for what is retained.
    fn ask(&self, disks: &[MemoryDisk]) -> Vec<BTreeSet<String>> {
        let disks = disks.iter().map(|disk| disk.copy(3)).collect();
        let mut broker = Broker::on(disks, small());
        let late = broker.newcomer(0, "late", 3);
        broker.send(&late, subscribe("kept", QoS::AtLeastOnce, 1));
        broker.settle();
        broker.later(1);
        let mut all: Vec<BTreeSet<String>> = Vec::new();
        for client in self.subscribers.iter().chain([&late]) {
            if client.client_id != late.client_id {
                broker.connect(client, |_| {});
                broker.settle();
            }
            let heard = broker.heard(client).into_iter();
            let publishes = heard.filter(|words| words.starts_with("publish "));
            // What is said again is marked so: the message is the same.
            all.push(publishes.map(|words| words.replace(" dup", "")).collect());
        }
        all
    }

    /// Recovers a shard's log: which of its records are missing. Those that are there must be as they were.
    fn missing(
        &self,
        shard: usize,
        disk: &mut MemoryDisk,
        context: &str,
    ) -> (Recovered, Vec<&Kept>) {
        let id = LogId([shard as u8 + 1; 16]);
        let mut recovery = Recovery::open(disk, shard as u16, id).unwrap();
        let mut all = self.records[shard].iter();
        let mut missing = Vec::new();
        while let Some(item) = recovery.next_item().unwrap() {
            let Item::Record(position, record) = item else { continue };
            let kept = loop {
                let (sequence, kept) =
                    all.next().unwrap_or_else(|| panic!("{context}: {record:?}"));
                if *sequence == record.sequence {
                    break kept;
                }
                missing.push(kept);
            };
            let same = (kept.position, kept.kind) == (position, record.kind);
            assert!(same && kept.payload == record.payload, "{context}: {record:?}");
        }
        missing.extend(all.map(|(_, kept)| kept));
        (recovery.finish().unwrap().0, missing)
    }

    /// Clients come to a broker on these disks: nothing comes that was not sent, and what does not come stood in one of the
    /// records that are missing.
    fn check(&self, disks: &[MemoryDisk], missing: &[&Kept], context: &str) {
        let lost: Vec<Record<'_>> =
            missing.iter().map(|kept| Record::decode(kept.kind, &kept.payload).unwrap()).collect();
        for (heard, expected) in self.ask(disks).iter().zip(&self.heard) {
            for words in heard.difference(expected) {
                // Its end, or what had replaced it, is lost: it comes again, as it was.
                let payload = words.split_once('=').map_or("", |(_, payload)| payload);
                let payload = payload.strip_suffix(" retained").unwrap_or(payload);
                assert!(self.sent.contains(payload), "{context}: {words} was never sent");
                assert!(!missing.is_empty(), "{context}: {words}");
            }
            for words in expected.difference(heard) {
                let explained = lost.iter().any(|record| match record {
                    Record::Message(message) => {
                        words.contains(std::str::from_utf8(message.payload).unwrap())
                    }
                    Record::Session(_) | Record::Subscribe { .. } => true,
                    _ => false,
                });
                assert!(explained, "{context}: {words} is lost, with {lost:?}");
            }
        }
    }
}

/// What a recovery came to, in short.
fn outcome(recovered: &Recovered, missing: &[&Kept]) -> (usize, usize, u64, Vec<Position>) {
    let places = missing.iter().map(|kept| kept.position).collect();
    (recovered.segments.len(), recovered.ready.len(), recovered.damage_count, places)
}

#[test]
fn no_byte_costs_more_than_its_record() {
    let sample = sample();
    let (mut tried, mut outcomes) = (0, HashSet::new());
    for shard in 0..2 {
        let mut disks: Vec<MemoryDisk> = sample.disks.iter().map(|disk| disk.copy(4)).collect();
        let segments: Vec<SegmentId> = disks[shard].list().unwrap();
        assert!(segments.len() > 2, "one in use, and what is prepared");
        for segment in segments {
            let size = disks[shard].size(segment).unwrap() as usize;
            for at in 0..size {
                disks[shard].file_mut(segment).unwrap()[at] ^= 1 << (at % 8);
                let context = format!("shard {shard}, segment {segment}, byte {at}");
                let (recovered, missing) = sample.missing(shard, &mut disks[shard], &context);
                assert!(missing.len() <= 1, "{context}: {missing:?}");
                if !missing.is_empty() {
                    assert!(recovered.damage_count > 0, "{context}: not reported");
                }
                tried += 1;
                if outcomes.insert((shard, outcome(&recovered, &missing))) {
                    sample.check(&disks, &missing, &context);
                }
                disks[shard].file_mut(segment).unwrap()[at] ^= 1 << (at % 8);
            }
        }
    }
    assert!(outcomes.len() > 20, "{} outcomes of {tried} changes", outcomes.len());
}

#[test]
fn no_cut_costs_more_than_what_stood_behind_it() {
    let sample = sample();
    let mut outcomes = HashSet::new();
    for shard in 0..2 {
        let mut disks: Vec<MemoryDisk> = sample.disks.iter().map(|disk| disk.copy(4)).collect();
        for segment in disks[shard].list().unwrap() {
            let whole = disks[shard].file_mut(segment).unwrap().clone();
            for size in (0..whole.len()).rev() {
                disks[shard].file_mut(segment).unwrap().truncate(size);
                let context = format!("shard {shard}, segment {segment}, cut at {size}");
                let (recovered, missing) = sample.missing(shard, &mut disks[shard], &context);
                for kept in &missing {
                    let end = kept.position.offset as usize
                        + midge_store::record_size(kept.payload.len());
                    assert!(
                        kept.position.segment == segment && end > size,
                        "{context}: {kept:?} stood before it"
                    );
                }
                // Of the newest bytes nobody can tell whether they were ever there: they look torn.
                assert!(recovered.damage_count > 0, "{context}: not reported");
                if outcomes.insert((shard, outcome(&recovered, &missing))) {
                    sample.check(&disks, &missing, &context);
                }
            }
            *disks[shard].file_mut(segment).unwrap() = whole;
        }
    }
    assert!(outcomes.len() > 20, "{} outcomes", outcomes.len());
}
