//! Joining what is left on this host with what is in the bucket.

use std::sync::Arc;

use sprite_lease::{Claim, ClaimError};
use sprite_store::Series;
use sprite_types::{BlockIndex, Clock, Generation};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::note::Note;
use super::policy::Bounds;
use super::shared::{Shared, entry_of};
use super::writeback::Writeback;
use super::{Engine, Fsync, OpenError};
use crate::cache::{
    self, Cache, Dir, ForeignClaim, HeadInfo, LeftBehind, Memory, Recovered, SealedEpoch,
    SealedKind,
};
use crate::remote::Writer;

/// How a disk is opened.
pub struct EngineSettings {
    /// Where the cache is; locked by this process.
    pub dir: Arc<dyn Dir>,
    /// The cache's sizes.
    pub cache: cache::Settings,
    /// The slot table of a predecessor that died, if somebody kept it. It must be gone for good.
    pub memory: Option<Memory>,
    /// What a flush promises.
    pub fsync: Fsync,
    /// When to seal.
    pub bounds: Bounds,
    /// Tells when cuts were made.
    pub clock: Arc<dyn Clock>,
}

impl Engine {
    /// Opens a disk: takes back what a former process left in the cache, or sets it aside if
    /// another host claimed the volume since. Must be called in a tokio runtime.
    ///
    /// A restore that was cut off is finished before this returns, which needs the bucket;
    /// anything else that was not sent is sent later.
    ///
    /// # Errors
    /// See [`OpenError`]. What is in the cache directory stays there.
    pub async fn open(
        settings: EngineSettings,
        writer: Writer,
    ) -> Result<(Self, Recovered), OpenError> {
        let EngineSettings { dir, cache, memory, fsync, bounds, clock } = settings;
        let left = Cache::left_behind(dir.as_ref())?;
        let foreign = match &left {
            Some(left) => foreign_claim(&writer, left).await?,
            None => None,
        };
        let head =
            HeadInfo { generation: writer.generation(), epoch: writer.reader().head(), foreign };
        let reader = writer.reader().clone();
        let opening = spawn_blocking(move || {
            let look_up = |block: BlockIndex| entry_of(&reader, block);
            match memory {
                Some(memory) => {
                    let adopted = Cache::adopt(dir.clone(), cache.clone(), memory)?;
                    if head.foreign.is_none() {
                        return Ok(adopted);
                    }
                    // What is set aside is what the journal has.
                    if adopted.0.flush().is_err() {
                        return Err(cache::OpenError::Failed);
                    }
                    drop(adopted);
                    Cache::open(dir, cache, &head, &look_up)
                }
                None => Cache::open(dir, cache, &head, &look_up),
            }
        });
        let opened = opening.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        let (cache, recovered) = opened?;
        for SealedEpoch { epoch, kind } in &recovered.sealed {
            if let SealedKind::Named(note) | SealedKind::Restore(note) = kind
                && Note::decode(note).is_none()
            {
                return Err(OpenError::Note { epoch: *epoch });
            }
        }
        let restore = recovered.sealed.iter().rev();
        let restore = restore.clone().find(|s| matches!(s.kind, SealedKind::Restore(_)));
        let restore = restore.map(|sealed| sealed.epoch);
        let reader = writer.reader().clone();
        let shared = Arc::new(Shared::new(Arc::new(cache), reader, fsync, clock));
        let owner = Writeback::new(shared.clone(), writer.clone(), bounds);
        let owner = tokio::spawn(owner.run());
        let engine = Self { shared, writer, runtime: Handle::current(), owner };
        if let Some(epoch) = restore {
            engine.shared.until_durable(epoch).await?;
        }
        Ok((engine, recovered))
    }
}

/// Finds out whether another host claimed the volume since the cache was last used.
///
/// Where its first claim lies between our epochs is not looked up: everything that the cache did
/// not know to be in the bucket is set aside, also if it is there. That keeps too much, never
/// too little.
async fn foreign_claim(
    writer: &Writer,
    left: &LeftBehind,
) -> Result<Option<ForeignClaim>, ClaimError> {
    let claims = Series::new(writer.store().clone(), writer.folder().generations());
    let ours = writer.generation();
    let mut foreign = None;
    for number in left.generation.0 + 1..ours.0 {
        let key = || claims.key(number);
        let read = claims.read(number).await;
        let bytes = read.map_err(|source| ClaimError::Store { key: key(), source })?;
        // One that cannot be found or read may be anybody's.
        let host = bytes.and_then(|bytes| Claim::decode(&bytes, Generation(number)).ok());
        if host.is_none_or(|claim| claim.claimant.host != writer.claim().claimant.host) {
            let generation = Generation(number);
            foreign = Some(ForeignClaim { generation, ours_until: left.durable_epoch });
        }
    }
    Ok(foreign)
}
