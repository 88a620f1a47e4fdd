//! How much a hostile file system may cost its reader.

/// Bounds of one walk, comparison or extraction. What lies beyond is reported as
/// [`FsError::Limit`](crate::FsError::Limit), with its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Deepest folder, counted from the top.
    pub depth_max: usize,
    /// Longest path, in bytes.
    pub path_bytes_max: usize,
    /// Entries looked at, in all folders together.
    pub entries_max: u64,
    /// Memory for the names of all folders that are open at once, in bytes. They are listed one
    /// at a time, so only the way from the top to the current one counts.
    pub names_bytes_max: usize,
    /// Blocks of folders read, all together, in bytes.
    pub directory_bytes_max: u64,
    /// Content read, all together, in bytes. A piece of a file counts as at least 256.
    pub content_bytes_max: u64,
}

impl Default for Limits {
    /// Enough for a full disk of 100 GiB; about 64 MiB of memory at worst.
    fn default() -> Self {
        Self {
            depth_max: 1024,
            path_bytes_max: 16 << 10,
            entries_max: 20_000_000,
            names_bytes_max: 64 << 20,
            directory_bytes_max: 16 << 30,
            content_bytes_max: 256 << 30,
        }
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) limits: Limits,
    pub(crate) entries: u64,
    pub(crate) names_bytes: usize,
    pub(crate) directory_bytes: u64,
    pub(crate) content_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            entries: limits.entries_max,
            names_bytes: limits.names_bytes_max,
            directory_bytes: limits.directory_bytes_max,
            content_bytes: limits.content_bytes_max,
            limits,
        }
    }

    /// Pays for a piece of content; `false` if that is too much.
    #[must_use]
    pub(crate) fn pay_content(&mut self, bytes: u64) -> bool {
        match self.content_bytes.checked_sub(bytes.max(256)) {
            Some(left) => {
                self.content_bytes = left;
                true
            }
            None => false,
        }
    }
}
