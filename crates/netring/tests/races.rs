//! Everything at once, in a random order, from a seed: connections between two small rings are opened, written,
//! paused, handed back and forth, shut down and closed while their other ends do the same.
//!
//! What must hold whatever the order: bytes arrive in order, none lost and none twice; each call is answered as it says;
//! each slot ends with one `Closed` and is silent after; at the end nothing is left.
//!
//! A failure names its seed; `MIDGE_SEED=… cargo test -p midge-netring --test races` runs it alone.

mod support;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use midge_netring::{
    Event, ListenerId, NetRing, Receive, Received, RingConfig, RingHandle, Slot, Wait,
};
use midge_output::Output;
use support::{PATIENCE, listener_at};

const STEPS: usize = 12_000;

/// A small generator with a known sequence (xorshift), so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// What every connection sends: a pattern that repeats after `PERIOD` bytes, made once.
fn stream(from: u64, size: u64) -> &'static [u8] {
    const PERIOD: usize = 1 << 16;
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        (0..6 * PERIOD).map(|position| (position * 131 + (position >> 8) * 7) as u8).collect()
    });
    let from = from as usize % PERIOD;
    &pattern[from..from + size as usize]
}

/// What the test knows of one slot.
#[derive(Debug, Default)]
struct Life {
    received: u64,
    sent: u64,
    in_flight: u64,
    connecting: bool,
    closing: bool,
    failed: bool,
    peer_closed: bool,
    shut_down: bool,
    hand_over: Option<u64>,
}

struct Side {
    ring: NetRing,
    lives: HashMap<Slot, Life>,
    held: VecDeque<Received>,
    opened: u64,
    closed: u64,
    handed_over: u64,
    bytes: u64,
}

impl Side {
    fn new() -> Self {
        // So small that each queue is full now and then.
        let ring = NetRing::new(&RingConfig {
            entries: 8,
            completion_entries: 16,
            slots: 40,
            receive_buffer_size: 512,
            receive_buffer_count: 16,
        })
        .unwrap();
        Self {
            ring,
            lives: HashMap::new(),
            held: VecDeque::new(),
            opened: 0,
            closed: 0,
            handed_over: 0,
            bytes: 0,
        }
    }

    fn open(&mut self, slot: Slot, life: Life) {
        self.opened += 1;
        assert!(self.lives.insert(slot, life).is_none(), "{slot:?} is two connections");
    }

    fn life(&mut self, slot: Slot) -> &mut Life {
        self.lives.get_mut(&slot).unwrap_or_else(|| panic!("an event for {slot:?} after Closed"))
    }

