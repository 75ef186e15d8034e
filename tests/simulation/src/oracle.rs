//! What everybody was promised.
//!
//! Every publication has a number, which is also what its payload begins with; the oracle knows when it was sent, whether
//! the broker acknowledged it, and who may, must or must not get it. Promises that must hold at once are checked as
//! packets reach clients (`receive.rs`); promises about the end (nothing lost, wills, retained messages) are checked here
//! when the run has settled.
//!
//! Uncertainty is modelled, not ignored: a subscription is *possible* from its SUBSCRIBE to its UNSUBACK and *certain* from its
//! SUBACK to its UNSUBSCRIBE; a session exists for certain, perhaps, or not. A check uses the side that cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};

use midge_codec::{ProtocolVersion, QoS};
use midge_metrics::Counters;
use midge_topic::{TopicFilter, TopicLimits, TopicName, matches};

use crate::client::{Client, Kind, RELIABLE_GROUP};
use crate::net::{MS, NEVER, Net, PipeId, SECOND};

/// Which publication.
pub type PubId = u64;

/// Timers may be this late in a stalled shard, in nanoseconds.
pub const SLACK: u64 = 3 * SECOND;

/// A payload that no client's Maximum Packet Size excludes, in bytes.
pub const SIZE_ALWAYS_TAKEN: usize = 60;

/// One publication.
#[derive(Debug, Clone)]
pub struct Pub {
    /// Who sent it.
    pub publisher: usize,
    /// Where to.
    pub topic: String,
    /// How.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Whether its payload is empty: it removes the retained message, and receivers cannot tell which it was.
    pub empty: bool,
    /// Payload bytes.
    pub size: usize,
    /// Message Expiry Interval.
    pub expiry: Option<u32>,
    /// When it was first, and last, written to a socket; [`NEVER`] when never.
    pub first_sent: u64,
    /// When it was last written.
    pub last_sent: u64,
    /// How often it was written.
    pub sends: u32,
    /// When the publisher got a PUBACK or PUBREC without an error.
    pub accepted: Option<u64>,
    /// The broker said 0x10.
    pub unmatched: bool,
    /// QoS 0: something that was sent later on that connection was answered.
    pub processed: bool,
    /// It is a will.
    pub will: bool,
    /// The publisher's version.
    pub version: ProtocolVersion,
}

/// What must become of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not known yet.
    Open,
    /// Published exactly once.
    Must,
    /// Not published.
    MustNot,
    /// At most once.
    May,
}

/// One will of one connection.
#[derive(Debug, Clone)]
pub struct WillLog {
    /// Its publication.
    pub publication: PubId,
    /// The connection that carried it.
    pub pipe: PipeId,
    /// The CONNACK came.
    pub registered: bool,
    /// DISCONNECT without will was written, ending at this byte.
    pub goodbye: Option<u64>,
    /// When any DISCONNECT was written: the broker may know the end from then on.
    pub left_at: Option<u64>,
    /// Effective delay: the smaller of Will Delay and Session Expiry, seconds.
    pub delay: u64,
    /// What must become of it.
    pub verdict: Verdict,
}

/// A group's members, their departures, and what each message came to.
#[derive(Debug, Default, Clone)]
pub struct GroupLog {
    /// Client, and when its SUBACK came.
    pub members: BTreeMap<usize, u64>,
    /// Departures: the connection whose end is the departure, or the time.
    pub departures: Vec<(Option<PipeId>, u64)>,
    /// Deliveries by publication.
    pub tally: BTreeMap<PubId, u32>,
    /// Publications of which a copy came at QoS 1.
    pub at_least_once: BTreeSet<PubId>,
    /// When it was last without a certain member.
    pub empty_until: u64,
    /// When a crash last took a member whose session is not kept.
    pub lost_member: u64,
}

impl GroupLog {
    /// Departures that may have happened after a time.
    pub fn departures_after(&self, net: &Net, time: u64) -> u32 {
        let late = self.departures.iter().filter(|(pipe, at)| match pipe {
            Some(pipe) => net.pipes[*pipe].server_end.unwrap_or(NEVER).max(*at) >= time,
            None => *at >= time,
        });
        late.count() as u32
    }
}

/// All promises of one run.
#[derive(Debug, Default)]
pub struct Oracle {
    /// All publications, by number.
    pub pubs: Vec<Pub>,
    /// All wills.
    pub wills: Vec<WillLog>,
    /// Retained publications by topic.
    pub retained: BTreeMap<String, Vec<PubId>>,
    /// All groups, by filter.
    pub groups: BTreeMap<String, GroupLog>,
    /// Messages that clients received.
    pub received: u64,
}

