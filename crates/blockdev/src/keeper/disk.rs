//! Making the FUSE file system: its mount, which is in no folder, and its first exchange.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::time::Timespec;

use crate::abi::opcode;
use crate::keeper::KeeperError;
use crate::layout::{Layout, PAGE};

/// Requests that the kernel keeps going at once, and from which on it calls itself congested.
const BACKGROUND_MAX: u16 = 64;
const CONGESTED_AT: u16 = 48;
/// What we use of the kernel's offers.
const ASYNC_READ: u32 = 1;
const BIG_WRITES: u32 = 1 << 5;
/// Several direct requests of one caller at once: a loop device is one caller.
const ASYNC_DIO: u32 = 1 << 15;
/// Requests of more than 128 KiB.
const MAX_PAGES: u32 = 1 << 22;
/// The oldest protocol with all of these (Linux 5.4).
const MINOR_MIN: u32 = 31;
/// The newest protocol whose structures this was written against (Linux 6.1 has 7.37).
const MINOR_MAX: u32 = 37;

/// What outlives servers.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) fuse: OwnedFd,
    pub(crate) memory: OwnedFd,
    /// The folder that holds the one file. Closing the last descriptor ends the file system.
    pub(crate) mount: OwnedFd,
}

impl Disk {
    pub(crate) fn create(layout: &Layout) -> Result<Self, KeeperError> {
        let failed =
            |doing| move |error: Errno| KeeperError::System { doing, source: error.into() };
        let memory = make_memory(layout).map_err(failed("make the slots' memory"))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fuse = rustix::fs::open("/dev/fuse", flags, Mode::empty())
            .map_err(failed("open `/dev/fuse` (is the `fuse` module loaded?)"))?;
        let mount = make_mount(&fuse, layout).map_err(failed("make the FUSE file system"))?;
        greet(&fuse, layout)?;
        Ok(Self { fuse, memory, mount })
    }

