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
