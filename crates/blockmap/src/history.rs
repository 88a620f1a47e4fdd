//! What epochs there are, and going back to one.

use sprite_types::{BlockIndex, Epoch, Timestamp};

use crate::delta::Delta;
use crate::error::BlockMapError;
use crate::map::{BlockMap, NewRow};
use crate::row::{Keep, Kind, Mark, Row};
use crate::schema;

/// An epoch that was not pruned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochInfo {
    /// Its number. Later ones are higher, whatever they were made from.
    pub epoch: Epoch,
    /// What it was made from; that may have been pruned since. In the numbers of the parent
    /// volume if this is a fork.
    pub parent: Option<Epoch>,
    /// When its cut was made. Never before that of a lower epoch.
    pub time: Timestamp,
    /// What made it.
    pub kind: Kind,
    /// What people see of it.
    pub mark: Mark,
    /// Since when it may be pruned.
    pub expiring: Option<Timestamp>,
    /// The size of the disk, in blocks.
    pub blocks: u32,
    /// Bytes it takes in the map: its delta, and the nodes written for its base.
    pub map_bytes: u64,
    /// Stored bytes of the blocks that it replaced in the state before it: what keeping the
    /// epochs before it costs. After a restore an estimate that is too high.
    pub replaced_bytes: u64,
}

impl From<&Row> for EpochInfo {
    fn from(row: &Row) -> Self {
        Self {
            epoch: row.epoch,
            parent: row.parent,
            time: row.time,
            kind: row.kind,
            mark: row.mark.clone(),
            expiring: row.expiring,
            blocks: row.blocks,
            map_bytes: row.map_bytes(),
            replaced_bytes: row.replaced,
        }
    }
}

impl BlockMap {
    /// Lists the epochs that were not pruned, oldest first; the last is the head.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = EpochInfo> + '_ {
        self.rows.values().filter(|row| !row.inner).map(EpochInfo::from)
    }

    /// Lists the checkpoints, named and automatic, oldest first, without those that expire.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = EpochInfo> + '_ {
        self.history().filter(|info| info.mark.keep != Keep::Window && info.expiring.is_none())
    }

    /// Returns what is known of an epoch.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    pub fn info(&self, epoch: Epoch) -> Result<EpochInfo, BlockMapError> {
        self.listed(epoch).map(EpochInfo::from)
    }

    /// Returns the newest kept epoch whose cut was made at `time` or before.
    #[must_use]
    pub fn epoch_at(&self, time: Timestamp) -> Option<Epoch> {
        let kept = |row: &&Row| !row.inner && row.expiring.is_none() && row.time <= time;
        self.rows.values().rev().find(kept).map(|row| row.epoch)
    }

    /// Changes what people see of an epoch and how long it is kept: a moment becomes a
    /// checkpoint, a checkpoint a moment, or gets another comment.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    /// - [`BlockMapError::WrongState`]: it is expiring.
    pub fn set_mark(&mut self, epoch: Epoch, mark: Mark) -> Result<(), BlockMapError> {
        mark.check()?;
        let row = Row { mark, ..self.kept(epoch)?.clone() };
        let mut delta = Delta::new();
        row.read_delta(&self.connection, &self.packs, |change| delta.apply_change(change))?;
        let blob = crate::blob::encode(&delta);
        let transaction = schema::begin(&self.connection)?;
        row.write(&transaction, &blob.bytes)?;
        schema::commit(transaction)?;
        self.rows.insert(epoch, row);
        Ok(())
    }

    /// Makes the content of `epoch` the newest state: a new epoch that lies on the old one.
    /// Returns it, and the blocks whose entries differ from those of the head before, in order.
    /// The disk keeps its present size. One transaction, one row.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: there is none, or it was pruned.
    pub fn restore(
        &mut self,
        epoch: Epoch,
        time: Option<Timestamp>,
        mark: Mark,
    ) -> Result<(Epoch, Vec<BlockIndex>), BlockMapError> {
        self.listed(epoch)?;
        let difference = self.difference(self.head(), epoch)?;
        let replaced = difference.blocks().filter_map(|block| self.lookup(block));
        let replaced = replaced.map(|entry| u64::from(entry.len())).sum();
        let (tree, gathered) = self.base_of(epoch, self.blocks())?;
        let new = self.new_row(Kind::Restore, time, mark, replaced);
        let restored = self.append(NewRow { prev: Some(epoch), ..new }, Delta::new(), &[])?;
        self.head.apply(&difference);
        (self.tree, self.gathered, self.changed) = (tree, gathered, None);
        Ok((restored, difference.blocks().collect()))
    }

    /// Returns the row of an epoch that is kept and not expiring.
    pub(crate) fn kept(&self, epoch: Epoch) -> Result<&Row, BlockMapError> {
        let row = self.listed(epoch)?;
        match row.expiring {
            None => Ok(row),
            Some(_) => Err(BlockMapError::WrongState { epoch, reason: "is expiring" }),
        }
    }
}
