//! Databases in a bucket: one writer at a time, readers, copies.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use sprite_ltx::database::Capture;
use sprite_ltx::format::LtxFile;
use sprite_ltx::replica::{
    BrokenRule, CommitError, Maintenance, Manifest, ManifestName, OpenError, OpenOptions, Opened,
    Replica, Writer,
};
use sprite_store::{
    Ambient, FaultRates, Faults, Key, Memory, Operation, Prefix, Store, StoreSettings, When, seeded,
};
use sprite_types::{Epoch, ErrorKind, Generation, ManualClock, Timestamp, Txid};
use tempfile::TempDir;

use sprite_testkit::Rng;

use crate::for_each_seed;
use crate::workload::{connect, contents, folder, transaction};

pub(crate) const BOOT: &str = "boot-1";

pub(crate) fn time() -> Timestamp {
    Timestamp::from_micros(1_768_300_200_120_000)
}

/// A bucket with faults.
pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) faults: Faults,
    pub(crate) store: Store,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, StoreSettings::default())
    }

    pub(crate) fn with(seed: u64, settings: StoreSettings) -> Self {
        let memory = Memory::new(Arc::new(ManualClock::at(time())));
        Self::of(memory, seed, settings)
    }

    /// Another way to the same bucket, with faults of its own.
    pub(crate) fn of(memory: Memory, seed: u64, settings: StoreSettings) -> Self {
        let clock = Arc::new(ManualClock::at(time()));
        let faults = Faults::new(Arc::new(memory.clone()), seed);
        let ambient = Ambient { clock, random: seeded(seed) };
        let store = Store::new(Arc::new(faults.clone()), settings, ambient);
        Self { memory, faults, store }
    }

    pub(crate) fn replica(&self) -> Replica {
        self.named("db/")
    }

    fn named(&self, prefix: &str) -> Replica {
        Replica::new(self.store.clone(), prefix.parse().unwrap()).unwrap()
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix: Prefix = prefix.parse().unwrap();
        let keys = self.memory.snapshot().into_keys();
        keys.filter_map(|key| Some(key.relative_to(&prefix)?.to_owned())).collect()
    }
}

/// A host: a folder in which one writer may have the database open.
pub(crate) struct Host {
    folder: TempDir,
    pub(crate) writer: Option<Box<Writer>>,
    pub(crate) connection: Option<Connection>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { folder: folder(), writer: None, connection: None }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("db")
    }

    /// Opens the database, or begins it with an empty table.
    pub(crate) async fn open(
        &mut self,
        replica: &Replica,
        generation: u64,
    ) -> Result<(), OpenError> {
        self.kill();
        let options = OpenOptions {
            path: self.path(),
            generation: Generation(generation),
            boot: BOOT.to_owned(),
            time: time(),
        };
        let writer = match replica.open(options).await? {
            Opened::Existing(writer) => writer,
            Opened::New(new) => {
                for suffix in ["", "-wal", "-shm", "-ltx"] {
                    std::fs::remove_file(crate::workload::with_suffix(new.path(), suffix)).ok();
                }
                let connection = crate::workload::create(new.path(), 1024);
                self.connection = Some(connection);
                new.create().await?
            }
        };
        self.writer = Some(writer);
        if self.connection.is_none() {
            self.connection = Some(connect(&self.path()));
        }
        Ok(())
    }

    /// The process ends here, whatever it was doing.
    pub(crate) fn kill(&mut self) {
        self.connection = None;
        self.writer = None;
    }

    fn execute(&self, sql: &str) {
        self.connection.as_ref().unwrap().execute_batch(sql).unwrap();
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    async fn commit(&mut self) -> Result<Txid, CommitError> {
        self.writer().commit(time()).await.map(|tip| tip.txid)
    }

    async fn insert(&mut self, key: i64) -> Result<Txid, CommitError> {
        self.execute(&format!("INSERT OR REPLACE INTO t VALUES ({key}, randomblob(600))"));
        self.commit().await
    }
}

async fn fetched(replica: &Replica) -> (Txid, Vec<u8>) {
    let folder = folder();
    let path = folder.path().join("copy");
    let fetched = replica.fetch(&path, false).await.unwrap().unwrap();
    (fetched.tip.txid, std::fs::read(path).unwrap())
}

