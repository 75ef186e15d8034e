//! No bytes panic, and whatever is accepted is understood: it can be written and read again as the same packet.
//!
//! The rounds are seeded, so a failure here is a failure everywhere. A failing round prints its seed; run it again with
//! `MIDGE_SEED=… MIDGE_ROUNDS=1 cargo test -p midge-codec --test hostile_bytes`, or run a night's worth with
//! `MIDGE_SEED=$RANDOM MIDGE_ROUNDS=1000000000 cargo test --release -p midge-codec --test hostile_bytes`.

mod common;

use std::hint::black_box;

use common::{Random, corpus, cut, mutate, rounds};
use midge_codec::{
    Connect, DecodeError, Framed, PACKET_SIZE_MAX, Packet, ProtocolVersion, Publish, decode, frame,
};

/// Decodes as a connection would and checks all that must hold of the outcome. Tells whether a packet was accepted.
fn check(version: ProtocolVersion, bytes: &[u8]) -> bool {
    let raw = match frame(bytes, PACKET_SIZE_MAX) {
        Ok(Framed::Packet(raw)) => raw,
        Ok(Framed::Incomplete { size_hint }) => {
            assert!(size_hint == 0 || size_hint > bytes.len());
            return false;
        }
        Err(error) => return explains_itself(error),
    };
    assert!(raw.size <= bytes.len() && raw.body.len() < raw.size);
    // The specialised entrances agree with the general one.
    let packet = decode(raw, version);
    match packet {
        Ok(Packet::Publish(publish)) => assert_eq!(Publish::decode(raw, version), Ok(publish)),
        Ok(Packet::Connect(connect)) => {
            assert_eq!(Connect::decode(raw), Ok(connect));
            assert_eq!(Connect::claimed_version(raw), Some(connect.version));
        }
        _ => assert!(Connect::decode(raw).is_err()),
    }
    match packet {
        Ok(packet) => {
            // A CONNECT is written in the version it names.
            let version = match packet {
                Packet::Connect(connect) => connect.version,
                _ => version,
            };
            survives(version, packet);
            true
        }
        Err(error) => explains_itself(error),
    }
}

/// Every error is complete: a code that is an error, a statement, a sentence.
fn explains_itself(error: DecodeError) -> bool {
    assert!(error.reason_code().is_error());
    assert!(!error.statement().is_empty());
    false
}

/// What was accepted is written, measured and read again as the same.
fn survives(version: ProtocolVersion, packet: Packet<'_>) {
    let mut written = Vec::new();
    packet.encode(version, &mut written);
    assert_eq!(written.len(), packet.size(version), "{packet:?}");
    let raw = cut(&written).expect("what we write is whole");
    assert_eq!(raw.size, written.len());
    assert_eq!(decode(raw, version), Ok(packet), "{written:02X?}");
    // All lists can be walked, and counting them agrees with walking them.
    black_box(format!("{packet:?}"));
    match packet {
        Packet::Subscribe(packet) => {
            assert_eq!(packet.filters.iter().count(), packet.filters.len())
        }
        Packet::Unsubscribe(packet) => {
            assert_eq!(packet.filters.iter().count(), packet.filters.len());
        }
        Packet::SubAck(packet) => {
            assert_eq!(packet.reason_codes.iter().count(), packet.reason_codes.len());
        }
        _ => {}
    }
}

#[test]
fn the_corpus_is_accepted() {
    for version in ProtocolVersion::ALL {
        for bytes in corpus(version) {
            assert!(check(version, &bytes), "{version}: {bytes:02X?}");
        }
    }
}

