//! A set of shards, as cheap as one register on machines with up to 64 of them.
//!
//! Shards 0 to 63 live in one inline word; only a set that ever held a higher number owns heap
//! memory, and keeps it when cleared, so that a set used turn after turn allocates at most once in
//! its life.

use std::fmt;

use crate::shard_id::{SHARDS_MAX, ShardId};

/// Bits in one word of a set.
const WORD_BITS: usize = u64::BITS as usize;

/// A set of up to [`SHARDS_MAX`] shards.
#[derive(Clone, Default)]
pub struct ShardSet {
    /// Shards 0 to 63.
    first: u64,
    /// Shards from 64 up, 64 a word; as long as the highest number ever held asks for, so empty on
    /// most machines.
    rest: Vec<u64>,
}

impl ShardSet {
    /// The empty set, without heap memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { first: 0, rest: Vec::new() }
    }

    /// Adds a shard. Allocates at most once, and only for numbers from 64 up. Says whether it is
    /// new in the set.
    #[inline]
    pub fn insert(&mut self, shard: ShardId) -> bool {
        let (word, bit) = place(shard);
        let bits = if word == 0 { &mut self.first } else { self.rest_word(word) };
        let new = *bits & bit == 0;
        *bits |= bit;
        new
    }

    /// Takes a shard out. Says whether it was in the set.
    #[inline]
    pub fn remove(&mut self, shard: ShardId) -> bool {
        let (word, bit) = place(shard);
        let bits = match word {
            0 => &mut self.first,
            _ => match self.rest.get_mut(word - 1) {
                Some(bits) => bits,
                None => return false,
            },
        };
        let held = *bits & bit != 0;
        *bits &= !bit;
        held
    }

    /// Whether the shard is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, shard: ShardId) -> bool {
        let (word, bit) = place(shard);
        self.word(word) & bit != 0
    }

    /// Whether no shard is in the set.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.iter().all(|&bits| bits == 0)
    }

    /// How many shards are in the set.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        let ones = |bits: &u64| bits.count_ones() as usize;
        ones(&self.first) + self.rest.iter().map(ones).sum::<usize>()
    }

    /// Empties the set and keeps its memory.
    #[inline]
    pub fn clear(&mut self) {
        self.first = 0;
        self.clear_rest();
    }

    /// The shards in ascending order.
    #[inline]
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { bits: self.first, word: 0, rest: &self.rest }
    }

    /// The lowest shard of the set whose number is at least `from`'s.
    #[inline]
    #[must_use]
    pub fn next_from(&self, from: ShardId) -> Option<ShardId> {
        let (word, bit) = place(from);
        let bits = self.word(word) & !(bit - 1);
        if bits != 0 {
            return Some(lowest(word, bits));
        }
        // `rest` counts from word 1, so what comes after `word` begins at `word`.
        let after = self.rest.get(word..)?;
        let skipped = after.iter().position(|&bits| bits != 0)?;
        Some(lowest(word + 1 + skipped, after[skipped]))
    }

    /// Takes the lowest shard out of the set.
    #[inline]
    pub fn pop_first(&mut self) -> Option<ShardId> {
        if self.first != 0 {
            let shard = lowest(0, self.first);
            self.first &= self.first - 1;
            return Some(shard);
        }
        let skipped = self.rest.iter().position(|&bits| bits != 0)?;
        let bits = &mut self.rest[skipped];
        let shard = lowest(1 + skipped, *bits);
        *bits &= *bits - 1;
        Some(shard)
    }

    /// Replaces the whole set by shards 0 to 63 as a mask: bit *s* stands for shard *s*.
    #[inline]
    pub(crate) fn assign(&mut self, mask: u64) {
        self.first = mask;
        self.clear_rest();
    }

    /// Adds 64 shards at once: bit *b* of `mask` stands for shard 64 × `word` + *b*.
    #[inline]
    pub(crate) fn insert_word(&mut self, word: usize, mask: u64) {
        if word == 0 {
            self.first |= mask;
        } else if mask != 0 {
            *self.rest_word(word) |= mask;
        }
    }

    /// The 64 shards from 64 × `word`; zero beyond what the set holds.
    #[inline]
    fn word(&self, word: usize) -> u64 {
        match word {
            0 => self.first,
            _ => self.rest.get(word - 1).copied().unwrap_or(0),
        }
    }

    #[inline]
    fn clear_rest(&mut self) {
        // Not for an empty one: filling nothing still calls `memset`, with a dangling pointer, and
        // that took 150 ns here (a masked store to an unmapped page, it seems), ten times the
        // look-up it prepared.
        if !self.rest.is_empty() {
            self.rest.fill(0);
        }
    }

    /// The 64 shards from 64 × `word` to change, for a word from 1 up; room is made for it.
    #[inline(never)] // Not on machines with up to 64 shards, which should not pay for it in size.
    fn rest_word(&mut self, word: usize) -> &mut u64 {
        debug_assert!(word < usize::from(SHARDS_MAX) / WORD_BITS);
        if word > self.rest.len() {
            self.rest.resize(word, 0);
        }
        &mut self.rest[word - 1]
    }
}

impl PartialEq for ShardSet {
    /// Equal when they hold the same shards, however much memory either keeps.
    fn eq(&self, other: &Self) -> bool {
        let words = 1 + self.rest.len().max(other.rest.len());
        (0..words).all(|word| self.word(word) == other.word(word))
    }
}

impl Eq for ShardSet {}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::new();
        set.extend(shards);
        set
    }
}

impl Extend<ShardId> for ShardSet {
    fn extend<I: IntoIterator<Item = ShardId>>(&mut self, shards: I) {
        for shard in shards {
            self.insert(shard);
        }
    }
}

impl<'a> IntoIterator for &'a ShardSet {
    type Item = ShardId;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter().map(ShardId::get)).finish()
    }
}

/// The shards of a [`ShardSet`] in ascending order.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    /// What is left of the current word.
    bits: u64,
    /// Which word that is.
    word: usize,
    /// The words after it.
    rest: &'a [u64],
}

impl Iterator for Iter<'_> {
    type Item = ShardId;

    #[inline]
    fn next(&mut self) -> Option<ShardId> {
        while self.bits == 0 {
            let (&bits, rest) = self.rest.split_first()?;
            self.bits = bits;
            self.rest = rest;
            self.word += 1;
        }
        let shard = lowest(self.word, self.bits);
        self.bits &= self.bits - 1;
        Some(shard)
    }
}

/// Where a shard stands: which word, and its bit in it.
#[inline]
fn place(shard: ShardId) -> (usize, u64) {
    (shard.index() / WORD_BITS, 1 << (shard.index() % WORD_BITS))
}

/// The shard of the lowest bit of a word; `bits` is not zero.
#[inline]
fn lowest(word: usize, bits: u64) -> ShardId {
    debug_assert!(bits != 0);
    // Below `SHARDS_MAX`, so it fits: a set has no words beyond.
    ShardId::new((word * WORD_BITS) as u16 + bits.trailing_zeros() as u16)
}

#[cfg(test)]
mod tests;
