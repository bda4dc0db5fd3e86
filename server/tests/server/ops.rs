//! What operators do with a running server: look at its metrics and its health, change it, end it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use meetpoint_proto::wire::{ClientMessage, ServerMessage};
use meetpoint_proto::{Code, SessionId};
use meetpoint_server::{ConfigSource, Fresh, Invocation};
use meetpoint_turn::message::{CREATE_PERMISSION, Class};
use serde_json::json;

use crate::client::{call, get};
use crate::node::{Control, Node};
use crate::relay::{Client, FLAGS};
use crate::running::{Cli, Running, args, config};

/// What `/metrics` says.
async fn scraped(server: SocketAddr) -> String {
    let reply = get("/metrics").send(server).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    assert!(reply.header("content-type").starts_with("application/openmetrics-text"), "{reply:?}");
    assert!(reply.text.ends_with("# EOF\n"));
    reply.text
}

/// The value of the one series that begins so.
fn value(text: &str, series: &str) -> f64 {
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(series)).collect();
    assert_eq!(lines.len(), 1, "{series}: {lines:?}");
    lines[0].rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let (server, dir) = Running::fresh(&[&FLAGS[..], &["--metrics", "127.0.0.1:0"]].concat()).await;
    let http = server.info.http;
    let _node = Node::new(1, "alice", &server.join_token()).joins(http).await;
    let stun = server.info.stun[0].primary;
    let (mut one, mut other) =
        (Client::new(stun, dir.path(), "alice").await, Client::new(stun, dir.path(), "bob").await);
    let (here, there) = (one.allocate().await, other.allocate().await);
    assert_eq!(one.ask(CREATE_PERMISSION, &[], Some(there)).await.0, Class::Success);
    assert_eq!(other.ask(CREATE_PERMISSION, &[], Some(here)).await.0, Class::Success);
    one.send(there, b"hello").await;
    assert_eq!(other.data().await, b"hello");
    get("/v1/clusters").admin(&server).await;
    get("/nowhere").send(http).await;

    let text = scraped(http).await;
    let check = |series: &str, at_least: f64| {
        let value = value(&text, series);
        assert!(value >= at_least, "{series} {value}");
    };
    check("meetpoint_joins_total{outcome=\"joined\",code=\"none\"}", 1.0);
    check("meetpoint_sessions{class=\"Loopback\"}", 1.0);
    check("meetpoint_relay_allocations ", 2.0);
    check("meetpoint_stun_success_responses_total{method=\"allocate\"}", 2.0);
    check("meetpoint_stun_error_responses_total{method=\"allocate\",code=\"401\"}", 2.0);
    check("meetpoint_relay_bytes_total{direction=\"inside\"}", 5.0);
    check("meetpoint_sqlite_seconds_count{operation=\"commit\"}", 1.0);
    check("meetpoint_sqlite_seconds_count{operation=\"write\"}", 1.0);
    check("meetpoint_http_requests_total{method=\"GET\",route=\"/v1/clusters\",status=\"2xx\"}", 1.0);
    check("meetpoint_http_requests_total{method=\"GET\",route=\"none\",status=\"4xx\"}", 1.0);
    check("process_resident_memory_bytes ", 1e6);
    check("meetpoint_data_free_bytes ", 1.0);
    check("meetpoint_draining ", 0.0);

    // A listener of its own has nothing else.
    let own = server.info.metrics.unwrap();
    assert!(scraped(own).await.contains("meetpoint_build_info{version="));
    get("/v1/status").send(own).await.assert_problem(404, "not_found");
    server.stop().await.unwrap();
}

