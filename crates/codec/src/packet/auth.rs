//! AUTH: one step of enhanced authentication. MQTT 5.0 only.

use crate::packet::acknowledgement::reason_code;
use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketType, ProtocolVersion, RawPacket, ReasonCode, UserProperties};

/// One step of enhanced authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    /// `Success`, `ContinueAuthentication` or `ReAuthenticate`. [MQTT-3.15.2-1]
    pub reason_code: ReasonCode,
    /// The name of the method, which must be the one of the CONNECT [MQTT-4.12.0-5]. Absent only in the short form.
    pub authentication_method: Option<&'a str>,
    /// Data of that method.
    pub authentication_data: Option<&'a [u8]>,
    /// For people reading logs.
    pub reason_string: Option<&'a str>,
    /// For the peer's own use.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    /// Decodes the packet.
    ///
    /// Section 3.15.2.1 lets a success without properties be sent without body, though 3.15.2.2.2 wants a method: that
    /// short form is accepted, any other without method is not.
    ///
    /// # Errors
    /// Everything that the specification forbids in it, and its being sent before MQTT 5.0.
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        if !version.is_v5() {
            return Err(DecodeError::PacketTypeReserved);
        }
        let mut reader = raw.open(PacketType::Auth, version)?;
        let mut auth = Self::default();
        if reader.is_empty() {
            return Ok(auth);
        }
        // [MQTT-3.15.2-1]
        auth.reason_code = reason_code(reader.u8()?, PacketType::Auth)?;
        auth.decode_properties(PropertyReader::open(&mut reader, Carrier::Auth)?)?;
        reader.finish()?;
        if auth.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(auth)
    }

    fn decode_properties(&mut self, mut reader: PropertyReader<'a>) -> Result<(), DecodeError> {
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::AuthenticationMethod(name) => self.authentication_method = Some(name),
                Property::AuthenticationData(data) => self.authentication_data = Some(data),
                Property::ReasonString(text) => self.reason_string = Some(text),
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        self.user_properties = user_properties.finish(&reader);
        Ok(())
    }

    /// Appends the packet: without body when it is the default.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.reason_code.is_allowed_in(PacketType::Auth));
        debug_assert!(self.authentication_method.is_some() || *self == Self::default());
        write::packet(PacketType::Auth, self, ProtocolVersion::V5, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self) -> usize {
        write::packet_size(self, ProtocolVersion::V5)
    }
}

impl Body for Auth<'_> {
    fn write_body(&self, _: ProtocolVersion, sink: &mut impl Sink) {
        if *self != Self::default() {
            sink.put_u8(self.reason_code as u8);
            sink.put_properties(self);
        }
    }
}

/// Its properties.
impl Content for Auth<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_string(id::AUTHENTICATION_METHOD, self.authentication_method);
        sink.put_property_binary(id::AUTHENTICATION_DATA, self.authentication_data);
        sink.put_property_string(id::REASON_STRING, self.reason_string);
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use crate::testing::{OLD, V5, is, refuses, text, wire};

    #[test]
    fn steps_of_an_authentication() {
        is(V5, &[0xF0, 0], Packet::Auth(Auth::default()));
        for (code, reason_code) in [
            (0x00, ReasonCode::Success),
            (0x18, ReasonCode::ContinueAuthentication),
            (0x19, ReasonCode::ReAuthenticate),
        ] {
            let block = [
                &[0x15][..],
                &text("SCRAM-SHA-1"),
                &[0x16],
                &text([0, 255]),
                &[0x1F],
                &text("why"),
                &[0x26],
                &text("k"),
                &text("v"),
            ]
            .concat();
            let expected = Auth {
                reason_code,
                authentication_method: Some("SCRAM-SHA-1"),
                authentication_data: Some(&[0, 255]),
                reason_string: Some("why"),
                user_properties: UserProperties::from_pairs(&[("k", "v")]),
            };
            is(V5, &wire(0xF0, &[&[code, block.len() as u8], &block]), Packet::Auth(expected));
        }
    }

    #[test]
    fn refused() {
        for (body, error) in [
            // [MQTT-3.15.2-1]
            (&[0x01, 3, 0x15, 0, 0][..], DecodeError::ReasonCodeInvalid),
            (&[0x87, 3, 0x15, 0, 0], DecodeError::ReasonCodeInvalid),
            // The property length may be left out only together with the reason code.
            (&[0x00], DecodeError::BodyTooShort),
            (&[0x18], DecodeError::BodyTooShort),
            (&[0x00, 0], DecodeError::AuthenticationMethodMissing),
            (&[0x18, 3, 0x16, 0, 0], DecodeError::AuthenticationMethodMissing),
            (&[0x18, 6, 0x15, 0, 0, 0x15, 0, 0], DecodeError::PropertyDuplicate),
            (&[0x18, 3, 0x15, 0, 0, 0], DecodeError::TrailingBytes),
            (&[0x18, 2, 0x17, 0], DecodeError::PropertyMisplaced),
        ] {
            refuses(V5, &wire(0xF0, &[body]), error);
        }
        for version in OLD {
            refuses(version, &[0xF0, 0], DecodeError::PacketTypeReserved);
        }
    }
}
