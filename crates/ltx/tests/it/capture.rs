//! What SQLite wrote against what is rebuilt from the files.

use std::path::Path;

use bytes::Bytes;
use sprite_ltx::database::{
    ApplyError, Base, Capture, CaptureError, Captured, LocalRecord, Rebuild, compact,
};
use sprite_ltx::format::LtxFile;
use sprite_types::{Generation, Timestamp, Txid};

use sprite_testkit::Rng;

use crate::for_each_seed;
use crate::workload::{
    connect, contents, create, folder, grow_last_transaction, transaction, with_suffix,
};

const BOOT: &str = "boot-1";

fn time() -> Timestamp {
    Timestamp::from_micros(1_768_300_200_120_000)
}

fn parse(bytes: &Bytes) -> LtxFile {
    LtxFile::parse(bytes.clone()).unwrap()
}

fn next(capture: &mut Capture) -> Option<Captured> {
    capture.next(Generation(1), time()).unwrap()
}

/// Makes a database of files, the first of them a snapshot.
fn rebuild(path: &Path, files: &[LtxFile]) -> Base {
    let mut rebuild = Rebuild::start(path, &files[0]).unwrap();
    for file in &files[1..] {
        rebuild.apply(file).unwrap();
    }
    rebuild.finish(false).unwrap()
}

fn assert_same(path: &Path, files: &[LtxFile]) {
    let folder = folder();
    let copy = folder.path().join("db");
    rebuild(&copy, files);
    assert!(std::fs::read(copy).unwrap() == contents(path), "the rebuilt database differs");
}

/// The law of this crate: whatever happened to a database, the files give the same bytes. Some
/// are compacted on the way, the log is emptied now and then, and some captures hold several
/// transactions of SQLite.
#[test]
fn files_rebuild_what_sqlite_holds() {
    for_each_seed(12, |mut rng| {
        let folder = folder();
        let path = folder.path().join("db");
        let connection = create(&path, 512 << rng.below(5));
        let mut capture = Capture::create(&path).unwrap();
        let mut files = vec![parse(&next(&mut capture).unwrap().file.bytes)];
        for _ in 0..40 {
            transaction(&connection, &mut rng);
            if rng.one_in(3) {
                continue;
            }
            if let Some(captured) = next(&mut capture) {
                assert!(!captured.is_whole);
                files.push(parse(&captured.file.bytes));
            }
            if rng.one_in(6) {
                capture.truncate(&connection, capture.tip().txid).unwrap();
            }
            if rng.one_in(5) && files.len() > 2 {
                let from = rng.below(files.len() as u64 - 1) as usize;
                let tail = files.split_off(from);
                files.push(parse(&compact(&tail, Generation(1)).unwrap().bytes));
            }
        }
        files.extend(next(&mut capture).map(|captured| parse(&captured.file.bytes)));
        assert_same(&path, &files);
        let snapshot = capture.snapshot(Generation(1)).unwrap();
        assert_eq!(snapshot.header.max, capture.tip().txid);
        assert_same(&path, &[parse(&snapshot.bytes)]);
        drop(connection);
    });
}

/// A transaction may add pages to the database without logging them. They then hold what was
/// last logged for them, if anything was, as they do after SQLite's own checkpoint.
#[test]
fn pages_that_were_added_and_not_logged_are_sent_too() {
    for shrunk in [false, true] {
        let folder = folder();
        let path = folder.path().join("db");
        let connection = create(&path, 1024);
        let mut capture = Capture::create(&path).unwrap();
        let mut files = vec![parse(&next(&mut capture).unwrap().file.bytes)];
        if shrunk {
            let noise = Rng::new(5).content(30_000);
            connection.execute("INSERT INTO t VALUES (1, ?1)", [noise]).unwrap();
            files.push(parse(&next(&mut capture).unwrap().file.bytes));
            connection.execute_batch("DELETE FROM t; VACUUM").unwrap();
            files.push(parse(&next(&mut capture).unwrap().file.bytes));
        }
        connection.execute_batch("INSERT INTO t VALUES (2, 2)").unwrap();
        drop(connection);
        grow_last_transaction(&path, 1024, 20);
        files.push(parse(&next(&mut capture).unwrap().file.bytes));
        assert!(files.last().unwrap().pages().len() > 20);
        assert_same(&path, &files);
    }
}

