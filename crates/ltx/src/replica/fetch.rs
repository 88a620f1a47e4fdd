//! Reads files from the bucket, many at a time.

use bytes::{Bytes, BytesMut};
use futures::future::{join_all, try_join_all};
use sprite_store::{Key, StoreError};
use sprite_types::Txid;

use super::{DamagedError, FileRef, OpenError, Replica};
use crate::format::LtxFile;

/// Bytes of one range of a large file.
const RANGE_LEN: u64 = 2 << 20;
/// Largest file that is read, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 4 << 30;
/// Loose files asked for at first, and at most, without knowing whether they exist.
const PROBE_MIN: u64 = 4;
const PROBE_MAX: u64 = 64;
/// How often a hole is looked at again: it may be a file that came while the batch was read.
const HOLE_TRIES: u32 = 3;

/// Loose files in a row, up to the first that does not exist.
pub(crate) type Loose = Vec<LtxFile>;

/// How probing ended.
pub(crate) enum Probed {
    /// At the newest transaction.
    End(Loose),
    /// This one is missing and a later one exists: collected, or lost.
    Hole(Txid),
}

impl Replica {
    /// Reads files that a manifest names.
    pub(crate) async fn fetch_files(&self, files: &[FileRef]) -> Result<Vec<Bytes>, OpenError> {
        Ok(try_join_all(files.iter().map(|file| self.fetch_ranges(&file.key, file.size))).await?)
    }

    /// Reads a file that a manifest names.
    pub(crate) async fn fetch_file(&self, file: &FileRef) -> Result<Bytes, StoreError> {
        self.fetch_ranges(&file.key, file.size).await
    }

    async fn fetch_ranges(&self, key: &Key, size: u64) -> Result<Bytes, StoreError> {
        let starts = (0..size).step_by(RANGE_LEN as usize);
        let ranges = starts.map(|start| start..(start + RANGE_LEN).min(size));
        let parts = try_join_all(ranges.map(|range| self.store.get_range(key, range))).await?;
        if let [part] = &parts[..] {
            return Ok(part.clone());
        }
        // Not more than arrived, whatever size the manifest claims.
        let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }

    /// Reads loose files from `from` on, in growing batches, until one does not exist.
    pub(crate) async fn probe(&self, from: Txid) -> Result<Probed, OpenError> {
        let mut loose = Loose::new();
        let (mut next, mut batch, mut holes) = (from.0, PROBE_MIN, 0);
        loop {
            let range = next..next.saturating_add(batch);
            let found = join_all(range.map(|txid| self.get_loose(Txid(txid)))).await;
            let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
            let len = found.len();
            let gap = found.iter().position(Option::is_none);
            let is_hole = gap.is_some_and(|gap| found[gap..].iter().any(Option::is_some));
            loose.extend(found.into_iter().map_while(|file| file));
            next += gap.unwrap_or(len) as u64;
            match (gap, is_hole) {
                (None, _) => batch = (batch * 4).min(PROBE_MAX),
                (Some(_), false) => return Ok(Probed::End(loose)),
                (Some(_), true) if holes == HOLE_TRIES => return Ok(Probed::Hole(Txid(next))),
                (Some(_), true) => holes += 1,
            }
        }
    }

    /// Reads a loose file; `None` if it does not exist.
    pub(crate) async fn get_loose(&self, txid: Txid) -> Result<Option<LtxFile>, OpenError> {
        let key = self.layout.loose(txid);
        let bytes = match self.store.get(&key).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            // The first snapshot of a large database, or one that had to be sent whole.
            Err(StoreError::TooLarge { size, .. }) if size <= FILE_BYTES_MAX => {
                self.fetch_ranges(&key, size).await?
            }
            Err(error) => return Err(error.into()),
        };
        let file = LtxFile::parse(bytes).map_err(|error| OpenError::damaged(&key, error))?;
        if file.header().min != txid || file.header().max != txid {
            return Err(OpenError::damaged(&key, DamagedError::Other));
        }
        Ok(Some(file))
    }
}

/// Verifies the bytes of a file that a manifest names.
pub(crate) fn parse_named(file: &FileRef, bytes: Bytes) -> Result<LtxFile, DamagedError> {
    let parsed = LtxFile::parse(bytes)?;
    let header = parsed.header();
    let is_it = (header.min, header.max, parsed.checksum()) == (file.min, file.max, file.checksum);
    if is_it { Ok(parsed) } else { Err(DamagedError::Other) }
}
