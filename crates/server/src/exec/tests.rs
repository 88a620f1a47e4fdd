//! Sessions over a link that breaks, with a real guest.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::service::TowerToHyperService;
use sprite_api::session::{ExecRequest, TerminalSize};
use sprite_guestd::{Guest, GuestSettings, router};
use sprite_link::guest::SessionCreated;
use sprite_linkmux::{Dial, GuestIdentity, GuestLink, HostIdentity, HostLink, Io};
use sprite_types::{BootId, MachineId};
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;

use super::attachment::Attachment;
use super::machine::{Machine, StartError, Started, session_create, unguessable};
use super::socket::{self, Kind};

/// Dials a guest in this process and remembers what to abort to cut the link.
#[derive(Clone)]
struct Cuttable {
    link: GuestLink,
    guest: Guest,
    current: Arc<Mutex<Option<AbortHandle>>>,
}

impl Cuttable {
    fn cut(&self) {
        if let Some(current) = self.current.lock().unwrap().take() {
            current.abort();
        }
    }
}

impl Dial for Cuttable {
    fn dial(&self) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + '_>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (link, guest) = (self.link.clone(), self.guest.clone());
        let served = tokio::spawn(async move {
            let _ = link.serve_io(theirs, TowerToHyperService::new(router(guest))).await;
        });
        *self.current.lock().unwrap() = Some(served.abort_handle());
        Box::pin(async { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}

struct World {
    link: HostLink,
    dial: Cuttable,
    _home: tempfile::TempDir,
}

fn world() -> World {
    let home = tempfile::tempdir().unwrap();
    let (machine_id, boot_id) = (MachineId::generate(), BootId::generate());
    let settings = GuestSettings::plain(
        machine_id.clone(),
        boot_id.clone(),
        sprite_link::boot::Identity::default(),
        home.path().to_owned(),
    );
    let secret = "0".repeat(64);
    let identity =
        GuestIdentity { machine_id: machine_id.clone(), boot_id, secret: secret.clone() };
    let dial = Cuttable {
        link: GuestLink::new(identity),
        guest: Guest::new(settings),
        current: Arc::default(),
    };
    let link = HostLink::connect(HostIdentity { machine_id, secret }, dial.clone());
    World { link, dial, _home: home }
}

impl World {
    /// Runs a command behind a socket and returns the client's end.
    fn run(&self, argv: &[&str]) -> WebSocketStream<tokio::io::DuplexStream> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecRequest { argv, stdin: true, ..ExecRequest::default() };
        let machine = Machine { link: self.link.clone() };
        let starting = Box::pin(async move {
            let create = session_create(request, unguessable());
            match machine
                .create_session(&create)
                .await
                .map_err(|e| StartError::Refused(e.into()))?
            {
                SessionCreated::Started { session } => {
                    Ok(Started { machine, session_id: session.session_id })
                }
                SessionCreated::Failed { exit_code, message } => {
                    Err(StartError::Failed { exit_code, message })
                }
            }
        });
        let attachment = Attachment::start(starting, TerminalSize::default());
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let kind = Kind { tty: Some(false), stdin: true };
            let socket = socket::accept(theirs).await;
            socket::serve(socket, attachment, kind, CancellationToken::new()).await;
        });
        let client = WebSocketStream::from_raw_socket(ours, Role::Client, None);
        futures::FutureExt::now_or_never(client).expect("nothing to wait for")
    }

    /// Cuts the link again and again until the future is done.
    async fn cutting<T>(&self, every: Duration, future: impl Future<Output = T>) -> (T, u32) {
        let mut cuts = 0;
        tokio::pin!(future);
        loop {
            match tokio::time::timeout(every, &mut future).await {
                Ok(done) => return (done, cuts),
                Err(_) => {
                    self.dial.cut();
                    cuts += 1;
                }
            }
        }
    }
}

/// Reads standard output and the exit code; panics on anything out of order.
async fn read_all(
    stream: &mut (impl futures::Stream<Item = Result<Message, WsError>> + Unpin),
) -> (Vec<u8>, Option<u8>) {
    let (mut out, mut exit) = (Vec::new(), None);
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Binary(bytes) = message {
            assert_eq!(exit, None);
            match bytes[0] {
                1 => out.extend_from_slice(&bytes[1..]),
                3 => exit = Some(bytes[1]),
                other => panic!("stream byte {other}: {bytes:?}"),
            }
        }
    }
    (out, exit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_complete_and_in_order_while_the_link_is_cut() {
    let world = world();
    let mut socket = world.run(&[
        "sh",
        "-c",
        "i=0; while [ $i -lt 30 ]; do seq $i 40000; sleep 0.05; i=$((i+1)); done",
    ]);
    let read = async { read_all(&mut socket).await };
    let ((out, exit), cuts) = world.cutting(Duration::from_millis(100), read).await;
    let expected: String = (0..30).flat_map(|i| (i..=40000).map(|n| format!("{n}\n"))).collect();
    assert_eq!(out.len(), expected.len());
    assert!(out == expected.as_bytes());
    assert_eq!(exit, Some(0));
    assert!(cuts > 5, "{cuts} cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_arrives_once_while_the_link_is_cut() {
    let world = world();
    let socket = world.run(&["cat"]);
    let (mut sink, mut stream) = socket.split();
    let data: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = data.clone();
    let send = async move {
        for piece in sent.chunks(100_000) {
            sink.send(Message::Binary([&[0], piece].concat().into())).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sink.send(Message::Binary(Bytes::from_static(&[4]))).await.unwrap();
        // Ends with the other half.
        sink
    };
    let both = async { tokio::join!(send, read_all(&mut stream)).1 };
    let ((out, exit), cuts) = world.cutting(Duration::from_millis(100), both).await;
    assert_eq!(out.len(), data.len());
    assert!(out == data);
    assert_eq!(exit, Some(0));
    assert!(cuts > 3, "{cuts} cuts");
}

#[tokio::test]
async fn a_machine_that_is_given_up_ends_its_sockets() {
    let world = world();
    let mut socket = world.run(&["sleep", "1000"]);
    let first = socket.next().await.unwrap().unwrap();
    assert!(first.to_text().unwrap().contains("session_info"));
    world.link.close();
    let mut rest = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        rest.push(message);
    }
    assert_eq!(rest[0], Message::text(r#"{"type":"exit","exit_code":137,"code":137}"#));
    assert_eq!(rest[1], Message::Binary(Bytes::from_static(&[3, 137])));
    match &rest[2] {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
}
