//! Taking a file: into a temporary one beside it, which then takes its place.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use sprite_api::format::format_mode;
use sprite_api::fs::Written;

use crate::error::FsError;
use crate::helper::read::refuse_special;
use crate::helper::{Outcome, Stop, answer_json, show};
use crate::path::split;
use crate::wire::{Channel, DATA, END};

/// Links followed before giving up; the kernel's own limit.
const LINKS_MAX: usize = 40;

pub(crate) fn run(channel: &mut Channel, path: &str, mode: u32, parents: bool) -> Outcome {
    let (parent, name) = split(path);
    if name.is_empty() {
        return Err(FsError::new(Errno::ISDIR, "write", path).into());
    }
    make_parents(channel, path, Path::new(parent), name, parents)?;
    let target = follow_links(path)?;
    let before = match std::fs::metadata(&target) {
        Ok(meta) => {
            refuse_special(&meta, path)?;
            Some(meta)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(FsError::io(&error, "write", path).into()),
    };
    let size = match Temporary::beside(&target) {
        Ok(mut temporary) => {
            let size = take_body(channel, &mut temporary.file, path)?;
            temporary.install(&target, mode, before.as_ref(), path)?;
            size
        }
        // The directory cannot be written, but perhaps the file can.
        Err(error) if before.is_some() && is_denied(&error) => {
            write_in_place(channel, &target, mode, path)?
        }
        Err(error) => return Err(FsError::io(&error, "write", path).into()),
    };
    answer_json(channel, &Written { path: path.to_owned(), size, mode: format_mode(mode) })
}

fn is_denied(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

/// Makes sure that the parent directory exists, as far as the call may.
fn make_parents(
    channel: &mut Channel,
    path: &str,
    parent: &Path,
    name: &str,
    all: bool,
) -> Outcome {
    match std::fs::metadata(parent) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => return Err(FsError::new(Errno::NOTDIR, "write", path).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FsError::io(&error, "write", path).into()),
    }
    let made = if all {
        std::fs::create_dir_all(parent)
    } else if name == ".keep" && channel.peek()? == END {
        // How SDKs make a single directory. Source: contract, http-api 10.1.
        std::fs::create_dir(parent)
    } else {
        return Err(FsError::new(Errno::NOENT, "write", path).into());
    };
    Ok(made.map_err(|error| FsError::io(&error, "mkdir", &show(parent)))?)
}

/// Returns the path that a file of this name would really have: links are followed, also one
/// that points to nothing yet.
fn follow_links(path: &str) -> Result<PathBuf, FsError> {
    let mut target = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&target) {
            Ok(link) => {
                let parent = target.parent().unwrap_or(Path::new("/"));
                target = parent.join(link);
            }
            // Not a link, or not there.
            Err(_) => return Ok(target),
        }
    }
    Err(FsError::new(Errno::LOOP, "write", path))
}

/// Copies the body into `file` and returns its length.
fn take_body(channel: &mut Channel, file: &mut File, path: &str) -> Result<u64, Stop> {
    let mut size = 0;
    let mut buffer = Vec::new();
    loop {
        let (kind, payload) = channel.receive(buffer)?;
        match kind {
            DATA => {
                file.write_all(&payload).map_err(|error| FsError::io(&error, "write", path))?;
                size += payload.len() as u64;
                channel.alive()?;
            }
            END => return Ok(size),
            _ => return Err(Stop::Lost(io::ErrorKind::InvalidData.into())),
        }
        buffer = payload;
    }
}

/// A file that removes itself unless it took the place of another.
struct Temporary {
    file: File,
    path: PathBuf,
    installed: bool,
}

impl Temporary {
    fn beside(target: &Path) -> io::Result<Self> {
        let parent = target.parent().unwrap_or(Path::new("/"));
        for _ in 0..16 {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
            let name = format!(".sprite-write-{:016x}", u64::from_ne_bytes(random));
            let path = parent.join(name);
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags);
            match options.open(&path) {
                Ok(file) => return Ok(Self { file, path, installed: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Puts the file in `target`'s place.
    fn install(
        mut self,
        target: &Path,
        mode: u32,
        before: Option<&std::fs::Metadata>,
        path: &str,
    ) -> Result<(), FsError> {
        let fail = |error: io::Error| FsError::io(&error, "write", path);
        if let Some(before) = before {
            let now = self.file.metadata().map_err(fail)?;
            if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
                // Only some may give files away; otherwise the file becomes the writer's.
                let _ =
                    std::os::unix::fs::fchown(&self.file, Some(before.uid()), Some(before.gid()));
            }
        }
        self.file.set_permissions(Permissions::from_mode(mode)).map_err(fail)?;
        match std::fs::rename(&self.path, target) {
            Ok(()) => {
                self.installed = true;
                Ok(())
            }
            // A mount point cannot be replaced, only filled.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                self.fill(target, mode).map_err(fail)
            }
            Err(error) => Err(fail(error)),
        }
    }

    fn fill(&mut self, target: &Path, mode: u32) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut there = open_in_place(target)?;
        io::copy(&mut self.file, &mut there)?;
        there.set_permissions(Permissions::from_mode(mode))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.installed {
            // If it cannot be removed there is nobody left to tell.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open_in_place(target: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().write(true).truncate(true).custom_flags(flags).open(target)
}

fn write_in_place(
    channel: &mut Channel,
    target: &Path,
    mode: u32,
    path: &str,
) -> Result<u64, Stop> {
    let fail = |error: io::Error| FsError::io(&error, "write", path);
    let mut file = open_in_place(target).map_err(fail)?;
    let size = take_body(channel, &mut file, path)?;
    // Who may write a file need not be its owner.
    let _ = file.set_permissions(Permissions::from_mode(mode));
    Ok(size)
}
