//! An Application Message inside the broker.
//!
//! Built once when it enters, then shared: between the sessions that queue it, the shards that it hops to and the
//! retained index. Topic, forwarded properties and payload lie in one block, so that a message costs two allocations
//! however many receive it; the payload can be handed out as a reference-counted slice of the same block.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use midge_codec::QoS;

use crate::time::Time;

/// How far two shards' readings of the clock may lie apart, in milliseconds: a turn of more is a stall.
const CLOCK_SLACK_MS: u64 = 250;

/// Bytes that a block from an earlier message may be too large: they are not counted.
const BLOCK_SLACK: usize = 32;

/// What the acknowledgement of a publication waits for, when somebody must keep it; from the least to the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keeping {
    /// For nothing.
    Memory,
    /// Until the operating system has it.
    Written,
    /// Until the disk has it.
    #[default]
    Fsync,
}

/// Where something that is retained comes from, as far as somebody asks later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Author {
    /// Who it was, for whoever asks whether they still might.
    pub writer: Option<Writer>,
    /// The name of the listener for which it counts.
    pub listener: Option<Arc<str>>,
}

/// Who has published something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The user name; `None`: an anonymous client.
    pub user: Option<Box<str>>,
    /// The client id.
    pub client_id: Box<str>,
}

impl Author {
    /// Bytes that it occupies.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let writer = self.writer.as_ref().map_or(0, |writer| {
            writer.client_id.len() + writer.user.as_ref().map_or(0, |user| user.len())
        });
        size_of::<Self>() + writer + self.listener.as_ref().map_or(0, |listener| listener.len())
    }
}

/// A message on its way to whoever wants it. Immutable; share it in an `Arc`.
#[derive(Debug)]
pub struct Publication {
    /// Topic Name, then the forwarded properties, then the payload.
    data: Bytes,
    topic_size: u16,
    properties_size: u32,
    qos: QoS,
    /// RETAIN in the lowest bit, [`Keeping`] above it: together they leave room for `author` in as many bytes as before.
    marks: u8,
    expires_at: Option<Time>,
    author: Option<Arc<Author>>,
}

const _: () = assert!(size_of::<Publication>() <= 64, "it is one cache line");

/// Of [`Publication::marks`].
const RETAIN: u8 = 1;

const fn marks_of(retain: bool, keeping: Keeping) -> u8 {
    retain as u8 | (keeping as u8) << 1
}

impl Publication {
    /// Copies the parts into one block.
    ///
    /// `properties` are the 5.0 properties that a broker passes on unaltered, encoded, without a length prefix; empty when
    /// there are none. `expires_at` is the end of the Message Expiry Interval; `None` means it never expires.
    ///
    /// # Panics
    /// When the topic is longer than 65,535 bytes or the properties than 4 GiB: the codec refuses such packets.
    #[must_use]
    pub fn new(
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        qos: QoS,
        retain: bool,
        expires_at: Option<Time>,
    ) -> Self {
        Self::new_in(BytesMut::new(), topic, properties, payload, qos, retain, expires_at)
    }

    /// The same in this block, if it is about as large as needed.
    ///
    /// # Panics
    /// As [`Publication::new`].
    #[inline]
    #[must_use]
    pub fn new_in(
        block: BytesMut,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        qos: QoS,
        retain: bool,
        expires_at: Option<Time>,
    ) -> Self {
        let size = topic.len() + properties.len() + payload.len();
        let fits = (size..=size + BLOCK_SLACK).contains(&block.capacity());
        let mut data = if fits { block } else { BytesMut::with_capacity(size) };
        data.extend_from_slice(topic.as_bytes());
        data.extend_from_slice(properties);
        data.extend_from_slice(payload);
        Self {
            data: data.freeze(),
            topic_size: u16::try_from(topic.len()).expect("a topic has at most 65,535 bytes"),
            properties_size: u32::try_from(properties.len()).expect("properties are below 4 GiB"),
            qos,
            marks: marks_of(retain, Keeping::Fsync),
            expires_at,
            author: None,
        }
    }

    /// The block of one that is done with, empty: for [`Publication::new_in`]. A new one when somebody has a part of it.
    #[inline]
    pub(crate) fn take_block(&mut self) -> BytesMut {
        let mut block = std::mem::take(&mut self.data).try_into_mut().unwrap_or_default();
        block.clear();
        block
    }

    /// The same with another answer to what its acknowledgement waits for. Without, it waits for the disk.
    #[must_use]
    pub fn kept_as(mut self, keeping: Keeping) -> Self {
        self.marks = marks_of(self.retain(), keeping);
        self
    }

    /// The same with where it comes from, if somebody wants to know later.
    #[must_use]
    pub fn written_by(mut self, author: Option<Arc<Author>>) -> Self {
        self.author = author;
        self
    }

