//! One run: the broker, its network and its clients from one seed, from the first event to the last check.
//!
//! # Phases
//! 1. *Busy*: clients do what they like, everything goes wrong that may.
//! 2. *Settling*: no new publications, no new faults; clients come back and finish. It must come to rest in bounded time,
//!    and then every promise about the end must hold.
//! 3. *Leaving*: sessions end, time passes. Then nothing may be left: no connection, session, subscription,
//!    timer, interest bit, waiting acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use midge_mesh::{InterestMap, Node, ShardId, ShardSet};
use midge_metrics::Counters;
use midge_session::{Limits, QueueLimits, Time};
use midge_shard::{Envelope, OutboxLimits, RetainedCounts, Settings, Shard, Shared};
use midge_store::Level;
use midge_topic::TopicLimits;

use midge_codec::QoS;

use crate::client::{Client, Kind};
use crate::coverage::{Coverage, Situation};
use crate::disk::{Crash, Disk};
use crate::host::{Host, Others, Phase};
use crate::knobs::Knobs;
use crate::misbehave::BadClient;
use crate::net::{End, Event, MS, NEVER, Net, PipeId, Place, SECOND, START};
use crate::oracle::{Oracle, PubId, SLACK};
use crate::panics;
use crate::trace::Trace;

/// Events between a run's begin and the assumption that it never ends.
const EVENTS_MAX: u64 = 5_000_000;

/// Virtual time in which a run must settle.
const SETTLE_MAX: u64 = 400 * SECOND;

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The scenario's name.
    pub scenario: String,
    /// Clients that are left out (for shrinking).
    pub without: Vec<usize>,
    /// The busy phase ends at this millisecond, if earlier than the knobs say (for shrinking).
    pub busy_ms_max: u64,
    /// Turns between two integrity checks of a shard.
    pub check_every: u64,
    /// Print every line of the trace.
    pub echo: bool,
    /// How many of the last lines of the trace to keep.
    pub kept_max: usize,
}

impl Plan {
    /// A seed of a scenario, whole.
    #[must_use]
    pub fn new(scenario: &str, seed: u64) -> Self {
        Self {
            seed,
            scenario: scenario.to_owned(),
            without: Vec::new(),
            busy_ms_max: u64::MAX,
            check_every: 1,
            echo: false,
            kept_max: 60,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The first broken promise.
    pub violation: Option<String>,
    /// Lines of the trace.
    pub steps: u64,
    /// The hash over all of them.
    pub hash: u64,
    /// Messages that clients sent and received.
    pub messages: u64,
    /// Virtual time that passed, in seconds.
    pub seconds: u64,
    /// Situations met.
    pub coverage: Coverage,
    /// The last lines.
    pub last: Vec<String>,
    /// How many clients there were, the misbehaving included.
    pub clients: usize,
    /// When the busy phase ended, in milliseconds.
    pub busy_ms: u64,
}

/// The whole world.
pub struct World {
    net: Net,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    bad: Vec<BadClient>,
    oracle: Oracle,
    interest: Option<Arc<InterestMap>>,
    events: u64,
    plan: Plan,
    /// What was counted before the last crash.
    past: Counters,
}

/// Runs a plan, and turns a panic of the broker into a broken promise.
///
/// # Panics
/// When there is no such scenario.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let knobs = Knobs::new(&plan.scenario, plan.seed).expect("the scenario exists");
    let mut world = World::new(plan, knobs);
    panics::quiet();
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live())).is_err() {
        world.net.fail(format!("the broker panicked: {}", panics::last()));
    }
    world.outcome()
}

