//! Thousands of nodes that join one server, stay, and come back after it was restarted.
//!
//! What a node does is decided by the SDK's own agent: its hello and proofs, its checks of the welcome, its delays
//! after a lost connection. Only the sockets are this module's, so that ten thousand nodes fit in one process. Each has
//! an address of its own out of 127/8, and a key of its own; a join is one that the server has stored durably before it
//! answered. UDP has no part in it: the cluster is effectively PRIVATE.

mod board;
mod disk;
mod node;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use meetpoint_cli::lab::Process;
use meetpoint_proto::JoinToken;
use tokio::task::JoinSet;

use self::board::Board;
use self::disk::Disk;
use self::node::{Node, Server};
use super::BenchError;
use super::histogram::Histogram;
use super::meter::{Meter, machine};
use super::table::list;
use super::workload::{Figure, figure};

/// Neither a start nor a stop with a registry of this size takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the first node; the others follow. A server takes only so many strangers from one address.
const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// How often it is looked whether all are there.
const LOOK: Duration = Duration::from_millis(5);

/// How to measure joins.
#[derive(Debug, Args)]
pub struct JoinsArgs {
    /// Nodes.
    #[arg(long, default_value_t = 10_000)]
    pub nodes: u32,
    /// First joins a second.
    #[arg(long, default_value_t = 1000.0, value_name = "JOINS")]
    pub rate: f64,
    /// By TLS, as nodes do that join from another machine.
    #[arg(long)]
    pub tls: bool,
    /// Seconds that the connections are held, while the server's processor time is read.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub hold: f64,
    /// Meetpoint's program. Without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub meetpoint: Option<PathBuf>,
    /// One more argument for `meetpoint serve`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub meetpoint_arg: Vec<String>,
    /// Where the server keeps its data: a new directory here, on a disk that counts. Without it the system's place for
    /// temporary files.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Measures joins and prints what was found.
///
/// # Errors
/// [`BenchError`]: the server did not start or end in time, or not all nodes joined.
pub fn run(args: &JoinsArgs) -> Result<(), BenchError> {
    if !(args.rate.is_finite() && args.rate > 0.0 && args.nodes > 0) {
        return Err(BenchError::Unexpected("--rate and --nodes are more than 0".to_owned()));
    }
    super::run::prepare()?;
    println!("{}", machine());
    let runtime = tokio::runtime::Runtime::new().map_err(BenchError::io("the runtime"))?;
    runtime.block_on(measure(args))
}

async fn measure(args: &JoinsArgs) -> Result<(), BenchError> {
    let hold = Duration::try_from_secs_f64(args.hold)
        .map_err(|error| BenchError::Unexpected(format!("--hold {}: {error}", args.hold)))?;
    let mut host = Host::start(args)?;
    let server = Arc::new(Server::new(host.http, host.token()?, args.tls));
    let board = Arc::new(Board::default());
    // Dropped, they end.
    let mut nodes = JoinSet::new();

    let before = host.memory()?;
    let cpu = host.meter.cpu()?;
    // Ten thousand keys take a good part of a second: they are made before the first node is due.
    let fleet: Vec<Node> = (0..args.nodes)
        .map(|number| {
            let source = Ipv4Addr::from_bits(FIRST_SOURCE.to_bits() + number);
            Node::new(number, source, Arc::clone(&server))
        })
        .collect();
    let disk = Disk::watch(&host.data.0);
    let begun = Instant::now();
    for (number, node) in (0..).zip(fleet) {
        let due = begun + Duration::from_secs_f64(f64::from(number) / args.rate);
        nodes.spawn(node.run(due, Arc::clone(&board)));
    }
    all_present(&board, args.nodes, begun + PATIENCE).await?;
    let elapsed = begun.elapsed();
    let (joined, syncs) = (board.take(), disk.seen()?);
    let cost = host.meter.cpu()? - cpu;
    say("first joins", &joins(&joined, &syncs, elapsed, cost, args));

    let cpu = host.meter.cpu()?;
    tokio::time::sleep(hold).await;
    let idle = (host.meter.cpu()? - cpu).as_secs_f64() / hold.as_secs_f64();
    say("held", &held(before, host.memory()?, idle, args));

    let told = Instant::now();
    host.restart(args)?;
    let up = Instant::now();
    all_present(&board, args.nodes, up + PATIENCE).await?;
    let back = Instant::now();
    let cost = host.meter.cpu()?;
    say("restart", &restarted(told, up, back, cost, args));
    Ok(())
}

fn say(what: &str, figures: &[Figure]) {
    println!("\n{what}\n{}", list(figures));
}

fn joins(
    board: &board::Seen,
    syncs: &Histogram,
    elapsed: Duration,
    cost: Duration,
    args: &JoinsArgs,
) -> Vec<Figure> {
    let nodes = f64::from(args.nodes);
    let of = |seen: &Histogram, share| seen.quantile(share, 0).unwrap_or(PATIENCE).as_secs_f64() * 1e3;
    let millis = |share: f64| of(&board.joins, share);
    vec![
        figure("joins", nodes, 0),
        figure("joins/s asked for", args.rate, 0),
        figure("joins/s", nodes / elapsed.as_secs_f64(), 0),
        figure("p50 ms", millis(0.5), 1),
        figure("p99 ms", millis(0.99), 1),
        figure("p99.9 ms", millis(0.999), 1),
        figure("server CPU us each", cost.as_secs_f64() * 1e6 / nodes, 0),
        figure("connections lost meanwhile", board.lost as f64, 0),
        figure("the disk's own sync, p50 ms", of(syncs, 0.5), 1),
        figure("the disk's slowest sync ms", of(syncs, 1.0), 1),
    ]
}

fn held(before: u64, now: u64, idle: f64, args: &JoinsArgs) -> Vec<Figure> {
    vec![
        figure("connections", f64::from(args.nodes), 0),
        figure("server resident MB", now as f64 / 1e6, 1),
        figure("growth each, bytes", now.saturating_sub(before) as f64 / f64::from(args.nodes), 0),
        figure("server CPU %", 100.0 * idle, 1),
    ]
}

fn restarted(told: Instant, up: Instant, back: Instant, cost: Duration, args: &JoinsArgs) -> Vec<Figure> {
    vec![
        figure("stop and start s", (up - told).as_secs_f64(), 2),
        figure("all back after the start s", (back - up).as_secs_f64(), 2),
        figure("server CPU us each", cost.as_secs_f64() * 1e6 / f64::from(args.nodes), 0),
    ]
}

/// Waits until so many are members.
async fn all_present(board: &Board, nodes: u32, until: Instant) -> Result<(), BenchError> {
    while board.present() < nodes as usize {
        if Instant::now() > until {
            let (present, refused) = (board.present(), board.take().refused);
            let detail = format!("{present} of {nodes} nodes are there; refused: {refused:?}");
            return Err(BenchError::Unexpected(detail));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The server's process and its data.
struct Host {
    process: Process,
    meter: Meter,
    http: SocketAddr,
    data: Scratch,
}

/// A directory that goes with the measurement.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next measurement has a directory of its own.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Host {
    fn start(args: &JoinsArgs) -> Result<Self, BenchError> {
        let parent = args.data.clone().unwrap_or_else(std::env::temp_dir);
        let data = Scratch(parent.join(format!("meetpoint-bench-joins-{}", std::process::id())));
        let (process, http) = spawn(args, &data, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let meter = Meter::new(process.id())?;
        Ok(Self { process, meter, http, data })
    }

    /// At the same address, with the same data.
    fn restart(&mut self, args: &JoinsArgs) -> Result<(), BenchError> {
        self.process.terminate()?;
        let (process, _) = spawn(args, &self.data, self.http)?;
        self.meter = Meter::new(process.id())?;
        self.process = process;
        Ok(())
    }

    fn memory(&self) -> Result<u64, BenchError> {
        self.meter.resident_bytes()
    }

    fn token(&self) -> Result<JoinToken, BenchError> {
        let text = std::fs::read_to_string(self.data.0.join("join-token"))
            .map_err(BenchError::io("the join token"))?;
        text.trim().parse().map_err(|error| BenchError::Unexpected(format!("the join token: {error}")))
    }
}

fn spawn(args: &JoinsArgs, data: &Scratch, http: SocketAddr) -> Result<(Process, SocketAddr), BenchError> {
    let program = match &args.meetpoint {
        Some(program) => program.clone(),
        None => {
            let own = std::env::current_exe().map_err(BenchError::io("this program's path"))?;
            own.with_file_name("meetpoint")
        }
    };
    let mut command = Command::new(program);
    command.arg("serve").arg("--data").arg(&data.0).arg(format!("--http={http}"));
    command.args(["--stun=127.0.0.1:0", "--stun-alt-port=0"]).args(&args.meetpoint_arg);
    let mut process = Process::spawn("server", &mut command)?;
    let listening = |line: &str| line.strip_prefix("listening http ")?.parse().ok();
    let http = process.expect_line("its address", PATIENCE, listening)?;
    Ok((process, http))
}