/// A connection in exclusive mode keeps its index of the log in memory; the log is the same.
#[test]
fn an_exclusive_connection_can_be_followed() {
    let folder = folder();
    let path = folder.path().join("db");
    drop(create(&path, 4096));
    let connection = connect(&path);
    connection.query_row("PRAGMA locking_mode=EXCLUSIVE", [], |_| Ok(())).unwrap();
    let mut rng = Rng::new(8);
    transaction(&connection, &mut rng);
    let mut capture = Capture::create(&path).unwrap();
    let mut files = vec![parse(&next(&mut capture).unwrap().file.bytes)];
    for round in 0..20 {
        transaction(&connection, &mut rng);
        if let Some(captured) = next(&mut capture) {
            assert!(!captured.is_whole);
            files.push(parse(&captured.file.bytes));
        }
        if round % 5 == 0 {
            assert!(capture.truncate(&connection, capture.tip().txid).unwrap());
        }
    }
    drop(connection);
    assert_same(&path, &files);
}

#[test]
fn nothing_new_gives_no_file() {
    let folder = folder();
    let path = folder.path().join("db");
    let connection = create(&path, 4096);
    let mut capture = Capture::create(&path).unwrap();
    assert!(next(&mut capture).is_some());
    assert!(next(&mut capture).is_none());
    connection.execute_batch("BEGIN; INSERT INTO t VALUES (1, zeroblob(90000));").unwrap();
    connection.cache_flush().unwrap();
    assert!(next(&mut capture).is_none(), "an open transaction is nobody else's business");
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(next(&mut capture).unwrap().file.header.max, Txid(2));
    assert!(next(&mut capture).is_none());
}

/// A power cut leaves any part of the last transaction. Only what SQLite recovers is captured.
#[test]
fn a_torn_tail_is_not_captured() {
    let folder = folder();
    let path = folder.path().join("db");
    let connection = create(&path, 1024);
    let mut capture = Capture::create(&path).unwrap();
    let first = parse(&next(&mut capture).unwrap().file.bytes);
    let log = with_suffix(&path, "-wal");
    let before = std::fs::metadata(&log).unwrap().len() as usize;
    connection.execute_batch("INSERT INTO t VALUES (1, zeroblob(5000))").unwrap();
    drop(connection);
    let whole = std::fs::read(&log).unwrap();
    for len in (before..whole.len()).step_by(97) {
        std::fs::write(&log, &whole[..len]).unwrap();
        assert!(next(&mut capture).is_none(), "{len} of {} bytes", whole.len());
        let mut garbled = whole.clone();
        garbled[len] ^= 0x40;
        std::fs::write(&log, &garbled).unwrap();
        assert!(next(&mut capture).is_none(), "byte {len} changed");
    }
    std::fs::write(&log, &whole).unwrap();
    let second = parse(&next(&mut capture).unwrap().file.bytes);
    assert_same(&path, &[first, second]);
}

#[test]
fn the_log_is_not_emptied_before_the_bucket_has_it() {
    let folder = folder();
    let path = folder.path().join("db");
    let connection = create(&path, 4096);
    let mut capture = Capture::create(&path).unwrap();
    next(&mut capture).unwrap();
    let tip = capture.tip().txid;
    let refused = capture.truncate(&connection, Txid(0));
    assert!(matches!(refused, Err(CaptureError::NotDurable)), "captured is not uploaded");
    connection.execute_batch("INSERT INTO t VALUES (1, 2)").unwrap();
    let refused = capture.truncate(&connection, tip);
    assert!(matches!(refused, Err(CaptureError::NotDurable)), "written is not captured");
    next(&mut capture).unwrap();
    let reader = connect(&path);
    reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    connection.execute_batch("INSERT INTO t VALUES (2, 2)").unwrap();
    next(&mut capture).unwrap();
    let refused = capture.truncate(&connection, capture.tip().txid);
    assert!(matches!(refused, Err(CaptureError::Busy { .. })), "a reader needs it");
    drop(reader);
    assert!(capture.truncate(&connection, capture.tip().txid).unwrap());
    assert!(!capture.truncate(&connection, capture.tip().txid).unwrap(), "it is empty");
    assert_eq!(std::fs::metadata(with_suffix(&path, "-wal")).unwrap().len(), 0);
    connection.execute_batch("INSERT INTO t VALUES (3, 2)").unwrap();
    assert!(!next(&mut capture).unwrap().is_whole);
}

