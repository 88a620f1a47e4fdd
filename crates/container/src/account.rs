//! Users and groups from the container's `/etc/passwd` and `/etc/group`.
//!
//! The files are the container's own and may say anything: reads are bounded, nonsense is
//! skipped, and ids outside the container's range are not taken.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use crate::spec::{ID_COUNT, User};

/// Largest part of a file that is looked at, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most supplementary groups.
const GROUPS_MAX: usize = 256;
/// The default user's id where the container has no user of that name.
const SPRITE_ID: u32 = 1001;

/// Who a process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

impl Account {
    /// Looks a user up. Must run inside the container, with its rights.
    pub(crate) fn load(user: User) -> Self {
        Self::resolve(user, &read("/etc/passwd"), &read("/etc/group"))
    }

    /// Finds the user in the two files' texts.
    fn resolve(user: User, passwd: &str, group: &str) -> Self {
        let entries = || passwd.lines().filter_map(Self::parse);
        let found = match user {
            User::Root => entries().find(|entry| entry.uid == 0),
            User::Sprite => entries()
                .find(|entry| entry.name == "sprite")
                .or_else(|| entries().find(|entry| entry.uid == SPRITE_ID)),
        };
        let mut account = found.unwrap_or_else(|| Self::fallback(user));
        account.groups = supplementary(group, &account.name, account.gid);
        account
    }

    /// Reads one line of `/etc/passwd`: `name:password:uid:gid:comment:home:shell`.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        let or = |text: &str, default: &str| {
            if text.starts_with('/') { text.to_owned() } else { default.to_owned() }
        };
        Some(Self {
            uid: parse_id(uid)?,
            gid: parse_id(gid)?,
            groups: Vec::new(),
            name: name.to_owned(),
            home: or(home, "/"),
            shell: or(shell, "/bin/sh"),
        })
    }

    fn fallback(user: User) -> Self {
        let (id, name, home) = match user {
            User::Root => (0, "root", "/root"),
            User::Sprite => (SPRITE_ID, "sprite", "/home/sprite"),
        };
        Self {
            uid: id,
            gid: id,
            groups: Vec::new(),
            name: name.to_owned(),
            home: home.to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }
}

/// Collects the groups that list `name`, from lines `group:password:gid:member,member`.
fn supplementary(group: &str, name: &str, gid: u32) -> Vec<u32> {
    let mut groups = vec![gid];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(id), Some(members)) = (fields.next().and_then(parse_id), fields.next()) else {
            continue;
        };
        if members.split(',').any(|member| member.trim() == name) && !groups.contains(&id) {
            groups.push(id);
        }
        if groups.len() == GROUPS_MAX {
            break;
        }
    }
    groups
}

fn parse_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id < ID_COUNT)
}

/// Reads the beginning of a regular file; anything else counts as empty.
fn read(path: &str) -> String {
    // Not blocking: the path may be a FIFO.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let open = || -> std::io::Result<File> {
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(std::io::ErrorKind::InvalidInput.into())
        }
    };
    let mut bytes = Vec::new();
    if let Ok(file) = open() {
        let _ = file.take(FILE_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        bad line\n\
        far:x:70000:70000::/:/bin/sh\n\
        sprite:x:1001:1001:,,,:/home/sprite:/bin/bash\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:bob,sprite\nusers:x:100:sprite\n\
        sprite:x:1001:sprite\nfar:x:99999:sprite\nodd\n";

    #[test]
    fn the_default_user_comes_with_its_groups() {
        let account = Account::resolve(User::Sprite, PASSWD, GROUP);
        assert_eq!((account.uid, account.gid), (1001, 1001));
        assert_eq!(account.groups, [1001, 27, 100]);
        assert_eq!(account.home, "/home/sprite");
        assert_eq!(account.shell, "/bin/bash");
    }

    #[test]
    fn root_is_found_by_id_whatever_its_name() {
        let account = Account::resolve(User::Root, "toor:x:0:0::/home/toor:/bin/zsh\n", "");
        assert_eq!((account.name.as_str(), account.home.as_str()), ("toor", "/home/toor"));
    }

    #[test]
    fn without_files_there_are_still_two_users() {
        let account = Account::resolve(User::Sprite, "", "");
        assert_eq!((account.uid, account.home.as_str()), (1001, "/home/sprite"));
        assert_eq!(Account::resolve(User::Root, "\0\u{ff}:::", ":::").uid, 0);
    }

    #[test]
    fn ids_outside_the_container_are_not_taken() {
        let account = Account::resolve(User::Sprite, "sprite:x:4294967295:0::/:/bin/sh\n", "");
        assert_eq!(account.uid, 1001);
    }

    #[test]
    fn a_member_of_thousands_of_groups_still_starts() {
        let group: String = (0..5000).map(|id| format!("g{id}:x:{id}:sprite\n")).collect();
        assert_eq!(Account::resolve(User::Sprite, PASSWD, &group).groups.len(), GROUPS_MAX);
    }
}
