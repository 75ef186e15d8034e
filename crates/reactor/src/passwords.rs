//! Threads that check passwords, so that no shard does.
//!
//! A check costs from a microsecond to tens of milliseconds, on purpose. Shards put logins into one bounded line; threads
//! take them, and put each verdict into the line of the shard that asked.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | logins | all shards | the threads | [`LOGINS_MAX`] | the client is told that the broker is busy (0x89) |
//! | verdicts of one shard | the threads | the shard, each turn | [`VERDICTS_MAX`] | the threads wait |

use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use midge_netring::Waker;
use midge_shard::{ConnectionId, Secret, Verdict};

use crate::start::StartError;

/// Clients that wait for a verdict, of all shards: a second of one thread's work at a millisecond each.
const LOGINS_MAX: usize = 1024;

/// Verdicts that one shard has not taken yet.
const VERDICTS_MAX: usize = 256;

/// Whether a user exists and has a password.
type Check = dyn Fn(&str, &[u8]) -> bool + Send + Sync;

/// How passwords are checked.
#[derive(Clone)]
pub struct PasswordCheck {
    /// Whether this user exists and has this password. May take long; called by several threads at once.
    pub check: Arc<Check>,
    /// Threads that call it, at least 1.
    pub threads: u16,
}

impl fmt::Debug for PasswordCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PasswordCheck").field("threads", &self.threads).finish()
    }
}

/// A client waits for this.
pub(crate) struct Login {
    pub(crate) shard: u16,
    pub(crate) connection: ConnectionId,
    pub(crate) serial: u32,
    pub(crate) user: Box<str>,
    pub(crate) password: Secret,
}

/// And here it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) connection: ConnectionId,
    pub(crate) serial: u32,
    pub(crate) verdict: Verdict,
}

pub(crate) fn logins() -> (Sender<Login>, Receiver<Login>) {
    bounded(LOGINS_MAX)
}

pub(crate) fn outcomes() -> (Sender<Outcome>, Receiver<Outcome>) {
    bounded(VERDICTS_MAX)
}

/// Starts the threads. They end when no shard can ask any more.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(
    passwords: &PasswordCheck,
    logins: &Receiver<Login>,
    shards: &Arc<[(Sender<Outcome>, Waker)]>,
) -> Result<(), StartError> {
    for number in 0..passwords.threads.max(1) {
        let (check, logins) = (Arc::clone(&passwords.check), logins.clone());
        let shards = Arc::clone(shards);
        let work = move || {
            for login in logins {
                let Login { shard, connection, serial, user, password } = login;
                let granted = check(&user, &password.0);
                let verdict = if granted { Verdict::Granted } else { Verdict::Refused };
                let (outcomes, waker) = &shards[usize::from(shard)];
                // A shard that has ended needs no answer.
                if outcomes.send(Outcome { connection, serial, verdict }).is_ok() {
                    waker.wake();
                }
            }
        };
        std::thread::Builder::new()
            .name(format!("password-{number}"))
            .spawn(work)
            .map_err(|error| StartError::Ended { reason: error.to_string() })?;
    }
    Ok(())
}
