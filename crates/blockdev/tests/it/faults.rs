//! The rules are there for a reason: a server that breaks one is found out.

use std::os::unix::fs::FileExt;

use crate::lifecycle::slots_memory;
use crate::load::{Aligned, open_direct};
use crate::world::{World, can_run};

const LEN: u64 = 64 << 20;
const PLACE: u64 = 1 << 20;

/// Writes 1, which is answered and whose thread then hangs, then 2 to the same place, kills the
/// server and reads what its successor has made of it.
fn read_after_answered_write(vars: &[(&str, &str)]) -> u8 {
    let mut world = World::attached(LEN, &[]);
    world.server.as_mut().unwrap().kill();
    let place = PLACE.to_string();
    let vars: Vec<_> = vars.iter().copied().chain([("HOLD_WRITE_AT", place.as_str())]).collect();
    world.serve(&vars);
    let device = open_direct(world.device());
    let mut buffer = Aligned::new(4096);
    for content in [1, 2] {
        buffer.get().fill(content);
        device.write_all_at(buffer.get(), PLACE).unwrap();
    }
    world.server.as_mut().unwrap().kill();
    world.serve(&[]);
    buffer.get().fill(9);
    device.read_exact_at(buffer.get(), PLACE).unwrap();
    let found = buffer.get()[0];
    assert!(buffer.get().iter().all(|byte| *byte == found));
    drop(device);
    world.finish();
    found
}

#[test]
fn a_write_that_was_answered_is_not_executed_over_a_later_one() {
    if can_run() {
        assert_eq!(read_after_answered_write(&[]), 2);
    }
}

#[test]
fn without_the_mark_the_answered_write_comes_back() {
    if can_run() {
        assert_eq!(read_after_answered_write(&[("SKIP_MARK", "1")]), 1);
    }
}

/// An absent page makes the kernel fail a request whose server is killed during the copy. That
/// window is small and hit by chance only, so this looks at what opens it.
#[test]
fn slots_that_were_not_made_present_are_absent() {
    if !can_run() {
        return;
    }
    let mut world = World::new(LEN, &[("REQUEST_BYTES", "1048576")]);
    world.serve(&[("ABSENT_PAGES", "1")]);
    let (size, present, locked) = slots_memory(&world);
    assert!(present < size / 4, "{present} KiB of {size} are present");
    assert_eq!(locked, 0);
    world.finish();
}

/// A successor starts to recover only when no thread of its predecessor can still write.
#[test]
fn nothing_is_granted_while_the_predecessor_lives() {
    if !can_run() {
        return;
    }
    let mut world = World::new(LEN, &[]);
    world.serve(&[]);
    let first = world.server.take().unwrap();
    // A stopped process has done all it will do, but is not gone.
    let pid = rustix::process::Pid::from_raw(first.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let short = std::time::Duration::from_millis(100);
    let error = world.client().take(short).unwrap_err();
    assert!(error.kind() == sprite_types::ErrorKind::Unavailable, "{error}");
    drop(first);
    // The one above gave up and hung up; it must not get the disk in place of this one.
    assert_eq!(world.serve(&[]).incarnation, 2);
    sprite_testkit::eventually("nobody waits", || !world.client().status().unwrap().waiting);
    world.finish();
}
