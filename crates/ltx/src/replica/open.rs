//! Becomes the one writer of a database.

use std::path::{Path, PathBuf};

use sprite_store::StoreError;
use sprite_types::{Generation, Timestamp, Txid};
use tracing::{debug, info};

use super::error::{Created, created};
use super::restore::Restored;
use super::{Manifest, ManifestName, OpenError, Publisher, Replica, Writer, left_out};
use crate::database::{Capture, Tip};
use crate::format::Encoded;

/// How often everything is read again because a fence was void.
const TRIES: u32 = 4;

/// How a database is opened for writing.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where the local database is, or will be. Its folder exists; nobody has it open.
    pub path: PathBuf,
    /// What was claimed for this call, and for no other.
    pub generation: Generation,
    /// Names this start of the host. A local database from another start is used only if it was
    /// closed cleanly.
    pub boot: String,
    /// The time now, for the fence.
    pub time: Timestamp,
}

/// What opening came to.
#[derive(Debug)]
pub enum Opened {
    /// The database is on this host, and no former writer can add to it.
    Existing(Box<Writer>),
    /// The bucket has no such database; it can be made.
    New(NewDatabase),
}

/// The right to begin a database, if nobody is faster.
#[derive(Debug)]
pub struct NewDatabase {
    replica: Replica,
    options: OpenOptions,
}

/// How an attempt to fence ended.
enum Fenced {
    Done(Box<Restored>),
    /// Its place had been written and collected before, or is being so.
    Void,
}

impl Replica {
    /// Opens the database for writing: makes its newest state at `options.path` and shuts out
    /// every writer with a lower generation.
    ///
    /// # Errors
    /// See [`OpenError`]. After any of them claim a new generation before trying again: a fence
    /// of this one may be in the bucket.
    ///
    /// # Cancel safety
    /// Dropped, it counts as failed.
    pub async fn open(&self, options: OpenOptions) -> Result<Opened, OpenError> {
        for _ in 0..TRIES {
            let boot = Some(options.boot.as_str());
            let Some(restored) = self.restore(&options.path, boot, false).await? else {
                return Ok(Opened::New(NewDatabase { replica: self.clone(), options }));
            };
            let (ours, held) = (options.generation, restored.held());
            if held >= ours {
                return Err(OpenError::Fenced { held, ours });
            }
            match self.fence(restored, &options).await? {
                Fenced::Done(restored) => {
                    return self.writer(*restored, options).map(Opened::Existing);
                }
                Fenced::Void => debug!(prefix = %self.prefix(), "fence was void"),
            }
        }
        Err(OpenError::Unsettled { tries: TRIES })
    }

    /// Writes a transaction that changes nothing at the first free place, so that the former
    /// writer's next one fails, whatever that writer is doing and however long it slept.
    async fn fence(
        &self,
        mut restored: Restored,
        options: &OpenOptions,
    ) -> Result<Fenced, OpenError> {
        let ours = options.generation;
        let txid = loop {
            if left_out!(self, NoFence) {
                break restored.base.tip().txid.next();
            }
            let fence = restored.base.fence(ours, options.time)?;
            let (txid, bytes) = (fence.header.max, fence.bytes);
            let result = self.store.create(&self.layout.loose(txid), bytes.clone()).await;
            if let Created::Ours = created(result)? {
                let key = self.layout.loose(txid);
                let fence = crate::format::LtxFile::parse(bytes)
                    .map_err(|error| OpenError::damaged(&key, error))?;
                restored.base.apply(&fence)?;
                restored.loose.push(fence);
                break txid;
            }
            // A transaction that the former writer finished since we read, or a newer writer's
            // fence. It is gone again if it was collected that fast.
            let Some(taken) = self.get_loose(txid).await? else { return Ok(Fenced::Void) };
            let held = taken.header().generation;
            if held >= ours {
                return Err(OpenError::Fenced { held, ours });
            }
            if left_out!(self, FenceOnce) {
                break txid;
            }
            restored.base.apply(&taken)?;
            restored.loose.push(taken);
        };
        self.settle(restored, txid, ours).await
    }

