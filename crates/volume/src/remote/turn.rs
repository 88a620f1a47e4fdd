//! Taking turns at the map, and bringing what a turn changed into the bucket.

use sprite_blockmap::{BlockMap, BlockMapError};
use sprite_ltx::replica::{CommitError, Files};
use sprite_types::{Epoch, chain};
use tokio::task::spawn_blocking;

use super::WriteError;
use super::upload::Patience;
use super::writer::{Final, Log, Turn, Writer};

impl Writer {
    /// Runs one change of the map that adds no epoch, as one transaction, and makes it durable.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BlockMap) -> Result<T, BlockMapError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let turn = self.begin().await?;
        self.change_in(turn, change).await
    }

    pub(crate) async fn change_in<T: Send + 'static>(
        &self,
        turn: Turn,
        change: impl FnOnce(&mut BlockMap) -> Result<T, BlockMapError> + Send + 'static,
    ) -> Result<T, WriteError> {
        self.change_holding(turn, change).await.map(|(value, _)| value)
    }

    pub(crate) async fn change_holding<T: Send + 'static>(
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
    pub(crate) async fn turn_of(&self, epoch: Epoch) -> Result<Turn, WriteError> {
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

    /// Returns the files of the map, as far as everything is durable.
    pub(crate) fn files(turn: &Turn) -> Files {
        turn.publisher.files()
    }

    fn broken(&self, error: impl std::error::Error) -> WriteError {
        self.fail(Final::Broken { reason: chain(&error).into() })
    }

    /// Ends this writer's life. The first reason stays.
    pub(crate) fn fail(&self, reason: Final) -> WriteError {
        self.inner.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert(reason);
            is_first
        });
        self.check().err().unwrap_or(WriteError::Broken { reason: "it has ended".into() })
    }

    /// Fails if this writer has ended.
    pub(crate) fn check(&self) -> Result<(), WriteError> {
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
}
