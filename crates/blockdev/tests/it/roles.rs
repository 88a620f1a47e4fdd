//! What this test program is when it is started as a keeper or as a server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sprite_blockdev::keeper::{self, CallError, Client, Ended};
use sprite_blockdev::testing::{Deferred, Faults, FileDevice, Point, Probed, start_with_faults};
use sprite_blockdev::{Device, Done, End, Request, Settings};

/// The variable that says which of the two. Without it the role test does nothing.
pub(crate) const ROLE: &str = "SPRITE_BLOCKDEV_ROLE";
/// The key under which the server leaves its memory with the keeper.
const COUNTER_KEY: u32 = 7;
/// FUSE's number for a write.
const WRITE: u32 = 16;
/// How long anything here may take before a test is considered stuck.
const LIMIT: Duration = Duration::from_secs(60);

fn var<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Not a test: the entry of the other processes.
#[test]
fn entry() {
    let role = std::env::var(ROLE);
    if role.is_err() {
        return;
    }
    // Whatever becomes of the test, its processes end with it.
    let parent = rustix::process::Signal::KILL;
    rustix::process::set_parent_process_death_signal(Some(parent)).unwrap();
    let dir = PathBuf::from(std::env::var("DIR").unwrap());
    match role.unwrap().as_str() {
        "keeper" => keeper(&dir),
        "server" => server(&dir),
        "stranger" => stranger(&dir),
        other => panic!("role {other}"),
    }
}

fn keeper(dir: &Path) {
    let mut settings = keeper::Settings::new(dir.join("keeper"), var("LEN").unwrap());
    if let Some(slots) = var("SLOTS") {
        settings.slots = slots;
    }
    if let Some(request_bytes) = var("REQUEST_BYTES") {
        settings.request_bytes = request_bytes;
    }
    let ended = match var::<u8>("REPLACEMENT") {
        Some(_) => keeper::run_replacement(&settings.socket),
        None => keeper::run(&settings),
    };
    match ended.unwrap() {
        Ended::Stopped => println!("\nkeeper stopped"),
        Ended::Disconnected => println!("\nkeeper disconnected"),
    }
}

fn server(dir: &Path) {
    let len = var("LEN").unwrap();
    let client = Client::connect_when_ready(&dir.join("keeper"), LIMIT).unwrap();
    let mut granted = client.take(LIMIT).unwrap();
    let (count, counter) = count_starts(&mut granted);
    let file = File::options().read(true).write(true).open(dir.join("data")).unwrap();
    let device = Clumsy { device: FileDevice::new(file, len), at: var("PANIC_AT") };
    let device: Arc<dyn Device> = match var("WORKERS") {
        Some(workers) => Arc::new(Deferred::new(device, workers)),
        None => Arc::new(device),
    };
    let settings = Settings { threads: var("THREADS").unwrap_or(4), ..Settings::default() };
    let (incarnation, faults) = (granted.incarnation, faults());
    if var::<u8>("NO_LOCKED_MEMORY").is_some() {
        forbid_locked_memory();
    }
    let mut server = match start_with_faults(granted, device, &settings, faults) {
        Ok(server) => server,
        Err(error) => {
            println!("\nnot started {:?}: {error}", error.kind());
            return;
        }
    };
    let recovery = server.recovery();
    println!(
        "\nserving {incarnation} {count} {} {} {}",
        recovery.executed, recovery.unseen, recovery.answered
    );
    // The parent asks by lines.
    let (sender, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    loop {
        match server.wait(Duration::from_millis(5)) {
            None => {}
            Some(End::Disconnected) => {
                println!("disconnected {}", server.replies_failed());
                return;
            }
            Some(End::Panicked) => {
                println!("panicked");
                return;
            }
            Some(End::Failed(error)) => panic!("{error}"),
        }
        match asked.try_recv().as_deref() {
            Ok("drain") => {
                server.drain(LIMIT).unwrap();
                assert_eq!(server.in_flight(), 0);
                println!("drained {} {}", server.has_keeper(), server.replies_failed());
                return;
            }
            Ok("move") => {
                let client = Client::connect_when_ready(&dir.join("keeper"), LIMIT).unwrap();
                let mut keeping = server.move_to(client).unwrap();
                keeping.deposit(COUNTER_KEY, &counter).unwrap();
                println!("moved");
            }
            Ok(other) => panic!("asked to {other}"),
            Err(_) => {}
        }
    }
}

/// A device that panics at the write to one place.
struct Clumsy {
    device: FileDevice,
    at: Option<u64>,
}

impl Device for Clumsy {
    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn submit(&self, request: Request, done: Done) {
        match request {
            Request::Write { offset, .. } if Some(offset) == self.at => panic!("a bug"),
            request => self.device.submit(request, done),
        }
    }
}

/// Takes from this thread what lets root lock memory.
fn forbid_locked_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();
}

/// Somebody without rights, to whom the way to the socket was left open.
fn stranger(dir: &Path) {
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_uid(nobody).unwrap();
    match Client::connect(&dir.join("keeper"), LIMIT) {
        Err(CallError::Receive(_)) => println!("\nrefused"),
        other => println!("\nnot refused: {other:?}"),
    }
}

/// Counts servers in memory that only the keeper keeps alive.
fn count_starts(granted: &mut keeper::Granted) -> (u64, File) {
    let kept = granted.take_deposit(COUNTER_KEY).map(File::from);
    let memory = kept.unwrap_or_else(|| {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = File::from(rustix::fs::memfd_create("counter", flags).unwrap());
        granted.keeping().unwrap().deposit(COUNTER_KEY, &memory).unwrap();
        memory
    });
    let mut bytes = [0; 8];
    let _ = memory.read_at(&mut bytes, 0).unwrap();
    let count = u64::from_le_bytes(bytes) + 1;
    memory.write_all_at(&count.to_le_bytes(), 0).unwrap();
    (count, memory)
}

/// `KILL_AT=point:permille`: dies there with that chance, seeded by `SEED`.
/// `HOLD_WRITE_AT=offset`: the first write there is answered, and its thread then hangs.
fn faults() -> Faults {
    let kill = std::env::var("KILL_AT").ok().map(|text| {
        let (point, chance) = text.split_once(':').unwrap();
        (point_of(point), chance.parse::<u64>().unwrap())
    });
    let state = AtomicU64::new(var("SEED").unwrap_or(1));
    let hold: Option<u64> = var("HOLD_WRITE_AT");
    let held = AtomicBool::new(false);
    let probe = move |point: Point, probed: Probed| {
        if kill.is_some_and(|(at, chance)| at == point && next(&state) % 1000 < chance) {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            std::thread::sleep(LIMIT);
        }
        if point == Point::Replied
            && probed.opcode == WRITE
            && hold == Some(probed.offset)
            && !held.swap(true, Ordering::SeqCst)
        {
            std::thread::sleep(LIMIT);
        }
    };
    Faults {
        probe: Some(Arc::new(probe)),
        skip_mark: std::env::var("SKIP_MARK").is_ok(),
        absent_pages: std::env::var("ABSENT_PAGES").is_ok(),
    }
}

fn point_of(name: &str) -> Point {
    match name {
        "received" => Point::Received,
        "executed" => Point::Executed,
        "marked" => Point::Marked,
        "replied" => Point::Replied,
        other => panic!("point {other}"),
    }
}

/// A small generator of numbers (splitmix64).
fn next(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
