//! Proves that everything that is kept can be read.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use sprite_blockmap::{BlockMap, BlockMapError, Entry, Pack, PackId};
use sprite_store::StoreError;
use sprite_types::{BlockIndex, Epoch, chain};

use super::Reader;
use super::fetch::{Fetcher, empty};
use crate::pack::{self, HashKey, open_block};

/// Packs that are looked at at once.
const PACKS_MAX: usize = 8;

/// Something that is not as the map says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The oldest kept epoch that needs it, if it is known to belong to one.
    pub epoch: Option<Epoch>,
    /// The first block that is damaged, if it is known.
    pub block: Option<BlockIndex>,
    /// The pack, or nothing if the map itself is damaged.
    pub pack: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// What a check looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kept epochs.
    pub epochs: u64,
    /// Packs that they need.
    pub packs: u64,
    /// Blocks as they are stored: one that several epochs share counts once.
    pub blocks: u64,
    /// What is damaged.
    pub damages: Vec<Damage>,
}

/// A stored block, and the first epoch and block that need it.
type Need = (Entry, BlockIndex, Epoch);

/// A pack and what must be in it.
type PackNeeds = (Pack, Vec<Need>);

/// Why a volume could not be checked.
#[derive(thiserror::Error, Debug)]
pub enum CheckError {
    /// The map cannot be read at all.
    #[error(transparent)]
    Map(#[from] BlockMapError),
    /// The store failed. What is damaged is not known; check again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Reader {
    /// Checks that every kept epoch resolves and that every entry of it lies inside a pack that
    /// is there. `deep` reads every pack and compares the checksum of every block.
    ///
    /// Takes 28 bytes of memory for each stored block.
    ///
    /// # Errors
    /// See [`CheckError`]; damages are no errors.
    pub async fn check(&self, deep: bool) -> Result<Report, CheckError> {
        let reader = self.clone();
        let gathered = tokio::task::spawn_blocking(move || gather(&reader.map()));
        let (mut report, packs) =
            gathered.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let fetcher = &self.inner.fetcher;
        let checks = packs.into_iter().map(|(pack, needs)| check(fetcher, pack, needs, deep));
        let found: Vec<Vec<Damage>> =
            stream::iter(checks).buffered(PACKS_MAX).try_collect().await?;
        report.damages.extend(found.into_iter().flatten());
        Ok(report)
    }
}

/// Reads the map and returns what every pack must have.
fn gather(map: &BlockMap) -> Result<(Report, Vec<PackNeeds>), BlockMapError> {
    let mut report = Report::default();
    let of_map = |epoch, block, reason| Damage { epoch, block, pack: None, reason };
    for corrupt in map.verify()? {
        report.damages.push(of_map(corrupt.epoch, corrupt.block, corrupt.reason));
    }
    let (mut needs, mut before): (Vec<Need>, Option<Epoch>) = (Vec::new(), None);
    for info in map.history() {
        report.epochs += 1;
        if let Err(error) = add(map, before, info.epoch, &mut needs) {
            report.damages.push(of_map(Some(info.epoch), None, chain(&error)));
        } else {
            before = Some(info.epoch);
        }
        // Each epoch adds what it changed; a restore adds again what was there.
        needs.sort_by_key(|(entry, block, epoch)| (entry.to_bytes(), *epoch, *block));
        needs.dedup_by_key(|(entry, _, _)| *entry);
    }
    report.blocks = needs.len() as u64;
    let mut packs: BTreeMap<PackId, Vec<Need>> = BTreeMap::new();
    for need in needs {
        packs.entry(need.0.pack()).or_default().push(need);
    }
    report.packs = packs.len() as u64;
    let mut known = Vec::with_capacity(packs.len());
    for (id, needs) in packs {
        match map.pack(id) {
            Ok(pack) => known.push((pack, needs)),
            Err(error) => {
                let (_, block, epoch) = needs[0];
                report.damages.push(of_map(Some(epoch), Some(block), chain(&error)));
            }
        }
    }
    Ok((report, known))
}

/// Adds what `epoch` needs besides what `before` does.
fn add(
    map: &BlockMap,
    before: Option<Epoch>,
    epoch: Epoch,
    needs: &mut Vec<Need>,
) -> Result<(), BlockMapError> {
    let view = map.state_at(epoch)?;
    match before {
        None => {
            for entry in view.entries() {
                let (block, entry) = entry?;
                needs.push((entry, block, epoch));
            }
        }
        Some(before) => {
            for block in map.diff(before, epoch)? {
                if let Some(entry) = view.lookup(block)? {
                    needs.push((entry, block, epoch));
                }
            }
        }
    }
    Ok(())
}

/// Looks at one pack.
async fn check(
    fetcher: &Fetcher,
    pack: Pack,
    needs: Vec<Need>,
    deep: bool,
) -> Result<Vec<Damage>, StoreError> {
    let (_, block, epoch) = needs[0];
    let whole = |name: &str, reason: String| {
        let (epoch, block) = (Some(epoch), Some(block));
        vec![Damage { epoch, block, pack: Some(name.to_owned()), reason }]
    };
    let Some(key) = fetcher.key(&pack) else {
        return Ok(whole(&pack.key, format!("its owner `{}` is no ancestor", pack.owner)));
    };
    let size = match fetcher.store().head(&key).await {
        Ok(info) => info.size,
        Err(StoreError::NotFound { .. }) => {
            return Ok(whole(key.as_str(), "it is missing".to_owned()));
        }
        Err(error) => return Err(error),
    };
    if size != u64::from(pack.bytes) {
        let reason = format!("it has {size} bytes instead of {}", pack.bytes);
        return Ok(whole(key.as_str(), reason));
    }
    let damaged = |(_, block, epoch): &Need, reason: String| Damage {
        epoch: Some(*epoch),
        block: Some(*block),
        pack: Some(key.to_string()),
        reason,
    };
    let outside = |need: &Need| match pack::check_entry(&need.0) {
        Err(error) => Some(damaged(need, chain(&error))),
        Ok(()) if u64::from(need.0.offset()) + u64::from(need.0.len()) > size => {
            Some(damaged(need, "its entry lies outside".to_owned()))
        }
        Ok(()) => None,
    };
    let mut damages: Vec<Damage> = needs.iter().filter_map(outside).collect();
    if !deep || !damages.is_empty() {
        return Ok(damages);
    }
    let bytes = fetcher.store().get(&key).await?;
    if let Err(error) = pack::Pack::open(&bytes, HashKey::public()) {
        damages.push(damaged(&needs[0], chain(&error)));
    }
    let mut content = empty();
    for need in &needs {
        let from = need.0.offset() as usize;
        let stored = bytes.get(from..from + need.0.len() as usize).unwrap_or_default();
        if let Err(error) = open_block(&need.0, stored, &mut content) {
            damages.push(damaged(need, chain(&error)));
        }
    }
    Ok(damages)
}
