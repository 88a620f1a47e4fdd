//! Talking to a keeper: taking the disk, keeping things there, attaching, stopping.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sprite_types::ErrorKind;

use crate::abi::{DISK_NAME, DISK_NODE};
use crate::keeper::wire::{Message, Refusal};
use crate::layout;
use crate::loopdev::Backing;
use crate::socket::{self, ReceiveError};

/// How long a keeper may take for an answer that needs nothing but itself.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Why a keeper did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there (yet, or any more).
    #[error("no keeper listens on `{}`", socket.display())]
    NoKeeper { socket: PathBuf, source: io::Error },
    /// The keeper does not want to.
    #[error("the keeper refuses: {0:?}")]
    Refused(Refusal),
    /// The keeper made its slots in another layout. Nothing was taken.
    #[error("the keeper's slots have layout version {found}, this program knows {known}")]
    Layout { found: u32, known: u32 },
    /// The keeper is gone, late, or of a release that this one does not understand.
    #[error("hear from the keeper")]
    Receive(#[source] ReceiveError),
    /// The keeper answered something else than was asked.
    #[error("the keeper's answer does not fit the question")]
    Answer,
    /// The system refused.
    #[error("call the keeper: {doing}")]
    System { doing: &'static str, source: io::Error },
}

impl CallError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoKeeper { .. } => ErrorKind::NotFound,
            Self::Refused(Refusal::Busy) => ErrorKind::Conflict,
            Self::Refused(Refusal::Full) => ErrorKind::Limited,
            Self::Refused(Refusal::Disconnected) => ErrorKind::NotFound,
            Self::Layout { .. } => ErrorKind::Unsupported,
            Self::Receive(ReceiveError::TimedOut) => ErrorKind::Unavailable,
            Self::Receive(ReceiveError::Wire(_)) => ErrorKind::Unsupported,
            Self::Refused(Refusal::Unexpected)
            | Self::Receive(_)
            | Self::Answer
            | Self::System { .. } => ErrorKind::Internal,
        }
    }
}

/// What a keeper says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The process that has the disk, dead threads of it included.
    pub server_pid: Option<u32>,
    /// How many servers there have been.
    pub incarnation: u32,
    /// Whether the kernel still has the disk.
    pub connected: bool,
    /// Whether a successor waits for the server to end.
    pub waiting: bool,
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    nonce: u64,
    layout: u32,
}

impl Client {
    /// Connects and waits for the keeper's greeting, for `limit` at most.
    ///
    /// # Errors
    /// [`CallError::NoKeeper`] if there is none; it may be starting.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, CallError> {
        let system = |doing| move |error: Errno| CallError::System { doing, source: error.into() };
        let address = SocketAddrUnix::new(path).map_err(system("read the socket's path"))?;
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
            .map_err(system("make a socket"))?;
        rustix::net::connect(&socket, &address).map_err(|error| CallError::NoKeeper {
            socket: path.to_owned(),
            source: error.into(),
        })?;
        match socket::receive(&socket, limit).map_err(CallError::Receive)? {
            (Message::Hello { nonce, layout }, _) => Ok(Self { socket, nonce, layout }),
            _ => Err(CallError::Answer),
        }
    }

    /// Connects to a keeper that may still be starting: tries until `limit` has passed.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_when_ready(path: &Path, limit: Duration) -> Result<Self, CallError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match Self::connect(path, left) {
                Err(CallError::NoKeeper { .. }) if !left.is_zero() => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                result => return result,
            }
        }
    }

    /// Takes the disk for this process: waits until the server before is gone as a whole.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if another successor waits already. [`ReceiveError::TimedOut`] if the
    /// server lives longer than `limit`.
    pub fn take(self, limit: Duration) -> Result<Granted, CallError> {
        if self.layout != layout::VERSION {
            return Err(CallError::Layout { found: self.layout, known: layout::VERSION });
        }
        let (answer, mut fds) = self.call(&Message::Take { nonce: self.nonce }, &[], limit)?;
        match answer {
            Message::Granted { incarnation, keys } if fds.len() == keys.len() + 3 => {
                let deposits = keys.into_iter().zip(fds.drain(3..));
                let deposits = deposits.map(|(key, fd)| Deposit { key, fd }).collect();
                let mut next = || fds.remove(0);
                let (fuse, memory, mount) = (next(), next(), next());
                let keeper = self.socket;
                // The keeper waits for our end only if it hears that we got it.
                send(&keeper, &Message::Ok, &[])?;
                Ok(Granted { fuse, memory, mount, keeper, incarnation, deposits })
            }
            _ => Err(CallError::Answer),
        }
    }

    /// Gets the folder with the disk's file.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn mount(&self) -> Result<Mount, CallError> {
        match self.call(&Message::Mount, &[], ANSWER_WAIT)? {
            (Message::MountGranted, mut fds) if fds.len() == 1 => Ok(Mount(fds.remove(0))),
            _ => Err(CallError::Answer),
        }
    }

    /// Asks how things are.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn status(&self) -> Result<Status, CallError> {
        match self.call(&Message::Status, &[], ANSWER_WAIT)?.0 {
            Message::StatusIs { server_pid, incarnation, connected, waiting } => {
                let server_pid = Some(server_pid).filter(|pid| *pid != 0);
                Ok(Status { server_pid, incarnation, connected, waiting })
            }
            _ => Err(CallError::Answer),
        }
    }

    /// Gives the disk up. Detach it first: what still uses it gets I/O errors from then on.
    ///
    /// # Errors
    /// [`Refusal::Busy`] while a server has it.
    pub fn stop(&self) -> Result<(), CallError> {
        expect_ok(self.call(&Message::Stop, &[], ANSWER_WAIT)?.0)
    }

    /// Gives a disk that is served by this process to a keeper that has none.
    pub(crate) fn adopt(
        self,
        incarnation: u32,
        disk: &[BorrowedFd<'_>; 3],
    ) -> Result<OwnedFd, CallError> {
        let message = Message::Adopt { nonce: self.nonce, incarnation };
        expect_ok(self.call(&message, disk, ANSWER_WAIT)?.0)?;
        Ok(self.socket)
    }

    fn call(
        &self,
        message: &Message,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Message, Vec<OwnedFd>), CallError> {
        call(&self.socket, message, fds, limit)
    }
}

