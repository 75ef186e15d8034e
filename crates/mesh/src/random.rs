//! Chance for tests: from a seed, and a failing seed says how to run it again.

use std::env;

/// Runs `check` with `count` seeds; with `MIDGE_TEST_SEED` in the environment with that one only.
pub(crate) fn for_each_seed(test: &str, count: u64, check: impl Fn(&mut Random)) {
    let seeds = match env::var("MIDGE_TEST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("MIDGE_TEST_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..count,
    };
    for seed in seeds {
        let _report = Report { test, seed };
        check(&mut Random { state: seed });
    }
}

/// Says the seed when its check panics.
struct Report<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed } = self;
            eprintln!("again: MIDGE_TEST_SEED={seed} cargo test -p midge-mesh {test}");
        }
    }
}

/// A SplitMix64 generator.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `limit`, without it.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
