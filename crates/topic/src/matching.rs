//! The definition of "matches".

use crate::{TopicFilter, TopicName};

/// Whether `filter` matches `topic`, level by level.
///
/// This is the reference: the subscription table and the retained index are tested against it. It
/// is linear in the two texts and fit for single questions, such as an access rule.
///
/// - `+` stands for exactly one level, an empty one included [MQTT-4.7.1-2].
/// - `#` stands for any number of levels, none included: `sport/#` matches `sport` [MQTT-4.7.1-1].
/// - A wildcard in the first level does not match a topic that begins with `$` [MQTT-4.7.2-1].
/// - Everything else is compared byte by byte [MQTT-4.7.3-4].
#[must_use]
pub fn matches(filter: TopicFilter<'_>, topic: TopicName<'_>) -> bool {
    if topic.is_dollar() && filter.as_str().starts_with(['+', '#']) {
        return false;
    }
    let mut filter_levels = filter.levels();
    let mut topic_levels = topic.levels();
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicLimits;

    fn check(filter: &str, topic: &str, expected: bool) {
        let limits = TopicLimits::DEFAULT;
        let parsed = TopicFilter::parse(filter, &limits).unwrap();
        let name = TopicName::parse(topic, &limits).unwrap();
        assert_eq!(matches(parsed, name), expected, "filter {filter:?}, topic {topic:?}");
    }

    /// The examples of section 4.7.1.2. [MQTT-4.7.1-1]
    #[test]
    fn multi_level_wildcard() {
        for topic in [
            "sport/tennis/player1",
            "sport/tennis/player1/ranking",
            "sport/tennis/player1/score/wimbledon",
        ] {
            check("sport/tennis/player1/#", topic, true);
        }
        check("sport/#", "sport", true);
        check("sport/#", "sport/", true);
        check("sport/#", "sports", false);
        check("sport/#", "spor", false);
        check("#", "sport", true);
        check("#", "/", true);
        check("/#", "/", true);
        check("/#", "/a/b", true);
        check("/#", "a/b", false);
        check("sport/tennis/#", "sport", false);
        check("+/#", "a", true);
        check("+/tennis/#", "x/tennis/y/z", true);
    }

    /// The examples of section 4.7.1.3. [MQTT-4.7.1-2]
    #[test]
    fn single_level_wildcard() {
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
        check("+", "a", true);
        check("+/", "a/", true);
        check("+/", "a", false);
        check("sport/+/player1", "sport/tennis/player1", true);
        check("sport/+/player1", "sport/player1", false);
    }

    /// The examples of section 4.7.2. [MQTT-4.7.2-1]
    #[test]
    fn dollar_topics_hide_from_leading_wildcards() {
        check("#", "$SYS", false);
        check("#", "$SYS/broker", false);
        check("+", "$SYS", false);
        check("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check("+/#", "$", false);
        check("$SYS/#", "$SYS/monitor/Clients", true);
        check("$SYS/#", "$SYS", true);
        check("$SYS/monitor/+", "$SYS/monitor/Clients", true);
        // Only the first level hides.
        check("a/#", "a/$SYS", true);
        check("a/+", "a/$SYS", true);
        check("+", "a$", true);
    }

    /// Section 4.7.3: case, spaces and slashes are part of the name. [MQTT-4.7.3-4]
    #[test]
    fn nothing_is_normalised() {
        check("ACCOUNTS", "Accounts", false);
        check("Accounts payable", "Accounts payable", true);
        check("/finance", "finance", false);
        check("finance/", "finance", false);
        check("a//b", "a/b", false);
        check("a//b", "a//b", true);
        // Precomposed and combining: the same to the eye, other bytes.
        check("caf\u{e9}", "cafe\u{301}", false);
        check("\u{feff}a", "a", false);
    }
}
