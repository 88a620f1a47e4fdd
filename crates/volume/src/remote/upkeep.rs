//! Keeping the next open fast, and ending in order.

use sprite_blockmap::BlockMap;
use sprite_ltx::database::CaptureError;
use sprite_ltx::replica::{CommitError, Maintenance};
use tokio::task::spawn_blocking;
use tracing::{debug, info};

use super::WriteError;
use super::writer::{Final, Inner, Log, Turn, Writer};

impl Writer {
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
            Maintenance::Snapshot => turn = self.snapshot(turn).await?,
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
        let (_, turn) = self.change_holding(turn, BlockMap::fold).await?;
        let turn = self.snapshot(turn).await?;
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

    async fn snapshot(&self, turn: Turn) -> Result<Turn, WriteError> {
        let generation = self.generation();
        let made = spawn_blocking(move || (turn.capture.snapshot(generation), turn)).await;
        let (made, mut turn) = made.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        let snapshot = made.map_err(|error| WriteError::Maintenance(error.into()))?;
        let head = Some(self.reader.head());
        self.maintained(turn.publisher.snapshot(&snapshot, head).await)?;
        Ok(turn)
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
}
