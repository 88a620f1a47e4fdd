//! The journal's own blocks. Their numbers are big-endian.

use crate::bytes::{be16, be32, crc, crc_without, join};
use crate::error::{FsError, Place};

/// How a block of the journal's own begins.
pub(crate) const MAGIC: u32 = 0xC03B_3998;
const HEADER_LEN: usize = 12;
const UUID_LEN: usize = 16;

const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// Those four, revoke records (1) and asynchronous commits (4).
const INCOMPAT_KNOWN: u32 = 0x3F;
/// How many blocks fast commits have if the superblock says 0.
const FAST_COMMIT_BLOCKS: u32 = 256;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// What a block of the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// Lists the blocks whose copies follow it.
    Descriptor,
    /// Ends a transaction.
    Commit,
    /// Lists blocks whose older copies do not count.
    Revoke,
}

/// Returns what a block is, if it is the journal's own and of the expected transaction.
pub(crate) fn kind_of(block: &[u8], sequence: u32) -> Option<BlockKind> {
    if be32(block, 0) != MAGIC || be32(block, 8) != sequence {
        return None;
    }
    match be32(block, 4) {
        1 => Some(BlockKind::Descriptor),
        2 => Some(BlockKind::Commit),
        5 => Some(BlockKind::Revoke),
        _ => None,
    }
}

/// A copy of a block, as a descriptor lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    /// Whose copy it is.
    pub(crate) block: u64,
    pub(crate) is_escaped: bool,
    checksum: u32,
}

/// The journal's superblock.
#[derive(Clone, Debug)]
pub(crate) struct JournalSuperblock {
    /// First block of the log.
    pub(crate) first: u32,
    /// Behind the last one; fast commits may follow.
    pub(crate) end: u32,
    /// Where the oldest transaction begins; 0 if there is none.
    pub(crate) start: u32,
    /// Its number.
    pub(crate) sequence: u32,
    incompat: u32,
    seed: u32,
}

impl JournalSuperblock {
    pub(crate) fn parse(block: &[u8]) -> Result<Self, FsError> {
        let corrupt = |reason| FsError::corrupt(Place::Journal, reason);
        let version = be32(block, 4);
        if be32(block, 0) != MAGIC || !matches!(version, 3 | 4) {
            return Err(corrupt("it has no superblock"));
        }
        let incompat = if version == 4 { be32(block, 0x28) } else { 0 };
        if incompat & !INCOMPAT_KNOWN != 0 {
            let feature = format!("feature {:#x}", incompat & !INCOMPAT_KNOWN);
            return Err(FsError::unsupported(Place::Journal, feature));
        }
        if be32(block, 0xC) as usize != block.len() {
            return Err(corrupt("its blocks have another size"));
        }
        let checksums = incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3);
        if checksums != 0 && crc_without(!0, &block[..1024], 0xFC..0x100) != be32(block, 0xFC) {
            return Err(corrupt("its superblock has a wrong checksum"));
        }
        let fast = match (incompat & INCOMPAT_FAST_COMMIT, be32(block, 0x54)) {
            (0, _) => 0,
            (_, 0) => FAST_COMMIT_BLOCKS,
            (_, blocks) => blocks,
        };
        let journal = Self {
            first: be32(block, 0x14),
            end: be32(block, 0x10).checked_sub(fast).ok_or_else(|| corrupt("it is too short"))?,
            start: be32(block, 0x1C),
            sequence: be32(block, 0x18),
            incompat,
            seed: crc(!0, &block[0x30..0x40]),
        };
        let is_inside = journal.first <= journal.start && journal.start < journal.end;
        if journal.first == 0 || (journal.start != 0 && !is_inside) {
            return Err(corrupt("it begins outside of itself"));
        }
        Ok(journal)
    }

    fn has(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    fn has_checksums(&self) -> bool {
        self.has(INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)
    }

    /// Returns how long the list in a descriptor or revoke block may be; `None` if its checksum
    /// is wrong.
    fn list_end(&self, block: &[u8]) -> Option<usize> {
        if !self.has_checksums() {
            return Some(block.len());
        }
        let tail = block.len() - 4;
        let sum = crc_without(self.seed, block, tail..block.len());
        (sum == be32(block, tail)).then_some(tail)
    }

    pub(crate) fn commit_holds(&self, block: &[u8]) -> bool {
        !self.has_checksums() || crc_without(self.seed, block, 16..20) == be32(block, 16)
    }

    /// Returns the tags of a descriptor; `None` if its checksum is wrong.
    pub(crate) fn tags(&self, block: &[u8]) -> Option<Vec<Tag>> {
        let end = self.list_end(block)?;
        let len = match (self.has(INCOMPAT_CSUM_V3), self.has(INCOMPAT_64BIT)) {
            (true, _) => 16,
            (false, is_64bit) => {
                8 + usize::from(is_64bit) * 4 + usize::from(self.has(INCOMPAT_CSUM_V2)) * 2
            }
        };
        let mut tags = Vec::new();
        let mut at = HEADER_LEN;
        while at + len <= end {
            let tag = &block[at..at + len];
            let (flags, checksum) = if self.has(INCOMPAT_CSUM_V3) {
                (be32(tag, 4), be32(tag, 12))
            } else {
                (u32::from(be16(tag, 6)), u32::from(be16(tag, 4)))
            };
            let high = if self.has(INCOMPAT_64BIT) { be32(tag, 8) } else { 0 };
            let is_escaped = flags & TAG_ESCAPED != 0;
            tags.push(Tag { block: join(high, be32(tag, 0)), is_escaped, checksum });
            at += len + if flags & TAG_SAME_UUID == 0 { UUID_LEN } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Some(tags)
    }

    /// Says whether `copy` is what the tag was written for.
    pub(crate) fn copy_holds(&self, tag: &Tag, copy: &[u8], sequence: u32) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let sum = crc(crc(self.seed, &sequence.to_be_bytes()), copy);
        if self.has(INCOMPAT_CSUM_V3) { sum == tag.checksum } else { sum & 0xFFFF == tag.checksum }
    }

    /// Returns the blocks that a revoke block lists; `None` if its checksum is wrong.
    pub(crate) fn revoked(&self, block: &[u8]) -> Option<Vec<u64>> {
        let end = self.list_end(block)?.min(be32(block, HEADER_LEN) as usize);
        let list = block.get(HEADER_LEN + 4..end).unwrap_or_default();
        Some(if self.has(INCOMPAT_64BIT) {
            list.chunks_exact(8).map(|entry| join(be32(entry, 0), be32(entry, 4))).collect()
        } else {
            list.chunks_exact(4).map(|entry| u64::from(be32(entry, 0))).collect()
        })
    }
}
