//! Single situations, told one by one.

use std::sync::Arc;

use sprite_types::{BlockIndex, Epoch, ErrorKind, Generation, VolumeId};

use super::model::settings;
use crate::block::{BLOCK_LEN, PART_LEN};
use crate::cache::sim::SimDisk;
use crate::cache::{
    Cache, CacheError, CleanEntry, Entry, Filled, ForeignClaim, HeadInfo, HostDir, OpenError,
    Parts, Read, Recovered, SealKind, SealResult, SealedKind, Settings,
};

const BLOCK: u64 = BLOCK_LEN as u64;
const ENTRY: Entry = Entry([9; 16]);

fn open(
    disk: &SimDisk,
    settings: Settings,
    head: &HeadInfo,
) -> Result<(Cache, Recovered), OpenError> {
    Cache::open(Arc::new(disk.clone()), settings, head, &|_| ENTRY)
}

fn head(generation: u64, epoch: u64) -> HeadInfo {
    HeadInfo { generation: Generation(generation), epoch: Epoch(epoch), foreign: None }
}

fn new() -> (SimDisk, Cache) {
    let disk = SimDisk::new(1);
    let (cache, recovered) = open(&disk, settings(), &head(1, 0)).unwrap();
    assert_eq!(recovered, Recovered::default());
    (disk, cache)
}

