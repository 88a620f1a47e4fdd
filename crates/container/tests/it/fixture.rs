//! A root file system, a machine's control groups, and a launcher, all of which go away.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sprite_container::cgroup::{Hierarchies, Limits, MachineCgroup};
use sprite_container::{
    Container, ContainerSpec, HelperFn, Launcher, Process, RootDisk, SpawnError, SpawnSpec,
    StartError, Stdio, Tool, User,
};
use sprite_types::{ByteSize, MachineId};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// First id of the tests' containers.
pub(crate) const ID_BASE: u32 = 1_900_000_000 - 1_900_000_000 % 65_536;

/// Whether this host can run containers; says why not.
pub(crate) fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    let busybox = Path::new("/bin/busybox").exists();
    if root && !busybox {
        println!("skipped: needs /bin/busybox, statically linked (apt-get install busybox-static)");
    }
    root && busybox
}

/// What every test may change before the start.
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) helpers: Vec<(&'static str, HelperFn)>,
    pub(crate) allow_netfilter: bool,
    pub(crate) tools: Vec<Tool>,
    /// Changes the root file system before the image is made.
    pub(crate) prepare: fn(&Path),
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits {
            memory: Some(ByteSize::mib(256)),
            cpus: Some(1.0),
            pids: Some(200),
            strict: true,
        };
        Self {
            limits,
            helpers: Vec::new(),
            allow_netfilter: false,
            tools: Vec::new(),
            prepare: |_| {},
        }
    }
}

/// A machine under test. Everything it made is gone when it is dropped, also after a panic.
pub(crate) struct Machine {
    pub(crate) runtime: Runtime,
    pub(crate) launcher: Option<Launcher>,
    pub(crate) container: Option<Container>,
    pub(crate) cgroup: MachineCgroup,
    launcher_pid: i32,
    device: Loop,
    work: TempDir,
}

impl Machine {
    pub(crate) fn start(setup: Setup) -> Self {
        Self::try_start(setup).unwrap_or_else(|error| panic!("start: {error}"))
    }

    pub(crate) fn try_start(setup: Setup) -> Result<Self, StartError> {
        let work = tempfile::Builder::new().prefix("sprite-container-").tempdir().unwrap();
        let image = work.path().join("disk.ext4");
        make_image(&image, setup.prepare);
        let device = Loop::attach(&image);
        // Attached; nothing of it need stay when the test is killed.
        fs::remove_file(&image).unwrap();
        let stage = work.path().join("work");
        fs::create_dir(&stage).unwrap();
        let hierarchies = Hierarchies::detect().unwrap();
        let cgroup = hierarchies.create(&MachineId::generate(), &setup.limits).unwrap();
        let launcher = Launcher::fork(&setup.helpers).unwrap();
        let launcher_pid = launcher.pid();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let spec = ContainerSpec {
            root: RootDisk::Device(device.path.clone()),
            work_dir: stage,
            id_base: ID_BASE,
            cgroup_dirs: cgroup.dirs(),
            cgroup2_dir: cgroup.cgroup2_dir(),
            hostname: "sprite".into(),
            tools: setup.tools,
            allow_netfilter: setup.allow_netfilter,
        };
        let mut machine = Self {
            runtime,
            launcher: Some(launcher),
            container: None,
            cgroup,
            launcher_pid,
            device,
            work,
        };
        machine.container = Some(machine.runtime.block_on(machine.launcher().start(spec))?);
        // From now on it goes with its last user.
        machine.device.detach();
        Ok(machine)
    }

    pub(crate) fn launcher(&self) -> &Launcher {
        self.launcher.as_ref().unwrap()
    }

    /// Directory that holds the machine's work directory.
    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    pub(crate) fn spawn(&self, spec: SpawnSpec) -> Result<Process, SpawnError> {
        self.runtime.block_on(self.launcher().spawn(spec))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, spec: SpawnSpec) -> Result<Output, SpawnError> {
        let process = self.spawn(spec)?;
        Ok(self.finish(process))
    }

    /// Runs a shell script as the given user.
    pub(crate) fn shell(&self, user: User, script: &str) -> Output {
        self.run(command(user, &["/bin/sh", "-c", script])).unwrap()
    }

