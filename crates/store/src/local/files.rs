//! Objects as files, each call on the calling thread.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sprite_types::Timestamp;

use crate::backend::{Body, ObjectInfo};
use crate::{Ambient, Failure, Key, Prefix};

/// Where files are before they are objects. No key begins with a dot.
const STAGING: &str = ".staging";
/// Age from which an unfinished file belongs to no living write.
const STAGED_AGE_MAX: Duration = Duration::from_secs(3600);
/// Folders remembered as durable; beyond that all are forgotten.
const DURABLE_FOLDERS_MAX: usize = 20_000;

/// An open store folder.
pub(super) struct Files {
    root: OwnedFd,
    staging: OwnedFd,
    ambient: Ambient,
    /// Folders whose names were synced in the folders above them, by this process.
    durable: Mutex<HashSet<String>>,
}

/// A file without a name among the objects; removed unless it was renamed.
struct Staged<'a> {
    staging: &'a OwnedFd,
    name: String,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Left alone it would only cost space until the sweep of a later open.
        let _ = rustix::fs::unlinkat(self.staging, &self.name, AtFlags::empty());
    }
}

impl Files {
    pub(super) fn open(path: &Path, ambient: Ambient) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        make_folders(&path)?;
        let root: OwnedFd = File::open(&path)?.into();
        match rustix::fs::mkdirat(&root, STAGING, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let staging = open_below(&root, STAGING, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(&root)?;
        let files = Self { root, staging, ambient, durable: Mutex::default() };
        files.sweep()?;
        Ok(files)
    }

    /// Removes what writes that ended in the middle left behind.
    fn sweep(&self) -> io::Result<()> {
        let now = self.ambient.clock.now();
        for entry in Dir::read_from(&self.staging)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&self.staging, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let written = Timestamp::from_micros(stat.st_mtime.saturating_mul(1_000_000));
            if now.since(written) > STAGED_AGE_MAX {
                match rustix::fs::unlinkat(&self.staging, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => tracing::warn!(%error, "an unfinished file cannot be removed"),
                }
            }
        }
        Ok(())
    }

    pub(super) fn create(&self, key: &Key, bytes: &Bytes) -> Result<(), Failure> {
        let folder = self.folder_for(key)?;
        // Not needed for safety: spares writing a large body for nothing.
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let known = rustix::fs::statat(&folder, key.file_name(), flags);
        let result = match known {
            Ok(_) => Err(Errno::EXIST),
            Err(_) => {
                let staged = self.stage(bytes).map_err(|error| failure("write", &error))?;
                let none = AtFlags::empty();
                rustix::fs::linkat(&self.staging, &staged.name, &folder, key.file_name(), none)
            }
        };
        match result {
            Ok(()) => sync_folder(&folder),
            Err(Errno::EXIST) => {
                // Whoever made it may not have synced yet, and our caller may be about to rely
                // on what it finds.
                sync_folder(&folder)?;
                is_file(&folder, key)?;
                Err(Failure::Taken)
            }
            Err(error) => Err(failure("name", &error.into())),
        }
    }

    pub(super) fn overwrite(&self, key: &Key, bytes: &Bytes) -> Result<(), Failure> {
        let folder = self.folder_for(key)?;
        let staged = self.stage(bytes).map_err(|error| failure("write", &error))?;
        rustix::fs::renameat(&self.staging, &staged.name, &folder, key.file_name())
            .map_err(|error| failure("rename", &error.into()))?;
        sync_folder(&folder)
    }

    pub(super) fn get(&self, key: &Key, bytes_max: u64) -> Result<Body, Failure> {
        let (file, meta) = self.open_object(key)?;
        if meta.len() > bytes_max {
            return Err(Failure::TooLarge { size_bytes: meta.len() });
        }
        read(&file, 0, meta.len())
    }

    pub(super) fn get_range(&self, key: &Key, start: u64, len: u64) -> Result<Body, Failure> {
        let (file, meta) = self.open_object(key)?;
        match start.checked_add(len) {
            Some(end) if end <= meta.len() => read(&file, start, len),
            _ => Err(Failure::OutOfRange { size_bytes: Some(meta.len()) }),
        }
    }

    pub(super) fn head(&self, key: &Key) -> Result<ObjectInfo, Failure> {
        let (_, meta) = self.open_object(key)?;
        let micros =
            meta.mtime().saturating_mul(1_000_000).saturating_add(meta.mtime_nsec() / 1000);
        let modified = Timestamp::from_micros(micros);
        Ok(ObjectInfo { key: key.clone(), size: meta.len(), modified })
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), Failure> {
        let folder = match self.open_folder(&key.folder()) {
            Ok(folder) => folder,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(failure("open the folder", &error)),
        };
        match rustix::fs::unlinkat(&folder, key.file_name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => sync_folder(&folder),
            // A folder of that name: there is no such object.
            Err(Errno::ISDIR) => Ok(()),
            Err(error) => Err(failure("remove", &error.into())),
        }
    }

