//! What is written into a shard's log: one closed list of records, to and from bytes.
//!
//! A record is a kind (one byte, kept by the log) and a payload. Numbers are LEB128 varints, texts and byte strings have
//! their length in front. Decoding is total: any bytes give a record or an error, and bytes left over are an error.
//!
//! # How records relate
//! - A *session* is named by its key, a number that the log never uses twice. A *message* is named by its id, likewise.
//! - What says that something is ends what an earlier record said of the same thing: records are applied in the order of the
//!   log, and a copy that cleaning made is the whole present state of what it copies.
//! - What says that something is no more ([`Record::SessionEnd`], [`Record::Unsubscribe`], [`Record::Done`] …) is younger than
//!   all records of that thing. Segments go strictly oldest first, so it may go with its own segment, uncopied.
//!
//! # Versions
//! A kind never changes its meaning; what needs another layout gets another kind. A kind that this version does not know makes
//! the restore stop with its number: a newer broker wrote it.

use std::borrow::{Borrow, Cow};

use midge_codec::QoS;

/// Everything that a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A session is, with these terms.
    Session(SessionRecord<'a>),
    /// A session is no more, with all that belongs to it.
    SessionEnd {
        /// Which.
        session: u64,
    },
    /// A session subscribes; replaces its subscription of the same filter.
    Subscribe {
        /// Which session.
        session: u64,
        /// The packed options.
        options: u32,
        /// The filter, `$share/…` whole.
        filter: &'a str,
    },
    /// A subscription is no more.
    Unsubscribe {
        /// Which session.
        session: u64,
        /// The filter.
        filter: &'a str,
    },
    /// A publication, and who must get it.
    Message(MessageRecord<'a>),
    /// A message got a packet id towards a session.
    Assigned {
        /// Which session.
        session: u64,
        /// Which message.
        message: u64,
        /// The packet id.
        packet_id: u16,
    },
    /// A session's client has a QoS 2 message; its PUBREL is next. Stands for the message from here on.
    Received {
        /// Which session.
        session: u64,
        /// Which message.
        message: u64,
        /// The packet id.
        packet_id: u16,
    },
    /// A session needs a message no more.
    Done {
        /// Which session.
        session: u64,
        /// Which message.
        message: u64,
    },
    /// A session's client has published under this QoS 2 packet id and not released it.
    Inbound {
        /// Which session.
        session: u64,
        /// The packet id.
        packet_id: u16,
    },
    /// A QoS 2 packet id from a client is free.
    InboundReleased {
        /// Which session.
        session: u64,
        /// The packet id.
        packet_id: u16,
    },
    /// What this shard had to hand on to others has been taken by all of them.
    HandedOn {
        /// The message's number among those handed on.
        number: u64,
    },
    /// What another shard handed on, up to this number, is here. Of the shard whose log it is: it has handed on up to it.
    Mark {
        /// The shard that handed on.
        shard: u16,
        /// The number.
        number: u64,
    },
    /// What another shard handed on under these numbers has come, and nothing here is kept of it.
    Came {
        /// The shard that handed on.
        shard: u16,
        /// The first number.
        first: u64,
        /// The last number; those between that were not for this shard are not handed on to it again either.
        last: u64,
    },
    /// A topic has no retained message.
    RetainedGone {
        /// The topic.
        topic: &'a str,
    },
    /// A group's backlog holds a message no more.
    Taken {
        /// Which message.
        message: u64,
        /// The whole shared filter.
        group: &'a str,
    },
}

/// A session's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord<'a> {
    /// Names the session in other records.
    pub session: u64,
    /// The client id.
    pub client_id: &'a str,
    /// The user it belongs to; `None` an anonymous client's.
    pub user: Option<&'a str>,
    /// Session Expiry Interval in seconds; `u32::MAX` never.
    pub expiry_interval_seconds: u32,
    /// When its connection was gone, in milliseconds of wall time; `None` while there is one.
    pub away_since_ms: Option<u64>,
    /// The will that is to be published.
    pub will: Option<WillRecord<'a>>,
}