    /// Whether the kernel still has use for the disk.
    pub(crate) fn is_connected(&self) -> bool {
        let mut fds = [PollFd::new(&self.fuse, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok()
            && !fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}

/// Memory of a fixed length, with the layout at its beginning. Its pages come with the server.
fn make_memory(layout: &Layout) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("sprite-slots", flags)?;
    rustix::fs::ftruncate(&memory, layout.total_bytes() as u64)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    let header = layout.encode();
    if rustix::io::pwrite(&memory, &header, 0)? != header.len() {
        return Err(Errno::IO);
    }
    Ok(memory)
}

/// Mounts without attaching to any folder: nobody finds the file by a path, no other mount
/// namespace inherits it, and nothing is left to unmount, however we end.
fn make_mount(fuse: &OwnedFd, layout: &Layout) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let settings = [
        ("source", "sprite-disk".to_owned()),
        ("fd", fuse.as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()), // octal: a folder
        ("user_id", "0".to_owned()),
        ("group_id", "0".to_owned()),
        ("max_read", layout.request_bytes().to_string()),
    ];
    for (key, value) in settings {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Answers INIT, which comes once and first. So no server ever has to.
fn greet(fuse: &OwnedFd, layout: &Layout) -> Result<(), KeeperError> {
    let failed = |source: io::Error| KeeperError::System { doing: "greet the kernel", source };
    // The kernel refuses to fill anything smaller than two pages.
    let mut request = [0; 2 * PAGE];
    let len = rustix::io::read(fuse, &mut request).map_err(|error| failed(error.into()))?;
    let reply = init_reply(&request[..len], layout)?;
    let sent = rustix::io::write(fuse, &reply).map_err(|error| failed(error.into()))?;
    if sent == reply.len() { Ok(()) } else { Err(failed(io::ErrorKind::WriteZero.into())) }
}

/// Decides on the protocol's version and options.
///
/// Not wanted, because a server could not be replaced: FUSE over `io_uring`, cloned descriptors,
/// resending (its requests get other names than the slots know), passthrough (it hides writes).
fn init_reply(request: &[u8], layout: &Layout) -> Result<[u8; 80], KeeperError> {
    let word =
        |at: usize| request.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(opcode::INIT), Some(unique)) = (word(4), request.get(8..16)) else {
        return Err(KeeperError::Protocol { what: "the first request is not INIT" });
    };
    let (Some(major), Some(minor), Some(offered)) = (word(40), word(44), word(52)) else {
        return Err(KeeperError::Protocol { what: "INIT is too short" });
    };
    let wanted = ASYNC_READ | BIG_WRITES | ASYNC_DIO | MAX_PAGES;
    if major != 7 || minor < MINOR_MIN || offered & wanted != wanted {
        return Err(KeeperError::Kernel { major, minor, missing: wanted & !offered });
    }
    let pages = layout.data_bytes() / PAGE;
    let mut reply = [0; 80];
    crate::abi::write_out_header(&mut reply, 0, 0, 64);
    reply[8..16].copy_from_slice(unique);
    let body = &mut reply[16..];
    body[..4].copy_from_slice(&7u32.to_ne_bytes());
    body[4..8].copy_from_slice(&minor.min(MINOR_MAX).to_ne_bytes());
    body[8..12].copy_from_slice(&layout.request_bytes().to_ne_bytes()); // read-ahead, unused
    body[12..16].copy_from_slice(&wanted.to_ne_bytes());
    body[16..18].copy_from_slice(&BACKGROUND_MAX.to_ne_bytes());
    body[18..20].copy_from_slice(&CONGESTED_AT.to_ne_bytes());
    body[20..24].copy_from_slice(&layout.request_bytes().to_ne_bytes()); // largest write
    body[24..28].copy_from_slice(&1u32.to_ne_bytes()); // times in nanoseconds
    body[28..30].copy_from_slice(&u16::try_from(pages).expect("256 at most").to_ne_bytes());
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(minor: u32, flags: u32) -> Vec<u8> {
        let mut request = vec![0; 104];
        request[..4].copy_from_slice(&104u32.to_ne_bytes());
        request[4..8].copy_from_slice(&opcode::INIT.to_ne_bytes());
        request[8..16].copy_from_slice(&2u64.to_ne_bytes());
        request[40..44].copy_from_slice(&7u32.to_ne_bytes());
        request[44..48].copy_from_slice(&minor.to_ne_bytes());
        request[52..56].copy_from_slice(&flags.to_ne_bytes());
        request
    }

    #[test]
    fn a_kernel_that_offers_everything_gets_only_what_is_wanted() {
        let layout = Layout::new(8, 256 << 10, 1 << 30).unwrap();
        let reply = init_reply(&init(45, u32::MAX), &layout).unwrap();
        assert_eq!(reply[..4], 80u32.to_ne_bytes());
        assert_eq!(reply[8..16], 2u64.to_ne_bytes());
        assert_eq!(reply[20..24], MINOR_MAX.to_ne_bytes());
        assert_eq!(reply[28..32], (1u32 | 1 << 5 | 1 << 15 | 1 << 22).to_ne_bytes());
        assert_eq!(reply[44..46], 64u16.to_ne_bytes(), "pages per request");
    }

    #[test]
    fn a_kernel_without_asynchronous_direct_io_is_refused() {
        let layout = Layout::new(8, 256 << 10, 1 << 30).unwrap();
        let error = init_reply(&init(45, !ASYNC_DIO), &layout).unwrap_err();
        assert!(matches!(error, KeeperError::Kernel { missing: ASYNC_DIO, .. }));
        assert!(init_reply(&init(30, u32::MAX), &layout).is_err());
        assert!(init_reply(&[0; 104], &layout).is_err());
        for len in 0..56 {
            assert!(init_reply(&init(45, u32::MAX)[..len], &layout).is_err());
        }
    }
}
