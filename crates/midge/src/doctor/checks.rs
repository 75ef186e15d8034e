//! The checks: plain functions from what a host is to what is wrong with it.
//!
//! Each looks at one thing. [`examine`] runs all of them and puts what stops connections first, the lowest ceiling
//! before the others; then what hurts, in the order below, which is that of importance.

use midge_netring::{KERNEL_VERSION_MIN, NetRingError};

use super::{
    finding::{Finding, Verdict},
    host::{CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, Card, Host},
};
use crate::{
    capacity,
    units::{count, human},
};

/// What this host is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Connections at the same time, at least 1.
    pub(super) connections: u64,
    /// Shards of the broker.
    pub(super) shards: u16,
    /// Which end of the connections is here.
    pub(super) role: Role,
}

/// Which end of the connections is on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The broker; clients are elsewhere.
    #[default]
    Broker,
    /// The load generator; the broker is elsewhere.
    Generator,
    /// Both, over loopback.
    Both,
}

/// Everything that was looked at, in order of importance.
pub(super) fn examine(host: &Host, wanted: &Wanted) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        CHECKS.iter().filter_map(|check| check(host, wanted)).collect();
    findings.extend(host.cards.iter().filter_map(|card| packets(card, host, wanted)));
    // Stable: what is equally bad stays in the order of the checks.
    findings.sort_by_key(|finding| finding.verdict);
    findings
}

type Check = fn(&Host, &Wanted) -> Option<Finding>;

const CHECKS: [Check; 23] = [
    kernel,
    io_uring,
    io_uring_for_others,
    slots,
    open_files,
    locked_memory,
    memory,
    memory_group,
    tasks,
    source_addresses,
    port_range,
    overcommit,
    conntrack,
    memory_in_use,
    tcp_memory,
    swap,
    quota,
    huge_pages,
    backlog,
    handshakes,
    irqbalance,
    clock,
    sandbox,
];

// ---- What the broker cannot do without -----------------------------------------------------------

fn kernel(host: &Host, _: &Wanted) -> Option<Finding> {
    let Some(release) = &host.kernel else {
        return Some(Finding::unknown("io_uring", "kernel", "/proc/sys/kernel/osrelease"));
    };
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    let version = number().zip(number())?;
    let finding = Finding::fine("io_uring", "kernel", release);
    if version >= KERNEL_VERSION_MIN {
        return Some(finding);
    }
    let (major, minor) = KERNEL_VERSION_MIN;
    let why = "The rings need single issuer and deferred task work. No setting brings them: \
               install a newer kernel and restart.";
    let needed = format!("{major}.{minor} or newer");
    Some(finding.bad(Verdict::Stops { possible: 0 }, needed, why))
}

fn io_uring(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let error = match host.io_uring? {
        Ok(()) => return Some(Finding::fine("io_uring", "io_uring", "works")),
        Err(error) => error,
    };
    let finding = Finding::fine("io_uring", "io_uring", "does not work").bad(
        Verdict::Stops { possible: 0 },
        "a ring",
        format!("A ring was tried: {error}."),
    );
    Some(match error {
        NetRingError::DisabledBySysctl { .. } => finding.mended_by(tune(host, wanted, "io_uring")),
        NetRingError::Forbidden => {
            finding.mended_by("docker run --security-opt seccomp=unconfined …").mended_by(
                "systemd: SystemCallFilter=@system-service io_uring_setup io_uring_enter \
                 io_uring_register",
            )
        }
        NetRingError::LockedMemory => finding.mended_by("ulimit -l unlimited"),
        NetRingError::NoDescriptorLeft => finding.mended_by("ulimit -n 1048576"),
        _ => finding,
    })
}

/// It works for whoever asks, and yet may not for the user that the service runs as.
fn io_uring_for_others(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let value = host.io_uring_disabled.filter(|value| *value != 0)?;
    (host.io_uring == Some(Ok(()))).then(|| {
        Finding::fine("io_uring", "kernel.io_uring_disabled", value.to_string())
            .bad(
                Verdict::Hurts,
                "0, or 1 with the group of the broker's user",
                "It works for this user, who is privileged or in the group; a broker that runs as \
                 another user may be refused.",
            )
            .mended_by(tune(host, wanted, "io_uring"))
    })
}

