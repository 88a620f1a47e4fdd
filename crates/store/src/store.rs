//! The handle that the rest of the project uses: patience, limits and scopes over a back end.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::backend::{Attempt, Backend, Body, ObjectInfo, Page};
use crate::{Ambient, Failure, Key, Operation, Prefix, StoreError, StoreSettings};

/// What a page of a listing is taken to weigh, in bytes.
const LIST_BYTES: u64 = 1 << 20;

/// An object store. Clones share limits and connections.
///
/// # Cancel safety
/// Reads may be dropped. A write that is dropped may or may not happen, also later.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    scopes: Vec<Scope>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    settings: StoreSettings,
    ambient: Ambient,
    requests: Semaphore,
}

/// What a handle may touch.
#[derive(Clone, Debug)]
struct Scope {
    write: Prefix,
    read: Vec<Prefix>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a store of a back end.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, settings: StoreSettings, ambient: Ambient) -> Self {
        let requests = usize::try_from(settings.requests_max.max(1)).unwrap_or(1);
        let requests = Semaphore::new(requests.min(Semaphore::MAX_PERMITS));
        Self { inner: Arc::new(Inner { backend, settings, ambient, requests }), scopes: Vec::new() }
    }

    /// Returns a handle that writes only below `write` and reads only there and below `read`.
    ///
    /// A guard against our own mistakes, not against an attacker in this process: the handle
    /// shares the credentials. Scopes of scopes only ever narrow.
    #[must_use]
    pub fn scoped(&self, write: Prefix, read: impl IntoIterator<Item = Prefix>) -> Self {
        let mut scopes = self.scopes.clone();
        scopes.push(Scope { write, read: read.into_iter().collect() });
        Self { inner: self.inner.clone(), scopes }
    }

    /// Returns the limits in force.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        &self.inner.settings
    }

    pub(crate) fn ambient(&self) -> &Ambient {
        &self.inner.ambient
    }

    /// Writes an object, replacing what is there. For hints only: a write that was given up may
    /// still land later, over a newer one.
    ///
    /// # Errors
    /// See [`StoreError`]; the outcome is then unknown.
    pub async fn overwrite(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        self.may_write(Operation::Overwrite, key)?;
        self.put_fits(Operation::Overwrite, key, &bytes)?;
        let size = bytes.len() as u64;
        let backend = &self.inner.backend;
        self.persist(Operation::Overwrite, key.as_str(), || {
            self.once(size, backend.overwrite(key, bytes.clone()))
        })
        .await
    }

    /// Reads a whole object of at most `get_bytes_max` bytes.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge`, and what [`StoreError`] says.
    pub async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.may_read(Operation::Get, key.as_str())?;
        let bytes_max = self.inner.settings.get_bytes_max;
        self.persist(Operation::Get, key.as_str(), || self.get_once(key, bytes_max))
            .await
            .map_err(|error| name_limit(error, bytes_max))
    }

    /// Reads exactly the bytes `range` of an object; the range is not empty.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` if the object is shorter; `TooLarge` above `get_bytes_max`.
    pub async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let operation = Operation::GetRange;
        self.may_read(operation, key.as_str())?;
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            let source = Failure::refused("the range is empty");
            return Err(StoreError::Refused { operation, name: key.to_string(), source });
        }
        let size_max = self.inner.settings.get_bytes_max;
        if len > size_max {
            let name = key.to_string();
            return Err(StoreError::TooLarge { operation, name, size: len, size_max });
        }
        let attempt = || async {
            let body = self.once(len, self.inner.backend.get_range(key, range.start, len)).await?;
            if body.announced != len {
                let got = body.announced;
                return Err(Failure::transient(format!("{got} bytes instead of {len}")));
            }
            complete(body)
        };
        let result = self.persist(operation, key.as_str(), attempt).await;
        result.map_err(|error| match error {
            StoreError::OutOfRange { key, size_bytes, .. } => {
                StoreError::OutOfRange { key, range, size_bytes }
            }
            other => other,
        })
    }

    /// Reads the length and time of an object.
    ///
    /// # Errors
    /// `NotFound`, and what [`StoreError`] says.
    pub async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.may_read(Operation::Head, key.as_str())?;
        let backend = &self.inner.backend;
        self.persist(Operation::Head, key.as_str(), || self.once(0, backend.head(key))).await
    }

    /// Says whether there is an object of that name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn exists(&self, key: &Key) -> Result<bool, StoreError> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists all objects in a folder and below it, sorted by key. Never a part of them: either
    /// all pages were read, or it fails.
    ///
    /// Names that are not keys are left out: no part of this project wrote them.
    ///
    /// # Errors
    /// `TooLarge` above `list_objects_max`, and what [`StoreError`] says.
    pub async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectInfo>, StoreError> {
        let (mut objects, _) = self.list_pages(prefix, false).await?;
        objects.sort();
        objects.dedup_by(|next, kept| next.key == kept.key);
        Ok(objects)
    }

    /// Lists the folders directly in a folder, sorted.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_folders(&self, prefix: &Prefix) -> Result<Vec<Prefix>, StoreError> {
        let (_, mut folders) = self.list_pages(prefix, true).await?;
        folders.sort();
        folders.dedup();
        Ok(folders)
    }

    /// Removes an object. `Ok` also if there was none.
    ///
    /// # Errors
    /// See [`StoreError`]; the outcome is then unknown.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.may_write(Operation::Delete, key)?;
        let backend = &self.inner.backend;
        self.persist(Operation::Delete, key.as_str(), || self.once(0, backend.delete(key))).await
    }

    async fn list_pages(
        &self,
        prefix: &Prefix,
        shallow: bool,
    ) -> Result<(Vec<ObjectInfo>, Vec<Prefix>), StoreError> {
        let operation = Operation::List;
        self.may_read(operation, prefix.as_str())?;
        let size_max = self.inner.settings.list_objects_max;
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        let mut next: Option<String> = None;
        loop {
            let attempt =
                || self.once(LIST_BYTES, self.inner.backend.list(prefix, shallow, next.as_deref()));
            let page: Page = self.persist(operation, prefix.as_str(), attempt).await?;
            objects.extend(page.objects);
            folders.extend(page.folders);
            let size = (objects.len() + folders.len()) as u64;
            if size > size_max {
                let name = prefix.to_string();
                return Err(StoreError::TooLarge { operation, name, size, size_max });
            }
            match page.next {
                None => return Ok((objects, folders)),
                Some(token) if next.as_ref() == Some(&token) => {
                    let source = Failure::refused("the listing does not come to an end");
                    let name = prefix.to_string();
                    return Err(StoreError::Refused { operation, name, source });
                }
                Some(token) => next = Some(token),
            }
        }
    }

    /// One attempt at a whole object; what arrives is as long as was announced.
    pub(crate) async fn get_once(&self, key: &Key, bytes_max: u64) -> Result<Bytes, Failure> {
        let body = self.once(bytes_max, self.inner.backend.get(key, bytes_max)).await?;
        if body.announced > bytes_max {
            return Err(Failure::TooLarge { size_bytes: body.announced });
        }
        complete(body)
    }

    pub(crate) async fn create_once(&self, key: &Key, bytes: &Bytes) -> Result<(), Failure> {
        self.once(bytes.len() as u64, self.inner.backend.create(key, bytes.clone())).await
    }

    /// Runs one attempt within its time and the limit on requests.
    async fn once<T>(&self, bytes: u64, attempt: Attempt<'_, T>) -> Result<T, Failure> {
        let _permit = self.inner.requests.acquire().await.expect("the semaphore is never closed");
        let limit = self.inner.settings.attempt_timeout(bytes);
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Failure::transient(format!("no answer within {limit:?}"))),
        }
    }

    /// Repeats what may be repeated.
    async fn persist<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        operation: Operation,
        name: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => self.after(operation, name, attempts, failure).await?,
            }
        }
    }

    /// Waits before the next attempt, or says that there should be none.
    pub(crate) async fn after(
        &self,
        operation: Operation,
        name: &str,
        attempts: u32,
        source: Failure,
    ) -> Result<(), StoreError> {
        let settings = &self.inner.settings;
        match &source {
            Failure::Transient { retry_after, .. } if attempts < settings.attempts_max => {
                let wait = settings.backoff(attempts, *retry_after, (self.inner.ambient.random)());
                tracing::debug!(%operation, name, attempts, error = %source, "store asked again");
                tokio::time::sleep(wait).await;
                Ok(())
            }
            _ => Err(final_error(operation, name.to_owned(), attempts, source)),
        }
    }

    pub(crate) fn may_write(&self, operation: Operation, key: &Key) -> Result<(), StoreError> {
        if self.scopes.iter().all(|scope| key.is_under(&scope.write)) {
            return Ok(());
        }
        Err(StoreError::OutsideScope { operation, name: key.to_string() })
    }

    fn may_read(&self, operation: Operation, name: &str) -> Result<(), StoreError> {
        let inside = |scope: &Scope| {
            let mut folders = std::iter::once(&scope.write).chain(&scope.read);
            folders.any(|folder| name.starts_with(folder.as_str()))
        };
        if self.scopes.iter().all(inside) {
            return Ok(());
        }
        Err(StoreError::OutsideScope { operation, name: name.to_owned() })
    }

    pub(crate) fn put_fits(
        &self,
        operation: Operation,
        key: &Key,
        bytes: &Bytes,
    ) -> Result<(), StoreError> {
        let (size, size_max) = (bytes.len() as u64, self.inner.settings.put_bytes_max);
        if size <= size_max {
            return Ok(());
        }
        Err(StoreError::TooLarge { operation, name: key.to_string(), size, size_max })
    }
}

