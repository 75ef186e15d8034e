//! Sessions: how they start, what they hold, when they end.

use midge_conformance::prelude::*;

fn session_present(client: &Client) -> bool {
    client.connack().session_present
}

/// [MQTT-3.1.2-4] [MQTT-3.1.4-4] [MQTT-3.2.2-2]
/// [MQTT-3.1.2-6 @3.1.1] [MQTT-3.1.4-3 @3.1.1] [MQTT-3.2.2-1 @3.1.1]
#[test]
fn clean_start_discards_the_session() {
    for version in each(Version::NUMBERED) {
        let (hello, topic) = (hello(version).persistent(), topic("t"));
        let mut first = connect(hello.clone());
        first.subscribe(&topic, 1);
        first.leave();

        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 1).payload("queued"));

        let mut clean = connect(hello.clone().clean(true));
        assert!(!session_present(&clean));
        publisher.deliver(publish(&*topic).payload("live"));
        clean.nothing_from(&mut publisher);
    }
}

/// What a clean session held is gone with its connection.
///
/// [MQTT-3.1.2-6 @3.1.1] [MQTT-3.2.2-3 @3.1.1] [MQTT-3.1.2-6] [MQTT-3.2.2-3]
#[test]
fn clean_session_leaves_nothing() {
    for version in each(Version::NUMBERED) {
        let (hello, topic) = (hello(version), topic("t"));
        let mut clean = connect(hello.clone());
        clean.subscribe(&topic, 1);
        clean.leave();

        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 1));
        let mut next = connect(hello.clean(false));
        assert!(!session_present(&next));
        next.nothing_from(&mut publisher);
    }
}

/// [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.2-23] [MQTT-3.2.2-3] [MQTT-4.5.0-1]
/// [MQTT-3.1.2-4 @3.1.1] [MQTT-3.1.2-5 @3.1.1] [MQTT-3.2.2-2 @3.1.1] [MQTT-3.2.2-3 @3.1.1]
/// [MQTT-4.5.0-1 @3.1.1] [MQTT-4.1.0-1 @3.1.1]
#[test]
fn session_is_resumed_with_what_was_missed() {
    for version in each(Version::NUMBERED) {
        let (hello, topic) = (hello(version).persistent(), topic("t"));
        let mut first = connect(hello.clone());
        assert!(!session_present(&first));
        first.subscribe(&topic, 2);
        first.leave();

        let mut publisher = client(version);
        for (index, qos) in [1, 2, 1, 2, 2, 1].into_iter().enumerate() {
            publisher.deliver(publish(&*topic).qos(qos, 7).payload(format!("{index}")));
        }

        let mut second = connect(hello.clone());
        assert!(session_present(&second));
        for (index, qos) in [1, 2, 1, 2, 2, 1].into_iter().enumerate() {
            let message = second.take();
            assert_eq!((message.text(), message.qos), (&*index.to_string(), qos));
            assert!(!message.dup, "sent for the first time [MQTT-3.3.1-1]");
        }
        second.nothing_from(&mut publisher);
        second.vanish();
        assert!(session_present(&connect(hello)), "also after a broken connection");
    }
}

/// The same session whichever version the client speaks.
///
/// [MQTT-3.1.2-5] [MQTT-3.1.2-4 @3.1.1] [MQTT-3.1.3-2] [MQTT-3.1.3-2 @3.1.1]
#[test]
fn session_outlives_a_change_of_version() {
    let (id, topic) = (client_id(), topic("t"));
    let mut old = connect(Connect::new(Version::V311, &id).persistent());
    old.subscribe(&topic, 1);
    old.leave();
    client(Version::V5).deliver(publish(&*topic).qos(1, 1).payload("x"));
    let mut new = connect(Connect::new(Version::V5, &id).persistent());
    assert!(session_present(&new));
    assert_eq!(new.take().text(), "x");
}

/// [MQTT-3.1.3-2] [MQTT-3.1.3-2 @3.1.1]
#[test]
fn sessions_belong_to_client_ids() {
    for version in each(Version::NUMBERED) {
        let (one, two, topic) = (client_id(), client_id(), topic("t"));
        let hello = |id: &str| Connect::new(version, id).persistent();
        let mut first = connect(hello(&one));
        first.subscribe(&topic, 1);
        first.leave();
        assert!(!session_present(&connect(hello(&two))));
        assert!(!session_present(&connect(hello(&one.to_uppercase()))), "case matters");
        assert!(session_present(&connect(hello(&one))));
    }
}

/// Taking over keeps the session, and what was under way goes on.
///
/// [MQTT-3.1.2-5] [MQTT-3.1.4-3] [MQTT-4.1.0-1] [MQTT-4.1.0-2 @3.1.1] [MQTT-3.1.2-4 @3.1.1]
#[test]
fn session_goes_on_in_the_newer_connection() {
    for version in each(Version::NUMBERED) {
        let (hello, topic) = (hello(version).persistent(), topic("t"));
        let mut publisher = client(version);
        let mut old = connect(hello.clone());
        old.subscribe(&topic, 1);
        publisher.deliver(publish(&*topic).qos(1, 1).payload("unacknowledged"));
        old.expect_publish();

        let mut new = connect(hello);
        assert!(session_present(&new));
        let again = new.take();
        assert_eq!((again.text(), again.dup), ("unacknowledged", true));
        publisher.deliver(publish(&*topic).qos(1, 2).payload("next"));
        assert_eq!(new.take().text(), "next");
        old.expect_error(&[0x8e]);
    }
}

