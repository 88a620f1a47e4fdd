//! What a person may change, and what is counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a volume uses its bucket. Every field has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteSettings {
    /// Packs of one epoch that are uploaded at once. Default 4.
    pub uploads_max: u32,
    /// How long the collector lets an object be that nothing names, in s. A pack that was
    /// uploaded longer ago than half of it is uploaded anew before an epoch names it. Default
    /// 86,400.
    pub collector_grace_s: u64,
    /// Bytes of neighbours that a read fetches, looking backwards too if there are fewer behind
    /// the block. Default 262,144.
    pub run_bytes_min: u64,
    /// Most bytes that a read fetches at once. Default 1,048,576.
    pub run_bytes_max: u64,
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self {
            uploads_max: 4,
            collector_grace_s: 86_400,
            run_bytes_min: 256 << 10,
            run_bytes_max: 1 << 20,
        }
    }
}

impl RemoteSettings {
    /// Returns how old a pack may be when an epoch names it.
    pub(crate) fn pack_age_max(&self) -> Duration {
        Duration::from_secs(self.collector_grace_s) / 2
    }
}

/// What was sent and fetched since the volume was opened. Repeated attempts within the store
/// count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packs written.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Transactions of the map written.
    pub transactions: u64,
    /// Their bytes.
    pub transaction_bytes: u64,
    /// Ranges of packs read.
    pub ranges: u64,
    /// Their bytes.
    pub range_bytes: u64,
    /// Blocks that were found damaged when they were read.
    pub damaged: u64,
    /// Something that has to be written is refused by the store at the moment.
    pub stalled: bool,
}

/// The same, counting.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    packs: AtomicU64,
    pack_bytes: AtomicU64,
    transactions: AtomicU64,
    transaction_bytes: AtomicU64,
    ranges: AtomicU64,
    range_bytes: AtomicU64,
    damaged: AtomicU64,
    stalled: AtomicBool,
}

impl Counters {
    pub(crate) fn pack(&self, bytes: usize) {
        self.packs.fetch_add(1, Ordering::Relaxed);
        self.pack_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stalled(false);
    }

    pub(crate) fn transaction(&self, bytes: usize) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.transaction_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stalled(false);
    }

    pub(crate) fn range(&self, bytes: u64) {
        self.ranges.fetch_add(1, Ordering::Relaxed);
        self.range_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Statistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            packs: get(&self.packs),
            pack_bytes: get(&self.pack_bytes),
            transactions: get(&self.transactions),
            transaction_bytes: get(&self.transaction_bytes),
            ranges: get(&self.ranges),
            range_bytes: get(&self.range_bytes),
            damaged: get(&self.damaged),
            stalled: self.stalled.load(Ordering::Relaxed),
        }
    }
}
