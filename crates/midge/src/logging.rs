//! Log lines: from `tracing` events to standard error.
//!
//! A shard that writes to standard error itself stalls when nobody reads the other end. So a line
//! is formatted where it happens and pushed to a bounded queue; one thread writes. When the queue
//! is full the line is dropped and counted, never waited for.
//!
//! An event passes, in this order: the level (`log.level`; one comparison), the format
//! (`log.format`, [`mod@format`]), the queue ([`queue`]). What peers cause is bounded before it gets
//! here: each shard counts its lines (`log.lines_per_second_max`).
//!
//! Field values come from peers: every control character in them is escaped, so that no client
//! identifier can forge a line or move a terminal's cursor.

mod format;
mod queue;

use std::{io::IsTerminal, time::Duration};

use midge_config::{Log, LogLevel};
use tracing_subscriber::{Registry, filter::LevelFilter, layer::SubscriberExt, reload};

use self::{format::Format, queue::Queue};

/// Writes what is still queued when it is dropped.
#[derive(Debug)]
pub(crate) struct Logging {
    queue: Queue,
    level: Level,
}

/// The least important lines that are written, to be changed at any time.
#[derive(Clone, Debug)]
pub(crate) struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// From now on, in all threads.
    pub(crate) fn set(&self, wanted: LogLevel) {
        // It can only fail when nobody logs any more.
        _ = self.0.reload(level(wanted));
    }
}

impl Logging {
    /// Lets this process log from here on. Must be called once at most.
    pub(crate) fn start(log: &Log) -> std::io::Result<Self> {
        let queue = Queue::start()?;
        let (filter, handle) = reload::Layer::new(level(log.level));
        let subscriber = tracing_subscriber::registry().with(filter).with(
            tracing_subscriber::fmt::layer()
                .event_format(Format::new(log.format, coloured()))
                .with_writer(queue.clone()),
        );
        tracing::subscriber::set_global_default(subscriber).map_err(std::io::Error::other)?;
        flush_on_panic(queue.clone());
        Ok(Self { queue, level: Level(handle) })
    }

    /// To change what is written.
    pub(crate) fn level(&self) -> Level {
        self.level.clone()
    }

    /// Writes what is queued, for as long as standard error takes it within a second; for a thread
    /// that ends the process.
    pub(crate) fn flusher(&self) -> impl FnOnce() + Send + use<> {
        let queue = self.queue.clone();
        move || queue.flush(FLUSH_TIMEOUT)
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// The lines before a panic are the ones somebody will want, and in release a panic aborts.
fn flush_on_panic(queue: Queue) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        queue.flush(FLUSH_TIMEOUT);
        report(panic);
    }));
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Colour is for people at a terminal who did not ask to be spared (<https://no-color.org>).
fn coloured() -> bool {
    let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let capable = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    unset && capable && std::io::stderr().is_terminal()
}

/// How long the end of the process waits for a standard error that does not take lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
