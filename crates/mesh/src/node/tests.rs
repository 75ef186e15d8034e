//! The mesh against queues that cannot be wrong, then over real threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{Node, build, build_with_reserve};
use crate::inboxes::VISIT_ENVELOPES_MAX;
use crate::random::{Random, for_each_seed};
use crate::shard_id::ShardId;

fn shard(number: usize) -> ShardId {
    ShardId::new(number as u16)
}

/// What a mesh must do, with one `VecDeque` for each ring.
struct Model {
    capacity: usize,
    reserve: usize,
    /// By target and source: what is in the ring.
    rings: Vec<Vec<VecDeque<u64>>>,
    /// By target and source: how much of that was flushed.
    flushed: Vec<Vec<usize>>,
    /// By source and target: pushed to since the last flush.
    unflushed: Vec<Vec<bool>>,
    /// By target: something was drained since its last flush.
    drained: Vec<bool>,
    /// By source and target: a push was refused, or no room seen, and none announced since.
    waits: Vec<Vec<bool>>,
    parked: Vec<bool>,
}

impl Model {
    fn new(shards: usize, capacity: usize, reserve: usize) -> Self {
        Self {
            capacity,
            reserve,
            rings: vec![vec![VecDeque::new(); shards]; shards],
            flushed: vec![vec![0; shards]; shards],
            unflushed: vec![vec![false; shards]; shards],
            drained: vec![false; shards],
            waits: vec![vec![false; shards]; shards],
            parked: vec![false; shards],
        }
    }

    fn room(&self, source: usize, target: usize) -> usize {
        (self.capacity - self.rings[target][source].len()).saturating_sub(self.reserve)
    }

    fn flushed_of(&self, target: usize) -> usize {
        self.flushed[target].iter().sum()
    }
}

/// A mesh and its model, moved in step.
struct Pair {
    nodes: Vec<Node<u64>>,
    model: Model,
    next_value: u64,
}

impl Pair {
    fn new(random: &mut Random, shards: usize) -> Self {
        let capacity = 1 + random.below(7);
        let reserve = random.below(capacity);
        Self {
            nodes: build_with_reserve(shards as u16, capacity, reserve),
            model: Model::new(shards, capacity, reserve),
            next_value: 0,
        }
    }

    fn push(&mut self, source: usize, target: usize, reserved: bool) {
        let (model, node) = (&mut self.model, &mut self.nodes[source]);
        assert_eq!(node.room(shard(target)), model.room(source, target));
        model.waits[source][target] |= model.room(source, target) == 0;
        let ring = &mut model.rings[target][source];
        let places = if reserved { model.capacity } else { model.capacity - model.reserve };
        let value = self.next_value;
        self.next_value += 1;
        let outcome = if reserved {
            node.push_reserved(shard(target), value)
        } else {
            node.push(shard(target), value)
        };
        if ring.len() < places {
            assert_eq!(outcome, Ok(()));
            ring.push_back(value);
            model.unflushed[source][target] = true;
        } else {
            assert_eq!(outcome, Err(value), "a full ring gives the value back");
            model.waits[source][target] = true;
        }
    }

    fn flush(&mut self, source: usize) {
        let shards = self.nodes.len();
        let model = &mut self.model;
        let mut expected = Vec::new();
        for peer in (0..shards).filter(|&peer| peer != source) {
            let mut told = model.unflushed[source][peer];
            if told {
                model.flushed[peer][source] = model.rings[peer][source].len();
                model.unflushed[source][peer] = false;
            }
            let at_most = (model.capacity - model.reserve) / 2;
            let has_room = model.rings[source][peer].len() <= at_most;
            if model.drained[source] && model.waits[peer][source] && has_room {
                model.waits[peer][source] = false;
                told = true;
            }
            if told && model.parked[peer] {
                model.parked[peer] = false;
                expected.push(shard(peer));
            }
        }
        model.drained[source] = false;
        let mut rung = Vec::new();
        self.nodes[source].flush(|target| rung.push(target));
        if shards <= 64 {
            assert_eq!(rung, expected, "one doorbell for each parked target");
        } else {
            // Peers that share a bit may be told of room that another asked for.
            assert!(expected.iter().all(|target| rung.contains(target)));
            for target in rung {
                model.parked[target.index()] = false;
            }
        }
    }

    fn drain(&mut self, target: usize, budget: usize) {
        let model = &mut self.model;
        let flushed_before = model.flushed_of(target);
        let mut handed_over = 0;
        let drained = self.nodes[target].drain(budget, |source, value| {
            let expected = model.rings[target][source.index()].pop_front();
            assert_eq!(Some(value), expected, "in the order pushed");
            let flushed = &mut model.flushed[target][source.index()];
            *flushed = flushed.saturating_sub(1);
            handed_over += 1;
        });
        assert_eq!(drained, handed_over);
        assert!(drained <= budget);
        assert!(drained >= flushed_before.min(budget), "what was flushed is handed over");
        model.drained[target] |= drained > 0;
        if drained < budget {
            assert_eq!(model.flushed_of(target), 0, "nothing flushed stays behind");
            assert!(self.nodes[target].inboxes_empty());
        }
    }

