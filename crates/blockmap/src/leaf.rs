//! 512 neighbouring blocks: which of them have an entry, and the entries, without gaps.
//!
//! Takes 16 bytes for a mapped block and 88 for the group, so that a sparse disk costs little
//! and a full one no more than its entries.

use crate::entry::Entry;

/// Blocks in a leaf.
pub(crate) const LEAF_BLOCKS: u32 = 512;
const WORDS: usize = LEAF_BLOCKS as usize / 64;

/// One bit for each block of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Mask([u64; WORDS]);

impl Mask {
    /// Bytes of the encoded form.
    pub(crate) const LEN: usize = WORDS * 8;

    pub(crate) fn all() -> Self {
        Self([u64::MAX; WORDS])
    }

    /// Returns the bits `lo` to `hi - 1`.
    pub(crate) fn range(lo: u32, hi: u32) -> Self {
        Self(std::array::from_fn(|word| {
            let below = |end: u32| match end.saturating_sub(word as u32 * 64) {
                bits @ 0..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
            below(hi) & !below(lo)
        }))
    }

    pub(crate) fn get(&self, index: u32) -> bool {
        self.0[index as usize / 64] >> (index % 64) & 1 == 1
    }

    pub(crate) fn insert(&mut self, index: u32) {
        self.0[index as usize / 64] |= 1 << (index % 64);
    }

    pub(crate) fn remove(&mut self, index: u32) {
        self.0[index as usize / 64] &= !(1 << (index % 64));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Counts the set bits before `index`.
    fn rank(&self, index: u32) -> usize {
        let word = index as usize / 64;
        let before: u32 = self.0[..word].iter().map(|word| word.count_ones()).sum();
        let below = self.0[word] & ((1 << (index % 64)) - 1);
        (before + below.count_ones()) as usize
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Returns the set bits in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let words = self.0;
        (0..WORDS).flat_map(move |i| {
            let mut word = words[i];
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i as u32 * 64 + bit)
            })
        })
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        Self(std::array::from_fn(|i| {
            u64::from_le_bytes(std::array::from_fn(|byte| bytes[i * 8 + byte]))
        }))
    }
}

/// The entries of a leaf.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Leaf {
    present: Mask,
    entries: Vec<Entry>,
}

impl Leaf {
    /// Makes a leaf of one entry for each bit of `present`, in order; `None` if the counts differ.
    pub(crate) fn from_parts(present: Mask, entries: Vec<Entry>) -> Option<Self> {
        (present.count() as usize == entries.len()).then_some(Self { present, entries })
    }

    pub(crate) fn present(&self) -> &Mask {
        &self.present
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn get(&self, index: u32) -> Option<Entry> {
        self.present.get(index).then(|| self.entries[self.present.rank(index)])
    }

    pub(crate) fn set(&mut self, index: u32, entry: Entry) {
        let rank = self.present.rank(index);
        if self.present.get(index) {
            self.entries[rank] = entry;
            return;
        }
        let len = self.entries.len();
        if len == self.entries.capacity() {
            // Doubling would waste up to half of the table's memory.
            self.entries.reserve_exact((len / 8).max(4).min(LEAF_BLOCKS as usize - len));
        }
        self.entries.insert(rank, entry);
        self.present.insert(index);
    }

    pub(crate) fn clear(&mut self, index: u32) {
        if self.present.get(index) {
            self.entries.remove(self.present.rank(index));
            self.present.remove(index);
        }
    }

    /// Returns the entries with the indexes they are at, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        self.present.iter().zip(self.entries.iter().copied())
    }

