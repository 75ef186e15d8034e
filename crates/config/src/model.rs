//! The tree of settings: every key a configuration file may hold, with unit, range and default.
//!
//! Field names are the keys of the file. The ranges written here are checked in `validate.rs`, the
//! defaults are set in `default.rs`; `configs/default.yaml` shows all of it to an operator.
//!
//! Limits in bytes are [`ByteSize`] (`1MiB`, `512KiB`, `2MB` or a number of bytes), times are
//! [`Period`] (`10s`, `5m`, `2h`, `7d` or a number of seconds).

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    admin::Admin,
    audit::Audit,
    place::Place,
    protection::ListenerLimits,
    sandbox::Sandbox,
    security::{Authenticator, Security},
    transport::{Address, FileMode, Protocol, ProxyProtocol, Tls, WebSocket},
    units::{Auto, ByteSize, Choice, Expiry, Period},
};

/// All settings of one broker process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect. 1 to 64 listeners; default: one on `127.0.0.1:1883`.
    pub listeners: Vec<Listener>,

    /// How many shards serve, 1 to 1024. Where they are more than cores, several share a core and
    /// its thread. Default `auto`: one for every core this process may use.
    pub shards: Auto<u16>,

    /// Whether each shard's thread is pinned to a core of its own. Default `auto`: pinned when
    /// there are no more shards than cores.
    pub pin_cores: Choice,

    /// What one client, and all clients together, may ask of the broker.
    pub limits: Limits,

    /// Who may connect, and what they may do.
    pub security: Security,

    /// Sizes of rings and buffers and the budgets of one loop turn.
    pub performance: Performance,

    /// Where a running broker can be found by the commands that look at it.
    pub runtime: Runtime,

    /// Metrics and health over HTTP.
    pub admin: Admin,

    /// What the broker publishes about itself.
    pub sys: Sys,

    /// What outlives the process, and when a client is told so.
    pub durability: Durability,

    /// Who came, went and was denied, in a file of its own.
    pub audit: Audit,

    /// What the process gives up once it has started.
    pub sandbox: Sandbox,

    /// What is written to standard error, and how.
    pub log: Log,

    /// How the broker stops.
    pub shutdown: Shutdown,
}

/// One address the broker listens on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What logs and statistics call this listener: 1 to 64 printable ASCII characters without
    /// spaces, unique. Default: the text of its address.
    #[serde(default)]
    pub name: Option<String>,

    /// IP address and port, such as `127.0.0.1:1883`, `0.0.0.0:1883` or `[::1]:1883`; required. An
    /// IPv6 address takes IPv6 clients only: list `0.0.0.0:1883` and `[::]:1883` to serve both.
    /// Port 0 takes a free port, which the start-up line tells.
    /// Or `unix:` and the path of a unix-domain socket.
    pub address: Address,

    /// What is spoken on this listener: `tcp` (default; MQTT 3.1, 3.1.1 and 5.0 directly), `tls`, `ws` (WebSocket) or `wss`
    /// (WebSocket over TLS).
    #[serde(default)]
    pub protocol: Protocol,

    /// Certificates and what clients must show; required for `tls` and `wss`, and only there. Default `null`.
    #[serde(default)]
    pub tls: Option<Tls>,

    /// What a WebSocket request must say; only for `ws` and `wss`.
    #[serde(default)]
    pub websocket: WebSocket,

    /// A proxy in front says who the client is. Default `null`: none does.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,

    /// The rights of a unix-domain socket's file: three octal digits, default 660. Ignored for IP addresses.
    #[serde(default)]
    pub unix_mode: FileMode,

    /// Who is asked about a client that connects here, in this order. Default `null`: as [`Security::authenticators`] say.
    #[serde(default)]
    pub authenticators: Option<Vec<Authenticator>>,

    /// Connections the kernel holds that no shard has accepted yet, per shard: 1 to 65,535,
    /// default 4,096. The kernel also caps it at `net.core.somaxconn`. Full: the kernel drops the
    /// SYN and the client tries again after a second.
    #[serde(default = "crate::default::backlog")]
    pub backlog: u32,

    /// How long the kernel keeps a new connection to itself until the client has sent something: `0` (off) or 1 s to
    /// 1 m in whole seconds, default 1 s. Clients speak first in MQTT, TLS and WebSocket: accepted together with their
    /// first bytes they cost less, and those that never say anything cost nothing so long. The client does not notice;
    /// `limits.connect_timeout` begins after it. Ignored for unix-domain sockets.
    #[serde(default = "crate::default::tcp_defer_accept")]
    pub tcp_defer_accept: Period,

    /// How long a connection may be silent before TCP itself probes whether the peer still lives:
    /// `0` (off) or 10 s to 2 h in whole seconds, default 10 m. Finds dead clients that use no MQTT
    /// keep alive: a peer that answers none of 3 probes, 30 s apart, is closed.
    #[serde(default = "crate::default::tcp_keep_alive")]
    pub tcp_keep_alive: Period,

    /// What an acknowledgement to a client of this listener waits for when somebody must keep what it publishes. Default
    /// `null`: `durability.acknowledge_after`.
    #[serde(default)]
    pub acknowledge_after: Option<DurabilityLevel>,

    /// The kernel's send buffer of one connection in bytes: `0` (default) leaves it to the
    /// kernel's own tuning, else 4 KiB to 64 MiB. Fixed small buffers bound kernel memory when
    /// many clients read slowly; they cost throughput over long distances.
    #[serde(default)]
    pub tcp_send_buffer_bytes: ByteSize,

    /// The kernel's receive buffer of one connection in bytes: `0` (default) leaves it to the
    /// kernel's own tuning, else 4 KiB to 64 MiB.
    #[serde(default)]
    pub tcp_receive_buffer_bytes: ByteSize,

    /// Limits of its own, over those of all listeners. Default: none.
    #[serde(default)]
    pub limits: ListenerLimits,
}

