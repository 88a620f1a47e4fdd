//! Forgetting epochs: mark them, wait, then merge what they changed into the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sprite_types::{BlockIndex, Epoch, Timestamp};

use crate::blob;
use crate::delta::Delta;
use crate::error::BlockMapError;
use crate::map::BlockMap;
use crate::row::{self, Row};
use crate::schema;

/// How long an epoch stays after it was marked: a fork that began before sees it to its end,
/// and its pins are there when they are read just before pruning.
pub const EXPIRY_WAIT: Duration = Duration::from_secs(600);

/// Deltas that fit into this together are merged in any case: many small rows cost more than
/// writing them once more.
const SMALL: usize = 8 << 10;

/// What pruning does to the rows.
#[derive(Default)]
struct Plan {
    /// Rows that stay whatever is merged, each with the unwanted rows below it that nothing
    /// else lies on, newest first.
    runs: Vec<(Epoch, Vec<Epoch>)>,
    /// Rows that nothing lies on any more.
    delete: Vec<Epoch>,
    /// Unwanted rows that two or more lie on.
    forks: Vec<Epoch>,
}

/// A row that may take over the one below it.
struct Taker {
    row: Row,
    /// Its delta, once it is needed.
    delta: Option<Delta>,
    changed: bool,
}

impl BlockMap {
    /// Marks epochs: they are not listed for people and cannot be forked any more, but stay.
    /// Those that are marked already keep their time.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: one is not there, or was pruned.
    /// - [`BlockMapError::WrongState`]: one is the head.
    pub fn expire(&mut self, epochs: &[Epoch], now: Timestamp) -> Result<(), BlockMapError> {
        for epoch in epochs {
            self.listed(*epoch)?;
            if *epoch == self.head() {
                return Err(BlockMapError::WrongState { epoch: *epoch, reason: "is the head" });
            }
        }
        self.set_expiring(epochs, Some(now))
    }

    /// Takes the marks back: the epochs are kept as before.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: one is not there, or was pruned.
    pub fn keep(&mut self, epochs: &[Epoch]) -> Result<(), BlockMapError> {
        for epoch in epochs {
            self.listed(*epoch)?;
        }
        self.set_expiring(epochs, None)
    }

    fn set_expiring(
        &mut self,
        epochs: &[Epoch],
        since: Option<Timestamp>,
    ) -> Result<(), BlockMapError> {
        let epochs: BTreeSet<Epoch> = epochs.iter().copied().collect();
        let differs = |epoch: &Epoch| self.rows[epoch].expiring.is_some() != since.is_some();
        let epochs: Vec<Epoch> = epochs.into_iter().filter(differs).collect();
        if epochs.is_empty() {
            return Ok(());
        }
        let marked = match since {
            Some(_) => self.marked() + epochs.len(),
            None => self.marked() - epochs.len(),
        };
        let transaction = schema::begin(&self.connection)?;
        for epoch in &epochs {
            row::write_mark(&transaction, *epoch, since, false)?;
        }
        row::write_head(&transaction, self.head(), self.rows.len(), marked)?;
        schema::commit(transaction)?;
        for epoch in epochs {
            if let Some(row) = self.rows.get_mut(&epoch) {
                row.expiring = since;
            }
        }
        Ok(())
    }

    /// Removes epochs. No other state changes. A delta becomes part of that of the row which
    /// lies on it, if that makes them smaller together or both are small; else, or if two rows
    /// or more lie on it, its row stays as an inner one, unlisted, until nothing lies on it.
    /// Nodes and packs stay until [`BlockMap::sweep`]. One transaction.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: one is not there, or was pruned.
    /// - [`BlockMapError::WrongState`]: one was not marked, or not [`EXPIRY_WAIT`] before `now`.
    pub fn prune(&mut self, epochs: &[Epoch], now: Timestamp) -> Result<(), BlockMapError> {
        for epoch in epochs {
            let row = self.listed(*epoch)?;
            let wrong = |reason| BlockMapError::WrongState { epoch: *epoch, reason };
            let since = row.expiring.ok_or_else(|| wrong("is not expiring"))?;
            if now.since(since) < EXPIRY_WAIT {
                return Err(wrong("has not been expiring for long enough"));
            }
        }
        let pruned: BTreeSet<Epoch> = epochs.iter().copied().collect();
        let Plan { runs, mut delete, forks } = plan(&self.rows, &pruned);
        let mut inner: Vec<Epoch> = forks.into_iter().filter(|e| pruned.contains(e)).collect();
        let mut takers = Vec::new();
        for (top, run) in runs {
            let mut taker = self.taker(top);
            for epoch in run {
                let new = pruned.contains(&epoch);
                // A pair that was left apart before is left apart again.
                if (new || taker.changed) && self.take_over(&mut taker, epoch)? {
                    delete.push(epoch);
                } else {
                    inner.extend(new.then_some(epoch));
                    takers.push(std::mem::replace(&mut taker, self.taker(epoch)));
                }
            }
            takers.push(taker);
        }
        if delete.is_empty() && inner.is_empty() {
            return Ok(());
        }
        let mut written = Vec::new();
        for Taker { mut row, delta, changed } in takers {
            if let Some(delta) = delta.filter(|_| changed) {
                let blob = blob::encode(&delta);
                row.describe(&blob)?;
                written.push((row, blob.bytes));
            }
        }
        self.write_pruned(&delete, &inner, written)
    }

