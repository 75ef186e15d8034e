//! Several subscriptions of one client that match one message.
//!
//! The broker may send one copy for all of them or one for each; both are read here.

use midge_conformance::prelude::*;

/// All messages until a marker from the same publisher.
fn all_until_marker(subscriber: &mut Client, publisher: &mut Client) -> Vec<Publish> {
    let marker = topic("marker");
    subscriber.subscribe(&marker, 0);
    publisher.send(publish(&*marker));
    let mut messages = Vec::new();
    loop {
        let message = subscriber.take();
        if message.topic == marker {
            return messages;
        }
        messages.push(message);
    }
}

/// [MQTT-3.3.4-2] [MQTT-3.3.5-1 @3.1.1]
#[test]
fn highest_qos_of_all_matches() {
    for version in each(Version::ALL) {
        let base = topic("base");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        subscriber.subscribe(&format!("{base}/#"), 0);
        subscriber.subscribe(&format!("{base}/+"), 2);
        subscriber.subscribe(&format!("{base}/a"), 1);
        for published in [2, 1] {
            publisher.deliver(publish(format!("{base}/a")).qos(published, 1));
            let copies = all_until_marker(&mut subscriber, &mut publisher);
            assert!((1..=3).contains(&copies.len()), "{copies:?}");
            assert_eq!(copies.iter().map(|copy| copy.qos).max(), Some(published));
        }
    }
}

/// The identifiers of all matching subscriptions arrive, and no others.
///
/// [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]
#[test]
fn identifiers_of_all_matches() {
    let base = topic("base");
    let (mut subscriber, mut publisher) = (client(Version::V5), client(Version::V5));
    let filters =
        [("#", Some(1)), ("+", Some(20)), ("a", Some(300)), ("b", Some(4)), ("+/#", None)];
    for (filter, id) in filters {
        let packet = subscribe(7).filter(format!("{base}/{filter}"), 1);
        let packet = id.map(Property::SubscriptionId).into_iter().fold(packet, Subscribe::with);
        assert_eq!(subscriber.subscribe_with(packet).codes, [1]);
    }
    for (part, expected) in
        each([("a", vec![1, 20, 300]), ("b", vec![1, 4, 20]), ("c", vec![1, 20])])
    {
        publisher.deliver(publish(format!("{base}/{part}")).qos(1, 1));
        let copies = all_until_marker(&mut subscriber, &mut publisher);
        let mut ids: Vec<u32> = copies
            .iter()
            .flat_map(|copy| &copy.properties)
            .map(|property| match property {
                Property::SubscriptionId(id) => *id,
                other => panic!("{other:?} was never published"),
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, expected);
    }
}

/// One subscription is gone, the others go on.
///
/// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.3.4-2] [MQTT-3.10.4-1 @3.1.1] [MQTT-3.3.5-1 @3.1.1]
#[test]
fn unsubscribing_one_of_several() {
    for version in each(Version::ALL) {
        let base = topic("base");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        let filters = [("a", 2), ("+", 1), ("#", 0)];
        for (filter, qos) in filters {
            subscriber.subscribe(&format!("{base}/{filter}"), qos);
        }
        for (filter, qos) in filters {
            publisher.deliver(publish(format!("{base}/a")).qos(2, 1));
            let copies = all_until_marker(&mut subscriber, &mut publisher);
            assert_eq!(copies.iter().map(|copy| copy.qos).max(), Some(qos));
            subscriber.unsubscribe(&format!("{base}/{filter}"));
        }
        publisher.deliver(publish(format!("{base}/a")).qos(2, 1));
        subscriber.nothing_from(&mut publisher);
    }
}

/// No Local on one subscription does not silence another one.
///
/// [MQTT-3.8.3-3] [MQTT-3.3.4-3]
#[test]
fn no_local_beside_a_plain_subscription() {
    let base = topic("base");
    let mut subscriber = client(Version::V5);
    let local =
        subscribe(1).filter(format!("{base}/#"), NO_LOCAL).with(Property::SubscriptionId(1));
    let plain = subscribe(2).filter(format!("{base}/a"), 0).with(Property::SubscriptionId(2));
    subscriber.subscribe_with(local);
    subscriber.subscribe_with(plain);
    subscriber.send(publish(format!("{base}/a")));
    assert_eq!(subscriber.take().properties, [Property::SubscriptionId(2)]);
    subscriber.send(publish(format!("{base}/b")));
    subscriber.nothing_from(&mut client(Version::V5));
}
