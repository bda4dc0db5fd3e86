//! The end with notice, by signal.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::node::{node, said};
use super::server::{PATIENCE, Server};
use super::turn::{Pulse, Turn};
use crate::scratch::Scratch;

/// RFC 8656: insufficient capacity. The client may try another server.
const NO_ROOM: Option<u16> = Some(508);
const RELAYING: [&str; 2] = ["--relay-allow-peer", "127.0.0.0/8"];

/// Another server of the same cluster.
fn away(home: &Server, data: &std::path::Path) -> Server {
    let cluster = home.caller().call("GET", "/v1/clusters/default", "").expect("an answer").1;
    let key = cluster["public_key"].as_str().expect("a key");
    Server::start_with(data, 0, &["--foreign-cluster", &format!("default={key}")])
}

fn is_ready(server: &Server) -> (u16, Value) {
    server.caller().call("GET", "/readyz", "").expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sigterm_ends_the_server_when_nobody_needs_it() {
    let dir = Scratch::new();
    let flags = [&RELAYING[..], &["--drain-timeout", "10m"]].concat();
    let mut home = Server::start_with(&dir.path().join("home"), 0, &flags);
    let away = away(&home, &dir.path().join("away"));
    let other = format!("https://{}", away.http);
    let mut alice = node(&home, "alice", &["--rendezvous", &other, "--fingerprint", &away.fingerprint]);
    let pulse = Pulse::start(Turn::udp(&home, "carol").await).await;
    assert_eq!(is_ready(&home).0, 200);

    home.signal(Signal::SIGTERM);
    home.logs("draining: nobody new is taken");
    let moved = said(&mut alice, "joined");
    assert!(
        moved["server"].as_str().is_some_and(|server| server.contains(&away.http.to_string())),
        "{moved}"
    );
    let (status, told) = is_ready(&home);
    assert_eq!((status, told["code"].as_str()), (503, Some("not_ready")), "{told}");
    // Each shard hears of it in its own time.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut late = Turn::udp(&home, "dave").await;
        match late.allocate().await {
            None => assert_eq!(late.release().await, None),
            refused => break assert_eq!(refused, NO_ROOM),
        }
        assert!(Instant::now() < deadline, "it goes on to allocate");
    }
    // What was granted goes on for as long as its client wants it, and the server with it.
    let mut held = pulse.stop().await;
    assert_eq!(held.refresh().await, None);
    assert_eq!(held.release().await, None);
    let status = home.process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status.code(), Some(0), "{}", home.process.output());
    assert_eq!(home.log("drained: nobody is here any more").len(), 1, "{}", home.process.output());
}

/// Somebody stays who knows no other server. How the server ends, and what of that takes how long.
async fn check(patience: &str, signals: usize, at_least: Duration, says: &str) {
    let dir = Scratch::new();
    let flags = [&RELAYING[..], &["--drain-timeout", patience]].concat();
    let mut server = Server::start_with(&dir.path().join("data"), 0, &flags);
    let _alice = node(&server, "alice", &[]);
    let mut held = Turn::udp(&server, "carol").await;
    assert_eq!(held.allocate().await, None);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    server.logs("draining: nobody new is taken");
    for _ in 1..signals {
        server.signal(Signal::SIGTERM);
    }
    let status = server.process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status.code(), Some(0), "{}", server.process.output());
    assert!(begun.elapsed() >= at_least, "{:?}", begun.elapsed());
    assert_eq!(server.log(says).len(), 1, "{says}: {}", server.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_at_the_deadline() {
    let second = Duration::from_secs(1);
    check("1s", 1, second, "the deadline of draining has come").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_does_not_wait() {
    check("10m", 2, Duration::ZERO, "shutting down").await;
}
