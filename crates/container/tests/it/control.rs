//! Helpers, stopping, freezing, and ends that nobody planned.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio as ProcessStdio};
use std::time::Duration;

use sprite_container::{ContainerExit, Launcher, SpawnError, StartError, Stdio, Target, User};

use crate::fixture::{Machine, Setup, can_run, command, loop_files, wait_for};

/// A helper: says who and where it is, reads a file, and returns a number.
fn look_around(fd: OwnedFd) -> i32 {
    let mut socket = UnixStream::from(fd);
    let mut path = [0; 64];
    let count = socket.read(&mut path).unwrap_or(0);
    let path = String::from_utf8_lossy(&path[..count]).into_owned();
    let text = std::fs::read_to_string(&path).map_err(|error| error.kind());
    let uid = rustix::process::getuid().as_raw();
    let directory = std::env::current_dir().unwrap_or_default();
    let open = std::fs::read_dir("/proc/self/fd").map(|fds| fds.count());
    let _ = write!(socket, "{uid} {} {open:?} {text:?}", directory.display());
    42
}

fn hang(_: OwnedFd) -> i32 {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn panics(_: OwnedFd) -> i32 {
    panic!("a helper's panic stays its own")
}

fn call(machine: &Machine, user: User, path: &str) -> (String, i32) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let helper = machine.launcher().helper(user, "look", theirs.into());
    let helper = machine.runtime.block_on(helper).unwrap();
    ours.write_all(path.as_bytes()).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    (text, machine.runtime.block_on(helper.exit).unwrap())
}

#[test]
fn helpers_run_inside_as_the_user_without_a_program() {
    if !can_run() {
        return;
    }
    let helpers = vec![("look", look_around as _), ("hang", hang as _), ("panics", panics as _)];
    let machine = Machine::start(Setup { helpers, ..Setup::default() });
    machine.shell(User::Root, "echo secret >/root/s; chmod 600 /root/s").ok();
    // Standard streams, the argument, and the directory being read.
    let (text, code) = call(&machine, User::Sprite, "/etc/group");
    assert!(text.starts_with("1001 /home/sprite Ok(5) Ok(\"root:x:0:"), "{text}");
    assert_eq!(code, 42);
    let (text, _) = call(&machine, User::Sprite, "/root/s");
    assert!(text.ends_with("Err(PermissionDenied)"), "{text}");
    let (text, _) = call(&machine, User::Root, "/root/s");
    assert!(text.starts_with("0 /root ") && text.ends_with("Ok(\"secret\\n\")"), "{text}");

    let start = |name: &str| {
        let (_, theirs) = UnixStream::pair().unwrap();
        machine.runtime.block_on(machine.launcher().helper(User::Sprite, name, theirs.into()))
    };
    let helper = start("hang").unwrap();
    // Nobody inside can look into a helper: it is a copy of the agent's memory.
    let script = "for p in /proc/[0-9]*; do [ $(cat $p/comm) = sprite-launch ] || continue; \
                  cat $p/mem $p/environ $p/maps; ls -l $p/exe $p/root $p/fd; echo found; done";
    let out = machine.shell(User::Root, script);
    assert!(out.stdout.lines().any(|line| line == "found"), "{out:?}");
    assert_eq!(out.stdout.lines().filter(|line| line.contains("->")).count(), 0, "{out:?}");
    assert!(out.stderr.lines().count() >= 6, "{out:?}");
    let kill = machine.launcher().signal(helper.pid, 9, Target::Process);
    machine.runtime.block_on(kill).unwrap();
    assert_eq!(machine.runtime.block_on(helper.exit).unwrap(), 128 + 9);

    let helper = start("panics").unwrap();
    assert_eq!(machine.runtime.block_on(helper.exit).unwrap(), 112);
    assert!(matches!(start("unknown"), Err(SpawnError::Internal { .. })));
}

