//! Random sequences of everything a block map can do, against the model.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sprite_blockmap::{
    BlockMap, BlockMapError, Codec, Delta, EXPIRY_WAIT, Entry, EpochCommit, Keep, Kind, Mark, Move,
    Pack, PackId,
};
use sprite_types::{BlockIndex, Epoch, Timestamp, VolumeId};

use crate::model::Model;
use sprite_testkit::{Rng, seeds};

const PACK_BYTES: u32 = 1 << 20;

/// A map and the model it must equal.
struct World {
    rng: Rng,
    dir: tempfile::TempDir,
    /// Each opening after a copy gets a folder of its own.
    copies: u32,
    map: Option<BlockMap>,
    model: Model,
    now: Timestamp,
    owner: VolumeId,
    /// The database's file and the length of its WAL after each step since it was emptied.
    log: Vec<(u64, Model)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let dir = tempfile::tempdir().unwrap();
        // Some disks need more than one inner node: those have more than 262,144 blocks.
        let blocks = match rng.below(6) {
            0 => 1 + rng.below(600),
            1 => 300_000 + rng.below(300_000),
            _ => 1 + rng.below(4000),
        };
        let now = Timestamp::from_micros(1_790_000_000_000_000);
        let mut map = BlockMap::create(&dir.path().join("map.db"), blocks, now).unwrap();
        map.truncate_wal().unwrap();
        let model = Model::new(blocks, now);
        let owner = "vol-aaaaaaaaaaaaaaaa".parse().unwrap();
        let log = vec![(0, model.clone())];
        Self { rng, dir, copies: 0, map: Some(map), model, now, owner, log }
    }

    fn map(&mut self) -> &mut BlockMap {
        self.map.as_mut().unwrap()
    }

    fn step(&mut self) {
        // Mostly forward, at times back: clocks are set.
        let micros = self.rng.below(400_000_000);
        self.now = match self.rng.below(12) {
            0 => Timestamp::from_micros(self.now.as_micros() - i64::from(micros)),
            _ => Timestamp::from_micros(self.now.as_micros() + i64::from(micros)),
        };
        match self.rng.below(28) {
            0..=8 => self.commit(),
            9 => self.checkpoint(),
            10 | 11 => self.restore(),
            12 | 13 => self.map().fold().unwrap(),
            14 | 15 => self.expire(),
            16 | 17 => self.prune(),
            18 => self.keep(),
            19 => self.sweep(),
            20 => self.reopen(),
            21 => self.kill(),
            22 => self.truncate_wal(),
            23 => self.grow(),
            24 | 25 => self.merge(),
            26 => self.set_mark(),
            27 => self.fork(),
            _ => unreachable!(),
        }
        let wal_len = fs::metadata(wal(self.map().path())).map_or(0, |meta| meta.len());
        let model = self.model.clone();
        self.log.push((wal_len, model));
    }

    fn new_pack(&mut self) -> Pack {
        let id = self.map().allocate_pack().unwrap();
        assert!(!self.model.packs.contains_key(&id.0), "pack number {} was used before", id.0);
        let key = format!("packs/{:016x}/{}.pack", self.rng.below(3), self.rng.next());
        Pack { id, owner: self.owner.clone(), key, bytes: PACK_BYTES }
    }

    fn entry(&mut self, pack: PackId, crc32c: u32) -> Entry {
        let len = 1 + self.rng.below(65_536);
        let offset = self.rng.below(PACK_BYTES - len + 1);
        let codec = self.rng.pick(&[Codec::Raw, Codec::Zstd]);
        Entry::new(pack, offset, len, codec, crc32c).unwrap()
    }

    fn mark(&mut self) -> Mark {
        Mark {
            keep: self.rng.pick(&[Keep::Window, Keep::Window, Keep::Automatic, Keep::Named]),
            name: self.rng.pick(&["", "before upgrade"]).to_owned(),
            comment: self.rng.pick(&["", "käse", "a\nb"]).to_owned(),
            crash_consistent: self.rng.below(2) == 0,
        }
    }

    fn commit(&mut self) {
        let blocks = self.model.head_state().blocks;
        let mut entries = self.model.head_state().entries.clone();
        let mut delta = Delta::new();
        let mut packs: Vec<Pack> = (0..self.rng.below(3)).map(|_| self.new_pack()).collect();
        for _ in 0..self.rng.below(6) {
            let start = self.rng.below(blocks);
            let room = blocks - start;
            if self.rng.below(4) == 0 {
                let count = match self.rng.below(4) {
                    0 => room,
                    _ => self.rng.below(room.min(1200) + 1),
                };
                delta.zero(BlockIndex(start), count);
                entries.retain(|block, _| !(start..start + count).contains(block));
            } else if let Some(pack) = packs.first().map(|pack| pack.id) {
                let (stride, count) = self.rng.pick(&[(1, 1), (1, 40), (1, 700), (7, 60)]);
                for block in (start..blocks).step_by(stride).take(count) {
                    let crc = self.rng.below(3);
                    let entry = self.entry(pack, crc);
                    delta.set(BlockIndex(block), entry);
                    entries.insert(block, entry);
                }
                packs.rotate_left(1);
            }
        }
        self.refused_commit(&delta);
        let (time, mark) = (self.now, self.mark());
        let commit =
            EpochCommit { time: Some(time), mark: mark.clone(), delta, packs: packs.clone() };
        let epoch = self.map().commit(commit).unwrap();
        let head = self.model.head();
        self.model.add(epoch, head, Kind::Seal, time, mark).entries = entries;
        self.model.packs.extend(packs.into_iter().map(|pack| (pack.id.0, pack)));
    }

    /// Whatever is wrong with a commit, nothing of it stays.
    fn refused_commit(&mut self, delta: &Delta) {
        let blocks = self.model.head_state().blocks;
        let mut commit = EpochCommit { delta: delta.clone(), ..EpochCommit::default() };
        let unknown = Entry::new(PackId(4_000_000_000), 0, 1, Codec::Raw, 0).unwrap();
        match self.rng.below(8) {
            0 => commit.delta.set(BlockIndex(self.rng.below(blocks)), unknown),
            1 => commit.delta.zero(BlockIndex(blocks), 1),
            2 => match self.model.packs.values().last() {
                Some(pack) => commit.packs.push(pack.clone()),
                None => return,
            },
            3 => {
                let pack = self.new_pack();
                let entry = Entry::new(pack.id, PACK_BYTES, 1, Codec::Raw, 0).unwrap();
                commit.delta.set(BlockIndex(0), entry);
                commit.packs.push(pack);
            }
            _ => return,
        }
        // The last pack may have been swept, and its number is then as good as a new one.
        let known = |map: &BlockMap, pack: &Pack| map.pack(pack.id).is_ok();
        if commit.packs.len() == 1
            && commit.delta == *delta
            && !known(self.map.as_ref().unwrap(), &commit.packs[0])
        {
            return;
        }
        let error = self.map().commit(commit).unwrap_err();
        assert!(matches!(error, BlockMapError::Invalid { .. }), "{error}");
    }

    fn checkpoint(&mut self) {
        let (time, mark) = (self.now, self.mark());
        let epoch = self.map().checkpoint(Some(time), mark.clone()).unwrap();
        let head = self.model.head();
        self.model.add(epoch, head, Kind::Seal, time, mark);
    }

    fn any_epoch(&mut self) -> Epoch {
        let epochs: Vec<Epoch> = self.model.epochs.keys().copied().collect();
        self.rng.pick(&epochs)
    }

    fn restore(&mut self) {
        let (target, head, time) = (self.any_epoch(), self.model.head(), self.now);
        let mark = self.mark();
        let expected = self.model.differing(head, target);
        let (epoch, blocks) = self.map().restore(target, Some(time), mark.clone()).unwrap();
        assert_eq!(blocks, expected, "blocks that restoring {target} changes");
        self.model.add(epoch, target, Kind::Restore, time, mark);
    }

    fn expire(&mut self) {
        let epochs: Vec<Epoch> = (0..self.rng.below(6)).map(|_| self.any_epoch()).collect();
        let (now, head) = (self.now, self.model.head());
        let result = self.map().expire(&epochs, now);
        if epochs.contains(&head) {
            assert!(
                matches!(result, Err(BlockMapError::WrongState { epoch, .. }) if epoch == head)
            );
            return;
        }
        result.unwrap();
        for epoch in epochs {
            self.model.epochs.get_mut(&epoch).unwrap().expiring.get_or_insert(now);
        }
    }

    fn keep(&mut self) {
        let epoch = self.any_epoch();
        self.map().keep(&[epoch]).unwrap();
        self.model.epochs.get_mut(&epoch).unwrap().expiring = None;
    }

    fn prune(&mut self) {
        let some = self.rng.below(3) == 0;
        let mut ripe = Vec::new();
        for (epoch, state) in &self.model.epochs {
            let is_ripe = |since| self.now.since(since) >= EXPIRY_WAIT;
            if state.expiring.is_some_and(is_ripe) && !(some && self.rng.below(2) == 0) {
                ripe.push(*epoch);
            }
        }
        let now = self.now;
        let unripe = self.any_epoch();
        if !ripe.contains(&unripe)
            && self.model.epochs[&unripe].expiring.is_none_or(|t| now.since(t) < EXPIRY_WAIT)
        {
            let error = self.map().prune(&[unripe], now).unwrap_err();
            assert!(matches!(error, BlockMapError::WrongState { .. }), "{error}");
        }
        self.map().prune(&ripe, now).unwrap();
        for epoch in ripe {
            self.model.epochs.remove(&epoch);
            assert!(matches!(self.map().state_at(epoch), Err(BlockMapError::NoSuchEpoch { .. })));
        }
    }

    fn sweep(&mut self) {
        self.map().sweep().unwrap();
        let map = self.map.as_ref().unwrap();
        for pack in self.model.reachable() {
            assert_eq!(map.pack(pack.id).unwrap(), *pack);
        }
    }

    fn reopen(&mut self) {
        let path = self.map().path().to_owned();
        self.map = None;
        self.map = Some(BlockMap::open(&path).unwrap());
    }

    /// A process that dies leaves the files as they are between two steps.
    fn kill(&mut self) {
        let path = self.copy(None);
        self.map = Some(BlockMap::open(&path).unwrap());
    }

    fn truncate_wal(&mut self) {
        self.map().truncate_wal().unwrap();
        self.log = Vec::new();
    }

    /// Copies the files as they are now to a new folder, with at most `wal_len` of the WAL.
    fn copy(&mut self, wal_len: Option<u64>) -> PathBuf {
        self.copies += 1;
        let dir = self.dir.path().join(self.copies.to_string());
        fs::create_dir(&dir).unwrap();
        let (from, to) = (self.map().path().to_owned(), dir.join("map.db"));
        fs::copy(&from, &to).unwrap();
        if wal(&from).exists() {
            fs::copy(wal(&from), wal(&to)).unwrap();
            if let Some(len) = wal_len {
                fs::OpenOptions::new().write(true).open(wal(&to)).unwrap().set_len(len).unwrap();
            }
        }
        to
    }

    fn grow(&mut self) {
        let blocks = self.model.head_state().blocks;
        let (time, larger) = (self.now, blocks + self.rng.below(700));
        assert!(self.map().grow(Some(time), blocks - 1).is_err());
        let epoch = self.map().grow(Some(time), larger).unwrap();
        let head = self.model.head();
        self.model.add(epoch, head, Kind::Grow, time, Mark::default()).blocks = larger;
    }

    fn merge(&mut self) {
        let entries = self.model.head_state().entries.clone();
        if entries.is_empty() {
            return;
        }
        let pack = self.new_pack();
        let mut moves = Vec::new();
        for (block, from) in entries.iter().filter(|_| self.rng.below(3) == 0) {
            let len = from.len();
            let to = Entry::new(pack.id, 0, len, from.codec(), from.crc32c()).unwrap();
            moves.push(Move { block: BlockIndex(*block), from: *from, to });
        }
        let time = self.now;
        if let Some(stale) = moves.last().copied() {
            let other_crc = Entry::new(pack.id, 0, 9, Codec::Raw, !stale.from.crc32c()).unwrap();
            for wrong in [Move { from: stale.to, ..stale }, Move { to: other_crc, ..stale }] {
                let packs = std::slice::from_ref(&pack);
                let error = self.map().merge(Some(time), &[wrong], packs).unwrap_err();
                assert!(
                    matches!(error, BlockMapError::ContentWouldChange { block } if block == stale.block)
                );
            }
        }
        let epoch = self.map().merge(Some(time), &moves, std::slice::from_ref(&pack)).unwrap();
        let head = self.model.head();
        let state = self.model.add(epoch, head, Kind::Merge, time, Mark::default());
        state.entries.extend(moves.iter().map(|moved| (moved.block.0, moved.to)));
        self.model.packs.insert(pack.id.0, pack);
    }

    fn set_mark(&mut self) {
        let (epoch, mark) = (self.any_epoch(), self.mark());
        let result = self.map().set_mark(epoch, mark.clone());
        let state = self.model.epochs.get_mut(&epoch).unwrap();
        match state.expiring {
            None => {
                result.unwrap();
                state.mark = mark;
            }
            Some(_) => assert!(matches!(result, Err(BlockMapError::WrongState { .. }))),
        }
    }

    /// Forks both ways, compares, and goes on as one of the children.
    fn fork(&mut self) {
        let (root, time) = (self.any_epoch(), self.now);
        if self.model.epochs[&root].expiring.is_some() {
            self.map().fork_root(root).unwrap_err();
            return;
        }
        let owners = self.map().fork_root(root).unwrap().owners;
        let packs = self.map().packs_of(root).unwrap();
        assert!(packs.iter().all(|pack| owners.contains(&pack.owner)));
        let path = self.copy(None);
        let opened = BlockMap::open_fork(&path, root, time).unwrap();
        self.copies += 1;
        let path = self.dir.path().join(format!("{}.db", self.copies));
        let created = self.map().create_fork(&path, root, time).unwrap();

        let mut model = self.model.clone();
        let mut state = model.epochs[&root].clone();
        (state.kind, state.parent, state.time) = (Kind::Fork, Some(root), time);
        state.mark = Mark::default();
        model.epochs.clear();
        model.epochs.insert(root.next(), state);
        model.check(&opened);
        model.check(&created);
        assert_eq!(created.reachable_packs().unwrap(), packs);
        self.owner = VolumeId::generate();
        self.map = Some(if self.rng.below(2) == 0 { opened } else { created });
        self.model = model;
        self.log = Vec::new();
    }

    /// Compares differences, moments in time, and lookups of single blocks.
    fn check(&mut self) {
        let (a, b) = (self.any_epoch(), self.any_epoch());
        let at = Timestamp::from_micros(self.now.as_micros() - i64::from(self.rng.below(1 << 31)));
        let map = self.map.as_ref().unwrap();
        self.model.check(map);
        assert_eq!(map.diff(a, b).unwrap(), self.model.differing(a, b), "from {a} to {b}");
        let kept = |(_, state): &(&Epoch, &crate::model::State)| {
            state.expiring.is_none() && state.time <= at
        };
        let expected = self.model.epochs.iter().rev().find(kept).map(|(epoch, _)| *epoch);
        assert_eq!(map.epoch_at(at), expected);
        let state = &self.model.epochs[&a];
        let view = map.state_at(a).unwrap();
        for _ in 0..20 {
            let block = BlockIndex(self.rng.below(state.blocks));
            assert_eq!(view.lookup(block).unwrap(), state.entries.get(&block.0).copied());
        }
    }

    /// A process that dies within a step leaves a WAL that ends anywhere: what is opened is the
    /// state after a whole step.
    fn check_torn(&mut self) {
        let Some((len, _)) = self.log.last() else { return };
        let cut = self.rng.next() % (len + 1);
        let whole = self.log.iter().rev().find(|(len, _)| *len <= cut);
        let Some(model) = whole.map(|(_, model)| model.clone()) else { return };
        let path = self.copy(Some(cut));
        model.check(&BlockMap::open(&path).unwrap());
    }
}

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Runs `steps` random steps, comparing every state every few of them.
fn run(seed: u64, steps: u32) {
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        let World { model, map, .. } = &world;
        model.check_head(map.as_ref().unwrap());
        if step % 9 == 8 {
            world.check();
        }
    }
    world.check();
    world.check_torn();
}

#[test]
fn every_kept_state_equals_the_models() {
    seeds(25).for_each(|seed| run(seed, 45));
}

/// Long histories reach what short ones do not: folds over folds, inner rows that end.
#[test]
fn long_histories_equal_the_models() {
    // They cost more, so of many seeds only some.
    seeds(20).step_by(10).for_each(|seed| run(seed, 160));
}

#[test]
fn time_is_never_earlier_than_that_of_an_older_epoch() {
    let mut world = World::new(1);
    let start = world.now;
    world.map().checkpoint(Some(start), Mark::default()).unwrap();
    let back =
        Timestamp::from_micros(start.as_micros() - Duration::from_secs(60).as_micros() as i64);
    let epoch = world.map().checkpoint(Some(back), Mark::default()).unwrap();
    assert_eq!(world.map().info(epoch).unwrap().time, start);
}
