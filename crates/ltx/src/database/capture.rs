//! Turns new transactions of a database into files.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sprite_types::{ErrorKind, Generation, Timestamp, Txid};
use tracing::warn;

use super::apply::Base;
use super::files::{DatabaseHeader, FileError, Stamp, companion, open_if_there, read_up_to};
use super::wal::{Scan, WAL_HEADER_LEN, WalHeader, read_page, scan};
use super::{LocalRecord, Tip, WalPosition};
use crate::format::{
    Encoded, Encoder, FileChecksum, FormatError, Header, PageSize, WalSpan, lock_page,
};

/// Why nothing was captured, or the log was not truncated.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A call on a local file failed. Look at the disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The pages do not make a file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// This is no SQLite database in WAL mode with pages of one size.
    #[error("`{}` is no SQLite database in WAL mode", path.display())]
    NotWal {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed to empty the log.
    #[error("truncate the log of `{}`", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The log still holds what the bucket does not. Commit first.
    #[error("the log holds transactions that are not in the bucket")]
    NotDurable,
    /// Somebody replaced the log. The next capture sends the whole database.
    #[error("the log of `{}` was replaced", path.display())]
    Replaced {
        /// The database.
        path: PathBuf,
    },
    /// SQLite left the log as it was: a reader is active, or the connection is another database's.
    #[error("the log of `{}` could not be emptied", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
}

impl CaptureError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotDurable | Self::Replaced { .. } => ErrorKind::Conflict,
            Self::Busy { .. } => ErrorKind::Unavailable,
            Self::NotWal { .. } => ErrorKind::Invalid,
            Self::File(_) | Self::Format(_) | Self::Sqlite { .. } => ErrorKind::Internal,
        }
    }
}

/// Transactions made into a file, with what to note locally once it is in the bucket.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The file.
    pub file: Encoded,
    /// The local state it stands for.
    pub record: LocalRecord,
    /// Set when the file holds the whole database because its log could not be followed.
    pub is_whole: bool,
}

/// How far the log was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Right behind a transaction.
    At(WalPosition),
    /// The log is empty. If it was emptied here: what it was before.
    Empty { before: Option<WalPosition> },
}

/// Follows the log of one database. Sync, and owned by who owns the connection.
///
/// # Invariants
/// - What was captured is exactly a run of whole transactions, without a gap.
/// - The log is emptied only when the bucket holds everything in it.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    database: File,
    page_size: PageSize,
    stand: Stand,
    /// The database file as it was when it last held exactly what this capture assumes.
    stamp: Stamp,
    /// For each page in the captured part of the log, the offset of its newest content.
    pages: HashMap<u32, u64>,
    /// Pages of the database at the tip.
    commit: u32,
    tip: Tip,
}

impl Capture {
    /// Begins to follow a new database, of which the bucket knows nothing. The first file will be
    /// a snapshot, as transaction 1.
    ///
    /// # Errors
    /// - [`CaptureError::NotWal`], [`CaptureError::File`].
    pub fn create(path: &Path) -> Result<Self, CaptureError> {
        let database = File::open(path).map_err(FileError::when("open", path))?;
        let mut head = [0; 100];
        let read = read_up_to(&database, &mut head, 0).map_err(FileError::when("read", path))?;
        let header = match DatabaseHeader::parse(&head[..read]) {
            Ok(Some(header)) if header.is_wal => header,
            _ => return Err(CaptureError::NotWal { path: path.to_owned() }),
        };
        let tip = Tip { txid: Txid(0), checksum: FileChecksum(0), time: Timestamp::from_micros(0) };
        Self::new(path.to_owned(), database, header.page_size, 0, tip)
    }

    /// Begins to follow a database that was just made from the bucket and has no log.
    pub(crate) fn follow(target: Base) -> Result<Self, CaptureError> {
        let Base { path, page_size, commit, tip, .. } = target;
        let database = File::open(&path).map_err(FileError::when("open", &path))?;
        Self::new(path, database, page_size, commit, tip)
    }

    fn new(
        path: PathBuf,
        database: File,
        page_size: PageSize,
        commit: u32,
        tip: Tip,
    ) -> Result<Self, CaptureError> {
        let stamp = stamp(&database, &path)?;
        let stand = Stand::Empty { before: None };
        Ok(Self { path, database, page_size, stand, stamp, pages: HashMap::new(), commit, tip })
    }