#[test]
fn stopping_lets_processes_end_and_releases_the_disk() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let script = "trap 'echo bye >/root/bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut process = machine.spawn(command(User::Root, &["sh", "-c", script])).unwrap();
    let mut byte = [0; 1];
    wait_for("the command to set its trap", || {
        rustix::io::read(&process.stdout, &mut byte).is_ok_and(|count| count == 1)
    });
    // Ignores what it can; is killed.
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let stubborn = machine.spawn(command(User::Root, &["sh", "-c", stubborn])).unwrap();
    wait_for("the other to set its trap", || {
        rustix::io::read(&stubborn.stdout, &mut byte).is_ok_and(|count| count == 1)
    });
    // An interactive shell ignores the request to end, and hears that its terminal is gone.
    let mut interactive = command(User::Sprite, &["sh", "-i"]);
    interactive.stdio = Stdio::Terminal { cols: 80, rows: 24 };
    let interactive = machine.spawn(interactive).unwrap();
    let exited = machine.launcher().container_exited();
    machine.runtime.block_on(machine.launcher().stop(Duration::from_secs(3))).unwrap();
    assert_eq!(machine.runtime.block_on(&mut process.exit).unwrap(), 3);
    assert_eq!(machine.runtime.block_on(stubborn.exit).unwrap(), 128 + 9);
    assert_ne!(machine.runtime.block_on(interactive.exit).unwrap(), 128 + 9);
    let exit = *exited.borrow();
    assert_eq!(exit, Some(ContainerExit::Init { code: 128 + 9, signal: Some(9) }));
    let image = machine.work().join("disk.ext4");
    wait_for("the disk to be free", || !loop_files().contains(&image));
    assert!(machine.cgroup.is_empty());
    assert_eq!(machine.spawn(command(User::Root, &["true"])).unwrap_err(), SpawnError::Gone);
    // Again is fine.
    machine.runtime.block_on(machine.launcher().stop(Duration::ZERO)).unwrap();
}

#[test]
fn a_reboot_inside_ends_the_container_and_says_so() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let mut exited = machine.launcher().container_exited();
    let process = machine.spawn(command(User::Root, &["attack", "reboot"])).unwrap();
    // The kernel ends the caller itself, and kills the rest.
    assert_eq!(machine.runtime.block_on(process.exit).unwrap(), 0);
    machine.runtime.block_on(exited.wait_for(Option::is_some)).unwrap();
    let exit = *exited.borrow();
    assert_eq!(exit, Some(ContainerExit::Init { code: 128 + 1, signal: Some(1) }));
}

#[test]
fn a_frozen_machine_stands_still_and_can_be_thawed_or_killed() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let process =
        machine.spawn(command(User::Sprite, &["sh", "-c", "while :; do echo; done"])).unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut drain = || {
        let mut total = 0;
        while let Ok(count) = rustix::io::read(&process.stdout, &mut chunk) {
            total += count;
        }
        total
    };
    wait_for("output", || drain() > 0);
    machine.cgroup.freeze(Duration::from_secs(10)).unwrap();
    drain();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(drain(), 0);
    machine.cgroup.thaw().unwrap();
    wait_for("output again", || drain() > 0);
    machine.cgroup.freeze(Duration::from_secs(10)).unwrap();
    machine.cgroup.kill_all().unwrap();
    wait_for("all processes to end", || machine.cgroup.is_empty());
}

/// Entering may hang; a caller that no longer waits must not find its command running later.
#[test]
fn a_start_that_is_given_up_leaves_no_process() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    if machine.cgroup.cgroup2_dir().is_none() {
        return;
    }
    machine.cgroup.freeze(Duration::from_secs(10)).unwrap();
    let result = machine.runtime.block_on(async {
        let spawn = machine.launcher().spawn(command(User::Root, &["touch", "/was-here"]));
        tokio::time::timeout(Duration::from_millis(100), spawn).await
    });
    assert!(result.is_err());
    wait_for("the cancelled process to end", || {
        // The driver sends the cancellation when it runs next.
        machine.runtime.block_on(tokio::task::yield_now());
        machine.cgroup.stats().pids == Some(1)
    });
    machine.cgroup.thaw().unwrap();
    machine.shell(User::Root, "test ! -e /was-here").ok();
}

