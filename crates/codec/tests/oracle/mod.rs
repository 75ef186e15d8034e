//! Another codec, written by others: `mqtt-protocol-core`, for MQTT 3.1.1 and 5.0. Where it disagrees with ours, why.
//!
//! Where both accept, both must have understood the same: what they write is read by ours as the packet that ours had
//! read. Where one refuses what the other accepts, the reason must stand in one of the two tables of exceptions, each
//! row with an example that proves the disagreement is still there; in each the specification is on our side, or leaves it
//! open. Framing is not compared, since both are given the body that ours cut out; MQTT 3.1 is not, since theirs does
//! not speak it.
//!
//! Used by the test beside it (mutations from a seed) and by the fuzz target `differential`.
#![allow(dead_code, reason = "each user takes its part")]

use std::fmt::Debug;
use std::sync::Arc;

use midge_codec::DecodeError as E;
use midge_codec::ProtocolVersion::{self, V5, V311};
use midge_codec::{Framed, PACKET_SIZE_MAX, Packet, RawPacket, ReasonCode, decode, frame};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, v3_1_1, v5_0};

/// What they accept and ours refuses, by the error of ours, with an example.
#[rustfmt::skip]
pub(crate) const THEY_ARE_LENIENT: [(E, ProtocolVersion, &[u8]); 22] = [
    // Their callers check the fixed header's flags. [MQTT-2.1.3-1]
    (E::HeaderFlagsInvalid, V311, &[0xC1, 0]),
    // They check UTF-8, but not for U+0000. [MQTT-1.5.4-2]
    (E::StringHasNull, V311, &[0x30, 3, 0, 1, 0]),
    // Trailing bytes of an acknowledgement are ignored. Section 4.13.1.
    (E::TrailingBytes, V311, &[0x40, 3, 0, 1, 0]),
    // Identifiers are checked by their connection. [MQTT-2.2.1-3]
    (E::PacketIdZero, V311, &[0x32, 5, 0, 1, b'a', 0, 0]),
    // [MQTT-3.3.1-2]
    (E::DupWithoutQos, V311, &[0x38, 3, 0, 1, b'a']),
    // Empty topics and filters are. [MQTT-4.7.3-1]
    (E::TopicNameEmpty, V311, &[0x30, 2, 0, 0]),
    (E::TopicFilterEmpty, V311, &[0xA2, 4, 0, 1, 0, 0]),
    // Wildcards are. [MQTT-3.3.2-2] [MQTT-3.3.2-14]
    (E::TopicNameWildcard, V311, &[0x30, 3, 0, 1, b'#']),
    (E::ResponseTopicWildcard, V5, &[0x30, 8, 0, 1, b'a', 4, 0x08, 0, 1, b'+']),
    (E::ResponseTopicEmpty, V5, &[0x30, 7, 0, 1, b'a', 3, 0x08, 0, 0]),
    // Connect Flags are taken as they come. [MQTT-3.1.2-3] [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13]
    (E::ConnectFlagsReserved, V311, &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x03, 0, 0, 0, 0]),
    (E::WillQosWithoutWill, V311, &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x0A, 0, 0, 0, 0]),
    (E::WillQosInvalid, V311, &[0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x1E, 0, 0, 0, 0, 0, 1, b'w', 0, 0]),
    (E::WillRetainWithoutWill, V311, &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x22, 0, 0, 0, 0]),
    // Connect Acknowledge Flags likewise. [MQTT-3.2.2-1] [MQTT-3.2.2-6]
    (E::ConnAckFlagsReserved, V311, &[0x20, 2, 2, 0]),
    (E::SessionPresentOnRefusal, V311, &[0x20, 2, 1, 5]),
    // Upper bits of the requested QoS. [MQTT-3.8.3-4 @3.1.1]
    (E::SubscriptionOptionsReserved, V311, &[0x82, 6, 0, 1, 0, 1, b'a', 4]),
    // [MQTT-3.8.3-4]
    (E::NoLocalOnShared, V5, &[0x82, 16, 0, 1, 0, 0, 10, b'$', b's', b'h', b'a', b'r', b'e', b'/', b'g', b'/', b'a', 4]),
    // [MQTT-1.5.5-1]
    (E::VariableByteIntegerNotMinimal, V5, &[0x30, 5, 0, 1, b'a', 0x80, 0]),
    // A PUBLISH that ends before its property length [MQTT-2.2.2-1]; an AUTH likewise.
    (E::BodyTooShort, V5, &[0x30, 3, 0, 1, b'a']),
    // Section 3.8.2.1.2: two Subscription Identifiers in one SUBSCRIBE.
    (E::PropertyDuplicate, V5, &[0x82, 11, 0, 1, 4, 0x0B, 1, 0x0B, 2, 0, 1, b'a', 0]),
    // Section 3.15.2.2.2.
    (E::AuthenticationMethodMissing, V5, &[0xF0, 2, 0, 0]),
];

