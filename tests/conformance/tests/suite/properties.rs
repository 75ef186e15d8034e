//! Properties of PUBLISH: what the broker passes on as it came.

use midge_conformance::prelude::*;

/// Everything a broker passes on, in one message.
fn all_properties() -> Vec<Property> {
    vec![
        Property::PayloadFormat(1),
        Property::ContentType("text/plain; charset=utf-8".into()),
        Property::ResponseTopic("answers/for/me".into()),
        Property::CorrelationData(vec![0x00, 0xff, 0x80]),
        Property::user("z", "1"),
        Property::user("a", "2"),
        Property::user("z", "1"),
        Property::user("", ""),
        Property::user("ключ", "значение"),
    ]
}

/// The same, whatever their order but for that of the user properties.
fn assert_passed_on(message: &Publish, expected: &[Property]) {
    let is_user = |property: &Property| matches!(property, Property::User(_));
    let (users, mut others): (Vec<_>, Vec<_>) =
        message.properties.iter().cloned().partition(is_user);
    let (expected_users, expected_others): (Vec<_>, Vec<_>) =
        expected.iter().cloned().partition(is_user);
    assert_eq!(users, expected_users);
    others.sort_by_key(|property| expected_others.iter().position(|other| other == property));
    assert_eq!(others, expected_others);
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
/// [MQTT-1.5.7-1]
#[test]
fn passed_on_unaltered() {
    let topic = topic("t");
    let (mut publisher, mut live) = (client(Version::V5), client(Version::V5));
    let away = hello(Version::V5).persistent();
    let mut absent = connect(away.clone());
    live.subscribe(&topic, 2);
    absent.subscribe(&topic, 2);
    absent.leave();
    for qos in each(0..=2) {
        let message =
            all_properties().into_iter().fold(publish(&*topic).payload("x"), Publish::with);
        publisher.deliver(if qos == 0 { message } else { message.qos(qos, 1).retain() });
        assert_passed_on(&live.take(), &all_properties());
    }
    let mut later = client(Version::V5);
    later.subscribe(&topic, 2);
    assert_passed_on(&later.take(), &all_properties());

    let mut back = connect(away);
    for _ in 0..2 {
        assert_passed_on(&back.take(), &all_properties());
    }
}

/// Each alone, so that none depends on another; the others stay absent.
///
/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]
#[test]
fn each_alone() {
    let topic = topic("t");
    let (mut publisher, mut subscriber) = (client(Version::V5), client(Version::V5));
    subscriber.subscribe(&topic, 0);
    let more = [
        Property::PayloadFormat(0),
        Property::CorrelationData(vec![]),
        Property::ContentType(String::new()),
    ];
    for property in each(all_properties().into_iter().chain(more)) {
        publisher.deliver(publish(&*topic).with(property.clone()));
        assert_passed_on(&subscriber.take(), &[property]);
    }
}

/// Older clients see the message without them; between versions nothing is made up.
///
/// [MQTT-2.2.2-1] [MQTT-4.5.0-1] [MQTT-4.5.0-1 @3.1.1]
#[test]
fn between_versions() {
    let topic = topic("t");
    let mut publisher = client(Version::V5);
    for version in each(Version::OLD) {
        let mut old = client(version);
        old.subscribe(&topic, 1);
        let message =
            all_properties().into_iter().fold(publish(&*topic).payload("x"), Publish::with);
        publisher.deliver(message.qos(1, 1));
        assert_eq!(old.take().text(), "x");
    }
}

/// [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19] [MQTT-1.5.7-1] [MQTT-1.5.4-1] [MQTT-1.5.4-2]
/// [MQTT-3.3.4-6] [MQTT-4.13.1-1]
#[test]
fn refused() {
    let cases = [
        ("response topic with #", Property::ResponseTopic("a/#".into()), &[0x81, 0x82, 0x90][..]),
        ("response topic with +", Property::ResponseTopic("+/a".into()), &[0x81, 0x82, 0x90]),
        ("response topic not UTF-8", Property::Raw(b"\x08\0\x02\xc0\xaf".to_vec()), &[0x81]),
        ("response topic with NUL", Property::ResponseTopic("a\0".into()), &[0x81]),
        ("content type not UTF-8", Property::Raw(b"\x03\0\x01\x80".to_vec()), &[0x81]),
        ("user property not UTF-8", Property::Raw(b"\x26\0\x01a\0\x01\xfe".to_vec()), &[0x81]),
        ("subscription identifier", Property::SubscriptionId(1), &[0x82, 0x81]),
    ];
    for (what, property, codes) in cases {
        eprintln!("{what}");
        for qos in 0..=1 {
            let message = publish("a").with(property.clone());
            let mut client = client(Version::V5);
            client.send(if qos == 0 { message } else { message.qos(1, 1) });
            client.expect_error(codes);
        }
    }
}

