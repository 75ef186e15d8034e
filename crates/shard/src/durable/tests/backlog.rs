//! Queues of which a part is in the log alone: nothing is lost, doubled or out of order, and memory is what it may be.

use midge_store::memory::Faults;
use midge_store::{Condition, SegmentId};

use super::*;
use crate::Action;

/// What every test begins with: a session that is away, and somebody who publishes.
fn sleeper(broker: &mut Broker) -> (Client, Client) {
    let subscriber = Client::new(broker, 0, "sleeper", 1);
    let publisher = Client::new(broker, 0, "publisher", 2);
    assert_eq!(broker.connected(&subscriber), ["connack 0"]);
    broker.send(&subscriber, subscribe("b/#", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.heard(&subscriber);
    broker.lose(&subscriber);
    broker.connected(&publisher);
    (subscriber, publisher)
}

/// Publishes the numbers from `first` on, of very different sizes.
fn fill(broker: &mut Broker, publisher: &Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let size = if number % 97 == 0 { 9_000 } else { (number * 31 % 400) as usize };
        let payload = format!("{number} {}", "x".repeat(size));
        let packet_id = (number % 60_000 + 1) as u16;
        broker.send(publisher, |out| {
            message("b/c", &payload, QoS::AtLeastOnce, packet_id).encode(V5, out);
        });
        if number % 10 == 0 {
            broker.settle();
        }
    }
    broker.settle();
    broker.heard(publisher);
    broker.turn();
}

/// What a client takes, acknowledging all that came at once, until `enough` or nothing comes any more: the numbers.
fn take(broker: &mut Broker, client: &Client, window: usize, enough: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut quiet = 0;
    while numbers.len() < enough && quiet < 3 {
        broker.settle();
        let bytes = broker.sent(client);
        let mut rest = &bytes[..];
        let mut came = Vec::new();
        while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
            rest = &rest[raw.size..];
            if let Packet::Publish(publish) = decode(raw, V5).unwrap() {
                let text = std::str::from_utf8(publish.payload).unwrap();
                numbers.push(text.split(' ').next().unwrap().parse().unwrap());
                came.push(publish.packet_id.unwrap());
            }
        }
        assert!(came.len() <= window, "{} in flight", came.len());
        quiet = if came.is_empty() { quiet + 1 } else { 0 };
        for packet_id in came {
            broker.send(client, |out| PubAck::new(packet_id, ReasonCode::Success).encode(V5, out));
        }
    }
    broker.settle();
    numbers
}

fn back(broker: &mut Broker, client: &Client, window: u16) {
    broker.connect(client, |connect| {
        connect.properties.receive_maximum = std::num::NonZeroU16::new(window);
    });
}

/// Messages of queues that are in memory.
fn in_memory(broker: &Broker) -> u64 {
    let counters = broker.shards[0].counters();
    counters.messages_queued_now - counters.messages_queued_in_log_now
}

fn lost(broker: &mut Broker) -> usize {
    let shard = &mut broker.shards[0];
    std::iter::from_fn(|| shard.poll_action())
        .map(|action| if let Action::Lost { messages, .. } = action { messages } else { 0 })
        .sum()
}

fn live(broker: &Broker) -> u64 {
    broker.shards[0].durable.as_ref().unwrap().log.statistics().bytes_live
}

/// Memory holds a few messages whatever waits, the order stays, and the log is empty in the end. A client that goes in the middle,
/// a power cut and others' messages change nothing.
#[test]
fn a_backlog_leaves_memory_and_comes_back_in_order() {
    let queue = midge_session::QueueLimits { messages_max: 10_000, bytes_max: 10 << 20 };
    let settings = Settings { queued_memory_max: 0, queue, ..Settings::default() };
    let mut broker = Broker::with(1, settings);
    let (subscriber, publisher) = sleeper(&mut broker);
    let before = live(&broker);
    fill(&mut broker, &publisher, 0..2_000);
    let counters = broker.shards[0].counters();
    assert_eq!((counters.messages_queued_now, in_memory(&broker)), (2_000, 0));
    assert_eq!(counters.queued_bytes_now, counters.queued_bytes_in_log_now);
    back(&mut broker, &subscriber, 7);
    let mut got = Vec::new();
    for _ in 0..60 {
        got.extend(take(&mut broker, &subscriber, 7, 10));
        assert!(in_memory(&broker) < 400, "{} in memory", in_memory(&broker));
    }
    // What comes meanwhile goes behind.
    fill(&mut broker, &publisher, 2_000..2_100);
    assert!(in_memory(&broker) < 400, "{} in memory", in_memory(&broker));
    broker.lose(&subscriber);
    assert_eq!(in_memory(&broker), 0, "what was read ahead is left to the log again");
    broker.power_cut(1);
    assert_eq!(in_memory(&broker), 0);
    back(&mut broker, &subscriber, 100);
    let rest = take(&mut broker, &subscriber, 100, usize::MAX);
    // What was in flight when the client went comes again.
    let from = got.len() - got.iter().rev().take_while(|number| **number >= rest[0]).count();
    got.truncate(from);
    got.extend(rest);
    assert!(got.iter().copied().eq(0..2_100), "{got:?}");
    assert_eq!(broker.shards[0].counters().messages_queued_now, 0);
    // Each of the two records of the session may have been written anew, with its time of leaving.
    assert!(live(&broker) < before + 100, "{} bytes, {before} before", live(&broker));
    assert_eq!(lost(&mut broker), 0);
}

