//! From the records of a log to a shard.
//!
//! An [`Image`] takes the records one by one, in the order of the log, and holds what they leave: nothing that has ended. It
//! then fills a shard that has no clients yet ([`Shard::restore`]), or, when the number of shards has changed, is
//! split into the images of the new shards and written into new logs ([`split`], [`Image::records`]).
//!
//! # Memory
//! Payloads of queued messages are left where they are: an image has twenty bytes for each, and so has the shard until a client
//! comes for them (the `backlog` file beside this one). What came by way of a shared subscription is held whole, as
//! retained messages are.
//!
//! # Damage
//! A record that names what is not there (because it has ended, or its beginning was damaged) says nothing and is counted.
//! Whatever is left is still well formed: a packet id that two messages claim is given to one.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use midge_codec::{PacketId, QoS};
use midge_mesh::ShardId;
use midge_session::{
    Author, Delivery, DeliveryExtra, Keep, Publication, Session, Stub, Stubs, SubscriptionOptions,
    Will, Writer,
};
use midge_store::{Level, Log, Position, RECORD_HEADER_SIZE, Recovered, SegmentId, record_size};
use midge_topic::{SharedFilter, SubscriberId, TopicFilter};

use super::clean::has_inbound;
use super::record::{
    AuthorRecord, DeliveryRecord, HandOn, MessageRecord, Record, RecordError, SessionRecord,
    WillRecord,
};
use super::wait::HandingOn;
use super::write::{keep, message_record, place_of, share_of};
use super::{DamageCounts, Durable, Kept, Known, Place, WallTime};
use crate::envelope::{Envelope, ShareJoin, ShareMember, chooser};
use crate::ids::{ConnectionId, home_shard, keeper_shard};
use crate::sessions::{Away, Shares};
use crate::shard::Shard;
use crate::tally::{InLog, Load};
use crate::unanswered;
use crate::wheel::{Entry, Subject};

/// Numbers of what is handed on that are left out at a start: where acknowledgements do not wait for the disk, a power cut may take
/// records of what was handed on already, and another shard would take what is new for that. A sync is not so far behind.
const NUMBERS_SKIPPED: u64 = 1 << 24;

/// What a log says.
#[derive(Debug)]
pub struct Image {
    wall: WallTime,
    sessions: BTreeMap<u64, SessionImage>,
    retained: HashMap<Box<str>, Held>,
    backlogs: BTreeMap<Box<str>, BTreeMap<u64, Held>>,
    handing_on: BTreeMap<u64, HeldForOthers>,
    /// Numbers under which other shards had handed on.
    pub(super) came: BTreeMap<u16, Known>,
    /// Who wrote what is retained.
    authors: HashSet<Arc<Author>>,
    next_session: u64,
    next_message: u64,
    next_number: u64,
    counts: Counts,
}

/// What was read and what it came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub records: u64,
    /// Records that name a session or message of which nothing is known: its beginning was damaged, or it had ended already.
    pub strays: u64,
    /// Sessions that are left.
    pub sessions: u64,
    /// Subscriptions that are left.
    pub subscriptions: u64,
    /// Messages queued or in flight, counted for each session.
    pub queued: u64,
    /// Retained messages that are left.
    pub retained: u64,
}

#[derive(Debug, Default)]
struct SessionImage {
    /// Its terms have been read. Cleaning may have put them behind what belongs to the session.
    known: bool,
    client_id: Box<str>,
    user: Option<Box<str>>,
    expiry_interval_seconds: u32,
    away_since_ms: Option<u64>,
    will: Option<Box<Will>>,
    place: Place,
    subscriptions: BTreeMap<Box<str>, (u32, Place)>,
    inbound: BTreeMap<u16, Place>,
    /// What is in flight, and what a shared subscription gave.
    line: BTreeMap<u64, Line>,
    /// What else is queued.
    queued: Stubs,
    /// When this is not the log that is restored: the number of the one that has its messages, and its key there.
    source: (u16, u64),
}

/// A message in a session's line.
#[derive(Debug, Clone)]
struct Line {
    body: Body,
    qos: QoS,
    packet_id: Option<PacketId>,
    place: Place,
}

/// What there is of it.
#[derive(Debug, Clone)]
enum Body {
    Memory {
        publication: Arc<Publication>,
        retain: bool,
        extra: Option<Box<DeliveryExtra>>,
    },
    /// The log has it; in memory it would have so many bytes.
    Log(u32),
    /// The client has it.
    Received,
}

