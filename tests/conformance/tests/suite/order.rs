//! Order: what one client publishes arrives in the order it was published.

use midge_conformance::prelude::*;

/// Many messages at one QoS, to several subscribers, some through wildcards.
///
/// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT-4.6.0-5 @3.1.1] [MQTT-4.6.0-6 @3.1.1]
#[test]
fn one_publisher_many_subscribers() {
    const COUNT: u16 = 300;
    for version in each(Version::ALL) {
        for qos in each(0..=2) {
            let base = topic("base");
            let topic = format!("{base}/t");
            let mut subscribers: Vec<_> = [&*topic, &format!("{base}/+"), &format!("{base}/#")]
                .into_iter()
                .cycle()
                .take(6)
                .map(|filter| {
                    let mut subscriber = client(version);
                    subscriber.subscribe(filter, qos);
                    subscriber
                })
                .collect();
            let mut publisher = client(version);
            // In groups, so that several messages travel together and queues stay short.
            for group in 0..COUNT / 20 {
                let ids = (group * 20..(group + 1) * 20).map(|index| index + 1);
                let messages = ids.clone().flat_map(|id| {
                    let message = publish(&*topic).payload(id.to_string());
                    (if qos == 0 { message } else { message.qos(qos, id) }).encode(version)
                });
                publisher.send(messages.collect::<Vec<u8>>());
                complete(&mut publisher, qos, ids.clone());
                for subscriber in &mut subscribers {
                    for id in ids.clone() {
                        assert_eq!(subscriber.take().text(), id.to_string());
                    }
                }
            }
        }
    }
}

/// Ends the deliveries of these identifiers, whose acknowledgements may come in any order.
fn complete(publisher: &mut Client, qos: u8, ids: impl Iterator<Item = u16> + Clone) {
    let answers = |publisher: &mut Client, kind| {
        let mut left: Vec<u16> = ids.clone().collect();
        while !left.is_empty() {
            match publisher.receive() {
                Packet::Ack(ack) if ack.kind == kind && left.contains(&ack.id) => {
                    assert!(ack.code < 0x80);
                    left.retain(|id| *id != ack.id);
                }
                other => panic!("expected one of {left:?}, received {other:?}"),
            }
        }
    };
    match qos {
        0 => {}
        1 => answers(publisher, Kind::PubAck),
        _ => {
            answers(publisher, Kind::PubRec);
            for id in ids.clone() {
                publisher.send(pubrel(id));
            }
            answers(publisher, Kind::PubComp);
        }
    }
}

/// Several publishers at once: each one's messages stay in its order.
///
/// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT-4.6.0-5 @3.1.1] [MQTT-4.6.0-6 @3.1.1]
#[test]
fn many_publishers_one_subscriber() {
    for version in each(Version::NUMBERED) {
        for qos in each(0..=1) {
            let topic = topic("t");
            let mut subscriber = client(version);
            subscriber.subscribe(&topic, qos);
            let mut publishers: Vec<_> = (0..5).map(|_| client(version)).collect();
            for group in 0..8 {
                for (number, publisher) in publishers.iter_mut().enumerate() {
                    let messages = (group * 10..group * 10 + 10).flat_map(|index| {
                        let message = publish(&*topic).payload(format!("{number} {index}"));
                        (if qos == 0 { message } else { message.qos(qos, index + 1) })
                            .encode(version)
                    });
                    publisher.send(messages.collect::<Vec<u8>>());
                }
            }
            let mut next = [0_u16; 5];
            for _ in 0..5 * 80 {
                let message = subscriber.take();
                let (number, index) = message.text().split_once(' ').expect("two numbers");
                let number: usize = number.parse().expect("a number");
                assert_eq!(index, next[number].to_string(), "of publisher {number}");
                next[number] += 1;
            }
            assert_eq!(next, [80; 5]);
        }
    }
}

/// What waits for a client that is away keeps its order with what comes after it is back.
///
/// [MQTT-4.6.0-5] [MQTT-4.6.0-6 @3.1.1] [MQTT-4.5.0-1] [MQTT-4.5.0-1 @3.1.1]
#[test]
fn queued_before_live() {
    for version in each(Version::NUMBERED) {
        let (topic, hello) = (topic("t"), hello(version).persistent());
        let mut first = connect(hello.clone());
        first.subscribe(&topic, 1);
        first.leave();
        let mut publisher = client(version);
        let mut send = |range: std::ops::Range<u16>| {
            for index in range {
                publisher.deliver(publish(&*topic).qos(1, 1).payload(index.to_string()));
            }
        };
        send(0..60);
        let mut second = connect(hello);
        send(60..120);
        for index in 0..120 {
            assert_eq!(second.take().text(), index.to_string());
        }
    }
}
