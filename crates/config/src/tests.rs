//! Tables of good and bad configurations, from text to message.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    Auto, ByteSize, Choice, Config, DEFAULT_FILE, DurabilityLevel, Expiry, Listener, LogFormat,
    LogLevel, Origin, Period, SHARDS_MAX, load, parse,
};

#[test]
fn the_default_file_equals_the_defaults() {
    let loaded = parse(DEFAULT_FILE, "configs/default.yaml").expect("the file is sound");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.problems(), Vec::<String>::new());
}

/// Equality alone would not notice a key that is missing from the file: its default holds anyway.
#[test]
fn the_default_file_shows_every_key() {
    let tree = serde_json::to_value(Config::default()).expect("the tree serializes");
    let file = serde_saphyr::from_str(DEFAULT_FILE).expect("the file is YAML");
    assert_eq!(key_paths(&tree), key_paths(&file));
}

fn key_paths(tree: &serde_json::Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut rest = vec![(String::new(), tree)];
    while let Some((path, value)) = rest.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                rest.extend(fields.iter().map(|(key, value)| (format!("{path}.{key}"), value)));
            }
            serde_json::Value::Array(items) => {
                rest.extend(items.iter().map(|item| (format!("{path}[]"), item)));
            }
            _ => _ = paths.insert(path),
        }
    }
    paths
}

#[test]
fn empty_files_are_the_defaults() {
    for text in ["", "\n", "# Nothing yet.\n", "---\n", "null", "\u{feff}", "limits:\n", "log:"] {
        let loaded = parse(text, "m.yaml").expect(text);
        assert_eq!(loaded.config, Config::default(), "{text:?}");
    }
}

#[test]
fn a_file_holds_only_what_differs() {
    let text = "\
listeners:
  - address: 0.0.0.0:1883
  - {address: '[::]:1883', name: six, backlog: 16, tcp_keep_alive: 0, tcp_defer_accept: 0}
shards: 8
pin_cores: false
limits:
  connect_timeout: 2500ms
  maximum_packet_size_bytes: 64KiB
  maximum_qos: 1
  retain_available: false
  session_expiry_interval_max: never
  session_expiry_v3: 3600
  queued_bytes_max: 2MB
performance:
  connections_per_shard: 5000
log: {level: debug, format: json}
shutdown: {drain_timeout: 1m}
";
    let mut expected = Config {
        listeners: vec![
            Listener::new(SocketAddr::from(([0, 0, 0, 0], 1883))),
            Listener {
                name: Some("six".into()),
                backlog: 16,
                tcp_keep_alive: Period::default(),
                tcp_defer_accept: Period::default(),
                ..Listener::new("[::]:1883".parse().expect("an address"))
            },
        ],
        shards: Auto::Value(8),
        pin_cores: Choice::No,
        ..Config::default()
    };
    expected.limits.connect_timeout = Period::from_milliseconds(2500);
    expected.limits.maximum_packet_size_bytes = ByteSize::from_kibibytes(64);
    expected.limits.maximum_qos = 1;
    expected.limits.retain_available = false;
    expected.limits.session_expiry_interval_max = Expiry::Never;
    expected.limits.session_expiry_v3 = Expiry::After(Period::from_seconds(3600));
    expected.limits.queued_bytes_max = ByteSize::new(2_000_000);
    expected.performance.connections_per_shard = Auto::Value(5000);
    expected.log.level = LogLevel::Debug;
    expected.log.format = LogFormat::Json;
    expected.shutdown.drain_timeout = Period::from_seconds(60);

    let loaded = parse(text, "m.yaml").expect("the text is sound");
    assert_eq!(loaded.config, expected);
    assert_eq!(loaded.problems(), Vec::<String>::new());
    assert_eq!(expected.listeners[0].label(), "0.0.0.0:1883");
    assert_eq!(expected.listeners[1].label(), "six");
}

#[test]
fn other_ways_to_write_a_value() {
    for text in ["shards: 16", "shards: '16'", "shards: \"16\"", "shards: 0x10", "{shards: 16}"] {
        let loaded = parse(text, "m.yaml").expect(text);
        assert_eq!(loaded.config.shards, Auto::Value(16), "{text}");
    }
    for (text, pin) in [("true", Choice::Yes), ("false", Choice::No), ("auto", Choice::Auto)] {
        let loaded = parse(&format!("pin_cores: {text}"), "m.yaml").expect(text);
        assert_eq!(loaded.config.pin_cores, pin);
    }
}

