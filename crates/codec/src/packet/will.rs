//! The Will: a publication that a CONNECT leaves with the server, to be sent when the client is gone.

use crate::packet::publish::Forwarded;
use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::read::Reader;
use crate::user_properties::Collector;
use crate::write::{Content, Sink};
use crate::{DecodeError, ProtocolVersion, QoS, UserProperties};

/// The Will of a CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Will<'a> {
    /// Quality of Service of the publication.
    pub qos: QoS,
    /// Whether it is published as retained. [MQTT-3.1.2-14] [MQTT-3.1.2-15]
    pub retain: bool,
    /// A Topic Name: not empty, no wildcards.
    pub topic: &'a str,
    /// Any bytes, also none.
    pub payload: &'a [u8],
    /// MQTT 5.0 only.
    pub properties: WillProperties<'a>,
}

/// The properties of a Will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WillProperties<'a> {
    /// How long to wait before publishing, in seconds; absent means 0.
    pub delay_interval_seconds: Option<u32>,
    /// 0: unspecified bytes; 1: the payload is UTF-8. Whether it is true is not checked here.
    pub payload_format_indicator: Option<u8>,
    /// Lifetime of the publication in seconds, from its publication on.
    pub message_expiry_interval_seconds: Option<u32>,
    /// What the payload is, by agreement of the clients.
    pub content_type: Option<&'a str>,
    /// A Topic Name for the answer: not empty, no wildcards. [MQTT-3.3.2-14]
    pub response_topic: Option<&'a str>,
    /// Tells the requester which request is answered.
    pub correlation_data: Option<&'a [u8]>,
    /// Published with the Will, in order. [MQTT-3.1.3-10]
    pub user_properties: UserProperties<'a>,
}

impl<'a> Will<'a> {
    /// Reads the Will's part of the payload of a CONNECT.
    pub(crate) fn decode(
        qos: QoS,
        retain: bool,
        reader: &mut Reader<'a>,
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let properties = match version.is_v5() {
            true => WillProperties::decode(PropertyReader::open(reader, Carrier::Will)?)?,
            false => WillProperties::default(),
        };
        // [MQTT-3.1.3-11]
        let topic = reader.topic_name()?;
        if topic.is_empty() {
            return Err(DecodeError::TopicNameEmpty);
        }
        let payload = reader.binary()?;
        Ok(Self { qos, retain, topic, payload, properties })
    }

    pub(crate) fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        if version.is_v5() {
            sink.put_properties(&self.properties);
        }
        sink.put_string(self.topic);
        sink.put_binary(self.payload);
    }
}

impl<'a> WillProperties<'a> {
    fn decode(mut reader: PropertyReader<'a>) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::WillDelayInterval(seconds) => {
                    properties.delay_interval_seconds = Some(seconds);
                }
                Property::PayloadFormatIndicator(value) => {
                    properties.payload_format_indicator = Some(value);
                }
                Property::MessageExpiryInterval(seconds) => {
                    properties.message_expiry_interval_seconds = Some(seconds);
                }
                Property::ContentType(text) => properties.content_type = Some(text),
                Property::ResponseTopic(topic) => properties.response_topic = Some(topic),
                Property::CorrelationData(data) => properties.correlation_data = Some(data),
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        properties.user_properties = user_properties.finish(&reader);
        Ok(properties)
    }

    /// Appends, without a length before them, the properties that the published Will carries unaltered; see
    /// [`PublishProperties::encode_forwarded`](crate::PublishProperties::encode_forwarded). Not the delay and the expiry.
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
}

impl Content for WillProperties<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_u32(id::WILL_DELAY_INTERVAL, self.delay_interval_seconds);
        sink.put_property_u32(id::MESSAGE_EXPIRY_INTERVAL, self.message_expiry_interval_seconds);
        self.forwarded().write(sink);
    }
}
