//! Retained messages: this shard's slice of them, and their way to new subscriptions.
//!
//! The retained message of a topic lives on one shard, `hash(topic)`. A subscription without wildcards asks that shard; one
//! with wildcards asks all that keep any, one after the other. A *pump* on the subscriber's connection asks for a handful at
//! a time and asks again when those have left, so that a hundred thousand retained messages neither fill an output nor
//! hold up a shard.
//!
//! # Neither twice
//! A message that is published right after the subscription may be retained before the keeper is asked, and reach the subscriber
//! directly as well. Both are the same [`Publication`] in memory; a connection remembers the young ones that it was
//! sent as retained, and leaves out the one that comes directly. So that it comes directly, as it should, the freshest ones
//! are held back for a moment.
//!
//! # Order
//! A message that is published while a pump is under way reaches the subscriber directly, and may overtake
//! the retained message of the same topic that it replaced. The pump remembers the topics of retained publications that
//! were delivered meanwhile and leaves those out: the newer message is there already.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use midge_codec::QoS;
use midge_mesh::ShardId;
use midge_session::{Keep, Publication, SubscriptionOptions, Time};
use midge_store::Sequence;
use midge_topic::{RetainedIndex, Scan, SubscriberId, Topic, TopicFilter};

use crate::connection::State;
use crate::deliver::Occasion;
use crate::envelope::{Envelope, RetainedAnswer, RetainedQuery};
use crate::ids::{ConnectionId, ListenerId, keeper_shard};
use crate::own;
use crate::protection::{Accounts, Counted, Happening, Protection};
use crate::shard::Shard;

/// Entries that one scan looks at.
const SCAN_BUDGET: usize = 512;
/// Messages in one answer.
const ANSWER_MAX: usize = 64;
/// Messages that one pump moves in one turn, a tenth of a millisecond; the output's bound alone would allow ten thousand.
const PUMPED_PER_TURN: usize = 256;
/// Topics that a pump remembers, at most. Beyond it a retained message may follow the newer one of its topic.
const OVERTAKEN_MAX: usize = 4096;

/// A retained message is young for this long, in nanoseconds: whoever published it may still be sending it to shards that
/// subscribed just before. A hop takes less than a thousandth of it.
const YOUNG_NS: u64 = 2_000_000_000;
/// A younger one than this, in nanoseconds, is held back for [`HOLD_MS`]: it is most likely on its way directly, and then it
/// must not have the RETAIN flag [MQTT-3.3.1-12].
const FRESH_NS: u64 = 100_000_000;
/// How long, in milliseconds: many hops, and no time that a subscriber notices.
const HOLD_MS: u64 = 10;
/// Young retained messages that a connection remembers, at most. Beyond it one may come twice.
const YOUNG_MAX: usize = 1024;

/// A publication in the index, found by its topic.
#[derive(Debug)]
pub(crate) struct RetainedMessage {
    pub(crate) publication: Arc<Publication>,
    pub(crate) stored_at: Time,
    /// Where it stands in the log.
    keep: Cell<Option<Keep>>,
}

impl RetainedMessage {
    pub(crate) fn new(publication: Arc<Publication>, stored_at: Time, keep: Option<Keep>) -> Self {
        Self { publication, stored_at, keep: Cell::new(keep) }
    }

    fn size(&self) -> usize {
        size_of_retained(&self.publication)
    }

    fn counted(&self) -> Option<Counted> {
        counted(&self.publication)
    }
}

/// What counts for a listener, where it does.
fn counted(publication: &Publication) -> Option<Counted> {
    let label = publication.author()?.listener.as_ref()?;
    Some(Counted { label: Arc::clone(label), size: size_of_retained(publication) as u64 })
}

/// What counts against the limit: with the writer's names in each message, though they share them.
fn size_of_retained(publication: &Publication) -> usize {
    publication.memory_size() + publication.author().map_or(0, |author| author.memory_size())
}

/// What came of a publication to be retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retained {
    /// It is, or the earlier one is gone; the log must have reached this before anybody is told.
    Kept(Sequence),
    /// A limit is reached.
    Refused,
    /// The log does not take it.
    Unkept,
}

impl Topic for RetainedMessage {
    fn topic(&self) -> &str {
        self.publication.topic()
    }
}