/// A connection is a slot of a ring, and the kernel gives each ring as many as the limit of descriptors says.
fn slots(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role == Role::Generator {
        return None;
    }
    let Wanted { connections, shards, .. } = *wanted;
    let Some(limit) = host.descriptors_max else {
        return Some(Finding::unknown("descriptors", "slots of the rings", "/proc/self/limits"));
    };
    let needed = capacity::slots_per_ring(connections, shards);
    let most = limit.min(capacity::SLOTS_MAX);
    let finding = Finding::fine(
        "descriptors",
        "slots of the rings",
        format!("{} in each of {shards} (ulimit -Hn)", count(most)),
    );
    if needed <= most {
        return Some(finding);
    }
    let possible = capacity::connections_held(shards, most);
    let mut finding = finding.bad(
        Verdict::Stops { possible },
        format!("{} in each", count(needed)),
        format!(
            "A connection is a slot of one shard's ring, and the kernel gives each ring as many \
             slots as the limit of open descriptors says, at most {}: {} connections / {shards} \
             shards, a quarter more for uneven spread, and 256.",
            count(capacity::SLOTS_MAX),
            count(connections),
        ),
    );
    let raise = (needed <= capacity::SLOTS_MAX).then(|| {
        let nr_open = host.nr_open.unwrap_or(capacity::SLOTS_MAX);
        if needed > nr_open {
            format!("{} && ulimit -n {needed}", tune(host, wanted, "descriptors"))
        } else {
            format!("ulimit -n {needed}")
        }
    });
    // Whoever may raise the limit keeps a shard on each core; everybody can have more shards.
    let more = capacity::shards_needed(connections, most)
        .map(|shards| format!("midge serve --shards {shards}"));
    let (first, second) = if host.may(CAP_SYS_RESOURCE) { (raise, more) } else { (more, raise) };
    for command in [first, second].into_iter().flatten() {
        finding = finding.mended_by(command);
    }
    if needed <= capacity::SLOTS_MAX {
        finding = finding.mended_by(format!("systemd: LimitNOFILE={needed}"));
    }
    Some(finding)
}

/// Slots are no entries of the process's table, but they are open files of the machine.
fn open_files(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let Some(max) = host.file_max else {
        return Some(Finding::unknown("descriptors", "fs.file-max", "/proc/sys/fs/file-max"));
    };
    let others = host.files_open.unwrap_or(0);
    let ends = wanted.role.ends();
    let finding = Finding::fine(
        "descriptors",
        "fs.file-max",
        format!("{}, {} of them open", count(max), count(others)),
    );
    let needed = wanted.connections.saturating_mul(ends).saturating_add(others);
    if needed <= max {
        return Some(finding);
    }
    let why = "Each connection is an open file of the machine, whoever holds it.";
    let privileged = host.may(CAP_SYS_ADMIN);
    let verdict = if privileged {
        Verdict::Hurts
    } else {
        Verdict::Stops { possible: max.saturating_sub(others) / ends }
    };
    let why = if privileged {
        format!("{why} The kernel does not hold this user to it, but every other.")
    } else {
        why.to_owned()
    };
    Some(finding.bad(verdict, count(needed.saturating_add(OTHER_FILES)), why).mended_by(tune(
        host,
        wanted,
        "descriptors",
    )))
}

fn locked_memory(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role == Role::Generator {
        return None;
    }
    if host.may(CAP_IPC_LOCK) {
        return Some(Finding::fine("descriptors", "locked memory", "no limit for this user"));
    }
    let Some(limit) = host.locked_bytes_max else {
        return Some(Finding::unknown("descriptors", "locked memory", "/proc/self/limits"));
    };
    let needed = capacity::SHARD_LOCKED_BYTES * u64::from(wanted.shards);
    let found = if limit == u64::MAX { "no limit".into() } else { human(limit) };
    let finding = Finding::fine("descriptors", "locked memory", format!("{found} (ulimit -Hl)"));
    if needed <= limit {
        return Some(finding);
    }
    let shards = limit / capacity::SHARD_LOCKED_BYTES;
    let slots = host.descriptors_max.unwrap_or(capacity::SLOTS_MAX);
    let possible = match u16::try_from(shards) {
        Ok(0) => 0,
        Ok(shards) => capacity::connections_held(shards, slots),
        Err(_) => wanted.connections,
    };
    let mut finding = finding.bad(
        Verdict::Stops { possible: possible.min(wanted.connections.saturating_sub(1)) },
        human(needed),
        format!(
            "Each shard's rings count {} against the limit of locked memory of a user without \
             CAP_IPC_LOCK; with too little of it the broker does not start.",
            human(capacity::SHARD_LOCKED_BYTES),
        ),
    );
    let kibibytes = needed.div_ceil(1024);
    finding = finding.mended_by(format!("ulimit -l {kibibytes}"));
    finding = finding.mended_by("systemd: LimitMEMLOCK=infinity");
    if possible >= wanted.connections && shards > 0 {
        finding = finding.mended_by(format!("midge serve --shards {shards}"));
    }
    Some(finding)
}

