//! Reads SQLite's write-ahead log.
//!
//! **Source**: SQLite file format, section 4, *The Write-Ahead Log*.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::files::read_up_to;
use crate::format::PageSize;

/// Bytes of the log's header.
pub(crate) const WAL_HEADER_LEN: u64 = 32;
/// Bytes before each page.
const FRAME_HEADER_LEN: usize = 24;
/// Low bit set: checksums are computed over big-endian words.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;
/// Bytes read at once while frames are looked at.
const READ_LEN: usize = 1 << 20;

/// A place in a log: right behind a transaction, or behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalPosition {
    /// The salts of the log; a log that begins anew has others.
    pub salts: [u32; 2],
    /// How often this log began anew since it was made.
    pub sequence: u32,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// The running checksum of everything before.
    checksum: [u32; 2],
}

/// A log's header, found to be whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalHeader {
    pub(crate) page_size: PageSize,
    big_endian: bool,
    /// The position before the first frame.
    pub(crate) start: WalPosition,
}

impl WalHeader {
    /// Reads the header. `None` if SQLite would take the log for empty.
    pub(crate) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; WAL_HEADER_LEN as usize];
        if read_up_to(file, &mut bytes, 0)? < bytes.len() {
            return Ok(None);
        }
        let word = |at: usize| be_u32(&bytes[at..]);
        let big_endian = word(0) == MAGIC | 1;
        let checksum = sum(big_endian, [0; 2], &bytes[..24]);
        let page_size = PageSize::new(word(8));
        let whole = (big_endian || word(0) == MAGIC)
            && word(4) == VERSION
            && checksum == [word(24), word(28)];
        let (true, Ok(page_size)) = (whole, page_size) else { return Ok(None) };
        let start = WalPosition {
            salts: [word(16), word(20)],
            sequence: word(12),
            offset: WAL_HEADER_LEN,
            checksum,
        };
        Ok(Some(Self { page_size, big_endian, start }))
    }
}

/// Transactions found in a log.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Behind the last whole transaction; where the scan began if there is none.
    pub(crate) end: WalPosition,
    /// Pages of the database after the last whole transaction; `None` if there is none.
    pub(crate) commit: Option<u32>,
    /// For each page in those transactions, the offset of its newest content in the log.
    pub(crate) pages: HashMap<u32, u64>,
}

/// Reads whole transactions from `from` on. Ends at the first frame that is torn, belongs to an
/// older log, or fails its checksum: what SQLite would not recover does not exist.
pub(crate) fn scan(file: &File, header: &WalHeader, from: WalPosition) -> io::Result<Scan> {
    scan_until(file, header, from, u64::MAX)
}

/// As [`scan`], but does not look at what lies behind `limit`.
pub(crate) fn scan_until(
    file: &File,
    header: &WalHeader,
    from: WalPosition,
    limit: u64,
) -> io::Result<Scan> {
    let frame_len = FRAME_HEADER_LEN + header.page_size.bytes();
    let mut buffer = vec![0; (READ_LEN / frame_len).max(1) * frame_len];
    let mut scan = Scan { end: from, commit: None, pages: HashMap::new() };
    // Of the transaction that is being read, until its end is seen.
    let mut open: Vec<(u32, u64)> = Vec::new();
    let mut at = from;
    loop {
        let read = read_up_to(file, &mut buffer, at.offset)?;
        for frame in buffer[..read].chunks_exact(frame_len) {
            let (head, data) = frame.split_at(FRAME_HEADER_LEN);
            let page = be_u32(head);
            let salts = [be_u32(&head[8..]), be_u32(&head[12..])];
            let checksum = sum(header.big_endian, at.checksum, &head[..8]);
            let checksum = sum(header.big_endian, checksum, data);
            let stored = [be_u32(&head[16..]), be_u32(&head[20..])];
            let valid = page != 0 && salts == header.start.salts && checksum == stored;
            if !valid || at.offset >= limit {
                return Ok(scan);
            }
            open.push((page, at.offset + FRAME_HEADER_LEN as u64));
            at = WalPosition { offset: at.offset + frame_len as u64, checksum, ..at };
            let commit = be_u32(&head[4..]);
            if commit != 0 {
                scan.pages.extend(open.drain(..));
                scan.commit = Some(commit);
                scan.end = at;
            }
        }
        if read < buffer.len() {
            return Ok(scan);
        }
    }
}

/// Reads the page at `offset` of a log.
pub(crate) fn read_page(file: &File, offset: u64, data: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(data, offset)
}

fn be_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Continues SQLite's checksum over `bytes`, whose length is a multiple of 8.
fn sum(big_endian: bool, [mut a, mut b]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    [a, b]
}
