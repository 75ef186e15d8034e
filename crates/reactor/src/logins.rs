//! Threads that are asked about clients, so that no shard spends the time.
//!
//! To check a password costs from a microsecond to tens of milliseconds, on purpose. Shards put logins into one bounded line;
//! threads take them and answer, or pass them on to whoever answers later; each verdict goes into the line of the
//! shard that asked.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | logins | all shards | the threads | [`OPEN_MAX`] logins without a verdict, wherever they are | the client is told that the broker is busy (0x89) |
//! | verdicts of one shard | whoever answers | the shard, each turn | the same [`OPEN_MAX`], so that nobody ever waits to put one in | — |

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use midge_auth::{Login, Verdict};
use midge_netring::Waker;
use midge_shard::ConnectionId;

use crate::start::StartError;

/// Clients that wait for a verdict, of all shards: a second of one thread's work at a millisecond each.
const OPEN_MAX: usize = 1024;

/// Lower than the shards' threads, so that a storm of logins takes what they leave where they share a core.
const NICE: i32 = 10;

/// Who is asked about clients. Called by several threads at once; answers now or later.
type Ask = dyn Fn(&Login, Reply) + Send + Sync;

/// How clients are asked about.
#[derive(Clone)]
pub struct Doorman {
    /// Called with each login. May take long.
    pub ask: Arc<Ask>,
    /// Threads that call it, at least 1.
    pub threads: u16,
}

impl fmt::Debug for Doorman {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Doorman").field("threads", &self.threads).finish()
    }
}

/// Counts one login among those that are open, for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(open: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |count| (count < OPEN_MAX).then_some(count + 1);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client waits for this.
struct Asked {
    shard: u16,
    connection: ConnectionId,
    serial: u32,
    login: Box<Login>,
    open: Open,
}

/// And here it is.
pub(crate) struct Outcome {
    pub(crate) connection: ConnectionId,
    pub(crate) serial: u32,
    pub(crate) verdict: Verdict,
    _open: Open,
}

/// Where a shard puts its logins.
#[derive(Clone)]
pub(crate) struct Logins {
    line: Sender<Asked>,
    open: Arc<AtomicUsize>,
}

impl Logins {
    /// Asks; `false` when too many wait already.
    pub(crate) fn ask(
        &self,
        shard: u16,
        connection: ConnectionId,
        serial: u32,
        login: Box<Login>,
    ) -> bool {
        let Some(open) = Open::new(&self.open) else { return false };
        self.line.try_send(Asked { shard, connection, serial, login, open }).is_ok()
    }
}

/// The end of the line of logins at which the threads stand.
pub(crate) struct Line(Receiver<Asked>);

/// How one login is answered. Dropped without an answer, it says that the broker is busy: nobody waits for ever.
pub struct Reply {
    back: Option<Back>,
}

struct Back {
    connection: ConnectionId,
    serial: u32,
    open: Open,
    outcomes: Sender<Outcome>,
    waker: Waker,
}

impl Reply {
    /// Gives the verdict to the shard that asked. Never waits.
    pub fn give(mut self, verdict: Verdict) {
        self.send(verdict);
    }

    fn send(&mut self, verdict: Verdict) {
        let Some(Back { connection, serial, open, outcomes, waker }) = self.back.take() else {
            return;
        };
        // There is room for every open login. A shard that has ended needs no answer.
        if outcomes.try_send(Outcome { connection, serial, verdict, _open: open }).is_ok() {
            waker.wake();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Verdict::Busy);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reply")
    }
}

pub(crate) fn logins() -> (Logins, Line) {
    let (line, asked) = bounded(OPEN_MAX);
    (Logins { line, open: Arc::default() }, Line(asked))
}

pub(crate) fn outcomes() -> (Sender<Outcome>, Receiver<Outcome>) {
    bounded(OPEN_MAX)
}

/// Starts the threads. They end when no shard can ask any more.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(
    doorman: &Doorman,
    line: &Line,
    shards: &Arc<[(Sender<Outcome>, Waker)]>,
) -> Result<(), StartError> {
    for number in 0..doorman.threads.max(1) {
        let (ask, line) = (Arc::clone(&doorman.ask), line.0.clone());
        let shards = Arc::clone(shards);
        let work = move || {
            // It is a wish: without the right to it, or in a sandbox, logins are answered all the same.
            _ = rustix::process::setpriority_process(None, NICE);
            for Asked { shard, connection, serial, login, open } in line {
                let (outcomes, waker) = shards[usize::from(shard)].clone();
                let back = Back { connection, serial, open, outcomes, waker };
                ask(&login, Reply { back: Some(back) });
            }
        };
        std::thread::Builder::new()
            .name(format!("login-{number}"))
            .spawn(work)
            .map_err(|error| StartError::Ended { reason: error.to_string() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many logins as there may be are open at a time, wherever they are, and each gives its place back.
    #[test]
    fn open_logins_have_a_bound() {
        let open = Arc::default();
        let mut all: Vec<_> = (0..OPEN_MAX).map(|_| Open::new(&open).unwrap()).collect();
        assert!(Open::new(&open).is_none());
        all.pop();
        assert!(Open::new(&open).is_some());
        drop(all);
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }
}
