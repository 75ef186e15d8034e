//! Which retained messages a new subscription gets.
//!
//! # Shape
//! One ordered set of the caller's values, ordered by the bytes of their topics. The topic is read through the value
//! ([`Topic`]), so it is kept once: with `V` an `Arc`, an entry costs the pointer and its share of a tree node (about 14
//! bytes when messages arrive in random order, 18 in ascending order).
//!
//! A filter selects ranges of this order. A [scan](RetainedIndex::scan) goes through them and, at a topic that does not
//! match, works out the least topic behind it that could, and goes there (`step`): `+/status` over a million devices
//! with fifty topics each looks at about three entries a device. A scan stops after a number of entries *looked at*, not of
//! entries found, and goes on from a topic, not from a position: so it never holds up a loop turn, and the set may
//! change between two parts.
//!
//! # Invariants
//! - One value per topic. A value's topic does not change while it is in.
//! - A topic that is in from the first part of a scan to the last is visited exactly once.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeSet, btree_set},
    fmt,
    ops::Bound,
    rc::Rc,
    sync::Arc,
};

use crate::{TopicFilter, filter::has_wildcard};

use self::step::{Step, step};

mod step;
#[cfg(test)]
mod tests;

/// Something that is kept under its topic.
pub trait Topic {
    /// The Topic Name. Always the same while the value is in an index.
    fn topic(&self) -> &str;
}

impl<T: Topic + ?Sized> Topic for &T {
    fn topic(&self) -> &str {
        (**self).topic()
    }
}

impl<T: Topic + ?Sized> Topic for Box<T> {
    fn topic(&self) -> &str {
        (**self).topic()
    }
}

impl<T: Topic + ?Sized> Topic for Rc<T> {
    fn topic(&self) -> &str {
        (**self).topic()
    }
}

impl<T: Topic + ?Sized> Topic for Arc<T> {
    fn topic(&self) -> &str {
        (**self).topic()
    }
}

/// The retained messages of one shard, one per topic [MQTT-3.3.1-5].
pub struct RetainedIndex<V: Topic> {
    entries: BTreeSet<Entry<V>>,
}

/// How far a [scan](RetainedIndex::scan) got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Scan<'a> {
    /// All entries have been seen.
    Done,
    /// The budget is used up.
    More {
        /// Where to go on: keep a copy and hand it to the next call. The last entry looked at, which need not be one that
        /// matched, and which may be gone by then.
        after: &'a str,
    },
}

impl<V: Topic> RetainedIndex<V> {
    /// An empty index.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: BTreeSet::new() }
    }

    /// How many values are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no value is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a value; the one that had its topic before, if any [MQTT-3.3.1-5].
    pub fn insert(&mut self, value: V) -> Option<V> {
        self.entries.replace(Entry(value)).map(|entry| entry.0)
    }

    /// Removes and returns the value of a topic [MQTT-3.3.1-6].
    pub fn remove(&mut self, topic: &str) -> Option<V> {
        self.entries.take(topic).map(|entry| entry.0)
    }

    /// The value of a topic.
    #[must_use]
    pub fn find(&self, topic: &str) -> Option<&V> {
        self.entries.get(topic).map(|entry| &entry.0)
    }

    /// All values in the order of the bytes of their topics, from the first one behind `after` on.
    pub fn iter_after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = &'a V> {
        self.range(after.map_or(Bound::Unbounded, Bound::Excluded)).map(|entry| &entry.0)
    }

    /// Tells `visit` the values whose topics match `filter`, in the order of the bytes of their topics, from the first
    /// one behind `after` on (`None`: from the start), until `budget` entries were looked at (at least one).
    ///
    /// A leading wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
    ///
    /// # Cost
    /// An entry looked at costs one or two comparisons of two topics, and a descent through the tree if the entries behind
    /// it are skipped. Allocates one string if anything is skipped.
    pub fn scan<'a>(
        &'a self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        budget: usize,
        visit: &mut dyn FnMut(&'a V),
    ) -> Scan<'a> {
        let filter = filter.as_str();
        if !has_wildcard(filter.as_bytes()) {
            if after.is_none_or(|after| after < filter) {
                self.find(filter).into_iter().for_each(visit);
            }
            return Scan::Done;
        }
        // The least topic that could match, if the one at hand is below it: then the scan is on its way there.
        let mut target = String::new();
        let mut range = match after.map(|after| (after, step(filter, after, &mut target))) {
            None => self.range(Bound::Included(literal_prefix(filter))),
            Some((_, Step::Seek)) => self.range(Bound::Included(&target)),
            Some((after, Step::Match | Step::Next)) => self.range(Bound::Excluded(after)),
            Some((_, Step::Done)) => return Scan::Done,
        };
        let mut seeking = false;
        let mut left = budget.max(1);
        while let Some(entry) = range.next() {
            let topic = entry.0.topic();
            if seeking && topic < target.as_str() {
                // The neighbour was not it, so descend. Often it is, and costs less.
                range = self.range(Bound::Included(&target));
                seeking = false;
            } else {
                seeking = false;
                match step(filter, topic, &mut target) {
                    Step::Match => visit(&entry.0),
                    Step::Next => {}
                    Step::Seek => seeking = true,
                    Step::Done => return Scan::Done,
                }
            }
            left -= 1;
            if left == 0 {
                return Scan::More { after: topic };
            }
        }
        Scan::Done
    }

    fn range(&self, from: Bound<&str>) -> btree_set::Range<'_, Entry<V>> {
        self.entries.range::<str, _>((from, Bound::Unbounded))
    }
}

impl<V: Topic> Default for RetainedIndex<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Topic> fmt::Debug for RetainedIndex<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.entries.iter().map(|entry| entry.0.topic())).finish()
    }
}

/// A value that compares by its topic.
struct Entry<V>(V);

impl<V: Topic> Borrow<str> for Entry<V> {
    fn borrow(&self) -> &str {
        self.0.topic()
    }
}

impl<V: Topic> Ord for Entry<V> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.topic().cmp(other.0.topic())
    }
}

impl<V: Topic> PartialOrd for Entry<V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<V: Topic> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        self.0.topic() == other.0.topic()
    }
}

impl<V: Topic> Eq for Entry<V> {}

/// The levels before the first wildcard: no topic below them in order can match.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
    filter[..wildcard].strip_suffix('/').unwrap_or(&filter[..wildcard])
}
