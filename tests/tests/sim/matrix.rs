//! Every ordered pair of NAT types, in virtual time, against the oracle: who meets whom directly, how often, and how
//! soon.
//!
//! `MEETPOINT_SIM_CASES=1000 cargo test -p meetpoint-tests --test sim matrix -- --nocapture` prints a larger run's
//! table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::Input;
use meetpoint_proto::{Allocator, ClusterNetwork, EffectiveNetwork, Mapping, NatDepth};
use meetpoint_tests::sim::dice::Dice;
use meetpoint_tests::sim::gate::GateKind;
use meetpoint_tests::sim::nats::Nat;
use meetpoint_tests::sim::oracle::{self, Verdict};
use meetpoint_tests::sim::world::{Node, ServerPlace, Weather, World};

/// How many cases a cell has; a longer run is one variable away.
const CASES_VARIABLE: &str = "MEETPOINT_SIM_CASES";
const DEFAULT_CASES: u64 = 12;
/// All round trips of a clear case.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// From the start until both have found out about their NATs.
const WARM_LIMIT: Duration = Duration::from_secs(15);
/// A ticket lasts ten seconds; what comes later has failed.
const CONNECT_LIMIT: Duration = Duration::from_secs(16);
/// Attempts in weather in which ten seconds may go by without luck.
const ATTEMPTS: u32 = 3;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sky {
    /// All round trips are equal and nothing is lost.
    Clear,
    /// A fifth of all packets is lost.
    Lossy,
    /// Round trips of up to 300 ms, unequal; jitter, reordering, and up to a quarter lost.
    Rough,
}

impl Sky {
    fn weather(self, dice: &mut Dice) -> Weather {
        let (one_way, jitter, loss_permille) = match self {
            Self::Clear => ([ROUND_TRIP / 4; 2], 0, 0),
            Self::Lossy => ([ROUND_TRIP / 4; 2], 0, 200),
            Self::Rough => {
                let ways = [dice.below(75), dice.below(75)].map(Duration::from_millis);
                (ways, dice.pick(&[0, 2, 20]), dice.pick(&[0, 50, 250]))
            }
        };
        Weather { one_way, jitter: Duration::from_millis(jitter), loss_permille, json: false }
    }
}

/// How one case went.
struct Outcome {
    /// From the connect call until both sides have a path.
    direct_after: Option<Duration>,
    violations: Vec<String>,
}

fn play(pair: [Nat; 2], sky: Sky, seed: u64) -> Outcome {
    let mut dice = Dice::new(seed ^ 0x3A7);
    let mut world = World::new(seed, ServerPlace::Internet, sky.weather(&mut dice));
    world.server_one_way =
        if sky == Sky::Rough { Duration::from_millis(dice.below(20)) } else { ROUND_TRIP / 4 };
    world.set_cluster(ClusterNetwork::Dynamic, EffectiveNetwork::Public, true);
    for (at, nat) in pair.into_iter().enumerate() {
        let site = world.add_site_behind(&nat.gates());
        world.block_udp(site, nat.is_blocked());
        let number = at as u8;
        let ip = if nat == Nat::Open { [20, 0, 10 + number, 7] } else { [10, 0, 1 + number, 2] };
        world.add_node(site, IpAddr::from(ip), 24, SigningKey::from_bytes(&[number + 1; 32]));
    }
    let is_warm =
        |node: &Node, nat: Nat| node.class.is_some() && (knows_its_nat(node, nat) || nat.is_blocked());
    world.run_until(WARM_LIMIT, |world| world.nodes.iter().zip(pair).all(|(node, nat)| is_warm(node, nat)));
    // Nobody asks at the very moment at which everything is known.
    let idle = world.now() + Duration::from_millis(500 + dice.below(1_000));
    world.run_until(idle, |_| false);
    let mut direct_after = None;
    let attempts = if sky == Sky::Rough { ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        direct_after = connect(&mut world, attempt);
        if direct_after.is_some() {
            break;
        }
        // An application that tries again waits a little.
        let pause = world.now() + Duration::from_secs(3);
        world.run_until(pause, |_| false);
    }
    Outcome { direct_after, violations: std::mem::take(&mut world.violations) }
}