/// Whether a filter matches a topic.
#[must_use]
pub fn covers(filter: &str, topic: &str) -> bool {
    let limits = TopicLimits::DEFAULT;
    let filter = filter
        .strip_prefix("$share/")
        .map_or(filter, |rest| rest.split_once('/').map_or("", |(_, filter)| filter));
    match (TopicFilter::parse(filter, &limits), TopicName::parse(topic, &limits)) {
        (Ok(filter), Ok(topic)) => matches(filter, topic),
        _ => false,
    }
}

impl Oracle {
    /// A new publication's number.
    pub fn publish(&mut self, publication: Pub) -> PubId {
        let id = self.pubs.len() as u64;
        if publication.retain {
            self.retained.entry(publication.topic.clone()).or_default().push(id);
        }
        self.pubs.push(publication);
        id
    }

    /// The broker stops at once: what it had not been asked to keep may be gone, what nobody has acknowledged may come back.
    pub fn crash(&mut self, net: &Net, clients: &[Client]) {
        let watcher = &clients[0];
        for will in &mut self.wills {
            let ended = net.pipes[will.pipe].server_end;
            // That a connection has ended is written within a tenth of a second; on a disk that takes nothing, not before it does.
            let late = ended.is_none_or(|at| at >= net.ago(SLACK)) || net.knobs.may_refuse();
            let seen = watcher.received_count(will.publication) > 0;
            if late || (will.verdict != Verdict::MustNot && !seen) {
                will.verdict = Verdict::May;
            }
        }
        for (filter, group) in &mut self.groups {
            group.departures.push((None, net.now));
            // What is given to a session that is not kept goes with it, or was just on its way back (`docs/durability.md`).
            let left = group.departures_after(net, net.ago(SLACK)) > 1;
            let fleeting = clients.iter().filter(|client| !client.is_lasting());
            let mut members = fleeting.filter(|client| client.shares(filter));
            if members.any(|client| left || client.is_subscribed()) {
                group.lost_member = net.now;
            }
        }
    }

    /// The present connection's will, if it has one.
    pub fn will_of(&mut self, pipe: PipeId) -> Option<&mut WillLog> {
        self.wills.iter_mut().rev().find(|will| will.pipe == pipe)
    }

    /// Whether a retained publication may be what a topic keeps, as seen at a time: nothing later was accepted before.
    #[must_use]
    pub fn may_be_retained(&self, id: PubId, at: u64) -> bool {
        let publication = &self.pubs[id as usize];
        let of_topic = self.retained.get(&publication.topic);
        let of_topic = of_topic.into_iter().flatten().map(|id| &self.pubs[*id as usize]);
        let mut later = of_topic.filter(|later| {
            later.publisher == publication.publisher
                && later.first_sent > publication.last_sent
                && later.accepted.is_some_and(|accepted| accepted < at)
        });
        let replaced = later.next().is_some();
        let expired = publication.expiry.is_some_and(|seconds| {
            publication
                .accepted
                .is_some_and(|accepted| accepted + u64::from(seconds) * SECOND + SLACK < at)
        });
        !replaced && !expired
    }

    /// At the next connection of the same client: what must become of the will of the one before.
    pub fn judge_will(
        &mut self,
        net: &Net,
        earlier: PipeId,
        connect_sent: u64,
        connack_at: u64,
        clean_start: bool,
    ) {
        let Some(at) = self.wills.iter().rposition(|w| w.pipe == earlier) else { return };
        let will = &self.wills[at];
        if will.verdict != Verdict::Open {
            return;
        }
        let verdict = Self::verdict(net, will, Some((connect_sent, connack_at, clean_start)));
        self.wills[at].verdict = verdict;
    }

    fn verdict(net: &Net, will: &WillLog, next: Option<(u64, u64, bool)>) -> Verdict {
        let pipe = &net.pipes[will.pipe];
        if !will.registered {
            return Verdict::May;
        }
        let ended = pipe.server_end;
        if let Some(byte) = will.goodbye {
            let read = pipe.ingested >= byte && !pipe.noted;
            let before = next.is_none_or(|(sent, ..)| ended.is_some_and(|end| end < sent));
            return if read && before { Verdict::MustNot } else { Verdict::May };
        }
        let delay = will.delay * SECOND;
        if delay == 0 {
            return Verdict::Must;
        }
        let Some((sent, answered, clean_start)) = next else {
            let due = ended.is_some_and(|end| net.now > end + delay + SLACK);
            return if due { Verdict::Must } else { Verdict::May };
        };
        // A CONNECT that was not answered has perhaps not been read.
        if clean_start && answered != NEVER {
            return Verdict::Must;
        }
        let earliest = pipe
            .client_end
            .unwrap_or(answered)
            .min(ended.unwrap_or(NEVER))
            .min(will.left_at.unwrap_or(NEVER));
        if answered < earliest + delay {
            Verdict::MustNot
        } else if ended.is_some_and(|end| sent > end + delay + SLACK) {
            Verdict::Must
        } else {
            Verdict::May
        }
    }

