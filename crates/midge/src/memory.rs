//! Memory runs short: the shards are told before the machine is hurt.
//!
//! A thread looks four times a second. With `limits.memory_max` it looks at the broker's own resident memory; without, at
//! what is left of the machine's, or of the control group's. It tells the shards when that changes, and that all is well
//! again only with some room.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use midge_reactor::Reloader;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(250);

/// The part of the machine's memory that is left free, if it is left to us.
const FREE_SHARE: u64 = 16;

/// The limit, which a reload may change.
#[derive(Clone, Debug)]
pub(crate) struct MemoryWatch(Arc<AtomicU64>);

/// What there is at one look, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// The broker's resident memory.
    own: u64,
    /// What programs may still take of the machine's memory; `None`: nobody knows.
    available: Option<u64>,
    total: u64,
    /// The control group's limit.
    group_max: Option<u64>,
}

impl MemoryWatch {
    /// `maximum` in bytes; 0: see the module.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn start(maximum: u64, total: u64, reloader: Reloader) -> io::Result<Self> {
        let limit = Arc::new(AtomicU64::new(maximum));
        let watch = Self(Arc::clone(&limit));
        let group_max = group_max();
        let run = move || {
            let mut is_pressed = false;
            loop {
                thread::sleep(PERIOD);
                let Some(own) = resident() else { return };
                let look = Look { own, available: available(), total, group_max };
                let pressed = is_short(look, limit.load(Ordering::Relaxed), is_pressed);
                if pressed != is_pressed {
                    is_pressed = pressed;
                    tell(is_pressed, own);
                    reloader.set_pressure(is_pressed);
                }
            }
        };
        thread::Builder::new().name("memory".into()).spawn(run)?;
        Ok(watch)
    }

    /// Another limit counts from the next look on.
    pub(crate) fn set_maximum(&self, maximum: u64) {
        self.0.store(maximum, Ordering::Relaxed);
    }
}

fn tell(is_pressed: bool, own: u64) {
    let mebibytes = own >> 20;
    if is_pressed {
        tracing::error!(
            "memory is short (the broker has {mebibytes} MiB): new sessions, subscriptions and messages to keep are refused"
        );
    } else {
        tracing::warn!("memory is enough again (the broker has {mebibytes} MiB)");
    }
}

/// Whether memory is short. Once it is, a sixteenth more must be free until it is not any more.
fn is_short(look: Look, maximum: u64, is_pressed: bool) -> bool {
    let slack = |size: u64| if is_pressed { size / 16 } else { 0 };
    if maximum > 0 {
        return look.own >= maximum - slack(maximum);
    }
    let reserve = |total: u64| total / FREE_SHARE + slack(total / FREE_SHARE);
    let machine = look.available.is_some_and(|left| left < reserve(look.total));
    let group = look.group_max.is_some_and(|most| look.own >= most - reserve(most).min(most));
    machine || group
}

fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The limit of this process's control group (version 2); groups further up are not looked at.
fn group_max() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let maximum = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()?;
    maximum.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn look(own: u64, available: u64) -> Look {
        Look { own, available: Some(available), total: 16 * GIB, group_max: None }
    }

    #[test]
    fn short_is_short_until_there_is_some_room() {
        assert!(!is_short(look(GIB - 1, 0), GIB, false));
        assert!(is_short(look(GIB, 16 * GIB), GIB, false));
        assert!(is_short(look(GIB - GIB / 16, 16 * GIB), GIB, true));
        assert!(!is_short(look(GIB - GIB / 16 - 1, 16 * GIB), GIB, true));
    }

    #[test]
    fn without_a_limit_the_machine_and_its_control_group_decide() {
        assert!(!is_short(look(15 * GIB, GIB), 0, false));
        assert!(is_short(look(GIB, GIB - 1), 0, false));
        assert!(is_short(look(GIB, GIB + GIB / 32), 0, true));
        assert!(!is_short(look(GIB, GIB + GIB / 8), 0, true));
        let grouped = |own| Look { group_max: Some(GIB), ..look(own, 8 * GIB) };
        assert!(!is_short(grouped(GIB / 2), 0, false));
        assert!(is_short(grouped(GIB - GIB / 32), 0, false));
        let blind = Look { available: None, ..look(GIB, 0) };
        assert!(!is_short(blind, 0, false));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident().is_some_and(|own| own > 1 << 20));
        assert!(available().is_some());
    }
}
