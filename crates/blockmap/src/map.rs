//! The block map: open it, ask where a block is, add epochs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sprite_types::{BlockIndex, Epoch, Timestamp};

use crate::blob;
use crate::delta::Delta;
use crate::entry::{BLOCKS_MAX, Entry, Pack, PackId};
use crate::error::{BlockMapError, Corrupt, sql};
use crate::head::HeadTable;
use crate::packs::{self, Owners, PackSizes};
use crate::row::{self, Kind, Mark, Row};
use crate::schema;
use crate::tree::{LeafSet, Tree};

/// Which pack holds each block of a disk, now and at every kept moment.
///
/// Belongs to one thread. Every method that changes something is one transaction; one that fails
/// changes nothing, in the file or in memory.
pub struct BlockMap {
    pub(crate) path: PathBuf,
    pub(crate) connection: Connection,
    /// Every row; the last is the head.
    pub(crate) rows: BTreeMap<Epoch, Row>,
    pub(crate) head: HeadTable,
    pub(crate) packs: PackSizes,
    pub(crate) owners: Owners,
    /// The base of the head.
    pub(crate) tree: Tree,
    /// Leaves that differ between that base and the head, as far as known.
    pub(crate) changed: Option<LeafSet>,
    /// Changes in the deltas between that base and the head.
    pub(crate) gathered: u64,
    /// The next pack number, counted in memory.
    pack_next: u32,
}

/// One sealed, uploaded cut of the disk, to be committed.
#[derive(Clone, Debug, Default)]
pub struct EpochCommit {
    /// When the cut was made, by the host's clock.
    pub time: Option<Timestamp>,
    /// What people see of it.
    pub mark: Mark,
    /// What it changes.
    pub delta: Delta,
    /// The packs that were written for it, numbered with [`BlockMap::allocate_pack`].
    pub packs: Vec<Pack>,
}

/// One block that a merge moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which.
    pub block: BlockIndex,
    /// Where the merge read it.
    pub from: Entry,
    /// Where it is as well now.
    pub to: Entry,
}

/// What a new row is made of.
pub(crate) struct NewRow {
    pub(crate) kind: Kind,
    pub(crate) prev: Option<Epoch>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) mark: Mark,
    pub(crate) blocks: u32,
    pub(crate) replaced: u64,
}

impl BlockMap {
    /// Makes the map of a new disk of `blocks` blocks without content. Epoch 1 is its creation.
    ///
    /// # Errors
    /// If there is a file at `path` already, or it cannot be written.
    pub fn create(path: &Path, blocks: u32, time: Timestamp) -> Result<Self, BlockMapError> {
        let mut first = Row {
            epoch: Epoch(1),
            prev: None,
            base: None,
            parent: None,
            time,
            kind: Kind::Create,
            mark: Mark::default(),
            inner: false,
            expiring: None,
            blocks: check_blocks(blocks)?,
            pack_next: 1,
            replaced: 0,
            base_bytes: 0,
            changes: 0,
            delta_len: 0,
            delta_check: 0,
        };
        let connection = schema::create(path)?;
        let transaction = schema::begin(&connection)?;
        schema::write_tables(&transaction)?;
        let delta = blob::encode(&Delta::new());
        first.describe(&delta)?;
        first.write(&transaction, &delta.bytes)?;
        row::write_head(&transaction, first.epoch, 1, 0)?;
        schema::commit(transaction)?;
        Self::load(path, connection)
    }

    /// Opens a map and reads the head into memory.
    ///
    /// # Errors
    /// - [`BlockMapError::InUse`]: somebody else has it open.
    /// - [`BlockMapError::Corrupt`]: delete it and fetch it anew.
    pub fn open(path: &Path) -> Result<Self, BlockMapError> {
        Self::load(path, schema::open(path)?)
    }

    pub(crate) fn load(path: &Path, connection: Connection) -> Result<Self, BlockMapError> {
        let mut map = Self::load_rows(path, connection)?;
        map.head = map.load_head()?;
        (map.tree, map.gathered) = map.base_of(map.head(), map.blocks())?;
        Ok(map)
    }

