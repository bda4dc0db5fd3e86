//! What is recorded, that it can't be changed, and that nobody can write into it what he likes.

use std::cell::Cell;
use std::sync::Arc;

use meetpoint_proto::id::Fingerprint;
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork, TokenScope};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::data_dir::DataDir;
use crate::service::{Cluster, DEFAULT_CLUSTER, Keyring, NewToken, establish_cluster};

const NOW: UnixMs = UnixMs(1_800_000_000_000);
const ADMIN: Actor = Actor::admin(IpAddr::V4(std::net::Ipv4Addr::new(20, 0, 0, 7)));

async fn service() -> (Service, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&dir.path().join(store::FILE), &TaskTracker::new()).await.unwrap();
    let name = DEFAULT_CLUSTER.parse().unwrap();
    let row =
        establish_cluster(&store, NOW, name, ClusterNetwork::Dynamic, [1; 32], Vec::new()).await.unwrap();
    let data = Arc::new(DataDir::open(dir.path()).unwrap());
    let keyring = Keyring::open(&store, data, NOW, false).await.unwrap();
    let cluster = Cluster::new(row.row, EffectiveNetwork::Private, false);
    (Service::new(store, vec![cluster], Vec::new(), keyring), dir)
}

async fn log(service: &Service) -> Vec<AuditRow> {
    service.audit(0, &AuditFilter::default(), 1000).await.unwrap()
}

fn new_token(label: &str) -> NewToken {
    let (scope, names) = (TokenScope::Node, Some("web-*".parse().unwrap()));
    NewToken { label: label.to_owned(), scope, names, expires_ms: None, max_uses: Some(3) }
}

