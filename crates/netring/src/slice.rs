//! How long the scheduler lets a thread run, and others wait, at a time.

use std::{io, time::Duration};

use crate::sys;

/// The shortest that the kernel takes.
pub const TIME_SLICE_MIN: Duration = Duration::from_micros(100);

/// The longest that the kernel takes.
pub const TIME_SLICE_MAX: Duration = Duration::from_millis(100);

/// Asks the scheduler to count the calling thread's turns in `slice` (brought between [`TIME_SLICE_MIN`] and
/// [`TIME_SLICE_MAX`]) instead of its own some milliseconds.
///
/// The thread gets no larger part of the processor. But whoever asks for shorter turns is due earlier: a thread that wakes runs
/// sooner beside others that are in the midst of theirs. The price is more switches where several such threads share a core and
/// all have work. Needs no privilege. Linux before 6.12 takes the wish and does nothing; threads of a real-time policy stay as
/// they are.
///
/// # Errors
/// What the system says, in a sandbox for example. Nothing has changed then.
pub fn set_time_slice(slice: Duration) -> io::Result<()> {
    let slice = slice.clamp(TIME_SLICE_MIN, TIME_SLICE_MAX);
    sys::set_time_slice(u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX))
}
