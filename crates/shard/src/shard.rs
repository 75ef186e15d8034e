//! The shard: what goes in, what comes out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ahash::RandomState;
use midge_mesh::{InterestMap, InterestWriter, ShardId, ShardSet};
use midge_metrics::{Busiest, ConnectionRefusal, Counters};
use midge_output::Output;
use midge_session::{Spares, SubscriptionOptions, Time};
use midge_topic::{RetainedIndex, SubscriberId, SubscriptionTable};

use crate::action::{Action, Event, Note};
use crate::authors::Authors;
use crate::connection::{Connection, Flags, State};
use crate::durable::Durable;
use crate::ending::WillCase;
use crate::envelope::{Arrival, Crossed, Crossing, Envelope, Luggage};
use crate::groups::Groups;
use crate::identity::Identity;
use crate::ids::{ConnectionId, ListenerId, PeerAddress, SessionId, SessionRef};
use crate::leaving::Leaving;
use crate::outbox::Outboxes;
use crate::protection::Watch;
use crate::retained::{RetainedCounts, RetainedMessage, RetainedSlice};
use crate::security::{Guards, Security};
use crate::sessions::Sessions;
use crate::settings::Settings;
use crate::slab::Slab;
use crate::tally::{Origin, count_arrived};
use crate::unanswered::AllUnanswered;
use crate::unproven::Unproven;
use crate::wheel::{Entry, Subject, TICK_MS, Wheel};
use crate::wire::{HeaderCache, Wire};

/// Connections that go on in one turn after having been held, and retained pumps that go on.
const RELEASED_PER_TURN: usize = 64;

/// Bytes of runs for mates that are kept as memory for the next ones: more than one receive usually brings.
const CROSSING_SIZE_KEPT_MAX: usize = 16 * 1024;

/// Timers that may be stale before anybody looks: 64 KiB of them.
const TIMERS_FREE: usize = 4096;

/// Who waits for another shard's answer to a ticket.
#[derive(Debug)]
pub(crate) struct WaitingAck {
    pub(crate) ticket: u64,
    pub(crate) waiter: Waiter,
}

/// See [`WaitingAck`].
#[derive(Debug)]
pub(crate) enum Waiter {
    /// An acknowledgement in a connection's line, by its number there.
    Ack { connection: ConnectionId, serial: u32, number: u32 },
    /// A publication that was handed on after it was kept here.
    HandingOn { number: u64 },
    /// Another shard's ticket, whose publication was given to a member of a group.
    Ticket { from: ShardId, ticket: u64 },
    /// A group's backlog, which keeps the message until then.
    Backlog { group: Arc<str>, keep: midge_session::Keep },
}

/// What all shards of a process share: two arrays of atomics, both only hints about who must be asked.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Which shards may have subscribers; `None` with one shard.
    pub interest: Option<Arc<InterestMap>>,
    /// Which shards keep retained messages.
    pub retained_counts: Arc<RetainedCounts>,
}

