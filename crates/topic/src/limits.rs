//! How long and how deep a topic may be.

/// Limits on what a peer may send as a Topic Name or Topic Filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLimits {
    /// Most levels of one name or filter; `a/b` has two. Default 128, at least 1. The worst cost of
    /// matching one publication grows with it, see
    /// [`SubscriptionTable::matches`](crate::SubscriptionTable::matches).
    pub levels_max: u16,
    /// Most bytes of one name or filter. Default 65,535, which is all that the wire format can
    /// carry.
    pub size_max: u16,
}

impl TopicLimits {
    /// The limits of a broker whose operator set none: 128 levels, 65,535 bytes.
    pub const DEFAULT: Self = Self { levels_max: 128, size_max: u16::MAX };
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
