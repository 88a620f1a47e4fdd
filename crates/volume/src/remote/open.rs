//! Making, opening and looking at volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sprite_blockmap::BlockMap;
use sprite_lease::{Claim, ClaimError, Claimant, Evidence, Leases, Verdict, verdict};
use sprite_ltx::replica::{Files, OpenOptions, Opened, Replica};
use sprite_store::{Ambient, CreateError, KeyError, Series, Store};
use sprite_types::Generation;
use tracing::info;

use super::fetch::Fetcher;
use super::settings::{Counters, RemoteSettings};
use super::writer::{Parts, Writer};
use super::{OpenError, Reader};
use crate::bucket::{self, Format, Tombstone, VolumeFolder, VolumeRecord};

/// How often a claim is written whose fate is not known.
const CLAIM_TRIES: u32 = 3;
/// What hosts of a bucket may be asked to understand, and this release does.
const FEATURES: [&str; 0] = [];

/// A volume in the bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    store: Store,
    pub(crate) folder: VolumeFolder,
    ambient: Ambient,
    settings: RemoteSettings,
}

/// How a volume is opened for writing.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where the block map is, or will be. Its folder exists and is this volume's alone.
    pub map: PathBuf,
    /// Who we are.
    pub claimant: Claimant,
    /// What is known of the former holder.
    pub evidence: Evidence,
    /// We promise to stop if we could not confirm our claim for this long.
    pub self_fence: Option<Duration>,
}

/// A volume that was looked at.
pub(crate) struct Look {
    pub(crate) reader: Reader,
    pub(crate) files: Files,
    pub(crate) record: VolumeRecord,
    /// It is a fork, and in the bucket its map is still its parent's.
    pub(crate) is_parents: bool,
}

impl Remote {
    /// Names a volume. `store` reads its folder and those of its ancestors, and writes its own
    /// and, to fork it, the pins of its ancestors.
    #[must_use]
    pub fn new(
        store: Store,
        folder: VolumeFolder,
        ambient: Ambient,
        settings: RemoteSettings,
    ) -> Self {
        Self { store, folder, ambient, settings }
    }

    /// Makes a volume without content and opens it. Made before with the same record, it is only
    /// opened.
    ///
    /// # Errors
    /// - [`OpenError::Exists`]: there is another one.
    /// - See [`OpenError`] for the others. Call again, the same.
    pub async fn create(
        &self,
        record: &VolumeRecord,
        opening: Opening,
    ) -> Result<Writer, OpenError> {
        match self.records().append(0, bucket::encode(record)).await {
            Ok(_) => self.open(opening).await,
            Err(CreateError::Taken { .. }) => {
                Err(OpenError::Exists { volume: self.folder.volume().clone() })
            }
            Err(CreateError::Store(error)) => Err(error.into()),
        }
    }

    /// Claims the volume, makes its newest map on this host and shuts out every former writer.
    ///
    /// # Errors
    /// - [`OpenError::Held`]: somebody may be writing.
    /// - See [`OpenError`] for the others. After each of them the volume may be claimed by us;
    ///   the next try has to know that ([`Evidence::alone_on_host`]).
    pub async fn open(&self, opening: Opening) -> Result<Writer, OpenError> {
        let (record, newest) = futures::try_join!(self.checked_record(), async {
            Ok(self.leases().newest(Generation(0)).await?)
        })?;
        let claim = self.claim(newest, &opening).await?;
        let options = OpenOptions {
            path: opening.map.clone(),
            generation: claim.generation,
            boot: opening.claimant.host_boot.clone(),
            time: self.ambient.clock.now(),
        };
        let log = match self.replica()?.open(options).await? {
            Opened::Existing(log) => (self.open_map(&opening.map, &record)?.0, log),
            Opened::New(_) if !record.parents.is_empty() => {
                return Err(OpenError::Unfinished { volume: record.volume });
            }
            Opened::New(new) => {
                // The map comes before the first pack.
                if !self.store.list(&self.folder.packs()).await?.is_empty() {
                    return Err(OpenError::MapLost { volume: record.volume });
                }
                remove_leftovers(&opening.map).map_err(OpenError::Leftovers)?;
                let map = BlockMap::create(&opening.map, record.blocks, record.created_at)?;
                (map, new.create().await?)
            }
        };
        let (map, log) = log;
        let (leases, generation) = (self.leases(), claim.generation);
        let reader = Reader::new(map, self.fetcher(&record));
        let (ambient, settings) = (self.ambient.clone(), self.settings.clone());
        let folder = self.folder.clone();
        let parts = Parts { folder, record, claim, leases, ambient, settings };
        let writer = Writer::new(parts, reader, log.into_parts());
        // The first transaction of a fork, or what this host had in its log.
        drop(writer.begin().await?);
        info!(volume_id = %self.folder.volume(), %generation, epoch = %writer.reader().head(),
            "volume opened");
        Ok(writer)
    }

