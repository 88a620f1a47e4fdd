//! Finds the newest manifest, and reads what it names while it is not yet sure which it is.

use std::sync::OnceLock;

use bytes::Bytes;
use futures::future::{Either, join, select};
use sprite_store::StoreError;
use sprite_types::Txid;
use tracing::debug;

use super::fetch::Probed;
use super::{DamagedError, Manifest, ManifestName, OpenError, Replica, left_out};

/// How often a manifest that was listed may vanish before it was read.
const TRIES: u32 = 4;

/// The newest manifest and what follows it.
pub(crate) struct Found {
    /// `None`: there is none.
    pub(crate) manifest: Option<Manifest>,
    /// The bytes of its files, in its order; `None` if they were not asked for, or if one of them
    /// does not exist.
    pub(crate) files: Option<Vec<Bytes>>,
    /// Transactions after it.
    pub(crate) probed: Probed,
}

/// What was read on the hint's word.
struct Guess {
    manifest: Manifest,
    files: Option<Vec<Bytes>>,
    probed: Probed,
}

impl Replica {
    /// Lists the manifests, oldest first.
    pub(crate) async fn list_manifests(&self) -> Result<Vec<ManifestName>, StoreError> {
        let listed = self.store.list(self.layout.manifests()).await?;
        let mut names: Vec<ManifestName> = listed
            .iter()
            .filter_map(|object| {
                ManifestName::parse(object.key.relative_to(self.layout.manifests())?)
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Finds the newest manifest, its files if asked for, and what follows.
    ///
    /// The hint's manifest is read ahead; it counts only if it is the one that the listing shows
    /// as the newest, to the byte.
    pub(crate) async fn find(&self, with_files: bool) -> Result<Found, OpenError> {
        let hinted = OnceLock::new();
        let confirm = std::pin::pin!(self.newest_manifest());
        let guess = std::pin::pin!(self.guess(with_files, &hinted));
        let (newest, guess) = match select(confirm, guess).await {
            Either::Left((newest, guess)) => {
                let newest = newest?;
                // Worth waiting for only if it guesses right.
                let right = hinted.get().is_some() && hinted.get() == newest.as_ref();
                (newest, if right { guess.await } else { None })
            }
            Either::Right((guess, _)) if guess.is_some() && left_out!(self, BelieveHint) => {
                (None, guess)
            }
            Either::Right((guess, confirm)) => {
                let newest = confirm.await?;
                (newest.clone(), guess.filter(|_| hinted.get() == newest.as_ref()))
            }
        };
        if let Some(Guess { manifest, files, probed }) = guess {
            return Ok(Found { manifest: Some(manifest), files, probed });
        }
        let Some(bytes) = newest else {
            return Ok(Found { manifest: None, files: None, probed: self.probe(Txid(1)).await? });
        };
        let manifest = Manifest::parse(&bytes).expect("parsed when it was confirmed");
        let (files, probed) = self.read_all(&manifest, with_files).await;
        Ok(Found { files: files?, probed: probed?, manifest: Some(manifest) })
    }

    /// Reads the newest manifest that the listing shows; the bytes are those of a manifest.
    async fn newest_manifest(&self) -> Result<Option<Bytes>, OpenError> {
        for _ in 0..TRIES {
            let Some(name) = self.list_manifests().await?.pop() else { return Ok(None) };
            let key = self.layout.manifest(name);
            match self.store.get(&key).await {
                Ok(bytes) if Manifest::parse(&bytes).is_some_and(|m| m.name() == name) => {
                    return Ok(Some(bytes));
                }
                Ok(_) => return Err(OpenError::damaged(&key, DamagedError::Manifest)),
                // Collected since it was listed, so there are newer ones.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(OpenError::Unsettled { tries: TRIES })
    }

    /// Reads what the hint names. It may be anything, so nothing that goes wrong matters.
    async fn guess(&self, with_files: bool, hinted: &OnceLock<Bytes>) -> Option<Guess> {
        let hint = self.store.get(self.layout.hint()).await.ok()?;
        let manifest = Manifest::parse(&hint)?;
        hinted.set(hint).ok()?;
        let (files, probed) = self.read_all(&manifest, with_files).await;
        match (files, probed) {
            (Ok(files), Ok(probed)) => Some(Guess { manifest, files, probed }),
            (Err(error), _) | (_, Err(error)) => {
                debug!(prefix = %self.prefix(), %error, "hint was of no use");
                None
            }
        }
    }

    async fn read_all(
        &self,
        manifest: &Manifest,
        with_files: bool,
    ) -> (Result<Option<Vec<Bytes>>, OpenError>, Result<Probed, OpenError>) {
        let files = async {
            if !with_files {
                return Ok(None);
            }
            match self.fetch_files(&manifest.files).await {
                Ok(files) => Ok(Some(files)),
                // Collected, or lost; whoever needs it finds out which.
                Err(OpenError::Store(StoreError::NotFound { .. })) => Ok(None),
                Err(error) => Err(error),
            }
        };
        join(files, self.probe(manifest.txid.next())).await
    }
}
