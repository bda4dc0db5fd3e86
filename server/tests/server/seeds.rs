//! Seeds over REST, and servers that ask each other whether they are there.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use hyper::Method;
use meetpoint_proto::id::Nonce;
use meetpoint_proto::vouch::{Registration, SeedProof};
use meetpoint_proto::wire::{ClientMessage, ServerMessage};
use meetpoint_proto::{Code, JoinToken, PublicKey};
use meetpoint_server::{SeedTiming, ServeConfig, Server};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::{Reply, call, get};
use crate::node::{Control, Node};
use crate::running::{Running, config};

const SEEDS: &str = "/v1/clusters/default/seeds";
/// Longer than anything a server may take; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that asks at once and often.
fn asking(data: &Path, flags: &[&str]) -> ServeConfig {
    let short = Duration::from_millis(50);
    let mut config = config(data, flags);
    config.seed_timing =
        SeedTiming { settle: short, interval: short, patience: short * 4, per_target: short };
    config
}

async fn put(server: &Running, name: &str, body: Value) -> Reply {
    call(Method::PUT, &format!("{SEEDS}/{name}")).json(&body).admin(server).await
}

async fn approve(server: &Running, name: &str, approved: bool) -> Reply {
    let change = json!({ "approved": approved });
    call(Method::PATCH, &format!("{SEEDS}/{name}")).json(&change).admin(server).await
}

async fn delete(server: &Running, name: &str) -> Reply {
    call(Method::DELETE, &format!("{SEEDS}/{name}")).admin(server).await
}

fn place(at: SocketAddr) -> Value {
    json!({ "host": at.ip().to_string(), "port": at.port() })
}

async fn effective(server: &Running) -> String {
    let cluster = get("/v1/clusters/default").admin(server).await.json();
    cluster["effective"].as_str().unwrap().to_owned()
}

async fn seed_key(server: &Running) -> String {
    let status = get("/v1/status").send(server.info.http).await.json();
    status["seed_key"].as_str().unwrap().to_owned()
}

/// What a server says to a node's first word, if it refuses it.
async fn hello(server: &Running, node: &Node) -> Option<Code> {
    let mut control = Control::open(server.info.http).await;
    control.send(&ClientMessage::Hello(Box::new(node.hello()))).await;
    match control.next().await {
        Some(ServerMessage::Rejected(refusal)) => Some(refusal.code),
        Some(ServerMessage::Challenge { .. }) => None,
        other => panic!("expected a challenge or a refusal, got {other:?}"),
    }
}

