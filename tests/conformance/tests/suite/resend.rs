//! Delivery retry: what is sent again when a client comes back, and what is not.

use midge_conformance::prelude::*;

/// A persistent subscriber that was sent these messages and has not acknowledged any.
fn with_messages_under_way(
    version: Version,
    qos: &[u8],
) -> (Connect, Client, Vec<Publish>, String) {
    let (hello, topic) = (hello(version).persistent(), topic("t"));
    let mut subscriber = connect(hello.clone());
    subscriber.subscribe(&topic, 2);
    let mut publisher = client(version);
    let mut messages = Vec::new();
    for (index, qos) in qos.iter().enumerate() {
        publisher.deliver(publish(&*topic).qos(*qos, 1).payload(format!("{index}")));
        messages.push(subscriber.expect_publish());
    }
    (hello, subscriber, messages, topic)
}

/// Everything unacknowledged again: same identifiers, same order, DUP set.
///
/// [MQTT-3.3.1-1] [MQTT-4.4.0-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3]
/// [MQTT-3.3.1-1 @3.1.1] [MQTT-4.4.0-1 @3.1.1] [MQTT-4.6.0-1 @3.1.1] [MQTT-4.3.2-1 @3.1.1]
/// [MQTT-4.3.3-1 @3.1.1] [MQTT-2.3.1-4 @3.1.1]
#[test]
fn unacknowledged_messages_come_again_in_order() {
    for version in each(Version::ALL) {
        let (hello, subscriber, messages, _) = with_messages_under_way(version, &[1, 2, 1, 1, 2]);
        subscriber.vanish();
        // Twice, because coming again changes nothing.
        for _ in 0..2 {
            let mut again = connect(hello.clone());
            for message in &messages {
                again.expect(message.clone().dup());
            }
            again.ping();
            again.vanish();
        }
        let mut last = connect(hello.clone());
        for message in &messages {
            assert_eq!(last.expect_publish(), message.clone().dup());
        }
        for message in &messages {
            last.acknowledge(message);
        }
        last.ping();
        last.vanish();
        connect(hello).ping();
    }
}

/// What was acknowledged does not come again, the rest does.
///
/// [MQTT-4.4.0-1] [MQTT-4.3.2-3] [MQTT-4.4.0-1 @3.1.1] [MQTT-4.3.2-1 @3.1.1]
#[test]
fn acknowledged_messages_do_not_come_again() {
    for version in each(Version::ALL) {
        let (hello, mut subscriber, messages, _) = with_messages_under_way(version, &[1, 1, 1, 1]);
        for index in [2, 0] {
            subscriber.acknowledge(&messages[index]);
        }
        subscriber.ping();
        subscriber.vanish();
        let mut again = connect(hello);
        for index in [1, 3] {
            again.expect(messages[index].clone().dup());
        }
        again.ping();
    }
}

/// After PUBREC it is PUBREL that comes again, and never the PUBLISH.
///
/// [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1] [MQTT-4.3.3-1 @3.1.1] [MQTT-4.4.0-1 @3.1.1]
#[test]
fn pubrel_comes_again_instead_of_the_message() {
    for version in each(Version::ALL) {
        let (hello, mut subscriber, messages, _) = with_messages_under_way(version, &[2, 2]);
        let ids: Vec<u16> = messages.iter().map(|message| message.id.expect("QoS 2")).collect();
        subscriber.send(pubrec(ids[0]));
        subscriber.expect_success(Kind::PubRel, ids[0]);
        subscriber.vanish();

        let mut again = connect(hello.clone());
        let mut packets = [again.receive(), again.receive()];
        packets.sort_by_key(|packet| matches!(packet, Packet::Publish(_)));
        assert_eq!(packets[0], pubrel(ids[0]).into());
        assert_eq!(packets[1], messages[1].clone().dup().into());
        again.ping();
        again.send(pubcomp(ids[0]));
        again.acknowledge(&messages[1]);
        again.ping();
        again.vanish();
        connect(hello).ping();
    }
}

/// On an open connection nothing is sent a second time.
///
/// [MQTT-4.4.0-1]
#[test]
fn nothing_comes_again_while_connected() {
    let (_, mut subscriber, _, _) = with_messages_under_way(Version::V5, &[1, 2]);
    let_pass(1.0);
    subscriber.ping();
    subscriber.nothing_from(&mut client(Version::V5));
}

/// A refused message is as good as acknowledged.
///
/// [MQTT-4.4.0-2]
#[test]
fn refused_messages_do_not_come_again() {
    let (hello, mut subscriber, messages, _) = with_messages_under_way(Version::V5, &[1, 2, 1]);
    let id = |index: usize| messages[index].id.expect("QoS above 0");
    subscriber.send(puback(id(0)).code(0x97));
    subscriber.send(pubrec(id(1)).code(0x80));
    subscriber.ping();
    subscriber.vanish();
    let mut again = connect(hello);
    again.expect(messages[2].clone().dup());
    again.ping();
}

/// A clean start forgets what was under way.
///
/// [MQTT-3.1.2-4] [MQTT-3.1.2-6 @3.1.1] [MQTT-4.4.0-1]
#[test]
fn clean_start_resends_nothing() {
    for version in each(Version::NUMBERED) {
        let (hello, subscriber, _, _) = with_messages_under_way(version, &[1, 2]);
        subscriber.vanish();
        connect(hello.clean(true)).ping();
    }
}

/// The broker remembers a QoS 2 identifier over a broken connection.
///
/// [MQTT-4.3.3-10] [MQTT-4.3.3-2 @3.1.1] [MQTT-4.1.0-1]
#[test]
fn qos_2_from_a_client_is_exactly_once_over_a_break() {
    for version in each(Version::ALL) {
        let topic = topic("t");
        let mut subscriber = client(version);
        subscriber.subscribe(&topic, 2);
        let hello = hello(version).persistent();
        let message = publish(&*topic).qos(2, 9).payload("once");

        let mut publisher = connect(hello.clone());
        publisher.send(&message);
        publisher.expect_success(Kind::PubRec, 9);
        publisher.vanish();

        let mut publisher = connect(hello.clone());
        publisher.send(message.clone().dup());
        publisher.expect_success(Kind::PubRec, 9);
        publisher.send(pubrel(9));
        publisher.vanish();

        let mut publisher = connect(hello);
        publisher.send(pubrel(9));
        publisher.expect_ack(Kind::PubComp, 9);
        assert_eq!(subscriber.take().text(), "once");
        subscriber.nothing_from(&mut publisher);
    }
}

/// New messages wait behind those that come again.
///
/// [MQTT-4.6.0-1 @3.1.1] [MQTT-4.6.0-6 @3.1.1] [MQTT-4.6.0-5] [MQTT-4.4.0-1]
#[test]
fn new_messages_come_after_the_old_ones() {
    for version in each(Version::NUMBERED) {
        let (hello, subscriber, messages, topic) = with_messages_under_way(version, &[1, 1]);
        subscriber.vanish();
        let mut publisher = client(version);
        publisher.deliver(publish(&*topic).qos(1, 1).payload("new"));
        let mut again = connect(hello);
        for message in &messages {
            again.expect(message.clone().dup());
        }
        let new = again.take();
        assert_eq!((new.text(), new.dup), ("new", false));
        assert!(!messages.iter().any(|message| message.id == new.id), "still in use");
    }
}
