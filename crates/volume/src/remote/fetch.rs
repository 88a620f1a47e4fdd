//! Fetching runs of neighbouring blocks from packs.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use sprite_blockmap::{BlockMapError, Entry, Pack};
use sprite_store::{Key, Store};
use sprite_types::{BlockIndex, VolumeId};

use super::seal::Content;
use super::settings::{Counters, RemoteSettings};
use super::{FetchError, ReadError};
use crate::block::BLOCK_LEN;
use crate::bucket::VolumeFolder;
use crate::pack::{PackError, open_block};

/// Neighbours are looked for among this many blocks of the disk to either side: a leaf of the map.
const NEIGHBOURS: u32 = 512;
/// Bytes between two blocks of a run that are fetched for nothing at most.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// How often a damaged block is fetched: once again, as bytes may break on their way.
const TRIES: u32 = 2;

/// A block that was fetched and found to be what its entry says.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Which block.
    pub block: BlockIndex,
    /// The entry it was fetched by.
    pub entry: Entry,
    /// Its bytes.
    pub content: Content,
}

/// What one request brought: the block that was asked for and its neighbours.
#[derive(Debug)]
pub struct Run {
    blocks: Vec<Fetched>,
    damaged: HashMap<BlockIndex, PackError>,
}

impl Run {
    /// Returns the whole blocks, in the order of the pack.
    #[must_use]
    pub fn blocks(&self) -> &[Fetched] {
        &self.blocks
    }

    /// Returns one block, if it came along and is whole.
    #[must_use]
    pub fn get(&self, block: BlockIndex) -> Option<&Fetched> {
        self.blocks.iter().find(|fetched| fetched.block == block)
    }
}

/// One request to be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) key: Key,
    /// In the order of the pack; not empty.
    pub(crate) entries: Vec<(BlockIndex, Entry)>,
    pub(crate) wanted: (BlockIndex, Entry),
}

type Outcome = Result<Arc<Run>, Arc<FetchError>>;
type Pending = WeakShared<BoxFuture<'static, Outcome>>;
/// A place in a pack.
type Place = (Key, u32);

/// Fetches blocks. Cheap to clone; clones share what is on its way.
#[derive(Clone)]
pub(crate) struct Fetcher {
    store: Store,
    folders: Arc<BTreeMap<VolumeId, VolumeFolder>>,
    settings: RemoteSettings,
    counters: Arc<Counters>,
    pending: Arc<Mutex<HashMap<Place, Pending>>>,
}

