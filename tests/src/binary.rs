//! The real binary, started as a user would start it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use meetpoint_cli::lab::{Host, Process, ProcessError};
use serde_json::Value;

/// How long anything that should happen at once may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Names a binary that is up to date already, as `tests/run` has it; without it the first use builds one.
const BINARY: &str = "MEETPOINT_BINARY";

/// The `meetpoint` binary of this source.
///
/// # Panics
/// If it does not build.
pub fn meetpoint() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os(BINARY).map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    // Test executables lie in target/PROFILE/deps; the binary one folder up.
    let own = std::env::current_exe().expect("a test executable");
    let folder = own.parent().and_then(Path::parent).expect("target/PROFILE");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "meetpoint-cli", "--bin", "meetpoint"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "the binary does not build");
    folder.join("meetpoint")
}

/// A running `meetpoint serve`.
pub struct Server {
    /// The process.
    pub process: Process,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
}

impl Server {
    /// Starts `serve` by this command (which may run it in a namespace) and waits until it listens.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn start(mut command: Command, data: &Path, args: &[&str]) -> Self {
        command.arg("serve").arg("--data").arg(data).args(args);
        let mut process = Process::spawn("server", &mut command).expect("the server starts");
        let listening = |line: &str| line.strip_prefix("listening http ")?.parse().ok();
        let http = process.expect_line("its address", PATIENCE, listening).unwrap_or_else(|e| panic!("{e}"));
        Self { process, http, data: data.to_owned() }
    }

    /// On loopback, with free ports.
    pub fn on_loopback(data: &Path, args: &[&str]) -> Self {
        let common = ["--http", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--stun-alt-port", "0"];
        Self::start(Command::new(meetpoint()), data, &[&common, args].concat())
    }

    /// Its join token.
    ///
    /// # Panics
    /// If there is none.
    pub fn join_token(&self) -> String {
        let token = std::fs::read_to_string(self.data.join("join-token")).expect("a join token");
        token.trim().to_owned()
    }

    /// Asks it for something as its operator, from the machine it runs on; gives the status, and the body if that is
    /// JSON.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn operate(&self, host: &Host, method: &str, path: &str, body: &str) -> (u16, Value) {
        let token = std::fs::read_to_string(self.data.join("admin-token")).expect("an admin token");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            token.trim(),
            body.len()
        );
        let port = self.http.port();
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.write_all(request.as_bytes())?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        let reply = host.run_in(ask).expect("the machine").expect("an answer");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// The URL nodes use.
    pub fn url(&self) -> String {
        format!("https://{}", self.http)
    }
}

/// A running `meetpoint node --json`.
pub struct Node {
    /// The process.
    pub process: Process,
    /// Events that came before one that was waited for.
    passed: Vec<Value>,
}

impl Node {
    /// Starts `node` by this command.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start(command: Command, url: &str, name: &str, token: Option<&str>, args: &[&str]) -> Self {
        Self::of_servers(command, name, token, &[&["--rendezvous", url], args].concat())
    }

    /// The same, with the servers among the arguments.
    ///
    /// # Panics
    /// As [`Node::start`].
    pub fn of_servers(mut command: Command, name: &str, token: Option<&str>, args: &[&str]) -> Self {
        command.args(["node", "--json", "--name", name]).args(args);
        if let Some(token) = token {
            command.env("MEETPOINT_JOIN_TOKEN", token);
        }
        Self { process: Process::spawn(name, &mut command).expect("the node starts"), passed: Vec::new() }
    }

    /// The next event of this kind. Events of different kinds come in any order, so those that came
    /// before it are kept.
    ///
    /// # Panics
    /// If it doesn't come in time; with all that the node said.
    pub fn event(&mut self, kind: &str) -> Value {
        self.event_within(kind, PATIENCE)
    }

    /// The same, with another patience.
    ///
    /// # Panics
    /// As [`Node::event`].
    pub fn event_within(&mut self, kind: &str, patience: Duration) -> Value {
        self.next_event(kind, patience).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where it may not come.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn next_event(&mut self, kind: &str, patience: Duration) -> Result<Value, ProcessError> {
        if let Some(at) = self.passed.iter().position(|event| event["event"] == kind) {
            return Ok(self.passed.remove(at));
        }
        let passed = &mut self.passed;
        let pick = |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            if event["event"] == kind {
                return Some(event);
            }
            passed.push(event);
            None
        };
        self.process.expect_line(kind, patience, pick)
    }

    /// An event of this kind that came before one that was waited for.
    pub fn take_passed(&mut self, kind: &str) -> Option<Value> {
        let at = self.passed.iter().position(|event| event["event"] == kind)?;
        Some(self.passed.remove(at))
    }

    /// Waits for its end, and gives the exit code.
    ///
    /// # Panics
    /// If it doesn't end in time.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}")).code()
    }
}
