//! MQTT to and from bytes, written a second time.
//!
//! The broker's own codec is not used here, on purpose: a mistake made there would hide itself if
//! the test read and wrote through it. This one is as plain as it can be. The encoder writes what it
//! is told, including what the specification forbids; the decoder reads only what a server may send
//! and panics on everything else, because a malformed packet from the broker is a failed test.

mod ack;
mod connect;
mod packet;
mod property;
mod publish;
mod reader;
mod subscribe;

pub use ack::{
    Ack, Auth, Disconnect, auth, disconnect, disconnect_with, pingreq, puback, pubcomp, pubrec,
    pubrel,
};
pub use connect::{Connect, Will, will};
pub use packet::{ConnAck, Kind, Packet, SubAck};
pub use property::{Property, encode_properties};
pub use publish::{Publish, publish};
pub use reader::Reader;
pub use subscribe::{
    NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_IF_NEW, RETAIN_NEVER, Subscribe, Unsubscribe, subscribe,
    unsubscribe,
};

/// A version of the protocol; the number is the protocol level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`.
    V31 = 3,
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

impl Version {
    /// All three.
    pub const ALL: [Self; 3] = [Self::V31, Self::V311, Self::V5];
    /// The two with numbered normative statements.
    pub const NUMBERED: [Self; 2] = [Self::V311, Self::V5];
    /// The two without reason codes.
    pub const OLD: [Self; 2] = [Self::V31, Self::V311];

    /// Whether packets carry properties and reason codes.
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// Something that can be sent: a builder, or bytes exactly as they are.
pub trait Encode {
    /// The bytes on the wire.
    fn encode(&self, version: Version) -> Vec<u8>;
}

impl Encode for Vec<u8> {
    fn encode(&self, _: Version) -> Vec<u8> {
        self.clone()
    }
}

impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, _: Version) -> Vec<u8> {
        self.to_vec()
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, version: Version) -> Vec<u8> {
        (**self).encode(version)
    }
}

/// A whole packet: first byte, remaining length in as few bytes as possible, body.
#[must_use]
pub fn frame(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    out.extend(variable(u32::try_from(body.len()).expect("a test packet is small")));
    out.extend(body);
    out
}

/// A Variable Byte Integer in as few bytes as possible.
#[must_use]
pub fn variable(mut value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// Bytes behind a two-byte length: binary data, or a string that may be ill-formed.
#[must_use]
pub fn prefixed(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let size = u16::try_from(bytes.len()).expect("at most 65,535 bytes fit behind a length");
    [&size.to_be_bytes(), bytes].concat()
}
