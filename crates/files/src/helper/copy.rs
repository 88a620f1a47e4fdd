//! Copying.

use std::fs::{File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sprite_api::fs::{Copied, Moved};

use crate::error::FsError;
use crate::helper::read::{open_regular, refuse_special};
use crate::helper::{Outcome, Report, Stop, answer_json, show, sorted_names};
use crate::path::split;
use crate::wire::Channel;

/// Bytes copied between two signs of life.
const PIECE: u64 = 32 * 1024 * 1024;

pub(crate) fn run(
    channel: &mut Channel,
    source: &str,
    dest: &str,
    recursive: bool,
    preserve: bool,
) -> Outcome {
    let meta = std::fs::metadata(source).map_err(|error| FsError::io(&error, "copy", source))?;
    if meta.is_dir() {
        if !recursive {
            return Err(FsError::new(Errno::ISDIR, "copy", source).into());
        }
        let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        if real(dest).starts_with(real(source)) || real(split(dest).0).starts_with(real(source)) {
            let why = "a directory cannot be copied into itself";
            return Err(FsError::invalid(dest, why).into());
        }
    } else {
        refuse_special(&meta, source)?;
        if std::fs::metadata(dest).is_ok_and(|there| there.is_dir()) {
            return Err(FsError::new(Errno::ISDIR, "copy", dest).into());
        }
    }
    let parent = split(dest).0;
    std::fs::create_dir_all(parent).map_err(|error| FsError::io(&error, "mkdir", parent))?;
    let mut tree = Tree::new(preserve);
    tree.copy(channel, Path::new(source), Path::new(dest), true)?;
    let Tree { report, total_bytes, .. } = tree;
    answer_json(channel, &Copied { copied: report.items, count: report.count, total_bytes })
}

/// A copy under way.
pub(super) struct Tree {
    preserve: bool,
    report: Report<Moved>,
    total_bytes: u64,
}

impl Tree {
    pub(super) const fn new(preserve: bool) -> Self {
        Self { preserve, report: Report::new(), total_bytes: 0 }
    }

    /// Copies a file or a directory. FIFOs, sockets and devices within one are left out.
    pub(super) fn copy(
        &mut self,
        channel: &mut Channel,
        source: &Path,
        dest: &Path,
        follow: bool,
    ) -> Result<(), Stop> {
        channel.alive()?;
        let fail = |error: io::Error| FsError::io(&error, "copy", &show(source));
        let meta = if follow { source.metadata() } else { source.symlink_metadata() };
        let meta = meta.map_err(fail)?;
        if meta.is_symlink() {
            let link = std::fs::read_link(source).map_err(fail)?;
            replace_by_link(&link, dest).map_err(fail)?;
        } else if meta.is_dir() {
            match std::fs::create_dir(dest) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dest.is_dir() => {}
                result => result.map_err(|error| FsError::io(&error, "mkdir", &show(dest)))?,
            }
            for name in sorted_names(source).map_err(fail)? {
                self.copy(channel, &source.join(&name), &dest.join(&name), false)?;
            }
            // Last, lest a directory that nobody may write cannot be filled.
            self.attributes(&meta, dest).map_err(fail)?;
        } else if meta.is_file() {
            self.total_bytes += self.file(channel, &meta, source, dest)?;
        } else {
            return Ok(());
        }
        self.report.add(|| Moved { source: show(source), dest: show(dest) });
        Ok(())
    }

    fn file(
        &self,
        channel: &mut Channel,
        meta: &Metadata,
        source: &Path,
        dest: &Path,
    ) -> Result<u64, Stop> {
        let (mut from, _) = open_regular(&show(source))?;
        let fail = |error: io::Error| FsError::io(&error, "copy", &show(dest));
        if let Ok(there) = std::fs::metadata(dest) {
            if (there.dev(), there.ino()) == (meta.dev(), meta.ino()) {
                let why = "source and destination are the same file";
                return Err(FsError::invalid(&show(dest), why).into());
            }
            refuse_special(&there, &show(dest))?;
        }
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(meta.mode() & 0o777);
        let mut to = options.custom_flags(flags).open(dest).map_err(fail)?;
        let mut size = 0;
        loop {
            // Uses the kernel's own copy where there is one.
            let len = io::copy(&mut Read::by_ref(&mut from).take(PIECE), &mut to).map_err(fail)?;
            size += len;
            channel.alive()?;
            if len < PIECE {
                break;
            }
        }
        to.flush().map_err(fail)?;
        if self.preserve {
            keep(&to, meta).map_err(fail)?;
        }
        Ok(size)
    }

    fn attributes(&self, meta: &Metadata, dest: &Path) -> io::Result<()> {
        if self.preserve {
            return keep(&File::open(dest)?, meta);
        }
        std::fs::set_permissions(dest, Permissions::from_mode(meta.mode() & 0o755))
    }
}

/// Gives a copy the original's owner (where allowed), mode and times.
fn keep(copy: &File, meta: &Metadata) -> io::Result<()> {
    // Only some may give files away; `cp -p` does not mind either.
    let given = std::os::unix::fs::fchown(copy, Some(meta.uid()), Some(meta.gid())).is_ok();
    // Set-id bits are worth something only to the owner they were meant for.
    let mode = meta.mode() & if given { 0o7777 } else { 0o1777 };
    copy.set_permissions(Permissions::from_mode(mode))?;
    let times = FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?);
    copy.set_times(times)
}

fn replace_by_link(link: &Path, dest: &Path) -> io::Result<()> {
    match std::os::unix::fs::symlink(link, dest) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(dest)?;
            std::os::unix::fs::symlink(link, dest)
        }
        result => result,
    }
}
