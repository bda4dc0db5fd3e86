//! NATs that forget a mapping after half a minute of silence, and give all nodes behind them other ports every minute.
//! Connections live on, and idle nodes say little.
//!
//! Counted is what a node sends, by UDP and by its control connection: payloads with the headers of IPv4, UDP and TCP
//! (timestamps among them), of TLS's records and of WebSocket's frames, and an acknowledgement of its own for each
//! frame that comes, though TCP joins most of these with what is answered. QUIC's keepalives are counted with their
//! real length.

use std::net::IpAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use meetpoint_agent::{Counters, Input, PathKind};
use meetpoint_proto::{Filtering, Mapping};
use meetpoint_tests::sim::gate::{GateKind, Ports};
use meetpoint_tests::sim::world::{ServerPlace, Traffic, Weather, World};

/// From each site to the middle of the internet.
const ONE_WAY: Duration = Duration::from_millis(12);
const REQUEST: u32 = 1;
/// How long the NATs remember.
const MEMORY: Duration = Duration::from_secs(30);
/// How often they give other ports.
const REBIND: Duration = Duration::from_secs(60);
/// How long it goes on.
const WATCHED: Duration = Duration::from_secs(600);
/// QUIC's own keepalive: a PING and its acknowledgement, each with a short header, a packet number and a tag.
const QUIC_INTERVAL: Duration = Duration::from_secs(100);
const QUIC_PACKET_LEN: u64 = 1 + 8 + 2 + 4 + 16;
/// What stands for one in the simulator is shorter.
const DATA_LEN: u64 = 6;
/// Connections that have no path for so long are lost.
const PATIENCE: Duration = Duration::from_secs(40);
/// What an idle node may send in all, in bytes a second, by a direct path and by a relayed one.
const MOST_SENT_DIRECT: f64 = 45.0;
const MOST_SENT_RELAYED: f64 = 60.0;
/// From the moment that a rebinding was noticed until data goes both ways again, by a direct path and by a relayed one.
const RESUMED_DIRECT: Duration = Duration::from_secs(1);
const RESUMED_RELAYED: Duration = Duration::from_secs(2);
/// Within so long a node knows for how long its NAT remembers.
const MEASURED: Duration = Duration::from_secs(1_200);

/// Of 24 rebindings, at different moments, so many are noticed by who was moved, at the least.
const LEAST_USUAL: usize = 18;

const RESTRICTED: GateKind =
    GateKind::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserved);
const SYMMETRIC: GateKind =
    GateKind::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Ports::Random);

/// What was seen of a run.
#[derive(Debug)]
struct Seen {
    /// Bytes a second and node: UDP sent and received, TCP sent and received.
    rates: [[f64; 4]; 2],
    /// The longest time without a path, for either node.
    pathless: Duration,
    /// Introductions, as both nodes have counted them.
    tickets: u64,
    /// Checks of both nodes, and how many of them no peer has answered.
    checks: [u64; 2],
    /// From the moment that a rebinding was noticed until data went both ways again, each time.
    resumed: Vec<Duration>,
}

fn world(gates: [GateKind; 2], relay: bool) -> World {
    let weather = Weather { one_way: [ONE_WAY; 2], jitter: Duration::ZERO, loss_permille: 0, json: true };
    let make = if relay { World::with_relay } else { World::new };
    let mut world = make(7, ServerPlace::Internet, weather);
    for (site, gate) in gates.into_iter().enumerate() {
        world.add_site(Some(gate));
        world.remember_for(site, MEMORY);
        let ip = IpAddr::from([10, 0, 1 + site as u8, 2]);
        world.add_node(site, ip, 24, SigningKey::from_bytes(&[1 + site as u8; 32]));
    }
    world
}

fn connect(world: &mut World, kind: PathKind) {
    world.run_until(Duration::from_secs(10), |_| false);
    let peer = world.nodes[1].name.clone();
    world.input(0, Input::Connect { request: REQUEST, peer, wait: true });
    let is_so = |world: &World| kinds(world) == [Some(kind); 2];
    assert!(world.run_until(world.now() + Duration::from_secs(10), is_so), "{:?}", kinds(world));
    world.run_until(world.now() + Duration::from_secs(70), |_| false);
}

