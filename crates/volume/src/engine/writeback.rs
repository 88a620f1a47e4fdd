//! The owner task: seals, sends sealed epochs, says what is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use sprite_types::{Epoch, chain};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::warn;

use super::policy::{Bounds, Decision, Gathered};
use super::send::{Job, Sent};
use super::shared::{Shared, entry_of};
use crate::cache::{CacheError, CleanEntry, SealKind, SealResult, SealedKind};
use crate::remote::{WriteError, Writer};

/// Epochs that are handed to the bucket at once.
const SENDING_MAX: usize = 2;

pub(super) struct Writeback {
    shared: Arc<Shared>,
    writer: Writer,
    bounds: Bounds,
    sending: FuturesOrdered<BoxFuture<'static, Result<Sent, WriteError>>>,
    /// The newest epoch that was handed over.
    handed: Epoch,
    /// A restore is on its way: nothing else is, until it is in the map.
    restoring: bool,
    /// When the open epoch was first seen to have something.
    first_write: Option<Instant>,
    /// For each epoch with something, since when.
    since: VecDeque<(Epoch, Instant)>,
    /// Questions with the epoch that answers them.
    asked: VecDeque<(u64, Epoch)>,
    maintenance: Option<BoxFuture<'static, Result<bool, WriteError>>>,
}

