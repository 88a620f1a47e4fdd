//! Extended attributes: in the inode, in a block, or in inodes of their own.
//!
//! **Source**: Linux, `Documentation/filesystems/ext4/attributes.rst` and `fs/ext4/acl.c`.

use crate::bytes::{crc, crc_without, le16, le32, u8_at};
use crate::error::{FsError, Place};
use crate::filesystem::FileSystem;
use crate::inode::{FLAG_EA_INODE, Inode};

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER_LEN: usize = 32;
const ENTRY_LEN: usize = 16;
const INDEX_ACL_ACCESS: u8 = 2;
const INDEX_ACL_DEFAULT: u8 = 3;
const INDEX_SYSTEM: u8 = 7;
/// All attributes of one inode together; entries may share a value, so their sum has no other
/// bound. Linux allows 64 KiB for one.
const BYTES_MAX: usize = 256 << 10;

/// An attribute as `getxattr(2)` gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// With its prefix: `user.comment`, `security.capability`.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

struct RawEntry {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl FileSystem {
    /// Returns the attributes of an inode, sorted by name.
    pub(crate) fn xattrs_of(&self, inode: &Inode) -> Result<Vec<Xattr>, FsError> {
        let mut entries = Vec::new();
        self.entries_in_inode(inode, &mut entries)?;
        self.entries_in_block(inode, &mut entries)?;
        let is_content = |entry: &RawEntry| entry.index == INDEX_SYSTEM && entry.name == b"data";
        let shown = entries.into_iter().filter(|entry| !is_content(entry));
        let mut xattrs: Vec<Xattr> = shown.filter_map(translate).collect();
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    /// Returns the part of inline content that has no room in the inode's first fields.
    pub(crate) fn inline_tail(&self, inode: &Inode) -> Result<Vec<u8>, FsError> {
        let mut entries = Vec::new();
        self.entries_in_inode(inode, &mut entries)?;
        let data = entries.into_iter().find(|e| e.index == INDEX_SYSTEM && e.name == b"data");
        Ok(data.map(|entry| entry.value).unwrap_or_default())
    }

    fn entries_in_inode(&self, inode: &Inode, into: &mut Vec<RawEntry>) -> Result<(), FsError> {
        let Some(at) = inode.extra_end() else { return Ok(()) };
        if le32(&inode.raw, at) != MAGIC {
            return Ok(());
        }
        let area = inode.raw.get(at + 4..).unwrap_or_default();
        self.entries_in(inode, area, 0, into)
    }

    fn entries_in_block(&self, inode: &Inode, into: &mut Vec<RawEntry>) -> Result<(), FsError> {
        if inode.attribute_block == 0 {
            return Ok(());
        }
        let block = self.block(inode.attribute_block)?;
        let corrupt = |reason| Err(FsError::corrupt(Place::Inode(inode.number), reason));
        if le32(&block, 0) != MAGIC {
            return corrupt("its block of attributes is damaged");
        }
        if let Some(seed) = self.superblock.checksum_seed {
            let seed = crc(seed, &inode.attribute_block.to_le_bytes());
            if crc_without(seed, &block, 0x10..0x14) != le32(&block, 0x10) {
                return corrupt("its block of attributes has a wrong checksum");
            }
        }
        self.entries_in(inode, &block, BLOCK_HEADER_LEN, into)
    }

    /// Reads the entries from `at` on; where values are is counted from the start of `area`.
    fn entries_in(
        &self,
        inode: &Inode,
        area: &[u8],
        mut at: usize,
        into: &mut Vec<RawEntry>,
    ) -> Result<(), FsError> {
        let corrupt = |reason| FsError::corrupt(Place::Inode(inode.number), reason);
        let mut room =
            BYTES_MAX.saturating_sub(into.iter().map(|e| e.name.len() + e.value.len()).sum());
        while at + 4 <= area.len() && le32(area, at) != 0 {
            let name_len = usize::from(u8_at(area, at));
            let name = area.get(at + ENTRY_LEN..).and_then(|rest| rest.get(..name_len));
            let name = name.ok_or_else(|| corrupt("an attribute's name is cut"))?;
            let size = le32(area, at + 8) as usize;
            let cost = ENTRY_LEN + name_len + size;
            room = room.checked_sub(cost).ok_or(FsError::Limit {
                what: "bytes of attributes of one inode",
                limit: BYTES_MAX as u64,
            })?;
            let value = match le32(area, at + 4) {
                0 => {
                    let offset = usize::from(le16(area, at + 2));
                    let value = area.get(offset..).and_then(|rest| rest.get(..size));
                    value.ok_or_else(|| corrupt("an attribute's value is cut"))?.to_vec()
                }
                number => self.value_in_inode(number, size)?,
            };
            into.push(RawEntry { index: u8_at(area, at + 1), name: name.to_vec(), value });
            at += (ENTRY_LEN + name_len).next_multiple_of(4);
        }
        Ok(())
    }

    fn value_in_inode(&self, number: u32, size: usize) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(number)?;
        if !inode.has(FLAG_EA_INODE) || inode.metadata.size_bytes != size as u64 {
            let reason = "it does not hold the attribute that names it";
            return Err(FsError::corrupt(Place::Inode(number), reason));
        }
        let mut value = vec![0; size];
        self.read_content(&inode, 0, &mut value)?;
        Ok(value)
    }
}

/// Gives an attribute the name and form that programs see; `None` if they do not see it.
fn translate(entry: RawEntry) -> Option<Xattr> {
    let RawEntry { index, name, value } = entry;
    let (prefix, value): (&[u8], _) = match index {
        1 => (b"user.", value),
        INDEX_ACL_ACCESS => (b"system.posix_acl_access", translate_acl(&value)?),
        INDEX_ACL_DEFAULT => (b"system.posix_acl_default", translate_acl(&value)?),
        4 => (b"trusted.", value),
        6 => (b"security.", value),
        INDEX_SYSTEM => (b"system.", value),
        _ => return None,
    };
    Some(Xattr { name: [prefix, &name].concat(), value })
}

/// Rewrites an access list from ext4's form, which leaves out unused ids, to the general one.
fn translate_acl(stored: &[u8]) -> Option<Vec<u8>> {
    const TAG_USER: u16 = 2;
    const TAG_GROUP: u16 = 8;
    if le32(stored, 0) != 1 {
        return None;
    }
    let mut list = 2_u32.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let has_id = matches!(le16(stored, at), TAG_USER | TAG_GROUP);
        let len = if has_id { 8 } else { 4 };
        let entry = stored.get(at..at + len)?;
        list.extend_from_slice(&entry[..4]);
        list.extend_from_slice(entry.get(4..8).unwrap_or(&[0xFF; 4]));
        at += len;
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lists_get_the_ids_that_ext4_leaves_out() {
        let stored = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xE8, 3, 0, 0];
        let expected = [2, 0, 0, 0, 1, 0, 6, 0, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 4, 0, 0xE8, 3, 0, 0];
        assert_eq!(translate_acl(&stored).unwrap(), expected);
        assert_eq!(translate_acl(&stored[..10]), None);
    }
}
