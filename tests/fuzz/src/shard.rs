//! Several shards in one thread, their rings and their clients, and any row of events.
//!
//! The hands are fake, as in `tests/simulation`, and keep the promises of the real ones: for each slot events come in their
//! order, the last is `Closed`; a slot is used again only after it; one send is in flight per connection. When what happens
//! comes from the bytes, also rows of events happen that no scheduler would think of.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use midge_codec::ProtocolVersion;
use midge_mesh::{InterestMap, ShardId, ShardSet};
use midge_metrics::Counters;
use midge_output::Output;
use midge_session::{Limits, QueueLimits, Time};
use midge_shard::{
    Action, ConnectionId, Envelope, ListenerId, Luggage, OutboxLimits, RetainedCounts, Settings,
    Shard, Shared,
};

use crate::choices::Choices;
use crate::packets;
use crate::reader::Reader;

/// Connections that one shard's table holds.
const SLOTS: usize = 6;
/// Envelopes that a ring from one shard to another holds.
const RING: usize = 3;
/// Longest session expiry, in seconds: after twice as long nothing is left.
const EXPIRY_MAX: u32 = 300;
/// Rounds in which shards that nobody disturbs must come to rest.
const ROUNDS_MAX: usize = 20_000;

/// One place in a shard's table.
struct Slot {
    /// Not before the shard has taken note of it may it be used.
    adopted: bool,
    /// The shard wants bytes; `Some(true)` once.
    receives: Option<bool>,
    /// Paused while a receive was under way: one more may come.
    late: bool,
    sending: Option<Box<Output>>,
    hand_over: Option<(ShardId, Box<Luggage>)>,
    lost: bool,
    closing: bool,
    reader: Reader,
    /// The version of the CONNECT that the client sent.
    version: Option<ProtocolVersion>,
}

impl Slot {
    fn new(adopted: bool) -> Self {
        Self {
            adopted,
            receives: None,
            late: false,
            sending: None,
            hand_over: None,
            lost: false,
            closing: false,
            reader: Reader::default(),
            version: None,
        }
    }

    fn is_open(&self) -> bool {
        self.adopted && !self.closing && self.hand_over.is_none() && !self.lost
    }
}

struct World {
    shards: Vec<Shard>,
    slots: Vec<[Option<Slot>; SLOTS]>,
    /// By source, then by target.
    rings: Vec<Vec<VecDeque<Envelope>>>,
    interest: Option<Arc<InterestMap>>,
    now: Time,
}

fn settings(kind: u8) -> Settings {
    let tight = kind & 4 != 0;
    Settings {
        limits: Limits {
            maximum_packet_size: 1024,
            receive_maximum: if tight { 2 } else { 20 },
            topic_alias_maximum: 3,
            topic_alias_maximum_outbound: 3,
            in_flight_max: if tight { 2 } else { 5 },
            keep_alive_seconds_max: if kind & 8 != 0 { 10 } else { 0 },
            session_expiry_interval_seconds_max: EXPIRY_MAX,
            session_expiry_interval_seconds_v3: EXPIRY_MAX,
            client_id_size_max: 23,
            ..Limits::default()
        },
        queue: QueueLimits { messages_max: if tight { 2 } else { 20 }, bytes_max: 3000 },
        queue_qos0: kind & 16 != 0,
        output_bytes_max: 1024,
        subscriptions_per_client_max: if tight { 3 } else { 50 },
        connections_max: if tight { 4 } else { SLOTS },
        sessions_max: if tight { 3 } else { 100 },
        retained_messages_max: 3,
        retained_bytes_max: 2000,
        share_backlog_messages_max: if tight { 1 } else { 10 },
        outbox: OutboxLimits { bytes_max: 1500, envelopes_max: 4 },
        ..Settings::default()
    }
}

/// Any row of events: nothing panics, every queue stays within its bound, clients are sent what a server may send, and when all
/// of them are gone nothing is left of them.
///
/// The first byte chooses the shards and their settings; each event takes one byte for its kind and as many as it needs.
///
/// Returns what the shards have counted: for whoever wants to know which situations were met.
pub fn shard(bytes: &[u8]) -> Counters {
    let mut choices = Choices::new(bytes);
    let Some(kind) = choices.byte() else { return Counters::default() };
    let mut world = World::new(kind);
    while world.event(&mut choices).is_some() {
        world.check();
    }
    world.end()
}