/// A will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillRecord<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// Encoded properties.
    pub properties: &'a [u8],
    /// What it says.
    pub payload: &'a [u8],
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_interval_seconds: u32,
    /// Message Expiry Interval in seconds.
    pub message_expiry_interval_seconds: Option<u32>,
}

/// A publication that somebody on this shard must get, or that this shard must hand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord<'a> {
    /// Names the message in other records. Ids grow in the order of arrival.
    pub message: u64,
    /// Where it was published.
    pub topic: &'a str,
    /// Encoded properties.
    pub properties: &'a [u8],
    /// What it says.
    pub payload: &'a [u8],
    /// The QoS at which it was published.
    pub qos: QoS,
    /// Whether the publisher set RETAIN.
    pub retain: bool,
    /// End of the Message Expiry Interval, in milliseconds of wall time.
    pub expires_at_ms: Option<u64>,
    /// It is the retained message of its topic.
    pub retained: bool,
    /// The session that published it at QoS 2, and the packet id that it used.
    pub origin: Option<(u64, u16)>,
    /// It has this number among those that this shard hands on, to these shards.
    pub hand_on: Option<HandOn>,
    /// It came from that shard with that number.
    pub came_from: Option<(u16, u64)>,
    /// Sessions that must get it.
    pub deliveries: Vec<DeliveryRecord<'a>>,
    /// Groups whose backlog it is in.
    pub groups: Vec<&'a str>,
    /// Where it comes from, where that is kept.
    pub author: Option<AuthorRecord<'a>>,
}

/// See [`MessageRecord::author`]. There is one of both at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorRecord<'a> {
    /// Who wrote it.
    pub writer: Option<WriterRecord<'a>>,
    /// The name of the listener for which it counts.
    pub listener: Option<&'a str>,
}

/// See [`AuthorRecord::writer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterRecord<'a> {
    /// The user name; `None`: an anonymous client's.
    pub user: Option<&'a str>,
    /// The client id.
    pub client_id: &'a str,
}

/// See [`MessageRecord::hand_on`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOn {
    /// Grows with each message that this shard hands on.
    pub number: u64,
    /// To which shards.
    pub targets: Vec<u16>,
}

/// How one session must get a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord<'a> {
    /// Which session.
    pub session: u64,
    /// At which QoS.
    pub qos: QoS,
    /// With which RETAIN flag.
    pub retain: bool,
    /// The packet id, when it has one.
    pub packet_id: Option<u16>,
    /// Subscription Identifiers.
    pub identifiers: Cow<'a, [u32]>,
    /// The shared subscription that chose this session.
    pub share: Option<&'a str>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// Not a kind that this version knows.
    UnknownKind(u8),
    /// The payload is not what the kind says.
    Malformed(u8),
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKind(kind) => {
                write!(formatter, "a record of kind {kind}, which only a newer version knows")
            }
            Self::Malformed(kind) => {
                write!(formatter, "a record of kind {kind} with a malformed payload")
            }
        }
    }
}

impl std::error::Error for RecordError {}

const SESSION: u8 = 1;
const SESSION_END: u8 = 2;
const SUBSCRIBE: u8 = 3;
const UNSUBSCRIBE: u8 = 4;
const MESSAGE: u8 = 5;
const ASSIGNED: u8 = 6;
const RECEIVED: u8 = 7;
const DONE: u8 = 8;
const INBOUND: u8 = 9;
const INBOUND_RELEASED: u8 = 10;
const HANDED_ON: u8 = 11;
const MARK: u8 = 12;
const RETAINED_GONE: u8 = 13;
const TAKEN: u8 = 14;
/// A message with its writer in front.
const MESSAGE_BY: u8 = 15;
/// A message with its listener, and perhaps its writer, in front.
const MESSAGE_FROM: u8 = 16;
const CAME: u8 = 17;

