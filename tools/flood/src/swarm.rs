//! All clients of a run as one state machine: bytes and time in, bytes and wishes out.
//!
//! No socket and no clock in here. The engine tells what happened to client number n (`connected`, `received`,
//! `sent`, `closed`, …) and asks what to do next (`next_connect`, `next_dirty` + `take_output`, `next_closing`). So
//! the tests drive it with a broker of a few lines, and the engine stays a loop around the net ring.
//!
//! # Windows
//! Closed loop: a publisher has at most `inflight` messages that its subscribers have not all seen. That works alike for
//! every broker and every QoS, because it looks at what arrives and not at acknowledgements; at QoS 1 and 2 the messages
//! that the broker has not acknowledged are held to the same number. A window that nothing has come back to for a
//! second is opened again and counted, so that a broker that drops QoS 0 is slow here, and not stuck.
//!
//! Open loop: message k is due at `start + k / rate`, is stamped with that time, and goes to publisher k mod n. A
//! generator or broker that falls behind sends it late, and the latency shows it.
//!
//! # Cost per message
//! Sending copies one encoded frame and patches 12 bytes; receiving reads the stamp, updates one 16-byte tracker and
//! counts. One clock reading for each receive, not for each message. No allocation once the buffers have grown.

mod flow;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use midge_output::Output;

use crate::presence::Presence;
use crate::scenario::{Mode, Plan, Role};
use crate::statistics::{Counters, Failure, Latencies};
use crate::tracker::Arrival;
use crate::wire::{self, Identity, kind};

pub(crate) use flow::GroupState;
use flow::{Pace, Publisher};

/// Nothing arriving for this long opens a window again, and ends the wait for what is still under way.
const STALL_NS: u64 = 1_000_000_000;

/// What is still under way when sending has stopped is waited for at most this long.
const DRAIN_NS_MAX: u64 = 10_000_000_000;

/// Storing what is to be retained takes at most this long.
const STORE_NS_MAX: u64 = 60_000_000_000;

/// A wave of a storm that has not come back by then is the last.
const WAVE_NS_MAX: u64 = 300_000_000_000;

/// Clients get this long to say goodbye.
const LEAVE_NS_MAX: u64 = 10_000_000_000;

/// So many clients that fail one after the other, and none that succeeds in between, end a run: the broker is full, or
/// gone.
const FAILURES_IN_A_ROW_MAX: u32 = 100;

/// Keep-alive pings go out after this share of the interval, in quarters.
const PING_QUARTERS: u64 = 3;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Clients connect and subscribe.
    Opening,
    /// Retained messages are being stored, until this time at the latest.
    Storing(u64),
    /// The work runs, not yet measured, until this time.
    Warming(u64),
    /// The work runs and is measured, until this time.
    Measuring(u64),
    /// All clients are up and idle, until this time.
    Holding(u64),
    /// All clients were cut off at `since` and are coming back, until `until` at the latest; so many waves are left after
    /// this one.
    Storming {
        /// Nanoseconds.
        since: u64,
        /// Nanoseconds.
        until: u64,
        /// Waves to come.
        left: u32,
    },
    /// Nothing new is sent; what is under way arrives, until this time at the latest.
    Draining(u64),
    /// Clients say goodbye, until this time at the latest.
    Leaving(u64),
    /// Over.
    Finished,
}

/// A moment at which the engine reads the broker's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The measured window (or the hold) begins.
    WindowBegins,
    /// It has ended.
    WindowEnds,
}

/// How far one client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No connection, none wanted.
    Absent,
    /// TCP is connecting.
    Connecting,
    /// CONNECT is out.
    Greeting,
    /// SUBSCRIBE is out.
    Subscribing,
    /// Up.
    Live,
    /// DISCONNECT is out, or waits to go out.
    Leaving,
    /// The engine is closing it.
    Closing,
}

impl Stage {
    fn is_handshake(self) -> bool {
        matches!(self, Self::Connecting | Self::Greeting | Self::Subscribing)
    }

    fn may_send(self) -> bool {
        matches!(self, Self::Greeting | Self::Subscribing | Self::Live | Self::Leaving)
    }
}

