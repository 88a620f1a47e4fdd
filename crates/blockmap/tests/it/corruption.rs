//! Damage: an error with a name, or the right answer.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sprite_blockmap::{
    BlockMap, BlockMapError, Codec, Delta, Entry, EpochCommit, Kind, Mark, Pack, PackId,
};
use sprite_types::{BlockIndex, Epoch, ErrorKind, Timestamp};

use crate::model::Model;
use sprite_testkit::{Rng, seeds};

const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

/// Writes a map with folds, deltas on them, an expiring epoch and a branch: epochs 1 to 9.
fn sample(dir: &Path) -> (PathBuf, Model) {
    let path = dir.join("map.db");
    let mut map = BlockMap::create(&path, 3000, NOW).unwrap();
    let mut model = Model::new(3000, NOW);
    let commit = |map: &mut BlockMap, model: &mut Model, blocks: std::ops::Range<u32>| {
        let id = map.allocate_pack().unwrap();
        let owner = "vol-aaaaaaaaaaaaaaaa".parse().unwrap();
        let pack = Pack { id, owner, key: format!("packs/{}", id.0), bytes: 8 << 20 };
        let mut delta = Delta::new();
        delta.zero(BlockIndex(blocks.end), 5);
        let mut entries = model.head_state().entries.clone();
        entries.retain(|block, _| !(blocks.end..blocks.end + 5).contains(block));
        for block in blocks {
            let entry = Entry::new(id, block * 100, 100 + block, Codec::Zstd, block).unwrap();
            delta.set(BlockIndex(block), entry);
            entries.insert(block, entry);
        }
        let packs = vec![pack.clone()];
        let epoch = map
            .commit(EpochCommit { time: Some(NOW), delta, packs, ..EpochCommit::default() })
            .unwrap();
        let head = model.head();
        model.add(epoch, head, Kind::Seal, NOW, Mark::default()).entries = entries;
        model.packs.insert(id.0, pack);
    };
    commit(&mut map, &mut model, 0..1100);
    commit(&mut map, &mut model, 700..710);
    map.fold().unwrap();
    commit(&mut map, &mut model, 600..900);
    commit(&mut map, &mut model, 2900..2950);
    let (restored, _) = map.restore(Epoch(4), Some(NOW), Mark::default()).unwrap();
    model.add(restored, Epoch(4), Kind::Restore, NOW, Mark::default());
    commit(&mut map, &mut model, 5..9);
    map.fold().unwrap();
    commit(&mut map, &mut model, 1500..1510);
    commit(&mut map, &mut model, 1..2);
    map.expire(&[Epoch(2)], NOW).unwrap();
    model.epochs.get_mut(&Epoch(2)).unwrap().expiring = Some(NOW);
    map.truncate_wal().unwrap();
    model.check(&map);
    (path, model)
}

/// Opens a damaged map and reads every state. What can be read must be right.
fn examine(path: &Path, model: &Model) -> Result<(), BlockMapError> {
    let map = BlockMap::open(path)?;
    let listed: Vec<Epoch> = map.history().map(|info| info.epoch).collect();
    assert!(listed.iter().eq(model.epochs.keys()), "other epochs: {listed:?}");
    let mut first = Ok(());
    for (epoch, state) in &model.epochs {
        let read =
            || -> Result<Vec<_>, BlockMapError> { map.state_at(*epoch)?.entries().collect() };
        match read() {
            Ok(entries) => {
                let expected = state.entries.iter().map(|(block, e)| (BlockIndex(*block), *e));
                assert!(entries.into_iter().eq(expected), "wrong state of epoch {epoch}");
            }
            Err(error) => first = first.and(Err(error)),
        }
    }
    assert!(map.entries().map(|(block, _)| block.0).eq(model.head_state().entries.keys().copied()));
    match map.reachable_packs() {
        Ok(packs) => assert!(model.reachable().iter().all(|pack| packs.contains(pack))),
        Err(error) => first = first.and(Err(error)),
    }
    let damages = map.verify()?;
    if first.is_err() {
        assert!(!damages.is_empty(), "reading failed and nothing was found: {first:?}");
    }
    first
}

