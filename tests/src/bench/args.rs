//! The flags of `meetpoint-bench`.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use meetpoint_turn::Secret;

use super::BenchError;
use super::arena::{Contestant, Kind};
use super::engine::Span;
use super::fleet::JoinsArgs;
use super::forgetful::ForgetfulArgs;
use super::matrix::MatrixArgs;
use super::meter::Meter;
use super::sdk::SdkArgs;
use super::turn::Credentials;
use super::workload::{Settings, Sources, Target, Workload};

/// Measures STUN and TURN servers: cost, latency, memory.
#[derive(Debug, Parser)]
#[command(name = "meetpoint-bench")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure one server, wherever it runs.
    Run(RunArgs),
    /// Start servers in fresh network namespaces, measure them in turn, and print a table. Needs root.
    Compare(CompareArgs),
    /// Start a rendezvous, have nodes join it, hold their connections, restart it. Over TCP on loopback.
    Joins(JoinsArgs),
    /// Have nodes behind all kinds of NAT meet, each kind with each, and print who meets whom and how soon. Needs root.
    Matrix(MatrixArgs),
    /// Say what a program takes on that embeds the SDK: crates, a clean build of a small node, its size. Needs cargo.
    Sdk(SdkArgs),
    /// Leave two connected nodes idle behind NATs that forget and rebind, and print what that costs. Needs root.
    Forgetful(ForgetfulArgs),
    /// Send back what arrives, until killed: the least that a server can do.
    Echo {
        /// Where to listen.
        #[arg(value_name = "IP:PORT")]
        listen: SocketAddrV4,
    },
}

/// How to measure.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// Only this kind of work; may be repeated.
    #[arg(long, value_enum, value_name = "WORKLOAD")]
    pub only: Vec<Workload>,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds before, that are not.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub warm_up: f64,
    /// latency: round trips a second. Without it half of what a closed loop reaches.
    #[arg(long, value_name = "ROUND_TRIPS")]
    pub rate: Option<f64>,
    /// idle: allocations.
    #[arg(long, default_value_t = 4000, value_name = "COUNT")]
    pub idle: u32,
    /// idle: seconds that the server has to give memory back.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub settle: f64,
    /// flood: packets a second.
    #[arg(long, default_value_t = 30_000, value_name = "PACKETS")]
    pub flood_rate: u32,
    /// flood: packets in all, if that takes longer than --seconds.
    #[arg(long, default_value_t = 0, value_name = "PACKETS")]
    pub flood_packets: u64,
}

impl MeasureArgs {
    /// The workloads to measure.
    #[must_use]
    pub fn workloads(&self) -> &[Workload] {
        if self.only.is_empty() { &Workload::ALL } else { &self.only }
    }

    /// How to measure them.
    ///
    /// # Errors
    /// If a flag is out of its range.
    pub fn settings(&self) -> Result<Settings, BenchError> {
        let seconds = |flag: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|error| BenchError::Unexpected(format!("--{flag} {value}: {error}")))
        };
        let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
        if self.rate.is_some_and(|rate| !is_rate(rate)) || self.flood_rate == 0 || self.idle == 0 {
            return Err(BenchError::Unexpected("--rate, --flood-rate and --idle are more than 0".to_owned()));
        }
        Ok(Settings {
            span: Span {
                warm_up: seconds("warm-up", self.warm_up)?,
                measured: seconds("seconds", self.seconds)?,
            },
            per_s: self.rate,
            idle: self.idle,
            settle: seconds("settle", self.settle)?,
            flood_per_s: self.flood_rate,
            flood_packets: self.flood_packets,
            tamper: false,
        })
    }
}

/// One server.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The server.
    #[arg(long, value_name = "IP:PORT")]
    pub server: SocketAddrV4,
    /// User that may allocate.
    #[arg(long, requires = "password", conflicts_with = "secret")]
    pub user: Option<String>,
    /// The user's password.
    #[arg(long, env = "MEETPOINT_BENCH_PASSWORD", hide_env_values = true, requires = "user")]
    pub password: Option<String>,
    /// Secret of time-limited credentials (coturn's static-auth-secret, DATA/credential-secret of Meetpoint).
    #[arg(long, env = "MEETPOINT_BENCH_SECRET", hide_env_values = true)]
    pub secret: Option<String>,
    /// The server's process, if it runs on this machine: its time and memory are read.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Address that clients send from. Without it, the one this machine would take.
    #[arg(long, value_name = "IP")]
    pub local: Option<Ipv4Addr>,
    /// Address of the peers, on this machine and not the server's own. Without it, that of the clients.
    #[arg(long, value_name = "IP")]
    pub peer: Option<Ipv4Addr>,
    /// idle, flood: further addresses of this machine to send from, the first and how many: for example
    /// 127.1.0.1+8192.
    #[arg(long, value_name = "IP+COUNT", value_parser = sources)]
    pub sources: Option<Sources>,
    /// How to measure.
    #[command(flatten)]
    pub measure: MeasureArgs,
}

