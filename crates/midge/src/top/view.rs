//! What `top` shows: readings in, lines out.

use std::collections::VecDeque;

use midge_metrics::{BusyText, ConnectionState, Header, Histogram, Reading, Series, ShardReading};

use crate::{
    stats::{
        Look,
        numbers::{harmless, short, time},
    },
    units::{count, human},
};

/// Readings that a sparkline shows.
const HISTORY: usize = 20;

/// Lines for the busiest, at most.
const BUSIEST_MAX: usize = 10;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The state behind the screen.
pub(super) struct View {
    header: Header,
    look: Look,
    /// What happened between the two last looks, and in how many seconds.
    since: Option<(Reading, f64)>,
    /// By core, newest last: share of time that it was busy, and messages sent per second.
    history: Vec<VecDeque<(f64, f64)>>,
    first_core: usize,
    pub(super) paused: bool,
}

impl View {
    pub(super) fn new(header: Header, look: Look) -> Self {
        let history = vec![VecDeque::new(); look.reading.shards.len()];
        Self { header, look, since: None, history, first_core: 0, paused: false }
    }

    /// A new reading.
    pub(super) fn take(&mut self, look: Look) {
        let seconds = look.at.duration_since(self.look.at).as_secs_f64().max(1e-9);
        let since = look.reading.since(&self.look.reading);
        for (history, core) in self.history.iter_mut().zip(&since.shards) {
            let busy = core.counters.loop_busy_ns as f64 / 1e9 / seconds;
            let sent = core.counters.publishes_sent.iter().sum::<u64>() as f64 / seconds;
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back((busy, sent));
        }
        self.since = Some((since, seconds));
        self.look = look;
    }

