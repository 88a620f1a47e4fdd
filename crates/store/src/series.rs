//! Numbered objects of which the highest counts.

use bytes::Bytes;
use futures::future::join_all;

use crate::{CreateError, Key, Prefix, Store, StoreError};

/// Objects read at once at most, while the newest is looked for.
const BATCH_MAX: u64 = 32;

/// Versions of one document: `<folder><n>.json`, n in 16 hex digits, counted from 1.
///
/// Each is written create-only after the one before it, and none is removed while any newer one
/// is of use. So there is no gap, the first that is missing comes after the newest, and of two
/// writers of one number one learns that it was late.
#[derive(Clone, Debug)]
pub struct Series {
    store: Store,
    folder: Prefix,
}

impl Series {
    /// Looks at the series in `folder`, whose name has at most 491 bytes.
    #[must_use]
    pub fn new(store: Store, folder: Prefix) -> Self {
        Self { store, folder }
    }

    /// Returns the name of number `number`.
    ///
    /// # Panics
    /// If the folder's name leaves no room for it.
    #[must_use]
    pub fn key(&self, number: u64) -> Key {
        let name = format!("{number:016x}.json");
        self.folder.key(&name).expect("the folder leaves room for a name of 21 bytes")
    }

    /// Reads one version; `None` if there is none of that number.
    ///
    /// # Errors
    /// See [`StoreError`]; never `NotFound`.
    pub async fn read(&self, number: u64) -> Result<Option<Bytes>, StoreError> {
        match self.store.get(&self.key(number)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Finds the newest version and its number; `None` if there is none at all.
    ///
    /// `from` is a number that is known to exist, or 0. It only saves requests; a wrong one is
    /// found out.
    ///
    /// # Errors
    /// See [`StoreError`]; never `NotFound`.
    pub async fn newest(&self, from: u64) -> Result<Option<(u64, Bytes)>, StoreError> {
        let mut newest = match from {
            0 => None,
            from => self.read(from).await?.map(|bytes| (from, bytes)),
        };
        let mut next = newest.as_ref().map_or(1, |(number, _)| number + 1);
        let mut batch = 1;
        loop {
            let reads = (next..next + batch).map(|number| self.read(number));
            // In order: what comes after a missing one was written while we looked, and is found
            // by whoever looks again.
            for (number, read) in (next..).zip(join_all(reads).await) {
                match read? {
                    Some(bytes) => newest = Some((number, bytes)),
                    None => return Ok(newest),
                }
            }
            next += batch;
            batch = (batch * 2).min(BATCH_MAX);
        }
    }

    /// Writes the version after `newest`, the highest number that was seen. Returns its number.
    ///
    /// # Errors
    /// [`CreateError::Taken`]: somebody else wrote it. Otherwise the outcome is unknown; call
    /// again with the same arguments.
    pub async fn append(&self, newest: u64, bytes: Bytes) -> Result<u64, CreateError> {
        let number = newest + 1;
        self.store.create(&self.key(number), bytes).await.map(|()| number)
    }

    /// Asks whether there is a version after `number`.
    ///
    /// # Errors
    /// See [`StoreError`]; never `NotFound`.
    pub async fn has_after(&self, number: u64) -> Result<bool, StoreError> {
        self.store.exists(&self.key(number + 1)).await
    }
}
