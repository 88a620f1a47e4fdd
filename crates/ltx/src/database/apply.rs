//! Makes a database of a snapshot and the files after it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sprite_types::{ErrorKind, Generation, Timestamp, Txid};
use tempfile::TempPath;

use super::files::{FileError, Stamp, companion, remove_if_there};
use super::{Capture, CaptureError, LocalError, LocalRecord, Tip};
use crate::format::{Encoded, Encoder, FormatError, Header, LtxFile, PageSize, lock_page};

/// Why a file cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A call on a local file failed. Look at the disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file does not continue where the database is.
    #[error("transactions {min} to {max} do not follow transaction {tip}")]
    Gap {
        /// First transaction of the file.
        min: Txid,
        /// Last transaction of the file.
        max: Txid,
        /// Where the database is.
        tip: Txid,
    },
    /// The database grew and the file has not all of the new pages.
    #[error("transactions up to {max} grow the database to {commit} pages without page {page}")]
    Hole {
        /// Last transaction of the file.
        max: Txid,
        /// Pages afterwards.
        commit: u32,
        /// The first that is missing.
        page: u32,
    },
    /// The size of pages cannot change.
    #[error("pages of {found} bytes in a database with pages of {expected}")]
    PageSize {
        /// In the database.
        expected: u32,
        /// In the file.
        found: u32,
    },
}

impl ApplyError {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(_) => ErrorKind::Internal,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// A database file without a log, at a known transaction, that nobody has open yet.
#[derive(Debug)]
pub struct Base {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) page_size: PageSize,
    pub(crate) commit: u32,
    pub(crate) tip: Tip,
}

impl Base {
    /// Returns the newest transaction applied.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Writes the pages of a file, whose transactions must continue those here.
    ///
    /// A file may begin before the tip if it ends after it: it holds the newest version of each
    /// page it has, so applying some transactions twice changes nothing.
    ///
    /// # Errors
    /// See [`ApplyError`]; after `File` and `Format` the database may be a mixture and has to be
    /// made anew.
    pub fn apply(&mut self, file: &LtxFile) -> Result<(), ApplyError> {
        let (header, tip) = (file.header(), self.tip.txid);
        if header.page_size != self.page_size {
            let (expected, found) = (self.page_size.get(), header.page_size.get());
            return Err(ApplyError::PageSize { expected, found });
        }
        if header.min > tip.next() || header.max <= tip {
            return Err(ApplyError::Gap { min: header.min, max: header.max, tip });
        }
        let (max, commit) = (header.max, header.commit);
        let lock = lock_page(self.page_size);
        // Ends at the first missing page, so a lie about the size costs nothing.
        let grown = self.commit.saturating_add(1)..=commit;
        if let Some(page) = grown.into_iter().find(|page| *page != lock && !file.contains(*page)) {
            return Err(ApplyError::Hole { max, commit, page });
        }
        self.write(file)
    }

    fn write(&mut self, file: &LtxFile) -> Result<(), ApplyError> {
        let commit = file.header().commit;
        let len = self.page_size.offset(commit) + u64::from(self.page_size.get());
        self.file.set_len(len).map_err(FileError::when("resize", &self.path))?;
        file.each_page::<ApplyError>(|page, data| {
            let written = self.file.write_all_at(data, self.page_size.offset(page));
            Ok(written.map_err(FileError::when("write", &self.path))?)
        })?;
        self.commit = commit;
        self.tip = Tip::of(file);
        Ok(())
    }

    /// Makes a fence: the next transaction, which changes nothing and says who wrote it.
    ///
    /// # Errors
    /// - [`ApplyError::File`]: page 1 cannot be read.
    /// - [`ApplyError::Format`]: `time` is before 1970.
    pub fn fence(&self, generation: Generation, time: Timestamp) -> Result<Encoded, ApplyError> {
        let mut first = vec![0; self.page_size.bytes()];
        let read = self.file.read_exact_at(&mut first, 0);
        read.map_err(FileError::when("read", &self.path))?;
        let (page_size, commit, txid) = (self.page_size, self.commit, self.tip.txid.next());
        let header =
            Header { page_size, commit, min: txid, max: txid, time, wal: None, generation };
        let mut encoder = Encoder::new(header)?;
        encoder.push(1, &first)?;
        Ok(encoder.finish()?)
    }

    /// Returns what to note locally about the database as it is.
    ///
    /// # Errors
    /// - [`LocalError::File`]: the file cannot be looked at.
    pub fn record(&self) -> Result<LocalRecord, LocalError> {
        let metadata = self.file.metadata().map_err(FileError::when("look at", &self.path))?;
        let stamp = Stamp::of(&metadata);
        Ok(LocalRecord::new(self.tip, self.page_size, self.commit, None, stamp))
    }

    /// Begins to capture what happens to the database from now on.
    ///
    /// # Errors
    /// - [`CaptureError::File`]: the file cannot be opened.
    pub fn follow(self) -> Result<Capture, CaptureError> {
        Capture::follow(self)
    }
}

/// A database in the making, beside the name it will get.
#[derive(Debug)]
pub struct Rebuild {
    target: Base,
    temporary: TempPath,
    path: PathBuf,
}

impl Rebuild {
    /// Begins with a snapshot, in a file `<path>-new` that is removed again if nothing comes of it.
    ///
    /// # Errors
    /// - [`ApplyError::Gap`]: `snapshot` is none.
    /// - [`ApplyError::File`]: the file cannot be written.
    pub fn start(path: &Path, snapshot: &LtxFile) -> Result<Self, ApplyError> {
        let header = snapshot.header();
        if !header.is_snapshot() {
            let (min, max) = (header.min, header.max);
            return Err(ApplyError::Gap { min, max, tip: Txid(0) });
        }
        // Always the same name, so that a process that died in here leaves one file, once.
        let name = companion(path, "-new");
        let opened = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&name);
        let file = opened.map_err(FileError::when("create", &name))?;
        let temporary = TempPath::try_from_path(&name);
        let temporary = temporary.map_err(FileError::when("name", &name))?;
        let tip = Tip { txid: Txid(0), ..Tip::of(snapshot) };
        let path = path.to_owned();
        let page_size = header.page_size;
        let mut target = Base { file, path: path.clone(), page_size, commit: 0, tip };
        target.write(snapshot)?;
        Ok(Self { target, temporary, path })
    }

    /// Applies the next file.
    ///
    /// # Errors
    /// See [`ApplyError`]; the rebuild cannot go on.
    pub fn apply(&mut self, file: &LtxFile) -> Result<(), ApplyError> {
        self.target.apply(file)
    }

    /// Returns the newest transaction applied.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.target.tip
    }

    /// Puts the database in its place, where it replaces what was there, log and all.
    ///
    /// With `sync`, it is on disk when this returns. Nobody may have the old one open.
    ///
    /// # Errors
    /// - [`ApplyError::File`]: there may now be no database, but never a mixture of two.
    pub fn finish(self, sync: bool) -> Result<Base, ApplyError> {
        let Self { target, temporary, path } = self;
        // First: an old log beside a new database would be replayed into it.
        for suffix in ["-wal", "-shm", "-journal"] {
            remove_if_there(&companion(&path, suffix))?;
        }
        if sync {
            target.file.sync_all().map_err(FileError::when("sync", &path))?;
        }
        temporary.persist(&path).map_err(|e| FileError::when("rename to", &path)(e.error))?;
        if sync && let Some(folder) = path.parent() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(FileError::when("sync", folder))?;
        }
        Ok(target)
    }
}
