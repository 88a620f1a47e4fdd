//! Writing a pack.

use sprite_blockmap::{Codec, Entry, PackId};
use sprite_types::BlockIndex;

use super::format::{
    HashKey, INDEX_ENTRY_LEN, IndexEntry, MAX_BLOCKS, MAX_PACK_LEN, Seal, TRAILER_LEN, Trailer,
};
use crate::block::{BLOCK_LEN, is_zero};

/// Level 1 is where a core still compresses half a gigabyte a second.
const LEVEL: i32 = 1;

/// Collects blocks into one pack.
pub struct Builder {
    key: HashKey,
    bytes: Vec<u8>,
    index: Vec<IndexEntry>,
    compressor: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

/// What became of a block that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is in.
    Stored,
    /// It is zeroes and needs neither bytes nor a map entry.
    Zero,
    /// There is no room left: finish this pack and offer the block to the next.
    Full,
}

/// A finished pack.
#[derive(Debug)]
pub struct Built {
    /// The object's bytes.
    pub bytes: Vec<u8>,
    /// What is in it, in the order it was added.
    pub index: Vec<IndexEntry>,
}

impl Built {
    /// Returns the map entries of this pack once the map has given it the number `pack`.
    ///
    /// # Panics
    /// If `pack` is 0, which no map gives out.
    pub fn entries(&self, pack: PackId) -> impl Iterator<Item = (BlockIndex, Entry)> + '_ {
        entries_of(&self.index, pack)
    }
}

/// Returns the map entries of a pack that a [`Builder`] made.
pub(crate) fn entries_of(
    index: &[IndexEntry],
    pack: PackId,
) -> impl Iterator<Item = (BlockIndex, Entry)> + '_ {
    index.iter().map(move |line| {
        let &IndexEntry { block, offset, stored_len, codec, crc32c, .. } = line;
        let entry = Entry::new(pack, offset, stored_len, codec, crc32c);
        (block, entry.expect("a builder stores 1 to 65,536 bytes"))
    })
}

impl Builder {
    /// Starts an empty pack.
    ///
    /// # Panics
    /// If the compressor cannot allocate its state.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        let compressor = zstd::bulk::Compressor::new(LEVEL).expect("level 1 exists");
        let scratch = vec![0; zstd::zstd_safe::compress_bound(BLOCK_LEN)];
        Self { key, bytes: Vec::new(), index: Vec::new(), compressor, scratch }
    }

    /// Adds a block, which is not in this pack yet.
    pub fn add(&mut self, block: BlockIndex, content: &[u8; BLOCK_LEN]) -> Added {
        debug_assert!(self.index.iter().all(|line| line.block != block), "block {block} twice");
        if is_zero(content) {
            return Added::Zero;
        }
        // A compressor that fails only costs the compression.
        let compressed = self.compressor.compress_to_buffer(content, &mut self.scratch[..]);
        let (codec, stored) = match compressed {
            Ok(len) if len < BLOCK_LEN => (Codec::Zstd, &self.scratch[..len]),
            _ => (Codec::Raw, &content[..]),
        };
        let overhead = (self.index.len() + 1) * INDEX_ENTRY_LEN + TRAILER_LEN;
        let len = self.bytes.len() + stored.len() + overhead;
        if len > MAX_PACK_LEN || self.index.len() == MAX_BLOCKS {
            return Added::Full;
        }
        self.index.push(IndexEntry {
            block,
            offset: u32::try_from(self.bytes.len()).expect("a pack is far below 4 GiB"),
            stored_len: u32::try_from(stored.len()).expect("a block is far below 4 GiB"),
            codec,
            crc32c: crc32c::crc32c(stored),
            hash: self.key.block(block, content),
        });
        self.bytes.extend_from_slice(stored);
        Added::Stored
    }

    /// Returns how many blocks are in.
    #[must_use]
    pub fn count(&self) -> usize {
        self.index.len()
    }

    /// Returns the bytes the pack would have if it were finished now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.index.len() * INDEX_ENTRY_LEN + TRAILER_LEN
    }

    /// Tells whether nothing is in: such a pack is not worth an object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Writes index and trailer.
    #[must_use]
    pub fn finish(mut self) -> Built {
        let index_offset = self.bytes.len();
        for line in &self.index {
            line.encode(&mut self.bytes);
        }
        let mut trailer = Trailer {
            index_offset: u32::try_from(index_offset).expect("a pack is far below 4 GiB"),
            count: u32::try_from(self.index.len()).expect("blocks are counted to 16,384"),
            seal: Seal::NONE,
            hash: [0; 32],
        };
        let mut hashed = self.bytes[index_offset..].to_vec();
        hashed.extend_from_slice(&trailer.encode_hashed());
        trailer.hash = self.key.index(&hashed);
        self.bytes.extend_from_slice(&trailer.encode());
        Built { bytes: self.bytes, index: self.index }
    }
}