const AWAY: u8 = 1;
const WILL: u8 = 1 << 1;
const USER: u8 = 1 << 2;
const WRITER: u8 = 1 << 3;

const RETAIN: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;
const RETAINED: u8 = 1 << 4;
const ORIGIN: u8 = 1 << 5;
const HAND_ON: u8 = 1 << 6;
const CAME_FROM: u8 = 1 << 7;

const HAS_PACKET_ID: u8 = 1 << 3;
const HAS_IDENTIFIERS: u8 = 1 << 4;
const HAS_SHARE: u8 = 1 << 5;

impl<'a> Record<'a> {
    /// Appends the payload; returns the kind.
    pub fn encode(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Session(session) => {
                session.encode(out);
                SESSION
            }
            Self::SessionEnd { session } => {
                put_number(out, *session);
                SESSION_END
            }
            Self::Subscribe { session, options, filter } => {
                put_number(out, *session);
                out.extend_from_slice(&options.to_le_bytes());
                put_bytes(out, filter.as_bytes());
                SUBSCRIBE
            }
            Self::Unsubscribe { session, filter } => {
                put_number(out, *session);
                put_bytes(out, filter.as_bytes());
                UNSUBSCRIBE
            }
            Self::Message(message) => message.encode(out),
            Self::Assigned { session, message, packet_id } => {
                put_numbers(out, [*session, *message, u64::from(*packet_id)]);
                ASSIGNED
            }
            Self::Received { session, message, packet_id } => {
                put_numbers(out, [*session, *message, u64::from(*packet_id)]);
                RECEIVED
            }
            Self::Done { session, message } => {
                put_numbers(out, [*session, *message]);
                DONE
            }
            Self::Inbound { session, packet_id } => {
                put_numbers(out, [*session, u64::from(*packet_id)]);
                INBOUND
            }
            Self::InboundReleased { session, packet_id } => {
                put_numbers(out, [*session, u64::from(*packet_id)]);
                INBOUND_RELEASED
            }
            Self::HandedOn { number } => {
                put_number(out, *number);
                HANDED_ON
            }
            Self::Mark { shard, number } => {
                put_numbers(out, [u64::from(*shard), *number]);
                MARK
            }
            Self::Came { shard, first, last } => {
                put_numbers(out, [u64::from(*shard), *first, *last]);
                CAME
            }
            Self::RetainedGone { topic } => {
                put_bytes(out, topic.as_bytes());
                RETAINED_GONE
            }
            Self::Taken { message, group } => {
                put_number(out, *message);
                put_bytes(out, group.as_bytes());
                TAKEN
            }
        }
    }

    /// Reads a payload of this kind.
    ///
    /// # Errors
    /// When the kind is not known, or the payload is not one of that kind.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Result<Self, RecordError> {
        if !(SESSION..=CAME).contains(&kind) {
            return Err(RecordError::UnknownKind(kind));
        }
        let mut reader = Reader { rest: payload };
        Self::read(kind, &mut reader)
            .filter(|_| reader.rest.is_empty())
            .ok_or(RecordError::Malformed(kind))
    }

    fn read(kind: u8, reader: &mut Reader<'a>) -> Option<Self> {
        Some(match kind {
            SESSION => Self::Session(SessionRecord::read(reader)?),
            SESSION_END => Self::SessionEnd { session: reader.number()? },
            SUBSCRIBE => Self::Subscribe {
                session: reader.number()?,
                options: u32::from_le_bytes(reader.take(4)?.try_into().ok()?),
                filter: reader.text()?,
            },
            UNSUBSCRIBE => Self::Unsubscribe { session: reader.number()?, filter: reader.text()? },
            MESSAGE => Self::Message(MessageRecord::read(reader)?),
            MESSAGE_BY => {
                let writer = Some(WriterRecord::read(reader.byte()?, reader)?);
                let author = Some(AuthorRecord { writer, listener: None });
                Self::Message(MessageRecord { author, ..MessageRecord::read(reader)? })
            }
            MESSAGE_FROM => {
                let listener = Some(reader.text()?);
                let writer = match reader.byte()? {
                    0 => None,
                    flags if flags & WRITER != 0 => {
                        Some(WriterRecord::read(flags & !WRITER, reader)?)
                    }
                    _ => return None,
                };
                let author = Some(AuthorRecord { writer, listener });
                Self::Message(MessageRecord { author, ..MessageRecord::read(reader)? })
            }
            ASSIGNED => Self::Assigned {
                session: reader.number()?,
                message: reader.number()?,
                packet_id: reader.packet_id()?,
            },
            RECEIVED => Self::Received {
                session: reader.number()?,
                message: reader.number()?,
                packet_id: reader.packet_id()?,
            },
            DONE => Self::Done { session: reader.number()?, message: reader.number()? },
            INBOUND => Self::Inbound { session: reader.number()?, packet_id: reader.packet_id()? },
            INBOUND_RELEASED => {
                Self::InboundReleased { session: reader.number()?, packet_id: reader.packet_id()? }
            }
            HANDED_ON => Self::HandedOn { number: reader.number()? },
            MARK => Self::Mark { shard: reader.small()?, number: reader.number()? },
            CAME => Self::Came {
                shard: reader.small()?,
                first: reader.number()?,
                last: reader.number()?,
            },
            RETAINED_GONE => Self::RetainedGone { topic: reader.text()? },
            TAKEN => Self::Taken { message: reader.number()?, group: reader.text()? },
            _ => return None,
        })
    }
}

