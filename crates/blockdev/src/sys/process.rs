//! Peers of sockets, and waking threads out of a blocking read.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

/// Who is at the other end of a unix socket, as of its `connect`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// 0 if the peer is outside our pid namespace.
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// Asks the kernel who connected. (The wrapper in `rustix` has no room for a pid of 0.)
pub(crate) fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("12 bytes");
    // SAFETY: `cred` is writable for `len` bytes and has the layout the option asks for.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(Peer { pid: cred.pid, uid: cred.uid })
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The signal that ends a blocking read. Nothing else in a disk server uses it.
fn wake_signal() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

extern "C" fn nothing(_: libc::c_int) {}

/// Gives the waking signal a handler that does nothing and does not restart calls.
pub(crate) fn prepare_waking() -> io::Result<()> {
    // SAFETY: a zeroed `sigaction` is a valid value; the handler touches nothing.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(wake_signal(), &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the calling thread receive the waking signal, whatever mask it inherited.
pub(crate) fn allow_waking() {
    // SAFETY: the set is initialised before use; only this thread's mask changes.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, wake_signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Ends the blocking call that `thread` is in, if it is in one.
pub(crate) fn wake<T>(thread: &JoinHandle<T>) {
    // SAFETY: the thread has not been joined, so its id is valid even if it has ended.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), wake_signal()) };
}
