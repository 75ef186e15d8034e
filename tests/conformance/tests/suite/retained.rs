//! Retained messages.

use std::collections::BTreeMap;

use midge_conformance::prelude::*;

/// Publishes a retained message at QoS 1 and waits for its acknowledgement.
fn retain(publisher: &mut Client, topic: &str, payload: &str) {
    publisher.deliver(publish(topic).qos(1, 1).payload(payload).retain());
}

/// What a new subscriber is sent before a live message that was published after it subscribed. (`None`
/// may also mean that the live one was faster: for the presence of a message use [`eventually`].)
fn retained(version: Version, topic: &str) -> Option<Publish> {
    let (mut later, mut publisher) = (client(version), client(version));
    later.subscribe(topic, 1);
    publisher.deliver(publish(topic).payload("live"));
    let first = later.take();
    if !first.retain {
        assert_eq!(first.text(), "live");
        return None;
    }
    assert_eq!(later.take().text(), "live");
    Some(first)
}

/// A subscriber that has its retained message already, so that the next one is live.
fn established(version: Version, topic: &str, publisher: &mut Client) -> Client {
    retain(publisher, topic, "before");
    let mut subscriber = client(version);
    subscriber.subscribe(topic, 1);
    assert_eq!(subscriber.take().text(), "before");
    subscriber
}

/// The last one, marked as retained, to everyone who subscribes later.
///
/// [MQTT-3.3.1-5] [MQTT-3.3.1-9]
/// [MQTT-3.3.1-5 @3.1.1] [MQTT-3.3.1-6 @3.1.1] [MQTT-3.3.1-8 @3.1.1]
#[test]
fn last_message_reaches_later_subscribers() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut publisher = client(version);
        retain(&mut publisher, &topic, "first");
        retain(&mut publisher, &topic, "last");
        for filter in each([topic.clone(), format!("{topic}/#"), topic.replace("/t", "/+")]) {
            let mut later = client(version);
            later.subscribe(&filter, 1);
            let message = later.take();
            assert_eq!(message.topic, topic);
            assert_eq!((message.text(), message.retain, message.qos), ("last", true, 1));
            later.nothing_from(&mut publisher);
        }
    }
}

/// [MQTT-3.3.1-12] [MQTT-3.3.1-9 @3.1.1]
#[test]
fn established_subscriptions_see_no_retain_flag() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut publisher = client(version);
        let mut subscriber = established(version, &topic, &mut publisher);
        retain(&mut publisher, &topic, "live");
        let message = subscriber.take();
        assert_eq!((message.text(), message.retain), ("live", false));
    }
}

/// What is published after SUBACK is a live message, and nothing else: no second copy as a retained
/// one, however soon it comes.
///
/// [MQTT-3.3.1-12] [MQTT-3.3.1-9 @3.1.1] [MQTT-4.3.3-10] [MQTT-4.3.3-2 @3.1.1]
#[test]
fn live_messages_do_not_come_again_as_retained_ones() {
    for version in each(Version::NUMBERED) {
        for _ in 0..50 {
            let topic = topic("t");
            let (mut subscriber, mut publisher) = (client(version), client(version));
            subscriber.subscribe(&topic, 2);
            publisher.deliver(publish(&*topic).qos(2, 1).payload("once").retain());
            let message = subscriber.take();
            assert_eq!((message.text(), message.retain), ("once", false));
            subscriber.nothing_from(&mut publisher);
        }
    }
}

/// An empty payload removes it, is passed on as any other message, and is not kept itself.
///
/// [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-10 @3.1.1] [MQTT-3.3.1-11 @3.1.1]
#[test]
fn empty_payload_removes() {
    for version in each(Version::ALL) {
        for qos in each([0, 1, 2]) {
            let topic = topic("t");
            let mut publisher = client(version);
            let mut subscriber = established(version, &topic, &mut publisher);
            let empty = publish(&*topic).retain();
            publisher.deliver(if qos == 0 { empty } else { empty.qos(qos, 2) });
            let passed_on = subscriber.take();
            assert_eq!((passed_on.text(), passed_on.retain), ("", false));

            // Without an acknowledgement it is removed soon, with one it is removed now.
            if qos == 0 {
                eventually("removed", || retained(version, &topic).is_none());
            }
            assert_eq!(retained(version, &topic), None);
        }
    }
}