impl<'a> SessionRecord<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        let away = if self.away_since_ms.is_some() { AWAY } else { 0 };
        let will = if self.will.is_some() { WILL } else { 0 };
        let user = if self.user.is_some() { USER } else { 0 };
        out.push(away | will | user);
        put_number(out, self.session);
        put_number(out, self.expiry_interval_seconds.into());
        if let Some(since_ms) = self.away_since_ms {
            put_number(out, since_ms);
        }
        put_bytes(out, self.client_id.as_bytes());
        if let Some(user) = self.user {
            put_bytes(out, user.as_bytes());
        }
        let Some(will) = &self.will else { return };
        let expires = will.message_expiry_interval_seconds;
        let retain = if will.retain { RETAIN } else { 0 };
        out.push(will.qos as u8 | retain | if expires.is_some() { EXPIRES } else { 0 });
        put_number(out, will.delay_interval_seconds.into());
        if let Some(expires) = expires {
            put_number(out, expires.into());
        }
        put_bytes(out, will.topic.as_bytes());
        put_bytes(out, will.properties);
        put_bytes(out, will.payload);
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.byte()?;
        if flags & !(AWAY | WILL | USER) != 0 {
            return None;
        }
        let session = reader.number()?;
        let expiry_interval_seconds = reader.number()?.try_into().ok()?;
        let away_since_ms = if flags & AWAY != 0 { Some(reader.number()?) } else { None };
        let client_id = reader.text()?;
        let user = if flags & USER != 0 { Some(reader.text()?) } else { None };
        let will = if flags & WILL != 0 { Some(WillRecord::read(reader)?) } else { None };
        Some(Self { session, client_id, user, expiry_interval_seconds, away_since_ms, will })
    }
}

impl<'a> WillRecord<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.byte()?;
        if flags & !(3 | RETAIN | EXPIRES) != 0 {
            return None;
        }
        let delay_interval_seconds = reader.number()?.try_into().ok()?;
        let expires =
            if flags & EXPIRES != 0 { Some(reader.number()?.try_into().ok()?) } else { None };
        Some(Self {
            qos: qos(flags)?,
            retain: flags & RETAIN != 0,
            delay_interval_seconds,
            message_expiry_interval_seconds: expires,
            topic: reader.text()?,
            properties: reader.bytes()?,
            payload: reader.bytes()?,
        })
    }
}

impl<'a> MessageRecord<'a> {
    fn encode(&self, out: &mut Vec<u8>) -> u8 {
        let kind = self.encode_head(&self.deliveries, out);
        out.extend_from_slice(self.payload);
        kind
    }

