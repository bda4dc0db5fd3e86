//! A fresh pair of network namespaces for each measurement, with one cable between them, and servers to put there.
//!
//! The server has one namespace to itself, with no packet filter and no connection tracking; clients and peers share
//! the other. The lab's own network has a switch in it, whose work the kernel would book on whoever sends; so there is
//! a direct cable besides it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use meetpoint_cli::lab::{Host, Lab, NatKind, Process};
use meetpoint_turn::Secret;

use super::BenchError;
use super::meter::Meter;
use super::turn::{Credentials, await_relay, await_server};
use super::workload::{Sources, Target, Workload};

// These look public on purpose: relays refuse peers that are not. Nothing leaves the machine.
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(21, 0, 0, 1);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(21, 0, 0, 2);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(21, 0, 0, 3);
/// Behind the clients' end of the cable, each of them theirs.
const SOURCES: Sources = Sources { first: Ipv4Addr::new(22, 0, 0, 1), count: 8192 };
const SOURCES_BLOCK: &str = "22.0.0.0/16";
/// Routed to the server's namespace, which has no such address and forwards nothing.
const NOBODY_IP: Ipv4Addr = Ipv4Addr::new(23, 0, 0, 1);
const PORT: u16 = 3478;
const HTTP_PORT: u16 = 8080;
const CABLE: &str = "bench";
/// The secret of coturn's credentials.
const SECRET: &str = "a secret of the benchmark alone";
/// Servers start in less than a second; a busy machine may take longer.
const START: Duration = Duration::from_secs(20);

/// What coturn's documentation advises for production, with time-limited credentials, and nothing logged.
pub const COTURN_FLAGS: [&str; 16] = [
    "-n",
    "--no-cli",
    "--no-tls",
    "--no-dtls",
    "--no-software-attribute",
    "--no-rfc5780",
    "--response-origin-only-with-rfc5780",
    "--no-stun-backward-compatibility",
    "--no-dynamic-ip-list",
    "--no-dynamic-realms",
    "--no-auth-pings",
    "--use-auth-secret",
    "--realm=bench",
    "--log-file=/dev/null",
    "--no-stdout-log",
    "--simple-log",
];

/// Meetpoint limits by default what coturn does not: answers to one address, and bytes. A closed loop from one address
/// is meant to go beyond. Not so for [`Workload::Flood`], where the limits are what is measured.
pub const UNBOUNDED_FLAGS: [&str; 5] = [
    "--stun-budget=1000000",
    "--relay-rate=1G",
    "--relay-rate-per-user=1G",
    "--relay-rate-per-source=1G",
    "--relay-rate-total=1G",
];

/// A server to measure.
#[derive(Debug, Clone)]
pub struct Contestant {
    /// What the table calls it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What a server is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// coturn's `turnserver`.
    Coturn {
        /// The program.
        program: PathBuf,
        /// More arguments.
        args: Vec<String>,
    },
    /// `meetpoint serve`.
    Meetpoint {
        /// The program.
        program: PathBuf,
        /// More arguments.
        args: Vec<String>,
    },
    /// This program's own [`serve_echo`](super::wire::serve_echo): the least that can be done with a packet.
    Echo,
}

impl Contestant {
    /// Whether it is a TURN server.
    #[must_use]
    pub const fn relays(&self) -> bool {
        !matches!(self.kind, Kind::Echo)
    }

    fn command(&self, workload: Workload, host: &Host, data: &Path) -> Result<Command, BenchError> {
        let server = SERVER_IP.to_string();
        Ok(match &self.kind {
            Kind::Coturn { program, args } => {
                let mut command = host.command(program);
                command.args(COTURN_FLAGS).arg(format!("--static-auth-secret={SECRET}"));
                command.args([format!("--pidfile={}", data.join("pid").display())]);
                command.args([format!("--db={}", data.join("db").display())]);
                command.args([format!("--listening-ip={server}"), format!("--relay-ip={server}")]);
                command.arg(format!("--listening-port={PORT}")).args(args);
                command
            }
            Kind::Meetpoint { program, args } => {
                let http = SocketAddrV4::new(SERVER_IP, HTTP_PORT).to_string();
                let stun = SocketAddrV4::new(SERVER_IP, PORT).to_string();
                let mut command = host.command(program);
                command.arg("serve").arg("--data").arg(data.join("data")).args(["--http", &http]);
                command.args(["--stun", &stun, "--seed", &format!("main@{http}"), "--relay-ip", &server]);
                if workload != Workload::Flood {
                    command.args(UNBOUNDED_FLAGS);
                }
                command.args(args);
                command
            }
            Kind::Echo => {
                let own = std::env::current_exe().map_err(BenchError::io("this program's path"))?;
                let mut command = host.command(own);
                command.args(["echo", &SocketAddrV4::new(SERVER_IP, PORT).to_string()]);
                command
            }
        })
    }