impl RunArgs {
    /// What to measure.
    ///
    /// # Errors
    /// If the server cannot be reached, its process is not there, or the secret is too short.
    pub fn target(&self) -> Result<Target, BenchError> {
        let secret = self.secret.as_ref().map(|secret| Secret::new(secret.trim().as_bytes())).transpose();
        let secret = secret.map_err(|error| BenchError::Unexpected(format!("--secret: {error}")))?;
        let user = self.user.clone().zip(self.password.clone());
        let credentials = secret
            .map(Credentials::Secret)
            .or_else(|| user.map(|(name, password)| Credentials::User { name, password }));
        let local = match self.local {
            Some(local) => local,
            None => towards(self.server)?,
        };
        Ok(Target {
            server: self.server,
            credentials,
            meter: self.pid.map(Meter::new).transpose()?,
            local,
            peer: self.peer.unwrap_or(local),
            sources: self.sources,
            nobody: None,
        })
    }
}

/// The address this machine has towards another.
fn towards(server: SocketAddrV4) -> Result<Ipv4Addr, BenchError> {
    let probe = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        Ok(socket)
    };
    let socket = probe().map_err(BenchError::io(format!("finding a way to {server}")))?;
    super::wire::local_addr(&socket).map(|addr| *addr.ip())
}

fn sources(text: &str) -> Result<Sources, String> {
    let parts = text.split_once('+').and_then(|(first, count)| {
        let (first, count): (Ipv4Addr, u32) = (first.parse().ok()?, count.parse().ok()?);
        first.to_bits().checked_add(count).filter(|_| count > 0).map(|_| Sources { first, count })
    });
    parts.ok_or_else(|| "expected IP+COUNT, for example 127.1.0.1+8192".to_owned())
}

/// Several servers.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// coturn's program; the first one is what all are compared with. `none` leaves it out.
    #[arg(long, default_value = "turnserver", value_name = "PROGRAM")]
    pub coturn: Vec<PathBuf>,
    /// Meetpoint's program; may be repeated, to compare builds. Without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub meetpoint: Vec<PathBuf>,
    /// One more argument for coturn.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub coturn_arg: Vec<String>,
    /// One more argument for `meetpoint serve`.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub meetpoint_arg: Vec<String>,
    /// Leave the bare echo out.
    #[arg(long)]
    pub no_echo: bool,
    /// How to measure.
    #[command(flatten)]
    pub measure: MeasureArgs,
}

impl CompareArgs {
    /// Who takes part, coturn first.
    ///
    /// # Errors
    /// If this program's folder cannot be told.
    pub fn contestants(&self) -> Result<Vec<Contestant>, BenchError> {
        let mut programs = self.meetpoint.clone();
        if programs.is_empty() {
            let own = std::env::current_exe().map_err(BenchError::io("this program's path"))?;
            programs.push(own.with_file_name("meetpoint"));
        }
        let coturn = self.coturn.iter().filter(|program| program.as_os_str() != "none");
        let coturn = coturn.map(|program| Contestant {
            name: format!("coturn {}", version(program)),
            kind: Kind::Coturn { program: program.clone(), args: self.coturn_arg.clone() },
        });
        let is_one = programs.len() == 1;
        let meetpoint = programs.into_iter().map(|program| Contestant {
            name: if is_one { "meetpoint".to_owned() } else { program.display().to_string() },
            kind: Kind::Meetpoint { program, args: self.meetpoint_arg.clone() },
        });
        let echo = Contestant { name: "bare echo".to_owned(), kind: Kind::Echo };
        let echo = (!self.no_echo).then_some(echo);
        Ok(coturn.chain(meetpoint).chain(echo).collect())
    }
}

/// What a `turnserver` says of itself; its path if it says nothing. One that cannot be run says so when it is started.
fn version(program: &Path) -> String {
    let output = std::process::Command::new(program).arg("--version").output();
    let said =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if said.is_empty() { program.display().to_string() } else { said }
}
