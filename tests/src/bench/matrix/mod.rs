//! Who meets whom: real nodes behind real NATs of every kind, each kind with each, and how long it takes.
//!
//! In each round as many pairs as there are kinds meet at once, each machine in one pair only: what one pair does is
//! no business of another's, but for the processors. Nodes are warm: they know their class and their NAT before one
//! connects to the other. The lab is slowed down to a round trip that a round trip's worth of waiting shows in, and the
//! round trip is measured before anything else is.

mod kind;
mod meeting;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use meetpoint_cli::lab::{Host, Lab, SERVER_ADDRS, SERVER_ADDRS_V6};

use self::meeting::{Pair, Place, meet};
use super::BenchError;
use super::meter::machine;
use crate::binary::Server;
use crate::delay::{SlowSwitch, round_trip};

pub use self::kind::{Kind, Prospect, prospect};
pub use self::meeting::Meeting;
pub use self::report::report;

const HTTP_PORT: u16 = 8080;
const STUN_PORT: u16 = 3478;

/// By how much the measured round trip may exceed the one asked for, before anything is measured on it.
const TOLERANCE: Duration = Duration::from_millis(10);

/// How to measure who meets whom.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// Round trip between any two machines of the public network, in milliseconds. 0: as fast as the kernel is.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub round_trip: u64,
    /// How often each pair meets.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Only these kinds of access to the network; all without it.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub only: Vec<Kind>,
    /// Meetpoint's program. Without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub meetpoint: Option<PathBuf>,
}

/// Has everybody meet everybody, and prints what came of it as Markdown.
///
/// # Errors
/// The lab did not become what it must be, the server did not start, or a pair did not do what its NATs allow.
pub fn run(args: &MatrixArgs) -> Result<(), BenchError> {
    super::run::prepare()?;
    let program = match &args.meetpoint {
        Some(program) => program.clone(),
        None => {
            let own = std::env::current_exe().map_err(BenchError::io("this program's path"))?;
            own.with_file_name("meetpoint")
        }
    };
    let meetings = measure(&program, args)?;
    println!("{}\n", machine());
    println!("{}", report(&meetings, Duration::from_millis(args.round_trip)));
    let broken: Vec<String> =
        meetings.iter().filter(|meeting| !meeting.is_as_promised()).map(Meeting::to_string).collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(BenchError::Unexpected(format!(
        "{} meetings went otherwise than their NATs allow:\n{}",
        broken.len(),
        broken.join("\n")
    )))
}

/// A machine of each kind for either side of a meeting.
struct Side(Vec<(Kind, Host)>);

impl Side {
    fn build(lab: &mut Lab, kinds: &[Kind]) -> Result<Self, BenchError> {
        let hosts = kinds.iter().map(|kind| Ok((*kind, kind.host(lab)?)));
        hosts.collect::<Result<_, BenchError>>().map(Self)
    }
}

/// All meetings of all rounds.
///
/// # Errors
/// As [`run`], but for what the pairs do.
pub fn measure(program: &std::path::Path, args: &MatrixArgs) -> Result<Vec<Meeting>, BenchError> {
    let kinds = if args.only.is_empty() { Kind::all() } else { args.only.clone() };
    let mut lab = Lab::new()?;
    lab.enable_ipv6()?;
    let (ones, others) = (Side::build(&mut lab, &kinds)?, Side::build(&mut lab, &kinds)?);
    let _slow = slow_down(&lab, &ones, Duration::from_millis(args.round_trip))?;
    let data = tempfile::tempdir().map_err(BenchError::io("a directory for the server"))?;
    let server = serve(&lab, program, &data.path().join("data"));
    let place = Place { program, token: server.join_token() };
    let mut meetings = Vec::new();
    for round in 0..args.rounds {
        for shift in 0..kinds.len() {
            let pairs: Vec<Pair<'_>> = (0..kinds.len())
                .map(|first| {
                    let second = (first + shift) % kinds.len();
                    Pair { number: meetings.len() + first, one: &ones.0[first], other: &others.0[second] }
                })
                .collect();
            let together = std::thread::scope(|scope| {
                let running: Vec<_> = pairs.iter().map(|pair| scope.spawn(|| meet(&place, pair))).collect();
                running.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Result<Vec<_>, _>>()
            });
            let together = together.map_err(|_| BenchError::Unexpected("a meeting broke".to_owned()))?;
            for meeting in &together {
                eprintln!("round {round}: {meeting}");
            }
            meetings.extend(together);
        }
    }
    Ok(meetings)
}

/// Nothing that is measured on a lab is worth anything if the lab is not what it was asked to be.
fn slow_down(lab: &Lab, side: &Side, asked: Duration) -> Result<Option<SlowSwitch>, BenchError> {
    if asked.is_zero() {
        return Ok(None);
    }
    let slow = SlowSwitch::replace(lab, asked / 2).map_err(BenchError::Unexpected)?;
    for (kind, host) in &side.0 {
        let server = if kind.has_ipv4() { SERVER_ADDRS[0].into() } else { SERVER_ADDRS_V6[0].into() };
        let measured = round_trip(host, server).map_err(BenchError::Unexpected)?;
        if measured < asked || measured > asked + TOLERANCE {
            let detail = format!("{kind}: a round trip of {measured:?} instead of {asked:?}");
            return Err(BenchError::Unexpected(detail));
        }
    }
    Ok(Some(slow))
}

/// A server that takes everybody, at both its addresses of either family.
fn serve(lab: &Lab, program: &std::path::Path, data: &std::path::Path) -> Server {
    let [first, _] = SERVER_ADDRS;
    let stun = SERVER_ADDRS.map(IpAddr::from).into_iter().chain(SERVER_ADDRS_V6.map(IpAddr::from));
    let stun: Vec<String> = stun.map(|ip| SocketAddr::new(ip, STUN_PORT).to_string()).collect();
    let (stun, seed, relay) = (stun.join(","), format!("main@{first}:{HTTP_PORT}"), first.to_string());
    let http = format!("[::]:{HTTP_PORT}");
    let args = ["--http", &http, "--stun", &stun, "--seed", &seed, "--relay-ip", &relay, "--admit-relayed"];
    Server::start(lab.server().command(program), data, &args)
}