/// One shard's mind. See the room's documentation for how it is driven.
#[derive(Debug)]
pub struct Shard {
    pub(crate) id: ShardId,
    pub(crate) shards: u16,
    /// In force: the full ones, or less while memory is short.
    pub(crate) settings: Arc<Settings>,
    pub(crate) full_settings: Arc<Settings>,
    pub(crate) is_pressed: bool,
    pub(crate) watch: Watch,
    pub(crate) now: Time,
    pub(crate) connections: Slab<Connection>,
    pub(crate) sessions: Sessions,
    pub(crate) leaving: Leaving,
    pub(crate) table: SubscriptionTable<SubscriptionOptions>,
    pub(crate) interest: Option<InterestWriter>,
    pub(crate) retained: RetainedSlice,
    /// Those of the broker itself.
    pub(crate) own_retained: RetainedIndex<RetainedMessage>,
    pub(crate) retained_counts: Arc<RetainedCounts>,
    pub(crate) groups: Groups,
    pub(crate) security: Security,
    pub(crate) guards: Guards,
    pub(crate) authors: Authors,
    pub(crate) outboxes: Outboxes,
    /// Envelopes of this shard for itself: the chooser and the member, or the keeper and the subscriber, are one.
    own: VecDeque<Envelope>,
    /// Acknowledgements that wait, by the shard that they wait for.
    pub(crate) waiting_acks: Vec<VecDeque<WaitingAck>>,
    pub(crate) unanswered: AllUnanswered,
    pub(crate) wheel: Wheel,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) wire: Wire,
    pub(crate) runnable: VecDeque<(ConnectionId, u32)>,
    pub(crate) pumping: VecDeque<ConnectionId>,
    /// Connections that hold fresh retained messages, and until when.
    pub(crate) holding: VecDeque<(Time, ConnectionId, u32)>,
    /// Connections that remember young retained messages, and since when.
    pub(crate) forgetting: VecDeque<(Time, ConnectionId, u32)>,
    /// Members of shared subscriptions that were full, and when to look at each again. One entry a session, by time.
    pub(crate) full_members: VecDeque<(Time, SessionRef)>,
    /// What outlives the process; `None`: nothing does.
    pub(crate) durable: Option<Box<Durable>>,
    /// Of messages that the log alone has; empty where there is none.
    pub(crate) spares: Spares,
    pub(crate) counters: Counters,
    pub(crate) busiest: Busiest,
    /// Of the message that is being routed, when it does not come from here and now.
    pub(crate) origin: Option<Origin>,
    serials: u32,
    pub(crate) tokens: u64,
    pub(crate) assigned_client_ids: u64,
    pub(crate) unproven: Unproven,
    // Memory that is used again from message to message.
    pub(crate) matched: Vec<(SubscriberId, SubscriptionOptions)>,
    pub(crate) identifiers: Vec<u32>,
    pub(crate) targets: ShardSet,
    pub(crate) tickets: Vec<(ShardId, u64)>,
    pub(crate) headers: HeaderCache,
    pub(crate) translated: Vec<u8>,
    pub(crate) forwarded: Vec<u8>,
    due: Vec<Entry>,
    released: Vec<(ConnectionId, u32)>,
}

impl Shard {
    /// A shard without connections. `hash_seeds` make its tables unpredictable to clients.
    ///
    /// # Panics
    /// When `id` is not below `shards`.
    #[must_use]
    pub fn new(
        id: ShardId,
        shards: u16,
        settings: Arc<Settings>,
        shared: Shared,
        hash_seeds: [u64; 4],
        now: Time,
    ) -> Self {
        assert!(id.get() < shards);
        let [a, b, c, d] = hash_seeds;
        let hasher = RandomState::with_seeds(a, b, c, d);
        Self {
            id,
            shards,
            now,
            connections: Slab::new(),
            sessions: Sessions::new(hasher.clone()),
            leaving: Leaving::default(),
            table: SubscriptionTable::with_seed(a ^ d),
            interest: shared.interest.map(|map| InterestWriter::new(map, id)),
            retained: RetainedSlice::new(b ^ c, hasher.clone()),
            own_retained: RetainedIndex::with_seed(b ^ c),
            retained_counts: shared.retained_counts,
            groups: Groups::new(hasher.clone()),
            guards: Guards::new(settings.security.access.clone(), hasher.clone()),
            authors: Authors::new(hasher.clone()),
            watch: Watch::new(&settings.protection, hasher),
            full_settings: Arc::clone(&settings),
            is_pressed: false,
            security: settings.security.clone(),
            outboxes: Outboxes::new(shards, settings.outbox),
            own: VecDeque::new(),
            waiting_acks: (0..shards).map(|_| VecDeque::new()).collect(),
            unanswered: AllUnanswered::new(),
            wheel: Wheel::new(now),
            actions: VecDeque::new(),
            wire: Wire::default(),
            runnable: VecDeque::new(),
            pumping: VecDeque::new(),
            forgetting: VecDeque::new(),
            full_members: VecDeque::new(),
            holding: VecDeque::new(),
            durable: None,
            spares: Spares::default(),
            counters: Counters::default(),
            busiest: Busiest::default(),
            origin: None,
            serials: 0,
            tokens: 0,
            assigned_client_ids: 0,
            unproven: Unproven::default(),
            matched: Vec::new(),
            identifiers: Vec::new(),
            targets: ShardSet::new(),
            tickets: Vec::new(),
            headers: HeaderCache::default(),
            translated: Vec::new(),
            forwarded: Vec::new(),
            due: Vec::new(),
            released: Vec::new(),
            settings,
        }
    }

    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    // What goes in. Every function takes the time, and may be followed by any number of `poll_action`, `next_flush` and
    // `poll_envelope`.

