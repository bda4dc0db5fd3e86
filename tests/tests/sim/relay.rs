//! Pairs that can't meet directly, in virtual time, with a server that relays. See [`meetpoint_tests::sim`].

use std::net::IpAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Input, PathKind};
use meetpoint_proto::{Filtering, Mapping};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::nats::Nat;
use meetpoint_tests::sim::oracle;
use meetpoint_tests::sim::world::{ServerPlace, Weather, World};

/// From each site to the middle of the internet: 42 ms to the server and back, 80 ms between the nodes.
const ONE_WAY: Duration = Duration::from_millis(20);
const TO_SERVER: Duration = Duration::from_millis(42);
const REQUEST: u32 = 1;
/// Where times are told: between a node and the server, and between two nodes.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// From a node to the server, from there to another, and all the way back.
const RELAYED: Duration = Duration::from_millis(100);

/// Between two checks to one address: where one comes before the permission it needs, the next one does not.
const SLACK: Duration = Duration::from_millis(20);

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

/// Two nodes behind these, all of whose round trips are equal.
fn equal_world(pair: [Nat; 2]) -> World {
    nearly_equal_world(5, Duration::ZERO, pair)
}

fn nearly_equal_world(seed: u64, jitter: Duration, pair: [Nat; 2]) -> World {
    let quarter = ROUND_TRIP / 4;
    let weather = Weather { one_way: [quarter; 2], jitter, loss_permille: 0, json: true };
    let mut world = World::with_relay(seed, ServerPlace::Internet, weather);
    world.server_one_way = quarter;
    world.set_cluster_admitting_relayed();
    for (at, nat) in pair.into_iter().enumerate() {
        let site = world.add_site_behind(&nat.gates());
        world.block_udp(site, nat.is_blocked());
        let number = at as u8;
        let ip = if nat == Nat::Open { [20, 0, 10 + number, 7] } else { [10, 0, 1 + number, 2] };
        world.add_node(site, IpAddr::from(ip), 24, SigningKey::from_bytes(&[number + 1; 32]));
    }
    world
}

/// From the connect call: until there is a path, until QUIC's connection stands, and until the first data is at the
/// peer that was sent then.
fn first_bytes(world: &mut World) -> [Duration; 3] {
    world.speaks_quic = true;
    let asked = world.now();
    let path = connect(world);
    let end = world.now() + Duration::from_secs(1);
    assert!(world.run_until(end, |world| world.established(0).is_some()), "the handshake does not end");
    let stands = world.now() - asked;
    world.send_data(0);
    let is_read = |world: &World| world.nodes[1].has_data && world.accepted(1).is_some();
    assert!(world.run_until(end, is_read), "data is lost");
    // Two kinds of ways, and few datagrams a ticket.
    assert!((0..2).all(|node| world.handshake_starts(node) <= 8), "handshakes are let go too often");
    [path, stands, world.now() - asked]
}

/// Whoever is likely to be relayed has an allocation before he meets anybody. Then the first byte is at the peer after
/// one and a half relayed round trips: half a one until both are introduced, for the first word of QUIC's handshake is
/// in that; half a one for the peer's answer, with which the caller's connection stands; and half a one for the byte.
#[test]
fn a_relayed_first_byte_takes_one_and_a_half_round_trips() {
    use Nat::{
        AddressRestricted, Block, BlockOnce, EarlyInbound, FullCone, Open, PortRestricted, Random,
        Sequential, UdpBlocked,
    };
    let kinds = [
        Open,
        FullCone,
        AddressRestricted,
        PortRestricted,
        EarlyInbound,
        Random,
        Sequential,
        Block,
        BlockOnce,
        UdpBlocked,
    ];
    let blocked = kinds.into_iter().flat_map(|kind| [[UdpBlocked, kind], [kind, UdpBlocked]]);
    let symmetric = [Random, Sequential, Block, BlockOnce].into_iter();
    let symmetric = symmetric.flat_map(|kind| [[Random, kind], [kind, Random]]);
    let used_up = [[BlockOnce, BlockOnce], [BlockOnce, Block], [Sequential, BlockOnce]];
    let mut late = Vec::new();
    for pair in blocked.chain(symmetric).chain(used_up) {
        let mut world = equal_world(pair);
        world.run_until(Duration::from_secs(15), |_| false);
        let [path, stands, data] = first_bytes(&mut world);
        let names = pair.map(Nat::short);
        println!(
            "{names:?}: path after {path:?}, connection after {stands:?}, first byte there after {data:?}"
        );
        if path > RELAYED || stands > RELAYED || data > RELAYED * 3 / 2 {
            late.push((names, path, stands, data));
        }
        // Where nothing helps nothing is tried.
        let guesses = world.nodes.iter().map(|node| node.agent.counters().guesses_sent).sum::<u64>();
        assert_eq!(guesses, 0, "{names:?}");
        finish(&world);
    }
    assert!(late.is_empty(), "{late:#?}");
}

