//! Eviction: the clock over runs of slots. And numbers for status.

use sprite_types::Epoch;

use super::engine::{Cache, RUN, lock};
use super::error::CacheError;
use super::slots::Room;
use super::table::{SlotId, State};
use crate::block::BLOCK_LEN;

/// What the cache holds. Bytes are whole slots of 64 KiB: what is sent, not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The epoch that gathers writes.
    pub open_epoch: Epoch,
    /// The newest epoch known to be in the bucket.
    pub durable_epoch: Epoch,
    /// Bytes of the open epoch.
    pub open_bytes: u64,
    /// Bytes of sealed epochs.
    pub sealed_bytes: u64,
    /// Epochs that are sealed and not durable.
    pub sealed_epochs: usize,
    /// The bound of open and sealed bytes together: past it the caller slows writes down.
    pub unsent_bytes_max: u64,
    /// Bytes the cache file has on the host's disk.
    pub file_bytes: u64,
    /// Bytes the file may grow to.
    pub file_bytes_max: u64,
    /// Bytes of slots that a write or fill can take at once.
    pub free_bytes: u64,
    /// Bytes of slots that the next flush frees.
    pub released_bytes: u64,
    /// Whether an error was final.
    pub failed: bool,
}

impl Stats {
    /// Returns how many bytes more may be written before writes have to be slowed.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.unsent_bytes_max.saturating_sub(self.open_bytes + self.sealed_bytes)
    }
}

impl Cache {
    /// Lets go of clean slots, those not read for longest first, until `bytes` were let go of or
    /// none is left, and returns how many bytes it were. The next flush makes them free.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn evict(&self, bytes: u64) -> Result<u64, CacheError> {
        self.check()?;
        let mut hand = lock(&self.hand);
        let mut evicted = 0;
        let runs = self.table.slots().div_ceil(RUN);
        // Twice around: the first time may only find what was read lately.
        for _ in 0..2 * runs {
            if evicted >= bytes {
                break;
            }
            let run = *hand % runs;
            *hand = (run + 1) % runs;
            if !self.was_read(run) {
                evicted += self.evict_run(run);
            }
        }
        Ok(evicted)
    }

    fn evict_run(&self, run: u32) -> u64 {
        let end = ((run + 1) * RUN).min(self.table.slots());
        let mut evicted = 0;
        for id in (run * RUN..end).map(SlotId::slot) {
            let slot = self.slot(id);
            if slot.word().state() != State::Clean {
                continue;
            }
            let block = slot.block();
            let _lock = self.write_lock(block);
            if slot.word().state() == State::Clean && slot.block() == block {
                self.release(id);
                evicted += BLOCK_LEN as u64;
            }
        }
        evicted
    }

    /// Returns numbers for status and for deciding whether writes have to wait.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let bytes = |slots: u64| slots * BLOCK_LEN as u64;
        let open_epoch = self.table.open_epoch();
        let epochs = lock(&self.epochs);
        let (open, sealed) = epochs.unsent(open_epoch);
        let sealed_epochs = epochs.sealed.len();
        drop(epochs);
        let free = lock(&self.free).count(Room::Slot);
        let released = lock(&self.released).iter().filter(|id| !id.is_mark()).count();
        Stats {
            open_epoch,
            durable_epoch: self.table.durable_epoch(),
            open_bytes: bytes(open),
            sealed_bytes: bytes(sealed),
            sealed_epochs,
            unsent_bytes_max: self.settings.unsent_bytes_max,
            file_bytes: bytes(self.table.slots().into()),
            file_bytes_max: bytes(self.table.shape().slots_max.into()),
            free_bytes: bytes(free as u64),
            released_bytes: bytes(released as u64),
            failed: self.check().is_err(),
        }
    }
}
