//! Walks two trees side by side.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::vec::IntoIter;

use super::content::{Both, Failed, Verdict, after, before};
use super::pair::{Change, Changes, Difference, look_same};
use super::{Options, Side};
use crate::directory::{Listing, Name};
use crate::error::{FsError, PathError};
use crate::filesystem::{FileSystem, ROOT_INODE};
use crate::inode::{Inode, Kind};
use crate::limits::Budget;
use crate::visited::Visited;
use crate::walk::{Entry, check_enter, check_path};

/// A name in a folder, and which inode it stands for on each side.
struct Row {
    name: Box<[u8]>,
    before: Option<u32>,
    after: Option<u32>,
}

struct Level {
    rows: IntoIter<Row>,
    path_len: usize,
    cost: [usize; 2],
}

/// The differences of two file systems, sorted by path, part by part. Made by [`Diff::new`].
pub struct Diff<'a> {
    both: Both<'a>,
    is_thorough: bool,
    budgets: [Budget; 2],
    visited: [Visited; 2],
    levels: Vec<Level>,
    path: Vec<u8>,
    ready: VecDeque<Difference>,
}

impl<'a> Diff<'a> {
    /// Begins to compare. `before` and `after` may be any two file systems; for two states of
    /// one disk, give [`Options::changed`].
    #[must_use]
    pub fn new(before: &'a FileSystem, after: &'a FileSystem, options: Options) -> Self {
        let budget = || Budget::new(options.limits.clone());
        let mut diff = Self {
            budgets: [budget(), budget()],
            both: Both::new(before, after, options.changed),
            is_thorough: options.is_thorough,
            visited: Default::default(),
            levels: Vec::new(),
            path: Vec::new(),
            ready: VecDeque::new(),
        };
        let root = Row { name: Box::default(), before: Some(ROOT_INODE), after: Some(ROOT_INODE) };
        diff.visit(&root);
        diff
    }

    fn unread(&mut self, side: Side, source: FsError) {
        let error = PathError { path: self.shown_path(), source };
        self.ready.push_back(Difference::Unread { side, error });
    }

