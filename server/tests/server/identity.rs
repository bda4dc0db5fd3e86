//! Who may join, who may come back, and who may not.

use hyper::Method;
use meetpoint_proto::wire::{ClientMessage, Profile, ServerMessage, Welcome};
use meetpoint_proto::{Certificate, ClusterSecret, Code, PublicKey, Revocation};
use serde_json::{Value, json};

use crate::client::{call, get};
use crate::node::{Control, Node};
use crate::running::{Running, config};

pub(crate) const ADMIN: &str = "an-admin-token-of-the-test";
pub(crate) const FLAGS: [&str; 2] = ["--admin-token", ADMIN];
const CLUSTER: &str = "/v1/clusters/default";

/// Asks as the operator, and expects success.
pub(crate) async fn admin(server: &Running, method: Method, path: &str, body: &Value) -> Value {
    let call = call(method, path).json(body).bearer(ADMIN);
    let reply = call.send(server.info.http).await;
    assert!(reply.status.is_success(), "{path}: {reply:?}");
    if reply.text.is_empty() { Value::Null } else { reply.json() }
}

pub(crate) async fn delete(server: &Running, path: &str) {
    admin(server, Method::DELETE, path, &Value::Null).await;
}

/// Joins, and keeps the session it is given.
pub(crate) async fn joins(server: &Running, node: &mut Node) -> (Control, Box<Welcome>) {
    let mut control = Control::open(server.info.http).await;
    let welcome = control.join(node).await.unwrap_or_else(|refusal| panic!("{}: {refusal:?}", node.name));
    node.session = welcome.session_token.or(node.session);
    (control, welcome)
}

