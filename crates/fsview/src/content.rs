//! Content of files and targets of links.

use std::io::{self, Read};
use std::ops::Range;

use crate::error::{FsError, Place};
use crate::filesystem::FileSystem;
use crate::inline;
use crate::inode::{FLAG_EXTENTS, FLAG_INLINE_DATA, Inode, Kind, Metadata};

/// Linux makes no longer link.
const LINK_TARGET_MAX: u64 = 4096;
/// Targets below this length lie in the inode.
const FAST_LINK_MAX: u64 = 60;

impl FileSystem {
    /// Fills `buf` from `offset`, in bytes; what is not mapped reads as zeroes.
    pub(crate) fn read_content(
        &self,
        inode: &Inode,
        mut offset: u64,
        mut buf: &mut [u8],
    ) -> Result<(), FsError> {
        inode.check_readable()?;
        if inode.has(FLAG_INLINE_DATA) {
            let content = inline::content(self, inode)?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let known = &content[start..content.len().min(start.saturating_add(buf.len()))];
            buf[..known.len()].copy_from_slice(known);
            buf[known.len()..].fill(0);
            return Ok(());
        }
        let size = u64::from(self.superblock.block_size);
        while !buf.is_empty() {
            let run = self.run_at(inode, offset / size)?;
            let within = offset % size;
            let in_run = run.len.saturating_mul(size) - within;
            let len = usize::try_from(in_run).unwrap_or(usize::MAX).min(buf.len());
            let (piece, rest) = buf.split_at_mut(len);
            match run.block {
                Some(block) => self.read_span(block, within, piece)?,
                None => piece.fill(0),
            }
            offset += len as u64;
            buf = rest;
        }
        Ok(())
    }

    /// Returns where a link points to, as it is stored.
    pub(crate) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, FsError> {
        let size = inode.metadata.size_bytes;
        inode.check_readable()?;
        if size == 0 || size > LINK_TARGET_MAX {
            let reason = "the target of the link is empty or too long";
            return Err(FsError::corrupt(Place::Inode(inode.number), reason));
        }
        let is_fast = size < FAST_LINK_MAX && !inode.has(FLAG_EXTENTS | FLAG_INLINE_DATA);
        if is_fast {
            return Ok(inode.block[..size as usize].to_vec());
        }
        let mut target = vec![0; size as usize];
        self.read_content(inode, 0, &mut target)?;
        Ok(target)
    }
}

/// The content of a regular file, or a range of it.
#[derive(Clone, Debug)]
pub struct FileReader<'a> {
    fs: &'a FileSystem,
    inode: Inode,
    at: u64,
    end: u64,
}

impl<'a> FileReader<'a> {
    pub(crate) fn new(fs: &'a FileSystem, inode: Inode) -> Result<Self, FsError> {
        if inode.metadata.kind != Kind::File {
            return Err(FsError::NotAFile);
        }
        inode.check_readable()?;
        let end = inode.metadata.size_bytes;
        Ok(Self { fs, inode, at: 0, end })
    }

    /// Limits it to `range`, in bytes from the start of the file; what lies beyond the file's
    /// end is left out.
    #[must_use]
    pub fn range(mut self, range: Range<u64>) -> Self {
        self.end = range.end.min(self.inode.metadata.size_bytes);
        self.at = range.start.min(self.end);
        self
    }

    /// What the inode says about the file.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inode.metadata
    }

    /// Returns the bytes from the current place that are stored (`true`) or read as zeroes
    /// (`false`), and how many of them there are; `None` at the end.
    ///
    /// # Errors
    /// When the map of the file's blocks cannot be read.
    pub fn next_piece(&self) -> Result<Option<(bool, u64)>, FsError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let left = self.end - self.at;
        if self.inode.has(FLAG_INLINE_DATA) {
            return Ok(Some((true, left)));
        }
        let size = u64::from(self.fs.superblock.block_size);
        let run = self.fs.run_at(&self.inode, self.at / size)?;
        let in_run = run.len.saturating_mul(size) - self.at % size;
        Ok(Some((run.block.is_some(), in_run.min(left))))
    }

    /// Goes `bytes` further without reading.
    pub fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes).min(self.end);
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        self.fs.read_content(&self.inode, self.at, &mut buf[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}
