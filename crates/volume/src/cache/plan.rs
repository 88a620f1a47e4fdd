//! What a replay keeps: rule 6, as a function from what the journal says to what stays.

use std::collections::BTreeMap;

use sprite_types::{BlockIndex, Epoch};

use super::error::OpenError;
use super::journal::{EventKind, Item, ItemState, Replayed};
use super::parts::{Entry, Parts};
use super::rules::{Rule, Rules};
use super::table::SlotId;

/// A slot that stays.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) id: SlotId,
    pub(super) item: Item,
    /// Whether it is what reads of its block see.
    pub(super) current: bool,
    /// Whether its checksum has to be compared before its first use.
    pub(super) verify: bool,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) kept: Vec<Kept>,
    /// Epochs that are rebuilt, oldest first; each is in some event, or lies right before a restore.
    pub(super) sealed: Vec<Epoch>,
    pub(super) open_epoch: Epoch,
    /// The last restore that is not in the bucket.
    pub(super) cut_epoch: Epoch,
}

/// Tells whether a slot has something that the bucket does not have.
fn is_live(item: &Item, durable: Epoch) -> bool {
    item.state == ItemState::Open && item.epoch > durable && !(item.dirty & item.valid).is_empty()
}

/// Tells whether the journal has writes later than `durable`.
pub(super) fn has_unsent(replayed: &Replayed, durable: Epoch) -> bool {
    replayed.slots.values().any(|item| is_live(item, durable))
        || replayed.events.iter().any(|event| event.epoch > durable)
}

/// Decides what stays, given the newest epoch of ours that is in the bucket, the newest epoch of
/// anybody, and the entries of the bucket's head.
pub(super) fn plan(
    replayed: &Replayed,
    durable: Epoch,
    head: Epoch,
    entry_of: &dyn Fn(BlockIndex) -> Entry,
    rules: Rules,
) -> Result<Plan, OpenError> {
    let durable = if rules.keep(Rule::DropDurable) { durable } else { Epoch(0) };
    let open_epoch = replayed.open_epoch.max(head).max(durable).next();
    let bounds = bounds(replayed, durable, rules);
    let cut_epoch = bounds.iter().filter(|bound| bound.cuts).map(|bound| bound.epoch).max();
    // Nothing was lost if the cache was closed in order and the bucket is as it was then.
    let exact = replayed.clean_stop && replayed.durable_epoch == durable;
    let mut by_block: BTreeMap<BlockIndex, Vec<&Item>> = BTreeMap::new();
    for item in replayed.slots.values().filter(|item| is_live(item, durable)) {
        by_block.entry(item.block).or_default().push(item);
    }
    let mut kept = Vec::new();
    for items in by_block.values_mut() {
        // Of a mark and a slot of one epoch, the slot came later: the other way round, zeroing
        // changes the slot itself.
        items.sort_by_key(|item| (item.epoch, !item.slot.is_mark()));
        keep_live(items, &bounds, open_epoch, exact, rules, &mut kept)?;
    }
    // The entries are the head's, and a restore that is not in the bucket shows another state.
    if cut_epoch.is_none() {
        let mut seen = std::collections::BTreeSet::new();
        for item in replayed.slots.values().filter(|item| item.state == ItemState::Clean) {
            let same = item.clean.entry == entry_of(item.block);
            if (same || !rules.keep(Rule::CleanNeedsEntry))
                && (exact || item.valid == Parts::ALL)
                && !by_block.contains_key(&item.block)
                && seen.insert(item.block)
            {
                let item = Item { dirty: Parts::NONE, ..*item };
                let verify = !exact || item.unverified;
                kept.push(Kept { id: item.slot, item, current: true, verify });
            }
        }
    }
    let mut sealed: Vec<Epoch> = bounds.iter().map(|bound| bound.epoch).collect();
    sealed.retain(|epoch| {
        kept.iter().any(|kept| kept.item.epoch == *epoch)
            || replayed.events.iter().any(|event| event.epoch == *epoch)
    });
    Ok(Plan { kept, sealed, open_epoch, cut_epoch: cut_epoch.unwrap_or_default() })
}

/// The last epoch of a group that is rebuilt as one.
struct Bound {
    epoch: Epoch,
    /// What comes after lies on another state.
    cuts: bool,
}

fn bounds(replayed: &Replayed, durable: Epoch, rules: Rules) -> Vec<Bound> {
    let mut bounds: BTreeMap<Epoch, bool> = BTreeMap::new();
    for event in replayed.events.iter().filter(|event| event.epoch > durable) {
        match event.kind {
            EventKind::Named if rules.keep(Rule::NamedSealsStay) => {
                bounds.entry(event.epoch).or_default();
            }
            EventKind::Restore if rules.keep(Rule::RestoreCuts) => {
                bounds.insert(event.epoch, true);
                // Nothing written before a restore may slip behind it, named or not.
                let before = Epoch(event.epoch.0.saturating_sub(1));
                if before > durable {
                    bounds.entry(before).or_default();
                }
            }
            _ => {}
        }
    }
    bounds.into_iter().map(|(epoch, cuts)| Bound { epoch, cuts }).collect()
}

/// Merges the live slots of one block, oldest first, into one for each group.
fn keep_live(
    items: &[&Item],
    bounds: &[Bound],
    open_epoch: Epoch,
    exact: bool,
    rules: Rules,
    kept: &mut Vec<Kept>,
) -> Result<(), OpenError> {
    let group = |epoch: Epoch| bounds.partition_point(|bound| bound.epoch < epoch);
    // What earlier groups changed: not in the bucket, so the later ones must keep their copies.
    let mut below = Parts::NONE;
    let mut rest = items;
    while let [first, ..] = rest {
        let at = group(first.epoch);
        let len = rest.partition_point(|item| group(item.epoch) == at);
        let (members, later) = rest.split_at(len);
        rest = later;
        let newest = members.last().expect("a group has a first member");
        let dirty = members.iter().fold(Parts::NONE, |all, item| all | item.dirty & item.valid);
        // A slot begins with the valid parts of the one before it; so the newest has them all.
        if !newest.valid.covers(dirty | below) && rules.keep(Rule::CopyValid) {
            return Err(OpenError::Corrupt { what: "a slot lacks parts of the one before it" });
        }
        // The copies count as dirty: one may have been written over in place since, by a write
        // that was not flushed, and what a read returns now must not be undone later.
        let needed = dirty | below;
        let keep_all = exact || !rules.keep(Rule::DropCleanParts);
        let valid = if keep_all { newest.valid } else { needed & newest.valid };
        let epoch = bounds.get(at).map_or(open_epoch, |bound| bound.epoch);
        let item = Item {
            epoch,
            valid,
            dirty: needed & newest.valid,
            zero: newest.zero & valid,
            ..**newest
        };
        // A later restore hides what lies before it.
        let current = later.is_empty() && !bounds[at.min(bounds.len())..].iter().any(|b| b.cuts);
        kept.push(Kept { id: item.slot, item, current, verify: false });
        let cut = bounds.get(at..group(later.first().map_or(open_epoch, |item| item.epoch)));
        below = if cut.is_some_and(|between| between.iter().any(|bound| bound.cuts)) {
            Parts::NONE
        } else {
            needed
        };
    }
    Ok(())
}
