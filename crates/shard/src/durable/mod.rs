//! What of a shard outlives the process.
//!
//! Only what must: sessions with a Session Expiry Interval, their subscriptions, what is queued and in flight for them, what
//! they have in flight towards us, retained messages, wills that wait. A client whose session ends with its
//! connection costs the log nothing, and neither does a publication that none of those gets.
//!
//! | file | what it holds |
//! |---|---|
//! | [`record`] | the closed list of records, to and from bytes |
//! | [`write`](mod@write) | which event writes which record |
//! | [`wait`] | what waits for a commit: answers to clients, acknowledgements between shards, messages to hand on |
//! | [`restore`] | from the records of a log to a shard |
//! | [`clean`] | what still counts of the oldest segment is copied forward |
//! | [`rewrite`] | what a failed disk took is written again |
//! | [`backlog`] | queues of which a part is in the log alone |
//! | [`cut`] | a cut through all shards' logs, for a copy of them |
//! | [`affected`] | whom a damaged record concerned, for reports |
//!
//! # Nothing is said before it is kept
//! An answer that promises something is written into the connection's output at once, and the output's *gate* is set to the
//! sequence of the record that keeps the promise: no byte of that output leaves before the log has committed it. So the order
//! of what a client is told needs no thought, and a hundred acknowledgements wait with one number.
//!
//! # Where things stand
//! Whatever has a record that counts knows its place: a session its head, its subscriptions, its packet ids; a
//! delivery its [`Keep`](midge_session::Keep); a retained message the same. Cleaning asks by content: a record counts when what it
//! names says that it stands exactly there.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use midge_codec::{PacketId, QoS};
use midge_mesh::ShardId;
use midge_session::{Publication, Time};
use midge_store::{Appended, Condition, Level, Log, Position, Refused, Room, SegmentId, Sequence};
use midge_topic::FilterId;

use crate::envelope::Batch;
use crate::ids::{ConnectionId, SessionId};

use self::backlog::Backlogs;
use self::clean::Cleaning;
use self::record::Record;
use self::rewrite::Sources;
use self::wait::{Accepts, Forward, HandingOn};

mod affected;
pub(crate) mod backlog;
pub(crate) mod clean;
pub(crate) mod cut;
pub mod record;
pub(crate) mod restore;
mod rewrite;
#[cfg(test)]
mod tests;
pub(crate) mod wait;
pub(crate) mod write;

/// How often what nobody waits for is written, in milliseconds.
const FLUSH_MS: u64 = 100;

/// How often a log that is full or has failed is asked to try again, in milliseconds.
const RETRY_MS: u64 = 250;

/// Room that must be there before a packet is looked at: what the small records that it causes take.
const CONTROL_ROOM: usize = 4096;

/// Wall time as the shard knows it: how far it is ahead of the shard's own clock. Expiries count across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallTime {
    zero_ms: u64,
}

impl WallTime {
    /// From both clocks read at one moment; `wall_ms` is in milliseconds since 1970.
    #[must_use]
    pub const fn new(wall_ms: u64, now: Time) -> Self {
        Self { zero_ms: wall_ms.saturating_sub(now.as_millis()) }
    }

    pub(crate) fn ms(self, time: Time) -> u64 {
        self.zero_ms.saturating_add(time.as_millis())
    }

    /// The moment; the origin when it was before that.
    pub(crate) fn time(self, ms: u64) -> Time {
        Time::ZERO.plus_millis(ms.saturating_sub(self.zero_ms))
    }
}

/// A record's place, and the bytes of its payload that count for whoever holds this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) size: u32,
}

/// What a session that is kept knows about its records.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Names it in the log.
    pub(crate) key: u64,
    /// Its terms; `None` while they have no record yet.
    pub(crate) head: Option<Place>,
    /// What they say there: the Session Expiry Interval, and whether its client is away.
    pub(crate) said: Option<(u32, bool)>,
    /// Some record of its terms was on the disk before its client connected last: no crash takes the session.
    pub(crate) lasts: bool,
    /// In the line of those whose terms are to be written.
    pub(crate) dirty: bool,
    /// Where its subscriptions stand, by filter.
    pub(crate) filters: Vec<(FilterId, Position)>,
    /// Where its shared subscriptions stand.
    pub(crate) groups: BTreeMap<Arc<str>, Position>,
    /// QoS 2 packet ids from the client that have a record.
    pub(crate) inbound: Vec<(PacketId, Place)>,
}

