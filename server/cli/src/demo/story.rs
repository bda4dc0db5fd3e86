//! The timeline: starts server and nodes, and tells what each of them says, when it says it.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meetpoint_cli::lab::{Process, ProcessError};
use serde_json::Value;

use super::Scratch;
use crate::exit::Failure;

/// How long each act may take; all of them together take about a second.
const ACT: Duration = Duration::from_secs(20);
/// How often Ctrl-C is looked for while waiting.
const GLANCE: Duration = Duration::from_millis(100);

/// The running processes. The nodes come first, so that they are ended first.
pub(super) struct Cast {
    _nodes: Vec<Process>,
    _server: Process,
}

/// The narrator.
pub(super) struct Story {
    started: Instant,
    stopping: Arc<AtomicBool>,
}

impl Story {
    pub(super) fn new(stopping: Arc<AtomicBool>) -> Self {
        Self { started: Instant::now(), stopping }
    }

    pub(super) fn note(&self, text: &str) {
        println!("{text}");
    }

    pub(super) fn tell(&self, who: &str, what: &str) {
        println!("{:7.2} s  {who:<7} {what}", self.started.elapsed().as_secs_f64());
    }

    /// Plays it: `serve` and the two nodes' commands still lack the arguments that are the same
    /// on every stage.
    pub(super) fn play(
        &mut self,
        mut serve: Command,
        nodes: [(&'static str, Command); 2],
        scratch: &Scratch,
    ) -> Result<(Cast, SocketAddr), Failure> {
        let data = scratch.path().join("data");
        let mut server = spawn("server", serve.arg("--data").arg(&data))?;
        let http = self.await_line(&mut server, "its address", |line| {
            line.strip_prefix("listening http ")?.parse::<SocketAddr>().ok()
        })?;
        self.tell("server", &format!("listening on {http}"));
        let token = std::fs::read_to_string(data.join("join-token")).map_err(Failure::failed)?;
        let url = format!("https://{http}");
        let [(alice, mut alice_command), (bob, mut bob_command)] = nodes;
        let base = ["node", "--json", "--rendezvous", &url, "--name"];
        for command in [&mut alice_command, &mut bob_command] {
            // By the environment, because other users can read a command line.
            command.args(base).env("MEETPOINT_JOIN_TOKEN", token.trim());
        }
        let mut first = spawn(alice, alice_command.args([alice, "--connect", bob]))?;
        self.joined(alice, &mut first)?;
        self.classified(alice, &mut first)?;
        let mut second = spawn(bob, bob_command.args([bob, "--echo"]))?;
        self.joined(bob, &mut second)?;
        // Nothing waits for the classification: the path is there before it.
        let elapsed = self.direct(alice, &mut first)?;
        self.classified(bob, &mut second)?;
        println!("\ndirect in {elapsed} ms after the connect call.");
        Ok((Cast { _nodes: vec![first, second], _server: server }, http))
    }

    fn joined(&self, who: &'static str, node: &mut Process) -> Result<(), Failure> {
        let joined = self.event(node, "joined")?;
        self.tell(
            who,
            &format!("joined cluster {} ({})", joined["cluster"], joined["effective"]).replace('"', ""),
        );
        Ok(())
    }

    fn classified(&self, who: &'static str, node: &mut Process) -> Result<(), Failure> {
        let found = self.event(node, "classified")?;
        let seen = found["observed"].as_str().map(|addr| format!(", seen as {addr}")).unwrap_or_default();
        self.tell(
            who,
            &format!("classified {} ({}){seen}", found["class"], found["evidence"]).replace('"', ""),
        );
        Ok(())
    }

    /// Gives the milliseconds from the connect call to the direct path.
    fn direct(&self, who: &'static str, node: &mut Process) -> Result<Value, Failure> {
        let mut path = self.event(node, "path")?;
        while path["kind"] != "direct" {
            self.tell(who, &format!("{} path to {} meanwhile", path["kind"], path["peer"]).replace('"', ""));
            path = self.event(node, "path")?;
        }
        let peer = path["peer"].as_str().unwrap_or_default();
        let remote = path["remote"].as_str().unwrap_or_default();
        self.tell(who, &format!("introduced to {peer}; direct path to {remote}"));
        let echo = self.event(node, "echo")?;
        let (bytes, rtt_ms) = (&echo["bytes"], &echo["rtt_ms"]);
        self.tell(who, &format!("{bytes} bytes echoed by {peer} in {rtt_ms} ms over QUIC"));
        Ok(path["elapsed_ms"].clone())
    }

    fn event(&self, node: &mut Process, kind: &str) -> Result<Value, Failure> {
        self.await_line(node, kind, |line| {
            serde_json::from_str::<Value>(line).ok().filter(|event| event["event"] == kind)
        })
    }

    /// Waits for a line, with an eye on Ctrl-C.
    fn await_line<T>(
        &self,
        process: &mut Process,
        what: &str,
        matcher: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + ACT;
        loop {
            match process.expect_line(what, GLANCE, &matcher) {
                Ok(found) => return Ok(found),
                Err(_) if self.stopping.load(Ordering::Relaxed) => {
                    return Err(Failure::failed("interrupted"));
                }
                Err(ProcessError::NoLine { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(Failure::failed(error)),
            }
        }
    }
}

fn spawn(name: &str, command: &mut Command) -> Result<Process, Failure> {
    Process::spawn(name, command).map_err(Failure::failed)
}
