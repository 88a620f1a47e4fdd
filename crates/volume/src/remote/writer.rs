//! The one writer of a volume.

use std::sync::Arc;

use sprite_blockmap::{BlockMap, BlockMapError, EpochInfo, Mark};
use sprite_lease::{Claim, Leases};
use sprite_ltx::database::{Capture, CaptureError, Captured};
use sprite_ltx::replica::{CommitError, Files, Maintenance, Publisher};
use sprite_store::{Ambient, Store};
use sprite_types::{BlockIndex, Epoch, Generation, Timestamp};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tracing::{debug, info};

use super::settings::{Counters, RemoteSettings};
use super::upload::Patience;
use super::{Reader, SealedEpoch, WriteError};
use crate::bucket::{VolumeFolder, VolumeRecord};

/// Writes a volume. Cheap to clone; clones are the same writer.
#[derive(Clone)]
pub struct Writer {
    // First: the map's connection is closed before the log's descriptors.
    reader: Reader,
    inner: Arc<Inner>,
    log: Arc<Mutex<Log>>,
}

struct Inner {
    folder: VolumeFolder,
    record: VolumeRecord,
    claim: Claim,
    leases: Leases,
    ambient: Ambient,
    settings: RemoteSettings,
    /// The newest epoch that is in the bucket.
    durable: watch::Sender<Epoch>,
    failed: watch::Sender<Option<Final>>,
}

/// Why nothing is written any more.
#[derive(Clone, Debug)]
enum Final {
    Fenced { held: Option<Generation> },
    Broken { reason: Arc<str> },
}

