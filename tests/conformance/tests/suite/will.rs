//! The Will Message: when it is published, when it is not, and as what.

use std::time::{Duration, Instant};

use midge_conformance::prelude::*;

/// A watcher of a will topic, the topic, and a CONNECT with a will for it.
fn watched(version: Version) -> (Client, String, Connect) {
    let (mut watcher, topic) = (client(version), topic("will"));
    watcher.subscribe(&topic, 2);
    let hello = hello(version).will(will(&topic, "gone"));
    (watcher, topic, hello)
}

/// A connection that just ends.
///
/// [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.2-8 @3.1.1] [MQTT-3.1.2-10 @3.1.1]
/// [MQTT-31-3.1-7 @3.1]
#[test]
fn published_when_the_connection_breaks() {
    for version in each(Version::ALL) {
        let (mut watcher, topic, hello) = watched(version);
        connect(hello).vanish();
        watcher.expect(publish(topic).payload("gone"));
        watcher.nothing_from(&mut client(version));
    }
}

/// A reset instead of an orderly end.
///
/// [MQTT-3.1.2-8] [MQTT-3.1.2-8 @3.1.1]
#[test]
fn published_when_the_connection_is_reset() {
    for version in each(Version::ALL) {
        let (mut watcher, topic, hello) = watched(version);
        let mut doomed = connect(hello);
        doomed.send(pingreq());
        // Closing with an answer still unread makes the kernel send a reset.
        watcher.ping();
        drop(doomed);
        watcher.expect(publish(topic).payload("gone"));
    }
}

/// [MQTT-3.14.4-3] [MQTT-3.1.2-10] [MQTT-3.14.4-3 @3.1.1] [MQTT-3.1.2-10 @3.1.1]
/// [MQTT-31-3.1-7 @3.1]
#[test]
fn taken_back_by_disconnect() {
    for version in each(Version::ALL) {
        let (mut watcher, _, hello) = watched(version);
        let mut polite = connect(hello.clone());
        polite.send(disconnect());
        polite.expect_closed();
        watcher.nothing_from(&mut client(version));
        // And it stays taken back when the client comes again without one.
        connect(Connect::new(version, client_id())).vanish();
        watcher.nothing_from(&mut client(version));
    }
    let (mut watcher, _, hello) = watched(Version::V5);
    connect(hello).leave_with(disconnect_with(0x00));
    watcher.nothing_from(&mut client(Version::V5));
}

/// DISCONNECT with 0x04, or with any other reason than 0x00, asks for it.
///
/// [MQTT-3.1.2-8] [MQTT-3.1.2-10]
#[test]
fn published_when_disconnect_asks_for_it() {
    for code in each([0x04, 0x80, 0x83, 0x97]) {
        let (mut watcher, topic, hello) = watched(Version::V5);
        connect(hello).leave_with(disconnect_with(code));
        watcher.expect(publish(topic).payload("gone"));
    }
}

/// [MQTT-3.1.2-8] [MQTT-3.1.2-8 @3.1.1]
#[test]
fn published_after_a_protocol_error() {
    for version in each(Version::ALL) {
        let (mut watcher, topic, hello) = watched(version);
        let mut wrong = connect(hello.clone());
        wrong.send(hello);
        wrong.expect_error(&[0x82]);
        watcher.expect(publish(topic).payload("gone"));
    }
}

/// [MQTT-3.1.2-8] [MQTT-3.1.2-8 @3.1.1] [MQTT-3.1.2-22] [MQTT-3.1.2-24 @3.1.1]
#[test]
fn published_after_silence() {
    for version in each(Version::ALL) {
        let (mut watcher, topic, hello) = watched(version);
        let _silent = connect(hello.keep_alive(1));
        watcher.expect(publish(topic).payload("gone"));
    }
}

/// Taking over ends the older connection without its DISCONNECT.
///
/// [MQTT-3.1.2-8] [MQTT-3.1.4-3] [MQTT-3.1.2-8 @3.1.1] [MQTT-3.1.4-2 @3.1.1]
#[test]
fn published_when_taken_over() {
    for version in each(Version::ALL) {
        let (mut watcher, topic, hello) = watched(version);
        let _old = connect(hello.clone());
        let new = connect(hello);
        watcher.expect(publish(&*topic).payload("gone"));
        new.leave();
        watcher.nothing_from(&mut client(version));
    }
}

