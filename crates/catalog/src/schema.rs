//! The tables of an org's database, and how older ones become current.

use rusqlite::{Connection, OptionalExtension};

/// The version this release writes. `MIGRATIONS[n]` leads from version `n` to `n + 1`.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE org (
        id TEXT PRIMARY KEY,
        slug TEXT NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE token (
        id TEXT PRIMARY KEY,
        secret_sha256 BLOB NOT NULL,
        description TEXT NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE sprite (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        volume_id TEXT NOT NULL,
        image TEXT NOT NULL,
        labels TEXT NOT NULL,
        environment TEXT NOT NULL,
        config TEXT NOT NULL,
        runtime TEXT,
        wait_for_capacity INTEGER NOT NULL,
        url_auth TEXT NOT NULL,
        private_access TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        last_running_at INTEGER,
        last_warming_at INTEGER,
        host TEXT NOT NULL,
        generation INTEGER NOT NULL,
        destroyed_at INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX sprite_live_name ON sprite (name) WHERE destroyed_at IS NULL;
"];

/// What [`migrate`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Migrated {
    /// The tables are those of [`VERSION`] now.
    Current,
    /// A newer release was here; nothing was changed.
    TooNew(i64),
}

/// Brings the tables to [`VERSION`], each step in a transaction of its own.
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<Migrated> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL) STRICT",
    )?;
    let found: i64 = connection
        .query_row("SELECT version FROM schema_version", [], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    if found > VERSION {
        return Ok(Migrated::TooNew(found));
    }
    for (version, statements) in (0..).zip(MIGRATIONS) {
        if version < found {
            continue;
        }
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.execute("DELETE FROM schema_version", [])?;
        transaction.execute("INSERT INTO schema_version VALUES (?1)", [version + 1])?;
        transaction.commit()?;
    }
    Ok(Migrated::Current)
}

/// Sets what holds for every connection.
pub(crate) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut connection).unwrap(), Migrated::Current);
        assert_eq!(migrate(&mut connection).unwrap(), Migrated::Current);
        let rows: i64 = connection
            .query_row("SELECT count(*) FROM schema_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute("UPDATE schema_version SET version = 99", []).unwrap();
        assert_eq!(migrate(&mut connection).unwrap(), Migrated::TooNew(99));
    }
}
