//! The relay, used by coturn's own client: an implementation that shares nothing with ours.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use meetpoint_cli::lab::{Host, NatKind, Process, SERVER_ADDRS};
use meetpoint_tests::binary::{Server, meetpoint};
use meetpoint_tests::lab::{is_installed, lab_or_skip, skip};
use serde_json::Value;

/// Where coturn's echoing peer listens.
const PEER_PORT: &str = "13480";
/// A run sends for some seconds and waits for what is late.
const RUN: Duration = Duration::from_secs(60);
/// Messages that each client of a run sends.
const MESSAGES: &str = "20";

/// Mints a relay credential over REST, on the server's own host.
fn credential(server: &Server, host: &Host) -> (String, String) {
    let token = std::fs::read_to_string(server.data.join("admin-token")).expect("an admin token");
    let (token, http, body) = (token.trim(), server.http, r#"{"user":"tester"}"#);
    let request = format!(
        "POST /v1/relay/credentials HTTP/1.1\r\nhost: {http}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(http)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = host.run_in(ask).expect("the server's host").expect("an answer");
    let (_, json) = answer.split_once("\r\n\r\n").expect("a body");
    let json: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {answer}"));
    let field = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
    (field("username"), field("password"))
}

/// One run of the client, from behind a NAT; gives what it says of lost packets.
fn run(client: &Host, credential: &(String, String), peer: &Host, options: &[&str]) -> String {
    let mut command = client.command("turnutils_uclient");
    let peer = peer.addr().to_string();
    command.args(options).args(["-u", &credential.0, "-w", &credential.1, "-n", MESSAGES, "-m", "2"]);
    command.args(["-e", &peer, "-r", PEER_PORT, "-p", "3478", &SERVER_ADDRS[0].to_string()]);
    let mut process = Process::spawn("turnutils_uclient", &mut command).expect("it starts");
    let lost = |line: &str| line.split_once("Total lost packets ").map(|(_, rest)| rest.to_owned());
    process
        .expect_line("its count of lost packets", RUN, lost)
        .unwrap_or_else(|error| panic!("{options:?}: {error}"))
}

#[test]
fn coturns_client_is_relayed_without_loss() {
    let name = "coturns_client_is_relayed_without_loss";
    if !is_installed("turnutils_uclient") || !is_installed("turnutils_peer") {
        return skip(name, "needs coturn: on Debian, apt-get install coturn");
    }
    let Some(mut lab) = lab_or_skip(name) else { return };
    let peer = lab.node(NatKind::Open).expect("a peer");
    let client = lab.node(NatKind::PortRestricted).expect("a client");
    let data = tempfile::tempdir().expect("a directory");
    let first = SERVER_ADDRS[0].to_string();
    let (http, stun) = (format!("{first}:8080"), format!("{first}:3478"));
    let seed = format!("main@{http}");
    let args = ["--http", &http, "--stun", &stun, "--seed", &seed, "--relay-ip", &first];
    let server = Server::start(lab.server().command(meetpoint()), &data.path().join("data"), &args);
    let mut echo = peer.command("turnutils_peer");
    echo.args(["-L", &peer.addr().to_string(), "-p", PEER_PORT]);
    let _echo = Process::spawn("turnutils_peer", &mut echo).expect("it starts");
    let credential = credential(&server, lab.server());
    // Channels, Send indications, and both again between two of its own clients by the relay.
    for options in [&[][..], &["-s"], &["-y"], &["-y", "-s"]] {
        let lost = run(&client, &credential, &peer, options);
        assert!(lost.starts_with("0 "), "{options:?}: {lost}");
    }
    let stranger = ("1:nobody".to_owned(), "guess".to_owned());
    let mut refused = client.command("turnutils_uclient");
    refused.args(["-u", &stranger.0, "-w", &stranger.1, "-e", &peer.addr().to_string(), "-r", PEER_PORT]);
    refused.args(["-p", "3478", &first]);
    let mut refused = Process::spawn("turnutils_uclient", &mut refused).expect("it starts");
    let status = refused.wait(RUN).unwrap_or_else(|error| panic!("{error}"));
    assert!(!status.success(), "nobody is relayed without a credential");
}
