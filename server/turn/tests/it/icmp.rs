//! ICMP about relayed datagrams (RFC 8656, sections 11.5, 16 and 18.13).

use std::net::SocketAddr;
use std::time::Duration;

use meetpoint_turn::message::{ALLOCATE, Class, DATA, Message, REFRESH};
use meetpoint_turn::{Input, ListenerId, Output, StreamListener, Transport, attr};

use crate::common::{CLIENT, addr};
use crate::turn::{A, PEER, TurnRig, UDP, V6, relayed, turn, with, xor_address};

const PEER6: &str = "[2a00::7]:7000";
const MTU: [u8; 4] = [0, 0, 5, 0];

/// What the client hears of an ICMP message: the peer and the value of ICMP.
fn tell(turn: &mut TurnRig, at: SocketAddr, peer: &str, kind: u8, code: u8) -> Option<(SocketAddr, Vec<u8>)> {
    let (id, _) = turn.sockets.iter().find(|(_, open)| **open == at).expect("a socket");
    let input = Input::Icmp { at: *id, peer: addr(peer), kind, code, data: MTU };
    turn.rig.server.handle(turn.rig.now, input);
    let outputs = turn.run();
    let [Output::Transmit { listener, to, payload }] = &outputs[..] else {
        assert_eq!(outputs, []);
        return None;
    };
    assert_eq!((*listener, *to), (turn.rig.at, addr(CLIENT)));
    let message = Message::parse(payload).expect("a good message");
    assert_eq!((message.class(), message.method()), (Class::Indication, DATA));
    let kinds: Vec<_> = message.attributes().map(|a| a.kind).collect();
    assert_eq!(kinds, [attr::XOR_PEER_ADDRESS, attr::ICMP], "no DATA (section 11.5)");
    let peer = message.attribute(attr::XOR_PEER_ADDRESS).expect("a peer");
    let icmp = message.attribute(attr::ICMP).expect("ICMP");
    Some((xor_address(peer, &message.transaction_id().0), icmp.to_vec()))
}

