//! Deliberate bugs: which are there, and which is switched on.
//!
//! They stand in the broker's own source (`mutant!("name")`), compiled in only with this package's feature `mutants`. One at
//! a time is switched on for a thread, and the simulator has to find it.

/// All deliberate bugs, with one line each.
#[cfg(feature = "mutants")]
pub use midge_mutant::MUTANTS;

/// None in an ordinary build.
#[cfg(not(feature = "mutants"))]
pub const MUTANTS: &[(&str, &str)] = &[];

/// Switches a bug on for this thread; `None` switches it off.
pub fn activate(mutant: Option<&'static str>) {
    #[cfg(feature = "mutants")]
    midge_mutant::activate(mutant);
    #[cfg(not(feature = "mutants"))]
    assert!(mutant.is_none(), "an ordinary build has no deliberate bugs");
}

/// The bug that is switched on in this thread.
#[must_use]
pub fn active() -> Option<&'static str> {
    #[cfg(feature = "mutants")]
    return midge_mutant::active();
    #[cfg(not(feature = "mutants"))]
    None
}
