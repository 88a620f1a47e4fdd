//! Commits transactions, one object each.

use std::path::PathBuf;

use bytes::Bytes;
use sprite_types::{Epoch, Generation, Txid};
use tracing::{info, warn};

use super::error::{Created, created};
use super::restore::Restored;
use super::{CommitError, FileRef, Manifest, ManifestName, Replica, left_out};
use crate::database::{Captured, LocalRecord, Tip};
use crate::format::{Encoded, FileChecksum, Header, LtxFile};

/// Bytes of committed files kept in memory for the next compaction.
const KEEP_BYTES_MAX: usize = 4 << 20;

/// All files of a database up to a transaction; what a copy of it begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The transaction.
    pub tip: Tip,
    /// From a snapshot on, without a gap.
    pub files: Vec<FileRef>,
}

/// A committed transaction that no manifest names yet.
#[derive(Clone, Debug)]
pub(crate) struct LooseFile {
    pub(crate) file: FileRef,
    pub(crate) tip: Tip,
    /// Kept while there is room.
    pub(crate) bytes: Option<Bytes>,
}

/// The writing half of an open database.
///
/// # Invariants
/// - Transactions are written one by one: the next only after the one before is known to be ours.
/// - Once somebody else's transaction was found in our place, nothing is written any more.
#[derive(Debug)]
pub struct Publisher {
    pub(crate) replica: Replica,
    pub(crate) generation: Generation,
    path: PathBuf,
    boot: String,
    /// The newest durable transaction.
    pub(crate) tip: Tip,
    /// Files that the newest manifest names.
    pub(crate) named: Vec<FileRef>,
    pub(crate) loose: Vec<LooseFile>,
    pub(crate) fences: Vec<Txid>,
    /// The newest manifest and the transaction it ends with.
    pub(crate) newest: Option<(ManifestName, Tip)>,
    /// What was sent last, until its fate is known.
    pending: Option<(Txid, FileChecksum)>,
    fenced: Option<(Txid, Option<Generation>)>,
}

impl Publisher {
    pub(crate) fn new(
        replica: Replica,
        generation: Generation,
        path: PathBuf,
        boot: String,
        restored: &Restored,
    ) -> Self {
        let manifest = restored.manifest.as_ref();
        let mut publisher = Self {
            replica,
            generation,
            path,
            boot,
            tip: restored.base.tip(),
            named: manifest.map(|manifest| manifest.files.clone()).unwrap_or_default(),
            loose: Vec::new(),
            fences: manifest.map(|manifest| manifest.fences.clone()).unwrap_or_default(),
            newest: manifest.map(|manifest| (manifest.name(), manifest.tip())),
            pending: None,
            fenced: None,
        };
        for file in &restored.loose {
            publisher.add(file.header(), file.checksum(), file.bytes());
        }
        publisher
    }

    /// As [`Publisher::new`], for a database that begins with one snapshot.
    pub(crate) fn begin(
        replica: Replica,
        generation: Generation,
        path: PathBuf,
        boot: String,
        tip: Tip,
        header: Header,
        bytes: Bytes,
    ) -> Self {
        let mut publisher = Self {
            replica,
            generation,
            path,
            boot,
            tip,
            named: Vec::new(),
            loose: Vec::new(),
            fences: Vec::new(),
            newest: None,
            pending: None,
            fenced: None,
        };
        publisher.add(&header, tip.checksum, &bytes);
        publisher
    }

    /// Returns the newest transaction that is known to be durable.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Returns the generation of this writer.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns all files up to the newest durable transaction. A copy of the database can begin
    /// with them, for as long as they are kept from the collector.
    #[must_use]
    pub fn files(&self) -> Files {
        let loose = self.loose.iter().map(|loose| &loose.file);
        Files { tip: self.tip, files: self.named.iter().chain(loose).cloned().collect() }
    }