/// What is no setting at all: the first mistake, with its place.
#[test]
fn texts_that_are_refused() {
    for (text, error) in [
        // An unknown key at each depth.
        (
            "foo: 1",
            "m.yaml:1:1: foo: unknown key; the keys here are listeners, shards, pin_cores, limits, \
             security, performance, runtime, admin, sys, durability, audit, sandbox, log, shutdown",
        ),
        ("# One.\nshard: 1", "m.yaml:2:1: shard: unknown key; did you mean `shards`?"),
        (
            "limits:\n  foo: 1",
            "m.yaml:2:3: limits.foo: unknown key; configs/default.yaml shows all keys",
        ),
        ("log:\n  levle: info", "m.yaml:2:3: log.levle: unknown key; did you mean `level`?"),
        (
            "listeners:\n  - address: 127.0.0.1:1\n  - address: 127.0.0.1:2\n    nam: x",
            "m.yaml:4:5: listeners[1].nam: unknown key; did you mean `name`?",
        ),
        (
            "maximum_qos: 1",
            "m.yaml:1:1: maximum_qos: unknown key; did you mean `limits.maximum_qos`?",
        ),
        (
            "1: 2",
            "m.yaml:1:1: 1: unknown key; the keys here are listeners, shards, pin_cores, limits, security, performance, runtime, admin, sys, durability, audit, sandbox, log, shutdown",
        ),
        (
            "admin: {listen: here}",
            "m.yaml:1:9: admin.listen: expected an IP address and a port, such as 127.0.0.1:18083 or [::1]:18083, found `here`",
        ),
        // A wrong type at each depth and for each type of value.
        ("- 1", "m.yaml:1:1: expected keys with values (`key: value`)"),
        ("hello", "m.yaml:1:1: expected keys with values (`key: value`)"),
        ("limits: 3", "m.yaml:1:9: limits: expected keys with values (`key: value`)"),
        ("listeners: 3", "m.yaml:1:12: listeners: expected a list"),
        (
            "listeners:\n  - 127.0.0.1:1883",
            "m.yaml:2:5: listeners[0]: expected keys with values (`key: value`)",
        ),
        (
            "listeners:\n  - name: x",
            "m.yaml:2:5: listeners[0].address: missing; this key has no default",
        ),
        (
            "listeners:\n  - address: localhost:1883",
            "m.yaml:2:5: listeners[0].address: expected an IP address and a port, such as \
             127.0.0.1:1883 or [::1]:1883, or unix: and a path, found `localhost:1883`",
        ),
        ("shards: two", "m.yaml:1:1: shards: expected auto or a whole number, found `two`"),
        ("shards: 70000", "m.yaml:1:1: shards: expected auto or a whole number, found `70000`"),
        ("shards: -1", "m.yaml:1:1: shards: expected auto or a whole number, found `-1`"),
        ("shards: 1.5", "m.yaml:1:1: shards: expected auto or a whole number, found `1.5`"),
        ("shards:", "m.yaml:1:1: shards: expected auto or a whole number, found nothing"),
        ("shards: [1]", "m.yaml:1:1: shards: expected auto or a whole number, found a list"),
        ("pin_cores: yes", "m.yaml:1:1: pin_cores: expected true, false or auto, found `yes`"),
        (
            "limits:\n  retain_available: yes",
            "m.yaml:2:21: limits.retain_available: expected true or false",
        ),
        (
            "limits:\n  maximum_qos: high",
            "m.yaml:2:16: limits.maximum_qos: expected a whole number from 0 to 255",
        ),
        (
            "limits:\n  receive_maximum: 65536",
            "m.yaml:2:20: limits.receive_maximum: expected a whole number from 0 to 65535",
        ),
        (
            "limits:\n  connect_timeout: soon",
            "m.yaml:2:3: limits.connect_timeout: expected a time such as 500ms, 10s, 5m, 2h, 7d or a \
             number of seconds, found `soon`",
        ),
        (
            "limits:\n  session_expiry_v3: forever",
            "m.yaml:2:3: limits.session_expiry_v3: expected a time such as 30s, 2h, 7d, a number of \
             seconds, or never, found `forever`",
        ),
        (
            "limits:\n  maximum_packet_size_bytes: 1.5MiB",
            "m.yaml:2:3: limits.maximum_packet_size_bytes: expected a size such as 64KiB, 1MiB, 2MB \
             or a number of bytes, found `1.5MiB`",
        ),
        (
            "log:\n  level: loud",
            "m.yaml:2:10: log.level: expected one of off, error, warn, info, debug, trace, found `loud`",
        ),
        // The same key twice: neither is silently the one that counts.
        ("shards: 1\nshards: 2", "m.yaml:2:1: shards: the key stands here twice; keep one"),
        // YAML that is broken, or more than a configuration needs.
        (
            "limits:\n\tretain_available: true",
            "m.yaml:2:2: not YAML: tabs disallowed within this context (block indentation)",
        ),
        ("shards: 'x", "m.yaml:1:9: not YAML: unclosed quote"),
        ("limits: {maximum_qos: 1", "m.yaml:1:9: not YAML: unclosed bracket '{'"),
        ("shards: 1 \0", "m.yaml:1:11: not YAML: unexpected character: `\\u{0}'"),
        (
            "shards: 1\n---\nshards: 2",
            "m.yaml:3:1: a second document starts here; a configuration is one document",
        ),
        ("shards: *nope", "m.yaml:1:9: shards: reference to unknown value"),
        ("<<: {shards: 1}", "m.yaml:1:1: <<: merge keys (`<<`) are not read; write the keys out"),
        ("shards: !foo 3", "m.yaml:1:14: shards: unsupported tag `!foo`"),
        ("? [a]\n: b", "m.yaml:1:3: ?: expected string scalar"),
    ] {
        let found = parse(text, "m.yaml").expect_err(text);
        assert_eq!(found.to_string(), error, "{text:?}");
    }
}

