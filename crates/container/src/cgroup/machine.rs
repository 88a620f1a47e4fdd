//! One machine's control groups.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::detect::Mode;
use super::error::CgroupError;
use super::files;
use super::limits::Unapplied;

/// How often and how long removal is tried: a group stays busy for a moment after its last
/// process has ended.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// One machine's control groups. A value, not a guard: dropping it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCgroup {
    v1: Vec<PathBuf>,
    v2: Option<PathBuf>,
    mode: Mode,
    unapplied: Vec<Unapplied>,
}

/// What a machine uses. Absent where no controller counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory in bytes, caches included.
    pub memory_bytes: Option<u64>,
    /// Processor time since the start, in microseconds.
    pub cpu_usec: Option<u64>,
    /// Processes killed for want of memory since the start.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
}

impl MachineCgroup {
    /// Refers to groups that exist: one absolute directory per hierarchy, and which of them is
    /// in cgroup2. This is what [`MachineCgroup::dirs`] and [`MachineCgroup::cgroup2_dir`] gave.
    #[must_use]
    pub fn from_dirs(dirs: &[PathBuf], cgroup2_dir: Option<&Path>) -> Self {
        let v1: Vec<PathBuf> =
            dirs.iter().filter(|dir| Some(dir.as_path()) != cgroup2_dir).cloned().collect();
        let mode = match (v1.is_empty(), cgroup2_dir) {
            (true, _) => Mode::V2,
            (false, None) => Mode::V1,
            (false, Some(_)) => Mode::Hybrid,
        };
        Self::new(v1, cgroup2_dir.map(Path::to_owned), mode)
    }

    pub(super) fn new(v1: Vec<PathBuf>, v2: Option<PathBuf>, mode: Mode) -> Self {
        Self { v1, v2, mode, unapplied: Vec::new() }
    }

    pub(super) fn with_unapplied(self, unapplied: Vec<Unapplied>) -> Self {
        Self { unapplied, ..self }
    }

    /// Returns the directories in all hierarchies.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.v1.iter().chain(&self.v2).cloned().collect()
    }

    /// Returns the directory in the cgroup2 hierarchy.
    #[must_use]
    pub fn cgroup2_dir(&self) -> Option<PathBuf> {
        self.v2.clone()
    }

    /// Lists the limits that could not be applied when the groups were made.
    #[must_use]
    pub fn unapplied(&self) -> &[Unapplied] {
        &self.unapplied
    }

    pub(super) fn v1_dirs(&self) -> &[PathBuf] {
        &self.v1
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Finds the version 1 directory that has this file.
    pub(super) fn v1_with(&self, file: &str) -> Option<&Path> {
        self.v1.iter().find(|directory| directory.join(file).exists()).map(PathBuf::as_path)
    }

    /// Returns the cgroup2 directory if it has this file.
    pub(super) fn v2_with(&self, file: &str) -> Option<&Path> {
        self.v2.as_deref().filter(|directory| directory.join(file).exists())
    }

    /// Returns the memory limit in bytes, if there is one.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        let limit = match self.v1_with("memory.limit_in_bytes") {
            Some(directory) => files::read_number(&directory.join("memory.limit_in_bytes")),
            None => files::read_number(&self.v2_with("memory.max")?.join("memory.max")),
        };
        // Version 1 says "unlimited" with a huge number.
        limit.filter(|bytes| *bytes < 1 << 60)
    }

    /// Stops every process where it is. Returns when all have stopped.
    ///
    /// # Errors
    /// Not all stopped in time: a process may be waiting in the kernel, for a disk say. The
    /// request stands, and the rest are stopped; [`MachineCgroup::thaw`] takes it back.
    pub fn freeze(&self, timeout: Duration) -> Result<(), CgroupError> {
        let (file, done, value): (PathBuf, fn(&str) -> bool, _) = match self.freezer()? {
            Freezer::V2(directory) => {
                files::write(&directory.join("cgroup.freeze"), "1")?;
                (
                    directory.join("cgroup.events"),
                    |text| files::keyed(text, "frozen") == Some(1),
                    None,
                )
            }
            Freezer::V1(directory) => {
                let file = directory.join("freezer.state");
                files::write(&file, "FROZEN")?;
                (file, |text| text.trim() == "FROZEN", Some("FROZEN"))
            }
        };
        wait_until(&file, timeout, "freeze", |text| {
            // The old freezer catches processes that were being made only when asked again.
            if let Some(value) = value
                && !done(text)
            {
                let _ = files::write(&file, value);
            }
            done(text)
        })
    }

    /// Lets every process go on.
    ///
    /// # Errors
    /// The kernel's file could not be written.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.freezer()? {
            Freezer::V2(directory) => files::write(&directory.join("cgroup.freeze"), "0"),
            Freezer::V1(directory) => files::write(&directory.join("freezer.state"), "THAWED"),
        }
    }

    /// Kills every process, frozen ones too. Does not wait for them to end.
    ///
    /// # Errors
    /// The kernel's file could not be written.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if let Some(directory) = self.v2_with("cgroup.kill") {
            return files::write(&directory.join("cgroup.kill"), "1");
        }
        // Frozen, nothing can fork away from the list; killed, they end once thawed.
        let frozen = self.freeze(Duration::from_secs(2));
        for directory in self.dirs().iter().take(1) {
            kill_tree(directory);
        }
        if frozen.is_ok() { self.thaw() } else { self.thaw().and(frozen) }
    }

    /// Whether no process is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        if let Some(directory) = &self.v2
            && let Ok(text) = files::read(&directory.join("cgroup.events"))
        {
            return files::keyed(&text, "populated") != Some(1);
        }
        self.v1.iter().all(|directory| {
            [directory.clone(), directory.join("box")]
                .iter()
                .all(|group| files::processes(group).is_empty())
        })
    }

    /// Removes the groups, which must be empty or about to be.
    ///
    /// # Errors
    /// They stayed busy; kill what is in them first.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for directory in self.dirs() {
            let mut attempt = 0;
            loop {
                match files::remove_tree(&directory) {
                    Ok(()) => break,
                    Err(error) if is_busy(&error) && attempt < REMOVE_ATTEMPTS => {
                        attempt += 1;
                        sleep(REMOVE_PAUSE);
                    }
                    Err(error) => return Err(CgroupError::io("remove", &directory, error)),
                }
            }
            // The group of all machines goes with the last of them.
            if let Some(parent) = directory.parent() {
                let _ = std::fs::remove_dir(parent);
            }
        }
        Ok(())
    }

    /// Reads what the machine uses.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let number = |v1: &str, v2: &str| match self.v1_with(v1) {
            Some(directory) => files::read_number(&directory.join(v1)),
            None => files::read_number(&self.v2_with(v2)?.join(v2)),
        };
        Stats {
            memory_bytes: number("memory.usage_in_bytes", "memory.current"),
            cpu_usec: match self.v2_with("cpu.stat") {
                Some(directory) => files::read_keyed(&directory.join("cpu.stat"), "usage_usec"),
                None => number("cpuacct.usage", "").map(|nanoseconds| nanoseconds / 1000),
            },
            oom_kills: self.oom_kills(),
            pids: number("pids.current", "pids.current"),
        }
    }

    fn oom_kills(&self) -> Option<u64> {
        const V1: &str = "memory.oom_control";
        match self.v1_with(V1) {
            // Version 1 counts in the group of the process alone, not in those above.
            Some(directory) => {
                let own = files::read_keyed(&directory.join(V1), "oom_kill")?;
                let inner = files::read_keyed(&directory.join("box").join(V1), "oom_kill");
                Some(own + inner.unwrap_or(0))
            }
            None => {
                let directory = self.v2_with("memory.events")?;
                files::read_keyed(&directory.join("memory.events"), "oom_kill")
            }
        }
    }

    fn freezer(&self) -> Result<Freezer<'_>, CgroupError> {
        if let Some(directory) = self.v2_with("cgroup.freeze") {
            return Ok(Freezer::V2(directory));
        }
        self.v1_with("freezer.state").map(Freezer::V1).ok_or_else(|| CgroupError::Unapplied {
            limit: "freeze",
            reason: "neither cgroup2 nor the `freezer` hierarchy is mounted".to_owned(),
            fix: "mount cgroup2: `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`".to_owned(),
        })
    }
}

