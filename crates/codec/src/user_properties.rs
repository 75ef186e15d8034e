//! User Properties: name and value pairs that keep their order [MQTT-3.3.2-18] and their repetitions.
//!
//! Decoded, they are the bytes they came in; they were validated once and are iterated without allocation. To encode
//! new ones, hand over a slice of pairs.

use crate::property::{Property, PropertyReader, ValidProperties, id};
use crate::write::Sink;

/// An ordered list of (name, value). Names may repeat. The default is empty.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a>(Source<'a>);

/// Each with the bytes that the user properties alone take when encoded. There are none exactly when that is zero.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Part of a validated property block, from the first user property to the end of the last. Others may stand between.
    Encoded { bytes: &'a [u8], size: u32 },
    /// The caller's own.
    Pairs { pairs: &'a [(&'a str, &'a str)], size: u32 },
}

impl Default for Source<'_> {
    fn default() -> Self {
        Self::Pairs { pairs: &[], size: 0 }
    }
}

impl<'a> UserProperties<'a> {
    /// No user properties.
    pub const EMPTY: Self = Self(Source::Pairs { pairs: &[], size: 0 });

    /// User properties to encode, in this order. Each string holds at most 65,535 bytes and no U+0000.
    #[must_use]
    pub fn from_pairs(pairs: &'a [(&'a str, &'a str)]) -> Self {
        let size = pairs.iter().map(|(name, value)| encoded_size(name, value)).sum::<usize>();
        Self(Source::Pairs { pairs, size: size as u32 })
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.encoded_size() == 0
    }

    /// Bytes that they take when encoded: 5 for each pair beside its two strings.
    #[inline]
    #[must_use]
    pub const fn encoded_size(&self) -> usize {
        match self.0 {
            Source::Encoded { size, .. } | Source::Pairs { size, .. } => size as usize,
        }
    }

    /// The pairs in order.
    #[must_use]
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        UserPropertiesIter(match self.0 {
            Source::Encoded { bytes, .. } => Cursor::Encoded(ValidProperties::new(bytes)),
            Source::Pairs { pairs, .. } => Cursor::Pairs(pairs.iter()),
        })
    }

    /// Appends them all. A block of nothing else is copied as it came.
    #[inline]
    pub(crate) fn write(&self, sink: &mut impl Sink) {
        match self.0 {
            Source::Encoded { bytes, size } if bytes.len() == size as usize => sink.put(bytes),
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

/// Bytes of one encoded pair.
const fn encoded_size(name: &str, value: &str) -> usize {
    1 + 2 + name.len() + 2 + value.len()
}

/// Gathers the user properties of a block while it is walked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Collector {
    start: usize,
    end: usize,
    size: usize,
}

impl Collector {
    /// Takes note of the user property that `properties` just yielded.
    #[inline]
    pub(crate) fn add(&mut self, properties: &PropertyReader<'_>, name: &str, value: &str) {
        let size = encoded_size(name, value);
        self.end = properties.position();
        if self.size == 0 {
            self.start = self.end - size;
        }
        self.size += size;
    }

    /// All that were noted.
    #[inline]
    pub(crate) fn finish<'a>(self, properties: &PropertyReader<'a>) -> UserProperties<'a> {
        if self.size == 0 {
            return UserProperties::EMPTY;
        }
        let bytes = &properties.block()[self.start..self.end];
        UserProperties(Source::Encoded { bytes, size: self.size as u32 })
    }
}

/// Iterator over the pairs of [`UserProperties`].
#[derive(Clone, Debug)]
pub struct UserPropertiesIter<'a>(Cursor<'a>);

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Encoded(ValidProperties<'a>),
    Pairs(core::slice::Iter<'a, (&'a str, &'a str)>),
}

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Cursor::Pairs(pairs) => pairs.next().copied(),
            Cursor::Encoded(properties) => properties.find_map(|property| match property {
                Property::UserProperty(name, value) => Some((name, value)),
                _ => None,
            }),
        }
    }
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
        self.encoded_size() == other.encoded_size() && self.iter().eq(other)
    }
}

impl Eq for UserProperties<'_> {}

impl core::fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecodeError;
    use crate::property::Carrier;
    use crate::testing::text;

    fn collect(block: &[u8]) -> Result<UserProperties<'_>, DecodeError> {
        let mut reader = PropertyReader::new(block, Carrier::Publish);
        let mut collector = Collector::default();
        while let Some(property) = reader.next()? {
            if let Property::UserProperty(name, value) = property {
                collector.add(&reader, name, value);
            }
        }
        Ok(collector.finish(&reader))
    }

    fn pair(name: &str, value: &str) -> Vec<u8> {
        [&[0x26][..], &text(name), &text(value)].concat()
    }

    /// [MQTT-3.3.2-18]: alone or with others before, between and behind, the pairs are the same, in order, and are written
    /// without the others.
    #[test]
    fn pairs_are_found_between_other_properties() {
        let other: &[u8] = &[0x02, 0, 0, 0, 9];
        let topic = [&[0x08][..], &text("r")].concat();
        let (a, b) = (pair("k", "1"), pair("k", ""));
        let alone = [&a[..], &b].concat();
        let expected = UserProperties::from_pairs(&[("k", "1"), ("k", "")]);
        for block in [
            alone.clone(),
            [other, &a, &b].concat(),
            [&a, other, &b].concat(),
            [&a[..], &b, other].concat(),
            [&topic[..], &a, other, &b].concat(),
        ] {
            let found = collect(&block).unwrap();
            assert_eq!(found, expected);
            assert_eq!(found.iter().collect::<Vec<_>>(), [("k", "1"), ("k", "")]);
            assert_eq!(found.encoded_size(), alone.len());
            let mut out = Vec::new();
            found.write(&mut out);
            assert_eq!(out, alone);
        }
        assert_ne!(expected, UserProperties::from_pairs(&[("k", ""), ("k", "1")]));
        assert_ne!(expected, UserProperties::from_pairs(&[("k", "1")]));
    }

    #[test]
    fn none_and_a_pair_of_nothing_differ() {
        let none = collect(&[0x02, 0, 0, 0, 9]).unwrap();
        assert!(none.is_empty());
        assert_eq!(none.iter().next(), None);
        let empty_strings = collect(&[0x26, 0, 0, 0, 0]).unwrap();
        assert!(!empty_strings.is_empty());
        assert_eq!(empty_strings.iter().collect::<Vec<_>>(), [("", "")]);
        assert_ne!(none, empty_strings);
        assert_eq!(format!("{empty_strings:?}"), r#"[("", "")]"#);
    }
}