    /// At the end: wills of connections that had no successor.
    pub fn judge_last_wills(&mut self, net: &Net) {
        for at in 0..self.wills.len() {
            if self.wills[at].verdict == Verdict::Open {
                self.wills[at].verdict = Self::verdict(net, &self.wills[at], None);
            }
        }
    }

    /// Everything that must hold once the run has settled. Returns the first broken promise.
    ///
    /// # Errors
    /// The broken promise.
    pub fn check_settled(
        &mut self,
        net: &Net,
        clients: &[Client],
        counters: &Counters,
    ) -> Result<(), String> {
        self.check_accepted(clients, counters)?;
        self.check_groups(net, counters)
    }

    /// QoS 1 and 2: what was acknowledged has reached every session that was certain to want it. QoS 0: what a connection
    /// that never broke was certain to want.
    fn check_accepted(&self, clients: &[Client], counters: &Counters) -> Result<(), String> {
        // Missing at QoS 1 or 2, at QoS 0, and with an expiry; each kind is excused by its own counters of drops alone.
        let mut missing = [const { Vec::new() }; 3];
        // A client of 3.1 or 3.1.1 cannot be told that a full log did not take its message.
        let bounded = counters.dropped_queue_full + counters.dropped_log_full;
        let excused = [
            bounded,
            bounded + counters.dropped_output_full,
            bounded + counters.dropped_output_full + counters.dropped_expired,
        ];
        // Whoever is refused, or not back yet, may have lost its session.
        let connected = clients.iter().filter(|client| client.connected_since().is_some());
        for client in connected.filter(|client| client.kind != Kind::Sharer) {
            let mut chains: BTreeMap<&str, Vec<(u64, QoS, bool)>> = BTreeMap::new();
            for (id, publication) in self.pubs.iter().enumerate() {
                if publication.empty || publication.will || publication.sends == 0 {
                    continue;
                }
                let settled = match publication.qos {
                    QoS::AtMostOnce => publication.processed,
                    QoS::AtLeastOnce | QoS::ExactlyOnce => publication.accepted.is_some(),
                };
                if !settled {
                    continue;
                }
                let chains = chains
                    .entry(&publication.topic)
                    .or_insert_with(|| client.chains(&publication.topic));
                let Some(granted) = Client::certain_among(chains, client.index, publication) else {
                    continue;
                };
                // [MQTT-3.4.2-1]: 0x10 says that nobody wanted it.
                if publication.unmatched {
                    return Err(format!(
                        "{} wanted {id}, and its publisher was told 0x10",
                        client.id
                    ));
                }
                if client.received_count(id as u64) > 0 {
                    continue;
                }
                if publication.qos.min(granted) == QoS::AtMostOnce
                    && client.connected_since().is_none_or(|since| since >= publication.first_sent)
                {
                    continue;
                }
                if client.too_large(publication) {
                    continue;
                }
                let kind = match (publication.expiry, publication.qos.min(granted)) {
                    (Some(_), _) => 2,
                    (None, QoS::AtMostOnce) => 1,
                    (None, QoS::AtLeastOnce | QoS::ExactlyOnce) => 0,
                };
                missing[kind].push((id, &*client.id));
            }
        }
        for (missing, excused) in missing.iter().zip(excused) {
            let Some((id, client)) = missing.first().filter(|_| missing.len() as u64 > excused)
            else {
                continue;
            };
            let publication = &self.pubs[*id];
            return Err(format!(
                "publication {id} ({:?} to {}, sent {} ms, accepted {:?} ms, expiry {:?} s) never reached {client}; \
                 {} like it are missing, counted as dropped: {excused}",
                publication.qos,
                publication.topic,
                publication.first_sent / MS,
                publication.accepted.map(|at| at / MS),
                publication.expiry,
                missing.len(),
            ));
        }
        Ok(())
    }

