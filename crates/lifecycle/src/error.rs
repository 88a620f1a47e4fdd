//! Why a call about a sprite failed, in words for its user.

use sprite_catalog::CatalogError;
use sprite_types::{ErrorKind, chain};

/// A failed call. Texts are for the user; causes are in the log.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpriteError {
    /// There is no such sprite (any more).
    #[error("sprite not found")]
    NotFound,
    /// The name is taken.
    #[error("sprite already exists: `{name}`")]
    Exists {
        /// The name.
        name: String,
    },
    /// The request cannot be right.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// As many sprites run as may.
    #[error("{current} sprites run, the limit is {limit}")]
    Limited {
        /// How many may run.
        limit: u64,
        /// How many do.
        current: u64,
    },
    /// The host's disk is nearly full.
    #[error("the host's disk is nearly full; nothing new is created until there is room")]
    NoSpace,
    /// Not now.
    #[error("{message}")]
    Unavailable {
        /// Why not.
        message: String,
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// A bug, or a broken host.
    #[error("{message}")]
    Internal {
        /// What failed, without details of the host.
        message: String,
    },
}

impl SpriteError {
    /// Says what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Limited { .. } => ErrorKind::Limited,
            Self::NoSpace | Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// Makes the error for something that is only not ready yet.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), retry_after_s: 2 }
    }
}

impl From<CatalogError> for SpriteError {
    fn from(error: CatalogError) -> Self {
        match &error {
            CatalogError::Exists { name, .. } => Self::Exists { name: name.clone() },
            CatalogError::NotFound { .. } => Self::NotFound,
            CatalogError::Invalid { message } => Self::Invalid { message: message.clone() },
            CatalogError::Full { .. } => Self::NoSpace,
            _ => {
                tracing::error!(error = %chain(&error), "catalog failed");
                Self::Internal { message: "the host's records could not be read or written".into() }
            }
        }
    }
}
