//! Single claims about the file and about what pays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use sprite_blockmap::{
    BlockMap, BlockMapError, Codec, Delta, EXPIRY_WAIT, Entry, EpochCommit, FOLD_CHANGES_MAX,
    FOLD_CHANGES_MIN, Keep, Mark, Move, Pack, PackId, Swept,
};
use sprite_types::{BlockIndex, Epoch, ErrorKind, Timestamp, VolumeId};

/// 100 GiB.
const BLOCKS: u32 = 1_638_400;
const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

fn later(by: Duration) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + by.as_micros() as i64)
}

fn create(dir: &Path, blocks: u32) -> BlockMap {
    BlockMap::create(&dir.join("map.db"), blocks, NOW).unwrap()
}

fn new_pack(map: &mut BlockMap) -> Pack {
    let id = map.allocate_pack().unwrap();
    let owner: VolumeId = "vol-aaaaaaaaaaaaaaaa".parse().unwrap();
    Pack { id, owner, key: format!("packs/{}", id.0), bytes: 8 << 20 }
}

fn entry(pack: PackId, at: u32) -> Entry {
    Entry::new(pack, at % 100 * 64_000, 60_000, Codec::Zstd, at).unwrap()
}

/// Commits the blocks as one epoch in one pack.
fn write(map: &mut BlockMap, blocks: impl Iterator<Item = u32>) -> Epoch {
    let pack = new_pack(map);
    let mut delta = Delta::new();
    blocks.for_each(|block| delta.set(BlockIndex(block), entry(pack.id, block)));
    let commit =
        EpochCommit { time: Some(NOW), delta, packs: vec![pack], ..EpochCommit::default() };
    map.commit(commit).unwrap()
}

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Counts the transactions in a WAL: frames that say how large the database is after them.
/// Source: SQLite, *Database File Format*, section 4.1.
fn transactions(map: &BlockMap) -> usize {
    let bytes = fs::read(wal(map.path())).unwrap();
    let frames = bytes[32..].chunks_exact(24 + 4096);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

#[test]
fn each_call_that_changes_something_is_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 2000);
    let mut expected = 1;
    assert_eq!(transactions(&map), expected);
    let mut done = |map: &BlockMap, what: &str, count: usize| {
        expected += count;
        assert_eq!(transactions(map), expected, "{what}");
    };
    map.fold().unwrap();
    done(&map, "fold nothing", 0);
    assert_eq!(map.sweep().unwrap(), Swept::default());
    done(&map, "sweep nothing", 0);
    let first = write(&mut map, 0..1500);
    done(&map, "commit", 1);
    map.fold().unwrap();
    done(&map, "fold", 1);
    let second = map.checkpoint(None, Mark::default()).unwrap();
    done(&map, "checkpoint", 1);
    let pack = new_pack(&mut map);
    let from = map.lookup(BlockIndex(7)).unwrap();
    let to = Entry::new(pack.id, 0, from.len(), from.codec(), from.crc32c()).unwrap();
    map.merge(None, &[Move { block: BlockIndex(7), from, to }], &[pack]).unwrap();
    done(&map, "merge", 1);
    map.grow(None, 2500).unwrap();
    done(&map, "grow", 1);
    map.restore(first, None, Mark::default()).unwrap();
    done(&map, "restore", 1);
    map.set_mark(second, Mark { keep: Keep::Named, ..Mark::default() }).unwrap();
    done(&map, "set a mark", 1);
    map.expire(&[first, second], NOW).unwrap();
    done(&map, "expire", 1);
    map.keep(&[second]).unwrap();
    done(&map, "keep", 1);
    map.prune(&[], NOW).unwrap();
    done(&map, "prune nothing", 0);
    map.prune(&[first], later(EXPIRY_WAIT)).unwrap();
    done(&map, "prune", 1);
    map.fold().unwrap();
    done(&map, "fold again", 1);
    map.commit(EpochCommit {
        delta: {
            let mut delta = Delta::new();
            delta.zero(BlockIndex(2500), 1);
            delta
        },
        ..EpochCommit::default()
    })
    .unwrap_err();
    done(&map, "fail", 0);
}

