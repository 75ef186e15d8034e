//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once. SIGHUP asks to read the
//! configuration again, any number of times.
//!
//! Each signal puts one byte into a pipe, so that two in quick succession count as two (flags
//! would melt into one). A thread reads the other end.

use std::{io, io::Read, os::unix::net::UnixStream};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level::pipe,
};

/// The signals are held from here on; none is lost before [`Held::watch`].
#[derive(Debug)]
pub(crate) struct Held {
    ends: UnixStream,
    hangups: UnixStream,
}

/// Takes the signals from the kernel's default, which ends the process without a drain.
pub(crate) fn hold() -> io::Result<Held> {
    let (bytes, filled_by_sigterm) = UnixStream::pair()?;
    let filled_by_sigint = filled_by_sigterm.try_clone()?;
    pipe::register(SIGTERM, filled_by_sigterm)?;
    pipe::register(SIGINT, filled_by_sigint)?;
    let (hangups, filled_by_sighup) = UnixStream::pair()?;
    pipe::register(SIGHUP, filled_by_sighup)?;
    Ok(Held { ends: bytes, hangups })
}

impl Held {
    /// Calls `reload` at each SIGHUP, on a thread of its own that lives as long as the process. Signals that come while it
    /// is busy count as one.
    pub(crate) fn watch_hangups(
        &self,
        mut reload: impl FnMut() + Send + 'static,
    ) -> io::Result<()> {
        let mut hangups = self.hangups.try_clone()?;
        let watch = move || {
            let mut bytes = [0; 64];
            while hangups.read(&mut bytes).is_ok_and(|count| count > 0) {
                reload();
            }
        };
        std::thread::Builder::new().name("midge-reload".into()).spawn(watch).map(|_| ())
    }

    /// Calls `drain` at the first signal and `stop` at the second, on a thread of its own that
    /// lives as long as the process.
    pub(crate) fn watch(
        mut self,
        drain: impl FnOnce() + Send + 'static,
        stop: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let watch = move || {
            let mut byte = [0];
            if self.ends.read_exact(&mut byte).is_ok() {
                drain();
            }
            if self.ends.read_exact(&mut byte).is_ok() {
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
        let reloads = sender.clone();
        held.watch_hangups(move || reloads.send("reload").expect("the test waits"))
            .expect("a thread");
        for _ in 0..2 {
            raise(SIGHUP).expect("a signal to myself");
            assert_eq!(receiver.recv(), Ok("reload"));
        }
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
