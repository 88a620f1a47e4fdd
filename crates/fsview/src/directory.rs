//! What a folder holds: names and the inodes they stand for.
//!
//! All blocks are read in their order. Those of a hash tree look like unused entries to whoever
//! does not know about them, so the tree itself is not needed.
//!
//! **Source**: Linux, `Documentation/filesystems/ext4/directory.rst`.

use crate::bytes::{crc, le16, le32, u8_at};
use crate::error::{FsError, Place};
use crate::filesystem::FileSystem;
use crate::inline;
use crate::inode::{FLAG_INDEX, FLAG_INLINE_DATA, Inode, Kind};
use crate::limits::Budget;

/// Length of the pretended entry that holds a block's checksum.
const TAIL_LEN: usize = 12;
/// What an entry costs in memory beside its name.
const ENTRY_COST: usize = 48;

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) name: Box<[u8]>,
    pub(crate) inode: u32,
}

/// What could be read of a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Sorted; each name once.
    pub(crate) names: Vec<Name>,
    /// What could not be read. If there is anything, names may be missing.
    pub(crate) errors: Vec<FsError>,
    /// What `names` took from the budget.
    pub(crate) cost: usize,
}

impl FileSystem {
    /// Lists a folder; what is damaged does not hide the rest.
    pub(crate) fn list(&self, inode: &Inode, budget: &mut Budget) -> Listing {
        let mut listing = Listing::default();
        let ended = self.list_into(inode, budget, &mut listing);
        listing.errors.extend(ended.err());
        listing.names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let before = listing.names.len();
        listing.names.dedup_by(|a, b| a.name == b.name);
        if listing.names.len() < before {
            listing.errors.push(corrupt(inode, "a name occurs more than once in it"));
        }
        budget.names_bytes -= listing.cost;
        listing
    }

    fn list_into(
        &self,
        inode: &Inode,
        budget: &mut Budget,
        listing: &mut Listing,
    ) -> Result<(), FsError> {
        if inode.metadata.kind != Kind::Directory {
            return Err(FsError::NotADirectory);
        }
        inode.check_readable()?;
        if inode.has(FLAG_INLINE_DATA) {
            for part in inline::directory_parts(self, inode)? {
                list_block(inode, &part, budget, listing)?;
            }
            return Ok(());
        }
        let size = u64::from(self.superblock.block_size);
        let blocks = inode.metadata.size_bytes.div_ceil(size);
        let mut at = 0;
        while at < blocks {
            let run = self.run_at(inode, at)?;
            let end = run.end().min(blocks);
            let Some(first) = run.block else {
                at = end;
                // A folder of nothing but holes is as large as it likes.
                charge_directory(budget, size)?;
                continue;
            };
            for block in first..first + (end - at) {
                charge_directory(budget, size)?;
                let content = match self.block(block) {
                    Ok(content) => content,
                    Err(error) => {
                        push_error(listing, error)?;
                        continue;
                    }
                };
                let is_root = inode.has(FLAG_INDEX) && at == 0 && block == first;
                match check_tail(inode, &content, is_root) {
                    Ok(used) => list_block(inode, &content[..used], budget, listing)?,
                    Err(error) => push_error(listing, error)?,
                }
            }
            at = end;
        }
        Ok(())
    }
}

fn corrupt(inode: &Inode, reason: &'static str) -> FsError {
    FsError::corrupt(Place::Inode(inode.number), reason)
}

fn charge_directory(budget: &mut Budget, bytes: u64) -> Result<(), FsError> {
    let limit = budget.limits.directory_bytes_max;
    let left = budget.directory_bytes.checked_sub(bytes);
    budget.directory_bytes = left.ok_or(FsError::Limit { what: "bytes of folders", limit })?;
    Ok(())
}

/// Keeps an error, and gives up on a folder that has many.
fn push_error(listing: &mut Listing, error: FsError) -> Result<(), FsError> {
    const ERRORS_MAX: usize = 16;
    if listing.errors.len() >= ERRORS_MAX {
        return Err(error);
    }
    listing.errors.push(error);
    Ok(())
}

/// Returns how much of a block is entries, after comparing the checksum if it has one. Blocks of
/// a hash tree, the root and those that look like one unused entry, keep theirs elsewhere.
fn check_tail(inode: &Inode, block: &[u8], is_root: bool) -> Result<usize, FsError> {
    let is_node = is_root || record_len(le16(block, 4), block.len()) == block.len();
    let seed = inode.checksum_seed.filter(|_| !is_node);
    let Some(seed) = seed else { return Ok(block.len()) };
    let at = block.len() - TAIL_LEN;
    let tail = &block[at..];
    let is_tail = le32(tail, 0) == 0 && le16(tail, 4) == 12 && le16(tail, 6) == 0xDE00;
    if is_tail && crc(seed, &block[..at]) != le32(tail, 8) {
        return Err(corrupt(inode, "a block of the folder has a wrong checksum"));
    }
    Ok(if is_tail { at } else { block.len() })
}

/// Adds the entries of a block. Its damage is an error in the listing; the error returned is
/// that a limit is reached.
fn list_block(
    inode: &Inode,
    block: &[u8],
    budget: &mut Budget,
    listing: &mut Listing,
) -> Result<(), FsError> {
    let mut at = 0;
    while at + 8 <= block.len() {
        let len = record_len(le16(block, at + 4), block.len());
        let name_len = usize::from(u8_at(block, at + 6));
        let number = le32(block, at);
        if len < 8 || !len.is_multiple_of(4) || at + len > block.len() {
            return push_error(listing, corrupt(inode, "an entry of the folder is damaged"));
        }
        if number != 0 {
            match block[at + 8..at + len].get(..name_len) {
                Some(b"." | b"..") => {}
                Some(name) if is_name(name) => push_name(name, number, budget, listing)?,
                _ => push_error(listing, corrupt(inode, "a name in the folder is impossible"))?,
            }
        }
        at += len;
    }
    Ok(())
}

/// Decodes the length of an entry, whose lowest two bits extend it in large blocks.
fn record_len(raw: u16, block_len: usize) -> usize {
    match raw {
        0 | 0xFFFF if block_len > 0x8000 => block_len,
        raw => usize::from(raw),
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

fn push_name(
    name: &[u8],
    inode: u32,
    budget: &mut Budget,
    listing: &mut Listing,
) -> Result<(), FsError> {
    let limits = &budget.limits;
    if budget.entries == 0 {
        return Err(FsError::Limit { what: "entries", limit: limits.entries_max });
    }
    let cost = listing.cost + name.len() + ENTRY_COST;
    if cost > budget.names_bytes {
        let limit = limits.names_bytes_max as u64;
        return Err(FsError::Limit { what: "bytes of names in open folders", limit });
    }
    budget.entries -= 1;
    listing.cost = cost;
    listing.names.push(Name { name: name.into(), inode });
    Ok(())
}
