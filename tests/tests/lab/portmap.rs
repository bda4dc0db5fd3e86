//! Routers that map ports: two nodes behind NATs that nothing else gets through meet by them.

use std::thread;
use std::time::{Duration, Instant};

use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use meetpoint_tests::lab::{lab_or_skip, skip};

fn serve(lab: &Lab, data: &std::path::Path, more: &[&str]) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate];
    Server::start(lab.server().command(meetpoint()), data, &[&args, more].concat())
}

/// The router's rules that lead a port to a host.
fn mappings(router: &Host) -> Vec<String> {
    let output =
        router.command("nft").args(["list", "table", "inet", "miniupnpd"]).output().expect("nft runs");
    let rules = String::from_utf8_lossy(&output.stdout);
    rules.lines().filter(|line| line.contains("dnat ip to")).map(|line| line.trim().to_owned()).collect()
}

fn home(lab: &mut Lab, kind: NatKind) -> Option<(Host, Host)> {
    let mut gateway = match lab.gateway(kind) {
        Ok(gateway) => gateway,
        Err(error) if error.is_unavailable() => {
            skip("routers_map_ports", &error.to_string());
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    Some((lab.host_behind(&mut gateway).expect("a host"), lab.router(&gateway)))
}

/// Both sides have NATs with a random port for each destination; each router speaks another protocol.
#[test]
fn nodes_behind_random_nats_meet_by_mapped_ports() {
    let Some(mut lab) = lab_or_skip("nodes_behind_random_nats_meet_by_mapped_ports") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let seed = format!("main@{}:8080", SERVER_ADDRS[0]);
    let server = serve(&lab, &data.path().join("data"), &["--seed", &seed]);
    let (url, token) = (server.url(), server.join_token());
    for kinds in [
        [NatKind::UpnpRouter, NatKind::UpnpRouter],
        [NatKind::UpnpRouter, NatKind::PcpRouter],
        [NatKind::PcpRouter, NatKind::SymmetricRandom],
    ] {
        let Some((bob_host, bob_router)) = home(&mut lab, kinds[0]) else { return };
        let Some((alice_host, alice_router)) = home(&mut lab, kinds[1]) else { return };
        let mut bob = Node::start(bob_host.command(meetpoint()), &url, "bob", Some(&token), &["--echo"]);
        until_reachable(&mut bob);
        assert_eq!(mappings(&bob_router).len(), 1, "{kinds:?}");
        let mut alice =
            Node::start(alice_host.command(meetpoint()), &url, "alice", Some(&token), &["--connect", "bob"]);
        let path = alice.event("path");
        let remote = path["remote"].as_str().expect("an address").to_owned();
        assert_eq!(path["kind"], "direct");
        assert!(remote.starts_with(&format!("{}:", bob_host.public_addr())), "{kinds:?}: {remote}");
        alice.event("echo");
        for (node, router) in [(&mut alice, &alice_router), (&mut bob, &bob_router)] {
            assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
            node.event("left");
            assert_eq!(mappings(router), Vec::<String>::new(), "taken back by who left: {kinds:?}");
        }
    }
}

/// The mapped port is proven by a dial-back like any other place.
fn until_reachable(node: &mut Node) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let class = node.event("classified");
        if (class["class"].as_str(), class["evidence"].as_str()) == (Some("PublicReachable"), Some("proven"))
        {
            return;
        }
        assert!(Instant::now() < deadline, "{class}");
    }
}

/// How often a router's rules are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What the nodes ask for. They renew it at half of it, which leaves a busy machine the other half.
const LEASE: Duration = Duration::from_secs(6);
/// A router looks for leases that have ended now and then.
const SWEEP: Duration = Duration::from_secs(15);

/// A router that maps ports, and two nodes behind it.
struct Home {
    kind: NatKind,
    router: Host,
    living: (Host, Node),
    dying: (Host, Node),
}

