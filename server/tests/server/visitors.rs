//! A cluster with two servers: its home, which holds its key, and one that has the public half only.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use meetpoint_proto::wire::{CertificateText, ClientMessage, ServerMessage};
use meetpoint_proto::{Certificate, Code, JoinToken, PublicKey};

use crate::client::get;
use crate::identity::{ADMIN, FLAGS, joins};
use crate::node::{Control, Node};
use crate::running::Running;

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
        control.send(&ClientMessage::Candidates { host }).await;
    }
    at_away.send(&ClientMessage::Connect { request: 7, peer: "bob".to_owned(), wait: true }).await;
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