/// Below the budget nothing leaves memory.
#[test]
fn what_fits_stays_in_memory() {
    let settings = Settings { queued_memory_max: 1 << 20, ..Settings::default() };
    let mut broker = Broker::with(1, settings);
    let (subscriber, publisher) = sleeper(&mut broker);
    fill(&mut broker, &publisher, 0..300);
    assert_eq!(in_memory(&broker), 300);
    back(&mut broker, &subscriber, 50);
    assert!(take(&mut broker, &subscriber, 50, usize::MAX).into_iter().eq(0..300));
    assert_eq!(broker.shards[0].counters().backlog_reads, 0);
}

/// A line that has gone beyond the budget leaves memory as it comes from then on, until its client has been there.
#[test]
fn a_line_that_floods_goes_on_so() {
    let queue = midge_session::QueueLimits { messages_max: 10_000, bytes_max: 10 << 20 };
    let settings = Settings { queued_memory_max: 100_000, queue, ..Settings::default() };
    let mut broker = Broker::with(1, settings);
    let (subscriber, publisher) = sleeper(&mut broker);
    fill(&mut broker, &publisher, 0..100);
    assert_eq!(in_memory(&broker), 100);
    fill(&mut broker, &publisher, 100..600);
    assert_eq!(in_memory(&broker), 0);
    fill(&mut broker, &publisher, 600..610);
    assert_eq!(in_memory(&broker), 0, "though there is room again");
    back(&mut broker, &subscriber, 50);
    assert!(take(&mut broker, &subscriber, 50, usize::MAX).into_iter().eq(0..610));
    broker.lose(&subscriber);
    fill(&mut broker, &publisher, 610..620);
    assert_eq!(in_memory(&broker), 10);
}

/// A flipped bit costs the message in whose record it is: all others come, and it is told.
#[test]
fn damage_costs_one_message() {
    let mut broker = Broker::new(1);
    let (subscriber, publisher) = sleeper(&mut broker);
    fill(&mut broker, &publisher, 0..200);
    let id = broker.shards[0].sessions.find(&subscriber.client_id).unwrap();
    let outbound = broker.shards[0].sessions.get(id).unwrap().session.outbound.as_ref().unwrap();
    let keeps: Vec<_> = outbound.keeps_in_log().collect();
    for victim in [0, 77, 199] {
        let keep = keeps[victim];
        let file = broker.disks[0].file_mut(SegmentId(keep.segment)).unwrap();
        file[keep.offset as usize + 30] ^= 4;
    }
    back(&mut broker, &subscriber, 20);
    let got = take(&mut broker, &subscriber, 20, usize::MAX);
    let wanted = (0..200).filter(|number| ![0, 77, 199].contains(number));
    assert!(got.iter().copied().eq(wanted), "{got:?}");
    assert_eq!(lost(&mut broker), 3);
    let counters = broker.shards[0].counters();
    assert_eq!((counters.dropped_damaged, counters.messages_queued_now), (3, 0));
}

