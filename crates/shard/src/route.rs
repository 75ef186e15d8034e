//! From a publication to everybody who wants it: local sessions, shared subscriptions, other shards, the retained slice.
//!
//! Two paths lead through here. [`Shard::route`] takes one publication of any kind. [`Shard::route_run`] takes a *run*: the
//! QoS 0 packets to one topic that stand one behind the other in what a connection received. To a subscriber of the same
//! protocol family a QoS 0 PUBLISH without properties is, byte for byte, what the publisher sent; so a run is
//! matched once and copied once per subscriber, however many messages it holds.

use std::sync::Arc;

use midge_codec::{Framed, ProtocolVersion, Publish, QoS, frame};
use midge_mesh::{ShardId, ShardSet};
use midge_metrics::Qos;
use midge_session::Publication;
use midge_store::Sequence;
use midge_topic::{SubscriberId, TopicName};

use crate::connection::{Answer, State};
use crate::deliver::{Delivered, Occasion};
use crate::durable::write::Opened;
use crate::envelope::{Batch, Crossed, Envelope, Item, RunPlace};
use crate::groups;
use crate::ids::{ConnectionId, SessionId, keeper_shard};
use crate::retained::Retained;
use crate::shard::{Shard, Waiter, WaitingAck};
use crate::tally::Origin;

/// Packets larger than this do not travel in runs: their payload is worth sharing.
pub(crate) const RUN_FRAME_SIZE_MAX: usize = midge_output::SPLICE_SIZE_MIN;

/// QoS 0 packets to one topic, as they were received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) frames: &'a [u8],
    pub(crate) topic: &'a str,
    pub(crate) place: RunPlace,
}

/// What routing one publication came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Routed {
    /// Somebody, here or on another shard, may have wanted it.
    pub(crate) wanted: bool,
    /// A session here keeps or got it.
    pub(crate) kept: bool,
    /// A session here (or the retained slice) wanted it and had no room.
    pub(crate) refused: bool,
    /// Somebody here must keep it, and the log did not take it.
    pub(crate) unkept: bool,
    /// Nothing has happened: the log has no room just now.
    pub(crate) busy: bool,
    /// Nothing has happened, and nothing must: the disk is full.
    pub(crate) nowhere: bool,
    /// What the log must have reached before anybody is told that it is kept.
    pub(crate) after: Sequence,
    /// The number under which it will be handed on to other shards once it is kept here.
    pub(crate) handing_on: Option<u64>,
}

impl Shard {
    /// Routes one publication that entered the broker on this shard. With `wants_answer`, the shards that it was sent
    /// to and their tickets are left in `self.tickets`. `patient`: its publisher rather waits than hears that the disk is full.
    pub(crate) fn route(
        &mut self,
        publication: &Arc<Publication>,
        publisher: Option<SessionId>,
        wants_answer: bool,
        patient: bool,
    ) -> Routed {
        self.tickets.clear();
        if self.shards == 1 {
            return self.route_here(publication, publisher, patient);
        }
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        if let Some(interest) = &self.interest {
            interest.map().interested(publication.topic(), &mut targets);
        }
        if publication.retain() {
            targets.insert(keeper_shard(publication.topic(), self.shards));
        }
        let hands_on = wants_answer
            && publication.qos() == QoS::ExactlyOnce
            && self.durable.is_some()
            && self.is_kept(publisher)
            && targets.iter().any(|target| target != self.id);
        if let Some(durable) = &mut self.durable {
            // It must not get to other shards before one that waits for its commit.
            if !hands_on && !durable.forwards.is_empty() && durable.must_follow(publication) {
                self.targets = targets;
                return Routed { busy: true, ..Routed::default() };
            }
            durable.opening.targets.clear();
            if hands_on {
                let others = targets.iter().filter(|target| *target != self.id);
                durable.opening.targets.extend(others.map(ShardId::get));
            }
        }
        let mut routed = self.route_here(publication, publisher, patient);
        if routed.busy || routed.nowhere {
            self.targets = targets;
            return routed;
        }
        if hands_on {
            self.hand_on_later(publication, &targets, &mut routed);
        } else {
            let now = self.now;
            for target in targets.iter().filter(|target| *target != self.id) {
                let outboxes = &mut self.outboxes;
                let ticket = outboxes.push_publication(target, publication, wants_answer, now, 0);
                if wants_answer {
                    self.tickets.push((target, ticket));
                }
                self.counters.hops_sent += 1;
                routed.wanted = true;
            }
        }
        self.targets = targets;
        routed
    }

