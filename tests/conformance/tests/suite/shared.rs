//! Shared subscriptions, from every version.

use midge_conformance::prelude::*;

fn members(count: usize, versions: &[Version], filter: &str, qos: u8) -> Vec<Client> {
    let versions = versions.iter().cycle().take(count);
    versions
        .map(|version| {
            let mut member = client(*version);
            member.subscribe(filter, qos);
            member
        })
        .collect()
}

/// The payloads each member received, once it was `count` in all.
///
/// A message to a shared subscription may take another way through the broker than one to a plain
/// subscription, so no marker is waited for but the count; then nothing more may be under way.
fn received(members: &mut [Client], publisher: &mut Client, count: usize) -> Vec<Vec<u32>> {
    let mut payloads = vec![Vec::new(); members.len()];
    eventually("all messages arrived", || {
        for (member, payloads) in members.iter_mut().zip(&mut payloads) {
            while let Some(message) = member.take_soon() {
                payloads.push(message.text().parse().expect("a number"));
            }
        }
        payloads.iter().map(Vec::len).sum::<usize>() >= count
    });
    members.iter_mut().for_each(|member| member.nothing_from(publisher));
    assert_eq!(payloads.iter().map(Vec::len).sum::<usize>(), count, "{payloads:?}");
    payloads
}

/// Each message to exactly one member, in order for each member.
///
/// [MQTT-4.8.2-1] [MQTT-4.8.2-2] [MQTT-4.8.2-3]
#[test]
fn each_message_to_one_member() {
    let mixes: [&[Version]; 3] =
        [&[Version::V5], &[Version::V311], &[Version::V5, Version::V311, Version::V31]];
    for versions in each(mixes) {
        for qos in each([0, 1, 2]) {
            let topic = topic("t");
            let mut members = members(5, versions, &format!("$share/group/{topic}"), qos);
            let mut publisher = client(Version::V5);
            for index in 0..60 {
                let message = publish(&*topic).payload(format!("{index}"));
                publisher.deliver(if qos == 0 { message } else { message.qos(qos, 1) });
            }
            let received = received(&mut members, &mut publisher, 60);
            for payloads in &received {
                assert!(payloads.is_sorted(), "{received:?}");
            }
            let busy = received.iter().filter(|payloads| !payloads.is_empty()).count();
            assert!(busy > 1, "the work is shared: {received:?}");
            let mut all: Vec<u32> = received.into_iter().flatten().collect();
            all.sort_unstable();
            assert_eq!(all, (0..60).collect::<Vec<_>>());
        }
    }
}

/// Other groups and plain subscriptions of the same filter have their own copy.
///
/// [MQTT-4.8.2-1] [MQTT-4.5.0-1]
#[test]
fn groups_are_independent() {
    for version in each(Version::NUMBERED) {
        let topic = topic("t");
        let filters = [
            format!("$share/one/{topic}"),
            format!("$share/two/{topic}"),
            format!("$share/one/{topic}/#"),
            topic.clone(),
        ];
        let mut publisher = client(version);
        let mut clients: Vec<_> =
            filters.iter().flat_map(|filter| members(2, &[version], filter, 1)).collect();
        for index in 0..20 {
            publisher.deliver(publish(&*topic).qos(1, 1).payload(format!("{index}")));
        }
        let received = received(&mut clients, &mut publisher, 3 * 20 + 2 * 20);
        for group in received[..6].chunks(2) {
            assert_eq!(group.iter().map(Vec::len).sum::<usize>(), 20, "{received:?}");
        }
        assert!(received[6..].iter().all(|payloads| payloads.len() == 20), "{received:?}");
    }
}

/// Wildcards work in the filter behind the share name.
///
/// [MQTT-4.8.2-2]
#[test]
fn shared_wildcards() {
    let base = topic("base");
    let mut members = members(3, &[Version::V5], &format!("$share/g/{base}/+/x"), 0);
    let mut publisher = client(Version::V5);
    for index in 0..30 {
        publisher.deliver(publish(format!("{base}/{index}/x")).payload(format!("{index}")));
        publisher.deliver(publish(format!("{base}/{index}/y")).payload("999"));
    }
    let mut all: Vec<u32> =
        received(&mut members, &mut publisher, 30).into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<_>>());
}

