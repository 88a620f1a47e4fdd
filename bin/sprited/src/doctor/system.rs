//! What the rest of the host means for sprites.

use sprite_network::Check;
use sprite_types::{ByteSize, Timestamp};

use super::elf::Linkage;
use super::facts::Facts;

/// Debian 12's. Idmapped mounts of ext4, pidfds and `cgroup.kill` are all older.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Below this an image can hardly be built.
const SPACE_MIN: ByteSize = ByteSize::gib(3);
/// Below this it gets tight soon.
const SPACE_ENOUGH: ByteSize = ByteSize::gib(15);
/// 2026-01-01: this release is younger.
const CLOCK_MIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Every finding, in the order a person would mend them.
pub(crate) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks =
        vec![root(facts), kernel(facts), features(facts), user_namespaces(facts), tools(facts)];
    checks.extend([programs(facts), core_dumps(facts), disk(facts), clock(facts)]);
    checks
}

fn root(facts: &Facts) -> Check {
    let (id, title) = ("root", "root");
    if facts.is_root {
        return Check::ok(id, title, "running as root");
    }
    let detail = "not root: sprited makes mounts, cgroups and interfaces; some checks are left out";
    Check::fail(id, title, detail, "sudo sprited doctor")
}

fn kernel(facts: &Facts) -> Check {
    let (id, title) = ("kernel", "kernel");
    let release = &facts.kernel;
    let (major, minor) = KERNEL_MIN;
    match parse_release(release) {
        Some(version) if version >= KERNEL_MIN => Check::ok(id, title, format!("Linux {release}")),
        Some(_) => {
            let detail = format!("Linux {release} is too old, {major}.{minor} is the oldest");
            let fix = "upgrade to Debian 12, Ubuntu 24.04 or newer";
            Check::fail(id, title, detail, fix)
        }
        None => {
            let detail = format!("`{release}` does not look like a version");
            Check::warn(id, title, detail, format!("make sure that it is {major}.{minor} or newer"))
        }
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the kernel must be able to do: built in, loaded, or loadable.
fn features(facts: &Facts) -> Check {
    let (id, title) = ("kernel.features", "kernel features");
    // Name of the module, what else shows that it is there, and whether nothing works without.
    let wanted = [
        ("ext4", facts.filesystems.contains("ext4"), true),
        ("loop", facts.devices.contains("/dev/loop-control"), true),
        ("fuse", facts.filesystems.contains("fuse") || facts.devices.contains("/dev/fuse"), false),
        ("tun", facts.devices.contains("/dev/net/tun"), false),
        ("overlay", facts.filesystems.contains("overlay"), false),
    ];
    let missing = wanted.iter().filter(|(name, seen, _)| !seen && !facts.modules.contains(*name));
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Check::ok(id, title, "ext4, loop, fuse, tun and overlay are there");
    }
    let names: Vec<_> = missing.iter().map(|(name, ..)| *name).collect();
    let names = names.join(" ");
    let fix = if facts.has_module_folder {
        format!("modprobe -a {names}   (not found: install linux-modules-extra or another kernel)")
    } else {
        format!(
            "reboot if the kernel was upgraded: /lib/modules/{} is missing; else use the \
             distribution's kernel",
            facts.kernel
        )
    };
    if missing.iter().any(|(.., is_needed)| *is_needed) {
        Check::fail(id, title, format!("missing: {names}"), fix)
    } else {
        let detail = format!("missing: {names}; sprites run, but cannot use it themselves");
        Check::warn(id, title, detail, fix)
    }
}

fn user_namespaces(facts: &Facts) -> Check {
    let (id, title) = ("userns", "user namespaces");
    match facts.user_namespaces_max {
        None => {
            let detail =
                "this kernel has no user namespaces, which keep sprites from being root here";
            Check::fail(id, title, detail, "use the distribution's kernel")
        }
        Some(0) => {
            let fix = "sysctl -w user.max_user_namespaces=65536, and the same in /etc/sysctl.d/90-sprites.conf";
            Check::fail(id, title, "switched off by user.max_user_namespaces", fix)
        }
        Some(_) if facts.apparmor_restricts_userns => {
            let detail = "sprites run (sprited is root, so AppArmor's restriction does not apply to \
                          it); inside them, programs that make user namespaces without being root \
                          (unshare -Ur, a browser's sandbox, rootless podman) may be refused";
            let fix = "echo kernel.apparmor_restrict_unprivileged_userns=0 > /etc/sysctl.d/90-sprites-userns.conf \
                       && sysctl --system   (weakens a protection of this host)";
            Check::warn(id, title, detail, fix)
        }
        Some(_) => Check::ok(id, title, "allowed"),
    }
}

fn tools(facts: &Facts) -> Check {
    let (id, title) = ("tools", "system programs");
    if facts.missing_tools.is_empty() {
        return Check::ok(id, title, "mkfs.ext4, mmdebstrap and unshare are installed");
    }
    let names: Vec<_> = facts.missing_tools.iter().map(|(name, _)| *name).collect();
    let packages: Vec<_> = facts.missing_tools.iter().map(|(_, package)| *package).collect();
    let fix = format!("apt-get install {}   (or script/bootstrap)", packages.join(" "));
    if names == ["mmdebstrap"] {
        let detail = "mmdebstrap is not installed: images can be imported, not built";
        return Check::warn(id, title, detail, fix);
    }
    Check::fail(id, title, format!("not installed: {}", names.join(", ")), fix)
}

fn programs(facts: &Facts) -> Check {
    let (id, title) = ("programs", "our programs");
    let missing: Vec<_> =
        facts.programs.iter().filter(|(_, linkage)| linkage.is_none()).map(|(n, _)| *n).collect();
    if !missing.is_empty() {
        let detail = format!("not beside sprited: {}", missing.join(", "));
        return Check::fail(
            id,
            title,
            detail,
            "script/build, or install all programs in one folder",
        );
    }
    // The agent runs on the host; only the tool goes into sprites.
    let is_dynamic = |(name, linkage): &&(&str, Option<Linkage>)| {
        *name == "sprite-env" && *linkage != Some(Linkage::Static)
    };
    if facts.programs.iter().any(|program| is_dynamic(&program)) {
        let detail = "sprite-env is linked dynamically: it runs in images whose C library is at \
                      least as new as the one it was built with, and not in others";
        return Check::warn(id, title, detail, "script/build, which links it statically");
    }
    Check::ok(id, title, "sprite-guestd and sprite-env are beside sprited")
}

fn core_dumps(facts: &Facts) -> Check {
    let (id, title) = ("core_pattern", "core dumps");
    let Some(handler) = facts.core_pattern.strip_prefix('|') else {
        return Check::ok(id, title, "written by the process that dumps");
    };
    let handler = handler.split_whitespace().next().unwrap_or_default();
    let detail = format!(
        "a crash inside a sprite starts `{handler}` here, as root and outside of the sprite, and \
         feeds it what the sprite's user chooses"
    );
    let fix = "sysctl -w kernel.core_pattern=core, and kernel.core_pattern=core in \
               /etc/sysctl.d/90-sprites.conf\n\
               Ubuntu: also `systemctl disable --now apport`, which sets it again";
    Check::warn(id, title, detail, fix)
}

fn disk(facts: &Facts) -> Check {
    let (id, title) = ("disk", "disk space");
    let Some(disk) = &facts.disk else {
        let fix = "--data-dir, or data_dir in the settings";
        return Check::warn(id, title, "the data folder's file system cannot be seen", fix);
    };
    let (available, path) = (disk.available, disk.path.display());
    let fix = "free some, or choose another place with --data-dir";
    if disk.is_in_memory {
        let detail = format!("`{path}` is in memory: sprites are gone after a reboot");
        return Check::warn(id, title, detail, "choose a place on a disk with --data-dir");
    }
    if available < SPACE_MIN {
        let detail =
            format!("{available} left in `{path}`; an image and a sprite need {SPACE_MIN}");
        Check::fail(id, title, detail, fix)
    } else if available < SPACE_ENOUGH {
        let detail = format!(
            "{available} left in `{path}`; sprites' disks grow, and creates are refused before \
             the host's disk is full"
        );
        Check::warn(id, title, detail, fix)
    } else {
        Check::ok(id, title, format!("{available} left in `{path}`"))
    }
}

fn clock(facts: &Facts) -> Check {
    let (id, title) = ("clock", "clock");
    let fix = "timedatectl set-ntp true (apt-get install systemd-timesyncd), or chrony";
    match (facts.now, facts.is_clock_synchronized) {
        (Some(now), _) if now < CLOCK_MIN => {
            let detail = format!("it says {now}, which is past: certificates will not be valid");
            Check::fail(id, title, detail, fix)
        }
        (_, Some(false)) => Check::warn(id, title, "nobody keeps it right", fix),
        (_, Some(true)) => Check::ok(id, title, "synchronized"),
        (_, None) => Check::ok(id, title, "plausible"),
    }
}

#[cfg(test)]
mod tests {
    use sprite_network::Status;

    use super::super::facts::Disk;
    use super::*;

    fn healthy() -> Facts {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Facts {
            is_root: true,
            kernel: "6.1.0-56-cloud-amd64".into(),
            filesystems: set(&["ext4", "fuse"]),
            modules: set(&["loop", "tun", "overlay"]),
            has_module_folder: true,
            user_namespaces_max: Some(63_000),
            core_pattern: "core".into(),
            disk: Some(Disk {
                path: "/var/lib".into(),
                available: ByteSize::gib(80),
                is_in_memory: false,
            }),
            programs: vec![
                ("sprite-guestd", Some(Linkage::Dynamic)),
                ("sprite-env", Some(Linkage::Static)),
            ],
            now: Some(CLOCK_MIN),
            ..Facts::default()
        }
    }

    fn find(facts: &Facts, id: &str) -> Check {
        checks(facts).into_iter().find(|check| check.id == id).unwrap()
    }

    #[test]
    fn a_healthy_host_has_nothing_to_mend() {
        for check in checks(&healthy()) {
            assert_eq!((check.status, check.fix), (Status::Ok, None), "{}", check.id);
        }
    }

    #[test]
    fn every_trouble_is_named_with_its_fix() {
        type Break = fn(&mut Facts);
        let dying: [(&str, Break, &str); 11] = [
            ("root", |f| f.is_root = false, "sudo"),
            ("kernel", |f| f.kernel = "5.15.0-91-generic".into(), "Debian 12"),
            ("kernel.features", |f| _ = f.modules.remove("loop"), "modprobe -a loop"),
            (
                "kernel.features",
                |f| {
                    f.modules.clear();
                    f.has_module_folder = false;
                },
                "reboot",
            ),
            ("userns", |f| f.user_namespaces_max = None, "kernel"),
            ("userns", |f| f.user_namespaces_max = Some(0), "user.max_user_namespaces="),
            ("tools", |f| f.missing_tools.push(("mkfs.ext4", "e2fsprogs")), "e2fsprogs"),
            ("programs", |f| f.programs[0].1 = None, "script/build"),
            ("disk", |f| f.disk.as_mut().unwrap().available = ByteSize::gib(1), "--data-dir"),
            ("clock", |f| f.now = Some(Timestamp::from_micros(0)), "timedatectl"),
            ("kernel", |f| f.kernel = "4.19".into(), "upgrade"),
        ];
        let limping: [(&str, Break, &str); 9] = [
            ("kernel", |f| f.kernel = "custom".into(), "6.1"),
            ("kernel.features", |f| _ = f.modules.remove("tun"), "modprobe -a tun"),
            ("userns", |f| f.apparmor_restricts_userns = true, "apparmor_restrict"),
            ("tools", |f| f.missing_tools.push(("mmdebstrap", "mmdebstrap")), "mmdebstrap"),
            ("programs", |f| f.programs[1].1 = Some(Linkage::Dynamic), "script/build"),
            (
                "core_pattern",
                |f| f.core_pattern = "|/usr/share/apport/apport -p%p".into(),
                "apport",
            ),
            ("disk", |f| f.disk.as_mut().unwrap().available = ByteSize::gib(9), "--data-dir"),
            ("disk", |f| f.disk.as_mut().unwrap().is_in_memory = true, "--data-dir"),
            ("clock", |f| f.is_clock_synchronized = Some(false), "timedatectl"),
        ];
        let all = dying.map(|t| (Status::Fail, t)).into_iter();
        for (status, (id, break_it, fix)) in all.chain(limping.map(|t| (Status::Warn, t))) {
            let mut facts = healthy();
            break_it(&mut facts);
            let check = find(&facts, id);
            assert_eq!(check.status, status, "{id}: {}", check.detail);
            let text = check.fix.unwrap();
            assert!(text.contains(fix), "{id}: {text}");
        }
    }

    #[test]
    fn releases_of_distributions_are_read() {
        assert_eq!(parse_release("6.8.0-41-generic"), Some((6, 8)));
        assert_eq!(parse_release("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_release("6.1"), Some((6, 1)));
        assert_eq!(parse_release("x"), None);
    }
}
