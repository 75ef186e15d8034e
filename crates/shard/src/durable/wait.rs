//! What waits for a commit.
//!
//! | who | waits for | then |
//! |---|---|---|
//! | a connection's output | its gate: the highest sequence of what it says | it leaves |
//! | a publisher's shard | the records of what it sent | [`Accepted`] |
//! | a QoS 2 publication for other shards | its own record | it is handed on |
//! | a publisher | room in the log | it is read from again |

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use midge_codec::ReasonCode;
use midge_mesh::ShardId;
use midge_output::Output;
use midge_session::{Publication, Time};
use midge_store::{
    Completion, Condition, DiskError, Event, Operation, OperationId, Refused, Room, Sequence,
};

use super::record::{HandOn, Record};
use super::write::NEVER;
use super::{Durable, FLUSH_MS, Late, Place, RETRY_MS};
use crate::connection::{Answer, Connection, Flags, State};
use crate::envelope::{Accepted, Envelope};
use crate::ids::ConnectionId;
use crate::shard::{Shard, Waiter, WaitingAck};

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

    pub(crate) fn take_held(&mut self) -> Option<Box<Output>> {
        self.held.take().map(|(_, output)| output)
    }
}

impl Connection {
    /// Nothing of what is in the output, or comes into it this turn, leaves before the log has reached `sequence`.
    #[inline]
    pub(crate) fn close_gate(&mut self, sequence: Sequence) {
        if sequence > Sequence(0) {
            let gate = self.gate.get_or_insert_default();
            gate.until = gate.until.max(sequence);
        }
    }
}

impl Connection {
    /// What was to be written before anything else leaves is written now, under this sequence. Whether an output waits for it.
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

/// What one other shard waits for, in the order of its tickets.
#[derive(Debug, Default)]
pub(crate) struct Accepts {
    line: VecDeque<Accept>,
}

impl Accepts {
    /// Records that these waited for are not kept.
    pub(crate) fn give_up(&mut self, lost: &RangeInclusive<Sequence>) {
        for accept in self.line.iter_mut().filter(|accept| lost.contains(&accept.after)) {
            accept.after = Sequence(0);
            accept.answer = Answer::Unkept;
        }
    }
}

#[derive(Debug)]
struct Accept {
    ticket: u64,
    after: Sequence,
    /// Members' shards that have not taken it yet.
    waiting_for: u16,
    answer: Answer,
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
    pub(crate) fn wait_until(&mut self, sequence: Sequence) {
        self.after = self.after.max(sequence);
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
    /// The acknowledgement that waits for it.
    pub(crate) waiter: Option<Waiter>,
}

impl HandingOn {
    pub(crate) fn new(place: Place, publication: Arc<Publication>, targets: Vec<u16>) -> Self {
        let waiting_for = targets.len();
        Self { place, publication, targets, waiting_for, refused: 0, unkept: false, waiter: None }
    }
}

impl Durable {
    pub(crate) fn start_handing_on(
        &mut self,
        hand_on: &HandOn,
        publication: &Arc<Publication>,
        place: Place,
    ) {
        let publication = Arc::clone(publication);
        let handing_on = HandingOn::new(place, publication, hand_on.targets.clone());
        self.handing_on.insert(hand_on.number, handing_on);
    }

