//! Finding the cgroup hierarchies and our place in them.

use std::path::{Path, PathBuf};

use sprite_types::MachineId;

use super::error::CgroupError;
use super::files;
use super::layout::{Layout, Place};
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
