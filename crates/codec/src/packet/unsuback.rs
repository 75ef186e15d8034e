//! UNSUBACK: what became of each Topic Filter of an UNSUBSCRIBE.

use crate::packet::acknowledgement::Diagnosis;
use crate::packet::reason_codes::ReasonCodes;
use crate::property::{Carrier, PropertyReader};
use crate::write::{self, Body, Sink};
use crate::{DecodeError, PacketId, PacketType, ProtocolVersion, RawPacket, UserProperties};

/// Answers an UNSUBSCRIBE. [MQTT-3.10.4-4]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// The identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter, in the order of the UNSUBSCRIBE [MQTT-3.11.3-1]; none before MQTT 5.0, and not written there.
    pub reason_codes: ReasonCodes<'a>,
    /// For people reading logs; MQTT 5.0 only.
    pub reason_string: Option<&'a str>,
    /// MQTT 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> UnsubAck<'a> {
    /// One without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, reason_codes: impl Into<ReasonCodes<'a>>) -> Self {
        Self {
            packet_id,
            reason_codes: reason_codes.into(),
            reason_string: None,
            user_properties: UserProperties::EMPTY,
        }
    }

    /// Decodes the packet.
    ///
    /// # Errors
    /// Everything that the specification forbids in it.
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = raw.open(PacketType::UnsubAck, version)?;
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            reader.finish()?;
            return Ok(Self::new(packet_id, ReasonCodes::EMPTY));
        }
        let properties = PropertyReader::open(&mut reader, Carrier::UnsubAck)?;
        let Diagnosis { reason_string, user_properties } = Diagnosis::decode(properties)?;
        let reason_codes = ReasonCodes::decode(reader.rest(), PacketType::UnsubAck, version)?;
        Ok(Self { packet_id, reason_codes, reason_string, user_properties })
    }

    /// Appends the packet; before MQTT 5.0 without properties and reason codes.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(!(self.reason_codes.is_empty() && version.is_v5()));
        write::packet(PacketType::UnsubAck, self, version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }
}

impl Body for UnsubAck<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_packet_id(self.packet_id);
        if version.is_v5() {
            let Self { reason_string, user_properties, .. } = *self;
            sink.put_properties(&Diagnosis { reason_string, user_properties });
            for code in self.reason_codes {
                debug_assert!(code.is_allowed_in(PacketType::UnsubAck));
                sink.put_u8(code as u8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OLD, TEN, V5, is, refuses, text, wire};
    use crate::{Packet, ReasonCode};

    #[test]
    fn the_old_versions_only_say_which() {
        for version in OLD {
            is(
                version,
                &[0xB0, 2, 0, 10],
                Packet::UnsubAck(UnsubAck::new(TEN, ReasonCodes::EMPTY)),
            );
            refuses(version, &[0xB0, 3, 0, 10, 0], DecodeError::TrailingBytes);
            refuses(version, &[0xB0, 2, 0, 0], DecodeError::PacketIdZero);
            refuses(version, &[0xB0, 1, 0], DecodeError::BodyTooShort);
            // Codes are not written where they cannot be read.
            let mut out = Vec::new();
            let packet = UnsubAck::new(TEN, &[ReasonCode::Success]);
            packet.encode(version, &mut out);
            assert_eq!(out, [0xB0, 2, 0, 10]);
            assert_eq!(packet.size(version), 4);
        }
    }

    /// [MQTT-3.11.3-1] [MQTT-3.11.3-2]
    #[test]
    fn v5_has_a_code_for_each_filter() {
        let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
        is(V5, &[0xB0, 5, 0, 10, 0, 0, 0x11], Packet::UnsubAck(UnsubAck::new(TEN, &codes)));
        let block = [&[0x1F][..], &text("why"), &[0x26], &text("k"), &text("v")].concat();
        let bytes = wire(0xB0, &[&[0, 10, block.len() as u8], &block, &[0x87]]);
        let expected = UnsubAck {
            reason_string: Some("why"),
            user_properties: UserProperties::from_pairs(&[("k", "v")]),
            ..UnsubAck::new(TEN, &[ReasonCode::NotAuthorized])
        };
        is(V5, &bytes, Packet::UnsubAck(expected));
        for (body, error) in [
            (&[0, 10][..], DecodeError::BodyTooShort),
            (&[0, 10, 0], DecodeError::ReasonCodesMissing),
            (&[0, 10, 0, 0x01], DecodeError::ReasonCodeInvalid),
            (&[0, 10, 0, 0, 0xFF], DecodeError::ReasonCodeInvalid),
            (&[0, 0, 0, 0], DecodeError::PacketIdZero),
            (&[0, 10, 2, 0x0B, 1, 0], DecodeError::PropertyMisplaced),
        ] {
            refuses(V5, &wire(0xB0, &[body]), error);
        }
    }
}
