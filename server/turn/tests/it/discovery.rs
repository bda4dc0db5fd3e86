//! RFC 5780: NAT behaviour discovery.

use std::net::SocketAddr;

use meetpoint_turn::{Listener, ListenerId, ListenerRole, Output, Payload, attr};

use crate::common::{
    CLIENT, Rig, addr, address, error, kinds, listeners, lone, mapped, plain, raw, request, request_with,
    square, unknown,
};

const NONE: u8 = 0;
const CHANGE_PORT: u8 = 2;
const CHANGE_IP: u8 = 4;
const BOTH: u8 = CHANGE_IP | CHANGE_PORT;

fn change_request(flags: u8) -> Payload {
    request_with(&[(attr::CHANGE_REQUEST, &[0, 0, 0, flags])])
}

fn only_transmit(outputs: Vec<Output>) -> (ListenerId, SocketAddr, Payload) {
    match <[Output; 1]>::try_from(outputs) {
        Ok([Output::Transmit { listener, to, payload }]) => (listener, to, payload),
        other => panic!("one datagram, not {other:?}"),
    }
}

/// Table 1 of section 6.1, for each of the four listeners.
#[test]
fn the_answer_comes_from_where_the_flags_say() {
    let all = square();
    let mut rig = Rig::new(square());
    let mut check = |at: u8, flags: u8, from: u8, other: u8| {
        let outputs = rig.give(ListenerId(at), CLIENT, &change_request(flags));
        let (listener, to, answer) = only_transmit(outputs);
        let tell = |id: u8| Some(all[usize::from(id)].addr);
        assert_eq!((listener, to), (ListenerId(from), addr(CLIENT)), "{at} {flags}");
        assert_eq!(mapped(&answer), Some(addr(CLIENT)));
        assert_eq!(address(&answer, attr::MAPPED_ADDRESS), Some(addr(CLIENT)));
        assert_eq!(address(&answer, attr::RESPONSE_ORIGIN), tell(from));
        assert_eq!(address(&answer, attr::OTHER_ADDRESS), tell(other), "whatever the flags");
    };
    for (at, port, ip, both) in [(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)] {
        check(at, NONE, at, both);
        check(at, CHANGE_PORT, port, both);
        check(at, CHANGE_IP, ip, both);
        check(at, BOTH, both, both);
    }
    assert_eq!(rig.counters().binding.redirected, 12);
}

/// Section 6.1: told even if not asked for, when there are alternates.
#[test]
fn a_plain_answer_tells_the_addresses_if_there_are_any() {
    let answer = Rig::new(square()).ask(CLIENT, &plain()).expect("an answer");
    let all = [attr::XOR_MAPPED_ADDRESS, attr::MAPPED_ADDRESS, attr::RESPONSE_ORIGIN, attr::OTHER_ADDRESS];
    assert_eq!(kinds(&answer), all);
    assert!(!answer.is_heap());

    let answer = Rig::new(lone()).ask(CLIENT, &plain()).expect("an answer");
    assert_eq!(kinds(&answer), [attr::XOR_MAPPED_ADDRESS]);
}

/// Sections 6 and 7.4: without the same two ports on two addresses there is no OTHER-ADDRESS.
/// What exists is served, what does not is an unknown attribute.
#[test]
fn fewer_listeners_serve_what_they_can() {
    use ListenerRole::{AlternateAlt, AlternateMain, PrimaryAlt, PrimaryMain};
    let check = |all: Vec<Listener>, flags: u8, from: Option<u8>| {
        let mut rig = Rig::new(all.clone());
        let outputs = rig.give(ListenerId(0), CLIENT, &change_request(flags));
        let (listener, _, answer) = only_transmit(outputs);
        assert_eq!(raw(&answer, attr::OTHER_ADDRESS), None, "{all:?}");
        match from {
            Some(from) => {
                assert_eq!((listener, error(&answer)), (ListenerId(from), None));
                let origin = all[usize::from(from)].addr;
                let told = address(&answer, attr::RESPONSE_ORIGIN);
                assert_eq!(told, (!origin.ip().is_unspecified()).then_some(origin));
            }
            None => {
                assert_eq!((listener, error(&answer)), (ListenerId(0), Some(420)));
                assert_eq!(unknown(&answer), [attr::CHANGE_REQUEST]);
            }
        }
    };
    check(lone(), NONE, None);
    check(lone(), CHANGE_PORT, None);
    check(lone(), BOTH, None);

    let two_ports = listeners(&[(PrimaryMain, "20.0.0.1:3478"), (PrimaryAlt, "20.0.0.1:3479")]);
    check(two_ports.clone(), NONE, Some(0));
    check(two_ports.clone(), CHANGE_PORT, Some(1));
    check(two_ports, BOTH, None);

    let two_ips = listeners(&[(PrimaryMain, "20.0.0.1:3478"), (AlternateMain, "20.0.0.2:3478")]);
    check(two_ips.clone(), CHANGE_IP, Some(1));
    check(two_ips, BOTH, None);

    // Four sockets, but not the same ports on both addresses.
    let crooked = listeners(&[
        (PrimaryMain, "20.0.0.1:3478"),
        (PrimaryAlt, "20.0.0.1:3479"),
        (AlternateMain, "20.0.0.2:3478"),
        (AlternateAlt, "20.0.0.2:3480"),
    ]);
    check(crooked, BOTH, Some(3));

    let wildcard = listeners(&[(PrimaryMain, "0.0.0.0:3478"), (PrimaryAlt, "0.0.0.0:3479")]);
    check(wildcard, CHANGE_PORT, Some(1));

    // The other family's listeners are no alternates.
    let two_families = listeners(&[
        (PrimaryMain, "20.0.0.1:3478"),
        (PrimaryMain, "[2a00::1]:3478"),
        (PrimaryAlt, "[2a00::1]:3479"),
    ]);
    check(two_families, CHANGE_PORT, None);
}