impl Home {
    fn new(lab: &mut Lab, server: &Server, kind: NatKind) -> Option<Self> {
        let mut gateway = match lab.gateway(kind) {
            Ok(gateway) => gateway,
            Err(error) if error.is_unavailable() => {
                skip("leases_are_renewed", &error.to_string());
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let (url, token, lease) = (server.url(), server.join_token(), format!("{}s", LEASE.as_secs()));
        let [living, dying] = ["alice", "bob"].map(|name| {
            let host = lab.host_behind(&mut gateway).expect("a host");
            let name = format!("{name}-{kind:?}");
            let args = ["--port-lease", &lease];
            let node = Node::start(host.command(meetpoint()), &url, &name, Some(&token), &args);
            (host, node)
        });
        Some(Self { kind, router: lab.router(&gateway), living, dying })
    }

    fn is_mapped(&self, host: &Host) -> bool {
        let to = format!("dnat ip to {}:", host.addr());
        mappings(&self.router).iter().any(|rule| rule.contains(&to))
    }
}

/// By UPnP and by PCP: of two nodes behind one router the lease of the one that dies ends, that of the other is renewed
/// before it would, and taken back when its node leaves.
#[test]
fn leases_are_renewed() {
    let Some(mut lab) = lab_or_skip("leases_are_renewed") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let seed = format!("main@{}:8080", SERVER_ADDRS[0]);
    let server = serve(&lab, &data.path().join("data"), &["--seed", &seed]);
    let kinds = [NatKind::UpnpRouter, NatKind::PcpRouter];
    let Some([mut upnp, mut pcp]) = all(kinds.map(|kind| Home::new(&mut lab, &server, kind))) else { return };
    for home in [&mut upnp, &mut pcp] {
        until_reachable(&mut home.living.1);
        until_reachable(&mut home.dying.1);
        assert!(home.is_mapped(&home.living.0) && home.is_mapped(&home.dying.0), "{:?}", home.kind);
    }
    for home in [&mut upnp, &mut pcp] {
        home.dying.1.process.kill().expect("it dies");
    }
    let killed = Instant::now();
    // Whatever was granted before has ended by then.
    while killed.elapsed() < LEASE + LOOK || [&upnp, &pcp].iter().any(|home| home.is_mapped(&home.dying.0)) {
        for home in [&upnp, &pcp] {
            assert!(home.is_mapped(&home.living.0), "{:?}: lost after {:?}", home.kind, killed.elapsed());
        }
        assert!(killed.elapsed() < LEASE + SWEEP, "a lease without an end");
        thread::sleep(LOOK);
    }
    println!("after {:?} those of the dead have ended, and the others are there", killed.elapsed());
    for home in [&mut upnp, &mut pcp] {
        assert_eq!(home.living.1.process.terminate().expect("a clean end").code(), Some(0));
        home.living.1.event("left");
        assert_eq!(mappings(&home.router), Vec::<String>::new(), "{:?}: taken back by who left", home.kind);
    }
}

/// Both, if there are both.
fn all<T>(of: [Option<T>; 2]) -> Option<[T; 2]> {
    let [first, second] = of;
    Some([first?, second?])
}

/// A node of a PRIVATE cluster asks no router for anything.
#[test]
fn no_router_is_asked_in_a_private_cluster() {
    let Some(mut lab) = lab_or_skip("no_router_is_asked_in_a_private_cluster") else { return };
    let mut gateway = match lab.gateway(NatKind::UpnpRouter) {
        Ok(gateway) => gateway,
        Err(error) if error.is_unavailable() => {
            return skip("no_router_is_asked_in_a_private_cluster", &error.to_string());
        }
        Err(error) => panic!("{error}"),
    };
    let [machine, host] = [(); 2].map(|()| lab.host_behind(&mut gateway).expect("a host"));
    let router = lab.router(&gateway);
    let data = tempfile::tempdir().expect("a directory");
    let http = format!("{}:8080", machine.addr());
    let stun = format!("{}:3478", machine.addr());
    for (kind, more) in [("DYNAMIC", &[][..]), ("PRIVATE", &["--cluster-network-type", "PRIVATE"])] {
        let args = ["--http", &http, "--stun", &stun, "--stun-alt-port", "0", "--cluster-network-type", kind];
        let server = Server::start(machine.command(meetpoint()), &data.path().join(kind), &args);
        let (url, token) = (server.url(), server.join_token());
        let mut node = Node::start(host.command(meetpoint()), &url, "subject", Some(&token), more);
        assert_eq!(node.event("joined")["effective"], "PRIVATE");
        node.event("classified");
        // Asking would have taken a few milliseconds.
        thread::sleep(Duration::from_millis(500));
        assert_eq!(mappings(&router), Vec::<String>::new(), "{kind}");
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
        assert_eq!(node.event("left")["blocked"], 0, "{kind}");
    }
}
