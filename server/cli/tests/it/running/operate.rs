//! The operator's commands against a server that runs.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use flate2::read::GzDecoder;
use meetpoint_cli::lab::Process;
use serde_json::Value;

use super::node::node;
use super::server::{PATIENCE, Server, meetpoint, run};
use crate::scratch::Scratch;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn done(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&done(command.arg("--json")).stdout).expect("JSON")
}

/// Every secret that there is, and what a careless log may hold.
#[test]
fn a_bundle_holds_no_secret() {
    let dir = Scratch::new();
    let server = Server::start(&dir.path().join("data"), 0);
    let _alice = node(&server, "alice", &[]);
    let mut secrets = Vec::new();
    for (args, field) in [
        (&["tokens", "create"][..], "secret"),
        (&["secrets", "create"], "value"),
        (&["relay", "users", "set", "bob"], "password"),
        (&["relay", "secrets", "add"], "value"),
    ] {
        let made = json(&mut server.operate(args));
        secrets.push(made[field].as_str().unwrap_or_else(|| panic!("{args:?}: {made}")).to_owned());
    }
    for name in ["admin-token", "viewer-token", "join-token", "credential-secret", "seed-key", "tls/key.pem"]
    {
        let text = std::fs::read_to_string(server.data.join(name)).expect("a secret");
        secrets.extend(text.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
    }
    let given = "hunter2hunter2hunter2";
    let log = dir.path().join("server.log");
    let careless: Vec<String> =
        secrets.iter().enumerate().map(|(at, secret)| format!("{at} password={secret} x\n")).collect();
    let careless = careless.concat() + "it goes on\nMEETPOINT_SEED_TOKEN=" + given + "\n";
    std::fs::write(&log, &careless).expect("written");
    secrets.push(given.to_owned());

    let file = dir.path().join("bundle.tar.gz");
    let mut command = server.operate(&["bundle", "--log", text(&log), text(&file)]);
    let told = json(command.env("MEETPOINT_ADMIN_TOKEN", given));
    let archive = std::fs::File::open(&file).expect("an archive");
    let (mut names, mut all) = (Vec::new(), String::new());
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        names.push(text(&entry.path().expect("a name")).to_owned());
        entry.read_to_string(&mut all).expect("text");
    }
    for secret in &secrets {
        assert!(!all.contains(secret.as_str()), "{secret} is in it");
    }
    for part in [
        "version.txt",
        "config.txt",
        "status.json",
        "nodes.json",
        "events.json",
        "relay-sessions.json",
        "audit.txt",
        "logs/1-server.log",
    ] {
        assert!(names.contains(&format!("meetpoint-bundle/{part}")), "{part}: {names:?}, {told}");
    }
    for part in ["alice", "it goes on", "intact", "(hidden)", "(redacted)"] {
        assert!(all.contains(part), "{part}");
    }
}

/// A server that is gone is told of, too.
#[test]
fn a_bundle_is_made_without_a_server() {
    let dir = Scratch::new();
    let file = dir.path().join("bundle.tar.gz");
    let told = json(meetpoint().args(["bundle", "--server", "http://127.0.0.1:1", text(&file)]));
    assert!(
        told["missing"].as_array().is_some_and(|missing| missing.contains(&"status.json".into())),
        "{told}"
    );
    assert!(file.exists());
}

#[test]
fn events_are_followed_over_a_restart() {
    let dir = Scratch::new();
    let data = dir.path().join("data");
    let mut server = Server::start(&data, 0);
    let port = server.http.port();
    let put = |server: &Server, seed: &str| {
        done(&mut server.operate(&["seeds", "put", seed]));
    };
    put(&server, "one@127.0.0.1:4001");
    let kept = String::from_utf8(done(&mut server.operate(&["events"])).stdout).expect("UTF-8");
    assert!(kept.contains("seed:status default") && kept.contains("\"one\""), "{kept}");
    let mut follow =
        server.operate(&["events", "--follow", "--json", "--types", "seed:status", "--after", "0"]);
    let mut follow = Process::spawn("follower", &mut follow).expect("it starts");
    let mut seen = |what: &str, seed: Option<&str>| {
        let pick = |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            let is_it = event["type"] == what && seed.is_none_or(|name| event["data"]["name"] == name);
            is_it.then_some(event)
        };
        follow.expect_line(what, PATIENCE, pick).unwrap_or_else(|error| panic!("{error}"))
    };
    seen("seed:status", Some("one"));
    put(&server, "two@127.0.0.1:4002");
    seen("seed:status", Some("two"));
    server.process.kill().expect("a kill");
    let server = Server::start(&data, port);
    let gap = seen("system:gap", None);
    assert_eq!(gap["data"]["reason"], "restarted", "{gap}");
    put(&server, "three@127.0.0.1:4003");
    seen("seed:status", Some("three"));
}

