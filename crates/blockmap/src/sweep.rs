//! What is still needed: the packs that any kept state can read, the nodes that any base has.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use sprite_types::Epoch;

use crate::delta::{Change, Delta};
use crate::entry::{Pack, PackId};
use crate::error::{BlockMapError, sql};
use crate::leaf::Mask;
use crate::map::BlockMap;
use crate::packs;
use crate::row::Row;
use crate::schema;
use crate::tree::{NodeId, Tree};

/// What a sweep removed from the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Nodes that no base has.
    pub nodes: u64,
    /// Packs that nothing in the map names.
    pub packs: u64,
}

/// How much of a pack the newest state uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PackUse {
    /// Blocks.
    pub blocks: u32,
    /// Their stored bytes.
    pub bytes: u64,
}

/// Packs by number.
type PackIds = BTreeSet<u32>;
/// Blocks by leaf.
type Masks = BTreeMap<u32, Mask>;

impl BlockMap {
    /// Returns the packs that the head, a kept or an expiring epoch can read, by number: the
    /// roots of the collector. Packs of ancestors are among them. Takes time with the size of
    /// the map.
    ///
    /// # Errors
    /// If anything in the map cannot be read. Then nothing may be collected.
    pub fn reachable_packs(&self) -> Result<Vec<Pack>, BlockMapError> {
        let mut ids = PackIds::new();
        let mut done = BTreeSet::new();
        // For inner rows: the blocks that every row above them hides, so that nobody sees what
        // they have there.
        let mut hidden: BTreeMap<Epoch, Masks> = BTreeMap::new();
        for row in self.rows.values().rev() {
            let mut above = match hidden.remove(&row.epoch) {
                Some(masks) if row.inner => masks,
                // Nothing lies on it: the next prune removes it.
                None if row.inner => continue,
                _ => Masks::new(),
            };
            let mut delta = Delta::new();
            row.read_delta(&self.connection, &self.packs, |change| delta.apply_change(change))?;
            for (leaf, patch) in delta.patches() {
                let above = above.entry(*leaf).or_default();
                let visible = patch.leaf.iter().filter(|(index, _)| !above.get(*index));
                ids.extend(visible.map(|(_, entry)| entry.pack().0));
                *above = above.union(&patch.touched);
            }
            self.base_packs(row, &above, &mut ids, &mut done)?;
            if let Some(prev) = row.prev {
                hidden
                    .entry(prev)
                    .and_modify(|masks| {
                        masks.retain(|leaf, _| above.contains_key(leaf));
                        for (leaf, mask) in masks {
                            *mask = mask.intersection(&above[leaf]);
                        }
                    })
                    .or_insert(above);
            }
        }
        ids.iter().map(|id| self.pack(PackId(*id))).collect()
    }

    /// Tells for each pack with a block in the newest state how much of it that uses.
    #[must_use]
    pub fn head_packs(&self) -> BTreeMap<PackId, PackUse> {
        let mut packs: BTreeMap<PackId, PackUse> = BTreeMap::new();
        for (_, entry) in self.entries() {
            let pack = packs.entry(entry.pack()).or_default();
            pack.blocks += 1;
            pack.bytes += u64::from(entry.len());
        }
        packs
    }

    /// Removes nodes that no base has and packs that nothing in the map names. The freed pages
    /// are used again; the file does not shrink. One transaction.
    ///
    /// # Errors
    /// If anything in the map cannot be read: then nothing is removed.
    pub fn sweep(&mut self) -> Result<Swept, BlockMapError> {
        let mut named = PackIds::new();
        for row in self.rows.values() {
            row.read_delta(&self.connection, &self.packs, |change| {
                if let Change::Set(_, entry) = change {
                    named.insert(entry.pack().0);
                }
            })?;
        }
        let (mut used, mut done) = (BTreeSet::new(), BTreeSet::new());
        for row in self.rows.values() {
            let tree = self.base_packs(row, &Masks::new(), &mut named, &mut done)?;
            used.extend(row.base);
            used.extend(tree.inner().iter().chain(tree.leaves()));
        }
        let node_ids = ids(&self.connection, "SELECT id FROM nodes")?;
        let pack_ids = ids(&self.connection, "SELECT id FROM packs")?;
        let nodes: Vec<u64> = node_ids.into_iter().filter(|id| !used.contains(id)).collect();
        let unnamed = |id: &u64| u32::try_from(*id).is_ok_and(|id| !named.contains(&id));
        let packs: Vec<u64> = pack_ids.into_iter().filter(unnamed).collect();
        let swept = Swept { nodes: nodes.len() as u64, packs: packs.len() as u64 };
        if swept == Swept::default() {
            return Ok(swept);
        }
        let transaction = schema::begin(&self.connection)?;
        delete(&transaction, "DELETE FROM nodes WHERE id = ?1", &nodes)?;
        delete(&transaction, "DELETE FROM packs WHERE id = ?1", &packs)?;
        transaction
            .execute("DELETE FROM owners WHERE id NOT IN (SELECT owner FROM packs)", [])
            .map_err(sql("sweep the block map"))?;
        let owners = packs::Owners::load(&transaction)?;
        schema::commit(transaction)?;
        self.owners = owners;
        for id in packs {
            // They were listed with numbers of 32 bits.
            self.packs.remove(PackId(id as u32));
        }
        Ok(swept)
    }

    /// Adds the packs that the base of `row` names outside of `hidden`, and returns the base.
    /// `done` has the leaves that were read as a whole for others: most are shared.
    fn base_packs(
        &self,
        row: &Row,
        hidden: &Masks,
        packs: &mut PackIds,
        done: &mut BTreeSet<NodeId>,
    ) -> Result<Tree, BlockMapError> {
        let tree = Tree::load(&self.connection, row.base, row.epoch, row.blocks)?;
        for (leaf, id) in (0..).zip(tree.leaves()).filter(|(_, id)| **id != 0) {
            if done.contains(id) {
                continue;
            }
            let entries = tree.leaf(&self.connection, leaf, row.epoch, row.blocks, &self.packs)?;
            let hidden = hidden.get(&leaf).copied().unwrap_or_default();
            if hidden.is_empty() {
                done.insert(*id);
            }
            let visible = entries.iter().filter(|(index, _)| !hidden.get(*index));
            packs.extend(visible.map(|(_, entry)| entry.pack().0));
        }
        Ok(tree)
    }
}

fn ids(connection: &Connection, query: &str) -> Result<Vec<u64>, BlockMapError> {
    let failed = sql("list what is in the block map");
    let mut statement = connection.prepare(query).map_err(&failed)?;
    let ids = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
    ids.collect::<Result<_, _>>().map_err(&failed)
}

fn delete(connection: &Connection, statement: &str, ids: &[u64]) -> Result<(), BlockMapError> {
    let mut statement = connection.prepare(statement).map_err(sql("sweep the block map"))?;
    for id in ids {
        statement.execute([id]).map_err(sql("sweep the block map"))?;
    }
    Ok(())
}
