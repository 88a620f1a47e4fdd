//! One record of the journal, as bytes.

use sprite_types::{BlockIndex, Epoch, Generation};

use crate::cache::parts::{CleanEntry, Entry, Parts};
use crate::cache::table::SlotId;

/// Records begin at multiples of this, so that no sector is written again once it counts.
pub(super) const ALIGN: usize = 512;
pub(super) const HEADER_LEN: usize = 96;
pub(crate) const ITEM_LEN: usize = 48;
/// Bytes of a caller's note at most.
pub(crate) const MAX_NOTE_LEN: usize = 1_024;
const EVENT_HEAD_LEN: usize = 12;
/// Named seals and restores that wait for the bucket at most.
const MAX_EVENTS_LEN: usize = 1 << 20;
const MAGIC: &[u8; 4] = b"SPVJ";
pub(super) const VERSION: u16 = 1;
const CLEAN_STOP: u8 = 1;
const HASH: std::ops::Range<usize> = 80..96;

/// Ties a record to the one before it.
pub(crate) type Tag = [u8; 16];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// What changed since the record before.
    Flush,
    /// The same, with a named seal.
    Seal,
    /// The same, with a restore.
    Restore,
    /// Everything; the first of a file.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ItemState {
    Released,
    /// Open or sealed; its epoch tells which.
    Open,
    Clean,
}

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) slot: SlotId,
    pub(crate) state: ItemState,
    pub(crate) block: BlockIndex,
    pub(crate) epoch: Epoch,
    pub(crate) valid: Parts,
    pub(crate) dirty: Parts,
    pub(crate) zero: Parts,
    pub(crate) clean: CleanEntry,
    /// Survived a power cut and was not looked at since.
    pub(crate) unverified: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EventKind {
    /// The epoch was sealed under a name: it is rebuilt as an epoch of its own.
    Named,
    /// The epoch is a restore: what was written before lies on another state than what came after.
    Restore,
}

/// Something about an epoch that a flush alone does not tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) epoch: Epoch,
    pub(crate) kind: EventKind,
    /// What the caller wants to be told again.
    pub(crate) note: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    /// The cache was closed after this, and nothing is newer than it.
    pub(crate) clean_stop: bool,
    pub(crate) volume: u64,
    pub(crate) blocks: u32,
    pub(crate) generation: Generation,
    pub(crate) open_epoch: Epoch,
    pub(crate) durable_epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) items: Vec<Item>,
    pub(crate) events: Vec<Event>,
}

/// What the fixed part of a record says before its hash has been checked.
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) version: u16,
}

impl Record {
    /// Returns the bytes that a record of so many slots and events takes.
    pub(crate) fn encoded_len(items: usize, events: &[Event]) -> usize {
        let events: usize = events.iter().map(|event| EVENT_HEAD_LEN + event.note.len()).sum();
        (HEADER_LEN + items * ITEM_LEN + events).next_multiple_of(ALIGN)
    }

    /// Encodes it and returns the bytes with the tag that the next record names.
    pub(crate) fn encode(&self, previous: &Tag) -> (Vec<u8>, Tag) {
        let len = Self::encoded_len(self.items.len(), &self.events);
        let mut bytes = Vec::with_capacity(len);
        let small = |value: usize| u32::try_from(value).expect("records are below 4 GiB");
        let kind = match self.kind {
            Kind::Flush => 1,
            Kind::Seal => 2,
            Kind::Restore => 3,
            Kind::Full => 4,
        };
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[kind, if self.clean_stop { CLEAN_STOP } else { 0 }]);
        let mut events = Vec::new();
        for event in &self.events {
            encode_event(event, &mut events);
        }
        for word in [small(len), small(self.items.len()), small(events.len()), self.blocks] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for word in
            [self.volume, self.generation.0, self.open_epoch.0, self.durable_epoch.0, self.sequence]
        {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(previous);
        bytes.extend_from_slice(&Tag::default());
        for item in &self.items {
            encode_item(item, self.open_epoch, &mut bytes);
        }
        bytes.extend_from_slice(&events);
        bytes.resize(len, 0);
        let tag = tag_of(&bytes);
        bytes[HASH].copy_from_slice(&tag);
        (bytes, tag)
    }

