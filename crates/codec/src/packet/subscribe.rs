//! SUBSCRIBE: Topic Filters with the options a client wants for each.
//!
//! Decoding validates the whole list, so that iterating it cannot fail and a bad last filter cannot leave the first half
//! subscribed. Whether a filter's wildcards stand where they may, and whether `$share` has a name, is the topic room's to
//! say: a bad filter there is answered in the SUBACK, not with a closed connection.

use crate::property::{Carrier, Property, PropertyReader, id};
use crate::read::Reader;
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketId, PacketType, ProtocolVersion, QoS, RawPacket, UserProperties};

/// A client's wish to receive publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The SUBACK carries the same. [MQTT-3.8.4-2]
    pub packet_id: PacketId,
    /// Comes back with every publication that one of these subscriptions matches: 1 to 268,435,455; MQTT 5.0 only.
    pub subscription_identifier: Option<u32>,
    /// MQTT 5.0 only.
    pub user_properties: UserProperties<'a>,
    /// At least one. [MQTT-3.8.3-2]
    pub filters: SubscribeFilters<'a>,
}

/// One Topic Filter with its Subscription Options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// UTF-8 without U+0000, not empty; its wildcards are not checked.
    pub filter: &'a str,
    /// The highest QoS that the client wants.
    pub qos: QoS,
    /// The client does not want its own publications. MQTT 5.0 only, and not on a Shared Subscription [MQTT-3.8.3-4].
    pub no_local: bool,
    /// Publications keep their retain flag. MQTT 5.0 only.
    pub retain_as_published: bool,
    /// Whether retained messages are sent now. MQTT 5.0 only.
    pub retain_handling: RetainHandling,
}

/// When a subscription brings retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// With every SUBSCRIBE, as always before MQTT 5.0.
    #[default]
    SendAlways = 0,
    /// When the subscription did not exist before.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl RetainHandling {
    /// The value of this number; `None` from 3 on.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::SendAlways),
            1 => Some(Self::SendIfNew),
            2 => Some(Self::DoNotSend),
            _ => None,
        }
    }
}

/// The Subscription Options byte.
mod option {
    pub(super) const QOS: u8 = 0b11;
    pub(super) const NO_LOCAL: u8 = 1 << 2;
    pub(super) const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
    pub(super) const RETAIN_HANDLING_SHIFT: u8 = 4;
}

/// What a filter of a Shared Subscription starts with.
const SHARED: &str = "$share/";

impl<'a> Subscribe<'a> {
    /// One without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, filters: &'a [SubscribeFilter<'a>]) -> Self {
        Self {
            packet_id,
            subscription_identifier: None,
            user_properties: UserProperties::EMPTY,
            filters: filters.into(),
        }
    }

    /// Decodes the packet, every filter included.
    ///
    /// # Errors
    /// Everything that the specification forbids in it, but the placement of wildcards and the form of `$share` filters.
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = raw.open(PacketType::Subscribe, version)?;
        let packet_id = reader.packet_id()?;
        let properties = match version.is_v5() {
            true => Properties::decode(PropertyReader::open(&mut reader, Carrier::Subscribe)?)?,
            false => Properties::default(),
        };
        Ok(Self {
            packet_id,
            subscription_identifier: properties.subscription_identifier,
            user_properties: properties.user_properties,
            filters: SubscribeFilters::decode(reader.rest(), version)?,
        })
    }

    /// Appends the packet; before MQTT 5.0 without properties, and with the QoS as the only option.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(!self.filters.is_empty());
        debug_assert_ne!(self.subscription_identifier, Some(0));
        write::packet(PacketType::Subscribe, self, version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }
}

impl Body for Subscribe<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_packet_id(self.packet_id);
        if version.is_v5() {
            let Self { subscription_identifier, user_properties, .. } = *self;
            sink.put_properties(&Properties { subscription_identifier, user_properties });
        }
        for filter in self.filters {
            sink.put_string(filter.filter);
            sink.put_u8(if version.is_v5() { filter.options() } else { filter.qos as u8 });
        }
    }
}