impl Fetcher {
    /// `folders` are those of the volume and its ancestors.
    pub(crate) fn new(
        store: Store,
        folders: BTreeMap<VolumeId, VolumeFolder>,
        settings: RemoteSettings,
        counters: Arc<Counters>,
    ) -> Self {
        Self { store, folders: Arc::new(folders), settings, counters, pending: Arc::default() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the folder of this volume or of an ancestor.
    pub(crate) fn folder(&self, volume: &VolumeId) -> Option<&VolumeFolder> {
        self.folders.get(volume)
    }

    /// Returns the whole key of a pack; `None` if it is no ancestor's, or no key.
    pub(crate) fn key(&self, pack: &Pack) -> Option<Key> {
        self.folder(&pack.owner)?.root().key(&pack.key).ok()
    }

    /// Chooses what to fetch along with `block`: blocks that lie near it both on the disk and in
    /// the pack. `lookup` says where blocks are.
    pub(crate) fn plan(
        &self,
        (block, entry): (BlockIndex, Entry),
        pack: &Pack,
        mut lookup: impl FnMut(BlockIndex) -> Result<Option<Entry>, BlockMapError>,
    ) -> Result<Plan, ReadError> {
        let stranger = || ReadError::Stranger { block, owner: pack.owner.clone() };
        let key = self.key(pack).ok_or_else(stranger)?;
        let mut entries = Vec::new();
        for near in block.0.saturating_sub(NEIGHBOURS)..block.0.saturating_add(NEIGHBOURS) {
            match lookup(BlockIndex(near))? {
                Some(near_entry) if near_entry.pack() == entry.pack() => {
                    entries.push((BlockIndex(near), near_entry));
                }
                _ => {}
            }
        }
        entries.sort_by_key(|(_, entry)| entry.offset());
        let wanted = entries.iter().position(|(near, _)| *near == block);
        let wanted = wanted.expect("the block is among its neighbours");
        let chosen = self.choose(&entries, wanted);
        Ok(Plan { key, entries: entries[chosen].to_vec(), wanted: (block, entry) })
    }

    /// Grows a run around `wanted`: forwards as far as allowed, then back if it is short.
    fn choose(&self, entries: &[(BlockIndex, Entry)], wanted: usize) -> Range<usize> {
        let end_of = |at: usize| u64::from(entries[at].1.offset()) + u64::from(entries[at].1.len());
        let start_of = |at: usize| u64::from(entries[at].1.offset());
        let near = |before: usize, after: usize| {
            start_of(after).saturating_sub(end_of(before)) <= GAP_BYTES_MAX
        };
        let (mut first, mut last) = (wanted, wanted);
        while last + 1 < entries.len()
            && near(last, last + 1)
            && end_of(last + 1) - start_of(first) <= self.settings.run_bytes_max
        {
            last += 1;
        }
        while first > 0
            && near(first - 1, first)
            && end_of(last) - start_of(first) < self.settings.run_bytes_min
            && end_of(last) - start_of(first - 1) <= self.settings.run_bytes_max
        {
            first -= 1;
        }
        first..last + 1
    }

    /// Fetches a run, or waits for one that is on its way and has the block.
    ///
    /// # Cancel safety
    /// A request ends when nobody waits for it any more.
    pub(crate) async fn fetch(&self, plan: Plan) -> Outcome {
        let (block, entry) = plan.wanted;
        let place = (plan.key.clone(), entry.offset());
        let running = {
            let mut pending = self.pending();
            match pending.get(&place).and_then(WeakShared::upgrade) {
                Some(running) => running,
                None => self.start(&mut pending, &plan),
            }
        };
        let run = running.await?;
        if run.get(block).is_some_and(|fetched| fetched.entry == entry) {
            return Ok(run);
        }
        // Damaged, perhaps only on its way; alone, it is settled for this caller.
        self.counters.damaged();
        let mut last = run.damaged.get(&block).cloned();
        for _ in 1..TRIES {
            let run = self.get(&plan.key, &[(block, entry)]).await.map_err(Arc::new)?;
            if run.get(block).is_some() {
                return Ok(Arc::new(run));
            }
            last = run.damaged.get(&block).cloned();
        }
        let last = last.unwrap_or(PackError::Block { what: "place" });
        Err(Arc::new(FetchError::Pack(last)))
    }

    /// Registers a request for all blocks of the plan. Does not run it.
    fn start(
        &self,
        pending: &mut HashMap<Place, Pending>,
        plan: &Plan,
    ) -> Shared<BoxFuture<'static, Outcome>> {
        let places: Vec<Place> =
            plan.entries.iter().map(|(_, entry)| (plan.key.clone(), entry.offset())).collect();
        let forget = Forget { pending: self.pending.clone(), places: places.clone() };
        let (this, key, entries) = (self.clone(), plan.key.clone(), plan.entries.clone());
        let request = async move {
            let outcome = this.get(&key, &entries).await;
            drop(forget);
            outcome.map(Arc::new).map_err(Arc::new)
        };
        let running = request.boxed().shared();
        let weak = running.downgrade().expect("it has not been polled");
        // Without looking whether there is one: it would end here if nobody else holds it, and
        // take the lock that is held.
        pending.extend(places.into_iter().map(|place| (place, weak.clone())));
        running
    }

    async fn get(&self, key: &Key, entries: &[(BlockIndex, Entry)]) -> Result<Run, FetchError> {
        let start = entries.iter().map(|(_, entry)| u64::from(entry.offset())).min().unwrap_or(0);
        let ends = entries.iter().map(|(_, e)| u64::from(e.offset()) + u64::from(e.len()));
        let end = ends.max().unwrap_or(0);
        let bytes = self.store.get_range(key, start..end).await?;
        self.counters.range(end - start);
        let (mut blocks, mut damaged) = (Vec::new(), HashMap::new());
        for (block, entry) in entries.iter().copied() {
            let from = (u64::from(entry.offset()) - start) as usize;
            let mut content = empty();
            match open_block(&entry, &bytes[from..from + entry.len() as usize], &mut content) {
                Ok(()) => blocks.push(Fetched { block, entry, content }),
                Err(error) => drop(damaged.insert(block, error)),
            }
        }
        Ok(Run { blocks, damaged })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Place, Pending>> {
        self.pending.lock().expect("no thread panics while it holds the table of requests")
    }
}

/// Takes a request from the table when it ends, also by being dropped.
struct Forget {
    pending: Arc<Mutex<HashMap<Place, Pending>>>,
    places: Vec<Place>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let Ok(mut pending) = self.pending.lock() else { return };
        for place in &self.places {
            // Another request may be there by now; then this costs that one its followers only.
            pending.remove(place);
        }
    }
}

/// Returns a block of zeroes.
pub(crate) fn empty() -> Content {
    vec![0; BLOCK_LEN].try_into().expect("as long as a block")
}
