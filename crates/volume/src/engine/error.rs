//! Why the disk did not do as asked.

use std::sync::Arc;

use sprite_blockmap::BlockMapError;
use sprite_lease::ClaimError;
use sprite_types::{Epoch, ErrorKind};

use crate::cache::{self, CacheError};
use crate::remote::{ReadError, WriteError};

/// Why a request or a change failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The disk has ended, for this reason: it was taken over, closed, or an error was final.
    /// Nothing succeeds until it is opened anew.
    #[error("the disk has ended: {reason}")]
    Ended {
        /// Why.
        reason: Arc<str>,
    },
    /// The cache refused; [`CacheError::HostFull`] is a lack of room.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A block could not be fetched.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The map does not have what was asked for.
    #[error(transparent)]
    Map(#[from] BlockMapError),
    /// Too many checkpoints wait for the bucket. Try later.
    #[error("too many checkpoints wait for the bucket")]
    Busy,
    /// Everything is in the bucket; it could not be said in the claim, or the map not be tidied.
    #[error("release the volume")]
    Release(#[source] WriteError),
}

impl EngineError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Ended { .. } => ErrorKind::Internal,
            Self::Cache(error) => error.kind(),
            Self::Read(error) => error.kind(),
            Self::Map(error) => error.kind(),
            Self::Busy => ErrorKind::Limited,
            Self::Release(error) => error.kind(),
        }
    }
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The cache could not be opened.
    #[error(transparent)]
    Cache(#[from] cache::OpenError),
    /// Who held the volume since the cache was last used could not be found out.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The cache's journal has a checkpoint or a restore that says nothing readable. Keep the
    /// directory.
    #[error("the note of epoch {epoch} in the cache's journal cannot be read")]
    Note {
        /// Which epoch.
        epoch: Epoch,
    },
    /// What was left in the cache could not be brought into the bucket.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
