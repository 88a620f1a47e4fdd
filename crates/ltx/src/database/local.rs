//! What is noted beside a database, so that it need not be fetched again.
//!
//! The note says: up to this place of the log, these files are exactly this transaction of the
//! bucket. Whatever the log holds behind it was never acknowledged by the bucket and is cut off.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sprite_types::{ErrorKind, Timestamp, Txid};
use tracing::debug;

use super::apply::Base;
use super::files::{
    DatabaseHeader, FileError, Stamp, companion, open_if_there, read_up_to, remove_if_there,
};
use super::wal::{WalHeader, read_page, scan_until};
use super::{Tip, WalPosition};
use crate::format::{DATABASE_BYTES_MAX, FileChecksum, PageSize, crc64};

const VERSION: u32 = 1;
/// Bytes of a note, filled up with spaces: a newer one always covers the older.
const RECORD_LEN: usize = 2048;

/// Why a note could not be written or used.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A call on a local file failed. Look at the disk.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LocalError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Internal
    }
}

/// The note. Kept as `<database>-ltx`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalRecord {
    version: u32,
    txid: Txid,
    checksum: FileChecksum,
    time: Timestamp,
    page_size: u32,
    commit: u32,
    /// `None`: there is no log, or none of it counts.
    log: Option<WalPosition>,
    stamp: Stamp,
    /// The start of the host during which it was written.
    boot: String,
    /// Set when everything it speaks of was synced to disk before it.
    synced: bool,
}

impl LocalRecord {
    pub(crate) fn new(
        tip: Tip,
        page_size: PageSize,
        commit: u32,
        log: Option<WalPosition>,
        stamp: Stamp,
    ) -> Self {
        let Tip { txid, checksum, time } = tip;
        let (page_size, boot) = (page_size.get(), String::new());
        Self {
            version: VERSION,
            txid,
            checksum,
            time,
            page_size,
            commit,
            log,
            stamp,
            boot,
            synced: false,
        }
    }

    /// Returns the transaction that the database stands at.
    #[must_use]
    pub fn tip(&self) -> Tip {
        Tip { txid: self.txid, checksum: self.checksum, time: self.time }
    }