fn memory(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let Some(total) = host.memory_bytes else {
        return Some(Finding::unknown("memory", "memory", "/proc/meminfo"));
    };
    let needed = memory_needed(wanted);
    let finding = Finding::fine("memory", "memory", human(total));
    if needed <= total / 10 * 9 {
        return Some(finding);
    }
    Some(finding.bad(
        Verdict::Stops { possible: connections_within(total / 10 * 9, wanted) },
        human(needed / 9 * 10),
        format!(
            "{}, and a tenth of the memory for everything else. No setting mends it: fewer \
             connections, or more memory.",
            sum(wanted),
        ),
    ))
}

/// A container, or a service with MemoryMax: sockets count too.
fn memory_group(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let group = host.memory_group.as_ref()?;
    let needed = memory_needed(wanted);
    let finding = Finding::fine("memory", "memory of the control group", human(group.max));
    if needed <= group.max {
        return Some(finding);
    }
    let file = group.file.display();
    let needed_round = needed.next_multiple_of(1 << 20);
    Some(
        finding
            .bad(
                Verdict::Stops { possible: connections_within(group.max, wanted) },
                human(needed_round),
                format!(
                    "{file} bounds the broker's memory and the kernel's for its connections \
                     together: {}.",
                    sum(wanted),
                ),
            )
            .mended_by(format!("echo {needed_round} | {}tee {file}", sudo(host)))
            .mended_by(format!("systemctl set-property midge.service MemoryMax={needed_round}"))
            .mended_by(format!("docker run --memory {needed_round} …")),
    )
}

/// Threads count as tasks.
fn tasks(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let group = host.tasks_group.as_ref()?;
    if wanted.role == Role::Generator {
        return None;
    }
    let needed = u64::from(wanted.shards) * TASKS_OF_A_SHARD + TASKS_OF_THE_PROCESS;
    let finding = Finding::fine("memory", "tasks of the control group", count(group.max));
    if needed <= group.max {
        return Some(finding);
    }
    let shards = group.max.saturating_sub(TASKS_OF_THE_PROCESS) / TASKS_OF_A_SHARD;
    let possible = match u16::try_from(shards).unwrap_or(u16::MAX) {
        0 => 0,
        shards => capacity::connections_held(shards, host.descriptors_max.unwrap_or(u64::MAX)),
    };
    let file = group.file.display();
    Some(
        finding
            .bad(
                Verdict::Stops { possible: possible.min(wanted.connections.saturating_sub(1)) },
                count(needed),
                format!("{file} bounds threads, and a shard has up to {TASKS_OF_A_SHARD}."),
            )
            .mended_by(format!("echo {needed} | {}tee {file}", sudo(host)))
            .mended_by(format!("systemctl set-property midge.service TasksMax={needed}")),
    )
}

// ---- The load generator's end --------------------------------------------------------------------

