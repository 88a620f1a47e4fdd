//! Reading where the hierarchies are mounted, and where in each this process is.

use std::path::{Path, PathBuf};

/// Our place in a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where the hierarchy is mounted.
    pub(super) mount: PathBuf,
    /// The group this process is in.
    pub(super) own: PathBuf,
}

/// What `/proc/self/mountinfo` and `/proc/self/cgroup` say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Controllers and our group, per version 1 hierarchy.
    pub(super) v1: Vec<(Vec<String>, PathBuf)>,
    pub(super) v2: Option<Place>,
}

impl Layout {
    pub(super) fn parse(mounts: &str, groups: &str) -> Self {
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
