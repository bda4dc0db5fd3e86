//! A node that knows several servers, by the command line and against real ones.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use meetpoint_proto::JoinToken;
use meetpoint_tests::binary::{Node, Server, meetpoint};

const QUICK: [&str; 4] = ["--retry-base", "100ms", "--retry-max", "500ms"];

fn run(args: &[&str]) -> Output {
    Command::new(meetpoint()).args(["node", "--name", "alice"]).args(args).output().expect("the binary runs")
}

/// Ends with this code, and says all of that.
fn check(args: &[&str], code: i32, says: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for part in says {
        assert!(said.contains(part), "{args:?}: {part}: {said}");
    }
}

fn fingerprint(server: &Server) -> String {
    let token: JoinToken = server.join_token().parse().expect("a token");
    token.fingerprint().expect("a fingerprint").to_string()
}

/// A loopback port that nobody listens on, as a seed.
fn nobody(name: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("{name}@{}", listener.local_addr().expect("an address"))
}

#[test]
fn what_is_no_seed_says_which_part_is_missing() {
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--seed", "seed1@192.168.1.10"],
            &["--seed", "the port is missing: write seed1@192.168.1.10:PORT"],
        ),
        (&["--seed", "192.168.1.10:4369"], &["--seed", "the name is missing: write NAME@192.168.1.10:4369"]),
        (
            &["--seed", "seed1:192.168.1.10:4369"],
            &["'@' is missing between name and host: write seed1@192.168.1.10:4369"],
        ),
        (&["--seed", "a@127.0.0.1:1,b@127.0.0.1"], &["the port is missing: write b@127.0.0.1:PORT"]),
        (&[], &["--rendezvous"]),
        (&["--rendezvous", "127.0.0.1:1"], &["127.0.0.1:1", "expected http://HOST:PORT"]),
        (&["--seeds-of", "10.0.0.1"], &["10.0.0.1", "not a DNS name"]),
        (&["--seed", "a@127.0.0.1:1", "--give-up-after", "soon"], &["--give-up-after", "30s"]),
        (&["--seed", "a@127.0.0.1:1", "--retry-base", "0"], &["--retry-base"]),
        (&["--seed", "a@127.0.0.1:1", "--retry-base", "1m"], &["--retry-max"]),
    ];
    for (args, says) in cases {
        check(args, 2, says);
    }
}

#[test]
fn a_sealed_node_goes_to_no_public_seed() {
    let sealed = ["--cluster-network-type", "PRIVATE", "--seed", "a@20.0.0.1:8080"];
    let started = Instant::now();
    check(&sealed, 2, &["20.0.0.1:8080", "not a private address"]);
    assert!(started.elapsed() < Duration::from_secs(8), "nobody was waited for");
}

#[test]
fn when_no_seed_answers_each_is_named_with_its_obstacle() {
    let (one, two) = (nobody("one"), nobody("two"));
    let limit = ["--give-up-after", "1s"];
    let started = Instant::now();
    let args = [&["--seed", &one, "--seed", &two][..], &QUICK, &limit].concat();
    check(&args, 4, &[&format!("{one}: cannot connect"), &format!("{two}: cannot connect")]);
    assert!(started.elapsed() >= Duration::from_secs(1));

    // A member too, when it has lost its server for so long.
    let folder = tempfile::tempdir().expect("a directory");
    let mut server = Server::on_loopback(folder.path(), &[]);
    let live = format!("live@{}", server.http);
    let args = [&["--seed", &one, "--seed", &live][..], &QUICK, &limit].concat();
    let token = server.join_token();
    let mut node = Node::of_servers(Command::new(meetpoint()), "alice", Some(&token), &args);
    assert_eq!(node.event("joined")["server"], live.as_str());
    server.process.kill().expect("it dies");
    assert_eq!(node.exit_code(), Some(4));
    let said = node.process.output().to_string();
    assert!(said.contains(&format!("{one}: ")) && said.contains(&format!("{live}: ")), "{said}");
}

#[test]
fn a_member_goes_on_at_another_server_and_comes_home() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let mut home = Server::on_loopback(&folder.path().join("home"), &[]);
    let token = home.join_token();
    let home_seed = format!("home@{}", home.http);

    // Somebody's membership names the cluster's key, which the other server needs.
    let (key, membership) = (file("scout.key"), file("scout.membership"));
    let files = ["--seed", &home_seed, "--key", &key, "--membership-file", &membership];
    let mut scout = Node::of_servers(Command::new(meetpoint()), "scout", Some(&token), &files);
    scout.event("joined");
    scout.process.terminate().expect("a clean end");
    let membership = std::fs::read_to_string(membership).expect("a membership");
    let (cluster_key, _) = membership.split_once(' ').expect("key and certificate");
    let flag = format!("default={cluster_key}");
    let away = Server::on_loopback(&folder.path().join("away"), &["--foreign-cluster", &flag]);
    let away_seed = format!("away@{}", away.http);

    // It can't begin away, where it has nothing to show; whichever comes first, it joins at home.
    let fingerprint = fingerprint(&away);
    let servers = ["--seed", &home_seed, "--seed", &away_seed, "--fingerprint", &fingerprint];
    let args = [&servers[..], &QUICK].concat();
    let mut alice = Node::of_servers(Command::new(meetpoint()), "alice", Some(&token), &args);
    assert_eq!(alice.event("joined")["server"], home_seed.as_str());

    home.process.kill().expect("it dies");
    let lost = Instant::now();
    assert_eq!(alice.event("joined")["server"], away_seed.as_str());
    assert!(lost.elapsed() < Duration::from_secs(10), "{:?}", lost.elapsed());

    let http = home.http.to_string();
    let listen = ["--http", &http, "--stun", "127.0.0.1:0", "--stun-alt-port", "0"];
    let _home = Server::start(Command::new(meetpoint()), &folder.path().join("home"), &listen);
    assert_eq!(alice.event("joined")["server"], home_seed.as_str());
    assert_eq!(alice.process.terminate().expect("a clean end").code(), Some(0));
    assert_eq!(alice.event("left")["blocked"], 0);
}
