//! Random numbers and words for the model tests.

/// A seeded generator (SplitMix64): the same numbers on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// One to `levels_max` levels out of `words`.
    pub(crate) fn path(&mut self, words: &[&str], levels_max: usize) -> String {
        let mut levels: Vec<&str> = Vec::new();
        for _ in 0..=self.below(levels_max) {
            levels.push(self.pick(words));
        }
        levels.join("/")
    }
}

/// Runs a model test with the seeds below `count`, or with the one in `MIDGE_SEED`; says which one
/// failed.
pub(crate) fn for_seeds(test: &str, count: u64, run: impl Fn(Random)) {
    struct Tell<'a>(&'a str, u64);

    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let Self(test, seed) = self;
                eprintln!("seed {seed}; again: MIDGE_SEED={seed} cargo test -p midge-topic {test}");
            }
        }
    }

    let only = std::env::var("MIDGE_SEED").ok().map(|it| it.parse().expect("a number"));
    for seed in only.map_or(0..count, |seed| seed..seed + 1) {
        let _tell = Tell(test, seed);
        run(Random::new(seed));
    }
}

/// All joinings of one to `levels_max` of `words`.
pub(crate) fn all_paths(words: &[&str], levels_max: usize) -> Vec<String> {
    let mut all: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let mut from = 0;
    for _ in 1..levels_max {
        let end = all.len();
        for index in from..end {
            for word in words {
                all.push(format!("{}/{word}", all[index]));
            }
        }
        from = end;
    }
    all
}