/// A connection is named by both addresses and both ports: each source address has so many ports, and no more.
fn source_addresses(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role != Role::Generator {
        return None;
    }
    let (Some((first, last)), Some(addresses)) = (host.ports, host.addresses) else {
        let file = "/proc/sys/net/ipv4/ip_local_port_range or /proc/net/fib_trie";
        return Some(Finding::unknown("sockets", "source addresses", file));
    };
    let ports = usable_ports(first, last);
    let possible = addresses.saturating_mul(ports);
    let finding = Finding::fine(
        "sockets",
        "source addresses",
        format!("{} with {} ports each", count(addresses), count(ports)),
    );
    if wanted.connections <= possible {
        return Some(finding);
    }
    // As many ports as `tune --load-generator` opens.
    let wide = usable_ports(FIRST_LOCAL_PORT, LAST_PORT).max(ports);
    let needed = wanted.connections.div_ceil(wide);
    let mut finding = finding.bad(
        Verdict::Stops { possible },
        format!("{} with {} ports each", count(needed), count(wide)),
        "Against one address and port of a broker, a source address gives one connection for each \
         port (three quarters of them: other programs need some).",
    );
    if wide > ports {
        finding = finding.mended_by(tune(host, wanted, "sockets"));
    }
    if needed > addresses {
        finding = finding.mended_by(format!(
            "{}ip address add ADDRESS/PREFIX dev INTERFACE (for each of {} more), then midge-flood \
             --source A,B,…",
            sudo(host),
            count(needed - addresses),
        ));
    }
    Some(finding)
}

fn port_range(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role != Role::Both {
        return None;
    }
    let Some((first, last)) = host.ports else {
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        return Some(Finding::unknown("sockets", "net.ipv4.ip_local_port_range", file));
    };
    let ports = (last + 1).saturating_sub(first);
    let finding = Finding::fine(
        "sockets",
        "net.ipv4.ip_local_port_range",
        format!("{first} to {last}; 127.0.0.0/8 has as many source addresses as anybody needs"),
    );
    if ports >= LOOPBACK_CONNECTIONS {
        return Some(finding);
    }
    Some(
        finding
            .bad(
                Verdict::Stops { possible: ports.saturating_mul(LOOPBACK_SOURCES) },
                format!("{} ports", count(LOOPBACK_CONNECTIONS)),
                "midge-flood takes so many connections from each loopback address before it goes \
                 on to the next.",
            )
            .mended_by(tune(host, wanted, "sockets")),
    )
}

// ---- What hurts, in the order of how much --------------------------------------------------------

fn overcommit(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let Some(value) = host.overcommit else {
        let file = "/proc/sys/vm/overcommit_memory";
        return Some(Finding::unknown("memory", "vm.overcommit_memory", file));
    };
    let finding = Finding::fine("memory", "vm.overcommit_memory", value.to_string());
    if value != 2 {
        return Some(finding);
    }
    let why = "2 counts address space that is never touched. Tables and receive buffers are \
               reserved in full, so the broker may fail to start, or to grow.";
    Some(finding.bad(Verdict::Hurts, "0 or 1", why).mended_by(tune(host, wanted, "memory")))
}

fn conntrack(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let Some((tracked, most)) = host.conntrack else {
        return Some(Finding::fine("conntrack", "connection tracking", "not in this kernel"));
    };
    if tracked == 0 {
        let found = "no connection tracked: no rule of this host asks for it";
        return Some(Finding::fine("conntrack", "connection tracking", found));
    }
    let finding = Finding::fine(
        "conntrack",
        "connection tracking",
        format!("{} of {} entries used", count(tracked), count(most)),
    );
    let needed = tracked.saturating_add(wanted.connections);
    let fits = needed <= most;
    let (verdict, needed, why) = if fits {
        let why = "Every packet is looked up in a table that the broker does not need. Firewall \
                   rules must then accept its port by number, in both directions.";
        (Verdict::Hurts, "no tracking of the broker's ports".to_owned(), why)
    } else {
        let why = "A full table drops the packets of new connections, silently but for a line in \
                   the kernel's log. Untracked ports need no table; firewall rules must then \
                   accept them by number, in both directions.";
        let needed = format!("no tracking of the broker's ports, or {} entries", count(needed));
        (Verdict::Stops { possible: most.saturating_sub(tracked) }, needed, why)
    };
    let bypass = format!("{} --ports 1883", tune(host, wanted, "conntrack"));
    let mut finding = finding.bad(verdict, needed, why).mended_by(bypass);
    if !fits {
        let entries = wanted.connections + wanted.connections / 4 + OTHER_FILES + tracked;
        finding = finding
            .mended_by(format!("{}sysctl net.netfilter.nf_conntrack_max={entries}", sudo(host)));
    }
    Some(finding)
}

