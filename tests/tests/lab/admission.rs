//! Every row of the rules, as a user meets it: the real server, the real node, real NATs.
//!
//! The server starts four times: lifted and DYNAMIC, PUBLIC, without any seed, and PRIVATE on a LAN. The slowest nodes
//! have their minute of probation to fail in; meanwhile the others come one after the other, because on a machine that
//! starts all of them at once a class may be over before it is told.

use std::collections::BTreeSet;
use std::path::Path;

use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_proto::rules::{ADDRESS, ADMISSION, CLUSTER, DISCOVERY, SEED};
use meetpoint_tests::binary::{Node, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;

/// Rows that have a test of their own below.
const OWN_TESTS: &[&str] = &["seed/unvouched", "stun/unsolicited"];

/// Where a server runs, and for what cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// DYNAMIC, with a public seed.
    Lifted,
    /// PUBLIC, with a seed that is declared PUBLIC.
    Public,
    /// DYNAMIC, without a seed.
    Seedless,
    /// PRIVATE, on a LAN.
    Lan,
    /// DYNAMIC, with a public seed, and keeps nodes that can only be relayed.
    Relaying,
}

/// Where a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// The server's machine, by loopback.
    Loopback,
    /// A public address.
    Open,
    /// Behind a port-restricted NAT.
    Home,
    /// Behind one that lets everybody in.
    FullCone,
    /// Behind one that passes no UDP.
    Blocked,
    /// The server's LAN.
    Lan,
}

/// What it is told.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// These classes and their evidence, one after the other.
    Classes(&'static [(&'static str, &'static str)]),
    /// No.
    Rejected(&'static str),
}

use Told::{Classes, Rejected};

/// The flag's value is the address under which the world sees the node.
const NAMED: &str = "--node-addr=PUBLIC";

type NodeCase = (&'static [&'static str], At, From, &'static [&'static str], Told);

/// How many of [`NODES`] wait for something that does not come.
const SLOW: usize = 3;

/// The rows, the server, the node, its flags, and what it is told. The slow ones first.
const NODES: &[NodeCase] = &[
    (&["stun/not-proven", "address/named"], At::Public, From::Home, &[NAMED], Rejected("unreachable")),
    (&["stun/no-answer"], At::Lifted, From::Blocked, &[], Rejected("unreachable")),
    (&["stun/relayed"], At::Relaying, From::Blocked, &[], Classes(&[("Unreachable", "observed")])),
    (
        &["private/declared-public"],
        At::Lan,
        From::Lan,
        &["--node-network-type=PUBLIC"],
        Rejected("declared_public_but_private"),
    ),
    (
        &["private/loopback", "address/own", "cluster/dynamic", "seed/loopback"],
        At::Seedless,
        From::Loopback,
        &[],
        Classes(&[("Loopback", "observed")]),
    ),
    (
        &["private/private", "cluster/private", "seed/private"],
        At::Lan,
        From::Lan,
        &[],
        Classes(&[("Private", "observed")]),
    ),
    (&["private/public-source"], At::Seedless, From::Open, &[], Rejected("public_node_in_private_cluster")),
    (&["private/public-source"], At::Seedless, From::Home, &[], Rejected("public_node_in_private_cluster")),
    (
        &["public/private-node", "address/behind-nat", "cluster/public", "seed/declared-public"],
        At::Public,
        From::Home,
        &[],
        Rejected("private_node_in_public_cluster"),
    ),
    (&["public/private-node"], At::Public, From::Loopback, &[], Rejected("private_node_in_public_cluster")),
    (
        &["public/declared-public"],
        At::Public,
        From::Open,
        &["--node-network-type=PUBLIC"],
        Classes(&[("PublicReachable", "declared")]),
    ),
    (
        &["public/declared-private"],
        At::Public,
        From::Open,
        &["--node-network-type=PRIVATE"],
        Rejected("declared_private_in_public_cluster"),
    ),
    (
        &["public/undeclared", "stun/proven"],
        At::Public,
        From::Open,
        &[],
        Classes(&[("PublicUndefined", "observed"), ("PublicReachable", "proven")]),
    ),
    (&["dynamic/loopback"], At::Lifted, From::Loopback, &[], Rejected("loopback_in_public_cluster")),
    (
        &["dynamic/declared-public", "cluster/dynamic-lifted", "seed/listed-public"],
        At::Lifted,
        From::Open,
        &["--node-network-type=PUBLIC"],
        Classes(&[("PublicReachable", "declared")]),
    ),
    (&["dynamic/public"], At::Lifted, From::Open, &[], Classes(&[("PublicReachable", "proven")])),
    (
        &["dynamic/public", "address/named"],
        At::Lifted,
        From::Home,
        &[NAMED],
        Classes(&[("PublicUndefined", "observed")]),
    ),
    (
        &["dynamic/declared-public-but-private"],
        At::Lifted,
        From::Home,
        &["--node-network-type=PUBLIC"],
        Rejected("declared_public_but_private"),
    ),
    (
        &["dynamic/private", "stun/answered"],
        At::Lifted,
        From::Home,
        &["--node-network-type=PRIVATE"],
        Classes(&[("Private", "observed")]),
    ),
    (
        &["dynamic/private", "stun/proven"],
        At::Lifted,
        From::FullCone,
        &[],
        Classes(&[("PublicReachable", "proven")]),
    ),
    (
        &["address/named-elsewhere"],
        At::Lifted,
        From::Home,
        &["--node-addr=20.66.66.66:1"],
        Rejected("node_addr_mismatch"),
    ),
];