#[derive(Debug)]
struct Client {
    role: Role,
    stage: Stage,
    /// A send is in flight: what else is to be said waits.
    sending: bool,
    /// Already in the list of clients with something to say.
    dirty: bool,
    /// A ping is out and not answered.
    pinged: bool,
    started_ns: u64,
    /// The beginning of a packet whose end has not arrived.
    partial: Vec<u8>,
    /// Packets that go out with the next send.
    waiting: Option<Box<Output>>,
}

/// The clients of one run.
#[derive(Debug)]
pub(crate) struct Swarm {
    plan: Plan,
    phase: Phase,
    client_id_prefix: String,
    clients: Vec<Client>,
    /// Clients below this number are subscribers (or idle), from it on publishers.
    subscriber_count: u32,
    publishers: Vec<Publisher>,
    groups: Vec<GroupState>,
    pub(crate) counters: Counters,
    pub(crate) connect_latency: Latencies,
    /// Cycle: from the socket to DISCONNECT sent. Retained: from SUBSCRIBE to the last retained message.
    pub(crate) round_latency: Latencies,
    /// Whether the generator was there all the time: only of runs in which it never sleeps.
    pub(crate) presence: Presence,
    /// Retained: messages that each subscriber has got, by client number.
    fetched: Vec<u32>,
    /// Retained: publishers whose message may not be stored yet.
    storing: u32,
    /// How long each wave of a storm took until all clients were back, nanoseconds.
    pub(crate) waves_ns: Vec<u64>,
    /// Clients that have not been started yet begin here.
    opened: u32,
    /// Clients of `cycle` and `storm` that are ready for their next round.
    ready: Vec<u32>,
    connections_started: u64,
    connect_pace: Option<Pace>,
    handshakes: u32,
    handshake_deadlines: VecDeque<(u64, u32)>,
    pings: VecDeque<(u64, u32)>,
    live: u32,
    /// Clients with something to say; each at most once.
    dirty: Vec<u32>,
    closing: Vec<u32>,
    /// Outputs for their next use.
    #[expect(
        clippy::vec_box,
        reason = "the net ring takes and returns boxes: they are kept, not made anew"
    )]
    outputs: Vec<Box<Output>>,
    last_delivery_ns: u64,
    swept_ns: u64,
    failures_in_a_row: u32,
    fatal: Option<String>,
}

