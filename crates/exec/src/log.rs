//! What a session printed: the last part of its output, addressed by absolute offset.
//!
//! Both outputs share one sequence of bytes, in the order in which they were read; *runs* tell
//! which output a stretch came from.
//!
//! # Invariants
//! - `end - start` bytes are held, and exactly that many are described by the runs.
//! - Nothing at or after the floor given to [`OutputLog::trim`] is ever dropped.

use std::collections::VecDeque;

use sprite_link::session::Output;

/// A process that alternates its outputs byte by byte costs a run each; beyond this many the
/// scrollback gets shorter.
const RUNS_MAX: usize = 32 * 1024;

/// A stretch of one output, from `start` to the next run's start.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    output: Output,
}

/// The last part of a session's output.
#[derive(Debug, Default)]
pub(crate) struct OutputLog {
    bytes: VecDeque<u8>,
    runs: VecDeque<Run>,
    start: u64,
}

impl OutputLog {
    /// Makes an empty log that begins at offset 0.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Returns the offset of the first byte still held.
    #[must_use]
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// Returns the offset after the last byte.
    #[must_use]
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Returns how many bytes of memory it takes, about.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.runs.len() * size_of::<Run>()
    }

    /// Returns whether the runs alone are worth holding the process back.
    #[must_use]
    pub(crate) fn is_fragmented(&self) -> bool {
        self.runs.len() >= RUNS_MAX
    }

    /// Adds output at the end.
    pub(crate) fn append(&mut self, output: Output, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.runs.back().is_none_or(|run| run.output != output) {
            self.runs.push_back(Run { start: self.end(), output });
        }
        self.bytes.extend(bytes);
    }

    /// Drops the oldest bytes beyond `keep`, but none at or after `floor`.
    pub(crate) fn trim(&mut self, keep: usize, floor: u64) {
        let mut from = self.end().saturating_sub(keep as u64).max(self.start);
        if self.runs.len() > RUNS_MAX {
            from = from.max(self.runs[self.runs.len() - RUNS_MAX].start);
        }
        let from = from.min(floor);
        if from <= self.start {
            return;
        }
        let drop = usize::try_from(from - self.start).expect("dropped bytes are in memory");
        self.bytes.drain(..drop);
        self.start = from;
        while self.runs.get(1).is_some_and(|run| run.start <= from) {
            self.runs.pop_front();
        }
        if self.bytes.is_empty() {
            self.runs.clear();
            self.bytes = VecDeque::new();
        }
    }

    /// Returns the longest stretch of one output at `offset`, at most `max` bytes long, or `None`
    /// if the log ends there or no longer reaches back so far.
    ///
    /// The stretch may lie in two pieces of memory.
    #[must_use]
    pub(crate) fn stretch(&self, offset: u64, max: usize) -> Option<(Output, &[u8], &[u8])> {
        if offset < self.start || offset >= self.end() {
            return None;
        }
        let next = self.runs.partition_point(|run| run.start <= offset);
        let run = self.runs[next - 1];
        let stop = self.runs.get(next).map_or(self.end(), |next| next.start);
        let len = usize::try_from(stop - offset).unwrap_or(max).min(max);
        let at = usize::try_from(offset - self.start).expect("held bytes are in memory");
        let (head, tail) = self.bytes.as_slices();
        if at >= head.len() {
            let at = at - head.len();
            return Some((run.output, &tail[at..at + len], &[]));
        }
        let first = &head[at..head.len().min(at + len)];
        Some((run.output, first, &tail[..len - first.len()]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_from(log: &OutputLog, mut offset: u64, max: usize) -> Vec<(Output, u8)> {
        let mut all = Vec::new();
        while let Some((output, first, second)) = log.stretch(offset, max) {
            assert!(!first.is_empty() && first.len() + second.len() <= max);
            all.extend(first.iter().chain(second).map(|&b| (output, b)));
            offset += (first.len() + second.len()) as u64;
        }
        assert_eq!(offset, log.end());
        all
    }

    proptest! {
        /// The log is a suffix of everything ever written, with every byte's output known.
        #[test]
        fn the_log_is_a_suffix_of_all_output(
            steps in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..50), 0..120_usize, any::<u8>()),
                0..60,
            ),
            max in 1..40_usize,
        ) {
            let mut model: Vec<(Output, u8)> = Vec::new();
            let mut log = OutputLog::new();
            for (is_error, bytes, keep, floor) in steps {
                let output = if is_error { Output::Stderr } else { Output::Stdout };
                model.extend(bytes.iter().map(|&b| (output, b)));
                log.append(output, &bytes);
                let floor = log.start() + u64::from(floor);
                log.trim(keep, floor);
                prop_assert_eq!(log.end(), model.len() as u64);
                prop_assert!(log.end() - log.start() >= (keep as u64).min(model.len() as u64).min(log.end() - log.start()));
                prop_assert!(log.end() - log.start() <= (keep as u64).max(log.end().saturating_sub(floor)));
                let start = usize::try_from(log.start()).unwrap();
                prop_assert_eq!(&read_from(&log, log.start(), max)[..], &model[start..]);
            }
        }
    }

    #[test]
    fn alternating_outputs_cannot_grow_the_log_without_bound() {
        let mut log = OutputLog::new();
        for i in 0..100_000 {
            let output = if i % 2 == 0 { Output::Stdout } else { Output::Stderr };
            log.append(output, b"x");
            log.trim(1 << 20, u64::MAX);
        }
        assert!(log.runs.len() <= RUNS_MAX);
        assert_eq!(log.end(), 100_000);
    }

    #[test]
    fn what_is_gone_or_not_yet_there_is_not_given_out() {
        let mut log = OutputLog::new();
        log.append(Output::Stdout, b"abcdef");
        log.trim(2, u64::MAX);
        assert_eq!(log.start(), 4);
        assert!(log.stretch(3, 10).is_none());
        assert!(log.stretch(6, 10).is_none());
        assert_eq!(log.stretch(5, 10).unwrap().1, b"f");
    }
}
