//! One packet, one file: type, decode, encode, size, tests. This one holds what they have in common.

pub(crate) mod acknowledgement;
pub(crate) mod auth;
pub(crate) mod connack;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub(crate) mod outgoing_publish;
pub(crate) mod pingreq;
pub(crate) mod pingresp;
pub(crate) mod puback;
pub(crate) mod pubcomp;
pub(crate) mod publish;
pub(crate) mod pubrec;
pub(crate) mod pubrel;
pub(crate) mod reason_codes;
pub(crate) mod suback;
pub(crate) mod subscribe;
pub(crate) mod subscription_identifiers;
pub(crate) mod unsuback;
pub(crate) mod unsubscribe;
pub(crate) mod will;

use crate::{
    Auth, ConnAck, Connect, DecodeError, Disconnect, PacketType, PingReq, PingResp,
    ProtocolVersion, PubAck, PubComp, PubRec, PubRel, Publish, RawPacket, SubAck, Subscribe,
    UnsubAck, Unsubscribe,
};

/// A decoded control packet, borrowing from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the packet of its name, documented there")]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(PubAck<'a>),
    PubRec(PubRec<'a>),
    PubRel(PubRel<'a>),
    PubComp(PubComp<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// Decodes any packet of a connection that speaks `version`. A CONNECT finds its version itself.
///
/// # Errors
/// Everything that the specification forbids in a packet by itself.
pub fn decode(raw: RawPacket<'_>, version: ProtocolVersion) -> Result<Packet<'_>, DecodeError> {
    let packet_type = raw.packet_type().ok_or(DecodeError::PacketTypeReserved)?;
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(Connect::decode(raw)?),
        PacketType::ConnAck => Packet::ConnAck(ConnAck::decode(raw, version)?),
        PacketType::Publish => Packet::Publish(Publish::decode(raw, version)?),
        PacketType::PubAck => Packet::PubAck(PubAck::decode(raw, version)?),
        PacketType::PubRec => Packet::PubRec(PubRec::decode(raw, version)?),
        PacketType::PubRel => Packet::PubRel(PubRel::decode(raw, version)?),
        PacketType::PubComp => Packet::PubComp(PubComp::decode(raw, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(raw, version)?),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(raw, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(raw, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(raw, version)?),
        PacketType::PingReq => PingReq::decode(raw, version).map(|_| Packet::PingReq)?,
        PacketType::PingResp => PingResp::decode(raw, version).map(|_| Packet::PingResp)?,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(raw, version)?),
        PacketType::Auth => Packet::Auth(Auth::decode(raw, version)?),
    })
}

impl Packet<'_> {
    /// Its type.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet. A CONNECT is written in its own version, and an AUTH exists in MQTT 5.0 only.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        match self {
            Self::Connect(packet) => packet.encode(out),
            Self::ConnAck(packet) => packet.encode(version, out),
            Self::Publish(packet) => packet.encode(version, out),
            Self::PubAck(packet) => packet.encode(version, out),
            Self::PubRec(packet) => packet.encode(version, out),
            Self::PubRel(packet) => packet.encode(version, out),
            Self::PubComp(packet) => packet.encode(version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::SubAck(packet) => packet.encode(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::UnsubAck(packet) => packet.encode(version, out),
            Self::PingReq => PingReq.encode(out),
            Self::PingResp => PingResp.encode(out),
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(out),
        }
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        match self {
            Self::Connect(packet) => packet.size(),
            Self::ConnAck(packet) => packet.size(version),
            Self::Publish(packet) => packet.size(version),
            Self::PubAck(packet) => packet.size(version),
            Self::PubRec(packet) => packet.size(version),
            Self::PubRel(packet) => packet.size(version),
            Self::PubComp(packet) => packet.size(version),
            Self::Subscribe(packet) => packet.size(version),
            Self::SubAck(packet) => packet.size(version),
            Self::Unsubscribe(packet) => packet.size(version),
            Self::UnsubAck(packet) => packet.size(version),
            Self::PingReq => PingReq::SIZE,
            Self::PingResp => PingResp::SIZE,
            Self::Disconnect(packet) => packet.size(version),
            Self::Auth(packet) => packet.size(),
        }
    }
}