/// Of a block a node first says that it is one, and later whether its ports serve several destinations.
fn knows_its_nat(node: &Node, nat: Nat) -> bool {
    let is_block = matches!(nat, Nat::Block | Nat::BlockOnce);
    node.behavior.is_some_and(|behavior| !is_block || behavior.port_reuse.is_some())
}

fn connect(world: &mut World, request: u32) -> Option<Duration> {
    let (asked, peer) = (world.now(), world.nodes[1].id.to_string());
    world.input(0, Input::Connect { request, peer, wait: true });
    let both = |world: &World| world.nodes.iter().all(|node| !node.paths.is_empty());
    let failed = |world: &World| matches!(world.nodes[0].ended.get(&request), Some(Err(_)));
    world.run_until(asked + CONNECT_LIMIT, |world| both(world) || failed(world));
    both(world).then(|| world.now() - asked)
}

/// What the cases of one cell amount to.
#[derive(Default, Clone)]
struct Cell {
    cases: usize,
    times: Vec<Duration>,
    violations: Vec<String>,
}

impl Cell {
    fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.times.extend(&other.times);
        self.times.sort();
    }

    fn percent(&self) -> f64 {
        100.0 * self.times.len() as f64 / self.cases.max(1) as f64
    }

    /// The time by which this part of the direct cases was direct.
    fn quantile(&self, part: f64) -> Option<Duration> {
        let at = (self.times.len() as f64 * part).ceil() as usize;
        self.times.get(at.max(1) - 1).copied()
    }

    fn within(&self, limit: Duration) -> f64 {
        let soon = self.times.iter().filter(|time| **time <= limit).count();
        100.0 * soon as f64 / self.cases.max(1) as f64
    }
}

type Matrix = BTreeMap<[Nat; 2], Cell>;