/// Without an interval, or with zero, the session ends with the connection.
///
/// [MQTT-4.1.0-2] [MQTT-3.1.2-23] [MQTT-3.2.2-3]
#[test]
fn session_without_expiry_ends_at_once() {
    for expiry in each([None, Some(0)]) {
        let id = client_id();
        let hello = || {
            expiry
                .into_iter()
                .map(Property::SessionExpiry)
                .fold(Connect::new(Version::V5, &id).clean(false), Connect::with)
        };
        connect(hello()).leave();
        let again = connect(hello());
        assert!(!session_present(&again));
        again.vanish();
        assert!(!session_present(&connect(hello())));
    }
}

/// [MQTT-4.1.0-2] [MQTT-3.1.2-23]
#[test]
fn session_expires() {
    let (hello, topic) = (hello(Version::V5).clean(false), topic("t"));
    let with = |seconds| hello.clone().with(Property::SessionExpiry(seconds));
    let mut first = connect(with(3));
    first.subscribe(&topic, 1);
    first.vanish();
    let second = connect(with(3));
    assert!(session_present(&second), "before the interval has passed");
    let_pass(3.5);
    second.vanish();
    let third = connect(with(3));
    assert!(session_present(&third), "the interval counts from the end of the connection");
    third.vanish();
    let_pass(4.5);
    let mut fourth = connect(with(u32::MAX));
    assert!(!session_present(&fourth), "after the interval has passed");

    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(1, 1));
    fourth.nothing_from(&mut publisher);
    fourth.leave();
    let_pass(1.5);
    assert!(session_present(&connect(with(0))), "the largest interval is for ever");
}

/// DISCONNECT may change the interval, except from zero.
///
/// [MQTT-4.1.0-2] [MQTT-3.1.2-23]
#[test]
fn disconnect_changes_the_expiry() {
    let hello = hello(Version::V5).clean(false);
    let with = |seconds| hello.clone().with(Property::SessionExpiry(seconds));
    let leave = |client: Client, seconds| {
        client.leave_with(disconnect().with(Property::SessionExpiry(seconds)));
    };
    leave(connect(with(60)), 0);
    let second = connect(with(60));
    assert!(!session_present(&second), "shortened to nothing");
    leave(second, 1);
    let_pass(2.5);
    let third = connect(with(1));
    assert!(!session_present(&third), "shortened to a second");
    leave(third, 60);
    let_pass(2.5);
    assert!(session_present(&connect(with(0))), "made longer");
}

/// [MQTT-4.13.1-1]
#[test]
fn disconnect_must_not_revive_the_session() {
    for hello in each([hello(Version::V5), hello(Version::V5).with(Property::SessionExpiry(0))]) {
        let mut client = connect(hello);
        client.send(disconnect().with(Property::SessionExpiry(5)));
        client.expect_error(&[0x82]);
    }
}

/// Retained messages are not part of a session.
///
/// [MQTT-3.1.2-7 @3.1.1]
#[test]
fn retained_messages_outlive_the_session() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 1).payload("kept").retain());
        publisher.leave();
        let mut later = client(version);
        later.subscribe(&topic, 0);
        assert_eq!(later.take().text(), "kept");
    }
}

/// QoS 0 while away is nobody's promise, but what it does must not break the rest.
///
/// [MQTT-3.1.2-5 @3.1.1] [MQTT-4.5.0-1 @3.1.1] [MQTT-4.5.0-1]
#[test]
fn queue_holds_qos_1_between_qos_0() {
    for version in each(Version::NUMBERED) {
        let (hello, topic) = (hello(version).persistent(), topic("t"));
        let mut first = connect(hello.clone());
        first.subscribe(&topic, 1);
        first.leave();
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).payload("zero"));
        publisher.deliver(publish(&*topic).qos(1, 1).payload("one"));
        publisher.deliver(publish(&*topic).payload("zero"));
        publisher.deliver(publish(&*topic).qos(1, 2).payload("two"));
        let mut second = connect(hello);
        let mut promised = Vec::new();
        while promised.len() < 2 {
            let message = second.take();
            if message.qos == 1 {
                promised.push(message.text().to_owned());
            }
        }
        assert_eq!(promised, ["one", "two"]);
    }
}

/// A subscription made by a session is still there after it resumed, and goes when it is ended.
///
/// [MQTT-3.1.2-5] [MQTT-3.1.2-4 @3.1.1] [MQTT-4.1.0-1] [MQTT-4.1.0-1 @3.1.1]
#[test]
fn subscriptions_are_part_of_the_session() {
    for version in each(Version::NUMBERED) {
        let (hello, topic) = (hello(version).persistent(), topic("t"));
        let mut first = connect(hello.clone());
        first.subscribe(&format!("{topic}/+"), 1);
        first.subscribe(&topic, 0);
        first.unsubscribe(&topic);
        first.vanish();

        let mut second = connect(hello);
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).payload("unsubscribed before"));
        publisher.deliver(publish(format!("{topic}/x")).payload("subscribed before"));
        assert_eq!(second.take().text(), "subscribed before");
        second.nothing_from(&mut publisher);
    }
}