    /// [MQTT-4.8.2-4]: exactly one member of each group, and more only where a member left.
    fn check_groups(&self, net: &Net, counters: &Counters) -> Result<(), String> {
        // Where no bound is tight, a group with a member loses nothing.
        let excused = match net.knobs.tight {
            true => counters.dropped_queue_full + counters.dropped_no_member,
            false => counters.dropped_queue_full,
        };
        let mut missing = 0;
        let mut first = None;
        for (filter, group) in &self.groups {
            for (id, publication) in self.pubs.iter().enumerate() {
                if publication.empty
                    || publication.sends == 0
                    || !covers(filter, &publication.topic)
                {
                    continue;
                }
                let count = group.tally.get(&(id as u64)).copied().unwrap_or(0);
                let departures = group.departures_after(net, publication.first_sent);
                let sends = if publication.qos == QoS::AtLeastOnce { publication.sends } else { 1 };
                // Each copy may have been under way to a member that left.
                let mut most = sends * (1 + departures);
                // At QoS 2 a crash may make one more of it (`docs/durability.md`, "Not yet"). To a member that asked for QoS 1 that
                // one is under way, too, when the next crash comes.
                if publication.qos == QoS::ExactlyOnce && group.at_least_once.contains(&(id as u64))
                {
                    let since = |at: &&u64| **at >= publication.first_sent;
                    let crashes = net.crashes.iter().filter(since);
                    most += crashes.map(|at| group.departures_after(net, *at)).sum::<u32>();
                }
                if count > most {
                    return Err(format!(
                        "[MQTT-4.8.2-4] publication {id} reached members of {filter} {count} times \
                         (at most {most}: sent {sends} times, {departures} departures)"
                    ));
                }
                // A QoS 2 message that was under way to a member that left is lost with it [MQTT-4.8.2-5]; one of QoS 1
                // goes to another.
                let certain = publication.accepted.is_some()
                    && filter.starts_with(RELIABLE_GROUP)
                    && publication.size <= SIZE_ALWAYS_TAKEN
                    && publication.expiry.is_none()
                    && (publication.qos == QoS::AtLeastOnce
                        || (publication.qos == QoS::ExactlyOnce && departures == 0))
                    && group.empty_until < publication.first_sent
                    && group.lost_member < publication.first_sent
                    && group.members.values().any(|since| *since < publication.first_sent);
                if certain && count == 0 {
                    missing += 1;
                    first.get_or_insert_with(|| {
                        format!("publication {id} reached no member of {filter}")
                    });
                }
            }
        }
        if missing > excused {
            let text = first.unwrap_or_default();
            return Err(format!("{text}; {missing} are missing, counted as dropped: {excused}"));
        }
        Ok(())
    }

    /// Wills: exactly when the specification says. `count` says how often the watcher got one, `there` whether it was connected
    /// when a connection ended: one at QoS 0 waits for nobody.
    ///
    /// # Errors
    /// The first will that came too often, or not.
    pub fn check_wills(
        &self,
        count: impl Fn(PubId) -> u32,
        there: impl Fn(PipeId) -> bool,
        excused: bool,
        crashes: u32,
    ) -> Result<(), String> {
        for will in &self.wills {
            let came = count(will.publication);
            let once = self.pubs[will.publication as usize].qos == QoS::AtMostOnce;
            let excused = excused || (once && !there(will.pipe));
            let wrong = match will.verdict {
                // That it was published is written within a tenth of a second: after a crash it may be published again.
                Verdict::Open | Verdict::May => came > 1 + crashes,
                Verdict::Must => came > 1 || (came == 0 && !excused),
                Verdict::MustNot => came > 0,
            };
            if wrong {
                return Err(format!(
                    "[MQTT-3.1.2-8] the will {} of pipe {} ({:?}) came {came} times: {will:?}",
                    will.publication, will.pipe, will.verdict
                ));
            }
        }
        Ok(())
    }

    /// Retained messages: for each topic the last one accepted, or one that may have come later.
    ///
    /// # Errors
    /// The first topic with another one.
    pub fn check_retained(
        &self,
        kept: &BTreeMap<String, PubId>,
        at: u64,
        refused: bool,
        may_discard: bool,
    ) -> Result<(), String> {
        let mut topics: BTreeMap<&str, Vec<PubId>> = BTreeMap::new();
        for (id, publication) in self.pubs.iter().enumerate() {
            if publication.retain && !publication.will && publication.sends > 0 {
                topics.entry(&publication.topic).or_default().push(id as u64);
            }
        }
        for (topic, ids) in topics {
            let candidates: Vec<PubId> =
                ids.iter().copied().filter(|id| self.may_be_retained(*id, at)).collect();
            let none = candidates.is_empty()
                || candidates.iter().any(|id| {
                    let one = &self.pubs[*id as usize];
                    // [MQTT-3.3.1-7 @3.1.1]: one at QoS 0 takes the place of the earlier one, and may itself be discarded.
                    let discarded = may_discard && one.qos == QoS::AtMostOnce;
                    one.empty || one.expiry.is_some() || discarded
                })
                || ids.iter().all(|id| self.pubs[*id as usize].accepted.is_none())
                || ids.iter().any(|id| {
                    // Accepted and expired since, with nothing after it.
                    let one = &self.pubs[*id as usize];
                    one.expiry.is_some() && one.accepted.is_some()
                });
            let right = match kept.get(topic) {
                Some(id) => candidates.contains(id),
                None => none || refused,
            };
            if !right {
                return Err(format!(
                    "[MQTT-3.3.1-5] {topic} keeps {:?}, possible are {candidates:?}",
                    kept.get(topic)
                ));
            }
        }
        Ok(())
    }
}
