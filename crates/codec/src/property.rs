//! The properties of MQTT 5.0: every identifier, its type and its packets in one table.
//!
//! [`PropertyReader`] walks a block once. It refuses identifiers that nobody defined, that belong to another packet, and
//! that come twice though they may come once; what is left to the packet is to take the values.

use core::num::{NonZeroU16, NonZeroU32};

use crate::read::Reader;
use crate::write::Sink;
use crate::{DecodeError, QoS};

/// A packet that carries properties, or the Will inside a CONNECT, as a bit of a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Carrier {
    Connect = 1,
    ConnAck = 1 << 1,
    Publish = 1 << 2,
    Will = 1 << 3,
    PubAck = 1 << 4,
    PubRec = 1 << 5,
    PubRel = 1 << 6,
    PubComp = 1 << 7,
    Subscribe = 1 << 8,
    SubAck = 1 << 9,
    Unsubscribe = 1 << 10,
    UnsubAck = 1 << 11,
    Disconnect = 1 << 12,
    Auth = 1 << 13,
}

impl Carrier {
    const ALL: [Self; 14] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::Will,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::Disconnect,
        Self::Auth,
    ];

    /// Identifiers that this carrier may have, one bit each.
    const fn allowed(self) -> u64 {
        ALLOWED[(self as u16).trailing_zeros() as usize]
    }

    /// Identifiers that this carrier may have more than once: User Property everywhere, and in a PUBLISH one
    /// Subscription Identifier for each subscription that matched. [MQTT-3.3.4-3]
    const fn repeated(self) -> u64 {
        match self {
            Self::Publish => 1 << id::USER_PROPERTY | 1 << id::SUBSCRIPTION_IDENTIFIER,
            _ => 1 << id::USER_PROPERTY,
        }
    }
}

/// Property identifiers. All are below 64, so that a set of them is one word.
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// Table 2-4 of MQTT 5.0: which carriers may have which property. Its types are in [`Property::decode`].
#[rustfmt::skip]
const CARRIERS: [(u8, u16); 27] = {
    use Carrier as C;
    const PUBLICATION: u16 = C::Publish as u16 | C::Will as u16;
    const HANDSHAKE: u16 = C::Connect as u16 | C::ConnAck as u16;
    const ACKNOWLEDGEMENT: u16 = C::PubAck as u16 | C::PubRec as u16 | C::PubRel as u16 | C::PubComp as u16
        | C::SubAck as u16 | C::UnsubAck as u16;
    const EVERYWHERE: u16 = (1 << C::ALL.len()) - 1;
    [
        (id::PAYLOAD_FORMAT_INDICATOR, PUBLICATION),
        (id::MESSAGE_EXPIRY_INTERVAL, PUBLICATION),
        (id::CONTENT_TYPE, PUBLICATION),
        (id::RESPONSE_TOPIC, PUBLICATION),
        (id::CORRELATION_DATA, PUBLICATION),
        (id::SUBSCRIPTION_IDENTIFIER, C::Publish as u16 | C::Subscribe as u16),
        (id::SESSION_EXPIRY_INTERVAL, HANDSHAKE | C::Disconnect as u16),
        (id::ASSIGNED_CLIENT_IDENTIFIER, C::ConnAck as u16),
        (id::SERVER_KEEP_ALIVE, C::ConnAck as u16),
        (id::AUTHENTICATION_METHOD, HANDSHAKE | C::Auth as u16),
        (id::AUTHENTICATION_DATA, HANDSHAKE | C::Auth as u16),
        (id::REQUEST_PROBLEM_INFORMATION, C::Connect as u16),
        (id::WILL_DELAY_INTERVAL, C::Will as u16),
        (id::REQUEST_RESPONSE_INFORMATION, C::Connect as u16),
        (id::RESPONSE_INFORMATION, C::ConnAck as u16),
        (id::SERVER_REFERENCE, C::ConnAck as u16 | C::Disconnect as u16),
        (id::REASON_STRING, C::ConnAck as u16 | ACKNOWLEDGEMENT | C::Disconnect as u16 | C::Auth as u16),
        (id::RECEIVE_MAXIMUM, HANDSHAKE),
        (id::TOPIC_ALIAS_MAXIMUM, HANDSHAKE),
        (id::TOPIC_ALIAS, C::Publish as u16),
        (id::MAXIMUM_QOS, C::ConnAck as u16),
        (id::RETAIN_AVAILABLE, C::ConnAck as u16),
        (id::USER_PROPERTY, EVERYWHERE),
        (id::MAXIMUM_PACKET_SIZE, HANDSHAKE),
        (id::WILDCARD_SUBSCRIPTION_AVAILABLE, C::ConnAck as u16),
        (id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE, C::ConnAck as u16),
        (id::SHARED_SUBSCRIPTION_AVAILABLE, C::ConnAck as u16),
    ]
};

