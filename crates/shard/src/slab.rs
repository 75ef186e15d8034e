//! Records with small stable numbers, in pages.
//!
//! A `Vec` that grows doubles: at five million records it holds the old and the new block at once, and may keep half of
//! it unused. Pages of a fixed number of records grow one page at a time and never move a record.

/// Records a page. With records of about 90 bytes a page is about 23 KiB: small beside a shard, large beside an
/// allocation.
const PAGE_RECORDS: usize = 256;

/// A paged slab: `insert` gives a number, numbers of removed records are used again, last removed first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    next: u32,
    count: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), next: 0, count: 0 }
    }

    /// Stores a record under a number that no other record has.
    pub(crate) fn insert(&mut self, record: T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.next;
            self.next = index.checked_add(1).expect("fewer than 2^32 records fit in memory");
            index
        });
        let previous = self.put(index, record);
        debug_assert!(previous.is_none());
        index
    }

    /// The number that the next [`Slab::insert`] will give.
    pub(crate) fn next_index(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.next)
    }

    /// Stores a record under a number of the caller's choice. A slab is used with either this or [`Slab::insert`].
    pub(crate) fn put(&mut self, index: u32, record: T) -> Option<T> {
        let (page, at) = place(index);
        while self.pages.len() <= page {
            let mut empty = Vec::new();
            empty.resize_with(PAGE_RECORDS, || None);
            self.pages.push(empty);
        }
        let previous = self.pages[page][at].replace(record);
        self.count += usize::from(previous.is_none());
        previous
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (page, at) = place(index);
        self.pages.get(page)?[at].as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (page, at) = place(index);
        self.pages.get_mut(page)?[at].as_mut()
    }

    /// Takes a record out; its number may be given to another by [`Slab::insert`].
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let record = self.clear(index)?;
        self.free.push(index);
        Some(record)
    }

    /// Lets [`Slab::insert`] give a number again whose record was taken out with [`Slab::clear`].
    pub(crate) fn free(&mut self, index: u32) {
        debug_assert!(self.get(index).is_none(), "a number is freed with its record");
        self.free.push(index);
    }

    /// Takes a record out of a slab that is used with [`Slab::put`], or whose number must not be used again before
    /// [`Slab::free`].
    pub(crate) fn clear(&mut self, index: u32) -> Option<T> {
        let (page, at) = place(index);
        let record = self.pages.get_mut(page)?[at].take()?;
        self.count -= 1;
        Some(record)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// All numbers are below this.
    pub(crate) fn end(&self) -> u32 {
        (self.pages.len() as u32).saturating_mul(PAGE_RECORDS as u32)
    }

    /// All records with their numbers, in the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pages
            .iter()
            .flatten()
            .zip(0u32..)
            .filter_map(|(slot, index)| slot.as_ref().map(|record| (index, record)))
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.pages
            .iter_mut()
            .flatten()
            .zip(0u32..)
            .filter_map(|(slot, index)| slot.as_mut().map(|record| (index, record)))
    }
}

#[inline]
const fn place(index: u32) -> (usize, usize) {
    (index as usize / PAGE_RECORDS, index as usize % PAGE_RECORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_used_again() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..1000).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.len(), 1000);
        assert_eq!(slab.remove(numbers[500]), Some(500));
        assert_eq!(slab.remove(numbers[500]), None);
        assert_eq!(slab.get(numbers[500]), None);
        assert_eq!(slab.get(numbers[999]), Some(&999));
        assert_eq!(slab.insert(7), numbers[500]);
        assert_eq!(slab.iter().count(), 1000);
    }

    #[test]
    fn numbers_of_the_callers_choice() {
        let mut slab = Slab::new();
        assert_eq!(slab.put(70_000, 'a'), None);
        assert_eq!(slab.put(70_000, 'b'), Some('a'));
        assert_eq!(slab.get(3), None);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(70_000, &'b')]);
        assert_eq!(slab.clear(70_000), Some('b'));
        assert_eq!(slab.len(), 0);
    }
}
