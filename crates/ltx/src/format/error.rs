//! What can be wrong with an LTX file.

use sprite_types::ErrorKind;

use super::FileChecksum;

/// Why bytes are not an LTX file, or why pages cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It ends before `what` does.
    #[error("the file ends in its {what}")]
    Short {
        /// Part of the file.
        what: &'static str,
    },
    /// It does not begin as an LTX file.
    #[error("not an LTX file")]
    Magic,
    /// A field of the header holds what this format does not allow.
    #[error("{field} cannot be {value}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A page is out of order, twice there, or beyond the database's end.
    #[error("page {page} cannot follow page {before} in a database of {commit} pages")]
    Order {
        /// The page.
        page: u32,
        /// The page before it; 0 if it is the first.
        before: u32,
        /// Pages of the database.
        commit: u32,
    },
    /// A snapshot has a hole.
    #[error("the snapshot holds {found} of {expected} pages")]
    Incomplete {
        /// Pages that are there.
        found: u64,
        /// Pages a snapshot of this size has.
        expected: u64,
    },
    /// The file changes no page, which no transaction does.
    #[error("the file holds no page")]
    Empty,
    /// The compressed bytes are not those of one page.
    #[error("page {page} does not decompress to one page")]
    Compression {
        /// The page.
        page: u32,
    },
    /// The bytes given for a page are not one page.
    #[error("page {page} has {len} bytes")]
    PageLength {
        /// The page.
        page: u32,
        /// Bytes given.
        len: usize,
    },
    /// The index disagrees with the frames.
    #[error("the page index does not describe the pages")]
    Index,
    /// Bytes changed since the file was written.
    #[error("checksum {stored} in the file, {computed} over its contents")]
    Checksum {
        /// In the trailer.
        stored: FileChecksum,
        /// Over what was read.
        computed: FileChecksum,
    },
}

impl FormatError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}
