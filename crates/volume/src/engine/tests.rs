//! Disks over a bucket in memory with faults and host disks whose power can be cut, beside a
//! plain array of sectors. Time stands still unless everybody waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use sprite_blockmap::{Keep, Mark};
use sprite_lease::{Claimant, Evidence};
use sprite_store::{Ambient, FaultRates, Faults, Memory as Bucket, Store, StoreSettings, seeded};
use sprite_types::{BlockIndex, Epoch, ManualClock, Timestamp, VolumeId};
use tempfile::TempDir;

use super::{Bounds, Engine, EngineError, EngineSettings, Fsync};
use crate::block::{BLOCK_LEN, PART_LEN};
use crate::bucket::{FrontEnd, Owner, VolumeFolder, VolumeRecord};
use crate::cache::sim::SimDisk;
use crate::cache::{Memory, Recovered, Settings};
use crate::remote::{Opening, Remote, RemoteSettings, Writer};
use sprite_testkit::{Rng, seeds};

const BLOCKS: usize = 5;
const SECTOR: usize = 512;
const SECTORS: usize = BLOCKS * BLOCK_LEN / SECTOR;
const SECTORS_OF_PART: usize = PART_LEN / SECTOR;

/// What each sector was made of; 0 is zeroes.
type State = Vec<u64>;

fn bytes_of(tags: &[u64]) -> Vec<u8> {
    tags.iter().flat_map(|tag| tag.to_le_bytes().repeat(SECTOR / 8)).collect()
}

fn tags_of(bytes: &[u8]) -> State {
    let tag = |sector: &[u8]| {
        let tag = u64::from_le_bytes(*sector.first_chunk().unwrap());
        assert!(sector.chunks(8).all(|word| word == tag.to_le_bytes()), "a sector is a mixture");
        tag
    };
    bytes.chunks(SECTOR).map(tag).collect()
}

struct World {
    store: Store,
    faults: Faults,
    clock: Arc<ManualClock>,
    ambient: Ambient,
    /// Block maps; never the same twice.
    maps: TempDir,
    opened: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_795_320_000_000_000)));
        let faults = Faults::new(Arc::new(Bucket::new(clock.clone())), seed);
        let ambient = Ambient { clock: clock.clone(), random: seeded(seed) };
        let settings = StoreSettings::default();
        let store = Store::new(Arc::new(faults.clone()), settings, ambient.clone());
        Self { store, faults, clock, ambient, maps: tempfile::tempdir().unwrap(), opened: 0 }
    }

    async fn writer(&mut self, host: &str) -> Writer {
        self.opened += 1;
        let map = self.maps.path().join(self.opened.to_string());
        std::fs::create_dir(&map).unwrap();
        let opening = Opening {
            map: map.join("map"),
            claimant: Claimant { host: host.parse().unwrap(), host_boot: "boot-1".to_owned() },
            evidence: Evidence { forced: true, ..Evidence::default() },
            self_fence: None,
        };
        let owner = Owner::Org("org-abcdefgh".parse().unwrap());
        let folder = VolumeFolder::new(owner, volume());
        let settings = RemoteSettings::default();
        let remote = Remote::new(self.store.clone(), folder, self.ambient.clone(), settings);
        if self.opened > 1 {
            return remote.open(opening).await.unwrap();
        }
        let record = VolumeRecord {
            volume: volume(),
            sprite: None,
            name: "demo".to_owned(),
            blocks: BLOCKS as u32,
            parents: Vec::new(),
            front_ends: vec![FrontEnd::Fuse],
            keys: Vec::new(),
            created_at: Timestamp::from_micros(1_795_320_000_000_000),
        };
        remote.create(&record, opening).await.unwrap()
    }

    async fn open(
        &mut self,
        host: &str,
        disk: &SimDisk,
        memory: Option<Memory>,
        fsync: Fsync,
    ) -> (Engine, Recovered) {
        let writer = self.writer(host).await;
        let cache = Settings {
            grow_slots: 4,
            slots_max: 12,
            shared_table: false,
            unsent_bytes_max: 6 * BLOCK_LEN as u64,
            ..Settings::new(volume(), BLOCKS as u32, 0)
        };
        let settings = EngineSettings {
            dir: Arc::new(disk.clone()),
            cache,
            memory,
            fsync,
            bounds: Bounds { bytes_max: 4 * BLOCK_LEN as u64, ..Bounds::default() },
            clock: self.clock.clone(),
        };
        Engine::open(settings, writer).await.unwrap()
    }
}

