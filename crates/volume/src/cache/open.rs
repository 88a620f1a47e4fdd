//! Opening: a new cache, a replay of the journal, or a predecessor's table.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use sprite_types::{BlockIndex, Epoch, Generation};

use super::disk::{Dir, File};
use super::engine::{Cache, Settings, lock};
use super::epochs::{SealedEpoch, SealedKind};
use super::error::OpenError;
use super::journal::{Event, EventKind, ItemState, Journal, Replayed};
use super::memory::Memory;
use super::parts::Entry;
use super::plan::{Kept, Plan, has_unsent, plan};
use super::rules::{Rule, Rules};
use super::stranded::Stranded;
use super::table::{SlotId, State, Table, Word};
use crate::block::BLOCK_LEN;

const LIVE: &str = "live";
const NEW: &str = "new";
const SLOTS: &str = "slots";

/// What the bucket says of a volume after it was claimed and fenced.
#[derive(Clone, Copy, Debug)]
pub struct HeadInfo {
    /// The caller's claim.
    pub generation: Generation,
    /// The newest epoch in the bucket.
    pub epoch: Epoch,
    /// The newest claim of anybody who is not this cache's host, if there was any.
    pub foreign: Option<ForeignClaim>,
}

/// Somebody else's claim.
#[derive(Clone, Copy, Debug)]
pub struct ForeignClaim {
    /// Its number.
    pub generation: Generation,
    /// The newest epoch in the bucket that was committed before the first claim of anybody else
    /// since the cache was last written.
    pub ours_until: Epoch,
}

/// What became of what was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Epochs that have to be sent, oldest first, as before the end of the former process.
    pub sealed: Vec<SealedEpoch>,
    /// Bytes of slots with writes that the bucket does not have, in sealed epochs and the open one.
    pub unsent_bytes: u64,
    /// Bytes of slots that equal the bucket's head.
    pub clean_bytes: u64,
    /// Writes that were not merged because somebody else claimed the volume since.
    pub stranded: Option<Stranded>,
}

/// What a cache directory says without being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// The claim it was last written under.
    pub generation: Generation,
    /// The newest epoch it knew to be in the bucket.
    pub durable_epoch: Epoch,
    /// Whether it was closed in good order.
    pub clean_stop: bool,
}

fn io(action: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { action, source }
}