impl Kept {
    fn new(key: u64) -> Self {
        Self {
            key,
            head: None,
            said: None,
            lasts: false,
            dirty: false,
            filters: Vec::new(),
            groups: BTreeMap::new(),
            inbound: Vec::new(),
        }
    }

    /// Notes a subscription's place; returns where its earlier record is.
    fn set_filter(&mut self, filter: FilterId, position: Position) -> Option<Position> {
        match self.filters.binary_search_by_key(&filter, |one| one.0) {
            Ok(at) => Some(std::mem::replace(&mut self.filters[at].1, position)),
            Err(at) => {
                self.filters.insert(at, (filter, position));
                None
            }
        }
    }

    fn remove_filter(&mut self, filter: FilterId) -> Option<Position> {
        let at = self.filters.binary_search_by_key(&filter, |one| one.0).ok()?;
        Some(self.filters.remove(at).1)
    }

    fn filter_mut(&mut self, filter: FilterId) -> Option<&mut Position> {
        let at = self.filters.binary_search_by_key(&filter, |one| one.0).ok()?;
        Some(&mut self.filters[at].1)
    }
}

/// One session that gets the publication which is being routed.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) session: SessionId,
    pub(crate) key: u64,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) identifiers: Box<[u32]>,
    pub(crate) share: Option<Arc<str>>,
}

/// The publication that is being routed, as far as its record is known.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// The log has room for it.
    pub(crate) ready: bool,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) retained: bool,
    /// The session that published it at QoS 2, and the packet id.
    pub(crate) origin: Option<(SessionId, PacketId)>,
    /// Shards that it must be handed on to, once it is kept here.
    pub(crate) targets: Vec<u16>,
    /// The shard that handed it on, and its number there.
    pub(crate) came_from: Option<(u16, u64)>,
    /// The log says so.
    pub(crate) came_is_noted: bool,
    /// Groups that keep it.
    pub(crate) groups: Vec<Arc<str>>,
    /// Connections of sessions that are kept to which it goes at QoS 0 although it was published at QoS 2: it leaves once it is
    /// committed that it has come, or it would come twice.
    pub(crate) gated: Vec<ConnectionId>,
    /// It has waited for room; whether a later one is its topic's retained message by now.
    pub(crate) late: Option<bool>,
}

impl Opening {
    /// Whether a record of it is there for anybody.
    pub(crate) fn has_owners(&self) -> bool {
        !self.recipients.is_empty()
            || self.retained
            || !self.targets.is_empty()
            || !self.groups.is_empty()
    }

    /// It has been routed: the next one begins anew.
    pub(crate) fn close(&mut self) {
        self.forget();
        self.recipients.clear();
        self.groups.clear();
        self.retained = false;
        self.ready = false;
    }

    /// Nothing comes of it: what comes next must not take over what was known of it.
    pub(crate) fn forget(&mut self) {
        self.targets.clear();
        self.origin = None;
        self.came_from = None;
    }
}

/// Numbers under which another shard had handed on, as the log says: all up to the first, and these.
///
/// It is not enough to know the highest: a power cut may take a record and leave one behind it that was written together with it,
/// and then the other shard hands on again what the first one was. What it does not hand on again has been committed here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    up_to: u64,
    /// The first and the last of each row of them.
    beyond: BTreeMap<u64, u64>,
}

impl Known {
    /// These have come.
    pub(crate) fn add(&mut self, mut first: u64, mut last: u64) {
        while let Some((from, to)) = self.beyond.range(..=last.saturating_add(1)).next_back()
            && to.saturating_add(1) >= first
        {
            let from = *from;
            (first, last) = (first.min(from), last.max(*to));
            self.beyond.remove(&from);
        }
        self.beyond.insert(first, last);
    }

    /// All up to this one have come.
    pub(crate) fn add_up_to(&mut self, number: u64) {
        self.up_to = number.max(self.up_to);
        self.forget_before(self.up_to);
    }

    fn forget_before(&mut self, number: u64) {
        while self.beyond.first_entry().is_some_and(|row| *row.get() < number) {
            self.beyond.pop_first();
        }
    }

