//! What the compiler cannot check here: code between fork and exec, signals to numbers, and
//! that a watched descriptor stays open.
#![expect(unsafe_code, reason = "pre_exec, kill and AsyncFd::register have rules of their own")]

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::io::unix::AsyncFd;

use crate::spawn::Target;

/// Watches a descriptor that does not block.
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nothing replaces it in there.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Makes the command the leader of a new session and process group, and, if asked, its standard
/// input the session's terminal.
pub(crate) fn lead_session(command: &mut Command, terminal: bool) {
    // SAFETY: the closure makes system calls only; it neither allocates nor takes locks.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            if terminal {
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            Ok(())
        });
    }
}

/// Sends a signal; that nobody is there is no error.
pub(crate) fn signal(pid: i32, signal: i32, target: Target) {
    let group = match target {
        Target::Group => pid,
        Target::SessionGroup(group) => group,
    };
    if group <= 1 {
        return;
    }
    // SAFETY: `kill` touches no memory; the numbers are those of a process that we started and
    // whose end we have not seen yet.
    unsafe {
        libc::kill(-group, signal);
    }
}
