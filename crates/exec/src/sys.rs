//! The two things here that the compiler cannot check: code between fork and exec, and signals
//! to numbers.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec; kill takes raw numbers")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::spawn::Target;

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
    if pid <= 1 {
        return;
    }
    let pid = if target == Target::Group { -pid } else { pid };
    // SAFETY: `kill` touches no memory; the numbers are those of a process that we started and
    // whose end we have not seen yet.
    unsafe {
        libc::kill(pid, signal);
    }
}
