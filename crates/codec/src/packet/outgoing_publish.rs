//! A PUBLISH to send, whose payload stays where it is.
//!
//! A fan-out writes the header once per protocol version, QoS and retain flag, then copies it for each subscriber and
//! puts the subscriber's own Packet Identifier at the offset that [`OutgoingPublish::encode_header`] returned.

use crate::packet::publish::first_byte;
use crate::packet::subscription_identifiers::SubscriptionIdentifiers;
use crate::property::{PropertySink, id};
use crate::write::{self, Content, Sink};
use crate::{PacketId, ProtocolVersion, QoS};

/// Everything of a PUBLISH but the bytes of its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutgoingPublish<'a> {
    /// It was sent before. Not with QoS 0. [MQTT-3.3.1-2]
    pub dup: bool,
    /// Quality of Service of this delivery.
    pub qos: QoS,
    /// The retain flag of this delivery.
    pub retain: bool,
    /// The Topic Name. Empty only with a Topic Alias that the peer knows.
    pub topic: &'a str,
    /// Present exactly when the QoS is above 0. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// Written by [`PublishProperties::encode_forwarded`](crate::PublishProperties::encode_forwarded) or its twin of the
    /// Will. Left out before MQTT 5.0, as are the three below.
    pub forwarded_properties: &'a [u8],
    /// What is left of the publication's lifetime, in seconds. [MQTT-3.3.2-6]
    pub message_expiry_interval_seconds: Option<u32>,
    /// Not zero. [MQTT-3.3.2-8]
    pub topic_alias: Option<u16>,
    /// One for each subscription that matched and has one [MQTT-3.3.4-3]; none is zero.
    pub subscription_identifiers: &'a [u32],
    /// Bytes of payload that the caller sends behind the header.
    pub payload_size: usize,
}

impl OutgoingPublish<'_> {
    /// Bytes of the whole packet, payload included. What a client's Maximum Packet Size is compared with [MQTT-3.1.2-24];
    /// without such a limit the encoding has its own, [`PACKET_SIZE_MAX`](crate::PACKET_SIZE_MAX).
    #[inline]
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::with_header(self.body_size(version, self.properties_size(version)))
    }

    /// Appends everything before the payload. Returns the offset in `out` of the two bytes of the Packet Identifier, most
    /// significant first; `None` without one.
    #[inline]
    pub fn encode_header(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Option<usize> {
        debug_assert_eq!(self.packet_id.is_some(), self.qos > QoS::AtMostOnce);
        debug_assert!(!(self.dup && self.qos == QoS::AtMostOnce));
        debug_assert_ne!(self.topic_alias, Some(0));
        debug_assert!(!self.topic.is_empty() || self.topic_alias.is_some());
        let properties_size = self.properties_size(version);
        let body_size = self.body_size(version, properties_size);
        // At most 5 bytes of fixed header.
        out.reserve(5 + body_size - self.payload_size);
        out.put_u8(first_byte(self.dup, self.qos, self.retain));
        out.put_variable_byte_integer(body_size as u32);
        out.put_string(self.topic);
        let packet_id_offset = self.packet_id.map(|packet_id| {
            let offset = out.len();
            out.put_packet_id(packet_id);
            offset
        });
        if version.is_v5() {
            out.put_variable_byte_integer(properties_size as u32);
            self.write(out);
        }
        packet_id_offset
    }

    /// Bytes of the properties without their length.
    #[inline]
    fn properties_size(&self, version: ProtocolVersion) -> usize {
        if version.is_v5() { write::size(self) } else { 0 }
    }

    #[inline]
    fn body_size(&self, version: ProtocolVersion, properties_size: usize) -> usize {
        let mut counter = write::Counter::default();
        counter.put_string(self.topic);
        if let Some(packet_id) = self.packet_id {
            counter.put_packet_id(packet_id);
        }
        if version.is_v5() {
            counter.put_variable_byte_integer(properties_size as u32);
        }
        counter.size() + properties_size + self.payload_size
    }
}

/// Its properties.
impl Content for OutgoingPublish<'_> {
    #[inline]
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_u32(id::MESSAGE_EXPIRY_INTERVAL, self.message_expiry_interval_seconds);
        sink.put_property_u16(id::TOPIC_ALIAS, self.topic_alias);
        SubscriptionIdentifiers::from_values(self.subscription_identifiers).write(sink);
        sink.put(self.forwarded_properties);
    }
}
