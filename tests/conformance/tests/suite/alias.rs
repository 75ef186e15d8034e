//! Topic aliases, in both directions.

use std::collections::HashMap;

use midge_conformance::prelude::*;

fn alias_maximum(client: &Client) -> u16 {
    property!(client.connack().properties, TopicAliasMaximum).unwrap_or(0)
}

fn aliased(topic: &str, alias: u16) -> Publish {
    publish(topic).with(Property::TopicAlias(alias))
}

/// Every alias from 1 to the broker's maximum can be set, used and set anew.
///
/// [MQTT-3.3.2-12]
#[test]
fn aliases_of_a_client() {
    let base = topic("base");
    let (mut subscriber, mut publisher) = (client(Version::V5), client(Version::V5));
    subscriber.subscribe(&format!("{base}/#"), 2);
    let maximum = alias_maximum(&publisher);
    assert!(maximum > 0, "this broker's default allows aliases");
    let named = |round: u16, alias: u16| format!("{base}/{round}/{alias}");
    for round in 0..2 {
        for alias in 1..=maximum {
            publisher.deliver(aliased(&named(round, alias), alias));
            assert_eq!(subscriber.take().topic, named(round, alias));
        }
        for alias in (1..=maximum).rev() {
            for qos in 0..=2 {
                let message = aliased("", alias).payload([qos]);
                publisher.deliver(if qos == 0 { message } else { message.qos(qos, 1) });
                let arrived = subscriber.take();
                assert_eq!(arrived.topic, named(round, alias));
                assert_eq!((arrived.payload, arrived.properties), (vec![qos], vec![]));
            }
        }
    }
}

/// An alias that does not exist, or that nothing was said about.
///
/// [MQTT-3.3.2-8] [MQTT-3.3.2-9] [MQTT-4.13.1-1] [MQTT-4.7.3-1]
#[test]
fn aliases_that_are_wrong() {
    let maximum = alias_maximum(&client(Version::V5));
    let cases = [
        ("zero", aliased("t", 0), &[0x94, 0x82][..]),
        ("zero without a topic", aliased("", 0), &[0x94, 0x82]),
        ("above the maximum", aliased("t", maximum + 1), &[0x94]),
        ("far above the maximum", aliased("t", u16::MAX), &[0x94]),
        ("unknown", aliased("", 1), &[0x82, 0x94]),
        ("no alias and no topic", publish(""), &[0x82, 0x81, 0x90]),
        ("twice", aliased("t", 1).with(Property::TopicAlias(1)), &[0x82, 0x81]),
    ];
    for (what, packet, codes) in cases {
        eprintln!("{what}");
        let mut client = client(Version::V5);
        client.send(packet);
        client.expect_error(codes);
    }
}

/// An alias ends with its connection, even if the session goes on.
///
/// [MQTT-3.3.2-7]
#[test]
fn aliases_end_with_the_connection() {
    let hello = hello(Version::V5).persistent();
    let mut first = connect(hello.clone());
    first.deliver(aliased(&topic("t"), 1).qos(1, 1));
    first.vanish();
    let mut second = connect(hello);
    assert!(second.connack().session_present);
    second.send(aliased("", 1));
    second.expect_error(&[0x82, 0x94]);
}

/// Reads messages and puts their names back; an alias is within the maximum and known.
struct Resolver {
    maximum: u16,
    names: HashMap<u16, String>,
}

impl Resolver {
    fn name(&mut self, message: &Publish) -> String {
        let Some(alias) = property!(message.properties, TopicAlias) else {
            return message.topic.clone();
        };
        assert!((1..=self.maximum).contains(&alias), "alias {alias} of {}", self.maximum);
        if !message.topic.is_empty() {
            self.names.insert(alias, message.topic.clone());
        }
        self.names.get(&alias).expect("an alias that was set before").clone()
    }
}

/// Aliases of the broker: none for those who did not ask, and within the limit of those who did.
///
/// [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11] [MQTT-3.3.2-8]
#[test]
fn aliases_of_the_broker() {
    for maximum in each([None, Some(0), Some(1), Some(3), Some(u16::MAX)]) {
        let base = topic("base");
        let hello = maximum
            .map(Property::TopicAliasMaximum)
            .into_iter()
            .fold(hello(Version::V5), Connect::with);
        let (mut subscriber, mut publisher) = (connect(hello), client(Version::V5));
        subscriber.subscribe(&format!("{base}/#"), 1);
        let mut resolver = Resolver { maximum: maximum.unwrap_or(0), names: HashMap::new() };
        for round in 0..50_u16 {
            let topic =
                format!("{base}/{}", [round % 2, round % 5, round % 11][usize::from(round % 3)]);
            publisher.deliver(publish(&*topic).qos(1, 1));
            assert_eq!(resolver.name(&subscriber.take()), topic);
        }
    }
}

/// The broker's aliases start anew with the connection, also for what is sent again.
///
/// [MQTT-3.3.2-7] [MQTT-3.1.2-26]
#[test]
fn aliases_of_the_broker_end_with_the_connection() {
    let topic = topic("t");
    let hello = hello(Version::V5).persistent().with(Property::TopicAliasMaximum(5));
    let mut first = connect(hello.clone());
    first.subscribe(&topic, 1);
    let mut publisher = client(Version::V5);
    for _ in 0..3 {
        publisher.deliver(publish(&*topic).qos(1, 1));
        first.expect_publish();
    }
    first.vanish();
    let mut second = connect(hello);
    let mut resolver = Resolver { maximum: 5, names: HashMap::new() };
    for _ in 0..3 {
        assert_eq!(resolver.name(&second.take()), topic);
    }
}

/// Without aliases in the broker's configuration every alias is one too many.
///
/// [MQTT-3.3.2-9] [MQTT-3.1.2-27]
#[test]
fn aliases_switched_off() {
    let Some(broker) = Broker::start("limits: { topic_alias_maximum: 0 }") else { return };
    let mut client = Client::connect(broker.address(), hello(Version::V5));
    assert_eq!(alias_maximum(&client), 0);
    client.send(aliased("t", 1));
    client.expect_error(&[0x94]);
}
