//! The disk of the durable logs: the data directory, its files, and the operations on them.
//!
//! | file | what it does |
//! |---|---|
//! | `directory` | opens and locks the data directory; says in one sentence why it cannot |
//! | `layout` | which logs are in force |
//! | `files` | the files of one shard's log: names, recovery, what is done once after it |
//! | `helper` | threads that create and remove files, so that no shard waits for that |
//! | `offline` | the same operations done at once, before the shards run |
//! | `writer` | a whole log written at once |
//! | `frozen` | a log's files as they were at one moment |
//! | `driver` | a log's operations on the shard's own net ring |
//!
//! ```text
//! DIR/format               what this is, and the version of its layout
//! DIR/layout               which logs are in force
//! DIR/lock                 held while a broker runs; holds its process id
//! DIR/shard-00000/         one log: 0000000001.log, 0000000002.log …
//! DIR/damaged/             copies of files in which something was damaged
//! ```
//!
//! # Direct I/O
//! Segments are written past the page cache where the file system has that, with zeroes written ahead, so that a commit
//! is one write and one flush of the device and touches no metadata. Elsewhere the same writes and syncs go through the
//! cache. Figures: `docs/decisions/0006-commits-on-the-net-ring.md`.

mod directory;
mod driver;
mod files;
mod frozen;
mod helper;
pub(crate) mod layout;
mod offline;
mod writer;

pub use directory::{DataDirectory, FORMAT_VERSION, OpenError};
pub use driver::Disk;
pub use files::{Access, LogDirectory};
pub use frozen::FrozenLog;
pub use helper::DiskHelper;
pub use layout::Layout;
pub use writer::LogWriter;
