//! Nothing of a PRIVATE cluster's node leaves the private network: shown by a capture of all that its machine sends,
//! from before its start to after its end.
//!
//! Each offer is first made to a node that may follow it, in the same place: what the capture must not see of the one
//! it must see of the other.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;

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
    let [machine, open, host] = [(); 3].map(|()| home.machine(&mut lab));
    ip(&machine, &["addr", "add", &format!("{PUBLIC_SOURCE}/32"), "dev", "wan"]);
    let liar = Liar::new(&machine);
    let lifted =
        ServerMessage::Cluster { effective: EffectiveNetwork::Public, stun: Some(liar::stun_access()) };

    // Who is not sealed keeps to the private network while the cluster does, and no longer.
    let mut capture = Capture::start(&open);
    let node = deceived(&open, &liar, &[]);
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
    // Before its session, or it comes back and is taken for the next one.
    drop(node);
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

/// The name server that the programs of a machine ask, until this is dropped.
struct NameServer(PathBuf);

impl NameServer {
    /// `ip netns exec` shows each machine its own file.
    fn of(host: &Host, server: Ipv4Addr) -> Self {
        let folder = PathBuf::from("/etc/netns").join(host.namespace());
        std::fs::create_dir_all(&folder).expect("a folder");
        let told = Self(folder);
        std::fs::write(told.0.join("resolv.conf"), format!("nameserver {server}\n")).expect("a file");
        told
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers every question for an IPv4 address with a public one, for as long as the test runs.
fn serve_public_names(host: &Host) {
    let socket = host.run_in(|| UdpSocket::bind((host.addr(), 53))).expect("the machine").expect("port 53");
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((len, client)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&public_name(&bytes[..len]), client);
        }
    });
}

