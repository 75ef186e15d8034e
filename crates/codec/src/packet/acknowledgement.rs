//! What PUBACK, PUBREC, PUBREL and PUBCOMP have in common: everything but their name and their reason codes.
//!
//! In MQTT 5.0 reason code and properties are left out from the end: two bytes mean success, three a reason
//! without properties. Older versions have the two bytes only.

use crate::property::{Carrier, Property, PropertyReader, PropertySink, id};
use crate::user_properties::Collector;
use crate::write::{Content, Sink};
use crate::{
    DecodeError, PacketId, PacketType, ProtocolVersion, RawPacket, ReasonCode, UserProperties,
};

/// The fields of each of the four.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) packet_id: PacketId,
    pub(crate) reason_code: ReasonCode,
    pub(crate) diagnosis: Diagnosis<'a>,
}

impl<'a> Fields<'a> {
    #[inline]
    pub(crate) fn decode(
        raw: RawPacket<'a>,
        packet_type: PacketType,
        carrier: Carrier,
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let mut reader = raw.open(packet_type, version)?;
        let packet_id = reader.packet_id()?;
        let mut fields =
            Self { packet_id, reason_code: ReasonCode::Success, diagnosis: Diagnosis::default() };
        if version.is_v5() && !reader.is_empty() {
            fields.reason_code = reason_code(reader.u8()?, packet_type)?;
            if !reader.is_empty() {
                fields.diagnosis = Diagnosis::decode(PropertyReader::open(&mut reader, carrier)?)?;
            }
        }
        reader.finish()?;
        Ok(fields)
    }

    #[inline]
    pub(crate) fn encode(
        &self,
        packet_type: PacketType,
        version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) {
        let [high, low] = self.packet_id.get().to_be_bytes();
        if self.is_short(version) {
            out.put(&[packet_type.first_byte(), 2, high, low]);
            return;
        }
        debug_assert!(self.reason_code.is_allowed_in(packet_type));
        out.put_u8(packet_type.first_byte());
        out.put_variable_byte_integer(self.body_size(version) as u32);
        out.put(&[high, low, self.reason_code as u8]);
        if !self.diagnosis.is_empty() {
            out.put_properties(&self.diagnosis);
        }
    }

    pub(crate) fn size(&self, version: ProtocolVersion) -> usize {
        crate::write::with_header(self.body_size(version))
    }

    fn body_size(&self, version: ProtocolVersion) -> usize {
        if self.is_short(version) {
            2
        } else if self.diagnosis.is_empty() {
            3
        } else {
            3 + crate::write::properties_size(&self.diagnosis)
        }
    }

    /// Whether the Packet Identifier says it all.
    fn is_short(&self, version: ProtocolVersion) -> bool {
        !version.is_v5() || self.reason_code == ReasonCode::Success && self.diagnosis.is_empty()
    }
}

/// A reason code byte that must belong to this packet.
pub(crate) fn reason_code(byte: u8, packet_type: PacketType) -> Result<ReasonCode, DecodeError> {
    ReasonCode::from_u8(byte)
        .filter(|reason_code| reason_code.is_allowed_in(packet_type))
        .ok_or(DecodeError::ReasonCodeInvalid)
}

/// The properties that every acknowledgement has, and no others: for people, not for programs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Diagnosis<'a> {
    pub(crate) reason_string: Option<&'a str>,
    pub(crate) user_properties: UserProperties<'a>,
}