impl World {
    fn new(kind: u8) -> Self {
        let shards = u16::from(kind % 3) + 1;
        let interest = (shards > 1).then(|| Arc::new(InterestMap::new(shards, 64)));
        let shared = Shared {
            interest: interest.clone(),
            retained_counts: Arc::new(RetainedCounts::new(shards)),
        };
        let settings = Arc::new(settings(kind));
        let now = Time::from_seconds(1000);
        let shard = |id| {
            let id = ShardId::new(id);
            Shard::new(id, shards, Arc::clone(&settings), shared.clone(), [1, 2, 3, 4], now)
        };
        let empty = || std::array::from_fn(|_| None);
        let rings = || (0..shards).map(|_| VecDeque::new()).collect();
        Self {
            shards: (0..shards).map(shard).collect(),
            slots: (0..shards).map(|_| empty()).collect(),
            rings: (0..shards).map(|_| rings()).collect(),
            interest,
            now,
        }
    }

    /// One event; `None` when the choices are used up.
    fn event(&mut self, choices: &mut Choices<'_>) -> Option<()> {
        let kind = choices.byte()?;
        // The upper bits name whom it concerns.
        let at = usize::from(kind >> 4);
        let shard = at % self.shards.len();
        match kind % 16 {
            0 => self.accept(shard),
            1 => {
                let Some((shard, slot)) = self.slot(at, Slot::is_open) else { return Some(()) };
                let mut bytes = Vec::new();
                let announced = packets::connect(choices, &mut bytes)?;
                let state = self.slots[shard][slot].as_mut()?;
                if state.version.is_none() {
                    state.reader.announced = Some(announced);
                    state.version = Some(announced.version);
                }
                self.receive(shard, slot, &bytes);
            }
            2..6 => {
                let Some((shard, slot)) = self.slot(at, Slot::is_open) else { return Some(()) };
                let version = self.slots[shard][slot].as_ref()?.version;
                let mut bytes = Vec::new();
                let version = version.unwrap_or(ProtocolVersion::V5);
                let acknowledgement = packets::packet(choices, version, &mut bytes)?;
                if let Some((id, qos)) = acknowledgement {
                    self.slots[shard][slot].as_mut()?.reader.acknowledged(id, qos);
                }
                self.receive(shard, slot, &bytes);
            }
            6 => {
                let Some((shard, slot)) = self.slot(at, Slot::is_open) else { return Some(()) };
                let bytes = choices.bytes()?;
                self.slots[shard][slot].as_mut()?.reader.announced = None;
                self.receive(shard, slot, bytes);
            }
            7 => {
                let Some((shard, slot)) = self.slot(at, Slot::is_open) else { return Some(()) };
                self.lose(shard, slot);
            }
            8 | 9 => self.flush(shard),
            10 => {
                if let Some((shard, slot)) = self.find(at, |slot| slot.sending.is_some()) {
                    self.sent(shard, slot);
                }
            }
            11 => self.finish(at, choices.byte()? & 1 == 0),
            12 => {
                let milliseconds = choices.of(&[0, 1, 12, 100, 900, 5_000, 60_000, 400_000])?;
                self.turn(shard, milliseconds);
            }
            13 => self.send_envelopes(shard),
            14 => {
                let target = choices.below(self.shards.len())?;
                self.take_envelope(shard, target);
            }
            // Everything that is under way arrives, except what clients have not taken.
            _ => {
                self.exchange_all();
            }
        }
        Some(())
    }

    /// A slot for which an event makes sense, counted from `at`; an accepted connection when there is none.
    fn slot(&mut self, at: usize, fits: impl Fn(&Slot) -> bool) -> Option<(usize, usize)> {
        if let Some(found) = self.find(at, &fits) {
            return Some(found);
        }
        self.accept(at % self.shards.len());
        self.find(at, &fits)
    }

    fn find(&self, at: usize, fits: impl Fn(&Slot) -> bool) -> Option<(usize, usize)> {
        let all =
            (0..self.shards.len()).flat_map(|shard| (0..SLOTS).map(move |slot| (shard, slot)));
        let fitting: Vec<_> = all
            .filter(|&(shard, slot)| self.slots[shard][slot].as_ref().is_some_and(&fits))
            .collect();
        (!fitting.is_empty()).then(|| fitting[at % fitting.len()])
    }

