//! The first 100 bytes of a file.

use sprite_types::{Generation, Timestamp, Txid};

use super::{DATABASE_BYTES_MAX, FormatError, HEADER_LEN};

const MAGIC: [u8; 4] = *b"LTX1";
/// "No checksum of the database": the only legal flag, always set here.
const FLAG_NO_CHECKSUM: u32 = 1 << 1;
/// The byte of a database that SQLite never uses as data: locks are taken on it.
const LOCK_OFFSET: u32 = 0x4000_0000;

/// Bytes of a database page: a power of two from 512 to 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// Makes a page size.
    ///
    /// # Errors
    /// - [`FormatError::Field`]: SQLite has no such page size.
    pub fn new(bytes: u32) -> Result<Self, FormatError> {
        if bytes.is_power_of_two() && (512..=65_536).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(FormatError::Field { field: "page size", value: u64::from(bytes) })
        }
    }

    /// Returns bytes per page.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Returns bytes per page, for buffers.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Returns the offset of `page` (from 1) in a database, in bytes.
    pub(crate) fn offset(self, page: u32) -> u64 {
        u64::from(page.saturating_sub(1)) * u64::from(self.0)
    }
}

/// Returns the page that holds SQLite's lock bytes: never written, never shipped.
pub(crate) fn lock_page(page_size: PageSize) -> u32 {
    LOCK_OFFSET / page_size.0 + 1
}

/// The part of a write-ahead log that a file was made from. For people and for Litestream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    /// Bytes from the start of the log to the first frame.
    pub offset: u64,
    /// Bytes of the frames.
    pub size: u64,
    /// The salts of the log.
    pub salts: [u32; 2],
}

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes per page.
    pub page_size: PageSize,
    /// Pages of the database once the file is applied.
    pub commit: u32,
    /// First transaction in it; 1 makes it a snapshot, which holds every page.
    pub min: Txid,
    /// Last transaction in it.
    pub max: Txid,
    /// When it was made, in milliseconds; what is finer is not kept.
    pub time: Timestamp,
    /// Where it comes from; `None` if not from a write-ahead log.
    pub wal: Option<WalSpan>,
    /// Who wrote it. The format calls this field "node id".
    pub generation: Generation,
}

impl Header {
    /// Says whether the file holds a whole database.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.min == Txid(1)
    }

    /// Says whether the file is a fence: one transaction that came from no write-ahead log and
    /// is no snapshot.
    #[must_use]
    pub fn is_fence(&self) -> bool {
        self.min == self.max && !self.is_snapshot() && self.wal.is_none()
    }

    /// Returns the number of pages a snapshot of this size holds.
    pub(crate) fn snapshot_pages(&self) -> u64 {
        u64::from(self.commit) - u64::from(self.commit >= lock_page(self.page_size))
    }

    /// Checks that `page` may come after `before` (0: is the first).
    pub(crate) fn check_order(&self, before: u32, page: u32) -> Result<(), FormatError> {
        let in_order = page > before && page <= self.commit && page != lock_page(self.page_size);
        if in_order {
            Ok(())
        } else {
            Err(FormatError::Order { page, before, commit: self.commit })
        }
    }

    /// Checks that a file with `pages` pages in order is complete.
    pub(crate) fn check_count(&self, pages: u64) -> Result<(), FormatError> {
        let expected = self.snapshot_pages();
        if pages == 0 {
            Err(FormatError::Empty)
        } else if self.is_snapshot() && pages != expected {
            Err(FormatError::Incomplete { found: pages, expected })
        } else {
            Ok(())
        }
    }

    /// Checks what the types leave open.
    pub(crate) fn validate(&self) -> Result<(), FormatError> {
        let field = |field, value| Err(FormatError::Field { field, value });
        if self.commit == 0 {
            return field("database size", 0);
        }
        if u64::from(self.commit) * u64::from(self.page_size.0) > DATABASE_BYTES_MAX {
            return field("database size", u64::from(self.commit));
        }
        if self.min == Txid(0) || self.min > self.max {
            return field("first transaction", self.min.0);
        }
        if self.time.as_millis() < 0 {
            return field("time", 0);
        }
        match self.wal {
            Some(wal) if wal.offset == 0 || i64::try_from(wal.offset).is_err() => {
                field("log offset", wal.offset)
            }
            Some(wal) if i64::try_from(wal.size).is_err() => field("log size", wal.size),
            _ => Ok(()),
        }
    }

    /// Returns the bytes of a validated header.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &FLAG_NO_CHECKSUM.to_be_bytes());
        put(8, &self.page_size.0.to_be_bytes());
        put(12, &self.commit.to_be_bytes());
        put(16, &self.min.0.to_be_bytes());
        put(24, &self.max.0.to_be_bytes());
        put(32, &self.time.as_millis().to_be_bytes());
        // 40: the checksum of the database before, 0 as the flag says.
        if let Some(wal) = self.wal {
            put(48, &wal.offset.to_be_bytes());
            put(56, &wal.size.to_be_bytes());
            put(64, &wal.salts[0].to_be_bytes());
            put(68, &wal.salts[1].to_be_bytes());
        }
        put(72, &self.generation.0.to_be_bytes());
        out
    }

    /// Reads and checks a header.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Self, FormatError> {
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let field = |field, value| FormatError::Field { field, value };

        if bytes[..4] != MAGIC {
            return Err(FormatError::Magic);
        }
        if u32_at(4) != FLAG_NO_CHECKSUM {
            return Err(field("flags", u64::from(u32_at(4))));
        }
        if u64_at(40) != 0 {
            return Err(field("database checksum", u64_at(40)));
        }
        if let Some(byte) = bytes[80..].iter().find(|byte| **byte != 0) {
            return Err(field("reserved byte", u64::from(*byte)));
        }
        let micros = i64::try_from(u64_at(32)).ok().and_then(|ms| ms.checked_mul(1000));
        let time = micros.ok_or_else(|| field("time", u64_at(32)))?;
        let wal = WalSpan { offset: u64_at(48), size: u64_at(56), salts: [u32_at(64), u32_at(68)] };
        let header = Self {
            page_size: PageSize::new(u32_at(8))?,
            commit: u32_at(12),
            min: Txid(u64_at(16)),
            max: Txid(u64_at(24)),
            time: Timestamp::from_micros(time),
            // Size or salts without an offset stay here, and fail the check below.
            wal: (bytes[48..72] != [0; 24]).then_some(wal),
            generation: Generation(u64_at(72)),
        };
        header.validate()?;
        Ok(header)
    }
}
