//! coturn's tools.

mod cases;

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use meetpoint_cli::lab::probe::Measurement;
use meetpoint_cli::lab::{Host, NatKind, Process, SERVER_ADDRS};
use meetpoint_tests::lab::{in_coturns_words, is_installed, skip};

use crate::document::{Outcome, Table};
use crate::rig::{Credential, Rig, SERVER_IPV6};
use cases::{CASES, Case, Expected, Place, Run, Tool, turn};

/// Where coturn's echoing peer listens.
const PEER_PORT: &str = "13480";
/// A run begins within 6 s, lasts less than one, and waits 10 s for what is late. All run at once.
const RUN: Duration = Duration::from_secs(60);
/// How long a client that sends broken messages may go on; most of what it does happens at once.
const MISCHIEF: Duration = Duration::from_secs(10);
/// Between the end of what a tool says and its own.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Who takes part, and where.
struct Scene {
    rig: Rig,
    client: (Host, Ipv6Addr),
    peer: (Host, Ipv6Addr),
    /// One host behind each kind of NAT that a case names.
    behind: Vec<(NatKind, Host)>,
    _echo: Process,
}

impl Scene {
    fn start(name: &str) -> Option<Self> {
        let mut rig = Rig::start(name)?;
        let (client, peer) = (rig.public_host(), rig.public_host());
        let mut behind: Vec<(NatKind, Host)> = Vec::new();
        for case in CASES {
            if let Place::Behind(kind) = case.from
                && behind.iter().all(|(other, _)| *other != kind)
            {
                behind.push((kind, rig.lab.node(kind).expect("a host")));
            }
        }
        let mut echo = peer.0.command("turnutils_peer");
        echo.args(["-p", PEER_PORT, "-L", &peer.0.addr().to_string(), "-L", &peer.1.to_string()]);
        let echo = Process::spawn("turnutils_peer", &mut echo).expect("it starts");
        Some(Self { rig, client, peer, behind, _echo: echo })
    }

    /// Where a case runs.
    fn host(&self, from: Place) -> &Host {
        match from {
            Place::Public | Place::PublicOverIpv6 => &self.client.0,
            Place::Behind(kind) => {
                let found = self.behind.iter().find(|(other, _)| *other == kind);
                &found.expect("a host for each kind that is named").1
            }
        }
    }

    /// The command that a case is.
    fn command(&self, case: &Case, credential: &Credential) -> Command {
        let mut command = self.host(case.from).command(case.tool.program());
        command.args(case.options.split_whitespace());
        if case.tool == Tool::Uclient {
            self.add_relaying(&mut command, case, credential);
        }
        let server: IpAddr = match case.from {
            Place::PublicOverIpv6 => SERVER_IPV6.into(),
            Place::Public | Place::Behind(_) => SERVER_ADDRS[0].into(),
        };
        command.arg(server.to_string());
        command
    }

    /// Says who asks, of whom to verify what, and who the peer is. The value of an option comes first, since those that
    /// want one stand last.
    fn add_relaying(&self, command: &mut Command, case: &Case, credential: &Credential) {
        let data = &self.rig.server.data;
        if case.has('E') {
            // The tool verifies nothing unless it has a certificate of its own, which nobody asks it for.
            let (cert, key) = (data.join("tls/cert.pem"), data.join("tls/key.pem"));
            command.arg(&cert).arg("-i").arg(&cert).arg("-k").arg(&key);
        }
        if case.has('W') {
            let secret = std::fs::read_to_string(data.join("credential-secret")).expect("the secret");
            command.args([secret.trim(), "-u", "own"]);
        } else if !case.has('u') {
            command.args(["-u", &credential.username, "-w", &credential.password]);
        }
        if !case.has('m') {
            command.args(["-m", "2"]);
        }
        if !case.has('y') {
            let peer: IpAddr = if case.has('x') { self.peer.1.into() } else { self.peer.0.addr().into() };
            command.args(["-e", &peer.to_string(), "-r", PEER_PORT]);
        }
        // Over TLS the tool takes one message a record and drops what else the record holds, and a server may well put
        // into one record what comes together. Apart by half a second, nothing does.
        let messages = if case.has('S') { ["-n", "5", "-z", "500"] } else { ["-n", "20", "-z", "20"] };
        command.args(messages);
    }

    /// Whether somebody who means well is still served.
    fn is_serving(&self) -> Result<(), String> {
        let case = turn("-y", "", Expected::Relayed);
        let mut command = self.command(&case, &self.rig.credential("afterwards"));
        Expected::Relayed.judge(&hear(&mut command, RUN))
    }
}

