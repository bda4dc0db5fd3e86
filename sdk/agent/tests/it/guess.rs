//! Guessing ports: how much, how fast, where to, and what becomes of the sockets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::rig::{MS, Rig, addr};
use meetpoint_agent::{Input, Leg, Output, Socket};
use meetpoint_proto::wire::{Introduction, PortWindow, Refusal};
use meetpoint_proto::{Allocator, Code, Filtering, Mapping, NatBehavior};

const LIFETIME: Duration = Duration::from_secs(10);
const OBSERVED: &str = "20.0.0.2:4000";

fn behavior(mapping: Mapping, allocator: Option<Allocator>) -> NatBehavior {
    NatBehavior {
        mapping: Some(mapping),
        filtering: Some(Filtering::AddressAndPortDependent),
        allocator,
        ..NatBehavior::default()
    }
}

fn fixed() -> NatBehavior {
    behavior(Mapping::EndpointIndependent, Some(Allocator::Preserving))
}

fn random() -> NatBehavior {
    behavior(Mapping::AddressAndPortDependent, Some(Allocator::Random))
}

fn window(ip: [u8; 4], first: u16, last: u16) -> Option<PortWindow> {
    Some(PortWindow { ip: ip.into(), first, last })
}

/// A node that was shown a peer, which was observed at one place.
fn introduced(own: NatBehavior, peer: NatBehavior, window: Option<PortWindow>) -> Rig {
    let mut rig = Rig::new(1);
    rig.join();
    rig.introduce(introduction(&rig, 1, own, peer, window));
    rig
}

fn introduction(
    rig: &Rig,
    ticket: u8,
    own: NatBehavior,
    peer: NatBehavior,
    window: Option<PortWindow>,
) -> Introduction {
    let (own, peer) = (Some(own), Some(peer));
    Introduction { own, peer, window, ..rig.introduction(ticket, 2, &[OBSERVED]) }
}

fn guesses(rig: &Rig) -> Vec<SocketAddr> {
    let guessed = rig.sent.iter().filter(|(_, to, _)| *to != addr(OBSERVED));
    guessed.map(|(_, to, _)| *to).collect()
}

/// 1,200 different ports, each twice, 667 a second, and none that the ticket does not name.
#[test]
fn guesses_are_capped() {
    let mut rig = introduced(fixed(), random(), window([20, 0, 0, 2], 1_024, 65_535));
    let mut fastest = 0;
    for _ in 0..12 {
        let before = rig.sent.len();
        rig.advance(Duration::from_secs(1));
        fastest = fastest.max(rig.sent.len() - before);
    }
    let guessed = guesses(&rig);
    assert_eq!(guessed.len(), 2_400);
    assert_eq!(guessed.iter().collect::<BTreeSet<_>>().len(), 1_200);
    assert!(guessed.iter().all(|to| to.ip() == addr(OBSERVED).ip() && to.port() >= 1_024));
    assert!(fastest <= 700, "{fastest} in a second");
    assert_eq!(rig.agent.counters().guesses_sent, 2_400);
}

/// What the server says is not enough: an address nobody was observed at, and ports that no NAT gives out.
#[test]
fn a_window_counts_where_the_peer_was_observed() {
    let cases = [
        (window([20, 0, 0, 66], 1_024, 65_535), 0, "somebody else's address"),
        (window([10, 0, 9, 9], 1_024, 65_535), 0, "a private address"),
        (window([20, 0, 0, 2], 1, 1_023), 0, "well-known ports"),
        (window([20, 0, 0, 2], 53, 1_033), 20, "some of them"),
        (window([20, 0, 0, 2], 9, 3), 0, "none at all"),
        (None, 0, "no window"),
    ];
    for (window, expect, what) in cases {
        let mut rig = introduced(fixed(), random(), window);
        rig.advance(LIFETIME + MS);
        assert_eq!(guesses(&rig).len(), expect, "{what}");
    }
}

