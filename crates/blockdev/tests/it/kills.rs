//! Servers that die at random moments and at chosen points.

use crate::load::{Load, pause_ms};
use crate::world::{World, can_run, count};

const LEN: u64 = 256 << 20;
const SEED: u64 = 0x5EED;

/// The promise of this crate: no error and no wrong byte, whenever the server dies.
fn killed_at_random(vars: &[(&'static str, &str)]) {
    let kills = count(15);
    println!("seed {SEED:#x}, {kills} kills");
    let mut world = World::attached(LEN, vars);
    let load = Load::start(world.device(), 4, SEED);
    let (mut executed, mut answered) = (0, 0);
    for number in 0..kills {
        std::thread::sleep(pause_ms(SEED, number, 5, 120));
        world.server.as_mut().unwrap().kill();
        let serving = world.serve(&[]);
        assert_eq!((u64::from(serving.incarnation), serving.starts), (number + 2, number + 2));
        executed += serving.executed;
        answered += serving.answered;
        load.wait_for_writes(4);
    }
    load.finish();
    println!("recovered: {executed} executed, {answered} answered");
    assert!(kills < 10 || executed > 0, "no kill has hit a request: the test shows nothing");
    world.finish();
}

#[test]
fn a_server_killed_at_random_moments_is_not_noticed() {
    if can_run() {
        killed_at_random(&[]);
    }
}

#[test]
fn a_server_that_answers_from_other_threads_is_killed_and_not_noticed() {
    if can_run() {
        killed_at_random(&[("THREADS", "2"), ("WORKERS", "4"), ("SLOTS", "10")]);
    }
}

/// The same below a file system that is being filled.
#[test]
fn a_file_system_survives_kills_of_the_server() {
    if !can_run() {
        return;
    }
    let kills = count(15);
    println!("seed {SEED:#x}, {kills} kills");
    let mut world = World::attached(LEN, &[]);
    let folder = world.mount_ext4();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let folder = &folder;
        let writer = scope.spawn(move || {
            let mut rounds = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || rounds < 3 {
                write_files(&folder.join((rounds % 4).to_string()), rounds);
                rounds += 1;
            }
            rounds
        });
        for number in 0..kills {
            std::thread::sleep(pause_ms(SEED, number, 5, 120));
            world.server.as_mut().unwrap().kill();
            world.serve(&[]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let rounds = writer.join().unwrap();
        for kept in rounds - 3..rounds {
            check_files(&folder.join((kept % 4).to_string()), kept);
        }
    });
    world.unmount_ext4().unwrap();
    world.fsck();
    world.finish();
}

fn content(round: u64, number: u64) -> Vec<u8> {
    (round << 16 | number).to_le_bytes().repeat(usize::try_from(number % 13 + 1).unwrap() * 700)
}

fn write_files(folder: &std::path::Path, round: u64) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder).unwrap();
    for number in 0..60 {
        let path = folder.join(number.to_string());
        std::fs::write(&path, content(round, number)).unwrap();
        if number % 10 == 0 {
            std::fs::File::open(&path).unwrap().sync_all().unwrap();
        }
    }
}

fn check_files(folder: &std::path::Path, round: u64) {
    for number in 0..60 {
        let found = std::fs::read(folder.join(number.to_string())).unwrap();
        assert!(found == content(round, number), "round {round}, file {number}");
    }
}

/// Each of the moments between the kernel's delivery and the freed slot, many times over.
fn killed_at(point: &str) {
    let deaths_wanted = count(12);
    let mut world = World::attached(LEN, &[]);
    world.server.as_mut().unwrap().kill();
    let kill_at = format!("{point}:30");
    let load = Load::start(world.device(), 4, SEED);
    let (mut executed, mut unseen, mut answered) = (0, 0, 0);
    for death in 0..deaths_wanted {
        let seed = (SEED + death * 7).to_string();
        let mut server = world.start("server", &[("KILL_AT", &kill_at), ("SEED", &seed)]);
        // It may die while it recovers; that is a case too.
        if let Some(serving) = server.serving() {
            executed += serving.executed;
            unseen += serving.unseen;
            answered += serving.answered;
        }
        server.wait_end();
    }
    let serving = world.serve(&[]);
    executed += serving.executed;
    unseen += serving.unseen;
    answered += serving.answered;
    load.wait_for_writes(20);
    load.finish();
    println!("{point}: {executed} executed ({unseen} unseen), {answered} answered");
    match point {
        "received" => assert!(unseen > 0, "no request was found in a slot still marked as empty"),
        "executed" => assert!(executed > 0, "no request was executed again"),
        _ => assert!(answered > 0, "no request was only answered again"),
    }
    world.finish();
}

#[test]
fn a_request_delivered_and_not_noticed_is_executed() {
    if can_run() {
        killed_at("received");
    }
}

#[test]
fn a_request_executed_and_not_marked_is_executed_again() {
    if can_run() {
        killed_at("executed");
    }
}

#[test]
fn a_request_marked_and_not_answered_is_answered() {
    if can_run() {
        killed_at("marked");
    }
}

#[test]
fn a_request_answered_and_not_freed_is_not_executed_again() {
    if can_run() {
        killed_at("replied");
    }
}