    /// Handles one event. What it says about the other side comes back: a connection to adopt.
    fn handle(&mut self, event: Event, keep: bool) -> Option<(Slot, Life)> {
        match event {
            Event::Accepted { slot, .. } => self.open(slot, Life::default()),
            Event::AcceptPaused { errno, .. } => assert_eq!(errno, libc::ENFILE),
            Event::Received { slot, data } => {
                let size = data.size() as u64;
                let from = self.life(slot).received;
                assert!(
                    self.ring.bytes(&data) == stream(from, size),
                    "{slot:?}: wrong bytes at {from}"
                );
                let life = self.life(slot);
                // Bytes that were on their way when a send failed may still come.
                assert!(!life.closing, "bytes after close");
                assert!(!life.peer_closed, "bytes after the end of bytes");
                life.received += size;
                self.bytes += size;
                if keep {
                    self.held.push_back(data);
                } else {
                    self.ring.recycle(data);
                }
            }
            Event::PeerClosed { slot } => {
                let life = self.life(slot);
                assert!(!life.closing && !life.failed && life.hand_over.is_none());
                life.peer_closed = true;
            }
            Event::Failed { slot, errno } => {
                let life = self.life(slot);
                assert!(!life.closing && !life.failed, "one failure");
                assert!([libc::ECONNRESET, libc::EPIPE].contains(&errno), "{errno}");
                life.failed = true;
                life.in_flight = 0;
            }
            Event::Sent { slot, output } => {
                let life = self.life(slot);
                assert!(!life.closing);
                assert_eq!(output.size() as u64, life.in_flight);
                life.sent += life.in_flight;
                life.in_flight = 0;
            }
            Event::Closed { slot } => {
                self.closed += 1;
                let life = self.lives.remove(&slot).expect("one Closed each");
                assert!(life.closing);
                assert!(life.hand_over.is_none(), "a hand-over without an answer");
            }
            Event::HandedOver { token, slot, target_slot } => {
                self.handed_over += 1;
                let life = self.life(slot);
                assert_eq!(life.hand_over.take(), Some(token));
                assert_eq!(life.in_flight, 0);
                life.closing = true;
                let moved = Life {
                    received: life.received,
                    sent: life.sent,
                    shut_down: life.shut_down,
                    ..Life::default()
                };
                return Some((target_slot, moved));
            }
            Event::HandOverFailed { token, slot, .. } => {
                let life = self.life(slot);
                assert_eq!(life.hand_over.take(), Some(token));
            }
            Event::Connected { slot } => {
                let life = self.life(slot);
                assert!(!life.closing);
                assert!(std::mem::take(&mut life.connecting));
            }
            Event::ConnectFailed { slot, .. } => {
                let life = self.life(slot);
                assert!(std::mem::take(&mut life.connecting));
                life.failed = true;
            }
            other => panic!("unexpected: {other:?}"),
        }
        None
    }

    /// Does something to a connection.
    fn act(&mut self, dice: &mut Dice, target: &RingHandle) {
        let mut slots: Vec<Slot> = self.lives.keys().copied().collect();
        slots.sort_unstable();
        if slots.is_empty() {
            return;
        }
        let slot = slots[dice.roll(slots.len() as u64) as usize];
        let life = self.lives.get_mut(&slot).unwrap();
        let idle = !life.closing && !life.failed && !life.connecting && !life.shut_down;
        match dice.roll(100) {
            0..35 if idle && life.in_flight == 0 && life.hand_over.is_none() => {
                let mut output = Box::new(Output::new());
                if dice.roll(10) == 0 {
                    let (head, splice) = (1 + dice.roll(9), 4096 + dice.roll(300_000));
                    output.extend(stream(life.sent, head));
                    output.payload(&Bytes::from_static(stream(life.sent + head, splice)));
                    output.extend(stream(life.sent + head + splice, dice.roll(9)));
                } else {
                    output.extend(stream(life.sent, 1 + dice.roll(3000)));
                }
                life.in_flight = output.size() as u64;
                self.ring.send(slot, output);
            }
            35..65 if !life.peer_closed => self.ring.receive(slot, Receive::Continuous),
            65..73 if !life.peer_closed => self.ring.receive(slot, Receive::Once),
            73..81 => self.ring.pause(slot),
            81..83 if idle => {
                life.shut_down = true;
                self.ring.shutdown(slot);
            }
            83..91 if !life.connecting && !life.closing && life.hand_over.is_none() => {
                let token = dice.roll(u64::MAX);
                if life.failed {
                    return;
                }
                life.hand_over = Some(token);
                self.ring.hand_over(slot, target, token);
            }
            91..95 => {
                life.closing = true;
                self.ring.close(slot);
            }
            _ if life.failed || life.peer_closed => {
                life.closing = true;
                self.ring.close(slot);
            }
            _ => {}
        }
    }

    fn connect(&mut self, address: SocketAddr) {
        match self.ring.connect(address, None) {
            Ok(slot) => self.open(slot, Life { connecting: true, ..Life::default() }),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENFILE)),
        }
    }
}