/// A retained message in an answer.
#[derive(Debug)]
pub(crate) struct Found {
    publication: Arc<Publication>,
    /// It may reach the subscriber directly, too.
    young: bool,
    /// It probably does.
    fresh: bool,
}

/// A young retained message that was sent, for the subscription with these options.
#[derive(Debug)]
pub(crate) struct YoungSent {
    publication: Arc<Publication>,
    options: SubscriptionOptions,
}

/// How many retained messages each shard keeps, for all to read: a subscription does not ask a shard that has none.
///
/// A count is raised before the publisher's acknowledgement leaves (`Release`), so whoever subscribes after that
/// acknowledgement reads it (`Acquire`).
#[derive(Debug)]
pub struct RetainedCounts(Box<[AtomicU64]>);

impl RetainedCounts {
    /// Zero for each of `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| AtomicU64::new(0)).collect())
    }

    fn set(&self, shard: ShardId, count: usize) {
        self.0[shard.index()].store(count as u64, Ordering::Release);
    }

    pub(crate) fn is_zero(&self, shard: ShardId) -> bool {
        self.0[shard.index()].load(Ordering::Acquire) == 0
    }
}

/// Retained messages on their way to one new subscription.
#[derive(Debug)]
pub(crate) struct RetainedPump {
    token: u64,
    filter: Arc<str>,
    options: SubscriptionOptions,
    /// The next shard to ask, and the one to stop before.
    next: u16,
    end: u16,
    /// Where the present shard's answer goes on.
    after: Option<Box<str>>,
    /// A question is under way.
    asked: bool,
    ready: VecDeque<Found>,
    /// Fresh messages in `ready` wait until then.
    hold_until: Time,
    /// The connection is in the list of those that hold.
    holding: bool,
    overtaken: BTreeSet<Box<str>>,
}

impl RetainedPump {
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    fn note_answer(&mut self, answer: RetainedAnswer) {
        self.asked = false;
        self.ready.extend(answer.publications);
        self.after = answer.resume_after;
        if self.after.is_none() {
            self.next += 1;
        }
    }
}

/// This shard's slice.
#[derive(Debug)]
pub(crate) struct RetainedSlice {
    pub(crate) index: RetainedIndex<RetainedMessage>,
    bytes: usize,
    /// What of it counts for listeners.
    pub(crate) accounts: Accounts,
}

impl RetainedSlice {
    pub(crate) fn new(seed: u64, hasher: RandomState) -> Self {
        let index = RetainedIndex::with_seed(seed);
        Self { index, bytes: 0, accounts: Accounts::new(hasher) }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes are counted, and the index agrees with itself.
    pub(crate) fn check_integrity(&self) {
        self.index.check_integrity();
        let messages = self.index.iter_after(None);
        let bytes: usize = messages.map(RetainedMessage::size).sum();
        assert_eq!(self.bytes, bytes, "retained bytes are counted");
        for (label, messages, bytes) in self.accounts.used() {
            let all = self.index.iter_after(None).filter_map(RetainedMessage::counted);
            let own = all.filter(|one| one.label == *label);
            let sum = own.fold((0, 0), |(count, sum), one| (count + 1, sum + one.size));
            assert_eq!((messages, bytes), sum, "what counts for {label}");
        }
    }

    /// Nobody else holds a retained message any more: what goes to many is given back by all.
    pub(crate) fn check_unshared(&self) {
        for message in self.index.iter_after(None) {
            let holders = Arc::strong_count(&message.publication);
            assert_eq!(holders, 1, "holders of the retained {}", message.topic());
        }
    }

    /// Notes where the retained message of a topic stands in the log.
    pub(crate) fn set_keep(&self, topic: &str, keep: Keep) {
        if let Some(message) = self.index.find(topic) {
            message.keep.set(Some(keep));
        }
    }

    /// The retained message of a topic, and where it stands in the log.
    pub(crate) fn kept(&self, topic: &str) -> Option<(&Arc<Publication>, Keep)> {
        let message = self.index.find(topic)?;
        Some((&message.publication, message.keep.get()?))
    }

    /// All that stand in the log.
    pub(crate) fn kept_messages(&self) -> impl Iterator<Item = (Arc<Publication>, Keep)> + '_ {
        self.index
            .iter_after(None)
            .filter_map(|message| Some((Arc::clone(&message.publication), message.keep.get()?)))
    }

