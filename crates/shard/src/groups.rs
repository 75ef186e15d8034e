//! Shared subscriptions: one chooser per group.
//!
//! A group (`$share/NAME/FILTER`) is chosen for by one shard, whoever its members are; that shard has the filter in its table
//! with the group as the subscriber. So every message is given to exactly one member [MQTT-4.8.2-4], without a lock, and
//! a member is a session somewhere that the chooser sends an envelope to.
//!
//! # Who is chosen
//! Round robin over the members that are online and have room. When none is, a QoS 1 or 2 message goes to a member
//! that is away but keeps its session; when none can take it, it waits in the group's backlog, which is bounded
//! ([`crate::Settings::share_backlog_messages_max`]); beyond it the message is dropped and counted. QoS 0 messages are
//! never kept.
//!
//! # Members that change
//! A member that leaves for good gives back what it had not acknowledged ([`Envelope::ShareReturn`]) and the chooser
//! chooses again. A member whose queue is full is skipped until it says that it has room. One that may not receive a message
//! gives it back as well, and the next one is chosen; a message that nobody may receive who could take it now is dropped.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use midge_codec::QoS;
use midge_mesh::ShardId;
use midge_session::{Keep, Publication, SubscriptionOptions};
use midge_store::Sequence;
use midge_topic::{FilterId, SharedFilter, SubscriberId};

use crate::connection::Answer;
use crate::deliver::{Delivered, Occasion};
use crate::durable::Late;
use crate::durable::record::Record;
use crate::envelope::{
    Envelope, ShareDeliver, ShareJoin, ShareJoined, ShareMember, ShareReturn, ShareState, chooser,
};
use crate::ids::SessionRef;
use crate::shard::{Shard, Waiter, WaitingAck};
use crate::slab::Slab;
use crate::tally::Origin;

/// Subscriber numbers from here on are groups, below it sessions.
const GROUP_BIT: u32 = 1 << 31;

/// One group of this chooser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupIndex(u32);

/// The group that a subscriber of the table is, if it is one.
#[inline]
pub(crate) fn group_of(subscriber: SubscriberId) -> Option<GroupIndex> {
    (subscriber.0 & GROUP_BIT != 0).then_some(GroupIndex(subscriber.0 & !GROUP_BIT))
}

#[derive(Debug)]
struct Group {
    text: Arc<str>,
    filter: FilterId,
    members: Vec<Member>,
    /// Where the round goes on.
    cursor: usize,
    backlog: VecDeque<Waiting>,
    /// Messages of the backlog that were given to a member and stand in the log here until its shard has them. Bounded by what the
    /// backlog held.
    given: Vec<Waiting>,
}

/// A message that waits for a member.
#[derive(Debug)]
struct Waiting {
    publication: Arc<Publication>,
    /// Where it stands in the log.
    keep: Option<Keep>,
    /// Members that may not receive it. It waits for nobody: who may, takes it now.
    denied: Vec<(ShardId, SessionRef)>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    shard: ShardId,
    session: SessionRef,
    persistent: bool,
    online: bool,
    room: bool,
}

/// The groups for which this shard chooses.
#[derive(Debug)]
pub(crate) struct Groups {
    slab: Slab<Group>,
    by_text: HashMap<Arc<str>, u32, ahash::RandomState>,
}

impl Groups {
    pub(crate) fn new(hasher: ahash::RandomState) -> Self {
        Self { slab: Slab::new(), by_text: HashMap::with_hasher(hasher) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// No backlog exceeds its bound.
    pub(crate) fn check_bounds(&self, backlog_max: usize) {
        for (_, group) in self.slab.iter() {
            assert!(group.backlog.len() <= backlog_max, "a group's backlog");
        }
    }

    /// What is told about a group, in few words.
    pub(crate) fn outline(&self, group: GroupIndex) -> Option<GroupOutline<'_>> {
        self.slab.get(group.0).map(Group::outline)
    }

    /// The same, of the group with this text.
    pub(crate) fn outline_of(&self, text: &str) -> Option<GroupOutline<'_>> {
        self.slab.get(*self.by_text.get(text)?).map(Group::outline)
    }

