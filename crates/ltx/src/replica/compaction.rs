//! Keeps the number of files small: merges them, replaces them by snapshots, and names the result
//! in a manifest.

use sprite_types::{Epoch, Txid};
use tokio::task::spawn_blocking;
use tracing::debug;

use super::error::{Created, created};
use super::layout::{LEVEL_LOOSE, LEVEL_SNAPSHOT};
use super::publish::LooseFile;
use super::{CommitError, FileRef, Manifest, ManifestName, Publisher};
use crate::database::{CompactError, Tip, compact};
use crate::format::{Encoded, LtxFile};

/// Loose files that become one.
const LOOSE_MAX: usize = 64;
/// Files of one level that become one of the next.
const LEVEL_FILES_MAX: usize = 16;
/// Bytes of changes that never ask for a snapshot.
const CHANGES_MIN: u64 = 1 << 20;

/// What a database would gain from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Nothing.
    None,
    /// [`Publisher::compact`]: many transactions are not in a manifest.
    Compact,
    /// [`Publisher::snapshot`]: the changes outweigh the snapshot they build on, or that is
    /// another database's.
    Snapshot,
}

impl Publisher {
    /// Says what should be done next. Nothing is lost if it is not.
    #[must_use]
    pub fn wants(&self) -> Maintenance {
        let loose: u64 = self.loose.iter().map(|loose| loose.file.size).sum();
        let changes: u64 = self.named.iter().skip(1).map(|file| file.size).sum();
        let snapshot = self.named.first();
        let is_foreign = |file: &FileRef| self.replica.layout.level_of(&file.key).is_none();
        if snapshot
            .is_some_and(|file| is_foreign(file) || changes + loose > file.size.max(CHANGES_MIN))
        {
            Maintenance::Snapshot
        } else if self.loose.len() >= LOOSE_MAX {
            Maintenance::Compact
        } else {
            Maintenance::None
        }
    }

    /// Makes one file of all transactions that no manifest names, and a manifest. `None` if there
    /// are no such transactions. `head_epoch` is for the manifest's readers.
    ///
    /// # Errors
    /// - [`CommitError::Fenced`]: stop for good.
    /// - Any other: nothing is lost, try later.
    ///
    /// # Cancel safety
    /// Dropped, it may leave files that nothing names, for the collector.
    pub async fn compact(
        &mut self,
        head_epoch: Option<Epoch>,
    ) -> Result<Option<ManifestName>, CommitError> {
        self.check()?;
        let Some(last) = self.loose.last() else { return Ok(None) };
        let tip = last.tip;
        let mut files = self.named.clone();
        files.push(match &self.loose[..] {
            [one] => one.file.clone(),
            many => {
                let level = if many[0].file.min == Txid(1) { LEVEL_SNAPSHOT } else { 1 };
                self.merge(level, self.read_all_loose(many).await?).await?
            }
        });
        for level in 1..LEVEL_SNAPSHOT - 1 {
            let is_level = |file: &&FileRef| self.level_of(file) == Some(level);
            let count = files.iter().rev().take_while(is_level).count();
            if count < LEVEL_FILES_MAX {
                break;
            }
            let tail = files.split_off(files.len() - count);
            let mut parts = Vec::with_capacity(count);
            for file in &tail {
                let bytes = self.replica.fetch_file(file).await?;
                parts.push(self.replica.parse(file, bytes)?);
            }
            files.push(self.merge(level + 1, parts).await?);
        }
        self.write_manifest(tip, files, head_epoch).await.map(Some)
    }

