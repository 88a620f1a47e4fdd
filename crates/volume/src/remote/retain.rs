//! Forgetting epochs.

use std::collections::BTreeSet;

use sprite_types::Epoch;

use super::{OpenError, WriteError, Writer};
use crate::bucket::{self, Pin};

impl Writer {
    /// Marks epochs as expiring: they cannot be forked any more, and be pruned after
    /// [`sprite_blockmap::EXPIRY_WAIT`].
    ///
    /// # Errors
    /// As [`Writer::commit`]; [`WriteError::Map`] if one is not there or is the head.
    pub async fn expire(&self, epochs: Vec<Epoch>) -> Result<(), WriteError> {
        let now = self.ambient().clock.now();
        self.change(move |map| map.expire(&epochs, now)).await
    }

    /// Takes such marks back.
    ///
    /// # Errors
    /// As [`Writer::commit`]; [`WriteError::Map`] if one is not there.
    pub async fn keep(&self, epochs: Vec<Epoch>) -> Result<(), WriteError> {
        self.change(move |map| map.keep(&epochs)).await
    }

    /// Removes those of the expiring epochs that no fork began as, and what only they needed
    /// from the map. Returns which they were. Their packs are the collector's.
    ///
    /// # Errors
    /// - [`PruneError::Pins`]: not every pin could be read, so nothing was removed.
    /// - [`PruneError::Write`]: as [`Writer::commit`]; [`WriteError::Map`] if one is not
    ///   expiring, or not for long enough.
    pub async fn prune(&self, epochs: Vec<Epoch>) -> Result<Vec<Epoch>, PruneError> {
        // A pin that comes from now on found the epochs expiring, and goes.
        let pinned = self.pinned().await?;
        let epochs: Vec<Epoch> = epochs.into_iter().filter(|e| !pinned.contains(e)).collect();
        let (pruned, now) = (epochs.clone(), self.ambient().clock.now());
        if !epochs.is_empty() {
            self.change(move |map| map.prune(&epochs, now)).await?;
            self.change(|map| map.sweep().map(drop)).await?;
        }
        Ok(pruned)
    }

    /// Returns the epochs that forks began as.
    async fn pinned(&self) -> Result<BTreeSet<Epoch>, OpenError> {
        let listed = self.store().list(&self.folder().pins()).await?;
        let reads = listed.iter().map(async |info| {
            let bytes = self.store().get(&info.key).await?;
            bucket::decode::<Pin>(&bytes)
                .map(|pin| pin.epoch)
                .map_err(|source| OpenError::Document { key: info.key.clone(), source })
        });
        Ok(futures::future::try_join_all(reads).await?.into_iter().collect())
    }
}

/// Why no epochs were removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Not every pin could be read.
    #[error("read the pins")]
    Pins(#[from] OpenError),
    /// The map was not changed, or it is not known.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl PruneError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> sprite_types::ErrorKind {
        match self {
            Self::Pins(error) => error.kind(),
            Self::Write(error) => error.kind(),
        }
    }
}
