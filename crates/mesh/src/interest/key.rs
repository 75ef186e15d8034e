//! From Topic Names and Topic Filters to hashes, in one pass over the bytes.
//!
//! # The hash
//! The bytes are absorbed as little-endian words of eight, counted from the start of the name, each
//! by one folded multiplication. A prefix is hashed with the `/` that ends it (an imagined one at
//! the end of the name), so that the hash of the prefix `a/b` is a side branch of the chain of
//! words: state before the word in which the `/` stands, and that word cut off after it. The chain
//! itself does not stop at a `/`; its length is a multiplication for each eight bytes, and the
//! branches run beside it.
//!
//! Two equal prefixes give equal keys whatever follows them, because both count their words from
//! the first byte. A cut word needs no length: its last byte is the `/`. The last word of a whole
//! name needs none either: U+0000 is not allowed in a name [MQTT-1.5.4-2].
//!
//! The hash is not secret-keyed against an attacker: all that a collision can cause is a wasted
//! hop.

/// Prefixes of more levels than this are not told apart, and a name looks up at most one prefix
/// more than this.
///
/// The same as the default limit of levels in a Topic Name; a larger setting costs accuracy, not
/// correctness.
pub const LEVELS_HASHED_MAX: usize = 128;

/// How many shapes there are: prefixes of 0 to 128 levels, whole names of 1 to 128 and more.
pub(super) const SHAPES: usize = 2 * (LEVELS_HASHED_MAX + 1);

/// What kind of key: a prefix of some levels, or a whole name of some levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape(u16);

impl Shape {
    #[inline]
    fn prefix(levels: usize) -> Self {
        debug_assert!(levels <= LEVELS_HASHED_MAX);
        Self(levels as u16)
    }

    #[inline]
    fn whole(levels: usize) -> Self {
        Self((LEVELS_HASHED_MAX + 1 + levels.min(LEVELS_HASHED_MAX)) as u16)
    }

    /// Below [`SHAPES`].
    #[inline]
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Hashed but for the last step, so that a look-up that is not needed does not pay for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    state: u64,
    word: u64,
    multiplier: u64,
}

impl Key {
    #[inline]
    pub(super) fn hash(self) -> u64 {
        fold(self.state ^ self.word, self.multiplier)
    }
}

/// The one key of a Topic Filter.
pub(super) fn key_of_filter(filter: &str) -> (Shape, Key) {
    let bytes = filter.as_bytes();
    let wildcard = bytes.iter().position(|byte| matches!(byte, b'+' | b'#'));
    let whole = match wildcard {
        None => bytes,
        // Levels before the wildcard's own, without the `/` between. None at all: the empty prefix.
        Some(wildcard) => match bytes[..wildcard].iter().rposition(|&byte| byte == b'/') {
            None => return (Shape::prefix(0), EMPTY_PREFIX),
            Some(slash) => &bytes[..slash],
        },
    };
    let mut last_prefix = (Shape::prefix(0), EMPTY_PREFIX);
    let mut last = last_prefix;
    walk(whole, |shape, key| {
        if key.multiplier == MULTIPLIER_PREFIX {
            last_prefix = (shape, key);
        }
        last = (shape, key);
    });
    if wildcard.is_some() { last_prefix } else { last }
}

/// Visits every key under which a filter that matches the Topic Name may be found: its prefixes,
/// shortest first, the last of them the whole name with nothing after it, then the whole name. At
/// most [`LEVELS_HASHED_MAX`] + 2.
#[inline(always)] // The closure is a few instructions, and its state wants to stay in registers.
pub(super) fn walk(name: &[u8], mut visit: impl FnMut(Shape, Key)) {
    // A filter that starts with a wildcard does not match a name that starts with `$`
    // [MQTT-4.7.2-1].
    if name.first() != Some(&b'$') && !mutant!("prefix-not-asked") {
        visit(Shape::prefix(0), EMPTY_PREFIX);
    }
    let mut state = SEED;
    let mut levels = 0; // Ended by a `/` so far.
    let (words, partial) = name.as_chunks::<8>();
    for &bytes in words {
        let word = u64::from_le_bytes(bytes);
        levels = visit_prefixes(state, word, levels, &mut visit);
        state = fold(state ^ word, MULTIPLIER_CHAIN);
    }
    // The last, partial word, with a `/` put behind the name: it ends the last level like any
    // other.
    let word = last_word(name, partial);
    let ended = word | u64::from(b'/') << (8 * partial.len());
    levels = visit_prefixes(state, ended, levels, &mut visit);
    visit(Shape::whole(levels), Key { state, word, multiplier: MULTIPLIER_WHOLE });
}

/// Visits the prefixes that end in this word; takes and gives the number of levels before and after
/// it.
#[inline(always)] // As `walk`.
fn visit_prefixes(
    state: u64,
    word: u64,
    mut levels: usize,
    visit: &mut impl FnMut(Shape, Key),
) -> usize {
    let mut slashes = slashes_in(word);
    while slashes != 0 {
        levels += 1;
        if levels <= LEVELS_HASHED_MAX {
            // All bits up to the highest of the first `/`, and it.
            let up_to_slash = slashes ^ (slashes - 1);
            let key = Key { state, word: word & up_to_slash, multiplier: MULTIPLIER_PREFIX };
            visit(Shape::prefix(levels), key);
        }
        slashes &= slashes - 1;
    }
    levels
}

/// The highest bit of each byte that is a `/`. Exact: no carry runs from one byte into the next.
#[inline]
fn slashes_in(word: u64) -> u64 {
    const LOW_SEVEN: u64 = u64::from_ne_bytes([0x7f; 8]);
    let zero_at_slash = word ^ u64::from_ne_bytes([b'/'; 8]);
    !(((zero_at_slash & LOW_SEVEN) + LOW_SEVEN) | zero_at_slash | LOW_SEVEN)
}

/// `partial`, the last bytes of a name behind its words of eight, as a little-endian word with
/// zeros above.
#[inline]
fn last_word(name: &[u8], partial: &[u8]) -> u64 {
    if let Some(&bytes) = name.last_chunk::<8>() {
        // Reads bytes of the word before along, and shifts them out: no loop over a variable
        // number. In two shifts, because all 64 bits go when nothing is partial.
        let bits_before = 64 - 8 * partial.len();
        u64::from_le_bytes(bytes) >> (bits_before / 2) >> (bits_before / 2)
    } else {
        partial.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }
}

/// Both halves of the product, folded into one: every bit of the result depends on every bit of
/// `value`.
#[inline]
fn fold(value: u64, multiplier: u64) -> u64 {
    let product = u128::from(value) * u128::from(multiplier);
    product as u64 ^ (product >> 64) as u64
}

/// The prefix of no levels: nothing absorbed, no `/`.
const EMPTY_PREFIX: Key = Key { state: SEED, word: 0, multiplier: MULTIPLIER_PREFIX };

// Odd, with about half of their bits set: the fractional part of π, sixteen hexadecimal digits
// each.
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const MULTIPLIER_CHAIN: u64 = 0x1319_8a2e_0370_7345;
const MULTIPLIER_PREFIX: u64 = 0xa409_3822_299f_31d1;
const MULTIPLIER_WHOLE: u64 = 0x082e_fa98_ec4e_6c89;
