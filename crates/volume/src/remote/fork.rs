//! Forks: volumes that begin as an epoch of this one.

use std::collections::BTreeSet;
use std::path::Path;

use sprite_blockmap::{BlockMapError, ForkRoot};
use sprite_ltx::replica::{CommitError, Files, Replica};
use sprite_store::{CreateError, Key, Series};
use sprite_types::{Epoch, SpriteId, Timestamp, VolumeId};
use tracing::{info, warn};

use super::fetch::Fetcher;
use super::open::Look;
use super::{ForkError, Remote, Writer};
use crate::bucket::{self, Parent, Pin, VolumeFolder, VolumeRecord};

/// What the child is to be.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its folder.
    pub folder: VolumeFolder,
    /// Its sprite.
    pub sprite: Option<SpriteId>,
    /// What people call it.
    pub name: String,
    /// When it is made.
    pub created_at: Timestamp,
}

/// A volume that is being forked.
struct Origin<'a> {
    record: &'a VolumeRecord,
    folder: &'a VolumeFolder,
    fetcher: &'a Fetcher,
    epoch: Epoch,
    child: &'a Child,
}

/// The epoch as it is at one moment, and the map files that have it.
type Root = (Result<ForkRoot, BlockMapError>, Files);

impl Writer {
    /// Makes a volume that begins as `epoch` of this one, with requests whose number follows
    /// neither's size. The child can be opened at once, by anybody; it is independent of our map
    /// files when its own snapshot is made ([`Writer::maintain`]).
    ///
    /// Waits for the epoch if it is not durable yet. After an error other than
    /// [`ForkError::Map`] and [`ForkError::Exists`] pins may be left: fork again with the same
    /// child, or leave them to the collector.
    ///
    /// # Errors
    /// See [`ForkError`].
    pub async fn fork(&self, epoch: Epoch, child: &Child) -> Result<VolumeRecord, ForkError> {
        let (record, folder) = (&self.record(), self.folder());
        let fetcher = &self.reader().inner.fetcher;
        let origin = Origin { record, folder, fetcher, epoch, child };
        let root = async || {
            let turn = self.begin().await?;
            Ok((self.reader().map().fork_root(epoch), Self::files(&turn)))
        };
        origin.fork(root().await?, root).await
    }
}

impl Remote {
    /// As [`Writer::fork`], of a volume that somebody else may be writing, or nobody: a base
    /// image, say. `map` is where its map is made, twice; nobody uses that file meanwhile.
    ///
    /// # Errors
    /// See [`ForkError`].
    pub async fn fork(
        &self,
        map: &Path,
        epoch: Epoch,
        child: &Child,
    ) -> Result<VolumeRecord, ForkError> {
        let root = async || {
            let Look { reader, files, record, is_parents } = self.look(map).await?;
            // The files do not have its epochs, and may have others of the same numbers.
            if is_parents {
                return Err(ForkError::Unopened);
            }
            let root = reader.map().fork_root(epoch);
            Ok((reader, (root, files), record))
        };
        let (reader, first, record) = root().await?;
        let folder = &self.folder;
        let fetcher = reader.inner.fetcher.clone();
        drop(reader);
        let origin = Origin { record: &record, folder, fetcher: &fetcher, epoch, child };
        origin.fork(first, async || root().await.map(|(_, root, _)| root)).await
    }
}