    /// Writes the note of the database at `path`. `boot` names this start of the host.
    ///
    /// It holds while the host runs. With `sync` the database and its log are synced first and it
    /// holds across a power cut: for a clean end, as it takes time.
    ///
    /// # Errors
    /// - [`LocalError::File`]: the old note is still there and still true, or no note counts.
    pub fn save(mut self, path: &Path, boot: &str, sync: bool) -> Result<(), LocalError> {
        (self.boot, self.synced) = (boot.to_owned(), sync);
        if sync {
            for file in [path.to_owned(), companion(path, "-wal")] {
                if let Some(opened) = open_if_there(&file)? {
                    opened.sync_all().map_err(FileError::when("sync", &file))?;
                }
            }
        }
        let json = serde_json::to_string(&self).expect("a note is plain data");
        let mut text = format!("{json}\n{:016x}\n", crc64(json.as_bytes())).into_bytes();
        let name = companion(path, "-ltx");
        if text.len() > RECORD_LEN {
            let error = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(FileError::when("fit a note into", &name)(error).into());
        }
        text.resize(RECORD_LEN, b' ');
        // In place: a note may be written several times a second, and renaming over a file makes
        // some file systems write it out each time. A torn one fails its checksum.
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
        let written = opened.and_then(|file| {
            file.write_all_at(&text, 0)?;
            if sync { file.sync_all() } else { Ok(()) }
        });
        written.map_err(FileError::when("write", &name))?;
        if sync && let Some(folder) = path.parent() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(FileError::when("sync", folder))?;
        }
        Ok(())
    }

    /// Reads the note of the database at `path`; `None` if there is none that counts.
    ///
    /// # Errors
    /// - [`LocalError::File`]: it cannot be read.
    pub fn load(path: &Path, boot: &str) -> Result<Option<Self>, LocalError> {
        let name = companion(path, "-ltx");
        let Some(file) = open_if_there(&name)? else { return Ok(None) };
        let mut bytes = [0; RECORD_LEN + 1];
        let len = read_up_to(&file, &mut bytes, 0).map_err(FileError::when("read", &name))?;
        let record = parse(&bytes[..len]);
        let usable = record.filter(|record| record.synced || record.boot == boot);
        if usable.is_none() {
            debug!(database = %path.display(), "local note does not count");
        }
        Ok(usable)
    }

    /// Forgets the note of the database at `path`, which from now on is fetched again.
    ///
    /// # Errors
    /// - [`LocalError::File`]: it is still there.
    pub fn forget(path: &Path) -> Result<(), LocalError> {
        Ok(remove_if_there(&companion(path, "-ltx"))?)
    }

    /// Brings the database at `path` to exactly the noted transaction, without a log: what is
    /// behind it in the log is cut off, the rest is moved into the database.
    ///
    /// `None` if the files are not what the note says. The note is gone in either case; dying in
    /// here costs a fetch. Nobody may have the database open.
    ///
    /// # Errors
    /// - [`LocalError::File`]: the files cannot be read or written.
    pub fn recover(&self, path: &Path) -> Result<Option<Base>, LocalError> {
        Self::forget(path)?;
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let Ok(file) = opened else { return Ok(None) };
        let metadata = file.metadata().map_err(FileError::when("look at", path))?;
        let Ok(page_size) = PageSize::new(self.page_size) else { return Ok(None) };
        let len = u64::from(self.commit) * u64::from(self.page_size);
        let mut head = [0; 100];
        let read = read_up_to(&file, &mut head, 0).map_err(FileError::when("read", path))?;
        let header = DatabaseHeader::parse(&head[..read]).ok().flatten();
        let is_noted = Stamp::of(&metadata) == self.stamp
            && (1..=DATABASE_BYTES_MAX).contains(&len)
            && header == Some(DatabaseHeader { page_size, is_wal: true })
            && (self.log.is_some() || metadata.len() == len);
        if !is_noted {
            debug!(database = %path.display(), "local database is not as noted");
            return Ok(None);
        }
        if let Some(at) = self.log
            && !self.move_log(&file, path, page_size, at)?
        {
            debug!(database = %path.display(), "local log is not as noted");
            return Ok(None);
        }
        file.set_len(len).map_err(FileError::when("resize", path))?;
        for suffix in ["-wal", "-shm"] {
            remove_if_there(&companion(path, suffix))?;
        }
        let (path, commit) = (path.to_owned(), self.commit);
        Ok(Some(Base { file, path, page_size, commit, tip: self.tip() }))
    }

    /// Writes what the log holds up to `at` into the database. `false` if it does not hold that.
    fn move_log(
        &self,
        database: &File,
        path: &Path,
        page_size: PageSize,
        at: WalPosition,
    ) -> Result<bool, FileError> {
        let log_path = companion(path, "-wal");
        let Some(log) = open_if_there(&log_path)? else { return Ok(false) };
        let header = WalHeader::read(&log).map_err(FileError::when("read", &log_path))?;
        let Some(header) = header.filter(|header| header.page_size == page_size) else {
            return Ok(false);
        };
        let found = scan_until(&log, &header, header.start, at.offset)
            .map_err(FileError::when("read", &log_path))?;
        // The position holds the running checksum, so equal ends mean equal contents.
        if found.end != at || found.commit.is_some_and(|commit| commit != self.commit) {
            return Ok(false);
        }
        let mut data = vec![0; page_size.bytes()];
        for (page, offset) in found.pages.iter().filter(|(page, _)| **page <= self.commit) {
            read_page(&log, *offset, &mut data).map_err(FileError::when("read", &log_path))?;
            let written = database.write_all_at(&data, page_size.offset(*page));
            written.map_err(FileError::when("write", path))?;
        }
        Ok(true)
    }
}

fn parse(bytes: &[u8]) -> Option<LocalRecord> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() == RECORD_LEN)?;
    let (json, checksum) = text.trim_end_matches(' ').strip_suffix('\n')?.split_once('\n')?;
    let stored = Txid::from_hex(checksum).ok()?.0;
    let record: LocalRecord = serde_json::from_str(json).ok()?;
    (stored == crc64(json.as_bytes()) && record.version == VERSION).then_some(record)
}