/// A wildcard is no address that a client could use.
#[test]
fn an_unspecified_address_is_not_told() {
    let all = listeners(&[
        (ListenerRole::PrimaryMain, "0.0.0.0:3478"),
        (ListenerRole::PrimaryAlt, "0.0.0.0:3479"),
        (ListenerRole::AlternateMain, "20.0.0.2:3478"),
        (ListenerRole::AlternateAlt, "20.0.0.2:3479"),
    ]);
    let mut rig = Rig::new(all);
    let mut check = |at: u8, origin: Option<&str>, other: Option<&str>| {
        let (_, _, answer) = only_transmit(rig.give(ListenerId(at), CLIENT, &plain()));
        assert_eq!(address(&answer, attr::RESPONSE_ORIGIN), origin.map(addr));
        assert_eq!(address(&answer, attr::OTHER_ADDRESS), other.map(addr));
    };
    check(0, None, Some("20.0.0.2:3479"));
    check(2, Some("20.0.0.2:3478"), None);
}

/// Section 7.5.
#[test]
fn response_port_redirects_to_the_same_host_only() {
    let check = |value: &[u8], to: Option<&str>| {
        let mut rig = Rig::new(lone());
        let question = request_with(&[(attr::RESPONSE_PORT, value)]);
        let (_, went, answer) = only_transmit(rig.give(ListenerId(0), CLIENT, &question));
        match to {
            Some(to) => {
                assert_eq!((went, error(&answer)), (addr(to), None), "{value:?}");
                assert_eq!(mapped(&answer), Some(addr(CLIENT)), "where it came from");
            }
            None => assert_eq!((went, error(&answer)), (addr(CLIENT), Some(400)), "{value:?}"),
        }
    };
    check(&[0x12, 0x34], Some("20.0.1.1:4660"));
    check(&[0x12, 0x34, 0, 0], Some("20.0.1.1:4660"));
    check(&[0, 0, 0, 0], None);
    check(&[1], None);
    check(&[], None);
    check(&[1, 2, 3, 4, 5], None);
}

/// Sections 6.1 and 10: together they would be a cannon.
#[test]
fn response_port_with_padding_is_refused() {
    let mut rig = Rig::new(square());
    let question = request_with(&[(attr::RESPONSE_PORT, &[1, 1, 0, 0]), (attr::PADDING, &[0; 900])]);
    let (_, to, answer) = only_transmit(rig.give(ListenerId(0), CLIENT, &question));
    assert_eq!((to, error(&answer)), (addr(CLIENT), Some(400)));
}

#[test]
fn a_change_request_of_the_wrong_length_is_refused() {
    for value in [&[0; 0][..], &[0; 3], &[0; 5], &[0; 8]] {
        let mut rig = Rig::new(square());
        let question = request_with(&[(attr::CHANGE_REQUEST, value)]);
        assert_eq!(error(&rig.ask(CLIENT, &question).expect("an answer")), Some(400));
    }
}

/// Section 7.6, but never more bytes back than came in.
#[test]
fn padding_fills_the_answer_up_to_the_question() {
    let check = |padding: usize, fingerprint: bool| {
        let mut rig = Rig::new(square());
        let mut writer = request();
        writer.attribute(attr::PADDING, &vec![0xAA; padding]);
        if fingerprint {
            writer.fingerprint();
        }
        let question = writer.finish();
        let answer = rig.ask(CLIENT, &question).expect("an answer");
        assert_eq!(answer.len(), question.len(), "{padding}");
        assert!(raw(&answer, attr::PADDING).is_some());
        assert_eq!(kinds(&answer).last() == Some(&attr::FINGERPRINT), fingerprint);
    };
    for padding in [48, 51, 100, 1400, 1500, 8972, 60_000, 65_000] {
        check(padding, false);
        check(padding, true);
    }
    // Too little room for the attribute's own header: the answer is what it would be without.
    let mut rig = Rig::new(square());
    let answer = rig.ask(CLIENT, &request_with(&[(attr::PADDING, b"")])).expect("an answer");
    assert_eq!((answer.len(), raw(&answer, attr::PADDING)), (68, None));
}