fn settings(knobs: &Knobs, seed: u64) -> Settings {
    Settings {
        limits: Limits {
            maximum_packet_size: 64 * 1024,
            receive_maximum: knobs.receive_maximum,
            topic_alias_maximum: knobs.topic_alias_maximum,
            topic_alias_maximum_outbound: knobs.topic_alias_maximum,
            keep_alive_seconds_max: knobs.keep_alive_seconds_max,
            in_flight_max: knobs.in_flight_max,
            ..Limits::default()
        },
        topic_limits: TopicLimits::DEFAULT,
        queue: QueueLimits {
            messages_max: knobs.queue_messages_max,
            bytes_max: knobs.queue_bytes_max,
        },
        queued_memory_max: knobs.disk.map_or(usize::MAX, |disk| disk.queued_memory_max),
        queue_qos0: knobs.queue_qos0,
        output_bytes_max: knobs.output_bytes_max,
        subscriptions_per_client_max: knobs.subscriptions_max,
        connect_timeout_ms: 3_000,
        connections_max: knobs.connections_max,
        sessions_max: knobs.sessions_max,
        retained_messages_max: knobs.retained_max.min(Settings::default().retained_messages_max),
        share_backlog_messages_max: knobs.backlog_max,
        outbox: OutboxLimits {
            bytes_max: knobs.outbox_bytes_max,
            envelopes_max: knobs.outbox_envelopes_max,
        },
        client_id_seed: seed,
        ..Settings::default()
    }
}

impl World {
    fn new(plan: &Plan, knobs: Knobs) -> Self {
        let seed = plan.seed;
        let mut trace = Trace::new(plan.kept_max);
        trace.echo = plan.echo;
        let mut net = Net::new(seed, knobs.clone(), trace);
        net.trace.line(START, format_args!("{knobs:?}"));
        let mut clients = Vec::new();
        for index in 0..=knobs.clients {
            let kind = match index {
                0 => Kind::Watcher,
                _ if index <= knobs.sharers => Kind::Sharer,
                _ => Kind::Plain,
            };
            let mut client = Client::new(seed, index, kind, knobs.act_us);
            client.left = plan.without.contains(&index);
            if kind == Kind::Sharer && knobs.disk.is_some_and(|disk| disk.lasting_members) {
                client.last();
            }
            clients.push(client);
        }
        let first_bad = clients.len();
        let bad = (first_bad..first_bad + knobs.bad)
            .map(|index| {
                let mut bad = BadClient::new(seed, index);
                bad.calm = plan.without.contains(&index);
                bad
            })
            .collect();
        net.knobs.busy_ms = knobs.busy_ms.min(plan.busy_ms_max);
        let mut world = Self {
            net,
            hosts: Vec::new(),
            clients,
            bad,
            oracle: Oracle::default(),
            interest: None,
            events: 0,
            plan: plan.clone(),
            past: Counters::default(),
        };
        let disks = (0..knobs.shards)
            .map(|at| knobs.disk.map(|disk| Disk::new(seed, ShardId::new(at), disk)));
        world.start(disks.collect());
        world
    }

    /// Starts the broker on its disks.
    fn start(&mut self, disks: Vec<Option<Disk>>) {
        let (seed, now) = (self.plan.seed, Time::from_nanos(self.net.now));
        let knobs = &self.net.knobs;
        let (shards, crew) = (knobs.shards, knobs.crew);
        let settings = Arc::new(settings(knobs, seed));
        self.interest = (shards > 1).then(|| Arc::new(InterestMap::new(shards, 256)));
        let shared = Shared {
            interest: self.interest.clone(),
            retained_counts: Arc::new(RetainedCounts::new(shards)),
        };
        let nodes: Vec<Node<Envelope>> = midge_mesh::build(shards, knobs.ring_capacity);
        let mut hosts = Vec::new();
        for ((at, node), disk) in nodes.into_iter().enumerate().zip(disks) {
            let id = ShardId::new(at as u16);
            let seeds = [seed, at as u64, 3, 4];
            let mut shard =
                Shard::new(id, shards, Arc::clone(&settings), shared.clone(), seeds, now);
            let mut disk = disk;
            if let Some(disk) = &mut disk
                && let Err(error) = disk.open(&mut shard, now)
            {
                self.net.fail(format!("shard {at} does not read its log: {error}"));
            }
            let mut host = Host::new(shard, node);
            host.check_every = self.plan.check_every;
            host.disk = disk;
            if crew {
                host.join((0..shards).map(ShardId::new).filter(|mate| *mate != id).collect());
            }
            hosts.push(host);
        }
        self.hosts = hosts;
        for shard in 0..shards {
            self.net.wake(shard);
        }
    }