/// Waits until a seed has this status.
async fn until(server: &Running, bearer: &str, name: &str, status: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seed = get(&format!("{SEEDS}/{name}")).bearer(bearer).send(server.info.http).await.json();
        if seed["status"] == status {
            return seed;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} is not {status}: {seed}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_public_seed_lifts_a_dynamic_cluster_while_nodes_are_there() {
    let (server, _dir) = Running::fresh(&[]).await;
    let token = server.join_token();
    let member = Node::new(1, "alice", &token).joins(server.info.http).await;
    let warned = async || get("/v1/status").send(server.info.http).await.text.contains("private_only");
    assert_eq!((effective(&server).await.as_str(), warned().await), ("PRIVATE", true));

    let body = json!({ "host": "20.0.0.9", "port": 8080, "network_type": "PUBLIC" });
    let reply = put(&server, "pub", body).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    let seed = &reply.json()["seed"];
    let expect = json!({
        "name": "pub", "host": "20.0.0.9", "port": 8080, "public": true, "origin": "operator",
        "approved": true, "network_type": "PUBLIC", "public_key": null, "status": "unverified",
        "reason": null, "hint": null, "verified_unix_ms": null, "created_unix_ms": seed["created_unix_ms"],
    });
    assert_eq!((seed, &reply.json()["warning"]), (&expect, &Value::Null));
    assert_eq!((effective(&server).await.as_str(), warned().await), ("PUBLIC", false));
    // Whoever comes now is judged by what the cluster has become.
    let late = Node::new(2, "bob", &token);
    let judged = async |refusal: Option<Code>| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while hello(&server, &late).await != refusal {
            assert!(tokio::time::Instant::now() < deadline, "the broker has not heard of the change");
        }
    };
    judged(Some(Code::LoopbackInPublicCluster)).await;

    let reply = delete(&server, "pub").await;
    assert_eq!((reply.status.as_u16(), reply.json()["seed"]["name"].clone()), (200, json!("pub")));
    assert_eq!((effective(&server).await.as_str(), warned().await), ("PRIVATE", true));
    judged(None).await;
    drop(late.joins(server.info.http).await);
    drop(member);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn refused_seeds_are_problems_that_name_them() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let private = ["--cluster-network-type", "PRIVATE"];
    let public = ["--cluster-network-type", "PUBLIC", "--seed", "a@20.0.0.1:80"];
    let private = Running::start(config(dirs[0].path(), &private)).await.unwrap();
    let public = Running::start(config(dirs[1].path(), &public)).await.unwrap();
    let dynamic = Running::start(config(dirs[2].path(), &[])).await.unwrap();
    let seed = |host: &str| json!({ "host": host, "port": 80 });
    let with = |host: &str, field: &str, value: Value| {
        let mut body = seed(host);
        body[field] = value;
        body
    };
    let cases = [
        (&private, seed("20.0.0.2"), 422, "public_seed_in_private_cluster"),
        (&public, seed("10.0.0.2"), 422, "bad_seed_in_public_cluster"),
        (&public, seed("nowhere.invalid"), 422, "bad_seed_in_public_cluster"),
        (&dynamic, with("10.0.0.2", "network_type", json!("PUBLIC")), 422, "declared_public_but_private"),
        (&dynamic, with("20.0.0.2", "network_type", json!("PRIVATE")), 422, "declared_private_but_public"),
        (&dynamic, seed("224.0.0.1"), 422, "seed_address_refused"),
        (&dynamic, with("10.0.0.2", "network_type", json!("DYNAMIC")), 422, "invalid"),
        (&dynamic, with("10.0.0.2", "port", json!(0)), 422, "invalid"),
        (&dynamic, with("10.0.0.2", "port", json!(65536)), 422, "invalid"),
        (&dynamic, with("10.0.0.2", "public_key", json!("aaaa")), 422, "invalid"),
        (&dynamic, with("10.0.0.2", "colour", json!("red")), 422, "invalid"),
        (&dynamic, seed("256.1.1.1"), 422, "invalid"),
        (&dynamic, seed(""), 422, "invalid"),
        (&dynamic, json!({ "host": "10.0.0.2" }), 422, "invalid"),
    ];
    for (server, body, status, code) in cases {
        let reply = put(server, "b", body).await;
        reply.assert_problem(status, code);
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(code == "invalid" || detail.contains("seed b@"), "{detail}");
    }
    put(&dynamic, "%3Cb%3E", seed("10.0.0.2")).await.assert_problem(422, "invalid");
    delete(&public, "a").await.assert_problem(422, "no_seed_in_public_cluster");
    approve(&public, "a", false).await.assert_problem(422, "no_seed_in_public_cluster");
    approve(&dynamic, "nope", true).await.assert_problem(404, "unknown_seed");
    delete(&dynamic, "nope").await.assert_problem(404, "unknown_seed");
    let elsewhere = call(Method::PUT, "/v1/clusters/nope/seeds/a").json(&seed("10.0.0.2"));
    elsewhere.admin(&dynamic).await.assert_problem(404, "unknown_cluster");
    put(&dynamic, "v6", seed("fd00::1")).await;
    assert_eq!(put(&dynamic, "v6", seed("[fd00::1]")).await.status.as_u16(), 200, "it is the same host");
    put(&dynamic, "twin", seed("fd00::1")).await.assert_problem(409, "seed_address_taken");
    for server in [private, public, dynamic] {
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_restart_keeps_seeds_and_warns_of_those_that_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--seed", "a@10.0.0.1:80,b@10.0.0.2:80", "--admin-token", "administrators-only"];
    let admin = "administrators-only";
    let start = async || Running::start(config(dir.path(), &flags)).await.unwrap();
    let names = async |server: &Running| -> Vec<String> {
        let seeds = get(SEEDS).bearer(admin).send(server.info.http).await.json();
        let seeds = seeds["items"].as_array().unwrap().iter();
        seeds
            .map(|seed| format!("{} {}", seed["name"].as_str().unwrap(), seed["origin"].as_str().unwrap()))
            .collect()
    };
    let send = async |server: &Running, method: Method, name: &str, body: Value| {
        let call = call(method, &format!("{SEEDS}/{name}")).bearer(admin).json(&body);
        call.send(server.info.http).await
    };
    let server = start().await;
    let key = seed_key(&server).await;
    let public = json!({ "host": "20.0.0.3", "port": 80 });
    assert_eq!(send(&server, Method::PUT, "c", public).await.status.as_u16(), 201);
    let reply = send(&server, Method::DELETE, "b", json!({})).await;
    assert!(reply.json()["warning"].as_str().unwrap().contains("--seed"), "{reply:?}");
    assert_eq!(names(&server).await, ["a flag", "c operator"]);
    server.stop().await.unwrap();

    let server = start().await;
    let returned: Vec<String> = server.info.warnings.iter().map(ToString::to_string).collect();
    assert!(returned.iter().any(|text| text.contains("seed b was deleted")), "{returned:?}");
    assert_eq!(names(&server).await, ["a flag", "b flag", "c operator"]);
    assert_eq!(server.info.effective.as_str(), "PUBLIC", "by the operator's seed");
    assert_eq!(seed_key(&server).await, key);
    server.stop().await.unwrap();

    let other = [&flags[..], &["--cluster-network-type", "PUBLIC"]].concat();
    let error = Server::bind(config(dir.path(), &other)).await.err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[tokio::test]
async fn whether_relayed_nodes_are_kept_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let admin = ["--admin-token", "administrators-only"];
    let check = async |flags: &[&str], change: Option<bool>, expect: bool| {
        let flags = [&admin[..], flags].concat();
        let server = Running::start(config(dir.path(), &flags)).await.unwrap();
        let path = "/v1/clusters/default";
        if let Some(change) = change {
            let call = call(Method::PATCH, path).bearer(admin[1]).json(&json!({ "admit_relayed": change }));
            assert_eq!(call.send(server.info.http).await.status.as_u16(), 200);
        }
        let cluster = get(path).bearer(admin[1]).send(server.info.http).await.json();
        assert_eq!(cluster["admit_relayed"], expect, "{flags:?} {change:?}");
        server.stop().await.unwrap();
    };
    check(&[], None, false).await;
    check(&[], Some(true), true).await;
    check(&[], None, true).await;
    check(&["--admit-relayed=false"], None, false).await;
    check(&["--admit-relayed"], None, true).await;
    check(&["--admit-relayed"], Some(false), false).await;
    check(&[], None, false).await;
}

#[tokio::test]
async fn servers_ask_each_other() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let home = Running::start(asking(dirs[0].path(), &[])).await.unwrap();
    let admin = home.admin_token();
    let other = Running::start(config(dirs[1].path(), &[])).await.unwrap();
    let (at, key) = (other.info.http, seed_key(&other).await);
    // The home server is a seed itself, which it need not ask.
    let own = until(&home, &admin, "default", "up").await;
    assert_eq!(own["public_key"], json!(seed_key(&home).await));

    assert_eq!(put(&home, "other", place(at)).await.status.as_u16(), 201);
    let seed = until(&home, &admin, "other", "up").await;
    assert_eq!((&seed["public_key"], &seed["reason"]), (&json!(key), &Value::Null));
    assert!(seed["verified_unix_ms"].is_number());

    let flags = ["--http", &at.to_string()];
    other.stop().await.unwrap();
    let seed = until(&home, &admin, "other", "down").await;
    assert_eq!(seed["reason"], "seed_unreachable");
    assert!(seed["hint"].as_str().unwrap().contains("--http"));
    let other = Running::start(config(dirs[1].path(), &flags)).await.unwrap();
    until(&home, &admin, "other", "up").await;
    other.stop().await.unwrap();

    // Somebody else has the address now.
    let impostor = Running::start(config(dirs[2].path(), &flags)).await.unwrap();
    let seed = until(&home, &admin, "other", "refused").await;
    assert_eq!((&seed["public_key"], &seed["reason"]), (&json!(key), &json!("seed_wrong_key")));
    let mut body = place(at);
    body["public_key"] = json!(seed_key(&impostor).await);
    assert_eq!(put(&home, "other", body).await.status.as_u16(), 200);
    until(&home, &admin, "other", "up").await;
    impostor.stop().await.unwrap();
    home.stop().await.unwrap();
}

