//! One org's database: a thread that writes, and a connection for readers.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags};
use sprite_types::OrgId;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use crate::error::CatalogError;
use crate::schema::{self, Migrated};

/// Writers that wait for the thread before others wait for the channel.
const QUEUE_MAX: usize = 128;
/// Writes that share one sync of the disk.
const BATCH_MAX: usize = 64;

/// Runs inside the writer's transaction; what it returns runs after the commit.
type Job = Box<dyn FnOnce(&Connection) -> Completion + Send>;
/// Answers the caller. Gets the error of the commit, if it failed.
type Completion = Box<dyn FnOnce(Option<&rusqlite::Error>) + Send>;

/// The handle; dropping it ends the thread after the writes that are queued.
pub(crate) struct OrgDb {
    org: OrgId,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    reader: std::sync::Arc<Mutex<Connection>>,
}

impl OrgDb {
    /// Opens or creates the database and brings its tables up to date.
    pub(crate) fn open(org: &OrgId, path: &Path) -> Result<Self, CatalogError> {
        let failed = |source| CatalogError::database(org, source);
        let mut connection = connect(path).map_err(failed)?;
        check(org, &connection)?;
        match schema::migrate(&mut connection).map_err(failed)? {
            Migrated::Current => {}
            Migrated::TooNew(found) => {
                return Err(CatalogError::TooNew {
                    org: org.clone(),
                    found,
                    known: schema::VERSION,
                });
            }
        }
        let reader = connect(path).map_err(failed)?;
        reader.pragma_update(None, "query_only", true).map_err(failed)?;

        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name(format!("catalog-{}", org.tail()))
            .spawn(move || write_all(connection, queue))
            .map_err(|source| CatalogError::Io {
                what: "start the writing thread for",
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            org: org.clone(),
            jobs: Some(jobs),
            writer: Some(writer),
            reader: std::sync::Arc::new(Mutex::new(reader)),
        })
    }

    /// Runs `change` in the writer's transaction and answers once it is on disk. If it fails,
    /// nothing of it stays. `change` runs on the writing thread, so it must not own the
    /// database: the last owner joins that thread.
    ///
    /// # Cancel safety
    /// Once queued, the change happens whether or not the caller still waits.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T, CatalogError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &OrgId) -> Result<T, CatalogError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let org = self.org.clone();
        let job: Job = Box::new(move |connection| {
            let result = in_savepoint(&org, connection, change);
            Box::new(move |commit_error| {
                let result = match commit_error {
                    None => result,
                    Some(error) => Err(commit_failed(&org, error)),
                };
                let _ = answer.send(result);
            })
        });
        let jobs = self.jobs.as_ref().ok_or(CatalogError::Closed)?;
        jobs.send(job).await.map_err(|_| CatalogError::Closed)?;
        answered.await.map_err(|_| CatalogError::Closed)?
    }

    /// Runs `query` on the readers' connection, off the async threads.
    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T, CatalogError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (org, reader) = (self.org.clone(), self.reader.clone());
        tokio::task::spawn_blocking(move || {
            let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
            query(&connection).map_err(|source| CatalogError::database(&org, source))
        })
        .await
        .map_err(|_| CatalogError::Closed)?
    }

    /// Runs `query` on the calling thread; for opening, before there are async threads.
    pub(crate) fn read_now<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        let connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        query(&connection).map_err(|source| CatalogError::database(&self.org, source))
    }
}

impl Drop for OrgDb {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            warn!(org_id = %self.org, "catalog writer had panicked");
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    schema::configure(&connection)?;
    Ok(connection)
}

/// Refuses a database with damaged pages now rather than in the middle of a request.
fn check(org: &OrgId, connection: &Connection) -> Result<(), CatalogError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| CatalogError::database(org, source))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(CatalogError::Damaged { org: org.clone(), reason: verdict })
    }
}

/// The writing thread: takes what is queued, commits it at once, answers everybody.
fn write_all(connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let began = connection.execute_batch("BEGIN IMMEDIATE");
        let mut completions = vec![first(&connection)];
        while completions.len() < BATCH_MAX
            && let Ok(job) = queue.try_recv()
        {
            completions.push(job(&connection));
        }
        let outcome = began.and_then(|()| connection.execute_batch("COMMIT"));
        if outcome.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        for completion in completions {
            completion(outcome.as_ref().err());
        }
    }
}

fn in_savepoint<T>(
    org: &OrgId,
    connection: &Connection,
    change: impl FnOnce(&Connection, &OrgId) -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    let failed = |source| CatalogError::database(org, source);
    // Without the batch's transaction a change would be committed on its own, before the
    // caller hears that the batch failed.
    if connection.is_autocommit() {
        return Err(CatalogError::Closed);
    }
    connection.execute_batch("SAVEPOINT job").map_err(failed)?;
    let result = change(connection, org);
    let end = if result.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    // A full disk may have rolled the whole batch back: then every job of it has failed.
    if !connection.is_autocommit() {
        connection.execute_batch(end).map_err(failed)?;
    }
    result
}

/// The same failure for each job of a batch (`rusqlite::Error` cannot be cloned).
fn commit_failed(org: &OrgId, error: &rusqlite::Error) -> CatalogError {
    let source = match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            rusqlite::Error::SqliteFailure(*code, text.clone())
        }
        _ => rusqlite::Error::InvalidQuery,
    };
    CatalogError::database(org, source)
}