    fn shown_path(&self) -> Vec<u8> {
        if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() }
    }

    /// Reads one side of a row; what fails is reported.
    fn read(&mut self, side: Side, number: Option<u32>) -> Result<Option<(Entry, Inode)>, ()> {
        let Some(number) = number else { return Ok(None) };
        let fs = if side == Side::Before { self.both.before } else { self.both.after };
        let read = check_path(&self.path, &self.budgets[side as usize])
            .and_then(|()| fs.inode(number))
            .and_then(|inode| Ok((fs.entry_of(self.shown_path(), &inode)?, inode)));
        read.map(Some).map_err(|error| self.unread(side, error))
    }

    /// Says whether an inode is known to be the same in both, without reading the other. A link
    /// may have its target elsewhere.
    fn is_unchanged(&self, inode: &Inode) -> bool {
        let (before, after) = (self.both.before, self.both.after);
        let place = before.locate(inode.number).ok();
        let Some((block, offset)) =
            place.filter(|place| after.locate(inode.number).ok() == Some(*place))
        else {
            return false;
        };
        let at = block * u64::from(before.superblock.block_size) + offset as u64;
        inode.metadata.kind != Kind::Symlink && self.both.is_unchanged(at, inode.raw.len() as u64)
    }

    /// Compares a row, whose path is the current one, and begins with what is below it.
    fn visit(&mut self, row: &Row) {
        let was = self.read(Side::Before, row.before);
        let is = match &was {
            Ok(Some(was)) if row.before == row.after && self.is_unchanged(&was.1) => {
                Ok(Some(was.clone()))
            }
            _ => self.read(Side::After, row.after),
        };
        let (Ok(was), Ok(is)) = (was, is) else { return };
        let change = match (&was, &is) {
            (Some((old, _)), None) => Some(Change::Removed(old.clone())),
            (None, Some((new, _))) => Some(Change::Added(new.clone())),
            (Some(old), Some(new)) => self.compare(old, new),
            (None, None) => None,
        };
        self.ready.extend(change.map(Difference::Change));
        let folder = |side: &Option<(Entry, Inode)>| {
            let inode = side.as_ref().map(|(_, inode)| inode.clone());
            inode.filter(|inode| inode.metadata.kind == Kind::Directory)
        };
        self.enter(folder(&was), folder(&is));
    }

    fn compare(&mut self, old: &(Entry, Inode), new: &(Entry, Inode)) -> Option<Change> {
        let mut changes = Changes::of(&old.0, &new.0);
        if let Err(Failed { side, source }) = self.compare_deep(&old.1, &new.1, &mut changes) {
            self.unread(side, source);
        }
        let (before, after) = (old.0.clone(), new.0.clone());
        changes.any().then_some(Change::Changed { before, after, changes })
    }

    /// Compares content and attributes.
    fn compare_deep(
        &mut self,
        old: &Inode,
        new: &Inode,
        changes: &mut Changes,
    ) -> Result<(), Failed> {
        let [_, budget] = &mut self.budgets;
        if old.metadata.kind == Kind::File && new.metadata.kind == Kind::File {
            let trusts_times = self.both.changed.is_none() && !self.is_thorough;
            let is_same = trusts_times
                && look_same(old, new)
                && self.both.is_same_mapping(old, new, budget)?;
            let verdict =
                if is_same { Verdict::Same } else { self.both.compare(old, new, budget)? };
            changes.content = verdict == Verdict::Differs;
            changes.content_unknown = verdict == Verdict::Unknown;
        }
        let size = u64::from(self.both.before.superblock.block_size);
        let is_same_block = old.attribute_block == new.attribute_block
            && (old.attribute_block == 0
                || self.both.is_unchanged(old.attribute_block.saturating_mul(size), size));
        if !(is_same_block && old.raw == new.raw) {
            let was = before(self.both.before.xattrs_of(old))?;
            changes.xattrs = was != after(self.both.after.xattrs_of(new))?;
        }
        Ok(())
    }

    /// Lists the folders, of one side or both, and puts their names side by side.
    fn enter(&mut self, old: Option<Inode>, new: Option<Inode>) {
        if old.is_none() && new.is_none() {
            return;
        }
        let depth = self.levels.len();
        let mut listings = [Listing::default(), Listing::default()];
        let mut is_partial = [false; 2];
        for (side, inode) in [(Side::Before, &old), (Side::After, &new)] {
            let Some(inode) = inode else { continue };
            let at = side as usize;
            let fs = if side == Side::Before { self.both.before } else { self.both.after };
            match check_enter(inode, &mut self.visited[at], depth, &self.budgets[at]) {
                Ok(()) => listings[at] = fs.list(inode, &mut self.budgets[at]),
                Err(error) => listings[at].errors.push(error),
            }
            for error in std::mem::take(&mut listings[at].errors) {
                is_partial[at] = true;
                self.unread(side, error);
            }
        }
        let cost = [listings[0].cost, listings[1].cost];
        let [was, is] = listings;
        let rows = merge(was.names, is.names).into_iter().filter(|row| {
            let is_guess =
                (row.before.is_none() && is_partial[0]) || (row.after.is_none() && is_partial[1]);
            !is_guess
        });
        let rows: Vec<Row> = rows.collect();
        self.levels.push(Level { rows: rows.into_iter(), path_len: self.path.len(), cost });
    }
}

impl Iterator for Diff<'_> {
    type Item = Difference;

    fn next(&mut self) -> Option<Difference> {
        loop {
            if let Some(difference) = self.ready.pop_front() {
                return Some(difference);
            }
            let level = self.levels.last_mut()?;
            self.path.truncate(level.path_len);
            let Some(row) = level.rows.next() else {
                self.budgets[0].names_bytes += level.cost[0];
                self.budgets[1].names_bytes += level.cost[1];
                self.levels.pop();
                continue;
            };
            self.path.push(b'/');
            self.path.extend_from_slice(&row.name);
            self.visit(&row);
        }
    }
}

/// Joins two sorted lists by name.
fn merge(before: Vec<Name>, after: Vec<Name>) -> Vec<Row> {
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    let mut rows = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return rows,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { after.next() } else { None };
        let numbers = (old.as_ref().map(|name| name.inode), new.as_ref().map(|name| name.inode));
        if let Some(Name { name, .. }) = old.or(new) {
            rows.push(Row { name, before: numbers.0, after: numbers.1 });
        }
    }
}