impl Swarm {
    /// `client_id_prefix` keeps two generators at one broker apart.
    pub(crate) fn new(plan: Plan, client_id_prefix: String) -> Self {
        let clients = plan
            .roles()
            .map(|role| Client {
                role,
                stage: Stage::Absent,
                sending: false,
                dirty: false,
                pinged: false,
                started_ns: 0,
                partial: Vec::new(),
                waiting: None,
            })
            .collect();
        let mut publishers = Vec::new();
        let mut groups = Vec::new();
        for (group, number) in plan.groups.iter().zip(0..) {
            let first_publisher = publishers.len() as u32;
            publishers.extend((0..group.publishers).map(|index| {
                let publisher = first_publisher + index;
                let client = plan.subscriber_count() + publisher;
                Publisher::new(&plan, number, index, publisher, client)
            }));
            groups.push(GroupState::new(group, first_publisher));
        }
        Self {
            phase: Phase::Opening,
            client_id_prefix,
            subscriber_count: plan.subscriber_count(),
            clients,
            publishers,
            groups,
            counters: Counters::default(),
            connect_latency: Latencies::new(),
            round_latency: Latencies::new(),
            presence: Presence::default(),
            fetched: Vec::new(),
            storing: 0,
            waves_ns: Vec::new(),
            opened: 0,
            ready: Vec::new(),
            connections_started: 0,
            connect_pace: None,
            handshakes: 0,
            handshake_deadlines: VecDeque::new(),
            pings: VecDeque::new(),
            live: 0,
            dirty: Vec::new(),
            closing: Vec::new(),
            outputs: Vec::new(),
            last_delivery_ns: 0,
            swept_ns: 0,
            failures_in_a_row: 0,
            fatal: None,
            plan,
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Clients that are up.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// Connections started so far, over all rounds.
    pub(crate) fn connections_started(&self) -> u64 {
        self.connections_started
    }

    /// Why the run cannot go on, if so.
    pub(crate) fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Ends the run at once with this sentence.
    pub(crate) fn give_up(&mut self, reason: String) {
        self.fatal.get_or_insert(reason);
        self.phase = Phase::Finished;
    }

    /// The next client to connect, if one may begin now.
    pub(crate) fn next_connect(&mut self, now_ns: u64) -> Option<u32> {
        if self.handshakes >= self.plan.handshakes_max {
            return None;
        }
        let comes_again = match self.phase {
            Phase::Warming(_) | Phase::Measuring(_) => self.plan.mode == Mode::Cycle,
            Phase::Storming { .. } => true,
            Phase::Opening => false,
            _ => return None,
        };
        // Publishers wait for the subscribers: whoever is heard from first must be heard.
        let subscribers = self.subscriber_count;
        let held = self.opened >= subscribers && self.live < subscribers;
        let fresh = (self.opened as usize) < self.clients.len() && !held;
        let opening = self.phase == Phase::Opening || self.plan.mode == Mode::Cycle;
        if !(comes_again && !self.ready.is_empty() || opening && fresh) {
            return None;
        }
        if let Some(rate) = self.plan.connect_rate {
            self.connect_pace.get_or_insert_with(|| Pace::new(now_ns, rate)).take(now_ns)?;
        }
        let index = self.ready.pop().unwrap_or_else(|| {
            self.opened += 1;
            self.opened - 1
        });
        let client = &mut self.clients[index as usize];
        debug_assert_eq!(client.stage, Stage::Absent);
        client.stage = Stage::Connecting;
        client.started_ns = now_ns;
        self.handshakes += 1;
        self.connections_started += 1;
        let deadline_ns = now_ns + nanoseconds(self.plan.connect_timeout);
        self.handshake_deadlines.push_back((deadline_ns, index));
        Some(index)
    }

    /// TCP is up: CONNECT goes out.
    pub(crate) fn connected(&mut self, index: u32) {
        if self.clients[index as usize].stage != Stage::Connecting {
            return;
        }
        self.clients[index as usize].stage = Stage::Greeting;
        let client_id = format!("{}-{index}-{}", self.client_id_prefix, self.connections_started);
        let plan = &self.plan;
        let identity = Identity {
            client_id: &client_id,
            username: plan.username.as_deref(),
            password: plan.password.as_deref(),
            keep_alive_seconds: plan.keep_alive_seconds,
            clean_start: plan.clean_start,
        };
        let mut output = self.outputs.pop().unwrap_or_default();
        wire::encode_connect(plan.protocol, identity, output.buffer());
        self.clients[index as usize].waiting = Some(output);
        self.mark_dirty(index);
    }

    /// TCP did not come up.
    pub(crate) fn connect_failed(&mut self, index: u32, errno: i32) {
        if self.clients[index as usize].stage == Stage::Connecting {
            self.fail(index, Failure::Connect(errno));
        }
    }

    /// Bytes arrived.
    #[inline]
    pub(crate) fn received(&mut self, index: u32, bytes: &[u8], now_ns: u64) {
        let Self {
            plan,
            clients,
            publishers,
            groups,
            counters,
            dirty,
            outputs,
            last_delivery_ns,
            fetched,
            round_latency,
            presence,
            storing,
            ..
        } = self;
        presence.look(now_ns);
        let protocol = plan.protocol;
        let client = &mut clients[index as usize];
        if !client.stage.may_send() {
            return;
        }
        let (role, started_ns) = (client.role, client.started_ns);
        let mut partial = mem::take(&mut client.partial);
        let mut waiting = client.waiting.take();
        let mut control = None;
        // Marked once for each run of messages from one publisher.
        let mut marked = u32::MAX;
        let mut reply = |packet_kind, packet_id| {
            let output = waiting.get_or_insert_with(|| outputs.pop().unwrap_or_default());
            wire::encode_acknowledgement(packet_kind, packet_id, output.buffer());
        };
        let mut settled = 0;
        let walked = wire::walk(&mut partial, bytes, |frame| match frame.kind() {
            kind::PUBLISH => {
                let publish = frame.publish(protocol);
                match frame.publish_qos() {
                    0 => {}
                    1 => reply(kind::PUBACK, publish.map_or(0, |(packet_id, _)| packet_id)),
                    _ => reply(kind::PUBREC, publish.map_or(0, |(packet_id, _)| packet_id)),
                }
                let arrival = match (role, publish) {
                    (Role::Subscriber { group, index }, Some((_, stamp))) => groups
                        [usize::from(group)]
                    .record(index, stamp.publisher, stamp.sequence)
                    .map(|arrival| (arrival, stamp, &mut groups[usize::from(group)].latency)),
                    _ => None,
                };
                let Some((arrival, stamp, latency)) = arrival else {
                    counters.foreign += 1;
                    return;
                };
                if arrival == Arrival::Again {
                    return;
                }
                latency.record(now_ns.saturating_sub(stamp.time_ns));
                presence.record(now_ns, stamp.time_ns);
                if let Some(fetched) = fetched.get_mut(index as usize) {
                    *fetched += 1;
                    if *fetched as usize == publishers.len() {
                        round_latency.record(now_ns.saturating_sub(started_ns));
                    }
                }
                let publisher = &mut publishers[stamp.publisher as usize];
                publisher.seen_by_one(stamp.sequence);
                if marked != stamp.publisher {
                    marked = stamp.publisher;
                    publisher.progress(now_ns);
                    *last_delivery_ns = now_ns;
                    let client = &mut clients[publisher.client as usize];
                    if !mem::replace(&mut client.dirty, true) {
                        dirty.push(publisher.client);
                    }
                }
            }
            kind::PUBACK | kind::PUBCOMP => {
                counters.publish_refused += u64::from(frame.acknowledgement_reason() >= 0x80);
                settled += 1;
            }
            kind::PUBREC if frame.acknowledgement_reason() >= 0x80 => {
                counters.publish_refused += 1;
                settled += 1;
            }
            kind::PUBREC => reply(kind::PUBREL, frame.packet_id()),
            kind::PUBREL => reply(kind::PUBCOMP, frame.packet_id()),
            other => {
                let code = match other {
                    kind::CONNACK => frame.connect_reason(),
                    kind::SUBACK => frame.subscribe_reason(protocol),
                    _ => frame.body.first().copied().unwrap_or(0),
                };
                // One answer of this kind is under way at a time; the last one decides.
                control = Some((other, code));
                if other == kind::PINGRESP {
                    counters.pings_answered += 1;
                    let pinged = mem::take(&mut clients[index as usize].pinged);
                    *storing = storing.saturating_sub(u32::from(pinged));
                    control = None;
                }
            }
        });
        if settled > 0
            && let Role::Publisher(publisher) = role
        {
            publishers[publisher as usize].settle(settled);
        }
        let client = &mut clients[index as usize];
        client.partial = partial;
        client.waiting = waiting;
        if client.waiting.is_some() || settled > 0 {
            self.mark_dirty(index);
        }
        if walked.is_err() {
            self.fail(index, Failure::Malformed);
        } else if let Some((packet_kind, code)) = control {
            self.answered(index, packet_kind, code, now_ns);
        }
    }

    /// The broker answered a handshake, or says goodbye.
    fn answered(&mut self, index: u32, packet_kind: u8, code: u8, now_ns: u64) {
        match (packet_kind, self.clients[index as usize].stage) {
            (kind::CONNACK, Stage::Greeting) if code != 0 && self.plan.refusals => {
                self.refused(index, code, now_ns);
            }
            (kind::CONNACK, Stage::Greeting) if code != 0 => {
                self.fail(index, Failure::Refused(code));
            }
            // Retained messages are asked for when they are stored.
            (kind::CONNACK, Stage::Greeting) if self.plan.mode == Mode::Retained => {
                self.is_up(index, now_ns);
            }
            (kind::CONNACK, Stage::Greeting) => {
                match self.plan.filter(self.clients[index as usize].role) {
                    None => self.is_up(index, now_ns),
                    Some((filter, qos)) => {
                        let output = self.outputs.pop().unwrap_or_default();
                        let client = &mut self.clients[index as usize];
                        client.stage = Stage::Subscribing;
                        let waiting = client.waiting.get_or_insert(output).buffer();
                        wire::encode_subscribe(self.plan.protocol, &filter, qos, waiting);
                        self.mark_dirty(index);
                    }
                }
            }
            (kind::SUBACK, Stage::Subscribing | Stage::Live) if code >= 0x80 => {
                self.fail(index, Failure::SubscriptionRefused(code));
            }
            (kind::SUBACK, Stage::Subscribing) => self.is_up(index, now_ns),
            (kind::SUBACK, Stage::Live) if self.plan.mode == Mode::Retained => {}
            (kind::DISCONNECT, _) => self.fail(index, Failure::Disconnected(code)),
            _ => self.counters.foreign += 1,
        }
    }

    /// As was asked for: the cycle is over.
    fn refused(&mut self, index: u32, code: u8, now_ns: u64) {
        self.connect_latency.record(now_ns.saturating_sub(self.clients[index as usize].started_ns));
        self.counters.cycles += 1;
        *self.counters.refusals.entry(code).or_default() += 1;
        self.failures_in_a_row = 0;
        self.begin_closing(index);
    }

    fn is_up(&mut self, index: u32, now_ns: u64) {
        let client = &mut self.clients[index as usize];
        client.stage = Stage::Live;
        client.pinged = false;
        self.connect_latency.record(now_ns.saturating_sub(client.started_ns));
        self.handshakes -= 1;
        self.live += 1;
        self.counters.connected += 1;
        self.failures_in_a_row = 0;
        if self.plan.mode == Mode::Cycle {
            self.leave(index);
        } else if let Some(period_ns) = self.ping_period_ns() {
            self.pings.push_back((now_ns + period_ns, index));
        }
    }

    fn ping_period_ns(&self) -> Option<u64> {
        let seconds = u64::from(self.plan.keep_alive_seconds);
        (seconds > 0).then_some(seconds * 1_000_000_000 / 4 * PING_QUARTERS)
    }

    fn leave(&mut self, index: u32) {
        let output = self.outputs.pop().unwrap_or_default();
        let client = &mut self.clients[index as usize];
        client.stage = Stage::Leaving;
        let waiting = client.waiting.get_or_insert(output).buffer();
        if let (Mode::Retained, Role::Publisher(publisher)) = (self.plan.mode, client.role) {
            let topic = self.publishers[publisher as usize].topic(&self.groups);
            wire::encode_clear(self.plan.protocol, &topic, waiting);
        }
        waiting.extend_from_slice(&wire::DISCONNECT);
        self.mark_dirty(index);
    }

    /// A send has gone out whole.
    #[inline]
    pub(crate) fn sent(&mut self, index: u32, mut output: Box<Output>, now_ns: u64) {
        output.recycle();
        self.outputs.push(output);
        let client = &mut self.clients[index as usize];
        client.sending = false;
        if client.waiting.is_some() {
            self.mark_dirty(index);
        } else if client.stage == Stage::Leaving {
            if self.plan.mode == Mode::Cycle {
                self.counters.cycles += 1;
                self.round_latency.record(now_ns.saturating_sub(client.started_ns));
            }
            self.begin_closing(index);
        } else if matches!(client.role, Role::Publisher(_)) {
            self.mark_dirty(index);
        }
    }

    /// The broker closed its half, or the socket failed (`errno`).
    pub(crate) fn lost(&mut self, index: u32, errno: Option<i32>) {
        match self.clients[index as usize].stage {
            Stage::Closing | Stage::Absent => {}
            // It was asked to: [MQTT-3.14.4-3].
            Stage::Leaving => self.begin_closing(index),
            _ => self.fail(index, errno.map_or(Failure::ClosedByBroker, Failure::Socket)),
        }
    }

    /// What lies below MQTT cannot go on.
    pub(crate) fn broken(&mut self, index: u32, failure: Failure) {
        match self.clients[index as usize].stage {
            Stage::Closing | Stage::Absent => {}
            Stage::Leaving => self.begin_closing(index),
            _ => self.fail(index, failure),
        }
    }

    /// The engine has closed the connection.
    pub(crate) fn closed(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        debug_assert_eq!(client.stage, Stage::Closing);
        client.stage = Stage::Absent;
        client.sending = false;
        client.partial = Vec::new();
        client.waiting = None;
        if matches!(self.plan.mode, Mode::Cycle | Mode::Storm { .. }) {
            self.ready.push(index);
        }
    }

    fn begin_closing(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        match client.stage {
            Stage::Connecting | Stage::Greeting | Stage::Subscribing => self.handshakes -= 1,
            Stage::Live | Stage::Leaving => self.live -= 1,
            Stage::Closing | Stage::Absent => unreachable!("a connection is closed once"),
        }
        client.stage = Stage::Closing;
        self.closing.push(index);
    }

    fn fail(&mut self, index: u32, failure: Failure) {
        self.begin_closing(index);
        self.counters.failed += 1;
        *self.counters.failures.entry(failure).or_default() += 1;
        self.failures_in_a_row += 1;
        let hopeless = self.counters.connected + self.counters.cycles == 0
            || self.phase == Phase::Opening && !self.publishers.is_empty()
            || self.failures_in_a_row > FAILURES_IN_A_ROW_MAX.max(2 * self.plan.handshakes_max);
        if hopeless {
            let (connected, wanted) = (self.counters.connected, self.clients.len());
            let (remote, failures) = (self.plan.remote, self.failures_in_a_row);
            let times =
                if failures > 1 { format!(" {failures} times in a row") } else { String::new() };
            self.give_up(format!(
                "the broker at {remote}: {failure}{times}; {connected} of {wanted} clients had connected"
            ));
        }
    }

    #[inline]
    fn mark_dirty(&mut self, index: u32) {
        if !mem::replace(&mut self.clients[index as usize].dirty, true) {
            self.dirty.push(index);
        }
    }

    /// A client that may have something to say; it is asked with [`Swarm::take_output`].
    #[inline]
    pub(crate) fn next_dirty(&mut self) -> Option<u32> {
        self.dirty.pop()
    }

    /// A client whose connection is to be closed.
    pub(crate) fn next_closing(&mut self) -> Option<u32> {
        self.closing.pop()
    }

    /// What this client says next; `None` when nothing, or when its last send is still in flight.
    #[inline]
    pub(crate) fn take_output(&mut self, index: u32, now_ns: u64) -> Option<Box<Output>> {
        let client = &mut self.clients[index as usize];
        client.dirty = false;
        if client.sending || !client.stage.may_send() {
            return None;
        }
        let mut output = client.waiting.take();
        if let Role::Publisher(publisher) = client.role
            && client.stage == Stage::Live
            && matches!(self.phase, Phase::Storing(_) | Phase::Warming(_) | Phase::Measuring(_))
        {
            let publisher = &mut self.publishers[publisher as usize];
            let room = publisher.room();
            if room > 0 {
                let mut filled = output.unwrap_or_else(|| self.outputs.pop().unwrap_or_default());
                let group = &mut self.groups[usize::from(publisher.group)];
                publisher.publish(room, group, now_ns, filled.buffer());
                group.counters.sent += room;
                if matches!(self.phase, Phase::Storing(_)) {
                    // What is answered after it has been stored, at QoS 0 too.
                    filled.extend(&wire::PINGREQ);
                    self.clients[index as usize].pinged = true;
                    self.counters.pings_sent += 1;
                }
                output = Some(filled);
            }
        }
        self.clients[index as usize].sending = output.is_some();
        output
    }

    /// When something is due by the clock, at the latest; `None`: nothing that needs waking up for.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let phase_ns = match self.phase {
            Phase::Opening | Phase::Finished => None,
            Phase::Storing(until)
            | Phase::Warming(until)
            | Phase::Measuring(until)
            | Phase::Holding(until)
            | Phase::Storming { until, .. }
            | Phase::Draining(until)
            | Phase::Leaving(until) => Some(until),
        };
        let paces = self.groups.iter().map(|state| state.pace).chain([self.connect_pace]);
        paces
            .flatten()
            .map(|pace| pace.next_ns())
            .chain(phase_ns)
            .chain(self.pings.front().map(|(due, _)| *due))
            .min()
    }

