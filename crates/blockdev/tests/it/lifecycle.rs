//! From the first server to the last, without accidents.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use sprite_blockdev::keeper::{CallError, Refusal};
use sprite_blockdev::loopdev::{self, Backing, LoopError};

use crate::world::{LIMIT, World, can_run, read_sys, run, text};

const LEN: u64 = 256 << 20;

#[test]
fn a_file_system_on_the_disk_keeps_a_tree() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let folder = world.mount_ext4();
    let source = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo test");
    let source = Path::new(&source).join("..");
    let copy = folder.join("tree");
    run("cp", &["-a", source.to_str().unwrap()], &copy);
    world.unmount_ext4().unwrap();
    world.fsck();
    rustix::mount::mount(world.device(), &folder, "ext4", rustix::mount::MountFlags::RDONLY, None)
        .unwrap();
    let diff = Command::new("diff").arg("-r").args([&source, &copy]).output();
    rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::empty()).unwrap();
    let diff = diff.unwrap();
    assert!(diff.status.success(), "{}", text(&diff));
    world.finish();
}

#[test]
fn the_device_is_direct_has_4k_blocks_and_says_nothing_of_its_file() {
    if !can_run() {
        return;
    }
    let world = World::attached(LEN, &[]);
    let device = world.device();
    assert_eq!(read_sys(device, "loop/dio"), "1");
    assert_eq!(read_sys(device, "loop/autoclear"), "0");
    assert_eq!(read_sys(device, "queue/logical_block_size"), "4096");
    assert_eq!(read_sys(device, "queue/discard_granularity"), "65536");
    assert_eq!(read_sys(device, "loop/backing_file"), "/disk");
    assert_eq!(read_sys(device, "size"), (LEN / 512).to_string());
    world.finish();
}

#[test]
fn a_disk_has_one_device_which_is_found_again() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let again = loopdev::attach(world.open(false), false).unwrap_err();
    assert!(matches!(again, LoopError::Attached), "{again}");
    // A supervisor that was restarted knows only the disk.
    let forgotten = world.attached.take().unwrap();
    let device = forgotten.device().to_owned();
    drop(forgotten);
    let found = loopdev::find(backing(&world)).unwrap().unwrap();
    assert_eq!(found.device(), device);
    found.detach(LIMIT).unwrap();
    assert!(loopdev::find(backing(&world)).unwrap().is_none());
    world.attach(true);
    assert_eq!(read_sys(world.device(), "ro"), "1");
    world.finish();
}

fn backing(world: &World) -> Backing {
    let backing = world.mount.as_ref().unwrap().backing().unwrap();
    assert_eq!(backing, Backing::of(&world.open(true)).unwrap());
    backing
}

/// A supervisor that starts after an accident looks around before it starts servers.
#[test]
fn a_device_is_found_and_detached_while_nobody_serves() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    crate::load::verify_for(world.device(), 20, 2, 7);
    world.server.as_mut().unwrap().kill();
    let device = world.attached.take().unwrap().device().to_owned();
    let mount = world.client().mount().unwrap();
    assert_eq!(mount.connection().unwrap(), world.mount.as_ref().unwrap().connection().unwrap());
    let found = loopdev::find(mount.backing().unwrap()).unwrap().unwrap();
    assert_eq!(found.device(), device);
    found.detach(LIMIT).unwrap();
    world.serve(&[]);
    world.finish();
}

#[test]
fn a_device_in_use_is_detached_with_its_last_user() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let user = File::open(world.device()).unwrap();
    let attached = world.attached.take().unwrap();
    let busy = attached.detach(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(busy, LoopError::Busy { .. }), "{busy}");
    drop(user);
    sprite_testkit::eventually("the device is free", || {
        loopdev::find(backing(&world)).unwrap().is_none()
    });
    world.attach(false);
    world.finish();
}

#[test]
fn zeroed_and_discarded_ranges_read_as_zeroes_and_free_space() {
    if !can_run() {
        return;
    }
    let world = World::attached(LEN, &[]);
    let device = File::options().read(true).write(true).open(world.device()).unwrap();
    device.write_all_at(&[0xab; 1 << 20], 0).unwrap();
    device.sync_all().unwrap();
    let before = blocks(&world.data());
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&device, punch, 65536, 131_072).unwrap();
    let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    fallocate(&device, zero, 512 << 10, 4096).unwrap();
    device.sync_all().unwrap();
    let mut expected = vec![0xab; 1 << 20];
    expected[65536..196_608].fill(0);
    expected[512 << 10..(512 << 10) + 4096].fill(0);
    assert!(fs::read(world.data()).unwrap()[..1 << 20] == expected[..], "the data differ");
    assert!(blocks(&world.data()) <= before - 131_072 / 512);
    drop(device);
    world.finish();
}

