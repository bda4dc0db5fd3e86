//! Nothing of a PRIVATE cluster's node leaves the private network: shown by a capture of all that its machine sends,
//! from before its start to after its end.
//!
//! Each offer is first made to a node that may follow it, in the same place: what the capture must not see of the one it
//! must see of the other.
#![cfg(target_os = "linux")]

use std::net::IpAddr;
use std::path::Path;

use meetpoint_cli::lab::{Gateway, Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_proto::wire::ServerMessage;
use meetpoint_proto::{ClusterNetwork, EffectiveNetwork};
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use meetpoint_tests::capture::Capture;
use meetpoint_tests::lab::lab_or_skip;

mod liar;

use liar::{Claim, Liar, PUBLIC_SOURCE, Session};

const SEALED: &str = "--cluster-network-type=PRIVATE";

/// Of the machines' LAN, where nobody is: what is sent there shows that a machine with IPv6 uses it.
const ROUTER_V6: &str = "fe80::1";

/// A LAN behind a NAT, with a way to the public network in either family.
struct Home {
    gateway: Gateway,
    machines: u8,
}

impl Home {
    fn new(lab: &mut Lab) -> Self {
        Self { gateway: lab.gateway(NatKind::PortRestricted).expect("a gateway"), machines: 0 }
    }

    /// A machine that also has a global IPv6 address. Its IPv6 router is an entry in its tables: packets leave the
    /// machine, which is all that counts here.
    fn machine(&mut self, lab: &mut Lab) -> Host {
        let host = lab.host_behind(&mut self.gateway).expect("a host");
        self.machines += 1;
        let global = format!("2600:1::{}/64", self.machines);
        let local = format!("fd00:1::{}/64", self.machines);
        ip(&host, &["-6", "addr", "add", &global, "dev", "wan", "nodad"]);
        ip(&host, &["-6", "addr", "add", &local, "dev", "wan", "nodad"]);
        let router = ["-6", "neigh", "add", ROUTER_V6, "lladdr", "02:00:00:00:00:01", "dev", "wan"];
        ip(&host, &router);
        ip(&host, &["-6", "route", "add", "default", "via", ROUTER_V6, "dev", "wan"]);
        host
    }
}

fn ip(host: &Host, args: &[&str]) {
    let output = host.command("ip").args(args).output().expect("ip runs");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node at the liar's.
fn deceived(host: &Host, liar: &Liar, args: &[&str]) -> Node {
    let args = [&["--insecure-http"], args].concat();
    Node::start(host.command(meetpoint()), &liar.url(), "alice", None, &args)
}

/// Everything that a server can offer to somebody who does not leave the private network, and go on.
fn tempt(session: &mut Session<'_>) {
    session.introduce();
    session.renew();
    // The second one is answered by a node that has read the renewal.
    session.introduce();
}

#[test]
fn a_lying_server_gets_nothing_out_of_a_sealed_node() {
    let Some(mut lab) = lab_or_skip("a_lying_server_gets_nothing_out_of_a_sealed_node") else { return };
    let mut home = Home::new(&mut lab);
    let [machine, host] = [(); 2].map(|()| home.machine(&mut lab));
    ip(&machine, &["addr", "add", &format!("{PUBLIC_SOURCE}/32"), "dev", "wan"]);
    let liar = Liar::new(&machine);
    let lifted =
        ServerMessage::Cluster { effective: EffectiveNetwork::Public, stun: Some(liar::stun_access()) };

    // Who is not sealed keeps to the private network while the cluster does, and no longer.
    let mut capture = Capture::start(&host);
    let mut node = deceived(&host, &liar, &[]);
    let claim = Claim { kind: ClusterNetwork::Dynamic, effective: EffectiveNetwork::Private };
    let mut session = liar.welcome(claim);
    tempt(&mut session);
    capture.assert_silent("not sealed, in a cluster that is effectively PRIVATE");
    session.send(&lifted);
    session.introduce();
    let case = "not sealed, in a cluster that was lifted";
    capture.await_packets_to(
        &[liar::baits_of_stun(), liar::baits_of_introductions()].concat(),
        PATIENCE,
        case,
    );
    node.process.kill().expect("an end");
    drop(session);

    let mut capture = Capture::start(&host);
    let mut node = deceived(&host, &liar, &[SEALED]);
    let claim = Claim { kind: ClusterNetwork::Private, effective: EffectiveNetwork::Private };
    let mut session = liar.welcome(claim);
    tempt(&mut session);
    session.send(&lifted);
    session.await_close();
    assert_eq!(node.event("rejected")["code"], "cluster_type_mismatch");
    assert_eq!(node.exit_code(), Some(3));
    capture.assert_silent("sealed, in a cluster that was lifted");

    for (kind, effective) in [
        (ClusterNetwork::Private, EffectiveNetwork::Public),
        (ClusterNetwork::Dynamic, EffectiveNetwork::Private),
        (ClusterNetwork::Dynamic, EffectiveNetwork::Public),
        (ClusterNetwork::Public, EffectiveNetwork::Public),
    ] {
        let mut node = deceived(&host, &liar, &[SEALED]);
        liar.welcome(Claim { kind, effective }).await_close();
        assert_eq!(node.event("rejected")["code"], "cluster_type_mismatch", "{kind} {effective}");
        assert_eq!(node.exit_code(), Some(3), "{kind} {effective}");
        capture
            .assert_silent(&format!("sealed, welcomed to a {kind} cluster that is effectively {effective}"));
    }
}