/// Clusters and seeds that there can't be: the row, the flags, and the code with which `serve` exits.
const STARTS: &[(&str, &[&str], &str)] = &[
    (
        "cluster/private-with-public-seed",
        &["--cluster-network-type", "PRIVATE", "--seed", "a@20.0.0.1:8090"],
        "public_seed_in_private_cluster",
    ),
    ("cluster/public-without-seed", &["--cluster-network-type", "PUBLIC"], "no_seed_in_public_cluster"),
    (
        "cluster/public-with-bad-seed",
        &["--cluster-network-type", "PUBLIC", "--seed", "a@20.0.0.1:8090,b@10.0.0.1:80"],
        "bad_seed_in_public_cluster",
    ),
    (
        "seed/declared-public-but-private",
        &["--node-network-type", "PUBLIC", "--seed", "a@127.0.0.1:8090", "--http", "127.0.0.1:8090"],
        "declared_public_but_private",
    ),
    (
        "seed/declared-private-but-public",
        &["--node-network-type", "PRIVATE", "--seed", "a@20.0.0.1:8090"],
        "declared_private_but_public",
    ),
];

/// The machines.
struct Stage {
    lab: Lab,
    open: Host,
    home: Host,
    full_cone: Host,
    blocked: Host,
    lan_server: Host,
    lan: Host,
    servers: [(At, Server, String); 5],
}

impl Stage {
    fn new(mut lab: Lab, data: &Path) -> Self {
        let [open, home, full_cone, blocked] =
            [NatKind::Open, NatKind::PortRestricted, NatKind::FullCone, NatKind::UdpBlocked]
                .map(|kind| lab.node(kind).expect("a host"));
        let mut gateway = lab.gateway(NatKind::PortRestricted).expect("a gateway");
        let [lan_server, lan] = [(); 2].map(|()| lab.host_behind(&mut gateway).expect("a host"));
        let [ip, alternate] = SERVER_ADDRS;
        let serve = |at: At, port: u16, more: &[&str]| {
            let host = if at == At::Lan { &lan_server } else { lab.server() };
            let (http, data) = (format!("0.0.0.0:{port}"), data.join(format!("{at:?}")));
            let server =
                Server::start(host.command(meetpoint()), &data, &[&["--http", &http], more].concat());
            (at, server, format!("{}:{port}", host.addr()))
        };
        let stun = |port: u16| [format!("{ip}:{port}"), format!("{alternate}:{port}")];
        let ([lifted, lifted_too], [public, public_too]) = (stun(3478), stun(3578));
        let [relaying, _] = stun(3778);
        let lan_stun = format!("{}:3478", lan_server.addr());
        let lan_seed = format!("lan@{}:8083", lan_server.addr());
        let servers = [
            serve(
                At::Lifted,
                8080,
                &["--stun", &lifted, "--stun", &lifted_too, "--seed", &format!("main@{ip}:8080")],
            ),
            serve(
                At::Public,
                8081,
                &[
                    "--stun",
                    &public,
                    "--stun",
                    &public_too,
                    "--stun-alt-port=3579",
                    "--seed",
                    &format!("main@{ip}:8081"),
                    "--cluster-network-type=PUBLIC",
                    "--node-network-type=PUBLIC",
                ],
            ),
            serve(
                At::Relaying,
                8084,
                &[
                    "--stun",
                    &relaying,
                    "--stun-alt-port=3779",
                    "--seed",
                    &format!("main@{ip}:8084"),
                    "--admit-relayed",
                ],
            ),
            serve(At::Seedless, 8082, &["--stun", "127.0.0.1:3678", "--stun-alt-port", "0"]),
            serve(
                At::Lan,
                8083,
                &[
                    "--stun",
                    &lan_stun,
                    "--stun-alt-port",
                    "0",
                    "--seed",
                    &lan_seed,
                    "--cluster-network-type=PRIVATE",
                ],
            ),
        ];
        Self { open, home, full_cone, blocked, lan_server, lan, servers, lab }
    }