/// What `fstrim` on a sprite's disk comes to: space of deleted files is given back.
#[test]
fn trimming_a_file_system_frees_space() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let folder = world.mount_ext4();
    let file = folder.join("file");
    fs::write(&file, vec![0xcd; 16 << 20]).unwrap();
    rustix::fs::syncfs(File::open(&folder).unwrap()).unwrap();
    let full = blocks(&world.data());
    fs::remove_file(&file).unwrap();
    rustix::fs::syncfs(File::open(&folder).unwrap()).unwrap();
    run("fstrim", &[], &folder);
    let freed = full.saturating_sub(blocks(&world.data())) * 512;
    assert!(freed >= 15 << 20, "{freed} bytes freed of 16 MiB");
    world.unmount_ext4().unwrap();
    world.fsck();
    world.finish();
}

fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks()
}

/// Whoever opens the file itself may ask for anything.
#[test]
fn odd_requests_on_the_file_are_refused_or_cut() {
    if !can_run() {
        return;
    }
    let mut world = World::new(LEN, &[]);
    world.serve(&[]);
    let file = world.open(false);
    assert_eq!(file.metadata().unwrap().len(), LEN);
    file.write_all_at(&[1; 4096], LEN - 4096).unwrap();
    let mut buffer = vec![9; 8192];
    assert_eq!(file.read_at(&mut buffer, LEN - 4096).unwrap(), 4096);
    assert!(buffer[..4096].iter().all(|byte| *byte == 1));
    assert_eq!(file.read_at(&mut buffer, LEN).unwrap(), 0);
    let errno = |result: std::io::Result<usize>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(errno(file.read_at(&mut buffer[..100], 0)), libc::EINVAL);
    assert_eq!(errno(file.write_at(&buffer, LEN - 4096)), libc::EFBIG);
    assert_eq!(errno(file.write_at(&buffer[..10], 5)), libc::EINVAL);
    assert!(file.set_len(1 << 20).is_err());
    let error = fallocate(&file, FallocateFlags::empty(), 0, 4096).unwrap_err();
    assert_eq!(error, rustix::io::Errno::OPNOTSUPP);
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    world.finish();
}

/// A device that answers later, from other threads, with more requests than readers.
#[test]
fn answers_may_come_later_and_from_elsewhere() {
    if !can_run() {
        return;
    }
    // The second has more requests than slots: threads wait for one before they read.
    for (workers, slots) in [("6", "12"), ("1", "3")] {
        let vars = [("THREADS", "2"), ("WORKERS", workers), ("SLOTS", slots)];
        let mut world = World::attached(LEN, &vars);
        crate::load::verify_for(world.device(), 300, 8, 1);
        world.mount_ext4();
        world.unmount_ext4().unwrap();
        world.fsck();
        world.finish();
    }
}

#[test]
fn a_planned_change_of_servers_loses_nothing_and_repeats_nothing() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[("WORKERS", "3"), ("THREADS", "2")]);
    let load = crate::load::Load::start(world.device(), 4, 2);
    for round in 2..6 {
        load.wait_for_writes(40);
        let successor = world.start("server", &[]);
        sprite_testkit::eventually("a successor waits", || {
            world.client().status().unwrap().waiting
        });
        let drained = world.server.take().unwrap().drain();
        assert_eq!(drained, "drained true 0");
        let serving = successor.serving().unwrap();
        assert_eq!((u64::from(serving.incarnation), serving.starts), (round, round));
        assert_eq!((serving.executed, serving.answered), (0, 0), "something was left behind");
        world.server = Some(successor);
    }
    load.finish();
    world.finish();
}

#[test]
fn one_successor_waits_and_the_disk_is_not_given_up_while_served() {
    if !can_run() {
        return;
    }
    let mut world = World::new(LEN, &[]);
    world.serve(&[]);
    let refused = world.client().stop().unwrap_err();
    assert!(matches!(refused, CallError::Refused(Refusal::Busy)), "{refused}");
    let successor = world.start("server", &[]);
    sprite_testkit::eventually("a successor waits", || world.client().status().unwrap().waiting);
    let refused = world.client().take(LIMIT).unwrap_err();
    assert!(matches!(refused, CallError::Refused(Refusal::Busy)), "{refused}");
    let status = world.client().status().unwrap();
    assert_eq!(status.server_pid, Some(world.server.as_ref().unwrap().pid()));
    assert!(status.connected);
    world.server.as_mut().unwrap().kill();
    assert_eq!(successor.serving().unwrap().incarnation, 2);
    world.server = Some(successor);
    world.finish();
}

