//! One client's view of a session: how far it has come in output and input.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

use crate::input::InputOffsets;

/// Batches that may be under way to one stream at a time: one being written, one waiting.
pub(crate) const CREDITS: u8 = 2;
/// Port events kept for a stream that is slow or away; older ones are lost.
const PORTS_MAX: usize = 256;

/// The connection that currently serves an attachment.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Never used twice within a session.
    pub(crate) number: u64,
    /// How many batches it is ready to take.
    pub(crate) credits: u8,
    /// The first message, until it was sent.
    pub(crate) greeting: Option<Bytes>,
    /// The last message was sent.
    pub(crate) finished: bool,
}

/// One client's view of a session. Outlives its stream for a while.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Names it within the session; never used twice.
    pub(crate) key: u64,
    /// The name the host gave it.
    pub(crate) id: String,
    pub(crate) stream: Option<Stream>,
    /// Since when there is no stream.
    pub(crate) broken_since: Option<Instant>,
    /// Output before this was sent on the current stream, or needs no sending.
    pub(crate) sent: u64,
    /// Output before this has reached the client.
    pub(crate) acked: u64,
    /// Since when it holds the process back without any progress.
    pub(crate) blocked_since: Option<Instant>,
    pub(crate) input: InputOffsets,
    pub(crate) ports: VecDeque<Bytes>,
}

impl Attachment {
    pub(crate) fn new(key: u64, id: String, from: u64) -> Self {
        Self {
            key,
            id,
            stream: None,
            broken_since: None,
            sent: from,
            acked: from,
            blocked_since: None,
            input: InputOffsets::default(),
            ports: VecDeque::new(),
        }
    }

    pub(crate) fn push_port(&mut self, event: Bytes) {
        if self.ports.len() == PORTS_MAX {
            self.ports.pop_front();
        }
        self.ports.push_back(event);
    }
}
