//! Laws of the pack format: what went in comes out, and nothing else ever does.

use sprite_blockmap::{Codec, Entry, PackId};
use sprite_types::{BlockIndex, ErrorKind};

use super::*;
use crate::block::BLOCK_LEN;
use sprite_testkit::{Rng, seeds};

type Content = Box<[u8; BLOCK_LEN]>;

fn zeroes() -> Content {
    vec![0; BLOCK_LEN].try_into().expect("as long as a block")
}

/// A block that compresses well, a little, or not at all.
fn content(rng: &mut Rng) -> Content {
    let mut block = zeroes();
    match rng.below(4) {
        0 => rng.fill(&mut block[..]),
        1 => block.fill(rng.next().to_le_bytes()[0]),
        2 => {
            let at = rng.below(BLOCK_LEN);
            block[at] = 1;
        }
        _ => {
            let random = rng.below(BLOCK_LEN);
            rng.fill(&mut block[..random]);
        }
    }
    block
}

fn small_pack(rng: &mut Rng) -> (Vec<(BlockIndex, Content)>, Built) {
    let mut builder = Builder::new(HashKey::public());
    let mut blocks = Vec::new();
    for number in 0..1 + rng.below(6) {
        let block = BlockIndex(u32::try_from(number * 3).expect("small"));
        let content = content(rng);
        if builder.add(block, &content) == Added::Stored {
            blocks.push((block, content));
        }
    }
    let len = builder.len();
    let built = builder.finish();
    assert_eq!(built.bytes.len(), len);
    (blocks, built)
}

#[test]
fn blocks_come_out_as_they_went_in() {
    for seed in seeds(20) {
        let (blocks, built) = small_pack(&mut Rng::new(seed));
        let pack = Pack::open(&built.bytes, HashKey::public()).unwrap();
        let mut out = zeroes();
        for (at, (block, content)) in blocks.iter().enumerate() {
            assert_eq!(pack.read(at, &mut out), Ok(*block), "seed {seed}");
            assert_eq!(out, *content, "seed {seed}");
        }
        assert_eq!(pack.index().len(), blocks.len());
        for ((block, entry), (expected, content)) in built.entries(PackId(1)).zip(&blocks) {
            let entry = Entry::from_bytes(&entry.to_bytes()).unwrap();
            let range = entry.offset() as usize..(entry.offset() + entry.len()) as usize;
            assert_eq!(block, *expected);
            open_block(&entry, &built.bytes[range], &mut out).unwrap();
            assert_eq!(out, *content, "seed {seed}");
        }
    }
}

#[test]
fn zeroes_are_never_stored() {
    let mut builder = Builder::new(HashKey::public());
    assert_eq!(builder.add(BlockIndex(0), &zeroes()), Added::Zero);
    assert!(builder.is_empty());
}

/// Eight MiB is what a reader fetches at once; the last byte of it may be the trailer's.
#[test]
fn a_pack_is_full_before_it_is_too_long() {
    let mut rng = Rng::new(1);
    let mut builder = Builder::new(HashKey::public());
    let mut block = zeroes();
    rng.fill(&mut block[..]);
    let mut count = 0;
    while builder.add(BlockIndex(count), &block) == Added::Stored {
        count += 1;
    }
    assert_eq!(builder.count(), count as usize);
    let built = builder.finish();
    assert!(built.bytes.len() <= MAX_PACK_LEN);
    assert!(built.bytes.len() + BLOCK_LEN > MAX_PACK_LEN, "room was left for a block");
    Pack::open(&built.bytes, HashKey::public()).unwrap();
}

/// Flips bits, cuts, extends, and overwrites: a reader refuses, or hands out what went in.
#[test]
fn changed_bytes_are_noticed_and_never_panic() {
    for seed in seeds(150) {
        let mut rng = Rng::new(seed);
        let (blocks, built) = small_pack(&mut rng);
        let mut bytes = built.bytes.clone();
        let tail = bytes.len().min(500);
        let at = match rng.below(2) {
            0 => bytes.len() - 1 - rng.below(tail),
            _ => rng.below(bytes.len()),
        };
        match rng.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next().to_le_bytes()[0]),
            2 => {
                let end = (at + 64).min(bytes.len());
                rng.fill(&mut bytes[at..end]);
            }
            3 => drop(bytes.remove(at)),
            _ => bytes[at] ^= 1 << rng.below(8),
        }
        let mut out = zeroes();
        if let Ok(pack) = Pack::open(&bytes, HashKey::public()) {
            assert_eq!(pack.index().len(), blocks.len(), "seed {seed}");
            for (at, (expected, content)) in blocks.iter().enumerate() {
                match pack.read(at, &mut out) {
                    Ok(block) => assert_eq!((block, &out), (*expected, content)),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "seed {seed}");
                        assert!(crate::is_zero(&out[..]), "a part of a broken block was left");
                    }
                }
            }
        }
        for ((_, entry), (_, content)) in built.entries(PackId(1)).zip(&blocks) {
            let range = entry.offset() as usize..(entry.offset() + entry.len()) as usize;
            let Some(stored) = bytes.get(range) else { continue };
            if open_block(&entry, stored, &mut out).is_ok() {
                assert_eq!(&out, content, "seed {seed}");
            }
        }
    }
}

