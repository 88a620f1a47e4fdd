//! The encoded form of a delta.
//!
//! Little-endian: a version byte and three zero bytes; the number of entries and of zero ranges
//! as 32-bit words; the entries as block and 16 bytes, by block, in planes; the ranges as start
//! and count, by start. Nothing overlaps or meets, so that there is one form for each delta. The CRC-32 in
//! the column beside it covers the epoch's number and these bytes.

use sprite_types::Epoch;

use crate::delta::{Change, Delta};
use crate::entry::Entry;
use crate::error::Corrupt;
use crate::packs::PackSizes;
use crate::planes;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 12;
const ENTRY_LEN: usize = 4 + Entry::LEN;
const RANGE_LEN: usize = 8;

/// A delta as it is stored.
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    /// Entries and ranges.
    pub(crate) changes: u32,
}

/// Returns the checksum of the bytes as the delta of `epoch`.
pub(crate) fn checksum(epoch: Epoch, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&epoch.0.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Returns how many bytes the delta takes.
pub(crate) fn len(delta: &Delta) -> usize {
    HEADER_LEN + delta.entries().count() * ENTRY_LEN + delta.zero_ranges().len() * RANGE_LEN
}

pub(crate) fn encode(delta: &Delta) -> Blob {
    let ranges = delta.zero_ranges();
    let mut bytes = vec![0; HEADER_LEN];
    let mut elements = Vec::new();
    for (block, entry) in delta.entries() {
        elements.extend_from_slice(&block.to_le_bytes());
        elements.extend_from_slice(&entry.to_bytes());
    }
    let entries = (elements.len() / ENTRY_LEN) as u32;
    bytes.extend(planes::split(&elements, ENTRY_LEN));
    for (start, count) in &ranges {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    bytes[0] = VERSION;
    bytes[4..8].copy_from_slice(&entries.to_le_bytes());
    bytes[8..12].copy_from_slice(&(ranges.len() as u32).to_le_bytes());
    Blob { bytes, changes: entries + ranges.len() as u32 }
}

/// Hands each change to `each`, after checking that the blob is one of a disk of `blocks`
/// blocks and points into packs that are there. A delta that fails halfway must be dropped.
pub(crate) fn decode(
    epoch: Epoch,
    bytes: &[u8],
    expected: u32,
    blocks: u32,
    packs: &PackSizes,
    mut each: impl FnMut(Change),
) -> Result<(), Corrupt> {
    let damaged = |reason: String| Corrupt::new(format!("its delta has {reason}")).at(epoch);
    if checksum(epoch, bytes) != expected {
        return Err(damaged("another checksum".to_owned()));
    }
    let (header, body) = bytes
        .split_first_chunk::<HEADER_LEN>()
        .ok_or_else(|| damaged(format!("only {} bytes", bytes.len())))?;
    if header[..4] != [VERSION, 0, 0, 0] {
        return Err(damaged(format!("the unknown version {:?}", &header[..4])));
    }
    let entries = word(header, 4) as usize;
    let ranges = word(header, 8) as usize;
    // Both counts are below 2^32 and their elements small: no overflow in 64 bits.
    let entries_len = entries * ENTRY_LEN;
    if entries_len + ranges * RANGE_LEN != body.len() {
        return Err(damaged(format!(
            "{} bytes for {entries} entries and {ranges} ranges",
            body.len()
        )));
    }
    let (entries, ranges) = body.split_at(entries_len);
    let ranges: Vec<(u32, u32)> =
        ranges.chunks_exact(RANGE_LEN).map(|range| (word(range, 0), word(range, 4))).collect();
    let mut end = None;
    for &(start, count) in &ranges {
        // Ranges that meet would be one range.
        let ordered = end.is_none_or(|end| end < u64::from(start));
        let range_end = u64::from(start) + u64::from(count);
        if count == 0 || !ordered || range_end > u64::from(blocks) {
            return Err(damaged(format!("a range of {count} blocks out of place")).block(start));
        }
        end = Some(range_end);
        each(Change::Zero { start, count });
    }
    let mut ranges = ranges.into_iter().peekable();
    let mut previous = None;
    for element in planes::join::<ENTRY_LEN>(entries) {
        let block = word(&element, 0);
        let damaged = |reason: String| damaged(reason).block(block);
        if block >= blocks || previous.is_some_and(|previous| previous >= block) {
            return Err(damaged("an entry out of place".to_owned()));
        }
        while ranges.next_if(|(start, count)| start + count <= block).is_some() {}
        if ranges.peek().is_some_and(|(start, _)| *start <= block) {
            return Err(damaged("an entry inside a range of zeroes".to_owned()));
        }
        let bytes = element.last_chunk().expect("an entry follows its block's number");
        let entry = Entry::from_bytes(bytes).map_err(damaged)?;
        packs.check(&entry).map_err(damaged)?;
        previous = Some(block);
        each(Change::Set(block, entry));
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use sprite_types::BlockIndex;

    use super::*;
    use crate::entry::{Codec, PackId};

    const BLOCKS: u32 = 5000;
    const EPOCH: Epoch = Epoch(9);

    fn sample() -> Delta {
        let mut delta = Delta::new();
        for block in [3, 4, 700] {
            let entry = Entry::new(PackId(2), block * 100, 100, Codec::Zstd, 0x0102_0304).unwrap();
            delta.set(BlockIndex(block), entry);
        }
        delta.zero(BlockIndex(5), 600);
        delta.zero(BlockIndex(4999), 1);
        delta
    }

    fn packs() -> PackSizes {
        let mut packs = PackSizes::default();
        packs.insert(PackId(2), 100_000);
        packs
    }

    fn read(bytes: &[u8]) -> Result<Delta, Corrupt> {
        let mut delta = Delta::new();
        decode(EPOCH, bytes, checksum(EPOCH, bytes), BLOCKS, &packs(), |change| {
            delta.apply_change(change);
        })?;
        Ok(delta)
    }

    #[test]
    fn a_delta_reads_back() {
        let blob = encode(&sample());
        assert_eq!((blob.changes, blob.bytes.len()), (5, 12 + 3 * 20 + 2 * 8));
        assert_eq!(len(&sample()), blob.bytes.len());
        assert_eq!(read(&blob.bytes), Ok(sample()));
        assert_eq!(read(&encode(&Delta::new()).bytes), Ok(Delta::new()));
    }

    /// The format is a promise: these bytes must be readable by every later release.
    #[test]
    fn the_format_stays_what_it_was() {
        let mut delta = Delta::new();
        for (block, crc32c) in [(3, 0x0102_0304), (0x0400, 0x1112_1314)] {
            let entry = Entry::new(PackId(2), 0x1000, 0x200, Codec::Zstd, crc32c).unwrap();
            delta.set(BlockIndex(block), entry);
        }
        delta.zero(BlockIndex(5), 6);
        let golden = [
            1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, // header
            3, 0, 0, 4, 0, 0, 0, 0, // blocks 0x3 and 0x400
            2, 2, 0, 0, 0, 0, 0, 0, // packs
            0, 0, 0x10, 0x10, 0, 0, 0, 0, // offsets
            0, 0, 2, 2, 0, 0, 1, 1, // lengths and codecs
            4, 0x14, 3, 0x13, 2, 0x12, 1, 0x11, // checksums
            5, 0, 0, 0, 6, 0, 0, 0, // range
        ];
        assert_eq!(encode(&delta).bytes, golden);
        assert_eq!(checksum(Epoch(9), &golden), 0xd7b6_1726);
    }

    #[test]
    fn the_checksum_knows_the_epoch() {
        let blob = encode(&sample());
        let sum = checksum(EPOCH, &blob.bytes);
        let error = decode(Epoch(10), &blob.bytes, sum, BLOCKS, &packs(), |_| {}).unwrap_err();
        assert_eq!(error.epoch, Some(Epoch(10)));
    }

    /// Even with a matching checksum nothing but the one form of a delta is accepted: whatever
    /// byte is changed, the result is an error or encodes to exactly these bytes.
    #[test]
    fn every_changed_byte_is_noticed_or_harmless() {
        let bytes = encode(&sample()).bytes;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                if let Ok(delta) = read(&changed) {
                    assert_eq!(encode(&delta).bytes, changed, "byte {at}, bit {bit}");
                }
            }
        }
        for len in 0..bytes.len() {
            read(&bytes[..len]).unwrap_err();
        }
    }

    #[test]
    fn an_error_names_the_block() {
        let mut bytes = encode(&sample()).bytes;
        // The lowest byte of the pack in the second of three entries.
        bytes[12 + 4 * 3 + 1] = 77;
        let error = read(&bytes).unwrap_err();
        assert_eq!((error.epoch, error.block), (Some(EPOCH), Some(BlockIndex(4))));
        assert_eq!(
            error.to_string(),
            "epoch 9, block 4, its delta has an entry in pack 77, which is unknown"
        );
    }
}