/// A message that a topic, a group or this shard holds.
#[derive(Debug)]
struct Held {
    message: NonZeroU64,
    publication: Arc<Publication>,
    place: Place,
}

/// A message that this shard hands on.
#[derive(Debug)]
struct HeldForOthers {
    held: Held,
    targets: Vec<u16>,
    /// The session that published it, and the packet id.
    origin: Option<(u64, u16)>,
}

impl Image {
    /// Of an empty log. `wall` says how the process's clock and wall time relate.
    #[must_use]
    pub fn new(wall: WallTime) -> Self {
        Self {
            wall,
            sessions: BTreeMap::new(),
            retained: HashMap::new(),
            backlogs: BTreeMap::new(),
            handing_on: BTreeMap::new(),
            came: BTreeMap::new(),
            authors: HashSet::new(),
            next_session: 1,
            next_message: 1,
            next_number: 1,
            counts: Counts::default(),
        }
    }

    /// The next record of the log.
    ///
    /// # Errors
    /// When the payload is no record that this version knows: the log was written by a newer one, since damaged records do
    /// not get this far.
    pub fn apply(
        &mut self,
        position: Position,
        kind: u8,
        payload: &[u8],
    ) -> Result<(), RecordError> {
        let record = Record::decode(kind, payload)?;
        let place = Place { position, size: payload.len() as u32 };
        self.counts.records += 1;
        if self.take(record, place).is_none() {
            self.counts.strays += 1;
        }
        Ok(())
    }

    /// `None`: it names what is not there.
    fn take(&mut self, record: Record<'_>, place: Place) -> Option<()> {
        match record {
            Record::Session(record) => self.take_session(&record, place),
            Record::SessionEnd { .. } if mutant!("session-end-not-read") => {}
            Record::SessionEnd { session } => {
                self.sessions.remove(&session)?;
            }
            Record::Subscribe { session, options, filter } => {
                let session = self.sessions.entry(session).or_default();
                session.subscriptions.insert(filter.into(), (options, place));
            }
            Record::Unsubscribe { session, filter } => {
                self.sessions.get_mut(&session)?.subscriptions.remove(filter)?;
            }
            Record::Message(record) => return self.take_message(record, place),
            Record::Assigned { session, message, packet_id } => {
                let packet_id = PacketId::new(packet_id);
                let session = self.sessions.get_mut(&session)?;
                if session.is_torn_before(message) {
                    return None;
                }
                match session.queued.remove(NonZeroU64::new(message)?) {
                    Some(stub) => {
                        session.line.insert(message, Line { packet_id, ..Line::of(stub) });
                    }
                    None => session.line.get_mut(&message)?.packet_id = packet_id,
                }
            }
            Record::Received { session, message, packet_id } => {
                self.next_message = self.next_message.max(message.saturating_add(1));
                let session = self.sessions.entry(session).or_default();
                session.queued.remove(NonZeroU64::new(message)?);
                let line = Line {
                    body: Body::Received,
                    qos: QoS::ExactlyOnce,
                    packet_id: PacketId::new(packet_id),
                    place,
                };
                session.line.insert(message, line);
            }
            Record::Done { session, message } => {
                let session = self.sessions.get_mut(&session)?;
                let queued = session.queued.remove(NonZeroU64::new(message)?).is_some();
                if session.line.remove(&message).is_none() && !queued {
                    return None;
                }
            }
            Record::Inbound { session, packet_id } => {
                self.sessions.entry(session).or_default().inbound.insert(packet_id, place);
            }
            Record::InboundReleased { .. } if mutant!("release-not-read") => {}
            Record::InboundReleased { session, packet_id } => {
                self.sessions.get_mut(&session)?.inbound.remove(&packet_id)?;
            }
            Record::HandedOn { number } => {
                self.next_number = self.next_number.max(number.saturating_add(1));
                self.handing_on.remove(&number)?;
            }
            Record::Mark { shard, number } => {
                self.came.entry(shard).or_default().add_up_to(number);
            }
            Record::Came { shard, first, last } => {
                self.came.entry(shard).or_default().add(first, last);
            }
            Record::RetainedGone { .. } if mutant!("retained-gone-not-read") => {}
            Record::RetainedGone { topic } => {
                self.retained.remove(topic)?;
            }
            Record::Taken { message, group } => {
                self.backlogs.get_mut(group)?.remove(&message)?;
            }
        }
        Some(())
    }

