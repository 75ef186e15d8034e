//! What the doctor looks at, read in one place, so that the checks are plain functions over plain values.
//!
//! Everything but the trial of io_uring and the cores of this process comes from files below one directory, which
//! is `/` outside tests. What cannot be read stays `None`: a container hides much, and no answer is not a wrong one.

use std::{
    collections::BTreeSet,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
};

use midge_netring::NetRingError;

/// What this host and this process's surroundings allow.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// As the kernel spells its release, such as `6.18.44-generic`.
    pub(super) kernel: Option<String>,
    /// What came of making a ring. `None`: not tried (made-up hosts).
    pub(super) io_uring: Option<Result<(), NetRingError>>,
    /// `kernel.io_uring_disabled`; the file came with Linux 6.6.
    pub(super) io_uring_disabled: Option<u64>,
    /// Whether the kernel can hold a process to some files. `None`: not tried (made-up hosts).
    pub(super) landlock: Option<bool>,
    /// Whether the kernel has filters of system calls. `None`: it does not say.
    pub(super) seccomp: Option<bool>,
    /// Effective capabilities of this process as a bit set.
    pub(super) capabilities: u64,
    /// Cores' worth of time that this process may use: affinity and control-group quota counted.
    pub(super) parallelism: usize,
    /// Cores that this process may run on.
    pub(super) cores: usize,
    /// The hard limit of open descriptors, to which the broker raises its soft one. `u64::MAX`: none.
    pub(super) descriptors_max: Option<u64>,
    /// The hard limit of locked memory in bytes. `u64::MAX`: none.
    pub(super) locked_bytes_max: Option<u64>,
    /// `fs.nr_open`: the most that a limit of descriptors may be.
    pub(super) nr_open: Option<u64>,
    /// `fs.file-max`: open files of the machine, at most.
    pub(super) file_max: Option<u64>,
    /// Open files of the machine now.
    pub(super) files_open: Option<u64>,
    /// The machine's memory, bytes.
    pub(super) memory_bytes: Option<u64>,
    /// What new work could have of it now without swapping, bytes.
    pub(super) memory_available_bytes: Option<u64>,
    /// The tightest limit of memory of the control groups that this process is in.
    pub(super) memory_group: Option<GroupLimit>,
    /// The tightest limit of tasks of the control groups that this process is in.
    pub(super) tasks_group: Option<GroupLimit>,
    /// Swap space, bytes.
    pub(super) swap_bytes: Option<u64>,
    /// `vm.swappiness`.
    pub(super) swappiness: Option<u64>,
    /// `vm.overcommit_memory`.
    pub(super) overcommit: Option<u64>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub(super) huge_pages: Option<String>,
    /// `net.core.somaxconn`.
    pub(super) somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub(super) syn_backlog: Option<u64>,
    /// `net.ipv4.tcp_syncookies`.
    pub(super) syn_cookies: Option<u64>,
    /// `net.ipv4.tcp_mem`, pages: relaxed below, pressure above, the end.
    pub(super) tcp_mem: Option<[u64; 3]>,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub(super) ports: Option<(u64, u64)>,
    /// IPv4 addresses of this host that are not loopback.
    pub(super) addresses: Option<u64>,
    /// Connections tracked now, and the most; `None`: the kernel tracks none.
    pub(super) conntrack: Option<(u64, u64)>,
    /// What the kernel reads the time from.
    pub(super) clock_source: Option<String>,
    /// What it could read it from.
    pub(super) clock_sources: Vec<String>,
    /// Network cards, in the order of their names.
    pub(super) cards: Vec<Card>,
    /// Whether irqbalance runs, which moves interrupts by itself.
    pub(super) irqbalance: bool,
}

/// A limit that a control group sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupLimit {
    /// The file that says so.
    pub(super) file: PathBuf,
    /// The limit: bytes or tasks.
    pub(super) max: u64,
}

/// A network interface with hardware (or a virtual machine's idea of it) behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Card {
    /// Such as `eth0`.
    pub(super) name: String,
    /// Receive queues.
    pub(super) queues: usize,
    /// Receive queues whose packets software spreads over cores.
    pub(super) queues_with_rps: usize,
    /// Different sets of cores that take the queues' interrupts; 0: not known.
    pub(super) interrupt_sets: usize,
}

