//! Why the block map could not do something.

use std::fmt;
use std::path::PathBuf;

use sprite_types::{BlockIndex, Epoch, ErrorKind};

/// Bytes in the file that cannot be what we wrote, and which state they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The epoch whose state needs them, if they belong to one.
    pub epoch: Option<Epoch>,
    /// The first block they describe, if they describe blocks.
    pub block: Option<BlockIndex>,
    /// What is wrong with them.
    pub reason: String,
}

impl Corrupt {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { epoch: None, block: None, reason: reason.into() }
    }

    pub(crate) fn at(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    pub(crate) fn block(mut self, block: u32) -> Self {
        self.block = Some(BlockIndex(block));
        self
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(epoch) = self.epoch {
            write!(f, "epoch {epoch}, ")?;
        }
        if let Some(block) = self.block {
            write!(f, "block {block}, ")?;
        }
        f.write_str(&self.reason)
    }
}

/// A failed operation on a block map. Nothing was changed by it.
#[derive(Debug, thiserror::Error)]
pub enum BlockMapError {
    /// Another connection has the file open.
    #[error("block map `{}` is in use", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else than a block map. It was left alone.
    #[error("`{}` is not a block map: {reason}", path.display())]
    NotAMap {
        /// The file.
        path: PathBuf,
        /// What it has instead.
        reason: String,
    },
    /// A newer release wrote the file. Run that release.
    #[error("block map `{}` has format {found}, this release knows {known}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest this release reads.
        known: i64,
    },
    /// The file is damaged. It is a cache: delete it and fetch it anew from the bucket.
    #[error("block map is damaged: {0}")]
    Corrupt(Corrupt),
    /// There is no such epoch, or it was pruned.
    #[error("no epoch {epoch} in the block map")]
    NoSuchEpoch {
        /// What was looked for.
        epoch: Epoch,
    },
    /// The epoch is about to be pruned, or has to be before it can be, or is the head.
    #[error("epoch {epoch} {reason}")]
    WrongState {
        /// Which.
        epoch: Epoch,
        /// What it is instead.
        reason: &'static str,
    },
    /// A merge was prepared against another content of the block than the head's. Leave the
    /// block out and try again.
    #[error("merging would change the content of block {block}")]
    ContentWouldChange {
        /// The first such block.
        block: BlockIndex,
    },
    /// A value breaks a rule of the map.
    #[error("{reason}")]
    Invalid {
        /// Which, and how.
        reason: String,
    },
    /// There is no room on the file system.
    #[error("no space left for the block map")]
    Full,
    /// The database refused.
    #[error("{what}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
}

impl BlockMapError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } | Self::ContentWouldChange { .. } | Self::WrongState { .. } => {
                ErrorKind::Conflict
            }
            Self::NotAMap { .. } | Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::TooNew { .. } => ErrorKind::Unsupported,
            Self::NoSuchEpoch { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Full => ErrorKind::Unavailable,
            Self::Database { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

impl From<Corrupt> for BlockMapError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// Turns a refusal of SQLite into what the caller can act on.
pub(crate) fn sql(what: &'static str) -> impl Fn(rusqlite::Error) -> BlockMapError {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows,
        SqlInputError,
    };
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    // Our statements fit our tables: one that SQLite does not understand means other tables.
    move |source| match (&source, source.sqlite_error_code()) {
        (_, Some(DatabaseCorrupt | NotADatabase))
        | (
            FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | QueryReturnedNoRows
            | SqlInputError { .. },
            _,
        ) => Corrupt::new(format!("{what}: {source}")).into(),
        (_, Some(DiskFull)) => BlockMapError::Full,
        _ => BlockMapError::Database { what, source },
    }
}