/// Somebody else's checkpoint may have thrown away what was never captured. The salts tell.
#[test]
fn a_log_that_began_anew_costs_a_whole_file_and_nothing_else() {
    for empty_first in [false, true] {
        let folder = folder();
        let path = folder.path().join("db");
        let connection = create(&path, 4096);
        let mut capture = Capture::create(&path).unwrap();
        let mut files = vec![parse(&next(&mut capture).unwrap().file.bytes)];
        if empty_first {
            capture.truncate(&connection, capture.tip().txid).unwrap();
        }
        connection.execute_batch("INSERT INTO t VALUES (1, zeroblob(20000))").unwrap();
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        connection.execute_batch("INSERT INTO t VALUES (2, 2)").unwrap();
        let captured = next(&mut capture).unwrap();
        assert!(captured.is_whole);
        assert!(!captured.file.header.is_fence());
        files.push(parse(&captured.file.bytes));
        connection.execute_batch("INSERT INTO t VALUES (3, 2)").unwrap();
        let captured = next(&mut capture).unwrap();
        assert!(!captured.is_whole, "afterwards the log can be followed again");
        files.push(parse(&captured.file.bytes));
        assert_same(&path, &files);
    }
}

/// Dying between capture and upload: what the bucket never acknowledged is cut off, what it
/// acknowledged is still there, and the log goes on from it.
#[test]
fn local_files_are_recovered_at_the_noted_transaction() {
    for_each_seed(12, |mut rng| {
        let folder = folder();
        let path = folder.path().join("db");
        let connection = create(&path, 1024);
        let mut capture = Capture::create(&path).unwrap();
        let mut files = vec![parse(&next(&mut capture).unwrap().file.bytes)];
        capture.record().save(&path, BOOT, false).unwrap();
        for _ in 0..rng.below(10) {
            transaction(&connection, &mut rng);
            if let Some(captured) = next(&mut capture) {
                files.push(parse(&captured.file.bytes));
                captured.record.save(&path, BOOT, false).unwrap();
            }
            if rng.one_in(4) && capture.truncate(&connection, capture.tip().txid).unwrap() {
                capture.record().save(&path, BOOT, false).unwrap();
            }
        }
        let expected = contents(&path);
        // Captured and not noted, then written and not captured.
        transaction(&connection, &mut rng);
        next(&mut capture);
        transaction(&connection, &mut rng);
        drop((connection, capture));

        let record = LocalRecord::load(&path, BOOT).unwrap().unwrap();
        let base = record.recover(&path).unwrap().unwrap();
        assert_eq!(base.tip().txid, files.last().unwrap().header().max);
        assert!(std::fs::read(&path).unwrap() == expected, "not the noted transaction");
        base.record().unwrap().save(&path, BOOT, false).unwrap();
        let mut capture = base.follow().unwrap();
        let connection = connect(&path);
        assert!(next(&mut capture).is_none());
        connection.execute_batch("INSERT OR REPLACE INTO t VALUES (7, 7)").unwrap();
        let captured = next(&mut capture).unwrap();
        assert!(!captured.is_whole);
        files.push(parse(&captured.file.bytes));
        assert_same(&path, &files);
    });
}

