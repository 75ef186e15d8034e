//! What the broker's process costs, read from `/proc` before and after the measured window.
//!
//! CPU is `utime + stime` of `/proc/PID/stat`: all threads, those that ended too, and the kernel's work on the
//! process's behalf. The kernel prints it in ticks, so a window shorter than a second is coarse. Work in interrupt
//! context (loopback's receive half) is charged to whoever runs on the core at that moment: with the broker alone on
//! its core that is the broker, for every broker alike.

use std::fs;
use std::io;

/// The unit of `/proc/PID/stat`, USER_HZ: 100 a second on every architecture Linux runs this on.
const TICKS_PER_SECOND: u64 = 100;

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User time, microseconds, in steps of a tick (10 ms).
    pub user_us: u64,
    /// System time, microseconds, in steps of a tick.
    pub system_us: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// User and system time, microseconds.
    pub(crate) fn cpu_us(&self) -> u64 {
        self.user_us + self.system_us
    }
}

/// Reads the usage of a process of this machine.
///
/// # Errors
/// The process is not there, or `/proc` does not look as expected.
pub(crate) fn read(pid: u32) -> io::Result<Usage> {
    let (user_us, system_us) = fs::read_to_string(format!("/proc/{pid}/stat"))
        .and_then(|text| cpu_times(&text).ok_or(io::ErrorKind::InvalidData.into()))?;
    let resident_bytes = fs::read_to_string(format!("/proc/{pid}/status"))
        .and_then(|text| kilobytes(&text, "VmRSS:").ok_or(io::ErrorKind::InvalidData.into()))?;
    Ok(Usage { user_us, system_us, resident_bytes })
}

/// Kernel memory in slabs, bytes: sockets of both ends live there. 0 when it cannot be read.
pub(crate) fn slab_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "Slab:")).unwrap_or(0)
}

fn cpu_times(stat: &str) -> Option<(u64, u64)> {
    // The second field is the command in parentheses and may hold anything, even spaces and parentheses.
    let after_command = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let mut microseconds =
        || Some(fields.next()?.parse::<u64>().ok()? * (1_000_000 / TICKS_PER_SECOND));
    Some((microseconds()?, microseconds()?))
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_times_behind_any_command_name() {
        for command in ["midge", "a b", "x) R (1"] {
            let stat = format!("12 ({command}) S 1 2 3 4 5 6 7 8 9 10 250 7 0 0 20 0 1 0 99");
            assert_eq!(cpu_times(&stat), Some((2_500_000, 70_000)), "{command}");
        }
        assert_eq!(cpu_times("12 (midge) S 1"), None);
    }

    #[test]
    fn reads_sizes() {
        let text = "Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n";
        assert_eq!(kilobytes(text, "VmRSS:"), Some(1234 * 1024));
        assert_eq!(kilobytes(text, "VmHWM:"), None);
    }

    #[test]
    fn reads_this_process() {
        let usage = read(std::process::id()).expect("our own /proc");
        assert!(usage.resident_bytes > 100_000);
        assert!(slab_bytes() > 0);
        assert!(read(u32::MAX).is_err());
    }
}
