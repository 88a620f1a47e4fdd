//! Reads, and fills with what was fetched.

use std::ops::Range;

use sprite_types::BlockIndex;

use super::engine::{Cache, lock};
use super::error::CacheError;
use super::parts::{CleanEntry, Entry, Parts};
use super::rules::Rule;
use super::slots::Room;
use super::table::{State, Word};
use crate::block::{BLOCK_LEN, PART_LEN, is_zero};

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Everything: the buffer is filled.
    Hit,
    /// Some parts are not in the cache; the buffer has the others. What is missing is what the
    /// block's entry in the map says *after* this answer, or zeroes without one.
    Miss {
        /// The parts of the range that were not found.
        missing: Parts,
    },
}

/// What became of a fetched block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It is in the cache.
    Kept,
    /// The block has another entry by now: fetch that one.
    Stale,
    /// There is no free slot; nothing was kept.
    NoSlot,
}

impl Cache {
    /// Reads `range` of a block, in bytes, into `buf`, which is as long.
    ///
    /// # Errors
    /// [`CacheError::Failed`] and [`CacheError::Io`].
    ///
    /// # Panics
    /// If the block is not one of the volume, or the range not one of a block.
    pub fn read(
        &self,
        block: BlockIndex,
        range: Range<usize>,
        buf: &mut [u8],
    ) -> Result<Read, CacheError> {
        assert!(range.end <= BLOCK_LEN && buf.len() == range.len(), "a range of a block");
        self.check()?;
        let lock = self.read_lock(block);
        let Some(id) = self.current(block) else {
            return Ok(Read::Miss { missing: Parts::touching(&range) });
        };
        let word = self.slot(id).word();
        if word.verify() {
            drop(lock);
            let exclusive = self.write_lock(block);
            self.usable(block)?;
            drop(exclusive);
            return self.read(block, range, buf);
        }
        self.note_read(id);
        let wanted = Parts::touching(&range);
        let inside = |run: Range<usize>| run.start.max(range.start)..run.end.min(range.end);
        for run in (wanted & word.valid() & word.zero()).runs().map(inside) {
            buf[run.start - range.start..run.end - range.start].fill(0);
        }
        for run in (wanted & word.valid() & !word.zero()).runs().map(inside) {
            self.read_data(
                id,
                run.start,
                &mut buf[run.start - range.start..run.end - range.start],
            )?;
        }
        let missing = wanted & !word.valid();
        Ok(if missing.is_empty() { Read::Hit } else { Read::Miss { missing } })
    }

    /// Keeps a block that was fetched: `content` is what `fetched` names. Parts that are valid by
    /// now stay as they are.
    ///
    /// `entry_of` looks the block up in the map and is asked under the block's lock.
    ///
    /// # Errors
    /// [`CacheError::Failed`] and [`CacheError::Io`].
    pub fn fill(
        &self,
        block: BlockIndex,
        fetched: Entry,
        content: &[u8; BLOCK_LEN],
        entry_of: &dyn Fn(BlockIndex) -> Entry,
    ) -> Result<Filled, CacheError> {
        let _lock = self.write_lock(block);
        self.check()?;
        if self.rules.keep(Rule::FillChecksEntry) && entry_of(block) != fetched {
            return Ok(Filled::Stale);
        }
        let zero = zero_parts(content);
        if let Some((id, word)) = self.usable(block)? {
            let mut missing = !word.valid();
            if !self.rules.keep(Rule::FillOnlyInvalid) && !id.is_mark() {
                missing = Parts::ALL;
            }
            if missing.is_empty() {
                return Ok(Filled::Kept);
            }
            self.write_parts(id, missing & !zero, content)?;
            self.change(id, |word| {
                word.with_valid(word.valid() | missing)
                    .with_zero(word.zero() & !missing | missing & zero)
            });
            return Ok(Filled::Kept);
        }
        let Some(id) = lock(&self.free).take(Room::Slot) else { return Ok(Filled::NoSlot) };
        self.write_parts(id, !zero, content)?;
        let slot = self.slot(id);
        let clean = CleanEntry { entry: fetched, crc32c: crc32c::crc32c(content) };
        slot.describe(block, self.table.open_epoch(), clean);
        let word = Word::new(State::Clean).with_valid(Parts::ALL).with_zero(zero);
        slot.set_word(word.with_touched(true));
        self.set_current(block, Some(id));
        lock(&self.touched).push(id);
        self.note_read(id);
        Ok(Filled::Kept)
    }
}

fn zero_parts(content: &[u8; BLOCK_LEN]) -> Parts {
    let parts = content.as_chunks::<PART_LEN>().0.iter().enumerate();
    Parts(parts.fold(0, |mask, (at, part)| mask | u16::from(is_zero(part)) << at))
}