    /// Reads the fixed part. Nothing if these are not the first bytes of a record.
    pub(super) fn head(bytes: &[u8; ALIGN]) -> Option<Head> {
        let mut reader = Reader(bytes);
        let magic = reader.take::<4>()? == MAGIC;
        let version = u16::from_le_bytes(*reader.take()?);
        reader.take::<2>()?;
        let len = u32::from_le_bytes(*reader.take()?) as usize;
        (magic && len >= ALIGN && len.is_multiple_of(ALIGN)).then_some(Head { len, version })
    }

    /// Decodes a record of version 1 and returns it with its tag. Nothing if it is torn, is not
    /// the one that follows `previous`, or says what no record says.
    pub(super) fn decode(bytes: &[u8], previous: Option<&Tag>) -> Option<(Self, Tag)> {
        let mut reader = Reader(bytes);
        reader.take::<6>()?;
        let [kind, flags] = *reader.take()?;
        let mut small = || reader.take().map(|word| u32::from_le_bytes(*word));
        let (len, items, events_len, blocks) = (small()?, small()?, small()?, small()?);
        let mut word = || reader.take().map(|word| u64::from_le_bytes(*word));
        let (volume, generation, open_epoch) = (word()?, word()?, word()?);
        let (durable_epoch, sequence) = (word()?, word()?);
        let named: Tag = *reader.take()?;
        let tag: Tag = *reader.take()?;
        if len as usize != bytes.len()
            || previous.is_some_and(|previous| *previous != named)
            || tag_of(bytes) != tag
        {
            return None;
        }
        let kind = match kind {
            1 => Kind::Flush,
            2 => Kind::Seal,
            3 => Kind::Restore,
            4 => Kind::Full,
            _ => return None,
        };
        let (items_bytes, rest) =
            reader.0.split_at_checked((items as usize).checked_mul(ITEM_LEN)?)?;
        let events_bytes = rest.get(..events_len as usize)?;
        let record = Self {
            kind,
            clean_stop: flags & CLEAN_STOP != 0,
            volume,
            blocks,
            generation: Generation(generation),
            open_epoch: Epoch(open_epoch),
            durable_epoch: Epoch(durable_epoch),
            sequence,
            items: items_bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| decode_item(bytes, blocks))
                .collect::<Option<_>>()?,
            events: decode_events(events_bytes)?,
        };
        Some((record, tag))
    }
}

/// Hashes a record as if its own field for the hash were zero.
fn tag_of(bytes: &[u8]) -> Tag {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..HASH.start]).update(&Tag::default()).update(&bytes[HASH.end..]);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn encode_item(item: &Item, open_epoch: Epoch, to: &mut Vec<u8>) {
    let state = match item.state {
        ItemState::Released => 0,
        ItemState::Open if item.epoch >= open_epoch => 1,
        ItemState::Open => 2,
        ItemState::Clean => 3,
    };
    to.extend_from_slice(&item.slot.0.to_le_bytes());
    to.extend_from_slice(&item.block.0.to_le_bytes());
    to.extend_from_slice(&item.epoch.0.to_le_bytes());
    for parts in [item.valid, item.dirty, item.zero] {
        to.extend_from_slice(&parts.0.to_le_bytes());
    }
    to.extend_from_slice(&[state, item.unverified.into()]);
    to.extend_from_slice(&item.clean.crc32c.to_le_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&item.clean.entry.0);
}

fn decode_item(bytes: &[u8; ITEM_LEN], blocks: u32) -> Option<Item> {
    let mut reader = Reader(bytes);
    let slot = SlotId(u32::from_le_bytes(*reader.take()?));
    let block = BlockIndex(u32::from_le_bytes(*reader.take()?));
    let epoch = Epoch(u64::from_le_bytes(*reader.take()?));
    let mut parts = || reader.take().map(|mask| Parts(u16::from_le_bytes(*mask)));
    let (valid, dirty, zero) = (parts()?, parts()?, parts()?);
    let [state, unverified] = *reader.take()?;
    let crc32c = u32::from_le_bytes(*reader.take()?);
    reader.take::<4>()?;
    let clean = CleanEntry { entry: Entry(*reader.take()?), crc32c };
    let state = match state {
        0 => ItemState::Released,
        1 | 2 => ItemState::Open,
        3 => ItemState::Clean,
        _ => return None,
    };
    let unverified = unverified != 0;
    (block.0 < blocks).then_some(Item {
        slot,
        state,
        block,
        epoch,
        valid,
        dirty,
        zero,
        clean,
        unverified,
    })
}

