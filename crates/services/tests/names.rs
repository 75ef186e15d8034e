//! The endpoint's text parses, and the dashboard and the alert rules use no name that it does not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, RwLock},
    time::SystemTime,
};

use midge_metrics::{Busiest, Counters, Identity, Instance, PageWriter, Series};
use midge_services::{
    ListenerCounter, ListenerLabel, ListenerNumbers, Standing, Starting, View, start,
};
use serde::Deserialize;

/// A scrape of a broker of two shards that is not there.
fn scrape(test: &str) -> String {
    let directory = std::env::temp_dir().join(format!("midge-{test}-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory for this test");
    for shard in 0..2 {
        let identity = Identity { shard, shards: 2, started: SystemTime::now() };
        let mut page = PageWriter::create(&directory, identity).expect("a page");
        for (number, series) in (1..).zip(Series::ALL) {
            page.record(series, number * 1_000_000, number);
        }
        let mut words = [0; Counters::WORDS];
        for (number, word) in (1..).zip(&mut words) {
            *word = number;
        }
        page.publish(&Counters::from_words(&words), &mut Busiest::default(), 1);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let view = View {
        standing: Standing::default(),
        starting: Starting::default(),
        version: "1.2.3",
        listeners: Arc::new(RwLock::new(vec![ListenerLabel {
            name: "a".into(),
            address: address.to_string(),
            number: 0,
        }])),
        counter: ListenerCounter(Arc::new(|_| ListenerNumbers::default())),
    };
    let services = start(listener, view).expect("a thread");
    services.show(Instance::open(&directory).map_err(|error| error.to_string()), Vec::new());
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    drop(services);
    _ = fs::remove_dir_all(&directory);
    answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// One line with a value: name, labels, value.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The format's grammar as far as it is used here.
///
/// # Panics
/// With the line that is none.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    let head = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    assert!(
        name.starts_with(head) && name.chars().all(|l| head(l) || l.is_ascii_digit()),
        "{line}"
    );
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").expect(line);
            assert!(key.starts_with(head), "{line}");
            let mut value = String::new();
            let mut letters = after.char_indices();
            let end = loop {
                match letters.next().expect(line) {
                    (at, '"') => break at,
                    (_, '\\') => match letters.next().expect(line).1 {
                        'n' => value.push('\n'),
                        letter @ ('\\' | '"') => value.push(letter),
                        _ => panic!("{line}"),
                    },
                    (_, letter) => value.push(letter),
                }
            };
            assert_eq!(labels.insert(key.to_owned(), value), None, "{line}");
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect(line);
    }
    let value = rest.strip_prefix(' ').expect(line).parse().expect(line);
    Sample { name: name.to_owned(), labels, value }
}

#[test]
fn the_text_parses() {
    let text = scrape("names-parse");
    assert!(text.ends_with('\n'));
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    let mut seen = BTreeSet::new();
    let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(help.ends_with('.') || help.contains(": "), "{line}");
            family = name.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(name, family, "HELP and TYPE stand together: {line}");
            let former = types.insert(name.to_owned(), kind.to_owned());
            assert_eq!(former, None, "a family in two places: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let sample = sample(line);
        let kind = types.get(&family).expect(line).as_str();
        if kind == "histogram" {
            let part = sample.name.strip_prefix(&family).expect(line);
            assert!(["_bucket", "_sum", "_count"].contains(&part), "{line}");
            let mut series = sample.labels.clone();
            let le = series.remove("le");
            let key = format!("{family}{series:?}");
            match part {
                "_bucket" => {
                    let bound: f64 = le.expect(line).replace("+Inf", "inf").parse().expect(line);
                    let last = buckets.insert(key, (bound, sample.value));
                    let (below, fewer) = last.unwrap_or((-1.0, 0.0));
                    assert!(below < bound && fewer <= sample.value, "{line}");
                }
                "_count" => assert_eq!(buckets[&key], (f64::INFINITY, sample.value), "{line}"),
                _ => {}
            }
        } else {
            assert_eq!(sample.name, family, "{line}");
        }
        assert!(seen.insert(format!("{}{:?}", sample.name, sample.labels)), "twice: {line}");
        // Closed sets and what the configuration says; a client or a topic never.
        let known = [
            "core",
            "qos",
            "condition",
            "reason",
            "type",
            "state",
            "kind",
            "path",
            "le",
            "version",
            "listener",
            "address",
        ];
        let unknown: Vec<&String> =
            sample.labels.keys().filter(|key| !known.contains(&key.as_str())).collect();
        assert!(unknown.is_empty(), "a label that nobody has decided on: {line}");
    }
    // Every number that shards count is there, but the packet type that is none.
    let cores = text.lines().filter(|line| line.contains("{core=\"1\"")).count();
    assert!(cores > Counters::WORDS, "{cores}");
}

/// Words of an expression that name a metric of this program.
fn names(expression: &str) -> BTreeSet<String> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("midge_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn assert_known(expressions: &[String], least: usize) {
    let text = scrape(&format!("names-{least}"));
    let known: BTreeSet<String> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| sample(line).name).collect();
    let used: BTreeSet<String> = expressions.iter().flat_map(|text| names(text)).collect();
    let unknown: Vec<&String> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "not in the endpoint's output: {unknown:?}");
    assert!(used.len() >= least, "{used:?}");
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let text = include_str!("../../../configs/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let mut expressions = Vec::new();
    let mut numbers = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("a list") {
        assert!(numbers.insert(panel["id"].as_u64()), "a number twice: {}", panel["title"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().expect("a text").to_owned());
        }
    }
    assert_known(&expressions, 20);
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[test]
fn the_alerts_ask_for_what_there_is_and_say_what_to_do() {
    let text = include_str!("../../../configs/alerts.yaml");
    let rules: Rules = serde_saphyr::from_str(text).expect("YAML");
    let rules: Vec<Rule> = rules.groups.into_iter().flat_map(|group| group.rules).collect();
    for Rule { alert, labels, annotations, .. } in &rules {
        assert!(["warning", "critical"].contains(&labels["severity"].as_str()), "{alert}");
        assert!(annotations["summary"].contains("{{"), "{alert}");
        assert!(annotations["runbook"].ends_with(['.', '?']), "{alert}");
    }
    let expressions: Vec<String> = rules.into_iter().map(|rule| rule.expr).collect();
    assert_known(&expressions, 10);
}

#[test]
fn samples_are_read_as_they_are_written() {
    let read = sample("a_b{c=\"d\\\"e\",f=\"g\\\\\\n\"} 1.5");
    assert_eq!((read.name.as_str(), read.value), ("a_b", 1.5));
    assert_eq!(read.labels["c"], "d\"e");
    assert_eq!(read.labels["f"], "g\\\n");
}
