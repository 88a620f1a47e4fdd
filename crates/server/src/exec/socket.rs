//! One client's WebSocket and the session behind it.
//!
//! Two halves run side by side: [`writer`](super::writer) sends, and the relay here reads the
//! client, follows the session and decides when it is over. Neither waits for the other beyond
//! a bounded queue.
//!
//! # Invariants
//! - The first binary message comes after `session_info`.
//! - A socket with an unfinished command gets its exit before it is closed, unless the server
//!   itself goes away and the command runs on.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::SplitStream;
use futures::{Stream, StreamExt as _};
use sprite_api::exec::ServerMessage;
use sprite_link::session::Output;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::attachment::{Attachment, Event};
use super::machine::StartError;
use super::translate::{self, FromClient};
use super::writer::{self, Outgoing, WriteError};

/// Largest message taken from a client, in bytes.
const MESSAGE_MAX: usize = 80 * 1024 * 1024;
/// Bytes read from a socket at a time; every open one holds this much.
const READ_BUFFER: usize = 32 * 1024;
/// Input kept here before the socket is no longer read.
const INPUT_MAX: u64 = 4 * 1024 * 1024;
/// Messages on their way to the client; of 64 KiB each that is 1 MiB.
const QUEUE: usize = 16;
/// A client that sends nothing at all for this long, not even a ping, is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a client may take to close after us.
const CLOSING: Duration = Duration::from_secs(2);
/// Exit code of a command whose machine ended: it was killed.
const KILLED: i32 = 128 + 9;

/// Makes a WebSocket of a stream whose handshake is done.
pub(crate) async fn accept<IO>(io: IO) -> WebSocketStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// What the relay needs to know about a session before it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// Framing; `None` until the guest tells (attach).
    pub(crate) tty: Option<bool>,
    /// Whether the client's input is wanted.
    pub(crate) stdin: bool,
}

/// Serves one socket until the session or the client is done. `closing` announces the end of
/// the server.
pub(crate) async fn serve<IO>(
    socket: WebSocketStream<IO>,
    attachment: Attachment,
    kind: Kind,
    closing: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, mut stream) = socket.split();
    let (queue, messages) = mpsc::channel(QUEUE);
    let (delivered_in, delivered) = watch::channel(0);
    let mut relay = Relay {
        attachment,
        kind,
        pending: VecDeque::new(),
        queue,
        delivered,
        heard_at: Instant::now(),
    };
    // A client that is gone takes nothing more; waiting for it would keep its session waiting.
    let gone = CancellationToken::new();
    let writer = async {
        let written = gone.run_until_cancelled(writer::run(sink, messages, delivered_in)).await;
        if let Some(Err(error @ WriteError::Stalled)) = &written {
            tracing::debug!(%error, "client dropped");
        }
        matches!(written, Some(Ok(())))
    };
    let relayed = async {
        let end = relay.run(&mut stream, &closing).await;
        let Relay { attachment, queue, .. } = relay;
        // The writer ends once it has written what is queued.
        drop(queue);
        if end == End::ClientGone {
            gone.cancel();
        }
        (end, attachment)
    };
    let (written, (end, attachment)) = tokio::join!(writer, relayed);
    tracing::debug!(?end, "exec socket ended");
    let client_listens = match end {
        End::ClientGone => false,
        // Its close is answered, whatever else it did not wait for: without the answer some
        // clients report an error.
        End::ClientLeft => true,
        End::Exited | End::Over | End::ServerGone => written,
    };
    let farewell = async {
        if client_listens {
            // Closing with unread input would reset the connection and lose what we sent.
            let _ = timeout(CLOSING, drain(&mut stream)).await;
        }
    };
    let leave = async {
        match end {
            End::Exited | End::ClientLeft | End::ClientGone => attachment.leave().await,
            // The guest keeps the session for whoever comes next.
            End::Over | End::ServerGone => drop(attachment),
        }
    };
    tokio::join!(farewell, leave);
}

async fn drain(stream: &mut (impl Stream<Item = Result<Message, Error>> + Unpin)) {
    while let Some(Ok(_)) = stream.next().await {}
}

/// Why a relay is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The command ended, and the client was told.
    Exited,
    /// There is no session (any more), and the client was told.
    Over,
    /// The client closed the socket in order.
    ClientLeft,
    /// The client vanished, or is as good as gone.
    ClientGone,
    /// This server ends; the session goes on.
    ServerGone,
}

enum Step<'a> {
    Heard(Option<Result<Message, Error>>),
    Happened(Event),
    Room(Option<mpsc::Permit<'a, Outgoing>>),
    Delivered,
    Over(End),
}

struct Relay {
    attachment: Attachment,
    kind: Kind,
    /// Messages that the queue has no room for yet; while there are any, no output is read.
    pending: VecDeque<Outgoing>,
    queue: mpsc::Sender<Outgoing>,
    delivered: watch::Receiver<u64>,
    /// When the client last sent anything.
    heard_at: Instant,
}

