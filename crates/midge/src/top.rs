//! `midge top`: a running broker at a glance, again every second.
//!
//! What is shown is made from two readings of the statistics pages (`view`); what is done to the terminal stands in
//! `screen`. Keys: `q` ends, space pauses, arrows (or `j`, `k`) move through the cores.

mod screen;
mod view;

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    failure::Failure,
    instance::InstanceArguments,
    stats::Watched,
    top::{
        screen::{Key, Screen},
        view::View,
    },
};

/// Options of `midge top`.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct TopArguments {
    #[command(flatten)]
    instance: InstanceArguments,

    /// Seconds between two readings.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::stats::seconds)]
    interval: Duration,
}

pub(crate) fn run(arguments: &TopArguments) -> Result<(), Failure> {
    let watched = Watched::open(&arguments.instance)?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Other(
            "top needs a terminal; midge stats --watch writes to files and pipes".to_owned(),
        ));
    }
    let mut view = View::new(watched.pages.header(), watched.look()?);
    let said = |error: io::Error| Failure::Other(format!("cannot use the terminal: {error}"));
    let mut screen = Screen::enter().map_err(said)?;
    let mut next = Instant::now() + arguments.interval;
    loop {
        let (columns, rows) = screen.size();
        screen.draw(&view.lines(columns, rows, screen.coloured())).map_err(said)?;
        match screen.key(next).map_err(said)? {
            Some(Key::End) => return Ok(()),
            Some(Key::Pause) => view.paused = !view.paused,
            Some(Key::Up) => view.scroll(-1),
            Some(Key::Down) => view.scroll(1),
            Some(Key::Redraw) => {}
            None => {
                next = Instant::now() + arguments.interval;
                // The terminal is itself again before anything is said.
                watched.check_alive()?;
                let look = watched.look()?;
                if !view.paused {
                    view.take(look);
                }
            }
        }
    }
}
