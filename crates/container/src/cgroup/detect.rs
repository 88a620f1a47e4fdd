//! Finding the cgroup hierarchies and our place in them.

use std::path::{Path, PathBuf};

use sprite_types::MachineId;

use super::error::CgroupError;
use super::files;
use super::limits::{Limits, Unapplied, missing};
use super::machine::MachineCgroup;

/// Name of the group that holds all machines.
const SPRITES: &str = "sprites";
/// Name of the group that holds ourselves where the parent must be free of processes.
const SUPERVISOR: &str = "supervisor";
/// Controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Bounds what containers can nest below their own group.
const DESCENDANTS_MAX: &str = "1024";
const DEPTH_MAX: &str = "32";

/// Which versions a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Version 1 alone.
    V1,
    /// Version 2 alone, with all controllers.
    V2,
    /// Controllers in version 1, and a version 2 hierarchy beside them.
    Hybrid,
}

/// The hierarchies of this host and our place in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// Directory per version 1 hierarchy below which machines go.
    v1: Vec<PathBuf>,
    /// The same in the cgroup2 hierarchy.
    v2: Option<PathBuf>,
    mode: Mode,
}

impl Hierarchies {
    /// Finds the hierarchies.
    ///
    /// On a host with version 2 alone, machines go below our own group if it was delegated to
    /// us, and this process moves into a leaf of it (`supervisor`), because a group with
    /// controllers for its children cannot hold processes. Otherwise they go below the root.
    /// In version 1 and hybrid hierarchies they go below our own group.
    ///
    /// # Errors
    /// No hierarchy is mounted, or our delegated group cannot be rearranged.
    pub fn detect() -> Result<Self, CgroupError> {
        let mounts = files::read(Path::new("/proc/self/mountinfo"))?;
        let groups = files::read(Path::new("/proc/self/cgroup"))?;
        let layout = Layout::parse(&mounts, &groups);
        let Layout { v1, v2 } = layout;
        let v1: Vec<PathBuf> = v1
            .into_iter()
            .filter(|(controllers, _)| {
                // cgroup2 counts processor time and freezes better, where it exists.
                let old: &[&str] = if v2.is_some() { &[] } else { &["freezer", "cpuacct"] };
                let wanted = [&CONTROLLERS[..], &["devices"], old].concat();
                controllers.iter().any(|controller| wanted.contains(&controller.as_str()))
            })
            .map(|(_, directory)| directory)
            .collect();
        let mode = match (v1.is_empty(), &v2) {
            (true, None) => return Err(CgroupError::NotMounted),
            (true, Some(_)) => Mode::V2,
            (false, None) => Mode::V1,
            (false, Some(_)) => Mode::Hybrid,
        };
        let v2 = match v2 {
            Some(place) if mode == Mode::V2 => Some(base_in_v2(&place)?),
            Some(place) => Some(place.own),
            None => None,
        };
        Ok(Self { v1, v2, mode })
    }

    /// Returns which versions the host uses.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Lists the limits that could not be applied to machines on this host.
    #[must_use]
    pub fn unapplied(&self) -> Vec<Unapplied> {
        let v2 = self.v2.as_ref().map(|base| base.join("cgroup.controllers"));
        let v2 = v2.and_then(|file| files::read(&file).ok()).unwrap_or_default();
        let has = |controller: &str| match controller {
            "memory" => self.v1.iter().any(|base| base.join("memory.limit_in_bytes").exists()),
            "cpu" => self.v1.iter().any(|base| base.join("cpu.shares").exists()),
            // Absent from a hierarchy's root, hence by a child's file or the hierarchy's name.
            _ => self
                .v1
                .iter()
                .any(|base| base.join("pids.max").exists() || base.ends_with(controller)),
        };
        let absent = |controller: &&str| {
            !has(controller) && !v2.split_ascii_whitespace().any(|name| name == *controller)
        };
        CONTROLLERS.into_iter().filter(absent).map(|name| missing(self.mode, name)).collect()
    }

