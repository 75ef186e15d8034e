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
