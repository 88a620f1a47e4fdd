//! The loop driver's calls. Source: `linux/loop.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::loopdev::Backing;

const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;

pub(crate) const LO_FLAGS_READ_ONLY: u32 = 1;
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    /// Free text that anybody may read; we leave it empty.
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

impl LoopInfo64 {
    fn new(flags: u32) -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// What a loop device shows at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) backing: Backing,
    pub(crate) flags: u32,
}

/// Returns the number of a device that is free at this moment, making one if none is.
pub(crate) fn free_number(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the request takes no argument and returns a number or -1.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Binds `file` to `device` in one step. `EBUSY`: somebody else was faster.
pub(crate) fn configure(
    device: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    block_bytes: u32,
    flags: u32,
) -> io::Result<()> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let config =
        LoopConfig { fd, block_size: block_bytes, info: LoopInfo64::new(flags), reserved: [0; 8] };
    // SAFETY: `config` has the layout of `struct loop_config` and outlives the call, which only
    // reads it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks what the device shows. `ENXIO`: nothing.
pub(crate) fn status(device: BorrowedFd<'_>) -> io::Result<Status> {
    let mut info = LoopInfo64::new(0);
    // SAFETY: `info` has the layout of `struct loop_info64` and is writable for the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) };
    if result == 0 {
        let backing = Backing { device: info.device, inode: info.inode };
        Ok(Status { backing, flags: info.flags })
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives the backing file up, now or with the last user of the device.
pub(crate) fn clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
