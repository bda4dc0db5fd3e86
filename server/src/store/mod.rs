//! The registry on SQLite: only SQL, no decision.
//!
//! Reads go through a small pool; every write goes through the one [`writer`] task. Both see the
//! same write-ahead log, so a read that starts after an answered write sees it.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod cluster_secrets;
pub(crate) mod clusters;
pub(crate) mod foreign;
pub(crate) mod nodes;
pub(crate) mod relay;
pub(crate) mod revocations;
pub(crate) mod seeds;
pub(crate) mod tokens;
mod writer;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};
use thiserror::Error;
use tokio_util::task::TaskTracker;

use crate::defence::Defences;
use crate::metrics::instruments::{SqliteOp, SqliteTimes};
use writer::Writer;
pub(crate) use writer::{Ended, Job};

/// The registry's file in the data directory.
pub(crate) const FILE: &str = "meetpoint.db";
/// Readers at once. A read takes well under a millisecond; a few keep joins from waiting behind the
/// operator's pages.
const READERS: u32 = 4;
/// How long a connection waits for a lock. Only a checkpoint or an outside tool holds one that long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Before it a write-ahead log could be corrupted (SQLite's own notes on 3.51.3).
const MIN_SQLITE: (u32, u32, u32) = (3, 51, 3);
/// What SQLite says when there is no space: SQLITE_FULL, and SQLITE_IOERR_SHMSIZE where the log's index can't grow.
const CODES_FULL: [&str; 2] = ["13", "4874"];

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// The number of the newest change of the schema that this program knows.
#[must_use]
pub fn newest_schema() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Why the registry did not answer. A refused write changed nothing.
#[derive(Debug, Clone, Error)]
pub(crate) enum StoreError {
    #[error("the disk is full")]
    Full,
    #[error("the registry is closed")]
    Closed,
    #[error("the registry has more writes waiting than it can take")]
    Busy,
    #[error("the registry holds a value that does not parse: {0}")]
    Corrupt(&'static str),
    #[error("the registry failed: {0}")]
    Database(Arc<sqlx::Error>),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| CODES_FULL.contains(&&*code)) {
            return Self::Full;
        }
        Self::Database(Arc::new(error))
    }
}

/// Why the registry can't be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file can't be made.
    #[error("the registry's file: {0}")]
    File(#[from] io::Error),
    /// This SQLite may lose data.
    #[error("SQLite {found} is too old: 3.51.3 or later is needed")]
    OldSqlite {
        /// Its version.
        found: String,
    },
    /// The schema does not fit.
    #[error("the registry's schema: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// SQLite says no.
    #[error("the registry: {0}")]
    Database(#[from] sqlx::Error),
}

/// The registry.
#[derive(Clone)]
pub(crate) struct Store {
    writer: Writer,
    reads: SqlitePool,
    times: SqliteTimes,
}

impl Store {
    /// Opens the registry, creating and migrating it as needed. The writer task runs on `tasks` and
    /// ends when the last [`Store`] is gone.
    pub(crate) async fn open(path: &Path, tasks: &TaskTracker) -> Result<(Self, Ended), OpenError> {
        Self::open_with(path, tasks, Defences::default()).await
    }

    async fn open_with(
        path: &Path,
        tasks: &TaskTracker,
        defences: Defences,
    ) -> Result<(Self, Ended), OpenError> {
        // SQLite gives its log and shared memory the mode of the database.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Keys that were dropped are overwritten.
            .pragma("secure_delete", "ON")
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut conn = options.connect().await?;
        check_version(&mut conn).await?;
        MIGRATIONS.run(&mut conn).await?;
        let reads = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.clone().read_only(true))
            .await?;
        let times = SqliteTimes::default();
        let (writer, ended) = writer::start(conn, options, times.clone(), defences, tasks);
        Ok((Self { writer, reads, times }, ended))
    }

    /// Runs a use case in the writer's transaction and answers after its commit.
    pub(crate) async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + std::fmt::Display + Send + 'static,
    {
        self.writer.run(work).await
    }

    /// Queues a use case in the order of the calls, and does not wait for it. A failure is logged. False if the queue
    /// is full.
    pub(crate) fn post<T, E, F>(&self, work: F) -> bool
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + std::fmt::Display + Send + 'static,
    {
        self.writer.post(work)
    }

    /// Queues a use case that takes care of its answer itself.
    pub(crate) fn enqueue(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        self.writer.enqueue(job)
    }

    /// For reads.
    pub(crate) fn reads(&self) -> &SqlitePool {
        &self.reads
    }

    /// Notes how long a use case takes that reads.
    pub(crate) async fn timed<T>(&self, read: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let read = read.await;
        self.times.note(SqliteOp::Read, begun.elapsed());
        read
    }

    /// How long all of this takes.
    pub(crate) fn times(&self) -> &SqliteTimes {
        &self.times
    }

    /// Closes the readers, so that the writer's last checkpoint can fold the whole log in.
    pub(crate) async fn close(self) {
        self.reads.close().await;
    }

    /// Proves that a write becomes durable.
    pub(crate) async fn probe(&self, now_ms: i64) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query!("UPDATE probe SET at_ms = ? WHERE id = 1", now_ms).execute(tx).await?;
                Ok(())
            })
        })
        .await
    }
}

async fn check_version(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?;
    let mut parts = found.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) < MIN_SQLITE {
        return Err(OpenError::OldSqlite { found });
    }
    Ok(())
}

/// Opens a connection that is not the writer's, to look at a registry before it is taken into use.
pub(crate) async fn peek_kind(path: &Path, cluster: &str) -> Result<Option<String>, OpenError> {
    let Some(mut conn) = peek(path, "clusters").await? else { return Ok(None) };
    let kind = sqlx::query_scalar!("SELECT kind FROM clusters WHERE name = ?", cluster)
        .fetch_optional(&mut conn)
        .await?;
    conn.close().await?;
    Ok(kind)
}

/// Opens a connection that can only read, to look at an audit log without taking the registry into use.
/// `None` if it has no such log.
pub(crate) async fn peek_audit(path: &Path) -> Result<Option<SqliteConnection>, OpenError> {
    peek(path, "audit").await
}

async fn peek(path: &Path, table: &str) -> Result<Option<SqliteConnection>, OpenError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
    let mut conn = options.connect().await?;
    let has_table: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = ?")
        .bind(table)
        .fetch_one(&mut conn)
        .await?;
    Ok((has_table > 0).then_some(conn))
}

/// Reads a fixed-size blob.
fn bytes<const N: usize>(column: &'static str, blob: Vec<u8>) -> Result<[u8; N], StoreError> {
    blob.try_into().map_err(|_| StoreError::Corrupt(column))
}

/// Reads a word or a name.
fn word<T: std::str::FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(column))
}

#[cfg(test)]
mod tests;