    /// Everything that time does. To be called once a turn.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Option<Mark> {
        self.presence.look(now_ns);
        self.expire_handshakes(now_ns);
        self.send_pings(now_ns);
        if matches!(self.phase, Phase::Warming(_) | Phase::Measuring(_)) {
            self.release(now_ns);
            if now_ns.saturating_sub(self.swept_ns) > STALL_NS / 10 {
                self.swept_ns = now_ns;
                self.sweep_stalls(now_ns);
            }
        }
        match self.phase {
            Phase::Opening if self.plan.mode == Mode::Cycle => self.begin_work(now_ns),
            Phase::Opening if self.is_open() => match self.plan.mode {
                Mode::Flow | Mode::Cycle => self.begin_work(now_ns),
                Mode::Retained => {
                    self.storing = self.publishers.len() as u32;
                    self.begin_publishing(now_ns);
                    self.phase = Phase::Storing(now_ns + STORE_NS_MAX);
                }
                Mode::Connect => {
                    self.phase = Phase::Holding(now_ns + nanoseconds(self.plan.hold));
                    return Some(Mark::WindowBegins);
                }
                Mode::Storm { waves } => {
                    self.connect_latency.reset();
                    self.begin_wave(now_ns, waves.saturating_sub(1));
                    return Some(Mark::WindowBegins);
                }
            },
            Phase::Storing(until) => {
                let stored = self.storing == 0 && self.publishers.iter().all(Publisher::is_settled);
                if stored {
                    self.phase = Phase::Measuring(now_ns + nanoseconds(self.plan.duration));
                    self.fetch_retained(now_ns);
                    return Some(Mark::WindowBegins);
                }
                if now_ns >= until {
                    let left = self.storing;
                    self.give_up(format!(
                        "storing retained messages: {left} publishers got no answer in {} s",
                        STORE_NS_MAX / 1_000_000_000
                    ));
                }
            }
            Phase::Storming { since, until, left } => {
                let back = self.live as usize == self.clients.len();
                if back {
                    self.waves_ns.push(now_ns - since);
                }
                if back && left > 0 {
                    self.begin_wave(now_ns, left - 1);
                } else if back || now_ns >= until {
                    self.begin_leaving(now_ns);
                    return Some(Mark::WindowEnds);
                }
            }
            Phase::Warming(until) if now_ns >= until => {
                for state in &mut self.groups {
                    state.latency.reset();
                }
                self.connect_latency_reset();
                if self.plan.spin {
                    self.presence.begin(now_ns);
                }
                self.phase = Phase::Measuring(now_ns + nanoseconds(self.plan.duration));
                return Some(Mark::WindowBegins);
            }
            Phase::Measuring(until)
                if now_ns >= until || self.plan.mode == Mode::Retained && self.has_arrived() =>
            {
                self.last_delivery_ns = now_ns;
                self.presence.end();
                self.phase = Phase::Draining(now_ns + DRAIN_NS_MAX);
                return Some(Mark::WindowEnds);
            }
            Phase::Holding(until) if now_ns >= until => {
                self.begin_leaving(now_ns);
                return Some(Mark::WindowEnds);
            }
            Phase::Draining(until) => {
                let arrived = self.has_arrived();
                let quiet = now_ns.saturating_sub(self.last_delivery_ns) > STALL_NS;
                if arrived || quiet || now_ns >= until {
                    self.begin_leaving(now_ns);
                }
            }
            Phase::Leaving(until) if now_ns >= until || self.live == 0 && self.handshakes == 0 => {
                self.phase = Phase::Finished;
            }
            _ => {}
        }
        None
    }

    /// Ctrl-C: stop what is going on, and come to the report.
    pub(crate) fn interrupt(&mut self, now_ns: u64) -> Option<Mark> {
        match self.phase {
            Phase::Measuring(_) => self.phase = Phase::Measuring(now_ns),
            Phase::Holding(_) => self.phase = Phase::Holding(now_ns),
            Phase::Storing(_) | Phase::Warming(_) => {
                self.last_delivery_ns = now_ns;
                self.phase = Phase::Draining(now_ns + DRAIN_NS_MAX);
            }
            Phase::Storming { since, left, .. } => {
                self.phase = Phase::Storming { since, until: now_ns, left };
            }
            Phase::Opening | Phase::Draining(_) => self.begin_leaving(now_ns),
            Phase::Leaving(_) | Phase::Finished => self.phase = Phase::Finished,
        }
        self.tick(now_ns)
    }

    fn is_open(&self) -> bool {
        self.opened as usize == self.clients.len() && self.handshakes == 0
    }

    /// Nothing is under way: all that was sent has been seen by all, and acknowledged.
    fn has_arrived(&self) -> bool {
        let complete = |state: &GroupState| state.counters.delivered >= state.expected();
        self.groups.iter().all(complete) && self.publishers.iter().all(Publisher::is_settled)
    }

    fn begin_work(&mut self, now_ns: u64) {
        self.begin_publishing(now_ns);
        self.phase = Phase::Warming(now_ns + nanoseconds(self.plan.warmup));
    }

    fn begin_publishing(&mut self, now_ns: u64) {
        for state in &mut self.groups {
            state.pace = state.group.rate.map(|rate| Pace::new(now_ns, rate));
        }
        for publisher in 0..self.publishers.len() {
            self.publishers[publisher].begin(now_ns);
            self.mark_dirty(self.publishers[publisher].client);
        }
    }

    /// All subscribers ask for what is retained, at once.
    fn fetch_retained(&mut self, now_ns: u64) {
        self.fetched = vec![0; self.subscriber_count as usize];
        for index in 0..self.subscriber_count {
            let output = self.outputs.pop().unwrap_or_default();
            let client = &mut self.clients[index as usize];
            let filter = self.plan.filter(client.role);
            if let (Stage::Live, Some((filter, qos))) = (client.stage, filter) {
                client.started_ns = now_ns;
                let waiting = client.waiting.get_or_insert(output).buffer();
                wire::encode_subscribe(self.plan.protocol, &filter, qos, waiting);
                self.mark_dirty(index);
            }
        }
    }

    /// Cuts all clients off, without a word, as a network does.
    fn begin_wave(&mut self, now_ns: u64, left: u32) {
        self.phase = Phase::Storming { since: now_ns, until: now_ns + WAVE_NS_MAX, left };
        for index in 0..self.clients.len() as u32 {
            if self.clients[index as usize].stage == Stage::Live {
                self.begin_closing(index);
            }
        }
    }

    fn begin_leaving(&mut self, now_ns: u64) {
        self.phase = Phase::Leaving(now_ns + LEAVE_NS_MAX);
        for index in 0..self.clients.len() as u32 {
            if self.clients[index as usize].stage == Stage::Live {
                self.leave(index);
            }
        }
    }

    fn connect_latency_reset(&mut self) {
        if self.plan.mode == Mode::Cycle {
            self.connect_latency.reset();
            self.round_latency.reset();
        }
    }

    fn expire_handshakes(&mut self, now_ns: u64) {
        let timeout_ns = nanoseconds(self.plan.connect_timeout);
        while let Some(&(deadline_ns, index)) = self.handshake_deadlines.front()
            && deadline_ns <= now_ns
        {
            self.handshake_deadlines.pop_front();
            let client = &self.clients[index as usize];
            // A client of `cycle` may be in a later handshake by now, which has a deadline of its own.
            if client.stage.is_handshake() && client.started_ns + timeout_ns <= now_ns {
                self.fail(index, Failure::HandshakeTimeout);
            }
        }
    }

    fn send_pings(&mut self, now_ns: u64) {
        while let Some(&(due_ns, index)) = self.pings.front()
            && due_ns <= now_ns
        {
            self.pings.pop_front();
            let client = &mut self.clients[index as usize];
            if client.stage != Stage::Live {
                continue;
            }
            if mem::replace(&mut client.pinged, true) {
                self.fail(index, Failure::PingTimeout);
                continue;
            }
            let output = self.outputs.pop().unwrap_or_default();
            client.waiting.get_or_insert(output).extend(&wire::PINGREQ);
            self.counters.pings_sent += 1;
            self.mark_dirty(index);
            let period_ns = self.ping_period_ns().expect("pings are queued with keep-alive only");
            self.pings.push_back((now_ns + period_ns, index));
        }
    }

    /// Hands messages that are due to their publishers.
    fn release(&mut self, now_ns: u64) {
        for group in 0..self.groups.len() {
            let state = &mut self.groups[group];
            let publishers = u64::from(state.group.publishers);
            while let Some(pace) = &mut self.groups[group].pace
                && let Some(number) = pace.take(now_ns)
            {
                let index = (number % publishers) as u32 + self.groups[group].first_publisher;
                let publisher = &mut self.publishers[index as usize];
                publisher.release();
                let client = publisher.client;
                self.mark_dirty(client);
            }
        }
    }

    /// Opens windows that nothing has come back to.
    fn sweep_stalls(&mut self, now_ns: u64) {
        for publisher in 0..self.publishers.len() {
            if self.publishers[publisher].open_if_stalled(now_ns, STALL_NS) {
                self.counters.window_resets += 1;
                self.mark_dirty(self.publishers[publisher].client);
            }
        }
    }

    /// The groups and what flowed through them.
    pub(crate) fn groups_mut(&mut self) -> &mut [GroupState] {
        &mut self.groups
    }

    /// Messages sent, over all groups.
    pub(crate) fn sent_count(&self) -> u64 {
        self.groups.iter().map(|state| state.counters.sent).sum()
    }

    /// Messages that arrived for the first time, over all groups and subscribers.
    pub(crate) fn delivered_count(&self) -> u64 {
        self.groups.iter().map(|state| state.counters.delivered).sum()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}
