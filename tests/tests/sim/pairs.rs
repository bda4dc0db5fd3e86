//! Thousands of pairs of nodes behind model NATs, in virtual time. See [`meetpoint_tests::sim`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Input, PathKind};
use meetpoint_proto::{Evidence, Filtering, Mapping, NetworkClass};
use meetpoint_tests::sim::case::{Case, FILTERS, MAPPINGS, Setting, Trial};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

/// Names the one case that `replay` plays.
const SEED_VARIABLE: &str = "MEETPOINT_SIM_SEED";
/// How many seeds `seeds` plays; a longer run is one variable away.
const CASES_VARIABLE: &str = "MEETPOINT_SIM_CASES";
const DEFAULT_CASES: u64 = 3_000;

fn complain(case: &Case, faults: &[String]) -> String {
    format!(
        "{faults:#?}\n{case:#?}\nreplay: {SEED_VARIABLE}={} cargo test -p meetpoint-tests --test sim pairs::replay -- --nocapture",
        case.seed
    )
}

/// Plays the seeds from 0 on two threads, and prints how fast.
#[test]
fn seeds() {
    let cases = std::env::var(CASES_VARIABLE).map_or(DEFAULT_CASES, |n| n.parse().expect("a number"));
    let (next, datagrams) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let play = || {
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= cases {
                return found;
            }
            let case = Case::from_seed(seed);
            let report = case.run();
            datagrams.fetch_add(report.datagrams, Ordering::Relaxed);
            if !report.faults.is_empty() {
                found.push((seed, complain(&case, &report.faults)));
            }
        }
    };
    let mut found: Vec<(u64, String)> = std::thread::scope(|scope| {
        let threads = [scope.spawn(play), scope.spawn(play)];
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    found.sort();
    let took = start.elapsed();
    println!(
        "{cases} cases in {took:.2?}: {:.0} a second, {} datagrams each",
        cases as f64 / took.as_secs_f64(),
        datagrams.into_inner() / cases.max(1)
    );
    let seeds: Vec<u64> = found.iter().map(|(seed, _)| *seed).collect();
    assert!(found.is_empty(), "{} cases failed: {seeds:?}; the first:\n{}", found.len(), found[0].1);
}

/// Every pair of gates in clear weather: the table of `who can meet whom`, exhaustively.
#[test]
fn every_pair_of_gates() {
    let kinds = || {
        MAPPINGS.iter().flat_map(|&mapping| {
            FILTERS.iter().map(move |&filtering| GateKind::new(mapping, filtering, Ports::Random))
        })
    };
    for left in kinds() {
        for right in kinds() {
            let case = clear(Setting::TwoSites(left, right));
            let report = case.run();
            assert!(report.faults.is_empty(), "{}", complain(&case, &report.faults));
        }
    }
}

/// The floor is 1.5 round trips for the first check, 2 until both sides are sure.
#[test]
fn warm_nodes_meet_within_two_round_trips() {
    let gate =
        GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserved);
    let case = clear(Setting::TwoSites(gate, gate));
    let report = case.run();
    assert!(report.faults.is_empty(), "{}", complain(&case, &report.faults));
    // Sites 20 ms from the middle: 42 ms to the server and back, 80 ms between the nodes.
    let (to_server, between) = (Duration::from_millis(42), Duration::from_millis(80));
    let direct_after = report.direct_after.expect("they meet");
    assert!(direct_after <= to_server + between * 2, "{direct_after:?}");
}

/// A node that has been idle for longer than any NAT remembers is met like a fresh one.
#[test]
fn mappings_are_kept_alive() {
    let gate = GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Random);
    let case = Case { rest: Duration::from_secs(1_800), ..clear(Setting::TwoSites(gate, gate)) };
    let report = case.run();
    assert!(report.faults.is_empty(), "{}", complain(&case, &report.faults));
}

/// Two strangers that the server draws meet a proven node once it has been silent for ten minutes, and that
/// shows that it is open. Nobody has asked for them, and one of them is not enough.
#[test]
fn an_idle_open_node_is_met_unsolicited() {
    let open = GateKind::new(Mapping::None, Filtering::EndpointIndependent, Ports::Preserved);
    let home = GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Random);
    let (reachable, met) = (NetworkClass::PublicReachable, NetworkClass::PublicOpen);
    for (strangers, idle_s, class) in [(2, 590, reachable), (2, 960, met), (1, 960, reachable)] {
        let mut world = World::new(0, ServerPlace::Internet, clear(Setting::Loopback).weather);
        world.add_site(Some(open));
        world.add_node(0, [20, 0, 10, 7].into(), 24, SigningKey::from_bytes(&[1; 32]));
        for n in 1..=strangers {
            world.add_site(Some(home));
            world.add_node(usize::from(n), [10, 0, n, 2].into(), 24, SigningKey::from_bytes(&[n + 1; 32]));
        }
        world.run_until(Duration::from_secs(idle_s), |_| false);
        let found = world.nodes[0].class;
        assert_eq!(found, Some((class, Evidence::Proven)), "{strangers} strangers, after {idle_s} s");
        assert!(world.violations.is_empty(), "{:?}", world.violations);
    }
}