impl Cache {
    /// Tells what a directory holds, or nothing if it holds no cache.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn left_behind(dir: &dyn Dir) -> Result<Option<LeftBehind>, OpenError> {
        if !dir.exists(LIVE).map_err(io("look for the files"))? {
            return Ok(None);
        }
        let (_, replayed) = Journal::open(dir, LIVE, 0, false)?;
        let Replayed { generation, durable_epoch, clean_stop, .. } = replayed;
        Ok(Some(LeftBehind { generation, durable_epoch, clean_stop }))
    }

    /// Opens a volume's cache after its process, or its host, has ended: replays the journal
    /// against the bucket's head, or makes an empty cache.
    ///
    /// `entry_of` returns the entries of the head. Nothing is changed before all was read, and what
    /// was there is replaced in one step.
    ///
    /// # Errors
    /// - [`OpenError::Io`]: see its source; a full disk is one of the causes.
    /// - [`OpenError::Corrupt`]: keep the directory, open with another, tell a person.
    /// - [`OpenError::Mismatch`], [`OpenError::Generation`]: not the cache of this claim.
    pub fn open(
        dir: Arc<dyn Dir>,
        settings: Settings,
        head: &HeadInfo,
        entry_of: &dyn Fn(BlockIndex) -> Entry,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_with(dir, settings, head, entry_of, Rules::default())
    }

    pub(super) fn open_with(
        dir: Arc<dyn Dir>,
        settings: Settings,
        head: &HeadInfo,
        entry_of: &dyn Fn(BlockIndex) -> Entry,
        rules: Rules,
    ) -> Result<(Self, Recovered), OpenError> {
        dir.remove(NEW).map_err(io("clear the directory"))?;
        if !dir.exists(LIVE).map_err(io("look for the files"))? {
            return Ok((Self::create(dir, settings, head, rules)?, Recovered::default()));
        }
        let data = dir.open(LIVE, SLOTS).map_err(io("open the slots"))?;
        data.forget_cached().map_err(io("sync the slots"))?;
        let (journal, replayed) = Journal::open(dir.as_ref(), LIVE, settings.journal_bytes, true)?;
        check(&replayed, &settings, head.generation)?;
        let foreign = head.foreign.filter(|claim| claim.generation > replayed.generation);
        let durable = foreign.map_or(head.epoch, |claim| claim.ours_until);
        if durable < replayed.durable_epoch {
            return Err(OpenError::Mismatch { what: "the bucket lacks an epoch it had confirmed" });
        }
        let strands = foreign.is_some() && rules.keep(Rule::Strand);
        if strands && has_unsent(&replayed, durable) {
            drop((data, journal));
            let generation = replayed.generation;
            let name = free_name(dir.as_ref(), generation)?;
            dir.rename(LIVE, &name).map_err(io("set stranded writes aside"))?;
            dir.sync(&name).map_err(io("set stranded writes aside"))?;
            let stranded = Some(Stranded { name, generation, base: durable });
            let cache = Self::create(dir, settings, head, rules)?;
            return Ok((cache, Recovered { stranded, ..Recovered::default() }));
        }
        let plan = plan(&replayed, durable, head.epoch, entry_of, rules)?;
        Self::rebuild(dir, settings, head, rules, data, journal, &replayed, &plan)
    }

    fn create(
        dir: Arc<dyn Dir>,
        settings: Settings,
        head: &HeadInfo,
        rules: Rules,
    ) -> Result<Self, OpenError> {
        let create = io("make the files");
        dir.make(NEW).map_err(&create)?;
        let data = dir.create(NEW, SLOTS).map_err(&create)?;
        let journal =
            Journal::create(dir.as_ref(), NEW, 0, settings.journal_bytes).map_err(&create)?;
        let shape = settings.shape();
        let memory = settings.memory(&shape).map_err(io("make the table"))?;
        let table = Table::create(memory.clone(), shape);
        table.set_generation(head.generation);
        table.set_open_epoch(head.epoch.next());
        table.set_durable_epoch(head.epoch);
        let names = Arc::clone(&dir);
        let cache = Self::assemble(dir, settings, rules, memory, table, data, journal)
            .map_err(io("make the table"))?;
        cache.flush_full().map_err(opening)?;
        names.sync(NEW).map_err(&create)?;
        names.rename(NEW, LIVE).map_err(&create)?;
        names.sync(LIVE).map_err(&create)?;
        cache.table.publish();
        Ok(cache)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a cache, used once")]
    fn rebuild(
        dir: Arc<dyn Dir>,
        settings: Settings,
        head: &HeadInfo,
        rules: Rules,
        data: Box<dyn File>,
        mut journal: Journal,
        replayed: &Replayed,
        plan: &Plan,
    ) -> Result<(Self, Recovered), OpenError> {
        let slots = data.size().map_err(io("look at the slots"))? / BLOCK_LEN as u64;
        let slots = u32::try_from(slots).ok().filter(|slots| *slots < 1 << 31);
        let slots = slots.ok_or(OpenError::Corrupt { what: "the slots are beyond any size" })?;
        let highest_mark = plan.kept.iter().filter(|kept| kept.id.is_mark());
        let marks = highest_mark.map(|kept| kept.id.number() + 1).max().unwrap_or(0);
        if plan.kept.iter().any(|kept| !kept.id.is_mark() && kept.id.number() >= slots) {
            return Err(OpenError::Corrupt { what: "a slot lies beyond the end of its file" });
        }
        let mut shape = settings.shape();
        shape.slots_max = shape.slots_max.max(slots);
        shape.marks_max = shape.marks_max.max(marks);
        journal.reserve(u64::from(slots) + u64::from(marks)).map_err(io("grow the journal"))?;
        let memory = settings.memory(&shape).map_err(io("make the table"))?;
        let table = Table::create(memory.clone(), shape);
        table.set_generation(head.generation);
        table.set_open_epoch(plan.open_epoch);
        table.set_durable_epoch(head.epoch);
        table.set_cut_epoch(plan.cut_epoch);
        table.set_slots(slots);
        table.set_marks(marks);
        let cache = Self::assemble(dir, settings, rules, memory, table, data, journal)
            .map_err(io("make the table"))?;
        let mut recovered = Recovered::default();
        for kept in &plan.kept {
            cache.install(kept);
            if !kept.id.is_mark() {
                let bytes = match kept.item.state {
                    ItemState::Clean => &mut recovered.clean_bytes,
                    _ => &mut recovered.unsent_bytes,
                };
                *bytes += BLOCK_LEN as u64;
            }
        }
        let in_use: BTreeSet<SlotId> = plan.kept.iter().map(|kept| kept.id).collect();
        let mut free = lock(&cache.free);
        // In reverse, so that low ones are used first.
        let mut ids: Vec<SlotId> = cache.table.ids().filter(|id| !in_use.contains(id)).collect();
        ids.reverse();
        ids.into_iter().for_each(|id| free.put(id));
        drop(free);
        let events = replayed.events.iter().filter(|event| plan.sealed.contains(&event.epoch));
        cache.expect_sealed(plan.sealed.iter().copied(), events.cloned().collect());
        recovered.sealed = cache.sealed_epochs();
        cache.flush_full().map_err(opening)?;
        cache.table.publish();
        Ok((cache, recovered))
    }

    fn install(&self, kept: &Kept) {
        let Kept { id, item, current, verify } = *kept;
        let state = match item.state {
            ItemState::Clean => State::Clean,
            ItemState::Open | ItemState::Released => State::Open,
        };
        let slot = self.slot(id);
        slot.describe(item.block, item.epoch, item.clean);
        slot.set_word(
            Word::new(state)
                .with_valid(item.valid)
                .with_dirty(item.dirty)
                .with_zero(item.zero)
                .with_verify(verify),
        );
        if current {
            self.set_current(item.block, Some(id));
        }
        if state == State::Open {
            lock(&self.epochs).add(item.epoch, id);
        }
    }

    /// Queues the epochs that a former process had sealed.
    fn expect_sealed(&self, sealed: impl Iterator<Item = Epoch>, events: Vec<Event>) {
        let mut epochs = lock(&self.epochs);
        for epoch in sealed {
            let event = events.iter().rfind(|event| event.epoch == epoch);
            let kind = match event {
                None => SealedKind::Plain,
                Some(Event { kind: EventKind::Named, note, .. }) => SealedKind::Named(note.clone()),
                Some(Event { kind: EventKind::Restore, note, .. }) => {
                    SealedKind::Restore(note.clone())
                }
            };
            epochs.sealed.push_back(SealedEpoch { epoch, kind });
        }
        lock(&self.log).events = events;
    }

    /// Takes over the table of a process that died while somebody kept its memory. No write that
    /// was answered is lost, flushed or not.
    ///
    /// The predecessor must be gone for good. An epoch of [`Recovered::sealed`] that the map has
    /// already is to be named to [`Cache::epoch_durable`] and not sent again.
    ///
    /// # Errors
    /// [`OpenError::Failed`]: open it with [`Cache::open`] under a new claim; otherwise as there.
    pub fn adopt(
        dir: Arc<dyn Dir>,
        settings: Settings,
        memory: Memory,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::adopt_with(dir, settings, memory, Rules::default())
    }

    pub(super) fn adopt_with(
        dir: Arc<dyn Dir>,
        settings: Settings,
        memory: Memory,
        rules: Rules,
    ) -> Result<(Self, Recovered), OpenError> {
        let table = Table::inherit(memory.clone(), settings.tag(), settings.blocks)
            .ok_or(OpenError::Mismatch { what: "the memory is not this volume's slot table" })?;
        if table.failed() {
            return Err(OpenError::Failed);
        }
        let data = dir.open(LIVE, SLOTS).map_err(io("open the slots"))?;
        let (journal, replayed) = Journal::open(dir.as_ref(), LIVE, settings.journal_bytes, false)?;
        let outside = |id| {
            let slot = table.slot(id);
            slot.word().state() != State::Free && slot.block().0 >= settings.blocks
        };
        if table.ids().any(outside) {
            return Err(OpenError::Mismatch { what: "the table has a block beyond the volume" });
        }
        // The last record may have been cut short before its sync, and may name a seal or a restore
        // that is reported now.
        journal.sync().map_err(io("sync the journal"))?;
        check(&replayed, &settings, table.generation())?;
        if replayed.generation != table.generation() {
            return Err(OpenError::Mismatch { what: "journal and slot table are of two claims" });
        }
        let cache = Self::assemble(dir, settings, rules, memory, table, data, journal)
            .map_err(io("make the table"))?;
        let durable = cache.table.durable_epoch();
        let mut events = replayed.events;
        events.retain(|event| event.epoch > durable);
        let restores = events.iter().filter(|event| event.kind == EventKind::Restore);
        let cut = restores.map(|event| event.epoch).max().unwrap_or_default();
        let finish_restore = cut > cache.table.cut_epoch();
        if finish_restore {
            // The predecessor died while it went through the table.
            cache.table.set_cut_epoch(cut);
            cache.table.set_open_epoch(cache.table.open_epoch().max(cut.next()));
        }
        let mut recovered = cache.inherit_slots(finish_restore);
        let open = cache.table.open_epoch();
        let mut sealed: BTreeSet<Epoch> = events.iter().map(|event| event.epoch).collect();
        sealed.extend(cache.table.ids().filter_map(|id| {
            let slot = cache.slot(id);
            let unsent = slot.word().state() == State::Open && slot.epoch() < open;
            unsent.then(|| slot.epoch())
        }));
        cache.expect_sealed(sealed.into_iter(), events);
        recovered.sealed = cache.sealed_epochs();
        Ok((cache, recovered))
    }

    /// Sorts every slot of an inherited table into the lists of this process.
    fn inherit_slots(&self, drop_clean: bool) -> Recovered {
        let mut recovered = Recovered::default();
        let mut newest: BTreeMap<BlockIndex, (Epoch, bool, SlotId)> = BTreeMap::new();
        let mut clean: BTreeMap<BlockIndex, Vec<SlotId>> = BTreeMap::new();
        let mut superseded = Vec::new();
        let mut ids: Vec<SlotId> = self.table.ids().collect();
        ids.reverse();
        for id in ids {
            let slot = self.slot(id);
            match slot.word().state() {
                State::Free => lock(&self.free).put(id),
                State::ReleasedOpen | State::ReleasedClean => lock(&self.released).push(id),
                State::Clean => clean.entry(slot.block()).or_default().push(id),
                State::Open => {
                    // A part whose write was cut short was answered to nobody.
                    if self.rules.keep(Rule::DirtyAndValid) {
                        slot.update(|word| word.with_dirty(word.dirty() & word.valid()));
                    }
                    lock(&self.epochs).add(slot.epoch(), id);
                    recovered.unsent_bytes += u64::from(!id.is_mark()) * BLOCK_LEN as u64;
                    if slot.epoch() < self.table.cut_epoch() {
                        continue;
                    }
                    // Of a mark and a slot of one epoch, the slot came later and replaces the mark.
                    let this = (slot.epoch(), !id.is_mark(), id);
                    let other = newest.insert(slot.block(), this).unwrap_or(this);
                    let (older, newer) = (this.min(other), this.max(other));
                    newest.insert(slot.block(), newer);
                    if older != newer && older.0 == newer.0 {
                        superseded.push(older.2);
                    }
                }
            }
        }
        for (block, (_, _, id)) in &newest {
            self.set_current(*block, Some(*id));
        }
        superseded.into_iter().for_each(|id| self.release(id));
        for (block, ids) in clean {
            // An open slot is newer than a clean one, and of two clean ones nobody knows.
            if drop_clean || newest.contains_key(&block) || ids.len() > 1 {
                ids.into_iter().for_each(|id| self.release(id));
            } else {
                self.set_current(block, ids.first().copied());
                recovered.clean_bytes += BLOCK_LEN as u64;
            }
        }
        // Nobody knows what the journal has of these: the next record names them all.
        let mut touched = lock(&self.touched);
        for id in self.table.ids() {
            let slot = self.slot(id);
            if matches!(slot.word().state(), State::Open | State::Clean) {
                slot.update(|word| word.with_touched(true));
                touched.push(id);
            }
        }
        drop(touched);
        recovered
    }
}