    /// Takes over what `newer` has at the indexes of `touched`: an entry or none.
    pub(crate) fn overlay(&mut self, touched: &Mask, newer: &Leaf) {
        // In place if every entry has one to replace, as on a full disk. Else each costs a move
        // of the entries behind it.
        let replaces =
            touched.minus(&newer.present).is_empty() && touched.minus(&self.present).is_empty();
        if replaces || touched.count() <= 8 {
            for index in touched.iter() {
                match newer.get(index) {
                    Some(entry) => self.set(index, entry),
                    None => self.clear(index),
                }
            }
            return;
        }
        let present = self.present.minus(touched).union(&newer.present);
        let mut entries = Vec::with_capacity(present.count() as usize);
        let (mut old, mut new) = (self.iter().peekable(), newer.iter().peekable());
        for index in present.iter() {
            while old.next_if(|(i, _)| *i < index).is_some() {}
            let kept = old.next_if(|(i, _)| *i == index);
            let (_, entry) = new
                .next_if(|(i, _)| *i == index)
                .or(kept)
                .expect("each present index comes from one of the two");
            entries.push(entry);
        }
        drop((old, new));
        *self = Self { present, entries };
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::entry::{Codec, PackId};

    fn entry(pack: u32) -> Entry {
        Entry::new(PackId(pack), 0, 10, Codec::Raw, 0).unwrap()
    }

    /// A cheap sequence of numbers that looks random.
    fn numbers(seed: u32) -> impl Iterator<Item = u32> {
        let mut state = seed;
        std::iter::from_fn(move || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            Some(state >> 8)
        })
    }

    #[test]
    fn a_leaf_behaves_like_a_map() {
        let (mut leaf, mut model) = (Leaf::default(), BTreeMap::new());
        for (number, i) in numbers(1).zip(0..5000) {
            let index = number % LEAF_BLOCKS;
            if number & 0x800 == 0 {
                leaf.set(index, entry(i + 1));
                model.insert(index, entry(i + 1));
            } else {
                leaf.clear(index);
                model.remove(&index);
            }
            assert_eq!(leaf.get(index), model.get(&index).copied());
        }
        assert!(leaf.iter().eq(model));
    }

    #[test]
    fn overlaying_many_equals_overlaying_one_by_one() {
        for seed in 0..40 {
            let mut numbers = numbers(seed).map(|n| n % LEAF_BLOCKS);
            let (mut leaf, mut newer, mut touched) =
                (Leaf::default(), Leaf::default(), Mask::default());
            if seed % 2 == 0 {
                numbers.by_ref().take(300).for_each(|index| leaf.set(index, entry(1)));
            } else {
                (0..LEAF_BLOCKS).for_each(|index| leaf.set(index, entry(1)));
            }
            for index in numbers.by_ref().take(seed as usize * 10) {
                touched.insert(index);
                newer.set(index, entry(2));
            }
            for index in numbers.take(seed as usize / 3 % 2 * 100) {
                touched.insert(index);
                newer.clear(index);
            }
            let mut expected = leaf.clone();
            for index in touched.iter() {
                match newer.get(index) {
                    Some(entry) => expected.set(index, entry),
                    None => expected.clear(index),
                }
            }
            leaf.overlay(&touched, &newer);
            assert_eq!(leaf, expected, "seed {seed}");
        }
    }

    #[test]
    fn a_full_leaf_has_no_slack() {
        let mut leaf = Leaf::default();
        for index in (0..LEAF_BLOCKS).rev() {
            leaf.set(index, entry(1));
        }
        assert_eq!(leaf.memory(), 512 * 16 + 88);
    }

    #[test]
    fn masks_read_back() {
        let mut mask = Mask::default();
        [0, 63, 64, 511].into_iter().for_each(|i| mask.insert(i));
        assert_eq!(Mask::decode(&mask.encode()), mask);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [0, 63, 64, 511]);
        assert_eq!(Mask::all().count(), 512);
        for (lo, hi) in [(0, 512), (0, 0), (63, 65), (64, 128), (511, 512), (5, 5)] {
            assert!(Mask::range(lo, hi).iter().eq(lo..hi), "{lo}..{hi}");
        }
    }
}