    fn credentials(&self, data: &Path) -> Result<Option<Credentials>, BenchError> {
        let secret = match &self.kind {
            Kind::Coturn { .. } => SECRET.to_owned(),
            Kind::Meetpoint { .. } => fs::read_to_string(data.join("data/credential-secret"))
                .map_err(BenchError::io("the server's credential secret"))?,
            Kind::Echo => return Ok(None),
        };
        let secret = Secret::new(secret.trim().as_bytes());
        let secret = secret.map_err(|error| BenchError::Unexpected(error.to_string()))?;
        Ok(Some(Credentials::Secret(secret)))
    }
}

/// A running server and a place to measure it from. Dropping it ends the server and removes the namespaces.
#[derive(Debug)]
pub struct Arena {
    // The process first: what is dropped last is the ground it stands on.
    _process: Process,
    client: Host,
    /// What to measure.
    pub target: Target,
    _lab: Lab,
}

impl Arena {
    /// Lays the cable, starts the server for that work, and waits until it answers. `data` is an empty directory.
    ///
    /// # Errors
    /// If there can be no namespaces, or the server does not start.
    pub fn new(contestant: &Contestant, workload: Workload, data: &Path) -> Result<Self, BenchError> {
        let mut lab = Lab::new()?;
        let client = lab.node(NatKind::Open)?;
        connect(lab.server().namespace(), client.namespace())?;
        let mut command = contestant.command(workload, lab.server(), data)?;
        let mut process = Process::spawn(&contestant.name, &mut command)?;
        let mut target = Target {
            server: SocketAddrV4::new(SERVER_IP, PORT),
            credentials: None,
            meter: Some(Meter::new(process.id())?),
            local: CLIENT_IP,
            peer: PEER_IP,
            sources: Some(SOURCES),
            nobody: Some(SocketAddrV4::new(NOBODY_IP, PORT)),
        };
        let mut awaited = client.run_in(|| await_server(&target.socket(CLIENT_IP)?, START))?;
        target.credentials = contestant.credentials(data)?;
        if let (Ok(()), Some(credentials)) = (&awaited, &target.credentials) {
            awaited = client.run_in(|| await_relay(|| target.socket(CLIENT_IP), credentials, START))?;
        }
        if let Err(error) = awaited {
            let _ = process.terminate();
            return Err(BenchError::Unexpected(format!(
                "{}: {error}\n{}",
                contestant.name,
                process.output()
            )));
        }
        Ok(Self { _process: process, client, target, _lab: lab })
    }

    /// Runs a closure where the clients are.
    ///
    /// # Errors
    /// The closure's own, and if the namespace is gone.
    pub fn run<T: Send>(
        &self,
        inside: impl FnOnce(&Target) -> Result<T, BenchError> + Send,
    ) -> Result<T, BenchError> {
        let target = &self.target;
        self.client.run_in(|| inside(target))?
    }
}

/// Lays the cable between the two namespaces, and gives its ends their addresses.
fn connect(server: &str, client: &str) -> Result<(), BenchError> {
    ip(&["link", "add", CABLE, "netns", server, "type", "veth", "peer", "name", CABLE, "netns", client])?;
    let addr = |ip: Ipv4Addr| format!("{ip}/24");
    for (namespace, addrs) in [(server, &[SERVER_IP][..]), (client, &[CLIENT_IP, PEER_IP])] {
        for own in addrs {
            ip(&["-n", namespace, "addr", "add", &addr(*own), "dev", CABLE])?;
        }
        ip(&["-n", namespace, "link", "set", CABLE, "addrgenmode", "none", "up"])?;
    }
    ip(&["-n", server, "route", "add", SOURCES_BLOCK, "via", &CLIENT_IP.to_string()])?;
    ip(&["-n", client, "route", "add", &NOBODY_IP.to_string(), "via", &SERVER_IP.to_string()])?;
    ip(&["-n", client, "route", "add", "local", SOURCES_BLOCK, "dev", "lo"])
}

fn ip(args: &[&str]) -> Result<(), BenchError> {
    let output = Command::new("ip").args(args).output().map_err(BenchError::io("running `ip`"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::Unexpected(format!("`ip {}`: {reason}", args.join(" "))))
}