/// [`CARRIERS`] turned over: the identifiers of each carrier.
const ALLOWED: [u64; Carrier::ALL.len()] = {
    let mut allowed = [0; Carrier::ALL.len()];
    let mut place = 0;
    while place < CARRIERS.len() {
        let (id, carriers) = CARRIERS[place];
        let mut carrier = 0;
        while carrier < allowed.len() {
            if carriers & 1 << carrier != 0 {
                allowed[carrier] |= 1 << id;
            }
            carrier += 1;
        }
        place += 1;
    }
    allowed
};

/// Every identifier that exists.
const KNOWN: u64 = {
    let mut known = 0;
    let mut carrier = 0;
    while carrier < ALLOWED.len() {
        known |= ALLOWED[carrier];
        carrier += 1;
    }
    known
};

/// One property with its value, already within what the specification allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the specification calls one of them User Property")]
pub(crate) enum Property<'a> {
    PayloadFormatIndicator(u8),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(NonZeroU32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQos(QoS),
    RetainAvailable(bool),
    UserProperty(&'a str, &'a str),
    MaximumPacketSize(NonZeroU32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifiersAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// Walks a block of properties.
#[derive(Clone, Debug)]
pub(crate) struct PropertyReader<'a> {
    block: &'a [u8],
    reader: Reader<'a>,
    carrier: Carrier,
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// Reads the length of the block and the block itself off the packet.
    #[inline]
    pub(crate) fn open(packet: &mut Reader<'a>, carrier: Carrier) -> Result<Self, DecodeError> {
        Ok(Self::new(packet.property_block()?, carrier))
    }

    /// Walks a block that stands alone.
    #[inline]
    pub(crate) const fn new(block: &'a [u8], carrier: Carrier) -> Self {
        Self { block, reader: Reader::new(block), carrier, seen: 0 }
    }

    /// How many bytes of the block were read.
    #[inline]
    pub(crate) const fn position(&self) -> usize {
        self.block.len() - self.reader.rest().len()
    }

    /// The block.
    #[inline]
    pub(crate) const fn block(&self) -> &'a [u8] {
        self.block
    }

    /// The next property, or `None` at the end of the block.
    ///
    /// Identifiers are Variable Byte Integers, but the table ends below 128 and the shortest form is the only one
    /// [MQTT-1.5.5-1], so one byte tells them all.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let identifier = self.reader.u8()?;
        let bit = if identifier < 64 { 1 << identifier } else { 0 };
        if bit & self.carrier.allowed() == 0 {
            return Err(if bit & KNOWN == 0 {
                DecodeError::PropertyUnknown
            } else {
                DecodeError::PropertyMisplaced
            });
        }
        if bit & self.seen & !self.carrier.repeated() != 0 {
            return Err(DecodeError::PropertyDuplicate);
        }
        self.seen |= bit;
        Property::decode(identifier, &mut self.reader).map(Some)
    }
}

/// Walks a block, or part of one, that [`PropertyReader`] has already passed.
#[derive(Clone, Debug)]
pub(crate) struct ValidProperties<'a>(Reader<'a>);

impl<'a> ValidProperties<'a> {
    pub(crate) const fn new(block: &'a [u8]) -> Self {
        Self(Reader::new(block))
    }
}

impl<'a> Iterator for ValidProperties<'a> {
    type Item = Property<'a>;

    /// There is no error left to find; if there were one, the walk would just end.
    fn next(&mut self) -> Option<Property<'a>> {
        let identifier = self.0.u8().ok()?;
        Property::decode(identifier, &mut self.0).ok()
    }
}

