//! The process that keeps a disk while its servers come and go.
//!
//! A keeper is one small process per disk, without threads. It makes the FUSE file system, greets
//! the kernel, and then only hands out: the descriptors and slots to a server, the folder to who
//! attaches the disk. It reads and answers no request, so there is little in it that could fail.
//! It starts no servers either: what to start, with which rights and how often is for whoever
//! started the keeper.
//!
//! # Invariants
//! - The disk is granted to one server at a time, and to the next one only when the process of
//!   the last is gone with all its threads.
//! - A keeper waits for no client.
//!
//! # Not here
//! The client's side of the socket: [`Client`]. What is done with the descriptors: the server.

mod client;
mod disk;
mod state;
pub(crate) mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sprite_types::ErrorKind;

pub use crate::socket::ReceiveError;
pub use client::{CallError, Client, Deposit, Granted, Keeping, Mount, Status};
pub use wire::{DEPOSITS_MAX, Refusal, WireError};

use crate::keeper::disk::Disk;
use crate::layout::{Layout, LayoutError};

/// Clients that may be connected at once, waiting ones included.
const CLIENTS_MAX: usize = 16;

/// Which disk to keep, and for whom. Since 0.1.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket to listen on. Its folder must be one that only root can change.
    pub socket: PathBuf,
    /// Length of the disk in bytes, a multiple of 4096.
    pub len_bytes: u64,
    /// Requests that can be with a server at once, 2 to 256. Default 16.
    pub slots: u16,
    /// The most data of one request, in bytes, 64 KiB to 1 MiB. A server locks `slots` times this
    /// into memory. Default 256 KiB.
    pub request_bytes: u32,
}

impl Settings {
    /// Makes the default settings for a disk of `len_bytes`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, len_bytes: u64) -> Self {
        Self { socket: socket.into(), len_bytes, slots: 16, request_bytes: 256 << 10 }
    }
}

/// Why there is no keeper (any more).
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A setting is out of bounds.
    #[error("check the settings of the keeper")]
    Settings { source: LayoutError },
    /// Another keeper listens at that socket.
    #[error("a keeper listens on `{}` already", socket.display())]
    Running { socket: PathBuf },
    /// The socket could not be made.
    #[error("listen on `{}`", socket.display())]
    Listen { socket: PathBuf, source: io::Error },
    /// The kernel's FUSE is too old or lacks something.
    #[error("the kernel speaks FUSE {major}.{minor} and lacks the features {missing:#x}")]
    Kernel { major: u32, minor: u32, missing: u32 },
    /// The kernel did not behave as documented.
    #[error("greet the kernel: {what}")]
    Protocol { what: &'static str },
    /// The system refused something.
    #[error("{doing}")]
    System { doing: &'static str, source: io::Error },
}

impl KeeperError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Settings { .. } => ErrorKind::Invalid,
            Self::Running { .. } => ErrorKind::Conflict,
            Self::Kernel { .. } => ErrorKind::Unsupported,
            Self::Listen { .. } | Self::Protocol { .. } | Self::System { .. } => {
                ErrorKind::Internal
            }
        }
    }
}

/// Why a keeper has ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, while no server had the disk.
    Stopped,
    /// The kernel has closed the disk.
    Disconnected,
}

/// Keeps a disk, until told to stop or the kernel closes it. Blocks; wants a thread of its own,
/// and a process of its own to be of use.
///
/// Clients can connect at once; they are greeted when the disk is there. At most one keeper per
/// disk may be starting at a time.
///
/// # Errors
/// See [`KeeperError`].
pub fn run(settings: &Settings) -> Result<Ended, KeeperError> {
    let Settings { socket, len_bytes, slots, request_bytes } = settings;
    let layout = Layout::new(*slots, *request_bytes, *len_bytes)
        .map_err(|source| KeeperError::Settings { source })?;
    let bound = Bound::new(socket)?;
    let disk = Disk::create(&layout)?;
    keep(Some(disk), &bound)
}

/// Keeps a disk that a server gives it ([`crate::Server::move_to`]), because its keeper was lost.
/// Otherwise as [`run`].
///
/// # Errors
/// See [`KeeperError`].
pub fn run_replacement(socket: &Path) -> Result<Ended, KeeperError> {
    keep(None, &Bound::new(socket)?)
}

fn keep(disk: Option<Disk>, bound: &Bound) -> Result<Ended, KeeperError> {
    protect_from_oom();
    tracing::info!(socket = %bound.path.display(), "keeper ready");
    let ended = state::State::new(disk, &bound.listener).run()?;
    tracing::info!(?ended, "disk given up");
    Ok(ended)
}

/// Without the keeper the next end of a server is the end of the disk, and it frees nothing.
fn protect_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::warn!(%error, "keeper not protected from the out-of-memory killer");
    }
}

/// A socket with a name, which goes when this is dropped.
struct Bound {
    listener: OwnedFd,
    path: PathBuf,
}

impl Bound {
    /// Takes the name, also from a keeper that died without removing it.
    fn new(path: &Path) -> Result<Self, KeeperError> {
        let failed = |source| KeeperError::Listen { socket: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
        let socket = || {
            let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
            rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
        };
        let listener = socket().map_err(|error| failed(error.into()))?;
        match rustix::net::bind(&listener, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::ADDRINUSE) => {
                let probe = socket().map_err(|error| failed(error.into()))?;
                match rustix::net::connect(&probe, &address) {
                    Err(rustix::io::Errno::CONNREFUSED) => {}
                    Err(error) => return Err(failed(error.into())),
                    Ok(()) => return Err(KeeperError::Running { socket: path.to_owned() }),
                }
                std::fs::remove_file(path).map_err(failed)?;
                rustix::net::bind(&listener, &address).map_err(|error| failed(error.into()))?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        let bound = Self { listener, path: path.to_owned() };
        // Nobody gets in before `listen`, so there is no moment with other rights.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let backlog = i32::try_from(CLIENTS_MAX).expect("small");
        rustix::net::listen(&bound.listener, backlog).map_err(|error| failed(error.into()))?;
        Ok(bound)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "socket of the keeper not removed");
        }
    }
}
