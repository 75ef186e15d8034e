//! What the kernel says about this process, by the names that Prometheus clients of all languages give it.

use std::fmt::Write;
use std::fs;

/// Facts of one moment. What cannot be read is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// User and system time of all threads, seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// Resident memory, bytes.
    pub(crate) resident_bytes: Option<u64>,
    /// Address space, bytes.
    pub(crate) virtual_bytes: Option<u64>,
    /// Entries of the descriptor table. Connections are not among them.
    pub(crate) descriptors: Option<usize>,
    /// Threads.
    pub(crate) threads: Option<u64>,
}

impl Process {
    /// This process, now.
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let status = fs::read_to_string("/proc/self/status").ok();
        Self {
            descriptors: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            ..Self::parse(
                stat.as_deref().unwrap_or_default(),
                status.as_deref().unwrap_or_default(),
                rustix::param::clock_ticks_per_second(),
            )
        }
    }

    fn parse(stat: &str, status: &str, ticks_per_second: u64) -> Self {
        // The second field is the program's name in parentheses, and may hold anything.
        let mut times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let mut ticks = || times.next()?.parse::<u64>().ok();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let bytes = |name: &str| field(name).and_then(|kibibytes| kibibytes.checked_mul(1024));
        Self {
            cpu_seconds: ticks()
                .zip(ticks())
                .map(|(user, system)| (user + system) as f64 / ticks_per_second.max(1) as f64),
            resident_bytes: bytes("VmRSS:"),
            virtual_bytes: bytes("VmSize:"),
            descriptors: None,
            threads: field("Threads:"),
        }
    }

    /// Appends them as Prometheus text.
    pub(crate) fn write(&self, text: &mut String) {
        let mut family = |name: &str, kind: &str, help: &str, value: Option<String>| {
            if let Some(value) = value {
                _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
            }
        };
        let string = |number: Option<u64>| number.map(|number| number.to_string());
        family(
            "process_cpu_seconds_total",
            "counter",
            "User and system time of all threads.",
            self.cpu_seconds.map(|seconds| seconds.to_string()),
        );
        let help = "Resident memory.";
        family("process_resident_memory_bytes", "gauge", help, string(self.resident_bytes));
        let help = "Address space, most of it never touched.";
        family("process_virtual_memory_bytes", "gauge", help, string(self.virtual_bytes));
        let help = "Entries of the descriptor table. Connections are not among them.";
        family(
            "process_open_fds",
            "gauge",
            help,
            string(self.descriptors.map(|count| count as u64)),
        );
        family("process_threads", "gauge", "Threads.", string(self.threads));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let stat = "4711 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 1 2 3";
        let status = "Name:\tx\nVmSize:\t  10 kB\nVmRSS:\t   4 kB\nThreads:\t7\n";
        let process = Process::parse(stat, status, 100);
        assert_eq!(process.cpu_seconds, Some(3.0));
        assert_eq!((process.resident_bytes, process.virtual_bytes), (Some(4096), Some(10_240)));
        assert_eq!(process.threads, Some(7));
        assert_eq!(Process::parse("", "", 100), Process::default());
    }

    #[test]
    fn this_process_is_read() {
        let process = Process::read();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 0));
        assert!(process.descriptors.is_some_and(|count| count > 2));
        let mut text = String::new();
        process.write(&mut text);
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
    }
}
