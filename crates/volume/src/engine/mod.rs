//! The disk: [`crate::cache`] and [`crate::remote`] joined.
//!
//! Device threads call [`Engine::read`], [`Engine::write`], [`Engine::zero`] and
//! [`Engine::flush`], which may wait for the bucket. One owner task seals the open epoch when
//! [`Bounds`] says so, sends at most two sealed epochs at once, tells the cache what is durable
//! and keeps [`Progress`].
//!
//! # Invariants
//! - Packs, map, cache: an epoch is durable for the cache only after the map that reads ask
//!   shows it.
//! - What was missing in the cache is what the map says *after* the cache said so.
//! - Numbers of epochs that went with a power cut become epochs that change nothing: what comes
//!   after them keeps its number, which is in the cache's journal.
//! - While a restore is on its way nobody reads, and nothing else is sent.
//!
//! # Not here
//! Prefetching; a budget that volumes share; asking the guest to be quiet for a checkpoint.

mod error;
mod note;
mod open;
pub mod policy;
mod read;
mod send;
mod shared;
#[cfg(test)]
mod tests;
mod writeback;

use std::collections::BTreeSet;
use std::sync::Arc;

use sprite_blockmap::Mark;
use sprite_types::{BlockIndex, Epoch, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

pub use error::{EngineError, OpenError};
pub use open::EngineSettings;
pub use policy::Bounds;
pub use shared::Progress;

use crate::block::BLOCK_LEN;
use crate::cache::{Cache, Entry, Memory, SealKind, SealResult, SealedKind, Stats};
use crate::remote::Writer;
use note::Note;
use shared::Shared;

/// What a completed flush survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// A power cut of this host.
    Local,
    /// The loss of this host.
    Bucket,
}

/// An epoch as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub epoch: Epoch,
    /// When its cut was made.
    pub time: Timestamp,
    /// Its name and how long it is kept.
    pub mark: Mark,
    /// It is in the bucket.
    pub is_durable: bool,
}

/// A disk that is open. It ends with [`Engine::close`] or [`Engine::abandon`]; dropped without
/// either, its owner task goes on sending.
pub struct Engine {
    shared: Arc<Shared>,
    writer: Writer,
    runtime: Handle,
    owner: JoinHandle<()>,
}

