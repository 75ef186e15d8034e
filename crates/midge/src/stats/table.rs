//! Statistics as a table: a line for each number, a column for each core and one for all.

use std::fmt::Write;
use std::time::SystemTime;

use midge_metrics::{Field, Header, Kind, Reading, Series, ShardReading, Unit};

use super::{Look, numbers};

/// Spaces between columns.
const GAP: usize = 2;

/// One line: its name and a cell for each column.
struct Row {
    name: String,
    cells: Vec<String>,
}

/// The table, in as many blocks of columns as `width` needs. With an earlier look, counters are rates.
pub(super) fn of(
    header: &Header,
    look: &Look,
    earlier: Option<&Look>,
    width: usize,
    all: bool,
    durability: &str,
) -> String {
    let seconds = earlier.map(|earlier| look.at.duration_since(earlier.at).as_secs_f64());
    let shown = match earlier {
        Some(earlier) => look.reading.since(&earlier.reading),
        None => look.reading.clone(),
    };
    let uptime = look.wall.duration_since(header.started).unwrap_or_default().as_secs();
    let mut text = format!(
        "midge, process {}, {} core{}, up {uptime} s",
        header.process_id,
        header.shards,
        if header.shards == 1 { "" } else { "s" },
    );
    match seconds {
        Some(seconds) => _ = writeln!(text, ", in the last {seconds:.2} s"),
        None => _ = writeln!(text, ", since the start"),
    }
    for shard in stuck(header, &look.reading, look.wall) {
        _ = writeln!(text, "core {shard} has not said anything for more than {STUCK_SECONDS} s");
    }
    text += durability;
    text.push('\n');
    let (names, columns) = columns(&shown);
    let mut rows = counter_rows(&columns, seconds, all);
    rows.extend(histogram_rows(&columns, all));
    write_blocks(&mut text, &names, &rows, width);
    text
}

/// A shard that lives publishes at least this often: it never sleeps longer than ten seconds.
const STUCK_SECONDS: u64 = 15;

/// Cores whose last publication is too long ago.
pub(crate) fn stuck(header: &Header, reading: &Reading, now: SystemTime) -> Vec<usize> {
    let age = now.duration_since(header.started).unwrap_or_default();
    let late = |core: &ShardReading| {
        let published = std::time::Duration::from_nanos(core.published_at_ns);
        age.saturating_sub(published).as_secs() > STUCK_SECONDS
    };
    let shards = reading.shards.iter().enumerate();
    shards.filter(|(_, core)| late(core)).map(|(shard, _)| shard).collect()
}

/// All cores together, if there are several, then each.
fn columns(reading: &Reading) -> (Vec<String>, Vec<ShardReading>) {
    let mut names: Vec<String> =
        (0..reading.shards.len()).map(|core| format!("core {core}")).collect();
    let mut columns = reading.shards.clone();
    if columns.len() > 1 {
        names.insert(0, "total".to_owned());
        columns.insert(0, reading.total());
    }
    (names, columns)
}

fn counter_rows(columns: &[ShardReading], seconds: Option<f64>, all: bool) -> Vec<Row> {
    let mut readings: Vec<_> = columns.iter().map(|column| column.counters.iter()).collect();
    let mut rows = Vec::new();
    loop {
        let cells: Vec<(&Field, u64)> = readings.iter_mut().filter_map(Iterator::next).collect();
        let Some((field, _)) = cells.first() else { return rows };
        if !all && cells.iter().all(|(_, value)| *value == 0) {
            continue;
        }
        let text = |value| match seconds {
            Some(seconds) if field.kind == Kind::Counter => numbers::rate(field, value, seconds),
            _ => numbers::value(field, value),
        };
        rows.push(Row {
            name: name(field),
            cells: cells.iter().map(|(_, value)| text(*value)).collect(),
        });
    }
}

