//! Threads, the exchange of ring handles, stop and join.

use std::fmt;
use std::net::TcpListener;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use midge_mesh::{InterestMap, Node, ShardId};
use midge_metrics::Identity;
use midge_netring::{ListenerId, NetRing, RingConfig, RingHandle, TIME_SLICE_MIN, Waker};
use midge_session::{Publication, Time};
use midge_shard::survey::{Answer, Question};
use midge_shard::{AuditNote, Ban, Bans, Envelope, RetainedCounts, Security, Shard, Shared};

use crate::accepting::Accepting;
use crate::asker::Asker;
use crate::clock::Clock;
use crate::damage::DamageReport;
use crate::durable::{Durability, DurabilityError, Store};
use crate::hands::{Hands, Travelling};
use crate::journal::Journal;
use crate::layers::{LayerCounters, Layers};
use crate::logins::{self, Doorman, Logins, Outcome};
use crate::statistics::Statistics;

/// Commands that may wait for one shard. A shard takes them once per turn; whoever sends more waits.
pub(crate) const COMMANDS_MAX: usize = 64;

/// What glommio registers for its own disk operations, in bytes. Its default of 10 MiB per executor is made for programs
/// that live on disk I/O; nothing is read or written yet, and sixty-four executors must fit into the 8 MiB that
/// an unprivileged process may lock.
const EXECUTOR_IO_MEMORY: usize = 64 * 1024;

/// Submission entries of each of glommio's three rings.
const EXECUTOR_RING_DEPTH: usize = 16;

/// Hears what the audit log wants to know.
#[derive(Clone)]
pub struct Auditor(pub Arc<dyn Fn(Box<AuditNote>) + Send + Sync>);

impl fmt::Debug for Auditor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Auditor(..)")
    }
}

/// What the program has decided.
#[derive(Debug, Clone)]
pub struct Settings {
    /// 1 to 1,024.
    pub shards: u16,
    /// The core of each shard, by shard; empty: none is pinned.
    pub cores: Vec<usize>,
    /// Settings of each shard's mind.
    pub shard: Arc<midge_shard::Settings>,
    /// Settings of each shard's ring.
    pub ring: RingConfig,
    /// What is spoken on each listener, in the order of the configuration. A listener beyond the end of the list is plain.
    pub layers: Arc<[Arc<midge_transport::Listener>]>,
    /// Accepts kept in flight per listener and shard.
    pub accepts_in_flight: u16,
    /// Envelopes in each ring from one shard to another.
    pub mesh_ring_capacity: usize,
    /// Buckets of the interest map, a power of two.
    pub interest_buckets: usize,
    /// Envelopes that a shard opens in one turn, at most; the rest waits for the next.
    pub envelopes_per_turn_max: usize,
    /// How long an idle shard looks again before it sleeps. Zero: sleep at once.
    pub spin: Duration,
    /// Log lines a second, shard and kind of event.
    pub log_lines_per_second_max: u32,
    /// Where each shard's statistics page goes, a directory in memory; `None`: nobody sees them.
    pub statistics: Option<PathBuf>,
    /// Who is asked about clients; needed where a chain has a link that is asked.
    pub doorman: Option<Doorman>,
    /// Who hears what the audit log wants to know, and never waits; `None`: nobody asks.
    pub audit: Option<Auditor>,
    /// Who hears whom shards want to ban; `None`: nobody. When it is full, a ban is left out: whoever deserves it asks again.
    pub bans: Option<Sender<Ban>>,
    /// How what must outlive the process is kept; `None`: nothing does.
    pub durability: Option<Durability>,
    /// Makes the shards' hash tables unpredictable; different in every process.
    pub hash_seeds: [u64; 4],
}

