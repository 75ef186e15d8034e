//! Which subscribers want a publication.
//!
//! # Shape
//! Every filter is a record in a slab, found by its whole text through one hash index of four-byte
//! ids. A publication's topic goes through that same index: the record with the very same text is
//! the literal filter that matches, since a Topic Name has no wildcards. Filters with wildcards are
//! in a trie besides, which is walked only if there are any.
//!
//! # Bytes
//! A literal filter with one subscriber costs a record of 64 bytes, one cache line, that holds the
//! subscriber, its value of four bytes and a text of up to 46 bytes, and 6 to 12 bytes in the
//! index. A filter with a wildcard costs at most two trie nodes of 40 bytes and their 6 to 12 bytes
//! in the trie's index more, one of each in the common case. The second subscriber of a filter
//! opens a list: 32 bytes and 8 a subscriber.
//!
//! # Cost of a publication
//! Literal: hash the topic, one probe, one record, one comparison of the text, one pair copied: two
//! or three lines of memory, 15 to 20 ns while they are cached. Wildcards: see
//! [`SubscriptionTable::matches`].
//!
//! # Invariants
//! - A filter is in the table exactly as long as it has subscribers; then its [`FilterId`] is
//!   stable.
//! - A subscriber has at most one subscription for a filter; a second one replaces the first
//!   [MQTT-3.8.4-3].
//! - The order in which matches are told depends on the operations before, never on the hash seed.

use std::{cell::Cell, fmt};

use ahash::RandomState;

use crate::{
    TopicFilter, TopicName,
    filter::has_wildcard,
    hashing::{hash, hash_state},
    index::Index,
    slab::Slab,
};

use self::{
    subscribers::SubscriberList,
    text::Text,
    trie::{Texts, Trie},
    walk::Walk,
};

pub use self::ids::{FilterId, SubscriberId};

mod ids;
mod subscribers;
#[cfg(test)]
mod tests;
mod text;
mod trie;
mod walk;

/// The subscriptions of one shard: filter → subscriber → `V`, the caller's options in few bytes.
pub struct SubscriptionTable<V: Copy> {
    filters: Filters<V>,
    lists: Slab<SubscriberList<V>>,
    /// All filters by their whole text.
    by_text: Index<FilterId>,
    /// Those with a wildcard, once more.
    trie: Trie,
    hashes: RandomState,
    subscription_count: usize,
    /// Heap bytes of all texts.
    texts_size: usize,
    /// Heap bytes of all lists.
    lists_size: usize,
    /// Taken for the length of a walk, so that a walk needs no exclusive access and allocates
    /// nothing.
    walk: Cell<Walk>,
}

/// What [`SubscriptionTable::subscribe`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribed<V> {
    /// The filter, for a later [`SubscriptionTable::unsubscribe`].
    pub filter_id: FilterId,
    /// What the subscriber had for this very filter before, now replaced.
    pub previous: Option<V>,
    /// Nobody had this filter before.
    pub first: bool,
}

/// What [`SubscriptionTable::unsubscribe`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribed<V> {
    /// What the subscriber had.
    pub value: V,
    /// Nobody has this filter any more: the id is void.
    pub last: bool,
    /// The text of the filter if it is gone, so that the caller can withdraw its interest; `None`
    /// otherwise.
    pub filter: Option<Box<str>>,
}