fn run(sky: Sky) -> Matrix {
    let cases = std::env::var(CASES_VARIABLE).map_or(DEFAULT_CASES, |n| n.parse().expect("a number"));
    let pairs: Vec<[Nat; 2]> = Nat::ALL.iter().flat_map(|a| Nat::ALL.map(|b| [*a, b])).collect();
    let (next, matrix) = (AtomicUsize::new(0), Mutex::new(Matrix::new()));
    let work = || {
        while let Some(&pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut cell = Cell::default();
            // A cell in which nothing can happen needs no thousands of tries.
            let cases = if verdict(pair) == Verdict::Relay { cases.min(DEFAULT_CASES) } else { cases };
            for seed in 0..cases {
                let outcome = play(pair, sky, seed);
                cell.cases += 1;
                cell.times.extend(outcome.direct_after);
                cell.violations.extend(outcome.violations);
            }
            cell.times.sort();
            matrix.lock().expect("no panic").insert(pair, cell);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    matrix.into_inner().expect("no panic")
}

fn verdict(pair: [Nat; 2]) -> Verdict {
    if pair.iter().any(|nat| nat.is_blocked()) {
        return Verdict::Relay;
    }
    oracle::verdict(pair[0].kind(), pair[1].kind())
}

/// Rows ask, columns are asked: percent direct, and median and 99th percentile in round trips.
fn print(sky: Sky, matrix: &Matrix) {
    let mut text =
        format!("{sky:?}: percent direct, median and p99 of the time to it (R = {ROUND_TRIP:?})\n{:>7}", "");
    for nat in Nat::ALL {
        let _ = write!(text, " {:>13}", nat.short());
    }
    for row in Nat::ALL {
        let _ = write!(text, "\n{:>7}", row.short());
        for column in Nat::ALL {
            let cell = &matrix[&[row, column]];
            let in_trips = |part| cell.quantile(part).map_or(0.0, |time| time.div_duration_f64(ROUND_TRIP));
            if cell.times.is_empty() {
                let _ = write!(text, " {:>13}", "-");
            } else {
                let _ = write!(text, " {:>3.0}{:>5.1}{:>5.1}", cell.percent(), in_trips(0.5), in_trips(0.99));
            }
        }
    }
    println!("{text}\n");
}

fn complaints(matrix: &Matrix, mut expect: impl FnMut([Nat; 2], &Cell) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (pair, cell) in matrix {
        let name = format!("{} to {}", pair[0].short(), pair[1].short());
        wrong.extend(expect(*pair, cell).map(|what| format!("{name}: {what}")));
        wrong.extend(cell.violations.first().map(|violation| format!("{name}: {violation}")));
    }
    wrong
}

#[test]
fn every_pair_in_clear_weather() {
    let matrix = run(Sky::Clear);
    print(Sky::Clear, &matrix);
    let mut by_verdict: BTreeMap<Verdict, Cell> = BTreeMap::new();
    let wrong = complaints(&matrix, |pair, cell| {
        by_verdict.entry(verdict(pair)).or_default().add(cell);
        let all = cell.percent();
        let trips = |part| cell.quantile(part).unwrap_or_default().div_duration_f64(ROUND_TRIP);
        let holds = match verdict(pair) {
            Verdict::Direct => all >= 100.0 && trips(0.5) <= 2.5 && trips(0.99) <= 5.0,
            Verdict::Predictable => all >= 100.0,
            Verdict::Birthday | Verdict::Block | Verdict::Unclear => true,
            Verdict::UsedUp | Verdict::Relay => all <= 0.0,
        };
        let times = format!("{:.1} and {:.1} R", trips(0.5), trips(0.99));
        (!holds).then(|| format!("{:?}, but {all:.1} % direct, {times}", verdict(pair)))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Luck is judged over all cells that need it: a dozen cases of one tell nothing.
    for (verdict, limit_s, least) in [(Verdict::Birthday, 5, 99.0), (Verdict::Block, 10, 95.0)] {
        let soon = by_verdict[&verdict].within(Duration::from_secs(limit_s));
        println!("{verdict:?}: {soon:.2} % within {limit_s} s, of {}", by_verdict[&verdict].cases);
        assert!(soon >= least, "{verdict:?}: {soon:.2} % within {limit_s} s");
    }
}

#[test]
fn every_pair_where_a_fifth_is_lost() {
    let matrix = run(Sky::Lossy);
    print(Sky::Lossy, &matrix);
    let mut all = Cell::default();
    let wrong = complaints(&matrix, |pair, cell| {
        if verdict(pair) == Verdict::Direct {
            all.add(cell);
        }
        None
    });
    let p99 = all.quantile(0.99).expect("some are direct");
    println!("all cells that are certain: {:.2} % direct, p99 {p99:.0?}", all.percent());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all.percent() >= 99.9 && p99 < Duration::from_secs(1), "{:.2} %, {p99:?}", all.percent());
}

#[test]
fn every_pair_in_rough_weather() {
    let matrix = run(Sky::Rough);
    print(Sky::Rough, &matrix);
    let mut guessed = Cell::default();
    let wrong = complaints(&matrix, |pair, cell| {
        let holds = match verdict(pair) {
            Verdict::Direct => cell.percent() >= 100.0,
            Verdict::Predictable | Verdict::Birthday => {
                guessed.add(cell);
                true
            }
            // In such weather not every node knows in time that its ports serve one destination each.
            Verdict::Block | Verdict::UsedUp | Verdict::Unclear => true,
            Verdict::Relay => cell.times.is_empty(),
        };
        (!holds).then(|| format!("{:?}, but {:.1} % direct", verdict(pair), cell.percent()))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("all cells of foresight and guesses: {:.2} % direct", guessed.percent());
    assert!(guessed.percent() >= 95.0, "{:.2} %", guessed.percent());
}

/// What a node says of its NAT, in clear weather, is what the NAT does.
#[test]
fn every_type_is_recognised() {
    for nat in Nat::ALL.into_iter().filter(|nat| !nat.is_blocked()) {
        for seed in 0..20 {
            let has_hairpin = seed % 2 == 0;
            let kinds: Vec<GateKind> =
                nat.gates().into_iter().map(|kind| GateKind { hairpin: has_hairpin, ..kind }).collect();
            let mut world = World::new(seed, ServerPlace::Internet, Sky::Clear.weather(&mut Dice::new(seed)));
            let site = world.add_site_behind(&kinds);
            let ip = if nat == Nat::Open { [20, 0, 10, 7] } else { [10, 0, 1, 2] };
            world.add_node(site, IpAddr::from(ip), 24, SigningKey::from_bytes(&[1; 32]));
            world.run_until(WARM_LIMIT, |world| knows_its_nat(&world.nodes[0], nat));
            let found = world.nodes[0].behavior.expect("it says what it found");
            let kind = nat.kind();
            assert_eq!(
                (found.mapping, found.filtering),
                (Some(kind.mapping), Some(kind.filtering)),
                "{nat:?}"
            );
            let is_right = match (nat, found.allocator) {
                (Nat::Open | Nat::Remap, None) => true,
                (Nat::Sequential, Some(Allocator::Sequential { delta, .. })) => delta == 1,
                (Nat::Block | Nat::BlockOnce, Some(Allocator::Block { first, last })) => {
                    (40_000..41_024).contains(&first) && (first..41_024).contains(&last)
                }
                (Nat::Random, Some(Allocator::Random)) => true,
                (_, Some(Allocator::Preserving)) => kind.mapping == Mapping::EndpointIndependent,
                _ => false,
            };
            assert!(is_right, "{nat:?}: {:?}", found.allocator);
            let is_fixed = kind.mapping == Mapping::EndpointIndependent;
            // Of two in a row the outer one sends back, and the inner one's mapping lets it in.
            assert_eq!(found.hairpin, is_fixed.then_some(has_hairpin), "{nat:?}");
            assert_eq!(found.early_inbound, is_fixed.then_some(nat == Nat::EarlyInbound), "{nat:?}");
            world.run_until(world.now() + Duration::from_secs(1), |_| false);
            let depth = world.nodes[0].behavior.and_then(|found| found.depth);
            let at_most = kinds.len() as u8;
            let likely = (nat != Nat::Open).then_some(NatDepth { at_most, proven: false });
            assert_eq!(depth, likely, "{nat:?}");
            let is_block = matches!(nat, Nat::Block | Nat::BlockOnce);
            assert_eq!(found.port_reuse, is_block.then_some(nat == Nat::Block), "{nat:?}");
            assert!(world.violations.is_empty(), "{:?}", world.violations);
        }
    }
}

/// Two nodes behind one NAT of each type meet on their own network, with hairpin and without.
#[test]
fn neighbours_meet_behind_every_type() {
    for nat in Nat::ALL.into_iter().filter(|nat| !nat.is_blocked() && *nat != Nat::Open) {
        for seed in 0..4 {
            let kinds: Vec<GateKind> =
                nat.gates().into_iter().map(|kind| GateKind { hairpin: seed % 2 == 0, ..kind }).collect();
            let mut world = World::new(seed, ServerPlace::Internet, Sky::Clear.weather(&mut Dice::new(seed)));
            let site = world.add_site_behind(&kinds);
            for number in [1, 2] {
                let key = SigningKey::from_bytes(&[number; 32]);
                world.add_node(site, IpAddr::from([10, 0, 1, 1 + number]), 24, key);
            }
            world.run_until(WARM_LIMIT, |world| world.nodes.iter().all(|node| node.behavior.is_some()));
            assert!(connect(&mut world, 1).is_some(), "{nat:?}");
            assert!(world.violations.is_empty(), "{:?}", world.violations);
        }
    }
}