    /// Everything stops at once, and begins again from the disks.
    fn crash(&mut self) {
        let Some(knobs) = self.net.knobs.disk else { return };
        if knobs.level == Level::Written && self.hosts.iter().any(|host| host.shard.is_rewriting())
        {
            // A kill that follows on a failed sync before all is written again takes what it had taken (`docs/durability.md`).
            let again = self.net.now + 20 * MS;
            return self.net.at(again, Event::Crash);
        }
        let power = knobs.level == Level::Fsync && self.net.prng.permille(500);
        let crash = if power { Crash::PowerCut } else { Crash::Kill };
        self.net.hit(if power { Situation::PowerCut } else { Situation::Killed });
        self.net.trace.line(self.net.now, format_args!("--- crash: {crash:?}"));
        self.past = self.counters();
        (self.past.connections_now, self.past.sessions_now) = (0, 0);
        (self.past.subscriptions_now, self.past.retained_now) = (0, 0);
        self.past.retained_bytes_now = 0;
        self.oracle.crash(&self.net, &self.clients);
        self.net.crash();
        if power {
            self.net.power_cuts.push(self.net.now);
        }
        for client in &mut self.clients {
            client.lose_broker(&mut self.net, &mut self.oracle);
        }
        let hosts = std::mem::take(&mut self.hosts);
        let disks = hosts.into_iter().map(|mut host| {
            if let Some(disk) = &mut host.disk {
                disk.crash(crash);
            }
            host.disk
        });
        let disks = disks.collect();
        self.start(disks);
    }

    fn outcome(self) -> Outcome {
        let sent: u64 = self.oracle.pubs.iter().map(|one| u64::from(one.sends)).sum();
        Outcome {
            violation: self.net.violation.clone(),
            steps: self.net.trace.steps(),
            hash: self.net.trace.hash(),
            messages: sent + self.oracle.received,
            seconds: (self.net.now - START) / SECOND,
            coverage: self.net.coverage.clone(),
            last: self.net.trace.last().map(str::to_owned).collect(),
            clients: self.clients.len() + self.bad.len(),
            busy_ms: self.net.knobs.busy_ms,
        }
    }

    fn live(&mut self) {
        self.begin();
        if self.net.violation.is_none() {
            self.be_busy();
        }
        if self.net.violation.is_none() {
            if self.net.knobs.shutdown { self.shut_down() } else { self.settle() }
        }
        self.count_situations();
    }

    // Events.

    fn step(&mut self, until: u64) -> bool {
        let Some(event) = self.net.next(until) else {
            self.net.now = self.net.now.max(until);
            return false;
        };
        self.events += 1;
        match event {
            Event::Turn(u16::MAX) => {}
            Event::Turn(shard) => {
                let (before, rest) = self.hosts.split_at_mut(usize::from(shard));
                let [host, after @ ..] = rest else { unreachable!("only shards have turns") };
                host.turn(&mut self.net, Others { before, after });
            }
            Event::Up(pipe) => self.net.arrive_up(pipe),
            Event::Down(pipe) => {
                let client = self.net.pipes[pipe].client;
                self.net.arrive_down(pipe);
                if let Some(one) = self.clients.get_mut(client) {
                    one.arrive(&mut self.net, &mut self.oracle, pipe);
                } else if let Some(one) = self.bad.iter_mut().find(|bad| bad.index == client) {
                    one.arrive(&mut self.net, pipe);
                }
            }
            Event::Syn(pipe) => {
                if !self.net.listening {
                    self.net.close_server(pipe);
                } else if let Some((shard, slot)) = self.net.accept(pipe) {
                    self.hosts[usize::from(shard)].accept(slot, pipe);
                    self.net.wake(shard);
                } else {
                    let again = self.net.now + 50 * MS;
                    self.net.at(again, Event::Syn(pipe));
                }
            }
            Event::Act(client) => {
                if let Some(one) = self.clients.get_mut(client) {
                    one.act(&mut self.net, &mut self.oracle);
                } else if let Some(one) = self.bad.iter_mut().find(|bad| bad.index == client) {
                    one.act(&mut self.net);
                }
            }
            Event::Crash if self.net.settling => {}
            Event::Crash => self.crash(),
            Event::Jump if self.net.settling || !self.net.listening => {}
            Event::Jump => {
                let far = self.net.prng.pick(&[500 * MS, 5 * SECOND, 40 * SECOND]);
                self.net.jumps.push((self.net.now, self.net.now + far));
                self.net.now += far;
                self.net.hit(Situation::ClockJump);
                let now = self.net.now;
                self.net.trace.line(now, format_args!("the clock jumps by {} ms", far / MS));
            }
        }
        if self.events > EVENTS_MAX {
            self.net.fail(format!("the run does not end: {EVENTS_MAX} events"));
        }
        self.net.violation.is_none()
    }

