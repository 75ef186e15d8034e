//! Message expiry.

use std::ops::RangeInclusive;
use std::time::Instant;

use midge_conformance::prelude::*;

fn expiring(topic: &str, seconds: u32) -> Publish {
    publish(topic).qos(1, 1).with(Property::MessageExpiry(seconds))
}

/// What may be left of 100 seconds for a message published between `since` and two seconds ago.
fn left_of_100(since: Instant) -> RangeInclusive<u32> {
    let at_most_waited = u32::try_from(since.elapsed().as_secs()).expect("seconds") + 1;
    100 - at_most_waited..=98
}

fn left(message: &Publish) -> Option<u32> {
    property!(message.properties, MessageExpiry)
}

/// What is passed on at once has the whole interval left, and a message without one has none.
///
/// [MQTT-3.3.2-6]
#[test]
fn passed_on_at_once() {
    let topic = topic("t");
    let (mut subscriber, mut publisher) = (client(Version::V5), client(Version::V5));
    subscriber.subscribe(&topic, 1);
    for seconds in each([60, 3600, u32::MAX]) {
        publisher.deliver(expiring(&topic, seconds));
        let left = left(&subscriber.take()).expect("an interval");
        assert!((seconds - 10..=seconds).contains(&left), "{left} of {seconds}");
    }
    publisher.deliver(publish(&*topic).qos(1, 1));
    assert_eq!(left(&subscriber.take()), None);
}

/// What waited has less left; what waited too long is gone. For a queue and for a retained message.
///
/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn waiting_counts() {
    let (topic, kept) = (topic("t"), topic("kept"));
    let hello = hello(Version::V5).persistent();
    let mut first = connect(hello.clone());
    first.subscribe(&topic, 1);
    first.leave();
    let mut publisher = client(Version::V5);
    let since = Instant::now();
    for (seconds, payload) in [(1, "short"), (100, "long"), (1, "short")] {
        publisher.deliver(expiring(&topic, seconds).payload(payload));
    }
    publisher.deliver(publish(&*topic).qos(1, 1).payload("for ever"));
    publisher.deliver(expiring(&format!("{kept}/short"), 1).payload("short").retain());
    publisher.deliver(expiring(&format!("{kept}/long"), 100).payload("long").retain());
    let_pass(2.2);

    let mut second = connect(hello);
    let long = second.take();
    assert_eq!(long.text(), "long");
    assert!(left_of_100(since).contains(&left(&long).expect("an interval")), "{long:?}");
    let for_ever = second.take();
    assert_eq!((for_ever.text(), left(&for_ever)), ("for ever", None));
    second.nothing_from(&mut publisher);

    let mut later = client(Version::V5);
    later.subscribe(&format!("{kept}/+"), 1);
    let long = later.take();
    assert_eq!(long.text(), "long");
    assert!(left_of_100(since).contains(&left(&long).expect("an interval")), "{long:?}");
    later.nothing_from(&mut publisher);
}

/// Waiting for room in the client's window is waiting, too.
///
/// [MQTT-3.3.2-5]
#[test]
fn waiting_for_the_window() {
    let topic = topic("t");
    let mut subscriber = connect(hello(Version::V5).with(Property::ReceiveMaximum(1)));
    subscriber.subscribe(&topic, 1);
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(1, 1).payload("first"));
    publisher.deliver(expiring(&topic, 1).payload("expires"));
    publisher.deliver(expiring(&topic, 100).payload("last"));
    let first = subscriber.expect_publish();
    let_pass(2.2);
    subscriber.acknowledge(&first);
    assert_eq!(subscriber.take().text(), "last");
    subscriber.nothing_from(&mut publisher);
}

/// Older clients do not see the interval, and it holds for them all the same.
///
/// [MQTT-3.3.2-5]
#[test]
fn older_subscribers() {
    let topic = topic("t");
    let hello = hello(Version::V311).persistent();
    let mut first = connect(hello.clone());
    first.subscribe(&topic, 1);
    first.leave();
    let mut publisher = client(Version::V5);
    publisher.deliver(expiring(&topic, 1).payload("short"));
    publisher.deliver(expiring(&topic, 100).payload("long"));
    let_pass(2.2);
    let mut second = connect(hello);
    assert_eq!(second.take().text(), "long");
    second.nothing_from(&mut publisher);
}

/// Once it was sent it no longer expires: it comes again after a break.
///
/// [MQTT-4.3.3-7] [MQTT-4.4.0-1]
#[test]
fn sent_messages_do_not_expire() {
    let topic = topic("t");
    let hello = hello(Version::V5).persistent();
    let mut first = connect(hello.clone());
    first.subscribe(&topic, 2);
    let mut publisher = client(Version::V5);
    publisher.deliver(expiring(&topic, 3).qos(2, 1).payload("sent"));
    let sent = first.expect_publish();
    first.vanish();
    let_pass(4.2);
    let mut second = connect(hello);
    let again = second.take();
    assert_eq!((again.id, again.text(), again.dup), (sent.id, "sent", true));
}

/// The exchange with a publisher is completed although the message has expired.
///
/// [MQTT-4.3.3-13] [MQTT-4.3.3-11]
#[test]
fn exchange_is_completed_after_expiry() {
    let mut publisher = client(Version::V5);
    publisher.send(expiring(&topic("t"), 1).qos(2, 5));
    publisher.expect_success(Kind::PubRec, 5);
    let_pass(2.2);
    publisher.send(pubrel(5));
    publisher.expect(pubcomp(5));
}

/// An interval of zero: gone unless it is delivered at once.
///
/// [MQTT-3.3.2-5]
#[test]
fn zero() {
    let topic = topic("t");
    let hello = hello(Version::V5).persistent();
    let mut first = connect(hello.clone());
    first.subscribe(&topic, 1);
    first.leave();
    let mut publisher = client(Version::V5);
    publisher.deliver(expiring(&topic, 0));
    let_pass(1.2);
    let mut second = connect(hello);
    second.nothing_from(&mut publisher);
}
