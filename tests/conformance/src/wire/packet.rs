//! What a server may send, read strictly.

use super::property::decode_properties;
use super::{Ack, Auth, Disconnect, Property, Publish, Reader, Version};

/// The kind of a packet that a server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub enum Kind {
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    SubAck = 9,
    UnsubAck = 11,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Publish,
        Self::ConnAck,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::SubAck,
        Self::UnsubAck,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];
    /// Every kind that may carry a Reason String.
    pub(super) const ALL_BUT_PUBLISH: [Self; 9] = [
        Self::ConnAck,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::SubAck,
        Self::UnsubAck,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The reason codes of 5.0 that a server may use in this kind of packet.
    fn reason_codes(self) -> &'static [u8] {
        match self {
            Self::ConnAck => &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90,
                0x95, 0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
            ],
            Self::PubAck | Self::PubRec => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            Self::PubRel | Self::PubComp => &[0x00, 0x92],
            Self::SubAck => {
                &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]
            }
            Self::UnsubAck => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91],
            Self::Disconnect => &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94,
                0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
            ],
            Self::Auth => &[0x00, 0x18],
            Self::Publish | Self::PingResp => &[],
        }
    }

    fn reason_code(self, reader: &mut Reader<'_>) -> u8 {
        let code = reader.u8();
        assert!(self.reason_codes().contains(&code), "reason code {code:#04x} in a {self:?}");
        code
    }
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the broker had a session (false in 3.1, where the byte is reserved).
    pub session_present: bool,
    /// Return code or reason code.
    pub code: u8,
    /// Empty before 5.0.
    pub properties: Vec<Property>,
}

/// SUBACK or UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Packet identifier.
    pub id: u16,
    /// One for each filter; empty in an UNSUBACK before 5.0.
    pub codes: Vec<u8>,
    /// Empty before 5.0.
    pub properties: Vec<Property>,
}

/// A packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    SubAck(SubAck),
    UnsubAck(SubAck),
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

impl From<Ack> for Packet {
    fn from(ack: Ack) -> Self {
        Self::Ack(ack)
    }
}

impl From<Publish> for Packet {
    fn from(publish: Publish) -> Self {
        Self::Publish(publish)
    }
}

impl Packet {
    /// Takes one packet from the front of what was received, if it is whole.
    ///
    /// # Panics
    ///
    /// On anything that a server must not send: see the statements cited below.
    #[must_use]
    pub fn take(input: &mut Vec<u8>, version: Version) -> Option<Self> {
        let length_size = 1 + input.iter().skip(1).position(|byte| byte & 0x80 == 0)?;
        let remaining = Reader::new(&input[1..=length_size]).variable() as usize;
        let size = 1 + length_size + remaining;
        if input.len() < size {
            return None;
        }
        let whole: Vec<u8> = input.drain(..size).collect();
        Some(Self::decode(whole[0], &whole[1 + length_size..], version))
    }

    fn decode(first_byte: u8, body: &[u8], version: Version) -> Self {
        let number = first_byte >> 4;
        let kind = *Kind::ALL
            .iter()
            .find(|kind| **kind as u8 == number)
            .unwrap_or_else(|| panic!("packet type {number} is not for servers to send"));
        let flags = first_byte & 0x0f;
        // [MQTT-2.1.3-1] [MQTT-2.2.2-1 @3.1.1] [MQTT-3.6.1-1]
        match kind {
            Kind::Publish => {}
            Kind::PubRel if version == Version::V31 => assert_eq!(flags & 0b0111, 0b0010),
            Kind::PubRel => assert_eq!(flags, 0b0010, "flags of PUBREL"),
            _ => assert_eq!(flags, 0, "flags of {kind:?}"),
        }
        let mut reader = Reader::new(body);
        let properties = |reader: &mut Reader<'_>| match version {
            Version::V5 => decode_properties(reader, kind),
            _ => Vec::new(),
        };
        let packet = match kind {
            Kind::ConnAck => {
                // [MQTT-3.2.2-1]
                let flags = reader.u8();
                assert_eq!(flags & 0xfe, 0, "reserved acknowledge flags");
                assert!(flags == 0 || version != Version::V31, "reserved in 3.1");
                let code = if version.is_v5() {
                    kind.reason_code(&mut reader) // [MQTT-3.2.2-8]
                } else {
                    reader.u8()
                };
                assert!(version.is_v5() || code <= 5, "return code {code} of CONNACK");
                let properties = properties(&mut reader);
                Self::ConnAck(ConnAck { session_present: flags == 1, code, properties })
            }
            Kind::Publish => Self::Publish(Publish::decode(flags, &mut reader, version)),
            Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp => {
                let id = reader.packet_id();
                let (mut code, mut list) = (0, Vec::new());
                if version.is_v5() && !reader.is_empty() {
                    code = kind.reason_code(&mut reader); // [MQTT-3.4.2-1] and its like
                    if !reader.is_empty() {
                        list = properties(&mut reader);
                    }
                }
                Self::Ack(Ack { kind, id, code, properties: list })
            }
            Kind::SubAck | Kind::UnsubAck => {
                let id = reader.packet_id();
                let properties = properties(&mut reader);
                let mut codes = Vec::new();
                while !reader.is_empty() {
                    assert!(version.is_v5() || kind == Kind::SubAck, "UNSUBACK with a payload");
                    let code = kind.reason_code(&mut reader); // [MQTT-3.9.3-2] [MQTT-3.11.3-2]
                    // [MQTT-3.9.3-2 @3.1.1]; 3.1 has no way to refuse.
                    assert!(version.is_v5() || code <= 2 || code == 0x80, "code {code:#04x}");
                    codes.push(code);
                }
                let ack = SubAck { id, codes, properties };
                if kind == Kind::SubAck { Self::SubAck(ack) } else { Self::UnsubAck(ack) }
            }
            Kind::PingResp => Self::PingResp,
            Kind::Disconnect | Kind::Auth => {
                assert!(version.is_v5(), "a server of 3.1.1 sends no {kind:?}");
                let (mut code, mut list) = (0, Vec::new());
                if !reader.is_empty() {
                    code = kind.reason_code(&mut reader); // [MQTT-3.14.2-1] [MQTT-3.15.2-1]
                    if !reader.is_empty() {
                        list = properties(&mut reader);
                    }
                }
                if kind == Kind::Auth {
                    Self::Auth(Auth { code, properties: list })
                } else {
                    Self::Disconnect(Disconnect { code: Some(code), properties: list })
                }
            }
        };
        assert!(reader.is_empty(), "bytes left over after {packet:?}: {reader:02x?}");
        packet
    }
}
