//! The hands: net rings, clock and signals around the [`Swarm`].
//!
//! One thread, one or several rings. A turn takes the completions of every ring, hands them to the swarm, lets time
//! pass, and prepares one send for each client that has something to say; the next turn's one system call per ring
//! submits them.
//!
//! # Why several rings
//! A ring's table of direct descriptors is limited by `ulimit -n`, and a process may have several rings. With more than
//! one ring there is no way to sleep on all of them at once without a descriptor each, so they are polled, with a short
//! sleep when a whole round was idle: right for holding connections, which is what needs so many. The sleep is on the
//! ring that connects at the moment, because that is where answers are waited for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use midge_netring::{Event, NetRing, Receive, RingConfig, Slot, Wait};

use crate::broker_process::{self, Usage};
use crate::progress::Progress;
use crate::scenario::{Mode, Plan, Shape};
use crate::sources::Sources;
use crate::swarm::{Mark, Phase, Swarm};
use crate::transport::{Connections, Handshakes, News};

/// The longest sleep of a turn: how late Ctrl-C and time-outs may be noticed.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// The sleep of an idle round over several rings.
const ROUND_WAIT: Duration = Duration::from_millis(1);

/// Below this a sleep would come back too late to be on time: timers have 50 µs of slack.
const SPIN_NS: u64 = 150_000;

/// Descriptors that are not connections: standard streams, the rings themselves, files of `/proc`.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Slots of one ring at most, whatever the limit: a table is allocated whole.
const SLOTS_MAX: u64 = 32_768;

/// Connections begun in one turn at most, so that handshakes under way are served in between.
const CONNECTS_PER_TURN: u32 = 64;

/// No client stands behind this slot.
const NOBODY: u32 = u32::MAX;

/// The broker's usage and our counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    pub time_ns: u64,
    pub delivered: u64,
    pub sent: u64,
    pub cycles: u64,
    pub handshakes: Handshakes,
    /// Receives and sends of all rings.
    pub receives: u64,
    pub sends: u64,
    pub usage: Option<Usage>,
    /// CPU of the generator itself, microseconds.
    pub own_cpu_us: u64,
    pub slab_bytes: u64,
}

/// What a run leaves behind for the report.
pub(crate) struct Outcome {
    pub swarm: Swarm,
    pub before: Snapshot,
    pub window_begin: Option<Snapshot>,
    pub window_end: Option<Snapshot>,
    pub interrupted: bool,
}

/// One ring and who sits in its slots.
struct Table {
    ring: NetRing,
    clients: Vec<u32>,
    taken: usize,
}

/// Where a client's connection is.
#[derive(Clone, Copy)]
struct Seat {
    table: u16,
    slot: Option<Slot>,
}

struct Engine {
    swarm: Swarm,
    tables: Vec<Table>,
    seats: Vec<Seat>,
    /// The table of the latest connect.
    connecting: usize,
    sources: Sources,
    /// What lies below MQTT; `None`: nothing.
    layers: Option<Connections>,
    remote: SocketAddr,
    epoch: Instant,
    now_ns: u64,
}

/// Runs the plan to its end.
///
/// # Errors
/// One sentence: what this machine or the command line does not allow.
pub(crate) fn run(plan: Plan, interrupt: &Arc<AtomicBool>) -> Result<Outcome, String> {
    if let Some(core) = plan.core {
        pin(core)?;
    }
    let slots = slots_per_ring(plan.client_count())?;
    let sources = Sources::new(plan.remote, plan.sources.clone(), std::process::id());
    check_ports(&plan, &sources)?;
    let rings = u64::from(plan.client_count()).div_ceil(slots);
    let tables = (0..rings)
        .map(|_| Table::new(&plan, slots.min(u64::from(plan.client_count()) + 64), rings))
        .collect::<Result<Vec<_>, String>>()?;
    let prefix = format!("f{:x}", std::process::id());
    let clients = plan.client_count() as usize;
    let engine = Engine {
        layers: plan.transport.clone().map(|transport| Connections::new(transport, clients)),
        seats: vec![Seat { table: 0, slot: None }; plan.client_count() as usize],
        tables,
        connecting: 0,
        sources,
        remote: plan.remote,
        epoch: Instant::now(),
        now_ns: 0,
        swarm: Swarm::new(plan, prefix),
    };
    engine.run(interrupt)
}

impl Engine {
    fn run(mut self, interrupt: &AtomicBool) -> Result<Outcome, String> {
        let before = self.snapshot()?;
        let mut window_begin = None;
        let mut window_end = None;
        let mut interrupted = false;
        let mut progress = Progress::new(!self.swarm.plan().json);
        while self.swarm.phase() != Phase::Finished {
            self.turn()?;
            self.now_ns = self.clock_ns();
            let mut mark = self.swarm.tick(self.now_ns);
            if interrupt.swap(false, Ordering::Relaxed) {
                interrupted = true;
                mark = self.swarm.interrupt(self.now_ns).or(mark);
            }
            match mark {
                Some(Mark::WindowBegins) => window_begin = Some(self.snapshot()?),
                Some(Mark::WindowEnds) => window_end = Some(self.snapshot()?),
                None => {}
            }
            self.begin_connects();
            self.flush();
            progress.tick(&self.swarm, self.now_ns);
        }
        progress.finish();
        Ok(Outcome { swarm: self.swarm, before, window_begin, window_end, interrupted })
    }