impl Listener {
    /// What logs and statistics call this listener.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }
}

/// What one client, and all clients together, may ask of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections the whole process is meant for. Clients spread by hash, so each shard takes its
    /// equal part and up to a quarter of that more. Default `0`: as many as there are slots
    /// (`performance.connections_per_shard`). A shard that is full closes new connections at once
    /// and counts them.
    pub connections_max: u32,

    /// Connections of one address (of IPv6: of one network of 64 bits), up to 1,000,000,000. More are closed at once.
    /// Default 0: any number. Unix-domain sockets have no address; behind a trusted proxy the client's own counts.
    pub connections_per_address_max: u32,

    /// Connects of one address in a second, up to 1,000,000, after a burst of as many. More are closed at once. Default 0: any
    /// number.
    pub connects_per_address_per_second_max: u32,

    /// Connections of the whole process that have not sent their CONNECT, up to 1,000,000,000, divided among shards like
    /// `connections_max`. For one more the oldest of them is closed, if it had a second; else the new one. Default 0: any
    /// number.
    pub handshakes_max: u32,

    /// How long a new connection may take from accept to its complete CONNECT packet: 100 ms to
    /// 10 m, default 8 s. Later: closed and counted.
    pub connect_timeout: Period,

    /// The largest MQTT Control Packet accepted and sent, in bytes: 1 KiB to 268,435,460, default
    /// 1 MiB. Announced to 5.0 clients; a larger packet closes the connection with 0x95.
    pub maximum_packet_size_bytes: ByteSize,

    /// The longest Client Identifier accepted, in bytes of UTF-8: 23 to 65,535, default 65,535.
    /// A longer one is refused with 0x85 (3.1.1: identifier rejected).
    pub client_id_size_max: u16,

    /// The longest Keep Alive granted, in seconds: `0` for no cap, to 65,535; default 3,600. A 5.0
    /// client that asks for more, or for none at all, is told this one (Server Keep Alive). An
    /// older client cannot be told, so its own value holds.
    pub keep_alive_seconds_max: u16,

    /// Publications of one client in a second, up to 1,000,000, after a burst of as many. Beyond it the client is not read
    /// from until it may publish again: nothing is dropped. Default 0: any number.
    pub publishes_per_second_max: u32,

    /// The same in bytes of whole PUBLISH packets. A packet that is larger goes through and is waited for afterwards. Default
    /// 0: any number.
    pub publish_bytes_per_second_max: ByteSize,

    /// The broker's memory beyond which new work is refused: new sessions (0x89), and what would be queued, retained or
    /// subscribed to (0x97). What is there goes on. At least 16 MiB. Default 0: when less than a sixteenth of the
    /// machine's (or the control group's) memory is left.
    pub memory_max: ByteSize,

    /// The highest QoS granted: 0, 1 or 2; default 2. Announced to 5.0 clients. A subscription is
    /// granted at most this; a PUBLISH above it closes the connection with 0x9B.
    pub maximum_qos: u8,

    /// Whether retained messages are served. Default true. Announced to 5.0 clients; when false a
    /// PUBLISH with RETAIN closes the connection with 0x9A.
    pub retain_available: bool,

    /// Whether Topic Filters with `#` and `+` are served. Default true. Announced to 5.0 clients;
    /// when false such a subscription is refused with 0xA2.
    pub wildcard_subscription_available: bool,

    /// Whether shared subscriptions (`$share/name/filter`) are served. Default true. Announced to
    /// 5.0 clients; when false such a subscription is refused with 0x9E.
    pub shared_subscription_available: bool,

    /// Whether Subscription Identifiers are served. Default true. Announced to 5.0 clients; when
    /// false a SUBSCRIBE with one closes the connection with 0xA1.
    pub subscription_identifiers_available: bool,

    /// QoS 1 and 2 publications a client may have unacknowledged towards the broker: 1 to 65,535,
    /// default 1,024. Announced to 5.0 clients; exceeding it closes the connection with 0x93.
    pub receive_maximum: u16,

    /// Topic Aliases a client may use towards the broker: 0 (none) to 65,535, default 32.
    /// Announced to 5.0 clients. Each one in use keeps its Topic Name in memory.
    pub topic_alias_maximum: u16,

    /// Topic Aliases the broker uses towards one client, if that client allows as many: 0 (none)
    /// to 65,535, default 32. Each one in use keeps its Topic Name in memory.
    pub topic_alias_maximum_outbound: u16,

    /// The longest a session outlives its connection: `0` (not at all) up to 136 years in whole
    /// seconds, or `never` for no cap; default 7 d. A 5.0 client that asks for more is told this.
    pub session_expiry_interval_max: Expiry,

    /// How long the session of a 3.1 or 3.1.1 client that connects with clean session 0 outlives
    /// its connection, same range, default 7 d. These versions have no way to ask or to be told.
    pub session_expiry_v3: Expiry,

    /// Sessions the whole process keeps, with a connection or without: 1 to 1,000,000,000, default
    /// 20,000,000. Divided among shards like `connections_max`. At the limit a new client is
    /// refused with 0x97 (3.1.1: server unavailable).
    pub sessions_max: u32,

    /// QoS 1 and 2 publications sent to one client and not yet acknowledged: 1 to 65,535, default
    /// 128. A client's own smaller Receive Maximum wins. Further ones wait in the session's queue.
    pub inflight_messages_max: u16,

    /// QoS 1 and 2 publications waiting in one session, offline or beyond its window: 0 to
    /// 10,000,000, default 1,000. At the limit the newest is dropped and counted.
    pub queued_messages_max: u32,

    /// The same in bytes: at least `maximum_packet_size_bytes`, at most 1 TiB, default 1 MiB.
    pub queued_bytes_max: ByteSize,

    /// The same for all sessions of the process together: `0`
    /// (default) is a quarter of the machine's memory, with a data directory as much as the machine has, of which at most a
    /// quarter waits in memory; else at least `maximum_packet_size_bytes` for
    /// every shard, at most 16 TiB. Each shard has its equal part. A publication counts in each queue
    /// that it waits in, also where those share its memory. At the limit the newest is dropped and
    /// counted; a QoS 1 or 2 publisher of 5.0 is told 0x97 when nobody else has it.
    pub queued_bytes_total_max: ByteSize,

    /// Whether QoS 0 publications are queued for a session without a connection, within the same
    /// bounds. Default false: they are dropped and counted.
    pub queue_qos0_messages: bool,

    /// Bytes encoded for one connection that its socket has not taken yet: at least
    /// `maximum_packet_size_bytes`, at most 4 GiB, default 2 MiB. At the limit QoS 0 is dropped
    /// and counted, QoS 1 and 2 wait in the session's queue.
    pub output_bytes_max: ByteSize,

    /// Levels of a Topic Name or Topic Filter (separators plus one): 1 to 65,535, default 128.
    /// A deeper name closes the connection with 0x90, a deeper filter is refused with 0x8F.
    pub topic_levels_max: u16,

    /// Subscriptions one session may hold: 1 to 10,000,000, default 100,000. Beyond it a
    /// subscription is refused with 0x97.
    pub subscriptions_per_client_max: u32,

    /// QoS 1 and 2 publications that one shared subscription keeps while none of its members can
    /// take one: 0 to 10,000,000, default 1,000. At the limit the newest is dropped and counted.
    pub shared_backlog_messages_max: u32,

    /// Retained messages the whole process keeps: 0 to 1,000,000,000, default 1,000,000. Each
    /// shard keeps its equal part, since topics spread evenly. At the limit a publication is
    /// delivered but not retained; QoS 1 and 2 publishers of 5.0 are told 0x97.
    pub retained_messages_max: u32,

    /// The same in bytes of payload, topic and properties: at least `maximum_packet_size_bytes`
    /// for every shard, at most 16 TiB, default 1 GiB.
    pub retained_bytes_max: ByteSize,
}

