//! Input on its way to the process: offsets per attachment, one queue for all.
//!
//! # Invariants
//! - Of every attachment each input byte enters the queue exactly once, in order.
//! - A byte is acknowledged when the process (or the pipe to it) has taken it, or when nobody
//!   will ever read it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use sprite_link::session::{INPUT_WINDOW, PAYLOAD_MAX};

/// What an attachment has sent so far; offsets in its own input.
#[derive(Debug, Default)]
pub(crate) struct InputOffsets {
    /// Everything before this is in the queue or beyond.
    pub(crate) taken: u64,
    /// Everything before this has left the queue.
    pub(crate) written: u64,
    /// What the host was last told.
    pub(crate) acked: u64,
}

/// Input that breaks the protocol; the stream must be given up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Bytes are missing in between.
    #[error("input at offset {offset}, expected {expected} or less")]
    Gap { offset: u64, expected: u64 },
    /// The host ignores the window.
    #[error("more than {INPUT_WINDOW} bytes of input beyond the last acknowledgement")]
    Overrun,
}

#[derive(Debug)]
enum Item {
    Data { key: u64, bytes: Bytes },
    Eof,
}

/// Input of all attachments, in the order in which it came.
#[derive(Debug, Default)]
pub(crate) struct InputQueue {
    items: VecDeque<Item>,
    /// Bytes in `items`.
    len: usize,
    /// Nothing will be read any more.
    closed: bool,
}

impl InputQueue {
    /// Takes input of the attachment `key` over, without what is known already.
    pub(crate) fn push(
        &mut self,
        key: u64,
        offsets: &mut InputOffsets,
        offset: u64,
        mut bytes: Bytes,
    ) -> Result<(), InputError> {
        let known = offsets
            .taken
            .checked_sub(offset)
            .ok_or(InputError::Gap { offset, expected: offsets.taken })?;
        if known >= bytes.len() as u64 {
            return Ok(());
        }
        bytes.advance(usize::try_from(known).expect("less than the length"));
        let taken = offsets.taken + bytes.len() as u64;
        if self.closed {
            offsets.taken = taken;
            offsets.written = taken;
            return Ok(());
        }
        if taken - offsets.written > INPUT_WINDOW + PAYLOAD_MAX as u64 {
            return Err(InputError::Overrun);
        }
        offsets.taken = taken;
        self.len += bytes.len();
        self.items.push_back(Item::Data { key, bytes });
        Ok(())
    }

    /// Notes that input ends here: the process sees end of file after what is queued.
    pub(crate) fn push_eof(
        &mut self,
        offsets: &InputOffsets,
        offset: u64,
    ) -> Result<(), InputError> {
        if offset > offsets.taken {
            return Err(InputError::Gap { offset, expected: offsets.taken });
        }
        if !self.closed {
            self.items.push_back(Item::Eof);
        }
        Ok(())
    }

    /// Returns how many bytes wait.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Returns what to write next.
    pub(crate) fn front(&self) -> Option<&Bytes> {
        match self.items.front() {
            Some(Item::Data { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    /// Returns whether the process's input must be closed now.
    pub(crate) fn at_eof(&self) -> bool {
        self.closed || matches!(self.items.front(), Some(Item::Eof))
    }

    /// Notes that `len` bytes of the front were written, and returns whose they were.
    pub(crate) fn written(&mut self, len: usize) -> Option<u64> {
        let Some(Item::Data { key, bytes }) = self.items.front_mut() else { return None };
        bytes.advance(len);
        self.len -= len;
        let key = *key;
        if bytes.is_empty() {
            self.items.pop_front();
        }
        Some(key)
    }

    /// Throws everything away, now and from now on: nobody reads.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.items = VecDeque::new();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is sent again after a break, and however it is cut, the process reads the
        /// client's bytes once and in order.
        #[test]
        fn resent_input_is_written_once(
            resends in proptest::collection::vec((0..300_u64, 1..80_usize), 1..60)
        ) {
            let all: Vec<u8> = (0..=255).chain(0..=255).collect();
            let mut offsets = InputOffsets::default();
            let mut queue = InputQueue::default();
            let mut got = Vec::new();
            for (back, len) in resends {
                let from = offsets.taken.saturating_sub(back);
                let start = usize::try_from(from).unwrap();
                let stop = (start + len).min(all.len());
                let bytes = Bytes::copy_from_slice(&all[start..stop]);
                queue.push(1, &mut offsets, from, bytes).unwrap();
                while let Some(front) = queue.front() {
                    let half = front.len().div_ceil(2);
                    got.extend_from_slice(&front[..half]);
                    offsets.written += half as u64;
                    prop_assert_eq!(queue.written(half), Some(1));
                }
                prop_assert_eq!(offsets.written, offsets.taken);
            }
            prop_assert_eq!(&got[..], &all[..got.len()]);
        }
    }

    #[test]
    fn a_gap_or_an_ignored_window_ends_the_stream() {
        let mut offsets = InputOffsets::default();
        let mut queue = InputQueue::default();
        let gap = queue.push(1, &mut offsets, 1, Bytes::from_static(b"x"));
        assert_eq!(gap, Err(InputError::Gap { offset: 1, expected: 0 }));
        let chunk = Bytes::from(vec![0; 64 * 1024]);
        let result = (0..100)
            .try_for_each(|i| queue.push(1, &mut offsets, i * chunk.len() as u64, chunk.clone()));
        assert_eq!(result, Err(InputError::Overrun));
    }
}