/// Who passes others on is not on this machine, wherever he stands himself.
#[tokio::test]
async fn metrics_are_for_this_machine_and_for_tokens() {
    let (server, _dir) = Running::fresh(&[]).await;
    let http = server.info.http;
    for header in ["x-forwarded-for", "forwarded", "via"] {
        let reply = get("/metrics").header(header, "for=20.0.0.9").send(http).await;
        reply.assert_problem(401, "unauthorized");
        let reply = get("/metrics").header(header, "for=20.0.0.9").viewer(&server).await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    server.stop().await.unwrap();
}

/// Names of series, without their values.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Paths, methods, names, users and codes that strangers think of make no series.
#[tokio::test]
async fn hostile_words_are_no_labels() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let (http, stun) = (server.info.http, server.info.stun[0].primary);
    let attack = async |round: u8| {
        // Which is a request too.
        scraped(http).await;
        for number in 0..5 {
            let word = format!("evil-{round}-{number}");
            get(&format!("/{word}")).send(http).await;
            get(&format!("/v1/clusters/{word}/nodes")).admin(&server).await;
            call(Method::from_bytes(word.to_uppercase().as_bytes()).unwrap(), "/v1/status").send(http).await;
            let mut control = Control::open(http).await;
            let mut hello = Node::new(9, "mallory", &server.join_token()).hello();
            hello.cluster = word.clone();
            control.send(&ClientMessage::Hello(Box::new(hello))).await;
            control.refused().await;
            Client::new(stun, dir.path(), &word).await.allocate().await;
        }
        scraped(http).await
    };
    let (first, second) = (attack(1).await, attack(2).await);
    assert_eq!(series(&first), series(&second));
    assert!(!second.contains("evil") && !second.contains("EVIL"), "{second}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn readiness_lists_what_was_tried() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let reply = get("/readyz").send(server.info.http).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    let checks = reply.json()["checks"].clone();
    let checks: Vec<(&str, bool)> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["name"].as_str().unwrap(), check["ok"].as_bool().unwrap()))
        .collect();
    let all = ["registry", "broker", "stun", "disk", "relay"];
    assert_eq!(checks, all.map(|name| (name, true)));
    // What it allocated for this is gone again, and was nobody's.
    let text = scraped(server.info.http).await;
    assert_eq!(value(&text, "meetpoint_relay_allocations "), 0.0);
    assert!(value(&text, "meetpoint_relay_bytes_total{direction=\"inside\"}") >= 16.0);
    drop(dir);
    server.stop().await.unwrap();
}

/// A server whose configuration comes from this file.
async fn configured(file: &Path, data: &Path, flags: &[&str]) -> Running {
    use clap::{CommandFactory, FromArgMatches};
    let flags = [&["--config", file.to_str().unwrap()][..], flags].concat();
    let line: Vec<std::ffi::OsString> = crate::running::line(data, &flags).map(Into::into).collect();
    let invocation = Invocation::new(Cli::command(), None, line);
    let read = move || -> Result<Fresh, String> {
        let layered = invocation.read().map_err(|error| error.to_string())?;
        let args = Cli::from_arg_matches(&layered.matches).map_err(|error| error.to_string())?;
        let config = args.serve.validate().map_err(|error| error.to_string())?;
        Ok(Fresh { config, settings: layered.settings })
    };
    let Fresh { config, settings } = read().unwrap();
    let source = ConfigSource { first: settings, read: Box::new(read), set_log_level: Box::new(|_| Ok(())) };
    Running::start_from(config, Some(source)).await.unwrap()
}

