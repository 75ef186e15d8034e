//! The Packet Identifier, which is never zero.

use core::num::NonZeroU16;

/// A Packet Identifier. Zero is not one [MQTT-2.2.1-3] [MQTT-2.2.1-4], so `Option<PacketId>` takes two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The lowest identifier.
    pub const MIN: Self = Self(NonZeroU16::MIN);
    /// The highest identifier.
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// The identifier of this number; `None` for zero.
    #[inline]
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number, 1 to 65,535.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl core::fmt::Display for PacketId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

const _: () = assert!(size_of::<Option<PacketId>>() == 2);
