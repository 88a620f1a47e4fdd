//! Free slots, and making room when there are none.

use std::io;

use super::engine::{Cache, lock};
use super::error::CacheError;
use super::table::SlotId;
use crate::block::BLOCK_LEN;

/// Slots and marks that nothing uses and whose release is durable.
#[derive(Default)]
pub(super) struct FreeSlots {
    slots: Vec<SlotId>,
    marks: Vec<SlotId>,
}

impl FreeSlots {
    pub(super) fn put(&mut self, id: SlotId) {
        if id.is_mark() { self.marks.push(id) } else { self.slots.push(id) }
    }

    pub(super) fn take(&mut self, what: Room) -> Option<SlotId> {
        match what {
            Room::Slot => self.slots.pop(),
            Room::Mark => self.marks.pop(),
        }
    }

    pub(super) fn count(&self, what: Room) -> usize {
        match what {
            Room::Slot => self.slots.len(),
            Room::Mark => self.marks.len(),
        }
    }
}

/// What a request found none of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    Slot,
    Mark,
}

impl Cache {
    /// Finds a free slot for a fill that found none: by a flush, by growing, by evicting.
    ///
    /// # Errors
    /// [`CacheError::Full`] and [`CacheError::HostFull`]: wait for an upload; otherwise as
    /// [`Cache::flush`].
    pub fn make_slot(&self) -> Result<(), CacheError> {
        self.make_room(Room::Slot)
    }

    /// Finds room after a request found none: by a flush if enough was released, by growing, by
    /// evicting. Holds no block's lock.
    ///
    /// # Errors
    /// [`CacheError::Full`] and [`CacheError::HostFull`]: the caller waits for an upload.
    pub(super) fn make_room(&self, what: Room) -> Result<(), CacheError> {
        let found = || lock(&self.free).count(what) > 0;
        let used = match what {
            Room::Slot => self.table.slots(),
            Room::Mark => self.table.marks(),
        };
        let released = || {
            lock(&self.released).iter().filter(|id| id.is_mark() == (what == Room::Mark)).count()
        };
        // Reuse keeps the file as small as what is in use, but each costs a flush.
        if released() > (used / 8) as usize {
            self.flush()?;
            if found() {
                return Ok(());
            }
        }
        let full = match self.grow(what) {
            Ok(true) => return Ok(()),
            Ok(false) => CacheError::Full,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                CacheError::HostFull
            }
            Err(source) => return Err(CacheError::Io { action: "grow", source }),
        };
        if what == Room::Slot && released() == 0 {
            self.evict(64 * BLOCK_LEN as u64)?;
        }
        if released() > 0 {
            self.flush()?;
        }
        if found() { Ok(()) } else { Err(full) }
    }

    /// Grows by a step. False if the cache is as large as it may be.
    fn grow(&self, what: Room) -> io::Result<bool> {
        // The journal's lock is that of growing: its files grow first.
        let mut log = lock(&self.log);
        if lock(&self.free).count(what) > 0 {
            return Ok(true);
        }
        let (slots, marks) = (self.table.slots(), self.table.marks());
        let shape = self.table.shape();
        let step = self.settings.grow_slots.max(1);
        let limit = |used: u32, max: u32| used.saturating_add(step).min(max);
        let (new_slots, new_marks) = match what {
            Room::Slot => (limit(slots, shape.slots_max), marks),
            Room::Mark => (slots, limit(marks, shape.marks_max)),
        };
        if (new_slots, new_marks) == (slots, marks) {
            return Ok(false);
        }
        log.journal.reserve(u64::from(new_slots) + u64::from(new_marks))?;
        if new_slots > slots {
            self.data.allocate(u64::from(new_slots) * BLOCK_LEN as u64)?;
        }
        self.table.set_slots(new_slots);
        self.table.set_marks(new_marks);
        let mut free = lock(&self.free);
        (slots..new_slots).rev().for_each(|number| free.put(SlotId::slot(number)));
        (marks..new_marks).rev().for_each(|number| free.put(SlotId::mark(number)));
        Ok(true)
    }
}
