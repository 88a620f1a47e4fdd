//! Rows of the table `epochs`: what is known of an epoch besides its content.
//!
//! The content of an epoch is the tree `base`, or the content of the epoch `prev`, or nothing,
//! and on top of that its delta. `prev` and `base` change when rows are pruned or folded;
//! `parent` says what the epoch was made from and never changes.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use sprite_types::{Epoch, Timestamp};

use crate::blob::{self, Blob};
use crate::delta::Change;
use crate::entry::BLOCKS_MAX;
use crate::error::{BlockMapError, Corrupt, sql};
use crate::packs::PackSizes;
use crate::tree::NodeId;

/// The longest name and comment, in bytes.
const NAME_LEN_MAX: usize = 256;
const COMMENT_LEN_MAX: usize = 4096;

/// What made an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The volume's creation.
    Create = 0,
    /// Writes of the guest.
    Seal = 1,
    /// An older epoch became the head again.
    Restore = 2,
    /// The volume began as an epoch of another one, its parent there.
    Fork = 3,
    /// Blocks moved to other packs; the content stayed.
    Merge = 4,
    /// The disk became larger; the content stayed.
    Grow = 5,
}

/// How long an epoch is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Keep {
    /// As a moment of the window: thinned out as it ages.
    #[default]
    Window = 0,
    /// For the retention time: what a restore replaced.
    Automatic = 1,
    /// Until a person deletes it.
    Named = 2,
}

/// What people see of an epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// How long it is kept.
    pub keep: Keep,
    /// Its name, at most 256 bytes; empty if it has none.
    pub name: String,
    /// What a person said about it, at most 4 KiB.
    pub comment: String,
    /// The guest's file system was not brought to rest: mounting it replays a journal.
    pub crash_consistent: bool,
}

impl Mark {
    pub(crate) fn check(&self) -> Result<(), BlockMapError> {
        if self.name.len() > NAME_LEN_MAX || self.comment.len() > COMMENT_LEN_MAX {
            return Err(BlockMapError::invalid(format!(
                "a name of more than {NAME_LEN_MAX} or a comment of more than {COMMENT_LEN_MAX} \
                 bytes"
            )));
        }
        Ok(())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) epoch: Epoch,
    pub(crate) prev: Option<Epoch>,
    pub(crate) base: Option<NodeId>,
    pub(crate) parent: Option<Epoch>,
    pub(crate) time: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) mark: Mark,
    /// Pruned, and only here because other rows lie on it. Like `expiring` in a table of its own:
    /// marking a row must not rewrite its delta.
    pub(crate) inner: bool,
    /// Since when it may be pruned.
    pub(crate) expiring: Option<Timestamp>,
    pub(crate) blocks: u32,
    /// The first pack number that was never used up to this epoch.
    pub(crate) pack_next: u32,
    /// Stored bytes of the blocks that this epoch replaced in the state before it.
    pub(crate) replaced: u64,
    /// Bytes of the nodes that were written for `base`.
    pub(crate) base_bytes: u64,
    /// Entries and ranges in the delta.
    pub(crate) changes: u32,
    pub(crate) delta_len: u32,
    pub(crate) delta_check: u32,
}

impl Row {
    /// Says what the delta is now.
    pub(crate) fn describe(&mut self, blob: &Blob) -> Result<(), BlockMapError> {
        self.changes = blob.changes;
        self.delta_len = u32::try_from(blob.bytes.len())
            .map_err(|_| BlockMapError::invalid("a delta of 4 GiB or more"))?;
        self.delta_check = blob::checksum(self.epoch, &blob.bytes);
        Ok(())
    }

    /// Tells whether it is expiring or inner.
    pub(crate) fn is_marked(&self) -> bool {
        self.inner || self.expiring.is_some()
    }

    /// Bytes that the epoch takes in the map, nodes shared with others included.
    pub(crate) fn map_bytes(&self) -> u64 {
        u64::from(self.delta_len) + self.base_bytes
    }

    fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [
            self.epoch.0,
            self.prev.map_or(0, |epoch| epoch.0),
            self.base.unwrap_or(0),
            self.parent.map_or(0, |epoch| epoch.0),
            bits(self.time),
            self.kind as u64,
            self.mark.keep as u64,
            u64::from(self.mark.crash_consistent),
            u64::from(self.blocks),
            u64::from(self.pack_next),
            self.replaced,
            self.base_bytes,
            u64::from(self.changes),
            u64::from(self.delta_len),
            u64::from(self.delta_check),
            self.mark.name.len() as u64,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.mark.name.as_bytes());
        hasher.update(self.mark.comment.as_bytes());
        hasher.finalize()
    }

    /// Hands each change of the delta to `each`.
    pub(crate) fn read_delta(
        &self,
        connection: &Connection,
        packs: &PackSizes,
        each: impl FnMut(Change),
    ) -> Result<(), BlockMapError> {
        let read = |value: ValueRef<'_>| match value {
            ValueRef::Blob(bytes) if bytes.len() == self.delta_len as usize => {
                blob::decode(self.epoch, bytes, self.delta_check, self.blocks, packs, each)
            }
            _ => Err(Corrupt::new("its delta has another length").at(self.epoch)),
        };
        let mut statement = connection
            .prepare_cached("SELECT delta FROM epochs WHERE epoch = ?1")
            .map_err(sql("read a delta"))?;
        let result = statement
            .query_row([number(self.epoch.0)?], |row| Ok(read(row.get_ref(0)?)))
            .optional()
            .map_err(sql("read a delta"))?
            .ok_or_else(|| Corrupt::new("its row is missing").at(self.epoch))?;
        Ok(result?)
    }

    /// Writes the row, over an older form of it if there is one.
    pub(crate) fn write(&self, connection: &Connection, delta: &[u8]) -> Result<(), BlockMapError> {
        debug_assert_eq!(delta.len(), self.delta_len as usize);
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO epochs (epoch, prev, base, parent, time, kind, keep, \
                 crash_consistent, blocks, pack_next, replaced, base_bytes, changes, delta_len, \
                 delta_check, row_check, name, comment, delta) VALUES (?1, ?2, ?3, ?4, ?5, ?6, \
                 ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    self.epoch.0,
                    self.prev.map_or(0, |epoch| epoch.0),
                    self.base.unwrap_or(0),
                    self.parent.map_or(0, |epoch| epoch.0),
                    self.time.as_micros(),
                    self.kind as u8,
                    self.mark.keep as u8,
                    self.mark.crash_consistent,
                    self.blocks,
                    self.pack_next,
                    self.replaced,
                    self.base_bytes,
                    self.changes,
                    self.delta_len,
                    self.delta_check,
                    self.checksum(),
                    self.mark.name,
                    self.mark.comment,
                    delta,
                ])
            })
            .map_err(sql("write an epoch"))?;
        Ok(())
    }
}

/// Writes which row is the head, how many rows there are, and how many of them are marked: a
/// damaged page can lose rows without leaving a trace in the others.
pub(crate) fn write_head(
    connection: &Connection,
    epoch: Epoch,
    epochs: usize,
    marked: usize,
) -> Result<(), BlockMapError> {
    let (epochs, marked) = (epochs as u64, marked as u64);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO head (id, epoch, epochs, marked, row_check) \
             VALUES (1, ?1, ?2, ?3, ?4)",
        )
        .and_then(|mut insert| {
            insert.execute(params![epoch.0, epochs, marked, sum(&[epoch.0, epochs, marked])])
        })
        .map_err(sql("write which epoch is the head"))?;
    Ok(())
}

/// Removes a row and its mark.
pub(crate) fn delete(connection: &Connection, epoch: Epoch) -> Result<(), BlockMapError> {
    write_mark(connection, epoch, None, false)?;
    connection
        .prepare_cached("DELETE FROM epochs WHERE epoch = ?1")
        .and_then(|mut delete| delete.execute([number_sql(epoch)]))
        .map_err(sql("remove an epoch"))?;
    Ok(())
}

/// Writes since when an epoch may be pruned, that it was, or neither.
pub(crate) fn write_mark(
    connection: &Connection,
    epoch: Epoch,
    expiring: Option<Timestamp>,
    inner: bool,
) -> Result<(), BlockMapError> {
    let key = number_sql(epoch);
    if expiring.is_some() || inner {
        let since = expiring.unwrap_or(Timestamp::from_micros(0));
        let check = sum(&[epoch.0, bits(since), u64::from(inner)]);
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO marks (epoch, since, inner, row_check) \
                 VALUES (?1, ?2, ?3, ?4)",
            )
            .and_then(|mut insert| insert.execute(params![key, since.as_micros(), inner, check]))
    } else {
        connection
            .prepare_cached("DELETE FROM marks WHERE epoch = ?1")
            .and_then(|mut delete| delete.execute([key]))
    }
    .map_err(sql("mark an epoch"))?;
    Ok(())
}

