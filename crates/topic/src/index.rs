//! A hash index that holds four-byte ids and compares through whatever the ids stand for.
//!
//! One big table would rehash all its entries in one go when it doubles, and each costs a miss of
//! the cache or two: at two million filters a stall of a fifth of a second. So a large index is cut
//! by the hash's top bits into 1,024 tables that grow each on its own, and the longest stall is a
//! thousandth of that. Empty, it costs 32 KiB; a small index is one table.

use hashbrown::HashTable;

/// Tables of a large index, as a power of two.
const SEGMENT_BITS: u32 = 10;

/// Below this capacity, in entries, a segment is not worth shrinking.
const SHRINK_CAPACITY_MIN: usize = 32;

#[derive(Debug)]
pub(crate) struct Index<Id> {
    segments: Box<[HashTable<Id>]>,
    /// By how much a hash is shifted right to get its segment.
    shift: u32,
    count: usize,
    /// Of all segments together.
    buckets: usize,
}

impl<Id: Copy + PartialEq> Index<Id> {
    /// For as many ids as memory holds.
    pub(crate) fn large() -> Self {
        Self::with_bits(SEGMENT_BITS)
    }

    /// For some thousands of ids.
    pub(crate) fn small() -> Self {
        Self::with_bits(0)
    }

    fn with_bits(bits: u32) -> Self {
        let segments = (0..1 << bits).map(|_| HashTable::new()).collect();
        Self { segments, shift: u32::BITS - bits, count: 0, buckets: 0 }
    }

    /// Whether this is the kind for some thousands of ids.
    pub(crate) fn is_small(&self) -> bool {
        self.segments.len() == 1
    }

    /// How many ids are in.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The id under `hash` for which `is_it` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(Id) -> bool) -> Option<Id> {
        self.segments[self.segment(hash)].find(spread(hash), |&id| is_it(id)).copied()
    }

    /// Adds an id that is not in yet. `hash_of` gives the hash under which an id was added.
    pub(crate) fn insert(&mut self, hash: u32, id: Id, hash_of: impl Fn(Id) -> u32) {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        self.buckets -= allocated_buckets(segment);
        segment.insert_unique(spread(hash), id, |&id| spread(hash_of(id)));
        self.buckets += allocated_buckets(segment);
        self.count += 1;
    }

    /// Removes `id`, which was added under `hash`.
    pub(crate) fn remove(&mut self, hash: u32, id: Id, hash_of: impl Fn(Id) -> u32) {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let Ok(entry) = segment.find_entry(spread(hash), |&other| other == id) else {
            debug_assert!(false, "only what is in the index is removed from it");
            return;
        };
        entry.remove();
        self.count -= 1;
        self.buckets -= allocated_buckets(segment);
        let capacity = segment.capacity();
        if capacity >= SHRINK_CAPACITY_MIN && segment.len() < capacity / 8 {
            segment.shrink_to(segment.len() * 2, |&id| spread(hash_of(id)));
        } else if segment.is_empty() {
            *segment = HashTable::new();
        }
        self.buckets += allocated_buckets(segment);
    }

    /// Puts another id in the place of `id`, which was added under `hash`, as the new one is found.
    pub(crate) fn replace(&mut self, hash: u32, id: Id, by: Id) {
        let segment = self.segment(hash);
        let entry = self.segments[segment].find_mut(spread(hash), |&other| other == id);
        debug_assert!(entry.is_some(), "only what is in the index is replaced");
        if let Some(entry) = entry {
            *entry = by;
        }
    }

    /// The segment takes the top bits of the hash, the table within takes the lowest ones.
    #[inline]
    fn segment(&self, hash: u32) -> usize {
        (u64::from(hash) >> self.shift) as usize
    }

    /// Bytes on the heap: an entry and a control byte for each bucket.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.segments) + self.buckets * (size_of::<Id>() + 1)
    }
}

/// A table that never held anything answers one, and has none on the heap.
fn allocated_buckets<Id>(segment: &HashTable<Id>) -> usize {
    if segment.capacity() == 0 { 0 } else { segment.num_buckets() }
}

/// Widens a stored hash to the 64 bits of which the table uses the lowest ones as place and the
/// seven highest as tag. The multiplication is by an odd number: the lowest bits stay a bijection,
/// and all bits reach the tag.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::{Random, for_seeds};

    /// Against a list, with few different hashes, so that entries with equal hashes are told apart
    /// by the question.
    #[test]
    fn random_operations_on_the_index() {
        for_seeds("random_operations_on_the_index", 4, |mut random| {
            let hashes: Vec<u32> = (0..64).map(|_| random.below(1 << 32) as u32).collect();
            let hash_of = |id: u32| hashes[id as usize % hashes.len()];
            let mut index = if random.chance(50) { Index::large() } else { Index::small() };
            let mut expected: Vec<u32> = Vec::new();
            for step in 0..10_000 {
                let id = random.below(5_000) as u32;
                let place = expected.iter().position(|&it| it == id);
                assert_eq!(index.find(hash_of(id), |it| it == id), place.map(|_| id));
                let flood = step / 2_500 % 2 == 0;
                match place {
                    None if random.chance(if flood { 90 } else { 10 }) => {
                        index.insert(hash_of(id), id, hash_of);
                        expected.push(id);
                    }
                    Some(place) if !flood || random.chance(30) => {
                        index.remove(hash_of(id), id, hash_of);
                        expected.swap_remove(place);
                    }
                    _ => {}
                }
                assert_eq!(index.count(), expected.len());
                if step % 1_000 == 0 {
                    let buckets: usize = index.segments.iter().map(allocated_buckets).sum();
                    assert_eq!(index.buckets, buckets);
                }
            }
        });
    }

    /// The longest stall of an insertion, in entries that are hashed anew, and that all memory
    /// comes back.
    #[test]
    fn growth_rehashes_a_small_part() {
        const COUNT: u32 = 300_000;
        let mut random = Random::new(1);
        let hashes: Vec<u32> = (0..COUNT).map(|_| random.below(1 << 32) as u32).collect();
        let calls = Cell::new(0);
        let hash_of = |id: u32| {
            calls.set(calls.get() + 1);
            hashes[id as usize]
        };
        let mut index: Index<u32> = Index::large();
        let empty = index.memory_bytes();
        let mut calls_max = 0;
        for id in 0..COUNT {
            calls.set(0);
            index.insert(hashes[id as usize], id, hash_of);
            calls_max = calls_max.max(calls.get());
        }
        assert!(
            calls_max <= 2 * COUNT as usize / index.segments.len(),
            "{calls_max} entries at once"
        );
        let full = index.memory_bytes() - empty;
        assert!(full <= 12 * COUNT as usize, "{full} bytes");
        for id in 0..COUNT {
            index.remove(hashes[id as usize], id, hash_of);
        }
        assert_eq!(index.memory_bytes(), empty);
    }
}