/// Capabilities that lift one of the limits.
pub(super) const CAP_IPC_LOCK: u32 = 14;
pub(super) const CAP_SYS_ADMIN: u32 = 21;
pub(super) const CAP_SYS_RESOURCE: u32 = 24;

impl Host {
    /// This machine.
    pub(super) fn read() -> Self {
        Self {
            io_uring: Some(midge_netring::check_kernel()),
            landlock: Some(midge_sandbox::landlock_works()),
            parallelism: std::thread::available_parallelism().map_or(1, NonZero::get),
            cores: cores(),
            ..Self::read_below(Path::new("/"))
        }
    }

    /// The part that is in files, below a directory that stands for `/`.
    pub(super) fn read_below(root: &Path) -> Self {
        let files = Files { root };
        let limit = |name| limit(&files.text("proc/self/limits")?, name);
        let sysctl = |name: &str| files.number(&format!("proc/sys/{name}"));
        let memory = |field| kibibytes(&files.text("proc/meminfo")?, field);
        let clock = "sys/devices/system/clocksource/clocksource0";
        Self {
            kernel: files.word("proc/sys/kernel/osrelease"),
            io_uring: None,
            landlock: None,
            // The line is there where the kernel was built with it.
            seccomp: files.text("proc/self/status").map(|text| field(&text, "Seccomp:").is_some()),
            io_uring_disabled: sysctl("kernel/io_uring_disabled"),
            capabilities: files
                .text("proc/self/status")
                .and_then(|text| field(&text, "CapEff:").map(str::to_owned))
                .and_then(|text| u64::from_str_radix(&text, 16).ok())
                .unwrap_or(0),
            parallelism: 1,
            cores: 1,
            descriptors_max: limit("Max open files"),
            locked_bytes_max: limit("Max locked memory"),
            nr_open: sysctl("fs/nr_open"),
            file_max: sysctl("fs/file-max"),
            files_open: sysctl("fs/file-nr"),
            memory_bytes: memory("MemTotal:"),
            memory_available_bytes: memory("MemAvailable:"),
            memory_group: files.group_limit("memory", &["memory.max", "memory.limit_in_bytes"]),
            tasks_group: files.group_limit("pids", &["pids.max"]),
            swap_bytes: memory("SwapTotal:"),
            swappiness: sysctl("vm/swappiness"),
            overcommit: sysctl("vm/overcommit_memory"),
            huge_pages: files
                .text("sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| chosen(&text).map(str::to_owned)),
            somaxconn: sysctl("net/core/somaxconn"),
            syn_backlog: sysctl("net/ipv4/tcp_max_syn_backlog"),
            syn_cookies: sysctl("net/ipv4/tcp_syncookies"),
            tcp_mem: files.numbers("proc/sys/net/ipv4/tcp_mem").and_then(|n| n.try_into().ok()),
            ports: match files.numbers("proc/sys/net/ipv4/ip_local_port_range").as_deref() {
                Some(&[first, last]) => Some((first, last)),
                _ => None,
            },
            addresses: files.text("proc/net/fib_trie").map(|text| local_addresses(&text)),
            conntrack: sysctl("net/netfilter/nf_conntrack_count")
                .zip(sysctl("net/netfilter/nf_conntrack_max")),
            clock_source: files.word(&format!("{clock}/current_clocksource")),
            clock_sources: files
                .text(&format!("{clock}/available_clocksource"))
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            cards: files.cards(),
            irqbalance: ["run/irqbalance", "run/irqbalance.pid"]
                .iter()
                .any(|path| root.join(path).exists()),
        }
    }

    /// Whether this process has a capability.
    pub(super) fn may(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

fn cores() -> usize {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return 1 };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).count().max(1)
}

/// Files below a directory.
struct Files<'a> {
    root: &'a Path,
}