    fn take_session(&mut self, record: &SessionRecord<'_>, place: Place) {
        self.next_session = self.next_session.max(record.session.saturating_add(1));
        let will = record.will.as_ref().map(|will| {
            Box::new(Will {
                topic: will.topic.into(),
                properties: will.properties.into(),
                payload: will.payload.into(),
                qos: will.qos,
                retain: will.retain,
                delay_interval_seconds: will.delay_interval_seconds,
                message_expiry_interval_seconds: will.message_expiry_interval_seconds,
            })
        });
        let session = self.sessions.entry(record.session).or_default();
        session.known = true;
        session.client_id = record.client_id.into();
        session.user = record.user.map(Into::into);
        session.expiry_interval_seconds = record.expiry_interval_seconds;
        session.away_since_ms = record.away_since_ms;
        session.will = will;
        session.place = place;
    }

    /// The same for all messages that somebody wrote.
    fn author(&mut self, record: AuthorRecord<'_>) -> Arc<Author> {
        let author = Author {
            writer: record.writer.map(|writer| Writer {
                user: writer.user.map(Into::into),
                client_id: writer.client_id.into(),
            }),
            listener: record.listener.map(Into::into),
        };
        if let Some(known) = self.authors.get(&author) {
            return Arc::clone(known);
        }
        let author = Arc::new(author);
        self.authors.insert(Arc::clone(&author));
        author
    }

    fn take_message(&mut self, record: MessageRecord<'_>, place: Place) -> Option<()> {
        self.next_message = self.next_message.max(record.message.saturating_add(1));
        let message = NonZeroU64::new(record.message)?;
        let owners = record.deliveries.len()
            + record.groups.len()
            + usize::from(record.retained)
            + usize::from(record.origin.is_some())
            + usize::from(record.hand_on.is_some());
        let place = Place { size: share_of(place.size, owners), ..place };
        let expires_at = record.expires_at_ms.map(|ms| self.wall.time(ms));
        let size = record.topic.len() + record.properties.len() + record.payload.len();
        let size = u32::try_from(Publication::memory_size_of(size)).unwrap_or(u32::MAX);
        let author = record.author.map(|author| self.author(author));
        let whole = OnceCell::new();
        let publication = || {
            Arc::clone(whole.get_or_init(|| {
                let publication = Publication::new(
                    record.topic,
                    record.properties,
                    record.payload,
                    record.qos,
                    record.retain,
                    expires_at,
                );
                Arc::new(publication.written_by(author.clone()))
            }))
        };
        let held = || Held { message, publication: publication(), place };
        for delivery in record.deliveries {
            let session = self.sessions.entry(delivery.session).or_default();
            let mut packet_id = delivery.packet_id.and_then(PacketId::new);
            if delivery.share.is_none() && session.is_torn_before(record.message) {
                packet_id = None;
            }
            let body = if delivery.share.is_some() {
                let (retain, extra) = (delivery.retain, extra(&delivery));
                Body::Memory { publication: publication(), retain, extra }
            } else {
                Body::Log(size)
            };
            if packet_id.is_none() && delivery.share.is_none() {
                session.line.remove(&record.message);
                let keep = keep(message, place);
                session.queued.insert(Stub { keep, size, qos: delivery.qos });
                continue;
            }
            if delivery.share.is_none() {
                session.queued.remove(message);
            }
            let line = Line { body, qos: delivery.qos, packet_id, place };
            session.line.insert(record.message, line);
        }
        for group in record.groups {
            self.backlogs.entry(group.into()).or_default().insert(record.message, held());
        }
        if record.retained {
            self.retained.insert(record.topic.into(), held());
        }
        if let Some((session, packet_id)) = record.origin {
            self.sessions.entry(session).or_default().inbound.insert(packet_id, place);
        }
        if let Some(HandOn { number, targets }) = record.hand_on {
            self.next_number = self.next_number.max(number.saturating_add(1));
            let origin = record.origin;
            self.handing_on.insert(number, HeldForOthers { held: held(), targets, origin });
        }
        if let Some((shard, number)) = record.came_from {
            self.came.entry(shard).or_default().add(number, number);
        }
        Some(())
    }