/// A payload that says it is UTF-8 is UTF-8: refused with 0x99 where there is a packet to say it in.
///
/// [MQTT-3.3.2-4] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-4.3.3-9]
#[test]
fn payload_format_is_checked() {
    let topic = topic("t");
    let mut subscriber = client(Version::V5);
    subscriber.subscribe(&topic, 2);
    let message = || publish(&*topic).with(Property::PayloadFormat(1));
    let mut publisher = client(Version::V5);
    for payload in [&b"\xff"[..], b"ab\xc0\xaf", b"\xed\xa0\x80"] {
        publisher.send(message().qos(1, 1).payload(payload));
        assert_eq!(publisher.expect_ack(Kind::PubAck, 1).code, 0x99);
        publisher.send(message().qos(2, 2).payload(payload));
        assert_eq!(publisher.expect_ack(Kind::PubRec, 2).code, 0x99);
    }
    // After that refusal the identifier is free for another message.
    publisher.deliver(message().qos(2, 2).payload("fine\u{0}too"));
    assert_eq!(subscriber.take().text(), "fine\u{0}too");
    subscriber.nothing_from(&mut publisher);

    let mut silent = client(Version::V5);
    silent.send(message().payload(*b"\xff"));
    silent.expect_error(&[0x99]);
    subscriber.nothing_from(&mut client(Version::V5));
}

/// A request and its answer, by response topic and correlation data.
///
/// [MQTT-3.3.2-15] [MQTT-3.3.2-16]
#[test]
fn request_and_response() {
    let (requests, answers) = (topic("requests"), topic("answers"));
    let (mut asking, mut answering) = (client(Version::V5), client(Version::V5));
    asking.subscribe(&answers, 1);
    answering.subscribe(&requests, 1);
    let request = publish(&*requests).qos(1, 1).payload("6 times 7");
    asking.deliver(
        request
            .with(Property::ResponseTopic(answers.clone()))
            .with(Property::CorrelationData(vec![42])),
    );
    let request = answering.take();
    let to = property!(request.properties, ResponseTopic).expect("passed on");
    let correlation = property!(request.properties, CorrelationData).expect("passed on");
    let answer = publish(to).qos(1, 1).payload("42");
    answering.deliver(answer.with(Property::CorrelationData(correlation)));
    assert_passed_on(&asking.take(), &[Property::CorrelationData(vec![42])]);
}

/// Without Request Problem Information nothing but PUBLISH, CONNACK and DISCONNECT explains itself.
///
/// [MQTT-3.1.2-29]
#[test]
fn no_problem_information() {
    let topic = topic("t");
    let mut client = connect(hello(Version::V5).with(Property::RequestProblemInformation(0)));
    client.send(publish(&*topic).qos(1, 1));
    assert_eq!(client.expect_success(Kind::PubAck, 1).properties, []);
    client.send(publish(&*topic).qos(1, 1).with(Property::PayloadFormat(1)).payload(*b"\xff"));
    assert_eq!(client.expect_ack(Kind::PubAck, 1).properties, []);
    client.send(publish(&*topic).qos(2, 2));
    assert_eq!(client.expect_success(Kind::PubRec, 2).properties, []);
    client.send(pubrel(9));
    assert_eq!(client.expect_ack(Kind::PubComp, 9).properties, []);
    client.send(pubrec(9));
    assert_eq!(client.expect_ack(Kind::PubRel, 9).properties, []);
    let suback = client.subscribe_with(subscribe(3).filter("$share/g/a", 0).filter(&topic, 0));
    assert_eq!(suback.properties, []);
    assert_eq!(client.unsubscribe_with(unsubscribe(4).filter("none")).properties, []);
    // Messages keep theirs.
    client.send(publish(&*topic).with(Property::user("a", "b")));
    assert_eq!(client.take().properties, [Property::user("a", "b")]);
}