/// From an alien to a shard.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Stop accepting, tell the clients, close, end.
    Stop {
        /// What has not left after this long is dropped.
        drain_timeout: Duration,
    },
    /// Answer a question; at most one in a turn.
    Ask {
        /// What.
        question: Box<Question>,
        /// Where to: with room for one answer, and perhaps nobody there any more.
        reply: Sender<Answer>,
    },
    /// Publish messages of the broker's own, like a client that has no session.
    Publish {
        /// What; at most [`asker::PUBLICATIONS_MAX`](crate::asker::PUBLICATIONS_MAX).
        publications: Vec<Arc<Publication>>,
        /// Where to say how many of them were taken, from the front.
        reply: Sender<usize>,
    },
    /// Listeners come, go and change; connections that are there stay, and keep what they have.
    Listeners {
        /// What is spoken on each from now on, by number.
        layers: Arc<[Arc<midge_transport::Listener>]>,
        /// In this order.
        changes: Vec<ListenerChange>,
    },
    /// New limits, for what happens from now on.
    Limits(Arc<midge_shard::Settings>),
    /// All bans; `None`: nobody is banned.
    Bans(Option<Arc<Bans>>),
    /// Memory is short (or not any more).
    Pressure(bool),
    /// New users and rules.
    Security(Box<Security>),
}

/// What becomes of one shard's socket of a listener.
pub enum ListenerChange {
    /// It is new.
    Open {
        /// By which connections know it; of no other listener before.
        number: u16,
        /// Listens already.
        socket: TcpListener,
    },
    /// It is closed.
    Close {
        /// Which.
        number: u16,
    },
    /// It stays, with other options for the connections to come.
    Configure {
        /// Which.
        number: u16,
        /// Sets them.
        configure: Arc<dyn Fn(&TcpListener) + Send + Sync>,
    },
}

impl fmt::Debug for ListenerChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, number) = match self {
            Self::Open { number, .. } => ("Open", number),
            Self::Close { number } => ("Close", number),
            Self::Configure { number, .. } => ("Configure", number),
        };
        formatter.debug_tuple(name).field(number).finish()
    }
}

