//! What changes while the server runs, by SIGHUP and by `POST /v1/reload`, and whom that disturbs: nobody.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::node::Couple;
use super::server::{Caller, Server, meetpoint};
use super::turn::{Pulse, Stream, Turn, tls};
use crate::scratch::Scratch;

/// Of one that is not let in, which a server tells of in its debug log only.
const TURNED_AWAY: &str = "rejected source=";
/// RFC 8656, section 19: a peer that the rules forbid, and one allocation too many.
const FORBIDDEN: Option<u16> = Some(403);
const NO_ROOM: Option<u16> = Some(508);

/// Somebody with a token that is none.
fn intrude(server: &Server) {
    let mut command = meetpoint();
    command.args(["node", "--name", "mallory", "--rendezvous", &format!("https://{}", server.http)]);
    command.args(["--fingerprint", &server.fingerprint]).env("MEETPOINT_JOIN_TOKEN", "a-token-of-nobody");
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A server that has its configuration from this file.
fn configured(dir: &Path, text: &str) -> (Server, PathBuf) {
    let file = dir.join("meetpoint.toml");
    std::fs::write(&file, text).expect("written");
    let server = Server::start_with(&dir.join("data"), 0, &["--config", file.to_str().expect("UTF-8")]);
    (server, file)
}

fn reload(caller: &mut Caller) -> (u16, Value) {
    caller.call("POST", "/v1/reload", "").expect("an answer")
}

async fn allocate(server: &Server, user: &str) -> Option<u16> {
    let mut client = Turn::udp(server, user).await;
    let refused = client.allocate().await;
    if refused.is_none() {
        assert_eq!(client.release().await, None);
    }
    refused
}

const FIRST: &str = "log-level = \"info\"\nrelay-allow-peer = [\"127.0.0.0/8\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_can_change_and_disturbs_nobody() {
    let dir = Scratch::new();
    let (server, file) = configured(dir.path(), FIRST);
    let mut caller = server.caller();
    let mut couple = Couple::meet(&server);
    let pulse = Pulse::start(Turn::udp(&server, "alice").await).await;

    // How much is logged: nothing of an intruder before, and each of them after.
    intrude(&server);
    std::fs::write(&file, FIRST.replace("info", "debug")).expect("written");
    server.signal(Signal::SIGHUP);
    server.logs("reloaded certificate=\"same\" tokens=[] changed=[\"log-level\"]");
    assert!(server.log(TURNED_AWAY).is_empty(), "{}", server.process.output());
    intrude(&server);
    server.logs(TURNED_AWAY);

    // What is refused changes nothing, whatever else is in it.
    for (text, part) in [
        ("log-level = \"info\"\nrelay-allocations = 1\nrelay-rate = \"fast\"\n", "relay-rate"),
        (
            "log-level = \"info\"\nrelay-allocations = 1\nrelay-alocations = 1\n",
            "did you mean relay-allocations",
        ),
        ("log-level = \"info\"\nrelay-allocations = 1\nrelay-allow-peer = [\"x\"]\n", "relay-allow-peer"),
        ("log-level = \"loud\"\nrelay-allocations = 1\n", "log-level"),
        ("log-level = ", "line 1"),
    ] {
        std::fs::write(&file, text).expect("written");
        let (status, told) = reload(&mut caller);
        assert_eq!((status, &told["code"]), (422, &json!("config_refused")), "{told}");
        assert!(told["detail"].as_str().is_some_and(|detail| detail.contains(part)), "{part}: {told}");
        server.signal(Signal::SIGHUP);
        server.logs_until("not reloaded; all is as it was", |lines| {
            lines.iter().any(|line| line.contains(part))
        });
    }
    assert_eq!(allocate(&server, "bob").await, None);
    let heard = server.log(TURNED_AWAY).len();
    intrude(&server);
    server.logs_until(TURNED_AWAY, |lines| lines.len() > heard);
    couple.goes_on();
    pulse.goes_on().await;

    // Quotas and rules for peers, the log again, and a token.
    std::fs::write(&file, "log-level = \"info\"\nrelay-allow-peer = []\nrelay-allocations = 1\n")
        .expect("written");
    std::fs::write(server.data.join("viewer-token"), "another-viewer-token\n").expect("written");
    let (status, told) = reload(&mut caller);
    let changed = json!(["relay-allow-peer", "relay-allocations", "log-level"]);
    let expected =
        json!({ "certificate": "same", "tokens": ["viewer"], "changed": changed, "needs_restart": [] });
    assert_eq!((status, told), (200, expected));
    assert_eq!(allocate(&server, "bob").await, NO_ROOM);
    let of_viewer =
        |token: &str| Caller::new(server.http, token).call("GET", "/v1/clusters", "").expect("an answer").0;
    assert_eq!(of_viewer("another-viewer-token"), 200);
    let heard = server.log(TURNED_AWAY).len();
    intrude(&server);

    // A token by signal. The caller's own is another one from here on.
    std::fs::write(server.data.join("admin-token"), "another-admin-token\n").expect("written");
    server.signal(Signal::SIGHUP);
    server.logs("tokens=[\"admin\"]");
    assert_eq!(server.log(TURNED_AWAY).len(), heard, "it is at info again: {}", server.process.output());
    assert_eq!(reload(&mut caller).0, 401);
    assert_eq!(reload(&mut server.caller()).0, 200);

    // What was granted stays granted; what is asked for now is judged by what holds now.
    couple.part();
    let mut held = pulse.stop().await;
    assert_eq!(held.refresh().await, None);
    assert_eq!(held.permit("127.0.0.2:9".parse().expect("an address")).await, FORBIDDEN);
}

