//! `midge stats`: every number of a running broker, core by core.
//!
//! It reads the shards' statistics pages, which costs the broker nothing. The list of numbers is that of
//! `midge_metrics`; nothing here names them one by one. docs/statistics.md explains each.

mod durability;
pub(crate) mod numbers;
mod object;
mod table;

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use midge_metrics::{Instance as Pages, Reading};
use serde_json::Value;

use crate::{
    failure::Failure,
    instance::{Instance, InstanceArguments},
    kept, starting,
};

/// Options of `midge stats`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct StatsArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// Print one JSON object instead of a table; with --watch, one on a line each time.
    #[arg(long)]
    json: bool,

    /// Print again and again, every so many seconds (default 1), with rates between the two last readings.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = seconds
    )]
    watch: Option<Duration>,

    /// Show also what is zero.
    #[arg(long)]
    all: bool,
}

/// One look at a broker.
pub(crate) struct Look {
    pub(crate) reading: Reading,
    pub(crate) at: Instant,
    pub(crate) wall: SystemTime,
}

/// A running broker's open pages.
pub(crate) struct Watched {
    pub(crate) instance: Instance,
    pub(crate) pages: Pages,
    /// What it says about its data directory.
    pub(crate) kept: Value,
}

impl Watched {
    /// Opens the broker's pages.
    pub(crate) fn open(arguments: &InstanceArguments) -> Result<Self, Failure> {
        let instance = arguments.find()?;
        let pages = Pages::open(&instance.directory).map_err(|error| {
            let starting = starting::read(&instance.directory);
            let pid = instance.pid;
            Failure::Other(match starting {
                Some(said) => {
                    format!("the broker with process id {pid} does not serve yet: {said}")
                }
                None => error.to_string(),
            })
        })?;
        let kept = kept::read(&instance.directory);
        Ok(Self { instance, pages, kept })
    }

    /// Reads all cores.
    pub(crate) fn look(&self) -> Result<Look, Failure> {
        let reading = self.pages.read().map_err(|error| Failure::Other(error.to_string()))?;
        Ok(Look { reading, at: Instant::now(), wall: SystemTime::now() })
    }

    /// An error once the broker has ended: its pages would show its last numbers for ever.
    pub(crate) fn check_alive(&self) -> Result<(), Failure> {
        if self.instance.directory.exists() {
            return Ok(());
        }
        Err(Failure::Other(format!("the broker with process id {} has ended", self.instance.pid)))
    }
}

pub(crate) fn run(arguments: &StatsArguments) -> Result<(), Failure> {
    let watched = Watched::open(&arguments.instance)?;
    let mut earlier = watched.look()?;
    let Some(period) = arguments.watch else {
        return print(arguments, &watched, &earlier, None).map_err(told);
    };
    let mut next = earlier.at + period;
    loop {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += period;
        watched.check_alive()?;
        let look = watched.look()?;
        match print(arguments, &watched, &look, Some(&earlier)) {
            // Whoever read it has had enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome.map_err(told)?,
        }
        earlier = look;
    }
}

fn print(
    arguments: &StatsArguments,
    watched: &Watched,
    look: &Look,
    earlier: Option<&Look>,
) -> io::Result<()> {
    let stdout = io::stdout();
    let text = if arguments.json {
        format!("{}\n", object::of(&watched.pages.header(), look, earlier, &watched.kept))
    } else {
        let width = if stdout.is_terminal() { width(&stdout) } else { None };
        let table = table::of(
            &watched.pages.header(),
            look,
            earlier,
            width.unwrap_or(usize::MAX),
            arguments.all,
            &durability::words(&watched.kept, &look.reading),
        );
        match (earlier, stdout.is_terminal()) {
            // Clear the screen and what has scrolled off, then write from its top.
            (Some(_), true) => format!("\x1b[H\x1b[2J\x1b[3J{table}"),
            (Some(_), false) => format!("{table}\n"),
            (None, _) => table,
        }
    };
    let mut stdout = stdout.lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Columns of the terminal.
fn width(stdout: &io::Stdout) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

#[expect(clippy::needless_pass_by_value, reason = "it maps an error")]
fn told(error: io::Error) -> Failure {
    Failure::Other(format!("cannot write to standard output: {error}"))
}

pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    let said = "expected seconds from 0.01 to 3600";
    let seconds: f64 = text.parse().map_err(|_| said)?;
    if (0.01..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_range() {
        assert_eq!(seconds("0.1"), Ok(Duration::from_millis(100)));
        assert_eq!(seconds("3600"), Ok(Duration::from_secs(3600)));
        for text in ["", "0", "-1", "3601", "NaN", "inf", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