    fn host(&self, from: From, at: At) -> &Host {
        match from {
            From::Loopback if at == At::Lan => &self.lan_server,
            From::Loopback => self.lab.server(),
            From::Open => &self.open,
            From::Home => &self.home,
            From::FullCone => &self.full_cone,
            From::Blocked => &self.blocked,
            From::Lan => &self.lan,
        }
    }

    fn start(&self, number: usize, (_, at, from, args, _): &NodeCase) -> Node {
        let (_, server, addr) = self.servers.iter().find(|(which, ..)| which == at).expect("all run");
        let host = self.host(*from, *at);
        let port = addr.rsplit(':').next().expect("a port");
        let url = if *from == From::Loopback {
            format!("https://127.0.0.1:{port}")
        } else {
            format!("https://{addr}")
        };
        let named = format!("--node-addr={}:40000", host.public_addr());
        let args: Vec<&str> = args.iter().map(|arg| if *arg == NAMED { &named } else { *arg }).collect();
        let name = format!("node-{number}");
        Node::start(host.command(meetpoint()), &url, &name, Some(&server.join_token()), &args)
    }
}

fn check(node: &mut Node, (rows, at, from, args, told): &NodeCase) {
    let case = format!("{rows:?}: from {from:?} to {at:?} with {args:?}");
    match told {
        Rejected(code) => {
            // Its minute, and as much again for a busy machine.
            let rejected = node.event_within("rejected", 2 * MINUTE);
            assert_eq!(rejected["code"], *code, "{case}");
            assert_eq!(node.exit_code(), Some(3), "{case}");
        }
        Classes(classes) => {
            let effective = if matches!(at, At::Seedless | At::Lan) { "PRIVATE" } else { "PUBLIC" };
            assert_eq!(node.event("joined")["effective"], effective, "{case}");
            for (class, evidence) in *classes {
                let found = node.event("classified");
                let found = (found["class"].as_str(), found["evidence"].as_str());
                assert_eq!(found, (Some(*class), Some(*evidence)), "{case}");
            }
        }
    }
}

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn every_row_by_the_real_binary() {
    let Some(lab) = lab_or_skip("every_row_by_the_real_binary") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let stage = Stage::new(lab, data.path());
    let (slow, quick) = NODES.split_at(SLOW);
    let mut waiting: Vec<Node> =
        slow.iter().enumerate().map(|(number, case)| stage.start(number, case)).collect();
    for (row, args, code) in STARTS {
        let mut command = stage.lab.server().command(meetpoint());
        command.args(["serve", "--data"]).arg(data.path().join("refused"));
        let http = if args.contains(&"--http") { &[][..] } else { &["--http", "20.0.0.1:8090"] };
        command.args(["--stun", "127.0.0.1:0", "--stun-alt-port", "0"]).args(http).args(*args);
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{row}: {said}");
        assert!(said.contains(code), "{row}: {said}");
    }
    for (number, case) in quick.iter().enumerate() {
        check(&mut stage.start(SLOW + number, case), case);
    }
    for (node, case) in waiting.iter_mut().zip(slow) {
        check(node, case);
    }
}

/// A public seed comes and goes, and the members stay where they are: they are told, and judged again.
#[test]
fn a_cluster_is_lifted_under_its_members() {
    let Some(mut lab) = lab_or_skip("a_cluster_is_lifted_under_its_members") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let mut gateway = lab.gateway(NatKind::PortRestricted).expect("a gateway");
    let [machine, host] = [(); 2].map(|()| lab.host_behind(&mut gateway).expect("a host"));
    let (http, stun) = ("0.0.0.0:8080", format!("{}:3478", machine.addr()));
    let args = ["--http", http, "--stun", &stun, "--stun-alt-port", "0"];
    let server = Server::start(machine.command(meetpoint()), &data.path().join("data"), &args);
    let url = format!("https://{}:8080", machine.addr());
    let mut node = Node::start(host.command(meetpoint()), &url, "alice", Some(&server.join_token()), &[]);
    assert_eq!(node.event("joined")["effective"], "PRIVATE");
    assert_eq!(node.event("classified")["class"], "Private");
    let path = "/v1/clusters/default/seeds/far";
    let seed = r#"{"host": "20.0.0.1", "port": 8080, "network_type": "PUBLIC"}"#;
    assert_eq!(server.operate(&machine, "PUT", path, seed).0, 201);
    assert_eq!(node.event("cluster_changed")["effective"], "PUBLIC");
    let found = node.event("classified");
    let observed = found["observed"].as_str().expect("an observed mapping");
    assert!(observed.starts_with(&format!("{}:", host.addr())), "{found}");
    assert_eq!(server.operate(&machine, "DELETE", path, "").0, 200);
    assert_eq!(node.event("cluster_changed")["effective"], "PRIVATE");
    assert_eq!(node.event("classified")["observed"], serde_json::Value::Null);
    assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
}

