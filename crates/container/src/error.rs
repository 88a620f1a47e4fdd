//! What can go wrong, per operation.

use std::io;

use serde::{Deserialize, Serialize};
use sprite_types::ErrorKind;

/// Why the launcher process could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// Two helpers have the same name.
    #[error("helper `{name}` is registered twice")]
    DuplicateHelper { name: String },
    /// The kernel refused; root is needed.
    #[error("{step}")]
    Os { step: &'static str, source: io::Error },
}

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The root disk is not one we start: the text says what is wrong with it.
    #[error("root file system refused: {detail}")]
    Refused { detail: String },
    /// The kernel refused a step; the hint says what a person can do, where that is known.
    #[error("{step}{}", hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    Setup { step: String, source: io::Error, hint: Option<String> },
    /// This launcher has started a container before.
    #[error("this launcher already started a container")]
    AlreadyStarted,
    /// The launcher process is gone.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
}

impl StartError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } => ErrorKind::Corrupt,
            Self::Setup { .. } | Self::AlreadyStarted => ErrorKind::Internal,
            Self::Launcher(error) => error.kind(),
        }
    }
}

/// The launcher did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The launcher process has ended, and the container with it.
    #[error("the container's launcher has ended")]
    Gone,
    /// The launcher could not do what was asked.
    #[error("container launcher: {message}")]
    Failed { message: String },
}

impl LauncherError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Gone => ErrorKind::Unavailable,
            Self::Failed { .. } => ErrorKind::Internal,
        }
    }
}

/// Why a command did not start. The texts are those a shell would print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SpawnError {
    /// There is no such program.
    #[error("{message}")]
    NotFound { message: String },
    /// There is one, but it cannot be run.
    #[error("{message}")]
    NotExecutable { message: String },
    /// The argument list, or one argument, is too long.
    #[error("{message}")]
    TooLong { message: String },
    /// The working directory cannot be entered.
    #[error("{message}")]
    BadDirectory { message: String },
    /// The container is not running.
    #[error("the container is not running")]
    Gone,
    /// Something else went wrong on our side.
    #[error("{message}")]
    Internal { message: String },
}

impl SpawnError {
    /// Returns the exit code to report for the command, if the failure is the command's own.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::NotFound { .. } => Some(127),
            Self::NotExecutable { .. } | Self::TooLong { .. } => Some(126),
            Self::BadDirectory { .. } => Some(1),
            Self::Gone | Self::Internal { .. } => None,
        }
    }

    /// Returns the text for the command's standard error, without a newline.
    #[must_use]
    pub fn message(&self) -> String {
        self.to_string()
    }

    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NotExecutable { .. } | Self::TooLong { .. } | Self::BadDirectory { .. } => {
                ErrorKind::Invalid
            }
            Self::Gone => ErrorKind::Unavailable,
            Self::Internal { .. } => ErrorKind::Internal,
        }
    }
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The process has ended, or was never ours.
    #[error("no process {pid}")]
    NoProcess { pid: i32 },
    /// There is no such signal.
    #[error("no signal {signal}")]
    NoSignal { signal: i32 },
    /// The launcher did not answer.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
}

impl SignalError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProcess { .. } => ErrorKind::NotFound,
            Self::NoSignal { .. } => ErrorKind::Invalid,
            Self::Launcher(error) => error.kind(),
        }
    }
}
