//! Commands in a container.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use sprite_container::{SpawnError, SpawnSpec, Stdio, Target, Tool, User};

use crate::fixture::{Machine, Setup, attack_program, can_run, command, wait_for};

#[test]
fn a_command_runs_as_the_default_user_in_its_home() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let container = machine.container.as_ref().unwrap();
    assert!(container.warnings.is_empty(), "{container:?}");
    let process = machine.spawn(command(User::Sprite, &["sh", "-c", "id; pwd; env"])).unwrap();
    assert_eq!(process.program, "/bin/sh");
    assert_eq!(process.dir, "/home/sprite");
    let out = machine.finish(process).ok();
    assert!(out.contains("uid=1001(sprite) gid=1001(sprite) groups=27(sudo),100(users)"), "{out}");
    for line in ["/home/sprite", "HOME=/home/sprite", "USER=sprite", "SHELL=/bin/sh"] {
        assert!(out.lines().any(|found| found == line), "{line}: {out}");
    }
    let out = machine.shell(User::Root, "id -u; pwd; grep Cap /proc/self/status").ok();
    assert!(out.starts_with("0\n/root\n"), "{out}");
    // All capabilities, in the container's user namespace; none ambient.
    assert!(out.contains("CapEff:\t000001ff"), "{out}");
    assert!(out.contains("CapAmb:\t0000000000000000"), "{out}");
    let out = machine.shell(User::Sprite, "grep Cap /proc/self/status; ulimit -n; ulimit -c").ok();
    assert!(out.contains("CapPrm:\t0000000000000000"), "{out}");
    // Half a block of 1,024 bytes; that is the point. Open files as far as we may raise them.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let files = files.unwrap_or(u64::MAX).max(1024);
    let limit: u64 = out.lines().nth_back(1).unwrap().parse().unwrap();
    assert!(limit == 65_536 || limit == files, "{out}");
    assert!(out.ends_with("\n0"), "{out}");
}

#[test]
fn the_container_looks_like_a_machine() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let look = |script: &str| machine.shell(User::Sprite, script).ok();
    assert_eq!(look("hostname"), "sprite");
    assert_eq!(look("cat /proc/1/comm; readlink /proc/self/fd/0"), "sprite-init\n/dev/null");
    assert_eq!(look("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0");
    assert_eq!(look("cat /proc/sys/net/ipv4/ping_group_range"), "0\t65535");
    assert_eq!(look("cat /proc/sys/net/ipv6/conf/default/disable_ipv6"), "1");
    assert!(look("ip addr show lo").contains("inet 127.0.0.1/8"));
    assert!(look("ip addr show lo").contains("inet6 ::1/128"));
    assert_eq!(look("attack icmp"), "echo replied");
    assert_eq!(look("stat -c %a /tmp /dev/shm /run /dev/fuse"), "1777\n1777\n755\n666");
    assert_eq!(look("cut -d. -f1 /proc/uptime | grep -c '^.$\\|^..$'"), "1");
    assert_eq!(look("(echo x >/dev/stderr) 2>&1"), "x");
    assert_eq!(look("ls /proc/self/fd | wc -l"), "4");
    assert_eq!(look("unshare -Ur id -u"), "0");
    // Root may do what root does.
    let root = |script: &str| machine.shell(User::Root, script).ok();
    root("mount -t tmpfs t /mnt && touch /mnt/x && umount /mnt");
    root("touch /f && chown 65534 /f");
    if machine.cgroup.cgroup2_dir().is_some() {
        assert_eq!(look("grep ^0: /proc/self/cgroup"), "0::/s-1");
        root("mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x");
    }
    root("mkdir /tmp/p && mount -t proc p /tmp/p");
    root("hostname other");
    assert_eq!(look("hostname"), "other");
}

#[test]
fn pipes_carry_input_output_and_errors() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let mut spec = command(User::Sprite, &["sh", "-c", "cat; echo oops >&2; exit 7"]);
    spec.stdio = Stdio::Pipes { stdin: true };
    let mut process = machine.spawn(spec).unwrap();
    let text = "line\n".repeat(50_000);
    let input = process.stdin.take().unwrap();
    let bytes = text.clone();
    let writer = std::thread::spawn(move || write_all(input, bytes.as_bytes()));
    let out = machine.finish(process);
    writer.join().unwrap();
    assert_eq!((out.code, out.stdout.len(), out.stderr.as_str()), (7, text.len(), "oops\n"));
}

