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
//! chooses again. A member whose queue is full is skipped until it says that it has room.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use midge_codec::QoS;
use midge_mesh::ShardId;
use midge_session::{Publication, SubscriptionOptions};
use midge_topic::{FilterId, SharedFilter, SubscriberId};

use crate::deliver::{Delivered, Occasion};
use crate::envelope::{
    Envelope, ShareDeliver, ShareJoin, ShareJoined, ShareMember, ShareReturn, ShareState,
};
use crate::ids::SessionRef;
use crate::shard::Shard;
use crate::slab::Slab;

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
    backlog: VecDeque<Arc<Publication>>,
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
        let next = self.backlog.is_empty().then(|| self.chosen(QoS::AtLeastOnce)).flatten();
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
        let chosen = self.chosen(qos)?;
        self.cursor = chosen + 1;
        Some(self.members[chosen])
    }

    fn chosen(&self, qos: QoS) -> Option<usize> {
        let count = self.members.len();
        let round = (0..count).map(|step| (self.cursor + step) % count);
        round.clone().find(|at| self.members[*at].online && self.members[*at].room).or_else(|| {
            let mut away = round.filter(|_| qos > QoS::AtMostOnce);
            away.find(|at| self.members[*at].persistent && self.members[*at].room)
        })
    }

    fn member(&mut self, shard: ShardId, session: SessionRef) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.shard == shard && m.session == session)
    }
}

impl Shard {
    /// Gives a message to one member of a group; whether one takes it or the group keeps it.
    pub(crate) fn choose(&mut self, group: GroupIndex, publication: &Arc<Publication>) -> bool {
        let Some(entry) = self.groups.slab.get_mut(group.0) else { return false };
        let chosen = if entry.backlog.is_empty() { entry.next(publication.qos()) } else { None };
        let Some(member) = chosen else {
            let keep = publication.qos() > QoS::AtMostOnce
                && entry.backlog.len() < self.settings.share_backlog_messages_max;
            if keep {
                entry.backlog.push_back(Arc::clone(publication));
            } else {
                self.counters.dropped_no_member += 1;
            }
            return keep;
        };
        let text = Arc::clone(&entry.text);
        if mutant!("share-two-members")
            && let Some(second) = entry.next(publication.qos())
        {
            self.give(second, Arc::clone(&text), Arc::clone(publication));
        }
        self.give(member, text, Arc::clone(publication));
        true
    }

    fn give(&mut self, member: Member, group: Arc<str>, publication: Arc<Publication>) {
        let mut origin = self.origin();
        origin.remote |= member.shard != self.id;
        let member_of = ShareMember { group, session: member.session };
        let deliver = ShareDeliver { member: member_of, origin, publication };
        self.send(member.shard, Envelope::ShareDeliver(Box::new(deliver)));
    }

    /// Gives out what a group kept, as far as members take it.
    fn give_backlog(&mut self, index: u32) {
        while let Some(group) = self.groups.slab.get_mut(index) {
            let Some(front) = group.backlog.front() else { return };
            if front.expired(self.now) {
                group.backlog.pop_front();
                self.counters.dropped_expired += 1;
                continue;
            }
            let Some(member) = group.next(front.qos()) else { return };
            let Some(publication) = group.backlog.pop_front() else { return };
            let text = Arc::clone(&group.text);
            self.give(member, text, publication);
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
        if !group.members.is_empty() {
            return;
        }
        let Some(group) = self.groups.slab.remove(index) else { return };
        self.groups.by_text.remove(&group.text);
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

    /// A member could not keep a message: it is skipped until it has room, and another one is chosen.
    pub(crate) fn handle_share_return(&mut self, from: ShardId, back: ShareReturn) {
        let Some((index, group)) = self.groups.find(&back.member.group) else {
            self.counters.dropped_no_member += 1;
            return;
        };
        if let Some(member) = group.member(from, back.member.session) {
            member.room = false;
        }
        if back.publication.qos() == QoS::AtMostOnce {
            // Never kept: somebody takes it now, or nobody.
            match group.next(QoS::AtMostOnce) {
                Some(member) => self.give(member, back.member.group, back.publication),
                None => self.counters.dropped_no_member += 1,
            }
            return;
        }
        // It was chosen before anything that waits in the backlog came, so it goes first.
        if group.backlog.len() < self.settings.share_backlog_messages_max {
            group.backlog.push_front(back.publication);
            self.give_backlog(index);
        } else {
            self.counters.dropped_no_member += 1;
        }
    }

    /// The chooser has chosen a session of this shard.
    pub(crate) fn handle_share_deliver(&mut self, deliver: ShareDeliver) {
        let ShareDeliver { member, origin, publication } = deliver;
        // It may have left since it was chosen: nothing new comes after its UNSUBACK [MQTT-3.10.4-2]. Or it may have left and
        // joined again: what it wants now is what counts.
        let shares = self.sessions.current(member.session).and_then(|entry| entry.shares.as_ref());
        let share = shares.and_then(|shares| shares.groups.get(&member.group));
        let Some(&options) = share else {
            self.return_shared(member, publication);
            return;
        };
        self.headers.clear();
        let matched = [(SubscriberId(member.session.id.0), options)];
        let occasion = Occasion::Shared(&member.group);
        self.origin = Some(origin);
        let delivered = self.deliver(member.session.id, &matched, &publication, occasion);
        self.origin = None;
        if delivered == Delivered::Full {
            self.return_shared(member, publication);
        }
    }
}
