//! What a run looks like: how many shards and clients, how small the queues, how bad the network.
//!
//! A scenario is a rule that turns a seed into knobs. To add a fault: a knob here, the place that turns it (mostly
//! `net.rs`), and a situation in `coverage.rs` that counts how often it happened.

use midge_store::Level;

use crate::prng::Prng;

/// The scenarios, by name, with one line each.
pub const SCENARIOS: &[(&str, &str)] = &[
    ("standard", "everything, each part of it at random"),
    ("calm", "no faults: a reference that must hold before anything else does"),
    ("storm", "connections are cut and taken over all the time"),
    ("tight", "small limits everywhere: queues overflow, sessions and connections are refused"),
    ("shares", "mostly shared subscriptions, members come and go"),
    ("durable", "logs on disks that fail and fill up; the broker is killed, the power goes"),
    ("shutdown", "the broker is shut down in the middle"),
    (
        "crew",
        "shards on one thread, which take from each other without a ring; half of them with logs",
    ),
];

/// What the disks are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskKnobs {
    /// What acknowledgements wait for.
    pub level: Level,
    /// Longest time of an ordinary operation, in microseconds.
    pub latency_us: u64,
    /// Operations that fail, in millionths.
    pub fault_per_million: u32,
    /// Bytes that fit.
    pub capacity: u64,
    /// Largest segment.
    pub segment_size_max: u32,
    /// How often everything stops at once and begins again.
    pub crashes: u64,
    /// Bytes of queued messages in memory, beyond which they are in the log alone.
    pub queued_memory_max: usize,
    /// The sessions of all members of shared subscriptions outlive their connections.
    pub lasting_members: bool,
}

impl DiskKnobs {
    fn new(prng: &mut Prng) -> Self {
        Self {
            level: prng.pick(&[Level::Fsync, Level::Fsync, Level::Written]),
            latency_us: prng.pick(&[50, 1_000, 20_000]),
            fault_per_million: prng.pick(&[0, 0, 1_000]),
            capacity: prng.pick(&[u64::MAX, u64::MAX, 400 << 10]),
            segment_size_max: prng.pick(&[64 << 10, 1 << 20]),
            crashes: prng.between(0, 3),
            queued_memory_max: prng.pick(&[0, 0, 2_000, 20_000, 64 << 20]),
            lasting_members: prng.permille(600),
        }
    }
}

/// One run's settings. Chances are per mille.
#[derive(Debug, Clone)]
pub struct Knobs {
    /// Shards, 1 to 5.
    pub shards: u16,
    /// Whether they are on one thread.
    pub crew: bool,
    /// Envelopes in a ring between two shards.
    pub ring_capacity: usize,
    /// Places in each fake ring's table.
    pub slots: usize,
    /// Clients that behave, by kind.
    pub clients: usize,
    /// Of these, how many only share.
    pub sharers: usize,
    /// Clients that misbehave.
    pub bad: usize,
    /// Virtual time of the busy phase, in milliseconds.
    pub busy_ms: u64,
    /// Mean pause between two acts of a client, in microseconds.
    pub act_us: u64,
    /// Chance that an act is a cut, a vanishing, a take-over.
    pub cut: u64,
    /// Chance that an act is going half-open.
    pub vanish: u64,
    /// Chance that an act is a second connection with the same id.
    pub take_over: u64,
    /// Chance that an act is a goodbye.
    pub goodbye: u64,
    /// Chance that an act is to stop reading for a while.
    pub deaf: u64,
    /// Chance that a shard stalls before a turn.
    pub stall: u64,
    /// Clock jumps in the busy phase.
    pub jumps: u64,
    /// Bytes that a socket holds towards a client.
    pub window: usize,
    /// Bytes of output per connection.
    pub output_bytes_max: usize,
    /// Outbox bounds.
    pub outbox_bytes_max: usize,
    /// Outbox bounds.
    pub outbox_envelopes_max: usize,
    /// Messages of a session's queue.
    pub queue_messages_max: usize,
    /// Whether queues, sessions or connections can run out, so that drops are counted rather than forbidden.
    pub tight: bool,
    /// Whether QoS 0 is queued for sessions that are away.
    pub queue_qos0: bool,
    /// The broker's Receive Maximum.
    pub receive_maximum: u16,
    /// In flight to one client.
    pub in_flight_max: u16,
    /// The broker's Topic Alias Maximum, both ways.
    pub topic_alias_maximum: u16,
    /// Longest Keep Alive, seconds; zero none.
    pub keep_alive_seconds_max: u16,
    /// Messages in a group's backlog.
    pub backlog_max: usize,
    /// Bytes of a session's queue.
    pub queue_bytes_max: usize,
    /// Retained messages of a shard.
    pub retained_max: usize,
    /// Sessions of a shard.
    pub sessions_max: usize,
    /// Connections of a shard.
    pub connections_max: usize,
    /// Subscriptions of a session.
    pub subscriptions_max: usize,
    /// Whether the broker is shut down in the middle.
    pub shutdown: bool,
    /// The disks; `None`: nothing outlives the process.
    pub disk: Option<DiskKnobs>,
}

