//! The Subscription Identifiers of a PUBLISH: one for each subscription that matched, in no order. [MQTT-3.3.4-3]

use crate::property::{Property, ValidProperties, id};
use crate::write::Sink;

/// Subscription Identifiers of a received PUBLISH, or to write into one. Each is 1 to 268,435,455; the default is empty.
///
/// A client must not send any [MQTT-3.3.4-6]: a server that decodes a client's PUBLISH with
/// [`is_empty`](Self::is_empty) false has met a protocol error.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIdentifiers<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// A whole property block of a PUBLISH, validated, with at least one identifier.
    Encoded(&'a [u8]),
    Values(&'a [u32]),
}

impl Default for Source<'_> {
    fn default() -> Self {
        Self::Values(&[])
    }
}

impl<'a> SubscriptionIdentifiers<'a> {
    /// No identifiers.
    pub const EMPTY: Self = Self(Source::Values(&[]));

    /// Identifiers to encode.
    #[must_use]
    pub const fn from_values(values: &'a [u32]) -> Self {
        Self(Source::Values(values))
    }

    /// The identifiers in a validated block, which must hold one.
    #[inline]
    pub(crate) const fn from_block(block: &'a [u8]) -> Self {
        Self(Source::Encoded(block))
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Source::Encoded(_) => false,
            Source::Values(values) => values.is_empty(),
        }
    }

    /// The identifiers in the order of the packet.
    #[must_use]
    pub fn iter(&self) -> SubscriptionIdentifiersIter<'a> {
        SubscriptionIdentifiersIter(match self.0 {
            Source::Encoded(block) => Cursor::Encoded(ValidProperties::new(block)),
            Source::Values(values) => Cursor::Values(values.iter()),
        })
    }

    /// Appends them all.
    #[inline]
    pub(crate) fn write(&self, sink: &mut impl Sink) {
        for identifier in self {
            debug_assert_ne!(identifier, 0);
            sink.put_u8(id::SUBSCRIPTION_IDENTIFIER);
            sink.put_variable_byte_integer(identifier);
        }
    }
}

/// Iterator over [`SubscriptionIdentifiers`].
#[derive(Clone, Debug)]
pub struct SubscriptionIdentifiersIter<'a>(Cursor<'a>);

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Encoded(ValidProperties<'a>),
    Values(core::slice::Iter<'a, u32>),
}

impl Iterator for SubscriptionIdentifiersIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match &mut self.0 {
            Cursor::Values(values) => values.next().copied(),
            Cursor::Encoded(properties) => properties.find_map(|property| match property {
                Property::SubscriptionIdentifier(value) => Some(value.get()),
                _ => None,
            }),
        }
    }
}

impl<'a> IntoIterator for SubscriptionIdentifiers<'a> {
    type Item = u32;
    type IntoIter = SubscriptionIdentifiersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &SubscriptionIdentifiers<'a> {
    type Item = u32;
    type IntoIter = SubscriptionIdentifiersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for SubscriptionIdentifiers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for SubscriptionIdentifiers<'_> {}

impl core::fmt::Debug for SubscriptionIdentifiers<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}
