//! PUBLISH: the packet the broker lives on.
//!
//! [`Publish::decode`] runs once for every message received, so it touches each byte of the topic once or twice and none
//! of the payload, and takes the properties apart only where there are any. Its counterpart for sending is
//! [`OutgoingPublish`](crate::OutgoingPublish), which writes everything but the payload; [`Publish::encode`] is for
//! clients and tests.

use core::num::NonZeroU16;

use crate::packet::subscription_identifiers::SubscriptionIdentifiers;
use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::read::Reader;
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketId, PacketType, ProtocolVersion, QoS, RawPacket, UserProperties};

/// A publication on its way between a client and a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// It may have been sent before. Never set at QoS 0 from MQTT 3.1.1 on [MQTT-3.3.1-2]; a hint in MQTT 3.1.
    pub dup: bool,
    /// Quality of Service.
    pub qos: QoS,
    /// To a server: keep it. To a client: it was kept (or the subscription retains the flag as published).
    pub retain: bool,
    /// The Topic Name, without wildcards [MQTT-3.3.2-2]. Empty only in MQTT 5.0 together with a Topic Alias.
    pub topic: &'a str,
    /// Present exactly when the QoS is above 0. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// MQTT 5.0 only.
    pub properties: PublishProperties<'a>,
    /// Any bytes, also none.
    pub payload: &'a [u8],
}

/// The properties of a PUBLISH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// 0: unspecified bytes; 1: the payload is UTF-8. Whether it is true is not checked here.
    pub payload_format_indicator: Option<u8>,
    /// Lifetime of the publication in seconds; 0 expires at once.
    pub message_expiry_interval_seconds: Option<u32>,
    /// Stands for the topic on this connection, in this direction. Zero was refused. [MQTT-3.3.2-8]
    pub topic_alias: Option<NonZeroU16>,
    /// A Topic Name for the answer: not empty, no wildcards. [MQTT-3.3.2-14]
    pub response_topic: Option<&'a str>,
    /// Tells the requester which request is answered.
    pub correlation_data: Option<&'a [u8]>,
    /// What the payload is, by agreement of the clients.
    pub content_type: Option<&'a str>,
    /// From a server only. [MQTT-3.3.4-6]
    pub subscription_identifiers: SubscriptionIdentifiers<'a>,
    /// Passed on unaltered and in order. [MQTT-3.3.2-17] [MQTT-3.3.2-18]
    pub user_properties: UserProperties<'a>,
}

impl<'a> Publish<'a> {
    /// Decodes the packet. Does not allocate, and does not look at the payload.
    ///
    /// # Errors
    /// Everything that the specification forbids in it.
    #[inline]
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        if raw.first_byte >> 4 != PacketType::Publish as u8 {
            return Err(DecodeError::PacketTypeUnexpected);
        }
        raw.check_remaining_length(version)?;
        let (dup, qos, retain) = flags(raw.first_byte)?;
        // [MQTT-3.3.1-2]; MQTT 3.1 does not say so.
        if dup && qos == QoS::AtMostOnce && version != ProtocolVersion::V31 {
            return Err(DecodeError::DupWithoutQos);
        }
        let mut reader = Reader::new(raw.body);
        let topic = reader.topic_name()?;
        // [MQTT-2.2.1-2]
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
        };
        let block = if version.is_v5() { reader.property_block()? } else { &[] };
        // The usual packet is written straight to where the caller wants it. The others go through a function that is not
        // inlined: were the two ways to come by properties merged here, each field would be moved three times.
        let properties = match block {
            [] if !topic.is_empty() => PublishProperties::default(),
            _ => return Self::decode_with_properties(raw, topic, packet_id, block, reader.rest()),
        };
        Ok(Self { dup, qos, retain, topic, packet_id, properties, payload: reader.rest() })
    }

    /// The rest of decoding for packets that have properties, or should have.
    #[inline(never)]
    fn decode_with_properties(
        raw: RawPacket<'a>,
        topic: &'a str,
        packet_id: Option<PacketId>,
        block: &'a [u8],
        payload: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let properties = PublishProperties::decode(block)?;
        // [MQTT-4.7.3-1], and section 3.3.2.1 for the alias.
        if topic.is_empty() && properties.topic_alias.is_none() {
            return Err(DecodeError::TopicNameEmpty);
        }
        let (dup, qos, retain) = flags(raw.first_byte)?;
        Ok(Self { dup, qos, retain, topic, packet_id, properties, payload })
    }

    /// Appends the whole packet, payload included.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let body_size = write::body_size(self, version);
        out.reserve(write::with_header(body_size));
        out.put_u8(first_byte(self.dup, self.qos, self.retain));
        out.put_variable_byte_integer(body_size as u32);
        self.write_body(version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }
}

