//! Reading: where blocks are, what is in them, what epochs there are.

use std::sync::{Arc, Mutex, MutexGuard};

use sprite_blockmap::{BlockMap, BlockMapError, Entry, EpochInfo};
use sprite_types::{BlockIndex, Epoch};

use super::fetch::{Fetched, Fetcher, Plan, Run, empty};
use super::seal::Content;
use super::{ReadError, Statistics};

/// How many epochs are looked at for one that does not need a damaged block.
const INTACT_EPOCHS: usize = 16;
/// Runs that one call fetches at once.
const RUNS_MAX: usize = 16;

/// Reads a volume. Cheap to clone.
///
/// One that came from a [`super::Writer`] sees each epoch as soon as it is committed; one from
/// [`super::Remote::view`] stays at the state it found. Packs are kept for the collector's grace
/// after the last epoch that names them went.
#[derive(Clone)]
pub struct Reader {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    map: Mutex<BlockMap>,
    pub(crate) fetcher: Fetcher,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(map: BlockMap, fetcher: Fetcher) -> Self {
        Self { inner: Arc::new(Inner { map: Mutex::new(map), fetcher }) }
    }

    /// Borrows the map. Never across an await.
    pub(crate) fn map(&self) -> MutexGuard<'_, BlockMap> {
        self.inner.map.lock().expect("no thread panicked while it changed the map")
    }

    /// Returns the newest epoch that this reader sees.
    #[must_use]
    pub fn head(&self) -> Epoch {
        self.map().head()
    }

    /// Returns the size of the disk in blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.map().blocks()
    }

    /// Returns where a block is now; `None` if it reads as zeroes.
    #[must_use]
    pub fn lookup(&self, block: BlockIndex) -> Option<Entry> {
        self.map().lookup(block)
    }

    /// Returns what was sent and fetched so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.inner.fetcher.counters().read()
    }

    /// Lists the epochs that were not pruned, oldest first; the last is the head.
    #[must_use]
    pub fn history(&self) -> Vec<EpochInfo> {
        self.map().history().collect()
    }

    /// Returns the blocks that differ between two epochs, in order.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: one of them is not there, or was pruned.
    pub fn diff(&self, from: Epoch, to: Epoch) -> Result<Vec<BlockIndex>, BlockMapError> {
        self.map().diff(from, to)
    }

    /// Reads one block of the newest state.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, block: BlockIndex) -> Result<Content, ReadError> {
        let mut found = empty();
        self.read_blocks(&[block], |fetched| {
            if fetched.block == block {
                found.copy_from_slice(&fetched.content[..]);
            }
        })
        .await?;
        Ok(found)
    }

    /// Reads one block of an epoch.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_at(&self, epoch: Epoch, block: BlockIndex) -> Result<Content, ReadError> {
        let Some(plan) = self.plan_at(epoch, block)? else { return Ok(empty()) };
        let run = self.fetch(plan).await?;
        Ok(run.get(block).map_or_else(empty, |fetched| fetched.content.clone()))
    }

    /// Reads blocks of the newest state. `fill` gets every block that came along, wanted or not,
    /// once; wanted blocks that it does not get are zeroes. It has to compare the entry with the
    /// block's present one: the block may have been written anew since.
    ///
    /// # Errors
    /// See [`ReadError`]; what `fill` got is right all the same.
    pub async fn read_blocks(
        &self,
        blocks: &[BlockIndex],
        mut fill: impl FnMut(&Fetched),
    ) -> Result<(), ReadError> {
        let mut wanted = blocks.iter().copied().peekable();
        while wanted.peek().is_some() {
            let mut plans: Vec<Plan> = Vec::new();
            while plans.len() < RUNS_MAX
                && let Some(block) = wanted.next()
            {
                let covered = |plan: &Plan| plan.entries.iter().any(|(near, _)| *near == block);
                if plans.iter().any(covered) {
                    continue;
                }
                plans.extend(self.plan(block)?);
            }
            // A wanted block that came along damaged has to be asked for by name.
            let mut covered: Vec<(BlockIndex, Entry)> =
                plans.iter().flat_map(|plan| plan.entries.iter().copied()).collect();
            covered.retain(|(block, _)| blocks.contains(block));
            let runs = plans.into_iter().map(|plan| self.fetch(plan));
            let runs = futures::future::try_join_all(runs).await?;
            runs.iter().flat_map(|run| run.blocks()).for_each(&mut fill);
            for (block, _) in covered {
                if runs.iter().all(|run| run.get(block).is_none())
                    && let Some(plan) = self.plan(block)?
                {
                    self.fetch(plan).await?.get(block).into_iter().for_each(&mut fill);
                }
            }
        }
        Ok(())
    }

    /// Fetches a block of the newest state with its neighbours; `None` if it is zeroes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_run(&self, block: BlockIndex) -> Result<Option<Arc<Run>>, ReadError> {
        match self.plan(block)? {
            None => Ok(None),
            Some(plan) => self.fetch(plan).await.map(Some),
        }
    }

    fn plan(&self, block: BlockIndex) -> Result<Option<Plan>, ReadError> {
        let map = self.map();
        if block.0 >= map.blocks() {
            return Err(ReadError::Beyond { block });
        }
        let Some(entry) = map.lookup(block) else { return Ok(None) };
        let pack = map.pack(entry.pack())?;
        let lookup = |block| Ok(map.lookup(block));
        self.inner.fetcher.plan((block, entry), &pack, lookup).map(Some)
    }

    fn plan_at(&self, epoch: Epoch, block: BlockIndex) -> Result<Option<Plan>, ReadError> {
        let map = self.map();
        let view = map.state_at(epoch)?;
        if block.0 >= view.blocks() {
            return Err(ReadError::Beyond { block });
        }
        let Some(entry) = view.lookup(block)? else { return Ok(None) };
        let pack = map.pack(entry.pack())?;
        let blocks = view.blocks();
        let lookup =
            |block: BlockIndex| if block.0 < blocks { view.lookup(block) } else { Ok(None) };
        self.inner.fetcher.plan((block, entry), &pack, lookup).map(Some)
    }

    async fn fetch(&self, plan: Plan) -> Result<Arc<Run>, ReadError> {
        let ((block, entry), key) = (plan.wanted, plan.key.to_string());
        self.inner.fetcher.fetch(plan).await.map_err(|source| {
            let intact = self.intact(block, entry);
            ReadError::Fetch { block, key, intact, source }
        })
    }

    /// Finds the newest of the last epochs that does not have `block` at `entry`.
    fn intact(&self, block: BlockIndex, entry: Entry) -> Option<Epoch> {
        let map = self.map();
        let elsewhere = |info: &EpochInfo| {
            let state = map.state_at(info.epoch).and_then(|view| view.lookup(block));
            matches!(state, Ok(found) if found != Some(entry))
        };
        map.history().rev().take(INTACT_EPOCHS).find(elsewhere).map(|info| info.epoch)
    }
}