/// The map's way into the bucket. Who holds it may change the map.
pub(crate) struct Log {
    capture: Capture,
    publisher: Publisher,
    /// Captured, and not known to be in the bucket.
    pending: Option<Captured>,
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
        let inner = Inner { folder, record, claim, leases, ambient, settings, durable, failed };
        let log = Arc::new(Mutex::new(Log { capture, publisher, pending: None }));
        Self { reader, inner: Arc::new(inner), log }
    }

    /// Returns what the volume is.
    #[must_use]
    pub fn record(&self) -> &VolumeRecord {
        &self.inner.record
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

    /// Marks epochs as expiring: they cannot be forked any more, and be pruned in a while.
    ///
    /// # Errors
    /// As [`Writer::commit`]; [`WriteError::Map`] if one is not there or is the head.
    pub async fn expire(&self, epochs: Vec<Epoch>) -> Result<(), WriteError> {
        let now = self.ambient().clock.now();
        self.change(move |map| map.expire(&epochs, now)).await
    }

    /// Does what keeps opening fast, if anything is due: folds the map, compacts its files,
    /// makes a snapshot. Says whether something was done.
    ///
    /// # Errors
    /// - [`WriteError::Fenced`], [`WriteError::Broken`]: as [`Writer::commit`].
    /// - [`WriteError::Maintenance`], [`WriteError::Map`]: nothing is lost; try later.
    pub async fn maintain(&self) -> Result<bool, WriteError> {
        let turn = self.begin().await?;
        let fold = |map: &mut BlockMap| Ok(map.fold_due()? && map.fold().map(|()| true)?);
        let (folded, mut turn) = self.change_holding(turn, fold).await?;
        let wants = turn.publisher.wants();
        match wants {
            Maintenance::None => return Ok(folded),
            Maintenance::Compact => {
                let head = Some(self.reader.head());
                self.maintained(turn.publisher.compact(head).await)?;
            }
            Maintenance::Snapshot => self.snapshot(&mut turn).await?,
        }
        self.truncate(turn).await;
        Ok(true)
    }

    /// Ends in order: everything that was committed is in one snapshot, and the claim is
    /// released, so that whoever comes next waits for nothing. This writer is of no use then.
    ///
    /// Commits that are under way end in [`WriteError::Broken`]: wait for them before.
    ///
    /// # Errors
    /// - [`WriteError::Fenced`]: somebody else took over before.
    /// - [`WriteError::Release`], [`WriteError::Maintenance`]: everything is safe; the next
    ///   open takes longer, or needs a person.
    pub async fn release(self) -> Result<(), WriteError> {
        let turn = self.begin().await?;
        let (_, mut turn) = self.change_holding(turn, BlockMap::fold).await?;
        self.snapshot(&mut turn).await?;
        let mut turn = self.truncate(turn).await;
        let Log { capture, publisher, .. } = &mut *turn;
        if capture.tip() == publisher.tip()
            && let Err(error) =
                capture.record().save(capture.path(), &self.claim().claimant.host_boot, true)
        {
            debug!(error = &error as &dyn std::error::Error, "map will be fetched again");
        }
        self.fail(Final::Broken { reason: "it was released".into() });
        let Inner { leases, claim, ambient, .. } = &*self.inner;
        let released = leases.release(claim, ambient.clock.now(), (ambient.random)()).await;
        released.map_err(WriteError::Release)?;
        info!(volume_id = %self.folder().volume(), generation = %claim.generation, "volume released");
        Ok(())
    }

    /// Runs one change of the map that adds no epoch, as one transaction, and makes it durable.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BlockMap) -> Result<T, BlockMapError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let turn = self.begin().await?;
        self.change_in(turn, change).await
    }

    async fn change_in<T: Send + 'static>(
        &self,
        turn: Turn,
        change: impl FnOnce(&mut BlockMap) -> Result<T, BlockMapError> + Send + 'static,
    ) -> Result<T, WriteError> {
        self.change_holding(turn, change).await.map(|(value, _)| value)
    }

    async fn change_holding<T: Send + 'static>(
        &self,
        turn: Turn,
        change: impl FnOnce(&mut BlockMap) -> Result<T, BlockMapError> + Send + 'static,
    ) -> Result<(T, Turn), WriteError> {
        let reader = self.reader.clone();
        // The turn goes along: if this call is dropped, nobody else's begins before the map is
        // as the change left it.
        let changed = spawn_blocking(move || {
            let changed = change(&mut reader.map());
            (changed, turn)
        });
        let (changed, mut turn) =
            changed.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let value = changed?;
        self.settle(&mut turn).await?;
        Ok((value, turn))
    }

    /// Waits until the epoch before `epoch` is durable, and for the right to add it.
    async fn turn_of(&self, epoch: Epoch) -> Result<Turn, WriteError> {
        let mut durable = self.inner.durable.subscribe();
        tokio::select! {
            // An error: the sender is ours.
            _ = durable.wait_for(|durable| durable.next() >= epoch) => {}
            failed = self.failure() => return Err(failed),
        }
        let turn = self.begin().await?;
        let expected = self.reader.head().next();
        if expected == epoch {
            return Ok(turn);
        }
        Err(WriteError::OutOfOrder { expected, found: epoch })
    }

    /// Waits for the right to change the map. What a dropped call left is in the bucket then.
    pub(crate) async fn begin(&self) -> Result<Turn, WriteError> {
        self.check()?;
        let mut turn = self.log.clone().lock_owned().await;
        self.settle(&mut turn).await?;
        Ok(turn)
    }

    /// Brings every transaction of the map into the bucket.
    async fn settle(&self, log: &mut Log) -> Result<(), WriteError> {
        let (mut patience, mut published) = (Patience::default(), false);
        loop {
            self.check()?;
            if let Some(captured) = &log.pending {
                match log.publisher.publish(captured).await {
                    Ok(_) => {
                        self.counters().transaction(captured.file.bytes.len());
                        (log.pending, published) = (None, true);
                    }
                    Err(CommitError::Store(error)) => {
                        if let Err(error) = self.wait(&mut patience, error).await {
                            return Err(self.broken(error));
                        }
                        continue;
                    }
                    Err(CommitError::Fenced { held, .. }) => {
                        return Err(self.fail(Final::Fenced { held }));
                    }
                    Err(error) => return Err(self.broken(error)),
                }
            }
            let now = self.ambient().clock.now();
            log.pending = match log.capture.next(self.generation(), now) {
                // Nobody but us empties the log of a map. If it cannot be followed, somebody
                // removed or replaced it, and the file without its log is an older state.
                Ok(Some(captured)) if captured.is_whole => {
                    let reason = "the log of the map was replaced".into();
                    return Err(self.fail(Final::Broken { reason }));
                }
                Ok(captured) => captured,
                Err(error) => return Err(self.broken(error)),
            };
            if log.pending.is_none() {
                return self.settled(published);
            }
        }
    }

    /// Says that the bucket has everything, if that can be.
    fn settled(&self, published: bool) -> Result<(), WriteError> {
        let head = self.reader.head();
        if *self.inner.durable.borrow() == head {
            return Ok(());
        }
        // Somebody removed the map's files, say, and SQLite writes to what has no name any more.
        if !published {
            let reason = "the map has an epoch that is not in its log".into();
            return Err(self.fail(Final::Broken { reason }));
        }
        self.inner.durable.send_replace(head);
        Ok(())
    }

    async fn snapshot(&self, log: &mut Log) -> Result<(), WriteError> {
        let snapshot = match log.capture.snapshot(self.generation()) {
            Ok(snapshot) => snapshot,
            Err(error) => return Err(WriteError::Maintenance(error.into())),
        };
        let head = Some(self.reader.head());
        self.maintained(log.publisher.snapshot(&snapshot, head).await)
    }

    /// Empties the log if it can be. It may be, once everything in it is in the bucket.
    async fn truncate(&self, mut turn: Turn) -> Turn {
        let reader = self.reader.clone();
        let emptied = spawn_blocking(move || {
            let Log { capture, publisher, .. } = &mut *turn;
            let tip = publisher.tip().txid;
            let emptied = capture.truncate(reader.map().connection(), tip);
            if let Ok(true) = emptied {
                publisher.note(capture.record());
            }
            (emptied, turn)
        });
        let (emptied, turn): (Result<bool, CaptureError>, Turn) =
            emptied.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        if let Err(error) = emptied {
            debug!(error = &error as &dyn std::error::Error, "log of the map not emptied");
        }
        turn
    }

    fn maintained<T>(&self, result: Result<T, CommitError>) -> Result<(), WriteError> {
        match result {
            Ok(_) => Ok(()),
            Err(CommitError::Fenced { held, .. }) => Err(self.fail(Final::Fenced { held })),
            Err(error) => Err(WriteError::Maintenance(error)),
        }
    }

    /// Returns the files of the map, as far as everything is durable.
    pub(crate) fn files(turn: &Turn) -> Files {
        turn.publisher.files()
    }

    fn broken(&self, error: impl std::error::Error) -> WriteError {
        self.fail(Final::Broken { reason: error.to_string().into() })
    }

    /// Ends this writer's life. The first reason stays.
    fn fail(&self, reason: Final) -> WriteError {
        self.inner.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert(reason);
            is_first
        });
        self.check().err().unwrap_or(WriteError::Broken { reason: "it has ended".into() })
    }

    /// Fails if this writer has ended.
    fn check(&self) -> Result<(), WriteError> {
        match &*self.inner.failed.borrow() {
            None => Ok(()),
            Some(Final::Fenced { held }) => {
                Err(WriteError::Fenced { ours: self.generation(), held: *held })
            }
            Some(Final::Broken { reason }) => Err(WriteError::Broken { reason: reason.clone() }),
        }
    }

    /// Returns when this writer has ended.
    pub(crate) async fn failure(&self) -> WriteError {
        let mut failed = self.inner.failed.subscribe();
        // An error: the sender is ours.
        let _ = failed.wait_for(Option::is_some).await;
        self.check().err().unwrap_or(WriteError::Broken { reason: "it has ended".into() })
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