#[test]
fn a_peer_is_pinged_over_the_mesh() {
    let dir = Scratch::new();
    let server = Server::start(&dir.path().join("data"), 0);
    let _bob = node(&server, "bob", &[]);
    let token = server.data.join("join-token");
    let ping = |peer: &str| {
        let mut command = meetpoint();
        command.args(["ping", "--interval", "10ms", "--rendezvous", &format!("https://{}", server.http)]);
        command.args(["--json", "--join-token-file", text(&token), peer]).output().expect("it runs")
    };
    let answered = ping("bob");
    let told: Value = serde_json::from_slice(&answered.stdout).expect("JSON");
    assert_eq!(
        (told["path"].as_str(), told["sent"].as_u64(), told["received"].as_u64()),
        (Some("direct"), Some(4), Some(4)),
        "{told}"
    );
    assert!(answered.status.success() && told["min_ms"].as_f64() <= told["max_ms"].as_f64());
    let alone = ping("carol");
    assert_eq!(alone.status.code(), Some(1), "{}", String::from_utf8_lossy(&alone.stderr));
    // It has left nothing behind: nobody waits for that.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let nodes = json(&mut server.operate(&["nodes"]));
        if nodes.as_array().map(Vec::len) == Some(1) {
            break;
        }
        assert!(Instant::now() < deadline, "{nodes}");
    }
}

#[test]
fn health_is_an_exit_code() {
    let dir = Scratch::new();
    let mut server = Server::start(&dir.path().join("data"), 0);
    let (http, data) = (server.http.to_string(), server.data.clone());
    let [plain, tls] = ["http", "https"].map(|scheme| format!("{scheme}://{http}"));
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    let check = |args: &[&str], code: i32, says: &str| {
        let output = run(&[&["healthcheck"], args].concat());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!((output.status.code(), said.lines().count()), (Some(code), 1), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    };
    check(&["--server", &plain], 0, "ready");
    check(&["--server", &tls, "--data", text(&data)], 0, "ready");
    check(&["--server", &tls, "--fingerprint", &server.fingerprint], 0, "ready");
    check(&["--http", &format!("0.0.0.0:{}", server.http.port()), "--json"], 0, "true");
    check(&["--server", &tls, "--data", "/nonexistent"], 1, "not trusted");
    check(&["--server", &silent, "--timeout", "200ms"], 1, "did not answer");
    check(&["--server", "ftp://x"], 2, "--server");
    server.process.terminate().expect("a clean end");
    check(&["--server", &plain], 1, "check that the server runs there");
}

/// Every command of the operator answers a program, and people else.
#[test]
fn answers_for_programs_and_for_people() {
    let dir = Scratch::new();
    let server = Server::start(&dir.path().join("data"), 0);
    let _alice = node(&server, "alice", &[]);
    for args in [
        &["status"][..],
        &["nodes"],
        &["seeds", "list"],
        &["tokens", "list"],
        &["secrets", "list"],
        &["revocations", "list"],
        &["relay", "users", "list"],
        &["relay", "secrets", "list"],
        &["audit", "verify"],
        &["explain", "alice", "alice"],
    ] {
        let told = json(&mut server.operate(args));
        assert!(told.is_object() || told.is_array(), "{args:?}: {told}");
        let said = String::from_utf8(done(&mut server.operate(args)).stdout).expect("UTF-8");
        assert!(serde_json::from_str::<Value>(&said).is_err(), "{args:?}: {said}");
    }
    assert_eq!(json(&mut server.operate(&["relay", "sessions"])), Value::Array(vec![]));
    let unknown = server.operate(&["relay", "kill", "1"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(unknown.status.code() == Some(1) && said.contains("unknown_relay_session"), "{said}");
    let gone = run(&[
        "nodes",
        "--server",
        "http://127.0.0.1:1",
        "--admin-token-file",
        text(&server.data.join("admin-token")),
    ]);
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(gone.status.code() == Some(4) && said.contains("MEETPOINT_SERVER"), "{said}");
}
