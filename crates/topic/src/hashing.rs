//! The one hash of this room: keyed, because peers choose what is hashed.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

/// The key for a seed. The same seed gives the same hashes in every process of the same build.
pub(crate) fn hash_state(seed: u64) -> RandomState {
    // Four numbers without a pattern (digits of pi), one of them keyed.
    RandomState::with_seeds(
        seed ^ 0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    )
}

/// The hash of a topic, a filter or a level.
#[inline]
pub(crate) fn hash(state: &RandomState, text: &[u8]) -> u32 {
    let mut hasher = state.build_hasher();
    hasher.write(text);
    let hash = hasher.finish();
    (hash ^ hash >> 32) as u32
}
