//! A disk's file as a block device: the kernel's loop driver, with direct I/O.
//!
//! A device stays attached until it is detached, whoever dies: nothing clears it by itself, so
//! that a supervisor which is restarted finds it again with [`find`]. The attached device holds
//! the file's lock, so that a disk has one device at most.
//!
//! Anybody may read of a loop device the path of its backing file. The file that a keeper serves
//! is in no folder, so all that shows is `/disk`; the free text that goes with it stays empty.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sprite_types::ErrorKind;

use crate::sys::loopctl;

/// How often a device that somebody else took in between is given up for the next one.
const RACES_MAX: usize = 64;
/// Block size of the devices.
const BLOCK_BYTES: u32 = 4096;
/// Major number of loop devices. Source: `Documentation/admin-guide/devices.txt`.
const LOOP_MAJOR: u32 = 7;
/// How often a change of the kernel's is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Which file a device shows: its file system's device number and its inode, as of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    pub device: u64,
    pub inode: u64,
}

impl Backing {
    /// Looks at an open file.
    ///
    /// # Errors
    /// If the file's state cannot be read.
    pub fn of(file: &File) -> Result<Self, LoopError> {
        let meta = file.metadata().map_err(system("look at the file"))?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// A file that has a device. Dropping it does not detach.
#[derive(Debug)]
pub struct Attached {
    device: PathBuf,
    number: u32,
    backing: Backing,
    fd: OwnedFd,
}

/// Why a file has no device, or still has one.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// Another device shows this file.
    #[error("the disk has a device already")]
    Attached,
    /// The host has no loop devices.
    #[error("open `/dev/loop-control` (is the `loop` module loaded? does this run as root?)")]
    NoLoop { source: io::Error },
    /// The device would go through the host's page cache, which then lies about flushes.
    #[error("no direct I/O on `{}`", device.display())]
    NoDirectIo { device: PathBuf },
    /// Something still uses the device; it goes with its last user.
    #[error("`{}` is still in use", device.display())]
    Busy { device: PathBuf },
    /// The system refused.
    #[error("loop device: {doing}")]
    System { doing: &'static str, source: io::Error },
}

impl LoopError {
    /// Says what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Attached | Self::Busy { .. } => ErrorKind::Conflict,
            Self::NoDirectIo { .. } => ErrorKind::Unsupported,
            Self::NoLoop { .. } | Self::System { .. } => ErrorKind::Internal,
        }
    }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> LoopError {
    move |source| LoopError::System { doing, source }
}

/// Makes a device of `file`, which must not have been opened by the disk's own server.
///
/// The file is needed no longer afterwards; the device has its own hold on it. Waits for the
/// disk's server, if the file is a disk's.
///
/// # Errors
/// See [`LoopError`].
pub fn attach(file: File, read_only: bool) -> Result<Attached, LoopError> {
    let backing = Backing::of(&file)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(LoopError::Attached),
        Err(error) => return Err(system("lock the file")(error.into())),
    }
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(|source| LoopError::NoLoop { source })?;
    let read_only_flag = if read_only { loopctl::LO_FLAGS_READ_ONLY } else { 0 };
    let flags = loopctl::LO_FLAGS_DIRECT_IO | read_only_flag;
    for _ in 0..RACES_MAX {
        let number = loopctl::free_number(control.as_fd()).map_err(system("find a free one"))?;
        let device = path(number);
        let fd = open(&device, number, read_only).map_err(system("open"))?;
        match loopctl::configure(fd.as_fd(), file.as_fd(), BLOCK_BYTES, flags) {
            Ok(()) => {
                let attached = Attached { device, number, backing, fd };
                return attached.check();
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(system("set up")(error)),
        }
    }
    Err(system("find a free one")(io::ErrorKind::ResourceBusy.into()))
}

/// Finds the device of a file that was attached earlier, by whomever. Needs no server of the disk.
///
/// # Errors
/// If the host's devices cannot be listed.
pub fn find(backing: Backing) -> Result<Option<Attached>, LoopError> {
    for entry in fs::read_dir("/sys/block").map_err(system("list devices"))? {
        let name = entry.map_err(system("list devices"))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        let Some(number) = number.filter(|number| is_bound(*number)) else { continue };
        let device = path(number);
        let Ok(fd) = open(&device, number, true) else { continue };
        if loopctl::status(fd.as_fd()).is_ok_and(|status| status.backing == backing) {
            return Ok(Some(Attached { device, number, backing, fd }));
        }
    }
    Ok(None)
}

impl Attached {
    /// The block device, `/dev/loopN`.
    #[must_use]
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The open device: for writing if it was attached so by this process.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn check(self) -> Result<Self, LoopError> {
        let status = loopctl::status(self.fd.as_fd()).map_err(system("read the state"))?;
        if status.flags & loopctl::LO_FLAGS_DIRECT_IO != 0 {
            return Ok(self);
        }
        let device = self.device.clone();
        loopctl::clear(self.fd.as_fd()).map_err(system("detach"))?;
        Err(LoopError::NoDirectIo { device })
    }

    /// Detaches, and waits until the kernel has let go of the file, for `limit` at most.
    ///
    /// # Errors
    /// [`LoopError::Busy`] if something, such as a mount, still uses the device. It is detached
    /// by the kernel when that ends.
    pub fn detach(self, limit: Duration) -> Result<(), LoopError> {
        let deadline = Instant::now() + limit;
        match loopctl::clear(self.fd.as_fd()) {
            Ok(()) => {}
            // Nobody's any more: an earlier detach has come to its end.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
            Err(error) => return Err(system("detach")(error)),
        }
        let Self { device, number, backing, fd } = self;
        // The kernel detaches with the last user, and that is often this descriptor.
        drop(fd);
        while shows(number, backing) {
            if Instant::now() >= deadline {
                return Err(LoopError::Busy { device });
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Whether the device still shows the file, rather than nothing or another one.
fn shows(number: u32, backing: Backing) -> bool {
    is_bound(number)
        && open(&path(number), number, true)
            .and_then(|fd| loopctl::status(fd.as_fd()))
            .is_ok_and(|status| status.backing == backing)
}

/// The folder is there exactly while the device shows something.
fn is_bound(number: u32) -> bool {
    Path::new(&format!("/sys/block/loop{number}/loop")).exists()
}

fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Opens the node, making it where `/dev` is not kept by the kernel.
fn open(device: &Path, number: u32, read_only: bool) -> io::Result<OwnedFd> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = access | OFlags::CLOEXEC;
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
