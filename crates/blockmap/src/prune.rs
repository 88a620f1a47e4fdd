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

/// What pruning changes in the rows.
#[derive(Default)]
struct Plan {
    /// Rows with new deltas, and for each what it takes over, oldest first.
    absorb: Vec<(Epoch, Vec<Epoch>)>,
    /// Rows that become inner.
    inner: Vec<Epoch>,
    /// Rows that end, those that are taken over included.
    delete: Vec<Epoch>,
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
        self.set_expiring(epochs, |row| Some(row.expiring.unwrap_or(now)))
    }

    /// Takes the marks back: the epochs are kept as before.
    ///
    /// # Errors
    /// - [`BlockMapError::NoSuchEpoch`]: one is not there, or was pruned.
    pub fn keep(&mut self, epochs: &[Epoch]) -> Result<(), BlockMapError> {
        for epoch in epochs {
            self.listed(*epoch)?;
        }
        self.set_expiring(epochs, |_| None)
    }

    fn set_expiring(
        &mut self,
        epochs: &[Epoch],
        since: impl Fn(&Row) -> Option<Timestamp>,
    ) -> Result<(), BlockMapError> {
        let marks: Vec<_> = epochs.iter().map(|epoch| (*epoch, since(&self.rows[epoch]))).collect();
        let transaction = schema::begin(&self.connection)?;
        for (epoch, since) in &marks {
            row::set_expiring(&transaction, *epoch, *since)?;
        }
        schema::commit(transaction)?;
        for (epoch, since) in marks {
            if let Some(row) = self.rows.get_mut(&epoch) {
                row.expiring = since;
            }
        }
        Ok(())
    }

    /// Removes epochs. No other state changes: each delta becomes part of that of the next row
    /// that builds on it. One that two rows or more build on stays as an inner row, unlisted,
    /// until only one does. Their nodes and packs stay until [`BlockMap::sweep`]. One
    /// transaction.
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
        self.forget(epochs)
    }

    /// Removes epochs, whatever their marks.
    pub(crate) fn forget(&mut self, epochs: &[Epoch]) -> Result<(), BlockMapError> {
        let plan = plan(&self.rows, epochs);
        let mut written: Vec<(Row, Vec<u8>)> = Vec::new();
        for (epoch, absorbed) in &plan.absorb {
            written.push(self.absorb(*epoch, absorbed, plan.inner.contains(epoch))?);
        }
        for epoch in &plan.inner {
            // One that also takes over others is written already.
            if written.iter().all(|(row, _)| row.epoch != *epoch) {
                written.push(self.absorb(*epoch, &[], true)?);
            }
        }
        if written.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let transaction = schema::begin(&self.connection)?;
        for epoch in &plan.inner {
            row::set_expiring(&transaction, *epoch, None)?;
        }
        for epoch in &plan.delete {
            row::delete(&transaction, *epoch)?;
        }
        for (row, delta) in &written {
            row.write(&transaction, delta)?;
        }
        let left = self.rows.len() - plan.delete.len();
        row::write_head(&transaction, self.head(), left)?;
        schema::commit(transaction)?;
        for epoch in &plan.delete {
            self.rows.remove(epoch);
        }
        for (row, _) in written {
            self.rows.insert(row.epoch, row);
        }
        // The head may have taken over what lay below it; its base is the same.
        self.gathered = self.chain(self.head())?.iter().map(|row| u64::from(row.changes)).sum();
        Ok(())
    }

    /// Makes the row that `epoch` becomes, and its delta.
    fn absorb(
        &self,
        epoch: Epoch,
        absorbed: &[Epoch],
        inner: bool,
    ) -> Result<(Row, Vec<u8>), BlockMapError> {
        let mut row = self.rows[&epoch].clone();
        let mut delta = Delta::new();
        let mut replaced = 0;
        for (at, epoch) in absorbed.iter().chain([&epoch]).enumerate() {
            let old = &self.rows[epoch];
            // An entry of an absorbed delta that a later one replaces was counted there, and
            // nothing holds it any more.
            let mut lost = 0;
            let mut own = Delta::new();
            old.read_delta(&self.connection, &self.packs, |change| own.apply_change(change))?;
            if at > 0 {
                let gone = own.blocks().filter_map(|block| stored_len(&delta, block));
                lost = gone.sum();
            }
            delta.apply(&own);
            replaced = (replaced + old.replaced).saturating_sub(lost);
        }
        if let Some(oldest) = absorbed.first().map(|epoch| &self.rows[epoch]) {
            (row.prev, row.base) = (oldest.prev, oldest.base);
            row.base_bytes += absorbed.iter().map(|epoch| self.rows[epoch].base_bytes).sum::<u64>();
            row.replaced = replaced;
        }
        if inner {
            (row.inner, row.expiring) = (true, None);
        }
        let blob = blob::encode(&delta);
        row.describe(&blob)?;
        Ok((row, blob.bytes))
    }
}

fn stored_len(delta: &Delta, block: BlockIndex) -> Option<u64> {
    delta.get(block).flatten().map(|entry| u64::from(entry.len()))
}

/// Decides what becomes of each row when `pruned` are not wanted any more. Also tidies rows
/// that earlier prunes had to leave.
fn plan(rows: &BTreeMap<Epoch, Row>, pruned: &[Epoch]) -> Plan {
    let pruned: BTreeSet<Epoch> = pruned.iter().copied().collect();
    let unwanted = |row: &Row| row.inner || pruned.contains(&row.epoch);
    let mut plan = Plan::default();
    let mut above: BTreeMap<Epoch, usize> = BTreeMap::new();
    // From the newest: a row is visited after all that build on it.
    for row in rows.values().rev() {
        if unwanted(row) && !above.contains_key(&row.epoch) {
            plan.delete.push(row.epoch);
        } else if let Some(prev) = row.prev {
            *above.entry(prev).or_default() += 1;
        }
    }
    let passed = |row: &Row| unwanted(row) && above.get(&row.epoch) == Some(&1);
    let ended: BTreeSet<Epoch> = plan.delete.iter().copied().collect();
    for row in rows.values().filter(|row| !ended.contains(&row.epoch) && !passed(row)) {
        let mut absorbed = Vec::new();
        let mut below = row.prev.and_then(|prev| rows.get(&prev));
        while let Some(row) = below.filter(|row| passed(row)) {
            absorbed.push(row.epoch);
            below = row.prev.and_then(|prev| rows.get(&prev));
        }
        absorbed.reverse();
        if !absorbed.is_empty() {
            plan.delete.extend(&absorbed);
            plan.absorb.push((row.epoch, absorbed));
        }
        if unwanted(row) && !row.inner {
            plan.inner.push(row.epoch);
        }
    }
    plan
}
