//! Between WebSocket messages and what they mean. No I/O.
//!
//! Without a terminal a binary message is one stream byte and a payload; with one it is the
//! terminal's bytes. Text is JSON in both. Source: contract, exec-protocol 4 to 7.

use bytes::{BufMut, Bytes, BytesMut};
use sprite_api::exec::{
    ClientMessage, EXIT, STDERR, STDIN, STDIN_EOF, STDOUT, ServerMessage, SessionInfo, unix_seconds,
};
use sprite_api::format::parse_signal;
use sprite_link::guest::{Attached, PortEvent};
use sprite_link::session::Output;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Largest binary message we send, in bytes, the stream byte included.
const MESSAGE_MAX: usize = 64 * 1024;
/// Close code of a terminal's command that ended with a code other than 0: this plus the code.
const CLOSE_EXIT: u16 = 4000;

/// What a client's message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromClient {
    Input(Bytes),
    InputEof,
    Resize {
        cols: u16,
        rows: u16,
    },
    Signal(i32),
    /// Stray, empty, unknown, or meant for the WebSocket layer.
    Nothing,
}

/// Reads a client's message.
pub(crate) fn from_client(message: Message, tty: bool) -> FromClient {
    match message {
        Message::Binary(bytes) if tty => typed(bytes),
        Message::Binary(bytes) => match bytes.first() {
            Some(&STDIN) => typed(bytes.slice(1..)),
            Some(&STDIN_EOF) => FromClient::InputEof,
            _ => FromClient::Nothing,
        },
        Message::Text(text) => match serde_json::from_str::<ClientMessage>(&text) {
            Ok(ClientMessage::Resize { cols: 1.., rows: 1.. }) if !tty => FromClient::Nothing,
            Ok(ClientMessage::Resize { cols: cols @ 1.., rows: rows @ 1.. }) => {
                FromClient::Resize { cols, rows }
            }
            Ok(ClientMessage::Signal { signal }) => {
                parse_signal(&signal).map_or(FromClient::Nothing, FromClient::Signal)
            }
            Err(_) if tty && !is_object(&text) => typed(text.into()),
            Ok(_) | Err(_) => FromClient::Nothing,
        },
        _ => FromClient::Nothing,
    }
}

fn typed(bytes: Bytes) -> FromClient {
    if bytes.is_empty() { FromClient::Nothing } else { FromClient::Input(bytes) }
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

/// Writes output as messages of a size that every client accepts.
pub(crate) fn output(output: Output, mut bytes: Bytes, tty: bool) -> impl Iterator<Item = Bytes> {
    let largest = if tty { MESSAGE_MAX } else { MESSAGE_MAX - 1 };
    // Equal parts: a chunk one byte too long is not followed by a message of one byte.
    let parts = bytes.len().div_ceil(largest);
    (0..parts).rev().map(move |left| {
        let part = bytes.split_to(bytes.len().div_ceil(left + 1));
        if tty { part } else { prefixed(output, &part) }
    })
}

/// Returns the stream byte and the payload in one piece.
pub(crate) fn prefixed(output: Output, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + payload.len());
    frame.put_u8(match output {
        Output::Stdout => STDOUT,
        Output::Stderr => STDERR,
    });
    frame.put_slice(payload);
    frame.freeze()
}

/// Writes a control message.
pub(crate) fn text(message: &ServerMessage) -> Message {
    Message::text(serde_json::to_string(message).expect("messages are plain data"))
}

/// Writes the first message of every session socket.
pub(crate) fn session_info(attached: &Attached) -> Message {
    let session = &attached.session;
    text(&ServerMessage::SessionInfo(SessionInfo {
        session_id: session.session_id.to_string(),
        command: session.command.clone(),
        created: unix_seconds(session.created),
        cols: session.cols,
        rows: session.rows,
        is_owner: attached.is_owner,
        tty: session.tty,
    }))
}

/// Writes a port event; `None` if it is of a kind that clients do not know.
pub(crate) fn port(event: &PortEvent) -> Option<Message> {
    let PortEvent { kind, port, address, pid } = event.clone();
    let message = match kind.as_str() {
        "port_opened" => ServerMessage::PortOpened { port, address, pid },
        "port_closed" => ServerMessage::PortClosed { port, address, pid },
        _ => return None,
    };
    Some(text(&message))
}

/// Exit codes are bytes on the wire.
pub(crate) fn exit_byte(code: i32) -> u8 {
    u8::try_from(code.clamp(0, 255)).expect("clamped to a byte")
}

