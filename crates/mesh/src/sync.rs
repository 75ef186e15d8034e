//! The one door through which the mesh takes its atomics, so that a model checker can swap them.
//!
//! The unit tests of this room, built with the feature `model-check`, get loom's atomics, which
//! explore every interleaving and every value that the memory model lets a load return; everything
//! else gets the machine's:
//!
//! ```text
//! cargo test -p midge-mesh --release --features model-check
//! ```
//!
//! The swap happens in `cfg(test)` only, so the feature does no harm to a crate that depends on
//! this one.

#[cfg(all(test, feature = "model-check"))]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(all(test, feature = "model-check")))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
