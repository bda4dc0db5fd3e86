//! A cluster that becomes PUBLIC under nodes that could not meet before, and PRIVATE again.

use meetpoint_cli::lab::{Gateway, Host, Lab, NatKind, SERVER_ADDRS};
use meetpoint_tests::binary::{Node, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;
use serde_json::Value;

/// The server's address on the company's own network, which reaches into both homes.
const INSIDE: &str = "10.200.0.1";
const NODES: &str = "/v1/clusters/default/nodes";
const SEED: &str = "/v1/clusters/default/seeds/far";

fn run(host: &Host, command: &str) {
    let mut words = command.split(' ');
    let mut run = host.command(words.next().expect("a program"));
    let output = run.args(words).output().expect("it runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A home that reaches the server without translation, as through a tunnel; everything else goes through its NAT.
fn home(lab: &mut Lab) -> (Gateway, Host) {
    let mut gateway = lab.gateway(NatKind::PortRestricted).expect("a gateway");
    let host = lab.host_behind(&mut gateway).expect("a host");
    let router = lab.router(&gateway);
    run(&router, &format!("ip route add {INSIDE}/32 via {}", SERVER_ADDRS[0]));
    run(&router, &format!("nft insert rule ip nat_lab to_world ip daddr {INSIDE} accept"));
    run(lab.server(), &format!("ip route add {}/32 via {}", host.addr(), gateway.addr()));
    (gateway, host)
}

/// Which sessions there are.
fn sessions(lab: &Lab, server: &Server) -> Vec<(String, Value)> {
    let (status, nodes) = server.operate(lab.server(), "GET", NODES, "");
    assert_eq!(status, 200);
    let session = |node: &Value| (node["name"].to_string(), node["presence"]["session"].clone());
    nodes["items"].as_array().expect("nodes").iter().map(session).collect()
}

#[test]
fn nodes_that_could_not_meet_do_when_their_cluster_is_lifted() {
    let Some(mut lab) = lab_or_skip("nodes_that_could_not_meet_do_when_their_cluster_is_lifted") else {
        return;
    };
    run(lab.server(), &format!("ip addr add {INSIDE}/32 dev lo"));
    let [(gateway_a, host_a), (gateway_b, host_b)] = [(); 2].map(|()| home(&mut lab));
    let data = tempfile::tempdir().expect("a directory");
    let [stun, alternate] = SERVER_ADDRS.map(|ip| format!("{ip}:3478"));
    let seed = format!("inside@{INSIDE}:8080");
    let args = ["--http", "0.0.0.0:8080", "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    let server = Server::start(lab.server().command(meetpoint()), &data.path().join("data"), &args);
    let (url, token) = (format!("https://{INSIDE}:8080"), server.join_token());
    let start = |host: &Host, name: &str, args: &[&str]| {
        Node::start(host.command(meetpoint()), &url, name, Some(&token), args)
    };
    let mut bob = start(&host_b, "bob", &["--echo"]);
    let mut alice = start(&host_a, "alice", &["--connect", "bob"]);
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.event("joined")["effective"], "PRIVATE");
        assert_eq!(node.event("classified")["class"], "Private");
    }
    // By now they have been introduced, and try in vain.
    let before = sessions(&lab, &server);
    let seed = r#"{"host": "20.0.0.1", "port": 8080, "network_type": "PUBLIC"}"#;
    assert_eq!(server.operate(lab.server(), "PUT", SEED, seed).0, 201);
    for (node, gateway) in [(&mut alice, &gateway_a), (&mut bob, &gateway_b)] {
        assert_eq!(node.event("cluster_changed")["effective"], "PUBLIC");
        let found = node.event("classified");
        let observed = found["observed"].as_str().expect("an observed mapping");
        assert!(observed.starts_with(&format!("{}:", gateway.addr())), "{found}");
    }
    let path = alice.event("path");
    let remote = path["remote"].as_str().expect("a remote address");
    assert_eq!(path["kind"], "direct");
    assert!(remote.starts_with(&format!("{}:", gateway_b.addr())), "{path}");
    assert_eq!(alice.event("echo")["bytes"], 65_536);
    assert_eq!(sessions(&lab, &server), before, "nobody has joined anew");

    assert_eq!(server.operate(lab.server(), "DELETE", SEED, "").0, 200);
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.event("cluster_changed")["effective"], "PRIVATE");
        let found = node.event("classified");
        assert_eq!((&found["class"], &found["observed"]), (&"Private".into(), &Value::Null));
    }
    assert_eq!(sessions(&lab, &server), before, "nobody has joined anew");
}
