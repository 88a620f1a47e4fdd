//! Processes: cloning, signals, exec.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// Which side of [`clone_process`] this is.
pub(crate) enum Cloned {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// The kernel's `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks, with `CLONE_*` flags for new namespaces and, if given, directly into a cgroup.
///
/// Must be called from a single-threaded process (or one whose other threads hold no lock that
/// the child will want).
pub(crate) fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: flags | libc::CLONE_PIDFD as u64 | if cgroup.is_some() { INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArguments::default()
    };
    // SAFETY: no memory is shared with the child (no `CLONE_VM`), so this is a plain fork; the
    // pointers are valid for the call.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    match Pid::from_raw(result as i32) {
        None => Ok(Cloned::Child),
        Some(pid) => {
            // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Forks the way the C library does it, which also works from a thread of several as long as
/// the child keeps to what it finds. Returns `None` in the child.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the child is a copy; see above for threads.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Moves this process into new namespaces.
pub(crate) fn new_namespaces(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors stay shared");
    // SAFETY: the descriptor table is not unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Moves this thread into a mount namespace of its own, from which nothing spreads.
pub(crate) fn new_mount_namespace() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    new_namespaces(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Ends this process at once: no destructors, no exit handlers, no unwinding into the parent's
/// copied stack.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Replaces this process. Returns only on failure.
pub(crate) fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer and outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives every signal its default disposition and unblocks all: Rust ignores SIGPIPE, and what
/// is ignored stays ignored in the program that is executed.
pub(crate) fn reset_signals() {
    for number in 1..=64 {
        if number == libc::SIGKILL || number == libc::SIGSTOP {
            continue;
        }
        // SAFETY: sets a default disposition; the C library refuses its own two numbers.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: `set` is initialised by `sigemptyset` before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Blocks every signal that can be blocked.
pub(crate) fn block_signals() {
    // SAFETY: `set` is initialised by `sigfillset` before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Waits until a blocked signal arrives, whichever it is.
pub(crate) fn wait_for_signal() {
    // SAFETY: `set` is initialised by `sigfillset` before it is used; no information is asked for.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigwaitinfo(&set, std::ptr::null_mut());
    }
}

/// Returns the signal with that number, real-time signals included.
pub(crate) fn parse_signal(number: i32) -> Option<Signal> {
    // SAFETY: kernel signal numbers are 1 to 64. The C library's two internal ones are only ever
    // sent to other processes here, where they mean nothing special.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// Returns the session of a process: 0 if it began outside of what this process can see, as
/// the kernel's own threads and what they started.
pub(crate) fn session_of(pid: Pid) -> rustix::io::Result<i32> {
    // SAFETY: plain system call. (`rustix` takes 0 for impossible.)
    match unsafe { libc::getsid(pid.as_raw_nonzero().get()) } {
        -1 => Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error())
            .unwrap_or(rustix::io::Errno::SRCH)),
        session => Ok(session),
    }
}

/// Signals every process this one can see and may signal, except itself and the first process
/// of its pid namespace. Signal 0 only looks. Returns whether there was any.
pub(crate) fn kill_all_visible(signal: i32) -> bool {
    // SAFETY: plain system call. Callers run inside the container's pid namespace.
    unsafe { libc::kill(-1, signal) == 0 }
}

/// Closes descriptors `first ..= last`.
///
/// Whoever owns one of them must never use or drop it: callers are fresh processes that never
/// return into the code that opened them.
pub(crate) fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: see above; the kernel ignores numbers that are not open.
    unsafe { libc::syscall(libc::SYS_close_range, first as u32, last as u32, 0u32) };
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: only sets flags.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Leaves the session keyring that this process inherited for a new, empty one.
pub(crate) fn detach_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring. Fails harmlessly without key support.
    unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
}

/// Sets what `ps` shows: the command name and, as far as there is room, the command line.
pub(crate) fn set_title(title: &CStr) {
    let _ = rustix::thread::set_name(title);
    let Some((start, end)) = argument_area() else { return };
    let title = title.to_bytes();
    // SAFETY: the kernel says that our argument strings lie there, which are writable stack
    // memory of this process; nothing in Rust refers to them (`std::env::args` copies). The
    // last byte stays null, so no reader runs past the end.
    let area = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    area.fill(0);
    let len = title.len().min(area.len().saturating_sub(1));
    area[..len].copy_from_slice(&title[..len]);
}

/// Finds `arg_start` and `arg_end` in `/proc/self/stat`.
fn argument_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and the fields after the name begin with number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (start, end) = (field(48)?, field(49)?);
    (start != 0 && start < end && end - start < 4 << 20).then_some((start, end))
}

/// Brings a network interface of this process's network namespace up.
pub(crate) fn interface_up(name: &str) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is an initialised `ifreq` that outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
