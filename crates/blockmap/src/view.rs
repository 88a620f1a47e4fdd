//! The state of any kept epoch, read only, and what differs between two.

use std::cell::RefCell;
use std::collections::BTreeSet;

use sprite_types::{BlockIndex, Epoch};

use crate::delta::Delta;
use crate::entry::Entry;
use crate::error::BlockMapError;
use crate::leaf::{LEAF_BLOCKS, Leaf, Mask};
use crate::map::BlockMap;
use crate::row::Row;
use crate::tree::Tree;

/// The disk as it was at an epoch. Holds the deltas in memory and reads leaves as needed.
pub struct StateView<'a> {
    map: &'a BlockMap,
    row: &'a Row,
    /// The epoch that has the base: what a damaged leaf is reported for.
    base: &'a Row,
    tree: Tree,
    overlay: Delta,
    /// The last leaf that was put together.
    cache: RefCell<Option<(u32, Leaf)>>,
}

impl BlockMap {
    /// Opens the state of an epoch that is kept or still expiring.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    pub fn state_at(&self, epoch: Epoch) -> Result<StateView<'_>, BlockMapError> {
        self.listed(epoch)?;
        self.view(epoch)
    }

    pub(crate) fn view(&self, epoch: Epoch) -> Result<StateView<'_>, BlockMapError> {
        let chain = self.chain(epoch)?;
        let (row, base) = (chain[0], chain[chain.len() - 1]);
        let tree = Tree::load(&self.connection, base.base, base.epoch, base.blocks)?;
        let overlay = self.overlay(&chain, None)?;
        Ok(StateView { map: self, row, base, tree, overlay, cache: RefCell::new(None) })
    }

    /// Returns the blocks whose entries differ between two epochs, in order.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: one of them is not there, or was pruned.
    pub fn diff(&self, from: Epoch, to: Epoch) -> Result<Vec<BlockIndex>, BlockMapError> {
        self.listed(from)?;
        self.listed(to)?;
        Ok(self.difference(from, to)?.blocks().collect())
    }

    /// Returns the row of an epoch that was not pruned.
    pub(crate) fn listed(&self, epoch: Epoch) -> Result<&Row, BlockMapError> {
        let row = self.rows.get(&epoch).filter(|row| !row.inner);
        row.ok_or(BlockMapError::NoSuchEpoch { epoch })
    }

    /// Puts the deltas of `chain`, newest first, into one, as far as they are in `scope`.
    pub(crate) fn overlay(
        &self,
        chain: &[&Row],
        scope: Option<&Delta>,
    ) -> Result<Delta, BlockMapError> {
        let mut overlay = Delta::new();
        for row in chain.iter().rev() {
            row.read_delta(&self.connection, &self.packs, |change| match scope {
                None => overlay.apply_change(change),
                Some(scope) => overlay.apply_change_within(change, scope),
            })?;
        }
        Ok(overlay)
    }

    /// Returns what turns the state of `from` into that of `to`, and nothing else.
    ///
    /// Looks at the deltas above what both share and, if their bases differ, at the leaves that
    /// differ: the cost follows the changes, not the disk.
    pub(crate) fn difference(&self, from: Epoch, to: Epoch) -> Result<Delta, BlockMapError> {
        let (mut old, mut new) = (self.chain(from)?, self.chain(to)?);
        let bases = [old[old.len() - 1], new[new.len() - 1]];
        let mut common = Vec::new();
        while let (Some(a), Some(b)) = (old.last(), new.last())
            && a.epoch == b.epoch
        {
            common.push(*a);
            old.pop();
            new.pop();
        }
        common.reverse();
        let (old, new) = (self.overlay(&old, None)?, self.overlay(&new, None)?);
        let mut scope = old.clone();
        scope.apply(&new);
        let under = self.overlay(&common, Some(&scope))?;
        let trees = [
            Tree::load(&self.connection, bases[0].base, bases[0].epoch, bases[0].blocks)?,
            Tree::load(&self.connection, bases[1].base, bases[1].epoch, bases[1].blocks)?,
        ];
        let mut leaves: BTreeSet<u32> = scope.patches().keys().copied().collect();
        if common.is_empty() {
            let count = trees.each_ref().map(|tree| tree.leaves().len()).into_iter().max();
            let count = count.unwrap_or(0) as u32;
            leaves.extend((0..count).filter(|i| trees[0].leaf_id(*i) != trees[1].leaf_id(*i)));
        }
        let mut difference = Delta::new();
        for leaf in leaves {
            let base = |side: usize| {
                let row = bases[side];
                trees[side].leaf(&self.connection, leaf, row.epoch, row.blocks, &self.packs)
            };
            let onto = |mut entries: Leaf, overlays: [&Delta; 2]| {
                for patch in overlays.into_iter().filter_map(|overlay| overlay.patch(leaf)) {
                    entries.overlay(&patch.touched, &patch.leaf);
                }
                entries
            };
            let of_new = base(1)?;
            let a = if from == self.head() {
                // It is in memory: half of the reading is saved.
                self.head.leaf(leaf).cloned().unwrap_or_default()
            } else if trees[0].leaf_id(leaf) == trees[1].leaf_id(leaf) {
                onto(of_new.clone(), [&under, &old])
            } else {
                onto(base(0)?, [&under, &old])
            };
            let b = onto(of_new, [&under, &new]);
            // Without a common epoch nothing below is shared: every block of the leaf counts.
            // With one, blocks outside the scope have the same entry on both sides unread.
            let scope = match scope.patch(leaf) {
                Some(patch) if !common.is_empty() => patch.touched,
                _ => Mask::all(),
            };
            let (touched, entries) = differing(&a, &b, &scope);
            if !touched.is_empty() {
                difference.set_leaf(leaf, touched, entries);
            }
        }
        Ok(difference)
    }
}