/// A disk that cannot be read for a while costs nothing; one that cannot for long, a message now and then.
#[test]
fn failing_reads_are_tried_again() {
    let mut broker = Broker::new(1);
    let (subscriber, publisher) = sleeper(&mut broker);
    fill(&mut broker, &publisher, 0..50);
    let unreadable = Faults { read_per_million: 1_000_000, ..Faults::default() };
    broker.disks[0].set_faults(unreadable);
    back(&mut broker, &subscriber, 20);
    broker.later(20);
    assert_eq!(take(&mut broker, &subscriber, 20, usize::MAX), [0; 0]);
    broker.disks[0].set_faults(Faults::default());
    broker.later(20);
    assert!(take(&mut broker, &subscriber, 20, usize::MAX).into_iter().eq(0..50));
    assert_eq!(lost(&mut broker), 0);

    broker.lose(&subscriber);
    fill(&mut broker, &publisher, 50..100);
    broker.disks[0].set_faults(unreadable);
    back(&mut broker, &subscriber, 20);
    broker.later(40);
    assert_eq!(lost(&mut broker), 1);
    broker.disks[0].set_faults(Faults::default());
    broker.later(40);
    assert!(take(&mut broker, &subscriber, 20, usize::MAX).into_iter().eq(51..100));
}

/// Segments go although messages of them wait: those are copied, and found where they are then. A disk that fails now and
/// then takes copies back, and no message with them.
#[test]
fn cleaning_takes_the_backlog_along() {
    let mut failures = 0;
    for seed in 0..6u32 {
        let mut broker = Broker::new(1);
        broker.disks[0] = MemoryDisk::new(seed.into());
        broker.start();
        let (subscriber, publisher) = sleeper(&mut broker);
        fill(&mut broker, &publisher, 0..40);
        let reader = broker.newcomer(0, "reader", 3);
        broker.send(&reader, subscribe("flow", QoS::AtLeastOnce, 1));
        let payload = "x".repeat(1000);
        let mut next = 1u16;
        for round in 0..600u16 {
            let faulty = seed > 0 && round % 40 < 20;
            let faults = Faults { sync_per_million: 30_000, ..Faults::default() };
            broker.disks[0].set_faults(if faulty { faults } else { Faults::default() });
            broker.send(&publisher, |out| {
                message("flow", &payload, QoS::AtLeastOnce, 100 + round).encode(V5, out);
            });
            broker.settle();
            // Whoever waited for what failed is closed.
            for client in [&publisher, &reader] {
                if broker.heard(client).is_empty() && broker.shards[0].is_gone(client.id) {
                    broker.lose(client);
                    broker.connected(client);
                }
            }
            while let Some(sent) = PacketId::new(next)
                && broker.shards[0].has_in_flight(&reader.client_id, sent)
            {
                broker.send(&reader, |out| PubAck::new(sent, ReasonCode::Success).encode(V5, out));
                next += 1;
            }
            if round % 20 == 0 {
                broker.later(1);
            }
        }
        broker.disks[0].set_faults(Faults::default());
        broker.later(2);
        let log = &broker.shards[0].durable.as_ref().unwrap().log;
        assert_eq!(log.condition(), Condition::Healthy);
        assert!(log.oldest().0 > 1, "nothing was cleaned");
        failures += log.statistics().failures;
        if seed % 2 == 0 {
            broker.power_cut(1);
        }
        back(&mut broker, &subscriber, 9);
        let got = take(&mut broker, &subscriber, 9, usize::MAX);
        assert!(got.iter().copied().eq(0..40), "seed {seed}: {got:?}");
        assert_eq!(lost(&mut broker), 0);
    }
    assert!(failures > 5, "{failures} failures");
}

/// The disk fails when messages that only the log has were just copied, and the copies are not on the disk: what they were copied
/// from counts again, and is copied again later.
#[test]
fn copies_that_were_not_synced_are_undone() {
    let mut broker = Broker::new(1);
    let (subscriber, publisher) = sleeper(&mut broker);
    fill(&mut broker, &publisher, 0..40);
    let reader = broker.newcomer(0, "reader", 3);
    broker.send(&reader, subscribe("flow", QoS::AtLeastOnce, 1));
    let payload = "x".repeat(1000);
    let mut undone = 0;
    for round in 1..=500u16 {
        broker.send(&publisher, |out| {
            message("flow", &payload, QoS::AtLeastOnce, 100 + round).encode(V5, out);
        });
        broker.settle();
        for sent in (1..=1_000).filter_map(PacketId::new) {
            if broker.shards[0].has_in_flight(&reader.client_id, sent) {
                broker.send(&reader, |out| PubAck::new(sent, ReasonCode::Success).encode(V5, out));
            }
        }
        broker.now = broker.now.plus_millis(110);
        for shard in &mut broker.shards {
            shard.handle_turn(broker.now);
        }
        loop {
            let unsynced = broker.shards[0].unsynced_in_log(&subscriber.client_id);
            if unsynced > 0 && undone == 0 {
                let all = Faults { sync_per_million: 1_000_000, ..Faults::default() };
                broker.disks[0].set_faults(all);
                broker.settle();
                broker.disks[0].set_faults(Faults::default());
                assert_eq!(broker.shards[0].unsynced_in_log(&subscriber.client_id), 0);
                undone = unsynced;
                broker.later(1);
                for client in [&publisher, &reader] {
                    broker.lose(client);
                    broker.connected(client);
                }
            }
            if !broker.step() {
                break;
            }
        }
        broker.heard(&reader);
        broker.heard(&publisher);
    }
    assert!(undone > 10, "{undone} copies were undone");
    let log = &broker.shards[0].durable.as_ref().unwrap().log;
    assert!(log.oldest().0 > 1, "nothing was cleaned");
    back(&mut broker, &subscriber, 9);
    assert!(take(&mut broker, &subscriber, 9, usize::MAX).into_iter().eq(0..40));
    assert_eq!(lost(&mut broker), 0);
}

