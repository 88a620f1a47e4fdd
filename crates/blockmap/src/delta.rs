//! What one epoch changes: blocks that got an entry, and blocks that became zeroes.

use std::collections::BTreeMap;

use sprite_types::BlockIndex;

use crate::entry::{BLOCKS_MAX, Entry};
use crate::leaf::{LEAF_BLOCKS, Leaf, Mask};

/// Changes by leaf. Of two changes to a block the later one counts.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Delta {
    leaves: BTreeMap<u32, Patch>,
}

/// The changes to one leaf: what is touched and has no entry became zeroes.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Patch {
    pub(crate) touched: Mask,
    pub(crate) leaf: Leaf,
}

/// One element of the encoded form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Set(u32, Entry),
    Zero { start: u32, count: u32 },
}

impl Patch {
    fn zero(&mut self, blocks: &Mask) {
        self.touched = self.touched.union(blocks);
        if !self.leaf.is_empty() {
            self.leaf.overlay(blocks, &Leaf::default());
        }
    }
}

impl Delta {
    /// Makes a delta that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that `block` is stored at `entry` now.
    ///
    /// # Panics
    /// If `block` is beyond what any volume can have ([`BLOCKS_MAX`]).
    pub fn set(&mut self, block: BlockIndex, entry: Entry) {
        assert!(block.0 < BLOCKS_MAX, "block {block} is beyond any volume");
        let patch = self.leaves.entry(block.0 / LEAF_BLOCKS).or_default();
        patch.touched.insert(block.0 % LEAF_BLOCKS);
        patch.leaf.set(block.0 % LEAF_BLOCKS, entry);
    }

    /// Says that the `count` blocks from `start` read as zeroes now.
    ///
    /// # Panics
    /// If the range ends beyond what any volume can have ([`BLOCKS_MAX`]).
    pub fn zero(&mut self, start: BlockIndex, count: u32) {
        let end = start.0.checked_add(count).filter(|end| *end <= BLOCKS_MAX);
        let end = end.expect("the range lies within a volume");
        let mut block = start.0;
        while block < end {
            let index = block % LEAF_BLOCKS;
            let patch = self.leaves.entry(block / LEAF_BLOCKS).or_default();
            let here = (LEAF_BLOCKS - index).min(end - block);
            patch.zero(&Mask::range(index, index + here));
            block += here;
        }
    }

    /// Returns what the delta says about `block`: nothing, that it is zeroes, or its entry.
    #[must_use]
    pub fn get(&self, block: BlockIndex) -> Option<Option<Entry>> {
        let patch = self.leaves.get(&(block.0 / LEAF_BLOCKS))?;
        let index = block.0 % LEAF_BLOCKS;
        patch.touched.get(index).then(|| patch.leaf.get(index))
    }