    /// Everything but the bytes of the payload, with these deliveries instead of its own; returns the kind. For who appends a
    /// payload without copying it.
    pub(crate) fn encode_head<'d>(
        &self,
        deliveries: impl IntoIterator<
            Item = impl Borrow<DeliveryRecord<'d>>,
            IntoIter: ExactSizeIterator,
        >,
        out: &mut Vec<u8>,
    ) -> u8 {
        let deliveries = deliveries.into_iter();
        let kind = self.author.map_or(MESSAGE, |author| author.encode(out));
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            self.qos as u8
                | flag(self.retain, RETAIN)
                | flag(self.expires_at_ms.is_some(), EXPIRES)
                | flag(self.retained, RETAINED)
                | flag(self.origin.is_some(), ORIGIN)
                | flag(self.hand_on.is_some(), HAND_ON)
                | flag(self.came_from.is_some(), CAME_FROM),
        );
        put_number(out, self.message);
        if let Some(expires_at_ms) = self.expires_at_ms {
            put_number(out, expires_at_ms);
        }
        if let Some((session, packet_id)) = self.origin {
            put_numbers(out, [session, packet_id.into()]);
        }
        if let Some(hand_on) = &self.hand_on {
            put_numbers(out, [hand_on.number, hand_on.targets.len() as u64]);
            for target in &hand_on.targets {
                put_number(out, (*target).into());
            }
        }
        if let Some((shard, number)) = self.came_from {
            put_numbers(out, [shard.into(), number]);
        }
        put_number(out, deliveries.len() as u64);
        for delivery in deliveries {
            delivery.borrow().encode(out);
        }
        put_number(out, self.groups.len() as u64);
        for group in &self.groups {
            put_bytes(out, group.as_bytes());
        }
        put_bytes(out, self.topic.as_bytes());
        put_bytes(out, self.properties);
        put_number(out, self.payload.len() as u64);
        kind
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.byte()?;
        let message = reader.number()?;
        let expires_at_ms = if flags & EXPIRES != 0 { Some(reader.number()?) } else { None };
        let origin =
            if flags & ORIGIN != 0 { Some((reader.number()?, reader.packet_id()?)) } else { None };
        let hand_on = if flags & HAND_ON != 0 {
            let number = reader.number()?;
            let targets = (0..reader.count(1)?).map(|_| reader.small()).collect::<Option<_>>()?;
            Some(HandOn { number, targets })
        } else {
            None
        };
        let came_from =
            if flags & CAME_FROM != 0 { Some((reader.small()?, reader.number()?)) } else { None };
        let deliveries =
            (0..reader.count(2)?).map(|_| DeliveryRecord::read(reader)).collect::<Option<_>>()?;
        let groups = (0..reader.count(1)?).map(|_| reader.text()).collect::<Option<_>>()?;
        Some(Self {
            message,
            topic: reader.text()?,
            properties: reader.bytes()?,
            payload: reader.bytes()?,
            qos: qos(flags)?,
            retain: flags & RETAIN != 0,
            expires_at_ms,
            retained: flags & RETAINED != 0,
            origin,
            hand_on,
            came_from,
            deliveries,
            groups,
            author: None,
        })
    }
}

impl AuthorRecord<'_> {
    /// Appends it; returns the kind of the message behind it.
    fn encode(&self, out: &mut Vec<u8>) -> u8 {
        match (self.listener, &self.writer) {
            (None, None) => MESSAGE,
            (None, Some(writer)) => {
                writer.encode(0, out);
                MESSAGE_BY
            }
            (Some(listener), writer) => {
                put_bytes(out, listener.as_bytes());
                match writer {
                    Some(writer) => writer.encode(WRITER, out),
                    None => out.push(0),
                }
                MESSAGE_FROM
            }
        }
    }
}

