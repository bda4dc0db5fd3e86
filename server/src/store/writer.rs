//! One task writes.
//!
//! It takes the use cases that wait, each in a savepoint of its own inside one `BEGIN IMMEDIATE`,
//! commits, and only then answers. While a commit waits for the disk the next batch gathers, so the
//! number of joins a second does not hang on the number of syncs. A use case that fails is undone
//! alone; a failed commit undoes, and tells, all of its batch.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::StoreError;
use crate::defence::{Defence, Defences};
use crate::metrics::instruments::{SqliteOp, SqliteTimes};

/// Use cases in one transaction.
const BATCH: usize = 64;
/// A batch takes no further use case after this time: the first of it waits for the last.
const BATCH_TIME: Duration = Duration::from_millis(2);
/// Use cases that wait. Two seconds' worth on a slow disk; beyond it the caller is told so.
const QUEUE: usize = 4096;

type Work<T, E> = Result<T, E>;

/// A use case with its answer's way back.
pub(crate) trait Job: Send {
    /// Runs; true if its effects are to be kept.
    fn run<'c>(&'c mut self, tx: &'c mut SqliteConnection) -> BoxFuture<'c, bool>;
    /// Sends the answer: its own, or the batch's failure.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

struct Task<F, T, E> {
    work: Option<F>,
    result: Option<Work<T, E>>,
    reply: Option<oneshot::Sender<Work<T, E>>>,
}

impl<F, T, E> Job for Task<F, T, E>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Work<T, E>> + Send,
    T: Send,
    E: From<StoreError> + std::fmt::Display + Send,
{
    fn run<'c>(&'c mut self, tx: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return false };
            let result = work(tx).await;
            let keep = result.is_ok();
            self.result = Some(result);
            keep
        })
    }

    fn answer(mut self: Box<Self>, failure: Option<StoreError>) {
        let result = match (self.result.take(), failure) {
            // An error of its own stands whatever became of the batch: it has changed nothing.
            (Some(Err(error)), _) => Err(error),
            (_, Some(failure)) => Err(failure.into()),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(StoreError::Closed.into()),
        };
        match (self.reply.take(), result) {
            // Whoever asked may have gone away; the write stands.
            (Some(reply), result) => drop(reply.send(result)),
            (None, Err(error)) => warn!(%error, "a registry update was lost"),
            (None, Ok(_)) => {}
        }
    }
}

/// Hands use cases to the writer task.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    pub(super) async fn run<T, E, F>(&self, work: F) -> Work<T, E>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Work<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + std::fmt::Display + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Box::new(Task { work: Some(work), result: None, reply: Some(reply) }))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// False if there was no place for it.
    pub(super) fn post<T, E, F>(&self, work: F) -> bool
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Work<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + std::fmt::Display + Send + 'static,
    {
        let task = Task { work: Some(work), result: None, reply: None };
        self.enqueue(Box::new(task)).is_ok()
    }

    pub(super) fn enqueue(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        self.queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })
    }
}

/// Resolves when the writer has committed its last batch and closed the database.
pub(crate) type Ended = oneshot::Receiver<()>;

pub(super) fn start(
    conn: SqliteConnection,
    options: SqliteConnectOptions,
    times: SqliteTimes,
    defences: Defences,
    tasks: &TaskTracker,
) -> (Writer, Ended) {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let (ended, when_ended) = oneshot::channel();
    tasks.spawn(async move {
        Loop { conn: Some(conn), options, jobs, times, defences }.run().await;
        // Nobody may wait for it.
        let _ = ended.send(());
    });
    (Writer { queue }, when_ended)
}

struct Loop {
    conn: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    jobs: mpsc::Receiver<Box<dyn Job>>,
    times: SqliteTimes,
    defences: Defences,
}

impl Loop {
    async fn run(mut self) {
        while let Some(first) = self.jobs.recv().await {
            let mut batch: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH);
            let outcome = self.batch(first, &mut batch).await;
            if let Err(failure) = &outcome {
                error!(error = %failure, jobs = batch.len(), "a batch of writes failed, nothing of it was stored");
                self.recover().await;
            }
            let failure = outcome.err().filter(|_| self.defences.stand(Defence::Durable));
            for job in batch {
                job.answer(failure.clone());
            }
        }
        if let Some(conn) = self.conn.take() {
            finish(conn).await;
        }
    }

    /// Runs use cases until the batch is full, its time is over, or none waits. What was taken is in
    /// `done`, whatever the outcome.
    async fn batch(&mut self, first: Box<dyn Job>, done: &mut Vec<Box<dyn Job>>) -> Result<(), StoreError> {
        done.push(first);
        let deadline = Instant::now() + BATCH_TIME;
        let conn = match &mut self.conn {
            Some(conn) => conn,
            None => self.conn.insert(self.options.connect().await?),
        };
        execute(conn, "BEGIN IMMEDIATE; SAVEPOINT use_case").await?;
        loop {
            let begun = Instant::now();
            let kept = match done.last_mut() {
                Some(job) => job.run(conn).await,
                None => true,
            };
            self.times.note(SqliteOp::Write, begun.elapsed());
            if !kept {
                execute(conn, "ROLLBACK TO use_case").await?;
            }
            if done.len() >= BATCH || Instant::now() >= deadline {
                break;
            }
            match self.jobs.try_recv() {
                Ok(job) => done.push(job),
                Err(_) => break,
            }
            execute(conn, "RELEASE use_case; SAVEPOINT use_case").await?;
        }
        // Releases what is left of the savepoints too.
        let begun = Instant::now();
        let committed = execute(conn, "COMMIT").await;
        self.times.note(SqliteOp::Commit, begun.elapsed());
        committed
    }

    /// After a failed batch: a connection that can't even roll back is replaced with the next batch.
    async fn recover(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        // SQLite has rolled back by itself after some errors; then this one fails, harmlessly.
        let _ = execute(&mut conn, "ROLLBACK").await;
        if execute(&mut conn, "SELECT 1").await.is_ok() {
            self.conn = Some(conn);
        }
    }
}

async fn execute(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(conn).await?;
    Ok(())
}

/// Folds the log into the database, so that a copy of the one file is a copy of everything.
async fn finish(mut conn: SqliteConnection) {
    if let Err(error) = execute(&mut conn, "PRAGMA wal_checkpoint(TRUNCATE)").await {
        warn!(%error, "the last checkpoint failed; the log is kept and nothing is lost");
    }
    if let Err(error) = conn.close().await {
        warn!(%error, "the registry did not close cleanly");
    }
}