impl Body for Publish<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        debug_assert_eq!(self.packet_id.is_some(), self.qos > QoS::AtMostOnce);
        sink.put_string(self.topic);
        if let Some(packet_id) = self.packet_id {
            sink.put_packet_id(packet_id);
        }
        if version.is_v5() {
            sink.put_properties(&self.properties);
        }
        sink.put(self.payload);
    }
}

/// DUP, QoS and RETAIN of the first byte. [MQTT-3.3.1-4]
#[inline]
fn flags(first_byte: u8) -> Result<(bool, QoS, bool), DecodeError> {
    let qos = QoS::from_u8(first_byte >> 1 & 0b11).ok_or(DecodeError::QosInvalid)?;
    Ok((first_byte & 0b1000 != 0, qos, first_byte & 0b0001 != 0))
}

/// The first byte of a PUBLISH. [MQTT-3.3.1-4]
#[inline]
pub(crate) const fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    PacketType::Publish.first_byte() | (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}

impl<'a> PublishProperties<'a> {
    fn decode(block: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = PropertyReader::new(block, Carrier::Publish);
        let mut properties = Self::default();
        let mut has_subscription_identifier = false;
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::PayloadFormatIndicator(value) => {
                    properties.payload_format_indicator = Some(value);
                }
                Property::MessageExpiryInterval(seconds) => {
                    properties.message_expiry_interval_seconds = Some(seconds);
                }
                Property::TopicAlias(alias) => properties.topic_alias = Some(alias),
                Property::ResponseTopic(topic) => properties.response_topic = Some(topic),
                Property::CorrelationData(data) => properties.correlation_data = Some(data),
                Property::ContentType(text) => properties.content_type = Some(text),
                Property::SubscriptionIdentifier(_) => has_subscription_identifier = true,
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        if has_subscription_identifier {
            properties.subscription_identifiers = SubscriptionIdentifiers::from_block(block);
        }
        properties.user_properties = user_properties.finish(&reader);
        Ok(properties)
    }

    /// Whether no property is present at all.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.message_expiry_interval_seconds.is_none()
            && self.topic_alias.is_none()
            && self.subscription_identifiers.is_empty()
            && !self.has_forwarded()
    }

    /// Whether [`encode_forwarded`](Self::encode_forwarded) writes anything.
    #[inline]
    #[must_use]
    pub const fn has_forwarded(&self) -> bool {
        self.payload_format_indicator.is_some()
            || self.response_topic.is_some()
            || self.correlation_data.is_some()
            || self.content_type.is_some()
            || !self.user_properties.is_empty()
    }

    /// Appends, without a length before them, the properties that a server passes on unaltered: Payload Format Indicator
    /// [MQTT-3.3.2-4], Content Type [MQTT-3.3.2-20], Response Topic [MQTT-3.3.2-15], Correlation Data [MQTT-3.3.2-16] and
    /// User Properties in order [MQTT-3.3.2-17] [MQTT-3.3.2-18]. Not those that change on the way: Message Expiry
    /// Interval, Topic Alias, Subscription Identifiers.
    pub fn encode_forwarded(&self, out: &mut Vec<u8>) {
        self.forwarded().write(out);
    }

    const fn forwarded(&self) -> Forwarded<'a> {
        Forwarded {
            payload_format_indicator: self.payload_format_indicator,
            content_type: self.content_type,
            response_topic: self.response_topic,
            correlation_data: self.correlation_data,
            user_properties: self.user_properties,
        }
    }

    /// Takes apart the bytes that [`encode_forwarded`](Self::encode_forwarded) wrote, for those who keep them: a log
    /// that is read again, a rule that looks at user properties.
    ///
    /// # Errors
    /// When the bytes are not a block of PUBLISH properties.
    pub fn decode_forwarded(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }
}

impl Content for PublishProperties<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_u32(id::MESSAGE_EXPIRY_INTERVAL, self.message_expiry_interval_seconds);
        sink.put_property_u16(id::TOPIC_ALIAS, self.topic_alias.map(NonZeroU16::get));
        self.subscription_identifiers.write(sink);
        self.forwarded().write(sink);
    }
}

