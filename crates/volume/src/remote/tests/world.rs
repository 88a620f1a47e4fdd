//! A bucket, hosts, and what must be in the volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sprite_blockmap::Mark;
use sprite_lease::{Claimant, Evidence};
use sprite_store::{Ambient, Faults, Memory, Store, StoreSettings, seeded};
use sprite_types::{BlockIndex, Epoch, ManualClock, Timestamp, VolumeId};
use tempfile::TempDir;

use crate::bucket::{FrontEnd, Owner, VolumeFolder, VolumeRecord};
use crate::remote::{
    Content, OpenError, Opening, Reader, Remote, RemoteSettings, SealedEpoch, WriteError, Writer,
};
use sprite_testkit::Rng;

/// Blocks of the disks.
pub(super) const DISK: u32 = 40;

/// What each block that is not zeroes was made of.
pub(super) type State = BTreeMap<u32, u64>;

pub(super) fn time() -> Timestamp {
    Timestamp::from_micros(1_795_320_000_000_000)
}

/// Bytes that tell what they were made of; some shrink and some do not. 0 is zeroes.
pub(super) fn content(tag: u64) -> Content {
    let mut content = crate::remote::fetch::empty();
    if tag != 0 {
        content[..8].copy_from_slice(&tag.to_le_bytes());
        if tag.is_multiple_of(3) {
            Rng::new(tag).fill(&mut content[8..]);
        }
    }
    content
}

/// What an epoch changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) zeroes: Vec<(u32, u32)>,
    pub(super) blocks: BTreeMap<u32, u64>,
}

impl Change {
    pub(super) fn one(block: u32, tag: u64) -> Self {
        Self { zeroes: Vec::new(), blocks: BTreeMap::from([(block, tag)]) }
    }

    pub(super) fn random(rng: &mut Rng) -> Self {
        let mut change = Self::default();
        if rng.below(3) == 0 {
            let start = rng.below(DISK as usize) as u32;
            change.zeroes.push((start, 1 + rng.below((DISK - start) as usize) as u32));
        }
        for _ in 0..rng.below(6) {
            let tag = if rng.below(8) == 0 { 0 } else { rng.next() };
            change.blocks.insert(rng.below(DISK as usize) as u32, tag);
        }
        change
    }

    pub(super) fn apply(&self, state: &State) -> State {
        let mut state = state.clone();
        for (start, count) in &self.zeroes {
            state.retain(|block, _| !(*start..start + count).contains(block));
        }
        for (block, tag) in &self.blocks {
            match tag {
                0 => drop(state.remove(block)),
                tag => drop(state.insert(*block, *tag)),
            }
        }
        state
    }

    pub(super) fn seal(&self, epoch: Epoch) -> SealedEpoch {
        let blocks = self.blocks.clone().into_iter();
        let zeroes = self.zeroes.iter().map(|(start, count)| (BlockIndex(*start), *count));
        SealedEpoch {
            epoch,
            time: time(),
            mark: Mark::default(),
            zeroes: zeroes.collect(),
            blocks: Box::new(blocks.map(|(block, tag)| Ok((BlockIndex(block), content(tag))))),
        }
    }
}

