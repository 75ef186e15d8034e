//! Who is banned: the one list, for shards, operators and the log.
//!
//! Shards say whom they want to ban, operators whom they do; every shard gets the same copy of the list a moment later. It
//! lives in memory: a restart forgets it.
//!
//! # Bounds
//! [`BANS_MAX`] entries. One more takes the place of the one that ends first. New bans reach the shards every
//! [`GATHERING`] at most, however many there are.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use midge_reactor::Reloader;
use midge_session::Time;
use midge_shard::{Ban, BanSubject, Bans};

/// Entries at most: each shard looks into a copy of all of them.
const BANS_MAX: usize = 10_000;

/// Bans of shards that wait for the list. Beyond it they are left out; whoever deserves one asks for it again.
const WAITING_MAX: usize = 1024;

/// How long new bans of shards are gathered before all shards get them.
const GATHERING: Duration = Duration::from_millis(50);

/// How often the list is looked through for bans that have ended.
const SWEEP: Duration = Duration::from_secs(10);

/// A line from the shards to the list.
pub(crate) fn line() -> (Sender<Ban>, Receiver<Ban>) {
    bounded(WAITING_MAX)
}

/// The list.
#[derive(Clone, Debug)]
pub(crate) struct BanList {
    book: Arc<Mutex<Book>>,
    reloader: Reloader,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) subject: BanSubject,
    /// `None`: it does not end.
    pub(crate) seconds_left: Option<u64>,
    pub(crate) cause: String,
}

#[derive(Debug, Default)]
struct Book(BTreeMap<BanSubject, (Time, String)>);

/// An end that never comes.
const FOREVER: Time = Time::from_nanos(u64::MAX);

impl Book {
    fn insert(&mut self, subject: BanSubject, until: Time, cause: String) {
        if self.0.len() >= BANS_MAX && !self.0.contains_key(&subject) {
            let first = self.0.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(first) = first.map(|(subject, _)| subject.clone()) {
                self.0.remove(&first);
            }
        }
        self.0.insert(subject, (until, cause));
    }

    /// Forgets what has ended; whether there was anything.
    fn sweep(&mut self, now: Time) -> bool {
        let before = self.0.len();
        self.0.retain(|_, (until, _)| *until > now);
        self.0.len() < before
    }
}

impl BanList {
    /// Listens to the shards, on a thread of its own that lives as long as they do.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn start(reloader: Reloader, line: Receiver<Ban>) -> io::Result<Self> {
        let list = Self { book: Arc::default(), reloader };
        let own = list.clone();
        thread::Builder::new().name("bans".into()).spawn(move || own.listen(&line))?;
        Ok(list)
    }

    fn listen(&self, line: &Receiver<Ban>) {
        loop {
            match line.recv_timeout(SWEEP) {
                Ok(first) => {
                    thread::sleep(GATHERING);
                    let mut book = self.book();
                    for ban in std::iter::once(first).chain(line.try_iter().take(WAITING_MAX)) {
                        tracing::warn!("banned {}: {}", name(&ban.subject), ban.cause);
                        book.insert(ban.subject, ban.until, ban.cause.into());
                    }
                    self.tell(&book);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let mut book = self.book();
                    if book.sweep(self.reloader.now()) {
                        self.tell(&book);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Bans somebody; `None`: until unbanned.
    pub(crate) fn ban(&self, subject: BanSubject, duration: Option<Duration>, cause: &str) {
        let subject = subject.canonical();
        let until = match duration {
            None => FOREVER,
            Some(duration) => {
                let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                self.reloader.now().plus_millis(milliseconds)
            }
        };
        tracing::warn!("banned {}: {cause}", name(&subject));
        let mut book = self.book();
        book.insert(subject, until, cause.into());
        self.tell(&book);
    }

    /// Lifts a ban; whether there was one.
    pub(crate) fn unban(&self, subject: BanSubject) -> bool {
        let subject = subject.canonical();
        let mut book = self.book();
        let found = book.0.remove(&subject).is_some();
        if found {
            tracing::info!("no longer banned: {}", name(&subject));
            self.tell(&book);
        }
        found
    }

    /// Everybody who is banned now.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let now = self.reloader.now();
        let book = self.book();
        let current = book.0.iter().filter(|(_, (until, _))| *until > now);
        current
            .map(|(subject, (until, cause))| Entry {
                subject: subject.clone(),
                seconds_left: (*until != FOREVER).then(|| now.seconds_until(*until)),
                cause: cause.clone(),
            })
            .collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each change is one insertion or removal.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, book: &Book) {
        let bans = (!book.0.is_empty()).then(|| {
            Arc::new(Bans::new(
                book.0.iter().map(|(subject, (until, _))| (subject.clone(), *until)),
            ))
        });
        self.reloader.set_bans(bans.as_ref());
    }
}

/// For the log.
fn name(subject: &BanSubject) -> String {
    match subject {
        BanSubject::Client(client_id) => format!("client {client_id:?}"),
        BanSubject::Address(address) => format!("address {address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> BanSubject {
        BanSubject::Client(format!("c{number}").into())
    }

    #[test]
    fn the_list_is_bounded_and_forgets() {
        let mut book = Book::default();
        book.insert(client(0), FOREVER, String::new());
        for number in 1..=BANS_MAX {
            book.insert(client(number), Time::from_seconds(number as u64), String::new());
        }
        assert_eq!(book.0.len(), BANS_MAX);
        assert!(book.0.contains_key(&client(0)), "it ends last");
        assert!(!book.0.contains_key(&client(1)), "it ended first");
        assert!(book.sweep(Time::from_seconds(100)));
        assert!(!book.sweep(Time::from_seconds(100)));
        assert_eq!(book.0.len(), BANS_MAX - 99);
    }
}
