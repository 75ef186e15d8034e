//! Packets of clients, made from choices: few names and ids, so that they meet.

use std::num::{NonZeroU16, NonZeroU32};

use midge_codec::{
    Auth, Connect, ConnectProperties, Disconnect, PacketId, PingReq, ProtocolVersion, PubAck,
    PubComp, PubRec, PubRel, Publish, PublishProperties, QoS, ReasonCode, RetainHandling,
    Subscribe, SubscribeFilter, Unsubscribe, Will, WillProperties,
};

use crate::choices::Choices;

const CLIENTS: [&str; 6] = ["a", "b", "c", "d", "e", ""];
/// What is published to; also for looking whether anybody is still interested.
pub(crate) const TOPICS: [&str; 8] = ["t", "t/1", "t/2", "t/1/x", "$x/t", "u/1", "", "$SYS/t"];
const FILTERS: [&str; 16] = [
    "t",
    "t/1",
    "t/+",
    "t/#",
    "#",
    "+",
    "+/1",
    "$x/#",
    "u/1",
    "$share/g/t/+",
    "$share/g/t/1",
    "$share/h/#",
    "$share/g/u/1",
    "$share/g",
    "t/#/x",
    "a/b/c/d/e/f/g/h",
];
const SIZES: [usize; 6] = [0, 3, 40, 200, 500, 900];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What a CONNECT has announced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    pub(crate) version: ProtocolVersion,
    pub(crate) maximum_packet_size: usize,
    pub(crate) receive_maximum: usize,
}

/// A CONNECT.
pub(crate) fn connect(choices: &mut Choices<'_>, out: &mut Vec<u8>) -> Option<Announced> {
    let version = choices.of(&ProtocolVersion::ALL)?;
    let flags = choices.byte()?;
    let mut connect = Connect::new(version, choices.of(&CLIENTS)?);
    connect.clean_start = flags & 1 != 0;
    connect.keep_alive_seconds = if flags & 2 != 0 { 10 } else { 0 };
    let mut announced = Announced { version, maximum_packet_size: 0, receive_maximum: 65_535 };
    if flags & 4 != 0 {
        let kind = choices.byte()?;
        connect.will = Some(Will {
            qos: QUALITIES[usize::from(kind % 3)],
            retain: kind & 0x80 != 0,
            topic: TOPICS[usize::from(kind >> 2) % 4],
            payload: b"gone",
            properties: WillProperties {
                delay_interval_seconds: (version.is_v5() && kind & 0x40 != 0).then_some(20),
                ..WillProperties::default()
            },
        });
    }
    if version.is_v5() {
        let expiry = choices.of(&[None, Some(0), Some(5), Some(100), Some(u32::MAX)])?;
        let receive_maximum = choices.of(&[0, 1, 2, 10])?;
        let maximum_packet_size = choices.of(&[0, 20, 60, 300])?;
        announced.maximum_packet_size = maximum_packet_size as usize;
        if receive_maximum > 0 {
            announced.receive_maximum = usize::from(receive_maximum);
        }
        connect.properties = ConnectProperties {
            session_expiry_interval_seconds: expiry,
            receive_maximum: NonZeroU16::new(receive_maximum),
            maximum_packet_size: NonZeroU32::new(maximum_packet_size),
            topic_alias_maximum: (flags & 8 != 0).then_some(2),
            request_problem_information: (flags & 16 != 0).then_some(false),
            authentication_method: (flags & 0xE0 == 0xE0).then_some("m"),
            ..ConnectProperties::default()
        };
    }
    connect.encode(out);
    Some(announced)
}

fn id(choices: &mut Choices<'_>) -> Option<PacketId> {
    PacketId::new(choices.below(8)? as u16 + 1)
}

/// An acknowledgement that was written: what it means for the client's own count.
pub(crate) type Acknowledgement = Option<(u16, QoS)>;