    /// Bytes of the group's `$share/NAME/FILTER`.
    pub(crate) fn text_size(&self, group: GroupIndex) -> usize {
        self.slab.get(group.0).map_or(0, |group| group.text.len())
    }

    /// Notes where the message that a group's backlog took last stands in the log.
    pub(crate) fn keep_last(&mut self, text: &str, keep: Keep) {
        if let Some((_, group)) = self.find(text)
            && let Some(last) = group.backlog.back_mut()
        {
            last.keep = Some(keep);
        }
    }

    /// A message in a group's backlog that stands in the log.
    pub(crate) fn find_kept(
        &mut self,
        text: &str,
        message: NonZeroU64,
    ) -> Option<(&Arc<Publication>, &mut Keep)> {
        let (_, group) = self.find(text)?;
        group.backlog.iter_mut().chain(&mut group.given).find_map(|waiting| {
            let Waiting { publication, keep: Some(keep), .. } = waiting else { return None };
            (keep.message == message).then_some((&*publication, keep))
        })
    }

    /// All messages of backlogs that stand in the log.
    pub(crate) fn kept_messages(&self) -> Vec<(Arc<str>, Arc<Publication>, Keep)> {
        let groups = self.slab.iter();
        let waiting = groups.flat_map(|(_, group)| {
            let waiting = group.backlog.iter().chain(&group.given);
            waiting.map(|waiting| (Arc::clone(&group.text), waiting))
        });
        let kept = waiting.filter_map(|(text, waiting)| {
            Some((text, Arc::clone(&waiting.publication), waiting.keep?))
        });
        kept.collect()
    }

    /// All members are known to be there and to have room, and nothing waits for one.
    pub(crate) fn check_rest(&self) {
        for (_, group) in self.slab.iter() {
            let ready = group.members.iter().filter(|member| member.online && member.room);
            assert_eq!(ready.count(), group.members.len(), "members of {}", group.text);
            assert!(group.backlog.is_empty(), "the backlog of {}", group.text);
            assert!(group.given.is_empty(), "given to members of {}", group.text);
        }
    }

    /// Where a message that was given to a member stands by now; it is on its way no more.
    fn take_given(&mut self, text: &str, keep: &Keep) -> Option<Keep> {
        let (_, group) = self.find(text)?;
        let same = |given: &Waiting| given.keep.is_some_and(|kept| kept.message == keep.message);
        let at = group.given.iter().position(same)?;
        group.given.swap_remove(at).keep
    }

    fn find(&mut self, text: &str) -> Option<(u32, &mut Group)> {
        let index = *self.by_text.get(text)?;
        Some((index, self.slab.get_mut(index)?))
    }
}

/// A group as an operator sees it.
#[derive(Debug)]
pub(crate) struct GroupOutline<'a> {
    /// `$share/NAME/FILTER`.
    pub(crate) text: &'a str,
    pub(crate) members: usize,
    pub(crate) online: usize,
    pub(crate) backlog: usize,
    /// Who would get a QoS 1 message now.
    pub(crate) next: Option<(ShardId, SessionRef)>,
}

