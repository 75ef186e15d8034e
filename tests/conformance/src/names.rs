//! Names that no other test uses, so that all tests can share one broker at the same time.
//!
//! They depend on the test's name and on how many it made before, not on chance: a client
//! identifier decides the shard a client lives on, so a run should place its clients as the run
//! before did. Against a broker that outlives the suite the process identifier is added, because
//! sessions and retained messages of an earlier run may still be there.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::broker;

thread_local! {
    // Tests run on a thread each, so counting per thread is counting per test.
    static COUNT: Cell<u32> = const { Cell::new(0) };
}

fn test_name() -> String {
    let thread = std::thread::current();
    let name = thread.name().expect("only the test's own thread makes names").to_owned();
    if broker::is_external() { format!("{name}-{}", std::process::id()) } else { name }
}

fn count() -> u32 {
    COUNT.with(|count| {
        count.set(count.get() + 1);
        count.get()
    })
}

/// A topic (without wildcards, without a leading `$`) that ends in `hint`.
#[must_use]
pub fn topic(hint: &str) -> String {
    format!("{}/{}/{hint}", test_name().replace("::", "/"), count())
}

/// A client identifier of at most 23 letters and digits, which every server must allow.
#[must_use]
pub fn client_id() -> String {
    let mut hasher = DefaultHasher::new();
    test_name().hash(&mut hasher);
    format!("c{:012x}x{}", hasher.finish() & 0xffff_ffff_ffff, count())
}