/// The machine is large enough, but others have it.
fn memory_in_use(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let (total, available) = host.memory_bytes.zip(host.memory_available_bytes)?;
    let needed = memory_needed(wanted);
    if needed > total / 10 * 9 {
        // Said above.
        return None;
    }
    let finding = Finding::fine("memory", "available memory", human(available));
    if needed <= available {
        return Some(finding);
    }
    let why = format!(
        "{}. The machine has it, but other programs, or this broker and its clients already, use \
         {} now.",
        sum(wanted),
        human(total.saturating_sub(available)),
    );
    Some(finding.bad(Verdict::Hurts, human(needed), why).mended_by("ps aux --sort=-rss | head"))
}

/// Pages for data in queues, as `kernel-tuning/memory.sh` computes them.
fn tcp_memory(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let (Some([_, _, most]), Some(total)) = (host.tcp_mem, host.memory_bytes) else {
        let file = "/proc/sys/net/ipv4/tcp_mem";
        return Some(Finding::unknown("memory", "net.ipv4.tcp_mem", file));
    };
    let left = total.saturating_sub(memory_needed(wanted));
    let pages = (2 * wanted.role.ends()).saturating_mul(wanted.connections);
    let needed = pages.min(left / 2 / PAGE_BYTES);
    let finding = Finding::fine("memory", "net.ipv4.tcp_mem", format!("{} pages", count(most)));
    if needed <= most {
        return Some(finding);
    }
    let why = "Data in the queues of all TCP sockets. At the end of it the kernel drops received \
               data and connections stall: one page for each connection and direction, but no more \
               than half of what idle connections leave.";
    let needed = format!("{} pages", count(needed));
    Some(finding.bad(Verdict::Hurts, needed, why).mended_by(tune(host, wanted, "memory")))
}

fn swap(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let bytes = host.swap_bytes?;
    if bytes == 0 {
        return Some(Finding::fine("memory", "swap", "none"));
    }
    let swappiness = host.swappiness?;
    let finding =
        Finding::fine("memory", "swap", format!("{}, vm.swappiness {swappiness}", human(bytes)));
    if swappiness <= 1 {
        return Some(finding);
    }
    let why = "An idle session is what the kernel likes to swap out, and its keep-alive brings it \
               back: a fault of milliseconds on a thread that serves thousands of others.";
    let finding = finding.bad(Verdict::Hurts, "vm.swappiness 1, or no swap", why);
    Some(finding.mended_by(tune(host, wanted, "memory")))
}

fn quota(host: &Host, _: &Wanted) -> Option<Finding> {
    let Host { parallelism, cores, .. } = *host;
    let finding = Finding::fine(
        "processor",
        "processor time",
        if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") },
    );
    if parallelism >= cores {
        return Some(finding);
    }
    let finding = Finding { found: format!("{parallelism} of {cores} cores' time"), ..finding };
    let why = "A control group's quota stops all shards at once, for tens of milliseconds, when \
               it is used up. A set of cores (AllowedCPUs) gives the same time without pauses.";
    Some(
        finding
            .bad(Verdict::Hurts, "whole cores", why)
            .mended_by("systemctl set-property midge.service CPUQuota= AllowedCPUs=0-3")
            .mended_by("docker run --cpuset-cpus 0-3 … (instead of --cpus)"),
    )
}

fn huge_pages(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let chosen = host.huge_pages.as_deref()?;
    let finding = Finding::fine("hugepages", "transparent huge pages", chosen);
    if chosen != "always" {
        return Some(finding);
    }
    let why = "Whoever touches one byte gets 2 MiB: untouched parts of tables become resident, and \
               memory per connection is no longer what is used.";
    let finding = finding.bad(Verdict::Hurts, "madvise or never", why);
    Some(finding.mended_by(tune(host, wanted, "hugepages")))
}

fn backlog(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role == Role::Generator {
        return None;
    }
    let Some(most) = host.somaxconn else {
        return Some(Finding::unknown(
            "sockets",
            "net.core.somaxconn",
            "/proc/sys/net/core/somaxconn",
        ));
    };
    let finding = Finding::fine("sockets", "net.core.somaxconn", count(most));
    if most >= BACKLOG {
        return Some(finding);
    }
    let why = "It caps the backlog of each shard's listening socket (listeners[].backlog). Beyond \
               it, a connection is dropped and tried again by the client a second later: what \
               clients feel in a reconnect storm.";
    let finding = finding.bad(Verdict::Hurts, format!("{} or more", count(BACKLOG)), why);
    Some(finding.mended_by(tune(host, wanted, "sockets")))
}