impl<'a> WriterRecord<'a> {
    fn encode(&self, flags: u8, out: &mut Vec<u8>) {
        out.push(flags | if self.user.is_some() { USER } else { 0 });
        if let Some(user) = self.user {
            put_bytes(out, user.as_bytes());
        }
        put_bytes(out, self.client_id.as_bytes());
    }

    fn read(flags: u8, reader: &mut Reader<'a>) -> Option<Self> {
        let user = match flags {
            0 => None,
            USER => Some(reader.text()?),
            _ => return None,
        };
        Some(Self { user, client_id: reader.text()? })
    }
}

impl<'a> DeliveryRecord<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            self.qos as u8
                | flag(self.retain, RETAIN)
                | flag(self.packet_id.is_some(), HAS_PACKET_ID)
                | flag(!self.identifiers.is_empty(), HAS_IDENTIFIERS)
                | flag(self.share.is_some(), HAS_SHARE),
        );
        put_number(out, self.session);
        if let Some(packet_id) = self.packet_id {
            put_number(out, packet_id.into());
        }
        if !self.identifiers.is_empty() {
            put_number(out, self.identifiers.len() as u64);
            for identifier in self.identifiers.iter() {
                put_number(out, (*identifier).into());
            }
        }
        if let Some(share) = self.share {
            put_bytes(out, share.as_bytes());
        }
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.byte()?;
        if flags & !(3 | RETAIN | HAS_PACKET_ID | HAS_IDENTIFIERS | HAS_SHARE) != 0 {
            return None;
        }
        let session = reader.number()?;
        let packet_id = if flags & HAS_PACKET_ID != 0 { Some(reader.packet_id()?) } else { None };
        let identifiers = if flags & HAS_IDENTIFIERS != 0 {
            let count = reader.count(1)?;
            let identifiers = (0..count).map(|_| reader.number()?.try_into().ok());
            Cow::Owned(identifiers.collect::<Option<_>>()?)
        } else {
            Cow::Borrowed(&[][..])
        };
        let share = if flags & HAS_SHARE != 0 { Some(reader.text()?) } else { None };
        Some(Self {
            session,
            qos: qos(flags)?,
            retain: flags & RETAIN != 0,
            packet_id,
            identifiers,
            share,
        })
    }
}

