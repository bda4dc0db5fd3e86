//! Who meets whom: real nodes behind real NATs of every kind, each kind with each, and how long it takes.
//!
//! In each round as many pairs as there are kinds meet at once, each machine in one pair only: what one pair does is
//! no business of another's, but for the processors. Nodes are warm: they know their class and their NAT before one
//! connects to the other. The lab is slowed down to a round trip that a round trip's worth of waiting shows in, and the
//! round trip is measured before anything else is.

mod meeting;
mod report;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use meetpoint_cli::lab::{Host, Lab, NatKind, SERVER_ADDRS};

use self::meeting::{Pair, Place, meet};
use super::BenchError;
use super::meter::machine;
use crate::binary::Server;
use crate::delay::{SlowSwitch, round_trip};

pub use self::meeting::{Meeting, Prospect, prospect};
pub use self::report::report;

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
    /// Only these kinds of NAT, by their names; all without it.
    #[arg(long, value_delimiter = ',', value_parser = parse_kind, value_name = "KIND")]
    pub only: Vec<NatKind>,
    /// Meetpoint's program. Without it the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub meetpoint: Option<PathBuf>,
}

fn parse_kind(name: &str) -> Result<NatKind, String> {
    let names = || NatKind::ALL.map(short_name).join(", ");
    NatKind::ALL
        .into_iter()
        .find(|kind| short_name(*kind) == name)
        .ok_or_else(|| format!("no such kind; there are: {}", names()))
}

/// The kind's name in the source, as a word: `port-restricted`.
fn short_name(kind: NatKind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
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
struct Side(Vec<(NatKind, Host)>);

impl Side {
    fn build(lab: &mut Lab, kinds: &[NatKind]) -> Result<Self, BenchError> {
        let hosts = kinds.iter().map(|kind| Ok((*kind, lab.node(*kind)?)));
        hosts.collect::<Result<_, BenchError>>().map(Self)
    }
}

/// All meetings of all rounds.
///
/// # Errors
/// As [`run`], but for what the pairs do.
pub fn measure(program: &std::path::Path, args: &MatrixArgs) -> Result<Vec<Meeting>, BenchError> {
    let kinds = if args.only.is_empty() { NatKind::ALL.to_vec() } else { args.only.clone() };
    let mut lab = Lab::new()?;
    let (ones, others) = (Side::build(&mut lab, &kinds)?, Side::build(&mut lab, &kinds)?);
    let _slow = slow_down(&lab, &ones, Duration::from_millis(args.round_trip))?;
    let data = tempfile::tempdir().map_err(BenchError::io("a directory for the server"))?;
    let server = serve(&lab, program, &data.path().join("data"));
    let place = Place { program, url: server.url(), token: server.join_token() };
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
        let measured = round_trip(host, SERVER_ADDRS[0]).map_err(BenchError::Unexpected)?;
        if measured < asked || measured > asked + TOLERANCE {
            let detail = format!("{kind}: a round trip of {measured:?} instead of {asked:?}");
            return Err(BenchError::Unexpected(detail));
        }
    }
    Ok(Some(slow))
}

/// A server that takes everybody, at both its addresses.
fn serve(lab: &Lab, program: &std::path::Path, data: &std::path::Path) -> Server {
    let [first, second]: [Ipv4Addr; 2] = SERVER_ADDRS;
    let (http, stun, alternate) =
        (format!("{first}:8080"), format!("{first}:3478"), format!("{second}:3478"));
    let (seed, relay) = (format!("main@{http}"), first.to_string());
    let args = [
        "--http",
        &http,
        "--stun",
        &stun,
        "--stun",
        &alternate,
        "--seed",
        &seed,
        "--relay-ip",
        &relay,
        "--admit-relayed",
    ];
    Server::start(lab.server().command(program), data, &args)
}