/// A node with IPv4 and IPv6 meets one that has IPv4 alone, both behind usual home routers. When they are introduced no
/// packet of the first by IPv4 has reached the server yet, so the second hears of a place that it has no way to, and
/// waits to be met. Once one has, they are introduced again, and meet directly; a relay is all that they would have
/// else. Where the second's router is one that early packets confuse, and that is known, none may have come meanwhile.
#[test]
fn who_is_seen_by_ipv4_later_is_met_directly() {
    let strict =
        GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserved);
    let confused = GateKind { early_moves: true, ..strict };
    // Where it takes long the observation is tried again every ten seconds.
    for (other, warm_s, limit_s) in [(strict, 0, 2), (strict, 6, 12), (confused, 6, 12)] {
        let mut world = World::with_relay(7, ServerPlace::Internet, clear(Setting::Loopback).weather);
        world.serve_ipv6();
        for (number, gate) in [strict, other].into_iter().enumerate() {
            let site = world.add_site(Some(gate));
            let (number, key) = (number as u8, SigningKey::from_bytes(&[number as u8 + 1; 32]));
            world.add_node(site, [10, 0, 1 + number, 2].into(), 24, key);
        }
        world.join_second_network(0, "2a00:0:0:10::7".parse().expect("an address"));
        world.block_udp(0, true);
        let is_seen =
            |world: &World, node: usize| world.session(node).is_some_and(|it| !it.observed.is_empty());
        assert!(world.run_until(Duration::from_secs(2), |world| is_seen(world, 0) && is_seen(world, 1)));
        world.run_until(Duration::from_secs(warm_s), |_| false);
        let peer = world.nodes[1].name.clone();
        world.input(0, Input::Connect { request: 1, peer, wait: true });
        let soon = world.now() + Duration::from_secs(1);
        // Who is behind such a router borrows an address when it is introduced, and not before.
        assert!(world.run_until(soon, |world| world.relayed_addresses() > 0), "they are not introduced");
        let observed = world.session(0).expect("it is a member").observed;
        assert!(observed.iter().all(SocketAddr::is_ipv6), "{observed:?}");
        world.block_udp(0, false);
        let opened = world.now();
        let kinds =
            |world: &World| [0, 1].map(|at| world.nodes[at].paths.values().next().map(|path| path.kind));
        let is_direct = |world: &World| kinds(world) == [Some(PathKind::Direct); 2];
        let limit = opened + Duration::from_secs(limit_s);
        assert!(world.run_until(limit, is_direct), "{other:?}: {:?} at {:?}", kinds(&world), world.now());
        println!("{warm_s} s: direct {:?} after the first packet passes", world.now() - opened);
        assert!(world.violations.is_empty(), "{:?}", world.violations);
    }
}

/// One seed, one run: the hash over every datagram is the same.
#[test]
fn a_seed_replays() {
    for seed in 0..50 {
        let case = Case::from_seed(seed);
        assert_eq!(case.run().trace, case.run().trace, "seed {seed}");
    }
    assert_ne!(Case::from_seed(1).run().trace, Case::from_seed(2).run().trace);
}

/// Plays the one case that `MEETPOINT_SIM_SEED` names.
#[test]
fn replay() {
    let Ok(seed) = std::env::var(SEED_VARIABLE) else { return };
    let case = Case::from_seed(seed.parse().expect("a number"));
    let report = case.run();
    println!("{case:#?}\n{report:#?}");
    assert!(report.faults.is_empty(), "{}", complain(&case, &report.faults));
}

fn clear(setting: Setting) -> Case {
    let weather = Weather {
        one_way: [Duration::from_millis(20); 2],
        jitter: Duration::ZERO,
        loss_permille: 0,
        json: true,
    };
    Case {
        seed: 0,
        setting,
        weather,
        warm: true,
        rest: Duration::ZERO,
        mutual: false,
        trial: Trial::None,
        twin_lans: false,
        two_homed: false,
    }
}
