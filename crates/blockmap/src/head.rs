//! The newest state, in memory: what every read and write of the disk looks at.

use crate::delta::{Change, Delta};
use crate::entry::Entry;
use crate::leaf::{LEAF_BLOCKS, Leaf, Mask};

/// The leaves that have an entry.
///
/// Memory: 16 bytes for a mapped block (up to 18 while a leaf fills), 104 for each 32 MiB that
/// has one, 8 for each that has none. A fully mapped 100 GiB disk takes 26.5 MB.
#[derive(Default)]
pub(crate) struct HeadTable {
    // Boxed, so that a leaf without entries costs one word.
    leaves: Vec<Option<Box<Leaf>>>,
}

impl HeadTable {
    pub(crate) fn new(blocks: u32) -> Self {
        let mut table = Self::default();
        table.grow(blocks);
        table
    }

    /// Makes room for `blocks` blocks; the new ones have no entry.
    pub(crate) fn grow(&mut self, blocks: u32) {
        let leaves = blocks.div_ceil(LEAF_BLOCKS) as usize;
        if leaves > self.leaves.len() {
            self.leaves.reserve_exact(leaves - self.leaves.len());
            self.leaves.resize_with(leaves, || None);
        }
    }

    pub(crate) fn get(&self, block: u32) -> Option<Entry> {
        self.leaf(block / LEAF_BLOCKS)?.get(block % LEAF_BLOCKS)
    }

    pub(crate) fn leaf(&self, leaf: u32) -> Option<&Leaf> {
        self.leaves.get(leaf as usize)?.as_deref()
    }

    /// Replaces a whole leaf.
    pub(crate) fn set_leaf(&mut self, leaf: u32, entries: Leaf) {
        if let Some(slot) = self.leaves.get_mut(leaf as usize) {
            *slot = (!entries.is_empty()).then(|| Box::new(entries));
        }
    }

    pub(crate) fn apply(&mut self, delta: &Delta) {
        for (leaf, patch) in delta.patches() {
            self.apply_patch(*leaf, &patch.touched, &patch.leaf);
        }
    }

    fn apply_patch(&mut self, leaf: u32, touched: &Mask, newer: &Leaf) {
        let Some(slot) = self.leaves.get_mut(leaf as usize) else { return };
        match slot {
            Some(entries) => entries.overlay(touched, newer),
            None => *slot = Some(Box::new(newer.clone())),
        }
        slot.take_if(|entries| entries.is_empty());
    }

    /// Applies one change of a delta that is being read.
    pub(crate) fn apply_change(&mut self, change: Change) {
        match change {
            Change::Set(block, entry) => {
                if let Some(slot) = self.leaves.get_mut((block / LEAF_BLOCKS) as usize) {
                    slot.get_or_insert_default().set(block % LEAF_BLOCKS, entry);
                }
            }
            Change::Zero { .. } => {
                let mut delta = Delta::new();
                delta.apply_change(change);
                self.apply(&delta);
            }
        }
    }

    /// Returns every entry with its block, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        (0..).zip(&self.leaves).filter_map(|(at, leaf)| Some((at, leaf.as_deref()?))).flat_map(
            |(at, leaf): (u32, &Leaf)| {
                leaf.iter().map(move |(index, entry)| (at * LEAF_BLOCKS + index, entry))
            },
        )
    }

    /// Bytes of memory, without what the allocator adds to each leaf (16 bytes or so).
    pub(crate) fn memory(&self) -> usize {
        let leaves: usize = self.leaves.iter().flatten().map(|leaf| leaf.memory()).sum();
        leaves + self.leaves.capacity() * size_of::<Option<Box<Leaf>>>()
    }
}
