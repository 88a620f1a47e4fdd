//! What is the case on this host.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Access, access, statvfs};
use sprite_types::{ByteSize, Clock, SystemClock, Timestamp};

use super::elf::{Linkage, linkage};

/// Our programs that `sprited` needs beside itself.
const PROGRAMS: &[&str] = &["sprite-guestd", "sprite-env"];
/// Programs of the system that we need, with their Debian packages.
const TOOLS: &[(&str, &str)] =
    &[("mkfs.ext4", "e2fsprogs"), ("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux")];
/// Program headers are in here.
const ELF_START: u64 = 4096;

/// The cgroup hierarchies and our place in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cgroups {
    /// Controllers of mounted version 1 hierarchies.
    pub(crate) v1: BTreeSet<String>,
    /// Where version 2 is mounted.
    pub(crate) v2_mount: Option<PathBuf>,
    /// Controllers of version 2.
    pub(crate) v2: BTreeSet<String>,
    /// Somebody gave us a part of version 2 to manage.
    pub(crate) is_delegated: bool,
    /// Groups can be made.
    pub(crate) is_writable: bool,
}

/// Space of the file system that holds the data folder, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) available: ByteSize,
    pub(crate) is_in_memory: bool,
}

/// Everything the decisions need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) is_root: bool,
    /// `uname -r`.
    pub(crate) kernel: String,
    pub(crate) filesystems: BTreeSet<String>,
    /// Modules that are loaded, built in, or could be loaded, with `_` for `-`.
    pub(crate) modules: BTreeSet<String>,
    /// The running kernel has its modules on disk.
    pub(crate) has_module_folder: bool,
    pub(crate) devices: BTreeSet<String>,
    pub(crate) user_namespaces_max: Option<u64>,
    pub(crate) apparmor_restricts_userns: bool,
    pub(crate) cgroups: Cgroups,
    pub(crate) missing_tools: Vec<(&'static str, &'static str)>,
    pub(crate) core_pattern: String,
    pub(crate) disk: Option<Disk>,
    pub(crate) programs: Vec<(&'static str, Option<Linkage>)>,
    pub(crate) now: Option<Timestamp>,
    pub(crate) is_clock_synchronized: Option<bool>,
    pub(crate) systemd_version: Option<u32>,
    /// A unit of ours is installed; whether with the drop-in for old systemd.
    pub(crate) unit: Option<bool>,
}

impl Facts {
    /// Looks at the host. What cannot be read counts as absent.
    pub(crate) fn gather(data_dir: &Path) -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let modules_dir = Path::new("/lib/modules").join(&kernel);
        let devices = ["/dev/fuse", "/dev/loop-control", "/dev/net/tun"];
        Self {
            is_root: rustix::process::geteuid().is_root(),
            filesystems: parse_filesystems(&text("/proc/filesystems")),
            modules: modules(&modules_dir),
            has_module_folder: modules_dir.join("modules.dep").exists(),
            devices: devices.iter().filter(|d| Path::new(d).exists()).map(|&d| d.into()).collect(),
            user_namespaces_max: text("/proc/sys/user/max_user_namespaces").trim().parse().ok(),
            apparmor_restricts_userns: text(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            )
            .trim()
                == "1",
            cgroups: cgroups(),
            missing_tools: TOOLS.iter().copied().filter(|(name, _)| find(name).is_none()).collect(),
            core_pattern: text("/proc/sys/kernel/core_pattern").trim().to_owned(),
            disk: disk(data_dir),
            programs: PROGRAMS.iter().map(|&name| (name, program(name))).collect(),
            now: Some(SystemClock.now()),
            is_clock_synchronized: is_clock_synchronized(),
            systemd_version: output("systemctl", &["--version"]).and_then(|t| parse_version(&t)),
            unit: unit(),
            kernel,
        }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn parse_filesystems(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

fn modules(folder: &Path) -> BTreeSet<String> {
    let loaded = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let mut found: BTreeSet<String> =
        loaded.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for list in ["modules.dep", "modules.builtin"] {
        let text = fs::read_to_string(folder.join(list)).unwrap_or_default();
        found.extend(text.lines().filter_map(module_name));
    }
    found
}

/// Reads `kernel/drivers/block/loop.ko.xz: …`.
fn module_name(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.replace('-', "_"))
}

fn cgroups() -> Cgroups {
    let mounts = parse_cgroup_mounts(&text("/proc/self/mountinfo"));
    let Some(mount) = mounts.v2_mount.clone() else {
        let is_writable = access("/sys/fs/cgroup/memory", Access::WRITE_OK).is_ok();
        return Cgroups { is_writable, ..mounts };
    };
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let own = text("/proc/self/cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = mount.join(own);
    let is_delegated = own.ancestors().take_while(|group| group.starts_with(&mount)).any(|group| {
        ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0u8; 8];
            matches!(rustix::fs::getxattr(group, *name, &mut value), Ok(1) if value[0] == b'1')
        })
    });
    Cgroups {
        v2: controllers.split_whitespace().map(str::to_owned).collect(),
        is_delegated,
        is_writable: access(&mount, Access::WRITE_OK).is_ok(),
        ..mounts
    }
}

