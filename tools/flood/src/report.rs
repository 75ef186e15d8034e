//! The end of a run: one JSON object for machines, a few lines for people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::{Outcome, Snapshot};
use crate::scenario::Mode;
use crate::statistics::{Failure, Latencies};
use crate::swarm::{GroupState, Swarm};
use crate::transport::Transport;

/// Everything a run found out. Counts are of the whole run; what begins with `window_` is of the measured window.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mode: &'static str,
    protocol: &'static str,
    /// `tcp`, `tls`, `ws` or `wss`.
    transport: &'static str,
    clients: u32,
    interrupted: bool,
    /// Why the run could not go on.
    error: Option<String>,
    connected: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    sent: u64,
    delivered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    foreign: u64,
    publish_refused: u64,
    window_resets: u64,
    pings_sent: u64,
    pings_answered: u64,
    cycles: u64,
    /// Of those, refused as was asked for, by reason.
    refusals: BTreeMap<String, u64>,
    window_seconds: f64,
    window_sent: u64,
    window_delivered: u64,
    window_cycles: u64,
    /// Handshakes of TLS that ended in the window.
    window_handshakes_full: u64,
    window_handshakes_resumed: u64,
    delivered_per_second: f64,
    cycles_per_second: f64,
    /// Messages that one receive of the generator brought, on average: what one write of the broker carried, or more.
    messages_per_receive: f64,
    /// Messages and acknowledgements, in sends of publishers and subscribers together.
    messages_per_send: f64,
    /// Of one core, in the window. Near 1 without `--spin` and `paced`, the generator was the limit.
    generator_cpu_share: f64,
    /// Send (closed loop) or intended send (open loop) to receive, in the window.
    latency_ns: Percentiles,
    /// The same of messages that were due and arrived while the generator was there. Only where it never sleeps.
    latency_present_ns: Percentiles,
    /// How often, and how long in all, it was away for more than 0.1 ms in the window: the machine had taken its processor.
    generator_absences: u64,
    generator_away_ns: u64,
    /// Socket to SUBACK (or CONNACK without a subscription).
    connect_latency_ns: Percentiles,
    /// Cycle: socket to DISCONNECT sent. Retained: SUBSCRIBE to the last retained message of a subscriber.
    round_latency_ns: Percentiles,
    /// From the cut to the last client back, for each wave of a storm.
    waves_ns: Vec<u64>,
    groups: Vec<GroupReport>,
    broker: Option<Broker>,
}

/// One group; counts are of the whole run.
#[derive(Debug, Serialize)]
struct GroupReport {
    name: String,
    shape: String,
    publishers: u32,
    subscribers: u32,
    qos: u8,
    payload_bytes: usize,
    inflight: u32,
    /// Set: open loop, messages (or connections) per second asked for.
    rate: Option<f64>,
    sent: u64,
    delivered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    latency_ns: Percentiles,
}

/// A distribution, nanoseconds.
#[derive(Debug, Serialize)]
struct Percentiles {
    count: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    p9999: u64,
    max: u64,
}

/// What the broker's process used.
#[derive(Debug, Serialize)]
struct Broker {
    pid: u32,
    /// User and system time in the window.
    cpu_seconds: f64,
    user_seconds: f64,
    system_seconds: f64,
    /// Of one core, in the window.
    cpu_share: f64,
    cpu_us_per_message: Option<f64>,
    cpu_us_per_cycle: Option<f64>,
    /// Over opening and window: what one connection cost, handshake and keep-alive included.
    cpu_us_per_connection: Option<f64>,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    /// Growth of resident memory over all connections that were up.
    resident_bytes_per_connection: Option<f64>,
    /// Growth of the kernel's slabs, both ends of each connection and whatever else the machine did.
    kernel_bytes_per_connection: Option<f64>,
}