impl Origin<'_> {
    async fn fork(
        &self,
        (root, files): Root,
        again: impl AsyncFnOnce() -> Result<Root, ForkError>,
    ) -> Result<VolumeRecord, ForkError> {
        let owners = self.owners(&root?.owners, &files)?;
        let pins = self.pin(&owners).await?;
        // Only now is it sure that nobody prunes the epoch: who reads the pins sees them.
        let (kept, files) = again().await?;
        let root = match kept {
            Ok(root) => root,
            Err(error) => {
                self.unpin(&pins).await;
                return Err(error.into());
            }
        };
        if !self.owners(&root.owners, &files)?.is_subset(&owners) {
            // Everything an epoch needs was named before the epoch; a map that says otherwise
            // was made anew under our eyes.
            self.unpin(&pins).await;
            return Err(ForkError::Moved);
        }
        let record = self.child_record(root.blocks);
        self.begin_child(&record, &files).await?;
        info!(volume_id = %self.folder.volume(), child = %record.volume, epoch = %self.epoch,
            "forked");
        Ok(record)
    }

    /// Returns whose packs or map files the child would read.
    fn owners(&self, packs: &[VolumeId], files: &Files) -> Result<BTreeSet<VolumeId>, ForkError> {
        let mut owners = BTreeSet::from([self.folder.volume().clone()]);
        for owner in packs {
            if self.fetcher.folder(owner).is_none() {
                return Err(ForkError::Stranger { owner: owner.clone() });
            }
            owners.insert(owner.clone());
        }
        for parent in &self.record.parents {
            let folder = VolumeFolder::new(parent.owner.clone(), parent.volume.clone());
            if files.files.iter().any(|file| file.key.is_under(folder.root())) {
                owners.insert(parent.volume.clone());
            }
        }
        Ok(owners)
    }

    /// Writes the pins, and returns their keys.
    async fn pin(&self, owners: &BTreeSet<VolumeId>) -> Result<Vec<Key>, ForkError> {
        let child = &self.child.folder;
        let pins = owners.iter().filter_map(|owner| {
            let ancestor = self.record.parents.iter().find(|parent| parent.volume == *owner);
            let epoch = ancestor.map_or(self.epoch, |ancestor| ancestor.epoch);
            let key = self.fetcher.folder(owner)?.pin(child.volume());
            let (owner, at) = (child.owner().clone(), self.child.created_at);
            Some((key, Pin { owner, child: child.volume().clone(), epoch, at }))
        });
        let pins: Vec<(Key, Pin)> = pins.collect();
        let store = self.fetcher.store();
        let writes = pins.iter().map(|(key, pin)| store.create(key, bucket::encode(pin)));
        futures::future::try_join_all(writes).await.map_err(ForkError::of_create)?;
        Ok(pins.into_iter().map(|(key, _)| key).collect())
    }

    /// Takes pins back that came too late. One that stays is found by the collector: it has no
    /// child.
    async fn unpin(&self, pins: &[Key]) {
        for key in pins {
            if let Err(error) = self.fetcher.store().delete(key).await {
                warn!(%key, error = &error as &dyn std::error::Error, "pin not removed");
            }
        }
    }

    fn child_record(&self, blocks: u32) -> VolumeRecord {
        let (owner, volume) = (self.folder.owner().clone(), self.folder.volume().clone());
        let mut parents = vec![Parent { owner, volume, epoch: self.epoch }];
        parents.extend(self.record.parents.iter().cloned());
        VolumeRecord {
            volume: self.child.folder.volume().clone(),
            sprite: self.child.sprite.clone(),
            name: self.child.name.clone(),
            blocks,
            parents,
            // What they wrote is in the child, too.
            front_ends: self.record.front_ends.clone(),
            keys: Vec::new(),
            created_at: self.child.created_at,
        }
    }

    /// Writes the child's record and a manifest that names our map files.
    async fn begin_child(&self, record: &VolumeRecord, files: &Files) -> Result<(), ForkError> {
        let (store, folder) = (self.fetcher.store(), &self.child.folder);
        let records = Series::new(store.clone(), folder.records());
        match records.append(0, bucket::encode(record)).await {
            Ok(_) => {}
            Err(CreateError::Taken { key }) => return Err(ForkError::Exists { key }),
            Err(CreateError::Store(error)) => return Err(error.into()),
        }
        let replica = Replica::new(store.clone(), folder.map())?;
        match replica.begin(files, Some(self.epoch)).await {
            // Begun before by a call that was cut off, with files that have the epoch as well.
            Ok(()) | Err(CommitError::Fenced { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(error) => Err(ForkError::Begin(error)),
        }
    }
}