/// A proxy that speaks TLS for the server, and one that does nothing but pass bytes on.
#[tokio::test]
async fn nobody_borrows_a_servers_key() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let home = Running::start(asking(dirs[0].path(), &[])).await.unwrap();
    let honest = Running::start(config(dirs[1].path(), &[])).await.unwrap();
    let thief = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let (at, to) = (thief.local_addr().unwrap(), honest.info.http);
    let passing = tokio::spawn(async move {
        loop {
            let (mut from, _) = thief.accept().await.unwrap();
            let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
            // One of them hangs up in the end.
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        }
    });
    put(&home, "thief", place(at)).await;
    let admin = home.admin_token();
    let seed = until(&home, &admin, "thief", "down").await;
    assert_eq!((&seed["public_key"], &seed["reason"]), (&Value::Null, &json!("seed_not_here")));
    passing.abort();
    home.stop().await.unwrap();
    honest.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_shows_its_key_for_its_own_address() {
    let (server, _dir) = Running::fresh(&[]).await;
    let nonce = Nonce::from_bytes([7; 32]);
    let ask = |query: String| get(&format!("/v1/seed-proof?{query}")).send(server.info.http);
    let here = server.info.http.to_string();
    let reply = ask(format!("nonce={nonce}&at={here}")).await;
    let proof: SeedProof = serde_json::from_str(&reply.text).unwrap();
    assert!(proof.answers(&nonce, &here));
    assert_eq!(proof.public_key.to_string(), seed_key(&server).await);
    ask(format!("nonce={nonce}&at=20.0.0.1:80")).await.assert_problem(421, "not_here");
    for query in
        ["", "nonce=aaaa&at=1.2.3.4:5", &format!("nonce={nonce}&at=here:80"), &format!("nonce={nonce}")]
    {
        ask(query.to_owned()).await.assert_problem(400, "bad_query");
    }
    let mut last = ask(format!("nonce={nonce}&at={here}")).await;
    while last.status.as_u16() == 200 {
        last = ask(format!("nonce={nonce}&at={here}")).await;
    }
    last.assert_problem(429, "rate_limited");
    assert_eq!(last.header("retry-after"), "1");
    server.stop().await.unwrap();
}

