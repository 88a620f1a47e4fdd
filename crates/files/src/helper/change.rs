//! Changing modes and owners.

use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sprite_api::format::format_mode;
use sprite_api::fs::{Affected, Change};

use crate::error::FsError;
use crate::helper::read::open_regular;
use crate::helper::{Outcome, Report, Stop, answer_json, show, sorted_names};
use crate::request::Owner;
use crate::wire::Channel;

/// How much of a user or group database is looked at, in bytes.
const DATABASE_MAX: u64 = 1024 * 1024;

pub(crate) fn modes(channel: &mut Channel, path: &str, mode: u32, recursive: bool) -> Outcome {
    let change = |path: &Path| {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        let mode = Some(format_mode(mode));
        Ok(Change { path: show(path), mode, ..Change::default() })
    };
    all(channel, "chmod", path, recursive, false, &change)
}

pub(crate) fn owners(
    channel: &mut Channel,
    path: &str,
    uid: Option<Owner>,
    gid: Option<Owner>,
    recursive: bool,
) -> Outcome {
    let uid = look_up(uid, "/etc/passwd", "user", path)?;
    let gid = look_up(gid, "/etc/group", "group", path)?;
    let top = Path::new(path);
    let change = |path: &Path| {
        // Links below the top are changed themselves, not what they point to.
        if path == top {
            std::os::unix::fs::chown(path, uid, gid)?;
        } else {
            std::os::unix::fs::lchown(path, uid, gid)?;
        }
        let meta = if path == top { path.metadata() } else { path.symlink_metadata() }?;
        let (uid, gid) = (Some(meta.uid()), Some(meta.gid()));
        Ok(Change { path: show(path), uid, gid, ..Change::default() })
    };
    all(channel, "chown", path, recursive, true, &change)
}

fn look_up(
    owner: Option<Owner>,
    database: &str,
    kind: &str,
    path: &str,
) -> Result<Option<u32>, FsError> {
    let name = match owner {
        None => return Ok(None),
        Some(Owner::Id(id)) => return Ok(Some(id)),
        Some(Owner::Name(name)) => name,
    };
    let (file, _) = open_regular(database)?;
    for line in BufReader::new(file.take(DATABASE_MAX)).split(b'\n') {
        let Ok(line) = line else { break };
        let mut fields = line.split(|&b| b == b':');
        if fields.next() != Some(name.as_bytes()) {
            continue;
        }
        let id = fields.nth(1).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        if let Some(id) = id {
            return Ok(Some(id));
        }
    }
    let name: String = name.chars().take(64).collect();
    Err(FsError::invalid(path, &format!("no {kind} `{name}`")))
}

fn all(
    channel: &mut Channel,
    what: &str,
    path: &str,
    recursive: bool,
    links: bool,
    change: &dyn Fn(&Path) -> io::Result<Change>,
) -> Outcome {
    let mut report = Report::new();
    let mut walk = Walk { channel, what, links, change, report: &mut report };
    walk.step(Path::new(path), recursive, true)?;
    answer_json(channel, &Affected { affected: report.items, count: report.count })
}

struct Walk<'a> {
    channel: &'a mut Channel,
    what: &'a str,
    /// Whether links below the top are changed themselves rather than left alone.
    links: bool,
    change: &'a dyn Fn(&Path) -> io::Result<Change>,
    report: &'a mut Report<Change>,
}

impl Walk<'_> {
    fn step(&mut self, path: &Path, recursive: bool, is_top: bool) -> Result<(), Stop> {
        self.channel.alive()?;
        let fail = |error: io::Error| FsError::io(&error, self.what, &show(path));
        let meta = if is_top { path.metadata() } else { path.symlink_metadata() };
        let meta = meta.map_err(fail)?;
        if meta.is_symlink() && !self.links {
            return Ok(());
        }
        // Read first: the new mode may forbid it.
        let names =
            if recursive && meta.is_dir() { sorted_names(path).map_err(fail)? } else { Vec::new() };
        // Children first, for the same reason.
        for name in names {
            self.step(&path.join(name), true, false)?;
        }
        let change = (self.change)(path);
        let change = change.map_err(|error| FsError::io(&error, self.what, &show(path)))?;
        self.report.add(|| change);
        Ok(())
    }
}
