//! Deliberate bugs, one at a time, to see that the simulator finds them (`docs/simulator.md`).
//!
//! `mutant!("name")` is the constant `false` unless the feature `mutants` is on, so an ordinary build holds none of it.

/// Whether a deliberate bug is switched on.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:literal) => {
        midge_mutant::is_active($name)
    };
}

/// Never, in an ordinary build.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}
