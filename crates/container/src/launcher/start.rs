//! Starting the container: the trusted side.
//!
//! The order of steps is what makes it safe; see [`super::inside`] for the other half.
//!
//! 1. A tmpfs over the work directory holds device nodes, copies of the tools, and mount points.
//!    The launcher stands in it, and so does the child: neither needs any other host path.
//! 2. The child is cloned into new namespaces, except for mount and cgroup namespaces.
//! 3. We write its id maps, put it into its groups, and attach an idmapped, `nodev` clone of the
//!    root disk *in our own mount namespace*. Only then does the child unshare its mount
//!    namespace: what it copies from a more privileged one has locked flags. Had it attached the
//!    clone itself, its root user could clear `nodev` and open device nodes found on the disk.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::inside::{self, Go, Inside, Report};
use crate::cgroup::{Leaves, MachineCgroup};
use crate::channel::{Inbox, Outbox};
use crate::message::StartFailure;
use crate::seccomp;
use crate::spec::{ContainerSpec, ID_COUNT, RootDisk};
use crate::sys::{self, Cloned, Instruction, MountAttributes};

/// How long the child may take; it only makes system calls on a quiet file system.
const CHILD_TIMEOUT: Duration = Duration::from_secs(60);

/// Device nodes: name and number.
pub(super) const DEVICES: [(&str, u32, u32); 8] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("fuse", 10, 229),
    ("net/tun", 10, 200),
];

/// A started container.
pub(super) struct Started {
    pub(super) init: Pid,
    pub(super) init_pidfd: OwnedFd,
    pub(super) leaves: Leaves,
    pub(super) filter: Vec<Instruction>,
    /// Whether the launcher mounted the root disk, and hence unmounts it.
    pub(super) owns_root: bool,
    pub(super) devpts: OwnedFd,
    pub(super) network: OwnedFd,
    pub(super) warnings: Vec<String>,
}

/// Names the step that failed.
pub(super) trait During<T> {
    fn during(self, step: &str) -> Result<T, StartFailure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &str) -> Result<T, StartFailure> {
        self.map_err(|error| setup(step, &error.into()))
    }
}

fn setup(step: &str, error: &io::Error) -> StartFailure {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    StartFailure::Setup { step: step.to_owned(), errno, hint: hint(step, errno) }
}

