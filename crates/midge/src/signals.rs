//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once.

use std::io;

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// The signals are held from here on; nothing is lost before [`Held::watch`].
#[derive(Debug)]
pub(crate) struct Held(Signals);

/// Takes both signals from the kernel's default, which ends the process without a drain.
pub(crate) fn hold() -> io::Result<Held> {
    Signals::new([SIGTERM, SIGINT]).map(Held)
}

impl Held {
    /// Calls `drain` at the first signal and `stop` at the second, each on a thread of its own
    /// that lives as long as the process. Both are told the signal's name.
    pub(crate) fn watch(
        mut self,
        drain: impl FnOnce(&'static str) + Send + 'static,
        stop: impl FnOnce(&'static str) + Send + 'static,
    ) -> io::Result<()> {
        let watch = move || {
            let mut signals = self.0.forever().map(name);
            if let Some(signal) = signals.next() {
                drain(signal);
            }
            if let Some(signal) = signals.next() {
                stop(signal);
            }
        };
        std::thread::Builder::new().name("midge-signals".into()).spawn(watch).map(|_| ())
    }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use signal_hook::low_level::raise;

    use super::*;

    /// Signals belong to the whole process, so this is the one test that raises them.
    #[test]
    fn the_first_drains_and_the_second_stops() {
        let held = hold().expect("signals to hold");
        // Nothing is lost between holding and watching.
        raise(SIGTERM).expect("a signal to myself");
        let (sender, receiver) = crossbeam_channel::unbounded();
        let drained = sender.clone();
        held.watch(
            move |signal| drained.send(("drain", signal)).expect("the test waits"),
            move |signal| sender.send(("stop", signal)).expect("the test waits"),
        )
        .expect("a thread");
        assert_eq!(receiver.recv(), Ok(("drain", "SIGTERM")));
        raise(SIGINT).expect("a signal to myself");
        assert_eq!(receiver.recv(), Ok(("stop", "SIGINT")));
    }
}