    fn park(&mut self, target: usize) {
        self.flush(target);
        let announced = self.nodes[target].announce_park();
        assert!(!announced || self.model.flushed_of(target) == 0, "parks on an envelope");
        self.model.parked[target] = announced;
    }

    fn unpark(&mut self, target: usize) {
        self.nodes[target].unpark();
        self.model.parked[target] = false;
    }

    fn step(&mut self, random: &mut Random) {
        let shards = self.nodes.len();
        let own = random.below(shards);
        if self.model.parked[own] {
            // Nobody runs on a sleeping shard.
            if random.one_in(3) {
                self.unpark(own);
            }
            return;
        }
        match random.below(8) {
            0..4 => {
                let target = random.below(shards);
                if target != own {
                    self.push(own, target, random.one_in(4));
                }
            }
            4 => self.flush(own),
            5 => self.drain(own, random.below(3)),
            6 => self.drain(own, usize::MAX),
            _ => self.park(own),
        }
    }
}

#[test]
fn model_rings_behave_like_queues() {
    for_each_seed("model_rings_behave_like_queues", 200, |random| {
        let shards = 1 + random.below(6);
        let mut pair = Pair::new(random, shards);
        for _ in 0..600 {
            pair.step(random);
        }
        for own in 0..shards {
            pair.unpark(own);
            pair.flush(own);
        }
        for own in 0..shards {
            pair.drain(own, usize::MAX);
            assert!(pair.model.rings[own].iter().all(VecDeque::is_empty), "nothing is lost");
            pair.flush(own);
        }
        // Notices of room may be on their way to any shard. Once it has looked, it can sleep.
        for own in 0..shards {
            pair.drain(own, usize::MAX);
            pair.park(own);
            assert!(pair.model.parked[own]);
        }
    });
}

/// More shards than a bell has bits for peers.
#[test]
fn model_rings_behave_like_queues_where_peers_share_bits() {
    for_each_seed("model_rings_behave_like_queues_where_peers_share_bits", 6, |random| {
        let shards = 65 + random.below(80);
        let mut pair = Pair::new(random, shards);
        for _ in 0..8_000 {
            pair.step(random);
        }
        for own in 0..shards {
            pair.unpark(own);
            pair.flush(own);
        }
        for own in 0..shards {
            pair.drain(own, usize::MAX);
            assert!(pair.model.rings[own].iter().all(VecDeque::is_empty), "nothing is lost");
        }
    });
}

#[test]
fn one_shard_has_no_peers_and_may_always_sleep() {
    let mut node = build::<u8>(1, 4).pop().unwrap();
    node.flush(|_| unreachable!());
    assert_eq!(node.drain(10, |_, _| unreachable!()), 0);
    assert!(node.announce_park());
    node.unpark();
    assert!(node.inboxes_empty());
}

#[test]
fn the_reserve_is_for_reserved_pushes() {
    let mut nodes = build_with_reserve::<u8>(2, 4, 3);
    let target = shard(1);
    assert_eq!(nodes[0].room(target), 1);
    assert_eq!(nodes[0].push(target, 1), Ok(()));
    assert_eq!(nodes[0].push(target, 2), Err(2));
    for value in 3..6 {
        assert_eq!(nodes[0].push_reserved(target, value), Ok(()));
    }
    assert_eq!(nodes[0].push_reserved(target, 6), Err(6));
    let statistics = nodes[0].outbox_statistics();
    assert_eq!((statistics.pushed, statistics.refused), (4, 2));
}

#[test]
fn a_flood_from_one_shard_delays_another_by_one_visit() {
    let mut nodes = build::<usize>(3, 1000);
    for value in 0..1000 {
        nodes[0].push(shard(2), value).unwrap();
    }
    nodes[1].push(shard(2), 0).unwrap();
    nodes[0].flush(|_| {});
    nodes[1].flush(|_| {});
    let mut sources = Vec::new();
    nodes[2].drain(VISIT_ENVELOPES_MAX + 1, |source, _| sources.push(source));
    assert_eq!(sources.last(), Some(&shard(1)));
}

