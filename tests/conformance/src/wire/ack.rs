//! The four acknowledgements of PUBLISH, and DISCONNECT, AUTH and PINGREQ.

use super::packet::Kind;
use super::{Encode, Property, Version, encode_properties, frame};

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which of the four.
    pub kind: Kind,
    /// Packet identifier.
    pub id: u16,
    /// Reason code; always 0 before 5.0.
    pub code: u8,
    /// Empty before 5.0.
    pub properties: Vec<Property>,
}

fn ack(kind: Kind, id: u16) -> Ack {
    Ack { kind, id, code: 0, properties: Vec::new() }
}

/// PUBACK with success.
#[must_use]
pub fn puback(id: u16) -> Ack {
    ack(Kind::PubAck, id)
}

/// PUBREC with success.
#[must_use]
pub fn pubrec(id: u16) -> Ack {
    ack(Kind::PubRec, id)
}

/// PUBREL with success.
#[must_use]
pub fn pubrel(id: u16) -> Ack {
    ack(Kind::PubRel, id)
}

/// PUBCOMP with success.
#[must_use]
pub fn pubcomp(id: u16) -> Ack {
    ack(Kind::PubComp, id)
}

impl Ack {
    /// The same with another reason code (5.0).
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same with one more property (5.0).
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

impl Encode for Ack {
    fn encode(&self, version: Version) -> Vec<u8> {
        let flags = if self.kind == Kind::PubRel { 0b0010 } else { 0 };
        let mut body = self.id.to_be_bytes().to_vec();
        if version.is_v5() && (self.code != 0 || !self.properties.is_empty()) {
            body.push(self.code);
            if !self.properties.is_empty() {
                body.extend(encode_properties(&self.properties));
            }
        }
        frame((self.kind as u8) << 4 | flags, &body)
    }
}

/// DISCONNECT. Before 5.0 it has neither code nor properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Reason code; `None` writes the packet without one.
    pub code: Option<u8>,
    /// Properties, written only if there are any.
    pub properties: Vec<Property>,
}

/// A normal DISCONNECT in the shortest form.
#[must_use]
pub fn disconnect() -> Disconnect {
    Disconnect { code: None, properties: Vec::new() }
}

/// DISCONNECT with a reason code (5.0).
#[must_use]
pub fn disconnect_with(code: u8) -> Disconnect {
    Disconnect { code: Some(code), properties: Vec::new() }
}

impl Disconnect {
    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.code.get_or_insert(0);
        self.properties.push(property);
        self
    }
}

impl Encode for Disconnect {
    fn encode(&self, _: Version) -> Vec<u8> {
        let mut body: Vec<u8> = self.code.into_iter().collect();
        if !self.properties.is_empty() {
            body.extend(encode_properties(&self.properties));
        }
        frame(0xe0, &body)
    }
}

/// AUTH (5.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Reason code.
    pub code: u8,
    /// Properties.
    pub properties: Vec<Property>,
}

/// AUTH with a reason code.
#[must_use]
pub fn auth(code: u8) -> Auth {
    Auth { code, properties: Vec::new() }
}

impl Auth {
    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

impl Encode for Auth {
    fn encode(&self, _: Version) -> Vec<u8> {
        frame(0xf0, &[vec![self.code], encode_properties(&self.properties)].concat())
    }
}

/// PINGREQ.
#[must_use]
pub fn pingreq() -> [u8; 2] {
    [0xc0, 0]
}
