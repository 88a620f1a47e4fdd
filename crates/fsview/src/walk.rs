//! Entries of a file system by path: one of them, or all below a folder.

use std::collections::VecDeque;
use std::vec::IntoIter;

use crate::content::FileReader;
use crate::directory::Name;
use crate::error::{FsError, PathError, Place};
use crate::filesystem::{FileSystem, ROOT_INODE};
use crate::inode::{Inode, Kind, Metadata};
use crate::limits::{Budget, Limits};
use crate::visited::Visited;
use crate::xattr::Xattr;

/// A file, folder, link or node, with its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the top, beginning with `/`; any bytes but 0. No part is empty, `.` or `..`.
    pub path: Vec<u8>,
    /// Number of its inode: the same for all names of one file.
    pub inode: u32,
    /// What the inode says.
    pub metadata: Metadata,
    /// Where it points to, if it is a link.
    pub link_target: Option<Vec<u8>>,
}

impl FileSystem {
    /// Returns the entry at `path`. Links on the way are not followed, nor is the last part.
    ///
    /// # Errors
    /// - [`FsError::NotFound`], [`FsError::NotADirectory`]: there is no such entry.
    /// - Others: a folder on the way could not be read.
    pub fn entry(&self, path: &[u8]) -> Result<Entry, FsError> {
        let (path, inode) = self.find(path)?;
        self.entry_of(path, &inode)
    }

    /// Opens the content of the regular file at `path`.
    ///
    /// # Errors
    /// As [`entry`](Self::entry); [`FsError::NotAFile`] if it is something else than a regular
    /// file.
    pub fn read_file(&self, path: &[u8]) -> Result<FileReader<'_>, FsError> {
        FileReader::new(self, self.find(path)?.1)
    }

    /// Opens the content of an entry that a walk of this file system returned.
    ///
    /// # Errors
    /// As [`read_file`](Self::read_file), without the search for the path.
    pub fn read_entry(&self, entry: &Entry) -> Result<FileReader<'_>, FsError> {
        FileReader::new(self, self.inode(entry.inode)?)
    }

    /// Returns the extended attributes of the entry at `path`, sorted by name; access lists in
    /// the form of `getxattr(2)`.
    ///
    /// # Errors
    /// As [`entry`](Self::entry), or if the attributes are damaged.
    pub fn xattrs(&self, path: &[u8]) -> Result<Vec<Xattr>, FsError> {
        self.xattrs_of(&self.find(path)?.1)
    }

    /// Walks everything below the folder at `path`, a folder before what is in it, names in the
    /// order of their bytes. What cannot be read is an error in its place, and the walk goes on.
    ///
    /// # Errors
    /// As [`entry`](Self::entry), or if it is not a folder.
    pub fn walk(&self, path: &[u8], limits: Limits) -> Result<Walk<'_>, FsError> {
        let (path, inode) = self.find(path)?;
        if inode.metadata.kind != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        let mut walk = Walk {
            fs: self,
            budget: Budget::new(limits),
            visited: Visited::default(),
            levels: Vec::new(),
            path: if path == b"/" { Vec::new() } else { path },
            errors: VecDeque::new(),
        };
        walk.enter(&inode);
        Ok(walk)
    }

    pub(crate) fn entry_of(&self, path: Vec<u8>, inode: &Inode) -> Result<Entry, FsError> {
        let is_link = inode.metadata.kind == Kind::Symlink;
        let link_target = if is_link { Some(self.link_target(inode)?) } else { None };
        Ok(Entry { path, inode: inode.number, metadata: inode.metadata.clone(), link_target })
    }

    /// Returns the inode at `path`, and the path as we write it.
    pub(crate) fn find(&self, path: &[u8]) -> Result<(Vec<u8>, Inode), FsError> {
        let mut inode = self.inode(ROOT_INODE)?;
        let mut found = Vec::new();
        let mut budget = Budget::new(Limits::default());
        for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            if inode.metadata.kind != Kind::Directory {
                return Err(FsError::NotADirectory);
            }
            let mut listing = self.list(&inode, &mut budget);
            budget.names_bytes += listing.cost;
            let index = listing.names.binary_search_by(|name| (*name.name).cmp(part));
            let name = match index {
                Ok(index) => listing.names.swap_remove(index),
                Err(_) if listing.errors.is_empty() => return Err(FsError::NotFound),
                // It may be in the part that could not be read.
                Err(_) => return Err(listing.errors.swap_remove(0)),
            };
            inode = self.inode(name.inode)?;
            found.push(b'/');
            found.extend_from_slice(part);
        }
        if found.is_empty() {
            found.push(b'/');
        }
        Ok((found, inode))
    }
}

struct Level {
    names: IntoIter<Name>,
    /// Length of the folder's path.
    path_len: usize,
    cost: usize,
}

/// The entries below a folder. Made by [`FileSystem::walk`].
pub struct Walk<'a> {
    fs: &'a FileSystem,
    budget: Budget,
    visited: Visited,
    levels: Vec<Level>,
    path: Vec<u8>,
    errors: VecDeque<PathError>,
}

impl Walk<'_> {
    /// Begins with what is in a folder, whose path is the current one.
    fn enter(&mut self, inode: &Inode) {
        let checked = check_enter(inode, &mut self.visited, self.levels.len(), &self.budget);
        if let Err(error) = checked {
            self.push_error(error);
            return;
        }
        let listing = self.fs.list(inode, &mut self.budget);
        for error in listing.errors {
            self.push_error(error);
        }
        let (names, path_len) = (listing.names.into_iter(), self.path.len());
        self.levels.push(Level { names, path_len, cost: listing.cost });
    }

    fn push_error(&mut self, source: FsError) {
        let path = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        self.errors.push_back(PathError { path, source });
    }

    fn visit(&mut self, name: &Name) -> Result<Entry, FsError> {
        self.path.push(b'/');
        self.path.extend_from_slice(&name.name);
        check_path(&self.path, &self.budget)?;
        let inode = self.fs.inode(name.inode)?;
        let entry = self.fs.entry_of(self.path.clone(), &inode)?;
        if entry.metadata.kind == Kind::Directory {
            self.enter(&inode);
        }
        Ok(entry)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry, PathError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.errors.pop_front() {
                return Some(Err(error));
            }
            let level = self.levels.last_mut()?;
            self.path.truncate(level.path_len);
            let Some(name) = level.names.next() else {
                self.budget.names_bytes += level.cost;
                self.levels.pop();
                continue;
            };
            match self.visit(&name) {
                Ok(entry) => return Some(Ok(entry)),
                Err(error) => self.push_error(error),
            }
        }
    }
}

/// Fails if a folder must not be entered: each is, once.
pub(crate) fn check_enter(
    inode: &Inode,
    visited: &mut Visited,
    depth: usize,
    budget: &Budget,
) -> Result<(), FsError> {
    if !visited.insert(inode.number) {
        let reason = "the folder is also in another place";
        return Err(FsError::corrupt(Place::Inode(inode.number), reason));
    }
    let limit = budget.limits.depth_max;
    if depth >= limit {
        return Err(FsError::Limit { what: "folders in each other", limit: limit as u64 });
    }
    Ok(())
}

pub(crate) fn check_path(path: &[u8], budget: &Budget) -> Result<(), FsError> {
    let limit = budget.limits.path_bytes_max;
    if path.len() > limit {
        return Err(FsError::Limit { what: "bytes of path", limit: limit as u64 });
    }
    Ok(())
}
