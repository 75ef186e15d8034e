//! UNSUBSCRIBE: Topic Filters that a client no longer wants.
//!
//! The list is validated as a whole when it is decoded, as that of [`Subscribe`](crate::Subscribe).

use crate::property::{Carrier, Property, PropertyReader};
use crate::read::Reader;
use crate::user_properties::Collector;
use crate::write::{self, Body, Content, Sink};
use crate::{DecodeError, PacketId, PacketType, ProtocolVersion, RawPacket, UserProperties};

/// A client's wish to receive less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The UNSUBACK carries the same. [MQTT-3.10.4-4]
    pub packet_id: PacketId,
    /// MQTT 5.0 only.
    pub user_properties: UserProperties<'a>,
    /// At least one. [MQTT-3.10.3-2]
    pub filters: UnsubscribeFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    /// One without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, filters: &'a [&'a str]) -> Self {
        Self { packet_id, user_properties: UserProperties::EMPTY, filters: filters.into() }
    }

    /// Decodes the packet, every filter included.
    ///
    /// # Errors
    /// Everything that the specification forbids in it, but the placement of wildcards and the form of `$share` filters:
    /// such a filter names no subscription, and the answer says so.
    pub fn decode(raw: RawPacket<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = raw.open(PacketType::Unsubscribe, version)?;
        let packet_id = reader.packet_id()?;
        let Properties { user_properties } = match version.is_v5() {
            true => Properties::decode(PropertyReader::open(&mut reader, Carrier::Unsubscribe)?)?,
            false => Properties::default(),
        };
        Ok(Self { packet_id, user_properties, filters: UnsubscribeFilters::decode(reader.rest())? })
    }

    /// Appends the packet; before MQTT 5.0 without properties.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(!self.filters.is_empty());
        write::packet(PacketType::Unsubscribe, self, version, out);
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn size(&self, version: ProtocolVersion) -> usize {
        write::packet_size(self, version)
    }
}

impl Body for Unsubscribe<'_> {
    fn write_body(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_packet_id(self.packet_id);
        if version.is_v5() {
            sink.put_properties(&Properties { user_properties: self.user_properties });
        }
        for filter in self.filters {
            sink.put_string(filter);
        }
    }
}

/// The filters of an [`Unsubscribe`], validated when decoded: UTF-8 without U+0000, not empty.
#[derive(Clone, Copy)]
pub struct UnsubscribeFilters<'a> {
    source: Source<'a>,
    count: usize,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    /// The validated payload of a packet.
    Encoded(&'a [u8]),
    Filters(&'a [&'a str]),
}

impl<'a> UnsubscribeFilters<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut count = 0;
        while !reader.is_empty() {
            decode_filter(&mut reader)?;
            count += 1;
        }
        // [MQTT-3.10.3-2]
        if count == 0 {
            return Err(DecodeError::UnsubscribeWithoutFilter);
        }
        Ok(Self { source: Source::Encoded(bytes), count })
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
    pub fn iter(&self) -> UnsubscribeFiltersIter<'a> {
        UnsubscribeFiltersIter {
            cursor: match self.source {
                Source::Encoded(bytes) => Cursor::Encoded(Reader::new(bytes)),
                Source::Filters(filters) => Cursor::Filters(filters.iter()),
            },
            left: self.count,
        }
    }
}

/// One filter. [MQTT-3.10.3-1] [MQTT-4.7.3-1]
fn decode_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.string()? {
        "" => Err(DecodeError::TopicFilterEmpty),
        filter => Ok(filter),
    }
}

impl<'a> From<&'a [&'a str]> for UnsubscribeFilters<'a> {
    fn from(filters: &'a [&'a str]) -> Self {
        Self { source: Source::Filters(filters), count: filters.len() }
    }
}

/// Iterator over [`UnsubscribeFilters`].
#[derive(Clone, Debug)]
pub struct UnsubscribeFiltersIter<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Encoded(Reader<'a>),
    Filters(core::slice::Iter<'a, &'a str>),
}

