//! The container's first process.

use rustix::process::WaitOptions;

use crate::sys;

/// Reaps orphans for ever. Executes nothing, so the container cannot replace it.
pub(super) fn run() -> ! {
    sys::block_signals();
    sys::set_title(c"sprite-init");
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        sys::wait_for_signal();
    }
}
