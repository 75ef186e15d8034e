//! What a broker without a configuration file does: serve anonymous clients of this machine, with
//! limits a real deployment would choose.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{
    admin::Admin,
    audit::Audit,
    model::{
        Config, Durability, DurabilityLevel, Limits, Listener, Log, LogFormat, LogLevel,
        Performance, RecoveryMode, Runtime, Shutdown, Sys,
    },
    place::Place,
    protection::ListenerLimits,
    sandbox::Sandbox,
    security::Security,
    transport::{FileMode, Protocol, WebSocket},
    units::{Auto, ByteSize, Choice, Expiry, Period},
};

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: vec![Listener::default()],
            shards: Auto::Auto,
            pin_cores: Choice::Auto,
            limits: Limits::default(),
            security: Security::default(),
            performance: Performance::default(),
            runtime: Runtime::default(),
            admin: Admin::default(),
            sys: Sys::default(),
            durability: Durability::default(),
            audit: Audit::default(),
            sandbox: Sandbox::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
        }
    }
}

impl Listener {
    /// A listener on `address` with every other setting at its default.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            name: None,
            address: address.into(),
            protocol: Protocol::Tcp,
            tls: None,
            websocket: WebSocket::default(),
            proxy_protocol: None,
            unix_mode: FileMode::default(),
            authenticators: None,
            backlog: backlog(),
            tcp_defer_accept: tcp_defer_accept(),
            tcp_keep_alive: tcp_keep_alive(),
            acknowledge_after: None,
            tcp_send_buffer_bytes: ByteSize::new(0),
            tcp_receive_buffer_bytes: ByteSize::new(0),
            limits: ListenerLimits::default(),
        }
    }
}

impl Default for Listener {
    /// Loopback only: without authentication, nobody outside is served unasked.
    fn default() -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)))
    }
}

/// A reconnect storm of 100,000 clients a second fills 4,096 entries in 40 ms, which is longer
/// than any loop turn.
pub(crate) fn backlog() -> u32 {
    4096
}

/// Longer than any round trip: whoever has not spoken by then waits for us.
pub(crate) fn tcp_defer_accept() -> Period {
    Period::from_seconds(1)
}

/// Shorter than the idle timeouts of most firewalls and far longer than a usual MQTT keep alive,
/// so that a client that pings is never probed.
pub(crate) fn tcp_keep_alive() -> Period {
    Period::from_seconds(600)
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            directory: Place::Auto,
            acknowledge_after: DurabilityLevel::Fsync,
            topics: Vec::new(),
            queued_memory_max: ByteSize::from_mebibytes(64),
            recovery: RecoveryMode::Serve,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 0,
            connections_per_address_max: 0,
            connects_per_address_per_second_max: 0,
            handshakes_max: 0,
            // With the second that `tcp_defer_accept` may add, nobody who does not say CONNECT stays for ten.
            connect_timeout: Period::from_seconds(8),
            maximum_packet_size_bytes: ByteSize::from_mebibytes(1),
            client_id_size_max: 65_535,
            // 1.5 hours find a dead client, and a ping an hour from each of ten million clients
            // is under 3,000 a second.
            keep_alive_seconds_max: 3600,
            publishes_per_second_max: 0,
            publish_bytes_per_second_max: ByteSize::new(0),
            memory_max: ByteSize::new(0),
            maximum_qos: 2,
            retain_available: true,
            wildcard_subscription_available: true,
            shared_subscription_available: true,
            subscription_identifiers_available: true,
            receive_maximum: 1024,
            topic_alias_maximum: 32,
            topic_alias_maximum_outbound: 32,
            // A device may miss a week; a client identifier used once must not stay for good.
            session_expiry_interval_max: Expiry::After(Period::from_days(7)),
            session_expiry_v3: Expiry::After(Period::from_days(7)),
            sessions_max: 20_000_000,
            inflight_messages_max: 128,
            queued_messages_max: 1000,
            queued_bytes_max: ByteSize::from_mebibytes(1),
            queued_bytes_total_max: ByteSize::new(0),
            queue_qos0_messages: false,
            output_bytes_max: ByteSize::from_mebibytes(2),
            topic_levels_max: 128,
            subscriptions_per_client_max: 100_000,
            shared_backlog_messages_max: 1000,
            retained_messages_max: 1_000_000,
            retained_bytes_max: ByteSize::from_mebibytes(1024),
        }
    }
}

impl Default for Performance {
    fn default() -> Self {
        Self {
            ring_entries: 1024,
            completion_entries: 16_384,
            receive_buffer_size: ByteSize::from_kibibytes(4),
            receive_buffer_count: 1024,
            accepts_in_flight: 16,
            connections_per_shard: Auto::Auto,
            mesh_ring_capacity: Auto::Auto,
            outbox_envelopes_max: 4096,
            outbox_bytes_max: ByteSize::from_mebibytes(1),
            interest_buckets: Auto::Auto,
            envelopes_per_turn_max: 1024,
            spin_before_park_microseconds: 0,
        }
    }
}

impl Default for Sys {
    /// What exporters and dashboards of other brokers are used to.
    fn default() -> Self {
        Self { interval: Period::from_seconds(10) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text, lines_per_second_max: 20 }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_timeout: Period::from_seconds(10) }
    }
}
