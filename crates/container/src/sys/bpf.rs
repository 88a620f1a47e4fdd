//! Loading an eBPF program that decides about devices, and attaching it to a control group.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BpfInstruction {
    pub(crate) code: u8,
    /// Destination register in the low half, source in the high one.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// The beginning of the kernel's `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// Beside what others attached above or will attach below; all must agree.
const ALLOW_MULTI: u32 = 2;

/// Attaches a device program to a cgroup2 directory. It stays until the group is removed.
pub(crate) fn attach_device_filter(
    group: impl AsFd,
    instructions: &[BpfInstruction],
) -> io::Result<()> {
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` and what it points to outlive the call; the kernel copies and verifies it.
    let program = unsafe { call(PROG_LOAD, &load)? };
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let attach = Attach {
        target: group.as_fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_TYPE_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: both descriptors are open, and `attach` outlives the call.
    unsafe { call(PROG_ATTACH, &attach)? };
    Ok(())
}

/// Calls `bpf`.
///
/// # Safety
/// `attributes` must be what the command expects, and its pointers valid.
unsafe fn call<T>(command: i32, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the caller's promise; the size is that of the value.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