    /// Puts one back after a restart: no topic twice.
    pub(crate) fn restore(
        &mut self,
        publication: Arc<Publication>,
        keep: Keep,
        now: Time,
        protection: &Protection,
        shards: u16,
    ) {
        self.bytes += size_of_retained(&publication);
        if let Some(one) = counted(&publication) {
            self.accounts.admit(&one, protection, shards);
        }
        let earlier = self.index.insert(RetainedMessage::new(publication, now, Some(keep)));
        if let Some(earlier) = earlier {
            self.bytes -= earlier.size();
        }
    }
}

impl Shard {
    /// Keeps, replaces or removes the retained message of a topic whose keeper this shard is.
    pub(crate) fn retain(&mut self, publication: &Arc<Publication>) -> Retained {
        if own::is_own(publication.topic()) {
            // The broker says it again soon after a restart.
            self.retain_own(publication);
            return Retained::Kept(Sequence(0));
        }
        let slice = &mut self.retained;
        // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
        if publication.payload().is_empty() && mutant!("clear-keeps-retained") {
            return Retained::Kept(Sequence(0));
        }
        if publication.payload().is_empty() {
            return Retained::Kept(self.forget_earlier(publication.topic()));
        }
        if self.durable.as_ref().is_some_and(|durable| !durable.opening.ready) {
            self.counters.retained_refused += 1;
            if publication.qos() == QoS::AtMostOnce {
                // [MQTT-3.3.1-7 @3.1.1]: one at QoS 0 may be discarded, but never leaves the earlier one in its place.
                self.forget_earlier(publication.topic());
            }
            return Retained::Unkept;
        }
        let replaced = slice.index.find(publication.topic()).map_or(0, RetainedMessage::size);
        let new = usize::from(replaced == 0);
        let bytes = slice.bytes - replaced + size_of_retained(publication);
        if slice.index.len() + new > self.settings.retained_messages_max
            || bytes > self.settings.retained_bytes_max
        {
            self.counters.retained_refused += 1;
            return Retained::Refused;
        }
        if replaced > 0 && mutant!("first-retained-stays") {
            return Retained::Kept(Sequence(0));
        }
        if let Err(listener) = self.account(replaced > 0, publication) {
            self.counters.retained_refused += 1;
            self.note_by_listener(listener, Happening::RetainedRefused);
            return Retained::Refused;
        }
        let slice = &mut self.retained;
        // [MQTT-3.3.1-5]
        let message = RetainedMessage::new(Arc::clone(publication), self.now, None);
        let earlier = slice.index.insert(message);
        slice.bytes = bytes;
        self.retained_counts.set(self.id, slice.index.len());
        if let Some(durable) = &mut self.durable {
            durable.supersede(publication.topic());
            durable.opening.retained = true;
            if let Some(keep) = earlier.and_then(|earlier| earlier.keep.get()) {
                durable.release_keep(&keep);
            }
        }
        Retained::Kept(Sequence(0))
    }

    /// Whether the listener by which a message came lets it take the place of the earlier one of its topic; if so, it counts.
    fn account(&mut self, replaces: bool, publication: &Publication) -> Result<(), ListenerId> {
        let slice = &mut self.retained;
        let earlier = if replaces { slice.index.find(publication.topic()) } else { None };
        let earlier = earlier.and_then(RetainedMessage::counted);
        let new = counted(publication);
        if earlier.is_none() && new.is_none() {
            return Ok(());
        }
        let protection = &self.settings.protection;
        slice.accounts.replace(earlier.as_ref(), new.as_ref(), protection, self.shards)
    }

    /// One is not there any more.
    fn take_off(&mut self, old: &RetainedMessage) {
        self.retained.bytes -= old.size();
        if let Some(old) = old.counted() {
            let protection = &self.settings.protection;
            // Nothing is asked for, so nothing is refused.
            _ = self.retained.accounts.replace(Some(&old), None, protection, self.shards);
        }
    }

