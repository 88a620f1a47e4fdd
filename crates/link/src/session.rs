//! Frames on a stream that follows one session (`Upgrade: sprite-session`).
//!
//! ```text
//! frame = type u8 | len u32 little-endian | payload
//! ```
//! Every stream may break at any moment. Output therefore carries its absolute offset in the
//! session's combined output, input its absolute offset in the attachment's input; after a
//! break the host opens a new stream with the same attachment id and says what it has, and
//! nothing is delivered twice.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Largest payload of a frame, in bytes. Larger ones end the stream.
pub const PAYLOAD_MAX: usize = 128 * 1024;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 5;
/// Value of the `Upgrade` header.
pub const UPGRADE: &str = "sprite-session";
/// How far input may run ahead of the last [`SessionFrame::InputAck`], in bytes. The guest acks
/// what the process has read or the pipe to it holds; a host that sends more loses the stream.
pub const INPUT_WINDOW: u64 = 1024 * 1024;
/// How far output may run ahead of an attachment's last [`SessionFrame::OutputAck`], in bytes
/// (give or take one read), before the guest stops reading from the process.
pub const OUTPUT_WINDOW: u64 = 1024 * 1024;
/// How long an attachment may stay behind by [`OUTPUT_WINDOW`] without any progress before it is
/// dropped, and how long one whose stream broke is kept for its host to come back.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Which of the process's outputs bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or everything a terminal printed.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One message on a session stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFrame {
    /// Guest to host, always first: JSON of [`crate::guest::Attached`].
    Attached(Bytes),
    /// Guest to host: output that begins at absolute offset `offset` (bytes, both outputs
    /// counted together).
    Output { output: Output, offset: u64, bytes: Bytes },
    /// Guest to host: input up to `offset` has been taken over by the guest for good.
    InputAck { offset: u64 },
    /// Guest to host: a socket of the session began or ceased to listen; JSON of
    /// [`crate::guest::PortEvent`].
    Port(Bytes),
    /// Guest to host: the process ended and all output was sent. Always last.
    Exit { code: i32 },
    /// Guest to host: the host fell behind for too long; the stream ends.
    Dropped,
    /// Host to guest: bytes for the process's input, beginning at absolute offset `offset` of
    /// this attachment's input.
    Input { offset: u64, bytes: Bytes },
    /// Host to guest: this attachment's input ends at `offset`.
    InputEof { offset: u64 },
    /// Host to guest: output up to `offset` has reached the client.
    OutputAck { offset: u64 },
    /// Host to guest: the terminal's new size, in characters.
    Resize { cols: u16, rows: u16 },
    /// Host to guest: signal the process group (of a terminal: its foreground group).
    Signal { number: i32 },
    /// Host to guest: the client has left for good; do not wait for it to come back.
    Detach,
    /// Something newer than this build; ignore it.
    Unknown { kind: u8 },
}

/// Bytes that cannot be a session frame; the stream must be given up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionFrameError {
    /// A payload longer than [`PAYLOAD_MAX`].
    #[error("session frame of {len} bytes, limit {PAYLOAD_MAX}")]
    TooLong { len: usize },
    /// A payload too short for its type.
    #[error("session frame type {kind} with a payload of {len} bytes")]
    Malformed { kind: u8, len: usize },
}

impl SessionFrame {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(&[0; HEADER_LEN]);
        let kind = match self {
            Self::Attached(json) => {
                out.put_slice(json);
                1
            }
            Self::Output { output, offset, bytes } => {
                out.put_u64_le(*offset);
                out.put_slice(bytes);
                match output {
                    Output::Stdout => 2,
                    Output::Stderr => 3,
                }
            }
            Self::InputAck { offset } => {
                out.put_u64_le(*offset);
                4
            }
            Self::Port(json) => {
                out.put_slice(json);
                5
            }
            Self::Exit { code } => {
                out.put_i32_le(*code);
                6
            }
            Self::Dropped => 7,
            Self::Input { offset, bytes } => {
                out.put_u64_le(*offset);
                out.put_slice(bytes);
                32
            }
            Self::InputEof { offset } => {
                out.put_u64_le(*offset);
                33
            }
            Self::OutputAck { offset } => {
                out.put_u64_le(*offset);
                34
            }
            Self::Resize { cols, rows } => {
                out.put_u16_le(*cols);
                out.put_u16_le(*rows);
                35
            }
            Self::Signal { number } => {
                out.put_i32_le(*number);
                36
            }
            Self::Detach => 37,
            Self::Unknown { kind } => *kind,
        };
        out[start] = kind;
        let len = u32::try_from(out.len() - start - HEADER_LEN).expect("payloads are small");
        out[start + 1..start + HEADER_LEN].copy_from_slice(&len.to_le_bytes());
    }

    /// Takes the next whole frame off `buffer`, or returns `None` if more bytes are needed.
    ///
    /// # Errors
    /// The stream is damaged; close it.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, SessionFrameError> {
        if buffer.len() < HEADER_LEN {
            return Ok(None);
        }
        let kind = buffer[0];
        let len = u32::from_le_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
        if len > PAYLOAD_MAX {
            return Err(SessionFrameError::TooLong { len });
        }
        if buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        buffer.advance(HEADER_LEN);
        let mut payload = buffer.split_to(len).freeze();
        let needed = match kind {
            2..=4 | 32..=34 => 8,
            6 | 35 | 36 => 4,
            _ => 0,
        };
        if len < needed {
            return Err(SessionFrameError::Malformed { kind, len });
        }
        Ok(Some(match kind {
            1 => Self::Attached(payload),
            2 | 3 => {
                let output = if kind == 2 { Output::Stdout } else { Output::Stderr };
                let offset = payload.get_u64_le();
                Self::Output { output, offset, bytes: payload }
            }
            4 => Self::InputAck { offset: payload.get_u64_le() },
            5 => Self::Port(payload),
            6 => Self::Exit { code: payload.get_i32_le() },
            7 => Self::Dropped,
            32 => Self::Input { offset: payload.get_u64_le(), bytes: payload },
            33 => Self::InputEof { offset: payload.get_u64_le() },
            34 => Self::OutputAck { offset: payload.get_u64_le() },
            35 => Self::Resize { cols: payload.get_u16_le(), rows: payload.get_u16_le() },
            36 => Self::Signal { number: payload.get_i32_le() },
            37 => Self::Detach,
            kind => Self::Unknown { kind },
        }))
    }
}

