//! `$SYS`: what the broker says about itself to whoever subscribes.
//!
//! A thread that is no shard reads the shards' statistics pages every `sys.interval`, which costs the shards nothing, and
//! publishes what has changed since: retained, QoS 2, each topic on the shard that keeps it, so that without subscribers
//! nothing travels. The names and units are mosquitto's (`values`), the load averages too (`load`).
//!
//! A shard that is busy or behind gets fewer or none; what it did not take has not changed for it, and is tried again with
//! the next interval's value. So there is never more than one interval's messages under way.

mod load;
mod values;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use midge_codec::QoS;
use midge_metrics::Instance;
use midge_reactor::{AskError, Asker};
use midge_session::Publication;
use midge_shard::home_shard;

use self::values::Values;

/// Starts the thread. It ends with the shards.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn start(directory: PathBuf, asker: Asker, interval: Duration) -> io::Result<()> {
    let publisher = Publisher {
        directory,
        asker,
        interval,
        pages: None,
        told: false,
        published: HashMap::new(),
    };
    thread::Builder::new().name("sys".into()).spawn(move || publisher.run()).map(drop)
}

struct Publisher {
    directory: PathBuf,
    asker: Asker,
    interval: Duration,
    pages: Option<Instance>,
    /// Somebody has been told that the pages cannot be read.
    told: bool,
    /// What each topic's subscribers know.
    published: HashMap<String, String>,
}

impl Publisher {
    fn run(mut self) {
        let started = Instant::now();
        let mut values = Values::default();
        let mut next = started;
        loop {
            let now = Instant::now();
            if let Some(reading) = self.read() {
                let known = values.update(&reading, now - started);
                if self.publish(known) == Err(Over) {
                    return;
                }
            }
            // From the start, so that the times of the day at which it happens stay the same.
            while next <= Instant::now() {
                next += self.interval;
            }
            thread::sleep(next - Instant::now().min(next));
        }
    }

    fn read(&mut self) -> Option<midge_metrics::Reading> {
        let pages = match self.pages.take() {
            Some(pages) => Ok(pages),
            None => Instance::open(&self.directory),
        };
        match pages.and_then(|pages| Ok((pages.read()?, pages))) {
            Ok((reading, pages)) => {
                self.pages = Some(pages);
                Some(reading)
            }
            Err(error) => {
                if !self.told {
                    tracing::warn!("$SYS is not up to date: {error}");
                    self.told = true;
                }
                None
            }
        }
    }

    fn publish(&mut self, known: Vec<(String, String)>) -> Result<(), Over> {
        let shards = self.asker.shards();
        let mut changed: Vec<Vec<(String, String)>> = vec![Vec::new(); shards.into()];
        for (topic, value) in known {
            if self.published.get(&topic) != Some(&value) {
                changed[home_shard(&topic, shards).index()].push((topic, value));
            }
        }
        for (shard, changed) in (0..shards).zip(changed) {
            let publications: Vec<Arc<Publication>> = changed
                .iter()
                .map(|(topic, value)| {
                    let (payload, qos) = (value.as_bytes(), QoS::ExactlyOnce);
                    Arc::new(Publication::new(topic, b"", payload, qos, true, None))
                })
                .collect();
            let mut taken = 0;
            while taken < publications.len() {
                match self.asker.publish(shard, &publications[taken..]) {
                    Ok(0) | Err(AskError::Busy { .. }) => break,
                    Ok(count) => taken += count,
                    Err(AskError::Ended { .. }) => return Err(Over),
                }
            }
            self.published.extend(changed.into_iter().take(taken));
        }
        Ok(())
    }
}

/// The shards have ended.
#[derive(Debug, PartialEq, Eq)]
struct Over;
