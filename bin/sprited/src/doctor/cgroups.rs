//! What the host's cgroups mean for limits and restarts.

use sprite_network::Check;

use super::facts::Facts;

/// The oldest systemd that starts a unit again whose delegated cgroup is in use.
/// Source: systemd.resource-control(5), `DelegateSubgroup=`, "Added in version 254".
const SYSTEMD_WITH_SUBGROUP: u32 = 254;

pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    [Some(hierarchies(facts)), unit(facts)].into_iter().flatten().collect()
}

fn hierarchies(facts: &Facts) -> Check {
    let (id, title) = ("cgroups", "cgroups");
    let cgroups = &facts.cgroups;
    let mode = match (&cgroups.v2_mount, cgroups.v1.is_empty()) {
        (None, true) => {
            let detail = "no cgroup hierarchy is mounted, so sprites cannot be limited or frozen";
            return Check::fail(id, title, detail, "mount -t cgroup2 none /sys/fs/cgroup");
        }
        (Some(_), true) => "version 2",
        (None, false) => "version 1",
        (Some(_), false) => "version 1 and 2 (hybrid)",
    };
    if facts.is_root && !cgroups.is_writable {
        let detail = format!("{mode}, but read-only: is this a container?");
        let fix = "run sprited on the host itself, or give the container a writable cgroup";
        return Check::fail(id, title, detail, fix);
    }
    let has = |controller: &str| cgroups.v1.contains(controller) || cgroups.v2.contains(controller);
    let missing: Vec<_> = ["memory", "cpu", "pids"].into_iter().filter(|c| !has(c)).collect();
    if !missing.is_empty() {
        let fix = if missing.contains(&"memory") {
            "add cgroup_enable=memory to the kernel's command line (GRUB_CMDLINE_LINUX in \
             /etc/default/grub, then update-grub) and reboot"
        } else {
            "use the distribution's kernel, which has all of them"
        };
        let detail = format!("{mode}, without {}: no limits for that", missing.join(", "));
        return Check::warn(id, title, detail, fix);
    }
    let place = match (&cgroups.v2_mount, cgroups.v1.is_empty(), cgroups.is_delegated) {
        (Some(_), true, true) => "; machines go below our own group, which is delegated to us",
        (Some(mount), true, false) => {
            return Check::ok(
                id,
                title,
                format!(
                    "{mode}; machines go to {}/sprites (nobody delegated a group to this \
                     process: fine from a shell, and systemd's unit has Delegate=yes)",
                    mount.display()
                ),
            );
        }
        _ => "",
    };
    Check::ok(id, title, format!("{mode}, with memory, cpu and pids{place}"))
}

/// Whether the unit can be started again while machines run.
fn unit(facts: &Facts) -> Option<Check> {
    let (id, title) = ("systemd", "systemd unit");
    let (version, has_drop_in) = (facts.systemd_version?, facts.unit?);
    let is_v2_alone = facts.cgroups.v2_mount.is_some() && facts.cgroups.v1.is_empty();
    if version >= SYSTEMD_WITH_SUBGROUP || has_drop_in || !is_v2_alone {
        return Some(Check::ok(id, title, format!("installed, fits systemd {version}")));
    }
    let detail = format!(
        "systemd {version} cannot start the unit again while machines of its last run still live"
    );
    let fix = "install -D -m 644 -t /etc/systemd/system/sprited.service.d \
               packaging/systemd/sprited.service.d/old-systemd.conf && systemctl daemon-reload";
    Some(Check::warn(id, title, detail, fix))
}

#[cfg(test)]
mod tests {
    use sprite_network::Status;

    use super::super::facts::Cgroups;
    use super::*;

    fn v2(controllers: &[&str]) -> Facts {
        let cgroups = Cgroups {
            v2_mount: Some("/sys/fs/cgroup".into()),
            v2: controllers.iter().map(|&c| c.to_owned()).collect(),
            is_writable: true,
            ..Cgroups::default()
        };
        Facts { is_root: true, cgroups, ..Facts::default() }
    }

    const ALL: &[&str] = &["cpuset", "cpu", "io", "memory", "pids"];

    #[test]
    fn every_version_will_do_if_the_controllers_are_there() {
        assert_eq!(hierarchies(&v2(ALL)).status, Status::Ok);
        let mut delegated = v2(ALL);
        delegated.cgroups.is_delegated = true;
        assert!(hierarchies(&delegated).detail.contains("delegated to us"));
        let mut hybrid = v2(&[]);
        hybrid.cgroups.v1 = ["memory", "cpu", "pids"].map(str::to_owned).into();
        assert!(hierarchies(&hybrid).detail.starts_with("version 1 and 2 (hybrid)"));
        assert_eq!(hierarchies(&hybrid).status, Status::Ok);
        hybrid.cgroups.v2_mount = None;
        assert_eq!(hierarchies(&hybrid).status, Status::Ok);
    }

    #[test]
    fn what_is_missing_is_named_with_its_fix() {
        let check = hierarchies(&v2(&["cpu", "pids"]));
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains("without memory"));
        assert!(check.fix.unwrap().contains("cgroup_enable=memory"));
        let mut read_only = v2(ALL);
        read_only.cgroups.is_writable = false;
        assert_eq!(hierarchies(&read_only).status, Status::Fail);
        assert_eq!(hierarchies(&Facts::default()).status, Status::Fail);
    }

    #[test]
    fn an_old_systemd_needs_the_drop_in() {
        let with = |version, unit| Facts { systemd_version: version, unit, ..v2(ALL) };
        assert_eq!(unit(&with(Some(252), Some(false))).unwrap().status, Status::Warn);
        assert_eq!(unit(&with(Some(252), Some(true))).unwrap().status, Status::Ok);
        assert_eq!(unit(&with(Some(255), Some(false))).unwrap().status, Status::Ok);
        assert_eq!(unit(&with(Some(252), None)), None, "not installed");
        assert_eq!(unit(&with(None, Some(false))), None, "no systemd");
    }
}
