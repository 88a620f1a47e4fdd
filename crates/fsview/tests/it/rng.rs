//! Random numbers that a seed repeats, and how many seeds to try.

/// A small generator (splitmix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Prints the seed if the test ends in a panic.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SPRITES_SEED={}", self.0);
        }
    }
}

/// Runs `test` for seeds 0 to `SPRITES_SEEDS` (by default `count`), or for `SPRITES_SEED` alone.
pub(crate) fn for_each_seed(count: u64, mut test: impl FnMut(u64, &mut Rng)) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seeds = match number("SPRITES_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SPRITES_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        let _on_panic = OnPanic(seed);
        test(seed, &mut Rng::new(seed));
    }
}
