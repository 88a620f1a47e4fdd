//! An open file system: blocks as they are after the journal, and inodes.

use std::sync::Arc;

use crate::bytes::{join, le32};
use crate::cache::Cache;
use crate::error::{FsError, Place};
use crate::inode::Inode;
use crate::journal::{self, Overlay};
use crate::source::BlockSource;
use crate::superblock::{SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, Superblock};

/// Number of the inode of the top folder.
pub(crate) const ROOT_INODE: u32 = 2;

/// An ext4 file system, read only.
pub struct FileSystem {
    source: Box<dyn BlockSource + Send + Sync>,
    pub(crate) superblock: Superblock,
    pub(crate) overlay: Overlay,
    cache: Cache,
    notes: Vec<String>,
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystem").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}

impl FileSystem {
    /// Reads the superblock and, if the file system was not unmounted, the journal. What the
    /// journal holds is kept in memory as a table; nothing is written.
    ///
    /// # Errors
    /// - [`FsError::Io`]: the source failed; try again later.
    /// - [`FsError::Corrupt`], [`FsError::Unsupported`]: this is no ext4 that can be read.
    /// - [`FsError::Limit`]: the journal is larger than any that `mkfs.ext4` makes.
    pub fn open(source: impl BlockSource + Send + Sync + 'static) -> Result<Self, FsError> {
        let source = Box::new(source);
        let len_bytes = source.len_bytes();
        let mut bytes = [0; SUPERBLOCK_LEN];
        if len_bytes < SUPERBLOCK_OFFSET + SUPERBLOCK_LEN as u64 {
            return Err(FsError::corrupt(Place::Superblock, "the disk is too small"));
        }
        source.read_at(SUPERBLOCK_OFFSET, &mut bytes).map_err(|source| FsError::Io {
            offset: SUPERBLOCK_OFFSET,
            len: bytes.len(),
            source,
        })?;
        let superblock = Superblock::parse(&bytes, len_bytes)?;
        let cache = Cache::new(superblock.block_size);
        let overlay = Overlay::default();
        let mut fs = Self { source, superblock, overlay, cache, notes: Vec::new() };
        if fs.superblock.needs_replay() {
            let replayed = journal::replay(&fs)?;
            fs.overlay = replayed.overlay;
            fs.notes = replayed.notes;
            fs.cache = Cache::new(fs.superblock.block_size);
            fs.read_superblock_again(len_bytes)?;
        }
        Ok(fs)
    }

    /// The journal may hold a newer superblock, of a file system that was just grown.
    fn read_superblock_again(&mut self, len_bytes: u64) -> Result<(), FsError> {
        let block_size = u64::from(self.superblock.block_size);
        let block = self.block(SUPERBLOCK_OFFSET / block_size)?;
        let offset = (SUPERBLOCK_OFFSET % block_size) as usize;
        let newer = Superblock::parse(&block[offset..offset + SUPERBLOCK_LEN], len_bytes)?;
        if newer.block_size != self.superblock.block_size {
            return Err(FsError::corrupt(Place::Journal, "it changes the size of blocks"));
        }
        self.superblock = newer;
        Ok(())
    }

    /// What may make the content older than the guest saw it, as sentences for people: parts
    /// of the journal that could not be used. Usually empty.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the size of a block of the file system, in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.superblock.block_size
    }

    /// Returns a block of metadata.
    pub(crate) fn block(&self, block: u64) -> Result<Arc<[u8]>, FsError> {
        if let Some(content) = self.cache.get(block) {
            return Ok(content);
        }
        let mut content = vec![0; self.superblock.block_size as usize];
        self.read_span(block, 0, &mut content)?;
        let content: Arc<[u8]> = content.into();
        self.cache.put(block, &content);
        Ok(content)
    }

    /// Fills `buf` from `offset`, in bytes, within the run of blocks that begins at `first`.
    pub(crate) fn read_span(&self, first: u64, offset: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let size = u64::from(self.superblock.block_size);
        let beyond = || FsError::corrupt(Place::Block(first), "lies beyond the end of the disk");
        let start =
            first.checked_mul(size).and_then(|at| at.checked_add(offset)).ok_or_else(beyond)?;
        let end = start.checked_add(buf.len() as u64).ok_or_else(beyond)?;
        if end > self.superblock.blocks * size {
            return Err(beyond());
        }
        if self.overlay.is_empty() || !self.overlay.touches(start / size..end.div_ceil(size)) {
            return self.read_disk(start, buf);
        }
        let (mut at, mut rest) = (start, buf);
        while !rest.is_empty() {
            let (block, within) = (at / size, at % size);
            let len = rest.len().min((size - within) as usize);
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(len);
            match self.overlay.get(block) {
                Some(logged) => {
                    self.read_disk(logged.block * size + within, piece)?;
                    logged.unescape(within, piece);
                }
                None => self.read_disk(at, piece)?,
            }
            (at, rest) = (at + len as u64, tail);
        }
        Ok(())
    }

    fn read_disk(&self, offset: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let len = buf.len();
        self.source.read_at(offset, buf).map_err(|source| FsError::Io { offset, len, source })
    }

    /// Returns where an inode lies: block and offset.
    pub(crate) fn locate(&self, number: u32) -> Result<(u64, usize), FsError> {
        let corrupt = |reason| FsError::corrupt(Place::Inode(number), reason);
        if number == 0 || number > self.superblock.inodes {
            return Err(corrupt("there is no inode of this number"));
        }
        let index = number - 1;
        let group = u64::from(index / self.superblock.inodes_per_group);
        let place = self.superblock.descriptor_of(group);
        let (block, offset) = place.ok_or_else(|| corrupt("its group does not exist"))?;
        let descriptors = self.block(block)?;
        let descriptor = descriptors.get(offset..).unwrap_or_default();
        let high =
            if self.superblock.descriptor_has_high_half() { le32(descriptor, 0x28) } else { 0 };
        let table = join(high, le32(descriptor, 0x8));
        let at = u64::from(index % self.superblock.inodes_per_group)
            * u64::from(self.superblock.inode_size);
        let size = u64::from(self.superblock.block_size);
        let block = table.checked_add(at / size).filter(|&block| block < self.superblock.blocks);
        match block {
            Some(block) if table != 0 => Ok((block, (at % size) as usize)),
            _ => Err(FsError::corrupt(Place::Group(group), "its inodes lie beyond the disk")),
        }
    }

    /// Reads an inode that is in use.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode, FsError> {
        let (block, offset) = self.locate(number)?;
        let content = self.block(block)?;
        let end = offset + usize::from(self.superblock.inode_size);
        Inode::parse(number, &content[offset..end], self.superblock.checksum_seed)
    }
}