/// The bucket gets what is in the WAL. Closing must not move it away.
#[test]
fn closing_and_opening_leave_the_wal_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 2000);
    write(&mut map, 0..10);
    let path = map.path().to_owned();
    let before = (fs::read(&path).unwrap(), fs::read(wal(&path)).unwrap());
    drop(map);
    let mut map = BlockMap::open(&path).unwrap();
    assert_eq!((fs::read(&path).unwrap(), fs::read(wal(&path)).unwrap()), before);
    assert!(!path.with_extension("db-shm").exists());
    map.truncate_wal().unwrap();
    assert_eq!(fs::metadata(wal(&path)).unwrap().len(), 0);
    drop(map);
    assert_eq!(BlockMap::open(&path).unwrap().entries().count(), 10);
}

#[test]
fn a_map_belongs_to_one_opener() {
    let dir = tempfile::tempdir().unwrap();
    let map = create(dir.path(), 10);
    let error = BlockMap::open(map.path()).err().unwrap();
    assert!(matches!(error, BlockMapError::InUse { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(BlockMap::create(map.path(), 10, NOW).is_err());
}

#[test]
fn what_is_not_a_map_of_this_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map.db");
    assert!(BlockMap::open(&path).is_err());
    assert!(!path.exists());
    for bytes in [&b""[..], b"something else that is long enough to be looked at"] {
        fs::write(&path, bytes).unwrap();
        let error = BlockMap::open(&path).err().unwrap();
        assert!(matches!(error, BlockMapError::NotAMap { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::remove_file(&path).unwrap();
    let mut map = create(dir.path(), 10);
    map.truncate_wal().unwrap();
    drop(map);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let error = BlockMap::open(&path).err().unwrap();
    assert!(matches!(error, BlockMapError::TooNew { found: 2, known: 1, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Neighbouring blocks share leaves, so that a fold is cheap; blocks all over a full disk touch
/// every leaf, and a fold costs as much as hundreds of epochs.
#[test]
fn a_fold_is_due_when_it_pays() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), BLOCKS);
    write(&mut map, 0..FOLD_CHANGES_MIN as u32 - 1);
    assert!(!map.fold_due().unwrap());
    write(&mut map, [BLOCKS - 1].into_iter());
    assert!(map.fold_due().unwrap());
    map.fold().unwrap();
    assert!(!map.fold_due().unwrap());

    let mut changes = 0;
    for round in 0.. {
        let scattered: Vec<u32> = (round..BLOCKS).step_by(25).collect();
        changes += scattered.len() as u64;
        write(&mut map, scattered.into_iter());
        if map.fold_due().unwrap() {
            break;
        }
    }
    assert!(changes > 8 * FOLD_CHANGES_MIN && changes < FOLD_CHANGES_MAX + (1 << 17));
    // The same after opening, when nothing is known but what the file says.
    let path = map.path().to_owned();
    drop(map);
    let mut map = BlockMap::open(&path).unwrap();
    assert!(map.fold_due().unwrap());
    map.fold().unwrap();
    assert!(!map.fold_due().unwrap());
    assert_eq!(map.verify().unwrap(), []);
}

#[test]
fn memory_follows_what_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), BLOCKS);
    assert!(map.head_memory() < 30_000, "{}", map.head_memory());
    write(&mut map, 0..51_200);
    // What an open table of a fully mapped disk may take: 33 MB for 1,638,400 blocks.
    assert!(map.head_memory() < 30_000 + 51_200 * 20, "{}", map.head_memory());
    let path = map.path().to_owned();
    drop(map);
    let map = BlockMap::open(&path).unwrap();
    assert!(map.head_memory() < 30_000 + 51_200 * 20, "{}", map.head_memory());
}

#[test]
fn checkpoints_are_listed_in_order_and_apart_from_moments() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 100);
    let named = |name: &str| Mark { keep: Keep::Named, name: name.to_owned(), ..Mark::default() };
    let first = map.checkpoint(Some(NOW), named("first")).unwrap();
    write(&mut map, 0..3);
    let automatic = Mark { keep: Keep::Automatic, ..Mark::default() };
    let second = map.checkpoint(Some(NOW), automatic).unwrap();
    let third = map.checkpoint(Some(NOW), named("third")).unwrap();
    let listed = |map: &BlockMap| map.checkpoints().map(|info| info.epoch).collect::<Vec<_>>();
    assert_eq!(listed(&map), [first, second, third]);
    map.checkpoint(None, Mark::default()).unwrap();
    map.expire(&[second], NOW).unwrap();
    map.set_mark(first, Mark::default()).unwrap();
    assert_eq!(listed(&map), [third]);
    assert_eq!(map.epoch_at(later(Duration::ZERO)), Some(map.head()));
    assert_eq!(map.epoch_at(Timestamp::from_micros(0)), None);
}

/// Between the first look and the pins the epoch may have been marked: then the fork must fail.
#[test]
fn an_expiring_epoch_cannot_be_forked() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 100);
    let root = write(&mut map, 0..3);
    write(&mut map, 0..3);
    assert_eq!(map.fork_root(root).unwrap().owners.len(), 1);
    map.expire(&[root], NOW).unwrap();
    let error = map.fork_root(root).unwrap_err();
    assert_eq!(error.to_string(), format!("epoch {root} is expiring"));
    // It is still there for those who began before.
    assert_eq!(map.state_at(root).unwrap().entries().count(), 3);
    let wait = EXPIRY_WAIT - Duration::from_secs(1);
    assert!(matches!(map.prune(&[root], later(wait)), Err(BlockMapError::WrongState { .. })));
    map.prune(&[root], later(EXPIRY_WAIT)).unwrap();
    assert!(matches!(map.fork_root(root), Err(BlockMapError::NoSuchEpoch { .. })));
}