    /// What was read and what it came to.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let sessions = self.sessions.values().filter(|session| session.known);
        Counts {
            sessions: sessions.clone().count() as u64,
            subscriptions: sessions.clone().map(|s| s.subscriptions.len() as u64).sum(),
            queued: sessions.map(|s| (s.line.len() + s.queued.len()) as u64).sum(),
            retained: self.retained.len() as u64,
            ..self.counts
        }
    }

    /// The client of a session, by the session's key.
    pub(crate) fn client_id(&self, key: u64) -> Option<&str> {
        self.sessions.get(&key).filter(|image| image.known).map(|image| &*image.client_id)
    }

    /// Sessions of which something is there but not their terms: damage took those, and what belongs to them goes with them.
    #[must_use]
    pub fn headless(&self) -> usize {
        self.sessions.values().filter(|image| !image.known).count()
    }

    /// All has been read: whatever belongs to a session of which nothing is known belongs to nobody.
    fn end(&mut self) {
        self.sessions.retain(|_, session| session.known);
    }

    /// Bytes of each segment that still count.
    fn live(&self) -> HashMap<SegmentId, u64> {
        let mut live = HashMap::new();
        let mut count = |place: &Place| {
            *live.entry(place.position.segment).or_default() +=
                record_size(place.size as usize) as u64;
        };
        self.sessions.values().for_each(|session| session.each_place(&mut count));
        self.retained.values().for_each(|held| count(&held.place));
        self.backlogs.values().flat_map(BTreeMap::values).for_each(|held| count(&held.place));
        self.handing_on.values().for_each(|one| count(&one.held.place));
        live
    }

    /// The records that say the same, to be written into an empty log; `emit` gets each. `fetch` reads a record of the log with
    /// that number (the place among those that were [`split`]) into a buffer, and tells its kind; `None` when it is damaged.
    /// Returns how many messages are lost for that.
    ///
    /// # Errors
    /// The first of `fetch` or `emit`.
    pub fn records<E>(
        &self,
        mut fetch: impl FnMut(u16, Position, &mut Vec<u8>) -> Result<Option<u8>, E>,
        mut emit: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut lost = 0;
        let mut bytes = Vec::new();
        for (key, image) in &self.sessions {
            let will = image.will.as_ref().map(|will| WillRecord {
                topic: &will.topic,
                properties: &will.properties,
                payload: &will.payload,
                qos: will.qos,
                retain: will.retain,
                delay_interval_seconds: will.delay_interval_seconds,
                message_expiry_interval_seconds: will.message_expiry_interval_seconds,
            });
            emit(&Record::Session(SessionRecord {
                session: *key,
                client_id: &image.client_id,
                user: image.user.as_deref(),
                expiry_interval_seconds: image.expiry_interval_seconds,
                away_since_ms: image.away_since_ms,
                will,
            }))?;
            for (filter, (options, _)) in &image.subscriptions {
                emit(&Record::Subscribe { session: *key, options: *options, filter })?;
            }
            for packet_id in image.inbound.keys() {
                emit(&Record::Inbound { session: *key, packet_id: *packet_id })?;
            }
        }
        // A session's line is read back in the order of its messages' ids, wherever they stand in the log.
        for (key, image) in &self.sessions {
            let queued = image.queued.iter().map(|stub| (stub.keep.message.get(), stub));
            let queued = queued.map(|(message, stub)| (message, Cow::Owned(Line::of(stub))));
            let line = image.line.iter().map(|(message, line)| (*message, Cow::Borrowed(line)));
            for (message, line) in line.chain(queued) {
                let Some(message) = NonZeroU64::new(message) else { continue };
                let packet_id = line.packet_id.map(PacketId::get);
                match &line.body {
                    Body::Received => emit(&Record::Received {
                        session: *key,
                        message: message.get(),
                        packet_id: packet_id.unwrap_or(1),
                    })?,
                    Body::Memory { publication, retain, extra } => {
                        let extra = extra.as_deref();
                        let delivery = DeliveryRecord {
                            session: *key,
                            qos: line.qos,
                            retain: *retain,
                            packet_id,
                            identifiers: extra
                                .map_or(&[][..], |e| &e.subscription_identifiers)
                                .into(),
                            share: extra.and_then(|extra| extra.share.as_deref()),
                        };
                        let record = MessageRecord {
                            deliveries: vec![delivery],
                            ..message_record(publication, publication.topic(), message, self.wall)
                        };
                        emit(&Record::Message(record))?;
                    }
                    Body::Log(_) => {
                        let (log, earlier) = image.source;
                        bytes.clear();
                        let kind = fetch(log, line.place.position, &mut bytes)?;
                        let record = kind.and_then(|kind| Record::decode(kind, &bytes).ok());
                        let delivery = DeliveryRecord { session: *key, packet_id, ..EMPTY };
                        match record.and_then(|record| only_for(record, earlier, delivery)) {
                            Some(record) => emit(&Record::Message(MessageRecord {
                                message: message.get(),
                                ..record
                            }))?,
                            None => lost += 1,
                        }
                    }
                }
            }
        }
        for held in self.retained.values() {
            let record = MessageRecord {
                retained: true,
                ..message_record(
                    &held.publication,
                    held.publication.topic(),
                    held.message,
                    self.wall,
                )
            };
            emit(&Record::Message(record))?;
        }
        for (group, messages) in &self.backlogs {
            for held in messages.values() {
                let record = MessageRecord {
                    groups: vec![group],
                    ..message_record(
                        &held.publication,
                        held.publication.topic(),
                        held.message,
                        self.wall,
                    )
                };
                emit(&Record::Message(record))?;
            }
        }
        for (number, HeldForOthers { held, targets, .. }) in &self.handing_on {
            let record = MessageRecord {
                hand_on: Some(HandOn { number: *number, targets: targets.clone() }),
                ..message_record(
                    &held.publication,
                    held.publication.topic(),
                    held.message,
                    self.wall,
                )
            };
            emit(&Record::Message(record))?;
        }
        for (shard, known) in &self.came {
            emit(&Record::Mark { shard: *shard, number: known.highest() })?;
        }
        Ok(lost)
    }

    /// Takes up a session of the log with the number `source`, and gives everything new numbers, from these on.
    fn absorb(&mut self, source: u16, key: u64, mut image: SessionImage) {
        let new = self.next_session;
        self.next_session += 1;
        debug_assert!(key > 0);
        image.source = (source, key);
        let mut line = std::mem::take(&mut image.line).into_iter().peekable();
        let mut queued = std::mem::take(&mut image.queued);
        loop {
            let oldest = queued.front().map(|stub| stub.keep.message.get());
            let next = line.next_if(|(message, _)| oldest.is_none_or(|oldest| *message < oldest));
            if let Some((_, line)) = next {
                image.line.insert(self.new_message().get(), line);
            } else if let Some(stub) = queued.pop_front() {
                let keep = Keep { message: self.new_message(), ..stub.keep };
                image.queued.insert(Stub { keep, ..stub });
            } else {
                break;
            }
        }
        self.sessions.insert(new, image);
    }

    fn new_message(&mut self) -> NonZeroU64 {
        let message = NonZeroU64::new(self.next_message).unwrap_or(NonZeroU64::MIN);
        self.next_message += 1;
        message
    }
}

