//! Makes the newest state of a database on this host.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sprite_store::StoreError;
use sprite_types::Generation;
use tokio::task::spawn_blocking;
use tracing::debug;

use super::fetch::{Loose, Probed, parse_named};
use super::{DamagedError, FileRef, Files, Manifest, ManifestName, OpenError, Replica, left_out};
use crate::database::{Base, LocalRecord, Rebuild, Tip};
use crate::format::LtxFile;

/// How often everything is read again because the collector was faster.
const TRIES: u32 = 4;

/// A database made from the bucket.
#[derive(Debug)]
pub struct Fetched {
    /// Its newest transaction.
    pub tip: Tip,
    /// The newest manifest, if there is one.
    pub manifest: Option<Manifest>,
    /// What it was made of. A copy can begin with them, for as long as they are kept from the
    /// collector.
    pub files: Files,
}

/// The newest state on this host, and what it was made of.
pub(crate) struct Restored {
    pub(crate) base: Base,
    pub(crate) manifest: Option<Manifest>,
    /// Transactions after the manifest's.
    pub(crate) loose: Loose,
}

impl Restored {
    /// Returns the highest generation seen.
    pub(crate) fn held(&self) -> Generation {
        let loose = self.loose.iter().map(|file| file.header().generation);
        let manifest = self.manifest.iter().map(|manifest| manifest.generation);
        loose.chain(manifest).max().unwrap_or_default()
    }
}

impl Replica {
    /// Makes the newest state of the database at `path`, for reading. `None` if the bucket has
    /// none. With `sync` it is on disk when this returns.
    ///
    /// Includes every transaction whose commit had succeeded before the call. Nobody may have a
    /// database open at `path`; its local note is removed.
    ///
    /// # Errors
    /// See [`OpenError`]; there may be no database at `path` then.
    pub async fn fetch(&self, path: &Path, sync: bool) -> Result<Option<Fetched>, OpenError> {
        for _ in 0..TRIES {
            let Some(restored) = self.restore(path, None, sync).await? else { return Ok(None) };
            let tip = restored.base.tip();
            // If we were slow, what follows the manifest may have been collected under our eyes,
            // which looks like the end.
            let newest = self.list_manifests().await?.into_iter().map(|name| name.txid).max();
            if newest.is_none_or(|txid| txid <= tip.txid) {
                let files = Files { tip, files: self.files_of(&restored) };
                return Ok(Some(Fetched { tip, manifest: restored.manifest, files }));
            }
        }
        Err(OpenError::Unsettled { tries: TRIES })
    }

    fn files_of(&self, restored: &Restored) -> Vec<FileRef> {
        let named = restored.manifest.iter().flat_map(|manifest| manifest.files.iter().cloned());
        let loose = restored.loose.iter().map(|file| {
            let key = self.layout.loose(file.header().max);
            FileRef::new(key, file.header(), file.bytes().len(), file.checksum())
        });
        named.chain(loose).collect()
    }

    /// Makes the newest state, of the local database if it is a part of the bucket's history.
    pub(crate) async fn restore(
        &self,
        path: &Path,
        boot: Option<&str>,
        sync: bool,
    ) -> Result<Option<Restored>, OpenError> {
        let record = match boot {
            Some(boot) => LocalRecord::load(path, boot)?,
            None => None,
        };
        // The newest manifest when something was missing the last time.
        let mut missed: Option<Option<ManifestName>> = None;
        for _ in 0..TRIES {
            let found = self.find(record.is_none()).await?;
            let name = found.manifest.as_ref().map(Manifest::name);
            // What is missing was collected if there is a newer manifest now, and else it is lost.
            let is_lost = missed == Some(name);
            missed = Some(name);
            let loose = match found.probed {
                Probed::End(loose) => loose,
                Probed::Hole(txid) if is_lost => {
                    return Err(OpenError::damaged(&self.layout.loose(txid), DamagedError::Hole));
                }
                Probed::Hole(_) => continue,
            };
            let loose = if left_out!(self, BelieveManifest) && found.manifest.is_some() {
                Loose::new()
            } else {
                loose
            };
            let manifest = found.manifest;
            if let Some(record) = &record
                && (self.is_prefix(record.tip(), manifest.as_ref(), &loose)
                    || left_out!(self, BelieveLocal))
            {
                let local = use_local(path.to_owned(), record.clone(), loose.clone()).await?;
                if let Some(base) = local {
                    return Ok(Some(Restored { base, manifest, loose }));
                }
            }
            let files = manifest.as_ref().map_or(&[][..], |manifest| &manifest.files);
            let bytes = match found.files {
                Some(bytes) => bytes,
                None => match self.fetch_files(files).await {
                    Ok(bytes) => bytes,
                    Err(OpenError::Store(StoreError::NotFound { key })) => {
                        if is_lost {
                            return Err(OpenError::damaged(&key, DamagedError::Lost));
                        }
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let named = files.iter().cloned().zip(bytes).collect();
            let base = rebuild(path.to_owned(), named, loose.clone(), sync).await?;
            return Ok(base.map(|base| Restored { base, manifest, loose }));
        }
        Err(OpenError::Unsettled { tries: TRIES })
    }

    /// Says whether the local database is a state that the bucket's went through, as far as it is
    /// known without reading more.
    fn is_prefix(&self, local: Tip, manifest: Option<&Manifest>, loose: &[LtxFile]) -> bool {
        let at_manifest = manifest.is_some_and(|manifest| {
            (manifest.txid, manifest.checksum) == (local.txid, local.checksum)
        });
        let at_loose = loose
            .iter()
            .any(|file| (file.header().max, file.checksum()) == (local.txid, local.checksum));
        let is_prefix = at_manifest || at_loose;
        if !is_prefix {
            debug!(prefix = %self.prefix(), txid = %local.txid, "local database is not the bucket's");
        }
        is_prefix
    }
}

/// Brings the local database to the end of `loose`; `None` if it is not what its note says.
async fn use_local(
    path: PathBuf,
    record: LocalRecord,
    loose: Loose,
) -> Result<Option<Base>, OpenError> {
    blocking(move || {
        let Some(mut base) = record.recover(&path)? else { return Ok(None) };
        for file in loose.iter().filter(|file| file.header().max > record.tip().txid) {
            base.apply(file)?;
        }
        Ok(Some(base))
    })
    .await
}

/// Makes the database anew; `None` if there are no files.
async fn rebuild(
    path: PathBuf,
    named: Vec<(FileRef, Bytes)>,
    loose: Loose,
    sync: bool,
) -> Result<Option<Base>, OpenError> {
    blocking(move || {
        LocalRecord::forget(&path)?;
        let mut rebuild: Option<Rebuild> = None;
        let mut add = |file: &LtxFile| -> Result<(), OpenError> {
            match &mut rebuild {
                Some(rebuild) => rebuild.apply(file)?,
                None => rebuild = Some(Rebuild::start(&path, file)?),
            }
            Ok(())
        };
        for (name, bytes) in named {
            let file = parse_named(&name, bytes);
            add(&file.map_err(|error| OpenError::damaged(&name.key, error))?)?;
        }
        loose.iter().try_for_each(add)?;
        rebuild.map(|rebuild| Ok(rebuild.finish(sync)?)).transpose()
    })
    .await
}

/// Runs disk work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