/// What a moment holds is what the next one replaced; pruning keeps the sum right.
#[test]
fn replaced_bytes_count_each_lost_block_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 100);
    let first = write(&mut map, 0..4);
    let second = write(&mut map, 2..6);
    let third = write(&mut map, 3..5);
    let replaced = |map: &BlockMap, epoch| map.info(epoch).unwrap().replaced_bytes / 60_000;
    assert_eq!([first, second, third].map(|epoch| replaced(&map, epoch)), [0, 2, 2]);
    map.expire(&[second], NOW).unwrap();
    map.prune(&[second], later(EXPIRY_WAIT)).unwrap();
    // Against the first: blocks 2 and 3. What the second wrote and lost is gone.
    assert_eq!(replaced(&map, third), 2);
    assert_eq!(map.moments().iter().map(|moment| moment.pack_bytes / 60_000).sum::<u64>(), 2);
}

#[test]
fn pack_use_counts_the_newest_state_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 100);
    write(&mut map, 0..4);
    write(&mut map, 1..4);
    let used: Vec<_> = map
        .head_packs()
        .into_iter()
        .map(|(pack, used)| (pack.0, used.blocks, used.bytes))
        .collect();
    assert_eq!(used, [(1, 1, 60_000), (2, 3, 180_000)]);
}

/// A pruned epoch that two branches lie on is still read by both, each in its own blocks.
#[test]
fn packs_that_only_one_branch_hides_stay_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 5000);
    let start = map.head();
    let owner: VolumeId = "vol-aaaaaaaaaaaaaaaa".parse().unwrap();
    let packs: Vec<Pack> = (0..3)
        .map(|_| {
            let id = map.allocate_pack().unwrap();
            Pack { id, owner: owner.clone(), key: format!("packs/{}", id.0), bytes: 8 << 20 }
        })
        .collect();
    let mut delta = Delta::new();
    for (block, pack) in (0..).zip(&packs) {
        delta.set(BlockIndex(block), entry(pack.id, block));
    }
    let root = map.commit(EpochCommit { delta, packs, ..EpochCommit::default() }).unwrap();
    // One branch replaces blocks 0 and 2, the other 1 and 2.
    write(&mut map, [0, 2].into_iter());
    map.restore(root, None, Mark::default()).unwrap();
    write(&mut map, [1, 2].into_iter());
    map.expire(&[start, root], NOW).unwrap();
    map.prune(&[start, root], later(EXPIRY_WAIT)).unwrap();
    assert!(map.state_at(root).is_err());
    let reachable = |map: &BlockMap| -> Vec<u32> {
        map.reachable_packs().unwrap().iter().map(|pack| pack.id.0).collect()
    };
    // The restored epoch itself still shows all three.
    assert_eq!(reachable(&map), [1, 2, 3, 4, 5]);
    let restored = Epoch(root.0 + 2);
    map.expire(&[restored], NOW).unwrap();
    map.prune(&[restored], later(EXPIRY_WAIT)).unwrap();
    assert_eq!(reachable(&map), [1, 2, 4, 5]);
    assert_eq!(map.sweep().unwrap().nodes, 0);
    assert_eq!(reachable(&map), [1, 2, 4, 5]);
}