    /// A QoS 2 publication of a session that a crash does not end: other shards get it once it is kept here, so that they
    /// can be given it again under the same number.
    fn hand_on_later(
        &mut self,
        publication: &Arc<Publication>,
        targets: &ShardSet,
        routed: &mut Routed,
    ) {
        let Some(durable) = &mut self.durable else { return };
        routed.wanted = true;
        if routed.after == Sequence(0) {
            routed.unkept = true;
            return;
        }
        let number = durable.next_number - 1;
        let others = targets.iter().filter(|target| *target != self.id);
        let others = others.map(ShardId::get).collect();
        durable.forward(routed.after, number, publication, others);
        routed.handing_on = Some(number);
    }

    /// Routes one publication to what is on this shard.
    pub(crate) fn route_here(
        &mut self,
        publication: &Arc<Publication>,
        publisher: Option<SessionId>,
        patient: bool,
    ) -> Routed {
        let mut routed = Routed::default();
        let Ok(topic) = TopicName::parse(publication.topic(), &self.settings.topic_limits) else {
            return routed;
        };
        let mut matched = std::mem::take(&mut self.matched);
        if self.table.matches(topic, &mut matched) > 1 {
            matched.sort_unstable_by_key(|one| one.0);
        }
        let opened = match &self.durable {
            Some(_) => self.open_message(publication, topic.as_str(), &matched, patient),
            None => Opened::Yes,
        };
        if opened != Opened::Yes {
            if let Some(durable) = &mut self.durable {
                durable.opening.forget();
            }
            matched.clear();
            self.matched = matched;
            routed.busy = opened == Opened::Later;
            (routed.wanted, routed.unkept, routed.nowhere) = match opened {
                Opened::No => (true, true, true),
                Opened::Yes | Opened::Later => (false, false, false),
            };
            return routed;
        }
        self.headers.clear();
        for same in matched.chunk_by(|a, b| a.0 == b.0) {
            let subscriber = same[0].0;
            if let Some(group) = groups::group_of(subscriber) {
                routed.wanted = true;
                match self.choose(group, publication) {
                    Delivered::Unkept => routed.unkept = true,
                    chosen => routed.kept |= chosen == Delivered::Sent,
                }
                continue;
            }
            let session = SessionId(subscriber.0);
            // What a session that has ended has not taken back yet wants nothing.
            routed.wanted |= self.leaving.is_empty() || self.sessions.get(session).is_some();
            let wanted = |one: &&(SubscriberId, midge_session::SubscriptionOptions)| {
                // [MQTT-3.8.3-3]
                mutant!("no-local-ignored") || !(one.1.no_local() && publisher == Some(session))
            };
            let delivered = if same.iter().all(|one| wanted(&one)) {
                self.deliver(session, same, publication, Occasion::Live)
            } else {
                let others: Vec<_> = same.iter().filter(wanted).copied().collect();
                self.deliver(session, &others, publication, Occasion::Live)
            };
            match delivered {
                Delivered::Sent | Delivered::Queued => routed.kept = true,
                Delivered::Full => routed.refused = true,
                Delivered::Unkept => routed.unkept = true,
                Delivered::Dropped | Delivered::Denied => {}
            }
        }
        matched.clear();
        self.matched = matched;
        let superseded = self.durable.as_ref().is_some_and(|d| d.opening.late == Some(true));
        if publication.retain()
            && keeper_shard(publication.topic(), self.shards) == self.id
            && !superseded
        {
            routed.wanted = true;
            match self.retain(publication) {
                Retained::Kept(after) => {
                    routed.kept = true;
                    routed.after = after;
                }
                Retained::Refused => routed.refused = true,
                Retained::Unkept => routed.unkept = true,
            }
        }
        if self.durable.is_some() {
            routed.after = routed.after.max(self.close_message(publication, topic.as_str()));
        }
        routed
    }

