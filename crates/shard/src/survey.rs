//! What an operator may ask a shard: one question, one answer, a bounded piece of work.
//!
//! [`Shard::handle_question`] is called between two events like any other input. It looks at about [`SLICE`] entries at
//! most, whatever there is: a list that is longer comes in parts, and the answer says where the next part begins
//! ([`Place`]). The shard remembers nothing between two parts, so that nobody has to tell it that he does not want the
//! rest.
//!
//! # What a list promises
//! Entries come in the order of numbers that they keep for their life (retained messages: in the order of their topics).
//! - Whatever is there from the first part to the last is in the list. What comes or goes meanwhile may be in it or not.
//! - Nothing that stays is in it twice, but for subscriptions to a filter of which another subscription goes meanwhile.
//! - A place stays good for as long as the process runs. One of another run, or made up, gives some other part of the
//!   list and harms nobody.
//! - The one exception: a client that subscribes or unsubscribes while its own subscriptions ([`SubscriptionFilter::client_id`])
//!   are being listed may have some of them missed, if they need more than one part.
//!
//! # Deliberately absent
//! Other shards: whoever asks puts the answers together. Text: what rows look like is not known here.

mod clients;
mod explain;
mod place;
mod retained;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use midge_codec::{ProtocolVersion, QoS};
use midge_session::Time;

use crate::ids::{ListenerId, SessionId, SessionRef};
use crate::security::{ClientRights, Explanation};
use crate::shard::Shard;

pub use place::Place;

pub use crate::durable::cut::{CutPlace, HOLD_MS as CUT_HOLD_MS};

/// Entries that one question looks at: about 20 µs of work, 50 µs when all of it has to come from memory.
pub const SLICE: usize = 128;

/// Numbers that may be looked at for so many entries, when most of the numbers are not in use.
const NUMBERS_PER_SLICE: u32 = 2048;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The next part of the clients, from a place on; `None`: from the start.
    Clients {
        /// Where to go on.
        from: Option<Place>,
        /// Which.
        filter: ClientFilter,
        /// Rows wanted, at least 1; the part holds no more.
        rows_max: usize,
    },
    /// The next part of the subscriptions.
    Subscriptions {
        /// Where to go on.
        from: Option<Place>,
        /// Which.
        filter: SubscriptionFilter,
        /// Rows wanted, at least 1; the part holds no more.
        rows_max: usize,
    },
    /// The next part of the retained messages whose keeper this shard is.
    Retained {
        /// Where to go on.
        from: Option<Place>,
        /// Only topics that match this Topic Filter; `None`: all of clients, whatever they begin with.
        filter: Option<Box<str>>,
        /// Rows wanted, at least 1; the part holds no more.
        rows_max: usize,
    },
    /// Close the connection of a client, as its home shard.
    Kick {
        /// Whose.
        client_id: Box<str>,
    },
    /// Who would get a message to this topic here.
    Explain {
        /// A Topic Name.
        topic: Box<str>,
    },
    /// What a client may do with a topic, and why, as its home shard.
    Rights {
        /// Whose.
        client_id: Box<str>,
        /// Its user name, where it has no session.
        user: Option<Box<str>>,
        /// A Topic Name.
        topic: Box<str>,
    },
    /// This shard's part of a cut through all logs, for a copy of them. Asked of any shard first, then of all.
    Cut {
        /// Its number, a new one for each cut.
        id: u64,
    },
    /// Whose sessions these are. Answered with as many names, at most [`SLICE`].
    Identify {
        /// Sessions of this shard.
        members: Vec<Member>,
    },
}