    /// Looks at the manifests once more, after the fence `txid` was written.
    ///
    /// If one covers it, its place was written before and collected since: it is under a key that
    /// nobody reads any more, and no fence. If there is a newer one than we read, it takes its
    /// place: files that only the older one names may be collected, and our own next manifest
    /// must not name them.
    async fn settle(
        &self,
        mut restored: Restored,
        txid: Txid,
        ours: Generation,
    ) -> Result<Fenced, OpenError> {
        let names = self.list_unfenced(ours).await?;
        let is_void = names.iter().any(|name| name.txid >= txid);
        if is_void && !left_out!(self, NoListAfterFence) {
            return Ok(Fenced::Void);
        }
        let used = restored.manifest.as_ref().map(Manifest::name);
        if let Some(newest) = names.last().copied().filter(|newest| Some(*newest) > used)
            && !left_out!(self, KeepOldManifest)
        {
            let manifest = match self.store.get(&self.layout.manifest(newest)).await {
                Ok(bytes) => Manifest::parse(&bytes).filter(|manifest| manifest.name() == newest),
                Err(StoreError::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let Some(manifest) = manifest.filter(|m| used.is_none_or(|used| m.txid >= used.txid))
            else {
                return Ok(Fenced::Void);
            };
            restored.loose.retain(|file| file.header().max > manifest.txid);
            restored.manifest = Some(manifest);
        }
        Ok(Fenced::Done(Box::new(restored)))
    }

    /// Lists the manifests, which must all be of lower generations or ours.
    async fn list_unfenced(&self, ours: Generation) -> Result<Vec<ManifestName>, OpenError> {
        let names = self.list_manifests().await?;
        match names.last().map(|name| name.generation) {
            Some(held) if held > ours => Err(OpenError::Fenced { held, ours }),
            _ => Ok(names),
        }
    }

    fn writer(&self, restored: Restored, options: OpenOptions) -> Result<Box<Writer>, OpenError> {
        let OpenOptions { path, generation, boot, .. } = options;
        restored.base.record()?.save(&path, &boot, false)?;
        let publisher = Publisher::new(self.clone(), generation, path, boot, &restored);
        let capture = restored.base.follow()?;
        info!(prefix = %self.prefix(), %generation, txid = %capture.tip().txid, "database opened");
        Ok(Box::new(Writer::new(capture, publisher)))
    }
}

impl NewDatabase {
    /// Returns where the database must be made.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// Begins the database with what is at [`NewDatabase::path`] now, as transaction 1.
    ///
    /// # Errors
    /// - [`OpenError::Raced`]: somebody was faster. Close the local database and open again.
    /// - See [`OpenError`] for the others.
    pub async fn create(self) -> Result<Box<Writer>, OpenError> {
        let Self { replica, options } = self;
        let ours = options.generation;
        let mut capture = Capture::create(&options.path)?;
        let Some(captured) = capture.next(ours, options.time)? else {
            unreachable!("a new capture begins with the whole database");
        };
        let Encoded { bytes, header, checksum } = captured.file;
        let result = replica.store.create(&replica.layout.loose(Txid(1)), bytes.clone()).await;
        if let Created::Taken = created(result)? {
            let held = replica.get_loose(Txid(1)).await?.map(|file| file.header().generation);
            return match held {
                Some(held) if held >= ours => Err(OpenError::Fenced { held, ours }),
                _ => Err(OpenError::Raced),
            };
        }
        // Written and collected before we came: then ours is under a key that nobody reads.
        if !replica.list_unfenced(ours).await?.is_empty() {
            return Err(OpenError::Raced);
        }
        let OpenOptions { path, generation, boot, .. } = options;
        captured.record.save(&path, &boot, false)?;
        let tip = Tip::after(&header, checksum);
        let publisher = Publisher::begin(replica, generation, path, boot, tip, header, bytes);
        Ok(Box::new(Writer::new(capture, publisher)))
    }
}