    /// Whether it has come before. Numbers come in their order, so earlier ones are forgotten.
    pub(crate) fn has(&mut self, number: u64) -> bool {
        self.forget_before(number);
        number <= self.up_to || self.beyond.first_key_value().is_some_and(|row| *row.0 <= number)
    }

    /// The highest of them.
    pub(crate) fn highest(&self) -> u64 {
        self.beyond.last_key_value().map_or(self.up_to, |(_, last)| self.up_to.max(*last))
    }
}

/// Numbers of which nothing is kept here, one row for each shard that handed on, since something was last kept.
///
/// They are written before anything begins that may want what is handed on again after a crash (a subscription, a message that is
/// kept): whoever subscribed since would get it, behind what was handed on after it [MQTT-4.6.0-6], and what removes a retained
/// message would remove the next one. Until then nobody is there who could tell the difference, and it costs the log
/// nothing.
///
/// Whatever else comes under a number is written down before it counts, and these before it; so a row has no gap
/// that a power cut could tear.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    rows: BTreeMap<u16, (u64, u64)>,
}

impl Passed {
    fn add(&mut self, shard: u16, number: u64) {
        self.rows.entry(shard).or_insert((number, number)).1 = number;
    }
}

/// A publication that was handed on by another shard and waits for room, or comes behind one that does.
#[derive(Debug)]
struct HandedOn {
    from: ShardId,
    publication: Arc<Publication>,
    ticket: u64,
    number: u64,
    /// When its publisher's shard received it.
    received: Time,
    /// A later one is its topic's retained message.
    superseded: bool,
}

/// Records that are appended and not synced yet, one behind the other. Bounded by what the log gathers for one sync.
#[derive(Debug, Default)]
struct Ends {
    line: VecDeque<(Sequence, u8, usize)>,
    payloads: VecDeque<u8>,
}

impl Ends {
    /// Takes one more; forgets those that are `synced`.
    fn push(&mut self, sequence: Sequence, kind: u8, payload: &[u8], synced: Sequence) {
        self.forget(synced);
        self.line.push_back((sequence, kind, payload.len()));
        self.payloads.extend(payload);
    }

    fn last(&self) -> Option<Sequence> {
        self.line.back().map(|end| end.0)
    }

    fn forget(&mut self, synced: Sequence) {
        while let Some((_, _, size)) = self.line.pop_front_if(|end| end.0 <= synced) {
            self.payloads.drain(..size);
        }
    }

    fn take(&mut self) -> Vec<(u8, Box<[u8]>)> {
        let Self { line, payloads } = self;
        line.drain(..).map(|(_, kind, size)| (kind, payloads.drain(..size).collect())).collect()
    }
}

/// Clients whose session has ended, until that is committed: a CONNACK that says that there is none must not leave before. It
/// need not be the next one of that client; the next connection may have been lost before it heard anything.
///
/// Bounded by sessions that are kept, each of which ends once.
#[derive(Debug, Default)]
pub(crate) struct EndedSessions {
    /// What each waits for; [`wait::LATE`] as long as the end has no record.
    by_client: HashMap<Box<str>, Sequence>,
    /// Those that wait for a record, in order.
    line: VecDeque<(Sequence, Box<str>)>,
}

impl EndedSessions {
    fn push(&mut self, client_id: &str, after: Sequence) {
        self.by_client.insert(client_id.into(), after);
        if after < wait::LATE {
            self.line.push_back((after, client_id.into()));
        }
    }

    /// What a CONNACK for this client waits for.
    fn after(&self, client_id: &str) -> Option<Sequence> {
        self.by_client.get(client_id).copied()
    }

    fn forget(&mut self, reached: Sequence) {
        while let Some((after, client_id)) = self.line.pop_front_if(|one| one.0 <= reached) {
            if self.by_client.get(&client_id) == Some(&after) {
                self.by_client.remove(&client_id);
            }
        }
    }

    /// Records from this one on are not kept, and are written again.
    fn give_up(&mut self, first: Sequence) {
        while let Some((_, client_id)) = self.line.pop_back_if(|one| one.0 >= first) {
            if let Some(after) = self.by_client.get_mut(&client_id) {
                *after = wait::LATE;
            }
        }
    }

    fn redeem(&mut self, sequence: Sequence) {
        let Self { by_client, line } = self;
        for (client_id, after) in by_client.iter_mut().filter(|one| *one.1 == wait::LATE) {
            *after = sequence;
            line.push_back((sequence, client_id.clone()));
        }
    }
}

