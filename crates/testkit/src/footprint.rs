//! What sprites leave on a host, so that a test can show that they left nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Deepest cgroup looked at, below the hierarchies' mount points.
const CGROUP_DEPTH_MAX: usize = 8;

/// Which traces count. Tests that run beside others narrow it to what is their own.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Only mounts and loop devices whose text contains this; empty for all.
    pub path_contains: String,
    /// Interfaces whose name begins with this.
    pub interface_prefix: String,
    /// Tables of nftables whose name begins with this.
    pub table_prefix: String,
    /// Cgroups whose name begins with this.
    pub cgroup_prefix: String,
    /// Processes with one of these names (the kernel keeps 15 characters).
    pub processes: Vec<String>,
    /// Named network namespaces, and those that only processes hold.
    pub network_namespaces: bool,
}

impl Default for Scope {
    /// Everything a `sprited` with default settings makes.
    fn default() -> Self {
        Self {
            path_contains: String::new(),
            interface_prefix: "spr".to_owned(),
            table_prefix: "sprites".to_owned(),
            cgroup_prefix: "mch-".to_owned(),
            processes: vec!["sprite-guestd".to_owned()],
            network_namespaces: true,
        }
    }
}

/// Every trace within a scope at one moment, each as a line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// The scope's text: footprints of different scopes do not compare.
    scope: String,
    traces: BTreeSet<String>,
}

impl Footprint {
    /// Looks at the host.
    #[must_use]
    pub fn take(scope: &Scope) -> Self {
        let mut traces = BTreeSet::new();
        traces.extend(mounts(&scope.path_contains));
        traces.extend(loop_devices(&scope.path_contains));
        traces.extend(interfaces(&scope.interface_prefix));
        traces.extend(table_lines(&scope.table_prefix));
        traces.extend(cgroups(&scope.cgroup_prefix));
        traces.extend(processes(&scope.processes));
        if scope.network_namespaces {
            traces.extend(network_namespaces());
        }
        Self { scope: format!("{scope:?}"), traces }
    }

    /// Returns what is here and was not in `before`.
    #[must_use]
    pub fn new_since(&self, before: &Self) -> Vec<String> {
        debug_assert_eq!(self.scope, before.scope, "footprints of one scope are compared");
        self.traces.difference(&before.traces).cloned().collect()
    }

    /// Waits until nothing is left that was not in `before`; what the kernel does
    /// asynchronously gets `limit` to end.
    ///
    /// # Panics
    /// If something is still left; the message lists it.
    #[track_caller]
    pub fn assert_gone(scope: &Scope, before: &Self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let left = Self::take(scope).new_since(before);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind:\n  {}", left.join("\n  "));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn mounts(containing: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            let trace = format!("mount {point} ({source})");
            trace.contains(containing).then_some(trace)
        })
        .collect()
}

fn loop_devices(containing: &str) -> Vec<String> {
    names_in(Path::new("/sys/block"))
        .into_iter()
        .filter(|name| name.starts_with("loop"))
        .filter_map(|name| {
            let file = format!("/sys/block/{name}/loop/backing_file");
            let backing = fs::read_to_string(file).ok()?;
            let trace = format!("loop device {name} ({})", backing.trim());
            trace.contains(containing).then_some(trace)
        })
        .collect()
}

fn interfaces(prefix: &str) -> Vec<String> {
    names_in(Path::new("/sys/class/net"))
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .map(|name| format!("interface {name}"))
        .collect()
}

/// The lines of our tables, without numbers that change by themselves.
fn table_lines(prefix: &str) -> Vec<String> {
    let tables = run("nft", &["list", "tables"]);
    let ours = tables.lines().filter_map(|line| {
        let name = line.split(' ').nth(2)?;
        name.starts_with(prefix).then(|| line.trim_start_matches("table ").to_owned())
    });
    ours.flat_map(|table| {
        let mut arguments = vec!["-s", "list", "table"];
        arguments.extend(table.split(' '));
        let listing = run("nft", &arguments);
        let lines = listing.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| format!("nft {table}: {line}")).collect::<Vec<_>>()
    })
    .collect()
}

fn cgroups(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut queue = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((dir, depth)) = queue.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(format!("cgroup {}", entry.path().display()));
            } else if depth < CGROUP_DEPTH_MAX {
                queue.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

fn processes(names: &[String]) -> Vec<String> {
    pids()
        .into_iter()
        .filter_map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let name = name.trim();
            names
                .iter()
                .any(|wanted| wanted.chars().take(15).eq(name.chars()))
                .then(|| format!("process {pid} ({name})"))
        })
        .collect()
}

fn network_namespaces() -> Vec<String> {
    let named = names_in(Path::new("/run/netns")).into_iter();
    let mut found: Vec<String> = named.map(|name| format!("network namespace {name}")).collect();
    found.extend(pids().into_iter().filter_map(|pid| {
        let inode = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
        Some(format!("network namespace {} of a process", inode.display()))
    }));
    found
}

fn pids() -> Vec<u32> {
    names_in(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).collect()
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn run(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Scope {
        Scope {
            path_contains: "no such path".to_owned(),
            interface_prefix: "none".to_owned(),
            table_prefix: "none".to_owned(),
            cgroup_prefix: "none-".to_owned(),
            processes: vec!["sleep-testkit".to_owned()],
            network_namespaces: false,
        }
    }

    #[test]
    fn a_process_left_behind_is_found_and_its_end_is_seen() {
        let scope = own();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sleep-testkit");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let before = Footprint::take(&scope);
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        crate::eventually("the child has its name", || {
            !Footprint::take(&scope).new_since(&before).is_empty()
        });
        let left = Footprint::take(&scope).new_since(&before);
        assert_eq!(left, [format!("process {} (sleep-testkit)", child.id())]);
        child.kill().unwrap();
        child.wait().unwrap();
        Footprint::assert_gone(&scope, &before, Duration::from_secs(10));
    }

    #[test]
    fn mounts_are_listed_with_their_source() {
        assert!(mounts("").iter().any(|trace| trace.starts_with("mount / (")));
    }
}
