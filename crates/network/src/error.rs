//! Why the network could not be set up.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use sprite_types::ErrorKind;

use crate::cidr::Cidr;

/// A failed network operation.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A setting cannot be used. Change it.
    #[error("{message}")]
    Settings {
        /// Which, and what is expected.
        message: String,
    },
    /// Another process manages the same table. Stop it or choose another table.
    #[error("another sprited uses the firewall table of `{}`", lock.display())]
    InUse {
        /// The lock it holds.
        lock: PathBuf,
    },
    /// Every address is given away.
    #[error("all addresses of {range} are in use")]
    Exhausted {
        /// The range.
        range: Cidr,
    },
    /// A machine left by an earlier `sprited` does not fit the settings. Restart the machine.
    #[error("interface `{interface}` with address `{address}` does not fit the network settings")]
    Misfit {
        /// The machine's interface.
        interface: String,
        /// The machine's address.
        address: String,
    },
    /// A program we need is not installed.
    #[error("`{program}` is not installed; on Debian and Ubuntu: apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Where Debian and Ubuntu keep it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{what}: `{program}` says: {message}")]
    Command {
        /// The program.
        program: &'static str,
        /// What it was to do.
        what: &'static str,
        /// What it wrote to standard error.
        message: String,
    },
    /// A file of the kernel or a lock could not be used.
    #[error("{what} `{}`", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Nothing can be answered on the gateway's port 53.
    #[error("listen for DNS on {gateway}:53")]
    Dns {
        /// The gateway.
        gateway: Ipv4Addr,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl NetworkError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Settings { .. } => ErrorKind::Invalid,
            Self::InUse { .. } | Self::Misfit { .. } => ErrorKind::Conflict,
            Self::Exhausted { .. } => ErrorKind::Limited,
            Self::Missing { .. } => ErrorKind::Unavailable,
            Self::Command { .. } | Self::File { .. } | Self::Dns { .. } => ErrorKind::Internal,
        }
    }
}
