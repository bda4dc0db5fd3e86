//! Nodes meet at their relayed addresses only if the broker introduced them.

use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_proto::SessionId;
use meetpoint_turn::message::{ALLOCATE, BINDING};
use meetpoint_turn::{Input, Output, attr, node_session, node_user};

use crate::common::{CLIENT, PRIMARY_MAIN, Rig, lone};
use crate::turn::{A, CHANNEL, Client, TurnRig, UDP, data_indication, turn};

const HOUR: Duration = Duration::from_secs(3600);
const SOURCES: [&str; 2] = ["20.0.1.1:9", "20.0.1.2:9"];

/// The session of node `n`.
fn node(n: u32) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SessionId::from_bytes(bytes)
}

fn user(n: u32) -> String {
    node_user(&node(n))
}

fn introduce(turn: &mut TurnRig, a: u32, b: u32, lifetime: Duration) {
    let until = turn.rig.now + lifetime;
    turn.rig.server.handle(turn.rig.now, Input::Introduced { a: node(a), b: node(b), until });
}

fn part(turn: &mut TurnRig, n: u32) {
    turn.rig.server.handle(turn.rig.now, Input::Parted { node: node(n) });
}

/// Two clients, each with an allocation and a permission for the other's relayed address.
struct Two {
    turn: TurnRig,
    clients: [Client; 2],
    relayed: [SocketAddr; 2],
}

impl Two {
    fn new(users: [&str; 2]) -> Self {
        let mut turn = turn();
        let clients = [0, 1].map(|n| turn.client(users[n], SOURCES[n]));
        let relayed = [0, 1].map(|n| turn.allocate(&clients[n]));
        let mut two = Self { turn, clients, relayed };
        two.permit();
        two
    }

    fn permit(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let peer = self.relayed[to].to_string();
            assert_eq!(self.turn.bind(&self.clients[from], CHANNEL, &peer), None);
        }
    }

    /// Whether they reach each other: both ways and each way of sending alike.
    fn meet(&mut self) -> bool {
        let reached = [(0, 1), (1, 0)].map(|(from, to)| {
            let peer = self.relayed[to].to_string();
            let sent = self.turn.send(&self.clients[from], &peer, b"x").is_some();
            assert_eq!(self.turn.channel(&self.clients[from], CHANNEL, b"x").is_some(), sent);
            sent
        });
        assert_eq!(reached[0], reached[1]);
        reached[0]
    }
}

/// A node meets whom it was introduced to; who is no node meets by permissions, and no node.
#[test]
fn who_meets_whom() {
    let check = |users: [&str; 2], introduced: Option<(u32, u32)>, expected: bool| {
        let mut two = Two::new(users);
        if let Some((a, b)) = introduced {
            introduce(&mut two.turn, a, b, HOUR);
        }
        assert_eq!(two.meet(), expected, "{users:?} {introduced:?}");
        let dropped = two.turn.rig.counters().relay.dropped.not_introduced;
        assert_eq!(dropped, if expected { 0 } else { 4 });
    };
    check(["alice", "bob"], None, true);
    check([&user(1), &user(2)], None, false);
    check([&user(1), &user(2)], Some((1, 2)), true);
    check([&user(1), &user(2)], Some((2, 1)), true);
    check([&user(1), &user(2)], Some((1, 3)), false);
    check([&user(1), "alice"], Some((1, 2)), false);
    check(["alice", &user(2)], Some((1, 2)), false);
    // Two allocations of one node were not introduced either: it needs none to reach itself.
    check([&user(1), &user(1)], Some((1, 1)), false);
    // An operator's user may be called as he likes: what counts is how it begins.
    check([&node(1).to_string(), &node(2).to_string()], None, true);
}

/// An introduction alone lets nobody in: permissions are as always.
#[test]
fn an_introduction_is_no_permission() {
    let mut turn = turn();
    let clients = [1, 2].map(|n| turn.client(&user(n), SOURCES[n as usize - 1]));
    let relayed = [0, 1].map(|n| turn.allocate(&clients[n]));
    introduce(&mut turn, 1, 2, HOUR);
    assert_eq!(turn.permit(&clients[0], &relayed[1].to_string()), None);
    assert_eq!(turn.send(&clients[0], &relayed[1].to_string(), b"x"), None);
    assert_eq!(turn.rig.counters().relay.dropped.no_permission, 1);
    assert_eq!(turn.permit(&clients[1], &relayed[0].to_string()), None);
    let sent = turn.send(&clients[0], &relayed[1].to_string(), b"x");
    assert_eq!(data_indication(sent), Some((relayed[0], b"x".to_vec())));
}

