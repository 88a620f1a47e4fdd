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

#[test]
fn a_server_that_may_not_lock_its_slots_does_not_start_and_loses_nothing() {
    if !can_run() {
        return;
    }
    let mut world = World::attached(LEN, &[]);
    let load = crate::load::Load::start(world.device(), 2, 6);
    load.wait_for_writes(20);
    world.server.as_mut().unwrap().kill();
    let mut failing = world.start("server", &[("NO_LOCKED_MEMORY", "1")]);
    let line = failing.line("not started").expect("it says why it does not start");
    assert!(line.starts_with("not started Limited"), "{line}");
    failing.wait_end();
    world.serve(&[]);
    load.wait_for_writes(20);
    load.finish();
    world.finish();
}

/// A bug of a device must not become an I/O error of the guest.
fn panics_and_is_followed(vars: &[(&str, &str)]) {
    let mut world = World::attached(LEN, &[]);
    world.server.as_mut().unwrap().kill();
    let place = PLACE.to_string();
    let vars: Vec<_> = vars.iter().copied().chain([("PANIC_AT", place.as_str())]).collect();
    world.serve(&vars);
    let device = open_direct(world.device());
    let writer = std::thread::spawn(move || {
        let mut buffer = Aligned::new(4096);
        buffer.get().fill(3);
        device.write_all_at(buffer.get(), PLACE)
    });
    let mut server = world.server.take().unwrap();
    assert!(server.line("panicked").is_some());
    server.wait_end();
    assert_eq!(world.serve(&[]).executed, 1);
    writer.join().unwrap().unwrap();
    let mut byte = [0];
    std::fs::File::open(world.data()).unwrap().read_exact_at(&mut byte, PLACE).unwrap();
    assert_eq!(byte, [3]);
    world.finish();
}

#[test]
fn a_device_that_panics_is_followed_by_one_that_may_not() {
    if can_run() {
        panics_and_is_followed(&[]);
        panics_and_is_followed(&[("WORKERS", "2")]);
    }
}

#[test]
fn only_root_gets_an_answer_from_a_keeper() {
    if !can_run() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new(LEN, &[]);
    world.serve(&[]);
    let open = |mode| std::fs::Permissions::from_mode(mode);
    let socket = world.dir.path().join("keeper");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(world.dir.path(), open(0o755)).unwrap();
    std::fs::set_permissions(&socket, open(0o666)).unwrap();
    let stranger = world.start("stranger", &[]);
    let line = stranger.line("refused");
    assert!(line.is_some(), "the keeper talked to a stranger");
    world.finish();
}

#[test]
fn garbage_costs_its_sender_the_connection_and_nobody_else() {
    if !can_run() {
        return;
    }
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
    let mut world = World::new(LEN, &[]);
    world.serve(&[]);
    let address = SocketAddrUnix::new(world.dir.path().join("keeper")).unwrap();
    for garbage in [&[0; 1][..], &[7; 64], &[0; 65], &[9; 5000]] {
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket(AddressFamily::UNIX, kind, None).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        rustix::net::send(&socket, garbage, SendFlags::empty()).unwrap();
        let mut buffer = [0; 64];
        let mut receive =
            || rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap().0;
        assert_eq!(receive(), 64, "the greeting");
        assert_eq!(receive(), 0, "hung up");
    }
    assert!(world.client().status().unwrap().connected);
    // More connections than a keeper accepts: the rest is turned away, those it has go on.
    let held: Vec<_> = (0..40)
        .map_while(|_| {
            let path = world.dir.path().join("keeper");
            sprite_blockdev::keeper::Client::connect(&path, crate::world::LIMIT).ok()
        })
        .collect();
    assert!((8..40).contains(&held.len()), "{} connections", held.len());
    assert!(held[0].status().unwrap().connected);
    drop(held);
    world.finish();
}

/// Somebody who is sent the disk just after giving up waiting. Its process lives on, and must not
/// be waited for.
#[test]
fn a_grant_that_nobody_took_is_taken_back() {
    if !can_run() {
        return;
    }
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
    let mut world = World::new(LEN, &[]);
    let address = SocketAddrUnix::new(world.dir.path().join("keeper")).unwrap();
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let mut packet = [0; 64];
    rustix::net::recv(&socket, &mut packet[..], RecvFlags::empty()).unwrap();
    // The greeting with its nonce becomes the request for the disk: kind 2.
    packet[6..8].copy_from_slice(&2u16.to_ne_bytes());
    rustix::net::send(&socket, &packet, SendFlags::empty()).unwrap();
    sprite_testkit::eventually("the disk is granted", || {
        world.client().status().unwrap().server_pid == Some(std::process::id())
    });
    drop(socket);
    assert_eq!(world.serve(&[]).incarnation, 2);
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
    // The one above gave up and hung up; it must not get the disk in place of this one, even
    // though its process lives on.
    assert_eq!(world.serve(&[]).incarnation, 2);
    sprite_testkit::eventually("nobody waits", || !world.client().status().unwrap().waiting);
    world.finish();
}
