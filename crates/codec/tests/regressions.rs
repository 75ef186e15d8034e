//! Ways in which brokers have failed on bytes, each as a test here. The names in the comments are public advisories of
//! other brokers; what is tested is the class, as far as a codec can have it.

mod common;

use ProtocolVersion::{V5, V31, V311};
use common::cut;
use midge_codec::{
    Connect, DecodeError, Framed, PACKET_SIZE_MAX, Packet, PacketType, ProtocolVersion, Publish,
    RawPacket, decode, frame,
};

fn read(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    decode(cut(bytes).expect("a whole packet"), version)
}

/// A packet with its remaining length before it.
fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    let mut rest = body.len();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes.extend_from_slice(body);
    bytes
}

/// Length decoding: NanoMQ CVE-2026-21888 read a fifth byte of a Variable Byte Integer. [MQTT-1.5.5-1]
#[test]
fn a_length_of_five_bytes_is_refused_wherever_one_stands() {
    let too_long = DecodeError::VariableByteIntegerTooLong;
    for length in [[0x80; 5], [0xFF; 5], [0x80, 0x80, 0x80, 0x80, 0x01]] {
        let header = [&[0x30][..], &length].concat();
        assert_eq!(frame(&header, PACKET_SIZE_MAX), Err(too_long));
        // Known after the fourth byte: the fifth need not come.
        assert_eq!(frame(&header[..5], PACKET_SIZE_MAX), Err(too_long));
        let properties = packet(0x30, &[&[0, 1, b'a'][..], &length].concat());
        assert_eq!(read(V5, &properties), Err(too_long));
        let identifier = packet(0x82, &[&[0, 1, 6, 0x0B][..], &length, &[0, 1, b'a', 0]].concat());
        assert_eq!(read(V5, &identifier), Err(too_long));
    }
}

/// Length decoding: ActiveMQ CVE-2025-66168 and CVE-2026-40046, where a remaining length that overflowed let one packet
/// be read as several. The cut is where the length says, whatever stands inside.
#[test]
fn a_packet_inside_a_payload_is_payload() {
    let inner = [0x30, 0x03, 0x00, 0x01, b'b'];
    let outer = packet(0x30, &[&[0, 1, b'a'][..], &inner].concat());
    let stream = [&outer[..], &[0xC0, 0x00]].concat();
    let Ok(Framed::Packet(raw)) = frame(&stream, PACKET_SIZE_MAX) else { panic!() };
    assert_eq!(raw.size, outer.len());
    let Ok(Packet::Publish(publish)) = decode(raw, V311) else { panic!() };
    assert_eq!((publish.topic, publish.payload), ("a", &inner[..]));
    assert_eq!(read(V311, &stream[raw.size..]), Ok(Packet::PingReq));
}

/// Length decoding: NanoMQ CVE-2026-25627, a remaining length larger than the bytes at hand.
#[test]
fn a_length_beyond_the_bytes_is_waited_for_not_read() {
    for (bytes, size_hint) in
        [(&[0x30, 0x7F, 0, 1, b'a'][..], 129), (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0], 268_435_460)]
    {
        assert_eq!(frame(bytes, PACKET_SIZE_MAX), Ok(Framed::Incomplete { size_hint }));
    }
}

/// Length decoding inside a packet: every length field with the largest value, in a body that does not hold it.
#[test]
fn inner_lengths_cannot_reach_out_of_the_packet() {
    let short = Err(DecodeError::BodyTooShort);
    for bytes in [
        packet(0x30, &[0xFF, 0xFF]),
        packet(0x30, &[0xFF, 0xFF, b'a']),
        packet(0x10, &[0xFF, 0xFF, b'M', b'Q']),
        packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0xFF, 0xFF, b'a']),
        packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', 4, 6, 0, 0, 0, 0, 0xFF, 0xFF]),
        packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F, 0, 0]),
        packet(0x82, &[0, 1, 0xFF, 0xFF, b'a', 0]),
        packet(0xA2, &[0, 1, 0xFF, 0xFF, b'a']),
    ] {
        assert_eq!(read(V311, &bytes), short.clone(), "{bytes:02X?}");
    }
    for block in [
        &[3, 0x09, 0xFF, 0xFF][..],
        &[3, 0x03, 0xFF, 0xFF],
        &[5, 0x26, 0, 0, 0xFF, 0xFF],
        &[2, 0x02, 0xFF],
        &[0xFF, 0xFF, 0x7F],
    ] {
        assert_eq!(read(V5, &packet(0x30, &[&[0, 1, b'a'], block].concat())), short);
    }
}