    fn run_for(&mut self, nanoseconds: u64) {
        let until = self.net.now + nanoseconds;
        while self.net.now < until && self.step(until) {}
    }

    // Phases.

    /// The watcher first: it must not miss a will.
    fn begin(&mut self) {
        self.net.settling = true;
        for shard in 0..self.hosts.len() as u16 {
            self.net.wake(shard);
        }
        self.clients[0].act(&mut self.net, &mut self.oracle);
        for _ in 0..200 {
            self.run_for(100 * MS);
            if self.clients[0].connected_since().is_some() {
                break;
            }
        }
        let is_ready = |watcher: &Client| {
            let mut stand = watcher.subscriptions.iter();
            let subscribed = stand.any(|one| one.active.is_some() && one.ending.is_none());
            subscribed && watcher.connected_since().is_some()
        };
        for _ in 0..200 {
            let Self { net, clients, oracle, .. } = self;
            let watcher = &mut clients[0];
            if is_ready(watcher) {
                break;
            }
            // Again where a disk failed in that moment.
            if watcher.connected_since().is_some() && watcher.requests.is_empty() {
                watcher.subscribe_to(net, oracle, "w/#", QoS::ExactlyOnce);
            }
            self.run_for(100 * MS);
        }
        if !is_ready(&self.clients[0]) {
            self.net.fail("the watcher could not subscribe".to_owned());
        }
        self.net.settling = false;
    }

    fn be_busy(&mut self) {
        let busy = self.net.knobs.busy_ms * MS;
        for index in 1..self.clients.len() + self.bad.len() {
            let at = self.net.now + self.net.prng.between(0, SECOND);
            self.net.at(at, Event::Act(index));
        }
        for _ in 0..self.net.knobs.jumps {
            let at = self.net.now + self.net.prng.below(busy);
            self.net.at(at, Event::Jump);
        }
        for _ in 0..self.net.knobs.disk.map_or(0, |disk| disk.crashes) {
            let at = self.net.now + self.net.prng.below(busy);
            self.net.at(at, Event::Crash);
        }
        self.run_for(busy);
    }

    /// Finishes, waits for rest, checks; then leaves, and checks that nothing is left.
    fn settle(&mut self) {
        self.net.trace.line(self.net.now, format_args!("--- settling"));
        self.net.settling = true;
        for client in &mut self.clients {
            client.calm = true;
            if let Some(link) = &client.link {
                self.net.pipes[link.pipe].reading = true;
                self.net.at(self.net.now, Event::Down(link.pipe));
            }
        }
        for bad in &mut self.bad {
            bad.calm_down(&mut self.net);
        }
        for disk in self.hosts.iter_mut().filter_map(|host| host.disk.as_mut()) {
            disk.heal();
        }
        // Time for what a clock jump has made due.
        self.run_for(10 * SECOND);
        self.check_half_open();
        self.rest();
        if self.net.violation.is_some() {
            return;
        }
        self.check_pipes();
        self.check_rest();
        let counters = self.counters();
        let checked = self.oracle.check_settled(&self.net, &self.clients, &counters);
        if let Err(broken) = checked {
            return self.net.fail(broken);
        }
        self.check_retained(&counters);
        if self.net.violation.is_none() {
            self.leave();
        }
    }

