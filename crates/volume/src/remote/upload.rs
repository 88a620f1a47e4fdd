//! Bringing the content of an epoch into the bucket, before its turn.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sprite_blockmap::{BlockMap, BlockMapError, Delta, EpochCommit, Mark, Pack};
use sprite_store::{CreateError, Key, StoreError};
use sprite_types::{BlockIndex, Timestamp};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::warn;

use super::WriteError;
use super::seal::{Blocks, build};
use super::writer::Writer;
use crate::bucket::PackName;
use crate::pack::{Built, HashKey, IndexEntry, entries_of};

/// Waits between attempts that the store itself has given up on: doubled from the first to the
/// last.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_LAST: Duration = Duration::from_secs(30);

/// A pack that is in the bucket. Its bytes stay here until the map names it: it may have to be
/// sent once more.
pub(crate) struct Uploaded {
    key: Key,
    bytes: Bytes,
    index: Vec<IndexEntry>,
    at: Instant,
}

/// Everything an epoch changes, with all data in the bucket.
pub(crate) struct Prepared {
    pub(crate) packs: Vec<Uploaded>,
    zeroes: Vec<(BlockIndex, u32)>,
}

impl Writer {
    /// Makes packs and uploads them, a few at once.
    pub(crate) async fn prepare(
        &self,
        zeroes: Vec<(BlockIndex, u32)>,
        blocks: Blocks,
    ) -> Result<Prepared, WriteError> {
        let disk = self.blocks();
        let fits = |(start, count): &(BlockIndex, u32)| {
            start.0.checked_add(*count).is_some_and(|end| end <= disk)
        };
        if let Some((start, count)) = zeroes.iter().find(|range| !fits(range)) {
            let reason = format!("{count} blocks of zeroes from {start} on a disk of {disk}");
            return Err(WriteError::Invalid { reason });
        }
        let (sender, mut receiver) = mpsc::channel(1);
        let building = spawn_blocking(move || build(blocks, disk, &HashKey::public(), &sender));
        let built = stream::poll_fn(move |context| receiver.poll_recv(context));
        let at_once = self.settings().uploads_max.max(1) as usize;
        let packs = built.map(|built| self.upload(built)).buffered(at_once).try_collect().await?;
        let built = building.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        let mut zeroes = zeroes;
        zeroes.extend(built?.into_iter().map(|block| (block, 1)));
        Ok(Prepared { packs, zeroes })
    }

    /// Sends packs again that the collector might already look at.
    pub(crate) async fn refresh(&self, prepared: &mut Prepared) -> Result<(), WriteError> {
        let age_max = self.settings().pack_age_max();
        while let Some(old) = prepared.packs.iter().position(|pack| pack.at.elapsed() > age_max) {
            let Uploaded { bytes, index, .. } = &prepared.packs[old];
            prepared.packs[old] = self.send(bytes.clone(), index.clone()).await?;
        }
        Ok(())
    }

    async fn upload(&self, built: Built) -> Result<Uploaded, WriteError> {
        self.send(built.bytes.into(), built.index).await
    }

    /// Writes a pack under a new name.
    async fn send(&self, bytes: Bytes, index: Vec<IndexEntry>) -> Result<Uploaded, WriteError> {
        let mut key = self.pack_key();
        let mut patience = Patience::default();
        loop {
            // Before, so that the age is never taken for less than it is.
            let at = Instant::now();
            let sent = tokio::select! {
                sent = self.store().create(&key, bytes.clone()) => sent,
                failed = self.failure() => return Err(failed),
            };
            match sent {
                Ok(()) => {
                    self.counters().pack(bytes.len());
                    return Ok(Uploaded { key, bytes, index, at });
                }
                // Chance gave us a name that is in use.
                Err(CreateError::Taken { .. }) => key = self.pack_key(),
                Err(CreateError::Store(error)) => self.wait(&mut patience, error).await?,
            }
        }
    }

    fn pack_key(&self) -> Key {
        let ambient = self.ambient();
        let millis = u64::try_from(ambient.clock.now().as_millis()).unwrap_or(0);
        let chance = u128::from((ambient.random)()) << 64 | u128::from((ambient.random)());
        self.folder().pack(self.generation(), PackName::new(millis, chance))
    }

    /// Waits before something is written once more that the store did not take, or says that it
    /// never will.
    pub(crate) async fn wait(
        &self,
        patience: &mut Patience,
        error: StoreError,
    ) -> Result<(), WriteError> {
        // Credentials can be put right, and until then nothing is lost.
        if !error.may_retry() && !matches!(error, StoreError::Denied { .. }) {
            return Err(error.into());
        }
        self.counters().stalled(true);
        warn!(volume_id = %self.folder().volume(), error = &error as &dyn std::error::Error,
            "bucket does not take writes");
        tokio::select! {
            () = tokio::time::sleep(patience.next()) => Ok(()),
            failed = self.failure() => Err(failed),
        }
    }
}

/// Grows from one failure to the next.
#[derive(Default)]
pub(crate) struct Patience(Option<Duration>);

impl Patience {
    fn next(&mut self) -> Duration {
        let next = self.0.map_or(WAIT_FIRST, |last| (last * 2).min(WAIT_LAST));
        *self.0.insert(next)
    }
}

impl Prepared {
    /// Names everything in the map: one transaction.
    pub(crate) fn commit(
        &self,
        map: &mut BlockMap,
        writer: &Writer,
        time: Timestamp,
        mark: Mark,
    ) -> Result<(), BlockMapError> {
        let (mut delta, mut packs) = (Delta::new(), Vec::with_capacity(self.packs.len()));
        self.zeroes.iter().for_each(|(start, count)| delta.zero(*start, *count));
        let folder = writer.folder();
        for Uploaded { key, bytes, index, .. } in &self.packs {
            let id = map.allocate_pack()?;
            entries_of(index, id).for_each(|(block, entry)| delta.set(block, entry));
            let relative = key.relative_to(folder.root());
            packs.push(Pack {
                id,
                owner: folder.volume().clone(),
                key: relative.expect("packs are written below the volume's folder").to_owned(),
                bytes: u32::try_from(bytes.len()).expect("a pack is far below 4 GiB"),
            });
        }
        map.commit(EpochCommit { time: Some(time), mark, delta, packs }).map(drop)
    }
}
