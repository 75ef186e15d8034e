//! What a shard counts, and the page of shared memory in which everybody may read it.
//!
//! A shard counts in plain numbers that are its own ([`Counters`]), so counting costs an add on a line that is already in
//! that core's cache. At most once a millisecond, and before it sleeps, it copies them into its statistics page
//! ([`PageWriter`]): a file in the instance's runtime directory, one per shard, mapped by the shard and by whoever wants to
//! know. Readers ([`Instance`]) ask nobody, wait for nobody and cost the shard nothing; they merge.
//!
//! ```no_run
//! use midge_metrics::{Counters, Instance, Series};
//!
//! let instance = Instance::open("/run/midge/4711".as_ref())?;     // once
//! let reading = instance.read()?;                                 // as often as one likes: no system call
//! for (shard, reading) in reading.shards.iter().enumerate() {
//!     println!("shard {shard}: {} connections", reading.counters.connections_now);
//! }
//! let total = reading.total();
//! for (field, value) in total.counters.iter() {                   // every number with name, sentence, kind, unit, labels
//!     println!("{} {:?} {value}", field.name, field.labels);
//! }
//! let turns = total.histogram(Series::Turn);
//! println!("{:?} ns at 99 %", turns.quantile(0.99));
//! # Ok::<(), midge_metrics::PageError>(())
//! ```
//!
//! # How to count something new
//! Add an entry to the list in `counters.rs`, and a line to `docs/statistics.md`. It appears in the page, in `stats`, in Prometheus and wherever else the list
//! is walked; nothing else names it. Pages of two builds whose lists differ refuse each other.
//!
//! # Names
//! A name is a family: the fields of one family differ in labels, which are closed sets (`labels.rs`). Names carry their
//! unit (`bytes`, `_ns`), and what is a gauge ends in `_now`. Exporters that have other customs (Prometheus: base units,
//! `_total`) derive theirs from [`Field::kind`] and [`Field::unit`].
//!
//! # Invariants worth naming
//! - One writer per page. Counters and the busiest are read as of one moment (a generation word says whether it was one);
//!   histograms are counted in the page itself.
//! - Memory is constant: [`PAGE_SIZE`] bytes a shard, whatever happens.
//! - A reader refuses a page of another layout with one sentence.
//!
//! # Deliberately absent
//! No registry, no strings and no read-modify-write on the hot path; no thread, no clock (times are arguments). Where
//! the directory is and which process is meant: the program knows.
#![deny(unsafe_code)]

mod busiest;
mod counters;
mod field;
mod histogram;
mod instance;
mod labels;
mod page;

pub use busiest::{
    Busiest, BusiestReading, BusyText, ENTRIES, SAMPLES_PER_DOUBLING, TEXT_SIZE_MAX, WINDOW_NS,
};
pub use counters::Counters;
pub use field::{Field, Kind, Unit};
pub use histogram::{BUCKETS, Histogram, SUB_BUCKETS, VALUE_LIMIT, bucket_bounds, bucket_of};
pub use instance::{Instance, Reading};
pub use labels::{
    ConnectRefusal, ConnectionRefusal, ConnectionState, LogCondition, MemoryKind, PacketType, Qos,
    TlsHandshake, TransportRefusal,
};
pub use page::{
    Header, Identity, LAYOUT_VERSION, PAGE_SIZE, PageError, PageReader, PageWriter, Series,
    ShardReading,
};
