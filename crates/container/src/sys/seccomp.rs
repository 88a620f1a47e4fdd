//! Installing a seccomp filter.

use std::io;

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    instructions: *const Instruction,
}

/// Installs a filter for this process and everything it starts. Needs `CAP_SYS_ADMIN` in the
/// process's user namespace; `no_new_privs` is left alone, so that set-user-id programs work.
pub(crate) fn install_filter(filter: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = Program { len, instructions: filter.as_ptr() };
    // SAFETY: `program` and the instructions it points to outlive the call; the kernel copies
    // and checks them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
