//! What of new settings a running broker cannot take over: what threads, rings and directories were made with, and what
//! connected clients were told.

use midge_config::{Config, Durability, DurabilityLevel, Listener, Log};

/// What the settings in force do not tell about what stands already.
#[derive(Debug)]
pub(crate) struct Told {
    /// [`strictest`] of the start: so the logs are kept, also when whoever asked for it is gone.
    pub(crate) strictest: DurabilityLevel,
    /// Listeners that were closed. Their clients may still be there, and would be those of one that comes back.
    pub(crate) closed: Vec<Listener>,
}

/// The settings in force after a reload: `wanted`, except for what only a restart changes. `connections_possible` is how
/// many connections the rings have room for.
pub(crate) fn in_force(
    current: &Config,
    wanted: &Config,
    told: &Told,
    connections_possible: u32,
) -> Config {
    let Told { strictest, closed } = told;
    let strictest = *strictest;
    let mut next = wanted.clone();
    let Config {
        shards,
        pin_cores,
        performance,
        runtime,
        admin,
        sys: _,
        durability,
        audit,
        sandbox,
        log,
        shutdown: _,
        listeners: _,
        limits,
        security,
    } = current;
    // Threads, rings and directories are made once.
    next.shards = *shards;
    next.pin_cores = *pin_cores;
    next.performance = performance.clone();
    next.runtime = runtime.clone();
    next.admin = admin.clone();
    next.durability = durability.clone();
    next.durability.queued_memory_max = wanted.durability.queued_memory_max;
    let least = |told: DurabilityLevel, wanted: DurabilityLevel| {
        if wanted <= strictest { wanted.max(told) } else { told }
    };
    next.durability.acknowledge_after =
        least(durability.acknowledge_after, wanted.durability.acknowledge_after);
    next.audit = audit.clone();
    next.sandbox = sandbox.clone();
    next.log = Log { level: wanted.log.level, ..log.clone() };
    next.security.password_threads = security.password_threads;

    // Clients were told when they connected: more is no harm, less would break a promise.
    let told = &mut next.limits;
    told.maximum_packet_size_bytes =
        told.maximum_packet_size_bytes.max(limits.maximum_packet_size_bytes);
    told.maximum_qos = told.maximum_qos.max(limits.maximum_qos);
    told.receive_maximum = told.receive_maximum.max(limits.receive_maximum);
    told.topic_alias_maximum = told.topic_alias_maximum.max(limits.topic_alias_maximum);
    told.retain_available |= limits.retain_available;
    told.wildcard_subscription_available |= limits.wildcard_subscription_available;
    told.shared_subscription_available |= limits.shared_subscription_available;
    told.subscription_identifiers_available |= limits.subscription_identifiers_available;
    if told.connections_max > connections_possible {
        told.connections_max = limits.connections_max;
    }

    for listener in &mut next.listeners {
        let same = |other: &&Listener| other.label() == listener.label();
        let open = current.listeners.iter().find(same);
        let current = open.or_else(|| closed.iter().find(same));
        // Clients were told what their acknowledgements wait for, and the logs are kept at the strictest level that stood
        // anywhere at the start.
        let default = next.durability.acknowledge_after;
        let level = listener.acknowledge_after.unwrap_or(default);
        let told = current
            .map(|current| current.acknowledge_after.unwrap_or(durability.acknowledge_after));
        let level = match told {
            Some(told) => least(told, level),
            None => level.min(strictest),
        };
        if level != listener.acknowledge_after.unwrap_or(default) {
            listener.acknowledge_after = Some(level);
        }
        if let Some(open) = open {
            keep_buffers(open, listener);
        }
    }
    next
}

/// The most that any acknowledgement waits for.
pub(crate) fn strictest(config: &Config) -> DurabilityLevel {
    let Durability { acknowledge_after, topics, .. } = &config.durability;
    let topics = topics.iter().map(|topic| topic.acknowledge_after);
    let listeners = config.listeners.iter().filter_map(|listener| listener.acknowledge_after);
    topics.chain(listeners).fold(*acknowledge_after, DurabilityLevel::max)
}

/// The kernel does not take a buffer's fixed size back.
fn keep_buffers(current: &Listener, next: &mut Listener) {
    if current.address != next.address {
        return;
    }
    if next.tcp_send_buffer_bytes.bytes() == 0 {
        next.tcp_send_buffer_bytes = current.tcp_send_buffer_bytes;
    }
    if next.tcp_receive_buffer_bytes.bytes() == 0 {
        next.tcp_receive_buffer_bytes = current.tcp_receive_buffer_bytes;
    }
}

#[cfg(test)]
mod tests {
    use midge_config::{Auto, ByteSize, DurabilityLevel, Place};

    use super::*;

    /// Right after a start.
    fn in_force(current: &Config, wanted: &Config, connections_possible: u32) -> Config {
        let told = Told { strictest: strictest(current), closed: Vec::new() };
        super::in_force(current, wanted, &told, connections_possible)
    }

