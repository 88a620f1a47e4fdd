//! Takes a path and all below it out of a file system, for restoring it elsewhere.
//!
//! Paths are handed out relative to the folder that holds the extracted one, without a leading
//! `/`, and no part of one is `..`. What a link points to is not looked at: whoever writes the
//! entries must not follow links either.

use std::collections::HashMap;
use std::io;

use crate::content::FileReader;
use crate::error::{FsError, PathError};
use crate::filesystem::FileSystem;
use crate::inode::Kind;
use crate::limits::Limits;
use crate::walk::Entry;
use crate::xattr::Xattr;

/// Memory for the paths of files with several names, in bytes.
const LINKED_BYTES_MAX: usize = 32 << 20;

/// Something to write. The entry's path is relative; a folder comes before what is in it.
#[derive(Debug)]
pub enum Item<'a> {
    /// A folder.
    Directory(&'a Entry, &'a [Xattr]),
    /// A regular file. The map of its blocks was checked; reading fails only if the source does.
    File(&'a Entry, &'a [Xattr], FileReader<'a>),
    /// A symbolic link.
    Symlink(&'a Entry, &'a [Xattr]),
    /// A further name of a file that came earlier, with this path.
    HardLink(&'a Entry, &'a [u8]),
}

/// Something that was left out, by its path in the file system.
#[derive(Debug, thiserror::Error)]
pub enum Skipped {
    /// A device node, pipe or socket.
    #[error("`{}` is a device, pipe or socket", String::from_utf8_lossy(path))]
    Node {
        /// From the top.
        path: Vec<u8>,
        /// What it is.
        kind: Kind,
    },
    /// A file, or part of a folder, that cannot be read.
    #[error("not readable")]
    Unread(#[from] PathError),
    /// The entry was handed out, without its attributes.
    #[error("attributes are not readable")]
    Xattrs(#[source] PathError),
}

/// Why an extraction ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// There is no such path, or it cannot be read.
    #[error("find what to extract")]
    Find(#[source] FsError),
    /// The source of blocks or the receiver failed: what was handed out is incomplete.
    #[error("extract `{}`", String::from_utf8_lossy(path))]
    Write {
        /// Where.
        path: Vec<u8>,
        /// What the receiver or the source said.
        source: io::Error,
    },
    /// There is more content than the limits allow.
    #[error("extract `{}`: more than {limit} bytes of content", String::from_utf8_lossy(path))]
    TooLarge {
        /// The first file that is too much.
        path: Vec<u8>,
        /// The limit.
        limit: u64,
    },
}

impl FileSystem {
    /// Hands `path` and everything below it to `receive`, in order, and what is left out to
    /// `skip`. Of the top itself, only what is in it.
    ///
    /// # Errors
    /// - [`ExtractError::Find`]: nothing was handed out.
    /// - [`ExtractError::Write`], [`ExtractError::TooLarge`]: part of it was.
    pub fn extract(
        &self,
        path: &[u8],
        limits: Limits,
        receive: impl FnMut(Item<'_>) -> io::Result<()>,
        skip: impl FnMut(Skipped),
    ) -> Result<(), ExtractError> {
        let top = self.entry(path).map_err(ExtractError::Find)?;
        let base = top.path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let content_left = limits.content_bytes_max;
        let linked = HashMap::new();
        let limit = limits.content_bytes_max;
        let mut run = Extraction {
            fs: self,
            base,
            receive,
            skip,
            linked,
            linked_bytes: 0,
            content_left,
            limit,
        };
        if top.path != b"/" {
            run.entry(top.clone())?;
        }
        if top.metadata.kind != Kind::Directory {
            return Ok(());
        }
        for entry in self.walk(&top.path, limits).map_err(ExtractError::Find)? {
            match entry {
                Ok(entry) => run.entry(entry)?,
                Err(error) => run.unread(error)?,
            }
        }
        Ok(())
    }
}

type Opened<'a> = Result<FileReader<'a>, FsError>;

struct Extraction<'a, R, S> {
    fs: &'a FileSystem,
    /// Length of what is cut off each path.
    base: usize,
    receive: R,
    skip: S,
    /// First path of files with several names.
    linked: HashMap<u32, Vec<u8>>,
    linked_bytes: usize,
    content_left: u64,
    limit: u64,
}

impl<'a, R, S> Extraction<'a, R, S>
where
    R: FnMut(Item<'_>) -> io::Result<()>,
    S: FnMut(Skipped),
{
    /// A source that fails is no damage: what is missing would be there next time.
    fn unread(&mut self, error: PathError) -> Result<(), ExtractError> {
        match error.source {
            FsError::Io { source, .. } => Err(ExtractError::Write { path: error.path, source }),
            _ => {
                (self.skip)(Skipped::Unread(error));
                Ok(())
            }
        }
    }

    fn entry(&mut self, mut entry: Entry) -> Result<(), ExtractError> {
        let full = entry.path.clone();
        let failed = |source| ExtractError::Write { path: full.clone(), source };
        let kind = entry.metadata.kind;
        if !matches!(kind, Kind::File | Kind::Directory | Kind::Symlink) {
            (self.skip)(Skipped::Node { path: full, kind });
            return Ok(());
        }
        entry.path.drain(..self.base);
        if let Some(first) = self.linked.get(&entry.inode).filter(|_| kind != Kind::Directory) {
            return (self.receive)(Item::HardLink(&entry, first)).map_err(failed);
        }
        let inode = self.fs.inode(entry.inode);
        let xattrs = match inode.and_then(|inode| self.fs.xattrs_of(&inode)) {
            Ok(xattrs) => xattrs,
            Err(FsError::Io { source, .. }) => return Err(failed(source)),
            Err(source) => {
                (self.skip)(Skipped::Xattrs(PathError { path: full.clone(), source }));
                Vec::new()
            }
        };
        match kind {
            Kind::Directory => (self.receive)(Item::Directory(&entry, &xattrs)).map_err(failed)?,
            Kind::Symlink => (self.receive)(Item::Symlink(&entry, &xattrs)).map_err(failed)?,
            _ => {
                let reader = match self.open(&entry, &full)? {
                    Ok(reader) => reader,
                    Err(source) => return self.unread(PathError { path: full, source }),
                };
                (self.receive)(Item::File(&entry, &xattrs, reader)).map_err(failed)?;
            }
        }
        self.remember(entry);
        Ok(())
    }

    /// Opens a file, pays for it, and goes through the map of its blocks, so that damage there
    /// is found before a byte is handed out.
    fn open(&mut self, entry: &Entry, full: &[u8]) -> Result<Opened<'a>, ExtractError> {
        let reader = match self.fs.read_entry(entry) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let size = entry.metadata.size_bytes;
        let limit = self.limit;
        let too_large = || ExtractError::TooLarge { path: full.to_vec(), limit };
        self.content_left = self.content_left.checked_sub(size).ok_or_else(too_large)?;
        let mut pieces = reader.clone();
        loop {
            match pieces.next_piece() {
                Ok(None) => return Ok(Ok(reader)),
                Ok(Some((_, len))) => pieces.skip(len),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn remember(&mut self, entry: Entry) {
        let cost = entry.path.len() + 64;
        let has_more = entry.metadata.kind != Kind::Directory && entry.metadata.links > 1;
        if has_more && self.linked_bytes + cost <= LINKED_BYTES_MAX {
            self.linked_bytes += cost;
            self.linked.insert(entry.inode, entry.path);
        }
    }
}
