//! DISCONNECT: the last packet of a connection.
//!
//! Before MQTT 5.0 only a client sends it, and it says nothing. In MQTT 5.0 both sides do, with a reason; reason and
//! properties are left out from the end.

use crate::packet::acknowledgement::reason_code;
use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketType, ProtocolVersion, RawPacket, ReasonCode, UserProperties};

/// Ends a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// `Success` is "Normal disconnection": the Will is dropped. [MQTT-3.14.4-3]
    pub reason_code: ReasonCode,
    /// Overrides that of the CONNECT, in seconds. From a client only [MQTT-3.14.2-2]; MQTT 5.0 only.
    pub session_expiry_interval_seconds: Option<u32>,
    /// For people reading logs; MQTT 5.0 only.
    pub reason_string: Option<&'a str>,
    /// Another server to use; from a server only; MQTT 5.0 only.
    pub server_reference: Option<&'a str>,
    /// MQTT 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// One without properties.
    #[must_use]
    pub fn new(reason_code: ReasonCode) -> Self {
        Self { reason_code, ..Self::default() }
    }

    /// Decodes the packet.
    ///
    /// # Errors
    /// Everything that the specification forbids in it, whoever sends it.
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = raw.open(PacketType::Disconnect, version)?;
        let mut disconnect = Self::default();
        if version.is_v5() && !reader.is_empty() {
            // [MQTT-3.14.2-1]
            disconnect.reason_code = reason_code(reader.u8()?, PacketType::Disconnect)?;
            if !reader.is_empty() {
                disconnect
                    .decode_properties(PropertyReader::open(&mut reader, Carrier::Disconnect)?)?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    fn decode_properties(&mut self, mut reader: PropertyReader<'a>) -> Result<(), DecodeError> {
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    self.session_expiry_interval_seconds = Some(seconds);
                }
                Property::ReasonString(text) => self.reason_string = Some(text),
                Property::ServerReference(text) => self.server_reference = Some(text),
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        self.user_properties = user_properties.finish(&reader);
        Ok(())
    }

    /// Appends the packet; before MQTT 5.0 its two bytes only.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(!version.is_v5() || self.reason_code.is_allowed_in(PacketType::Disconnect));
        write::packet(PacketType::Disconnect, self, version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }

    fn has_properties(&self) -> bool {
        self.session_expiry_interval_seconds.is_some()
            || self.reason_string.is_some()
            || self.server_reference.is_some()
            || !self.user_properties.is_empty()
    }
}

impl Body for Disconnect<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        let has_properties = self.has_properties();
        if !version.is_v5() || self.reason_code == ReasonCode::Success && !has_properties {
            return;
        }
        sink.put_u8(self.reason_code as u8);
        if has_properties {
            sink.put_properties(self);
        }
    }
}

/// Its properties.
impl Content for Disconnect<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_u32(id::SESSION_EXPIRY_INTERVAL, self.session_expiry_interval_seconds);
        sink.put_property_string(id::REASON_STRING, self.reason_string);
        sink.put_property_string(id::SERVER_REFERENCE, self.server_reference);
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use crate::testing::{OLD, V5, is, reads, refuses, text, wire};

    #[test]
    fn the_old_versions_say_nothing() {
        for version in OLD {
            is(version, &[0xE0, 0], Packet::Disconnect(Disconnect::default()));
            refuses(version, &[0xE0, 1, 0], DecodeError::TrailingBytes);
            let mut out = Vec::new();
            let packet = Disconnect::new(ReasonCode::ServerBusy);
            packet.encode(version, &mut out);
            assert_eq!(out, [0xE0, 0]);
            assert_eq!(packet.size(version), 2);
        }
    }

    #[test]
    fn v5_leaves_out_from_the_end() {
        is(V5, &[0xE0, 0], Packet::Disconnect(Disconnect::default()));
        is(V5, &[0xE0, 1, 0x8E], Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver)));
        reads(V5, &[0xE0, 1, 0], Packet::Disconnect(Disconnect::default()));
        reads(V5, &[0xE0, 2, 0, 0], Packet::Disconnect(Disconnect::default()));
        let with_will = Disconnect::new(ReasonCode::DisconnectWithWill);
        reads(V5, &[0xE0, 2, 4, 0], Packet::Disconnect(with_will));
    }

    #[test]
    fn v5_has_properties() {
        let block = [
            &[0x11, 0, 0, 0, 60, 0x1F][..],
            &text("why"),
            &[0x1C],
            &text("other"),
            &[0x26],
            &text("k"),
            &text("v"),
        ]
        .concat();
        let bytes = wire(0xE0, &[&[0x9C, block.len() as u8], &block]);
        let expected = Disconnect {
            reason_code: ReasonCode::UseAnotherServer,
            session_expiry_interval_seconds: Some(60),
            reason_string: Some("why"),
            server_reference: Some("other"),
            user_properties: UserProperties::from_pairs(&[("k", "v")]),
        };
        is(V5, &bytes, Packet::Disconnect(expected));
        let expiry =
            Disconnect { session_expiry_interval_seconds: Some(0), ..Disconnect::default() };
        is(V5, &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0], Packet::Disconnect(expiry));
    }

    #[test]
    fn refused_in_v5() {
        for (body, error) in [
            // [MQTT-3.14.2-1]
            (&[0x01][..], DecodeError::ReasonCodeInvalid),
            (&[0x84], DecodeError::ReasonCodeInvalid),
            (&[0x92], DecodeError::ReasonCodeInvalid),
            (&[0xFF], DecodeError::ReasonCodeInvalid),
            (&[0, 1], DecodeError::BodyTooShort),
            (&[0, 0, 0], DecodeError::TrailingBytes),
            (&[0, 2, 0x17, 1], DecodeError::PropertyMisplaced),
            (&[0, 10, 0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1], DecodeError::PropertyDuplicate),
        ] {
            refuses(V5, &wire(0xE0, &[body]), error);
        }
    }
}