    /// Reads everything but the head.
    pub(crate) fn load_rows(path: &Path, connection: Connection) -> Result<Self, BlockMapError> {
        let rows = check_rows(row::load(&connection)?)?;
        let owners = Owners::load(&connection)?;
        let mut packs = PackSizes::default();
        let mut pack_next = rows.last_key_value().map_or(1, |(_, head)| head.pack_next);
        packs::for_each(&connection, &owners, |pack| {
            packs.insert(pack.id, pack.bytes);
            pack_next = pack_next.max(pack.id.0.saturating_add(1));
        })?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            rows,
            head: HeadTable::default(),
            packs,
            owners,
            tree: Tree::default(),
            changed: None,
            gathered: 0,
            pack_next,
        })
    }

    /// Reads the state of the head from the file.
    pub(crate) fn load_head(&self) -> Result<HeadTable, BlockMapError> {
        let blocks = self.blocks();
        let mut head = HeadTable::new(blocks);
        let chain = self.chain(self.head())?;
        let base = chain.last().expect("a chain has its own epoch");
        let tree = Tree::load(&self.connection, base.base, base.epoch, base.blocks)?;
        for (leaf, id) in (0..).zip(tree.leaves()) {
            if *id != 0 {
                let entries =
                    tree.leaf(&self.connection, leaf, base.epoch, base.blocks, &self.packs)?;
                head.set_leaf(leaf, entries);
            }
        }
        for row in chain.iter().rev() {
            row.read_delta(&self.connection, &self.packs, |change| head.apply_change(change))?;
        }
        Ok(head)
    }

    /// Returns the base of the state of `epoch`, for a disk of `blocks` blocks, and how many
    /// changes lie on it.
    pub(crate) fn base_of(&self, epoch: Epoch, blocks: u32) -> Result<(Tree, u64), BlockMapError> {
        let chain = self.chain(epoch)?;
        let base = chain[chain.len() - 1];
        let mut tree = Tree::load(&self.connection, base.base, base.epoch, base.blocks)?;
        tree.grow(blocks);
        Ok((tree, chain.iter().map(|row| u64::from(row.changes)).sum()))
    }

    /// Returns where the database is. It is in WAL mode with a page size of 4096; the WAL is
    /// beside it with `-wal` appended, holds one transaction for each successful call that
    /// changes something, and is emptied by [`BlockMap::truncate_wal`] only.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lends the connection to whoever follows the WAL and has to be the one that empties it.
    /// Not for anything else: the map would not notice.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Moves every transaction from the WAL into the database and empties the WAL.
    pub fn truncate_wal(&mut self) -> Result<(), BlockMapError> {
        let failed = sql("empty the WAL of the block map");
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(&failed)?;
        match busy {
            0 => Ok(()),
            _ => Err(BlockMapError::InUse { path: self.path.clone() }),
        }
    }

    /// Returns the newest epoch.
    #[must_use]
    pub fn head(&self) -> Epoch {
        *self.rows.last_key_value().expect("a map has an epoch").0
    }

    /// Returns the size of the disk in blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.head_row().blocks
    }

    /// Returns where `block` is in the newest state; `None` if it reads as zeroes.
    #[must_use]
    pub fn lookup(&self, block: BlockIndex) -> Option<Entry> {
        self.head.get(block.0)
    }

    /// Returns every block of the newest state that has an entry, in order.
    pub fn entries(&self) -> impl Iterator<Item = (BlockIndex, Entry)> + '_ {
        self.head.entries().map(|(block, entry)| (BlockIndex(block), entry))
    }

    /// Returns the bytes of memory that the newest state takes.
    #[must_use]
    pub fn head_memory(&self) -> usize {
        self.head.memory()
    }

    /// Returns a pack.
    ///
    /// # Errors
    /// - [`BlockMapError::Corrupt`]: no epoch can have an entry in a pack with this number.
    pub fn pack(&self, id: PackId) -> Result<Pack, BlockMapError> {
        packs::get(&self.connection, &self.owners, id)?
            .ok_or_else(|| Corrupt::new(format!("pack {} is missing", id.0)).into())
    }

    /// Returns a number for a new pack. One that is never committed leaves a gap.
    ///
    /// # Errors
    /// After 2^32 packs.
    pub fn allocate_pack(&mut self) -> Result<PackId, BlockMapError> {
        let id = self.pack_next;
        self.pack_next = id
            .checked_add(1)
            .ok_or_else(|| BlockMapError::invalid("this map has no pack numbers left"))?;
        Ok(PackId(id))
    }

    /// Adds an epoch: the head and what `commit` changes. One transaction.
    ///
    /// # Errors
    /// - [`BlockMapError::Invalid`]: a block beyond the disk, an entry outside a known pack, or
    ///   a pack whose number was not allocated.
    pub fn commit(&mut self, commit: EpochCommit) -> Result<Epoch, BlockMapError> {
        let EpochCommit { time, mark, delta, packs } = commit;
        let new = self.new_row(Kind::Seal, time, mark, self.replaced_by(&delta));
        self.append(new, delta, &packs)
    }

    /// Makes a checkpoint of the newest state: one row, whatever the size of the disk. A
    /// checkpoint that comes with writes is a [`BlockMap::commit`] with that mark.
    pub fn checkpoint(
        &mut self,
        time: Option<Timestamp>,
        mark: Mark,
    ) -> Result<Epoch, BlockMapError> {
        self.commit(EpochCommit { time, mark, ..EpochCommit::default() })
    }

    /// Adds an epoch with the same content, some of whose blocks are in other packs.
    ///
    /// # Errors
    /// - [`BlockMapError::ContentWouldChange`]: a block is not where it was read any more, or
    ///   its stored bytes are others there: length, codec or checksum differ.
    /// - [`BlockMapError::Invalid`]: as with [`BlockMap::commit`].
    pub fn merge(
        &mut self,
        time: Option<Timestamp>,
        moves: &[Move],
        packs: &[Pack],
    ) -> Result<Epoch, BlockMapError> {
        let mut delta = Delta::new();
        for Move { block, from, to } in moves {
            if self.lookup(*block) != Some(*from) || !from.same_bytes(to) {
                return Err(BlockMapError::ContentWouldChange { block: *block });
            }
            delta.set(*block, *to);
        }
        let replaced = self.replaced_by(&delta);
        self.append(self.new_row(Kind::Merge, time, Mark::default(), replaced), delta, packs)
    }

    /// Adds an epoch with the same content on a disk of `blocks` blocks. Older epochs keep their
    /// size; a restored one gets the new size.
    ///
    /// # Errors
    /// If that is fewer than now.
    pub fn grow(&mut self, time: Option<Timestamp>, blocks: u32) -> Result<Epoch, BlockMapError> {
        if check_blocks(blocks)? < self.blocks() {
            return Err(BlockMapError::invalid(format!(
                "a disk of {} blocks cannot shrink to {blocks}",
                self.blocks()
            )));
        }
        let new = NewRow { blocks, ..self.new_row(Kind::Grow, time, Mark::default(), 0) };
        self.append(new, Delta::new(), &[])
    }

    pub(crate) fn new_row(
        &self,
        kind: Kind,
        time: Option<Timestamp>,
        mark: Mark,
        replaced: u64,
    ) -> NewRow {
        let prev = Some(self.head());
        NewRow { kind, prev, time, mark, blocks: self.blocks(), replaced }
    }

    /// Writes a row as the new head, and its packs.
    pub(crate) fn append(
        &mut self,
        new: NewRow,
        delta: Delta,
        packs: &[Pack],
    ) -> Result<Epoch, BlockMapError> {
        new.mark.check()?;
        let sizes = self.check_packs(packs)?;
        self.check_delta(&delta, new.blocks, &sizes)?;
        let head = self.head_row();
        let highest = packs.iter().map(|pack| pack.id.0).max().unwrap_or(0);
        let mut row = Row {
            epoch: next_epoch(head.epoch)?,
            prev: new.prev,
            base: None,
            parent: new.prev,
            // A clock that was set back must not make a later epoch look older.
            time: new.time.map_or(head.time, |time| time.max(head.time)),
            kind: new.kind,
            mark: new.mark,
            inner: false,
            expiring: None,
            blocks: new.blocks,
            pack_next: head.pack_next.max(highest.saturating_add(1)),
            replaced: new.replaced,
            base_bytes: 0,
            changes: 0,
            delta_len: 0,
            delta_check: 0,
        };
        let blob = blob::encode(&delta);
        row.describe(&blob)?;
        let mut owners = self.owners.clone();
        let transaction = schema::begin(&self.connection)?;
        packs::insert(&transaction, &mut owners, packs)?;
        row.write(&transaction, &blob.bytes)?;
        row::write_head(&transaction, row.epoch, self.rows.len() + 1, self.marked())?;
        schema::commit(transaction)?;

        self.owners = owners;
        for (id, bytes) in sizes {
            self.packs.insert(id, bytes);
        }
        self.head.grow(row.blocks);
        self.tree.grow(row.blocks);
        self.head.apply(&delta);
        self.gathered += u64::from(row.changes);
        if let Some(changed) = &mut self.changed {
            delta.patches().keys().for_each(|leaf| changed.insert(*leaf));
        }
        let epoch = row.epoch;
        self.rows.insert(epoch, row);
        Ok(epoch)
    }

    fn check_packs(&self, packs: &[Pack]) -> Result<BTreeMap<PackId, u32>, BlockMapError> {
        let mut sizes = BTreeMap::new();
        for pack in packs {
            pack.check().map_err(BlockMapError::invalid)?;
            let id = pack.id;
            if id.0 >= self.pack_next {
                return Err(BlockMapError::invalid(format!("pack {} was not allocated", id.0)));
            }
            if self.packs.get(id).is_some() || sizes.insert(id, pack.bytes).is_some() {
                return Err(BlockMapError::invalid(format!("pack {} exists already", id.0)));
            }
        }
        Ok(sizes)
    }

    fn check_delta(
        &self,
        delta: &Delta,
        blocks: u32,
        new: &BTreeMap<PackId, u32>,
    ) -> Result<(), BlockMapError> {
        if delta.end() > blocks {
            let reason = format!("block {} on a disk of {blocks} blocks", delta.end() - 1);
            return Err(BlockMapError::invalid(reason));
        }
        for (block, entry) in delta.entries() {
            let inside = match new.get(&entry.pack()) {
                Some(bytes) if entry.end() <= u64::from(*bytes) => Ok(()),
                Some(bytes) => Err(format!("an entry beyond its pack of {bytes} bytes")),
                None => self.packs.check(&entry),
            };
            inside.map_err(|reason| {
                BlockMapError::invalid(format!("block {block} would have {reason}"))
            })?;
        }
        Ok(())
    }

    /// Sums the stored bytes of the head's blocks that `delta` touches.
    fn replaced_by(&self, delta: &Delta) -> u64 {
        let mut bytes = 0;
        for (leaf, patch) in delta.patches() {
            if let Some(entries) = self.head.leaf(*leaf) {
                let both = patch.touched.intersection(entries.present());
                let old = both.iter().filter_map(|index| entries.get(index));
                bytes += old.map(|entry| u64::from(entry.len())).sum::<u64>();
            }
        }
        bytes
    }

    /// Counts the rows that are expiring or inner.
    pub(crate) fn marked(&self) -> usize {
        self.rows.values().filter(|row| row.is_marked()).count()
    }

    pub(crate) fn head_row(&self) -> &Row {
        self.rows.last_key_value().expect("a map has an epoch").1
    }

    /// Returns the rows whose deltas make up the state of `epoch`, from it down to the one that
    /// has the base.
    pub(crate) fn chain(&self, epoch: Epoch) -> Result<Vec<&Row>, BlockMapError> {
        let mut chain = Vec::new();
        let mut next = Some(epoch);
        while let Some(epoch) = next {
            // `prev` was checked to be there and lower when the rows were read.
            let row = self.rows.get(&epoch).ok_or(BlockMapError::NoSuchEpoch { epoch })?;
            next = row.prev;
            chain.push(row);
        }
        Ok(chain)
    }
}