#[test]
fn mutated_packets_are_refused_or_understood() {
    let corpora = ProtocolVersion::ALL.map(corpus);
    let (_, first_seed) = Random::seeded(0x4D69_6467);
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for seed in (first_seed..).take(rounds(150_000) as usize) {
        let mut random = Random(seed);
        let which = random.below(3);
        let bytes = mutate(&mut random, &corpora[which]);
        let outcome = std::panic::catch_unwind(|| {
            // The packet's own version, and the two that it was not meant for.
            let own = check(ProtocolVersion::ALL[which], &bytes);
            for version in ProtocolVersion::ALL {
                check(version, &bytes);
            }
            own
        });
        match outcome {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(_) => panic!("MIDGE_SEED={seed}: {bytes:02X?}"),
        }
    }
    println!("{accepted} accepted, {refused} refused");
    // A generator whose packets are all of one kind tests nothing.
    assert!(rounds(0) > 0 || accepted > 10_000 && refused > 10_000);
}

#[test]
fn random_bytes_are_refused_or_understood() {
    let (mut random, seed) = Random::seeded(0x6765_0001);
    for round in 0..rounds(150_000) {
        let size = random.below(40);
        let mut bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        if let [first, length, ..] = bytes.as_mut_slice() {
            // Nearly all lengths would be wrong.
            *length = (size - 2) as u8;
            *first = first.saturating_add(0x10);
        }
        for version in ProtocolVersion::ALL {
            let outcome = std::panic::catch_unwind(|| check(version, &bytes));
            assert!(outcome.is_ok(), "MIDGE_SEED={seed}, round {round}: {bytes:02X?}");
        }
    }
}

/// Every packet of up to three bytes of body, of every first byte: all there are.
#[test]
fn every_short_packet_is_refused_or_understood() {
    for first_byte in 0..=u8::MAX {
        for version in ProtocolVersion::ALL {
            check(version, &[first_byte]);
            check(version, &[first_byte, 0]);
            for a in 0..=u8::MAX {
                check(version, &[first_byte, 1, a]);
                // Identifiers of 0 and 1 only, then any byte: the shortest acknowledgements.
                for b in [0, 1] {
                    check(version, &[first_byte, 2, 0, b]);
                    check(version, &[first_byte, 3, 0, b, a]);
                }
            }
        }
    }
}

/// A packet whose remaining length is cut to fit fewer bytes is refused, or is another packet that stands on its own.
#[test]
fn every_truncation_with_a_matching_length_is_handled() {
    for version in ProtocolVersion::ALL {
        for bytes in corpus(version) {
            let Some(raw) = cut(&bytes) else { panic!("the corpus is whole") };
            for end in 0..raw.body.len() {
                let shorter = midge_codec::RawPacket { body: &raw.body[..end], ..raw };
                let size = shorter.size - raw.body.len() + end;
                let shorter = midge_codec::RawPacket { size, ..shorter };
                let Ok(packet) = decode(shorter, version) else { continue };
                // Only these may end early and still be complete.
                let may_end = match packet {
                    Packet::Publish(_) | Packet::SubAck(_) | Packet::UnsubAck(_) => true,
                    Packet::Subscribe(_) | Packet::Unsubscribe(_) => true,
                    Packet::PubAck(_)
                    | Packet::PubRec(_)
                    | Packet::PubRel(_)
                    | Packet::PubComp(_) => version.is_v5() && end <= 3,
                    Packet::Disconnect(_) => version.is_v5() && end <= 1,
                    Packet::Auth(_) => end == 0,
                    Packet::Connect(_) => version == ProtocolVersion::V31,
                    Packet::ConnAck(_) | Packet::PingReq | Packet::PingResp => false,
                };
                assert!(may_end, "{version}: {end} of {bytes:02X?}");
            }
        }
    }
}

/// On the wire a truncated packet is never a packet: framing waits for the rest.
#[test]
fn every_truncation_on_the_wire_is_incomplete() {
    for version in ProtocolVersion::ALL {
        for bytes in corpus(version) {
            for end in 0..bytes.len() {
                let framed = frame(&bytes[..end], PACKET_SIZE_MAX);
                assert!(matches!(framed, Ok(Framed::Incomplete { .. })), "{end} of {bytes:02X?}");
            }
        }
    }
}