#[tokio::test]
async fn a_node_comes_back_after_a_restart_without_its_token() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let path = format!("{CLUSTER}/join-tokens");
    let made = admin(&server, Method::POST, &path, &json!({ "max_uses": 1, "expires_in_s": 3600 })).await;
    let token = made["secret"].as_str().unwrap().parse().unwrap();
    let mut alice = Node::new(1, "alice", &token);
    let (control, _) = joins(&server, &mut alice).await;
    let id = made["token"]["id"].as_str().unwrap();
    delete(&server, &format!("{path}/{id}")).await;
    drop(control);
    server.stop().await.unwrap();

    let server = Running::start(config(dir.path(), &FLAGS)).await.unwrap();
    let fresh = Node { session: None, ..alice.clone() };
    assert_eq!(fresh.is_refused(server.info.http).await, Code::BadToken);
    alice.token = None;
    let (control, welcome) = joins(&server, &mut alice).await;
    assert_eq!(welcome.session_token, None, "the session goes on");

    // The operator may take it away.
    delete(&server, &format!("{CLUSTER}/nodes/{}/session", alice.id())).await;
    assert_eq!(control.refused().await.code, Code::SessionRevoked);
    assert_eq!(alice.is_refused(server.info.http).await, Code::TokenRequired);
    alice.token = Some(server.join_token());
    joins(&server, &mut alice).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn nodes_join_by_a_cluster_secret() {
    let (server, _dir) = Running::fresh(&FLAGS).await;
    let path = format!("{CLUSTER}/secrets");
    let made = admin(&server, Method::POST, &path, &json!({})).await;
    let secret: ClusterSecret = made["value"].as_str().unwrap().parse().unwrap();
    assert_eq!(made["secret"]["id"], secret.id(&"default".parse().unwrap()).to_string());
    let given = ClusterSecret::from_bytes([7; 32]);
    let body = json!({ "secret": given.reveal() });
    let taken = admin(&server, Method::POST, &path, &body).await;
    assert_eq!(taken["value"], Value::Null, "what was given is not shown");
    call(Method::POST, &path)
        .json(&body)
        .bearer(ADMIN)
        .send(server.info.http)
        .await
        .assert_problem(409, "known_secret");
    let bad = json!({ "secret": "too short" });
    call(Method::POST, &path)
        .json(&bad)
        .bearer(ADMIN)
        .send(server.info.http)
        .await
        .assert_problem(422, "invalid");
    let list = get(&path).bearer(ADMIN).send(server.info.http).await;
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 2);
    for text in [secret.reveal(), given.reveal()] {
        assert!(!list.text.contains(&text[4..]), "{list:?}");
    }

    let by = |seed: u8, name: &str, secrets: &[&ClusterSecret]| Node {
        token: None,
        secrets: secrets.iter().map(|secret| (*secret).clone()).collect(),
        ..Node::new(seed, name, &server.join_token())
    };
    let addr = server.info.http;
    drop(by(1, "a", &[&secret]).joins(addr).await);
    drop(by(2, "b", &[&given]).joins(addr).await);
    let stranger = ClusterSecret::from_bytes([8; 32]);
    assert_eq!(by(3, "c", &[&stranger]).is_refused(addr).await, Code::BadSecret);
    assert_eq!(by(3, "c", &[&secret; 9]).is_refused_at_once(addr).await, Code::BadMessage);
    // A proof for another join, or fewer proofs than announced.
    let node = by(4, "d", &[&secret]);
    for cut in [false, true] {
        let mut control = Control::open(addr).await;
        let hello = node.hello();
        let challenge = control.challenge(&hello).await;
        let mut proof = node.proof(&hello, &challenge);
        if cut {
            proof.secrets.clear();
        } else {
            let other = Control::open(addr).await.challenge(&hello).await;
            proof.secrets = node.proof(&hello, &other).secrets;
        }
        control.send(&ClientMessage::Proof(proof)).await;
        let expect = if cut { Code::BadMessage } else { Code::BadSecret };
        assert_eq!(control.refused().await.code, expect, "{cut}");
    }
    delete(&server, &format!("{path}/{}", made["secret"]["id"].as_str().unwrap())).await;
    assert_eq!(by(5, "e", &[&secret]).is_refused(addr).await, Code::BadSecret);
    drop(by(5, "e", &[&secret, &given]).joins(addr).await);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_removed_node_is_out_and_everybody_knows() {
    let (server, dir) = Running::fresh(&FLAGS).await;
    let token = server.join_token();
    let mut mallory = Node::new(1, "mallory", &token);
    let (control, _) = joins(&server, &mut mallory).await;
    let mut alice = Node::new(2, "alice", &token);
    let (mut witness, _) = joins(&server, &mut alice).await;
    delete(&server, &format!("{CLUSTER}/nodes/{}", mallory.id())).await;
    assert_eq!(control.refused().await.code, Code::Removed);
    let told = witness
        .until(|message| match message {
            ServerMessage::Revoked(told) => Some(told),
            _ => None,
        })
        .await;
    let shown = get(CLUSTER).bearer(ADMIN).send(server.info.http).await.json();
    let key: PublicKey = shown["public_key"].as_str().unwrap().parse().unwrap();
    let revocation = Revocation::verify(&told, &"default".parse().unwrap(), &key).unwrap();
    assert_eq!(revocation.node, mallory.id());
    // Neither its session nor a good token helps, nor a restart.
    assert_eq!(mallory.is_refused(server.info.http).await, Code::Removed);
    drop(witness);
    server.stop().await.unwrap();
    let server = Running::start(config(dir.path(), &FLAGS)).await.unwrap();
    assert_eq!(mallory.is_refused(server.info.http).await, Code::Removed);
    let (_, welcome) = joins(&server, &mut alice).await;
    assert_eq!(welcome.revoked, [told]);
    let path = format!("{CLUSTER}/revocations");
    let listed = get(&path).bearer(ADMIN).send(server.info.http).await.json();
    assert_eq!(listed["items"][0]["name"], "mallory");
    // Until the operator lifts it.
    let path = format!("{path}/{}", mallory.id());
    delete(&server, &path).await;
    let again = call(Method::DELETE, &path).bearer(ADMIN).send(server.info.http).await;
    again.assert_problem(404, "unknown_revocation");
    joins(&server, &mut mallory).await;
    let (_, welcome) = joins(&server, &mut alice).await;
    assert_eq!(welcome.revoked, []);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_membership_is_renewed_on_the_way() {
    let (server, _dir) = Running::fresh(&FLAGS).await;
    let mut alice = Node::new(1, "alice", &server.join_token());
    alice.profile.capabilities = vec!["gateway".to_owned()];
    let (mut control, welcome) = joins(&server, &mut alice).await;
    control.send(&ClientMessage::Renew).await;
    let renewal = control
        .until(|message| match message {
            ServerMessage::Certificate(renewal) => Some(renewal),
            _ => None,
        })
        .await;
    let shown = get(CLUSTER).bearer(ADMIN).send(server.info.http).await.json();
    let key: PublicKey = shown["public_key"].as_str().unwrap().parse().unwrap();
    let now_s = welcome.now_unix_ms / 1000;
    let fresh = Certificate::verify(&renewal.certificate, &key, now_s).unwrap();
    let first = Certificate::verify(&welcome.certificate, &key, now_s).unwrap();
    assert!(fresh.not_after_unix_s >= first.not_after_unix_s);
    assert_eq!(
        (fresh.node, &fresh.name, &fresh.capabilities),
        (first.node, &first.name, &first.capabilities)
    );
    assert_eq!(fresh.capabilities[0].as_str(), "gateway");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_registry_shows_what_a_node_says_of_itself() {
    let (server, _dir) = Running::fresh(&FLAGS).await;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut alice = Node::new(1, "alice", &server.join_token());
    alice.profile = Profile {
        capabilities: vec!["relay".to_owned(), "gateway".to_owned()],
        datacenter: Some("fra1".to_owned()),
        rack: Some("r7".to_owned()),
        metadata: [pair("owner", "Zoë, <ops>"), pair("empty", "")].into(),
    };
    drop(joins(&server, &mut alice).await);
    let node =
        get(&format!("{CLUSTER}/nodes/{}", alice.id())).bearer(ADMIN).send(server.info.http).await.json();
    assert_eq!(node["capabilities"], json!(["relay", "gateway"]));
    assert_eq!((&node["datacenter"], &node["rack"]), (&json!("fra1"), &json!("r7")));
    assert_eq!(node["metadata"], json!({ "owner": "Zoë, <ops>", "empty": "" }));
    assert!(node["session_expires_unix_ms"].is_i64());

    let many =
        |count: usize, len: usize| (0..count).map(|n| pair(&format!("k{n}"), &"v".repeat(len))).collect();
    let bad: [fn(&mut Profile); 5] = [
        |profile| profile.capabilities = vec!["a b".to_owned()],
        |profile| profile.capabilities = vec!["twice".to_owned(); 2],
        |profile| profile.datacenter = Some("\u{1b}[2J".to_owned()),
        |profile| profile.metadata = [("k".to_owned(), "a\nb".to_owned())].into(),
        |profile| profile.metadata = [("a b".to_owned(), String::new())].into(),
    ];
    for change in bad {
        let mut profile = Profile::default();
        change(&mut profile);
        refuses_profile(&server, profile).await;
    }
    refuses_profile(&server, Profile { metadata: many(17, 1), ..Profile::default() }).await;
    refuses_profile(&server, Profile { metadata: many(16, 63), ..Profile::default() }).await;
    let most = Profile { metadata: many(16, 61), ..Profile::default() };
    drop(joins(&server, &mut Node { profile: most, ..alice }).await);
    server.stop().await.unwrap();
}

async fn refuses_profile(server: &Running, profile: Profile) {
    let node = Node { profile, ..Node::new(9, "mallory", &server.join_token()) };
    assert_eq!(node.is_refused_at_once(server.info.http).await, Code::BadMessage, "{:?}", node.profile);
}