pub(crate) fn next_epoch(epoch: Epoch) -> Result<Epoch, BlockMapError> {
    match epoch.0.checked_add(1) {
        Some(next) if i64::try_from(next).is_ok() => Ok(Epoch(next)),
        _ => Err(BlockMapError::invalid("this map has no epoch numbers left")),
    }
}

fn check_blocks(blocks: u32) -> Result<u32, BlockMapError> {
    if blocks == 0 || blocks > BLOCKS_MAX {
        return Err(BlockMapError::invalid(format!(
            "a disk of {blocks} blocks; 1 to {BLOCKS_MAX} are possible"
        )));
    }
    Ok(blocks)
}

/// Checks that every state can be put together from the rows.
fn check_rows(rows: Vec<Row>) -> Result<BTreeMap<Epoch, Row>, BlockMapError> {
    let rows: BTreeMap<Epoch, Row> = rows.into_iter().map(|row| (row.epoch, row)).collect();
    for row in rows.values() {
        let damaged = |reason: &str| Err(Corrupt::new(reason).at(row.epoch).into());
        if row.prev.is_some() && row.base.is_some() {
            return damaged("has both a base and an epoch below it");
        }
        if let Some(prev) = row.prev {
            match rows.get(&prev) {
                Some(below) if below.epoch < row.epoch && below.blocks <= row.blocks => {}
                Some(_) => return damaged("lies on an epoch that cannot be below it"),
                None => return damaged("lies on an epoch that is missing"),
            }
        }
    }
    match rows.last_key_value() {
        None => Err(Corrupt::new("there is no epoch").into()),
        Some((epoch, head)) if head.inner || head.expiring.is_some() => {
            Err(Corrupt::new("is the head but not kept").at(*epoch).into())
        }
        Some(_) => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread of its own may be given the map.
    #[test]
    fn a_map_can_move_to_another_thread() {
        fn check<T: Send>() {}
        check::<BlockMap>();
    }

    /// A full file system refuses the transaction; the map stays as it was and goes on once
    /// there is room.
    #[test]
    fn without_room_nothing_changes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("map.db");
        let mut map = BlockMap::create(&path, 5000, Timestamp::from_micros(0)).unwrap();
        let commit = |map: &mut BlockMap| {
            let id = map.allocate_pack().unwrap();
            let owner = "vol-aaaaaaaaaaaaaaaa".parse().unwrap();
            let pack = Pack { id, owner, key: "p".to_owned(), bytes: 1 << 20 };
            let mut delta = Delta::new();
            for block in 0..1000 {
                let entry = Entry::new(id, block, 9, crate::Codec::Raw, 0).unwrap();
                delta.set(BlockIndex(block * 5), entry);
            }
            map.commit(EpochCommit { delta, packs: vec![pack], ..EpochCommit::default() })
        };
        commit(&mut map).unwrap();
        let limit = |map: &BlockMap, pages: i64| {
            map.connection
                .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
                .unwrap();
        };
        limit(&map, 1);
        let before: Vec<_> = map.entries().collect();
        for _ in 0..3 {
            assert!(matches!(commit(&mut map), Err(BlockMapError::Full)));
            assert!(matches!(map.fold(), Err(BlockMapError::Full)));
            assert_eq!((map.head(), map.rows.len()), (Epoch(2), 2));
            assert!(map.entries().eq(before.iter().copied()));
            assert_eq!(map.verify().unwrap(), []);
        }
        limit(&map, 1 << 20);
        assert_eq!(commit(&mut map).unwrap(), Epoch(3));
        map.fold().unwrap();
        assert_eq!(map.verify().unwrap(), []);
    }
}
