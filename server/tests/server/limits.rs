//! Who comes too often: REST requests, failing joins, introductions, connections; and whose word about
//! where somebody comes from counts. Each attack first succeeds where its defence is missing.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_proto::wire::{ClientMessage, Refusal, ServerMessage};
use meetpoint_proto::{Code, JoinToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Reply, call, get};
use crate::node::{Control, Node};
use crate::running::{Running, config};

const STATUS: &str = "/v1/status";
const CLUSTERS: &str = "/v1/clusters";
const NODES: &str = "/v1/clusters/default/nodes";
/// Longer than anything here may take; what waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The numbers of a `RateLimit` header, which a caller is told with each answer.
fn left(reply: &Reply) -> (u32, u64) {
    let state = reply.header("ratelimit").strip_prefix("\"rest\";r=").unwrap_or_else(|| panic!("{reply:?}"));
    let (remaining, reset) = state.split_once(";t=").unwrap();
    (remaining.parse().unwrap(), reset.parse().unwrap())
}

#[tokio::test]
async fn rest_tells_what_is_left_and_when_to_come_again() {
    let flags = ["--limit-rest", "3/60s", "--limit-rest-block", "2/300s"];
    let (server, _dir) = Running::fresh(&flags).await;
    let http = server.info.http;
    for remaining in [2, 1, 0] {
        // What is not found and what is not allowed counts like the rest.
        let path = ["/nowhere", CLUSTERS, STATUS][remaining as usize];
        let reply = get(path).send(http).await;
        assert_ne!(reply.status.as_u16(), 429);
        assert_eq!(reply.header("ratelimit-policy"), "\"rest\";q=3;w=60");
        let (told, reset) = left(&reply);
        assert_eq!(told, remaining);
        assert!((1..=60).contains(&reset), "{reply:?}");
    }
    let wait = |reply: &Reply| {
        reply.assert_problem(429, "rate_limited");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(!reply.header("x-request-id").is_empty());
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert_eq!(left(reply), (0, wait));
        wait
    };
    assert!((1..=60).contains(&wait(&get(STATUS).send(http).await)), "until the window ends");
    for _ in 0..2 {
        assert!((200..=300).contains(&wait(&get("/docs/").send(http).await)), "a block");
    }
    // Those who look after the server are not concerned, wherever they are.
    for path in ["/healthz", "/readyz"] {
        let reply = get(path).send(http).await;
        assert_eq!((reply.status.as_u16(), reply.header("ratelimit")), (200, ""), "{path}");
    }
    let reply = get(CLUSTERS).admin(&server).await;
    assert_eq!((reply.status.as_u16(), left(&reply).0), (200, 2));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_window_ends() {
    let (server, _dir) = Running::fresh(&["--limit-rest", "1/1s", "--limit-rest-block", "off"]).await;
    assert_eq!(get(STATUS).send(server.info.http).await.status.as_u16(), 200);
    // On a busy machine a second may pass between two requests, and then neither is one too many.
    let until = async |status: u16| {
        let asked = async {
            while get(STATUS).send(server.info.http).await.status.as_u16() != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never {status}"));
    };
    until(429).await;
    until(200).await;
    server.stop().await.unwrap();
}

/// How many of so many requests are heard, each with another token that is none.
async fn junk_heard(server: &Running, tries: u32) -> u32 {
    let mut heard = 0;
    for n in 0..tries {
        let reply = get(CLUSTERS).bearer(&format!("junk-token-number-{n:08}")).send(server.info.http).await;
        match reply.status.as_u16() {
            401 => heard += 1,
            429 => {}
            other => panic!("{other}: {reply:?}"),
        }
    }
    heard
}

/// Attack: a new token with each request, so that each request begins a new count.
#[tokio::test]
async fn junk_credentials_are_no_way_around_the_limit() {
    let flags = ["--limit-rest", "5/300s", "--limit-rest-block", "off"];
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &flags);
    config.access_limits.counts_presented_tokens = true;
    let careless = Running::start(config).await.unwrap();
    assert_eq!(junk_heard(&careless, 20).await, 20, "the attack itself does not work");
    careless.stop().await.unwrap();

    let (server, _dir) = Running::fresh(&flags).await;
    assert_eq!(junk_heard(&server, 20).await, 5);
    // Nothing of it is the operator's, though he shares the address.
    for remaining in (0..5).rev() {
        let reply = get(CLUSTERS).admin(&server).await;
        assert_eq!((reply.status.as_u16(), left(&reply).0), (200, remaining));
    }
    // Nor is his limit anybody else's.
    get(CLUSTERS).admin(&server).await.assert_problem(429, "rate_limited");
    server.stop().await.unwrap();
}

/// Tries to join with each of these tokens until one is good; the refusals before.
async fn guess(server: &Running, tokens: impl Iterator<Item = JoinToken>) -> (Vec<Code>, bool) {
    let mut refusals = Vec::new();
    for (n, token) in tokens.enumerate() {
        // Each time another key: the block must not hang on the guesser's own.
        let guesser = Node::new(100 + n as u8, "mallory", &token);
        match Control::open(server.info.http).await.join(&guesser).await {
            Ok(_) => return (refusals, true),
            Err(refusal) => refusals.push(refusal.code),
        }
    }
    (refusals, false)
}

fn weak_token(n: u32) -> JoinToken {
    format!("a-guessable-token-{n}").parse().unwrap()
}

/// Attack: the operator chose a token that can be guessed, and there is time to try them all.
#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let token = weak_token(60);
    let flags = ["--join-token", token.reveal()];
    let open = [&flags[..], &["--limit-join-failures", "1000000/1s"]].concat();
    let (careless, _dir) = Running::fresh(&open).await;
    let (refusals, is_in) = guess(&careless, (0..80).map(weak_token)).await;
    assert!(is_in && refusals.len() == 60, "the attack itself does not work: {refusals:?}");
    careless.stop().await.unwrap();

    let (server, _dir) = Running::fresh(&flags).await;
    let (refusals, is_in) = guess(&server, (0..80).map(weak_token)).await;
    assert!(!is_in);
    assert_eq!(refusals[..20], [Code::BadToken; 20]);
    assert_eq!(refusals[20..], [Code::RateLimited; 60], "a good guess is no better than a bad one");
    // REST is not concerned.
    assert_eq!(get(STATUS).send(server.info.http).await.status.as_u16(), 200);
    server.stop().await.unwrap();
}