/// Each QoS, retained or not.
///
/// [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT-3.1.2-12]
/// [MQTT-3.1.2-16 @3.1.1] [MQTT-3.1.2-17 @3.1.1] [MQTT-3.1.2-14 @3.1.1] [MQTT-31-3.1-7 @3.1]
#[test]
fn published_as_asked() {
    for version in each(Version::ALL) {
        for qos in each(0..=2) {
            for retained in [false, true] {
                let (mut watcher, topic, hello) = watched(version);
                let will = will(&topic, "gone").qos(qos);
                connect(hello.will(if retained { will.retain() } else { will })).vanish();
                let message = watcher.take();
                assert_eq!((message.qos, message.retain), (qos, false));
                if retained {
                    eventually("retained", || is_retained(version, &topic));
                } else {
                    assert!(!is_retained(version, &topic));
                }
            }
        }
    }
}

fn is_retained(version: Version, topic: &str) -> bool {
    let (mut later, mut publisher) = (client(version), client(version));
    later.subscribe(topic, 0);
    publisher.deliver(publish(topic).payload("live"));
    later.take().retain
}

/// An empty will that is retained removes what was retained.
///
/// [MQTT-3.1.2-15] [MQTT-3.3.1-6] [MQTT-3.1.2-17 @3.1.1] [MQTT-3.3.1-10 @3.1.1]
#[test]
fn empty_will() {
    for version in each(Version::ALL) {
        let topic = topic("will");
        client(version).deliver(publish(&*topic).qos(1, 1).payload("kept").retain());
        let (mut watcher, hello) = (client(version), hello(version));
        watcher.subscribe(&topic, 1);
        assert_eq!(watcher.take().text(), "kept");
        connect(hello.will(will(&topic, "").retain())).vanish();
        assert_eq!(watcher.take().text(), "");
        eventually("removed", || !is_retained(version, &topic));
    }
}

/// [MQTT-3.1.2-12 @3.1.1] [MQTT-3.1.2-8]
#[test]
fn no_will_no_message() {
    for version in each(Version::ALL) {
        let (mut watcher, _, hello) = watched(version);
        connect(hello.clone()).leave();
        connect(Connect::new(version, client_id())).vanish();
        watcher.nothing_from(&mut client(version));
    }
}

/// A will is of one connection: the next one without a will has none.
///
/// [MQTT-3.1.2-10] [MQTT-3.1.2-10 @3.1.1] [MQTT-3.1.2-12 @3.1.1]
#[test]
fn will_is_of_one_connection() {
    for version in each(Version::NUMBERED) {
        let (mut watcher, topic, _) = watched(version);
        let id = client_id();
        let hello = || Connect::new(version, &id).persistent();
        connect(hello().will(will(&topic, "first"))).vanish();
        assert_eq!(watcher.take().text(), "first");
        connect(hello()).vanish();
        connect(hello().will(will(&topic, "second"))).vanish();
        assert_eq!(watcher.take().text(), "second");
        watcher.nothing_from(&mut client(version));
    }
}

/// The properties of the will are those of the message.
///
/// [MQTT-3.1.3-10] [MQTT-3.1.2-9] [MQTT-3.3.2-17] [MQTT-3.3.2-18]
#[test]
fn properties_of_the_will() {
    let (mut watcher, topic, hello) = watched(Version::V5);
    let properties = [
        Property::PayloadFormat(1),
        Property::ContentType("text/plain".into()),
        Property::ResponseTopic("answer/here".into()),
        Property::CorrelationData(vec![0, 255, 7]),
        Property::user("b", "1"),
        Property::user("a", "2"),
        Property::user("b", "1"),
    ];
    let will = properties.iter().cloned().fold(will(&topic, "gone"), Will::with);
    connect(hello.will(will)).vanish();
    assert_same_properties(&watcher.take().properties, &properties);
}

/// The same properties; only user properties have an order.
fn assert_same_properties(left: &[Property], right: &[Property]) {
    let is_user = |property: &&Property| matches!(property, Property::User(_));
    let users =
        |list: &[Property]| -> Vec<Property> { list.iter().filter(is_user).cloned().collect() };
    assert_eq!(users(left), users(right));
    assert_eq!(left.len(), right.len(), "{left:?}");
    assert!(right.iter().all(|property| left.contains(property)), "{left:?}");
}

