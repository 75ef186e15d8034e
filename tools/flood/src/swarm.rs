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

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use midge_output::Output;

use crate::scenario::{Mode, Plan, Role};
use crate::statistics::{Counters, Failure, Latencies};
use crate::tracker::{Arrival, Order, SharedTracker, Tracker};
use crate::wire::{self, Identity, PublishTemplate, kind};

/// Nothing arriving for this long opens a window again, and ends the wait for what is still under way.
const STALL_NS: u64 = 1_000_000_000;

/// What is still under way when sending has stopped is waited for at most this long.
const DRAIN_NS_MAX: u64 = 10_000_000_000;

/// Clients get this long to say goodbye.
const LEAVE_NS_MAX: u64 = 10_000_000_000;

/// One send carries at most this many bytes, unless one message is larger.
const BATCH_SIZE_MAX: usize = 256 * 1024;

/// Unacknowledged messages of one open-loop publisher; packet identifiers repeat after 65,535.
const UNACKNOWLEDGED_MAX: u32 = 30_000;

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
    /// The work runs, not yet measured, until this time.
    Warming(u64),
    /// The work runs and is measured, until this time.
    Measuring(u64),
    /// All clients are up and idle, until this time.
    Holding(u64),
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

#[derive(Debug)]
struct Publisher {
    client: u32,
    template: PublishTemplate,
    /// Messages sent.
    sent: u64,
    /// Messages due by the clock (open loop).
    released: u64,
    /// Messages that some subscriber has not seen.
    outstanding: u64,
    /// With several subscribers: how many have seen the messages of the window, by sequence modulo its size, and the
    /// oldest of them.
    seen: Vec<u32>,
    oldest: u32,
    /// Messages that the broker has not acknowledged (QoS 1 and 2).
    unacknowledged: u32,
    /// When something last came back, or went out into an open window.
    progress_ns: u64,
}

impl Publisher {
    /// One of `fan` subscribers has seen this message: the window moves on when all have seen its oldest one.
    #[inline]
    fn seen_by_one(&mut self, sequence: u32, fan: u64) {
        let window = self.seen.len() as u32;
        if u64::from(sequence.wrapping_sub(self.oldest)) >= self.outstanding {
            // From before the window was opened again.
            return;
        }
        self.seen[(sequence % window) as usize] += 1;
        while self.outstanding > 0 && u64::from(self.seen[(self.oldest % window) as usize]) >= fan {
            self.seen[(self.oldest % window) as usize] = 0;
            self.oldest = self.oldest.wrapping_add(1);
            self.outstanding -= 1;
        }
    }
}

/// What arrived of each stream, see [`Plan::stream`].
#[derive(Debug)]
enum Streams {
    /// Each stream has one subscriber.
    Own(Vec<Tracker>),
    /// The members of one shared subscription see all streams together.
    Shared {
        streams: Vec<SharedTracker>,
        /// By member, then by publisher.
        orders: Vec<Order>,
    },
}

impl Streams {
    fn new(plan: &Plan) -> Self {
        let count = plan.stream_count();
        match plan.mode {
            Mode::Shared { members } => Self::Shared {
                streams: vec![SharedTracker::default(); count],
                orders: vec![Order::default(); count * members as usize],
            },
            _ => Self::Own(vec![Tracker::default(); count]),
        }
    }

    #[inline]
    fn record(&mut self, stream: usize, stamp: wire::Stamp, role: Role) -> Arrival {
        match (self, role) {
            (Self::Own(streams), _) => streams[stream].record(stamp.sequence),
            (Self::Shared { streams, orders }, Role::Subscriber(member)) => {
                let order = &mut orders[member as usize * streams.len() + stream];
                match (streams[stream].record(stamp.sequence), order.record(stamp.sequence)) {
                    (false, _) => Arrival::Again,
                    (true, true) => Arrival::New,
                    (true, false) => Arrival::Late,
                }
            }
            (Self::Shared { .. }, _) => Arrival::Again,
        }
    }
}

/// Events at a fixed rate.
#[derive(Clone, Copy, Debug)]
struct Pace {
    start_ns: u64,
    interval_ns: f64,
    next: u64,
}

impl Pace {
    fn new(start_ns: u64, rate: f64) -> Self {
        Self { start_ns, interval_ns: 1e9 / rate, next: 0 }
    }

