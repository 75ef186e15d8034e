//! Ranges of settings and relations between them.
//!
//! All problems are found in one go, so that nobody mends a file one error at a time. Each names
//! its key and says what to do. What depends on the machine (descriptor limits, ports in use) is
//! the program's to check.

use std::{collections::HashMap, fmt};

use crate::{
    model::{Config, Durability, Limits, Listener, Performance},
    protection::RATE_MAX,
    transport::Address,
    units::{Auto, ByteSize, Expiry, Period},
    validate_transport,
};

/// Shards of one process: the widest set of shards the mesh can name.
pub const SHARDS_MAX: u16 = 1024;

/// Listeners of one process: each costs every shard a socket and its accepts in flight.
const LISTENERS_MAX: usize = 64;

/// Prefixes of topics with a level of their own: each is compared with the topic of every publication.
const TOPIC_LEVELS_MAX: usize = 64;

/// The largest MQTT Control Packet: 1 byte of type, 4 of Remaining Length, 268,435,455 of body.
const PACKET_SIZE_MAX: ByteSize = ByteSize::new(268_435_460);

/// The address of a Unix socket holds 107 bytes; a process id and the socket's name take up to 21.
const RUNTIME_DIRECTORY_SIZE_MAX: usize = 80;

/// The kernel's bound of one ring's registered files.
const CONNECTIONS_PER_SHARD_MAX: u32 = 1 << 20;

/// One setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted, lists by index from 0: `listeners[1].address`.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Config {
    /// Checks every range and relation that [`Config`] documents.
    ///
    /// # Errors
    /// All problems, in the order of the tree.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Problems(Vec::new());
        listeners(&self.listeners, &self.limits, &mut problems);
        if let Auto::Value(shards) = self.shards {
            problems.range("shards", shards, 1, SHARDS_MAX);
        }
        limits(self, &mut problems);
        self.security.check(&self.listeners, &mut problems);
        self.audit.check(&mut problems);
        performance(&self.performance, &mut problems);
        let (key, size) = ("durability.queued_memory_max", self.durability.queued_memory_max);
        problems.at_most(key, size, ByteSize::new(1 << 40));
        if let Some(directory) = &self.runtime.directory {
            let size = directory.as_os_str().len();
            if !(1..=RUNTIME_DIRECTORY_SIZE_MAX).contains(&size) {
                let message = format!("a path of {size} bytes; choose one of 1 to 80");
                problems.add("runtime.directory", message);
            }
        }
        if let Some(address) = self.admin.listen {
            let mut listeners = self.listeners.iter();
            if let Some(index) =
                listeners.position(|other| overlap(&other.address, &address.into()))
            {
                let message = format!(
                    "{address} is already taken by listeners[{index}]; choose another port"
                );
                problems.add("admin.listen", message);
            }
        }
        let interval = self.sys.interval;
        if interval != Period::default() {
            let (min, max) = (Period::from_seconds(1), Period::from_seconds(3600));
            problems.range("sys.interval", interval, min, max);
        }
        durability(&self.durability, &mut problems);
        let lines = self.log.lines_per_second_max;
        problems.range("log.lines_per_second_max", lines, 0, 1_000_000);
        let (zero, hour) = (Period::default(), Period::from_seconds(3600));
        problems.range("shutdown.drain_timeout", self.shutdown.drain_timeout, zero, hour);
        if problems.0.is_empty() { Ok(()) } else { Err(problems.0) }
    }
}

fn durability(durability: &Durability, problems: &mut Problems) {
    let topics = &durability.topics;
    if topics.len() > TOPIC_LEVELS_MAX {
        problems.add("durability.topics", format!("{} are too many; at most 64", topics.len()));
        return;
    }
    for (index, topic) in topics.iter().enumerate() {
        let prefix = &topic.prefix;
        let sound = (1..=1024).contains(&prefix.len()) && !prefix.contains(['+', '#', '\0']);
        let key = || format!("durability.topics[{index}].prefix");
        if !sound {
            problems.add(key(), "must be 1 to 1,024 bytes without wildcards");
        } else if topics[..index].iter().any(|other| other.prefix == *prefix) {
            problems.add(key(), format!("`{prefix}` is there twice; remove one"));
        }
    }
}