/// What is a setting, but cannot be: every problem, each with its place.
#[test]
fn settings_that_are_refused() {
    for (text, problems) in [
        (
            "security:\n  jwt: {jwks_url: 'http://a.example/b'}",
            &[
                "m.yaml:2:9: security.jwt.jwks_url: no such address is asked; write https://…, or http:// on a loopback address",
            ][..],
        ),
        (
            "security:\n  jwt: {issuers: [a]}",
            &[
                "m.yaml:2:3: security.jwt: no key; set one of secret_file, public_key_file, jwks_file and jwks_url",
            ],
        ),
        (
            "security: {authenticators: [jwt]}",
            &[
                "m.yaml:1:12: security.authenticators: `jwt` has no keys; set security.jwt, or remove it",
            ],
        ),
        (
            "security: {authenticators: [http]}",
            &[
                "m.yaml:1:12: security.authenticators: `http` has no address; set security.http, or remove it",
            ],
        ),
        (
            "listeners: []",
            &["m.yaml:1:1: listeners: empty, so nobody could connect; list an address"][..],
        ),
        (
            "listeners:\n  - {address: 127.0.0.1:1883}\n  - {address: 127.0.0.1:1883}",
            &["m.yaml:3:6: listeners[1].address: 127.0.0.1:1883 is already taken by listeners[0] \
               (127.0.0.1:1883); choose another port"],
        ),
        (
            "listeners:\n  - {address: 127.0.0.1:1883}\n  - {address: 0.0.0.0:1883}",
            &["m.yaml:3:6: listeners[1].address: 0.0.0.0:1883 is already taken by listeners[0] \
               (127.0.0.1:1883); choose another port"],
        ),
        // Two families, two ports, or ports that the kernel chooses do not meet.
        ("listeners:\n  - {address: '[::]:1883'}\n  - {address: 0.0.0.0:1883}", &[]),
        ("listeners:\n  - {address: 127.0.0.1:1883}\n  - {address: 127.0.0.1:1884}", &[]),
        ("listeners:\n  - {address: 127.0.0.1:0}\n  - {address: 127.0.0.1:0}", &[]),
        (
            "listeners:\n  - {address: 127.0.0.1:1, name: a}\n  - {address: 127.0.0.1:2, name: a}",
            &["m.yaml:3:28: listeners[1].name: `a` already names listeners[0]; name it anew"],
        ),
        (
            "listeners:\n  - {address: 127.0.0.1:1, name: a b}\n  - {address: 127.0.0.1:2, name: ''}",
            &[
                "m.yaml:2:28: listeners[0].name: must be 1 to 64 printable ASCII characters without spaces",
                "m.yaml:3:28: listeners[1].name: must be 1 to 64 printable ASCII characters without spaces",
            ],
        ),
        (
            "listeners:\n  - address: 127.0.0.1:1\n    backlog: 0\n    tcp_keep_alive: 5s\n    tcp_defer_accept: 2m\n    tcp_send_buffer_bytes: 1",
            &[
                "m.yaml:3:5: listeners[0].backlog: 0 is out of range; set 1 to 65535",
                "m.yaml:4:5: listeners[0].tcp_keep_alive: 5s is out of range; set 10s to 2h",
                "m.yaml:5:5: listeners[0].tcp_defer_accept: 2m is out of range; set 1s to 1m",
                "m.yaml:6:5: listeners[0].tcp_send_buffer_bytes: 1 bytes is out of range; set 4 KiB to 64 MiB",
            ],
        ),
        ("shards: 0", &["m.yaml:1:1: shards: 0 is out of range; set 1 to 1024"]),
        ("shards: 1025", &["m.yaml:1:1: shards: 1025 is out of range; set 1 to 1024"]),
        // The largest still fits, if every shard's part of the retained bytes holds a packet.
        ("shards: 1024", &[]),
        (
            "shards: 1024\nlimits:\n  retained_bytes_max: 1023MiB",
            &["m.yaml:3:3: limits.retained_bytes_max: 1023 MiB cannot hold one packet of \
               limits.maximum_packet_size_bytes (1 MiB) for each shard; set at least 1 GiB"],
        ),
        (
            "shards: 4\nlimits:\n  queued_bytes_total_max: 3MiB",
            &["m.yaml:3:3: limits.queued_bytes_total_max: 3 MiB cannot hold one packet of \
               limits.maximum_packet_size_bytes (1 MiB) for each shard; set at least 4 MiB"],
        ),
        ("shards: 4\nlimits:\n  queued_bytes_total_max: 4MiB", &[]),
        ("shards: 4\nlimits:\n  queued_bytes_total_max: 0", &[]),
        (
            "limits:\n  queued_bytes_max: 1KiB\n  maximum_packet_size_bytes: 4MiB",
            &[
                "m.yaml:2:3: limits.queued_bytes_max: 1 KiB cannot hold one packet of \
                 limits.maximum_packet_size_bytes (4 MiB); set at least 4 MiB",
                // The default is too small now; its own line does not exist.
                "m.yaml:1:1: limits.output_bytes_max: 2 MiB cannot hold one packet of \
                 limits.maximum_packet_size_bytes (4 MiB); set at least 4 MiB",
            ],
        ),
        (
            "limits:\n  maximum_packet_size_bytes: 100",
            &[
                "m.yaml:2:3: limits.maximum_packet_size_bytes: 100 bytes is out of range; set 1 KiB to \
               268435460 bytes",
            ],
        ),
        (
            "limits:\n  maximum_qos: 3\n  receive_maximum: 0\n  client_id_size_max: 22",
            &[
                "m.yaml:4:3: limits.client_id_size_max: 22 is out of range; set 23 to 65535",
                "m.yaml:2:3: limits.maximum_qos: 3 is out of range; set 0 to 2",
                "m.yaml:3:3: limits.receive_maximum: 0 is out of range; set 1 to 65535",
            ],
        ),
        (
            "limits:\n  connect_timeout: 0\n  session_expiry_v3: 1500ms\n  session_expiry_interval_max: 50000d",
            &[
                "m.yaml:2:3: limits.connect_timeout: 0s is out of range; set 100ms to 10m",
                "m.yaml:4:3: limits.session_expiry_interval_max: 50000d is longer than MQTT can say; \
                 write never",
                "m.yaml:3:3: limits.session_expiry_v3: 1500ms is no whole number of seconds; round it",
            ],
        ),
        (
            "performance:\n  ring_entries: 1000\n  completion_entries: 64",
            &[
                "m.yaml:2:3: performance.ring_entries: 1000 is not a power of two from 64 to 32768; \
                 set one",
                "m.yaml:3:3: performance.completion_entries: 64 are fewer than \
                 performance.ring_entries (1000); set at least as many",
            ],
        ),
        (
            "runtime: {directory: ''}",
            &["m.yaml:1:11: runtime.directory: a path of 0 bytes; choose one of 1 to 80"],
        ),
        (
            "listeners: [{address: '0.0.0.0:5'}]\nadmin: {listen: 127.0.0.1:5}",
            &["m.yaml:2:9: admin.listen: 127.0.0.1:5 is already taken by listeners[0]; choose \
                 another port"],
        ),
        (
            "sys: {interval: 500ms}",
            &["m.yaml:1:7: sys.interval: 500ms is out of range; set 1s to 1h"],
        ),
        (
            "shutdown:\n  drain_timeout: 2h",
            &["m.yaml:2:3: shutdown.drain_timeout: 2h is out of range; set 0s to 1h"],
        ),
    ] {
        let loaded = parse(text, "m.yaml").expect(text);
        assert_eq!(loaded.problems(), problems, "{text}");
    }
}

