//! Why something could not be read.

use std::fmt;
use std::io;

use sprite_types::ErrorKind;

/// A part of a file system that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first 1024 bytes that describe the rest.
    Superblock,
    /// A group descriptor, by the number of its group.
    Group(u64),
    /// An inode, by its number.
    Inode(u32),
    /// A block, by its number.
    Block(u64),
    /// The journal.
    Journal,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => f.write_str("superblock"),
            Self::Group(number) => write!(f, "group {number}"),
            Self::Inode(number) => write!(f, "inode {number}"),
            Self::Block(number) => write!(f, "block {number}"),
            Self::Journal => f.write_str("journal"),
        }
    }
}

/// A failed read of a file system.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The source of blocks did not answer.
    #[error("read {len} bytes at {offset}")]
    Io {
        /// In bytes from the start of the disk.
        offset: u64,
        /// In bytes.
        len: usize,
        /// What the source said.
        source: io::Error,
    },
    /// The bytes cannot be what a sound ext4 holds.
    #[error("{place}: {reason}")]
    Corrupt {
        /// Where.
        place: Place,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The file system uses something that this reader does not know.
    #[error("{place}: {feature} is not supported")]
    Unsupported {
        /// Where.
        place: Place,
        /// What it uses.
        feature: String,
    },
    /// No entry has this path.
    #[error("no such file or folder")]
    NotFound,
    /// A part of the path that is not the last is something else than a folder. Links are not
    /// followed.
    #[error("a part of the path is not a folder")]
    NotADirectory,
    /// Only regular files have content to read.
    #[error("not a regular file")]
    NotAFile,
    /// More than the caller's [`Limits`](crate::Limits) allow.
    #[error("more than {limit} {what}")]
    Limit {
        /// What there was too much of.
        what: &'static str,
        /// How much was allowed.
        limit: u64,
    },
}

impl FsError {
    pub(crate) fn corrupt(place: Place, reason: &'static str) -> Self {
        Self::Corrupt { place, reason }
    }

    pub(crate) fn unsupported(place: Place, feature: impl Into<String>) -> Self {
        Self::Unsupported { place, feature: feature.into() }
    }

    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::NotFound => ErrorKind::NotFound,
            Self::NotADirectory | Self::NotAFile => ErrorKind::Invalid,
            Self::Limit { .. } => ErrorKind::Limited,
        }
    }
}

impl From<FsError> for io::Error {
    fn from(error: FsError) -> Self {
        let kind = match &error {
            FsError::Io { source, .. } => source.kind(),
            FsError::Corrupt { .. } => io::ErrorKind::InvalidData,
            FsError::Unsupported { .. } => io::ErrorKind::Unsupported,
            FsError::NotFound => io::ErrorKind::NotFound,
            FsError::NotADirectory => io::ErrorKind::NotADirectory,
            FsError::NotAFile => io::ErrorKind::InvalidInput,
            FsError::Limit { .. } => io::ErrorKind::QuotaExceeded,
        };
        Self::new(kind, error)
    }
}

/// What could not be read, by its path. Whatever else there is, is still listed.
#[derive(Debug, thiserror::Error)]
#[error("`{}`", String::from_utf8_lossy(path))]
pub struct PathError {
    /// From the top, beginning with `/`.
    pub path: Vec<u8>,
    /// Why.
    pub source: FsError,
}
