//! Encode, decode, and bytes that are wrong.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use sprite_ltx::format::{Encoder, FormatError, Header, LtxFile, PageSize, WalSpan};
use sprite_types::{Generation, Timestamp, Txid};

use sprite_testkit::Rng;

use crate::for_each_seed;

type Pages = BTreeMap<u32, Vec<u8>>;

fn header(page_size: u32, commit: u32, min: u64, max: u64) -> Header {
    Header {
        page_size: PageSize::new(page_size).unwrap(),
        commit,
        min: Txid(min),
        max: Txid(max),
        time: Timestamp::from_micros(1_768_300_200_120_000),
        wal: None,
        generation: Generation(7),
    }
}

fn encode(header: Header, pages: &Pages) -> Bytes {
    let mut encoder = Encoder::new(header).unwrap();
    for (page, data) in pages {
        encoder.push(*page, data).unwrap();
    }
    encoder.finish().unwrap().bytes
}

fn decode(file: &LtxFile) -> Pages {
    let mut pages = Pages::new();
    file.each_page::<FormatError>(|page, data| {
        pages.insert(page, data.to_vec());
        Ok(())
    })
    .unwrap();
    pages
}

/// A snapshot of four pages of 512 bytes: zeroes, a ramp, text, noise.
fn golden_snapshot() -> (Header, Pages) {
    let ramp: Vec<u8> = (0..512).map(|i| i as u8).collect();
    let mut text = b"the newest version of each page ".repeat(16);
    text.truncate(512);
    let mut rng = Rng::new(0x9e37_79b9_7f4a_7c15);
    let noise = (0..64).flat_map(|_| rng.next().to_le_bytes()).collect();
    (header(512, 4, 1, 1), Pages::from([(1, vec![0; 512]), (2, ramp), (3, text), (4, noise)]))
}

/// One page of a transaction from a log.
fn golden_transaction() -> (Header, Pages) {
    let wal = WalSpan { offset: 32, size: 536, salts: [0x0102_0304, 0x0506_0708] };
    (Header { wal: Some(wal), ..header(512, 6, 9, 9) }, Pages::from([(6, vec![0xa5; 512])]))
}

// Not by their paths: clones that share a target folder share this program, too.
const GOLDEN_SNAPSHOT: &[u8] = include_bytes!("../golden/snapshot-v3.ltx");
const GOLDEN_TRANSACTION: &[u8] = include_bytes!("../golden/transaction-v3.ltx");

/// Files in buckets outlive every release. The bytes are compared too: if a new version of the
/// compressor packs differently, decoding must still hold and only this half is to be renewed.
#[test]
fn golden_files_stay_readable() {
    for (name, golden, (header, pages)) in [
        ("snapshot-v3.ltx", GOLDEN_SNAPSHOT, golden_snapshot()),
        ("transaction-v3.ltx", GOLDEN_TRANSACTION, golden_transaction()),
    ] {
        let bytes = encode(header, &pages);
        if std::env::var_os("SPRITES_WRITE_GOLDEN").is_some() {
            std::fs::write(Path::new("tests/golden").join(name), &bytes).unwrap();
        }
        let file = LtxFile::parse(Bytes::from_static(golden)).unwrap();
        assert_eq!(*file.header(), header, "{name}");
        assert_eq!(decode(&file), pages, "{name}");
        assert_eq!(Bytes::from_static(golden), bytes, "{name}");
    }
}

