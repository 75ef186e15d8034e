//! Slots in the order of their topics.
//!
//! A list of chunks of up to 256 slots. A place is found by halving, first among the chunks by
//! their last slots, then within one; a slot is put in or taken out by moving at most one chunk's
//! worth of bytes, and now and then one entry of the list of chunks (24 bytes for about 190 slots,
//! so a million slots move 130 KB at most). Four to six bytes a slot, and nothing here knows what a
//! topic is: the caller compares.
//!
//! # Invariants
//! No chunk is empty, none is longer than [`CHUNK_SLOTS_MAX`].
//!
//! A chunk that shrinks below a quarter is joined with a neighbour if both together stay below
//! three quarters: so a list that shrinks gives its memory back.

/// Longest chunk. 256 slots are 1 KiB: moving half of that costs less than the comparisons that
/// found the place.
const CHUNK_SLOTS_MAX: usize = 256;

/// Neighbours are joined up to this length, so that the next slot does not split them again.
const MERGED_SLOTS_MAX: usize = CHUNK_SLOTS_MAX * 3 / 4;

#[derive(Debug, Default)]
pub(super) struct Order {
    chunks: Vec<Vec<u32>>,
}

/// Between two slots; void once the order changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    chunk: usize,
    at: usize,
}

impl Order {
    /// The place behind all slots that are before what is looked for: `is_before` holds for those
    /// and for no later one.
    pub(super) fn find(&self, is_before: impl Fn(u32) -> bool) -> Place {
        let behind = |chunk: &Vec<u32>| chunk.last().is_some_and(|&slot| is_before(slot));
        let chunk = self.chunks.partition_point(behind);
        let at = self.chunks.get(chunk).map_or(0, |it| it.partition_point(|&slot| is_before(slot)));
        Place { chunk, at }
    }

    /// As [`Self::find`] for a place that is not before `from`. What is near is found with fewer
    /// questions.
    pub(super) fn find_from(&self, from: Place, is_before: impl Fn(u32) -> bool) -> Place {
        match self.chunks.get(from.chunk) {
            Some(chunk) if chunk.last().is_some_and(|&slot| !is_before(slot)) => {
                let rest = chunk.get(from.at..).unwrap_or_default();
                let at = from.at + rest.partition_point(|&slot| is_before(slot));
                Place { chunk: from.chunk, at }
            }
            _ => self.find(is_before),
        }
    }

    /// The place before all slots.
    pub(super) const fn start(&self) -> Place {
        Place { chunk: 0, at: 0 }
    }

    /// The slot behind the place, which moves on behind it; `None` at the end.
    #[inline]
    pub(super) fn next(&self, place: &mut Place) -> Option<u32> {
        loop {
            let chunk = self.chunks.get(place.chunk)?;
            if let Some(&slot) = chunk.get(place.at) {
                place.at += 1;
                return Some(slot);
            }
            *place = Place { chunk: place.chunk + 1, at: 0 };
        }
    }

    /// Puts a slot in at a place.
    pub(super) fn insert(&mut self, place: Place, slot: u32) {
        let Place { mut chunk, mut at } = place;
        if chunk == self.chunks.len() && chunk > 0 {
            // Behind the last slot of all: the end of the last chunk is the same place.
            chunk -= 1;
            at = self.chunks[chunk].len();
        }
        let Some(slots) = self.chunks.get_mut(chunk) else {
            self.chunks.push(vec![slot]);
            return;
        };
        if slots.len() < CHUNK_SLOTS_MAX {
            slots.insert(at, slot);
            return;
        }
        if at == slots.len() {
            // Topics often come in ascending order: full chunks then stay full.
            self.chunks.insert(chunk + 1, vec![slot]);
            return;
        }
        let mut upper = slots.split_off(CHUNK_SLOTS_MAX / 2);
        match at.checked_sub(slots.len()) {
            Some(at) => upper.insert(at, slot),
            None => slots.insert(at, slot),
        }
        self.chunks.insert(chunk + 1, upper);
    }

