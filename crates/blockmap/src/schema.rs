//! The file: what must hold of it before anything in it is read.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{BlockMapError, sql};

/// `SPBM`.
const APPLICATION_ID: i64 = 0x5350_424d;
/// The version this release writes, and the only one it reads.
const VERSION: i64 = 1;
const PAGE_LEN: i64 = 4096;

const TABLES: &str = "
    CREATE TABLE epochs (
        epoch INTEGER PRIMARY KEY,
        prev INTEGER NOT NULL,
        base INTEGER NOT NULL,
        parent INTEGER NOT NULL,
        time INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        keep INTEGER NOT NULL,
        crash_consistent INTEGER NOT NULL,
        blocks INTEGER NOT NULL,
        pack_next INTEGER NOT NULL,
        replaced INTEGER NOT NULL,
        base_bytes INTEGER NOT NULL,
        changes INTEGER NOT NULL,
        delta_len INTEGER NOT NULL,
        delta_check INTEGER NOT NULL,
        row_check INTEGER NOT NULL,
        name TEXT NOT NULL,
        comment TEXT NOT NULL,
        delta BLOB NOT NULL
    ) STRICT;
    CREATE TABLE marks (
        epoch INTEGER PRIMARY KEY,
        since INTEGER NOT NULL,
        inner INTEGER NOT NULL,
        row_check INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE head (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        epoch INTEGER NOT NULL,
        epochs INTEGER NOT NULL,
        marked INTEGER NOT NULL,
        row_check INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE nodes (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
    CREATE TABLE owners (id INTEGER PRIMARY KEY, volume TEXT NOT NULL) STRICT;
    CREATE TABLE packs (
        id INTEGER PRIMARY KEY,
        owner INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        row_check INTEGER NOT NULL,
        key TEXT NOT NULL
    ) STRICT;
";

/// Makes an empty file into a database that is ready for its first transaction.
pub(crate) fn create(path: &Path) -> Result<Connection, BlockMapError> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        BlockMapError::invalid(format!("create block map `{}`: {error}", path.display()))
    })?;
    let connection = connect(path)?;
    let failed = sql("prepare a block map");
    connection.pragma_update(None, "page_size", PAGE_LEN).map_err(&failed)?;
    configure(path, &connection)?;
    Ok(connection)
}

/// Writes the tables, inside the transaction that also writes the first epoch.
pub(crate) fn write_tables(connection: &Connection) -> Result<(), BlockMapError> {
    let failed = sql("write the tables of a block map");
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(&failed)?;
    connection.pragma_update(None, "user_version", VERSION).map_err(&failed)?;
    connection.execute_batch(TABLES).map_err(&failed)
}

/// Opens a database and checks that it is a block map of this version.
pub(crate) fn open(path: &Path) -> Result<Connection, BlockMapError> {
    let connection = connect(path)?;
    let locked = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            BlockMapError::InUse { path: path.to_owned() }
        }
        Some(rusqlite::ErrorCode::NotADatabase) => BlockMapError::NotAMap {
            path: path.to_owned(),
            reason: "it is no SQLite database".to_owned(),
        },
        _ => sql("open a block map")(error),
    };
    let not_a_map = |reason: String| BlockMapError::NotAMap { path: path.to_owned(), reason };
    let pragma = |name: &str| -> Result<i64, BlockMapError> {
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(locked)
    };
    // Exclusive before the first read, or SQLite makes shared memory beside the file.
    set_exclusive(&connection)?;
    let id = pragma("application_id")?;
    if id != APPLICATION_ID {
        return Err(not_a_map(format!("application id {id:#x}")));
    }
    let found = pragma("user_version")?;
    if found > VERSION {
        return Err(BlockMapError::TooNew { path: path.to_owned(), found, known: VERSION });
    }
    if found != VERSION {
        return Err(not_a_map(format!("format version {found}")));
    }
    let page_len = pragma("page_size")?;
    if page_len != PAGE_LEN {
        return Err(not_a_map(format!("pages of {page_len} bytes")));
    }
    configure(path, &connection)?;
    Ok(connection)
}

/// Begins the one transaction of an operation. Dropping it undoes what was done in it.
pub(crate) fn begin(connection: &Connection) -> Result<Transaction<'_>, BlockMapError> {
    Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
        .map_err(sql("begin a transaction"))
}

pub(crate) fn commit(transaction: Transaction<'_>) -> Result<(), BlockMapError> {
    transaction.commit().map_err(sql("commit a transaction"))
}

fn connect(path: &Path) -> Result<Connection, BlockMapError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    Connection::open_with_flags(path, flags).map_err(sql("open a block map"))
}

fn set_exclusive(connection: &Connection) -> Result<(), BlockMapError> {
    connection
        .pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))
        .map_err(sql("set up a block map"))
}

fn configure(path: &Path, connection: &Connection) -> Result<(), BlockMapError> {
    let failed = sql("set up a block map");
    set_exclusive(connection)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(&failed)?;
    if mode != "wal" {
        return Err(BlockMapError::NotAMap {
            path: path.to_owned(),
            reason: format!("its journal mode is {mode}"),
        });
    }
    // Frames leave the WAL when they are in the bucket, and not because SQLite tidies up.
    connection
        .pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
        .map_err(&failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(&failed)?;
    connection.pragma_update(None, "synchronous", "OFF").map_err(&failed)?;
    // A freed page would keep its old bytes, and a snapshot of the database carry them along.
    // Zeroed, it takes a few bytes there.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(())).map_err(&failed)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(&failed)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(&failed)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(&failed)
}
