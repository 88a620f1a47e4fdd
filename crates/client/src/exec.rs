//! Sessions over WebSocket: start a command or attach to one, then exchange events.
//!
//! # Invariants
//! - Reading and writing never wait for each other: [`SessionOutput`] and [`SessionInput`] are
//!   independent halves, so a command that echoes more than the network buffers cannot block.
//! - [`SessionOutput::next`] returns [`Event::Exit`] at most once, after all output.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use sprite_api::exec::{self as frames, ClientMessage, ServerMessage, SessionInfo};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::target::Target;
use crate::websocket::{self, Socket};
use crate::{Error, SpriteClient};

/// How long an attach waits for the session's description.
const INFO_TIMEOUT: Duration = Duration::from_secs(60);

/// A terminal's size in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TerminalSize {
    /// Width.
    pub cols: u16,
    /// Height.
    pub rows: u16,
}

/// What to run and how. Has no `Debug`: environment values are nobody's business.
#[derive(Clone, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the sprite's environment.
    pub env: Vec<(String, String)>,
    /// Working directory; the server's default if absent.
    pub dir: Option<String>,
    /// Allocates a terminal of this size.
    pub tty: Option<TerminalSize>,
    /// Whether input will be sent.
    pub stdin: bool,
    /// Keeps running when the client leaves.
    pub detachable: bool,
    /// Duration text; how long an abandoned command may run on.
    pub max_run_after_disconnect: Option<String>,
    /// Legacy terminal-multiplexer mode.
    pub cc: bool,
}

impl ExecRequest {
    /// Adds the parameters that `POST …/exec` understands too.
    pub(crate) fn add_common(&self, mut target: Target) -> Target {
        for argument in &self.argv {
            target = target.query("cmd", argument);
        }
        target = target.query_opt("path", self.argv.first().map(String::as_str));
        for (key, value) in &self.env {
            target = target.query("env", &format!("{key}={value}"));
        }
        target.query_opt("dir", self.dir.as_deref())
    }

    fn add_to(&self, target: Target) -> Target {
        let mut target = self.add_common(target);
        if let Some(TerminalSize { cols, rows }) = self.tty {
            target = target
                .query("tty", "true")
                .query("cols", &cols.to_string())
                .query("rows", &rows.to_string());
        }
        target
            .query("stdin", if self.stdin { "true" } else { "false" })
            .flag("detachable", self.detachable)
            .flag("cc", self.cc)
            .query_opt("max_run_after_disconnect", self.max_run_after_disconnect.as_deref())
    }
}

/// What a session sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Describes the session; first on every socket.
    Info(SessionInfo),
    /// Output; of a terminal, all of it.
    Stdout(Bytes),
    /// Error output.
    Stderr(Bytes),
    /// The command ended; nothing follows.
    Exit(u8),
    /// A socket of the session listens.
    PortOpened(u16),
    /// It no longer does.
    PortClosed(u16),
    /// A sign of life without content.
    Alive,
}

/// An open session.
pub struct Session {
    /// Sends input and control messages.
    pub input: SessionInput,
    /// Receives events.
    pub output: SessionOutput,
}

/// The sending half.
pub struct SessionInput {
    what: String,
    sink: SplitSink<Socket, Message>,
    tty: bool,
}

/// The receiving half.
pub struct SessionOutput {
    what: String,
    stream: SplitStream<Socket>,
    tty: bool,
    ended: bool,
}

impl SpriteClient {
    /// Starts a command.
    ///
    /// # Errors
    /// As every call; also if the handshake is refused.
    pub async fn exec(&self, request: &ExecRequest) -> Result<Session, Error> {
        let program = request.argv.first().map_or("", String::as_str);
        let what = format!("run `{program}` in `{}`", self.name);
        let target = request.add_to(self.target().segment("exec"));
        let (socket, _) = websocket::open(&self.client, &what, &target).await?;
        Ok(Session::new(socket, what, request.tty.is_some()))
    }

    /// Attaches to a session and returns its description. `size` is that of our terminal.
    ///
    /// # Errors
    /// As every call; status 404 if there is no such session.
    pub async fn attach(
        &self,
        id: &str,
        size: Option<TerminalSize>,
    ) -> Result<(Session, SessionInfo), Error> {
        let what = format!("attach to session {id} of `{}`", self.name);
        let mut target = self.target().segment("exec").segment(id);
        if let Some(TerminalSize { cols, rows }) = size {
            target = target.query("cols", &cols.to_string()).query("rows", &rows.to_string());
        }
        let (socket, _) = websocket::open(&self.client, &what, &target).await?;
        let mut session = Session::new(socket, what.clone(), false);
        let info = tokio::time::timeout(INFO_TIMEOUT, session.output.info())
            .await
            .map_err(|_| Error::Timeout { what, seconds: INFO_TIMEOUT.as_secs() })??;
        session.input.tty = info.tty;
        session.output.tty = info.tty;
        Ok((session, info))
    }