impl Group {
    fn outline(&self) -> GroupOutline<'_> {
        // What waits in the backlog goes first, and waits because nobody can take it.
        let next = self.backlog.is_empty().then(|| self.chosen(QoS::AtLeastOnce, &[])).flatten();
        GroupOutline {
            text: &self.text,
            members: self.members.len(),
            online: self.members.iter().filter(|member| member.online).count(),
            backlog: self.backlog.len(),
            next: next.map(|at| (self.members[at].shard, self.members[at].session)),
        }
    }

    /// Who gets the next message.
    fn next(&mut self, qos: QoS) -> Option<Member> {
        self.next_but(qos, &[])
    }

    /// The same, passing over those that may not receive it.
    fn next_but(&mut self, qos: QoS, denied: &[(ShardId, SessionRef)]) -> Option<Member> {
        let chosen = self.chosen(qos, denied)?;
        self.cursor = chosen + 1;
        Some(self.members[chosen])
    }

    fn chosen(&self, qos: QoS, denied: &[(ShardId, SessionRef)]) -> Option<usize> {
        let count = self.members.len();
        let may = |at: &usize| {
            let member = &self.members[*at];
            denied.is_empty() || !denied.contains(&(member.shard, member.session))
        };
        let round = (0..count).map(|step| (self.cursor + step) % count).filter(may);
        round.clone().find(|at| self.members[*at].online && self.members[*at].room).or_else(|| {
            let mut away = round.filter(|_| qos > QoS::AtMostOnce);
            away.find(|at| self.members[*at].persistent && self.members[*at].room)
        })
    }

    /// Whether some member outlives its connection, and what waits for it the process.
    fn is_persistent(&self) -> bool {
        self.members.iter().any(|member| member.persistent)
    }

    fn member(&mut self, shard: ShardId, session: SessionRef) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.shard == shard && m.session == session)
    }
}

impl Shard {
    /// Gives a message to one member of a group: [`Delivered::Sent`] when one takes it or the group keeps it.
    pub(crate) fn choose(
        &mut self,
        group: GroupIndex,
        publication: &Arc<Publication>,
    ) -> Delivered {
        if self.durable.is_some() && publication.qos() > QoS::AtMostOnce {
            return self.choose_kept(group, publication);
        }
        let Some(entry) = self.groups.slab.get_mut(group.0) else { return Delivered::Dropped };
        let chosen = if entry.backlog.is_empty() { entry.next(publication.qos()) } else { None };
        let Some(member) = chosen else {
            let keep = publication.qos() > QoS::AtMostOnce
                && entry.backlog.len() < self.settings.share_backlog_messages_max;
            if keep {
                let publication = Arc::clone(publication);
                entry.backlog.push_back(Waiting { publication, keep: None, denied: Vec::new() });
                return Delivered::Sent;
            }
            self.counters.dropped_no_member += 1;
            return Delivered::Dropped;
        };
        let text = Arc::clone(&entry.text);
        if mutant!("share-two-members")
            && let Some(second) = entry.next(publication.qos())
        {
            self.give(second, Arc::clone(&text), Arc::clone(publication), Vec::new());
        }
        self.give(member, text, Arc::clone(publication), Vec::new());
        Delivered::Sent
    }

    /// The same for a message that must not be lost: a member here takes it into the record that is being made, one on another
    /// shard answers a ticket once it has it, and a backlog stands in the record.
    fn choose_kept(&mut self, group: GroupIndex, publication: &Arc<Publication>) -> Delivered {
        let mut denied = Vec::new();
        loop {
            let Some(entry) = self.groups.slab.get_mut(group.0) else { return Delivered::Dropped };
            let persistent = entry.is_persistent();
            let chosen = if entry.backlog.is_empty() {
                entry.next_but(publication.qos(), &denied)
            } else {
                None
            };
            let text = Arc::clone(&entry.text);
            let Some(member) = chosen else {
                if !denied.is_empty() {
                    self.counters.dropped_denied += 1;
                    return Delivered::Dropped;
                }
                if entry.backlog.len() >= self.settings.share_backlog_messages_max {
                    self.counters.dropped_no_member += 1;
                    return Delivered::Dropped;
                }
                if persistent && let Some(durable) = &mut self.durable {
                    if !durable.opening.ready {
                        return Delivered::Unkept;
                    }
                    durable.opening.groups.push(text);
                }
                let publication = Arc::clone(publication);
                entry.backlog.push_back(Waiting { publication, keep: None, denied });
                return Delivered::Sent;
            };
            let share = ShareMember { group: text, session: member.session };
            if member.shard != self.id {
                let ticket = if member.persistent {
                    let ticket = self.outboxes.next_ticket(member.shard);
                    self.tickets.push((member.shard, ticket));
                    ticket
                } else {
                    0
                };
                let publication = Arc::clone(publication);
                let origin = Origin { remote: true, ..self.origin() };
                let deliver = ShareDeliver { member: share, origin, ticket, publication, denied };
                self.send(member.shard, Envelope::ShareDeliver(Box::new(deliver)));
                return Delivered::Sent;
            }
            let (origin, before) = (self.origin(), self.origin);
            let delivered = self.deliver_shared(&share, origin, publication);
            self.origin = before;
            match delivered {
                Some(Delivered::Full) | None => {
                    let entry = self.groups.slab.get_mut(group.0);
                    if let Some(full) = entry.and_then(|e| e.member(member.shard, member.session)) {
                        full.room = false;
                    }
                    self.note_told_full(member.session);
                }
                Some(Delivered::Denied) => denied.push((member.shard, member.session)),
                Some(Delivered::Unkept) => return Delivered::Unkept,
                Some(_) => return Delivered::Sent,
            }
        }
    }