/// The disk's owner must learn of it before the next accident.
#[test]
fn a_server_serves_on_without_its_keeper_and_knows() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let load = crate::load::Load::start(world.device(), 4, 3);
    load.wait_for_writes(20);
    world.keeper.as_mut().unwrap().kill();
    load.wait_for_writes(100);
    load.finish();
    world.detach();
    world.mount = None;
    assert_eq!(world.server.take().unwrap().drain(), "drained false 0");
}

/// The server has copies of all that its keeper had, and gives them to the next.
#[test]
fn a_lost_keeper_is_replaced_while_the_disk_is_in_use() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let load = crate::load::Load::start(world.device(), 4, 5);
    load.wait_for_writes(20);
    let folder = world.mount.as_ref().unwrap().connection().unwrap();
    world.keeper.as_mut().unwrap().kill();
    // The socket that the dead keeper left does not stand in the way.
    world.keeper = Some(world.start("keeper", &[("REPLACEMENT", "1")]));
    world.server.as_mut().unwrap().move_to_keeper();
    let status = world.client().status().unwrap();
    assert_eq!(status.server_pid, Some(world.server.as_ref().unwrap().pid()));
    assert!(status.connected);
    assert_eq!(world.client().mount().unwrap().connection().unwrap(), folder);
    for round in 2..4 {
        load.wait_for_writes(20);
        world.server.as_mut().unwrap().kill();
        let serving = world.serve(&[]);
        assert_eq!((serving.incarnation, serving.starts), (round, round.into()));
    }
    load.finish();
    world.finish();
}

/// Without keeper and server nobody can ever answer: everything fails at once, and goes away.
#[test]
fn without_keeper_and_server_the_device_fails_and_unmounts() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let folder = world.mount_ext4();
    fs::write(folder.join("file"), vec![1; 1 << 20]).unwrap();
    world.keeper.as_mut().unwrap().kill();
    world.server.as_mut().unwrap().kill();
    let file = File::create(folder.join("late")).and_then(|file| {
        file.write_all_at(&[2; 65536], 0)?;
        file.sync_all()
    });
    assert_eq!(file.unwrap_err().raw_os_error(), Some(libc::EIO));
    // What it says is the file system's business; that it returns is ours.
    let _ = world.unmount_ext4();
    world.mount = None;
    world.detach();
}

/// An operator's way out of a disk that hangs.
#[test]
fn an_aborted_connection_ends_server_and_keeper() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    world.abort();
    assert_eq!(world.server.as_ref().unwrap().line("disc").unwrap(), "disconnected 0");
    assert_eq!(world.keeper.as_ref().unwrap().line("keeper").unwrap(), "keeper disconnected");
    let mut byte = [0; 4096];
    assert!(File::open(world.device()).unwrap().read_exact_at(&mut byte, 0).is_err());
    world.detach();
}

#[test]
fn a_keeper_does_nothing_while_the_disk_is_used_and_is_small() {
    if !can_run() {
        return;
    }
    let world = World::attached(LEN, &[]);
    let pid = world.keeper.as_ref().unwrap().pid();
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |name: &str| -> u64 {
        let text = status();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let switches = number("voluntary_ctxt_switches:");
    crate::load::verify_for(world.device(), 200, 4, 4);
    assert_eq!(number("voluntary_ctxt_switches:"), switches, "requests wake the keeper");
    assert_eq!(number("Threads:"), 2, "one is the test harness's, one the keeper");
    // This program is larger than a keeper would be, but only in pages of its file.
    assert!(number("RssAnon:") + number("RssShmem:") < 1024, "{}", status());
    world.finish();
}

/// Every page of every slot must be present and locked in the server: see the test that leaves
/// them absent.
#[test]
fn the_slots_are_locked_into_the_servers_memory() {
    if !can_run() {
        return;
    }
    let world = World::attached(LEN, &[("SLOTS", "9"), ("REQUEST_BYTES", "131072")]);
    let slots_kb = (4096 + 9 * (4096 + 131_072)) / 1024;
    assert_eq!(slots_memory(&world), (slots_kb, slots_kb, slots_kb));
    world.finish();
}

/// Size, present and locked memory of the slots in the server, in KiB.
pub(crate) fn slots_memory(world: &World) -> (u64, u64, u64) {
    let pid = world.server.as_ref().unwrap().pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mapping = maps.split("memfd:sprite-slots").nth(1).unwrap();
    let number = |name: &str| -> u64 {
        let line = mapping.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (number("Size:"), number("Rss:"), number("Locked:"))
}
