//! A server on a free port, and raw clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use sprite_catalog::{Catalog, Org};
use sprite_lifecycle::{ImageState, LifecycleSettings, ReadyImage, Sprites, Storage, UrlSettings};
use sprite_server::{Readiness, Server, ServerSettings};
use sprite_substrate::{Fake, Substrate};
use sprite_types::{ByteSize, HostId, ImageId, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) org: Org,
    pub(crate) catalog: Catalog,
    pub(crate) sprites: Sprites,
    pub(crate) readiness: watch::Sender<Readiness>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) dir: tempfile::TempDir,
    _image: watch::Sender<ImageState>,
    _guard: DropGuard,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

pub(crate) async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let catalog = Catalog::open(dir.path(), HostId::generate(), clock.clone()).unwrap();
    let org = catalog.ensure_org(&"acme".parse().unwrap()).await.unwrap();
    let (_, token) = catalog.create_token(&org.id, "tests").await.unwrap();
    let ready = ReadyImage { id: ImageId::generate(), path: "/dev/null".into() };
    let (image, image_state) = watch::channel(ImageState::Ready(ready));
    let settings = LifecycleSettings {
        url: UrlSettings { scheme: "http".into(), domain: "sprites.test".into(), port: None },
        running_max: 20,
        boots_max: 4,
        memory_default: ByteSize::mib(512),
        cpus_default: None,
        pids_max: 100,
    };
    let substrate = Substrate::Fake(Fake::new(dir.path().join("homes")));
    let storage = Storage::None;
    let sprites =
        Sprites::start(settings, catalog.clone(), substrate, storage, image_state, clock.clone())
            .await
            .unwrap();
    let (readiness, ready) = watch::channel(Readiness::Ready);
    let settings = ServerSettings {
        sprite_domain: "sprites.test".into(),
        api_hosts: vec!["api.sprites.test".into()],
        connections_max: ServerSettings::CONNECTIONS_MAX,
        readiness: ready,
        clock,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = Server::new(settings, catalog.clone(), sprites.clone());
    tokio::spawn(server.serve(listener, shutdown.clone()));
    World {
        address,
        token,
        org,
        catalog,
        sprites,
        readiness,
        _guard: shutdown.clone().drop_guard(),
        shutdown,
        dir,
        _image: image,
    }
}

/// A world with the running sprite `box`.
pub(crate) async fn world_with_sprite() -> World {
    let world = world().await;
    let answer = world.call("POST", "/v1/sprites", r#"{"name":"box"}"#).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    world
}

impl World {
    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub(crate) async fn call(&self, method: &str, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call_with(method, target, &[("authorization", &self.bearer())], body).await
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub(crate) async fn call_with(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let body = body.as_ref();
        let mut stream = self.connect().await;
        let mut head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let (mut read, mut write) = stream.split();
        let send = async {
            // The server may answer and close before it has read everything.
            let _ = write.write_all(head.as_bytes()).await;
            let _ = write.write_all(body).await;
        };
        let mut all = Vec::new();
        let receive = async { read.read_to_end(&mut all).await };
        let (_, received) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await.unwrap();
        received.unwrap_or_else(|error| panic!("{method} {target:.100}: {error}"));
        parse_answer(&all)
    }

    /// Opens a WebSocket, or returns the answer that refused it.
    pub(crate) async fn socket(&self, target: &str) -> Result<Socket, Answer> {
        self.socket_with(target, &self.bearer()).await
    }

    pub(crate) async fn socket_with(
        &self,
        target: &str,
        authorization: &str,
    ) -> Result<Socket, Answer> {
        let mut stream = self.connect().await;
        // The key of RFC 6455, section 1.3, and below its answer.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let head = format!(
            "GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\
             sec-websocket-extensions: permessage-deflate\r\nauthorization: {authorization}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap();
            head.push(byte);
        }
        let (status, headers) = parse_head(&head);
        if status != 101 {
            let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            return Err(Answer { status, headers, body: body.into() });
        }
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!headers.contains_key("sec-websocket-extensions"));
        let inner = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        Ok(Socket { inner, headers, tty: false })
    }

    /// Runs a command without a terminal to its end.
    pub(crate) async fn run(&self, query: &str) -> Outcome {
        let mut socket = self.socket(&format!("/v1/sprites/box/exec?{query}")).await.unwrap();
        // A command that does not start has no description to tell.
        socket.tty = query.contains("tty=true");
        socket.outcome().await
    }
}

