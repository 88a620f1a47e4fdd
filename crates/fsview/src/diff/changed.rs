//! Which bytes of two disks may differ.

use std::ops::Range;

/// Ranges of bytes, sorted and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedRanges(Vec<Range<u64>>);

impl ChangedRanges {
    /// Takes ranges in any order, in bytes from the start of the disk; they may overlap.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Adds more ranges.
    #[must_use]
    pub(crate) fn with(self, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self::new(self.0.into_iter().chain(ranges))
    }

    /// Says whether any byte of `range` may differ.
    #[must_use]
    pub fn touches(&self, range: &Range<u64>) -> bool {
        let next = self.0.partition_point(|changed| changed.end <= range.start);
        !range.is_empty() && self.0.get(next).is_some_and(|changed| changed.start < range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_touch_where_they_share_a_byte() {
        let changed = ChangedRanges::new([20..30, 0..10, 8..12, 40..40]);
        assert_eq!(changed, ChangedRanges(vec![0..12, 20..30]));
        for (range, expected) in [
            (0..1, true),
            (11..12, true),
            (12..20, false),
            (12..21, true),
            (29..99, true),
            (30..99, false),
            (5..5, false),
        ] {
            assert_eq!(changed.touches(&range), expected, "{range:?}");
        }
    }
}
