//! The fake hands of one shard: the order of steps is the one of the real ones (`crates/reactor/src/hands.rs`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use midge_mesh::{Node, ShardId, ShardSet};
use midge_session::Time;
use midge_shard::{Action, ConnectionId, Envelope, Event, ListenerId, Luggage, Shard};

use crate::coverage::Situation;
use crate::disk::Disk;
use crate::net::{MS, NEVER, Net, PipeId};
use crate::ring::{Completion, Wish};

/// Where the broker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// As usual.
    Serving,
    /// Wills are out; clients are told at this time.
    Draining(u64),
    /// Clients were told.
    Told,
}

/// The other shards, as the one sees them that has its turn.
pub struct Others<'a> {
    /// Those before it.
    pub before: &'a mut [Host],
    /// Those behind it.
    pub after: &'a mut [Host],
}

impl Others<'_> {
    /// One of them, which hears from a mate now and has a turn soon.
    fn listening(&mut self, net: &mut Net, shard: ShardId) -> &mut Host {
        net.wake(shard.get());
        let (at, own) = (shard.index(), self.before.len());
        let mate = if at < own { &mut self.before[at] } else { &mut self.after[at - own - 1] };
        mate.took_in = true;
        mate
    }

    /// Has them take the runs that the shard has for them.
    fn take_crossing(&mut self, shard: &mut Shard, net: &mut Net, now: Time) {
        shard.give_crossing(|target, crossed| {
            net.hit(Situation::Crossed);
            self.listening(net, target).shard.handle_crossed(crossed, now);
        });
    }

    /// Has them take the envelopes that wait for them.
    fn take_envelopes(&mut self, host: &mut Host, net: &mut Net, now: Time) {
        let from = host.shard.id();
        while let Some(target) = host.waiting_mates.pop() {
            while let Some(envelope) = host.shard.poll_envelope(target) {
                self.listening(net, target).shard.handle_envelope(from, envelope, now);
            }
        }
    }
}

/// One shard with its fake hands.
pub struct Host {
    /// The mind.
    pub shard: Shard,
    /// Its end of the mesh.
    pub node: Node<Envelope>,
    accepted: Vec<(u32, PipeId)>,
    luggage: BTreeMap<u64, (ShardId, Box<Luggage>)>,
    next_token: u64,
    targets: Vec<ShardId>,
    /// The others of its thread.
    mates: ShardSet,
    waiting_mates: Vec<ShardId>,
    /// Whether it has heard from a mate since its last turn.
    took_in: bool,
    /// Under the shard's log.
    pub disk: Option<Disk>,
    /// Where it is in its life.
    pub phase: Phase,
    turns: u64,
    /// Turns between two integrity checks.
    pub check_every: u64,
}

impl Host {
    /// A shard that has not had a turn yet.
    #[must_use]
    pub fn new(shard: Shard, node: Node<Envelope>) -> Self {
        Self {
            shard,
            node,
            accepted: Vec::new(),
            luggage: BTreeMap::new(),
            next_token: 0,
            targets: Vec::new(),
            mates: ShardSet::new(),
            waiting_mates: Vec::new(),
            took_in: false,
            disk: None,
            phase: Phase::Serving,
            turns: 0,
            check_every: 1,
        }
    }

    /// It shares its thread with these.
    pub fn join(&mut self, mates: ShardSet) {
        self.shard.set_mates(mates.clone());
        self.mates = mates;
    }

    /// A connection attempt has landed in this shard's ring.
    pub fn accept(&mut self, slot: u32, pipe: PipeId) {
        self.accepted.push((slot, pipe));
    }

