//! The slot table: plain words, no pointers, so that it can outlive its process.
//!
//! ```text
//! header: 512 words | slot: 5 words | slot: 5 words | … | zero marks, like slots
//! slot: masks and state | block, crc32c << 32 | epoch | entry, 2 words
//! ```
//!
//! A **zero mark** is a slot without space in the file: it says that a whole block was zeroed.
//!
//! The word with masks and state is what publishes a slot: it is stored last, and one load of it
//! is a consistent view. A process killed between two stores leaves either a free slot or a
//! complete one.

use std::sync::atomic::{AtomicU64, Ordering};

use sprite_types::{BlockIndex, Epoch, Generation};

use super::memory::Memory;
use super::parts::{CleanEntry, Entry, Parts};

const HEADER_WORDS: usize = 512;
const SLOT_WORDS: usize = 5;
/// `SPRTBL` and version 1.
const MAGIC: u64 = 0x5350_5254_424c_0001;
const MARK: u32 = 1 << 31;

/// A slot of the file, or a zero mark.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SlotId(pub(super) u32);

impl SlotId {
    pub(super) fn slot(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn mark(number: u32) -> Self {
        Self(number | MARK)
    }

    pub(super) fn is_mark(self) -> bool {
        self.0 & MARK != 0
    }

    pub(super) fn number(self) -> u32 {
        self.0 & !MARK
    }
}

/// What a slot is. *Sealed* is an open slot of an epoch before the open one, so that sealing is
/// one store and not one per slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    /// Holds parts that the bucket does not have.
    Open,
    /// Equals a block of the bucket wherever it is valid.
    Clean,
    /// Was open; its release is not in the journal yet.
    ReleasedOpen,
    /// Was clean; its release is not in the journal yet.
    ReleasedClean,
}

/// Masks, state and flags of a slot in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const TOUCHED: u64 = 1 << 52;
    const VERIFY: u64 = 1 << 53;

    pub(super) fn new(state: State) -> Self {
        Self(0).with_state(state)
    }

    /// Parts whose content is in the slot.
    pub(super) fn valid(self) -> Parts {
        Parts(self.0 as u16)
    }

    /// Parts that a request wrote in the slot's epoch; what is also valid is packed.
    pub(super) fn dirty(self) -> Parts {
        Parts((self.0 >> 16) as u16)
    }

    /// Valid parts that are zeroes whatever the file has there.
    pub(super) fn zero(self) -> Parts {
        Parts((self.0 >> 32) as u16)
    }

    pub(super) fn state(self) -> State {
        match self.0 >> 48 & 0xf {
            1 => State::Open,
            2 => State::Clean,
            3 => State::ReleasedOpen,
            4 => State::ReleasedClean,
            _ => State::Free,
        }
    }

    /// Is in the list of slots that the next journal record has to name.
    pub(super) fn touched(self) -> bool {
        self.0 & Self::TOUCHED != 0
    }

    /// Survived a power cut: its checksum is compared before its first use.
    pub(super) fn verify(self) -> bool {
        self.0 & Self::VERIFY != 0
    }

    pub(super) fn with_valid(self, parts: Parts) -> Self {
        Self(self.0 & !0xffff | u64::from(parts.0))
    }

    pub(super) fn with_dirty(self, parts: Parts) -> Self {
        Self(self.0 & !(0xffff << 16) | u64::from(parts.0) << 16)
    }

    pub(super) fn with_zero(self, parts: Parts) -> Self {
        Self(self.0 & !(0xffff << 32) | u64::from(parts.0) << 32)
    }

    pub(super) fn with_state(self, state: State) -> Self {
        let number: u64 = match state {
            State::Free => 0,
            State::Open => 1,
            State::Clean => 2,
            State::ReleasedOpen => 3,
            State::ReleasedClean => 4,
        };
        Self(self.0 & !(0xf << 48) | number << 48)
    }

    pub(super) fn with_touched(self, touched: bool) -> Self {
        Self(if touched { self.0 | Self::TOUCHED } else { self.0 & !Self::TOUCHED })
    }

    pub(super) fn with_verify(self, verify: bool) -> Self {
        Self(if verify { self.0 | Self::VERIFY } else { self.0 & !Self::VERIFY })
    }
}

/// One slot's words. All but the flag *touched* change only under the block's lock.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(&'a [AtomicU64]);

