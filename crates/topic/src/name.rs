//! Topic Names: what a message is published to.

use std::fmt;

use crate::{TopicError, TopicLimits};

/// A Topic Name: at least one character, no wildcard, no U+0000, within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks `text` in one pass; nothing is copied or normalised [MQTT-4.7.3-4].
    ///
    /// # Errors
    /// [`TopicError`] names the first rule that is broken: size, then forbidden characters, then
    /// levels.
    #[inline]
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > usize::from(limits.size_max) {
            return Err(TopicError::TooLong);
        }
        if contains_forbidden(text.as_bytes()) {
            return Err(Self::forbidden(text));
        }
        // A text of n bytes has at most n + 1 levels: most need no counting.
        let levels_max = usize::from(limits.levels_max);
        if text.len() >= levels_max
            && text.bytes().filter(|&byte| byte == b'/').count() >= levels_max
        {
            return Err(TopicError::TooManyLevels);
        }
        Ok(Self(text))
    }

    #[cold]
    fn forbidden(text: &str) -> TopicError {
        if text.contains('\0') {
            TopicError::ContainsNull // [MQTT-4.7.3-2]
        } else {
            TopicError::WildcardInName // [MQTT-4.7.0-1], [MQTT-4.7.1-1 @3.1.1]
        }
    }

    /// The text as the peer sent it.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels from left to right; an empty level is a level.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }

    /// Whether the name begins with `$`, so that leading wildcards do not match it [MQTT-4.7.2-1].
    #[inline]
    #[must_use]
    pub fn is_dollar(self) -> bool {
        self.0.as_bytes().first() == Some(&b'$')
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// Whether U+0000 or a wildcard is among the bytes: eight at a time, the last eight once more if
/// the text is no multiple of eight. A loop over bytes takes four times the instructions on texts
/// of the usual length.
#[inline]
fn contains_forbidden(text: &[u8]) -> bool {
    let (chunks, rest) = text.as_chunks::<8>();
    let mut found = 0;
    for chunk in chunks {
        found |= forbidden_in(u64::from_le_bytes(*chunk));
    }
    match text.last_chunk::<8>() {
        Some(last) => found |= forbidden_in(u64::from_le_bytes(*last)),
        None => return rest.iter().any(|&byte| matches!(byte, 0 | b'+' | b'#')),
    }
    found != 0
}

/// Not zero exactly when one of the eight bytes is 0, `+` or `#`.
#[inline]
const fn forbidden_in(bytes: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    // The two wildcards differ in one bit.
    const WILDCARD_BIT: u64 = u64::from_le_bytes([b'+' ^ b'#'; 8]);
    const WILDCARDS: u64 = u64::from_le_bytes([b'+' & b'#'; 8]);
    const _: () = assert!((b'+' ^ b'#').is_power_of_two());
    let wildcards = bytes & !WILDCARD_BIT ^ WILDCARDS;
    // The usual test for a zero byte: the borrow of the subtraction reaches a byte's clear top bit
    // only from zero.
    ((bytes.wrapping_sub(ONES) & !bytes) | (wildcards.wrapping_sub(ONES) & !wildcards)) & TOPS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), TopicError>) {
        let parsed = TopicName::parse(text, &TopicLimits { levels_max: 4, size_max: 10 });
        assert_eq!(parsed.map(|_| ()), expected, "{text:?}");
        if let Ok(name) = parsed {
            assert_eq!(name.as_str(), text);
        }
    }

    #[test]
    fn names() {
        for text in ["a", "/", "//", "///", "a/b/c/d", " ", "$SYS/x", "ü/ñ", "0123456789", "a/"] {
            check(text, Ok(()));
        }
        check("", Err(TopicError::Empty)); // [MQTT-4.7.3-1]
        check("a\0b", Err(TopicError::ContainsNull)); // [MQTT-4.7.3-2]
        check("\0", Err(TopicError::ContainsNull));
        check("01234567890", Err(TopicError::TooLong)); // [MQTT-4.7.3-3]
        check("////", Err(TopicError::TooManyLevels));
        check("a/b/c/d/e", Err(TopicError::TooManyLevels));
        // [MQTT-4.7.0-1], [MQTT-4.7.1-1 @3.1.1]
        for text in ["+", "#", "a/+", "a/#", "a+b", "a#", "+/a"] {
            check(text, Err(TopicError::WildcardInName));
        }
    }

    /// Each forbidden byte at each place of texts of each length, among all other bytes that ASCII
    /// has.
    #[test]
    fn forbidden_bytes_are_found_anywhere() {
        for size in 1..40 {
            for filler in (1..0x80_u8).filter(|it| !b"+#".contains(it)) {
                let mut text = vec![filler; size];
                assert!(!contains_forbidden(&text), "{text:?}");
                for at in 0..size {
                    for forbidden in [0, b'+', b'#'] {
                        text[at] = forbidden;
                        assert!(contains_forbidden(&text), "{text:?}");
                    }
                    text[at] = filler;
                }
            }
        }
    }

    #[test]
    fn the_longest_name_is_65535_bytes() {
        let text = "x".repeat(65_535);
        assert!(TopicName::parse(&text, &TopicLimits::DEFAULT).is_ok());
        let text = "x".repeat(65_536);
        assert_eq!(TopicName::parse(&text, &TopicLimits::DEFAULT), Err(TopicError::TooLong));
    }

    #[test]
    fn levels_and_dollar() {
        let name = TopicName::parse("/a//", &TopicLimits::DEFAULT).unwrap();
        assert_eq!(name.levels().collect::<Vec<_>>(), ["", "a", "", ""]);
        assert!(!name.is_dollar());
        assert!(TopicName::parse("$SYS", &TopicLimits::DEFAULT).unwrap().is_dollar());
        assert!(!TopicName::parse("a/$SYS", &TopicLimits::DEFAULT).unwrap().is_dollar());
    }
}
