//! The subscribers of one filter that has two or more.
//!
//! Few are searched one by one: 32 pairs are 256 bytes, four cache lines, faster than any index.
//! Beyond that a hash index from subscriber to position comes with the list, so that neither a
//! subscription nor a removal reads the list: a million clients of one filter leave in linear time.
//!
//! # Invariants
//! - A subscriber stands in a list once [MQTT-3.8.4-3].
//! - The index, if there is one, holds each position of `entries` once, under its subscriber's
//!   hash.

use super::SubscriberId;
use crate::index::Index;

/// A list longer than this has an index.
const UNINDEXED_MAX: usize = 32;

/// A list that shrinks below this loses its index. Far enough from [`UNINDEXED_MAX`] that one
/// subscriber who comes and goes does not build and drop it each time.
const INDEXED_MIN: usize = 16;

/// A list longer than this has a large index, whose growth does not rehash all at once.
const SMALL_INDEX_MAX: usize = 8192;

#[derive(Debug)]
pub(super) struct SubscriberList<V> {
    entries: Vec<(SubscriberId, V)>,
    positions: Option<Box<Index<u32>>>,
}

impl<V: Copy> SubscriberList<V> {
    pub(super) fn of_two(first: (SubscriberId, V), second: (SubscriberId, V)) -> Self {
        Self { entries: vec![first, second], positions: None }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[(SubscriberId, V)] {
        &self.entries
    }

    pub(super) fn get(&self, subscriber: SubscriberId) -> Option<V> {
        self.position(subscriber).map(|position| self.entries[position].1)
    }

    /// Adds the subscriber or replaces its value; the value before, if it was in.
    pub(super) fn insert(&mut self, subscriber: SubscriberId, value: V) -> Option<V> {
        if let Some(position) = self.position(subscriber) {
            return Some(std::mem::replace(&mut self.entries[position].1, value));
        }
        let position = self.entries.len() as u32;
        self.entries.push((subscriber, value));
        let Self { entries, positions } = self;
        match positions {
            Some(index) if entries.len() <= SMALL_INDEX_MAX || !index.is_small() => {
                index.insert(hash(subscriber), position, |it| hash_at(entries, it));
            }
            None if entries.len() <= UNINDEXED_MAX => {}
            _ => {
                let small = entries.len() <= SMALL_INDEX_MAX;
                let mut index = if small { Index::small() } else { Index::large() };
                for (position, &(subscriber, _)) in (0..).zip(entries.iter()) {
                    index.insert(hash(subscriber), position, |it| hash_at(entries, it));
                }
                *positions = Some(Box::new(index));
            }
        }
        None
    }

    /// Removes the subscriber; the last one of the list takes its place.
    pub(super) fn remove(&mut self, subscriber: SubscriberId) -> Option<V> {
        let position = self.position(subscriber)?;
        let last = self.entries.len() - 1;
        let Self { entries, positions } = self;
        if let Some(index) = positions {
            index.remove(hash(subscriber), position as u32, |it| hash_at(entries, it));
            if position != last {
                index.replace(hash(entries[last].0), last as u32, position as u32);
            }
        }
        let (_, value) = entries.swap_remove(position);
        if entries.len() < INDEXED_MIN {
            *positions = None;
        }
        if entries.len() < entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2);
        }
        Some(value)
    }

    fn position(&self, subscriber: SubscriberId) -> Option<usize> {
        match &self.positions {
            Some(index) => index
                .find(hash(subscriber), |it| self.entries[it as usize].0 == subscriber)
                .map(|it| it as usize),
            None => self.entries.iter().position(|&(it, _)| it == subscriber),
        }
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        let index = self.positions.as_ref();
        let positions = index.map_or(0, |index| size_of_val(&**index) + index.memory_bytes());
        self.entries.capacity() * size_of::<(SubscriberId, V)>() + positions
    }

    /// Panics if the index and the list disagree. For tests.
    pub(super) fn check_integrity(&self) {
        assert!(self.entries.len() >= 2, "one subscriber is kept in the filter itself");
        if let Some(index) = &self.positions {
            assert_eq!(index.count(), self.entries.len(), "the index holds each position");
        }
        for (position, &(subscriber, _)) in self.entries.iter().enumerate() {
            assert_eq!(self.position(subscriber), Some(position), "subscribers are found");
        }
        assert!(
            self.positions.is_some() || self.entries.len() <= UNINDEXED_MAX,
            "long lists have an index"
        );
    }
}

fn hash_at<V>(entries: &[(SubscriberId, V)], position: u32) -> u32 {
    hash(entries[position as usize].0)
}

/// Subscriber numbers are the shard's own, dense and not chosen by peers: a multiplication spreads
/// them well enough.
const fn hash(subscriber: SubscriberId) -> u32 {
    ((subscriber.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_gains_and_loses_its_index() {
        let mut list = SubscriberList::of_two((SubscriberId(0), 0), (SubscriberId(1), 1));
        for subscriber in 2..1000 {
            assert_eq!(list.insert(SubscriberId(subscriber), subscriber), None);
            list.check_integrity();
        }
        assert!(list.positions.is_some());
        assert_eq!(list.insert(SubscriberId(500), 7), Some(500));
        assert_eq!(list.get(SubscriberId(500)), Some(7));
        assert_eq!(list.remove(SubscriberId(1000)), None);
        let full = list.memory_bytes();
        // From the front, so that each removal moves another subscriber.
        for subscriber in 0..998 {
            let value = if subscriber == 500 { 7 } else { subscriber };
            assert_eq!(list.remove(SubscriberId(subscriber)), Some(value));
            list.check_integrity();
        }
        assert!(list.positions.is_none());
        assert!(list.memory_bytes() < full / 50, "{} of {full}", list.memory_bytes());
        let mut left: Vec<u32> = list.as_slice().iter().map(|it| it.0.0).collect();
        left.sort_unstable();
        assert_eq!(left, [998, 999]);
    }

    /// Past the length where the index is cut into parts, and back, in an order without pattern.
    #[test]
    fn a_very_long_list() {
        let count = SMALL_INDEX_MAX as u32 * 2;
        let number = |step: u32| step.wrapping_mul(0x9e37_79b1);
        let mut list =
            SubscriberList::of_two((SubscriberId(number(0)), 0), (SubscriberId(number(1)), 1));
        for step in 2..count {
            assert_eq!(list.insert(SubscriberId(number(step)), step), None);
            if step.abs_diff(SMALL_INDEX_MAX as u32) < 3 {
                list.check_integrity();
            }
        }
        list.check_integrity();
        assert!(!list.positions.as_ref().expect("it is long").is_small());
        for step in 2..count {
            assert_eq!(list.remove(SubscriberId(number(step))), Some(step));
            if step % 2_000 == 0 {
                list.check_integrity();
            }
        }
        list.check_integrity();
        assert!(list.memory_bytes() < 256, "{}", list.memory_bytes());
    }
}