/// Runs a tool to its end, or for as long as it may take.
fn hear(command: &mut Command, within: Duration) -> Heard {
    let mut process = Process::spawn("coturn's tool", command).expect("it starts");
    let mut lines = Vec::new();
    let keep = |line: &str| -> Option<()> {
        lines.push(line.to_owned());
        None
    };
    let _ = process.expect_line("its end", within, keep);
    let code = process.wait(LAST_MOMENT).ok().and_then(|status| status.code());
    Heard { lines, code }
}

/// What a tool said, and its exit code if it ended by itself.
struct Heard {
    lines: Vec<String>,
    code: Option<i32>,
}

impl Heard {
    fn says(&self, part: &str) -> bool {
        self.lines.iter().any(|line| line.contains(part))
    }

    fn tail(&self) -> String {
        let from = self.lines.len().saturating_sub(8);
        format!("exit code {:?}, last lines:\n    {}", self.code, self.lines[from..].join("\n    "))
    }
}

impl Expected {
    /// An error says what was heard instead.
    fn judge(self, heard: &Heard) -> Result<(), String> {
        let is_so = match self {
            Self::Relayed => heard.code == Some(0) && heard.says("Total lost packets 0 "),
            Self::NothingRelayed => heard.code == Some(0) && heard.says("(100.000000%)"),
            Self::Refused(code) => {
                heard.code.is_some_and(|code| code != 0) && heard.says(&format!("error {code} "))
            }
            Self::Stranger => {
                heard.code.is_some_and(|code| code != 0) && heard.says("Cannot complete Allocation")
            }
            Self::Says(parts) => parts.iter().all(|part| heard.says(part)),
            Self::Unharmed => !heard.says("cannot connect to remote addr"),
        };
        if is_so { Ok(()) } else { Err(heard.tail()) }
    }
}

/// What the tool must say of this kind of NAT.
fn judge_discovery(kind: NatKind, heard: &Heard) -> Result<(), String> {
    let Measurement::Passes(behavior) = kind.promise() else { return Err("nothing passes".to_owned()) };
    let mapping = format!("NAT with {} Mapping!", in_coturns_words(behavior.mapping));
    let filtering = format!("NAT with {} Filtering!", in_coturns_words(behavior.filtering));
    if heard.says(&mapping) && heard.says(&filtering) { Ok(()) } else { Err(heard.tail()) }
}

/// Runs a case and judges it. What leaves the server unharmed is judged again when all is over.
fn measure(case: &Case, mut command: Command) -> Outcome {
    let judged = match case.run {
        Run::NotOffered(reason) => return Outcome::DoesNotApply(reason),
        Run::Measured(Expected::Unharmed) => Expected::Unharmed.judge(&hear(&mut command, MISCHIEF)),
        Run::Measured(expected) => {
            let mut heard = hear(&mut command, RUN);
            // One time in 16,384 the client draws the channel number 0x7FFF, which no RFC allows.
            if matches!(expected, Expected::Relayed) && heard.says("channel bind: error 400") {
                heard = hear(&mut command, RUN);
            }
            expected.judge(&heard)
        }
        Run::Discovery(kind) => judge_discovery(kind, &hear(&mut command, RUN)),
    };
    judged.map_or_else(Outcome::Fails, |()| Outcome::Passes)
}

#[test]
fn coturns_tools_agree() {
    let name = "coturns_tools_agree";
    if !is_installed("turnutils_uclient") {
        return skip(name, "needs coturn: on Debian, apt-get install coturn");
    }
    let Some(scene) = Scene::start(name) else { return };
    let outcomes = thread::scope(|scope| {
        let run = |(case, number): (&'static Case, u32)| {
            // One user a case, because what one may have at a time is limited.
            let command = scene.command(case, &scene.rig.credential(&format!("case{number}")));
            scope.spawn(move || measure(case, command))
        };
        let threads: Vec<_> = CASES.iter().zip(0..).map(run).collect();
        let outcome = |thread: ScopedJoinHandle<'_, Outcome>| thread.join().expect("an outcome");
        threads.into_iter().map(outcome).collect::<Vec<_>>()
    });
    let after = scene.is_serving();
    let mut table = Table::new("coturn's tools", &["tool", "options", "from", "shows"]);
    for (case, outcome) in CASES.iter().zip(outcomes) {
        let outcome = match (&after, case.run) {
            (Err(why), Run::Measured(Expected::Unharmed)) => Outcome::Fails(why.clone()),
            _ => outcome,
        };
        let options = format!("`{}`", case.options);
        let options = if case.options.is_empty() { "" } else { &options };
        table.row(&[case.tool.program(), options, &case.from.to_string(), case.shows], &outcome);
    }
    table.hold();
    after.expect("a client that means well is served after all that");
}
