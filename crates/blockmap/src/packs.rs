//! Which packs the map names, whose they are, and how large.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use sprite_types::VolumeId;

use crate::entry::{Entry, Pack, PackId};
use crate::error::{BlockMapError, Corrupt, sql};

const PAGE: usize = 256;

/// The size of each known pack, by number: what an entry is checked against.
///
/// Takes 4 bytes for a number in use and 8 for each 256 numbers that are not any more.
#[derive(Default)]
pub(crate) struct PackSizes {
    pages: Vec<Option<Box<[u32; PAGE]>>>,
}

impl PackSizes {
    pub(crate) fn get(&self, pack: PackId) -> Option<u32> {
        let page = self.pages.get(pack.0 as usize / PAGE)?.as_ref()?;
        Some(page[pack.0 as usize % PAGE]).filter(|bytes| *bytes != 0)
    }

    pub(crate) fn insert(&mut self, pack: PackId, bytes: u32) {
        let page = pack.0 as usize / PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]))[pack.0 as usize % PAGE] = bytes;
    }

    pub(crate) fn remove(&mut self, pack: PackId) {
        if let Some(slot) = self.pages.get_mut(pack.0 as usize / PAGE)
            && let Some(page) = slot
        {
            page[pack.0 as usize % PAGE] = 0;
            slot.take_if(|page| page.iter().all(|bytes| *bytes == 0));
        }
    }

    /// Checks that the entry lies inside a known pack.
    pub(crate) fn check(&self, entry: &Entry) -> Result<(), String> {
        match self.get(entry.pack()) {
            None => Err(format!("an entry in pack {}, which is unknown", entry.pack().0)),
            Some(bytes) if entry.end() > u64::from(bytes) => Err(format!(
                "an entry that ends at {} in pack {} of {bytes} bytes",
                entry.end(),
                entry.pack().0
            )),
            Some(_) => Ok(()),
        }
    }
}

/// The volumes whose packs the map names. Numbers, so that a pack's row stays small.
#[derive(Clone, Default)]
pub(crate) struct Owners(pub(crate) BTreeMap<i64, VolumeId>);

impl Owners {
    pub(crate) fn load(connection: &Connection) -> Result<Self, BlockMapError> {
        let failed = sql("read the owners of packs");
        let mut statement = connection.prepare("SELECT id, volume FROM owners").map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        let mut owners = BTreeMap::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            let id: i64 = row.get(0).map_err(&failed)?;
            let volume: String = row.get(1).map_err(&failed)?;
            let volume =
                volume.parse().map_err(|error| Corrupt::new(format!("owner {id}: {error}")))?;
            owners.insert(id, volume);
        }
        Ok(Self(owners))
    }

    fn number(&self, volume: &VolumeId) -> Option<i64> {
        self.0.iter().find(|(_, known)| *known == volume).map(|(id, _)| *id)
    }
}

/// The checksum of a pack's row.
fn checksum(pack: &Pack) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&pack.id.0.to_le_bytes());
    hasher.update(&pack.bytes.to_le_bytes());
    hasher.update(pack.owner.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(pack.key.as_bytes());
    hasher.finalize()
}

/// Writes new packs, and their owners if they are new, too.
pub(crate) fn insert(
    connection: &Connection,
    owners: &mut Owners,
    packs: &[Pack],
) -> Result<(), BlockMapError> {
    let failed = sql("write packs");
    for pack in packs {
        let owner = match owners.number(&pack.owner) {
            Some(owner) => owner,
            None => {
                let owner = owners.0.last_key_value().map_or(1, |(last, _)| last + 1);
                connection
                    .prepare_cached("INSERT INTO owners (id, volume) VALUES (?1, ?2)")
                    .and_then(|mut insert| insert.execute(params![owner, pack.owner.as_str()]))
                    .map_err(&failed)?;
                owners.0.insert(owner, pack.owner.clone());
                owner
            }
        };
        connection
            .prepare_cached(
                "INSERT INTO packs (id, owner, bytes, row_check, key) VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut insert| {
                insert.execute(params![pack.id.0, owner, pack.bytes, checksum(pack), pack.key])
            })
            .map_err(&failed)?;
    }
    Ok(())
}

/// Hands every pack to `each`, by number.
pub(crate) fn for_each(
    connection: &Connection,
    owners: &Owners,
    mut each: impl FnMut(Pack),
) -> Result<(), BlockMapError> {
    let failed = sql("read the packs");
    let mut statement = connection
        .prepare_cached("SELECT id, owner, bytes, row_check, key FROM packs ORDER BY id")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        each(read(row, owners)?);
    }
    Ok(())
}

/// Reads one pack.
pub(crate) fn get(
    connection: &Connection,
    owners: &Owners,
    id: PackId,
) -> Result<Option<Pack>, BlockMapError> {
    let mut statement = connection
        .prepare_cached("SELECT id, owner, bytes, row_check, key FROM packs WHERE id = ?1")
        .map_err(sql("read a pack"))?;
    statement
        .query_row([id.0], |row| Ok(read(row, owners)))
        .optional()
        .map_err(sql("read a pack"))?
        .transpose()
}

fn read(row: &rusqlite::Row<'_>, owners: &Owners) -> Result<Pack, BlockMapError> {
    let failed = sql("read a pack");
    let id = PackId(row.get(0).map_err(&failed)?);
    let owner: i64 = row.get(1).map_err(&failed)?;
    let owner = owners
        .0
        .get(&owner)
        .ok_or_else(|| Corrupt::new(format!("pack {} has the unknown owner {owner}", id.0)))?;
    let pack = Pack {
        id,
        owner: owner.clone(),
        key: row.get(4).map_err(&failed)?,
        bytes: row.get(2).map_err(&failed)?,
    };
    let expected: u32 = row.get(3).map_err(&failed)?;
    if checksum(&pack) != expected {
        return Err(Corrupt::new(format!("pack {} has another checksum", id.0)).into());
    }
    pack.check().map_err(Corrupt::new)?;
    Ok(pack)
}
