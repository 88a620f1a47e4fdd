//! Inodes: what is known about a file beside its name and content.
//!
//! **Source**: Linux, `Documentation/filesystems/ext4/inodes.rst`.

use crate::bytes::{crc, crc_without, join, le16, le32};
use crate::error::{FsError, Place};

const FLAG_ENCRYPT: u32 = 0x800;
pub(crate) const FLAG_INDEX: u32 = 0x1000;
pub(crate) const FLAG_EXTENTS: u32 = 0x8_0000;
pub(crate) const FLAG_EA_INODE: u32 = 0x20_0000;
pub(crate) const FLAG_INLINE_DATA: u32 = 0x1000_0000;
/// Where the fields end that every inode has.
const OLD_INODE_LEN: usize = 128;
const CHECKSUM_LOW: usize = 0x7C;
const CHECKSUM_HIGH: usize = 0x82;

/// What kind of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device node.
    BlockDevice,
    /// A character device node.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// A moment as ext4 stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Since 1970, UTC; before it if negative.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What an inode says about its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-uid, set-gid and sticky bit: 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// In bytes; of a link, the length of its target.
    pub size_bytes: u64,
    /// When the content last changed; anybody can set it.
    pub mtime: Time,
    /// When the inode last changed; only root can make it lie.
    pub ctime: Time,
    /// How many names it has.
    pub links: u16,
    /// Distinguishes files that used the same inode one after the other.
    pub generation: u32,
    /// Major and minor number of a device node.
    pub device: Option<(u32, u32)>,
}

/// An inode in use.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) metadata: Metadata,
    pub(crate) flags: u32,
    /// Root of the map of its blocks, or its content.
    pub(crate) block: [u8; 60],
    /// Block of further attributes, or 0.
    pub(crate) attribute_block: u64,
    /// Where checksums of its blocks begin.
    pub(crate) checksum_seed: Option<u32>,
    /// All of it, as it is on the disk.
    pub(crate) raw: Box<[u8]>,
}

impl Inode {
    pub(crate) fn parse(number: u32, raw: &[u8], seed: Option<u32>) -> Result<Self, FsError> {
        let place = Place::Inode(number);
        let generation = le32(raw, 0x64);
        let checksum_seed =
            seed.map(|seed| crc(crc(seed, &number.to_le_bytes()), &generation.to_le_bytes()));
        if le16(raw, 0) == 0 && le16(raw, 0x1A) == 0 {
            return Err(FsError::corrupt(place, "it is not in use"));
        }
        if checksum_seed.is_some_and(|seed| !checksum_holds(seed, raw)) {
            return Err(FsError::corrupt(place, "wrong checksum"));
        }
        let mode = le16(raw, 0);
        let kind = match mode >> 12 {
            0o01 => Kind::Fifo,
            0o02 => Kind::CharDevice,
            0o04 => Kind::Directory,
            0o06 => Kind::BlockDevice,
            0o10 => Kind::File,
            0o12 => Kind::Symlink,
            0o14 => Kind::Socket,
            _ => return Err(FsError::corrupt(place, "it is of no known kind")),
        };
        if le16(raw, 0x1A) == 0 {
            return Err(FsError::corrupt(place, "it was deleted"));
        }
        let mut block = [0; 60];
        block.copy_from_slice(&raw[0x28..0x64]);
        let metadata = Metadata {
            kind,
            mode: mode & 0o7777,
            uid: u32::from(le16(raw, 0x2)) | u32::from(le16(raw, 0x78)) << 16,
            gid: u32::from(le16(raw, 0x18)) | u32::from(le16(raw, 0x7A)) << 16,
            size_bytes: join(le32(raw, 0x6C), le32(raw, 0x4)),
            mtime: time(raw, 0x10, 0x88),
            ctime: time(raw, 0xC, 0x84),
            links: le16(raw, 0x1A),
            generation,
            device: device(kind, &block),
        };
        Ok(Self {
            number,
            metadata,
            flags: le32(raw, 0x20),
            block,
            attribute_block: join(u32::from(le16(raw, 0x76)), le32(raw, 0x68)),
            checksum_seed,
            raw: raw.into(),
        })
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Fails if names and content are not readable without a key.
    pub(crate) fn check_readable(&self) -> Result<(), FsError> {
        if self.has(FLAG_ENCRYPT) {
            return Err(FsError::unsupported(Place::Inode(self.number), "encryption"));
        }
        Ok(())
    }

    /// Returns where the attributes in the inode begin, if there can be any.
    pub(crate) fn extra_end(&self) -> Option<usize> {
        let end = OLD_INODE_LEN + extra_len(&self.raw);
        (self.raw.len() > OLD_INODE_LEN && end < self.raw.len()).then_some(end)
    }
}

/// Returns how many bytes of fields follow the first 128.
fn extra_len(raw: &[u8]) -> usize {
    if raw.len() <= OLD_INODE_LEN { 0 } else { usize::from(le16(raw, 0x80)) }
}

fn has_field(raw: &[u8], at: usize, len: usize) -> bool {
    at + len <= OLD_INODE_LEN + extra_len(raw) && at + len <= raw.len()
}

fn checksum_holds(seed: u32, raw: &[u8]) -> bool {
    let has_high = has_field(raw, CHECKSUM_HIGH, 2);
    let (head, tail) = raw.split_at(OLD_INODE_LEN);
    let sum = crc_without(seed, head, CHECKSUM_LOW..CHECKSUM_LOW + 2);
    let high_at = CHECKSUM_HIGH - OLD_INODE_LEN;
    let hole = if has_high { high_at..high_at + 2 } else { 0..0 };
    let sum = crc_without(sum, tail, hole);
    let low = u32::from(le16(raw, CHECKSUM_LOW));
    if has_high {
        sum == low | u32::from(le16(raw, CHECKSUM_HIGH)) << 16
    } else {
        sum & 0xFFFF == low
    }
}

/// Reads a time whose two further bits of seconds and whose nanoseconds are at `extra_at`.
fn time(raw: &[u8], at: usize, extra_at: usize) -> Time {
    let extra = if has_field(raw, extra_at, 4) { le32(raw, extra_at) } else { 0 };
    let seconds = i64::from(le32(raw, at).cast_signed()) + (i64::from(extra & 3) << 32);
    Time { seconds, nanoseconds: (extra >> 2).min(999_999_999) }
}

fn device(kind: Kind, block: &[u8]) -> Option<(u32, u32)> {
    if !matches!(kind, Kind::BlockDevice | Kind::CharDevice) {
        return None;
    }
    Some(match le32(block, 0) {
        0 => {
            let new = le32(block, 4);
            ((new & 0xF_FF00) >> 8, new & 0xFF | (new >> 12) & 0xF_FF00)
        }
        old => ((old >> 8) & 0xFF, old & 0xFF),
    })
}