impl Shard {
    /// Messages of a session that only the log has, and that are not surely on the disk where they are said to stand.
    fn unsynced_in_log(&self, client_id: &str) -> usize {
        let entry = self.sessions.find(client_id).and_then(|id| self.sessions.get(id));
        let outbound = entry.and_then(|entry| entry.session.outbound.as_ref()).unwrap();
        let log = &self.durable.as_ref().unwrap().log;
        let places = outbound.keeps_in_log().map(|keep| super::super::write::place_of(&keep));
        places.filter(|place| !log.is_synced(place.position)).count()
    }

    fn is_gone(&self, id: u32) -> bool {
        self.connections.get(id).is_none_or(|connection| connection.is_ending())
    }

    fn has_in_flight(&self, client_id: &str, packet_id: PacketId) -> bool {
        let entry = self.sessions.find(client_id).and_then(|id| self.sessions.get(id));
        let outbound = entry.and_then(|entry| entry.session.outbound.as_ref());
        outbound.is_some_and(|outbound| outbound.keep_of(packet_id).is_some())
    }
}

/// One record for several sessions, each of which comes for it at its own time.
#[test]
fn several_sessions_share_a_record() {
    let mut broker = Broker::new(1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let sleepers: Vec<Client> =
        (0..3).map(|n| Client::new(&broker, 0, &format!("sleeper-{n}"), 10 + n)).collect();
    for sleeper in &sleepers {
        broker.connected(sleeper);
        broker.send(sleeper, subscribe("b/#", QoS::AtLeastOnce, 1));
        broker.settle();
        broker.lose(sleeper);
    }
    broker.connected(&publisher);
    let (before, records) = {
        let log = &broker.shards[0].durable.as_ref().unwrap().log;
        (log.statistics().bytes_live, log.statistics().records)
    };
    fill(&mut broker, &publisher, 0..100);
    let log = &broker.shards[0].durable.as_ref().unwrap().log;
    assert_eq!(log.statistics().records - records, 100, "one for each message");
    for (round, sleeper) in sleepers.iter().enumerate() {
        back(&mut broker, sleeper, 30);
        assert!(take(&mut broker, sleeper, 30, usize::MAX).into_iter().eq(0..100), "{round}");
        if round == 0 {
            // What it has acknowledged is written with what comes next, or a little later.
            broker.later(1);
            broker.power_cut(1);
        }
    }
    // What a record's bytes cannot be divided by its owners stays until its segment goes.
    assert!(live(&broker) < before + 100 * 3 * 8, "{} bytes, {before} before", live(&broker));
}

/// While a read is to be tried again, what was to be read is given up: what waits behind it comes.
#[test]
fn what_waits_behind_a_lost_segment_comes() {
    let mut broker = Broker::with(1, Settings::default());
    let (subscriber, _) = sleeper(&mut broker);
    let publisher = broker.newcomer(0, "another", 5);
    fill(&mut broker, &publisher, 0..20);
    broker.power_cut(1);
    broker.connected(&publisher);
    fill(&mut broker, &publisher, 20..30);
    assert_eq!(in_memory(&broker), 10);
    let unreadable = Faults { read_per_million: 1_000_000, ..Faults::default() };
    broker.disks[0].set_faults(unreadable);
    back(&mut broker, &subscriber, 20);
    broker.settle();
    for segment in 1..5 {
        broker.shards[0].lose_backlogs(SegmentId(segment));
    }
    assert_eq!(lost(&mut broker), 20);
    broker.later(2);
    assert!(take(&mut broker, &subscriber, 20, usize::MAX).into_iter().eq(20..30));
}
