//! The two files, written in turns.

use std::collections::BTreeMap;
use std::io;

use sprite_types::{Epoch, Generation};

use super::record::{
    ALIGN, Event, ITEM_LEN, Item, ItemState, Kind, MAX_NOTE_LEN, Record, Tag, VERSION,
};
use crate::cache::disk::{Dir, File};
use crate::cache::error::OpenError;
use crate::cache::table::SlotId;

const NAMES: [&str; 2] = ["journal-0", "journal-1"];
/// Seals with a name and restores that may wait for the bucket at a time.
pub(crate) const MAX_EVENTS: usize = 64;

/// What the journal says.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) slots: BTreeMap<SlotId, Item>,
    /// Those that were not durable in the bucket at the last record, by epoch.
    pub(crate) events: Vec<Event>,
    pub(crate) generation: Generation,
    pub(crate) open_epoch: Epoch,
    pub(crate) durable_epoch: Epoch,
    pub(crate) clean_stop: bool,
    pub(crate) volume: u64,
    pub(crate) blocks: u32,
}

pub(crate) struct Journal {
    files: [Box<dyn File>; 2],
    active: usize,
    end: u64,
    capacity: u64,
    /// Room for records between two of the full state, in bytes.
    slack: u64,
    sequence: u64,
    previous: Tag,
}

impl Journal {
    /// Makes both files, with room for `slots` slots and nothing in them.
    pub(crate) fn create(dir: &dyn Dir, name: &str, slots: u64, slack: u64) -> io::Result<Self> {
        let files = [dir.create(name, NAMES[0])?, dir.create(name, NAMES[1])?];
        // The first record goes into the other file than the active one.
        let (active, previous) = (1, Tag::default());
        let mut journal = Self { files, active, end: 0, capacity: 0, slack, sequence: 0, previous };
        journal.reserve(slots)?;
        Ok(journal)
    }

    /// Opens both files and reads the one that goes further.
    pub(crate) fn open(
        dir: &dyn Dir,
        name: &str,
        slack: u64,
        forget_cached: bool,
    ) -> Result<(Self, Replayed), OpenError> {
        let io = |source| OpenError::Io { action: "read the journal", source };
        let open = |at: usize| dir.open(name, NAMES[at]).map_err(io);
        let files = [open(0)?, open(1)?];
        let mut capacity = u64::MAX;
        let mut best: Option<(usize, Scan)> = None;
        for (at, file) in files.iter().enumerate() {
            if forget_cached {
                file.forget_cached().map_err(io)?;
            }
            capacity = capacity.min(file.size().map_err(io)?);
            let Some(scan) = scan(file.as_ref())? else { continue };
            if best.as_ref().is_none_or(|(_, best)| best.sequence < scan.sequence) {
                best = Some((at, scan));
            }
        }
        let (active, scan) = best.ok_or(OpenError::Corrupt { what: "no record is whole" })?;
        let Scan { end, sequence, previous, replayed } = scan;
        Ok((Self { files, active, end, capacity, slack, sequence, previous }, replayed))
    }

    /// Makes room for so many slots and marks in both files.
    pub(crate) fn reserve(&mut self, slots: u64) -> io::Result<()> {
        // A record of the full state, and then some; one that does not fit becomes another full one.
        let notes = (MAX_EVENTS * (MAX_NOTE_LEN + ALIGN)) as u64;
        let needed = slots * ITEM_LEN as u64 + notes + self.slack;
        if needed <= self.capacity {
            return Ok(());
        }
        for file in &self.files {
            file.allocate(needed)?;
        }
        self.capacity = needed;
        Ok(())
    }

    /// Makes what was read durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.files[self.active].sync()
    }

    /// Tells whether a record of this length can follow the last one, or a full one is due.
    pub(crate) fn fits(&self, len: usize) -> bool {
        self.end > 0 && self.end + len as u64 <= self.capacity
    }

    /// Writes `record` after the last and makes it durable; one of the full state goes to the
    /// start of the other file, which is then the one in use.
    pub(crate) fn append(&mut self, record: &mut Record) -> io::Result<()> {
        record.sequence = self.sequence + 1;
        let (bytes, tag) = record.encode(&self.previous);
        let (file, start) = match record.kind {
            Kind::Full => (1 - self.active, 0),
            _ => (self.active, self.end),
        };
        if start + bytes.len() as u64 > self.capacity {
            // Only a full record of more notes than any caller makes.
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.files[file].write(&bytes, start)?;
        self.files[file].sync()?;
        self.active = file;
        self.end = start + bytes.len() as u64;
        self.sequence = record.sequence;
        self.previous = tag;
        Ok(())
    }
}

struct Scan {
    end: u64,
    sequence: u64,
    previous: Tag,
    replayed: Replayed,
}

/// Reads records until the first that is not one. Nothing if there is no first one.
fn scan(file: &dyn File) -> Result<Option<Scan>, OpenError> {
    let io = |source| OpenError::Io { action: "read the journal", source };
    let len = file.size().map_err(io)?;
    let mut found: Option<Scan> = None;
    loop {
        let at = found.as_ref().map_or(0, |scan| scan.end);
        if at + ALIGN as u64 > len {
            return Ok(found);
        }
        let mut first = [0; ALIGN];
        file.read(&mut first, at).map_err(io)?;
        let Some(head) = Record::head(&first) else { return Ok(found) };
        if at == 0 && head.version > VERSION {
            return Err(OpenError::Mismatch { what: "a newer release wrote the journal" });
        }
        if head.version != VERSION || at + head.len as u64 > len {
            return Ok(found);
        }
        let mut bytes = vec![0; head.len];
        file.read(&mut bytes, at).map_err(io)?;
        let previous = found.as_ref().map(|scan| &scan.previous);
        let Some((record, tag)) = Record::decode(&bytes, previous) else { return Ok(found) };
        let next = match found.take() {
            None if record.kind == Kind::Full => start(record, tag, head.len as u64),
            Some(scan) if record.kind != Kind::Full && record.sequence == scan.sequence + 1 => {
                advance(scan, record, tag, head.len as u64)
            }
            other => return Ok(other),
        };
        found = Some(next);
    }
}

fn start(record: Record, tag: Tag, len: u64) -> Scan {
    let replayed = Replayed {
        slots: BTreeMap::new(),
        events: Vec::new(),
        generation: record.generation,
        open_epoch: record.open_epoch,
        durable_epoch: record.durable_epoch,
        clean_stop: record.clean_stop,
        volume: record.volume,
        blocks: record.blocks,
    };
    advance(Scan { end: 0, sequence: 0, previous: tag, replayed }, record, tag, len)
}

fn advance(mut scan: Scan, record: Record, tag: Tag, len: u64) -> Scan {
    let replayed = &mut scan.replayed;
    for item in record.items {
        match item.state {
            ItemState::Released => drop(replayed.slots.remove(&item.slot)),
            _ => drop(replayed.slots.insert(item.slot, item)),
        }
    }
    replayed.generation = record.generation;
    replayed.open_epoch = record.open_epoch;
    replayed.durable_epoch = record.durable_epoch;
    replayed.clean_stop = record.clean_stop;
    replayed.events.extend(record.events);
    replayed.events.retain(|event| event.epoch > record.durable_epoch);
    replayed.events.sort_by_key(|event| event.epoch);
    scan.end += len;
    scan.sequence = record.sequence;
    scan.previous = tag;
    scan
}