    /// Opens a TCP tunnel's socket, to pass the server's answer on.
    ///
    /// # Errors
    /// As every call; status 501 on servers without tunnels.
    pub async fn probe_proxy(&self) -> Result<(), Error> {
        let what = format!("open a tunnel to `{}`", self.name);
        websocket::open(&self.client, &what, &self.target().segment("proxy")).await.map(|_| ())
    }
}

impl Session {
    fn new(socket: Socket, what: String, tty: bool) -> Self {
        let (sink, stream) = socket.split();
        Self {
            input: SessionInput { what: what.clone(), sink, tty },
            output: SessionOutput { what, stream, tty, ended: false },
        }
    }
}

impl SessionInput {
    /// Sends input. Returns when the network has taken it.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn stdin(&mut self, data: Bytes) -> Result<(), Error> {
        let data = if self.tty { data } else { prefixed(frames::STDIN, &data) };
        self.send(Message::Binary(data)).await
    }

    /// Ends the input. A terminal is sent what the user would type: Ctrl-D.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn end_stdin(&mut self) -> Result<(), Error> {
        self.send(Message::Binary(Bytes::from_static(&[frames::STDIN_EOF]))).await
    }

    /// Tells the terminal's new size.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), Error> {
        self.control(&ClientMessage::Resize { cols: size.cols, rows: size.rows }).await
    }

    /// Signals the process group, for example with `INT`.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn signal(&mut self, signal: &str) -> Result<(), Error> {
        self.control(&ClientMessage::Signal { signal: signal.to_owned() }).await
    }

    /// Shows the server that we are alive.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.send(Message::Ping(Bytes::new())).await
    }

    /// Closes the socket: detaches from a session that keeps running.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.send(Message::Close(None)).await
    }

    async fn control(&mut self, message: &ClientMessage) -> Result<(), Error> {
        let text = serde_json::to_string(message).expect("messages have text keys only");
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.sink.send(message).await.map_err(|error| lost(&self.what, &error))
    }
}

impl SessionOutput {
    /// Returns the next event, or `None` after [`Event::Exit`].
    ///
    /// # Errors
    /// The connection broke or was closed before the command ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.ended {
            return Ok(None);
        }
        let event = match self.stream.next().await {
            Some(Ok(message)) => self.read(message)?.unwrap_or(Event::Alive),
            Some(Err(error)) => return Err(lost(&self.what, &error)),
            None => return Err(self.closed(None)),
        };
        self.ended = matches!(event, Event::Exit(_));
        Ok(Some(event))
    }

    /// Waits for the description that begins every socket.
    async fn info(&mut self) -> Result<SessionInfo, Error> {
        loop {
            match self.next().await? {
                Some(Event::Info(info)) => return Ok(info),
                Some(Event::Exit(_)) | None => {
                    return Err(Error::protocol(&self.what, "the session ended just now"));
                }
                Some(_) => {}
            }
        }
    }

    fn read(&self, message: Message) -> Result<Option<Event>, Error> {
        match message {
            Message::Binary(data) => Ok(read_binary(data, self.tty)),
            Message::Text(text) => Ok(read_text(text.as_str())),
            Message::Close(frame) => {
                match frame.as_ref().and_then(|f| exit_of_close(f, self.tty)) {
                    Some(code) => Ok(Some(Event::Exit(code))),
                    None => Err(self.closed(frame)),
                }
            }
            // Unknown kinds; pings are answered by the library.
            _ => Ok(None),
        }
    }

    fn closed(&self, frame: Option<CloseFrame>) -> Error {
        let detail = match frame {
            Some(frame) if frame.reason.is_empty() => format!(" ({})", u16::from(frame.code)),
            Some(frame) => {
                let clean = frame.reason.chars().filter(|c| !c.is_control());
                format!(" ({} {})", u16::from(frame.code), clean.collect::<String>())
            }
            None => String::new(),
        };
        let reason = format!("the connection was closed before the command ended{detail}");
        Error::transport(&self.what, reason)
    }
}