/// Its bytes may be gone from the bucket.
#[test]
fn a_swept_pack_cannot_be_named_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), 5000);
    let first = write(&mut map, 0..3);
    let lost = map.lookup(BlockIndex(0)).unwrap();
    write(&mut map, 0..3);
    map.expire(&[first], NOW).unwrap();
    map.prune(&[first], later(EXPIRY_WAIT)).unwrap();
    assert_eq!(map.sweep().unwrap(), Swept { nodes: 0, packs: 1 });
    assert!(map.pack(lost.pack()).is_err());
    let mut delta = Delta::new();
    delta.set(BlockIndex(9), lost);
    let error = map.commit(EpochCommit { delta, ..EpochCommit::default() }).unwrap_err();
    assert!(error.to_string().contains("pack 1, which is unknown"), "{error}");
}

#[test]
fn a_second_fold_writes_only_what_changed_since_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut map = create(dir.path(), BLOCKS);
    write(&mut map, 0..51_200);
    map.fold().unwrap();
    let bytes = |map: &BlockMap| map.info(map.head()).unwrap().map_bytes;
    assert!(bytes(&map) > 51_200 * 16, "{}", bytes(&map));
    write(&mut map, 700..701);
    map.fold().unwrap();
    // One leaf, and the inner nodes above it.
    assert!(bytes(&map) < 20_000, "{}", bytes(&map));
    // The same when what changed has to be found out, after opening and after a restore.
    let head = write(&mut map, 7000..7001);
    let path = map.path().to_owned();
    drop(map);
    let mut map = BlockMap::open(&path).unwrap();
    map.fold().unwrap();
    assert!(bytes(&map) < 20_000, "{}", bytes(&map));
    write(&mut map, 0..20_000);
    map.restore(head, None, Mark::default()).unwrap();
    write(&mut map, 3..4);
    map.fold().unwrap();
    assert!(bytes(&map) < 20_000, "{}", bytes(&map));
    assert_eq!(map.verify().unwrap(), []);
}

/// Scattered deltas save nothing together, and writing them again costs as much as the first
/// time; deltas of the same blocks become one.
#[test]
fn pruning_merges_only_what_that_makes_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let bytes_after = |name: &str, blocks: &dyn Fn(u32) -> Vec<u32>| {
        let path = dir.path().join(name);
        let mut map = BlockMap::create(&path, BLOCKS, NOW).unwrap();
        let epochs: Vec<Epoch> =
            (0..8).map(|round| write(&mut map, blocks(round).into_iter())).collect();
        map.expire(&epochs[..7], NOW).unwrap();
        map.truncate_wal().unwrap();
        map.prune(&epochs[..7], later(EXPIRY_WAIT)).unwrap();
        let written = fs::metadata(wal(&path)).unwrap().len();
        assert_eq!(map.verify().unwrap(), []);
        let held: u64 = map.moments().iter().map(|moment| moment.map_bytes).sum();
        (held, written)
    };
    let scattered = bytes_after("scattered.db", &|round| (round..BLOCKS).step_by(2000).collect());
    assert!(scattered.0 > 8 * 800 * 20, "{scattered:?}");
    assert!(scattered.1 < 60_000, "{scattered:?}");
    let same = bytes_after("same.db", &|_| (0..BLOCKS).step_by(2000).collect());
    assert!(same.0 < 2 * 850 * 20, "{same:?}");
}