    /// Routes a run that entered the broker on this shard.
    pub(crate) fn route_run(&mut self, run: Run<'_>, publisher: Option<SessionId>) {
        self.tickets.clear();
        let Some(interest) = &self.interest else {
            self.run_here(run, publisher);
            return;
        };
        let mut targets = std::mem::take(&mut self.targets);
        interest.map().interested(run.topic, &mut targets);
        // The map says of this shard what its own table says, for less.
        if targets.contains(self.id) {
            self.run_here(run, publisher);
        }
        let mut at = None;
        for target in targets.iter().filter(|target| *target != self.id) {
            self.counters.hops_sent += u64::from(run.place.count);
            if self.outboxes.crosses(target) {
                let crossing = &mut self.outboxes.crossing;
                at = Some(crossing.push(target, run.frames, run.place, at));
                continue;
            }
            self.outboxes.push_run(target, run.frames, run.place, self.now);
            self.tickets.push((target, 0));
        }
        self.targets = targets;
    }

    /// Routes a run to what is on this shard; whether anybody wanted it.
    fn run_here(&mut self, run: Run<'_>, publisher: Option<SessionId>) -> bool {
        let Ok(topic) = TopicName::parse(run.topic, &self.settings.topic_limits) else {
            return false;
        };
        let mut matched = std::mem::take(&mut self.matched);
        if self.table.matches(topic, &mut matched) > 1 {
            matched.sort_unstable_by_key(|one| one.0);
        }
        let wanted = !matched.is_empty();
        let origin = self.origin();
        let mut translated = std::mem::take(&mut self.translated);
        translated.clear();
        for same in matched.chunk_by(|a, b| a.0 == b.0) {
            let subscriber = same[0].0;
            if groups::group_of(subscriber).is_some() {
                self.run_singly(same, run, publisher);
                continue;
            }
            let session = SessionId(subscriber.0);
            let Some(entry) = self.sessions.get(session) else { continue };
            let connection = entry
                .connection
                .and_then(|id| Some((id, self.connections.get_mut(id.0)?)))
                .filter(|(_, connection)| connection.state == State::Connected);
            let Some((id, connection)) = connection else {
                if self.settings.queue_qos0 {
                    self.run_singly(same, run, publisher);
                }
                continue;
            };
            if !self.guards.may_read(session, &entry.session.client_id, run.topic) {
                self.counters.dropped_denied += u64::from(run.place.count);
                continue;
            }
            let options = same[0].1;
            let plain = same.len() == 1
                && options.identifier().is_none()
                && !(options.no_local() && publisher == Some(session))
                // One byte more is what the translation to 5.0 may add, and one for the length that it may push up.
                && connection.maximum_packet_size >= run.place.frame_size_max + 2
                && connection.extra.as_ref().is_none_or(|e| e.outbound_aliases.is_none())
                && entry.session.outbound.as_ref().is_none_or(|o| !o.has_queued_once());
            if !plain {
                self.run_singly(same, run, publisher);
                continue;
            }
            let frames =
                if connection.version.is_v5() == run.place.v5 || mutant!("translation-wrong") {
                    run.frames
                } else {
                    if translated.is_empty() {
                        translate(run, &mut translated);
                    }
                    &translated
                };
            let room = self.settings.output_bytes_max.saturating_sub(connection.output_size());
            if frames.len() <= room {
                self.wire.run(id, connection, frames, run.place.count, origin);
                self.counters.publishes_sent[Qos::AtMostOnce as usize] +=
                    u64::from(run.place.count);
            } else {
                let (fitting, count) = fitting(frames, room);
                if count > 0 {
                    self.wire.run(id, connection, &frames[..fitting], count, origin);
                }
                self.counters.publishes_sent[Qos::AtMostOnce as usize] += u64::from(count);
                self.counters.dropped_output_full += u64::from(run.place.count - count);
            }
        }
        self.translated = translated;
        matched.clear();
        self.matched = matched;
        wanted
    }

