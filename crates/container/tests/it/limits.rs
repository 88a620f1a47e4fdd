//! What a machine may use.

use std::time::Duration;

use sprite_container::User;
use sprite_container::cgroup::{Hierarchies, Limits, MachineCgroup};
use sprite_types::{ByteSize, MachineId};

use crate::fixture::{Machine, Setup, can_run, command, wait_for};

#[test]
fn a_fork_bomb_stays_within_the_limit_and_leaves_room_for_us() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let bomb = machine.spawn(command(User::Sprite, &["attack", "fork"])).unwrap();
    wait_for("the limit to be reached", || machine.cgroup.stats().pids == Some(200));
    // Entering does not count against it; forking inside does.
    let mut spec = command(User::Sprite, &["echo", "still here"]);
    spec.leaf = "s-2".into();
    assert_eq!(machine.run(spec).unwrap().ok(), "still here");
    let out = machine.shell(User::Sprite, "true | true");
    assert_ne!(out.code, 0, "{out:?}");
    machine.runtime.block_on(machine.launcher().kill_leaf("s-1")).unwrap();
    assert_eq!(machine.runtime.block_on(bomb.exit).unwrap(), 128 + 9);
    wait_for("the bomb to be gone", || machine.cgroup.stats().pids == Some(1));
}

#[test]
fn a_memory_bomb_dies_alone() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let out = machine.run(command(User::Sprite, &["attack", "eat", "400"])).unwrap();
    assert_eq!((out.code, out.stdout.as_str()), (128 + 9, ""), "{out:?}");
    assert!(machine.cgroup.stats().oom_kills.unwrap() >= 1);
    assert_eq!(machine.run(command(User::Sprite, &["attack", "eat", "100"])).unwrap().code, 0);
    // Files in memory count too.
    let out = machine.shell(User::Sprite, "dd if=/dev/zero of=/dev/shm/x bs=1M count=300");
    assert_ne!(out.code, 0, "{out:?}");
}

#[test]
fn nested_groups_are_bounded() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    if machine.cgroup.cgroup2_dir().is_none() {
        return;
    }
    let out = machine.run(command(User::Root, &["attack", "cgroups"])).unwrap().ok();
    let made: u32 = out.trim_start_matches("made ").parse().unwrap();
    assert!((100..=1024).contains(&made), "{out}");
    // The container can still be entered.
    let mut spec = command(User::Sprite, &["echo", "in"]);
    spec.leaf = "s-new".into();
    assert_eq!(machine.run(spec).unwrap().ok(), "in");
}

/// Were a device node to appear inside after all, it could not be opened.
#[test]
fn devices_are_confined_by_each_hierarchy_that_can() {
    if !can_run() {
        return;
    }
    let (_, _, cgroup) = groups(&Limits::default());
    let open = |group: &std::path::Path, device: &str| {
        let script = format!("echo 0 >{}/cgroup.procs && exec head -c0 {device}", group.display());
        let status = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        status.status.success()
    };
    let confined: Vec<_> = cgroup
        .dirs()
        .into_iter()
        .filter(|group| {
            Some(group) == cgroup.cgroup2_dir().as_ref() || group.join("devices.list").exists()
        })
        .collect();
    assert!(!confined.is_empty());
    for group in &confined {
        // Version 2 with controllers for its children keeps processes in leaves.
        let group = if group.join("box").exists() { group.join("box") } else { group.clone() };
        assert!(open(&group, "/dev/zero"), "{group:?}");
        assert!(!open(&group, "/dev/kmsg"), "{group:?}");
        assert!(!open(&group, "/dev/loop-control"), "{group:?}");
    }
    wait_for("the commands to be gone", || cgroup.is_empty());
    cgroup.remove().unwrap();
}

#[test]
fn processor_time_and_memory_are_counted() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let before = machine.cgroup.stats();
    machine.shell(User::Sprite, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").ok();
    let after = machine.cgroup.stats();
    assert!(after.cpu_usec.unwrap() > before.cpu_usec.unwrap(), "{before:?} {after:?}");
    assert!(after.memory_bytes.unwrap() > 0, "{after:?}");
}

fn groups(limits: &Limits) -> (Hierarchies, MachineId, MachineCgroup) {
    let hierarchies = Hierarchies::detect().unwrap();
    let machine = MachineId::generate();
    let cgroup = hierarchies.create(&machine, limits).unwrap();
    (hierarchies, machine, cgroup)
}

#[test]
fn groups_are_found_again_changed_and_removed() {
    if !can_run() {
        return;
    }
    let limits = Limits { memory: Some(ByteSize::mib(64)), pids: Some(10), ..Limits::default() };
    let (hierarchies, machine, cgroup) = groups(&limits);
    assert!(hierarchies.unapplied().is_empty(), "{:?}", hierarchies.unapplied());
    assert!(cgroup.unapplied().is_empty());
    assert!(hierarchies.machines().contains(&machine));
    assert_eq!(hierarchies.open(&machine), Some(cgroup.clone()));
    assert_eq!(cgroup.memory_limit(), Some(64 << 20));
    let same = MachineCgroup::from_dirs(&cgroup.dirs(), cgroup.cgroup2_dir().as_deref());
    let more = Limits { memory: Some(ByteSize::mib(96)), cpus: Some(0.5), ..limits };
    assert!(same.set_limits(&more).unwrap().is_empty());
    assert_eq!(cgroup.memory_limit(), Some(96 << 20));
    same.set_limits(&Limits::default()).unwrap();
    assert_eq!(cgroup.memory_limit(), None);
    assert!(cgroup.is_empty());
    cgroup.freeze(Duration::from_secs(5)).unwrap();
    cgroup.thaw().unwrap();
    cgroup.kill_all().unwrap();
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(hierarchies.open(&machine), None);
    assert!(!hierarchies.machines().contains(&machine));
}

#[test]
fn many_machines_come_and_go_at_once() {
    if !can_run() {
        return;
    }
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..5 {
                    let (_, _, cgroup) = groups(&Limits::default());
                    cgroup.remove().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