    /// A connection was accepted by this shard's ring, which knows it as `id`.
    pub fn handle_accepted(
        &mut self,
        id: ConnectionId,
        peer: SocketAddr,
        listener: ListenerId,
        now: Time,
    ) {
        self.now = now;
        self.counters.connections_accepted += 1;
        self.note_newcomer(listener);
        if self.connections.len() >= self.settings.connections_max {
            return self.refuse_newcomer(id, listener, ConnectionRefusal::Limit);
        }
        let counted = match self.look_at_newcomer(peer, listener) {
            Ok(counted) => counted,
            Err(refusal) => return self.refuse_newcomer(id, listener, refusal),
        };
        self.admit(id, peer.into(), listener);
        self.count_newcomer(id, counted);
        // With one shard every connection is at home, and need not be stopped before a hand-over.
        self.actions.push_back(if self.shards == 1 {
            Action::Receive(id)
        } else {
            Action::ReceiveOnce(id)
        });
    }

    fn admit(&mut self, id: ConnectionId, peer: PeerAddress, listener: ListenerId) {
        let serial = self.next_serial();
        let connection = Connection::new(peer, listener, serial, self.now);
        count_arrived(&connection, &mut self.counters);
        self.note_arrived(listener);
        let earlier = self.connections.put(id.0, connection);
        assert!(earlier.is_none(), "the ring gives a slot to one connection at a time");
        // A timer fires up to a tick late, and closing many at a time takes another: the timeout is a promise to be rid of
        // them by then.
        let timeout_ms = self.settings.connect_timeout_ms;
        let allowance_ms = (2 * TICK_MS).min(timeout_ms / 4);
        let deadline = self.now.plus_millis(timeout_ms - allowance_ms);
        self.wheel.insert(deadline, Entry::new(Subject::Connection, id.0, serial));
    }

    /// The transport knows who the peer is: its own address, behind whatever proxies, and what it has proved. Before the
    /// connection's first bytes, and only for transports that know more than a socket does.
    pub fn handle_identified(
        &mut self,
        id: ConnectionId,
        peer: SocketAddr,
        identity: Option<Box<Identity>>,
        now: Time,
    ) {
        self.now = now;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.peer = peer.into();
        if identity.is_some() {
            connection.extra().identity = identity;
        }
        self.look_at_client_address(id);
    }

    /// What the transport has proved about a connection's peer. `None`: nothing.
    #[must_use]
    pub fn identity(&self, id: ConnectionId) -> Option<&Identity> {
        self.connections.get(id.0)?.extra.as_ref()?.identity.as_deref()
    }

    /// Bytes came from a connection.
    pub fn handle_received(&mut self, id: ConnectionId, bytes: &[u8], now: Time) {
        self.now = now;
        self.receive(id, bytes);
        self.receive_unproven(id);
        self.settle();
    }

    /// The peer closed its side, or the connection failed: there will be no more bytes from it.
    pub fn handle_lost(&mut self, id: ConnectionId, now: Time) {
        self.now = now;
        self.finish_input(id);
        self.count_lost(id);
        self.leave(id, WillCase::Published);
        self.close_now(id);
        self.settle();
    }

    /// Everything given to a send has left; here is its empty buffer.
    pub fn handle_sent(&mut self, id: ConnectionId, output: Box<Output>, now: Time) {
        self.now = now;
        self.counters.bytes_sent += output.size() as u64;
        self.wire.recycle(output);
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.flags.set(Flags::SENDING, false);
        let waiting = connection.output_size();
        if waiting > 0 {
            self.wire.mark(id, connection);
        }
        match connection.state {
            State::Closing if waiting == 0 && !connection.flags.has(Flags::LINGERING) => {
                self.close_now(id);
            }
            State::Connected => {
                let has_pumps =
                    connection.extra.as_ref().is_some_and(|extra| !extra.pumps.is_empty());
                if connection.flags.has(Flags::CHOKED) {
                    connection.hear(now);
                }
                if connection.flags.has(Flags::CHOKED)
                    && waiting <= self.settings.output_bytes_max / 2
                {
                    self.release(id, Flags::CHOKED);
                }
                if let Some(session) = self.connections.get(id.0).and_then(|c| c.session) {
                    self.pump(session);
                }
                if has_pumps {
                    self.advance_pumps(id);
                }
            }
            _ => {}
        }
        self.settle();
    }

