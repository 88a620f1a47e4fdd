//! A host, a fake Internet and sprites, each a network namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sprite_network::{Network, NetworkSettings, NetworkSpec};
use sprite_types::MachineId;

/// Set in the process that runs inside the host's namespace.
const INSIDE: &str = "SPRITE_NETWORK_TEST_INSIDE";
/// Long enough for an answer on this computer; what is dropped in silence waits for all of it.
const PATIENCE: Duration = Duration::from_millis(400);

pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const HOST_UPLINK: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const HOST_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub(crate) const CGNAT: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Runs `body` in a process of its own, whose network and mount namespaces are new. `name` is
/// the calling test's path.
pub(crate) fn in_own_world(name: &str, body: impl AsyncFnOnce(World)) {
    if !sprite_testkit::is_root("network namespaces need root") {
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(async { body(World::new()).await });
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--fork", "--kill-child", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "see above");
}

/// A network namespace, kept by a process that sleeps.
pub(crate) struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "600"])
            .spawn()
            .unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        let comm = format!("/proc/{}/comm", child.id());
        sprite_testkit::eventually("the namespace exists", || {
            fs::read_link(&path).is_ok_and(|its| its != own)
                && fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n")
        });
        Self(child)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Runs `body` on a thread inside.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        std::thread::scope(|scope| {
            let entered = move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                body()
            };
            scope.spawn(entered).join().unwrap()
        })
    }

    /// Runs `ip -batch -` inside.
    pub(crate) fn ip(&self, batch: &str) {
        self.run(|| ip(batch));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `ip -batch -` in the calling thread's namespace.
pub(crate) fn ip(batch: &str) {
    feed(Command::new("ip").args(["-batch", "-"]), batch);
}

pub(crate) fn nft(text: &str) {
    feed(Command::new("nft").args(["-f", "-"]), text);
}

pub(crate) fn ruleset() -> String {
    String::from_utf8(Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout)
        .unwrap()
}

fn feed(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}: {input}");
}

/// Host, outside and a neighbour in the host's LAN; the calling process is the host.
pub(crate) struct World {
    pub(crate) outside: Namespace,
    pub(crate) lan: Namespace,
    pub(crate) run_dir: sprite_testkit::TempDir,
    /// What UDP packets that reached the outside say.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
    /// Who connected to the outside last, as seen there.
    pub(crate) peer: Arc<Mutex<Option<SocketAddr>>>,
    pub(crate) dns_queries: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let (outside, lan) = (Namespace::new(), Namespace::new());
        ip(&format!(
            "link set lo up\n\
             link add up0 mtu 1400 type veth peer name up1 mtu 1400 netns {}\n\
             address add {HOST_UPLINK}/24 dev up0\n\
             link set up0 up\n\
             link add lan0 type veth peer name lan1 netns {}\n\
             address add 10.50.0.1/24 dev lan0\n\
             link set lan0 up\n\
             address add {HOST_PUBLIC}/32 dev lo\n",
            outside.pid(),
            lan.pid()
        ));
        let mut batch = "link set lo up\n\
             address add 198.51.100.2/24 dev up1\n\
             link set up1 up\n\
             route add 10.77.0.0/16 via 198.51.100.1\n\
             route add 10.50.0.0/24 via 198.51.100.1\n"
            .to_owned();
        for address in [OUTSIDE, PRIVATE, METADATA, CGNAT] {
            batch += &format!("address add {address}/32 dev lo\n");
        }
        outside.ip(&batch);
        lan.ip(&format!(
            "link set lo up\naddress add {LAN}/24 dev lan1\nlink set lan1 up\n\
             route add default via 10.50.0.1\n"
        ));
        ip("route add default via 198.51.100.2\n");

