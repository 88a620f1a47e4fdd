//! Seeds for property tests: as many as `SPRITES_SEEDS` says, printed when one fails.

/// A small generator (splitmix64); the same seed gives the same test on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Is true once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Returns `len` bytes: random, so that they do not compress, or `len` times the same.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        if self.one_in(2) {
            return vec![self.next() as u8; len];
        }
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Prints the seed if the test ends in a panic.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

/// Runs `test` for seeds 0 to `SPRITES_SEEDS` (by default `count`), or for `SPRITES_SEED` alone.
pub(crate) fn for_each_seed(count: u64, mut test: impl FnMut(Rng)) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seeds = match number("SPRITES_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SPRITES_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        let _on_panic = OnPanic(seed);
        test(Rng::new(seed));
    }
}