/// A share name is there, is not empty, has no wildcards, and a filter follows it.
///
/// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn malformed_shared_filters() {
    let filters = [
        "$share/",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/#/a",
        "$share/g#/a",
        "$share/a+b/a",
        "$share/g/a/#/b",
        "$share/g/a+",
    ];
    let mut witness = client(Version::V5);
    for version in each(Version::NUMBERED) {
        for filter in each(filters) {
            let mut client = client(version);
            client.send(subscribe(1).filter(filter, 0));
            expect_filter_refused(&mut client);
        }
    }
    witness.ping();
}

/// Either the SUBACK refuses the filter or the connection ends.
fn expect_filter_refused(client: &mut Client) {
    match client.receive_or_end() {
        None => {}
        Some(Packet::SubAck(suback)) => {
            assert!([0x80, 0x8f].contains(&suback.codes[0]), "{suback:02x?}");
            client.ping();
        }
        Some(Packet::Disconnect(disconnect)) => {
            let code = disconnect.code.expect("read from the wire");
            assert!([0x81, 0x82, 0x8f].contains(&code), "{disconnect:02x?}");
            client.expect_closed();
        }
        Some(other) => panic!("{other:?}"),
    }
}

/// Each member has the QoS it was granted.
///
/// [MQTT-4.8.2-3]
#[test]
fn granted_qos_of_each_member() {
    let topic = topic("t");
    let filter = format!("$share/g/{topic}");
    let mut members: Vec<_> =
        (0..3).flat_map(|qos| members(1, &[Version::V5], &filter, qos)).collect();
    let mut publisher = client(Version::V5);
    let mut count = 0;
    for _ in 0..30 {
        publisher.deliver(publish(&*topic).qos(2, 1));
    }
    eventually("all messages arrived", || {
        for (qos, member) in (0..3).zip(&mut members) {
            while let Some(message) = member.take_soon() {
                assert_eq!(message.qos, qos);
                count += 1;
            }
        }
        count == 30
    });
}

/// A member that leaves or unsubscribes gets nothing more, and the others get it all.
///
/// [MQTT-4.8.2-1] [MQTT-3.10.4-1] [MQTT-3.10.4-2]
#[test]
fn members_come_and_go() {
    let topic = topic("t");
    let filter = format!("$share/g/{topic}");
    let mut members = members(3, &[Version::V5, Version::V311], &filter, 1);
    let mut publisher = client(Version::V5);
    let send = |publisher: &mut Client, range: std::ops::Range<u32>| {
        for index in range {
            publisher.deliver(publish(&*topic).qos(1, 1).payload(format!("{index}")));
        }
    };
    send(&mut publisher, 0..9);
    received(&mut members, &mut publisher, 9);

    members.remove(0).leave();
    members[0].unsubscribe(&filter);
    send(&mut publisher, 0..9);
    let then = received(&mut members, &mut publisher, 9);
    assert_eq!(then, [vec![], (0..9).collect()]);

    members[0].subscribe(&filter, 1);
    send(&mut publisher, 0..20);
    let last = received(&mut members, &mut publisher, 20);
    assert!(last.iter().all(|payloads| !payloads.is_empty()), "{last:?}");
}

/// Retained messages do not answer a shared subscription.
///
/// [MQTT-4.8.2-1] [MQTT-3.3.1-9]
#[test]
fn no_retained_messages_for_shared_subscriptions() {
    let topic = topic("t");
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(1, 1).payload("kept").retain());
    for version in each(Version::NUMBERED) {
        let mut member = client(version);
        member.subscribe(&format!("$share/g/{topic}"), 1);
        member.nothing_from(&mut publisher);
        // Live ones do.
        publisher.deliver(publish(&*topic).qos(1, 1).payload("live"));
        assert_eq!(member.take().text(), "live");
        member.leave();
    }
}

