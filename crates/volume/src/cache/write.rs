//! Writes and zeroes: rules 1 and 2.

use std::ops::Range;

use sprite_types::BlockIndex;

use super::engine::{Cache, lock};
use super::error::CacheError;
use super::parts::{CleanEntry, Entry, Parts};
use super::rules::Rule;
use super::slots::Room;
use super::table::{SlotId, State, Word};
use crate::block::{BLOCK_LEN, PART_LEN};

/// What a request puts into a block.
#[derive(Clone, Copy)]
enum Source<'a> {
    Data(&'a [u8]),
    Zeroes,
}

/// Why a block was not written.
enum Stop {
    /// There is no free slot or mark; nothing was changed.
    NoRoom(Room),
    Error(CacheError),
}

impl From<CacheError> for Stop {
    fn from(error: CacheError) -> Self {
        Self::Error(error)
    }
}

/// Parts that a request writes in part only: first and last, with the bytes they will have.
type Edges = Vec<(usize, [u8; PART_LEN])>;

const NO_ENTRY: CleanEntry = CleanEntry { entry: Entry::NONE, crc32c: 0 };

impl Cache {
    /// Writes `data` at `offset`, a multiple of 512 bytes, as is its length.
    ///
    /// Requests for different blocks do not wait for each other. A reader may see a part of the
    /// data before this returns.
    ///
    /// # Errors
    /// - [`CacheError::NeedsFill`]: fetch that block, fill it, write all of it again.
    /// - [`CacheError::Full`], [`CacheError::HostFull`]: wait for an upload, write again.
    /// - [`CacheError::Failed`], [`CacheError::Io`]: EIO until the volume is opened anew.
    /// - [`CacheError::Range`]: not a range of the volume.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), CacheError> {
        let mut rest = data;
        for (block, range) in self.split(offset, data.len() as u64)? {
            let (here, later) = rest.split_at(range.len());
            self.retry(|| self.write_block(block, &range, Source::Data(here)))?;
            rest = later;
        }
        Ok(())
    }

    /// Makes `len` bytes at `offset` zero, both multiples of 512: discard and write-zeroes.
    ///
    /// Whole blocks take no space. `mapped` says whether the map has an entry for a block: where
    /// there is neither entry nor slot, there is nothing to do.
    ///
    /// # Errors
    /// As [`Cache::write`].
    pub fn zero(
        &self,
        offset: u64,
        len: u64,
        mapped: &dyn Fn(BlockIndex) -> bool,
    ) -> Result<(), CacheError> {
        for (block, range) in self.split(offset, len)? {
            self.retry(|| {
                if range.len() == BLOCK_LEN {
                    return self.zero_block(block, mapped);
                }
                if self.nothing_there(block, mapped) {
                    return Ok(());
                }
                self.write_block(block, &range, Source::Zeroes)
            })?;
        }
        Ok(())
    }

    /// Repeats a step, finding room in between. No lock is held while that is done.
    fn retry(&self, mut step: impl FnMut() -> Result<(), Stop>) -> Result<(), CacheError> {
        loop {
            match step() {
                Ok(()) => return Ok(()),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::NoRoom(what)) => self.make_room(what)?,
            }
        }
    }

    fn nothing_there(&self, block: BlockIndex, mapped: &dyn Fn(BlockIndex) -> bool) -> bool {
        let _lock = self.read_lock(block);
        self.current(block).is_none() && !mapped(block)
    }

    fn write_block(
        &self,
        block: BlockIndex,
        range: &Range<usize>,
        source: Source<'_>,
    ) -> Result<(), Stop> {
        let _lock = self.write_lock(block);
        self.check()?;
        let writer = self.enter();
        let base = self.usable(block)?;
        if let (Source::Zeroes, Some((_, word))) = (source, base)
            && word.zero().covers(Parts::touching(range))
        {
            return Ok(());
        }
        let edges = self.edges(block, base, range, source)?;
        if let Some((id, _)) = base
            && !id.is_mark()
            && self.slot(id).word().state() == State::Open
            && (self.slot(id).epoch() == writer.epoch || !self.rules.keep(Rule::FreshSlot))
        {
            return Ok(self.write_in_place(id, range, source, &edges)?);
        }
        let fresh = lock(&self.free).take(Room::Slot).ok_or(Stop::NoRoom(Room::Slot))?;
        let parts = Parts::touching(range);
        let (mut valid, mut dirty, mut zero) = (parts, parts, zeroed(range, source));
        if let Some((id, word)) = base {
            let copied =
                if self.rules.keep(Rule::CopyValid) { word.valid() & !parts } else { Parts::NONE };
            let mut content = vec![0; BLOCK_LEN];
            if let Err(error) = self.read_parts(id, word, copied, &mut content) {
                lock(&self.free).put(fresh);
                return Err(error.into());
            }
            self.write_parts(fresh, copied & !word.zero(), &content)?;
            valid = valid | copied;
            zero = zero | word.zero() & copied;
            if self.same_epoch(id, word, &writer) {
                dirty = dirty | word.dirty();
            }
        }
        self.slot(fresh).describe(block, writer.epoch, NO_ENTRY);
        let word = Word::new(State::Open).with_valid(valid).with_dirty(dirty).with_zero(zero);
        if !self.rules.keep(Rule::DataBeforeValid) {
            self.publish(fresh, word, base, &writer);
        }
        self.put_data(fresh, range, source, &edges)?;
        if self.rules.keep(Rule::DataBeforeValid) {
            self.publish(fresh, word, base, &writer);
        }
        Ok(())
    }

    /// Rule 2: dirty bits, data, valid bits; the answer comes after that.
    fn write_in_place(
        &self,
        id: SlotId,
        range: &Range<usize>,
        source: Source<'_>,
        edges: &Edges,
    ) -> Result<(), CacheError> {
        let parts = Parts::touching(range);
        let zero = zeroed(range, source);
        let early = !self.rules.keep(Rule::DataBeforeValid);
        self.change(id, |word| {
            let word = word.with_dirty(word.dirty() | parts);
            if early { word.with_valid(word.valid() | parts) } else { word }
        });
        self.put_data(id, range, source, edges)?;
        self.change(id, |word| {
            word.with_valid(word.valid() | parts).with_zero(word.zero() & !parts | zero)
        });
        Ok(())
    }

    fn put_data(
        &self,
        id: SlotId,
        range: &Range<usize>,
        source: Source<'_>,
        edges: &Edges,
    ) -> Result<(), CacheError> {
        if let Source::Data(data) = source {
            for run in Parts::within(range).runs() {
                let start = run.start - range.start;
                self.write_data(id, run.start, &data[start..start + run.len()])?;
            }
        }
        edges.iter().try_for_each(|(part, bytes)| self.write_data(id, part * PART_LEN, bytes))
    }

    /// Composes the parts that a request covers only in part.
    fn edges(
        &self,
        block: BlockIndex,
        base: Option<(SlotId, Word)>,
        range: &Range<usize>,
        source: Source<'_>,
    ) -> Result<Edges, CacheError> {
        let parts = Parts::touching(range) & !Parts::within(range);
        let missing = parts & !base.map_or(Parts::NONE, |(_, word)| word.valid());
        if !missing.is_empty() {
            return Err(CacheError::NeedsFill { block, parts: missing });
        }
        let Some((id, word)) = base.filter(|_| !parts.is_empty()) else { return Ok(Vec::new()) };
        let (first, last) = (range.start / PART_LEN, (range.end - 1) / PART_LEN);
        let mut edges = Vec::with_capacity(2);
        for part in [first, last] {
            if !parts.has(part) || edges.iter().any(|(known, _)| *known == part) {
                continue;
            }
            let mut bytes = [0; PART_LEN];
            if !word.zero().has(part) {
                self.read_data(id, part * PART_LEN, &mut bytes)?;
            }
            let start = range.start.max(part * PART_LEN);
            let end = range.end.min((part + 1) * PART_LEN);
            let target = &mut bytes[start - part * PART_LEN..end - part * PART_LEN];
            match source {
                Source::Data(data) => {
                    target.copy_from_slice(&data[start - range.start..end - range.start]);
                }
                Source::Zeroes => target.fill(0),
            }
            edges.push((part, bytes));
        }
        Ok(edges)
    }

    fn zero_block(
        &self,
        block: BlockIndex,
        mapped: &dyn Fn(BlockIndex) -> bool,
    ) -> Result<(), Stop> {
        let _lock = self.write_lock(block);
        self.check()?;
        let writer = self.enter();
        let base = self.usable(block)?;
        let zero_already = match base {
            None => !mapped(block),
            Some((id, word)) if word.state() == State::Clean => {
                self.slot(id).clean_entry().entry == Entry::NONE
            }
            Some((id, _)) => id.is_mark(),
        };
        if zero_already {
            return Ok(());
        }
        if let Some((id, word)) = base
            && self.same_epoch(id, word, &writer)
        {
            self.change(id, |word| {
                word.with_dirty(Parts::ALL).with_valid(Parts::ALL).with_zero(Parts::ALL)
            });
            return Ok(());
        }
        let mark = lock(&self.free).take(Room::Mark).ok_or(Stop::NoRoom(Room::Mark))?;
        self.slot(mark).describe(block, writer.epoch, NO_ENTRY);
        let word = Word::new(State::Open)
            .with_valid(Parts::ALL)
            .with_dirty(Parts::ALL)
            .with_zero(Parts::ALL);
        self.publish(mark, word, base, &writer);
        Ok(())
    }

    fn same_epoch(&self, id: SlotId, word: Word, writer: &super::engine::Writer<'_>) -> bool {
        word.state() == State::Open && self.slot(id).epoch() == writer.epoch
    }

    /// Makes a complete slot the block's newest and lets go of the one before, unless that is
    /// sealed and has still to be sent.
    fn publish(
        &self,
        id: SlotId,
        word: Word,
        base: Option<(SlotId, Word)>,
        writer: &super::engine::Writer<'_>,
    ) {
        let slot = self.slot(id);
        slot.set_word(word.with_touched(true));
        self.set_current(slot.block(), Some(id));
        lock(&self.epochs).add(writer.epoch, id);
        // Before the release below: a flush takes released slots first, then touched ones, so that
        // no record names the release without the successor.
        lock(&self.touched).push(id);
        if let Some((old, word)) = base
            && (word.state() == State::Clean || self.same_epoch(old, word, writer))
        {
            self.release(old);
        }
    }
}

fn zeroed(range: &Range<usize>, source: Source<'_>) -> Parts {
    match source {
        Source::Data(_) => Parts::NONE,
        Source::Zeroes => Parts::within(range),
    }
}
