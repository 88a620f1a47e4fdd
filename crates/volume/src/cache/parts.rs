//! Sets of parts of a block, and what a block of the bucket is to the cache.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not, Range};

use crate::block::{PART_LEN, PARTS};

/// A set of the sixteen 4 KiB parts of a block; bit 0 is the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Parts(pub u16);

impl Parts {
    /// No part.
    pub const NONE: Self = Self(0);
    /// Every part.
    pub const ALL: Self = Self(u16::MAX);

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether every part of `other` is in this set.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Tells whether part `index` is in.
    #[must_use]
    pub fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// Returns the parts that a byte range of a block touches.
    ///
    /// # Panics
    /// If the range ends beyond the block.
    #[must_use]
    pub fn touching(range: &Range<usize>) -> Self {
        if range.is_empty() {
            return Self::NONE;
        }
        Self::of(range.start / PART_LEN..range.end.div_ceil(PART_LEN))
    }

    /// Returns the parts that lie wholly in a byte range of a block.
    #[must_use]
    pub fn within(range: &Range<usize>) -> Self {
        let parts = range.start.div_ceil(PART_LEN)..range.end / PART_LEN;
        if parts.is_empty() { Self::NONE } else { Self::of(parts) }
    }

    fn of(parts: Range<usize>) -> Self {
        assert!(parts.end <= PARTS, "a range of parts ends with the block");
        let below = |end: usize| if end == PARTS { u16::MAX } else { (1 << end) - 1 };
        Self(below(parts.end) & !below(parts.start))
    }

    /// Returns the byte ranges of runs of neighbouring parts, in order.
    pub fn runs(self) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < PARTS && !self.has(at) {
                at += 1;
            }
            let start = at;
            while at < PARTS && self.has(at) {
                at += 1;
            }
            (start < at).then_some(start * PART_LEN..at * PART_LEN)
        })
    }
}

impl BitAnd for Parts {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Parts {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for Parts {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the map says of a block, opaque here: equal entries mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry(pub [u8; 16]);

impl Entry {
    /// No entry: the block is zeroes.
    pub const NONE: Self = Self([0; 16]);
}

/// What a clean slot equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanEntry {
    /// The map's entry.
    pub entry: Entry,
    /// CRC-32C of the block's 65,536 bytes, to know them again after a power cut.
    pub crc32c: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_parts() {
        assert_eq!(Parts::touching(&(0..1)), Parts(1));
        assert_eq!(Parts::touching(&(4_095..4_097)), Parts(3));
        assert_eq!(Parts::touching(&(0..65_536)), Parts::ALL);
        assert_eq!(Parts::touching(&(61_440..65_536)), Parts(1 << 15));
        assert_eq!(Parts::touching(&(512..512)), Parts::NONE);
        assert_eq!(Parts::within(&(1..12_288)), Parts(6));
        assert_eq!(Parts::within(&(512..8_191)), Parts::NONE);
    }

    #[test]
    fn runs_join_neighbours() {
        let runs: Vec<_> = Parts(0b1000_0000_0011_0001).runs().collect();
        assert_eq!(runs, [0..4_096, 16_384..24_576, 61_440..65_536]);
        assert_eq!(Parts::NONE.runs().count(), 0);
    }
}
