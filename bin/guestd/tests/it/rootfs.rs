//! A machine of its own: the agent's real program, a small disk, cgroups, a veth pair. All of it
//! goes when the test ends, also after a panic.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sprite_container::cgroup::{Hierarchies, Limits, MachineCgroup};
use sprite_link::boot::{BootSpec, Identity, NetworkSpec, Tool};
use sprite_linkmux::{HostIdentity, HostLink, Unix};
use sprite_types::{BootId, ByteSize, MachineId};

use crate::guest::{Client, PATIENCE};

/// Whether this host can run machines; says why not.
pub(crate) fn can_run() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: needs /bin/busybox, statically linked (apt-get install busybox-static)");
        return false;
    }
    true
}

pub(crate) struct Machine {
    pub(crate) client: Client,
    pub(crate) agent: Child,
    pub(crate) network: NetworkSpec,
    pub(crate) folder: tempfile::TempDir,
    cgroup: MachineCgroup,
    device: PathBuf,
}

impl Machine {
    /// Boots a machine and waits until it answers.
    pub(crate) async fn boot(tools: Vec<Tool>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.ext4");
        make_image(&image);
        let device = losetup(&["--find", "--show", image.to_str().unwrap()]);
        fs::remove_file(&image).unwrap();
        let machine_id = MachineId::generate();
        let limits =
            Limits { memory: Some(ByteSize::mib(256)), cpus: None, pids: Some(500), strict: false };
        let cgroup = Hierarchies::detect().unwrap().create(&machine_id, &limits).unwrap();
        // Told apart from those of other tests that may run on this host.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + std::process::id() * 16;
        let (high, low) = (number / 250 % 32 + 192, number % 250 + 1);
        let network = NetworkSpec {
            host_interface: format!("spt{}", machine_id.tail()),
            address: format!("10.{high}.{low}.2"),
            gateway: format!("10.{high}.{low}.1"),
            mtu: 1400,
        };
        let spec = BootSpec {
            machine_id: machine_id.clone(),
            boot_id: BootId::generate(),
            link_secret: "5".repeat(64),
            link_socket: folder.path().join("link"),
            root_device: device.clone().into(),
            id_base: 1_700_000_000 - 1_700_000_000 % 65_536,
            cgroup_dirs: cgroup.dirs(),
            cgroup2_dir: cgroup.cgroup2_dir(),
            network: Some(network.clone()),
            tools,
            allow_netfilter: false,
            identity: Identity {
                hostname: "demo".into(),
                sprite_id: "sprite-x".into(),
                sprite_name: "demo".into(),
                org: "acme".into(),
                url: "http://demo.test".into(),
                environment: vec![("FROM_SPRITE".into(), "1".into())],
            },
        };
        let mut agent = Command::new(env!("CARGO_BIN_EXE_sprite-guestd"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let json = serde_json::to_vec(&spec).unwrap();
        agent.stdin.take().unwrap().write_all(&json).unwrap();
        let identity = HostIdentity { machine_id, secret: spec.link_secret.clone() };
        let link = HostLink::connect(identity, Unix(spec.link_socket.clone()));
        let machine = Self {
            client: Client::Link(link.clone()),
            agent,
            network,
            folder,
            cgroup,
            device: device.into(),
        };
        link.wait_up(PATIENCE).await.unwrap();
        losetup(&["--detach", machine.device.to_str().unwrap()]);
        machine
    }

    /// Waits for the agent's end and returns its exit code.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let wait = async {
            loop {
                if let Some(status) = self.agent.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the agent ends")
    }

    /// Returns the container's init, as the host counts.
    pub(crate) fn init_pid(&self) -> i32 {
        let init = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            let is_init = inner.split_ascii_whitespace().nth(1) == Some("1");
            (is_init && descends(pid, self.agent.id())).then_some(pid)
        });
        init.expect("the container's init runs")
    }

    pub(crate) fn is_gone(&self) -> bool {
        let interface = Path::new("/sys/class/net").join(&self.network.host_interface);
        let devices = losetup(&["--list", "--noheadings", "--output", "BACK-FILE"]);
        let image = self.folder.path().join("disk.ext4");
        self.cgroup.is_empty() && !interface.exists() && !devices.contains(image.to_str().unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        if std::thread::panicking() {
            let _ = self.cgroup.kill_all();
            let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
        }
        for _ in 0..2000 {
            if self.is_gone() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let gone = self.is_gone();
        let removed = self.cgroup.remove();
        assert!(gone || std::thread::panicking(), "the machine left something behind");
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn losetup(arguments: &[&str]) -> String {
    let output = Command::new("losetup").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether `pid` descends from the agent; never touch the init of somebody else's machine.
fn descends(mut pid: i32, agent: u32) -> bool {
    for _ in 0..4 {
        if u32::try_from(pid) == Ok(agent) {
            return true;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|parent| parent.trim().parse().ok()).unwrap_or(0);
    }
    false
}

const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "id", "env", "pwd", "sleep", "true", "mkdir", "rm", "ln", "head",
    "hostname", "tty", "stty", "ps", "kill", "stat", "dd", "touch", "nc", "seq", "wc", "ip",
    "mkfifo", "printf", "reboot", "killall",
];

fn make_image(image: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in
        ["bin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "home/sprite", ".sprite/bin"]
    {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let own = |path: &str| {
        std::os::unix::fs::chown(root.join(path), Some(1001), Some(1001)).unwrap();
    };
    own("home/sprite");
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nsprite:x:1001:1001::/home/sprite:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\ntty:x:5:\nsprite:x:1001:\n").unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n1.2.3.4 mine\n").unwrap();
    fs::write(root.join("home/sprite/secret"), "root only").unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(image)
        .arg("64m")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}
