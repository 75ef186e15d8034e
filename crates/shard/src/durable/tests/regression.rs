//! Bugs in what is kept that the simulator found, each as small as it gets.

use super::*;
use crate::ids::keeper_shard;

fn retained<'a>(topic: &'a str, payload: &'a str, qos: QoS, number: u16) -> Publish<'a> {
    Publish { retain: true, ..message(topic, payload, qos, number) }
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