/// Allocation before proof: Mosquitto CVE-2017-7651 and CVE-2023-0809, EMQX CVE-2021-33175, VerneMQ CVE-2021-33176. What
/// is only declared is refused by the limit from five bytes, and nothing here allocates for it.
#[test]
fn a_declared_length_costs_nothing() {
    let header = [0x10, 0xFF, 0xFF, 0xFF, 0x7F];
    assert_eq!(frame(&header, 64 * 1024), Err(DecodeError::PacketTooLarge));
    assert_eq!(frame(&header[..4], 64 * 1024), Ok(Framed::Incomplete { size_hint: 0 }));
    assert_eq!(DecodeError::PacketTooLarge.reason_code() as u8, 0x95);
}

/// Null or absent field: Mosquitto CVE-2021-28166, where a CONNACK sent by a client crashed the broker. It decodes, and
/// the session is told by its type that no client may send it.
#[test]
fn packets_of_a_server_are_recognised_before_they_are_decoded() {
    for bytes in [&[0x20, 2, 0, 0][..], &[0x90, 3, 0, 1, 0], &[0xB0, 2, 0, 1], &[0xD0, 0]] {
        let raw = cut(bytes).unwrap();
        assert!(!raw.packet_type().is_some_and(PacketType::sent_by_client));
        assert!(decode(raw, V311).is_ok());
        // As a first packet none of them is a CONNECT. [MQTT-3.1.0-1]
        assert_eq!(Connect::decode(raw), Err(DecodeError::PacketTypeUnexpected));
    }
}

/// Null or absent field: Mosquitto CVE-2021-34432, a PUBLISH with an empty topic. [MQTT-4.7.3-1]
#[test]
fn an_empty_topic_is_refused_without_an_alias() {
    for version in [V31, V311] {
        assert_eq!(read(version, &[0x30, 2, 0, 0]), Err(DecodeError::TopicNameEmpty));
        assert_eq!(read(version, &[0x32, 4, 0, 0, 0, 1]), Err(DecodeError::TopicNameEmpty));
    }
    assert_eq!(read(V5, &[0x30, 3, 0, 0, 0]), Err(DecodeError::TopicNameEmpty));
    // Another property is no alias.
    assert_eq!(read(V5, &[0x30, 5, 0, 0, 2, 0x01, 0]), Err(DecodeError::TopicNameEmpty));
    assert!(read(V5, &[0x30, 6, 0, 0, 3, 0x23, 0, 1]).is_ok());
}

/// Null or absent field: Mosquitto client library CVE-2024-10525, a SUBACK without codes. [MQTT-3.9.3-1]
#[test]
fn a_suback_without_codes_is_refused() {
    assert_eq!(read(V311, &[0x90, 2, 0, 1]), Err(DecodeError::ReasonCodesMissing));
    assert_eq!(read(V5, &[0x90, 3, 0, 1, 0]), Err(DecodeError::ReasonCodesMissing));
    assert_eq!(read(V5, &[0xB0, 3, 0, 1, 0]), Err(DecodeError::ReasonCodesMissing));
}

/// Null or absent field: NanoMQ CVE-2026-32696, a password without user name. Refused where it is forbidden
/// [MQTT-3.1.2-22 @3.1.1]; in MQTT 5.0 the absent name stays absent rather than becoming an empty one.
#[test]
fn a_password_without_user_name() {
    let body = |level| [0, 4, b'M', b'Q', b'T', b'T', level, 0x42, 0, 0];
    let old = packet(0x10, &[&body(4)[..], &[0, 0, 0, 1, b'p']].concat());
    assert_eq!(read(V311, &old), Err(DecodeError::PasswordWithoutUserName));
    let new = packet(0x10, &[&body(5)[..], &[0, 0, 0, 0, 1, b'p']].concat());
    let Ok(Packet::Connect(connect)) = read(V5, &new) else { panic!() };
    assert_eq!((connect.username, connect.password), (None, Some(&b"p"[..])));
}

/// Null or absent field: NanoMQ CVE-2025-68699, `$share/ab` without a filter. It is text here; nothing looks behind a
/// slash that is not there.
#[test]
fn a_shared_subscription_without_filter_is_text() {
    for filter in ["$share", "$share/", "$share/ab", "$share//", "$share/ab/", "$share//a"] {
        let body = [&[0, 1, 0, 0, filter.len() as u8][..], filter.as_bytes(), &[0]].concat();
        let bytes = packet(0x82, &body);
        let Ok(Packet::Subscribe(subscribe)) = read(V5, &bytes) else { panic!("{filter}") };
        assert_eq!(subscribe.filters.iter().next().map(|row| row.filter), Some(filter));
    }
}

/// Leak by malformed packet: Mosquitto CVE-2017-7654, CVE-2021-34431, CVE-2023-3592. Nothing is built before the whole
/// packet is proven, so a bad last field leaves nothing behind: decoding owns nothing.
#[test]
fn decoded_packets_own_nothing() {
    fn is_plain<T: Copy>() {}
    is_plain::<Packet<'_>>();
    is_plain::<DecodeError>();
    // A Will with properties, then a user name that is cut off.
    let bytes = packet(
        0x10,
        &[
            0, 4, b'M', b'Q', b'T', b'T', 5, 0x86, 0, 0, 0, 0, 0, 5, 0x26, 0, 0, 0, 0, 0, 1, b'w',
            0, 0, 0, 9,
        ],
    );
    assert_eq!(read(V5, &bytes), Err(DecodeError::BodyTooShort));
}

