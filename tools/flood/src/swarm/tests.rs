//! The swarm against a broker of a few lines, with a clock of a millisecond a turn.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::scenario::tests::{group, plan};
use crate::scenario::{Group, Shape};
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
    /// Retained messages by topic, as they came.
    retained: BTreeMap<String, Vec<u8>>,
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
                for (topic, frame) in &self.retained {
                    if filter.strip_suffix('+').is_some_and(|prefix| topic.starts_with(prefix)) {
                        self.inbox.push_back((client, frame.clone()));
                    }
                }
                self.subscriptions.push((filter, client));
                let properties = &[0][..usize::from(protocol == Protocol::V5)];
                [&[0x90, 3 + properties.len() as u8, body[0], body[1]], properties, &[0]].concat()
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
        if first_byte & 1 == 1 && body.len() < topic.len() + STAMP_AND_STRING {
            self.retained.remove(topic);
            return;
        }
        let mut frame = Vec::new();
        frame.push(first_byte);
        assert!(body.len() < 128);
        frame.push(body.len() as u8);
        frame.extend_from_slice(body);
        if first_byte & 1 == 1 {
            self.retained.insert(topic.to_owned(), frame.clone());
        }
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

/// A payload without a stamp is empty.
const STAMP_AND_STRING: usize = wire::STAMP_SIZE + 2;

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

fn work(group: Group, protocol: Protocol) -> Plan {
    let duration = Duration::from_millis(200);
    Plan { protocol, duration, ..plan(Mode::Flow, vec![group]) }
}

fn idle(mode: Mode, count: u32) -> Plan {
    plan(mode, vec![group(Shape::Idle, 0, count)])
}

#[test]
fn every_shape_version_and_qos_delivers_all() {
    let groups = [
        group(Shape::Pairs, 5, 5),
        group(Shape::All, 1, 5),
        group(Shape::All, 5, 1),
        group(Shape::All, 3, 2),
        group(Shape::Shared, 5, 3),
    ];
    for base in groups {
        for protocol in [Protocol::V31, Protocol::V311, Protocol::V5] {
            for qos in 0..=2 {
                let what = format!("{base:?} {protocol:?} QoS {qos}");
                let plan = work(Group { qos, ..base.clone() }, protocol);
                let clients = u64::from(plan.client_count());
                let swarm = run(plan, &mut Broker::default());
                let (state, counters) = (&swarm.groups[0], &swarm.counters);
                assert_eq!(swarm.fatal(), None, "{what}");
                assert!(state.counters.sent > 100, "{what}: {}", state.counters.sent);
                assert_eq!(state.counters.delivered, state.expected(), "{what}");
                assert_eq!(state.counters.duplicated + counters.foreign, 0, "{what}");
                assert_eq!(state.counters.reordered + counters.window_resets, 0, "{what}");
                assert_eq!((counters.failed, counters.connected), (0, clients), "{what}");
            }
        }
    }
}

#[test]
fn groups_keep_to_themselves() {
    let named = |topic: &str, group: Group| Group { topic: topic.into(), ..group };
    let groups = vec![
        named("a", group(Shape::Pairs, 2, 2)),
        named("b", Group { qos: 2, ..group(Shape::All, 2, 3) }),
        named("c", group(Shape::Idle, 0, 4)),
        named("d", Group { rate: Some(500.0), ..group(Shape::Shared, 3, 2) }),
    ];
    let plan = Plan { groups, ..work(group(Shape::Idle, 0, 1), Protocol::V5) };
    let swarm = run(plan, &mut Broker::default());
    assert_eq!((swarm.counters.foreign, swarm.counters.failed), (0, 0));
    assert_eq!(swarm.counters.connected, 4 + 5 + 4 + 5);
    for state in &swarm.groups {
        assert_eq!(state.counters.delivered, state.expected(), "{:?}", state.group);
        assert_eq!(state.counters.sent > 50, state.group.publishers > 0, "{:?}", state.group);
    }
}

#[test]
fn retained_messages_are_stored_fetched_and_cleared() {
    for qos in 0..=2 {
        let group = Group { qos, retain: true, ..group(Shape::All, 12, 3) };
        let plan = Plan { mode: Mode::Retained, ..work(group, Protocol::V5) };
        let mut broker = Broker::default();
        let mut swarm = run(plan, &mut broker);
        assert_eq!(swarm.fatal(), None);
        assert_eq!((swarm.sent_count(), swarm.delivered_count()), (12, 36));
        assert_eq!((swarm.round_latency.count(), swarm.counters.foreign), (3, 0));
        assert!(broker.retained.is_empty());
    }
}

