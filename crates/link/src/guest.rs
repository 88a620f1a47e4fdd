//! The guest agent's HTTP interface: paths and bodies.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /v1/health` | 200 [`Health`] |
//! | `POST /v1/sessions` [`SessionCreate`] | 200 [`SessionCreated`]; the same `request_id` again gives the same answer |
//! | `GET /v1/sessions` | 200 `{"sessions":[SessionView]}` |
//! | `GET /v1/sessions/{id}` | 200 [`SessionView`]; 404 |
//! | `GET /v1/sessions/{id}/stream?`[`AttachQuery`](crate::session::AttachQuery) + Upgrade | 101, then session frames; 404 unknown or ended |
//! | `POST /v1/sessions/{id}/kill` [`KillRequest`] | 200 NDJSON exactly as the public contract; 404; 410 ended |
//! | `/v1/fs/{read,write,list,delete,rename,copy,chmod,chown}` | as the public contract's `…/fs/*`, same methods, queries, bodies and answers |
//! | `GET /v1/ports` | 200 `{"ports":[PortEvent]}` |
//! | `PUT /v1/identity` [`Identity`](crate::boot::Identity) | 204 |
//! | `POST /v1/shutdown` | 204 once every process has ended and the disk is synced; the agent then exits |
//!
//! Errors are the public contract's error object.

use serde::{Deserialize, Serialize};
use sprite_types::{BootId, MachineId, SessionId, Timestamp};

/// State of the guest agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The machine that answers.
    pub machine_id: MachineId,
    /// Which start of the agent answers.
    pub boot_id: BootId,
    /// Version of the agent's build.
    pub version: String,
    /// Live sessions.
    pub sessions: u32,
}

/// A command to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCreate {
    /// Makes a repeated request harmless; chosen by the host, unguessable.
    pub request_id: String,
    /// The command line; `argv[0]` included. May be empty if `path` is given.
    pub argv: Vec<String>,
    /// Program to run; without a `/` it is looked up in the command's `PATH`.
    /// Absent: `argv[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Variables over the default environment, in order; later ones win.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory. Absent: the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Give the command a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Terminal width in characters, set before the command starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Terminal height in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Whether input will come; if not, the command's input is the null device.
    #[serde(default)]
    pub stdin: bool,
    /// Keep running when the last client leaves.
    #[serde(default)]
    pub detachable: bool,
    /// How long to keep running after the last client left, in milliseconds; 0 is without
    /// limit. Absent: no limit with a terminal, 10 s without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run_after_disconnect_ms: Option<u64>,
}

/// What became of a [`SessionCreate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum SessionCreated {
    /// The process runs (or ran; attach to see).
    Started {
        /// The new session.
        session: SessionView,
    },
    /// The process could not be started; there is no session.
    Failed {
        /// Exit code to report: 127 not found, 126 not executable or too long, 1 bad directory.
        exit_code: u8,
        /// Text for the command's standard error, without a newline.
        message: String,
    },
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Names the session while its machine lives.
    pub session_id: SessionId,
    /// Resolved program path and arguments, joined by spaces.
    pub command: String,
    /// Working directory at the start.
    pub workdir: String,
    /// When the process started.
    pub created: Timestamp,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Terminal width in characters (80 without a terminal).
    pub cols: u16,
    /// Terminal height in characters (24 without a terminal).
    pub rows: u16,
    /// Output rate of the last seconds.
    pub bytes_per_second: f64,
    /// Whether it wrote something lately.
    pub is_active: bool,
    /// When it last wrote something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<Timestamp>,
}

impl Eq for SessionView {}

/// First message on a session stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The session followed.
    pub session: SessionView,
    /// Offset of the first output byte that will be sent.
    pub output_from: u64,
    /// Input already taken over from this attachment: send from here.
    pub input_from: u64,
    /// Whether this attachment belongs to the connection that created the session.
    pub is_owner: bool,
}

/// How to end a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillRequest {
    /// Signal number.
    pub signal: i32,
    /// How long to wait before SIGKILL, in milliseconds; 0 sends the signal and returns.
    pub timeout_ms: u64,
}

/// A listening socket appeared or went away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortEvent {
    /// `port_opened` or `port_closed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// TCP port.
    pub port: u16,
    /// Address the socket is bound to.
    pub address: String,
    /// Process id as seen inside the sprite; 0 if unknown.
    pub pid: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest of the first release must go on understanding us, and we it.
    #[test]
    fn golden_bodies_of_version_1() {
        let create: SessionCreate =
            serde_json::from_str(r#"{"request_id":"r","argv":["true"],"later":1}"#).unwrap();
        assert_eq!(create.argv, ["true"]);
        assert!(!create.tty && create.dir.is_none());
        let failed = SessionCreated::Failed { exit_code: 127, message: "m".into() };
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"result":"failed","exit_code":127,"message":"m"}"#
        );
        assert_eq!(serde_json::to_string(&SessionId(42)).unwrap(), r#""42""#);
    }
}