    /// Runs until nothing is under way.
    fn rest(&mut self) {
        let begun = self.net.now;
        let mut calm_since = None;
        let mut received = 0;
        loop {
            self.run_for(250 * MS);
            if self.net.violation.is_some() {
                return;
            }
            let restless = self
                .clients
                .iter()
                .filter(|client| !client.left)
                .filter(|client| !(self.net.knobs.tight && client.connected_since().is_none()))
                .find_map(|client| Some((client.id.clone(), client.unfinished(self.net.now)?)));
            let open = self.bad.iter().flat_map(|bad| &bad.must_close);
            let open = open.copied().find(|pipe| self.net.pipes[*pipe].server_end.is_none());
            match (&restless, open) {
                (None, None) if self.oracle.received == received => {
                    let since = *calm_since.get_or_insert(self.net.now);
                    if self.net.now - since > 6 * SECOND {
                        return;
                    }
                }
                _ => {
                    calm_since = None;
                    received = self.oracle.received;
                    if self.net.now - begun > SETTLE_MAX {
                        let what = match (restless, open) {
                            (Some((client, what)), _) => format!("{client}: {what}"),
                            (None, None) => "messages without end".to_owned(),
                            (None, pipe) => format!("pipe {pipe:?} of a bad client is not closed"),
                        };
                        return self.net.fail(format!("it does not come to rest: {what}"));
                    }
                }
            }
        }
    }

    /// When everybody is there and has what is theirs, no shard holds a message back.
    fn check_rest(&self) {
        let misbehaved = !self.bad.is_empty();
        let there = |client: &Client| client.left || client.connected_since().is_some();
        if !misbehaved && self.clients.iter().all(there) {
            self.hosts.iter().for_each(|host| host.shard.check_rest());
        }
    }

    /// [MQTT-3.1.2-22]: the silent ones were closed.
    fn check_half_open(&mut self) {
        for at in 0..self.net.pipes.len() {
            let pipe = &self.net.pipes[at];
            if !pipe.black_hole || pipe.client == usize::MAX {
                continue;
            }
            let gone = pipe.client_end.unwrap_or(0);
            // Longer than one and a half Keep Alives since the last packet; a new client may have taken it over before.
            let due = pipe.keep_alive.saturating_mul(3) / 2;
            let late = pipe.packet_at.max(gone).saturating_add(due).saturating_add(2 * SLACK);
            if pipe.keep_alive != NEVER
                && pipe.keep_alive != 0
                && pipe.server_end.is_none()
                && late < self.net.now
                && !matches!(pipe.place, Place::Backlog)
            {
                return self.net.fail(format!(
                    "[MQTT-3.1.2-22] pipe {at} is silent since {} ms and was not closed",
                    gone / MS
                ));
            }
            self.net.clear_black_hole(at);
        }
    }

    /// Every connection that nobody uses is closed.
    fn check_pipes(&mut self) {
        for at in 0..self.net.pipes.len() {
            let pipe = &self.net.pipes[at];
            let used = self
                .clients
                .get(pipe.client)
                .and_then(|client| client.link.as_ref())
                .is_some_and(|link| link.pipe == at);
            let open = matches!(pipe.place, Place::At(..));
            // Refused clients come again and again.
            if open && !used && pipe.client != usize::MAX && !self.net.knobs.tight {
                return self.net.fail(format!("pipe {at} is still open"));
            }
        }
    }

