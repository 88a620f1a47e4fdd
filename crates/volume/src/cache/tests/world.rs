//! A volume around the cache under test: its bucket, its map, and what reads may return.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sprite_types::{BlockIndex, Epoch, Generation};

use crate::block::{BLOCK_LEN, PART_LEN, PARTS};
use crate::cache::rules::Rules;
use crate::cache::sim::{Killed, SimDisk};
use crate::cache::{
    Cache, CacheError, CleanEntry, Entry, Filled, ForeignClaim, HeadInfo, OpenError, Read,
    Recovered, SealKind, SealResult, SealedKind, Settings,
};
use sprite_testkit::Rng;

pub(super) const BLOCKS: usize = 3;

/// What a block holds: one number per part, 0 for zeroes.
pub(super) type Values = [u64; PARTS];
pub(super) type Image = [Values; BLOCKS];
type Map = [Entry; BLOCKS];

/// What a test noticed; the text says what was wrong.
pub(super) type Noticed = Result<(), String>;

pub(super) fn bytes_of(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(PART_LEN / 8)
}

/// A part that is not of one piece reads as a number that was never written.
fn value_of(bytes: &[u8]) -> u64 {
    let first = u64::from_le_bytes(*bytes.first_chunk().expect("a part is longer"));
    if bytes[8..] == bytes[..bytes.len() - 8] { first } else { u64::MAX }
}

fn content_of(values: &Values) -> Box<[u8; BLOCK_LEN]> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| bytes_of(*value)).collect();
    bytes.try_into().expect("as long as a block")
}

#[derive(Default)]
struct Bucket {
    epoch: u64,
    objects: BTreeMap<Entry, Values>,
    head: Option<Map>,
    history: BTreeMap<u64, Map>,
    next_object: u64,
}

impl Bucket {
    fn values(&self, entry: Entry) -> Values {
        self.objects.get(&entry).copied().unwrap_or_default()
    }

    fn head(&self) -> Map {
        self.head.unwrap_or([Entry::NONE; BLOCKS])
    }

    fn image(&self, map: &Map) -> Image {
        map.map(|entry| self.values(entry))
    }
}

/// What was promised about a sealed epoch.
struct Promise {
    epoch: Epoch,
    image: Image,
    /// When the cut was made, to know which writes a durable epoch has.
    at: u64,
    /// Whether a power cut must not lose it.
    kept: bool,
    /// The note of a named seal or restore.
    note: Option<u64>,
}

pub(super) struct World {
    pub(super) cache: Option<Cache>,
    pub(super) disks: [SimDisk; 2],
    pub(super) host: usize,
    left_at: [Option<Epoch>; 2],
    settings: Settings,
    rules: Rules,
    generation: u64,
    bucket: Bucket,
    /// The map that reads ask.
    map: Map,
    now: Image,
    /// What each part may be after a power cut: the newest flushed version, and later ones.
    versions: Vec<Vec<(u64, u64)>>,
    /// What each part may be after the loss of the host: the newest version that a flush of
    /// `fsync=bucket` promised, and later ones.
    remote: Vec<Vec<(u64, u64)>>,
    clock: u64,
    promises: VecDeque<Promise>,
    notes: BTreeMap<u64, Epoch>,
    pub(super) bucket_mode: bool,
    pub(super) rng: Rng,
}

/// The end of the process in the middle of something.
pub(super) struct Died;

fn note_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("notes are numbers here"))
}

impl World {
    pub(super) fn new(seed: u64, settings: Settings, rules: Rules, bucket_mode: bool) -> Self {
        let mut world = Self {
            cache: None,
            disks: [SimDisk::new(seed), SimDisk::new(seed + 1)],
            host: 0,
            left_at: [None; 2],
            settings,
            rules,
            generation: 0,
            bucket: Bucket::default(),
            map: [Entry::NONE; BLOCKS],
            now: Image::default(),
            versions: vec![vec![(0, 0)]; BLOCKS * PARTS],
            remote: vec![vec![(0, 0)]; BLOCKS * PARTS],
            clock: 0,
            promises: VecDeque::new(),
            notes: BTreeMap::new(),
            bucket_mode,
            rng: Rng::new(seed ^ 0x5eed),
        };
        world.open(None).expect("an empty directory opens");
        world
    }

    pub(super) fn cache(&self) -> &Cache {
        self.cache.as_ref().expect("the process runs")
    }

    fn disk(&self) -> &SimDisk {
        &self.disks[self.host]
    }

