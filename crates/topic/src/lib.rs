//! Topic Names, Topic Filters, the subscription table, the retained index.
//!
//! This room answers two questions for one shard: *who wants this publication?*
//! ([`SubscriptionTable`]) and *which retained messages does this new subscription get?*
//! ([`RetainedIndex`]). Both are plain values: no clock, no sockets, no randomness. The hash seed
//! is handed in.
//!
//! | file | what |
//! |---|---|
//! | `name`, `filter`, `shared` | the three texts a peer can send, parsed into types that cannot be wrong |
//! | `matching` | the definition of "matches", as short as it can be: the oracle of every test here |
//! | `table` | filter → subscribers; one hash lookup for literal filters, a trie for the others |
//! | `retained` | topic → retained message, in order, with resumable scans that skip what cannot match |
//! | `slab`, `index` | stable four-byte indices in fixed pages, and hash indices over them |
//!
//! # Invariants worth naming
//! - Texts are compared byte by byte; nothing is normalised [MQTT-4.7.3-4].
//! - Nothing here recurses, so no topic, however deep, can exhaust the stack.
//! - Every count of levels and bytes that a peer controls has a limit ([`TopicLimits`]), or the
//!   cost is budgeted ([`RetainedIndex::scan`]), or the bound is written down
//!   ([`SubscriptionTable::matches`]).
//!
//! # What is deliberately absent
//! Shared groups' choice of a member, permissions, quotas and options of a subscription: the table
//! carries an opaque `V` per subscription and the shard gives it a meaning.
//!
//! Tags such as `[MQTT-4.7.1-1]` are statements of MQTT 5.0; `@3.1.1` marks those of the older
//! text, which uses the same numbers for other sentences.
//!
//! ```
//! use midge_topic::{SubscriberId, SubscriptionTable, TopicFilter, TopicLimits, TopicName};
//!
//! let limits = TopicLimits::default();
//! let mut table = SubscriptionTable::with_seed(0x5eed);
//! table.subscribe(TopicFilter::parse("lamp/+/state", &limits)?, SubscriberId(7), "qos 1");
//!
//! let mut found = Vec::new();
//! let filters = table.matches(TopicName::parse("lamp/hall/state", &limits)?, &mut found);
//! assert_eq!((filters, &found[..]), (1, &[(SubscriberId(7), "qos 1")][..]));
//! # Ok::<(), midge_topic::TopicError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod filter;
mod hashing;
mod index;
mod limits;
mod matching;
mod name;
mod retained;
mod shared;
mod slab;
mod table;
#[cfg(test)]
mod testing;

pub use error::TopicError;
pub use filter::TopicFilter;
pub use limits::TopicLimits;
pub use matching::matches;
pub use name::TopicName;
pub use retained::{RetainedIndex, Scan, Topic};
pub use shared::SharedFilter;
pub use table::{FilterId, Subscribed, SubscriberId, SubscriptionTable, Unsubscribed};
