//! From the program's settings to running shards: the only place that knows both vocabularies.

use std::{
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::Sender;
use midge_config::{Auto, RecoveryMode};
use midge_netring::RingConfig;
use midge_reactor::{Auditor, Durability, Progress};
use midge_session::Keeping;
use midge_shard::Ban;
use midge_store::Level;
use midge_topic::TopicLimits;

use crate::{
    listen::Listening, minds::Minds, security::Guard, settings::Settings, transports::Layers,
};

/// Running shards.
#[derive(Debug)]
pub(crate) struct Broker(midge_reactor::Broker);

/// Asks the shards to drain, from any thread.
#[derive(Debug)]
pub(crate) struct Stopper(midge_reactor::Stopper);

/// Gives the shards new users, rules, limits and listeners, from any thread.
pub(crate) use midge_reactor::Reloader;

/// Why the shards could not start, or ended by themselves: one sentence.
#[derive(Debug)]
pub(crate) struct StartError(pub(crate) String);

/// Who hears what shards have to say beside the log.
#[derive(Debug)]
pub(crate) struct Ears {
    pub(crate) bans: Sender<Ban>,
    pub(crate) audit: Option<Auditor>,
    /// How far the logs have been read.
    pub(crate) progress: Progress,
}

impl Broker {
    /// `statistics` is the directory for the shards' pages.
    pub(crate) fn start(
        settings: &Settings,
        listening: Vec<Listening>,
        guard: &Guard,
        minds: &Minds,
        ears: Ears,
        statistics: Option<&Path>,
        layers: Layers,
    ) -> Result<Self, StartError> {
        // Before the executors: they only panic where the kernel forbids io_uring, and tell nobody what to do.
        midge_netring::check_kernel().map_err(|error| StartError(error.to_string()))?;
        let mut reactor = reactor_settings(settings, guard, minds);
        if let Some(durability) = &mut reactor.durability {
            durability.progress = ears.progress;
        }
        reactor.bans = Some(ears.bans);
        reactor.audit = ears.audit;
        reactor.statistics = statistics.map(Path::to_owned);
        reactor.layers = layers;
        midge_reactor::start(&reactor, by_shard(listening, settings.shards))
            .map(Self)
            .map_err(|error| StartError(error.to_string()))
    }

    pub(crate) fn reloader(&self) -> Reloader {
        self.0.reloader()
    }

    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.0.stopper())
    }

    /// Asks the shards.
    pub(crate) fn asker(&self) -> midge_reactor::Asker {
        self.0.asker()
    }

    /// What was found damaged in the data directory at the start.
    pub(crate) fn damage(&self) -> &[midge_reactor::DamageReport] {
        self.0.damage()
    }

    /// The limits of topics that the shards were started with.
    pub(crate) fn topic_limits(settings: &Settings) -> TopicLimits {
        let levels_max = settings.config().limits.topic_levels_max;
        TopicLimits { levels_max, ..TopicLimits::default() }
    }

    /// Waits until all shards have ended.
    pub(crate) fn join(self) -> Result<(), StartError> {
        self.0.join().map_err(|error| StartError(error.to_string()))
    }
}

impl Stopper {
    pub(crate) fn stop(&self, drain_timeout: Duration) {
        self.0.stop(drain_timeout);
    }
}

/// Listeners have their sockets by shard; shards have theirs by listener.
fn by_shard(listening: Vec<Listening>, shards: u16) -> Vec<Vec<TcpListener>> {
    let mut seats: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    for listener in listening {
        for (seat, socket) in seats.iter_mut().zip(listener.sockets) {
            seat.push(socket);
        }
    }
    seats
}

fn reactor_settings(settings: &Settings, guard: &Guard, minds: &Minds) -> midge_reactor::Settings {
    let performance = &settings.config().performance;
    // Unpredictable from outside, which is all that hash tables need.
    let seeds = RandomState::new();
    let listeners: Vec<_> = settings.config().listeners.iter().collect();
    let mind = minds.settings(settings, &guard.security, &listeners);
    let strictest = mind.levels.strictest();
    midge_reactor::Settings {
        shards: settings.shards,
        cores: settings.cores.clone(),
        shard: Arc::new(mind),
        ring: RingConfig {
            entries: performance.ring_entries,
            completion_entries: performance.completion_entries,
            slots: settings.connections_per_shard,
            receive_buffer_size: narrow(performance.receive_buffer_size.bytes()),
            receive_buffer_count: performance.receive_buffer_count.into(),
        },
        layers: Arc::default(),
        accepts_in_flight: performance.accepts_in_flight,
        mesh_ring_capacity: wide(settings.mesh_ring_capacity),
        interest_buckets: match performance.interest_buckets {
            Auto::Value(buckets) => wide(buckets),
            // A subscription or two for each connection is what most deployments have.
            Auto::Auto => midge_mesh::buckets_recommended(wide(
                settings.connections_max.div_ceil(u32::from(settings.shards)),
            )),
        },
        envelopes_per_turn_max: wide(performance.envelopes_per_turn_max),
        spin: Duration::from_micros(performance.spin_before_park_microseconds.into()),
        log_lines_per_second_max: match settings.config().log.lines_per_second_max {
            0 => u32::MAX,
            lines => lines,
        },
        statistics: None,
        bans: None,
        audit: None,
        doorman: Some(guard.doorman(settings.config())),
        durability: settings.data_directory.clone().map(|directory| Durability {
            directory,
            level: match strictest {
                Keeping::Fsync => Level::Fsync,
                Keeping::Written => Level::Written,
                Keeping::Memory => Level::Memory,
            },
            log: midge_store::Settings::default(),
            seed: seeds.hash_one("logs"),
            strict: settings.config().durability.recovery == RecoveryMode::Strict,
            progress: Progress::default(),
        }),
        hash_seeds: [1, 2, 3, 4].map(|number: u64| seeds.hash_one(number)),
    }
}

/// The configuration's validation has checked the range.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn wide(value: u32) -> usize {
    value as usize
}