    fn open(&mut self, foreign: Option<ForeignClaim>) -> Result<Recovered, OpenError> {
        self.generation += 1;
        let head = HeadInfo {
            generation: Generation(self.generation),
            epoch: Epoch(self.bucket.epoch),
            foreign,
        };
        let map = self.bucket.head();
        let entry_of = move |block: BlockIndex| map[block.0 as usize];
        let dir = Arc::new(self.disk().clone());
        let opened = Cache::open_with(dir, self.settings.clone(), &head, &entry_of, self.rules);
        let (cache, recovered) = opened?;
        self.cache = Some(cache);
        Ok(recovered)
    }

    /// Runs something that may be killed.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Result<T, Died> {
        match catch_unwind(AssertUnwindSafe(|| run(self))) {
            Ok(value) => Ok(value),
            Err(payload) if payload.is::<Killed>() => Err(Died),
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    fn all(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        (0..BLOCKS).flat_map(|block| (0..PARTS).map(move |part| (block, part)))
    }

    fn versions(&mut self, block: usize, part: usize) -> &mut Vec<(u64, u64)> {
        &mut self.versions[block * PARTS + part]
    }

    /// Notes a version that may be seen from now on.
    fn add_version(&mut self, block: usize, part: usize, value: u64) {
        self.clock += 1;
        self.versions[block * PARTS + part].push((self.clock, value));
        self.remote[block * PARTS + part].push((self.clock, value));
    }

    /// Writes `value` to some parts, or zeroes them.
    pub(super) fn write(
        &mut self,
        block: usize,
        parts: std::ops::Range<usize>,
        value: u64,
    ) -> Result<Noticed, Died> {
        for part in parts.clone() {
            self.add_version(block, part, value);
        }
        let offset = (block * BLOCK_LEN + parts.start * PART_LEN) as u64;
        let len = parts.len() * PART_LEN;
        let result = loop {
            let result = self.guarded(|world| {
                if value == 0 {
                    let mapped = |block: BlockIndex| world.map[block.0 as usize] != Entry::NONE;
                    world.cache().zero(offset, len as u64, &mapped)
                } else {
                    let data: Vec<u8> = parts.clone().flat_map(|_| bytes_of(value)).collect();
                    world.cache().write(offset, &data)
                }
            })?;
            match result {
                Err(CacheError::Full | CacheError::HostFull) => {
                    self.disk().set_space(u64::MAX);
                    let _ = self.cut(None)?;
                    if let Err(noticed) = self.send_all()? {
                        return Ok(Err(noticed));
                    }
                    self.guarded(|world| world.cache().evict(u64::MAX).map(drop))?.ok();
                }
                other => break other,
            }
        };
        match result {
            Ok(()) => {
                parts.for_each(|part| self.now[block][part] = value);
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(format!("write: {error:?}"))),
        }
    }

    fn read(&mut self, block: usize) -> Result<Values, String> {
        let index = BlockIndex(u32::try_from(block).expect("few blocks"));
        let mut content = vec![0xee; BLOCK_LEN];
        let read = self.cache().read(index, 0..BLOCK_LEN, &mut content);
        let mut values: Values =
            std::array::from_fn(|part| value_of(&content[part * PART_LEN..(part + 1) * PART_LEN]));
        match read {
            Ok(Read::Hit) => {}
            Ok(Read::Miss { missing }) => {
                let below = self.bucket.values(self.map[block]);
                for part in (0..PARTS).filter(|part| missing.has(*part)) {
                    values[part] = below[part];
                }
            }
            Err(error) => return Err(format!("read: {error:?}")),
        }
        Ok(values)
    }

    /// Compares every part with what was written last.
    pub(super) fn check_now(&mut self) -> Noticed {
        for block in 0..BLOCKS {
            let values = self.read(block)?;
            if values != self.now[block] {
                return Err(format!("block {block} reads {values:?}, not {:?}", self.now[block]));
            }
        }
        Ok(())
    }

    /// Fetches a block and fills it; `stale` with the entry of an older epoch.
    pub(super) fn fill(&mut self, block: usize, stale: bool) -> Result<Noticed, Died> {
        let mut entry = self.map[block];
        if stale {
            let older: Vec<Entry> = self.bucket.history.values().map(|map| map[block]).collect();
            if older.is_empty() {
                return Ok(Ok(()));
            }
            entry = older[self.rng.below(older.len())];
        }
        let content = content_of(&self.bucket.values(entry));
        let index = BlockIndex(u32::try_from(block).expect("few blocks"));
        let current = self.map[block];
        let filled =
            self.guarded(|world| world.cache().fill(index, entry, &content, &|_| current))?;
        Ok(match filled {
            Ok(Filled::Kept | Filled::Stale | Filled::NoSlot) => Ok(()),
            Err(error) => Err(format!("fill: {error:?}")),
        })
    }

    /// A completed flush, in the mode of this run.
    pub(super) fn flush(&mut self) -> Result<Noticed, Died> {
        if self.bucket_mode {
            // Answered when the epoch that holds the writes is durable.
            loop {
                match self.cut(None)? {
                    Ok(SealResult::Busy) => {
                        if let Err(noticed) = self.send()? {
                            return Ok(Err(noticed));
                        }
                    }
                    Ok(_) => break,
                    Err(noticed) => return Ok(Err(noticed)),
                }
            }
            if let Err(noticed) = self.send_all()? {
                return Ok(Err(noticed));
            }
        } else if let Err(error) = self.guarded(|world| world.cache().flush())? {
            return Ok(Err(format!("flush: {error:?}")));
        }
        for versions in &mut self.versions {
            versions.drain(..versions.len() - 1);
        }
        if self.bucket_mode {
            self.remote.clone_from(&self.versions);
        }
        Ok(Ok(()))
    }

    /// Seals, with a note if it is a named seal.
    pub(super) fn cut(&mut self, note: Option<u64>) -> Result<Result<SealResult, String>, Died> {
        let open = self.cache().stats().open_epoch;
        // A process that dies in the middle may have sealed it, with this content.
        self.clock += 1;
        let (image, at) = (self.now, self.clock);
        self.promises.push_back(Promise { epoch: open, image, at, kept: false, note });
        let bytes = note.map(u64::to_le_bytes);
        let sealed = self.guarded(|world| {
            let kind = bytes.as_ref().map_or(SealKind::Plain, |note| SealKind::Named(note));
            world.cache().seal(kind)
        })?;
        let promise = self.promises.back_mut().expect("it was just added");
        match sealed {
            Ok(SealResult::Sealed(epoch)) => {
                promise.kept = note.is_some();
                if epoch != open {
                    return Ok(Err(format!("sealed {epoch}, open was {open}")));
                }
                Ok(Ok(SealResult::Sealed(epoch)))
            }
            other => {
                self.promises.pop_back();
                Ok(other.map_err(|error| format!("seal: {error:?}")))
            }
        }
    }

    /// Puts the oldest sealed epoch into the bucket and compares it with its cut.
    fn commit(&mut self) -> Result<Option<Epoch>, String> {
        let sealed = self.cache().sealed_epochs();
        let Some(oldest) = sealed.first() else { return Ok(None) };
        if oldest.epoch.0 <= self.bucket.epoch {
            // The predecessor died between the bucket and the cache.
            return Ok(Some(oldest.epoch));
        }
        let mut head = self.bucket.head();
        if let SealedKind::Restore(note) = &oldest.kind {
            let target = self.notes[&note_of(note)];
            head = self.bucket.history.get(&target.0).copied().unwrap_or([Entry::NONE; BLOCKS]);
        }
        let mut changed = Vec::new();
        for block in self.cache().sealed_blocks(oldest.epoch) {
            let block = block.map_err(|error| format!("sealed block: {error:?}"))?;
            let at = block.block.0 as usize;
            let mut values = self.bucket.values(head[at]);
            for part in (0..PARTS).filter(|part| block.dirty.has(*part)) {
                values[part] = value_of(&block.content[part * PART_LEN..(part + 1) * PART_LEN]);
            }
            for part in (0..PARTS).filter(|part| block.valid.has(*part)) {
                let value = value_of(&block.content[part * PART_LEN..(part + 1) * PART_LEN]);
                if value != values[part] {
                    return Err(format!(
                        "block {at} part {part} is {value} in the slot, {} below",
                        values[part]
                    ));
                }
            }
            changed.push((at, values));
        }
        for (at, values) in changed {
            head[at] = Entry::NONE;
            if values != Values::default() {
                self.bucket.next_object += 1;
                let mut entry = [7; 16];
                entry[..8].copy_from_slice(&self.bucket.next_object.to_le_bytes());
                head[at] = Entry(entry);
                self.bucket.objects.insert(head[at], values);
            }
        }
        let promise = self.promises.front().ok_or("an epoch that nobody sealed")?;
        if promise.epoch != oldest.epoch {
            return Err(format!("epoch {} is sent, {} is next", oldest.epoch, promise.epoch));
        }
        let image = self.bucket.image(&head);
        if image != promise.image {
            return Err(format!(
                "epoch {} is {image:?}, its cut was {:?}",
                promise.epoch, promise.image
            ));
        }
        let (epoch, at) = (promise.epoch, promise.at);
        self.bucket.head = Some(head);
        self.bucket.epoch = epoch.0;
        self.bucket.history.insert(epoch.0, head);
        self.promises.pop_front();
        // Reads ask the newest state, which a restore that is still to be sent has replaced.
        if !sealed[1..].iter().any(|later| matches!(later.kind, SealedKind::Restore(_))) {
            self.map = head;
        }
        // A replay never goes behind the head.
        for lists in [&mut self.versions, &mut self.remote] {
            for (versions, value) in lists.iter_mut().zip(image.as_flattened()) {
                // A write that waits for room is in the list and not in the cut.
                let in_it = |version: &(u64, u64)| version.0 <= at && version.1 == *value;
                let last = versions.iter().rposition(in_it).unwrap_or(0);
                versions.drain(..last);
            }
        }
        Ok(Some(epoch))
    }

    fn tell(&mut self, epoch: Epoch) -> Result<Noticed, Died> {
        let head = self.bucket.head();
        let contents = self.bucket.image(&head);
        let clean = |block: BlockIndex| {
            let at = block.0 as usize;
            let crc32c = crc32c::crc32c(&content_of(&contents[at])[..]);
            Some(CleanEntry { entry: head[at], crc32c })
        };
        let told = self.guarded(|world| world.cache().epoch_durable(epoch, &clean))?;
        Ok(told.map_err(|error| format!("durable: {error:?}")))
    }

    /// Sends the oldest sealed epoch, if there is one.
    pub(super) fn send(&mut self) -> Result<Noticed, Died> {
        match self.commit() {
            Ok(Some(epoch)) => self.tell(epoch),
            Ok(None) => Ok(Ok(())),
            Err(noticed) => Ok(Err(noticed)),
        }
    }

    /// Sends an epoch, and dies before the cache hears of it.
    pub(super) fn send_untold(&mut self) -> Noticed {
        self.commit().map(drop)
    }

    pub(super) fn send_all(&mut self) -> Result<Noticed, Died> {
        while !self.cache().sealed_epochs().is_empty() {
            if let Err(noticed) = self.send()? {
                return Ok(Err(noticed));
            }
        }
        Ok(Ok(()))
    }

    /// Restores an older epoch; what is there is kept under a name.
    pub(super) fn restore(&mut self) -> Result<Noticed, Died> {
        let epochs: Vec<u64> = self.bucket.history.keys().copied().collect();
        if epochs.is_empty() {
            return Ok(Ok(()));
        }
        let target = epochs[self.rng.below(epochs.len())];
        self.clock += 1;
        if let Err(noticed) = self.cut(Some(self.clock))? {
            return Ok(Err(noticed));
        }
        self.clock += 1;
        let (note, at) = (self.clock, self.clock);
        self.notes.insert(note, Epoch(target));
        let map = self.bucket.history[&target];
        let image = self.bucket.image(&map);
        let open = self.cache().stats().open_epoch;
        self.promises.push_back(Promise { epoch: open, image, at, kept: false, note: Some(note) });
        let before = std::mem::replace(&mut self.map, map);
        let entry_of = move |block: BlockIndex| map[block.0 as usize];
        let restored = self.guarded(|world| world.cache().restore(&note.to_le_bytes(), &entry_of));
        let Ok(restored) = restored else {
            self.map = before;
            return Err(Died);
        };
        if let Err(error) = restored {
            return Ok(Err(format!("restore: {error:?}")));
        }
        self.promises.back_mut().expect("it was just added").kept = true;
        self.show_restored(image, at);
        Ok(Ok(()))
    }

    fn show_restored(&mut self, image: Image, at: u64) {
        self.now = image;
        for (block, part) in self.all() {
            *self.versions(block, part) = vec![(at, image[block][part])];
            self.remote[block * PARTS + part].push((at, image[block][part]));
        }
    }

    pub(super) fn evict(&mut self) -> Result<Noticed, Died> {
        let bytes = (1 + self.rng.below(4)) as u64 * BLOCK_LEN as u64;
        let evicted = self.guarded(|world| world.cache().evict(bytes))?;
        Ok(evicted.map(drop).map_err(|error| format!("evict: {error:?}")))
    }

    /// A sync fails; the volume is opened anew if the cache says so.
    pub(super) fn fail_sync(&mut self) -> Noticed {
        self.disk().fail_next_sync();
        let cache = self.cache();
        if cache.flush().is_ok() {
            return Err("a failed sync was answered as a good one".to_owned());
        }
        if cache.flush().is_ok() {
            // Whoever believes that now must not lose anything.
            for versions in &mut self.versions {
                versions.drain(..versions.len() - 1);
            }
            return Ok(());
        }
        let memory = cache.memory().clone();
        self.cache = None;
        let dir = Arc::new(self.disk().clone());
        let adopted = Cache::adopt_with(dir, self.settings.clone(), memory, self.rules);
        if !matches!(adopted, Err(OpenError::Failed)) {
            return Err("a failed table was taken over".to_owned());
        }
        self.replay()
    }

    /// kill -9: the table survives.
    pub(super) fn kill(&mut self) -> Noticed {
        self.disk().kill_in(None);
        let memory = self.cache().memory().clone();
        self.cache = None;
        let dir = Arc::new(self.disk().clone());
        let adopted = Cache::adopt_with(dir, self.settings.clone(), memory, self.rules);
        let (cache, recovered) = adopted.map_err(|error| format!("adopt: {error:?}"))?;
        self.cache = Some(cache);
        // Only what was being done when it died may be either way.
        self.match_promises(&recovered, |_| false)?;
        for (block, values) in self.read_all()?.into_iter().enumerate() {
            for (part, value) in values.into_iter().enumerate() {
                let newest = *self.versions(block, part).last().expect("there is always one");
                if value != self.now[block][part] && value != newest.1 {
                    let now = self.now[block][part];
                    return Err(format!("killed: block {block} part {part} is {value}, not {now}"));
                }
                if value != newest.1 {
                    self.add_version(block, part, value);
                }
                self.now[block][part] = value;
            }
        }
        // A successor tells the cache what the map has already.
        while let Some(epoch) = self.first_sealed().filter(|epoch| epoch.0 <= self.bucket.epoch) {
            let Ok(told) = self.tell(epoch) else { return Err("killed twice".to_owned()) };
            told?;
        }
        self.check_now()
    }

    fn first_sealed(&self) -> Option<Epoch> {
        self.cache().sealed_epochs().first().map(|sealed| sealed.epoch)
    }

    fn read_all(&mut self) -> Result<Image, String> {
        let mut image = Image::default();
        for (block, values) in image.iter_mut().enumerate() {
            *values = self.read(block)?;
        }
        Ok(image)
    }

    /// The host loses power; the same host opens the volume again.
    pub(super) fn power_cut(&mut self) -> Noticed {
        self.cache = None;
        self.disk().cut_power();
        self.replay()
    }

    /// The cache is closed in good order and opened again.
    pub(super) fn close(&mut self) -> Result<Noticed, Died> {
        let cache = self.cache.take().expect("the process runs");
        let memory = cache.memory().clone();
        match self.guarded(move |_| cache.close()) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ok(Err(format!("close: {error:?}"))),
            Err(Died) => {
                // Nobody may take the table over without the cache; as if the host went down.
                drop(memory);
                return Ok(self.power_cut());
            }
        }
        for versions in &mut self.versions {
            versions.drain(..versions.len() - 1);
        }
        if self.rng.below(2) == 0 {
            self.disk().cut_power();
        }
        Ok(self.replay())
    }