    /// The slot of a connection is free; nothing more comes for it.
    pub fn handle_closed(&mut self, id: ConnectionId, now: Time) {
        self.now = now;
        self.count_lost(id);
        self.leave(id, WillCase::Published);
        self.forget_connection(id);
        // The close that `leave` asked for is answered already.
        self.actions.retain(|action| !matches!(action, Action::Close(closed) if *closed == id));
        self.settle();
    }

    /// A hand-over has ended: with `Some`, the descriptor is in the target's ring under that number.
    pub fn handle_handed_over(
        &mut self,
        id: ConnectionId,
        target: ShardId,
        arrived: Option<ConnectionId>,
        luggage: Box<Luggage>,
        now: Time,
    ) {
        self.now = now;
        match arrived {
            Some(connection) => {
                self.forget_connection(id);
                let arrival = Arrival { connection, luggage };
                self.send(target, Envelope::HandOver(Box::new(arrival)));
            }
            // The target's table is full: the client may try again later.
            None => {
                self.note_refused_connection(id, ConnectionRefusal::HandOver);
                self.close_now(id);
            }
        }
        self.settle();
    }

    /// An envelope from another shard.
    pub fn handle_envelope(&mut self, from: ShardId, envelope: Envelope, now: Time) {
        self.now = now;
        self.open(from, envelope);
        self.settle();
    }

    /// From now on runs for these shards are had with [`Shard::give_crossing`], as long as nothing else waits for them: for
    /// whoever drives several shards on one thread.
    pub fn set_mates(&mut self, mut mates: ShardSet) {
        mates.remove(self.id);
        self.outboxes.set_mates(mates);
    }

    /// Whether anything waits that [`Shard::give_crossing`] gives.
    #[inline]
    #[must_use]
    pub fn has_crossing(&self) -> bool {
        !self.outboxes.crossing.runs.is_empty()
    }

    /// Gives the runs that wait for mates, each with whom it is for: to be called after all that may route, and before what
    /// waits for mates with [`Shard::poll_envelope`] is taken. The mate takes them with [`Shard::handle_crossed`].
    #[inline]
    pub fn give_crossing(&mut self, mut give: impl FnMut(ShardId, Crossed<'_>)) {
        let (from, received) = (self.id, self.now);
        let Crossing { runs, frames } = &mut self.outboxes.crossing;
        for (target, place) in runs.drain(..) {
            give(target, Crossed { from, received, frames, place });
        }
        frames.clear();
        frames.shrink_to(CROSSING_SIZE_KEPT_MAX);
    }

    /// A run from a shard on the same thread.
    #[inline]
    pub fn handle_crossed(&mut self, crossed: Crossed<'_>, now: Time) {
        self.now = now;
        self.take_crossed(crossed);
        self.settle();
    }

    /// Once per loop turn: timers that are due, connections that may go on. Returns whether it wants another turn soon.
    pub fn handle_turn(&mut self, now: Time) -> bool {
        self.now = now;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, |entry| due.push(entry));
        for entry in due.drain(..) {
            match entry.subject() {
                Subject::Connection => self.connection_timer(ConnectionId(entry.index()), entry),
                Subject::Session => self.session_timer(SessionId(entry.index()), entry),
            }
        }
        self.due = due;
        self.sweep_timers();
        self.run_held();
        self.run_released(RELEASED_PER_TURN);
        self.run_pumps(RELEASED_PER_TURN);
        self.end_holding();
        self.forget_young();
        self.look_at_full_members();
        self.run_leaving();
        self.run_unproven();
        self.turn_log();
        self.settle();
        let spills = self.durable.as_ref().is_some_and(|durable| durable.backlogs.has_more());
        !self.runnable.is_empty() || !self.pumping.is_empty() || !self.leaving.is_empty() || spills
    }