/// Writes down where every field lies, apart from the code that knows it.
#[test]
fn fields_lie_where_the_format_says() {
    let (header, pages) = golden_transaction();
    let bytes = encode(header, &pages);
    assert_eq!(&bytes[..8], b"LTX1\0\0\0\x02");
    assert_eq!(bytes[8..16], [0, 0, 2, 0, 0, 0, 0, 6]);
    assert_eq!(bytes[16..32], [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(u64::from_be_bytes(bytes[32..40].try_into().unwrap()), 1_768_300_200_120);
    assert_eq!(bytes[40..48], [0; 8]);
    assert_eq!(
        bytes[48..72],
        [0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 2, 24, 1, 2, 3, 4, 5, 6, 7, 8]
    );
    assert_eq!(bytes[72..80], [0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(bytes[80..100], [0; 20]);
    // One frame: page 6, flag 1, size; then the compressed page and six zeroes.
    assert_eq!(bytes[100..106], [0, 0, 0, 6, 0, 1]);
    let size = u32::from_be_bytes(bytes[106..110].try_into().unwrap()) as usize;
    let index = 110 + size + 6;
    assert_eq!(bytes[110 + size..index], [0; 6]);
    // Index: page, offset, length, end, and its own length; then 0 and the checksum.
    assert_eq!(bytes[index..index + 4], [6, 100, 10 + size as u8, 0]);
    assert_eq!(bytes[index + 4..index + 12], [0, 0, 0, 0, 0, 0, 0, 4]);
    assert_eq!(bytes[index + 12..index + 20], [0; 8]);
    assert_eq!(bytes.len(), index + 28);
    assert_eq!(bytes[index + 20] & 0x80, 0x80, "a checksum's top bit is set");
}

fn random_file(rng: &mut Rng) -> (Header, Pages) {
    let page_size = 512 << rng.below(8);
    let commit = 1 + rng.below(40) as u32;
    let min = 1 + rng.below(3);
    let max = min + rng.below(3);
    let mut header = header(page_size, commit, min, max);
    header.generation = Generation(rng.next());
    if rng.one_in(2) {
        header.wal = Some(WalSpan {
            offset: 1 + rng.below(1 << 40),
            size: rng.below(1 << 40),
            salts: [rng.next() as u32, rng.next() as u32],
        });
    }
    let mut pages = Pages::new();
    for page in 1..=commit {
        if min == 1 || rng.one_in(3) || (page == commit && pages.is_empty()) {
            pages.insert(page, rng.content(page_size as usize));
        }
    }
    (header, pages)
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for_each_seed(60, |mut rng| {
        let (header, pages) = random_file(&mut rng);
        let file = LtxFile::parse(encode(header, &pages)).unwrap();
        assert_eq!(*file.header(), header);
        assert_eq!(decode(&file), pages);
        assert!(pages.keys().all(|page| file.contains(*page)));
        assert_eq!(file.pages().len(), pages.len());
    });
}

/// A change anywhere is found, or harmless: a match in compressed zeroes may point at other
/// zeroes and still be the same page, which is what the checksum is about.
#[test]
fn any_changed_byte_is_found_or_harmless() {
    for (header, pages) in [golden_snapshot(), golden_transaction()] {
        let good = encode(header, &pages);
        for at in 0..good.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[at] ^= flip;
                if let Ok(file) = LtxFile::parse(bad.into()) {
                    assert_eq!(*file.header(), header, "byte {at} ^ {flip:#x}");
                    assert_eq!(decode(&file), pages, "byte {at} ^ {flip:#x}");
                }
            }
        }
    }
}

#[test]
fn a_file_cut_or_extended_anywhere_is_refused() {
    let (header, pages) = golden_snapshot();
    let good = encode(header, &pages);
    for len in 0..good.len() {
        assert!(LtxFile::parse(good.slice(..len)).is_err(), "{len} bytes were enough");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(LtxFile::parse(longer.into()).is_err());
}

#[test]
fn random_bytes_behind_a_good_header_never_panic() {
    for_each_seed(60, |mut rng| {
        let (header, pages) = random_file(&mut rng);
        let mut bytes = encode(header, &pages).to_vec();
        for _ in 0..rng.below(20) {
            let at = 100 + rng.below(bytes.len() as u64 - 100) as usize;
            bytes[at] = rng.next() as u8;
        }
        bytes.truncate(100 + rng.below(bytes.len() as u64 - 99) as usize);
        drop(LtxFile::parse(bytes.into()));
    });
}

#[test]
fn pages_that_no_file_may_hold_are_refused() {
    let mut encoder = Encoder::new(header(512, 4, 2, 2)).unwrap();
    assert!(matches!(encoder.push(5, &[0; 512]), Err(FormatError::Order { page: 5, .. })));
    assert!(matches!(encoder.push(0, &[0; 512]), Err(FormatError::Order { page: 0, .. })));
    encoder.push(3, &[0; 512]).unwrap();
    assert!(matches!(encoder.push(3, &[0; 512]), Err(FormatError::Order { before: 3, .. })));
    assert!(matches!(encoder.push(4, &[0; 511]), Err(FormatError::PageLength { .. })));

    // SQLite's lock page lies at 1 GiB.
    let lock = 0x4000_0000 / 65_536 + 1;
    let mut encoder = Encoder::new(header(65_536, lock + 1, 2, 2)).unwrap();
    assert!(encoder.push(lock, &vec![0; 65_536]).is_err());
    encoder.push(lock + 1, &vec![0; 65_536]).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn a_snapshot_with_a_hole_is_refused() {
    let mut encoder = Encoder::new(header(512, 3, 1, 4)).unwrap();
    encoder.push(1, &[0; 512]).unwrap();
    encoder.push(3, &[0; 512]).unwrap();
    let error = encoder.finish().unwrap_err();
    assert_eq!(error, FormatError::Incomplete { found: 2, expected: 3 });
    let empty = Encoder::new(header(512, 3, 2, 2)).unwrap();
    assert_eq!(empty.finish().unwrap_err(), FormatError::Empty);
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let good = header(4096, 3, 2, 5);
    let wal = |offset, size| Some(WalSpan { offset, size, salts: [1, 2] });
    for bad in [
        Header { commit: 0, ..good },
        Header { commit: u32::MAX, ..good },
        Header { min: Txid(0), ..good },
        Header { min: Txid(6), ..good },
        Header { time: Timestamp::from_micros(-1), ..good },
        Header { wal: wal(0, 1), ..good },
        Header { wal: wal(u64::MAX, 1), ..good },
        Header { wal: wal(32, u64::MAX), ..good },
    ] {
        assert!(matches!(Encoder::new(bad), Err(FormatError::Field { .. })), "{bad:?}");
    }
    assert!([0, 256, 513, 131_072].iter().all(|size| PageSize::new(*size).is_err()));
}
