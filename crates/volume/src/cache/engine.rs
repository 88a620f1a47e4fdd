//! The cache's own state, its locks, and the small steps that everything else is made of.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sprite_types::{BlockIndex, Epoch, Generation, VolumeId};

use super::disk::{Dir, File};
use super::epochs::Epochs;
use super::error::CacheError;
use super::flush::FlushTurns;
use super::journal::{Event, Journal};
use super::memory::Memory;
use super::parts::Parts;
use super::rules::{Rule, Rules};
use super::slots::FreeSlots;
use super::table::{Shape, Slot, SlotId, State, Table, Word};
use crate::block::{BLOCK_LEN, PART_LEN};

/// Locks that blocks share. More than the threads of a disk server by far, so that two requests
/// for different blocks seldom meet.
const STRIPES: usize = 1_024;
/// Slots that are looked at, and evicted, together.
pub(super) const RUN: u32 = 16;

/// How large a cache is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose blocks these are; a cache of another volume is refused.
    pub volume: VolumeId,
    /// The volume's length in blocks.
    pub blocks: u32,
    /// Slots of 64 KiB that the file may grow to.
    pub slots_max: u32,
    /// Whole zeroed blocks that may wait for the bucket.
    pub marks_max: u32,
    /// Slots, or marks, by which the cache grows at a time.
    pub grow_slots: u32,
    /// Bytes of journal between two records of the full state.
    pub journal_bytes: u64,
    /// Bytes that may wait to be sent before writes have to be slowed. The caller waits: this is
    /// only repeated in [`Stats`](super::Stats).
    pub unsent_bytes_max: u64,
    /// Whether the slot table is in a memory file that another process can keep.
    pub shared_table: bool,
}

impl Settings {
    /// Sizes for a volume of so many blocks and a cache file of at most `cache_bytes`.
    #[must_use]
    pub fn new(volume: VolumeId, blocks: u32, cache_bytes: u64) -> Self {
        let slots = (cache_bytes / BLOCK_LEN as u64).min(1 << 30);
        Self {
            volume,
            blocks,
            slots_max: u32::try_from(slots).expect("2^30 fits").max(64),
            marks_max: blocks.max(64),
            grow_slots: 1_024,
            journal_bytes: 4 << 20,
            unsent_bytes_max: 2 << 30,
            shared_table: true,
        }
    }

    /// The volume as the number that table and journal carry.
    pub(super) fn tag(&self) -> u64 {
        let hash = blake3::hash(self.volume.as_str().as_bytes());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    pub(super) fn shape(&self) -> Shape {
        let (slots_max, marks_max) = (self.slots_max, self.marks_max);
        Shape { volume: self.tag(), blocks: self.blocks, slots_max, marks_max }
    }

    pub(super) fn memory(&self, shape: &Shape) -> io::Result<Memory> {
        let words = Table::words(shape);
        if self.shared_table { Memory::shared(words) } else { Memory::private(words) }
    }
}

/// The journal with the events that every full record repeats.
pub(super) struct Log {
    pub(super) journal: Journal,
    pub(super) events: Vec<Event>,
}

/// A volume's cache. Every method may be called from many threads at once, except where it says
/// otherwise.
pub struct Cache {
    pub(super) settings: Settings,
    pub(super) rules: Rules,
    pub(super) memory: Memory,
    pub(super) table: Table,
    pub(super) data: Box<dyn File>,
    /// The newest slot of each block, as its id plus one. Derived from the table.
    blocks: Memory,
    stripes: Box<[RwLock<()>]>,
    pub(super) free: Mutex<FreeSlots>,
    /// Slots whose masks changed since the last journal record.
    pub(super) touched: Mutex<Vec<SlotId>>,
    /// Slots whose release no journal record names yet.
    pub(super) released: Mutex<Vec<SlotId>>,
    pub(super) epochs: Mutex<Epochs>,
    /// Requests under way in an epoch, by its lowest bit.
    writers: [AtomicU64; 2],
    pub(super) sealing: Mutex<()>,
    pub(super) log: Mutex<Log>,
    pub(super) turns: FlushTurns,
    failed: AtomicBool,
    /// Whether a run of slots was read since the clock's hand passed.
    recent: Box<[AtomicU8]>,
    pub(super) hand: Mutex<u32>,
    // Holds the directory's lock.
    _dir: Arc<dyn Dir>,
}

/// A request under way: its epoch's slots are complete only after it ends.
pub(super) struct Writer<'a> {
    cache: &'a Cache,
    pub(super) epoch: Epoch,
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.cache.writers_of(self.epoch).fetch_sub(1, Ordering::SeqCst);
    }
}