fn histogram_rows(columns: &[ShardReading], all: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for series in Series::ALL {
        let field = series.field();
        if !all && columns.iter().all(|column| column.histogram(series).count() == 0) {
            continue;
        }
        for (what, quantile) in
            [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)]
        {
            let cell = |column: &ShardReading| {
                let histogram = column.histogram(series);
                let value =
                    if what == "max" { histogram.max() } else { histogram.quantile(quantile) };
                match (value, field.unit) {
                    (None, _) => "-".to_owned(),
                    (Some(value), Unit::Nanoseconds) => numbers::time(value),
                    (Some(value), _) => numbers::value(field, value),
                }
            };
            rows.push(Row {
                name: format!("{} {what}", name(field)),
                cells: columns.iter().map(cell).collect(),
            });
        }
    }
    rows
}

/// `packets_received{publish}`: the labels' keys go without saying.
fn name(field: &Field) -> String {
    let values: Vec<&str> = field.labels().map(|(_, value)| value).collect();
    if values.is_empty() {
        field.name.to_owned()
    } else {
        format!("{}{{{}}}", field.name, values.join(","))
    }
}

fn write_blocks(text: &mut String, names: &[String], rows: &[Row], width: usize) {
    let first = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().map(|row| row.cells[column].chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut from = 0;
    while from < names.len() {
        let mut used = first;
        let mut to = from;
        while to < names.len() && (to == from || used + GAP + widths[to] <= width) {
            used += GAP + widths[to];
            to += 1;
        }
        if from > 0 {
            text.push('\n');
        }
        let mut line = |name: &str, cells: &[String]| {
            let mut line = format!("{name:first$}");
            for (cell, width) in cells[from..to].iter().zip(&widths[from..to]) {
                _ = write!(line, "{:GAP$}{cell:>width$}", "");
            }
            _ = writeln!(text, "{}", line.trim_end());
        };
        line("", names);
        for row in rows {
            line(&row.name, &row.cells);
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use midge_metrics::Counters;

    use super::*;

    fn look(after: Duration, factor: u64) -> Look {
        let shard = |number: u64| {
            let mut reading = ShardReading::default();
            reading.published_at_ns = after.as_nanos() as u64;
            reading.counters = Counters {
                connections_now: number,
                publishes_sent: [0, number * factor, 0],
                ..Counters::default()
            };
            reading
        };
        Look {
            reading: Reading { shards: vec![shard(1), shard(20)] },
            at: ORIGIN.with(|origin| *origin) + after,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000) + after,
        }
    }

    thread_local! {
        static ORIGIN: Instant = Instant::now();
    }

    fn header() -> Header {
        Header {
            shard: 0,
            shards: 2,
            process_id: 7,
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        }
    }

    #[test]
    fn totals_stand_before_cores() {
        let text = of(&header(), &look(Duration::from_secs(9), 100), None, 200, false, "");
        let expected = "\
midge, process 7, 2 cores, up 9 s, since the start

                   total  core 0  core 1
connections_now       21       1      20
publishes_sent{1}  2,100     100   2,000
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_second_look_shows_rates() {
        let earlier = look(Duration::from_secs(9), 100);
        let later = look(Duration::from_secs(11), 101);
        let text = of(&header(), &later, Some(&earlier), 200, false, "");
        assert!(text.contains("in the last 2.00 s"), "{text}");
        assert!(text.contains("connections_now       21       1      20"), "{text}");
        assert!(text.contains("publishes_sent{1}   11/s   0.5/s    10/s\n"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_blocks() {
        let text = of(&header(), &look(Duration::from_secs(9), 100), None, 30, false, "");
        assert!(text.lines().all(|line| line.len() <= 50), "{text}");
        assert_eq!(text.matches("publishes_sent{1}").count(), 3, "{text}");
    }

    #[test]
    fn everything_can_be_shown() {
        let text = of(&header(), &look(Duration::from_secs(9), 100), None, 200, true, "");
        assert_eq!(text.lines().count(), 3 + Counters::WORDS + Series::COUNT * 5);
    }

    #[test]
    fn a_core_that_is_stuck_is_told() {
        let mut look = look(Duration::from_secs(60), 1);
        look.reading.shards[1].published_at_ns = 40_000_000_000;
        let text = of(&header(), &look, None, 200, false, "");
        assert!(text.contains("\ncore 1 has not said anything for more than 15 s\n"), "{text}");
        assert!(!text.contains("core 0 has not"), "{text}");
    }
}
