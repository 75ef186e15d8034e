//! Where a packet ends: the fixed header, and nothing behind it.
//!
//! [`frame`] is called for every packet received. It needs at most five bytes to know the packet's whole size, keeps no
//! state between calls, and refuses a packet that is too large before a byte of its body has arrived, so that nothing
//! is ever proportional to a length that was only declared.

use crate::read::Reader;
use crate::variable_byte_integer::{self, Decoded};
use crate::{DecodeError, ProtocolVersion};

/// The largest packet that the encoding can express, in bytes with its fixed header: 268,435,460.
pub const PACKET_SIZE_MAX: u32 = 5 + variable_byte_integer::VALUE_MAX;

/// What a connection's bytes start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A whole packet. The next one starts [`RawPacket::size`] bytes later.
    Packet(RawPacket<'a>),
    /// Not a whole packet yet.
    Incomplete {
        /// Bytes that the packet will have in total; 0 while its header has not told.
        size_hint: usize,
    },
}

/// A packet cut out of the stream, not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPacket<'a> {
    /// The first byte of the fixed header: type in the upper four bits, flags in the lower four.
    pub first_byte: u8,
    /// Everything behind the fixed header.
    pub body: &'a [u8],
    /// Bytes of fixed header and body together.
    pub size: usize,
}

/// Cuts the first packet off `input`.
///
/// `maximum_packet_size` counts the whole packet in bytes; [`PACKET_SIZE_MAX`] or more accepts all. The remaining length
/// may be written longer than needed, which only MQTT 5.0 forbids: decoding refuses it there.
///
/// # Errors
/// A reserved packet type, a remaining length of more than four bytes, or a packet larger than the maximum.
#[inline]
pub fn frame(input: &[u8], maximum_packet_size: u32) -> Result<Framed<'_>, DecodeError> {
    let Some((&first_byte, behind)) = input.split_first() else {
        return Ok(Framed::Incomplete { size_hint: 0 });
    };
    if first_byte < 0x10 {
        return Err(DecodeError::PacketTypeReserved);
    }
    let (remaining_length, taken) = match behind.first() {
        Some(&length) if length < 0x80 => (u32::from(length), 1),
        _ => match variable_byte_integer::decode(behind)? {
            Decoded::Value(value, taken) => (value, taken),
            Decoded::Incomplete => return Ok(Framed::Incomplete { size_hint: 0 }),
        },
    };
    let header_size = 1 + taken;
    let size = header_size + remaining_length as usize;
    if size > maximum_packet_size as usize {
        return Err(DecodeError::PacketTooLarge);
    }
    Ok(match input.get(header_size..size) {
        Some(body) => Framed::Packet(RawPacket { first_byte, body, size }),
        None => Framed::Incomplete { size_hint: size },
    })
}

impl<'a> RawPacket<'a> {
    /// The type; `None` for the reserved 0, which [`frame`] never lets pass.
    #[inline]
    #[must_use]
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_u8(self.first_byte >> 4)
    }

    /// A reader of the body, once type, flags and the form of the remaining length are right.
    #[inline]
    pub(crate) fn open(
        &self,
        packet_type: PacketType,
        version: ProtocolVersion,
    ) -> Result<Reader<'a>, DecodeError> {
        if self.first_byte >> 4 != packet_type as u8 {
            return Err(DecodeError::PacketTypeUnexpected);
        }
        if self.first_byte != packet_type.first_byte()
            && !packet_type.tolerates_flags(self.first_byte & 0x0F, version)
        {
            return Err(DecodeError::HeaderFlagsInvalid);
        }
        self.check_remaining_length(version)?;
        Ok(Reader::new(self.body))
    }

    /// MQTT 5.0 wants the remaining length in as few bytes as possible. [MQTT-1.5.5-1]
    #[inline]
    pub(crate) fn check_remaining_length(
        &self,
        version: ProtocolVersion,
    ) -> Result<(), DecodeError> {
        // Two bytes of header cannot be too many, and most packets have no more.
        let taken = self.size.wrapping_sub(self.body.len()).wrapping_sub(1);
        if taken > 1
            && version.is_v5()
            && !variable_byte_integer::is_minimal(self.body.len() as u32, taken)
        {
            return Err(DecodeError::VariableByteIntegerNotMinimal);
        }
        Ok(())
    }
}

