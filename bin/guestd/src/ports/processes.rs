//! Which process holds a socket. Best effort: from the host's `/proc`, for few processes.

use std::io::Read;
use std::path::Path;

/// Processes and descriptors looked at before giving up.
const PROCESSES_MAX: usize = 256;
const DESCRIPTORS_MAX: usize = 4096;
/// How deep cgroups may be nested below the one given.
const DEPTH_MAX: usize = 4;
const FILE_MAX: u64 = 64 * 1024;

/// Returns the pid, as seen inside the sprite, of a process in the cgroup that has the socket
/// open; 0 if none is found.
pub(crate) fn holder(cgroup: &Path, inode: u32) -> i32 {
    let mut pids = Vec::new();
    members(cgroup, DEPTH_MAX, &mut pids);
    let wanted = format!("socket:[{inode}]");
    let mut budget = DESCRIPTORS_MAX;
    let holder = pids.into_iter().find(|pid| holds(*pid, &wanted, &mut budget));
    holder.and_then(inner_pid).unwrap_or(0)
}

fn members(cgroup: &Path, depth: usize, pids: &mut Vec<i32>) {
    let text = read(&cgroup.join("cgroup.procs")).unwrap_or_default();
    let room = PROCESSES_MAX.saturating_sub(pids.len());
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).take(room));
    if depth == 0 || pids.len() >= PROCESSES_MAX {
        return;
    }
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members(&entry.path(), depth - 1, pids);
        }
    }
}

fn holds(pid: i32, wanted: &str, budget: &mut usize) -> bool {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        // The text of the link only; what it leads to is never opened.
        if std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted) {
            return true;
        }
    }
    false
}

/// Translates a pid of the host into the sprite's, which is one namespace further in.
fn inner_pid(pid: i32) -> Option<i32> {
    let status = read(Path::new(&format!("/proc/{pid}/status")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(FILE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}
