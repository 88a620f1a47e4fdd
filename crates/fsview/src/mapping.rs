//! Which blocks hold the content of a file: extent trees, and the older indirect blocks.
//!
//! Nothing is collected: each question goes down the tree again (its blocks are in the cache),
//! so a tree with loops or millions of pieces costs no memory, and each level is lower than the
//! one before.
//!
//! **Source**: Linux, `Documentation/filesystems/ext4/ifork.rst`.

use std::sync::Arc;

use crate::bytes::{crc, join, le16, le32};
use crate::error::{FsError, Place};
use crate::filesystem::FileSystem;
use crate::inode::{FLAG_EXTENTS, Inode};

const EXTENT_MAGIC: u16 = 0xF30A;
const HEADER_LEN: usize = 12;
const ENTRY_LEN: usize = 12;
const DEPTH_MAX: u16 = 5;
/// No file has more blocks.
const FILE_BLOCKS_MAX: u64 = 1 << 32;
/// Extents above this length are allocated but never written: they read as zeroes.
const WRITTEN_MAX: u64 = 32768;

/// Blocks of a file that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The block asked for; the run may begin before it.
    pub(crate) first: u64,
    /// Blocks from there on; at least 1.
    pub(crate) len: u64,
    /// Where they are; `None` reads as zeroes.
    pub(crate) block: Option<u64>,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.len
    }

    pub(crate) fn cut(mut self, len: u64) -> Self {
        self.len = self.len.min(len);
        self
    }
}

impl FileSystem {
    /// Returns the run that block `logical` of a file is in.
    pub(crate) fn run_at(&self, inode: &Inode, logical: u64) -> Result<Run, FsError> {
        if logical >= FILE_BLOCKS_MAX {
            // Content this far cannot be mapped; a size that claims it reads as zeroes.
            return Ok(Run { first: logical, len: u64::MAX - logical, block: None });
        }
        let run = if inode.has(FLAG_EXTENTS) {
            self.run_of_extents(inode, logical)?
        } else {
            self.run_of_indirect(inode, logical)?
        };
        if let Some(block) = run.block {
            let is_inside = block >= u64::from(self.superblock.first_data_block)
                && block.checked_add(run.len).is_some_and(|end| end <= self.superblock.blocks);
            if !is_inside || block == 0 {
                let reason = "its content lies beyond the disk";
                return Err(FsError::corrupt(Place::Inode(inode.number), reason));
            }
        }
        Ok(run)
    }

    fn run_of_extents(&self, inode: &Inode, logical: u64) -> Result<Run, FsError> {
        let place = Place::Inode(inode.number);
        let mut node: Arc<[u8]> = inode.block.as_slice().into();
        let mut expected = None;
        let mut upper = FILE_BLOCKS_MAX;
        loop {
            let depth = le16(&node, 6);
            let count = usize::from(le16(&node, 2));
            if le16(&node, 0) != EXTENT_MAGIC || depth > DEPTH_MAX {
                return Err(FsError::corrupt(place, "its extent tree is damaged"));
            }
            if expected.is_some_and(|expected| expected != depth)
                || count > (node.len() - HEADER_LEN) / ENTRY_LEN
            {
                return Err(FsError::corrupt(place, "a level of its extent tree is damaged"));
            }
            let entry = |index: usize| &node[HEADER_LEN + index * ENTRY_LEN..][..ENTRY_LEN];
            let key = |index: usize| u64::from(le32(entry(index), 0));
            let next = first_above(count, |index| key(index) > logical);
            if next < count {
                upper = upper.min(key(next));
            }
            let hole = Run { first: logical, len: upper - logical, block: None };
            let Some(found) = next.checked_sub(1) else { return Ok(hole) };
            if depth == 0 {
                return Ok(leaf_run(entry(found), hole));
            }
            let child = join(u32::from(le16(entry(found), 8)), le32(entry(found), 4));
            node = self.block(child)?;
            check_node(inode, &node)?;
            expected = Some(depth - 1);
        }
    }

    fn run_of_indirect(&self, inode: &Inode, logical: u64) -> Result<Run, FsError> {
        let per_block = u64::from(self.superblock.block_size / 4);
        let mut offset = logical;
        if offset < 12 {
            return Ok(pointer_run(&inode.block[..48], offset, logical));
        }
        offset -= 12;
        let mut span = per_block;
        for level in 1..=3_u64 {
            if offset < span {
                return self.run_below(inode, level, offset, logical);
            }
            offset -= span;
            span *= per_block;
        }
        Ok(Run { first: logical, len: FILE_BLOCKS_MAX - logical, block: None })
    }

    /// Looks up `offset` within the tree of `level` levels of indirect blocks.
    fn run_below(
        &self,
        inode: &Inode,
        level: u64,
        mut offset: u64,
        logical: u64,
    ) -> Result<Run, FsError> {
        let per_block = u64::from(self.superblock.block_size / 4);
        let root_at = 11 * 4 + level as usize * 4;
        let mut pointer = u64::from(le32(&inode.block, root_at));
        let mut span = (0..level).fold(1, |span, _| span * per_block);
        for _ in 0..level {
            if pointer == 0 {
                return Ok(Run { first: logical, len: span - offset, block: None });
            }
            let node = self.block(pointer)?;
            span /= per_block;
            if span == 1 {
                return Ok(pointer_run(&node, offset, logical));
            }
            pointer = u64::from(le32(&node, (offset / span) as usize * 4));
            offset %= span;
        }
        Ok(Run { first: logical, len: 1, block: None })
    }
}

/// Returns the first index below `count` for which `is_above` holds, taking the keys as sorted.
/// If they are not, it is some index that is above and whose predecessor is not.
fn first_above(count: usize, is_above: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if is_above(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Returns what a leaf's entry says about the first block of `hole`, which begins in or after it.
fn leaf_run(entry: &[u8], hole: Run) -> Run {
    let (start, len) = (u64::from(le32(entry, 0)), u64::from(le16(entry, 4)));
    let (len, is_written) =
        if len > WRITTEN_MAX { (len - WRITTEN_MAX, false) } else { (len, true) };
    let offset = hole.first.saturating_sub(start);
    if offset >= len {
        return hole;
    }
    let block = join(u32::from(le16(entry, 6)), le32(entry, 8)) + offset;
    Run { block: is_written.then_some(block), ..hole.cut(len - offset) }
}

/// Returns the run of pointers at `index` that follow each other, or are all zero.
fn pointer_run(pointers: &[u8], index: u64, logical: u64) -> Run {
    let count = pointers.len() as u64 / 4;
    let pointer = |index: u64| u64::from(le32(pointers, index as usize * 4));
    let first = pointer(index);
    let follows = |distance: &u64| {
        let expected = if first == 0 { 0 } else { first + distance };
        index + distance < count && pointer(index + distance) == expected
    };
    let len = 1 + (1..count).take_while(follows).count() as u64;
    Run { first: logical, len, block: (first != 0).then_some(first) }
}

/// Compares the checksum behind the last entry that a node has room for.
fn check_node(inode: &Inode, node: &[u8]) -> Result<(), FsError> {
    let Some(seed) = inode.checksum_seed else { return Ok(()) };
    let tail = HEADER_LEN + usize::from(le16(node, 4)) * ENTRY_LEN;
    match node.get(..tail) {
        Some(covered) if crc(seed, covered) == le32(node, tail) => Ok(()),
        _ => {
            let reason = "a block of its extent tree has a wrong checksum";
            Err(FsError::corrupt(Place::Inode(inode.number), reason))
        }
    }
}