/// The images of as many shards as there are now, from those of as many as there were: sessions, retained messages and
/// backlogs go to their homes.
///
/// What one old shard still had to hand on to others goes to all new ones: it was not acknowledged as taken by all, and its
/// numbers mean nothing any more, so here alone a QoS 2 publication may come twice.
#[must_use]
pub fn split(images: Vec<Image>, shards: u16, wall: WallTime) -> Vec<Image> {
    let mut new: Vec<Image> = (0..shards).map(|_| Image::new(wall)).collect();
    for (source, mut image) in (0..).zip(images) {
        image.end();
        for (key, session) in std::mem::take(&mut image.sessions) {
            new[home_shard(&session.client_id, shards).index()].absorb(source, key, session);
        }
        for (topic, held) in std::mem::take(&mut image.retained) {
            let keeper = &mut new[keeper_shard(&topic, shards).index()];
            let message = keeper.new_message();
            keeper.retained.insert(topic, Held { message, ..held });
        }
        for (group, messages) in std::mem::take(&mut image.backlogs) {
            let chooser = &mut new[chooser(&group, shards).index()];
            for (_, held) in messages {
                let message = chooser.new_message();
                let backlog = chooser.backlogs.entry(group.clone()).or_default();
                backlog.insert(message.get(), Held { message, ..held });
            }
        }
        for (_, HeldForOthers { held, .. }) in std::mem::take(&mut image.handing_on) {
            let number = new[0].next_number;
            new[0].next_number += 1;
            let message = new[0].new_message();
            let held = Held { message, ..held };
            let one = HeldForOthers { held, targets: (0..shards).collect(), origin: None };
            new[0].handing_on.insert(number, one);
        }
    }
    new
}

impl Line {
    /// Queued, and in the log.
    fn of(stub: Stub) -> Self {
        let Stub { keep, size, qos } = stub;
        Self { body: Body::Log(size), qos, packet_id: None, place: place_of(&keep) }
    }
}

