//! Whether two files, or two folders, hold the same bytes.

use super::changed::ChangedRanges;
use crate::error::FsError;
use crate::filesystem::FileSystem;
use crate::inode::{FLAG_INLINE_DATA, Inode};
use crate::limits::Budget;
use crate::mapping::Run;

/// Bytes read of each side at a time.
const PIECE_LEN: u64 = 256 << 10;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Differs,
    /// A limit was reached.
    Unknown,
}

/// Which of the two could not be read.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) side: super::Side,
    pub(super) source: FsError,
}

pub(super) fn before<T>(result: Result<T, FsError>) -> Result<T, Failed> {
    result.map_err(|source| Failed { side: super::Side::Before, source })
}

pub(super) fn after<T>(result: Result<T, FsError>) -> Result<T, Failed> {
    result.map_err(|source| Failed { side: super::Side::After, source })
}

/// Two file systems, and what is known about where they differ.
#[derive(Debug)]
pub(super) struct Both<'a> {
    pub(super) before: &'a FileSystem,
    pub(super) after: &'a FileSystem,
    /// In bytes; `None` if nothing is known.
    pub(super) changed: Option<ChangedRanges>,
}

impl<'a> Both<'a> {
    /// What the journals hold counts as changed: its place on the disk is not what is read.
    pub(super) fn new(
        before: &'a FileSystem,
        after: &'a FileSystem,
        changed: Option<ChangedRanges>,
    ) -> Self {
        let size = u64::from(before.superblock.block_size);
        let is_one_disk = before.superblock.block_size == after.superblock.block_size;
        let logged = before.overlay.blocks().chain(after.overlay.blocks());
        let changed = changed.filter(|_| is_one_disk);
        let changed = changed.map(|known| known.with(logged.map(|at| at * size..(at + 1) * size)));
        Self { before, after, changed }
    }

    /// Says whether bytes at the same place of both disks are known to be equal.
    pub(super) fn is_unchanged(&self, offset: u64, len: u64) -> bool {
        let range = offset..offset.saturating_add(len);
        self.changed.as_ref().is_some_and(|changed| !changed.touches(&range))
    }

    /// Says whether two files are mapped to the same blocks.
    pub(super) fn is_same_mapping(
        &self,
        old: &Inode,
        new: &Inode,
        budget: &mut Budget,
    ) -> Result<bool, Failed> {
        if !self.can_map(old, new) || old.metadata.size_bytes != new.metadata.size_bytes {
            return Ok(false);
        }
        let size = u64::from(self.before.superblock.block_size);
        let blocks = old.metadata.size_bytes.div_ceil(size);
        let mut at = 0;
        while at < blocks {
            let (was, is) = self.runs(old, new, at)?;
            if was.block != is.block || !budget.pay_content(0) {
                return Ok(false);
            }
            at = was.end();
        }
        Ok(true)
    }

    /// Says whether the blocks of two files can be compared by number.
    fn can_map(&self, old: &Inode, new: &Inode) -> bool {
        !old.has(FLAG_INLINE_DATA)
            && !new.has(FLAG_INLINE_DATA)
            && self.after.superblock.block_size == self.before.superblock.block_size
    }

    /// Returns the runs of both at block `at`, cut to the same length.
    fn runs(&self, old: &Inode, new: &Inode, at: u64) -> Result<(Run, Run), Failed> {
        let was = before(self.before.run_at(old, at))?;
        let is = after(self.after.run_at(new, at))?;
        let len = was.len.min(is.len);
        Ok((was.cut(len), is.cut(len)))
    }

    /// Compares the content of two regular files, reading what is not known to be equal.
    pub(super) fn compare(
        &self,
        old: &Inode,
        new: &Inode,
        budget: &mut Budget,
    ) -> Result<Verdict, Failed> {
        before(old.check_readable())?;
        after(new.check_readable())?;
        let total = old.metadata.size_bytes;
        if total != new.metadata.size_bytes {
            return Ok(Verdict::Differs);
        }
        let size = u64::from(self.before.superblock.block_size);
        let can_map = self.can_map(old, new);
        let mut at = 0;
        let (mut was, mut is) = (Vec::new(), Vec::new());
        while at < total {
            let mut len = PIECE_LEN.min(total - at);
            let mut is_equal = false;
            if can_map {
                // `at` is at the start of a block, because pieces end with one or with the file.
                let (old_run, new_run) = self.runs(old, new, at / size)?;
                let run_len = old_run.len.saturating_mul(size);
                is_equal = match (old_run.block, new_run.block) {
                    (None, None) => true,
                    (Some(a), Some(b)) => a == b && self.is_unchanged(a * size, run_len),
                    _ => false,
                };
                len = if is_equal { run_len.min(total - at) } else { run_len.min(len) };
            }
            if !budget.pay_content(if is_equal { 0 } else { len }) {
                return Ok(Verdict::Unknown);
            }
            if !is_equal {
                was.resize(len as usize, 0);
                is.resize(len as usize, 0);
                before(self.before.read_content(old, at, &mut was))?;
                after(self.after.read_content(new, at, &mut is))?;
                if was != is {
                    return Ok(Verdict::Differs);
                }
            }
            at += len;
        }
        Ok(Verdict::Same)
    }
}
