//! `meetpoint explain`: why two nodes meet directly, and why two others do not.

use std::time::{Duration, Instant};

use meetpoint_cli::lab::{NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;
use serde_json::Value;

/// Two kinds of NAT, and what has to be said of a pair behind them.
const CASES: [([NatKind; 2], [&str; 3]); 2] = [
    (
        [NatKind::PortRestricted, NatKind::AddressRestricted],
        ["alice: a port-restricted NAT", "bob: an address-restricted NAT", "they met directly "],
    ),
    (
        [NatKind::SymmetricRandom, NatKind::SymmetricRandom],
        [
            "alice: a symmetric NAT",
            "bob: a symmetric NAT",
            "both come from another port for each destination",
        ],
    ),
];

#[test]
fn a_pair_is_explained_from_what_is_known_of_it() {
    let Some(mut lab) = lab_or_skip("a_pair_is_explained_from_what_is_known_of_it") else { return };
    let data = tempfile::tempdir().expect("a directory");
    for (number, (kinds, parts)) in CASES.iter().enumerate() {
        let [alice, bob] = kinds.map(|kind| lab.node(kind).expect("a host"));
        let port = 8080 + number;
        let [stun, alternate] = SERVER_ADDRS.map(|ip| format!("{ip}:{}", 3478 + 10 * number));
        let (http, seed) = (format!("0.0.0.0:{port}"), format!("main@{}:{port}", SERVER_ADDRS[0]));
        let alternate_port = (3479 + 10 * number).to_string();
        let args =
            ["--stun", &stun, "--stun", &alternate, "--stun-alt-port", &alternate_port, "--seed", &seed];
        let args = [&["--http", &http, "--stun-tcp", "off", "--stun-tls", "off"][..], &args].concat();
        let server =
            Server::start(lab.server().command(meetpoint()), &data.path().join(number.to_string()), &args);
        let (url, token) = (format!("https://{}:{port}", SERVER_ADDRS[0]), server.join_token());
        let start = |host: &meetpoint_cli::lab::Host, name: &str, args: &[&str]| {
            Node::start(host.command(meetpoint()), &url, name, Some(&token), args)
        };
        let _bob = start(&bob, "bob", &["--echo"]);
        let _alice = start(&alice, "alice", &["--connect", "bob"]);
        let explain = |json: bool| {
            let mut command = lab.server().command(meetpoint());
            let token = server.data.join("admin-token");
            command.args(["explain", "alice", "bob", "--server", &format!("http://127.0.0.1:{port}")]);
            command.arg("--admin-token-file").arg(token).args(json.then_some("--json"));
            let output = command.output().expect("it runs");
            (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let deadline = Instant::now() + 2 * PATIENCE;
        let text = loop {
            let (code, text) = explain(false);
            if code == Some(0) && parts.iter().all(|part| text.contains(part)) {
                break text;
            }
            assert!(Instant::now() < deadline, "{kinds:?}: {code:?} {text}");
            std::thread::sleep(Duration::from_millis(100));
        };
        let (_, json) = explain(true);
        let pair: Value = serde_json::from_str(&json).expect("JSON");
        let introduction = &pair["introductions"][0];
        let outcome = introduction["outcome"].as_str().expect("an outcome");
        let is_direct = text.contains("they met directly");
        assert!(if is_direct { outcome == "direct" } else { outcome != "direct" }, "{pair}");
        let offered = introduction["sides"][0]["offered"].as_array().expect("candidates");
        assert!(offered.contains(&"srflx".into()), "{pair}");
    }
}
