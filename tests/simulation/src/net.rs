//! Virtual time and the network between clients and rings.
//!
//! A *pipe* is one TCP connection: two streams of bytes, each with what is on its way and what has arrived, and the ways in
//! which TCP connections end. Everything that takes time is an event on one heap; ties are broken by the order of
//! insertion, so a run depends on the seed alone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::coverage::{Coverage, Situation};
use crate::knobs::Knobs;
use crate::prng::Prng;
use crate::ring::Ring;
use crate::trace::Trace;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// A second in nanoseconds.
pub const SECOND: u64 = 1_000 * MS;
/// Never.
pub const NEVER: u64 = u64::MAX;

/// Which pipe.
pub type PipeId = usize;

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A shard's turn.
    Turn(u16),
    /// Bytes, or the end, arrive at the broker's side.
    Up(PipeId),
    /// Bytes, or the end, arrive at the client's side.
    Down(PipeId),
    /// A connection attempt reaches the broker.
    Syn(PipeId),
    /// A client acts.
    Act(usize),
    /// The clock jumps.
    Jump,
    /// Everything stops at once, and begins again.
    Crash,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, behind all bytes.
    Fin,
    /// Abruptly.
    Reset,
}

/// Where a pipe's broker end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not accepted yet.
    Backlog,
    /// In a ring's table.
    At(u16, u32),
    /// Closed by the broker.
    Gone,
}

/// One TCP connection.
#[derive(Debug)]
pub struct Pipe {
    /// Whose.
    pub client: usize,
    /// The broker's end.
    pub place: Place,
    /// Bytes on their way to the broker, with their arrival.
    pub up_flight: VecDeque<(u64, Vec<u8>)>,
    /// Arrived and not read.
    pub up: VecDeque<u8>,
    up_last: u64,
    /// The client's end of writing, and when it arrives.
    pub up_end: Option<(u64, End)>,
    /// It has arrived.
    pub up_ended: Option<End>,
    down_flight: VecDeque<(u64, Vec<u8>)>,
    /// Arrived and not read by the client.
    pub down: VecDeque<u8>,
    down_last: u64,
    down_queued: usize,
    down_end: Option<(u64, End)>,
    /// The broker's end arrived at the client.
    pub down_ended: Option<End>,
    /// Nothing gets through any more, and nobody is told.
    pub black_hole: bool,
    /// The client takes bytes.
    pub reading: bool,
    /// Bytes written by the client.
    pub written: u64,
    /// Where its packets end.
    pub packet_ends: VecDeque<u64>,
    /// Bytes given to a shard.
    pub ingested: u64,
    /// When the last whole packet was given to a shard.
    pub packet_at: u64,
    /// When the broker knew for certain that the connection is over.
    pub server_end: Option<u64>,
    /// When the client was done with it.
    pub client_end: Option<u64>,
    /// A note of the broker about this connection: it ended it.
    pub noted: bool,
    /// Its Keep Alive in nanoseconds; [`NEVER`] when there is none, zero when nobody knows.
    pub keep_alive: u64,
}

impl Pipe {
    fn new(client: usize) -> Self {
        Self {
            client,
            place: Place::Backlog,
            up_flight: VecDeque::new(),
            up: VecDeque::new(),
            up_last: 0,
            up_end: None,
            up_ended: None,
            down_flight: VecDeque::new(),
            down: VecDeque::new(),
            down_last: 0,
            down_queued: 0,
            down_end: None,
            down_ended: None,
            black_hole: false,
            reading: true,
            written: 0,
            packet_ends: VecDeque::new(),
            ingested: 0,
            packet_at: 0,
            server_end: None,
            client_end: None,
            noted: false,
            keep_alive: 0,
        }
    }

    /// Bytes that the broker may write now.
    #[must_use]
    pub fn room(&self, window: usize) -> usize {
        window.saturating_sub(self.down_queued)
    }

    /// Whether the broker has something to read or to learn.
    #[must_use]
    pub fn readable(&self) -> bool {
        !self.up.is_empty() || self.up_ended.is_some()
    }
}

