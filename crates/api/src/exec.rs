//! Frames of the exec WebSocket and of `POST /exec`.
//!
//! Without a terminal every binary message is one stream byte and a payload; with one, binary
//! messages are raw terminal bytes. Text messages are JSON in both. Source: contract,
//! exec-protocol 4 to 6.

use serde::{Deserialize, Serialize};
use sprite_types::Timestamp;

/// Client to server: input.
pub const STDIN: u8 = 0;
/// Server to client: output.
pub const STDOUT: u8 = 1;
/// Server to client: error output.
pub const STDERR: u8 = 2;
/// Server to client: one byte, the exit code.
pub const EXIT: u8 = 3;
/// Client to server: end of input.
pub const STDIN_EOF: u8 = 4;

/// First message on every exec and attach socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Decimal digits; a string, since typed clients insist.
    pub session_id: String,
    /// Resolved program and arguments.
    pub command: String,
    /// Unix seconds.
    pub created: i64,
    /// Terminal size in characters.
    pub cols: u16,
    /// Terminal size in characters.
    pub rows: u16,
    /// True for the connection that created the session.
    pub is_owner: bool,
    /// Whether framing is raw.
    pub tty: bool,
}

/// A text message from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// See [`SessionInfo`].
    SessionInfo(SessionInfo),
    /// The command ended. Both fields carry the code: SDKs read one or the other.
    Exit {
        /// 0 to 255.
        exit_code: i32,
        /// The same.
        code: i32,
    },
    /// A socket of the session listens.
    PortOpened {
        /// TCP port.
        port: u16,
        /// Address bound to.
        address: String,
        /// Process id in the sprite.
        pid: i32,
    },
    /// It no longer does.
    PortClosed {
        /// TCP port.
        port: u16,
        /// Address bound to.
        address: String,
        /// Process id in the sprite.
        pid: i32,
    },
    /// Sent when nothing else was for 15 s; the JavaScript SDK gives up without.
    Keepalive,
    /// Informational; an exit follows.
    Error {
        /// Text.
        #[serde(default)]
        message: String,
    },
    /// From a newer server; ignore.
    #[serde(other)]
    Unknown,
}

/// A text message from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// The terminal's new size in characters.
    Resize {
        /// Width.
        cols: u16,
        /// Height.
        rows: u16,
    },
    /// Signal the process group (of a terminal: its foreground group).
    Signal {
        /// `TERM`, `SIGTERM` or `15`.
        #[serde(deserialize_with = "text_or_number")]
        signal: String,
    },
    /// From a newer client; ignore.
    #[serde(other)]
    Unknown,
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(i64),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Text(text) => text,
        Either::Number(number) => number.to_string(),
    })
}

/// One entry of `GET …/exec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionEntry {
    /// Decimal digits, a string.
    pub id: String,
    /// Resolved program and arguments, joined by spaces.
    pub command: String,
    /// Working directory.
    pub workdir: String,
    /// RFC 3339.
    pub created: String,
    /// Has a terminal.
    pub tty: bool,
    /// Recent output rate; never null.
    pub bytes_per_second: f64,
    /// Wrote something lately.
    pub is_active: bool,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<String>,
}

/// Answer of `GET …/exec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionList {
    /// Number of entries.
    pub count: usize,
    /// Live sessions; exited ones are not listed.
    pub sessions: Vec<SessionEntry>,
}

/// One line of the kill stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillEvent {
    /// `signal`, `timeout`, `exited`, `killed`, `error` or, always last, `complete`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Process id as the session list shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// Of `complete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Formats a moment as `created` wants it.
#[must_use]
pub fn unix_seconds(at: Timestamp) -> i64 {
    at.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_contracts_bytes() {
        let exit = ServerMessage::Exit { exit_code: 3, code: 3 };
        assert_eq!(
            serde_json::to_string(&exit).unwrap(),
            r#"{"type":"exit","exit_code":3,"code":3}"#
        );
        assert_eq!(
            serde_json::to_string(&ServerMessage::Keepalive).unwrap(),
            r#"{"type":"keepalive"}"#
        );
        let signal: ClientMessage =
            serde_json::from_str(r#"{"type":"signal","signal":15}"#).unwrap();
        assert_eq!(signal, ClientMessage::Signal { signal: "15".into() });
        let other: ClientMessage = serde_json::from_str(r#"{"type":"x","a":1}"#).unwrap();
        assert_eq!(other, ClientMessage::Unknown);
    }
}
