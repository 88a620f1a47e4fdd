//! Where the bytes of one block are.

use sprite_types::VolumeId;

use crate::error::BlockMapError;

/// Bytes in a block.
pub const BLOCK_LEN: usize = 64 << 10;
/// The most blocks a volume may have: 8 TiB, what three levels of nodes reach.
pub const BLOCKS_MAX: u32 = 1 << 27;
/// The most bytes a stored block takes: one that did not shrink, and its seal.
const STORED_MAX: u32 = BLOCK_LEN as u32 + 64;
/// The largest pack we accept. They are made of up to 8 MiB of blocks and a footer.
const PACK_BYTES_MAX: u32 = 64 << 20;
/// The longest key of a pack.
const KEY_LEN_MAX: usize = 512;

/// A pack, by its number in this map. Counted from 1 and never used twice in one map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackId(pub u32);

/// How the bytes of a block were made smaller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    /// Not at all.
    Raw = 0,
    /// With zstd.
    Zstd = 1,
}

impl Codec {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Where the bytes of one block are: 16 bytes in memory and in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pack: u32,
    offset: u32,
    /// Codec in the highest byte, stored length below.
    stored: u32,
    crc32c: u32,
}

impl Entry {
    /// Bytes of the encoded form.
    pub const LEN: usize = 16;

    /// Makes an entry for the `len` bytes at `offset` of `pack`. `crc32c` is of these bytes, as
    /// they are stored: it is checked before a decoder sees them.
    ///
    /// # Errors
    /// If `pack` is 0, or `len` is 0 or more than a block and its seal can take.
    pub fn new(
        pack: PackId,
        offset: u32,
        len: u32,
        codec: Codec,
        crc32c: u32,
    ) -> Result<Self, BlockMapError> {
        let entry = Self { pack: pack.0, offset, stored: len | (codec as u32) << 24, crc32c };
        if len > STORED_MAX {
            return Err(BlockMapError::invalid(format!("a stored block of {len} bytes")));
        }
        entry.check().map_err(BlockMapError::invalid)?;
        Ok(entry)
    }

    /// Returns which pack holds the block.
    #[must_use]
    pub fn pack(&self) -> PackId {
        PackId(self.pack)
    }

    /// Returns where its bytes begin in the pack.
    #[must_use]
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// Returns how many bytes it takes there; also the bytes after them may be another block's.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a stored block is never empty")]
    pub fn len(&self) -> u32 {
        self.stored & 0xff_ffff
    }

    /// Returns how these bytes become the block.
    #[must_use]
    pub fn codec(&self) -> Codec {
        // Nothing makes an entry without checking its codec.
        Codec::from_byte((self.stored >> 24) as u8).unwrap_or(Codec::Raw)
    }

    /// Returns the CRC-32C of the stored bytes.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Tells whether both are of the same stored bytes, wherever they are.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        (self.stored, self.crc32c) == (other.stored, other.crc32c)
    }

    /// Returns the offset after its last byte.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len())
    }

    /// Encodes it: pack, offset, length with the codec in its highest byte, checksum, each 32
    /// bits, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [self.pack, self.offset, self.stored, self.crc32c];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Decodes and checks it.
    ///
    /// # Errors
    /// If no entry has these bytes; the text says why.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, String> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let entry = Self { pack: word(0), offset: word(4), stored: word(8), crc32c: word(12) };
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), String> {
        if self.pack == 0 {
            return Err("an entry in pack 0".to_owned());
        }
        if self.len() == 0 || self.len() > STORED_MAX {
            return Err(format!("a stored block of {} bytes", self.len()));
        }
        match Codec::from_byte((self.stored >> 24) as u8) {
            Some(_) => Ok(()),
            None => Err(format!("unknown codec {}", self.stored >> 24)),
        }
    }
}

/// A pack that entries point into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pack {
    /// Its number in this map.
    pub id: PackId,
    /// The volume below whose prefix it lies: this one or an ancestor.
    pub owner: VolumeId,
    /// Where it lies there. Opaque to the map: 1 to 512 visible ASCII characters.
    pub key: String,
    /// Its size.
    pub bytes: u32,
}

impl Pack {
    pub(crate) fn check(&self) -> Result<(), String> {
        let id = self.id.0;
        if id == 0 {
            return Err("a pack with the number 0".to_owned());
        }
        if self.bytes == 0 || self.bytes > PACK_BYTES_MAX {
            return Err(format!("pack {id} of {} bytes", self.bytes));
        }
        let key = self.key.as_bytes();
        if key.is_empty() || key.len() > KEY_LEN_MAX || !key.iter().all(u8::is_ascii_graphic) {
            return Err(format!("pack {id} with a key that is not visible ASCII"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_sixteen_bytes_and_reads_back() {
        assert_eq!(size_of::<Entry>(), Entry::LEN);
        let entry = Entry::new(PackId(7), 4096, 65_552, Codec::Zstd, 0xdead_beef).unwrap();
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), Ok(entry));
        assert_eq!((entry.len(), entry.codec(), entry.end()), (65_552, Codec::Zstd, 69_648));
    }

    #[test]
    fn what_cannot_be_an_entry_is_refused() {
        let good = Entry::new(PackId(7), 4096, 100, Codec::Zstd, 1).unwrap().to_bytes();
        let mut no_pack = good;
        no_pack[..4].fill(0);
        let mut empty = good;
        empty[8] = 0;
        let mut codec = good;
        codec[11] = 9;
        for bytes in [no_pack, empty, codec] {
            Entry::from_bytes(&bytes).unwrap_err();
        }
        assert!(Entry::new(PackId(1), 0, 1 << 20, Codec::Raw, 0).is_err());
        assert!(Entry::new(PackId(1), 0, (1 << 24) | 5, Codec::Raw, 0).is_err());
    }
}
