//! Frames below the multiplexer: they make any byte stream restartable.
//!
//! A link may lose its host end, and part of a frame with it, at any moment (a suspended
//! microVM does at every resume). Each (re)connection therefore begins with a [`Hello`] that
//! carries a new, higher *epoch*; payload frames name their epoch, and those of another epoch
//! are dropped. A reader that has lost its place scans for the next valid hello.
//!
//! ```text
//! frame   = magic "SPL1" | type u8 | 0 u8 | 0 u16 | epoch u32 | len u32 | crc u32 | payload
//! ```
//! All integers are little-endian; `crc` is CRC-32 (IEEE) of the 16 bytes before it, and for a
//! hello of header and payload. A hello's payload is JSON and holds the machine's link secret,
//! without which bytes that a user sends through the link could pose as one.
//!
//! # Not here
//! I/O, and what happens to the streams above when the epoch changes (`sprite-linkmux`).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use sprite_types::{BootId, MachineId};

const MAGIC: [u8; 4] = *b"SPL1";
/// Bytes before the payload.
pub const HEADER_LEN: usize = 20;
/// Largest payload of a data frame, in bytes.
pub const DATA_MAX: usize = 64 * 1024;
/// Largest payload of a hello, in bytes.
pub const HELLO_MAX: usize = 4 * 1024;

const TYPE_HELLO: u8 = 1;
const TYPE_DATA: u8 = 2;

/// First frame of every connection, in both directions. The host speaks first.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version the sender speaks.
    pub protocol_min: u16,
    /// Highest protocol version the sender speaks.
    pub protocol_max: u16,
    /// The machine this link belongs to; both sides must agree.
    pub machine_id: MachineId,
    /// Which start of the guest agent answers. Absent in the host's hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<BootId>,
    /// Shared secret of the machine, 64 hex digits.
    pub secret: String,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("protocol", &(self.protocol_min..=self.protocol_max))
            .field("machine_id", &self.machine_id)
            .field("boot_id", &self.boot_id)
            .finish_non_exhaustive()
    }
}

/// Returns the version both sides speak, if there is one.
#[must_use]
pub fn agree(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let version = ours.1.min(theirs.1);
    (version >= ours.0 && version >= theirs.0).then_some(version)
}

/// One frame as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Begins epoch `epoch`.
    Hello { epoch: u32, hello: Hello },
    /// Bytes for the multiplexer of epoch `epoch`.
    Data { epoch: u32, bytes: Bytes },
}

fn header(kind: u8, epoch: u32, len: usize) -> [u8; 16] {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&MAGIC);
    head[4] = kind;
    head[8..12].copy_from_slice(&epoch.to_le_bytes());
    let len = u32::try_from(len).expect("payloads are at most 64 KiB");
    head[12..].copy_from_slice(&len.to_le_bytes());
    head
}

/// Appends a hello.
///
/// # Panics
/// If the hello is longer than [`HELLO_MAX`], which its fixed-length fields rule out.
pub fn encode_hello(epoch: u32, hello: &Hello, out: &mut BytesMut) {
    let payload = serde_json::to_vec(hello).expect("a hello is plain data");
    assert!(payload.len() <= HELLO_MAX, "a hello's fields have fixed lengths");
    let head = header(TYPE_HELLO, epoch, payload.len());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&payload);
    out.put_slice(&head);
    out.put_u32_le(crc.finalize());
    out.put_slice(&payload);
}

/// Appends zeros that complete any data frame which the other side may still be waiting for.
///
/// Needed before a hello on a byte stream that outlives its connections (a virtio-serial port);
/// without it a frame cut in the middle would swallow the hello.
pub fn encode_resync(out: &mut BytesMut) {
    out.put_bytes(0, DATA_MAX);
}

/// Appends `bytes` as data frames of at most [`DATA_MAX`] bytes each.
pub fn encode_data(epoch: u32, bytes: &[u8], out: &mut BytesMut) {
    for chunk in bytes.chunks(DATA_MAX) {
        out.put_slice(&data_header(epoch, chunk.len()));
        out.put_slice(chunk);
    }
}

/// Returns the header that precedes a data payload of `len` bytes (at most [`DATA_MAX`]).
#[must_use]
pub fn data_header(epoch: u32, len: usize) -> [u8; HEADER_LEN] {
    debug_assert!(len <= DATA_MAX);
    let head = header(TYPE_DATA, epoch, len);
    let mut whole = [0; HEADER_LEN];
    whole[..16].copy_from_slice(&head);
    whole[16..].copy_from_slice(&crc32fast::hash(&head).to_le_bytes());
    whole
}

/// Finds frames in a byte stream, and its way back after a gap.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// Bytes that belonged to no frame, since the start.
    skipped: u64,
    /// After a gap only a hello is believed.
    lost: bool,
}

impl Decoder {
    /// Makes a decoder that expects a frame boundary next.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives room to read into; what is appended here is decoded by [`Decoder::next_frame`].
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns how many bytes were thrown away while looking for a hello.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Tells the decoder that bytes may be missing from here on, or that the last hello was not
    /// authentic: nothing but a hello is believed until the next one.
    pub fn mark_gap(&mut self) {
        self.lost = true;
    }