fn encode_event(event: &Event, to: &mut Vec<u8>) {
    let kind = match event.kind {
        EventKind::Named => 1,
        EventKind::Restore => 2,
    };
    let len = u16::try_from(event.note.len()).expect("notes were checked to be short");
    to.extend_from_slice(&event.epoch.0.to_le_bytes());
    to.extend_from_slice(&[kind, 0]);
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(&event.note);
}

fn decode_events(bytes: &[u8]) -> Option<Vec<Event>> {
    if bytes.len() > MAX_EVENTS_LEN {
        return None;
    }
    let mut reader = Reader(bytes);
    let mut events = Vec::new();
    while !reader.0.is_empty() {
        let epoch = Epoch(u64::from_le_bytes(*reader.take()?));
        let kind = match reader.take::<2>()?[0] {
            1 => EventKind::Named,
            2 => EventKind::Restore,
            _ => return None,
        };
        let len = usize::from(u16::from_le_bytes(*reader.take()?));
        let (note, rest) = reader.0.split_at_checked(len)?;
        reader.0 = rest;
        events.push(Event { epoch, kind, note: note.to_vec() });
    }
    Some(events)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sprite_testkit::{Rng, seeds};

    fn sample() -> Record {
        let item = Item {
            slot: SlotId::mark(3),
            state: ItemState::Open,
            block: BlockIndex(9),
            epoch: Epoch(6),
            valid: Parts::ALL,
            dirty: Parts(0x00ff),
            zero: Parts(1),
            clean: CleanEntry { entry: Entry([5; 16]), crc32c: 0x0102_0304 },
            unverified: true,
        };
        Record {
            kind: Kind::Seal,
            clean_stop: true,
            volume: 77,
            blocks: 10,
            generation: Generation(2),
            open_epoch: Epoch(7),
            durable_epoch: Epoch(5),
            sequence: 41,
            items: vec![item, Item { state: ItemState::Clean, ..item }],
            events: vec![Event { epoch: Epoch(6), kind: EventKind::Named, note: b"v1".to_vec() }],
        }
    }

    #[test]
    fn a_record_reads_back() {
        let (bytes, tag) = sample().encode(&[1; 16]);
        assert_eq!(bytes.len(), Record::encoded_len(2, &sample().events));
        let head = Record::head(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!((head.len, head.version), (512, VERSION));
        assert_eq!(Record::decode(&bytes, Some(&[1; 16])), Some((sample(), tag)));
        assert_eq!(Record::decode(&bytes, Some(&[2; 16])), None, "follows another record");
    }

    /// What version 1 wrote is read, and written, for as long as there are versions.
    #[test]
    fn the_golden_record_is_this_one() {
        let golden = include_bytes!("../../../tests/golden/journal-v1.record");
        let (bytes, tag) = sample().encode(&[1; 16]);
        assert_eq!(Record::decode(golden, Some(&[1; 16])), Some((sample(), tag)));
        assert_eq!(bytes, golden);
    }

    #[test]
    #[ignore = "writes tests/golden/journal-v1.record, for a new version of the format only"]
    fn write_the_golden_record() {
        let (bytes, _) = sample().encode(&[1; 16]);
        std::fs::write("tests/golden/journal-v1.record", bytes).unwrap();
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (bytes, _) = sample().encode(&[1; 16]);
        for at in 8..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert_eq!(Record::decode(&bytes, None), None, "bit {at}");
        }
    }

    /// A hash can be right and the content nonsense, if another program wrote it.
    #[test]
    fn nonsense_with_a_good_hash_never_panics() {
        for seed in seeds(2_000) {
            let mut rng = Rng::new(seed);
            let (mut bytes, _) = sample().encode(&[1; 16]);
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.next().to_le_bytes()[0];
            }
            let tag = tag_of(&bytes);
            bytes[HASH].copy_from_slice(&tag);
            let _ = Record::decode(&bytes, None);
        }
    }
}