impl SessionImage {
    /// Whether an earlier message has no packet id, so that a later one that has says that a power cut took the record of the earlier
    /// one's: one batch may be torn anywhere. It was not committed then, so the later one is sent in its order, as if for the
    /// first time [MQTT-4.6.0-6]. At QoS 2 it has not left; at QoS 1 it may come again.
    ///
    /// What a shared subscription gave has an order of its own.
    fn is_torn_before(&self, message: u64) -> bool {
        self.queued.front().is_some_and(|earliest| earliest.keep.message.get() < message)
    }

    /// Where all stands that counts for it.
    fn each_place(&self, mut each: impl FnMut(&Place)) {
        each(&self.place);
        self.subscriptions.values().for_each(|(_, place)| each(place));
        self.inbound.values().for_each(&mut each);
        self.line.values().for_each(|line| each(&line.place));
        self.queued.iter().for_each(|stub| each(&place_of(&stub.keep)));
    }
}

/// A delivery about which nothing is known yet.
const EMPTY: DeliveryRecord<'static> = DeliveryRecord {
    session: 0,
    qos: QoS::AtMostOnce,
    retain: false,
    packet_id: None,
    identifiers: Cow::Borrowed(&[]),
    share: None,
};

/// What a record says about the session with the key `earlier`, as the only thing that it says: the session and packet id are
/// those of `delivery`.
fn only_for<'a>(
    record: Record<'a>,
    earlier: u64,
    delivery: DeliveryRecord<'a>,
) -> Option<MessageRecord<'a>> {
    let Record::Message(record) = record else { return None };
    let mut deliveries = record.deliveries.into_iter();
    let found = deliveries.find(|one| one.session == earlier && one.share.is_none())?;
    let DeliveryRecord { session, packet_id, .. } = delivery;
    Some(MessageRecord {
        deliveries: vec![DeliveryRecord { session, packet_id, ..found }],
        groups: Vec::new(),
        retained: false,
        origin: None,
        hand_on: None,
        came_from: None,
        ..record
    })
}

pub(super) fn extra(delivery: &DeliveryRecord<'_>) -> Option<Box<DeliveryExtra>> {
    (!delivery.identifiers.is_empty() || delivery.share.is_some()).then(|| {
        Box::new(DeliveryExtra {
            subscription_identifiers: delivery.identifiers[..].into(),
            share: delivery.share.map(Arc::from),
        })
    })
}

impl Shard {
    /// From now on what must outlive the process goes to this log. `level` is what acknowledgements wait for.
    pub fn keep_in(&mut self, log: Log, level: Level, wall: WallTime) {
        let hasher = self.sessions.hasher().clone();
        let durable = Durable::new(log, level, wall, self.shards, &hasher);
        self.durable = Some(Box::new(durable));
    }

    /// What recovery found damaged, for the statistics; after [`Shard::keep_in`].
    pub fn note_damage(&mut self, damage: DamageCounts) {
        if let Some(durable) = &mut self.durable {
            durable.damage += damage;
        }
    }

    /// Takes up what a log said, before the first client. `recovered` is what the log was resumed with, after
    /// [`Shard::keep_in`].
    ///
    /// Members of shared subscriptions are announced to their choosers with envelopes, which must be delivered before
    /// anything is published.
    pub fn restore(&mut self, mut image: Image, recovered: &Recovered) {
        image.end();
        let Some(durable) = &mut self.durable else { return };
        release_dead(&mut durable.log, &image, recovered);
        durable.next_session = image.next_session;
        durable.next_message = image.next_message;
        durable.next_number = image.next_number;
        let begun = image.came.get(&self.id.get());
        if let Some(handed_on) = begun {
            durable.next_number = durable.next_number.max(handed_on.highest().saturating_add(1));
        }
        if begun.is_some() || durable.next_number > 1 {
            durable.next_number = durable.next_number.saturating_add(NUMBERS_SKIPPED);
        }
        for (shard, known) in image.came {
            if let Some(mark) = durable.marks.get_mut(usize::from(shard)) {
                *mark = known.highest();
                durable.synced_marks[usize::from(shard)] = known.highest();
                durable.known[usize::from(shard)] = known;
            }
        }
        let mut origins = Vec::new();
        for (number, HeldForOthers { held, targets, origin }) in image.handing_on {
            origins.extend(origin.map(|origin| (number, origin)));
            let shards = self.shards;
            let known: Vec<u16> = targets.into_iter().filter(|target| *target < shards).collect();
            let publication = Arc::clone(&held.publication);
            let handing_on = HandingOn::new(held.place, publication, known.clone(), origin);
            durable.handing_on.insert(number, handing_on);
            durable.forward(midge_store::Sequence(0), number, &held.publication, known);
        }
        for (_, held) in image.retained {
            let keep = keep(held.message, held.place);
            let protection = &self.settings.protection;
            self.retained.restore(held.publication, keep, self.now, protection, self.shards);
        }
        self.tell_retained_count();
        for (group, messages) in image.backlogs {
            let held = messages.into_values();
            let messages =
                held.map(|held| (held.publication, keep(held.message, held.place))).collect();
            self.restore_backlog(&group, messages);
        }
        for (key, session) in image.sessions.into_iter().rev() {
            self.restore_session(key, session);
        }
        for shard in (0..self.shards).map(ShardId::new) {
            self.send(shard, Envelope::ShareRejoined);
        }
        for (number, (key, packet_id)) in origins {
            self.restore_unanswered(number, key, packet_id);
        }
        self.settle();
    }

