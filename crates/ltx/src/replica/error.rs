//! Why a database in the bucket could not be read or written.

use sprite_store::{CreateError, Key, StoreError};
use sprite_types::{ErrorKind, Generation, Txid};

use crate::database::{ApplyError, CaptureError, CompactError, LocalError};
use crate::format::FormatError;

/// Why a database could not be opened or fetched.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody with a higher generation writes it, or our generation was used before. Stop, and
    /// claim a new generation before trying again.
    #[error("generation {held} writes the database, this is generation {ours}")]
    Fenced {
        /// The highest seen in the bucket.
        held: Generation,
        /// Ours.
        ours: Generation,
    },
    /// Somebody else began the same new database at the same time. Open it again.
    #[error("somebody else began the database")]
    Raced,
    /// An object is not what it should be. Restore an older state.
    #[error("`{key}`")]
    Damaged {
        /// Which object.
        key: Key,
        /// What is wrong with it.
        source: DamagedError,
    },
    /// The store failed. A writer needs a new generation to try again, as its fence may be there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files do not make a database.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The local note cannot be read or written.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The local database cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The bucket changed under our eyes again and again.
    #[error("the database did not hold still for {tries} tries")]
    Unsettled {
        /// How often it was tried.
        tries: u32,
    },
}

/// What is wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum DamagedError {
    /// It is no LTX file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It holds other transactions than its name says, or is another file than the manifest says.
    #[error("it is not the file that belongs there")]
    Other,
    /// It is no manifest of its name.
    #[error("it is no manifest of that name")]
    Manifest,
    /// It is missing, though the newest manifest names it.
    #[error("it is missing, and a manifest names it")]
    Lost,
    /// It is missing, though transactions after it exist.
    #[error("it is missing, and later transactions are there")]
    Hole,
}

impl OpenError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Raced | Self::Unsettled { .. } => ErrorKind::Unavailable,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Store(error) => error.kind(),
            Self::Apply(error) => error.kind(),
            Self::Local(error) => error.kind(),
            Self::Capture(error) => error.kind(),
        }
    }

    pub(crate) fn damaged(key: &Key, source: impl Into<DamagedError>) -> Self {
        Self::Damaged { key: key.clone(), source: source.into() }
    }
}

/// Why transactions are not in the bucket.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else wrote this transaction. Stop writing for good; nothing will succeed.
    #[error("transaction {txid} is not ours")]
    Fenced {
        /// The transaction.
        txid: Txid,
        /// Who wrote it, if that could be read.
        held: Option<Generation>,
    },
    /// It is not known whether the file is in the bucket. Publish exactly the same file again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is not the next transaction, is another's, or follows one whose fate is unknown.
    #[error("transaction {found} cannot be published now, {expected} is next")]
    OutOfOrder {
        /// What may be published.
        expected: Txid,
        /// What was given.
        found: Txid,
    },
    /// The snapshot is older than the newest manifest or newer than the bucket. Make a new one.
    #[error("a snapshot of transaction {txid} is of no use now")]
    Stale {
        /// Its transaction.
        txid: Txid,
    },
    /// A file that was committed is damaged. The database can go on, but not be compacted.
    #[error("`{key}`")]
    Damaged {
        /// Which object.
        key: Key,
        /// What is wrong with it.
        source: DamagedError,
    },
    /// The files cannot be compacted.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// The local database cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

impl CommitError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Store(error) => error.kind(),
            Self::OutOfOrder { .. } | Self::Stale { .. } => ErrorKind::Conflict,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Compact(error) => error.kind(),
            Self::Capture(error) => error.kind(),
        }
    }
}

/// What became of a create-only write.
pub(crate) enum Created {
    Ours,
    Taken,
}

/// Separates "somebody else was first" from "nobody knows".
pub(crate) fn created(result: Result<(), CreateError>) -> Result<Created, StoreError> {
    match result {
        Ok(()) => Ok(Created::Ours),
        Err(CreateError::Taken { .. }) => Ok(Created::Taken),
        Err(CreateError::Store(error)) => Err(error),
    }
}
