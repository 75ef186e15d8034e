//! Made-up hosts: one thing wrong at a time.

use super::*;
use crate::doctor::host::GroupLimit;

/// A host on which nothing stops or hurts a million connections on 64 shards.
fn sound() -> Host {
    Host {
        kernel: Some("6.18.44-test".into()),
        io_uring: Some(Ok(())),
        io_uring_disabled: Some(0),
        landlock: Some(true),
        seccomp: Some(true),
        capabilities: 0,
        parallelism: 64,
        cores: 64,
        descriptors_max: Some(20_000),
        locked_bytes_max: Some(1 << 30),
        nr_open: Some(1 << 20),
        file_max: Some(10_000_000),
        files_open: Some(1_000),
        memory_bytes: Some(128 << 30),
        memory_available_bytes: Some(120 << 30),
        memory_group: Some(GroupLimit {
            file: "/sys/fs/cgroup/m/memory.max".into(),
            max: 64 << 30,
        }),
        tasks_group: Some(GroupLimit { file: "/sys/fs/cgroup/m/pids.max".into(), max: 4096 }),
        swap_bytes: Some(0),
        swappiness: Some(60),
        overcommit: Some(0),
        huge_pages: Some("madvise".into()),
        somaxconn: Some(4096),
        syn_backlog: Some(512),
        syn_cookies: Some(1),
        tcp_mem: Some([1_500_000, 2_000_000, 4_000_000]),
        ports: Some((32_768, 60_999)),
        addresses: Some(50),
        conntrack: Some((0, 1000)),
        clock_source: Some("tsc".into()),
        clock_sources: vec!["tsc".into(), "hpet".into()],
        cards: vec![Card {
            name: "eth0".into(),
            queues: 64,
            queues_with_rps: 0,
            interrupt_sets: 64,
        }],
        irqbalance: false,
    }
}

const MILLION: Wanted = Wanted { connections: 1_000_000, shards: 64, role: Role::Broker };

/// What is wrong, worst first, without what is as it should be.
fn wrong(host: &Host, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = examine(host, wanted);
    findings.retain(|finding| finding.verdict != Verdict::Fine);
    findings
}

#[test]
fn nothing_is_wrong_with_a_sound_host() {
    for role in [Role::Broker, Role::Generator, Role::Both] {
        assert_eq!(wrong(&sound(), &Wanted { role, ..MILLION }), []);
    }
    assert_eq!(examine(&sound(), &MILLION).len(), 20);
}

/// Each line breaks one thing and expects one finding: its name, its verdict, and the command that mends it.
#[test]
fn one_thing_wrong_at_a_time() {
    type Break = fn(&mut Host);
    let stops = |possible| Verdict::Stops { possible };
    let cases: [(Break, &str, Verdict, &str); 30] = [
        (|host| host.kernel = Some("5.15.0-91".into()), "kernel", stops(0), ""),
        (|host| host.kernel = Some("6.0.19".into()), "kernel", stops(0), ""),
        (
            |host| host.io_uring = Some(Err(NetRingError::DisabledBySysctl { value: 2 })),
            "io_uring",
            stops(0),
            "sudo kernel-tuning/tune apply io_uring --connections 1000000 --shards 64",
        ),
        (
            |host| host.io_uring = Some(Err(NetRingError::Forbidden)),
            "io_uring",
            stops(0),
            "docker run --security-opt seccomp=unconfined …",
        ),
        (
            |host| host.io_uring = Some(Err(NetRingError::LockedMemory)),
            "io_uring",
            stops(0),
            "ulimit -l unlimited",
        ),
        (
            |host| host.io_uring_disabled = Some(1),
            "kernel.io_uring_disabled",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply io_uring --connections 1000000 --shards 64",
        ),
        (
            |host| host.descriptors_max = Some(4096),
            "slots of the rings",
            stops(196_608),
            "midge serve --shards 326",
        ),
        (
            |host| {
                host.descriptors_max = Some(4096);
                host.capabilities = 1 << CAP_SYS_RESOURCE;
            },
            "slots of the rings",
            stops(196_608),
            "ulimit -n 19787",
        ),
        (
            |host| {
                host.descriptors_max = Some(1024);
                host.nr_open = Some(2048);
            },
            "slots of the rings",
            stops(39_296),
            "sudo kernel-tuning/tune apply descriptors --connections 1000000 --shards 64 && ulimit \
             -n 19787",
        ),
        (
            |host| host.file_max = Some(500_000),
            "fs.file-max",
            stops(499_000),
            "sudo kernel-tuning/tune apply descriptors --connections 1000000 --shards 64",
        ),
        (
            |host| host.locked_bytes_max = Some(8 << 20),
            "locked memory",
            stops(221_130),
            "ulimit -l 36250",
        ),
        (|host| host.memory_bytes = Some(4 << 30), "memory", stops(776_654), ""),
        (
            |host| host.memory_group = Some(GroupLimit { file: "/g/max".into(), max: 1 << 30 }),
            "memory of the control group",
            stops(205_748),
            "echo 4957667328 | sudo tee /g/max",
        ),
        (
            |host| host.tasks_group = Some(GroupLimit { file: "/g/max".into(), max: 100 }),
            "tasks of the control group",
            stops(442_260),
            "echo 208 | sudo tee /g/max",
        ),
        (
            |host| host.overcommit = Some(2),
            "vm.overcommit_memory",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply memory --connections 1000000 --shards 64",
        ),
        (
            |host| host.conntrack = Some((500, 262_144)),
            "connection tracking",
            stops(261_644),
            "sudo kernel-tuning/tune apply conntrack --connections 1000000 --shards 64 --ports 1883",
        ),
        (
            |host| host.conntrack = Some((500, 2_000_000)),
            "connection tracking",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply conntrack --connections 1000000 --shards 64 --ports 1883",
        ),
        (
            |host| host.memory_available_bytes = Some(1 << 30),
            "available memory",
            Verdict::Hurts,
            "ps aux --sort=-rss | head",
        ),
        (
            |host| host.tcp_mem = Some([1, 2, 575_796]),
            "net.ipv4.tcp_mem",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply memory --connections 1000000 --shards 64",
        ),
        (
            |host| host.swap_bytes = Some(1 << 30),
            "swap",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply memory --connections 1000000 --shards 64",
        ),
        (
            |host| host.parallelism = 2,
            "processor time",
            Verdict::Hurts,
            "systemctl set-property midge.service CPUQuota= AllowedCPUs=0-3",
        ),
        (
            |host| host.huge_pages = Some("always".into()),
            "transparent huge pages",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply hugepages --connections 1000000 --shards 64",
        ),
        (
            |host| host.somaxconn = Some(128),
            "net.core.somaxconn",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply sockets --connections 1000000 --shards 64",
        ),
        (
            |host| host.syn_cookies = Some(0),
            "handshakes under way",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply sockets --connections 1000000 --shards 64",
        ),
        (
            |host| host.irqbalance = true,
            "irqbalance",
            Verdict::Hurts,
            "sudo systemctl disable --now irqbalance",
        ),
        (
            |host| host.clock_source = Some("hpet".into()),
            "clock source",
            Verdict::Hurts,
            "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
        ),
        (
            |host| host.landlock = Some(false),
            "what the broker can give up",
            Verdict::Hurts,
            "lsm=landlock,… on the kernel's command line (cat /proc/cmdline), and a restart",
        ),
        (|host| host.seccomp = Some(false), "what the broker can give up", Verdict::Hurts, ""),
        (
            |host| host.cards[0].queues = 1,
            "packets",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply affinity --connections 1000000 --shards 64",
        ),
        (
            |host| host.cards[0].interrupt_sets = 3,
            "packets",
            Verdict::Hurts,
            "sudo kernel-tuning/tune apply affinity --connections 1000000 --shards 64",
        ),
    ];
    for (number, (break_it, name, verdict, mend)) in cases.into_iter().enumerate() {
        let mut host = sound();
        break_it(&mut host);
        let found = wrong(&host, &MILLION);
        let names: Vec<&str> = found.iter().map(|finding| finding.name).collect();
        assert_eq!(names, [name], "case {number}");
        let Finding { needed, why, .. } = &found[0];
        assert_eq!(found[0].verdict, verdict, "case {number}: {name}");
        assert_eq!(found[0].mend.first().map_or("", String::as_str), mend, "case {number}: {name}");
        assert!(!needed.is_empty() && why.ends_with('.'), "case {number}: {name}: {needed}: {why}");
    }
}