/// Removing what is not there is no mistake.
///
/// [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-11 @3.1.1]
#[test]
fn nothing_is_removed_twice() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut publisher = client(version);
        retain(&mut publisher, &topic, "");
        retain(&mut publisher, &topic, "");
        let mut later = client(version);
        later.subscribe(&topic, 1);
        later.nothing_from(&mut publisher);
    }
}

/// [MQTT-3.3.1-8] [MQTT-3.3.1-12 @3.1.1]
#[test]
fn other_messages_change_nothing() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 1).payload("not kept"));
        let mut early = client(version);
        early.subscribe(&topic, 1);
        early.nothing_from(&mut publisher);

        retain(&mut publisher, &topic, "kept");
        publisher.deliver(publish(&*topic).qos(1, 1).payload("not kept"));
        publisher.deliver(publish(&*topic).qos(1, 1));
        let mut later = client(version);
        later.subscribe(&topic, 1);
        assert_eq!(later.take().text(), "kept");
    }
}

/// A retained message at QoS 0 takes the place of one at QoS 1.
///
/// [MQTT-3.3.1-7 @3.1.1] [MQTT-3.3.1-5]
#[test]
fn qos_0_replaces() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut publisher = client(version);
        retain(&mut publisher, &topic, "at 1");
        publisher.deliver(publish(&*topic).payload("at 0").retain());
        publisher.ping();
        eventually("replaced", || {
            let now = retained(version, &topic);
            now.is_some_and(|message| (message.text(), message.qos) == ("at 0", 0))
        });
    }
}

/// Delivered at the smaller of the published and the granted QoS.
///
/// [MQTT-3.8.4-8] [MQTT-3.8.4-6 @3.1.1] [MQTT-3.3.1-5 @3.1.1]
#[test]
fn qos_is_the_smaller_one() {
    for version in each(Version::ALL) {
        let mut publisher = client(version);
        for published in 1..=2 {
            let topic = topic("t");
            publisher.deliver(publish(&*topic).qos(published, 1).payload("x").retain());
            for granted in 0..=2 {
                let mut later = client(version);
                later.subscribe(&topic, granted);
                assert_eq!(later.take().qos, granted.min(published));
            }
        }
    }
}

/// One of each topic below a wildcard, wherever the shards keep them.
///
/// [MQTT-3.3.1-9] [MQTT-3.3.1-6 @3.1.1] [MQTT-3.3.2-3] [MQTT-3.3.2-3 @3.1.1]
#[test]
fn wildcard_subscription_receives_all() {
    for version in each(Version::ALL) {
        let base = topic("base");
        let mut publisher = client(version);
        let mut expected = BTreeMap::new();
        for index in 0..40 {
            let topic = format!("{base}/{}/{index}", index % 3);
            retain(&mut publisher, &topic, &index.to_string());
            expected.insert(topic, index.to_string());
        }
        let mut later = client(version);
        later.subscribe(&format!("{base}/+/#"), 1);
        for _ in 0..expected.len() {
            let message = later.take();
            assert!(message.retain);
            assert_eq!(expected.remove(&message.topic).as_deref(), Some(message.text()));
        }
        later.nothing_from(&mut publisher);

        let mut part = client(version);
        part.subscribe(&format!("{base}/1/+"), 0);
        for _ in 0..13 {
            assert!(part.take().topic.starts_with(&format!("{base}/1/")));
        }
        part.nothing_from(&mut publisher);
    }
}

/// A filter that begins with a wildcard sees no `$` topics among the retained ones either.
///
/// [MQTT-4.7.2-1] [MQTT-4.7.2-1 @3.1.1]
#[test]
fn dollar_topics_stay_hidden() {
    let name = topic("t").replace('/', "-");
    let mut publisher = client(Version::V5);
    retain(&mut publisher, &format!("$test/{name}"), "hidden");
    retain(&mut publisher, &format!("plain/{name}"), "seen");
    for filter in each([format!("+/{name}"), format!("+/{name}/#")]) {
        let mut later = client(Version::V5);
        later.subscribe(&filter, 0);
        assert_eq!(later.take().text(), "seen");
        later.nothing_from(&mut publisher);
    }
    let mut later = client(Version::V5);
    later.subscribe(&format!("$test/{name}"), 0);
    assert_eq!(later.take().text(), "hidden");
}