/// Whether ours may accept what they refuse.
fn they_are_strict(packet: &Packet<'_>) -> bool {
    let is_shared_wrongly = |filter: &str| {
        let Some(shared) = filter.strip_prefix("$share/") else { return false };
        let name = shared.split('/').next().unwrap_or_default();
        name.is_empty() || name.contains(['+', '#']) || shared.len() <= name.len() + 1
    };
    match packet {
        // The mark of a bridge is no part of the specification.
        Packet::Connect(connect) if connect.bridge => true,
        // Section 3.1.2.9: "This version of the protocol allows the sending of a Password with no User Name".
        Packet::Connect(connect) => connect.password.is_some() && connect.username.is_none(),
        // The form of a Shared Subscription is the topic room's to judge, and answered in the acknowledgement.
        Packet::Subscribe(packet) => packet.filters.iter().any(|row| is_shared_wrongly(row.filter)),
        Packet::Unsubscribe(packet) => packet.filters.iter().any(is_shared_wrongly),
        // In table 2-6 it belongs to DISCONNECT, in section 3.14.2.1 it is missing.
        Packet::Disconnect(packet) => packet.reason_code == ReasonCode::BadAuthenticationMethod,
        _ => false,
    }
}

/// One example for each line above.
#[rustfmt::skip]
pub(crate) const THEY_ARE_STRICT: [(ProtocolVersion, &[u8]); 5] = [
    (V311, &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 0x84, 2, 0, 0, 0, 0]),
    (V5, &[0x10, 15, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x42, 0, 0, 0, 0, 0, 0, 0]),
    (V5, &[0x82, 13, 0, 1, 0, 0, 7, b'$', b's', b'h', b'a', b'r', b'e', b'/', 0]),
    (V5, &[0xA2, 12, 0, 1, 0, 0, 7, b'$', b's', b'h', b'a', b'r', b'e', b'/']),
    (V5, &[0xE0, 1, 0x8C]),
];

/// What they understood, as the bytes they write for it.
fn read_by_them(version: ProtocolVersion, first_byte: u8, body: &[u8]) -> Option<Vec<u8>> {
    fn write<P: GenericPacketTrait, F: Debug>(
        parsed: Result<(P, usize), F>,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let (packet, taken) = parsed.ok()?;
        // Most of their parsers leave trailing bytes to the caller.
        (taken == body.len()).then(|| packet.to_continuous_buffer())
    }
    macro_rules! parse {
        ($module:ident $(, $number:literal $other:ident)?) => {
            match first_byte >> 4 {
                1 => write($module::Connect::parse(body), body),
                2 => write($module::Connack::parse(body), body),
                3 => write($module::Publish::parse(first_byte & 0x0F, Arc::from(body)), body),
                4 => write($module::Puback::parse(body), body),
                5 => write($module::Pubrec::parse(body), body),
                6 => write($module::Pubrel::parse(body), body),
                7 => write($module::Pubcomp::parse(body), body),
                8 => write($module::Subscribe::parse(body), body),
                9 => write($module::Suback::parse(body), body),
                10 => write($module::Unsubscribe::parse(body), body),
                11 => write($module::Unsuback::parse(body), body),
                12 => write($module::Pingreq::parse(body), body),
                13 => write($module::Pingresp::parse(body), body),
                14 => write($module::Disconnect::parse(body), body),
                $($number => write($module::$other::parse(body), body),)?
                _ => None,
            }
        };
    }
    match version {
        V5 => parse!(v5_0, 15 Auth),
        _ => parse!(v3_1_1),
    }
}

/// How the two stand to each other on one packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    BothAccept,
    BothRefuse,
    TheyAreLenient(E),
    TheyAreStrict,
}

/// # Panics
/// When they disagree and the tables do not say why.
pub(crate) fn compare(version: ProtocolVersion, raw: RawPacket<'_>) -> Verdict {
    let bytes = || [&[raw.first_byte], raw.body].concat();
    let ours = decode(raw, version);
    if let Ok(Packet::Connect(connect)) = ours
        && connect.version != version
    {
        // Theirs must be told the version of a CONNECT.
        return compare(connect.version, raw);
    }
    match (ours, read_by_them(version, raw.first_byte, raw.body)) {
        (Ok(packet), Some(written)) => {
            let Ok(Framed::Packet(again)) = frame(&written, PACKET_SIZE_MAX) else {
                panic!("{version}: {:02X?} became {written:02X?}", bytes())
            };
            let again = decode(again, version);
            assert_eq!(again, Ok(packet), "{version}: {:02X?} became {written:02X?}", bytes());
            Verdict::BothAccept
        }
        (Ok(packet), None) => {
            let strict = they_are_strict(&packet);
            assert!(strict, "{version}: they refuse {packet:?}, {:02X?}", bytes());
            Verdict::TheyAreStrict
        }
        (Err(error), Some(_)) => {
            let is_known = THEY_ARE_LENIENT.iter().any(|row| row.0 == error);
            assert!(is_known, "{version}: only ours says {error} to {:02X?}", bytes());
            Verdict::TheyAreLenient(error)
        }
        (Err(_), None) => Verdict::BothRefuse,
    }
}
