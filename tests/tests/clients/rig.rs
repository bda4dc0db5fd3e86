//! A lab with a relay in it that anybody with a credential may use.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream};

use meetpoint_cli::lab::{Host, Lab, NatKind, Process, SERVER_ADDRS};
use meetpoint_proto::token::JoinToken;
use meetpoint_tests::binary::{PATIENCE, Server, meetpoint};
use meetpoint_tests::lab::lab_or_skip;
use serde_json::Value;
use tempfile::TempDir;

/// The network of the lab's public hosts in IPv6. As with its IPv4 addresses, software must take it for the internet.
const IPV6_NETWORK: [u16; 4] = [0x2a00, 0x20, 0, 0];

/// The server's address in IPv6.
pub(crate) const SERVER_IPV6: Ipv6Addr = public_ipv6(1);

const fn public_ipv6(host: u16) -> Ipv6Addr {
    let [a, b, c, d] = IPV6_NETWORK;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, host)
}

/// What a client needs to be relayed.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The lab and the running server. Dropping it ends everything.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) lab: Lab,
    _data: TempDir,
}

impl Rig {
    /// Starts the server on its two IPv4 addresses and one of IPv6, with relayed addresses in both families; `None` if
    /// the test `name` must be skipped.
    pub(crate) fn start(name: &str) -> Option<Self> {
        let lab = lab_or_skip(name)?;
        add_ipv6(lab.server(), SERVER_IPV6);
        let data = tempfile::tempdir().expect("a directory");
        let [first, second] = SERVER_ADDRS;
        let (http, stun) =
            (format!("{first}:8080"), format!("{first}:3478,{second}:3478,[{SERVER_IPV6}]:3478"));
        let (seed, relay) = (format!("main@{http}"), format!("{first},{SERVER_IPV6}"));
        let args = ["--http", &http, "--stun", &stun, "--seed", &seed, "--relay-ip", &relay];
        let server = Server::start(lab.server().command(meetpoint()), &data.path().join("data"), &args);
        Some(Self { server, lab, _data: data })
    }

    /// SHA-256 over the public key of the server's certificate, as its join token has it.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let token: JoinToken = self.server.join_token().parse().expect("a join token");
        *token.fingerprint().expect("a fingerprint").as_bytes()
    }

    /// A host with a public address in each family.
    pub(crate) fn public_host(&mut self) -> (Host, Ipv6Addr) {
        let host = self.lab.node(NatKind::Open).expect("a host");
        let addr = public_ipv6(host.addr().octets()[3].into());
        add_ipv6(&host, addr);
        (host, addr)
    }

    /// Mints a relay credential over REST, on the server's own host.
    pub(crate) fn credential(&self, user: &str) -> Credential {
        let token = std::fs::read_to_string(self.server.data.join("admin-token")).expect("an admin token");
        let (token, http, body) = (token.trim(), self.server.http, format!(r#"{{"user":"{user}"}}"#));
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
        let answer = self.lab.server().run_in(ask).expect("the server's host").expect("an answer");
        let (_, json) = answer.split_once("\r\n\r\n").expect("a body");
        let json: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let field =
            |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
        Credential { username: field("username"), password: field("password") }
    }
}

/// The lab itself knows IPv4 only.
fn add_ipv6(host: &Host, addr: Ipv6Addr) {
    let mut command = host.command("ip");
    // Nobody else has the address, so looking for a duplicate would only delay its use.
    command.args(["-6", "addr", "add", &format!("{addr}/64"), "dev", "wan", "nodad"]);
    let mut process = Process::spawn("ip", &mut command).expect("it starts");
    let status = process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "the lab needs a kernel with IPv6\n{}", process.output());
}