/// Subscribing again brings it again.
///
/// [MQTT-3.8.4-3 @3.1.1] [MQTT-3.8.4-4] [MQTT-3.3.1-9]
#[test]
fn subscribing_again_brings_it_again() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let (mut publisher, mut subscriber) = (client(version), client(version));
        retain(&mut publisher, &topic, "kept");
        for _ in 0..3 {
            subscriber.subscribe(&topic, 1);
            let message = subscriber.take();
            assert_eq!((message.text(), message.retain), ("kept", true));
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// Retain Handling: always, if the subscription is new, never.
///
/// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
#[test]
fn retain_handling() {
    let topic = topic("t");
    let (mut publisher, mut subscriber) = (client(Version::V5), client(Version::V5));
    retain(&mut publisher, &topic, "kept");

    let script = [
        (RETAIN_NEVER, false),
        (RETAIN_IF_NEW, false),
        (0, true),
        (RETAIN_IF_NEW, false),
        (RETAIN_NEVER, false),
        (0, true),
    ];
    for (options, arrives) in each(script) {
        subscriber.subscribe(&topic, options | 1);
        if arrives {
            assert_eq!(subscriber.take().text(), "kept");
        }
        subscriber.nothing_from(&mut publisher);
    }
    for (options, arrives) in each([(RETAIN_IF_NEW, true), (RETAIN_NEVER, false), (0, true)]) {
        subscriber.unsubscribe(&topic);
        subscriber.subscribe(&topic, options);
        if arrives {
            assert_eq!(subscriber.take().text(), "kept");
        }
        subscriber.nothing_from(&mut publisher);
    }
}

/// A subscription that a session kept is not a new one.
///
/// [MQTT-3.3.1-10]
#[test]
fn resumed_subscription_is_not_new() {
    let (topic, hello) = (topic("t"), hello(Version::V5).persistent());
    let mut publisher = client(Version::V5);
    retain(&mut publisher, &topic, "kept");
    let mut first = connect(hello.clone());
    first.subscribe(&topic, RETAIN_IF_NEW);
    assert_eq!(first.take().text(), "kept");
    first.leave();
    let mut second = connect(hello);
    second.nothing_from(&mut publisher);
    second.subscribe(&topic, RETAIN_IF_NEW);
    second.nothing_from(&mut publisher);
}

/// Retain As Published keeps the flag, both ways.
///
/// [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[test]
fn retain_as_published() {
    let topic = topic("t");
    let mut publisher = client(Version::V5);
    let (mut as_published, mut plain) = (client(Version::V5), client(Version::V5));
    as_published.subscribe(&topic, RETAIN_NEVER | RETAIN_AS_PUBLISHED | 1);
    plain.subscribe(&topic, RETAIN_NEVER | 1);
    for (payload, retained) in [("a", true), ("b", false), ("", true)] {
        let message = publish(&*topic).qos(1, 1).payload(payload);
        publisher.deliver(if retained { message.retain() } else { message });
        let (kept, cleared) = (as_published.take(), plain.take());
        assert_eq!((kept.text(), kept.retain), (payload, retained));
        assert_eq!((cleared.text(), cleared.retain), (payload, false));
    }
    // A retained message that answers a subscription has the flag either way.
    retain(&mut publisher, &topic, "kept");
    for options in each([0, RETAIN_AS_PUBLISHED]) {
        let mut later = client(Version::V5);
        later.subscribe(&topic, options);
        assert!(later.take().retain);
    }
}

/// A retained message reaches a client that is away, too, and the flag is clear then.
///
/// [MQTT-3.3.1-12] [MQTT-3.3.1-9 @3.1.1] [MQTT-4.5.0-1] [MQTT-4.5.0-1 @3.1.1]
#[test]
fn queued_messages_have_no_retain_flag() {
    for version in each(Version::NUMBERED) {
        let (topic, hello) = (topic("t"), hello(version).persistent());
        let mut first = connect(hello.clone());
        first.subscribe(&topic, 1);
        first.leave();
        retain(&mut client(version), &topic, "while away");
        let mut second = connect(hello);
        let message = second.take();
        assert_eq!((message.text(), message.retain), ("while away", false));
    }
}