/// The answer to a [`Question`], variant for variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A part of the clients.
    Clients(Part<ClientRow>),
    /// A part of the subscriptions.
    Subscriptions(Part<SubscriptionRow>),
    /// A part of the retained messages.
    Retained(Part<RetainedRow>),
    /// What became of the client.
    Kicked(Kicked),
    /// Who would get it.
    Explained(Box<Explained>),
    /// What it may do.
    Rights(Box<ClientRights>),
    /// How far the log belongs to the cut; `None` when nothing is kept.
    Cut(Option<CutPlace>),
    /// Client ids, `None` for sessions that are gone.
    Identified(Vec<Option<Box<str>>>),
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T> {
    /// What was found among the entries looked at; may be empty although more follow.
    pub rows: Vec<T>,
    /// Where the next part begins; `None`: this was the last.
    pub next: Option<Place>,
}

/// Which clients: those to which all conditions apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// With exactly this id.
    pub client_id: Option<Box<str>>,
    /// With an id that begins with this.
    pub prefix: Option<Box<str>>,
    /// With a connection (`true`) or without (`false`).
    pub connected: Option<bool>,
    /// With a connection from this address.
    pub address: Option<IpAddr>,
}

/// One client: a session and, if it has one, its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    /// Its id.
    pub client_id: Box<str>,
    /// Its connection.
    pub connection: Option<ConnectionRow>,
    /// Seconds since the connection came, or went.
    pub since_seconds: u32,
    /// Seconds that the session outlives its connection; 0 ends with it, `u32::MAX` never ends.
    pub expiry_interval_seconds: u32,
    /// Subscriptions, shared ones included.
    pub subscriptions: usize,
    /// Messages that wait in its queue.
    pub queued: usize,
    /// QoS 1 and 2 messages sent to it and not yet acknowledged.
    pub in_flight: usize,
    /// Whether it has a will.
    pub will: bool,
}

/// The connection of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRow {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Which listener took it.
    pub listener: ListenerId,
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Keep Alive in force, in seconds; 0 is off.
    pub keep_alive_seconds: u16,
    /// Bytes encoded for it that are not with the socket yet.
    pub output_bytes: usize,
}

/// Which subscriptions: those to which all conditions apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionFilter {
    /// Those of this client, as its home shard knows them: of a shared subscription its own membership.
    pub client_id: Option<Box<str>>,
    /// To exactly this filter; with `$share/NAME/` before it, to this shared subscription.
    pub filter: Option<Box<str>>,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// The whole filter: `$share/NAME/FILTER` for a shared subscription.
    pub filter: Box<str>,
    /// Who has it.
    pub holder: Holder,
}

/// Who has a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A client, also as a member of a shared subscription.
    Client(Subscriber),
    /// All members of a shared subscription together, as the shard knows them that chooses among them.
    Group(GroupRow),
}

/// A client with the options of one of its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Its id.
    pub client_id: Box<str>,
    /// Whether it has a connection now.
    pub connected: bool,
    /// The QoS granted.
    pub qos: QoS,
    /// It does not want its own messages.
    pub no_local: bool,
    /// It wants the RETAIN flag as the publisher set it.
    pub retain_as_published: bool,
    /// Its Subscription Identifier.
    pub identifier: Option<u32>,
}

/// A shared subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// `$share/NAME/FILTER`.
    pub filter: Box<str>,
    /// Its members.
    pub members: usize,
    /// Those with a connection.
    pub online: usize,
    /// Messages that wait because no member can take them.
    pub backlog: usize,
    /// Who would get a QoS 1 message now; `None`: it would wait.
    pub next: Option<Member>,
}

/// A member of a shared subscription: a session somewhere. [`Question::Identify`] tells whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its home shard.
    pub shard: u16,
    session: SessionRef,
}

/// One retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRow {
    /// Its topic.
    pub topic: Box<str>,
    /// Its payload, in bytes.
    pub payload_bytes: usize,
    /// The QoS at which it was published.
    pub qos: QoS,
    /// Seconds since it was published.
    pub age_seconds: u64,
    /// Seconds until it expires; `None` never.
    pub expiry_interval_seconds: Option<u32>,
}

/// What became of a [`Question::Kick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kicked {
    /// Its connection is told (5.0: 0x98) and closed. Its will is published, its session stays for as long as it asked.
    Closed,
    /// It has a session and no connection.
    NotConnected,
    /// There is no such client.
    Unknown,
}

