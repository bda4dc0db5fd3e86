//! A node whose uplink changes under it: the stream goes on by the other one.

use std::time::{Duration, Instant};

use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;

/// What a swap may take until the stream goes on. Consent alone would need up to ten seconds.
const MOST: Duration = Duration::from_secs(1);
/// How often the uplink is swapped; the machine that runs the tests may be busy once.
const SWAPS: usize = 5;

fn serve_publicly(lab: &Lab, data: &std::path::Path) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let seed = format!("main@{http}");
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    Server::start(lab.server().command(meetpoint()), data, &args)
}

/// From the swap to the first echo that was asked for after it.
fn until_it_goes_on(alice: &mut Node, began: Instant, swapped: Instant) -> Duration {
    while alice.take_passed("echo").is_some() {}
    loop {
        let echo = alice.event_within("echo", PATIENCE);
        let heard = Instant::now();
        let trip = Duration::from_secs_f64(echo["rtt_ms"].as_f64().expect("milliseconds") / 1e3);
        // One that began before the swap ended by it or in spite of it; either way the next one tells.
        if heard.checked_duration_since(swapped).is_some_and(|since| since > trip) {
            return heard - began;
        }
    }
}

/// Swaps the uplink of a node behind `first` and `second`, connected to one behind `peer`.
fn swap(lab: &mut Lab, [first, second, peer]: [NatKind; 3]) -> Vec<Duration> {
    let mut home = lab.gateway(first).expect("a gateway");
    let mut other = lab.gateway(second).expect("a gateway");
    let mover = lab.host_behind(&mut home).expect("a host");
    let uplink = lab.second_uplink(&mover, &mut other).expect("an uplink");
    let peer: Host = lab.node(peer).expect("a host");
    let data = tempfile::tempdir().expect("a directory");
    let server = serve_publicly(lab, &data.path().join("data"));
    let (url, token) = (server.url(), server.join_token());
    let mut bob = Node::start(peer.command(meetpoint()), &url, "bob", Some(&token), &["--echo"]);
    bob.event("classified");
    let args = ["--connect", "bob", "--ping-interval", "20ms"];
    let mut alice = Node::start(mover.command(meetpoint()), &url, "alice", Some(&token), &args);
    for event in ["joined", "classified", "echo"] {
        alice.event(event);
    }
    let uplinks = [home.uplink(), uplink];
    let took = (0..SWAPS).map(|number| {
        let began = Instant::now();
        lab.switch_uplink(&mover, uplinks[number % 2], uplinks[(number + 1) % 2]).expect("another uplink");
        let took = until_it_goes_on(&mut alice, began, Instant::now());
        // The node has settled: it has joined from where it is now.
        alice.event("joined");
        alice.event("classified");
        took
    });
    let took: Vec<Duration> = took.collect();
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
    }
    took
}

/// Each row: the NATs of both uplinks and of the peer. Into a port-restricted one only a new introduction leads.
#[test]
fn a_stream_goes_on_by_the_other_uplink() {
    let Some(mut lab) = lab_or_skip("a_stream_goes_on_by_the_other_uplink") else { return };
    for nats in [
        [NatKind::PortRestricted, NatKind::PortRestricted, NatKind::FullCone],
        [NatKind::PortRestricted, NatKind::Remap, NatKind::PortRestricted],
        [NatKind::SymmetricRandom, NatKind::PortRestricted, NatKind::Open],
    ] {
        let mut took = swap(&mut lab, nats);
        println!("{nats:?}: {took:?}");
        took.sort();
        assert!(took[SWAPS / 2] < MOST, "{nats:?}: {took:?}");
        assert!(took[SWAPS - 1] < 3 * MOST, "{nats:?}: {took:?}");
    }
}