/// Time, chance and pipes: everything outside the broker and its clients.
#[derive(Debug)]
pub struct Net {
    /// Virtual time in nanoseconds.
    pub now: u64,
    /// Chance in the network and the scheduling.
    pub prng: Prng,
    /// The settings of this run.
    pub knobs: Knobs,
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    /// All connections ever made.
    pub pipes: Vec<Pipe>,
    /// One per shard.
    pub rings: Vec<Ring>,
    /// When each shard has its next turn.
    pub turn_at: Vec<u64>,
    /// Situations met.
    pub coverage: Coverage,
    /// What happened.
    pub trace: Trace,
    /// The first broken promise.
    pub violation: Option<String>,
    /// Nothing goes wrong any more: the run settles.
    pub settling: bool,
    /// The broker accepts no more.
    pub listening: bool,
    /// When the broker stopped at once, each time.
    pub crashes: Vec<u64>,
    /// Those of them in which the power went.
    pub power_cuts: Vec<u64>,
    /// From when to when the clock jumped.
    pub jumps: Vec<(u64, u64)>,
}

/// Where the clock starts: not at zero, where subtractions hide their mistakes.
pub const START: u64 = 1_000 * SECOND;

impl Net {
    /// At the start of time.
    #[must_use]
    pub fn new(seed: u64, knobs: Knobs, trace: Trace) -> Self {
        let shards = usize::from(knobs.shards);
        Self {
            now: START,
            prng: Prng::new(seed, 0x6e65_7477),
            heap: BinaryHeap::new(),
            sequence: 0,
            pipes: Vec::new(),
            rings: (0..shards).map(|_| Ring::new(knobs.slots)).collect(),
            turn_at: vec![NEVER; shards],
            coverage: Coverage::default(),
            trace,
            violation: None,
            settling: false,
            listening: true,
            crashes: Vec::new(),
            power_cuts: Vec::new(),
            jumps: Vec::new(),
            knobs,
        }
    }

    /// Notes a broken promise; the first one counts.
    pub fn fail(&mut self, text: String) {
        if self.violation.is_none() {
            self.trace.line(self.now, format_args!("VIOLATION {text}"));
            self.violation = Some(text);
        }
    }

    /// Since when so much time has passed in which things could happen: none does while the clock jumps.
    #[must_use]
    pub fn ago(&self, nanoseconds: u64) -> u64 {
        let (mut end, mut left) = (self.now, nanoseconds);
        for (from, to) in self.jumps.iter().rev() {
            let passed = end - to;
            if passed >= left {
                break;
            }
            (end, left) = (*from, left - passed);
        }
        end.saturating_sub(left)
    }