    /// A topic has no retained message from now on. Returns what whoever is told so waits for.
    fn forget_earlier(&mut self, topic: &str) -> Sequence {
        if let Some(durable) = &mut self.durable {
            durable.supersede(topic);
        }
        if let Some(old) = self.retained.index.remove(topic) {
            self.take_off(&old);
            self.tell_retained_count();
            if let Some(keep) = old.keep.get() {
                return self.forget_retained(topic, &keep);
            }
        }
        // The one that was there may be gone since a moment ago.
        self.durable.as_mut().map_or(Sequence(0), |durable| durable.ended())
    }

    /// Tells the other shards how many this one keeps.
    pub(crate) fn tell_retained_count(&self) {
        self.retained_counts.set(self.id, self.retained.index.len());
    }

    /// Sends a new subscription its retained messages.
    pub(crate) fn send_retained(
        &mut self,
        id: ConnectionId,
        filter: &Arc<str>,
        options: SubscriptionOptions,
    ) {
        let Ok(parsed) = TopicFilter::parse(filter, &self.settings.topic_limits) else { return };
        let (next, end) = if parsed.has_wildcard() {
            let any = (0..self.shards).any(|shard| self.may_keep(ShardId::new(shard), filter));
            if !any {
                return;
            }
            (0, self.shards)
        } else {
            let keeper = keeper_shard(filter, self.shards);
            if !self.may_keep(keeper, filter) {
                return;
            }
            (keeper.get(), keeper.get() + 1)
        };
        self.tokens += 1;
        let pump = RetainedPump {
            token: self.tokens,
            filter: Arc::clone(filter),
            options,
            next,
            end,
            after: None,
            asked: false,
            ready: VecDeque::new(),
            hold_until: Time::ZERO,
            holding: false,
            overtaken: BTreeSet::new(),
        };
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.extra().pumps.push_back(pump);
        self.advance_pumps(id);
    }

    /// A subscription was replaced [MQTT-3.8.4-3]: retained messages that are still on their way to the earlier one come as
    /// the new one says, or not at all when it begins `again` with all of them.
    pub(crate) fn change_pumps(
        &mut self,
        id: ConnectionId,
        filter: &str,
        options: SubscriptionOptions,
        again: bool,
    ) {
        let connection = self.connections.get_mut(id.0);
        let Some(extra) = connection.and_then(|connection| connection.extra.as_mut()) else {
            return;
        };
        if again {
            extra.pumps.retain(|pump| pump.filter() != filter);
        }
        for pump in extra.pumps.iter_mut().filter(|pump| pump.filter() == filter) {
            pump.options = options;
        }
    }

