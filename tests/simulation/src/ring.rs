//! The fake net ring: the same promises as the real one, none of its system calls.
//!
//! For each slot the events come in the order in which things happened to it, the last is `Closed`; between slots any
//! order is possible, and the turn chooses. A call that the real ring would refuse (a send while one is in flight, any
//! call for a slot that is not open) is a broken promise of the shard.

use midge_mesh::ShardId;
use midge_output::Output;

use crate::coverage::Situation;
use crate::net::{End, MS, NEVER, Net, PipeId, Place};

/// What a slot wants to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// One piece.
    Once,
    /// Everything.
    Continuous,
}

/// What the ring tells its shard.
#[derive(Debug)]
pub enum Completion {
    /// Bytes came.
    Received(Vec<u8>),
    /// The peer sends no more, or the connection broke.
    Lost,
    /// An output has left.
    Sent(Box<Output>),
    /// The slot is free.
    Closed,
    /// The other ring has the connection, or not.
    HandedOver {
        /// As given.
        token: u64,
        /// The other ring's slot.
        arrived: Option<u32>,
    },
}

#[derive(Debug)]
struct Sending {
    output: Box<Output>,
    bytes: Vec<u8>,
    at: usize,
}

#[derive(Debug, Clone, Copy)]
struct HandOver {
    token: u64,
    target: ShardId,
    ready_at: u64,
}

/// One place in the table.
#[derive(Debug)]
pub struct Slot {
    /// The connection.
    pub pipe: PipeId,
    /// Not before the owner has adopted it may it be used.
    adopted: bool,
    wish: Option<Wish>,
    /// One more piece may come although it is paused.
    late: bool,
    sending: Option<Sending>,
    lost_told: bool,
    failed: bool,
    hand_over: Option<HandOver>,
    closing: Option<u64>,
}

/// One shard's table.
#[derive(Debug)]
pub struct Ring {
    slots: Vec<Option<Slot>>,
}

impl Ring {
    /// An empty table.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| None).collect() }
    }

    /// How many connections it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn free(&self) -> Option<u32> {
        self.slots.iter().position(Option::is_none).map(|at| at as u32)
    }
}

impl Net {
    /// A connection attempt reaches some ring that has room; `None` when none has.
    pub fn accept(&mut self, pipe: PipeId) -> Option<(u16, u32)> {
        let shards = self.rings.len() as u64;
        let first = self.prng.below(shards);
        for step in 0..shards {
            let shard = ((first + step) % shards) as u16;
            if let Some(slot) = self.put(shard, pipe, true) {
                return Some((shard, slot));
            }
        }
        None
    }

    fn put(&mut self, shard: u16, pipe: PipeId, adopted: bool) -> Option<u32> {
        let free = self.rings[usize::from(shard)].free()?;
        self.rings[usize::from(shard)].slots[free as usize] = Some(Slot {
            pipe,
            adopted,
            wish: None,
            late: false,
            sending: None,
            lost_told: false,
            failed: false,
            hand_over: None,
            closing: None,
        });
        self.pipes[pipe].place = Place::At(shard, free);
        Some(free)
    }

    fn slot(&mut self, shard: u16, slot: u32, what: &str) -> Option<&mut Slot> {
        let known = self.rings[usize::from(shard)]
            .slots
            .get(slot as usize)
            .and_then(Option::as_ref)
            .is_some_and(|slot| slot.adopted);
        if !known {
            self.fail(format!("shard {shard} asks for {what} on slot {slot}, which is not open"));
            return None;
        }
        self.rings[usize::from(shard)].slots[slot as usize].as_mut()
    }

    /// The pipe in a slot.
    #[must_use]
    pub fn pipe_at(&self, shard: u16, slot: u32) -> Option<PipeId> {
        let slots = &self.rings[usize::from(shard)].slots;
        slots.get(slot as usize)?.as_ref().map(|slot| slot.pipe)
    }

    /// Starts receiving.
    pub fn receive(&mut self, shard: u16, slot: u32, wish: Wish) {
        if let Some(slot) = self.slot(shard, slot, "receive") {
            if slot.closing.is_some() || slot.failed || slot.hand_over.is_some() {
                return;
            }
            slot.wish = Some(wish);
        }
    }

    /// Stops receiving.
    pub fn pause(&mut self, shard: u16, slot: u32) {
        let late = self.prng.permille(300);
        if let Some(slot) = self.slot(shard, slot, "pause") {
            slot.late = slot.wish == Some(Wish::Continuous) && late;
            slot.wish = None;
        }
    }

