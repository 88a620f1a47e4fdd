//! A folder that becomes a root file system, filled from a source that is not trusted.
//!
//! Every path is resolved by the kernel beneath the folder, as if it were the root already
//! (`openat2` with `RESOLVE_IN_ROOT`): absolute links and `..` in links stay inside, magic
//! links are refused. The last component is never followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    Uid, XattrFlags,
};
use rustix::io::Errno;

/// Longest path accepted, in bytes. **Source:** `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// Folders above one entry at most.
const DEPTH_MAX: usize = 256;

/// A root file system in the making.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
    /// Whether owners can be set; tests run without root.
    chown: bool,
}

/// Mode, owner and times of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
}

/// An existing folder and a name in it.
#[derive(Debug)]
pub(crate) struct Place {
    dir: OwnedFd,
    name: OsString,
}

impl Root {
    /// Makes the folder `path` the root.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { dir, chown: rustix::process::geteuid().is_root() })
    }

    /// Finds the place of an entry; `None` is the root itself. Missing folders above it are
    /// made if `make` says so.
    ///
    /// # Errors
    /// `InvalidInput` for a path that is too long or leads upwards; `NotFound` without `make`.
    pub(crate) fn place(&self, path: &Path, make: bool) -> io::Result<Option<Place>> {
        let names = normal(path)?;
        let Some((name, above)) = names.split_last() else { return Ok(None) };
        let dir = self.dir(&above.iter().collect::<PathBuf>(), make)?;
        Ok(Some(Place { dir, name: (*name).to_owned() }))
    }

    /// Opens a folder beneath the root, following links inside it.
    fn dir(&self, path: &Path, make: bool) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) if make => {}
            result => return Ok(result?),
        }
        let mut below = PathBuf::new();
        for name in path.iter() {
            let parent = self.resolve(&below, OFlags::PATH | OFlags::DIRECTORY)?;
            below.push(name);
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                result => return result,
            }
        }
    }

    /// Looks at what `path` leads to, following links inside the root.
    pub(crate) fn stat(&self, path: &str) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.resolve(Path::new(path), OFlags::PATH)?)?)
    }

    /// Reads a small regular file; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidData` for something else than a regular file of at most `bytes_max`.
    pub(crate) fn read(&self, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.resolve(Path::new(path), flags) {
            Err(Errno::NOENT) => return Ok(None),
            result => File::from(result?),
        };
        if !file.metadata()?.is_file() {
            return Err(invalid(format!("`{path}` is not a regular file")));
        }
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(invalid(format!("`{path}` is larger than {bytes_max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Makes a folder, or gives an existing one its attributes. A link to a folder counts as
    /// one if `through_link` says so; anything else is replaced.
    pub(crate) fn make_dir(
        &self,
        place: Option<&Place>,
        attributes: Attributes,
        through_link: bool,
    ) -> io::Result<()> {
        let Some(place) = place else {
            return self.set_attributes(&self.resolve(Path::new("."), OFlags::RDONLY)?, attributes);
        };
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match kind(place)? {
            Some(FileType::Directory) => {}
            Some(FileType::Symlink) if through_link && self.leads_to_dir(place) => {
                return Ok(()); // the distribution's own folder, with its own attributes
            }
            found => {
                if found.is_some() {
                    self.remove(place)?;
                }
                rustix::fs::mkdirat(&place.dir, &place.name, Mode::from_raw_mode(0o700))?;
            }
        }
        flags |= OFlags::NOFOLLOW;
        let dir = rustix::fs::openat(&place.dir, &place.name, flags, Mode::empty())?;
        self.set_attributes(&dir, attributes)
    }

    /// Follows a link's text once more from the root; good enough for `/sbin -> usr/bin`.
    fn leads_to_dir(&self, place: &Place) -> bool {
        let Ok(target) = rustix::fs::readlinkat(&place.dir, &place.name, Vec::new()) else {
            return false;
        };
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        // A relative link is meant from its own folder, which a link in the root's top or in
        // /usr reaches either way.
        [target.to_owned(), Path::new("usr").join(target)]
            .iter()
            .any(|path| self.resolve(path, OFlags::PATH | OFlags::DIRECTORY).is_ok())
    }

    /// Makes a regular file of what `data` yields, replacing what was there.
    pub(crate) fn make_file(
        &self,
        place: &Place,
        attributes: Attributes,
        xattrs: &[(String, Vec<u8>)],
        data: &mut impl Read,
    ) -> io::Result<u64> {
        self.remove(place)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let mut file = File::from(rustix::fs::openat(&place.dir, &place.name, flags, mode)?);
        let written = io::copy(data, &mut file)?;
        file.flush()?;
        let fd = file.as_fd();
        self.set_owner(&fd, attributes)?;
        for (name, value) in xattrs {
            match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
                Err(Errno::PERM | Errno::OPNOTSUPP) if !self.chown => {}
                result => result?,
            }
        }
        // After the owner: changing that takes the setuid bit away.
        self.set_mode_and_time(&fd, attributes)?;
        Ok(written)
    }

    /// Makes a symbolic link, replacing what was there.
    pub(crate) fn make_link(
        &self,
        place: &Place,
        target: &OsStr,
        attributes: Attributes,
    ) -> io::Result<()> {
        self.remove(place)?;
        rustix::fs::symlinkat(target, &place.dir, &place.name)?;
        if self.chown {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&place.dir, &place.name, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }

    /// Makes a second name for a file, replacing what was there.
    pub(crate) fn make_hard_link(&self, place: &Place, target: &Place) -> io::Result<()> {
        match kind(target)? {
            Some(FileType::Directory) | None => {
                return Err(invalid("hard link to something that is not a file"));
            }
            Some(_) => {}
        }
        let same = rustix::fs::statat(&target.dir, &target.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Ok(found) = rustix::fs::statat(&place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW)
            && (found.st_dev, found.st_ino) == (same.st_dev, same.st_ino)
        {
            return Ok(());
        }
        self.remove(place)?;
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(&target.dir, &target.name, &place.dir, &place.name, flags)?)
    }

    /// Makes a FIFO, replacing what was there.
    pub(crate) fn make_fifo(&self, place: &Place, attributes: Attributes) -> io::Result<()> {
        self.remove(place)?;
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        rustix::fs::mknodat(&place.dir, &place.name, FileType::Fifo, mode, 0)?;
        if self.chown {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&place.dir, &place.name, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }

    /// Removes an entry, with everything below it. Nothing there is no error.
    pub(crate) fn remove(&self, place: &Place) -> io::Result<()> {
        match kind(place)? {
            None => Ok(()),
            Some(FileType::Directory) => std::fs::remove_dir_all(by_fd(place)),
            Some(_) => Ok(rustix::fs::unlinkat(&place.dir, &place.name, AtFlags::empty())?),
        }
    }

    /// Empties a folder; `None` is the root itself.
    pub(crate) fn empty(&self, place: Option<&Place>) -> io::Result<()> {
        let path = match place {
            Some(place) if kind(place)? != Some(FileType::Directory) => return Ok(()),
            Some(place) => by_fd(place),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd())),
        };
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn set_attributes(&self, fd: &impl AsFd, attributes: Attributes) -> io::Result<()> {
        self.set_owner(fd, attributes)?;
        self.set_mode_and_time(fd, attributes)
    }

    fn set_owner(&self, fd: &impl AsFd, attributes: Attributes) -> io::Result<()> {
        if self.chown {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    fn set_mode_and_time(&self, fd: &impl AsFd, attributes: Attributes) -> io::Result<()> {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode & 0o7777))?;
        let seconds = i64::try_from(attributes.mtime).unwrap_or(0);
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
        };
        Ok(rustix::fs::futimens(fd, &times)?)
    }
}

/// Takes a path apart. Leading slashes and dots count for nothing; `..` is refused.
fn normal(path: &Path) -> io::Result<Vec<&OsStr>> {
    if path.as_os_str().len() > PATH_BYTES_MAX || path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid("a path is too long or holds a zero byte"));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid(format!("`{}` leads upwards", path.display())));
            }
        }
    }
    if names.len() > DEPTH_MAX {
        return Err(invalid("a path has too many folders"));
    }
    Ok(names)
}

/// Returns what is at a place, without following a link.
fn kind(place: &Place) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(&place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Names a place through the descriptor of its folder, which no link can bend.
fn by_fd(place: &Place) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", place.dir.as_raw_fd())).join(&place.name)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