/// One to eight bytes of the file become others, anywhere. Nothing panics, and no state is wrong.
#[test]
fn changed_bytes_are_errors_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = sample(dir.path());
    let whole = fs::read(&path).unwrap();
    let copy = dir.path().join("copy.db");
    let (mut noticed, mut harmless) = (0, 0);
    for seed in seeds(300) {
        let mut rng = Rng::new(seed);
        let mut bytes = whole.clone();
        let at = rng.below(bytes.len() as u32 - 8) as usize;
        for offset in 0..rng.pick(&[1, 1, 8]) {
            bytes[at + offset] = match rng.below(3) {
                0 => bytes[at + offset] ^ (1 << rng.below(8)),
                1 => 0,
                _ => rng.next() as u8,
            };
        }
        fs::write(&copy, &bytes).unwrap();
        let _ = fs::remove_file(copy.with_extension("db-wal"));
        let outcome = std::panic::catch_unwind(|| examine(&copy, &model));
        match outcome {
            Ok(Ok(())) => harmless += 1,
            Ok(Err(error)) => {
                noticed += 1;
                let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported];
                assert!(kinds.contains(&error.kind()), "seed {seed}, byte {at}: {error:?}");
            }
            Err(panic) => {
                eprintln!("failed with seed {seed}, byte {at}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // Free space in pages is harmless; most of the file is not that.
    assert!(noticed > harmless, "{noticed} noticed, {harmless} harmless");
}

/// A file that ends early is noticed wherever it ends.
#[test]
fn a_truncated_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = sample(dir.path());
    let whole = fs::read(&path).unwrap();
    for pages in 0..whole.len() / 4096 {
        fs::write(&path, &whole[..pages * 4096]).unwrap();
        let error = examine(&path, &model).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{pages} pages: {error:?}");
    }
}

/// Changes the tables behind the map's back.
fn damage(statement: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = sample(dir.path());
    let connection = Connection::open(&path).unwrap();
    let changed = connection.execute(statement, []).expect(statement);
    assert!(changed > 0 || statement.starts_with("ALTER"), "{statement} changed nothing");
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let error = examine(&path, &model).expect_err(statement);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{statement}: {error:?}");
    error.to_string()
}

#[test]
fn errors_name_the_epoch_and_the_block() {
    // Nodes 1 to 3 are the leaves of epoch 3's base, then inner node 4 and root 5. The base of
    // epoch 7, which the head needs, shares the third.
    for (statement, expected) in [
        ("DELETE FROM nodes WHERE id = 2", "epoch 3, block 512, node 2 is missing"),
        ("DELETE FROM nodes WHERE id = 5", "epoch 3, block 0, node 5 is missing"),
        (
            "UPDATE nodes SET body = substr(body, 1, 100) WHERE id = 3",
            "epoch 7, block 1024, node 3 has another checksum",
        ),
        ("UPDATE nodes SET body = x'' WHERE id = 3", "epoch 7, block 1024, node 3 is truncated"),
        (
            "UPDATE nodes SET body = (SELECT body FROM nodes WHERE id = 1) WHERE id = 2",
            "epoch 3, block 512, node 2 has another checksum",
        ),
        (
            "UPDATE epochs SET delta = substr(delta, 1, 40) WHERE epoch = 4",
            "epoch 4, its delta has another length",
        ),
        (
            "UPDATE epochs SET delta = CAST(substr(delta, 1, length(delta) - 1) || x'55' AS BLOB) \
             WHERE epoch = 4",
            "epoch 4, its delta has another checksum",
        ),
        ("UPDATE epochs SET prev = 1 WHERE epoch = 9", "epoch 9, its row has another checksum"),
        (
            "UPDATE epochs SET comment = 'x' WHERE epoch = 2",
            "epoch 2, its row has another checksum",
        ),
        ("UPDATE epochs SET kind = 77 WHERE epoch = 2", "epoch 2, has an unknown kind"),
        ("UPDATE epochs SET blocks = -1 WHERE epoch = 2", "epoch 2, its column 8 is unusable"),
        ("DELETE FROM epochs WHERE epoch = 9", "there should be 9 epochs up to 9"),
        ("DELETE FROM epochs WHERE epoch = 5", "there should be 9 epochs up to 9"),
        ("UPDATE head SET epochs = 8", "the head has another checksum"),
        ("DELETE FROM head", "read which epoch is the head"),
        ("UPDATE marks SET since = 1", "epoch 2, its mark has another checksum"),
        ("UPDATE marks SET inner = 1", "epoch 2, its mark has another checksum"),
        ("UPDATE marks SET epoch = 77", "epoch 77, its mark has another checksum"),
        ("DELETE FROM marks", "there should be 9 epochs up to 9, 1 marked"),
        ("DELETE FROM packs WHERE id = 6", "epoch 8, block 1500, its delta has an entry in pack 6"),
        ("UPDATE packs SET bytes = 9 WHERE id = 1", "pack 1 has another checksum"),
        ("UPDATE packs SET key = 'packs/2' WHERE id = 1", "pack 1 has another checksum"),
        ("UPDATE owners SET volume = 'vol-bbbbbbbbbbbbbbbb'", "pack 1 has another checksum"),
        ("UPDATE owners SET volume = '../x'", "owner 1: `../x` is not a VolumeId"),
        ("DELETE FROM owners", "pack 1 has the unknown owner 1"),
        ("ALTER TABLE packs RENAME COLUMN key TO name", "read the packs: "),
    ] {
        let error = damage(statement);
        let text = format!("block map is damaged: {expected}");
        assert!(error.starts_with(&text), "{statement}: {error}");
    }
}

/// A pack that is missing from under a base is noticed even if no delta names it.
#[test]
fn a_base_with_an_unknown_pack_names_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = sample(dir.path());
    // Pack 2 has blocks 700 to 709 of epochs 3 and later; their deltas are folded.
    let connection = Connection::open(&path).unwrap();
    connection.execute("DELETE FROM packs WHERE id = 2", []).unwrap();
    drop(connection);
    let map = BlockMap::open(&path).unwrap();
    let view = map.state_at(Epoch(3)).unwrap();
    assert!(view.lookup(BlockIndex(3)).unwrap().is_some());
    let error = view.lookup(BlockIndex(705)).unwrap_err().to_string();
    assert!(error.contains("epoch 3, block 700, an entry in pack 2, which is unknown"), "{error}");
    let mut entries = view.entries().skip(512);
    assert!(entries.next().unwrap().is_err());
    assert!(entries.next().is_none(), "entries after a damaged leaf");
    assert!(map.pack(PackId(2)).is_err());
    drop(entries);
    let damages = map.verify().unwrap();
    assert!(damages.iter().any(|damage| damage.block == Some(BlockIndex(700))), "{damages:?}");
    assert_eq!(model.packs[&2].id, PackId(2));
}
