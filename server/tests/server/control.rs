//! The control channel, by hand: joins, and everything that must be refused with a typed error
//! while the server lives on.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures_util::future::join_all;
use hyper::Method;
use meetpoint_proto::id::{Nonce, Signature};
use meetpoint_proto::wire::{ClientMessage, Hello, MAX_FRAME_BYTES, PROTOCOL_VERSION, ServerMessage, encode};
use meetpoint_proto::{Certificate, ClusterNetwork, Code, JoinToken, NetworkType};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{call, get};
use crate::node::{Control, Node};
use crate::running::{Running, config};

const NODES: &str = "/v1/clusters/default/nodes";

#[tokio::test]
async fn a_node_joins_is_listed_and_leaves() {
    let (server, _dir) = Running::fresh(&[]).await;
    let alice = Node::new(1, "alice", &server.join_token());
    let mut control = Control::open(server.info.http).await;
    let hello = alice.hello();
    let challenge = control.challenge(&hello).await;
    control.send(&ClientMessage::Proof(alice.proof(&hello, &challenge))).await;
    let welcome = control
        .until(|message| match message {
            ServerMessage::Welcome(welcome) => Some(welcome),
            _ => None,
        })
        .await;
    assert_eq!(welcome.kind, ClusterNetwork::Dynamic);
    assert!(welcome.stun.is_none(), "a private cluster has no use for STUN");
    let now_s = welcome.now_unix_ms / 1000;
    let certificate = Certificate::verify(&welcome.certificate, &challenge.cluster_key, now_s).unwrap();
    assert_eq!((certificate.node, certificate.name.as_str()), (alice.id(), "alice"));
    let class = control
        .until(|message| match message {
            ServerMessage::Classified { class, .. } => Some(class),
            _ => None,
        })
        .await;
    assert_eq!(class.as_str(), "Loopback");

    let page = get(NODES).admin(&server).await.json();
    let node = &page["items"][0];
    assert_eq!((&node["id"], &node["name"]), (&json!(alice.id().to_string()), &json!("alice")));
    assert_eq!(node["presence"]["session"], welcome.session.to_string());
    let status = get("/v1/status").send(server.info.http).await.json();
    assert_eq!(status["clusters"][0]["nodes_present"], 1);

    control.send(&ClientMessage::Leave).await;
    control.until(|message| matches!(message, ServerMessage::Left).then_some(())).await;
    assert_eq!(control.next().await, None);
    flush_writes(&server).await;
    let node = get(&format!("{NODES}/{}", alice.id())).admin(&server).await.json();
    assert_eq!((&node["presence"], &node["class"]), (&json!(null), &json!("Loopback")));
    server.stop().await.unwrap();
}

/// The writer works in order: when this write is done, so are those before it.
async fn flush_writes(server: &Running) {
    let token = call(Method::POST, "/v1/clusters/default/join-tokens").json(&json!({})).admin(server).await;
    assert_eq!(token.status.as_u16(), 201);
}

