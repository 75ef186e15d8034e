//! Statistics pages as Prometheus text (format 0.0.4).
//!
//! Names follow from the list of counters (`midge_metrics`): the prefix `midge_`, base units (seconds, bytes) at the end,
//! `_total` behind what only grows; so a number that is counted anew appears here by itself. Every series of a shard has
//! the label `core`, the number of the shard. Histograms are classic ones; their bounds are met to 3.1 %, the width of
//! the page's own buckets.

use std::fmt::{self, Write};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use midge_metrics::{Counters, Field, Header, Kind, Reading, Series, Unit};

use crate::process::Process;

/// The label of a listener, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLabel {
    /// As logs and statistics call it: from the configuration.
    pub name: String,
    /// Its real address: IP address and port, or a path.
    pub address: String,
    /// By what number it is counted.
    pub number: u16,
}

/// What has come by one listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerNumbers {
    /// Connections that exist now.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were closed before anybody looked at what they sent.
    pub refused: u64,
    /// CONNECT packets refused.
    pub connects_refused: u64,
    /// Times a client was not read from because it, or all of the listener together, had published more than they may.
    pub publishers_paced: u64,
    /// Retained messages refused because the listener's limit was reached.
    pub retained_refused: u64,
    /// Retained messages that have come by it; `None`: they have no limit, and are not counted.
    pub retained_messages: Option<u64>,
    /// Their bytes, likewise.
    pub retained_bytes: Option<u64>,
}

/// Tells what has come by a listener, by its number.
#[derive(Clone)]
pub struct ListenerCounter(pub Arc<dyn Fn(u16) -> ListenerNumbers + Send + Sync>);

impl fmt::Debug for ListenerCounter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ListenerCounter")
    }
}

/// The listeners as they are now: they come and go while the process lives.
pub type ListenerLabels = Arc<RwLock<Vec<ListenerLabel>>>;

/// What does not change while the process lives, made ready once: names, descriptions, labels.
#[derive(Debug)]
pub(crate) struct Exposition {
    counters: Vec<Family>,
    histograms: Vec<HistogramFamily>,
    /// Series of the process that are the same at each scrape.
    constants: String,
    listeners: ListenerLabels,
    counter: ListenerCounter,
    started: SystemTime,
}

/// One family of counters or gauges.
#[derive(Debug)]
struct Family {
    /// `# HELP` and `# TYPE`.
    head: String,
    unit: Unit,
    /// Number in the list of counters, and everything of the line before the number of the core.
    series: Vec<(usize, String, String)>,
}

#[derive(Debug)]
struct HistogramFamily {
    head: String,
    name: String,
    unit: Unit,
    series: Vec<(Series, String)>,
}