#[test]
fn a_note_that_may_be_wrong_does_not_count() {
    let setup = || {
        let folder = folder();
        let path = folder.path().join("db");
        let connection = create(&path, 4096);
        let mut capture = Capture::create(&path).unwrap();
        let record = next(&mut capture).unwrap().record;
        record.save(&path, BOOT, false).unwrap();
        (folder, path, connection)
    };
    let recovered = |path: &Path| {
        let record = LocalRecord::load(path, BOOT).unwrap();
        record.and_then(|record| record.recover(path).unwrap())
    };
    let (_folder, path, connection) = setup();
    drop(connection);
    assert!(LocalRecord::load(&path, "boot-2").unwrap().is_none(), "the host went down since");
    assert!(recovered(&path).is_some());
    assert!(LocalRecord::load(&path, BOOT).unwrap().is_none(), "it was used up");

    let (_folder, path, connection) = setup();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    assert!(recovered(&path).is_none(), "somebody emptied the log");

    let (_folder, path, connection) = setup();
    drop(connection);
    let log = with_suffix(&path, "-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    assert!(recovered(&path).is_none(), "the log changed");

    let (_folder, path, connection) = setup();
    drop(connection);
    let note = with_suffix(&path, "-ltx");
    let good = std::fs::read(&note).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::write(&note, &bad).unwrap();
        assert!(LocalRecord::load(&path, BOOT).unwrap().is_none(), "byte {at} changed");
        std::fs::write(&note, &good[..at]).unwrap();
        assert!(LocalRecord::load(&path, BOOT).unwrap().is_none(), "cut at {at}");
    }
}

/// After a clean end the note also holds when the host was off since.
#[test]
fn a_synced_note_outlives_the_host() {
    let folder = folder();
    let path = folder.path().join("db");
    let connection = create(&path, 4096);
    let mut capture = Capture::create(&path).unwrap();
    next(&mut capture).unwrap();
    capture.truncate(&connection, Txid(1)).unwrap();
    capture.record().save(&path, BOOT, true).unwrap();
    drop((connection, capture));
    let record = LocalRecord::load(&path, "boot-2").unwrap().unwrap();
    assert_eq!(record.tip().txid, Txid(1));
    assert!(record.recover(&path).unwrap().is_some());
}

#[test]
fn files_that_do_not_follow_are_refused() {
    let folder = folder();
    let path = folder.path().join("db");
    let connection = create(&path, 4096);
    let mut capture = Capture::create(&path).unwrap();
    let mut rng = Rng::new(3);
    let mut files = vec![parse(&next(&mut capture).unwrap().file.bytes)];
    for key in 0..4 {
        let row = (key, rng.content(9000));
        connection.execute("INSERT INTO t VALUES (?1, ?2)", row).unwrap();
        files.push(parse(&next(&mut capture).unwrap().file.bytes));
    }
    let copy = folder.path().join("copy");
    assert!(matches!(Rebuild::start(&copy, &files[1]), Err(ApplyError::Gap { .. })));
    let mut rebuild = Rebuild::start(&copy, &files[0]).unwrap();
    rebuild.apply(&files[1]).unwrap();
    for wrong in [&files[1], &files[3], &files[0]] {
        assert!(matches!(rebuild.apply(wrong), Err(ApplyError::Gap { .. })));
    }
    // Begins before the tip and ends after it: applied twice, but nothing is missing.
    rebuild.apply(&parse(&compact(&files[1..3], Generation(1)).unwrap().bytes)).unwrap();
    rebuild.apply(&files[3]).unwrap();
    drop(rebuild);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "database, log, index of the log; no unfinished copy");
    assert!(compact(&[], Generation(1)).is_err());
    assert!(compact(&[files[1].clone(), files[3].clone()], Generation(1)).is_err());
}

/// A fence is a transaction like any other, for everyone who applies it.
#[test]
fn a_fence_changes_nothing() {
    let folder = folder();
    let path = folder.path().join("db");
    let connection = create(&path, 4096);
    let mut capture = Capture::create(&path).unwrap();
    let snapshot = parse(&next(&mut capture).unwrap().file.bytes);
    let copy = folder.path().join("copy");
    let mut base = rebuild(&copy, std::slice::from_ref(&snapshot));
    let fence = base.fence(Generation(9), time()).unwrap();
    assert!(fence.header.is_fence() && !snapshot.header().is_fence());
    assert_eq!((fence.header.max, fence.header.generation), (Txid(2), Generation(9)));
    let before = std::fs::read(&copy).unwrap();
    base.apply(&parse(&fence.bytes)).unwrap();
    assert_eq!(base.tip().txid, Txid(2));
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    drop(connection);
}
