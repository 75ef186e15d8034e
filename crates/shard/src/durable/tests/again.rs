//! Bugs that the simulator found in what clients do again: subscribe, publish, after a refusal or a crash.

use super::regression::{commit_alone, fail_syncs, group_of, heal, join, pubrel, retained};
use super::*;
use crate::durable::record::{MessageRecord, Record};
use crate::ids::keeper_shard;

/// A member of a group, and a subscriber, ask for something else while the disk takes nothing: they are refused, and what they
/// were granted before stays.
#[test]
fn a_refused_subscription_leaves_the_earlier_one() {
    let mut broker = Broker::new(2);
    let (group, topic) = group_of(0);
    let member = Client::new(&broker, 0, "member", 1);
    join(&mut broker, &member, &group);
    broker.send(&member, subscribe("a", QoS::AtLeastOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&member), ["suback 2"]);
    fail_syncs(&mut broker, 0);
    for (number, filter) in [(3, &*group), (4, "a")] {
        broker.send(&member, |out| {
            let filters = [SubscribeFilter { filter, ..SubscribeFilter::default() }];
            Subscribe::new(id(number), &filters).encode(V5, out);
        });
    }
    broker.later(1);
    heal(&mut broker, 0);
    assert_eq!(broker.heard(&member), ["suback 3", "suback 4"]);
    broker.power_cut(1);
    broker.connected(&member);
    let publisher = broker.newcomer(1, "publisher", 2);
    broker.send(&publisher, |out| message(&topic, "x", QoS::AtLeastOnce, 1).encode(V5, out));
    broker.send(&publisher, publish("a", "y", QoS::AtLeastOnce, 2));
    broker.settle();
    let mut heard = broker.heard(&member);
    heard.sort();
    assert_eq!(heard, [format!("publish 1 {topic}=x"), "publish 1 a=y".to_owned()]);
}

