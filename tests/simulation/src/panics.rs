//! Panics of the broker become broken promises: here is where their text is kept.
//!
//! In a build that aborts on panics the hook is the last thing that happens, so it says which seed it was.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    static PLAN: RefCell<String> = const { RefCell::new(String::new()) };
}

static INSTALLED: Once = Once::new();

/// From now on panics are noted instead of printed.
pub fn quiet() {
    INSTALLED.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.payload_as_str().unwrap_or_default();
            let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
            let text = format!("{text}{}", place.unwrap_or_default());
            if cfg!(panic = "abort") {
                PLAN.with_borrow(|plan| println!("{plan}: the broker panicked: {text}"));
            }
            LAST.with_borrow_mut(|last| *last = text);
        }));
    });
}

/// What this thread is running: for the report of a build that aborts.
pub fn running(plan: &str) {
    PLAN.with_borrow_mut(|running| plan.clone_into(running));
}

/// The text of this thread's last panic.
#[must_use]
pub fn last() -> String {
    LAST.with_borrow(Clone::clone)
}
