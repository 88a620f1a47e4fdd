//! What a store is made of: one attempt each, no patience, no opinion.

use bytes::Bytes;
use futures::future::BoxFuture;
use sprite_types::Timestamp;

use crate::{Failure, Key, Prefix};

/// The future of one attempt.
pub type Attempt<'a, T> = BoxFuture<'a, Result<T, Failure>>;

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Its name.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: Timestamp,
}

/// The bytes of an object or of a range of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// How many bytes the store said it would send.
    pub announced: u64,
    /// What came.
    pub bytes: Bytes,
}

/// Some of the names in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, in ascending order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Folders directly below, if asked for instead of what is in them.
    pub folders: Vec<Prefix>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// A back end: does each operation once and says how it went.
///
/// Implementations give up nothing by themselves; the caller drops an attempt that takes too
/// long, after which a write may still happen.
pub trait Backend: Send + Sync + 'static {
    /// Writes an object if its name is free, in one step and durably.
    fn create<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()>;

    /// Writes an object, in one step and durably, whatever was there.
    fn overwrite<'a>(&'a self, key: &'a Key, bytes: Bytes) -> Attempt<'a, ()>;

    /// Reads a whole object of at most `bytes_max` bytes.
    fn get<'a>(&'a self, key: &'a Key, bytes_max: u64) -> Attempt<'a, Body>;

    /// Reads bytes `start..start + len` of an object; `len` is not 0.
    fn get_range<'a>(&'a self, key: &'a Key, start: u64, len: u64) -> Attempt<'a, Body>;

    /// Reads an object's length and time.
    fn head<'a>(&'a self, key: &'a Key) -> Attempt<'a, ObjectInfo>;

    /// Reads a page of the names below `prefix`, from `next` of the page before. With `shallow`
    /// only what is directly in it, and the folders there.
    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        shallow: bool,
        next: Option<&'a str>,
    ) -> Attempt<'a, Page>;

    /// Removes an object; one that does not exist is removed already.
    fn delete<'a>(&'a self, key: &'a Key) -> Attempt<'a, ()>;
}