#[test]
fn too_many_listeners_are_one_problem() {
    let list: String = (1..=65).map(|port| format!("  - address: 127.0.0.1:{port}\n")).collect();
    let loaded = parse(&format!("listeners:\n{list}"), "m.yaml").expect("the text is sound");
    assert_eq!(loaded.problems(), ["m.yaml:1:1: listeners: 65 are too many; at most 64"]);
}

#[test]
fn a_problem_of_the_command_line_names_its_option() {
    let mut loaded = parse("shards: 4", "m.yaml").expect("the text is sound");
    loaded.config.shards = Auto::Value(SHARDS_MAX + 1);
    assert_eq!(loaded.origin("shards"), Origin::File { line: 1, column: 1 });
    loaded.set_by_flag("shards", "--shards");
    assert_eq!(loaded.origin("shards"), Origin::Flag("--shards"));
    assert_eq!(loaded.problems(), ["--shards: 1025 is out of range; set 1 to 1024"]);

    loaded.set_by_flag("listeners", "--listen");
    assert_eq!(loaded.origin("listeners[3].address"), Origin::Flag("--listen"));
    assert_eq!(loaded.origin("listeners_of_another_kind"), Origin::Default);
}

/// A document that unfolds or nests without bound is an error within the budget, not memory.
#[test]
fn hostile_documents_are_bounded() {
    let aliases: String = (1..40)
        .map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 20].join(", ")))
        .collect();
    let listener = "{address: 127.0.0.1:1}";
    for (what, text) in [
        ("alias bomb in an unknown key", format!("a0: &a0 [x]\n{aliases}shards: *a39\n")),
        (
            "alias bomb in a known key",
            format!("listeners:\n  - &a {listener}\n{}", "  - *a\n".repeat(20_000)),
        ),
        ("deep flow nesting", "[".repeat(200_000)),
        ("deep nesting of a known key", format!("limits: {}", "{connect_timeout: ".repeat(10_000))),
        (
            "deep block nesting",
            (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
        ),
        ("deep lists", format!("listeners: {}", "- ".repeat(100_000))),
        ("many items", format!("listeners: [{}]", format!("{listener},").repeat(40_000))),
        ("long key", format!("{}: 1", "x".repeat(500_000))),
        ("long value", format!("shards: {}", "x".repeat(500_000))),
        ("self-reference", "limits: &a {connect_timeout: *a}".into()),
    ] {
        let error = parse(&text, "m.yaml").map(|loaded| loaded.config).expect_err(what).to_string();
        assert!(error.len() < 300, "{what}: {error}");
        assert!(error.starts_with("m.yaml:"), "{what}: {error}");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let directory = std::env::temp_dir().join(format!("midge-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for this test");
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).expect("a file for this test");
        path
    };
    for (path, message) in [
        (
            directory.join("absent"),
            "cannot be read: no such file or directory; check the path and its rights",
        ),
        (directory.clone(), "cannot be read: is a directory; check the path and its rights"),
        (
            file("latin1", b"shards: 2\n# M\xfcller\n"),
            "line 2 is not UTF-8; save the file as UTF-8",
        ),
        (
            file("large", &vec![b'#'; 1024 * 1024 + 1]),
            "larger than 1 MiB, so no configuration; check the path",
        ),
    ] {
        let error = load(&path).expect_err(message);
        assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
    }
    let loaded = load(&file("sound", b"shards: 2\n")).expect("the file is sound");
    assert_eq!(loaded.config.shards, Auto::Value(2));
    std::fs::remove_dir_all(&directory).expect("the directory of this test");
}

#[test]
fn levels_of_topics_have_sound_prefixes() {
    let text = "durability: {topics: [{prefix: 'a/#', acknowledge_after: memory}, \
                {prefix: b, acknowledge_after: memory}, {prefix: b, acknowledge_after: fsync}]}";
    let loaded = parse(text, "m.yaml").expect("it can be read");
    let problems = loaded.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("durability.topics[0].prefix: must be 1 to 1,024"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("durability.topics[2].prefix: `b` is there twice"),
        "{problems:?}"
    );
    let listener = "listeners: [{address: '127.0.0.1:1', acknowledge_after: memory}]";
    let loaded = parse(listener, "m.yaml").expect("it can be read");
    assert_eq!(loaded.config.listeners[0].acknowledge_after, Some(DurabilityLevel::Memory));
}