fn parse_head(bytes: &[u8]) -> (StatusCode, HeaderMap) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    assert!(response.parse(bytes).unwrap().is_complete());
    let status = StatusCode::from_u16(response.code.unwrap()).unwrap();
    let headers = response
        .headers
        .iter()
        .map(|field| {
            let name: http::HeaderName = field.name.parse().unwrap();
            (name, http::HeaderValue::from_bytes(field.value).unwrap())
        })
        .collect();
    (status, headers)
}

pub(crate) fn parse_answer(all: &[u8]) -> Answer {
    let end = all.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(all))) + 4;
    let (status, headers) = parse_head(&all[..end]);
    let mut body = all[end..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        body = chunks(&body).concat();
    }
    Answer { status, headers, body: body.into() }
}

/// Splits a chunked body; panics if it is cut short.
pub(crate) fn chunks(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").expect("a size line");
        let size = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        body = &body[end + 2..];
        if size == 0 {
            assert_eq!(body, b"\r\n");
            return chunks;
        }
        chunks.push(body[..size].to_vec());
        body = &body[size + 2..];
    }
}

pub(crate) struct Socket {
    pub(crate) inner: WebSocketStream<TcpStream>,
    pub(crate) headers: HeaderMap,
    tty: bool,
}

/// Everything a socket said, in the order of its kinds.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) info: Value,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) texts: Vec<Value>,
    pub(crate) exit: Option<u8>,
    pub(crate) close: Option<u16>,
}

impl Outcome {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Socket {
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let message =
                tokio::time::timeout(PATIENCE, self.inner.next()).await.expect("a message")?;
            match message.ok()? {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return Some(message),
            }
        }
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.inner.send(message).await.unwrap();
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.send(Message::Binary(Bytes::copy_from_slice(bytes))).await;
    }

    /// Reads `session_info`.
    pub(crate) async fn info(&mut self) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => {
                let info: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(info["type"], "session_info");
                self.tty = info["tty"] == true;
                info
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reads to the end.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(message) = self.next().await {
            assert!(outcome.close.is_none(), "nothing follows a close");
            match message {
                Message::Text(text) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    if value["type"] == "session_info" {
                        assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty());
                        self.tty = value["tty"] == true;
                        outcome.info = value;
                    } else {
                        outcome.texts.push(value);
                    }
                }
                Message::Binary(bytes) => {
                    assert!(outcome.exit.is_none(), "nothing follows the exit");
                    assert!(bytes.len() <= 65_536, "{} bytes in one message", bytes.len());
                    if self.tty {
                        outcome.stdout.extend_from_slice(&bytes);
                        continue;
                    }
                    match bytes[0] {
                        1 => outcome.stdout.extend_from_slice(&bytes[1..]),
                        2 => outcome.stderr.extend_from_slice(&bytes[1..]),
                        3 => {
                            assert_eq!(bytes.len(), 2);
                            let text = outcome.texts.last().expect("the text comes first");
                            assert_eq!(text["type"], "exit");
                            assert_eq!(text["exit_code"], bytes[1]);
                            assert_eq!(text["code"], bytes[1]);
                            outcome.exit = Some(bytes[1]);
                        }
                        other => panic!("stream byte {other}"),
                    }
                }
                Message::Close(frame) => outcome.close = Some(frame.unwrap().code.into()),
                other => panic!("{other:?}"),
            }
        }
        outcome
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Percent-encodes a query value.
pub(crate) fn q(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