#[tokio::test]
async fn what_is_done_is_recorded_and_what_is_refused_is_not() {
    let (service, dir) = service().await;
    let fingerprint = Fingerprint::from_bytes([3; 32]);
    let create = service.create_token(NOW, &ADMIN, DEFAULT_CLUSTER, new_token("laptops"), fingerprint);
    let token = create.await.unwrap().0.id;
    service.revoke_token(UnixMs(NOW.0 + 1), &ADMIN, DEFAULT_CLUSTER, token).await.unwrap();
    service.put_relay_user(NOW, &ADMIN, "alice", None).await.unwrap();
    service.put_relay_user(NOW, &ADMIN, "alice", Some("a password of hers")).await.unwrap();
    service.remove_relay_user(NOW, &ADMIN, "alice".to_owned()).await.unwrap();
    service.add_relay_secret(NOW, &ADMIN, None, 3600).await.unwrap();
    service.drop_relay_secret(NOW, &ADMIN, 1).await.unwrap();
    service.mint_for_operator(NOW, ADMIN, "bob", 1_800_003_600).await.unwrap();

    let secret = service.add_secret(NOW, &ADMIN, DEFAULT_CLUSTER, None).await.unwrap().0.id;
    service.drop_secret(NOW, &ADMIN, DEFAULT_CLUSTER, secret).await.unwrap();

    let refused = [
        service.revoke_token(NOW, &ADMIN, DEFAULT_CLUSTER, "aaaaaaaaaaaaaaaa".parse().unwrap()).await,
        service.revoke_token(NOW, &ADMIN, "nope", token).await,
        service.remove_node(NOW, &ADMIN, DEFAULT_CLUSTER, NodeId::from_bytes([1; 32])).await.map(drop),
        service.restore_node(NOW, &ADMIN, DEFAULT_CLUSTER, NodeId::from_bytes([1; 32])).await,
        service.end_session(NOW, &ADMIN, DEFAULT_CLUSTER, NodeId::from_bytes([1; 32])).await,
        service.drop_secret(NOW, &ADMIN, DEFAULT_CLUSTER, secret).await,
        service.remove_relay_user(NOW, &ADMIN, "alice".to_owned()).await,
        service.drop_relay_secret(NOW, &ADMIN, 1).await,
        service.drop_relay_secret(NOW, &ADMIN, 2).await,
    ];
    assert!(refused.iter().all(Result::is_err), "{refused:?}");

    let log = log(&service).await;
    let short: Vec<_> = log
        .iter()
        .map(|AuditRow { entry, .. }| (&*entry.actor, &*entry.action, &*entry.target, &*entry.detail))
        .collect();
    let token = format!("default/{token}");
    let created =
        r#"{"expires_unix_ms":null,"label":"laptops","max_uses":3,"name_pattern":"web-*","scope":"node"}"#;
    let secret = format!("default/{secret}");
    let expect = [
        ("server", "relay_secret.add", "1", r#"{"origin":"made"}"#),
        ("admin", "join_token.create", &*token, created),
        ("admin", "join_token.revoke", &*token, "{}"),
        ("admin", "relay_user.put", "alice", r#"{"is_new":true}"#),
        ("admin", "relay_user.put", "alice", r#"{"is_new":false}"#),
        ("admin", "relay_user.remove", "alice", "{}"),
        ("admin", "relay_secret.add", "2", r#"{"origin":"made"}"#),
        ("admin", "relay_secret.drop", "1", "{}"),
        ("admin", "relay_credentials.create", "bob", r#"{"expires_unix_s":1800003600}"#),
        ("admin", "cluster_secret.add", &*secret, "{}"),
        ("admin", "cluster_secret.drop", &*secret, "{}"),
    ];
    assert_eq!(short, expect);
    assert_eq!((log[0].entry.source.as_deref(), log[1].entry.source.as_deref()), (None, Some("20.0.0.7")));
    assert_eq!((log[1].entry.at_ms, log[2].entry.at_ms), (NOW.0, NOW.0 + 1));

    let head = verify_audit(dir.path(), None).await.unwrap();
    assert_eq!(head, AuditHead { seq: 11, hash: log[10].hash });
}

#[tokio::test]
async fn many_at_once_make_one_chain() {
    let (service, dir) = service().await;
    let fingerprint = Fingerprint::from_bytes([3; 32]);
    let some = (0..300).map(async |n| {
        let refused = service.remove_relay_user(NOW, &ADMIN, format!("u{n}"));
        let done = service.create_token(NOW, &ADMIN, DEFAULT_CLUSTER, new_token("x"), fingerprint);
        let minted = service.mint_for_operator(NOW, ADMIN, "bob", 1_800_003_600);
        let (refused, done, minted) = tokio::join!(refused, done, minted);
        assert!(refused.is_err() && done.is_ok() && minted.is_ok());
    });
    futures_util::future::join_all(some).await;
    assert_eq!(verify_audit(dir.path(), None).await.unwrap().seq, 601);
}

#[tokio::test]
async fn nothing_but_the_next_entry_is_taken() {
    let (service, _dir) = service().await;
    note(&service.store, NOW, ADMIN, Action::ServerStart, "x".to_owned(), json!({})).await.unwrap();
    let run = async |sql: &'static str| {
        let work = service.store.write::<_, StoreError, _>(move |tx| {
            Box::pin(async move { Ok(sqlx::query(AssertSqlSafe(sql)).execute(tx).await?.rows_affected()) })
        });
        work.await
    };
    let refused = [
        "UPDATE audit SET actor = 'server' WHERE seq = 1",
        "UPDATE audit SET seq = 3 WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT seq, at_ms, 'server', source, action, target, detail, hash FROM audit",
        "INSERT INTO audit SELECT 4, at_ms, actor, source, action, target, detail, hash FROM audit WHERE seq = 1",
        "INSERT INTO audit SELECT 0, at_ms, actor, source, action, target, detail, hash FROM audit WHERE seq = 1",
        "INSERT INTO audit SELECT NULL, at_ms, actor, source, action, target, detail, hash FROM audit WHERE seq = 1",
    ];
    for sql in refused {
        assert!(run(sql).await.is_err(), "{sql}");
    }
    assert_eq!(log(&service).await.len(), 2);
    run("INSERT INTO audit SELECT 3, at_ms, actor, source, action, target, detail, hash FROM audit WHERE seq = 1")
        .await
        .unwrap();
}

thread_local! {
    /// Switches the defence off that `nobody_writes_between_the_lines` is about.
    pub(super) static TAKES_ANY_TEXT: Cell<bool> = const { Cell::new(false) };
}

/// The entries as somebody who greps or pages through them has them before his eyes.
async fn shown(service: &Service) -> String {
    let rows = log(service).await;
    rows.iter()
        .map(|row| format!("{} {} {}\n", row.entry.actor, row.entry.action, row.entry.target))
        .collect()
}

#[tokio::test]
async fn without_the_defence_a_name_writes_an_entry() {
    let (service, _dir) = service().await;
    let hostile = "default/x\nadmin join_token.create default/forged".to_owned();
    let forged = |text: &str| text.lines().any(|line| line == "admin join_token.create default/forged");
    TAKES_ANY_TEXT.set(true);
    note(&service.store, NOW, ADMIN, Action::NodeRemove, hostile.clone(), json!({})).await.unwrap();
    assert!(forged(&shown(&service).await), "the attack works without the defence");
    TAKES_ANY_TEXT.set(false);
    let target = hostile.replace("/x", "/y");
    note(&service.store, NOW, ADMIN, Action::NodeRemove, target, json!({})).await.unwrap();
    let guarded = shown(&service).await;
    let (_, behind) = guarded.split_once("forged").unwrap();
    assert!(behind.contains("forged") && !forged(behind), "{guarded}");
}

/// Hostile names do not become lines, fields or directions of the log.
#[tokio::test]
async fn nobody_writes_between_the_lines() {
    let (service, dir) = service().await;
    let hostile = "a\n2027-01-01 admin\u{1b}[2J\r\u{202e}txt.exe\u{2028}\u{85}\"},{<script>";
    let cleaned = "a\u{FFFD}2027-01-01 admin\u{FFFD}[2J\u{FFFD}\u{FFFD}txt.exe\u{FFFD}\u{FFFD}\"},{<script>";
    let detail = json!({ "label": hostile, "list": [hostile] });
    note(&service.store, NOW, ADMIN, Action::NodeRemove, hostile.to_owned(), detail).await.unwrap();
    let long = "é".repeat(MAX_DETAIL_BYTES);
    note(&service.store, NOW, ADMIN, Action::NodeRemove, long.clone(), json!({ "x": long })).await.unwrap();
    let log = log(&service).await;
    assert_eq!(log[1].entry.target, cleaned);
    let detail: Value = serde_json::from_str(&log[1].entry.detail).unwrap();
    assert_eq!(detail, json!({ "label": cleaned, "list": [cleaned] }));
    assert_eq!(log[2].entry.target.chars().count(), MAX_TARGET_LEN);
    assert_eq!(log[2].entry.detail, r#"{"left_out_bytes":16392}"#);
    verify_audit(dir.path(), None).await.unwrap();
}

#[tokio::test]
async fn a_page_has_what_was_asked_for() {
    let (service, _dir) = service().await;
    for n in 0..6 {
        let action = if n % 2 == 0 { Action::NodeRemove } else { Action::TokenRevoke };
        note(&service.store, UnixMs(n), ADMIN, action, n.to_string(), json!({})).await.unwrap();
    }
    let check = async |after, filter: AuditFilter, limit, expect: &[&str]| {
        let rows = service.audit(after, &filter, limit).await.unwrap();
        let targets: Vec<&str> = rows.iter().map(|row| &*row.entry.target).collect();
        assert_eq!(targets, expect, "{after} {filter:?} {limit}");
    };
    let all = AuditFilter::default();
    let action = |action: Action| AuditFilter { action: Some(action.as_str()), ..AuditFilter::default() };
    let between = |since_ms, until_ms| AuditFilter { since_ms, until_ms, ..AuditFilter::default() };
    // The first entry is that of the credential secret.
    check(1, all.clone(), 3, &["0", "1", "2"]).await;
    check(4, all.clone(), 3, &["3", "4", "5"]).await;
    check(7, all.clone(), 3, &[]).await;
    check(u64::MAX, all, 3, &[]).await;
    check(0, action(Action::TokenRevoke), 2, &["1", "3"]).await;
    check(3, action(Action::TokenRevoke), 2, &["3", "5"]).await;
    check(1, between(Some(2), Some(4)), 9, &["2", "3"]).await;
    check(1, between(None, Some(1)), 9, &["0"]).await;
    check(1, AuditFilter { since_ms: Some(3), ..action(Action::NodeRemove) }, 9, &["4"]).await;
}
