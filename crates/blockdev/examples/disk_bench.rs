//! What the front end costs: direct I/O on a loop device over the FUSE file, against a loop device
//! over a plain file on the same disk. Prints medians; judges nothing.
//!
//! ```text
//! cargo run --release -p sprite-blockdev --example disk_bench -- /var/tmp
//!     [rounds=5] [slots=16] [request_kb=256] [threads=4] [direct=1]
//! ```
//!
//! `direct=1` has our server bypass the page cache too, which compares like with like; with `0`
//! its writes go to memory first, as those of the volume engine do.
#![expect(clippy::unwrap_used, reason = "a failed step ends the measurement")]

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sprite_blockdev::keeper::{self, Client};
use sprite_blockdev::loopdev::{self, Attached};
use sprite_blockdev::testing::FileDevice;
use sprite_blockdev::{Server, Settings};

const LEN: u64 = 512 << 20;
const LIMIT: Duration = Duration::from_secs(20);
/// How long each number is measured.
const RUN: Duration = Duration::from_millis(700);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| -> u64 {
        let text = args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='));
        text.map_or(default, |text| text.parse().unwrap())
    };
    let slots = u16::try_from(number("slots", 16)).unwrap();
    let request_bytes = u32::try_from(number("request_kb", 256) << 10).unwrap();
    let threads = u16::try_from(number("threads", 4)).unwrap();
    let direct = number("direct", 1) != 0;
    match args.first().map(String::as_str) {
        Some("keeper") => {
            let settings = keeper::Settings {
                slots,
                request_bytes,
                ..keeper::Settings::new(Path::new(&args[1]).join("keeper"), LEN)
            };
            keeper::run(&settings).unwrap();
        }
        Some("server") => {
            let dir = Path::new(&args[1]);
            let client = Client::connect_when_ready(&dir.join("keeper"), LIMIT).unwrap();
            let device = FileDevice::new(open(&dir.join("ours"), direct), LEN);
            let settings = Settings { threads, ..Settings::default() };
            let granted = client.take(LIMIT).unwrap();
            let server = Server::start(granted, Arc::new(device), &settings).unwrap();
            while server.wait(LIMIT).is_none() {}
        }
        Some(dir) => {
            compare(Path::new(dir), &args[1..], usize::try_from(number("rounds", 5)).unwrap())
        }
        None => eprintln!(
            "usage: disk_bench FOLDER [rounds=5] [slots=16] [request_kb=256] [threads=4] [direct=1]"
        ),
    }
}

fn open(path: &Path, direct: bool) -> File {
    let flags = if direct { rustix::fs::OFlags::DIRECT.bits().cast_signed() } else { 0 };
    File::options().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// The processes and devices, taken down in order at the end or after a panic.
struct Setup {
    dir: tempfile::TempDir,
    children: Vec<Child>,
    devices: Vec<Attached>,
}

impl Setup {
    fn new(parent: &Path, args: &[String]) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        for name in ["plain", "ours"] {
            let file = File::create(dir.path().join(name)).unwrap();
            (0..LEN >> 20).for_each(|mib| file.write_all_at(&[1; 1 << 20], mib << 20).unwrap());
            file.sync_all().unwrap();
        }
        let mut setup = Self { dir, children: Vec::new(), devices: Vec::new() };
        for role in ["keeper", "server"] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg(role).arg(setup.dir.path()).args(args);
            setup.children.push(command.spawn().unwrap());
        }
        let plain = open(&setup.dir.path().join("plain"), false);
        setup.devices.push(loopdev::attach(plain, false).unwrap());
        let socket = setup.dir.path().join("keeper");
        let mount = Client::connect_when_ready(&socket, LIMIT).unwrap().mount().unwrap();
        setup.devices.push(loopdev::attach(mount.open(false).unwrap(), false).unwrap());
        setup
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        for device in self.devices.drain(..) {
            device.detach(LIMIT).unwrap();
        }
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Shape {
    name: &'static str,
    block: usize,
    jobs: u64,
    write: bool,
    sync: bool,
    random: bool,
}

const fn shape(name: &'static str, block: usize, jobs: u64, write: bool) -> Shape {
    Shape { name, block, jobs, write, sync: false, random: block == 4096 }
}

const SHAPES: [Shape; 8] = [
    shape("4k random read, 1 job", 4096, 1, false),
    shape("4k random read, 16 jobs", 4096, 16, false),
    shape("4k random write, 1 job", 4096, 1, true),
    shape("4k random write, 16 jobs", 4096, 16, true),
    Shape { sync: true, ..shape("4k write + flush, 1 job", 4096, 1, true) },
    Shape { sync: true, ..shape("4k write + flush, 4 jobs", 4096, 4, true) },
    shape("1M sequential read, 2 jobs", 1 << 20, 2, false),
    shape("1M sequential write, 2 jobs", 1 << 20, 2, true),
];

fn compare(parent: &Path, args: &[String], rounds: usize) {
    let setup = Setup::new(parent, args);
    let paths: Vec<PathBuf> = setup.devices.iter().map(|d| d.device().to_owned()).collect();
    println!(
        "{:30} {:>12} {:>12} {:>7}   medians of {rounds}, per second",
        "", "plain loop", "ours", "ratio"
    );
    for shape in &SHAPES {
        let mut found = [vec![], vec![]];
        for round in 0..rounds {
            for (index, path) in paths.iter().enumerate() {
                found[index].push(measure(path, shape, round as u64));
            }
        }
        let [plain, ours] = found.map(median);
        println!("{:30} {plain:12.0} {ours:12.0} {:7.2}", shape.name, ours / plain);
    }
    for (name, child) in ["keeper", "server"].iter().zip(&setup.children) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let lines = status.lines().filter(|line| {
            line.starts_with("Rss") || line.starts_with("VmRSS") || line.starts_with("Threads")
        });
        println!(
            "{name}: {}",
            lines
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Operations per second of `shape` on the device.
fn measure(device: &Path, shape: &Shape, seed: u64) -> f64 {
    let done = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for job in 0..shape.jobs {
            let done = &done;
            scope.spawn(move || {
                let file = open(device, true);
                let mut memory = vec![7; shape.block + 4096];
                let start = memory.as_ptr().align_offset(4096);
                let buffer = &mut memory[start..start + shape.block];
                let blocks = LEN / shape.block as u64;
                let mut random = seed * 1000 + job + 1;
                let mut at = job * (blocks / shape.jobs);
                while started.elapsed() < RUN {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    at = if shape.random { (random >> 33) % blocks } else { (at + 1) % blocks };
                    let offset = at * shape.block as u64;
                    if shape.write {
                        file.write_all_at(buffer, offset).unwrap();
                    } else {
                        file.read_exact_at(buffer, offset).unwrap();
                    }
                    if shape.sync {
                        file.sync_data().unwrap();
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}
