//! The files of a database and small reads and writes of them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::format::{FormatError, PageSize};

/// A failed call on a file.
#[derive(Debug, thiserror::Error)]
#[error("{what} `{}`", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Returns a function that says what was being done when an error came up.
    pub(crate) fn when(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

/// Returns the name of a database's companion: its own name with `suffix`.
pub(crate) fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file for reading; `None` if there is none.
pub(crate) fn open_if_there(path: &Path) -> Result<Option<File>, FileError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::when("open", path)(error)),
    }
}

/// Removes a file; one that is not there is removed already.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::when("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What tells that a file was written by somebody: its length and time of last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Stamp {
    len: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    pub(crate) fn len(self) -> u64 {
        self.len
    }

    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

/// What the first page of a database says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseHeader {
    pub(crate) page_size: PageSize,
    /// Set when SQLite will use a write-ahead log.
    pub(crate) is_wal: bool,
}

impl DatabaseHeader {
    /// Reads it; `None` if these are not the first bytes of an SQLite database.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, FormatError> {
        let Some(head) = bytes.first_chunk::<100>() else { return Ok(None) };
        if head[..16] != *b"SQLite format 3\0" {
            return Ok(None);
        }
        // 1 stands for 65,536, which the two bytes cannot hold.
        let page_size = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        let page_size = PageSize::new(page_size)?;
        Ok(Some(Self { page_size, is_wal: head[18] == 2 && head[19] == 2 }))
    }
}
