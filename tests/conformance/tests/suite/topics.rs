//! Topic names and topic filters: which are well formed, and which match which.

use midge_conformance::prelude::*;

/// Every filter against every name below a base that is the test's own.
///
/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-3.3.2-3] [MQTT-4.7.3-4]
/// [MQTT-4.7.1-2 @3.1.1] [MQTT-4.7.1-3 @3.1.1] [MQTT-3.3.2-3 @3.1.1] [MQTT-4.7.3-4 @3.1.1]
#[test]
fn matching() {
    let names =
        ["", "/", "a", "a/", "a/b", "a/b/c", "/a", "a//b", "A", "a/$b", "é", "e\u{301}", "a b"];
    let matches: [(&str, &[&str]); 13] = [
        (
            "#",
            &[
                "", "/", "a", "a/", "a/b", "a/b/c", "/a", "a//b", "A", "a/$b", "é", "e\u{301}",
                "a b",
            ],
        ),
        ("+", &["", "a", "A", "é", "e\u{301}", "a b"]),
        ("+/+", &["/", "a/", "a/b", "/a", "a/$b"]),
        (
            "+/#",
            &[
                "", "/", "a", "a/", "a/b", "a/b/c", "/a", "a//b", "A", "a/$b", "é", "e\u{301}",
                "a b",
            ],
        ),
        ("a", &["a"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c", "a//b", "a/$b"]),
        ("a/+", &["a/", "a/b", "a/$b"]),
        ("a/+/c", &["a/b/c"]),
        ("+/b", &["a/b"]),
        ("a//b", &["a//b"]),
        ("a/+/b", &["a//b"]),
        ("é", &["é"]),
        ("/#", &["", "/", "/a"]),
    ];
    for version in each(Version::NUMBERED) {
        let base = topic("base");
        let mut publisher = client(version);
        for (filter, expected) in each(matches) {
            let mut subscriber = client(version);
            subscriber.subscribe(&format!("{base}/{filter}"), 0);
            for name in names {
                publisher.send(publish(format!("{base}/{name}")));
            }
            for name in names.iter().filter(|name| expected.contains(name)) {
                subscriber.expect(publish(format!("{base}/{name}")));
            }
            subscriber.nothing_from(&mut publisher);
        }
    }
}

/// Names that begin with a separator, and filters above the first level.
///
/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.1-2 @3.1.1] [MQTT-4.7.1-3 @3.1.1]
#[test]
fn leading_separator() {
    for version in each(Version::NUMBERED) {
        let name = topic("t").replace('/', "-");
        let mut publisher = client(version);
        for (filter, matches) in each([
            (format!("/{name}"), true),
            (format!("+/{name}"), true),
            (format!("/{name}/#"), true),
            (format!("/+{}", ""), true),
            (name.clone(), false),
            (format!("//{name}"), false),
            (format!("+/+/{name}"), false),
        ]) {
            let mut subscriber = client(version);
            subscriber.subscribe(&filter, 0);
            publisher.send(publish(format!("/{name}")));
            if matches {
                // Other tests may publish what `/+` matches.
                while subscriber.expect_publish().topic != format!("/{name}") {}
            } else {
                subscriber.nothing_from(&mut publisher);
            }
        }
    }
}

/// Filters that begin with a wildcard do not see names that begin with a dollar sign.
///
/// [MQTT-4.7.2-1] [MQTT-4.7.2-1 @3.1.1]
#[test]
fn dollar_names() {
    for version in each(Version::NUMBERED) {
        let name = topic("t").replace('/', "-");
        let mut publisher = client(version);
        for filter in each([format!("+/{name}"), format!("+/{name}/#"), format!("+/+{}", "")]) {
            let mut blind = client(version);
            blind.subscribe(&filter, 0);
            publisher.send(publish(format!("$test/{name}")));
            publisher.send(publish(format!("test/{name}")));
            let seen = loop {
                let message = blind.expect_publish();
                if message.topic.ends_with(&name) {
                    break message.topic;
                }
            };
            assert_eq!(seen, format!("test/{name}"));
        }
        for filter in each([format!("$test/{name}"), format!("$test/+{}", ""), "$test/#".into()]) {
            let mut seeing = client(version);
            seeing.subscribe(&filter, 0);
            publisher.send(publish(format!("$test/{name}")));
            while seeing.expect_publish().topic != format!("$test/{name}") {}
        }
    }
}

/// A `#` sees everything but names that begin with a dollar sign.
///
/// [MQTT-4.7.2-1] [MQTT-4.7.2-1 @3.1.1] [MQTT-4.7.1-1] [MQTT-4.7.1-2 @3.1.1]
#[test]
fn hash_alone() {
    for version in each(Version::NUMBERED) {
        let base = topic("t");
        let (mut subscriber, mut publisher) = (client(version), client(version));
        subscriber.subscribe("#", 0);
        let names = [format!("$x/{base}"), base.clone(), format!("/{base}"), format!("{base}/y/z")];
        for name in &names {
            publisher.send(publish(&**name));
        }
        // What other tests publish meanwhile arrives, too.
        for expected in &names[1..] {
            let seen = loop {
                let message = subscriber.take();
                assert!(!message.topic.starts_with('$'), "{}", message.topic);
                if message.topic.contains(&base) {
                    break message.topic;
                }
            };
            assert_eq!(seen, *expected);
        }
    }
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-3.8.4-7]
/// [MQTT-4.7.1-2 @3.1.1] [MQTT-4.7.1-3 @3.1.1] [MQTT-4.7.3-1 @3.1.1]
#[test]
fn filters_that_are_malformed() {
    let filters =
        ["", "a#", "a/#/b", "#/a", "#a", "##", "a+", "+a", "a/+b", "a/b+/c", "++", "a/##"];
    for version in each(Version::NUMBERED) {
        for filter in each(filters) {
            let mut client = client(version);
            client.send(subscribe(1).filter(filter, 0));
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
    }
}

/// [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-3.3.2-1] [MQTT-1.5.4-1]
/// [MQTT-1.5.4-2] [MQTT-3.3.2-2 @3.1.1] [MQTT-4.7.1-1 @3.1.1] [MQTT-4.7.3-1 @3.1.1]
/// [MQTT-4.7.3-2 @3.1.1] [MQTT-3.3.2-1 @3.1.1] [MQTT-1.5.3-1 @3.1.1] [MQTT-1.5.3-2 @3.1.1]
#[test]
fn names_that_are_malformed() {
    let names: [&[u8]; 9] =
        [b"", b"#", b"+", b"a/#", b"a/+/b", b"a+b", b"a\0", b"a/\xff", b"\xed\xa0\x80"];
    for version in each(Version::NUMBERED) {
        let mut watcher = client(version);
        for name in each(names) {
            for qos in 0..=2 {
                let mut body = prefixed(name);
                if qos > 0 {
                    body.extend([0, 1]);
                }
                if version.is_v5() {
                    body.push(0);
                }
                let mut client = client(version);
                client.send(frame(0x30 | qos << 1, &body));
                client.expect_error(&[0x81, 0x82, 0x90]);
            }
        }
        watcher.ping();
    }
}

/// The name is there at all, and is the first field.
///
/// [MQTT-3.3.2-1] [MQTT-3.3.2-1 @3.1.1]
#[test]
fn publish_without_a_name() {
    for version in each(Version::NUMBERED) {
        for body in each([&b""[..], b"\0", b"\0\x05abc"]) {
            let mut client = client(version);
            client.send(frame(0x30, body));
            client.expect_error(&[0x81, 0x82]);
        }
    }
}

/// Characters that look odd are passed on as they are: a byte order mark, controls, the private area.
///
/// [MQTT-1.5.4-3] [MQTT-4.7.3-4] [MQTT-1.5.3-3 @3.1.1] [MQTT-4.7.3-4 @3.1.1]
#[test]
fn odd_characters() {
    for version in each(Version::NUMBERED) {
        let base = topic("t");
        let mut publisher = client(version);
        for odd in
            each(["\u{feff}a", "a\u{feff}", "a\u{e000}", "\u{10ffff}", "ß", "ẞ", "日本", " "])
        {
            let name = format!("{base}/{odd}");
            let mut subscriber = client(version);
            subscriber.subscribe(&name, 0);
            publisher.send(publish(format!("{base}/{}", odd.trim_matches('\u{feff}').trim())));
            publisher.send(publish(&*name));
            let message = subscriber.expect_publish();
            let first = message.topic.as_str();
            assert_eq!(first, name);
        }
    }
}

/// The longest name there can be.
///
/// [MQTT-4.7.3-3] [MQTT-4.7.3-3 @3.1.1]
#[test]
fn longest_name() {
    for version in each(Version::NUMBERED) {
        let base = topic("t");
        let name = format!("{base}/{}", "x".repeat(65_534 - base.len()));
        assert_eq!(name.len(), 65_535);
        for filter in each([name.clone(), format!("{base}/+")]) {
            let (mut subscriber, mut publisher) = (client(version), client(version));
            subscriber.subscribe(&filter, 1);
            publisher.deliver(publish(&*name).qos(1, 1).payload("long"));
            let message = subscriber.take();
            assert!(message.topic == name);
            assert_eq!(message.text(), "long");
        }
    }
}