/// The type of a control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Client asks for a connection.
    Connect = 1,
    /// Server answers it.
    ConnAck = 2,
    /// A publication, either way.
    Publish = 3,
    /// Answers a QoS 1 PUBLISH.
    PubAck = 4,
    /// Answers a QoS 2 PUBLISH.
    PubRec = 5,
    /// Answers a PUBREC.
    PubRel = 6,
    /// Answers a PUBREL.
    PubComp = 7,
    /// Client subscribes.
    Subscribe = 8,
    /// Server answers it.
    SubAck = 9,
    /// Client unsubscribes.
    Unsubscribe = 10,
    /// Server answers it.
    UnsubAck = 11,
    /// Client asks for a sign of life.
    PingReq = 12,
    /// Server gives it.
    PingResp = 13,
    /// The last packet; only the client sends it before MQTT 5.0.
    Disconnect = 14,
    /// Enhanced authentication, MQTT 5.0 only.
    Auth = 15,
}

impl PacketType {
    /// All types, by number.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::PingReq,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The type of this number; `None` outside 1 to 15.
    #[inline]
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1..=15 => Some(Self::ALL[value as usize - 1]),
            _ => None,
        }
    }

    /// Whether a client may send it. A server that receives any other has met a protocol error.
    #[must_use]
    pub const fn sent_by_client(self) -> bool {
        !matches!(self, Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp)
    }

    /// The first byte with the reserved flags as they must be [MQTT-2.1.3-1]; of PUBLISH, with all its flags clear.
    #[inline]
    #[must_use]
    pub const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }

    /// Whether a version lets these flags pass though they are not the ones of 3.1.1 and 5.0.
    ///
    /// MQTT 3.1 knows DUP, QoS and RETAIN on every packet: where a request is sent at QoS 1 it may be repeated with DUP
    /// and RETAIN is not used, and where none is used the receiver does not look.
    const fn tolerates_flags(self, flags: u8, version: ProtocolVersion) -> bool {
        match (version, self) {
            (_, Self::Publish) => true,
            (ProtocolVersion::V31, Self::PubRel | Self::Subscribe | Self::Unsubscribe) => {
                flags & 0b0110 == 0b0010
            }
            (ProtocolVersion::V31, _) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{V5, V31, V311, is, refuses};
    use crate::{Packet, decode};

    const NO_LIMIT: u32 = PACKET_SIZE_MAX;

    #[test]
    fn cuts_one_packet_and_leaves_the_rest() {
        let input = [0xC0, 0x00, 0x30, 0x03, 0x00, 0x01, b'a', 0xD0];
        let Ok(Framed::Packet(first)) = frame(&input, NO_LIMIT) else { panic!() };
        assert_eq!((first.first_byte, first.body, first.size), (0xC0, &[][..], 2));
        assert_eq!(first.packet_type(), Some(PacketType::PingReq));
        let Ok(Framed::Packet(second)) = frame(&input[first.size..], NO_LIMIT) else { panic!() };
        assert_eq!((second.body, second.size), (&input[4..7], 5));
        let third = frame(&input[7..], NO_LIMIT);
        assert_eq!(third, Ok(Framed::Incomplete { size_hint: 0 }));
    }

    #[test]
    fn tells_how_many_bytes_to_wait_for() {
        for (input, size_hint) in [
            (&[][..], 0),
            (&[0x30], 0),
            (&[0x30, 0x80], 0),
            (&[0x30, 0x80, 0x80], 0),
            (&[0x30, 0x80, 0x80, 0x80], 0),
            (&[0x30, 0x05], 7),
            (&[0x30, 0x05, 1, 2, 3, 4], 7),
            (&[0x30, 0x80, 0x01], 131),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 268_435_460),
        ] {
            assert_eq!(
                frame(input, NO_LIMIT),
                Ok(Framed::Incomplete { size_hint }),
                "{input:02X?}"
            );
        }
    }

    #[test]
    fn refuses_from_the_header_alone() {
        for (input, error) in [
            (&[0x00][..], DecodeError::PacketTypeReserved),
            (&[0x0F, 0x00], DecodeError::PacketTypeReserved),
            (&[0x30, 0x80, 0x80, 0x80, 0x80], DecodeError::VariableByteIntegerTooLong),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], DecodeError::VariableByteIntegerTooLong),
        ] {
            assert_eq!(frame(input, NO_LIMIT), Err(error), "{input:02X?}");
        }
    }

    /// [MQTT-3.2.2-15]: the limit counts the whole packet, and holds before the body has arrived.
    #[test]
    fn the_limit_counts_the_fixed_header() {
        let input = [0x30, 0x05, 0, 1, b'a', 1, 2];
        assert!(matches!(frame(&input, 7), Ok(Framed::Packet(_))));
        assert_eq!(frame(&input, 6), Err(DecodeError::PacketTooLarge));
        assert_eq!(frame(&input[..2], 6), Err(DecodeError::PacketTooLarge));
        assert_eq!(frame(&input[..2], 7), Ok(Framed::Incomplete { size_hint: 7 }));
        assert_eq!(frame(&[0xC0, 0x00], 0), Err(DecodeError::PacketTooLarge));
        assert!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], u32::MAX).is_ok());
    }

    /// [MQTT-1.5.5-1] is a statement of MQTT 5.0; MQTT 3.1 and 3.1.1 describe the shortest form but demand none.
    #[test]
    fn a_remaining_length_longer_than_needed_is_refused_in_v5_only() {
        for bytes in [&[0xC0, 0x80, 0x00][..], &[0xC0, 0x80, 0x80, 0x80, 0x00]] {
            let Ok(Framed::Packet(raw)) = frame(bytes, NO_LIMIT) else { panic!() };
            assert_eq!(raw.size, bytes.len());
            assert_eq!(decode(raw, V31), Ok(Packet::PingReq));
            assert_eq!(decode(raw, V311), Ok(Packet::PingReq));
            refuses(V5, bytes, DecodeError::VariableByteIntegerNotMinimal);
        }
        let publish = [0x30, 0x85, 0x00, 0, 1, b'a', 0, 2];
        refuses(V5, &publish, DecodeError::VariableByteIntegerNotMinimal);
        let connect = [0x10, 0x8D, 0, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0];
        refuses(V5, &connect, DecodeError::VariableByteIntegerNotMinimal);
    }

    /// [MQTT-2.1.3-1] [MQTT-2.2.2-2 @3.1.1]; with the tags of single packets: [MQTT-3.6.1-1] [MQTT-3.8.1-1]
    /// [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1].
    #[test]
    fn reserved_flags_are_as_the_type_requires() {
        for packet_type in PacketType::ALL {
            if packet_type == PacketType::Publish {
                continue;
            }
            for flags in 0..16 {
                let raw =
                    RawPacket { first_byte: (packet_type as u8) << 4 | flags, body: &[], size: 2 };
                let required = packet_type.first_byte() & 0x0F;
                for version in [V311, V5] {
                    let expected = flags == required;
                    assert_eq!(raw.open(packet_type, version).is_ok(), expected, "{packet_type:?}");
                }
                // MQTT 3.1 has DUP on requests at QoS 1, and looks at no other flag.
                let expected = required == 0 || flags & 0b0110 == 0b0010;
                assert_eq!(raw.open(packet_type, V31).is_ok(), expected, "{packet_type:?} {flags}");
            }
        }
    }

    #[test]
    fn requests_of_mqtt_3_1_may_be_repeated_with_dup() {
        for bytes in [
            &[0x8A, 0x06, 0, 10, 0, 1, b'a', 0][..],
            &[0xAA, 0x05, 0, 10, 0, 1, b'a'],
            &[0x6A, 0x02, 0, 10],
        ] {
            assert!(crate::testing::decode(V31, bytes).is_ok(), "{bytes:02X?}");
            refuses(V311, bytes, DecodeError::HeaderFlagsInvalid);
            refuses(V5, bytes, DecodeError::HeaderFlagsInvalid);
        }
    }

    #[test]
    fn auth_is_a_reserved_type_before_v5() {
        refuses(V31, &[0xF0, 0x00], DecodeError::PacketTypeReserved);
        refuses(V311, &[0xF0, 0x00], DecodeError::PacketTypeReserved);
        is(V5, &[0xF0, 0x00], Packet::Auth(crate::Auth::default()));
    }

    #[test]
    fn a_raw_packet_made_by_hand_cannot_panic() {
        for size in [0, 1, usize::MAX] {
            for first_byte in 0..=u8::MAX {
                for version in ProtocolVersion::ALL {
                    let _ = decode(RawPacket { first_byte, body: &[0, 1, b'a'], size }, version);
                }
            }
        }
    }

    #[test]
    fn only_servers_send_these() {
        let servers_only = PacketType::ALL.into_iter().filter(|packet| !packet.sent_by_client());
        assert_eq!(
            servers_only.collect::<Vec<_>>(),
            [PacketType::ConnAck, PacketType::SubAck, PacketType::UnsubAck, PacketType::PingResp]
        );
    }
}
