//! The superblock: how large everything is, and which features are in use.
//!
//! **Source**: Linux, `Documentation/filesystems/ext4/super.rst`.

use crate::bytes::{crc, join, le16, le32};
use crate::error::{FsError, Place};

pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
pub(crate) const SUPERBLOCK_LEN: usize = 1024;
const MAGIC: u16 = 0xEF53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const COMPAT_FAST_COMMIT: u32 = 0x400;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
/// Names that we know the meaning of, for reading: filetype, recover, meta_bg, extent, 64bit,
/// mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt (refused file by file),
/// casefold.
const INCOMPAT_KNOWN: u32 = 0x2
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | 0x40
    | INCOMPAT_64BIT
    | 0x100
    | 0x200
    | 0x400
    | INCOMPAT_CSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

/// What the rest of the reader needs to know, checked against the size of the disk.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    pub(crate) inodes: u32,
    pub(crate) first_data_block: u32,
    pub(crate) inode_size: u16,
    pub(crate) inodes_per_group: u32,
    pub(crate) journal_inode: u32,
    /// Where checksums of metadata begin; `None` if there are none.
    pub(crate) checksum_seed: Option<u32>,
    blocks_per_group: u32,
    descriptor_size: u16,
    first_meta_bg: u32,
    backup_groups: [u32; 2],
    compat: u32,
    incompat: u32,
    ro_compat: u32,
}

impl Superblock {
    /// Reads `bytes`, the superblock of a disk of `len_bytes`.
    pub(crate) fn parse(bytes: &[u8], len_bytes: u64) -> Result<Self, FsError> {
        let corrupt = |reason| FsError::corrupt(Place::Superblock, reason);
        if le16(bytes, 0x38) != MAGIC {
            return Err(corrupt("not an ext4 file system"));
        }
        let (compat, incompat, ro_compat) =
            (le32(bytes, 0x5C), le32(bytes, 0x60), le32(bytes, 0x64));
        if incompat & !INCOMPAT_KNOWN != 0 {
            let feature = format!("feature {:#x}", incompat & !INCOMPAT_KNOWN);
            return Err(FsError::unsupported(Place::Superblock, feature));
        }
        let has_checksums = ro_compat & RO_COMPAT_METADATA_CSUM != 0;
        if has_checksums && crc(!0, &bytes[..0x3FC]) != le32(bytes, 0x3FC) {
            return Err(corrupt("wrong checksum"));
        }
        let block_size = match le32(bytes, 0x18) {
            log @ 0..=6 => 1024_u32 << log,
            _ => return Err(corrupt("no such block size")),
        };
        let is_64bit = incompat & INCOMPAT_64BIT != 0;
        let seed = match incompat & INCOMPAT_CSUM_SEED {
            0 => crc(!0, &bytes[0x68..0x78]),
            _ => le32(bytes, 0x270),
        };
        let superblock = Self {
            block_size,
            blocks: join(if is_64bit { le32(bytes, 0x150) } else { 0 }, le32(bytes, 0x4)),
            inodes: le32(bytes, 0),
            first_data_block: le32(bytes, 0x14),
            inode_size: if le32(bytes, 0x4C) == 0 { 128 } else { le16(bytes, 0x58) },
            inodes_per_group: le32(bytes, 0x28),
            journal_inode: le32(bytes, 0xE0),
            checksum_seed: has_checksums.then_some(seed),
            blocks_per_group: le32(bytes, 0x20),
            descriptor_size: if is_64bit { le16(bytes, 0xFE) } else { 32 },
            first_meta_bg: le32(bytes, 0x104),
            backup_groups: [le32(bytes, 0x24C), le32(bytes, 0x250)],
            compat,
            incompat,
            ro_compat,
        };
        superblock.check(len_bytes)?;
        Ok(superblock)
    }

    fn check(&self, len_bytes: u64) -> Result<(), FsError> {
        let corrupt = |reason| Err(FsError::corrupt(Place::Superblock, reason));
        if self.blocks > len_bytes / u64::from(self.block_size) {
            return corrupt("the file system is larger than the disk");
        }
        if u64::from(self.first_data_block) >= self.blocks || self.first_data_block > 1 {
            return corrupt("no such first block");
        }
        let inode_size = u32::from(self.inode_size);
        if inode_size < 128 || inode_size > self.block_size || !inode_size.is_power_of_two() {
            return corrupt("no such inode size");
        }
        let descriptor_size = u32::from(self.descriptor_size);
        if !descriptor_size.is_power_of_two() || !(32..=1024).contains(&descriptor_size) {
            return corrupt("no such size of group descriptors");
        }
        if self.blocks_per_group == 0 || self.inodes_per_group == 0 {
            return corrupt("groups are empty");
        }
        if u64::from(self.inodes) * u64::from(inode_size) > len_bytes {
            return corrupt("the inodes are larger than the disk");
        }
        Ok(())
    }

    /// Says whether the newest metadata is still in the journal.
    pub(crate) fn needs_replay(&self) -> bool {
        self.compat & COMPAT_HAS_JOURNAL != 0 && self.incompat & INCOMPAT_RECOVER != 0
    }

    pub(crate) fn has_fast_commits(&self) -> bool {
        self.compat & COMPAT_FAST_COMMIT != 0
    }

    /// Returns block and offset of a group's descriptor, or `None` if there is no such group.
    pub(crate) fn descriptor_of(&self, group: u64) -> Option<(u64, usize)> {
        let data_blocks = self.blocks - u64::from(self.first_data_block);
        if group >= data_blocks.div_ceil(u64::from(self.blocks_per_group)) {
            return None;
        }
        let per_block = u64::from(self.block_size / u32::from(self.descriptor_size));
        let (index, slot) = (group / per_block, group % per_block);
        let first = u64::from(self.first_data_block);
        let is_meta = self.incompat & INCOMPAT_META_BG != 0;
        let block = if is_meta && index >= u64::from(self.first_meta_bg) {
            let head = index * per_block;
            let start = first + head * u64::from(self.blocks_per_group);
            start + u64::from(self.has_superblock(head))
        } else {
            first + 1 + index
        };
        Some((block, usize::try_from(slot).ok()? * usize::from(self.descriptor_size)))
    }

    pub(crate) fn descriptor_has_high_half(&self) -> bool {
        self.descriptor_size >= 64
    }

    /// Says whether a group begins with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return group == 0 || self.backup_groups.iter().any(|&at| u64::from(at) == group);
        }
        let is_sparse = self.ro_compat & RO_COMPAT_SPARSE_SUPER != 0;
        group <= 1 || !is_sparse || is_power(3) || is_power(5) || is_power(7)
    }
}