    /// A publication that is handed on has not been acknowledged: its publisher, who sends it again, hears what became of it once
    /// all shards have it, and not before.
    fn restore_unanswered(&mut self, number: u64, key: u64, packet_id: u16) {
        let Some(durable) = &mut self.durable else { return };
        let session = durable.sessions.get(&key).and_then(|id| self.sessions.reference(*id));
        let Some(session) = session else { return };
        let entry = self.sessions.get(session.id);
        let Some(packet_id) = PacketId::new(packet_id)
            .filter(|_| entry.is_some_and(|entry| has_inbound(entry, packet_id)))
        else {
            return;
        };
        if let Some(handing_on) = durable.handing_on.get_mut(&number) {
            handing_on.waiter = Some(unanswered::restore(&mut self.unanswered, session, packet_id));
        }
    }

    /// The later ones first.
    fn restore_session(&mut self, key: u64, image: SessionImage) {
        if self.sessions.find(&image.client_id).is_some() {
            // The record that ended it was damaged: the client has a later one, and this one ends again.
            let Some(durable) = &mut self.durable else { return };
            durable.note_end(&Record::SessionEnd { session: key });
            return image.each_place(|place| durable.release(*place));
        }
        let now = self.now;
        let serial = self.next_serial();
        let timer_serial = self.next_serial();
        let expiry = image.expiry_interval_seconds;
        let id = self.sessions.insert(Session::new(&image.client_id, expiry), serial);
        let grants = self.security.grants();
        self.guards.restore(id, image.user.as_deref(), grants);
        let Some(durable) = &mut self.durable else { return };
        durable.sessions.insert(key, id);
        let mut kept = Kept::new(key);
        kept.head = Some(image.place);
        kept.lasts = true;
        kept.said = Some((expiry, image.away_since_ms.is_some()));
        // Whoever was connected lost the connection with the process; when, nobody knows.
        let since = image.away_since_ms.map_or(now, |ms| durable.wall.time(ms).min(now));
        let since_ms = image.away_since_ms.unwrap_or_else(|| durable.wall.ms(now));
        let at =
            |seconds: u32| durable.wall.time(since_ms.saturating_add(u64::from(seconds) * 1000));
        let delay = image.will.as_ref().map(|will| will.delay_interval_seconds.min(expiry));
        let away = Away {
            timer_serial,
            since,
            expires_at: (expiry != midge_session::session::NEVER).then(|| at(expiry)),
            will_at: delay.map(at),
        };
        if let Some(deadline) = away.next() {
            self.wheel.insert(deadline, Entry::new(Subject::Session, id.0, timer_serial));
        }
        if image.away_since_ms.is_none() {
            kept.dirty = true;
            durable.dirty.push_back(id);
        }
        if let Some(entry) = self.sessions.get_mut(id) {
            entry.away = Some(Box::new(away));
            entry.session.will = image.will;
            for (packet_id, place) in image.inbound {
                let Some(packet_id) = PacketId::new(packet_id) else { continue };
                entry.session.inbound.get_or_insert_default().receive(packet_id);
                kept.inbound.push((packet_id, place));
            }
            restore_line(&mut entry.session, image.line, image.queued);
            if let Some(outbound) = &entry.session.outbound {
                let in_flight = outbound.in_flight_count();
                durable.in_flight_restored = durable.in_flight_restored.max(in_flight);
                Load::NOTHING.has_become(Load::of(outbound), &mut self.counters);
                InLog::NOTHING.has_become(InLog::of(outbound), &mut self.counters);
            }
            entry.kept = Some(Box::new(kept));
        }
        for (filter, (options, place)) in image.subscriptions {
            let Some(options) = SubscriptionOptions::from_bits(options) else { continue };
            if filter.starts_with("$share/") {
                self.restore_share(id, &filter, options, place);
            } else {
                self.restore_subscription(id, &filter, options, place);
            }
        }
        self.tell_choosers(id);
    }