    /// A run for one subscriber, message by message: it has a Subscription Identifier, an alias, a small Maximum Packet
    /// Size, overlapping filters, or is a shared subscription.
    fn run_singly(
        &mut self,
        same: &[(SubscriberId, midge_session::SubscriptionOptions)],
        run: Run<'_>,
        publisher: Option<SessionId>,
    ) {
        let session = SessionId(same[0].0.0);
        let same: Vec<_> = same
            .iter()
            .filter(|one| !(one.1.no_local() && publisher == Some(session)))
            .copied()
            .collect();
        if same.is_empty() {
            return;
        }
        for publish in publishes(run.frames, run.place.v5) {
            let publication = Arc::new(Publication::new(
                run.topic,
                b"",
                publish.payload,
                QoS::AtMostOnce,
                false,
                None,
            ));
            if let Some(group) = groups::group_of(same[0].0) {
                self.choose(group, &publication);
            } else {
                self.headers.clear();
                let queued = self.settings.queue_qos0 && self.durable.is_some();
                if queued {
                    self.open_delivery(session, &publication, 0);
                }
                self.deliver(session, &same, &publication, Occasion::Live);
                if queued {
                    self.close_message(&publication, run.topic);
                }
            }
        }
    }

    /// A batch from another shard.
    pub(crate) fn handle_batch(&mut self, from: ShardId, batch: Box<Batch>) {
        let stalled = match &mut self.durable {
            Some(durable) if !durable.stalled.is_empty() => Some(0),
            _ => self.open_batch(from, &batch, 0),
        };
        if let (Some(at), Some(durable)) = (stalled, &mut self.durable) {
            durable.stalled.push_back((from, batch, at));
        } else {
            self.outboxes.take_spare(batch);
        }
    }

    /// Opens a batch from its item number `start` on; where to go on when the log has room again, if it has not.
    pub(crate) fn open_batch(
        &mut self,
        from: ShardId,
        batch: &Batch,
        start: usize,
    ) -> Option<usize> {
        self.origin = Some(Origin { received: batch.received, remote: true });
        let mut last_ticket = 0;
        let mut refused = Vec::new();
        let mut stalled = None;
        for (at, item) in batch.items.iter().enumerate().skip(start) {
            match item {
                Item::Run(place) => self.run_from_elsewhere(&batch.frames, *place),
                Item::Publication { publication, ticket, number } => {
                    let (ticket, number) = (*ticket, *number);
                    if self.must_wait(from, publication) {
                        self.wait_for_room(from, publication, ticket, number, batch.received);
                        continue;
                    }
                    let routed = self.route_handed_on(from, publication, ticket, number);
                    if routed.busy {
                        if self.durable.as_mut().is_some_and(|durable| durable.take_short()) {
                            self.wait_for_room(from, publication, ticket, number, batch.received);
                            continue;
                        }
                        stalled = Some(at);
                        break;
                    }
                    self.counters.hops_received += 1;
                    if !routed.wanted {
                        self.counters.hops_unwanted += 1;
                    }
                    if ticket == 0 {
                        continue;
                    }
                    let nobody = routed.refused && !routed.kept;
                    if self.durable.is_some() {
                        self.note_routed(from, publication, ticket, routed);
                        continue;
                    }
                    last_ticket = ticket;
                    if nobody {
                        refused.push(ticket);
                    }
                }
            }
        }
        self.origin = None;
        if self.durable.is_some() {
            self.tell_accepted(from);
        } else if last_ticket != 0 {
            let done = Vec::new();
            let accepted = crate::envelope::Accepted { ticket: last_ticket, refused, done };
            self.send(from, Envelope::Accepted(Box::new(accepted)));
        }
        stalled
    }

    /// A run that another shard has received, at its place among `frames`.
    #[inline]
    fn run_from_elsewhere(&mut self, frames: &[u8], place: RunPlace) {
        let frames = &frames[place.at as usize..][..place.size as usize];
        let topic_at = usize::from(place.topic_at);
        let topic = &frames[topic_at..topic_at + usize::from(place.topic_size)];
        let topic = std::str::from_utf8(topic).unwrap_or_default();
        self.counters.hops_received += u64::from(place.count);
        if !self.run_here(Run { frames, topic, place }, None) {
            self.counters.hops_unwanted += u64::from(place.count);
        }
    }