#[tokio::test]
async fn a_reload_changes_quotas_and_rules_and_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("meetpoint.toml"), dir.path().join("data"));
    std::fs::write(&file, "relay-allow-peer = [\"127.0.0.0/8\"]\nlimit-rest = \"1000/60s\"\n").unwrap();
    let server = configured(&file, &data, &["--relay-ip", "127.0.0.1"]).await;
    let http = server.info.http;
    let mut node = Node::new(1, "alice", &server.join_token()).joins(http).await;
    let stun = server.info.stun[0].primary;
    let mut held = Client::new(stun, &data, "alice").await;
    held.allocate().await;
    let peer: SocketAddr = "127.0.0.2:9".parse().unwrap();
    assert_eq!(held.ask(CREATE_PERMISSION, &[], Some(peer)).await.0, Class::Success);

    let reload = async || call(Method::POST, "/v1/reload").admin(&server).await;
    let nothing = reload().await;
    assert_eq!(
        nothing.json(),
        json!({ "certificate": "same", "tokens": [], "changed": [], "needs_restart": [] }),
        "{nothing:?}"
    );
    // What is refused changes nothing, whatever else is in it.
    for (text, part) in [
        ("relay-allocations = 1\nlimit-rest = \"often\"\n", "limit-rest"),
        ("relay-allocations = 1\nrelay-alocations = 1\n", "did you mean relay-allocations"),
        ("relay-allocations = 1\nrelay-allow-peer = [\"x\"]\n", "relay-allow-peer"),
        ("relay-allocations = ", "line 1"),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = reload().await;
        refused.assert_problem(422, "config_refused");
        assert!(refused.text.contains(part), "{part}: {refused:?}");
    }
    Client::new(stun, &data, "bob").await.allocate().await;

    let fresh =
        "relay-allow-peer = []\nlimit-rest = \"2000/60s\"\nrelay-allocations = 1\nstun-budget = 999\n";
    std::fs::write(&file, fresh).unwrap();
    let certificate = data.join("tls");
    let key =
        rcgen::KeyPair::from_pem(&std::fs::read_to_string(certificate.join("key.pem")).unwrap()).unwrap();
    let renewed =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(certificate.join("cert.pem"), renewed.pem()).unwrap();
    std::fs::write(data.join("viewer-token"), "another-viewer-token\n").unwrap();
    let done = reload().await.json();
    assert_eq!(done["certificate"], "renewed");
    assert_eq!(done["tokens"], json!(["viewer"]));
    assert_eq!(done["changed"], json!(["relay-allow-peer", "relay-allocations", "limit-rest"]));
    assert_eq!(done["needs_restart"], json!(["stun-budget"]));

    // In use: no third allocation, no loopback peer, another policy, another token.
    let mut third = Client::new(stun, &data, "carol").await;
    let transport = (meetpoint_turn::attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0][..]);
    assert_eq!(third.ask(meetpoint_turn::message::ALLOCATE, &[transport], None).await.0, Class::Error);
    assert_eq!(held.ask(CREATE_PERMISSION, &[], Some(peer)).await.0, Class::Error);
    let reply = get("/v1/clusters").bearer("another-viewer-token").send(http).await;
    assert_eq!((reply.status.as_u16(), reply.header("ratelimit-policy")), (200, "\"rest\";q=2000;w=60"));
    // Held on to: the allocation, and the control connection.
    assert_eq!(held.refresh().await, None);
    node.send(&ClientMessage::Ping { seq: 7 }).await;
    node.until(|message| matches!(message, ServerMessage::Pong { seq: 7 }).then_some(())).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_draining_server_takes_nobody_new_and_ends_when_all_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(config(dir.path(), &FLAGS)).await.unwrap();
    let (http, stun) = (server.info.http, server.info.stun[0].primary);
    let alice = Node::new(1, "alice", &server.join_token());
    let mut node = alice.joins(http).await;
    let mut held = Client::new(stun, dir.path(), "alice").await;
    held.allocate().await;
    let drain = call(Method::POST, "/v1/drain").json(&json!({ "timeout_s": 60 })).admin(&server).await;
    assert_eq!(drain.status.as_u16(), 202, "{drain:?}");
    node.until(|message| matches!(message, ServerMessage::Draining { in_ms: 1..=60_000 }).then_some(()))
        .await;

    get("/readyz").send(http).await.assert_problem(503, "not_ready");
    let mut second = Control::open(http).await;
    second.send(&ClientMessage::Hello(Box::new(Node::new(2, "bob", &server.join_token()).hello()))).await;
    let refusal = second.refused().await;
    assert_eq!(refusal.code, Code::Shutdown);
    assert!(refusal.retry_after_ms.is_some());
    // The order to the shards is quick, and not instant.
    let transport = (meetpoint_turn::attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0][..]);
    let mut tries = 0;
    loop {
        let mut fresh = Client::new(stun, dir.path(), "carol").await;
        if fresh.ask(meetpoint_turn::message::ALLOCATE, &[transport], None).await.0 == Class::Error {
            break;
        }
        fresh.release().await;
        tries += 1;
        assert!(tries < 100);
    }
    assert_eq!(held.refresh().await, None);
    assert_eq!(value(&scraped(http).await, "meetpoint_draining "), 1.0);

    held.release().await;
    node.send(&ClientMessage::Leave).await;
    tokio::time::timeout(Duration::from_secs(20), server.ended()).await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_ends_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--drain-timeout", "1s"];
    let server = Running::start(config(dir.path(), &flags)).await.unwrap();
    let node = Node::new(1, "alice", &server.join_token()).joins(server.info.http).await;
    server.drain.begin();
    let (refusal, ended) = tokio::join!(node.refused(), server.ended());
    assert_eq!(refusal.code, Code::Shutdown);
    ended.unwrap();
    assert!(args(dir.path(), &["--drain-timeout", "soon"]).is_err());
    assert!(args(dir.path(), &["--drain-timeout", "0s"]).is_ok());
}

/// Nodes that went elsewhere, or died, may leave an allocation behind.
#[tokio::test]
async fn what_a_node_has_left_behind_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [&FLAGS[..], &["--drain-timeout", "12s"]].concat();
    let server = Running::start(config(dir.path(), &flags)).await.unwrap();
    let user = meetpoint_turn::node_user(&SessionId::from_bytes([7; 16]));
    Client::new(server.info.stun[0].primary, dir.path(), &user).await.allocate().await;
    let begun = tokio::time::Instant::now();
    server.drain.begin();
    server.ended().await.unwrap();
    // Had it been used, it would have been waited for: a quarter of the patience shows that it is not.
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(11), "{took:?}");
}
