//! Makes one file of several.

use sprite_types::{ErrorKind, Generation, Txid};

use crate::format::{Encoded, Encoder, FormatError, Frame, Header, LtxFile};

/// Why files cannot become one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompactError {
    /// There is nothing to compact.
    #[error("no files to compact")]
    Nothing,
    /// A file does not continue the one before.
    #[error("transactions from {min} do not follow transaction {max}")]
    Gap {
        /// First transaction of the file.
        min: Txid,
        /// Last transaction of the file before.
        max: Txid,
    },
    /// The files are of different databases.
    #[error("the files have pages of different sizes")]
    PageSize,
    /// The result would not be a file.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl CompactError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// Makes one file that has the effect of `files` in their order: the newest version of each page
/// that is still part of the database.
///
/// The result depends on the files and `generation` alone, so that it can be made again after an
/// answer of the store was lost.
///
/// # Errors
/// See [`CompactError`].
pub fn compact(files: &[LtxFile], generation: Generation) -> Result<Encoded, CompactError> {
    let (Some(first), Some(last)) = (files.first(), files.last()) else {
        return Err(CompactError::Nothing);
    };
    for pair in files.windows(2) {
        let (before, after) = (pair[0].header(), pair[1].header());
        if after.min != before.max.next() {
            return Err(CompactError::Gap { min: after.min, max: before.max });
        }
        if after.page_size != before.page_size {
            return Err(CompactError::PageSize);
        }
    }
    let (first, last) = (first.header(), last.header());
    let header = Header { min: first.min, wal: None, generation, ..*last };

    let mut frames: Vec<(Frame, usize)> = Vec::new();
    for (at, file) in files.iter().enumerate() {
        frames.extend(file.frames().iter().map(|frame| (*frame, at)));
    }
    frames.retain(|(frame, _)| frame.page <= header.commit);
    frames.sort_unstable_by_key(|(frame, at)| (frame.page, std::cmp::Reverse(*at)));
    frames.dedup_by_key(|(frame, _)| frame.page);

    let mut encoder = Encoder::new(header)?;
    let mut data = vec![0; header.page_size.bytes()];
    for (frame, at) in &frames {
        let file = &files[*at];
        file.read_frame(frame, &mut data)?;
        encoder.push_compressed(frame.page, file.compressed(frame), &data)?;
    }
    Ok(encoder.finish()?)
}