    fn write_pruned(
        &mut self,
        delete: &[Epoch],
        inner: &[Epoch],
        written: Vec<(Row, Vec<u8>)>,
    ) -> Result<(), BlockMapError> {
        let deleted = |epoch: &&Epoch| self.rows[*epoch].is_marked();
        // A row that becomes inner was marked as expiring before.
        let marked = self.marked() - delete.iter().filter(deleted).count();
        let transaction = schema::begin(&self.connection)?;
        for epoch in delete {
            row::delete(&transaction, *epoch)?;
        }
        for epoch in inner {
            row::write_mark(&transaction, *epoch, None, true)?;
        }
        for (row, delta) in &written {
            row.write(&transaction, delta)?;
        }
        row::write_head(&transaction, self.head(), self.rows.len() - delete.len(), marked)?;
        schema::commit(transaction)?;
        for epoch in delete {
            self.rows.remove(epoch);
        }
        for (row, _) in written {
            self.rows.insert(row.epoch, row);
        }
        for epoch in inner {
            if let Some(row) = self.rows.get_mut(epoch) {
                (row.inner, row.expiring) = (true, None);
            }
        }
        // The head may have taken over what lay below it; its base is the same.
        self.gathered = self.chain(self.head())?.iter().map(|row| u64::from(row.changes)).sum();
        Ok(())
    }

    fn taker(&self, epoch: Epoch) -> Taker {
        Taker { row: self.rows[&epoch].clone(), delta: None, changed: false }
    }

    fn delta(&self, row: &Row) -> Result<Delta, BlockMapError> {
        let mut delta = Delta::new();
        row.read_delta(&self.connection, &self.packs, |change| delta.apply_change(change))?;
        Ok(delta)
    }

    /// Makes the row below `taker` part of it, if that pays. Tells whether it did.
    fn take_over(&self, taker: &mut Taker, epoch: Epoch) -> Result<bool, BlockMapError> {
        let below = &self.rows[&epoch];
        let delta = match taker.delta.take() {
            Some(delta) => delta,
            None => self.delta(&taker.row)?,
        };
        let mut merged = self.delta(below)?;
        // Entries that the delta above replaces were counted there, and nothing holds them
        // any more.
        let lost: u64 = delta.blocks().filter_map(|block| stored_len(&merged, block)).sum();
        merged.hide(&delta);
        let (old_len, taker_len) = (below.delta_len as usize, blob::len(&delta));
        let rest_len = blob::len(&merged);
        let saves = (old_len - rest_len.min(old_len)) * 4 >= old_len;
        if !saves && rest_len + taker_len > SMALL {
            taker.delta = Some(delta);
            return Ok(false);
        }
        merged.apply(&delta);
        taker.delta = Some(merged);
        taker.changed = true;
        let row = &mut taker.row;
        (row.prev, row.base) = (below.prev, below.base);
        row.base_bytes += below.base_bytes;
        row.replaced = (row.replaced + below.replaced).saturating_sub(lost);
        Ok(true)
    }
}

fn stored_len(delta: &Delta, block: BlockIndex) -> Option<u64> {
    delta.get(block).flatten().map(|entry| u64::from(entry.len()))
}

/// Finds what becomes of each row when `pruned` are not wanted any more.
fn plan(rows: &BTreeMap<Epoch, Row>, pruned: &BTreeSet<Epoch>) -> Plan {
    let unwanted = |row: &Row| row.inner || pruned.contains(&row.epoch);
    let mut plan = Plan::default();
    let mut above: BTreeMap<Epoch, usize> = BTreeMap::new();
    // From the newest: a row is visited after all that lie on it.
    for row in rows.values().rev() {
        if unwanted(row) && !above.contains_key(&row.epoch) {
            plan.delete.push(row.epoch);
        } else if let Some(prev) = row.prev {
            *above.entry(prev).or_default() += 1;
        }
    }
    let in_run = |row: &Row| unwanted(row) && above.get(&row.epoch) == Some(&1);
    for row in rows.values().filter(|row| !unwanted(row) || above.get(&row.epoch) > Some(&1)) {
        let mut run = Vec::new();
        let mut below = row.prev.and_then(|prev| rows.get(&prev));
        while let Some(next) = below.filter(|next| in_run(next)) {
            run.push(next.epoch);
            below = next.prev.and_then(|prev| rows.get(&prev));
        }
        if !run.is_empty() {
            plan.runs.push((row.epoch, run));
        }
        if unwanted(row) {
            plan.forks.push(row.epoch);
        }
    }
    plan
}