/// The properties that a publication and a Will have in common and that no server may alter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded<'a> {
    pub(crate) payload_format_indicator: Option<u8>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) response_topic: Option<&'a str>,
    pub(crate) correlation_data: Option<&'a [u8]>,
    pub(crate) user_properties: UserProperties<'a>,
}

impl Content for Forwarded<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_u8(id::PAYLOAD_FORMAT_INDICATOR, self.payload_format_indicator);
        sink.put_property_string(id::CONTENT_TYPE, self.content_type);
        sink.put_property_string(id::RESPONSE_TOPIC, self.response_topic);
        sink.put_property_binary(id::CORRELATION_DATA, self.correlation_data);
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OLD, TEN, V5, V31, V311, is, reads, refuses, text, wire};
    use crate::{OutgoingPublish, Packet};

    fn publish(topic: &str) -> Publish<'_> {
        Publish { topic, ..Publish::default() }
    }

    fn qos_1<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
        Publish { qos: QoS::AtLeastOnce, packet_id: Some(TEN), payload, ..publish(topic) }
    }

    #[test]
    fn the_old_versions_have_topic_identifier_and_payload() {
        for version in OLD {
            for (bytes, expected) in [
                (wire(0x30, &[&text("a/b"), b"hi"]), Publish { payload: b"hi", ..publish("a/b") }),
                (wire(0x30, &[&text("a/b")]), publish("a/b")),
                (wire(0x31, &[&text("a/b")]), Publish { retain: true, ..publish("a/b") }),
                // Spaces, a leading slash and `$` are characters like others.
                (wire(0x30, &[&text("/ $SYS")]), publish("/ $SYS")),
                (wire(0x32, &[&text("a"), &[0, 10], b"hi"]), qos_1("a", b"hi")),
                (wire(0x3A, &[&text("a"), &[0, 10]]), Publish { dup: true, ..qos_1("a", b"") }),
                (
                    wire(0x3D, &[&text("日本"), &[0, 10], &[0, 1]]),
                    Publish {
                        dup: true,
                        qos: QoS::ExactlyOnce,
                        retain: true,
                        ..qos_1("日本", &[0, 1])
                    },
                ),
                // A payload that looks like an empty property block is payload here.
                (wire(0x30, &[&text("a"), &[0]]), Publish { payload: &[0], ..publish("a") }),
            ] {
                is(version, &bytes, Packet::Publish(expected));
            }
        }
    }

    #[test]
    fn v5_has_properties() {
        let everything = [
            &[0x02, 0, 0, 0, 60, 0x23, 0, 7][..], // Message Expiry Interval, Topic Alias
            &[0x0B, 1, 0x0B, 0x80, 0x01],         // Subscription Identifiers
            &[0x01, 1],                           // Payload Format Indicator
            &[0x03],
            &text("text/plain"),
            &[0x08],
            &text("answer/here"),
            &[0x09],
            &text([0, 1, 2]),
            &[0x26],
            &text("k"),
            &text("1"),
            &[0x26],
            &text("k"),
            &text(""),
        ]
        .concat();
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval_seconds: Some(60),
            topic_alias: NonZeroU16::new(7),
            response_topic: Some("answer/here"),
            correlation_data: Some(&[0, 1, 2]),
            content_type: Some("text/plain"),
            subscription_identifiers: SubscriptionIdentifiers::from_values(&[1, 128]),
            user_properties: UserProperties::from_pairs(&[("k", "1"), ("k", "")]),
        };
        for (bytes, expected) in [
            (wire(0x30, &[&text("a"), &[0]]), publish("a")),
            (wire(0x30, &[&text("a"), &[0], b"hi"]), Publish { payload: b"hi", ..publish("a") }),
            (wire(0x32, &[&text("a"), &[0, 10], &[0], b"hi"]), qos_1("a", b"hi")),
            (
                wire(0x32, &[&text("a"), &[0, 10], &[everything.len() as u8], &everything, b"hi"]),
                Publish { properties, ..qos_1("a", b"hi") },
            ),
            // An alias replaces the topic.
            (
                wire(0x30, &[&text(""), &[3, 0x23, 0xFF, 0xFF]]),
                Publish {
                    properties: PublishProperties {
                        topic_alias: Some(NonZeroU16::MAX),
                        ..PublishProperties::default()
                    },
                    ..publish("")
                },
            ),
        ] {
            is(V5, &bytes, Packet::Publish(expected));
        }
    }

    /// Any order is legal; user properties keep theirs [MQTT-3.3.2-18] though others stand between.
    #[test]
    fn properties_come_in_any_order() {
        let block = [
            &[0x26][..],
            &text("b"),
            &text("2"),
            &[0x0B, 5, 0x01, 0, 0x26],
            &text("a"),
            &text("1"),
            &[0x0B, 4, 0x03],
            &text(""),
        ]
        .concat();
        let bytes = wire(0x30, &[&text("a"), &[block.len() as u8], &block]);
        let properties = PublishProperties {
            payload_format_indicator: Some(0),
            content_type: Some(""),
            subscription_identifiers: SubscriptionIdentifiers::from_values(&[5, 4]),
            user_properties: UserProperties::from_pairs(&[("b", "2"), ("a", "1")]),
            ..PublishProperties::default()
        };
        reads(V5, &bytes, Packet::Publish(Publish { properties, ..publish("a") }));
        let Ok(Packet::Publish(decoded)) = crate::testing::decode(V5, &bytes) else { panic!() };
        assert!(!decoded.properties.is_empty());
        let identifiers = decoded.properties.subscription_identifiers;
        assert!(!identifiers.is_empty());
        assert_eq!(identifiers.iter().collect::<Vec<_>>(), [5, 4]);
        let pairs = decoded.properties.user_properties;
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("b", "2"), ("a", "1")]);
        assert_eq!(pairs.encoded_size(), 14);
    }

    /// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
    #[test]
    fn forwarded_properties_are_the_unaltered_ones() {
        let pairs = [("b", "2"), ("a", "1"), ("b", "2")];
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval_seconds: Some(9),
            topic_alias: NonZeroU16::new(3),
            response_topic: Some("r"),
            correlation_data: Some(b"c"),
            content_type: Some("t"),
            subscription_identifiers: SubscriptionIdentifiers::from_values(&[7]),
            user_properties: UserProperties::from_pairs(&pairs),
        };
        let mut forwarded = Vec::new();
        properties.encode_forwarded(&mut forwarded);
        let expected = PublishProperties {
            message_expiry_interval_seconds: None,
            topic_alias: None,
            subscription_identifiers: SubscriptionIdentifiers::EMPTY,
            ..properties
        };
        assert_eq!(PublishProperties::decode_forwarded(&forwarded), Ok(expected));

        // Through a subscriber's PUBLISH they arrive as they were.
        let mut bytes = Vec::new();
        let outgoing =
            OutgoingPublish { topic: "a", forwarded_properties: &forwarded, ..Default::default() };
        assert_eq!(outgoing.encode_header(V5, &mut bytes), None);
        reads(V5, &bytes, Packet::Publish(Publish { properties: expected, ..publish("a") }));

        let mut nothing = Vec::new();
        PublishProperties { topic_alias: NonZeroU16::new(3), ..Default::default() }
            .encode_forwarded(&mut nothing);
        assert!(nothing.is_empty());
    }

    #[test]
    fn refused_in_every_version() {
        for version in ProtocolVersion::ALL {
            // Enough behind the topic for an identifier and an empty property block.
            let rest: &[u8] = &[0, 10, 0];
            for (bytes, error) in [
                // [MQTT-3.3.1-4]
                (wire(0x36, &[&text("a"), rest]), DecodeError::QosInvalid),
                (wire(0x3F, &[&text("a"), rest]), DecodeError::QosInvalid),
                // [MQTT-3.3.2-2] [MQTT-4.7.1-1 @3.1.1]
                (wire(0x30, &[&text("a/+"), rest]), DecodeError::TopicNameWildcard),
                (wire(0x30, &[&text("#"), rest]), DecodeError::TopicNameWildcard),
                (wire(0x30, &[&text("a/b+c/d/e/f"), rest]), DecodeError::TopicNameWildcard),
                // [MQTT-1.5.4-1] [MQTT-1.5.3-1 @3.1.1]
                (wire(0x30, &[&text([0xED, 0xA0, 0x80]), rest]), DecodeError::StringNotUtf8),
                // [MQTT-1.5.4-2] [MQTT-1.5.3-2 @3.1.1] [MQTT-4.7.3-2]
                (wire(0x30, &[&text("a\0"), rest]), DecodeError::StringHasNull),
                // [MQTT-4.7.3-1]
                (wire(0x32, &[&text(""), rest]), DecodeError::TopicNameEmpty),
                // [MQTT-2.2.1-3] [MQTT-2.3.1-1 @3.1.1]
                (wire(0x32, &[&text("a"), &[0, 0, 0]]), DecodeError::PacketIdZero),
                (wire(0x34, &[&text("a"), &[0, 0, 0]]), DecodeError::PacketIdZero),
                // Remaining length shorter than the content.
                (wire(0x30, &[]), DecodeError::BodyTooShort),
                (wire(0x30, &[&[0]]), DecodeError::BodyTooShort),
                (wire(0x30, &[&[0, 2, b'a']]), DecodeError::BodyTooShort),
                (wire(0x30, &[&[0xFF, 0xFF, b'a']]), DecodeError::BodyTooShort),
                (wire(0x32, &[&text("a")]), DecodeError::BodyTooShort),
                (wire(0x32, &[&text("a"), &[0]]), DecodeError::BodyTooShort),
            ] {
                refuses(version, &bytes, error);
            }
        }
    }

    /// [MQTT-3.3.1-2] [MQTT-3.3.1-2 @3.1.1]; MQTT 3.1 calls DUP a hint and does not forbid it.
    #[test]
    fn dup_needs_a_qos() {
        let bytes = wire(0x38, &[&text("a"), &[0]]);
        refuses(V311, &bytes, DecodeError::DupWithoutQos);
        refuses(V5, &bytes, DecodeError::DupWithoutQos);
        let expected = Publish { dup: true, payload: &[0], ..publish("a") };
        is(V31, &bytes, Packet::Publish(expected));
    }

    #[test]
    fn properties_refused() {
        for (block, error) in [
            // [MQTT-3.3.2-8]
            (&[0x23, 0, 0][..], DecodeError::TopicAliasZero),
            (&[0x0B, 0], DecodeError::SubscriptionIdentifierZero),
            (&[0x0B, 0x80, 0x00], DecodeError::VariableByteIntegerNotMinimal),
            (&[0x0B, 0x80, 0x80, 0x80, 0x80], DecodeError::VariableByteIntegerTooLong),
            (&[0x0B, 0x80], DecodeError::BodyTooShort),
            (&[0x01, 2], DecodeError::PropertyValueInvalid),
            // [MQTT-3.3.2-14], and [MQTT-4.7.3-1] for the empty one.
            (&[0x08, 0, 1, b'+'], DecodeError::ResponseTopicWildcard),
            (&[0x08, 0, 3, b'a', b'/', b'#'], DecodeError::ResponseTopicWildcard),
            (&[0x08, 0, 0], DecodeError::ResponseTopicEmpty),
            // [MQTT-3.3.2-13] [MQTT-3.3.2-19] [MQTT-1.5.7-1]
            (&[0x08, 0, 1, 0xFF], DecodeError::StringNotUtf8),
            (&[0x03, 0, 1, 0xFF], DecodeError::StringNotUtf8),
            (&[0x03, 0, 1, 0], DecodeError::StringHasNull),
            (&[0x26, 0, 1, 0xFF, 0, 0], DecodeError::StringNotUtf8),
            (&[0x26, 0, 0, 0, 1, 0xFF], DecodeError::StringNotUtf8),
            (&[0x26, 0, 0], DecodeError::BodyTooShort),
            (&[0x26, 0, 1, b'k'], DecodeError::BodyTooShort),
            (&[0x02, 0, 0, 0], DecodeError::BodyTooShort),
            (&[0x23], DecodeError::BodyTooShort),
        ] {
            let bytes = wire(0x30, &[&text("a"), &[block.len() as u8], block]);
            refuses(V5, &bytes, error);
        }
    }

    #[test]
    fn a_property_block_cannot_be_longer_than_the_packet() {
        for (block, error) in [
            (&[][..], DecodeError::BodyTooShort),
            (&[1], DecodeError::BodyTooShort),
            (&[3, 0x01, 1], DecodeError::BodyTooShort),
            (&[0xFF, 0xFF, 0xFF, 0x7F, 0x01, 1], DecodeError::BodyTooShort),
            (&[0x80], DecodeError::BodyTooShort),
            (&[0x80, 0x00], DecodeError::VariableByteIntegerNotMinimal),
            (&[0x82, 0x00, 0x01, 1], DecodeError::VariableByteIntegerNotMinimal),
            (&[0x80, 0x80, 0x80, 0x80, 0x00], DecodeError::VariableByteIntegerTooLong),
            // The last property goes on behind the block.
            (&[1, 0x01, 1], DecodeError::BodyTooShort),
        ] {
            refuses(V5, &wire(0x30, &[&text("a"), block]), error);
        }
    }
}
