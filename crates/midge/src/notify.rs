//! Tells the service manager how far the broker has come: systemd's `Type=notify` and `WatchdogSec=`.
//!
//! A message is a datagram of lines to the socket that `$NOTIFY_SOCKET` names. Without that variable, nobody wants to know
//! and nothing is said.
//!
//! The watchdog is only told that all is well while all shards show signs of life. One that is stuck costs every client
//! that lives there, and a restart is the best that can be done for them.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

use midge_metrics::Instance;
use midge_services::Pulse;

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// `None`: nobody wants to know.
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// Between two signs of life, at most; `None`: none are wanted.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the surroundings of this process say.
    pub(crate) fn from_environment() -> Self {
        Self::new(
            env::var_os("NOTIFY_SOCKET"),
            env::var("WATCHDOG_USEC").ok(),
            env::var("WATCHDOG_PID").ok(),
        )
    }

    fn new(socket: Option<OsString>, period: Option<String>, process: Option<String>) -> Self {
        let manager = socket.filter(|name| !name.is_empty()).and_then(|name| {
            let connect = || Ok::<_, io::Error>((UnixDatagram::unbound()?, address(&name)?));
            match connect() {
                Ok(manager) => Some(manager),
                Err(error) => {
                    tracing::warn!("cannot tell the service manager anything: {error}");
                    None
                }
            }
        });
        // Of a parent that forgot to take its own variables away.
        let ours = process.is_none_or(|process| process == std::process::id().to_string());
        let period = period.and_then(|text| text.parse().ok()).filter(|_| ours);
        let watchdog = period.filter(|period| *period > 0).map(Duration::from_micros);
        Self { manager, watchdog }
    }

    /// It starts, which may take long; if it `moves`, the manager is asked to wait on, longer than it had in mind.
    pub(crate) fn starting(&self, status: &str, moves: bool) {
        let wait = if moves { "\nEXTEND_TIMEOUT_USEC=300000000" } else { "" };
        self.tell(&format!("STATUS={status}{wait}"));
    }

    /// All shards serve.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has been asked for.
    pub(crate) fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Gives signs of life from a thread of its own, for as long as all shards whose pages are open give theirs, twice in
    /// each period that the service manager waits. Without pages it only knows about itself.
    pub(crate) fn watch(&self, pages: Option<Instance>) -> io::Result<()> {
        let (Some((socket, manager)), Some(period)) = (&self.manager, self.watchdog) else {
            return Ok(());
        };
        let notifier =
            Self { manager: Some((socket.try_clone()?, manager.clone())), watchdog: None };
        let watch = move || {
            let started = Instant::now();
            let mut pulse = Pulse::default();
            let mut told = false;
            loop {
                let trouble = pages.as_ref().and_then(|pages| {
                    match pulse.silent_pages(pages, started.elapsed()) {
                        Ok(silent) if silent.is_empty() => None,
                        Ok(silent) => Some(format!("no sign of life from shards {silent:?}")),
                        Err(error) => Some(error.to_string()),
                    }
                });
                match trouble {
                    None => notifier.tell("WATCHDOG=1"),
                    Some(trouble) if !told => {
                        told = true;
                        tracing::error!("{trouble}; the watchdog is told nothing more");
                    }
                    Some(_) => {}
                }
                std::thread::sleep(period / 2);
            }
        };
        std::thread::Builder::new().name("midge-watchdog".into()).spawn(watch).map(|_| ())
    }

    fn tell(&self, message: &str) {
        if let Some((socket, manager)) = &self.manager {
            // A manager that does not listen misses it; nothing here depends on it.
            _ = socket.send_to_addr(message.as_bytes(), manager);
        }
    }
}

/// A path, or a name in the abstract namespace, written with `@` in front.
fn address(name: &OsString) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other(format!("NOTIFY_SOCKET is no path: {}", name.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(test: &str) -> (UnixDatagram, OsString) {
        let name = format!("midge-notify-{test}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short");
        (UnixDatagram::bind_addr(&address).expect("free"), format!("@{name}").into())
    }

    fn received(manager: &UnixDatagram) -> String {
        let mut message = [0; 256];
        let size = manager.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..size]).into_owned()
    }

    #[test]
    fn the_manager_is_told() {
        let (manager, name) = manager("told");
        let notifier = Notifier::new(Some(name), None, None);
        notifier.starting("reads", false);
        assert_eq!(received(&manager), "STATUS=reads");
        notifier.starting("reads more", true);
        assert_eq!(received(&manager), "STATUS=reads more\nEXTEND_TIMEOUT_USEC=300000000");
        notifier.ready("serves");
        assert_eq!(received(&manager), "READY=1\nSTATUS=serves");
        notifier.stopping("drains");
        assert_eq!(received(&manager), "STOPPING=1\nSTATUS=drains");
    }

    #[test]
    fn signs_of_life_come_as_often_as_wanted() {
        let (manager, name) = manager("life");
        let own = std::process::id().to_string();
        let notifier = Notifier::new(Some(name), Some("20000".into()), Some(own));
        assert_eq!(notifier.watchdog, Some(Duration::from_millis(20)));
        notifier.watch(None).expect("a thread");
        for _ in 0..3 {
            assert_eq!(received(&manager), "WATCHDOG=1");
        }
    }

    #[test]
    fn nobody_is_told_what_nobody_wants_to_know() {
        for (socket, period, process) in [
            (None, None, None),
            (Some(""), None, None),
            (Some("vsock:2:1234"), None, None),
            (None, Some("0"), None),
            (None, Some("soon"), None),
            // Another process's.
            (None, Some("20000"), Some("1")),
        ] {
            let text = |value: Option<&str>| value.map(str::to_owned);
            let notifier = Notifier::new(socket.map(OsString::from), text(period), text(process));
            assert!(notifier.manager.is_none() && notifier.watchdog.is_none(), "{notifier:?}");
            notifier.ready("unheard");
        }
    }
}