impl<'a> SubscribeFilter<'a> {
    /// A filter without options.
    #[must_use]
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAlways,
        }
    }

    fn decode(reader: &mut Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        // [MQTT-3.8.3-1]
        let filter = reader.string()?;
        // [MQTT-4.7.3-1]
        if filter.is_empty() {
            return Err(DecodeError::TopicFilterEmpty);
        }
        let options = reader.u8()?;
        let reserved = match version {
            // Not used, and not looked at.
            ProtocolVersion::V31 => 0,
            // [MQTT-3.8.3-4 @3.1.1]
            ProtocolVersion::V311 => 0b1111_1100,
            // [MQTT-3.8.3-5]
            ProtocolVersion::V5 => 0b1100_0000,
        };
        if options & reserved != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved);
        }
        let qos = QoS::from_u8(options & option::QOS).ok_or(DecodeError::SubscriptionQosInvalid)?;
        if !version.is_v5() {
            return Ok(Self::new(filter, qos));
        }
        let no_local = options & option::NO_LOCAL != 0;
        // [MQTT-3.8.3-4]
        if no_local && filter.starts_with(SHARED) {
            return Err(DecodeError::NoLocalOnShared);
        }
        Ok(Self {
            filter,
            qos,
            no_local,
            retain_as_published: options & option::RETAIN_AS_PUBLISHED != 0,
            retain_handling: RetainHandling::from_u8(options >> option::RETAIN_HANDLING_SHIFT)
                .ok_or(DecodeError::RetainHandlingInvalid)?,
        })
    }

    /// The Subscription Options byte of MQTT 5.0. [MQTT-3.8.3-5]
    fn options(&self) -> u8 {
        let mut options =
            self.qos as u8 | (self.retain_handling as u8) << option::RETAIN_HANDLING_SHIFT;
        if self.no_local {
            options |= option::NO_LOCAL;
        }
        if self.retain_as_published {
            options |= option::RETAIN_AS_PUBLISHED;
        }
        options
    }
}

/// The filters of a [`Subscribe`], validated when decoded.
#[derive(Clone, Copy)]
pub struct SubscribeFilters<'a> {
    source: Source<'a>,
    count: usize,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    /// The validated payload of a packet.
    Encoded(&'a [u8], ProtocolVersion),
    Filters(&'a [SubscribeFilter<'a>]),
}

impl<'a> SubscribeFilters<'a> {
    fn decode(bytes: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut count = 0;
        while !reader.is_empty() {
            SubscribeFilter::decode(&mut reader, version)?;
            count += 1;
        }
        // [MQTT-3.8.3-2] [MQTT-3.8.3-3 @3.1.1]
        if count == 0 {
            return Err(DecodeError::SubscribeWithoutFilter);
        }
        Ok(Self { source: Source::Encoded(bytes, version), count })
    }

    /// How many filters there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none, which no decoded packet has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The filters in order.
    #[must_use]
    pub fn iter(&self) -> SubscribeFiltersIter<'a> {
        SubscribeFiltersIter {
            cursor: match self.source {
                Source::Encoded(bytes, version) => Cursor::Encoded(Reader::new(bytes), version),
                Source::Filters(filters) => Cursor::Filters(filters.iter()),
            },
            left: self.count,
        }
    }
}

impl<'a> From<&'a [SubscribeFilter<'a>]> for SubscribeFilters<'a> {
    fn from(filters: &'a [SubscribeFilter<'a>]) -> Self {
        Self { source: Source::Filters(filters), count: filters.len() }
    }
}

/// Iterator over [`SubscribeFilters`].
#[derive(Clone, Debug)]
pub struct SubscribeFiltersIter<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Encoded(Reader<'a>, ProtocolVersion),
    Filters(core::slice::Iter<'a, SubscribeFilter<'a>>),
}

