//! What goes to one stream in one go.

use bytes::{BufMut, Bytes, BytesMut};
use sprite_link::session::{Output, SessionFrame};

use crate::attachment::Attachment;
use crate::log::OutputLog;

/// Output per frame and, give or take one frame, per batch, in bytes.
const FRAME_BYTES: usize = 64 * 1024;
const BATCH_BYTES: usize = 256 * 1024;

/// A batch of frames for one stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) stream: u64,
    pub(crate) bytes: Bytes,
    /// The stream ends after it.
    pub(crate) last: bool,
}

/// Makes the next batch for one attachment, if its stream is ready and there is anything.
pub(crate) fn fill(
    attachment: &mut Attachment,
    log: &OutputLog,
    ended: Option<i32>,
) -> Option<Batch> {
    let stream = attachment.stream.as_mut().filter(|s| s.credits > 0 && !s.finished)?;
    let mut out = BytesMut::new();
    if let Some(greeting) = stream.greeting.take() {
        SessionFrame::Attached(greeting).encode(&mut out);
        // The greeting says where input goes on.
        attachment.input.acked = attachment.input.acked.max(attachment.input.written);
    }
    if attachment.input.written > attachment.input.acked {
        attachment.input.acked = attachment.input.written;
        SessionFrame::InputAck { offset: attachment.input.acked }.encode(&mut out);
    }
    while let Some(event) = attachment.ports.pop_front() {
        SessionFrame::Port(event).encode(&mut out);
    }
    while out.len() < BATCH_BYTES
        && let Some((output, first, second)) = log.stretch(attachment.sent, FRAME_BYTES)
    {
        encode_output(output, attachment.sent, first, second, &mut out);
        attachment.sent += (first.len() + second.len()) as u64;
    }
    if let Some(code) = ended
        && attachment.sent == log.end()
    {
        SessionFrame::Exit { code }.encode(&mut out);
        stream.finished = true;
    }
    if out.is_empty() {
        return None;
    }
    stream.credits -= 1;
    Some(Batch { stream: stream.number, bytes: out.freeze(), last: stream.finished })
}

/// Appends an output frame whose bytes lie in two pieces, without joining them first.
fn encode_output(output: Output, offset: u64, first: &[u8], second: &[u8], out: &mut BytesMut) {
    let len = first.len() + second.len();
    out.reserve(len + 13);
    let start = out.len();
    SessionFrame::Output { output, offset, bytes: Bytes::new() }.encode(out);
    let payload = u32::try_from(8 + len).expect("frames are small");
    out[start + 1..start + 5].copy_from_slice(&payload.to_le_bytes());
    out.put_slice(first);
    out.put_slice(second);
}