/// RFC 1035, section 4.1: the question again, and for type A one answer that points to it.
fn public_name(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
    let is_a = question[end - 4..end] == [0, 1, 0, 1];
    let header = [question[0], question[1], 0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
    let mut reply = [&header, &question[12..end]].concat();
    if is_a {
        reply.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(SERVER_ADDRS[0].octets());
    }
    reply
}

/// Where a node may be told to go, and to which public address that leads.
const PUBLIC_SERVERS: [([&str; 2], &str); 7] = [
    (["--rendezvous", "https://20.0.0.1:8085"], "20.0.0.1"),
    (["--rendezvous", "https://[::ffff:20.0.0.1]:8085"], "20.0.0.1"),
    (["--rendezvous", "https://[2600:99::1]:8085"], "2600:99::1"),
    // Translated from IPv4 somewhere else (RFC 6052), and to a private address at that.
    (["--rendezvous", "https://[64:ff9b::a00:101]:8085"], "64:ff9b::a00:101"),
    (["--rendezvous", "https://rendezvous.example:8085"], "20.0.0.1"),
    (["--seed", "far@20.0.0.1:8085"], "20.0.0.1"),
    (["--seed", "far@rendezvous.example:8085"], "20.0.0.1"),
];
/// A domain whose seeds would have to be looked up.
const SEEDS_OF: [&str; 2] = ["--seeds-of", "rendezvous.example"];

#[test]
fn a_sealed_node_goes_to_no_public_server() {
    let Some(mut lab) = lab_or_skip("a_sealed_node_goes_to_no_public_server") else { return };
    let mut home = Home::new(&mut lab);
    let [names, open, sealed, elsewhere] = [(); 4].map(|()| home.machine(&mut lab));
    serve_public_names(&names);
    let _told = [&open, &sealed].map(|host| NameServer::of(host, names.addr()));
    // Even to ask would be a packet too many.
    let _told_elsewhere = NameServer::of(&elsewhere, SERVER_ADDRS[0]);
    let data = tempfile::tempdir().expect("a directory");
    let args = ["--http", "0.0.0.0:8085", "--stun", "127.0.0.1:0", "--stun-alt-port", "0", SEALED];
    let server = Server::start(lab.server().command(meetpoint()), &data.path().join("data"), &args);
    let start = |host: &Host, way: [&str; 2], args: &[&str]| {
        let args = [&way[..], args].concat();
        Node::of_servers(host.command(meetpoint()), "alice", Some(&server.join_token()), &args)
    };

    // Who is not sealed goes there, and a PRIVATE cluster takes nobody from a public address.
    for (way, ip) in PUBLIC_SERVERS {
        let mut capture = Capture::start(&open);
        let mut node = start(&open, way, &[]);
        capture.await_packets_to(&[ip.parse().expect("an address")], PATIENCE, way[1]);
        if ip == SERVER_ADDRS[0].to_string() {
            assert_eq!(node.event("rejected")["code"], "public_node_in_private_cluster", "{way:?}");
            assert_eq!(node.exit_code(), Some(3), "{way:?}");
        }
    }
    let mut capture = Capture::start(&elsewhere);
    let node = start(&elsewhere, ["--rendezvous", "https://rendezvous.example:8085"], &[]);
    capture.await_packets_to(&[SERVER_ADDRS[0].into()], PATIENCE, "a public name server");
    drop(node);

    for host in [&sealed, &elsewhere] {
        let mut capture = Capture::start(host);
        // The kernel answers no more than an empty capture would: a packet of our own shows that it is listening.
        let knock = host.run_in(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("the machine");
        knock.expect("a socket").send_to(b"here", (names.addr(), 9)).expect("a packet");
        for (way, _) in PUBLIC_SERVERS {
            let mut node = start(host, way, &[SEALED]);
            assert_eq!(node.exit_code(), Some(2), "{way:?}: {}", node.process.output());
            capture.assert_silent(&format!("sealed, told to go to {way:?}"));
        }
        let mut node = start(host, SEEDS_OF, &[SEALED, "--give-up-after", "1s"]);
        assert!(node.exit_code().is_some_and(|code| code != 0), "{}", node.process.output());
        capture.assert_silent("sealed, told to look up the seeds of a domain");
    }
}

#[test]
fn sealed_nodes_meet_on_their_lan() {
    let Some(mut lab) = lab_or_skip("sealed_nodes_meet_on_their_lan") else { return };
    let mut home = Home::new(&mut lab);
    let [machine, first, second] = [(); 3].map(|()| home.machine(&mut lab));
    let data = tempfile::tempdir().expect("a directory");
    let stun = format!("{}:3478", machine.addr());
    let args = ["--http", "0.0.0.0:8080", "--stun", &stun, "--stun-alt-port", "0"];
    let serve = |kind: &str| {
        let folder = data.path().join(kind);
        Server::start(
            machine.command(meetpoint()),
            &folder,
            &[&args[..], &["--cluster-network-type", kind]].concat(),
        )
    };
    let url = format!("https://{}:8080", machine.addr());
    let mut captures = [&first, &second].map(Capture::start);

    // A cluster that could be lifted is none for them.
    let server = serve("DYNAMIC");
    let mut node =
        Node::start(first.command(meetpoint()), &url, "alice", Some(&server.join_token()), &[SEALED]);
    assert_eq!(node.event("rejected")["code"], "cluster_type_mismatch");
    assert_eq!(node.exit_code(), Some(3));
    drop(server);

    let server = serve("PRIVATE");
    let token = server.join_token();
    let start = |host: &Host, name: &str, args: &[&str]| {
        Node::start(host.command(meetpoint()), &url, name, Some(&token), &[&[SEALED], args].concat())
    };
    let mut alice = start(&first, "alice", &["--connect", "bob"]);
    let mut bob = start(&second, "bob", &["--echo"]);
    let path = alice.event("path");
    let remote: std::net::SocketAddr =
        path["remote"].as_str().expect("a remote").parse().expect("an address");
    assert_eq!((path["kind"].as_str(), remote.ip()), (Some("direct"), IpAddr::from(second.addr())));
    assert_eq!(alice.event("echo")["bytes"], 65_536);
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
    }
    for capture in &mut captures {
        capture.assert_silent("sealed, in a PRIVATE cluster on the LAN");
    }
}
