//! The launcher's side: the container's group and the leaves that its processes start in.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Pid;

use super::error::CgroupError;
use super::files;
use super::machine::kill_tree;

/// The container's group in every hierarchy.
pub(crate) struct Leaves {
    /// `cgroup.procs` of the group in each version 1 hierarchy, kept open for writing. Opened by
    /// the trusted side: the kernel checks the opener's rights.
    v1: Vec<OwnedFd>,
    /// The group in the hierarchy that has leaves.
    tree: Option<PathBuf>,
    /// Whether that hierarchy is cgroup2, where a process can be born into a group.
    is_v2: bool,
}

/// An open leaf, for processes to start in.
pub(crate) struct Leaf<'group> {
    v1: &'group [OwnedFd],
    directory: Option<OwnedFd>,
    processes: Option<OwnedFd>,
}

impl Leaves {
    /// Makes the container's groups below the machine's, and hands the one in cgroup2 to the
    /// container's root user: with it, container managers and systemd work inside.
    pub(crate) fn prepare(
        dirs: &[PathBuf],
        cgroup2: Option<&Path>,
        id_base: u32,
    ) -> Result<Self, CgroupError> {
        let mut v1 = Vec::new();
        let mut tree = None;
        for directory in dirs {
            let group = directory.join("box");
            files::make_directory(&group)?;
            if Some(directory.as_path()) == cgroup2 {
                for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                    let path = if file.is_empty() { group.clone() } else { group.join(file) };
                    chown(&path, Some(id_base), Some(id_base))
                        .map_err(|source| CgroupError::io("hand over", path, source))?;
                }
                tree = Some(group);
            } else {
                v1.push(open_processes(&group)?);
                // Rather not where memory is counted: a leaf takes its counts along.
                let suits = group.join("freezer.state").exists();
                if cgroup2.is_none() && (suits || tree.is_none()) {
                    tree = Some(group);
                }
            }
        }
        Ok(Self { v1, tree, is_v2: cgroup2.is_some() })
    }

    /// Puts a process directly into the container's group, which thus becomes the root of a
    /// cgroup namespace that the process makes.
    pub(crate) fn join_root(&self, pid: Pid) -> Result<(), CgroupError> {
        let text = pid.as_raw_nonzero().to_string();
        for file in &self.v1 {
            rustix::io::write(file, text.as_bytes()).map_err(|source| {
                CgroupError::io("join", "box/cgroup.procs of a version 1 hierarchy", source.into())
            })?;
        }
        match &self.tree {
            Some(tree) if self.is_v2 => files::write(&tree.join("cgroup.procs"), &text),
            _ => Ok(()),
        }
    }

    /// Moves a process on into a leaf.
    pub(crate) fn move_to_leaf(&self, pid: Pid, name: &str) -> Result<(), CgroupError> {
        let Some(tree) = &self.tree else { return Ok(()) };
        files::make_directory(&tree.join(name))?;
        let file = tree.join(name).join("cgroup.procs");
        files::write(&file, &pid.as_raw_nonzero().to_string())
    }

    /// Makes a leaf if there is none of that name, and opens it. If the container has used up
    /// the groups that it may nest, that is init's leaf, so that it can still be entered.
    pub(crate) fn open(&self, name: &str) -> Result<Leaf<'_>, CgroupError> {
        self.open_existing_or_new(name).or_else(|_| self.open_existing_or_new("init"))
    }

    fn open_existing_or_new(&self, name: &str) -> Result<Leaf<'_>, CgroupError> {
        let mut leaf = Leaf { v1: &self.v1, directory: None, processes: None };
        if let Some(tree) = &self.tree {
            let path = tree.join(name);
            files::make_directory(&path)?;
            leaf.processes = Some(open_processes(&path)?);
            if self.is_v2 {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(CWD, &path, flags, Mode::empty());
                leaf.directory = Some(
                    directory.map_err(|source| CgroupError::io("open", &path, source.into()))?,
                );
            }
        }
        Ok(leaf)
    }

    /// Removes a leaf. Returns false if something still runs there.
    pub(crate) fn remove(&self, name: &str) -> bool {
        match &self.tree {
            Some(tree) => files::remove_tree(&tree.join(name)).is_ok(),
            None => true,
        }
    }

    /// Kills everything in a leaf.
    pub(crate) fn kill(&self, name: &str) -> Result<(), CgroupError> {
        let Some(tree) = &self.tree else { return Ok(()) };
        let path = tree.join(name);
        if !path.exists() {
            return Ok(());
        }
        if path.join("cgroup.kill").exists() {
            return files::write(&path.join("cgroup.kill"), "1");
        }
        kill_tree(&path);
        Ok(())
    }
}

impl Leaf<'_> {
    /// The cgroup2 directory that a process can be cloned into.
    pub(crate) fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// Puts the calling process into the leaf; with `born_here` only into the hierarchies that
    /// cloning did not cover. Joining, unlike forking, is not stopped by a full process limit.
    pub(crate) fn join(&self, born_here: bool) -> io::Result<()> {
        let tree = self.processes.iter().filter(|_| !born_here);
        for file in self.v1.iter().chain(tree) {
            rustix::io::write(file, b"0")?;
        }
        Ok(())
    }
}

fn open_processes(group: &Path) -> Result<OwnedFd, CgroupError> {
    let path = group.join("cgroup.procs");
    File::options()
        .write(true)
        .open(&path)
        .map(OwnedFd::from)
        .map_err(|source| CgroupError::io("open", path, source))
}
