//! What every test file uses.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

pub use crate::broker::Broker;
pub use crate::client::{Client, PATIENCE, client, connect, hello, open};
pub use crate::names::{client_id, topic};
pub use crate::property;
pub use crate::wire::*;

/// The items one after the other, each printed first so that a failure says which one it was.
pub fn each<T: Debug>(items: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    items.into_iter().inspect(|item| eprintln!("{item:02x?}"))
}

/// Lets real time pass, for the few statements that are about it.
pub fn let_pass(seconds: f32) {
    thread::sleep(Duration::from_secs_f32(seconds));
}

/// Tries until it is so: for what the broker may do a little after the packet that asked for it.
pub fn eventually(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !attempt() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
