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
    /// [`TopicError`] names the first rule that is broken: size, then forbidden characters, then levels.
    #[inline]
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > usize::from(limits.size_max) {
            return Err(TopicError::TooLong);
        }
        // Without a branch per byte, so that the compiler can take many bytes at a time.
        let mut separators = 0_u32;
        let mut forbidden = false;
        for &byte in text.as_bytes() {
            separators += u32::from(byte == b'/');
            forbidden |= byte == 0 || byte == b'+' || byte == b'#';
        }
        if forbidden {
            return Err(Self::forbidden(text));
        }
        if separators >= u32::from(limits.levels_max) {
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