impl Files<'_> {
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn word(&self, path: &str) -> Option<String> {
        self.text(path).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The first number of a file.
    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.split_whitespace().next()?.parse().ok()
    }

    fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        self.text(path)?.split_whitespace().map(|word| word.parse().ok()).collect()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The smallest limit on the way from this process's control group to the root, of either version.
    ///
    /// A container may see another path than the kernel tells; the groups that exist on the way up are its own.
    fn group_limit(&self, controller: &str, names: &[&str]) -> Option<GroupLimit> {
        let mut tightest: Option<GroupLimit> = None;
        for line in self.text("proc/self/cgroup")?.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let base = match controllers {
                "" => "sys/fs/cgroup".to_owned(),
                list if list.split(',').any(|name| name == controller) => {
                    format!("sys/fs/cgroup/{controller}")
                }
                _ => continue,
            };
            for group in Path::new(path.trim_start_matches('/')).ancestors() {
                for name in names {
                    let file = Path::new(&base).join(group).join(name);
                    let text = file.to_str().and_then(|file| self.text(file));
                    let max = text.and_then(|text| text.trim().parse::<u64>().ok());
                    // The first version says "no limit" with the largest number of pages.
                    let Some(max) = max.filter(|max| *max < 1 << 62) else { continue };
                    if tightest.as_ref().is_none_or(|other| max < other.max) {
                        tightest = Some(GroupLimit { file: Path::new("/").join(file), max });
                    }
                }
            }
        }
        tightest
    }

    fn cards(&self) -> Vec<Card> {
        let mut cards = Vec::new();
        for name in self.names("sys/class/net") {
            let path = format!("sys/class/net/{name}");
            if !self.root.join(&path).join("device").exists() {
                continue;
            }
            let queues: Vec<String> = self
                .names(&format!("{path}/queues"))
                .into_iter()
                .filter(|queue| queue.starts_with("rx-"))
                .collect();
            let spread = |queue: &&String| {
                self.word(&format!("{path}/queues/{queue}/rps_cpus"))
                    .is_some_and(|mask| mask.chars().any(|digit| !matches!(digit, '0' | ',')))
            };
            cards.push(Card {
                queues: queues.len(),
                queues_with_rps: queues.iter().filter(spread).count(),
                interrupt_sets: self.interrupt_sets(&path),
                name,
            });
        }
        cards
    }

    /// Different sets of cores that take the interrupts of a card's queues.
    fn interrupt_sets(&self, card: &str) -> usize {
        let mut sets = BTreeSet::new();
        // A virtual card's interrupts belong to the device one level up.
        for device in ["device", "device/.."] {
            for number in self.names(&format!("{card}/{device}/msi_irqs")) {
                let queue = self
                    .names(&format!("proc/irq/{number}"))
                    .into_iter()
                    .any(|name| is_queue_interrupt(&name));
                if !queue {
                    continue;
                }
                let set = ["effective_affinity_list", "smp_affinity_list"]
                    .iter()
                    .find_map(|file| self.word(&format!("proc/irq/{number}/{file}")));
                sets.extend(set);
            }
        }
        sets.len()
    }
}

/// Whether an interrupt's owner is a queue: `eth0-TxRx-3`, `virtio2-input.0`, `mlx5_comp4@pci:0000:01:00.0`.
fn is_queue_interrupt(name: &str) -> bool {
    let name = name.split('@').next().unwrap_or(name).to_ascii_lowercase();
    let word = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let word_end = word.trim_end_matches(['-', '.', '_']);
    let endings = ["rx", "tx", "input", "output", "comp", "fp", "queue", "q"];
    word.len() < name.len() && endings.iter().any(|ending| word_end.ends_with(ending))
}