    fn give(
        &mut self,
        member: Member,
        group: Arc<str>,
        publication: Arc<Publication>,
        denied: Vec<(ShardId, SessionRef)>,
    ) {
        let mut origin = self.origin();
        let shard = member.shard;
        origin.remote |= shard != self.id;
        let member_there = ShareMember { group, session: member.session };
        let member = member_there;
        let deliver = ShareDeliver { member, origin, ticket: 0, publication, denied };
        self.send(shard, Envelope::ShareDeliver(Box::new(deliver)));
    }

    /// Gives out a message of a backlog that stands in the log: it stands there until the member's shard has it.
    fn give_waiting(&mut self, member: Member, group: Arc<str>, waiting: Waiting) {
        let Waiting { publication, keep, denied } = waiting;
        let Some(keep) = keep else { return self.give(member, group, publication, denied) };
        if let Some((_, entry)) = self.groups.find(&group) {
            let publication = Arc::clone(&publication);
            entry.given.push(Waiting { publication, keep: Some(keep), denied: Vec::new() });
        }
        let share = ShareMember { group: Arc::clone(&group), session: member.session };
        let mut origin = self.origin();
        if member.shard == self.id {
            // Taken from here in the same turn; what does not fit comes back at once.
            let deliver = ShareDeliver { member: share, origin, ticket: 0, publication, denied };
            self.handle_share_deliver(deliver, Some(keep));
            return;
        }
        let ticket = self.outboxes.next_ticket(member.shard);
        let waiter = Waiter::Backlog { group, keep };
        self.waiting_acks[member.shard.index()].push_back(WaitingAck { ticket, waiter });
        origin.remote = true;
        let deliver = ShareDeliver { member: share, origin, ticket, publication, denied };
        self.send(member.shard, Envelope::ShareDeliver(Box::new(deliver)));
    }

    /// A member has taken what a backlog kept.
    pub(crate) fn backlog_taken(&mut self, group: &str, keep: &Keep) {
        let Some(durable) = &mut self.durable else { return };
        // Cleaning may have moved it meanwhile.
        let keep = self.groups.take_given(group, keep).unwrap_or(*keep);
        durable.note_end(&Record::Taken { message: keep.message.get(), group });
        durable.release_keep(&keep);
    }

    /// Gives out what a group kept, as far as members take it.
    fn give_backlog(&mut self, index: u32) {
        while let Some(group) = self.groups.slab.get_mut(index) {
            let Some(front) = group.backlog.front() else { return };
            let text = Arc::clone(&group.text);
            if front.publication.expired(self.now) {
                let expired = group.backlog.pop_front();
                self.counters.dropped_expired += 1;
                if let Some(keep) = expired.and_then(|expired| expired.keep) {
                    self.backlog_taken(&text, &keep);
                }
                continue;
            }
            let (qos, denied) = (front.publication.qos(), front.denied.clone());
            let Some(member) = group.next_but(qos, &denied) else {
                if denied.is_empty() {
                    return;
                }
                // Whoever is left may come back or not; meanwhile it would hold up everything behind it.
                let lost = group.backlog.pop_front();
                self.counters.dropped_denied += 1;
                if let Some(keep) = lost.and_then(|lost| lost.keep) {
                    self.backlog_taken(&text, &keep);
                }
                continue;
            };
            let Some(waiting) = group.backlog.pop_front() else { return };
            self.give_waiting(member, text, waiting);
        }
    }