    /// Returns the newest transaction captured.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Returns the path of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file of all transactions since the last one, as one transaction; `None` if there
    /// are none. A torn or unfinished transaction at the end is left for later.
    ///
    /// If the log was replaced in between, what it held cannot be known: the file then holds the
    /// whole database, which is right in any case.
    ///
    /// # Errors
    /// See [`CaptureError`]; the next call tries the same again.
    pub fn next(
        &mut self,
        generation: Generation,
        time: Timestamp,
    ) -> Result<Option<Captured>, CaptureError> {
        let log = self.open_log()?;
        let from = match (self.stand, &log) {
            _ if self.tip.txid == Txid(0) => None,
            (Stand::At(at), Some((_, header))) if header.start.salts == at.salts => Some(at),
            (Stand::At(_), _) => None,
            (Stand::Empty { .. }, None) if self.is_untouched()? => return Ok(None),
            (Stand::Empty { before }, Some((_, header)))
                if is_first_since(before, &header.start) && self.is_untouched()? =>
            {
                Some(header.start)
            }
            (Stand::Empty { .. }, _) => None,
        };
        match (from, &log) {
            (Some(from), Some((file, header))) => {
                let found = scan(file, header, from).map_err(self.log_error("read"))?;
                self.changed_pages(file, from, found, generation, time)
            }
            _ => self.whole_database(log.as_ref(), generation, time).map(Some),
        }
    }

    /// Makes a snapshot of the newest transaction captured. Changes nothing.
    ///
    /// The same transaction gives the same bytes.
    ///
    /// # Errors
    /// - [`CaptureError::NotDurable`]: nothing was captured yet.
    /// - [`CaptureError::File`], [`CaptureError::Format`].
    pub fn snapshot(&self, generation: Generation) -> Result<Encoded, CaptureError> {
        if self.tip.txid == Txid(0) {
            return Err(CaptureError::NotDurable);
        }
        let log = match self.stand {
            Stand::Empty { .. } => None,
            Stand::At(at) => {
                let log = self.open_log()?.filter(|(_, log)| log.start.salts == at.salts);
                Some(log.ok_or_else(|| CaptureError::Replaced { path: self.path.clone() })?.0)
            }
        };
        let mut header = self.header(Txid(1), generation, self.tip.time, None);
        header.max = self.tip.txid;
        self.encode(header, 1..=self.commit, log.as_ref(), [&self.pages])
    }

