//! SQLite databases in the bucket, as LTX files.
//!
//! - [`mod@format`] is the file: encode, decode, verify.
//! - [`database`] is the database on this host: capture its log, apply files to it.
//! - [`replica`] is the database in the bucket: open, commit, fence, compact, copy.
//!
//! SQLite on the local disk is a cache; the objects are the truth, and Litestream can restore
//! them. A commit reads the new part of SQLite's write-ahead log, makes one file of it and
//! creates one object. Opening reads the newest manifest, what it names and what came after, and
//! shuts out the former writer.
//!
//! ```no_run
//! # use sprite_ltx::replica::{OpenOptions, Opened, Replica};
//! # async fn example(replica: Replica, options: OpenOptions, now: sprite_types::Timestamp)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let path = options.path.clone();
//! let connect = || -> rusqlite::Result<rusqlite::Connection> {
//!     let connection = rusqlite::Connection::open(&path)?;
//!     let option = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
//!     connection.set_db_config(option, true)?;
//!     connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
//!     connection.query_row("PRAGMA wal_autocheckpoint=0", [], |_| Ok(()))?;
//!     Ok(connection)
//! };
//! let (connection, mut writer) = match replica.open(options).await? {
//!     Opened::Existing(writer) => (connect()?, writer),
//!     Opened::New(new) => {
//!         let connection = connect()?;
//!         connection.execute_batch("CREATE TABLE names (name TEXT PRIMARY KEY)")?;
//!         (connection, new.create().await?)
//!     }
//! };
//! connection.execute("INSERT INTO names VALUES ('first')", [])?;
//! writer.commit(now).await?; // durable, and ours
//! writer.truncate(&connection)?; // the log is of no more use
//! drop(connection); // before the writer: see `database`
//! writer.close()?; // the next open on this host fetches nothing
//! # Ok(())
//! # }
//! ```

pub mod database;
pub mod format;
pub mod replica;
