//! Sealing, sending and letting go of epochs; restores.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sprite_types::{BlockIndex, Epoch};

use super::engine::{Cache, lock};
use super::error::CacheError;
use super::journal::{Event, EventKind, MAX_EVENTS, MAX_NOTE_LEN};
use super::parts::{CleanEntry, Entry, Parts};
use super::rules::Rule;
use super::table::{SlotId, State};
use crate::block::BLOCK_LEN;

/// Unnamed epochs that wait for upload before the open one goes on gathering instead.
const WAITING_MAX: usize = 2;

/// Why an epoch is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealKind<'a> {
    /// To send it. After a power cut it may become part of a later epoch.
    Plain,
    /// To keep it, under a name: a checkpoint. It is in the journal when the call returns, with a
    /// note (at most 1,024 bytes) that a replay hands back.
    Named(&'a [u8]),
}

/// What became of a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealResult {
    /// This epoch is closed: it holds every write answered before the call, none that came after.
    Sealed(Epoch),
    /// There is nothing to send.
    Empty,
    /// Enough epochs wait for upload; the open one goes on gathering.
    Busy,
}

/// What a sealed epoch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealedKind {
    /// Changes, to be sent.
    Plain,
    /// The same, and to be kept under the name that the note tells.
    Named(Vec<u8>),
    /// A restore to the state that the note tells; it has no blocks of its own.
    Restore(Vec<u8>),
}

/// An epoch that is closed and not durable in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEpoch {
    /// Its number.
    pub epoch: Epoch,
    /// What it is.
    pub kind: SealedKind,
}

/// A block of a sealed epoch.
#[derive(Debug)]
pub struct SealedBlock {
    /// Which block.
    pub block: BlockIndex,
    /// Parts that the epoch changed.
    pub dirty: Parts,
    /// Parts that `content` has: the dirty ones, and others as they were in the epoch before, which
    /// need not be fetched to make the block whole.
    pub valid: Parts,
    /// The block's bytes; parts that are not valid are zeroes.
    pub content: Box<[u8; BLOCK_LEN]>,
}

/// Which slots belong to which epoch.
#[derive(Default)]
pub(super) struct Epochs {
    pub(super) sealed: VecDeque<SealedEpoch>,
    slots: BTreeMap<Epoch, EpochSlots>,
}

#[derive(Default)]
struct EpochSlots {
    /// Some may be released, and used again, since.
    ids: Vec<SlotId>,
    with_data: u64,
}

impl Epochs {
    pub(super) fn add(&mut self, epoch: Epoch, id: SlotId) {
        let slots = self.slots.entry(epoch).or_default();
        slots.ids.push(id);
        slots.with_data += u64::from(!id.is_mark());
    }

    /// Returns the slots with data of the epoch that is open and of those before it.
    pub(super) fn unsent(&self, open: Epoch) -> (u64, u64) {
        let of_open = self.slots.get(&open).map_or(0, |slots| slots.with_data);
        (of_open, self.slots.range(..open).map(|(_, slots)| slots.with_data).sum())
    }

