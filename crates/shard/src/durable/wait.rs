//! What waits for a commit.
//!
//! | who | waits for | then |
//! |---|---|---|
//! | a connection's output | its gate: the highest sequence of what it says | it leaves |
//! | a publisher's shard | the records of what it sent | [`Accepted`] |
//! | a QoS 2 publication for other shards | its own record | it is handed on |
//! | a publisher | room in the log | it is read from again |

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use midge_codec::{PacketType, QoS, ReasonCode};
use midge_mesh::ShardId;
use midge_output::Output;
use midge_session::{Publication, Time};
use midge_store::{
    Completion, Condition, DiskError, Event, Operation, OperationId, Refused, Room, Sequence,
};

use super::record::{HandOn, Record};
use super::{Durable, FLUSH_MS, HandedOn, Late, Place, RETRY_MS};
use crate::connection::{Answer, Connection, Flags, State};
use crate::envelope::{Accepted, Envelope};
use crate::ids::ConnectionId;
use crate::shard::{Shard, Waiter, WaitingAck};
use crate::tally::Origin;

/// Whoever waits for this waits for a session's terms, for which the log had no room, and gets their sequence once they are
/// written ([`Connection::reopen_gate`]).
pub(crate) const NEVER: Sequence = Sequence(u64::MAX);

/// Whoever waits for this waits for endings for which the log had no room, or for what a failure has taken and is written again,
/// and gets the sequence of the last of them once they are written ([`Shard::redeem_late`]).
pub(crate) const LATE: Sequence = Sequence(u64::MAX - 1);

/// An output that must not leave yet.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// What the connection's output waits for.
    until: Sequence,
    /// An earlier part of it, and what that waits for; one at a time, so that what is told all the time leaves all the time.
    held: Option<(Sequence, Box<Output>)>,
}

impl Gate {
    pub(crate) fn held_size(&self) -> usize {
        self.held.as_ref().map_or(0, |(_, output)| output.size())
    }

    pub(crate) fn waits_for(&self, lost: &RangeInclusive<Sequence>) -> bool {
        lost.contains(&self.until)
            || self.held.as_ref().is_some_and(|(until, _)| lost.contains(until))
    }

