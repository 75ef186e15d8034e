//! MQTT 3.1, 3.1.1 and 5.0 control packets from and to bytes.
//!
//! A connection's bytes become packets in two steps. [`frame`] finds where the next packet ends, without looking into
//! it; [`decode`] (or [`Publish::decode`] on the hot path, [`Connect::decode`] for the first packet) turns its body into
//! a value that borrows from those bytes. The other way, every packet appends itself to a buffer of the caller, and
//! [`OutgoingPublish`] writes the header of a publication whose payload is shared.
//!
//! # Invariants
//! - Nothing here allocates while decoding, and encoding grows only the caller's buffer. Nothing here recurses, blocks,
//!   reads a clock or keeps state between two packets.
//! - Every function is total over bytes: no input panics. What the specification forbids is a [`DecodeError`], which
//!   knows its [`ReasonCode`] and the statement it stands for; what it allows is accepted, even if nobody sends it.
//! - A decoded value cannot be wrong by itself: text is UTF-8 without U+0000, a Topic Name has no wildcard, a
//!   [`PacketId`] is not zero. Lists (filters, user properties) were validated as a whole before the first is iterated.
//!
//! # What is deliberately absent
//! - Direction. Client and server, tests and load tools all decode with the same functions; that a client must not send a
//!   CONNACK ([`PacketType::sent_by_client`]) or a Subscription Identifier in a PUBLISH [MQTT-3.3.4-6] is the session's to say.
//! - Order and state: the second CONNECT, a Packet Identifier in use, a Topic Alias above the maximum.
//! - Policy: the length of a Client Identifier, the number of levels, the placement of wildcards in a filter (the topic room).
#![forbid(unsafe_code)]

mod error;
mod frame;
mod packet;
mod packet_id;
mod property;
mod qos;
mod read;
mod reason;
#[cfg(test)]
mod testing;
mod text;
mod user_properties;
mod variable_byte_integer;
mod version;
mod write;

pub use error::{DecodeError, ErrorKind};
pub use frame::{Framed, PACKET_SIZE_MAX, PacketType, RawPacket, frame};
pub use packet::auth::Auth;
pub use packet::connack::{ConnAck, ConnAckProperties};
pub use packet::connect::{Connect, ConnectProperties};
pub use packet::disconnect::Disconnect;
pub use packet::outgoing_publish::OutgoingPublish;
pub use packet::pingreq::PingReq;
pub use packet::pingresp::PingResp;
pub use packet::puback::PubAck;
pub use packet::pubcomp::PubComp;
pub use packet::publish::{Publish, PublishProperties};
pub use packet::pubrec::PubRec;
pub use packet::pubrel::PubRel;
pub use packet::reason_codes::{ReasonCodes, ReasonCodesIter};
pub use packet::suback::SubAck;
pub use packet::subscribe::{
    RetainHandling, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeFiltersIter,
};
pub use packet::subscription_identifiers::{SubscriptionIdentifiers, SubscriptionIdentifiersIter};
pub use packet::unsuback::UnsubAck;
pub use packet::unsubscribe::{Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersIter};
pub use packet::will::{Will, WillProperties};
pub use packet::{Packet, decode};
pub use packet_id::PacketId;
pub use qos::QoS;
pub use reason::ReasonCode;
pub use user_properties::{UserProperties, UserPropertiesIter};
pub use version::ProtocolVersion;