fn parse_cgroup_mounts(mountinfo: &str) -> Cgroups {
    let mut found = Cgroups::default();
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let (Some(point), mut source) = (mount.split(' ').nth(4), source.split(' ')) else {
            continue;
        };
        match source.next() {
            Some("cgroup2") => found.v2_mount = Some(point.into()),
            Some("cgroup") => {
                let options = source.nth(1).unwrap_or_default().split(',');
                found.v1.extend(options.map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}

/// Finds a program where system programs are.
fn find(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(find(program)?).args(arguments).env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn disk(data_dir: &Path) -> Option<Disk> {
    let path = data_dir.ancestors().find(|path| path.exists())?;
    let space = statvfs(path).ok()?;
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    /// Source: statfs(2), `TMPFS_MAGIC` and `RAMFS_MAGIC`.
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    Some(Disk {
        path: path.to_owned(),
        available: ByteSize(space.f_bavail.saturating_mul(space.f_frsize)),
        is_in_memory: IN_MEMORY.contains(&u64::from_ne_bytes(kind.to_ne_bytes())),
    })
}

/// Finds one of our programs beside this one and reads how it is linked.
fn program(name: &str) -> Option<Linkage> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    let mut start = Vec::new();
    fs::File::open(path).ok()?.take(ELF_START).read_to_end(&mut start).ok()?;
    Some(linkage(&start))
}

fn is_clock_synchronized() -> Option<bool> {
    match output("timedatectl", &["show", "-p", "NTPSynchronized", "--value"])?.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Reads `systemd 252 (252.38-1~deb12u1)`.
fn parse_version(text: &str) -> Option<u32> {
    text.split_whitespace().nth(1)?.split(['.', '~', '-']).next()?.parse().ok()
}

fn unit() -> Option<bool> {
    let folders = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    let exists = |file: &str| folders.iter().any(|folder| Path::new(folder).join(file).exists());
    exists("sprited.service").then(|| exists("sprited.service.d/old-systemd.conf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_tell_versions_and_controllers() {
        let hybrid = parse_cgroup_mounts(
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             23 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        );
        assert!(hybrid.v1.contains("cpu") && hybrid.v1.contains("cpuacct"));
        assert_eq!(hybrid.v2_mount, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(parse_cgroup_mounts("nonsense"), Cgroups::default());
    }

    #[test]
    fn small_texts_are_read() {
        let names = "kernel/drivers/block/loop.ko.xz: a.ko\nkernel/net/nf-x.ko:\nnonsense";
        let names: Vec<_> = names.lines().filter_map(module_name).collect();
        assert_eq!(names, ["loop", "nf_x"]);
        assert_eq!(parse_version("systemd 252 (252.38-1~deb12u1)\n+PAM"), Some(252));
        assert_eq!(parse_version("systemd 257.7-1 (x)"), Some(257));
        assert_eq!(parse_version(""), None);
        assert!(parse_filesystems("nodev\tsysfs\n\text4\n").contains("ext4"));
    }

    /// Whatever machine this is, looking at it does not fail.
    #[test]
    fn this_host_can_be_looked_at() {
        let facts = Facts::gather(Path::new("/nonexistent/data"));
        assert!(!facts.kernel.is_empty());
        assert_eq!(facts.disk.unwrap().path, Path::new("/"));
    }
}