fn write_all(fd: OwnedFd, bytes: &[u8]) {
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    rustix::fs::fcntl_setfl(&fd, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    std::fs::File::from(fd).write_all(bytes).unwrap();
}

#[test]
fn failures_to_start_are_told_as_a_shell_would() {
    if !can_run() {
        return;
    }
    let prepare = |root: &std::path::Path| {
        std::fs::write(root.join("bin/plain"), "x").unwrap();
        std::fs::write(root.join("bin/garbage"), "\0\0garbage").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join("bin/garbage"), mode).unwrap();
    };
    let machine = Machine::start(Setup { prepare, ..Setup::default() });
    let failure = |spec: SpawnSpec| machine.spawn(spec).expect_err("does not start");
    let error = failure(command(User::Sprite, &["foo"]));
    assert_eq!(error.exit_code(), Some(127));
    assert_eq!(error.message(), "foo: executable file not found in $PATH");
    let error = failure(command(User::Sprite, &["/no/such"]));
    assert_eq!(
        (error.exit_code(), error.message().as_str()),
        (Some(127), "/no/such: No such file or directory")
    );
    assert_eq!(failure(command(User::Sprite, &["plain"])).exit_code(), Some(126));
    assert_eq!(failure(command(User::Sprite, &["/bin/plain"])).exit_code(), Some(126));
    let error = failure(command(User::Sprite, &["garbage"]));
    assert_eq!(
        (error.exit_code(), error.message().as_str()),
        (Some(126), "/bin/garbage: Exec format error")
    );
    let huge = "x".repeat(200 * 1024);
    let error = failure(command(User::Sprite, &["echo", &huge]));
    assert!(matches!(&error, SpawnError::TooLong { .. }), "{error:?}");
    assert_eq!(error.exit_code(), Some(126));
    let mut spec = command(User::Sprite, &["true"]);
    spec.dir = Some("/nope".into());
    let error = failure(spec);
    assert_eq!(
        (error.exit_code(), error.message().as_str()),
        (Some(1), "chdir /nope: No such file or directory")
    );
    let mut spec = command(User::Sprite, &["true"]);
    spec.dir = Some("/root/x".into());
    assert_eq!(failure(spec).exit_code(), Some(1));
    assert_eq!(failure(command(User::Sprite, &["echo", "tr\0ue"])).exit_code(), Some(126));
    assert_eq!(failure(command(User::Sprite, &[])).exit_code(), Some(127));
    let mut spec = command(User::Sprite, &["true"]);
    spec.leaf = "../x".into();
    assert!(matches!(failure(spec), SpawnError::Internal { .. }));
    // What is long but not too long works.
    let argument = "y".repeat(100_000);
    let argv: Vec<&str> = ["echo"].into_iter().chain([argument.as_str(); 15]).collect();
    assert_eq!(machine.run(command(User::Sprite, &argv)).unwrap().ok().len(), 15 * 100_001 - 1);
}

#[test]
fn program_directory_and_name_can_be_chosen() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let mut spec = command(User::Sprite, &["echo", "hi"]);
    spec.path = Some("busybox".into());
    spec.dir = Some("../..".into());
    let process = machine.spawn(spec).unwrap();
    assert_eq!(process.program, "/bin/busybox");
    assert_eq!(process.dir, "/home/sprite/../..");
    assert_eq!(machine.finish(process).ok(), "hi");
    // Without a home there is the root directory.
    machine.shell(User::Root, "rm -r /home/sprite").ok();
    assert_eq!(machine.shell(User::Sprite, "pwd").ok(), "/");
}