/// A join token with the scope `seed`.
async fn seed_token(server: &Running) -> JoinToken {
    let made = call(Method::POST, "/v1/clusters/default/join-tokens").json(&json!({ "scope": "seed" }));
    let made = made.admin(server).await.json();
    made["secret"].as_str().unwrap().parse().unwrap()
}

/// What a server sends that wants to be a seed.
fn wish(seed: &str, key: &SigningKey, audience: PublicKey, token: &JoinToken, now_unix_ms: u64) -> Value {
    let registration = Registration {
        cluster: "default".to_owned(),
        audience,
        seed: seed.parse().unwrap(),
        declared: None,
        public_key: PublicKey::from(key),
        token: token.id(),
        issued_unix_ms: now_unix_ms,
    };
    json!({
        "name": registration.seed.name.as_str(),
        "host": registration.seed.host.to_string(),
        "port": registration.seed.port,
        "public_key": registration.public_key.to_string(),
        "token": token.id().to_string(),
        "issued_unix_ms": now_unix_ms,
        "signature": registration.sign(key).to_string(),
        "token_signature": registration.sign_by_token(&token.signing_key()).to_string(),
    })
}

#[tokio::test]
async fn a_server_registers_itself() {
    let (server, _dir) = Running::fresh(&[]).await;
    let token = seed_token(&server).await;
    let status = get("/v1/status").send(server.info.http).await.json();
    let audience: PublicKey = status["seed_key"].as_str().unwrap().parse().unwrap();
    let now = status["now_unix_ms"].as_u64().unwrap();
    let send = async |body: &Value| call(Method::POST, SEEDS).json(body).send(server.info.http).await;
    let key = SigningKey::from_bytes(&[5; 32]);
    let good = wish("me@20.0.0.5:80", &key, audience, &token, now);
    let reply = send(&good).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    let seed = reply.json();
    assert_eq!(
        (&seed["origin"], &seed["approved"], &seed["status"], &seed["public"]),
        (&json!("self"), &json!(false), &json!("unverified"), &json!(true))
    );
    assert_eq!(effective(&server).await, "PRIVATE");
    send(&good).await.assert_problem(409, "stale_registration");

    let stranger = SigningKey::from_bytes(&[6; 32]);
    let poison = wish("me@20.0.0.66:80", &stranger, audience, &token, now + 1);
    send(&poison).await.assert_problem(409, "seed_name_taken");
    let elsewhere = wish("me@20.0.0.5:80", &key, PublicKey::from(&stranger), &token, now + 1);
    send(&elsewhere).await.assert_problem(403, "bad_registration");
    let unknown: JoinToken = "a-token-nobody-gave".parse().unwrap();
    for token in [unknown, server.join_token()] {
        let other = wish("other@20.0.0.6:80", &key, audience, &token, now + 1);
        send(&other).await.assert_problem(403, "bad_token");
    }
    send(&wish("me@20.0.0.5:80", &key, audience, &token, now + 3_600_000))
        .await
        .assert_problem(422, "clock_skew");

    let reply = approve(&server, "me", true).await;
    assert_eq!((reply.status.as_u16(), reply.json()["seed"]["approved"].clone()), (200, json!(true)));
    assert_eq!(effective(&server).await, "PUBLIC");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_registers_itself_as_its_flags_say() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let home = Running::start(asking(dirs[0].path(), &[])).await.unwrap();
    let (admin, token) = (home.admin_token(), seed_token(&home).await);
    // A port that is free on an address that nobody else uses.
    let at = std::net::TcpListener::bind("127.0.0.4:0").unwrap().local_addr().unwrap();
    let (seed, with) = (format!("second@{at}"), home.info.http.to_string());
    let http = at.to_string();
    let flags = ["--http", &http, "--seed", &seed, "--register-with", &with, "--seed-token", token.reveal()];
    let second = Running::start(config(dirs[1].path(), &flags)).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while get(&format!("{SEEDS}/second")).admin(&home).await.status.as_u16() == 404 {
        assert!(tokio::time::Instant::now() < deadline, "it has not registered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its message came from another of this machine's addresses.
    let path = format!("{SEEDS}/second");
    while get(&path).bearer(&admin).send(home.info.http).await.json()["reason"] != "seed_not_approved" {
        assert!(tokio::time::Instant::now() < deadline, "it was asked before it was approved");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(approve(&home, "second", true).await.status.as_u16(), 200);
    let row = until(&home, &admin, "second", "up").await;
    assert_eq!((&row["origin"], &row["public_key"]), (&json!("self"), &json!(seed_key(&second).await)));
    second.stop().await.unwrap();
    home.stop().await.unwrap();

    let lone = ["--register-with", "127.0.0.1:1", "--seed-token", token.reveal()];
    let error = Server::bind(config(dirs[1].path(), &lone)).await.err().unwrap();
    assert!(error.exit_code() == 2 && error.to_string().contains("--register-with"), "{error}");
}
