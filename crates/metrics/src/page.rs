//! One shard's statistics page: a file of 64-bit words in shared memory.
//!
//! ```text
//!  word 0   magic, layout version, layout hash, size, shard, shards, process id, start time
//!       8   generation, time of the last publication
//!      16   counters                                   ┐ consistent: the generation is odd while they are written,
//!           busiest clients and topics                 ┘ and a reader that saw it change reads again
//!           histograms: sum, then buckets                each word right, together as of within one reading
//! ```
//!
//! All words are atomics with relaxed order (a plain move on today's machines); nobody waits for anybody. The writer
//! is one thread. Histograms are counted in the page itself, so publishing does not copy them.

mod layout;
mod memory;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use layout::{LAYOUT_VERSION, PAGE_SIZE, Series};
pub use reader::{Header, PageError, PageReader, ShardReading};
pub(crate) use writer::file_name;
pub use writer::{Identity, PageWriter};
