//! Every interleaving of the words in a door, walked by a model checker.
//!
//! ```text
//! cargo test -p midge-mesh --release --features model-check
//! ```
//!
//! The bell and the room requests are the real ones over loom's atomics (`sync.rs`). The rings are
//! not: each is a pair of counters, and where the bell alone must carry what was pushed they are
//! accessed with relaxed orderings, weaker than the real ring's. Sleeping is loom's parking of a
//! thread, a doorbell its unparking, so a lost wake-up is a deadlock, which loom reports.
//!
//! Two of the tests break a protocol on purpose and expect that deadlock: a checker that cannot
//! fail proves nothing.

use std::sync::atomic::{AtomicU64 as PlainU64, Ordering::Relaxed};
// Not loom's `Arc`: it is a scheduling point when dropped, and a deadlock is reported while
// unwinding.
use std::sync::{Arc, OnceLock};

use loom::sync::atomic::AtomicU64;
use loom::thread::{self, Thread};

use crate::bell::Bell;
use crate::door::Door;

/// One receiver, its bell, and a ring to it from each of two senders.
struct Receiver {
    bell: Bell,
    pushed: [AtomicU64; 2],
    thread: Thread,
    doorbells: PlainU64,
}

impl Receiver {
    fn new() -> Arc<Self> {
        let pushed = [AtomicU64::new(0), AtomicU64::new(0)];
        let doorbells = PlainU64::new(0);
        Arc::new(Self { bell: Bell::new(), pushed, thread: thread::current(), doorbells })
    }

    fn push(&self, sender: usize) {
        let pushed = self.pushed[sender].load(Relaxed);
        self.pushed[sender].store(pushed + 1, Relaxed);
    }

    fn ring_doorbell(&self) {
        self.doorbells.fetch_add(1, Relaxed);
        self.thread.unpark();
    }

    /// Takes and sleeps like a shard until `expected` envelopes have come.
    fn run(&self, expected: u64) {
        let mut seen = [0; 2];
        let mut parks = 0;
        loop {
            let groups = self.bell.take();
            for sender in (0..2).filter(|sender| groups & 1 << sender != 0) {
                seen[sender] = self.pushed[sender].load(Relaxed);
            }
            if seen.iter().sum::<u64>() == expected {
                break;
            }
            if self.bell.announce_park() {
                parks += 1;
                thread::park();
                self.bell.unpark();
            }
        }
        assert!(self.doorbells.load(Relaxed) <= parks, "more than one doorbell for a park");
    }
}

#[test]
fn no_wake_up_is_lost_between_two_senders() {
    loom::model(|| {
        let receiver = Receiver::new();
        for sender in 0..2 {
            let receiver = Arc::clone(&receiver);
            thread::spawn(move || {
                receiver.push(sender);
                if receiver.bell.notify(1 << sender) {
                    receiver.ring_doorbell();
                }
            });
        }
        receiver.run(2);
    });
}

#[test]
fn no_wake_up_is_lost_over_several_turns() {
    loom::model(|| {
        let receiver = Receiver::new();
        let sender = Arc::clone(&receiver);
        thread::spawn(move || {
            for _ in 0..3 {
                sender.push(0);
                if sender.bell.notify(1) {
                    sender.ring_doorbell();
                }
            }
        });
        receiver.run(3);
    });
}

/// The order in `Bell::notify` matters: first set the bit, then look.
#[test]
#[should_panic(expected = "deadlock")]
fn a_sender_that_looks_before_it_sets_the_bit_is_caught() {
    loom::model(|| {
        let receiver = Receiver::new();
        let sender = Arc::clone(&receiver);
        thread::spawn(move || {
            sender.push(0);
            let parked = sender.bell.is_parked();
            let _late = sender.bell.notify(1);
            if parked {
                sender.ring_doorbell();
            }
        });
        receiver.run(1);
    });
}

/// A ring with one place from `source` to `target`, and both doors.
struct Pair {
    source: Door,
    target: Door,
    /// Set by the source before it can park.
    source_thread: OnceLock<Thread>,
    target_thread: Thread,
    tail: AtomicU64,
    head: AtomicU64,
}

impl Pair {
    /// As `Outboxes::push_leaving`, where the ring is nothing but its indices.
    fn try_push(&self, request: impl Fn(&Door)) -> bool {
        let tail = self.tail.load(Relaxed);
        if tail - self.head.load(Relaxed) == 1 {
            request(&self.target);
            if tail - self.head.load(Relaxed) == 1 {
                return false;
            }
        }
        self.tail.store(tail + 1, Relaxed);
        true
    }

    /// The source pushes `count` times, and sleeps while the ring is full.
    fn run_source(&self, count: u64, request: impl Fn(&Door)) {
        self.source_thread.get_or_init(thread::current);
        for _ in 0..count {
            while !self.try_push(&request) {
                if self.source.bell.announce_park() {
                    thread::park();
                    self.source.bell.unpark();
                }
                self.source.bell.take();
            }
            if self.target.bell.notify(1) {
                self.target_thread.unpark();
            }
        }
    }

    /// The target drains `count` envelopes, announces the room, and sleeps while there are none.
    fn run_target(&self, count: u64) {
        let mut head = 0;
        while head < count {
            let groups = self.target.bell.take();
            if groups != 0 {
                let tail = self.tail.load(Relaxed);
                if tail > head {
                    head = tail;
                    self.head.store(head, Relaxed);
                    // As `Inboxes::announce_room`.
                    if self.target.room_requests.requested() != 0 {
                        self.target.room_requests.clear(1);
                        if self.source.bell.notify(1) {
                            self.source_thread.get().expect("it parked").unpark();
                        }
                    }
                }
            } else if self.target.bell.announce_park() {
                thread::park();
                self.target.bell.unpark();
            }
        }
    }
}

fn check_room(count: u64, request: impl Fn(&Door) + Clone + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // Three switches away from a thread that could go on find the races of practical interest;
    // without a bound this model takes hours.
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let pair = Arc::new(Pair {
            source: Door::new(),
            target: Door::new(),
            source_thread: OnceLock::new(),
            target_thread: thread::current(),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
        });
        let source = {
            let (pair, request) = (Arc::clone(&pair), request.clone());
            thread::spawn(move || pair.run_source(count, request))
        };
        pair.run_target(count);
        source.join().unwrap();
    });
}

#[test]
fn no_source_sleeps_on_a_ring_with_room() {
    check_room(3, |target| target.room_requests.request(1));
}

/// The second try in `push_leaving` matters, and so does the request before it.
#[test]
#[should_panic(expected = "deadlock")]
fn a_source_that_does_not_ask_for_room_is_caught() {
    check_room(2, |_| {});
}
