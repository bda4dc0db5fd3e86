//! The command line's contract, on loopback: events, exit codes, files, signals.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use meetpoint_tests::bench::meter::Meter;
use meetpoint_tests::binary::{Node, PATIENCE, Server, meetpoint};
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Command::new(meetpoint()).args(args).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_nodes_on_loopback_meet_and_say_so() {
    let data = tempfile::tempdir().expect("a directory");
    let mut server = Server::on_loopback(&data.path().join("data"), &[]);
    let (url, token) = (server.url(), server.join_token());
    let mut bob = Node::start(Command::new(meetpoint()), &url, "bob", Some(&token), &["--echo"]);
    assert_eq!(bob.event("joined")["effective"], "PRIVATE");
    assert_eq!(bob.event("classified")["class"], "Loopback");
    let mut alice =
        Node::start(Command::new(meetpoint()), &url, "alice", Some(&token), &["--connect", "bob"]);
    assert_eq!(alice.event("joined")["cluster"], "default");
    let path = alice.event("path");
    assert_eq!((path["peer"].as_str(), path["kind"].as_str()), (Some("bob"), Some("direct")));
    assert!(path["rtt_ms"].is_f64() && path["elapsed_ms"].is_f64(), "{path}");
    assert_eq!(alice.event("echo")["bytes"], 65_536);
    assert_eq!(alice.event("echo")["bytes"], 64);
    for node in [&mut alice, &mut bob] {
        assert_eq!(node.process.terminate().expect("a clean end").code(), Some(0));
        node.event("left");
    }
    assert_eq!(server.process.terminate().expect("a clean end").code(), Some(0));
}

