//! The system calls that `rustix` does not offer safely.
#![expect(unsafe_code, reason = "raw system calls; each use is a few lines")]

mod bpf;
mod mount;
mod process;
mod seccomp;

pub(crate) use bpf::{BpfInstruction, attach_device_filter};
pub(crate) use mount::{MountAttributes, set_mount_attributes};
pub(crate) use process::{
    Cloned, block_signals, clone_process, close_on_exec_from, close_range, detach_keyring, execve,
    exit, fork, interface_up, kill_all_visible, new_mount_namespace, new_namespaces, parse_signal,
    reset_signals, session_of, set_title, wait_for_signal,
};
pub(crate) use seccomp::{Instruction, install_filter};
