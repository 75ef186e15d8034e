//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once.
//!
//! Each signal puts one byte into a pipe, so that two in quick succession count as two (flags
//! would melt into one). A thread reads the other end.

use std::{io, io::Read, os::unix::net::UnixStream};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};

/// The signals are held from here on; none is lost before [`Held::watch`].
#[derive(Debug)]
pub(crate) struct Held(UnixStream);

/// Takes both signals from the kernel's default, which ends the process without a drain.
pub(crate) fn hold() -> io::Result<Held> {
    let (bytes, filled_by_sigterm) = UnixStream::pair()?;
    let filled_by_sigint = filled_by_sigterm.try_clone()?;
    pipe::register(SIGTERM, filled_by_sigterm)?;
    pipe::register(SIGINT, filled_by_sigint)?;
    Ok(Held(bytes))
}

impl Held {
    /// Calls `drain` at the first signal and `stop` at the second, on a thread of its own that
    /// lives as long as the process.
    pub(crate) fn watch(
        mut self,
        drain: impl FnOnce() + Send + 'static,
        stop: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let watch = move || {
            let mut byte = [0];
            if self.0.read_exact(&mut byte).is_ok() {
                drain();
            }
            if self.0.read_exact(&mut byte).is_ok() {
                stop();
            }
        };
        std::thread::Builder::new().name("midge-signals".into()).spawn(watch).map(|_| ())
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
        // Nothing is lost between holding and watching, and two count as two.
        raise(SIGTERM).expect("a signal to myself");
        raise(SIGTERM).expect("a signal to myself");
        let (sender, receiver) = crossbeam_channel::unbounded();
        let drained = sender.clone();
        held.watch(
            move || drained.send("drain").expect("the test waits"),
            move || sender.send("stop").expect("the test waits"),
        )
        .expect("a thread");
        assert_eq!(receiver.recv(), Ok("drain"));
        assert_eq!(receiver.recv(), Ok("stop"));
        // A third, of the other kind, finds nobody to tell and does no harm.
        raise(SIGINT).expect("a signal to myself");
    }
}