    /// Makes a machine's groups and sets its limits. Limits that cannot be applied are in
    /// [`MachineCgroup::unapplied`].
    ///
    /// # Errors
    /// The kernel refused; nothing is left behind.
    pub fn create(
        &self,
        machine: &MachineId,
        limits: &Limits,
    ) -> Result<MachineCgroup, CgroupError> {
        let cgroup = self.at(machine);
        let result = self.make(&cgroup).and_then(|()| {
            let confined = cgroup.confine_devices()?;
            let mut unapplied = cgroup.set_limits(limits)?;
            if !confined {
                unapplied.push(missing(self.mode, "devices"));
            }
            Ok(unapplied)
        });
        match result {
            Ok(unapplied) => Ok(cgroup.with_unapplied(unapplied)),
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Returns a machine's groups if at least one of them exists.
    #[must_use]
    pub fn open(&self, machine: &MachineId) -> Option<MachineCgroup> {
        let cgroup = self.at(machine);
        cgroup.dirs().iter().any(|directory| directory.is_dir()).then_some(cgroup)
    }

    /// Lists the machines that have groups here.
    #[must_use]
    pub fn machines(&self) -> Vec<MachineId> {
        let mut found = Vec::new();
        for base in self.v1.iter().chain(&self.v2) {
            let Ok(entries) = std::fs::read_dir(base.join(SPRITES)) else { continue };
            found.extend(
                entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()),
            );
        }
        found.sort();
        found.dedup();
        found
    }

    fn at(&self, machine: &MachineId) -> MachineCgroup {
        let place = |base: &PathBuf| base.join(SPRITES).join(machine.as_str());
        let v1 = self.v1.iter().map(place).collect();
        MachineCgroup::new(v1, self.v2.as_ref().map(place), self.mode)
    }

    fn make(&self, cgroup: &MachineCgroup) -> Result<(), CgroupError> {
        for directory in cgroup.v1_dirs() {
            make_in_parent(directory, |_| Ok(()))?;
        }
        let (Some(base), Some(directory)) = (&self.v2, cgroup.cgroup2_dir()) else {
            return Ok(());
        };
        make_in_parent(&directory, |parent| {
            if self.mode == Mode::V2 {
                enable_controllers(base)?;
                enable_controllers(parent)?;
            }
            Ok(())
        })?;
        let _ = files::write(&directory.join("cgroup.max.descendants"), DESCENDANTS_MAX);
        let _ = files::write(&directory.join("cgroup.max.depth"), DEPTH_MAX);
        if self.mode == Mode::V2 {
            enable_controllers(&directory)?;
        }
        // The container's root; in version 1 the launcher makes it.
        files::make_directory(&directory.join("box"))
    }
}

/// Makes a directory and its parent. Another machine's removal may take the parent away
/// between the two, since the last one out removes it.
fn make_in_parent(
    directory: &Path,
    prepare: impl Fn(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let parent = directory.parent().expect("machine groups have a parent");
    let mut attempt = 0;
    loop {
        let result = files::make_directory(parent)
            .and_then(|()| prepare(parent))
            .and_then(|()| files::make_directory(directory));
        match result {
            Err(CgroupError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && attempt < 10 =>
            {
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Lets children of a version 2 group have limits. Controllers that the group itself does not
/// have are left out; setting the limit reports them.
fn enable_controllers(directory: &Path) -> Result<(), CgroupError> {
    let available = files::read(&directory.join("cgroup.controllers"))?;
    let control = directory.join("cgroup.subtree_control");
    let enabled = files::read(&control)?;
    for controller in CONTROLLERS {
        let has = |text: &str| text.split_ascii_whitespace().any(|name| name == controller);
        if has(&available) && !has(&enabled) {
            files::write(&control, &format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// Our place in a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// The group this process is in.
    own: PathBuf,
}

/// Decides where machines go on a host with version 2 alone, and makes room.
fn base_in_v2(place: &Place) -> Result<PathBuf, CgroupError> {
    let delegated =
        place.own.ancestors().take_while(|group| group.starts_with(&place.mount)).find(|group| {
            ["trusted.delegate", "user.delegate"].iter().any(|name| {
                let mut value = [0u8; 8];
                matches!(rustix::fs::getxattr(*group, *name, &mut value[..]), Ok(1) if value[0] == b'1')
            })
        });
    let base = delegated.unwrap_or(&place.mount).to_owned();
    // The root of the whole tree may hold processes; any other group, also one that a cgroup
    // namespace shows as the root, may not. Only non-roots have this file.
    if base.join("cgroup.type").exists() {
        move_processes(&base)?;
    }
    Ok(base)
}

/// Moves all processes of a group into its `supervisor` leaf.
fn move_processes(group: &Path) -> Result<(), CgroupError> {
    let leaf = group.join(SUPERVISOR);
    for _ in 0..100 {
        let processes = files::processes(group);
        if processes.is_empty() {
            break;
        }
        files::make_directory(&leaf)?;
        for pid in processes {
            match files::write(&leaf.join("cgroup.procs"), &pid.to_string()) {
                // It has ended meanwhile.
                Err(CgroupError::Io { source, .. })
                    if source.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// What `/proc/self/mountinfo` and `/proc/self/cgroup` say together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<Place>,
}

impl Layout {
    fn parse(mounts: &str, groups: &str) -> Self {
        let mut layout = Self::default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            match mount.kind {
                "cgroup2" if layout.v2.is_none() => {
                    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
                    let own = mount.place(own.unwrap_or("/"));
                    layout.v2 = Some(Place { mount: mount.point.clone(), own });
                }
                "cgroup" => {
                    // The line of this hierarchy: its controllers are among the mount's options.
                    let line = groups.lines().find_map(|line| {
                        let mut fields = line.splitn(3, ':').skip(1);
                        let names: Vec<String> =
                            fields.next()?.split(',').map(str::to_owned).collect();
                        let all = names.iter().all(|name| mount.has_option(name));
                        (all && !names[0].is_empty()).then_some((names, fields.next()?))
                    });
                    if let Some((names, path)) = line
                        && !layout.v1.iter().any(|(known, _)| *known == names)
                    {
                        let own = mount.place(path);
                        layout.v1.push((names, own));
                    }
                }
                _ => {}
            }
        }
        layout
    }
}

/// One line of `/proc/self/mountinfo`.
struct Mount<'text> {
    root: PathBuf,
    point: PathBuf,
    kind: &'text str,
    options: &'text str,
}

impl<'text> Mount<'text> {
    fn parse(line: &'text str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        Some(Self {
            root: unescape(front.next()?).into(),
            point: unescape(front.next()?).into(),
            kind: back.next()?,
            options: back.nth(1)?,
        })
    }

    fn has_option(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }

    /// Returns the directory of the group with that path in the hierarchy.
    fn place(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        // A group outside the mounted part (or of another namespace) cannot be named; the
        // mounted part's root is the nearest we have.
        let relative = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let relative = relative.strip_prefix("/").unwrap_or(relative);
        if relative.components().any(|part| part.as_os_str() == "..") {
            return self.point.clone();
        }
        // Joining an empty path would add a slash.
        if relative.as_os_str().is_empty() { self.point.clone() } else { self.point.join(relative) }
    }
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const HYBRID_GROUPS: &str = "9:name=systemd:/\n4:memory:/nested/ca6f\n1:cpu:/\n0::/\n";

    #[test]
    fn hybrid_hosts_nest_below_the_own_group_of_each_hierarchy() {
        let layout = Layout::parse(HYBRID_MOUNTS, HYBRID_GROUPS);
        let v1: Vec<_> =
            layout.v1.iter().map(|(names, path)| (names[0].as_str(), path.clone())).collect();
        assert_eq!(
            v1,
            [
                ("cpu", PathBuf::from("/sys/fs/cgroup/cpu")),
                ("memory", PathBuf::from("/sys/fs/cgroup/memory/nested/ca6f")),
                ("name=systemd", PathBuf::from("/sys/fs/cgroup/systemd")),
            ]
        );
        assert_eq!(layout.v2.unwrap().own, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn version_2_alone_is_one_place() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout::parse(mounts, "0::/system.slice/sprited.service\n");
        assert!(layout.v1.is_empty());
        let own = Path::new("/sys/fs/cgroup/system.slice/sprited.service");
        assert_eq!(layout.v2.unwrap().own, own);
    }

    #[test]
    fn controllers_that_share_a_hierarchy_share_a_directory() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let layout = Layout::parse(mounts, "5:cpu,cpuacct:/a\n");
        assert_eq!(layout.v1[0].1, Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));
    }

    #[test]
    fn partly_mounted_hierarchies_are_named_from_their_root() {
        let mounts = "3 2 0:2 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let inside = Layout::parse(mounts, "4:memory:/docker/x/y\n");
        assert_eq!(inside.v1[0].1, Path::new("/sys/fs/cgroup/memory/y"));
        let outside = Layout::parse(mounts, "4:memory:/../z\n");
        assert_eq!(outside.v1[0].1, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn odd_lines_are_skipped() {
        assert_eq!(Layout::parse("x\n - \n1 2 3 4 - cgroup\n", "::\n0\n"), Layout::default());
        assert_eq!(unescape(r"/a\040b\x"), r"/a b\x");
    }
}
