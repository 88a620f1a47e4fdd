//! The one writer of a volume.

use std::sync::Arc;

use sprite_blockmap::{BlockMap, EpochInfo, Mark};
use sprite_lease::{Claim, Leases};
use sprite_ltx::database::{Capture, Captured};
use sprite_ltx::replica::Publisher;
use sprite_store::{Ambient, CreateError, Series, Store};
use sprite_types::{BlockIndex, Epoch, Generation, Timestamp};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::settings::{Counters, RemoteSettings};
use super::{Reader, RecordError, SealedEpoch, WriteError};
use crate::bucket::{self, FrontEnd, VolumeFolder, VolumeRecord};

/// Writes a volume. Cheap to clone; clones are the same writer.
#[derive(Clone)]
pub struct Writer {
    // First: the map's connection is closed before the log's descriptors.
    pub(crate) reader: Reader,
    pub(crate) inner: Arc<Inner>,
    pub(crate) log: Arc<Mutex<Log>>,
}

pub(crate) struct Inner {
    folder: VolumeFolder,
    record: watch::Sender<VolumeRecord>,
    pub(crate) claim: Claim,
    pub(crate) leases: Leases,
    pub(crate) ambient: Ambient,
    settings: RemoteSettings,
    /// The newest epoch that is in the bucket.
    pub(crate) durable: watch::Sender<Epoch>,
    pub(crate) failed: watch::Sender<Option<Final>>,
}

/// Why nothing is written any more.
#[derive(Clone, Debug)]
pub(crate) enum Final {
    Fenced { held: Option<Generation> },
    Broken { reason: Arc<str> },
}

/// The map's way into the bucket. Who holds it may change the map.
pub(crate) struct Log {
    pub(crate) capture: Capture,
    pub(crate) publisher: Publisher,
    /// Captured, and not known to be in the bucket.
    pub(crate) pending: Option<Captured>,
}

/// The right to change the map, with everything before it in the bucket.
pub(crate) type Turn = OwnedMutexGuard<Log>;

/// What a writer is made of.
pub(crate) struct Parts {
    pub(crate) folder: VolumeFolder,
    pub(crate) record: VolumeRecord,
    pub(crate) claim: Claim,
    pub(crate) leases: Leases,
    pub(crate) ambient: Ambient,
    pub(crate) settings: RemoteSettings,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (volume, generation) = (self.folder().volume(), self.generation());
        f.debug_struct("Writer").field("volume", volume).field("generation", &generation).finish()
    }
}

impl Writer {
    pub(crate) fn new(
        parts: Parts,
        reader: Reader,
        (capture, publisher): (Capture, Publisher),
    ) -> Self {
        let Parts { folder, record, claim, leases, ambient, settings } = parts;
        let (durable, failed) = (watch::Sender::new(reader.head()), watch::Sender::new(None));
        let record = watch::Sender::new(record);
        let inner = Inner { folder, record, claim, leases, ambient, settings, durable, failed };
        let log = Arc::new(Mutex::new(Log { capture, publisher, pending: None }));
        Self { reader, inner: Arc::new(inner), log }
    }

    /// Returns what the volume is.
    #[must_use]
    pub fn record(&self) -> VolumeRecord {
        self.inner.record.borrow().clone()
    }

    /// Notes that `front_end` may write from now on, before it does: what a guest's kernel wrote
    /// is never mounted by a host's, here, elsewhere, or in a fork.
    ///
    /// # Errors
    /// - [`RecordError`]: it must not write. Call again.
    pub async fn note_front_end(&self, front_end: FrontEnd) -> Result<(), RecordError> {
        let records = Series::new(self.store().clone(), self.folder().records());
        loop {
            let newest = records.newest(0).await?;
            let (number, bytes) = newest.ok_or(RecordError::Missing)?;
            let key = || records.key(number);
            let decoded = bucket::decode(&bytes);
            let mut record: VolumeRecord =
                decoded.map_err(|source| RecordError::Document { key: key(), source })?;
            let is_known = record.front_ends.contains(&front_end);
            if !is_known {
                record.front_ends.push(front_end);
                match records.append(number, bucket::encode(&record)).await {
                    Ok(_) => {}
                    // Somebody else wrote another version: look at that.
                    Err(CreateError::Taken { .. }) => continue,
                    Err(CreateError::Store(error)) => return Err(error.into()),
                }
            }
            self.inner.record.send_replace(record);
            return Ok(());
        }
    }

