//! Values at stable four-byte indices, in pages of fixed size.
//!
//! A plain vector would copy everything it holds whenever it doubles: a stall of milliseconds at
//! some unlucky subscription, and half of the memory unused after it. Here growth allocates one
//! page, and a page whose last value is removed goes back to the allocator; but for one if no other
//! page has room, lest a value that comes and goes take a page from the allocator each time.
//!
//! # Invariants
//! - The index of a value never changes. An index is reused after its value was removed.
//! - A page is in `roomy` exactly when it has room.
//! - At most one page without values has memory.
//!
//! # Limits
//! 2³² values; the callers' limits on subscriptions are far below.

/// Slots of one page. With the 32-byte values of this room a page is 32 KiB, which the allocator
/// hands out and takes back without touching the kernel; page and offset come from a shift and a
/// mask.
const PAGE_SLOTS: usize = 1 << PAGE_SHIFT;
const PAGE_SHIFT: u32 = 10;
const _: () = assert!(PAGE_SLOTS <= u16::MAX as usize + 1, "free offsets are kept as u16");

#[derive(Debug)]
struct Page<T> {
    slots: Vec<Option<T>>,
    /// Offsets of the empty ones among `slots`.
    free: Vec<u16>,
}

impl<T> Page<T> {
    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < PAGE_SLOTS
    }
}

/// See the module's head. `Option<T>` should have a niche, or a slot costs more than a value.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Page<T>>,
    /// Pages with room; the last one takes the next value.
    roomy: Vec<u32>,
    count: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { pages: Vec::new(), roomy: Vec::new(), count: 0 }
    }

    /// How many values are in.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let page = self.pages.get((index >> PAGE_SHIFT) as usize)?;
        page.slots.get(offset(index))?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let page = self.pages.get_mut((index >> PAGE_SHIFT) as usize)?;
        page.slots.get_mut(offset(index))?.as_mut()
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let page_index = match self.roomy.last() {
            Some(&page_index) => page_index,
            None => {
                let page_index = u32::try_from(self.pages.len()).expect("fewer than 2^22 pages");
                self.pages.push(Page { slots: Vec::new(), free: Vec::new() });
                self.roomy.push(page_index);
                page_index
            }
        };
        let page = &mut self.pages[page_index as usize];
        let offset = match page.free.pop() {
            Some(offset) => {
                page.slots[usize::from(offset)] = Some(value);
                u32::from(offset)
            }
            None => {
                // The first page grows by doubling: a small table shall be small. Later ones come
                // whole.
                if page_index > 0 && page.slots.capacity() == 0 {
                    page.slots.reserve_exact(PAGE_SLOTS);
                }
                page.slots.push(Some(value));
                page.slots.len() as u32 - 1
            }
        };
        if !page.has_room() {
            self.roomy.pop();
        }
        self.count += 1;
        (page_index << PAGE_SHIFT) | offset
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let page_index = index >> PAGE_SHIFT;
        let page = self.pages.get_mut(page_index as usize)?;
        let had_room = page.has_room();
        let value = page.slots.get_mut(offset(index))?.take()?;
        page.free.push(offset(index) as u16);
        if !had_room {
            self.roomy.push(page_index);
        }
        self.count -= 1;
        if self.count == 0 {
            *self = Self::new();
        } else if page.free.len() == page.slots.len() && self.roomy.len() > 1 {
            page.slots = Vec::new();
            page.free = Vec::new();
        }
        Some(value)
    }

    /// All indices are below this.
    pub(crate) fn end(&self) -> u32 {
        (self.pages.len() as u32).saturating_mul(PAGE_SLOTS as u32)
    }

    /// All values with their indices, in ascending order of index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.iter_from(0)
    }

    /// As [`Self::iter`], from an index on.
    pub(crate) fn iter_from(&self, index: u32) -> impl Iterator<Item = (u32, &T)> {
        let first_page = (index >> PAGE_SHIFT) as usize;
        self.pages.iter().enumerate().skip(first_page).flat_map(move |(page_index, page)| {
            let skipped = if page_index == first_page { offset(index) } else { 0 };
            page.slots.iter().enumerate().skip(skipped).filter_map(move |(offset, slot)| {
                Some((((page_index as u32) << PAGE_SHIFT) | offset as u32, slot.as_ref()?))
            })
        })
    }

    /// Bytes on the heap, without what the values own themselves and without the allocator's share.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pages: usize = self
            .pages
            .iter()
            .map(|page| page.slots.capacity() * size_of::<Option<T>>() + page.free.capacity() * 2)
            .sum();
        pages + self.pages.capacity() * size_of::<Page<T>>() + self.roomy.capacity() * 4
    }

    /// Panics if a count or a list disagrees with the slots. For tests.
    pub(crate) fn check_integrity(&self) {
        let (mut count, mut empty) = (0, 0);
        for (page_index, page) in self.pages.iter().enumerate() {
            let vacant = page.slots.iter().filter(|slot| slot.is_none()).count();
            count += page.slots.len() - vacant;
            assert_eq!(vacant, page.free.len(), "each vacant slot is in the free list");
            for &offset in &page.free {
                assert!(page.slots[usize::from(offset)].is_none(), "a free slot is vacant");
            }
            let mentions = self.roomy.iter().filter(|&&roomy| roomy as usize == page_index).count();
            assert_eq!(mentions, usize::from(page.has_room()), "pages with room are listed once");
            empty += usize::from(!page.slots.is_empty() && vacant == page.slots.len());
        }
        assert!(empty <= 1, "empty pages are freed");
        assert_eq!(count, self.count, "the count is right");
    }
}

