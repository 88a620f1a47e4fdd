//! Why an object could not be read or written.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use sprite_types::ErrorKind;

use crate::Key;

/// What was asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Write an object whose name must be free.
    Create,
    /// Write an object, replacing what is there.
    Overwrite,
    /// Read a whole object.
    Get,
    /// Read some of an object.
    GetRange,
    /// Read an object's size and time.
    Head,
    /// Read the names in a folder.
    List,
    /// Remove an object.
    Delete,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Overwrite => "overwrite",
            Self::Get => "get",
            Self::GetRange => "get a range of",
            Self::Head => "look at",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

/// How one attempt on a back end failed. Texts hold neither bodies nor credentials.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// The name is not free. Only for [`Operation::Create`].
    #[error("an object of this name exists")]
    Taken,
    /// There is no such object.
    #[error("there is no such object")]
    Missing,
    /// The range ends beyond the object.
    #[error("the range ends beyond the object")]
    OutOfRange {
        /// Length of the object in bytes, if the store said it.
        size_bytes: Option<u64>,
    },
    /// The object is larger than the caller is ready to hold.
    #[error("the object has {size_bytes} bytes")]
    TooLarge {
        /// Length of the object in bytes.
        size_bytes: u64,
    },
    /// No answer, or one that says to come again. A write may have happened, or happen later.
    #[error("{reason}")]
    Transient {
        /// What was seen.
        reason: String,
        /// How long the store asked us to wait.
        retry_after: Option<Duration>,
    },
    /// The store knows us and does not allow this, or does not know us.
    #[error("{reason}")]
    Denied {
        /// What the store said.
        reason: String,
    },
    /// Repeating the same request cannot help: the request or the store's configuration is wrong.
    #[error("{reason}")]
    Refused {
        /// What is wrong.
        reason: String,
    },
}

impl Failure {
    /// Makes a failure that another attempt may not have.
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None }
    }

    /// Makes a failure that every attempt would have.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// A failed operation. After a failed write the outcome is unknown: the object may be there, or
/// appear later; only the same write with the same bytes may follow.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("no object `{key}`")]
    NotFound {
        /// Which.
        key: Key,
    },
    /// The store did not answer usefully in the time that the settings give it. Try later.
    #[error("{operation} `{name}`, {attempts} attempts")]
    Unavailable {
        /// What was tried.
        operation: Operation,
        /// On which object or folder.
        name: String,
        /// How often.
        attempts: u32,
        /// What the last attempt saw.
        source: Failure,
    },
    /// The store does not allow it. Look at the credentials.
    #[error("{operation} `{name}` is not allowed")]
    Denied {
        /// What was tried.
        operation: Operation,
        /// On which object or folder.
        name: String,
        /// What the store said.
        source: Failure,
    },
    /// The store cannot do it, now or later. Look at its configuration.
    #[error("{operation} `{name}`")]
    Refused {
        /// What was tried.
        operation: Operation,
        /// On which object or folder.
        name: String,
        /// What is wrong.
        source: Failure,
    },
    /// The object, range or listing is larger than the settings allow.
    #[error("{operation} `{name}`: {size} is more than {size_max}")]
    TooLarge {
        /// What was tried.
        operation: Operation,
        /// On which object or folder.
        name: String,
        /// Size in bytes, or number of objects of a listing.
        size: u64,
        /// The setting that it exceeds.
        size_max: u64,
    },
    /// The object does not have these bytes. It is not what the caller took it for.
    #[error("bytes {} to {} of `{key}` are not all there", range.start, range.end)]
    OutOfRange {
        /// Which object.
        key: Key,
        /// What was asked for.
        range: Range<u64>,
        /// Length of the object in bytes, if known.
        size_bytes: Option<u64>,
    },
    /// This handle must not touch that name: a mistake of ours, stopped before it did harm.
    #[error("{operation} `{name}` is outside the scope of this store")]
    OutsideScope {
        /// What was tried.
        operation: Operation,
        /// On which object or folder.
        name: String,
    },
}

impl StoreError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Denied { .. } => ErrorKind::Forbidden,
            Self::Refused { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::OutOfRange { .. } => ErrorKind::Corrupt,
            Self::OutsideScope { .. } => ErrorKind::Internal,
        }
    }

    /// Says whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Returns the object's key, or the folder's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::NotFound { key } | Self::OutOfRange { key, .. } => key.as_str(),
            Self::Unavailable { name, .. }
            | Self::Denied { name, .. }
            | Self::Refused { name, .. }
            | Self::TooLarge { name, .. }
            | Self::OutsideScope { name, .. } => name,
        }
    }
}

/// Why an object was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Other bytes are under that name, seen twice. Somebody else won; retrying never succeeds.
    #[error("`{key}` exists with other bytes")]
    Taken {
        /// Which name.
        key: Key,
    },
    /// It is not known whether our bytes are under that name, or will be. Create again with the
    /// same bytes, or stop relying on the name.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CreateError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Taken { .. } => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }

    /// Says whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        matches!(self, Self::Store(error) if error.may_retry())
    }
}