    fn restore_subscription(
        &mut self,
        id: crate::ids::SessionId,
        filter: &str,
        options: SubscriptionOptions,
        place: Place,
    ) {
        // Limits that were lowered since do not take away what was granted, as far as it can be matched.
        let Ok(parsed) = TopicFilter::parse(filter, &self.settings.topic_limits) else { return };
        let subscribed = self.table.subscribe(parsed, SubscriberId(id.0), options);
        if let Some(interest) = self.interest.as_mut().filter(|_| subscribed.first) {
            interest.add(filter);
        }
        let hasher = self.sessions.hasher().clone();
        let Some(entry) = self.sessions.get_mut(id) else { return };
        entry.subscriptions.insert(subscribed.filter_id, &hasher);
        if let Some(kept) = &mut entry.kept {
            kept.set_filter(subscribed.filter_id, place.position);
        }
    }

    fn restore_share(
        &mut self,
        id: crate::ids::SessionId,
        text: &str,
        options: SubscriptionOptions,
        place: Place,
    ) {
        if !matches!(SharedFilter::parse(text, &self.settings.topic_limits), Ok(Some(_))) {
            return;
        }
        let hasher = self.sessions.hasher().clone();
        let Some(session) = self.sessions.reference(id) else { return };
        let Some(entry) = self.sessions.get_mut(id) else { return };
        let group: Arc<str> = text.into();
        let shares = entry.shares.get_or_insert_with(|| Box::new(Shares::new(&hasher)));
        shares.groups.insert(Arc::clone(&group), options);
        if let Some(kept) = &mut entry.kept {
            kept.groups.insert(Arc::clone(&group), place.position);
        }
        let target = chooser(&group, self.shards);
        let join = ShareJoin {
            member: ShareMember { group, session },
            options,
            persistent: true,
            // Nobody waits for the answer.
            token: 0,
            connection: ConnectionId(u32::MAX),
        };
        self.send(target, Envelope::ShareJoin(Box::new(join)));
    }
}

/// A session's line: what has a packet id is in flight, the rest is queued behind it.
fn restore_line(session: &mut Session, line: BTreeMap<u64, Line>, mut stubs: Stubs) {
    if line.is_empty() && stubs.is_empty() {
        return;
    }
    let outbound = session.outbound.get_or_insert_default();
    let (in_flight, queued): (Vec<_>, Vec<_>) =
        line.into_iter().partition(|(_, line)| line.packet_id.is_some());
    for (message, line) in in_flight.into_iter().chain(queued) {
        let Some(message) = NonZeroU64::new(message) else { continue };
        let Line { body, qos, packet_id, place } = line;
        let keep = keep(message, place);
        match (body, packet_id) {
            (Body::Received, Some(packet_id)) => outbound.restore_received(packet_id, keep),
            (Body::Received, None) => {}
            (Body::Log(size), Some(packet_id)) => {
                if let Some(stub) = outbound.restore_unloaded(packet_id, Stub { keep, size, qos }) {
                    stubs.insert(stub);
                }
            }
            (Body::Log(size), None) => {
                stubs.insert(Stub { keep, size, qos });
            }
            (Body::Memory { publication, retain, extra }, packet_id) => {
                let delivery = Delivery { publication, qos, retain, extra, keep: Some(keep) };
                match packet_id {
                    Some(packet_id) => outbound.restore_in_flight(packet_id, delivery),
                    None => outbound.restore_queued(delivery),
                }
            }
        }
    }
    outbound.restore_backlog(stubs);
}

/// A resumed log takes everything for live: it is told what is not.
fn release_dead(log: &mut Log, image: &Image, recovered: &Recovered) {
    let live = image.live();
    for found in &recovered.segments {
        let live = live.get(&found.segment).copied().unwrap_or(0);
        let dead = found.live.saturating_sub(live) as usize;
        if let Some(size) = dead.checked_sub(RECORD_HEADER_SIZE) {
            log.release(Position { segment: found.segment, offset: 0 }, size);
        }
    }
}
