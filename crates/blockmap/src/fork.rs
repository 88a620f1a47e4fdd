//! Forks: a volume that begins as an epoch of another one.

use std::collections::BTreeSet;
use std::path::Path;

use sprite_types::{Epoch, Timestamp, VolumeId};

use crate::blob;
use crate::delta::Delta;
use crate::entry::{Pack, PackId};
use crate::error::BlockMapError;
use crate::head::HeadTable;
use crate::leaf::LEAF_BLOCKS;
use crate::map::{BlockMap, next_epoch};
use crate::packs::{self, Owners};
use crate::row::{self, Kind, Mark, Row};
use crate::schema;
use crate::tree::{LeafSet, Tree};

/// What a fork of an epoch needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForkRoot {
    /// The epoch the child begins as.
    pub epoch: Epoch,
    /// Its size in blocks.
    pub blocks: u32,
    /// When its cut was made.
    pub time: Timestamp,
    /// Whose packs the map names: below each of these prefixes goes a pin. It may be more than
    /// the epoch itself reads from.
    pub owners: Vec<VolumeId>,
}

impl BlockMap {
    /// Returns what a fork of `epoch` needs. Call it again after the pins are written: if it
    /// fails then, the pins came too late and go.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    /// - [`BlockMapError::WrongState`]: it is expiring.
    pub fn fork_root(&self, epoch: Epoch) -> Result<ForkRoot, BlockMapError> {
        let row = self.kept(epoch)?;
        let owners: BTreeSet<VolumeId> = self.owners.0.values().cloned().collect();
        let owners = owners.into_iter().collect();
        Ok(ForkRoot { epoch, blocks: row.blocks, time: row.time, owners })
    }

    /// Returns the packs that hold the blocks of `epoch`, by number. Takes time with the size
    /// of the disk.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    pub fn packs_of(&self, epoch: Epoch) -> Result<Vec<Pack>, BlockMapError> {
        let view = self.state_at(epoch)?;
        let mut ids = BTreeSet::new();
        for leaf in 0..view.blocks().div_ceil(LEAF_BLOCKS) {
            view.with_leaf(leaf, |entries| ids.extend(entries.iter().map(|(_, e)| e.pack())))?;
        }
        ids.into_iter().map(|id: PackId| self.pack(id)).collect()
    }

    /// Opens a copy of a parent's map as that of its child, whose only epoch is the state of
    /// `root`. It gets the number after `root`'s. One transaction, whose size does not follow
    /// the disk's; the parent's nodes and packs that the child does not need stay until
    /// [`BlockMap::sweep`].
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: the copy does not have it, or it was pruned.
    pub fn open_fork(path: &Path, root: Epoch, time: Timestamp) -> Result<Self, BlockMapError> {
        let map = Self::load_rows(path, schema::open(path)?)?;
        map.listed(root)?;
        let chain = map.chain(root)?;
        let base = chain[chain.len() - 1].base;
        let (top, delta) = map.fork_row(root, base, time, map.overlay(&chain, None)?)?;
        let transaction = schema::begin(&map.connection)?;
        for epoch in map.rows.keys() {
            row::delete(&transaction, *epoch)?;
        }
        top.write(&transaction, &delta)?;
        row::write_head(&transaction, top.epoch, 1, 0)?;
        schema::commit(transaction)?;
        Self::load(path, map.connection)
    }

    /// Writes a new map at `path` that has the state of `epoch`, kept or expiring, as its only
    /// epoch, with a tree and the packs it needs and nothing else. Takes time with the size of
    /// the disk. It gets the number after `epoch`'s.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    /// - [`BlockMapError::Invalid`]: there is a file at `path` already.
    pub fn create_fork(
        &self,
        path: &Path,
        epoch: Epoch,
        time: Timestamp,
    ) -> Result<Self, BlockMapError> {
        let view = self.state_at(epoch)?;
        let (mut table, mut leaves) = (HeadTable::new(view.blocks()), LeafSet::default());
        for leaf in 0..view.blocks().div_ceil(LEAF_BLOCKS) {
            table.set_leaf(leaf, view.with_leaf(leaf, Clone::clone)?);
            leaves.insert(leaf);
        }
        let ids: BTreeSet<PackId> = table.entries().map(|(_, entry)| entry.pack()).collect();
        let packs = ids.into_iter().map(|id| self.pack(id)).collect::<Result<Vec<_>, _>>()?;
        let mut empty = Tree::default();
        empty.grow(view.blocks());
        let connection = schema::create(path)?;
        let transaction = schema::begin(&connection)?;
        schema::write_tables(&transaction)?;
        packs::insert(&transaction, &mut Owners::default(), &packs)?;
        let (_, base, base_bytes) = empty.write(&transaction, &leaves, &table, None)?;
        let (mut top, bytes) = self.fork_row(epoch, base, time, Delta::new())?;
        top.base_bytes = base_bytes;
        top.write(&transaction, &bytes)?;
        row::write_head(&transaction, top.epoch, 1, 0)?;
        schema::commit(transaction)?;
        Self::load(path, connection)
    }

    /// Makes the first row of a child.
    fn fork_row(
        &self,
        root: Epoch,
        base: Option<u64>,
        time: Timestamp,
        delta: Delta,
    ) -> Result<(Row, Vec<u8>), BlockMapError> {
        let mut row = Row {
            epoch: next_epoch(root)?,
            prev: None,
            base,
            parent: Some(root),
            time,
            kind: Kind::Fork,
            mark: Mark::default(),
            expiring: None,
            replaced: 0,
            pack_next: self.head_row().pack_next,
            ..self.listed(root)?.clone()
        };
        let blob = blob::encode(&delta);
        row.describe(&blob)?;
        Ok((row, blob.bytes))
    }
}