/// A publication that could not be routed because the log was busy.
#[derive(Debug)]
pub(crate) enum Late {
    /// From this session, or nobody: a will.
    Publication(Arc<Publication>, Option<SessionId>),
    /// From a chooser; its backlog, on this shard too, keeps it there.
    Share(crate::envelope::ShareDeliver, Option<midge_session::Keep>),
}

/// The durable side of a shard.
#[derive(Debug)]
pub(crate) struct Durable {
    pub(crate) log: Log,
    /// What acknowledgements wait for.
    pub(crate) level: Level,
    pub(crate) wall: WallTime,
    /// Sessions by their key.
    pub(crate) sessions: HashMap<u64, SessionId, RandomState>,
    pub(crate) next_session: u64,
    pub(crate) next_message: u64,
    pub(crate) next_number: u64,
    /// The first number that was given since the start, and the record that says so.
    numbers_since: Option<(u64, Sequence)>,
    pub(crate) opening: Opening,
    encoded: Vec<u8>,
    ended_sessions: EndedSessions,
    /// Endings for which the log had no room: filled by the ends of things, written before anything else when there is room
    /// again. Bounded by what is kept: each thing ends once.
    late_records: VecDeque<(u8, Box<[u8]>)>,
    /// Somebody waits for [`wait::LATE`].
    late_waiters: bool,
    /// Endings that a failure of the disk would take: nothing in memory could say them again.
    unsynced: Ends,
    /// Publications without a connection to hold back, bounded by wills and shared messages on their way.
    pub(crate) late: VecDeque<Late>,
    /// Sessions whose terms are to be written; each once.
    pub(crate) dirty: VecDeque<SessionId>,
    /// Connections whose output waits, by what it waits for.
    pub(crate) gates: VecDeque<(Sequence, ConnectionId, u32)>,
    /// What other shards are to be told, by shard.
    pub(crate) accepts: Vec<Accepts>,
    /// Publications to be handed on once they are committed.
    pub(crate) forwards: VecDeque<Forward>,
    /// Publications that were handed on and not taken by all.
    pub(crate) handing_on: HashMap<u64, HandingOn, RandomState>,
    /// The highest number that came from each shard.
    pub(crate) marks: Vec<u64>,
    /// The same, of those whose records are synced.
    synced_marks: Vec<u64>,
    /// Those whose records are not, by what they wait for. Bounded by what the log gathers for one sync, and by shards.
    unsynced_marks: VecDeque<(Sequence, ShardId, u64)>,
    sources: Sources,
    /// What had come from each before this life of the process.
    pub(crate) known: Vec<Known>,
    passed: Passed,
    /// Connections that are not read from until the log has room.
    pub(crate) parked: Vec<(ConnectionId, u32)>,
    /// What was refused last was not for want of a moment: the disk is full, or has failed.
    is_short: bool,
    /// Connections that are not read from for that reason; they are asked again at that time.
    starved: Vec<(ConnectionId, u32)>,
    starved_until: Option<Time>,
    /// Sessions whose messages wait until packet ids can be written down; looked at when there is room.
    pub(crate) unpumped: BTreeSet<SessionId>,
    /// Groups to which something came back that the log had no room for: their backlogs hold it in memory. Each once.
    pub(crate) unkept: BTreeSet<Arc<str>>,
    /// Shards whose members of shared subscriptions have not all joined again since the start.
    pub(crate) rejoining: u16,
    /// The most that one session had in flight when the log was read: where a power cut has torn the end of it, what had
    /// left may be in flight again.
    pub(crate) in_flight_restored: usize,
    /// Batches that could not be opened to their end, and where to go on. Bounded by what publishers may have unacknowledged.
    pub(crate) stalled: VecDeque<(ShardId, Box<Batch>, usize)>,
    /// QoS 2 publications from other shards for which the disk has no room, and those that come behind them. Bounded by what
    /// publishers may have unacknowledged.
    handed_on: VecDeque<HandedOn>,
    flush_at: Option<Time>,
    pub(crate) retry_at: Option<Time>,
    pub(crate) cleaning: Option<Cleaning>,
    pub(crate) backlogs: Backlogs,
    /// When the log is asked next whether there is something to clean.
    look_at: Time,
    /// What stands from this segment on, up to the other one, is not kept: the disk has failed.
    lost: Option<SegmentId>,
    lost_until: Option<SegmentId>,
    /// What the last failure took is kept again once the log has reached this.
    rewritten: Sequence,
    /// What recovery found damaged.
    pub(crate) damage: DamageCounts,
    pub(crate) cut: cut::Cut,
}