/// To the second, unless it is renewed; the last word counts, even if it says less.
#[test]
fn a_pair_runs_out() {
    let s = Duration::from_secs;
    let mut two = Two::new([&user(1), &user(2)]);
    introduce(&mut two.turn, 1, 2, s(100));
    two.turn.rig.pass(s(99));
    assert!(two.meet());
    introduce(&mut two.turn, 2, 1, s(100));
    two.turn.rig.pass(s(99));
    assert!(two.meet());
    two.turn.rig.pass(s(1));
    assert!(!two.meet());
    introduce(&mut two.turn, 1, 2, s(100));
    introduce(&mut two.turn, 1, 2, s(50));
    two.turn.rig.pass(s(50));
    assert!(!two.meet());
    introduce(&mut two.turn, 1, 2, s(0));
    assert!(!two.meet());
    assert_eq!(two.turn.rig.server.introduced_pairs(), 0);
}

/// With a session go its pairs, and nobody else's.
#[test]
fn a_session_that_ends_parts() {
    let check = |parted: u32, expected: bool| {
        let mut two = Two::new([&user(1), &user(2)]);
        for (a, b) in [(1, 2), (3, 1), (2, 3), (4, 5)] {
            introduce(&mut two.turn, a, b, HOUR);
        }
        part(&mut two.turn, parted);
        assert_eq!(two.meet(), expected, "{parted}");
        let left = [0, 2, 2, 2, 3, 3, 4][parted as usize];
        assert_eq!(two.turn.rig.server.introduced_pairs(), left);
    };
    check(1, false);
    check(2, false);
    check(3, true);
    check(4, true);
    check(5, true);
    check(6, true);
}

/// However many are introduced, memory is bounded; the oldest make room, and what ran out goes first.
#[test]
fn pairs_are_bounded() {
    const MOST: u32 = 1 << 16;
    let mut two = Two::new([&user(1), &user(2)]);
    introduce(&mut two.turn, 1, 2, HOUR);
    let fill = |two: &mut Two, first: u32, count: u32| {
        for n in first..first + count {
            two.turn.rig.pass(Duration::from_nanos(1));
            introduce(&mut two.turn, 2 * n, 2 * n + 1, HOUR);
        }
        two.turn.rig.server.introduced_pairs()
    };
    assert_eq!(fill(&mut two, 10, MOST - 1), MOST as usize);
    assert!(two.meet());
    assert_eq!(fill(&mut two, 1_000_000, 1), MOST as usize);
    assert!(!two.meet(), "the oldest");
    introduce(&mut two.turn, 1, 2, HOUR);
    assert!(two.meet(), "the newest");
    two.turn.rig.pass(HOUR);
    assert_eq!(fill(&mut two, 2_000_000, 1), 1, "all others have run out");
}

/// A user in the nodes' form that names no session is nobody whom a server minted for.
#[test]
fn a_node_without_a_session_is_granted_nothing() {
    let mut turn = turn();
    for user in ["node:", "node:alice", "node:node:", &format!("{}a", user(1))] {
        let client = turn.client(user, CLIENT);
        let transport = A::Raw(attr::REQUESTED_TRANSPORT, UDP);
        assert_eq!(turn.code(&client, ALLOCATE, &[transport]), Some(403), "{user}");
    }
    assert_eq!(turn.rig.server.relay_sizes(), [0; 4]);
}

/// What a Binding proves is told with the username as it was, from which only a node's session can be
/// read.
#[test]
fn a_nodes_binding_tells_its_session() {
    for (user, expected) in [(user(7), Some(node(7))), (node(7).to_string(), None)] {
        let mut turn = turn();
        let client = turn.client(&user, CLIENT);
        let request = turn.request(&client, BINDING, &[]);
        let outputs = turn.rig.give(PRIMARY_MAIN, CLIENT, &request);
        let [_, Output::Observed { username, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(node_session(username), expected);
    }
}

/// A server that does not relay has no use for pairs.
#[test]
fn without_a_relay_no_pairs_are_kept() {
    let mut rig = Rig::new(lone());
    let until = rig.now + HOUR;
    rig.server.handle(rig.now, Input::Introduced { a: node(1), b: node(2), until });
    rig.server.handle(rig.now, Input::Parted { node: node(1) });
    assert_eq!(rig.server.introduced_pairs(), 0);
}
