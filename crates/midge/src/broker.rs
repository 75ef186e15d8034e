//! The shards as the program sees them: started, asked to stop, waited for.
//!
//! For now this only holds the listening sockets, so that clients wait in the backlog until the
//! reactor takes them over.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{listen::Listening, settings::Settings};

/// Running shards.
#[derive(Debug)]
pub(crate) struct Broker {
    listening: Vec<Listening>,
    stop: Sender<Duration>,
    stopped: Receiver<Duration>,
}

/// Asks the shards to drain, from any thread.
#[derive(Debug)]
pub(crate) struct Stopper(Sender<Duration>);

/// Why the shards could not start, or ended by themselves: one sentence.
#[derive(Debug)]
pub(crate) struct StartError(pub(crate) String);

impl Broker {
    pub(crate) fn start(_: &Settings, listening: Vec<Listening>) -> Result<Self, StartError> {
        let (stop, stopped) = bounded(1);
        Ok(Self { listening, stop, stopped })
    }

    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Waits until all shards have ended.
    pub(crate) fn join(self) -> Result<(), StartError> {
        let drained = self.stopped.recv();
        for listener in self.listening {
            drop(listener.sockets);
        }
        drained.map(|_| ()).map_err(|_| StartError("nobody is left to stop the broker".into()))
    }
}

impl Stopper {
    pub(crate) fn stop(&self, drain_timeout: Duration) {
        _ = self.0.try_send(drain_timeout);
    }
}