    /// Sends an output.
    pub fn send(&mut self, shard: u16, slot: u32, output: Box<Output>) {
        let Some(state) = self.slot(shard, slot, "send") else { return };
        if state.sending.is_some() {
            return self.fail(format!("shard {shard} sends twice at once on slot {slot}"));
        }
        if state.closing.is_some() || state.failed {
            return;
        }
        let mut bytes = Vec::with_capacity(output.size());
        output.segments().for_each(|segment| bytes.extend_from_slice(segment));
        let size = bytes.len();
        state.sending = Some(Sending { output, bytes, at: 0 });
        let pipe = state.pipe;
        self.trace.line(self.now, format_args!("s{shard} sends {size} to pipe {pipe}"));
    }

    /// Closes.
    pub fn close(&mut self, shard: u16, slot: u32) {
        let at = self.now + self.prng.between(0, 2 * MS);
        let Some(state) = self.slot(shard, slot, "close") else { return };
        if state.closing.is_some() {
            return;
        }
        state.closing = Some(at);
        state.wish = None;
        let pipe = state.pipe;
        self.know_end(pipe);
        self.trace.line(self.now, format_args!("s{shard} closes pipe {pipe}"));
        self.turn(shard, at);
    }

    /// Takes note of a connection that came from another ring.
    pub fn adopt(&mut self, shard: u16, slot: u32) {
        let state = self.rings[usize::from(shard)].slots.get_mut(slot as usize);
        match state.and_then(Option::as_mut) {
            Some(state) if !state.adopted => state.adopted = true,
            _ => self.fail(format!("shard {shard} adopts slot {slot}, which is not new")),
        }
    }

    /// Moves a connection.
    pub fn hand_over(&mut self, shard: u16, slot: u32, target: ShardId, token: u64) {
        let ready_at = self.now + self.prng.between(0, 3 * MS);
        let Some(state) = self.slot(shard, slot, "hand-over") else { return };
        assert!(state.hand_over.is_none(), "one hand-over at a time");
        state.wish = None;
        state.late = false;
        state.hand_over = Some(HandOver { token, target, ready_at });
        self.turn(shard, ready_at);
    }

    /// Whether an output of a pipe waits for its reader.
    #[must_use]
    pub fn is_sending(&self, pipe: PipeId) -> bool {
        let Place::At(shard, slot) = self.pipes[pipe].place else { return false };
        let slot = self.rings[usize::from(shard)].slots[slot as usize].as_ref();
        slot.is_some_and(|slot| slot.sending.is_some())
    }

    /// Slots of a shard where something could happen now.
    pub fn ready(&self, shard: u16) -> Vec<u32> {
        let slots = &self.rings[usize::from(shard)].slots;
        (0..slots.len() as u32)
            .filter(|at| {
                slots[*at as usize].as_ref().is_some_and(|slot| self.is_ready(slot).is_some())
            })
            .collect()
    }

    fn is_ready(&self, slot: &Slot) -> Option<Ready> {
        if !slot.adopted {
            return None;
        }
        let pipe = &self.pipes[slot.pipe];
        if let Some(at) = slot.closing {
            if let Some(hand_over) = slot.hand_over {
                return (hand_over.ready_at <= self.now).then_some(Ready::HandOver);
            }
            return (at <= self.now).then_some(Ready::Closed);
        }
        if slot.hand_over.is_some_and(|h| h.ready_at <= self.now) && slot.sending.is_none() {
            return Some(Ready::HandOver);
        }
        if let Some(sending) = &slot.sending
            && !slot.failed
        {
            let reset = pipe.up_ended == Some(End::Reset);
            let gone = pipe.client_end.is_some() && !pipe.black_hole;
            if reset || gone || sending.bytes.is_empty() || pipe.room(self.knobs.window) > 0 {
                return Some(Ready::Send);
            }
        }
        let receives = slot.wish.is_some() || (slot.late && !pipe.up.is_empty());
        if receives && !slot.lost_told && pipe.readable() {
            return Some(Ready::Receive);
        }
        None
    }

    /// Lets one thing happen in a slot.
    pub fn complete(&mut self, shard: u16, at: u32) -> Option<Completion> {
        let slot = self.rings[usize::from(shard)].slots[at as usize].as_ref()?;
        let mut ready = self.is_ready(slot)?;
        let pipe = slot.pipe;
        if ready == Ready::Send
            && (slot.wish.is_some() || slot.late)
            && !slot.lost_told
            && self.pipes[pipe].readable()
            && self.prng.permille(500)
        {
            ready = Ready::Receive;
        }
        match ready {
            Ready::Closed => {
                self.rings[usize::from(shard)].slots[at as usize] = None;
                self.close_server(pipe);
                self.trace.line(self.now, format_args!("s{shard} closed pipe {pipe}"));
                Some(Completion::Closed)
            }
            Ready::HandOver => self.complete_hand_over(shard, at, pipe),
            Ready::Send => self.complete_send(shard, at, pipe),
            Ready::Receive => self.complete_receive(shard, at, pipe),
        }
    }