impl Knobs {
    /// The knobs of a scenario's seed; `None` when there is no such scenario.
    #[must_use]
    pub fn new(scenario: &str, seed: u64) -> Option<Self> {
        let mut prng = Prng::new(seed, 0x6b6e_6f62);
        let mut knobs = Self::standard(&mut prng);
        match scenario {
            "standard" => {}
            "calm" => {
                knobs.cut = 0;
                knobs.vanish = 0;
                knobs.take_over = 0;
                knobs.deaf = 0;
                knobs.jumps = 0;
                knobs.bad = 0;
                knobs.loosen();
            }
            "storm" => {
                knobs.cut = 30;
                knobs.vanish = 10;
                knobs.take_over = 30;
                knobs.goodbye = 20;
            }
            "tight" => knobs.tighten(&mut prng),
            "shares" => {
                knobs.sharers = 6;
                knobs.clients = 10;
                knobs.loosen();
                if prng.permille(300) {
                    knobs.tighten(&mut prng);
                }
            }
            "durable" => {
                knobs.loosen();
                knobs.disk = Some(DiskKnobs::new(&mut prng));
            }
            "shutdown" => {
                knobs.shutdown = true;
                knobs.busy_ms /= 2;
            }
            "crew" => {
                knobs.crew = true;
                knobs.shards = prng.between(2, 5) as u16;
                if prng.permille(500) {
                    knobs.loosen();
                    knobs.disk = Some(DiskKnobs::new(&mut prng));
                }
            }
            _ => return None,
        }
        Some(knobs)
    }

    /// Whether a CONNECT or a publication may be refused for want of room.
    #[must_use]
    pub fn may_refuse(&self) -> bool {
        self.tight
            || self.disk.is_some_and(|disk| disk.capacity < u64::MAX || disk.fault_per_million > 0)
    }

    fn standard(prng: &mut Prng) -> Self {
        let mut knobs = Self {
            shards: prng.between(1, 5) as u16,
            crew: false,
            ring_capacity: prng.pick(&[2, 3, 4, 8, 16]),
            slots: prng.pick(&[24, 40, 64]),
            clients: prng.between(4, 12) as usize,
            sharers: prng.between(0, 4) as usize,
            bad: prng.between(0, 3) as usize,
            busy_ms: prng.between(8_000, 40_000),
            act_us: prng.pick(&[15_000, 30_000, 60_000]),
            cut: prng.pick(&[0, 2, 6]),
            vanish: prng.pick(&[0, 1, 2]),
            take_over: prng.pick(&[0, 2, 6]),
            goodbye: prng.pick(&[2, 6]),
            deaf: prng.pick(&[0, 3, 10]),
            stall: prng.pick(&[0, 2, 20]),
            jumps: prng.pick(&[0, 0, 1, 3]),
            window: prng.pick(&[600, 4_000, 64_000]),
            output_bytes_max: prng.pick(&[1_500, 8_000, 64_000]),
            outbox_bytes_max: prng.pick(&[1_500, 8_000, 1 << 20]),
            outbox_envelopes_max: prng.pick(&[3, 16, 4096]),
            queue_messages_max: 1_000_000,
            tight: false,
            queue_qos0: prng.permille(200),
            receive_maximum: prng.pick(&[1, 2, 5, 20, 1024]),
            in_flight_max: prng.pick(&[1, 2, 10, 128]),
            topic_alias_maximum: prng.pick(&[0, 1, 3, 32]),
            keep_alive_seconds_max: prng.pick(&[0, 0, 5]),
            backlog_max: 1_000_000,
            queue_bytes_max: 1 << 30,
            retained_max: usize::MAX,
            sessions_max: usize::MAX,
            connections_max: usize::MAX,
            subscriptions_max: 100_000,
            shutdown: false,
            disk: None,
        };
        if prng.permille(150) {
            knobs.tighten(prng);
        }
        knobs
    }

    fn tighten(&mut self, prng: &mut Prng) {
        self.tight = true;
        self.queue_messages_max = prng.pick(&[1, 3, 10, 50]);
        self.backlog_max = prng.pick(&[0, 1, 5, 30]);
        self.subscriptions_max = prng.pick(&[1, 3, 100]);
        self.sessions_max = prng.pick(&[3, 10, 1000]);
        self.connections_max = prng.pick(&[6, 12, 1000]);
        self.queue_bytes_max = prng.pick(&[2_000, 20_000, 1 << 30]);
        self.retained_max = prng.pick(&[2, 5, 1000]);
    }

    fn loosen(&mut self) {
        self.tight = false;
        self.queue_messages_max = 1_000_000;
        self.backlog_max = 1_000_000;
        self.queue_bytes_max = 1 << 30;
        self.retained_max = usize::MAX;
        self.sessions_max = usize::MAX;
        self.connections_max = usize::MAX;
        self.subscriptions_max = 100_000;
    }
}