/// Whenever it gives up: before the answer, after it, or just between.
#[test]
fn a_caller_that_gives_up_at_any_moment_leaves_no_process() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let mut started = 0;
    machine.runtime.block_on(async {
        for round in 0..60 {
            let spawn = machine.launcher().spawn(command(User::Sprite, &["sleep", "1000"]));
            let patience = Duration::from_micros(round * 50);
            if let Ok(process) = tokio::time::timeout(patience, spawn).await {
                started += 1;
                let pid = process.unwrap().pid;
                machine.launcher().signal(pid, 9, Target::Process).await.unwrap();
            }
        }
    });
    println!("{started} of 60 started in time");
    wait_for("all processes to end", || {
        machine.runtime.block_on(tokio::task::yield_now());
        machine.cgroup.stats().pids == Some(1)
    });
}

/// A tracer inside can keep a dead process from us for as long as it likes.
#[test]
fn a_process_held_by_a_tracer_holds_up_nobody_else() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let victim = machine.spawn(command(User::Sprite, &["sleep", "1000"])).unwrap();
    let pid = victim.inner_pid.to_string();
    let tracer = machine.spawn(command(User::Sprite, &["attack", "hold", &pid])).unwrap();
    let mut text = [0; 8];
    wait_for("the tracer", || {
        rustix::io::read(&tracer.stdout, &mut text).is_ok_and(|count| count > 0)
    });
    let signal = |pid| machine.launcher().signal(pid, 9, Target::Process);
    machine.runtime.block_on(signal(victim.pid)).unwrap();
    for _ in 0..5 {
        machine.shell(User::Sprite, "true").ok();
    }
    assert!(victim.exit.is_empty(), "the tracer holds it");
    machine.runtime.block_on(signal(tracer.pid)).unwrap();
    assert_eq!(machine.runtime.block_on(victim.exit).unwrap(), 128 + 9);
}

