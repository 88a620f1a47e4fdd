//! `mount_setattr`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Attribute changes of one mount. The bits are `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Default)]
pub(crate) struct MountAttributes<'fd> {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// Maps ids through this user namespace.
    pub(crate) user_namespace: Option<BorrowedFd<'fd>>,
}

impl MountAttributes<'_> {
    pub(crate) const READ_ONLY: u64 = 0x1;
    pub(crate) const NO_SUID: u64 = 0x2;
    pub(crate) const NO_DEV: u64 = 0x4;
    pub(crate) const NO_EXEC: u64 = 0x8;
    const ID_MAP: u64 = 0x10_0000;
}

/// The kernel's `struct mount_attr`, version 0.
#[repr(C)]
struct RawAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes a mount's attributes and makes it private.
pub(crate) fn set_mount_attributes(mount: impl AsFd, change: &MountAttributes) -> io::Result<()> {
    let id_map = if change.user_namespace.is_some() { MountAttributes::ID_MAP } else { 0 };
    let raw = RawAttributes {
        set: change.set | id_map,
        clear: change.clear,
        propagation: libc::MS_PRIVATE,
        user_namespace: change.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a valid C string, `raw` outlives the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const raw,
            size_of::<RawAttributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