    /// The strictest listener goes: what it stood for does not go with it.
    #[test]
    fn a_level_does_not_go_with_its_listener() {
        use DurabilityLevel::{Fsync, Memory, Written};
        let named = |name: &str, level| Listener {
            name: Some(name.into()),
            acknowledge_after: level,
            ..Config::default().listeners[0].clone()
        };
        let mut start = Config::default();
        start.durability.acknowledge_after = Written;
        start.listeners = vec![named("a", None), named("b", Some(Fsync))];
        let told = Told { strictest: strictest(&start), closed: Vec::new() };
        let mut wanted = start.clone();
        wanted.listeners = vec![named("a", None)];
        let without = super::in_force(&start, &wanted, &told, 1);
        assert_eq!(without, wanted);
        // The logs are kept at its level all the same, so another may have it.
        let told = Told { closed: vec![named("b", Some(Fsync))], ..told };
        for (level, expected) in [(Some(Fsync), Fsync), (Some(Memory), Written), (None, Written)] {
            wanted.listeners = vec![named("a", level), named("c", level)];
            let next = super::in_force(&without, &wanted, &told, 1);
            assert_eq!(next.listeners[0].acknowledge_after.unwrap_or(Written), expected);
            let new = next.listeners[1].acknowledge_after.unwrap_or(Written);
            assert_eq!(new, level.unwrap_or(Written));
        }
        // It comes back: its clients of then have been told.
        for level in [Some(Memory), None, Some(Fsync)] {
            wanted.listeners = vec![named("a", None), named("b", level)];
            let next = super::in_force(&without, &wanted, &told, 1);
            assert_eq!(next.listeners[1].acknowledge_after, Some(Fsync), "{level:?}");
        }
    }

    #[test]
    fn what_clients_were_told_does_not_shrink() {
        let current = Config::default();
        let mut wanted = current.clone();
        wanted.limits.maximum_packet_size_bytes = ByteSize::from_kibibytes(1);
        wanted.limits.receive_maximum = 2000;
        wanted.limits.retain_available = false;
        wanted.limits.queued_messages_max = 1;
        wanted.limits.connections_max = 1_000_001;
        wanted.shards = Auto::Value(3);
        let next = in_force(&current, &wanted, 1_000_000);
        assert_eq!(next.limits.maximum_packet_size_bytes, ByteSize::from_mebibytes(1));
        assert_eq!(next.limits.receive_maximum, 2000);
        assert!(next.limits.retain_available);
        assert_eq!(next.limits.queued_messages_max, 1);
        assert_eq!(next.limits.connections_max, 0);
        assert_eq!(next.shards, Auto::Auto);
    }

    #[test]
    fn levels_become_stricter_as_far_as_the_logs_are_kept() {
        use DurabilityLevel::{Fsync, Memory, Written};
        // What stood for all and for the first listener, what is wanted for both, and what comes of it. Nothing is Fsync
        // where the logs are not.
        for (all, own, wanted_all, wanted_own, expected_all, expected_own) in [
            (Fsync, Some(Memory), Fsync, Some(Fsync), Fsync, Fsync),
            (Fsync, Some(Memory), Fsync, Some(Written), Fsync, Written),
            (Fsync, Some(Memory), Fsync, None, Fsync, Fsync),
            (Fsync, None, Fsync, Some(Memory), Fsync, Fsync),
            (Fsync, None, Written, None, Fsync, Fsync),
            (Written, Some(Memory), Fsync, Some(Fsync), Written, Memory),
            (Written, Some(Fsync), Fsync, Some(Memory), Fsync, Fsync),
            (Memory, None, Fsync, None, Memory, Memory),
        ] {
            let mut current = Config::default();
            current.durability.acknowledge_after = all;
            current.listeners[0].acknowledge_after = own;
            let mut wanted = Config::default();
            wanted.durability.acknowledge_after = wanted_all;
            wanted.listeners[0].acknowledge_after = wanted_own;
            let next = in_force(&current, &wanted, 1);
            let case = (all, own, wanted_all, wanted_own);
            assert_eq!(next.durability.acknowledge_after, expected_all, "{case:?}");
            let level = next.listeners[0].acknowledge_after.unwrap_or(expected_all);
            assert_eq!(level, expected_own, "{case:?}");
            // Whoever comes by a new listener has been told nothing yet.
            let new = Listener { name: Some("new".into()), ..wanted.listeners[0].clone() };
            wanted.listeners = vec![Listener { acknowledge_after: Some(Memory), ..new }];
            let next = in_force(&current, &wanted, 1);
            assert_eq!(next.listeners[0].acknowledge_after, Some(Memory));
        }
    }

    #[test]
    fn what_needs_no_restart_is_taken_over() {
        let current = Config::default();
        let mut wanted = current.clone();
        wanted.sys.interval = midge_config::Period::default();
        wanted.shutdown.drain_timeout = midge_config::Period::default();
        wanted.log.level = midge_config::LogLevel::Debug;
        wanted.durability.queued_memory_max = ByteSize::from_kibibytes(1);
        wanted.security.password_cache = midge_config::Period::default();
        wanted.security.jwt = Some(midge_config::Jwt::default());
        assert_eq!(in_force(&current, &wanted, 1), wanted);
        // And what needs one, beside it.
        wanted.log.format = midge_config::LogFormat::Json;
        wanted.durability.directory = Place::At("elsewhere".into());
        let next = in_force(&current, &wanted, 1);
        assert_eq!((next.log.format, next.log.level), (current.log.format, wanted.log.level));
        assert_eq!(next.durability.directory, Place::Auto);
    }

    #[test]
    fn fixed_buffers_stay_fixed() {
        let mut current = Config::default();
        current.listeners[0].tcp_send_buffer_bytes = ByteSize::from_kibibytes(16);
        let mut wanted = Config::default();
        wanted.listeners[0].tcp_receive_buffer_bytes = ByteSize::from_kibibytes(32);
        let next = in_force(&current, &wanted, 1);
        assert_eq!(next.listeners[0].tcp_send_buffer_bytes, ByteSize::from_kibibytes(16));
        assert_eq!(next.listeners[0].tcp_receive_buffer_bytes, ByteSize::from_kibibytes(32));
    }
}
