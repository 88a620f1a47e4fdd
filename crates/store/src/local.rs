//! A folder of this host as a store.
//!
//! An object is a file, and its name is the key. A write goes to a new file in a hidden folder,
//! which is synced; then the file gets its name, with `link`, which fails if the name is taken,
//! or with `rename`; then the folder is synced. So an object is whole and durable when it is
//! answered for, and what a power cut leaves besides is a hidden file, removed at a later open.
//!
//! What is read may have got its name a moment ago from a writer that has not synced yet. Whoever
//! needs it to be durable creates it again with the same bytes.
//!
//! Why not `LocalFileSystem` of crate `object_store`: it follows symbolic links out of the
//! folder, leaves its unfinished files among the objects for ever, does not sync the folders
//! above one that was made by somebody else a moment before, and does not sync when it says that
//! a name is taken: an equal object found there could still vanish with the power.

mod files;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use crate::backend::{Attempt, Backend, Body, ObjectInfo, Page};
use crate::{Ambient, Failure, Key, Prefix};
use files::Files;

/// The folder of a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the store folder `{}`", path.display())]
pub struct LocalError {
    path: PathBuf,
    source: std::io::Error,
}

/// A folder of this host. Any number of processes may use it at once.
///
/// Symbolic links below the folder are refused, never followed; the folder itself may be reached
/// through some. All of it is one file system.
#[derive(Clone)]
pub struct LocalFolder {
    files: Arc<Files>,
}

impl LocalFolder {
    /// Opens the folder, making it if it is missing, and removes what writes left unfinished
    /// more than an hour ago.
    ///
    /// Blocks on the file system.
    ///
    /// # Errors
    /// If the folder cannot be made, opened or synced.
    pub fn open(path: impl AsRef<Path>, ambient: &Ambient) -> Result<Self, LocalError> {
        let path = path.as_ref();
        match Files::open(path, ambient.clone()) {
            Ok(files) => Ok(Self { files: Arc::new(files) }),
            Err(source) => Err(LocalError { path: path.to_owned(), source }),
        }
    }

    /// Runs on a thread that may block.
    fn run<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, Failure> + Send + 'static,
    ) -> Attempt<'a, T> {
        let files = self.files.clone();
        async move {
            let joined = tokio::task::spawn_blocking(move || work(&files)).await;
            // Cancelled only when the runtime ends.
            joined.unwrap_or_else(|_| Err(Failure::transient("the process is ending")))
        }
        .boxed()
    }
}

impl Backend for LocalFolder {
    fn create<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        let key = key.clone();
        self.run(move |files| files.create(&key, &bytes))
    }

    fn overwrite<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        let key = key.clone();
        self.run(move |files| files.overwrite(&key, &bytes))
    }

    fn get<'a>(&'a self, key: &'a Key, bytes_max: u64) -> Attempt<'a, Body> {
        let key = key.clone();
        self.run(move |files| files.get(&key, bytes_max))
    }

    fn get_range<'a>(&'a self, key: &'a Key, start: u64, len: u64) -> Attempt<'a, Body> {
        let key = key.clone();
        self.run(move |files| files.get_range(&key, start, len))
    }

    fn head<'a>(&'a self, key: &'a Key) -> Attempt<'a, ObjectInfo> {
        let key = key.clone();
        self.run(move |files| files.head(&key))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        shallow: bool,
        _next: Option<&'a str>,
    ) -> Attempt<'a, Page> {
        let prefix = prefix.clone();
        self.run(move |files| files.list(&prefix, shallow))
    }

    fn delete<'a>(&'a self, key: &'a Key) -> Attempt<'a, ()> {
        let key = key.clone();
        self.run(move |files| files.delete(&key))
    }
}
