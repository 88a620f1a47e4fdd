//! Forks: volumes that begin as an epoch of this one.

use std::collections::BTreeSet;

use sprite_ltx::replica::{CommitError, Files, Replica};
use sprite_store::{CreateError, Key, Series};
use sprite_types::{Epoch, SpriteId, Timestamp, VolumeId};
use tracing::{info, warn};

use super::{ForkError, Writer};
use crate::bucket::{self, FrontEnd, Parent, Pin, VolumeFolder, VolumeRecord};

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
    /// What has ever written to the parent; it may have left what only this may mount.
    pub front_ends: Vec<FrontEnd>,
}

impl Writer {
    /// Makes a volume that begins as `epoch` of this one, with requests whose number follows
    /// neither's size. The child can be opened at once, by anybody; it is independent when its
    /// own snapshot is made ([`Writer::maintain`]).
    ///
    /// Waits for the epoch if it is not durable yet. After an error other than
    /// [`ForkError::Map`] and [`ForkError::Exists`] pins may be left: fork again with the same
    /// child, or leave them to the collector.
    ///
    /// # Errors
    /// See [`ForkError`].
    pub async fn fork(&self, epoch: Epoch, child: &Child) -> Result<VolumeRecord, ForkError> {
        let turn = self.begin().await?;
        let root = self.reader().map().fork_root(epoch)?;
        let owners = self.owners(&root.owners, &Self::files(&turn))?;
        drop(turn);
        let pins = self.pin(epoch, child, &owners).await?;
        // Only now is it sure that nobody prunes the epoch: who reads the pins sees them.
        let turn = self.begin().await?;
        let kept = self.reader().map().fork_root(epoch);
        let files = Self::files(&turn);
        drop(turn);
        let (root, owners_now) = match kept {
            Ok(root) => {
                let owners = self.owners(&root.owners, &files)?;
                (root, owners)
            }
            Err(error) => {
                self.unpin(&pins).await;
                return Err(error.into());
            }
        };
        // A fork's own first snapshot, say, may have come between: only ever fewer owners.
        debug_assert!(owners_now.is_subset(&owners), "an owner came between");
        let record = self.child_record(epoch, root.blocks, child);
        self.begin_child(epoch, &record, child, &files).await?;
        info!(volume_id = %self.folder().volume(), child = %record.volume, %epoch, "forked");
        Ok(record)
    }

    /// Returns whose packs or map files the child would read.
    fn owners(&self, packs: &[VolumeId], files: &Files) -> Result<BTreeSet<VolumeId>, ForkError> {
        let mut owners = BTreeSet::from([self.folder().volume().clone()]);
        for owner in packs {
            if self.reader().inner.fetcher.folder(owner).is_none() {
                return Err(ForkError::Stranger { owner: owner.clone() });
            }
            owners.insert(owner.clone());
        }
        for parent in &self.record().parents {
            let folder = VolumeFolder::new(parent.owner.clone(), parent.volume.clone());
            if files.files.iter().any(|file| file.key.is_under(folder.root())) {
                owners.insert(parent.volume.clone());
            }
        }
        Ok(owners)
    }

    /// Writes the pins, and returns their keys.
    async fn pin(
        &self,
        epoch: Epoch,
        child: &Child,
        owners: &BTreeSet<VolumeId>,
    ) -> Result<Vec<Key>, ForkError> {
        let pins = owners.iter().filter_map(|owner| {
            let ancestor = self.record().parents.iter().find(|parent| parent.volume == *owner);
            let epoch = ancestor.map_or(epoch, |ancestor| ancestor.epoch);
            let key = self.reader().inner.fetcher.folder(owner)?.pin(child.folder.volume());
            let (owner, at) = (child.folder.owner().clone(), child.created_at);
            Some((key, Pin { owner, child: child.folder.volume().clone(), epoch, at }))
        });
        let pins: Vec<(Key, Pin)> = pins.collect();
        let writes = pins.iter().map(|(key, pin)| self.store().create(key, bucket::encode(pin)));
        futures::future::try_join_all(writes).await.map_err(ForkError::of_create)?;
        Ok(pins.into_iter().map(|(key, _)| key).collect())
    }

    /// Takes pins back that came too late. One that stays is found by the collector: it has no
    /// child.
    async fn unpin(&self, pins: &[Key]) {
        for key in pins {
            if let Err(error) = self.store().delete(key).await {
                warn!(%key, error = &error as &dyn std::error::Error, "pin not removed");
            }
        }
    }

    fn child_record(&self, epoch: Epoch, blocks: u32, child: &Child) -> VolumeRecord {
        let (owner, volume) = (self.folder().owner().clone(), self.folder().volume().clone());
        let mut parents = vec![Parent { owner, volume, epoch }];
        parents.extend(self.record().parents.iter().cloned());
        VolumeRecord {
            volume: child.folder.volume().clone(),
            sprite: child.sprite.clone(),
            name: child.name.clone(),
            blocks,
            parents,
            front_ends: child.front_ends.clone(),
            keys: Vec::new(),
            created_at: child.created_at,
        }
    }

    /// Writes the child's record and a manifest that names our map files.
    async fn begin_child(
        &self,
        epoch: Epoch,
        record: &VolumeRecord,
        child: &Child,
        files: &Files,
    ) -> Result<(), ForkError> {
        let records = Series::new(self.store().clone(), child.folder.records());
        match records.append(0, bucket::encode(record)).await {
            Ok(_) => {}
            Err(CreateError::Taken { key }) => return Err(ForkError::Exists { key }),
            Err(CreateError::Store(error)) => return Err(error.into()),
        }
        let replica = Replica::new(self.store().clone(), child.folder.map())?;
        match replica.begin(files, Some(epoch)).await {
            // Begun before by a call that was cut off, with files that have the epoch as well.
            Ok(()) | Err(CommitError::Fenced { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(error) => Err(ForkError::Begin(error)),
        }
    }
}
