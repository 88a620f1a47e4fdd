//! Prints what a block map costs: `cargo run --release -p sprite-blockmap --example measure`.
//!
//! An argument is for how many seconds to write in the last part; the default is 4 hours.
//! Bytes are those of LTX files: the pages that a transaction changed, each as an LZ4 block,
//! and what surrounds them. Times are medians and 99th percentiles on a warm cache.
#![expect(clippy::unwrap_used, reason = "a failed step ends the measurement")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sprite_blockmap::{
    BlockMap, Codec, Delta, EXPIRY_WAIT, Entry, EpochCommit, Keep, Mark, Pack, PackId, Window,
    to_expire,
};
use sprite_types::{BlockIndex, Epoch, Timestamp};

/// 100 GiB.
const FULL: u32 = 1_638_400;
const START: i64 = 1_790_000_000_000_000;
const PACK_BLOCKS: u32 = 200;

fn at(second: u64) -> Timestamp {
    Timestamp::from_micros(START + second as i64 * 1_000_000)
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Sums what transactions put into the WAL.
#[derive(Default)]
struct Meter {
    offset: u64,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    frames: u64,
    ltx: u64,
}

impl Meter {
    /// Returns what came since the last call, as one LTX file.
    fn take(&mut self, map: &BlockMap) -> Cost {
        let Ok(wal) = File::open(wal(map.path())) else { return Cost::default() };
        let end = wal.metadata().unwrap().len();
        self.offset = self.offset.max(32);
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut frames = 0;
        while self.offset < end {
            let mut frame = vec![0; 24 + 4096];
            wal.read_exact_at(&mut frame, self.offset).unwrap();
            let page = u32::from_be_bytes(frame[..4].try_into().unwrap());
            pages.insert(page, frame.split_off(24));
            self.offset += 24 + 4096;
            frames += 1;
        }
        if frames == 0 {
            return Cost::default();
        }
        let page_bytes = pages.values().map(|page| lz4_flex::block::compress(page).len() + 10 + 7);
        let ltx = page_bytes.sum::<usize>() as u64 + 100 + 6 + 8 + 16;
        Cost { frames, ltx }
    }

    fn empty(&mut self, map: &mut BlockMap) {
        map.truncate_wal().unwrap();
        self.offset = 0;
    }
}

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Makes an entry behind the one that ends at `offset`.
fn entry(rng: &mut Rng, pack: PackId, offset: u32) -> Entry {
    let len = 20_000 + (rng.next() % 20_000) as u32;
    Entry::new(pack, offset, len, Codec::Zstd, rng.next() as u32).unwrap()
}

/// Commits the blocks as one epoch, in packs of 200.
fn commit(map: &mut BlockMap, rng: &mut Rng, blocks: &[u32], time: Timestamp) -> Epoch {
    let (mut delta, mut packs) = (Delta::new(), Vec::new());
    for chunk in blocks.chunks(PACK_BLOCKS as usize) {
        let id = map.allocate_pack().unwrap();
        let key = format!("packs/{:016x}/01{:024}.pack", 1, rng.next());
        packs.push(Pack {
            id,
            owner: "vol-aaaaaaaaaaaaaaaa".parse().unwrap(),
            key,
            bytes: 8 << 20,
        });
        let mut offset = 0;
        for block in chunk {
            let entry = entry(rng, id, offset);
            offset += entry.len();
            delta.set(BlockIndex(*block), entry);
        }
    }
    map.commit(EpochCommit { time: Some(time), delta, packs, ..EpochCommit::default() }).unwrap()
}

/// Returns blocks in the order in which they are packed.
fn random_blocks(rng: &mut Rng, blocks: u32, count: usize) -> Vec<u32> {
    let mut found: Vec<u32> = (0..count).map(|_| (rng.next() % u64::from(blocks)) as u32).collect();
    found.sort_unstable();
    found
}

/// Makes a folded map of `mapped` blocks on a disk of 100 GiB.
fn filled(path: &Path, mapped: u32, rng: &mut Rng) -> BlockMap {
    let mut map = BlockMap::create(path, FULL, at(0)).unwrap();
    let blocks: Vec<u32> = (0..mapped).collect();
    for chunk in blocks.chunks(64 * PACK_BLOCKS as usize) {
        commit(&mut map, rng, chunk, at(0));
    }
    map.fold().unwrap();
    let older: Vec<Epoch> =
        map.history().map(|info| info.epoch).filter(|epoch| *epoch != map.head()).collect();
    map.expire(&older, at(0)).unwrap();
    map.prune(&older, at(EXPIRY_WAIT.as_secs())).unwrap();
    map.sweep().unwrap();
    map.truncate_wal().unwrap();
    map
}

/// Prints median and 99th percentile.
fn report(what: &str, mut times: Vec<Duration>, cost: Cost) {
    times.sort();
    let p50 = times[times.len() / 2];
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let count = times.len() as u64;
    println!(
        "  {what:<44} p50 {:>9.3} ms  p99 {:>9.3} ms  LTX {:>9} B  WAL {:>6} frames",
        p50.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3,
        cost.ltx / count,
        cost.frames / count,
    );
}

/// Runs `operation` `count` times and reports it.
fn measure(
    what: &str,
    count: u64,
    meter: &mut Meter,
    map: &mut BlockMap,
    mut operation: impl FnMut(&mut BlockMap, u64),
) {
    meter.take(map);
    let (mut times, mut total) = (Vec::new(), Cost::default());
    for i in 0..count {
        let started = Instant::now();
        operation(map, i);
        times.push(started.elapsed());
        let cost = meter.take(map);
        total = Cost { frames: total.frames + cost.frames, ltx: total.ltx + cost.ltx };
    }
    report(what, times, total);
}

/// Resident memory in MB.
fn resident_mb() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1e6
}

