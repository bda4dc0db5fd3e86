//! What an introduction says of the peers' NATs: both behaviours, and where ports may be guessed.
#![allow(clippy::unwrap_used, reason = "tests")]

use meetpoint_broker::ConnId;
use meetpoint_proto::wire::{ClientMessage, PortWindow, TicketOutcome};
use meetpoint_proto::{Allocator, EffectiveNetwork, Filtering, Mapping, NatBehavior};

use crate::rig::{Rig, addr};

fn connect() -> ClientMessage {
    ClientMessage::Connect { request: 1, peer: "node-2".into(), wait: false, handshake: None }
}

fn behavior(mapping: Mapping, allocator: Option<Allocator>) -> NatBehavior {
    NatBehavior {
        mapping: Some(mapping),
        filtering: Some(Filtering::AddressAndPortDependent),
        allocator,
        ..NatBehavior::default()
    }
}

fn two_behind_nats() -> (Rig, ConnId, ConnId) {
    let mut rig = Rig::new(EffectiveNetwork::Public);
    let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
    let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
    rig.observe(a, "20.0.0.11:7000");
    rig.observe(b, "20.0.0.12:7000");
    (rig, a, b)
}

/// A node's claim chooses the ports; the address is the one that was observed, and no port is below 1,024.
#[test]
fn a_window_is_on_the_observed_address() {
    use Mapping::{AddressAndPortDependent as Symmetric, EndpointIndependent as Fixed};
    let cases = [
        (Fixed, Some(Allocator::Preserving), None),
        (Fixed, Some(Allocator::Random), None),
        (Symmetric, None, None),
        (Symmetric, Some(Allocator::Preserving), None),
        (Symmetric, Some(Allocator::Random), Some((1_024, 65_535))),
        (Symmetric, Some(Allocator::Block { first: 40_100, last: 41_000 }), Some((39_950, 41_150))),
        (Symmetric, Some(Allocator::Block { first: 0, last: 200 }), Some((1_024, 700))),
        (Symmetric, Some(Allocator::Sequential { delta: 2, newest: 5_000 }), Some((5_002, 7_400))),
        (Symmetric, Some(Allocator::Sequential { delta: 2, newest: 65_500 }), Some((65_502, 65_535))),
        (Symmetric, Some(Allocator::Sequential { delta: 9, newest: 65_530 }), None),
    ];
    for (mapping, allocator, expect) in cases {
        let (mut rig, a, b) = two_behind_nats();
        let (own, peer) = (behavior(Fixed, None), behavior(mapping, allocator));
        rig.say(a, ClientMessage::Behavior { behavior: own });
        rig.say(b, ClientMessage::Behavior { behavior: peer });
        rig.say(a, connect());
        let shown = rig.introductions(a)[0];
        let ip = addr("20.0.0.12:1").ip();
        assert_eq!(shown.window, expect.map(|(first, last)| PortWindow { ip, first, last }), "{allocator:?}");
        assert_eq!((shown.own, shown.peer), (Some(own), Some(peer)));
        let to_peer = rig.introductions(b)[0];
        assert_eq!((to_peer.own, to_peer.peer, to_peer.window), (Some(peer), Some(own), None));
    }
}

/// Nobody waits for a NAT to be known; once it is, a ticket that needed it is followed by one that has it, and by no
/// more.
#[test]
fn a_blind_ticket_is_followed_by_one_that_sees() {
    let symmetric = behavior(Mapping::AddressAndPortDependent, Some(Allocator::Random));
    let fixed = behavior(Mapping::EndpointIndependent, None);
    for (told, is_direct, expect) in [(symmetric, false, 2), (fixed, false, 1), (symmetric, true, 1)] {
        let (mut rig, a, b) = two_behind_nats();
        rig.say(a, connect());
        let ticket = rig.introductions(a)[0].ticket;
        if is_direct {
            let outcome = TicketOutcome::Direct { elapsed_ms: 9 };
            rig.say(a, ClientMessage::TicketResult { ticket, outcome, rtt_us: None });
        }
        rig.say(a, ClientMessage::Behavior { behavior: fixed });
        assert_eq!(rig.introductions(a).len(), 1, "half is known");
        for _ in 0..3 {
            rig.say(b, ClientMessage::Behavior { behavior: told });
        }
        let shown = rig.introductions(a);
        assert_eq!(shown.len(), expect, "{told:?}");
        assert!(shown.iter().skip(1).all(|again| again.requests.is_empty() && again.window.is_some()));
        assert_eq!(rig.introductions(b).len(), expect);
    }
}

/// Two who can be met by a relay are introduced before anybody has seen where they are. When that is known they are
/// introduced once more, unless they have met, or the other one has no such address; and so they are where who has
/// asked turns out to be elsewhere by then.
#[test]
fn who_is_seen_later_is_introduced_once_more() {
    let cases: [(bool, &[&str], &[usize]); 3] = [
        (false, &["20.0.0.11:7000", "20.0.0.11:7001", "[2a00::11]:7000"], &[2, 3, 3]),
        (true, &["20.0.0.11:7000", "20.0.0.11:7001"], &[1, 1]),
        (false, &["[2a00::11]:7000", "20.0.0.11:7000"], &[1, 2]),
    ];
    for (is_direct, seen, expect) in cases {
        let mut rig = Rig::new(EffectiveNetwork::Public);
        let a = rig.join(1, "20.0.0.11:5000", "10.0.1.2");
        let b = rig.join(2, "20.0.0.12:5000", "10.0.2.2");
        rig.observe(b, "20.0.0.12:7000");
        rig.say(
            a,
            ClientMessage::Candidates { host: vec![], relay: vec![addr("20.0.0.1:50000")], mapped: vec![] },
        );
        rig.say(a, connect());
        let ticket = rig.introductions(a)[0].ticket;
        if is_direct {
            let outcome = TicketOutcome::Direct { elapsed_ms: 9 };
            rig.say(b, ClientMessage::TicketResult { ticket, outcome, rtt_us: None });
        }
        for (source, expect) in seen.iter().zip(expect) {
            rig.observe(a, source);
            assert_eq!(rig.introductions(b).len(), *expect, "{seen:?} at {source}");
        }
        let named = &rig.introductions(b).last().unwrap().candidates;
        assert!(is_direct || named.iter().any(|candidate| candidate.addr.is_ipv4()), "{named:?}");
    }
}