/// Writes the end of a command: each official SDK reads another one of these.
pub(crate) fn exit(code: i32, tty: bool, close: Message) -> Vec<Message> {
    let byte = exit_byte(code);
    let code = i32::from(byte);
    let mut messages = vec![text(&ServerMessage::Exit { exit_code: code, code })];
    if !tty {
        messages.push(Message::Binary(Bytes::from(vec![EXIT, byte])));
    }
    messages.push(close);
    messages
}

/// The close that goes with an exit code.
pub(crate) fn close_after_exit(code: i32, tty: bool) -> Message {
    match exit_byte(code) {
        byte @ 1.. if tty => close(CLOSE_EXIT + u16::from(byte), ""),
        _ => close(1000, ""),
    }
}

/// The close of a socket whose machine or server goes away.
pub(crate) fn close_going_away(reason: &'static str) -> Message {
    close(1001, reason)
}

fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(bytes: &'static [u8]) -> Message {
        Message::Binary(Bytes::from_static(bytes))
    }

    #[test]
    fn client_messages_without_a_terminal() {
        let read = |message| from_client(message, false);
        assert_eq!(read(binary(b"\x00hi")), FromClient::Input(Bytes::from_static(b"hi")));
        assert_eq!(read(binary(b"\x04")), FromClient::InputEof);
        assert_eq!(read(binary(b"\x04junk")), FromClient::InputEof);
        let signal = r#"{"type":"signal","signal":"SIGTERM"}"#;
        assert_eq!(read(Message::text(signal)), FromClient::Signal(15));
        for stray in [
            binary(b""),
            binary(b"\x00"),
            binary(b"\x01x"),
            binary(b"\x03\x00"),
            binary(b"\xff"),
            Message::text("not json"),
            Message::text("[1]"),
            Message::text(r#"{"type":"resize","cols":1,"rows":1}"#),
            Message::text(r#"{"type":"signal","signal":"BOGUS"}"#),
            Message::text(r#"{"type":"signal"}"#),
            Message::text(r#"{"type":"other","x":[]}"#),
            Message::Ping(Bytes::new()),
        ] {
            assert_eq!(read(stray), FromClient::Nothing);
        }
    }

    #[test]
    fn client_messages_with_a_terminal() {
        let read = |message| from_client(message, true);
        assert_eq!(read(binary(b"\x04")), FromClient::Input(Bytes::from_static(b"\x04")));
        let resize = r#"{"type":"resize","cols":120,"rows":40}"#;
        assert_eq!(read(Message::text(resize)), FromClient::Resize { cols: 120, rows: 40 });
        assert_eq!(read(Message::text("ls\r")), FromClient::Input(Bytes::from_static(b"ls\r")));
        assert_eq!(read(Message::text("12")), FromClient::Input(Bytes::from_static(b"12")));
        for ignored in [
            Message::text(r#"{"type":"resize","cols":0,"rows":1}"#),
            Message::text(r#"{"type":"resize","cols":-1,"rows":1}"#),
            Message::text(r#"{"type":"later"}"#),
            Message::text("{}"),
            binary(b""),
        ] {
            assert_eq!(read(ignored), FromClient::Nothing);
        }
    }

    #[test]
    fn output_is_cut_into_messages_of_64_kib() {
        for len in [0_usize, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
            let bytes = Bytes::from((0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>());
            for tty in [true, false] {
                let parts: Vec<_> = output(Output::Stderr, bytes.clone(), tty).collect();
                assert!(parts.iter().all(|part| part.len() <= MESSAGE_MAX));
                let prefix = usize::from(!tty);
                assert!(tty || parts.iter().all(|part| part[0] == 2));
                let joined: Vec<u8> =
                    parts.iter().flat_map(|part| part[prefix..].to_vec()).collect();
                assert_eq!(joined, bytes);
                assert_eq!(parts.len(), len.div_ceil(MESSAGE_MAX - prefix));
            }
        }
    }

    #[test]
    fn the_exit_sequence_has_the_contracts_order() {
        let messages = exit(3, false, close_after_exit(3, false));
        assert_eq!(messages[0], Message::text(r#"{"type":"exit","exit_code":3,"code":3}"#));
        assert_eq!(messages[1], binary(b"\x03\x03"));
        let code = |message: &Message| match message {
            Message::Close(Some(frame)) => u16::from(frame.code),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&messages[2]), 1000);
        let messages = exit(2, true, close_after_exit(2, true));
        assert_eq!(messages.len(), 2);
        assert_eq!(code(&messages[1]), 4002);
        assert_eq!(code(&close_after_exit(0, true)), 1000);
        assert_eq!(exit_byte(-1), 0);
        assert_eq!(exit_byte(1000), 255);
    }
}