/// Makes one error of the library's, whose parts repeat each other.
fn lost(what: &str, error: &tungstenite::Error) -> Error {
    use tungstenite::Error as E;
    use tungstenite::error::ProtocolError;
    let reason = match error {
        E::ConnectionClosed
        | E::AlreadyClosed
        | E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "the connection was lost".to_owned()
        }
        E::Io(error) => format!("the connection was lost: {error}"),
        error => error.to_string(),
    };
    Error::transport(what, reason)
}

fn prefixed(stream: u8, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.extend_from_slice(&[stream]);
    frame.extend_from_slice(data);
    frame.freeze()
}

/// Reads a binary message. Stray and empty ones are ignored.
fn read_binary(mut data: Bytes, tty: bool) -> Option<Event> {
    if data.is_empty() {
        return None;
    }
    if tty {
        return Some(Event::Stdout(data));
    }
    match data.split_to(1)[0] {
        frames::STDOUT if !data.is_empty() => Some(Event::Stdout(data)),
        frames::STDERR if !data.is_empty() => Some(Event::Stderr(data)),
        frames::EXIT => data.first().map(|&code| Event::Exit(code)),
        _ => None,
    }
}

/// Reads a text message. Unknown ones are ignored.
fn read_text(text: &str) -> Option<Event> {
    match serde_json::from_str(text).ok()? {
        ServerMessage::SessionInfo(info) => Some(Event::Info(info)),
        ServerMessage::Exit { exit_code, .. } => Some(Event::Exit(exit_code as u8)),
        ServerMessage::PortOpened { port, .. } => Some(Event::PortOpened(port)),
        ServerMessage::PortClosed { port, .. } => Some(Event::PortClosed(port)),
        ServerMessage::Keepalive | ServerMessage::Error { .. } | ServerMessage::Unknown => None,
    }
}

/// A terminal's close code carries the exit code, should the text message be missing.
fn exit_of_close(frame: &CloseFrame, tty: bool) -> Option<u8> {
    match u16::from(frame.code) {
        1000 if tty => Some(0),
        code @ 4000..4256 if tty => u8::try_from(code - 4000).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    #[test]
    fn binary_messages_are_told_apart_by_their_first_byte() {
        let read = |bytes: &'static [u8]| read_binary(Bytes::from_static(bytes), false);
        assert_eq!(read(b"\x01hi"), Some(Event::Stdout("hi".into())));
        assert_eq!(read(b"\x02no"), Some(Event::Stderr("no".into())));
        assert_eq!(read(b"\x03\x2a"), Some(Event::Exit(42)));
        for stray in [&b""[..], b"\x01", b"\x03", b"\x09x"] {
            assert_eq!(read(stray), None);
        }
        let raw = read_binary(Bytes::from_static(b"\x03\x2a"), true);
        assert_eq!(raw, Some(Event::Stdout(Bytes::from_static(b"\x03\x2a"))));
    }

    #[test]
    fn unknown_and_broken_texts_are_ignored() {
        for text in ["", "{}", "[]", r#"{"type":"new"}"#, r#"{"type":"exit"}"#, "\u{1b}"] {
            assert_eq!(read_text(text), None, "{text}");
        }
        assert_eq!(
            read_text(r#"{"type":"exit","exit_code":143,"code":143}"#),
            Some(Event::Exit(143))
        );
    }

    #[test]
    fn a_terminal_close_code_stands_in_for_a_lost_exit_message() {
        let close = |code: u16| CloseFrame { code: CloseCode::from(code), reason: "".into() };
        assert_eq!(exit_of_close(&close(1000), true), Some(0));
        assert_eq!(exit_of_close(&close(4002), true), Some(2));
        assert_eq!(exit_of_close(&close(4002), false), None);
        assert_eq!(exit_of_close(&close(1001), true), None);
    }

    #[test]
    fn requests_become_queries_in_order() {
        let request = ExecRequest {
            argv: vec!["sh".into(), "-c".into(), "echo $A".into()],
            env: vec![("A".into(), "x=y&z".into())],
            dir: Some("/tmp".into()),
            tty: Some(TerminalSize { cols: 80, rows: 24 }),
            stdin: true,
            ..ExecRequest::default()
        };
        assert_eq!(
            request.add_to(Target::new("/exec")).as_str(),
            "/exec?cmd=sh&cmd=-c&cmd=echo+%24A&path=sh&env=A%3Dx%3Dy%26z&dir=%2Ftmp&tty=true\
             &cols=80&rows=24&stdin=true"
        );
    }
}
