//! What must hold of a map entry for a pack of this format to have it.

use sprite_blockmap::{Codec, Entry};

use super::format::MAX_PACK_LEN;
use crate::block::BLOCK_LEN;

/// An entry that no pack of this format can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("map entry has {stored_len} bytes at {offset}, which no pack holds")]
pub struct EntryError {
    /// The offset found.
    pub offset: u32,
    /// The length found.
    pub stored_len: u32,
}

/// Checks what can be checked without the pack. The map allows more: room for the seals of a
/// later format.
///
/// # Errors
/// A length that its codec never has, or a place where no pack has blocks.
pub fn check_entry(entry: &Entry) -> Result<(), EntryError> {
    let (offset, stored_len) = (entry.offset(), entry.len());
    let fits = match entry.codec() {
        Codec::Raw => stored_len as usize == BLOCK_LEN,
        Codec::Zstd => 1 <= stored_len && (stored_len as usize) < BLOCK_LEN,
    };
    let end = u64::from(offset) + u64::from(stored_len);
    if !fits || end > MAX_PACK_LEN as u64 {
        return Err(EntryError { offset, stored_len });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sprite_blockmap::PackId;

    use super::*;

    fn entry(offset: u32, stored_len: u32, codec: Codec) -> Entry {
        Entry::new(PackId(7), offset, stored_len, codec, 0xdead_beef).unwrap()
    }

    /// These bytes are in every map.
    #[test]
    fn the_encoding_is_this_one() {
        let small = entry(0x0002_0304, 0x0506, Codec::Zstd);
        assert_eq!(small.to_bytes(), [7, 0, 0, 0, 4, 3, 2, 0, 6, 5, 0, 1, 0xef, 0xbe, 0xad, 0xde]);
        assert_eq!(Entry::from_bytes(&small.to_bytes()), Ok(small));
        assert_eq!(check_entry(&small), Ok(()));
    }

    #[test]
    fn entries_that_point_nowhere_are_refused() {
        assert!(Entry::from_bytes(&[0; 16]).is_err());
        let wrong = [
            (0x0102_0304, 0x0506, Codec::Zstd),
            (0, 65_536, Codec::Zstd),
            (0, 65_537, Codec::Zstd),
            (0, 65_535, Codec::Raw),
            (0, 65_537, Codec::Raw),
            (u32::MAX, 1, Codec::Zstd),
        ];
        for (offset, stored_len, codec) in wrong {
            let error = check_entry(&entry(offset, stored_len, codec)).unwrap_err();
            assert_eq!(error, EntryError { offset, stored_len });
        }
        let mut bytes = entry(0, 1, Codec::Zstd).to_bytes();
        bytes[11] = 9;
        assert!(Entry::from_bytes(&bytes).is_err(), "a codec that is not known");
        bytes[8..12].copy_from_slice(&[0, 0, 0, 1]);
        assert!(Entry::from_bytes(&bytes).is_err(), "no bytes");
    }
}
