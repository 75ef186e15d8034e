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
