//! A guest on an in-memory connection, and a small client of it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use sprite_guestd::{Guest, GuestSettings};
use sprite_link::boot::Identity;
use sprite_link::guest::{Attached, SessionCreate, SessionCreated, SessionView};
use sprite_link::session::{Output, SessionFrame};
use sprite_linkmux::HostLink;
use sprite_types::{BootId, MachineId, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A test that waits longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whom a test talks to.
pub(crate) enum Client {
    /// A guest in this process.
    InMemory(Guest),
    /// A machine of its own, over its link.
    Link(HostLink),
}

pub(crate) struct TestGuest {
    pub(crate) guest: Guest,
    pub(crate) home: tempfile::TempDir,
    client: Client,
}

impl std::ops::Deref for TestGuest {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

pub(crate) fn guest() -> TestGuest {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity {
        hostname: "demo".into(),
        sprite_name: "demo".into(),
        url: "http://demo.test".into(),
        environment: vec![("FROM_SPRITE".into(), "1".into())],
        ..Identity::default()
    };
    let (machine, boot) = (MachineId::generate(), BootId::generate());
    let home_path = home.path().canonicalize().unwrap();
    let guest = Guest::new(GuestSettings::plain(machine, boot, identity, home_path));
    TestGuest { guest: guest.clone(), home, client: Client::InMemory(guest) }
}

impl Client {
    /// Opens a connection to the guest.
    pub(crate) async fn connect(&self) -> Box<dyn Io> {
        let guest = match self {
            Self::Link(link) => return Box::new(link.open().await.unwrap()),
            Self::InMemory(guest) => guest,
        };
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let service = TowerToHyperService::new(sprite_guestd::router(guest.clone()));
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), service)
                .with_upgrades();
            let _ = connection.await;
        });
        Box::new(ours)
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Response<hyper::body::Incoming> {
        self.try_send(request).await.expect("a connection that holds")
    }

    async fn try_send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Option<Response<hyper::body::Incoming>> {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.ok()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("host", "guest");
        let response = self.send(request.body(Full::new(body.into())).unwrap()).await;
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value) {
        let (status, body) = self.call(method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn create(&self, create: &SessionCreate) -> SessionCreated {
        let body = serde_json::to_vec(create).unwrap();
        let (status, body) = self.call(Method::POST, "/v1/sessions", body).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    pub(crate) async fn start(&self, create: &SessionCreate) -> SessionView {
        match self.create(create).await {
            SessionCreated::Started { session } => session,
            failed => panic!("{failed:?}"),
        }
    }

    /// Attaches; `query` follows `attachment=`.
    pub(crate) async fn attach(&self, id: SessionId, query: &str) -> Result<Follower, StatusCode> {
        self.try_attach(id, query).await.map_err(|status| status.expect("a link that holds"))
    }

    /// Attaches over a link that may break: then the error is `None`.
    pub(crate) async fn try_attach(
        &self,
        id: SessionId,
        query: &str,
    ) -> Result<Follower, Option<StatusCode>> {
        let path = format!("/v1/sessions/{id}/stream?attachment={query}");
        let request = Request::get(path)
            .header("host", "guest")
            .header("connection", "upgrade")
            .header("upgrade", "sprite-session");
        let request = request.body(Full::default()).unwrap();
        let response = self.try_send(request).await.ok_or(None)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Some(response.status()));
        }
        let io = TokioIo::new(hyper::upgrade::on(response).await.map_err(|_| None)?);
        let mut follower = Follower {
            io: Box::new(io),
            buffer: BytesMut::new(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            end: 0,
            input: 0,
            acked: 0,
        };
        let json = match follower.frame().await.ok_or(None)? {
            SessionFrame::Attached(json) => json,
            other => panic!("the first frame must be `Attached`, not {other:?}"),
        };
        let attached: Attached = serde_json::from_slice(&json).unwrap();
        follower.end = attached.output_from;
        follower.input = attached.input_from;
        follower.acked = attached.input_from;
        Ok(follower)
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, create: &SessionCreate, input: &[u8]) -> (Follower, i32) {
        let session = self.start(create).await;
        let mut follower = self.attach(session.session_id, "a&owner=true").await.unwrap();
        if create.stdin {
            follower.send_all(input).await;
        }
        let code = follower.finish().await;
        (follower, code)
    }
}

pub(crate) trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}