/// Returns how much a fresh process grows that opens the map. This one has memory to reuse.
fn opened_resident_mb(path: &Path) -> f64 {
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me).arg("open").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn operations(dir: &Path, name: &str, mapped: u32) {
    let mut rng = Rng(1);
    let path = dir.join(format!("{name}.db"));
    drop(filled(&path, mapped, &mut rng));
    let size = fs::metadata(&path).unwrap().len();
    let pages = fs::read(&path).unwrap();
    let pages = pages.chunks(4096).map(|page| lz4_flex::block::compress(page).len() + 17);
    let snapshot: usize = pages.sum();
    let resident = opened_resident_mb(&path);
    let started = Instant::now();
    let mut map = BlockMap::open(&path).unwrap();
    println!(
        "{name}: {mapped} blocks mapped, file {:.1} MB (as LTX {:.1}), opened in {:.1} ms, table {:.1} MB, \
         a process that opens it grows by {resident:.1} MB",
        size as f64 / 1e6,
        snapshot as f64 / 1e6,
        started.elapsed().as_secs_f64() * 1e3,
        map.head_memory() as f64 / 1e6,
    );
    let mut meter = Meter::default();
    let mut second = 1000;
    let mut tick = || {
        second += 1;
        at(second)
    };
    for count in [1, 16, 256] {
        let what = format!("commit {count} random blocks");
        measure(&what, 200, &mut meter, &mut map, |map, _| {
            let blocks = random_blocks(&mut rng, mapped, count);
            commit(map, &mut rng, &blocks, tick());
        });
    }
    let named = Mark { keep: Keep::Named, ..Mark::default() };
    measure("checkpoint", 200, &mut meter, &mut map, |map, _| {
        map.checkpoint(Some(tick()), named.clone()).unwrap();
    });
    measure("fork root", 50, &mut meter, &mut map, |map, _| {
        black_box(map.fork_root(map.head()).unwrap());
    });
    let epochs: Vec<Epoch> = map.history().map(|info| info.epoch).collect();
    let oldest = epochs[0];
    let recent = *epochs.iter().rev().nth(260).unwrap();
    measure("restore a moment before 60 x 256 blocks", 11, &mut meter, &mut map, |map, _| {
        black_box(map.restore(recent, Some(tick()), Mark::default()).unwrap());
    });
    measure("restore before all these, and back", 11, &mut meter, &mut map, |map, _| {
        let head = map.head();
        black_box(map.restore(oldest, Some(tick()), Mark::default()).unwrap());
        black_box(map.restore(head, Some(tick()), Mark::default()).unwrap());
    });
    measure("state at an epoch, one lookup", 11, &mut meter, &mut map, |map, i| {
        let view = map.state_at(recent).unwrap();
        black_box(view.lookup(BlockIndex(i as u32)).unwrap());
    });
    let blocks = random_blocks(&mut rng, mapped, 1_000_000);
    let started = Instant::now();
    let mut at = 0;
    for _ in 0..blocks.len() {
        at = (at + 700_001) % blocks.len();
        let block = &blocks[at];
        black_box(map.lookup(BlockIndex(*block)));
    }
    let each = started.elapsed().as_secs_f64() * 1e9 / blocks.len() as f64;
    println!("  lookup in the newest state: {each:.0} ns");

    meter.empty(&mut map);
    let copy = dir.join("copy.db");
    let mut times = Vec::new();
    for _ in 0..5 {
        fs::copy(&path, &copy).unwrap();
        let started = Instant::now();
        let child = BlockMap::open_fork(&copy, recent, tick()).unwrap();
        times.push(started.elapsed());
        drop(child);
        fs::remove_file(&copy).unwrap();
        fs::remove_file(wal(&copy)).unwrap();
    }
    report("open a copy as a fork (open included)", times, Cost::default());
    let mut times = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        drop(map.create_fork(&copy, recent, tick()).unwrap());
        times.push(started.elapsed());
        fs::remove_file(&copy).unwrap();
        fs::remove_file(wal(&copy)).unwrap();
    }
    report("write a map of its own for a fork", times, Cost::default());
    measure("reachable packs", 3, &mut meter, &mut map, |map, _| {
        black_box(map.reachable_packs().unwrap());
    });
    measure("verify", 1, &mut meter, &mut map, |map, _| assert_eq!(map.verify().unwrap(), []));
    let before = map.head();
    measure("fold", 1, &mut meter, &mut map, |map, _| map.fold().unwrap());
    meter.empty(&mut map);
    measure("restore across a fold, and back", 5, &mut meter, &mut map, |map, _| {
        let head = map.head();
        black_box(map.restore(oldest, Some(tick()), Mark::default()).unwrap());
        black_box(map.restore(head, Some(tick()), Mark::default()).unwrap());
    });
    assert_eq!(map.verify().unwrap(), []);
    assert!(before < map.head());
}