/// Sizes of rings and buffers and the budgets of one loop turn.
///
/// The defaults suit any machine; change one only with a measurement beside it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Performance {
    /// Entries of a shard's submission ring: a power of two, 64 to 32,768, default 1,024. Full: it
    /// is submitted early, at the cost of one more system call.
    pub ring_entries: u32,

    /// Entries of a shard's completion ring: a power of two, at least `ring_entries`, up to 65,536;
    /// default 16,384. Full: the kernel keeps the rest in its own memory until the next turn.
    pub completion_entries: u32,

    /// Bytes of one receive buffer: 512 B to 1 MiB, default 4 KiB. A longer packet is put together
    /// from several. Idle connections hold none.
    pub receive_buffer_size: ByteSize,

    /// Receive buffers of one shard: a power of two, 16 to 32,768, default 1,024. They are
    /// given to the kernel as they are needed, 16 at first. All taken: receives are armed again on
    /// the next turn, and counted.
    pub receive_buffer_count: u16,

    /// Accepts each shard keeps in flight on each listener: 1 to 1,024, default 16.
    pub accepts_in_flight: u16,

    /// Connection slots of one shard: 1 to 1,048,576; each costs 8 bytes of kernel memory. Default
    /// `auto`: as many as the descriptor limit (`ulimit -n`) allows, or fewer when
    /// `limits.connections_max` or the machine's memory (4 KiB each) cannot use them.
    pub connections_per_shard: Auto<u32>,

    /// Envelopes in each ring from one shard to another: 64 to 65,536. There are
    /// shards × (shards − 1) rings. Default `auto`: 4,096 for few shards, less for more, so that
    /// all rings into one shard together hold at most 16,384, but each at least 64. Full: what
    /// follows waits in the outbox.
    pub mesh_ring_capacity: Auto<u32>,

    /// Envelopes that wait in one shard for room in the ring to another: 16 to 1,048,576, default
    /// 4,096. Full: publishers to that shard are not read from until there is room.
    pub outbox_envelopes_max: u32,

    /// The same in bytes of publications: 64 KiB to 1 GiB, default 1 MiB.
    pub outbox_bytes_max: ByteSize,

    /// Buckets of the map that says which shards care about a topic: a power of two, 1,024 to
    /// 67,108,864. Default `auto`: 16 for each connection that a shard is meant for, at least
    /// 262,144 (2 MiB for 64 shards, less for fewer). Too few: more publications are sent to shards
    /// that have no subscriber for them.
    pub interest_buckets: Auto<u32>,

    /// Envelopes from other shards that are acted on in one loop turn: 16 to 1,048,576, default
    /// 1,024.
    pub envelopes_per_turn_max: u32,

    /// How long an idle shard spins before it sleeps, in microseconds: 0 (default) to 10,000.
    /// Spinning wins some latency and burns the core.
    pub spin_before_park_microseconds: u32,
}

