//! What a node says of its network in so many words: that no UDP passes, and that there is a NAT behind its NAT.

use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::Input;
use meetpoint_proto::{Filtering, Mapping, NatBehavior};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

const ONE_WAY: Duration = Duration::from_millis(20);
const RESTRICTED: GateKind =
    GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserved);
/// Fifteen Bindings, a dial-back, and whatever is repeated.
const PATIENCE: Duration = Duration::from_secs(30);

fn world() -> World {
    let weather = Weather { one_way: [ONE_WAY; 2], jitter: Duration::ZERO, loss_permille: 0, json: true };
    let mut world = World::with_relay(5, ServerPlace::Internet, weather);
    world.set_cluster_admitting_relayed();
    world
}

fn add(world: &mut World) -> usize {
    let site = world.add_site(Some(RESTRICTED));
    world.add_node(site, [10, 0, 1, 2].into(), 24, SigningKey::from_bytes(&[1; 32]))
}

/// The node knows, and so does the server.
fn both_say(world: &mut World, node: usize, what: impl Fn(NatBehavior) -> bool) -> bool {
    let end = world.now() + PATIENCE;
    world.run_until(end, |world| {
        let told = world.session(node).and_then(|session| session.behavior);
        [world.nodes[node].behavior, told].into_iter().all(|behavior| behavior.is_some_and(&what))
    })
}

#[test]
fn no_udp_is_said_and_taken_back() {
    let mut world = world();
    let node = add(&mut world);
    world.block_udp(0, true);
    assert!(both_say(&mut world, node, |nat| nat.udp_blocked), "{:?}", world.nodes[node].behavior);
    world.block_udp(0, false);
    let is_found = |nat: NatBehavior| !nat.udp_blocked && nat.filtering.is_some();
    assert!(both_say(&mut world, node, is_found), "{:?}", world.nodes[node].behavior);
    world.block_udp(0, true);
    assert!(both_say(&mut world, node, |nat| nat.udp_blocked), "{:?}", world.nodes[node].behavior);
    assert!(world.violations.is_empty(), "{:?}", world.violations);
}

/// A router that maps ports says what it has on its far side.
#[test]
fn a_nat_behind_the_nat_is_told_by_the_router() {
    let external = "20.0.10.1:4000";
    let cases = [
        (external, Some(false)),
        ("100.64.7.7:4000", Some(true)),
        ("192.168.1.7:4000", Some(true)),
        // Another address of the internet may be one of several of the same router.
        ("20.0.99.1:4000", None),
        ("0.0.0.0:4000", None),
    ];
    for (router, expect) in cases {
        let mut world = world();
        let node = add(&mut world);
        assert!(both_say(&mut world, node, |nat| nat.mapping.is_some()), "it finds out");
        assert_eq!(world.external(0), external.parse::<SocketAddr>().ok().map(|addr| addr.ip()));
        let addrs = vec![router.parse().expect("an address")];
        world.input(node, Input::Mapped { addrs });
        let is_so = both_say(&mut world, node, |nat| nat.double_nat == expect);
        assert!(is_so, "{router}: {:?} instead of {expect:?}", world.nodes[node].behavior);
        let found = world.nodes[node].behavior.expect("found");
        assert_eq!(found.mapping, Some(Mapping::EndpointIndependent), "all else stays");
    }
}
