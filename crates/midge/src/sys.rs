//! `$SYS`: what the broker says about itself to whoever subscribes.
//!
//! A thread that is no shard reads the shards' statistics pages every `sys.interval`, which costs the shards nothing, and
//! publishes what has changed since: retained, QoS 2, each topic on the shard that keeps it, so that without subscribers
//! nothing travels. The names and units are mosquitto's (`values`), the load averages too (`load`).
//!
//! With an interval of zero, what was published is taken back, and it waits for another one: a reload changes it.
//!
//! A shard that is busy or behind gets fewer or none; what it did not take has not changed for it, and is tried again with
//! the next interval's value. So there is never more than one interval's messages under way.

mod load;
mod values;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use midge_codec::QoS;
use midge_metrics::Instance;
use midge_reactor::{AskError, Asker};
use midge_session::Publication;
use midge_shard::home_shard;

use self::values::Values;

/// How often it looks, to be changed at any time.
#[derive(Debug)]
pub(crate) struct Interval {
    ms: Arc<AtomicU64>,
    thread: Thread,
}

impl Interval {
    /// From now on; zero: never, and what was published is taken back.
    pub(crate) fn set(&self, interval: Duration) {
        // Relaxed: waking the thread orders what comes before it.
        self.ms.store(as_ms(interval), Ordering::Relaxed);
        self.thread.unpark();
    }
}

fn as_ms(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
}

/// Starts the thread. It ends with the shards, or with the process.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn start(directory: PathBuf, asker: Asker, interval: Duration) -> io::Result<Interval> {
    let ms = Arc::new(AtomicU64::new(as_ms(interval)));
    let publisher = Publisher {
        wanted_ms: Arc::clone(&ms),
        directory,
        shards: asker.shards(),
        give: Box::new(move |shard, publications| asker.publish(shard, publications)),
        interval,
        pages: None,
        told: false,
        published: HashMap::new(),
    };
    let thread = thread::Builder::new().name("sys".into()).spawn(move || publisher.run())?;
    Ok(Interval { ms, thread: thread.thread().clone() })
}

/// Has a shard publish, as [`Asker::publish`] does.
type Give = dyn Fn(u16, &[Arc<Publication>]) -> Result<usize, AskError> + Send;

struct Publisher {
    directory: PathBuf,
    shards: u16,
    give: Box<Give>,
    interval: Duration,
    wanted_ms: Arc<AtomicU64>,
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
            if !self.interval.is_zero()
                && let Some(reading) = self.read()
            {
                let known = values.update(&reading, now - started);
                if self.publish(known) == Err(Over) {
                    return;
                }
            }
            if self.interval.is_zero() && self.take_back() == Err(Over) {
                return;
            }
            if let Some(interval) = self.wait(&mut next) {
                self.interval = interval;
                next = Instant::now();
            }
        }
    }

    /// Waits for the next look; sooner where there is another interval, which is returned.
    fn wait(&self, next: &mut Instant) -> Option<Duration> {
        // A shard that was busy still keeps what is to be taken back.
        let rests = self.interval.is_zero() && self.published.is_empty();
        let step = if self.interval.is_zero() { TAKE_BACK_AGAIN } else { self.interval };
        // From the start, so that the times of the day at which it happens stay the same.
        while *next <= Instant::now() {
            *next += step;
        }
        loop {
            let wanted = Duration::from_millis(self.wanted_ms.load(Ordering::Relaxed));
            if wanted != self.interval {
                return Some(wanted);
            }
            let left = next.saturating_duration_since(Instant::now());
            if rests {
                thread::park();
            } else if left.is_zero() {
                return None;
            } else {
                thread::park_timeout(left);
            }
        }
    }

    /// Nothing is known any more [MQTT-3.3.1-6].
    fn take_back(&mut self) -> Result<(), Over> {
        let known = self.published.keys().map(|topic| (topic.clone(), String::new())).collect();
        self.publish(known)?;
        self.published.retain(|_, value| !value.is_empty());
        Ok(())
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
        let shards = self.shards;
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
                match (self.give)(shard, &publications[taken..]) {
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

/// When what a shard did not take is taken back once more.
const TAKE_BACK_AGAIN: Duration = Duration::from_secs(1);

/// The shards have ended.
#[derive(Debug, PartialEq, Eq)]
struct Over;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// What a busy shard does not take back at once is taken back later: nobody else would.
    #[test]
    fn nothing_stays_retained_once_it_is_off() {
        let calls = AtomicU64::new(0);
        let (taken, seen) = channel();
        let give = move |shard, publications: &[Arc<Publication>]| {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(AskError::Busy { shard });
            }
            publications.iter().for_each(|one| {
                _ = taken.send((one.topic().to_owned(), one.payload().to_vec()));
            });
            Ok(publications.len())
        };
        let publisher = Publisher {
            directory: PathBuf::new(),
            shards: 1,
            give: Box::new(give),
            interval: Duration::ZERO,
            wanted_ms: Arc::default(),
            pages: None,
            told: false,
            published: HashMap::from([("$SYS/a".into(), "1".into())]),
        };
        thread::spawn(move || publisher.run());
        let (topic, payload) = seen.recv_timeout(Duration::from_secs(20)).expect("tried again");
        assert_eq!((topic.as_str(), payload.as_slice()), ("$SYS/a", &b""[..]));
    }
}
