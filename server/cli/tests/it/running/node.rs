//! Nodes of the test's own, as processes.

use meetpoint_cli::lab::Process;
use serde_json::Value;

use super::server::{PATIENCE, Server, meetpoint};

/// A node that has joined, with these flags.
pub(crate) fn node(server: &Server, name: &str, flags: &[&str]) -> Process {
    let token = std::fs::read_to_string(server.data.join("join-token")).expect("a token");
    let mut command = meetpoint();
    command.args(["node", "--json", "--name", name, "--rendezvous", &format!("https://{}", server.http)]);
    command.args(flags).env("MEETPOINT_JOIN_TOKEN", token.trim());
    let mut node = Process::spawn(name, &mut command).expect("it starts");
    said(&mut node, "joined");
    node
}

/// Waits until a node tells of this.
pub(crate) fn said(node: &mut Process, event: &str) -> Value {
    let is_it = |line: &str| {
        let told: Value = serde_json::from_str(line).ok()?;
        (told["event"] == event).then_some(told)
    };
    node.expect_line(event, PATIENCE, is_it).unwrap_or_else(|error| panic!("{error}"))
}

/// Two nodes that talk to each other all the time.
pub(crate) struct Couple {
    alice: Process,
    bob: Process,
}

impl Couple {
    pub(crate) fn meet(server: &Server) -> Self {
        let alice = node(server, "alice", &["--echo"]);
        let bob = node(server, "bob", &["--connect", "alice", "--ping-interval", "20ms"]);
        let mut couple = Self { alice, bob };
        couple.goes_on();
        couple
    }

    /// Waits until they have said more. Neither has lost the server or the other one meanwhile.
    pub(crate) fn goes_on(&mut self) {
        let mut more = 3;
        let echoed = |line: &str| {
            let told: Value = serde_json::from_str(line).expect("JSON");
            assert!(told["event"] != "joined" && told["event"] != "left", "{line}");
            more -= i32::from(told["event"] == "echo");
            (more == 0).then_some(())
        };
        self.bob.expect_line("echoes", PATIENCE, echoed).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Both have stayed at the server in one session.
    pub(crate) fn part(mut self) {
        self.goes_on();
        for node in [&mut self.bob, &mut self.alice] {
            let complaints = node.output().stderr;
            assert!(complaints.is_empty(), "{complaints:?}");
            assert!(node.terminate().expect("an end").success(), "{}", node.output());
            let last = |line: &str| {
                assert!(!line.contains("\"event\":\"joined\""), "{line}");
                line.contains("\"event\":\"left\"").then_some(())
            };
            node.expect_line("left", PATIENCE, last).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