impl Slot<'_> {
    pub(super) fn word(self) -> Word {
        Word(self.0[0].load(Ordering::Acquire))
    }

    pub(super) fn set_word(self, word: Word) {
        self.0[0].store(word.0, Ordering::Release);
    }

    /// Changes the word; returns what it was and what it is.
    pub(super) fn update(self, change: impl Fn(Word) -> Word) -> (Word, Word) {
        let apply = |word| Some(change(Word(word)).0);
        let old = self.0[0]
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, apply)
            .unwrap_or_else(|same| same);
        (Word(old), change(Word(old)))
    }

    pub(super) fn block(self) -> BlockIndex {
        BlockIndex(self.0[1].load(Ordering::Relaxed) as u32)
    }

    pub(super) fn epoch(self) -> Epoch {
        Epoch(self.0[2].load(Ordering::Relaxed))
    }

    pub(super) fn clean_entry(self) -> CleanEntry {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&self.0[3].load(Ordering::Relaxed).to_le_bytes());
        entry[8..].copy_from_slice(&self.0[4].load(Ordering::Relaxed).to_le_bytes());
        let crc32c = (self.0[1].load(Ordering::Relaxed) >> 32) as u32;
        CleanEntry { entry: Entry(entry), crc32c }
    }

    pub(super) fn set_clean_entry(self, clean: CleanEntry) {
        let block = self.block();
        self.describe(block, self.epoch(), clean);
    }

    /// Fills in everything but the word.
    pub(super) fn describe(self, block: BlockIndex, epoch: Epoch, clean: CleanEntry) {
        let CleanEntry { entry: Entry(entry), crc32c } = clean;
        let half = |at: usize| {
            u64::from_le_bytes(*entry[at..].first_chunk().expect("half of sixteen bytes"))
        };
        let block = u64::from(block.0) | u64::from(crc32c) << 32;
        for (word, value) in self.0[1..].iter().zip([block, epoch.0, half(0), half(8)]) {
            word.store(value, Ordering::Release);
        }
    }
}

/// Fields of the header.
#[derive(Clone, Copy)]
enum Field {
    Magic,
    /// The volume this is of, as a hash.
    Volume,
    Blocks,
    SlotsMax,
    MarksMax,
    Generation,
    OpenEpoch,
    DurableEpoch,
    /// Open slots of earlier epochs are not part of the disk any more: it was restored.
    CutEpoch,
    /// Slots, then marks, that have room in file and journal.
    Slots,
    Marks,
    Failed,
}

/// How large a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) volume: u64,
    pub(super) blocks: u32,
    pub(super) slots_max: u32,
    pub(super) marks_max: u32,
}

pub(super) struct Table {
    memory: Memory,
    shape: Shape,
}

impl Table {
    /// Returns how many words a table of this shape needs.
    pub(super) fn words(shape: &Shape) -> usize {
        HEADER_WORDS + SLOT_WORDS * (shape.slots_max as usize + shape.marks_max as usize)
    }

    /// Lays out an empty table. `memory` is all zeroes and large enough.
    pub(super) fn create(memory: Memory, shape: Shape) -> Self {
        assert!(memory.words().len() >= Self::words(&shape), "memory fits the table");
        let table = Self { memory, shape };
        table.set(Field::Volume, shape.volume);
        table.set(Field::Blocks, shape.blocks.into());
        table.set(Field::SlotsMax, shape.slots_max.into());
        table.set(Field::MarksMax, shape.marks_max.into());
        table
    }

    /// Makes the table one that a successor may take over.
    pub(super) fn publish(&self) {
        self.set(Field::Magic, MAGIC);
    }

    /// Takes a predecessor's table. Nothing if it was never finished or is not one.
    pub(super) fn inherit(memory: Memory, volume: u64, blocks: u32) -> Option<Self> {
        let words = memory.words();
        let get = |field: Field| words.get(field as usize).map(|w| w.load(Ordering::Acquire));
        let small = |field| get(field).and_then(|value| u32::try_from(value).ok());
        let (slots_max, marks_max) = (small(Field::SlotsMax)?, small(Field::MarksMax)?);
        let shape = Shape { volume, blocks, slots_max, marks_max };
        let same = get(Field::Magic)? == MAGIC
            && get(Field::Volume)? == volume
            && small(Field::Blocks)? == blocks
            && small(Field::Slots)? <= slots_max
            && small(Field::Marks)? <= marks_max
            && words.len() >= Self::words(&shape);
        same.then_some(Self { memory, shape })
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    fn get(&self, field: Field) -> u64 {
        self.memory.words()[field as usize].load(Ordering::SeqCst)
    }

    fn set(&self, field: Field, value: u64) {
        self.memory.words()[field as usize].store(value, Ordering::SeqCst);
    }

    pub(super) fn slot(&self, id: SlotId) -> Slot<'_> {
        let index = if id.is_mark() {
            self.shape.slots_max as usize + id.number() as usize
        } else {
            id.number() as usize
        };
        let start = HEADER_WORDS + index * SLOT_WORDS;
        Slot(&self.memory.words()[start..start + SLOT_WORDS])
    }