fn kinds(world: &World) -> [Option<PathKind>; 2] {
    [0, 1].map(|node| world.nodes[node].paths.values().next().map(|path| path.kind))
}

fn rebound(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.agent.counters().rebound).sum()
}

/// True once data has come through both ways, tried again and again for so long. What that costs each node is counted.
fn exchange(world: &mut World, patience: Duration, extra: &mut u64) -> bool {
    let end = world.now() + patience;
    world.nodes.iter_mut().for_each(|node| node.has_data = false);
    while world.now() < end {
        (0..2).for_each(|node| world.send_data(node));
        *extra += 28 + DATA_LEN;
        let soon = world.now() + Duration::from_millis(50);
        if world.run_until(soon, |world| world.nodes.iter().all(|node| node.has_data)) {
            return true;
        }
    }
    false
}

/// Ten minutes of an idle connection. The gates of both sites rebind in turns, every minute each.
fn watch(world: &mut World) -> Seen {
    let began = world.now();
    let before: Vec<(Traffic, Counters)> =
        world.nodes.iter().map(|node| (node.traffic, *node.agent.counters())).collect();
    let mut without_path = [None; 2];
    let mut seen = Seen {
        rates: [[0.0; 4]; 2],
        pathless: Duration::ZERO,
        tickets: 0,
        checks: [0; 2],
        resumed: Vec::new(),
    };
    let (mut pings, mut extra) = (0, 0);
    let (mut next_ping, mut rebinds) = (began + QUIC_INTERVAL, 0);
    while world.now() < began + WATCHED {
        let next_rebind = began + REBIND / 2 * (rebinds + 1);
        let known = rebound(world);
        let next = next_ping.min(next_rebind).min(began + WATCHED).max(world.now());
        let noticed = world.run_until(next, |world| {
            for (since, kind) in without_path.iter_mut().zip(kinds(world)) {
                let start = *since.get_or_insert(world.now());
                seen.pathless = seen.pathless.max(world.now() - start);
                since.take_if(|_| kind.is_some());
            }
            rebound(world) > known
        });
        let noticed = noticed.then(|| world.now());
        if world.now() >= next_rebind {
            world.rebind_gate((rebinds % 2) as usize);
            rebinds += 1;
        }
        if world.now() >= next_ping {
            // As in QUIC: a PING of one side, and its acknowledgement.
            (0..2).for_each(|node| world.send_data(node));
            pings += 1;
            next_ping += QUIC_INTERVAL;
        }
        if let Some(noticed) = noticed {
            assert!(
                exchange(world, PATIENCE, &mut extra),
                "it is lost at {:?}: {:?}",
                world.now(),
                kinds(world)
            );
            seen.resumed.push(world.now() - noticed);
        }
    }
    for (node, (before, counted)) in before.iter().enumerate() {
        let Traffic { udp, tcp } = world.nodes[node].traffic;
        let longer = pings * (QUIC_PACKET_LEN - DATA_LEN);
        let bytes = [
            udp[0] - before.udp[0] + longer - extra,
            udp[1] - before.udp[1] + longer,
            tcp[0] - before.tcp[0],
            tcp[1] - before.tcp[1],
        ];
        seen.rates[node] = bytes.map(|bytes| bytes as f64 / WATCHED.as_secs_f64());
        let counters = world.nodes[node].agent.counters();
        seen.tickets += counters.tickets - counted.tickets;
        seen.checks[0] += counters.checks_sent - counted.checks_sent;
        seen.checks[1] += counters.checks_answered - counted.checks_answered;
    }
    seen.checks[1] = seen.checks[0] - seen.checks[1];
    seen
}

fn check(gates: [GateKind; 2], relay: bool, kind: PathKind) {
    let mut world = world(gates, relay);
    connect(&mut world, kind);
    let seen = watch(&mut world);
    println!("{kind:?}, relay {relay}: {seen:?}");
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
    assert!(seen.pathless < PATIENCE, "{kind:?}: {seen:?}");
    let (soon, most) = match kind {
        PathKind::Direct => (RESUMED_DIRECT, MOST_SENT_DIRECT),
        PathKind::Relayed => (RESUMED_RELAYED, MOST_SENT_RELAYED),
    };
    assert!(seen.resumed.iter().all(|took| *took <= soon), "{kind:?}: {seen:?}");
    let most_sent = seen.rates.iter().map(|[udp, _, tcp, _]| udp + tcp).fold(0.0, f64::max);
    assert!(most_sent < most, "{kind:?}: {seen:?}");
}