impl<'a> Property<'a> {
    /// Reads the value behind an identifier, by the types of table 2-4.
    fn decode(identifier: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match identifier {
            id::PAYLOAD_FORMAT_INDICATOR => {
                Property::PayloadFormatIndicator(u8::from(flag(reader)?))
            }
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiryInterval(reader.u32()?),
            id::CONTENT_TYPE => Property::ContentType(reader.string()?),
            id::RESPONSE_TOPIC => Property::ResponseTopic(response_topic(reader)?),
            id::CORRELATION_DATA => Property::CorrelationData(reader.binary()?),
            id::SUBSCRIPTION_IDENTIFIER => Property::SubscriptionIdentifier(
                NonZeroU32::new(reader.variable_byte_integer()?)
                    .ok_or(DecodeError::SubscriptionIdentifierZero)?,
            ),
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiryInterval(reader.u32()?),
            id::ASSIGNED_CLIENT_IDENTIFIER => Property::AssignedClientIdentifier(reader.string()?),
            id::SERVER_KEEP_ALIVE => Property::ServerKeepAlive(reader.u16()?),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.string()?),
            id::AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag(reader)?),
            id::WILL_DELAY_INTERVAL => Property::WillDelayInterval(reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(flag(reader)?),
            id::RESPONSE_INFORMATION => Property::ResponseInformation(reader.string()?),
            id::SERVER_REFERENCE => Property::ServerReference(reader.string()?),
            id::REASON_STRING => Property::ReasonString(reader.string()?),
            id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(
                NonZeroU16::new(reader.u16()?).ok_or(DecodeError::ReceiveMaximumZero)?,
            ),
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
            id::TOPIC_ALIAS => Property::TopicAlias(
                NonZeroU16::new(reader.u16()?).ok_or(DecodeError::TopicAliasZero)?,
            ),
            id::MAXIMUM_QOS => Property::MaximumQos(match flag(reader)? {
                false => QoS::AtMostOnce,
                true => QoS::AtLeastOnce,
            }),
            id::RETAIN_AVAILABLE => Property::RetainAvailable(flag(reader)?),
            id::USER_PROPERTY => Property::UserProperty(reader.string()?, reader.string()?),
            id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(
                NonZeroU32::new(reader.u32()?).ok_or(DecodeError::MaximumPacketSizeZero)?,
            ),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                Property::WildcardSubscriptionAvailable(flag(reader)?)
            }
            id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE => {
                Property::SubscriptionIdentifiersAvailable(flag(reader)?)
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                Property::SharedSubscriptionAvailable(flag(reader)?)
            }
            _ => return Err(DecodeError::PropertyUnknown),
        })
    }
}

/// A byte that may be 0 or 1.
fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::PropertyValueInvalid),
    }
}

/// A Response Topic is a Topic Name [MQTT-3.3.2-13], so it has a character [MQTT-4.7.3-1] and no wildcard [MQTT-3.3.2-14].
fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.topic_name() {
        Ok("") => Err(DecodeError::ResponseTopicEmpty),
        Err(DecodeError::TopicNameWildcard) => Err(DecodeError::ResponseTopicWildcard),
        result => result,
    }
}

/// Appending single properties. An absent one takes no bytes.
pub(crate) trait PropertySink: Sink {
    #[inline]
    fn put_property_u8(&mut self, identifier: u8, value: Option<u8>) {
        if let Some(value) = value {
            self.put(&[identifier, value]);
        }
    }

    #[inline]
    fn put_property_flag(&mut self, identifier: u8, value: Option<bool>) {
        self.put_property_u8(identifier, value.map(u8::from));
    }

    #[inline]
    fn put_property_u16(&mut self, identifier: u8, value: Option<u16>) {
        if let Some(value) = value {
            let [high, low] = value.to_be_bytes();
            self.put(&[identifier, high, low]);
        }
    }

    #[inline]
    fn put_property_u32(&mut self, identifier: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.put_u8(identifier);
            self.put_u32(value);
        }
    }

    #[inline]
    fn put_property_string(&mut self, identifier: u8, value: Option<&str>) {
        if let Some(value) = value {
            self.put_u8(identifier);
            self.put_string(value);
        }
    }

    #[inline]
    fn put_property_binary(&mut self, identifier: u8, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.put_u8(identifier);
            self.put_binary(value);
        }
    }
}

impl<S: Sink> PropertySink for S {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::text;

    /// Every identifier with a value that its type allows, behind it what that value means.
    fn values() -> Vec<(u8, Vec<u8>, Property<'static>)> {
        use Property as P;
        let word = NonZeroU16::new(7).unwrap();
        let long = NonZeroU32::new(7).unwrap();
        vec![
            (0x01, vec![1], P::PayloadFormatIndicator(1)),
            (0x02, vec![0, 0, 0, 7], P::MessageExpiryInterval(7)),
            (0x03, text("s"), P::ContentType("s")),
            (0x08, text("s"), P::ResponseTopic("s")),
            (0x09, text("b"), P::CorrelationData(b"b")),
            (0x0B, vec![7], P::SubscriptionIdentifier(long)),
            (0x11, vec![0, 0, 0, 7], P::SessionExpiryInterval(7)),
            (0x12, text("s"), P::AssignedClientIdentifier("s")),
            (0x13, vec![0, 7], P::ServerKeepAlive(7)),
            (0x15, text("s"), P::AuthenticationMethod("s")),
            (0x16, text("b"), P::AuthenticationData(b"b")),
            (0x17, vec![1], P::RequestProblemInformation(true)),
            (0x18, vec![0, 0, 0, 7], P::WillDelayInterval(7)),
            (0x19, vec![0], P::RequestResponseInformation(false)),
            (0x1A, text("s"), P::ResponseInformation("s")),
            (0x1C, text("s"), P::ServerReference("s")),
            (0x1F, text("s"), P::ReasonString("s")),
            (0x21, vec![0, 7], P::ReceiveMaximum(word)),
            (0x22, vec![0, 7], P::TopicAliasMaximum(7)),
            (0x23, vec![0, 7], P::TopicAlias(word)),
            (0x24, vec![1], P::MaximumQos(QoS::AtLeastOnce)),
            (0x25, vec![1], P::RetainAvailable(true)),
            (0x26, [text("k"), text("v")].concat(), P::UserProperty("k", "v")),
            (0x27, vec![0, 0, 0, 7], P::MaximumPacketSize(long)),
            (0x28, vec![1], P::WildcardSubscriptionAvailable(true)),
            (0x29, vec![1], P::SubscriptionIdentifiersAvailable(true)),
            (0x2A, vec![1], P::SharedSubscriptionAvailable(true)),
        ]
    }

