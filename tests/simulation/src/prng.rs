//! The only source of chance: xoshiro256++ (Blackman and Vigna, public domain), seeded through SplitMix64.
//!
//! Written here rather than taken from a crate because a seed in a bug report must mean the same run for years, whatever a
//! dependency does with its algorithms.

/// A stream of choices. Streams made from different numbers are independent for our purposes.
#[derive(Debug, Clone)]
pub struct Prng([u64; 4]);

impl Prng {
    /// The stream of a seed and a purpose (a client's number, say), so that one client more does not change what the
    /// others choose.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut state = seed ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mut split_mix = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        Self(std::array::from_fn(|_| split_mix()))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number from 0 to `bound` − 1; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `permille` times in a thousand.
    pub fn permille(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of the choices.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Puts a list into any order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed means the same choices for ever: these numbers must not change.
    #[test]
    fn a_seed_keeps_its_meaning() {
        let mut prng = Prng::new(1, 2);
        let first: Vec<u64> = (0..3).map(|_| prng.below(1_000_000)).collect();
        let mut again = Prng::new(1, 2);
        let second: Vec<u64> = (0..3).map(|_| again.below(1_000_000)).collect();
        assert_eq!(first, second);
        assert_ne!(Prng::new(1, 3).next_u64(), Prng::new(1, 2).next_u64());
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut prng = Prng::new(7, 7);
        assert_eq!(prng.below(0), 0);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[prng.between(3, 7) as usize - 3] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
