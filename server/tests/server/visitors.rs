//! A cluster with two servers: its home, which holds its key, and one that has the public half only.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use hyper::Method;
use meetpoint_proto::wire::{CertificateText, ClientMessage, ServerMessage};
use meetpoint_proto::{Certificate, Code, JoinToken, PublicKey};
use serde_json::{Value, json};

use crate::client::{call, get};
use crate::identity::{ADMIN, FLAGS, joins};
use crate::node::{Control, Node};
use crate::running::{Running, config};

/// The home server's cluster, as a flag of another server.
async fn foreign(home: &Running, name: &str) -> String {
    let cluster = get("/v1/clusters/default").bearer(ADMIN).send(home.info.http).await.json();
    format!("{name}={}", cluster["public_key"].as_str().unwrap())
}

#[tokio::test]
async fn a_member_visits_another_server() {
    let (home, _home_dir) = Running::fresh(&FLAGS).await;
    let flag = foreign(&home, "default").await;
    let (away, _away_dir) = Running::fresh(&["--foreign-cluster", &flag, "--admin-token", ADMIN]).await;

    let mut alice = Node::new(1, "alice", &home.join_token());
    let (_, welcome) = joins(&home, &mut alice).await;
    let stranger = Node { token: Some(away.join_token()), ..alice.clone() };
    assert_eq!(stranger.is_refused_at_once(away.info.http).await, Code::NotHome);

    alice.certificate = Some(welcome.certificate.clone());
    let (mut at_away, echoed) = joins(&away, &mut alice).await;
    assert_eq!(echoed.certificate, welcome.certificate, "nobody but home makes certificates");
    assert_eq!(echoed.session_token, None, "nothing is stored that it could come back to");

    // Two visitors find each other there and see certificates of the cluster.
    let mut bob = Node::new(2, "bob", &home.join_token());
    let (_, welcome) = joins(&home, &mut bob).await;
    bob.certificate = Some(welcome.certificate.clone());
    let (mut bob_away, _) = joins(&away, &mut bob).await;
    for (control, port) in [(&mut at_away, 1), (&mut bob_away, 2)] {
        let host = vec![format!("127.0.0.1:{port}").parse().unwrap()];
        control.send(&ClientMessage::Candidates { host, relay: Vec::new(), mapped: Vec::new() }).await;
    }
    at_away
        .send(&ClientMessage::Connect { request: 7, peer: "bob".to_owned(), wait: true, handshake: None })
        .await;
    let introduced = at_away
        .until(|message| match message {
            ServerMessage::Introduction(introduction) => Some(introduction),
            _ => None,
        })
        .await;
    assert_eq!(introduced.certificate, welcome.certificate);
    // It can't renew what it did not make.
    at_away.send(&ClientMessage::Renew).await;
    at_away.send(&ClientMessage::Ping { seq: 5 }).await;
    let renewed = at_away
        .until(|message| match message {
            ServerMessage::Certificate(_) => Some(true),
            ServerMessage::Pong { seq: 5 } => Some(false),
            _ => None,
        })
        .await;
    assert!(!renewed);
    let registered = get("/v1/clusters/default/nodes").bearer(ADMIN).send(away.info.http).await.json();
    assert_eq!(registered["items"], serde_json::json!([]), "only presence is kept");
    away.stop().await.unwrap();
    home.stop().await.unwrap();
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What a visitor must not bring, and what it is told. A clock that is wrong is told by how much.
#[tokio::test]
async fn what_a_visitor_brings_is_checked() {
    let key = SigningKey::from_bytes(&[42; 32]);
    let flag = format!("elsewhere={}", PublicKey::from(&key));
    let (away, _dir) = Running::fresh(&["--foreign-cluster", &flag]).await;
    let token: JoinToken = "a-token-of-its-home".parse().unwrap();
    let alice = Node { cluster: "elsewhere".to_owned(), ..Node::new(1, "alice", &token) };
    let good = Certificate {
        cluster: "elsewhere".parse().unwrap(),
        node: alice.id(),
        name: "alice".parse().unwrap(),
        not_before_unix_s: now_s(),
        not_after_unix_s: now_s() + 3600,
        capabilities: Vec::new(),
    };
    let shows = async |text: CertificateText| {
        let node = Node { certificate: Some(text), ..alice.clone() };
        Control::open(away.info.http).await.join(&node).await
    };
    shows(good.sign(&key)).await.unwrap();
    let changed = |change: &dyn Fn(&mut Certificate)| {
        let mut certificate = good.clone();
        change(&mut certificate);
        certificate.sign(&key)
    };
    let cases: [(&str, CertificateText, Code, &str); 6] = [
        ("its own key's", good.sign(&alice.key), Code::BadCertificate, "not signed"),
        (
            "another node's",
            changed(&|c| c.node = Node::new(2, "x", &token).id()),
            Code::BadCertificate,
            "another",
        ),
        ("another name's", changed(&|c| c.name = "bob".parse().unwrap()), Code::BadCertificate, "another"),
        (
            "another cluster's",
            changed(&|c| c.cluster = "default".parse().unwrap()),
            Code::BadCertificate,
            "another",
        ),
        ("over", changed(&|c| c.not_after_unix_s = now_s() - 7200), Code::CertificateExpired, "expired 72"),
        ("not begun", changed(&|c| c.not_before_unix_s = now_s() + 900), Code::CertificateExpired, "begins "),
    ];
    for (what, text, code, detail) in cases {
        let refusal = shows(text).await.unwrap_err();
        assert_eq!(refusal.code, code, "{what}");
        assert!(refusal.detail.as_deref().is_some_and(|text| text.contains(detail)), "{what}: {refusal:?}");
    }
    // Somebody else's certificate is of no use without his key.
    let thief = Node { key: SigningKey::from_bytes(&[3; 32]), certificate: Some(good.sign(&key)), ..alice };
    assert_eq!(thief.is_refused(away.info.http).await, Code::BadCertificate);
    away.stop().await.unwrap();
}

const CLUSTERS: &str = "/v1/clusters";

/// What is served, by `/v1/clusters` and by `/v1/status`: name, whether it is foreign, and who is present.
async fn served(server: &Running) -> Vec<(String, bool, u64)> {
    let row = |cluster: &Value| {
        let present = cluster["nodes_present"].as_u64().unwrap();
        (cluster["name"].as_str().unwrap().to_owned(), cluster["foreign"].as_bool().unwrap(), present)
    };
    let listed = get(CLUSTERS).bearer(ADMIN).send(server.info.http).await.json();
    let status = get("/v1/status").send(server.info.http).await.json();
    let rows = |list: &Value| list.as_array().unwrap().iter().map(row).collect::<Vec<_>>();
    assert_eq!(rows(&listed["items"]), rows(&status["clusters"]));
    rows(&listed["items"])
}

#[tokio::test]
async fn a_foreign_cluster_comes_and_goes_while_the_server_runs() {
    let key = SigningKey::from_bytes(&[42; 32]);
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--admin-token", ADMIN];
    let away = Running::start(config(dir.path(), &flags)).await.unwrap();
    let own = ("default".to_owned(), false, 0);
    assert_eq!(served(&away).await, std::slice::from_ref(&own));
    let alice = Node {
        cluster: "fleet".to_owned(),
        certificate: Some(
            Certificate {
                cluster: "fleet".parse().unwrap(),
                node: Node::new(1, "alice", &"a-token-of-its-home".parse().unwrap()).id(),
                name: "alice".parse().unwrap(),
                not_before_unix_s: now_s(),
                not_after_unix_s: now_s() + 3600,
                capabilities: Vec::new(),
            }
            .sign(&key),
        ),
        ..Node::new(1, "alice", &"a-token-of-its-home".parse().unwrap())
    };
    assert_eq!(alice.is_refused_at_once(away.info.http).await, Code::UnknownCluster);

    let public_key = PublicKey::from(&key).to_string();
    let fleet = json!({ "name": "fleet", "public_key": public_key });
    let ask = |method: Method, path: &str| call(method, path).bearer(ADMIN);
    let added = ask(Method::POST, CLUSTERS).json(&fleet).send(away.info.http).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!((&added.json()["public_key"], &added.json()["foreign"]), (&json!(public_key), &json!(true)));
    let mut visit = alice.joins(away.info.http).await;
    assert_eq!(served(&away).await, [own.clone(), ("fleet".to_owned(), true, 1)]);
    assert_eq!(ask(Method::GET, "/v1/clusters/fleet").send(away.info.http).await.json()["nodes_present"], 1);
    // The same again changes nothing, and nobody is disconnected.
    let again = ask(Method::POST, CLUSTERS).json(&fleet).send(away.info.http).await;
    assert_eq!((again.status.as_u16(), &again.json()["nodes_present"]), (200, &json!(1)));

    let other = PublicKey::from(&SigningKey::from_bytes(&[43; 32])).to_string();
    for (body, status, code) in [
        (json!({ "name": "fleet", "public_key": other }), 409, "foreign_cluster_known"),
        (json!({ "name": "default", "public_key": public_key }), 409, "own_cluster"),
        (json!({ "name": "no name", "public_key": public_key }), 422, "invalid"),
        (json!({ "name": "fleet2", "public_key": "short" }), 422, "invalid"),
    ] {
        let refused = ask(Method::POST, CLUSTERS).json(&body).send(away.info.http).await;
        refused.assert_problem(status, code);
    }
    for (path, status, code) in [
        ("/v1/clusters/default", 409, "own_cluster"),
        ("/v1/clusters/nowhere", 404, "unknown_cluster"),
        ("/v1/clusters/no%20name", 404, "unknown_cluster"),
    ] {
        ask(Method::DELETE, path).send(away.info.http).await.assert_problem(status, code);
    }

    for path in ["nodes", "seeds", "join-tokens", "secrets", "revocations"] {
        let path = format!("/v1/clusters/fleet/{path}");
        ask(Method::GET, &path).send(away.info.http).await.assert_problem(409, "foreign_cluster");
    }

    // It is in the registry.
    drop(visit);
    away.stop().await.unwrap();
    let away = Running::start(config(dir.path(), &flags)).await.unwrap();
    visit = alice.joins(away.info.http).await;
    let gone = ask(Method::DELETE, "/v1/clusters/fleet").send(away.info.http).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(visit.refused().await.code, Code::UnknownCluster);
    assert_eq!(alice.is_refused_at_once(away.info.http).await, Code::UnknownCluster);
    assert_eq!(served(&away).await, [own]);
    let log = get("/v1/audit?limit=500").bearer(ADMIN).send(away.info.http).await.json();
    let actions: Vec<&Value> =
        log["items"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    for action in ["cluster.add", "cluster.remove"] {
        assert_eq!(actions.iter().filter(|word| **word == action).count(), 1, "{actions:?}");
    }
    away.stop().await.unwrap();
}

/// A node that the operator removes at home is out at the cluster's other servers too, at once and for as long as it
/// has a certificate of before.
#[tokio::test]
async fn a_removed_member_is_out_everywhere() {
    let (home, _home_dir) = Running::fresh(&FLAGS).await;
    let flag = foreign(&home, "default").await;
    let (away, _away_dir) = Running::fresh(&["--foreign-cluster", &flag, "--admin-token", ADMIN]).await;
    let seed = json!({ "host": "127.0.0.1", "port": away.info.http.port() });
    let put = call(Method::PUT, "/v1/clusters/default/seeds/away").json(&seed).bearer(ADMIN);
    assert_eq!(put.send(home.info.http).await.status, 201);
    let mut nodes = [Node::new(1, "alice", &home.join_token()), Node::new(2, "bob", &home.join_token())];
    let mut visits = Vec::new();
    for node in &mut nodes {
        let (_, welcome) = joins(&home, node).await;
        node.certificate = Some(welcome.certificate.clone());
        visits.push(joins(&away, node).await.0);
    }
    let [alice, bob] = &nodes;
    // Strangers say so too, and are not believed.
    let path = "/v1/clusters/default/revocations";
    let told = |text: meetpoint_proto::wire::RevocationText| {
        call(Method::POST, path).json(&json!({ "revocations": [text] }))
    };
    let forged = meetpoint_proto::Revocation { node: bob.id(), until_unix_s: now_s() + 3600 };
    let forged = forged.sign(&"default".parse().unwrap(), &alice.key);
    told(forged.clone()).send(away.info.http).await.assert_problem(403, "bad_revocation");
    told(forged.clone()).send(home.info.http).await.assert_problem(409, "own_cluster");
    let many = json!({ "revocations": vec![forged; 17] });
    call(Method::POST, path).json(&many).send(away.info.http).await.assert_problem(422, "invalid");

    let remove = call(Method::DELETE, &format!("/v1/clusters/default/nodes/{}", alice.id())).bearer(ADMIN);
    assert_eq!(remove.send(home.info.http).await.status, 204);
    let (mut bobs, alices) = (visits.pop().unwrap(), visits.pop().unwrap());
    assert_eq!(alices.refused().await.code, Code::Removed);
    assert_eq!(alice.is_refused(away.info.http).await, Code::Removed);
    // Members that are there hear the cluster's own word.
    let heard = bobs.until(|message| match message {
        ServerMessage::Revoked(text) => Some(text),
        _ => None,
    });
    let heard = heard.await;
    assert_eq!(heard.id, alice.id());
    // The operator lets it in again: its fresh certificate is not one of before.
    let lift = call(Method::DELETE, &format!("{path}/{}", alice.id())).bearer(ADMIN);
    assert_eq!(lift.send(home.info.http).await.status, 204);
    let certificate = loop {
        let (_, welcome) = joins(&home, &mut Node { session: None, ..alice.clone() }).await;
        // Times are in seconds, and this may be the very second of the removal.
        if welcome.certificate.not_after_unix_s > heard.until_unix_s {
            break welcome.certificate.clone();
        }
    };
    let back = Node { certificate: Some(certificate), ..alice.clone() };
    drop(back.joins(away.info.http).await);
    assert_eq!(alice.is_refused(away.info.http).await, Code::Removed);
    away.stop().await.unwrap();
    home.stop().await.unwrap();
}

/// One that a flag names may take the place of this server's own, which comes back when it goes.
#[tokio::test]
async fn an_own_cluster_comes_back() {
    let key = PublicKey::from(&SigningKey::from_bytes(&[42; 32]));
    let flags = ["--admin-token", ADMIN, "--foreign-cluster", &format!("default={key}")];
    let (away, _dir) = Running::fresh(&flags).await;
    assert_eq!(served(&away).await, [("default".to_owned(), true, 0)]);
    let alice = Node::new(1, "alice", &away.join_token());
    assert_eq!(alice.is_refused_at_once(away.info.http).await, Code::NotHome);
    call(Method::DELETE, "/v1/clusters/default").bearer(ADMIN).send(away.info.http).await;
    assert_eq!(served(&away).await, [("default".to_owned(), false, 0)]);
    drop(alice.joins(away.info.http).await);
    away.stop().await.unwrap();
}
