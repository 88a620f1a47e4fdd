//! Numbers that depend on a seed only.

/// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// One of `items`.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }
}

/// How many seeds to try: `SPRITES_SEEDS`, or what takes a second or two.
pub(crate) fn seeds(default: u64) -> u64 {
    std::env::var("SPRITES_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}