/// Writes for hours: one epoch a second of 256 blocks (1 MiB of 4 KiB writes), with the upkeep.
fn hours(dir: &Path, what: &str, seconds: u64, mut blocks: impl FnMut(&mut Rng, u64) -> Vec<u32>) {
    let mut rng = Rng(2);
    let path = dir.join("hours.db");
    let mut map = filled(&path, FULL, &mut rng);
    let mut meter = Meter::default();
    let (mut costs, mut slowest): (BTreeMap<&str, Cost>, BTreeMap<&str, Duration>) =
        Default::default();
    let mut folds = 0;
    let window = Window::default();
    for second in 0..seconds {
        let now = at(10_000 + second);
        let mut step =
            |name: &'static str, map: &mut BlockMap, run: &mut dyn FnMut(&mut BlockMap)| {
                let started = Instant::now();
                run(map);
                let slow = slowest.entry(name).or_default();
                *slow = started.elapsed().max(*slow);
                let cost = meter.take(map);
                let sum = costs.entry(name).or_default();
                *sum = Cost { frames: sum.frames + cost.frames, ltx: sum.ltx + cost.ltx };
                if meter.offset > 64 << 20 {
                    meter.empty(map);
                }
            };
        let blocks = blocks(&mut rng, second);
        step("commit", &mut map, &mut |map| {
            commit(map, &mut rng, &blocks, now);
        });
        if map.fold_due().unwrap() {
            folds += 1;
            step("fold", &mut map, &mut |map| map.fold().unwrap());
        }
        if second % 60 == 59 {
            step("expire", &mut map, &mut |map| {
                let gone = to_expire(&map.moments(), now, &window);
                map.expire(&gone, now).unwrap();
            });
            step("prune", &mut map, &mut |map| {
                let ripe = |since: Option<Timestamp>| {
                    since.is_some_and(|since| now.since(since) >= EXPIRY_WAIT)
                };
                let gone: Vec<Epoch> = map
                    .history()
                    .filter(|info| ripe(info.expiring))
                    .map(|info| info.epoch)
                    .collect();
                map.prune(&gone, now).unwrap();
            });
        }
        if second % 3600 == 3599 {
            step("sweep", &mut map, &mut |map| {
                map.sweep().unwrap();
            });
        }
    }
    meter.empty(&mut map);
    let total: u64 = costs.values().map(|cost| cost.ltx).sum();
    println!(
        "{what}: {seconds} epochs, {folds} folds, {} epochs kept, file {:.1} MB; LTX bytes per \
         epoch {}",
        map.history().count(),
        fs::metadata(&path).unwrap().len() as f64 / 1e6,
        total / seconds,
    );
    for (name, cost) in costs {
        println!(
            "  {name:<8} {:>7} B per epoch, slowest {:>8.1} ms",
            cost.ltx / seconds,
            slowest[name].as_secs_f64() * 1e3
        );
    }
    drop(map);
    let started = Instant::now();
    let map = BlockMap::open(&path).unwrap();
    println!("  opened in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(map.verify().unwrap(), []);
    drop(map);
    fs::remove_file(&path).unwrap();
    let _ = fs::remove_file(wal(&path));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, path] = &arguments[..]
        && command == "open"
    {
        let before = resident_mb();
        let map = BlockMap::open(Path::new(path)).unwrap();
        println!("{}", resident_mb() - before);
        drop(map);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    operations(dir.path(), "full", FULL);
    operations(dir.path(), "two percent", FULL / 50);
    let seconds = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(4 * 3600);
    hours(dir.path(), "scattered over a full disk", seconds, |rng, _| {
        random_blocks(rng, FULL, 256)
    });
    hours(dir.path(), "scattered over 10 GB of a full disk", seconds, |rng, _| {
        random_blocks(rng, FULL / 10, 256)
    });
    hours(dir.path(), "in sequence over a full disk", seconds, |_, second| {
        let first = second as u32 * 256 % (FULL - 256);
        (first..first + 256).collect()
    });
}
