//! The launcher process: forked early, single-threaded, and the parent of everything inside.
//!
//! It answers requests of the agent over one socket and never waits for anything else: entering
//! the container may hang (a program on a dead FUSE mount), and so may ending (a tracer holds
//! the dead). Processes report through a pipe that exec closes, and their ends through pidfds.
//! It does not log: whatever goes wrong is said in an answer.

mod children;
mod enter;
mod init;
mod inside;
mod serve;
mod start;

use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Signal};

use crate::sys;

/// A function that runs inside the container in a process of its own, without executing a
/// file. It gets the descriptor that the request came with, and returns an exit code.
///
/// It may block, but must not start threads before the parent would notice, and cannot rely on
/// any descriptor but its argument.
pub type HelperFn = fn(OwnedFd) -> i32;

/// The registered functions and their names.
pub(crate) type Helpers = Vec<(&'static str, HelperFn)>;

/// Runs the launcher in a freshly forked process until the agent goes away.
pub(crate) fn run(socket: OwnedFd, helpers: Helpers, agent: Pid) -> ! {
    // Never unwind into the copy of the agent's stack.
    let result = catch_unwind(AssertUnwindSafe(|| {
        if prepare(&socket, agent).is_ok() {
            serve::Server::new(socket, helpers).run();
        }
    }));
    sys::exit(if result.is_ok() { 0 } else { 112 });
}

/// Cuts the process off from what it inherited.
fn prepare(socket: &OwnedFd, agent: Pid) -> std::io::Result<()> {
    // Inherited by every process made from here, so that no program in the container can look
    // into one before it executes something.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(agent) {
        return Err(std::io::Error::other("the agent is gone already"));
    }
    sys::block_signals();
    let keep = socket.as_raw_fd();
    sys::close_range(3, keep - 1);
    sys::close_range(keep + 1, i32::MAX);
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::detach_keyring();
    // Also shown for our children until they execute something.
    sys::set_title(c"sprite-launch");
    Ok(())
}