    fn complete_hand_over(&mut self, shard: u16, at: u32, pipe: PipeId) -> Option<Completion> {
        let slot = self.rings[usize::from(shard)].slots[at as usize].as_mut()?;
        let HandOver { token, target, .. } = slot.hand_over.take()?;
        let left = slot.closing.is_none();
        let arrived = if left { self.put(target.get(), pipe, false) } else { None };
        if self.pipes[pipe].client_end.is_some() {
            self.hit(Situation::CutDuringHandOver);
        }
        self.hit(if arrived.is_some() { Situation::HandOver } else { Situation::HandOverFailed });
        self.trace.line(
            self.now,
            format_args!("s{shard} hands pipe {pipe} to s{}: {arrived:?}", target.get()),
        );
        if arrived.is_some() {
            // Our place is closed behind it; the pipe lives on elsewhere.
            let closed_at = self.now + self.prng.between(0, MS);
            let ghost = self.pipes.len();
            self.pipes.push(crate::net::Pipe::ghost());
            let slot = self.rings[usize::from(shard)].slots[at as usize].as_mut()?;
            slot.pipe = ghost;
            slot.closing = Some(closed_at);
            self.turn(shard, closed_at);
        }
        Some(Completion::HandedOver { token, arrived })
    }

    fn complete_send(&mut self, shard: u16, at: u32, pipe: PipeId) -> Option<Completion> {
        let mut sending =
            self.rings[usize::from(shard)].slots[at as usize].as_mut()?.sending.take()?;
        if self.pipes[pipe].up_ended == Some(End::Reset) && self.prng.permille(700) {
            let slot = self.rings[usize::from(shard)].slots[at as usize].as_mut()?;
            slot.failed = true;
            slot.wish = None;
            if slot.lost_told {
                return None;
            }
            slot.lost_told = true;
            self.know_end(pipe);
            return Some(Completion::Lost);
        }
        let left = sending.bytes.len() - sending.at;
        let try_now = if self.prng.permille(150) {
            self.prng.between(1, left.max(1) as u64)
        } else {
            left as u64
        };
        let part = &sending.bytes[sending.at..][..(try_now as usize).min(left)];
        let taken = self.put_down(pipe, part);
        sending.at += taken;
        if sending.at == sending.bytes.len() {
            return Some(Completion::Sent(sending.output));
        }
        self.hit(Situation::PartialSend);
        if self.pipes[pipe].room(self.knobs.window) == 0 {
            self.hit(Situation::SendBlocked);
        }
        self.rings[usize::from(shard)].slots[at as usize].as_mut()?.sending = Some(sending);
        None
    }

    fn complete_receive(&mut self, shard: u16, at: u32, pipe: PipeId) -> Option<Completion> {
        let reset = self.pipes[pipe].up_ended == Some(End::Reset);
        let drop_rest = reset && self.prng.permille(300);
        let available = self.pipes[pipe].up.len();
        let slot = self.rings[usize::from(shard)].slots[at as usize].as_mut()?;
        if available == 0 || drop_rest {
            slot.late = false;
            slot.wish = None;
            slot.lost_told = true;
            slot.failed |= reset;
            self.know_end(pipe);
            self.trace.line(self.now, format_args!("s{shard} lost pipe {pipe}"));
            return Some(Completion::Lost);
        }
        if slot.wish == Some(Wish::Once) {
            slot.wish = None;
        }
        if slot.wish.is_none() && slot.late {
            slot.late = false;
            self.hit(Situation::LateReceive);
        }
        let most = match self.prng.below(10) {
            0 => 1,
            1..4 => self.prng.between(1, 64),
            _ => 4096,
        };
        let bytes = self.take_up(pipe, most as usize);
        self.trace.line(self.now, format_args!("s{shard} receives {} of pipe {pipe}", bytes.len()));
        Some(Completion::Received(bytes))
    }

    /// When something that takes time in a ring is done.
    #[must_use]
    pub fn ring_deadline(&self, shard: u16) -> u64 {
        let slots = self.rings[usize::from(shard)].slots.iter().flatten();
        slots
            .filter(|slot| slot.adopted)
            .filter_map(|slot| match (slot.closing, slot.hand_over) {
                (_, Some(hand_over)) => Some(hand_over.ready_at),
                (Some(at), None) => Some(at),
                (None, None) => None,
            })
            .min()
            .unwrap_or(NEVER)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Receive,
    Send,
    HandOver,
    Closed,
}