fn handshakes(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role == Role::Generator {
        return None;
    }
    let (most, cookies) = host.syn_backlog.zip(host.syn_cookies)?;
    let finding = Finding::fine(
        "sockets",
        "handshakes under way",
        format!("{} (tcp_max_syn_backlog), SYN cookies {cookies}", count(most)),
    );
    let (needed, why) = match cookies {
        // The queue decides little: when it is full, cookies take over.
        1 => return Some(finding),
        0 if most >= BACKLOG => return Some(finding),
        0 => (
            format!("{}, or SYN cookies 1", count(BACKLOG)),
            "Without cookies, three quarters of tcp_max_syn_backlog are all the handshakes that \
             may be under way with hosts not seen before; the rest is dropped.",
        ),
        _ => (
            "SYN cookies 1".to_owned(),
            "2 sends cookies always, which loses TCP options (window scaling, timestamps) of many \
             connections.",
        ),
    };
    Some(finding.bad(Verdict::Hurts, needed, why).mended_by(tune(host, wanted, "sockets")))
}

fn irqbalance(host: &Host, _: &Wanted) -> Option<Finding> {
    if !host.irqbalance || host.cards.is_empty() || host.cores == 1 {
        return None;
    }
    let why = "It moves interrupts while the broker runs, also away from where the tuning scripts \
               have put them.";
    Some(
        Finding::fine("affinity", "irqbalance", "running")
            .bad(Verdict::Hurts, "off", why)
            .mended_by(format!("{}systemctl disable --now irqbalance", sudo(host))),
    )
}

fn clock(host: &Host, _: &Wanted) -> Option<Finding> {
    /// Read without a system call.
    const FAST: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
    let now = host.clock_source.as_deref()?;
    let finding = Finding::fine("processor", "clock source", now);
    if FAST.contains(&now) {
        return Some(finding);
    }
    let why = "Each look at the clock is a system call and a slow device; the loop looks once a \
               turn, and so does every other program.";
    let better = FAST.iter().find(|fast| host.clock_sources.iter().any(|name| name == *fast));
    let finding = finding.bad(Verdict::Hurts, "tsc (kvm-clock, arch_sys_counter)", why);
    Some(match better {
        Some(better) => finding.mended_by(format!(
            "echo {better} | {}tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
            sudo(host)
        )),
        // The kernel has found the processor's counter to be unreliable.
        None => finding.mended_by("dmesg | grep -i -e clocksource -e tsc"),
    })
}

/// What a broker that somebody has taken over could still do.
fn sandbox(host: &Host, wanted: &Wanted) -> Option<Finding> {
    if wanted.role == Role::Generator {
        return None;
    }
    let (landlock, seccomp) = (host.landlock?, host.seccomp?);
    let found = match (landlock, seccomp) {
        (true, true) => "landlock and seccomp",
        (true, false) => "landlock alone",
        (false, true) => "seccomp alone",
        (false, false) => "neither landlock nor seccomp",
    };
    let finding = Finding::fine("sandbox", "what the broker can give up", found);
    if landlock && seccomp {
        return Some(finding);
    }
    let why = "With both the broker gives up, once it has started, all files that its configuration \
               does not name, other programs and most ways into the kernel (sandbox.mode). It serves \
               without, too; the systemd unit has rules of its own.";
    let finding = finding.bad(Verdict::Hurts, "both", why);
    Some(if landlock {
        finding
    } else {
        finding.mended_by(
            "lsm=landlock,… on the kernel's command line (cat /proc/cmdline), and a restart",
        )
    })
}

