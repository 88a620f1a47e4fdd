//! The link over real unix sockets, with connections that are cut.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::service::TowerToHyperService;
use sprite_linkmux::{
    Dial, Dialing, GuestIdentity, GuestLink, HostIdentity, HostLink, Io, LinkError, LinkState, Unix,
};
use sprite_types::{BootId, MachineId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Setup {
    _dir: tempfile::TempDir,
    socket: std::path::PathBuf,
    machine_id: MachineId,
    boot_id: BootId,
}

fn router() -> Router {
    Router::new()
        .route("/ping", get(|| async { "pong" }))
        .route("/echo", post(|body: Body| async move { body }))
        .route(
            "/upgrade",
            get(|request: axum::extract::Request| async move {
                tokio::spawn(async move {
                    let upgraded = hyper::upgrade::on(request).await.unwrap();
                    let mut io = hyper_util::rt::TokioIo::new(upgraded);
                    let mut buffer = [0; 5];
                    io.read_exact(&mut buffer).await.unwrap();
                    io.write_all(&buffer).await.unwrap();
                    io.shutdown().await.unwrap();
                });
                http::Response::builder()
                    .status(101)
                    .header("connection", "upgrade")
                    .header("upgrade", "echo")
                    .body(Body::empty())
                    .unwrap()
            }),
        )
}

fn serve() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("link.sock");
    let machine_id = MachineId::generate();
    let boot_id = BootId::generate();
    let link = GuestLink::new(GuestIdentity {
        machine_id: machine_id.clone(),
        boot_id: boot_id.clone(),
        secret: SECRET.into(),
    });
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        link.serve_listener(listener, TowerToHyperService::new(router())).await.unwrap();
    });
    Setup { _dir: dir, socket, machine_id, boot_id }
}

fn connect(setup: &Setup, secret: &str) -> HostLink {
    let identity = HostIdentity { machine_id: setup.machine_id.clone(), secret: secret.into() };
    HostLink::connect(identity, Unix(setup.socket.clone()))
}

fn get_request(path: &str) -> http::Request<Empty<bytes::Bytes>> {
    http::Request::get(path).body(Empty::new()).unwrap()
}

async fn ping(link: &HostLink) -> Result<String, LinkError> {
    let response = link.send(get_request("/ping")).await?;
    let body = response.into_body().collect().await;
    let bytes = body.map_err(|error| LinkError::Broken(Box::new(error)))?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_is_answered() {
    let setup = serve();
    let link = connect(&setup, SECRET);
    assert_eq!(ping(&link).await.unwrap(), "pong");
    assert_eq!(*link.state().borrow(), LinkState::Up { epoch: 1, boot_id: setup.boot_id.clone() });
}

#[tokio::test]
async fn large_bodies_flow_both_ways() {
    let setup = serve();
    let link = connect(&setup, SECRET);
    let body: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    let request =
        http::Request::post("/echo").body(Full::new(bytes::Bytes::from(body.clone()))).unwrap();
    let response = link.send(request).await.unwrap();
    let echoed = response.into_body().collect().await.unwrap().to_bytes();
    assert!(echoed == body);
}

#[tokio::test]
async fn an_upgraded_stream_carries_bytes() {
    let setup = serve();
    let link = connect(&setup, SECRET);
    let mut request = get_request("/upgrade");
    request.headers_mut().insert("upgrade", "echo".parse().unwrap());
    let mut upgraded = link.upgrade(request).await.unwrap().expect("101");
    upgraded.io.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    upgraded.io.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"hello");
}

#[tokio::test]
async fn a_wrong_secret_gets_nothing() {
    let setup = serve();
    let link = connect(&setup, &"f".repeat(64));
    assert!(matches!(link.wait_up(Duration::from_millis(300)).await, Err(LinkError::Down)));
}

#[tokio::test]
async fn a_new_host_takes_the_link_over() {
    let setup = serve();
    let old = connect(&setup, SECRET);
    assert_eq!(ping(&old).await.unwrap(), "pong");
    old.close();
    // A restarted host begins again at epoch 1; the guest tells it how far it is.
    let new = connect(&setup, SECRET);
    assert_eq!(ping(&new).await.unwrap(), "pong");
    let (epoch, boot_id) = new.wait_up(Duration::from_secs(5)).await.unwrap();
    assert!(epoch > 1);
    assert_eq!(boot_id, setup.boot_id);
    assert!(matches!(ping(&old).await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn garbage_on_the_socket_harms_nobody_else() {
    let setup = serve();
    let link = connect(&setup, SECRET);
    assert_eq!(ping(&link).await.unwrap(), "pong");
    let mut stranger = UnixStream::connect(&setup.socket).await.unwrap();
    stranger.write_all(&[b'S'; 100_000]).await.unwrap();
    assert_eq!(ping(&link).await.unwrap(), "pong");
}

/// Dials unix sockets that can be cut in the middle of anything.
#[derive(Clone)]
struct Cuttable {
    path: std::path::PathBuf,
    current: Arc<Mutex<Option<Arc<CutFlag>>>>,
}

#[derive(Default)]
struct CutFlag {
    cut: std::sync::atomic::AtomicBool,
    notify: tokio::sync::Notify,
}

impl Cuttable {
    fn cut(&self) {
        if let Some(flag) = self.current.lock().unwrap().take() {
            flag.cut.store(true, std::sync::atomic::Ordering::SeqCst);
            flag.notify.notify_waiters();
        }
    }
}

impl Dial for Cuttable {
    fn dial(&self) -> Dialing<'_> {
        Box::pin(async {
            let stream = UnixStream::connect(&self.path).await?;
            let flag = Arc::new(CutFlag::default());
            *self.current.lock().unwrap() = Some(flag.clone());
            let waker = flag.clone();
            let cut = Box::pin(async move { waker.notify.notified().await });
            Ok(Box::new(CutIo { stream, flag, cut }) as Box<dyn Io>)
        })
    }
}

struct CutIo {
    stream: UnixStream,
    flag: Arc<CutFlag>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl CutIo {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let was_cut = self.flag.cut.load(std::sync::atomic::Ordering::SeqCst);
        if was_cut || self.cut.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl AsyncRead for CutIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CutIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        // Half of it: a cut then leaves part of a frame with the guest.
        let part = bytes.len().div_ceil(2);
        Pin::new(&mut self.stream).poll_write(cx, &bytes[..part])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Requests that break are repeated by their owner; none may hang, and none may get bytes of
/// another epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_survive_a_link_that_is_cut_all_the_time() {
    let setup = serve();
    let identity = HostIdentity { machine_id: setup.machine_id.clone(), secret: SECRET.into() };
    let dial = Cuttable { path: setup.socket.clone(), current: Arc::new(Mutex::new(None)) };
    let link = HostLink::connect(identity, dial.clone());
    let cutter = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            dial.cut();
        }
    });
    let body: Vec<u8> = (0..300_000_u32).map(|i| (i % 241) as u8).collect();
    for round in 0..60 {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            assert!(tokio::time::Instant::now() < deadline, "round {round} hangs");
            let request = http::Request::post("/echo")
                .body(Full::new(bytes::Bytes::from(body.clone())))
                .unwrap();
            let Ok(response) = link.send(request).await else { continue };
            let Ok(echoed) = response.into_body().collect().await else { continue };
            assert!(echoed.to_bytes() == body, "round {round}: foreign bytes");
            break;
        }
    }
    cutter.abort();
    let (epoch, _) = link.wait_up(Duration::from_secs(5)).await.unwrap();
    assert!(epoch > 3, "the link was cut at least a few times, epoch {epoch}");
}