async fn assert_fetches(replica: &Replica, host: &Host) {
    assert!(fetched(replica).await.1 == contents(&host.path()), "the fetched database differs");
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_is_fetched_by_anyone() {
    let world = World::new(1);
    let replica = world.replica();
    assert!(replica.fetch(&Host::new().path(), false).await.unwrap().is_none());
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    assert_fetches(&replica, &host).await;
    for key in 0..5 {
        assert_eq!(host.insert(key).await.unwrap(), Txid(key as u64 + 2));
    }
    assert_eq!(host.commit().await.unwrap(), Txid(6), "nothing new is no transaction");
    assert_fetches(&replica, &host).await;
    assert_eq!(world.keys("db/")[0], "0000/0000000000000001-0000000000000001.ltx");
    assert_eq!(world.keys("db/").len(), 6);
}

/// From the moment the second open returned, the first writer fails, at once and for good.
#[tokio::test(start_paused = true)]
async fn a_writer_that_was_taken_over_never_writes_again() {
    let world = World::new(2);
    let replica = world.replica();
    let (mut old, mut new) = (Host::new(), Host::new());
    old.open(&replica, 1).await.unwrap();
    old.insert(1).await.unwrap();
    new.open(&replica, 2).await.unwrap();
    assert_eq!(new.writer().tip().txid, Txid(3), "a fence follows the former writer's last");
    let error = old.insert(2).await.unwrap_err();
    let is_fenced =
        matches!(error, CommitError::Fenced { txid: Txid(3), held: Some(Generation(2)) });
    assert!(is_fenced, "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let objects = world.memory.snapshot();
    assert!(matches!(old.commit().await, Err(CommitError::Fenced { .. })));
    assert!(matches!(old.writer().compact(None).await, Err(CommitError::Fenced { .. })));
    assert!(matches!(old.writer().snapshot(None).await, Err(CommitError::Fenced { .. })));
    assert_eq!(world.memory.snapshot(), objects, "nothing was written");
    new.insert(3).await.unwrap();
    assert_fetches(&replica, &new).await;

    let error = old.open(&replica, 2).await.unwrap_err();
    assert!(matches!(error, OpenError::Fenced { held: Generation(2), ours: Generation(2) }));
    old.open(&replica, 3).await.unwrap();
    assert_eq!(contents(&old.path()), contents(&new.path()));
}

/// The former writer's request is under way, perhaps for hours, when the new one opens.
#[tokio::test(start_paused = true)]
async fn a_put_that_was_paused_lands_before_the_fence_or_never() {
    for lands_first in [false, true] {
        let world = World::new(3);
        let replica = world.replica();
        let (mut old, mut new) = (Host::new(), Host::new());
        old.open(&replica, 1).await.unwrap();
        let mut put = world.faults.pause(Operation::Create, None, When::Before);
        old.execute("INSERT INTO t VALUES (7, 7)");
        let mut writer = old.writer.take().unwrap();
        let zombie = tokio::spawn(async move { writer.commit(time()).await });
        put.reached().await;
        zombie.abort();
        // The new writer reads everything, and stops right before its fence.
        let mut fence = world.faults.pause(Operation::Create, None, When::Before);
        let open = tokio::spawn({
            let replica = replica.clone();
            async move { new.open(&replica, 2).await.map(|()| new) }
        });
        fence.reached().await;
        if lands_first {
            put.release();
            while world.memory.snapshot().len() < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            fence.release();
        } else {
            fence.release();
            while world.memory.snapshot().len() < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            put.release();
        }
        let new = open.await.unwrap().unwrap();
        world.faults.settle().await;
        let rows: i64 = new
            .connection
            .as_ref()
            .unwrap()
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, i64::from(lands_first));
        assert_fetches(&replica, &new).await;
    }
}

/// An opener sleeps right before its fence, for so long that the place of the fence was written,
/// compacted and collected. Its fence succeeds, and fences nobody: it must begin again.
#[tokio::test(start_paused = true)]
async fn a_fence_in_the_place_of_a_collected_transaction_is_void() {
    let world = World::new(16);
    // The sleeper's way to the bucket never gives up an attempt.
    let settings = StoreSettings { attempt_timeout_ms: u64::MAX / 4, ..StoreSettings::default() };
    let sleeper = World::of(world.memory.clone(), 17, settings);
    let replica = world.replica();
    let (mut old, mut new) = (Host::new(), Host::new());
    old.open(&replica, 1).await.unwrap();
    old.insert(1).await.unwrap();
    let mut fence = sleeper.faults.pause(Operation::Create, None, When::Before);
    let open = tokio::spawn({
        let replica = sleeper.replica();
        async move { new.open(&replica, 2).await.map(|()| new) }
    });
    fence.reached().await;
    for key in 2..6 {
        old.insert(key).await.unwrap();
    }
    old.writer().snapshot(None).await.unwrap();
    for key in world.keys("db/0000/") {
        world.store.delete(&format!("db/0000/{key}").parse().unwrap()).await.unwrap();
    }
    fence.release();
    let mut new = open.await.unwrap().unwrap();
    assert_eq!(
        world.keys("db/0000/"),
        [
            "0000000000000003-0000000000000003.ltx", // void
            "0000000000000007-0000000000000007.ltx",
        ]
    );
    assert_eq!(contents(&new.path()), contents(&old.path()), "nothing is missing");
    assert!(matches!(old.insert(9).await, Err(CommitError::Fenced { txid: Txid(7), .. })));
    new.insert(10).await.unwrap();
    assert_fetches(&replica, &new).await;
}

/// An opener sleeps right before its fence while newer manifests replace the one it read, and the
/// files that only that one names are collected. Its own manifests must not name them again.
#[tokio::test(start_paused = true)]
async fn what_an_opener_read_may_be_collected_before_it_fences() {
    for is_kept in [true, false] {
        let world = World::new(21);
        let settings =
            StoreSettings { attempt_timeout_ms: u64::MAX / 4, ..StoreSettings::default() };
        let sleeper = World::of(world.memory.clone(), 22, settings);
        let (replica, mut sleepy) = (world.replica(), sleeper.replica());
        if !is_kept {
            sleepy = sleepy.without(BrokenRule::KeepOldManifest);
        }
        let (mut old, mut new) = (Host::new(), Host::new());
        old.open(&replica, 1).await.unwrap();
        old.insert(1).await.unwrap();
        old.writer().snapshot(None).await.unwrap();
        let only_in_first = world.keys("db/0009/").pop().unwrap();
        let mut fence = sleeper.faults.pause(Operation::Create, None, When::Before);
        let open = tokio::spawn(async move { new.open(&sleepy, 2).await.map(|()| new) });
        fence.reached().await;
        for key in 2..4 {
            old.insert(key).await.unwrap();
            old.writer().snapshot(None).await.unwrap();
        }
        let collected = format!("db/0009/{only_in_first}").parse().unwrap();
        world.store.delete(&collected).await.unwrap();
        fence.release();
        let mut new = open.await.unwrap().unwrap();
        new.insert(9).await.unwrap();
        new.writer().compact(None).await.unwrap();
        let copy = Host::new();
        let fetched = replica.fetch(&copy.path(), false).await;
        assert_eq!(fetched.is_ok(), is_kept, "{fetched:?}");
        assert!(!is_kept || std::fs::read(copy.path()).unwrap() == contents(&new.path()));
    }
}

/// A commit whose outcome is unknown is repeated with the same bytes, also if more was written
/// to the database since.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_settled_by_the_same_file() {
    let settings = StoreSettings { attempts_max: 1, ..StoreSettings::default() };
    for rates in [
        FaultRates { lost_answer: 1000, ..FaultRates::default() },
        FaultRates { unreachable: 1000, ..FaultRates::default() },
    ] {
        let world = World::with(4, settings.clone());
        let replica = world.replica();
        let mut host = Host::new();
        host.open(&replica, 1).await.unwrap();
        world.faults.set_rates(rates);
        let error = host.insert(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let connection = host.connection.take().unwrap();
        assert!(host.writer().truncate(&connection).is_err(), "it may not be durable");
        host.connection = Some(connection);
        host.execute("INSERT INTO t VALUES (2, 2)");
        world.faults.set_rates(FaultRates::default());
        assert_eq!(host.commit().await.unwrap(), Txid(3));
        assert_fetches(&replica, &host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn compaction_and_snapshots_change_files_and_not_the_database() {
    let world = World::new(5);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    assert_eq!(host.writer().compact(None).await.unwrap().unwrap().txid, Txid(1));
    assert_eq!(host.writer().compact(None).await.unwrap(), None);
    assert_eq!(host.writer().publisher().wants(), Maintenance::None);
    let mut rng = Rng::new(5);
    for round in 0..20 {
        for _ in 0..4 {
            transaction(host.connection.as_ref().unwrap(), &mut rng);
            host.commit().await.unwrap();
        }
        let name = host.writer().compact(Some(Epoch(round))).await.unwrap();
        if let Some(name) = name {
            let key = format!("db/manifest/{name}").parse::<Key>().unwrap();
            let objects = world.memory.snapshot();
            assert_eq!(objects[&key], objects[&"db/hint.json".parse::<Key>().unwrap()]);
            let manifest = Manifest::parse(&objects[&key]).unwrap();
            assert_eq!((manifest.name(), manifest.head_epoch), (name, Some(Epoch(round))));
            assert!(manifest.files.len() <= 19, "levels are merged: {}", manifest.files.len());
        }
        if round % 7 == 0 {
            assert_fetches(&replica, &host).await;
        }
    }
    assert!(world.keys("db/0002/").len() == 1, "{:?}", world.keys("db/"));
    // At the same transaction as the newest manifest: another revision of it.
    let name = host.writer().snapshot(None).await.unwrap().unwrap();
    assert_eq!((name.txid, name.revision), (host.writer().tip().txid, 1));
    assert_eq!(host.writer().snapshot(None).await.unwrap(), None);
    assert_fetches(&replica, &host).await;
    let key = format!("db/manifest/{name}").parse::<Key>().unwrap();
    assert_eq!(Manifest::parse(&world.memory.snapshot()[&key]).unwrap().files.len(), 1);
    host.insert(1).await.unwrap();
    let name = host.writer().snapshot(None).await.unwrap().unwrap();
    assert_eq!(name.revision, 0);
    assert_fetches(&replica, &host).await;
}

#[tokio::test(start_paused = true)]
async fn the_database_asks_for_what_keeps_it_fast() {
    let world = World::new(6);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    for key in 0..63 {
        assert_eq!(host.writer().publisher().wants(), Maintenance::None, "{key}");
        host.insert(key).await.unwrap();
    }
    assert_eq!(host.writer().publisher().wants(), Maintenance::Compact);
    host.writer().compact(None).await.unwrap();
    assert_eq!(host.writer().publisher().wants(), Maintenance::None);
    host.execute("INSERT INTO t VALUES (1000, randomblob(1100000))");
    host.commit().await.unwrap();
    assert_eq!(host.writer().publisher().wants(), Maintenance::Snapshot);
    host.writer().snapshot(None).await.unwrap();
    assert_eq!(host.writer().publisher().wants(), Maintenance::None);
    host.kill();
    // 64 transactions and a fence; the one file that followed is in memory of nobody.
    host.open(&replica, 2).await.unwrap();
    assert_fetches(&replica, &host).await;
}

/// A clean end on this host: the next open reads a manifest and looks for what came after, and
/// fetches no file.
#[tokio::test(start_paused = true)]
async fn a_local_database_that_is_part_of_the_history_is_not_fetched() {
    let world = World::new(7);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    for key in 0..9 {
        host.insert(key).await.unwrap();
    }
    host.writer().snapshot(None).await.unwrap();
    host.insert(10).await.unwrap();
    let before = contents(&host.path());
    // Not committed: cut off, as nobody else will ever see it.
    host.execute("INSERT INTO t VALUES (11, 11)");
    let ranges = world.faults.count(Operation::GetRange);
    host.open(&replica, 2).await.unwrap();
    assert_eq!(world.faults.count(Operation::GetRange), ranges, "no file was fetched");
    assert!(contents(&host.path()) == before);
    assert_fetches(&replica, &host).await;

    // Written elsewhere since: only the new transactions are read.
    let mut other = Host::new();
    other.open(&replica, 3).await.unwrap();
    other.insert(12).await.unwrap();
    let ranges = world.faults.count(Operation::GetRange);
    host.open(&replica, 4).await.unwrap();
    assert_eq!(world.faults.count(Operation::GetRange), ranges);
    assert!(contents(&host.path()) == contents(&other.path()));
}

/// A commit of a writer that was fenced is on its own disk only. It must not survive there.
#[tokio::test(start_paused = true)]
async fn a_local_database_that_is_no_part_of_the_history_is_replaced() {
    let world = World::new(8);
    let replica = world.replica();
    let (mut host, mut other) = (Host::new(), Host::new());
    host.open(&replica, 1).await.unwrap();
    host.insert(1).await.unwrap();
    other.open(&replica, 2).await.unwrap();
    other.insert(2).await.unwrap();
    other.writer().snapshot(None).await.unwrap();
    assert!(host.insert(3).await.is_err());
    // The log was emptied although the bucket has not all of it.
    let connection = host.connection.take().unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let ranges = world.faults.count(Operation::GetRange);
    host.open(&replica, 3).await.unwrap();
    assert!(world.faults.count(Operation::GetRange) > ranges, "it was fetched");
    assert!(contents(&host.path()) == contents(&other.path()));
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_lies_costs_time_and_nothing_else() {
    let world = World::new(9);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    let hint: Key = "db/hint.json".parse().unwrap();
    let mut hints = Vec::new();
    for key in 0..4 {
        host.insert(key).await.unwrap();
        host.writer().compact(None).await.unwrap();
        hints.push(world.memory.snapshot()[&hint].clone());
    }
    hints.extend([bytes::Bytes::from_static(b"{}"), bytes::Bytes::new()]);
    let mut forged = Manifest::parse(&hints[3]).unwrap();
    forged.files[0].key = "db/manifest/none".parse().unwrap();
    hints.push(serde_json::to_vec(&forged).unwrap().into());
    for hinted in hints {
        world.store.overwrite(&hint, hinted).await.unwrap();
        assert_fetches(&replica, &host).await;
    }
}

/// Damage is named, whatever it hits, and never becomes a database.
#[tokio::test(start_paused = true)]
async fn damaged_objects_are_named() {
    let world = World::new(10);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    for key in 0..4 {
        host.insert(key).await.unwrap();
        if key == 2 {
            host.writer().compact(None).await.unwrap();
        }
    }
    let expected = fetched(&replica).await;
    let hint: Key = "db/hint.json".parse().unwrap();
    let mut named = 0;
    for key in world.memory.snapshot().into_keys().filter(|key| *key != hint) {
        let whole = world.memory.snapshot()[&key].clone();
        world.memory.tamper(&key, |bytes| bytes[20] ^= 1);
        let folder = folder();
        let path = folder.path().join("copy");
        match replica.fetch(&path, false).await {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{key}: {error:?}");
                let says = |error: &OpenError| error.to_string() == format!("`{key}`");
                assert!(says(&error), "{error}");
                assert!(!path.exists());
                named += 1;
            }
            // Replaced by a compacted file.
            Ok(read) => {
                assert_eq!(read.unwrap().tip.txid, expected.0);
                assert!(std::fs::read(path).unwrap() == expected.1);
            }
        }
        world.memory.tamper(&key, |bytes| bytes.copy_from_slice(&whole));
    }
    assert_eq!(named, 3, "the manifest, its file, and the transaction after it");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_missing_is_not_the_end() {
    let world = World::new(11);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    for key in 0..4 {
        host.insert(key).await.unwrap();
    }
    let lost: Key = "db/0000/0000000000000003-0000000000000003.ltx".parse().unwrap();
    world.store.delete(&lost).await.unwrap();
    let error = replica.fetch(&Host::new().path(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.to_string(), format!("`{lost}`"));
}

/// A copy reads the original's files and writes its own.
#[tokio::test(start_paused = true)]
async fn a_copy_goes_its_own_way() {
    let world = World::new(12);
    let (replica, copy) = (world.replica(), world.named("copy/"));
    let (mut host, mut child) = (Host::new(), Host::new());
    host.open(&replica, 1).await.unwrap();
    for key in 0..4 {
        host.insert(key).await.unwrap();
        if key == 2 {
            host.writer().compact(None).await.unwrap();
        }
    }
    let files = host.writer().publisher().files();
    copy.begin(&files, Some(Epoch(5))).await.unwrap();
    copy.begin(&files, Some(Epoch(5))).await.unwrap();
    let at_copy = contents(&host.path());
    host.insert(9).await.unwrap();
    child.open(&copy, 1).await.unwrap();
    assert!(contents(&child.path()) == at_copy);
    assert_eq!(child.writer().tip().txid, Txid(files.tip.txid.0 + 1), "after its fence");
    assert_eq!(child.writer().publisher().wants(), Maintenance::Snapshot);
    child.insert(10).await.unwrap();
    assert_fetches(&copy, &child).await;
    assert_fetches(&replica, &host).await;
    child.writer().compact(None).await.unwrap();
    assert_eq!(child.writer().publisher().wants(), Maintenance::Snapshot);
    child.writer().snapshot(None).await.unwrap();
    assert_eq!(child.writer().publisher().wants(), Maintenance::None);
    // From now on nothing of the original is needed.
    for key in world.memory.snapshot().into_keys() {
        if key.is_under(replica.prefix()) {
            world.store.delete(&key).await.unwrap();
        }
    }
    assert_fetches(&copy, &child).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_begin_a_database_one_wins() {
    let world = World::new(13);
    let replica = world.replica();
    let (mut first, mut second) = (Host::new(), Host::new());
    let mut pause = world.faults.pause(Operation::Create, None, When::Before);
    let opening = tokio::spawn({
        let replica = replica.clone();
        async move {
            let opened = first.open(&replica, 1).await;
            (first, opened)
        }
    });
    pause.reached().await;
    second.open(&replica, 2).await.unwrap();
    pause.release();
    let (mut first, opened) = opening.await.unwrap();
    assert!(matches!(opened, Err(OpenError::Fenced { held: Generation(2), .. })), "{opened:?}");
    second.insert(1).await.unwrap();
    first.open(&replica, 3).await.unwrap();
    assert!(contents(&first.path()) == contents(&second.path()));
}

/// Larger than one range, and as a single transaction larger than what one request may return.
#[tokio::test(start_paused = true)]
async fn large_files_are_read_in_ranges() {
    let settings = StoreSettings { get_bytes_max: 2 << 20, ..StoreSettings::default() };
    let world = World::with(19, settings);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    let noise: Vec<u8> = {
        let mut rng = Rng::new(19);
        (0..700_000).flat_map(|_| rng.next().to_le_bytes()).collect()
    };
    host.connection.as_ref().unwrap().execute("INSERT INTO t VALUES (1, ?1)", [noise]).unwrap();
    host.commit().await.unwrap();
    assert_fetches(&replica, &host).await;
    host.writer().compact(None).await.unwrap();
    let ranges = world.faults.count(Operation::GetRange);
    assert_fetches(&replica, &host).await;
    assert!(world.faults.count(Operation::GetRange) >= ranges + 3);
    world.faults.set_rates(FaultRates::survivable(30));
    assert_fetches(&replica, &host).await;
}

/// How long opening takes is how many requests wait for each other. Paused time is exact: each
/// request takes 20 ms and nothing else takes any.
#[tokio::test(start_paused = true)]
async fn opening_takes_few_round_trips() {
    let world = World::new(18);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    host.insert(1).await.unwrap();
    host.writer().snapshot(None).await.unwrap();
    let round_trips = async |host: &mut Host, generation| {
        host.kill();
        world.faults.set_rates(FaultRates { delay_ms: 20, ..FaultRates::default() });
        let started = tokio::time::Instant::now();
        host.open(&replica, generation).await.unwrap();
        world.faults.set_rates(FaultRates::default());
        started.elapsed().as_millis() / 20
    };
    // Manifest and listing; what follows it; the fence; the listing after it.
    assert_eq!(round_trips(&mut host, 2).await, 4, "on the same host");
    assert_eq!(round_trips(&mut Host::new(), 3).await, 4, "elsewhere");
    host.open(&replica, 10).await.unwrap();
    for key in 0..62 {
        host.insert(key).await.unwrap();
    }
    assert_eq!(
        round_trips(&mut Host::new(), 11).await,
        6,
        "64 transactions and more after a crash"
    );
}

/// Names of manifests are what an opener lists, so others must not confuse it.
#[tokio::test(start_paused = true)]
async fn strange_names_beside_manifests_are_left_alone() {
    let world = World::new(14);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    host.writer().compact(None).await.unwrap();
    for name in ["zzz", "ffffffffffffffff-ffffffffffffffff", "f/0-0.json"] {
        let key = format!("db/manifest/{name}").parse().unwrap();
        world.store.create(&key, bytes::Bytes::from_static(b"?")).await.unwrap();
    }
    assert_fetches(&replica, &host).await;
    let name = ManifestName { generation: Generation(1), txid: Txid(1), revision: 0 };
    assert!(world.keys("db/manifest/").contains(&name.to_string()));
}

/// Everything that a client survives, at once, and the result is as without.
#[tokio::test(start_paused = true)]
async fn faults_of_the_store_change_nothing() {
    for seed in 0..4 {
        let world = World::new(100 + seed);
        let replica = world.replica();
        world.faults.set_rates(FaultRates::survivable(40));
        let (mut host, mut rng) = (Host::new(), Rng::new(seed));
        for generation in 1..4 {
            host.open(&replica, generation).await.unwrap();
            for _ in 0..12 {
                transaction(host.connection.as_ref().unwrap(), &mut rng);
                host.commit().await.unwrap();
                if rng.one_in(4) {
                    host.writer().compact(None).await.unwrap();
                }
            }
            if rng.one_in(2) {
                host = Host::new();
            }
        }
        world.faults.set_rates(FaultRates::default());
        world.faults.settle().await;
        let (txid, bytes) = fetched(&replica).await;
        assert!(txid >= Txid(30), "{txid}");
        if host.writer.is_some() {
            assert!(bytes == contents(&host.path()));
        }
    }
}

/// Captures may run ahead of uploads; what is published must still come in order.
#[tokio::test(start_paused = true)]
async fn halves_of_a_writer_work_apart() {
    let world = World::new(15);
    let replica = world.replica();
    let mut host = Host::new();
    host.open(&replica, 1).await.unwrap();
    let (mut capture, mut publisher): (Capture, _) = host.writer.take().unwrap().into_parts();
    let mut queue = Vec::new();
    for key in 0..5 {
        host.execute(&format!("INSERT INTO t VALUES ({key}, 1)"));
        queue.push(capture.next(Generation(1), time()).unwrap().unwrap());
    }
    let error = publisher.publish(&queue[1]).await.unwrap_err();
    assert!(matches!(error, CommitError::OutOfOrder { expected: Txid(2), found: Txid(3) }));
    let snapshot = capture.snapshot(Generation(1)).unwrap();
    let early = publisher.snapshot(&snapshot, None).await;
    assert!(matches!(early, Err(CommitError::Stale { txid: Txid(6) })));
    for captured in &queue {
        publisher.publish(captured).await.unwrap();
    }
    publisher.snapshot(&snapshot, None).await.unwrap();
    let connection = host.connection.as_ref().unwrap();
    assert!(capture.truncate(connection, publisher.tip().txid).unwrap());
    publisher.note(capture.record());
    for (key, bytes) in world.memory.snapshot() {
        if Path::new(key.as_str()).extension().is_some_and(|extension| extension == "ltx") {
            LtxFile::parse(bytes).unwrap();
        }
    }
    assert_fetches(&replica, &host).await;
}

/// A host that comes and goes at random times; everything acknowledged is there each time.
#[tokio::test(start_paused = true)]
async fn hosts_take_turns() {
    let mut rngs = Vec::new();
    for_each_seed(6, |rng| rngs.push(rng));
    for mut rng in rngs {
        let world = World::new(rng.next());
        let replica = world.replica();
        let mut hosts = [Host::new(), Host::new(), Host::new()];
        let mut expected: Option<Vec<u8>> = None;
        for generation in 1..12 {
            let host = &mut hosts[rng.below(3) as usize];
            host.open(&replica, generation).await.unwrap();
            if let Some(expected) = &expected {
                assert!(contents(&host.path()) == *expected, "generation {generation}");
            }
            for _ in 0..rng.below(5) {
                transaction(host.connection.as_ref().unwrap(), &mut rng);
                host.commit().await.unwrap();
                if rng.one_in(5) {
                    let connection = host.connection.take().unwrap();
                    host.writer().truncate(&connection).unwrap();
                    host.connection = Some(connection);
                }
                if rng.one_in(5) {
                    host.writer().compact(None).await.unwrap();
                }
                if rng.one_in(9) {
                    host.writer().snapshot(None).await.unwrap();
                }
            }
            expected = Some(contents(&host.path()));
            if rng.one_in(2) {
                transaction(host.connection.as_ref().unwrap(), &mut rng);
            }
            if rng.one_in(3) {
                let writer = host.writer.take().unwrap();
                host.connection = None;
                writer.close().unwrap();
            }
            host.kill();
        }
    }
}