impl<'a> Diagnosis<'a> {
    pub(crate) fn decode(mut properties: PropertyReader<'a>) -> Result<Self, DecodeError> {
        let mut reason_string = None;
        let mut user_properties = Collector::default();
        while let Some(property) = properties.next()? {
            match property {
                Property::ReasonString(text) => reason_string = Some(text),
                Property::UserProperty(name, value) => {
                    user_properties.add(&properties, name, value);
                }
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        Ok(Self { reason_string, user_properties: user_properties.finish(&properties) })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl Content for Diagnosis<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.put_property_string(id::REASON_STRING, self.reason_string);
        self.user_properties.write(sink);
    }
}

/// Defines one of the four packets.
macro_rules! acknowledgement {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            /// The identifier of the PUBLISH that this exchange is about.
            pub packet_id: crate::PacketId,
            /// The outcome; always `Success` before MQTT 5.0.
            pub reason_code: crate::ReasonCode,
            /// For people reading logs; MQTT 5.0 only. Sent only to a peer that did not refuse problem information.
            pub reason_string: Option<&'a str>,
            /// MQTT 5.0 only.
            pub user_properties: crate::UserProperties<'a>,
        }

        impl<'a> $name<'a> {
            const TYPE: crate::PacketType = crate::PacketType::$name;

            /// One without properties.
            #[inline]
            #[must_use]
            pub const fn new(packet_id: crate::PacketId, reason_code: crate::ReasonCode) -> Self {
                let user_properties = crate::UserProperties::EMPTY;
                Self { packet_id, reason_code, reason_string: None, user_properties }
            }

            /// Decodes the packet.
            ///
            /// # Errors
            /// Everything that the specification forbids in it.
            #[inline]
            pub fn decode(
                raw: crate::RawPacket<'a>,
                version: crate::ProtocolVersion,
            ) -> Result<Self, crate::DecodeError> {
                let carrier = crate::property::Carrier::$name;
                let fields = crate::packet::acknowledgement::Fields::decode(
                    raw, Self::TYPE, carrier, version,
                )?;
                Ok(Self {
                    packet_id: fields.packet_id,
                    reason_code: fields.reason_code,
                    reason_string: fields.diagnosis.reason_string,
                    user_properties: fields.diagnosis.user_properties,
                })
            }

            /// Appends the packet; before MQTT 5.0 without reason code and properties.
            #[inline]
            pub fn encode(&self, version: crate::ProtocolVersion, out: &mut Vec<u8>) {
                self.fields().encode(Self::TYPE, version, out);
            }

            /// Bytes that [`encode`](Self::encode) appends.
            #[must_use]
            pub fn size(&self, version: crate::ProtocolVersion) -> usize {
                self.fields().size(version)
            }

            #[inline]
            const fn fields(&self) -> crate::packet::acknowledgement::Fields<'a> {
                crate::packet::acknowledgement::Fields {
                    packet_id: self.packet_id,
                    reason_code: self.reason_code,
                    diagnosis: crate::packet::acknowledgement::Diagnosis {
                        reason_string: self.reason_string,
                        user_properties: self.user_properties,
                    },
                }
            }
        }
    };
}
pub(crate) use acknowledgement;

