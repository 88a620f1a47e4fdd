//! Everything in `attack.c`, which must fail; and attacks that need help from outside.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::{AddressFamily, SocketType, socket};
use sprite_container::{Stdio, Tool, User};

use crate::fixture::{Machine, Output, Setup, attack_program, can_run, command};

fn machine() -> Machine {
    let tool = Tool { source: attack_program().into(), target: "/.sprite/bin/tool".into() };
    Machine::start(Setup { tools: vec![tool], ..Setup::default() })
}

fn assert_all_blocked(output: &Output) {
    let won: Vec<_> = output.stdout.lines().filter(|line| line.starts_with("SUCC")).collect();
    let blocked = output.stdout.lines().filter(|line| line.starts_with("blocked ")).count();
    assert!(won.is_empty(), "{won:#?}");
    let list = Command::new(attack_program()).arg("list").output().unwrap().stdout;
    let count = String::from_utf8(list).unwrap().lines().count();
    assert_eq!(blocked, count, "{output:?}");
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn no_attack_works_for_root_the_user_or_a_nested_root() {
    if !can_run() {
        return;
    }
    let address = SocketAddr::from_abstract_name("sprite-test-host").unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let machine = machine();
    for (user, mode) in [
        (User::Root, "all"),
        (User::Sprite, "all"),
        (User::Root, "nested"),
        (User::Sprite, "nested"),
    ] {
        let output = machine.run(command(user, &["attack", mode])).unwrap();
        println!("{user:?} {mode}\n{}{}", output.stdout, output.stderr);
        assert_all_blocked(&output);
    }
    // With a terminal the descriptors are others.
    let mut spec = command(User::Root, &["attack", "leaked_fds", "terminal_type", "oom_score"]);
    spec.stdio = Stdio::Terminal { cols: 80, rows: 24 };
    let process = machine.spawn(spec).unwrap();
    let output = machine.finish(process);
    assert_eq!(output.code, 0, "{output:?}");
}

/// A trusted process that enters is seen by everyone inside, for a moment.
#[test]
fn nobody_can_look_into_a_process_on_its_way_in() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let racer = machine.spawn(command(User::Root, &["attack", "race", "3"])).unwrap();
    let mut entered = 0;
    while racer.exit.is_empty() {
        let mut spec = command(User::Root, &["true"]);
        spec.leaf = "s-2".into();
        machine.run(spec).unwrap();
        entered += 1;
    }
    let output = machine.finish(racer);
    println!("{entered} entered; {}", output.stdout);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.ends_with("won 0\n"), "{output:?}");
}

/// On disk, files of the container's root belong to the host's root. The trusted mount must
/// therefore not honour set-user-id bits, nor run anything.
#[test]
fn a_planted_set_user_id_program_is_inert_on_the_host() {
    if !can_run() {
        return;
    }
    let machine = machine();
    let planted = machine.work().join("work/root/bin/planted-suid");
    assert!(planted.exists(), "this thread shares the launcher's mount namespace");
    let result = Command::new(&planted).arg("id").uid(12345).gid(12345).output();
    assert!(result.is_err(), "{result:?}");
    let inside = machine.run(command(User::Sprite, &["planted-suid", "id"])).unwrap().ok();
    assert_eq!(inside, "1001 0", "inside it works, as in any machine");
}

#[test]
fn netfilter_is_there_only_on_request() {
    if !can_run() {
        return;
    }
    let netfilter = Some(rustix::net::netlink::NETFILTER);
    if socket(AddressFamily::NETLINK, SocketType::RAW, netfilter).is_err() {
        return println!("skipped: this kernel has no netfilter, or it is not loaded");
    }
    let machine = Machine::start(Setup { allow_netfilter: true, ..Setup::default() });
    let output = machine.run(command(User::Root, &["attack", "socket_netfilter"])).unwrap();
    assert!(output.stdout.starts_with("SUCCEEDED"), "{output:?}");
    let output = machine.run(command(User::Root, &["attack", "socket_audit"])).unwrap();
    assert!(output.stdout.starts_with("blocked"), "{output:?}");
}
