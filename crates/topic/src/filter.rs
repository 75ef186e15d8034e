//! Topic Filters: what a client subscribes to.

use std::fmt;

use crate::{TopicError, TopicLimits};

/// A Topic Filter that is not shared: at least one character, no U+0000, `#` only as the whole last
/// level, `+` only as a whole level, within the limits.
///
/// A text that begins with `$share/` is an ordinary filter here: ask
/// [`SharedFilter`](crate::SharedFilter) first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Checks `text`; nothing is copied or normalised [MQTT-4.7.3-4].
    ///
    /// # Errors
    /// [`TopicError`] names the first rule that is broken: size, then levels from left to right.
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > usize::from(limits.size_max) {
            return Err(TopicError::TooLong);
        }
        if text.contains('\0') {
            return Err(TopicError::ContainsNull);
        }
        let mut levels_count = 0_u32;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            levels_count += 1;
            if levels_count > u32::from(limits.levels_max) {
                return Err(TopicError::TooManyLevels);
            }
            // [MQTT-4.7.1-1], [MQTT-4.7.1-2 @3.1.1]
            if level.contains('#') && (level.len() > 1 || levels.peek().is_some()) {
                return Err(TopicError::MultiLevelWildcardMisplaced);
            }
            // [MQTT-4.7.1-2], [MQTT-4.7.1-3 @3.1.1]
            if level.contains('+') && level.len() > 1 {
                return Err(TopicError::SingleLevelWildcardMisplaced);
            }
        }
        Ok(Self(text))
    }

    /// The text as the peer sent it.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels from left to right, wildcards included; an empty level is a level.
    pub fn levels(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/')
    }

    /// Whether the filter can match more than the one name that equals it.
    #[must_use]
    pub fn has_wildcard(self) -> bool {
        has_wildcard(self.0.as_bytes())
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// As [`TopicFilter::has_wildcard`], for a text that is known to be a filter.
pub(crate) fn has_wildcard(filter: &[u8]) -> bool {
    filter.iter().any(|&byte| byte == b'+' || byte == b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<bool, TopicError>) {
        let parsed = TopicFilter::parse(text, &TopicLimits { levels_max: 4, size_max: 10 });
        assert_eq!(parsed.map(TopicFilter::has_wildcard), expected, "{text:?}");
        if let Ok(filter) = parsed {
            assert_eq!(filter.as_str(), text);
        }
    }

    #[test]
    fn filters() {
        for text in ["a", "/", "///", "a/b/c/d", "$SYS/x", "a/", "/a", "0123456789", "a b"] {
            check(text, Ok(false));
        }
        for text in ["#", "+", "/#", "+/#", "a/#", "a/+", "+/+/+/+", "+/b/#", "/+", "+/", "a/+/b"] {
            check(text, Ok(true));
        }
        check("", Err(TopicError::Empty)); // [MQTT-4.7.3-1]
        check("a/\0", Err(TopicError::ContainsNull)); // [MQTT-4.7.3-2]
        check("01234567890", Err(TopicError::TooLong)); // [MQTT-4.7.3-3]
        check("a/b/c/d/#", Err(TopicError::TooManyLevels));
        check("////", Err(TopicError::TooManyLevels));
    }

    /// [MQTT-4.7.1-1], [MQTT-4.7.1-2 @3.1.1]
    #[test]
    fn multi_level_wildcard_is_the_whole_last_level() {
        for text in ["a#", "#a", "a/b#", "#/a", "a/#/b", "##", "a/##", "#/", "#/#", "+#"] {
            check(text, Err(TopicError::MultiLevelWildcardMisplaced));
        }
    }

    /// [MQTT-4.7.1-2], [MQTT-4.7.1-3 @3.1.1]
    #[test]
    fn single_level_wildcard_is_a_whole_level() {
        for text in ["a+", "+a", "a/b+", "++", "+/++", "a+/b"] {
            check(text, Err(TopicError::SingleLevelWildcardMisplaced));
        }
    }

    /// CVE-2019-11779 of another broker: 65,400 separators in one filter ended in a recursion
    /// without bound.
    #[test]
    fn separators_alone_meet_the_level_limit() {
        let text = "/".repeat(65_400);
        assert_eq!(
            TopicFilter::parse(&text, &TopicLimits::DEFAULT),
            Err(TopicError::TooManyLevels)
        );
    }
}
