//! The Quality of Service levels.

/// Quality of Service of a publication or of a subscription's maximum. Ordered: a lower level promises less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0: no acknowledgement.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: acknowledged with PUBACK, may be delivered twice.
    AtLeastOnce = 1,
    /// QoS 2: delivered once, in two exchanges.
    ExactlyOnce = 2,
}

impl QoS {
    /// The level of this number; `None` from 3 on, which is not a level. [MQTT-3.3.1-4]
    #[inline]
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}