/// All are cut off and come back, and the run says how long it took.
#[test]
fn a_storm_comes_in_waves() {
    let swarm = run(idle(Mode::Storm { waves: 3 }, 20), &mut Broker::default());
    assert_eq!(swarm.counters.connected, 80);
    assert_eq!((swarm.waves_ns.len(), swarm.counters.failed), (3, 0));
}

#[test]
fn the_window_is_kept() {
    let mut broker = Broker::default();
    let window = Group { inflight: 3, qos: 1, ..group(Shape::Pairs, 5, 5) };
    let mut swarm = Swarm::new(work(window, Protocol::V311), "t".into());
    swarm.opened = 10;
    swarm.tick(STEP_NS);
    for client in &mut swarm.clients {
        client.stage = Stage::Live;
    }
    let output = swarm.take_output(5, STEP_NS).expect("the window is open");
    broker.receive(5, output.as_single().expect("one piece"), Protocol::V311);
    swarm.sent(5, output, STEP_NS);
    assert_eq!(swarm.sent_count(), 3);
    assert!(swarm.take_output(5, STEP_NS).is_none(), "the window is full");
    // The acknowledgements alone do not open it: nobody has seen a message yet.
    for (client, bytes) in mem::take(&mut broker.inbox) {
        swarm.received(client, &bytes, STEP_NS);
    }
    assert!(swarm.take_output(5, STEP_NS).is_none());
    let mut message = Vec::new();
    let template = wire::PublishTemplate::new(Protocol::V311, "t/0", 1, false, 0, 64);
    template.encode(0, 0, 1, &mut message);
    swarm.received(0, &message, STEP_NS);
    assert!(swarm.take_output(5, STEP_NS).is_some());
    assert_eq!(swarm.sent_count(), 4);
}

#[test]
fn loss_doubles_and_disorder_are_seen() {
    let mut broker = Broker { fault_period: 50, ..Broker::default() };
    let swarm = run(work(group(Shape::Pairs, 5, 5), Protocol::V311), &mut broker);
    let counters = swarm.groups[0].counters;
    assert!(broker.deliveries >= 50);
    assert_eq!(counters.sent - counters.delivered, broker.deliveries / 50);
    assert_eq!(counters.duplicated, broker.deliveries.div_ceil(50));
}

#[test]
fn open_loop_keeps_its_rate() {
    let paced = Group { rate: Some(1_000.0), ..group(Shape::Pairs, 5, 5) };
    let mut swarm = run(work(paced, Protocol::V311), &mut Broker::default());
    // 200 ms at 1,000 a second, the first one at once.
    assert!((200..=202).contains(&swarm.sent_count()), "{}", swarm.sent_count());
    assert_eq!(swarm.delivered_count(), swarm.sent_count());
    assert!(swarm.groups[0].latency.max() <= 2 * STEP_NS);
}

#[test]
fn idle_clients_send_pings() {
    let hold = Duration::from_secs(10);
    let plan = Plan { hold, keep_alive_seconds: 4, ..idle(Mode::Connect, 7) };
    let swarm = run(plan, &mut Broker::default());
    // Three seconds is three quarters of the interval: at 3, 6 and 9.
    assert_eq!(swarm.counters.pings_sent, 21);
    assert_eq!(swarm.counters.pings_answered, 21);
    assert_eq!((swarm.counters.connected, swarm.counters.failed), (7, 0));
}

#[test]
fn a_cycle_comes_round() {
    let duration = Duration::from_millis(200);
    let cycle = Plan { protocol: Protocol::V5, duration, ..idle(Mode::Cycle, 5) };
    let swarm = run(cycle, &mut Broker::default());
    assert!(swarm.counters.cycles > 100, "{}", swarm.counters.cycles);
    assert_eq!(swarm.counters.connected, swarm.counters.cycles);
    assert_eq!(swarm.counters.failed, 0);
}

#[test]
fn a_refusing_broker_is_named() {
    let mut broker = Broker { connack_code: 5, ..Broker::default() };
    let swarm = run(work(group(Shape::Pairs, 5, 5), Protocol::V311), &mut broker);
    let fatal = swarm.fatal().expect("nobody connected");
    assert!(fatal.contains("CONNACK 0x05") && fatal.contains("0 of 10"), "{fatal}");
}

#[test]
fn a_silent_broker_times_out() {
    let mut broker = Broker { silent: true, ..Broker::default() };
    let swarm = run(idle(Mode::Connect, 3), &mut broker);
    let fatal = swarm.fatal().expect("nobody connected");
    assert!(fatal.contains("handshake timed out"), "{fatal}");
}

/// A broker that takes no more ends the run in bounded time, with what was reached and what was wanted.
#[test]
fn a_full_broker_is_given_up() {
    let plan = Plan { handshakes_max: 10, ..idle(Mode::Connect, 5_000) };
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
    let plan = Plan { connect_rate: Some(100.0), ..idle(Mode::Connect, 1000) };
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
