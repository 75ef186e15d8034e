//! One word per shard: which sources found its inbox full and sleep until there is room.
//!
//! A shard whose push found a ring full holds the envelope and may have nothing else to do.
//! Somebody has to wake it when the ring has room, and that can only be the shard that drains the
//! ring.
//!
//! # The protocol
//! - **Source**, its push refused: sets its group's bit in the target's word, then tries once more
//!   ([`RoomRequests::request`] stands between the two tries). Still full: it may sleep.
//! - **Target**, at the end of a turn in which it drained something: looks at its word
//!   ([`RoomRequests::requested`]), and for each source with enough room now clears the bit and
//!   notifies that source's bell, as if it had pushed to it.
//!
//! Why no source sleeps on a ring with room: two places are involved, the ring's consumer index and
//! this word. Source: write word, fence, read index. Target: write index, fence, read word. Of the
//! two sequentially consistent fences one is first in an order all threads agree on, and who comes
//! second sees what the other wrote. So either the source's second try finds the room, or the
//! target sees the request. A request made while the target is clearing it may be cleared along,
//! but the notification comes after the clearing, and the source tries again when it wakes.
//!
//! # Cost
//! A target pays one fence for each turn in which it drained something. A source pays for refused
//! pushes only.

use crate::sync::{AtomicU64, Ordering, fence};

/// The groups of sources (as in [`crate::bell`]) that wait for room in a shard's inboxes.
///
/// On cache lines of its own: it is written only when a ring is full, and read by its owner each
/// turn.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct RoomRequests {
    word: AtomicU64,
}

impl RoomRequests {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Source, between a refused push and the second try.
    #[cold]
    pub(crate) fn request(&self, group: u64) {
        debug_assert!(group != 0);
        self.word.fetch_or(group, Ordering::Relaxed);
        // Pairs with the fence in `requested`: this request or that room, one of us sees the other.
        fence(Ordering::SeqCst);
    }

    /// Target, after it took envelopes out of its inboxes: who waits for room.
    #[inline]
    pub(crate) fn requested(&self) -> u64 {
        // Pairs with the fence in `request`.
        fence(Ordering::SeqCst);
        self.word.load(Ordering::Relaxed)
    }

    /// Target, before it notifies the group.
    #[cold]
    pub(crate) fn clear(&self, group: u64) {
        // Relaxed: the notification that follows is a release, and the source acquires it before it
        // asks again.
        self.word.fetch_and(!group, Ordering::Relaxed);
    }
}
