//! What the tables of tests beside each packet have in common: a few ways to spell bytes, three ways to check them.

use crate::{DecodeError, Framed, PACKET_SIZE_MAX, Packet, PacketId, ProtocolVersion, RawPacket};

pub(crate) use ProtocolVersion::{V5, V31, V311};

/// The versions before MQTT 5.0.
pub(crate) const OLD: [ProtocolVersion; 2] = [V31, V311];

/// The identifier `0x000A` that most packets here carry.
pub(crate) const TEN: PacketId = PacketId::new(10).unwrap();

/// A packet: its first byte, its length, its parts.
pub(crate) fn wire(first_byte: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![first_byte];
    let mut rest = body.len();
    while rest >= 0x80 {
        bytes.push(0x80 | (rest & 0x7F) as u8);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes.extend(body);
    bytes
}

/// A string or binary field with its length.
pub(crate) fn text(content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut bytes = (content.len() as u16).to_be_bytes().to_vec();
    bytes.extend(content);
    bytes
}

/// The one packet that the bytes are.
pub(crate) fn cut(bytes: &[u8]) -> Result<RawPacket<'_>, DecodeError> {
    match crate::frame(bytes, PACKET_SIZE_MAX)? {
        Framed::Packet(raw) => {
            assert_eq!(raw.size, bytes.len(), "{bytes:02X?} is more than one packet");
            Ok(raw)
        }
        Framed::Incomplete { .. } => panic!("{bytes:02X?} is not a whole packet"),
    }
}

/// Decodes what must be one packet.
pub(crate) fn decode(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    crate::decode(cut(bytes)?, version)
}

/// The bytes mean this packet.
#[track_caller]
pub(crate) fn reads(version: ProtocolVersion, bytes: &[u8], expected: Packet<'_>) {
    assert_eq!(decode(version, bytes), Ok(expected), "{version}: {bytes:02X?}");
}

/// The bytes mean this packet, and are what this packet is written as.
#[track_caller]
pub(crate) fn is(version: ProtocolVersion, bytes: &[u8], expected: Packet<'_>) {
    reads(version, bytes, expected);
    let mut out = vec![0xEE];
    expected.encode(version, &mut out);
    assert_eq!(out[1..], *bytes, "{version}: {expected:?}");
    assert_eq!(expected.size(version), bytes.len(), "{version}: {expected:?}");
    every_truncation_is_refused(version, bytes);
}

/// The bytes are refused, for this reason.
#[track_caller]
pub(crate) fn refuses(version: ProtocolVersion, bytes: &[u8], error: DecodeError) {
    assert_eq!(decode(version, bytes), Err(error), "{version}: {bytes:02X?}");
}

/// Cut short on the wire, the packet is incomplete and says how much is missing once that is known.
#[track_caller]
fn every_truncation_is_refused(version: ProtocolVersion, bytes: &[u8]) {
    for end in 0..bytes.len() {
        match crate::frame(&bytes[..end], PACKET_SIZE_MAX) {
            Ok(Framed::Incomplete { size_hint }) => {
                assert!(size_hint == 0 && end < 5 || size_hint == bytes.len(), "{version}: {end}");
            }
            other => panic!("{version}: {end} bytes of {bytes:02X?} are {other:?}"),
        }
    }
}