impl<'a> Iterator for SubscribeFiltersIter<'a> {
    type Item = SubscribeFilter<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let filter = match &mut self.cursor {
            Cursor::Filters(filters) => filters.next().copied(),
            // Validated when it was decoded; at the end of the bytes there is nothing to decode.
            Cursor::Encoded(reader, version) => SubscribeFilter::decode(reader, *version).ok(),
        };
        self.left -= usize::from(filter.is_some());
        filter
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for SubscribeFiltersIter<'_> {}

impl<'a> IntoIterator for SubscribeFilters<'a> {
    type Item = SubscribeFilter<'a>;
    type IntoIter = SubscribeFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &SubscribeFilters<'a> {
    type Item = SubscribeFilter<'a>;
    type IntoIter = SubscribeFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for SubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for SubscribeFilters<'_> {}

impl core::fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Properties<'a> {
    subscription_identifier: Option<u32>,
    user_properties: UserProperties<'a>,
}

impl<'a> Properties<'a> {
    fn decode(mut reader: PropertyReader<'a>) -> Result<Self, DecodeError> {
        let mut subscription_identifier = None;
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::SubscriptionIdentifier(value) => {
                    subscription_identifier = Some(value.get());
                }
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        Ok(Self { subscription_identifier, user_properties: user_properties.finish(&reader) })
    }
}

impl Content for Properties<'_> {
    fn write(&self, sink: &mut impl Sink) {
        if let Some(value) = self.subscription_identifier {
            sink.put_u8(id::SUBSCRIPTION_IDENTIFIER);
            sink.put_variable_byte_integer(value);
        }
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use crate::testing::{OLD, TEN, V5, V31, V311, is, reads, refuses, text, wire};

    #[test]
    fn filters_keep_their_order() {
        let filters = [
            SubscribeFilter::new("a/+/#", QoS::AtLeastOnce),
            SubscribeFilter::new("日本", QoS::AtMostOnce),
            SubscribeFilter::new("a/+/#", QoS::ExactlyOnce),
        ];
        let payload =
            [text("a/+/#"), vec![1], text("日本"), vec![0], text("a/+/#"), vec![2]].concat();
        for version in ProtocolVersion::ALL {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            let bytes = wire(0x82, &[&[0, 10], properties, &payload]);
            is(version, &bytes, Packet::Subscribe(Subscribe::new(TEN, &filters)));
            let Ok(Packet::Subscribe(packet)) = crate::testing::decode(version, &bytes) else {
                panic!()
            };
            assert_eq!(packet.filters.len(), 3);
            assert_eq!(packet.filters.iter().len(), 3);
            assert!(packet.filters.iter().eq(filters));
        }
    }

    #[test]
    fn v5_has_options_and_properties() {
        for (options, no_local, retain_as_published, retain_handling) in [
            (0x00, false, false, RetainHandling::SendAlways),
            (0x04, true, false, RetainHandling::SendAlways),
            (0x08, false, true, RetainHandling::SendAlways),
            (0x10, false, false, RetainHandling::SendIfNew),
            (0x2C, true, true, RetainHandling::DoNotSend),
        ] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let filter = SubscribeFilter {
                    filter: "a",
                    qos,
                    no_local,
                    retain_as_published,
                    retain_handling,
                };
                let bytes = wire(0x82, &[&[0, 10, 0], &text("a"), &[options | qos as u8]]);
                is(V5, &bytes, Packet::Subscribe(Subscribe::new(TEN, &[filter])));
            }
        }
        let filters = [SubscribeFilter::new("$share/g/a", QoS::AtLeastOnce)];
        let block = [&[0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0x26][..], &text("k"), &text("v")].concat();
        let bytes = wire(0x82, &[&[0, 10, block.len() as u8], &block, &text("$share/g/a"), &[1]]);
        let expected = Subscribe {
            subscription_identifier: Some(268_435_455),
            user_properties: UserProperties::from_pairs(&[("k", "v")]),
            ..Subscribe::new(TEN, &filters)
        };
        is(V5, &bytes, Packet::Subscribe(expected));
    }

    #[test]
    fn options_are_not_written_before_v5() {
        let filter = SubscribeFilter {
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            ..SubscribeFilter::new("a", QoS::AtLeastOnce)
        };
        for version in OLD {
            let mut out = Vec::new();
            Subscribe { subscription_identifier: Some(1), ..Subscribe::new(TEN, &[filter]) }
                .encode(version, &mut out);
            let plain = [SubscribeFilter::new("a", QoS::AtLeastOnce)];
            let expected = Subscribe::new(TEN, &plain);
            assert_eq!(crate::testing::decode(version, &out), Ok(Packet::Subscribe(expected)));
        }
    }

    #[test]
    fn refused_in_every_version() {
        for version in ProtocolVersion::ALL {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            for (payload, error) in [
                // [MQTT-3.8.3-2] [MQTT-3.8.3-3 @3.1.1]
                (vec![], DecodeError::SubscribeWithoutFilter),
                // [MQTT-3.8.3-1]
                (text([0xFF]), DecodeError::StringNotUtf8),
                // [MQTT-4.7.3-2]
                ([text("a\0b"), vec![0]].concat(), DecodeError::StringHasNull),
                // [MQTT-4.7.3-1]
                ([text(""), vec![0]].concat(), DecodeError::TopicFilterEmpty),
                ([text("a"), vec![3]].concat(), DecodeError::SubscriptionQosInvalid),
                (text("a"), DecodeError::BodyTooShort),
                (vec![0], DecodeError::BodyTooShort),
                (vec![0, 9, b'a', 0], DecodeError::BodyTooShort),
                // A good filter before a bad one saves nothing.
                ([text("a"), vec![0], text("")].concat(), DecodeError::TopicFilterEmpty),
                ([text("a"), vec![0, 0]].concat(), DecodeError::BodyTooShort),
            ] {
                refuses(version, &wire(0x82, &[&[0, 10], properties, &payload]), error);
            }
            let zero = wire(0x82, &[&[0, 0], properties, &text("a"), &[0]]);
            refuses(version, &zero, DecodeError::PacketIdZero);
            refuses(version, &[0x82, 1, 0], DecodeError::BodyTooShort);
            refuses(version, &[0x82, 0], DecodeError::BodyTooShort);
        }
    }

    /// [MQTT-3.8.3-5] [MQTT-3.8.3-4 @3.1.1]; MQTT 3.1 does not use these bits.
    #[test]
    fn reserved_option_bits() {
        for bit in 2..8 {
            let options = 1 << bit | 1;
            let old = wire(0x82, &[&[0, 10], &text("a"), &[options]]);
            refuses(V311, &old, DecodeError::SubscriptionOptionsReserved);
            let filters = [SubscribeFilter::new("a", QoS::AtLeastOnce)];
            reads(V31, &old, Packet::Subscribe(Subscribe::new(TEN, &filters)));
            if bit >= 6 {
                let new = wire(0x82, &[&[0, 10, 0], &text("a"), &[options]]);
                refuses(V5, &new, DecodeError::SubscriptionOptionsReserved);
            }
        }
    }

    #[test]
    fn refused_in_v5() {
        for (after_id, error) in [
            (vec![], DecodeError::BodyTooShort),
            ([vec![0], text("a"), vec![0x30]].concat(), DecodeError::RetainHandlingInvalid),
            // [MQTT-3.8.3-4]
            ([vec![0], text("$share/g/a"), vec![4]].concat(), DecodeError::NoLocalOnShared),
            (
                [vec![2, 0x0B, 0], text("a"), vec![0]].concat(),
                DecodeError::SubscriptionIdentifierZero,
            ),
            (
                [vec![4, 0x0B, 1, 0x0B, 2], text("a"), vec![0]].concat(),
                DecodeError::PropertyDuplicate,
            ),
            ([vec![3, 0x1F, 0, 0], text("a"), vec![0]].concat(), DecodeError::PropertyMisplaced),
            (
                [vec![0x80, 0], text("a"), vec![0]].concat(),
                DecodeError::VariableByteIntegerNotMinimal,
            ),
        ] {
            refuses(V5, &wire(0x82, &[&[0, 10], &after_id]), error);
        }
        // What only begins like a Shared Subscription may have No Local.
        let filter = SubscribeFilter {
            no_local: true,
            ..SubscribeFilter::new("$shared/a", QoS::AtMostOnce)
        };
        let bytes = wire(0x82, &[&[0, 10, 0], &text("$shared/a"), &[4]]);
        is(V5, &bytes, Packet::Subscribe(Subscribe::new(TEN, &[filter])));
    }
}
