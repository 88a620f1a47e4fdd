//! What is still needed: the packs that any kept state can read, the nodes that any base has.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::delta::Delta;
use crate::entry::{Pack, PackId};
use crate::error::{BlockMapError, sql};
use crate::leaf::{LEAF_BLOCKS, Mask};
use crate::map::BlockMap;
use crate::packs;
use crate::schema;
use crate::tree::{self, NodeId, Tree};

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

impl BlockMap {
    /// Returns the packs that the head, a kept or an expiring epoch can read, by number: the
    /// roots of the collector. Packs of ancestors are among them.
    ///
    /// Exact, except that an inner row that several epochs build on counts with everything it
    /// names. Takes time with the size of the map.
    ///
    /// # Errors
    /// If anything in the map cannot be read. Then nothing may be collected.
    pub fn reachable_packs(&self) -> Result<Vec<Pack>, BlockMapError> {
        let mut ids = PackIds::new();
        for row in self.rows.values() {
            let mut delta = Delta::new();
            row.read_delta(&self.connection, &self.packs, |change| delta.apply_change(change))?;
            ids.extend(delta.entries().map(|(_, entry)| entry.pack().0));
        }
        // What the deltas of a base's own row hide, nobody can see.
        self.base_packs(&mut ids, true)?;
        self.packs_with(&ids)
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
                if let crate::delta::Change::Set(_, entry) = change {
                    named.insert(entry.pack().0);
                }
            })?;
        }
        let used = self.base_packs(&mut named, false)?;
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

    /// Adds the packs that the bases name, with or without what their row's delta hides, and
    /// returns every node of theirs.
    fn base_packs(
        &self,
        packs: &mut PackIds,
        visible_only: bool,
    ) -> Result<BTreeSet<NodeId>, BlockMapError> {
        let mut nodes = BTreeSet::new();
        // Most leaves are shared between bases. One that was read whole need not be again.
        let mut done = BTreeSet::new();
        for row in self.rows.values().filter(|row| row.base.is_some()) {
            let mut hidden = Delta::new();
            if visible_only {
                row.read_delta(&self.connection, &self.packs, |change| {
                    hidden.apply_change(change);
                })?;
            }
            let tree = Tree::load(&self.connection, row.base, row.epoch, row.blocks)?;
            nodes.extend(row.base);
            nodes.extend(tree.inner().iter().chain(tree.leaves()).filter(|id| **id != 0));
            for (leaf, id) in (0..).zip(tree.leaves()).filter(|(_, id)| **id != 0) {
                let hidden = hidden.patch(leaf).map_or(Mask::default(), |patch| patch.touched);
                if done.contains(id) {
                    continue;
                }
                let entries = tree::load_leaf(
                    &self.connection,
                    *id,
                    leaf,
                    row.epoch,
                    row.blocks,
                    &self.packs,
                )?;
                if hidden.is_empty() {
                    done.insert(*id);
                }
                debug_assert!(entries.present().count() <= LEAF_BLOCKS);
                let visible = entries.iter().filter(|(index, _)| !hidden.get(*index));
                packs.extend(visible.map(|(_, entry)| entry.pack().0));
            }
        }
        Ok(nodes)
    }

    fn packs_with(&self, ids: &PackIds) -> Result<Vec<Pack>, BlockMapError> {
        ids.iter().map(|id| self.pack(PackId(*id))).collect()
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