/// How an attachment wants to begin; the query of the upgrade request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachQuery {
    /// Names the attachment across broken streams; chosen by the host, unguessable.
    pub attachment: String,
    /// First output byte wanted. Absent: everything still in the scrollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Whether this is the connection that created the session.
    #[serde(default)]
    pub owner: bool,
    /// Terminal size wanted, in characters; ignored without a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// See `cols`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(SessionFrame, &'static [u8])> {
        let b = Bytes::from_static;
        vec![
            (SessionFrame::Attached(b(b"{}")), b"\x01\x02\0\0\0{}"),
            (
                SessionFrame::Output { output: Output::Stdout, offset: 9, bytes: b(b"hi") },
                b"\x02\x0a\0\0\0\x09\0\0\0\0\0\0\0hi",
            ),
            (
                SessionFrame::Output { output: Output::Stderr, offset: 0, bytes: b(b"") },
                b"\x03\x08\0\0\0\0\0\0\0\0\0\0\0",
            ),
            (SessionFrame::InputAck { offset: 1 }, b"\x04\x08\0\0\0\x01\0\0\0\0\0\0\0"),
            (SessionFrame::Port(b(b"{}")), b"\x05\x02\0\0\0{}"),
            (SessionFrame::Exit { code: 143 }, b"\x06\x04\0\0\0\x8f\0\0\0"),
            (SessionFrame::Dropped, b"\x07\0\0\0\0"),
            (
                SessionFrame::Input { offset: 3, bytes: b(b"x") },
                b"\x20\x09\0\0\0\x03\0\0\0\0\0\0\0x",
            ),
            (SessionFrame::InputEof { offset: 4 }, b"\x21\x08\0\0\0\x04\0\0\0\0\0\0\0"),
            (SessionFrame::OutputAck { offset: 4 }, b"\x22\x08\0\0\0\x04\0\0\0\0\0\0\0"),
            (SessionFrame::Resize { cols: 80, rows: 24 }, b"\x23\x04\0\0\0\x50\0\x18\0"),
            (SessionFrame::Signal { number: 15 }, b"\x24\x04\0\0\0\x0f\0\0\0"),
            (SessionFrame::Detach, b"\x25\0\0\0\0"),
            (SessionFrame::Unknown { kind: 99 }, b"\x63\0\0\0\0"),
        ]
    }

    /// Golden bytes of protocol 1, in both directions.
    #[test]
    fn golden_session_frames_of_version_1() {
        for (frame, golden) in all() {
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            assert_eq!(&out[..], golden, "{frame:?}");
            assert_eq!(SessionFrame::decode(&mut out), Ok(Some(frame)));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn a_frame_is_read_only_when_whole() {
        let mut whole = BytesMut::new();
        SessionFrame::Exit { code: 1 }.encode(&mut whole);
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(SessionFrame::decode(&mut part), Ok(None));
        }
    }

    #[test]
    fn absurd_lengths_are_refused() {
        let mut huge = BytesMut::from(&b"\x02\xff\xff\xff\xff"[..]);
        assert!(matches!(SessionFrame::decode(&mut huge), Err(SessionFrameError::TooLong { .. })));
        let mut short = BytesMut::from(&b"\x06\x01\0\0\0\0"[..]);
        assert!(matches!(
            SessionFrame::decode(&mut short),
            Err(SessionFrameError::Malformed { kind: 6, len: 1 })
        ));
    }
}