impl<V: Copy> SubscriptionTable<V> {
    /// An empty table with a known seed: for tests, and where no peer chooses topics.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// An empty table. `seed` keys the hashes; a peer who knew it could make topics collide, so
    /// take it from the system's random source once per process.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let hashes = hash_state(seed);
        Self {
            filters: Filters(Slab::new()),
            lists: Slab::new(),
            by_text: Index::large(),
            trie: Trie::new(hashes.clone()),
            hashes,
            subscription_count: 0,
            texts_size: 0,
            lists_size: 0,
            walk: Cell::default(),
        }
    }

    /// Adds a subscription, or replaces the value of the one that is there [MQTT-3.8.4-3].
    pub fn subscribe(
        &mut self,
        filter: TopicFilter<'_>,
        subscriber: SubscriberId,
        value: V,
    ) -> Subscribed<V> {
        let text = filter.as_str();
        let hash = hash(&self.hashes, text.as_bytes());
        let Some(filter_id) = self.find_hashed(hash, text) else {
            let record =
                Record { text: Text::new(text), hash, count: 1, link: subscriber.0, only: value };
            self.texts_size += record.text.heap_bytes();
            let filter_id = FilterId::from_index(self.filters.0.insert(record));
            let Self { filters, by_text, trie, .. } = self;
            by_text.insert(hash, filter_id, |id| filters.hash(id));
            if filter.has_wildcard() {
                trie.insert(filters, filter_id);
            }
            self.subscription_count += 1;
            return Subscribed { filter_id, previous: None, first: true };
        };
        let Self { filters, lists, lists_size, .. } = self;
        let record = filters.0.get_mut(filter_id.index()).expect("the index leads to records");
        let previous = if record.count == 1 {
            if record.link == subscriber.0 {
                Some(std::mem::replace(&mut record.only, value))
            } else {
                let first = (SubscriberId(record.link), record.only);
                let list = SubscriberList::of_two(first, (subscriber, value));
                *lists_size += list.memory_bytes();
                record.link = lists.insert(list);
                None
            }
        } else {
            let list = lists.get_mut(record.link).expect("records lead to lists");
            *lists_size -= list.memory_bytes();
            let previous = list.insert(subscriber, value);
            *lists_size += list.memory_bytes();
            previous
        };
        if previous.is_none() {
            record.count += 1;
            self.subscription_count += 1;
        }
        Subscribed { filter_id, previous, first: false }
    }

    /// Removes a subscription; `None` if there is none. With the last subscriber the filter goes,
    /// and everything that was kept for it.
    pub fn unsubscribe(
        &mut self,
        filter_id: FilterId,
        subscriber: SubscriberId,
    ) -> Option<Unsubscribed<V>> {
        let Self { filters, lists, lists_size, .. } = self;
        let record = filters.0.get_mut(filter_id.index())?;
        if record.count == 1 {
            if record.link != subscriber.0 {
                return None;
            }
            let (value, text) = self.remove_filter(filter_id);
            self.subscription_count -= 1;
            return Some(Unsubscribed { value, last: true, filter: Some(text) });
        }
        let list = lists.get_mut(record.link).expect("records lead to lists");
        let size_before = list.memory_bytes();
        let value = list.remove(subscriber)?;
        *lists_size -= size_before;
        if let [(only, value)] = *list.as_slice() {
            lists.remove(record.link);
            (record.link, record.only) = (only.0, value);
        } else {
            *lists_size += list.memory_bytes();
        }
        record.count -= 1;
        self.subscription_count -= 1;
        Some(Unsubscribed { value, last: false, filter: None })
    }

    /// The filter with exactly this text, if anybody has it.
    #[inline]
    #[must_use]
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        self.find_hashed(hash(&self.hashes, filter.as_bytes()), filter)
    }

    /// The text of a filter.
    ///
    /// # Panics
    /// If the filter has no subscribers any more: the caller kept an id for too long.
    #[must_use]
    pub fn filter(&self, filter_id: FilterId) -> &str {
        self.filters.0.get(filter_id.index()).expect("the filter has subscribers").text.as_str()
    }

    /// What the subscriber has for this filter.
    #[must_use]
    pub fn value(&self, filter_id: FilterId, subscriber: SubscriberId) -> Option<V> {
        let record = self.filters.0.get(filter_id.index())?;
        if record.count == 1 {
            return (record.link == subscriber.0).then_some(record.only);
        }
        self.lists.get(record.link)?.get(subscriber)
    }

    /// The subscribers of a filter; none for an id that is void.
    ///
    /// The order is that of their subscriptions, but that the last one takes the place of one that goes. So whoever lists
    /// them in parts, from the back and by position, may see one twice and misses none that stays.
    pub fn subscribers(
        &self,
        filter_id: FilterId,
    ) -> impl DoubleEndedIterator<Item = (SubscriberId, V)> {
        let record = self.filters.0.get(filter_id.index());
        let only = record.filter(|it| it.count == 1).map(|it| (SubscriberId(it.link), it.only));
        let list = record.filter(|it| it.count > 1).and_then(|it| self.lists.get(it.link));
        only.into_iter().chain(list.map_or(&[][..], SubscriberList::as_slice).iter().copied())
    }

    /// How many subscribers a filter has; zero for an id that is void.
    #[must_use]
    pub fn subscriber_count(&self, filter_id: FilterId) -> usize {
        self.filters.0.get(filter_id.index()).map_or(0, |record| record.count as usize)
    }

    /// All filters, in the order of their ids.
    pub fn filters(&self) -> impl Iterator<Item = (FilterId, &str)> {
        self.filters_after(None)
    }

    /// Replaces what is in `out` by the subscriptions that match `topic`, and returns how many
    /// filters they come from. With more than one filter a subscriber may be in `out` more than
    /// once; with one, never.
    ///
    /// Allocates only if `out` has to grow. Nothing is normalised [MQTT-4.7.3-4]; a leading
    /// wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
    ///
    /// # Worst case
    /// With *f* filters that have a wildcard and *l* levels in the topic: at most 2*f* trie nodes
    /// are visited, about 15 ns each while they are cached and ten times that when they are not,
    /// and at most *f*·*l* levels of labels are compared, about 1 ns each. Measured: 4,096 filters
    /// of twelve levels that all match take 0.15 ms, 5,000 of 128 levels that all match 0.7 ms;
    /// 65,536 that all match take 10 ms and more. So what bounds a message is a quota on filters
    /// with wildcards, which is the caller's to set.
    #[inline]
    pub fn matches(&self, topic: TopicName<'_>, out: &mut Vec<(SubscriberId, V)>) -> usize {
        out.clear();
        let mut sources = 0;
        self.visit(topic, |filter_id| {
            let Some(record) = self.filters.0.get(filter_id.index()) else {
                return;
            };
            sources += 1;
            if record.count == 1 {
                out.push((SubscriberId(record.link), record.only));
            } else if let Some(list) = self.lists.get(record.link) {
                out.extend_from_slice(list.as_slice());
            }
        });
        sources
    }

    /// Tells `visit` each filter that matches `topic`, once. As [`Self::matches`] for those who ask
    /// why.
    #[inline]
    pub fn visit(&self, topic: TopicName<'_>, mut visit: impl FnMut(FilterId)) {
        let text = topic.as_str();
        // A topic has no wildcard, so what equals it is a literal filter.
        if let Some(filter_id) = self.find(text) {
            visit(filter_id);
        }
        if !self.trie.is_empty() {
            self.visit_wildcards(text, visit);
        }
    }

    #[inline(never)]
    fn visit_wildcards(&self, topic: &str, visit: impl FnMut(FilterId)) {
        let mut walk = self.walk.take();
        self.trie.walk(&self.filters, topic, &mut walk, visit);
        walk.end();
        self.walk.set(walk);
    }

    /// As [`Self::filters`], from the first one behind `after` on: for a listing in parts. What
    /// comes while the parts are listed may be missed.
    pub fn filters_after(&self, after: Option<FilterId>) -> impl Iterator<Item = (FilterId, &str)> {
        let from = after.map_or(0, |after| after.index().saturating_add(1));
        let records = self.filters.0.iter_from(from);
        records.map(|(index, it)| (FilterId::from_index(index), it.text.as_str()))
    }

    /// The filter with this number, if the number is in use.
    #[must_use]
    pub fn filter_at(&self, number: u32) -> Option<(FilterId, &str)> {
        let record = self.filters.0.get(number)?;
        Some((FilterId::from_index(number), record.text.as_str()))
    }

    /// All numbers of filters are below this: a listing in parts that shall look at no more than so many numbers each ends
    /// here.
    #[must_use]
    pub fn filter_numbers_end(&self) -> u32 {
        self.filters.0.end()
    }

    /// How many filters have subscribers.
    #[must_use]
    pub fn filter_count(&self) -> usize {
        self.filters.0.count()
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subscription_count
    }

    /// How many nodes the trie of filters with wildcards has: at most two for each.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.trie.node_count()
    }

    /// Bytes on the heap, without the allocator's own share. Costs a look at each page.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.filters.0.memory_bytes()
            + self.lists.memory_bytes()
            + self.by_text.memory_bytes()
            + self.trie.memory_bytes()
            + self.texts_size
            + self.lists_size
    }

    #[inline]
    fn find_hashed(&self, hash: u32, text: &str) -> Option<FilterId> {
        self.by_text.find(hash, |id| {
            let record = self.filters.0.get(id.index());
            record.is_some_and(|record| record.text.as_bytes() == text.as_bytes())
        })
    }

    fn remove_filter(&mut self, filter_id: FilterId) -> (V, Box<str>) {
        let Self { filters, by_text, trie, .. } = self;
        if has_wildcard(filters.text(filter_id)) {
            trie.remove(filters, filter_id);
        }
        by_text.remove(filters.hash(filter_id), filter_id, |id| filters.hash(id));
        let record = filters.0.remove(filter_id.index()).expect("the caller looked");
        self.texts_size -= record.text.heap_bytes();
        (record.only, record.text.as_str().into())
    }

    /// Panics if an index, a count or a link disagrees with the records. Reads everything: for
    /// tests.
    pub fn check_integrity(&self) {
        self.filters.0.check_integrity();
        self.lists.check_integrity();
        let (mut wildcards, mut subscriptions, mut lists) = (0, 0, 0);
        let (mut texts_size, mut lists_size) = (0, 0);
        for (index, record) in self.filters.0.iter() {
            assert_eq!(record.hash, hash(&self.hashes, record.text.as_bytes()), "hashes are kept");
            assert_eq!(
                self.find(record.text.as_str()),
                Some(FilterId::from_index(index)),
                "it is found"
            );
            if record.count != 1 {
                let list = self.lists.get(record.link).expect("records lead to lists");
                assert_eq!(list.as_slice().len(), record.count as usize, "lists are counted");
                list.check_integrity();
                lists_size += list.memory_bytes();
                lists += 1;
            }
            wildcards += usize::from(has_wildcard(record.text.as_bytes()));
            subscriptions += record.count as usize;
            texts_size += record.text.heap_bytes();
        }
        assert_eq!(self.by_text.count(), self.filters.0.count(), "the index holds the records");
        assert_eq!(self.lists.count(), lists, "each list has a record");
        assert_eq!(self.subscription_count, subscriptions, "subscriptions are counted");
        assert_eq!(self.texts_size, texts_size, "texts are counted");
        assert_eq!(self.lists_size, lists_size, "lists are counted in bytes");
        self.trie.check_integrity(&self.filters, wildcards);
    }
}

impl<V: Copy> Default for SubscriptionTable<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Copy> fmt::Debug for SubscriptionTable<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SubscriptionTable")
            .field("filter_count", &self.filter_count())
            .field("subscription_count", &self.subscription_count)
            .finish_non_exhaustive()
    }
}

/// One filter and its subscriber, or the way to its subscribers. A cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Record<V> {
    text: Text,
    /// Kept so that a growing index need not read texts.
    hash: u32,
    /// Subscribers. Never zero.
    count: u32,
    /// The only subscriber, or the index of the list.
    link: u32,
    /// The only subscriber's value; without meaning when there is a list.
    only: V,
}

const _: () = assert!(size_of::<Option<Record<u32>>>() == 64);

#[derive(Debug)]
struct Filters<V>(Slab<Record<V>>);

impl<V> Filters<V> {
    fn hash(&self, id: FilterId) -> u32 {
        self.0.get(id.index()).map_or(0, |record| record.hash)
    }
}

impl<V> Texts for Filters<V> {
    #[inline]
    fn text(&self, id: FilterId) -> &[u8] {
        self.0.get(id.index()).expect("the filter has subscribers").text.as_bytes()
    }
}