/// What a person can do about the failures that hosts are known for.
fn hint(step: &str, errno: i32) -> Option<String> {
    let text = match (step, errno) {
        ("make a proc mount" | "make a sysfs mount", libc::EPERM) => {
            "the host's own `/proc` and `/sys` must be fully visible to sprited; inside another \
             container, start that one privileged"
        }
        ("map ids of the root disk", libc::EINVAL) => {
            "the root file system must be ext4 (or another that supports idmapped mounts), on \
             Linux 5.12 or newer"
        }
        ("create the container's namespaces", libc::ENOSPC) => {
            "raise `user.max_user_namespaces` and its siblings with sysctl"
        }
        ("create the container's namespaces", libc::EPERM) => {
            "sprited must run as root, outside of any chroot, where user namespaces are allowed"
        }
        ("mount the root disk", libc::ENODEV) => "load the `ext4` kernel module",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Starts the container. After a failure nothing is left behind.
pub(super) fn start(spec: &ContainerSpec) -> Result<Started, StartFailure> {
    let result = prepare_work_dir(spec).and_then(|warnings| launch(spec, warnings));
    if result.is_err() {
        let _ = rustix::mount::unmount("root", UnmountFlags::DETACH);
        let _ = rustix::process::chdir("/");
        let _ = rustix::mount::unmount(&spec.work_dir, UnmountFlags::DETACH);
    }
    result
}

/// Step 1. Leaves the launcher standing in the work directory.
fn prepare_work_dir(spec: &ContainerSpec) -> Result<Vec<String>, StartFailure> {
    let tools_size: u64 =
        spec.tools.iter().filter_map(|tool| fs::metadata(&tool.source).ok()).map(|m| m.len()).sum();
    // Everyone may pass, nobody may list: the child looks names up with the container's ids.
    let options = format!("mode=0711,nr_inodes=256,size={}", tools_size + (1 << 20));
    let options = std::ffi::CString::new(options).expect("digits and letters");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", &spec.work_dir, "tmpfs", flags, options.as_c_str())
        .during("mount a tmpfs on the work directory")?;
    rustix::process::chdir(&spec.work_dir).during("enter the work directory")?;
    for directory in ["root", "stage", "dev", "dev/net", "tools"] {
        fs::create_dir(directory).during("make directories in the work directory")?;
    }
    for (name, major, minor) in DEVICES {
        make_device(&format!("dev/{name}"), major, minor, spec.id_base)
            .during("make device nodes")?;
    }
    let warnings = copy_tools(spec)?;
    if let RootDisk::Device(device) = &spec.root {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount(device, "root", "ext4", flags, Some(c"discard"))
            .during("mount the root disk")?;
    }
    Ok(warnings)
}

fn make_device(path: &str, major: u32, minor: u32, id_base: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, device)?;
    // Against our umask.
    rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    std::os::unix::fs::chown(path, Some(id_base), Some(id_base))
}

/// Copies the tools and makes the copies read-only; the child's clones inherit that, locked.
/// A tool that is missing must not keep a sprite from starting.
fn copy_tools(spec: &ContainerSpec) -> Result<Vec<String>, StartFailure> {
    let mut warnings = Vec::new();
    for (index, tool) in spec.tools.iter().enumerate() {
        let copy = format!("tools/{index}");
        let result = fs::copy(&tool.source, &copy)
            .and_then(|_| std::os::unix::fs::chown(&copy, Some(spec.id_base), Some(spec.id_base)))
            .and_then(|()| {
                Ok(rustix::fs::chmodat(CWD, &copy, Mode::from_raw_mode(0o755), AtFlags::empty())?)
            });
        if let Err(error) = result {
            warnings.push(format!("tool `{}` is not available: {error}", tool.source.display()));
        }
    }
    let clone = clone_mount(Path::new("tools")).during("make the tools read-only")?;
    let change = MountAttributes {
        set: MountAttributes::READ_ONLY | MountAttributes::NO_SUID | MountAttributes::NO_DEV,
        clear: MountAttributes::NO_EXEC,
        user_namespace: None,
    };
    sys::set_mount_attributes(&clone, &change).during("make the tools read-only")?;
    attach(&clone, "tools").during("make the tools read-only")?;
    Ok(warnings)
}

/// Steps 2 and 3.
fn launch(spec: &ContainerSpec, mut warnings: Vec<String>) -> Result<Started, StartFailure> {
    let leaves = Leaves::prepare(&spec.cgroup_dirs, spec.cgroup2_dir.as_deref(), spec.id_base)
        .map_err(|error| cgroup_failure(&error))?;
    if let Err(error) = restart_time() {
        warnings.push(format!("the sprite sees the host's uptime: {error}"));
    }
    let filter = seccomp::filter(spec.allow_netfilter);
    let inside = Inside { spec, memory_bytes: memory_bytes(spec), filter: &filter };
    let (ours, theirs) = UnixStream::pair().during("make a socket pair")?;

    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWNET;
    let cloned = sys::clone_process(u64::from(flags.bits()), None)
        .during("create the container's namespaces")?;
    let (pid, pidfd) = match cloned {
        Cloned::Child => {
            drop(ours);
            inside::run(&inside, theirs.into())
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let result = settle(spec, &leaves, pid, &ours);
    // On both paths: the child has its own copy, or no use for one.
    let _ = rustix::mount::unmount("stage", UnmountFlags::DETACH);
    match result.and_then(|settled| enter_pid_namespace(&pidfd).map(|()| settled)) {
        Ok((devpts, network, more)) => {
            warnings.extend(more);
            let owns_root = matches!(spec.root, RootDisk::Device(_));
            let init_pidfd = pidfd;
            Ok(Started {
                init: pid,
                init_pidfd,
                leaves,
                filter,
                owns_root,
                devpts,
                network,
                warnings,
            })
        }
        Err(failure) => {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            Err(failure)
        }
    }
}

/// Gives the cloned child what it needs and waits until it is the container's init.
fn settle(
    spec: &ContainerSpec,
    leaves: &Leaves,
    pid: Pid,
    socket: &UnixStream,
) -> Result<(OwnedFd, OwnedFd, Vec<String>), StartFailure> {
    let number = pid.as_raw_nonzero();
    let map = format!("0 {} {ID_COUNT}\n", spec.id_base);
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{number}/{file}"), &map).during("write the id maps")?;
    }
    leaves.join_root(pid).map_err(|error| cgroup_failure(&error))?;
    stage_root(spec, &format!("/proc/{number}/ns/user"))?;
    let network = fs::File::open(format!("/proc/{number}/ns/net"))
        .during("open the container's network namespace")?;

    let mut outbox = Outbox::default();
    outbox.push(&Go {}, Vec::new()).during("talk to the container's init")?;
    outbox.flush(socket).during("talk to the container's init")?;
    let (report, fds) = receive(socket).during("talk to the container's init")?;
    let warnings = match report {
        Report::Ready { warnings } => warnings,
        Report::Refused { detail } => return Err(StartFailure::Refused { detail }),
        Report::Failed { step, errno } => {
            return Err(setup(&step, &io::Error::from_raw_os_error(errno)));
        }
    };
    let devpts = fds.into_iter().next().ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO));
    let devpts = devpts.during("talk to the container's init")?;
    // Not before: its group was to become the root of its cgroup namespace.
    leaves.move_to_leaf(pid, "init").map_err(|error| cgroup_failure(&error))?;
    Ok((devpts, network.into(), warnings))
}

