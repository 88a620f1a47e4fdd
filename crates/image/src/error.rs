//! Why an image could not be made, found or removed.

use std::io;
use std::path::PathBuf;

use sprite_types::ErrorKind;

/// Why an image could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Images can be built on, and from, Debian and Ubuntu only. Import one instead.
    #[error(
        "cannot build an image from `{found}`: Debian 12 or Ubuntu 24.04, or newer, is needed; `sprited image import` takes a root file system made elsewhere"
    )]
    Distribution { found: String },
    /// The host's apt knows no archive of its own distribution.
    #[error(
        "no usable entry for {distribution} `{codename}` in /etc/apt/sources.list or /etc/apt/sources.list.d; add the distribution's archive there (http or https)"
    )]
    Sources { distribution: String, codename: String },
    /// A program that the build needs is not installed.
    #[error("`{program}` is not installed; run `script/bootstrap`, or `apt-get install {package}`")]
    Program { program: &'static str, package: &'static str },
    /// Making file systems with foreign owners takes root.
    #[error("making an image needs root; use sudo")]
    NotRoot,
    /// A step of the build failed.
    #[error("{step}: `{command}` failed; {hint}\n{tail}\nthe whole log: {}", log.display())]
    Step { step: String, command: String, hint: String, tail: String, log: PathBuf },
    /// What was given cannot be used.
    #[error("{what}")]
    Invalid { what: String },
    /// There is no such image.
    #[error("no image `{name}`; `sprited image list` shows those there are")]
    NotFound { name: String },
    /// The caller gave up.
    #[error("stopped before the image was complete; nothing is left of it")]
    Cancelled,
    /// The host's file system refused something.
    #[error("{doing}")]
    Io { doing: String, source: io::Error },
}

impl ImageError {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Distribution { .. } | Self::Invalid { .. } => ErrorKind::Invalid,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NotRoot => ErrorKind::Forbidden,
            Self::Step { .. } | Self::Cancelled => ErrorKind::Unavailable,
            Self::Sources { .. } | Self::Program { .. } | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}