fn volume() -> VolumeId {
    "vol-aaaaaaaaaaaaaaaa".parse().unwrap()
}

fn named(name: &str) -> Mark {
    Mark { keep: Keep::Named, name: name.to_owned(), ..Mark::default() }
}

async fn read_all(engine: &Engine) -> State {
    let mut bytes = vec![0xee; BLOCKS * BLOCK_LEN];
    engine.read_async(0, &mut bytes).await.unwrap();
    tags_of(&bytes)
}

async fn read_epoch(engine: &Engine, epoch: Epoch) -> State {
    let mut state = State::new();
    for block in 0..BLOCKS as u32 {
        let content = engine.writer.reader().read_at(epoch, BlockIndex(block)).await.unwrap();
        state.extend(tags_of(&content[..]));
    }
    state
}

struct Life {
    world: World,
    engine: Engine,
    disk: SimDisk,
    fsync: Fsync,
    rng: Rng,
    /// The state after each change; the last is the disk's.
    states: Vec<State>,
    /// The oldest that may come back after a power cut, and after the loss of the host.
    local: usize,
    remote: usize,
    checkpoints: BTreeMap<Epoch, State>,
}

impl Life {
    async fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let disk = SimDisk::new(seed);
        let fsync = if seed.is_multiple_of(3) { Fsync::Bucket } else { Fsync::Local };
        let (engine, _) = world.open("host-aaaaaaaaaa", &disk, None, fsync).await;
        if !seed.is_multiple_of(2) {
            world.faults.set_rates(FaultRates::survivable(20));
        }
        let states = vec![vec![0; SECTORS]];
        let (rng, checkpoints) = (Rng::new(seed), BTreeMap::new());
        Self { world, engine, disk, fsync, rng, states, local: 0, remote: 0, checkpoints }
    }

    fn now(&self) -> State {
        self.states.last().unwrap().clone()
    }

    fn last(&self) -> usize {
        self.states.len() - 1
    }

    fn range(&mut self) -> std::ops::Range<usize> {
        let unit = [1, SECTORS_OF_PART, BLOCK_LEN / SECTOR][self.rng.below(3)];
        let start = self.rng.below(SECTORS / unit);
        let len = 1 + self.rng.below((SECTORS / unit - start).min(20));
        start * unit..(start + len) * unit
    }

    async fn change(&mut self, zero: bool) {
        let range = self.range();
        let tag = if zero { 0 } else { self.rng.next() | 1 };
        let (offset, len) = ((range.start * SECTOR) as u64, range.len());
        let mut state = self.now();
        state[range].fill(tag);
        if zero {
            self.engine.shared.zero(offset, (len * SECTOR) as u64).await.unwrap();
        } else {
            self.engine.shared.write(offset, &bytes_of(&vec![tag; len])).await.unwrap();
        }
        self.states.push(state);
    }

    async fn step(&mut self) {
        match self.rng.below(25) {
            0..=7 => self.change(false).await,
            8..=10 => self.change(true).await,
            11..=12 => {
                let range = self.range();
                let mut bytes = vec![0xee; range.len() * SECTOR];
                let offset = (range.start * SECTOR) as u64;
                self.engine.read_async(offset, &mut bytes).await.unwrap();
                assert_eq!(tags_of(&bytes), self.now()[range]);
            }
            13..=14 => {
                self.engine.shared.flush().await.unwrap();
                self.local = self.last();
                if self.fsync == Fsync::Bucket {
                    self.remote = self.last();
                }
            }
            15..=16 => {
                let ms = self.rng.below(7_000) as u64;
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            }
            17 => {
                let epoch = self.engine.checkpoint(named("mine")).await.unwrap();
                self.local = self.last();
                self.checkpoints.insert(epoch, self.now());
                assert!(self.engine.history().iter().any(|l| l.epoch == epoch));
            }
            18 => {
                self.engine.sync().await.unwrap();
                (self.local, self.remote) = (self.last(), self.last());
            }
            19 => {
                self.engine.shared.cache.evict(u64::MAX).unwrap();
            }
            20 => self.restore().await,
            21 => self.kill().await,
            22 => self.cut_power().await,
            23 => self.die_restoring().await,
            _ => self.lose_host().await,
        }
    }

    async fn restore(&mut self) {
        let durable = self.engine.progress().borrow().durable_epoch;
        let kept: Vec<_> = self.checkpoints.range(..=durable).collect();
        if kept.is_empty() {
            return;
        }
        let (from, state) = kept[self.rng.below(kept.len())];
        let (from, state) = (*from, state.clone());
        let (kept, restored) =
            self.engine.restore(from, named("automatic"), named("restored")).await.unwrap();
        self.checkpoints.insert(kept, self.now());
        self.checkpoints.insert(restored, state.clone());
        self.states.push(state);
        (self.local, self.remote) = (self.last(), self.last());
    }

    /// A restore is cut off somewhere, perhaps after the point from which it has to be finished.
    async fn die_restoring(&mut self) {
        let durable = self.engine.progress().borrow().durable_epoch;
        let kept: Vec<_> = self.checkpoints.range(..=durable).collect();
        if kept.is_empty() {
            return;
        }
        let (from, restored) = kept[self.rng.below(kept.len())];
        let (from, restored) = (*from, restored.clone());
        self.world.faults.set_rates(FaultRates { delay_ms: 300, ..FaultRates::default() });
        let patience = std::time::Duration::from_millis(self.rng.below(2_400) as u64);
        let restore = self.engine.restore(from, named("automatic"), named("restored"));
        let finished = tokio::time::timeout(patience, restore).await.is_ok();
        let cut = self.rng.below(2) == 0;
        let memory = (!cut).then(|| self.engine.memory().clone());
        if cut {
            self.disk.cut_power();
        }
        self.reopen(memory).await;
        self.world.faults.set_rates(FaultRates::default());
        let found = read_all(&self.engine).await;
        assert!(!finished || found == restored, "a finished restore was undone");
        if found == restored {
            self.states.push(restored);
        } else if cut {
            self.assert_survived_cut(&found);
            self.states.push(found);
        } else {
            assert_eq!(found, self.now());
        }
        if cut || finished {
            self.local = self.last();
        }
        if finished {
            self.remote = self.last();
        }
    }

    /// The process ends; the memory of the slot table stays.
    async fn kill(&mut self) {
        let memory = self.engine.memory().clone();
        self.reopen(Some(memory)).await;
        assert_eq!(read_all(&self.engine).await, self.now());
    }

    async fn cut_power(&mut self) {
        self.disk.cut_power();
        self.reopen(None).await;
        let found = read_all(&self.engine).await;
        self.assert_survived_cut(&found);
        self.states.push(found);
        self.local = self.last();
    }

    /// Each part is what it was at some time since the last flush.
    fn assert_survived_cut(&self, found: &State) {
        for part in 0..SECTORS / SECTORS_OF_PART {
            let at = part * SECTORS_OF_PART..(part + 1) * SECTORS_OF_PART;
            let allowed = self.states[self.local..].iter();
            let allowed = allowed.map(|state| &state[at.clone()]);
            assert!(allowed.clone().any(|tags| tags == &found[at.clone()]), "part {part}");
        }
    }

    /// Everything but the bucket is gone.
    async fn lose_host(&mut self) {
        let mark = self.engine.progress().borrow().durable_epoch;
        self.disk = SimDisk::new(self.rng.next());
        self.reopen(None).await;
        let head = self.engine.writer.reader().head();
        assert!(head >= mark, "{head} came back, {mark} was durable");
        let found = read_all(&self.engine).await;
        let kept = self.states[self.remote..].iter().rposition(|state| *state == found);
        let kept = kept.expect("what came back is a state that the disk had") + self.remote;
        self.states.truncate(kept + 1);
        (self.local, self.remote) = (kept, kept);
        self.checkpoints.retain(|epoch, _| *epoch <= head);
    }

    async fn reopen(&mut self, memory: Option<Memory>) {
        let (disk, fsync) = (self.disk.clone(), self.fsync);
        let shared = self.engine.shared.clone();
        shared.end("the test ends it");
        self.engine.owner.abort();
        while !self.engine.owner.is_finished() {
            tokio::task::yield_now().await;
        }
        let (engine, recovered) = self.world.open("host-aaaaaaaaaa", &disk, memory, fsync).await;
        assert_eq!(recovered.stranded, None);
        self.engine = engine;
    }

    /// Every epoch is a state that the disk had, and every checkpoint its own.
    async fn check(mut self) {
        self.engine.sync().await.unwrap();
        assert_eq!(read_all(&self.engine).await, self.now());
        for (epoch, state) in &self.checkpoints {
            assert_eq!(&read_epoch(&self.engine, *epoch).await, state, "checkpoint {epoch}");
            let listed = self.engine.history();
            assert!(listed.iter().any(|l| l.epoch == *epoch && l.is_durable));
        }
        let head = self.engine.progress().borrow().durable_epoch;
        assert_eq!(read_epoch(&self.engine, head).await, self.now());
        self.engine.close().await.unwrap();
        let disk = SimDisk::new(1);
        let (engine, _) = self.world.open("host-bbbbbbbbbb", &disk, None, self.fsync).await;
        assert_eq!(read_all(&engine).await, *self.states.last().unwrap());
        engine.abandon().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_what_was_written() {
    for seed in seeds(15) {
        println!("seed {seed}");
        let mut life = Life::new(seed).await;
        for _ in 0..40 {
            life.step().await;
        }
        life.check().await;
    }
}

/// Device threads wait for the bucket while the runtime goes on.
#[tokio::test]
async fn threads_read_and_write() {
    // An upload may end at any point of another thread's write.
    for seed in seeds(20) {
        println!("seed {seed}");
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, read_and_write_from_threads(seed)).await.expect("it ends");
    }
}

