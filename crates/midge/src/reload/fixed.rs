//! What of new settings a running broker cannot take over: what threads, rings and directories were made with, and what
//! connected clients were told.

use midge_config::{Config, Jwt, Listener};

/// The settings in force after a reload: `wanted`, except for what only a restart changes. `connections_possible` is how
/// many connections the rings have room for.
pub(crate) fn in_force(current: &Config, wanted: &Config, connections_possible: u32) -> Config {
    let mut next = wanted.clone();
    let Config {
        shards,
        pin_cores,
        performance,
        runtime,
        admin,
        sys,
        durability,
        audit,
        sandbox,
        log,
        shutdown,
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
    next.sys = sys.clone();
    next.durability = durability.clone();
    next.audit = audit.clone();
    next.sandbox = sandbox.clone();
    next.log = log.clone();
    next.shutdown = shutdown.clone();
    next.security.password_threads = security.password_threads;
    next.security.password_cache = security.password_cache;
    // Others are asked by a thread that is told at the start whom.
    next.security.http = security.http.clone();
    let fetched =
        |jwt: &Option<Jwt>| jwt.as_ref().and_then(|jwt| Some((jwt.jwks_url.clone()?, jwt.refresh)));
    if fetched(&next.security.jwt) != fetched(&security.jwt) {
        next.security.jwt = security.jwt.clone();
    }

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
        let current = current.listeners.iter().find(same);
        // The logs are kept at the strictest level that stood anywhere at the start.
        listener.acknowledge_after = current.and_then(|current| current.acknowledge_after);
        if let Some(current) = current {
            keep_buffers(current, listener);
        }
    }
    next
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
    use midge_config::{Auto, ByteSize, DurabilityLevel};

    use super::*;

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
    fn levels_stay_as_they_were_at_the_start() {
        let mut current = Config::default();
        current.listeners[0].acknowledge_after = Some(DurabilityLevel::Memory);
        let mut wanted = Config::default();
        wanted.listeners[0].acknowledge_after = Some(DurabilityLevel::Fsync);
        let mut new = wanted.listeners[0].clone();
        new.name = Some("new".into());
        wanted.listeners.push(new);
        let next = in_force(&current, &wanted, 1);
        assert_eq!(next.listeners[0].acknowledge_after, Some(DurabilityLevel::Memory));
        assert_eq!(next.listeners[1].acknowledge_after, None);
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
