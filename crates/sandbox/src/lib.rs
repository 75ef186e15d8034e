//! What this process gives up for good once it has what it needs: files that the configuration does not name, and system
//! calls that a broker never makes.
//!
//! Somebody who has taken the process over, by a fault of ours or of a library, finds no program to start, no file to read
//! but ours, and little of the kernel to attack. Both parts need no privilege and work for root too; neither can be undone.
//!
//! | file | what |
//! |---|---|
//! | `files` | landlock: which files can be opened, made and removed |
//! | `calls` | seccomp: which system calls are refused |
//!
//! # Invariants
//! - Landlock holds the calling thread and those that it starts from then on: call [`restrict_files`] before there are
//!   others. The filter of calls holds all threads at once.
//! - A refused call fails with an error that callers know anyway, as on a system that does not permit it. Only a call through
//!   another interface than the machine's own, as of 32-bit programs, ends the process.
//! - What is open stays open: sockets, logs and standard error are as good as before.
//!
//! # Limits
//! - io_uring makes no system calls: what it does by itself (accept, connect, send, open) no filter of calls sees. Its opens
//!   are checked by landlock, with the rights of whoever submits.
//! - The filter is a list of what is refused. What it does not name is permitted.
//! - A rule for files holds on to what lay there: a file, or a directory, that takes the other's place under its name is out of
//!   reach, unless the directory around both was named.
//! - Memory cannot be written and then run, but a file can be written and then mapped to be run.

#![forbid(unsafe_code)]

mod calls;
mod files;

pub use calls::refuse_calls;
pub use files::{Extent, Places, landlock_works, restrict_files};
