//! The machine that was measured on, and the memory of its processes.

use std::fs;

/// Describes the machine: kernel, cores, memory, load.
pub(crate) fn describe() -> serde_json::Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|x| x.1.trim().to_owned())
        })
        .unwrap_or_default();
    let memory = read("/proc/meminfo").lines().next().unwrap_or_default().to_owned();
    serde_json::json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": memory,
        "load_at_start": read("/proc/loadavg"),
    })
}

/// Returns a process's proportional set size, in MB.
pub(crate) fn pss_mb(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Lists processes of that name, as the kernel cuts it, whose parent is `parent` or one of its
/// children.
pub(crate) fn descendants(parent: u32, name: &str) -> Vec<u32> {
    let mut known = vec![parent];
    let mut found = Vec::new();
    let processes: Vec<(u32, u32, String)> = fs::read_dir("/proc")
        .map(|entries| entries.flatten().filter_map(|entry| process(&entry)).collect())
        .unwrap_or_default();
    let mut index = 0;
    while index < known.len() {
        for (pid, parent, comm) in &processes {
            if *parent == known[index] && !known.contains(pid) {
                known.push(*pid);
                if comm.starts_with(name) {
                    found.push(*pid);
                }
            }
        }
        index += 1;
    }
    found
}

fn process(entry: &fs::DirEntry) -> Option<(u32, u32, String)> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let parent = tail.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((pid, parent, comm))
}