/// With a delay the will waits, and its expiry interval begins with the publication.
///
/// [MQTT-3.1.2-8] [MQTT-3.1.2-10]
#[test]
fn delayed() {
    let (mut watcher, topic, hello) = watched(Version::V5);
    let delayed =
        will(&topic, "late").with(Property::WillDelay(3)).with(Property::MessageExpiry(60));
    let doomed = connect(hello.with(Property::SessionExpiry(60)).will(delayed));
    let since = Instant::now();
    doomed.vanish();
    watcher.nothing_from(&mut client(Version::V5));
    let message = watcher.take();
    let left = property!(message.properties, MessageExpiry).expect("an interval");
    assert_eq!(message.text(), "late");
    assert!((57..=60).contains(&left), "{left}: the interval begins with the publication");
    let took = since.elapsed();
    assert!(took > Duration::from_millis(2900), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    watcher.nothing_from(&mut client(Version::V5));
}

/// [MQTT-3.1.3-9] [MQTT-3.1.2-8]
#[test]
fn delayed_and_called_off() {
    let (mut watcher, topic, hello) = watched(Version::V5);
    let hello = hello.clean(false).with(Property::SessionExpiry(60));
    let delayed = hello.will(will(&topic, "late").with(Property::WillDelay(3)));
    connect(delayed.clone()).vanish();
    let back = connect(delayed);
    assert!(back.connack().session_present);
    let_pass(4.0);
    watcher.nothing_from(&mut client(Version::V5));
    // And the will of the connection that is open now is still there to be taken back.
    back.leave();
    let_pass(3.5);
    watcher.nothing_from(&mut client(Version::V5));
}

/// A connection that takes over calls the delayed will off, too.
///
/// [MQTT-3.1.3-9] [MQTT-3.1.4-3]
#[test]
fn delayed_and_taken_over() {
    let (mut watcher, topic, hello) = watched(Version::V5);
    let hello = hello.clean(false).with(Property::SessionExpiry(60));
    let mut old = connect(hello.clone().will(will(&topic, "late").with(Property::WillDelay(1))));
    let new = connect(hello.will(will(&topic, "new").with(Property::WillDelay(30))));
    old.expect_error(&[0x8e]);
    let_pass(2.0);
    watcher.nothing_from(&mut client(Version::V5));
    new.leave();
}

/// The end of the session does not wait for the delay.
///
/// [MQTT-3.1.2-8]
#[test]
fn published_at_the_end_of_the_session() {
    // A session that ends with its connection.
    let (mut watcher, topic, hello) = watched(Version::V5);
    connect(hello.will(will(&topic, "at once").with(Property::WillDelay(3600)))).vanish();
    assert_eq!(watcher.take().text(), "at once");

    // A session that expires a second later.
    let (mut watcher, topic, hello) = watched(Version::V5);
    let delayed = will(&topic, "soon").with(Property::WillDelay(3600));
    connect(hello.with(Property::SessionExpiry(1)).will(delayed)).vanish();
    assert_eq!(watcher.take().text(), "soon");

    // A session that is discarded by a clean start.
    let (mut watcher, topic, hello) = watched(Version::V5);
    let hello = hello.with(Property::SessionExpiry(3600));
    let delayed = will(&topic, "discarded").with(Property::WillDelay(3600));
    connect(hello.clone().will(delayed)).vanish();
    let fresh = connect(hello.clean(true));
    assert_eq!(watcher.take().text(), "discarded");
    fresh.leave();
    watcher.nothing_from(&mut client(Version::V5));
}

/// DISCONNECT 0x04 keeps the delay, and may end the session instead.
///
/// [MQTT-3.1.2-8] [MQTT-4.1.0-2]
#[test]
fn disconnect_with_will_and_expiry() {
    let (mut watcher, topic, hello) = watched(Version::V5);
    let delayed = will(&topic, "at once").with(Property::WillDelay(3600));
    let client = connect(hello.with(Property::SessionExpiry(3600)).will(delayed));
    client.leave_with(disconnect_with(0x04).with(Property::SessionExpiry(0)));
    assert_eq!(watcher.take().text(), "at once");
}

/// A will goes by the rules of any message: shared groups, No Local, several subscribers.
///
/// [MQTT-3.1.2-8] [MQTT-4.5.0-1] [MQTT-3.1.2-8 @3.1.1] [MQTT-4.5.0-1 @3.1.1]
#[test]
fn reaches_all_subscribers() {
    for version in each(Version::NUMBERED) {
        let (first, topic, hello) = watched(version);
        let mut watchers: Vec<_> = (0..8)
            .map(|qos| {
                let mut watcher = client(version);
                watcher.subscribe(&topic, qos % 3);
                watcher
            })
            .collect();
        watchers.push(first);
        connect(hello.will(will(&topic, "gone").qos(1))).vanish();
        for watcher in &mut watchers {
            assert_eq!(watcher.take().text(), "gone");
        }
    }
}