fn listeners(listeners: &[Listener], limits: &Limits, problems: &mut Problems) {
    if listeners.is_empty() {
        problems.add("listeners", "empty, so nobody could connect; list an address");
    }
    if listeners.len() > LISTENERS_MAX {
        problems.add("listeners", format!("{} are too many; at most 64", listeners.len()));
        return;
    }
    let mut labels = HashMap::new();
    for (index, listener) in listeners.iter().enumerate() {
        let key = |field| format!("listeners[{index}].{field}");
        if let Some(name) = &listener.name
            && !(1..=64).contains(&name.len()) | !name.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let message = "must be 1 to 64 printable ASCII characters without spaces";
            problems.add(key("name"), message);
        }
        let others = &listeners[..index];
        if let Some(other) =
            others.iter().position(|other| overlap(&other.address, &listener.address))
        {
            problems.add(
                key("address"),
                format!(
                    "{} is already taken by listeners[{other}] ({}); choose another {}",
                    listener.address,
                    listeners[other].address,
                    if listener.address.ip().is_some() { "port" } else { "path" },
                ),
            );
        } else if let Some(other) = labels.insert(listener.label(), index) {
            // Two listeners on port 0 share an address without sharing a port: only a name that
            // somebody gave can be given twice.
            if listener.name.is_some() || listeners[other].name.is_some() {
                let label = listener.label();
                let message = format!("`{label}` already names listeners[{other}]; name it anew");
                problems.add(key("name"), message);
            }
        }
        validate_transport::listener(listener, &key, problems);
        problems.range(&key("backlog"), listener.backlog, 1, 65_535);
        listener.limits.check(&key("limits"), limits, problems);
        let keep_alive = listener.tcp_keep_alive;
        if keep_alive != Period::default() {
            let (min, max) = (Period::from_seconds(10), Period::from_seconds(7200));
            problems.range(&key("tcp_keep_alive"), keep_alive, min, max);
            problems.whole_seconds(&key("tcp_keep_alive"), keep_alive);
        }
        let defer = listener.tcp_defer_accept;
        if defer != Period::default() {
            let (min, max) = (Period::from_seconds(1), Period::from_seconds(60));
            problems.range(&key("tcp_defer_accept"), defer, min, max);
            problems.whole_seconds(&key("tcp_defer_accept"), defer);
        }
        for (field, size) in [
            ("tcp_send_buffer_bytes", listener.tcp_send_buffer_bytes),
            ("tcp_receive_buffer_bytes", listener.tcp_receive_buffer_bytes),
        ] {
            if size != ByteSize::default() {
                let (min, max) = (ByteSize::from_kibibytes(4), ByteSize::from_mebibytes(64));
                problems.range(&key(field), size, min, max);
            }
        }
    }
}

/// Whether two listeners cannot both have their address: the same port of one family, on the same
/// address or on one that stands for all.
fn overlap(a: &Address, b: &Address) -> bool {
    let (Some(a), Some(b)) = (a.ip(), b.ip()) else { return a == b };
    let all = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || all)
}