/// A bucket with faults.
pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) faults: Faults,
    pub(super) store: Store,
    pub(super) clock: Arc<ManualClock>,
    ambient: Ambient,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(time()));
        let memory = Memory::new(clock.clone());
        let faults = Faults::new(Arc::new(memory.clone()), seed);
        let ambient = Ambient { clock: clock.clone(), random: seeded(seed) };
        // With half of the seeds a request that a test pauses is given up and sent again.
        let patience = if seed.is_multiple_of(2) { 15_000 } else { 1 << 40 };
        let settings = StoreSettings { attempt_timeout_ms: patience, ..StoreSettings::default() };
        let store = Store::new(Arc::new(faults.clone()), settings, ambient.clone());
        Self { memory, faults, store, clock, ambient }
    }

    pub(super) fn remote(&self, volume: u32) -> Remote {
        self.remote_with(volume, RemoteSettings::default())
    }

    pub(super) fn remote_with(&self, volume: u32, settings: RemoteSettings) -> Remote {
        Remote::new(self.store.clone(), folder(volume), self.ambient.clone(), settings)
    }

    pub(super) async fn create(&self, volume: u32) -> Open {
        let host = tempfile::tempdir().unwrap();
        let opened = self.remote(volume).create(&record(volume), opening(&host)).await;
        Open { writer: opened.unwrap(), host }
    }

    /// Opens a volume on a host that knows nothing.
    pub(super) async fn open(&self, volume: u32) -> Result<Open, OpenError> {
        let host = tempfile::tempdir().unwrap();
        let writer = self.remote(volume).open(opening(&host)).await?;
        Ok(Open { writer, host })
    }

    /// Looks at a volume without opening it: every kept epoch must be what the model says.
    pub(super) async fn assert_is(&self, volume: u32, epochs: &BTreeMap<Epoch, State>) {
        let host = tempfile::tempdir().unwrap();
        let view = self.remote(volume).view(&host.path().join("map")).await.unwrap();
        assert_epochs(&view, epochs).await;
        let report = view.check(true).await.unwrap();
        assert_eq!(report.damages, []);
        assert_eq!(report.epochs, epochs.len() as u64);
    }
}

/// A volume that a host has open.
pub(super) struct Open {
    pub(super) writer: Writer,
    /// Dropped last.
    #[expect(dead_code, reason = "is there to be dropped")]
    host: TempDir,
}

impl Open {
    pub(super) async fn commit(&self, change: &Change) -> Result<Epoch, WriteError> {
        self.writer.commit(change.seal(self.writer.reader().head().next())).await
    }
}

pub(super) fn volume_id(volume: u32) -> VolumeId {
    let letter = char::from(b'a' + u8::try_from(volume).unwrap());
    format!("vol-{}", String::from(letter).repeat(16)).parse().unwrap()
}

pub(super) fn folder(volume: u32) -> VolumeFolder {
    VolumeFolder::new(Owner::Org("org-abcdefgh".parse().unwrap()), volume_id(volume))
}

pub(super) fn record(volume: u32) -> VolumeRecord {
    VolumeRecord {
        volume: volume_id(volume),
        sprite: None,
        name: "demo".to_owned(),
        blocks: DISK,
        parents: Vec::new(),
        front_ends: vec![FrontEnd::Fuse],
        keys: Vec::new(),
        created_at: time(),
    }
}

/// Takes over whoever has it.
pub(super) fn opening(host: &TempDir) -> Opening {
    Opening {
        map: host.path().join("map"),
        claimant: Claimant {
            host: "host-aaaaaaaaaa".parse().unwrap(),
            host_boot: "boot-1".to_owned(),
        },
        evidence: Evidence { forced: true, ..Evidence::default() },
        self_fence: Some(Duration::from_secs(30)),
    }
}

/// Reads all of the newest state.
pub(super) async fn assert_head(reader: &Reader, state: &State) {
    let blocks: Vec<BlockIndex> = (0..DISK).map(BlockIndex).collect();
    let mut found = State::new();
    let fill = |fetched: &crate::remote::Fetched| {
        let tag = u64::from_le_bytes(*fetched.content.first_chunk().unwrap());
        assert!(fetched.content == content(tag), "a block is a mixture");
        assert_eq!(found.insert(fetched.block.0, tag), None, "a block came twice");
    };
    reader.read_blocks(&blocks, fill).await.unwrap();
    assert_eq!(&found, state);
}

/// Reads every kept epoch.
pub(super) async fn assert_epochs(reader: &Reader, epochs: &BTreeMap<Epoch, State>) {
    let (head, state) = epochs.last_key_value().unwrap();
    assert_eq!(reader.head(), *head);
    assert_head(reader, state).await;
    let listed: Vec<Epoch> = reader.history().iter().map(|info| info.epoch).collect();
    assert!(listed.iter().eq(epochs.keys()), "{listed:?}");
    for (epoch, state) in epochs {
        for block in 0..DISK {
            let expected = content(state.get(&block).copied().unwrap_or(0));
            let found = reader.read_at(*epoch, BlockIndex(block)).await.unwrap();
            assert!(found == expected, "epoch {epoch}, block {block}");
        }
    }
}