/// Returns where two leaves differ within `scope`, and what `new` has there.
fn differing(old: &Leaf, new: &Leaf, scope: &Mask) -> (Mask, Leaf) {
    let (mut touched, mut entries) = (Mask::default(), Leaf::default());
    if old == new {
        return (touched, entries);
    }
    let mut differs = |index, entry: Option<Entry>| {
        if scope.get(index) {
            touched.insert(index);
            if let Some(entry) = entry {
                entries.set(index, entry);
            }
        }
    };
    if old.present() == new.present() {
        // Most leaves of a full disk.
        for ((index, a), b) in old.iter().zip(new.entries()) {
            if a != *b {
                differs(index, Some(*b));
            }
        }
    } else {
        for index in old.present().union(new.present()).iter() {
            let entry = new.get(index);
            if old.get(index) != entry {
                differs(index, entry);
            }
        }
    }
    (touched, entries)
}

impl StateView<'_> {
    /// Returns which epoch this is.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.row.epoch
    }

    /// Returns the size of the disk then, in blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.row.blocks
    }

    /// Returns where `block` was; `None` if it read as zeroes.
    ///
    /// # Errors
    /// If a leaf is missing or damaged.
    pub fn lookup(&self, block: BlockIndex) -> Result<Option<Entry>, BlockMapError> {
        let index = block.0 % LEAF_BLOCKS;
        if let Some(found) = self.overlay.get(block) {
            return Ok(found);
        }
        self.with_leaf(block.0 / LEAF_BLOCKS, |leaf| leaf.get(index))
    }

    /// Returns every block that has an entry, in order, and ends after the first error.
    pub fn entries(&self) -> impl Iterator<Item = Result<(BlockIndex, Entry), BlockMapError>> + '_ {
        let mut failed = false;
        (0..self.row.blocks.div_ceil(LEAF_BLOCKS)).flat_map(move |leaf| {
            let found = match self.with_leaf(leaf, Clone::clone) {
                _ if failed => Vec::new(),
                Ok(entries) => entries
                    .iter()
                    .map(|(index, entry)| Ok((BlockIndex(leaf * LEAF_BLOCKS + index), entry)))
                    .collect(),
                Err(error) => {
                    failed = true;
                    vec![Err(error)]
                }
            };
            found.into_iter()
        })
    }

    pub(crate) fn with_leaf<T>(
        &self,
        leaf: u32,
        read: impl FnOnce(&Leaf) -> T,
    ) -> Result<T, BlockMapError> {
        let mut cache = self.cache.borrow_mut();
        match &*cache {
            Some((cached, entries)) if *cached == leaf => Ok(read(entries)),
            _ => {
                let Self { map, base, .. } = self;
                let mut entries =
                    self.tree.leaf(&map.connection, leaf, base.epoch, base.blocks, &map.packs)?;
                if let Some(patch) = self.overlay.patch(leaf) {
                    entries.overlay(&patch.touched, &patch.leaf);
                }
                let result = read(&entries);
                *cache = Some((leaf, entries));
                Ok(result)
            }
        }
    }
}