fn run(seed: u64) -> u64 {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut sides = [Side::new(), Side::new()];
    let addresses = [0, 1].map(|index: usize| {
        let (listener, address) = listener_at("127.0.0.1:0");
        sides[index].ring.listen(listener, ListenerId(0), 3).unwrap();
        address
    });
    let handles = [sides[0].ring.handle(), sides[1].ring.handle()];

    let deadline = Instant::now() + PATIENCE;
    let mut step = 0;
    while step < STEPS || sides.iter().any(|side| side.ring.slots_in_use() > 0) {
        step += 1;
        assert!(Instant::now() < deadline, "stuck: {:?} {:?}", sides[0].lives, sides[1].lives);
        let ending = step >= STEPS;
        let here = dice.roll(2) as usize;
        let there = 1 - here;
        if ending {
            for side in &mut sides {
                side.ring.stop_listening();
                for (slot, life) in &mut side.lives {
                    life.closing = true;
                    side.ring.close(*slot);
                }
            }
        } else {
            match dice.roll(12) {
                0 if sides[here].lives.len() < 30 => {
                    sides[here].connect(addresses[dice.roll(2) as usize]);
                }
                // Now and then a burst, so that the small queues overflow.
                1 => {
                    for _ in 0..dice.roll(40) {
                        sides[here].act(&mut dice, &handles[there]);
                    }
                }
                2..7 => sides[here].act(&mut dice, &handles[there]),
                _ => {}
            }
        }
        if dice.roll(3) > 0 || ending {
            let wait =
                if dice.roll(20) == 0 { Wait::For(Duration::from_micros(50)) } else { Wait::No };
            sides[here].ring.turn(wait).unwrap();
        }
        // Sometimes all events, sometimes only the first few of them.
        let mut budget = if dice.roll(3) == 0 { dice.roll(6) } else { u64::MAX };
        while budget > 0
            && let Some(event) = sides[here].ring.next_event()
        {
            budget -= 1;
            let keep = !ending && sides[here].held.len() < 15 && dice.roll(4) == 0;
            if let Some((slot, life)) = sides[here].handle(event, keep) {
                sides[there].ring.adopt(slot);
                sides[there].open(slot, life);
            }
        }
        let keep = if ending { 0 } else { dice.roll(16) as usize };
        while sides[here].held.len() > keep {
            let data = sides[here].held.pop_front().unwrap();
            sides[here].ring.recycle(data);
        }
    }
    for side in &mut sides {
        for data in side.held.drain(..) {
            side.ring.recycle(data);
        }
        assert!(side.lives.is_empty());
        assert_eq!(side.opened, side.closed);
        assert_eq!(side.ring.receive_buffers_free(), 16);
        assert_eq!(side.ring.counters().stale_completions, 0);
        assert_eq!(side.ring.counters().hand_overs, side.handed_over);
        assert_eq!(side.ring.counters().bytes_received, side.bytes);
        // Quiet, too.
        side.ring.turn(Wait::No).unwrap();
        assert!(side.ring.next_event().is_none());
    }
    println!(
        "seed {seed}: {step} steps, {} connections, {} handed over, {} bytes, starved {}, spilled {}, cancels again {}",
        sides.iter().map(|side| side.closed).sum::<u64>(),
        sides.iter().map(|side| side.handed_over).sum::<u64>(),
        sides.iter().map(|side| side.bytes).sum::<u64>(),
        sides.iter().map(|side| side.ring.counters().buffers_exhausted).sum::<u64>(),
        sides.iter().map(|side| side.ring.counters().submissions_spilled).sum::<u64>(),
        sides.iter().map(|side| side.ring.counters().cancels_retried).sum::<u64>(),
    );
    sides.iter().map(|side| side.closed).sum()
}

#[test]
fn whatever_the_order_nothing_is_lost_and_nothing_is_left() {
    let seeds = match std::env::var("MIDGE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("MIDGE_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 1..4,
    };
    let mut connections = 0;
    for seed in seeds {
        // The panic message says what; this says which.
        let announce = Announce(seed);
        connections += run(seed);
        std::mem::forget(announce);
    }
    assert!(connections > 100);
}

/// Names the seed if the run it stands for panics.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        eprintln!("failed with MIDGE_SEED={}", self.0);
    }
}