    fn clock_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let usage = match self.swarm.plan().broker_pid {
            None => None,
            Some(pid) => Some(
                broker_process::read(pid)
                    .map_err(|error| format!("--broker-pid {pid}: {error}"))?,
            ),
        };
        let counters = &self.swarm.counters;
        Ok(Snapshot {
            time_ns: self.clock_ns(),
            delivered: self.swarm.delivered_count(),
            sent: self.swarm.sent_count(),
            cycles: counters.cycles,
            handshakes: self.layers.as_ref().map(Connections::handshakes).unwrap_or_default(),
            receives: self.tables.iter().map(|table| table.ring.counters().receives).sum(),
            sends: self.tables.iter().map(|table| table.ring.counters().sends).sum(),
            usage,
            own_cpu_us: broker_process::read(std::process::id()).map_or(0, |usage| usage.cpu_us()),
            slab_bytes: broker_process::slab_bytes(),
        })
    }

    /// One round over all rings: submit, reap, handle.
    fn turn(&mut self) -> Result<(), String> {
        let wait = self.wait();
        let single = self.tables.len() == 1;
        let mut busy = false;
        for index in 0..self.tables.len() {
            let table = &mut self.tables[index];
            let own_wait = if single { wait } else { Wait::No };
            table.ring.turn(own_wait).map_err(|error| format!("io_uring: {error}"))?;
            busy |= self.reap(index);
        }
        if !single && !busy && !matches!(wait, Wait::No) {
            let connecting = self.connecting;
            let ring = &mut self.tables[connecting].ring;
            ring.turn(Wait::For(ROUND_WAIT)).map_err(|error| format!("io_uring: {error}"))?;
            self.reap(connecting);
        }
        Ok(())
    }

    /// How long the next turn may sleep.
    fn wait(&self) -> Wait {
        let plan = self.swarm.plan();
        let working = matches!(self.swarm.phase(), Phase::Warming(_) | Phase::Measuring(_));
        if plan.spin && working {
            return Wait::No;
        }
        let due_ns = self.swarm.next_due_ns().unwrap_or(u64::MAX);
        let sleep_ns = due_ns.saturating_sub(self.clock_ns());
        if sleep_ns < SPIN_NS {
            Wait::No
        } else {
            Wait::For(WAIT_MAX.min(Duration::from_nanos(sleep_ns)))
        }
    }

    /// Handles what one ring has; says whether there was anything.
    fn reap(&mut self, table_index: usize) -> bool {
        let mut busy = false;
        let Self { swarm, tables, seats, epoch, layers, .. } = self;
        let Table { ring, clients, taken } = &mut tables[table_index];
        let client_at = |clients: &[u32], slot: Slot| clients[slot.index() as usize];
        while let Some(event) = ring.next_event() {
            busy = true;
            match event {
                Event::Received { slot, data } => {
                    let client = client_at(clients, slot);
                    if client != NOBODY {
                        let now_ns = epoch.elapsed().as_nanos() as u64;
                        match layers {
                            None => swarm.received(client, ring.bytes(&data), now_ns),
                            Some(layers) => {
                                let news = layers.received(client, ring.bytes(&data));
                                hear(swarm, client, &news, now_ns);
                                layers.flush(client, slot, ring);
                            }
                        }
                    }
                    ring.recycle(data);
                }
                Event::Sent { slot, output } => {
                    let client = client_at(clients, slot);
                    if client != NOBODY {
                        let output = match layers {
                            None => Some(output),
                            Some(layers) => layers.sent(client, slot, output, ring),
                        };
                        if let Some(output) = output {
                            swarm.sent(client, output, epoch.elapsed().as_nanos() as u64);
                        }
                    }
                }
                Event::Connected { slot } => {
                    ring.receive(slot, Receive::Continuous);
                    let client = client_at(clients, slot);
                    match layers {
                        None => swarm.connected(client),
                        Some(layers) => {
                            if let Err(failure) = layers.begin(client, slot, ring) {
                                swarm.broken(client, failure);
                            }
                        }
                    }
                }
                Event::ConnectFailed { slot, errno } => {
                    swarm.connect_failed(client_at(clients, slot), errno);
                }
                Event::PeerClosed { slot } => swarm.lost(client_at(clients, slot), None),
                Event::Failed { slot, errno } => {
                    swarm.lost(client_at(clients, slot), Some(errno));
                }
                Event::Closed { slot } => {
                    let client = std::mem::replace(&mut clients[slot.index() as usize], NOBODY);
                    *taken -= 1;
                    seats[client as usize].slot = None;
                    if let Some(layers) = layers {
                        layers.forget(client);
                    }
                    swarm.closed(client);
                }
                // This side neither listens nor hands over.
                _ => {}
            }
        }
        busy
    }

    fn begin_connects(&mut self) {
        for _ in 0..CONNECTS_PER_TURN {
            let Some(client) = self.swarm.next_connect(self.now_ns) else { break };
            let source = self.sources.source(self.swarm.connections_started() - 1);
            let free = |table: &Table| table.taken < table.clients.len();
            let Some(index) = self.tables.iter().position(free) else {
                self.swarm.give_up(format!(
                    "out of descriptors: {} connections hold all slots of {} rings; raise `ulimit -n`",
                    self.swarm.live(),
                    self.tables.len()
                ));
                break;
            };
            self.connecting = index;
            let table = &mut self.tables[index];
            match table.ring.connect(self.remote, source) {
                Ok(slot) => {
                    table.taken += 1;
                    table.clients[slot.index() as usize] = client;
                    self.seats[client as usize] = Seat { table: index as u16, slot: Some(slot) };
                }
                Err(error) => self.cannot_connect(&error),
            }
        }
    }

    fn cannot_connect(&mut self, error: &io::Error) {
        let (reached, needed) = (self.swarm.live(), self.seats.len());
        self.swarm.give_up(format!("{error}: {reached} of {needed} clients connected"));
    }

    /// Prepares what the clients want: sends and closes.
    fn flush(&mut self) {
        while let Some(client) = self.swarm.next_dirty() {
            if let Some(output) = self.swarm.take_output(client, self.now_ns) {
                let seat = self.seats[client as usize];
                if let Some(slot) = seat.slot {
                    let ring = &mut self.tables[usize::from(seat.table)].ring;
                    match &mut self.layers {
                        None => ring.send(slot, output),
                        Some(layers) => {
                            if let Err(failure) = layers.send(client, slot, output, ring) {
                                self.swarm.broken(client, failure);
                            }
                        }
                    }
                }
            }
        }
        while let Some(client) = self.swarm.next_closing() {
            let seat = self.seats[client as usize];
            if let Some(slot) = seat.slot {
                let table = &mut self.tables[usize::from(seat.table)];
                table.ring.close(slot);
            }
        }
    }
}

