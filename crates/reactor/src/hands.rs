//! One turn of a shard.
//!
//! ```text
//!  ┌─> ring.turn     one system call: submit what the last turn prepared, reap what is done, sleep if there is nothing
//!  │   events        accepted, received, sent, closed … → shard.handle_*
//!  │   inboxes       envelopes from other shards        → shard.handle_envelope
//!  │   turn          timers, held connections           → shard.handle_turn
//!  │   actions       receive, pause, close, hand over   ← shard.poll_action
//!  │   flush         one send per connection            ← shard.next_flush
//!  └── mesh          one batch per shard, doorbells     ← shard.poll_envelope
//! ```
//!
//! The loops that turn shards are in [`crew`](crate::crew).
//!
//! # Sleeping
//! A thread sleeps inside a net ring's own system call. Other shards wake it with a message to the ring (the doorbell),
//! aliens through the ring's waker. The executor around it has nothing else to run while no disk operation is in flight,
//! so nothing else needs to wake it; see `docs/decisions/0002-park-in-the-net-ring.md`.
//!
//! A shard that has its thread to itself asks to sleep after every turn that has nothing left to do, also under load: the
//! system call returns at once when something is ready, and otherwise others who want the core get it sooner, and the next
//! turn is larger.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use midge_auth::Verdict;
use midge_mesh::{Node, ShardId, ShardSet};
use midge_netring::{Event, NetRing, Receive, RingHandle, Slot, Wait};
use midge_session::Time;
use midge_shard::{Action, Ban, ConnectionId, Envelope, ListenerId, Luggage, Shard};

use crate::accepting::Accepting;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::durable::{Store, drive};
use crate::journal::Journal;
use crate::layers::Layers;
use crate::logins::{Logins, Outcome};
use crate::start::{Auditor, Command, ListenerChange};
use crate::statistics::Statistics;

/// How long a drain waits for the wills that it published to reach other shards' clients, before it closes those.
const WILLS_GRACE_MS: u64 = 50;

/// How long the log may take to end in good order after a drain, in milliseconds. What was promised is kept before that.
const CLOSE_MS: u64 = 5_000;

/// Between two looks at a log that is being closed, in milliseconds.
const CLOSING_TURN_MS: u64 = 10;

/// Longest sleep, in milliseconds: bounds how late anything forgotten is noticed.
pub(crate) const SLEEP_MS_MAX: u64 = 10_000;

/// Between two looks at memory that a burst has left behind, in nanoseconds.
const TRIM_PERIOD_NS: u64 = 5_000_000_000;

/// Where the process is in its life, as one shard sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Wills are out; clients are told at the first time, whatever is left is dropped at the second.
    Draining {
        tell_at: Time,
        told: bool,
        end_at: Time,
    },
    /// Nobody is served any more; the log ends in good order, or at that time as it is.
    Closing {
        end_at: Time,
    },
    Over,
}

/// One shard with its hands.
pub(crate) struct Hands {
    pub(crate) ring: NetRing,
    pub(crate) shard: Shard,
    pub(crate) node: Node<Envelope>,
    /// Every shard's ring, by shard.
    pub(crate) rings: Arc<[RingHandle]>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) logins: Logins,
    pub(crate) outcomes: Receiver<Outcome>,
    /// An alien has said that `commands` or `outcomes` have something.
    pub(crate) is_called: bool,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) accepting: Accepting,
    pub(crate) layers: Layers,
    pub(crate) accepts_in_flight: u16,
    pub(crate) bans: Option<Sender<Ban>>,
    pub(crate) audit: Option<Auditor>,
    pub(crate) envelopes_per_turn_max: usize,
    pub(crate) travelling: Travelling,
    pub(crate) targets: Vec<ShardId>,
    /// Mates for which envelopes wait: [`Mates`] take them after the turn.
    pub(crate) waiting_mates: Vec<ShardId>,
    pub(crate) statistics: Statistics,
    /// Under the shard's log; `None` when nothing is kept.
    pub(crate) disk: Option<Disk>,
    /// The data directory is locked against other processes until no shard has this any more.
    pub(crate) _store: Option<Arc<Store>>,
    pub(crate) phase: Phase,
    pub(crate) trimmed_at: Time,
    /// The shards on the same thread: what is for those takes no ring.
    pub(crate) mates: ShardSet,
}

