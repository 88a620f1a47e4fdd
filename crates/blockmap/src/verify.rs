//! Reads everything and says what is damaged.

use std::collections::BTreeSet;

use crate::error::{BlockMapError, Corrupt, sql};
use crate::leaf::LEAF_BLOCKS;
use crate::map::BlockMap;
use crate::packs;
use crate::tree::Tree;

impl BlockMap {
    /// Reads every page, pack, delta and node that a state is made of, and compares the newest with the one in memory.
    /// Returns each damage found, with the epoch and the block; nothing if the map is whole.
    ///
    /// # Errors
    /// If the file could not be read at all.
    pub fn verify(&self) -> Result<Vec<Corrupt>, BlockMapError> {
        let mut damages = Vec::new();
        self.verify_pages(&mut damages)?;
        note(packs::for_each(&self.connection, &self.owners, |_| ()), &mut damages)?;
        let mut seen = BTreeSet::new();
        for row in self.rows.values() {
            note(row.read_delta(&self.connection, &self.packs, |_| ()), &mut damages)?;
            let tree = match Tree::load(&self.connection, row.base, row.epoch, row.blocks) {
                Ok(tree) => tree,
                Err(error) => {
                    note(Err(error), &mut damages)?;
                    continue;
                }
            };
            for (leaf, id) in (0..).zip(tree.leaves()).filter(|(_, id)| **id != 0) {
                if seen.insert(*id) {
                    let read =
                        tree.leaf(&self.connection, leaf, row.epoch, row.blocks, &self.packs);
                    note(read.map(drop), &mut damages)?;
                }
            }
        }
        if damages.is_empty() {
            self.verify_head(&mut damages)?;
        }
        Ok(damages)
    }

    fn verify_head(&self, damages: &mut Vec<Corrupt>) -> Result<(), BlockMapError> {
        let stored = self.load_head()?;
        for leaf in 0..self.blocks().div_ceil(LEAF_BLOCKS) {
            if stored.leaf(leaf) != self.head.leaf(leaf) {
                let differs = Corrupt::new("the file differs from the state in memory");
                damages.push(differs.at(self.head()).block(leaf * LEAF_BLOCKS));
            }
        }
        Ok(())
    }

    fn verify_pages(&self, damages: &mut Vec<Corrupt>) -> Result<(), BlockMapError> {
        let verdict = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
            .map_err(sql("check the pages of the block map"));
        match verdict {
            Ok(verdict) if verdict == "ok" => Ok(()),
            Ok(verdict) => {
                damages.push(Corrupt::new(verdict));
                Ok(())
            }
            Err(error) => note(Err(error), damages),
        }
    }
}

/// Adds a damage to the list; other errors go on.
fn note(
    result: Result<(), BlockMapError>,
    damages: &mut Vec<Corrupt>,
) -> Result<(), BlockMapError> {
    match result {
        Err(BlockMapError::Corrupt(corrupt)) => {
            damages.push(corrupt);
            Ok(())
        }
        other => other,
    }
}