/// A QoS 2 delivery that broke is completed with the same member.
///
/// [MQTT-4.8.2-4]
#[test]
fn broken_delivery_is_completed_with_the_same_member() {
    let topic = topic("t");
    let filter = format!("$share/g/{topic}");
    let hello = hello(Version::V5).persistent();
    let mut first = connect(hello.clone());
    first.subscribe(&filter, 2);
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(2, 1).payload("1"));
    publisher.deliver(publish(&*topic).qos(2, 1).payload("2"));
    let (one, two) = (first.expect_publish(), first.expect_publish());
    first.send(pubrec(one.id.expect("QoS 2")));
    first.expect_success(Kind::PubRel, one.id.expect("QoS 2"));

    let mut other = client(Version::V5);
    other.subscribe(&filter, 2);
    first.vanish();
    other.nothing_from(&mut publisher);

    let mut again = connect(hello);
    let mut packets = [again.receive(), again.receive()];
    packets.sort_by_key(|packet| matches!(packet, Packet::Publish(_)));
    assert_eq!(packets, [pubrel(one.id.expect("QoS 2")).into(), two.dup().into()]);
    other.nothing_from(&mut publisher);
}

/// A QoS 2 message whose member ends its session goes to nobody else.
///
/// [MQTT-4.8.2-5]
#[test]
fn qos_2_is_not_handed_to_another_member() {
    let topic = topic("t");
    let filter = format!("$share/g/{topic}");
    let mut first = client(Version::V5);
    first.subscribe(&filter, 2);
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(2, 1).payload("1"));
    first.expect_publish();
    let mut other = client(Version::V5);
    other.subscribe(&filter, 2);
    first.vanish();
    // The next message of the group takes the same way as the one in question would.
    eventually("the group has one member left", || {
        publisher.deliver(publish(&*topic).qos(2, 2).payload("2"));
        let message = other.take_soon();
        message.inspect(|message| assert_eq!(message.text(), "2")).is_some()
    });
}

/// A refused message is not offered to another member.
///
/// [MQTT-4.8.2-6]
#[test]
fn refused_message_is_not_offered_to_another_member() {
    let topic = topic("t");
    let filter = format!("$share/g/{topic}");
    let mut first = client(Version::V5);
    first.subscribe(&filter, 2);
    let mut publisher = client(Version::V5);
    publisher.deliver(publish(&*topic).qos(1, 1));
    publisher.deliver(publish(&*topic).qos(2, 1));
    let (one, two) = (first.expect_publish(), first.expect_publish());
    let mut other = client(Version::V5);
    other.subscribe(&filter, 2);
    first.send(puback(one.id.expect("QoS 1")).code(0x80));
    first.send(pubrec(two.id.expect("QoS 2")).code(0x80));
    first.ping();
    first.unsubscribe(&filter);
    // The next message of the group takes the same way as the two in question would.
    publisher.deliver(publish(&*topic).qos(2, 1).payload("next"));
    assert_eq!(other.take().text(), "next");
    first.nothing_from(&mut publisher);
    first.vanish();
    publisher.deliver(publish(&*topic).qos(2, 1).payload("last"));
    assert_eq!(other.take().text(), "last");
}

/// Subscription identifiers and options belong to each member.
///
/// [MQTT-3.3.4-3] [MQTT-4.8.2-3]
#[test]
fn identifiers_of_members() {
    let topic = topic("t");
    let mut publisher = client(Version::V5);
    let mut members = [(client(Version::V5), 5), (client(Version::V5), 6)];
    for (member, id) in &mut members {
        let packet = subscribe(1).filter(format!("$share/g/{topic}"), 1);
        member.subscribe_with(packet.with(Property::SubscriptionId(*id)));
    }
    for index in 0..8 {
        publisher.deliver(publish(&*topic).qos(1, 1).payload(format!("{index}")));
    }
    let mut count = 0;
    eventually("all messages arrived", || {
        for (member, id) in &mut members {
            while let Some(message) = member.take_soon() {
                assert_eq!(message.properties, [Property::SubscriptionId(*id)]);
                count += 1;
            }
        }
        count == 8
    });
}