    /// Empties the log through the owner's connection. `false` if it was empty.
    ///
    /// # Errors
    /// - [`CaptureError::NotDurable`]: the bucket has not all of it (`durable` is older than the
    ///   newest transaction captured, or there are newer ones); nothing was changed.
    /// - [`CaptureError::Busy`]: SQLite did not empty it.
    pub fn truncate(
        &mut self,
        connection: &Connection,
        durable: Txid,
    ) -> Result<bool, CaptureError> {
        let Stand::At(at) = self.stand else { return Ok(false) };
        let Some((file, header)) = self.open_log()? else { return Err(CaptureError::NotDurable) };
        let is_captured = header.start.salts == at.salts
            && scan(&file, &header, at).map_err(self.log_error("read"))?.commit.is_none();
        if durable < self.tip.txid || !is_captured {
            return Err(CaptureError::NotDurable);
        }
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|source| CaptureError::Sqlite { path: self.path.clone(), source })?;
        let left = file.metadata().map_err(self.log_error("look at"))?.len();
        let len = self.page_size.offset(self.commit) + u64::from(self.page_size.get());
        let stamp = stamp(&self.database, &self.path)?;
        if busy != 0 || left != 0 || stamp.len() != len {
            return Err(CaptureError::Busy { path: self.path.clone() });
        }
        self.stand = Stand::Empty { before: Some(at) };
        self.stamp = stamp;
        self.pages = HashMap::new();
        Ok(true)
    }

    /// Returns what to note locally when everything captured is in the bucket.
    #[must_use]
    pub fn record(&self) -> LocalRecord {
        let log = match self.stand {
            Stand::At(at) => Some(at),
            Stand::Empty { .. } => None,
        };
        LocalRecord::new(self.tip, self.page_size, self.commit, log, self.stamp)
    }

    fn changed_pages(
        &mut self,
        log: &File,
        from: WalPosition,
        found: Scan,
        generation: Generation,
        time: Timestamp,
    ) -> Result<Option<Captured>, CaptureError> {
        let Some(commit) = found.commit else { return Ok(None) };
        let lock = lock_page(self.page_size);
        let mut numbers: Vec<u32> = found.pages.keys().copied().collect();
        // SQLite does not log a page that was added and freed again. It is part of the database
        // all the same, with whatever is there.
        let grown = self.commit.saturating_add(1)..=commit;
        numbers.extend(grown.filter(|page| !found.pages.contains_key(page)));
        numbers.retain(|page| *page <= commit && *page != lock);
        numbers.sort_unstable();

        let span = WalSpan {
            offset: from.offset,
            size: found.end.offset - from.offset,
            salts: from.salts,
        };
        let mut header = self.header(self.tip.txid.next(), generation, time, Some(span));
        header.commit = commit;
        let file = self.encode(header, numbers, Some(log), [&found.pages, &self.pages])?;
        self.pages.extend(found.pages);
        (self.commit, self.stand) = (commit, Stand::At(found.end));
        Ok(Some(self.captured(file, false)))
    }

    fn whole_database(
        &mut self,
        log: Option<&(File, WalHeader)>,
        generation: Generation,
        time: Timestamp,
    ) -> Result<Captured, CaptureError> {
        let txid = self.tip.txid.next();
        if txid != Txid(1) {
            warn!(database = %self.path.display(), %txid, "log was replaced, database sent whole");
        }
        let found = match log {
            Some((file, header)) => {
                Some(scan(file, header, header.start).map_err(self.log_error("read"))?)
            }
            None => None,
        };
        let stamp = stamp(&self.database, &self.path)?;
        let (stand, logged, pages) = match found {
            Some(found) => (Stand::At(found.end), found.commit, found.pages),
            None => (Stand::Empty { before: None }, None, HashMap::new()),
        };
        let stored = u32::try_from(stamp.len() / u64::from(self.page_size.get()));
        let Some(commit) = logged.or(stored.ok()) else {
            return Err(CaptureError::NotWal { path: self.path.clone() });
        };
        let (offset, salts, size) = match stand {
            Stand::At(at) => (WAL_HEADER_LEN, at.salts, at.offset - WAL_HEADER_LEN),
            Stand::Empty { .. } => (WAL_HEADER_LEN, [0; 2], 0),
        };
        let span = WalSpan { offset, size, salts };
        let mut header = self.header(txid, generation, time, Some(span));
        header.commit = commit;
        let file = self.encode(header, 1..=commit, log.map(|(file, _)| file), [&pages])?;
        (self.stand, self.stamp, self.pages, self.commit) = (stand, stamp, pages, commit);
        Ok(self.captured(file, txid != Txid(1)))
    }

    fn captured(&mut self, file: Encoded, is_whole: bool) -> Captured {
        self.tip = Tip::after(&file.header, file.checksum);
        Captured { file, record: self.record(), is_whole }
    }

    fn header(
        &self,
        txid: Txid,
        generation: Generation,
        time: Timestamp,
        wal: Option<WalSpan>,
    ) -> Header {
        let (page_size, commit) = (self.page_size, self.commit);
        Header { page_size, commit, min: txid, max: txid, time, wal, generation }
    }

    /// Makes a file of these pages, in ascending order: each from the log, at the first offset
    /// that `logged` has for it, or else from the database.
    fn encode<const N: usize>(
        &self,
        header: Header,
        numbers: impl IntoIterator<Item = u32>,
        log: Option<&File>,
        logged: [&HashMap<u32, u64>; N],
    ) -> Result<Encoded, CaptureError> {
        let lock = lock_page(self.page_size);
        let mut encoder = Encoder::new(header)?;
        let mut data = vec![0; self.page_size.bytes()];
        for page in numbers.into_iter().filter(|page| *page != lock) {
            match (logged.iter().find_map(|pages| pages.get(&page)), log) {
                (Some(offset), Some(log)) => {
                    read_page(log, *offset, &mut data).map_err(self.log_error("read"))?;
                }
                _ => {
                    let offset = self.page_size.offset(page);
                    let read = read_up_to(&self.database, &mut data, offset)
                        .map_err(FileError::when("read", &self.path))?;
                    data[read..].fill(0);
                }
            }
            encoder.push(page, &data)?;
        }
        Ok(encoder.finish()?)
    }

    /// Opens the log; `None` if there is none or SQLite would take it for empty.
    fn open_log(&self) -> Result<Option<(File, WalHeader)>, CaptureError> {
        let path = companion(&self.path, "-wal");
        let Some(file) = open_if_there(&path)? else { return Ok(None) };
        let header = WalHeader::read(&file).map_err(FileError::when("read", &path))?;
        match header {
            Some(header) if header.page_size != self.page_size => {
                Err(CaptureError::NotWal { path: self.path.clone() })
            }
            header => Ok(header.map(|header| (file, header))),
        }
    }

    fn is_untouched(&self) -> Result<bool, CaptureError> {
        Ok(stamp(&self.database, &self.path)? == self.stamp)
    }

    fn log_error(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> FileError + use<> {
        FileError::when(what, &companion(&self.path, "-wal"))
    }
}

fn stamp(database: &File, path: &Path) -> Result<Stamp, FileError> {
    let metadata = database.metadata().map_err(FileError::when("look at", path))?;
    Ok(Stamp::of(&metadata))
}

/// Says whether a log that begins at `start` is the first one since the log was empty.
///
/// A log that begins anew counts up its sequence and first salt; one that a new connection makes
/// of an empty file begins at 0.
fn is_first_since(before: Option<WalPosition>, start: &WalPosition) -> bool {
    let is_next = before.is_some_and(|before| {
        start.sequence == before.sequence.wrapping_add(1)
            && start.salts[0] == before.salts[0].wrapping_add(1)
    });
    is_next || start.sequence == 0
}