    /// Moves through the cores.
    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.look.reading.shards.len().saturating_sub(1);
        self.first_core = self.first_core.saturating_add_signed(by).min(last);
    }

    /// The screen, at most `rows` lines.
    pub(super) fn lines(&self, columns: usize, rows: usize, coloured: bool) -> Vec<String> {
        let style = Style { coloured };
        let total = self.look.reading.total();
        let nothing = (Reading { shards: Vec::new() }, 1.0);
        let (since, seconds) = self.since.as_ref().unwrap_or(&nothing);
        let sum = since.total();
        let mut lines = self.head(&style, &total, &sum, *seconds);

        let latencies = latencies(&sum);
        let busiest = self.busiest(&total, columns, *seconds);
        // The cores get what the rest leaves, and at least three lines.
        let cores = self.look.reading.shards.len();
        let fixed = lines.len() + 2 + latencies.len() + 1 + 1;
        let wanted = busiest.len().min(BUSIEST_MAX + 1);
        let room = rows.saturating_sub(fixed + wanted + 1).max(3);
        lines.push(String::new());
        lines.extend(self.cores(&style, since, *seconds, room.min(cores)));
        lines.push(String::new());
        lines.extend(latencies.into_iter().enumerate().map(|(n, line)| style.title(n == 0, line)));
        lines.push(String::new());
        let left = rows.saturating_sub(lines.len() + 1);
        let shown = busiest.into_iter().take(wanted.min(left)).enumerate();
        lines.extend(shown.map(|(n, line)| style.title(n == 0, line)));
        while lines.len() + 1 < rows {
            lines.push(String::new());
        }
        lines.truncate(rows.saturating_sub(1));
        let paused = if self.paused { "  paused" } else { "" };
        lines.push(style.dim(format!("q quit  space pause  ↑↓ cores{paused}")));
        lines
    }

    fn head(
        &self,
        style: &Style,
        total: &ShardReading,
        sum: &ShardReading,
        seconds: f64,
    ) -> Vec<String> {
        let uptime = self.look.wall.duration_since(self.header.started).unwrap_or_default();
        let now = &total.counters;
        let per_second = |value: u64| short(value as f64 / seconds);
        let of = |values: &[u64]| values.iter().sum::<u64>();
        let then = &sum.counters;
        vec![
            style.title(
                true,
                format!(
                    "midge  process {}  {} cores  up {} s",
                    self.header.process_id,
                    self.header.shards,
                    uptime.as_secs()
                ),
            ),
            format!(
                "connections {} ({} connected)  sessions {}  subscriptions {}  retained {}",
                count(now.connections_now),
                count(now.connections_by_state_now[ConnectionState::Connected as usize]),
                count(now.sessions_now),
                count(now.subscriptions_now),
                count(now.retained_now),
            ),
            format!(
                "in {} msg/s {}/s  out {} msg/s {}/s  dropped {}/s  connects {}/s  closed {}/s",
                per_second(of(&then.publishes_received)),
                human((then.bytes_received as f64 / seconds) as u64),
                per_second(of(&then.publishes_sent)),
                human((then.bytes_sent as f64 / seconds) as u64),
                per_second(then.messages_dropped()),
                per_second(then.connects_accepted),
                per_second(closed(sum)),
            ),
            format!(
                "queued {}  in flight {}  hops {}/s ({}/s unwanted)  rings full {}/s",
                count(now.messages_queued_now),
                count(now.messages_in_flight_now),
                per_second(then.hops_sent),
                per_second(then.hops_unwanted),
                per_second(then.ring_full),
            ),
        ]
    }

    fn cores(&self, style: &Style, since: &Reading, seconds: f64, room: usize) -> Vec<String> {
        let title = format!(
            "{:>4}  {:>5} {:20}  {:>6} {:>6} {:20}  {:>7}  {:>6}  {:>8} {:>8}  {:>6}",
            "core",
            "busy",
            "",
            "in/s",
            "out/s",
            "",
            "conns",
            "hops/s",
            "turn p50",
            "turn p99",
            "c/turn"
        );
        let mut lines = vec![style.title(true, title)];
        let most = self.history.iter().flatten().map(|(_, sent)| *sent).fold(1.0, f64::max);
        // Whole pages of cores: nobody scrolls past the last.
        let first = self.first_core.min(self.history.len().saturating_sub(room));
        for core in (first..self.history.len()).take(room) {
            let history = &self.history[core];
            let empty = ShardReading::default();
            let reading = since.shards.get(core).unwrap_or(&empty);
            let counters = &reading.counters;
            let rate = |values: &[u64]| short(values.iter().sum::<u64>() as f64 / seconds);
            let turn = reading.histogram(Series::Turn);
            let shown = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
            let busy = history.back().map_or(0.0, |(busy, _)| *busy);
            let completions = reading.histogram(Series::TurnCompletions).mean();
            lines.push(format!(
                "{core:>4}  {} {}  {:>6} {:>6} {}  {:>7}  {:>6}  {:>8} {:>8}  {:>6}",
                style.load(busy, format!("{:>4.0}%", busy * 100.0)),
                style.load(busy, sparkline(history.iter().map(|(busy, _)| *busy))),
                rate(&counters.publishes_received),
                rate(&counters.publishes_sent),
                sparkline(history.iter().map(|(_, sent)| sent / most)),
                self.look.reading.shards[core].counters.connections_now,
                rate(&[counters.hops_sent]),
                shown(turn.quantile(0.5)),
                shown(turn.quantile(0.99)),
                short(completions.unwrap_or(0.0)),
            ));
        }
        let hidden = self.history.len() - (lines.len() - 1);
        if hidden > 0
            && let Some(last) = lines.last_mut()
        {
            *last = style.dim(format!("      {} more cores", hidden + 1));
        }
        lines
    }

    /// Clients on the left, topics on the right.
    fn busiest(&self, total: &ShardReading, columns: usize, _seconds: f64) -> Vec<String> {
        let busiest = &total.busiest;
        let window = busiest.to_ns.saturating_sub(busiest.from_ns) as f64 / 1e9;
        let age =
            self.look.wall.duration_since(self.header.started).unwrap_or_default().as_secs_f64()
                - busiest.to_ns as f64 / 1e9;
        // A broker that has nothing to do does not begin a new window: the last one says nothing about now.
        let current = busiest.to_ns > 0 && age < 3.0 * window.max(5.0);
        let half = columns.saturating_sub(2) / 2;
        let cell = |line: Option<&BusyText>| {
            line.filter(|_| current).map_or_else(String::new, |line| {
                let rate = short(line.count as f64 / window);
                format!("{rate:>7}  {}", cut(&harmless(&line.text), half.saturating_sub(9)))
            })
        };
        let rows = busiest.clients.len().max(busiest.topics.len()).min(BUSIEST_MAX);
        let column = half + 3;
        // The right column has a place of its own: a wide character on the left does not move it.
        let line = |left: &str, right: &str| format!("{left}\x1b[{column}G{right}");
        let mut lines = vec![line("  msg/s  busiest clients", "  msg/s  busiest topics")];
        for row in 0..rows {
            lines.push(line(&cell(busiest.clients.get(row)), &cell(busiest.topics.get(row))));
        }
        lines
    }
}

