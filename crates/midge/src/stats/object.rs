//! Statistics as one JSON object.

use std::time::{Duration, SystemTime};

use midge_metrics::{
    BusiestReading, BusyText, Field, Header, Histogram, Kind, Series, ShardReading,
};
use serde_json::{Map, Value, json};

use super::{Look, durability};

/// Everything; with an earlier look also what happened since.
pub(super) fn of(header: &Header, look: &Look, earlier: Option<&Look>, kept: &Value) -> Value {
    let total = look.reading.total();
    let mut object = json!({
        "pid": header.process_id,
        "shards": header.shards,
        "started_unix_ms": milliseconds(header.started.duration_since(SystemTime::UNIX_EPOCH)),
        "uptime_ms": milliseconds(look.wall.duration_since(header.started)),
        "durability": durability::object(kept, &look.reading),
        "total": numbers(&total),
        "cores": look.reading.shards.iter().map(numbers).collect::<Vec<_>>(),
        "busiest": busiest(&total.busiest),
    });
    if let Some(earlier) = earlier {
        let seconds = look.at.duration_since(earlier.at).as_secs_f64();
        let since = look.reading.since(&earlier.reading);
        object["interval"] = json!({
            "seconds": seconds,
            "total": rates(&since.total(), seconds),
            "cores": since.shards.iter().map(|core| rates(core, seconds)).collect::<Vec<_>>(),
        });
    }
    object
}

fn milliseconds(duration: Result<Duration, std::time::SystemTimeError>) -> u64 {
    u64::try_from(duration.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// All numbers of one core, or of all.
fn numbers(reading: &ShardReading) -> Value {
    let mut object = Map::new();
    for (field, value) in reading.counters.iter() {
        put(&mut object, field, value.into());
    }
    object.insert("published_at_ns".to_owned(), reading.published_at_ns.into());
    object.insert("histograms".to_owned(), histograms(reading));
    Value::Object(object)
}

/// Counters per second, and histograms of the time between two looks.
fn rates(reading: &ShardReading, seconds: f64) -> Value {
    let mut object = Map::new();
    for (field, value) in reading.counters.iter().filter(|(field, _)| field.kind == Kind::Counter) {
        put(&mut object, field, (value as f64 / seconds).into());
    }
    object.insert("histograms".to_owned(), histograms(reading));
    Value::Object(object)
}

fn histograms(reading: &ShardReading) -> Value {
    let mut object = Map::new();
    for series in Series::ALL {
        put(&mut object, series.field(), summary(reading.histogram(series)));
    }
    Value::Object(object)
}

fn summary(histogram: &Histogram) -> Value {
    let quantile = |quantile| histogram.quantile(quantile);
    json!({
        "count": histogram.count(),
        "mean": histogram.mean(),
        "p50": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "p999": quantile(0.999),
        "p9999": quantile(0.9999),
        "max": histogram.max(),
    })
}

/// Under its name; with labels, under its name and the labels' values.
fn put(object: &mut Map<String, Value>, field: &Field, value: Value) {
    let path: Vec<&str> =
        [field.name].into_iter().chain(field.labels().map(|(_, value)| value)).collect();
    let Some((last, groups)) = path.split_last() else { return };
    let mut place = object;
    for group in groups {
        let inner = place.entry(*group).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else { return };
        place = inner;
    }
    place.insert((*last).to_owned(), value);
}

fn busiest(busiest: &BusiestReading) -> Value {
    let lines = |lines: &[BusyText]| {
        let lines = lines.iter();
        lines
            .map(|l| json!({"text": l.text, "count": l.count, "error": l.error}))
            .collect::<Vec<_>>()
    };
    json!({
        "from_ns": busiest.from_ns,
        "to_ns": busiest.to_ns,
        "clients": lines(&busiest.clients),
        "topics": lines(&busiest.topics),
    })
}

#[cfg(test)]
mod tests {
    use midge_metrics::Counters;

    use super::*;

    #[test]
    fn labels_are_levels() {
        let mut reading = ShardReading::default();
        reading.counters =
            Counters { publishes_sent: [1, 2, 3], take_overs: 4, ..Counters::default() };
        let object = numbers(&reading);
        assert_eq!(object["publishes_sent"]["2"], 3);
        assert_eq!(object["connections_closed"]["taken_over"], 4);
        assert_eq!(object["loop_turns"], 0);
        assert_eq!(object["histograms"]["latency_ns"]["remote"]["1"]["count"], 0);
        assert_eq!(object["histograms"]["turn_ns"]["p99"], Value::Null);
        let rates = rates(&reading, 2.0);
        assert_eq!(rates["publishes_sent"]["2"], 1.5);
        assert_eq!(rates.get("connections_now"), None, "a gauge has no rate");
    }

    /// No number hides another.
    #[test]
    fn every_number_has_a_place() {
        fn leaves(value: &Value) -> usize {
            value.as_object().map_or(1, |object| object.values().map(leaves).sum())
        }
        let mut object = numbers(&ShardReading::default());
        object.as_object_mut().unwrap().remove("histograms");
        assert_eq!(leaves(&object), Counters::WORDS + 1);
    }
}