/// The other shards of a thread, as the one sees them that has its turn.
pub(crate) trait Mates {
    /// Has them take the runs that the shard has for them.
    fn take_crossing(&mut self, shard: &mut Shard, now: Time);
}

/// Of a shard that has its thread to itself.
pub(crate) struct NoMates;

impl Mates for NoMates {
    #[inline]
    fn take_crossing(&mut self, _: &mut Shard, _: Time) {}
}

/// Connections on their way to another shard's ring.
#[derive(Default)]
pub(crate) struct Travelling {
    next_token: u64,
    luggage: HashMap<u64, (ShardId, Box<Luggage>)>,
}

/// What a turn leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turned {
    /// Whether anything came in.
    pub(crate) handled: bool,
    /// Whether the next turn has something to do at once.
    pub(crate) again: bool,
}

impl Hands {
    /// The turn's beginning: its system call, which may sleep. Returns the time after it.
    pub(crate) fn enter(&mut self, wait: Wait) -> Time {
        if let Err(error) = self.ring.turn(wait) {
            // The ring is the shard's only way to its clients.
            panic!("shard {}: the net ring failed: {error}", self.shard.id());
        }
        let now = self.clock.now();
        self.statistics.turn_begins(now, wait != Wait::No);
        now
    }

    /// Before a turn, which begins `now`, of a shard that has heard from its mates since the last one: prepares what came of it,
    /// so that the turn's system call takes it along.
    pub(crate) fn give_out(&mut self, now: Time) {
        self.act();
        self.flush(Some(now));
        self.send_envelopes();
    }

    /// The turn's work.
    pub(crate) fn work(&mut self, now: Time, mates: &mut impl Mates) -> Turned {
        if let Phase::Closing { .. } | Phase::Over = self.phase {
            self.close_log(now);
            return Turned { handled: false, again: false };
        }
        let mut handled = self.handle_events(now, mates) + self.handle_inboxes(now);
        if self.is_called {
            handled += self.handle_logins(now);
            self.is_called = self.handle_commands(now);
        }
        let asked = self.is_called;
        self.drive_disk(now);
        let more = self.shard.handle_turn(now) | asked;
        mates.take_crossing(&mut self.shard, now);
        self.act();
        self.flush(None);
        self.send_envelopes();
        self.drive_disk(now);

        if now.since(self.trimmed_at) >= TRIM_PERIOD_NS {
            self.trimmed_at = now;
            self.ring.trim();
            self.layers.trim();
        }
        if self.accepting.is_due(now) {
            self.ring.resume_accepts();
        }
        self.step(now);
        Turned { handled: handled > 0, again: more || self.layers.wants_turn() }
    }

    /// The turn's end. Returns the time.
    pub(crate) fn end(&mut self) -> Time {
        let now = self.clock.now();
        if self.statistics.turn_ends(now, &self.ring) {
            self.publish(now);
        }
        now
    }

