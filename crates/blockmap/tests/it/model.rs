//! What a block map must do, in plain maps: one whole state for each epoch.

use std::collections::{BTreeMap, BTreeSet};

use sprite_blockmap::{BlockMap, Entry, Kind, Mark, Pack};
use sprite_types::{BlockIndex, Epoch, Timestamp};

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<u32, Entry>,
    pub(crate) blocks: u32,
    pub(crate) parent: Option<Epoch>,
    pub(crate) time: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) mark: Mark,
    pub(crate) expiring: Option<Timestamp>,
}

#[derive(Clone)]
pub(crate) struct Model {
    /// Every listed epoch; the last is the head.
    pub(crate) epochs: BTreeMap<Epoch, State>,
    /// Every pack that was ever committed.
    pub(crate) packs: BTreeMap<u32, Pack>,
}

impl Model {
    pub(crate) fn new(blocks: u32, time: Timestamp) -> Self {
        let first = State {
            entries: BTreeMap::new(),
            blocks,
            parent: None,
            time,
            kind: Kind::Create,
            mark: Mark::default(),
            expiring: None,
        };
        Self { epochs: BTreeMap::from([(Epoch(1), first)]), packs: BTreeMap::new() }
    }

    pub(crate) fn head(&self) -> Epoch {
        *self.epochs.last_key_value().unwrap().0
    }

    pub(crate) fn head_state(&self) -> &State {
        self.epochs.last_key_value().unwrap().1
    }

    /// Adds an epoch whose content is that of `parent`.
    pub(crate) fn add(
        &mut self,
        epoch: Epoch,
        parent: Epoch,
        kind: Kind,
        time: Timestamp,
        mark: Mark,
    ) -> &mut State {
        let head = self.head_state();
        let (blocks, time) = (head.blocks, time.max(head.time));
        let entries = self.epochs[&parent].entries.clone();
        assert_eq!(epoch, self.head().next());
        let state =
            State { entries, blocks, parent: Some(parent), time, kind, mark, expiring: None };
        self.epochs.entry(epoch).or_insert(state)
    }

    pub(crate) fn differing(&self, a: Epoch, b: Epoch) -> Vec<BlockIndex> {
        let (a, b) = (&self.epochs[&a].entries, &self.epochs[&b].entries);
        let blocks: BTreeSet<u32> = a.keys().chain(b.keys()).copied().collect();
        blocks.into_iter().filter(|block| a.get(block) != b.get(block)).map(BlockIndex).collect()
    }

    pub(crate) fn reachable(&self) -> Vec<&Pack> {
        let states = self.epochs.values();
        let ids: BTreeSet<u32> =
            states.flat_map(|state| state.entries.values()).map(|entry| entry.pack().0).collect();
        ids.iter().map(|id| &self.packs[id]).collect()
    }

    /// Compares the newest state and the list of epochs.
    pub(crate) fn check_head(&self, map: &BlockMap) {
        assert_eq!((map.head(), map.blocks()), (self.head(), self.head_state().blocks));
        let expected = self.head_state().entries.iter();
        assert!(map.entries().eq(expected.map(|(block, entry)| (BlockIndex(*block), *entry))));
        let mut listed = map.history();
        for (epoch, state) in &self.epochs {
            let info = listed.next().unwrap();
            assert_eq!(info.epoch, *epoch);
            assert_eq!((info.blocks, info.time), (state.blocks, state.time), "{epoch}");
            assert_eq!((info.parent, info.kind), (state.parent, state.kind), "{epoch}");
            assert_eq!((info.expiring, info.mark), (state.expiring, state.mark.clone()), "{epoch}");
        }
        assert_eq!(listed.next(), None);
    }

    /// Compares the whole state of every epoch, and which packs are needed.
    pub(crate) fn check(&self, map: &BlockMap) {
        self.check_head(map);
        for (epoch, state) in &self.epochs {
            let view = map.state_at(*epoch).unwrap();
            assert_eq!(view.blocks(), state.blocks);
            let found: Vec<_> = view.entries().map(Result::unwrap).collect();
            let expected = state.entries.iter().map(|(block, entry)| (BlockIndex(*block), *entry));
            assert!(found.into_iter().eq(expected), "state of epoch {epoch}");
        }
        let needed = self.reachable();
        let reachable = map.reachable_packs().unwrap();
        assert!(reachable.iter().eq(needed), "other packs: {reachable:?}");
        assert_eq!(map.verify().unwrap(), []);
    }
}
