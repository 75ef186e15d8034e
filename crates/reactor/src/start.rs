//! Threads, the exchange of ring handles, stop and join.

use std::fmt;
use std::net::TcpListener;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use midge_mesh::{InterestMap, Node, ShardId, ShardSet};
use midge_metrics::Identity;
use midge_netring::{ListenerId, NetRing, RingConfig, RingHandle, TIME_SLICE_MIN, Waker};
use midge_session::{Publication, Time};
use midge_shard::survey::{Answer, Question};
use midge_shard::{AuditNote, Ban, Bans, Envelope, RetainedCounts, Security, Shard, Shared};

use crate::accepting::Accepting;
use crate::asker::Asker;
use crate::clock::Clock;
use crate::crew::{Crew, run_alone};
use crate::damage::DamageReport;
use crate::durable::{Durability, DurabilityError, Store};
use crate::hands::{Hands, Phase, Travelling};
use crate::journal::Journal;
use crate::layers::{LayerCounters, Layers};
use crate::logins::{self, Doorman, Logins, Outcome};
use crate::statistics::Statistics;

/// Commands that may wait for one shard. A shard takes them once per turn; whoever sends more waits.
pub(crate) const COMMANDS_MAX: usize = 64;

/// What glommio registers for its own disk operations, in bytes. Its default of 10 MiB per executor is made for programs
/// that live on disk I/O; nothing is read or written with it, and sixty-four executors must fit into the 8 MiB
/// that an unprivileged process may lock.
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
    /// The core of each shard, by shard; those of one core share a thread. Empty: none is pinned, and as many threads as the
    /// process has cores share the shards out.
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

/// What is said for a shard once its ring is there and its log is read.
type Hello = Result<(u16, RingHandle, Waker, Vec<(ShardId, Envelope)>), StartError>;

/// What a shard hears before it serves: all rings, and what other shards' restored sessions have to say to it.
type Welcome = (Arc<[RingHandle]>, Vec<(ShardId, Envelope)>);

/// What one shard starts with.
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
    /// Who shares its thread.
    mates: ShardSet,
}

/// The shards of one thread.
#[derive(Debug, PartialEq, Eq)]
struct Bench {
    /// Where it stays; `None`: where the scheduler wants it.
    core: Option<usize>,
    /// Ascending; at least one.
    shards: Vec<u16>,
}

/// Who shares a thread with whom: one thread for each of `cores` that is named, else as many as the process has cores to run
/// them on.
fn benches(shards: u16, cores: &[usize], parallelism: usize) -> Vec<Bench> {
    let mut benches: Vec<Bench> = Vec::new();
    for shard in 0..shards {
        let core = cores.get(usize::from(shard)).copied();
        let place = match core {
            Some(_) => benches.iter().position(|bench| bench.core == core),
            None => Some(usize::from(shard) % parallelism.max(1)),
        };
        match place.and_then(|place| benches.get_mut(place)) {
            Some(bench) => bench.shards.push(shard),
            None => benches.push(Bench { core, shards: vec![shard] }),
        }
    }
    benches
}

