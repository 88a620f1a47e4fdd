//! Flushes: rules 3, 4 and 5.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};

use super::engine::{Cache, Log, lock};
use super::error::CacheError;
use super::journal::{Event, EventKind, Item, ItemState, Kind, Record};
use super::rules::Rule;
use super::table::{SlotId, State, Word};

/// Lets callers that arrive together share one flush.
#[derive(Default)]
pub(super) struct FlushTurns {
    state: Mutex<Turns>,
    ended: Condvar,
}

#[derive(Default)]
struct Turns {
    started: u64,
    /// The last one that succeeded. After one that failed, all fail.
    ended: u64,
    running: bool,
}

/// Why a record is written even if no slot changed.
enum Cause {
    Flush,
    Event(Event),
    /// The end: nothing will be newer than this record.
    Close,
    /// The beginning: the next file begins with it.
    Open,
}

impl Cache {
    /// Makes every write that was answered before this call durable on this host.
    ///
    /// # Errors
    /// After [`CacheError::Io`] every request answers [`CacheError::Failed`].
    pub fn flush(&self) -> Result<(), CacheError> {
        let mut turns = lock(&self.turns.state);
        // One that has started may have looked at the masks already.
        let needed = turns.started + 1;
        loop {
            if turns.ended >= needed {
                return Ok(());
            }
            self.check()?;
            if turns.running {
                turns = self.turns.ended.wait(turns).expect("no holder of this lock panics");
                continue;
            }
            turns.running = true;
            turns.started += 1;
            let started = turns.started;
            drop(turns);
            let result = self.record(Cause::Flush);
            turns = lock(&self.turns.state);
            turns.running = false;
            if result.is_ok() {
                turns.ended = turns.ended.max(started);
            }
            self.turns.ended.notify_all();
            result?;
        }
    }

    /// Flushes, with a record of `event` in any case.
    pub(super) fn flush_event(&self, event: Event) -> Result<(), CacheError> {
        self.record(Cause::Event(event))
    }

    /// Writes the full state to the other journal file.
    pub(super) fn flush_full(&self) -> Result<(), CacheError> {
        self.record(Cause::Open)
    }

    /// Ends the cache in good order: the next one need not doubt anything it finds.
    ///
    /// # Errors
    /// As [`Cache::flush`]; then the next one replays as after a power cut.
    pub fn close(self) -> Result<(), CacheError> {
        self.record(Cause::Close)
    }

    fn record(&self, cause: Cause) -> Result<(), CacheError> {
        let mut log = lock(&self.log);
        self.check()?;
        // Released before touched: see `publish`.
        let released = std::mem::take(&mut *lock(&self.released));
        let mut touched = std::mem::take(&mut *lock(&self.touched));
        touched.sort_unstable();
        touched.dedup();
        let (kind, clean_stop) = match &cause {
            Cause::Flush => (Kind::Flush, false),
            Cause::Event(Event { kind: EventKind::Named, .. }) => (Kind::Seal, false),
            Cause::Event(Event { kind: EventKind::Restore, .. }) => (Kind::Restore, false),
            Cause::Close => (Kind::Full, true),
            Cause::Open => (Kind::Full, false),
        };
        let events: Vec<Event> = match cause {
            Cause::Event(event) => vec![event],
            _ => Vec::new(),
        };
        let forced = !events.is_empty() || kind == Kind::Full;
        let len = Record::encoded_len(released.len() + touched.len(), &events);
        let kind = if log.journal.fits(len) { kind } else { Kind::Full };
        let mut record = self.snapshot(&log, kind, &released, &touched, events.clone());
        record.clean_stop = clean_stop;
        log.events.extend(events);
        // Masks were looked at first: a part that became valid since has data that this sync may
        // miss, and no bit in the record.
        if self.rules.keep(Rule::DataBeforeRecord) {
            self.sync_data()?;
        }
        if forced || !released.is_empty() || !record.items.is_empty() {
            if !self.rules.keep(Rule::RecordsMasks) {
                record.items.retain(|item| item.state == ItemState::Released);
            }
            log.journal
                .append(&mut record)
                .map_err(|source| self.fail("write the journal", source))?;
        }
        if !self.rules.keep(Rule::DataBeforeRecord) {
            self.sync_data()?;
        }
        let mut free = lock(&self.free);
        for id in released {
            self.slot(id).set_word(Word::new(State::Free));
            free.put(id);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), CacheError> {
        self.data.sync().map_err(|source| self.fail("sync the slots", source))
    }

    /// Looks at the masks of what a record has to name.
    fn snapshot(
        &self,
        log: &Log,
        kind: Kind,
        released: &[SlotId],
        touched: &[SlotId],
        mut events: Vec<Event>,
    ) -> Record {
        let durable_epoch = self.table.durable_epoch();
        let gone: BTreeSet<SlotId> = released.iter().copied().collect();
        let live = |id: &SlotId| if gone.contains(id) { None } else { self.live_item(*id) };
        let items: Vec<Item> = if kind == Kind::Full {
            let waiting = log.events.iter().filter(|event| event.epoch > durable_epoch);
            events.extend(waiting.cloned());
            self.table.ids().filter_map(|id| live(&id)).collect()
        } else {
            let released = released.iter().map(|id| self.item(*id, ItemState::Released));
            released.chain(touched.iter().filter_map(live)).collect()
        };
        Record {
            kind,
            clean_stop: false,
            volume: self.settings.tag(),
            blocks: self.settings.blocks,
            generation: self.table.generation(),
            open_epoch: self.table.open_epoch(),
            durable_epoch,
            sequence: 0,
            items,
            events,
        }
    }

    /// Returns what a record says of a slot in use, and notes that one says it.
    fn live_item(&self, id: SlotId) -> Option<Item> {
        let slot = self.slot(id);
        if slot.word().state() == State::Free {
            return None;
        }
        let _lock = self.read_lock(slot.block());
        let (word, _) = slot.update(|word| word.with_touched(false));
        let state = match word.state() {
            // Superseded since `released` was taken. The successor may be missing in this record,
            // so this one still counts.
            State::Open | State::ReleasedOpen => ItemState::Open,
            State::Clean => ItemState::Clean,
            State::Free | State::ReleasedClean => return None,
        };
        Some(Item {
            state,
            valid: word.valid(),
            dirty: word.dirty(),
            zero: word.zero(),
            unverified: word.verify(),
            ..self.item(id, state)
        })
    }

    fn item(&self, id: SlotId, state: ItemState) -> Item {
        let slot = self.slot(id);
        let word = slot.word();
        let clean = slot.clean_entry();
        let (block, epoch) = (slot.block(), slot.epoch());
        let (valid, dirty, zero) = (word.valid(), word.dirty(), word.zero());
        let unverified = word.verify();
        Item { slot: id, state, block, epoch, valid, dirty, zero, clean, unverified }
    }
}