impl Writeback {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer, bounds: Bounds) -> Self {
        let handed = *writer.durable().borrow();
        Self {
            shared,
            writer,
            bounds,
            sending: FuturesOrdered::new(),
            handed,
            restoring: false,
            first_write: None,
            since: VecDeque::new(),
            asked: VecDeque::new(),
            maintenance: None,
        }
    }

    /// Runs until the disk ends.
    pub(super) async fn run(mut self) {
        while self.shared.check().is_ok() {
            if let Err(reason) = self.turn().await {
                self.shared.end(&reason);
            }
        }
    }

    /// Does what is due, then waits for the next thing to happen. An error is final; its text
    /// says why.
    async fn turn(&mut self) -> Result<(), String> {
        let wait = self.seal_due().await?;
        self.hand_over();
        self.report();
        let sleep = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let maintenance = async {
            match &mut self.maintenance {
                Some(running) => running.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(sent) = self.sending.next() => {
                let sent = sent.map_err(|error| chain(&error))?;
                self.durable(sent).await?;
            }
            done = maintenance => {
                self.maintenance = None;
                match done {
                    Err(error @ (WriteError::Fenced { .. } | WriteError::Broken { .. })) => {
                        return Err(chain(&error));
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        warn!(error, "block map not maintained");
                    }
                    Ok(_) => {}
                }
            }
            () = sleep => {}
            () = self.shared.wake.notified() => {}
        }
        Ok(())
    }

    /// Seals if it is time. Returns when to look again at the latest.
    async fn seal_due(&mut self) -> Result<Option<std::time::Duration>, String> {
        loop {
            let now = Instant::now();
            if self.shared.is_changed() {
                self.first_write.get_or_insert(now);
            }
            let questions = self.shared.questions.load(Ordering::Acquire);
            let last_asked = self.asked.back().map(|(question, _)| *question);
            let answered = self.shared.progress.borrow().answered;
            let is_question = questions > last_asked.unwrap_or(answered);
            let want_seal = self.shared.want_seal.load(Ordering::Acquire);
            let stats = self.shared.cache.stats();
            let gathered = Gathered {
                bytes: stats.open_bytes,
                age: self.first_write.map(|first| now.duration_since(first)),
                asked: is_question || want_seal && self.first_write.is_some(),
                waiting: stats.sealed_epochs,
            };
            if let Decision::Wait(wait) = self.bounds.decide(&gathered) {
                return Ok(wait);
            }
            // Before the seal: who writes after it says so again.
            self.shared.take_change();
            self.shared.want_seal.store(false, Ordering::Release);
            let (cache, time) = (self.shared.cache.clone(), self.shared.clock.now());
            let sealed = spawn_blocking(move || cache.seal(SealKind::Plain)).await;
            let sealed = sealed.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            match sealed.map_err(|error| chain(&error))? {
                SealResult::Sealed(epoch) => {
                    self.shared.cuts().insert(epoch, time);
                    self.since.push_back((epoch, self.first_write.take().unwrap_or(now)));
                }
                SealResult::Empty => self.first_write = None,
                SealResult::Busy => {
                    // A checkpoint came between.
                    self.shared.note_change();
                    return Ok(None);
                }
            }
            if is_question {
                let sealed = self.shared.cache.sealed_epochs();
                let until = sealed.last().map_or(Epoch(0), |last| last.epoch);
                self.asked.push_back((questions, until));
            }
        }
    }

    /// Hands sealed epochs to the bucket, in their order.
    fn hand_over(&mut self) {
        // Those under way are the oldest. One that a former process sent without saying so to the
        // cache is handed over all the same: that ends at once.
        let under_way = self.sending.len();
        for sealed in self.shared.cache.sealed_epochs().into_iter().skip(under_way) {
            if self.sending.len() >= SENDING_MAX || self.restoring {
                return;
            }
            if matches!(sealed.kind, SealedKind::Restore(_)) {
                if !self.sending.is_empty() {
                    return;
                }
                self.restoring = true;
            }
            let epoch = sealed.epoch;
            let cut = self.shared.cuts().get(&epoch).copied();
            let job = Job { sealed, cut, first: self.handed.next() };
            self.handed = self.handed.max(epoch);
            let sending = job.send(self.shared.clone(), self.writer.clone());
            self.sending.push_back(Box::pin(sending));
        }
    }

    /// An epoch is in the bucket, and the map shows it.
    async fn durable(&mut self, sent: Sent) -> Result<(), String> {
        let Sent { epoch, time, sums } = sent;
        let shared = self.shared.clone();
        let told = spawn_blocking(move || {
            let clean = |block| {
                let crc32c = *sums.get(&block)?;
                shared.remote.lookup(block)?;
                Some(CleanEntry { entry: entry_of(&shared.remote, block), crc32c })
            };
            shared.cache.epoch_durable(epoch, &clean)
        });
        let told: Result<(), CacheError> =
            told.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        told.map_err(|error| chain(&error))?;
        self.restoring = false;
        self.since.retain(|(of, _)| *of > epoch);
        self.shared.cuts().retain(|of, _| *of > epoch);
        self.shared.progress.send_modify(|progress| {
            progress.durable_epoch = progress.durable_epoch.max(epoch);
            progress.durable_through = Some(time);
            progress.trouble = None;
        });
        if self.maintenance.is_none() {
            let writer = self.writer.clone();
            self.maintenance = Some(Box::pin(async move { writer.maintain().await }));
        }
        Ok(())
    }

    /// Says how far the bucket is, and answers who asked.
    fn report(&mut self) {
        let waiting = self.shared.cache.sealed_epochs();
        let oldest = waiting.first().map(|oldest| oldest.epoch);
        let mut answered = 0;
        while let Some((question, until)) = self.asked.front()
            && oldest.is_none_or(|oldest| oldest > *until)
        {
            answered = *question;
            self.asked.pop_front();
        }
        let stats = self.shared.cache.stats();
        let oldest = self.since.front().map(|(_, since)| *since).or(self.first_write);
        let lag = oldest.map(|since| since.elapsed()).unwrap_or_default();
        self.shared.progress.send_if_modified(|progress| {
            let before = (progress.answered, progress.pending_bytes);
            progress.answered = progress.answered.max(answered);
            progress.pending_bytes = stats.open_bytes + stats.sealed_bytes;
            progress.lag = lag;
            before != (progress.answered, progress.pending_bytes)
        });
    }
}