/// Why the shards could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A net ring could not be made; the sentence says what to do.
    Ring {
        /// Which shard's.
        shard: u16,
        /// Why.
        error: midge_netring::NetRingError,
    },
    /// There is no memory for a statistics page.
    Statistics {
        /// Which shard's.
        shard: u16,
        /// Why.
        error: std::io::Error,
    },
    /// What is kept cannot be used.
    Durability(DurabilityError),
    /// A listening socket could not be used.
    Listen {
        /// Which shard's.
        shard: u16,
        /// Why.
        error: std::io::Error,
    },
    /// The executor could not be made.
    Executor {
        /// Which shard's.
        shard: u16,
        /// Why.
        reason: String,
    },
    /// A shard's thread ended.
    Ended {
        /// Why, as far as it is known.
        reason: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring { shard, error } => write!(formatter, "shard {shard}: {error}"),
            Self::Durability(error) => error.fmt(formatter),
            Self::Statistics { shard, error } => {
                write!(formatter, "shard {shard}: no memory for statistics: {error}")
            }
            Self::Listen { shard, error } => {
                write!(formatter, "shard {shard}: cannot use a listening socket: {error}")
            }
            Self::Executor { shard, reason } => {
                write!(formatter, "shard {shard}: cannot start its executor: {reason}")
            }
            Self::Ended { reason } => write!(formatter, "a shard has ended: {reason}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The running shards.
#[derive(Debug)]
pub struct Broker {
    threads: Vec<ExecutorJoinHandle<()>>,
    stopper: Stopper,
    asker: Asker,
    damage: Vec<DamageReport>,
    clock: Clock,
}

/// Asks the shards to drain; from any thread, any number of times.
#[derive(Debug, Clone)]
pub struct Stopper {
    shards: Arc<[(Sender<Command>, Waker)]>,
}

impl Stopper {
    /// Stops accepting, publishes wills, tells every client, and ends when all have been told or `drain_timeout` is over.
    pub fn stop(&self, drain_timeout: Duration) {
        for (commands, waker) in self.shards.iter() {
            // A full channel holds a stop already, or a shard that takes no commands and cannot be stopped politely.
            let _ = commands.try_send(Command::Stop { drain_timeout });
            waker.wake();
        }
    }
}

/// Gives the shards new users, rules, limits and listeners; from any thread, any number of times. Each waits for shards
/// that have many commands to take.
#[derive(Debug, Clone)]
pub struct Reloader {
    shards: Arc<[(Sender<Command>, Waker)]>,
    clock: Clock,
}

impl Reloader {
    /// Tells every shard, one after the other; waits for shards that have many commands to take.
    pub fn set_security(&self, security: &Security) {
        for (commands, waker) in self.shards.iter() {
            // A shard that has ended needs no rules.
            let _ = commands.send(Command::Security(Box::new(security.clone())));
            waker.wake();
        }
    }

    /// All bans; `None`: nobody is banned.
    pub fn set_bans(&self, bans: Option<&Arc<Bans>>) {
        for (commands, waker) in self.shards.iter() {
            let _ = commands.send(Command::Bans(bans.cloned()));
            waker.wake();
        }
    }

    /// Whether memory is short.
    pub fn set_pressure(&self, is_pressed: bool) {
        for (commands, waker) in self.shards.iter() {
            let _ = commands.send(Command::Pressure(is_pressed));
            waker.wake();
        }
    }

    /// The moment by which the shards' bans end.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// New limits.
    pub fn set_limits(&self, settings: &Arc<midge_shard::Settings>) {
        for (commands, waker) in self.shards.iter() {
            let _ = commands.send(Command::Limits(Arc::clone(settings)));
            waker.wake();
        }
    }

    /// What is spoken on each listener, and which of them come, go or change: by shard. A list that is too short leaves
    /// the rest of the shards with new layers alone.
    pub fn set_listeners(
        &self,
        layers: &Arc<[Arc<midge_transport::Listener>]>,
        changes: Vec<Vec<ListenerChange>>,
    ) {
        let mut changes = changes.into_iter();
        for (commands, waker) in self.shards.iter() {
            let changes = changes.next().unwrap_or_default();
            let _ = commands.send(Command::Listeners { layers: Arc::clone(layers), changes });
            waker.wake();
        }
    }
}

impl Broker {
    /// See [`Reloader`].
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader { shards: Arc::clone(&self.stopper.shards), clock: self.clock }
    }

    /// See [`Stopper`].
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// See [`Asker`].
    #[must_use]
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// What was found damaged in the data directory at the start.
    #[must_use]
    pub fn damage(&self) -> &[DamageReport] {
        &self.damage
    }

    /// Waits until all shards have drained.
    ///
    /// # Errors
    /// When a shard's executor failed.
    pub fn join(self) -> Result<(), StartError> {
        for thread in self.threads {
            thread.join().map_err(|error| StartError::Ended { reason: error.to_string() })?;
        }
        Ok(())
    }
}

/// What a shard's thread says once its ring is there.
type Hello = Result<(u16, RingHandle, Waker, Vec<(ShardId, Envelope)>), StartError>;

/// What a shard hears before it serves: all rings, and what other shards' restored sessions have to say to it.
type Welcome = (Arc<[RingHandle]>, Vec<(ShardId, Envelope)>);

/// What one shard's thread starts with.
struct Seat {
    id: ShardId,
    settings: Settings,
    shared: Shared,
    node: Node<Envelope>,
    listeners: Vec<TcpListener>,
    clock: Clock,
    started: SystemTime,
    commands: Receiver<Command>,
    logins: Logins,
    outcomes: Receiver<Outcome>,
    hello: Sender<Hello>,
    /// Once every shard has said hello; an error means that the start was given up.
    welcome: Receiver<Welcome>,
    store: Option<Arc<Store>>,
    time_slice: Duration,
}

/// The scheduler's turns for each of `shards` on `cores`. As short as can be where each has a core of its own: it wakes for a
/// few microseconds' work and should not wait until something else has had its milliseconds. Where several share a core they
/// are each other's something else, and to change between them at every tenth of a millisecond cost 4 % of the processor with 8.
fn time_slice(shards: u16, cores: usize) -> Duration {
    let on_a_core = usize::from(shards).div_ceil(cores.max(1));
    TIME_SLICE_MIN.saturating_mul(u32::try_from(on_a_core).unwrap_or(u32::MAX))
}

/// Starts all shards. `listeners` are the listening sockets, by shard, then in the order of the configuration.
///
/// # Errors
/// When a ring, an executor or a listening socket cannot be had. No shard runs then.
///
/// # Panics
/// When there is not one set of sockets for each shard.
pub fn start(settings: &Settings, listeners: Vec<Vec<TcpListener>>) -> Result<Broker, StartError> {
    let shards = settings.shards;
    assert_eq!(listeners.len(), usize::from(shards), "one set of sockets for each shard");
    let shared = Shared {
        interest: (shards > 1)
            .then(|| Arc::new(InterestMap::new(shards, settings.interest_buckets))),
        retained_counts: Arc::new(RetainedCounts::new(shards)),
    };
    let store = match &settings.durability {
        Some(durability) => {
            let store = Store::open(durability, shards).map_err(StartError::Durability)?;
            Some(Arc::new(store))
        }
        None => None,
    };
    let nodes = midge_mesh::build(shards, settings.mesh_ring_capacity);
    let clock = Clock::new();
    let started = SystemTime::now();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let time_slice = time_slice(shards, cores);
    let (hello, hellos) = bounded::<Hello>(usize::from(shards));
    let mut threads = Vec::with_capacity(usize::from(shards));
    let mut answers = Vec::with_capacity(usize::from(shards));
    let (logins, login_line) = logins::logins();
    let mut outcome_senders = Vec::with_capacity(usize::from(shards));
    let mut command_senders = Vec::with_capacity(usize::from(shards));
    for (node, listeners) in nodes.into_iter().zip(listeners) {
        let id = node.id();
        let (commands, command_receiver) = bounded(COMMANDS_MAX);
        let (outcomes, outcome_receiver) = logins::outcomes();
        let (answer, welcome) = bounded(1);
        let seat = Seat {
            id,
            settings: settings.clone(),
            shared: shared.clone(),
            node,
            listeners,
            clock,
            started,
            commands: command_receiver,
            logins: logins.clone(),
            outcomes: outcome_receiver,
            hello: hello.clone(),
            welcome,
            store: store.clone(),
            time_slice,
        };
        let placement = match settings.cores.get(id.index()) {
            Some(core) => Placement::Fixed(*core),
            None => Placement::Unbound,
        };
        let thread = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{id}"))
            .io_memory(EXECUTOR_IO_MEMORY)
            .ring_depth(EXECUTOR_RING_DEPTH)
            .spawn(move || take_seat(seat))
            .map_err(|error| StartError::Executor { shard: id.get(), reason: error.to_string() })?;
        threads.push(thread);
        answers.push(answer);
        command_senders.push(commands);
        outcome_senders.push(outcomes);
    }
    drop((hello, logins));
    let mut rings: Vec<Option<(RingHandle, Waker)>> = vec![None; usize::from(shards)];
    let mut letters: Vec<Vec<(ShardId, Envelope)>> = (0..shards).map(|_| Vec::new()).collect();
    for _ in 0..shards {
        let said = hellos.recv().map_err(|_| StartError::Ended {
            reason: "its thread ended before it had a ring".to_owned(),
        })?;
        let (shard, ring, waker, said) = said?;
        rings[usize::from(shard)] = Some((ring, waker));
        for (target, envelope) in said {
            letters[target.index()].push((ShardId::new(shard), envelope));
        }
    }
    let (rings, wakers): (Vec<_>, Vec<_>) = rings.into_iter().flatten().unzip();
    if let Some(doorman) = &settings.doorman {
        let shards = outcome_senders.into_iter().zip(wakers.iter().cloned()).collect();
        logins::start(doorman, &login_line, &shards)?;
    }
    let rings: Arc<[RingHandle]> = rings.into();
    for (answer, letters) in answers.into_iter().zip(letters) {
        // A thread that is gone by now is found by `join`.
        let _ = answer.send((Arc::clone(&rings), letters));
    }
    let shards: Arc<[_]> = command_senders.into_iter().zip(wakers).collect();
    let asker = Asker::new(shards.iter().cloned());
    let damage = store.map_or_else(Vec::new, |store| store.take_reports());
    Ok(Broker { threads, stopper: Stopper { shards }, asker, clock, damage })
}

/// A shard's thread, from its ring to its end.
async fn take_seat(seat: Seat) {
    // A wish: a sandbox may forbid it, and the shard runs as everybody does then.
    _ = midge_netring::set_time_slice(seat.time_slice);
    let Seat { id, settings, shared, node, listeners, clock, started, .. } = seat;
    let (commands, hello, welcome, store) = (seat.commands, seat.hello, seat.welcome, seat.store);
    let (logins, outcomes) = (seat.logins, seat.outcomes);
    let shard = id.get();
    let mut ring = match NetRing::new(&settings.ring) {
        Ok(ring) => ring,
        Err(error) => {
            let _ = hello.send(Err(StartError::Ring { shard, error }));
            return;
        }
    };
    // A wheel that starts before the shard's first moment never fires early.
    let now: Time = clock.now();
    let minds = Arc::clone(&settings.shard);
    let mut minds = Shard::new(id, settings.shards, minds, shared, settings.hash_seeds, now);
    let disk = match store.as_ref().map(|store| store.furnish(&mut minds, &mut ring, now)) {
        None => None,
        Some(Ok(disk)) => Some(disk),
        Some(Err(error)) => {
            let _ = hello.send(Err(StartError::Durability(error)));
            return;
        }
    };
    let letters = restored_letters(&mut minds);
    for (number, listener) in listeners.into_iter().enumerate() {
        let number = ListenerId(u16::try_from(number).unwrap_or(u16::MAX));
        if let Err(error) = ring.listen(listener, number, settings.accepts_in_flight) {
            let _ = hello.send(Err(StartError::Listen { shard, error }));
            return;
        }
    }
    let identity = Identity { shard, shards: settings.shards, started };
    let buffers = u64::from(settings.ring.receive_buffer_size)
        * u64::from(settings.ring.receive_buffer_count);
    let directory = settings.statistics.as_deref();
    let mut statistics = match Statistics::new(directory, identity, buffers, clock.now()) {
        Ok(statistics) => statistics,
        Err(error) => {
            let _ = hello.send(Err(StartError::Statistics { shard, error }));
            return;
        }
    };
    // Whoever looks as soon as all shards have said hello sees what was found, and not an empty page.
    statistics.publish(&mut minds, &ring, &node, &LayerCounters::default(), clock.now());
    if hello.send(Ok((shard, ring.handle(), ring.waker(), letters))).is_err() {
        return;
    }
    drop(hello);
    let Ok((rings, letters)) = welcome.recv() else { return };
    for (from, envelope) in letters {
        minds.handle_envelope(from, envelope, clock.now());
    }
    let hands = Hands {
        ring,
        shard: minds,
        node,
        rings,
        commands,
        logins,
        outcomes,
        clock,
        journal: Journal::new(shard, settings.log_lines_per_second_max),
        accepting: Accepting::default(),
        layers: Layers::new(settings.layers),
        bans: settings.bans,
        audit: settings.audit,
        accepts_in_flight: settings.accepts_in_flight,
        envelopes_per_turn_max: settings.envelopes_per_turn_max,
        spin: settings.spin,
        travelling: Travelling::default(),
        targets: Vec::new(),
        statistics,
        disk,
    };
    hands.run().await;
}

/// What restored sessions have to say to other shards, to be heard before anything is published.
fn restored_letters(shard: &mut Shard) -> Vec<(ShardId, Envelope)> {
    let mut targets = Vec::new();
    shard.take_waiting_targets(&mut targets);
    let mut letters = Vec::new();
    for target in targets {
        while let Some(envelope) = shard.poll_envelope(target) {
            letters.push((target, envelope));
        }
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_as_long_as_those_who_share_a_core_are_many() {
        for (shards, cores, expected) in
            [(1, 1, 100), (2, 2, 100), (1, 64, 100), (3, 2, 200), (8, 1, 800), (8, 0, 800)]
        {
            let expected = Duration::from_micros(expected);
            assert_eq!(time_slice(shards, cores), expected, "{shards} on {cores}");
        }
    }
}
