//! One word per shard: which inboxes have something, and whether the shard sleeps.
//!
//! # Why one word
//! Two questions are asked across cores: "which of my 63 inboxes are worth a look?" and "does the
//! target sleep, so that I must wake it?". Asked of two places in memory they race (the sender
//! looks at the flag while the receiver looks at the inboxes, and each sees the old state) and need
//! a sequentially consistent fence on both sides. Asked of one word they cannot: every change of
//! one atomic word happens in one order that all threads agree on.
//!
//! # The protocol
//! Bits 0 to 62 stand for groups of inboxes, bit 63 is [`PARKED`].
//! - **Sender**, after its pushes: sets its group's bit ([`Bell::notify`]), then looks at the word.
//!   `PARKED` there: it clears it, and whoever cleared it rings the doorbell, so one park is
//!   answered by one doorbell.
//! - **Receiver**, at the start of a turn: swaps the word for zero ([`Bell::take`]) and looks into
//!   the inboxes whose bits were set.
//! - **Receiver**, before it sleeps: compare-and-swap from zero to `PARKED`
//!   ([`Bell::announce_park`]). It fails when any bit is set, and then it does not sleep.
//!
//! Why no wake-up is lost: in the order of changes of the word, the sender's bit stands either
//! before the park or after it. Before: the compare-and-swap sees the bit and fails, unless the
//! receiver took it in between, and then it looked into the inbox after the push. After: the
//! sender's look at the word, which cannot go back behind its own change, sees `PARKED`, unless
//! another sender cleared it, and then that one rings.
//!
//! # Orderings
//! The setting of the bit is a release, the taking an acquire: what was pushed before the bit was
//! set is visible to who took it. All changes between the two are read-modify-writes, so they carry
//! the release on. Nothing else needs more than relaxed. `model.rs` proves it with every
//! interleaving; there the rings are relaxed counters, so that this word alone must carry them.
//!
//! # Cost
//! A sender pays one locked instruction on one cache line per target and flush, and nothing per
//! envelope. A receiver with nothing to do pays one plain load of a line in its own cache, however
//! many shards there are.

use crate::sync::{AtomicU64, Ordering};

/// The bit that says: asleep, or about to be, and to be rung.
const PARKED: u64 = 1 << 63;

/// How many groups of inboxes one word can tell apart.
pub(crate) const GROUPS_MAX: usize = 63;

/// The bell of one shard, on cache lines of its own (two: the neighbour line is fetched along with
/// it).
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Bell {
    word: AtomicU64,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Sender, after its pushes: says that the group's inboxes have something. True: the shard had
    /// announced a park that nobody has answered, and the caller must ring its doorbell.
    #[inline]
    pub(crate) fn notify(&self, group: u64) -> bool {
        debug_assert!(group != 0);
        debug_assert!(group & PARKED == 0);
        // Release: pairs with the acquire in `take`. The result is not used on purpose, that is one
        // `lock or` where fetching the old value would be a compare-and-swap loop.
        self.word.fetch_or(group, Ordering::Release);
        // Relaxed: a load cannot see the word as it was before this thread's own change of it.
        self.word.load(Ordering::Relaxed) & PARKED != 0
            // Relaxed: no data hangs on who rings. A read-modify-write, so exactly one sender wins.
            && self.word.fetch_and(!PARKED, Ordering::Relaxed) & PARKED != 0
    }

    /// Receiver: the groups with something in them since the last call, and forgets them.
    #[inline]
    pub(crate) fn take(&self) -> u64 {
        // A stale zero delays to the next turn at worst: the compare-and-swap of the park is never
        // stale.
        if self.word.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        // Acquire: pairs with the release in `notify`.
        self.word.swap(0, Ordering::Acquire) & !PARKED
    }

    /// Receiver: announces that it will sleep. False: something arrived, do not.
    #[inline]
    pub(crate) fn announce_park(&self) -> bool {
        // Relaxed: whatever made the word non-zero is looked at after a `take`, which acquires.
        self.word.compare_exchange(0, PARKED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Receiver: takes the announcement back, when no sender has answered it yet.
    #[inline]
    pub(crate) fn unpark(&self) {
        if self.is_parked() {
            self.word.fetch_and(!PARKED, Ordering::Relaxed);
        }
    }

    /// Receiver: whether its own announcement still stands.
    #[inline]
    pub(crate) fn is_parked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & PARKED != 0
    }

    /// Receiver: whether no group has anything since the last `take`. May be late, never early.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.word.load(Ordering::Relaxed) & !PARKED == 0
    }
}