/// Who would get a message to a topic, as far as one shard knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explained {
    /// Shards that may have subscribers, by the interest map, which is the same for all shards.
    pub interested: Vec<u16>,
    /// Filters here that match.
    pub filters: usize,
    /// Subscriptions of clients here that match: one for each client and filter.
    pub subscriptions: usize,
    /// The first of them, at most [`SLICE`].
    pub receivers: Vec<SubscriptionRow>,
    /// Which clients among those may not receive it, and why.
    pub denied: Vec<(Box<str>, Explanation)>,
    /// Shared subscriptions that match and for which this shard chooses, at most [`SLICE`].
    pub groups: Vec<GroupRow>,
    /// Whether `receivers` and `groups` name all. If not, `subscriptions` may count a few groups.
    pub complete: bool,
    /// The retained message, if this shard keeps it.
    pub retained: Option<RetainedRow>,
}

impl Shard {
    /// Answers a question. Call it like the other `handle_` functions: what follows from it is in `poll_action` and
    /// `next_flush`.
    pub fn handle_question(&mut self, question: &Question, now: Time) -> Answer {
        self.now = now;
        match question {
            Question::Clients { from, filter, rows_max } => {
                Answer::Clients(self.survey_clients(from.as_ref(), filter, (*rows_max).max(1)))
            }
            Question::Subscriptions { from, filter, rows_max } => Answer::Subscriptions(
                self.survey_subscriptions(from.as_ref(), filter, (*rows_max).max(1)),
            ),
            Question::Retained { from, filter, rows_max } => {
                let filter = filter.as_deref();
                Answer::Retained(self.survey_retained(from.as_ref(), filter, (*rows_max).max(1)))
            }
            Question::Kick { client_id } => {
                let kicked = self.kick(client_id);
                self.settle();
                Answer::Kicked(kicked)
            }
            Question::Explain { topic } => Answer::Explained(Box::new(self.explain_topic(topic))),
            Question::Rights { client_id, user, topic } => {
                Answer::Rights(Box::new(self.explain_rights(client_id, user.as_deref(), topic)))
            }
            Question::Cut { id } => {
                let place = self.cut(*id);
                self.settle();
                Answer::Cut(place)
            }
            Question::Identify { members } => {
                let members = members.iter().take(SLICE);
                Answer::Identified(members.map(|member| self.client_id_of(*member)).collect())
            }
        }
    }

    fn client_id_of(&self, member: Member) -> Option<Box<str>> {
        let entry = self.sessions.get(member.session.id)?;
        let same = entry.serial == member.session.serial && member.shard == self.id.get();
        same.then(|| entry.session.client_id.clone())
    }

    fn subscriber(
        &self,
        session: SessionId,
        options: midge_session::SubscriptionOptions,
    ) -> Option<Subscriber> {
        let entry = self.sessions.get(session)?;
        Some(Subscriber {
            client_id: entry.session.client_id.clone(),
            connected: entry.connection.is_some(),
            qos: options.qos(),
            no_local: options.no_local(),
            retain_as_published: options.retain_as_published(),
            identifier: options.identifier(),
        })
    }
}

/// Counts what one question looks at.
#[derive(Debug)]
struct Budget {
    entries: usize,
    numbers: u32,
}

impl Budget {
    const fn new(entries: usize) -> Self {
        Self { entries, numbers: NUMBERS_PER_SLICE }
    }

    /// Whether one more entry may be looked at, and counts it.
    fn entry(&mut self) -> bool {
        let left = self.entries > 0;
        self.entries = self.entries.saturating_sub(1);
        left
    }

    /// Whether one more number may be looked at, and counts it.
    fn number(&mut self) -> bool {
        let left = self.numbers > 0 && self.entries > 0;
        self.numbers = self.numbers.saturating_sub(1);
        left
    }
}