/// However many tickets there are: one of them guesses.
#[test]
fn one_ticket_guesses_at_a_time() {
    let mut rig = introduced(random(), fixed(), None);
    for ticket in 2..20 {
        rig.introduce(introduction(&rig, ticket, random(), fixed(), None));
    }
    let opened = |log: &[Output]| {
        let count = |output: &Output| match output {
            Output::OpenSockets { count, .. } => usize::from(*count),
            _ => 0,
        };
        log.iter().map(count).sum::<usize>()
    };
    assert_eq!(opened(&rig.take()), 512);
    rig.advance(LIFETIME + MS);
    let log = rig.take();
    assert!(log.iter().any(|output| matches!(output, Output::CloseSockets { keep } if keep.is_empty())));
    rig.introduce(introduction(&rig, 99, random(), fixed(), None));
    assert_eq!(opened(&rig.take()), 512, "the next one may");
}

/// The peer guessed the port of one of the sockets: the path goes by that one, and the others are closed.
#[test]
fn the_socket_that_is_met_stays() {
    let mut a = introduced(random(), fixed(), None);
    let first = a.take().into_iter().find_map(|output| match output {
        Output::OpenSockets { first, count, .. } => {
            assert_eq!(count, 512);
            Some(first)
        }
        _ => None,
    });
    let first = first.expect("sockets are asked for");
    a.input(Input::SocketsOpened { first, count: 512 });
    let winner = Socket::Extra(first + 7);
    let mut b = Rig::new(2);
    b.join();
    b.introduce(b.introduction(1, 1, &["20.0.0.1:61234"]));
    let (_, to, check) = b.sent.remove(0);
    assert_eq!(to, addr("20.0.0.1:61234"));
    a.input(Input::Datagram { socket: winner, source: b.main(), payload: &check });
    // One address is sent a check every 20 ms.
    a.advance(20 * MS);
    for (socket, to, payload) in std::mem::take(&mut a.sent) {
        if socket == winner && to == b.main() {
            b.datagram(addr("20.0.0.1:61234"), &payload);
        }
    }
    for (_, _, payload) in std::mem::take(&mut b.sent) {
        a.input(Input::Datagram { socket: winner, source: b.main(), payload: &payload });
    }
    let log = a.take();
    let by = |output: &Output| match output {
        Output::Path { path: Some(path), .. } => Some(path.way.leg),
        _ => None,
    };
    assert_eq!(log.iter().find_map(by), Some(Leg::Extra(first + 7)), "{log:?}");
    let closed = |output: Output| match output {
        Output::CloseSockets { keep } => Some(keep),
        _ => None,
    };
    a.advance(Duration::from_secs(6));
    assert_eq!(a.take().into_iter().find_map(closed), None, "the peer may go on by another one");
    a.advance(Duration::from_millis(2_400));
    assert_eq!(a.take().into_iter().find_map(closed), Some(vec![first + 7]));
    a.input(Input::Release { peer: b.id() });
    assert_eq!(a.take().into_iter().find_map(closed), Some(vec![]), "nobody is met by it any more");
}

/// Two random NATs: the request ends within a second, and says why.
#[test]
fn what_physics_forbids_is_not_tried_for_long() {
    let mut rig = Rig::new(1);
    rig.join();
    rig.input(Input::Connect { request: 5, peer: "node-2".into(), wait: false });
    let number = rig.messages().into_iter().find_map(|message| match message {
        meetpoint_proto::wire::ClientMessage::Connect { request, .. } => Some(request),
        _ => None,
    });
    let requests = number.into_iter().collect();
    rig.introduce(Introduction { requests, ..introduction(&rig, 1, random(), random(), None) });
    rig.advance(Duration::from_secs(1));
    assert!(rig.sent.len() <= 8, "{}", rig.sent.len());
    let refusal = rig.take().into_iter().find_map(|output| match output {
        Output::ConnectEnded { request: 5, result: Err(refusal) } => Some(refusal),
        _ => None,
    });
    let Refusal { code, detail, .. } = refusal.expect("it has ended");
    assert_eq!(code, Code::NoPath);
    assert!(detail.is_some_and(|detail| detail.contains("random ports")));
}
