//! Starting the container: what the cloned child does before it becomes init.
//!
//! It begins in the host's mount namespace, standing in the launcher's work directory, and ends
//! inside a root file system whose contents an attacker may have written. So:
//!
//! - what must exist before the pivot (`proc` and `sysfs` need a fully visible instance in view)
//!   is made detached before it;
//! - nothing of the guest's root is touched before the pivot, when a symbolic link could still
//!   lead to the host;
//! - after it, mount points are opened without following links, and mounts are attached to those
//!   descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
    move_mount,
};
use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{Gid, Uid, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::init;
use super::start::{DEVICES, During, attach, clone_mount};
use crate::channel::Outbox;
use crate::message::StartFailure;
use crate::spec::ContainerSpec;
use crate::sys::{self, Instruction};

/// What the child knows from the start.
pub(super) struct Inside<'spec> {
    pub(super) spec: &'spec ContainerSpec,
    /// Memory that the machine may use, in bytes.
    pub(super) memory_bytes: u64,
    pub(super) filter: &'spec [Instruction],
}

/// The launcher has mapped the ids and staged the root.
#[derive(Serialize, Deserialize)]
pub(super) struct Go {}

/// The child's one message.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The container is complete. Descriptor: its devpts mount.
    Ready {
        warnings: Vec<String>,
    },
    Refused {
        detail: String,
    },
    Failed {
        step: String,
        errno: i32,
    },
}

/// Longest host name that the kernel takes, in bytes.
const HOSTNAME_MAX: usize = 64;

const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const FILES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Directories of sysfs that are covered: they name the host's disks, and through `loop`
/// devices the image file of every sprite, or describe the host's firmware.
///
/// The covers keep programs from stumbling over them. They do not stop the container's root
/// user, who may lift them: were they locked, no nested container manager could mount a sysfs
/// of its own. Disks are therefore attached by paths that say nothing.
const COVERED: [&str; 11] = [
    "block",
    "class/block",
    "devices/virtual/block",
    "fs/ext4",
    "fs/xfs",
    "fs/btrfs",
    "fs/f2fs",
    "firmware",
    "class/dmi",
    "devices/virtual/dmi",
    "kernel/debug",
];

/// Network settings of the new network namespace. IPv6 stays on the loopback interface, which
/// exists already; the interface that comes later gets the default.
const SYSCTLS: [(&str, &str); 3] = [
    ("sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("sys/net/ipv4/ping_group_range", "0 65535"),
    ("sys/net/ipv6/conf/default/disable_ipv6", "1"),
];

/// Finishes the container and becomes its init.
pub(super) fn run(inside: &Inside, socket: OwnedFd) -> ! {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let (report, fds) = match build(inside, &socket) {
            Ok((devpts, warnings)) => (Report::Ready { warnings }, vec![devpts]),
            Err(StartFailure::Refused { detail }) => (Report::Refused { detail }, Vec::new()),
            Err(StartFailure::Setup { step, errno, .. }) => {
                (Report::Failed { step, errno }, Vec::new())
            }
            Err(StartFailure::AlreadyStarted) => unreachable!("only the server says so"),
        };
        let ready = matches!(report, Report::Ready { .. });
        let mut outbox = Outbox::default();
        let sent = outbox.push(&report, fds).and_then(|()| outbox.flush(&socket));
        if sent.is_ok() && ready {
            sys::close_range(3, i32::MAX);
            init::run();
        }
    }));
    sys::exit(if result.is_ok() { 111 } else { 112 });
}

