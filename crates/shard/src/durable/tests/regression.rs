//! Bugs in what is kept that the simulator found, each as small as it gets.

use super::*;
use crate::ids::keeper_shard;

fn retained<'a>(topic: &'a str, payload: &'a str, qos: QoS, number: u16) -> Publish<'a> {
    Publish { retain: true, ..message(topic, payload, qos, number) }
}

/// A QoS 2 publication is handed on after a restart, when cleaning has forgotten all that were handed on before: the other
/// shard must not take it for one of those.
#[test]
fn what_is_handed_on_after_cleaning_and_a_restart_is_new() {
    let mut broker = Broker::new(2);
    let subscriber = Client::new(&broker, 1, "subscriber", 1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    broker.connected(&subscriber);
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
    let reader = Client::new(&broker, 0, "reader", 3);
    broker.connected(&reader);
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
    let reader = Client::new(&broker, 0, "reader", 1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    broker.connected(&reader);
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
    let publisher = Client::new(&broker, 0, "publisher", 1);
    broker.connected(&publisher);
    broker.send(&publisher, |out| {
        retained(&topic, "earlier", QoS::ExactlyOnce, 1).encode(V5, out);
        retained(&topic, "later", QoS::AtLeastOnce, 2).encode(V5, out);
    });
    broker.settle();
    broker.later(1);
    assert_eq!(broker.heard(&publisher), ["pubrec 1", "puback 2"]);
    let subscriber = Client::new(&broker, 0, "subscriber", 2);
    broker.connected(&subscriber);
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
    let watcher = Client::new(&broker, 0, "watcher", 1);
    broker.connected(&watcher);
    broker.send(&watcher, subscribe("will", QoS::AtMostOnce, 1));
    let client = Client::new(&broker, 0, "client", 2);
    broker.connect(&client, |connect| {
        connect.will = Some(Will { topic: "will", payload: b"gone", ..Will::default() });
    });
    broker.settle();
    assert_eq!(broker.heard(&watcher), ["suback 1"]);
    let durable = broker.shards[0].durable.as_mut().unwrap();
    let mut payload = Vec::new();
    let kind = super::super::record::Record::Mark { shard: 0, number: 1 }.encode(&mut payload);
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
    let reader = Client::new(&broker, 0, "reader", 1);
    let publisher = Client::new(&broker, 0, "publisher", 2);
    broker.connected(&reader);
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