#[test]
fn a_terminal_is_the_commands_own_and_controls_it() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let mut spec = command(
        User::Sprite,
        &[
            "sh",
            "-c",
            "tty; stty size; stat -c '%U %G %a' $(tty); echo x >/dev/tty; sleep 1000; echo no",
        ],
    );
    spec.stdio = Stdio::Terminal { cols: 100, rows: 30 };
    let process = machine.spawn(spec).unwrap();
    let flags = rustix::fs::fcntl_getfl(&process.stdout).unwrap();
    rustix::fs::fcntl_setfl(&process.stdout, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut terminal = std::fs::File::from(process.stdout);
    let mut text = String::new();
    let mut chunk = [0; 512];
    while !text.ends_with("x\r\n") {
        let count = terminal.read(&mut chunk).unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    assert_eq!(text, "/dev/pts/0\r\n30 100\r\nsprite tty 620\r\nx\r\n");
    // An interrupt typed at the terminal reaches the foreground group.
    terminal.write_all(b"\x03").unwrap();
    let code = machine.runtime.block_on(process.exit).unwrap();
    assert_eq!(code, 128 + 2);
}

#[test]
fn signals_reach_process_group_and_foreground_job() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let signal = |pid, number, target| {
        machine.runtime.block_on(machine.launcher().signal(pid, number, target))
    };
    let process = machine.spawn(command(User::Sprite, &["sleep", "1000"])).unwrap();
    signal(process.pid, 15, Target::Process).unwrap();
    assert_eq!(machine.runtime.block_on(process.exit).unwrap(), 128 + 15);
    assert!(signal(process.pid, 15, Target::Process).is_err(), "it was reaped");
    assert!(signal(1, 9, Target::Process).is_err(), "never ours");
    assert!(signal(1, 99, Target::Process).is_err(), "no such signal");

    // The group includes children; a process outside the session is nobody's to signal.
    let script = "sleep 1000 & echo $!; wait";
    let process = machine.spawn(command(User::Sprite, &["sh", "-c", script])).unwrap();
    assert!(signal(process.pid, 9, Target::SessionGroup(std::process::id() as i32)).is_err());
    let pid = process.pid;
    let host_pids = || machine.cgroup.stats().pids.unwrap();
    wait_for("the child", || host_pids() == 3);
    signal(pid, 9, Target::Group).unwrap();
    assert_eq!(machine.runtime.block_on(process.exit).unwrap(), 128 + 9);
    wait_for("the whole group to end", || host_pids() == 1);
}

#[test]
fn descendants_survive_their_command_and_die_with_their_leaf() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let script = "setsid sleep 1000 >/dev/null 2>&1 & sleep 0.1; echo started";
    assert_eq!(machine.shell(User::Sprite, script).ok(), "started");
    assert_eq!(machine.cgroup.stats().pids, Some(2));
    machine.runtime.block_on(machine.launcher().kill_leaf("s-1")).unwrap();
    wait_for("the daemon to end", || machine.cgroup.stats().pids == Some(1));
    machine.runtime.block_on(machine.launcher().kill_leaf("s-none")).unwrap();
}

#[test]
fn leaves_go_when_nothing_runs_in_them() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let Some(directory) = machine.cgroup.cgroup2_dir() else { return };
    for leaf in ["s-1", "s-2", "s-3"] {
        let mut spec = command(User::Sprite, &["true"]);
        spec.leaf = leaf.into();
        machine.run(spec).unwrap().ok();
    }
    wait_for("the leaves to go", || {
        let entries = std::fs::read_dir(directory.join("box")).unwrap().flatten();
        let leaves = entries.filter(|e| e.file_name().to_string_lossy().starts_with("s-"));
        leaves.count() == 0
    });
}

#[test]
fn tools_are_there_and_cannot_be_changed() {
    if !can_run() {
        return;
    }
    let tool = |source: &str, target: &str| Tool { source: source.into(), target: target.into() };
    let tools = vec![
        tool(attack_program().to_str().unwrap(), "/.sprite/bin/tool"),
        tool("/no/such/file", "/.sprite/bin/absent"),
        tool("/bin/busybox", "/bin/cat"),
        tool("/bin/busybox", "/etc"),
    ];
    // A link to the host's files is a link to the container's; it is replaced, not followed.
    let prepare = |root: &std::path::Path| {
        std::fs::remove_file(root.join("bin/cat")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("bin/cat")).unwrap();
    };
    let machine = Machine::start(Setup { tools, prepare, ..Setup::default() });
    let warnings = &machine.container.as_ref().unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(machine.shell(User::Sprite, "/.sprite/bin/tool id").ok(), "1001 1001");
    assert_eq!(machine.shell(User::Sprite, "cat /etc/passwd | head -n1 | cut -c1-4").ok(), "root");
    let out = machine
        .shell(User::Root, "mount -o remount,bind,rw /.sprite/bin/tool; echo x >/.sprite/bin/tool");
    assert_ne!(out.code, 0, "{out:?}");
    assert_eq!(machine.shell(User::Sprite, "/.sprite/bin/tool id").ok(), "1001 1001");
}

#[test]
fn many_commands_at_once_all_come_back() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(Setup::default());
    let codes = machine.runtime.block_on(async {
        let launcher = machine.launcher().clone();
        let mut running = Vec::new();
        for index in 0..40 {
            let mut spec = command(User::Sprite, &["sh", "-c", &format!("exit {index}")]);
            spec.leaf = format!("s-{index}");
            let launcher = launcher.clone();
            running
                .push(tokio::spawn(async move { launcher.spawn(spec).await.unwrap().exit.await }));
        }
        let mut codes = Vec::new();
        for task in running {
            codes.push(task.await.unwrap().unwrap());
        }
        codes
    });
    assert_eq!(codes, (0..40).collect::<Vec<i32>>());
}
