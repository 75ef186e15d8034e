//! Subscription Options in four bytes.
//!
//! The subscription table holds one value per subscriber and filter. Ten million of them are counted in bytes, so
//! the maximum QoS, the two flags and the Subscription Identifier share one word: the identifier has at most 28
//! bits (268,435,455), which leaves four.

use midge_codec::QoS;

const QOS_SHIFT: u32 = 28;
const NO_LOCAL: u32 = 1 << 30;
const RETAIN_AS_PUBLISHED: u32 = 1 << 31;
const IDENTIFIER_MASK: u32 = (1 << QOS_SHIFT) - 1;

/// The largest Subscription Identifier, 268,435,455.
pub const SUBSCRIPTION_IDENTIFIER_MAX: u32 = IDENTIFIER_MASK;

/// What a subscriber asked for with one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionOptions(u32);

impl SubscriptionOptions {
    /// Packs the options. `identifier` is the Subscription Identifier, 1 to 268,435,455, or `None`.
    ///
    /// # Panics
    /// When `identifier` is zero or too large: the codec refuses such packets.
    #[must_use]
    pub fn new(
        qos: QoS,
        no_local: bool,
        retain_as_published: bool,
        identifier: Option<u32>,
    ) -> Self {
        let identifier = identifier.map_or(0, |identifier| {
            assert!(identifier != 0 && identifier <= SUBSCRIPTION_IDENTIFIER_MAX);
            identifier
        });
        let mut packed = identifier | ((qos as u32) << QOS_SHIFT);
        if no_local {
            packed |= NO_LOCAL;
        }
        if retain_as_published {
            packed |= RETAIN_AS_PUBLISHED;
        }
        Self(packed)
    }

    /// The granted maximum QoS.
    #[inline]
    #[must_use]
    pub fn qos(self) -> QoS {
        match (self.0 >> QOS_SHIFT) & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// Messages of the subscriber's own connection are not wanted.
    #[inline]
    #[must_use]
    pub fn no_local(self) -> bool {
        self.0 & NO_LOCAL != 0
    }

    /// The RETAIN flag is passed on as the publisher set it.
    #[inline]
    #[must_use]
    pub fn retain_as_published(self) -> bool {
        self.0 & RETAIN_AS_PUBLISHED != 0
    }

    /// The Subscription Identifier.
    #[inline]
    #[must_use]
    pub fn identifier(self) -> Option<u32> {
        let identifier = self.0 & IDENTIFIER_MASK;
        (identifier != 0).then_some(identifier)
    }

    /// The packed word, for storing.
    #[must_use]
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// From a stored word; `None` when no options look like that.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        ((bits >> QOS_SHIFT) & 3 != 3).then_some(Self(bits))
    }

    /// The options of one delivery that two overlapping subscriptions of one client cause: the higher QoS
    /// [MQTT-3.3.4-2], and RETAIN as published if either asks for it. The identifiers of both are the caller's to keep.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let qos = if self.qos() >= other.qos() { self.0 } else { other.0 } & (3 << QOS_SHIFT);
        let flags = (self.0 | other.0) & RETAIN_AS_PUBLISHED;
        Self(qos | flags | (self.0 & IDENTIFIER_MASK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for flags in 0..4 {
                for identifier in [None, Some(1), Some(127), Some(SUBSCRIPTION_IDENTIFIER_MAX)] {
                    let options =
                        SubscriptionOptions::new(qos, flags & 1 != 0, flags & 2 != 0, identifier);
                    assert_eq!(options.qos(), qos);
                    assert_eq!(options.no_local(), flags & 1 != 0);
                    assert_eq!(options.retain_as_published(), flags & 2 != 0);
                    assert_eq!(options.identifier(), identifier);
                }
            }
        }
    }

    /// Overlapping subscriptions: the message arrives at the highest QoS of them [MQTT-3.3.4-2].
    #[test]
    fn merging_takes_the_higher_qos() {
        let low = SubscriptionOptions::new(QoS::AtMostOnce, false, true, Some(3));
        let high = SubscriptionOptions::new(QoS::ExactlyOnce, true, false, Some(4));
        for merged in [low.merge(high), high.merge(low)] {
            assert_eq!(merged.qos(), QoS::ExactlyOnce);
            assert!(merged.retain_as_published());
        }
    }
}
