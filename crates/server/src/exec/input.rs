//! A client's input on its way to the guest, kept until the guest has it for good.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use sprite_link::session::INPUT_WINDOW;

/// Largest piece of input in one frame, in bytes.
const PIECE_MAX: usize = 64 * 1024;

/// Input with absolute offsets, of which a part is under way.
///
/// # Invariants
/// - What was not acknowledged is kept, so that it can be sent again on another stream.
/// - At most [`INPUT_WINDOW`] bytes are under way.
#[derive(Debug, Default)]
pub(crate) struct InputBuffer {
    /// The first of these bytes has offset `acked`.
    pieces: VecDeque<Bytes>,
    acked: u64,
    /// Everything before this is under way.
    sent: u64,
    end: u64,
    /// Input ends at `end`.
    closed: bool,
    eof_sent: bool,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextInput {
    Data { offset: u64, bytes: Bytes },
    Eof { offset: u64 },
}

/// The guest claims something about our input that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has input up to {theirs}, of {acked} to {sent}")]
pub(crate) struct InputMismatch {
    theirs: u64,
    acked: u64,
    sent: u64,
}

impl InputBuffer {
    /// Appends input. After [`InputBuffer::close`] it is ignored.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !self.closed && !bytes.is_empty() {
            self.end += bytes.len() as u64;
            self.pieces.push_back(bytes);
        }
    }

    /// Ends the input. Repeating it is harmless.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Forgets what is not under way yet.
    pub(crate) fn give_up(&mut self) {
        let mut kept = self.sent - self.acked;
        self.pieces.retain_mut(|piece| {
            piece.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            kept -= piece.len() as u64;
            !piece.is_empty()
        });
        self.end = self.sent;
        self.closed = self.eof_sent;
    }

    /// Returns how many bytes are kept.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.acked
    }

    /// Returns whether everything that was pushed is under way, its end included.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.end && (self.eof_sent || !self.closed)
    }

    /// Takes the next piece, if the window allows it.
    pub(crate) fn take(&mut self) -> Option<NextInput> {
        if self.sent == self.end {
            let eof = self.closed && !self.eof_sent;
            self.eof_sent |= eof;
            return eof.then_some(NextInput::Eof { offset: self.end });
        }
        let window = INPUT_WINDOW - (self.sent - self.acked);
        let room = usize::try_from(window).unwrap_or(usize::MAX).min(PIECE_MAX);
        if room == 0 {
            return None;
        }
        let mut skip = self.sent - self.acked;
        for piece in &self.pieces {
            if skip >= piece.len() as u64 {
                skip -= piece.len() as u64;
                continue;
            }
            let start = usize::try_from(skip).expect("less than a piece's length");
            let bytes = piece.slice(start..piece.len().min(start + room));
            let offset = self.sent;
            self.sent += bytes.len() as u64;
            return Some(NextInput::Data { offset, bytes });
        }
        None
    }

    /// The guest has everything before `offset` for good.
    pub(crate) fn acknowledge(&mut self, offset: u64) -> Result<(), InputMismatch> {
        if offset < self.acked || offset > self.sent {
            return Err(InputMismatch { theirs: offset, acked: self.acked, sent: self.sent });
        }
        while self.acked < offset {
            let Some(front) = self.pieces.front_mut() else { break };
            let count = (offset - self.acked).min(front.len() as u64);
            front.advance(usize::try_from(count).expect("at most the piece's length"));
            self.acked += count;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
        Ok(())
    }

    /// A new stream begins, on which the guest wants input from `offset` on.
    pub(crate) fn rewind(&mut self, offset: u64) -> Result<(), InputMismatch> {
        self.acknowledge(offset)?;
        self.sent = offset;
        self.eof_sent = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_bounds_what_is_under_way() {
        let mut input = InputBuffer::default();
        input.push(Bytes::from(vec![1; 3 * 1024 * 1024]));
        input.close();
        let mut sent = 0;
        while let Some(NextInput::Data { offset, bytes }) = input.take() {
            assert_eq!(offset, sent);
            sent += bytes.len() as u64;
        }
        assert_eq!(sent, INPUT_WINDOW);
        assert!(!input.is_sent());
        input.acknowledge(1000).unwrap();
        let next = input.take();
        assert!(matches!(next, Some(NextInput::Data { bytes, .. }) if bytes.len() == 1000));
        assert!(input.acknowledge(999).is_err());
        assert!(input.acknowledge(INPUT_WINDOW + 1001).is_err());
    }

    /// A guest that took our input must recognise us after a break, also when we have stopped
    /// waiting for it.
    #[test]
    fn input_that_is_given_up_does_not_change_what_the_guest_has() {
        let mut input = InputBuffer::default();
        input.push(Bytes::from(vec![1; 600 * 1024]));
        input.push(Bytes::from(vec![2; 600 * 1024]));
        while input.take().is_some() {}
        input.acknowledge(1000).unwrap();
        input.give_up();
        assert!(input.is_sent());
        assert_eq!(input.len(), INPUT_WINDOW - 1000);
        input.rewind(INPUT_WINDOW).unwrap();
        assert!(input.is_sent() && input.take().is_none());
        assert!(input.rewind(INPUT_WINDOW + 1).is_err());
    }

    proptest::proptest! {
        /// Whatever breaks, and wherever the guest was, it gets every byte once and in order.
        #[test]
        fn input_survives_broken_streams(
            pieces in proptest::collection::vec(1usize..5000, 1..40),
            breaks in proptest::collection::vec(0u8..4, 0..200),
        ) {
            let mut input = InputBuffer::default();
            let mut all = Vec::new();
            for (index, len) in pieces.iter().enumerate() {
                let piece = vec![index as u8; *len];
                all.extend_from_slice(&piece);
                input.push(piece.into());
            }
            input.close();
            let mut got: Vec<u8> = Vec::new();
            let mut breaks = breaks.into_iter();
            loop {
                match breaks.next() {
                    // Sent, but lost with its stream.
                    Some(0) => {
                        input.take();
                        input.rewind(got.len() as u64).unwrap();
                        continue;
                    }
                    Some(1) => input.acknowledge(got.len() as u64).unwrap(),
                    _ => {}
                }
                match input.take() {
                    Some(NextInput::Data { offset, bytes }) => {
                        assert_eq!(offset, got.len() as u64);
                        got.extend_from_slice(&bytes);
                    }
                    Some(NextInput::Eof { offset }) => {
                        assert_eq!(offset, all.len() as u64);
                        break;
                    }
                    None => input.acknowledge(got.len() as u64).unwrap(),
                }
            }
            assert_eq!(got, all);
            assert!(input.is_sent());
        }
    }
}
