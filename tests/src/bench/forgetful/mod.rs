//! Idle connections behind NATs that forget and rebind: what they cost, and whether they live on.
//!
//! Two nodes are connected and say nothing, each behind a router of its own. The routers forget a mapping after some
//! seconds of silence; now and then one of them forgets all that it knows of UDP, and gives other ports than before. In
//! half of the rows it forgets TCP too, the connections to the server among it, though a NAT keeps those for hours (RFC
//! 5382, REQ-5) unless it is restarted. After the whole time an echo over the connection of the beginning shows that it
//! lives.
//!
//! Counted is what passes the node's only device but for Ethernet's headers: IP packets of UDP and TCP, the address
//! resolution of its own link among them.

mod router;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};

pub use self::router::Forgotten;
use self::router::{Count, Router};
use super::BenchError;
use super::meter::machine;
use crate::binary::{Node, PATIENCE, Server};

/// How long nodes have to find out about their NATs, meet, and fall silent, before anything is counted.
const SETTLING: Duration = Duration::from_secs(10);
/// The first echo over a connection is of so many bytes, all others of less: a second one means a second connection.
const FIRST_ECHO_BYTES: u64 = 64 * 1024;

/// How to measure.
#[derive(Debug, Clone, Args)]
pub struct ForgetfulArgs {
    /// Seconds that are counted.
    #[arg(long, default_value_t = 600)]
    pub seconds: u32,
    /// After so many seconds of silence a router forgets a mapping.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub memory: u32,
    /// Each router gives other ports so often.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub rebind: u32,
    /// Meetpoint's program. Without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub meetpoint: Option<PathBuf>,
}

/// What came of one pair.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How they were connected at the start, and at the end.
    pub paths: [String; 2],
    /// IP bytes a second that each node sent, and that it was sent.
    pub rates: [[f64; 2]; 2],
    /// How often a router forgot.
    pub rebinds: u32,
    /// Connections that were lost.
    pub lost: u32,
}

/// Measures a pair that speaks directly and one that is relayed, and prints the table.
///
/// # Errors
/// The lab did not become what it must be, or a connection was lost.
pub fn run(args: &ForgetfulArgs) -> Result<(), BenchError> {
    super::run::prepare()?;
    let program = match &args.meetpoint {
        Some(program) => program.clone(),
        None => {
            let own = std::env::current_exe().map_err(BenchError::io("this program's path"))?;
            own.with_file_name("meetpoint")
        }
    };
    println!("{}\n", machine());
    println!(
        "{} s idle; mappings are forgotten after {} s, and are others every {} s.\n",
        args.seconds, args.memory, args.rebind
    );
    println!(
        "| NATs | forget | path | alice sends B/s | alice is sent | bob sends | bob is sent | rebinds | lost |"
    );
    println!("|---|---|---|---:|---:|---:|---:|---:|---:|");
    let mut lost = 0;
    for (nat, forgotten, outcome) in measure_all(&program, args) {
        let Outcome { paths: [first, last], rates: [[a, b], [c, d]], rebinds, lost: gone } = outcome?;
        println!(
            "| {nat} | {forgotten} | {first}, {last} | {a:.1} | {b:.1} | {c:.1} | {d:.1} | {rebinds} | {gone} |"
        );
        lost += gone;
    }
    if lost == 0 { Ok(()) } else { Err(BenchError::Unexpected(format!("{lost} connections were lost"))) }
}

/// All rows at once, each in a lab of its own: those that say nothing do not disturb each other.
fn measure_all(
    program: &Path,
    args: &ForgetfulArgs,
) -> Vec<(NatKind, Forgotten, Result<Outcome, BenchError>)> {
    let natures = [NatKind::Remap, NatKind::SymmetricRandom];
    let rows = [Forgotten::Udp, Forgotten::All].into_iter().flat_map(|what| natures.map(|nat| (nat, what)));
    std::thread::scope(|scope| {
        let start = |(nat, what)| (nat, what, scope.spawn(move || measure(program, args, nat, what)));
        let running: Vec<_> = rows.map(start).collect();
        let died = || Err(BenchError::Unexpected("a row did not come to its end".to_owned()));
        running
            .into_iter()
            .map(|(nat, what, row)| (nat, what, row.join().unwrap_or_else(|_| died())))
            .collect()
    })
}