/// Whichever of the two is heard first at the relay: an answer that comes before it is let in goes again with the next
/// check.
#[test]
fn a_permission_that_comes_late_costs_one_check() {
    use Nat::{PortRestricted, Random, UdpBlocked};
    let (jitter, pairs) =
        (Duration::from_millis(1), [[Random; 2], [UdpBlocked; 2], [UdpBlocked, PortRestricted]]);
    let mut slowest = Duration::ZERO;
    for (seed, pair) in (0..20).flat_map(|seed| pairs.map(|pair| (seed, pair))) {
        let mut world = nearly_equal_world(seed, jitter, pair);
        world.run_until(Duration::from_secs(15), |_| false);
        let [_, _, data] = first_bytes(&mut world);
        slowest = slowest.max(data);
        finish(&world);
    }
    println!("first byte there after {slowest:?} at most");
    // Six times from a node to the server or from there, in two parts each.
    assert!(slowest <= RELAYED * 3 / 2 + SLACK + jitter * 12, "{slowest:?}");
}

/// Nobody is warm: nodes that were to meet directly, and can't; and nodes that have just joined.
#[test]
fn a_cold_relay_takes_longer() {
    let mut world = equal_world([Nat::PortRestricted; 2]);
    world.run_until(Duration::from_secs(15), |_| false);
    world.block_between(true);
    assert_eq!(world.relayed_addresses(), 0);
    let [path, stands, data] = first_bytes(&mut world);
    println!(
        "no allocations: path after {path:?}, connection after {stands:?}, first byte there after {data:?}"
    );
    assert!(path <= ROUND_TRIP * 5, "{path:?}");
    finish(&world);
    let mut world = equal_world([Nat::Random; 2]);
    join(&mut world);
    let [path, stands, data] = first_bytes(&mut world);
    println!(
        "just joined: path after {path:?}, connection after {stands:?}, first byte there after {data:?}"
    );
    assert!(path <= ROUND_TRIP * 5, "{path:?}");
    finish(&world);
}

fn join(world: &mut World) {
    let joined = |world: &World| world.nodes.iter().all(|node| node.effective.is_some());
    assert!(world.run_until(Duration::from_secs(5), joined), "they do not join");
}

/// What has come about of a connection: streams opened, addresses lent, and of both nodes the tickets, the allocations
/// they know of, and the kinds of their paths.
fn stage(world: &World) -> String {
    let counters = [0, 1].map(|node| *world.nodes[node].agent.counters());
    format!(
        "streams opened {}, addresses lent {}, tickets {:?}, allocations {:?}, paths {:?}",
        world.stream_count()[1],
        world.relayed_addresses(),
        counters.map(|counters| counters.tickets),
        counters.map(|counters| counters.allocations),
        kinds(world)
    )
}

/// From the connect call to the path, told step by step.
fn connect_step_by_step(world: &mut World) -> (Duration, String) {
    let asked = world.now();
    let peer = world.nodes[1].name.clone();
    world.input(0, Input::Connect { request: REQUEST, peer, wait: true });
    let (mut told, mut last) = (String::new(), String::new());
    let has_ended = |world: &World| {
        let now = stage(world);
        if now != last {
            let trips = (world.now() - asked).as_secs_f64() / ROUND_TRIP.as_secs_f64();
            told += &format!("  {trips:4.2} R: {now}\n");
            last = now;
        }
        world.nodes[0].ended.contains_key(&REQUEST)
    };
    assert!(world.run_until(asked + Duration::from_secs(20), has_ended), "it hangs:\n{told}");
    assert!(world.nodes[0].ended[&REQUEST].is_ok(), "{:?}", world.nodes[0].ended);
    (world.now() - asked, told)
}

