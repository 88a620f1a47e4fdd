//! One rule each.

use std::collections::BTreeMap;
use std::time::Duration;

use sprite_blockmap::Mark;
use sprite_lease::Evidence;
use sprite_store::{FaultRates, Key, Operation, When};
use sprite_types::{BlockIndex, Epoch, ErrorKind};

use super::model::child;
use super::world::{
    Change, DISK, State, World, assert_epochs, content, folder, opening, record, time,
};
use crate::bucket::{self, Format, FrontEnd, Tombstone};
use crate::remote::{ForkError, OpenError, ReadError, RemoteSettings, WriteError};

fn packs(world: &World, volume: u32) -> Vec<Key> {
    let keys = world.memory.snapshot().into_keys();
    keys.filter(|key| key.is_under(&folder(volume).packs())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_created_once_and_held_by_one() {
    let world = World::new(1);
    let first = world.create(0).await;
    assert_eq!(first.writer.reader().head(), Epoch(1));
    let host = tempfile::tempdir().unwrap();
    let mut careful = opening(&host);
    careful.evidence = Evidence::default();
    let error = world.remote(0).open(careful.clone()).await.unwrap_err();
    assert!(matches!(error, OpenError::Held { .. }), "{error}");
    let mut other = record(0);
    other.name = "another".to_owned();
    let error = world.remote(0).create(&other, opening(&host)).await.unwrap_err();
    assert!(matches!(error, OpenError::Exists { .. }), "{error}");
    assert_eq!(world.remote(7).open(opening(&host)).await.unwrap_err().kind(), ErrorKind::NotFound);
    first.commit(&Change::one(5, 5)).await.unwrap();
    first.writer.clone().release().await.unwrap();
    let error = first.commit(&Change::one(5, 6)).await.unwrap_err();
    assert!(matches!(error, WriteError::Broken { .. }), "{error}");
    let second = world.remote(0).open(careful).await.unwrap();
    assert_eq!(*second.durable().borrow(), Epoch(2));
    assert_eq!(second.reader().read(BlockIndex(5)).await.unwrap(), content(5));
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_opened_is_refused() {
    let world = World::new(2);
    drop(world.create(0).await);
    let put = |key: Key, bytes| {
        let store = world.store.clone();
        async move { store.create(&key, bytes).await.unwrap() }
    };
    let tombstone = |deleted| bucket::encode(&Tombstone { deleted, at: time() });
    let number = |n: u64| format!("{n:016x}.json");
    put(folder(0).tombstones().key(&number(1)).unwrap(), tombstone(true)).await;
    let error = world.open(0).await.err().unwrap();
    assert!(matches!(error, OpenError::Deleted { .. }), "{error}");
    put(folder(0).tombstones().key(&number(2)).unwrap(), tombstone(false)).await;
    drop(world.open(0).await.unwrap());
    let format = bucket::encode(&Format { features: vec!["moonlight".to_owned()], at: time() });
    put(bucket::format_folder().key(&number(1)).unwrap(), format).await;
    let error = world.open(0).await.err().unwrap();
    assert!(matches!(&error, OpenError::Feature { feature } if feature == "moonlight"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// An empty disk must never take the place of one that was lost.
#[tokio::test(start_paused = true)]
async fn a_volume_whose_map_is_gone_is_not_begun_anew() {
    let world = World::new(20);
    let open = world.create(0).await;
    for info in world.store.list(&folder(0).map()).await.unwrap() {
        world.store.delete(&info.key).await.unwrap();
    }
    drop(world.open(0).await.unwrap());
    drop(open);
    let open = world.open(0).await.unwrap();
    open.commit(&Change::one(1, 1)).await.unwrap();
    for info in world.store.list(&folder(0).map()).await.unwrap() {
        world.store.delete(&info.key).await.unwrap();
    }
    let error = world.open(0).await.err().unwrap();
    assert!(matches!(error, OpenError::MapLost { .. }), "{error}");
}

/// Two requests for an epoch of one pack: the pack and the transaction.
#[tokio::test(start_paused = true)]
async fn an_epoch_costs_one_pack_and_one_transaction() {
    let world = World::new(3);
    let open = world.create(0).await;
    let before = (world.faults.count(Operation::Create), open.writer.reader().statistics());
    open.commit(&Change::one(5, 5)).await.unwrap();
    assert_eq!(world.faults.count(Operation::Create), before.0 + 2);
    let after = open.writer.reader().statistics();
    assert_eq!((after.packs, after.transactions), (1, before.1.transactions + 1));
    assert!(after.pack_bytes > 0 && after.transaction_bytes > before.1.transaction_bytes);
    let zeroes = Change { zeroes: vec![(0, DISK)], ..Change::default() };
    open.commit(&zeroes).await.unwrap();
    assert_eq!(open.writer.reader().statistics().packs, 1, "zeroes need no pack");
}

/// The map must not name a pack before it is there.
#[tokio::test(start_paused = true)]
async fn the_transaction_waits_for_the_pack() {
    let world = World::new(4);
    let open = world.create(0).await;
    let mut pause = world.faults.pause(Operation::Create, None, When::Before);
    let writer = open.writer.clone();
    let commit = tokio::spawn(async move { writer.commit(Change::one(1, 1).seal(Epoch(2))).await });
    pause.reached().await;
    let count = world.memory.snapshot().len();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.memory.snapshot().len(), count, "something was written before the pack");
    assert_eq!(open.writer.reader().head(), Epoch(1));
    pause.release();
    assert_eq!(commit.await.unwrap().unwrap(), Epoch(2));
}

/// The second epoch's data is sent while the first waits, and is named after it.
#[tokio::test(start_paused = true)]
async fn epochs_upload_together_and_commit_in_order() {
    let world = World::new(5);
    let open = world.create(0).await;
    let mut pause = world.faults.pause(Operation::Create, None, When::Before);
    let writer = open.writer.clone();
    let first = tokio::spawn(async move { writer.commit(Change::one(1, 1).seal(Epoch(2))).await });
    pause.reached().await;
    let writer = open.writer.clone();
    let second = tokio::spawn(async move { writer.commit(Change::one(1, 2).seal(Epoch(3))).await });
    while packs(&world, 0).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*open.writer.durable().borrow(), Epoch(1));
    pause.release();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(open.writer.reader().read(BlockIndex(1)).await.unwrap(), content(2));
    let error = open.writer.commit(Change::one(1, 1).seal(Epoch(2))).await.unwrap_err();
    let is_late = matches!(error, WriteError::OutOfOrder { expected: Epoch(4), found: Epoch(2) });
    assert!(is_late, "{error}");
}

/// A pack that waited too long for its turn may have been collected.
#[tokio::test(start_paused = true)]
async fn a_pack_that_waited_too_long_is_sent_again() {
    let world = World::new(6);
    drop(world.create(0).await);
    let host = tempfile::tempdir().unwrap();
    let settings = RemoteSettings { collector_grace_s: 100, ..RemoteSettings::default() };
    let writer = world.remote_with(0, settings).open(opening(&host)).await.unwrap();
    let waiting = tokio::spawn({
        let writer = writer.clone();
        async move { writer.commit(Change::one(1, 2).seal(Epoch(3))).await }
    });
    tokio::time::sleep(Duration::from_secs(51)).await;
    writer.commit(Change::one(2, 1).seal(Epoch(2))).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(packs(&world, 0).len(), 3);
    // The collector takes the one that nothing names.
    for key in packs(&world, 0) {
        let named = writer.reader().map().reachable_packs().unwrap();
        if !named.iter().any(|pack| key.as_str().ends_with(&pack.key)) {
            world.store.delete(&key).await.unwrap();
        }
    }
    assert_eq!(packs(&world, 0).len(), 2);
    assert_eq!(writer.reader().read(BlockIndex(1)).await.unwrap(), content(2));
}

/// An outage costs time, and nothing else.
#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_with_the_same_bytes() {
    let world = World::new(7);
    let open = world.create(0).await;
    let rates = FaultRates { lost_answer: 1000, ..FaultRates::default() };
    world.faults.set_rates(rates);
    let writer = open.writer.clone();
    let commit = tokio::spawn(async move { writer.commit(Change::one(1, 1).seal(Epoch(2))).await });
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!commit.is_finished(), "every attempt was lost or its answer was");
    assert!(open.writer.reader().statistics().stalled);
    world.faults.set_rates(FaultRates::default());
    assert_eq!(commit.await.unwrap().unwrap(), Epoch(2));
    assert!(!open.writer.reader().statistics().stalled);
    world
        .assert_is(0, &BTreeMap::from([(Epoch(1), State::new()), (Epoch(2), [(1, 1)].into())]))
        .await;
}

/// A call that was dropped leaves its epoch whole or not at all, and the next call finds out.
#[tokio::test(start_paused = true)]
async fn a_dropped_commit_is_settled_by_the_next() {
    let world = World::new(8);
    let open = world.create(0).await;
    let mut pause = world.faults.pause(Operation::Create, None, When::Before);
    let zeroes = Change { zeroes: vec![(0, 3)], ..Change::default() };
    let writer = open.writer.clone();
    let sealed = zeroes.seal(Epoch(2));
    let commit = tokio::spawn(async move { writer.commit(sealed).await });
    pause.reached().await;
    commit.abort();
    let _ = commit.await;
    assert_eq!(*open.writer.durable().borrow(), Epoch(1), "its transaction is not there yet");
    pause.release();
    let error = open.writer.commit(zeroes.seal(Epoch(2))).await;
    // The transaction was made before the call was dropped.
    let settled = matches!(error, Err(WriteError::OutOfOrder { expected: Epoch(3), .. }));
    assert!(settled, "{error:?}");
    assert_eq!(*open.writer.durable().borrow(), Epoch(2));
}

/// Without the map's log nothing can be sent, so nothing may be acknowledged.
#[tokio::test(start_paused = true)]
async fn a_map_that_was_removed_acknowledges_nothing() {
    let world = World::new(17);
    drop(world.create(0).await);
    let host = tempfile::tempdir().unwrap();
    let writer = world.remote(0).open(opening(&host)).await.unwrap();
    writer.commit(Change::one(1, 1).seal(Epoch(2))).await.unwrap();
    for file in std::fs::read_dir(host.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    for _ in 0..2 {
        let error = writer.commit(Change::one(1, 2).seal(Epoch(3))).await.unwrap_err();
        assert!(matches!(error, WriteError::Broken { .. }), "{error}");
        assert_eq!(*writer.durable().borrow(), Epoch(2));
    }
    let epochs = [(Epoch(1), State::new()), (Epoch(2), [(1, 1)].into())];
    world.assert_is(0, &epochs.into()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_epoch_of_this_disk_changes_nothing() {
    let world = World::new(9);
    let open = world.create(0).await;
    let beyond = Change { zeroes: vec![(DISK - 1, 2)], ..Change::default() };
    for change in [Change::one(DISK, 1), Change::one(u32::MAX, 1), beyond] {
        assert_eq!(open.commit(&change).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let mut unsorted = Change::default().seal(Epoch(2));
    let blocks = [2, 2].map(|block| Ok((BlockIndex(block), content(1))));
    unsorted.blocks = Box::new(blocks.into_iter());
    assert_eq!(open.writer.commit(unsorted).await.unwrap_err().kind(), ErrorKind::Invalid);
    let mut torn = Change::default().seal(Epoch(2));
    torn.blocks = Box::new([Err(std::io::Error::other("disk"))].into_iter());
    let error = open.writer.commit(torn).await.unwrap_err();
    assert!(matches!(error, WriteError::Source { .. }), "{error}");
    open.commit(&Change::one(1, 1)).await.unwrap();
}

/// One request for neighbours, however many ask for them at once.
#[tokio::test(start_paused = true)]
async fn neighbours_come_with_one_request() {
    let world = World::new(10);
    let open = world.create(0).await;
    let blocks = (0..DISK).map(|block| (block, u64::from(block) * 3 + 1)).collect();
    open.commit(&Change { blocks, ..Change::default() }).await.unwrap();
    world.faults.set_rates(FaultRates { delay_ms: 20, ..FaultRates::default() });
    let reader = open.writer.reader();
    let reads = (0..DISK).map(|block| reader.read_run(BlockIndex(block)));
    let runs = futures::future::try_join_all(reads).await.unwrap();
    for (block, run) in (0..DISK).zip(runs) {
        let fetched = run.unwrap().get(BlockIndex(block)).unwrap().clone();
        assert_eq!(fetched.content, content(u64::from(block) * 3 + 1));
    }
    assert_eq!(world.faults.count(Operation::GetRange), 1);
    assert_eq!(reader.statistics().ranges, 1);
}

/// Whoever asked first may go away; the others are served.
#[tokio::test(start_paused = true)]
async fn a_reader_that_gives_up_does_not_hold_up_the_others() {
    let world = World::new(11);
    let open = world.create(0).await;
    open.commit(&Change::one(1, 1)).await.unwrap();
    let mut pause = world.faults.pause(Operation::GetRange, None, When::Before);
    let reader = open.writer.reader().clone();
    let first = tokio::spawn(async move { reader.read(BlockIndex(1)).await });
    pause.reached().await;
    let reader = open.writer.reader().clone();
    let second = tokio::spawn(async move { reader.read(BlockIndex(1)).await });
    tokio::task::yield_now().await;
    first.abort();
    let _ = first.await;
    pause.release();
    assert_eq!(second.await.unwrap().unwrap(), content(1));
    assert_eq!(open.writer.reader().read(BlockIndex(1)).await.unwrap(), content(1));
}

/// Damage is named and never served: which block, which pack, which epoch is still good.
#[tokio::test(start_paused = true)]
async fn damage_is_named_and_never_served() {
    let world = World::new(12);
    let open = world.create(0).await;
    open.commit(&Change::one(1, 3)).await.unwrap();
    let old = packs(&world, 0);
    let change = Change { blocks: [(1, 6), (2, 9)].into(), ..Change::default() };
    open.commit(&change).await.unwrap();
    let new = packs(&world, 0).into_iter().find(|key| !old.contains(key)).unwrap();
    world.memory.tamper(&new, |bytes| bytes[100] ^= 1);
    let reader = open.writer.reader();
    let error = reader.read(BlockIndex(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let ReadError::Fetch { block, key, intact, .. } = &error else { panic!("{error}") };
    assert_eq!((*block, key.as_str(), *intact), (BlockIndex(1), new.as_str(), Some(Epoch(2))));
    assert_eq!(reader.read(BlockIndex(2)).await.unwrap(), content(9), "its neighbour is whole");
    let mut filled = Vec::new();
    let wanted = [BlockIndex(1), BlockIndex(2)];
    let read = reader.read_blocks(&wanted, |fetched| filled.push(fetched.block)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!filled.contains(&BlockIndex(1)));

    assert_eq!(reader.check(false).await.unwrap().damages, []);
    let report = reader.check(true).await.unwrap();
    assert_eq!((report.epochs, report.packs, report.blocks), (3, 2, 3));
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    let named = (damage.epoch, damage.block, damage.pack.as_deref());
    assert_eq!(named, (Some(Epoch(3)), Some(BlockIndex(1)), Some(new.as_str())));

    world.memory.tamper(&new, |bytes| bytes.truncate(90_000));
    assert_eq!(reader.check(false).await.unwrap().damages.len(), 1);
    world.store.delete(&new).await.unwrap();
    let report = reader.check(false).await.unwrap();
    assert_eq!(report.damages[0].reason, "it is missing");
    assert_eq!(reader.read(BlockIndex(2)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(reader.read_at(Epoch(2), BlockIndex(1)).await.unwrap(), content(3));
}

/// One wrong bit on the way is asked for again.
#[tokio::test(start_paused = true)]
async fn bytes_that_broke_on_their_way_are_fetched_again() {
    let world = World::new(13);
    let open = world.create(0).await;
    open.commit(&Change::one(1, 3)).await.unwrap();
    world.faults.set_rates(FaultRates { wrong_bytes: 300, ..FaultRates::default() });
    let (mut whole, mut damaged) = (0, 0);
    for _ in 0..60 {
        match open.writer.reader().read(BlockIndex(1)).await {
            Ok(found) => {
                assert_eq!(found, content(3));
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                damaged += 1;
            }
        }
    }
    let seen = open.writer.reader().statistics().damaged;
    assert!(whole > damaged && seen > damaged, "{whole} whole, {damaged} and {seen} damaged");
}

/// A fork reads what its parent wrote, is not changed by it, and goes on without it.
#[tokio::test(start_paused = true)]
async fn a_fork_of_a_fork_goes_its_own_way() {
    let world = World::new(14);
    let parent = world.create(0).await;
    parent.commit(&Change::one(1, 1)).await.unwrap();
    parent.commit(&Change::one(2, 2)).await.unwrap();
    parent.writer.fork(Epoch(2), &child(1)).await.unwrap();
    parent.commit(&Change::one(1, 9)).await.unwrap();
    let middle = world.open(1).await.unwrap();
    assert_epochs(middle.writer.reader(), &[(Epoch(3), [(1, 1)].into())].into()).await;
    middle.commit(&Change::one(3, 3)).await.unwrap();
    middle.writer.fork(Epoch(4), &child(2)).await.unwrap();
    for volume in [0, 1] {
        assert!(world.store.exists(&folder(volume).pin(folder(2).volume())).await.unwrap());
    }
    let state: State = [(1, 1), (3, 3)].into();
    world.assert_is(2, &[(Epoch(5), state.clone())].into()).await;
    let last = world.open(2).await.unwrap();
    last.commit(&Change::one(4, 4)).await.unwrap();
    while last.writer.maintain().await.unwrap() {}
    // On its own: no map file of an ancestor is needed any more.
    for volume in [0, 1] {
        for info in world.store.list(&folder(volume).map()).await.unwrap() {
            world.store.delete(&info.key).await.unwrap();
        }
    }
    let after = Change::one(4, 4).apply(&state);
    world.assert_is(2, &[(Epoch(5), state), (Epoch(6), after)].into()).await;
}

/// A base image is open nowhere.
#[tokio::test(start_paused = true)]
async fn a_volume_that_nobody_has_open_can_be_forked() {
    let world = World::new(18);
    let image = world.create(0).await;
    image.commit(&Change::one(1, 1)).await.unwrap();
    image.commit(&Change::one(2, 2)).await.unwrap();
    image.writer.clone().release().await.unwrap();
    drop(image);
    let host = tempfile::tempdir().unwrap();
    let scratch = host.path().join("scratch");
    let record = world.remote(0).fork(&scratch, Epoch(2), &child(1)).await.unwrap();
    assert_eq!(record.front_ends, [FrontEnd::Fuse]);
    assert!(world.store.exists(&folder(0).pin(folder(1).volume())).await.unwrap());
    // Its map in the bucket is the image's, whose epoch 3 is something else.
    let error = world.remote(1).fork(&scratch, Epoch(3), &child(2)).await.unwrap_err();
    assert!(matches!(error, ForkError::Unopened), "{error}");
    let view = world.remote(1).view(&scratch).await.unwrap();
    assert_epochs(&view, &[(Epoch(3), [(1, 1)].into())].into()).await;
    drop(view);
    let fork = world.open(1).await.unwrap();
    fork.commit(&Change::one(2, 9)).await.unwrap();
    let first: State = [(1, 1)].into();
    let second = Change::one(2, 9).apply(&first);
    world.assert_is(1, &[(Epoch(3), first), (Epoch(4), second)].into()).await;
    let error = world.remote(0).fork(&scratch, Epoch(9), &child(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!world.store.exists(&folder(0).pin(folder(2).volume())).await.unwrap());
}

/// What a guest's kernel wrote is never mounted by a host's, in forks neither.
#[tokio::test(start_paused = true)]
async fn front_ends_are_remembered_for_ever() {
    let world = World::new(21);
    let open = world.create(0).await;
    for _ in 0..2 {
        open.writer.note_front_end(FrontEnd::Fuse).await.unwrap();
        open.writer.note_front_end(FrontEnd::VhostUser).await.unwrap();
    }
    let both = [FrontEnd::Fuse, FrontEnd::VhostUser];
    assert_eq!(open.writer.record().front_ends, both);
    assert_eq!(world.store.list(&folder(0).records()).await.unwrap().len(), 2);
    let fork = open.writer.fork(Epoch(1), &child(1)).await.unwrap();
    assert_eq!(fork.front_ends, both);
    assert_eq!(world.open(0).await.unwrap().writer.record().front_ends, both);
}

/// What a fork began as stays, for it says which packs the fork needs.
#[tokio::test(start_paused = true)]
async fn pruning_leaves_what_forks_began_as() {
    let world = World::new(19);
    let open = world.create(0).await;
    for tag in 1..4 {
        open.commit(&Change::one(1, tag)).await.unwrap();
    }
    open.writer.fork(Epoch(2), &child(1)).await.unwrap();
    let old = vec![Epoch(1), Epoch(2), Epoch(3)];
    open.writer.expire(old.clone()).await.unwrap();
    let error = open.writer.prune(old.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "too early");
    world.clock.advance(sprite_blockmap::EXPIRY_WAIT);
    let pin = folder(0).pin(folder(1).volume());
    let bytes = world.store.get(&pin).await.unwrap();
    world.memory.tamper(&pin, |bytes| bytes.truncate(20));
    assert_eq!(open.writer.prune(old.clone()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    world.memory.tamper(&pin, |damaged| *damaged = bytes.to_vec());
    assert_eq!(open.writer.prune(old).await.unwrap(), [Epoch(1), Epoch(3)]);
    let epochs = [(Epoch(2), [(1, 1)].into()), (Epoch(4), [(1, 3)].into())];
    world.assert_is(0, &epochs.into()).await;
    world.assert_is(1, &[(Epoch(3), [(1, 1)].into())].into()).await;
}

/// Pins that came too late must not look as if they held something.
#[tokio::test(start_paused = true)]
async fn an_epoch_that_goes_cannot_be_forked() {
    let world = World::new(15);
    let parent = world.create(0).await;
    parent.commit(&Change::one(1, 1)).await.unwrap();
    let pin = folder(0).pin(folder(1).volume());
    let mut pause = world.faults.pause(Operation::Create, Some(&pin), When::After);
    let writer = parent.writer.clone();
    let fork = tokio::spawn(async move { writer.fork(Epoch(1), &child(1)).await });
    pause.reached().await;
    assert!(world.store.exists(&pin).await.unwrap());
    parent.writer.expire(vec![Epoch(1)]).await.unwrap();
    pause.release();
    assert_eq!(fork.await.unwrap().unwrap_err().kind(), ErrorKind::Conflict);
    assert!(!world.store.exists(&pin).await.unwrap());
    let error = world.open(1).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // Forked twice, it is one fork; with another content it is refused.
    parent.writer.fork(Epoch(2), &child(1)).await.unwrap();
    parent.writer.fork(Epoch(2), &child(1)).await.unwrap();
    parent.commit(&Change::one(1, 2)).await.unwrap();
    let error = parent.writer.fork(Epoch(3), &child(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_restore_says_which_blocks_changed() {
    let world = World::new(16);
    let open = world.create(0).await;
    open.commit(&Change::one(1, 1)).await.unwrap();
    open.commit(&Change { blocks: [(1, 2), (7, 7)].into(), ..Change::default() }).await.unwrap();
    let restored = open.writer.restore(Epoch(4), Epoch(2), time(), Mark::default()).await.unwrap();
    assert_eq!(restored, [BlockIndex(1), BlockIndex(7)]);
    assert_eq!(open.writer.reader().read(BlockIndex(1)).await.unwrap(), content(1));
    let error = open.writer.restore(Epoch(5), Epoch(9), time(), Mark::default()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(open.writer.reader().diff(Epoch(3), Epoch(4)).unwrap(), restored);
}