    pub(crate) fn handle_share_join(&mut self, from: ShardId, join: ShareJoin) {
        let text = &join.member.group;
        let index = match self.groups.by_text.get(text) {
            Some(index) => *index,
            None => {
                let Some(index) = self.found_group(text, join.options) else { return };
                index
            }
        };
        if let Some(group) = self.groups.slab.get_mut(index) {
            let member = Member {
                shard: from,
                session: join.member.session,
                persistent: join.persistent,
                online: true,
                room: true,
            };
            match group.member(from, join.member.session) {
                Some(known) => *known = member,
                None => group.members.push(member),
            }
        }
        let joined = ShareJoined { token: join.token, connection: join.connection };
        self.send(from, Envelope::ShareJoined(Box::new(joined)));
        self.give_backlog(index);
    }

    /// Puts a group's backlog back after a restart; its members join later.
    pub(crate) fn restore_backlog(&mut self, text: &str, messages: Vec<(Arc<Publication>, Keep)>) {
        let options = SubscriptionOptions::new(QoS::ExactlyOnce, false, false, None);
        let text: Arc<str> = text.into();
        if messages.is_empty() || self.groups.by_text.contains_key(&text) {
            return;
        }
        let Some(index) = self.found_group(&text, options) else { return };
        let Some(group) = self.groups.slab.get_mut(index) else { return };
        group.backlog.extend(messages.into_iter().map(|(publication, keep)| Waiting {
            publication,
            keep: Some(keep),
            denied: Vec::new(),
        }));
    }

    /// A group with its filter in the table, without members yet.
    fn found_group(&mut self, text: &Arc<str>, options: SubscriptionOptions) -> Option<u32> {
        let shared = SharedFilter::parse(text, &self.settings.topic_limits).ok()??;
        let index = self.groups.slab.next_index();
        let subscriber = SubscriberId(GROUP_BIT | index);
        let subscribed = self.table.subscribe(shared.filter, subscriber, options);
        let inserted = self.groups.slab.insert(Group {
            text: Arc::clone(text),
            filter: subscribed.filter_id,
            members: Vec::new(),
            cursor: 0,
            backlog: VecDeque::new(),
            given: Vec::new(),
        });
        assert_eq!(inserted, index, "the slab gives the number that it announced");
        if let Some(interest) = self.interest.as_mut().filter(|_| subscribed.first) {
            interest.add(shared.filter.as_str());
        }
        self.groups.by_text.insert(Arc::clone(text), index);
        Some(index)
    }

    pub(crate) fn handle_share_leave(&mut self, from: ShardId, leaving: &ShareMember) {
        let Some((index, group)) = self.groups.find(&leaving.group) else { return };
        group.members.retain(|m| m.shard != from || m.session != leaving.session);
        // After a restart others may be about to join again.
        let rejoining = self.durable.as_ref().is_some_and(|durable| durable.rejoining > 0);
        if group.members.is_empty() && !rejoining {
            self.dissolve_group(index);
        }
    }

    /// After a restart another shard's members have joined again, or this one's. Once all have, a group that nobody has joined
    /// has lost its last member before the process ended, and what waited for one goes as it does then.
    pub(crate) fn handle_share_rejoined(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        durable.rejoining = durable.rejoining.saturating_sub(1);
        if durable.rejoining > 0 {
            return;
        }
        let groups = self.groups.slab.iter();
        let left = groups.filter(|(_, group)| group.members.is_empty()).map(|(index, _)| index);
        let left: Vec<u32> = left.collect();
        for index in left {
            self.dissolve_group(index);
        }
    }

    /// A group without members is no more.
    fn dissolve_group(&mut self, index: u32) {
        let Some(group) = self.groups.slab.remove(index) else { return };
        self.groups.by_text.remove(&group.text);
        for keep in group.backlog.iter().filter_map(|waiting| waiting.keep) {
            self.backlog_taken(&group.text, &keep);
        }
        self.counters.dropped_no_member += group.backlog.len() as u64;
        self.unsubscribe_table(group.filter, SubscriberId(GROUP_BIT | index));
    }