    /// Tells whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Returns the touched blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        self.leaves.iter().flat_map(|(leaf, patch)| {
            patch.touched.iter().map(move |index| BlockIndex(leaf * LEAF_BLOCKS + index))
        })
    }

    /// Returns how many blocks are touched.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.leaves.values().map(|patch| u64::from(patch.touched.count())).sum()
    }

    /// Takes over every change of `newer`.
    pub fn apply(&mut self, newer: &Self) {
        for (leaf, patch) in &newer.leaves {
            let mine = self.leaves.entry(*leaf).or_default();
            mine.touched = mine.touched.union(&patch.touched);
            mine.leaf.overlay(&patch.touched, &patch.leaf);
        }
    }

    /// Drops every change to a block that `newer` touches.
    pub(crate) fn hide(&mut self, newer: &Self) {
        self.leaves.retain(|leaf, patch| {
            if let Some(hiding) = newer.leaves.get(leaf) {
                let hidden = patch.touched.intersection(&hiding.touched);
                patch.leaf.overlay(&hidden, &Leaf::default());
                patch.touched = patch.touched.minus(&hidden);
            }
            !patch.touched.is_empty()
        });
    }

    pub(crate) fn apply_change(&mut self, change: Change) {
        match change {
            Change::Set(block, entry) => self.set(BlockIndex(block), entry),
            Change::Zero { start, count } => self.zero(BlockIndex(start), count),
        }
    }

    /// Applies what `change` does to blocks that `scope` touches.
    pub(crate) fn apply_change_within(&mut self, change: Change, scope: &Self) {
        match change {
            Change::Set(block, entry) => {
                if scope.get(BlockIndex(block)).is_some() {
                    self.set(BlockIndex(block), entry);
                }
            }
            Change::Zero { start, count: 0 } => debug_assert!(false, "empty range at {start}"),
            Change::Zero { start, count } => {
                let end = start + count;
                let leaves = start / LEAF_BLOCKS..=(end - 1) / LEAF_BLOCKS;
                for (leaf, patch) in scope.leaves.range(leaves) {
                    let first = leaf * LEAF_BLOCKS;
                    let within =
                        Mask::range(start.saturating_sub(first), (end - first).min(LEAF_BLOCKS));
                    let within = within.intersection(&patch.touched);
                    if !within.is_empty() {
                        self.leaves.entry(*leaf).or_default().zero(&within);
                    }
                }
            }
        }
    }

    pub(crate) fn patches(&self) -> &BTreeMap<u32, Patch> {
        &self.leaves
    }

    pub(crate) fn patch(&self, leaf: u32) -> Option<&Patch> {
        self.leaves.get(&leaf)
    }

    /// Says what the blocks of `touched` in a leaf are now.
    pub(crate) fn set_leaf(&mut self, leaf: u32, touched: Mask, entries: Leaf) {
        self.leaves.insert(leaf, Patch { touched, leaf: entries });
    }

    /// Returns the block after the last touched one; 0 if none is.
    pub(crate) fn end(&self) -> u32 {
        self.leaves.last_key_value().map_or(0, |(leaf, patch)| {
            leaf * LEAF_BLOCKS + patch.touched.iter().last().map_or(0, |index| index + 1)
        })
    }

    /// Returns every entry with its block, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        self.leaves.iter().flat_map(|(leaf, patch)| {
            patch.leaf.iter().map(move |(index, entry)| (leaf * LEAF_BLOCKS + index, entry))
        })
    }

    /// Returns the ranges of zeroes as start and count: in order, none empty, none that meet.
    pub(crate) fn zero_ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (leaf, patch) in &self.leaves {
            for index in patch.touched.minus(patch.leaf.present()).iter() {
                let block = leaf * LEAF_BLOCKS + index;
                match ranges.last_mut() {
                    Some((start, count)) if *start + *count == block => *count += 1,
                    _ => ranges.push((block, 1)),
                }
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Codec, PackId};

    fn entry(pack: u32) -> Entry {
        Entry::new(PackId(pack), 0, 10, Codec::Raw, 0).unwrap()
    }

    #[test]
    fn the_later_change_counts() {
        let mut delta = Delta::new();
        delta.set(BlockIndex(600), entry(1));
        delta.zero(BlockIndex(500), 1100);
        delta.set(BlockIndex(511), entry(2));
        assert_eq!(delta.get(BlockIndex(600)), Some(None));
        assert_eq!(delta.get(BlockIndex(511)), Some(Some(entry(2))));
        assert_eq!(delta.get(BlockIndex(499)), None);
        assert_eq!(delta.zero_ranges(), [(500, 11), (512, 1088)]);
        assert_eq!((delta.count(), delta.end()), (1100, 1600));

        let mut newer = Delta::new();
        newer.zero(BlockIndex(511), 1);
        newer.set(BlockIndex(1600), entry(3));
        delta.apply(&newer);
        assert_eq!(delta.zero_ranges(), [(500, 1100)]);
        assert_eq!(delta.entries().collect::<Vec<_>>(), [(1600, entry(3))]);
    }

    #[test]
    fn an_empty_range_touches_nothing() {
        let mut delta = Delta::new();
        delta.zero(BlockIndex(512), 0);
        assert!(delta.is_empty() && delta.blocks().next().is_none());
    }
}
