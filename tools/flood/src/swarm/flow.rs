//! What flows through a group: its publishers, its windows, its clock, and what arrived.

use crate::scenario::{Group, Mode, Plan, Shape};
use crate::statistics::{GroupCounters, Latencies};
use crate::tracker::{Arrival, Order, SharedTracker, Tracker};
use crate::wire::PublishTemplate;

/// One send carries at most this many bytes, unless one message is larger.
const BATCH_SIZE_MAX: usize = 256 * 1024;

/// Unacknowledged messages of one open-loop publisher; packet identifiers repeat after 65,535.
const UNACKNOWLEDGED_MAX: u32 = 30_000;

/// One publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(super) client: u32,
    pub(super) group: u16,
    /// Its number in the group.
    index: u32,
    template: PublishTemplate,
    /// Messages sent.
    sent: u64,
    /// Open loop: messages due by the clock.
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
    window: u32,
    batch: u64,
    fan: u32,
    acknowledged_qos: bool,
    open_loop: bool,
    /// Messages of the whole run.
    limit: u64,
}

impl Publisher {
    /// Publisher `index` of its group, and `publisher` over all groups, which is what its messages say.
    pub(super) fn new(
        plan: &Plan,
        group_number: u16,
        index: u32,
        publisher: u32,
        client: u32,
    ) -> Self {
        let group = &plan.groups[usize::from(group_number)];
        // A power of two, so that positions go on when sequence numbers wrap. Open loop knows no window.
        let windowed = group.fan() > 1 && group.rate.is_none();
        let seen_size = if windowed { group.inflight.next_power_of_two() as usize } else { 0 };
        let template = PublishTemplate::new(
            plan.protocol,
            &group.publish_topic(index),
            group.qos,
            group.retain,
            publisher,
            group.payload_size,
        );
        Self {
            client,
            group: group_number,
            index,
            sent: 0,
            released: 0,
            outstanding: 0,
            seen: vec![0; seen_size],
            oldest: 0,
            unacknowledged: 0,
            progress_ns: 0,
            window: group.inflight,
            batch: (BATCH_SIZE_MAX / template.size()).max(1) as u64,
            fan: group.fan(),
            acknowledged_qos: group.qos > 0,
            open_loop: group.rate.is_some(),
            // One retained message of each topic is all there is to fetch.
            limit: if plan.mode == Mode::Retained { 1 } else { u64::MAX },
            template,
        }
    }

    /// Sending begins: stalls count from here.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.progress_ns = now_ns;
    }

    /// One more message is due.
    pub(super) fn release(&mut self) {
        self.released += 1;
    }

    /// Whether the broker has acknowledged everything.
    pub(super) fn is_settled(&self) -> bool {
        self.unacknowledged == 0
    }

    /// Messages that may be sent now.
    #[inline]
    pub(super) fn room(&self) -> u64 {
        let (room, unacknowledged_max) = if self.open_loop {
            (self.released - self.sent, UNACKNOWLEDGED_MAX)
        } else {
            (u64::from(self.window).saturating_sub(self.outstanding), self.window)
        };
        let room = room.min(self.batch).min(self.limit - self.sent);
        if self.acknowledged_qos {
            room.min(u64::from(unacknowledged_max.saturating_sub(self.unacknowledged)))
        } else {
            room
        }
    }

    /// What it publishes to.
    pub(super) fn topic(&self, groups: &[GroupState]) -> String {
        groups[usize::from(self.group)].group.publish_topic(self.index)
    }

    /// Appends the next `count` messages.
    #[inline]
    pub(super) fn publish(
        &mut self,
        count: u64,
        state: &GroupState,
        now_ns: u64,
        out: &mut Vec<u8>,
    ) {
        for number in self.sent..self.sent + count {
            let time_ns = match &state.pace {
                None => now_ns,
                Some(pace) => {
                    pace.time_ns(number * u64::from(state.group.publishers) + u64::from(self.index))
                }
            };
            let packet_id = (number % 65_535 + 1) as u16;
            self.template.encode(number as u32, time_ns, packet_id, out);
        }
        self.sent += count;
        self.outstanding += count;
        if self.acknowledged_qos {
            self.unacknowledged += count as u32;
        }
        self.progress_ns = now_ns;
    }

    /// The broker has acknowledged so many messages.
    #[inline]
    pub(super) fn settle(&mut self, count: u32) {
        self.unacknowledged = self.unacknowledged.saturating_sub(count);
    }

    /// A delivery brought the time forward.
    #[inline]
    pub(super) fn progress(&mut self, now_ns: u64) {
        self.progress_ns = now_ns;
    }

    /// One subscriber has seen this message: the window moves on when all have seen its oldest one.
    #[inline]
    pub(super) fn seen_by_one(&mut self, sequence: u32) {
        if self.seen.is_empty() {
            self.outstanding = self.outstanding.saturating_sub(1);
            return;
        }
        let size = self.seen.len() as u32;
        if u64::from(sequence.wrapping_sub(self.oldest)) >= self.outstanding {
            // From before the window was opened again.
            return;
        }
        self.seen[(sequence % size) as usize] += 1;
        while self.outstanding > 0 && self.seen[(self.oldest % size) as usize] >= self.fan {
            self.seen[(self.oldest % size) as usize] = 0;
            self.oldest = self.oldest.wrapping_add(1);
            self.outstanding -= 1;
        }
    }

    /// Opens a window that nothing has come back to for `stall_ns`; says whether it did.
    pub(super) fn open_if_stalled(&mut self, now_ns: u64, stall_ns: u64) -> bool {
        let stalled = !self.open_loop
            && self.outstanding > 0
            && now_ns.saturating_sub(self.progress_ns) > stall_ns;
        if stalled {
            self.outstanding = 0;
            self.seen.fill(0);
            self.oldest = self.sent as u32;
            self.progress_ns = now_ns;
        }
        stalled
    }
}