fn build(inside: &Inside, socket: &OwnedFd) -> Result<(OwnedFd, Vec<String>), StartFailure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).during("arm init")?;
    wait_for_go(socket).during("wait for the launcher")?;
    become_root().during("become the container's root")?;
    rustix::process::setsid().during("start a session")?;

    // Copies every mount, and locks the flags of the copies.
    sys::new_namespaces(UnshareFlags::NEWNS).during("unshare the mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).during("make mounts private")?;
    sys::new_namespaces(UnshareFlags::NEWCGROUP).during("unshare the cgroup namespace")?;

    // `pivot_root` refuses an inherited mount, which is locked in place. A copy on top of it is
    // not, but keeps the locked flags.
    let root = clone_mount(Path::new("stage")).during("copy the root mount")?;
    attach(&root, "stage").during("copy the root mount")?;
    let nodes = clone_all(DEVICES.iter().map(|(name, ..)| format!("dev/{name}")))
        .during("copy the device nodes")?;
    let tools: Vec<Option<OwnedFd>> = (0..inside.spec.tools.len())
        .map(|index| clone_mount(Path::new(&format!("tools/{index}"))).ok())
        .collect();
    rustix::process::chdir("stage").during("enter the root mount")?;
    let proc = mount("proc", &[], PLAIN).during("make a proc mount")?;
    let read_only = PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let sysfs = mount("sysfs", &[], read_only).during("make a sysfs mount")?;
    let cgroup2 = match inside.spec.cgroup2_dir {
        Some(_) => Some(mount("cgroup2", &[], PLAIN).during("make a cgroup2 mount")?),
        None => None,
    };
    rustix::process::pivot_root(".", ".").during("pivot into the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).during("let go of the host's root")?;
    rustix::process::chdir("/").during("enter the new root")?;

    // From here on, paths are the guest's.
    let directory = |name: &str| open_directory(name);
    let (proc_dir, sys_dir, dev_dir) = (directory("proc")?, directory("sys")?, directory("dev")?);
    let (run_dir, tmp_dir) = (directory("run")?, directory("tmp")?);
    attach_at(&proc, &proc_dir).during("mount /proc")?;
    attach_at(&sysfs, &sys_dir).during("mount /sys")?;
    cover_sysfs(&sysfs).during("cover parts of /sys")?;
    if let Some(cgroup2) = cgroup2 {
        let target = open_path(&sysfs, "fs/cgroup").during("mount /sys/fs/cgroup")?;
        attach_at(&cgroup2, &target).during("mount /sys/fs/cgroup")?;
    }
    let devpts = fill_dev(&dev_dir, nodes, inside.memory_bytes).during("fill /dev")?;
    let run_size = (inside.memory_bytes / 5).to_string();
    let run =
        mount("tmpfs", &[("mode", "0755"), ("size", &run_size)], FILES).during("fill /run")?;
    attach_at(&run, &run_dir).during("fill /run")?;
    make_directory(&run, "lock", 0o1777).during("fill /run")?;
    let tmp_size = (inside.memory_bytes / 2).to_string();
    let tmp =
        mount("tmpfs", &[("mode", "1777"), ("size", &tmp_size)], FILES).during("mount /tmp")?;
    attach_at(&tmp, &tmp_dir).during("mount /tmp")?;

    let mut warnings = Vec::new();
    for (tool, mount) in inside.spec.tools.iter().zip(tools) {
        let Some(mount) = mount else { continue };
        if let Err(error) = place_tool(&tool.target, &mount) {
            warnings.push(format!("tool `{}` was not placed: {error}", tool.target));
        }
    }
    for (name, value) in SYSCTLS {
        if let Err(error) = write_at(&proc, name, value) {
            warnings.push(format!("`/proc/{name}` was not set to `{value}`: {error}"));
        }
    }
    if let Err(error) = sys::interface_up("lo") {
        warnings.push(format!("the loopback interface is down: {error}"));
    }
    let hostname = inside.spec.hostname.as_bytes();
    let hostname = &hostname[..hostname.len().min(HOSTNAME_MAX)];
    rustix::system::sethostname(hostname).during("set the host name")?;
    silence().during("open the null device")?;
    sys::install_filter(inside.filter).during("install the system call filter")?;
    Ok((devpts, warnings))
}

fn wait_for_go(socket: &OwnedFd) -> io::Result<()> {
    let mut inbox = crate::channel::Inbox::default();
    loop {
        let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None)?;
        let open = inbox.fill(socket)?;
        if inbox.next::<Go>()?.is_some() {
            return Ok(());
        }
        if !open {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn become_root() -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    // Changing ids resets both.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

fn clone_all(paths: impl Iterator<Item = String>) -> rustix::io::Result<Vec<OwnedFd>> {
    paths.map(|path| clone_mount(Path::new(&path))).collect()
}

/// Makes a detached mount. An option without a value is a flag.
fn mount(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for &(key, value) in options {
        match value {
            "" => fsconfig_set_flag(&context, key)?,
            value => fsconfig_set_string(&context, key, value)?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn attach_at(mount: &OwnedFd, target: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Opens a directory of the guest's root, making it if it is missing.
fn open_directory(name: &str) -> Result<OwnedFd, StartFailure> {
    match rustix::fs::mkdirat(CWD, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => Err(error).during(&format!("make /{name}"))?,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => {
            StartFailure::Refused { detail: format!("`/{name}` is not a directory") }
        }
        error => StartFailure::Setup {
            step: format!("open /{name}"),
            errno: error.raw_os_error(),
            hint: None,
        },
    })
}

/// Opens a place below a mount of ours.
fn open_path(mount: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(mount, path, flags, Mode::empty())
}

fn make_directory(mount: impl AsFd, path: &str, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(&mount, path, Mode::from_raw_mode(mode))?;
    // Against our umask.
    rustix::fs::chmodat(mount, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

fn write_at(mount: impl AsFd, path: &str, value: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(mount, path, flags, Mode::empty())?;
    rustix::io::write(file, value.as_bytes()).map(|_| ())
}

fn cover_sysfs(sysfs: &OwnedFd) -> rustix::io::Result<()> {
    let attributes = PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY;
    for path in COVERED {
        let target = match open_path(sysfs, path) {
            Ok(target) => target,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode);
        if kind == FileType::Directory {
            let cover = mount("tmpfs", &[("size", "4k"), ("nr_inodes", "1")], attributes)?;
            attach_at(&cover, &target)?;
        }
    }
    Ok(())
}

/// Fills `/dev` and returns its devpts mount.
fn fill_dev(
    target: &OwnedFd,
    nodes: Vec<OwnedFd>,
    memory_bytes: u64,
) -> rustix::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("mode", "0755"), ("size", "64k"), ("nr_inodes", "64")];
    let dev = mount("tmpfs", &options, attributes)?;
    attach_at(&dev, target)?;
    make_directory(&dev, "net", 0o755)?;
    for ((name, ..), node) in DEVICES.iter().zip(&nodes) {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&dev, *name, flags, Mode::from_raw_mode(0o600))?);
        attach_at(node, &open_path(&dev, name)?)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        make_directory(&dev, name, 0o755)?;
    }
    let options = [
        ("newinstance", ""),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("gid", "5"),
        ("max", "1024"),
    ];
    let devpts = mount("devpts", &options, attributes)?;
    attach_at(&devpts, &open_path(&dev, "pts")?)?;
    let size = (memory_bytes / 2).to_string();
    let shm = mount("tmpfs", &[("mode", "1777"), ("size", &size)], FILES)?;
    attach_at(&shm, &open_path(&dev, "shm")?)?;
    // Not every kernel has POSIX message queues.
    if let Ok(mqueue) = mount("mqueue", &[], PLAIN) {
        attach_at(&mqueue, &open_path(&dev, "mqueue")?)?;
    }
    for (link, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        rustix::fs::symlinkat(to, &dev, link)?;
    }
    Ok(devpts)
}

/// Mounts a tool over a file at `target`, which is made if it is missing. A symbolic link there
/// is replaced; links on the way lead nowhere but inside.
fn place_tool(target: &str, mount: &OwnedFd) -> io::Result<()> {
    let path = Path::new(target);
    let plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), plain) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    if !path.is_absolute() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    std::fs::create_dir_all(parent)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    let is_link = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
        Err(_) => false,
    };
    if is_link {
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o755)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    attach_at(mount, &file)?;
    Ok(())
}

/// Lets go of the agent's standard streams.
fn silence() -> rustix::io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())?;
    debug_assert!(null.as_raw_fd() > 2, "the standard streams are open");
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}