#[test]
fn an_idle_pair_lives_on_and_says_little() {
    check([RESTRICTED; 2], false, PathKind::Direct);
    check([RESTRICTED; 2], true, PathKind::Direct);
    check([SYMMETRIC; 2], true, PathKind::Relayed);
}

/// Both nodes know for how long their NATs remember.
fn knows_memory(world: &World) -> bool {
    world.nodes.iter().all(|node| node.behavior.is_some_and(|nat| nat.lifetime_s.is_some()))
}

/// What both nodes have counted together: introductions, and checks that no peer has answered.
fn counted(world: &World) -> [u64; 2] {
    let counters = world.nodes.iter().map(|node| node.agent.counters());
    counters.fold([0; 2], |[tickets, lost], of| {
        [tickets + of.tickets, lost.wrapping_add(of.checks_sent.wrapping_sub(of.checks_answered))]
    })
}

/// One gate rebinds, in each second of the time from one check to the next. A node looks at its mapping shortly before
/// the next check, so that as a rule one introduction is enough (each node counts it), or none by a relay that follows.
#[test]
fn who_was_moved_notices_first() {
    for (gates, kind, usual, most) in [
        ([RESTRICTED; 2], PathKind::Direct, [2, 1], [4, 8]),
        ([SYMMETRIC; 2], PathKind::Relayed, [0, 2], [2, 32]),
    ] {
        let mut seen = Vec::new();
        for second in 0..24 {
            let mut world = world(gates, kind == PathKind::Relayed);
            connect(&mut world, kind);
            // The measurement of a NAT's memory keeps silent and looks in a rhythm of its own.
            assert!(world.run_until(world.now() + MEASURED, knows_memory), "{kind:?}");
            world.run_until(world.now() + Duration::from_secs(30 + second), |_| false);
            let before = counted(&world);
            world.rebind_gate(1);
            world.run_until(world.now() + Duration::from_secs(30), |_| false);
            assert_eq!(kinds(&world), [Some(kind); 2], "{second} s");
            let after = counted(&world);
            seen.push([0, 1].map(|what: usize| after[what].wrapping_sub(before[what])));
        }
        println!("{kind:?}: introductions and unanswered checks: {seen:?}");
        let within =
            |most: [u64; 2]| move |[tickets, lost]: &&[u64; 2]| *tickets <= most[0] && *lost <= most[1];
        assert!(seen.iter().all(|seen| within(most)(&seen)), "{kind:?}: {seen:?}");
        let usually = seen.iter().filter(within(usual)).count();
        assert!(usually >= LEAST_USUAL, "{kind:?}: {usually} of {}: {seen:?}", seen.len());
    }
}

/// Bisected between 15 s and 4 min, to within a quarter; what is longer than that is not told apart.
#[test]
fn what_a_nat_remembers_is_measured() {
    for (memory_s, kind) in [
        (18, RESTRICTED),
        (30, RESTRICTED),
        (30, SYMMETRIC),
        (61, RESTRICTED),
        (120, SYMMETRIC),
        (900, RESTRICTED),
    ] {
        let mut world = world([kind; 2], false);
        (0..2).for_each(|site| world.remember_for(site, Duration::from_secs(memory_s)));
        world.run_until(Duration::from_secs(20), |_| false);
        let before: Vec<Traffic> = world.nodes.iter().map(|node| node.traffic).collect();
        assert!(world.run_until(MEASURED, knows_memory), "{memory_s} s: {:?}", world.nodes[0].behavior);
        for (node, before) in world.nodes.iter().zip(before) {
            let found = node.behavior.and_then(|nat| nat.lifetime_s).map(u64::from).expect("measured");
            let most = memory_s.min(240);
            assert!(found <= most && found * 5 / 4 + 2 >= most, "{found} s instead of {memory_s} s");
            assert!(node.sent[1] < 120, "{memory_s} s: {} datagrams", node.sent[1]);
            println!("{memory_s} s: {found} s after {:?}, {:?} from {before:?}", world.now(), node.traffic);
        }
        assert!(world.violations.is_empty(), "{:?}", world.violations);
    }
}