fn sum(numbers: &[u64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize()
}

fn bits(time: Timestamp) -> u64 {
    time.as_micros().cast_unsigned()
}

/// Reads every row, without the deltas, in the order of epochs.
pub(crate) fn load(connection: &Connection) -> Result<Vec<Row>, BlockMapError> {
    let failed = sql("read the epochs");
    let mut statement = connection
        .prepare(
            "SELECT epoch, prev, base, parent, time, kind, keep, crash_consistent, blocks, \
             pack_next, replaced, base_bytes, changes, delta_len, delta_check, row_check, name, \
             comment FROM epochs ORDER BY epoch",
        )
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        found.push(read(row)?);
    }
    load_marks(connection, &mut found)?;
    let (head, epochs, marked, expected): (u64, u64, u64, u32) = connection
        .query_row("SELECT epoch, epochs, marked, row_check FROM head", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .map_err(sql("read which epoch is the head"))?;
    if sum(&[head, epochs, marked]) != expected {
        return Err(Corrupt::new("the head has another checksum").into());
    }
    let found_marked = found.iter().filter(|row| row.is_marked()).count() as u64;
    if found.last().map(|row| row.epoch.0) != Some(head)
        || (found.len() as u64, found_marked) != (epochs, marked)
    {
        let reason = format!("there should be {epochs} epochs up to {head}, {marked} marked");
        return Err(Corrupt::new(reason).into());
    }
    Ok(found)
}

fn load_marks(connection: &Connection, found: &mut [Row]) -> Result<(), BlockMapError> {
    let failed = sql("read which epochs are marked");
    let mut statement =
        connection.prepare("SELECT epoch, since, inner, row_check FROM marks").map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let epoch = Epoch(row.get(0).map_err(&failed)?);
        let since = Timestamp::from_micros(row.get(1).map_err(&failed)?);
        let inner: u64 = row.get(2).map_err(&failed)?;
        let expected: u32 = row.get(3).map_err(&failed)?;
        if sum(&[epoch.0, bits(since), inner]) != expected || inner > 1 {
            return Err(Corrupt::new("its mark has another checksum").at(epoch).into());
        }
        let at = found.binary_search_by_key(&epoch, |row| row.epoch);
        let at = at.map_err(|_| Corrupt::new("is marked but has no row").at(epoch))?;
        found[at].inner = inner == 1;
        found[at].expiring = (inner == 0).then_some(since);
    }
    Ok(())
}

fn read(row: &SqlRow<'_>) -> Result<Row, BlockMapError> {
    let failed = sql("read an epoch");
    let epoch = Epoch(row.get(0).map_err(&failed)?);
    let integer = |at: usize| -> Result<u64, BlockMapError> {
        row.get(at).map_err(|error| {
            Corrupt::new(format!("its column {at} is unusable: {error}")).at(epoch).into()
        })
    };
    let word = |at: usize| -> Result<u32, BlockMapError> {
        u32::try_from(integer(at)?)
            .map_err(|_| Corrupt::new(format!("its column {at} is too large")).at(epoch).into())
    };
    let text = |at: usize| -> Result<String, BlockMapError> {
        row.get(at).map_err(|error| {
            Corrupt::new(format!("its column {at} is unusable: {error}")).at(epoch).into()
        })
    };
    let unknown = |what: &str| Corrupt::new(format!("has an unknown {what}")).at(epoch);
    let kind = match integer(5)? {
        0 => Kind::Create,
        1 => Kind::Seal,
        2 => Kind::Restore,
        3 => Kind::Fork,
        4 => Kind::Merge,
        5 => Kind::Grow,
        _ => return Err(unknown("kind").into()),
    };
    let keep = match integer(6)? {
        0 => Keep::Window,
        1 => Keep::Automatic,
        2 => Keep::Named,
        _ => return Err(unknown("way of keeping").into()),
    };
    let found = Row {
        epoch,
        prev: Some(Epoch(integer(1)?)).filter(|epoch| epoch.0 != 0),
        base: Some(integer(2)?).filter(|id| *id != 0),
        parent: Some(Epoch(integer(3)?)).filter(|epoch| epoch.0 != 0),
        time: Timestamp::from_micros(row.get(4).map_err(&failed)?),
        kind,
        mark: Mark {
            keep,
            crash_consistent: integer(7)? != 0,
            name: text(16)?,
            comment: text(17)?,
        },
        inner: false,
        expiring: None,
        blocks: word(8)?,
        pack_next: word(9)?,
        replaced: integer(10)?,
        base_bytes: integer(11)?,
        changes: word(12)?,
        delta_len: word(13)?,
        delta_check: word(14)?,
    };
    if found.checksum() != word(15)? {
        return Err(Corrupt::new("its row has another checksum").at(epoch).into());
    }
    if found.blocks == 0 || found.blocks > BLOCKS_MAX || epoch.0 == 0 {
        return Err(Corrupt::new(format!("has {} blocks", found.blocks)).at(epoch).into());
    }
    Ok(found)
}

fn number(value: u64) -> Result<i64, BlockMapError> {
    i64::try_from(value).map_err(|_| BlockMapError::NoSuchEpoch { epoch: Epoch(value) })
}

/// Epochs come from the file or are one more than one of those: they fit.
fn number_sql(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).unwrap_or(i64::MAX)
}
