//! Reading and writing the kernel's cgroup files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use super::error::CgroupError;

/// Deepest nesting that is cleaned up; `cgroup.max.depth` keeps containers below it.
const DEPTH_MAX: usize = 64;

/// Writes one value with one system call, as the kernel wants it.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let write = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        rustix::io::write(file, value.as_bytes())?;
        Ok(())
    };
    write().map_err(|source| CgroupError::io("write", path, source))
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::io("read", path, source))
}

/// Reads a number; `max` and what is not one count as absent.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Finds `key value` among the lines of a file.
pub(super) fn read_keyed(path: &Path, key: &str) -> Option<u64> {
    keyed(&std::fs::read_to_string(path).ok()?, key)
}

pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Lists the processes directly in a group.
pub(super) fn processes(directory: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Makes a directory unless it exists.
pub(super) fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::io("create", path, source))
        }
        _ => Ok(()),
    }
}

/// Removes a group and all below it that are empty of processes. An absent one is fine.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let result = remove_below(CWD, path, DEPTH_MAX)
        .and_then(|()| Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?));
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the groups below `name`, deepest first. Goes by descriptors: a container may have
/// made paths longer than the kernel accepts.
fn remove_below(parent: impl AsFd, name: &Path, depth: usize) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if depth == 0 {
        return Err(io::Error::other("control groups nested too deeply"));
    }
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let child = entry.file_name();
        if entry.file_type() != FileType::Directory || matches!(child.to_bytes(), b"." | b"..") {
            continue;
        }
        let child = Path::new(OsStr::from_bytes(child.to_bytes()));
        remove_below(&directory, child, depth - 1)?;
        rustix::fs::unlinkat(&directory, child, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_match_whole_keys() {
        let text = "low 0\noom 3\noom_kill 7\nfrozen 1\n";
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "oom_kill"), Some(7));
        assert_eq!(keyed(text, "kill"), None);
    }
}
