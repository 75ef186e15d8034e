//! A hash index that holds four-byte ids and compares through whatever the ids stand for.
//!
//! One big table would rehash all its entries in one go when it doubles: at two million filters that is a stall of a
//! tenth of a second. So the index is cut by the hash's top byte into 256 tables that grow each on its own; the longest
//! stall is 1/256 of that. An empty index costs 8 KiB.

use hashbrown::HashTable;

const SEGMENTS: usize = 256;

/// Below this capacity, in entries, a segment is not worth shrinking.
const SHRINK_CAPACITY_MIN: usize = 32;

#[derive(Debug)]
pub(crate) struct Index<Id> {
    segments: Box<[HashTable<Id>; SEGMENTS]>,
    count: usize,
}

impl<Id: Copy + PartialEq> Index<Id> {
    pub(crate) fn new() -> Self {
        Self { segments: Box::new([const { HashTable::new() }; SEGMENTS]), count: 0 }
    }

    /// How many ids are in.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The id under `hash` for which `is_it` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(Id) -> bool) -> Option<Id> {
        self.segments[segment(hash)].find(spread(hash), |&id| is_it(id)).copied()
    }

    /// Adds an id that is not in yet. `hash_of` gives the hash under which an id was added.
    pub(crate) fn insert(&mut self, hash: u32, id: Id, hash_of: impl Fn(Id) -> u32) {
        self.segments[segment(hash)].insert_unique(spread(hash), id, |&id| spread(hash_of(id)));
        self.count += 1;
    }

    /// Removes `id`, which was added under `hash`.
    pub(crate) fn remove(&mut self, hash: u32, id: Id, hash_of: impl Fn(Id) -> u32) {
        let segment = &mut self.segments[segment(hash)];
        let Ok(entry) = segment.find_entry(spread(hash), |&other| other == id) else {
            debug_assert!(false, "only what is in the index is removed from it");
            return;
        };
        entry.remove();
        self.count -= 1;
        let capacity = segment.capacity();
        if capacity >= SHRINK_CAPACITY_MIN && segment.len() < capacity / 8 {
            segment.shrink_to(segment.len() * 2, |&id| spread(hash_of(id)));
        } else if segment.is_empty() {
            *segment = HashTable::new();
        }
    }

    /// Bytes on the heap: an entry and a control byte for each bucket.
    pub(crate) fn memory_bytes(&self) -> usize {
        let buckets: usize = self.segments.iter().map(HashTable::num_buckets).sum();
        SEGMENTS * size_of::<HashTable<Id>>() + buckets * (size_of::<Id>() + 1)
    }
}

/// The segment takes the top byte of the hash, the table within takes the lowest bits.
const fn segment(hash: u32) -> usize {
    (hash >> 24) as usize
}

/// Widens a stored hash to the 64 bits of which the table uses the lowest ones as place and the seven highest as tag. The
/// multiplication is by an odd number: the lowest bits stay a bijection, and all bits reach the tag.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
