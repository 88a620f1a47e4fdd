//! Files of the host.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use super::disk::{Dir, File};

/// File systems that write every block to a new place. There, an overwrite of reserved space can
/// find the disk full. Source: `linux/magic.h`; OpenZFS `zfs_vfsops`; `bcachefs_format.h`.
const COPY_ON_WRITE: [(u64, &str); 3] =
    [(0x9123_683e, "btrfs"), (0x2fc1_2fc1, "zfs"), (0xca45_1a4e, "bcachefs")];
const BTRFS: u64 = 0x9123_683e;

/// Why a cache directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostDirError {
    /// Another process has it.
    #[error("cache directory `{}` is in use by another process", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Its file system cannot promise room for overwrites.
    #[error(
        "cache directory `{}` is on {name}, which copies on write: use another file system, or \
         on btrfs `chattr +C` on the empty directory",
        path.display()
    )]
    CopyOnWrite {
        /// Which.
        path: PathBuf,
        /// The file system.
        name: &'static str,
    },
    /// The host refused.
    #[error("open cache directory `{}`", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}

/// A directory of the host, held by an exclusive `flock` for as long as this lives.
pub struct HostDir {
    path: PathBuf,
    // Held for its lock.
    _lock: fs::File,
}

impl HostDir {
    /// Makes the directory if it is missing, checks its file system and locks it.
    ///
    /// # Errors
    /// - [`HostDirError::InUse`]: another process has it; wait for it to end.
    /// - [`HostDirError::CopyOnWrite`]: choose another place.
    /// - [`HostDirError::Io`]: see its source.
    pub fn open(path: &Path) -> Result<Self, HostDirError> {
        let path = path.to_owned();
        let io = |source: io::Error| HostDirError::Io { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(io)?;
        let lock = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(io)?;
        if let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            return Err(match error {
                rustix::io::Errno::WOULDBLOCK => HostDirError::InUse { path },
                other => io(other.into()),
            });
        }
        if let Some(name) = copies_on_write(&lock).map_err(io)? {
            return Err(HostDirError::CopyOnWrite { path, name });
        }
        Ok(Self { path, _lock: lock })
    }
}

fn copies_on_write(file: &fs::File) -> io::Result<Option<&'static str>> {
    // The kernel's type of this field differs between architectures; magics are 32 bits.
    let kind = rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    let Some((_, name)) = COPY_ON_WRITE.iter().find(|(magic, _)| *magic == kind) else {
        return Ok(None);
    };
    // A new file inherits no-cow from its directory, so the lock file tells.
    let no_cow =
        kind == BTRFS && rustix::fs::ioctl_getflags(file)?.contains(rustix::fs::IFlags::NOCOW);
    Ok((!no_cow).then_some(name))
}

impl Dir for HostDir {
    fn make(&self, dir: &str) -> io::Result<()> {
        self.remove(dir)?;
        fs::create_dir(self.path.join(dir))
    }

    fn exists(&self, dir: &str) -> io::Result<bool> {
        self.path.join(dir).try_exists()
    }

    fn remove(&self, dir: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.path.join(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, dir: &str, name: &str) -> io::Result<Box<dyn File>> {
        let path = self.path.join(dir).join(name);
        let file =
            fs::File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(HostFile(file)))
    }

    fn open(&self, dir: &str, name: &str) -> io::Result<Box<dyn File>> {
        let path = self.path.join(dir).join(name);
        Ok(Box::new(HostFile(fs::File::options().read(true).write(true).open(path)?)))
    }

    fn sync(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.path.join(dir))?.sync_all()?;
        fs::File::open(&self.path)?.sync_all()
    }
}

struct HostFile(fs::File);

impl File for HostFile {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.0.sync_data()?;
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_names_survive() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("volume");
        let dir = HostDir::open(&path).unwrap();
        assert!(matches!(HostDir::open(&path), Err(HostDirError::InUse { .. })));
        dir.make("new").unwrap();
        let file = dir.create("new", "slots").unwrap();
        file.allocate(8_192).unwrap();
        file.write(b"data", 4_096).unwrap();
        file.sync().unwrap();
        dir.rename("new", "live").unwrap();
        dir.sync("live").unwrap();
        drop((dir, file));
        let dir = HostDir::open(&path).unwrap();
        assert_eq!(dir.list().unwrap(), ["live"]);
        let file = dir.open("live", "slots").unwrap();
        file.forget_cached().unwrap();
        let mut bytes = [1; 8];
        file.read(&mut bytes, 4_096).unwrap();
        assert_eq!((&bytes, file.size().unwrap()), (b"data\0\0\0\0", 8_192));
        assert!(file.read(&mut bytes, 8_190).is_err());
    }
}