    /// Puts an event on the heap.
    pub fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse((time, self.sequence, event)));
    }

    /// The next event, with the clock moved to it.
    pub fn next(&mut self, until: u64) -> Option<Event> {
        let Reverse((time, _, _)) = self.heap.peek()?;
        if *time > until {
            return None;
        }
        let Reverse((time, _, event)) = self.heap.pop()?;
        // After a jump events are late, never early.
        self.now = self.now.max(time);
        if let Event::Turn(shard) = event {
            // A turn that was brought forward leaves its old entry behind.
            if self.turn_at[usize::from(shard)] != time {
                return Some(Event::Turn(u16::MAX));
            }
        }
        Some(event)
    }

    /// Gives a shard a turn, at this time or earlier.
    pub fn turn(&mut self, shard: u16, time: u64) {
        if time < self.turn_at[usize::from(shard)] {
            self.turn_at[usize::from(shard)] = time;
            self.at(time, Event::Turn(shard));
        }
    }

    /// Gives a shard a turn soon.
    pub fn wake(&mut self, shard: u16) {
        let delay = self.prng.between(1_000, 200_000);
        self.turn(shard, self.now + delay);
    }

    fn wake_holder(&mut self, pipe: PipeId) {
        if let Place::At(shard, _) = self.pipes[pipe].place {
            self.wake(shard);
        }
    }

    fn delay(&mut self) -> u64 {
        match self.prng.below(100) {
            0..70 => self.prng.between(20_000, 500_000),
            70..97 => self.prng.between(500_000, 20 * MS),
            _ if self.settling => self.prng.between(MS, 20 * MS),
            _ => self.prng.between(20 * MS, 900 * MS),
        }
    }

    // The client's side.

    /// Opens a connection.
    pub fn connect(&mut self, client: usize) -> PipeId {
        let pipe = self.pipes.len();
        self.pipes.push(Pipe::new(client));
        let at = self.now + self.delay();
        self.at(at, Event::Syn(pipe));
        pipe
    }

    /// Writes one packet, or what the client takes for one.
    pub fn write(&mut self, pipe: PipeId, bytes: Vec<u8>) {
        let state = &mut self.pipes[pipe];
        state.packet_ends.push_back(state.written + bytes.len() as u64);
        self.write_part(pipe, bytes);
    }

    /// Writes the beginning of a packet, which breaks no silence [MQTT-3.1.2-22].
    pub fn write_part(&mut self, pipe: PipeId, bytes: Vec<u8>) {
        let at = self.now + self.delay();
        let state = &mut self.pipes[pipe];
        state.written += bytes.len() as u64;
        let end = state.written;
        if state.black_hole || state.up_end.is_some() || state.place == Place::Gone {
            return;
        }
        // What is written in one go often travels together.
        if let Some((_, last)) = state.up_flight.back_mut()
            && !end.is_multiple_of(3)
        {
            last.extend_from_slice(&bytes);
            return;
        }
        let at = at.max(state.up_last);
        state.up_last = at;
        state.up_flight.push_back((at, bytes));
        self.at(at, Event::Up(pipe));
    }

    /// Ends the client's side. `Reset` may overtake bytes on their way.
    pub fn end(&mut self, pipe: PipeId, how: End) {
        let at = self.now + self.delay();
        let now = self.now;
        let cut = self.prng.next_u64();
        let state = &mut self.pipes[pipe];
        state.client_end.get_or_insert(now);
        if state.up_end.is_some() || state.black_hole {
            return;
        }
        let mut at = at.max(state.up_last);
        if how == End::Reset {
            // Any number of the bytes on their way are lost, in any place.
            let flying: usize = state.up_flight.iter().map(|segment| segment.1.len()).sum();
            let mut keep = (cut % (flying as u64 + 1)) as usize;
            for (_, segment) in &mut state.up_flight {
                let kept = keep.min(segment.len());
                segment.truncate(kept);
                keep -= kept;
            }
            at = at.max(state.up_last);
        }
        state.up_end = Some((at, how));
        self.at(at, Event::Up(pipe));
    }

    /// The client's machine is gone: nothing gets through, nobody is told.
    pub fn vanish(&mut self, pipe: PipeId) {
        let now = self.now;
        let state = &mut self.pipes[pipe];
        state.client_end.get_or_insert(now);
        state.black_hole = true;
        state.up_flight.clear();
    }

    /// Ends what vanished: the run is about to end, and the broker shall learn of it.
    pub fn clear_black_hole(&mut self, pipe: PipeId) {
        self.pipes[pipe].black_hole = false;
        self.end(pipe, End::Reset);
    }

    /// The client takes what has arrived.
    pub fn read(&mut self, pipe: PipeId) -> Vec<u8> {
        let state = &mut self.pipes[pipe];
        let bytes: Vec<u8> = state.down.drain(..).collect();
        state.down_queued -= bytes.len();
        if !bytes.is_empty() {
            self.wake_holder(pipe);
        }
        bytes
    }

    // The way.

    /// Bytes arrive at the broker's side.
    pub fn arrive_up(&mut self, pipe: PipeId) {
        let now = self.now;
        let state = &mut self.pipes[pipe];
        while state.up_flight.front().is_some_and(|segment| segment.0 <= now) {
            let (_, bytes) = state.up_flight.pop_front().unwrap_or_default();
            state.up.extend(bytes);
        }
        if state.up_flight.is_empty()
            && let Some((at, how)) = state.up_end
            && at <= now
            && state.up_ended.is_none()
        {
            state.up_ended = Some(how);
        }
        self.wake_holder(pipe);
    }

    /// Bytes arrive at the client's side. Whether there is anything new for it.
    pub fn arrive_down(&mut self, pipe: PipeId) -> bool {
        let now = self.now;
        let state = &mut self.pipes[pipe];
        let mut news = false;
        while state.down_flight.front().is_some_and(|segment| segment.0 <= now) {
            let (_, bytes) = state.down_flight.pop_front().unwrap_or_default();
            state.down.extend(bytes);
            news = true;
        }
        if state.down_flight.is_empty()
            && let Some((at, how)) = state.down_end
            && at <= now
            && state.down_ended.is_none()
        {
            state.down_ended = Some(how);
            news = true;
        }
        news
    }

    // The broker's side.

    /// The broker reads at most `most` bytes.
    pub fn take_up(&mut self, pipe: PipeId, most: usize) -> Vec<u8> {
        let now = self.now;
        let state = &mut self.pipes[pipe];
        let count = most.min(state.up.len());
        let bytes: Vec<u8> = state.up.drain(..count).collect();
        state.ingested += bytes.len() as u64;
        while state.packet_ends.front().is_some_and(|end| *end <= state.ingested) {
            state.packet_ends.pop_front();
            state.packet_at = now;
        }
        bytes
    }

    /// The broker writes; how many bytes were taken.
    pub fn put_down(&mut self, pipe: PipeId, bytes: &[u8]) -> usize {
        let at = self.now + self.delay();
        let window = self.knobs.window;
        let state = &mut self.pipes[pipe];
        let count = state.room(window).min(bytes.len());
        if state.client_end.is_some() && !state.black_hole {
            // The peer's system takes and drops it.
            return bytes.len();
        }
        if count == 0 {
            return 0;
        }
        state.down_queued += count;
        if state.black_hole {
            return count;
        }
        let at = at.max(state.down_last);
        state.down_last = at;
        state.down_flight.push_back((at, bytes[..count].to_vec()));
        self.at(at, Event::Down(pipe));
        count
    }

    /// The broker has closed its end.
    pub fn close_server(&mut self, pipe: PipeId) {
        let at = self.now + self.delay();
        let cut = self.prng.next_u64();
        let now = self.now;
        let state = &mut self.pipes[pipe];
        state.place = Place::Gone;
        state.server_end.get_or_insert(now);
        // Closing with unread bytes resets the connection, and what was on its way may be lost.
        let how = if state.up.is_empty() { End::Fin } else { End::Reset };
        if how == End::Reset && cut.is_multiple_of(2) {
            state.down_flight.clear();
        }
        if state.down_end.is_none() && !state.black_hole {
            let at = at.max(state.down_last);
            state.down_end = Some((at, how));
            self.at(at, Event::Down(pipe));
        }
    }

    /// The broker knows that the connection is over.
    pub fn know_end(&mut self, pipe: PipeId) {
        let now = self.now;
        self.pipes[pipe].server_end.get_or_insert(now);
    }

    /// The broker's process is gone, and with it all its connections and slots.
    pub fn crash(&mut self) {
        self.crashes.push(self.now);
        for pipe in 0..self.pipes.len() {
            if matches!(self.pipes[pipe].place, Place::At(..)) {
                self.pipes[pipe].noted = true;
                self.close_server(pipe);
            }
        }
        let slots = self.knobs.slots;
        self.rings.iter_mut().for_each(|ring| *ring = Ring::new(slots));
        self.turn_at.fill(NEVER);
    }

    /// Counts a situation.
    pub fn hit(&mut self, situation: Situation) {
        self.coverage.hit(situation);
    }
}

impl Pipe {
    /// Stands in a slot whose connection has moved to another ring.
    #[must_use]
    pub fn ghost() -> Self {
        let mut ghost = Self::new(usize::MAX);
        ghost.place = Place::Gone;
        ghost.black_hole = true;
        ghost
    }
}