    /// Opens, also if that is killed, or finds the disk full, on the way.
    fn open_through_trouble(&mut self, foreign: Option<ForeignClaim>) -> Result<Recovered, String> {
        if self.rng.below(3) == 0 {
            let operations = u32::try_from(self.rng.below(12)).expect("small");
            self.disk().kill_in(Some(operations));
        }
        loop {
            match self.guarded(|world| world.open(foreign)) {
                Ok(Ok(recovered)) => {
                    self.disk().kill_in(None);
                    return Ok(recovered);
                }
                Ok(Err(OpenError::Io { source, .. }))
                    if source.kind() == std::io::ErrorKind::StorageFull =>
                {
                    self.disk().set_space(u64::MAX);
                }
                Ok(Err(error)) => return Err(format!("open: {error:?}")),
                Err(Died) => {
                    self.disk().kill_in(None);
                    if self.rng.below(2) == 0 {
                        self.disk().cut_power();
                    }
                }
            }
        }
    }

    /// Opens on the host it ran on, from the journal.
    fn replay(&mut self) -> Noticed {
        let recovered = self.open_through_trouble(None)?;
        self.map = self.bucket.head();
        self.match_promises(&recovered, |kind| *kind == SealedKind::Plain)?;
        if let Some(stranded) = recovered.stranded {
            return Err(format!("nobody else was there, but {stranded:?}"));
        }
        for (block, values) in self.read_all()?.into_iter().enumerate() {
            for (part, value) in values.into_iter().enumerate() {
                if !self.versions(block, part).iter().any(|(_, allowed)| *allowed == value) {
                    let allowed = self.versions(block, part).clone();
                    return Err(format!(
                        "cut: block {block} part {part} is {value}, allowed {allowed:?}"
                    ));
                }
                self.add_version(block, part, value);
                let versions = self.versions(block, part);
                versions.drain(..versions.len() - 1);
                self.now[block][part] = value;
            }
        }
        Ok(())
    }