    /// Makes a captured transaction durable. Also notes locally where it ends.
    ///
    /// # Errors
    /// - [`CommitError::Store`]: it is not known whether it is durable. Publish exactly the same
    ///   again; nothing else will be accepted.
    /// - [`CommitError::Fenced`]: stop for good.
    /// - [`CommitError::OutOfOrder`]: it is not the next one.
    ///
    /// # Cancel safety
    /// Dropped, it counts as [`CommitError::Store`].
    pub async fn publish(&mut self, captured: &Captured) -> Result<Tip, CommitError> {
        self.check()?;
        let Encoded { bytes, checksum, header } = &captured.file;
        let (expected, found) = (self.tip.txid.next(), header.max);
        let is_next = header.min == expected && header.max == expected;
        let is_ours = header.generation == self.generation;
        let is_same = self.pending.is_none_or(|sent| sent == (expected, *checksum));
        if !(is_next && is_ours && is_same) {
            return Err(CommitError::OutOfOrder { expected, found });
        }
        self.pending = Some((expected, *checksum));
        let key = self.replica.layout.loose(expected);
        let result = self.replica.store.create(&key, bytes.clone()).await;
        if let Created::Taken = created(result)?
            && !left_out!(self.replica, IgnoreTaken)
        {
            return Err(self.lose(expected).await);
        }
        self.pending = None;
        self.tip = Tip::after(header, *checksum);
        self.add(header, *checksum, bytes);
        self.note(captured.record.clone());
        Ok(self.tip)
    }

    /// Notes the local state, which must be that of the newest durable transaction.
    pub fn note(&self, record: LocalRecord) {
        if record.tip() != self.tip {
            return;
        }
        if let Err(error) = record.save(&self.path, &self.boot, false) {
            // The older note stays true: it names a place further back in the log.
            warn!(database = %self.path.display(), error = &error as &dyn std::error::Error,
                "local note not written");
        }
    }

    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Fails if somebody else was seen to write.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        match self.fenced {
            Some((txid, held)) => Err(CommitError::Fenced { txid, held }),
            None => Ok(()),
        }
    }

    /// Ends this writer's life: somebody else wrote `txid`.
    pub(crate) async fn lose(&mut self, txid: Txid) -> CommitError {
        self.fenced = Some((txid, None));
        // Only for people: whoever it was, the answer is the same.
        let winner = self.replica.get_loose(txid).await.ok().flatten();
        let held = winner.map(|file| file.header().generation);
        self.fenced = Some((txid, held));
        info!(prefix = %self.replica.prefix(), %txid, ours = %self.generation, ?held, "fenced");
        CommitError::Fenced { txid, held }
    }

    fn add(&mut self, header: &Header, checksum: FileChecksum, bytes: &Bytes) {
        let key = self.replica.layout.loose(header.max);
        let file = FileRef::new(key, header, bytes.len(), checksum);
        if header.is_fence() {
            self.fences.push(header.max);
        }
        let kept: usize =
            self.loose.iter().filter_map(|file| Some(file.bytes.as_ref()?.len())).sum();
        let fits = kept + bytes.len() <= KEEP_BYTES_MAX;
        let bytes = fits.then(|| bytes.clone());
        self.loose.push(LooseFile { file, tip: Tip::after(header, checksum), bytes });
    }

    /// Returns a committed file, from memory or from the bucket.
    pub(crate) async fn read_loose(&self, loose: &LooseFile) -> Result<LtxFile, CommitError> {
        let bytes = match &loose.bytes {
            Some(bytes) => bytes.clone(),
            None => self.replica.fetch_file(&loose.file).await?,
        };
        self.replica.parse(&loose.file, bytes)
    }
}

impl Replica {
    pub(crate) fn parse(&self, file: &FileRef, bytes: Bytes) -> Result<LtxFile, CommitError> {
        super::fetch::parse_named(file, bytes)
            .map_err(|source| CommitError::Damaged { key: file.key.clone(), source })
    }

    /// Begins this database as a copy of another: names the other's files. Whoever opens it next
    /// goes on from there, under a generation of its own that is higher than 0.
    ///
    /// # Errors
    /// - [`CommitError::Fenced`]: it was begun before, with other files.
    /// - [`CommitError::Store`]: it is not known whether it was begun. Begin again, the same.
    pub async fn begin(&self, from: &Files, head_epoch: Option<Epoch>) -> Result<(), CommitError> {
        let (generation, txid) = (Generation(0), from.tip.txid);
        let name = ManifestName { generation, txid, revision: 0 };
        let manifest = Manifest::new(name, from.tip, head_epoch, from.files.clone(), Vec::new());
        let result = self.store.create(&self.layout.manifest(name), manifest.to_bytes()).await;
        match created(result)? {
            Created::Ours => Ok(()),
            Created::Taken => Err(CommitError::Fenced { txid, held: None }),
        }
    }
}