/// Where a running broker can be found by the commands that look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The directory in which this broker makes one of its own, named by its process id, for its
    /// control socket and its statistics: at most 80 bytes, since the address of a Unix socket
    /// holds little more. Default `null`: `$RUNTIME_DIRECTORY` where systemd sets it, else
    /// `/run/midge` for root, else `$XDG_RUNTIME_DIR/midge`, else `/tmp/midge-UID`. Where it cannot
    /// be made, the broker serves all the same and says that statistics and control are off.
    pub directory: Option<PathBuf>,
}

/// What the broker publishes about itself, below `$SYS`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sys {
    /// Between two looks at what has changed: `0` (nothing is published) or 1 s to 1 h, default
    /// 10 s.
    pub interval: Period,
}

/// What outlives the process, and when a client is told so.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Durability {
    /// The data directory, made when it is missing, used by one broker at a time. Default `auto`: `$STATE_DIRECTORY` where
    /// systemd sets it, else `/var/lib/midge` for root, else `$XDG_STATE_HOME/midge`, else `~/.local/state/midge`; where it
    /// cannot be had, the broker refuses to start. `memory`: sessions, queued messages and retained messages live
    /// in memory and end with the process.
    pub directory: Place,

    /// What an acknowledgement of something that must be kept waits for. Default `fsync`.
    pub acknowledge_after: DurabilityLevel,

    /// The same for publications to some topics, whatever their listener says; of several prefixes the longest holds.
    /// At most 64. `memory` is for QoS 1; everything else is acknowledged at the strictest of all levels. Default: none.
    pub topics: Vec<TopicDurability>,

    /// Bytes of messages waiting in queues that each shard holds in memory: up to 1 TiB, default 64 MiB. Beyond it a message
    /// that the data directory keeps leaves memory as soon as the disk has it (20 bytes stay), and is read again
    /// when its client comes for it.
    pub queued_memory_max: ByteSize,

    /// What a start does with damage that no crash explains. Default `serve`: the damaged records are named in the log and
    /// lost, a copy of the file is kept, and the broker serves and shows itself degraded. `strict`: it refuses to start
    /// and changes nothing; everything is then read twice.
    pub recovery: RecoveryMode,
}