    fn accept(&mut self, shard: usize) {
        let Some(slot) = self.slots[shard].iter().position(Option::is_none) else { return };
        self.slots[shard][slot] = Some(Slot::new(true));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = ConnectionId(slot as u32);
        self.shards[shard].handle_accepted(id, peer, ListenerId(0), self.now);
        self.act(shard);
    }

    fn receive(&mut self, shard: usize, slot: usize, bytes: &[u8]) {
        let Some(state) = self.slots[shard][slot].as_mut() else { return };
        if state.lost || bytes.is_empty() || !(state.receives.is_some() || state.late) {
            return;
        }
        match state.receives {
            Some(true) => state.receives = None,
            Some(false) => {}
            None => state.late = false,
        }
        self.shards[shard].handle_received(ConnectionId(slot as u32), bytes, self.now);
        self.act(shard);
    }

    fn lose(&mut self, shard: usize, slot: usize) {
        let Some(state) = self.slots[shard][slot].as_mut() else { return };
        state.lost = true;
        state.receives = None;
        self.shards[shard].handle_lost(ConnectionId(slot as u32), self.now);
        self.act(shard);
    }

    fn sent(&mut self, shard: usize, slot: usize) {
        let Some(state) = self.slots[shard][slot].as_mut() else { return };
        let Some(output) = state.sending.take() else { return };
        let bytes: Vec<u8> = output.segments().flatten().copied().collect();
        state.reader.read(&bytes);
        self.shards[shard].handle_sent(ConnectionId(slot as u32), output, self.now);
        self.act(shard);
    }

    /// A close or a hand-over comes to its end; a hand-over fails when it is told to, or when there is no room.
    fn finish(&mut self, at: usize, works: bool) {
        let ends = |slot: &Slot| slot.adopted && (slot.closing || slot.hand_over.is_some());
        let Some((shard, slot)) = self.find(at, ends) else { return };
        let id = ConnectionId(slot as u32);
        let Some(state) = self.slots[shard][slot].as_mut() else { return };
        let Some((target, luggage)) = state.hand_over.take() else {
            self.slots[shard][slot] = None;
            self.shards[shard].handle_closed(id, self.now);
            return self.act(shard);
        };
        let works = works && !state.closing;
        let free = self.slots[target.index()].iter().position(Option::is_none);
        let free = free.filter(|_| works);
        if let (Some(free), Some(state)) = (free, self.slots[shard][slot].as_mut()) {
            let (reader, version) = (std::mem::take(&mut state.reader), state.version);
            state.closing = true;
            let arrived = Slot { reader, version, lost: false, ..Slot::new(false) };
            self.slots[target.index()][free] = Some(arrived);
        }
        let arrived = free.map(|free| ConnectionId(free as u32));
        self.shards[shard].handle_handed_over(id, target, arrived, luggage, self.now);
        self.act(shard);
    }

    fn turn(&mut self, shard: usize, milliseconds: u64) -> bool {
        self.now = self.now.plus_millis(milliseconds);
        let more = self.shards[shard].handle_turn(self.now);
        self.act(shard);
        more
    }

    fn flush(&mut self, shard: usize) {
        while let Some((id, output)) = self.shards[shard].next_flush() {
            let slot = self.slots[shard][id.0 as usize].as_mut().expect("a slot in use");
            assert!(slot.sending.is_none(), "two sends at once");
            assert!(slot.adopted && slot.hand_over.is_none(), "a send for a slot that is not open");
            if slot.closing {
                continue;
            }
            slot.sending = Some(output);
        }
    }

    fn send_envelopes(&mut self, source: usize) {
        let mut targets = Vec::new();
        self.shards[source].take_waiting_targets(&mut targets);
        for target in targets {
            assert_ne!(target.index(), source, "an envelope to itself");
            while let Some(envelope) = self.shards[source].poll_envelope(target) {
                let ring = &mut self.rings[source][target.index()];
                if ring.len() == RING {
                    self.shards[source].put_back(target, envelope);
                    break;
                }
                ring.push_back(envelope);
            }
        }
        self.act(source);
    }

    fn take_envelope(&mut self, source: usize, target: usize) -> bool {
        let Some(envelope) = self.rings[source][target].pop_front() else { return false };
        self.shards[target].handle_envelope(ShardId::new(source as u16), envelope, self.now);
        self.act(target);
        true
    }