    /// Returns the next whole frame, or `None` if more bytes are needed.
    ///
    /// Never fails: what is not a frame is skipped, and after that data frames are skipped too
    /// until a hello starts a new epoch.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if self.buffer.len() < HEADER_LEN {
                return None;
            }
            match self.parse() {
                Parsed::Frame(frame) => {
                    if matches!(frame, Frame::Hello { .. }) {
                        self.lost = false;
                    } else if self.lost {
                        continue;
                    }
                    return Some(frame);
                }
                Parsed::NeedMore => return None,
                Parsed::NotAFrame => {
                    self.lost = true;
                    // The next place where a frame can begin is the next `S`.
                    let skip = self.buffer[1..]
                        .iter()
                        .position(|&b| b == MAGIC[0])
                        .map_or(self.buffer.len(), |at| at + 1);
                    self.buffer.advance(skip);
                    self.skipped += skip as u64;
                }
            }
        }
    }

    fn parse(&mut self) -> Parsed {
        let head = &self.buffer[..HEADER_LEN];
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, epoch, len, crc) = (head[4], word(8), word(12) as usize, word(16));
        if head[..4] != MAGIC || head[5..8] != [0; 3] {
            return Parsed::NotAFrame;
        }
        match kind {
            TYPE_DATA if len <= DATA_MAX && crc32fast::hash(&head[..16]) == crc => {
                if self.buffer.len() < HEADER_LEN + len {
                    return Parsed::NeedMore;
                }
                self.buffer.advance(HEADER_LEN);
                let bytes = self.buffer.split_to(len).freeze();
                Parsed::Frame(Frame::Data { epoch, bytes })
            }
            TYPE_HELLO if len <= HELLO_MAX => {
                let Some(payload) = self.buffer.get(HEADER_LEN..HEADER_LEN + len) else {
                    return Parsed::NeedMore;
                };
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&head[..16]);
                hasher.update(payload);
                if hasher.finalize() != crc {
                    return Parsed::NotAFrame;
                }
                let Ok(hello) = serde_json::from_slice(payload) else {
                    return Parsed::NotAFrame;
                };
                self.buffer.advance(HEADER_LEN + len);
                Parsed::Frame(Frame::Hello { epoch, hello })
            }
            _ => Parsed::NotAFrame,
        }
    }
}

enum Parsed {
    Frame(Frame),
    NeedMore,
    NotAFrame,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 1,
            machine_id: "mch-abcdefghij".parse().unwrap(),
            boot_id: Some("boot-abcdefghijklmnop".parse().unwrap()),
            secret: "00".repeat(32),
        }
    }

    /// Golden bytes of protocol 1. They are in the field; a change here breaks old guests.
    #[test]
    fn golden_frames_of_version_1() {
        let mut out = BytesMut::new();
        encode_data(7, b"hi", &mut out);
        assert_eq!(
            out[..],
            [
                b'S', b'P', b'L', b'1', 2, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 138, 222, 231, 126,
                b'h', b'i'
            ],
            "{out:02x?}"
        );
        let mut out = BytesMut::new();
        encode_hello(1, &hello(), &mut out);
        let json = format!(
            r#"{{"protocol_min":1,"protocol_max":1,"machine_id":"mch-abcdefghij","boot_id":"boot-abcdefghijklmnop","secret":"{}"}}"#,
            "00".repeat(32)
        );
        assert_eq!(&out[HEADER_LEN..], json.as_bytes());
        let mut decoder = Decoder::new();
        decoder.buffer_mut().put_slice(&out);
        assert_eq!(decoder.next_frame(), Some(Frame::Hello { epoch: 1, hello: hello() }));
    }

    #[test]
    fn a_hello_from_a_newer_host_with_unknown_fields_is_understood() {
        let json = r#"{"protocol_min":1,"protocol_max":9,"machine_id":"mch-abcdefghij","secret":"s","new":{}}"#;
        let hello: Hello = serde_json::from_str(json).unwrap();
        assert_eq!(agree((1, 1), (hello.protocol_min, hello.protocol_max)), Some(1));
        assert_eq!(agree((3, 4), (1, 2)), None);
    }

    #[test]
    fn after_a_cut_frame_nothing_is_believed_until_a_hello() {
        let mut whole = BytesMut::new();
        encode_data(1, b"first", &mut whole);
        encode_data(1, &[b'S'; 300], &mut whole);
        let cut = whole.len() - 100;
        let mut stream = BytesMut::from(&whole[..cut]);
        encode_resync(&mut stream);
        encode_data(1, b"late", &mut stream);
        encode_hello(2, &hello(), &mut stream);
        encode_data(2, b"new", &mut stream);

        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for byte in stream {
            decoder.buffer_mut().put_u8(byte);
            while let Some(frame) = decoder.next_frame() {
                seen.push(frame);
            }
        }
        assert_eq!(seen[0], Frame::Data { epoch: 1, bytes: Bytes::from_static(b"first") });
        // The cut frame may end in bytes of ours; they belong to an epoch that is over.
        assert!(!seen.contains(&Frame::Data { epoch: 1, bytes: Bytes::from_static(b"late") }));
        assert_eq!(seen[seen.len() - 2], Frame::Hello { epoch: 2, hello: hello() });
        assert_eq!(
            seen[seen.len() - 1],
            Frame::Data { epoch: 2, bytes: Bytes::from_static(b"new") }
        );
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics_and_a_hello_is_found_after_it(
            garbage in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)
        ) {
            let mut decoder = Decoder::new();
            decoder.buffer_mut().put_slice(&garbage);
            while decoder.next_frame().is_some() {}
            // A forged header may announce up to 64 KiB; give it that and then a hello.
            decoder.buffer_mut().put_slice(&vec![0; DATA_MAX]);
            encode_hello(5, &hello(), decoder.buffer_mut());
            let mut found = false;
            while let Some(frame) = decoder.next_frame() {
                found |= matches!(frame, Frame::Hello { epoch: 5, .. });
            }
            proptest::prop_assert!(found);
        }
    }
}