fn limits(config: &Config, problems: &mut Problems) {
    // Taken apart by name, so that a new field without a check does not compile.
    let Limits {
        connections_max: _,
        connections_per_address_max,
        connects_per_address_per_second_max,
        handshakes_max,
        publishes_per_second_max,
        publish_bytes_per_second_max: _,
        memory_max,
        connect_timeout,
        maximum_packet_size_bytes,
        client_id_size_max,
        keep_alive_seconds_max: _,
        maximum_qos,
        retain_available: _,
        wildcard_subscription_available: _,
        shared_subscription_available: _,
        subscription_identifiers_available: _,
        receive_maximum,
        topic_alias_maximum: _,
        topic_alias_maximum_outbound: _,
        session_expiry_interval_max,
        session_expiry_v3,
        sessions_max,
        inflight_messages_max,
        queued_messages_max,
        queued_bytes_max,
        queued_bytes_total_max,
        queue_qos0_messages: _,
        output_bytes_max,
        topic_levels_max,
        subscriptions_per_client_max,
        shared_backlog_messages_max,
        retained_messages_max,
        retained_bytes_max,
    } = config.limits;
    let packet = maximum_packet_size_bytes;

    let (min, max) = (Period::from_milliseconds(100), Period::from_seconds(600));
    problems.range("limits.connect_timeout", connect_timeout, min, max);
    let min = ByteSize::from_kibibytes(1);
    problems.range("limits.maximum_packet_size_bytes", packet, min, PACKET_SIZE_MAX);
    problems.range("limits.client_id_size_max", client_id_size_max, 23, u16::MAX);
    problems.range("limits.maximum_qos", maximum_qos, 0, 2);
    problems.range("limits.receive_maximum", receive_maximum, 1, u16::MAX);
    for (key, expiry) in [
        ("limits.session_expiry_interval_max", session_expiry_interval_max),
        ("limits.session_expiry_v3", session_expiry_v3),
    ] {
        if let Expiry::After(period) = expiry {
            problems.whole_seconds(key, period);
            if period.seconds() >= u64::from(u32::MAX) {
                problems.add(key, format!("{period} is longer than MQTT can say; write never"));
            }
        }
    }
    let connections = connections_per_address_max;
    problems.range("limits.connections_per_address_max", connections, 0, 1_000_000_000);
    let connects = connects_per_address_per_second_max;
    problems.range("limits.connects_per_address_per_second_max", connects, 0, RATE_MAX);
    problems.range("limits.handshakes_max", handshakes_max, 0, 1_000_000_000);
    problems.range("limits.publishes_per_second_max", publishes_per_second_max, 0, RATE_MAX);
    if memory_max != ByteSize::default() {
        let (min, max) = (ByteSize::from_mebibytes(16), ByteSize::new(1 << 50));
        problems.range("limits.memory_max", memory_max, min, max);
    }
    problems.range("limits.sessions_max", sessions_max, 1, 1_000_000_000);
    problems.range("limits.inflight_messages_max", inflight_messages_max, 1, u16::MAX);
    problems.range("limits.queued_messages_max", queued_messages_max, 0, 10_000_000);
    problems.range("limits.topic_levels_max", topic_levels_max, 1, u16::MAX);
    let subscriptions = subscriptions_per_client_max;
    problems.range("limits.subscriptions_per_client_max", subscriptions, 1, 10_000_000);
    let backlog = shared_backlog_messages_max;
    problems.range("limits.shared_backlog_messages_max", backlog, 0, 10_000_000);
    problems.range("limits.retained_messages_max", retained_messages_max, 0, 1_000_000_000);

    // A queue must hold the largest packet, or that packet could never be delivered. What is out
    // of range itself has its own problem already.
    let packet = packet.clamp(min, PACKET_SIZE_MAX);
    let shards = match config.shards {
        Auto::Value(shards) => u64::from(shards.clamp(1, SHARDS_MAX)),
        Auto::Auto => 1,
    };
    let on_each = ByteSize::new(packet.bytes().saturating_mul(shards));
    let total = match queued_bytes_total_max.bytes() {
        0 => on_each,
        _ => queued_bytes_total_max,
    };
    for (key, size, min, what, max) in [
        ("limits.queued_bytes_max", queued_bytes_max, packet, "", ByteSize::new(1 << 40)),
        ("limits.output_bytes_max", output_bytes_max, packet, "", ByteSize::new(1 << 32)),
        (
            "limits.queued_bytes_total_max",
            total,
            on_each,
            " for each shard",
            ByteSize::new(1 << 44),
        ),
        (
            "limits.retained_bytes_max",
            retained_bytes_max,
            on_each,
            " for each shard",
            ByteSize::new(1 << 44),
        ),
    ] {
        if size < min {
            let message = format!(
                "{size} cannot hold one packet of limits.maximum_packet_size_bytes ({packet})\
                 {what}; set at least {min}"
            );
            problems.add(key, message);
        }
        problems.at_most(key, size, max);
    }
}

