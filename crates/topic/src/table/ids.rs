//! The two ids that a subscription is made of.

use std::num::NonZeroU32;

/// Whoever subscribes. The number is the caller's; the table only compares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(pub u32);

/// A filter that has at least one subscriber.
///
/// Stable while the filter has subscribers; once the last one unsubscribes the number may come back
/// for another filter. `Option<FilterId>` is four bytes as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(NonZeroU32);

const _: () = assert!(size_of::<Option<FilterId>>() == 4);

impl FilterId {
    /// A small number, dense from zero: fit to index an array kept beside the table.
    #[inline]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0.get() - 1
    }

    #[inline]
    pub(crate) fn from_index(index: u32) -> Self {
        Self(NonZeroU32::MIN.checked_add(index).expect("fewer than 2^32 - 1 filters"))
    }
}
