//! User Properties: name and value pairs that keep their order [MQTT-3.3.2-18] and their repetitions.
//!
//! Decoded, they are the bytes they came in; they were validated once and are iterated without allocation. To encode
//! new ones, hand over a slice of pairs.

use crate::DecodeError;
use crate::property::{Carrier, Property, PropertyReader, id};
use crate::write::Sink;

/// An ordered list of (name, value). Names may repeat. The default is empty.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    source: Source<'a>,
    /// Bytes of the encoded user properties alone.
    size: usize,
    count: usize,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Part of a property block, from the first user property to the end of the last. Others may stand between.
    Encoded {
        bytes: &'a [u8],
        carrier: Carrier,
    },
    Pairs(&'a [(&'a str, &'a str)]),
}

impl Default for Source<'_> {
    fn default() -> Self {
        Self::Pairs(&[])
    }
}

impl<'a> UserProperties<'a> {
    /// No user properties.
    pub const EMPTY: Self = Self { source: Source::Pairs(&[]), size: 0, count: 0 };

    /// User properties to encode, in this order. Each string holds at most 65,535 bytes and no U+0000.
    #[must_use]
    pub fn from_pairs(pairs: &'a [(&'a str, &'a str)]) -> Self {
        let size = pairs.iter().map(|(name, value)| encoded_size(name, value)).sum();
        Self { source: Source::Pairs(pairs), size, count: pairs.len() }
    }

    /// How many pairs there are.
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

    /// Bytes that they take when encoded: 5 for each pair beside its two strings.
    #[inline]
    #[must_use]
    pub const fn encoded_size(&self) -> usize {
        self.size
    }

    /// The pairs in order.
    #[must_use]
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        UserPropertiesIter {
            cursor: match self.source {
                Source::Encoded { bytes, carrier } => {
                    Cursor::Encoded(PropertyReader::new(bytes, carrier))
                }
                Source::Pairs(pairs) => Cursor::Pairs(pairs.iter()),
            },
            left: self.count,
        }
    }

    /// Appends them all. A block of nothing else is copied as it came.
    #[inline]
    pub(crate) fn write(&self, sink: &mut impl Sink) {
        match self.source {
            _ if self.count == 0 => {}
            Source::Encoded { bytes, .. } if bytes.len() == self.size => sink.put(bytes),
            _ => {
                for (name, value) in self {
                    sink.put_u8(id::USER_PROPERTY);
                    sink.put_string(name);
                    sink.put_string(value);
                }
            }
        }
    }
}

const fn encoded_size(name: &str, value: &str) -> usize {
    1 + 2 + name.len() + 2 + value.len()
}

/// Gathers the user properties of a block while it is walked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Collector {
    start: usize,
    end: usize,
    size: usize,
    count: usize,
}

impl Collector {
    /// Takes note of the user property that `properties` just yielded.
    #[inline]
    pub(crate) fn add(&mut self, properties: &PropertyReader<'_>, name: &str, value: &str) {
        let size = encoded_size(name, value);
        self.end = properties.position();
        if self.count == 0 {
            self.start = self.end - size;
        }
        self.size += size;
        self.count += 1;
    }

    /// All that were noted.
    #[inline]
    pub(crate) fn finish<'a>(self, properties: &PropertyReader<'a>) -> UserProperties<'a> {
        if self.count == 0 {
            return UserProperties::EMPTY;
        }
        let bytes = &properties.block()[self.start..self.end];
        let source = Source::Encoded { bytes, carrier: properties.carrier() };
        UserProperties { source, size: self.size, count: self.count }
    }
}

/// Iterator over the pairs of [`UserProperties`].
#[derive(Clone, Debug)]
pub struct UserPropertiesIter<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Encoded(PropertyReader<'a>),
    Pairs(core::slice::Iter<'a, (&'a str, &'a str)>),
}

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = match &mut self.cursor {
            Cursor::Pairs(pairs) => pairs.next().copied(),
            Cursor::Encoded(properties) => next_encoded(properties).ok().flatten(),
        };
        self.left -= usize::from(pair.is_some());
        pair
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for UserPropertiesIter<'_> {}

/// The block was validated when it was decoded, so the error cannot occur; if it did, the list would just end.
fn next_encoded<'a>(
    properties: &mut PropertyReader<'a>,
) -> Result<Option<(&'a str, &'a str)>, DecodeError> {
    while let Some(property) = properties.next()? {
        if let Property::UserProperty(name, value) = property {
            return Ok(Some((name, value)));
        }
    }
    Ok(None)
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.size == other.size && self.iter().eq(other)
    }
}

impl Eq for UserProperties<'_> {}

impl core::fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}