    /// Table 2-4 the other way round, typed from the packets' own sections: what each may carry.
    fn allowed(carrier: Carrier) -> &'static [u8] {
        match carrier {
            Carrier::Connect => &[0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26, 0x15, 0x16],
            Carrier::ConnAck => &[
                0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22, 0x1F, 0x26, 0x28, 0x29, 0x2A, 0x13, 0x1A,
                0x1C, 0x15, 0x16,
            ],
            Carrier::Publish => &[0x01, 0x02, 0x23, 0x08, 0x09, 0x26, 0x0B, 0x03],
            Carrier::Will => &[0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26],
            Carrier::PubAck
            | Carrier::PubRec
            | Carrier::PubRel
            | Carrier::PubComp
            | Carrier::SubAck
            | Carrier::UnsubAck => &[0x1F, 0x26],
            Carrier::Subscribe => &[0x0B, 0x26],
            Carrier::Unsubscribe => &[0x26],
            Carrier::Disconnect => &[0x11, 0x1F, 0x26, 0x1C],
            Carrier::Auth => &[0x15, 0x16, 0x1F, 0x26],
        }
    }

    fn walk(block: &[u8], carrier: Carrier) -> Result<Vec<Property<'_>>, DecodeError> {
        let mut reader = PropertyReader::new(block, carrier);
        let mut found = Vec::new();
        while let Some(property) = reader.next()? {
            found.push(property);
        }
        Ok(found)
    }

    /// All 256 identifiers in all 14 carriers, once and twice.
    #[test]
    fn every_identifier_in_every_carrier() {
        let values = values();
        for carrier in Carrier::ALL {
            for identifier in 0..=u8::MAX {
                let Some((_, value, meaning)) = values.iter().find(|row| row.0 == identifier)
                else {
                    let block = [identifier, 0, 0, 0, 0];
                    assert_eq!(walk(&block, carrier), Err(DecodeError::PropertyUnknown));
                    continue;
                };
                let once = [&[identifier], &value[..]].concat();
                let twice = [&once[..], &once].concat();
                if !allowed(carrier).contains(&identifier) {
                    assert_eq!(walk(&once, carrier), Err(DecodeError::PropertyMisplaced));
                    continue;
                }
                assert_eq!(walk(&once, carrier), Ok(vec![*meaning]));
                let may_repeat = identifier == id::USER_PROPERTY
                    || identifier == id::SUBSCRIPTION_IDENTIFIER && carrier == Carrier::Publish;
                let expected = match may_repeat {
                    true => Ok(vec![*meaning, *meaning]),
                    false => Err(DecodeError::PropertyDuplicate),
                };
                assert_eq!(walk(&twice, carrier), expected, "{identifier:02X} in {carrier:?}");
                // Cut short anywhere, it is refused.
                for end in 1..once.len() {
                    assert_eq!(walk(&once[..end], carrier), Err(DecodeError::BodyTooShort));
                }
                // The second walk, for lists, sees what the first saw.
                assert!(ValidProperties::new(&once).eq([*meaning]));
            }
        }
    }

    /// An identifier is a Variable Byte Integer; none of two bytes is defined, none may be longer than needed.
    #[test]
    fn identifiers_of_two_bytes_are_unknown() {
        for block in [&[0x80, 0x01, 0, 0][..], &[0xA6, 0x00, 0, 0, 0, 0], &[0xFF, 0xFF, 0xFF, 0x7F]]
        {
            assert_eq!(walk(block, Carrier::Publish), Err(DecodeError::PropertyUnknown));
        }
    }

    #[test]
    fn flags_are_0_or_1() {
        for identifier in [0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A] {
            let carrier = Carrier::ALL.into_iter().find(|&c| allowed(c).contains(&identifier));
            for value in 2..=u8::MAX {
                let found = walk(&[identifier, value], carrier.unwrap()).map(|_| ());
                assert_eq!(found, Err(DecodeError::PropertyValueInvalid));
            }
        }
    }
}