/// Recursion by topic depth: Mosquitto CVE-2019-11779, 65,400 slashes in a SUBSCRIBE. Levels mean nothing here; the
/// longest topic and the longest filter are read like any other.
#[test]
fn the_deepest_topic_is_text() {
    let slashes = [b'/'; 65_535];
    let publish = packet(0x30, &[&[0xFF, 0xFF][..], &slashes].concat());
    let Ok(Packet::Publish(decoded)) = read(V311, &publish) else { panic!() };
    assert_eq!(decoded.topic.len(), 65_535);
    let subscribe = packet(0x82, &[&[0, 1, 0xFF, 0xFF][..], &slashes, &[0]].concat());
    let Ok(Packet::Subscribe(decoded)) = read(V311, &subscribe) else { panic!() };
    assert_eq!(decoded.filters.len(), 1);
}

/// Quadratic work: Mosquitto CVE-2021-41039, a CONNECT full of user properties. Walking them looks at no earlier one
/// again: the iterator is its place in the bytes and nothing else.
#[test]
fn many_user_properties_are_walked_without_looking_back() {
    const COUNT: usize = 50_000;
    let block = [0x26, 0, 0, 0, 0].repeat(COUNT);
    let length = [
        0x80 | (block.len() & 0x7F) as u8,
        0x80 | (block.len() >> 7 & 0x7F) as u8,
        (block.len() >> 14) as u8,
    ];
    let body = [&[0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0][..], &length, &block, &[0, 0]].concat();
    let bytes = packet(0x10, &body);
    let Ok(Packet::Connect(connect)) = read(V5, &bytes) else { panic!() };
    assert_eq!(connect.properties.user_properties.iter().count(), COUNT);
}

/// Invalid text passed on: Mosquitto CVE-2017-7653 (UTF-8), wolfMQTT (filters), and wildcards in a publication. Each
/// text field of each packet, with each kind of bad text.
#[test]
fn no_bad_text_is_passed_on() {
    let bad: [(&[u8], DecodeError); 4] = [
        (&[0xFF], DecodeError::StringNotUtf8),
        (&[b'a', 0xED, 0xA0, 0x80], DecodeError::StringNotUtf8),
        (&[b'a', 0xC0, 0x80], DecodeError::StringNotUtf8),
        (&[b'a', 0], DecodeError::StringHasNull),
    ];
    for (text, error) in bad {
        let field = [&[0, text.len() as u8], text].concat();
        let connect = |flags: u8, payload: &[&[u8]]| {
            let head = [0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
            packet(0x10, &[&head[..], &payload.concat()].concat())
        };
        for bytes in [
            packet(0x30, &field),
            packet(0x82, &[&[0, 1][..], &field, &[0]].concat()),
            packet(0xA2, &[&[0, 1][..], &field].concat()),
            connect(0x02, &[&field]),
            connect(0x06, &[&[0, 0], &field, &[0, 0]]),
            connect(0x82, &[&[0, 0], &field]),
        ] {
            assert_eq!(read(V311, &bytes), Err(error), "{bytes:02X?}");
        }
        for identifier in [0x03, 0x08] {
            let block = [&[field.len() as u8 + 1, identifier], &field[..]].concat();
            assert_eq!(read(V5, &packet(0x30, &[&[0, 1, b'a'], &block[..]].concat())), Err(error));
        }
        for block in [[&field[..], &[0, 0]].concat(), [&[0, 0], &field[..]].concat()] {
            let block = [&[block.len() as u8 + 1, 0x26], &block[..]].concat();
            assert_eq!(read(V5, &packet(0x30, &[&[0, 1, b'a'], &block[..]].concat())), Err(error));
        }
    }
    for topic in [&b"+"[..], b"#", b"a/+/b", b"a/b#", b"long/enough/for/words/+"] {
        let bytes = packet(0x30, &[&[0, topic.len() as u8], topic].concat());
        assert_eq!(read(V311, &bytes), Err(DecodeError::TopicNameWildcard));
    }
}

/// Reachable assertion or panic: bodies of every size up to 300 bytes of nothing but one value, in every packet.
#[test]
fn monotonous_bodies_do_not_panic() {
    for size in 0..300 {
        for value in [0x00, 0x01, 0x02, 0x23, 0x26, 0x7F, 0x80, 0xFF] {
            let body = vec![value; size];
            for first_byte in 0x10..=u8::MAX {
                for version in ProtocolVersion::ALL {
                    let raw = RawPacket { first_byte, body: &body, size: size + 2 };
                    let _ = decode(raw, version);
                    let _ = Publish::decode(raw, version);
                    let _ = Connect::decode(raw);
                }
            }
        }
    }
}
