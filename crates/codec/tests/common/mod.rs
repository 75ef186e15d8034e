//! What the tests of hostile bytes share: a corpus of valid packets, a seeded generator, mutations.
#![allow(dead_code, reason = "each test file uses its part")]

use std::num::{NonZeroU16, NonZeroU32};

use midge_codec::{
    Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Framed,
    PACKET_SIZE_MAX, Packet, PacketId, ProtocolVersion, PubAck, PubComp, PubRec, PubRel, Publish,
    PublishProperties, QoS, RawPacket, ReasonCode, ReasonCodes, RetainHandling, SubAck, Subscribe,
    SubscribeFilter, SubscriptionIdentifiers, UnsubAck, Unsubscribe, UserProperties, Will,
    WillProperties, frame,
};

/// The first packet of the bytes, when it is whole.
pub(crate) fn cut(bytes: &[u8]) -> Option<RawPacket<'_>> {
    match frame(bytes, PACKET_SIZE_MAX) {
        Ok(Framed::Packet(raw)) => Some(raw),
        _ => None,
    }
}

/// A valid packet of every type and most shapes, as bytes of that version.
pub(crate) fn corpus(version: ProtocolVersion) -> Vec<Vec<u8>> {
    let id = PacketId::new(0x1234).unwrap();
    let pairs = [("name", "value"), ("name", ""), ("ключ", "значение")];
    let user_properties = UserProperties::from_pairs(&pairs);
    let publish_properties = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval_seconds: Some(3600),
        topic_alias: NonZeroU16::new(3),
        response_topic: Some("answers/7"),
        correlation_data: Some(&[0, 1, 2, 3]),
        content_type: Some("text/plain"),
        subscription_identifiers: SubscriptionIdentifiers::from_values(&[1, 128, 268_435_455]),
        user_properties,
    };
    let will_properties = WillProperties {
        delay_interval_seconds: Some(30),
        payload_format_indicator: Some(0),
        message_expiry_interval_seconds: Some(60),
        content_type: Some("t"),
        response_topic: Some("r"),
        correlation_data: Some(b"c"),
        user_properties,
    };
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "clients/me/gone",
        payload: b"\x00bye",
        properties: will_properties,
    };
    let connect_properties = ConnectProperties {
        session_expiry_interval_seconds: Some(u32::MAX),
        receive_maximum: NonZeroU16::new(100),
        maximum_packet_size: NonZeroU32::new(1 << 20),
        topic_alias_maximum: Some(16),
        request_response_information: Some(true),
        request_problem_information: Some(false),
        user_properties,
        authentication_method: Some("SCRAM-SHA-256"),
        authentication_data: Some(&[9, 8]),
    };
    let connack_properties = ConnAckProperties {
        session_expiry_interval_seconds: Some(7),
        receive_maximum: NonZeroU16::new(8),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(true),
        maximum_packet_size: NonZeroU32::new(9),
        assigned_client_id: Some("assigned"),
        topic_alias_maximum: Some(10),
        reason_string: Some("because"),
        user_properties,
        wildcard_subscription_available: Some(false),
        subscription_identifiers_available: Some(true),
        shared_subscription_available: Some(false),
        server_keep_alive_seconds: Some(11),
        response_information: Some("info"),
        server_reference: Some("other"),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
    };
    let plain = Connect { keep_alive_seconds: 60, ..Connect::new(version, "client-1") };
    let full = Connect {
        clean_start: false,
        will: Some(will),
        username: Some("user"),
        password: Some(b"pass\xFFword"),
        properties: connect_properties,
        ..plain
    };
    let qos_0 = Publish { topic: "room/7/light", payload: b"on", ..Publish::default() };
    let qos_1 = Publish { qos: QoS::AtLeastOnce, packet_id: Some(id), ..qos_0 };
    let qos_2 = Publish {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        properties: publish_properties,
        ..qos_1
    };
    let filters = [
        SubscribeFilter::new("room/+/light", QoS::AtLeastOnce),
        SubscribeFilter {
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            ..SubscribeFilter::new("#", QoS::ExactlyOnce)
        },
        SubscribeFilter::new("$share/group/a/b", QoS::AtMostOnce),
    ];
    let subscribe = Subscribe::new(id, &filters);
    let names = ["room/+/light", "$share/group/a/b"];
    let unsubscribe = Unsubscribe::new(id, &names);
    let granted = [ReasonCode::GrantedQoS1, ReasonCode::Success, ReasonCode::GrantedQoS2];
    let suback = SubAck::new(id, &granted);
    let unsubscribed = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    let unsuback = match version.is_v5() {
        true => UnsubAck::new(id, &unsubscribed),
        false => UnsubAck::new(id, ReasonCodes::EMPTY),
    };
    let mut packets = vec![
        Packet::Connect(plain),
        Packet::Connect(Connect { username: Some("user"), ..plain }),
        Packet::Connect(full),
        Packet::ConnAck(ConnAck::new(false, ReasonCode::Success)),
        Packet::ConnAck(ConnAck::new(false, ReasonCode::NotAuthorized)),
        Packet::Publish(qos_0),
        Packet::Publish(Publish { payload: b"", ..qos_0 }),
        Packet::Publish(qos_1),
        Packet::Publish(qos_2),
        Packet::PubAck(PubAck::new(id, ReasonCode::Success)),
        Packet::PubRec(PubRec::new(id, ReasonCode::Success)),
        Packet::PubRel(PubRel::new(id, ReasonCode::Success)),
        Packet::PubComp(PubComp::new(id, ReasonCode::Success)),
        Packet::Subscribe(subscribe),
        Packet::Subscribe(Subscribe {
            subscription_identifier: Some(77),
            user_properties,
            ..subscribe
        }),
        Packet::SubAck(suback),
        Packet::Unsubscribe(unsubscribe),
        Packet::UnsubAck(unsuback),
        Packet::PingReq,
        Packet::PingResp,
        Packet::Disconnect(Disconnect::default()),
    ];
    if version.is_v5() {
        let reason_string = Some("why not");
        packets.extend([
            Packet::ConnAck(ConnAck { properties: connack_properties, ..ConnAck::default() }),
            Packet::PubAck(PubAck {
                reason_string,
                user_properties,
                ..PubAck::new(id, ReasonCode::QuotaExceeded)
            }),
            Packet::PubRec(PubRec::new(id, ReasonCode::NoMatchingSubscribers)),
            Packet::PubRel(PubRel {
                reason_string,
                ..PubRel::new(id, ReasonCode::PacketIdentifierNotFound)
            }),
            Packet::PubComp(PubComp { user_properties, ..PubComp::new(id, ReasonCode::Success) }),
            Packet::SubAck(SubAck { reason_string, user_properties, ..suback }),
            Packet::Unsubscribe(Unsubscribe { user_properties, ..unsubscribe }),
            Packet::UnsubAck(UnsubAck { reason_string, user_properties, ..unsuback }),
            Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver)),
            Packet::Disconnect(Disconnect {
                reason_code: ReasonCode::ServerMoved,
                session_expiry_interval_seconds: Some(1),
                reason_string,
                server_reference: Some("elsewhere"),
                user_properties,
            }),
            Packet::Auth(Auth::default()),
            Packet::Auth(Auth {
                reason_code: ReasonCode::ContinueAuthentication,
                authentication_method: Some("m"),
                authentication_data: Some(b"d"),
                reason_string,
                user_properties,
            }),
        ]);
    }
    let encode = |packet: &Packet<'_>| {
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes);
        bytes
    };
    packets.iter().map(encode).collect()
}

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A generator with the seed of the environment, `MIDGE_SEED`, or this one.
    pub(crate) fn seeded(default: u64) -> (Self, u64) {
        let seed = environment("MIDGE_SEED").unwrap_or(default);
        (Self(seed), seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// How many rounds a random test runs: the environment's `MIDGE_ROUNDS`, or this many.
pub(crate) fn rounds(default: u64) -> u64 {
    environment("MIDGE_ROUNDS").unwrap_or(default)
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Bytes that mean something to some field.
const TELLING: [u8; 22] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x08, 0x0B, 0x10, 0x1F, 0x21, 0x23, 0x26, 0x27, 0x2B, 0x7F, 0x80,
    0x82, 0xC0, 0xED, 0xF4, 0xFE, 0xFF,
];

/// A packet of the corpus with one to three wounds. Mostly its remaining length is put right again, so that the wound
/// is found by what lies deeper.
pub(crate) fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..=random.below(3) {
        wound(random, &mut bytes, corpus);
    }
    if random.below(8) != 0 {
        repair_length(&mut bytes);
    }
    bytes
}

fn wound(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let size = bytes.len();
    if size == 0 {
        bytes.push(*random.pick(&TELLING));
        return;
    }
    let at = random.below(size);
    let end = at + random.below((size - at).min(12) + 1);
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = *random.pick(&TELLING),
        2 => bytes[at] = random.next() as u8,
        3 => bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xFF }),
        4 => bytes.insert(at, *random.pick(&TELLING)),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(end..end, copy);
        }
        7 => bytes.truncate(at),
        _ => {
            let other = random.pick(corpus);
            let from = random.below(other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
    }
}

/// Writes the remaining length that the bytes have.
fn repair_length(bytes: &mut Vec<u8>) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let header = rest.iter().position(|&byte| byte < 0x80).map_or(rest.len(), |at| at + 1).min(4);
    let body = rest[header..].to_vec();
    bytes.clear();
    bytes.push(first);
    let mut size = body.len();
    while size >= 0x80 {
        bytes.push(size as u8 | 0x80);
        size >>= 7;
    }
    bytes.push(size as u8);
    bytes.extend(body);
}
