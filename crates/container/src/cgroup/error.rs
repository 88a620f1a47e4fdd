//! Why a control group operation failed.

use std::io;
use std::path::PathBuf;

use sprite_types::ErrorKind;

/// Why a control group operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No usable hierarchy is mounted. Mount cgroup2 at `/sys/fs/cgroup`.
    #[error("no cgroup hierarchy is mounted; mount cgroup2 on `/sys/fs/cgroup`")]
    NotMounted,
    /// A kernel file could not be read or written.
    #[error("{action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A limit was demanded that this host cannot apply.
    #[error("{limit} limit cannot be applied: {reason}; {fix}")]
    Unapplied { limit: &'static str, reason: String, fix: String },
    /// The machine did not freeze or end in time. It may still do so.
    #[error("`{}` did not {what} in time", path.display())]
    Timeout { what: &'static str, path: PathBuf },
}

impl CgroupError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotMounted | Self::Io { .. } => ErrorKind::Internal,
            Self::Unapplied { .. } => ErrorKind::Unsupported,
            Self::Timeout { .. } => ErrorKind::Unavailable,
        }
    }
}