/// What acknowledgements of publications to some topics wait for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct TopicDurability {
    /// What the Topic Names begin with, such as `site/alarm/`: 1 to 1,024 bytes without wildcards.
    pub prefix: String,

    /// As `durability.acknowledge_after`.
    pub acknowledge_after: DurabilityLevel,
}

/// What a start does with damage that no crash explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryMode {
    /// Serves what is left.
    #[default]
    Serve,
    /// Refuses to start.
    Strict,
}

/// What an acknowledgement waits for, when somebody must keep what it acknowledges; in the order of strictness.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityLevel {
    /// For nothing: a crash may take the last tenth of a second.
    Memory,
    /// For the operating system: it outlives the process, and a power cut may take the last tenth of a second.
    Written,
    /// For the disk: it outlives a power cut.
    #[default]
    Fsync,
}

/// What is written to standard error, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least important level written. Default `info`.
    pub level: LogLevel,

    /// How a line looks. Default `text`.
    pub format: LogFormat,

    /// Lines that one shard writes in one second about connection events of one kind (malformed
    /// packets, refused connections, …): 1 to 1,000,000, or 0 for no bound; default 20. The rest are
    /// counted, and the next line of that kind tells how many.
    pub lines_per_second_max: u32,
}

/// The importance of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing at all, not even the start-up line.
    Off,
    /// The broker cannot do something it must.
    Error,
    /// Something an operator should look at.
    Warn,
    /// Start, stop and rare events.
    #[default]
    Info,
    /// One line for each event of a connection.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, message, then `key=value`. Coloured on a terminal.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
    /// `key=value` pairs only.
    Logfmt,
}

/// How the broker stops.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long SIGTERM or SIGINT waits for connections to close in good order: 0 to 1 h, default
    /// 10 s. A second signal does not wait.
    pub drain_timeout: Period,
}