impl Engine {
    /// Returns the length of the disk in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.writer.reader().blocks()) * BLOCK_LEN as u64
    }

    /// Returns the words of the slot table, whose descriptor a keeper holds.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        self.shared.cache.memory()
    }

    /// Fills `buf` with what is at `offset`, both multiples of 512. Blocks the thread while
    /// something has to be fetched; not for threads of the runtime.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        if self.shared.read_here(offset, buf)? {
            return Ok(());
        }
        self.runtime.block_on(self.shared.read(offset, buf))
    }

    /// As [`Engine::read`], and never fetches: false means that something is not here, and
    /// [`Engine::read_async`] brings it.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn read_here(&self, offset: u64, buf: &mut [u8]) -> Result<bool, EngineError> {
        self.shared.read_here(offset, buf)
    }

    /// As [`Engine::read`], for a front end that answers later.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn read_async(&self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        self.shared.read(offset, buf).await
    }

    /// Writes `data` at `offset`, both multiples of 512. Blocks the thread while too much waits
    /// for the bucket, or a part of a part has to be fetched; not for threads of the runtime.
    ///
    /// # Errors
    /// See [`EngineError`]. A part of it may have been written.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), EngineError> {
        self.runtime.block_on(self.shared.write(offset, data))
    }

    /// Makes `len` bytes at `offset` zero, both multiples of 512: discard and write-zeroes.
    ///
    /// # Errors
    /// As [`Engine::write`].
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), EngineError> {
        self.runtime.block_on(self.shared.zero(offset, len))
    }

    /// Makes every change that was answered before this call survive what [`Fsync`] says.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn flush(&self) -> Result<(), EngineError> {
        self.runtime.block_on(self.shared.flush())
    }

    /// Waits until everything that was answered before this call is in the bucket. Returns an
    /// epoch that has it.
    ///
    /// # Errors
    /// [`EngineError::Ended`].
    pub async fn sync(&self) -> Result<Epoch, EngineError> {
        self.shared.settle().await
    }

    /// Keeps the state of the disk: a cut between requests, which survives a power cut of this
    /// host when the call returns, and its loss when [`Engine::history`] says so.
    ///
    /// # Errors
    /// - [`EngineError::Busy`]: too many wait for the bucket.
    /// - [`EngineError::Cache`]: also if name and comment together are too long (about 900 bytes).
    pub async fn checkpoint(&self, mark: Mark) -> Result<Epoch, EngineError> {
        self.shared.check()?;
        let note = Note { time: self.shared.clock.now(), mark, from: None }.encode();
        let cache = self.shared.cache.clone();
        let sealed = spawn_blocking(move || cache.seal(SealKind::Named(&note))).await;
        let sealed = sealed.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        self.shared.wake.notify_one();
        match sealed {
            SealResult::Sealed(epoch) => Ok(epoch),
            SealResult::Busy | SealResult::Empty => Err(EngineError::Busy),
        }
    }

    /// Makes the state of `from` the disk's, after keeping the present one as a checkpoint with
    /// the mark `automatic`. Returns the checkpoint and the new epoch, which has the mark `mark`.
    ///
    /// Nobody may have the device open, before and until this returns, and no other method may
    /// be called meanwhile. Waits until both are in the bucket.
    ///
    /// # Errors
    /// See [`EngineError`]. With [`EngineError::Map`] nothing was changed.
    pub async fn restore(
        &self,
        from: Epoch,
        automatic: Mark,
        mark: Mark,
    ) -> Result<(Epoch, Epoch), EngineError> {
        let head = self.writer.reader().head();
        self.writer.reader().diff(head, from)?;
        let kept = self.checkpoint(automatic).await?;
        self.shared.until_durable(kept).await?;
        let note = Note { time: self.shared.clock.now(), mark, from: Some(from) }.encode();
        let shared = self.shared.clone();
        let restoring = spawn_blocking(move || {
            let changed = shared.remote.diff(shared.remote.head(), from)?;
            let changed: BTreeSet<BlockIndex> = changed.into_iter().collect();
            // Nothing equals the entry of a changed block, so its slot goes.
            let entry_of = |block: BlockIndex| match changed.contains(&block) {
                true => Entry([0xff; 16]),
                false => shared::entry_of(&shared.remote, block),
            };
            Ok::<_, EngineError>(shared.cache.restore(&note, &entry_of)?)
        });
        let restored = restoring.await;
        let restored = restored.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        self.shared.until_durable(restored).await?;
        Ok((kept, restored))
    }

    /// Lists the epochs that are kept, oldest first, and the checkpoints that wait for the
    /// bucket.
    #[must_use]
    pub fn history(&self) -> Vec<Listed> {
        let history = self.writer.history().into_iter();
        let mut listed: Vec<Listed> = history
            .map(|(info, is_durable)| {
                let (epoch, time, mark) = (info.epoch, info.time, info.mark);
                Listed { epoch, time, mark, is_durable }
            })
            .collect();
        let known = listed.last().map(|last| last.epoch);
        for sealed in self.shared.cache.sealed_epochs() {
            let (SealedKind::Named(note) | SealedKind::Restore(note)) = &sealed.kind else {
                continue;
            };
            let Some(Note { time, mark, .. }) = Note::decode(note) else { continue };
            if known.is_none_or(|known| sealed.epoch > known) {
                listed.push(Listed { epoch: sealed.epoch, time, mark, is_durable: false });
            }
        }
        listed
    }

    /// Follows how far the bucket is.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Returns numbers of the cache.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.cache.stats()
    }

    /// Returns why the disk has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Arc<str>> {
        self.shared.progress.borrow().ended.clone()
    }

    /// Brings everything into the bucket and releases the volume. No device may be attached.
    ///
    /// # Errors
    /// - [`EngineError::Ended`], [`EngineError::Cache`]: what is not in the bucket is in the
    ///   cache directory.
    /// - [`EngineError::Release`]: everything is in the bucket.
    pub async fn close(self) -> Result<(), EngineError> {
        let Self { shared, writer, owner, .. } = self;
        shared.settle().await?;
        shared.end("it was closed");
        if let Err(error) = owner.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        let closing = spawn_blocking(move || {
            let cache = Arc::into_inner(shared).map(|shared| shared.cache);
            match cache.and_then(Arc::into_inner) {
                Some(cache) => Cache::close(cache),
                // A request is still there: the next open takes this for a power cut.
                None => Ok(()),
            }
        });
        closing.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        writer.release().await.map_err(EngineError::Release)
    }

    /// Ends at once, without sending anything: what a killed process leaves. An epoch that is on
    /// its way may or may not become durable; the next open finds out.
    pub async fn abandon(self) {
        self.shared.end("it was abandoned");
        self.owner.abort();
        // An error: it was aborted, as it should be.
        let _ = self.owner.await;
    }
}