#[tokio::test]
async fn an_ephemeral_node_is_forgotten_when_it_leaves() {
    let (server, _dir) = Running::fresh(&[]).await;
    let guest = Node::new(1, "guest", &server.join_token()).ephemeral();
    let mut control = guest.joins(server.info.http).await;
    control.send(&ClientMessage::Leave).await;
    control.until(|message| matches!(message, ServerMessage::Left).then_some(())).await;
    assert_eq!(control.next().await, None);
    flush_writes(&server).await;
    get(&format!("{NODES}/{}", guest.id())).admin(&server).await.assert_problem(404, "unknown_node");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_removed_node_is_told_and_gone() {
    let (server, _dir) = Running::fresh(&[]).await;
    let alice = Node::new(1, "alice", &server.join_token());
    let control = alice.joins(server.info.http).await;
    let path = format!("{NODES}/{}", alice.id());
    assert_eq!(call(Method::DELETE, &path).admin(&server).await.status.as_u16(), 204);
    assert_eq!(control.refused().await.code, Code::Removed);
    get(&path).admin(&server).await.assert_problem(404, "unknown_node");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn shutdown_is_announced() {
    let (server, _dir) = Running::fresh(&[]).await;
    let control = Node::new(1, "alice", &server.join_token()).joins(server.info.http).await;
    let (refusal, stopped) = tokio::join!(control.refused(), server.stop());
    assert_eq!(refusal.code, Code::Shutdown);
    stopped.unwrap();
}

/// What a bad hello is answered.
async fn hello_refused(server: &Running, change: impl FnOnce(&mut Hello)) -> Code {
    let mut hello = Node::new(9, "mallory", &server.join_token()).hello();
    change(&mut hello);
    let mut control = Control::open(server.info.http).await;
    control.send(&ClientMessage::Hello(Box::new(hello))).await;
    control.refused().await.code
}

#[tokio::test]
async fn bad_hellos_are_refused() {
    let (server, _dir) = Running::fresh(&[]).await;
    let check = async |expect: Code, change: &dyn Fn(&mut Hello)| {
        assert_eq!(hello_refused(&server, |hello| change(hello)).await, expect);
    };
    check(Code::UnknownCluster, &|hello| hello.cluster = "nope".to_owned()).await;
    check(Code::UnknownCluster, &|hello| hello.cluster = "../default".to_owned()).await;
    for name in ["", "a\u{0}b", "a\nb", "<script>", "../../etc", "-a", "\u{202e}evil", &"a".repeat(64)] {
        check(Code::BadName, &|hello| hello.name = name.to_owned()).await;
    }
    check(Code::ProtocolVersion, &|hello| hello.protocol = PROTOCOL_VERSION + 1).await;
    check(Code::BadMessage, &|hello| hello.version = "x".repeat(65)).await;
    check(Code::BadMessage, &|hello| hello.version = "a\u{1b}[31m".to_owned()).await;
    check(Code::TokenRequired, &|hello| hello.token = None).await;
    check(Code::ClusterTypeMismatch, &|hello| hello.expect = Some(ClusterNetwork::Public)).await;
    check(Code::DeclaredPublicButPrivate, &|hello| hello.declared = Some(NetworkType::Public)).await;
    check(Code::NodeAddrMismatch, &|hello| hello.node_addr = Some("20.0.0.1:1".parse().unwrap())).await;
    assert_eq!(get("/readyz").send(server.info.http).await.status.as_u16(), 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_proofs_are_refused() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (addr, token) = (server.info.http, server.join_token());
    let alice = Node::new(1, "alice", &token);

    let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
    assert_eq!(Node::new(2, "bob", &stranger).is_refused(addr).await, Code::BadToken);

    // The token's id is public enough; holding the token is what counts.
    let mut control = Control::open(addr).await;
    let hello = alice.hello();
    let challenge = control.challenge(&hello).await;
    let mut proof = alice.proof(&hello, &challenge);
    proof.admission = Node::new(1, "alice", &stranger).proof(&hello, &challenge).admission;
    control.send(&ClientMessage::Proof(proof)).await;
    assert_eq!(control.refused().await.code, Code::BadToken);

    // Signed by another key than the one of the id.
    let mut control = Control::open(addr).await;
    let challenge = control.challenge(&hello).await;
    let mut proof = alice.proof(&hello, &challenge);
    let impostor = Node { key: SigningKey::from_bytes(&[7; 32]), ..alice.clone() };
    proof.node = impostor.proof(&hello, &challenge).node;
    control.send(&ClientMessage::Proof(proof)).await;
    assert_eq!(control.refused().await.code, Code::BadSignature);

    // The node's signature in the admission's place: the domains keep them apart.
    let mut control = Control::open(addr).await;
    let challenge = control.challenge(&hello).await;
    let mut proof = alice.proof(&hello, &challenge);
    std::mem::swap(&mut proof.node, proof.admission.as_mut().unwrap());
    control.send(&ClientMessage::Proof(proof)).await;
    assert_eq!(control.refused().await.code, Code::BadSignature);

    // A proof that was good in another handshake.
    let mut first = Control::open(addr).await;
    let challenge = first.challenge(&hello).await;
    let replayed = alice.proof(&hello, &challenge);
    let mut second = Control::open(addr).await;
    second.challenge(&hello).await;
    second.send(&ClientMessage::Proof(replayed)).await;
    assert_eq!(second.refused().await.code, Code::BadSignature);

    // The same signature in another dress: s + L (attack: malleability).
    let mut control = Control::open(addr).await;
    let challenge = control.challenge(&hello).await;
    let mut proof = alice.proof(&hello, &challenge);
    proof.node = malleated(&proof.node);
    control.send(&ClientMessage::Proof(proof)).await;
    assert_eq!(control.refused().await.code, Code::BadSignature);

    // No admission at all.
    let mut control = Control::open(addr).await;
    let challenge = control.challenge(&hello).await;
    let mut proof = alice.proof(&hello, &challenge);
    proof.admission = None;
    control.send(&ClientMessage::Proof(proof)).await;
    assert_eq!(control.refused().await.code, Code::TokenRequired);

    let page = get(NODES).admin(&server).await.json();
    assert_eq!(page["items"], json!([]), "nobody was stored");
    drop(alice.joins(addr).await);
    server.stop().await.unwrap();
}

/// Adds the group's order to the scalar half of a signature (RFC 8032, section 5.1).
fn malleated(signature: &Signature) -> Signature {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut bytes = *signature.as_bytes();
    let mut carry = 0_u16;
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = (carry & 0xff) as u8;
        carry >>= 8;
    }
    Signature::from_bytes(bytes)
}

#[tokio::test]
async fn bad_frames_are_refused() {
    let (server, _dir) = Running::fresh(&[]).await;
    let alice = Node::new(1, "alice", &server.join_token());
    let deep = format!("{{\"type\":\"hello\",\"x\":{}", "[".repeat(20_000));
    let hello = encode(&ClientMessage::Hello(Box::new(alice.hello())));
    let early = ClientMessage::Ping { seq: 1 };
    let cases = [
        (Message::text(""), Code::BadMessage),
        (Message::text("{"), Code::BadMessage),
        (Message::text("{\"type\":\"nonsense\"}"), Code::BadMessage),
        (Message::text("{\"type\":\"hello\"}"), Code::BadMessage),
        (Message::text(&hello[..hello.len() - 9]), Code::BadMessage),
        (Message::text(deep), Code::BadMessage),
        (Message::binary(hello.into_bytes()), Code::BadMessage),
        (Message::text(" ".repeat(MAX_FRAME_BYTES + 1)), Code::FrameTooLarge),
        (Message::text("a".repeat(2 << 20)), Code::FrameTooLarge),
        (Message::text(encode(&early)), Code::OutOfOrder),
        (Message::text(encode(&ClientMessage::Leave)), Code::OutOfOrder),
    ];
    for (frame, expect) in cases {
        let mut control = Control::open(server.info.http).await;
        control.frame(frame.clone()).await;
        assert_eq!(control.refused().await.code, expect, "{frame:.60?}");
    }
    // A member is bound to the same words.
    let mut control = alice.joins(server.info.http).await;
    control.send(&ClientMessage::Hello(Box::new(alice.hello()))).await;
    assert_eq!(control.refused().await.code, Code::OutOfOrder);
    let mut control = alice.joins(server.info.http).await;
    control.frame(Message::text("{")).await;
    assert_eq!(control.refused().await.code, Code::BadMessage);
    drop(alice.joins(server.info.http).await);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn frames_that_break_the_websocket_protocol_are_refused() {
    let (server, _dir) = Running::fresh(&[]).await;
    // RFC 6455, section 5.2: first byte FIN and opcode, second MASK and length, then the mask.
    let announced_huge = [&[0x81, 0xff][..], &(u64::MAX >> 1).to_be_bytes(), &[0; 4]].concat();
    let announced_64k = [&[0x81, 0xff][..], &(MAX_FRAME_BYTES as u64 + 1).to_be_bytes(), &[0; 4]].concat();
    let fragment = [&[0x00, 0xfe, 0x7f, 0xff, 0, 0, 0, 0][..], &vec![b' '; 0x7fff]].concat();
    let fragments = [&[0x01, 0x80, 0, 0, 0, 0][..], &fragment, &fragment, &fragment].concat();
    let cases: [(&str, &[u8], Code); 8] = [
        ("not masked", &[0x81, 0x01, b'a'], Code::BadMessage),
        ("reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], Code::BadMessage),
        ("reserved bit", &[0xc1, 0x80, 0, 0, 0, 0], Code::BadMessage),
        ("no UTF-8", &[0x81, 0x81, 0, 0, 0, 0, 0xff], Code::BadMessage),
        ("fragmented ping", &[0x09, 0x80, 0, 0, 0, 0], Code::BadMessage),
        ("exabytes announced", &announced_huge, Code::FrameTooLarge),
        ("one byte too many announced", &announced_64k, Code::FrameTooLarge),
        ("too many fragments", &fragments, Code::FrameTooLarge),
    ];
    for (what, bytes, expect) in cases {
        let mut control = Control::open(server.info.http).await;
        control.raw(bytes).await;
        assert_eq!(control.refused().await.code, expect, "{what}");
    }
    // A frame that is cut off by the connection's end harms nobody.
    let mut control = Control::open(server.info.http).await;
    control.raw(&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0, b'{']).await;
    drop(control);
    drop(Node::new(1, "alice", &server.join_token()).joins(server.info.http).await);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_stalled_handshake_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &[]);
    config.limits.handshake_timeout = Duration::from_millis(100);
    let server = Running::start(config).await.unwrap();
    let silent = Control::open(server.info.http).await;
    assert_eq!(silent.refused().await.code, Code::HandshakeTimeout);
    let mut halfway = Control::open(server.info.http).await;
    halfway.challenge(&Node::new(1, "alice", &server.join_token()).hello()).await;
    assert_eq!(halfway.refused().await.code, Code::HandshakeTimeout);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_name_belongs_to_one_node() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (addr, token) = (server.info.http, server.join_token());
    let alice = Node::new(1, "same", &token);
    let control = alice.joins(addr).await;
    assert_eq!(Node::new(2, "same", &token).is_refused(addr).await, Code::NameTaken);
    drop(control);
    // A registered node keeps its name while it is away.
    assert_eq!(Node::new(2, "same", &token).is_refused(addr).await, Code::NameTaken);
    // It may change it, and then the old one is free.
    let renamed = Node { name: "other".to_owned(), ..alice };
    drop(renamed.joins(addr).await);
    drop(Node::new(2, "same", &token).joins(addr).await);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_absent_ephemeral_node_gives_its_name_up() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (addr, token) = (server.info.http, server.join_token());
    let first = Node::new(1, "guest", &token).ephemeral();
    let second = Node::new(2, "guest", &token).ephemeral();
    let control = first.joins(addr).await;
    assert_eq!(second.is_refused(addr).await, Code::NameTaken);
    // It does not say goodbye, so the registry still knows it.
    drop(control);
    let present = async || get("/v1/status").send(addr).await.json()["clusters"][0]["nodes_present"].clone();
    while present().await != 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(second.joins(addr).await);
    get(&format!("{NODES}/{}", first.id())).admin(&server).await.assert_problem(404, "unknown_node");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn one_key_has_one_session() {
    let (server, _dir) = Running::fresh(&[]).await;
    let alice = Node::new(1, "alice", &server.join_token());
    let older = alice.joins(server.info.http).await;
    let _newer = alice.joins(server.info.http).await;
    assert_eq!(older.refused().await.code, Code::Replaced);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_open_cluster_needs_no_token() {
    let (server, _dir) = Running::fresh(&["--open-join"]).await;
    let open = Node { token: None, ..Node::new(1, "alice", &server.join_token()) };
    drop(open.joins(server.info.http).await);
    // A token that is given is checked all the same.
    let stranger: JoinToken = "a-token-nobody-gave".parse().unwrap();
    assert_eq!(Node::new(2, "bob", &stranger).is_refused(server.info.http).await, Code::BadToken);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn many_join_at_once() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (addr, token) = (server.info.http, server.join_token());
    let nodes: Vec<Node> = (1..=100).map(|n| Node::new(n, &format!("n{n}"), &token)).collect();
    let controls = join_all(nodes.iter().map(|node| node.joins(addr))).await;
    let status = get("/v1/status").send(addr).await.json();
    assert_eq!(status["clusters"][0]["nodes_present"], 100);
    let cluster = get("/v1/clusters/default").admin(&server).await.json();
    assert_eq!(cluster["nodes"], 100);
    drop(controls);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn strangers_do_not_crowd_members_out() {
    let (server, _dir) = Running::fresh(&[]).await;
    let (addr, token) = (server.info.http, server.join_token());
    let mut strangers = Vec::new();
    let refusal = loop {
        let mut control = Control::open(addr).await;
        // A ping shows whether the connection was let in.
        let hello = Hello { nonce: Nonce::from_bytes([1; 32]), ..Node::new(3, "stranger", &token).hello() };
        control.send(&ClientMessage::Hello(Box::new(hello))).await;
        match control.next().await {
            Some(ServerMessage::Challenge { .. }) => strangers.push(control),
            Some(ServerMessage::Rejected(refusal)) => break refusal,
            other => panic!("{other:?}"),
        }
        assert!(strangers.len() < 2_000);
    };
    assert_eq!(refusal.code, Code::ServerFull);
    assert!(refusal.retry_after_ms.is_some());
    assert_eq!(get("/healthz").send(addr).await.status.as_u16(), 200);
    strangers.clear();
    // Places are given back as the server notices.
    let alice = Node::new(1, "alice", &token);
    loop {
        match Control::open(addr).await.join(&alice).await {
            Ok(_) => break,
            Err(refusal) => assert_eq!(refusal.code, Code::ServerFull),
        }
    }
    server.stop().await.unwrap();
}