/// One group while it runs.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) group: Group,
    pub(crate) counters: GroupCounters,
    /// Send, or intended send, to receive.
    pub(crate) latency: Latencies,
    streams: Streams,
    /// Its publishers begin here in the numbers over all groups.
    pub(super) first_publisher: u32,
    /// Open loop: when messages are due.
    pub(super) pace: Option<Pace>,
}

impl GroupState {
    pub(super) fn new(group: &Group, first_publisher: u32) -> Self {
        Self {
            streams: Streams::new(group),
            group: group.clone(),
            counters: GroupCounters::default(),
            latency: Latencies::new(),
            first_publisher,
            pace: None,
        }
    }

    /// Records a message of `publisher` (over all groups) at `subscriber` (of this one). `None`: it does not belong here.
    #[inline]
    pub(super) fn record(
        &mut self,
        subscriber: u32,
        publisher: u32,
        sequence: u32,
    ) -> Option<Arrival> {
        let publisher = publisher.wrapping_sub(self.first_publisher);
        if publisher >= self.group.publishers {
            return None;
        }
        let stream = self.group.stream(subscriber, publisher)?;
        let arrival = self.streams.record(stream, sequence, subscriber);
        match arrival {
            Arrival::New => self.counters.delivered += 1,
            Arrival::Late => {
                self.counters.delivered += 1;
                self.counters.reordered += 1;
            }
            Arrival::Again => self.counters.duplicated += 1,
        }
        Some(arrival)
    }

    /// Deliveries that the messages sent so far make.
    pub(crate) fn expected(&self) -> u64 {
        self.counters.sent * u64::from(self.group.fan())
    }
}

/// What arrived of each stream, see [`Group::stream`].
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
    fn new(group: &Group) -> Self {
        let count = group.stream_count();
        match group.shape {
            Shape::Shared => Self::Shared {
                streams: vec![SharedTracker::default(); count],
                orders: vec![Order::default(); count * group.subscribers as usize],
            },
            Shape::Idle | Shape::Pairs | Shape::All => Self::Own(vec![Tracker::default(); count]),
        }
    }

    #[inline]
    fn record(&mut self, stream: usize, sequence: u32, subscriber: u32) -> Arrival {
        match self {
            Self::Own(streams) => streams[stream].record(sequence),
            Self::Shared { streams, orders } => {
                let order = &mut orders[subscriber as usize * streams.len() + stream];
                match (streams[stream].record(sequence), order.record(sequence)) {
                    (false, _) => Arrival::Again,
                    (true, true) => Arrival::New,
                    (true, false) => Arrival::Late,
                }
            }
        }
    }
}

/// Events at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    start_ns: u64,
    interval_ns: f64,
    next: u64,
}

impl Pace {
    /// `rate` events per second from now on, the first one at once.
    pub(super) fn new(start_ns: u64, rate: f64) -> Self {
        Self { start_ns, interval_ns: 1e9 / rate, next: 0 }
    }

    /// The time of event number `index`.
    pub(super) fn time_ns(&self, index: u64) -> u64 {
        self.start_ns + (index as f64 * self.interval_ns) as u64
    }

    /// The time of the next event.
    pub(super) fn next_ns(&self) -> u64 {
        self.time_ns(self.next)
    }

    /// The number of the next event, if it is due; then it is done.
    pub(super) fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns() <= now_ns;
        self.next += u64::from(due);
        due.then(|| self.next - 1)
    }
}
