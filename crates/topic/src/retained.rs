//! Which retained messages a new subscription gets.
//!
//! # Shape
//! The caller's values are in a slab; the topic is read through the value ([`Topic`]), so it is
//! kept once. A hash index leads from a topic to its value: a message that replaces another, the
//! common case, costs one look-up. Beside it the slots are kept in the order of the bytes of their
//! topics (`order`), which only a new or vanishing topic changes. With `V` an `Arc` an entry costs
//! 8 bytes for the pointer, 6 to 12 in the index and 4 to 6 in the order.
//!
//! A filter selects ranges of this order. A [scan](RetainedIndex::scan) goes through them and, at a
//! topic that does not match, works out the least topic behind it that could, and goes there
//! (`step`): `+/status` over a million devices with fifty topics each looks at about three entries
//! a device. A scan stops after a number of entries *looked at*, not of entries found, and goes on
//! from a topic, not from a position: so it never holds up a loop turn, and the entries may change
//! between two parts.
//!
//! # Invariants
//! - One value per topic. A value's topic does not change while it is in.
//! - A topic that is in from the first part of a scan to the last is visited exactly once.

use std::{fmt, rc::Rc, sync::Arc};

use ahash::RandomState;

use crate::{
    TopicFilter,
    filter::has_wildcard,
    hashing::{hash, hash_state},
    index::Index,
    slab::Slab,
};

use self::{
    order::{Order, Place},
    step::{Step, step},
};

mod order;
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
    values: Slab<V>,
    by_topic: Index<u32>,
    order: Order,
    hashes: RandomState,
}

/// How far a [scan](RetainedIndex::scan) got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Scan<'a> {
    /// All entries have been seen.
    Done,
    /// The budget is used up.
    More {
        /// Where to go on: keep a copy and hand it to the next call. The last entry looked at,
        /// which need not be one that matched, and which may be gone by then.
        after: &'a str,
    },
}

impl<V: Topic> RetainedIndex<V> {
    /// An empty index with a known seed: for tests, and where no peer chooses topics.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// An empty index. `seed` keys the hashes, as in
    /// [`SubscriptionTable::with_seed`](crate::SubscriptionTable::with_seed).
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self {
            values: Slab::new(),
            by_topic: Index::large(),
            order: Order::default(),
            hashes: hash_state(seed),
        }
    }

    /// How many values are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.count()
    }

    /// Whether no value is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a value; the one that had its topic before, if any [MQTT-3.3.1-5].
    pub fn insert(&mut self, value: V) -> Option<V> {
        let hash = self.hash(value.topic());
        if let Some(slot) = self.slot(hash, value.topic()) {
            return self.values.get_mut(slot).map(|it| std::mem::replace(it, value));
        }
        let place = self.place(value.topic());
        let slot = self.values.insert(value);
        self.order.insert(place, slot);
        let Self { values, by_topic, hashes, .. } = self;
        by_topic.insert(hash, slot, |slot| topic_hash(values, hashes, slot));
        None
    }

    /// Removes and returns the value of a topic [MQTT-3.3.1-6].
    pub fn remove(&mut self, topic: &str) -> Option<V> {
        let hash = self.hash(topic);
        let slot = self.slot(hash, topic)?;
        let in_order = self.order.remove(self.place(topic));
        debug_assert_eq!(in_order, Some(slot), "each topic is in the order");
        let Self { values, by_topic, hashes, .. } = self;
        by_topic.remove(hash, slot, |slot| topic_hash(values, hashes, slot));
        values.remove(slot)
    }

    /// The value of a topic.
    #[must_use]
    pub fn find(&self, topic: &str) -> Option<&V> {
        self.values.get(self.slot(self.hash(topic), topic)?)
    }

    /// All values in the order of the bytes of their topics, from the first one behind `after` on.
    pub fn iter_after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = &'a V> {
        let mut place = after.map_or(self.order.start(), |after| self.place_behind(after));
        std::iter::from_fn(move || self.values.get(self.order.next(&mut place)?))
    }

    /// Bytes on the heap, without what the values own themselves and without the allocator's share.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.values.memory_bytes() + self.by_topic.memory_bytes() + self.order.memory_bytes()
    }

    /// Tells `visit` the values whose topics match `filter`, in the order of the bytes of their
    /// topics, from the first one behind `after` on (`None`: from the start), until `budget`
    /// entries were looked at (at least one).
    ///
    /// A leading wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
    ///
    /// # Cost
    /// An entry looked at costs one or two comparisons of two topics, and a search in the order if
    /// the entries behind it are skipped. Allocates one string if anything is skipped.
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
        // The least topic that could match, while the scan is on its way there.
        let mut target = String::new();
        let mut place = match after.map(|after| (after, step(filter, after, &mut target))) {
            None => self.place(literal_prefix(filter)),
            Some((_, Step::Seek)) => self.place(&target),
            Some((after, Step::Match | Step::Next)) => self.place_behind(after),
            Some((_, Step::Done)) => return Scan::Done,
        };
        let mut seeking = false;
        let mut left = budget.max(1);
        while let Some(value) = self.order.next(&mut place).and_then(|slot| self.values.get(slot)) {
            let topic = value.topic();
            if seeking && topic < target.as_str() {
                // The neighbour was not it, so search. Often it is, and that costs less.
                place = self.order.find_from(place, |slot| self.topic(slot) < target.as_str());
                seeking = false;
            } else {
                seeking = false;
                match step(filter, topic, &mut target) {
                    Step::Match => visit(value),
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

    /// The place before the first topic that is not less.
    fn place(&self, topic: &str) -> Place {
        self.order.find(|slot| self.topic(slot) < topic)
    }

    /// The place before the first topic that is greater.
    fn place_behind(&self, topic: &str) -> Place {
        self.order.find(|slot| self.topic(slot) <= topic)
    }

    fn topic(&self, slot: u32) -> &str {
        self.values.get(slot).expect("the order holds the slots of values").topic()
    }

    fn slot(&self, hash: u32, topic: &str) -> Option<u32> {
        self.by_topic.find(hash, |slot| self.values.get(slot).is_some_and(|it| it.topic() == topic))
    }

    fn hash(&self, topic: &str) -> u32 {
        hash(&self.hashes, topic.as_bytes())
    }

    /// Panics if the values, the index and the order disagree. Reads everything: for tests.
    pub fn check_integrity(&self) {
        self.values.check_integrity();
        assert_eq!(self.by_topic.count(), self.len(), "the index holds each value");
        assert_eq!(self.order.check_integrity(), self.len(), "the order holds each value");
        for (slot, value) in self.values.iter() {
            let topic = value.topic();
            assert_eq!(self.slot(self.hash(topic), topic), Some(slot), "each value is found");
        }
        let topics: Vec<&str> = self.iter_after(None).map(Topic::topic).collect();
        assert!(topics.is_sorted_by(|before, after| before < after), "topics ascend");
    }
}

fn topic_hash<V: Topic>(values: &Slab<V>, hashes: &RandomState, slot: u32) -> u32 {
    values.get(slot).map_or(0, |value| hash(hashes, value.topic().as_bytes()))
}

impl<V: Topic> Default for RetainedIndex<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Topic> fmt::Debug for RetainedIndex<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter_after(None).map(Topic::topic)).finish()
    }
}

/// The levels before the first wildcard: no topic below them in order can match.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
    filter[..wildcard].strip_suffix('/').unwrap_or(&filter[..wildcard])
}
