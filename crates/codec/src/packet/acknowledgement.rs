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