async fn read_and_write_from_threads(seed: u64) {
    let mut world = World::new(seed);
    let disk = SimDisk::new(1);
    let (engine, _) = world.open("host-aaaaaaaaaa", &disk, None, Fsync::Bucket).await;
    let engine = Arc::new(engine);
    let (threads, same) = (4_u64, engine.clone());
    let work = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let engine = &same;
                scope.spawn(move || {
                    let at = thread * BLOCK_LEN as u64;
                    for round in 1..4_u64 {
                        let tag = thread * 10 + round;
                        engine.write(at + 512, &bytes_of(&[tag; 9])).unwrap();
                        engine.flush().unwrap();
                        engine.shared.cache.evict(u64::MAX).unwrap();
                        let mut bytes = vec![0; 11 * SECTOR];
                        engine.read(at, &mut bytes).unwrap();
                        let mut expected = vec![tag; 11];
                        (expected[0], expected[10]) = (0, 0);
                        assert_eq!(tags_of(&bytes), expected);
                    }
                    engine.zero(at, BLOCK_LEN as u64).unwrap();
                });
            }
        });
    });
    work.await.unwrap();
    let engine = Arc::into_inner(engine).unwrap();
    assert_eq!(read_all(&engine).await, vec![0; SECTORS]);
    engine.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn writes_of_a_host_that_was_taken_over_are_set_aside() {
    let mut world = World::new(2);
    let (here, there) = (SimDisk::new(1), SimDisk::new(2));
    let (former, _) = world.open("host-aaaaaaaaaa", &here, None, Fsync::Local).await;
    former.shared.write(0, &bytes_of(&[1; 8])).await.unwrap();
    former.sync().await.unwrap();
    former.shared.write(0, &bytes_of(&[2; 8])).await.unwrap();
    former.shared.flush().await.unwrap();

    let (other, _) = world.open("host-bbbbbbbbbb", &there, None, Fsync::Local).await;
    other.shared.write(4_096, &bytes_of(&[3; 8])).await.unwrap();
    other.sync().await.unwrap();

    // The former one notices when it sends, and answers nothing from then on.
    assert!(matches!(former.sync().await, Err(EngineError::Ended { .. })));
    assert!(matches!(former.shared.write(0, &[0; 512]).await, Err(EngineError::Ended { .. })));
    assert!(matches!(former.read_here(0, &mut [0; 512]), Err(EngineError::Ended { .. })));
    assert!(former.ended().is_some());
    former.abandon().await;
    other.close().await.unwrap();

    let (again, recovered) = world.open("host-aaaaaaaaaa", &here, None, Fsync::Local).await;
    let stranded = recovered.stranded.expect("the second write was not sent");
    let writes = stranded.open(&here).unwrap();
    let blocks: Vec<_> = writes.blocks(writes.epochs()[0]).map(Result::unwrap).collect();
    assert_eq!(tags_of(&blocks[0].content[..PART_LEN]), [2; 8]);
    assert_eq!(read_all(&again).await[..16], [[1; 8], [3; 8]].concat());
    again.abandon().await;
}