/// UDP does not pass at one side or at both, and nobody knows it yet: both have joined at this moment.
///
/// Whoever asks opens a stream at once; who is asked for opens one when it hears of that, half a round trip after the
/// server. Three halves later it is lent an address, of which the server tells both: another half. A check and its
/// answer take two. TLS takes one more to be open. Where QUIC's handshake goes with the request its answer is a path,
/// one round trip earlier; and 20 ms later than that where the first answer is at the relay before the caller has had
/// it let in.
#[test]
fn without_udp_who_has_just_joined_is_met_within_five_round_trips() {
    use Nat::{AddressRestricted, Block, FullCone, Open, PortRestricted, Random, Sequential, UdpBlocked};
    let kinds = [Open, FullCone, AddressRestricted, PortRestricted, Random, Sequential, Block];
    let one = kinds.into_iter().flat_map(|kind| [[UdpBlocked, kind], [kind, UdpBlocked]]);
    let pairs: Vec<[Nat; 2]> = one.chain([[UdpBlocked; 2]]).collect();
    let mut late = Vec::new();
    for (tls, quic, limit) in [
        (false, false, ROUND_TRIP * 5),
        (true, false, ROUND_TRIP * 6),
        (false, true, ROUND_TRIP * 9 / 2),
        (true, true, ROUND_TRIP * 11 / 2),
    ] {
        for &pair in &pairs {
            let mut world = equal_world(pair);
            if tls {
                world.set_tls_only();
            }
            world.speaks_quic = quic;
            join(&mut world);
            // The server tells each of the other at the same moment.
            world.run_until(world.now() + Duration::from_millis(1), |_| false);
            let (path, told) = connect_step_by_step(&mut world);
            let names = (pair.map(Nat::short), if tls { "TLS" } else { "TCP" }, quic);
            println!("{names:?}: {path:?}\n{told}");
            if path > limit {
                late.push((names, path));
            }
            wait_for(&mut world, 1, PathKind::Relayed);
            exchange(&mut world);
            finish(&world);
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

/// Where UDP works each side opens one stream in vain at most, if somebody is to be met before that is known, and
/// closes it as soon as it is. Later none is opened.
#[test]
fn where_udp_works_no_stream_stays_open() {
    use Nat::{AddressRestricted, FullCone, Open, PortRestricted, Random};
    for pair in
        [[Open; 2], [PortRestricted; 2], [PortRestricted, Random], [FullCone, AddressRestricted], [Random; 2]]
    {
        let names = pair.map(Nat::short);
        for (settled, most) in [(false, 2), (true, 0)] {
            let mut world = equal_world(pair);
            join(&mut world);
            let since_join = Duration::from_secs(if settled { 15 } else { 0 });
            world.run_until(world.now() + since_join, |_| false);
            let peer = world.nodes[1].name.clone();
            world.input(0, Input::Connect { request: REQUEST, peer, wait: true });
            let end = world.now() + ROUND_TRIP * 2;
            world.run_until(end, |_| false);
            let [open, opened] = world.stream_count();
            assert!(open == 0 && opened <= most, "{names:?}, settled: {settled}: {open} of {opened}");
            let has_ended = |world: &World| world.nodes[0].ended.contains_key(&REQUEST);
            assert!(world.run_until(end + Duration::from_secs(5), has_ended), "{names:?} hangs");
            assert!(world.stream_count()[1] <= most, "{names:?}");
            finish(&world);
        }
    }
}

/// An allocation is held by those who are likely to need it, for as long as they are.
#[test]
fn only_who_is_likely_to_be_relayed_holds_an_address() {
    for (nat, held) in [
        (Nat::Open, 0),
        (Nat::FullCone, 0),
        (Nat::PortRestricted, 0),
        (Nat::DoubleNat, 0),
        (Nat::Sequential, 1),
        (Nat::Block, 1),
        (Nat::Random, 1),
        (Nat::UdpBlocked, 1),
    ] {
        let mut world = equal_world([nat, Nat::FullCone]);
        for minutes in [1, 30] {
            world.run_until(Duration::from_secs(60 * minutes), |_| false);
            assert_eq!(world.relayed_addresses(), held, "{nat:?} after {minutes} min");
        }
        // It goes to another network, which keeps nobody out.
        let site = world.add_site(Some(RESTRICTED));
        world.move_node(0, site, [10, 0, 9, 2].into());
        // What was allocated from where it was before ends by itself after ten minutes.
        let end = world.now() + Duration::from_secs(11 * 60);
        assert!(
            world.run_until(end, |world| world.relayed_addresses() == 0),
            "{nat:?}: it is not given back"
        );
        finish(&world);
    }
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

/// Nobody asks an idle path more often than NATs forget, so it may be dead unnoticed. Once data goes by it and nothing
/// comes back, four checks that nobody answers are the proof, and with the last of them the relay carries the data.
#[test]
fn data_on_an_idle_path_that_died_soon_goes_by_the_relay() {
    let mut world = world(7, 0, [RESTRICTED; 2]);
    world.run_until(Duration::from_secs(10), |_| false);
    connect(&mut world);
    wait_for(&mut world, 5, PathKind::Direct);
    world.run_until(world.now() + Duration::from_secs(20), |_| false);
    world.block_between(true);
    world.run_until(world.now() + Duration::from_secs(2), |_| false);
    assert_eq!(kinds(&world), [Some(PathKind::Direct); 2], "it is idle");
    let (sent, peer) = (world.now(), world.nodes[1].id);
    world.input(0, Input::Unheard { peer });
    let is_relayed = |world: &World| kinds(world)[0] == Some(PathKind::Relayed);
    assert!(world.run_until(sent + Duration::from_secs(5), is_relayed), "{:?}", kinds(&world));
    let took = world.now() - sent;
    println!("by the relay after {took:?}");
    assert!(took <= Duration::from_millis(1_600), "{took:?}");
    world.nodes[1].has_data = false;
    world.send_data(0);
    assert!(
        world.run_until(world.now() + Duration::from_secs(1), |world| world.nodes[1].has_data),
        "data is lost"
    );
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
        world.speaks_quic = true;
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

/// By so many of the sockets that were opened two nodes meet at the most: by one as a rule, by two now and then.
const MET_BY: usize = 2;

/// What is opened to be met is closed again, whether somebody was met or not; but for what they were met by.
#[test]
fn sockets_of_guesses_are_closed_again() {
    for (seed, wins) in [(1, true), (2, true), (3, false), (4, false)] {
        let pair = if seed % 2 == 0 { [RESTRICTED, SYMMETRIC] } else { [SYMMETRIC, RESTRICTED] };
        let spreads = usize::from(seed % 2 == 0);
        let mut world = world(seed, 0, pair);
        world.run_until(Duration::from_secs(10), |_| false);
        world.block_between(!wins);
        connect(&mut world);
        let many = |world: &World| world.extra_sockets(spreads) >= 512;
        let end = world.now() + Duration::from_secs(1);
        assert!(world.run_until(end, many), "{seed}: nothing is tried");
        if wins {
            wait_for(&mut world, 10, PathKind::Direct);
        }
        // A ticket lasts ten seconds, and the next attempt comes later than the sockets are closed.
        let end = world.now() + Duration::from_secs(20);
        let few = |world: &World| world.extra_sockets(spreads) <= if wins { MET_BY } else { 0 };
        assert!(world.run_until(end, few), "{seed}: {} are open", world.extra_sockets(spreads));
        exchange(&mut world);
        for node in 0..2 {
            let peer = world.nodes[1 - node].id;
            world.input(node, Input::Release { peer });
        }
        let end = world.now() + Duration::from_secs(30);
        let none = |world: &World| (0..2).all(|node| world.extra_sockets(node) == 0);
        assert!(world.run_until(end, none), "{seed}: {} are left", world.extra_sockets(spreads));
        finish(&world);
    }
}

/// The longest silence at each node while both send all the time.
fn longest_gaps(world: &mut World, duration: Duration) -> [Duration; 2] {
    const STEP: Duration = Duration::from_millis(20);
    let (end, mut gaps, mut last) = (world.now() + duration, [Duration::ZERO; 2], [world.now(); 2]);
    while world.now() < end {
        for node in 0..2 {
            world.send_data(node);
        }
        let next = world.now() + STEP;
        world.run_until(next, |_| false);
        for node in 0..2 {
            gaps[node] = gaps[node].max(world.now() - last[node]);
            if std::mem::take(&mut world.nodes[node].has_data) {
                last[node] = world.now();
            }
        }
    }
    gaps
}

/// A node that joins anew has another user's credential. Its allocation is replaced by one of the new session, and what
/// is relayed goes on; the old credential may end.
#[test]
fn a_fresh_session_replaces_the_allocation() {
    const LIFE_S: u64 = 900;
    for (pair, most_ms) in [
        ([Nat::Random, Nat::Random], 200),
        ([Nat::Random, Nat::Sequential], 200),
        ([Nat::UdpBlocked, Nat::Random], 200),
        // Both legs are the relay's, which parts the two with the session that ends; there is nothing to make before
        // that breaks.
        ([Nat::UdpBlocked, Nat::UdpBlocked], 3_000),
    ] {
        let names = pair.map(Nat::short);
        let mut world = equal_world(pair);
        world.membership_s = LIFE_S;
        world.run_until(Duration::from_secs(15), |_| false);
        connect(&mut world);
        wait_for(&mut world, 5, PathKind::Relayed);
        let idle = longest_gaps(&mut world, Duration::from_secs(1));
        assert!(idle.iter().all(|gap| *gap <= RELAYED * 2), "{names:?}: {idle:?}");
        world.cut_control(0);
        let gaps = longest_gaps(&mut world, Duration::from_secs(30));
        println!("{names:?}: gaps of {gaps:?}, {} addresses", world.relayed_addresses());
        assert!(gaps.iter().all(|gap| *gap <= Duration::from_millis(most_ms)), "{names:?}: {gaps:?}");
        // Until long after the credential of before has ended.
        let is_lost = |world: &World| kinds(world) != [Some(PathKind::Relayed); 2];
        let end = world.now() + Duration::from_secs(3 * LIFE_S);
        assert!(!world.run_until(end, is_lost), "{names:?}: lost at {:?}", world.now());
        exchange(&mut world);
        assert_eq!(world.relayed_addresses(), 2, "{names:?}");
        finish(&world);
    }
}