/// What came of one step.
pub(crate) enum Step {
    Frame,
    Exit(i32),
    Broken,
}

/// The host's end of a session stream.
pub(crate) struct Follower {
    io: Box<dyn Io>,
    buffer: BytesMut,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Offset after the last output byte seen.
    pub(crate) end: u64,
    /// Offset after the last input byte sent.
    pub(crate) input: u64,
    pub(crate) acked: u64,
}

impl Follower {
    /// Reads a frame; `None` when the stream ended.
    pub(crate) async fn frame(&mut self) -> Option<SessionFrame> {
        loop {
            if let Some(frame) = SessionFrame::decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let read = self.io.read_buf(&mut self.buffer);
            let read = tokio::time::timeout(PATIENCE, read).await.expect("a frame in time");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: SessionFrame) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        // A stream that broke shows itself where it is read.
        let _ = self.io.write_all(&out).await;
    }

    /// Like [`Follower::step`], over a stream that may break.
    pub(crate) async fn try_step(&mut self) -> Step {
        let Some(frame) = self.frame().await else { return Step::Broken };
        match self.take(frame).await {
            Some(code) => Step::Exit(code),
            None => Step::Frame,
        }
    }

    /// Takes one frame in, keeping output and acknowledging it. Returns the exit code, if any.
    pub(crate) async fn step(&mut self) -> Option<i32> {
        let frame = self.frame().await.expect("no end before the exit");
        self.take(frame).await
    }

    async fn take(&mut self, frame: SessionFrame) -> Option<i32> {
        match frame {
            SessionFrame::Output { output, offset, bytes } => {
                assert_eq!(offset, self.end, "output without gap or repetition");
                self.end += bytes.len() as u64;
                match output {
                    Output::Stdout => self.stdout.extend_from_slice(&bytes),
                    Output::Stderr => self.stderr.extend_from_slice(&bytes),
                }
                self.send(SessionFrame::OutputAck { offset: self.end }).await;
            }
            SessionFrame::InputAck { offset } => {
                assert!(self.acked <= offset && offset <= self.input);
                self.acked = offset;
            }
            SessionFrame::Exit { code } => return Some(code),
            SessionFrame::Port(_) => {}
            frame => panic!("{frame:?}"),
        }
        None
    }

    pub(crate) async fn finish(&mut self) -> i32 {
        loop {
            if let Some(code) = self.step().await {
                self.send(SessionFrame::Detach).await;
                assert_eq!(self.frame().await, None, "nothing follows the exit");
                return code;
            }
        }
    }

    /// Waits until standard output contains `text`.
    pub(crate) async fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            assert_eq!(self.step().await, None, "ended before `{text}`");
        }
    }

    pub(crate) async fn send_input(&mut self, bytes: &[u8]) {
        let frame =
            SessionFrame::Input { offset: self.input, bytes: Bytes::copy_from_slice(bytes) };
        self.input += bytes.len() as u64;
        self.send(frame).await;
    }

    /// Sends input within the window, and its end.
    pub(crate) async fn send_all(&mut self, input: &[u8]) {
        for chunk in input.chunks(64 * 1024) {
            while self.input + chunk.len() as u64 > self.acked + sprite_link::session::INPUT_WINDOW
            {
                assert_eq!(self.step().await, None);
            }
            self.send_input(chunk).await;
        }
        self.send(SessionFrame::InputEof { offset: self.input }).await;
    }
}

pub(crate) fn sh(script: &str) -> SessionCreate {
    command(&["sh", "-c", script])
}

pub(crate) fn command(argv: &[&str]) -> SessionCreate {
    let request_id = BootId::generate().to_string();
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    SessionCreate { request_id, argv, ..SessionCreate::default() }
}
