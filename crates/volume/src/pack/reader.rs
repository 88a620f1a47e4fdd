//! Reading packs, whole or one block at a time. Every byte is somebody else's until checked.

use sprite_blockmap::{Codec, Entry};
use sprite_types::{BlockIndex, ErrorKind};

use super::entry::{EntryError, check_entry};
use super::format::{
    HashKey, INDEX_ENTRY_LEN, IndexEntry, MAGIC, MAX_BLOCKS, MAX_PACK_LEN, Seal, TRAILER_LEN,
    Trailer, VERSION,
};
use crate::block::BLOCK_LEN;

/// Why bytes are no pack, or not the block that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Too short, too long, or without the magic at its end.
    #[error("{len} bytes are not a pack")]
    NotAPack {
        /// How many bytes there are.
        len: usize,
    },
    /// A newer release wrote it.
    #[error("pack has version {found}, this release reads {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Its blocks are encrypted with something this release does not know.
    #[error("pack is encrypted with cipher {cipher}, which this release does not know")]
    Cipher {
        /// The number found.
        cipher: u8,
    },
    /// A checksum does not match: the bytes were changed, or the key is another volume's.
    #[error("pack {what} does not match its checksum")]
    Checksum {
        /// Which bytes.
        what: &'static str,
    },
    /// Fields contradict each other although their checksum matches.
    #[error("pack index is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A block's bytes are not the ones that its entry names.
    #[error("block does not match its entry: {what}")]
    Block {
        /// What differs.
        what: &'static str,
    },
    /// The entry itself cannot be right.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

impl PackError {
    /// Says what the caller should do: read another copy or an older state, or update.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. } | Self::Cipher { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// Checks the stored bytes that a map entry points at and decodes them into `content`.
///
/// `stored` is exactly the range of the pack that the entry names.
///
/// # Errors
/// Bytes that are not what was stored; `content` is then zeroes, never a part of a block.
pub fn open_block(
    entry: &Entry,
    stored: &[u8],
    content: &mut [u8; BLOCK_LEN],
) -> Result<(), PackError> {
    let result = check_entry(entry)
        .map_err(PackError::from)
        .and_then(|()| decode(entry.codec(), entry.len(), entry.crc32c(), stored, content));
    if result.is_err() {
        content.fill(0);
    }
    result
}

fn decode(
    codec: Codec,
    stored_len: u32,
    crc32c: u32,
    stored: &[u8],
    content: &mut [u8; BLOCK_LEN],
) -> Result<(), PackError> {
    if stored.len() != stored_len as usize {
        return Err(PackError::Block { what: "length" });
    }
    if crc32c::crc32c(stored) != crc32c {
        return Err(PackError::Block { what: "checksum" });
    }
    let len = match codec {
        Codec::Raw if stored.len() == BLOCK_LEN => {
            content.copy_from_slice(stored);
            BLOCK_LEN
        }
        Codec::Raw => 0,
        Codec::Zstd => zstd::bulk::decompress_to_buffer(stored, &mut content[..]).unwrap_or(0),
    };
    if len == BLOCK_LEN { Ok(()) } else { Err(PackError::Block { what: "encoding" }) }
}

/// A whole pack whose index has been checked.
#[derive(Debug)]
pub struct Pack<'a> {
    bytes: &'a [u8],
    key: HashKey,
    index: Vec<IndexEntry>,
}

impl<'a> Pack<'a> {
    /// Checks trailer and index; blocks are checked as they are read.
    ///
    /// # Errors
    /// Bytes that are not a pack, or one that this release or this key cannot read.
    pub fn open(bytes: &'a [u8], key: HashKey) -> Result<Self, PackError> {
        let len = bytes.len();
        let not_a_pack = PackError::NotAPack { len };
        if len > MAX_PACK_LEN {
            return Err(not_a_pack);
        }
        let Some((body, tail)) = bytes.split_last_chunk::<TRAILER_LEN>() else {
            return Err(not_a_pack);
        };
        let trailer = read_trailer(tail, len)?;
        let index_offset = trailer.index_offset as usize;
        let count = trailer.count as usize;
        if count > MAX_BLOCKS || index_offset + count * INDEX_ENTRY_LEN != body.len() {
            return Err(PackError::Malformed { what: "index and file differ in length" });
        }
        let (blocks, index_bytes) = body.split_at(index_offset);
        let mut hashed = index_bytes.to_vec();
        hashed.extend_from_slice(&trailer.encode_hashed());
        if key.index(&hashed) != trailer.hash {
            return Err(PackError::Checksum { what: "index" });
        }
        let lines = index_bytes.as_chunks::<INDEX_ENTRY_LEN>().0;
        let mut index = Vec::with_capacity(count);
        for line in lines {
            let line = IndexEntry::decode(line)
                .ok_or(PackError::Malformed { what: "an entry's codec is not known" })?;
            let end = u64::from(line.offset) + u64::from(line.stored_len);
            if end > blocks.len() as u64 || line.stored_len as usize > BLOCK_LEN {
                return Err(PackError::Malformed { what: "an entry lies outside of the blocks" });
            }
            index.push(line);
        }
        Ok(Self { bytes: blocks, key, index })
    }

    /// Returns what is in it, in the order of the index.
    #[must_use]
    pub fn index(&self) -> &[IndexEntry] {
        &self.index
    }

    /// Reads the block at position `at` of the index and compares its keyed hash.
    ///
    /// # Errors
    /// Bytes that are not what was stored; `content` is then zeroes.
    ///
    /// # Panics
    /// If `at` is not a position of the index.
    pub fn read(&self, at: usize, content: &mut [u8; BLOCK_LEN]) -> Result<BlockIndex, PackError> {
        let line = &self.index[at];
        let start = line.offset as usize;
        let stored = &self.bytes[start..start + line.stored_len as usize];
        let result =
            decode(line.codec, line.stored_len, line.crc32c, stored, content).and_then(|()| {
                let hash = self.key.block(line.block, content);
                if hash == line.hash {
                    Ok(line.block)
                } else {
                    Err(PackError::Block { what: "hash" })
                }
            });
        if result.is_err() {
            content.fill(0);
        }
        result
    }
}

fn read_trailer(tail: &[u8; TRAILER_LEN], len: usize) -> Result<Trailer, PackError> {
    let word = |at: usize| u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    if &tail[96..] != MAGIC {
        return Err(PackError::NotAPack { len });
    }
    let version = u16::from_le_bytes([tail[94], tail[95]]);
    if version != VERSION {
        return Err(PackError::Version { found: version });
    }
    if crc32c::crc32c(&tail[..88]) != word(88) {
        return Err(PackError::Checksum { what: "trailer" });
    }
    let (mut key_id, mut nonce, mut hash) = ([0; 16], [0; 24], [0; 32]);
    key_id.copy_from_slice(&tail[16..32]);
    nonce.copy_from_slice(&tail[32..56]);
    hash.copy_from_slice(&tail[56..88]);
    let seal = Seal { cipher: tail[8], key_id, nonce };
    if seal.cipher != 0 {
        return Err(PackError::Cipher { cipher: seal.cipher });
    }
    if seal != Seal::NONE || tail[9..16] != [0; 7] || tail[92..94] != [0; 2] {
        return Err(PackError::Malformed { what: "reserved bytes are not zero" });
    }
    Ok(Trailer { index_offset: word(0), count: word(4), seal, hash })
}
