//! Why the catalog could not do something.

use std::path::PathBuf;

use sprite_types::{ErrorKind, OrgId};

/// A failed catalog operation.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The name is taken.
    #[error("{what} `{name}` already exists")]
    Exists {
        /// `org` or `sprite`.
        what: &'static str,
        /// The taken name.
        name: String,
    },
    /// There is no such record.
    #[error("no {what} `{id}`")]
    NotFound {
        /// `org`, `token` or `sprite`.
        what: &'static str,
        /// What was looked for.
        id: String,
    },
    /// A value breaks a limit of the catalog.
    #[error("{message}")]
    Invalid {
        /// Which, and how.
        message: String,
    },
    /// The org's database cannot be trusted. Restore it from a copy; the other orgs go on.
    #[error("the records of org `{org}` are unreadable: {reason}")]
    Damaged {
        /// Whose.
        org: OrgId,
        /// What is wrong with them.
        reason: String,
    },
    /// A newer release wrote the database. Run that release.
    #[error("the records of org `{org}` have format {found}, this release knows {known}")]
    TooNew {
        /// Whose.
        org: OrgId,
        /// The database's version.
        found: i64,
        /// The newest this release reads.
        known: i64,
    },
    /// Another process has the catalog open.
    #[error("`{}` is in use by another process", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// There is no room. Nothing was changed.
    #[error("no space left for the records of org `{org}`")]
    Full {
        /// Whose.
        org: OrgId,
    },
    /// A file could not be read or written.
    #[error("{what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The database refused.
    #[error("write or read the records of org `{org}`")]
    Database {
        /// Whose.
        org: OrgId,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// The catalog was closed meanwhile.
    #[error("the catalog is closed")]
    Closed,
}

impl CatalogError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists { .. } | Self::InUse { .. } => ErrorKind::Conflict,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::TooNew { .. } => ErrorKind::Unsupported,
            Self::Full { .. } | Self::Closed => ErrorKind::Unavailable,
            Self::Io { .. } | Self::Database { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn database(org: &OrgId, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
        match source.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => {
                Self::Damaged { org: org.clone(), reason: source.to_string() }
            }
            Some(DiskFull) => Self::Full { org: org.clone() },
            _ if is_conversion(&source) => {
                Self::Damaged { org: org.clone(), reason: source.to_string() }
            }
            _ => Self::Database { org: org.clone(), source },
        }
    }
}

/// A row that holds something we never write: as damaged as a broken page.
fn is_conversion(source: &rusqlite::Error) -> bool {
    matches!(
        source,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
    )
}
