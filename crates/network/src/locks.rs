//! Locks between the `sprited`s of a host. Both are files below `/run/sprites`.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::NetworkError;

/// The right to a firewall table. Given up, and the file removed, when dropped.
#[derive(Debug)]
pub(crate) struct TableLock {
    path: PathBuf,
    _file: File,
}

impl TableLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(runtime_dir: &Path, table: &str) -> Result<Self, NetworkError> {
        let path = folder(runtime_dir)?.join(format!("{table}.lock"));
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(NetworkError::InUse { lock: path }),
                Err(TryLockError::Error(source)) => {
                    return Err(NetworkError::File { what: "lock", path, source });
                }
            }
            // Its last holder may have removed the file after we opened it.
            let here = fs::metadata(&path).map(|file| file.ino()).ok();
            if file.metadata().map(|file| file.ino()).ok() == here && here.is_some() {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for TableLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Waits for the right to change what all share: forwarding and its guard. Ends with the file.
pub(crate) async fn shared(runtime_dir: &Path) -> Result<File, NetworkError> {
    let path = folder(runtime_dir)?.join("network.lock");
    let file = open(&path)?;
    let locking = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    let locked = locking.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    locked.map_err(|source| NetworkError::File { what: "lock", path, source })
}

fn folder(runtime_dir: &Path) -> Result<PathBuf, NetworkError> {
    let path = runtime_dir.join("sprites");
    match fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(NetworkError::File { what: "create", path, source }),
    }
}

fn open(path: &Path) -> Result<File, NetworkError> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|source| NetworkError::File { what: "open", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = TableLock::take(dir.path(), "sprites").unwrap();
        let second = TableLock::take(dir.path(), "sprites");
        assert!(matches!(second, Err(NetworkError::InUse { .. })));
        TableLock::take(dir.path(), "sprites_01").unwrap();
        drop(first);
        TableLock::take(dir.path(), "sprites").unwrap();
        assert_eq!(fs::read_dir(dir.path().join("sprites")).unwrap().count(), 0);
    }
}