    /// Returns the claim that this writer holds, or held.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.inner.claim
    }

    /// Returns the generation of this writer.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.claim.generation
    }

    /// Returns a reader that sees each epoch as it is committed.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Follows the newest epoch that is in the bucket. It never falls.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Epoch> {
        self.inner.durable.subscribe()
    }

    /// Lists the epochs that were not pruned, oldest first, and whether each is durable.
    #[must_use]
    pub fn history(&self) -> Vec<(EpochInfo, bool)> {
        let durable = *self.inner.durable.borrow();
        let with_mark = |info: EpochInfo| (info.epoch <= durable, info);
        let listed = self.reader.history().into_iter().map(with_mark);
        listed.map(|(durable, info)| (info, durable)).collect()
    }

    /// Makes an epoch durable: uploads its packs, waits for the epochs before it, and names it.
    /// Several may be under way at once. While the store does not answer, it goes on trying with
    /// the same bytes.
    ///
    /// # Errors
    /// - [`WriteError::Fenced`]: stop serving the volume.
    /// - [`WriteError::OutOfOrder`]: the number is not the next one.
    /// - [`WriteError::Broken`]: whether it is durable shows when the volume is opened anew.
    /// - Any other: it is not; the epochs after it wait until it is committed.
    ///
    /// # Cancel safety
    /// Dropped, the epoch may or may not become durable; commit it again to find out.
    pub async fn commit(&self, sealed: SealedEpoch) -> Result<Epoch, WriteError> {
        let SealedEpoch { epoch, time, mark, zeroes, blocks } = sealed;
        self.check()?;
        let mut prepared = self.prepare(zeroes, blocks).await?;
        let turn = self.turn_of(epoch).await?;
        self.refresh(&mut prepared).await?;
        let writer = self.clone();
        let commit = move |map: &mut BlockMap| prepared.commit(map, &writer, time, mark);
        self.change_in(turn, commit).await?;
        Ok(epoch)
    }

    /// Makes the state of `from` the newest one, as epoch `epoch`. Returns the blocks whose
    /// entries changed, in order.
    ///
    /// # Errors
    /// As [`Writer::commit`]; [`WriteError::Map`] if `from` is not kept.
    ///
    /// # Cancel safety
    /// As [`Writer::commit`].
    pub async fn restore(
        &self,
        epoch: Epoch,
        from: Epoch,
        time: Timestamp,
        mark: Mark,
    ) -> Result<Vec<BlockIndex>, WriteError> {
        let turn = self.turn_of(epoch).await?;
        let restore = move |map: &mut BlockMap| map.restore(from, Some(time), mark);
        self.change_in(turn, restore).await.map(|(_, changed)| changed)
    }

    /// Makes a kept epoch a checkpoint, or no checkpoint, or says something else about it.
    ///
    /// # Errors
    /// As [`Writer::commit`]; [`WriteError::Map`] if the epoch is not kept.
    pub async fn mark(&self, epoch: Epoch, mark: Mark) -> Result<(), WriteError> {
        self.change(move |map| map.set_mark(epoch, mark)).await
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.reader.blocks()
    }

    pub(crate) fn folder(&self) -> &VolumeFolder {
        &self.inner.folder
    }

    pub(crate) fn ambient(&self) -> &Ambient {
        &self.inner.ambient
    }

    pub(crate) fn settings(&self) -> &RemoteSettings {
        &self.inner.settings
    }

    pub(crate) fn store(&self) -> &Store {
        self.reader.inner.fetcher.store()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.reader.inner.fetcher.counters()
    }
}