    /// A new client subscribes to everything and gets what is retained.
    fn check_retained(&mut self, counters: &Counters) {
        let index = self.clients.len() + self.bad.len();
        let mut auditor = Client::new(self.net.knobs.busy_ms, index, Kind::Watcher, 1000);
        auditor.id = "auditor".to_owned();
        auditor.calm = true;
        auditor.audit();
        let at = self.net.now;
        let kept = self.audit(&mut auditor);
        if self.net.violation.is_some() {
            return;
        }
        let tight = self.net.knobs.tight;
        let refused = tight || counters.dropped_queue_full > 0;
        if let Err(broken) =
            self.oracle.check_retained(&kept, at, refused, self.net.knobs.may_refuse())
        {
            self.net.fail(broken);
        }
    }

    fn audit(&mut self, auditor: &mut Client) -> BTreeMap<String, PubId> {
        // It acts outside the list of clients: its packets are written and read here.
        auditor.act(&mut self.net, &mut self.oracle);
        let mut subscribed = false;
        for _ in 0..400 {
            let until = self.net.now + 50 * MS;
            while self.net.now < until && self.step(until) {}
            if let Some(link) = &auditor.link {
                let pipe = link.pipe;
                self.net.arrive_down(pipe);
                auditor.arrive(&mut self.net, &mut self.oracle, pipe);
            }
            if auditor.connected_since().is_some() && !subscribed {
                subscribed = true;
                auditor.subscribe_to(&mut self.net, &mut self.oracle, "r/#", QoS::AtLeastOnce);
            }
        }
        let refused = self.net.knobs.tight && auditor.connected_since().is_none();
        if !subscribed && !refused {
            self.net.fail("the auditor could not subscribe".to_owned());
        }
        let kept = auditor
            .receipts
            .iter()
            .filter(|(_, receipt)| receipt.retained > 0)
            .map(|(id, _)| (self.oracle.pubs[*id as usize].topic.clone(), *id))
            .collect();
        auditor.drop_link(&mut self.net, &mut self.oracle, Some(End::Fin));
        auditor.left = true;
        kept
    }

    fn leave(&mut self) {
        self.net.trace.line(self.net.now, format_args!("--- leaving"));
        for client in self.clients.iter_mut().skip(1) {
            client.leaving = true;
        }
        let begun = self.net.now;
        while self.clients.iter().skip(1).any(|client| !client.left) {
            self.run_for(500 * MS);
            if self.net.violation.is_some() {
                return;
            }
            if self.net.now - begun > SETTLE_MAX {
                return self.net.fail("clients cannot leave".to_owned());
            }
        }
        // The session of the misbehaving, the auditor and delayed wills end by themselves.
        self.run_for(30 * SECOND);
        if self.net.violation.is_some() {
            return;
        }
        self.oracle.judge_last_wills(&self.net);
        let counters = self.counters();
        let watcher = &self.clients[0];
        let crashes = self.net.crashes.len() as u32;
        let refused = self.net.knobs.tight;
        // A will has no publisher to be told that a disk does not take it.
        let lost =
            counters.dropped_output_full + counters.dropped_queue_full + counters.dropped_log_full
                > 0;
        let since = watcher.connected_since().unwrap_or(NEVER);
        let there = |pipe: PipeId| self.net.pipes[pipe].server_end.is_some_and(|end| since < end);
        let count = |id| watcher.received_count(id);
        let checked = self.oracle.check_wills(count, there, lost || refused, crashes);
        if let Err(broken) = checked {
            return self.net.fail(broken);
        }
        self.clients[0].leaving = true;
        let begun = self.net.now;
        while !self.clients[0].left && self.net.violation.is_none() {
            self.run_for(500 * MS);
            if self.net.now - begun > SETTLE_MAX {
                return self.net.fail("the watcher cannot leave".to_owned());
            }
        }
        self.end_sessions();
        self.run_for(60 * SECOND);
        if self.net.violation.is_none() {
            self.check_empty();
        }
    }

    /// The misbehaving left sessions that never expire: somebody with their ids ends them.
    fn end_sessions(&mut self) {
        for id in ["bad", "bad0", "bad1", "bad2"] {
            let pipe = self.net.connect(usize::MAX - 1);
            let mut bytes = Vec::new();
            midge_codec::Connect::new(midge_codec::ProtocolVersion::V311, id).encode(&mut bytes);
            self.net.write(pipe, bytes);
            self.run_for(2 * SECOND);
            self.net.end(pipe, End::Reset);
        }
    }

