//! One shard's durable log: records in, commits out, recovery.
//!
//! A [`Log`] is a plain value that a shard owns. [`Log::append`] gives a record its place and number at once; the record is
//! kept when the mark of the level somebody waits for has reached it ([`Log::synced`], [`Log::written`]). What the disk
//! has to do comes out of [`Log::poll_operation`], what it has done goes into [`Log::handle_completion`]: in the broker
//! the reactor does it on the shard's ring, in tests and in the simulator a [`memory::MemoryDisk`] with faults does.
//! After a crash [`Recovery`] yields the records that the disk has, in order, and names what is missing.
//!
//! ```text
//!  append            check  flush  read  retire …                     the shard
//!     │
//!    Log ── poll_operation ──> Create  Write  Sync  Read  Remove      the disk
//!     ^                                   │
//!     └──── handle_completion ────────────┘
//! ```
//!
//! # Invariants worth naming
//! - What was reported synced is yielded by recovery after any crash, as long as the disk keeps what it synced.
//! - A record that is not as it was written is not yielded, and what is missing is reported: sequences have no holes
//!   that a segment's header does not explain.
//! - Committed bytes are never written again, so a torn write cannot touch them.
//! - A failed write or sync is final for its segment.
//!
//! # What is deliberately absent
//! What a record means (a kind and bytes), files, clocks, randomness, threads. The layout byte by byte is in
//! `docs/store-format.md`.
//!
//! # Queues
//! | queue | filled by | drained by | bound | when full |
//! |---|---|---|---|---|
//! | gathered records | append | the disk's writes | `gather_size_max` | `Refused::Busy` |
//! | reads | read | the disk | `reads_max` | `Refused::Busy` |
//! | segments ready | preparation | append | two | nothing more is prepared |
//! | operations | the log | the disk | those above, and one creation, one commit, one removal each | — |
#![forbid(unsafe_code)]

mod buffer;
mod chunk;
mod event;
mod format;
mod ids;
mod log;
pub mod memory;
mod operation;
mod reader;
mod recovery;
mod settings;
mod suspect;

pub use buffer::{BUFFER_ALIGNMENT, Buffer};
pub use chunk::{Chunk, ChunkError, Records, Rest};
pub use event::{Condition, Event, Failure};
pub use format::{
    BATCH_HEADER_SIZE, FORMAT_VERSION, KIND_MAX, KnownDamage, RECORD_HEADER_SIZE, Record, checksum,
    record_size,
};
pub use ids::{Appended, Level, LogId, Position, Refused, Room, SegmentId, Sequence};
pub use log::{Log, ReadId, Statistics};
pub use operation::{Completion, DiskError, Operation, OperationId};
pub use reader::RecordReader;
pub use recovery::{
    Cause, Damage, Item, Recovered, RecoveredSegment, Recovery, RecoveryError, Segments,
    check_format,
};
pub use settings::Settings;
pub use suspect::{Suspect, suspects};
