//! Why a machine could not be made.

use std::path::PathBuf;

use sprite_container::cgroup::CgroupError;
use sprite_network::NetworkError;
use sprite_types::ErrorKind;

/// A boot that failed. Nothing of the machine is left.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Its resource limits could not be set up.
    #[error("make the machine's cgroups")]
    Cgroup(#[source] CgroupError),
    /// It has no network.
    #[error("prepare the machine's network")]
    Network(#[source] NetworkError),
    /// A file of the machine's folder could not be written.
    #[error("write `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The agent's program could not be started.
    #[error("start `{}`", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The agent ended before it answered.
    #[error("the machine's agent ended at once ({status}): {log}")]
    Ended {
        /// How.
        status: String,
        /// The last lines it wrote.
        log: String,
    },
    /// The agent did not answer in time.
    #[error("the machine's agent did not answer within {seconds} s: {log}")]
    Silent {
        /// How long was waited.
        seconds: u64,
        /// The last lines it wrote.
        log: String,
    },
    /// More machines than the host has ids for.
    #[error("no user ids are left for another machine")]
    NoIds,
}

impl BootError {
    /// Says what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }

    /// Returns a text for the sprite's user, without details of the host.
    #[must_use]
    pub const fn public(&self) -> &'static str {
        match self {
            Self::Cgroup(_) => "the host could not set the machine's limits; see its log",
            Self::Network(_) => "the host could not give the machine a network; see its log",
            Self::Io { .. } | Self::Spawn { .. } | Self::NoIds => {
                "the host could not make a machine; see its log"
            }
            Self::Ended { .. } | Self::Silent { .. } => {
                "the machine did not start; the host's log says why"
            }
        }
    }
}