    fn check_empty(&mut self) {
        let counters = self.counters();
        for (what, count) in [
            ("connections", counters.connections_now),
            ("sessions", counters.sessions_now),
            ("subscriptions", counters.subscriptions_now),
        ] {
            if count > 0 {
                return self.net.fail(format!("{count} {what} are left when all clients are gone"));
            }
        }
        for at in 0..self.hosts.len() {
            self.hosts[at].shard.check_integrity();
            self.hosts[at].shard.check_empty();
            if let Some(timer) = self.hosts[at].shard.next_timeout() {
                let due = timer.as_nanos();
                return self.net.fail(format!("shard {at} has a timer left, due at {due}"));
            }
            if !self.net.rings[at].is_empty() {
                return self.net.fail(format!("shard {at} has slots left"));
            }
            let retained = self.hosts[at].shard.counters().retained_now;
            let now = Time::from_nanos(self.net.now);
            if let Some(disk) = &mut self.hosts[at].disk
                && let Err(left) = disk.check_empty(now, retained)
            {
                return self.net.fail(left);
            }
            if !self.hosts[at].is_empty() {
                return self
                    .net
                    .fail(format!("shard {at} has connections or envelopes on their way"));
            }
        }
        if let Some(interest) = &self.interest {
            let mut set = ShardSet::new();
            let topics: BTreeSet<&str> = self.oracle.pubs.iter().map(|one| &*one.topic).collect();
            for topic in topics {
                interest.interested(topic, &mut set);
                if let Some(shard) = set.iter().next() {
                    return self.net.fail(format!("shard {shard} is still interested in {topic}"));
                }
            }
        }
    }

    /// The broker is shut down in the middle of everything.
    fn shut_down(&mut self) {
        self.net.trace.line(self.net.now, format_args!("--- shutting down"));
        self.net.hit(Situation::Shutdown);
        self.net.listening = false;
        for client in &mut self.clients {
            client.left = true;
        }
        let Self { hosts, net, .. } = self;
        for host in hosts.iter_mut() {
            host.shut_down(net);
        }
        self.run_for(10 * SECOND);
        if self.net.violation.is_some() {
            return;
        }
        for at in 0..self.hosts.len() {
            if self.hosts[at].phase != Phase::Told {
                return self.net.fail(format!("shard {at} did not shut down"));
            }
            if !self.hosts[at].shard.is_drained() {
                return self.net.fail(format!("shard {at} is not drained 10 s after it was told"));
            }
        }
    }

    fn counters(&self) -> Counters {
        let mut counters = self.past;
        for host in &self.hosts {
            counters.merge(&host.shard.counters());
        }
        counters
    }

    fn count_situations(&mut self) {
        let counters = self.counters();
        for (situation, count) in [
            (Situation::PublisherParked, counters.publishers_parked),
            (Situation::SessionExpired, counters.sessions_expired),
            (Situation::WillPublished, counters.wills_published),
            (Situation::MessageExpired, counters.dropped_expired),
            (Situation::DuplicateRefused, counters.duplicates_received),
            (Situation::OutputFull, counters.dropped_output_full),
            (Situation::QueueFull, counters.dropped_queue_full),
            (Situation::TooLarge, counters.dropped_too_large),
            (Situation::RetainedRefused, counters.retained_refused),
            (Situation::BacklogSpilled, counters.backlog_spilled),
            (Situation::BacklogLoaded, counters.backlog_loaded),
        ] {
            self.net.coverage.add(situation, count);
        }
        let forgotten = self
            .oracle
            .wills
            .iter()
            .filter(|will| will.delay > 0 && will.verdict == crate::oracle::Verdict::MustNot);
        self.net.coverage.add(Situation::WillForgotten, forgotten.count() as u64);
    }
}
