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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TEN, V5, V311, reads};
    use crate::{Packet, Publish, PublishProperties, UserProperties};
    use core::num::NonZeroU16;

    /// Every combination of what can be present, with payloads around the borders of the remaining length, against the
    /// plain encoder.
    #[test]
    fn header_and_payload_are_the_packet() {
        let pairs = [("k", "v")];
        let mut forwarded = Vec::new();
        let passed_on = PublishProperties {
            content_type: Some("t"),
            user_properties: UserProperties::from_pairs(&pairs),
            ..PublishProperties::default()
        };
        passed_on.encode_forwarded(&mut forwarded);
        for version in ProtocolVersion::ALL {
            for choice in 0..16_u32 {
                for payload_size in [0, 1, 100, 127, 128, 16_383, 16_384] {
                    let payload = vec![b'x'; payload_size];
                    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                        let with = |bit: u32| choice >> bit & 1 == 1;
                        let outgoing = OutgoingPublish {
                            dup: qos > QoS::AtMostOnce,
                            qos,
                            retain: with(0),
                            topic: "room/7/light",
                            packet_id: (qos > QoS::AtMostOnce).then_some(TEN),
                            forwarded_properties: if with(0) { &forwarded } else { &[] },
                            message_expiry_interval_seconds: with(1).then_some(60),
                            topic_alias: with(2).then_some(5),
                            subscription_identifiers: if with(3) { &[1, 300, 70_000] } else { &[] },
                            payload_size,
                        };
                        check(version, &outgoing, &passed_on, &payload);
                    }
                }
            }
        }
    }

    fn check(
        version: ProtocolVersion,
        outgoing: &OutgoingPublish<'_>,
        passed_on: &PublishProperties<'_>,
        payload: &[u8],
    ) {
        let mut bytes = vec![0xEE; 3];
        let offset = outgoing.encode_header(version, &mut bytes);
        // [MQTT-2.2.1-2]
        assert_eq!(offset.is_some(), outgoing.qos > QoS::AtMostOnce);
        if let Some(offset) = offset {
            assert_eq!(bytes[offset..offset + 2], TEN.get().to_be_bytes());
        }
        bytes.extend_from_slice(payload);
        let bytes = &bytes[3..];
        assert_eq!(bytes.len(), outgoing.size(version));
        let mut properties = PublishProperties::default();
        if version.is_v5() {
            if !outgoing.forwarded_properties.is_empty() {
                properties = *passed_on;
            }
            properties.message_expiry_interval_seconds = outgoing.message_expiry_interval_seconds;
            properties.topic_alias = outgoing.topic_alias.and_then(NonZeroU16::new);
            properties.subscription_identifiers =
                SubscriptionIdentifiers::from_values(outgoing.subscription_identifiers);
        }
        let OutgoingPublish { dup, qos, retain, topic, packet_id, .. } = *outgoing;
        let publish = Publish { dup, qos, retain, topic, packet_id, properties, payload };
        reads(version, bytes, Packet::Publish(publish));
        let mut whole = Vec::new();
        publish.encode(version, &mut whole);
        assert_eq!(whole, bytes);
        assert_eq!(publish.size(version), bytes.len());
    }

    #[test]
    fn a_header_is_a_template_for_other_identifiers() {
        let outgoing = OutgoingPublish {
            qos: QoS::AtLeastOnce,
            topic: "a",
            packet_id: Some(PacketId::MIN),
            ..OutgoingPublish::default()
        };
        let mut bytes = Vec::new();
        let offset = outgoing.encode_header(V311, &mut bytes).unwrap();
        bytes[offset..offset + 2].copy_from_slice(&[0xAB, 0xCD]);
        let expected = Publish {
            qos: QoS::AtLeastOnce,
            topic: "a",
            packet_id: PacketId::new(0xABCD),
            ..Publish::default()
        };
        reads(V311, &bytes, Packet::Publish(expected));
    }

    /// The largest packet that can be written is the largest that can be read.
    #[test]
    fn size_reaches_the_largest_packet() {
        let body = crate::PACKET_SIZE_MAX as usize - 5;
        for (version, header) in [(V311, 3), (V5, 4)] {
            let payload_size = body - header;
            let outgoing =
                OutgoingPublish { topic: "a", payload_size, ..OutgoingPublish::default() };
            assert_eq!(outgoing.size(version), crate::PACKET_SIZE_MAX as usize);
            let mut bytes = Vec::new();
            outgoing.encode_header(version, &mut bytes);
            assert_eq!(bytes.len() + payload_size, crate::PACKET_SIZE_MAX as usize);
            assert_eq!(bytes[..5], [0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
        }
    }
}