#[test]
fn a_rejected_node_exits_3_with_code_and_hint() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &[]);
    let good = server.join_token();
    let cases: &[(Option<&str>, &[&str], &str)] = &[
        (None, &[], "token_required"),
        (Some("not-the-servers-token"), &[], "bad_token"),
        (Some(&good), &["--cluster", "other"], "unknown_cluster"),
        (Some(&good), &["--node-network-type", "PUBLIC"], "declared_public_but_private"),
        (Some(&good), &["--node-addr", "20.0.0.1:1"], "node_addr_mismatch"),
        (Some(&good), &["--cluster-network-type", "PRIVATE"], "cluster_type_mismatch"),
    ];
    for (token, args, code) in cases {
        // Without the minted token there is no fingerprint, so these speak plain HTTP to loopback.
        let url = format!("http://{}", server.http);
        let mut node = Node::start(Command::new(meetpoint()), &url, "mallory", *token, args);
        let rejected = node.event("rejected");
        assert_eq!(rejected["code"], *code);
        assert!(rejected["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
        assert_eq!(node.exit_code(), Some(3), "{code}");
    }
    let mut holder = Node::start(Command::new(meetpoint()), &server.url(), "alice", Some(&good), &[]);
    holder.event("joined");
    let mut second = Node::start(Command::new(meetpoint()), &server.url(), "alice", Some(&good), &[]);
    assert_eq!(second.event("rejected")["code"], "name_taken");
    assert_eq!(second.exit_code(), Some(3));
}

#[test]
fn the_wrong_server_gets_nothing() {
    let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let mine = Server::on_loopback(&one.path().join("data"), &[]);
    let impostor = Server::on_loopback(&two.path().join("data"), &["--open-join"]);
    let mut node =
        Node::start(Command::new(meetpoint()), &impostor.url(), "alice", Some(&mine.join_token()), &[]);
    assert_eq!(node.exit_code(), Some(4));
    let said = node.process.output().to_string();
    assert!(said.contains("fingerprint"), "{said}");
}

#[test]
fn bad_usage_exits_2_and_names_the_flag() {
    let data = tempfile::tempdir().expect("a directory");
    let dir = data.path().join("data");
    let dir = dir.to_str().expect("UTF-8");
    let serve = |args: &[&str]| {
        let base = [
            "serve",
            "--data",
            dir,
            "--http",
            "127.0.0.1:0",
            "--stun",
            "127.0.0.1:0",
            "--stun-alt-port",
            "0",
        ];
        run(&[&base, args].concat())
    };
    let cases: &[(&[&str], &str)] = &[
        (&["--cluster-network-type", "OPEN"], "--cluster-network-type"),
        (&["--cluster-network-type", "PUBLIC"], "seed"),
        (&["--cluster-network-type", "PUBLIC", "--seed", "a@10.0.0.1:80"], "a@10.0.0.1:80"),
        (&["--cluster-network-type", "PRIVATE", "--seed", "a@20.0.0.1:80"], "a@20.0.0.1:80"),
        (&["--seed", "seed1@192.168.1.10"], "port is missing"),
        (&["--seed", "192.168.1.10:4369"], "name is missing"),
        (&["--join-token", "short"], "--join-token"),
        (&["--admin-token", "short"], "--admin-token"),
        (&["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], "--tls-cert"),
        (&["--tls-cert", "/nonexistent"], "--tls-key"),
        (&["--external-ip", "nowhere"], "--external-ip"),
        (&["--stun", "127.0.0.2:0", "--stun", "127.0.0.3:0"], "--stun"),
    ];
    for (args, names) in cases {
        let output = serve(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(names), "{args:?}: {}", stderr(&output));
        assert!(!Path::new(dir).exists(), "{args:?}: something was stored");
    }
    let node = |args: &[&str]| run(&[&["node", "--name", "a"], args].concat());
    for (args, names) in [
        (&["--rendezvous", "ftp://x"][..], "http"),
        (&["--rendezvous", "http://20.0.0.1:8080"], "insecure-http"),
        (&["--rendezvous", "http://127.0.0.1:1", "--name", "a b"], "name"),
        (&["--rendezvous", "http://127.0.0.1:1", "--join-token", "mpj1xx"], "token"),
        (&[], "--rendezvous"),
    ] {
        let output = node(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(names), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn secrets_are_files_for_the_owner_alone() {
    let data = tempfile::tempdir().expect("a directory");
    let dir = data.path().join("data");
    let mut server = Server::on_loopback(&dir, &[]);
    let token = server.join_token();
    let admin = std::fs::read_to_string(dir.join("admin-token")).expect("an admin token");
    for entry in ["", "join-token", "admin-token"] {
        let mode = std::fs::metadata(dir.join(entry)).expect("it exists").permissions().mode() & 0o777;
        assert_eq!(mode, if entry.is_empty() { 0o700 } else { 0o600 }, "{entry}");
    }
    server.process.terminate().expect("a clean end");
    // Its output is not a terminal: no secret is in it.
    let said = server.process.output().to_string();
    assert!(!said.contains(token.trim()) && !said.contains(admin.trim()), "{said}");
}

#[test]
fn the_operator_handles_the_relay() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &["--relay-ip", "127.0.0.1"]);
    let (url, file) = (format!("http://{}", server.http), server.data.join("admin-token"));
    let operate = |args: &[&str]| -> String {
        let mut command = Command::new(meetpoint());
        command.arg("relay").args(args).args(["--server", &url, "--admin-token-file"]).arg(&file);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&operate(&[args, &["--json"]].concat())).expect("JSON")
    };
    let password = data.path().join("password");
    std::fs::write(&password, "winter garden\n").expect("written");
    let given = json(&["users", "set", "alice", "--password-file", password.to_str().expect("UTF-8")]);
    assert_eq!((&given["user"]["name"], given.get("password")), (&Value::from("alice"), None));
    let made = operate(&["users", "set", "bob"]);
    assert_eq!(made.trim().len(), 32, "the password alone: {made}");
    assert!(operate(&["users", "list"]).contains("alice"));
    operate(&["users", "remove", "alice"]);
    assert_eq!(json(&["users", "list"]).as_array().map(Vec::len), Some(1));

    let value = operate(&["secrets", "add", "--overlap", "60"]);
    let file = std::fs::read_to_string(server.data.join("credential-secret")).expect("a secret");
    assert_eq!(value, file);
    let list = json(&["secrets", "list"]);
    assert_eq!((&list[0]["state"], &list[1]["state"]), (&"current".into(), &"accepted".into()));
    operate(&["secrets", "drop", list[1]["id"].as_str().expect("an id")]);
    assert_eq!(operate(&["secrets", "list"]).lines().count(), 2);
    assert_eq!(json(&["sessions", "list"]), Value::Array(vec![]));
}

#[test]
fn the_operator_sees_nodes_and_handles_tokens() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &[]);
    let (url, file) = (format!("http://{}", server.http), server.data.join("admin-token"));
    let operate = |args: &[&str]| -> Output {
        let mut command = Command::new(meetpoint());
        command.args(args).args(["--server", &url, "--admin-token-file"]).arg(&file);
        command.output().expect("the binary runs")
    };
    let json = |args: &[&str]| -> Value {
        let output = operate(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let status = json(&["status"]);
    assert!(status["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()), "{status}");
    let made = json(&["tokens", "create", "--label", "test", "--max-uses", "1"]);
    let (id, token) =
        (made["token"]["id"].as_str().expect("an id"), made["secret"].as_str().expect("a secret"));
    let mut alice = Node::start(Command::new(meetpoint()), &server.url(), "alice", Some(token), &[]);
    alice.event("joined");
    let mut bob = Node::start(Command::new(meetpoint()), &server.url(), "bob", Some(token), &[]);
    assert_eq!(bob.event("rejected")["code"], "bad_token", "one use is one node");
    let nodes = json(&["nodes"]);
    assert_eq!(nodes[0]["name"], "alice");
    assert!(nodes[0]["presence"]["session"].is_string(), "{nodes}");
    json(&["tokens", "revoke", id]);
    let list = json(&["tokens", "list"]);
    let revoked = list.as_array().expect("a list").iter().find(|entry| entry["id"] == id).expect("the token");
    assert_eq!(revoked["state"], "revoked");
    assert!(!list.to_string().contains(token), "a list never shows a secret");
    // For people: tables.
    let table = String::from_utf8(operate(&["nodes"]).stdout).expect("UTF-8");
    assert!(table.starts_with("NAME") && table.contains("alice") && table.contains("present"), "{table}");
    let denied = Command::new(meetpoint())
        .args(["nodes", "--server", &url, "--admin-token-file", "/dev/null"])
        .output()
        .expect("the binary runs");
    assert_eq!(denied.status.code(), Some(1), "{}", stderr(&denied));
}

#[test]
fn the_audit_log_is_checked_over_the_wire_and_on_disk() {
    let data = tempfile::tempdir().expect("a directory");
    let mut server = Server::on_loopback(&data.path().join("data"), &[]);
    let (url, dir) = (format!("http://{}", server.http), server.data.clone());
    let verify = |args: &[&str]| -> Output {
        let mut command = Command::new(meetpoint());
        command.args(["audit", "verify"]).args(args).output().expect("the binary runs")
    };
    let head = |args: &[&str]| -> String {
        let output = verify(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        said.lines().find_map(|line| line.strip_prefix("head ")).expect("a head").to_owned()
    };
    let (viewer, dir) = (dir.join("viewer-token"), dir.to_str().expect("UTF-8"));
    let served = ["--server", &url, "--viewer-token-file", viewer.to_str().expect("UTF-8")];
    let noted = head(&served);
    assert_eq!(head(&["--data", dir]), noted, "both look at the same log");
    server.process.terminate().expect("a clean end");
    let longer = head(&["--data", dir, "--head", &noted]);
    assert_ne!(longer, noted);
    let forged = format!("{}:{}", longer.split_once(':').expect("a number").0, "00".repeat(32));
    let output = verify(&["--data", dir, "--head", &forged]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("was made anew"), "{}", stderr(&output));
    assert_eq!(verify(&["--data", "/nowhere"]).status.code(), Some(1));
    assert_eq!(verify(&["--data", dir, "--head", "x"]).status.code(), Some(2));
    let output = verify(&served);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn no_server_is_exit_code_4() {
    let output = run(&["status", "--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn a_restart_keeps_identity_and_refuses_another_cluster_type() {
    let data = tempfile::tempdir().expect("a directory");
    let dir = data.path().join("data");
    let mut first = Server::on_loopback(&dir, &[]);
    let (token, admin) = (first.join_token(), std::fs::read(dir.join("admin-token")).expect("a token"));
    first.process.terminate().expect("a clean end");
    let mut second = Server::on_loopback(&dir, &[]);
    assert_eq!(second.join_token(), token);
    assert_eq!(std::fs::read(dir.join("admin-token")).expect("a token"), admin);
    let mut alice = Node::start(Command::new(meetpoint()), &second.url(), "alice", Some(&token), &[]);
    alice.event("joined");
    second.process.terminate().expect("a clean end");
    let dir = dir.to_str().expect("UTF-8");
    let base =
        ["serve", "--data", dir, "--http", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--stun-alt-port", "0"];
    let output = run(&[&base[..], &["--cluster-network-type", "PRIVATE"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("DYNAMIC"), "{}", stderr(&output));
}

/// What it makes of it is in the log; that it goes on is half of the point.
#[test]
fn a_hangup_has_the_certificate_read_again() {
    let data = tempfile::tempdir().expect("a directory");
    let mut server = Server::on_loopback(&data.path().join("data"), &[]);
    let certificate = server.data.join("tls/cert.pem");
    for expected in ["reloaded certificate=\"same\"", "not reloaded; all is as it was"] {
        let hangup = Command::new("kill").args(["-HUP", &server.process.id().to_string()]).status();
        assert!(hangup.expect("kill runs").success());
        let deadline = Instant::now() + PATIENCE;
        while !server.process.output().to_string().contains(expected) {
            assert!(Instant::now() < deadline, "{}", server.process.output());
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_file(&certificate).unwrap_or_default();
    }
    assert_eq!(server.process.terminate().expect("a clean end").code(), Some(0));
}

#[test]
fn the_demo_runs_without_root() {
    let output = run(&["demo", "--loopback", "--once"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", stderr(&output));
    for part in ["does not show", "joined", "classified", "introduced", "direct in"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What a small virtual machine can spare: resident memory of a server at rest, pages of its own program included.
const MOST_BYTES_AT_REST: u64 = 64 << 20;

#[test]
fn a_server_at_rest_is_small() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::on_loopback(&data.path().join("data"), &[]);
    let token = server.join_token();
    let meter = Meter::new(server.process.id()).expect("a process");
    await_ready(&server);
    let idle = meter.resident_bytes().expect("its memory");
    let mut nodes: Vec<Node> = (0..8)
        .map(|number| {
            let name = format!("node-{number}");
            Node::start(Command::new(meetpoint()), &server.url(), &name, Some(&token), &[])
        })
        .collect();
    for node in &mut nodes {
        node.event("joined");
    }
    await_ready(&server);
    let with_nodes = meter.resident_bytes().expect("its memory");
    println!("resident: {idle} bytes, with {} nodes {with_nodes}", nodes.len());
    assert!(idle.max(with_nodes) < MOST_BYTES_AT_REST, "{idle} bytes, with nodes {with_nodes}");
}

/// Waits until the server has tried everything it is for, and found that it works.
fn await_ready(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(server.http).expect("a connection");
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("a request");
        stream.read_to_string(&mut answer).expect("an answer");
        if answer.starts_with("HTTP/1.1 200 ") {
            return;
        }
        assert!(Instant::now() < deadline, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
