//! The writer on a real database.

use sqlx::Row;
use tempfile::TempDir;

use super::*;
use crate::defence::Defence;

#[path = "../../tests/server/small_disk.rs"]
mod small_disk;

use small_disk::{fill, on_a_small_disk};

async fn store() -> (Store, Ended, TaskTracker, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let tasks = TaskTracker::new();
    let (store, ended) = Store::open(&dir.path().join("t.db"), &tasks).await.unwrap();
    run(&store, "CREATE TABLE t (n INTEGER PRIMARY KEY, filler BLOB)").await.unwrap();
    (store, ended, tasks, dir)
}

async fn run(store: &Store, sql: &'static str) -> Result<(), StoreError> {
    store
        .write(move |tx| {
            Box::pin(async move {
                sqlx::query(sql).execute(tx).await?;
                Ok(())
            })
        })
        .await
}

async fn insert(store: &Store, n: i64, then_fail: bool) -> Result<(), StoreError> {
    store
        .write(move |tx| {
            Box::pin(async move {
                sqlx::query("INSERT INTO t (n) VALUES (?)").bind(n).execute(tx).await?;
                if then_fail { Err(StoreError::Corrupt("on purpose")) } else { Ok(()) }
            })
        })
        .await
}

async fn numbers(store: &Store) -> Vec<i64> {
    let rows = sqlx::query("SELECT n FROM t ORDER BY n").fetch_all(store.reads()).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_failed_use_case_is_undone_alone() {
    let (store, ..) = store().await;
    let writes = (0..200).map(|n| insert(&store, n, n % 3 == 0));
    let outcomes = futures_util::future::join_all(writes).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_err(), n % 3 == 0, "{n}");
    }
    let expect: Vec<i64> = (0..200).filter(|n| n % 3 != 0).collect();
    assert_eq!(numbers(&store).await, expect);
    // A constraint is a use case's own failure too.
    assert!(matches!(insert(&store, 1, false).await, Err(StoreError::Database(_))));
    insert(&store, 1000, false).await.unwrap();
}

#[tokio::test]
async fn posted_writes_keep_their_order() {
    let (store, ..) = store().await;
    for n in 0..500_i64 {
        store.post::<(), StoreError, _>(move |tx| {
            Box::pin(async move {
                let last: Option<i64> =
                    sqlx::query_scalar("SELECT max(n) FROM t").fetch_one(&mut *tx).await?;
                assert_eq!(last.unwrap_or(-1), n - 1);
                sqlx::query("INSERT INTO t (n) VALUES (?)").bind(n).execute(tx).await?;
                Ok(())
            })
        });
    }
    insert(&store, 500, false).await.unwrap();
    assert_eq!(numbers(&store).await.len(), 501);
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let (store, ..) = store().await;
    insert(&store, 1, false).await.unwrap();
    // No growth from now on: what SQLite then answers is what it answers on a full disk.
    run(&store, "PRAGMA max_page_count = 1").await.unwrap();
    let big = "INSERT INTO t (filler) VALUES (zeroblob(1000000))";
    assert!(matches!(run(&store, big).await, Err(StoreError::Full)));
    assert_eq!(numbers(&store).await, [1], "reads go on");
    run(&store, "PRAGMA max_page_count = 100000").await.unwrap();
    run(&store, big).await.unwrap();
}

/// What becomes of writes on a disk that somebody has filled, and makes room on again.
#[derive(Debug)]
struct Filled {
    /// Was told that it is stored.
    acknowledged: Vec<i64>,
    stored: Vec<i64>,
    refused: Option<StoreError>,
    /// When there is room again.
    after: Result<(), StoreError>,
}

async fn filled(disk: &Path, off: Option<Defence>) -> Filled {
    let (path, filler) = (disk.join("t.db"), disk.join("filler"));
    let (store, ended) = Store::open_with(&path, &TaskTracker::new(), Defences { off }).await.unwrap();
    run(&store, "CREATE TABLE t (n INTEGER PRIMARY KEY)").await.unwrap();
    fill(&filler);
    let (mut acknowledged, mut refused) = (Vec::new(), None);
    for n in 0..100 {
        match insert(&store, n, false).await {
            Ok(()) => acknowledged.push(n),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    assert!(numbers(&store).await.len() < 100, "reads go on, and the disk is full");
    std::fs::remove_file(&filler).unwrap();
    let after = insert(&store, 1000, false).await;
    store.close().await;
    ended.await.unwrap();
    let (again, ..) = Store::open(&path, &TaskTracker::new()).await.unwrap();
    let mut stored = numbers(&again).await;
    stored.retain(|n| *n < 1000);
    Filled { acknowledged, stored, refused, after }
}

/// Somebody fills the disk, so that what was acknowledged meanwhile is lost.
#[test]
fn a_full_disk_loses_nothing_and_is_recovered_from() {
    for off in [Some(Defence::Durable), None] {
        let dir = tempfile::tempdir().unwrap();
        on_a_small_disk(dir.path(), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let Filled { acknowledged, stored, refused, after } = runtime.block_on(filled(dir.path(), off));
            assert!(after.is_ok(), "{after:?}");
            if off.is_some() {
                assert!(acknowledged.len() == 100 && stored.len() < 100, "the attack works: {stored:?}");
            } else {
                assert_eq!(acknowledged, stored);
                assert!(matches!(refused, Some(StoreError::Full)), "{refused:?}");
            }
        });
    }
}

#[tokio::test]
async fn a_broken_batch_is_told_to_all_and_survived() {
    let (store, ..) = store().await;
    // This use case ends the transaction under the writer's feet.
    let sabotage = run(&store, "ROLLBACK");
    let (lost, broken, after) = tokio::join!(insert(&store, 1, false), sabotage, insert(&store, 2, false));
    assert!(broken.is_err(), "{broken:?}");
    // The first may have come with the batch before, and the third with the next: what was acknowledged
    // is there, and nothing else.
    let outcomes = [(1, lost), (2, after)];
    let acknowledged = outcomes.into_iter().filter(|(_, outcome)| outcome.is_ok()).map(|(number, _)| number);
    assert_eq!(numbers(&store).await, acknowledged.collect::<Vec<i64>>());
    insert(&store, 3, false).await.unwrap();
}

#[tokio::test]
async fn the_writer_ends_with_the_last_store_and_folds_the_log_in() {
    let (store, ended, tasks, dir) = store().await;
    insert(&store, 1, false).await.unwrap();
    store.clone().close().await;
    drop(store);
    ended.await.unwrap();
    tasks.close();
    tasks.wait().await;
    assert_eq!(std::fs::metadata(dir.path().join("t.db-wal")).map_or(0, |meta| meta.len()), 0);
    let (again, ..) = Store::open(&dir.path().join("t.db"), &TaskTracker::new()).await.unwrap();
    assert_eq!(numbers(&again).await, [1]);
    let check: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(again.reads()).await.unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn it_is_durable_by_its_settings() {
    let (store, ..) = store().await;
    let settings = store.write(|tx| {
        Box::pin(async move {
            let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *tx).await?;
            let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *tx).await?;
            let foreign_keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *tx).await?;
            Ok::<_, StoreError>((journal, synchronous, foreign_keys))
        })
    });
    assert_eq!(settings.await.unwrap(), ("wal".to_owned(), 2, 1));
    let write = sqlx::query("DELETE FROM t").execute(store.reads()).await;
    assert!(write.is_err(), "readers can't write");
}
