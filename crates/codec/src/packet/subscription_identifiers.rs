//! The Subscription Identifiers of a PUBLISH: one for each subscription that matched, in no order. [MQTT-3.3.4-3]

use crate::property::{Carrier, Property, PropertyReader, id};
use crate::write::Sink;

/// Subscription Identifiers of a received PUBLISH, or to write into one. Each is 1 to 268,435,455; the default is empty.
///
/// A client must not send any [MQTT-3.3.4-6]: a server that decodes a client's PUBLISH with
/// [`is_empty`](Self::is_empty) false has met a protocol error.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIdentifiers<'a> {
    source: Source<'a>,
    count: usize,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    /// A whole, validated property block of a PUBLISH.
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
    pub const EMPTY: Self = Self { source: Source::Values(&[]), count: 0 };

    /// Identifiers to encode.
    #[must_use]
    pub const fn from_values(values: &'a [u32]) -> Self {
        Self { source: Source::Values(values), count: values.len() }
    }

    /// The `count` identifiers in a validated block.
    #[inline]
    pub(crate) const fn from_block(block: &'a [u8], count: usize) -> Self {
        if count == 0 { Self::EMPTY } else { Self { source: Source::Encoded(block), count } }
    }

    /// How many there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The identifiers in the order of the packet.
    #[must_use]
    pub fn iter(&self) -> SubscriptionIdentifiersIter<'a> {
        SubscriptionIdentifiersIter {
            cursor: match self.source {
                Source::Encoded(block) => {
                    Cursor::Encoded(PropertyReader::new(block, Carrier::Publish))
                }
                Source::Values(values) => Cursor::Values(values.iter()),
            },
            left: self.count,
        }
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
pub struct SubscriptionIdentifiersIter<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Encoded(PropertyReader<'a>),
    Values(core::slice::Iter<'a, u32>),
}

impl Iterator for SubscriptionIdentifiersIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let identifier = match &mut self.cursor {
            Cursor::Values(values) => values.next().copied(),
            // The block was validated when it was decoded; an error would just end the list.
            Cursor::Encoded(_) if self.left == 0 => None,
            Cursor::Encoded(properties) => loop {
                match properties.next() {
                    Ok(Some(Property::SubscriptionIdentifier(value))) => break Some(value.get()),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break None,
                }
            },
        };
        self.left -= usize::from(identifier.is_some());
        identifier
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for SubscriptionIdentifiersIter<'_> {}

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
