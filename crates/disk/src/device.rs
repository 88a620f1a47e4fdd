//! A disk file as a block device: loop, cleared by the kernel with its last user.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sprite_types::ErrorKind;

use crate::sys;

/// How often a device that somebody else took in between is given up for the next one.
const RACES_MAX: usize = 64;
/// How long the kernel may take to let go of a file after the last user of its device is gone.
const RELEASE_WAIT: Duration = Duration::from_secs(5);
/// Block size of the devices; also right on disks with 4 KiB sectors.
const BLOCK_BYTES: u32 = 4096;
/// Major number of loop devices. Source: `Documentation/admin-guide/devices.txt`.
const LOOP_MAJOR: u32 = 7;

/// A disk that has a device. The device lives until this is dropped and nothing mounts it.
#[derive(Debug)]
pub struct Attached {
    /// The block device, `/dev/loopN`.
    pub device: PathBuf,
    /// Keeps the device while nothing mounts it. Open for reading and writing.
    pub fd: OwnedFd,
    /// Whether the device bypasses the host's page cache.
    pub direct_io: bool,
}

/// Why a disk has no device.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such disk.
    #[error("disk `{}` does not exist", path.display())]
    Missing { path: PathBuf },
    /// Another device shows this disk: its machine still runs, or something mounts it.
    #[error("disk `{}` is attached already", path.display())]
    Busy { path: PathBuf },
    /// The host has no loop devices.
    #[error(
        "open `/dev/loop-control` (is the `loop` module loaded? `modprobe loop`; does this run as root?)"
    )]
    NoLoop { source: io::Error },
    /// Reading the file or setting up the device failed.
    #[error("attach `{}`: {doing}", path.display())]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
}

impl AttachError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Busy { .. } => ErrorKind::Conflict,
            Self::NoLoop { .. } | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// Makes a device of `path`. Waits a little for a device of the past to go away.
pub(crate) fn attach(path: &Path) -> Result<Attached, AttachError> {
    let failed =
        |doing| move |source: io::Error| AttachError::Io { path: path.to_owned(), doing, source };
    let file = lock(path, RELEASE_WAIT)?;
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(|source| AttachError::NoLoop { source })?;
    for _ in 0..RACES_MAX {
        let number = sys::free_loop(control.as_fd()).map_err(failed("find a free device"))?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let fd = open_node(&device, number).map_err(failed("open the device"))?;
        match configure(&fd, &file) {
            Ok(()) => {
                let flags = sys::flags(fd.as_fd()).map_err(failed("read the device's state"))?;
                let direct_io = flags & sys::LO_FLAGS_DIRECT_IO != 0;
                return Ok(Attached { device, fd, direct_io });
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(failed("set up the device")(error)),
        }
    }
    Err(failed("find a free device")(io::ErrorKind::ResourceBusy.into()))
}

/// Binds the file, with direct I/O if the host's file system has that.
fn configure(device: &OwnedFd, file: &File) -> io::Result<()> {
    let (auto, direct) = (sys::LO_FLAGS_AUTOCLEAR, sys::LO_FLAGS_DIRECT_IO);
    match sys::configure(device.as_fd(), file.as_fd(), BLOCK_BYTES, auto | direct) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::configure(device.as_fd(), file.as_fd(), BLOCK_BYTES, auto)
        }
        result => result,
    }
}

/// Opens the node, making it where `/dev` is not kept by the kernel.
fn open_node(device: &Path, number: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(device, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let node = rustix::fs::makedev(LOOP_MAJOR, number);
            let mode = Mode::from_raw_mode(0o600);
            match rustix::fs::mknodat(rustix::fs::CWD, device, FileType::BlockDevice, mode, node) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(rustix::fs::open(device, flags, Mode::empty())?)
        }
        result => Ok(result?),
    }
}

/// Opens the disk and takes its lock, which the device then holds through the open file.
fn lock(path: &Path, wait: Duration) -> Result<File, AttachError> {
    let file = File::options().read(true).write(true).open(path).map_err(|source| match source
        .kind()
    {
        io::ErrorKind::NotFound => AttachError::Missing { path: path.to_owned() },
        _ => AttachError::Io { path: path.to_owned(), doing: "open the file", source },
    })?;
    let started = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if started.elapsed() < wait => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(AttachError::Busy { path: path.to_owned() });
            }
            Err(error) => {
                let source = error.into();
                return Err(AttachError::Io { path: path.to_owned(), doing: "lock", source });
            }
        }
    }
}

/// Waits until no device shows the disk.
///
/// # Errors
/// [`AttachError::Busy`] if one still does after `wait`.
pub(crate) fn wait_released(path: &Path, wait: Duration) -> Result<(), AttachError> {
    lock(path, wait).map(drop)
}
