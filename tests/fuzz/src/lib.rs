//! What must hold of any bytes, as plain functions of them.
//!
//! The fuzz targets hand their bytes to these and do nothing else, so that a finding can be replayed without a fuzzer:
//! `tests/replay.rs` runs them over the corpus.
#![forbid(unsafe_code)]

mod choices;
mod differential;
mod files;
mod framing;
#[path = "../../../crates/codec/tests/oracle/mod.rs"]
mod oracle;
mod packets;
mod reader;
mod session;
mod shard;
mod store;
mod transport;

pub use differential::differential;
pub use files::{access, passwords};
pub use framing::framing;
pub use session::session;
pub use shard::shard;
pub use store::{record, segments};
pub use transport::{transport, transport_tls};

use midge_codec::{
    Connect, Framed, PACKET_SIZE_MAX, Packet, ProtocolVersion, RawPacket, decode, frame,
};

/// A connection's bytes: cut into packets and decoded until they end or are refused.
///
/// The first byte chooses the version and a limit of the packet size; the rest is the stream.
pub fn frame_decode(bytes: &[u8]) {
    let Some((&choice, mut stream)) = bytes.split_first() else { return };
    let mut version = ProtocolVersion::ALL[usize::from(choice % 3)];
    let maximum_packet_size = [PACKET_SIZE_MAX, 64, 5][usize::from(choice / 3 % 3)];
    loop {
        let raw = match frame(stream, maximum_packet_size) {
            Ok(Framed::Packet(raw)) => raw,
            Ok(Framed::Incomplete { size_hint }) => {
                assert!(size_hint == 0 && stream.len() < 5 || size_hint > stream.len());
                return;
            }
            Err(error) => {
                assert!(error.reason_code().is_error());
                return;
            }
        };
        assert!(raw.size <= maximum_packet_size as usize && raw.size <= stream.len());
        // However little of it has arrived, framing says the same or waits.
        for end in [1, 2, raw.size / 2, raw.size - 1] {
            let early = frame(&stream[..end.min(raw.size - 1)], maximum_packet_size);
            assert!(
                matches!(early, Ok(Framed::Incomplete { size_hint: 0 }))
                    || hint(&early) == raw.size
            );
        }
        match decode(raw, version) {
            // As on a real connection, a CONNECT decides the version of what follows.
            Ok(Packet::Connect(connect)) => version = connect.version,
            Ok(packet) => walk(packet),
            Err(error) => {
                assert!(error.reason_code().is_error() && !error.statement().is_empty());
                return;
            }
        }
        stream = &stream[raw.size..];
    }
}

/// One packet: what is accepted is written, measured and read again as the same.
///
/// The first byte chooses the version, the second is that of the fixed header, the rest is the body; the length is
/// put right, so that no mutation is wasted on it.
pub fn roundtrip(bytes: &[u8]) {
    let [choice, first_byte, body @ ..] = bytes else { return };
    let raw =
        RawPacket { first_byte: *first_byte, body, size: header_size(body.len()) + body.len() };
    let version = match Connect::claimed_version(raw) {
        Some(version) => version,
        None => ProtocolVersion::ALL[usize::from(choice % 3)],
    };
    let Ok(packet) = decode(raw, version) else { return };
    walk(packet);
    let mut written = Vec::new();
    packet.encode(version, &mut written);
    assert_eq!(written.len(), packet.size(version));
    let Ok(Framed::Packet(again)) = frame(&written, PACKET_SIZE_MAX) else {
        panic!("what we write is whole")
    };
    assert_eq!(again.size, written.len());
    assert_eq!(decode(again, version), Ok(packet));
    // What is written is the shortest form of it: never longer than what came.
    assert!(written.len() <= raw.size);
    // A publication's forwarded properties are a block that reads as those properties.
    if let Packet::Publish(publish) = packet {
        let mut forwarded = Vec::new();
        publish.properties.encode_forwarded(&mut forwarded);
        let read =
            midge_codec::PublishProperties::decode_forwarded(&forwarded).expect("is a block");
        assert_eq!(read.user_properties, publish.properties.user_properties);
        assert_eq!(read.correlation_data, publish.properties.correlation_data);
    }
}

fn hint(framed: &Result<Framed<'_>, midge_codec::DecodeError>) -> usize {
    match framed {
        Ok(Framed::Incomplete { size_hint }) => *size_hint,
        _ => 0,
    }
}

/// Bytes of a fixed header before a body of this size.
fn header_size(body: usize) -> usize {
    match body {
        0..0x80 => 2,
        0x80..0x4000 => 3,
        0x4000..0x20_0000 => 4,
        _ => 5,
    }
}

/// Walks every list of the packet, and counts it.
fn walk(packet: Packet<'_>) {
    match packet {
        Packet::Subscribe(packet) => {
            assert_eq!(packet.filters.iter().count(), packet.filters.len());
            assert!(packet.filters.iter().all(|row| !row.filter.is_empty()));
        }
        Packet::Unsubscribe(packet) => {
            assert_eq!(packet.filters.iter().count(), packet.filters.len());
        }
        Packet::SubAck(packet) => {
            assert_eq!(packet.reason_codes.iter().count(), packet.reason_codes.len());
        }
        Packet::Publish(packet) => {
            assert!(!packet.topic.contains(['+', '#', '\0']));
            assert_eq!(packet.packet_id.is_some(), packet.qos as u8 > 0);
            assert!(packet.properties.subscription_identifiers.iter().all(|value| value > 0));
            let pairs = packet.properties.user_properties;
            let size =
                pairs.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>();
            assert_eq!(size, pairs.encoded_size());
        }
        _ => {}
    }
}