fn part(cache: &Cache, block: u32, part: usize) -> (Read, u8) {
    let mut bytes = [0xee; PART_LEN];
    let range = part * PART_LEN..(part + 1) * PART_LEN;
    let read = cache.read(BlockIndex(block), range, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a part of one piece");
    (read, bytes[0])
}

fn seal(cache: &Cache) -> Epoch {
    match cache.seal(SealKind::Plain).unwrap() {
        SealResult::Sealed(epoch) => epoch,
        other => panic!("not sealed: {other:?}"),
    }
}

fn durable(cache: &Cache, epoch: Epoch) {
    let clean = |_| Some(CleanEntry { entry: ENTRY, crc32c: 0 });
    cache.epoch_durable(epoch, &clean).unwrap();
}

#[test]
fn a_flush_of_nothing_new_writes_no_record() {
    let (disk, cache) = new();
    cache.write(0, &[1; PART_LEN]).unwrap();
    let before = disk.syncs();
    cache.flush().unwrap();
    assert_eq!(disk.syncs() - before, 2, "data, then journal");
    // The same part again changes no mask.
    cache.write(0, &[2; PART_LEN]).unwrap();
    cache.flush().unwrap();
    assert_eq!(disk.syncs() - before, 3, "data only");
    cache.write(0, &[3; 2 * PART_LEN]).unwrap();
    cache.flush().unwrap();
    assert_eq!(disk.syncs() - before, 5);
}

#[test]
fn writes_smaller_than_a_part_ask_for_the_rest_once() {
    let (_, cache) = new();
    let error = cache.write(3 * 512, &[1; 512]).unwrap_err();
    let CacheError::NeedsFill { block: BlockIndex(0), parts: Parts(1) } = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // Growing is for writes; a fill takes a free slot or none.
    cache.write(BLOCK, &[7; PART_LEN]).unwrap();
    let content = Box::new([5; BLOCK_LEN]);
    assert_eq!(cache.fill(BlockIndex(0), ENTRY, &content, &|_| ENTRY).unwrap(), Filled::Kept);
    cache.write(3 * 512, &[1; 512]).unwrap();
    cache.zero(PART_LEN as u64 - 512, 1_024, &|_| true).unwrap();
    let mut bytes = vec![0; 2 * PART_LEN];
    assert_eq!(cache.read(BlockIndex(0), 0..2 * PART_LEN, &mut bytes).unwrap(), Read::Hit);
    let expected: Vec<u8> = (0..2 * PART_LEN)
        .map(|at| match at {
            1_536..2_048 => 1,
            3_584..4_608 => 0,
            _ => 5,
        })
        .collect();
    assert_eq!(bytes, expected);
    let block = cache.sealed_blocks(seal(&cache)).next().unwrap().unwrap();
    assert_eq!((block.dirty, block.valid), (Parts(3), Parts::ALL));
}

#[test]
fn ranges_outside_of_the_volume_are_refused() {
    let (_, cache) = new();
    let end = 3 * BLOCK;
    for (offset, len) in [(end, 512), (end - 512, 1_024), (1, 512), (0, 100), (u64::MAX - 511, 512)]
    {
        let error = cache.zero(offset, len, &|_| true).unwrap_err();
        assert!(matches!(error, CacheError::Range { .. }), "{offset} {len}: {error:?}");
    }
    cache.write(end - 512, &[]).unwrap();
}

/// A trimmed file system must not fill the cache with zeroes.
#[test]
fn zeroed_blocks_take_no_space() {
    let (_, cache) = new();
    cache.zero(0, 3 * BLOCK, &|block| block.0 != 1).unwrap();
    assert_eq!(part(&cache, 0, 3), (Read::Hit, 0));
    assert_eq!(part(&cache, 1, 0).0, Read::Miss { missing: Parts(1) }, "nothing was there");
    assert_eq!((cache.stats().open_bytes, cache.stats().file_bytes), (0, 0));
    let epoch = seal(&cache);
    let blocks: Vec<_> = cache.sealed_blocks(epoch).map(Result::unwrap).collect();
    assert_eq!(blocks.iter().map(|block| block.block.0).collect::<Vec<_>>(), [0, 2]);
    assert!(
        blocks.iter().all(|block| block.dirty == Parts::ALL && crate::is_zero(&block.content[..]))
    );
    durable(&cache, epoch);
    assert_eq!(part(&cache, 0, 0).0, Read::Miss { missing: Parts(1) });
    cache.flush().unwrap();
}

#[test]
fn at_most_two_plain_epochs_wait_and_named_ones_do_not_care() {
    let (_, cache) = new();
    assert_eq!(cache.seal(SealKind::Plain).unwrap(), SealResult::Empty);
    for _ in 0..2 {
        cache.write(0, &[1; PART_LEN]).unwrap();
        seal(&cache);
    }
    cache.write(0, &[2; PART_LEN]).unwrap();
    assert_eq!(cache.seal(SealKind::Plain).unwrap(), SealResult::Busy);
    assert_eq!(cache.seal(SealKind::Named(b"v1")).unwrap(), SealResult::Sealed(Epoch(3)));
    let error = cache.epoch_durable(Epoch(2), &|_| None).unwrap_err();
    assert!(matches!(error, CacheError::Order { epoch: Epoch(2) }));
    for epoch in 1..=3 {
        durable(&cache, Epoch(epoch));
    }
    assert_eq!(cache.seal(SealKind::Named(b"v2")).unwrap(), SealResult::Sealed(Epoch(4)), "empty");
    let sealed = cache.sealed_epochs();
    assert_eq!(sealed[0].kind, SealedKind::Named(b"v2".to_vec()));
    assert!(matches!(
        cache.seal(SealKind::Named(&[0; 1_025])).unwrap_err(),
        CacheError::NoteTooLong { len: 1_025 }
    ));
}

/// A host whose disk is full must say so when the cache grows, and go on when there is room.
#[test]
fn a_full_host_refuses_new_blocks_and_keeps_old_promises() {
    let (disk, cache) = new();
    cache.write(0, &[1; PART_LEN]).unwrap();
    disk.set_space(0);
    // Three slots were reserved at once.
    cache.write(BLOCK, &[2; PART_LEN]).unwrap();
    cache.write(2 * BLOCK, &[3; PART_LEN]).unwrap();
    seal(&cache);
    let error = cache.write(0, &[4; PART_LEN]).unwrap_err();
    assert!(matches!(error, CacheError::HostFull), "{error:?}");
    cache.flush().unwrap();
    assert_eq!(part(&cache, 0, 0), (Read::Hit, 1));
    disk.set_space(u64::MAX);
    cache.write(0, &[4; PART_LEN]).unwrap();
    assert_eq!(part(&cache, 0, 0), (Read::Hit, 4));
}

#[test]
fn a_full_cache_is_not_a_full_host() {
    let (_, cache) = new();
    // Ten slots: three blocks in three epochs, and one more.
    for _ in 0..3 {
        for block in 0..3 {
            cache.write(block * BLOCK, &[1; PART_LEN]).unwrap();
        }
        assert!(matches!(cache.seal(SealKind::Named(b"")).unwrap(), SealResult::Sealed(_)));
    }
    cache.write(0, &[2; PART_LEN]).unwrap();
    assert_eq!(cache.stats().room_bytes(), (2 << 30) - 10 * BLOCK);
    let error = cache.write(BLOCK, &[2; PART_LEN]).unwrap_err();
    assert!(matches!(error, CacheError::Full), "{error:?}");
    durable(&cache, Epoch(1));
    cache.write(BLOCK, &[2; PART_LEN]).unwrap();
}

/// A block that survived a power cut is compared with its checksum before anybody sees it.
#[test]
fn a_damaged_clean_slot_is_fetched_anew() {
    for damaged in [false, true] {
        let (disk, cache) = new();
        // Makes room: slots 0 to 2.
        cache.write(BLOCK, &[1; PART_LEN]).unwrap();
        let content = Box::new([5; BLOCK_LEN]);
        assert_eq!(cache.fill(BlockIndex(0), ENTRY, &content, &|_| ENTRY).unwrap(), Filled::Kept);
        cache.flush().unwrap();
        drop(cache);
        disk.cut_power();
        if damaged {
            disk.flip_bit("live", "slots", BLOCK + 777);
        }
        let (cache, recovered) = open(&disk, settings(), &head(2, 0)).unwrap();
        assert_eq!((recovered.clean_bytes, recovered.unsent_bytes), (BLOCK, BLOCK));
        let expected = if damaged { Read::Miss { missing: Parts(1) } } else { Read::Hit };
        assert_eq!(part(&cache, 0, 0).0, expected);
        // It is doubted as long as nobody has looked, also across a good end.
        assert_eq!(part(&cache, 1, 0), (Read::Hit, 1));
    }
}

#[test]
fn doubt_outlives_a_good_end() {
    let (disk, cache) = new();
    cache.write(BLOCK, &[1; PART_LEN]).unwrap();
    let content = Box::new([5; BLOCK_LEN]);
    cache.fill(BlockIndex(0), ENTRY, &content, &|_| ENTRY).unwrap();
    cache.flush().unwrap();
    drop(cache);
    let (cache, _) = open(&disk, settings(), &head(2, 0)).unwrap();
    cache.close().unwrap();
    disk.flip_bit("live", "slots", BLOCK + 777);
    let left = Cache::left_behind(&disk).unwrap().unwrap();
    assert_eq!((left.generation, left.clean_stop), (Generation(2), true));
    let (cache, _) = open(&disk, settings(), &head(3, 0)).unwrap();
    assert_eq!(part(&cache, 0, 0).0, Read::Miss { missing: Parts(1) });
}

#[test]
fn evicted_blocks_are_those_not_read_lately() {
    let disk = SimDisk::new(1);
    let large = Settings { blocks: 64, slots_max: 64, grow_slots: 64, ..settings() };
    let (cache, _) = open(&disk, large, &head(1, 0)).unwrap();
    cache.write(63 * BLOCK, &[1; PART_LEN]).unwrap();
    let content = Box::new([5; BLOCK_LEN]);
    for block in 0..40 {
        cache.fill(BlockIndex(block), ENTRY, &content, &|_| ENTRY).unwrap();
    }
    assert_eq!(
        cache.evict(1).unwrap(),
        15 * BLOCK,
        "a run less the dirty one, on the second round"
    );
    // Slots 16 to 31 hold blocks 15 to 30.
    assert_eq!(part(&cache, 20, 0).0, Read::Hit);
    assert_eq!(cache.evict(1).unwrap(), 9 * BLOCK, "the run that was not read");
    assert_eq!(part(&cache, 20, 0).0, Read::Hit);
    assert_eq!(part(&cache, 35, 0).0, Read::Miss { missing: Parts(1) });
    assert_eq!(cache.stats().released_bytes, 24 * BLOCK);
    cache.flush().unwrap();
    assert_eq!(cache.stats().released_bytes, 0);
    assert_eq!(cache.evict(u64::MAX).unwrap(), 16 * BLOCK);
    assert_eq!(part(&cache, 63, 0), (Read::Hit, 1));
}

#[test]
fn what_somebody_else_took_over_is_set_aside() {
    let (disk, cache) = new();
    cache.write(0, &[1; PART_LEN]).unwrap();
    cache.seal(SealKind::Named(b"kept")).unwrap();
    cache.write(PART_LEN as u64, &[2; PART_LEN]).unwrap();
    cache.zero(2 * BLOCK, BLOCK, &|_| true).unwrap();
    cache.flush().unwrap();
    drop(cache);
    let foreign = ForeignClaim { generation: Generation(2), ours_until: Epoch(0) };
    let taken = HeadInfo { foreign: Some(foreign), ..head(3, 5) };
    let (cache, recovered) = open(&disk, settings(), &taken).unwrap();
    let stranded = recovered.stranded.unwrap();
    assert_eq!((stranded.generation, stranded.base), (Generation(1), Epoch(0)));
    assert_eq!(stranded.name, "stranded-0000000000000001");
    assert_eq!(part(&cache, 0, 0).0, Read::Miss { missing: Parts(1) });
    assert_eq!(cache.stats().open_epoch, Epoch(6));
    let writes = stranded.open(&disk).unwrap();
    let blocks: Vec<_> = writes
        .epochs()
        .into_iter()
        .flat_map(|epoch| writes.blocks(epoch).map(Result::unwrap).collect::<Vec<_>>())
        .map(|block| (block.block.0, block.dirty, block.content[0], block.content[PART_LEN]))
        .collect();
    assert_eq!(blocks, [(0, Parts(1), 1, 0), (0, Parts(3), 1, 2), (2, Parts::ALL, 0, 0)]);
    let names = crate::cache::Dir::list(&disk).unwrap();
    assert_eq!(names, ["live", "stranded-0000000000000001"]);
}

#[test]
fn a_cache_that_does_not_fit_is_refused_and_left_alone() {
    let (disk, cache) = new();
    cache.write(0, &[1; PART_LEN]).unwrap();
    cache.flush().unwrap();
    drop(cache);
    let volume: VolumeId = "vol-bbbbbbbbbbbbbbbb".parse().unwrap();
    let other = Settings { volume, ..settings() };
    let shorter = Settings { blocks: 2, ..settings() };
    for (settings, head, kind) in [
        (other, head(2, 0), ErrorKind::Unsupported),
        (shorter, head(2, 0), ErrorKind::Unsupported),
        (settings(), head(0, 0), ErrorKind::Fenced),
    ] {
        assert_eq!(open(&disk, settings, &head).err().map(|error| error.kind()), Some(kind));
    }
    let (cache, recovered) = open(&disk, settings(), &head(2, 0)).unwrap();
    assert_eq!(recovered.unsent_bytes, BLOCK);
    assert_eq!(part(&cache, 0, 0), (Read::Hit, 1));
}

#[test]
fn a_bucket_that_forgot_an_epoch_is_not_written_over() {
    let (disk, cache) = new();
    cache.write(0, &[1; PART_LEN]).unwrap();
    durable(&cache, seal(&cache));
    cache.flush().unwrap();
    drop(cache);
    let error = open(&disk, settings(), &head(2, 0)).err().unwrap();
    assert!(matches!(error, OpenError::Mismatch { .. }), "{error:?}");
    assert!(open(&disk, settings(), &head(2, 1)).is_ok());
}

#[test]
fn a_journal_without_a_whole_record_is_not_wiped() {
    let (disk, cache) = new();
    cache.write(0, &[1; PART_LEN]).unwrap();
    cache.flush().unwrap();
    drop(cache);
    disk.flip_bit("live", "journal-0", 100);
    let error = open(&disk, settings(), &head(2, 0)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    disk.flip_bit("live", "journal-0", 100);
    let (cache, _) = open(&disk, settings(), &head(2, 0)).unwrap();
    assert_eq!(part(&cache, 0, 0), (Read::Hit, 1));
}

/// Real files, with the table in memory that a keeper would hold.
#[test]
fn on_the_hosts_own_files() {
    let temp = tempfile::tempdir().unwrap();
    let settings = Settings { shared_table: true, ..settings() };
    let dir = Arc::new(HostDir::open(temp.path()).unwrap());
    let (cache, _) = Cache::open(dir, settings.clone(), &head(1, 0), &|_| ENTRY).unwrap();
    cache.write(BLOCK - 4_096, &[1; 3 * PART_LEN]).unwrap();
    cache.flush().unwrap();
    cache.write(0, &[2; PART_LEN]).unwrap();
    let memfd = cache.memory().fd().unwrap().try_clone_to_owned().unwrap();
    drop(cache);
    let memory = crate::cache::Memory::inherited(memfd).unwrap();
    let dir = Arc::new(HostDir::open(temp.path()).unwrap());
    let (cache, recovered) = Cache::adopt(dir, settings.clone(), memory).unwrap();
    assert_eq!(recovered.unsent_bytes, 2 * BLOCK);
    assert_eq!(part(&cache, 0, 0), (Read::Hit, 2), "never flushed, and not lost");
    cache.close().unwrap();
    let dir = Arc::new(HostDir::open(temp.path()).unwrap());
    let (cache, recovered) = Cache::open(dir, settings, &head(2, 0), &|_| ENTRY).unwrap();
    assert_eq!(recovered.unsent_bytes, 2 * BLOCK);
    assert_eq!(part(&cache, 0, 0), (Read::Hit, 2));
    assert_eq!(part(&cache, 0, 15), (Read::Hit, 1));
    assert_eq!(part(&cache, 1, 1), (Read::Hit, 1));
}