    /// Where it comes from; `None`: nobody asks.
    #[must_use]
    pub fn author(&self) -> Option<&Arc<Author>> {
        self.author.as_ref()
    }

    /// The Topic Name.
    #[inline]
    #[must_use]
    pub fn topic(&self) -> &str {
        // The block was built from a `&str`, so this always succeeds; checking it again is what safe code costs, about
        // a nanosecond per 16 bytes.
        std::str::from_utf8(&self.data[..usize::from(self.topic_size)]).unwrap_or_default()
    }

    /// The encoded properties to pass on, without a length prefix.
    #[inline]
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        &self.data[usize::from(self.topic_size)..self.payload_at()]
    }

    /// The payload.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.data[self.payload_at()..]
    }

    /// The payload as a shared slice: no copy.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.data.slice(self.payload_at()..)
    }

    /// The QoS at which the publisher sent it.
    #[inline]
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whether the publisher set RETAIN.
    #[inline]
    #[must_use]
    pub fn retain(&self) -> bool {
        self.marks & RETAIN != 0
    }

    /// What its acknowledgement waits for, when somebody must keep it.
    #[inline]
    #[must_use]
    pub fn keeping(&self) -> Keeping {
        match self.marks >> 1 {
            0 => Keeping::Memory,
            1 => Keeping::Written,
            _ => Keeping::Fsync,
        }
    }

    /// When its Message Expiry Interval ends.
    #[inline]
    #[must_use]
    pub fn expires_at(&self) -> Option<Time> {
        self.expires_at
    }

    /// Whether its Message Expiry Interval has passed [MQTT-3.3.2-5].
    #[inline]
    #[must_use]
    pub fn expired(&self, now: Time) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The Message Expiry Interval to send now: what was received minus the time spent here [MQTT-3.3.2-6], at least one.
    ///
    /// Never more than was received: shards read the clock once per turn, so the one that sends it may think it is a little
    /// earlier than the one that received it thought ([`CLOCK_SLACK_MS`]).
    #[must_use]
    pub fn expiry_interval_seconds(&self, now: Time) -> Option<u32> {
        let later = now.plus_millis(CLOCK_SLACK_MS);
        self.expires_at.map(|at| u32::try_from(later.seconds_until(at).max(1)).unwrap_or(u32::MAX))
    }

    /// Bytes that it occupies, for the bounds of queues: the block, this record and the counts of the two allocations.
    #[inline]
    #[must_use]
    pub fn memory_size(&self) -> usize {
        Self::memory_size_of(self.data.len())
    }

    /// The same for one whose topic, properties and payload have so many bytes together.
    #[inline]
    #[must_use]
    pub const fn memory_size_of(size: usize) -> usize {
        size + size_of::<Self>() + 32
    }

    fn payload_at(&self) -> usize {
        usize::from(self.topic_size) + self.properties_size as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_come_out_as_they_went_in() {
        for (topic, properties, payload) in [
            ("a/b", &b"pp"[..], &b"payload"[..]),
            ("é", b"", b""),
            ("t", b"", b"x"),
            ("t", b"y", b""),
        ] {
            let publication =
                Publication::new(topic, properties, payload, QoS::AtLeastOnce, true, None);
            assert_eq!(publication.topic(), topic);
            assert_eq!(publication.properties(), properties);
            assert_eq!(publication.payload(), payload);
            assert_eq!(&publication.payload_bytes()[..], payload);
        }
    }

    #[test]
    fn marks_do_not_touch_each_other() {
        for retain in [false, true] {
            for keeping in [Keeping::Memory, Keeping::Written, Keeping::Fsync] {
                let publication = Publication::new("t", b"", b"", QoS::AtMostOnce, retain, None);
                assert_eq!(publication.keeping(), Keeping::default());
                let publication = publication.kept_as(keeping);
                assert_eq!((publication.retain(), publication.keeping()), (retain, keeping));
            }
        }
    }

    /// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
    #[test]
    fn the_expiry_interval_counts_down_and_ends() {
        let received = Time::from_seconds(100);
        let publication = Publication::new(
            "t",
            b"",
            b"",
            QoS::AtMostOnce,
            false,
            Some(received.plus_seconds(10)),
        );
        assert_eq!(publication.expiry_interval_seconds(received), Some(10));
        // Another shard whose turn began a little earlier.
        let earlier = Time::from_nanos(received.as_nanos() - 100_000_000);
        assert_eq!(publication.expiry_interval_seconds(earlier), Some(10));
        let last_moment = received.plus_millis(9_900);
        assert_eq!(publication.expiry_interval_seconds(last_moment), Some(1));
        assert_eq!(publication.expiry_interval_seconds(received.plus_seconds(4)), Some(6));
        assert!(!publication.expired(received.plus_millis(9_999)));
        assert!(publication.expired(received.plus_seconds(10)));
    }
}