/// A body that ended early is as good as none.
fn complete(body: Body) -> Result<Bytes, Failure> {
    let Body { announced, bytes } = body;
    if bytes.len() as u64 == announced {
        return Ok(bytes);
    }
    let got = bytes.len();
    Err(Failure::transient(format!("the body ended after {got} of {announced} bytes")))
}

fn final_error(operation: Operation, name: String, attempts: u32, source: Failure) -> StoreError {
    // Only operations on one object end like this; a listing of nothing is empty.
    let key = name.parse::<Key>();
    match (source, key) {
        (Failure::Missing, Ok(key)) => StoreError::NotFound { key },
        (Failure::OutOfRange { size_bytes }, Ok(key)) => {
            StoreError::OutOfRange { key, range: 0..0, size_bytes }
        }
        (Failure::TooLarge { size_bytes }, _) => {
            StoreError::TooLarge { operation, name, size: size_bytes, size_max: 0 }
        }
        (source @ Failure::Transient { .. }, _) => {
            StoreError::Unavailable { operation, name, attempts, source }
        }
        (source @ Failure::Denied { .. }, _) => StoreError::Denied { operation, name, source },
        (source, _) => StoreError::Refused { operation, name, source },
    }
}

fn name_limit(error: StoreError, limit: u64) -> StoreError {
    match error {
        StoreError::TooLarge { operation, name, size, .. } => {
            StoreError::TooLarge { operation, name, size, size_max: limit }
        }
        other => other,
    }
}