    /// Moves retained messages on, as far as the connection has room and answers are there.
    pub(crate) fn advance_pumps(&mut self, id: ConnectionId) {
        let mut pumped = 0;
        loop {
            let Some(connection) = self.connections.get_mut(id.0) else { return };
            let Some(session) = connection.session else { return };
            if connection.extra.as_ref().is_some_and(|extra| extra.gave_way) {
                return;
            }
            if connection.state != State::Connected
                || connection.output_size() > self.settings.output_bytes_max / 2
            {
                return;
            }
            let queued = self
                .sessions
                .get(session)
                .and_then(|entry| entry.session.outbound.as_ref())
                .map_or(0, |outbound| outbound.queued_count());
            if queued > self.settings.queue.messages_max / 2 {
                return;
            }
            let Some(extra) = connection.extra.as_mut() else { return };
            let Some(pump) = extra.pumps.front_mut() else { return };
            // A QoS 0 message that does not fit would be dropped, and here nothing is lost by waiting.
            let waiting = connection.output.as_ref().map_or(0, |output| output.size());
            let room = self.settings.output_bytes_max.saturating_sub(waiting);
            if waiting > 0
                && pump.ready.front().is_some_and(|next| next.publication.memory_size() > room)
            {
                return;
            }
            if pumped == PUMPED_PER_TURN {
                self.give_way(id);
                return;
            }
            if pump.ready.front().is_some_and(|next| next.fresh) && self.now < pump.hold_until {
                if !pump.holding {
                    pump.holding = true;
                    self.holding.push_back((pump.hold_until, id, connection.serial));
                }
                return;
            }
            let next = pump.ready.front().map(|next| Arc::clone(&next.publication));
            if let (Some(publication), true) = (next, self.durable.is_some())
                && !self.open_delivery(session, &publication, 0)
            {
                self.give_way(id);
                return;
            }
            let Some(connection) = self.connections.get_mut(id.0) else { return };
            let Some(extra) = connection.extra.as_mut() else { return };
            let Some(pump) = extra.pumps.front_mut() else { return };
            if let Some(Found { publication, young, .. }) = pump.ready.pop_front() {
                pumped += 1;
                let overtaken = pump.overtaken.contains(publication.topic());
                if !overtaken && !publication.expired(self.now) {
                    if young && extra.young_sent.len() < YOUNG_MAX {
                        if extra.young_sent.is_empty() {
                            self.forgetting.push_back((self.now, id, connection.serial));
                        }
                        let sent = Arc::clone(&publication);
                        let options = pump.options;
                        extra.young_sent.push(YoungSent { publication: sent, options });
                    }
                    let Some(pump) = extra.pumps.front() else { return };
                    let matched = [(SubscriberId(session.0), pump.options)];
                    self.headers.clear();
                    self.deliver(session, &matched, &publication, Occasion::Retained);
                    if self.durable.is_some() {
                        self.close_message(&publication, publication.topic());
                    }
                }
                continue;
            }
            if pump.asked {
                return;
            }
            let own = own::is_own(&pump.filter);
            while pump.next < pump.end
                && !own
                && self.retained_counts.is_zero(ShardId::new(pump.next))
            {
                pump.next += 1;
                pump.after = None;
            }
            if pump.next >= pump.end {
                extra.pumps.pop_front();
                continue;
            }
            let target = ShardId::new(pump.next);
            let query = RetainedQuery {
                connection: id,
                token: pump.token,
                filter: Arc::clone(&pump.filter),
                after: pump.after.take(),
            };
            pump.asked = true;
            if target == self.id {
                let mut answer = self.scan_retained(&query);
                for found in &mut answer.publications {
                    // What this shard keeps it has also delivered directly, in the same moment.
                    (found.young, found.fresh) = (false, false);
                }
                let empty = answer.publications.is_empty();
                let more = answer.resume_after.is_some();
                let pumps = self.connections.get_mut(id.0).and_then(|c| c.extra.as_mut());
                let Some(pump) = pumps.and_then(|extra| extra.pumps.front_mut()) else { return };
                pump.note_answer(answer);
                if empty && more {
                    // A whole budget without a match.
                    self.give_way(id);
                    return;
                }
            } else {
                self.send(target, Envelope::RetainedQuery(Box::new(query)));
                return;
            }
        }
    }

    /// Lets others have the rest of the turn; whatever happens to the connection meanwhile, its pumps go on in the next.
    fn give_way(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        connection.extra().gave_way = true;
        self.pumping.push_back(id);
    }

    /// Goes on with pumps that gave way: at most `budget` of them, and none twice.
    pub(crate) fn run_pumps(&mut self, budget: usize) {
        for _ in 0..budget.min(self.pumping.len()) {
            let Some(id) = self.pumping.pop_front() else { return };
            let connection = self.connections.get_mut(id.0);
            if let Some(extra) = connection.and_then(|connection| connection.extra.as_mut()) {
                extra.gave_way = false;
            }
            self.advance_pumps(id);
        }
    }

    pub(crate) fn handle_retained_query(&mut self, from: ShardId, query: &RetainedQuery) {
        let answer = self.scan_retained(query);
        self.send(from, Envelope::RetainedAnswer(Box::new(answer)));
    }

    pub(crate) fn handle_retained_answer(&mut self, answer: RetainedAnswer) {
        let id = answer.connection;
        let Some(connection) = self.connections.get_mut(id.0) else { return };
        let Some(extra) = connection.extra.as_mut() else { return };
        let Some(pump) = extra.pumps.iter_mut().find(|pump| pump.token == answer.token) else {
            return;
        };
        pump.note_answer(answer);
        pump.hold_until = self.now.plus_millis(HOLD_MS);
        pump.holding = false;
        self.advance_pumps(id);
    }