impl<'a> Iterator for UnsubscribeFiltersIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        let filter = match &mut self.cursor {
            Cursor::Filters(filters) => filters.next().copied(),
            // Validated when it was decoded; at the end of the bytes there is nothing to decode.
            Cursor::Encoded(reader) => decode_filter(reader).ok(),
        };
        self.left -= usize::from(filter.is_some());
        filter
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for UnsubscribeFiltersIter<'_> {}

impl<'a> IntoIterator for UnsubscribeFilters<'a> {
    type Item = &'a str;
    type IntoIter = UnsubscribeFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &UnsubscribeFilters<'a> {
    type Item = &'a str;
    type IntoIter = UnsubscribeFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for UnsubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for UnsubscribeFilters<'_> {}

impl core::fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Properties<'a> {
    user_properties: UserProperties<'a>,
}

impl<'a> Properties<'a> {
    fn decode(mut reader: PropertyReader<'a>) -> Result<Self, DecodeError> {
        let mut user_properties = Collector::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::UserProperty(name, value) => user_properties.add(&reader, name, value),
                _ => return Err(DecodeError::PropertyMisplaced),
            }
        }
        Ok(Self { user_properties: user_properties.finish(&reader) })
    }
}

impl Content for Properties<'_> {
    fn write(&self, sink: &mut impl Sink) {
        self.user_properties.write(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use crate::testing::{TEN, V5, is, refuses, text, wire};

    #[test]
    fn filters_keep_their_order() {
        for version in ProtocolVersion::ALL {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            for filters in [&["a"][..], &["a/+/#", "日本", "$share/g/a", "a/+/#"]] {
                let payload = filters.iter().flat_map(text).collect::<Vec<u8>>();
                let bytes = wire(0xA2, &[&[0, 10], properties, &payload]);
                is(version, &bytes, Packet::Unsubscribe(Unsubscribe::new(TEN, filters)));
                let Ok(Packet::Unsubscribe(packet)) = crate::testing::decode(version, &bytes)
                else {
                    panic!()
                };
                assert_eq!(packet.filters.len(), filters.len());
                assert!(packet.filters.iter().eq(filters.iter().copied()));
            }
        }
    }

    #[test]
    fn v5_has_user_properties() {
        let block = [&[0x26][..], &text("k"), &text("v")].concat();
        let bytes = wire(0xA2, &[&[0, 10, block.len() as u8], &block, &text("a")]);
        let user_properties = UserProperties::from_pairs(&[("k", "v")]);
        let expected = Unsubscribe { user_properties, ..Unsubscribe::new(TEN, &["a"]) };
        is(V5, &bytes, Packet::Unsubscribe(expected));
        let misplaced = wire(0xA2, &[&[0, 10, 2, 0x0B, 1], &text("a")]);
        refuses(V5, &misplaced, DecodeError::PropertyMisplaced);
        refuses(V5, &[0xA2, 2, 0, 10], DecodeError::BodyTooShort);
    }

    #[test]
    fn refused_in_every_version() {
        for version in ProtocolVersion::ALL {
            let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
            for (payload, error) in [
                // [MQTT-3.10.3-2]
                (vec![], DecodeError::UnsubscribeWithoutFilter),
                // [MQTT-3.10.3-1]
                (text([0xED, 0xBF, 0xBF]), DecodeError::StringNotUtf8),
                (text("a\0"), DecodeError::StringHasNull),
                // [MQTT-4.7.3-1]
                (text(""), DecodeError::TopicFilterEmpty),
                ([text("a"), text("")].concat(), DecodeError::TopicFilterEmpty),
                ([text("a"), vec![0]].concat(), DecodeError::BodyTooShort),
                (vec![0, 2, b'a'], DecodeError::BodyTooShort),
            ] {
                refuses(version, &wire(0xA2, &[&[0, 10], properties, &payload]), error);
            }
            let zero = wire(0xA2, &[&[0, 0], properties, &text("a")]);
            refuses(version, &zero, DecodeError::PacketIdZero);
            refuses(version, &[0xA2, 0], DecodeError::BodyTooShort);
        }
    }
}