    /// Whether no connection is on its way to the shard or away from it, and no envelope to it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
            && self.luggage.is_empty()
            && self.node.inboxes_empty()
            && !self.took_in
    }

    /// One turn of the loop.
    pub fn turn(&mut self, net: &mut Net, mut others: Others<'_>) {
        let id = self.shard.id().get();
        net.turn_at[usize::from(id)] = NEVER;
        self.node.unpark();
        let now = Time::from_nanos(net.now);
        if std::mem::take(&mut self.took_in) {
            self.act(net);
            self.flush(net);
            self.send_envelopes(net);
        }
        let mut handled = self.handle_events(net, &mut others, now);
        handled += self.handle_inboxes(net, now);
        handled += self.handle_disk(net, now);
        let more = self.shard.handle_turn(now);
        others.take_crossing(&mut self.shard, net, now);
        self.act(net);
        self.flush(net);
        self.send_envelopes(net);
        self.step(net, now);
        self.use_disk(net);
        others.take_crossing(&mut self.shard, net, now);
        others.take_envelopes(self, net, now);
        self.turns += 1;
        if self.turns.is_multiple_of(self.check_every) {
            self.shard.check_integrity();
            self.shard.check_bounds();
        }
        self.sleep(net, more || handled > 0);
    }

    /// Decides about the next turn.
    fn sleep(&mut self, net: &mut Net, again: bool) {
        let id = self.shard.id().get();
        let ready = !net.ready(id).is_empty() || !self.accepted.is_empty();
        // A busy loop looks again at once; an idle one parks, and is woken by whoever has something for it.
        if again || ready || !self.node.announce_park() {
            if !again && !ready {
                self.node.unpark();
            }
            let pause = if !net.settling && net.prng.permille(net.knobs.stall) {
                net.hit(Situation::Stall);
                net.prng.between(5 * MS, 300 * MS)
            } else {
                net.prng.between(5_000, 300_000)
            };
            // A slot that waits for its peer must not keep us awake: its readiness wakes us.
            net.turn(id, net.now + pause);
            return;
        }
        if let Some(at) = self.shard.next_timeout() {
            net.turn(id, at.as_nanos().max(net.now + 1));
        }
        let deadline = net.ring_deadline(id);
        if deadline != NEVER {
            net.turn(id, deadline.max(net.now + 1));
        }
        let deadline = self.disk.as_ref().map_or(NEVER, Disk::deadline);
        if deadline != NEVER {
            net.turn(id, deadline.max(net.now + 1));
        }
        if let Phase::Draining(at) = self.phase {
            net.turn(id, at);
        }
    }

    /// What the disk has done.
    fn handle_disk(&mut self, net: &mut Net, now: Time) -> usize {
        let mut handled = 0;
        while let Some(disk) = &mut self.disk
            && let Some((id, completion)) = disk.poll(net.now, &mut net.coverage)
        {
            handled += 1;
            self.shard.handle_log_completion(id, completion, now);
            self.act(net);
        }
        handled
    }

    /// What the disk shall do.
    fn use_disk(&mut self, net: &Net) {
        let Some(disk) = &mut self.disk else { return };
        while let Some((id, operation)) = self.shard.poll_log_operation() {
            disk.submit(net.now, id, operation);
        }
    }

    fn handle_events(&mut self, net: &mut Net, others: &mut Others<'_>, now: Time) -> usize {
        let id = self.shard.id().get();
        let mut handled = 0;
        for (slot, pipe) in std::mem::take(&mut self.accepted) {
            handled += 1;
            let octets = (pipe as u32).to_be_bytes();
            let peer = SocketAddr::from((Ipv4Addr::from(octets), 1));
            net.trace.line(net.now, format_args!("s{id} accepts pipe {pipe} in slot {slot}"));
            self.shard.handle_accepted(ConnectionId(slot), peer, ListenerId(0), now);
            self.act(net);
            others.take_crossing(&mut self.shard, net, now);
        }
        let mut ready = net.ready(id);
        net.prng.shuffle(&mut ready);
        let rounds = net.prng.between(1, 3);
        for _ in 0..rounds {
            for &slot in &ready {
                if net.prng.permille(150) {
                    continue;
                }
                let pipe = net.pipe_at(id, slot);
                let Some(completion) = net.complete(id, slot) else { continue };
                handled += 1;
                self.handle(net, ConnectionId(slot), pipe, completion, now);
                self.act(net);
                others.take_crossing(&mut self.shard, net, now);
            }
        }
        handled
    }

    fn handle(
        &mut self,
        net: &mut Net,
        id: ConnectionId,
        pipe: Option<PipeId>,
        completion: Completion,
        now: Time,
    ) {
        match completion {
            Completion::Received(bytes) => self.shard.handle_received(id, &bytes, now),
            Completion::Lost => self.shard.handle_lost(id, now),
            Completion::Sent(output) => self.shard.handle_sent(id, output, now),
            Completion::Closed => self.shard.handle_closed(id, now),
            Completion::HandedOver { token, arrived } => {
                let Some((target, luggage)) = self.luggage.remove(&token) else {
                    return net.fail(format!("hand-over {token} of pipe {pipe:?} was not begun"));
                };
                let arrived = arrived.map(ConnectionId);
                self.shard.handle_handed_over(id, target, arrived, luggage, now);
            }
        }
    }

    fn handle_inboxes(&mut self, net: &mut Net, now: Time) -> usize {
        let budget = net.prng.pick(&[1, 2, 8, 64]);
        let Self { node, shard, .. } = self;
        node.drain(budget, |from, envelope| shard.handle_envelope(from, envelope, now))
    }

    fn act(&mut self, net: &mut Net) {
        let id = self.shard.id().get();
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Receive(slot) => net.receive(id, slot.0, Wish::Continuous),
                Action::ReceiveOnce(slot) => net.receive(id, slot.0, Wish::Once),
                Action::Pause(slot) => net.pause(id, slot.0),
                Action::Close(slot) => net.close(id, slot.0),
                Action::Adopt { connection, .. } => net.adopt(id, connection.0),
                Action::HandOver { connection, target, luggage } => {
                    let token = self.next_token;
                    self.next_token += 1;
                    self.luggage.insert(token, (target, luggage));
                    net.hand_over(id, connection.0, target, token);
                }
                // No scenario has users.
                Action::Authenticate { connection, .. } => {
                    panic!("somebody is asked about connection {}", connection.0)
                }
                // No disk here damages what it has synced.
                Action::Lost { client_id, messages } => {
                    net.fail(format!("{messages} messages for {client_id} are lost on the disk"));
                }
                // And none has limits that ban.
                Action::Ban(ban) => panic!("{ban:?}"),
                Action::Audit(note) => panic!("{note:?}"),
                Action::Note(note) => {
                    let peer = SocketAddr::from(note.peer);
                    let std::net::IpAddr::V4(address) = peer.ip() else { continue };
                    let pipe = u32::from(address) as PipeId;
                    self.note(net, pipe, note.event);
                }
            }
        }
    }

    fn note(&self, net: &mut Net, pipe: PipeId, event: Event) {
        let id = self.shard.id().get();
        net.trace.line(net.now, format_args!("s{id} notes {event:?} of pipe {pipe}"));
        net.pipes[pipe].noted = true;
        net.know_end(pipe);
        match event {
            Event::PeerError(_) => net.hit(Situation::ProtocolError),
            Event::Refused(_) => net.hit(Situation::Refused),
            Event::ConnectTimeout => net.hit(Situation::ConnectTimeout),
            Event::TakenOver => net.hit(Situation::TakeOver),
            // Nobody asks for it here.
            Event::Kicked => {}
            Event::NotKept => net.hit(Situation::NotKept),
            Event::KeepAliveTimeout => {
                net.hit(Situation::KeepAliveTimeout);
                let silent = net.now - net.pipes[pipe].packet_at;
                // A client that takes nothing is not read from, and its packets do not count.
                if silent < net.pipes[pipe].keep_alive / 2 * 3 && !net.is_sending(pipe) {
                    net.fail(format!(
                        "[MQTT-3.1.2-22] pipe {pipe} was closed for silence after {} ms",
                        silent / MS
                    ));
                }
            }
        }
    }

    fn flush(&mut self, net: &mut Net) {
        while let Some((id, output)) = self.shard.next_flush() {
            net.send(self.shard.id().get(), id.0, output);
        }
    }

    fn send_envelopes(&mut self, net: &mut Net) {
        let mut targets = std::mem::take(&mut self.targets);
        self.shard.take_waiting_targets(&mut targets);
        for target in targets.drain(..) {
            if self.mates.contains(target) {
                self.waiting_mates.push(target);
                continue;
            }
            while let Some(envelope) = self.shard.poll_envelope(target) {
                if let Err(envelope) = self.node.push(target, envelope) {
                    net.hit(Situation::RingFull);
                    self.shard.put_back(target, envelope);
                    break;
                }
            }
        }
        self.targets = targets;
        self.node.flush(|target| {
            net.coverage.hit(Situation::Doorbell);
            net.wake(target.get());
        });
    }

    /// The steps of a shut-down.
    fn step(&mut self, net: &mut Net, now: Time) {
        if let Phase::Draining(at) = self.phase
            && net.now >= at
        {
            self.shard.handle_shutdown(now);
            self.phase = Phase::Told;
            self.act(net);
            self.flush(net);
            self.send_envelopes(net);
        }
    }

    /// The broker begins to shut down.
    pub fn shut_down(&mut self, net: &mut Net) {
        let id = self.shard.id().get();
        self.shard.handle_shutdown_wills(Time::from_nanos(net.now));
        let at = net.now + 50 * MS;
        self.phase = Phase::Draining(at);
        net.wake(id);
    }
}
