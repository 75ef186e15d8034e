//! Questions from aliens to shards, at a pace that packets do not feel.
//!
//! An alien waits for its answer; a shard never waits for an alien. Each shard has one desk: one question at a time, whoever
//! asks, and [`PERIOD`] from one answer to the next question. A question is a bounded piece of work
//! ([`midge_shard::survey`]: about 20 µs), and a shard takes one in a turn; so however many ask, and however often, they
//! together get about two hundredths of a core of each shard, and hold up a turn by no more than one question.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use midge_netring::Waker;
use midge_session::Publication;
use midge_shard::survey::{Answer, Question};

use crate::start::{COMMANDS_MAX, Command};

/// From the answer to one question to the next question, for one shard.
pub const PERIOD: Duration = Duration::from_millis(1);

/// How long an alien waits for a shard: longer than any turn of a shard that is well.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Publications that are given to a shard at a time.
pub const PUBLICATIONS_MAX: usize = 32;

/// Commands of aliens that gave up waiting and that the shard has not looked at yet. The rest of the channel is for those
/// who want the shard to stop.
const UNANSWERED_MAX: usize = COMMANDS_MAX / 2;

/// Asks shards, from any thread that is none.
#[derive(Debug, Clone)]
pub struct Asker {
    desks: Arc<[Desk]>,
}

#[derive(Debug)]
struct Desk {
    commands: Sender<Command>,
    waker: Waker,
    /// When the next question may be asked. Held while one is being answered.
    next: Mutex<Instant>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskError {
    /// The shard has too much else to do.
    Busy {
        /// Which.
        shard: u16,
    },
    /// The shard has ended, or there is none with this number.
    Ended {
        /// Which.
        shard: u16,
    },
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { shard } => {
                write!(f, "shard {shard} is too busy to answer; try again later")
            }
            Self::Ended { shard } => write!(f, "shard {shard} has ended: the broker stops"),
        }
    }
}

impl std::error::Error for AskError {}

impl Asker {
    pub(crate) fn new(shards: impl Iterator<Item = (Sender<Command>, Waker)>) -> Self {
        let next = Instant::now();
        let desk = |(commands, waker)| Desk { commands, waker, next: Mutex::new(next) };
        Self { desks: shards.map(desk).collect() }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.desks.len()).unwrap_or(u16::MAX)
    }

    /// Asks a shard and waits for its answer, at most [`PATIENCE`] once it is this question's turn.
    ///
    /// # Errors
    /// When the shard does not answer in time, or has ended.
    pub fn ask(&self, shard: u16, question: Question) -> Result<Answer, AskError> {
        let (reply, answer) = bounded(1);
        self.wait(shard, Command::Ask { question: Box::new(question), reply }, &answer)
    }

    /// Has a shard publish messages of the broker's own and returns how many of them it took, from the front: at most
    /// [`PUBLICATIONS_MAX`], and none while a shard that they concern is behind with what it was sent.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn publish(
        &self,
        shard: u16,
        publications: &[Arc<Publication>],
    ) -> Result<usize, AskError> {
        let publications = publications.iter().take(PUBLICATIONS_MAX).cloned().collect();
        let (reply, answer) = bounded(1);
        self.wait(shard, Command::Publish { publications, reply }, &answer)
    }

    fn wait<T>(
        &self,
        shard: u16,
        command: Command,
        answer: &crossbeam_channel::Receiver<T>,
    ) -> Result<T, AskError> {
        let (busy, ended) = (AskError::Busy { shard }, AskError::Ended { shard });
        let desk = self.desks.get(usize::from(shard)).ok_or(ended)?;
        // A panic while the lock was held leaves nothing half done in an `Instant`.
        let mut next = desk.next.lock().unwrap_or_else(PoisonError::into_inner);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        if desk.commands.len() >= UNANSWERED_MAX {
            return Err(busy);
        }
        desk.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => busy,
            TrySendError::Disconnected(_) => ended,
        })?;
        desk.waker.wake();
        let outcome = answer.recv_timeout(PATIENCE);
        *next = Instant::now() + PERIOD;
        outcome.map_err(|error| match error {
            RecvTimeoutError::Timeout => busy,
            RecvTimeoutError::Disconnected => ended,
        })
    }
}