fn qos(flags: u8) -> Option<QoS> {
    match flags & 3 {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    for number in numbers {
        put_number(out, number);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u16> {
        self.number()?.try_into().ok()
    }

    fn packet_id(&mut self) -> Option<u16> {
        self.small().filter(|id| *id != 0)
    }

    /// A count of things that take at least `size_min` bytes each: never more than there can be.
    fn count(&mut self, size_min: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.rest.len() / size_min).then_some(count)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let size = usize::try_from(self.number()?).ok()?;
        self.take(size)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record<'static>> {
        let will = WillRecord {
            topic: "w",
            properties: b"p",
            payload: b"gone",
            qos: QoS::ExactlyOnce,
            retain: true,
            delay_interval_seconds: 300,
            message_expiry_interval_seconds: Some(u32::MAX),
        };
        let deliveries = vec![
            DeliveryRecord {
                session: 1,
                qos: QoS::AtLeastOnce,
                retain: false,
                packet_id: None,
                identifiers: Cow::Borrowed(&[]),
                share: None,
            },
            DeliveryRecord {
                session: u64::MAX,
                qos: QoS::ExactlyOnce,
                retain: true,
                packet_id: Some(u16::MAX),
                identifiers: Cow::Owned(vec![1, 268_435_455]),
                share: Some("$share/g/a/#"),
            },
        ];
        let plain = MessageRecord {
            message: 7,
            topic: "a/b",
            properties: b"",
            payload: b"hello",
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at_ms: None,
            retained: false,
            origin: None,
            hand_on: None,
            came_from: None,
            deliveries: Vec::new(),
            groups: Vec::new(),
            author: None,
        };
        let author = |user: Option<Option<&'static str>>, listener| {
            let writer = user.map(|user| WriterRecord { user, client_id: "client" });
            Some(AuthorRecord { writer, listener })
        };
        let full = MessageRecord {
            qos: QoS::ExactlyOnce,
            retain: true,
            retained: true,
            expires_at_ms: Some(1 << 41),
            origin: Some((3, 9)),
            hand_on: Some(HandOn { number: 5, targets: vec![0, 1023] }),
            came_from: Some((2, 77)),
            deliveries,
            groups: vec!["$share/g/a/#", "$share/h/a/b"],
            ..plain.clone()
        };
        vec![
            Record::Session(SessionRecord {
                session: 1,
                client_id: "c",
                user: None,
                expiry_interval_seconds: 0,
                away_since_ms: None,
                will: None,
            }),
            Record::Session(SessionRecord {
                session: 300,
                client_id: "client",
                user: Some("anna"),
                expiry_interval_seconds: u32::MAX,
                away_since_ms: Some(1_700_000_000_000),
                will: Some(will),
            }),
            Record::SessionEnd { session: 1 },
            Record::Subscribe { session: 1, options: 0xdead_beef, filter: "a/+/#" },
            Record::Unsubscribe { session: 1, filter: "$share/g/x" },
            Record::Message(MessageRecord {
                author: author(Some(Some("anna")), None),
                ..plain.clone()
            }),
            Record::Message(MessageRecord { author: author(Some(None), None), ..full.clone() }),
            Record::Message(MessageRecord { author: author(None, Some("in")), ..full.clone() }),
            Record::Message(MessageRecord {
                author: author(Some(Some("anna")), Some("127.0.0.1:1883")),
                ..plain.clone()
            }),
            Record::Message(MessageRecord {
                author: author(Some(None), Some("in")),
                ..plain.clone()
            }),
            Record::Message(plain),
            Record::Message(full),
            Record::Assigned { session: 1, message: 2, packet_id: 3 },
            Record::Received { session: 1, message: 2, packet_id: 3 },
            Record::Done { session: 1, message: 2 },
            Record::Inbound { session: 1, packet_id: 3 },
            Record::InboundReleased { session: 1, packet_id: 3 },
            Record::HandedOn { number: 1 << 63 },
            Record::Mark { shard: 1023, number: 4 },
            Record::Came { shard: 1023, first: 5, last: 1 << 63 },
            Record::RetainedGone { topic: "a" },
            Record::Taken { message: 4, group: "$share/g/x" },
        ]
    }

    #[test]
    fn every_record_comes_back() {
        for record in all() {
            let mut bytes = Vec::new();
            let kind = record.encode(&mut bytes);
            assert_eq!(Record::decode(kind, &bytes), Ok(record));
        }
    }

    /// Cut short or with something behind it, no record is taken for another.
    #[test]
    fn a_cut_record_is_none() {
        for record in all() {
            let mut bytes = Vec::new();
            let kind = record.encode(&mut bytes);
            for size in 0..bytes.len() {
                assert_eq!(
                    Record::decode(kind, &bytes[..size]),
                    Err(RecordError::Malformed(kind)),
                    "{record:?} cut at {size}"
                );
            }
            bytes.push(0);
            assert_eq!(Record::decode(kind, &bytes), Err(RecordError::Malformed(kind)));
        }
        assert_eq!(Record::decode(0, b""), Err(RecordError::UnknownKind(0)));
        assert_eq!(Record::decode(200, b""), Err(RecordError::UnknownKind(200)));
    }

    /// Decoding is total: whatever a byte becomes, the answer is a record or an error, and what is a record encodes.
    #[test]
    fn changed_bytes_never_panic() {
        for record in all() {
            let mut bytes = Vec::new();
            let kind = record.encode(&mut bytes);
            for at in 0..bytes.len() {
                for flip in 1..=255 {
                    bytes[at] ^= flip;
                    if let Ok(read) = Record::decode(kind, &bytes) {
                        read.encode(&mut Vec::new());
                    }
                    bytes[at] ^= flip;
                }
            }
        }
    }
}
