//! Many threads at once, and the power cut in the middle of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sprite_types::{BlockIndex, Epoch, Generation};

use super::model::settings;
use crate::block::{BLOCK_LEN, PART_LEN, PARTS};
use crate::cache::sim::SimDisk;
use crate::cache::{Cache, CacheError, CleanEntry, Entry, HeadInfo, Read, SealKind, SealResult};
use sprite_testkit::{Rng, seeds};

const BLOCKS: usize = 6;
const WRITERS: usize = 3;
/// More than there are parts.
const OWNER: u64 = 256;

type Content = [u64; PARTS];

/// A number for every part of the volume.
struct Numbers(Vec<AtomicU64>);

impl Numbers {
    fn new() -> Self {
        Self((0..BLOCKS * PARTS).map(|_| AtomicU64::new(0)).collect())
    }

    fn get(&self, part: usize) -> u64 {
        self.0[part].load(Ordering::SeqCst)
    }

    fn set(&self, part: usize, value: u64) {
        self.0[part].store(value, Ordering::SeqCst);
    }

    fn all(&self) -> Vec<u64> {
        (0..self.0.len()).map(|part| self.get(part)).collect()
    }
}

/// The bucket: entries are numbers of versions of a block.
#[derive(Default)]
struct Bucket {
    epoch: Epoch,
    versions: Vec<Content>,
    map: [Option<usize>; BLOCKS],
}

impl Bucket {
    fn entry(&self, block: usize) -> Entry {
        let mut entry = Entry::NONE;
        if let Some(version) = self.map[block] {
            entry.0[..8].copy_from_slice(&(version as u64 + 1).to_le_bytes());
        }
        entry
    }

    fn content(&self, block: usize) -> Content {
        self.map[block].map_or([0; PARTS], |version| self.versions[version])
    }
}

fn bytes_of(content: &Content) -> Box<[u8; BLOCK_LEN]> {
    let bytes: Vec<u8> =
        content.iter().flat_map(|value| value.to_le_bytes().repeat(PART_LEN / 8)).collect();
    bytes.try_into().expect("as long as a block")
}

fn value_of(bytes: &[u8]) -> u64 {
    assert!(bytes[8..] == bytes[..bytes.len() - 8], "a part of one piece");
    u64::from_le_bytes(*bytes.first_chunk().expect("a part is longer"))
}

fn block_of(part: usize) -> BlockIndex {
    BlockIndex(u32::try_from(part / PARTS).expect("few blocks"))
}

struct World {
    cache: Cache,
    bucket: Mutex<Bucket>,
    /// Per part: the value whose write began last, ended last, and was flushed.
    begun: Numbers,
    answered: Numbers,
    flushed: Numbers,
    writes: AtomicU64,
    over: AtomicBool,
}

impl World {
    /// What a part reads as, from cache or bucket.
    fn read(&self, part: usize) -> Result<u64, CacheError> {
        let mut bytes = [0; PART_LEN];
        let within = part % PARTS * PART_LEN;
        let block = block_of(part);
        Ok(match self.cache.read(block, within..within + PART_LEN, &mut bytes)? {
            Read::Hit => value_of(&bytes),
            Read::Miss { .. } => self.bucket.lock().unwrap().content(part / PARTS)[part % PARTS],
        })
    }