const fn offset(index: u32) -> usize {
    index as usize & (PAGE_SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::for_seeds;

    #[test]
    fn indices_are_stable_and_reused() {
        let mut slab = Slab::new();
        let indices: Vec<u32> = (0..3000_u64).map(|value| slab.insert(Box::new(value))).collect();
        assert_eq!(slab.count(), 3000);
        for (value, &index) in indices.iter().enumerate() {
            assert_eq!(**slab.get(index).unwrap(), value as u64);
        }
        assert_eq!(slab.remove(indices[5]).map(|it| *it), Some(5));
        assert_eq!(slab.remove(indices[5]), None);
        assert_eq!(slab.get(indices[5]), None);
        assert_eq!(slab.insert(Box::new(9)), indices[5]);
        slab.check_integrity();
    }

    #[test]
    fn unknown_indices_are_absent() {
        let mut slab: Slab<Box<u8>> = Slab::new();
        for index in [0, 1, 1 << PAGE_SHIFT, u32::MAX] {
            assert_eq!(slab.get(index), None);
            assert_eq!(slab.get_mut(index), None);
            assert_eq!(slab.remove(index), None);
        }
        slab.check_integrity();
    }

    #[test]
    fn emptied_pages_are_given_back() {
        let mut slab = Slab::new();
        let indices: Vec<u32> = (0..5000_u64).map(|value| slab.insert(Box::new(value))).collect();
        let full = slab.memory_bytes();
        // Every other one first, so that each page is partly free for a while.
        for &index in indices.iter().step_by(2).chain(indices.iter().skip(1).step_by(2)) {
            slab.remove(index).unwrap();
        }
        slab.check_integrity();
        assert_eq!(slab.memory_bytes(), 0, "of {full}");
        assert_eq!(slab.iter().count(), 0);
        slab.insert(Box::new(1));
        slab.check_integrity();
    }

    /// Against a map, in tides over several pages.
    #[test]
    fn random_operations_on_the_slab() {
        for_seeds("random_operations_on_the_slab", 4, |mut random| {
            let mut slab: Slab<Box<usize>> = Slab::new();
            let mut expected: BTreeMap<u32, usize> = BTreeMap::new();
            for step in 0..40_000 {
                let flood = step / 8_000 % 2 == 0;
                if random.chance(if flood { 80 } else { 20 }) || expected.is_empty() {
                    let index = slab.insert(Box::new(step));
                    assert_eq!(expected.insert(index, step), None, "a free index");
                } else {
                    let from = random.below(1 << 14) as u32;
                    let index = expected.range(from..).next().or(expected.first_key_value());
                    let (&index, &value) = index.expect("is not empty");
                    assert_eq!(slab.remove(index).map(|it| *it), Some(value));
                    expected.remove(&index);
                }
                assert_eq!(slab.count(), expected.len());
                if step % 1_000 == 0 {
                    slab.check_integrity();
                    let from = random.below(1 << 14) as u32;
                    let found = slab.iter_from(from).map(|(index, value)| (index, **value));
                    assert!(
                        found.eq(expected.range(from..).map(|(&index, &value)| (index, value)))
                    );
                }
            }
        });
    }

    /// A value that comes and goes at the edge of a page does not take a page from the allocator
    /// each time.
    #[test]
    fn one_empty_page_is_kept() {
        let mut slab = Slab::new();
        for value in 0..PAGE_SLOTS {
            slab.insert(Box::new(value));
        }
        let edge = slab.insert(Box::new(0));
        let memory = slab.memory_bytes();
        for _ in 0..3 {
            assert!(slab.remove(edge).is_some());
            assert!(slab.memory_bytes() >= memory);
            assert_eq!(slab.insert(Box::new(0)), edge);
        }
        slab.check_integrity();
    }

    #[test]
    fn a_slot_of_a_box_costs_a_box() {
        assert_eq!(size_of::<Option<Box<u8>>>(), size_of::<Box<u8>>());
    }
}
