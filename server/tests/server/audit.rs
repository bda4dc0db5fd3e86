//! The audit log of a running server, and what is found when somebody lays hands on its file.

use std::path::Path;

use hyper::Method;
use meetpoint_proto::{Code, JoinToken};
use meetpoint_server::{AuditBroken, AuditError, AuditHead, verify_audit};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr};

use crate::client::{call, get};
use crate::node::{Control, Node};
use crate::running::{Running, config};

const TOKENS: &str = "/v1/clusters/default/join-tokens";
const AUDIT: &str = "/v1/audit";

async fn entries(server: &Running) -> Vec<Value> {
    let page = get(&format!("{AUDIT}?limit=500")).viewer(server).await;
    assert_eq!(page.status.as_u16(), 200, "{page:?}");
    page.json()["items"].as_array().unwrap().clone()
}

/// Actor, action and target.
fn short(entries: &[Value]) -> Vec<[&str; 3]> {
    entries
        .iter()
        .map(|entry| ["actor", "action", "target"].map(|field| entry[field].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn the_log_tells_what_was_done() {
    let (server, dir) = Running::fresh(&[]).await;
    let alice = Node::new(1, "alice", &server.join_token());
    let control = alice.joins(server.info.http).await;
    let made = call(Method::POST, TOKENS).json(&json!({ "label": "laptops" })).admin(&server).await;
    let location = made.header("location").to_owned();
    let id = made.json()["token"]["id"].as_str().unwrap().to_owned();
    assert_eq!(call(Method::DELETE, &location).admin(&server).await.status.as_u16(), 204);
    let node = format!("/v1/clusters/default/nodes/{}", alice.id());
    // What is refused is not done: the viewer only looks on, and what is gone can't be removed again.
    assert_eq!(call(Method::DELETE, &node).viewer(&server).await.status.as_u16(), 403);
    assert_eq!(call(Method::DELETE, &node).admin(&server).await.status.as_u16(), 204);
    assert_eq!(call(Method::DELETE, &node).admin(&server).await.status.as_u16(), 404);
    drop(control);
    let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
    let bob = Node::new(2, "bob", &stranger);
    assert_eq!(bob.is_refused(server.info.http).await, Code::BadToken);

    // The writer works in order: behind this one, the refusal is stored.
    let last = call(Method::POST, TOKENS).json(&json!({})).admin(&server).await.json();
    let log = entries(&server).await;
    let (token, removed) = (format!("default/{id}"), format!("default/{}", alice.id()));
    let by = format!("node:{}", bob.id());
    let last = format!("default/{}", last["token"]["id"].as_str().unwrap());
    let first = format!("default/{}", server.join_token().id());
    let expect = [
        ["server", "server.start", "default"],
        ["server", "relay_secret.add", "1"],
        ["server", "join_token.create", &first],
        ["admin", "join_token.create", &token],
        ["admin", "join_token.revoke", &token],
        ["admin", "node.remove", &removed],
        [&by, "join.refuse", "default"],
        ["admin", "join_token.create", &last],
    ];
    assert_eq!(short(&log), expect);
    assert_eq!((&log[0]["source"], &log[3]["source"]), (&json!(null), &json!("127.0.0.1")));
    assert_eq!(log[3]["detail"]["label"], "laptops");
    assert_eq!((&log[6]["detail"]["code"], &log[6]["source"]), (&json!("bad_token"), &json!("127.0.0.1")));
    let by_action = get(&format!("{AUDIT}?action=join_token.create&limit=2")).viewer(&server).await.json();
    assert_eq!(short(by_action["items"].as_array().unwrap()), [expect[2], expect[3]]);
    assert_eq!(by_action["next"], "4");
    // While it runs, the file is as whole as what it serves.
    let head = verify_audit(dir.path(), None).await.unwrap();
    assert_eq!(head.to_string(), format!("8:{}", log[7]["hash"].as_str().unwrap()));
    server.stop().await.unwrap();

    let again = Running::start(config(dir.path(), &[])).await.unwrap();
    let admin = std::fs::read_to_string(dir.path().join("admin-token")).unwrap();
    let more = get(&format!("{AUDIT}?after=8")).bearer(admin.trim()).send(again.info.http).await.json();
    let expect = [["server", "server.stop", "default"], ["server", "server.start", "default"]];
    assert_eq!(short(more["items"].as_array().unwrap()), expect);
    assert_eq!(more["items"][0]["detail"], json!({ "asked": true }));
    again.stop().await.unwrap();
    assert_eq!(verify_audit(dir.path(), Some(head)).await.unwrap().seq, 11);
}

#[tokio::test]
async fn a_guesser_does_not_fill_the_log() {
    let (server, _dir) = Running::fresh(&[]).await;
    let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
    let bob = Node::new(2, "bob", &stranger);
    // From one address he would be stopped before that.
    for number in 0..45 {
        let source = [127, 0, 0, 2 + number / 15].into();
        let refusal = Control::open_from(source, server.info.http).await.join(&bob).await.unwrap_err();
        assert_eq!(refusal.code, Code::BadToken);
    }
    call(Method::POST, TOKENS).json(&json!({})).admin(&server).await;
    let log = entries(&server).await;
    let refusals = log.iter().filter(|entry| entry["action"] == "join.refuse").count();
    // One more, should the test take longer than a minute.
    assert!((20..=21).contains(&refusals), "{refusals}");
    server.stop().await.unwrap();
}

/// Does this to a server's database.
async fn tamper(data: &Path, sql: &str) {
    let mut conn = SqliteConnectOptions::new().filename(data.join("meetpoint.db")).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()).into_sql_str()).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

const DISARM: &str = "DROP TRIGGER audit_is_not_changed; DROP TRIGGER audit_is_not_deleted; \
                      DROP TRIGGER audit_has_no_gaps;";

#[tokio::test]
async fn whoever_lays_hands_on_the_file_is_found_out() {
    let (server, dir) = Running::fresh(&[]).await;
    for label in ["a", "b", "c"] {
        let body = json!({ "label": label });
        assert_eq!(call(Method::POST, TOKENS).json(&body).admin(&server).await.status.as_u16(), 201);
    }
    server.stop().await.unwrap();
    // Start, secret, token of the start, three tokens, stop.
    let head = verify_audit(dir.path(), None).await.unwrap();
    assert_eq!(head.seq, 7);
    let check = async |sql: &str, noted: Option<AuditHead>, expect: Option<AuditBroken>| {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("meetpoint.db"), copy.path().join("meetpoint.db")).unwrap();
        tamper(copy.path(), &format!("{DISARM} {sql}")).await;
        match (verify_audit(copy.path(), noted).await, expect) {
            (Err(AuditError::Broken(found)), Some(expect)) => assert_eq!(found, expect, "{sql}"),
            (Ok(_), None) => {}
            (found, expect) => panic!("{sql}: {found:?} instead of {expect:?}"),
        }
    };
    let noted = Some(head);
    check("", noted, None).await;
    let changed = Some(AuditBroken::Changed { seq: 5 });
    check("UPDATE audit SET detail = replace(detail, '\"b\"', '\"x\"') WHERE seq = 5", None, changed).await;
    check("UPDATE audit SET source = NULL WHERE seq = 5", None, changed).await;
    check("UPDATE audit SET detail = detail || ' ' WHERE seq = 5", None, changed).await;
    check("UPDATE audit SET hash = zeroblob(32) WHERE seq = 5", None, changed).await;
    let missing = Some(AuditBroken::Missing { seq: 5, found: 6 });
    check("DELETE FROM audit WHERE seq = 5", None, missing).await;
    let hidden = "DELETE FROM audit WHERE seq = 5; UPDATE audit SET seq = seq - 1 WHERE seq > 5";
    check(hidden, None, changed).await;
    check("DELETE FROM audit WHERE seq = 1", None, Some(AuditBroken::Missing { seq: 1, found: 2 })).await;
    let cut = "DELETE FROM audit WHERE seq > 5";
    check(cut, noted, Some(AuditBroken::CutOff { last: 5, noted: 7 })).await;
    check(cut, None, None).await;
    check("DELETE FROM audit", noted, Some(AuditBroken::CutOff { last: 0, noted: 7 })).await;
    let other: AuditHead = format!("5:{}", "00".repeat(32)).parse().unwrap();
    check("", Some(other), Some(AuditBroken::MadeAnew { seq: 5 })).await;

    // A server whose log's end was cut off goes on with it, and the noted head still tells.
    tamper(dir.path(), "DROP TRIGGER audit_is_not_deleted; DELETE FROM audit WHERE seq = 7").await;
    Running::start(config(dir.path(), &[])).await.unwrap().stop().await.unwrap();
    let found = verify_audit(dir.path(), noted).await;
    assert!(matches!(found, Err(AuditError::Broken(AuditBroken::MadeAnew { seq: 7 }))), "{found:?}");
}

#[tokio::test]
async fn no_log_is_no_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(verify_audit(dir.path(), None).await, Err(AuditError::Registry(_))));
    let file = SqliteConnectOptions::new().filename(dir.path().join("meetpoint.db")).create_if_missing(true);
    file.connect().await.unwrap().close().await.unwrap();
    assert!(matches!(verify_audit(dir.path(), None).await, Err(AuditError::NoLog)));
}
