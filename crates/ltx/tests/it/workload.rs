//! A database that random transactions happen to.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use sprite_testkit::Rng;

/// Opens a database as its owner promises to.
pub(crate) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    for pragma in
        ["PRAGMA synchronous=off", "PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=0"]
    {
        connection.query_row(pragma, [], |_| Ok(())).ok();
    }
    connection
}

/// Makes a temporary folder, in memory where that is possible: these tests are about what is in
/// files, not about disks.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Makes a database with one table.
pub(crate) fn create(path: &Path, page_size: u32) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(&format!("PRAGMA synchronous=off; PRAGMA page_size={page_size}; VACUUM;"))
        .unwrap();
    drop(connection);
    let connection = connect(path);
    connection.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)").unwrap();
    connection
}

/// One random transaction; some grow the database, some shrink it, some undo themselves.
pub(crate) fn transaction(connection: &Connection, rng: &mut Rng) {
    match rng.below(12) {
        0 => connection.execute_batch("VACUUM").unwrap(),
        1 => {
            connection.execute("DELETE FROM t WHERE k % 3 = ?1", [rng.below(3) as i64]).unwrap();
        }
        2 => connection.execute_batch("DELETE FROM t").unwrap(),
        3 => {
            // Pages that are added and freed in one statement.
            connection
                .execute_batch(
                    "INSERT OR REPLACE INTO t SELECT 1000 + column1, zeroblob(column2) FROM
                     (VALUES (1, 50000), (2, 60000), (1, 10), (3, 9000), (2, 20));",
                )
                .unwrap();
        }
        4 => connection.execute_batch("BEGIN; UPDATE t SET v = zeroblob(9000); ROLLBACK;").unwrap(),
        _ => {
            connection.execute_batch("BEGIN").unwrap();
            for _ in 0..=rng.below(20) {
                let (key, len) = (rng.below(200) as i64, rng.below(3000) as usize);
                connection
                    .execute("INSERT OR REPLACE INTO t VALUES (?1, ?2)", (key, rng.content(len)))
                    .unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
        }
    }
}

/// Returns what the database file would hold after a checkpoint, without touching it.
pub(crate) fn contents(path: &Path) -> Vec<u8> {
    let folder = folder();
    let copy = folder.path().join("copy");
    std::fs::copy(path, &copy).unwrap();
    let log = with_suffix(path, "-wal");
    if log.exists() {
        std::fs::copy(log, with_suffix(&copy, "-wal")).unwrap();
    }
    let connection = connect(&copy);
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    std::fs::read(copy).unwrap()
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the last transaction of a log say that the database has `more` pages than it logged.
pub(crate) fn grow_last_transaction(path: &Path, page_size: usize, more: u32) {
    let log = with_suffix(path, "-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let len = 24 + page_size;
    let at = bytes.len() - len;
    // The running checksum is in the frame before; this host's SQLite sums little-endian words.
    assert_eq!(bytes[..4], 0x377f_0682_u32.to_be_bytes());
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let commit = word(&bytes, at + 4) + more;
    assert_ne!(commit, more, "the last frame ends a transaction");
    bytes[at + 4..at + 8].copy_from_slice(&commit.to_be_bytes());
    let before = if at == 32 { 24 } else { at - len + 16 };
    let (mut a, mut b) = (word(&bytes, before), word(&bytes, before + 4));
    for part in [at..at + 8, at + 24..at + len] {
        for pair in bytes[part].chunks(8) {
            let word = |at: usize| u32::from_le_bytes(pair[at..at + 4].try_into().unwrap());
            a = a.wrapping_add(word(0)).wrapping_add(b);
            b = b.wrapping_add(word(4)).wrapping_add(a);
        }
    }
    bytes[at + 16..at + 20].copy_from_slice(&a.to_be_bytes());
    bytes[at + 20..at + 24].copy_from_slice(&b.to_be_bytes());
    std::fs::write(log, bytes).unwrap();
}