impl Relay {
    async fn run<IO>(
        &mut self,
        stream: &mut SplitStream<WebSocketStream<IO>>,
        closing: &CancellationToken,
    ) -> End
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let queue = self.queue.clone();
        let end = loop {
            let may_listen = self.attachment.input_len() < INPUT_MAX && self.kind.tty.is_some();
            if !may_listen {
                // It is we who do not listen; that says nothing about the client.
                self.heard_at = Instant::now();
            }
            let step = tokio::select! {
                message = stream.next(), if may_listen => Step::Heard(message),
                event = self.attachment.next(self.pending.is_empty()) => Step::Happened(event),
                permit = queue.reserve(), if !self.pending.is_empty() => Step::Room(permit.ok()),
                Ok(()) = self.delivered.changed() => Step::Delivered,
                () = queue.closed() => Step::Over(End::ClientGone),
                () = sleep_until(self.heard_at + SILENCE) => Step::Over(End::ClientGone),
                () = closing.cancelled() => Step::Over(End::ServerGone),
            };
            match step {
                Step::Heard(Some(Ok(Message::Close(_)))) => break End::ClientLeft,
                Step::Heard(Some(Err(_)) | None) | Step::Room(None) => break End::ClientGone,
                Step::Heard(Some(Ok(message))) => self.heard(message),
                Step::Happened(event) => {
                    if let Some(end) = self.happened(event) {
                        break end;
                    }
                }
                Step::Room(Some(permit)) => {
                    if let Some(outgoing) = self.pending.pop_front() {
                        permit.send(outgoing);
                    }
                }
                Step::Delivered => {
                    let end = *self.delivered.borrow_and_update();
                    self.attachment.delivered(end);
                }
                Step::Over(end) => break end,
            }
        };
        if end == End::ServerGone {
            self.say(translate::close_going_away("the server is restarting"));
        }
        if !matches!(end, End::ClientLeft | End::ClientGone) {
            for outgoing in std::mem::take(&mut self.pending) {
                if self.queue.send(outgoing).await.is_err() {
                    break;
                }
            }
        }
        end
    }

    fn say(&mut self, message: Message) {
        self.pending.push_back(message.into());
    }

    fn heard(&mut self, message: Message) {
        self.heard_at = Instant::now();
        let tty = self.kind.tty.unwrap_or(false);
        match translate::from_client(message, tty) {
            FromClient::Input(bytes) if self.kind.stdin => self.attachment.push_input(bytes),
            FromClient::InputEof if self.kind.stdin => self.attachment.close_input(),
            FromClient::Resize { cols, rows } => self.attachment.resize(cols, rows),
            FromClient::Signal(number) => self.attachment.signal(number),
            FromClient::Input(_) | FromClient::InputEof | FromClient::Nothing => {}
        }
    }

    fn happened(&mut self, event: Event) -> Option<End> {
        let tty = self.kind.tty.unwrap_or(false);
        match event {
            Event::Attached(attached) => {
                self.kind.tty = Some(attached.session.tty);
                self.say(translate::session_info(&attached));
            }
            Event::Output { output, bytes, end } => {
                self.pending.extend(
                    translate::output(output, bytes, tty)
                        .map(|bytes| Outgoing { message: Message::Binary(bytes), end: None }),
                );
                if let Some(last) = self.pending.back_mut() {
                    last.end = Some(end);
                }
            }
            Event::Port(event) => {
                let message = translate::port(&event);
                self.pending.extend(message.map(Outgoing::from));
            }
            // The loop looks at the room for input anew.
            Event::InputTaken => {}
            Event::Exit(code) => {
                self.exit(code, translate::close_after_exit(code, tty));
                return Some(End::Exited);
            }
            Event::StartFailed(error) => {
                self.start_failed(error);
                return Some(End::Over);
            }
            Event::Lost => {
                self.exit(KILLED, translate::close_going_away("the sprite's machine has ended"));
                return Some(End::Over);
            }
            // It is the client that did not read, for as long as the guest was willing to wait.
            Event::Dropped => return Some(End::ClientGone),
        }
        None
    }

    fn exit(&mut self, code: i32, close: Message) {
        let tty = self.kind.tty.unwrap_or(false);
        self.pending.extend(translate::exit(code, tty, close).into_iter().map(Outgoing::from));
    }

    /// The socket is open already, so the failure is told the way a shell would.
    fn start_failed(&mut self, error: StartError) {
        let tty = self.kind.tty.unwrap_or(false);
        let (code, text) = match error {
            StartError::Failed { exit_code, message } => (i32::from(exit_code), message),
            StartError::Refused(failure) => {
                let text = failure.text().to_owned();
                self.say(translate::text(&ServerMessage::Error { message: text.clone() }));
                (1, text)
            }
        };
        let line = if tty { format!("{text}\r\n") } else { format!("{text}\n") };
        for bytes in translate::output(Output::Stderr, Bytes::from(line), tty) {
            self.say(Message::Binary(bytes));
        }
        self.exit(code, translate::close_after_exit(code, tty));
    }
}