    /// Whether there still is anybody to serve.
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Draining { .. })
    }

    /// Whether a [`Command::Stop`] has drained the shard, and its log is closed.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When the next turn is due if nothing happens before.
    pub(crate) fn next_turn(&self, now: Time) -> Time {
        let step = match self.phase {
            Phase::Serving => None,
            Phase::Draining { tell_at, told: false, .. } => Some(tell_at),
            Phase::Draining { end_at, .. } => Some(end_at),
            // Nothing is timed any more.
            Phase::Closing { .. } => return now.plus_millis(CLOSING_TURN_MS),
            Phase::Over => return now.plus_millis(SLEEP_MS_MAX),
        };
        let latest = self.statistics.latest_turn(now.plus_millis(SLEEP_MS_MAX));
        let timers = [self.shard.next_timeout(), self.accepting.next(), step];
        timers.into_iter().flatten().fold(latest, Time::min)
    }

    fn handle_events(&mut self, now: Time, mates: &mut impl Mates) -> usize {
        let mut handled = 0;
        if self.layers.wants_turn() || self.layers.is_used() {
            self.resume_layers(now);
        }
        while let Some(event) = self.ring.next_event() {
            handled += 1;
            match event {
                Event::Received { slot, data } if self.layers.has(slot) => {
                    self.receive_layered(slot, data, now);
                }
                Event::Received { slot, data } => {
                    self.shard.handle_received(connection(slot), self.ring.bytes(&data), now);
                    self.ring.recycle(data);
                }
                Event::Sent { slot, output } if self.layers.has(slot) => {
                    self.sent_layered(slot, output, now);
                }
                Event::Sent { slot, output } => {
                    self.shard.handle_sent(connection(slot), output, now);
                }
                Event::Accepted { slot, peer, listener } => {
                    self.shard.handle_accepted(connection(slot), peer, ListenerId(listener.0), now);
                    self.accept_layered(slot, peer, listener, now);
                }
                Event::PeerClosed { slot } | Event::Failed { slot, .. } => self.lose(slot, now),
                Event::Closed { slot } => {
                    self.layers.remove(slot);
                    self.shard.handle_closed(connection(slot), now);
                }
                Event::HandedOver { token, slot, target_slot } => {
                    self.handed_over(token, slot, Some(target_slot), now);
                }
                Event::HandOverFailed { token, slot, errno } => {
                    let shard = self.shard.id().get();
                    tracing::warn!(shard, errno, "a connection could not move to its home shard");
                    self.handed_over(token, slot, None, now);
                }
                Event::AcceptPaused { errno, .. } if !self.accepting.paused(now) => {
                    let shard = self.shard.id().get();
                    tracing::debug!(shard, errno, "still cannot accept more connections");
                }
                Event::AcceptPaused { listener, errno } => {
                    let shard = self.shard.id().get();
                    tracing::warn!(
                        shard,
                        listener = listener.0,
                        errno,
                        "cannot accept more connections until some are closed"
                    );
                }
                Event::File(done) => {
                    if let Some(disk) = &mut self.disk {
                        disk.handle(&mut self.ring, done);
                    }
                }
                Event::Woken => self.is_called = true,
                Event::Doorbell => {}
                _ => {}
            }
            // What the shard asked for may concern the slot of the next event: do it in order.
            self.act();
            // While what was received lies in the core's nearest cache.
            mates.take_crossing(&mut self.shard, now);
        }
        handled
    }

    /// What the shard's log asks for goes to the disk, and what the disk has done to the log.
    fn drive_disk(&mut self, now: Time) {
        if let Some(disk) = &mut self.disk {
            drive(&mut self.shard, disk, &mut self.ring, now);
        }
    }

    /// At the end of a drain: everything is written, and the log ends in good order. Nobody is served any more.
    fn close_log(&mut self, now: Time) {
        while let Some(event) = self.ring.next_event() {
            match (event, &mut self.disk) {
                (Event::File(done), Some(disk)) => disk.handle(&mut self.ring, done),
                (Event::Received { data, .. }, _) => self.ring.recycle(data),
                _ => {}
            }
        }
        self.node.drain(self.envelopes_per_turn_max, |_, _| {});
        self.send_envelopes();
        self.drive_disk(now);
        if let Phase::Closing { end_at } = self.phase
            && (self.shard.is_log_closed() || now >= end_at)
        {
            self.phase = Phase::Over;
        }
    }

    fn handed_over(&mut self, token: u64, slot: Slot, arrived: Option<Slot>, now: Time) {
        if let Some((target, mut luggage)) = self.travelling.luggage.remove(&token) {
            let arrived = arrived.map(connection);
            match arrived {
                Some(_) => luggage.carried = self.layers.pack(slot),
                None => self.layers.stay(slot),
            }
            self.shard.handle_handed_over(connection(slot), target, arrived, luggage, now);
        }
    }

    /// Verdicts about clients: as many as the line of them holds.
    fn handle_logins(&mut self, now: Time) -> usize {
        let mut handled = 0;
        while let Ok(Outcome { connection, serial, verdict, .. }) = self.outcomes.try_recv() {
            handled += 1;
            self.shard.handle_authenticated(connection, serial, verdict, now);
        }
        handled
    }

    fn handle_inboxes(&mut self, now: Time) -> usize {
        let Self { node, shard, envelopes_per_turn_max, .. } = self;
        node.drain(*envelopes_per_turn_max, |from, envelope| {
            shard.handle_envelope(from, envelope, now);
        })
    }

    pub(crate) fn act(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Receive(id) => self.wish(slot(id), Some(Receive::Continuous)),
                Action::ReceiveOnce(id) => self.wish(slot(id), Some(Receive::Once)),
                Action::Pause(id) => self.wish(slot(id), None),
                Action::Close(id) => {
                    self.layers.close(slot(id), &mut self.ring);
                    self.ring.close(slot(id));
                }
                Action::Adopt { connection, carried } => {
                    self.ring.adopt(slot(connection));
                    if let Some(carried) = carried {
                        self.layers.adopt(slot(connection), carried, &mut self.ring);
                    }
                }
                Action::HandOver { connection, target, luggage } => {
                    let token = self.travelling.next_token;
                    self.travelling.next_token += 1;
                    self.travelling.luggage.insert(token, (target, luggage));
                    self.layers.leave(slot(connection));
                    self.ring.hand_over(slot(connection), &self.rings[target.index()], token);
                }
                Action::Authenticate { connection, serial, login } => {
                    let shard = self.shard.id().get();
                    if !self.logins.ask(shard, connection, serial, login) {
                        let (verdict, now) = (Verdict::Busy, self.clock.now());
                        self.shard.handle_authenticated(connection, serial, verdict, now);
                    }
                }
                Action::Audit(note) => {
                    if let Some(Auditor(hear)) = &self.audit {
                        hear(note);
                    }
                }
                Action::Ban(ban) => {
                    if let Some(bans) = &self.bans {
                        let _ = bans.try_send(ban);
                    }
                }
                Action::Note(note) => self.journal.write(&note, self.clock.now()),
                Action::Lost { client_id, messages } => tracing::error!(
                    shard = self.shard.id().get(),
                    client_id,
                    messages,
                    "queued messages are lost: what the log has of them is damaged or cannot be read"
                ),
            }
        }
    }

    /// One send per connection that has something to be told. The time is asked for when it is needed and not known.
    fn flush(&mut self, mut now: Option<Time>) {
        while let Some((id, output)) = self.shard.next_flush() {
            let now = *now.get_or_insert_with(|| self.clock.now());
            self.statistics.sends(&output, now);
            if self.layers.has(slot(id)) {
                self.layers.send(slot(id), output, &mut self.ring);
            } else {
                self.ring.send(slot(id), output);
            }
        }
    }

    /// What the shard wants to receive from a connection.
    fn wish(&mut self, slot: Slot, wish: Option<Receive>) {
        match wish {
            _ if self.layers.has(slot) => self.layers.wish(slot, wish, &mut self.ring),
            Some(how) => self.ring.receive(slot, how),
            None => self.ring.pause(slot),
        }
    }

    fn publish(&mut self, now: Time) {
        let Self { statistics, shard, ring, node, layers, .. } = self;
        statistics.publish(shard, ring, node, &layers.counters, now);
    }

    /// One line of envelopes per shard, as far as its ring has room; what has none waits
    /// for the next turn, and a doorbell says when that is worth while.
    fn send_envelopes(&mut self) {
        let mut targets = std::mem::take(&mut self.targets);
        self.shard.take_waiting_targets(&mut targets);
        for target in targets.drain(..) {
            if self.mates.contains(target) {
                self.waiting_mates.push(target);
                continue;
            }
            while let Some(envelope) = self.shard.poll_envelope(target) {
                if let Err(envelope) = self.node.push(target, envelope) {
                    self.shard.put_back(target, envelope);
                    break;
                }
            }
        }
        self.targets = targets;
        let Self { node, ring, rings, .. } = self;
        node.flush(|target| ring.ring_doorbell(&rings[target.index()]));
    }

    /// Commands from aliens, at most one that is work in a turn. Returns whether more may wait.
    fn handle_commands(&mut self, now: Time) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Stop { drain_timeout } if self.phase == Phase::Serving => {
                    self.ring.stop_listening();
                    self.shard.handle_shutdown_wills(now);
                    let drain_ms = u64::try_from(drain_timeout.as_millis()).unwrap_or(u64::MAX);
                    self.phase = Phase::Draining {
                        tell_at: now.plus_millis(WILLS_GRACE_MS),
                        told: false,
                        end_at: now.plus_millis(drain_ms),
                    };
                }
                Command::Stop { .. } => {}
                Command::Security(security) => self.shard.handle_security(*security),
                Command::Ask { question, reply } => {
                    // Whoever asked may have given up; the channel has room for the one answer.
                    let _ = reply.try_send(self.shard.handle_question(&question, now));
                    return true;
                }
                Command::Publish { publications, reply } => {
                    let shard = &mut self.shard;
                    let taken = publications
                        .iter()
                        .take_while(|publication| shard.handle_own_publication(publication, now));
                    let _ = reply.try_send(taken.count());
                    return true;
                }
                Command::Limits(settings) => self.shard.handle_settings(settings),
                Command::Bans(bans) => self.shard.handle_bans(bans),
                Command::Pressure(is_pressed) => self.shard.handle_pressure(is_pressed),
                Command::Listeners { layers, changes } => {
                    self.layers.replace_listeners(layers);
                    // A drain has closed them all.
                    if self.phase == Phase::Serving {
                        changes.into_iter().for_each(|change| self.change_listener(change));
                    }
                }
            }
        }
        false
    }

    fn change_listener(&mut self, change: ListenerChange) {
        match change {
            ListenerChange::Open { number, socket } => {
                let number = midge_netring::ListenerId(number);
                if let Err(error) = self.ring.listen(socket, number, self.accepts_in_flight) {
                    let shard = self.shard.id().get();
                    tracing::error!(shard, listener = number.0, "cannot use a listener: {error}");
                }
            }
            ListenerChange::Close { number } => {
                self.ring.stop_listener(midge_netring::ListenerId(number));
            }
            ListenerChange::Configure { number, configure } => {
                let number = midge_netring::ListenerId(number);
                self.ring.listening_sockets(number).for_each(|socket| configure(socket));
            }
        }
    }

    /// The steps of a drain.
    fn step(&mut self, now: Time) {
        match self.phase {
            Phase::Draining { tell_at, told: false, end_at } if now >= tell_at => {
                self.shard.handle_shutdown(now);
                self.phase = Phase::Draining { tell_at, told: true, end_at };
                self.act();
                self.flush(None);
                self.send_envelopes();
            }
            Phase::Serving | Phase::Draining { .. } | Phase::Closing { .. } | Phase::Over => {}
        }
        if let Phase::Draining { told: true, end_at, .. } = self.phase
            && (self.shard.is_drained() || now >= end_at)
        {
            self.publish(self.clock.now());
            // Whoever asks from here on gets no answer instead of none in time.
            self.commands = crossbeam_channel::never();
            self.phase = if self.disk.is_some() {
                self.shard.close_log();
                self.drive_disk(now);
                Phase::Closing { end_at: now.plus_millis(CLOSE_MS) }
            } else {
                Phase::Over
            };
        }
    }
}

/// The ring's slot number is the shard's connection number.
pub(crate) fn connection(slot: Slot) -> ConnectionId {
    ConnectionId(slot.index())
}

fn slot(id: ConnectionId) -> Slot {
    Slot::new(id.0)
}
