//! Nodes that can't meet directly, as a user sees them: relayed at once, with the real binary.

use std::time::Duration;

use meetpoint_cli::lab::{Gateway, Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;
use serde_json::Value;

/// What `--connect` sends through a stream and expects back.
const ECHO_BYTES: u64 = 65_536;
/// What a pair may take without added latency, from the connect call to the first path.
const MOST_MS: f64 = 2_000.0;
/// Noticing that a path has died takes some 7 s at worst; the rest is the machine's.
const FALL_BACK: Duration = Duration::from_secs(20);

/// A server that relays, and keeps nodes that can only be relayed.
fn serve(lab: &Lab, data: &std::path::Path, more: &[&str]) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let (seed, relay) = (format!("main@{http}"), first.to_string());
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    let args = [&args[..], &["--relay-ip", &relay, "--admit-relayed"], more].concat();
    Server::start(lab.server().command(meetpoint()), data, &args)
}

fn pair(server: &Server, alice: &Host, bob: &Host) -> [Node; 2] {
    let (url, token) = (server.url(), server.join_token());
    let second = Node::start(bob.command(meetpoint()), &url, "bob", Some(&token), &["--echo"]);
    let first = Node::start(alice.command(meetpoint()), &url, "alice", Some(&token), &["--connect", "bob"]);
    [first, second]
}

/// The next path of this kind.
fn path(node: &mut Node, kind: &str, within: Duration) -> Value {
    loop {
        let path = node.event_within("path", within);
        if path["kind"] == kind {
            return path;
        }
    }
}

fn leave(nodes: &mut [Node]) {
    for node in nodes {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
        node.event("left");
    }
}

/// One pair that physics keeps apart: a relayed path, 64 KiB there and back.
fn is_relayed(kinds: [NatKind; 2], more: &[&str]) {
    let Some(mut lab) = lab_or_skip("is_relayed") else { return };
    let hosts = kinds.map(|kind| lab.node(kind).expect("a host"));
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(&lab, &data.path().join("data"), more);
    let mut nodes = pair(&server, &hosts[0], &hosts[1]);
    let path = nodes[0].event("path");
    assert_eq!(path["kind"], "relayed", "{path}");
    let elapsed_ms = path["elapsed_ms"].as_f64().expect("milliseconds");
    println!("{kinds:?}: relayed after {elapsed_ms} ms");
    assert!(elapsed_ms < MOST_MS, "{path}");
    assert_eq!(nodes[0].event("echo")["bytes"], ECHO_BYTES);
    leave(&mut nodes);
}

#[test]
fn two_symmetric_nats_are_relayed() {
    is_relayed([NatKind::SymmetricRandom, NatKind::SymmetricRandom], &[]);
}

#[test]
fn without_udp_on_one_side_the_relay_is_reached_by_tcp() {
    is_relayed([NatKind::UdpBlocked, NatKind::PortRestricted], &[]);
    is_relayed([NatKind::PortRestricted, NatKind::UdpBlocked], &[]);
}

#[test]
fn without_udp_on_both_sides_the_relay_is_reached_by_tcp() {
    is_relayed([NatKind::UdpBlocked, NatKind::UdpBlocked], &[]);
}

#[test]
fn where_tcp_is_closed_too_the_relay_is_reached_by_tls() {
    is_relayed([NatKind::UdpBlocked, NatKind::SymmetricRandom], &["--stun-tcp", "off"]);
}

/// Drops what goes from behind a router straight to the other and back.
fn keep_apart(lab: &Lab, gateway: &Gateway, other: &Gateway) {
    let addr = other.addr();
    let rules = format!(
        "table ip apart {{ chain between {{ type filter hook forward priority -20;\n\
         ip daddr {addr} drop\nip saddr {addr} drop\n}}\n}}\n"
    );
    let status = lab.router(gateway).command("nft").arg(rules).status().expect("nft runs");
    assert!(status.success(), "{status}");
}

/// What NATs let through is used directly, and the relay takes over when it no longer is.
#[test]
fn a_direct_path_that_is_cut_falls_back_to_the_relay() {
    let Some(mut lab) = lab_or_skip("a_direct_path_that_is_cut_falls_back_to_the_relay") else { return };
    let mut gateways = [(); 2].map(|()| lab.gateway(NatKind::PortRestricted).expect("a gateway"));
    let [first, second] = &mut gateways;
    let alice = lab.host_behind(first).expect("a host");
    let bob = lab.host_behind(second).expect("a host");
    let data = tempfile::tempdir().expect("a directory");
    let server = serve(&lab, &data.path().join("data"), &[]);
    let mut nodes = pair(&server, &alice, &bob);
    path(&mut nodes[0], "direct", FALL_BACK);
    assert_eq!(nodes[0].event("echo")["bytes"], ECHO_BYTES);
    keep_apart(&lab, &gateways[0], &gateways[1]);
    path(&mut nodes[0], "relayed", FALL_BACK);
    // The connection is the same, and goes on.
    nodes[0].event("echo");
    leave(&mut nodes);
}
