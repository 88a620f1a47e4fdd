//! The bytes of a pack's index and trailer.

use sprite_blockmap::Codec;
use sprite_types::BlockIndex;

/// Bytes of the longest pack, index and trailer included.
pub const MAX_PACK_LEN: usize = 8 << 20;

/// Blocks in one pack at most: one GiB of content, whatever it compresses to.
pub const MAX_BLOCKS: usize = 16_384;

pub(super) const INDEX_ENTRY_LEN: usize = 52;
pub(super) const TRAILER_LEN: usize = 104;
pub(super) const MAGIC: &[u8; 8] = b"SPRTPACK";
pub(super) const VERSION: u16 = 1;

/// The key of a pack's hashes. Without the volume's key, hashes tell nothing about content.
#[derive(Clone)]
pub struct HashKey([u8; 32]);

impl HashKey {
    /// Uses a key that is kept elsewhere.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns the key of volumes that have none of their own: everybody knows it, so it finds
    /// damage, not forgery.
    #[must_use]
    pub fn public() -> Self {
        Self(blake3::derive_key("sprites 2026 pack v1 hash key of volumes without a key", &[]))
    }

    pub(super) fn block(&self, index: BlockIndex, content: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"block").update(&index.0.to_le_bytes()).update(content);
        *hasher.finalize().as_bytes()
    }

    pub(super) fn index(&self, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"index").update(bytes);
        *hasher.finalize().as_bytes()
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// How a pack's blocks are encrypted. This release writes and reads only [`Seal::NONE`]; the
/// fields are there so that a later one can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Which cipher; 0 is none.
    pub cipher: u8,
    /// Which key, without telling it.
    pub key_id: [u8; 16],
    /// What makes the key of this pack different from that of another.
    pub nonce: [u8; 24],
}

impl Seal {
    /// Not encrypted.
    pub const NONE: Self = Self { cipher: 0, key_id: [0; 16], nonce: [0; 24] };
}

/// One line of a pack's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Which block of the volume.
    pub block: BlockIndex,
    /// Byte offset of the stored block from the start of the pack.
    pub offset: u32,
    /// Bytes stored.
    pub stored_len: u32,
    /// How they are encoded.
    pub codec: Codec,
    /// CRC-32C of the bytes as stored.
    pub crc32c: u32,
    /// Keyed hash of the block's number and its 65,536 bytes.
    pub hash: [u8; 32],
}

impl IndexEntry {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.block.0.to_le_bytes());
        to.extend_from_slice(&self.offset.to_le_bytes());
        to.extend_from_slice(&self.stored_len.to_le_bytes());
        to.extend_from_slice(&(self.codec as u32).to_le_bytes());
        to.extend_from_slice(&self.crc32c.to_le_bytes());
        to.extend_from_slice(&self.hash);
    }

    /// Returns nothing for a codec that is not known or reserved bytes that are not zero.
    pub(super) fn decode(bytes: &[u8; INDEX_ENTRY_LEN]) -> Option<Self> {
        let (words, hash) = bytes.split_first_chunk::<20>().expect("an entry has 52 bytes");
        let words: [u32; 5] = std::array::from_fn(|i| u32::from_le_bytes(words.as_chunks().0[i]));
        let [block, offset, stored_len, codec, crc32c] = words;
        let codec = match codec {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return None,
        };
        let hash = hash.try_into().expect("the rest of an entry is its hash");
        Some(Self { block: BlockIndex(block), offset, stored_len, codec, crc32c, hash })
    }
}

/// The last bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) index_offset: u32,
    pub(super) count: u32,
    pub(super) seal: Seal,
    /// Keyed hash of the index and of the trailer before this field.
    pub(super) hash: [u8; 32],
}

impl Trailer {
    /// Encodes everything up to the hash.
    pub(super) fn encode_hashed(&self) -> [u8; 56] {
        let mut bytes = [0; 56];
        bytes[0..4].copy_from_slice(&self.index_offset.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8] = self.seal.cipher;
        bytes[16..32].copy_from_slice(&self.seal.key_id);
        bytes[32..56].copy_from_slice(&self.seal.nonce);
        bytes
    }

    pub(super) fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[..56].copy_from_slice(&self.encode_hashed());
        bytes[56..88].copy_from_slice(&self.hash);
        let sum = crc32c::crc32c(&bytes[..88]);
        bytes[88..92].copy_from_slice(&sum.to_le_bytes());
        bytes[94..96].copy_from_slice(&VERSION.to_le_bytes());
        bytes[96..].copy_from_slice(MAGIC);
        bytes
    }
}