    /// Collects a process's output and exit code.
    pub(crate) fn finish(&self, process: Process) -> Output {
        let stderr = process.stderr.map(|fd| std::thread::spawn(move || read_all(fd)));
        drop(process.stdin);
        let stdout = std::thread::spawn(move || read_all(process.stdout));
        let code = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), process.exit).await });
        let code = code.expect("the command ends").expect("the launcher lives");
        let stdout = stdout.join().unwrap();
        let stderr = stderr.map(|reader| reader.join().unwrap()).unwrap_or_default();
        Output { code, stdout, stderr }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.launcher.take());
        // The driver task notices, the launcher ends, and its init is killed with it.
        let pid = self.launcher_pid;
        let gone = || {
            let _ = rustix::process::waitpid(
                rustix::process::Pid::from_raw(pid),
                rustix::process::WaitOptions::NOHANG,
            );
            !Path::new(&format!("/proc/{pid}")).exists()
        };
        self.runtime.block_on(async {
            for _ in 0..1000 {
                if gone() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        // This thread shares the launcher's mount namespace; an agent would end now.
        for path in ["work/stage", "work/root", "work"] {
            let path = self.work.path().join(path);
            let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
        }
        if std::thread::panicking() {
            let _ = self.cgroup.kill_all();
        }
        wait_for("the machine's processes to end", || self.cgroup.is_empty());
        self.cgroup.remove().unwrap();
        self.device.detach();
        let image = self.work.path().join("disk.ext4");
        wait_for("the loop device to be released", || !loop_files().contains(&image));
    }
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout.trim_end().to_owned()
    }
}

/// A command with pipes, in a leaf of its own.
pub(crate) fn command(user: User, argv: &[&str]) -> SpawnSpec {
    SpawnSpec {
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        path: None,
        env: vec![("PATH".into(), "/bin:/usr/bin".into())],
        dir: None,
        user,
        stdio: Stdio::Pipes { stdin: false },
        leaf: "s-1".into(),
    }
}

/// Reads a descriptor that does not block to its end. A terminal ends with an error.
pub(crate) fn read_all(fd: OwnedFd) -> String {
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    rustix::fs::fcntl_setfl(&fd, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut bytes = Vec::new();
    let _ = fs::File::from(fd).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A loop device; detached when dropped. Once mounted it goes with its last user.
struct Loop {
    path: PathBuf,
    attached: bool,
}

impl Loop {
    fn attach(image: &Path) -> Self {
        let output =
            Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { path: String::from_utf8(output.stdout).unwrap().trim().into(), attached: true }
    }

    fn detach(&mut self) {
        if std::mem::take(&mut self.attached) {
            let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The files behind all loop devices of the host.
pub(crate) fn loop_files() -> Vec<PathBuf> {
    let arguments = ["--list", "--noheadings", "--output", "BACK-FILE"];
    let output = Command::new("losetup").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim().trim_end_matches(" (deleted)").into()).collect()
}

/// The statically linked attack program.
pub(crate) fn attack_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // On a machine without a compiler.
        if let Some(given) = std::env::var_os("SPRITE_TEST_ATTACK") {
            return given.into();
        }
        // A name of this process's own: several may run, and the kernel refuses to execute a
        // file that is being written.
        let name = format!("attack-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut compiler = Command::new("cc")
            .args(["-static", "-O1", "-Wall", "-Werror", "-x", "c", "-", "-o"])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Not by its path: clones that share a target folder share this program, too.
        let source = include_bytes!("attack.c");
        compiler.stdin.take().unwrap().write_all(source).unwrap();
        assert!(compiler.wait().unwrap().success(), "compile the attack program");
        let shared = path.with_file_name("attack");
        fs::rename(&path, &shared).unwrap();
        shared
    })
}

/// Makes a small ext4 image: busybox, users, a planted device node and a planted set-user-id
/// program.
fn make_image(image: &Path, prepare: fn(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["bin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "home/sprite", "mnt"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    std::os::unix::fs::chown(root.join("home/sprite"), Some(1001), Some(1001)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::copy(attack_program(), root.join("bin/attack")).unwrap();
    fs::copy(attack_program(), root.join("bin/planted-suid")).unwrap();
    let mode = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(root.join("bin/planted-suid"), mode).unwrap();
    // 1:5 is the zero device: harmless, and readable if the node works.
    for (path, major, minor) in [("planted-zero", 1, 5), ("dev/planted-zero", 1, 5)] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join(path),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from_raw_mode(0o666),
            rustix::fs::makedev(major, minor),
        )
        .unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nsprite:x:1001:1001::/home/sprite:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:\ntty:x:5:\nsudo:x:27:sprite\nusers:x:100:sprite\nsprite:x:1001:\n";
    fs::write(root.join("etc/group"), group).unwrap();
    prepare(root);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(image)
        .arg("48m")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "id", "env", "pwd", "sleep", "true", "false", "mount", "umount",
    "mkdir", "rm", "ln", "mknod", "od", "head", "grep", "hostname", "tty", "stty", "ps", "kill",
    "unshare", "readlink", "stat", "chmod", "dd", "yes", "touch", "cut", "ip", "ping", "nc",
    "setsid", "seq", "wc", "tr", "find", "test", "printf", "cp", "su", "uname", "date", "rmdir",
];