fn check(replayed: &Replayed, settings: &Settings, claimed: Generation) -> Result<(), OpenError> {
    if replayed.volume != settings.tag() {
        return Err(OpenError::Mismatch { what: "it is another volume's" });
    }
    if replayed.blocks > settings.blocks {
        return Err(OpenError::Mismatch { what: "the volume was longer" });
    }
    if replayed.generation > claimed {
        return Err(OpenError::Generation { found: replayed.generation, claimed });
    }
    Ok(())
}

/// Finds a name for the writes of a claim that were stranded.
fn free_name(dir: &dyn Dir, generation: Generation) -> Result<String, OpenError> {
    let taken = dir.list().map_err(io("look for the files"))?;
    let base = format!("stranded-{}", generation.to_hex());
    let more = (1..).map(|number: u32| format!("{base}-{number}"));
    let mut names = std::iter::once(base.clone()).chain(more);
    Ok(names.find(|name| !taken.contains(name)).expect("numbers do not end before names do"))
}

/// A failed first record, as a reason not to open.
fn opening(error: super::error::CacheError) -> OpenError {
    match error {
        super::error::CacheError::Io { action, source } => OpenError::Io { action, source },
        other => {
            OpenError::Io { action: "write the first record", source: io::Error::other(other) }
        }
    }
}