    /// A run from a shard on the same thread.
    #[inline]
    pub(crate) fn take_crossed(&mut self, crossed: Crossed<'_>) {
        let Crossed { from, received, frames, place } = crossed;
        if let Some(durable) = &mut self.durable
            && !durable.stalled.is_empty()
        {
            let mut batch = Box::new(Batch { received, ..Batch::default() });
            let frames = &frames[place.at as usize..][..place.size as usize];
            batch.frames.extend_from_slice(frames);
            batch.size = frames.len();
            batch.items.push(Item::Run(RunPlace { at: 0, ..place }));
            durable.stalled.push_back((from, batch, 0));
            return;
        }
        self.origin = Some(Origin { received, remote: true });
        self.run_from_elsewhere(frames, place);
        self.origin = None;
    }

    /// Notes what a publication from another shard came to, for the answer to its ticket.
    pub(crate) fn note_routed(
        &mut self,
        from: ShardId,
        publication: &Publication,
        ticket: u64,
        routed: Routed,
    ) {
        let answer = match routed {
            Routed { unkept: true, .. } => Answer::Unkept,
            Routed { refused: true, kept: false, .. } => Answer::Refused,
            Routed { .. } => Answer::Kept,
        };
        let given = self.wait_for_members(from, ticket);
        self.note_accepted(from, (ticket, publication.qos()), routed.after, given, answer);
    }

    /// Routes one publication from another shard; not again what that shard hands on a second time after a crash.
    pub(crate) fn route_handed_on(
        &mut self,
        from: ShardId,
        publication: &Arc<Publication>,
        ticket: u64,
        number: u64,
    ) -> Routed {
        self.tickets.clear();
        if let Some(durable) = &mut self.durable {
            durable.opening.targets.clear();
            durable.opening.came_from = None;
            durable.opening.came_is_noted = false;
            if number != 0 {
                if durable.known[from.index()].has(number) && !mutant!("handed-on-again") {
                    // What it became may not be committed yet.
                    let after = durable.said();
                    durable.note_mark(from, number);
                    return Routed { wanted: true, kept: true, after, ..Routed::default() };
                }
                durable.opening.came_from = Some((from.get(), number));
            }
        }
        // What has a number stands in the other shard's log, and is not to be refused any more. A will has nobody who hears that
        // it is, and sends it again; at QoS 2 it is for all or for nobody.
        let patient = number != 0 || (ticket == 0 && publication.qos() == QoS::ExactlyOnce);
        let routed = self.route_here(publication, None, patient);
        if let Some(durable) = &mut self.durable
            && number != 0
            && !routed.busy
            && !routed.unkept
        {
            durable.note_mark(from, number);
            // What a group's member on another shard was given stands nowhere yet, and must come again.
            if !durable.opening.came_is_noted && self.tickets.is_empty() {
                durable.note_passed(from, number);
            }
        }
        routed
    }

    /// What was given to members of groups on other shards, and a ticket of `from` therefore waits for: how many.
    fn wait_for_members(&mut self, from: ShardId, ticket: u64) -> u16 {
        let count = self.tickets.len();
        for (target, given) in self.tickets.drain(..) {
            let waiter = Waiter::Ticket { from, ticket };
            let waiting = WaitingAck { ticket: given, waiter };
            self.waiting_acks[target.index()].push_back(waiting);
        }
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    /// Holds a publisher back when a shard that it has just published to is behind. Call it after `route` or
    /// `route_run`, which leave the targets in `self.tickets`.
    pub(crate) fn park_if_full(&mut self, id: ConnectionId) {
        let full = self.tickets.iter().map(|ticket| ticket.0).find(|t| self.outboxes.is_full(*t));
        if let Some(target) = full {
            self.park(id, target);
        }
    }
}

/// The PUBLISH packets of a run.
fn publishes(frames: &[u8], v5: bool) -> impl Iterator<Item = Publish<'_>> {
    let version = if v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
    let mut rest = frames;
    std::iter::from_fn(move || match frame(rest, u32::MAX) {
        Ok(Framed::Packet(raw)) => {
            rest = &rest[raw.size..];
            // These bytes were decoded, or compared with decoded ones, when they were received.
            Publish::decode(raw, version).ok()
        }
        _ => None,
    })
}

