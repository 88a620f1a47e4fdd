//! What callers say: the container to start and the commands to run in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Host ids that one container uses: `id_base .. id_base + ID_COUNT`.
pub(crate) const ID_COUNT: u32 = 65_536;

/// A container to start. All host paths are absolute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The root disk.
    pub root: RootDisk,
    /// An existing, empty directory of the host. The launcher mounts a small tmpfs over it in its
    /// private mount namespace and keeps its device nodes, tools and staging mounts there.
    pub work_dir: PathBuf,
    /// First host uid and gid of the container's 65,536.
    pub id_base: u32,
    /// The machine's cgroups, absolute: one directory per hierarchy, limits set.
    pub cgroup_dirs: Vec<PathBuf>,
    /// The one of `cgroup_dirs` that lies in the cgroup2 hierarchy, if there is one.
    pub cgroup2_dir: Option<PathBuf>,
    /// Host name inside.
    pub hostname: String,
    /// Host programs to offer inside, read-only.
    pub tools: Vec<Tool>,
    /// Allows netfilter inside (iptables, nft, docker's bridge).
    pub allow_netfilter: bool,
}

/// Where the container's root file system is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RootDisk {
    /// A block device with an ext4 file system; the launcher mounts it.
    Device(PathBuf),
    /// A directory on which a file system that supports idmapped mounts is mounted already,
    /// visible in the launcher's mount namespace. Should be mounted `nosuid,nodev,noexec`.
    Mounted(PathBuf),
}

/// A host program offered inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// File on the host. It is copied, so a later change on the host is not seen.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: String,
}

/// Who a command runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// The default user: `sprite` by name, else uid 1001.
    Sprite,
    /// The container's root.
    Root,
}

/// What a command's standard input, output and error are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// A new terminal, which becomes the command's controlling terminal.
    Terminal {
        /// Width in characters.
        cols: u16,
        /// Height in characters.
        rows: u16,
    },
    /// Pipes.
    Pipes {
        /// Whether there is input; otherwise the command reads the null device.
        stdin: bool,
    },
}

/// A command to run in the container.
#[derive(Clone, Debug)]
pub struct SpawnSpec {
    /// Arguments, the program's name first. May be empty if `path` is given.
    pub argv: Vec<String>,
    /// Program to run instead of `argv[0]`. Without a `/` it is looked up in the command's
    /// `PATH`.
    pub path: Option<String>,
    /// The whole environment. `HOME`, `USER`, `LOGNAME` and `SHELL` are added from the
    /// container's `/etc/passwd` where they are missing. Of equal names the last counts.
    pub env: Vec<(String, String)>,
    /// Working directory; a relative one starts at the user's home. Absent: the home, or `/` if
    /// there is none.
    pub dir: Option<String>,
    /// Who runs it.
    pub user: User,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Name of the cgroup leaf it starts in, such as `s-12`: [a-z0-9-], at most 64 characters.
    pub leaf: String,
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The process alone.
    Process,
    /// The process group it leads.
    Group,
    /// Another process group of its session, by host pid: a terminal's foreground group.
    SessionGroup(i32),
}

/// Whether `name` can name a cgroup leaf.
pub(crate) fn is_leaf_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}
