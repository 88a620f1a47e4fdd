//! One sealed epoch on its way into the bucket.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use sprite_blockmap::Mark;
use sprite_types::{BlockIndex, Epoch, Timestamp, chain};
use tracing::warn;

use super::note::Note;
use super::policy;
use super::read::HAS_ITS_BLOCK;
use super::shared::Shared;
use crate::block::PART_LEN;
use crate::cache::{Cache, CacheError, Parts, SealedBlock, SealedEpoch, SealedKind};
use crate::remote::{self, Content, ReadError, WriteError, Writer};

/// Blocks that are made whole at once.
const WHOLE_AT_ONCE: usize = 64;

/// CRC-32C of what each block of an epoch was sent as.
pub(super) type Sums = BTreeMap<BlockIndex, u32>;

/// Why an epoch was not sent, this time.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// An epoch, and what is to be sent with it.
pub(super) struct Job {
    pub(super) sealed: SealedEpoch,
    pub(super) cut: Option<Timestamp>,
    /// The epoch after the one that was handed over before this. Numbers in between went with a
    /// power cut; they become epochs that change nothing.
    pub(super) first: Epoch,
}

/// An epoch that is in the bucket.
pub(super) struct Sent {
    pub(super) epoch: Epoch,
    pub(super) time: Timestamp,
    pub(super) sums: Sums,
}

impl Job {
    /// Brings the epoch into the bucket, however long that takes. An error is final.
    pub(super) async fn send(
        self,
        shared: Arc<Shared>,
        writer: Writer,
    ) -> Result<Sent, WriteError> {
        let epoch = self.sealed.epoch;
        let mut tries = 0;
        loop {
            let error = match self.attempt(&shared, &writer).await {
                Ok(sent) => return Ok(sent),
                Err(SendError::Write(
                    error @ (WriteError::Fenced { .. } | WriteError::Broken { .. }),
                )) => return Err(error),
                Err(SendError::Cache(error @ (CacheError::Failed | CacheError::Io { .. }))) => {
                    let reason = chain(&error).into();
                    return Err(WriteError::Broken { reason });
                }
                Err(error) => error,
            };
            warn!(%epoch, error = &error as &dyn std::error::Error, "epoch not sent yet");
            let trouble: Arc<str> = chain(&error).into();
            shared.progress.send_modify(|progress| progress.trouble = Some(trouble));
            tokio::time::sleep(policy::retry_wait(tries)).await;
            tries += 1;
        }
    }

    async fn attempt(&self, shared: &Arc<Shared>, writer: &Writer) -> Result<Sent, SendError> {
        let SealedEpoch { epoch, kind } = &self.sealed;
        let note = match kind {
            SealedKind::Plain => None,
            SealedKind::Named(note) | SealedKind::Restore(note) => Note::decode(note),
        };
        let time = note.as_ref().map(|note| note.time).or(self.cut);
        let time = time.unwrap_or_else(|| shared.clock.now());
        let mark = note.as_ref().map(|note| note.mark.clone()).unwrap_or_default();
        let sums: Arc<Mutex<Sums>> = Arc::default();
        let durable = *writer.durable().borrow();
        for missing in (self.first.0.max(durable.0 + 1)..epoch.0).map(Epoch) {
            let blocks: remote::Blocks = Box::new(std::iter::empty());
            writer.commit(seal(missing, time, Mark::default(), blocks)).await?;
        }
        // A former process, or a former try, may have got this far.
        if durable < *epoch {
            match (kind, note.and_then(|note| note.from)) {
                (SealedKind::Restore(_), Some(from)) => {
                    writer.restore(*epoch, from, time, mark).await?;
                }
                _ => {
                    let gaps = make_whole(shared, *epoch).await?;
                    let blocks = blocks(shared.cache.clone(), *epoch, gaps, sums.clone());
                    writer.commit(seal(*epoch, time, mark, blocks)).await?;
                }
            }
        }
        let sums = std::mem::take(&mut *sums.lock().expect("no holder of this lock panics"));
        Ok(Sent { epoch: *epoch, time, sums })
    }
}

fn seal(epoch: Epoch, time: Timestamp, mark: Mark, blocks: remote::Blocks) -> remote::SealedEpoch {
    remote::SealedEpoch { epoch, time, mark, zeroes: Vec::new(), blocks }
}

/// Fetches what an epoch's blocks lack, into the cache. Returns the blocks that it could not
/// make whole there: a later epoch has written them too.
///
/// What a part that is not valid holds was not changed by any epoch that the bucket does not
/// have, or the slot would have a copy; so it does not matter how many of them are in the map
/// already. The last restore is: nothing after it is sent before that.
async fn make_whole(
    shared: &Shared,
    epoch: Epoch,
) -> Result<BTreeMap<BlockIndex, Content>, SendError> {
    let mut kept = BTreeMap::new();
    // A slot that lies before a restore is not the disk any more; a fill would bring it back.
    let is_cut = |sealed: &SealedEpoch| matches!(sealed.kind, SealedKind::Restore(_));
    let may_fill = !shared.cache.sealed_epochs().iter().any(is_cut);
    loop {
        let mut gaps = shared.cache.sealed_gaps(epoch);
        gaps.retain(|block| !kept.contains_key(block));
        gaps.truncate(WHOLE_AT_ONCE);
        if gaps.is_empty() {
            return Ok(kept);
        }
        for block in &gaps {
            let run = shared.remote.read_run(*block).await?;
            let fetched = run.as_ref().map(|run| run.get(*block).expect(HAS_ITS_BLOCK));
            let content = fetched.map_or_else(remote::empty, |fetched| fetched.content.clone());
            let entry = fetched.map(|fetched| fetched.entry.to_bytes());
            let entry = entry.map_or(crate::cache::Entry::NONE, crate::cache::Entry);
            let look_up = |block| super::shared::entry_of(&shared.remote, block);
            if may_fill {
                shared.cache.fill(*block, entry, &content, &look_up)?;
            }
            kept.insert(*block, content);
        }
        let still: std::collections::BTreeSet<BlockIndex> =
            shared.cache.sealed_gaps(epoch).into_iter().collect();
        kept.retain(|block, _| still.contains(block));
    }
}

fn blocks(
    cache: Arc<Cache>,
    epoch: Epoch,
    gaps: BTreeMap<BlockIndex, Content>,
    sums: Arc<Mutex<Sums>>,
) -> remote::Blocks {
    Box::new(cache.into_sealed_blocks(epoch).map(move |sealed| {
        let SealedBlock { block, valid, mut content, .. } = sealed.map_err(io::Error::other)?;
        let missing = !valid;
        if !missing.is_empty() {
            let below = gaps.get(&block);
            let below = below.ok_or_else(|| io::Error::other("a block is not whole"))?;
            copy(missing, below, &mut content);
        }
        let sum = crc32c::crc32c(&content[..]);
        sums.lock().expect("no holder of this lock panics").insert(block, sum);
        Ok((block, content))
    }))
}

fn copy(parts: Parts, from: &Content, to: &mut Content) {
    for run in parts.runs() {
        debug_assert!(run.len().is_multiple_of(PART_LEN), "whole parts");
        to[run.clone()].copy_from_slice(&from[run]);
    }
}