    /// Returns every slot and mark that has room.
    pub(super) fn ids(&self) -> impl Iterator<Item = SlotId> + use<> {
        let (slots, marks) = (self.slots(), self.marks());
        (0..slots).map(SlotId::slot).chain((0..marks).map(SlotId::mark))
    }

    pub(super) fn open_epoch(&self) -> Epoch {
        Epoch(self.get(Field::OpenEpoch))
    }

    pub(super) fn set_open_epoch(&self, epoch: Epoch) {
        self.set(Field::OpenEpoch, epoch.0);
    }

    pub(super) fn durable_epoch(&self) -> Epoch {
        Epoch(self.get(Field::DurableEpoch))
    }

    pub(super) fn set_durable_epoch(&self, epoch: Epoch) {
        self.set(Field::DurableEpoch, epoch.0);
    }

    pub(super) fn cut_epoch(&self) -> Epoch {
        Epoch(self.get(Field::CutEpoch))
    }

    pub(super) fn set_cut_epoch(&self, epoch: Epoch) {
        self.set(Field::CutEpoch, epoch.0);
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.get(Field::Generation))
    }

    pub(super) fn set_generation(&self, generation: Generation) {
        self.set(Field::Generation, generation.0);
    }

    /// Slots with room in the file.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.get(Field::Slots)).unwrap_or(0).min(self.shape.slots_max)
    }

    pub(super) fn set_slots(&self, slots: u32) {
        self.set(Field::Slots, slots.into());
    }

    /// Zero marks with room in the journal.
    pub(super) fn marks(&self) -> u32 {
        u32::try_from(self.get(Field::Marks)).unwrap_or(0).min(self.shape.marks_max)
    }

    pub(super) fn set_marks(&self, marks: u32) {
        self.set(Field::Marks, marks.into());
    }

    pub(super) fn failed(&self) -> bool {
        self.get(Field::Failed) != 0
    }

    pub(super) fn set_failed(&self) {
        self.set(Field::Failed, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_word_do_not_touch_each_other() {
        let word = Word::new(State::Open)
            .with_valid(Parts(0x8001))
            .with_dirty(Parts(0x4002))
            .with_zero(Parts(0x2004))
            .with_touched(true)
            .with_verify(true)
            .with_state(State::ReleasedClean);
        assert_eq!(
            (word.valid(), word.dirty(), word.zero(), word.state(), word.touched(), word.verify()),
            (Parts(0x8001), Parts(0x4002), Parts(0x2004), State::ReleasedClean, true, true)
        );
        let word = word.with_touched(false).with_verify(false).with_valid(Parts::NONE);
        assert_eq!((word.valid(), word.dirty()), (Parts::NONE, Parts(0x4002)));
        assert!(!word.touched() && !word.verify());
    }

    #[test]
    fn a_table_of_another_volume_is_not_taken() {
        let shape = Shape { volume: 1, blocks: 10, slots_max: 4, marks_max: 2 };
        let memory = Memory::private(Table::words(&shape)).unwrap();
        let table = Table::create(memory.clone(), shape);
        assert!(Table::inherit(memory.clone(), 1, 10).is_none(), "not published yet");
        table.publish();
        assert!(Table::inherit(memory.clone(), 2, 10).is_none());
        assert!(Table::inherit(memory.clone(), 1, 11).is_none());
        let clean = CleanEntry { entry: Entry([7; 16]), crc32c: 9 };
        table.slot(SlotId::mark(1)).describe(BlockIndex(3), Epoch(4), clean);
        let table = Table::inherit(memory, 1, 10).unwrap();
        let slot = table.slot(SlotId::mark(1));
        assert_eq!((slot.block(), slot.epoch()), (BlockIndex(3), Epoch(4)));
        assert_eq!(slot.clean_entry(), clean);
    }
}