/// A mutex whose holder cannot panic halfway: a panic there is a bug that ends the process.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

impl Cache {
    pub(super) fn assemble(
        dir: Arc<dyn Dir>,
        settings: Settings,
        rules: Rules,
        memory: Memory,
        table: Table,
        data: Box<dyn File>,
        journal: Journal,
    ) -> io::Result<Self> {
        let runs = table.shape().slots_max.div_ceil(RUN) as usize;
        Ok(Self {
            blocks: Memory::private(settings.blocks.max(1) as usize)?,
            settings,
            rules,
            memory,
            table,
            data,
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            free: Mutex::default(),
            touched: Mutex::default(),
            released: Mutex::default(),
            epochs: Mutex::default(),
            writers: Default::default(),
            sealing: Mutex::default(),
            log: Mutex::new(Log { journal, events: Vec::new() }),
            turns: FlushTurns::default(),
            failed: AtomicBool::new(false),
            recent: (0..runs).map(|_| AtomicU8::new(0)).collect(),
            hand: Mutex::default(),
            _dir: dir,
        })
    }

    /// Returns the words of the slot table, whose descriptor a keeper holds.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns the claim that the journal's records carry.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.table.generation()
    }

    pub(super) fn slot(&self, id: SlotId) -> Slot<'_> {
        self.table.slot(id)
    }

    pub(super) fn read_lock(&self, block: BlockIndex) -> RwLockReadGuard<'_, ()> {
        self.stripe(block).read().expect("no holder of this lock panics")
    }

    pub(super) fn write_lock(&self, block: BlockIndex) -> RwLockWriteGuard<'_, ()> {
        self.stripe(block).write().expect("no holder of this lock panics")
    }

    fn stripe(&self, block: BlockIndex) -> &RwLock<()> {
        &self.stripes[block.0 as usize % STRIPES]
    }

    /// Returns the newest slot of a block. Under the block's lock.
    pub(super) fn current(&self, block: BlockIndex) -> Option<SlotId> {
        let value = self.blocks.words()[block.0 as usize].load(Ordering::Acquire);
        u32::try_from(value.checked_sub(1)?).ok().map(SlotId)
    }

    pub(super) fn set_current(&self, block: BlockIndex, slot: Option<SlotId>) {
        let value = slot.map_or(0, |id| u64::from(id.0) + 1);
        self.blocks.words()[block.0 as usize].store(value, Ordering::Release);
    }

    /// Joins the open epoch. Under the block's lock, so that a slot's epoch is never later than
    /// its writer's.
    pub(super) fn enter(&self) -> Writer<'_> {
        loop {
            let epoch = self.table.open_epoch();
            self.writers_of(epoch).fetch_add(1, Ordering::SeqCst);
            let writer = Writer { cache: self, epoch };
            // Whoever seals waits for the count only after it has moved the epoch on: either it
            // sees this request, or this request sees the later epoch.
            if self.table.open_epoch() == epoch {
                return writer;
            }
        }
    }

    pub(super) fn writers_of(&self, epoch: Epoch) -> &AtomicU64 {
        &self.writers[usize::from(epoch.0 % 2 == 1)]
    }

    /// Refuses once an error was final.
    pub(super) fn check(&self) -> Result<(), CacheError> {
        if self.failed.load(Ordering::Acquire) { Err(CacheError::Failed) } else { Ok(()) }
    }

    /// Makes an error final: rule 5.
    pub(super) fn fail(&self, action: &'static str, source: io::Error) -> CacheError {
        if self.rules.keep(Rule::ErrorsAreFinal) {
            self.failed.store(true, Ordering::Release);
            self.table.set_failed();
        }
        CacheError::Io { action, source }
    }

    /// Changes a slot's word; if that changes anything, the next journal record names the slot.
    pub(super) fn change(&self, id: SlotId, change: impl Fn(Word) -> Word) {
        let (old, new) = self.slot(id).update(|word| {
            let new = change(word);
            if new == word { word } else { new.with_touched(true) }
        });
        if new.touched() && !old.touched() {
            lock(&self.touched).push(id);
        }
    }

    /// Takes a slot out of use. Under the block's lock. It is reused after a journal record of it.
    pub(super) fn release(&self, id: SlotId) {
        let slot = self.slot(id);
        let block = slot.block();
        if self.current(block) == Some(id) {
            self.set_current(block, None);
        }
        let keep = self.rules.keep(Rule::ReleaseBeforeReuse);
        // Masks stay: a flush that is under way may still have to name them.
        slot.update(|word| match word.state() {
            _ if !keep => Word::new(State::Free),
            State::Open => word.with_state(State::ReleasedOpen),
            _ => word.with_state(State::ReleasedClean),
        });
        if keep {
            lock(&self.released).push(id);
        } else {
            lock(&self.free).put(id);
        }
    }

    /// Returns the newest slot of a block with its word, after comparing the checksum of one that
    /// survived a power cut. Under the block's lock for writing.
    pub(super) fn usable(&self, block: BlockIndex) -> Result<Option<(SlotId, Word)>, CacheError> {
        let Some(id) = self.current(block) else { return Ok(None) };
        let slot = self.slot(id);
        let word = slot.word();
        if !word.verify() {
            return Ok(Some((id, word)));
        }
        let mut content = vec![0; BLOCK_LEN];
        self.read_parts(id, word, Parts::ALL, &mut content)?;
        let right = crc32c::crc32c(&content) == slot.clean_entry().crc32c;
        if !right && self.rules.keep(Rule::CleanNeedsChecksum) {
            self.release(id);
            return Ok(None);
        }
        let (_, word) = slot.update(|word| word.with_verify(false));
        Ok(Some((id, word)))
    }

    pub(super) fn position(id: SlotId, within: usize) -> u64 {
        u64::from(id.number()) * BLOCK_LEN as u64 + within as u64
    }

    /// Reads valid parts of a slot into their places in a block-sized buffer.
    pub(super) fn read_parts(
        &self,
        id: SlotId,
        word: Word,
        parts: Parts,
        content: &mut [u8],
    ) -> Result<(), CacheError> {
        for run in (parts & word.zero()).runs() {
            content[run].fill(0);
        }
        for run in (parts & !word.zero()).runs() {
            self.read_data(id, run.start, &mut content[run])?;
        }
        Ok(())
    }

    pub(super) fn read_data(
        &self,
        id: SlotId,
        within: usize,
        buf: &mut [u8],
    ) -> Result<(), CacheError> {
        debug_assert!(!id.is_mark(), "a mark has no data");
        self.data
            .read(buf, Self::position(id, within))
            .map_err(|source| CacheError::Io { action: "read a slot", source })
    }

    /// Writes into a slot. An error is final: the parts may hold anything now.
    pub(super) fn write_data(
        &self,
        id: SlotId,
        within: usize,
        data: &[u8],
    ) -> Result<(), CacheError> {
        debug_assert!(!id.is_mark() && within + data.len() <= BLOCK_LEN, "inside of a slot");
        self.data
            .write(data, Self::position(id, within))
            .map_err(|source| self.fail("write a slot", source))
    }

    /// Writes the parts of a block-sized buffer into a slot.
    pub(super) fn write_parts(
        &self,
        id: SlotId,
        parts: Parts,
        content: &[u8],
    ) -> Result<(), CacheError> {
        parts.runs().try_for_each(|run| self.write_data(id, run.start, &content[run]))
    }

    pub(super) fn note_read(&self, id: SlotId) {
        if let Some(recent) = self.recent.get((id.number() / RUN) as usize)
            && recent.load(Ordering::Relaxed) == 0
        {
            recent.store(1, Ordering::Relaxed);
        }
    }

    /// Tells whether a run of slots was read since this was last asked.
    pub(super) fn was_read(&self, run: u32) -> bool {
        self.recent.get(run as usize).is_some_and(|recent| recent.swap(0, Ordering::Relaxed) != 0)
    }

    /// Splits a range of the volume into ranges of blocks.
    pub(crate) fn split(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<impl Iterator<Item = (BlockIndex, std::ops::Range<usize>)> + use<>, CacheError>
    {
        let end = offset.checked_add(len);
        let size = u64::from(self.settings.blocks) * BLOCK_LEN as u64;
        let aligned = offset.is_multiple_of(512) && len.is_multiple_of(512);
        let Some(end) = end.filter(|end| *end <= size && aligned) else {
            return Err(CacheError::Range { offset, len });
        };
        const { assert!(PART_LEN.is_multiple_of(512)) };
        let mut at = offset;
        Ok(std::iter::from_fn(move || {
            let block = u32::try_from(at / BLOCK_LEN as u64).ok()?;
            let start = usize::try_from(at % BLOCK_LEN as u64).ok()?;
            let len = usize::try_from(end - at).ok()?.min(BLOCK_LEN - start);
            at += len as u64;
            (len > 0).then_some((BlockIndex(block), start..start + len))
        }))
    }
}