    /// Whether a retained message of this topic waits to be handed on.
    pub(crate) fn will_hand_on(&self, topic: &str) -> bool {
        let mut waiting = self.forwards.iter().map(|forward| &forward.publication);
        waiting.any(|publication| publication.retain() && publication.topic() == topic)
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
        let reached = durable.reached();
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
        for event in events {
            self.handle_log_event(event);
        }
        self.spill_backlogs();
        self.use_room();
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
        self.write_terms();
        self.go_on_with_late();
        self.go_on_with_stalled();
        let Some(durable) = &mut self.durable else { return };
        if (durable.parked.is_empty() && durable.unpumped.is_empty()) || !durable.has_control_room()
        {
            return;
        }
        let unpumped = std::mem::take(&mut durable.unpumped);
        for id in unpumped {
            self.pump(id);
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
        if durable.log.condition() == Condition::Healthy {
            durable.retry_at = None;
        } else if durable.retry_at.is_none_or(|at| at <= now) {
            durable.retry_at = Some(now.plus_millis(RETRY_MS));
            self.retry_log();
        }
        self.rewrite_lost();
        self.clean();
        self.turn_backlogs();
        self.hand_on_committed();
        self.use_room();
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
        if until != NEVER {
            durable.gates.push_back((until, id, connection.serial));
        }
        None
    }

    // Other shards.

    /// Notes that a ticket of another shard has been worked off, but for the commit.
    pub(crate) fn note_accepted(
        &mut self,
        from: ShardId,
        ticket: u64,
        after: Sequence,
        waiting_for: u16,
        answer: Answer,
    ) {
        let Some(durable) = &mut self.durable else { return };
        let accept = Accept { ticket, after, waiting_for, answer };
        durable.accepts[from.index()].line.push_back(accept);
    }

    /// Another shard has taken a part of what came under a ticket.
    pub(crate) fn answer_accept(&mut self, from: ShardId, ticket: u64, answer: Answer) {
        let Some(durable) = &mut self.durable else { return };
        let line = &mut durable.accepts[from.index()].line;
        let Ok(at) = line.binary_search_by_key(&ticket, |accept| accept.ticket) else { return };
        line[at].waiting_for = line[at].waiting_for.saturating_sub(1);
        if answer == Answer::Unkept {
            line[at].answer = answer;
        }
        // What it caused here since (a message that came back, and waits) has a record by now.
        line[at].after = durable.log.appended();
        self.tell_accepted(from);
    }

    /// Tells another shard which of its tickets are done.
    pub(crate) fn tell_accepted(&mut self, from: ShardId) {
        let Some(durable) = &mut self.durable else { return };
        let reached = durable.reached();
        let line = &mut durable.accepts[from.index()].line;
        let (mut last, mut refused, mut unkept) = (0, Vec::new(), Vec::new());
        while line.front().is_some_and(|one| one.after <= reached && one.waiting_for == 0) {
            let Some(accept) = line.pop_front() else { break };
            last = accept.ticket;
            match accept.answer {
                Answer::Kept => {}
                Answer::Refused => refused.push(accept.ticket),
                Answer::Unkept => unkept.push(accept.ticket),
            }
        }
        if last != 0 {
            let accepted = Accepted { ticket: last, refused, unkept };
            self.send(from, Envelope::Accepted(Box::new(accepted)));
        }
    }

    /// Hands on what has been committed.
    pub(crate) fn hand_on_committed(&mut self) {
        loop {
            let Some(durable) = &mut self.durable else { return };
            let reached = durable.log.reached(durable.level);
            if durable.forwards.front().is_none_or(|forward| forward.after > reached) {
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
        durable.parked.push((id, connection.serial));
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
                    self.route(&publication, publisher, false, false);
                }
                Late::Share(deliver) => {
                    self.handle_share_deliver(deliver);
                }
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

    fn go_on_with_stalled(&mut self) {
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

    /// Whether a packet may be looked at: the log has room for the records that it may cause.
    #[inline]
    pub(crate) fn has_log_room(&mut self) -> bool {
        self.durable.as_mut().is_none_or(|durable| durable.has_control_room())
    }

    /// Why a new session or subscription cannot be kept, if it cannot.
    pub(crate) fn log_refusal(&mut self) -> Option<ReasonCode> {
        let durable = self.durable.as_mut()?;
        match durable.log.check(super::CONTROL_ROOM, Room::Reserve) {
            Err(Refused::Full | Refused::Failed) => Some(ReasonCode::QuotaExceeded),
            Err(Refused::Busy | Refused::TooLarge) | Ok(()) => None,
        }
    }
}
