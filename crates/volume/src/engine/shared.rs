//! What device threads and the owner task share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sprite_types::{BlockIndex, Clock, Epoch, Timestamp};
use tokio::sync::{Notify, watch};

use super::{EngineError, Fsync};
use crate::cache::{Cache, Entry};
use crate::remote::Reader;

/// How far the bucket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest epoch in the bucket. It never falls.
    pub durable_epoch: Epoch,
    /// When its cut was made, if this process made it.
    pub durable_through: Option<Timestamp>,
    /// Bytes to send: whole blocks.
    pub pending_bytes: u64,
    /// How old the oldest write is that is not in the bucket; measured when something happens.
    pub lag: Duration,
    /// Why the bucket refuses at the moment.
    pub trouble: Option<Arc<str>>,
    /// Questions up to this one are answered.
    pub(super) answered: u64,
    /// Why the disk has ended.
    pub(super) ended: Option<Arc<str>>,
}

pub(super) struct Shared {
    pub(super) cache: Arc<Cache>,
    pub(super) remote: Reader,
    pub(super) fsync: Fsync,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) progress: watch::Sender<Progress>,
    /// Wakes the owner task.
    pub(super) wake: Notify,
    /// Bytes that may be written before anybody looks at the bound. A guess.
    pub(super) room: AtomicI64,
    /// There are writes since the open epoch began.
    changed: AtomicBool,
    /// A write waits for an upload.
    pub(super) want_seal: AtomicBool,
    /// How many asked for everything to be in the bucket.
    pub(super) questions: AtomicU64,
    /// When the cuts of epochs on their way were made.
    pub(super) cuts: Mutex<BTreeMap<Epoch, Timestamp>>,
}

impl Shared {
    pub(super) fn new(
        cache: Arc<Cache>,
        remote: Reader,
        fsync: Fsync,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let stats = cache.stats();
        let progress = Progress {
            durable_epoch: remote.head(),
            pending_bytes: stats.open_bytes + stats.sealed_bytes,
            ..Progress::default()
        };
        Self {
            cache,
            remote,
            fsync,
            clock,
            progress: watch::Sender::new(progress),
            wake: Notify::new(),
            room: AtomicI64::new(0),
            // What a former process left in the open epoch, perhaps only zeroed blocks.
            changed: AtomicBool::new(true),
            want_seal: AtomicBool::new(false),
            questions: AtomicU64::new(0),
            cuts: Mutex::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), EngineError> {
        match &self.progress.borrow().ended {
            None => Ok(()),
            Some(reason) => Err(EngineError::Ended { reason: reason.clone() }),
        }
    }

    /// Ends the disk. The first reason stays.
    pub(super) fn end(&self, reason: &str) {
        self.progress.send_if_modified(|progress| {
            let is_first = progress.ended.is_none();
            progress.ended.get_or_insert_with(|| reason.into());
            is_first
        });
        self.wake.notify_one();
    }

    /// Says that the open epoch may have something.
    pub(super) fn note_change(&self) {
        if !self.changed.load(Ordering::Acquire) && !self.changed.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// Before a seal: a write after it says so again.
    pub(super) fn take_change(&self) {
        self.changed.store(false, Ordering::Release);
    }

    pub(super) fn cuts(&self) -> MutexGuard<'_, BTreeMap<Epoch, Timestamp>> {
        self.cuts.lock().expect("no holder of this lock panics")
    }

    /// Waits until every write that was answered before this call is in the bucket.
    ///
    /// # Cancel safety
    /// Dropped, it is as if it was not called.
    pub(super) async fn settle(&self) -> Result<Epoch, EngineError> {
        self.check()?;
        let mut progress = self.progress.subscribe();
        let question = self.questions.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake.notify_one();
        let answer = progress
            .wait_for(|progress| progress.answered >= question || progress.ended.is_some())
            .await;
        let answered = answer.is_ok_and(|progress| progress.answered >= question);
        let durable = self.progress.borrow().durable_epoch;
        if answered { Ok(durable) } else { self.check().map(|()| durable) }
    }

    /// Waits until an epoch is in the bucket.
    pub(super) async fn until_durable(&self, epoch: Epoch) -> Result<(), EngineError> {
        let mut progress = self.progress.subscribe();
        self.wake.notify_one();
        // An error: the sender is ours.
        let _ = progress
            .wait_for(|progress| progress.durable_epoch >= epoch || progress.ended.is_some())
            .await;
        if self.progress.borrow().durable_epoch >= epoch { Ok(()) } else { self.check() }
    }
}

/// What the map says of a block, as the cache knows it.
pub(super) fn entry_of(remote: &Reader, block: BlockIndex) -> Entry {
    remote.lookup(block).map_or(Entry::NONE, |entry| Entry(entry.to_bytes()))
}
