//! Bugs in what is kept that the simulator found, each as small as it gets.

use midge_session::{QueueLimits, SubscriptionOptions};

use super::super::record::{Record, SessionRecord};
use super::*;
use crate::ids::keeper_shard;

pub(super) fn retained<'a>(topic: &'a str, payload: &'a str, qos: QoS, number: u16) -> Publish<'a> {
    Publish { retain: true, ..message(topic, payload, qos, number) }
}

/// A QoS 2 publication is handed on after a restart, when cleaning has forgotten all that were handed on before: the other
/// shard must not take it for one of those.
#[test]
fn what_is_handed_on_after_cleaning_and_a_restart_is_new() {
    let mut broker = Broker::new(2);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let subscriber = broker.newcomer(1, "subscriber", 1);
    broker.send(&subscriber, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    broker.connected(&publisher);
    broker.send(&publisher, publish("a", "first", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.send(&publisher, |out| PubRel::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "pubcomp 1"]);
    assert_eq!(broker.heard(&subscriber), ["suback 1", "publish 1 a=first"]);
    broker.send(&subscriber, |out| PubAck::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.settle();
    let reader = broker.newcomer(0, "reader", 3);
    broker.send(&reader, subscribe("flow", QoS::AtLeastOnce, 1));
    let payload = "x".repeat(1000);
    for number in 1..=500u16 {
        broker.send(&publisher, |out| {
            message("flow", &payload, QoS::AtLeastOnce, 1000 + number).encode(V5, out);
        });
        broker.settle();
        broker.send(&reader, |out| PubAck::new(id(number), ReasonCode::Success).encode(V5, out));
        broker.settle();
        broker.heard(&reader);
        broker.heard(&publisher);
        if number % 50 == 0 {
            broker.later(1);
        }
    }
    let log = &broker.shards[0].durable.as_ref().unwrap().log;
    assert!(log.oldest().0 > 1, "nothing was cleaned");
    broker.power_cut(1);
    broker.connected(&subscriber);
    broker.connected(&publisher);
    broker.send(&publisher, publish("a", "second", QoS::ExactlyOnce, 2));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 2"]);
    assert_eq!(broker.heard(&subscriber), ["publish 1 a=second"]);
}

/// What ended while the disk failed has ended after the next restart too: a retained message, a delivery, a subscription.
#[test]
fn what_ends_while_the_disk_fails_stays_ended() {
    let mut broker = Broker::new(1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(0, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::AtLeastOnce, 1));
    broker.send(&reader, subscribe("gone", QoS::AtLeastOnce, 2));
    broker.connect(&publisher, |connect| connect.clean_start = true);
    broker.send(&publisher, publish("a", "taken", QoS::AtLeastOnce, 1));
    broker.send(&publisher, |out| retained("r", "old", QoS::AtLeastOnce, 2).encode(V5, out));
    broker.settle();
    broker.later(1);
    assert_eq!(broker.heard(&reader), ["suback 1", "suback 2", "publish 1 a=taken"]);
    broker.disks[0].set_faults(midge_store::memory::Faults {
        sync_per_million: 1_000_000,
        ..Default::default()
    });
    broker.send(&reader, |out| PubAck::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.send(&reader, |out| Unsubscribe::new(id(3), &["gone"]).encode(V5, out));
    broker.send(&publisher, |out| retained("r", "", QoS::AtMostOnce, 0).encode(V5, out));
    broker.later(1);
    broker.disks[0].set_faults(midge_store::memory::Faults::default());
    broker.later(2);
    broker.power_cut(1);
    assert_eq!(broker.connected(&reader), ["connack 1"]);
    broker.connect(&publisher, |connect| connect.clean_start = true);
    broker.send(&publisher, publish("gone", "x", QoS::AtLeastOnce, 1));
    broker.send(&reader, subscribe("r", QoS::AtLeastOnce, 4));
    broker.settle();
    broker.later(1);
    assert_eq!(broker.heard(&reader), ["suback 4"]);
}

/// A retained message at QoS 2 waits for its commit before it goes to its keeper; one that is published after it must not
/// get there before it [MQTT-3.3.1-5].
#[test]
fn a_retained_message_waits_for_the_one_before() {
    let mut broker = Broker::new(2);
    let topic = (0..).map(|n| format!("r/{n}")).find(|t| keeper_shard(t, 2).index() == 1).unwrap();
    let publisher = broker.newcomer(0, "publisher", 1);
    broker.send(&publisher, |out| {
        retained(&topic, "earlier", QoS::ExactlyOnce, 1).encode(V5, out);
        retained(&topic, "later", QoS::AtLeastOnce, 2).encode(V5, out);
    });
    broker.settle();
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "puback 2"]);
    let subscriber = broker.newcomer(0, "subscriber", 2);
    broker.send(&subscriber, |out| {
        let filters = [SubscribeFilter { filter: &topic, ..SubscribeFilter::default() }];
        Subscribe::new(id(1), &filters).encode(V5, out);
    });
    broker.settle();
    let heard = broker.heard(&subscriber);
    assert_eq!(heard, ["suback 1".to_owned(), format!("publish 0 {topic}=later retained")]);
}

/// A client says goodbye while the log has no room, and is gone before there is some: no will [MQTT-3.14.4-3].
#[test]
fn a_goodbye_is_heard_without_room_in_the_log() {
    let mut broker = Broker::new(1);
    let watcher = broker.newcomer(0, "watcher", 1);
    broker.send(&watcher, subscribe("will", QoS::AtMostOnce, 1));
    let client = Client::new(&broker, 0, "client", 2);
    broker.connect(&client, |connect| {
        connect.will = Some(Will { topic: "will", payload: b"gone", ..Will::default() });
    });
    broker.settle();
    assert_eq!(broker.heard(&watcher), ["suback 1"]);
    let durable = broker.shards[0].durable.as_mut().unwrap();
    let mut payload = Vec::new();
    let kind = Record::Mark { shard: 0, number: 1 }.encode(&mut payload);
    durable.late_records.push_back((kind, payload.into()));
    broker.send(&client, |out| {
        PubAck::new(id(9), ReasonCode::Success).encode(V5, out);
        midge_codec::Disconnect::new(ReasonCode::Success).encode(V5, out);
    });
    broker.lose(&client);
    broker.later(1);
    assert_eq!(broker.heard(&watcher), Vec::<String>::new());
}

/// A QoS 0 message that waited for its client comes once, also when the process ends right after.
#[test]
fn a_queued_qos_0_message_comes_once() {
    let mut broker = Broker::with(1, Settings { queue_qos0: true, ..Settings::default() });
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(0, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::AtMostOnce, 1));
    broker.settle();
    broker.lose(&reader);
    broker.connected(&publisher);
    broker.send(&publisher, publish("a", "once", QoS::AtMostOnce, 0));
    broker.later(1);
    assert_eq!(broker.connected(&reader), ["connack 1", "publish 0 a=once"]);
    broker.power_cut(1);
    assert_eq!(broker.connected(&reader), ["connack 1"]);
}

pub(super) fn fail_syncs(broker: &mut Broker, shard: usize) {
    let faults = midge_store::memory::Faults { sync_per_million: 1_000_000, ..Default::default() };
    broker.disks[shard].set_faults(faults);
    // Whoever waits for the first failure is closed.
    let durable = broker.shards[shard].durable.as_mut().unwrap();
    let mark = Record::Mark { shard: 0, number: 1 };
    durable.note_end(&mark);
    broker.later(1);
}

pub(super) fn heal(broker: &mut Broker, shard: usize) {
    broker.disks[shard].set_faults(midge_store::memory::Faults::default());
    broker.later(2);
}

pub(super) fn pubrel(number: u16) -> impl Fn(&mut Vec<u8>) {
    move |out| PubRel::new(id(number), ReasonCode::Success).encode(V5, out)
}

/// What a log has no room for is written later, and whoever waits for it goes on then: a PUBCOMP, an UNSUBACK.
#[test]
fn an_answer_for_which_the_log_had_no_room_leaves_later() {
    let mut broker = Broker::new(1);
    let publisher = broker.newcomer(0, "publisher", 1);
    let reader = broker.newcomer(0, "reader", 2);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.send(&publisher, publish("a", "x", QoS::ExactlyOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 1"]);
    broker.heard(&reader);
    fail_syncs(&mut broker, 0);
    broker.send(&publisher, pubrel(1));
    broker.send(&reader, |out| Unsubscribe::new(id(2), &["a"]).encode(V5, out));
    broker.later(1);
    assert_eq!(broker.heard(&publisher), Vec::<String>::new());
    assert_eq!(broker.heard(&reader), Vec::<String>::new());
    heal(&mut broker, 0);
    assert_eq!(broker.heard(&publisher), ["pubcomp 1"]);
    assert_eq!(broker.heard(&reader), ["unsuback 2"]);
}

/// A PUBREC is not looked at before it can be written down: its PUBREL would promise that the message does not come again.
#[test]
fn a_pubrec_waits_for_a_disk_that_failed() {
    let mut broker = Broker::new(1);
    let publisher = broker.newcomer(0, "publisher", 1);
    let reader = broker.newcomer(0, "reader", 2);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.send(&publisher, publish("a", "x", QoS::ExactlyOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&reader), ["suback 1", "publish 2 a=x"]);
    fail_syncs(&mut broker, 0);
    broker.send(&reader, |out| PubRec::new(id(1), ReasonCode::Success).encode(V5, out));
    broker.later(1);
    assert_eq!(broker.heard(&reader), Vec::<String>::new());
    heal(&mut broker, 0);
    assert_eq!(broker.heard(&reader), ["pubrel 1"]);
}

/// A PUBREL comes again on a new connection before the first one's record is committed: so does its PUBCOMP wait.
#[test]
fn a_pubrel_that_comes_again_waits_for_the_first() {
    let mut broker = Broker::new(1);
    let publisher = broker.newcomer(0, "publisher", 1);
    let reader = broker.newcomer(0, "reader", 2);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.send(&publisher, publish("a", "x", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.heard(&publisher);
    broker.send(&publisher, pubrel(1));
    drop_connection(&mut broker, &publisher);
    broker.connect(&publisher, |_| {});
    broker.send(&publisher, pubrel(1));
    assert!(!broker.heard(&publisher).contains(&"pubcomp 1".to_owned()));
    broker.settle();
    assert!(broker.heard(&publisher).contains(&"pubcomp 1".to_owned()));
}

/// As [`Broker::lose`], with nothing committed meanwhile.
fn drop_connection(broker: &mut Broker, client: &Client) {
    let shard = &mut broker.shards[client.shard];
    shard.handle_lost(ConnectionId(client.id), broker.now);
    shard.handle_closed(ConnectionId(client.id), broker.now);
}

/// One shard's log does what it can, and no shard hears of another.
pub(super) fn commit_alone(broker: &mut Broker, shard: usize) {
    let (shard, disk) = (&mut broker.shards[shard], &mut broker.disks[shard]);
    loop {
        while let Some((id, operation)) = shard.poll_log_operation() {
            disk.submit(id, operation);
        }
        let Some((id, completion)) = disk.poll_completion() else { break };
        shard.handle_log_completion(id, completion, broker.now);
    }
}

/// A shared filter whose chooser is a shard, and its topic.
pub(super) fn group_of(shard: usize) -> (String, String) {
    let mut texts = (0..).map(|n| (format!("$share/g/{n}"), n.to_string()));
    texts.find(|(text, _)| crate::envelope::chooser(text, 2).index() == shard).unwrap()
}

pub(super) fn join(broker: &mut Broker, client: &Client, group: &str) {
    broker.connected(client);
    broker.send(client, |out| {
        let qos = QoS::ExactlyOnce;
        let filters = [SubscribeFilter { filter: group, qos, ..SubscribeFilter::default() }];
        Subscribe::new(id(1), &filters).encode(V5, out);
    });
    broker.settle();
    assert_eq!(broker.heard(client), ["suback 1"]);
}

/// Two shards choose for each other's members at the same time: neither waits for the other for ever.
#[test]
fn two_shards_that_choose_for_each_other_come_to_an_end() {
    let mut broker = Broker::new(2);
    let groups = [group_of(0), group_of(1)];
    let members = [1, 0].map(|at| Client::new(&broker, at, "member", 10 + at as u32));
    for (member, (group, _)) in members.iter().zip(&groups) {
        join(&mut broker, member, group);
    }
    let publishers = [0, 1].map(|at| Client::new(&broker, at, "publisher", 20 + at as u32));
    for publisher in &publishers {
        broker.connected(publisher);
    }
    for (publisher, (_, topic)) in publishers.iter().zip(groups.iter().rev()) {
        broker.send(publisher, |out| message(topic, "x", QoS::AtLeastOnce, 1).encode(V5, out));
    }
    broker.settle();
    for publisher in &publishers {
        assert_eq!(broker.heard(publisher), ["puback 1"]);
    }
}

/// A QoS 2 publication comes again while a member's shard has not taken the first: the PUBREC waits for it.
#[test]
fn a_publication_that_comes_again_waits_for_what_the_first_waits_for() {
    let mut broker = Broker::new(2);
    let (group, topic) = group_of(0);
    let member = Client::new(&broker, 1, "member", 1);
    join(&mut broker, &member, &group);
    let publisher = broker.newcomer(0, "publisher", 2);
    let say = |out: &mut Vec<u8>| message(&topic, "x", QoS::ExactlyOnce, 1).encode(V5, out);
    broker.send(&publisher, say);
    drop_connection(&mut broker, &publisher);
    broker.connect(&publisher, |_| {});
    broker.send(&publisher, say);
    commit_alone(&mut broker, 0);
    assert!(!broker.heard(&publisher).contains(&"pubrec 1".to_owned()));
    broker.settle();
    assert_eq!(broker.heard(&publisher), ["pubrec 1"]);
    assert_eq!(broker.heard(&member), [format!("publish 2 {topic}=x")]);
}

/// What was handed on is taken by the other shard when its disk has room again, and once; QoS 0 goes on meanwhile.
#[test]
fn what_was_handed_on_waits_for_the_other_shards_disk() {
    let mut broker = Broker::new(2);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(1, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.connected(&publisher);
    broker.heard(&reader);
    fail_syncs(&mut broker, 1);
    broker.send(&publisher, publish("a", "first", QoS::ExactlyOnce, 1));
    broker.send(&publisher, publish("a", "second", QoS::ExactlyOnce, 2));
    broker.send(&publisher, publish("a", "zero", QoS::AtMostOnce, 0));
    broker.later(1);
    assert_eq!(broker.heard(&publisher), Vec::<String>::new());
    assert_eq!(broker.heard(&reader), ["publish 0 a=zero"]);
    heal(&mut broker, 1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "pubrec 2"]);
    assert_eq!(broker.heard(&reader), ["publish 2 a=first", "publish 2 a=second"]);
}

/// A QoS 2 publication that cannot be kept reaches nobody, so that it comes once when it is published again; and nothing of it
/// is taken for a part of what comes next.
#[test]
fn what_is_refused_at_qos_2_reaches_nobody() {
    let mut broker = Broker::new(2);
    let once = Client::new(&broker, 0, "once", 1);
    let zero = Client::new(&broker, 0, "zero", 2);
    let there = Client::new(&broker, 1, "there", 3);
    let publisher = Client::new(&broker, 0, "publisher", 4);
    for (client, qos) in
        [(&once, QoS::ExactlyOnce), (&zero, QoS::AtMostOnce), (&there, QoS::AtLeastOnce)]
    {
        broker.connected(client);
        broker.send(client, subscribe("a", qos, 1));
        broker.settle();
        broker.heard(client);
    }
    broker.connected(&publisher);
    fail_syncs(&mut broker, 0);
    broker.send(&publisher, publish("a", "x", QoS::ExactlyOnce, 1));
    let opening = &broker.shards[0].durable.as_ref().unwrap().opening;
    assert!(opening.targets.is_empty() && opening.origin.is_none());
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1"], "with 0x97");
    for client in [&once, &zero, &there] {
        assert_eq!(broker.heard(client), Vec::<String>::new());
    }
    heal(&mut broker, 0);
    broker.send(&publisher, publish("a", "x", QoS::ExactlyOnce, 1));
    broker.settle();
    assert_eq!(broker.heard(&once), ["publish 2 a=x"]);
    assert_eq!(broker.heard(&zero), ["publish 0 a=x"]);
    assert_eq!(broker.heard(&there), ["publish 1 a=x"]);
}

/// A QoS 2 publication goes to a subscription of QoS 0 once it is committed that it has come, here and on another shard: its
/// publisher, who has heard nothing, sends it again after a crash.
#[test]
fn a_qos_2_publication_comes_once_to_a_subscription_of_qos_0() {
    for away in [0, 1] {
        let mut broker = Broker::new(2);
        let publisher = Client::new(&broker, 0, "publisher", 2);
        let reader = broker.newcomer(away, "reader", 1);
        broker.send(&reader, subscribe("a", QoS::AtMostOnce, 1));
        broker.connected(&publisher);
        broker.heard(&reader);
        let mut copies = 0;
        broker.send(&publisher, publish("a", "x", QoS::ExactlyOnce, 1));
        loop {
            let heard = broker.heard(&reader);
            copies += heard.iter().filter(|word| word.starts_with("publish")).count();
            if copies > 0 || !broker.step() {
                break;
            }
        }
        assert_eq!(copies, 1);
        broker.power_cut(1);
        let heard = broker.connected(&reader);
        assert_eq!(heard, ["connack 1"]);
        broker.connected(&publisher);
        broker.send(&publisher, |out| {
            let again = message("a", "x", QoS::ExactlyOnce, 1);
            Publish { dup: true, ..again }.encode(V5, out);
        });
        broker.settle();
        assert_eq!(broker.heard(&publisher), ["pubrec 1"]);
        assert_eq!(broker.heard(&reader), Vec::<String>::new(), "reader on shard {away}");
    }
}

/// A retained message at QoS 0 that the disk does not take is not kept, and neither is the one before it
/// [MQTT-3.3.1-7 @3.1.1].
#[test]
fn a_retained_message_that_is_not_kept_leaves_no_earlier_one() {
    let mut broker = Broker::new(1);
    let publisher = broker.newcomer(0, "publisher", 1);
    broker.send(&publisher, |out| retained("r", "old", QoS::AtLeastOnce, 1).encode(V5, out));
    broker.settle();
    fail_syncs(&mut broker, 0);
    broker.send(&publisher, |out| retained("r", "new", QoS::AtMostOnce, 0).encode(V5, out));
    heal(&mut broker, 0);
    for _ in 0..2 {
        let reader = broker.newcomer(0, "reader", 2);
        broker.send(&reader, subscribe("r", QoS::AtLeastOnce, 1));
        broker.settle();
        assert_eq!(broker.heard(&reader), ["suback 1"]);
        broker.power_cut(1);
    }
}

/// A client comes back with another Session Expiry Interval: it is told so once a crash does not bring the earlier one back.
#[test]
fn a_changed_session_expiry_is_committed_before_the_connack() {
    let mut broker = Broker::new(1);
    let client = broker.newcomer(0, "client", 1);
    broker.lose(&client);
    broker.later(1);
    broker.connect(&client, |connect| {
        connect.properties.session_expiry_interval_seconds = Some(1);
    });
    assert_eq!(broker.heard(&client), Vec::<String>::new());
    broker.settle();
    assert_eq!(broker.heard(&client), ["connack 1"]);
    broker.power_cut(0);
    broker.later(3);
    assert_eq!(broker.connected(&client), ["connack 0"]);
}

/// A message that expired while it waited for another shard's disk is not delivered [MQTT-3.3.2-5].
#[test]
fn what_expires_while_it_waits_for_a_disk_is_not_delivered() {
    let mut broker = Broker::new(2);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(1, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.connected(&publisher);
    broker.heard(&reader);
    fail_syncs(&mut broker, 1);
    broker.send(&publisher, |out| {
        let mut publish = message("a", "x", QoS::ExactlyOnce, 1);
        publish.properties.message_expiry_interval_seconds = Some(1);
        publish.encode(V5, out);
    });
    broker.later(2);
    heal(&mut broker, 1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1"]);
    assert_eq!(broker.heard(&reader), Vec::<String>::new());
}

/// The last member of a group is gone, and the process ends before the group's chooser hears of it: what waited for a member goes
/// with the next start, and the filter with it.
#[test]
fn a_group_that_nobody_joins_again_goes() {
    let queue = QueueLimits { messages_max: 1, bytes_max: usize::MAX };
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
    assert_eq!(broker.heard(&publisher), ["puback 1", "puback 2", "puback 3"]);
    assert_eq!(broker.shards[0].groups.kept_messages().len(), 2);
    broker.power_cut(1);
    assert_eq!(broker.shards[0].groups.kept_messages().len(), 2, "its member has joined again");
    broker.connect(&member, |connect| connect.clean_start = true);
    commit_alone(&mut broker, 1);
    broker.power_cut(1);
    assert_eq!(broker.shards[0].groups.len(), 0);
    assert_eq!(broker.shards[0].counters().dropped_no_member, 2);
    broker.later(1);
    broker.power_cut(1);
    assert_eq!(broker.shards[0].counters().dropped_no_member, 0, "the log knows it too");
}

/// A client ends its session, and its connection is lost before it hears so: it does not hear it on the next one either before a
/// crash cannot bring the session back.
#[test]
fn the_end_of_a_session_is_committed_before_any_connack_says_so() {
    let clean = |connect: &mut Connect<'_>| {
        connect.clean_start = true;
        connect.properties.session_expiry_interval_seconds = None;
    };
    for fails in [false, true] {
        let mut broker = Broker::new(1);
        let client = broker.newcomer(0, "client", 1);
        broker.lose(&client);
        broker.later(1);
        if fails {
            fail_syncs(&mut broker, 0);
        }
        for _ in 0..2 {
            broker.connect(&client, clean);
            assert_eq!(broker.heard(&client), Vec::<String>::new());
            drop_connection(&mut broker, &client);
        }
        broker.connect(&client, clean);
        if fails {
            broker.later(1);
            assert_eq!(broker.heard(&client), Vec::<String>::new());
            heal(&mut broker, 0);
        }
        broker.settle();
        assert_eq!(broker.heard(&client), ["connack 0"]);
        broker.power_cut(1);
        assert_eq!(broker.connected(&client), ["connack 0"]);
        let ended = &broker.shards[0].durable.as_ref().unwrap().ended_sessions;
        assert!(ended.by_client.is_empty() && ended.line.is_empty());
    }
}

/// A will at QoS 2 waits for the disk of another shard that has somebody who must get it: nobody publishes it again.
#[test]
fn a_will_at_qos_2_waits_for_another_shards_disk() {
    let mut broker = Broker::new(2);
    let watcher = broker.newcomer(1, "watcher", 1);
    broker.send(&watcher, subscribe("will", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.heard(&watcher);
    let client = Client::new(&broker, 0, "client", 2);
    broker.connect(&client, |connect| {
        let qos = QoS::ExactlyOnce;
        connect.will = Some(Will { topic: "will", payload: b"gone", qos, ..Will::default() });
    });
    broker.settle();
    fail_syncs(&mut broker, 1);
    broker.lose(&client);
    broker.later(1);
    assert_eq!(broker.heard(&watcher), Vec::<String>::new());
    heal(&mut broker, 1);
    assert_eq!(broker.heard(&watcher), ["publish 2 will=gone"]);
}

/// What comes from another shard while the log is busy for a moment waits in its order, whatever an earlier refusal was for.
#[test]
fn what_waits_for_a_moment_is_not_overtaken() {
    let mut broker = Broker::new(2);
    let reader = broker.newcomer(1, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::AtLeastOnce, 1));
    broker.settle();
    broker.heard(&reader);
    let client = Client::new(&broker, 1, "client", 2);
    broker.connect(&client, |connect| {
        connect.will = Some(Will { topic: "a", payload: b"gone", ..Will::default() });
        connect.will.as_mut().unwrap().qos = QoS::AtLeastOnce;
    });
    let publisher = broker.newcomer(0, "publisher", 3);
    fail_syncs(&mut broker, 1);
    // Refused for longer than a moment, with nobody to be held back for it.
    broker.lose(&client);
    heal(&mut broker, 1);
    assert_eq!(broker.heard(&reader), ["publish 1 a=gone"]);
    let mut payload = Vec::new();
    let kind = Record::Mark { shard: 0, number: 1 }.encode(&mut payload);
    broker.shards[1].durable.as_mut().unwrap().late_records.push_back((kind, payload.into()));
    for (number, payload) in [(1, "first"), (2, "second")] {
        broker.send(&publisher, |out| {
            message("a", payload, QoS::AtLeastOnce, number).encode(V5, out)
        });
        broker.exchange();
    }
    broker.later(1);
    assert_eq!(broker.heard(&reader), ["publish 1 a=first", "publish 1 a=second"]);
}

/// A retained message at QoS 0 waits while the log is busy for a moment: it is discarded for a disk that takes nothing alone.
#[test]
fn a_retained_message_at_qos_0_waits_for_a_moment() {
    let mut broker = Broker::new(1);
    let publisher = broker.newcomer(0, "publisher", 1);
    broker.send(&publisher, |out| retained("r", "old", QoS::AtLeastOnce, 1).encode(V5, out));
    broker.settle();
    broker.shards[0].durable.as_mut().unwrap().log.close();
    broker.send(&publisher, |out| retained("r", "new", QoS::AtMostOnce, 0).encode(V5, out));
    let kept = broker.shards[0].retained.kept("r").map(|(publication, _)| publication.payload());
    assert_eq!(kept, Some(&b"old"[..]));
}

/// A client is not read from because what it is to be sent waits for the disk: that is no silence of the client's
/// [MQTT-3.1.2-22].
#[test]
fn whoever_waits_for_the_disk_is_not_silent() {
    let settings = Settings { output_bytes_max: 1000, ..Settings::default() };
    let mut broker = Broker::with(1, settings);
    let client = Client::new(&broker, 0, "client", 1);
    broker.connect(&client, |connect| connect.keep_alive_seconds = 2);
    broker.send(&client, subscribe("gone", QoS::AtMostOnce, 1));
    broker.settle();
    broker.heard(&client);
    fail_syncs(&mut broker, 0);
    broker.send(&client, |out| {
        Unsubscribe::new(id(2), &["gone"]).encode(V5, out);
        (0..600).for_each(|_| midge_codec::PingReq.encode(out));
    });
    broker.later(10);
    assert_eq!(broker.heard(&client), Vec::<String>::new());
    heal(&mut broker, 0);
    let first = broker.heard(&client).len();
    broker.later(1);
    assert_eq!(first + broker.heard(&client).len(), 1 + 600);
    broker.later(4);
    assert!(broker.shards[0].sessions.iter().all(|(_, entry)| entry.connection.is_none()));
}

/// The record that ended a client's earlier session is damaged: the later session is the one that counts, and the earlier one ends
/// for good.
#[test]
fn of_two_sessions_of_a_client_the_later_one_counts() {
    let mut disk = MemoryDisk::new(1);
    let mut log = Log::create(store_settings(), LogId([1; 16]), 0);
    disk.drive(&mut log);
    let options = SubscriptionOptions::new(QoS::AtLeastOnce, false, false, None).to_bits();
    for (session, filter) in [(1, "earlier"), (2, "later")] {
        let head = SessionRecord {
            session,
            client_id: "client",
            user: None,
            expiry_interval_seconds: u32::MAX,
            away_since_ms: None,
            will: None,
        };
        for record in [Record::Session(head), Record::Subscribe { session, options, filter }] {
            let mut payload = Vec::new();
            let kind = record.encode(&mut payload);
            log.append(kind, &[&payload], Level::Fsync, midge_store::Room::Normal).unwrap();
        }
    }
    disk.drive(&mut log);
    let mut broker = Broker::on(vec![disk], store_settings());
    let client = Client { shard: 0, id: 1, client_id: "client".to_owned() };
    assert_eq!(broker.connected(&client), ["connack 1"]);
    for topic in ["earlier", "later"] {
        broker.send(&client, |out| message(topic, "x", QoS::AtMostOnce, 0).encode(V5, out));
    }
    broker.settle();
    assert_eq!(broker.heard(&client), ["publish 0 later=x"]);
    broker.lose(&client);
    broker.connect(&client, |connect| connect.properties.session_expiry_interval_seconds = None);
    broker.lose(&client);
    broker.later(1);
    broker.power_cut(1);
    assert_eq!(broker.connected(&client), ["connack 0"], "both have ended");
}

/// A new session's first connection is lost before its CONNACK can leave: the next one, which finds the session, waits for the same.
#[test]
fn a_session_that_is_found_before_it_is_committed_is_told_after_that() {
    let mut broker = Broker::new(1);
    let client = Client::new(&broker, 0, "client", 1);
    let lasting = |connect: &mut Connect<'_>| {
        connect.properties.session_expiry_interval_seconds = Some(u32::MAX);
    };
    broker.connect(&client, lasting);
    drop_connection(&mut broker, &client);
    broker.connect(&client, lasting);
    assert_eq!(broker.heard(&client), Vec::<String>::new());
    broker.settle();
    assert_eq!(broker.heard(&client), ["connack 1"]);
    // From now on it need not wait.
    drop_connection(&mut broker, &client);
    broker.connect(&client, lasting);
    assert_eq!(broker.heard(&client), ["connack 1"]);
}

/// A power cut takes the record of one message's packet id and leaves that of the next, which may have left already: they come in
/// their order all the same [MQTT-4.6.0-6].
#[test]
fn a_torn_packet_id_does_not_change_the_order() {
    let mut broker = Broker::new(1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    let reader = broker.newcomer(0, "reader", 1);
    broker.send(&reader, subscribe("a", QoS::ExactlyOnce, 1));
    broker.settle();
    broker.lose(&reader);
    broker.connected(&publisher);
    for (number, payload) in [(1, "1"), (2, "2"), (3, "3")] {
        broker.send(&publisher, publish("a", payload, QoS::AtLeastOnce, number));
        broker.settle();
    }
    broker.connect(&reader, |_| {});
    broker.later(1);
    let heard = broker.heard(&reader);
    assert_eq!(heard, ["connack 1", "publish 1 a=1", "publish 1 a=2", "publish 1 a=3"]);
    // As if it had not been on the disk yet.
    let mut disk = broker.disks[0].copy(1);
    let mut recovery = Recovery::open(&mut disk, 0, LogId([1; 16])).unwrap();
    let position = loop {
        let Some(Item::Record(position, record)) = recovery.next_item().unwrap() else { continue };
        if let Ok(Record::Assigned { packet_id: 1, .. }) =
            Record::decode(record.kind, record.payload)
        {
            break position;
        }
    };
    let at = position.offset as usize + midge_store::RECORD_HEADER_SIZE;
    drop(recovery);
    disk.file_mut(position.segment).unwrap()[at] ^= 1;
    let mut broker = Broker::on(vec![disk], store_settings());
    let mut heard = broker.connected(&reader);
    broker.later(1);
    heard.extend(broker.heard(&reader));
    assert_eq!(heard, ["connack 1", "publish 1 a=1", "publish 1 a=2", "publish 1 a=3"]);
}

/// A member leaves right after a restart, before those on other shards have joined again: what waits for the group waits on.
#[test]
fn a_group_waits_for_members_that_join_again() {
    let mut broker = Broker::new(2);
    let (group, _) = group_of(0);
    let member = Client::new(&broker, 0, "member", 1);
    join(&mut broker, &member, &group);
    broker.shards[0].durable.as_mut().unwrap().rejoining = 1;
    broker.send(&member, |out| Unsubscribe::new(id(2), &[&group]).encode(V5, out));
    broker.settle();
    assert_eq!(broker.heard(&member), ["unsuback 2"]);
    assert_eq!(broker.shards[0].groups.len(), 1);
    broker.shards[0].handle_share_rejoined();
    assert_eq!(broker.shards[0].groups.len(), 0);
}