    /// What waited for records that had no room waits for this from now on. Whether an output is held for it.
    fn redeem(&mut self, sequence: Sequence) -> bool {
        if self.until == LATE {
            self.until = sequence;
        }
        match &mut self.held {
            Some((until, _)) if *until == LATE => {
                *until = sequence;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn take_held(&mut self) -> Option<Box<Output>> {
        self.held.take().map(|(_, output)| output)
    }
}

impl Connection {
    /// Nothing of what is in the output, or comes into it this turn, leaves before the log has reached `sequence`.
    #[inline]
    pub(crate) fn close_gate(&mut self, sequence: Sequence) {
        if sequence > Sequence(0) && !mutant!("commit-not-awaited") {
            let gate = self.gate.get_or_insert_default();
            gate.until = gate.until.max(sequence);
        }
    }
}

impl Connection {
    /// Whether its output waits for its session's terms.
    pub(crate) fn waits_for_terms(&self) -> bool {
        let held = |gate: &Gate| gate.held.as_ref().is_some_and(|(until, _)| *until == NEVER);
        self.gate.as_ref().is_some_and(|gate| gate.until == NEVER || held(gate))
    }

    /// The terms that its session did not have yet are written now, under this sequence. Whether an output waits for it.
    pub(crate) fn reopen_gate(&mut self, sequence: Sequence) -> bool {
        let gate = self.gate.get_or_insert_default();
        gate.until = if gate.until == NEVER { sequence } else { gate.until.max(sequence) };
        match &mut gate.held {
            Some((until, _)) if *until == NEVER => {
                *until = sequence;
                true
            }
            _ => false,
        }
    }
}

/// What one other shard waits for.
///
/// Each ticket is answered when it is done. Were they answered in their order, one that waits for a member of a group on the
/// other shard would hold back those behind it; and two shards that choose for each other could wait for one another for ever.
#[derive(Debug, Default)]
pub(crate) struct Accepts {
    /// Those that wait for the log alone, in the order of their coming. Bounded by what publishers may have unacknowledged.
    line: VecDeque<Accept>,
    /// Those that wait for members on other shards, or for room in the log.
    apart: BTreeMap<u64, Accept>,
}

impl Accepts {
    /// Records that these waited for are not kept.
    pub(crate) fn give_up(&mut self, lost: &RangeInclusive<Sequence>) {
        let (once, line): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.line)
            .into_iter()
            .partition(|accept| accept.once && lost.contains(&accept.after));
        self.line = line;
        self.apart.extend(once.into_iter().map(|accept| (accept.ticket, accept)));
        let all = self.line.iter_mut().chain(self.apart.values_mut());
        for accept in all.filter(|accept| lost.contains(&accept.after)) {
            if accept.once {
                // Until it is written again.
                accept.after = LATE;
            } else {
                accept.after = Sequence(0);
                accept.answer = Answer::Unkept;
            }
        }
    }

    fn redeem(&mut self, sequence: Sequence) {
        for accept in self.apart.values_mut().filter(|accept| accept.after == LATE) {
            accept.after = sequence;
        }
    }

    fn is_done(accept: &Accept, reached: Sequence) -> bool {
        accept.after <= reached && accept.waiting_for == 0
    }

    fn take_done(&mut self, reached: Sequence) -> Vec<(u64, Answer)> {
        let mut done = Vec::new();
        while let Some(accept) = self.line.pop_front_if(|one| Self::is_done(one, reached)) {
            done.push((accept.ticket, accept.answer));
        }
        self.apart.retain(|ticket, accept| {
            let stays = !Self::is_done(accept, reached);
            if !stays {
                done.push((*ticket, accept.answer));
            }
            stays
        });
        done
    }
}

#[derive(Debug)]
struct Accept {
    ticket: u64,
    after: Sequence,
    /// Members' shards that have not taken it yet.
    waiting_for: u16,
    answer: Answer,
    /// It was published at QoS 2: what it became here stays, so its publisher must not be told to send it anew.
    once: bool,
}

/// A publication to be handed on once it is committed.
#[derive(Debug)]
pub(crate) struct Forward {
    after: Sequence,
    number: u64,
    publication: Arc<Publication>,
    targets: Vec<u16>,
}

impl Forward {
    /// Records that it may have waited for are not kept: it waits until they are written again.
    pub(crate) fn give_up(&mut self) {
        self.after = LATE;
    }
}

/// A publication that was handed on.
#[derive(Debug)]
pub(crate) struct HandingOn {
    pub(crate) place: Place,
    pub(crate) publication: Arc<Publication>,
    pub(crate) targets: Vec<u16>,
    waiting_for: usize,
    refused: usize,
    unkept: bool,
    /// The key of the session that published it, and the packet id.
    pub(crate) origin: Option<(u64, u16)>,
    /// The acknowledgement that waits for it.
    pub(crate) waiter: Option<Waiter>,
}

impl HandingOn {
    pub(crate) fn new(
        place: Place,
        publication: Arc<Publication>,
        targets: Vec<u16>,
        origin: Option<(u64, u16)>,
    ) -> Self {
        Self {
            place,
            publication,
            waiting_for: targets.len(),
            targets,
            refused: 0,
            unkept: false,
            origin,
            waiter: None,
        }
    }
}

impl Durable {
    pub(crate) fn start_handing_on(
        &mut self,
        hand_on: &HandOn,
        publication: &Arc<Publication>,
        place: Place,
        origin: Option<(u64, u16)>,
    ) {
        let publication = Arc::clone(publication);
        let handing_on = HandingOn::new(place, publication, hand_on.targets.clone(), origin);
        self.handing_on.insert(hand_on.number, handing_on);
    }

    /// Whether a publication must not go to other shards yet, because an earlier one to its topic waits to be handed on: retained
    /// messages, and those at QoS 2, keep their order [MQTT-3.3.1-5] [MQTT-4.6.0-6].
    pub(crate) fn must_follow(&mut self, publication: &Publication) -> bool {
        let once = publication.qos() == QoS::ExactlyOnce;
        let earlier = self.forwards.iter().find(|forward| {
            let earlier = &forward.publication;
            earlier.topic() == publication.topic()
                && (once || (publication.retain() && earlier.retain()))
        });
        self.is_short = earlier.is_some_and(|earlier| earlier.after == LATE);
        earlier.is_some()
    }

    /// A retained message was published after those that wait for room: theirs is not to replace it [MQTT-3.3.1-5].
    pub(crate) fn supersede(&mut self, topic: &str) {
        if self.opening.late.is_none() {
            for waiting in self.handed_on.iter_mut().filter(|w| w.publication.topic() == topic) {
                waiting.superseded = true;
            }
        }
    }

    pub(crate) fn forward(
        &mut self,
        after: Sequence,
        number: u64,
        publication: &Arc<Publication>,
        targets: Vec<u16>,
    ) {
        let publication = Arc::clone(publication);
        self.forwards.push_back(Forward { after, number, publication, targets });
    }
}

impl Shard {
    // The log's hands.

    /// The next thing that the disk has to do; give its completion to [`Shard::handle_log_completion`]. `None` also when nothing
    /// is kept.
    pub fn poll_log_operation(&mut self) -> Option<(OperationId, Operation)> {
        self.durable.as_mut()?.log.poll_operation()
    }

    /// What became of an operation of the log.
    pub fn handle_log_completion(&mut self, id: OperationId, completion: Completion, now: Time) {
        self.now = now;
        let Some(durable) = &mut self.durable else { return };
        durable.log.handle_completion(id, completion);
        self.after_commit();
        self.settle();
    }

    /// What the disk lets the log do; `None` when nothing is kept.
    #[must_use]
    pub fn log_condition(&self) -> Option<Condition> {
        self.durable.as_ref().map(|durable| durable.log.condition())
    }

    /// What the disk answered when the log was last kept from being healthy.
    #[must_use]
    pub fn log_error(&self) -> Option<DiskError> {
        self.durable.as_ref()?.log.last_error()
    }

    /// Whether the log takes records, or cannot for a reason that does not pass by itself.
    #[must_use]
    pub fn is_log_ready(&self) -> bool {
        self.durable.as_ref().is_none_or(|durable| durable.log.is_ready())
    }

    /// Whether what a failed disk has taken is not written again yet, as far as acknowledgements need it.
    #[must_use]
    pub fn is_rewriting(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| {
            durable.lost.is_some()
                || durable.log.condition() == Condition::Failed
                || durable.reached() < durable.rewritten
        })
    }

    /// The broker shuts down, last step: everything is written, and the log ends in good order.
    pub fn close_log(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        durable.write_late_records();
        durable.log.close();
    }

    /// Whether [`Shard::close_log`] is done.
    #[must_use]
    pub fn is_log_closed(&self) -> bool {
        self.durable.as_ref().is_none_or(|durable| durable.log.is_closed())
    }

    /// The log may have moved on: whoever waited for it goes on.
    fn after_commit(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        let mut events = Vec::new();
        while let Some(event) = durable.log.poll_event() {
            events.push(event);
        }
        self.release_committed();
        for event in events {
            self.handle_log_event(event);
        }
        self.spill_backlogs();
        self.use_room();
    }

    /// Whoever waited for what the log has reached goes on.
    fn release_committed(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        let reached = durable.reached();
        durable.ended_sessions.forget(reached);
        while durable.gates.front().is_some_and(|gate| gate.0 <= reached) {
            let Some((_, id, serial)) = durable.gates.pop_front() else { break };
            if let Some(connection) = self.connections.get_mut(id.0)
                && connection.serial == serial
                && !connection.flags.has(Flags::SENDING)
            {
                self.wire.mark(id, connection);
            }
        }
        for from in 0..self.shards {
            self.tell_accepted(ShardId::new(from));
        }
        self.hand_on_committed();
    }

    /// Endings that had no room are written: whoever waits for [`LATE`] waits for them.
    fn redeem_late(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        if durable.lost.is_some() || !std::mem::take(&mut durable.late_waiters) {
            return;
        }
        let sequence = durable.log.appended();
        durable.ended_sessions.redeem(sequence);
        for accepts in &mut durable.accepts {
            accepts.redeem(sequence);
        }
        for forward in durable.forwards.iter_mut().filter(|forward| forward.after == LATE) {
            forward.after = sequence;
        }
        for (id, connection) in self.connections.iter_mut() {
            if let Some(extra) = &mut connection.extra {
                extra.acks.redeem(sequence);
            }
            if connection.gate.as_mut().is_some_and(|gate| gate.redeem(sequence)) {
                durable.gates.push_back((sequence, ConnectionId(id), connection.serial));
            }
        }
        self.release_committed();
    }

    fn handle_log_event(&mut self, event: Event) {
        match event {
            Event::Read { read, result } => {
                if let Some(result) = self.handle_backlog_read(read, result) {
                    self.handle_log_read(read, result);
                }
            }
            Event::Retired(_) => self.clean(),
            Event::Condition(Condition::Failed) => self.retry_log(),
            Event::Condition(_) => {}
        }
    }

    /// The log may have room again: what waited for it goes on.
    fn use_room(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        if !durable.write_late_records() {
            return;
        }
        self.redeem_late();
        self.write_terms();
        self.keep_unkept();
        self.go_on_with_late();
        self.go_on_with_stalled();
        self.go_on_with_handed_on();
        let Some(durable) = &mut self.durable else { return };
        if (durable.parked.is_empty() && durable.unpumped.is_empty()) || !durable.has_control_room()
        {
            return;
        }
        if durable.lost.is_none() {
            let unpumped = std::mem::take(&mut durable.unpumped);
            for id in unpumped {
                self.pump(id);
            }
        }
        let Some(durable) = &mut self.durable else { return };
        let parked = std::mem::take(&mut durable.parked);
        for (id, serial) in parked {
            if self.connections.get(id.0).is_some_and(|connection| connection.serial == serial) {
                self.release(id, Flags::PARKED);
            }
        }
    }

    /// Once per turn: what the log needs from time to time.
    pub(crate) fn turn_log(&mut self) {
        let now = self.now;
        let Some(durable) = &mut self.durable else { return };
        if durable.flush_at.is_some_and(|at| at <= now) {
            durable.flush_at = None;
            durable.log.flush();
        } else if durable.flush_at.is_none() && durable.log.appended() > durable.log.synced() {
            durable.flush_at = Some(now.plus_millis(FLUSH_MS));
        }
        match durable.retry_at {
            _ if !durable.log.wants_retry() => durable.retry_at = None,
            Some(at) if at > now => {}
            // Only larger records were refused, of which the next ones may be as large.
            None if durable.log.condition() == Condition::Healthy => {
                durable.retry_at = Some(now.plus_millis(RETRY_MS));
            }
            _ => {
                durable.retry_at = Some(now.plus_millis(RETRY_MS));
                self.retry_log();
            }
        }
        self.rewrite_lost();
        self.clean();
        self.turn_backlogs();
        self.hand_on_committed();
        self.feed_starved();
        self.use_room();
    }

    /// Whoever waits for a disk that was full, or had failed, is asked again now and then.
    fn feed_starved(&mut self) {
        let now = self.now;
        let Some(durable) = &mut self.durable else { return };
        if durable.starved_until.take_if(|until| *until <= now).is_some() {
            durable.log.retry();
            let Durable { starved, parked, .. } = &mut **durable;
            parked.append(starved);
        }
    }

    // Outputs.

    /// The output of a connection, as far as its gate lets it leave.
    pub(crate) fn pass_gate(&mut self, id: ConnectionId) -> Option<Box<Output>> {
        let durable = self.durable.as_mut()?;
        let connection = self.connections.get_mut(id.0)?;
        let reached = durable.reached();
        let gate = connection.gate.as_mut()?;
        if let Some((until, _)) = gate.held {
            return if until <= reached { gate.take_held() } else { None };
        }
        if gate.until <= reached {
            connection.gate = None;
            return connection.output.take();
        }
        let output = connection.output.take()?;
        let until = gate.until;
        gate.held = Some((until, output));
        if until < LATE {
            durable.gates.push_back((until, id, connection.serial));
        }
        None
    }

    // Other shards.

    /// Notes that a ticket of another shard has been worked off, but for the commit.
    pub(crate) fn note_accepted(
        &mut self,
        from: ShardId,
        (ticket, qos): (u64, QoS),
        after: Sequence,
        waiting_for: u16,
        answer: Answer,
    ) {
        let Some(durable) = &mut self.durable else { return };
        let once = qos == QoS::ExactlyOnce;
        let accept = Accept { ticket, after, waiting_for, answer, once };
        let accepts = &mut durable.accepts[from.index()];
        if waiting_for > 0 || after == LATE {
            accepts.apart.insert(ticket, accept);
        } else {
            accepts.line.push_back(accept);
        }
    }

    /// Another shard has taken a part of what came under a ticket.
    pub(crate) fn answer_accept(&mut self, from: ShardId, ticket: u64, answer: Answer) {
        let Some(durable) = &mut self.durable else { return };
        let said = durable.said();
        let Some(accept) = durable.accepts[from.index()].apart.get_mut(&ticket) else { return };
        accept.waiting_for = accept.waiting_for.saturating_sub(1);
        if answer == Answer::Unkept {
            accept.answer = answer;
        }
        // What it caused here since (a message that came back, and waits) has a record by now.
        accept.after = accept.after.max(said);
        self.tell_accepted(from);
    }

    /// Tells another shard which of its tickets are done.
    pub(crate) fn tell_accepted(&mut self, from: ShardId) {
        let Some(durable) = &mut self.durable else { return };
        let reached = durable.reached();
        let done = durable.accepts[from.index()].take_done(reached);
        if !done.is_empty() {
            let accepted = Accepted { ticket: 0, refused: Vec::new(), done };
            self.send(from, Envelope::Accepted(Box::new(accepted)));
        }
    }

    /// Hands on what has been committed.
    pub(crate) fn hand_on_committed(&mut self) {
        loop {
            let Some(durable) = &mut self.durable else { return };
            let reached = durable.log.reached(durable.level);
            let synced = durable.log.synced();
            let unmarked = durable.numbers_since.filter(|(_, mark)| *mark > synced);
            if durable.forwards.front().is_none_or(|forward| {
                let too_early = unmarked.is_some_and(|(first, _)| forward.number >= first);
                forward.after > reached || too_early
            }) {
                return;
            }
            let Some(forward) = durable.forwards.pop_front() else { return };
            for target in &forward.targets {
                let target = ShardId::new(*target);
                let Forward { publication, number, .. } = &forward;
                let outboxes = &mut self.outboxes;
                let ticket =
                    outboxes.push_publication(target, publication, true, self.now, *number);
                self.counters.hops_sent += 1;
                let waiter = Waiter::HandingOn { number: forward.number };
                self.waiting_acks[target.index()].push_back(WaitingAck { ticket, waiter });
            }
        }
    }

    /// One of the shards that a publication was handed on to has it.
    pub(crate) fn answer_handing_on(&mut self, number: u64, answer: Answer) {
        let Some(durable) = &mut self.durable else { return };
        let Some(handing_on) = durable.handing_on.get_mut(&number) else { return };
        handing_on.waiting_for = handing_on.waiting_for.saturating_sub(1);
        handing_on.refused += usize::from(answer != Answer::Kept);
        handing_on.unkept |= answer == Answer::Unkept;
        if handing_on.waiting_for > 0 {
            return;
        }
        let Some(done) = durable.handing_on.remove(&number) else { return };
        durable.note_end(&Record::HandedOn { number });
        durable.release(done.place);
        let answer = if done.unkept {
            Answer::Unkept
        } else if done.refused == done.targets.len() {
            Answer::Refused
        } else {
            Answer::Kept
        };
        if let Some(waiter) = done.waiter {
            self.answer_waiter(waiter, answer);
        }
    }

    // Publishers and batches that wait for room.

    /// Holds a connection back until the log has room.
    pub(crate) fn park_for_log(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(durable) = &mut self.durable else { return };
        if connection.flags.has(Flags::PARKED) || connection.state != State::Connected {
            return;
        }
        connection.flags.set(Flags::PARKED, true);
        if std::mem::take(&mut durable.is_short) {
            durable.starved.push((id, connection.serial));
            durable.starved_until.get_or_insert(self.now.plus_millis(RETRY_MS));
        } else {
            durable.parked.push((id, connection.serial));
        }
        self.counters.publishers_parked += 1;
        self.actions.push_back(crate::action::Action::Pause(id));
    }

    fn go_on_with_late(&mut self) {
        loop {
            let Some(durable) = &mut self.durable else { return };
            let Some(late) = durable.late.pop_front() else { return };
            let waiting = durable.late.len();
            match late {
                Late::Publication(publication, publisher) => {
                    // At QoS 2 it is for all or for nobody.
                    let patient = publication.qos() == QoS::ExactlyOnce;
                    let routed = self.route(&publication, publisher, false, patient);
                    if let (true, Some(durable)) = (routed.busy, &mut self.durable) {
                        durable.late.push_back(Late::Publication(publication, publisher));
                    }
                }
                Late::Share(deliver, backlog) => self.handle_share_deliver(deliver, backlog),
            }
            // It is at the end of the line again: no room for it.
            let Some(durable) = &mut self.durable else { return };
            if durable.late.len() > waiting
                && let Some(late) = durable.late.pop_back()
            {
                durable.late.push_front(late);
                return;
            }
        }
    }

    /// Whether a publication from another shard comes behind one that waits for room [MQTT-4.6.0-6].
    pub(crate) fn must_wait(&self, from: ShardId, publication: &Publication) -> bool {
        let Some(durable) = &self.durable else { return false };
        publication.qos() == QoS::ExactlyOnce
            && durable.handed_on.iter().any(|earlier| earlier.from == from)
    }

    /// Puts a publication from another shard aside until the disk has room.
    pub(crate) fn wait_for_room(
        &mut self,
        from: ShardId,
        publication: &Arc<Publication>,
        ticket: u64,
        number: u64,
        received: Time,
    ) {
        let Some(durable) = &mut self.durable else { return };
        let publication = Arc::clone(publication);
        let superseded = false;
        let waiting = HandedOn { from, publication, ticket, number, received, superseded };
        durable.handed_on.push_back(waiting);
        durable.starved_until.get_or_insert(self.now.plus_millis(RETRY_MS));
    }

    fn go_on_with_handed_on(&mut self) {
        while let Some(durable) = &mut self.durable
            && let Some(next) = durable.handed_on.pop_front()
        {
            let HandedOn { from, ref publication, ticket, number, received, superseded } = next;
            durable.opening.late = Some(superseded);
            self.origin = Some(Origin { received, remote: true });
            let routed = self.route_handed_on(from, publication, ticket, number);
            self.origin = None;
            let Some(durable) = &mut self.durable else { return };
            durable.opening.late = None;
            if routed.busy {
                durable.starved_until.get_or_insert(self.now.plus_millis(RETRY_MS));
                durable.handed_on.push_front(next);
                return;
            }
            self.counters.hops_received += 1;
            if !routed.wanted {
                self.counters.hops_unwanted += 1;
            }
            if ticket != 0 {
                self.note_routed(from, publication, ticket, routed);
                self.tell_accepted(from);
            }
        }
    }

    pub(super) fn go_on_with_stalled(&mut self) {
        loop {
            let Some(durable) = &mut self.durable else { return };
            let Some((from, batch, at)) = durable.stalled.pop_front() else { return };
            if let Some(at) = self.open_batch(from, &batch, at) {
                let Some(durable) = &mut self.durable else { return };
                durable.stalled.push_front((from, batch, at));
                return;
            }
        }
    }

    /// Whether a packet of this type may be looked at: the log has room for the records that it may cause. What a packet ends is
    /// noted in any case; a PUBREC of a session that is kept cannot be answered before it is written down.
    #[inline]
    pub(crate) fn has_log_room(&mut self, id: ConnectionId, packet_type: u8) -> bool {
        let Some(durable) = &mut self.durable else { return true };
        durable.is_short = false;
        if packet_type != PacketType::PubRec as u8 || durable.log.condition() == Condition::Healthy
        {
            return durable.has_control_room();
        }
        let session = self.connections.get(id.0).and_then(|connection| connection.session);
        let durable = &mut self.durable;
        let kept = session.and_then(|id| self.sessions.get(id)).is_some_and(|s| s.kept.is_some());
        durable.as_mut().is_none_or(|durable| {
            let room = durable.has_control_room();
            durable.is_short = room && kept && !durable.has_room();
            room && !durable.is_short
        })
    }

    /// Why a new session or subscription cannot be kept, if it cannot.
    pub(crate) fn log_refusal(&mut self) -> Option<ReasonCode> {
        let durable = self.durable.as_mut()?;
        if durable.is_late() && durable.log.condition() != Condition::Healthy {
            return Some(ReasonCode::QuotaExceeded);
        }
        match durable.log.check(super::CONTROL_ROOM, Room::Reserve) {
            Err(Refused::Full | Refused::Failed) => Some(ReasonCode::QuotaExceeded),
            Err(Refused::Busy | Refused::TooLarge) | Ok(()) => None,
        }
    }
}