fn performance(performance: &Performance, problems: &mut Problems) {
    let Performance {
        ring_entries,
        completion_entries,
        receive_buffer_size,
        receive_buffer_count,
        accepts_in_flight,
        connections_per_shard,
        mesh_ring_capacity,
        outbox_envelopes_max,
        outbox_bytes_max,
        interest_buckets,
        envelopes_per_turn_max,
        spin_before_park_microseconds,
    } = *performance;

    problems.power_of_two("performance.ring_entries", ring_entries, 64, 32_768);
    problems.power_of_two("performance.completion_entries", completion_entries, 64, 65_536);
    if completion_entries < ring_entries {
        problems.add(
            "performance.completion_entries",
            format!(
                "{completion_entries} are fewer than performance.ring_entries ({ring_entries}); \
                 set at least as many"
            ),
        );
    }
    let (min, max) = (ByteSize::new(512), ByteSize::from_mebibytes(1));
    problems.range("performance.receive_buffer_size", receive_buffer_size, min, max);
    let count = u32::from(receive_buffer_count);
    problems.power_of_two("performance.receive_buffer_count", count, 16, 32_768);
    problems.range("performance.accepts_in_flight", accepts_in_flight, 1, 1024);
    if let Auto::Value(connections) = connections_per_shard {
        let max = CONNECTIONS_PER_SHARD_MAX;
        problems.range("performance.connections_per_shard", connections, 1, max);
    }
    if let Auto::Value(capacity) = mesh_ring_capacity {
        problems.range("performance.mesh_ring_capacity", capacity, 64, 65_536);
    }
    problems.range("performance.outbox_envelopes_max", outbox_envelopes_max, 16, 1 << 20);
    let (min, max) = (ByteSize::from_kibibytes(64), ByteSize::from_mebibytes(1024));
    problems.range("performance.outbox_bytes_max", outbox_bytes_max, min, max);
    if let Auto::Value(buckets) = interest_buckets {
        problems.power_of_two("performance.interest_buckets", buckets, 1024, 1 << 26);
    }
    problems.range("performance.envelopes_per_turn_max", envelopes_per_turn_max, 16, 1 << 20);
    let spin = spin_before_park_microseconds;
    problems.range("performance.spin_before_park_microseconds", spin, 0, 10_000);
}

pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { key: key.into(), message: message.into() });
    }

    pub(crate) fn range<T: PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        value: T,
        min: T,
        max: T,
    ) {
        if value < min || value > max {
            self.add(key, format!("{value} is out of range; set {min} to {max}"));
        }
    }

    pub(crate) fn at_most<T: PartialOrd + fmt::Display>(&mut self, key: &str, value: T, max: T) {
        if value > max {
            self.add(key, format!("{value} is out of range; set at most {max}"));
        }
    }

    fn power_of_two(&mut self, key: &str, value: u32, min: u32, max: u32) {
        if value < min || value > max || !value.is_power_of_two() {
            self.add(key, format!("{value} is not a power of two from {min} to {max}; set one"));
        }
    }

    pub(crate) fn whole_seconds(&mut self, key: &str, value: Period) {
        if !value.is_whole_seconds() {
            self.add(key, format!("{value} is no whole number of seconds; round it"));
        }
    }
}