/// The tests of all four packets: each row says how its bytes differ.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OLD, TEN, V5, V31, is, reads, refuses, text, wire};
    use crate::{Packet, PubAck, PubComp, PubRec, PubRel};

    /// A packet of one of the four types.
    fn packet<'a>(packet_type: PacketType, fields: Fields<'a>) -> Packet<'a> {
        let Fields { packet_id, reason_code, diagnosis } = fields;
        let Diagnosis { reason_string, user_properties } = diagnosis;
        macro_rules! build {
            ($name:ident) => {
                Packet::$name($name { packet_id, reason_code, reason_string, user_properties })
            };
        }
        match packet_type {
            PacketType::PubAck => build!(PubAck),
            PacketType::PubRec => build!(PubRec),
            PacketType::PubRel => build!(PubRel),
            PacketType::PubComp => build!(PubComp),
            _ => unreachable!("only the four"),
        }
    }

    fn plain(reason_code: ReasonCode) -> Fields<'static> {
        Fields { packet_id: TEN, reason_code, diagnosis: Diagnosis::default() }
    }

    /// Type, first byte, and a reason code that it may have beside success.
    const FOUR: [(PacketType, u8, ReasonCode); 4] = [
        (PacketType::PubAck, 0x40, ReasonCode::NoMatchingSubscribers),
        (PacketType::PubRec, 0x50, ReasonCode::QuotaExceeded),
        (PacketType::PubRel, 0x62, ReasonCode::PacketIdentifierNotFound),
        (PacketType::PubComp, 0x70, ReasonCode::PacketIdentifierNotFound),
    ];

    #[test]
    fn success_is_two_bytes_in_every_version() {
        for (packet_type, first_byte, _) in FOUR {
            let expected = packet(packet_type, plain(ReasonCode::Success));
            for version in ProtocolVersion::ALL {
                is(version, &[first_byte, 2, 0, 10], expected);
                let zero = [first_byte, 2, 0, 0];
                // [MQTT-2.2.1-3] [MQTT-2.2.1-4]
                refuses(version, &zero, DecodeError::PacketIdZero);
                refuses(version, &[first_byte, 1, 0], DecodeError::BodyTooShort);
                refuses(version, &[first_byte, 0], DecodeError::BodyTooShort);
            }
        }
    }

    #[test]
    fn the_old_versions_have_nothing_more() {
        for (packet_type, first_byte, reason_code) in FOUR {
            for version in OLD {
                let bytes = [first_byte, 3, 0, 10, 0];
                refuses(version, &bytes, DecodeError::TrailingBytes);
                // A reason is not written where it cannot be read.
                let mut out = Vec::new();
                packet(packet_type, plain(reason_code)).encode(version, &mut out);
                assert_eq!(out, [first_byte, 2, 0, 10]);
            }
        }
    }

    /// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
    #[test]
    fn v5_has_a_reason_and_properties() {
        for (packet_type, first_byte, reason_code) in FOUR {
            let code = reason_code as u8;
            is(V5, &[first_byte, 3, 0, 10, code], packet(packet_type, plain(reason_code)));
            // Longer forms that are legal though a shorter one would do.
            let success = packet(packet_type, plain(ReasonCode::Success));
            reads(V5, &[first_byte, 3, 0, 10, 0], success);
            reads(V5, &[first_byte, 4, 0, 10, 0, 0], success);
            let failure = packet(packet_type, plain(reason_code));
            reads(V5, &[first_byte, 4, 0, 10, code, 0], failure);

            let block = [&[0x1F][..], &text("why"), &[0x26], &text("k"), &text("v")].concat();
            let diagnosis = Diagnosis {
                reason_string: Some("why"),
                user_properties: UserProperties::from_pairs(&[("k", "v")]),
            };
            for reason_code in [ReasonCode::Success, reason_code] {
                let fields = Fields { diagnosis, ..plain(reason_code) };
                let bytes =
                    wire(first_byte, &[&[0, 10, reason_code as u8, block.len() as u8], &block]);
                is(V5, &bytes, packet(packet_type, fields));
            }
        }
    }

    #[test]
    fn refused_in_v5() {
        for (_, first_byte, _) in FOUR {
            for (body, error) in [
                // Known elsewhere, known nowhere.
                (&[0, 10, 0x8E][..], DecodeError::ReasonCodeInvalid),
                (&[0, 10, 0x03], DecodeError::ReasonCodeInvalid),
                (&[0, 10, 0xFF], DecodeError::ReasonCodeInvalid),
                (&[0, 10, 0, 1], DecodeError::BodyTooShort),
                (&[0, 10, 0, 0, 0], DecodeError::TrailingBytes),
                (&[0, 10, 0, 3, 0x1F, 0, 0, 9], DecodeError::TrailingBytes),
                (&[0, 10, 0, 0x80, 0], DecodeError::VariableByteIntegerNotMinimal),
                (&[0, 10, 0, 6, 0x1F, 0, 0, 0x1F, 0, 0], DecodeError::PropertyDuplicate),
                (&[0, 10, 0, 2, 0x0B, 1], DecodeError::PropertyMisplaced),
                (&[0, 10, 0, 2, 0x00, 1], DecodeError::PropertyUnknown),
                (&[0, 10, 0, 4, 0x1F, 0, 1, 0xFF], DecodeError::StringNotUtf8),
            ] {
                refuses(V5, &wire(first_byte, &[body]), error);
            }
        }
    }

    #[test]
    fn mqtt_3_1_ignores_flags_it_does_not_use() {
        reads(V31, &[0x4F, 2, 0, 10], packet(PacketType::PubAck, plain(ReasonCode::Success)));
    }
}
