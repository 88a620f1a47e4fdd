//! Why the cache could not do something.

use std::io;

use sprite_types::{BlockIndex, Epoch, ErrorKind, Generation};

use super::parts::Parts;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A sync or a journal write failed before: nobody knows what is on the disk. Final until the
    /// volume is opened anew.
    #[error("the cache failed and has to be opened anew")]
    Failed,
    /// This very request found the error after which the cache is [`CacheError::Failed`].
    #[error("{action} of the cache")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// Every slot holds data that the bucket does not have. Wait for an upload.
    #[error("every slot of the cache waits for an upload")]
    Full,
    /// The host's disk is full: the cache cannot grow. Free space, or wait for an upload.
    #[error("no space left on the host for the cache")]
    HostFull,
    /// A write covers a part of 4 KiB only in part, and the rest of it is not in the cache: fetch
    /// the block, [`fill`](super::Cache::fill) it, and write again.
    #[error("block {block} has to be fetched before parts {parts} are written")]
    NeedsFill {
        /// Which block.
        block: BlockIndex,
        /// Which of its parts are needed.
        parts: Parts,
    },
    /// The range does not lie within the volume, or is not a multiple of 512 bytes.
    #[error("{len} bytes at {offset} are not a range of the volume")]
    Range {
        /// Where it starts, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Epochs become durable in the order they were sealed.
    #[error("epoch {epoch} is not the oldest sealed one")]
    Order {
        /// The one that was named.
        epoch: Epoch,
    },
    /// A restore needs everything written before it to be sealed first.
    #[error("the open epoch is not empty")]
    NotSealed,
    /// The caller's note on a seal or a restore is longer than a journal record takes.
    #[error("a note of {len} bytes is too long")]
    NoteTooLong {
        /// How long it is.
        len: usize,
    },
}

impl CacheError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Failed | Self::Io { .. } => ErrorKind::Internal,
            Self::Full | Self::HostFull => ErrorKind::Limited,
            Self::NeedsFill { .. } => ErrorKind::Unavailable,
            Self::Order { .. } | Self::NotSealed => ErrorKind::Conflict,
            Self::Range { .. } | Self::NoteTooLong { .. } => ErrorKind::Invalid,
        }
    }
}

/// Why a cache could not be opened. Nothing was changed that a later try would miss.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host refused.
    #[error("{action} of the cache")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The journal contradicts itself, or no record of it is whole. Keep the directory.
    #[error("the cache's journal is damaged: {what}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// A newer release wrote it, or it is another volume's.
    #[error("the cache does not fit: {what}")]
    Mismatch {
        /// What differs.
        what: &'static str,
    },
    /// The claim is not newer than the one the cache was last written under.
    #[error("the cache was written at generation {found}, the claim is {claimed}")]
    Generation {
        /// The journal's.
        found: Generation,
        /// The caller's.
        claimed: Generation,
    },
    /// The predecessor ended with an error that is final: replay the journal instead.
    #[error("the table belongs to a cache that failed")]
    Failed,
}

impl OpenError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorKind::Limited
            }
            Self::Io { .. } => ErrorKind::Internal,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Mismatch { .. } => ErrorKind::Unsupported,
            Self::Generation { .. } => ErrorKind::Fenced,
            Self::Failed => ErrorKind::Conflict,
        }
    }
}
