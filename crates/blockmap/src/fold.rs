//! Folding: what the deltas have gathered becomes a new base.

use crate::blob;
use crate::delta::{Change, Delta};
use crate::error::BlockMapError;
use crate::leaf::LEAF_BLOCKS;
use crate::map::BlockMap;
use crate::row::Row;
use crate::schema;
use crate::tree::LeafSet;

/// No fold is due before this many changes have gathered.
pub const FOLD_CHANGES_MIN: u64 = 64 << 10;
/// A fold is due at this many changes, whatever it costs.
pub const FOLD_CHANGES_MAX: u64 = 1 << 20;
/// Bytes of a full leaf, and of an entry in a delta.
const LEAF_BYTES: u64 = LEAF_BLOCKS as u64 * 16;
const CHANGE_BYTES: u64 = 20;

impl BlockMap {
    /// Tells whether the deltas have gathered enough that a fold pays.
    ///
    /// That is: 64 Ki changes or more, and the leaves to write are not larger than what the
    /// deltas took. So folds at most double what epochs write, also when writes are scattered
    /// over a full disk and a fold rewrites nearly every leaf.
    ///
    /// # Errors
    /// If the deltas have to be read again and cannot be.
    pub fn fold_due(&mut self) -> Result<bool, BlockMapError> {
        if self.gathered < FOLD_CHANGES_MIN {
            return Ok(false);
        }
        if self.gathered >= FOLD_CHANGES_MAX {
            return Ok(true);
        }
        let leaves = self.changed()?.count() as u64;
        Ok(leaves * LEAF_BYTES <= self.gathered * CHANGE_BYTES)
    }

    /// Writes the head as a tree, sharing every leaf that did not change since its base, and
    /// drops the head's delta. No state changes. One transaction, or none if there is nothing
    /// to fold.
    ///
    /// # Errors
    /// If the deltas have to be read again and cannot be, or on a full file system.
    pub fn fold(&mut self) -> Result<(), BlockMapError> {
        let chain = self.chain(self.head())?;
        if chain.len() == 1 && chain[0].changes == 0 {
            return Ok(());
        }
        let root = chain.last().and_then(|row| row.base);
        let changed = self.changed()?.clone();
        let transaction = schema::begin(&self.connection)?;
        let (tree, base, bytes) = self.tree.write(&transaction, &changed, &self.head, root)?;
        let mut row = Row { prev: None, base, base_bytes: bytes, ..self.head_row().clone() };
        let delta = blob::encode(&Delta::new());
        row.describe(&delta)?;
        row.write(&transaction, &delta.bytes)?;
        schema::commit(transaction)?;

        self.tree = tree;
        self.changed = Some(LeafSet::default());
        self.gathered = 0;
        self.rows.insert(row.epoch, row);
        Ok(())
    }

    /// Returns which leaves differ from the head's base.
    fn changed(&mut self) -> Result<&LeafSet, BlockMapError> {
        if self.changed.is_none() {
            let mut changed = LeafSet::default();
            for row in self.chain(self.head())? {
                row.read_delta(&self.connection, &self.packs, |change| match change {
                    Change::Set(block, _) => changed.insert(block / LEAF_BLOCKS),
                    Change::Zero { start, count } => {
                        let last = (start + count - 1) / LEAF_BLOCKS;
                        (start / LEAF_BLOCKS..=last).for_each(|leaf| changed.insert(leaf));
                    }
                })?;
            }
            self.changed = Some(changed);
        }
        Ok(self.changed.as_ref().expect("was just found out"))
    }
}