enum Freezer<'path> {
    V1(&'path Path),
    V2(&'path Path),
}

/// Waits until a cgroup file's text is as wanted. The kernel wakes pollers of `cgroup.events`;
/// other files are looked at again after a while.
fn wait_until(
    path: &Path,
    timeout: Duration,
    what: &'static str,
    mut done: impl FnMut(&str) -> bool,
) -> Result<(), CgroupError> {
    let deadline = Instant::now() + timeout;
    let file = std::fs::File::open(path).map_err(|source| CgroupError::io("open", path, source))?;
    loop {
        // A fresh read each time; reading also arms the next wake-up.
        let mut text = [0u8; 256];
        let count = rustix::io::pread(&file, &mut text, 0)
            .map_err(|source| CgroupError::io("read", path, source.into()))?;
        if done(&String::from_utf8_lossy(&text[..count])) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::Timeout { what, path: path.to_owned() });
        }
        let pause = left.min(Duration::from_millis(5));
        let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)], Some(&pause));
    }
}

/// Kills every process in a group and the groups below it, until no new one turns up.
pub(super) fn kill_tree(directory: &Path) {
    let mut killed = HashSet::new();
    for _ in 0..100 {
        let new: Vec<i32> =
            processes_below(directory, 0).into_iter().filter(|pid| !killed.contains(pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in new {
            kill_member(directory, pid);
            killed.insert(pid);
        }
    }
}

/// Kills a process if it is (still) in the group: its number may have changed hands since it
/// was listed, but cannot while we hold its pidfd and see it listed.
fn kill_member(directory: &Path, pid: i32) {
    if let Some(raw) = Pid::from_raw(pid)
        && let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty())
        && processes_below(directory, 0).contains(&pid)
    {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

fn processes_below(directory: &Path, depth: usize) -> Vec<i32> {
    let mut found = files::processes(directory);
    if depth < 32
        && let Ok(entries) = std::fs::read_dir(directory)
    {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(processes_below(&entry.path(), depth + 1));
            }
        }
    }
    found
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY))
}