    /// Puts a snapshot in the place of all files up to its transaction, and writes a manifest.
    /// `None` if the newest manifest is a snapshot of that transaction already.
    ///
    /// # Errors
    /// - [`CommitError::Stale`]: it is older than the newest manifest, not durable, or another
    ///   writer's.
    /// - [`CommitError::Fenced`]: stop for good.
    /// - Any other: nothing is lost, try later.
    pub async fn snapshot(
        &mut self,
        snapshot: &Encoded,
        head_epoch: Option<Epoch>,
    ) -> Result<Option<ManifestName>, CommitError> {
        self.check()?;
        let (header, txid) = (snapshot.header, snapshot.header.max);
        let at_loose = self.loose.iter().find(|loose| loose.file.max == txid);
        let at_newest = self.newest.filter(|(name, _)| name.txid == txid);
        let tip = at_loose.map(|loose| loose.tip).or(at_newest.map(|(_, tip)| tip));
        let Some(tip) =
            tip.filter(|_| header.is_snapshot() && header.generation == self.generation)
        else {
            return Err(CommitError::Stale { txid });
        };
        let key = self.replica.layout.file(LEVEL_SNAPSHOT, Txid(1), txid);
        if at_newest.is_some() && self.named.len() == 1 && self.named[0].key == key {
            return Ok(None);
        }
        let file = self.write_file(LEVEL_SNAPSHOT, snapshot).await?;
        self.write_manifest(tip, vec![file], head_epoch).await.map(Some)
    }

    /// Returns the level of a file of ours. One loose file may stand for a compacted one.
    fn level_of(&self, file: &FileRef) -> Option<u32> {
        let level = self.replica.layout.level_of(&file.key)?;
        Some(if level == LEVEL_LOOSE && file.min != Txid(1) { 1 } else { level })
    }

    async fn read_all_loose(&self, loose: &[LooseFile]) -> Result<Vec<LtxFile>, CommitError> {
        futures::future::try_join_all(loose.iter().map(|loose| self.read_loose(loose))).await
    }

    async fn merge(&mut self, level: u32, parts: Vec<LtxFile>) -> Result<FileRef, CommitError> {
        let generation = self.generation;
        let merged = spawn_blocking(move || compact(&parts, generation)).await;
        let merged: Result<Encoded, CompactError> =
            merged.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.write_file(level, &merged?).await
    }

    /// Writes a file of several transactions.
    ///
    /// Its last transaction is our fence or a later one, which no other generation has: a name
    /// that is taken was taken by ourselves. The bytes may differ if another way led to them.
    async fn write_file(&mut self, level: u32, file: &Encoded) -> Result<FileRef, CommitError> {
        let (min, max) = (file.header.min, file.header.max);
        let key = self.replica.layout.file(level, min, max);
        let result = self.replica.store.create(&key, file.bytes.clone()).await;
        if let Created::Ours = created(result)? {
            return Ok(FileRef::new(key, &file.header, file.bytes.len(), file.checksum));
        }
        let bytes = self.replica.store.get(&key).await?;
        let size = bytes.len();
        let there = LtxFile::parse(bytes)
            .map_err(|error| CommitError::Damaged { key: key.clone(), source: error.into() })?;
        let header = there.header();
        if (header.min, header.max, header.generation) != (min, max, self.generation) {
            return Err(self.lose(max).await);
        }
        Ok(FileRef::new(key, header, size, there.checksum()))
    }

    /// Names `files`, which end with `tip`, as all of the database up to there.
    async fn write_manifest(
        &mut self,
        tip: Tip,
        files: Vec<FileRef>,
        head_epoch: Option<Epoch>,
    ) -> Result<ManifestName, CommitError> {
        let (generation, txid) = (self.generation, tip.txid);
        let revision = match self.newest {
            Some((name, _)) if (name.generation, name.txid) == (generation, txid) => {
                name.revision + 1
            }
            _ => 0,
        };
        let name = ManifestName { generation, txid, revision };
        let fences = self.fences.iter().copied().filter(|fence| *fence <= txid).collect();
        let manifest = Manifest::new(name, tip, head_epoch, files, fences);
        let (key, bytes) = (self.replica.layout.manifest(name), manifest.to_bytes());
        let result = self.replica.store.create(&key, bytes.clone()).await;
        if let Created::Taken = created(result)? {
            return Err(self.lose(txid).await);
        }
        self.newest = Some((name, tip));
        self.named = manifest.files;
        self.loose.retain(|loose| loose.file.max > txid);
        let hint = self.replica.store.overwrite(self.replica.layout.hint(), bytes).await;
        if let Err(error) = hint {
            debug!(prefix = %self.replica.prefix(), %error, "hint not written");
        }
        Ok(name)
    }
}