/// How many bytes and packets from the front of `frames` fit into `room` bytes.
fn fitting(frames: &[u8], room: usize) -> (usize, u32) {
    let (mut at, mut count) = (0, 0);
    while let Ok(Framed::Packet(raw)) = frame(&frames[at..], u32::MAX) {
        if at + raw.size > room {
            break;
        }
        at += raw.size;
        count += 1;
    }
    (at, count)
}

/// A run in the other protocol family: 5.0 has a property block behind the topic (here always empty, one zero byte).
fn translate(run: Run<'_>, out: &mut Vec<u8>) {
    let topic_end = 2 + run.topic.len();
    let mut rest = run.frames;
    while let Ok(Framed::Packet(raw)) = frame(rest, u32::MAX) {
        rest = &rest[raw.size..];
        let (topic, payload) = raw.body.split_at(topic_end);
        let (topic, payload): (&[u8], &[u8]) =
            if run.place.v5 { (topic, &payload[1..]) } else { (topic, payload) };
        let size = topic.len() + payload.len() + usize::from(!run.place.v5);
        out.push(raw.first_byte);
        // At most two length bytes: packets of runs are at most 4,096 bytes long.
        if size < 128 {
            out.push(size as u8);
        } else {
            out.extend([(size % 128) as u8 | 0x80, (size / 128) as u8]);
        }
        out.extend_from_slice(topic);
        if !run.place.v5 {
            out.push(0);
        }
        out.extend_from_slice(payload);
    }
}

const _: () = assert!(RUN_FRAME_SIZE_MAX + 1 < 128 * 128);

#[cfg(test)]
mod tests {
    use midge_codec::Connect;

    use super::*;
    use crate::Settings;
    use crate::regression::{Broker, publish, subscribe};

    /// The runs that the first shard has for the others are taken by those.
    fn cross(broker: &mut Broker) {
        let (now, (source, mates)) = (broker.now, broker.shards.split_at_mut(1));
        source[0].give_crossing(|target, crossed| {
            mates[target.index() - 1].handle_crossed(crossed, now);
        });
    }

    #[test]
    fn mates_take_runs_at_once_and_in_order() {
        let mut broker = Broker::new(4, Settings::default());
        for shard in &mut broker.shards {
            // The last one is on another thread.
            let mates = [0, 1, 2].map(ShardId::new).into_iter().collect();
            shard.set_mates(mates);
        }
        for shard in 0..4 {
            let name = broker.client_of(shard);
            broker.connect(shard, 1, &Connect::new(ProtocolVersion::V311, &name));
            broker.receive(shard, 1, &subscribe("t", QoS::AtMostOnce));
            broker.sent(shard, 1);
        }
        let two = [publish("t", "a", QoS::AtMostOnce, 0), publish("t", "b", QoS::AtMostOnce, 0)];
        broker.receive(0, 1, &two.concat());
        let crossing = &broker.shards[0].outboxes.crossing;
        assert_eq!(crossing.runs.len(), 2, "one for each mate");
        assert_eq!(crossing.frames, two.concat(), "and what they say once");
        // Behind what takes the longer way, runs take it too.
        broker.receive(0, 1, &publish("t", "c", QoS::AtLeastOnce, 1));
        broker.receive(0, 1, &publish("t", "d", QoS::AtMostOnce, 0));
        assert_eq!(broker.shards[0].outboxes.crossing.runs.len(), 2);
        cross(&mut broker);
        assert!(!broker.shards[0].has_crossing());
        assert_eq!(broker.payloads(1, 1), ["a", "b"]);
        broker.exchange();
        broker.receive(0, 1, &publish("t", "e", QoS::AtMostOnce, 0));
        cross(&mut broker);
        broker.exchange();
        assert_eq!(broker.payloads(1, 1), ["c", "d", "e"]);
        for shard in [2, 3] {
            assert_eq!(broker.payloads(shard, 1), ["a", "b", "c", "d", "e"]);
        }
        let hops: Vec<u64> = broker.shards.iter().map(|s| s.counters.hops_received).collect();
        assert_eq!(hops, [0, 5, 5, 5]);
        assert_eq!(broker.shards[0].counters.hops_sent, 15);
    }
}