/// Whoever shares the address with a guesser: members come and go, others wait and are told how long.
#[tokio::test]
async fn a_guesser_does_not_lock_his_neighbours_out() {
    let flags = ["--limit-join-failures", "5/2s", "--limit-join-failures-block", "off"];
    let (server, _dir) = Running::fresh(&flags).await;
    let (http, token) = (server.info.http, server.join_token());
    let member = Node::new(1, "member", &token);
    drop(member.joins(http).await);
    let newcomer = Node::new(2, "newcomer", &token);
    let wrong = || (0..5).map(weak_token);
    let refusal = loop {
        guess(&server, wrong()).await;
        match Control::open(http).await.join(&newcomer).await {
            // On a machine so slow that the window was over: once more.
            Ok(_) => assert!(
                call(hyper::Method::DELETE, &format!("{NODES}/{}", newcomer.id()))
                    .admin(&server)
                    .await
                    .status
                    .is_success()
            ),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, Code::RateLimited);
    assert!(refusal.retry_after_ms.is_some_and(|ms| (1..=2_000).contains(&ms)), "{refusal:?}");
    // A member shows its key, and what it joins with has to be good all the same.
    drop(member.joins(http).await);
    let lapsed = Node { token: Some(weak_token(1)), ..member.clone() };
    assert_eq!(lapsed.is_refused(http).await, Code::BadToken);
    // Whose key is known but who can't sign with it is no member.
    let hello = member.hello();
    let mut control = Control::open(http).await;
    let challenge = control.challenge(&hello).await;
    let mut proof = member.proof(&hello, &challenge);
    proof.node = newcomer.proof(&hello, &challenge).node;
    control.send(&ClientMessage::Proof(proof)).await;
    assert_eq!(control.refused().await.code, Code::BadSignature);
    let patience = async {
        loop {
            match Control::open(http).await.join(&newcomer).await {
                Ok(_) => break,
                Err(refusal) => assert_eq!(refusal.code, Code::RateLimited),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, patience).await.expect("a newcomer is locked out for ever");
    server.stop().await.unwrap();
}

async fn asks(control: &mut Control, request: u32) -> Refusal {
    let connect = ClientMessage::Connect { request, peer: "nobody".to_owned(), wait: false, handshake: None };
    control.send(&connect).await;
    control
        .until(|message| match message {
            ServerMessage::ConnectFailed { request: answered, refusal } if answered == request => {
                Some(refusal)
            }
            _ => None,
        })
        .await
}

#[tokio::test]
async fn introductions_are_counted_by_node() {
    let flags = ["--limit-introductions", "3/60s", "--limit-introductions-block", "off"];
    let (server, _dir) = Running::fresh(&flags).await;
    let (http, token) = (server.info.http, server.join_token());
    let (eager, other) = (Node::new(1, "eager", &token), Node::new(2, "other", &token));
    let mut control = eager.joins(http).await;
    for request in 0..3 {
        assert_eq!(asks(&mut control, request).await.code, Code::PeerOffline);
    }
    let refusal = asks(&mut control, 3).await;
    assert_eq!(refusal.code, Code::RateLimited);
    assert!(refusal.retry_after_ms.is_some_and(|ms| (1..=60_000).contains(&ms)), "{refusal:?}");
    // A new connection is no new allowance.
    drop(control);
    let mut control = eager.joins(http).await;
    assert_eq!(asks(&mut control, 0).await.code, Code::RateLimited);
    assert_eq!(asks(&mut other.joins(http).await, 0).await.code, Code::PeerOffline);
    server.stop().await.unwrap();
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

/// How many of so many requests are heard, each said to be for another client.
async fn clients_heard(server: &Running, name: &str, prefix: &str) -> usize {
    let mut heard = 0;
    for n in 1..=10 {
        let reply = get(STATUS).header(name, &format!("{prefix}30.0.0.{n}")).send(server.info.http).await;
        heard += usize::from(reply.status.as_u16() == 200);
    }
    heard
}

/// Attack: who is limited by his address claims to have another one.
#[tokio::test]
async fn a_claimed_address_is_no_way_around_the_limit() {
    let flags = ["--limit-rest", "2/300s", "--limit-rest-block", "off"];
    let trusting = [&flags[..], &["--trusted-proxy", "0.0.0.0/0"]].concat();
    for (name, prefix) in [(X_FORWARDED_FOR, ""), (FORWARDED, "for=")] {
        // A server that trusts everybody believes it.
        let (careless, _dir) = Running::fresh(&trusting).await;
        assert_eq!(clients_heard(&careless, name, prefix).await, 10, "the attack itself does not work");
        careless.stop().await.unwrap();
        let (server, _dir) = Running::fresh(&flags).await;
        assert_eq!(clients_heard(&server, name, prefix).await, 2);
        server.stop().await.unwrap();
    }
}

/// A proxy that is trusted tells for whom it asks; what its client claims is hearsay.
#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_clients_are_not() {
    let flags = ["--limit-rest", "2/300s", "--limit-rest-block", "off", "--trusted-proxy", "127.0.0.0/8"];
    let (server, _dir) = Running::fresh(&flags).await;
    let http = server.info.http;
    assert_eq!(clients_heard(&server, X_FORWARDED_FOR, "").await, 10, "each client has its own count");
    let mut heard = 0;
    for n in 1..=10 {
        let list = format!("31.0.0.{n}, 40.0.0.1, 127.0.0.9");
        let reply = get(STATUS).header(X_FORWARDED_FOR, &list).send(http).await;
        heard += usize::from(reply.status.as_u16() == 200);
    }
    assert_eq!(heard, 2, "one client with ten claims");
    for claims in [("30.1.0.1", "for=30.2.0.1"), ("unknown", "for=30.2.0.1"), ("30.2.0.1", "for=unknown")] {
        let request = get(STATUS).header(X_FORWARDED_FOR, claims.0).header(FORWARDED, claims.1);
        request.send(http).await.assert_problem(400, "bad_forwarded");
    }
    server.stop().await.unwrap();
}

/// Attack: a public node passes itself off as a private one. The control channel is asked like REST.
#[tokio::test]
async fn a_claimed_address_is_no_way_into_a_private_cluster() {
    let check = async |flags: &[&str], claims: &str, expect: Result<&str, Code>| {
        let (server, _dir) = Running::fresh(flags).await;
        let node = Node::new(1, "alice", &server.join_token());
        let mut control = Control::open_with(server.info.http, &[(X_FORWARDED_FOR, claims)]).await;
        match expect {
            Ok(source) => {
                control.join(&node).await.unwrap();
                let shown = get(&format!("{NODES}/{}", node.id())).admin(&server).await.json();
                let shown = shown["presence"]["source"].as_str().unwrap().to_owned();
                assert!(shown.starts_with(source), "{flags:?} {claims}: {shown}");
            }
            Err(code) => {
                control.send(&ClientMessage::Hello(Box::new(node.hello()))).await;
                assert_eq!(control.refused().await.code, code, "{flags:?} {claims}");
            }
        }
        server.stop().await.unwrap();
    };
    let refused = Err(Code::PublicNodeInPrivateCluster);
    // The proxy tells the truth about a public client, and so keeps it out.
    let trusted = ["--trusted-proxy", "127.0.0.1"];
    check(&trusted, "20.0.0.9", refused).await;
    check(&trusted, "10.0.0.9, 20.0.0.9", refused).await;
    check(&trusted, "20.0.0.9, 10.0.0.9", Ok("10.0.0.9:0")).await;
    // Where everybody is trusted, the same client writes what it likes.
    check(&["--trusted-proxy", "0.0.0.0/0"], "10.0.0.9, 20.0.0.9", Ok("10.0.0.9:0")).await;
    // Where nobody is, it writes in vain.
    check(&[], "20.0.0.9", Ok("127.0.0.1:")).await;
    check(&[], "10.0.0.9", Ok("127.0.0.1:")).await;
}

/// Reads until the server ends the connection; what it said.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    match read.expect("the server keeps the connection") {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&said).into_owned()
}

async fn connected(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Attack: heads that never end, which hold as many connections as there may be.
#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &[]);
    config.access_limits.head_timeout = Duration::from_millis(200);
    let server = Running::start(config).await.unwrap();
    let mut stream = connected(server.info.http).await;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let dribble = async {
        // A byte now and then does not help.
        while stream.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dribble).await.expect("a slow head is waited for");
    // Nor does a connection stay that was used once.
    let mut stream = connected(server.info.http).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(until_closed(&mut stream).await.starts_with("HTTP/1.1 200"));
    server.stop().await.unwrap();
}

/// Attack: one source takes all connections there are.
#[tokio::test]
async fn a_source_has_so_many_connections() {
    let (server, _dir) = Running::fresh(&["--limit-connections", "4"]).await;
    let (http, token) = (server.info.http, server.join_token());
    // Control connections are not counted here, or an office could have no more nodes than this.
    let mut members = Vec::new();
    for n in 1..=6 {
        members.push(Node::new(n, &format!("n{n}"), &token).joins(http).await);
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connected(http).await;
        // A first answer shows that it was let in; places are given back as the server notices.
        loop {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            match stream.read(&mut [0; 1024]).await {
                Ok(length) if length > 0 => break,
                _ => stream = connected(http).await,
            }
        }
        held.push(stream);
    }
    assert_eq!(until_closed(&mut connected(http).await).await, "");
    drop(held);
    let again = async {
        loop {
            let mut stream = connected(http).await;
            let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            if stream.write_all(request).await.is_ok() && !until_closed(&mut stream).await.is_empty() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("places are never given back");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_trusted_proxy_has_as_many_connections_as_there_are() {
    let flags = ["--limit-connections", "2", "--trusted-proxy", "127.0.0.1"];
    let (server, _dir) = Running::fresh(&flags).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut stream = connected(server.info.http).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        held.push(stream);
    }
    drop(held);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_in_words() {
    let (server, _dir) = Running::fresh(&[]).await;
    let http = server.info.http;
    let url = |length: usize| get(&format!("{STATUS}?{}", "x".repeat(length)));
    assert_eq!(url(4_000).send(http).await.status.as_u16(), 200);
    url(5_000).send(http).await.assert_problem(414, "url_too_long");
    let header = |length: usize| get(STATUS).header("x-long", &"x".repeat(length));
    assert_eq!(header(30_000).send(http).await.status.as_u16(), 200);
    header(34_000).send(http).await.assert_problem(431, "headers_too_large");
    // What can't even be read ends the connection.
    assert_eq!(header(100_000).send(http).await.status.as_u16(), 431);
    assert_eq!(get(STATUS).send(http).await.status.as_u16(), 200);
    server.stop().await.unwrap();
}
