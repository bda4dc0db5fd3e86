//! The main job, as a user sees it: two nodes behind two NATs meet.

use meetpoint_cli::lab::probe::measure;
use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;

/// How often the same two homes meet anew.
const RUNS: usize = 20;
/// What a meeting may take without added latency, from the connect call to the first verified packet.
const MOST_MS: f64 = 1_000.0;
/// What `--connect` sends through a stream and expects back.
const ECHO_BYTES: u64 = 65_536;

fn serve_publicly(lab: &Lab, data: &std::path::Path) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let seed = format!("main@{http}");
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    Server::start(lab.server().command(meetpoint()), data, &args)
}

/// One meeting: alice waits for bob, 64 KiB go there and back, and the path is direct.
fn meet(server: &Server, alice: &Host, bob: &Host) -> f64 {
    let (url, token) = (server.url(), server.join_token());
    let mut first =
        Node::start(alice.command(meetpoint()), &url, "alice", Some(&token), &["--connect", "bob"]);
    let mut second = Node::start(bob.command(meetpoint()), &url, "bob", Some(&token), &["--echo"]);
    for (node, host) in [(&mut first, alice), (&mut second, bob)] {
        assert_eq!(node.event("joined")["effective"], "PUBLIC");
        let class = node.event("classified");
        assert_eq!((&class["class"], &class["evidence"]), (&"Private".into(), &"observed".into()));
        let observed = class["observed"].as_str().expect("an observed mapping");
        assert!(observed.starts_with(&format!("{}:", host.public_addr())), "{observed}");
    }
    let path = first.event("path");
    assert_eq!(path["kind"], "direct");
    let remote = path["remote"].as_str().expect("a remote address");
    assert!(remote.starts_with(&format!("{}:", bob.public_addr())), "straight to bob's NAT, not to {remote}");
    assert_eq!(first.event("echo")["bytes"], ECHO_BYTES);
    for node in [&mut first, &mut second] {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
        node.event("left");
    }
    path["elapsed_ms"].as_f64().expect("milliseconds")
}

#[test]
fn two_port_restricted_nats_meet_directly_every_time() {
    let Some(mut lab) = lab_or_skip("two_port_restricted_nats_meet_directly_every_time") else { return };
    let homes = [(); 2].map(|()| lab.node(NatKind::PortRestricted).expect("a home"));
    for home in &homes {
        assert_eq!(measure(lab.server(), home).expect("a measurement"), NatKind::PortRestricted.promise());
    }
    let data = tempfile::tempdir().expect("a directory");
    let server = serve_publicly(&lab, &data.path().join("data"));
    let mut elapsed: Vec<f64> = (0..RUNS).map(|_| meet(&server, &homes[0], &homes[1])).collect();
    elapsed.sort_by(f64::total_cmp);
    println!("{RUNS} of {RUNS} direct; median {} ms, slowest {} ms", elapsed[RUNS / 2], elapsed[RUNS - 1]);
    assert!(elapsed[RUNS - 1] < MOST_MS, "{elapsed:?}");
}

/// No packet can be observed that shows where the symmetric side is going to come from: its port is foreseen or
/// guessed, whichever side asks, and data flows by the socket that was met.
#[test]
fn symmetric_nats_are_met_by_foresight_and_by_many_guesses() {
    let Some(mut lab) = lab_or_skip("symmetric_nats_are_met_by_foresight_and_by_many_guesses") else {
        return;
    };
    let data = tempfile::tempdir().expect("a directory");
    let server = serve_publicly(&lab, &data.path().join("data"));
    for (asker, asked) in [
        (NatKind::SymmetricSequential, NatKind::PortRestricted),
        (NatKind::PortRestricted, NatKind::SymmetricSequential),
        (NatKind::PortRestricted, NatKind::SymmetricBlock),
        (NatKind::PortRestricted, NatKind::SymmetricRandom),
        (NatKind::SymmetricRandom, NatKind::Remap),
        (NatKind::SymmetricSequential, NatKind::SymmetricSequential),
    ] {
        let homes = [asker, asked].map(|kind| lab.node(kind).expect("a home"));
        let elapsed = meet(&server, &homes[0], &homes[1]);
        println!("{asker} to {asked}: direct after {elapsed} ms");
    }
}

/// Classes as the NATs in front deserve them, every kind; address-restricted ones must not look open.
#[test]
fn a_node_is_classified_by_what_its_nat_does() {
    let Some(mut lab) = lab_or_skip("a_node_is_classified_by_what_its_nat_does") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let server = serve_publicly(&lab, &data.path().join("data"));
    let (url, token) = (server.url(), server.join_token());
    for kind in NatKind::ALL {
        let expect = match kind {
            // A port that the router maps is reachable by whoever knows it.
            NatKind::Open | NatKind::FullCone | NatKind::UpnpRouter | NatKind::PcpRouter => {
                Some(("PublicReachable", "proven"))
            }
            NatKind::AddressRestricted
            | NatKind::PortRestricted
            | NatKind::PortRestrictedEarlyInbound
            | NatKind::Remap
            | NatKind::SymmetricRandom
            | NatKind::SymmetricSequential
            | NatKind::SymmetricBlock
            | NatKind::DoubleNat => Some(("Private", "observed")),
            NatKind::UdpBlocked => None,
        };
        let host = lab.node(kind).expect("a host");
        let mut node = Node::start(host.command(meetpoint()), &url, "subject", Some(&token), &[]);
        if let Some((class, evidence)) = expect {
            let mut found = node.event("classified");
            // Before the router's port was tried there was nothing to be said for the node.
            if matches!(kind, NatKind::UpnpRouter | NatKind::PcpRouter) && found["class"] == "Private" {
                found = node.event("classified");
            }
            let found = (found["class"].as_str(), found["evidence"].as_str());
            assert_eq!(found, (Some(class), Some(evidence)), "{kind}");
            assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
        } else {
            assert_eq!(node.event("rejected")["code"], "unreachable");
            assert_eq!(node.exit_code(), Some(3));
        }
    }
}