/// `stun/unsolicited`: two strangers that the server draws meet a node that has sent nothing to either.
#[test]
fn strangers_find_a_node_open() {
    let Some(mut lab) = lab_or_skip("strangers_find_a_node_open") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let kinds = [NatKind::Open, NatKind::PortRestricted, NatKind::PortRestricted];
    let hosts = kinds.map(|kind| lab.node(kind).expect("a host"));
    let [stun, alternate] = SERVER_ADDRS.map(|ip| format!("{ip}:3478"));
    let seed = format!("main@{}:8080", SERVER_ADDRS[0]);
    let args = ["--stun", &stun, "--stun", &alternate, "--seed", &seed, "--unsolicited-after", "2s"];
    let args = [&["--http", "0.0.0.0:8080"][..], &args].concat();
    let server = Server::start(lab.server().command(meetpoint()), &data.path().join("data"), &args);
    let (url, token) = (format!("https://{}:8080", SERVER_ADDRS[0]), server.join_token());
    let mut nodes = hosts.iter().enumerate().map(|(number, host)| {
        Node::start(host.command(meetpoint()), &url, &format!("node-{number}"), Some(&token), &[])
    });
    let mut open = nodes.next().expect("a node");
    assert_eq!(open.event("classified")["class"], "PublicReachable");
    let _strangers: Vec<Node> = nodes.collect();
    let found = open.event_within("classified", 2 * MINUTE);
    assert_eq!((&found["class"], &found["evidence"]), (&"PublicOpen".into(), &"proven".into()));
}

/// `seed/unvouched`: a public server that registers itself as a seed changes nothing before the operator vouches for
/// it.
#[test]
fn a_seed_that_nobody_vouches_for_lifts_no_cluster() {
    let Some(mut lab) = lab_or_skip("a_seed_that_nobody_vouches_for_lifts_no_cluster") else { return };
    let data = tempfile::tempdir().expect("a directory");
    let host = lab.node(NatKind::Open).expect("a host");
    let stun = format!("{}:3478", SERVER_ADDRS[0]);
    let args = ["--http", "0.0.0.0:8080", "--stun", &stun, "--stun-alt-port", "0"];
    let home = Server::start(lab.server().command(meetpoint()), &data.path().join("home"), &args);
    let operate = |method: &str, path: &str, body: &str| home.operate(lab.server(), method, path, body);
    let (status, made) = operate("POST", "/v1/clusters/default/join-tokens", r#"{"scope": "seed"}"#);
    assert_eq!(status, 201, "{made}");
    let (stun, seed) = (format!("{}:3478", host.addr()), format!("far@{}:8080", host.addr()));
    let register = format!("{}:8080", SERVER_ADDRS[0]);
    let token = made["secret"].as_str().expect("a token");
    let args = ["--http", "0.0.0.0:8080", "--stun", &stun, "--stun-alt-port", "0", "--seed", &seed];
    let args = [&args[..], &["--register-with", &register, "--seed-token", token]].concat();
    let _far = Server::start(host.command(meetpoint()), &data.path().join("far"), &args);
    let path = "/v1/clusters/default/seeds/far";
    let wait = std::time::Instant::now() + MINUTE;
    let registered = loop {
        let (status, seed) = operate("GET", path, "");
        if status == 200 {
            break seed;
        }
        assert!(std::time::Instant::now() < wait, "the seed does not register itself: {status} {seed}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(registered["approved"], false, "{registered}");
    let effective = || operate("GET", "/v1/clusters/default", "").1["effective"].clone();
    assert_eq!(effective(), "PRIVATE");
    assert_eq!(operate("PATCH", path, r#"{"approved": true}"#).0, 200);
    assert_eq!(effective(), "PUBLIC");
}

/// A row that is added without a case is noticed, and so is a case of a row that is gone.
#[test]
fn every_row_has_a_case() {
    let rows = ADMISSION.iter().map(|row| row.name).chain(SEED.iter().map(|row| row.name));
    let rows = rows.chain(CLUSTER.iter().map(|row| row.name)).chain(ADDRESS.iter().map(|row| row.name));
    let rows: BTreeSet<&str> = rows.chain(DISCOVERY.iter().map(|row| row.name)).collect();
    let cases = NODES.iter().flat_map(|(rows, ..)| rows.iter().copied());
    let cases = cases.chain(STARTS.iter().map(|(row, ..)| *row)).chain(OWN_TESTS.iter().copied());
    let cases: BTreeSet<&str> = cases.collect();
    assert_eq!(rows, cases);
}
