//! The committed `.sqlx` is what the queries and the migrations say. To refresh it:
//!
//! ```sh
//! rm -f .sqlx/* /tmp/registry.db && cat migrations/*.sql | sqlite3 /tmp/registry.db && touch server/src/lib.rs
//! SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$PWD/.sqlx DATABASE_URL=sqlite:/tmp/registry.db cargo check -p meetpoint-server
//! ```

use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Executor, SqlSafeStr, Statement, TypeInfo};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path, all: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// A query that is not described does not compile offline; here is the rest: none is described that
/// no longer exists, and each description fits the schema.
#[tokio::test]
async fn the_described_queries_fit_sources_and_schema() {
    let mut code = String::new();
    sources(&root().join("server/src"), &mut code);
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(dir.path().join("t.db")).create_if_missing(true);
    let mut conn = options.connect().await.unwrap();
    sqlx::migrate!("../migrations").run(&mut conn).await.unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join(".sqlx")).unwrap() {
        let described: Value =
            serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let query = described["query"].as_str().unwrap();
        assert!(code.contains(query), "no source has this query any more; refresh .sqlx: {query}");
        let prepared = conn.prepare(AssertSqlSafe(query.to_owned()).into_sql_str()).await;
        let prepared = prepared.unwrap_or_else(|error| panic!("{error}: {query}"));
        let expect = described["describe"]["columns"].as_array().unwrap();
        assert_eq!(prepared.columns().len(), expect.len(), "refresh .sqlx: {query}");
        for (column, expect) in prepared.columns().iter().zip(expect) {
            assert_eq!(column.name(), expect["name"], "refresh .sqlx: {query}");
            // An expression has no declared type.
            let kind = column.type_info().name();
            let expect = expect["type_info"].as_str().unwrap();
            assert!(kind == "NULL" || kind.eq_ignore_ascii_case(expect), "refresh .sqlx: {query}");
        }
        count += 1;
    }
    assert!(count > 15, "{count}");
}

/// A join must cost the same in a cluster of ten nodes and of a hundred thousand: where SQLite goes through all nodes
/// of a cluster, this says so.
#[tokio::test]
async fn no_query_goes_through_all_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(dir.path().join("t.db")).create_if_missing(true);
    let mut conn = options.connect().await.unwrap();
    sqlx::migrate!("../migrations").run(&mut conn).await.unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join(".sqlx")).unwrap() {
        let described: Value =
            serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let query = described["query"].as_str().unwrap();
        // Once, when the server starts.
        if !query.contains("nodes")
            || query.starts_with("DELETE FROM nodes WHERE ephemeral = 1 AND last_seen_ms < ?")
        {
            continue;
        }
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(&mut conn).await.unwrap();
        for (.., step) in plan {
            let walks =
                step.starts_with("SCAN nodes") || step.ends_with("nodes USING PRIMARY KEY (cluster_id=?)");
            assert!(!walks, "{step}: {query}");
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}