fn call(
    socket: &OwnedFd,
    message: &Message,
    fds: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<(Message, Vec<OwnedFd>), CallError> {
    send(socket, message, fds)?;
    match socket::receive(socket, limit).map_err(CallError::Receive)? {
        (Message::Refused(refusal), _) => Err(CallError::Refused(refusal)),
        answer => Ok(answer),
    }
}

fn send(socket: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
    socket::send(socket, message, fds).map_err(|error| match error {
        Errno::PIPE | Errno::CONNRESET => CallError::Receive(ReceiveError::Closed),
        error => CallError::System { doing: "send", source: error.into() },
    })
}

fn expect_ok(answer: Message) -> Result<(), CallError> {
    if answer == Message::Ok { Ok(()) } else { Err(CallError::Answer) }
}

/// What a server gets from its keeper. The disk is this process's until the process ends.
#[derive(Debug)]
pub struct Granted {
    pub(crate) fuse: OwnedFd,
    pub(crate) memory: OwnedFd,
    pub(crate) mount: OwnedFd,
    pub(crate) keeper: OwnedFd,
    /// Counts the servers of this disk, from 1.
    pub incarnation: u32,
    /// What earlier servers have left with the keeper.
    pub deposits: Vec<Deposit>,
}

impl Granted {
    /// Gets what an earlier server left under `key`.
    pub fn take_deposit(&mut self, key: u32) -> Option<OwnedFd> {
        let index = self.deposits.iter().position(|deposit| deposit.key == key)?;
        Some(self.deposits.swap_remove(index).fd)
    }

    /// Makes a handle through which things are left with the keeper.
    ///
    /// # Errors
    /// If no descriptor is to be had.
    pub fn keeping(&self) -> Result<Keeping, CallError> {
        Keeping::new(&self.keeper)
    }
}

/// A descriptor, such as memory, that an earlier server has left with the keeper.
#[derive(Debug)]
pub struct Deposit {
    /// The name that the servers have agreed on.
    pub key: u32,
    pub fd: OwnedFd,
}

/// The right to leave things with the keeper, for the server. Use it from one thread at a time.
#[derive(Debug)]
pub struct Keeping {
    socket: OwnedFd,
}

impl Keeping {
    pub(crate) fn new(socket: &OwnedFd) -> Result<Self, CallError> {
        let socket = socket.try_clone();
        let socket =
            socket.map_err(|source| CallError::System { doing: "copy a socket", source })?;
        Ok(Self { socket })
    }

    /// Leaves a descriptor for successors, in place of what was left under `key` before.
    /// It is safe from this process's death when this returns.
    ///
    /// # Errors
    /// [`Refusal::Full`] if there are [`crate::keeper::DEPOSITS_MAX`] already.
    pub fn deposit(&mut self, key: u32, fd: impl AsFd) -> Result<(), CallError> {
        let message = Message::Deposit { key };
        expect_ok(call(&self.socket, &message, &[fd.as_fd()], ANSWER_WAIT)?.0)
    }

    /// Has the keeper forget what was left under `key`; nothing being there is no error.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn withdraw(&mut self, key: u32) -> Result<(), CallError> {
        expect_ok(call(&self.socket, &Message::Withdraw { key }, &[], ANSWER_WAIT)?.0)
    }
}

/// The folder that holds the disk's file, which is nowhere mounted.
///
/// Not for the server of the disk: see [`crate::Device`].
#[derive(Debug)]
pub struct Mount(OwnedFd);

impl Mount {
    /// Opens the disk as a file. Waits for a server to answer.
    ///
    /// # Errors
    /// If the disk was given up.
    pub fn open(&self, read_only: bool) -> io::Result<File> {
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = access | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, DISK_NAME, flags, Mode::empty())?.into())
    }

    /// The kernel's number of the FUSE connection: the folder's name below
    /// `/sys/fs/fuse/connections`. Needs no server.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn connection(&self) -> io::Result<u32> {
        Ok(self.device()?.1)
    }

    /// What a loop device says that it shows when it shows this disk. Needs no server.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn backing(&self) -> io::Result<Backing> {
        let (major, minor) = self.device()?;
        Ok(Backing { device: rustix::fs::makedev(major, minor), inode: DISK_NODE })
    }

    /// Major and minor number of the file system.
    fn device(&self) -> io::Result<(u32, u32)> {
        // Without "do not sync" the kernel would ask the server.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&self.0, c"", flags, StatxFlags::INO)?;
        Ok((found.stx_dev_major, found.stx_dev_minor))
    }
}