/// What came through the layers of a connection.
fn hear(swarm: &mut Swarm, client: u32, news: &News<'_>, now_ns: u64) {
    if news.is_up {
        swarm.connected(client);
    }
    if !news.plain.is_empty() {
        swarm.received(client, news.plain, now_ns);
    }
    match news.end {
        None => {}
        Some(None) => swarm.lost(client, None),
        Some(Some(failure)) => swarm.broken(client, failure),
    }
}

impl Table {
    fn new(plan: &Plan, slots: u64, rings: u64) -> Result<Self, String> {
        // What one receive can bring: a window of small messages, or, with one subscriber for many publishers, as much
        // as there is. Few buffers are better than many, because they stay in the cache.
        let gathers = |shape, publishers| match shape {
            Shape::Shared => true,
            Shape::All => publishers > 1,
            Shape::Idle | Shape::Pairs => false,
        };
        let gathering = plan.groups.iter().any(|group| gathers(group.shape, group.publishers));
        let (receive_buffer_size, receive_buffer_count) = match plan.mode {
            _ if rings > 1 => (2048, 512),
            Mode::Flow | Mode::Retained if gathering => (65_536, 64),
            Mode::Flow | Mode::Retained => (4096, 1024),
            Mode::Connect | Mode::Cycle | Mode::Storm { .. } => (2048, 1024),
        };
        let config = RingConfig {
            entries: 4096,
            completion_entries: 16_384,
            slots: slots as u32,
            receive_buffer_size,
            receive_buffer_count,
        };
        let ring = NetRing::new(&config).map_err(|error| format!("io_uring: {error}"))?;
        Ok(Self { ring, clients: vec![NOBODY; slots as usize], taken: 0 })
    }
}

/// Keeps this thread on one core.
fn pin(core: usize) -> Result<(), String> {
    let mut cores = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(format!("--pin {core}: there is no such core"));
    }
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores)
        .map_err(|error| format!("--pin {core}: {error}"))
}

/// Raises the soft limit to the hard one and says how many connections one ring may hold.
fn slots_per_ring(needed: u32) -> Result<u64, String> {
    let descriptors =
        midge_netring::raise_descriptor_limit().map_err(|error| format!("`ulimit -n`: {error}"))?;
    if descriptors <= 2 * DESCRIPTORS_RESERVED {
        return Err(format!(
            "`ulimit -n` is {descriptors}: too few descriptors for {needed} connections; at least {} are needed",
            2 * DESCRIPTORS_RESERVED + 1
        ));
    }
    Ok((descriptors - DESCRIPTORS_RESERVED).min(SLOTS_MAX))
}

fn check_ports(plan: &Plan, sources: &Sources) -> Result<(), String> {
    let needed = u64::from(plan.client_count());
    match sources.capacity() {
        Some(capacity) if capacity < needed => Err(format!(
            "out of ports: {needed} connections to {} need {} source addresses ({} each); give them with --source A,B,…",
            plan.remote,
            needed.div_ceil(u64::from(sources.connections_per_source())),
            sources.connections_per_source()
        )),
        _ => Ok(()),
    }
}
