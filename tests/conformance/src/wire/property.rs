//! The properties of MQTT 5.0.

use super::packet::Kind;
use super::{Reader, prefixed, variable};

/// One property. Numbers are in the unit of the specification (seconds, bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub enum Property {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Vec<u8>),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(String),
    ServerKeepAlive(u16),
    AuthenticationMethod(String),
    AuthenticationData(Vec<u8>),
    RequestProblemInformation(u8),
    WillDelay(u32),
    RequestResponseInformation(u8),
    ResponseInformation(String),
    ServerReference(String),
    ReasonString(String),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQoS(u8),
    RetainAvailable(u8),
    User((String, String)),
    MaximumPacketSize(u32),
    WildcardAvailable(u8),
    SubscriptionIdsAvailable(u8),
    SharedAvailable(u8),
    /// Bytes exactly as they are, for what the other variants cannot say.
    Raw(Vec<u8>),
}

/// The value of the first property of a variant in a list, if there is one.
#[macro_export]
macro_rules! property {
    ($list:expr, $variant:ident) => {
        $list.iter().find_map(|property| match property {
            $crate::wire::Property::$variant(value) => Some(value.clone()),
            _ => None,
        })
    };
}

impl Property {
    /// A user property.
    #[must_use]
    pub fn user(name: &str, value: &str) -> Self {
        Self::User((name.into(), value.into()))
    }

    /// The property's identifier and value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let one = |id: u8, value: &u8| vec![id, *value];
        let two = |id: u8, value: &u16| [&[id][..], &value.to_be_bytes()].concat();
        let four = |id: u8, value: &u32| [&[id][..], &value.to_be_bytes()].concat();
        let text = |id: u8, value: &[u8]| [vec![id], prefixed(value)].concat();
        match self {
            Self::PayloadFormat(value) => one(0x01, value),
            Self::MessageExpiry(value) => four(0x02, value),
            Self::ContentType(value) => text(0x03, value.as_bytes()),
            Self::ResponseTopic(value) => text(0x08, value.as_bytes()),
            Self::CorrelationData(value) => text(0x09, value),
            Self::SubscriptionId(value) => [vec![0x0b], variable(*value)].concat(),
            Self::SessionExpiry(value) => four(0x11, value),
            Self::AssignedClientId(value) => text(0x12, value.as_bytes()),
            Self::ServerKeepAlive(value) => two(0x13, value),
            Self::AuthenticationMethod(value) => text(0x15, value.as_bytes()),
            Self::AuthenticationData(value) => text(0x16, value),
            Self::RequestProblemInformation(value) => one(0x17, value),
            Self::WillDelay(value) => four(0x18, value),
            Self::RequestResponseInformation(value) => one(0x19, value),
            Self::ResponseInformation(value) => text(0x1a, value.as_bytes()),
            Self::ServerReference(value) => text(0x1c, value.as_bytes()),
            Self::ReasonString(value) => text(0x1f, value.as_bytes()),
            Self::ReceiveMaximum(value) => two(0x21, value),
            Self::TopicAliasMaximum(value) => two(0x22, value),
            Self::TopicAlias(value) => two(0x23, value),
            Self::MaximumQoS(value) => one(0x24, value),
            Self::RetainAvailable(value) => one(0x25, value),
            Self::User((name, value)) => [vec![0x26], prefixed(name), prefixed(value)].concat(),
            Self::MaximumPacketSize(value) => four(0x27, value),
            Self::WildcardAvailable(value) => one(0x28, value),
            Self::SubscriptionIdsAvailable(value) => one(0x29, value),
            Self::SharedAvailable(value) => one(0x2a, value),
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    /// Reads one property and checks that a server may put it into a packet of this kind.
    fn decode(reader: &mut Reader<'_>, kind: Kind) -> Self {
        let id = reader.variable();
        let allowed: &[Kind] = match id {
            0x01 | 0x02 | 0x03 | 0x08 | 0x09 | 0x0b | 0x23 => &[Kind::Publish],
            0x11 | 0x12 | 0x13 | 0x1a | 0x21 | 0x22 | 0x24 | 0x25 | 0x27 | 0x28 | 0x29 | 0x2a => {
                &[Kind::ConnAck]
            }
            0x15 | 0x16 => &[Kind::ConnAck, Kind::Auth],
            0x1c => &[Kind::ConnAck, Kind::Disconnect],
            0x1f => &Kind::ALL_BUT_PUBLISH,
            0x26 => &Kind::ALL,
            _ => &[],
        };
        assert!(allowed.contains(&kind), "property {id:#04x} in a {kind:?} from the broker");
        let flag = |value: u8| {
            assert!(value <= 1, "property {id:#04x} is {value}, neither 0 nor 1");
            value
        };
        match id {
            0x01 => Self::PayloadFormat(flag(reader.u8())),
            0x02 => Self::MessageExpiry(reader.u32()),
            0x03 => Self::ContentType(reader.string()),
            0x08 => Self::ResponseTopic(reader.string()),
            0x09 => Self::CorrelationData(reader.binary()),
            0x0b => Self::SubscriptionId(reader.variable()),
            0x11 => Self::SessionExpiry(reader.u32()),
            0x12 => Self::AssignedClientId(reader.string()),
            0x13 => Self::ServerKeepAlive(reader.u16()),
            0x15 => Self::AuthenticationMethod(reader.string()),
            0x16 => Self::AuthenticationData(reader.binary()),
            0x1a => Self::ResponseInformation(reader.string()),
            0x1c => Self::ServerReference(reader.string()),
            0x1f => Self::ReasonString(reader.string()),
            0x21 => Self::ReceiveMaximum(reader.u16()),
            0x22 => Self::TopicAliasMaximum(reader.u16()),
            0x23 => Self::TopicAlias(reader.u16()),
            0x24 => Self::MaximumQoS(flag(reader.u8())),
            0x25 => Self::RetainAvailable(flag(reader.u8())),
            0x26 => Self::User((reader.string(), reader.string())),
            0x27 => Self::MaximumPacketSize(reader.u32()),
            0x28 => Self::WildcardAvailable(flag(reader.u8())),
            0x29 => Self::SubscriptionIdsAvailable(flag(reader.u8())),
            0x2a => Self::SharedAvailable(flag(reader.u8())),
            _ => unreachable!("no packet kind allows {id:#04x}"),
        }
    }
}

/// Properties with their length in front.
#[must_use]
pub fn encode_properties(properties: &[Property]) -> Vec<u8> {
    let body: Vec<u8> = properties.iter().flat_map(Property::encode).collect();
    let size = u32::try_from(body.len()).expect("a test packet is small");
    [variable(size), body].concat()
}

/// Reads properties with their length in front; only user properties and subscription
/// identifiers may occur more than once.
pub(super) fn decode_properties(reader: &mut Reader<'_>, kind: Kind) -> Vec<Property> {
    let size = reader.variable() as usize;
    let mut body = Reader::new(reader.bytes(size));
    let mut properties: Vec<Property> = Vec::new();
    while !body.is_empty() {
        let property = Property::decode(&mut body, kind);
        let repeats = matches!(property, Property::User(_) | Property::SubscriptionId(_));
        let same =
            |other: &Property| std::mem::discriminant(other) == std::mem::discriminant(&property);
        assert!(repeats || !properties.iter().any(same), "{property:?} twice in a {kind:?}");
        properties.push(property);
    }
    properties
}