    /// Opens the folder that an object is to be in, making what is missing, such that a power
    /// cut does not take the folder away.
    fn folder_for(&self, key: &Key) -> Result<OwnedFd, Failure> {
        let prefix = key.folder();
        let known = self.is_durable(prefix.as_str());
        match self.open_folder(&prefix) {
            Ok(folder) if known => return Ok(folder),
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failure("open the folder", &error)),
        }
        self.make_durable(&prefix).map_err(|error| failure("make the folder", &error))?;
        self.open_folder(&prefix).map_err(|error| failure("open the folder", &error))
    }

    /// Makes every folder on the way and syncs the one above it, also if it existed: its maker
    /// may not have come that far.
    fn make_durable(&self, prefix: &Prefix) -> io::Result<()> {
        let text = prefix.as_str();
        let mut above = rustix::io::dup(&self.root)?;
        for (at, _) in text.match_indices('/') {
            let path = &text[..at];
            let name = path.rsplit('/').next().unwrap_or(path);
            match rustix::fs::mkdirat(&above, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            rustix::fs::fsync(&above)?;
            above = open_below(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= DURABLE_FOLDERS_MAX {
            durable.clear();
        }
        durable.insert(text.to_owned());
        Ok(())
    }

    fn is_durable(&self, folder: &str) -> bool {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    pub(super) fn open_folder(&self, prefix: &Prefix) -> io::Result<OwnedFd> {
        match prefix.as_str().strip_suffix('/') {
            None => Ok(rustix::io::dup(&self.root)?),
            Some(path) => open_below(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY),
        }
    }

    /// Writes a new file in the hidden folder and syncs it.
    fn stage(&self, bytes: &Bytes) -> io::Result<Staged<'_>> {
        let name = format!("{}-{:016x}", std::process::id(), (self.ambient.random)());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(&self.staging, &name, flags, mode)?;
        let staged = Staged { staging: &self.staging, name };
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }

    fn open_object(&self, key: &Key) -> Result<(File, fs::Metadata), Failure> {
        // Non-blocking, or a planted pipe would hold this thread for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file: File = match open_below(&self.root, key.as_str(), flags) {
            Ok(fd) => fd.into(),
            Err(error) if is_missing(&error) => return Err(Failure::Missing),
            Err(error) => return Err(failure("open", &error)),
        };
        let meta = file.metadata().map_err(|error| failure("open", &error))?;
        if meta.is_dir() {
            return Err(Failure::Missing);
        }
        if !meta.is_file() {
            return Err(Failure::refused("it is not an ordinary file"));
        }
        Ok((file, meta))
    }
}

fn sync_folder(folder: &OwnedFd) -> Result<(), Failure> {
    rustix::fs::fsync(folder).map_err(|error| failure("sync the folder", &error.into()))
}

/// What holds a name must be an object, or no answer about it would ever make sense.
fn is_file(folder: &OwnedFd, key: &Key) -> Result<(), Failure> {
    match rustix::fs::statat(folder, key.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() => Ok(()),
        Ok(_) => Err(Failure::refused("the name belongs to a folder or link")),
        Err(error) => Err(failure("look", &error.into())),
    }
}

/// Opens what lies below `root`, following no link at all.
pub(super) fn open_below(root: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename somewhere in the system was in the way of the check.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Makes the store's folder and syncs each folder above one that was made.
fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().ok_or(io::ErrorKind::NotFound)?;
    make_folders(above)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    File::open(above)?.sync_all()
}

/// Reads `len` bytes. Objects never shrink: they are replaced as a whole.
fn read(file: &File, start: u64, len: u64) -> Result<Body, Failure> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Failure::refused("too long"))?];
    file.read_exact_at(&mut bytes, start).map_err(|error| failure("read", &error))?;
    Ok(Body { announced: len, bytes: bytes.into() })
}

/// No such file, or something on the way is a file itself.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Says which failures of a file system may pass by themselves.
pub(super) fn failure(what: &'static str, error: &io::Error) -> Failure {
    let reason = format!("{what}: {error}");
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => Failure::refused("a symbolic link is in the way"),
        Some(Errno::NOTDIR | Errno::ISDIR) => {
            Failure::refused("a name cannot be both an object and a folder")
        }
        Some(Errno::XDEV) => Failure::refused("the store's folder is on two file systems"),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Failure::Denied { reason },
        Some(Errno::NAMETOOLONG | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
            Failure::refused(reason)
        }
        // Full disks are emptied, bad ones may answer the next time; who relies on a write
        // learns after some attempts that it did not happen.
        _ => Failure::transient(reason),
    }
}
