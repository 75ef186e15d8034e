//! Why a peer's text is not a Topic Name or Topic Filter.

use std::fmt;

/// What is wrong with a Topic Name, a Topic Filter or a shared filter. Always the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TopicError {
    /// No character at all [MQTT-4.7.3-1].
    Empty,
    /// U+0000 in the text [MQTT-4.7.3-2].
    ContainsNull,
    /// More bytes than [`TopicLimits::size_max`](crate::TopicLimits::size_max), or than 65,535
    /// [MQTT-4.7.3-3].
    TooLong,
    /// More levels than [`TopicLimits::levels_max`](crate::TopicLimits::levels_max). A limit of
    /// this broker.
    TooManyLevels,
    /// `+` or `#` in a Topic Name [MQTT-4.7.0-1].
    WildcardInName,
    /// `#` that shares its level with other characters, or is not the last level [MQTT-4.7.1-1].
    MultiLevelWildcardMisplaced,
    /// `+` that shares its level with other characters [MQTT-4.7.1-2].
    SingleLevelWildcardMisplaced,
    /// `$share/` without a share name [MQTT-4.8.2-1].
    ShareNameEmpty,
    /// `+` or `#` in the share name [MQTT-4.8.2-2].
    ShareNameWildcard,
    /// A share name that no `/` and Topic Filter follow [MQTT-4.8.2-2].
    ShareFilterMissing,
    /// A shared filter inside a shared filter. What follows the share name has the syntax of a
    /// filter that is not shared [MQTT-4.8.2-2].
    ShareNested,
}

impl TopicError {
    /// The normative statement of MQTT 5.0 that the text breaks; `None` for limits of this broker.
    #[must_use]
    pub const fn statement(self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("MQTT-4.7.3-1"),
            Self::ContainsNull => Some("MQTT-4.7.3-2"),
            Self::TooLong => Some("MQTT-4.7.3-3"),
            Self::TooManyLevels => None,
            Self::WildcardInName => Some("MQTT-4.7.0-1"),
            Self::MultiLevelWildcardMisplaced => Some("MQTT-4.7.1-1"),
            Self::SingleLevelWildcardMisplaced => Some("MQTT-4.7.1-2"),
            Self::ShareNameEmpty => Some("MQTT-4.8.2-1"),
            Self::ShareNameWildcard | Self::ShareFilterMissing | Self::ShareNested => {
                Some("MQTT-4.8.2-2")
            }
        }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Empty => "the topic is empty",
            Self::ContainsNull => "the topic contains U+0000",
            Self::TooLong => "the topic has too many bytes",
            Self::TooManyLevels => "the topic has too many levels",
            Self::WildcardInName => "the Topic Name contains a wildcard",
            Self::MultiLevelWildcardMisplaced => "'#' must be the whole last level",
            Self::SingleLevelWildcardMisplaced => "'+' must be a whole level",
            Self::ShareNameEmpty => "the share name is empty",
            Self::ShareNameWildcard => "the share name contains a wildcard",
            Self::ShareFilterMissing => "no Topic Filter follows the share name",
            Self::ShareNested => "a shared filter inside a shared filter",
        })
    }
}

impl std::error::Error for TopicError {}
