//! What one node found out about its NAT spares the next one behind it some waiting, and decides nothing.

use std::net::IpAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_proto::{Allocator, Filtering, Mapping, NatBehavior};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

/// From each site to the middle of the internet; the server is 1 ms from there.
const ONE_WAY: Duration = Duration::from_millis(24);
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// A discovery takes less.
const PATIENCE: Duration = Duration::from_secs(10);

const SYMMETRIC: GateKind =
    GateKind::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Ports::Random);

fn world() -> World {
    let weather = Weather { one_way: [ONE_WAY; 2], jitter: Duration::ZERO, loss_permille: 0, json: true };
    World::new(3, ServerPlace::Internet, weather)
}

/// What a node found out, and how long after its start the server knew enough to plan with, and all.
#[derive(Debug)]
struct Found {
    behavior: NatBehavior,
    planned: Duration,
    known: Duration,
}

fn add(world: &mut World, number: u8) -> Found {
    let ip = IpAddr::from([10, 0, 1, 1 + number]);
    let began = world.now();
    let node = world.add_node(0, ip, 24, SigningKey::from_bytes(&[number; 32]));
    let told = |world: &World| world.session(node).and_then(|session| session.behavior);
    let has_ports = |found: NatBehavior| found.mapping.is_some();
    let end = began + PATIENCE;
    assert!(world.run_until(end, |world| told(world).is_some_and(has_ports)), "nothing is told");
    let planned = world.now() - began;
    let is_whole = |world: &World| world.nodes[node].behavior.is_some();
    assert!(world.run_until(end, is_whole), "nothing is found");
    let known = world.now() - began;
    let behavior = world.nodes[node].behavior.expect("found");
    Found { behavior, planned, known }
}

/// Ports differ from run to run.
fn verdict(behavior: NatBehavior) -> NatBehavior {
    let allocator = behavior.allocator.map(|allocator| match allocator {
        Allocator::Sequential { delta, .. } => Allocator::Sequential { delta, newest: 0 },
        Allocator::Block { .. } => Allocator::Block { first: 0, last: 0 },
        Allocator::Preserving | Allocator::Random => allocator,
    });
    NatBehavior { allocator, ..behavior }
}

/// Without a hint the filter has to be silent first, for more than half a second.
#[test]
fn the_second_node_behind_a_symmetric_nat_knows_sooner_how_to_meet() {
    let mut world = world();
    world.add_site(Some(SYMMETRIC));
    let (first, second) = (add(&mut world, 1), add(&mut world, 2));
    println!("alone {first:?}\nhinted {second:?}");
    assert_eq!(verdict(first.behavior), verdict(second.behavior));
    assert!(second.planned + ROUND_TRIP * 10 <= first.planned, "{first:?} {second:?}");
    assert!(second.known <= first.known + ROUND_TRIP, "{first:?} {second:?}");
    assert!(world.violations.is_empty(), "{:?}", world.violations);
}

/// The router was replaced: what was said of it is wrong now.
#[test]
fn a_false_hint_changes_no_verdict() {
    let strict = Filtering::AddressAndPortDependent;
    let kinds = [
        GateKind::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent, Ports::Preserved),
        GateKind::new(Mapping::EndpointIndependent, Filtering::AddressDependent, Ports::Random),
        GateKind::new(Mapping::EndpointIndependent, strict, Ports::Rewritten),
        GateKind {
            early_moves: true,
            ..GateKind::new(Mapping::EndpointIndependent, strict, Ports::Preserved)
        },
        GateKind::new(Mapping::AddressDependent, Filtering::AddressDependent, Ports::Sequential(1)),
        GateKind::new(Mapping::AddressAndPortDependent, strict, Ports::Sequential(2)),
        GateKind::new(
            Mapping::AddressAndPortDependent,
            strict,
            Ports::Block { first: 40_000, reused: false },
        ),
        SYMMETRIC,
    ];
    for kind in kinds {
        let mut alone = world();
        alone.add_site(Some(kind));
        let honest = add(&mut alone, 1);
        for hinted in [SYMMETRIC, kinds[0]] {
            let mut world = world();
            world.add_site(Some(hinted));
            add(&mut world, 1);
            world.replace_gate(0, kind);
            let misled = add(&mut world, 2);
            assert_eq!(verdict(misled.behavior), verdict(honest.behavior), "{hinted:?} became {kind:?}");
            assert!(misled.known <= honest.known + ROUND_TRIP * 2, "{kind:?}: {misled:?} {honest:?}");
            let settled = |world: &mut World| world.run_until(world.now() + PATIENCE, |_| false);
            settled(&mut world);
            settled(&mut alone);
            assert_eq!(world.nodes[1].class, alone.nodes[0].class, "{kind:?}: no class rests on it");
            assert!(world.violations.is_empty(), "{:?}", world.violations);
        }
    }
}