    pub(crate) fn handle_share_state(&mut self, from: ShardId, state: &ShareState) {
        let Some((index, group)) = self.groups.find(&state.member.group) else { return };
        if let Some(member) = group.member(from, state.member.session)
            && !mutant!("share-state-lost")
        {
            member.online = state.online;
            member.room = state.room;
            self.give_backlog(index);
        }
    }

    /// A member could not keep a message: it is skipped until it has room, and another one is chosen. Or it may not receive it:
    /// then another one is, too, and where there is none just now the message is dropped and counted.
    pub(crate) fn handle_share_return(&mut self, from: ShardId, back: ShareReturn) {
        // What a backlog keeps until the member has it stays where it is.
        let kept = back.kept.or_else(|| self.take_waiter(from, back.ticket));
        let kept =
            kept.map(|keep| self.groups.take_given(&back.member.group, &keep).unwrap_or(keep));
        let Some((index, group)) = self.groups.find(&back.member.group) else {
            self.counters.dropped_no_member += 1;
            if let Some(keep) = kept {
                self.backlog_taken(&back.member.group, &keep);
            }
            return;
        };
        if back.denied.is_empty()
            && let Some(member) = group.member(from, back.member.session)
        {
            member.room = false;
        }
        if back.publication.qos() == QoS::AtMostOnce {
            // Never kept: somebody takes it now, or nobody.
            match group.next_but(QoS::AtMostOnce, &back.denied) {
                Some(member) => self.give(member, back.member.group, back.publication, back.denied),
                None if back.denied.is_empty() => self.counters.dropped_no_member += 1,
                None => self.counters.dropped_denied += 1,
            }
            return;
        }
        // It was chosen before anything that waits in the backlog came, so it goes first.
        if group.backlog.len() < self.settings.share_backlog_messages_max {
            let persistent = group.is_persistent();
            let keep = match kept {
                Some(keep) => Some(keep),
                None if persistent => self.keep_returned(from, &back),
                None => None,
            };
            if persistent && keep.is_none() && self.refuse_returned(from, &back) {
                return;
            }
            let Some((_, group)) = self.groups.find(&back.member.group) else { return };
            if persistent
                && keep.is_none()
                && let Some(durable) = &mut self.durable
            {
                durable.unkept.insert(Arc::clone(&group.text));
            }
            let ShareReturn { publication, denied, .. } = back;
            group.backlog.push_front(Waiting { publication, keep, denied });
            self.give_backlog(index);
        } else {
            self.counters.dropped_no_member += 1;
            if let Some(keep) = kept {
                self.backlog_taken(&back.member.group, &keep);
            }
        }
    }

    /// Where a backlog kept what it gave to a member under this ticket, whose answer means nothing any more.
    fn take_waiter(&mut self, from: ShardId, ticket: u64) -> Option<Keep> {
        let line = &mut self.waiting_acks[from.index()];
        let at = line.iter().position(|waiting| {
            waiting.ticket == ticket && matches!(waiting.waiter, Waiter::Backlog { .. })
        })?;
        match line.remove(at)?.waiter {
            Waiter::Backlog { keep, .. } => Some(keep),
            _ => None,
        }
    }

    /// Writes down what came back; whoever waits for it on this shard waits for that.
    fn keep_returned(&mut self, from: ShardId, back: &ShareReturn) -> Option<Keep> {
        let keep = self.keep_backlog(&back.member.group, &back.publication)?;
        let after = self.durable.as_mut()?.said();
        let mut line = self.waiting_acks[from.index()].iter();
        if let Some(WaitingAck { waiter: Waiter::Ack { connection, serial, number }, .. }) =
            line.find(|waiting| waiting.ticket == back.ticket)
            && let Some(connection) = self.connections.get_mut(connection.0)
            && connection.serial == *serial
            && let Some(extra) = &mut connection.extra
        {
            extra.acks.wait_for(*number, after);
        }
        Some(keep)
    }