    fn running(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Writes and reads parts of its own, in blocks that it shares with others.
    fn write_for_ever(&self, me: usize, mut rng: Rng) -> Result<(), CacheError> {
        while self.running() {
            let part = rng.below(BLOCKS * PARTS / WRITERS) * WRITERS + me;
            if rng.below(3) == 0 {
                assert_eq!(self.read(part)?, self.answered.get(part), "own part {part}");
                continue;
            }
            // Its lower bits say whose it is: what another part left in a slot is no value of this.
            let value = (self.begun.get(part) / OWNER + 1) * OWNER + part as u64;
            self.begun.set(part, value);
            let bytes = value.to_le_bytes().repeat(PART_LEN / 8);
            loop {
                match self.cache.write((part * PART_LEN) as u64, &bytes) {
                    Err(CacheError::Full) if self.running() => thread::yield_now(),
                    other => break other?,
                }
            }
            self.answered.set(part, value);
            self.writes.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn flush_for_ever(&self) -> Result<(), CacheError> {
        while self.running() {
            let answered = self.answered.all();
            self.cache.flush()?;
            for (part, value) in answered.into_iter().enumerate() {
                self.flushed.set(part, self.flushed.get(part).max(value));
            }
        }
        Ok(())
    }

    /// Seals and sends; every epoch lies between what was answered before and begun after.
    fn send_for_ever(&self) -> Result<(), CacheError> {
        while self.running() {
            let answered = self.answered.all();
            let SealResult::Sealed(epoch) = self.cache.seal(SealKind::Plain)? else {
                thread::yield_now();
                continue;
            };
            let begun = self.begun.all();
            let mut changed = Vec::new();
            for block in self.cache.sealed_blocks(epoch) {
                let block = block?;
                let at = block.block.0 as usize;
                let mut content = self.bucket.lock().unwrap().content(at);
                for part in (0..PARTS).filter(|part| block.valid.has(*part)) {
                    let value = value_of(&block.content[part * PART_LEN..(part + 1) * PART_LEN]);
                    let same = value == content[part];
                    assert!(same || block.dirty.has(part), "a clean part differs from the bucket");
                    content[part] = value;
                }
                changed.push((at, content));
            }
            let mut bucket = self.bucket.lock().unwrap();
            bucket.epoch = epoch;
            for (at, content) in changed {
                bucket.versions.push(content);
                bucket.map[at] = Some(bucket.versions.len() - 1);
            }
            for part in 0..BLOCKS * PARTS {
                let value = bucket.content(part / PARTS)[part % PARTS];
                assert!(answered[part] <= value, "epoch {epoch} lacks part {part}");
                assert!(value <= begun[part], "epoch {epoch} has part {part} of later");
            }
            drop(bucket);
            self.cache.epoch_durable(epoch, &|block| {
                let bucket = self.bucket.lock().unwrap();
                let at = block.0 as usize;
                let crc32c = crc32c::crc32c(&bytes_of(&bucket.content(at))[..]);
                Some(CleanEntry { entry: bucket.entry(at), crc32c })
            })?;
        }
        Ok(())
    }

    fn fill_and_evict_for_ever(&self, mut rng: Rng) -> Result<(), CacheError> {
        while self.running() {
            let at = rng.below(BLOCKS);
            let block = block_of(at * PARTS);
            if rng.below(2) == 0 {
                self.cache.evict((1 + rng.below(3)) as u64 * BLOCK_LEN as u64)?;
                continue;
            }
            let (entry, content) = {
                let bucket = self.bucket.lock().unwrap();
                (bucket.entry(at), bytes_of(&bucket.content(at)))
            };
            thread::yield_now();
            let entry_of = |_| self.bucket.lock().unwrap().entry(at);
            self.cache.fill(block, entry, &content, &entry_of)?;
        }
        Ok(())
    }
}

fn open(disk: &SimDisk, generation: u64, bucket: &Bucket) -> Cache {
    let slots = crate::cache::Settings {
        blocks: u32::try_from(BLOCKS).expect("few blocks"),
        slots_max: 24,
        ..settings()
    };
    let head = HeadInfo { generation: Generation(generation), epoch: bucket.epoch, foreign: None };
    let entry_of = |block: BlockIndex| bucket.entry(block.0 as usize);
    Cache::open(Arc::new(disk.clone()), slots, &head, &entry_of).unwrap().0
}

/// Ends everybody's work when one thread finds something wrong.
struct EndAll<'a>(&'a AtomicBool);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Does a thread's work: an error is what a thread sees of a power cut.
fn work(world: &World, work: impl FnOnce(&World) -> Result<(), CacheError>) {
    let _end_all = EndAll(&world.over);
    match work(world) {
        Ok(()) | Err(CacheError::Failed | CacheError::Io { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn threads_and_a_power_cut_lose_nothing_that_was_flushed() {
    for seed in seeds(4) {
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(seed);
        let mut bucket = Bucket::default();
        let mut values = vec![0; BLOCKS * PARTS];
        for generation in 1..4 {
            let world = World {
                cache: open(&disk, generation, &bucket),
                bucket: Mutex::new(bucket),
                begun: Numbers::new(),
                answered: Numbers::new(),
                flushed: Numbers::new(),
                writes: AtomicU64::new(0),
                over: AtomicBool::new(false),
            };
            for (part, value) in values.iter().enumerate() {
                world.begun.set(part, *value);
                world.answered.set(part, *value);
                world.flushed.set(part, *value);
            }
            let enough = 50 + rng.below(400) as u64;
            thread::scope(|scope| {
                let world = &world;
                for me in 0..WRITERS {
                    let rng = Rng::new(rng.next());
                    scope.spawn(move || work(world, |world| world.write_for_ever(me, rng)));
                }
                let others = Rng::new(rng.next());
                scope.spawn(move || work(world, World::flush_for_ever));
                scope.spawn(move || work(world, World::send_for_ever));
                scope.spawn(move || work(world, |world| world.fill_and_evict_for_ever(others)));
                while world.writes.load(Ordering::SeqCst) < enough && world.running() {
                    thread::yield_now();
                }
                disk.cut_power();
                world.over.store(true, Ordering::SeqCst);
            });
            let World { cache, bucket: sent, begun, flushed, .. } = world;
            drop(cache);
            bucket = sent.into_inner().unwrap();
            let cache = open(&disk, generation, &bucket);
            let world = World {
                cache,
                bucket: Mutex::new(bucket),
                begun: Numbers::new(),
                answered: Numbers::new(),
                flushed: Numbers::new(),
                writes: AtomicU64::new(0),
                over: AtomicBool::new(true),
            };
            for (part, last) in values.iter_mut().enumerate() {
                let value = world.read(part).unwrap();
                let at_least = flushed.get(part);
                assert!(at_least <= value, "seed {seed}: part {part} is {value}, not {at_least}");
                assert!(value <= begun.get(part), "seed {seed}: part {part} is of later");
                let owner = value % OWNER;
                assert!(
                    value == 0 || owner == part as u64,
                    "seed {seed}: part {part} is {owner}'s"
                );
                *last = value;
            }
            world.cache.close().unwrap();
            bucket = world.bucket.into_inner().unwrap();
        }
    }
}