    /// Moves envelopes until there are none; whether there were any.
    fn exchange_all(&mut self) -> bool {
        let mut any = false;
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for source in 0..self.shards.len() {
                self.send_envelopes(source);
                for target in 0..self.shards.len() {
                    moved |= self.take_envelope(source, target);
                }
            }
            any |= moved;
            if !moved {
                return any;
            }
        }
        panic!("shards talk for ever");
    }

    fn act(&mut self, shard: usize) {
        while let Some(action) = self.shards[shard].poll_action() {
            let slot = |id: ConnectionId| id.0 as usize;
            let slots = &mut self.slots[shard];
            match action {
                Action::Receive(id) | Action::ReceiveOnce(id) => {
                    let state = slots[slot(id)].as_mut().expect("a slot in use");
                    assert!(state.adopted, "a receive before the connection was adopted");
                    if !state.closing && !state.lost && state.hand_over.is_none() {
                        state.receives = Some(matches!(action, Action::ReceiveOnce(_)));
                    }
                }
                Action::Pause(id) => {
                    let state = slots[slot(id)].as_mut().expect("a slot in use");
                    state.late = state.receives == Some(false);
                    state.receives = None;
                }
                Action::Close(id) => {
                    let state = slots[slot(id)].as_mut().expect("a slot in use");
                    assert!(state.adopted, "a close before the connection was adopted");
                    state.closing = true;
                    state.receives = None;
                    // What is in flight is cut off; whether it arrived is not known.
                    state.sending = None;
                }
                Action::Adopt { connection: id, .. } => {
                    let state = slots[slot(id)].as_mut().expect("a slot in use");
                    assert!(!std::mem::replace(&mut state.adopted, true), "adopted twice");
                }
                Action::HandOver { connection, target, luggage } => {
                    let state = slots[slot(connection)].as_mut().expect("a slot in use");
                    assert!(state.is_open() && state.sending.is_none());
                    assert_ne!(target.index(), shard, "a hand-over to itself");
                    state.receives = None;
                    state.hand_over = Some((target, luggage));
                }
                Action::Note(_) => {}
                Action::Lost { .. } => unreachable!("nothing is kept"),
                Action::Ban(_) => unreachable!("nothing is limited"),
                Action::Audit(_) => unreachable!("nobody asks for it"),
                Action::Authenticate { .. } => unreachable!("nobody is asked for a password"),
            }
        }
    }

    fn check(&self) {
        for shard in &self.shards {
            shard.check_integrity();
            shard.check_bounds();
        }
    }

    /// Everybody leaves, time passes: nothing of anybody is left.
    fn end(mut self) -> Counters {
        for _ in 0..2 {
            while let Some((shard, slot)) = self.find(0, Slot::is_open) {
                self.lose(shard, slot);
                self.check();
            }
            self.rest();
            // Sessions expire, and wills that waited go out.
            for shard in 0..self.shards.len() {
                self.turn(shard, 1000 * u64::from(EXPIRY_MAX));
            }
            self.rest();
            self.check();
        }
        assert!(self.slots.iter().flatten().all(Option::is_none), "slots in use");
        for shard in &self.shards {
            shard.check_empty();
            assert_eq!(shard.next_timeout(), None, "a timer");
            assert_eq!(shard.counters().connections_now, 0);
        }
        let mut set = ShardSet::new();
        for topic in packets::TOPICS {
            if let Some(interest) = &self.interest {
                interest.interested(topic, &mut set);
            }
            assert_eq!(set.iter().next(), None, "somebody is still interested in {topic}");
        }
        let mut counters = Counters::default();
        self.shards.iter().for_each(|shard| counters.merge(&shard.counters()));
        counters
    }

    /// Lets everything happen that is under way.
    fn rest(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut busy = self.exchange_all();
            for shard in 0..self.shards.len() {
                busy |= self.turn(shard, 1);
                self.flush(shard);
            }
            while let Some((shard, slot)) = self.find(0, |slot| slot.sending.is_some()) {
                self.sent(shard, slot);
                busy = true;
            }
            if let Some((shard, slot)) = self.find(0, Slot::is_open) {
                self.lose(shard, slot);
                busy = true;
            }
            let ends = |slot: &Slot| slot.adopted && (slot.closing || slot.hand_over.is_some());
            if self.find(0, ends).is_some() {
                self.finish(0, true);
                busy = true;
            }
            // Last words are given up after a while.
            if !busy && self.find(0, |_| true).is_some() {
                busy = true;
                (0..self.shards.len()).for_each(|shard| {
                    self.turn(shard, 1000);
                });
            }
            if !busy {
                return;
            }
        }
        panic!("the shards find no rest");
    }
}