/// Any other packet of a client.
pub(crate) fn packet(
    choices: &mut Choices<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Option<Acknowledgement> {
    let mut acknowledgement = None;
    match choices.below(16)? {
        0..5 => publish(choices, version, out)?,
        5..8 => {
            let count = choices.below(3)? + 1;
            let mut filters = Vec::new();
            for _ in 0..count {
                let kind = choices.byte()?;
                let filter = choices.of(&FILTERS)?;
                let shared = filter.starts_with("$share/");
                let handling = [
                    RetainHandling::SendAlways,
                    RetainHandling::SendIfNew,
                    RetainHandling::DoNotSend,
                ];
                filters.push(SubscribeFilter {
                    no_local: version.is_v5() && kind & 4 != 0 && !shared,
                    retain_as_published: version.is_v5() && kind & 8 != 0,
                    retain_handling: if version.is_v5() {
                        handling[usize::from(kind >> 4) % 3]
                    } else {
                        RetainHandling::SendAlways
                    },
                    ..SubscribeFilter::new(filter, QUALITIES[usize::from(kind % 3)])
                });
            }
            let mut subscribe = Subscribe::new(id(choices)?, &filters);
            if version.is_v5() {
                subscribe.subscription_identifier = choices.of(&[None, Some(1), Some(300)])?;
            }
            subscribe.encode(version, out);
        }
        8 => {
            let filters = [choices.of(&FILTERS)?];
            Unsubscribe::new(id(choices)?, &filters).encode(version, out);
        }
        9 => {
            let id = id(choices)?;
            PubAck::new(id, ReasonCode::Success).encode(version, out);
            acknowledgement = Some((id.get(), QoS::AtLeastOnce));
        }
        10 => {
            let id = id(choices)?;
            let refused = version.is_v5() && choices.byte()? & 1 != 0;
            let reason = if refused { ReasonCode::QuotaExceeded } else { ReasonCode::Success };
            PubRec::new(id, reason).encode(version, out);
            acknowledgement = refused.then_some((id.get(), QoS::ExactlyOnce));
        }
        11 => PubRel::new(id(choices)?, ReasonCode::Success).encode(version, out),
        12 => {
            let id = id(choices)?;
            PubComp::new(id, ReasonCode::Success).encode(version, out);
            acknowledgement = Some((id.get(), QoS::ExactlyOnce));
        }
        13 => PingReq.encode(out),
        14 => {
            let reason = choices.of(&[ReasonCode::Success, ReasonCode::DisconnectWithWill])?;
            let mut disconnect = Disconnect::new(reason);
            if version.is_v5() {
                disconnect.session_expiry_interval_seconds =
                    choices.of(&[None, Some(0), Some(7)])?;
            }
            disconnect.encode(version, out);
        }
        _ if version.is_v5() => {
            Auth { reason_code: ReasonCode::Success, ..Auth::default() }.encode(out)
        }
        _ => PingReq.encode(out),
    }
    Some(acknowledgement)
}

fn publish(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Option<()> {
    let kind = choices.byte()?;
    let qos = QUALITIES[usize::from(kind % 3)];
    let topic = choices.of(&TOPICS)?;
    let payload = vec![b'x'; choices.of(&SIZES)?];
    let mut properties = PublishProperties::default();
    if version.is_v5() && kind & 0x20 != 0 {
        properties.topic_alias = NonZeroU16::new(choices.below(4)? as u16 + 1);
    }
    if version.is_v5() && kind & 0x40 != 0 {
        properties.message_expiry_interval_seconds = choices.of(&[None, Some(0), Some(3)])?;
        properties.content_type = choices.of(&[None, Some("text")])?;
    }
    let packet_id = if qos > QoS::AtMostOnce { Some(id(choices)?) } else { None };
    let topic = if properties.topic_alias.is_some() || !topic.is_empty() { topic } else { "t" };
    let publish = Publish {
        dup: qos > QoS::AtMostOnce && kind & 0x10 != 0,
        qos,
        retain: kind & 0x08 != 0,
        topic,
        packet_id,
        payload: &payload,
        properties,
    };
    // Several of a kind travel together.
    for _ in 0..choices.of(&[1, 1, 1, 4])? {
        publish.encode(version, out);
    }
    Some(())
}
