//! One disk with its processes, taken down whatever happens.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use sprite_blockdev::keeper::{Client, Mount};
use sprite_blockdev::loopdev::{self, Attached};
use tempfile::TempDir;

use crate::roles::ROLE;

/// After this a test is stuck.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How many kills, seeds or rounds: the default, or what `SPRITES_SEEDS` says.
pub(crate) fn count(default: u64) -> u64 {
    std::env::var("SPRITES_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn can_run() -> bool {
    sprite_testkit::is_root("FUSE and loop devices need root")
}

/// What a server says when it serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Serving {
    pub(crate) incarnation: u32,
    /// Counted in memory that the keeper holds.
    pub(crate) starts: u64,
    pub(crate) executed: usize,
    pub(crate) unseen: usize,
    pub(crate) answered: usize,
}

/// A keeper or server process. Killed when dropped.
pub(crate) struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Role {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line that begins with `word`; none if the process ends without one.
    pub(crate) fn line(&self, word: &str) -> Option<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(word) => return Some(line),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("waited in vain for `{word}`"),
            }
        }
    }

    /// What it says when it serves; none if it was killed before.
    pub(crate) fn serving(&self) -> Option<Serving> {
        let line = self.line("serving")?;
        let n: Vec<u64> = line.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
        let size = |n: u64| usize::try_from(n).unwrap();
        Some(Serving {
            incarnation: u32::try_from(n[0]).unwrap(),
            starts: n[1],
            executed: size(n[2]),
            unseen: size(n[3]),
            answered: size(n[4]),
        })
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Asks a server to drain; returns what it says at its end.
    pub(crate) fn drain(&mut self) -> String {
        writeln!(self.stdin.take().unwrap(), "drain").unwrap();
        let line = self.line("drained").expect("a drained server says so");
        assert!(self.child.wait().unwrap().success());
        line
    }

    /// Has a server give everything to a new keeper.
    pub(crate) fn move_to_keeper(&mut self) {
        writeln!(self.stdin.as_mut().unwrap(), "move").unwrap();
        self.line("moved").expect("the server moves");
    }

    pub(crate) fn wait_end(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk: the folder with its data and socket, its keeper, its device, its mount.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    vars: BTreeMap<&'static str, String>,
    pub(crate) keeper: Option<Role>,
    pub(crate) server: Option<Role>,
    pub(crate) mount: Option<Mount>,
    pub(crate) attached: Option<Attached>,
    mounted: Option<PathBuf>,
}

impl World {
    /// A disk of `len` bytes with a running keeper and no server.
    pub(crate) fn new(len: u64, vars: &[(&'static str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("blockdev").tempdir_in("/var/tmp").unwrap();
        File::create(dir.path().join("data")).unwrap().set_len(len).unwrap();
        let mut vars: BTreeMap<_, _> = vars.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        vars.insert("LEN", len.to_string());
        let mut world = Self {
            dir,
            vars,
            keeper: None,
            server: None,
            mount: None,
            attached: None,
            mounted: None,
        };
        world.keeper = Some(world.start("keeper", &[]));
        world.mount = Some(world.client().mount().unwrap());
        world
    }

    /// As [`World::new`], with a server and a device.
    pub(crate) fn attached(len: u64, vars: &[(&'static str, &str)]) -> Self {
        let mut world = Self::new(len, vars);
        world.serve(&[]);
        world.attach(false);
        world
    }

    pub(crate) fn start(&self, role: &str, vars: &[(&str, &str)]) -> Role {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "roles::entry", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env("DIR", self.dir.path())
            .envs(&self.vars)
            .envs(vars.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let stdin = child.stdin.take();
        Role { child, stdin, lines }
    }

    /// Starts a server and waits until it serves.
    pub(crate) fn serve(&mut self, vars: &[(&str, &str)]) -> Serving {
        let server = self.start("server", vars);
        let serving = server.serving().expect("the server serves");
        self.server = Some(server);
        serving
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect_when_ready(&self.dir.path().join("keeper"), LIMIT).unwrap()
    }

    pub(crate) fn open(&self, read_only: bool) -> File {
        self.mount.as_ref().unwrap().open(read_only).unwrap()
    }

    pub(crate) fn attach(&mut self, read_only: bool) {
        self.attached = Some(loopdev::attach(self.open(read_only), read_only).unwrap());
    }

    pub(crate) fn device(&self) -> &Path {
        self.attached.as_ref().unwrap().device()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Makes a file system and mounts it. Returns its folder.
    pub(crate) fn mount_ext4(&mut self) -> PathBuf {
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,nodiscard"], self.device());
        let folder = self.dir.path().join("mnt");
        fs::create_dir_all(&folder).unwrap();
        let flags = MountFlags::NODEV;
        rustix::mount::mount(self.device(), &folder, "ext4", flags, None).unwrap();
        self.mounted = Some(folder.clone());
        folder
    }

    pub(crate) fn unmount_ext4(&mut self) -> rustix::io::Result<()> {
        match self.mounted.take() {
            Some(folder) => rustix::mount::unmount(folder, UnmountFlags::empty()),
            None => Ok(()),
        }
    }

    pub(crate) fn fsck(&self) {
        let output = Command::new("e2fsck").args(["-fn"]).arg(self.device()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// How many requests the kernel waits for.
    pub(crate) fn waiting(&self) -> u64 {
        let connection = self.mount.as_ref().unwrap().connection().unwrap();
        let path = FuseControl::get().join(format!("{connection}/waiting"));
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    pub(crate) fn assert_nothing_waits(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.waiting() != 0 {
            assert!(Instant::now() < deadline, "{} requests are lost", self.waiting());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has the kernel end the connection.
    pub(crate) fn abort(&self) {
        let connection = self.mount.as_ref().unwrap().connection().unwrap();
        fs::write(FuseControl::get().join(format!("{connection}/abort")), "1").unwrap();
    }

    pub(crate) fn detach(&mut self) {
        if let Some(attached) = self.attached.take() {
            attached.detach(LIMIT).unwrap();
        }
    }

    /// Ends everything in order: nothing may be left, and nothing may fail.
    pub(crate) fn finish(mut self) {
        self.unmount_ext4().unwrap();
        self.detach();
        self.assert_nothing_waits();
        let drained = self.server.take().unwrap().drain();
        assert!(drained.ends_with(" 0"), "replies were refused: {drained}");
        self.mount = None;
        self.client().stop().unwrap();
        let mut keeper = self.keeper.take().unwrap();
        assert_eq!(keeper.line("keeper").unwrap(), "keeper stopped");
        keeper.wait_end();
        assert!(!self.dir.path().join("keeper").exists(), "the socket stays");
    }
}

impl Drop for World {
    /// After a failure: first the processes, so that nothing waits for them any more.
    fn drop(&mut self) {
        self.server = None;
        self.keeper = None;
        self.mount = None;
        if let Some(folder) = self.mounted.take() {
            let _ = rustix::mount::unmount(folder, UnmountFlags::DETACH);
        }
        if let Some(attached) = self.attached.take() {
            let device = attached.device().to_owned();
            if let Err(error) = attached.detach(Duration::from_secs(10)) {
                eprintln!("{} not detached: {error}", device.display());
            }
        }
    }
}

/// The kernel's list of FUSE connections, mounted for this process if it is nowhere.
struct FuseControl;

impl FuseControl {
    fn get() -> &'static Path {
        static FOLDER: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
        FOLDER.get_or_init(|| {
            use rustix::mount::{
                FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
            };
            use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
            // In no folder, so that nothing is left to unmount.
            let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
            fsconfig_create(context.as_fd()).unwrap();
            let flags = FsMountFlags::FSMOUNT_CLOEXEC;
            let mount = fsmount(context.as_fd(), flags, MountAttrFlags::empty()).unwrap();
            let folder = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
            let _open_until_the_end = mount.into_raw_fd();
            folder
        })
    }
}

pub(crate) fn run(program: &str, args: &[&str], last: &Path) {
    let output = Command::new(program).args(args).arg(last).output().unwrap();
    assert!(output.status.success(), "{program}: {}", text(&output));
}

pub(crate) fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

pub(crate) fn read_sys(device: &Path, name: &str) -> String {
    let device = device.file_name().unwrap().to_str().unwrap();
    let mut text = String::new();
    let mut file = File::open(format!("/sys/block/{device}/{name}")).unwrap();
    file.read_to_string(&mut text).unwrap();
    text.trim().to_owned()
}