/// Attaches the idmapped clone of the root disk in our mount namespace, on `stage`.
fn stage_root(spec: &ContainerSpec, user_namespace: &str) -> Result<(), StartFailure> {
    let root = match &spec.root {
        RootDisk::Device(_) => Path::new("root"),
        RootDisk::Mounted(path) => path,
    };
    let clone = clone_mount(root).during("clone the root mount")?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let user_namespace = rustix::fs::openat(CWD, user_namespace, flags, Mode::empty())
        .during("open the container's user namespace")?;
    let change = MountAttributes {
        set: MountAttributes::NO_DEV,
        clear: MountAttributes::NO_SUID | MountAttributes::NO_EXEC,
        user_namespace: Some(user_namespace.as_fd()),
    };
    sys::set_mount_attributes(&clone, &change).during("map ids of the root disk")?;
    attach(&clone, "stage").during("stage the root disk")
}

/// Waits for the child's one message.
fn receive(socket: &UnixStream) -> io::Result<(Report, Vec<OwnedFd>)> {
    let deadline = Instant::now() + CHILD_TIMEOUT;
    let mut inbox = Inbox::default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left))?;
        let open = inbox.fill(socket)?;
        if let Some(message) = inbox.next()? {
            return Ok(message);
        }
        if !open {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// From here on, every process that the launcher makes is born in the container's pid
/// namespace, and yet is the launcher's own child.
fn enter_pid_namespace(init: &OwnedFd) -> Result<(), StartFailure> {
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .during("enter the container's pid namespace")
}

/// Makes the children's clocks start at zero, as on a machine that has just been started.
fn restart_time() -> io::Result<()> {
    use rustix::time::{ClockId, clock_gettime};
    sys::new_namespaces(UnshareFlags::NEWTIME)?;
    for (name, clock) in [("monotonic", ClockId::Monotonic), ("boottime", ClockId::Boottime)] {
        let offset = format!("{name} {} 0\n", -clock_gettime(clock).tv_sec);
        fs::write("/proc/self/timens_offsets", offset)?;
    }
    Ok(())
}

/// What tmpfs sizes are reckoned from: the machine's memory.
fn memory_bytes(spec: &ContainerSpec) -> u64 {
    let info = rustix::system::sysinfo();
    let host = info.totalram as u64 * u64::from(info.mem_unit);
    let cgroup = MachineCgroup::from_dirs(&spec.cgroup_dirs, spec.cgroup2_dir.as_deref());
    cgroup.memory_limit().unwrap_or(host).min(host)
}

fn cgroup_failure(error: &crate::cgroup::CgroupError) -> StartFailure {
    use std::error::Error;
    let errno = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    StartFailure::Setup {
        step: format!("prepare control groups: {error}"),
        errno: errno.unwrap_or(libc::EIO),
        hint: None,
    }
}

/// Makes a detached copy of a mount.
pub(super) fn clone_mount(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path, flags)
}

/// Attaches a detached mount at a path of ours.
pub(super) fn attach(mount: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", CWD, path, flags)
}
