//! Shared filters: `$share/NAME/FILTER`.

use crate::{TopicError, TopicFilter, TopicLimits};

/// A Topic Filter that a group of clients shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedFilter<'a> {
    /// The group's name: at least one character, none of `/`, `+`, `#`.
    pub share_name: &'a str,
    /// What the group subscribes to.
    pub filter: TopicFilter<'a>,
}

impl<'a> SharedFilter<'a> {
    /// Takes a shared filter apart; `Ok(None)` means that `text` does not begin with `$share/` and
    /// is to be parsed as a [`TopicFilter`]. The limits apply to the filter behind the share name.
    ///
    /// # Errors
    /// [`TopicError`] when the text begins with `$share/` but has no share name [MQTT-4.8.2-1], a
    /// share name with a wildcard, no filter behind it [MQTT-4.8.2-2], or a filter that is
    /// malformed itself.
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Option<Self>, TopicError> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        if text.contains('\0') {
            return Err(TopicError::ContainsNull);
        }
        let Some((share_name, filter)) = rest.split_once('/') else {
            return Err(if rest.is_empty() {
                TopicError::ShareNameEmpty
            } else {
                TopicError::ShareFilterMissing
            });
        };
        if share_name.is_empty() {
            return Err(TopicError::ShareNameEmpty);
        }
        if share_name.contains(['+', '#']) {
            return Err(TopicError::ShareNameWildcard);
        }
        if filter.is_empty() {
            return Err(TopicError::ShareFilterMissing);
        }
        if filter.starts_with(PREFIX) {
            return Err(TopicError::ShareNested);
        }
        Ok(Some(Self { share_name, filter: TopicFilter::parse(filter, limits)? }))
    }
}

const PREFIX: &str = "$share/";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Option<(&str, &str)>, TopicError>) {
        let parsed = SharedFilter::parse(text, &TopicLimits { levels_max: 3, size_max: 20 });
        let parts = parsed.map(|shared| shared.map(|it| (it.share_name, it.filter.as_str())));
        assert_eq!(parts, expected, "{text:?}");
    }

    #[test]
    fn not_shared() {
        for text in ["a", "", "$share", "$SHARE/a/b", "$shared/a/b", "/$share/a/b", "$share#", "+"]
        {
            check(text, Ok(None));
        }
    }

    #[test]
    fn shared() {
        check("$share/g/a", Ok(Some(("g", "a"))));
        check("$share/g/#", Ok(Some(("g", "#"))));
        check("$share/g/+/b/#", Ok(Some(("g", "+/b/#"))));
        // The filter is "/": two empty levels.
        check("$share/g//", Ok(Some(("g", "/"))));
        check("$share/g//finance", Ok(Some(("g", "/finance"))));
        check("$share/$g/$SYS/a", Ok(Some(("$g", "$SYS/a"))));
        check("$share/g/$share", Ok(Some(("g", "$share"))));
        // The limits count the filter alone, not the group's name.
        check("$share/a-long-share-name/a/b/c", Ok(Some(("a-long-share-name", "a/b/c"))));
    }

    /// [MQTT-4.8.2-1]
    #[test]
    fn share_name_is_not_empty() {
        check("$share/", Err(TopicError::ShareNameEmpty));
        check("$share//", Err(TopicError::ShareNameEmpty));
        check("$share//a", Err(TopicError::ShareNameEmpty));
    }

    /// [MQTT-4.8.2-2]
    #[test]
    fn share_name_has_no_wildcard_and_a_filter_follows() {
        for text in ["$share/+/a", "$share/#/a", "$share/g+/a", "$share/g#h/a", "$share/+/"] {
            check(text, Err(TopicError::ShareNameWildcard));
        }
        // "$share/ab" crashed another broker (CVE-2025-68699).
        for text in ["$share/ab", "$share/ab/", "$share/#", "$share/+"] {
            check(text, Err(TopicError::ShareFilterMissing));
        }
        check("$share/g/$share/h/a", Err(TopicError::ShareNested));
    }

    #[test]
    fn the_filter_inside_obeys_the_rules_of_filters() {
        check("$share/g/a/b#", Err(TopicError::MultiLevelWildcardMisplaced));
        check("$share/g/#/a", Err(TopicError::MultiLevelWildcardMisplaced));
        check("$share/g/a+", Err(TopicError::SingleLevelWildcardMisplaced));
        check("$share/g/a/b/c/d", Err(TopicError::TooManyLevels));
        check("$share/g/0123456789012345678901", Err(TopicError::TooLong));
        check("$share/g/a\0", Err(TopicError::ContainsNull));
        check("$share/g\0/a", Err(TopicError::ContainsNull));
    }
}
