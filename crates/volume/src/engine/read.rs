//! Requests of the disk: what the cache has, and what has to be fetched first.

use std::ops::Range;
use std::sync::atomic::Ordering;

use sprite_types::BlockIndex;

use super::shared::{Shared, entry_of};
use super::{EngineError, Fsync, policy};
use crate::block::BLOCK_LEN;
use crate::cache::{CacheError, Entry, Filled, Parts, Read};
use crate::remote::Run;

/// What [`crate::remote::Reader::read_run`] promises.
pub(super) const HAS_ITS_BLOCK: &str = "a run has the block that it was fetched for";

impl Shared {
    /// Reads without fetching. False: something is not here.
    pub(super) fn read_here(&self, offset: u64, buf: &mut [u8]) -> Result<bool, EngineError> {
        self.check()?;
        for (block, range, at) in self.split(offset, buf.len() as u64)? {
            match self.cache.read(block, range, &mut buf[at])? {
                Read::Hit => {}
                Read::Miss { .. } => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(super) async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        self.check()?;
        for (block, range, at) in self.split(offset, buf.len() as u64)? {
            let here = self.cache.read(block, range.clone(), &mut buf[at.clone()])?;
            if let Read::Miss { missing } = here {
                // After that answer: what the map says now is what was missing.
                let run = self.remote.read_run(block).await?;
                let fetched = run.as_ref().map(|run| run.get(block).expect(HAS_ITS_BLOCK));
                let content = fetched.map(|fetched| &fetched.content[..]);
                copy_parts(missing, &range, content, &mut buf[at]);
                if let Some(run) = run {
                    self.fill(&run)?;
                }
            }
        }
        Ok(())
    }

    /// Keeps what came along.
    pub(super) fn fill(&self, run: &Run) -> Result<(), EngineError> {
        for fetched in run.blocks() {
            let entry = Entry(fetched.entry.to_bytes());
            if !self.fill_one(fetched.block, entry, &fetched.content)? {
                break;
            }
        }
        Ok(())
    }

    /// False: there is no room, now.
    fn fill_one(
        &self,
        block: BlockIndex,
        entry: Entry,
        content: &[u8; BLOCK_LEN],
    ) -> Result<bool, EngineError> {
        let look_up = |block| entry_of(&self.remote, block);
        for _ in 0..2 {
            match self.cache.fill(block, entry, content, &look_up)? {
                Filled::Kept | Filled::Stale => return Ok(true),
                Filled::NoSlot => match self.cache.make_slot() {
                    Ok(()) => {}
                    Err(CacheError::Full | CacheError::HostFull) => return Ok(false),
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(false)
    }

    pub(super) async fn write(&self, offset: u64, data: &[u8]) -> Result<(), EngineError> {
        self.change(data.len() as u64, || self.cache.write(offset, data)).await
    }

    pub(super) async fn zero(&self, offset: u64, len: u64) -> Result<(), EngineError> {
        let mapped = |block| self.remote.lookup(block).is_some();
        // Whole blocks take no room; what is written at the edges is small.
        self.change(0, || self.cache.zero(offset, len, &mapped)).await
    }

    /// Repeats a change of the cache until there is room for it and it has what it needs.
    async fn change(
        &self,
        len: u64,
        change: impl Fn() -> Result<(), CacheError>,
    ) -> Result<(), EngineError> {
        self.admit(len).await?;
        let mut in_vain = 0;
        loop {
            self.check()?;
            let mut progress = self.progress.subscribe();
            let was_idle = self.is_idle();
            let result = change();
            // Also if it failed: a part of it may be there.
            self.note_change();
            let full = match result {
                Ok(()) => return Ok(()),
                Err(CacheError::NeedsFill { block, .. }) => {
                    if self.fetch(block).await? {
                        continue;
                    }
                    CacheError::Full
                }
                Err(full @ (CacheError::Full | CacheError::HostFull)) => full,
                Err(error) => return Err(error.into()),
            };
            if self.is_idle() {
                // No upload will make room; but one that ended since the attempt began has.
                in_vain = if was_idle { in_vain + 1 } else { 0 };
                if in_vain >= 2 {
                    return Err(full.into());
                }
                continue;
            }
            self.want_seal.store(true, Ordering::Release);
            self.wake.notify_one();
            // Also an error, at the end; the check above says why.
            let _ = progress.changed().await;
        }
    }

    /// Says whether there is nothing that an upload could take out of the cache.
    fn is_idle(&self) -> bool {
        let stats = self.cache.stats();
        stats.sealed_epochs == 0 && stats.open_bytes == 0
    }

    /// Fetches a block of which a part is needed before another is written. False: there is no
    /// room for it, now.
    async fn fetch(&self, block: BlockIndex) -> Result<bool, EngineError> {
        match self.remote.read_run(block).await? {
            Some(run) => {
                let wanted = run.get(block).expect(HAS_ITS_BLOCK);
                let entry = Entry(wanted.entry.to_bytes());
                self.fill_one(block, entry, &wanted.content)
            }
            None => {
                let zeroes: Box<[u8; BLOCK_LEN]> = crate::remote::empty();
                self.fill_one(block, Entry::NONE, &zeroes)
            }
        }
    }

    /// Slows writes down to the speed of the uploads.
    async fn admit(&self, len: u64) -> Result<(), EngineError> {
        let slots = (len.div_ceil(BLOCK_LEN as u64) + 1) * BLOCK_LEN as u64;
        let bytes = i64::try_from(slots).unwrap_or(i64::MAX);
        if len == 0 || self.room.fetch_sub(bytes, Ordering::AcqRel) >= bytes {
            return Ok(());
        }
        loop {
            self.check()?;
            let mut progress = self.progress.subscribe();
            let stats = self.cache.stats();
            let unsent = stats.open_bytes + stats.sealed_bytes;
            if !policy::must_wait(unsent, stats.unsent_bytes_max) {
                let room = i64::try_from(stats.room_bytes()).unwrap_or(i64::MAX);
                self.room.store(room, Ordering::Release);
                return Ok(());
            }
            self.want_seal.store(true, Ordering::Release);
            self.wake.notify_one();
            let _ = progress.changed().await;
        }
    }

    pub(super) async fn flush(&self) -> Result<(), EngineError> {
        self.check()?;
        match self.fsync {
            Fsync::Local => Ok(self.cache.flush()?),
            Fsync::Bucket => self.settle().await.map(drop),
        }
    }

    /// Splits a range into ranges of blocks, each with its place in the request's buffer.
    fn split(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<impl Iterator<Item = (BlockIndex, Range<usize>, Range<usize>)> + use<>, EngineError>
    {
        let mut done = 0;
        let blocks = self.cache.split(offset, len)?;
        Ok(blocks.map(move |(block, range)| {
            let at = done..done + range.len();
            done = at.end;
            (block, range, at)
        }))
    }
}

/// Copies the missing parts of `range` from a block's content, or zeroes, to `buf`, which is as
/// long as `range`.
fn copy_parts(missing: Parts, range: &Range<usize>, content: Option<&[u8]>, buf: &mut [u8]) {
    for run in missing.runs() {
        let (start, end) = (run.start.max(range.start), run.end.min(range.end));
        let target = &mut buf[start - range.start..end - range.start];
        match content {
            Some(content) => target.copy_from_slice(&content[start..end]),
            None => target.fill(0),
        }
    }
}