/// Which cores take a card's packets.
fn packets(card: &Card, host: &Host, wanted: &Wanted) -> Option<Finding> {
    let Card { name, queues, queues_with_rps, interrupt_sets } = card;
    if host.cores == 1 || *queues == 0 {
        return None;
    }
    let finding = Finding::fine(
        "affinity",
        "packets",
        format!(
            "{name}: {queues} {} for {} cores",
            if *queues == 1 { "queue" } else { "queues" },
            host.cores
        ),
    );
    let (needed, why) = if *queues < host.cores && queues_with_rps < queues {
        let why = "A queue's packets are handled by one core, and a card with fewer queues than \
                   cores leaves the others' share to it. RPS spreads them in software.";
        ("packets on all cores", why)
    } else if *queues >= host.cores && (1..host.cores).contains(interrupt_sets) {
        let why = "The interrupts of several queues go to the same cores.";
        ("each queue's interrupt on a core of its own", why)
    } else {
        return Some(finding);
    };
    Some(finding.bad(Verdict::Hurts, needed, why).mended_by(tune(host, wanted, "affinity")))
}

// ---- Arithmetic ----------------------------------------------------------------------------------

impl Role {
    /// Ends of each connection on this host.
    fn ends(self) -> u64 {
        match self {
            Self::Broker | Self::Generator => 1,
            Self::Both => 2,
        }
    }
}

/// Memory of idle connections with one subscription each. What the generator itself needs is not counted.
fn memory_needed(wanted: &Wanted) -> u64 {
    let Wanted { connections, shards, role } = *wanted;
    let kernel = capacity::kernel_bytes(connections, shards);
    match role {
        Role::Broker => kernel + capacity::user_bytes(connections, connections, shards),
        Role::Generator => kernel,
        Role::Both => 2 * kernel + capacity::user_bytes(connections, connections, shards),
    }
}

/// The inverse of [`memory_needed`].
fn connections_within(bytes: u64, wanted: &Wanted) -> u64 {
    let one = |connections| memory_needed(&Wanted { connections, ..*wanted });
    let (mut low, mut high) = (0, wanted.connections);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if one(middle) <= bytes { low = middle } else { high = middle - 1 }
    }
    low
}

/// The arithmetic of memory for people.
fn sum(wanted: &Wanted) -> String {
    let broker = capacity::CONNECTION_USER_BYTES + capacity::SUBSCRIPTION_USER_BYTES;
    let kernel = capacity::CONNECTION_KERNEL_BYTES;
    let each = match wanted.role {
        Role::Broker => format!("{kernel} bytes in the kernel and {broker} in the broker"),
        Role::Generator => format!("{kernel} bytes in the kernel"),
        Role::Both => {
            format!("2 × {kernel} bytes in the kernel, for both ends, and {broker} in the broker")
        }
    };
    format!(
        "{} idle connections with a subscription each take {each}: {} with the shards' own",
        count(wanted.connections),
        human(memory_needed(wanted)),
    )
}

fn usable_ports(first: u64, last: u64) -> u64 {
    // As midge-flood uses them.
    ((last + 1).saturating_sub(first) / 4 * 3).max(1)
}

fn sudo(host: &Host) -> &'static str {
    if host.may(CAP_SYS_ADMIN) { "" } else { "sudo " }
}

/// The call of the tuning scripts for one subject.
fn tune(host: &Host, wanted: &Wanted, subject: &str) -> String {
    let Wanted { connections, shards, role } = *wanted;
    let generator = if role == Role::Broker { "" } else { " --load-generator" };
    format!(
        "{}kernel-tuning/tune apply {subject} --connections {connections} --shards {shards}{generator}",
        sudo(host)
    )
}

/// Pages of `tcp_mem`.
const PAGE_BYTES: u64 = 4096;

/// Open files, or tracked connections, of everything else on the machine.
const OTHER_FILES: u64 = 65_536;

/// The default of `listeners[].backlog`.
const BACKLOG: u64 = 4096;

/// Two of the executor, and one to spare.
const TASKS_OF_A_SHARD: u64 = 3;

/// The program's own threads: main, signals, log, and those of the services.
const TASKS_OF_THE_PROCESS: u64 = 16;

/// Connections that midge-flood takes from one address of 127.0.0.0/8, and how many addresses it goes through.
const LOOPBACK_CONNECTIONS: u64 = 4096;
const LOOPBACK_SOURCES: u64 = 250 * 250 * 250;

/// The range that the tuning scripts open for a load generator.
const FIRST_LOCAL_PORT: u64 = 10_240;
const LAST_PORT: u64 = 65_535;

#[cfg(test)]
mod tests;