    /// Takes out the slot behind the place.
    pub(super) fn remove(&mut self, place: Place) -> Option<u32> {
        let Place { chunk, at } = place;
        let slots = self.chunks.get_mut(chunk)?;
        if at >= slots.len() {
            return None;
        }
        let slot = slots.remove(at);
        if slots.is_empty() {
            self.chunks.remove(chunk);
        } else if slots.len() < CHUNK_SLOTS_MAX / 4 {
            self.merge(chunk);
        }
        if self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
        Some(slot)
    }

    /// Joins a chunk with a neighbour if both are short.
    fn merge(&mut self, chunk: usize) {
        let size = |chunk: usize| self.chunks.get(chunk).map_or(CHUNK_SLOTS_MAX, Vec::len);
        let before = chunk.checked_sub(1).filter(|&it| size(it) + size(chunk) <= MERGED_SLOTS_MAX);
        let after = Some(chunk).filter(|&it| size(it) + size(it + 1) <= MERGED_SLOTS_MAX);
        if let Some(lower) = before.or(after) {
            let upper = self.chunks.remove(lower + 1);
            self.chunks[lower].extend(upper);
        }
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(Vec::capacity).sum();
        slots * size_of::<u32>() + self.chunks.capacity() * size_of::<Vec<u32>>()
    }

    /// Panics if a chunk is empty or too long; how many slots there are. For tests.
    pub(super) fn check_integrity(&self) -> usize {
        for chunk in &self.chunks {
            assert!(!chunk.is_empty(), "no chunk is empty");
            assert!(chunk.len() <= CHUNK_SLOTS_MAX, "no chunk is too long");
        }
        self.chunks.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::for_seeds;

    fn all(order: &Order) -> Vec<u32> {
        let mut place = order.start();
        std::iter::from_fn(|| order.next(&mut place)).collect()
    }

    fn from(order: &Order, mut place: Place) -> Option<u32> {
        order.next(&mut place)
    }

    /// Against a sorted vector, in tides from nothing to thousands and back.
    #[test]
    fn random_operations_on_the_order() {
        for_seeds("random_operations_on_the_order", 4, |mut random| {
            let mut order = Order::default();
            let mut expected: Vec<u32> = Vec::new();
            for step in 0..30_000 {
                let flood = step / 7_500 % 2 == 0;
                let slot = random.below(8_000) as u32;
                let place = order.find(|it| it < slot);
                let at = expected.partition_point(|&it| it < slot);
                assert_eq!(from(&order, place), expected.get(at).copied());
                let present = expected.get(at) == Some(&slot);
                if !present && random.chance(if flood { 90 } else { 5 }) {
                    order.insert(place, slot);
                    expected.insert(at, slot);
                } else if at < expected.len() && random.chance(if flood { 5 } else { 95 }) {
                    assert_eq!(order.remove(place), Some(expected.remove(at)));
                }
                if step % 64 == 0 {
                    let low = random.below(8_000) as u32;
                    let start = order.find(|it| it < low);
                    let high = low + random.below(2_000) as u32;
                    let found = from(&order, order.find_from(start, |it| it < high));
                    assert_eq!(found, expected.iter().find(|&&it| it >= high).copied());
                }
                if step % 500 == 0 {
                    assert_eq!(order.check_integrity(), expected.len());
                    assert_eq!(all(&order), expected);
                }
            }
        });
    }

    #[test]
    fn ascending_slots_fill_their_chunks() {
        let mut order = Order::default();
        for slot in 0..10_000 {
            order.insert(order.find(|it| it < slot), slot);
        }
        assert_eq!(order.chunks.len(), 10_000_usize.div_ceil(CHUNK_SLOTS_MAX));
        assert!(all(&order).into_iter().eq(0..10_000));
    }

    #[test]
    fn removal_gives_memory_back() {
        let mut order = Order::default();
        for slot in (0..10_000).rev() {
            order.insert(order.start(), slot);
        }
        let full = order.memory_bytes();
        // Every other one first, so that chunks are half empty and have to be joined.
        for slot in (0..10_000).step_by(2).chain((1..10_000).step_by(2)) {
            assert_eq!(order.remove(order.find(|it| it < slot)), Some(slot));
            assert!(order.memory_bytes() <= full);
        }
        assert_eq!(order.check_integrity(), 0);
        assert!(order.memory_bytes() < full / 20, "{} of {full}", order.memory_bytes());
        assert_eq!(order.remove(order.start()), None);
    }
}
