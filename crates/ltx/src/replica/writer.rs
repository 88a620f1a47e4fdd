//! Both halves of an open database in one hand.

use rusqlite::Connection;
use sprite_types::{Epoch, Timestamp, Txid};

use super::{CommitError, ManifestName, Publisher};
use crate::database::{Capture, CaptureError, Captured, LocalError, Tip};

/// Captures and publishes a database that one task owns. Who captures and uploads at the same
/// time takes the halves.
///
/// Captures and local notes are made where it is called: short reads and writes of local files.
#[derive(Debug)]
pub struct Writer {
    capture: Capture,
    publisher: Publisher,
    /// Captured, and not known to be durable.
    pending: Option<Captured>,
}

impl Writer {
    pub(crate) fn new(capture: Capture, publisher: Publisher) -> Self {
        Self { capture, publisher, pending: None }
    }

    /// Returns the half that reads the database and the one that writes to the bucket.
    ///
    /// # Panics
    /// If a commit failed and was not repeated: its file would be lost.
    #[must_use]
    pub fn into_parts(self) -> (Capture, Publisher) {
        assert!(self.pending.is_none(), "the last commit succeeded");
        (self.capture, self.publisher)
    }

    /// Returns the newest transaction that is known to be durable.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.publisher.tip()
    }

    /// Returns the half that writes to the bucket.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Makes everything that SQLite has committed durable. `Ok` also if there is nothing new.
    ///
    /// # Errors
    /// See [`CommitError`]. After [`CommitError::Store`] call again; the same file is sent.
    ///
    /// # Cancel safety
    /// May be dropped; call again.
    pub async fn commit(&mut self, time: Timestamp) -> Result<Tip, CommitError> {
        self.publisher.check()?;
        loop {
            if let Some(pending) = &self.pending {
                self.publisher.publish(pending).await?;
                self.pending = None;
            }
            self.pending = self.capture.next(self.publisher.generation(), time)?;
            if self.pending.is_none() {
                return Ok(self.publisher.tip());
            }
        }
    }

    /// Empties the log, which must be durable. `false` if it was empty.
    ///
    /// # Errors
    /// - [`CaptureError::NotDurable`]: commit first.
    /// - See [`CaptureError`] for the others.
    pub fn truncate(&mut self, connection: &Connection) -> Result<bool, CaptureError> {
        let emptied = self.capture.truncate(connection, self.durable())?;
        if emptied {
            self.publisher.note(self.capture.record());
        }
        Ok(emptied)
    }

    /// See [`Publisher::compact`].
    ///
    /// # Errors
    /// As there.
    pub async fn compact(
        &mut self,
        head_epoch: Option<Epoch>,
    ) -> Result<Option<ManifestName>, CommitError> {
        self.publisher.compact(head_epoch).await
    }

    /// Makes a snapshot of everything committed. See [`Publisher::snapshot`].
    ///
    /// # Errors
    /// As there; [`CommitError::Stale`] if the last commit failed.
    pub async fn snapshot(
        &mut self,
        head_epoch: Option<Epoch>,
    ) -> Result<Option<ManifestName>, CommitError> {
        self.publisher.check()?;
        let snapshot = self.capture.snapshot(self.publisher.generation())?;
        self.publisher.snapshot(&snapshot, head_epoch).await
    }

    /// Writes a note that holds across a power cut, for a clean end: the next open on this host
    /// need not fetch the database. Transactions that were not committed are cut off then.
    ///
    /// # Errors
    /// - [`LocalError::File`]: the database will be fetched again.
    pub fn close(self) -> Result<(), LocalError> {
        if self.pending.is_some() || self.capture.tip() != self.publisher.tip() {
            return Ok(());
        }
        self.capture.record().save(self.capture.path(), self.publisher.boot(), true)
    }

    /// The newest transaction that may be dropped from the log.
    fn durable(&self) -> Txid {
        if self.pending.is_some() { Txid(0) } else { self.publisher.tip().txid }
    }
}
