//! Choices that a seed repeats, and how many seeds to try.

use std::ops::Range;

/// A small generator; the same seed gives the same choices on every machine. Source: SplitMix64,
/// in Steele, Lea, Flood, *Fast splittable pseudorandom number generators*.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// A number of which one below it can be drawn.
pub trait Bound: Copy {
    #[doc(hidden)]
    fn below(self, drawn: u64) -> Self;
}

macro_rules! bound {
    ($($number:ty),*) => {$(
        impl Bound for $number {
            fn below(self, drawn: u64) -> Self {
                // Of a number of this type, so the rest is one, too.
                (drawn % self as u64) as Self
            }
        }
    )*};
}
bound!(i32, u32, u64, usize);

impl Rng {
    /// Begins a sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns any number.
    #[expect(clippy::should_implement_trait, reason = "an endless iterator would only be longer")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`, which is not 0.
    pub fn below<N: Bound>(&mut self, end: N) -> N {
        end.below(self.next())
    }

    /// Is true once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Returns one of `items`, which are not none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Overwrites `bytes` with random ones.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next().to_le_bytes()[0];
        }
    }

    /// Returns `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    /// Returns `len` bytes as files have them: random, so that they do not compress, or `len`
    /// times the same.
    pub fn content(&mut self, len: usize) -> Vec<u8> {
        if self.one_in(2) { vec![self.next().to_le_bytes()[0]; len] } else { self.bytes(len) }
    }
}

/// The seeds of one property test. Says which one it was if the test fails.
#[derive(Debug)]
pub struct Seeds {
    left: Range<u64>,
    current: Option<u64>,
}

/// Returns the seeds to try: as many as `SPRITES_SEEDS` says, or `default`; or `SPRITES_SEED`
/// alone.
///
/// ```
/// for seed in sprite_testkit::seeds(20) {
///     let mut rng = sprite_testkit::Rng::new(seed);
///     assert!(rng.below(7_u32) < 7);
/// }
/// ```
#[must_use]
pub fn seeds(default: u64) -> Seeds {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let left = match number("SPRITES_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SPRITES_SEEDS").unwrap_or(default),
    };
    Seeds { left, current: None }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.current = self.left.next();
        self.current
    }
}

impl Drop for Seeds {
    fn drop(&mut self) {
        if let Some(seed) = self.current
            && std::thread::panicking()
        {
            eprintln!("failed with SPRITES_SEED={seed}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden files were made of this sequence.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut rng = Rng::new(2026);
        let first = [rng.next(), rng.next()];
        assert_eq!(first, [0xdb9c_5598_9194_8d23, 0x78bc_927d_ed35_455d]);
        assert_eq!(Rng::new(1).bytes(3), Rng::new(1).bytes(3));
    }

    #[test]
    fn seeds_are_counted_from_zero_and_then_end() {
        if std::env::var_os("SPRITES_SEED").is_none() {
            let count = seeds(3).count() as u64;
            assert_eq!(seeds(3).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }
    }
}
