//! What the cache needs of a disk. Two implementations: files of the host
//! ([`HostDir`](super::HostDir)), and a disk in memory whose power can be cut.

use std::io;

/// One file. Writes become durable with [`File::sync`], in no order until then.
pub trait File: Send + Sync {
    /// Reads exactly `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// As pread(2); a short file is an error.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// As pwrite(2).
    fn write(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes content durable, and whatever else is needed to read it back (fdatasync(2)).
    ///
    /// # Errors
    /// After an error nobody knows what is on the disk: what was written before must not be
    /// believed durable, also if a later call succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Reserves space for the first `len` bytes; those never written read as zeroes.
    ///
    /// # Errors
    /// `StorageFull`: nothing was reserved that matters.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    ///
    /// # Errors
    /// As fstat(2).
    fn size(&self) -> io::Result<u64>;

    /// Makes later reads see what the disk holds, not what the page cache remembers of writes
    /// whose sync failed.
    ///
    /// # Errors
    /// As fdatasync(2) and posix_fadvise(2).
    fn forget_cached(&self) -> io::Result<()>;
}

/// A directory of directories of files, locked by this process. Changes become durable with
/// [`Dir::sync`].
pub trait Dir: Send + Sync {
    /// Makes a directory; one of that name, if there is one, is removed with all its files.
    ///
    /// # Errors
    /// As mkdir(2) and unlink(2).
    fn make(&self, dir: &str) -> io::Result<()>;

    /// Tells whether there is such a directory.
    ///
    /// # Errors
    /// As stat(2).
    fn exists(&self, dir: &str) -> io::Result<bool>;

    /// Removes a directory with all its files, if there is one.
    ///
    /// # Errors
    /// As unlink(2).
    fn remove(&self, dir: &str) -> io::Result<()>;

    /// Renames a directory to a name that is free.
    ///
    /// # Errors
    /// As rename(2).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Returns the names of all directories, sorted.
    ///
    /// # Errors
    /// As readdir(3).
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file in `dir`.
    ///
    /// # Errors
    /// As open(2).
    fn create(&self, dir: &str, name: &str) -> io::Result<Box<dyn File>>;

    /// Opens a file in `dir`.
    ///
    /// # Errors
    /// As open(2).
    fn open(&self, dir: &str, name: &str) -> io::Result<Box<dyn File>>;

    /// Makes names durable: those in `dir` and that of `dir` itself.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync(&self, dir: &str) -> io::Result<()>;
}
