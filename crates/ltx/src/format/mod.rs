//! LTX version 3: one file holds the newest version of each page that a run of transactions
//! changed. Encode, decode and verify; no I/O.
//!
//! The bytes are described in `docs/formats.md`. Litestream 0.5 reads and writes the same
//! format; files it writes are accepted here as long as they carry no database checksum, which
//! is all it ever writes.
//!
//! # Invariants
//! - What [`Encoder`] finishes, [`LtxFile::parse`] accepts.
//! - Bytes from outside never cause a panic, nor an allocation beyond a small multiple of their
//!   own length.

mod checksum;
mod decode;
mod encode;
mod error;
mod header;

pub use checksum::FileChecksum;
pub use decode::LtxFile;
pub use encode::{Encoded, Encoder};
pub use error::FormatError;
pub use header::{Header, PageSize, WalSpan};

pub(crate) use checksum::crc64;
pub(crate) use header::lock_page;

/// Bytes of the header.
pub const HEADER_LEN: usize = 100;
/// Bytes before each compressed page.
const FRAME_HEADER_LEN: usize = 10;
/// The only flag of a page frame: its length field is there.
const FRAME_FLAG_SIZED: u16 = 1;
/// What ends the page block.
const PAGES_END: [u8; 6] = [0; 6];
/// Bytes of the index's own length field.
const INDEX_LEN_LEN: usize = 8;
/// Bytes of the trailer.
pub(crate) const TRAILER_LEN: usize = 16;
/// Largest database, in bytes. Far above what a block map or an org's records reach, and low
/// enough that no arithmetic on page offsets can overflow.
pub const DATABASE_BYTES_MAX: u64 = 64 << 30;

/// Appends an unsigned LEB128 number.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Where one page's frame lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Page number, from 1.
    pub(crate) page: u32,
    /// Bytes from the start of the file to the frame's header.
    pub(crate) offset: u64,
    /// Bytes of the frame, header included.
    pub(crate) len: u32,
}

/// Appends the index section: a triple per frame, a zero, and the length of all that.
fn put_index(out: &mut Vec<u8>, frames: &[Frame]) {
    let start = out.len();
    for frame in frames {
        put_varint(out, u64::from(frame.page));
        put_varint(out, frame.offset);
        put_varint(out, u64::from(frame.len));
    }
    put_varint(out, 0);
    let len = (out.len() - start) as u64;
    out.extend_from_slice(&len.to_be_bytes());
}