impl Bench {
    /// Threads have names of 15 bytes.
    fn thread_name(&self) -> String {
        match self.shards.as_slice() {
            [shard] => format!("shard-{shard}"),
            shards => format!("shards-{}+{}", shards[0], shards.len() - 1),
        }
    }
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
    let parallelism = std::thread::available_parallelism().map_or(1, NonZero::get);
    let benches = benches(shards, &settings.cores, parallelism);
    let (hello, hellos) = bounded::<Hello>(usize::from(shards));
    let mut threads = Vec::with_capacity(benches.len());
    let mut seats = Vec::with_capacity(usize::from(shards));
    let mut answers = Vec::with_capacity(usize::from(shards));
    let (logins, login_line) = logins::logins();
    let mut outcome_senders = Vec::with_capacity(usize::from(shards));
    let mut command_senders = Vec::with_capacity(usize::from(shards));
    for (node, listeners) in nodes.into_iter().zip(listeners) {
        let id = node.id();
        let (commands, command_receiver) = bounded(COMMANDS_MAX);
        let (outcomes, outcome_receiver) = logins::outcomes();
        let (answer, welcome) = bounded(1);
        seats.push(Some(Seat {
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
            mates: ShardSet::new(),
        }));
        answers.push(answer);
        command_senders.push(commands);
        outcome_senders.push(outcomes);
    }
    for bench in benches {
        let shard = bench.shards[0];
        let placement = match bench.core {
            Some(core) => Placement::Fixed(core),
            None => Placement::Unbound,
        };
        let mut mates = ShardSet::new();
        for shard in &bench.shards {
            mates.insert(ShardId::new(*shard));
        }
        let taken = bench.shards.iter().filter_map(|shard| seats[usize::from(*shard)].take());
        let taken: Vec<Seat> = taken.map(|seat| Seat { mates: mates.clone(), ..seat }).collect();
        let thread = LocalExecutorBuilder::new(placement)
            .name(&bench.thread_name())
            .io_memory(EXECUTOR_IO_MEMORY)
            .ring_depth(EXECUTOR_RING_DEPTH)
            .spawn(move || take_seats(taken))
            .map_err(|error| StartError::Executor { shard, reason: error.to_string() })?;
        threads.push(thread);
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

/// A thread of shards, from their rings to their end.
async fn take_seats(seats: Vec<Seat>) {
    // A wish: a sandbox may forbid it, and the thread runs as everybody does then.
    _ = midge_netring::set_time_slice(TIME_SLICE_MIN);
    let Some(Seat { clock, settings, .. }) = seats.first() else { return };
    let (clock, spin) = (*clock, settings.spin);
    let Some(rings) = make_rings(&seats) else { return };
    let mut seated = Vec::with_capacity(seats.len());
    for (seat, ring) in seats.into_iter().zip(rings) {
        let Some(hands) = sit_down(seat, ring) else { return };
        seated.push(hands);
    }
    // Every shard of this thread has said hello: nobody waits for anybody here.
    let mut crew = Vec::with_capacity(seated.len());
    for Seated { mut hands, welcome } in seated {
        let Ok((rings, letters)) = welcome.recv() else { return };
        hands.rings = rings;
        for (from, envelope) in letters {
            hands.shard.handle_envelope(from, envelope, clock.now());
        }
        hands.shard.set_mates(hands.mates.clone());
        crew.push(hands);
    }
    match <[Hands; 1]>::try_from(crew) {
        Ok([alone]) => run_alone(alone, spin).await,
        Err(crew) => Crew::new(crew, clock).run(spin).await,
    }
}

/// One ring for each seat; the first leads the others. `None`: the start is given up.
fn make_rings(seats: &[Seat]) -> Option<Vec<NetRing>> {
    let mut rings = Vec::with_capacity(seats.len());
    let fail = |seat: &Seat, error| {
        let _ = seat.hello.send(Err(StartError::Ring { shard: seat.id.get(), error }));
    };
    for seat in seats {
        match NetRing::new(&seat.settings.ring) {
            Ok(ring) => rings.push(ring),
            Err(error) => {
                fail(seat, error);
                return None;
            }
        }
    }
    if let [leader, others @ ..] = rings.as_mut_slice()
        && !others.is_empty()
        && let Err(error) = leader.lead(others.iter_mut())
    {
        fail(&seats[0], error);
        return None;
    }
    Some(rings)
}

/// A shard that has said hello.
struct Seated {
    /// Without the rings of the others.
    hands: Hands,
    welcome: Receiver<Welcome>,
}

/// Furnishes a shard and says hello for it. `None`: the start is given up.
fn sit_down(seat: Seat, mut ring: NetRing) -> Option<Seated> {
    let Seat { id, mates, settings, shared, node, listeners, clock, started, .. } = seat;
    let (commands, hello, welcome, store) = (seat.commands, seat.hello, seat.welcome, seat.store);
    let (logins, outcomes) = (seat.logins, seat.outcomes);
    let shard = id.get();
    // A wheel that starts before the shard's first moment never fires early.
    let now: Time = clock.now();
    let minds = Arc::clone(&settings.shard);
    let mut minds = Shard::new(id, settings.shards, minds, shared, settings.hash_seeds, now);
    let disk = match store.as_ref().map(|store| store.furnish(&mut minds, &mut ring, now)) {
        None => None,
        Some(Ok(disk)) => Some(disk),
        Some(Err(error)) => {
            let _ = hello.send(Err(StartError::Durability(error)));
            return None;
        }
    };
    let letters = restored_letters(&mut minds);
    for (number, listener) in listeners.into_iter().enumerate() {
        let number = ListenerId(u16::try_from(number).unwrap_or(u16::MAX));
        if let Err(error) = ring.listen(listener, number, settings.accepts_in_flight) {
            let _ = hello.send(Err(StartError::Listen { shard, error }));
            return None;
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
            return None;
        }
    };
    // Whoever looks as soon as all shards have said hello sees what was found, and not an empty page.
    statistics.publish(&mut minds, &ring, &node, &LayerCounters::default(), clock.now());
    if hello.send(Ok((shard, ring.handle(), ring.waker(), letters))).is_err() {
        return None;
    }
    let hands = Hands {
        ring,
        shard: minds,
        node,
        rings: Arc::default(),
        commands,
        logins,
        outcomes,
        is_called: true,
        clock,
        journal: Journal::new(shard, settings.log_lines_per_second_max),
        accepting: Accepting::default(),
        layers: Layers::new(settings.layers),
        bans: settings.bans,
        audit: settings.audit,
        accepts_in_flight: settings.accepts_in_flight,
        envelopes_per_turn_max: settings.envelopes_per_turn_max,
        travelling: Travelling::default(),
        targets: Vec::new(),
        waiting_mates: Vec::new(),
        statistics,
        disk,
        _store: store,
        phase: Phase::Serving,
        trimmed_at: now,
        mates,
    };
    Some(Seated { hands, welcome })
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
    fn a_core_has_one_thread() {
        let spread = |shards, cores: &[usize], parallelism| -> Vec<(Option<usize>, Vec<u16>)> {
            let benches = benches(shards, cores, parallelism).into_iter();
            benches.map(|bench| (bench.core, bench.shards)).collect()
        };
        assert_eq!(spread(1, &[], 4), [(None, vec![0])]);
        assert_eq!(spread(3, &[], 4), [(None, vec![0]), (None, vec![1]), (None, vec![2])]);
        assert_eq!(spread(3, &[], 2), [(None, vec![0, 2]), (None, vec![1])]);
        assert_eq!(spread(3, &[], 0), [(None, vec![0, 1, 2])]);
        assert_eq!(spread(2, &[7, 5], 1), [(Some(7), vec![0]), (Some(5), vec![1])]);
        assert_eq!(spread(4, &[7, 5, 7, 5], 8), [(Some(7), vec![0, 2]), (Some(5), vec![1, 3])]);
    }

    #[test]
    fn threads_say_who_runs_on_them() {
        let name = |shards| Bench { core: None, shards }.thread_name();
        assert_eq!(name(vec![3]), "shard-3");
        assert_eq!(name(vec![0, 4]), "shards-0+1");
        assert_eq!(name((0..1024).collect()), "shards-0+1023");
    }
}