    /// Goes on with pumps that have held fresh messages long enough.
    pub(crate) fn end_holding(&mut self) {
        while let Some((until, id, serial)) = self.holding.front().copied() {
            if self.now < until {
                return;
            }
            self.holding.pop_front();
            if self.connections.get(id.0).is_some_and(|connection| connection.serial == serial) {
                self.advance_pumps(id);
            }
        }
    }

    /// Some of this shard's retained messages that match.
    fn scan_retained(&mut self, query: &RetainedQuery) -> RetainedAnswer {
        let mut answer = RetainedAnswer {
            connection: query.connection,
            token: query.token,
            publications: Vec::new(),
            resume_after: None,
        };
        let Ok(filter) = TopicFilter::parse(&query.filter, &self.settings.topic_limits) else {
            return answer;
        };
        let mut expired: Vec<Box<str>> = Vec::new();
        let now = self.now;
        let own = own::is_own(&query.filter);
        let rules = self.guards.rules().filter(|_| self.settings.recheck_retained);
        let Self { authors, counters, .. } = self;
        let index = if own { &self.own_retained } else { &self.retained.index };
        let scan = index.scan(
            filter,
            query.after.as_deref(),
            SCAN_BUDGET.min(ANSWER_MAX * 8),
            &mut |message| {
                if message.publication.expired(now) {
                    expired.push(message.topic().into());
                } else if let (Some((rules, generation)), Some(author)) =
                    (&rules, message.publication.author())
                    && let Some(writer) = &author.writer
                    && !authors.may_still_write(rules, *generation, writer, message.topic())
                {
                    // It stays: the right may come back.
                    counters.dropped_denied += 1;
                } else {
                    let publication = Arc::clone(&message.publication);
                    let age_ns = now.since(message.stored_at);
                    let (young, fresh) = (age_ns < YOUNG_NS, age_ns < FRESH_NS);
                    answer.publications.push(Found { publication, young, fresh });
                }
            },
        );
        if let Scan::More { after } = scan {
            answer.resume_after = Some(after.into());
        }
        // [MQTT-3.3.2-5]: what has expired is not kept.
        for topic in expired {
            if let Some(old) = self.retained.index.remove(&topic) {
                self.take_off(&old);
                self.counters.dropped_expired += 1;
                if let (Some(durable), Some(keep)) = (&mut self.durable, old.keep.get()) {
                    durable.release_keep(&keep);
                }
            }
        }
        self.retained_counts.set(self.id, self.retained.index.len());
        answer
    }
}

impl Shard {
    /// Forgets the young messages of connections that have had time enough to receive them directly.
    pub(crate) fn forget_young(&mut self) {
        while let Some((since, id, serial)) = self.forgetting.front().copied() {
            if self.now.since(since) < YOUNG_NS {
                return;
            }
            self.forgetting.pop_front();
            if let Some(connection) = self.connections.get_mut(id.0)
                && connection.serial == serial
                && let Some(extra) = connection.extra.as_mut()
            {
                extra.young_sent = Vec::new();
            }
        }
    }

    /// When [`Shard::end_holding`] or [`Shard::forget_young`] has something to do.
    pub(crate) fn next_retained_deadline(&self) -> Option<Time> {
        let forget = self.forgetting.front();
        let forget = forget.map(|(since, ..)| since.plus_millis(YOUNG_NS / 1_000_000));
        let hold = self.holding.front().map(|(until, ..)| *until);
        [forget, hold].into_iter().flatten().min()
    }
}

/// Whether a publication that comes directly was sent already, as the retained message of the same subscription.
pub(crate) fn was_sent_as_retained(
    young_sent: &[YoungSent],
    matched: &[(SubscriberId, SubscriptionOptions)],
    publication: &Arc<Publication>,
) -> bool {
    // A client with two matching subscriptions wants it for the other one.
    let [(_, options)] = matched else { return false };
    young_sent
        .iter()
        .any(|sent| Arc::ptr_eq(&sent.publication, publication) && sent.options == *options)
}

/// Notes that a retained publication was delivered directly while pumps of the connection were under way.
pub(crate) fn note_overtaken(pumps: &mut VecDeque<RetainedPump>, topic: &str) {
    for pump in pumps {
        if pump.overtaken.len() < OVERTAKEN_MAX {
            pump.overtaken.insert(topic.into());
        }
    }
}