/// Both families, and permissions for both peers.
fn allocated(turn: &mut TurnRig) -> [SocketAddr; 2] {
    let client = turn.client("alice", CLIENT);
    let both = A::Raw(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
    let answer = turn.ask(&client, ALLOCATE, &[A::Raw(attr::REQUESTED_TRANSPORT, UDP), both]);
    assert_eq!((turn.permit(&client, PEER), turn.permit(&client, PEER6)), (None, None));
    relayed(&answer).try_into().expect("both")
}

/// Section 11.5 names the types, section 18.13 the form: 7 bits of type, 9 of code, and the next
/// hop's MTU for "packet too big" alone.
#[test]
fn a_client_is_told_why_a_datagram_did_not_arrive() {
    let check = |peer: &str, kind: u8, code: u8, value: Option<[u8; 8]>| {
        let mut turn = turn();
        let [ipv4, ipv6] = allocated(&mut turn);
        let at = if addr(peer).is_ipv4() { ipv4 } else { ipv6 };
        let told = tell(&mut turn, at, peer, kind, code);
        assert_eq!(told, value.map(|value| (addr(peer), value.to_vec())), "{peer} {kind} {code}");
        let counters = turn.rig.counters().relay;
        assert_eq!((counters.icmp, counters.dropped.icmp), (told.is_some().into(), told.is_none().into()));
    };
    check(PEER, 3, 0, Some([0, 0, 6, 0, 0, 0, 0, 0]));
    check(PEER, 3, 1, Some([0, 0, 6, 1, 0, 0, 0, 0]));
    check(PEER, 3, 3, Some([0, 0, 6, 3, 0, 0, 0, 0]));
    check(PEER, 3, 4, Some([0, 0, 6, 4, 0, 0, 5, 0]));
    check(PEER, 3, 255, Some([0, 0, 6, 255, 0, 0, 0, 0]));
    check(PEER, 11, 0, Some([0, 0, 22, 0, 0, 0, 0, 0]));
    check(PEER, 0, 0, None);
    check(PEER, 1, 0, None);
    check(PEER, 2, 0, None);
    check(PEER, 5, 1, None);
    check(PEER, 8, 0, None);
    check(PEER, 12, 0, None);
    check(PEER6, 1, 4, Some([0, 0, 2, 4, 0, 0, 0, 0]));
    check(PEER6, 2, 0, Some([0, 0, 4, 0, 0, 0, 5, 0]));
    check(PEER6, 3, 1, Some([0, 0, 6, 1, 0, 0, 0, 0]));
    check(PEER6, 4, 0, None);
    check(PEER6, 11, 0, None);
    check(PEER6, 128, 0, None);
}

/// Section 11.5: the peer's address needs a permission; its port is not considered, and is zero if
/// the shell does not know it.
#[test]
fn only_peers_with_a_permission_are_told_of() {
    let mut turn = turn();
    let [ipv4, _] = allocated(&mut turn);
    let mut check = |peer: &str, is_told: bool| {
        assert_eq!(tell(&mut turn, ipv4, peer, 3, 1).map(|told| told.0), is_told.then(|| addr(peer)));
    };
    check("30.0.0.1:7000", true);
    check("30.0.0.1:9", true);
    check("30.0.0.1:0", true);
    check("30.0.0.2:7000", false);
    check("20.0.0.9:50001", false);
    turn.rig.pass(Duration::from_secs(300));
    assert_eq!(tell(&mut turn, ipv4, PEER, 3, 1), None, "the permission is over");
    assert_eq!(turn.rig.counters().relay.dropped.no_permission, 2);
}

/// Whoever forges ICMP makes the server send a client no more than a few of these a second.
#[test]
fn icmp_is_passed_on_at_a_bounded_rate() {
    let mut turn = turn();
    let [ipv4, ipv6] = allocated(&mut turn);
    let count = |turn: &mut TurnRig| {
        let tell = |n: u32| match n % 2 {
            0 => tell(turn, ipv4, PEER, 3, 1).is_some(),
            _ => tell(turn, ipv6, PEER6, 1, 0).is_some(),
        };
        (0..100).map(tell).filter(|is_told| *is_told).count()
    };
    assert_eq!(count(&mut turn), 20);
    turn.rig.pass(Duration::from_secs(1));
    assert_eq!(count(&mut turn), 10);
    turn.rig.pass(Duration::from_secs(60));
    assert_eq!(count(&mut turn), 20, "no more than the burst");
    // It costs the client nothing of what it relays.
    assert!(turn.arrive(ipv4, PEER, b"x").is_some());
}

/// A socket that is closed reports nothing.
#[test]
fn icmp_for_an_allocation_that_ended_is_dropped() {
    let mut turn = turn();
    let client = turn.client("alice", CLIENT);
    let at = turn.allocate(&client);
    assert_eq!(turn.permit(&client, PEER), None);
    let (id, _) = turn.sockets.iter().find(|(_, open)| **open == at).expect("a socket");
    let id = *id;
    assert_eq!(turn.code(&client, REFRESH, &[A::Raw(attr::LIFETIME, &[0; 4])]), None);
    let input = Input::Icmp { at: id, peer: addr(PEER), kind: 3, code: 1, data: MTU };
    turn.rig.server.handle(turn.rig.now, input);
    assert_eq!(turn.run(), []);
    assert_eq!(turn.rig.counters().relay.dropped.no_allocation, 1);
}

/// Section 16: a client on a stream is told as well.
#[test]
fn icmp_goes_into_streams() {
    let id = ListenerId(1);
    let mut turn = with(|config| {
        config.streams = vec![StreamListener { id, transport: Transport::Tcp, addr: addr("20.0.0.1:3478") }];
    });
    turn.rig.at = id;
    let [ipv4, _] = allocated(&mut turn);
    assert!(tell(&mut turn, ipv4, PEER, 3, 1).is_some());
}