    /// The log has room again: what came back while it had none, and nobody has taken since, is written down.
    pub(crate) fn keep_unkept(&mut self) {
        while let Some(durable) = &mut self.durable
            && let Some(text) = durable.unkept.pop_first()
        {
            while let Some((_, group)) = self.groups.find(&text)
                && group.is_persistent()
                && let Some(at) = group.backlog.iter().position(|waiting| waiting.keep.is_none())
            {
                let publication = Arc::clone(&group.backlog[at].publication);
                let Some(keep) = self.keep_backlog(&text, &publication) else {
                    if let Some(durable) = &mut self.durable {
                        durable.unkept.insert(text);
                    }
                    return;
                };
                if let Some((_, group)) = self.groups.find(&text) {
                    group.backlog[at].keep = Some(keep);
                }
            }
        }
    }

    /// Neither the member's log nor this one takes it: whoever published it at QoS 1 hears so. (At QoS 2 others may have it,
    /// who must not get it again: it waits in memory.)
    fn refuse_returned(&mut self, from: ShardId, back: &ShareReturn) -> bool {
        if self.durable.is_none() || back.publication.qos() != QoS::AtLeastOnce {
            return false;
        }
        let line = &mut self.waiting_acks[from.index()];
        let at = line.iter().position(|w| back.ticket != 0 && w.ticket == back.ticket);
        let Some(waiting) = at.and_then(|at| line.remove(at)) else { return false };
        self.counters.dropped_log_full += 1;
        self.answer_waiter(waiting.waiter, Answer::Unkept);
        true
    }

    /// The chooser has chosen a session of this shard; `backlog` is where its backlog, on this shard too, keeps the message.
    /// Later, when the log has no room.
    pub(crate) fn handle_share_deliver(&mut self, deliver: ShareDeliver, backlog: Option<Keep>) {
        let size = deliver.member.group.len();
        if self.durable.is_some()
            && !self.open_delivery(deliver.member.session.id, &deliver.publication, size)
        {
            if let Some(durable) = &mut self.durable {
                durable.late.push_back(Late::Share(deliver, backlog));
            }
            return;
        }
        let ShareDeliver { member, origin, ticket, publication, mut denied } = deliver;
        let qos = publication.qos();
        let delivered = self.deliver_shared(&member, origin, &publication);
        let after = match &self.durable {
            Some(_) => self.close_message(&publication, publication.topic()),
            None => Sequence(0),
        };
        let chooser = chooser(&member.group, self.shards);
        let returned = match delivered {
            Some(Delivered::Full | Delivered::Unkept) | None => Some(Vec::new()),
            Some(Delivered::Denied) => {
                denied.push((self.id, member.session));
                Some(denied)
            }
            Some(Delivered::Sent | Delivered::Queued | Delivered::Dropped) => {
                if let Some(keep) = backlog {
                    self.backlog_taken(&member.group, &keep);
                }
                None
            }
        };
        if let Some(denied) = returned {
            self.give_back(ShareReturn { member, publication, denied, ticket, kept: backlog });
        }
        if ticket != 0 {
            self.note_accepted(chooser, (ticket, qos), after, 0, Answer::Kept);
            self.tell_accepted(chooser);
        }
    }

    /// Delivers to a session that was chosen; `None`: it is no member.
    fn deliver_shared(
        &mut self,
        member: &ShareMember,
        origin: Origin,
        publication: &Arc<Publication>,
    ) -> Option<Delivered> {
        // It may have left since it was chosen: nothing new comes after its UNSUBACK [MQTT-3.10.4-2]. Or it may have left and
        // joined again: what it wants now is what counts.
        let shares = self.sessions.current(member.session).and_then(|entry| entry.shares.as_ref());
        let share = shares.and_then(|shares| shares.groups.get(&member.group));
        let &options = share?;
        self.headers.clear();
        let matched = [(SubscriberId(member.session.id.0), options)];
        let occasion = Occasion::Shared(&member.group);
        self.origin = Some(origin);
        let delivered = self.deliver(member.session.id, &matched, publication, occasion);
        self.origin = None;
        Some(delivered)
    }
}