    /// The broker shuts down, first step: wills of connections that will be closed are published
    /// [MQTT-3.14.4-3 does not apply: the client did not say goodbye].
    pub fn handle_shutdown_wills(&mut self, now: Time) {
        self.now = now;
        let sessions: Vec<_> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in sessions {
            let due = self.sessions.get(id).is_some_and(|entry| {
                entry.connection.is_some() && entry.session.will_delay_seconds() == Some(0)
            });
            if due {
                self.publish_will(id);
            }
        }
        self.settle();
    }

    /// The broker shuts down, second step: every client is told (5.0: 0x8B) and closed once its output has left.
    pub fn handle_shutdown(&mut self, now: Time) {
        self.now = now;
        let connections: Vec<_> = self.connections.iter().map(|(id, _)| ConnectionId(id)).collect();
        for id in connections {
            if self.connections.get(id.0).is_some_and(|connection| !connection.is_ending()) {
                self.counters.closed_shutdown += 1;
            }
            self.disconnect(
                id,
                midge_codec::ReasonCode::ServerShuttingDown,
                "the broker shuts down",
            );
            self.leave(id, WillCase::Published);
        }
        self.settle();
    }

    // What comes out.

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next connection with something to send, and what; give the output back through [`Shard::handle_sent`]. Call it
    /// until `None` at the end of each turn: what a turn says to one connection leaves in one send.
    pub fn next_flush(&mut self) -> Option<(ConnectionId, Box<Output>)> {
        while let Some(id) = self.wire.next_dirty() {
            let Some(connection) = self.connections.get_mut(id.0) else { continue };
            connection.flags.set(Flags::DIRTY, false);
            if connection.flags.has(Flags::SENDING) || connection.state == State::Closed {
                continue;
            }
            if connection.gate.is_some() {
                if let Some(output) = self.pass_gate(id) {
                    if let Some(connection) = self.connections.get_mut(id.0) {
                        connection.flags.set(Flags::SENDING, true);
                    }
                    return Some((id, output));
                }
                continue;
            }
            if let Some(output) = connection.output.take() {
                connection.flags.set(Flags::SENDING, true);
                self.wire.flushed(&output);
                return Some((id, output));
            }
        }
        None
    }

    /// Appends the shards for which envelopes wait.
    pub fn take_waiting_targets(&mut self, targets: &mut Vec<ShardId>) {
        self.outboxes.take_waiting_targets(targets);
    }

    /// The oldest envelope for a shard.
    pub fn poll_envelope(&mut self, target: ShardId) -> Option<Envelope> {
        let envelope = self.outboxes.pop(target);
        self.outboxes.take_unparked(target, &mut self.released);
        while let Some((id, serial)) = self.released.pop() {
            if self.connections.get(id.0).is_some_and(|connection| connection.serial == serial) {
                self.release(id, Flags::PARKED);
            }
        }
        envelope
    }

    /// Gives back an envelope for which the ring had no room.
    pub fn put_back(&mut self, target: ShardId, envelope: Envelope) {
        self.outboxes.put_back(target, envelope);
    }