/// Bounds of histograms of times, nanoseconds: 1, 2 and 5 of each power of ten from 10 µs to 10 s.
const TIME_BOUNDS: [u64; 19] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Bounds of histograms of numbers.
const COUNT_BOUNDS: [u64; 14] =
    [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

impl Exposition {
    pub(crate) fn new(
        version: &str,
        header: Header,
        listeners: ListenerLabels,
        counter: ListenerCounter,
    ) -> Self {
        let mut constants = String::new();
        let started =
            header.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let gauge = |name: &str, help: &str| head(name, help, "gauge");
        constants += &gauge("midge_build_info", "Always 1; its label is the version.");
        _ = writeln!(constants, "midge_build_info{{version=\"{}\"}} 1", escaped(version));
        constants += &gauge("midge_shards", "How many shards serve.");
        _ = writeln!(constants, "midge_shards {}", header.shards);
        constants +=
            &gauge("process_start_time_seconds", "When the shards were started, since 1970.");
        _ = writeln!(constants, "process_start_time_seconds {started}");
        Self {
            counters: counter_families(),
            histograms: histogram_families(),
            constants,
            listeners,
            counter,
            started: header.started,
        }
    }

    /// The whole answer to a scrape.
    pub(crate) fn render(
        &self,
        reading: &Reading,
        ready: bool,
        process: &Process,
        now: SystemTime,
    ) -> String {
        let mut text = String::with_capacity(4096 + reading.shards.len() * 64 * 1024);
        text += &self.constants;
        text += &head("midge_listener_info", "Always 1; its labels name a listener.", "gauge");
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        for ListenerLabel { name, address, .. } in &*listeners {
            let (name, address) = (escaped(name), escaped(address));
            _ = writeln!(
                text,
                "midge_listener_info{{listener=\"{name}\",address=\"{address}\"}} 1"
            );
        }
        let counts: Vec<(String, ListenerNumbers)> = listeners
            .iter()
            .map(|one| (escaped(&one.name), (self.counter.0)(one.number)))
            .collect();
        drop(listeners);
        for (name, help, kind, value) in BY_LISTENER {
            text += &head(name, help, kind);
            for (listener, numbers) in &counts {
                let Some(value) = value(numbers) else { continue };
                _ = writeln!(text, "{name}{{listener=\"{listener}\"}} {value}");
            }
        }
        text += &head("midge_ready", "1 while new clients are served: /health/ready.", "gauge");
        _ = writeln!(text, "midge_ready {}", u8::from(ready));
        process.write(&mut text);

        let name = "midge_statistics_age_seconds";
        let help = "Time since the shard last published; much more than 11 seconds: it is stuck.";
        text += &head(name, help, "gauge");
        for (core, shard) in reading.shards.iter().enumerate() {
            let published = self.started + Duration::from_nanos(shard.published_at_ns);
            let age = now.duration_since(published).unwrap_or_default().as_secs_f64();
            _ = writeln!(text, "{name}{{core=\"{core}\"}} {age:.3}");
        }

        let words: Vec<[u64; Counters::WORDS]> =
            reading.shards.iter().map(|shard| shard.counters.words()).collect();
        for family in &self.counters {
            text += &family.head;
            for (core, words) in words.iter().enumerate() {
                for (index, before, after) in &family.series {
                    _ = write!(text, "{before}{core}{after}");
                    write_value(&mut text, words[*index], family.unit);
                }
            }
        }
        for family in &self.histograms {
            text += &family.head;
            for (core, shard) in reading.shards.iter().enumerate() {
                for (series, labels) in &family.series {
                    write_histogram(&mut text, family, core, labels, shard.histogram(*series));
                }
            }
        }
        text
    }
}

/// A family by listener: name, help, kind, and which of the numbers.
type ByListener = (&'static str, &'static str, &'static str, fn(&ListenerNumbers) -> Option<u64>);

/// They stand beside the families by core: one series for each listener and core would be too many.
const BY_LISTENER: [ByListener; 8] = [
    (
        "midge_listener_connections",
        "Connections that exist now, by listener.",
        "gauge",
        |numbers| Some(numbers.connections),
    ),
    (
        "midge_listener_connections_accepted_total",
        "Connections accepted from the network, by listener.",
        "counter",
        |numbers| Some(numbers.accepted),
    ),
    (
        "midge_listener_connections_refused_total",
        "Connections that were closed before anybody looked at what they sent, by listener.",
        "counter",
        |numbers| Some(numbers.refused),
    ),
    (
        "midge_listener_connects_refused_total",
        "CONNECT packets refused, by listener.",
        "counter",
        |numbers| Some(numbers.connects_refused),
    ),
    (
        "midge_listener_publishers_paced_total",
        "Times a client was not read from because it, or all of its listener together, had published more than they may, \
         by listener.",
        "counter",
        |numbers| Some(numbers.publishers_paced),
    ),
    (
        "midge_listener_retained_refused_total",
        "Retained messages refused because their listener's limit was reached, by listener.",
        "counter",
        |numbers| Some(numbers.retained_refused),
    ),
    (
        "midge_listener_retained_messages",
        "Retained messages that have come by a listener that limits them, with what shards have set aside, by listener.",
        "gauge",
        |numbers| numbers.retained_messages,
    ),
    (
        "midge_listener_retained_bytes",
        "Bytes of retained messages that have come by a listener that limits them, with what shards have set aside, \
         by listener.",
        "gauge",
        |numbers| numbers.retained_bytes,
    ),
];

fn write_histogram(
    text: &mut String,
    family: &HistogramFamily,
    core: usize,
    labels: &str,
    histogram: &midge_metrics::Histogram,
) {
    let HistogramFamily { name, unit, .. } = family;
    let bounds = match unit {
        Unit::Nanoseconds => &TIME_BOUNDS[..],
        Unit::Count | Unit::Bytes => &COUNT_BOUNDS,
    };
    for bound in bounds {
        _ = write!(text, "{name}_bucket{{core=\"{core}\"{labels},le=\"");
        write_number(text, *bound, *unit);
        _ = writeln!(text, "\"}} {}", histogram.count_up_to(*bound));
    }
    let count = histogram.count();
    _ = writeln!(text, "{name}_bucket{{core=\"{core}\"{labels},le=\"+Inf\"}} {count}");
    _ = write!(text, "{name}_sum{{core=\"{core}\"{labels}}} ");
    write_value(text, histogram.sum(), *unit);
    _ = writeln!(text, "{name}_count{{core=\"{core}\"{labels}}} {count}");
}

fn write_value(text: &mut String, value: u64, unit: Unit) {
    write_number(text, value, unit);
    text.push('\n');
}

/// In base units: seconds for nanoseconds, exactly.
fn write_number(text: &mut String, value: u64, unit: Unit) {
    match unit {
        Unit::Count | Unit::Bytes => _ = write!(text, "{value}"),
        Unit::Nanoseconds => {
            let (seconds, rest) = (value / 1_000_000_000, value % 1_000_000_000);
            if rest == 0 {
                _ = write!(text, "{seconds}");
            } else {
                let digits = format!("{rest:09}");
                _ = write!(text, "{seconds}.{}", digits.trim_end_matches('0'));
            }
        }
    }
}

fn counter_families() -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut last = "";
    for (index, field) in Counters::FIELDS.iter().enumerate() {
        let name = name(field);
        if field.name != last {
            last = field.name;
            let kind = if field.kind == Kind::Counter { "counter" } else { "gauge" };
            let unit = field.unit;
            families.push(Family {
                head: head(&name, help(field), kind),
                unit,
                series: Vec::new(),
            });
        }
        // A packet type that no packet has.
        if field.labels().any(|(_, value)| value == "reserved") {
            continue;
        }
        let series = (index, format!("{name}{{core=\""), format!("\"{}}} ", labels(field)));
        families.last_mut().expect("one was begun").series.push(series);
    }
    families
}

fn histogram_families() -> Vec<HistogramFamily> {
    let mut families: Vec<HistogramFamily> = Vec::new();
    for series in Series::ALL {
        let field = series.field();
        let name = name_of_histogram(field);
        if families.last().is_none_or(|family| family.name != name) {
            let head = head(&name, help(field), "histogram");
            families.push(HistogramFamily { head, name, unit: field.unit, series: Vec::new() });
        }
        families.last_mut().expect("one was begun").series.push((series, labels(field)));
    }
    families
}

fn head(name: &str, help: &str, kind: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

/// What a family is. The list has a sentence for each of its numbers, and the first one's is not always the family's.
fn help(field: &Field) -> &'static str {
    match field.name {
        "messages_dropped" => "Messages dropped instead of delivered, by why.",
        _ => field.sentence(),
    }
}

/// All labels but the core's, each with a comma before it.
fn labels(field: &Field) -> String {
    field.labels().map(|(key, value)| format!(",{key}=\"{}\"", escaped(value))).collect()
}

/// `connections_now` → `midge_connections`, `bytes_received` → `midge_received_bytes_total`, `loop_busy_ns` →
/// `midge_loop_busy_seconds_total`.
fn name(field: &Field) -> String {
    let mut name = base_name(field);
    if field.kind == Kind::Counter {
        name += "_total";
    }
    name
}

/// The same without `_total`, which a histogram does not have.
fn name_of_histogram(field: &Field) -> String {
    base_name(field)
}

fn base_name(field: &Field) -> String {
    let plain = field.name.strip_suffix("_now").unwrap_or(field.name);
    let (unit, suffix) = match field.unit {
        Unit::Count => ("", ""),
        Unit::Bytes => ("bytes", "_bytes"),
        Unit::Nanoseconds => ("ns", "_seconds"),
    };
    let words: Vec<&str> =
        plain.split('_').filter(|word| unit.is_empty() || *word != unit).collect();
    format!("midge_{}{suffix}", words.join("_"))
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_metrics::ShardReading;

    fn header() -> Header {
        Header {
            shard: 0,
            shards: 2,
            process_id: 1,
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
        }
    }

    fn rendered(reading: &Reading, ready: bool) -> String {
        let address = "127.0.0.1:1883".to_owned();
        let listeners = vec![ListenerLabel { name: "a\"b\\c".into(), address, number: 3 }];
        let counter = ListenerCounter(Arc::new(|number| ListenerNumbers {
            connections: 10 + u64::from(number),
            accepted: 20,
            refused: 30,
            connects_refused: 40,
            publishers_paced: 50,
            retained_refused: 60,
            retained_messages: Some(70),
            retained_bytes: None,
        }));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_010);
        let exposition =
            Exposition::new("1.2.3", header(), Arc::new(RwLock::new(listeners)), counter);
        exposition.render(reading, ready, &Process::default(), now)
    }

    fn reading() -> Reading {
        let first = Counters {
            connections_now: 7,
            dropped_queue_full: 3,
            publishes_sent: [1, 2, 3],
            loop_busy_ns: 1_500_000_000,
            bytes_received: 99,
            ..Counters::default()
        };
        let shard = |counters| {
            let mut shard = ShardReading::default();
            shard.published_at_ns = 9_500_000_000;
            shard.counters = counters;
            shard
        };
        Reading { shards: vec![shard(first), shard(Counters::default())] }
    }

    #[test]
    fn names_have_base_units_and_numbers_are_in_them() {
        let text = rendered(&reading(), true);
        for line in [
            "midge_build_info{version=\"1.2.3\"} 1",
            "midge_shards 2",
            "midge_listener_info{listener=\"a\\\"b\\\\c\",address=\"127.0.0.1:1883\"} 1",
            "# TYPE midge_listener_connections gauge",
            "midge_listener_connections{listener=\"a\\\"b\\\\c\"} 13",
            "midge_listener_connections_accepted_total{listener=\"a\\\"b\\\\c\"} 20",
            "midge_listener_connections_refused_total{listener=\"a\\\"b\\\\c\"} 30",
            "midge_listener_connects_refused_total{listener=\"a\\\"b\\\\c\"} 40",
            "midge_listener_publishers_paced_total{listener=\"a\\\"b\\\\c\"} 50",
            "midge_listener_retained_refused_total{listener=\"a\\\"b\\\\c\"} 60",
            "midge_listener_retained_messages{listener=\"a\\\"b\\\\c\"} 70",
            "midge_ready 1",
            "process_start_time_seconds 1000",
            "midge_statistics_age_seconds{core=\"0\"} 0.500",
            "# TYPE midge_connections gauge",
            "midge_connections{core=\"0\"} 7",
            "midge_connections{core=\"1\"} 0",
            "# TYPE midge_messages_dropped_total counter",
            "midge_messages_dropped_total{core=\"0\",reason=\"queue_full\"} 3",
            "midge_publishes_sent_total{core=\"0\",qos=\"2\"} 3",
            "midge_received_bytes_total{core=\"0\"} 99",
            "midge_loop_busy_seconds_total{core=\"0\"} 1.5",
            "midge_memory_bytes{core=\"1\",kind=\"sessions\"} 0",
            "midge_retained_bytes{core=\"0\"} 0",
            "# TYPE midge_latency_seconds histogram",
            "midge_latency_seconds_bucket{core=\"0\",path=\"local\",qos=\"0\",le=\"0.00001\"} 0",
            "midge_latency_seconds_bucket{core=\"1\",path=\"remote\",qos=\"2\",le=\"+Inf\"} 0",
            "midge_turn_completions_bucket{core=\"0\",le=\"10000\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        for absent in ["reserved", "_ns", "_now"] {
            assert!(!text.contains(absent), "{absent} in\n{text}");
        }
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut histogram = midge_metrics::Histogram::default();
        histogram.record(15_000, 3);
        histogram.record(700_000, 2);
        histogram.record(40_000_000_000, 1);
        let family = HistogramFamily {
            head: String::new(),
            name: "h".into(),
            unit: Unit::Nanoseconds,
            series: Vec::new(),
        };
        let mut text = String::new();
        write_histogram(&mut text, &family, 4, ",qos=\"1\"", &histogram);
        for line in [
            "h_bucket{core=\"4\",qos=\"1\",le=\"0.00001\"} 0",
            "h_bucket{core=\"4\",qos=\"1\",le=\"0.00002\"} 3",
            "h_bucket{core=\"4\",qos=\"1\",le=\"0.0005\"} 3",
            "h_bucket{core=\"4\",qos=\"1\",le=\"0.001\"} 5",
            "h_bucket{core=\"4\",qos=\"1\",le=\"10\"} 5",
            "h_bucket{core=\"4\",qos=\"1\",le=\"+Inf\"} 6",
            "h_sum{core=\"4\",qos=\"1\"} 40.001445",
            "h_count{core=\"4\",qos=\"1\"} 6",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn seconds_are_exact() {
        for (nanoseconds, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (10_000, "0.00001"),
            (1_500_000_000, "1.5"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            let mut found = String::new();
            write_number(&mut found, nanoseconds, Unit::Nanoseconds);
            assert_eq!(found, text);
        }
    }
}