/// Another key and its certificate, in two files of always the same names, and the certificate itself.
fn write_pair(dir: &Path) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let certificate = names.self_signed(&key).expect("a certificate");
    std::fs::write(dir.join("c.pem"), certificate.pem()).expect("written");
    std::fs::write(dir.join("k.pem"), key.serialize_pem()).expect("written");
    certificate.der().to_vec()
}

/// A request over a connection that stays open.
async fn is_answered(stream: &mut dyn Stream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
    stream.flush().await.expect("written");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(
            stream.read_buf(&mut answer).await.expect("read") > 0,
            "the server has closed the connection"
        );
    }
    let answer = String::from_utf8_lossy(&answer);
    // Behind what is left of the answer before.
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_shown_to_who_comes_and_disturbs_nobody_who_is_there() {
    let dir = Scratch::new();
    let first = write_pair(dir.path());
    let [cert, key] = ["c.pem", "k.pem"].map(|name| dir.path().join(name));
    let flags = ["--tls-cert", cert.to_str().expect("UTF-8"), "--tls-key", key.to_str().expect("UTF-8")];
    let flags = [&flags[..], &["--relay-allow-peer", "127.0.0.0/8"]].concat();
    let server = Server::start_with(&dir.path().join("data"), 0, &flags);
    let mut couple = Couple::meet(&server);
    let (mut open, shown) = tls(server.http).await;
    let (client, shown_by_turn) = Turn::tls(&server, "alice").await;
    assert!(shown == first && shown_by_turn == first);
    is_answered(&mut *open).await;
    let pulse = Pulse::start(client).await;
    let shown = async || [tls(server.http).await.1, tls(server.stun_tls).await.1];

    // A key to which another certificate belongs.
    let good = std::fs::read(&cert).expect("a certificate");
    write_pair(dir.path());
    std::fs::write(&cert, good).expect("written");
    let (status, told) = reload(&mut server.caller());
    assert_eq!((status, &told["code"]), (422, &json!("config_refused")), "{told}");
    server.signal(Signal::SIGHUP);
    server.logs("not reloaded; all is as it was");
    assert!(!server.log("does not fit the key").is_empty(), "{}", server.process.output());
    assert_eq!(shown().await, [first.clone(), first.clone()]);

    for by_signal in [true, false] {
        let next = write_pair(dir.path());
        if by_signal {
            server.signal(Signal::SIGHUP);
            server.logs("reloaded certificate=\"rekeyed\"");
        } else {
            let (status, told) = reload(&mut server.caller());
            assert_eq!((status, &told["certificate"]), (200, &json!("rekeyed")), "{told}");
        }
        assert_eq!(shown().await, [next.clone(), next]);
        is_answered(&mut *open).await;
        couple.goes_on();
        pulse.goes_on().await;
    }
    couple.part();
    assert_eq!(pulse.stop().await.refresh().await, None);
}