/// One pair, both behind a router of this kind that forgets this.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// If the programs do not start, or the nodes do not meet.
pub fn measure(
    program: &Path,
    args: &ForgetfulArgs,
    nat: NatKind,
    forgotten: Forgotten,
) -> Result<Outcome, BenchError> {
    let mut lab = Lab::new()?;
    let data = tempfile::tempdir().map_err(BenchError::io("a directory for the server"))?;
    let server = serve(&lab, program, &data.path().join("data"));
    let mut sites = Vec::new();
    for _ in 0..2 {
        let mut gateway = lab.gateway(nat)?;
        let host = lab.host_behind(&mut gateway)?;
        let router = Router::new(lab.router(&gateway), host.public_addr(), nat, forgotten);
        router.remember_for(args.memory)?;
        sites.push((host, router));
    }
    let whole = Duration::from_secs(args.seconds.into());
    let idle = format!("{}ms", (SETTLING + whole).as_millis());
    let (url, token) = (server.url(), server.join_token());
    let start = |host: &Host, name: &str, more: &[&str]| {
        Node::start(host.command(program), &url, name, Some(&token), more)
    };
    let mut bob = start(&sites[1].0, "bob", &["--echo"]);
    bob.event("classified");
    let mut alice = start(&sites[0].0, "alice", &["--connect", "bob", "--ping-interval", &idle]);
    alice.event("echo");
    let connected = Instant::now();
    let first = newest_path(&mut alice);
    std::thread::sleep(SETTLING.saturating_sub(connected.elapsed()));
    let before = counts(&sites)?;
    let began = Instant::now();
    let rebinds = rebind_in_turns(&mut sites, args, began)?;
    let after = counts(&sites)?;
    let seconds = began.elapsed().as_secs_f64();
    let mut lost = 0;
    while alice.event_within("echo", PATIENCE * 2)["bytes"].as_u64() == Some(FIRST_ECHO_BYTES) {
        lost += 1;
    }
    let rates = [0, 1].map(|node: usize| {
        let (Count { sent, received }, then) = (after[node], before[node]);
        [sent - then.sent, received - then.received].map(|bytes| bytes as f64 / seconds)
    });
    let last = newest_path(&mut alice).or(first.clone());
    let paths = [first, last].map(|path| path.unwrap_or_else(|| "none".to_owned()));
    Ok(Outcome { paths, rates, rebinds, lost })
}

/// The kind of the last path that it has told of.
fn newest_path(node: &mut Node) -> Option<String> {
    let mut newest = None;
    while let Some(path) = node.take_passed("path") {
        newest = path["kind"].as_str().map(str::to_owned);
    }
    newest
}

fn counts(sites: &[(Host, Router)]) -> Result<Vec<Count>, BenchError> {
    sites.iter().map(|(host, _)| Count::of(host)).collect()
}

/// Until the time is over; gives how often a router forgot.
fn rebind_in_turns(
    sites: &mut [(Host, Router)],
    args: &ForgetfulArgs,
    began: Instant,
) -> Result<u32, BenchError> {
    let step = Duration::from_secs(args.rebind.into()) / 2;
    let whole = Duration::from_secs(args.seconds.into());
    let mut rebinds = 0;
    loop {
        let next = step * (rebinds + 1);
        if next >= whole {
            std::thread::sleep(whole.saturating_sub(began.elapsed()));
            return Ok(rebinds);
        }
        std::thread::sleep(next.saturating_sub(began.elapsed()));
        sites[rebinds as usize % 2].1.rebind()?;
        rebinds += 1;
    }
}

/// A server that relays, and keeps nodes that can only be relayed.
fn serve(lab: &Lab, program: &Path, data: &Path) -> Server {
    let [first, second] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let (seed, relay) = (format!("main@{http}"), first.to_string());
    let args = ["--http", &http, "--stun", &stun, "--stun", &alternate, "--seed", &seed];
    let args = [&args[..], &["--relay-ip", &relay, "--admit-relayed"]].concat();
    Server::start(lab.server().command(program), data, &args)
}
