//! Map entries: where the map says a block is.

use super::format::MAX_PACK_LEN;
use crate::block::BLOCK_LEN;

/// Bytes of an encoded entry.
pub const ENTRY_LEN: usize = 16;

/// How a stored block is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Where a block is stored: all that a read needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapEntry {
    /// The pack, by its number in the map's table of packs; 0 is no pack.
    pub pack: u32,
    /// Byte offset of the stored block from the start of the pack.
    pub offset: u32,
    /// Bytes stored, 1 to 65,536.
    pub stored_len: u32,
    /// How they are encoded.
    pub codec: Codec,
    /// CRC-32C of the bytes as stored, so that it tells nothing about an encrypted block and is
    /// checked before a decoder sees them.
    pub crc32c: u32,
}

/// Sixteen bytes that are no map entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Pack number 0.
    #[error("map entry names no pack")]
    NoPack,
    /// A codec this release does not know.
    #[error("map entry has unknown codec {codec}")]
    Codec {
        /// The number found.
        codec: u8,
    },
    /// The stored bytes cannot lie where it says.
    #[error("map entry has {stored_len} bytes at {offset}, which no pack holds")]
    Range {
        /// The offset found.
        offset: u32,
        /// The length found.
        stored_len: u32,
    },
}

impl MapEntry {
    /// Checks what can be checked without the pack.
    ///
    /// # Errors
    /// Says which field no pack could have.
    pub fn check(&self) -> Result<(), EntryError> {
        if self.pack == 0 {
            return Err(EntryError::NoPack);
        }
        let (offset, stored_len) = (self.offset, self.stored_len);
        let fits = match self.codec {
            Codec::Raw => stored_len as usize == BLOCK_LEN,
            Codec::Zstd => 1 <= stored_len && (stored_len as usize) < BLOCK_LEN,
        };
        let end = u64::from(offset) + u64::from(stored_len);
        if !fits || end > MAX_PACK_LEN as u64 {
            return Err(EntryError::Range { offset, stored_len });
        }
        Ok(())
    }

    /// Encodes it: pack, offset, length with the codec in its highest byte, checksum, each 32 bits,
    /// little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let length = self.stored_len & 0x00ff_ffff | u32::from(self.codec.to_byte()) << 24;
        let mut bytes = [0; ENTRY_LEN];
        for (to, word) in
            bytes.as_chunks_mut().0.iter_mut().zip([self.pack, self.offset, length, self.crc32c])
        {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// Decodes and checks it.
    ///
    /// # Errors
    /// Bytes that no [`MapEntry::to_bytes`] of a valid entry returns.
    pub fn from_bytes(bytes: &[u8; ENTRY_LEN]) -> Result<Self, EntryError> {
        let mut words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
        let mut word = || words.next().expect("sixteen bytes are four words");
        let (pack, offset, length, crc32c) = (word(), word(), word(), word());
        let [.., codec] = length.to_le_bytes();
        let codec = Codec::from_byte(codec).ok_or(EntryError::Codec { codec })?;
        let entry = Self { pack, offset, stored_len: length & 0x00ff_ffff, codec, crc32c };
        entry.check()?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: MapEntry = MapEntry {
        pack: 7,
        offset: 0x0102_0304,
        stored_len: 0x0506,
        codec: Codec::Zstd,
        crc32c: 0xdead_beef,
    };

    #[test]
    fn the_encoding_is_this_one() {
        let small = MapEntry { offset: 0x0002_0304, ..ENTRY };
        assert_eq!(small.to_bytes(), [7, 0, 0, 0, 4, 3, 2, 0, 6, 5, 0, 1, 0xef, 0xbe, 0xad, 0xde]);
        assert_eq!(MapEntry::from_bytes(&small.to_bytes()), Ok(small));
    }

    #[test]
    fn entries_that_point_nowhere_are_refused() {
        let range = |entry: MapEntry| EntryError::Range {
            offset: entry.offset,
            stored_len: entry.stored_len,
        };
        assert_eq!(MapEntry::from_bytes(&[0; 16]), Err(EntryError::NoPack));
        let beyond = ENTRY;
        assert_eq!(MapEntry::from_bytes(&beyond.to_bytes()), Err(range(beyond)));
        for stored_len in [0, 65_536, 65_537] {
            let entry = MapEntry { offset: 0, stored_len, ..ENTRY };
            assert_eq!(MapEntry::from_bytes(&entry.to_bytes()), Err(range(entry)));
        }
        let mut bytes = MapEntry { offset: 0, ..ENTRY }.to_bytes();
        bytes[11] = 9;
        assert_eq!(MapEntry::from_bytes(&bytes), Err(EntryError::Codec { codec: 9 }));
    }
}
