//! Our own files in every image, whatever the rest is made of.
//!
//! One list serves both ways of making an image: packed as a tar stream it is unpacked over
//! the new root by the build script or by the importer.

use std::io;

use tar::{EntryType, Header};

/// Uid and gid of the sprite's user.
pub(crate) const SPRITE_ID: u32 = 1001;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    File(String),
    Link(&'static str),
}

/// A file, folder or symbolic link with its place, mode, user and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: &'static str,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) kind: Kind,
}

impl Entry {
    /// Returns a text that changes when the entry does.
    pub(crate) fn describe(&self) -> String {
        format!("{self:?}")
    }
}

const ROOT: (u32, u32) = (0, 0);
const SPRITE: (u32, u32) = (SPRITE_ID, SPRITE_ID);
/// Owned by root, so that no program finds a strange owner on the way to a system file, and
/// writable by the sprite's user, as clients expect.
const SHARED: (u32, u32) = (0, SPRITE_ID);

/// Lists our entries, parents first. `version` is the line of `version.txt`.
pub(crate) fn entries(version: &str) -> Vec<Entry> {
    let dir = |path, mode, owner| Entry { path, mode, owner, kind: Kind::Dir };
    let file = |path, mode, owner, text: &str| Entry {
        path,
        mode,
        owner,
        kind: Kind::File(text.to_owned()),
    };
    let link = |path, target| Entry { path, mode: 0o777, owner: ROOT, kind: Kind::Link(target) };
    let mut list = vec![
        dir("./", 0o775, SHARED),
        dir("./home", 0o775, SHARED),
        dir("./home/sprite", 0o755, SPRITE),
        dir("./mnt", 0o775, SHARED),
        dir("./opt", 0o775, SHARED),
        dir("./root", 0o770, SHARED),
        dir("./srv", 0o775, SHARED),
        dir("./.sprite", 0o755, ROOT),
        dir("./.sprite/bin", 0o755, SPRITE),
        // The program itself is mounted over this one at boot, so that it fits the host.
        file("./.sprite/bin/sprite-env", 0o755, ROOT, ""),
        link("./.sprite/bin/sprite-console", "sprite-env"),
        link("./.sprite/bin/sprite-browser", "sprite-env"),
        link("./.sprite/bin/xdg-open", "sprite-browser"),
        dir("./.sprite/checkpoints", 0o755, ROOT),
        dir("./.sprite/docs", 0o755, ROOT),
        file(
            "./.sprite/docs/agent-context.md",
            0o444,
            ROOT,
            include_str!("../assets/files/agent-context.md"),
        ),
        file(
            "./.sprite/docs/services.md",
            0o444,
            ROOT,
            include_str!("../assets/files/services.md"),
        ),
        dir("./.sprite/etc", 0o755, ROOT),
        dir("./.sprite/etc/profile.d", 0o755, ROOT),
        file(
            "./.sprite/etc/profile.d/10-path.sh",
            0o644,
            ROOT,
            include_str!("../assets/files/profile-path.sh"),
        ),
        dir("./.sprite/languages", 0o755, SPRITE),
        dir("./.sprite/languages/node", 0o755, SPRITE),
        file(
            "./.sprite/languages/node/llm.txt",
            0o644,
            SPRITE,
            include_str!("../assets/files/node-llm.txt"),
        ),
        dir("./.sprite/languages/python", 0o755, SPRITE),
        file(
            "./.sprite/languages/python/llm.txt",
            0o644,
            SPRITE,
            include_str!("../assets/files/python-llm.txt"),
        ),
        file("./.sprite/llm-dev.txt", 0o444, ROOT, include_str!("../assets/files/llm-dev.txt")),
        file("./.sprite/llm.txt", 0o444, ROOT, include_str!("../assets/files/llm.txt")),
        dir("./.sprite/logs", 0o755, ROOT),
        dir("./.sprite/logs/services", 0o755, ROOT),
        dir("./.sprite/policy", 0o755, ROOT),
        file(
            "./.sprite/policy/network.json",
            0o444,
            ROOT,
            include_str!("../assets/files/network.json"),
        ),
        file("./.sprite/version.txt", 0o444, ROOT, &format!("{version}\n")),
        dir("./etc/profile.d", 0o755, ROOT),
        file(
            "./etc/profile.d/zz-sprite.sh",
            0o644,
            ROOT,
            include_str!("../assets/files/profile-sprite.sh"),
        ),
        dir("./etc/sudoers.d", 0o750, ROOT),
        file("./etc/sudoers.d/sprite", 0o440, ROOT, include_str!("../assets/files/sudoers")),
        dir("./etc/default", 0o755, ROOT),
        file("./etc/default/locale", 0o644, ROOT, include_str!("../assets/files/locale")),
        file("./etc/environment", 0o644, ROOT, include_str!("../assets/files/environment")),
        file("./etc/fstab", 0o644, ROOT, include_str!("../assets/files/fstab")),
        file("./etc/hostname", 0o644, ROOT, "sprite\n"),
        file("./etc/hosts", 0o644, ROOT, include_str!("../assets/files/hosts")),
        dir("./etc/apt/apt.conf.d", 0o755, ROOT),
        file(
            "./etc/apt/apt.conf.d/90sprite",
            0o644,
            ROOT,
            include_str!("../assets/files/apt.conf"),
        ),
        dir("./usr/sbin", 0o755, ROOT),
        file("./usr/sbin/policy-rc.d", 0o755, ROOT, include_str!("../assets/files/policy-rc.d")),
    ];
    for (folder, skills, skill, text) in SKILLS {
        list.push(dir(folder, 0o755, SPRITE));
        list.push(dir(skills, 0o755, SPRITE));
        list.push(dir(skill, 0o755, SPRITE));
        list.push(file(text, 0o644, SPRITE, include_str!("../assets/files/skill-gateway.md")));
    }
    list
}

