//! A load that knows what it must read back.
//!
//! Each worker owns blocks of the device and keeps, for each, the number of the last write that
//! was answered. Every 8 bytes of a block say which block and which write, so that old, foreign
//! and mixed content are all seen. Direct I/O: everything reaches the disk.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Blocks per worker.
const BLOCKS: u64 = 8;
/// Length of a block, in bytes; more than one request of the smallest slots.
const BLOCK_BYTES: usize = 256 << 10;

/// Workers that write, flush and read back until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(device: &Path, workers: u64, seed: u64) -> Self {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers = (0..workers)
            .map(|number| {
                let mut worker = Worker::new(device, number, seed);
                let (stop, writes) = (Arc::clone(&stop), Arc::clone(&writes));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        worker.step();
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                    worker.check_all();
                })
            })
            .collect();
        Self { stop, writes, workers }
    }

    /// Waits until so many more steps were done: proof that the disk works.
    pub(crate) fn wait_for_writes(&self, count: u64) {
        let goal = self.writes.load(Ordering::Relaxed) + count;
        sprite_testkit::eventually("the load goes on", || {
            self.workers.iter().all(|worker| !worker.is_finished())
                && self.writes.load(Ordering::Relaxed) >= goal
        });
    }

    /// Stops, and fails if any worker has read anything wrong.
    pub(crate) fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A load of a fixed number of steps.
pub(crate) fn verify_for(device: &Path, steps: u64, workers: u64, seed: u64) {
    std::thread::scope(|scope| {
        for number in 0..workers {
            scope.spawn(move || {
                let mut worker = Worker::new(device, number, seed);
                (0..steps / workers).for_each(|_| worker.step());
                worker.check_all();
            });
        }
    });
}

/// Memory whose address direct I/O accepts.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    offset: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + 4096];
        let offset = bytes.as_ptr().align_offset(4096);
        Self { bytes, offset, len }
    }

    pub(crate) fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.offset..self.offset + self.len]
    }
}

pub(crate) fn open_direct(device: &Path) -> File {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().read(true).write(true).custom_flags(direct).open(device).unwrap()
}

struct Worker {
    device: File,
    first: u64,
    /// Per block: the last write answered.
    written: [u64; BLOCKS as usize],
    sequence: u64,
    random: u64,
    buffer: Aligned,
}

impl Worker {
    fn new(device: &Path, number: u64, seed: u64) -> Self {
        Self {
            device: open_direct(device),
            first: number * BLOCKS,
            written: [0; BLOCKS as usize],
            sequence: 0,
            random: seed.wrapping_mul(1000) + number,
            buffer: Aligned::new(BLOCK_BYTES),
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    /// A write, sometimes a flush, sometimes a check. Mostly of one block, over and over: that is
    /// where a write that is executed twice does its harm.
    fn step(&mut self) {
        let block = if self.random().is_multiple_of(4) { self.random() % BLOCKS } else { 0 };
        self.sequence += 1;
        let word = (self.first + block) << 48 | self.sequence;
        for chunk in self.buffer.get().chunks_exact_mut(8) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let offset = (self.first + block) * BLOCK_BYTES as u64;
        self.device.write_all_at(self.buffer.get(), offset).unwrap();
        self.written[usize::try_from(block).unwrap()] = self.sequence;
        if self.random().is_multiple_of(8) {
            self.device.sync_data().unwrap();
        }
        if self.random().is_multiple_of(2) {
            self.check(block);
        }
    }

    fn check(&mut self, block: u64) {
        let offset = (self.first + block) * BLOCK_BYTES as u64;
        self.device.read_exact_at(self.buffer.get(), offset).unwrap();
        let sequence = self.written[usize::try_from(block).unwrap()];
        let word = if sequence == 0 { return } else { (self.first + block) << 48 | sequence };
        for (index, chunk) in self.buffer.get().chunks_exact(8).enumerate() {
            let found = u64::from_le_bytes(chunk.try_into().unwrap());
            assert!(found == word, "block {block} byte {}: {found:x}, not {word:x}", index * 8);
        }
    }

    fn check_all(&mut self) {
        (0..BLOCKS).for_each(|block| self.check(block));
    }
}

/// A pause of `from..to` milliseconds, by seed and number.
pub(crate) fn pause_ms(seed: u64, number: u64, from: u64, to: u64) -> Duration {
    let mixed = (seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .wrapping_mul(0x94D0_49BB_1331_11EB);
    Duration::from_millis(from + (mixed >> 32) % (to - from))
}