#[test]
fn a_root_that_hides_links_behind_mount_points_is_refused() {
    if !can_run() {
        return;
    }
    for name in ["dev", "proc", "sys", "run", "tmp"] {
        let prepare: fn(&Path) = match name {
            "dev" => |root| replace(root, "dev"),
            "proc" => |root| replace(root, "proc"),
            "sys" => |root| replace(root, "sys"),
            "run" => |root| replace(root, "run"),
            _ => |root| replace(root, "tmp"),
        };
        let error = Machine::try_start(Setup { prepare, ..Setup::default() }).err();
        let error = error.expect("a link is refused");
        assert!(matches!(error, StartError::Refused { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!("root file system refused: `/{name}` is not a directory")
        );
    }
}

fn replace(root: &Path, name: &str) {
    std::fs::remove_dir_all(root.join(name)).unwrap();
    std::os::unix::fs::symlink("/etc", root.join(name)).unwrap();
}

#[test]
fn a_second_start_is_refused() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let spec = sprite_container::ContainerSpec {
        root: sprite_container::RootDisk::Mounted("/".into()),
        work_dir: "/nonexistent".into(),
        id_base: 1 << 20,
        cgroup_dirs: Vec::new(),
        cgroup2_dir: None,
        hostname: "x".into(),
        tools: Vec::new(),
        allow_netfilter: false,
    };
    let result = machine.runtime.block_on(machine.launcher().start(spec));
    assert!(matches!(result, Err(StartError::AlreadyStarted)), "{result:?}");
}

/// Not a test of its own: plays the guest agent for the next one, in a process to be killed.
#[test]
fn agent() {
    if std::env::var_os("SPRITE_TEST_AGENT").is_none() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let process = machine.spawn(command(User::Sprite, &["sleep", "1000"])).unwrap();
    let init = machine.container.as_ref().unwrap().init_pid;
    let dirs: Vec<_> = machine.cgroup.dirs().iter().map(|d| d.display().to_string()).collect();
    let v2 = machine.cgroup.cgroup2_dir().unwrap_or_default();
    println!(
        "agent\t{}\t{init}\t{}\t{}\t{}\t{}\tend",
        machine.launcher().pid(),
        process.pid,
        machine.work().display(),
        v2.display(),
        dirs.join(":"),
    );
    hang(machine.container.as_ref().unwrap().network.try_clone().unwrap());
}

/// Whatever kills the agent takes everything along, in the right order.
#[test]
fn a_killed_agent_leaves_nothing() {
    if !can_run() {
        return;
    }
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control::agent", "--nocapture", "--test-threads=1"])
        .env("SPRITE_TEST_AGENT", "1")
        .stdout(ProcessStdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut output = agent.stdout.take().unwrap();
    while !text.contains("\tend\n") {
        let mut chunk = [0; 4096];
        let count = output.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    let line = text.lines().find(|line| line.contains("agent\t")).unwrap();
    let fields: Vec<&str> = line.split('\t').collect();
    agent.kill().unwrap();
    agent.wait().unwrap();
    for pid in &fields[1..4] {
        let alive = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        wait_for("the agent's processes to end", || !alive());
    }
    let work = Path::new(fields[4]);
    wait_for("the loop device to be released", || !loop_files().contains(&work.join("disk.ext4")));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(fields[4]), "{mounts}");
    let dirs: Vec<_> = fields[6].split(':').map(Into::into).collect();
    let v2 = (!fields[5].is_empty()).then(|| Path::new(fields[5]));
    let cgroup = sprite_container::cgroup::MachineCgroup::from_dirs(&dirs, v2);
    wait_for("the groups to be empty", || cgroup.is_empty());
    cgroup.remove().unwrap();
    std::fs::remove_dir_all(work).unwrap();
}

#[test]
fn a_killed_launcher_is_noticed_and_ends_the_container() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let process = machine.spawn(command(User::Sprite, &["sleep", "1000"])).unwrap();
    let mut exited = machine.launcher().container_exited();
    let launcher = rustix::process::Pid::from_raw(machine.launcher().pid()).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    machine.runtime.block_on(exited.wait_for(Option::is_some)).unwrap();
    assert_eq!(*exited.borrow(), Some(ContainerExit::LauncherLost));
    assert!(machine.runtime.block_on(process.exit).is_err());
    assert_eq!(machine.spawn(command(User::Sprite, &["true"])).unwrap_err(), SpawnError::Gone);
    wait_for("everything to end", || machine.cgroup.is_empty());
}

#[test]
fn helpers_have_names_of_their_own() {
    let twice = [("a", hang as fn(OwnedFd) -> i32), ("a", hang)];
    assert!(Launcher::fork(&twice).is_err());
}

/// Not a test of its own: fails in the middle of something, for the next one.
#[test]
fn panicker() {
    if std::env::var_os("SPRITE_TEST_PANIC").is_none() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let _process = machine.spawn(command(User::Sprite, &["sleep", "1000"])).unwrap();
    let image = machine.work().join("disk.ext4");
    assert!(loop_files().contains(&image), "a loop device shows the disk");
    let groups: Vec<_> = machine.cgroup.dirs().iter().map(|d| d.display().to_string()).collect();
    let (launcher, work) = (machine.launcher().pid(), machine.work().display());
    println!("panicker\t{launcher}\t{work}\t{}", groups.join(":"));
    panic!("on purpose");
}

/// A test that fails must not spoil the host for the next one. In a process of its own: one that
/// panics holds locks, and a launcher that another test forks meanwhile would inherit them held.
#[test]
fn a_test_that_panics_leaves_nothing() {
    if !can_run() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control::panicker", "--nocapture", "--test-threads=1"])
        .env("SPRITE_TEST_PANIC", "1")
        .output()
        .unwrap();
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && errors.contains("on purpose"), "{text}{errors}");
    let line = text.lines().find(|line| line.contains("panicker\t")).expect("it came that far");
    let fields: Vec<&str> = line.split('\t').collect();
    let (launcher, work) = (fields[1], Path::new(fields[2]));
    assert!(!work.exists());
    assert!(!loop_files().contains(&work.join("disk.ext4")));
    for group in fields[3].split(':') {
        assert!(!Path::new(group).exists(), "{group}");
    }
    assert!(!Path::new(&format!("/proc/{launcher}")).exists());
}