/// How long messages took in the last interval.
fn latencies(sum: &ShardReading) -> Vec<String> {
    let mut lines = vec![format!(
        "{:24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "receive to socket", "messages", "p50", "p99", "p99.9", "p99.99", "max"
    )];
    let mut row = |name: &str, histogram: &Histogram| {
        let shown = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), time);
        lines.push(format!(
            "{name:24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            short(histogram.count() as f64),
            shown(histogram.quantile(0.5)),
            shown(histogram.quantile(0.99)),
            shown(histogram.quantile(0.999)),
            shown(histogram.quantile(0.9999)),
            shown(histogram.max()),
        ));
    };
    for (remote, name) in [(false, "same core"), (true, "from another core")] {
        for qos in 0..3 {
            let histogram = sum.histogram(Series::latency(qos, remote));
            if histogram.count() > 0 {
                row(&format!("{name}, QoS {qos}"), histogram);
            }
        }
    }
    lines
}

/// All connections that ended, whatever the reason.
fn closed(sum: &ShardReading) -> u64 {
    let families = sum.counters.iter().filter(|(field, _)| field.name == "connections_closed");
    families.map(|(_, value)| value).sum()
}

/// The newest on the right; nothing yet is blank.
fn sparkline(values: impl ExactSizeIterator<Item = f64>) -> String {
    let blank = HISTORY - values.len().min(HISTORY);
    let bar = |value: f64| BARS[((value.clamp(0.0, 1.0) * 8.0) as usize).min(7)];
    std::iter::repeat_n(' ', blank).chain(values.map(bar)).collect()
}

/// At most so many characters.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Colours, if they are wanted.
struct Style {
    coloured: bool,
}

impl Style {
    fn title(&self, is_title: bool, text: String) -> String {
        if is_title { self.paint("1", text) } else { text }
    }

    fn dim(&self, text: String) -> String {
        self.paint("2", text)
    }

    /// Green, yellow, red.
    fn load(&self, share: f64, text: String) -> String {
        let colour = match share {
            ..0.6 => "32",
            ..0.85 => "33",
            _ => "31",
        };
        self.paint(colour, text)
    }

    fn paint(&self, code: &str, text: String) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use midge_metrics::{BusiestReading, Counters};

    use super::*;

    fn look(origin: Instant, seconds: u64, cores: u64) -> Look {
        let shard = |core: u64| {
            let mut reading = ShardReading::default();
            reading.counters = Counters {
                connections_now: 100,
                publishes_sent: [seconds * 1000 * core, 0, 0],
                loop_busy_ns: seconds * 900_000_000,
                ..Counters::default()
            };
            reading.busiest = BusiestReading {
                from_ns: 0,
                to_ns: 5_000_000_000,
                clients: vec![BusyText { text: "evil\x1b[2J".to_owned(), count: 500, error: 0 }],
                topics: vec![],
            };
            reading
        };
        Look {
            reading: Reading { shards: (0..cores).map(shard).collect() },
            at: origin + Duration::from_secs(seconds),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(100 + seconds),
        }
    }

    fn view(cores: u64) -> View {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let header = Header { shard: 0, shards: cores as u16, process_id: 7, started };
        let origin = Instant::now();
        let mut view = View::new(header, look(origin, 4, cores));
        view.take(look(origin, 6, cores));
        view
    }

    #[test]
    fn the_screen_is_filled_and_not_exceeded() {
        for cores in [1, 2, 64] {
            for rows in [1, 10, 24, 50, 100] {
                let lines = view(cores).lines(100, rows, false);
                assert_eq!(lines.len(), rows.max(1), "{cores} cores");
            }
        }
    }

    #[test]
    fn rates_are_between_the_last_two_looks() {
        let lines = view(2).lines(120, 40, false);
        assert!(lines[2].contains("out 1.00k msg/s"), "{}", lines[2]);
        let core = lines.iter().find(|line| line.starts_with("   1 ")).unwrap();
        assert!(core.contains("90%") && core.contains('█'), "{core}");
        assert!(lines.iter().any(|line| line.starts_with("    200  evil\u{fffd}[2J")), "{lines:?}");
    }

    #[test]
    fn without_colour_nothing_is_painted() {
        let painted = |coloured| view(2).lines(120, 40, coloured).concat().contains("\x1b[0m");
        assert!(painted(true));
        assert!(!painted(false));
    }

    #[test]
    fn scrolling_stays_within_the_cores() {
        let mut view = view(64);
        let shown = |view: &View| {
            let lines = view.lines(120, 24, false);
            let title = lines.iter().position(|line| line.contains("turn p99")).unwrap();
            lines[title + 1].split_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(shown(&view), "0");
        view.scroll(2);
        assert_eq!(shown(&view), "2");
        view.scroll(1000);
        assert!(shown(&view).parse::<u32>().unwrap() < 64);
        view.scroll(-1000);
        assert_eq!(shown(&view), "0");
    }
}