    /// Looks at the volume without claiming it: makes its newest map at `map` and stays there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn view(&self, map: &Path) -> Result<Reader, OpenError> {
        self.look(map).await.map(|look| look.reader)
    }

    /// As [`Remote::view`]; also returns what the map was made of.
    pub(crate) async fn look(&self, map: &Path) -> Result<Look, OpenError> {
        let record = self.checked_record().await?;
        let Some(fetched) = self.replica()?.fetch(map, false).await? else {
            return Err(OpenError::Unfinished { volume: record.volume });
        };
        let (map, is_parents) = self.open_map(map, &record)?;
        let reader = Reader::new(map, self.fetcher(&record));
        Ok(Look { reader, files: fetched.files, record, is_parents })
    }

    /// Reads the newest record of the volume, whatever else is true of it.
    ///
    /// # Errors
    /// - [`OpenError::NotFound`], [`OpenError::Document`], [`OpenError::Store`].
    pub async fn record(&self) -> Result<VolumeRecord, OpenError> {
        let records = self.records();
        let Some((number, bytes)) = records.newest(0).await? else {
            return Err(OpenError::NotFound { volume: self.folder.volume().clone() });
        };
        bucket::decode(&bytes)
            .map_err(|source| OpenError::Document { key: records.key(number), source })
    }

    /// Reads the record, and checks that the volume may be used by this release.
    async fn checked_record(&self) -> Result<VolumeRecord, OpenError> {
        let formats = Series::new(self.store.clone(), bucket::format_folder());
        let tombstones = Series::new(self.store.clone(), self.folder.tombstones());
        let (record, format, tombstone) =
            futures::try_join!(self.record(), async { Ok(formats.newest(0).await?) }, async {
                Ok(tombstones.newest(0).await?)
            },)?;
        let document = |series: &Series, number: u64| {
            let key = series.key(number);
            move |source| OpenError::Document { key, source }
        };
        if let Some((number, bytes)) = format {
            let format: Format = bucket::decode(&bytes).map_err(document(&formats, number))?;
            let unknown = format.features.into_iter().find(|f| !FEATURES.contains(&f.as_str()));
            if let Some(feature) = unknown {
                return Err(OpenError::Feature { feature });
            }
        }
        if let Some((number, bytes)) = tombstone {
            let tombstone: Tombstone =
                bucket::decode(&bytes).map_err(document(&tombstones, number))?;
            if tombstone.deleted {
                return Err(OpenError::Deleted { volume: record.volume });
            }
        }
        Ok(record)
    }

    async fn claim(&self, newest: Option<Claim>, opening: &Opening) -> Result<Claim, OpenError> {
        let Opening { claimant, evidence, self_fence, .. } = opening;
        match (verdict(newest.as_ref(), claimant, evidence), &newest) {
            (Verdict::Wait { again_after }, Some(newest)) => {
                return Err(OpenError::Held { claim: Box::new(newest.clone()), again_after });
            }
            (Verdict::Supersede(_) | Verdict::Wait { .. }, _) => {}
        }
        let (now, nonce) = (self.ambient.clock.now(), (self.ambient.random)());
        let claim = Leases::next(newest.as_ref(), claimant.clone(), *self_fence, now, nonce);
        let mut tries = 1;
        loop {
            match self.leases().grant(&claim).await {
                Ok(()) => return Ok(claim),
                // The same claim again: it may be there.
                Err(ClaimError::Store { .. }) if tries < CLAIM_TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Opens the map that was just made. That of a fork nobody has written yet is its parent's:
    /// it has the epoch that the fork begins as, which no map of a fork has.
    /// Says whether that was so.
    fn open_map(&self, path: &Path, record: &VolumeRecord) -> Result<(BlockMap, bool), OpenError> {
        let map = BlockMap::open(path)?;
        match record.parents.first() {
            Some(parent) if map.info(parent.epoch).is_ok() => {
                drop(map);
                Ok((BlockMap::open_fork(path, parent.epoch, record.created_at)?, true))
            }
            _ => Ok((map, false)),
        }
    }

    fn fetcher(&self, record: &VolumeRecord) -> Fetcher {
        let ancestors = record.parents.iter().map(|parent| {
            let folder = VolumeFolder::new(parent.owner.clone(), parent.volume.clone());
            (parent.volume.clone(), folder)
        });
        let mut folders: BTreeMap<_, _> = ancestors.collect();
        folders.insert(self.folder.volume().clone(), self.folder.clone());
        let counters = Arc::new(Counters::default());
        Fetcher::new(self.store.clone(), folders, self.settings.clone(), counters)
    }

    fn records(&self) -> Series {
        Series::new(self.store.clone(), self.folder.records())
    }

    fn leases(&self) -> Leases {
        Leases::new(self.store.clone(), self.folder.generations())
    }

    fn replica(&self) -> Result<Replica, KeyError> {
        Replica::new(self.store.clone(), self.folder.map())
    }
}

/// Removes what a creation left that was cut off before it reached the bucket.
fn remove_leftovers(map: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal", "-ltx", "-ltx-new"] {
        let mut name = map.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(Path::new(&name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