/// Bytes whose checksums somebody computed anew around nonsense.
#[test]
fn nonsense_with_good_checksums_never_panics() {
    use super::format::{INDEX_ENTRY_LEN, MAGIC, TRAILER_LEN};
    for seed in seeds(300) {
        let mut rng = Rng::new(seed);
        let (_, built) = small_pack(&mut rng);
        let mut bytes = built.bytes;
        let body = bytes.len() - TRAILER_LEN;
        let index = body - built.index.len() * INDEX_ENTRY_LEN;
        let at = index + rng.below(body + 56 - index);
        bytes[at] = rng.next().to_le_bytes()[0];
        let mut hashed = bytes[index..body].to_vec();
        hashed.extend_from_slice(&bytes[body..body + 56]);
        let hash = HashKey::public().index(&hashed);
        bytes[body + 56..body + 88].copy_from_slice(&hash);
        let sum = crc32c::crc32c(&bytes[body..body + 88]);
        bytes[body + 88..body + 92].copy_from_slice(&sum.to_le_bytes());
        assert!(bytes.ends_with(MAGIC));
        let mut out = zeroes();
        if let Ok(pack) = Pack::open(&bytes, HashKey::public()) {
            for at in 0..pack.index().len() {
                let _ = pack.read(at, &mut out);
            }
        }
        let mut entry = [0; Entry::LEN];
        rng.fill(&mut entry);
        entry[..4].copy_from_slice(&1u32.to_le_bytes());
        entry[7] = 0;
        entry[11] = 1;
        if let Ok(entry) = Entry::from_bytes(&entry) {
            let mut stored = vec![0; entry.len() as usize];
            rng.fill(&mut stored);
            let mut bytes = entry.to_bytes();
            bytes[12..].copy_from_slice(&crc32c::crc32c(&stored).to_le_bytes());
            let _ = open_block(&Entry::from_bytes(&bytes).unwrap(), &stored, &mut out);
        }
    }
}

/// A frame that promises more than a block must not be unpacked beyond one.
#[test]
fn a_frame_longer_than_a_block_is_refused() {
    let stored = zstd::bulk::compress(&vec![7; 100 << 20], 1).unwrap();
    let len = u32::try_from(stored.len()).unwrap();
    let entry = Entry::new(PackId(1), 0, len, Codec::Zstd, crc32c::crc32c(&stored)).unwrap();
    let error = open_block(&entry, &stored, &mut zeroes()).unwrap_err();
    assert_eq!(error, PackError::Block { what: "encoding" });
}

#[test]
fn another_volumes_key_opens_nothing() {
    let (_, built) = small_pack(&mut Rng::new(3));
    let error = Pack::open(&built.bytes, HashKey::new([1; 32])).unwrap_err();
    assert_eq!(error, PackError::Checksum { what: "index" });
}

#[test]
fn an_encrypted_pack_is_named_as_such() {
    use super::format::{Seal, TRAILER_LEN, Trailer};
    let seal = Seal { cipher: 1, key_id: [2; 16], nonce: [3; 24] };
    let trailer = Trailer { index_offset: 0, count: 0, seal, hash: [0; 32] };
    let bytes: [u8; TRAILER_LEN] = trailer.encode();
    let error = Pack::open(&bytes, HashKey::public()).unwrap_err();
    assert_eq!(error, PackError::Cipher { cipher: 1 });
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// The blocks of the golden file: bytes that do not shrink, text, and a single one.
fn golden_blocks() -> [(BlockIndex, Content); 3] {
    let (mut random, mut text, mut single) = (zeroes(), zeroes(), zeroes());
    Rng::new(2026).fill(&mut random[..]);
    for (byte, letter) in text.iter_mut().zip(b"a sprite keeps its disk; ".iter().cycle()) {
        *byte = *letter;
    }
    single[65_535] = 1;
    [(BlockIndex(5), random), (BlockIndex(1_638_399), text), (BlockIndex(0), single)]
}

/// What version 1 wrote is read for as long as there are versions.
#[test]
fn the_golden_pack_is_read() {
    let bytes = include_bytes!("../../tests/golden/pack-v1.pack");
    let pack = Pack::open(bytes, HashKey::public()).unwrap();
    let mut out = zeroes();
    for (at, (block, content)) in golden_blocks().into_iter().enumerate() {
        assert_eq!(pack.read(at, &mut out), Ok(block));
        assert_eq!(out, content);
    }
    let codecs: Vec<_> = pack.index().iter().map(|line| line.codec).collect();
    assert_eq!(codecs, [Codec::Raw, Codec::Zstd, Codec::Zstd]);
    // Another zstd may shrink differently; all the rest has to be the same bytes.
    let mut builder = Builder::new(HashKey::public());
    let [(block, content), ..] = golden_blocks();
    builder.add(block, &content);
    let built = builder.finish();
    assert_eq!(built.bytes[..BLOCK_LEN], bytes[..BLOCK_LEN]);
    assert_eq!(built.index[0], pack.index()[0]);
    let version_and_magic = |bytes: &[u8]| bytes[bytes.len() - 12..].to_vec();
    assert_eq!(version_and_magic(&built.bytes), version_and_magic(bytes));
}

#[test]
#[ignore = "writes tests/golden/pack-v1.pack, for a new version of the format only"]
fn write_the_golden_pack() {
    let mut builder = Builder::new(HashKey::public());
    for (block, content) in golden_blocks() {
        builder.add(block, &content);
    }
    std::fs::write("tests/golden/pack-v1.pack", builder.finish().bytes).unwrap();
}