/// A retained QoS 2 message is handed on, and the process ends before its keeper could take it: when it is published again its
/// PUBREC still waits for the keeper, so that whoever subscribes after it gets it [MQTT-3.3.1-5].
#[test]
fn what_is_published_again_after_a_crash_waits_for_other_shards() {
    let mut broker = Broker::new(2);
    let topic = (0..).map(|n| format!("r/{n}")).find(|t| keeper_shard(t, 2).index() == 1).unwrap();
    let publisher = broker.newcomer(0, "publisher", 1);
    let say = |out: &mut Vec<u8>| retained(&topic, "x", QoS::ExactlyOnce, 1).encode(V5, out);
    fail_syncs(&mut broker, 1);
    broker.send(&publisher, say);
    broker.later(1);
    broker.power_cut(1);
    assert_eq!(broker.connected(&publisher), ["connack 1"]);
    broker.send(&publisher, say);
    broker.later(1);
    assert_eq!(broker.heard(&publisher), Vec::<String>::new());
    heal(&mut broker, 1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1"]);
    assert_eq!(broker.shards[1].counters().retained_now, 1);
    broker.send(&publisher, pubrel(1));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubcomp 1"]);
}

/// A power cut takes a record and leaves one behind it that was written together with it: of what another shard had handed on,
/// the earlier one has not come.
#[test]
fn a_torn_record_is_not_taken_for_known() {
    let mut image = Image::new(WallTime::new(WALL_MS, Time::ZERO));
    let mut payload = Vec::new();
    let position = midge_store::Position { segment: midge_store::SegmentId(1), offset: 0 };
    let mark = Record::Mark { shard: 1, number: 5 };
    let message = Record::Message(MessageRecord {
        message: 1,
        topic: "a",
        properties: b"",
        payload: b"x",
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at_ms: None,
        retained: false,
        origin: None,
        hand_on: None,
        came_from: Some((1, 8)),
        author: None,
        deliveries: Vec::new(),
        groups: Vec::new(),
    });
    for record in [mark, message] {
        payload.clear();
        let kind = record.encode(&mut payload);
        image.apply(position, kind, &payload).unwrap();
    }
    let known = image.came.get_mut(&1).unwrap();
    assert_eq!(known.highest(), 8);
    assert!(known.has(5));
    assert!(!known.has(7));
    assert!(known.has(8));
    assert!(!known.has(9));
}

/// Numbers that have come, one by one and in rows, in any order: what is known is what was said.
#[test]
fn numbers_that_have_come_are_known() {
    let mut rows = vec![(3, 3), (7, 9), (4, 4), (1, 1), (8, 12), (20, 20), (2, 2), (14, 14)];
    for _ in 0..rows.len() {
        rows.rotate_left(1);
        let mut known = crate::durable::Known::default();
        for (first, last) in &rows {
            known.add(*first, *last);
        }
        assert_eq!(known.highest(), 20);
        known.add_up_to(1);
        let found: Vec<u64> = (1..=21).filter(|number| known.has(*number)).collect();
        assert_eq!(found, [1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 14, 20]);
    }
}

/// Where acknowledgements do not wait for the disk, a power cut takes what had been handed on, and leaves at the other shard that it
/// has come: what is published after it is new all the same.
#[test]
fn a_number_that_a_power_cut_took_is_not_used_again() {
    let mut broker = Broker::new(2);
    broker.level = Level::Written;
    broker.power_cut(1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(1, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::AtLeastOnce, 1));
    broker.connected(&publisher);
    broker.send(&publisher, publish("a", "before", QoS::ExactlyOnce, 1));
    broker.settle();
    assert_eq!(
        broker.heard(&publisher),
        Vec::<String>::new(),
        "which numbers are used is not synced"
    );
    broker.later(1);
    broker.send(&publisher, pubrel(1));
    broker.send(&reader, |out| PubAck::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "pubcomp 1"]);
    assert_eq!(broker.heard(&reader), ["suback 1", "publish 1 a=before"]);
    let synced = broker.disks[0].copy(1);
    broker.send(&publisher, publish("a", "taken", QoS::ExactlyOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 2"]);
    broker.shards[1].durable.as_mut().unwrap().log.flush();
    commit_alone(&mut broker, 1);
    broker.disks[0] = synced;
    broker.power_cut(1);
    assert_eq!(broker.connected(&reader), ["connack 1", "publish 1 a=taken dup"]);
    assert_eq!(broker.connected(&publisher), ["connack 1"]);
    broker.send(&publisher, publish("a", "after", QoS::ExactlyOnce, 3));
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["pubrec 3"]);
    assert_eq!(broker.heard(&reader), ["publish 1 a=after"]);
}

/// A broker of three shards, of which the last one's disk takes nothing: what is handed on to it waits. The publisher's home is the
/// first one; on each of the others somebody wants everything, on the second one somebody whose session is not kept.
fn with_one_that_waits() -> (Broker, Client) {
    let mut broker = Broker::new(3);
    let fleeting = Client::new(&broker, 1, "fleeting", 1);
    broker.connect(&fleeting, |connect| connect.properties.session_expiry_interval_seconds = None);
    let waits = broker.newcomer(2, "waits", 2);
    for client in [&fleeting, &waits] {
        broker.send(client, subscribe("#", QoS::AtLeastOnce, 1));
    }
    let publisher = broker.newcomer(0, "publisher", 3);
    fail_syncs(&mut broker, 2);
    (broker, publisher)
}

/// A publication is handed on to two shards, of which one has nobody whose session is kept, and the other cannot take it. After a
/// crash it is handed on again: who has subscribed meanwhile does not get it behind what was published later [MQTT-4.6.0-6].
#[test]
fn what_was_before_a_subscription_does_not_come_again_for_it() {
    let (mut broker, publisher) = with_one_that_waits();
    let reader = broker.newcomer(1, "reader", 4);
    broker.send(&publisher, publish("a", "before", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.send(&reader, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    broker.send(&publisher, publish("a", "after", QoS::ExactlyOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&reader), ["suback 1", "publish 1 a=after"]);
    assert_eq!(broker.heard(&publisher), Vec::<String>::new());
    broker.power_cut(1);
    let mut heard = broker.connected(&reader);
    heal(&mut broker, 2);
    heard.extend(broker.heard(&reader));
    assert_eq!(heard, ["connack 1", "publish 1 a=after dup"]);
}

/// The same of a publication that removes a retained message: it does not remove the next one [MQTT-3.3.1-5].
#[test]
fn what_removed_a_retained_message_does_not_remove_the_next_one() {
    let (mut broker, publisher) = with_one_that_waits();
    let topic = (0..).map(|n| format!("r/{n}")).find(|t| keeper_shard(t, 3).index() == 1).unwrap();
    let other = Client::new(&broker, 1, "other", 4);
    broker.connect(&other, |connect| connect.properties.session_expiry_interval_seconds = None);
    broker.send(&publisher, |out| retained(&topic, "", QoS::ExactlyOnce, 1).encode(V5, out));
    broker.settle();
    broker.send(&other, |out| retained(&topic, "next", QoS::AtMostOnce, 0).encode(V5, out));
    broker.later(1);
    assert_eq!(broker.shards[1].counters().retained_now, 1);
    broker.power_cut(1);
    heal(&mut broker, 2);
    assert_eq!(broker.shards[1].counters().retained_now, 1);
}

/// The name of a group is part of the record of what its member gets: room is asked for it too, and whoever publishes when there
/// is none waits.
#[test]
fn there_is_room_for_the_name_of_a_group() {
    const COUNT: u16 = 20;
    let log = midge_store::Settings { gather_size_max: 128 << 10, ..store_settings() };
    let mut broker = Broker::with_log(1, log);
    let member = Client::new(&broker, 0, "member", 1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    join(&mut broker, &member, &format!("$share/{}/t", "n".repeat(20_000)));
    broker.connected(&publisher);
    for number in 1..=COUNT {
        broker.send(&publisher, publish("t", "x", QoS::AtLeastOnce, number));
    }
    broker.settle();
    let mut acknowledged = broker.heard(&publisher).len();
    for _ in 0..COUNT {
        broker.later(1);
        acknowledged += broker.heard(&publisher).len();
    }
    assert_eq!(acknowledged, usize::from(COUNT));
    broker.power_cut(1);
    let mut words = broker.connected(&member);
    broker.settle();
    words.extend(broker.heard(&member));
    let got = words.iter().filter(|word| word.starts_with("publish")).count();
    assert_eq!(got, usize::from(COUNT), "{words:?}");
}

/// Whoever is closed because it sent more than the Receive Maximum allows sends that again: it has not been received
/// [MQTT-4.3.3-10].
#[test]
fn what_exceeded_the_receive_maximum_is_new_when_it_comes_again() {
    let limits = midge_session::Limits { receive_maximum: 1, ..Default::default() };
    let mut broker = Broker::with(1, Settings { limits, ..Settings::default() });
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(0, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::AtMostOnce, 1));
    broker.connected(&publisher);
    broker.send(&publisher, publish("a", "first", QoS::ExactlyOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 1"]);
    broker.send(&publisher, publish("a", "second", QoS::ExactlyOnce, 2));
    broker.lose(&publisher);
    broker.heard(&publisher);
    assert_eq!(broker.connected(&publisher), ["connack 1"]);
    broker.send(&publisher, pubrel(1));
    broker.send(&publisher, publish("a", "second", QoS::ExactlyOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubcomp 1", "pubrec 2"]);
    assert_eq!(broker.heard(&reader), ["suback 1", "publish 0 a=first", "publish 0 a=second"]);
}

/// The same where something else of that batch says what has come from the other shard: that a message of which nothing is kept has,
/// and what cleaning notes.
#[test]
fn nothing_says_that_a_torn_record_has_come() {
    let mut broker = Broker::new(2);
    let reader = broker.newcomer(1, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.send(&reader, subscribe("b", QoS::AtMostOnce, 2));
    let publisher = broker.newcomer(0, "publisher", 2);
    broker.send(&publisher, publish("a", "torn", QoS::ExactlyOnce, 1));
    broker.send(&publisher, publish("b", "left", QoS::ExactlyOnce, 2));
    commit_alone(&mut broker, 0);
    broker.exchange();
    let durable = broker.shards[1].durable.as_mut().unwrap();
    assert!(durable.log.appended() > durable.log.synced(), "one batch");
    durable.note_marks(ShardId::new(1));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "pubrec 2"]);
    let mut image = Image::new(WallTime::new(WALL_MS, Time::ZERO));
    let mut recovery = Recovery::open(&mut broker.disks[1], 1, LogId([2; 16])).unwrap();
    let mut torn = 0;
    while let Some(item) = recovery.next_item().unwrap() {
        let Item::Record(position, record) = item else { continue };
        match Record::decode(record.kind, record.payload).unwrap() {
            Record::Message(MessageRecord { topic: "a", came_from: Some((0, number)), .. }) => {
                torn = number;
            }
            _ => image.apply(position, record.kind, record.payload).unwrap(),
        }
    }
    let known = image.came.get_mut(&0).unwrap();
    assert!(torn > 0 && !known.has(torn) && known.has(torn + 1), "{torn}: {known:?}");
}

/// A message for a group comes back from a member whose disk takes nothing to a chooser whose disk takes nothing: whoever published it
/// hears so. What the group's backlog keeps stays there meanwhile.
#[test]
fn what_comes_back_is_kept_or_refused() {
    let mut broker = Broker::new(2);
    let (group, topic) = group_of(0);
    let member = Client::new(&broker, 1, "member", 1);
    join(&mut broker, &member, &group);
    broker.lose(&member);
    let publisher = broker.newcomer(0, "publisher", 2);
    fail_syncs(&mut broker, 1);
    fail_syncs(&mut broker, 0);
    broker.send(&publisher, |out| message(&topic, "refused", QoS::AtLeastOnce, 1).encode(V5, out));
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["full 1"]);
    heal(&mut broker, 0);
    broker.send(&publisher, |out| message(&topic, "kept", QoS::AtLeastOnce, 2).encode(V5, out));
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["puback 2"]);
    let kept = broker.shards[0].groups.kept_messages();
    assert_eq!(kept.len(), 1);
    fail_syncs(&mut broker, 0);
    // The member is asked again and again whether it takes what there is.
    broker.later(30);
    let still = broker.shards[0].groups.kept_messages();
    assert_eq!(still.len(), 1);
    assert_eq!(still[0].2, kept[0].2, "where it was");
    broker.power_cut(1);
    heal(&mut broker, 0);
    heal(&mut broker, 1);
    let mut heard = broker.connected(&member);
    broker.later(30);
    heard.extend(broker.heard(&member));
    assert_eq!(heard, ["connack 1".to_owned(), format!("publish 1 {topic}=kept")]);
}

/// A member's session ends while the chooser's disk takes nothing: what comes back is written down once it can be.
#[test]
fn what_comes_back_to_a_full_disk_is_kept_later() {
    let queue = midge_session::QueueLimits { messages_max: 1, bytes_max: usize::MAX };
    let mut broker = Broker::with(2, Settings { queue, ..Settings::default() });
    let (group, topic) = group_of(0);
    let [ends, stays] = [("ends", 1), ("stays", 2)].map(|(name, at)| {
        let member = Client::new(&broker, 1, name, at);
        join(&mut broker, &member, &group);
        broker.lose(&member);
        member
    });
    let publisher = broker.newcomer(0, "publisher", 3);
    for (number, payload) in [(1, "x"), (2, "y")] {
        broker.send(&publisher, |out| {
            message(&topic, payload, QoS::AtLeastOnce, number).encode(V5, out);
        });
        broker.settle();
    }
    assert_eq!(broker.heard(&publisher), ["puback 1", "puback 2"]);
    fail_syncs(&mut broker, 0);
    broker.connect(&ends, |connect| connect.clean_start = true);
    broker.later(1);
    assert_eq!(broker.heard(&ends), ["connack 0"]);
    broker.lose(&ends);
    assert_eq!(broker.shards[0].groups.outline_of(&group).unwrap().backlog, 1);
    heal(&mut broker, 0);
    assert_eq!(broker.shards[0].groups.kept_messages().len(), 1);
    broker.power_cut(1);
    let mut heard = broker.connected(&stays);
    broker.send(&stays, |out| PubAck::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.later(30);
    heard.extend(broker.heard(&stays));
    heard.sort();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[1].ends_with("=x") && heard[2].ends_with("=y"), "{heard:?}");
}

/// What a group's backlog gives to a member on another shard counts in the log until that one has it: cleaning copies it.
#[test]
fn what_a_backlog_has_given_counts_until_it_is_taken() {
    let queue = midge_session::QueueLimits { messages_max: 1, bytes_max: usize::MAX };
    let mut broker = Broker::with(2, Settings { queue, ..Settings::default() });
    let (group, topic) = group_of(0);
    let member = Client::new(&broker, 1, "member", 1);
    join(&mut broker, &member, &group);
    broker.lose(&member);
    let publisher = broker.newcomer(0, "publisher", 2);
    for number in 1..=3 {
        broker
            .send(&publisher, |out| message(&topic, "x", QoS::AtLeastOnce, number).encode(V5, out));
        broker.settle();
    }
    assert_eq!(broker.shards[0].groups.kept_messages().len(), 2);
    broker.connect(&member, |_| {});
    broker.exchange();
    let waiting = broker.shards[0].groups.outline_of(&group).unwrap().backlog;
    assert!(waiting < 2, "it is on its way");
    assert_eq!(broker.shards[0].groups.kept_messages().len(), 2);
    broker.settle();
    for number in 1..=3 {
        broker.send(&member, |out| PubAck::new(id(number), ReasonCode::Success).encode(V5, out));
        broker.later(1);
    }
    assert_eq!(broker.shards[0].groups.kept_messages().len(), 0);
}

/// The records of a topic's messages in a shard's log: from which shard it came, whose packet id it has, how many must get it.
fn written(broker: &mut Broker, shard: usize, topic: &str) -> Vec<(bool, bool, usize)> {
    let id = LogId([shard as u8 + 1; 16]);
    let mut recovery = Recovery::open(&mut broker.disks[shard], shard as u16, id).unwrap();
    let mut found = Vec::new();
    while let Some(item) = recovery.next_item().unwrap() {
        let Item::Record(_, record) = item else { continue };
        if let Ok(Record::Message(message)) = Record::decode(record.kind, record.payload)
            && message.topic == topic
        {
            let came = message.came_from.is_some();
            found.push((came, message.origin.is_some(), message.deliveries.len()));
        }
    }
    found
}

/// A disk fails under what another shard handed on, and under what its own client published: what is written again is one record,
/// or a crash could find the delivery without knowing who has sent it already [MQTT-4.3.3-2].
#[test]
fn what_is_written_again_is_there_as_a_whole() {
    let mut broker = Broker::with(2, Settings::default());
    let readers = [Client::new(&broker, 1, "reader", 1), Client::new(&broker, 1, "other", 2)];
    for reader in &readers {
        broker.connected(reader);
        broker.send(reader, subscribe("far", QoS::ExactlyOnce, 1));
        broker.send(reader, subscribe("near", QoS::ExactlyOnce, 2));
    }
    let far = broker.newcomer(0, "far", 3);
    let near = broker.newcomer(1, "near", 4);
    let faults = midge_store::memory::Faults { sync_per_million: 1_000_000, ..Default::default() };
    broker.disks[1].set_faults(faults);
    broker.send(&far, publish("far", "x", QoS::ExactlyOnce, 1));
    broker.send(&near, publish("near", "x", QoS::ExactlyOnce, 1));
    broker.later(1);
    heal(&mut broker, 1);
    let far_records = written(&mut broker, 1, "far");
    assert_eq!(far_records.last(), Some(&(true, false, 2)), "{far_records:?}");
    let near_records = written(&mut broker, 1, "near");
    assert_eq!(near_records.last(), Some(&(false, true, 2)), "{near_records:?}");
    assert_eq!(broker.heard(&far), ["pubrec 1"]);
    broker.power_cut(1);
    for reader in &readers {
        let mut heard = broker.connected(reader);
        heard.sort();
        let once = heard.iter().map(|line| line.trim_end_matches(" dup"));
        assert!(once.eq(["connack 1", "publish 2 far=x", "publish 2 near=x"]), "{heard:?}");
    }
}

/// As long as what a failed disk took is not kept again, the log says so: it is not enough that it is on its way to the disk.
#[test]
fn what_a_failed_disk_took_is_there_once_nothing_is_rewritten() {
    let mut broker = Broker::new(1);
    let reader = broker.newcomer(0, "reader", 1);
    broker.disks[0].set_faults(midge_store::memory::Faults {
        sync_per_million: 1_000_000,
        ..Default::default()
    });
    broker.send(&reader, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&reader), Vec::<String>::new());
    assert!(broker.shards[0].is_rewriting());
    broker.disks[0].set_faults(midge_store::memory::Faults::default());
    for _ in 0..1000 {
        if !broker.shards[0].is_rewriting() {
            break;
        }
        if !broker.step() {
            broker.now = broker.now.plus_millis(50);
            broker.shards[0].handle_turn(broker.now);
        }
    }
    assert!(!broker.shards[0].is_rewriting());
    broker.power_cut(1);
    assert_eq!(broker.connected(&reader), ["connack 1"]);
    let publisher = broker.newcomer(0, "publisher", 2);
    broker.send(&publisher, publish("a", "x", QoS::AtLeastOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&reader), ["publish 1 a=x"]);
}