        let (peer, heard) = (Arc::default(), Arc::default());
        outside.run(|| {
            serve_tcp(80, Arc::clone(&peer));
            hear_udp(9, Arc::clone(&heard));
        });
        lan.run(|| serve_tcp(80, Arc::default()));
        for port in [22, 8080] {
            serve_tcp(port, Arc::default());
        }
        let dns_queries = Arc::default();
        serve_dns(Arc::clone(&dns_queries));
        let run_dir = sprite_testkit::tempdir().unwrap();
        fs::write(run_dir.path().join("resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
        Self { outside, lan, run_dir, heard, peer, dns_queries }
    }

    pub(crate) fn settings(&self) -> NetworkSettings {
        NetworkSettings {
            resolv_conf: self.run_dir.path().join("resolv.conf"),
            runtime_dir: self.run_dir.path().to_owned(),
            ..NetworkSettings::default()
        }
    }

    pub(crate) async fn prepare(&self, settings: NetworkSettings) -> Network {
        let network = Network::open(settings).unwrap();
        network.prepare().await.unwrap();
        network
    }

    /// Starts a "machine": what the guest agent does for a container.
    pub(crate) async fn sprite(&self, network: &Network) -> Sprite {
        let namespace = Namespace::new();
        let machine = MachineId::generate();
        let spec = network.allocate(&machine).unwrap();
        network.admit(&spec).await.unwrap();
        let batch = spec.veth_batch(namespace.pid());
        ip(&batch.create);
        write_sysctls(&batch.host_sysctls);
        ip(&batch.connect);
        namespace.run(|| write_sysctls(&batch.guest_sysctls));
        namespace.ip(&batch.guest);
        Sprite { namespace, machine, spec }
    }
}

fn write_sysctls(sysctls: &[(String, &'static str)]) {
    for (path, value) in sysctls {
        match fs::write(path, value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.unwrap(),
        }
    }
}

pub(crate) struct Sprite {
    pub(crate) namespace: Namespace,
    pub(crate) machine: MachineId,
    pub(crate) spec: NetworkSpec,
}

impl Sprite {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.spec.address.parse().unwrap()
    }

    /// Says whether a TCP connection carries data both ways.
    pub(crate) fn reaches(&self, address: impl Into<std::net::IpAddr>, port: u16) -> bool {
        let address = address.into();
        self.namespace.run(|| reaches((address, port)))
    }

    /// Waits until a TCP connection carries data both ways: a link that has just come up, or a
    /// busy computer, may lose the first packet.
    #[track_caller]
    pub(crate) fn must_reach(&self, address: impl Into<std::net::IpAddr>, port: u16) {
        let address = address.into();
        sprite_testkit::eventually(&format!("{address}:{port} is reached"), || {
            self.reaches(address, port)
        });
    }

    /// Starts an echo server inside.
    pub(crate) fn serve(&self, port: u16) {
        self.namespace.run(|| serve_tcp(port, Arc::default()));
    }

    /// Sends a UDP packet to the outside from `source`, with that address in it.
    pub(crate) fn send_from(&self, source: Ipv4Addr) {
        self.namespace.run(|| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            // The firewall may answer at once, and the kernel reports it on a later send.
            let _ = socket.send_to(source.to_string().as_bytes(), (OUTSIDE, 9));
        });
    }

    /// Asks the gateway over UDP; `None` if it does not answer.
    pub(crate) fn resolves_over_udp(&self) -> bool {
        self.namespace.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((GATEWAY, 53)).unwrap();
            let _ = socket.send(&dns_query());
            let mut answer = [0; 512];
            matches!(socket.recv(&mut answer), Ok(len) if is_dns_answer(&answer[..len]))
        })
    }

    /// Asks the gateway over TCP.
    pub(crate) fn resolves_over_tcp(&self) -> bool {
        self.namespace.run(|| {
            let Ok(mut stream) = connect((GATEWAY, 53)) else { return false };
            let query = dns_query();
            let len = u16::try_from(query.len()).unwrap().to_be_bytes();
            stream.write_all(&[&len, &query[..]].concat()).unwrap();
            let mut answer = [0; 512];
            matches!(stream.read(&mut answer), Ok(len) if len > 2 && is_dns_answer(&answer[2..len]))
        })
    }
}

/// Says whether a TCP connection from the calling thread's namespace carries data both ways.
pub(crate) fn reaches(target: impl ToSocketAddrs) -> bool {
    let Ok(mut stream) = connect(target) else { return false };
    let mut echo = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut echo).is_ok() && echo == *b"ping"
}

pub(crate) fn connect(target: impl ToSocketAddrs) -> std::io::Result<TcpStream> {
    connect_within(PATIENCE, target)
}

pub(crate) fn connect_within(
    patience: Duration,
    target: impl ToSocketAddrs,
) -> std::io::Result<TcpStream> {
    let target = target.to_socket_addrs()?.next().unwrap();
    let stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// An echo server on every address of the calling thread's namespace, until the process ends.
fn serve_tcp(port: u16, peer: Arc<Mutex<Option<SocketAddr>>>) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            *peer.lock().unwrap() = stream.peer_addr().ok();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut (&stream), &mut (&stream));
            });
        }
    });
}

fn hear_udp(port: u16, heard: Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, _)) = socket.recv_from(&mut buffer) {
            heard.lock().unwrap().push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
    });
}

/// A resolver on the host's 127.0.0.53, as systemd-resolved is, that says yes to everything.
fn serve_dns(queries: Arc<AtomicUsize>) {
    let answer = |query: &[u8]| {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer
    };
    let udp = UdpSocket::bind("127.0.0.53:53").unwrap();
    let tcp = TcpListener::bind("127.0.0.53:53").unwrap();
    let counted = Arc::clone(&queries);
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, peer)) = udp.recv_from(&mut query) {
            counted.fetch_add(1, Ordering::SeqCst);
            udp.send_to(&answer(&query[..len]), peer).unwrap();
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            queries.fetch_add(1, Ordering::SeqCst);
            let mut query = [0; 512];
            let len = stream.read(&mut query).unwrap();
            let answer = answer(&query[2..len]);
            stream.write_all(&[&query[..2], &answer].concat()).unwrap();
        }
    });
}

fn dns_query() -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x07example\x04test\0\0\x01\0\x01");
    query
}

fn is_dns_answer(answer: &[u8]) -> bool {
    answer.len() >= 12
        && answer[..2] == [0x12, 0x34]
        && answer[2] & 0x80 != 0
        && answer[3] & 15 == 0
}
