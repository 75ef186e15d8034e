//! SUBACK: what became of each Topic Filter of a SUBSCRIBE.

use crate::packet::acknowledgement::Diagnosis;
use crate::packet::reason_codes::ReasonCodes;
use crate::property::{Carrier, PropertyReader};
use crate::write::{self, Body, Sink};
use crate::{DecodeError, PacketId, PacketType, ProtocolVersion, RawPacket, UserProperties};

/// Answers a SUBSCRIBE. [MQTT-3.8.4-1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The identifier of the SUBSCRIBE. [MQTT-3.8.4-2]
    pub packet_id: PacketId,
    /// One for each filter, in the order of the SUBSCRIBE. [MQTT-3.8.4-6] [MQTT-3.9.3-1]
    pub reason_codes: ReasonCodes<'a>,
    /// For people reading logs; MQTT 5.0 only.
    pub reason_string: Option<&'a str>,
    /// MQTT 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> SubAck<'a> {
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
        let mut reader = raw.open(PacketType::SubAck, version)?;
        let packet_id = reader.packet_id()?;
        let Diagnosis { reason_string, user_properties } = match version.is_v5() {
            true => Diagnosis::decode(PropertyReader::open(&mut reader, Carrier::SubAck)?)?,
            false => Diagnosis::default(),
        };
        let reason_codes = ReasonCodes::decode(reader.rest(), PacketType::SubAck, version)?;
        Ok(Self { packet_id, reason_codes, reason_string, user_properties })
    }

    /// Appends the packet; before MQTT 5.0 without properties and with the return codes of that version.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(!self.reason_codes.is_empty());
        write::packet(PacketType::SubAck, self, version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }
}

impl Body for SubAck<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_packet_id(self.packet_id);
        if version.is_v5() {
            let Self { reason_string, user_properties, .. } = *self;
            sink.put_properties(&Diagnosis { reason_string, user_properties });
        }
        for code in self.reason_codes {
            debug_assert!(code.is_allowed_in(PacketType::SubAck));
            sink.put_u8(code.subscribe_byte(version));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OLD, TEN, V5, V31, V311, is, refuses, text, wire};
    use crate::{Packet, ReasonCode};
    use ReasonCode::{GrantedQoS1, GrantedQoS2, NotAuthorized, Success, UnspecifiedError};

    #[test]
    fn one_code_for_each_filter() {
        let granted = [Success, GrantedQoS1, GrantedQoS2];
        for version in OLD {
            is(version, &[0x90, 5, 0, 10, 0, 1, 2], Packet::SubAck(SubAck::new(TEN, &granted)));
        }
        is(V5, &[0x90, 6, 0, 10, 0, 0, 1, 2], Packet::SubAck(SubAck::new(TEN, &granted)));
        let failed = [UnspecifiedError];
        is(V311, &[0x90, 3, 0, 10, 0x80], Packet::SubAck(SubAck::new(TEN, &failed)));
        is(V5, &[0x90, 4, 0, 10, 0, 0x80], Packet::SubAck(SubAck::new(TEN, &failed)));
    }

    /// MQTT 3.1.1 has one failure [MQTT-3.9.3-2 @3.1.1]; 3.1 has none, and must make a positive acknowledgement.
    #[test]
    fn failures_in_the_words_of_each_version() {
        let codes = [NotAuthorized, GrantedQoS1];
        for (version, expected) in [
            (V31, &[0x90, 4, 0, 10, 0x00, 1][..]),
            (V311, &[0x90, 4, 0, 10, 0x80, 1]),
            (V5, &[0x90, 5, 0, 10, 0, 0x87, 1]),
        ] {
            let packet = SubAck::new(TEN, &codes);
            let mut out = Vec::new();
            packet.encode(version, &mut out);
            assert_eq!(out, expected);
            assert_eq!(packet.size(version), expected.len());
        }
    }

    #[test]
    fn v5_has_properties() {
        let block = [&[0x26][..], &text("k"), &text("v"), &[0x1F], &text("why")].concat();
        let bytes = wire(0x90, &[&[0, 10, block.len() as u8], &block, &[1]]);
        let expected = SubAck {
            reason_string: Some("why"),
            user_properties: UserProperties::from_pairs(&[("k", "v")]),
            ..SubAck::new(TEN, &[GrantedQoS1])
        };
        crate::testing::reads(V5, &bytes, Packet::SubAck(expected));
        let mut out = Vec::new();
        expected.encode(V5, &mut out);
        is(V5, &out, Packet::SubAck(expected));
    }

    #[test]
    fn refused() {
        for version in ProtocolVersion::ALL {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            for (first, codes, error) in [
                // [MQTT-3.9.3-1]
                (&[0, 10][..], &[][..], DecodeError::ReasonCodesMissing),
                // [MQTT-3.9.3-2] [MQTT-3.9.3-2 @3.1.1]
                (&[0, 10], &[3], DecodeError::ReasonCodeInvalid),
                (&[0, 10], &[0, 0x7F], DecodeError::ReasonCodeInvalid),
                (&[0, 10], &[0, 0xFF, 0], DecodeError::ReasonCodeInvalid),
                (&[0, 10], &[0x11], DecodeError::ReasonCodeInvalid),
                (&[0, 0], &[0], DecodeError::PacketIdZero),
            ] {
                refuses(version, &wire(0x90, &[first, properties, codes]), error);
            }
            refuses(version, &[0x90, 1, 0], DecodeError::BodyTooShort);
        }
        refuses(V31, &[0x90, 3, 0, 10, 0x80], DecodeError::ReasonCodeInvalid);
        refuses(V311, &[0x90, 3, 0, 10, 0x87], DecodeError::ReasonCodeInvalid);
        refuses(V5, &[0x90, 2, 0, 10], DecodeError::BodyTooShort);
        refuses(V5, &[0x90, 6, 0, 10, 2, 0x11, 0, 0], DecodeError::PropertyMisplaced);
    }

    #[test]
    fn codes_are_found_by_place() {
        let Ok(Packet::SubAck(packet)) = crate::testing::decode(V311, &[0x90, 4, 0, 10, 2, 0x80])
        else {
            panic!()
        };
        assert_eq!(packet.reason_codes.len(), 2);
        assert_eq!(packet.reason_codes.at(0), Some(GrantedQoS2));
        assert_eq!(packet.reason_codes.at(1), Some(UnspecifiedError));
        assert_eq!(packet.reason_codes.at(2), None);
        assert_eq!(packet.reason_codes.iter().len(), 2);
    }
}