    /// When [`Shard::handle_turn`] is needed next, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let log = self.durable.as_ref().and_then(|durable| durable.next_deadline());
        let member = self.full_members.front().map(|(at, _)| *at);
        let held = self.watch.next_timeout();
        let others =
            [self.next_retained_deadline(), self.unproven.next_timeout(), log, member, held];
        others.into_iter().chain([self.wheel.next_deadline()]).flatten().min()
    }

    /// Whether nothing waits to leave: no envelope, no output. For the end of a shutdown.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.outboxes.is_empty() && self.connections.len() == 0
    }

    /// What must hold between any two events; for tests and the simulator.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_integrity(&self) {
        self.table.check_integrity();
        self.retained.check_integrity();
        if let Some(interest) = &self.interest {
            let announced = interest.statistics().filters;
            assert_eq!(announced, self.table.filter_count() as u64, "filters announced");
        }
        self.check_tallies();
        for (id, entry) in self.sessions.iter() {
            if let Some(outbound) = &entry.session.outbound {
                outbound.check_integrity();
                self.check_backlog(outbound);
            }
            if let Some(connection) = entry.connection {
                let connection = self.connections.get(connection.0);
                assert_eq!(connection.and_then(|c| c.session), Some(id));
                assert!(entry.away.is_none());
            }
        }
        for (index, connection) in self.connections.iter() {
            assert_eq!(connection.session.is_some(), connection.state == State::Connected);
            if let Some(session) = connection.session {
                let entry = self.sessions.get(session).expect("a connection's session exists");
                assert_eq!(entry.connection, Some(ConnectionId(index)));
            }
        }
        for session in self.leaving.sessions() {
            assert!(self.sessions.get(session.id).is_none(), "the number of one that leaves");
        }
        if self.sessions.len() == 0 && self.leaving.is_empty() && self.shards == 1 {
            assert_eq!(self.table.subscription_count(), 0);
            assert_eq!(self.groups.len(), 0);
        }
    }

    // Inside.

    pub(crate) fn next_serial(&mut self) -> u32 {
        self.serials = self.serials.wrapping_add(1);
        self.serials
    }

    /// Sends anything but publications to a shard, or to itself.
    pub(crate) fn send(&mut self, target: ShardId, envelope: Envelope) {
        if target == self.id {
            self.own.push_back(envelope);
        } else {
            self.outboxes.push(target, envelope);
        }
    }

    /// A connection and a session have one current timer each; what is beyond twice that is mostly stale.
    fn sweep_timers(&mut self) {
        let Self { wheel, connections, sessions, .. } = self;
        let bound = 2 * (connections.len() + sessions.len()) + TIMERS_FREE;
        wheel.sweep(bound, |entry| match entry.subject() {
            Subject::Connection => {
                connections.get(entry.index()).is_some_and(|c| entry.is_for(c.serial))
            }
            Subject::Session => sessions
                .get(SessionId(entry.index()))
                .and_then(|session| session.away.as_ref())
                .is_some_and(|away| entry.is_for(away.timer_serial)),
        });
    }

    /// Opens what this shard sent to itself.
    pub(crate) fn settle(&mut self) {
        while let Some(envelope) = self.own.pop_front() {
            self.open(self.id, envelope);
        }
    }

    fn open(&mut self, from: ShardId, envelope: Envelope) {
        match envelope {
            Envelope::Publications(batch) => self.handle_batch(from, batch),
            Envelope::Accepted(accepted) => self.handle_accepted_tickets(from, &accepted),
            Envelope::HandOver(arrival) => self.handle_arrival(*arrival),
            Envelope::ShareJoin(join) => self.handle_share_join(from, *join),
            Envelope::ShareJoined(joined) => self.handle_share_joined(&joined),
            Envelope::ShareRejoined => self.handle_share_rejoined(),
            Envelope::ShareLeave(member) => self.handle_share_leave(from, &member),
            Envelope::ShareState(state) => self.handle_share_state(from, &state),
            Envelope::ShareDeliver(deliver) => self.handle_share_deliver(*deliver, None),
            Envelope::ShareReturn(back) => self.handle_share_return(from, *back),
            Envelope::RetainedQuery(query) => self.handle_retained_query(from, &query),
            Envelope::RetainedAnswer(answer) => self.handle_retained_answer(*answer),
            Envelope::Cut(id) => _ = self.cut(id),
        }
    }

    fn handle_arrival(&mut self, arrival: Arrival) {
        let Arrival { connection: id, mut luggage } = arrival;
        self.counters.connections_adopted += 1;
        let carried = luggage.carried.take();
        self.actions.push_back(Action::Adopt { connection: id, carried });
        if self.connections.len() >= self.settings.connections_max {
            return self.refuse_newcomer(id, luggage.listener, ConnectionRefusal::Limit);
        }
        self.admit(id, luggage.peer, luggage.listener);
        self.count_arrival(id);
        if luggage.identity.is_some()
            && let Some(connection) = self.connections.get_mut(id.0)
        {
            connection.extra().identity = luggage.identity;
        }
        self.receive(id, &luggage.received);
    }

    pub(crate) fn note(&mut self, id: ConnectionId, event: Event) {
        let Some(connection) = self.connections.get(id.0) else { return };
        let client_id = connection
            .session
            .and_then(|session| self.sessions.get(session))
            .map(|entry| entry.session.client_id.clone());
        self.actions.push_back(Action::Note(Note { peer: connection.peer, client_id, event }));
    }
}