/// How much was damaged when the log was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DamageCounts {
    /// Places that are not as they were written, without what an ordinary crash has torn.
    pub places: u64,
    /// Records that are known to be missing for it.
    pub records: u64,
}

impl std::ops::AddAssign for DamageCounts {
    fn add_assign(&mut self, other: Self) {
        self.places += other.places;
        self.records += other.records;
    }
}

impl Durable {
    pub(crate) fn new(
        log: Log,
        level: Level,
        wall: WallTime,
        shards: u16,
        hasher: &RandomState,
    ) -> Self {
        Self {
            log,
            level,
            wall,
            sessions: HashMap::with_hasher(hasher.clone()),
            next_session: 1,
            next_message: 1,
            next_number: 1,
            numbers_since: None,
            opening: Opening::default(),
            encoded: Vec::new(),
            ended_sessions: EndedSessions::default(),
            late_records: VecDeque::new(),
            late_waiters: false,
            unsynced: Ends::default(),
            late: VecDeque::new(),
            dirty: VecDeque::new(),
            gates: VecDeque::new(),
            accepts: (0..shards).map(|_| Accepts::default()).collect(),
            forwards: VecDeque::new(),
            handing_on: HashMap::with_hasher(hasher.clone()),
            marks: vec![0; usize::from(shards)],
            synced_marks: vec![0; usize::from(shards)],
            unsynced_marks: VecDeque::new(),
            sources: Sources::default(),
            known: vec![Known::default(); usize::from(shards)],
            passed: Passed::default(),
            rejoining: shards,
            in_flight_restored: 0,
            parked: Vec::new(),
            is_short: false,
            starved: Vec::new(),
            starved_until: None,
            unpumped: BTreeSet::new(),
            unkept: BTreeSet::new(),
            stalled: VecDeque::new(),
            handed_on: VecDeque::new(),
            flush_at: None,
            retry_at: None,
            cleaning: None,
            backlogs: Backlogs::default(),
            look_at: Time::ZERO,
            lost: None,
            lost_until: None,
            rewritten: Sequence(0),
            damage: DamageCounts::default(),
            cut: cut::Cut::default(),
        }
    }

    /// What an answer waits for that says what was written last, the endings that had no room among it.
    pub(crate) fn said(&mut self) -> Sequence {
        let late = !self.late_records.is_empty() || self.lost.is_some();
        if late {
            return self.late();
        }
        self.log.hasten(self.level);
        self.log.appended()
    }

    /// What an answer waits for that says that something has ended, when nothing is left of it to be asked.
    pub(crate) fn ended(&mut self) -> Sequence {
        if !self.late_records.is_empty() || self.lost.is_some() {
            return self.late();
        }
        let Some(last) = self.unsynced.last().filter(|last| *last > self.reached()) else {
            return Sequence(0);
        };
        self.log.hasten(self.level);
        last
    }

    /// What an answer waits for that says that a client had no session.
    pub(crate) fn after_end(&mut self, client_id: &str) -> Sequence {
        match self.ended_sessions.after(client_id) {
            None => Sequence(0),
            Some(wait::LATE) => self.late(),
            Some(after) => {
                self.log.hasten(self.level);
                after
            }
        }
    }

    /// Whether the last refusal was not for want of a moment.
    pub(crate) fn take_short(&mut self) -> bool {
        std::mem::take(&mut self.is_short)
    }

    pub(crate) fn late(&mut self) -> Sequence {
        self.late_waiters = true;
        wait::LATE
    }

    /// What is kept as acknowledgements need it.
    #[inline]
    pub(crate) fn reached(&self) -> Sequence {
        self.log.reached(self.level)
    }

    /// Writes a record that counts from here on.
    pub(crate) fn put(
        &mut self,
        record: &Record<'_>,
        level: Level,
        room: Room,
    ) -> Result<(Appended, Place), Refused> {
        self.encoded.clear();
        let kind = record.encode(&mut self.encoded);
        let appended = self.log.append(kind, &[&self.encoded], level, room)?;
        let size = self.encoded.len() as u32;
        Ok((appended, Place { position: appended.position, size }))
    }