impl Report {
    /// Sums up a run.
    pub(crate) fn new(outcome: Outcome) -> Self {
        let Outcome { mut swarm, before, window_begin, window_end, interrupted } = outcome;
        let broker = broker(&swarm, before, window_begin, window_end);
        let mut latency = Latencies::new();
        let mut groups = Vec::new();
        for state in swarm.groups_mut() {
            latency.merge(&mut state.latency);
            groups.push(GroupReport::new(state));
        }
        let latency_ns = Percentiles::new(&mut latency);
        let latency_present_ns = Percentiles::new(&mut swarm.presence.latency);
        let sum = |count: fn(&GroupReport) -> u64| groups.iter().map(count).sum();
        let connect_latency_ns = Percentiles::new(&mut swarm.connect_latency);
        let round_latency_ns = Percentiles::new(&mut swarm.round_latency);
        let (plan, counters) = (swarm.plan(), &swarm.counters);
        let begin = window_begin.unwrap_or_default();
        let end = window_end.unwrap_or(begin);
        let window_seconds = (end.time_ns - begin.time_ns) as f64 / 1e9;
        let per_second =
            |count: u64| if window_seconds > 0.0 { count as f64 / window_seconds } else { 0.0 };
        Self {
            mode: plan.name,
            protocol: plan.protocol.name(),
            transport: plan.transport.as_ref().map_or("tcp", Transport::name),
            clients: plan.client_count(),
            interrupted,
            error: swarm.fatal().map(str::to_owned),
            connected: counters.connected,
            failed: counters.failed,
            failures: counters.failures.iter().map(|(why, n)| (why.to_string(), *n)).collect(),
            sent: sum(|group| group.sent),
            delivered: sum(|group| group.delivered),
            lost: sum(|group| group.lost),
            duplicated: sum(|group| group.duplicated),
            reordered: sum(|group| group.reordered),
            foreign: counters.foreign,
            publish_refused: counters.publish_refused,
            window_resets: counters.window_resets,
            pings_sent: counters.pings_sent,
            pings_answered: counters.pings_answered,
            cycles: counters.cycles,
            refusals: counters
                .refusals
                .iter()
                .map(|(code, count)| (Failure::Refused(*code).to_string(), *count))
                .collect(),
            window_seconds,
            window_sent: end.sent - begin.sent,
            window_delivered: end.delivered - begin.delivered,
            window_cycles: end.cycles - begin.cycles,
            window_handshakes_full: end.handshakes.full - begin.handshakes.full,
            window_handshakes_resumed: end.handshakes.resumed - begin.handshakes.resumed,
            delivered_per_second: per_second(end.delivered - begin.delivered),
            cycles_per_second: per_second(end.cycles - begin.cycles),
            messages_per_receive: ratio(
                end.delivered - begin.delivered,
                end.receives - begin.receives,
            ),
            messages_per_send: ratio(end.sent - begin.sent, end.sends - begin.sends),
            generator_cpu_share: per_second(end.own_cpu_us - begin.own_cpu_us) / 1e6,
            latency_ns,
            latency_present_ns,
            generator_absences: swarm.presence.count,
            generator_away_ns: swarm.presence.away_ns,
            connect_latency_ns,
            round_latency_ns,
            waves_ns: swarm.waves_ns.clone(),
            groups,
            broker,
        }
    }

    /// Whether everything went as asked for.
    pub(crate) fn is_clean(&self) -> bool {
        self.error.is_none() && self.failed == 0
    }

    /// Why the run could not go on.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// One object on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and strings are always JSON")
    }

    /// A few lines for a person.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![format!(
            "{}, {} clients, MQTT {} over {}: {} connected, {} failed{}",
            self.mode,
            self.clients,
            self.protocol,
            self.transport,
            self.connected,
            self.failed,
            if self.interrupted { ", interrupted" } else { "" }
        )];
        lines.extend(self.failures.iter().map(|(why, count)| format!("  {count} x {why}")));
        if self.sent > 0 {
            lines.push(format!(
                "messages: {} sent, {} delivered, {} lost, {} duplicated, {} reordered, {} foreign, {} refused",
                self.sent,
                self.delivered,
                self.lost,
                self.duplicated,
                self.reordered,
                self.foreign,
                self.publish_refused
            ));
        }
        if self.sent > 0 && self.window_seconds > 0.0 {
            lines.push(format!(
                "window: {:.2} s, {} delivered, {:.0} per second, opened again {} times",
                self.window_seconds,
                self.window_delivered,
                self.delivered_per_second,
                self.window_resets
            ));
            lines.push(format!(
                "batches: {:.1} messages per receive, {:.1} per send",
                self.messages_per_receive, self.messages_per_send
            ));
            lines.push(format!("latency:         {}", self.latency_ns.text()));
            if self.generator_absences > 0 {
                lines.push(format!(
                    "the generator lost its processor {} times, {:.1} ms in all; latency without what that touched:",
                    self.generator_absences,
                    self.generator_away_ns as f64 / 1e6
                ));
                lines.push(format!("                 {}", self.latency_present_ns.text()));
            }
        }
        if self.cycles > 0 {
            lines.push(format!(
                "cycles: {} in {:.2} s, {:.0} per second",
                self.window_cycles, self.window_seconds, self.cycles_per_second
            ));
            let refusals = self.refusals.iter();
            lines.extend(refusals.map(|(reason, count)| format!("  {count} refused, {reason}")));
        }
        if self.window_handshakes_full + self.window_handshakes_resumed > 0 {
            lines.push(format!(
                "handshakes of TLS in the window: {} full, {} resumed",
                self.window_handshakes_full, self.window_handshakes_resumed
            ));
        }
        if self.round_latency_ns.count > 0 {
            lines.push(format!("a whole round:   {}", self.round_latency_ns.text()));
        }
        if self.groups.len() > 1 {
            lines.extend(self.groups.iter().map(GroupReport::text));
        }
        lines.extend(self.waves_ns.iter().zip(1..).map(|(wave_ns, number)| {
            format!("wave {number}: all back after {:.3} s", *wave_ns as f64 / 1e9)
        }));
        lines.push(format!("connect latency: {}", self.connect_latency_ns.text()));
        if self.pings_sent > 0 {
            lines.push(format!(
                "keep-alive: {} pings sent, {} answered",
                self.pings_sent, self.pings_answered
            ));
        }
        lines.push(format!("generator: {:.0} % of a core", self.generator_cpu_share * 100.0));
        lines.extend(self.broker.as_ref().map(Broker::text));
        lines.join("\n")
    }
}