    /// The time of event number `index`.
    fn time_ns(&self, index: u64) -> u64 {
        self.start_ns + (index as f64 * self.interval_ns) as u64
    }

    fn due(&mut self, now_ns: u64) -> bool {
        let due = self.time_ns(self.next) <= now_ns;
        self.next += u64::from(due);
        due
    }
}

/// The clients of one run.
#[derive(Debug)]
pub(crate) struct Swarm {
    plan: Plan,
    phase: Phase,
    client_id_prefix: String,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    streams: Streams,
    /// Deliveries that one message makes.
    fan: u64,
    pub(crate) counters: Counters,
    pub(crate) message_latency: Latencies,
    pub(crate) connect_latency: Latencies,
    pub(crate) cycle_latency: Latencies,
    /// Clients that have not been started yet begin here.
    opened: u32,
    /// Clients of `cycle` that are ready for their next round.
    ready: Vec<u32>,
    connections_started: u64,
    connect_pace: Option<Pace>,
    message_pace: Option<Pace>,
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
        let clients = (0..plan.client_count())
            .map(|client| Client {
                role: plan.role(client),
                stage: Stage::Absent,
                sending: false,
                dirty: false,
                pinged: false,
                started_ns: 0,
                partial: Vec::new(),
                waiting: None,
            })
            .collect();
        let fan = u64::from(plan.deliveries_per_message());
        // A power of two, so that positions go on when sequence numbers wrap. Open loop knows no window.
        let windowed = fan > 1 && plan.rate.is_none();
        let seen_size = if windowed { plan.inflight.next_power_of_two() as usize } else { 0 };
        let publishers = (0..plan.publisher_count())
            .map(|publisher| Publisher {
                client: plan.subscriber_count() + publisher,
                template: PublishTemplate::new(
                    plan.protocol,
                    &plan.publish_topic(publisher),
                    plan.qos,
                    false,
                    publisher,
                    plan.payload_size,
                ),
                sent: 0,
                released: 0,
                outstanding: 0,
                seen: vec![0; seen_size],
                oldest: 0,
                unacknowledged: 0,
                progress_ns: 0,
            })
            .collect();
        let streams = Streams::new(&plan);
        Self {
            fan,
            phase: Phase::Opening,
            client_id_prefix,
            clients,
            publishers,
            streams,
            counters: Counters::default(),
            message_latency: Latencies::new(),
            connect_latency: Latencies::new(),
            cycle_latency: Latencies::new(),
            opened: 0,
            ready: Vec::new(),
            connections_started: 0,
            connect_pace: None,
            message_pace: None,
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
        let again = self.plan.mode == Mode::Cycle;
        let working = matches!(self.phase, Phase::Warming(_) | Phase::Measuring(_));
        if !(self.phase == Phase::Opening || again && working) {
            return None;
        }
        // Publishers wait for the subscribers: whoever is heard from first must be heard.
        let subscribers = self.plan.subscriber_count();
        let held = self.opened >= subscribers && self.live < subscribers;
        let fresh = self.opened < self.plan.client_count() && (again || !held);
        if self.ready.is_empty() && !fresh {
            return None;
        }
        // The rate of a run with publishers is that of its messages.
        if let Some(rate) = self.plan.rate.filter(|_| !self.plan.mode.has_publishers())
            && !self.connect_pace.get_or_insert_with(|| Pace::new(now_ns, rate)).due(now_ns)
        {
            return None;
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
            streams,
            counters,
            message_latency,
            dirty,
            outputs,
            last_delivery_ns,
            fan,
            ..
        } = self;
        let protocol = plan.protocol;
        let client = &mut clients[index as usize];
        if !client.stage.may_send() {
            return;
        }
        let role = client.role;
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
                let stream = match (role, publish) {
                    (Role::Subscriber(subscriber), Some((_, stamp))) => {
                        plan.stream(subscriber, stamp.publisher).map(|stream| (stream, stamp))
                    }
                    _ => None,
                };
                let Some((stream, stamp)) = stream else {
                    counters.foreign += 1;
                    return;
                };
                match streams.record(stream, stamp, role) {
                    Arrival::New => {}
                    Arrival::Late => counters.reordered += 1,
                    Arrival::Again => {
                        counters.duplicated += 1;
                        return;
                    }
                }
                counters.delivered += 1;
                message_latency.record(now_ns.saturating_sub(stamp.time_ns));
                let publisher = &mut publishers[stamp.publisher as usize];
                if publisher.seen.is_empty() {
                    publisher.outstanding = publisher.outstanding.saturating_sub(1);
                } else {
                    publisher.seen_by_one(stamp.sequence, *fan);
                }
                if marked != stamp.publisher {
                    marked = stamp.publisher;
                    publisher.progress_ns = now_ns;
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
                    clients[index as usize].pinged = false;
                    control = None;
                }
            }
        });
        if settled > 0
            && let Role::Publisher(publisher) = role
        {
            let publisher = &mut publishers[publisher as usize];
            publisher.unacknowledged = publisher.unacknowledged.saturating_sub(settled);
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
            (kind::CONNACK, Stage::Greeting) if code != 0 => {
                self.fail(index, Failure::Refused(code));
            }
            (kind::CONNACK, Stage::Greeting) => match self.plan.filter(index) {
                None => self.is_up(index, now_ns),
                Some(filter) => {
                    let output = self.outputs.pop().unwrap_or_default();
                    let client = &mut self.clients[index as usize];
                    client.stage = Stage::Subscribing;
                    let waiting = client.waiting.get_or_insert(output).buffer();
                    wire::encode_subscribe(self.plan.protocol, &filter, self.plan.qos, waiting);
                    self.mark_dirty(index);
                }
            },
            (kind::SUBACK, Stage::Subscribing) if code >= 0x80 => {
                self.fail(index, Failure::SubscriptionRefused(code));
            }
            (kind::SUBACK, Stage::Subscribing) => self.is_up(index, now_ns),
            (kind::DISCONNECT, _) => self.fail(index, Failure::Disconnected(code)),
            _ => self.counters.foreign += 1,
        }
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
        client.waiting.get_or_insert(output).extend(&wire::DISCONNECT);
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
                self.cycle_latency.record(now_ns.saturating_sub(client.started_ns));
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

    /// The engine has closed the connection.
    pub(crate) fn closed(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        debug_assert_eq!(client.stage, Stage::Closing);
        client.stage = Stage::Absent;
        client.sending = false;
        client.partial = Vec::new();
        client.waiting = None;
        if self.plan.mode == Mode::Cycle {
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
        let hopeless = self.counters.connected == 0
            || self.phase == Phase::Opening && self.plan.mode.has_publishers()
            || self.failures_in_a_row > FAILURES_IN_A_ROW_MAX.max(2 * self.plan.handshakes_max);
        if hopeless {
            let (connected, wanted) = (self.counters.connected, self.plan.client_count());
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
            && matches!(self.phase, Phase::Warming(_) | Phase::Measuring(_))
        {
            let room = self.room(publisher);
            if room > 0 {
                let mut filled = output.unwrap_or_else(|| self.outputs.pop().unwrap_or_default());
                self.publish(publisher, room, now_ns, &mut filled);
                output = Some(filled);
            }
        }
        self.clients[index as usize].sending = output.is_some();
        output
    }

    /// Messages that this publisher may send now.
    #[inline]
    fn room(&self, publisher: u32) -> u64 {
        let state = &self.publishers[publisher as usize];
        let window = u64::from(self.plan.inflight);
        let (room, unacknowledged_max) = if self.message_pace.is_some() {
            (state.released - state.sent, UNACKNOWLEDGED_MAX)
        } else {
            (window.saturating_sub(state.outstanding), self.plan.inflight)
        };
        let batch = (BATCH_SIZE_MAX / state.template.size()).max(1) as u64;
        let room = room.min(batch);
        if self.plan.qos == 0 {
            room
        } else {
            room.min(u64::from(unacknowledged_max.saturating_sub(state.unacknowledged)))
        }
    }

    #[inline]
    fn publish(&mut self, publisher: u32, count: u64, now_ns: u64, output: &mut Output) {
        let state = &mut self.publishers[publisher as usize];
        let out = output.buffer();
        for number in state.sent..state.sent + count {
            let time_ns = match &self.message_pace {
                None => now_ns,
                Some(pace) => {
                    let publishers = u64::from(self.plan.publisher_count());
                    pace.time_ns(number * publishers + u64::from(publisher))
                }
            };
            let packet_id = (number % 65_535 + 1) as u16;
            state.template.encode(number as u32, time_ns, packet_id, out);
        }
        state.sent += count;
        state.outstanding += count;
        if self.plan.qos > 0 {
            state.unacknowledged += count as u32;
        }
        state.progress_ns = now_ns;
        self.counters.sent += count;
    }

    /// When something is due by the clock, at the latest; `None`: nothing that needs waking up for.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let phase_ns = match self.phase {
            Phase::Opening | Phase::Finished => None,
            Phase::Warming(until)
            | Phase::Measuring(until)
            | Phase::Holding(until)
            | Phase::Draining(until)
            | Phase::Leaving(until) => Some(until),
        };
        let paces = [self.connect_pace, self.message_pace];
        let paced = paces.into_iter().flatten().map(|pace| pace.time_ns(pace.next));
        paced.chain(phase_ns).chain(self.pings.front().map(|(due, _)| *due)).min()
    }

    /// Everything that time does. To be called once a turn.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Option<Mark> {
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
            Phase::Opening if self.is_open() => {
                if self.plan.mode.has_publishers() {
                    self.begin_work(now_ns);
                } else {
                    self.phase = Phase::Holding(now_ns + nanoseconds(self.plan.hold));
                    return Some(Mark::WindowBegins);
                }
            }
            Phase::Warming(until) if now_ns >= until => {
                self.message_latency.reset();
                self.connect_latency_reset();
                self.phase = Phase::Measuring(now_ns + nanoseconds(self.plan.duration));
                return Some(Mark::WindowBegins);
            }
            Phase::Measuring(until) if now_ns >= until => {
                self.last_delivery_ns = now_ns;
                self.phase = Phase::Draining(now_ns + DRAIN_NS_MAX);
                return Some(Mark::WindowEnds);
            }
            Phase::Holding(until) if now_ns >= until => {
                self.begin_leaving(now_ns);
                return Some(Mark::WindowEnds);
            }
            Phase::Draining(until) => {
                let arrived = self.counters.delivered >= self.counters.sent * self.fan
                    && self.publishers.iter().all(|publisher| publisher.unacknowledged == 0);
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
            Phase::Warming(_) => {
                self.last_delivery_ns = now_ns;
                self.phase = Phase::Draining(now_ns + DRAIN_NS_MAX);
            }
            Phase::Opening | Phase::Draining(_) => self.begin_leaving(now_ns),
            Phase::Leaving(_) | Phase::Finished => self.phase = Phase::Finished,
        }
        self.tick(now_ns)
    }

    fn is_open(&self) -> bool {
        self.opened == self.plan.client_count() && self.handshakes == 0
    }

    fn begin_work(&mut self, now_ns: u64) {
        self.phase = Phase::Warming(now_ns + nanoseconds(self.plan.warmup));
        if self.plan.mode.has_publishers() {
            self.message_pace = self.plan.rate.map(|rate| Pace::new(now_ns, rate));
        }
        for publisher in 0..self.publishers.len() {
            self.publishers[publisher].progress_ns = now_ns;
            self.mark_dirty(self.publishers[publisher].client);
        }
    }

    fn begin_leaving(&mut self, now_ns: u64) {
        self.phase = Phase::Leaving(now_ns + LEAVE_NS_MAX);
        for index in 0..self.plan.client_count() {
            if self.clients[index as usize].stage == Stage::Live {
                self.leave(index);
            }
        }
    }

    fn connect_latency_reset(&mut self) {
        if self.plan.mode == Mode::Cycle {
            self.connect_latency.reset();
            self.cycle_latency.reset();
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
        let publishers = u64::from(self.plan.publisher_count());
        while let Some(pace) = &mut self.message_pace
            && pace.due(now_ns)
        {
            let publisher = ((pace.next - 1) % publishers) as usize;
            self.publishers[publisher].released += 1;
            self.mark_dirty(self.publishers[publisher].client);
        }
    }

    /// Opens windows that nothing has come back to.
    fn sweep_stalls(&mut self, now_ns: u64) {
        if self.message_pace.is_some() {
            return;
        }
        for publisher in 0..self.publishers.len() {
            let state = &mut self.publishers[publisher];
            if state.outstanding > 0 && now_ns.saturating_sub(state.progress_ns) > STALL_NS {
                state.outstanding = 0;
                state.seen.fill(0);
                state.oldest = state.sent as u32;
                state.progress_ns = now_ns;
                self.counters.window_resets += 1;
                self.mark_dirty(self.publishers[publisher].client);
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::scenario::tests::plan;
    use crate::wire::Protocol;

    /// A broker of a few lines: knows literal topics, `prefix/+` and one shared group.
    #[derive(Default)]
    struct Broker {
        subscriptions: Vec<(String, u32)>,
        turn: usize,
        partial: Vec<Vec<u8>>,
        inbox: VecDeque<(u32, Vec<u8>)>,
        /// Of so many deliveries one is dropped, one doubled, and two are swapped; 0: none.
        fault_period: u64,
        deliveries: u64,
        connack_code: u8,
        silent: bool,
    }

    impl Broker {
        fn receive(&mut self, client: u32, bytes: &[u8], protocol: Protocol) {
            if self.partial.len() <= client as usize {
                self.partial.resize(client as usize + 1, Vec::new());
            }
            let mut partial = mem::take(&mut self.partial[client as usize]);
            wire::walk(&mut partial, bytes, |frame| {
                self.answer(client, frame.first_byte, frame.body, protocol);
            })
            .expect("the swarm speaks MQTT");
            self.partial[client as usize] = partial;
        }

        fn answer(&mut self, client: u32, first_byte: u8, body: &[u8], protocol: Protocol) {
            let reply = match first_byte >> 4 {
                1 if protocol == Protocol::V5 => vec![0x20, 3, 0, self.connack_code, 0],
                1 => vec![0x20, 2, 0, self.connack_code],
                8 => {
                    let skipped = if protocol == Protocol::V5 { 3 } else { 2 };
                    let filter = &body[skipped + 2..body.len() - 1];
                    let filter = String::from_utf8(filter.to_vec()).expect("ASCII");
                    self.subscriptions.push((filter, client));
                    let properties = &[0][..usize::from(protocol == Protocol::V5)];
                    [&[0x90, 3 + properties.len() as u8, body[0], body[1]], properties, &[0]]
                        .concat()
                }
                12 => vec![0xD0, 0],
                3 => {
                    self.publish(first_byte, body);
                    let qos = first_byte >> 1 & 3;
                    if qos == 0 {
                        return;
                    }
                    let at = 2 + usize::from(body[1]);
                    vec![if qos == 1 { 0x40 } else { 0x50 }, 2, body[at], body[at + 1]]
                }
                5 => vec![0x62, 2, body[0], body[1]],
                6 => vec![0x70, 2, body[0], body[1]],
                _ => return,
            };
            if !self.silent {
                self.inbox.push_back((client, reply));
            }
        }

        fn publish(&mut self, first_byte: u8, body: &[u8]) {
            let topic = std::str::from_utf8(&body[2..2 + usize::from(body[1])]).expect("ASCII");
            let matches = |filter: &str| match filter.strip_suffix('+') {
                Some(prefix) => topic.starts_with(prefix),
                None => filter == topic,
            };
            let plain = |(filter, client): &(String, u32)| matches(filter).then_some(*client);
            let mut targets: Vec<u32> = self.subscriptions.iter().filter_map(plain).collect();
            let members: Vec<u32> = self
                .subscriptions
                .iter()
                .filter(|(filter, _)| filter.strip_prefix("$share/flood/").is_some_and(matches))
                .map(|(_, client)| *client)
                .collect();
            if !members.is_empty() {
                self.turn += 1;
                targets.push(members[self.turn % members.len()]);
            }
            let mut frame = Vec::new();
            frame.push(first_byte);
            assert!(body.len() < 128);
            frame.push(body.len() as u8);
            frame.extend_from_slice(body);
            for target in targets {
                self.deliveries += 1;
                let fault = self.deliveries.checked_rem(self.fault_period).unwrap_or(9);
                if fault == 0 {
                    continue;
                }
                self.inbox.push_back((target, frame.clone()));
                if fault == 1 {
                    self.inbox.push_back((target, frame.clone()));
                }
                if fault == 2 && self.inbox.len() > 1 {
                    let last = self.inbox.len() - 1;
                    self.inbox.swap(last, last - 1);
                }
            }
        }
    }

    const STEP_NS: u64 = 1_000_000;

    /// Runs a plan against the little broker with a clock of a millisecond a turn.
    fn run(plan: Plan, broker: &mut Broker) -> Swarm {
        let protocol = plan.protocol;
        let mut swarm = Swarm::new(plan, "t".into());
        let mut now_ns = 0;
        while swarm.phase() != Phase::Finished {
            now_ns += STEP_NS;
            assert!(now_ns < 100_000_000_000, "the run does not end: {:?}", swarm.phase());
            swarm.tick(now_ns);
            while let Some(client) = swarm.next_connect(now_ns) {
                swarm.connected(client);
            }
            let mut in_flight = Vec::new();
            while let Some(client) = swarm.next_dirty() {
                if let Some(output) = swarm.take_output(client, now_ns) {
                    let bytes = output.as_single().expect("nothing is spliced").to_vec();
                    assert!(!bytes.is_empty());
                    broker.receive(client, &bytes, protocol);
                    in_flight.push((client, output));
                }
            }
            for (client, output) in in_flight {
                swarm.sent(client, output, now_ns);
            }
            for (client, bytes) in mem::take(&mut broker.inbox) {
                // Cut in two, to see that the pieces are joined.
                let (head, tail) = bytes.split_at(bytes.len() / 2);
                swarm.received(client, head, now_ns);
                swarm.received(client, tail, now_ns);
            }
            while let Some(client) = swarm.next_closing() {
                broker.subscriptions.retain(|(_, subscriber)| *subscriber != client);
                swarm.closed(client);
            }
        }
        swarm
    }

    fn work(mode: Mode, protocol: Protocol, qos: u8) -> Plan {
        Plan { protocol, qos, duration: Duration::from_millis(200), ..plan(mode, 5) }
    }

    #[test]
    fn every_mode_version_and_qos_delivers_all() {
        let modes = [Mode::Pairs, Mode::FanOut, Mode::FanIn, Mode::Shared { members: 3 }];
        for mode in modes {
            for protocol in [Protocol::V31, Protocol::V311, Protocol::V5] {
                for qos in 0..=2 {
                    let swarm = run(work(mode, protocol, qos), &mut Broker::default());
                    let counters = &swarm.counters;
                    let what = format!("{mode:?} {protocol:?} QoS {qos}");
                    assert_eq!(swarm.fatal(), None, "{what}");
                    assert!(counters.sent > 100, "{what}: {}", counters.sent);
                    assert_eq!(counters.delivered, counters.sent * swarm.fan, "{what}");
                    assert_eq!(counters.duplicated + counters.foreign, 0, "{what}");
                    assert_eq!(counters.reordered + counters.window_resets, 0, "{what}");
                    assert_eq!(counters.failed, 0, "{what}");
                    assert_eq!(u64::from(swarm.plan().client_count()), counters.connected);
                }
            }
        }
    }

    #[test]
    fn the_window_is_kept() {
        let mut broker = Broker { silent: false, ..Broker::default() };
        let mut swarm =
            Swarm::new(Plan { inflight: 3, ..work(Mode::Pairs, Protocol::V311, 1) }, "t".into());
        swarm.opened = 10;
        swarm.tick(STEP_NS);
        for client in &mut swarm.clients {
            client.stage = Stage::Live;
        }
        let output = swarm.take_output(5, STEP_NS).expect("the window is open");
        broker.receive(5, output.as_single().expect("one piece"), Protocol::V311);
        swarm.sent(5, output, STEP_NS);
        assert_eq!(swarm.counters.sent, 3);
        assert!(swarm.take_output(5, STEP_NS).is_none(), "the window is full");
        // The acknowledgements alone do not open it: nobody has seen a message yet.
        for (client, bytes) in mem::take(&mut broker.inbox) {
            swarm.received(client, &bytes, STEP_NS);
        }
        assert!(swarm.take_output(5, STEP_NS).is_none());
        let mut message = Vec::new();
        swarm.publishers[0].template.encode(0, 0, 1, &mut message);
        swarm.received(0, &message, STEP_NS);
        assert!(swarm.take_output(5, STEP_NS).is_some());
        assert_eq!(swarm.counters.sent, 4);
    }

    #[test]
    fn loss_doubles_and_disorder_are_seen() {
        let mut broker = Broker { fault_period: 50, ..Broker::default() };
        let swarm = run(work(Mode::Pairs, Protocol::V311, 0), &mut broker);
        let counters = &swarm.counters;
        assert!(counters.delivered < counters.sent);
        assert_eq!(counters.sent - counters.delivered, broker.deliveries / 50);
        assert!(counters.duplicated > 0);
        assert!(counters.window_resets == 0 || counters.sent > 0);
    }

    #[test]
    fn open_loop_keeps_its_rate() {
        let plan = Plan { rate: Some(1_000.0), ..work(Mode::Pairs, Protocol::V311, 0) };
        let mut swarm = run(plan, &mut Broker::default());
        // 200 ms at 1,000 a second, the first one at once.
        assert!((200..=202).contains(&swarm.counters.sent), "{}", swarm.counters.sent);
        assert_eq!(swarm.counters.delivered, swarm.counters.sent);
        assert!(swarm.message_latency.max() <= 2 * STEP_NS);
    }

    #[test]
    fn idle_clients_send_pings() {
        let hold = Duration::from_secs(10);
        let plan = Plan { hold, keep_alive_seconds: 4, ..plan(Mode::Connect, 7) };
        let swarm = run(plan, &mut Broker::default());
        // Three seconds is three quarters of the interval: at 3, 6 and 9.
        assert_eq!(swarm.counters.pings_sent, 21);
        assert_eq!(swarm.counters.pings_answered, 21);
        assert_eq!((swarm.counters.connected, swarm.counters.failed), (7, 0));
    }

    #[test]
    fn a_cycle_comes_round() {
        let swarm = run(work(Mode::Cycle, Protocol::V5, 0), &mut Broker::default());
        assert!(swarm.counters.cycles > 100, "{}", swarm.counters.cycles);
        assert_eq!(swarm.counters.connected, swarm.counters.cycles);
        assert_eq!(swarm.counters.failed, 0);
    }

    #[test]
    fn a_refusing_broker_is_named() {
        let mut broker = Broker { connack_code: 5, ..Broker::default() };
        let swarm = run(work(Mode::Pairs, Protocol::V311, 0), &mut broker);
        let fatal = swarm.fatal().expect("nobody connected");
        assert!(fatal.contains("CONNACK 0x05") && fatal.contains("0 of 10"), "{fatal}");
    }

    #[test]
    fn a_silent_broker_times_out() {
        let mut broker = Broker { silent: true, ..Broker::default() };
        let swarm = run(plan(Mode::Connect, 3), &mut broker);
        let fatal = swarm.fatal().expect("nobody connected");
        assert!(fatal.contains("handshake timed out"), "{fatal}");
    }

    /// A broker that takes no more ends the run in bounded time, with what was reached and what was wanted.
    #[test]
    fn a_full_broker_is_given_up() {
        let plan = Plan { handshakes_max: 10, ..plan(Mode::Connect, 5_000) };
        let mut broker = Broker::default();
        let mut swarm = Swarm::new(plan, "t".into());
        let mut now_ns = 0;
        while swarm.fatal().is_none() {
            now_ns += STEP_NS;
            assert!(now_ns < 100_000_000_000);
            while let Some(client) = swarm.next_connect(now_ns) {
                if client < 300 {
                    swarm.connected(client);
                } else {
                    swarm.connect_failed(client, 111);
                }
            }
            while let Some(client) = swarm.next_dirty() {
                if let Some(output) = swarm.take_output(client, now_ns) {
                    broker.receive(client, output.as_single().expect("one piece"), Protocol::V311);
                    swarm.sent(client, output, now_ns);
                }
            }
            for (client, bytes) in mem::take(&mut broker.inbox) {
                swarm.received(client, &bytes, now_ns);
            }
        }
        let fatal = swarm.fatal().expect("given up");
        assert!(fatal.contains("101 times in a row; 300 of 5000"), "{fatal}");
    }

    #[test]
    fn connects_keep_their_rate() {
        let plan = Plan { rate: Some(100.0), ..plan(Mode::Connect, 1000) };
        let mut swarm = Swarm::new(plan, "t".into());
        let mut started = 0;
        for step in 0..1000 {
            while let Some(client) = swarm.next_connect(step * STEP_NS) {
                swarm.connect_failed(client, 110);
                // The first failure ended the run: nobody had connected.
                swarm.phase = Phase::Opening;
                assert_eq!(swarm.next_closing(), Some(client));
                swarm.closed(client);
                started += 1;
            }
        }
        assert!((99..=101).contains(&started), "{started}");
    }
}