/// What a privileged user is not held to does not stop him.
#[test]
fn privileges_count() {
    let mut host = sound();
    host.capabilities = 1 << CAP_IPC_LOCK | 1 << CAP_SYS_ADMIN;
    host.locked_bytes_max = Some(0);
    host.file_max = Some(500_000);
    let found = wrong(&host, &MILLION);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].verdict, Verdict::Hurts);
    let mend = "kernel-tuning/tune apply descriptors --connections 1000000 --shards 64";
    assert_eq!(found[0].mend, [mend]);
}

#[test]
fn the_lowest_ceiling_stands_first_and_what_hurts_last() {
    let mut host = sound();
    host.huge_pages = Some("always".into());
    host.overcommit = Some(2);
    host.descriptors_max = Some(4096);
    host.conntrack = Some((1, 1_001));
    host.memory_bytes = Some(4 << 30);
    host.somaxconn = None;
    let names: Vec<&str> = wrong(&host, &MILLION).iter().map(|finding| finding.name).collect();
    assert_eq!(
        names,
        [
            "connection tracking",
            "slots of the rings",
            "memory",
            "vm.overcommit_memory",
            "transparent huge pages",
            "net.core.somaxconn",
        ]
    );
}

#[test]
fn a_generator_needs_source_addresses() {
    let mut host = sound();
    host.addresses = Some(2);
    let wanted = Wanted { role: Role::Generator, ..MILLION };
    let found = wrong(&host, &wanted);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "source addresses");
    // Three quarters of 28,232 ports, twice.
    assert_eq!(found[0].verdict, Verdict::Stops { possible: 42_348 });
    assert!(found[0].mend[0].ends_with(" --load-generator"), "{:?}", found[0].mend);
    assert!(found[0].mend[1].contains("for each of 23 more"), "{:?}", found[0].mend);
    // Over loopback there are addresses enough, with ports enough for each.
    host.ports = Some((60_000, 60_999));
    let found = wrong(&host, &Wanted { role: Role::Both, ..MILLION });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "net.ipv4.ip_local_port_range");
}

/// A container that hides everything gets no invented complaint.
#[test]
fn what_cannot_be_seen_is_not_wrong() {
    let host = Host { parallelism: 1, cores: 1, ..Host::default() };
    let found = wrong(&host, &MILLION);
    assert!(found.iter().all(|finding| finding.verdict == Verdict::Unknown), "{found:?}");
    assert!(found.len() >= 6, "{found:?}");
}

#[test]
fn memory_and_its_inverse_agree() {
    for role in [Role::Broker, Role::Generator, Role::Both] {
        for connections in [1, 1000, 1_000_000, 10_000_000] {
            let wanted = Wanted { connections, shards: 8, role };
            let bytes = memory_needed(&wanted);
            assert_eq!(connections_within(bytes, &wanted), connections);
            assert_eq!(connections_within(bytes - 1, &wanted), connections - 1);
        }
    }
}