#[test]
fn a_round_goes_on_where_the_budget_ended() {
    let mut nodes = build::<usize>(5, 8);
    for source in [0, 1, 3, 4] {
        for value in 0..2 {
            nodes[source].push(shard(2), value).unwrap();
        }
        nodes[source].flush(|_| {});
    }
    let mut order = Vec::new();
    for _ in 0..8 {
        assert_eq!(nodes[2].drain(1, |source, value| order.push((source.get(), value))), 1);
    }
    let round = |value| [0, 1, 3, 4].map(|source| (source, value));
    assert_eq!(order, [round(0), round(1)].concat());
    assert_eq!(nodes[2].inbox_statistics().drained, 8);
}

#[test]
fn a_handler_can_answer_while_it_drains() {
    let mut nodes = build::<u32>(2, 4);
    nodes[0].push(shard(1), 20).unwrap();
    nodes[0].flush(|_| {});
    let (outboxes, inboxes) = nodes[1].split();
    inboxes.drain(8, |source, value| outboxes.push(source, value + 1).unwrap());
    nodes[1].flush(|_| {});
    let mut answers = Vec::new();
    nodes[0].drain(8, |source, value| answers.push((source, value)));
    assert_eq!(answers, [(shard(1), 21)]);
}

#[test]
#[should_panic(expected = "not flushed")]
fn a_shard_must_not_park_on_unflushed_pushes() {
    let mut nodes = build::<u8>(2, 4);
    nodes[0].push(shard(1), 1).unwrap();
    let _ = nodes[0].announce_park();
}

#[test]
#[should_panic(expected = "no ring to itself")]
fn a_shard_has_no_ring_to_itself() {
    let _ = build::<u8>(2, 4)[1].push(shard(1), 1);
}

/// A doorbell and a shard asleep, over threads: the token that a thread parks on is kept when it
/// comes early.
struct Sleeper {
    thread: Thread,
    /// Set by the doorbell, so that a spurious return from parking is told from one.
    rung: AtomicBool,
}

/// Shards that send each other numbers and sleep whenever they can. A lost wake-up would end in the
/// watch below.
#[test]
fn threads_that_sleep_lose_nothing_and_keep_order() {
    const SHARDS: usize = 3;
    const COUNT: u64 = 20_000;
    let nodes = build::<u64>(SHARDS as u16, 16);
    let sleepers: std::sync::OnceLock<Vec<Sleeper>> = std::sync::OnceLock::new();
    thread::scope(|scope| {
        let sleepers = &sleepers;
        let threads: Vec<_> = nodes
            .into_iter()
            .map(|node| scope.spawn(move || run_sleeping_shard(node, sleepers.wait(), COUNT)))
            .collect();
        let handles = threads.iter().map(|thread| thread.thread().clone());
        let all = handles.map(|thread| Sleeper { thread, rung: AtomicBool::new(false) }).collect();
        assert!(sleepers.set(all).is_ok());
        let parks: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(parks > 0, "a test of sleeping in which nobody slept");
    });
}

/// Sends `count` numbers to each peer and receives as many; returns how often it slept.
fn run_sleeping_shard(mut node: Node<u64>, sleepers: &[Sleeper], count: u64) -> u64 {
    let own = node.id();
    let shards = usize::from(node.shards());
    let mut sent = vec![0; shards];
    let mut received = vec![0; shards];
    let mut parks = 0;
    loop {
        node.drain(64, |source, value| {
            assert_eq!(value, received[source.index()], "in order, none missing, none twice");
            received[source.index()] += 1;
        });
        for target in (0..shards).filter(|&target| target != own.index()) {
            for _ in 0..8 {
                if sent[target] < count && node.push(shard(target), sent[target]).is_ok() {
                    sent[target] += 1;
                }
            }
        }
        node.flush(|target| {
            let sleeper = &sleepers[target.index()];
            assert!(!sleeper.rung.swap(true, Ordering::AcqRel), "rung twice for one park");
            sleeper.thread.unpark();
        });
        let total = |numbers: &[u64]| numbers.iter().sum::<u64>();
        let all = count * (shards as u64 - 1);
        if total(&sent) == all && total(&received) == all {
            return parks;
        }
        // All that can be sent now is sent: the rest waits for room, and that is announced.
        let stuck = (0..shards)
            .filter(|&target| target != own.index() && sent[target] < count)
            .all(|target| node.room(shard(target)) == 0);
        if stuck && node.announce_park() {
            parks += 1;
            sleep_until_rung(&sleepers[own.index()]);
            node.unpark();
        }
    }
}

fn sleep_until_rung(sleeper: &Sleeper) {
    const PATIENCE: Duration = Duration::from_secs(30);
    let since = Instant::now();
    while !sleeper.rung.load(Ordering::Acquire) {
        thread::park_timeout(PATIENCE);
        assert!(since.elapsed() < PATIENCE, "a wake-up is lost");
    }
    sleeper.rung.store(false, Ordering::Release);
}