/// A hard limit of `/proc/self/limits`.
fn limit(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let number = field(text, name)?.split_whitespace().next()?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// What stands in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

/// Addresses of this host in the kernel's routing tables, each once, loopback left out.
fn local_addresses(text: &str) -> u64 {
    let mut addresses = BTreeSet::new();
    let mut last = "";
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line.starts_with("/32 host LOCAL") && !last.starts_with("127.") {
            addresses.insert(last);
        }
    }
    addresses.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that stands for `/` and goes with the test.
    struct Root(PathBuf);

    impl Root {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("midge-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory for this test");
            Self(path)
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_made_up_machine_is_read() {
        let root = Root::new("doctor-host");
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.1.0-test\n"),
            ("proc/sys/kernel/io_uring_disabled", "2\n"),
            ("proc/self/status", "Name:\tmidge\nCapEff:\t0000000001204000\nSeccomp:\t0\n"),
            (
                "proc/self/limits",
                "Limit        Soft Limit  Hard Limit  Units\n\
                 Max open files            1024                 20000                files     \n\
                 Max locked memory         8388608              unlimited            bytes     \n",
            ),
            ("proc/sys/fs/nr_open", "1048576\n"),
            ("proc/sys/fs/file-max", "2466170\n"),
            ("proc/sys/fs/file-nr", "1152\t0\t2466170\n"),
            ("proc/meminfo", "MemTotal:  1024 kB\nMemAvailable: 512 kB\nSwapTotal:  0 kB\n"),
            ("proc/sys/net/ipv4/tcp_mem", "1\t2\t3\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "7\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "9\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
            (
                "proc/net/fib_trie",
                "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     \
                 |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.0\n        /24 link UNICAST\n\
                 Local:\n     |-- 10.0.0.5\n        /32 host LOCAL\n",
            ),
            (
                "sys/devices/system/clocksource/clocksource0/available_clocksource",
                "tsc hpet acpi_pm \n",
            ),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
            ("proc/self/cgroup", "5:pids,cpu:/a\n4:memory:/a/b\n0::/x/y.service\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "5000\n"),
            ("sys/fs/cgroup/x/memory.max", "4000\n"),
            ("sys/fs/cgroup/x/y.service/memory.max", "max\n"),
            ("sys/fs/cgroup/pids/pids.max", "100\n"),
            ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00,00000000\n"),
            ("sys/class/net/eth0/queues/rx-1/rps_cpus", "ff\n"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "ff\n"),
            ("sys/class/net/eth0/device/msi_irqs/50", "msix\n"),
            ("sys/class/net/eth0/device/msi_irqs/51", "msix\n"),
            ("sys/class/net/eth0/device/msi_irqs/60", "msix\n"),
            ("proc/irq/50/smp_affinity_list", "0-3\n"),
            ("proc/irq/50/effective_affinity_list", "0\n"),
            ("proc/irq/50/eth0-TxRx-0/x", ""),
            ("proc/irq/51/smp_affinity_list", "0\n"),
            ("proc/irq/51/eth0-TxRx-1/x", ""),
            ("proc/irq/60/smp_affinity_list", "3\n"),
            ("proc/irq/60/eth0/x", ""),
            ("run/irqbalance.pid", "1\n"),
        ] {
            root.put(path, text);
        }
        let host = Host::read_below(&root.0);
        assert_eq!(host.kernel.as_deref(), Some("6.1.0-test"));
        assert_eq!(host.io_uring_disabled, Some(2));
        assert_eq!(host.seccomp, Some(true));
        assert!(host.may(CAP_IPC_LOCK) && host.may(CAP_SYS_ADMIN) && host.may(CAP_SYS_RESOURCE));
        assert!(!host.may(1));
        assert_eq!((host.descriptors_max, host.locked_bytes_max), (Some(20_000), Some(u64::MAX)));
        assert_eq!((host.nr_open, host.file_max), (Some(1_048_576), Some(2_466_170)));
        assert_eq!(host.files_open, Some(1152));
        assert_eq!(host.memory_bytes, Some(1 << 20));
        assert_eq!(host.memory_available_bytes, Some(1 << 19));
        assert_eq!(host.swap_bytes, Some(0));
        assert_eq!((host.tcp_mem, host.ports), (Some([1, 2, 3]), Some((32_768, 60_999))));
        assert_eq!((host.conntrack, host.addresses), (Some((7, 9)), Some(1)));
        assert_eq!(host.huge_pages.as_deref(), Some("always"));
        assert_eq!(host.clock_source.as_deref(), Some("hpet"));
        assert_eq!(host.clock_sources, ["tsc", "hpet", "acpi_pm"]);
        let file = PathBuf::from("/sys/fs/cgroup/x/memory.max");
        assert_eq!(host.memory_group, Some(GroupLimit { file, max: 4000 }));
        let file = PathBuf::from("/sys/fs/cgroup/pids/pids.max");
        assert_eq!(host.tasks_group, Some(GroupLimit { file, max: 100 }));
        let card = Card { name: "eth0".into(), queues: 2, queues_with_rps: 1, interrupt_sets: 1 };
        assert_eq!(host.cards, [card]);
        assert!(host.irqbalance);
        // What is not there is not made up.
        assert_eq!((host.somaxconn, host.swappiness, host.landlock), (None, None, None));
    }

    #[test]
    fn nothing_to_read_is_no_error() {
        let root = Root::new("doctor-nothing");
        let host = Host::read_below(&root.0);
        assert_eq!((host.kernel, host.memory_bytes, host.memory_group), (None, None, None));
        assert!(host.cards.is_empty());
    }

    #[test]
    fn this_machine_is_read() {
        let host = Host::read();
        assert!(host.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(host.descriptors_max.is_some_and(|limit| limit > 0));
        assert!(host.io_uring.is_some() && host.parallelism > 0);
    }
}