impl GroupReport {
    fn new(state: &mut GroupState) -> Self {
        let group = &state.group;
        let counters = state.counters;
        Self {
            name: group.name.clone(),
            shape: format!("{:?}", group.shape).to_lowercase(),
            publishers: group.publishers,
            subscribers: group.subscribers,
            qos: group.qos,
            payload_bytes: group.payload_size,
            inflight: group.inflight,
            rate: group.rate,
            sent: counters.sent,
            delivered: counters.delivered,
            lost: state.expected().saturating_sub(counters.delivered),
            duplicated: counters.duplicated,
            reordered: counters.reordered,
            latency_ns: Percentiles::new(&mut state.latency),
        }
    }

    fn text(&self) -> String {
        format!(
            "{} ({}, {} to {}): {} sent, {} delivered, {} lost, {} duplicated, {} reordered; {}",
            self.name,
            self.shape,
            self.publishers,
            self.subscribers,
            self.sent,
            self.delivered,
            self.lost,
            self.duplicated,
            self.reordered,
            self.latency_ns.text()
        )
    }
}

fn ratio(count: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

fn broker(
    swarm: &Swarm,
    before: Snapshot,
    begin: Option<Snapshot>,
    end: Option<Snapshot>,
) -> Option<Broker> {
    let (begin, end) = (begin?, end?);
    let (usage_before, usage_begin, usage_end) = (before.usage?, begin.usage?, end.usage?);
    let cpu_us = usage_end.cpu_us() - usage_begin.cpu_us();
    let seconds = (end.time_ns - begin.time_ns) as f64 / 1e9;
    let each = |amount: f64, count: u64| (count > 0).then(|| amount / count as f64);
    let connected = if swarm.plan().mode == Mode::Cycle { 0 } else { swarm.counters.connected };
    let grown = usage_end.resident_bytes as f64 - usage_before.resident_bytes as f64;
    let slabs = end.slab_bytes as f64 - before.slab_bytes as f64;
    let opening_us = (usage_end.cpu_us() - usage_before.cpu_us()) as f64;
    let handshakes = match swarm.plan().mode {
        Mode::Connect | Mode::Storm { .. } => swarm.counters.connected,
        Mode::Cycle | Mode::Flow | Mode::Retained => 0,
    };
    Some(Broker {
        pid: swarm.plan().broker_pid?,
        cpu_seconds: cpu_us as f64 / 1e6,
        user_seconds: (usage_end.user_us - usage_begin.user_us) as f64 / 1e6,
        system_seconds: (usage_end.system_us - usage_begin.system_us) as f64 / 1e6,
        cpu_share: if seconds > 0.0 { cpu_us as f64 / 1e6 / seconds } else { 0.0 },
        cpu_us_per_message: each(cpu_us as f64, end.delivered - begin.delivered),
        cpu_us_per_cycle: each(cpu_us as f64, end.cycles - begin.cycles),
        cpu_us_per_connection: each(opening_us, handshakes),
        resident_bytes_before: usage_before.resident_bytes,
        resident_bytes_after: usage_end.resident_bytes,
        resident_bytes_per_connection: each(grown, connected),
        kernel_bytes_per_connection: each(slabs, connected),
    })
}

impl Broker {
    fn text(&self) -> String {
        let mut parts = vec![format!(
            "broker {}: {:.2} s CPU in the window ({:.0} % of a core; user {:.2}, system {:.2})",
            self.pid,
            self.cpu_seconds,
            self.cpu_share * 100.0,
            self.user_seconds,
            self.system_seconds
        )];
        let mut add = |value: Option<f64>, unit: &str, digits: usize| {
            if let Some(value) = value {
                parts.push(format!("{value:.digits$} {unit}"));
            }
        };
        add(self.cpu_us_per_message, "µs CPU per delivered message", 3);
        add(self.cpu_us_per_cycle, "µs CPU per cycle", 2);
        add(self.cpu_us_per_connection, "µs CPU per connection", 2);
        add(self.resident_bytes_per_connection, "bytes resident per connection", 0);
        add(
            self.kernel_bytes_per_connection,
            "bytes of kernel slabs per connection (both ends)",
            0,
        );
        parts.join(", ")
    }
}

impl Percentiles {
    fn new(latencies: &mut Latencies) -> Self {
        Self {
            count: latencies.count(),
            p50: latencies.at(0.5),
            p90: latencies.at(0.9),
            p99: latencies.at(0.99),
            p999: latencies.at(0.999),
            p9999: latencies.at(0.9999),
            max: latencies.max(),
        }
    }

    fn text(&self) -> String {
        let us = |ns: u64| ns as f64 / 1e3;
        format!(
            "p50 {:.1} µs, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, p99.99 {:.1}, max {:.1}",
            us(self.p50),
            us(self.p90),
            us(self.p99),
            us(self.p999),
            us(self.p9999),
            us(self.max)
        )
    }
}