    fn ids(&self, epoch: Epoch) -> Vec<SlotId> {
        let mut ids = self.slots.get(&epoch).map_or_else(Vec::new, |slots| slots.ids.clone());
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Cache {
    /// Closes the open epoch: a cut between requests.
    ///
    /// Waits for requests that are under way, which fall on either side of the cut per 4 KiB; those
    /// that come meanwhile do not wait.
    ///
    /// # Errors
    /// As [`Cache::flush`]; [`CacheError::NoteTooLong`].
    pub fn seal(&self, kind: SealKind<'_>) -> Result<SealResult, CacheError> {
        let _sealing = lock(&self.sealing);
        self.check()?;
        let epoch = self.table.open_epoch();
        let kind = match kind {
            SealKind::Named(note) => {
                check_note(note)?;
                if lock(&self.log).events_waiting(self.table.durable_epoch()) >= MAX_EVENTS - 1 {
                    return Ok(SealResult::Busy);
                }
                SealedKind::Named(note.to_vec())
            }
            SealKind::Plain => {
                let epochs = lock(&self.epochs);
                if !epochs.slots.contains_key(&epoch) {
                    return Ok(SealResult::Empty);
                }
                if epochs.sealed.len() >= WAITING_MAX {
                    return Ok(SealResult::Busy);
                }
                SealedKind::Plain
            }
        };
        self.close_epoch(epoch);
        lock(&self.epochs).sealed.push_back(SealedEpoch { epoch, kind: kind.clone() });
        if let SealedKind::Named(note) = kind {
            self.flush_event(Event { epoch, kind: EventKind::Named, note })?;
        }
        Ok(SealResult::Sealed(epoch))
    }

    /// Moves the open epoch on and waits until no request writes into the closed one.
    fn close_epoch(&self, epoch: Epoch) {
        self.table.set_open_epoch(epoch.next());
        let mut rounds = 0_u32;
        while self.writers_of(epoch).load(Ordering::SeqCst) > 0 {
            // A request is a few microseconds, unless the host's disk is busy.
            rounds += 1;
            if rounds < 100 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Returns the epochs that wait for the bucket, oldest first.
    #[must_use]
    pub fn sealed_epochs(&self) -> Vec<SealedEpoch> {
        lock(&self.epochs).sealed.iter().cloned().collect()
    }

    /// Returns the blocks of a sealed epoch, in their order, each read when asked for.
    ///
    /// A block whose content is all zeroes and valid becomes no entry.
    pub fn sealed_blocks(
        &self,
        epoch: Epoch,
    ) -> impl Iterator<Item = Result<SealedBlock, CacheError>> + '_ {
        let slots = self.sealed_slots(epoch).into_iter();
        slots.filter_map(move |(block, id)| self.sealed_block(block, id))
    }

    /// As [`Cache::sealed_blocks`], for a thread of its own.
    pub fn into_sealed_blocks(
        self: Arc<Self>,
        epoch: Epoch,
    ) -> impl Iterator<Item = Result<SealedBlock, CacheError>> + Send + use<> {
        let slots = self.sealed_slots(epoch).into_iter();
        slots.filter_map(move |(block, id)| self.sealed_block(block, id))
    }

    /// Returns the blocks of a sealed epoch of which not every part is valid, in their order. A
    /// fill makes them whole, unless a later epoch has written the block too.
    #[must_use]
    pub fn sealed_gaps(&self, epoch: Epoch) -> Vec<BlockIndex> {
        let has_gap = |id: SlotId| {
            let word = self.slot(id).word();
            !(word.dirty() & word.valid()).is_empty() && !word.valid().covers(Parts::ALL)
        };
        let slots = self.sealed_slots(epoch).into_iter();
        slots.filter(|(_, id)| has_gap(*id)).map(|(block, _)| block).collect()
    }

    fn sealed_slots(&self, epoch: Epoch) -> Vec<(BlockIndex, SlotId)> {
        let ids = lock(&self.epochs).ids(epoch);
        let mut slots: Vec<(BlockIndex, SlotId)> = ids
            .into_iter()
            .filter(|id| self.is_open_in(*id, epoch))
            .map(|id| (self.slot(id).block(), id))
            .collect();
        slots.sort_unstable();
        slots
    }

    fn sealed_block(
        &self,
        block: BlockIndex,
        id: SlotId,
    ) -> Option<Result<SealedBlock, CacheError>> {
        // A fill may add valid parts meanwhile; what is valid in this word stays as it is.
        let word = self.slot(id).word();
        let mut dirty = word.dirty() & word.valid();
        if !self.rules.keep(Rule::DirtyAndValid) {
            dirty = word.dirty();
        }
        if dirty.is_empty() {
            return None;
        }
        let mut content: Box<[u8; BLOCK_LEN]> =
            vec![0; BLOCK_LEN].try_into().expect("as long as a block");
        let valid = word.valid() | dirty;
        let read = self.check().and_then(|()| self.read_parts(id, word, valid, &mut content[..]));
        Some(read.map(|()| SealedBlock { block, dirty, valid, content }))
    }

    fn is_open_in(&self, id: SlotId, epoch: Epoch) -> bool {
        let slot = self.slot(id);
        slot.word().state() == State::Open && slot.epoch() == epoch
    }

    /// Notes that the oldest sealed epoch is in the bucket.
    ///
    /// Call it *after* the map that reads ask shows the epoch's entries. `clean` returns what a
    /// block of the epoch now equals; blocks for which it returns nothing lose their slot. A
    /// successor that finds the epoch in the map calls this again.
    ///
    /// # Errors
    /// [`CacheError::Order`]: it is not the oldest one; [`CacheError::Failed`].
    pub fn epoch_durable(
        &self,
        epoch: Epoch,
        clean: &dyn Fn(BlockIndex) -> Option<CleanEntry>,
    ) -> Result<(), CacheError> {
        self.check()?;
        let ids = {
            let epochs = lock(&self.epochs);
            if epochs.sealed.front().is_none_or(|oldest| oldest.epoch != epoch) {
                return Err(CacheError::Order { epoch });
            }
            epochs.ids(epoch)
        };
        for id in ids {
            let slot = self.slot(id);
            let block = slot.block();
            let _lock = self.write_lock(block);
            if !self.is_open_in(id, epoch) {
                continue;
            }
            let word = slot.word();
            let entry = clean(block).filter(|_| self.current(block) == Some(id) && !id.is_mark());
            match entry {
                Some(clean) if word.zero() != Parts::ALL => {
                    slot.set_clean_entry(clean);
                    self.change(id, |word| word.with_dirty(Parts::NONE).with_state(State::Clean));
                }
                _ => self.release(id),
            }
        }
        self.table.set_durable_epoch(epoch);
        let mut epochs = lock(&self.epochs);
        epochs.sealed.pop_front();
        epochs.slots.remove(&epoch);
        drop(epochs);
        lock(&self.log).events.retain(|event| event.epoch > epoch);
        Ok(())
    }

    /// Exchanges the disk's content for an older state: a new epoch whose entries `entry_of` tells.
    ///
    /// No device may be attached: nothing else is called meanwhile, and everything written before
    /// was sealed, with a name if it is to be kept. Call it after the map that reads ask shows the
    /// state. When it returns, a power cut does not undo it; `note` (at most 1,024 bytes) is handed
    /// back by a replay, which does not have the entries.
    ///
    /// # Errors
    /// [`CacheError::NotSealed`]; [`CacheError::NoteTooLong`]; otherwise as [`Cache::flush`].
    pub fn restore(
        &self,
        note: &[u8],
        entry_of: &dyn Fn(BlockIndex) -> Entry,
    ) -> Result<Epoch, CacheError> {
        let _sealing = lock(&self.sealing);
        self.check()?;
        check_note(note)?;
        let epoch = self.table.open_epoch();
        if lock(&self.epochs).slots.contains_key(&epoch) {
            return Err(CacheError::NotSealed);
        }
        self.close_epoch(epoch);
        self.flush_event(Event { epoch, kind: EventKind::Restore, note: note.to_vec() })?;
        for id in self.table.ids() {
            let slot = self.slot(id);
            let block = slot.block();
            match slot.word().state() {
                State::Clean if slot.clean_entry().entry != entry_of(block) => {
                    let _lock = self.write_lock(block);
                    self.release(id);
                }
                // Stays until it was sent, but is not the disk any more.
                State::Open => self.set_current(block, None),
                _ => {}
            }
        }
        self.table.set_cut_epoch(epoch);
        let kind = SealedKind::Restore(note.to_vec());
        lock(&self.epochs).sealed.push_back(SealedEpoch { epoch, kind });
        Ok(epoch)
    }
}

fn check_note(note: &[u8]) -> Result<(), CacheError> {
    if note.len() > MAX_NOTE_LEN {
        return Err(CacheError::NoteTooLong { len: note.len() });
    }
    Ok(())
}

impl super::engine::Log {
    fn events_waiting(&self, durable: Epoch) -> usize {
        self.events.iter().filter(|event| event.epoch > durable).count()
    }
}
