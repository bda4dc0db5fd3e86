//! Pairs that can't meet directly, in virtual time, with a server that relays. See [`meetpoint_tests::sim`].

use std::net::IpAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Input, PathKind};
use meetpoint_proto::{Filtering, Mapping};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::oracle;
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

/// From each site to the middle of the internet: 42 ms to the server and back, 80 ms between the nodes.
const ONE_WAY: Duration = Duration::from_millis(20);
const TO_SERVER: Duration = Duration::from_millis(42);
const REQUEST: u32 = 1;

const SYMMETRIC: GateKind =
    GateKind::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Ports::Random);
const RESTRICTED: GateKind =
    GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserved);

fn world(seed: u64, loss_permille: u64, gates: [GateKind; 2]) -> World {
    let jitter = Duration::from_millis(if loss_permille == 0 { 0 } else { 5 });
    let weather = Weather { one_way: [ONE_WAY; 2], jitter, loss_permille, json: true };
    let mut world = World::with_relay(seed, ServerPlace::Internet, weather);
    for (site, gate) in gates.into_iter().enumerate() {
        world.add_site(Some(gate));
        let ip = IpAddr::from([10, 0, 1 + site as u8, 2]);
        world.add_node(site, ip, 24, SigningKey::from_bytes(&[1 + site as u8; 32]));
    }
    world
}

fn kinds(world: &World) -> [Option<PathKind>; 2] {
    [0, 1].map(|node| world.nodes[node].paths.values().next().map(|path| path.kind))
}

fn connect(world: &mut World) -> Duration {
    let asked = world.now();
    let peer = world.nodes[1].name.clone();
    world.input(0, Input::Connect { request: REQUEST, peer, wait: true });
    let has_ended = |world: &World| world.nodes[0].ended.contains_key(&REQUEST);
    assert!(world.run_until(asked + Duration::from_secs(20), has_ended), "it hangs");
    assert!(world.nodes[0].ended[&REQUEST].is_ok(), "{:?}", world.nodes[0].ended);
    world.now() - asked
}

fn wait_for(world: &mut World, seconds: u64, kind: PathKind) {
    let end = world.now() + Duration::from_secs(seconds);
    let is_so = |world: &World| kinds(world) == [Some(kind); 2];
    assert!(world.run_until(end, is_so), "{:?} at {:?}, not {kind:?}", kinds(world), world.now());
}

fn exchange(world: &mut World) {
    for node in 0..2 {
        world.nodes[node].has_data = false;
        world.send_data(node);
        let peer = world.nodes[1 - node].id;
        world.input(node, Input::Busy { peer });
    }
    let end = world.now() + Duration::from_secs(1);
    let both = |world: &World| world.nodes.iter().all(|node| node.has_data);
    assert!(world.run_until(end, both), "data is lost: {:?}", kinds(world));
}

fn finish(world: &World) {
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
}

/// The relay carries at once what physics keeps apart.
#[test]
fn two_symmetric_nodes_are_relayed() {
    assert!(!oracle::direct(SYMMETRIC, SYMMETRIC));
    let mut world = world(1, 0, [SYMMETRIC; 2]);
    world.run_until(Duration::from_secs(10), |_| false);
    let elapsed = connect(&mut world);
    // Cold: one round trip for the allocation, one for the peer to hear of it, two relayed ones to be sure.
    assert!(elapsed <= TO_SERVER * 7, "{elapsed:?}");
    wait_for(&mut world, 2, PathKind::Relayed);
    exchange(&mut world);
    // It stays so for much longer than any permission lasts.
    let end = world.now() + Duration::from_secs(1800);
    let is_lost = |world: &World| kinds(world) != [Some(PathKind::Relayed); 2];
    assert!(!world.run_until(end, is_lost), "lost at {:?}", world.now());
    exchange(&mut world);
    finish(&world);
}

/// A link that is only relayed is upgraded as soon as a network changes.
#[test]
fn a_better_network_makes_it_direct() {
    let mut world = world(2, 0, [SYMMETRIC; 2]);
    world.run_until(Duration::from_secs(10), |_| false);
    connect(&mut world);
    wait_for(&mut world, 2, PathKind::Relayed);
    let site = world.add_site(Some(RESTRICTED));
    world.move_node(1, site, [10, 0, 9, 2].into());
    let site = world.add_site(Some(RESTRICTED));
    world.move_node(0, site, [10, 0, 8, 2].into());
    wait_for(&mut world, 120, PathKind::Direct);
    exchange(&mut world);
    finish(&world);
}

/// Where both can be had the direct path is used, however the relay raced it; and when it dies the relay is there.
#[test]
fn a_direct_path_that_dies_leaves_the_relay() {
    let mut world = world(3, 0, [RESTRICTED; 2]);
    world.run_until(Duration::from_secs(10), |_| false);
    connect(&mut world);
    wait_for(&mut world, 5, PathKind::Direct);
    exchange(&mut world);
    world.run_until(world.now() + Duration::from_secs(5), |_| false);
    world.block_between(true);
    wait_for(&mut world, 9, PathKind::Relayed);
    exchange(&mut world);
    world.block_between(false);
    wait_for(&mut world, 120, PathKind::Direct);
    finish(&world);
}

/// UDP does not pass at one side, or at either: the relay is reached by TCP.
#[test]
fn without_udp_the_relay_is_reached_by_a_stream() {
    for (blocked, gate) in [(1, RESTRICTED), (1, SYMMETRIC), (2, RESTRICTED)] {
        let mut world = world(4, 0, [gate; 2]);
        (0..blocked).for_each(|site| world.block_udp(site, true));
        world.set_cluster_admitting_relayed();
        world.run_until(Duration::from_secs(10), |_| false);
        let elapsed = connect(&mut world);
        assert!(elapsed <= TO_SERVER * 5, "{blocked} blocked, {gate:?}: {elapsed:?}");
        wait_for(&mut world, 2, PathKind::Relayed);
        exchange(&mut world);
        finish(&world);
    }
}

/// Loss delays, and breaks nothing.
#[test]
fn loss_is_survived() {
    for seed in 0..60 {
        let mut world = world(seed, 200, [SYMMETRIC, if seed % 2 == 0 { SYMMETRIC } else { RESTRICTED }]);
        world.run_until(Duration::from_secs(10), |_| false);
        connect(&mut world);
        if seed % 2 == 0 {
            wait_for(&mut world, 20, PathKind::Relayed);
        } else {
            // A relayed path, or one that was guessed meanwhile.
            let end = world.now() + Duration::from_secs(20);
            assert!(
                world.run_until(end, |world| kinds(world).iter().all(Option::is_some)),
                "{:?}",
                kinds(&world)
            );
        }
        finish(&world);
    }
}