    /// Writes a record that only says that something is no more, and which somebody waits for.
    pub(crate) fn put_end(&mut self, record: &Record<'_>) -> Result<Sequence, Refused> {
        if !self.late_records.is_empty() {
            return Err(Refused::Busy);
        }
        self.append_end(record, self.level)
    }

    /// The same, for which nobody waits: written later when there is no room now.
    pub(crate) fn note_end(&mut self, record: &Record<'_>) {
        if self.late_records.is_empty() && self.append_end(record, Level::Memory).is_ok() {
            return;
        }
        self.encoded.clear();
        let kind = record.encode(&mut self.encoded);
        self.late_records.push_back((kind, self.encoded[..].into()));
    }

    fn append_end(&mut self, record: &Record<'_>, level: Level) -> Result<Sequence, Refused> {
        self.encoded.clear();
        let kind = record.encode(&mut self.encoded);
        let appended = self.log.append(kind, &[&self.encoded], level, Room::Reserve)?;
        self.log.release(appended.position, self.encoded.len());
        self.unsynced.push(appended.sequence, kind, &self.encoded, self.log.synced());
        Ok(appended.sequence)
    }

    /// The disk has failed: endings that it took are written again, before anything else.
    fn end_again(&mut self) {
        self.unsynced.forget(self.log.synced());
        for lost in self.unsynced.take().into_iter().rev() {
            self.late_records.push_front(lost);
        }
    }

    /// Writes what had no room; whether all of it has been.
    pub(crate) fn write_late_records(&mut self) -> bool {
        let level = if self.late_waiters { self.level } else { Level::Memory };
        while let Some((kind, payload)) = self.late_records.front() {
            let Ok(appended) = self.log.append(*kind, &[payload], level, Room::Reserve) else {
                return false;
            };
            self.log.release(appended.position, payload.len());
            self.unsynced.push(appended.sequence, *kind, payload, self.log.synced());
            self.late_records.pop_front();
        }
        true
    }

    /// Whether the small records that a packet may cause have room.
    #[inline]
    pub(crate) fn has_control_room(&mut self) -> bool {
        if self.is_late() {
            // On a disk that is full or has failed they wait; whoever needs none of it goes on.
            return self.refusal() != Refused::Busy;
        }
        !matches!(self.log.check(CONTROL_ROOM, Room::Reserve), Err(Refused::Busy))
    }

    /// Whether endings wait for room: what begins must not stand in the log before them.
    pub(crate) fn is_late(&self) -> bool {
        !self.late_records.is_empty()
    }

    /// Why nothing can be written before the endings that wait.
    fn refusal(&self) -> Refused {
        match self.log.condition() {
            Condition::Healthy => Refused::Busy,
            Condition::Full => Refused::Full,
            Condition::Failed => Refused::Failed,
        }
    }

    /// As [`Durable::put`], for what may begin again what an ending that waits has ended.
    pub(crate) fn put_again(&mut self, record: &Record<'_>) -> Result<(Appended, Place), Refused> {
        if self.is_late() {
            return Err(self.refusal());
        }
        self.write_passed()?;
        self.put(record, self.level, Room::Reserve)
    }

    /// Whether they can all be written, now.
    pub(crate) fn has_room(&mut self) -> bool {
        self.late_records.is_empty() && self.log.check(CONTROL_ROOM, Room::Reserve).is_ok()
    }

    /// Whether a session that is kept may be sent what it has: packet ids and releases can be written down, and nothing that
    /// the disk has taken is missing in the log.
    pub(crate) fn may_pump(&mut self) -> bool {
        self.lost.is_none() && self.has_control_room()
    }

    pub(crate) fn release(&mut self, place: Place) {
        self.log.release(place.position, place.size as usize);
    }

    pub(crate) fn release_keep(&mut self, keep: &midge_session::Keep) {
        self.release(write::place_of(keep));
    }

    pub(crate) fn new_session_key(&mut self) -> u64 {
        let key = self.next_session;
        self.next_session += 1;
        key
    }

    /// When the log has something to do although nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let read_at = self.backlogs.next_deadline();
        [self.flush_at, self.retry_at, self.starved_until, read_at].into_iter().flatten().min()
    }
}