    /// Compares the epochs that were rebuilt with those that were promised, and shows a restore
    /// that is not in the bucket. `joins` tells which may have become part of a later one.
    fn match_promises(&mut self, recovered: &Recovered, joins: fn(&SealedKind) -> bool) -> Noticed {
        let durable = self.bucket.epoch;
        let mut restored = None;
        let mut found = VecDeque::new();
        for promise in std::mem::take(&mut self.promises) {
            let sealed = recovered.sealed.iter().find(|sealed| sealed.epoch == promise.epoch);
            let Some(sealed) = sealed else {
                let may_join = joins(&SealedKind::Plain) && promise.note.is_none();
                if promise.epoch.0 > durable && promise.kept && !may_join {
                    return Err(format!("epoch {} is gone", promise.epoch));
                }
                continue;
            };
            match &sealed.kind {
                SealedKind::Restore(note) if Some(note_of(note)) == promise.note => {
                    restored = Some((promise.epoch, promise.image, promise.at, promise.kept));
                }
                SealedKind::Named(note) if Some(note_of(note)) == promise.note => {}
                SealedKind::Plain if promise.note.is_none() || !promise.kept => {}
                kind => return Err(format!("epoch {} came back as {kind:?}", promise.epoch)),
            }
            found.push_back(promise);
        }
        let later: Vec<Epoch> = recovered.sealed.iter().map(|sealed| sealed.epoch).collect();
        let expected: Vec<Epoch> = found.iter().map(|promise| promise.epoch).collect();
        if later.iter().filter(|epoch| epoch.0 > durable).ne(expected.iter()) {
            return Err(format!("epochs {later:?} came back, {expected:?} were promised"));
        }
        self.promises = found;
        if let Some((_, image, at, kept)) = restored {
            let note = self
                .promises
                .iter()
                .rev()
                .find_map(|promise| promise.note.filter(|note| self.notes.contains_key(note)));
            let target = self.notes[&note.expect("a restore has a note")];
            self.map = self.bucket.history[&target.0];
            if !kept {
                // It died in the middle of it, but far enough.
                self.show_restored(image, at);
                for promise in self.promises.iter_mut().filter(|promise| promise.at <= at) {
                    promise.kept |= promise.note.is_some();
                }
            }
        }
        Ok(())
    }

    /// The volume is opened on the other host; what this one had not sent is stranded.
    pub(super) fn move_away(&mut self) -> Noticed {
        self.cache = None;
        self.disk().cut_power();
        let used = Generation(self.generation);
        self.left_at[self.host] = Some(Epoch(self.bucket.epoch));
        self.host = 1 - self.host;
        let foreign =
            self.left_at[self.host].map(|ours_until| ForeignClaim { generation: used, ours_until });
        let recovered = self.open_through_trouble(foreign)?;
        if !recovered.sealed.is_empty() {
            return Err(format!("epochs of another time came back: {:?}", recovered.sealed));
        }
        self.promises.clear();
        self.map = self.bucket.head();
        let image = self.bucket.image(&self.map);
        for (block, part) in self.all() {
            let value = image[block][part];
            let allowed = &self.remote[block * PARTS + part];
            if self.bucket_mode && !allowed.iter().any(|(_, old)| *old == value) {
                return Err(format!("lost host: block {block} part {part} is {value}"));
            }
        }
        self.clock += 1;
        self.show_restored(image, self.clock);
        self.remote.clone_from(&self.versions);
        self.check_now()
    }
}