/// Where coding tools look for skills.
const SKILLS: [(&str, &str, &str, &str); 4] = [
    (
        "./home/sprite/.claude",
        "./home/sprite/.claude/skills",
        "./home/sprite/.claude/skills/sprite-api-gateway",
        "./home/sprite/.claude/skills/sprite-api-gateway/SKILL.md",
    ),
    (
        "./home/sprite/.cursor",
        "./home/sprite/.cursor/skills",
        "./home/sprite/.cursor/skills/sprite-api-gateway",
        "./home/sprite/.cursor/skills/sprite-api-gateway/SKILL.md",
    ),
    (
        "./home/sprite/.codex",
        "./home/sprite/.codex/skills",
        "./home/sprite/.codex/skills/sprite-api-gateway",
        "./home/sprite/.codex/skills/sprite-api-gateway/SKILL.md",
    ),
    (
        "./home/sprite/.gemini",
        "./home/sprite/.gemini/skills",
        "./home/sprite/.gemini/skills/sprite-api-gateway",
        "./home/sprite/.gemini/skills/sprite-api-gateway/SKILL.md",
    ),
];

/// Packs the entries as a tar stream. `mtime` is in seconds since 1970.
pub(crate) fn archive(version: &str, mtime: u64) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for Entry { path, mode, owner, kind } in entries(version) {
        let mut header = Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(u64::from(owner.0));
        header.set_gid(u64::from(owner.1));
        header.set_mtime(mtime);
        match kind {
            Kind::Dir => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                append(&mut archive, &mut header, path, &[])?;
            }
            Kind::File(text) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(text.len() as u64);
                append(&mut archive, &mut header, path, text.as_bytes())?;
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                header.set_link_name(target)?;
                append(&mut archive, &mut header, path, &[])?;
            }
        }
    }
    archive.into_inner()
}

/// Appends with the path as it is: the library's own way drops the leading `./`, and with it
/// the root folder.
fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    header: &mut Header,
    path: &str,
    data: &[u8],
) -> io::Result<()> {
    let name = &mut header.as_old_mut().name;
    if path.len() > name.len() {
        return Err(io::Error::other(format!("path too long for a plain header: {path}")));
    }
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    archive.append(header, data)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_folder_of_ours_is_listed_before_what_is_in_it() {
        let mut dirs = BTreeSet::new();
        for entry in entries("v") {
            let path = entry.path.trim_end_matches('/');
            if let Some(parent) = Path::new(path).parent().filter(|parent| {
                let parent = parent.to_str().unwrap();
                parent.contains(".sprite") || parent.contains("home/")
            }) {
                assert!(dirs.contains(parent.to_str().unwrap()), "{path}");
            }
            if entry.kind == Kind::Dir {
                dirs.insert(path.to_owned());
            }
        }
    }

    #[test]
    fn the_archive_holds_every_entry_with_owner_and_mode() {
        let bytes = archive("1.2.3 test", 7).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            found.push((path, header.mode().unwrap(), header.uid().unwrap()));
        }
        assert_eq!(found.len(), entries("1.2.3 test").len());
        assert_eq!(found[0].0.trim_end_matches('/'), ".");
        assert_eq!(found[0].1, 0o775);
        let bin = found.iter().find(|(path, ..)| path.trim_end_matches('/') == "./.sprite/bin");
        assert_eq!(bin.map(|(_, mode, uid)| (*mode, *uid)), Some((0o755, SPRITE_ID.into())));
    }

    /// The contract's list of what the orientation text must mention.
    #[test]
    fn the_orientation_text_mentions_what_programs_look_for() {
        let text = include_str!("../assets/files/llm.txt");
        for word in [
            "sudo",
            "pause",
            "boot",
            "sprite-env services",
            "--cmd",
            "--args",
            "--dir",
            "/.sprite/logs/services",
            "/.sprite/api.sock",
            "8080",
            "--http-port",
            "secrets",
            "checkpoints",
            "/.sprite/policy/network.json",
            "REFUSED",
            "llm-dev.txt",
            "/v1/tasks",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }
}
