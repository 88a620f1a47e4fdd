//! A store in memory, for tests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::ready;
use sprite_types::{Clock, Timestamp};

use crate::backend::{Attempt, Backend, Body, ObjectInfo, Page};
use crate::{Failure, Key, Prefix};

/// Names on one page of a listing: few, so that tests turn pages.
const PAGE_NAMES: usize = 7;

/// Objects in memory. Clones are the same store. Linearizable: each call takes effect at once,
/// when it is first polled or before.
///
/// A name cannot be both an object and a folder, as in [`crate::LocalFolder`].
#[derive(Clone)]
pub struct Memory {
    objects: Arc<Mutex<BTreeMap<Key, (Bytes, Timestamp)>>>,
    clock: Arc<dyn Clock>,
}

impl Memory {
    /// Makes an empty store; times of objects are read from `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Arc::default(), clock }
    }

    /// Returns all objects, to look at in a test.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Key, Bytes> {
        self.with(|objects| {
            objects.iter().map(|(key, (bytes, _))| (key.clone(), bytes.clone())).collect()
        })
    }

    /// Changes bytes behind everybody's back; without effect if there is no such object.
    pub fn tamper(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>)) {
        self.with(|objects| {
            if let Some((bytes, _)) = objects.get_mut(key) {
                let mut changed = bytes.to_vec();
                change(&mut changed);
                *bytes = changed.into();
            }
        });
    }

    fn with<T>(&self, run: impl FnOnce(&mut BTreeMap<Key, (Bytes, Timestamp)>) -> T) -> T {
        // No code that holds the lock can leave the map half changed.
        run(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, key: &Key, bytes: Bytes, replace: bool) -> Result<(), Failure> {
        let now = self.clock.now();
        self.with(|objects| {
            if !replace && objects.contains_key(key) {
                return Err(Failure::Taken);
            }
            if clashes(objects, key) {
                return Err(Failure::refused("a name cannot be both an object and a folder"));
            }
            objects.insert(key.clone(), (bytes, now));
            Ok(())
        })
    }

    fn read(&self, key: &Key) -> Result<(Bytes, Timestamp), Failure> {
        self.with(|objects| objects.get(key).cloned()).ok_or(Failure::Missing)
    }

    fn page(&self, prefix: &Prefix, shallow: bool, next: Option<&str>) -> Result<Page, Failure> {
        let from = next.map_or(Bound::Included(prefix.as_str()), Bound::Excluded);
        self.with(|objects| {
            let mut page = Page::default();
            let below = objects.range::<str, _>((from, Bound::Unbounded));
            let mut below = below.take_while(|(key, _)| key.is_under(prefix)).peekable();
            for (key, (bytes, modified)) in below.by_ref().take(PAGE_NAMES) {
                page.next = Some(key.to_string());
                let relative = key.relative_to(prefix).unwrap_or_default();
                match relative.split_once('/') {
                    Some((folder, _)) if shallow => {
                        let folder = prefix.join(&format!("{folder}/"));
                        page.folders.push(folder.map_err(|e| Failure::refused(e.to_string()))?);
                    }
                    _ => page.objects.push(ObjectInfo {
                        key: key.clone(),
                        size: bytes.len() as u64,
                        modified: *modified,
                    }),
                }
            }
            if below.peek().is_none() {
                page.next = None;
            }
            page.folders.dedup();
            Ok(page)
        })
    }
}

fn clashes(objects: &BTreeMap<Key, (Bytes, Timestamp)>, key: &Key) -> bool {
    let text = key.as_str();
    let folder = format!("{text}/");
    let from = (Bound::Included(folder.as_str()), Bound::Unbounded);
    let next = objects.range::<str, _>(from).next();
    let is_folder = next.is_some_and(|(key, _)| key.as_str().starts_with(&folder));
    let folder_is_object = text.match_indices('/').any(|(at, _)| objects.contains_key(&text[..at]));
    is_folder || folder_is_object
}

fn now<'a, T: Send + 'a>(result: Result<T, Failure>) -> Attempt<'a, T> {
    ready(result).boxed()
}

impl Backend for Memory {
    fn create<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        async move { self.put(key, bytes, false) }.boxed()
    }

    fn overwrite<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()> {
        async move { self.put(key, bytes, true) }.boxed()
    }

    fn get<'a>(&'a self, key: &'a Key, bytes_max: u64) -> Attempt<'a, Body> {
        now(self.read(key).and_then(|(bytes, _)| {
            let size_bytes = bytes.len() as u64;
            if size_bytes > bytes_max {
                return Err(Failure::TooLarge { size_bytes });
            }
            Ok(Body { announced: size_bytes, bytes })
        }))
    }

    fn get_range<'a>(&'a self, key: &'a Key, start: u64, len: u64) -> Attempt<'a, Body> {
        now(self.read(key).and_then(|(bytes, _)| {
            let size = bytes.len() as u64;
            match start.checked_add(len).filter(|end| *end <= size) {
                Some(end) => {
                    Ok(Body { announced: len, bytes: bytes.slice(start as usize..end as usize) })
                }
                None => Err(Failure::OutOfRange { size_bytes: Some(size) }),
            }
        }))
    }

    fn head<'a>(&'a self, key: &'a Key) -> Attempt<'a, ObjectInfo> {
        now(self.read(key).map(|(bytes, modified)| ObjectInfo {
            key: key.clone(),
            size: bytes.len() as u64,
            modified,
        }))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        shallow: bool,
        next: Option<&'a str>,
    ) -> Attempt<'a, Page> {
        now(self.page(prefix, shallow, next))
    }

    fn delete<'a>(&'a self, key: &'a Key) -> Attempt<'a, ()> {
        async move {
            self.with(|objects| objects.remove(key));
            Ok(())
        }
        .boxed()
    }
}
